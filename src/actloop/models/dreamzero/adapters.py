"""LoRA checkpoints, on the base that they were trained on and on no other.

    <layer>.lora_A.weight (rank, inputs), <layer>.lora_B.weight (outputs, rank)      weight + alpha / rank x B A
    whole tensors                                                                  instead of the base's

The released ones (peft, rank 4) name their base in the training configuration that travels with them, and the released
loader puts them on raw Wan weights whatever it says. Ours are refused on another base than the named one; what actloop
saved also carries the base's fingerprint.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from actloop.errors import CheckpointError
from actloop.models.tensors import fingerprint, refuse, write_tensors

DECLARATION, FILE = "adapter.json", "adapter.safetensors"
SETTINGS, TRAINING = "config.json", "experiment_cfg/conf.yaml"
_PAIR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_PATH = re.compile(r"^\s*pretrained_model_path\s*:\s*['\"]?([^'\"\s#]+)", re.MULTILINE)
_WAN = re.compile(r"^\s*dit_version\s*:\s*['\"]?([^'\"\s#]+)", re.MULTILINE)
_ALPHA = re.compile(r"^\s*lora_alpha\s*:\s*([\d.]+)", re.MULTILINE)
_NOTHING = ("null", "none", "~", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """What an adapter says of itself; None where it is silent. `fingerprint`: of the base's tensors."""

    base: str | None
    fingerprint: str | None
    alpha: float | None


def is_adapter(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are an adapter's."""
    return any(_PAIR.fullmatch(name) for name in tensors)


def declared(folder: str | Path) -> Declared:
    """What the files beside an adapter say: its own declaration, else the released training configuration.

    Raises:
        CheckpointError: a file that is there and cannot be read.
    """
    folder = Path(folder)
    own = _json(folder / DECLARATION)
    if own is not None:
        alpha = own.get("alpha")
        return Declared(
            base=own.get("base"), fingerprint=own.get("fingerprint"), alpha=None if alpha is None else float(alpha)
        )
    plain = _json(folder / SETTINGS) or {}
    training = _text(folder / TRAINING)
    found = [*_values(plain, "pretrained_model_path"), *_PATH.findall(training)]
    found += [*_values(plain, "dit_version"), *_WAN.findall(training)]  # trained on Wan itself: no model before it
    base = next((str(value) for value in found if value and str(value).lower() not in _NOTHING), None)
    alphas = [*_values(plain, "lora_alpha"), *_ALPHA.findall(training)]
    return Declared(base=base, fingerprint=None, alpha=float(alphas[0]) if alphas else None)


def adapted(
    base: Mapping[str, Tensor],
    adapter: Mapping[str, Tensor],
    said: Declared,
    *,
    base_name: str,
    source: str | Path,
    alpha: float | None = None,
) -> dict[str, Tensor]:
    """The tensors of a network: the base's with an adapter's merged into them, in fp32, back to the base's dtype.

    `base_name` is the base's path or name; its last part is compared. `alpha`: where the adapter does not say it.

    Raises:
        CheckpointError: the adapter names or fingerprints another base, or says nothing of it; halves of pairs, pairs
            that fit no weight, or tensors that the base has not; no alpha.
    """
    _check_base(base, said, base_name, source)
    alpha = said.alpha if said.alpha is not None else alpha
    if alpha is None:
        raise CheckpointError(f"{source}: says its alpha nowhere (lora_alpha); pass it")
    plain = {_plain(name): tensor for name, tensor in adapter.items()}
    pairs, whole = _pairs(plain, source), {k: t for k, t in plain.items() if not _PAIR.fullmatch(k)}
    merged = dict(base) | whole
    problems = []
    for layer, (down, up) in pairs.items():
        weight = merged.get(f"{layer}.weight")
        if weight is None or tuple(weight.shape) != (up.shape[0], down.shape[1]) or len(down) != up.shape[1]:
            got = "none" if weight is None else tuple(weight.shape)
            problems.append(f"{layer}: a pair of {tuple(down.shape)} and {tuple(up.shape)} for a weight of {got}")
            continue
        change = alpha / len(down) * (up.float() @ down.float())
        merged[f"{layer}.weight"] = (weight.float() + change).to(weight.dtype)
    refuse(problems, source)
    return {
        name: tensor if name not in whole or name not in base else tensor.to(base[name].dtype)
        for name, tensor in merged.items()
    }


def save_adapter(
    folder: str | Path, tensors: Mapping[str, Tensor], *, base: Mapping[str, Tensor], base_name: str, alpha: float
) -> None:
    """Write an adapter with what it says of itself; `base` is what it was trained on.

    Raises:
        CheckpointError: no pairs among the tensors.
    """
    folder = Path(folder)
    if not is_adapter(tensors):
        raise CheckpointError(f"{folder}: expected tensors named *.lora_A.weight and *.lora_B.weight")
    write_tensors(folder / FILE, {_plain(name): tensor for name, tensor in tensors.items()}, {})
    said = {"base": base_name, "fingerprint": fingerprint(base), "alpha": alpha}
    (folder / DECLARATION).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def _check_base(base: Mapping[str, Tensor], said: Declared, base_name: str, source: str | Path) -> None:
    if said.fingerprint is not None:
        got = fingerprint(base)
        if got != said.fingerprint:
            raise CheckpointError(
                f"{source}: trained on {said.base or 'a base'} with fingerprint {said.fingerprint}, "
                f"but {base_name} has {got}; load it on its own base"
            )
        return
    if said.base is None:
        raise CheckpointError(
            f"{source}: says nowhere on which base it was trained ({SETTINGS}, {TRAINING} or {DECLARATION} would), "
            f"so it is not put on {base_name}"
        )
    wanted, got = (Path(name).name for name in (said.base, base_name))
    if wanted != got:
        raise CheckpointError(f"{source}: trained on {said.base}, but the base given is {base_name}")


def _pairs(tensors: Mapping[str, Tensor], source: str | Path) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        found = _PAIR.fullmatch(name)
        if found is not None:
            halves.setdefault(found[1], {})[found[2]] = tensor
    refuse([f"{layer}: half a pair ({', '.join(half)})" for layer, half in halves.items() if len(half) != 2], source)
    return {layer: (half["A"], half["B"]) for layer, half in halves.items()}


def _plain(name: str) -> str:
    """Without what peft wraps names in."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".default.", ".")


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected an object, got {type(found).__name__}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not readable ({error})") from error


def _values(plain: object, key: str) -> Iterator[Any]:
    """Values of a key, however deep."""
    if isinstance(plain, dict):
        if key in plain:
            yield plain[key]
        for inner in plain.values():
            yield from _values(inner, key)
    elif isinstance(plain, list):
        for inner in plain:
            yield from _values(inner, key)
