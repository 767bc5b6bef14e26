"""From noise to a chunk and its video: noise levels of a sampler, its solver, and when it may do without the network.

levels    999/1000 -> 0 in equal steps, shifted; the network is told 1000 x level, cut to whole numbers
solver    UniPC of order 2 (diffusers), or Euler
reuse     steps that take the last velocities again: fixed ones, or where the last two agree
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from actloop.errors import ContractError, MissingDependency
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.flow import TIMESTEPS, shifted

FIRST = 0.999
RELEASED_SEED = 1140

# Steps of 16 that are evaluated, by their number.
STATIC: dict[int, tuple[int, ...]] = {
    8: (0, 1, 2, 6, 10, 13, 14, 15),
    7: (0, 1, 2, 6, 10, 14, 15),
    6: (0, 1, 5, 10, 14, 15),
    5: (0, 1, 2, 7, 12),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reuse:
    """Which steps take the last velocities again instead of asking the network.

    `run`: the steps that ask; empty: all. `similar`: pairs of a cosine similarity and a number of steps, highest
    first; where the last two video velocities are more alike than that, so many steps reuse, then one asks.
    """

    run: tuple[int, ...] = ()
    similar: tuple[tuple[float, int], ...] = ()

    def __post_init__(self) -> None:
        if self.run and (self.similar or self.run[0] != 0 or list(self.run) != sorted(set(self.run))):
            raise ContractError("reuse.run", f"expected rising steps from 0 on, and no similarity; got {self.run}")
        if any(steps < 1 for _, steps in self.similar) or list(self.similar) != sorted(self.similar, reverse=True):
            raise ContractError("reuse.similar", f"expected (similarity, steps), highest first; got {self.similar}")

    @classmethod
    def released(cls, evaluations: int = 8) -> "Reuse":
        """The released choice of steps out of 16; another number than 5 to 8 asks in all of them."""
        return cls(run=STATIC.get(evaluations, ()))

    @classmethod
    def dynamic(cls) -> "Reuse":
        """The released thresholds."""
        return cls(similar=((0.95, 4), (0.93, 2)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerConfig:
    """How a chunk is sampled.

    `guidance`: of the video, away from the negative prompt; 1 asks for no second branch. `video_end`: the noise level
    at which the video stops, 0 for a finished one; the actions always go to 0.
    """

    steps: int = 16
    shift: float = 5.0
    guidance: float = 5.0
    solver: Literal["unipc", "euler"] = "unipc"
    reuse: Reuse = field(default_factory=Reuse)
    video_end: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.shift <= 0:
            raise ContractError("sampler", f"expected steps and a shift above 0, got {self.steps} and {self.shift}")
        if not 0 <= self.video_end < 1:
            raise ContractError("sampler.video_end", f"expected 0 to below 1, got {self.video_end}")
        if self.reuse.run and self.reuse.run[-1] >= self.steps:
            raise ContractError("sampler.reuse", f"step {self.reuse.run[-1]} of {self.steps} (counted from 0)")

    @classmethod
    def released(cls) -> "SamplerConfig":
        """16 steps, of which 8 ask the network."""
        return cls(reuse=Reuse.released())

    @classmethod
    def flash(cls) -> "SamplerConfig":
        """One step, for a network trained with `NoiseSchedule.flash`: actions arrive, video stays an estimate."""
        return cls(steps=1, guidance=1.0, solver="euler")


@dataclass(slots=True, kw_only=True)
class Noise:
    """Starting points."""

    video: Float[Tensor, "batch frames channels height width"]
    action: Float[Tensor, "batch horizon action"]


def levels(steps: int, shift: float, end: float = 0.0) -> Float[Tensor, "levels"]:
    """Noise levels of a sampler, the last one behind its last step; scaled to finish at `end`."""
    base = torch.linspace(FIRST, 0, steps + 1, dtype=torch.float64)
    found = shifted(base, shift)
    return (end + found * (found[0] - end) / found[0]).float()


def timesteps(level: Float[Tensor, "levels"]) -> Float[Tensor, "steps"]:
    """What the network is told at each step."""
    return (level[:-1].double() * TIMESTEPS).floor().float()


def draw_noise(config: DreamZeroConfig, generator: torch.Generator, *, rows: int = 1) -> Noise:
    """Standard normal, in fp32 where the generator lives, so that devices agree."""
    video = (rows, config.block_frames, config.latent_channels, config.latent_height, config.latent_width)
    action = (rows, config.block_actions, config.action_dim)
    draw = [torch.randn(shape, generator=generator, device=generator.device) for shape in (video, action)]
    return Noise(video=draw[0], action=draw[1])


def released_noise(config: DreamZeroConfig, seed: int = RELEASED_SEED) -> Noise:
    """As the released sampler draws it on a CPU in fp32: the same for every chunk, from a generator each."""
    video = (1, config.latent_channels, config.block_frames, config.latent_height, config.latent_width)
    action = (1, config.block_actions, config.action_dim)
    draw = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for shape in (video, action)]
    return Noise(video=draw[0].transpose(1, 2), action=draw[1])


class Solver(Protocol):
    """Takes a sample from one noise level to the next."""

    def step(self, velocity: Tensor, sample: Tensor) -> Tensor: ...


class Euler:
    """A straight step along the velocity."""

    def __init__(self, level: Float[Tensor, "levels"]) -> None:
        self.changes: Iterator[float] = iter(level.diff().tolist())

    def step(self, velocity: Tensor, sample: Tensor) -> Tensor:
        return sample + next(self.changes) * velocity


class UniPC:
    """The library's solver on given noise levels."""

    def __init__(self, level: Float[Tensor, "levels"]) -> None:
        self.solver = _unipc()
        self.solver.set_timesteps(sigmas=level[:-1].double().numpy())
        self.solver.sigmas = level.clone()  # the last one need not be 0
        self.solver.set_begin_index(0)
        self.times = iter(self.solver.timesteps)

    def step(self, velocity: Tensor, sample: Tensor) -> Tensor:
        moved: Tensor = self.solver.step(velocity, next(self.times), sample, return_dict=False)[0]
        return moved


