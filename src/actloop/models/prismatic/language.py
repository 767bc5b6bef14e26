"""A Llama of `transformers`, driven layer by layer: full sequences, and one token at a time on static memory.

    embeddings --layers, causal or seeing both ways--> hidden states                    training, OFT
    embeddings --layers, keys and values kept--> hidden --next token--> ... --> hidden   decoding

Its modules and their names are transformers'; going through the layers here saves a decode step the mask building of
the library, and makes every mask explicit. Nothing asks the device for a number between steps.
"""

from importlib import import_module
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from actloop.errors import MissingDependency
from actloop.models.prismatic.config import LanguageConfig


class Rotary(nn.Module):
    """Cosines and sines of rotary positions, in the order of Llama's halves.

    Unlike the library's it holds no buffer: it outlives the meta device, and a cast of the model leaves it exact.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.head_dim, self.theta = head_dim, theta

    def forward(
        self, x: Tensor, position_ids: Int[Tensor, "batch tokens"]
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch tokens dim"]]:
        steps = torch.arange(0, self.head_dim, 2, dtype=torch.float32, device=position_ids.device)
        frequencies = 1.0 / (self.theta ** (steps / self.head_dim))
        angles = position_ids[..., None].float() * frequencies
        both = torch.cat((angles, angles), dim=-1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)


def llama(config: LanguageConfig) -> nn.Module:
    """A fresh `LlamaForCausalLM`, its attention through torch's scaled dot product.

    Raises:
        MissingDependency: transformers is not installed.
    """
    try:
        library = import_module("transformers")
    except ModuleNotFoundError as error:
        why = "the language half of the model is its Llama"
        raise MissingDependency("package 'transformers'", why, 'pip install "actloop[language]"') from error
    sizes = library.LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.hidden,
        intermediate_size=config.intermediate,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.eps,
        max_position_embeddings=config.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    model = cast(nn.Module, library.LlamaForCausalLM(sizes))
    body = cast(Any, model).model
    body.rotary_emb = Rotary(config.head_dim, config.rope_theta)
    return model


class Memory:
    """Keys and values of every layer, allocated once for `room` positions.

    To the library's attention it is a cache: `update` takes what a layer computed. A prefill attends to its own keys
    alone, so that causality needs no mask; a step attends to all positions, of which a mask shows those written.
    """

    def __init__(self, config: LanguageConfig, batch: int, room: int, like: Tensor) -> None:
        shape = (config.layers, batch, config.kv_heads, room, config.head_dim)
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.at = torch.zeros(1, dtype=torch.long, device=like.device)  # the position of a step
        self.filled = False

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: object) -> tuple[Tensor, Tensor]:
        if not self.filled:
            self.keys[layer_idx][:, :, : keys.shape[2]] = keys
            self.values[layer_idx][:, :, : values.shape[2]] = values
            return keys, values
        self.keys[layer_idx].index_copy_(2, self.at, keys)
        self.values[layer_idx].index_copy_(2, self.at, values)
        return self.keys[layer_idx], self.values[layer_idx]


def run(
    model: nn.Module,
    x: Float[Tensor, "batch tokens dim"],
    positions: Int[Tensor, "batch tokens"],
    sees: Bool[Tensor, "batch 1 tokens keys"] | None,
    memory: Memory | None = None,
) -> Float[Tensor, "batch tokens dim"]:
    """Through all layers and the last norm. Without a mask, attention is causal."""
    body = cast(Any, model).model
    rotation = body.rotary_emb(x, positions)
    for layer in body.layers:
        x = layer(x, attention_mask=sees, position_embeddings=rotation, past_key_values=memory)
    out: Tensor = body.norm(x)
    return out


class Decoding:
    """Answers on their way, one token at a time, each row of a batch after a prompt of its own length.

    Prompts lie to the left of their rows. Tokens that follow are written behind the longest one, at the rotary position
    that their own row has come to; the gap is never attended to. So a row's answer does not depend on its neighbours.

    Attributes:
        hidden: of the last token of each row, (batch, dim).
        steps: tokens fed after the prefill.
    """

    def __init__(
        self,
        model: nn.Module,
        config: LanguageConfig,
        embeds: Float[Tensor, "batch tokens dim"],
        lengths: Int[Tensor, "batch"],
        room: int,
    ) -> None:
        batch, tokens, _ = embeds.shape
        self._model = model
        self._memory = Memory(config, batch, tokens + room, embeds)
        self._columns = torch.arange(tokens + room, device=embeds.device)
        self._positions = lengths[:, None].clone()
        self._seen = self._columns < lengths[:, None]
        positions = self._columns[:tokens].expand(batch, -1)
        everything = run(model, embeds, positions, None, self._memory)
        self._memory.filled = True
        self._memory.at.fill_(tokens)
        self.hidden = everything[torch.arange(batch, device=embeds.device), lengths - 1]
        self.steps = 0

    def feed(self, ids: Int[Tensor, "batch"]) -> None:
        """One more token of every row."""
        embeds = cast(Any, self._model).model.embed_tokens(ids[:, None])
        self._seen = self._seen | (self._columns == self._memory.at)
        hidden = run(self._model, embeds, self._positions, self._seen[:, None, None], self._memory)
        self.hidden = hidden[:, 0]
        self._positions = self._positions + 1
        self._memory.at += 1
        self.steps += 1
