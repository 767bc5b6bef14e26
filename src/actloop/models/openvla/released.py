"""From a released OpenVLA folder to a policy for one robot.

    config.json, *.safetensors, tokenizer --+
    statistics[unnorm_key]                  +-- Setup (robot, pictures, gripper) --> OpenVLAPolicy
    action_head--*.pt, proprio_projector--*.pt (OFT), LoRA folder --+

What a robot is shown and how its gripper counts is in no released file, and wrong choices are mostly silent: so it is
data here, and must be given for any robot that is not listed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from actloop.contracts import Camera, Embodiment, Part, Space
from actloop.errors import CheckpointError, ContractError
from actloop.models.fastwam.releases import libero
from actloop.models.openvla.adapters import load_adapter, merge
from actloop.models.openvla.network import ActingVLM, ActionConfig, Head
from actloop.models.openvla.oft import ACTION_HEAD, PROPRIO_PROJECTOR, find_side_file, load_side_file
from actloop.models.openvla.pictures import Pictures
from actloop.models.openvla.policy import Conventions, OpenVLAPolicy
from actloop.models.openvla.quantised import quantise
from actloop.models.openvla.statistics import DatasetStatistics, choose, read_statistics
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.prismatic.tokens import TextTokens
from actloop.models.prismatic.weights import load_native, load_prismatic, read_json
from actloop.models.stored import PolicyInfo
from actloop.models.views import Mosaic, Panel

SIDE = 224
VICUNA = "v0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A robot as released policies know it.

    Attributes:
        pictures: of OpenVLA, which is shown one camera; `more_pictures` of OFT, where that is shown several.
        horizon: actions that OFT answers at once on this robot.
    """

    embodiment: Embodiment
    pictures: Pictures
    more_pictures: Pictures | None = None
    gripper: str = "as-recorded"
    horizon: int = 1
    bounds: str = "quantile"


def bridge_setup() -> Setup:
    """A WidowX of BridgeData V2 at 5 Hz: one camera over the shoulder, shown whole.

    Its actions are what was achieved in a tick, in the robot's frame; limits are those of the 1 % and 99 % quantiles,
    rounded outwards.
    """
    angles = (-math.pi,) * 3, (math.pi,) * 3
    body = Embodiment(
        name="bridge-widowx",
        cameras=(Camera(name="image_0", height=256, width=256),),
        state=Space(
            parts=(
                Part(name="position", unit="m", low=(-1.0,) * 3, high=(1.0,) * 3),
                Part(name="euler_xyz", unit="rad", low=angles[0], high=angles[1]),
                Part(name="gripper", unit="1", low=(0.0,), high=(1.0,)),
            )
        ),
        action=Space(
            parts=(
                Part(name="position", unit="m", low=(-0.05,) * 3, high=(0.05,) * 3, kind="delta"),
                Part(name="euler_xyz", unit="rad", low=(-0.25,) * 3, high=(0.25,) * 3, kind="delta"),
                Part(name="gripper", unit="1", low=(0.0,), high=(1.0,)),
            )
        ),
        control_hz=5.0,
    )
    return Setup(
        embodiment=body, pictures=Pictures(mosaics=(_whole("image_0", 256),), side=SIDE), gripper="bridge", horizon=5
    )


def libero_setup() -> Setup:
    """LIBERO: robosuite's pictures are upside down; policies were trained with random crops of 0.9."""
    body = libero().embodiment
    one, wrist = (_whole(camera.name, camera.height, turned=True) for camera in body.cameras)
    return Setup(
        embodiment=body,
        pictures=Pictures(mosaics=(one,), side=SIDE, centre_crop=0.9),
        more_pictures=Pictures(mosaics=(one, wrist), side=SIDE, centre_crop=0.9),
        gripper="robosuite",
        horizon=8,
    )


SETUPS = {"bridge": bridge_setup, "libero": libero_setup}


def setup_for(unnorm_key: str) -> Setup:
    """The robot of a dataset, where it is listed.

    Raises:
        ContractError: it is not; an embodiment has to be given.
    """
    for name, setup in SETUPS.items():
        if unnorm_key.startswith(name):
            return setup()
    known = ", ".join(f"{name}_*" for name in SETUPS)
    reason = f"nothing is known of the robot of {unnorm_key!r} (known: {known}); give its embodiment"
    raise ContractError("robot", reason)


