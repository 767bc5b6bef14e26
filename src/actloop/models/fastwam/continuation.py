r"""A new chunk continues the actions in force (real-time chunking): what a sampler is told, and the arithmetic.

    weight    1  1  1 | .8 .6 .4 .2 | 0  0  0        1: executed before the answer arrives
                    fixed           end of the plan in force, then nothing

    prefix            inpainting: the fixed actions are put on their own noising path in every step
    guided            Black et al., arXiv 2506.07339: every velocity is corrected towards the weighted plan, by the
                      gradient of the predicted chunk
    guided-identity   the same with the identity for the Jacobian: no gradients, works in CUDA graphs
    trained           Black et al., arXiv 2512.05964: the fixed actions are given clean, at noise level 0, to a network
                      that was trained so (`FastWAMConfig.committed_max`)

The first and the last look at the fixed actions alone; the first `fixed` actions of their chunks are the given ones.
Guidance brings them near, and the others nearer the fewer ticks they are away.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from actloop.errors import ContractError

Continuation = Literal["prefix", "guided", "guided-identity", "trained"]
CONTINUATIONS: tuple[Continuation, ...] = get_args(Continuation)

BETA = 5.0  # the paper's bound on the guidance weight


@dataclass(slots=True, kw_only=True)
class Leftover:
    """What is left of the plan in force, normalised; where the weight is 0, `actions` say nothing."""

    actions: Float[Tensor, "batch horizon action"]
    weights: Float[Tensor, "horizon"]
    how: Continuation

    @property
    def guides(self) -> bool:
        return self.how.startswith("guided")

    @property
    def fixed(self) -> Bool[Tensor, "horizon 1"]:
        """Which actions can no longer be changed."""
        return self.weights[:, None] == 1


def leftover(
    actions: Float[Tensor, "batch ticks action"], *, fixed: int, horizon: int, how: Continuation
) -> Leftover | None:
    """What a sampler is told about actions in force, of which `fixed` cannot be changed; None if that is nothing.

    Raises:
        ContractError: nothing is left to decide.
    """
    if fixed >= horizon:
        raise ContractError("committed", f"{fixed} fixed actions leave none of {horizon} to decide")
    guides = how.startswith("guided")
    ticks = min(actions.shape[1], horizon) if guides else fixed
    if not ticks:
        return None
    weights = soft_mask(fixed, ticks, horizon) if guides else (torch.arange(horizon) < fixed).float()
    padded = functional.pad(actions[:, :ticks], (0, 0, 0, horizon - ticks))
    return Leftover(actions=padded, weights=weights.to(actions.device), how=how)


def soft_mask(fixed: int, end: int, horizon: int) -> Float[Tensor, "horizon"]:
    """1 for the `fixed` first actions, then falling to 0 at `end`: `c (e^c - 1) / (e - 1)`,
    `c = (end - i) / (end - fixed + 1)`. The paper's `end` is horizon - execute horizon.
    """
    along = ((end - torch.arange(horizon)) / (end - fixed + 1)).clamp(0, 1)
    falling = along * torch.expm1(along) / (torch.e - 1)
    return torch.where(torch.arange(horizon) < fixed, 1.0, falling)


def guidance(level: Float[Tensor, "steps"], delta: Float[Tensor, "steps"]) -> Float[Tensor, "steps"]:
    r"""How strongly each step of a sampler is guided, at noise level `s` and with the (negative) change `delta` of it.

    The paper's flow time is tau = 1 - s and its velocity points the other way, so that its
    `v' = v + g J^T [(Y - x1) W]` with `x1 = x + (1 - tau) v` reads here

        velocity' = velocity - g J^T [(Y - x0) W],    x0 = x - s velocity,    J = d x0 / d x
        g = min(beta, (1 - tau) / tau / r^2) = min(beta, (s^2 + (1 - s)^2) / (s (1 - s))),
        r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2) = s^2 / (s^2 + (1 - s)^2)

    and g is at most 1 / |delta|, with which one step leads from `x0` to the plan and not past it: a bound that never
    binds on the paper's even grid, but does on a shifted one, whose last step is long.
    """
    exact = (level.square() + (1 - level).square()) / (level * (1 - level))
    return exact.clamp(max=BETA).minimum(1 / delta.abs())
