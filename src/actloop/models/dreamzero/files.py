"""A DreamZero policy at rest: what goes into its file, and the way back.

tensors   model.*, codec.*, tower.*, prompts.*, negative     (model: in fp16 on request, read back as it was)
header    config, declaration, sampler, encoding, anchoring, noise, codec, tower, vocabulary or prompts
"""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from actloop.errors import CheckpointError
from actloop.models.codec import Codec, PatchCodec
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.image import ImageTower, TowerConfig
from actloop.models.dreamzero.network import DreamZero
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.models.dreamzero.sampling import Reuse, SamplerConfig
from actloop.models.dreamzero.words import EncodedPrompts
from actloop.models.stored import PolicyInfo, Stored
from actloop.models.tensors import fill
from actloop.models.text import Instructions, Vocabulary
from actloop.models.wan.prompts import PromptCache
from actloop.models.wan.vae import WanCodec

GROUPS = ("model", "codec", "tower", "prompts")
Plain = dict[str, object]


def stored(policy: DreamZeroPolicy, *, half: bool = False) -> Stored:
    """See `rebuild`.

    Raises:
        CheckpointError: a kind of text that has no form at rest.
    """
    tensors = {f"model.{name}": t.half() if half else t for name, t in policy.model.state_dict().items()}
    tensors |= {f"codec.{name}": t for name, t in policy.codec.state_dict().items()}
    tower = policy.tower
    if tower is not None:
        tensors |= {f"tower.{name}": t for name, t in tower.model.state_dict().items()}
    if policy.negative is not None:
        tensors["negative"] = policy.negative
    told, contexts = _told(policy.text)
    tensors |= {f"prompts.{index}": context for index, context in enumerate(contexts)}
    header: Plain = {
        "config": asdict(policy.model.config),
        "dtype": _name(policy.model.dtype),
        "declaration": policy.declaration.to_dict(),
        "sampler": asdict(policy.sampler),
        "encoding": policy.encoding,
        "anchoring": policy.anchoring,
        "noise": policy.noise,
        "absorb_every": policy.absorb_every,
        "codec": "wan" if isinstance(policy.codec, WanCodec) else "patches",
        "tower": None if tower is None else {**asdict(tower.config), "dtype": _name(tower.dtype)},
        **told,
    }
    return Stored(header=header, tensors=tensors)


def rebuild(stored: Stored, source: str, device: torch.device) -> DreamZeroPolicy:
    """The policy that `stored` described.

    Raises:
        CheckpointError: a missing, unexpected or mis-shaped tensor.
        KeyError, TypeError, ValueError: the header lacks something, or holds something of another form.
    """
    header = dict(stored.header)
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in GROUPS}
    for name, tensor in stored.tensors.items():
        group, _, rest = name.partition(".")
        if group not in groups and name != "negative":
            raise CheckpointError(f"{source}: unexpected {name}")
        if name != "negative":
            groups[group][rest] = tensor
    config = DreamZeroConfig(**_mapping(header, "config"))  # type: ignore[arg-type]
    with torch.device("meta"):
        model = DreamZero(config)
    fill(model, groups["model"], source, dtype=_dtype(header["dtype"]))
    return DreamZeroPolicy(
        model=model.to(device),
        codec=_codec(header, groups["codec"], config, source, device),
        text=_text(header, config, groups["prompts"]),
        declaration=RobotDeclaration.from_dict(_mapping(header, "declaration")),
        info=PolicyInfo(name=str(header["name"]), training=_mapping(header, "training")),
        sampler=_sampler(_mapping(header, "sampler")),
        tower=_tower(header, groups["tower"], source, device),
        negative=stored.tensors.get("negative"),
        encoding=header["encoding"],  # type: ignore[arg-type]
        anchoring=header["anchoring"],  # type: ignore[arg-type]
        noise=str(header["noise"]),
    )


def _told(text: Instructions) -> tuple[Plain, list[Tensor]]:
    if isinstance(text, Vocabulary):
        return {"vocabulary": list(text.words)}, []
    cache = text.cache() if isinstance(text, EncodedPrompts) else text
    if not isinstance(cache, PromptCache):
        raise CheckpointError(f"a {type(text).__name__} cannot be stored; expected words or a cache of prompts")
    facts = {"template": cache.template, "encoder": cache.encoder, "max_tokens": cache.max_tokens}
    return {"prompts": {"instructions": list(cache.contexts), **facts}}, list(cache.contexts.values())


def _text(header: Plain, config: DreamZeroConfig, contexts: Mapping[str, Tensor]) -> Instructions:
    if "vocabulary" in header:
        words = header["vocabulary"]
        assert isinstance(words, list)
        return Vocabulary(words, max_tokens=config.text_tokens)
    facts = _mapping(header, "prompts")
    instructions = facts.pop("instructions")
    assert isinstance(instructions, list)
    held = {instruction: contexts[str(index)] for index, instruction in enumerate(instructions)}
    return PromptCache(contexts=held, **facts)  # type: ignore[arg-type]


def _codec(
    header: Plain, tensors: Mapping[str, Tensor], config: DreamZeroConfig, source: str, device: torch.device
) -> Codec:
    if header["codec"] == "wan":
        plain = {name.removeprefix("vae."): tensor for name, tensor in tensors.items()}
        dtype = next(iter(plain.values())).dtype if plain else torch.float32
        return WanCodec.from_tensors(plain, source, device=device, dtype=dtype)
    codec = PatchCodec(config.latent_channels)
    fill(codec, tensors, source)
    return codec.to(device)


def _tower(header: Plain, tensors: Mapping[str, Tensor], source: str, device: torch.device) -> ImageTower | None:
    if header["tower"] is None:
        return None
    facts = _mapping(header, "tower")
    dtype = _dtype(facts.pop("dtype"))
    return ImageTower.rebuilt(tensors, source, TowerConfig(**facts), dtype=dtype).to(device)  # type: ignore[arg-type]


def _sampler(plain: Plain) -> SamplerConfig:
    reuse = _mapping(plain, "reuse")
    run, similar = reuse["run"], reuse["similar"]
    assert isinstance(run, list)
    assert isinstance(similar, list)
    pairs = tuple((float(alike), int(steps)) for alike, steps in similar)
    return SamplerConfig(**{**plain, "reuse": Reuse(run=tuple(run), similar=pairs)})  # type: ignore[arg-type]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: object) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype {name!r}")
    return found


def _mapping(plain: Mapping[str, object], key: str) -> Plain:
    found = plain[key]
    if not isinstance(found, dict):
        raise TypeError(f"{key}: expected an object, got {type(found).__name__}")
    return dict(found)
