"""A Fast-WAM policy at rest: what goes into its file, and the way back.

tensors   model.*, codec.*, prompts.*         (stored in fp16 on request: half the size, read back as fp32)
header    config, mosaic, gripper, normalisers, codec, vocabulary or prompts
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from actloop.actions import normalizers
from actloop.contracts import embodiment_from_dict
from actloop.errors import CheckpointError
from actloop.models.codec import Codec, PatchCodec
from actloop.models.fastwam import ExpertConfig, FastWAM, FastWAMConfig
from actloop.models.policy import FastWAMPolicy
from actloop.models.stored import PolicyInfo, Stored
from actloop.models.tensors import fill
from actloop.models.text import Instructions, Vocabulary
from actloop.models.views import Mosaic
from actloop.models.wan import PromptCache, WanCodec

Plain = dict[str, object]


def rebuild(stored: Stored, source: str, device: torch.device, keep_decoder: bool = True) -> FastWAMPolicy:
    """The policy that `FastWAMPolicy.stored` described; `keep_decoder`: see `load_fastwam`.

    Raises:
        CheckpointError: a missing, unexpected or mis-shaped tensor.
        KeyError, TypeError, ValueError: the header lacks something, or holds something of another form.
    """
    header = dict(stored.header)
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "codec": {}, "prompts": {}}
    for name, tensor in stored.tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise CheckpointError(f"{source}: unexpected {name}")
        groups[group][rest] = tensor
    config = _config(_mapping(header, "config"))
    with torch.device("meta"):
        model = FastWAM(config)
    fill(model, groups["model"], source, dtype=getattr(torch, str(header["dtype"])))
    codec: Codec
    if header["codec"] == "wan":
        codec = _wan(groups["codec"], source, device, keep_decoder)
    else:
        codec = PatchCodec(config.latent_channels)
        fill(codec, groups["codec"], source)
        codec.to(device)
    return FastWAMPolicy(
        model=model.to(device),
        codec=codec,
        text=_text(header, config, groups["prompts"]),
        embodiment=embodiment_from_dict(_mapping(header, "embodiment")),
        state=normalizers.from_dict(_mapping(header, "state")),
        action=normalizers.from_dict(_mapping(header, "action")),
        mosaic=Mosaic.from_dict(_mapping(header, "mosaic")),
        gripper=str(header["gripper"]),
        info=PolicyInfo(name=str(header["name"]), training=_mapping(header, "training")),
    )


def _config(plain: Plain) -> FastWAMConfig:
    experts = {name: ExpertConfig(**_mapping(plain, name)) for name in ("video", "action")}  # type: ignore[arg-type]
    offsets = plain["future_offsets"]
    assert isinstance(offsets, list)
    return FastWAMConfig(**{**plain, **experts, "future_offsets": tuple(offsets)})  # type: ignore[arg-type]


def _wan(tensors: Mapping[str, Tensor], path: str, device: torch.device, keep_decoder: bool) -> WanCodec:
    plain = {name.removeprefix("vae."): tensor for name, tensor in tensors.items()}
    dtype = next(iter(plain.values())).dtype if plain else torch.float32
    return WanCodec.from_tensors(plain, path, device=device, dtype=dtype, keep_decoder=keep_decoder)


def _text(header: Plain, config: FastWAMConfig, contexts: dict[str, Tensor]) -> Instructions:
    if "vocabulary" in header:
        words = header["vocabulary"]
        assert isinstance(words, list)
        return Vocabulary(words, max_tokens=config.text_tokens)
    facts = _mapping(header, "prompts")
    instructions = facts.pop("instructions")
    assert isinstance(instructions, list)
    held = {instruction: contexts[str(index)] for index, instruction in enumerate(instructions)}
    return PromptCache(contexts=held, **facts)  # type: ignore[arg-type]


def _mapping(plain: Plain, key: str) -> Plain:
    found = plain[key]
    if not isinstance(found, dict):
        raise TypeError(f"{key}: expected an object, got {type(found).__name__}")
    return dict(found)
