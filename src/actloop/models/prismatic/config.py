"""Sizes of a Prismatic vision-language model, and how they follow from a released folder.

    config.json, shapes of the tensors --from_hf--> PrismaticConfig --as_dict--> JSON --from_dict--> the same

Head counts are in no shape. Those of a ViT come from a folder that we wrote, else from its width where that is one of
the released towers', else the tower has four (the tiny reference models do).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from actloop.errors import CheckpointError, ContractError, UnknownNameError

Kind = Literal["dino", "siglip", "keypoint"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Resize = Literal["resize-naive", "resize-crop", "letterbox"]
RESIZES: tuple[Resize, ...] = ("resize-naive", "resize-crop", "letterbox")
Colour = tuple[float, float, float]

# ImageNet's statistics as released checkpoints hold them: rounded to bfloat16 when they were exported.
DINO_MEAN, DINO_STD = (0.484375, 0.455078125, 0.40625), (0.228515625, 0.2236328125, 0.224609375)
HALF = (0.5, 0.5, 0.5)
PREFIXES = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
DINO_ID, SIGLIP_ID = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1536: 24}  # of timm's towers, by width: small to giant, So400m
TINY_HEADS = 4
GROUPS, STEM_STRIDE = 4, 4  # of a keypoint tower: groups of its norms; pixels of a cell behind its convolutions
DEFAULTS = {"heads": 32, "eps": 1e-6, "rope_theta": 10_000.0, "max_positions": 2048}  # of transformers' LlamaConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """One vision transformer. `depth` counts the last block, which the released kinds hold and do not compute.

    Attributes:
        kind: `dino` has a class token, registers and layer scale; `siglip` has none of them, and an unused pooling.
            `keypoint` is ours, for small models: early convolutions of `channels` (Xiao et al. 2021) in place of the
            patch embedding, and after the patches a token for each of `keypoints` (spatial soft-argmax, Levine et al.
            2016). All its blocks are computed.
        hidden: width of the MLP of a block.
        mean, std: of the colours from 0 to 1 that the tower is shown.
        timm_id: how released configurations call it.
    """

    kind: Kind
    image_size: int
    patch: int
    dim: int
    depth: int
    heads: int
    hidden: int
    registers: int = 0
    channels: int = 0
    keypoints: int = 0
    mean: Colour = HALF
    std: Colour = HALF
    timm_id: str = ""

    def __post_init__(self) -> None:
        path = f"tower {self.timm_id or self.kind}"
        if self.kind not in KINDS:
            raise UnknownNameError("tower kind", self.kind, KINDS)
        if min(self.image_size, self.patch, self.dim, self.heads, self.hidden) < 1 or self.computed < 1:
            reason = "expected sizes and computed blocks from 1 on; of released kinds the last block is not computed"
            raise ContractError(path, reason)
        if (self.kind == "keypoint") != (self.channels > 0) or (self.keypoints and self.kind != "keypoint"):
            raise ContractError(
                path, f"channels and keypoints are of kind 'keypoint', which needs channels; got {self}"
            )
        if self.channels and (self.channels % GROUPS or self.patch % STEM_STRIDE):
            reason = f"expected channels in {GROUPS} groups and a patch of several {STEM_STRIDE} px, got {self}"
            raise ContractError(path, reason)
        if self.image_size % self.patch or self.dim % self.heads:
            reason = f"{self.image_size} px in patches of {self.patch}, {self.dim} channels in {self.heads} heads"
            raise ContractError(path, f"{reason}: one does not divide the other")

    @property
    def patches(self) -> int:
        """Tokens that come out: of the patches, then of the keypoints."""
        return (self.image_size // self.patch) ** 2 + self.keypoints

    @property
    def computed(self) -> int:
        """Blocks that features go through."""
        return self.depth - (self.kind != "keypoint")

    @property
    def prefix(self) -> int:
        """Tokens before the patches: the class token and the registers."""
        return 1 + self.registers if self.kind == "dino" else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageConfig:
    """A Llama. `vocabulary` counts rows of the embedding, padding ones included."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    eps: float = 1e-6
    rope_theta: float = 10_000.0
    max_positions: int = 2048

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.hidden, self.intermediate, self.layers, self.kv_heads, self.head_dim) < 1:
            raise ContractError("language", "expected sizes from 1 on")
        if self.heads % self.kv_heads or self.head_dim % 2:
            reason = f"{self.heads} heads on {self.kv_heads} key-value heads of {self.head_dim}"
            raise ContractError("language", f"{reason}; expected a multiple, and an even head")


