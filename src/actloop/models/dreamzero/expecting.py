"""What a DreamZero expects to see, kept until it is seen: decoded when somebody looks.

prediction --latents, and those before them--> Expected --decode--> Future, Outlook(expected, arrived)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from actloop.contracts import ActionChunk, Future
from actloop.models.codec import Codec
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.watching import SeenFrame
from actloop.models.policy import LazyFrames
from actloop.models.wan.vae import WanCodec


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The future of the last prediction, in latents; `past` is what it follows."""

    tick: int
    latents: Tensor
    past: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the last prediction expected to be seen, and what then was, at the ticks of which both are known."""

    ticks: tuple[int, ...]
    expected: Mapping[str, UInt8[np.ndarray, "time height width 3"]]
    arrived: Mapping[str, UInt8[np.ndarray, "time height width 3"]]


class Expecting:
    """Decodes what was expected of one robot."""

    def __init__(self, codec: Codec, declaration: RobotDeclaration) -> None:
        self.codec, self.declaration = codec, declaration

    def future(self, expected: Expected, chunk: ActionChunk) -> Future:
        """The future that goes with a chunk."""
        body = self.declaration.embodiment
        names = tuple(camera.name for camera in body.cameras)
        return Future(
            frames=LazyFrames(names, lambda: self.declaration.apart(self.decoded(expected))),
            chunk=chunk,
            period=self.declaration.frame_ticks * body.period,
        )

    def outlook(self, expected: Expected, frames: Sequence[SeenFrame]) -> Outlook | None:
        """What was expected beside the frames that arrived since; None before the first of them."""
        step = self.declaration.frame_ticks
        shown = {frame.tick: frame.picture for frame in frames}
        wanted = [expected.tick + step * (index + 1) for index in range(self.declaration.block_frames)]
        known = [index for index, tick in enumerate(wanted) if tick in shown]
        if not known:
            return None
        arrived = np.stack([shown[wanted[index]] for index in known])
        return Outlook(
            ticks=tuple(wanted[index] for index in known),
            expected=self.declaration.apart(self.decoded(expected)[known]),
            arrived=self.declaration.apart(arrived),
        )

    def decoded(self, expected: Expected) -> UInt8[np.ndarray, "frames height width 3"]:
        """The pictures of a block, after those that came before it where the codec is causal."""
        parts = [*expected.past, expected.latents] if isinstance(self.codec, WanCodec) else [expected.latents]
        frames = self.codec.decode(torch.cat([part.to(expected.latents).float() for part in parts], dim=1))
        pictures: np.ndarray = frames[0, -self.declaration.block_frames :].cpu().numpy()
        return pictures
