"""One safetensors file that alone rebuilds a policy in physical units, of whatever kind.

policy.stored() --save_policy--> file: tensors, and metadata "actloop": JSON --load_policy, by `kind`--> policy
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from actloop.contracts import Embodiment, Policy, embodiment_to_dict
from actloop.errors import ActloopError, CheckpointError, ContractError
from actloop.models.policy import FastWAMPolicy
from actloop.models.stored import Storable, Stored
from actloop.models.tensors import write_tensors

P = TypeVar("P", bound=Policy[Any])

FORMAT = "actloop.policy.2"
FAST_WAM = "fast-wam"  # also what a file is that says no kind: the first that there was
KINDS: Mapping[str, str] = {
    FAST_WAM: "actloop.models.fastwam_file",
    "dreamzero": "actloop.models.dreamzero.files",
    "openvla": "actloop.models.openvla.policy",
    "rt2": "actloop.models.rt2",
}
"""The module of each kind; its `rebuild(stored, source, device)` makes the policy."""


def save_policy(policy: Storable, path: str | Path, *, half: bool = False) -> None:
    """Write a policy; the file appears whole or not at all."""
    stored = policy.stored(half=half)
    header = {
        **stored.header,
        "format": FORMAT,
        "kind": policy.kind,
        "embodiment": embodiment_to_dict(policy.embodiment),
        "horizon": policy.horizon,
        "name": policy.info.name,
        "training": dict(policy.info.training),
    }
    write_tensors(path, stored.tensors, {"actloop": json.dumps(header, sort_keys=True)})


def load_policy(
    path: str | Path, *, embodiment: Embodiment | None = None, device: str | torch.device = "cpu", mode: str = ""
) -> Policy[Any]:
    """Rebuild a policy of any kind; with `embodiment`, only for exactly that body. `mode`: see its `set_mode`.

    Raises:
        ContractError: the policy knows no such mode.
        CheckpointError: no such file, another format, a missing or mis-shaped tensor, or another robot.
    """
    stored = read_stored(path)
    kind = str(stored.header.get("kind", FAST_WAM))
    if kind not in KINDS:
        raise CheckpointError(f"{path}: is a {kind!r}, not a policy of a kind known here: {', '.join(KINDS)}")
    rebuild = import_module(KINDS[kind]).rebuild
    policy: Policy[Any] = rebuilt(path, lambda: rebuild(stored, str(path), torch.device(device)), embodiment)
    if mode:
        if not hasattr(policy, "set_mode"):
            raise ContractError("mode", f"a policy of kind {kind!r} has no modes, got {mode!r}")
        policy.set_mode(mode)
    return policy


def load_fastwam(
    path: str | Path,
    *,
    embodiment: Embodiment | None = None,
    device: str | torch.device = "cpu",
    keep_decoder: bool = True,
) -> FastWAMPolicy:
    """As `load_policy`, of a Fast-WAM only.

    `keep_decoder=False`: a large video decoder is brought to the device only while frames are looked at.

    Raises:
        CheckpointError: as `load_policy`, or the policy is of another kind.
    """
    from actloop.models.fastwam_file import rebuild

    stored = read_stored(path)
    kind = stored.header.get("kind", FAST_WAM)
    if kind != FAST_WAM:
        raise CheckpointError(f"{path}: expected a Fast-WAM, got a policy of kind {kind!r}")
    make = lambda: rebuild(stored, str(path), torch.device(device), keep_decoder)  # noqa: E731
    return rebuilt(path, make, embodiment)


def read_stored(path: str | Path) -> Stored:
    """Header and tensors of a policy file.

    Raises:
        CheckpointError: no such file, no safetensors, or another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; train one with `actloop train`, or name a shipped variant")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("actloop", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    if header.get("format") != FORMAT:
        hint = "; it was written by another version: train or import it again" if "format" in header else ""
        raise CheckpointError(f"{path}: expected format {FORMAT!r}, got {header.get('format')!r}{hint}")
    return Stored(header=header, tensors=tensors)


def rebuilt(path: str | Path, make: Callable[[], P], embodiment: Embodiment | None) -> P:
    """What `make` makes of a file, for the body asked for; its errors name the file."""
    try:
        policy = make()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
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