def load_openvla(
    path: str | Path,
    *,
    unnorm_key: str | None = None,
    setup: Setup | None = None,
    statistics: str | Path | None = None,
    tokenizer: str | Path | None = None,
    adapter: str | Path | None = None,
    merged: bool = True,
    constrained: bool = True,
    quantised: str = "",
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> OpenVLAPolicy:
    """A released OpenVLA or OpenVLA-OFT as a policy in physical units.

    `path` is a folder in the Hugging Face layout, or a native Prismatic `.pt` (its statistics lie two folders above,
    and `tokenizer`, a folder, must be given). `unnorm_key` names the dataset in whose scale it answers; it may be left
    out where there is one, and tells the robot (`setup`) where that is known. `adapter` is a LoRA folder, which stays
    beside the weights unless it is `merged`. `quantised`: `bf16`, `int8` or `nf4`. `constrained`: see `Conventions`.

    Raises:
        CheckpointError, DataError: a file is missing or damaged, or belongs to another network.
        UnknownNameError: no such `unnorm_key`; the error lists those that there are.
        ContractError: the robot is not known, or network, statistics and robot are not of the same sizes.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such folder or file of weights")
    folder = path if path.is_dir() else path.resolve().parents[1]
    key, known = choose(read_statistics(statistics or folder), unnorm_key, str(statistics or folder))
    robot = setup or setup_for(key)
    vlm = _network(path, tokenizer, dtype)
    if adapter is not None:
        load_adapter(vlm, adapter)
        if merged:
            merge(vlm)
    model = _acting(vlm, folder, robot, known)
    policy = OpenVLAPolicy(
        model=model.to(device),
        embodiment=robot.embodiment,
        statistics=known,
        conventions=Conventions(
            unnorm_key=key,
            template=_template(folder),
            bounds=robot.bounds,
            gripper=robot.gripper,
            constrained=constrained,
        ),
        pictures=_pictures(robot, model),
        info=PolicyInfo(name=path.stem if path.is_file() else path.name, training={"released": True}),
    )
    if quantised:
        quantise(model.vlm, quantised)
        for head in (model.action_head, model.proprio_projector):
            if head is not None:
                head.to(model.vlm.dtype)
    return policy


def _network(path: Path, tokenizer: str | Path | None, dtype: torch.dtype | None) -> PrismaticVLM:
    vlm = load_prismatic(path, dtype=dtype) if path.is_dir() else load_native(path, dtype=dtype)
    if tokenizer is not None:
        vlm.tokens = TextTokens.from_folder(tokenizer)
    if not vlm.reads_text:
        raise CheckpointError(f"{path}: has no tokenizer beside it; give the folder of Llama 2's")
    return vlm


def _acting(vlm: PrismaticVLM, folder: Path, robot: Setup, known: DatasetStatistics) -> ActingVLM:
    """With the heads whose files lie in the folder."""
    files = {name: find_side_file(folder, name) for name in (ACTION_HEAD, PROPRIO_PROJECTOR)}
    head: Head = "l1" if files[ACTION_HEAD] else "tokens"
    if head == "tokens" and files[PROPRIO_PROJECTOR]:
        raise CheckpointError(f"{folder}: has a {PROPRIO_PROJECTOR} and no {ACTION_HEAD} file; is one missing?")
    proprio = robot.embodiment.state.size if files[PROPRIO_PROJECTOR] else 0
    config = ActionConfig(
        action_dim=known.action.size,
        # What pads the embedding to a multiple of 64 comes after the tokenizer's own tokens, and means nothing.
        vocabulary=vlm.config.language.vocabulary - vlm.config.pad_to_multiple_of,
        horizon=robot.horizon if head == "l1" else 1,
        head=head,
        proprio_dim=proprio,
    )
    model = ActingVLM(vlm, config)
    for name, file in files.items():
        module = getattr(model, name)
        if file is not None and module is not None:
            load_side_file(module, file)
            module.to(vlm.dtype)
    return model


def _pictures(robot: Setup, model: ActingVLM) -> Pictures:
    several = model.config.head == "l1" and robot.more_pictures is not None
    return robot.more_pictures if several and robot.more_pictures else robot.pictures


def _template(folder: Path) -> str:
    """That of the first release, whose language model was Vicuna, or the later one."""
    config: Mapping[str, object] = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    vicuna = "vicuna" in str(config.get("llm_backbone_id", "")) or "v01" in folder.name
    return VICUNA if vicuna else "v1"


def _whole(camera: str, side: int, *, turned: bool = False) -> Mosaic:
    panel = Panel(camera=camera, top=0, left=0, height=side, width=side, rotate_180=turned)
    return Mosaic(height=side, width=side, panels=(panel,))
