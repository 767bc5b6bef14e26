"""The parts of an RT-2 at rest: its backbone, and its bins.

PrismaticVLM --> configuration, tokenizer, tensors        HuggingFaceVLM --> folder and digest, no tensors
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from actloop.actions.bins import Bins, CentreBins, UniformBins
from actloop.actions.normalizers import MaskedNormalizer, Normalizer, from_dict, from_stats
from actloop.errors import CheckpointError
from actloop.models.backbone import LanguageBackbone
from actloop.models.huggingface import HuggingFaceVLM
from actloop.models.prismatic import PrismaticConfig, PrismaticVLM, TextTokens
from actloop.models.stored import Stored
from actloop.models.tensors import fill

PREFIX = "backbone."


def backbone_at_rest(vlm: LanguageBackbone, *, half: bool) -> Stored:
    """What alone rebuilds a backbone, or says where it lies.

    Raises:
        CheckpointError: it is of no kind that can be stored, or no longer as its folder says.
    """
    if isinstance(vlm, HuggingFaceVLM):
        vlm.check_as_read()
        folder = str(vlm.folder.resolve())
        return Stored(
            header={"kind": "huggingface", "folder": folder, "digest": vlm.digest(), "splitting": vlm.splits},
            tensors={},
        )
    if isinstance(vlm, PrismaticVLM):
        header = {"kind": "prismatic", "config": vlm.config.as_dict(), "tokens": vlm.tokens.to_json()}
        held = {f"{PREFIX}{name}": tensor for name, tensor in vlm.state_dict().items()}
        dtype = str(vlm.dtype).removeprefix("torch.")
        narrow = {
            name: tensor.half() if half and tensor.is_floating_point() else tensor for name, tensor in held.items()
        }
        return Stored(header={**header, "dtype": dtype}, tensors=narrow)
    raise CheckpointError(f"backbone: a {type(vlm).__name__} cannot be stored; a PrismaticVLM or HuggingFaceVLM can")


def backbone_rebuilt(
    header: Mapping[str, object], tensors: Mapping[str, Tensor], source: str, device: torch.device
) -> LanguageBackbone:
    """The inverse of `backbone_at_rest`.

    Raises:
        CheckpointError: a missing, unexpected or mis-shaped tensor, no such folder, or one that has changed.
    """
    if header["kind"] == "huggingface":
        folder = Path(str(header["folder"]))
        found = HuggingFaceVLM(folder, device=device, splitting=bool(header["splitting"]))
        if found.digest() != header["digest"]:
            raise CheckpointError(f"{source}: its backbone in {folder} has changed since; train again, or put it back")
        return found
    if header["kind"] != "prismatic":
        raise CheckpointError(f"{source}: unknown kind of backbone {header['kind']!r}")
    config = header["config"]
    assert isinstance(config, Mapping)
    with torch.device("meta"):
        vlm = PrismaticVLM(PrismaticConfig.from_dict(config), TextTokens.from_json(str(header["tokens"])))
    fill(
        vlm,
        {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()},
        source,
        dtype=getattr(torch, str(header["dtype"])),
    )
    return vlm.to(device)


def bins_to_dict(bins: Bins) -> dict[str, object]:
    """JSON-ready form, read back by `bins_from_dict`.

    Raises:
        CheckpointError: bins of another kind.
    """
    if isinstance(bins, UniformBins):
        return {"kind": "uniform", "low": list(bins.low), "high": list(bins.high), "count": bins.count}
    if isinstance(bins, CentreBins) and isinstance(bins.normalizer, Normalizer | MaskedNormalizer):
        return {"kind": "centre", "normalizer": bins.normalizer.to_dict(), "count": bins.count}
    raise CheckpointError(f"bins: {bins!r} cannot be stored; uniform bins and centre bins can")


def bins_from_dict(plain: Mapping[str, object]) -> Bins:
    """What `bins_to_dict` wrote.

    Raises:
        KeyError, TypeError, ValueError, ContractError: it is not that.
    """
    count = int(str(plain["count"]))
    if plain["kind"] == "uniform":
        low, high = plain["low"], plain["high"]
        if not isinstance(low, list) or not isinstance(high, list):
            raise TypeError(f"bins: expected lists 'low' and 'high', got {low!r} and {high!r}")
        return UniformBins(low=tuple(map(float, low)), high=tuple(map(float, high)), count=count)
    held = plain["normalizer"]
    if not isinstance(held, Mapping):
        raise TypeError(f"bins: expected an object 'normalizer', got {held!r}")
    return CentreBins(normalizer=from_stats(held) if "q01" in held else from_dict(held), count=count)