@dataclass(frozen=True, slots=True, kw_only=True)
class PrismaticConfig:
    """One or two towers, whose channels are concatenated; a projector (3 layers behind two towers, 2 behind one)."""

    towers: tuple[TowerConfig, ...]
    language: LanguageConfig
    resize: Resize = "resize-naive"
    pad_to_multiple_of: int = 64

    def __post_init__(self) -> None:
        if len(self.towers) not in (1, 2):
            raise ContractError("towers", f"expected one or two, got {len(self.towers)}")
        if len({tower.patches for tower in self.towers}) > 1:
            counts = " and ".join(str(tower.patches) for tower in self.towers)
            raise ContractError("towers", f"expected the same number of patches, got {counts}")
        if self.resize not in RESIZES:
            raise UnknownNameError("resize", self.resize, RESIZES)

    @property
    def patches(self) -> int:
        """Positions that one image takes."""
        return self.towers[0].patches

    @property
    def channels(self) -> int:
        """Of a pixel tensor: three for each tower."""
        return 3 * len(self.towers)

    @property
    def vision_dim(self) -> int:
        return sum(tower.dim for tower in self.towers)

    @classmethod
    def openvla_7b(cls) -> "PrismaticConfig":
        """DINOv2 ViT-L and SigLIP So400m at 224 px, Llama-2 7B."""
        return cls(
            towers=(
                TowerConfig(
                    kind="dino",
                    image_size=224,
                    patch=14,
                    dim=1024,
                    depth=24,
                    heads=16,
                    hidden=4096,
                    registers=4,
                    mean=DINO_MEAN,
                    std=DINO_STD,
                    timm_id=DINO_ID,
                ),
                TowerConfig(
                    kind="siglip",
                    image_size=224,
                    patch=14,
                    dim=1152,
                    depth=27,
                    heads=16,
                    hidden=4304,
                    timm_id=SIGLIP_ID,
                ),
            ),
            language=LanguageConfig(
                vocabulary=32064,
                hidden=4096,
                intermediate=11008,
                layers=32,
                heads=32,
                kv_heads=32,
                head_dim=128,
            ),
        )

    @classmethod
    def tiny(
        cls,
        vocabulary: int,
        *,
        image_size: int = 64,
        patch: int = 8,
        vision_dim: int = 96,
        vision_depth: int = 4,
        hidden: int = 128,
        layers: int = 4,
        heads: int = 4,
        kv_heads: int = 2,
        max_positions: int = 1024,
        channels: int = 0,
        keypoints: int = 0,
    ) -> "PrismaticConfig":
        """Ours, for a processor: one tower and a small Llama. `vocabulary` is rounded up to a multiple of 64.

        The tower is of SigLIP's kind, of which `vision_depth` - 1 blocks compute, or with `channels` of kind keypoint.
        """
        tower = TowerConfig(
            kind="keypoint" if channels else "siglip",
            channels=channels,
            keypoints=keypoints,
            image_size=image_size,
            patch=patch,
            dim=vision_dim,
            depth=vision_depth,
            heads=TINY_HEADS,
            hidden=3 * vision_dim,
        )
        language = LanguageConfig(
            vocabulary=-(-vocabulary // 64) * 64,
            hidden=hidden,
            intermediate=3 * hidden,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=hidden // heads,
            max_positions=max_positions,
        )
        return cls(towers=(tower,), language=language)

    @classmethod
    def from_hf(cls, plain: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> "PrismaticConfig":
        """The sizes of a released `config.json` and of the tensors beside it, named as in that layout.

        Raises:
            CheckpointError: tensors are missing that sizes are read from, or they are of another kind of model.
        """
        try:
            given = plain.get("vision_towers") or [{}, {}]
            ids = list(plain.get("timm_model_ids") or ("", ""))
            held = [prefix for prefix in PREFIXES if f"{prefix}patch_embed.proj.weight" in shapes]
            towers = tuple(
                _tower(prefix, shapes, {"timm_id": name, **extra})
                for prefix, name, extra in zip(held, ids, given, strict=False)
            )
            for tower, said in zip(towers, plain.get("image_sizes") or (), strict=False):
                if tower.image_size != (said[0] if isinstance(said, list) else said):
                    reason = f"is shown pictures of {said} px, its positions are for {tower.image_size}: not supported"
                    raise ContractError(f"tower {tower.timm_id}", reason)
            return cls(
                towers=towers,
                language=_language(plain.get("text_config") or {}, shapes),
                resize=plain.get("image_resize_strategy", "resize-naive"),
                pad_to_multiple_of=int(plain.get("pad_to_multiple_of", 64)),
            )
        except ContractError as error:
            raise CheckpointError(f"not a Prismatic model that can be built: {error}") from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            why = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"config.json and tensors: not those of a Prismatic model ({why})") from error

    def hf_config(self) -> dict[str, object]:
        """The `config.json` of the released layout, with the towers' sizes beside what it always holds."""
        language = self.language
        fused = "fused-" if len(self.towers) == 2 else ""
        return {
            "model_type": "prismatic",
            "arch_specifier": f"no-align+{fused}gelu-mlp",
            "image_resize_strategy": self.resize,
            "image_sizes": [tower.image_size for tower in self.towers],
            "pad_to_multiple_of": self.pad_to_multiple_of,
            "use_fused_vision_backbone": len(self.towers) == 2,
            "timm_model_ids": [tower.timm_id for tower in self.towers],
            "timm_override_act_layers": [None] * len(self.towers),
            "vision_towers": [asdict(tower) for tower in self.towers],
            "text_config": {
                "model_type": "llama",
                "vocab_size": language.vocabulary,
                "hidden_size": language.hidden,
                "intermediate_size": language.intermediate,
                "num_hidden_layers": language.layers,
                "num_attention_heads": language.heads,
                "num_key_value_heads": language.kv_heads,
                "head_dim": language.head_dim,
                "rms_norm_eps": language.eps,
                "rope_theta": language.rope_theta,
                "max_position_embeddings": language.max_positions,
            },
        }

    def as_dict(self) -> dict[str, object]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "PrismaticConfig":
        """The inverse of `as_dict`, from JSON.

        Raises:
            CheckpointError: fields are missing, unknown or out of range.
        """
        try:
            towers = tuple(_made(TowerConfig, tower) for tower in plain["towers"])
            rest = {name: value for name, value in plain.items() if name not in ("towers", "language")}
            return cls(towers=towers, language=_made(LanguageConfig, plain["language"]), **rest)
        except (KeyError, TypeError, ContractError) as error:
            raise CheckpointError(f"model configuration: {type(error).__name__}: {error}") from error


def _made(kind: type[Any], plain: Mapping[str, Any]) -> Any:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})


