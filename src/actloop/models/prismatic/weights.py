"""Prismatic weights made by others, strictly: every missing, unexpected or mis-shaped tensor is named.

    Hugging Face layout   config.json, *.safetensors (one, or shards with an index), preprocessor_config.json, tokenizer
    native .pt            {"model": {"vision_backbone", "projector", "llm_backbone"}}

Our parameters carry the names of the former; the latter is renamed.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actloop.errors import CheckpointError
from actloop.models.prismatic.config import PrismaticConfig
from actloop.models.prismatic.images import with_preprocessor
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.prismatic.tokens import TextTokens
from actloop.models.tensors import fill, read_tensors, refuse, write_tensors

NATIVE_EPS = 1e-5  # of Llama-2's own configuration, which the native code trained with
_EMBEDDING, _HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"
_TOWERS = {"dino_featurizer.": "featurizer.", "siglip_featurizer.": "fused_featurizer.", "featurizer.": "featurizer."}
_LINEAR = re.compile(r"(?:projector\.)?(\d+)\.(.+)")


def load_prismatic(
    folder: str | Path, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu"
) -> PrismaticVLM:
    """A model of a folder in the released Hugging Face layout, with its tokenizer if the folder has one.

    `dtype`: what the parameters become; by default what the files hold. Files are mapped: on the CPU, a parameter whose
    dtype fits is not copied.

    Raises:
        CheckpointError: files are missing or damaged, or the tensors are not exactly those of the configuration.
    """
    folder = Path(folder)
    plain = read_json(folder / "config.json")
    tensors = read_tensors(folder)
    if (plain.get("text_config") or {}).get("tie_word_embeddings") and _HEAD not in tensors and _EMBEDDING in tensors:
        tensors[_HEAD] = tensors[_EMBEDDING]
    config = PrismaticConfig.from_hf(plain, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    if (folder / "preprocessor_config.json").is_file():
        config = with_preprocessor(config, read_json(folder / "preprocessor_config.json"))
    model = _filled(config, tensors, folder, dtype, device)
    if any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        model.tokens = TextTokens.from_folder(folder)
    return model


def load_native(
    path: str | Path,
    config: PrismaticConfig | None = None,
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device = "cpu",
) -> PrismaticVLM:
    """A model of a native Prismatic `.pt`. Without a configuration, sizes follow from the tensors, and what is in no
    shape is Llama-2's (32 heads, eps 1e-5) and that of a released tower of such a width.

    Raises:
        CheckpointError: unreadable, or its tensors are not exactly those of the configuration.
    """
    tensors = hf_names(read_tensors(path), path)
    if config is None:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        config = PrismaticConfig.from_hf({"text_config": {"rms_norm_eps": NATIVE_EPS}}, shapes)
    return _filled(config, tensors, path, dtype, device)


def save_prismatic(model: PrismaticVLM, folder: str | Path, *, extra: Mapping[str, object] | None = None) -> None:
    """Write a folder in the released layout that `load_prismatic` reads; `extra` goes into its config.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = str(model.dtype).removeprefix("torch.")
    config = {**model.config.hf_config(), "torch_dtype": dtype, **(extra or {})}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "preprocessor_config.json").write_text(json.dumps(model.images.as_hf(), indent=2))
    write_tensors(folder / "model.safetensors", model.state_dict(), {"format": "pt"})
    if model.reads_text:
        model.tokens.save(folder)


def layout(config: PrismaticConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of every parameter, without allocating any."""
    with torch.device("meta"):
        model = PrismaticVLM(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def hf_names(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    """Tensors of a native file under the names of the Hugging Face layout; an optimizer's state is left out.

    Raises:
        CheckpointError: tensors that belong to none of the three parts.
    """
    renamed, strange = {}, []
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            continue
        group, _, inner = name.removeprefix("model.").partition(".")
        plain = _renamed(group, inner)
        if plain is None:
            strange.append(f"unexpected {name}")
        else:
            renamed[plain] = tensor
    refuse(strange, source)
    return renamed


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: no such file, or something else in it.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a folder in the released Hugging Face layout")
    try:
        found = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(found).__name__}")
    return found


def _renamed(group: str, inner: str) -> str | None:
    if group == "llm_backbone":
        return f"language_model.{inner.removeprefix('llm.')}"
    if group == "projector":
        found = _LINEAR.fullmatch(inner)
        return found and f"projector.fc{int(found[1]) // 2 + 1}.{found[2]}"
    if group == "vision_backbone":
        for before, after in _TOWERS.items():
            if inner.startswith(before):
                plain = re.sub(r"\.gamma$", ".scale_factor", inner.removeprefix(before))
                return f"vision_backbone.{after}{plain}"
    return None


def _filled(
    config: PrismaticConfig,
    tensors: Mapping[str, Tensor],
    source: str | Path,
    dtype: torch.dtype | None,
    device: str | torch.device,
) -> PrismaticVLM:
    with torch.device("meta"):
        model = PrismaticVLM(config)
    found = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if dtype is None and len(found) > 1:
        raise CheckpointError(f"{source}: holds {sorted(map(str, found))}; say which dtype to load it as")
    fill(model, tensors, source, dtype=dtype or found.pop())
    return model.to(device).eval()
