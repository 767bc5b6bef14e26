"""What of the network trains, and how it ends as an ordinary network again.

network --Learner--> losses of a batch by name      network --adapt--> some parameters train --finished--> network
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from actloop.errors import UnknownNameError
from actloop.models.dreamzero import Clip, Draws, DreamZero, DreamZeroConfig, losses
from actloop.models.openvla.adapters import LowRank, merge, put_adapters
from actloop.models.tensors import fill
from actloop.training.dreamzero.recipe import DreamZeroRecipe

OBJECTIVE = "total"
WHOLE = ("state_encoder", "action_encoder", "action_decoder")  # trained beside adapters, as released
PREFIX = "network."


class Learner(nn.Module):
    """The network with its losses as `forward`, as the loop trains it."""

    def __init__(self, network: DreamZero, recipe: DreamZeroRecipe) -> None:
        super().__init__()
        self.network = network
        self.schedule, self.averaging, self.action_weight = recipe.schedule, recipe.averaging, recipe.action_weight

    def forward(self, clip: Clip, draws: Draws) -> dict[str, Float[Tensor, "batch"]]:
        found = losses(self.network, clip, draws, self.schedule, averaging=self.averaging)
        return {**found, OBJECTIVE: found["video"] + self.action_weight * found["action"]}


def adapt(network: DreamZero, recipe: DreamZeroRecipe) -> None:
    """Choose what trains, in place. Under bf16, what does not train is kept in bfloat16, what does in float32.

    Raises:
        UnknownNameError: no layer is called as a LoRA target is.
        MissingDependency: `trainable="lora"` without peft.
    """
    network.checkpointed = recipe.checkpointed
    if recipe.trainable == "lora":
        _put(network, recipe)
        for name in WHOLE:
            network.get_submodule(name).requires_grad_(True)
    frozen = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
    for parameter in network.parameters():
        parameter.data = parameter.data.to(torch.float32 if parameter.requires_grad else frozen)


def finished(config: DreamZeroConfig, tensors: Mapping[str, Tensor], recipe: DreamZeroRecipe) -> DreamZero:
    """An ordinary float32 network out of a trained learner's tensors; adapters are merged into the weights."""
    with torch.device("meta"):
        network = DreamZero(config)
    if recipe.trainable == "lora":
        _put(network, recipe)
    fill(
        network, {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}, "trained", dtype=torch.float32
    )
    if recipe.trainable == "lora":
        merge(network)
    return network.requires_grad_(True).eval()


def adapter_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was learned beside a frozen network: the pairs of the adapters, and the layers that train whole."""
    plain = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
    return {name: t for name, t in plain.items() if ".lora_" in name or name.startswith(WHOLE)}


def _put(network: DreamZero, recipe: DreamZeroRecipe) -> None:
    inside = [name for name, module in network.blocks.named_modules() if isinstance(module, nn.Linear)]
    for target in recipe.lora.targets:
        if not any(name.endswith(f".{target}") for name in inside):
            raise UnknownNameError("lora.targets", target, {name.partition(".")[2] for name in inside})
    layers = [f"blocks.{name}" for name in inside if name.endswith(tuple(f".{t}" for t in recipe.lora.targets))]
    put_adapters(network, LowRank(rank=recipe.lora.rank, alpha=recipe.lora.alpha), layers)
