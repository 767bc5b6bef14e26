"""Layers that several models share."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """Over the whole attention width, normalised in fp32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x.float(), x.shape[-1:], eps=self.eps).type_as(x) * self.weight


def rope_table(positions: Float[Tensor, "tokens"], dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (tokens, dim / 2), base 10000, computed in fp64."""
    rates = 10000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    angles = positions.double()[:, None] * rates
    return angles.cos().float(), angles.sin().float()


def rotate(x: Float[Tensor, "batch heads tokens dim"], rope: Tensor) -> Tensor:
    """Rotates the pairs (i, i + dim / 2), in real arithmetic.

    Checkpoints that pair neighbours (2i, 2i + 1) hold the same function with the outputs of q and k in another order.
    """
    cos, sin = rope.to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)
