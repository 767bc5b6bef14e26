"""Which dataset feature is which camera, the state and the action: declared, never guessed from names."""

from collections.abc import Mapping
from dataclasses import dataclass

from actloop.contracts import Embodiment
from actloop.errors import ContractError, UnknownNameError

IMAGE_PREFIX = "observation.images."
EXECUTED = "executed_action"  # what the world did, where the action beside it is what an expert would have sent


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldMap:
    """Names the features of a dataset by what they mean to us: `cameras` maps our camera name to the feature."""

    cameras: Mapping[str, str]
    state: str = "observation.state"
    action: str = "action"

    def __post_init__(self) -> None:
        features = list(self.cameras.values())
        if len(set(features)) != len(features):
            raise ContractError("fields.cameras", f"two cameras name one feature, got {dict(self.cameras)}")

    def check(self, features: Mapping[str, str], path: str) -> None:
        """Every field exists and has a fitting dtype; `features` maps feature name to dtype.

        Raises:
            UnknownNameError: the dataset has no feature of that name.
            ContractError: an image field is not an image, or a vector field is one.
        """
        images = {name for name, dtype in features.items() if dtype in ("video", "image")}
        for camera, feature in self.cameras.items():
            if feature not in features:
                raise UnknownNameError(f"{path}: fields.cameras.{camera}", feature, images)
            if feature not in images:
                raise ContractError(f"{path}: fields.cameras.{camera}", f"{feature!r} is {features[feature]}, no image")
        for field, feature in (("state", self.state), ("action", self.action)):
            if feature not in features:
                raise UnknownNameError(f"{path}: fields.{field}", feature, set(features) - images)
            if feature in images or features[feature] not in ("float32", "float64", "int64", "int32", "bool"):
                raise ContractError(f"{path}: fields.{field}", f"{feature!r} is {features[feature]}, no vector")


def default_fields(embodiment: Embodiment) -> FieldMap:
    """The mapping that our own recordings use: `observation.images.<camera>`, `observation.state`, `action`."""
    return FieldMap(cameras={camera.name: IMAGE_PREFIX + camera.name for camera in embodiment.cameras})
