"""Models by name: one that ships, a file, or a function of one's own; opened, or only asked for whom they were made.

"fast" | "policies/mine.safetensors?mode" | "package.module:function" --source_of--> Source --open_policy--> Policy
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from actloop.contracts import Embodiment, Policy, embodiment_from_dict
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.loop.layers import absorb_every

FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
WORD = re.compile(r"[\w-]+")
FIRST_FRAME = "first-frame"  # the mode of a policy that learned to imagine, and acts without


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model comes from.

    Attributes:
        text: as it was written.
        target: a path, or `module:function`.
        mode: of a policy that can act in several ways.
        path: the key that named it, for errors.
    """

    text: str
    target: str
    mode: str = ""
    path: str = "model"

    @property
    def is_function(self) -> bool:
        return FACTORY.fullmatch(self.target) is not None and not Path(self.target).exists()

    @property
    def digest(self) -> str:
        """Sixteen hex digits over the file; empty for functions and folders."""
        return "" if self.is_function else digest_of(Path(self.target))


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the loop has to know of a policy: an `Actor`."""

    embodiment: Embodiment
    horizon: int
    absorb_every: int = 0


def digest_of(path: Path) -> str:
    """Sixteen hex digits over a file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def source_of(text: str, *, folder: Path, path: str, world: str = "") -> Source:
    """What a text means in a file of `folder`; with `world`, it may be the name of a policy that ships for that one.

    Raises:
        UnknownNameError: a bare name that nothing ships under.
    """
    if FACTORY.fullmatch(text) and not (folder / text).exists():
        return Source(text=text, target=text, path=path)
    name, _, mode = text.partition("?")
    shipped = shipped_files(world)
    if name in shipped:
        return Source(text=text, target=str(shipped[name]), mode=mode, path=path)
    target = folder / name
    if world and WORD.fullmatch(name) and not target.exists():
        raise UnknownNameError(f"{path}, policy shipped for {world!r}", name, shipped)
    return Source(text=text, target=str(target.absolute()), mode=mode, path=path)


def shipped_files(world: str) -> dict[str, Path]:
    """The weights that ship for a world, by name."""
    folder = Path(str(files("actloop"))) / "weights" / world
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def open_policy(source: Source, *, device: str = "cpu") -> Policy[Any]:
    """Raises:
    CheckpointError: there is no such checkpoint, or it cannot be loaded.
    ContractError: the function does not exist, or what it returned is no policy.
    """
    if source.is_function:
        policy = call(source)
        if not isinstance(policy, Policy):
            raise ContractError(source.path, f"{source.target} returned no policy, but a {type(policy).__name__}")
        return policy
    if not Path(source.target).is_file():
        raise _missing(source)
    load = import_module("actloop.models.checkpoint").load_policy
    loaded: Policy[Any] = load(source.target, mode=source.mode, device=device)
    return loaded


def call(source: Source) -> Any:
    """What `module:function` returns.

    Raises:
        ContractError: it cannot be imported, or called.
    """
    module, _, name = source.target.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ContractError(source.path, f"{source.target} cannot be imported ({error})") from error
    if not callable(function):
        raise ContractError(source.path, f"{source.target} is no function, but a {type(function).__name__}")
    return function()


def importable(folder: Path) -> None:
    """Let functions of modules beside the stack file be imported."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def card_of(source: Source) -> Card:
    """For whom a policy was made, and how far it plans, without loading the weights of a checkpoint.

    Raises:
        CheckpointError, ContractError: as `open_policy`.
    """
    if source.is_function:
        policy = open_policy(source)
        return Card(embodiment=policy.embodiment, horizon=policy.horizon, absorb_every=absorb_every(policy))
    with _readable(source):
        header = _header(source)
        horizon = header["horizon"] if "horizon" in header else header["config"]["horizon"]  # older files
        every = int(header.get("absorb_every", 0))
        return Card(embodiment=embodiment_from_dict(header["embodiment"]), horizon=int(horizon), absorb_every=every)


def variant_of(source: Source | None) -> dict[str, str]:
    """`variant`, and `mode` where it matters, as the policy's own `describe` has them; empty where it does not say.

    Raises:
        CheckpointError, ContractError: as `open_policy`.
    """
    if source is None:  # on a server
        return {}
    if source.is_function:
        describe = getattr(open_policy(source), "describe", None)
        told = dict(describe()) if callable(describe) else {}
        return {key: str(told[key]) for key in ("variant", "mode") if key in told}
    with _readable(source):
        header = _header(source)
        config = header.get("config")
        known = [place["variant"] for place in (header, config) if isinstance(place, dict) and "variant" in place]
        variant = known[0] if known else header.get("kind", "")
    mode = {"mode": FIRST_FRAME} if FIRST_FRAME in source.mode.split("+") else {}
    return {"variant": str(variant), **mode} if variant else {}


def _header(source: Source) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(source.target, framework="numpy") as file:
        header: dict[str, Any] = json.loads((file.metadata() or {})["actloop"])
    return header


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    """What goes wrong with the header of a checkpoint is said with the key that named the file."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise _missing(source) from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        reason = f"not a policy ({type(error).__name__}: {error})"
        raise CheckpointError(f"{source.path}: {source.target}: {reason}") from error


def _missing(source: Source) -> CheckpointError:
    return CheckpointError(f"{source.path}: {source.target}: no such checkpoint; train one, or mend the path")


def policy_identity(source: Source | None) -> str:
    """What changes when another policy is named, or the same file changes."""
    if source is None:
        return "on a server"
    return (source.digest or source.target) + (f"?{source.mode}" if source.mode else "")
