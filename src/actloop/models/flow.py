"""Rectified flow: times, noising and the Euler grid that every action model here shares.

Flow time `t` runs from 0 (noise) to 1 (data):  x_t = t * data + (1 - t) * noise,  velocity = data - noise.
Papers that count the noise level down (sigma = 1 - t) are converted at this edge.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_TRAIN_STEPS = 1000


def shifted(noise_level: Tensor, shift: float) -> Tensor:
    """Timestep shift of SD3 / Wan: `s u / (1 + (s - 1) u)`; s > 1 spends more time near noise."""
    return shift * noise_level / (1 + (shift - 1) * noise_level)


def sample_times(batch: int, shift: float, generator: torch.Generator, device: torch.device) -> Float[Tensor, "batch"]:
    """Flow times for training: a uniform noise level, shifted."""
    uniform = torch.rand(batch, generator=generator, device=device)
    return 1 - shifted(uniform, shift)


def noised(data: Tensor, noise: Tensor, t: Float[Tensor, "batch"]) -> Tensor:
    """`x_t` for one time per sample."""
    t = t.reshape(-1, *[1] * (data.ndim - 1))
    return t * data + (1 - t) * noise


def bell_weight(t: Float[Tensor, "batch"], shift: float) -> Float[Tensor, "batch"]:
    """Loss weight of the released Fast-WAM: a Gaussian of the noise level, zero at both ends, mean 1 on its grid."""

    def bell(noise_level: Tensor) -> Tensor:
        return torch.exp(-2 * (noise_level - 0.5) ** 2)

    grid = shifted(torch.linspace(1, 1 / _TRAIN_STEPS, _TRAIN_STEPS, device=t.device), shift)
    floor = bell(grid).min()
    return (bell(1 - t) - floor) / ((bell(grid) - floor).mean() + 1e-10)


def euler_times(steps: int, shift: float) -> Float[Tensor, "steps+1"]:
    """The grid 0 = t_0 < ... < t_steps = 1 on which a sampler integrates the velocity."""
    return 1 - shifted(torch.linspace(1, 0, steps + 1), shift)
