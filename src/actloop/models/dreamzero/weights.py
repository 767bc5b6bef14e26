"""Weights made by others, strictly: every missing, unexpected or mis-shaped tensor is named.

    DreamZero (shards)       action_head.{model, text_encoder, image_encoder.model, vae.model}.*
    Wan2.1 / Wan2.2 (DiT)    the names under `action_head.model.` without actions and states
    tensors of a `DreamZero` as it saves itself

A checkpoint holds its text encoder, image tower and VAE or leaves each out as a whole.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actloop.errors import CheckpointError, UnknownNameError
from actloop.models.dreamzero.adapters import is_adapter
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.image import ImageTower, tower_layout
from actloop.models.dreamzero.network import DreamZero
from actloop.models.tensors import check_layout, fill, read_tensors, refuse
from actloop.models.wan.keys import UMT5, VAE_WAN21, released_name
from actloop.models.wan.text import SHARED, TIED, TextConfig, UMT5Encoder
from actloop.models.wan.vae import WAN21, WanCodec

HEAD = "action_head."
PARTS = {"network": "model.", "text": "text_encoder.", "image": "image_encoder.model.", "vae": "vae.model."}
FRESH = ("state_encoder.", "action_encoder.", "action_decoder.")  # what Wan has not
PICTURE = ("img_emb.", ".k_img.", ".v_img.", ".norm_k_img.")  # what Wan2.2-TI2V has not


@dataclass(slots=True, kw_only=True)
class Release:
    """What a checkpoint held, ready to run; None where it was left out."""

    network: DreamZero
    text: UMT5Encoder | None
    image: ImageTower | None
    vae: WanCodec | None


def load_release(
    path: str | Path,
    *,
    config: DreamZeroConfig | None = None,
    parts: Collection[str] = ("network", "text", "image", "vae"),
    tokenizer: Any = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> Release:
    """A folder of shards, its index, or one file; only the asked `parts` are read, and those not there are None.

    `config`: by default the released one that the sizes belong to. `tokenizer` is that of the text encoder.

    Raises:
        CheckpointError: unreadable, an adapter without its base, or tensors that are not exactly the expected ones.
        UnknownNameError: no such part.
    """
    held = split(read_tensors(path), path)
    for part in parts:
        if part not in PARTS:
            raise UnknownNameError("parts", part, PARTS)
    here = {part: tensors for part, tensors in held.items() if part in parts}
    network = network_of(here.get("network") or held["network"], path, config, dtype=dtype).to(device)
    text = image = vae = None
    if "text" in here:
        text = UMT5Encoder.from_tensors(
            here["text"], path, tokenizer=tokenizer, max_tokens=network.config.text_tokens, dtype=dtype
        ).to(device)
    if "image" in here:
        image = ImageTower.from_tensors(here["image"], path, dtype=dtype).to(device)
    if "vae" in here:
        # Not the folder alone: its config.json is not that of a VAE.
        vae = WanCodec.from_tensors(here["vae"], f"{path} ({PARTS['vae']})", device=device, dtype=dtype)
    return Release(network=network, text=text, image=image, vae=vae)


def load_network(
    path: str | Path, config: DreamZeroConfig | None = None, *, dtype: torch.dtype | None = None
) -> DreamZero:
    """The network alone, out of any of the layouts above.

    `dtype`: what the parameters become; by default what the file holds. A parameter whose dtype fits is not copied.

    Raises:
        CheckpointError: see `load_release`.
    """
    return network_of(split(read_tensors(path), path)["network"], path, config, dtype=dtype)


def network_of(
    tensors: Mapping[str, Tensor],
    source: str | Path,
    config: DreamZeroConfig | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> DreamZero:
    """As `load_network`, from tensors already read and split.

    Raises:
        CheckpointError: see `load_release`.
    """
    if is_adapter(tensors):
        raise CheckpointError(
            f"{source}: holds an adapter (LoRA), not a network; load it on its base (adapters.adapted)"
        )
    config = config or _released_config(tensors, source)
    with torch.device("meta"):
        model = DreamZero(config)
    found = {tensor.dtype for tensor in tensors.values()}
    if dtype is None and len(found) > 1:
        raise CheckpointError(f"{source}: holds {sorted(map(str, found))}; say which dtype to load it as")
    fill(model, tensors, source, dtype=dtype or found.pop())
    return model.eval()


def split(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, dict[str, Tensor]]:
    """The parts of a checkpoint, their names without prefixes; a file of the network alone is that part.

    Raises:
        CheckpointError: no network, or a tensor of no known part.
    """
    if not any(name.startswith(HEAD) for name in tensors):
        network = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        return {"network": network}
    found: dict[str, dict[str, Tensor]] = {}
    stray = []
    for name, tensor in tensors.items():
        inner = name.removeprefix(HEAD)
        part = next((part for part, prefix in PARTS.items() if inner.startswith(prefix)), None)
        if part is None or inner == name:
            stray.append(f"unexpected {name}")
        else:
            found.setdefault(part, {})[inner.removeprefix(PARTS[part])] = tensor
    refuse(stray, source)
    if "network" not in found:
        raise CheckpointError(f"{source}: holds no network ({HEAD}{PARTS['network']}*)")
    return found


def full_layout(config: DreamZeroConfig | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a whole checkpoint, by default the 14B one; nothing is allocated.

    Raises:
        MissingDependency: diffusers or transformers is not installed.
    """
    text = UMT5Encoder.untrained(TextConfig(), device="meta").model.state_dict()
    vae = WanCodec.untrained(WAN21, device="meta").vae.state_dict()
    parts = {
        "network": layout(config or DreamZeroConfig.wan21_14b()),
        "text": {released_name(name, UMT5): tuple(t.shape) for name, t in text.items() if name != TIED},
        "image": tower_layout(),
        "vae": {released_name(name, VAE_WAN21): tuple(t.shape) for name, t in vae.items()},
    }
    assert released_name(SHARED, UMT5) in parts["text"]
    return {f"{HEAD}{PARTS[part]}{name}": shape for part, held in parts.items() for name, shape in held.items()}


