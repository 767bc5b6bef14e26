"""Vision transformers whose features a language model is shown: those of the last block but one.

    pixels --patches + positions--> [class, registers, patches] --all blocks but the last--> patches

No final norm is applied (Prismatic VLMs, arXiv 2402.07865, section 4.2). The last block, the norm and SigLIP's pooling
are parameters all the same: released files hold them, and are written back whole. Towers of our own kind hold nothing
that is not computed.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from actloop.models.prismatic.config import GROUPS, STEM_STRIDE, PrismaticConfig, TowerConfig
from actloop.models.stem import grid, keypoints

EPS = 1e-6
FRESH_SCALE = 0.1  # of a residual branch, in a DINO-type tower that starts untrained


class LayerScale(nn.Module):
    """Released files call it scale_factor, timm gamma."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale_factor = nn.Parameter(torch.full((dim,), FRESH_SCALE))

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        return x * self.scale_factor


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        q, k, v = rearrange(self.qkv(x), "b t (three h d) -> three b h t d", three=3, h=self.heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(rearrange(mixed, "b h t d -> b t (h d)"))
        return out


class MLP(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        scaled = config.kind == "dino"
        self.norm1 = nn.LayerNorm(config.dim, eps=EPS)
        self.attn = Attention(config.dim, config.heads)
        self.ls1: nn.Module = LayerScale(config.dim) if scaled else nn.Identity()
        self.norm2 = nn.LayerNorm(config.dim, eps=EPS)
        self.mlp = MLP(config.dim, config.hidden)
        self.ls2: nn.Module = LayerScale(config.dim) if scaled else nn.Identity()

    def forward(self, x: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class PatchEmbedding(nn.Module):
    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.dim, config.patch, stride=config.patch)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        patches: Tensor = rearrange(self.proj(pixels), "b d h w -> b (h w) d")
        return patches


class KeypointEmbedding(nn.Module):
    """Early convolutions, which see where things are: patches, and a token for each place that a map is high at."""

    rates = (math.pi, 2 * math.pi, 4 * math.pi)
    sharpness = 4.0

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        wide, side = config.channels, config.patch // STEM_STRIDE
        self.look = nn.Conv2d(5, wide, 5, stride=2, padding=2)
        self.again = nn.Conv2d(wide, wide, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, wide) for _ in range(2))
        self.shrink = nn.Conv2d(wide, 2 * wide, 3, stride=2, padding=1)
        self.proj = nn.Conv2d(2 * wide, config.dim, side, stride=side)
        self.maps = nn.Conv2d(wide, config.keypoints, 1) if config.keypoints else None
        self.points = nn.Linear(wide + 2 + 4 * len(self.rates), config.dim) if config.keypoints else None

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        seen = functional.gelu(self.norms[0](self.look(torch.cat([pixels, grid(pixels)], dim=1))))
        seen = functional.gelu(self.norms[1](self.again(seen)))
        patches: Tensor = rearrange(self.proj(functional.gelu(self.shrink(seen))), "b d h w -> b (h w) d")
        if self.maps is None or self.points is None:
            return patches
        at, share = keypoints(self.sharpness * self.maps(seen))
        waves = [wave(at * rate) for rate in self.rates for wave in (torch.sin, torch.cos)]
        there = torch.einsum("bkp,bcp->bkc", share, seen.flatten(2))
        return torch.cat([patches, self.points(torch.cat([there, 2 * at, *waves], dim=-1))], dim=1)


class AttentionPool(nn.Module):
    """SigLIP's pooling: held, never computed."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.latent = nn.Parameter(torch.empty(1, 1, dim).normal_(std=dim**-0.5))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=EPS)
        self.mlp = MLP(dim, config.hidden)


class Tower(nn.Module):
    """One ViT, its class token and registers put before the patches after these have got their positions."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        if config.kind == "dino":
            self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim).normal_(std=0.02))
            self.reg_token = nn.Parameter(torch.empty(1, config.registers, config.dim).normal_(std=0.02))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches, config.dim).normal_(std=0.02))
        self.patch_embed = KeypointEmbedding(config) if config.kind == "keypoint" else PatchEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        if config.kind != "keypoint":
            self.norm = nn.LayerNorm(config.dim, eps=EPS)
        if config.kind == "siglip":
            self.attn_pool = AttentionPool(config)

    def forward(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        x = self.patch_embed(pixels) + self.pos_embed
        if self.config.kind == "dino":
            before = torch.cat((self.cls_token, self.reg_token), dim=1).expand(len(x), -1, -1)
            x = torch.cat((before, x), dim=1)
        for block in self.blocks[: self.config.computed]:
            x = block(x)
        patches: Tensor = x[:, self.config.prefix :]
        return patches


class VisionBackbone(nn.Module):
    """One tower, or two side by side: the first is shown the first three channels, the second the last three."""

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        self.featurizer = Tower(config.towers[0])
        if len(config.towers) == 2:
            self.fused_featurizer = Tower(config.towers[1])
        self.fused = len(config.towers) == 2

    def forward(self, pixels: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch patches dim"]:
        if not self.fused:
            only: Tensor = self.featurizer(pixels)
            return only
        return torch.cat((self.featurizer(pixels[:, :3]), self.fused_featurizer(pixels[:, 3:])), dim=-1)


class Projector(nn.Module):
    """From vision to words: three layers behind two towers, two behind one; exact GELU between them."""

    def __init__(self, config: PrismaticConfig) -> None:
        super().__init__()
        vision, words = config.vision_dim, config.language.hidden
        self.fused = len(config.towers) == 2
        wide = 4 * vision if self.fused else words
        self.fc1 = nn.Linear(vision, wide)
        self.fc2 = nn.Linear(wide, words)
        if self.fused:
            self.fc3 = nn.Linear(words, words)

    def forward(self, features: Float[Tensor, "batch patches vision"]) -> Float[Tensor, "batch patches words"]:
        x: Tensor = self.fc2(functional.gelu(self.fc1(features)))
        return self.fc3(functional.gelu(x)) if self.fused else x
