"""What every policy file holds besides its tensors, whatever the network; checkpoint.py writes and reads the files.

A policy that can be stored says its `kind`, and `stored()` gives the header and the tensors that alone rebuild it; the
module of that kind has `rebuild(stored, source, device)`, its inverse (checkpoint.py lists the kinds).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from actloop.contracts import Embodiment


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """Where a policy comes from, kept with its weights."""

    name: str
    training: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A policy at rest: `header` is JSON-ready; `tensors` are on the CPU when written, mapped when read.

    Whoever writes a file adds kind, embodiment, horizon, name and training to the header; whoever rebuilds a policy
    finds them there.
    """

    header: Mapping[str, object]
    tensors: Mapping[str, Tensor]


@runtime_checkable
class Storable(Protocol):
    """A policy that can be written to one file."""

    @property
    def kind(self) -> str: ...

    @property
    def info(self) -> PolicyInfo: ...

    @property
    def embodiment(self) -> Embodiment: ...

    @property
    def horizon(self) -> int: ...

    def stored(self, *, half: bool) -> Stored:
        """`half`: networks in fp16, read back as they were."""
        ...


@runtime_checkable
class Weighted(Protocol):
    """A module, or what is stored like one."""

    def state_dict(self) -> Mapping[str, Tensor]: ...


def digest(modules: Iterable[Weighted], *facts: object) -> str:
    """Sixteen hex digits over every weight of the modules, and over the `repr` of the facts beside them."""
    sha = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            sha.update(name.encode() + plain.numpy().tobytes())
    sha.update(repr(facts).encode())
    return sha.hexdigest()[:16]