def _tower(prefix: str, shapes: Mapping[str, Sequence[int]], known: Mapping[str, Any]) -> TowerConfig:
    if known.get("kind") == "keypoint":  # our own, whose folders say it all
        own: TowerConfig = _made(TowerConfig, known)
        return own
    dim, _, patch, _ = shapes[f"{prefix}patch_embed.proj.weight"]
    name = str(known.get("timm_id") or "")
    dino = f"{prefix}cls_token" in shapes
    if not dino and f"{prefix}attn_pool.latent" not in shapes:
        raise ContractError(prefix, f"{name!r} is neither a DINOv2 nor a SigLIP tower, which are those that we have")
    side = round(shapes[f"{prefix}pos_embed"][1] ** 0.5)
    read: dict[str, Any] = {
        "kind": "dino" if dino else "siglip",
        "image_size": side * patch,
        "patch": patch,
        "dim": dim,
        "depth": _count(f"{prefix}blocks.", shapes),
        "heads": HEADS.get(dim, TINY_HEADS),
        "hidden": shapes[f"{prefix}blocks.0.mlp.fc1.weight"][0],
        "registers": shapes[f"{prefix}reg_token"][1] if dino else 0,
        "mean": DINO_MEAN if dino else HALF,
        "std": DINO_STD if dino else HALF,
    }
    tower: TowerConfig = _made(TowerConfig, {**read, **known})
    return tower


def _language(text: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> LanguageConfig:
    kind = text.get("model_type", "llama")
    if kind != "llama":
        raise ContractError("text_config.model_type", f"expected 'llama', got {kind!r}")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ContractError("text_config.rope", f"expected plain rotary positions, got {rope}")
    prefix = "language_model.model."
    vocabulary, hidden = shapes[f"{prefix}embed_tokens.weight"]
    heads = int(text.get("num_attention_heads") or DEFAULTS["heads"])
    if not text.get("head_dim") and hidden % heads:
        raise ContractError("text_config", f"{hidden} channels do not divide into {heads} heads")
    head_dim = int(text.get("head_dim") or hidden // heads)
    return LanguageConfig(
        vocabulary=vocabulary,
        hidden=hidden,
        intermediate=shapes[f"{prefix}layers.0.mlp.gate_proj.weight"][0],
        layers=_count(f"{prefix}layers.", shapes),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_dim=head_dim,
        eps=float(text.get("rms_norm_eps") or DEFAULTS["eps"]),
        rope_theta=float(rope.get("rope_theta") or text.get("rope_theta") or DEFAULTS["rope_theta"]),
        max_positions=int(text.get("max_position_embeddings") or DEFAULTS["max_positions"]),
    )


def _count(prefix: str, shapes: Mapping[str, Sequence[int]]) -> int:
    return 1 + max(int(name.removeprefix(prefix).partition(".")[0]) for name in shapes if name.startswith(prefix))