def layout(config: DreamZeroConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's parameters, without allocating any."""
    with torch.device("meta"):
        model = DreamZero(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def start_from_wan(model: DreamZero, path: str | Path) -> list[str]:
    """Wan's own weights into a fresh network, whose actions and states stay fresh; the names of what did.

    Wan2.2-TI2V has no image tower: all that the network has for one stays fresh too.

    Raises:
        CheckpointError: any other missing, unexpected or mis-shaped tensor.
    """
    tensors = split(read_tensors(path), path)["network"]
    own = model.state_dict()
    pictures = any(part in name for name in tensors for part in PICTURE)
    fresh = [
        name
        for name in own
        if name.startswith(FRESH)
        or (not pictures and any(part in f".{name}" for part in ("." + PICTURE[0], *PICTURE[1:])))
    ]
    strange = [f"unexpected {name}" for name in tensors if name in fresh]
    refuse(strange, path)
    check_layout({name: tuple(t.shape) for name, t in own.items() if name not in fresh}, tensors, path)
    fill(model, {**{name: own[name] for name in fresh}, **tensors}, path)
    return fresh


def settings(folder: str | Path) -> dict[str, Any]:
    """A checkpoint's `config.json`.

    Raises:
        CheckpointError: not there, or not a JSON object.
    """
    path = Path(folder) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: expected a checkpoint's settings ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(found).__name__}")
    return found


def _released_config(tensors: Mapping[str, Tensor], source: str | Path) -> DreamZeroConfig:
    """The one whose input layer these tensors have."""
    name = "patch_embedding.weight"
    got = tuple(tensors[name].shape) if name in tensors else None
    known = {"14B": DreamZeroConfig.wan21_14b(), "5B": DreamZeroConfig.wan22_5b()}
    for config in known.values():
        if got == (config.dim, config.in_channels, 1, 2, 2):
            return config
    raise CheckpointError(f"{source}: {name} is {got}, of neither released size ({', '.join(known)}); pass its config")