SOLVERS: dict[str, type[Euler] | type[UniPC]] = {"euler": Euler, "unipc": UniPC}


def _unipc() -> Any:
    try:
        from diffusers import UniPCMultistepScheduler
    except ImportError as error:
        mend = 'pip install "actloop[wan]", or sample with solver="euler"'
        raise MissingDependency("diffusers", f"the UniPC solver is its; {error}", mend) from error
    solver: Any = UniPCMultistepScheduler
    return solver(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)


class Reusing:
    """Decides, step by step, whether the network is asked."""

    def __init__(self, reuse: Reuse) -> None:
        self.reuse = reuse
        self.asked: list[Tensor] = []
        self.left, self.forced = 0, False

    def asks(self, step: int) -> bool:
        """Whether this step asks; the first always does."""
        if not self.asked or not self.reuse.similar:
            return not self.reuse.run or step in self.reuse.run
        if self.left:
            self.left -= 1
            self.forced = self.left == 0
            return False
        if self.forced or len(self.asked) < 2:
            self.forced = False
            return True
        before, last = (velocity.flatten(1).float() for velocity in self.asked)
        alike = float(functional.cosine_similarity(before, last, dim=1).mean())
        steps = next((steps for threshold, steps in self.reuse.similar if alike > threshold), 0)
        self.left, self.forced = max(0, steps - 1), steps == 1
        return steps == 0

    def answered(self, video: Tensor) -> None:
        """The video velocity of a step that asked."""
        self.asked = [*self.asked[-1:], video]


def stacked(columns: Sequence[Float[Tensor, "steps"]]) -> Float[Tensor, "steps kinds"]:
    """Timesteps of video and actions side by side; one column where they agree."""
    same = all(torch.equal(column, columns[0]) for column in columns)
    return torch.stack([columns[0]] if same else list(columns), dim=1)
