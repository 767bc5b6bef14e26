"""DreamZero: causal video-and-action diffusion with a memory of what was observed, and its released weights."""

from actloop.models.dreamzero.config import MEMORIES, DreamZeroConfig
from actloop.models.dreamzero.memory import Memory
from actloop.models.dreamzero.network import DreamZero, NoisyClip, Times, Velocities
from actloop.models.dreamzero.objective import Clip, Draws, NoiseSchedule, draw, first_frame_condition, loss, losses
from actloop.models.dreamzero.sampling import (
    Noise,
    Reuse,
    SamplerConfig,
    draw_noise,
    levels,
    released_noise,
    timesteps,
)
from actloop.models.dreamzero.session import Anchor, Chunk, DreamZeroActor, ReuseError, Session

__all__ = [
    "MEMORIES",
    "Anchor",
    "Chunk",
    "Clip",
    "Draws",
    "DreamZero",
    "DreamZeroActor",
    "DreamZeroConfig",
    "Memory",
    "Noise",
    "NoiseSchedule",
    "NoisyClip",
    "Reuse",
    "ReuseError",
    "SamplerConfig",
    "Session",
    "Times",
    "Velocities",
    "draw",
    "draw_noise",
    "first_frame_condition",
    "levels",
    "loss",
    "losses",
    "released_noise",
    "timesteps",
]
