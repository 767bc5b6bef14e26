"""What can go wrong, as one tree.

    ActloopError
    |-- ContractError        a value broke a declared contract (shape, range, unit, identity)
    |   `-- UnknownNameError a name that nothing answers to; carries the nearest ones
    |-- DataError            a dataset on disk is missing, truncated or inconsistent
    |-- CheckpointError      a weights file does not fit what it is loaded into
    `-- MissingDependency    an optional package or a renderer is absent; carries the command that mends it

A late prediction is none of these: the loop holds, counts it, and the report shows it.
"""

import difflib
from collections.abc import Iterable


class ActloopError(Exception):
    """Base of every error that actloop raises on purpose."""


class ContractError(ActloopError):
    """A value at a border is not what was declared: `path: reason`."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Errors cross process borders: rebuilt from what they were made of, not from their message."""
        return type(self), (self.path, self.reason)


class UnknownNameError(ContractError):
    """A name that nothing answers to; suggests the nearest known ones."""

    def __init__(self, path: str, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(repr(n) for n in near)}?"
        elif len(self.known) > 12:
            hint = f"known: {', '.join(self.known[:12])}, and {len(self.known) - 12} more"
        else:
            hint = f"known: {', '.join(self.known) or 'none'}"
        super().__init__(path, f"unknown name {name!r}; {hint}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.path, self.name, self.known)


class DataError(ActloopError):
    """A dataset file is missing, truncated or disagrees with its metadata."""


class CheckpointError(ActloopError):
    """A checkpoint cannot be loaded as asked: another format, robot, shape or version."""


class MissingDependency(ActloopError):
    """Something optional is not installed; the message ends with the command that installs it."""

    def __init__(self, what: str, why: str, mend: str) -> None:
        self.what = what
        self.why = why
        self.mend = mend
        super().__init__(f"{what} is missing ({why}). Install it with: {mend}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.what, self.why, self.mend)
