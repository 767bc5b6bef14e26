"""A vision-language model that answers in words, and our own one as a single file.

    images, prompt --backbone, greedily--> ids --its tokens--> text
    PrismaticVLM + tokens + facts --save_vlm--> one safetensors file --load_vlm--> VLM

A file alone rebuilds the model. Policies that act through a language model (RT-2, OpenVLA) start from its `backbone`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from actloop.contracts import Frame, VisionLanguageModel
from actloop.errors import CheckpointError, ContractError
from actloop.models.backbone import LanguageBackbone
from actloop.models.prismatic.config import PrismaticConfig
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.prismatic.tokens import TextTokens
from actloop.models.stored import digest
from actloop.models.tensors import fill, read_tensors, write_tensors

FORMAT, KIND = "actloop.vlm.1", "vlm"

B_co = TypeVar("B_co", bound=LanguageBackbone, covariant=True)


class VLM(Generic[B_co]):
    """A `VisionLanguageModel` over any `LanguageBackbone`.

    Args:
        backbone: what answers.
        pictures: how many it was trained to be shown at once; None for any number.
        name: how reports call it.
        training: facts about how it was trained.
    """

    def __init__(
        self,
        backbone: B_co,
        *,
        pictures: int | None = None,
        name: str = "",
        training: Mapping[str, object] | None = None,
    ) -> None:
        self.backbone, self.pictures, self.name = backbone, pictures, name
        self.training = dict(training or {})
        if isinstance(backbone, nn.Module):
            backbone.eval()

    def generate(self, images: Sequence[Frame], prompt: str, *, max_tokens: int, seed: int) -> str:
        """The most likely answer, token by token: the seed changes nothing.

        Raises:
            ContractError: another number of pictures than it was trained with, or too long a prompt.
        """
        return self.answers([images], [prompt], max_tokens=max_tokens)[0]

    def answers(self, images: Sequence[Sequence[Frame]], prompts: Sequence[str], *, max_tokens: int) -> list[str]:
        """As `generate`, of several prompts at once.

        Raises:
            ContractError: as `generate`.
        """
        for shown in images:
            if self.pictures is not None and len(shown) != self.pictures:
                reason = f"expected {self.pictures}, as it was trained, got {len(shown)}"
                raise ContractError(f"{self.name or 'language model'}: pictures", reason)
        answered = self.backbone.answer(images, prompts, max_tokens=max_tokens)
        return [self.backbone.tokens.decode(ids).strip() for ids in answered]

    def digest(self) -> str:
        """Sixteen hex digits that change with any weight.

        Raises:
            ContractError: the backbone has no weights of its own.
        """
        if not isinstance(self.backbone, nn.Module):
            raise ContractError("backbone", "has no weights to tell it by")
        return digest([self.backbone], self.pictures)


def save_vlm(vlm: VLM[PrismaticVLM], path: str | Path, *, half: bool = False) -> None:
    """Write a model of ours; the file appears whole or not at all. `half`: weights as fp16, read back as float32."""
    model = vlm.backbone
    header = {
        "format": FORMAT,
        "kind": KIND,
        "config": model.config.as_dict(),
        "tokens": model.tokens.to_json(),
        "pictures": vlm.pictures,
        "name": vlm.name,
        "training": vlm.training,
    }
    tensors = {
        name: tensor.half() if half and tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    write_tensors(path, tensors, {"actloop": json.dumps(header, sort_keys=True)})


def load_vlm(path: str | Path, *, device: str | torch.device = "cpu") -> VLM[PrismaticVLM]:
    """Read what `save_vlm` wrote.

    Raises:
        CheckpointError: no such file, another format, or tensors that are missing or of another shape.
    """
    header = _header(Path(path))
    try:
        config = PrismaticConfig.from_dict(header["config"])  # type: ignore[arg-type]
        tokens = TextTokens.from_json(str(header["tokens"]))
        pictures, training = header["pictures"], header["training"]
        if not (pictures is None or isinstance(pictures, int)) or not isinstance(training, dict):
            raise TypeError(f"pictures {pictures!r}, training {training!r}")
        model = PrismaticVLM(config, tokens)
    except (KeyError, TypeError, ContractError, CheckpointError) as error:
        raise CheckpointError(f"{path}: damaged header ({type(error).__name__}: {error})") from error
    fill(model, read_tensors(path), path, dtype=torch.float32)
    model.to(device)
    return VLM(model, pictures=pictures, name=str(header.get("name", "")), training=training)


def open_vlm(path: str | Path, *, device: str | torch.device = "cpu") -> VisionLanguageModel:
    """A model of ours in one file, or any Hugging Face image-text-to-text model in a folder.

    Raises:
        CheckpointError: neither is there.
        MissingDependency: transformers or tokenizers is not installed.
    """
    if Path(path).is_dir():
        from actloop.models.huggingface import HuggingFaceVLM

        return HuggingFaceVLM(path, device=device)
    return load_vlm(path, device=device)


def _header(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file or folder; train one with `actloop train tabletop-vlm`")
    try:
        with safe_open(path, framework="pt") as file:
            header: dict[str, object] = json.loads((file.metadata() or {}).get("actloop", "{}"))
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT!r}, got {header.get('format')!r}: not such a model")
    return header
