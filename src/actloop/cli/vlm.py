"""The work behind `actloop ask`, and the questions that `actloop train tabletop-vlm` learns from."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from actloop.contracts import Frame
from actloop.errors import DataError
from actloop.models.vlm import open_vlm
from actloop.simulation.registry import make_world
from actloop.training.questions import MANIFEST, QuestionStore, record_questions

QUESTIONED_FRAMES = 16_000  # that are recorded where there are none


def ask(model: str | Path, images: Sequence[str | Path], question: str, *, max_tokens: int = 48) -> str:
    """One answer of a model file, or of a Hugging Face model's folder, about pictures in the order of cameras' names.

    Raises:
        CheckpointError: there is no such model.
        DataError: a picture cannot be read.
        ContractError: another number of pictures than the model was trained with.
    """
    vlm = open_vlm(model)
    return vlm.generate([picture(path) for path in images], question, max_tokens=max_tokens, seed=0)


def picture(path: str | Path) -> Frame:
    """A picture file as RGB.

    Raises:
        DataError: missing, or no picture.
    """
    pillow = import_module("PIL.Image")
    try:
        with pillow.open(path) as opened:
            frame: Frame = np.asarray(opened.convert("RGB"))
            return frame
    except OSError as error:  # Pillow's own error for what is no picture is one of these
        raise DataError(f"{path}: not a picture that can be read ({error})") from error


def stored(data: str | Path, *, world: str, frames: int, seed: int) -> QuestionStore:
    """The questions of a folder, recorded where there are none."""
    if (Path(data) / MANIFEST).exists():
        return QuestionStore(data)
    opened = make_world(world)
    try:
        return record_questions(opened, data, frames=frames, seed=seed)
    finally:
        opened.close()
