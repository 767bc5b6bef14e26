"""Weights in fewer bits: bfloat16, 8-bit integers through torchao, 4-bit NormalFloat through bitsandbytes.

Quantised are the linear layers of the language model, where nearly all bytes are: the vision towers, the projector
and the output layer keep their format. The paper's Table (2.11 of 2406.09246): 16.8, 10.2 and 7.0 GB for the 7B model.
The released 4-bit path computed FP4 in float32; here it is NF4 with bfloat16 arithmetic, as adapters are trained on.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import nn

from actloop.errors import ContractError, MissingDependency, UnknownNameError

LANGUAGE = "language_model.model."
FORMATS = ("bf16", "int8", "nf4")


def quantise(network: nn.Module, how: str) -> None:
    """Change the weights of `network` in place: `bf16`, `int8` or `nf4`; it answers and no longer trains.

    Raises:
        UnknownNameError: no such format.
        ContractError: the network has no language model.
        MissingDependency: torchao (int8) or bitsandbytes (nf4) is not installed.
    """
    if how not in FORMATS:
        raise UnknownNameError("quantise", how, FORMATS)
    {"bf16": _bfloat16, "int8": _int8, "nf4": _nf4}[how](network)
    network.requires_grad_(False)


def language_layers(network: nn.Module) -> list[str]:
    """Names of the linear layers that are quantised.

    Raises:
        ContractError: there are none.
    """
    names = [n for n, m in network.named_modules() if n.startswith(LANGUAGE) and isinstance(m, nn.Linear)]
    if not names:
        raise ContractError("quantise", f"expected a network with linear layers in {LANGUAGE!r}, found none")
    return names


def weight_bytes(network: nn.Module) -> int:
    """Bytes that all parameters and buffers take, as they are stored."""
    return sum(_bytes(tensor) for tensor in (*network.parameters(), *network.buffers()))


def _bytes(tensor: torch.Tensor) -> int:
    inner = getattr(tensor, "__tensor_flatten__", None)
    if inner is None:
        return tensor.numel() * tensor.element_size()
    return sum(_bytes(getattr(tensor, name)) for name in inner()[0])


def _bfloat16(network: nn.Module) -> None:
    network.to(torch.bfloat16)


def _int8(network: nn.Module) -> None:
    chosen = set(language_layers(network))
    library = _library("torchao.quantization", "torchao", "8-bit weights are made with it")
    among: Callable[[nn.Module, str], bool] = lambda module, name: name in chosen  # noqa: E731
    library.quantize_(network, library.Int8WeightOnlyConfig(), filter_fn=among)


def _nf4(network: nn.Module) -> None:
    names = language_layers(network)
    library = _library("bitsandbytes", "bitsandbytes", "4-bit weights are made with it")
    for name in names:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, _four_bits(library, network.get_submodule(name)))


def _four_bits(library: ModuleType, layer: nn.Module) -> nn.Module:
    assert isinstance(layer, nn.Linear)
    has_bias, device = layer.bias is not None, layer.weight.device
    made: Any = library.nn.Linear4bit(
        layer.in_features, layer.out_features, bias=has_bias, compute_dtype=torch.bfloat16, quant_type="nf4"
    )
    held = layer.weight.data.to("cpu", torch.bfloat16)
    made.weight = library.nn.Params4bit(held, requires_grad=False, quant_type="nf4")
    if has_bias:
        made.bias = nn.Parameter(layer.bias.data.to(torch.bfloat16), requires_grad=False)
    moved: nn.Module = made.to(device)  # quantised on arrival
    return moved


def _library(module: str, package: str, why: str) -> ModuleType:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependency(f"package {package!r}", why, f"pip install {package}") from error
