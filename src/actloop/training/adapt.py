"""What of a network trains, from which weights it starts, and how it ends as an ordinary network again.

config + init --start--> FastWAM --adapt--> some parameters train --(training)--> tensors --finished--> FastWAM
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from actloop.errors import CheckpointError, ContractError, MissingDependency, UnknownNameError
from actloop.models.fastwam import FastWAM, FastWAMConfig
from actloop.models.tensors import check_layout, fill, read_tensors, write_tensors
from actloop.training.config import LoraRecipe, TrainConfig

if TYPE_CHECKING:
    from peft import LoraConfig, LoraModel

# May differ from the weights that a training starts from.
FREE = ("variant", "denoising_steps", "imagination_steps", "action_samples", "committed_max")
WHOLE = ("proprio_encoder", "action_encoder", "action.head")  # small, and what a robot's dimensions go through
ADAPTER = "default"  # peft's own name for an only adapter
WEIGHTS, PEFT_PREFIX = "adapter_model.safetensors", "base_model.model."


def start(config: FastWAMConfig, init: FastWAM | None) -> FastWAM:
    """A fresh network, or a copy of `init`.

    Raises:
        ContractError: `init` has other sizes or another schedule than the data and the recipe ask for.
        CheckpointError: a variant with other parameters.
    """
    if init is None:
        return FastWAM(config)
    wanted, given = asdict(config), asdict(init.config)
    unlike = [name for name in wanted if name not in FREE and wanted[name] != given[name]]
    if unlike:
        said = "; ".join(f"{name}: the data and recipe say {wanted[name]}, init has {given[name]}" for name in unlike)
        raise ContractError("init", f"does not fit: {said}")
    with torch.device("meta"):
        model = FastWAM(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = {name: tensor.detach() for name, tensor in init.state_dict().items()}
    check_layout(shapes, tensors, "init")
    # In the dtype it has: of what does not train, a full network in bfloat16 is never held in float32.
    model.load_state_dict({name: tensor.clone() for name, tensor in tensors.items()}, assign=True)
    return model


def adapt(model: FastWAM, config: TrainConfig) -> None:
    """Choose what trains, in place; adapters are put in where the recipe has them.

    Under bf16, parameters that train are kept in float32 and the others in bfloat16.

    Raises:
        MissingDependency: `trainable="lora"` without peft.
        UnknownNameError: no layer is called as a LoRA target is.
    """
    model.checkpointed = config.checkpointed
    if config.trainable == "lora":
        put_adapters(model, config.lora)
    elif config.trainable == "frozen-video":
        model.video.requires_grad_(False)
        if not _waits_for_future(model):
            model.variant = replace(model.variant, video_weight=0.0)
    frozen = torch.bfloat16 if config.precision == "bf16" else torch.float32
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)


def objective(config: TrainConfig) -> str:
    """Which loss is minimised: a frozen video expert is not asked to improve."""
    return "action" if config.trainable == "frozen-video" else "total"


def leaves_unused(model: FastWAM) -> bool:
    """Whether some parameters that train get no gradient, which data-parallel training must be told."""
    return not model.variant.trains_video and any(p.requires_grad for p in model.video.parameters())


def _waits_for_future(model: FastWAM) -> bool:
    """Whether the actions attend to the very stream that the video loss is computed on."""
    return model.variant.action_sees_future and not model.variant.imagine_first


def finished(config: FastWAMConfig, tensors: Mapping[str, Tensor], recipe: TrainConfig) -> FastWAM:
    """An ordinary float32 network out of the trained tensors; adapters are merged into the weights."""
    with torch.device("meta"):
        model = FastWAM(config)
    if recipe.trainable != "lora":
        fill(model, tensors, "trained", dtype=torch.float32)
        return model
    tuner = put_adapters(model, recipe.lora)
    fill(model, tensors, "trained", dtype=torch.float32)
    merged = tuner.merge_and_unload()
    assert isinstance(merged, FastWAM)
    return merged.requires_grad_(True)


# adapters


def put_adapters(model: FastWAM, recipe: LoraRecipe) -> "LoraModel":
    """Adapters into the targets of `model`, in place; everything else stops training, but the layers in `WHOLE`.

    Raises:
        UnknownNameError: no linear layer is called as a target is.
        MissingDependency: peft is not installed.
    """
    config = peft_config(recipe)
    from peft import LoraModel

    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for target in recipe.targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            inside = {name.partition(".blocks.")[2].partition(".")[2] for name in layers} - {""}
            raise UnknownNameError("lora.targets", target, inside)
    meta = next(model.parameters()).is_meta
    return LoraModel(model, {ADAPTER: config}, ADAPTER, low_cpu_mem_usage=meta)


def peft_config(recipe: LoraRecipe) -> "LoraConfig":
    """The recipe in peft's words.

    Raises:
        MissingDependency: peft is not installed.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise MissingDependency("peft", "adapters are made with it", "pip install 'actloop[training]'") from error
    return LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        target_modules=list(recipe.targets),
        modules_to_save=list(WHOLE),
    )


def save_adapter(tensors: Mapping[str, Tensor], recipe: LoraRecipe, folder: Path) -> None:
    """What was trained, as `PeftModel.from_pretrained` reads it: adapters and the layers in `WHOLE`."""
    config = peft_config(recipe)
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    learned = {
        PEFT_PREFIX + _peft_name(name): tensor.contiguous()
        for name, tensor in tensors.items()
        if f".{ADAPTER}." in name
    }
    write_tensors(folder / WEIGHTS, learned, {"format": "pt"})


def merge_adapter(model: FastWAM, folder: str | Path) -> FastWAM:
    """A copy of `model` with the adapter merged in that `save_adapter` wrote.

    Raises:
        CheckpointError: unreadable, or made for a network of other sizes.
        MissingDependency: peft is not installed.
    """
    folder = Path(folder)
    recipe = _read_recipe(folder)
    copy = start(model.config, model)
    tuner = put_adapters(copy, recipe)
    given = read_tensors(folder / WEIGHTS)
    wanted = {PEFT_PREFIX + _peft_name(name): name for name in copy.state_dict() if f".{ADAPTER}." in name}
    state = copy.state_dict()
    check_layout({theirs: state[ours].shape for theirs, ours in wanted.items()}, given, folder)
    copy.load_state_dict({ours: given[theirs] for theirs, ours in wanted.items()}, strict=False)
    merged = tuner.merge_and_unload()
    assert isinstance(merged, FastWAM)
    return merged.requires_grad_(True)


def _read_recipe(folder: Path) -> LoraRecipe:
    path = folder / "adapter_config.json"
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        targets = plain["target_modules"]
        if plain["peft_type"] != "LORA" or sorted(plain["modules_to_save"]) != sorted(WHOLE):
            raise CheckpointError(f"{path}: expected a LoRA adapter with {', '.join(WHOLE)} saved whole")
        return LoraRecipe(rank=int(plain["r"]), alpha=int(plain["lora_alpha"]), targets=tuple(sorted(targets)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not readable as an adapter ({type(error).__name__}: {error})") from error


def _peft_name(name: str) -> str:
    return name.replace(f".modules_to_save.{ADAPTER}.", ".").replace(f".{ADAPTER}.", ".")
