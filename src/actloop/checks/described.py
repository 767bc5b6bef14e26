"""What a check is, in one line that changes with everything that changes its scores; and what they are measured in."""

import hashlib
import json

import numpy as np
from jaxtyping import Float

from actloop.contracts import Embodiment, Space
from actloop.errors import ContractError, UnknownNameError

GRIPPER = "gripper"  # parts whose names begin so are switched, not moved


def described(kind: str, **parameters: object) -> str:
    """`kind {"parameter": value, ...}`; arrays as sixteen hex digits."""
    plain = {key: digest(value) if isinstance(value, np.ndarray) else value for key, value in parameters.items()}
    return f"{kind} {json.dumps(plain, sort_keys=True)}"


def digest(array: np.ndarray) -> str:
    """Sixteen hex digits over shape, type and values."""
    sha = hashlib.sha256(f"{array.shape} {array.dtype.str}".encode())
    sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()[:16]


def ranges(space: Space) -> Float[np.ndarray, "size"]:
    """How far each component can go: what makes metres and radians comparable where nobody says otherwise."""
    apart: Float[np.ndarray, size] = space.high.astype(np.float64) - space.low
    return apart


def known(embodiment: Embodiment | None, name: str) -> Embodiment:
    """The embodiment that `begin` was told.

    Raises:
        ContractError: no episode was begun.
    """
    if embodiment is None:
        raise ContractError(f"check.{name}", "no episode was begun: call begin(embodiment, instruction, seed=...)")
    return embodiment


def need_camera(embodiment: Embodiment, camera: str, name: str) -> None:
    """Raise `ContractError` where the body has no such camera."""
    cameras = [one.name for one in embodiment.cameras]
    if camera not in cameras:
        raise UnknownNameError(f"check.{name}.camera", camera, cameras)
