"""The image tower of Wan2.1-I2V: what the network is shown of the anchor's picture, beside its latents.

    frame uint8 (b, H, W, 3) --squashed to 224 x 224--> transformers.CLIPVisionModel --> tokens (b, 257, 1280)

Open-CLIP's XLM-R ViT-H/14, all of its blocks but the last, without the final norm.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from actloop.errors import CheckpointError, ContractError
from actloop.models.tensors import check_layout, fill
from actloop.models.wan.library import library

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
PLAIN = (  # ours: theirs, beside what holds a layer's number
    ("embeddings.patch_embedding.weight", "patch_embedding.weight"),
    ("pre_layrnorm.weight", "pre_norm.weight"),
    ("pre_layrnorm.bias", "pre_norm.bias"),
    ("post_layernorm.weight", "post_norm.weight"),
    ("post_layernorm.bias", "post_norm.bias"),
)
LAYER = (
    ("layer_norm1", "norm1"),
    ("layer_norm2", "norm2"),
    ("self_attn.out_proj", "attn.proj"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.2"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """Sizes; the defaults are the released ones. `layers` counts the last, unused one; `outputs` are CLIP's own."""

    width: int = 1280
    feed_forward: int = 5120
    heads: int = 16
    layers: int = 32
    patch: int = 14
    side: int = 224
    outputs: int = 1024

    @property
    def tokens(self) -> int:
        return 1 + (self.side // self.patch) ** 2


class ImageTower(nn.Module):
    """A frozen tower."""

    def __init__(self, model: Any, config: TowerConfig) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.config = config

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        source: str | Path,
        config: TowerConfig | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
    ) -> "ImageTower":
        """Out of the released tensors (`visual.*` and `log_scale`); `source` is named in errors.

        Raises:
            CheckpointError: any missing, unexpected or mis-shaped tensor (named).
            MissingDependency: transformers is not installed.
        """
        config = config or TowerConfig()
        check_layout(tower_layout(config), tensors, source)
        with torch.device("meta"):
            model = _build(config)
        core = getattr(model, "vision_model", model)  # where the library keeps the tower apart
        wanted = core.state_dict()
        ours = {name: tensor for name, tensor in _renamed(tensors, config.layers - 1) if name in wanted}
        missing = [name for name in wanted if name not in ours]
        if missing:
            raise CheckpointError(f"{source}: nothing becomes {missing[0]} of this version of transformers")
        fill(core, ours, source, dtype=dtype)
        core.embeddings.position_ids = torch.arange(config.tokens)[None]  # no part of the state, so still on meta
        return cls(core, config)

    @classmethod
    def rebuilt(
        cls, tensors: Mapping[str, Tensor], source: str | Path, config: TowerConfig, *, dtype: torch.dtype
    ) -> "ImageTower":
        """Out of the tensors that `model.state_dict()` gave.

        Raises:
            CheckpointError: any missing, unexpected or mis-shaped tensor.
            MissingDependency: transformers is not installed.
        """
        with torch.device("meta"):
            built = _build(config)
        core = getattr(built, "vision_model", built)
        fill(core, tensors, source, dtype=dtype)
        core.embeddings.position_ids = torch.arange(config.tokens)[None]
        return cls(core, config)

    @classmethod
    def untrained(
        cls, config: TowerConfig, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> "ImageTower":
        """A tower with random weights, for tests and timings."""
        with torch.device(device):
            built = _build(config)
        return cls(getattr(built, "vision_model", built).to(dtype), config)

    @property
    def dtype(self) -> torch.dtype:
        example: Tensor = self.model.embeddings.patch_embedding.weight
        return example.dtype

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch tokens features"]:
        """Tokens of pictures in 0..255, whatever their shape: they are squashed to a square.

        Raises:
            ContractError: not uint8 RGB.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            got = f"{frames.dtype} {tuple(frames.shape)}"
            raise ContractError("tower.frames", f"expected uint8 (batch, height, width, 3), got {got}")
        example = self.model.embeddings.patch_embedding.weight
        pictures = rearrange(frames.to(example.device), "b h w c -> b c h w").float() / 127.5 - 1
        size = (self.config.side, self.config.side)
        pictures = functional.interpolate(pictures, size=size, mode="bicubic", align_corners=False) / 2 + 0.5
        mean, std = (torch.tensor(values, device=example.device)[:, None, None] for values in (MEAN, STD))
        tokens: Tensor = self.model(((pictures - mean) / std).to(example.dtype)).last_hidden_state
        return tokens


def tower_layout(config: TowerConfig | None = None) -> dict[str, tuple[int, ...]]:
    """Released names and shapes."""
    config = config or TowerConfig()
    width, inner = config.width, config.feed_forward
    found: dict[str, tuple[int, ...]] = {
        "log_scale": (),
        "visual.cls_embedding": (1, 1, width),
        "visual.pos_embedding": (1, config.tokens, width),
        "visual.head": (width, config.outputs),
        "visual.patch_embedding.weight": (width, 3, config.patch, config.patch),
    }
    norms = [f"{name}.{part}" for name in ("pre_norm", "post_norm") for part in ("weight", "bias")]
    found |= {f"visual.{name}": (width,) for name in norms}
    sizes = {
        "attn.to_qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.0": (inner, width),
        "mlp.2": (width, inner),
    }
    for layer in range(config.layers):
        prefix = f"visual.transformer.{layer}"
        for name in ("norm1", "norm2"):
            found |= {f"{prefix}.{name}.weight": (width,), f"{prefix}.{name}.bias": (width,)}
        for name, size in sizes.items():
            found |= {f"{prefix}.{name}.weight": size, f"{prefix}.{name}.bias": size[:1]}
    return found


def _renamed(tensors: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """Released tensors as the library has them; queries, keys and values apart."""
    yield "embeddings.class_embedding", tensors["visual.cls_embedding"].flatten()
    yield "embeddings.position_embedding.weight", tensors["visual.pos_embedding"][0]
    for ours, theirs in PLAIN:
        yield ours, tensors[f"visual.{theirs}"]
    for layer in range(layers):
        for part in ("weight", "bias"):
            for ours, theirs in LAYER:
                yield f"encoder.layers.{layer}.{ours}.{part}", tensors[f"visual.transformer.{layer}.{theirs}.{part}"]
            fused = tensors[f"visual.transformer.{layer}.attn.to_qkv.{part}"].chunk(3)
            for name, tensor in zip("qkv", fused, strict=True):
                yield f"encoder.layers.{layer}.self_attn.{name}_proj.{part}", tensor


def _build(config: TowerConfig) -> Any:
    transformers = library("transformers")
    settings = transformers.CLIPVisionConfig(
        hidden_size=config.width,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers - 1,
        num_attention_heads=config.heads,
        image_size=config.side,
        patch_size=config.patch,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
    )
    return transformers.CLIPVisionModel(settings)
