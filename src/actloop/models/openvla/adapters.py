"""Low-rank adapters (LoRA, Hu et al. 2021) on every linear layer, as OpenVLA is fine-tuned.

    network --put_adapters--> network that trains 1.4 % of itself --merge--> ordinary network
            --load_adapter, a released folder--> the same, trained

`all-linear` means both vision towers, the projector and the language model, but not its output layer. The layers that
no answer goes through (each tower's last block and pooling) get adapters too, as in released ones, that do not train.
Released adapters also sit on the output layer and on the convolutions that embed patches: 110,828,288 numbers in all,
which are read as well.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from actloop.errors import CheckpointError, ContractError, MissingDependency
from actloop.models.tensors import check_layout, read_tensors, write_tensors

NAME = "default"
PREFIX = "base_model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
OUTPUT = "lm_head"


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """Rank and scale of the adapters: `alpha` / `rank` times what they add. Released: 32 and 16, no dropout."""

    rank: int = 32
    alpha: int = 16
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ContractError("lora", f"expected rank and alpha of 1 or more and 0 <= dropout < 1, got {self}")


def linear_layers(network: nn.Module) -> list[str]:
    """Names of all linear layers but the one that gives logits."""
    layers = (name for name, module in network.named_modules() if isinstance(module, nn.Linear))
    return [name for name in layers if name.rpartition(".")[2] != OUTPUT]


def put_adapters(network: nn.Module, recipe: LowRank, layers: Sequence[str] | None = None) -> None:
    """Adapters into linear layers (default: all), in place, A normal and B zero; nothing else trains any more.

    Raises:
        MissingDependency: peft is not installed.
    """
    peft = _peft()
    config = peft.LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        init_lora_weights="gaussian",
        target_modules=list(linear_layers(network) if layers is None else layers),
    )
    meta = next(network.parameters()).is_meta
    peft.LoraModel(network, {NAME: config}, NAME, low_cpu_mem_usage=meta)


def adapted_layers(network: nn.Module) -> list[str]:
    """Names of the layers that carry an adapter."""
    return [name for name, module in network.named_modules() if hasattr(module, "lora_A")]


def merge(network: nn.Module, layers: Sequence[str] | None = None) -> None:
    """Add adapters (default: every one) to the layers they sit on, in place: these are ordinary ones again."""
    for name in adapted_layers(network) if layers is None else layers:
        parent, _, own = name.rpartition(".")
        layer: Any = network.get_submodule(name)
        layer.merge(safe_merge=True)
        base: nn.Module = layer.get_base_layer()
        setattr(network.get_submodule(parent) if parent else network, own, base.requires_grad_(True))


def save_adapter(network: nn.Module, recipe: LowRank, folder: str | Path) -> None:
    """Write the adapters as `PeftModel.from_pretrained` reads them, by the network's own (released) layer names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    layers = adapted_layers(network)
    if not layers:
        raise ContractError("adapter", "the network has none: put adapters in, or train with LoRA")
    config = _peft().LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        init_lora_weights="gaussian",
        target_modules=sorted(layers),
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    write_tensors(folder / WEIGHTS, {f"{PREFIX}{name}": t for name, t in _theirs(network).items()}, {"format": "pt"})


def load_adapter(network: nn.Module, folder: str | Path) -> LowRank:
    """Put a trained adapter on a network, in place; `merge` makes it part of the weights, or it stays.

    Which layers it sits on follows from its tensors, so that adapters of any target list are read; layers that peft
    saved whole beside them are taken over. On the output layer it is merged at once: constrained decoding takes rows of
    that matrix.

    Raises:
        CheckpointError: unreadable, of another kind than plain LoRA, or made for a network of other layers or sizes.
        MissingDependency: peft is not installed.
    """
    folder = Path(folder)
    recipe = _read_recipe(folder / CONFIG)
    held = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(_weights(folder)).items()}
    tensors = {name: tensor for name, tensor in held.items() if ".lora_" in name}
    whole = {name.replace(".base_layer.", "."): held[name] for name in held if name not in tensors}
    layers = sorted({name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")})
    known = {name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}
    strangers = [name for name in layers if name not in known]
    if strangers or not layers:
        said = f"adapts {strangers[0]!r}, which is no such layer here" if strangers else "holds no lora_A tensors"
        raise CheckpointError(f"{folder}: {said}: made for another network")
    present = dict(network.named_parameters())
    check_layout({name: tuple(present[name].shape) for name in whole if name in present}, whole, folder)
    put_adapters(network, recipe, layers)
    wanted = _theirs(network)
    check_layout({name: tuple(tensor.shape) for name, tensor in wanted.items()}, tensors, folder)
    filled, given = {name: present[name] for name in whole} | wanted, whole | tensors
    with torch.no_grad():
        for name, parameter in filled.items():
            parameter.copy_(given[name])
    merge(network, [name for name in layers if name.rpartition(".")[2] == OUTPUT])
    return recipe


def _theirs(network: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors by the names that they have in a file."""
    marker = f".{NAME}.weight"
    held = network.state_dict(keep_vars=True).items()
    return {name.replace(marker, ".weight"): t for name, t in held if ".lora_" in name and name.endswith(marker)}


def _weights(folder: Path) -> Path:
    for name in (WEIGHTS, "adapter_model.pt"):
        if (folder / name).is_file():
            return folder / name
    raise CheckpointError(f"{folder}: no {WEIGHTS}; expected a folder that peft wrote")


def _read_recipe(path: Path) -> LowRank:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        odd = [
            key
            for key in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "fan_in_fan_out", "bias")
            if plain.get(key) not in (None, False, {}, [], "none")
        ]
        if plain["peft_type"] != "LORA" or odd:
            raise CheckpointError(f"{path}: expected a plain LoRA adapter, got {plain['peft_type']} with {odd}")
        return LowRank(rank=int(plain["r"]), alpha=int(plain["lora_alpha"]), dropout=float(plain["lora_dropout"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not readable as an adapter ({type(error).__name__}: {error})") from error


def _peft() -> ModuleType:
    try:
        return import_module("peft")
    except ModuleNotFoundError as error:
        raise MissingDependency(
            "package 'peft'", "adapters are made with it", "pip install 'actloop[training]'"
        ) from error
