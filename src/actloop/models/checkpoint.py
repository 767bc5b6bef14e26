"""One safetensors file that alone rebuilds a policy in physical units.

tensors   model.*, codec.*                    (stored in fp16 on request: half the size, read back as fp32)
metadata  "actloop": JSON of config, embodiment, normalisers, vocabulary, training
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from actloop.actions import normalizers
from actloop.contracts import Embodiment, embodiment_from_dict, embodiment_to_dict
from actloop.errors import ActloopError, CheckpointError
from actloop.models.codec import PatchCodec
from actloop.models.fastwam import ExpertConfig, FastWAM, FastWAMConfig
from actloop.models.policy import FastWAMPolicy, PolicyInfo
from actloop.models.text import Vocabulary

FORMAT = "actloop.policy.1"


def save_policy(policy: FastWAMPolicy, path: str | Path, *, half: bool = False) -> None:
    """Write a policy; the file appears whole or not at all."""
    path = Path(path)
    tensors = {f"model.{name}": tensor for name, tensor in policy.model.state_dict().items()}
    tensors |= {f"codec.{name}": tensor for name, tensor in policy.codec.state_dict().items()}
    if half:
        tensors = {name: t.half() if name.startswith("model.") else t for name, t in tensors.items()}
    header = {
        "format": FORMAT,
        "config": asdict(policy.model.config),
        "embodiment": embodiment_to_dict(policy.embodiment),
        "state": policy.state_normalizer.to_dict(),
        "action": policy.action_normalizer.to_dict(),
        "vocabulary": list(policy.vocabulary.words),
        "name": policy.info.name,
        "future_offsets": list(policy.info.future_offsets),
        "training": dict(policy.info.training),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file({k: t.contiguous() for k, t in tensors.items()}, partial, {"actloop": json.dumps(header, sort_keys=True)})
    partial.replace(path)


def load_policy(path: str | Path, *, embodiment: Embodiment | None = None) -> FastWAMPolicy:
    """Rebuild a policy; with `embodiment`, only for exactly that body.

    Raises:
        CheckpointError: no such file, another format, a missing or mis-shaped tensor, or another robot.
    """
    header, tensors = _read(Path(path))
    try:
        policy = _rebuild(header, tensors, str(path))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged header ({type(error).__name__}: {error})") from error
    except CheckpointError:
        raise
    except ActloopError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if embodiment is not None and embodiment.identity != policy.embodiment.identity:
        raise CheckpointError(f"{path}: {difference(policy.embodiment, embodiment)}")
    return policy


def difference(trained: Embodiment, asked: Embodiment) -> str:
    """One sentence on why a policy for `trained` cannot drive `asked`."""
    if trained.name != asked.name:
        return f"was trained for {trained.name!r}, not for {asked.name!r}"
    theirs, ours = asdict(trained), asdict(asked)
    fields = [name for name in theirs if theirs[name] != ours[name]]
    detail = "; ".join(f"{name}: trained {theirs[name]}, here {ours[name]}" for name in fields)
    return f"was trained for another {asked.name!r}: {detail}"


def _read(path: Path) -> tuple[dict[str, object], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; train one with `actloop train`, or name a shipped variant")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("actloop", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        raise CheckpointError(f"{path}: expected format {FORMAT!r}, got {header.get('format')!r}")
    return header, tensors


def _rebuild(header: Mapping[str, object], tensors: Mapping[str, Tensor], path: str) -> FastWAMPolicy:
    plain = header["config"]
    assert isinstance(plain, dict)
    experts = {name: ExpertConfig(**plain[name]) for name in ("video", "action")}
    config = FastWAMConfig(**{**plain, **experts})
    model, codec = FastWAM(config), PatchCodec(config.latent_channels)
    _fill(model, {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}, path)
    _fill(codec, {k.removeprefix("codec."): t for k, t in tensors.items() if k.startswith("codec.")}, path)
    embodiment, state, action = header["embodiment"], header["state"], header["action"]
    words, offsets, training = header["vocabulary"], header["future_offsets"], header["training"]
    assert isinstance(embodiment, dict)
    assert isinstance(state, dict)
    assert isinstance(action, dict)
    assert isinstance(words, list)
    assert isinstance(offsets, list)
    assert isinstance(training, dict)
    return FastWAMPolicy(
        model=model,
        codec=codec,
        vocabulary=Vocabulary(words, max_tokens=config.text_tokens),
        embodiment=embodiment_from_dict(embodiment),
        state=normalizers.from_dict(state),
        action=normalizers.from_dict(action),
        info=PolicyInfo(name=str(header["name"]), future_offsets=tuple(offsets), training=training),
    )


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], path: str) -> None:
    """Strictly: every missing, unexpected or mis-shaped tensor is named."""
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name}: expected shape {tuple(wanted[name].shape)}, got {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in wanted and wanted[name].shape != tensor.shape
    ]
    if problems:
        more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise CheckpointError(f"{path}: {'; '.join(problems[:5])}{more}")
    module.load_state_dict({name: tensor.to(torch.float32) for name, tensor in tensors.items()})
