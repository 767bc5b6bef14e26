"""The two transformers of the mixture: their blocks, embeddings and heads. Who attends to whom is decided outside."""

from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from actloop.models.fastwam.config import ExpertConfig, FastWAMConfig
from actloop.models.layers import KeyValue, RMSNorm, normalised, rotate, sinusoids

Linear = tuple[Tensor, Tensor] | nn.Module  # (weight, bias), or a module that is more than that


class Attention(nn.Module):
    """The projections of one attention."""

    def __init__(self, hidden: int, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(hidden, width)
        self.k = nn.Linear(hidden, width)
        self.v = nn.Linear(hidden, width)
        self.o = nn.Linear(width, hidden)
        self.norm_q = RMSNorm(width, eps)
        self.norm_k = RMSNorm(width, eps)

    def key_value(self, x: Tensor) -> KeyValue:
        """Of a context, whose tokens have no place."""
        return heads_first(self.norm_k(self.k(x)), self.heads), heads_first(self.v(x), self.heads)


class Block(nn.Module):
    """The parameters of one layer: modulated self-attention (shared across experts), cross-attention to the context,
    modulated MLP. What they do is in `Layer`.

    `modulation` holds shift, scale and gate of the attention, then of the MLP.
    """

    def __init__(self, hidden: int, ffn: int, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 6, hidden))
        self.modulation.data[:, (2, 5)] = 1.0  # gates open: a fresh block is an ordinary pre-norm block
        self.norm1 = nn.LayerNorm(hidden, eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(hidden, eps, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(hidden, eps)
        self.self_attn = Attention(hidden, width, heads, eps)
        self.cross_attn = Attention(hidden, width, heads, eps)
        self.ffn = nn.Sequential(nn.Linear(hidden, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, hidden))

    def layer(self) -> "Layer":
        """This layer, ready to run; made anew where parameters may have changed."""
        own, cross = self.self_attn, self.cross_attn
        return Layer(
            heads=own.heads,
            eps=self.norm3.eps,
            q=opened(own.q),
            k=opened(own.k),
            v=opened(own.v),
            o=opened(own.o),
            norms=torch.stack((own.norm_q.weight, own.norm_k.weight))[:, None, None],
            cross_norm=(self.norm3.weight, self.norm3.bias),
            cross_q=opened(cross.q),
            cross_o=opened(cross.o),
            cross_q_norm=cross.norm_q.weight,
            up=opened(self.ffn[0]),
            down=opened(self.ffn[2]),
        )


class Modulation(NamedTuple):
    """What one layer is told about time: (hidden) if that is the same for all tokens of all samples, else what
    broadcasts to (batch, tokens, hidden)."""

    shift1: Tensor
    scale1: Tensor
    gate1: Tensor
    shift2: Tensor
    scale2: Tensor
    gate2: Tensor


class Layer(NamedTuple):
    """One layer, its weights taken out of the modules: in a sampler's steps, finding and calling those costs as much
    as the arithmetic of a small network.

    It runs in two halves, between which the experts exchange keys and values: `project` and `update`.
    """

    heads: int
    eps: float
    q: Linear
    k: Linear
    v: Linear
    o: Linear
    norms: Tensor
    cross_norm: tuple[Tensor, Tensor]
    cross_q: Linear
    cross_o: Linear
    cross_q_norm: Tensor
    up: Linear
    down: Linear

    def project(
        self, x: Tensor, modulation: Modulation, turns: Tensor, *, asks: bool = True
    ) -> tuple[Tensor | None, KeyValue]:
        """Queries of the tokens, if it `asks`, and the keys and values that others may see."""
        normed = modulated(x, modulation.shift1, modulation.scale1, self.eps)
        value = heads_first(linear(normed, self.v), self.heads)
        if not asks:
            key = normalised(linear(normed, self.k), self.eps) * self.norms[1]
            return None, (rotate(key, turns).transpose(1, 2), value)
        both = torch.stack((linear(normed, self.q), linear(normed, self.k)))  # what follows treats them alike
        query, key = rotate(normalised(both, self.eps) * self.norms, turns).transpose(2, 3).unbind()
        return query, (key, value)

    def update(
        self,
        x: Tensor,
        query: Tensor,
        modulation: Modulation,
        seen: KeyValue,
        context: KeyValue,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """The tokens after this layer."""
        x = torch.addcmul(x, modulation.gate1, linear(attention(query, seen, mask), self.o))
        asked = linear(torch.layer_norm(x, x.shape[-1:], *self.cross_norm, self.eps), self.cross_q)
        query = heads_first(normalised(asked, self.eps) * self.cross_q_norm, self.heads)
        x = x + linear(attention(query, context, context_mask), self.cross_o)
        normed = modulated(x, modulation.shift2, modulation.scale2, self.eps)
        hidden = functional.gelu(linear(normed, self.up), approximate="tanh")
        return torch.addcmul(x, modulation.gate2, linear(hidden, self.down))


def detached(layer: Layer) -> Layer:
    """The same without gradients of its own weights; modules in it keep theirs."""

    def without(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.detach()
        return tuple(each.detach() for each in part) if isinstance(part, tuple) else part

    return Layer(*(without(part) for part in layer))


def opened(module: nn.Module) -> Linear:
    """Weight and bias of an ordinary linear layer; adapters, quantised layers and hooks need their module's call."""
    hooks = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    return (module.weight, module.bias) if type(module) is nn.Linear and not hooks else module


def linear(x: Tensor, by: Linear) -> Tensor:
    return functional.linear(x, *by) if isinstance(by, tuple) else by(x)


def attention(query: Tensor, seen: KeyValue, mask: Tensor | None) -> Float[Tensor, "batch tokens width"]:
    mixed = functional.scaled_dot_product_attention(query, *seen, attn_mask=mask)
    return mixed.transpose(1, 2).flatten(2)


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalised tokens, scaled and shifted: what a layer norm does by itself if that is the same for all samples."""
    if shift.ndim == 1:
        return torch.layer_norm(x, x.shape[-1:], scale, shift, eps)
    return torch.addcmul(shift, torch.layer_norm(x, x.shape[-1:], eps=eps), scale)


def heads_first(x: Float[Tensor, "batch tokens width"], heads: int) -> Float[Tensor, "batch heads tokens dim"]:
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


class Expert(nn.Module):
    """One transformer: embeddings of time and context, and its blocks."""

    def __init__(self, config: FastWAMConfig, sizes: ExpertConfig) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.freq_dim = config.freq_dim
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, hidden)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))
        nn.init.normal_(self.time_projection[1].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(self.time_projection[1].bias)  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(
            Block(hidden, sizes.ffn, config.width, config.heads, config.eps) for _ in range(config.layers)
        )

    def block(self, layer: int) -> Block:
        found = self.blocks[layer]
        assert isinstance(found, Block)
        return found

    def layers(self) -> list[Layer]:
        """Its layers with the parameters as they are now."""
        return [self.block(layer).layer() for layer in range(len(self.blocks))]

    def time(self, timestep: Float[Tensor, "batch"]) -> Float[Tensor, "batch hidden"]:
        """Embedding of timesteps in 0..1000."""
        embedding: Tensor = self.time_embedding(sinusoids(timestep, self.freq_dim))
        return embedding

    def modulation(self, time: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch layers 6 hidden"]:
        """Shifts, scales (1 where nothing is scaled) and gates of every layer; several timesteps of a sampler fit in
        one batch."""
        own = torch.cat([self.block(layer).modulation for layer in range(len(self.blocks))])
        found: Tensor = own + self.time_projection(time).unflatten(1, (1, 6, -1))
        found[:, :, 1::3] += 1  # second and fifth of the six
        return found

    def context(self, context: Float[Tensor, "batch tokens text"]) -> list[KeyValue]:
        """Cross-attention keys and values of every layer; they depend on nothing but their own token."""
        return self.keys_and_values(self.text_embedding(context))

    def keys_and_values(self, hidden: Float[Tensor, "batch tokens hidden"]) -> list[KeyValue]:
        return [self.block(layer).cross_attn.key_value(hidden) for layer in range(len(self.blocks))]


class VideoHead(nn.Module):
    """Modulated output projection of a frame's tokens; modulation is (shift, scale) of the time embedding itself."""

    def __init__(self, hidden: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps, elementwise_affine=False)
        self.modulation = nn.Parameter(torch.zeros(1, 2, hidden))
        self.head = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, time: Float[Tensor, "batch hidden"]) -> Tensor:
        shift, scale = (self.modulation + time[:, None]).chunk(2, dim=1)
        out: Tensor = self.head(torch.addcmul(shift, self.norm(tokens), 1 + scale))
        return out


class VideoExpert(Expert):
    """Latent frames in 2 x 2 patches; the head is modulated per frame."""

    def __init__(self, config: FastWAMConfig, *, sees_actions: bool = False) -> None:
        super().__init__(config, config.video)
        hidden = config.video.hidden
        self.hidden = hidden
        self.patch_embedding = nn.Conv3d(config.latent_channels, hidden, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.head = VideoHead(hidden, config.patch_dim, config.eps)
        if sees_actions:
            self.action_embedding = nn.Linear(config.action_dim, hidden)

    def embed(self, latents: Float[Tensor, "batch time channels height width"]) -> Tensor:
        """Patch tokens (batch, time * rows * columns, hidden). A stride-sized convolution is a matrix product."""
        patches = rearrange(latents, "b t c (h p) (w q) -> b (t h w) (c p q)", p=2, q=2)
        tokens: Tensor = functional.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        return tokens

    def unembed(self, tokens: Tensor, time: Tensor, rows: int, columns: int) -> Tensor:
        """Latents out of tokens; the head's outputs are ordered (row in patch, column in patch, channel)."""
        patches: Tensor = self.head(tokens, time)
        return rearrange(patches, "b (t h w) (p q c) -> b t c (h p) (w q)", h=rows, w=columns, p=2, q=2)

    def action_context(self, actions: Float[Tensor, "batch horizon action"]) -> list[KeyValue]:
        """Keys and values of a chunk whose consequences are asked for (`video_sees_actions`)."""
        steps = torch.arange(actions.shape[1], device=actions.device, dtype=actions.dtype)
        return self.keys_and_values(self.action_embedding(actions) + sinusoids(steps, self.hidden))


class ActionExpert(Expert):
    """One token per action; a plain linear head."""

    def __init__(self, config: FastWAMConfig) -> None:
        super().__init__(config, config.action)
        self.action_encoder = nn.Linear(config.action_dim, config.action.hidden)
        self.head = nn.Linear(config.action.hidden, config.action_dim)
