"""An RT-2 rebuilt from what `RT2Policy.stored` wrote."""

from collections.abc import Mapping
from typing import Any

import torch

from actloop.actions.tokens import RareTokens
from actloop.contracts import embodiment_from_dict
from actloop.errors import CheckpointError
from actloop.models.rt2.backbones import backbone_rebuilt, bins_from_dict
from actloop.models.rt2.policy import RT2Config, RT2Policy
from actloop.models.rt2.strings import token_map
from actloop.models.stored import PolicyInfo, Stored
from actloop.models.views import Mosaic


def rebuild(stored: Stored, source: str, device: torch.device) -> RT2Policy:
    """The policy of a file; `source` names it in errors.

    Raises:
        CheckpointError: a damaged header, tensors that do not fit, or a Hugging Face backbone that has changed.
        ContractError: values out of range.
    """
    header = stored.header
    try:
        plain, mosaic = _mapping(header, "config"), header["mosaic"]
        config = RT2Config(**{**plain, "forms": tuple(plain["forms"])})
        bins = bins_from_dict(_mapping(header, "bins"))
        vlm = backbone_rebuilt(_mapping(header, "backbone"), stored.tensors, source, device)
        rare = header["tokens"]
        if rare is not None and not isinstance(rare, list):
            raise TypeError(f"tokens: expected a list of ids, got {rare!r}")
        tokens = token_map(config.mapping, vlm.tokens, count=bins.count) if rare is None else RareTokens(tuple(rare))
        return RT2Policy(
            vlm=vlm,
            embodiment=embodiment_from_dict(_mapping(header, "embodiment")),
            config=config,
            bins=bins,
            tokens=tokens,
            info=PolicyInfo(name=str(header["name"]), training=_mapping(header, "training")),
            mosaic=Mosaic.from_dict(mosaic) if isinstance(mosaic, Mapping) else None,
            gripper=str(header["gripper"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{source}: damaged header ({type(error).__name__}: {error})") from error


def _mapping(header: Mapping[str, object], key: str) -> dict[str, Any]:
    found = header[key]
    if not isinstance(found, Mapping):
        raise TypeError(f"{key}: expected an object, got {type(found).__name__}")
    return dict(found)
