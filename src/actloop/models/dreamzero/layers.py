"""The parts of a DreamZero network: embeddings, one transformer layer, heads. Who sees whom is decided outside.

Names and shapes of the parameters are those of the released weights, which keep Wan's names for what is Wan's.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.layers import KeyValue, RMSNorm, sinusoids

# (query, key, value) of a layer's own tokens, each (batch, tokens, width), to what the tokens take in, alike.
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Modulation(NamedTuple):
    """What the tokens are told about time: `parts` of each of some times, and whose of them each token gets.

    `time_of` is None where one time holds for all tokens.
    """

    parts: Float[Tensor, "batch times parts dim"]
    time_of: Int[Tensor, "tokens"] | None = None

    def plus(self, own: Float[Tensor, "1 parts dim"]) -> list[Float[Tensor, "batch tokens dim"]]:
        """The parts for each token, with a layer's own values added."""
        found = (self.parts + own[:, None]).unbind(2)
        return list(found) if self.time_of is None else [part[:, self.time_of] for part in found]


class Words(NamedTuple):
    """A prompt, as the network takes it: keys and values for every layer and, for a stem, all of it in one vector."""

    layers: list[KeyValue]
    told: Float[Tensor, "batch text"] | None = None

    @property
    def rows(self) -> int:
        return len(self.layers[0][0])


class Context(NamedTuple):
    """Keys and values of what a layer's cross-attention sees: the words and, where there is a tower, the anchor.

    `told`: see `Words`.
    """

    text: KeyValue
    image: KeyValue | None
    told: Float[Tensor, "batch text"] | None = None


class PerBody(nn.Module):
    """A linear map with a leading axis for bodies, which has length 1: weight (1, inputs, outputs), x W + b."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(1, inputs, outputs) * 0.02)
        self.b = nn.Parameter(torch.zeros(1, outputs))

    def forward(self, x: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens outputs"]:
        return x @ self.W[0] + self.b[0]


class ActionEncoder(nn.Module):
    """Noisy actions and their timesteps (0 to 1000) to tokens."""

    def __init__(self, action_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.W1 = PerBody(action_dim, dim)
        self.W2 = PerBody(2 * dim, dim)
        self.W3 = PerBody(dim, dim)

    def forward(self, actions: Tensor, timestep: Float[Tensor, "batch tokens"]) -> Tensor:
        embedded: Tensor = self.W1(actions)
        time = self.sinusoids(timestep).to(embedded.dtype)
        tokens: Tensor = self.W3(functional.silu(self.W2(torch.cat([embedded, time], dim=-1))))
        return tokens

    def sinusoids(self, timestep: Tensor) -> Tensor:
        """Sines, then cosines, in fp32: not the convention of the network's own time embedding."""
        half = self.dim // 2
        steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
        angles = timestep.float()[..., None] * torch.exp(-math.log(10000) * steps / half)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class TwoLayers(nn.Module):
    """State encoder and action decoder: linear, ReLU, linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.layer1 = PerBody(inputs, hidden)
        self.layer2 = PerBody(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer2(functional.relu(self.layer1(x)))
        return out


class ImageEmbedding(nn.Module):
    """Tokens of the image tower to the width of the network."""

    def __init__(self, image_dim: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, image_dim),
            nn.GELU(),
            nn.Linear(image_dim, dim),
            nn.LayerNorm(dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.proj(tokens)
        return out


class SelfAttention(nn.Module):
    """Projections of a layer's own tokens."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(dim, eps), RMSNorm(dim, eps)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        out: Tensor = self.o(attend(self.norm_q(self.q(x)), self.norm_k(self.k(x)), self.v(x)))
        return out


class CrossAttention(SelfAttention):
    """Attention to the words and, apart from it, to the anchor's picture; both are added."""

    def __init__(self, dim: int, heads: int, eps: float, *, image: bool) -> None:
        super().__init__(dim, eps)
        self.heads = heads
        if image:
            self.k_img, self.v_img = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.norm_k_img = RMSNorm(dim, eps)

    def words(self, text: Tensor) -> KeyValue:
        """Keys and values of an embedded prompt: the same in every step."""
        return split(self.norm_k(self.k(text)), self.heads), split(self.v(text), self.heads)

    def picture(self, image: Tensor) -> KeyValue:
        """Keys and values of the anchor's embedded picture."""
        return split(self.norm_k_img(self.k_img(image)), self.heads), split(self.v_img(image), self.heads)

    def look(self, x: Tensor, context: Context) -> Tensor:
        """What the tokens take in of a context."""
        query = split(self.norm_q(self.q(x)), self.heads)
        seen = mixed(query, context.text)
        if context.image is not None:
            seen = seen + mixed(query, context.image)
        out: Tensor = self.o(seen)
        return out


class Block(nn.Module):
    """Modulated self-attention, cross-attention, modulated MLP, each added to what it was given.

    `modulation`: shift, scale and gate of the attention, then of the MLP.
    """

    def __init__(self, config: DreamZeroConfig) -> None:
        super().__init__()
        dim, eps = config.dim, config.eps
        self.eps = eps
        self.modulation = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        self.modulation.data[:, (2, 5)] += config.gates
        self.norm3 = nn.LayerNorm(dim, eps)
        self.self_attn = SelfAttention(dim, eps)
        self.cross_attn = CrossAttention(dim, config.heads, eps, image=config.image_tokens > 0)
        self.ffn = nn.Sequential(nn.Linear(dim, config.ffn), nn.GELU(approximate="tanh"), nn.Linear(config.ffn, dim))

    def forward(self, x: Tensor, modulation: Modulation, context: Context, attend: Attend) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.plus(self.modulation)
        x = x + self.self_attn(modulated(x, shift1, scale1, self.eps), attend) * gate1
        x = x + self.cross_attn.look(self.norm3(x), context)
        out: Tensor = x + self.ffn(modulated(x, shift2, scale2, self.eps)) * gate2
        return out


class Head(nn.Module):
    """Video tokens to patches; modulated by the time embedding itself."""

    def __init__(self, dim: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)
        self.head = nn.Linear(dim, outputs)

    def forward(self, x: Tensor, time: Modulation) -> Tensor:
        shift, scale = time.plus(self.modulation)
        out: Tensor = self.head(modulated(x, shift, scale, self.eps))
        return out


class TimeEmbedding(nn.Sequential):
    """Timesteps 0 to 1000 to vectors; cosines before sines, in fp64."""

    def __init__(self, freq_dim: int, dim: int) -> None:
        super().__init__(nn.Linear(freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.freq_dim = freq_dim

    def forward(self, timestep: Float[Tensor, "batch times"]) -> Float[Tensor, "batch times dim"]:
        waves = torch.unflatten(sinusoids(timestep.flatten(), self.freq_dim), 0, timestep.shape)
        hidden: Tensor = waves.to(next(self.parameters()).dtype)
        for layer in self:
            hidden = layer(hidden)
        return hidden


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalised without weights of its own, scaled, shifted."""
    return torch.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


def split(x: Float[Tensor, "batch tokens width"], heads: int) -> Float[Tensor, "batch heads tokens dim"]:
    return rearrange(x, "b t (h d) -> b h t d", h=heads)


def mixed(query: Tensor, seen: KeyValue, mask: Tensor | None = None) -> Float[Tensor, "batch tokens width"]:
    """What queries (batch, heads, tokens, dim) take in of keys and values."""
    out = functional.scaled_dot_product_attention(query, *seen, attn_mask=mask)
    return rearrange(out, "b h t d -> b t (h d)")
