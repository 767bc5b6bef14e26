"""Faults by schedule and seed: what goes wrong, when, in words and JSON; `disturbed.py` makes it happen.

KIND[:TARGET]@WHEN[+TICKS][=STRENGTH][~PATIENCE]

displace@20          at tick 20                   freeze:front@15+10      camera front, for ticks 15 to 24
displace@15-30       at a tick drawn from 15..30  noise:position@0=0.05   that part, to the end, 5 % of its range
slip@grasp           when the object is grasped   push@half-way~10        then, or up to 10 ticks later, once it fits
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields

import numpy as np

from actloop.errors import ContractError, UnknownNameError
from actloop.simulation.faults.effects import KINDS

FORM = "KIND[:TARGET]@WHEN[+TICKS][=STRENGTH][~PATIENCE]"
EXAMPLES = "displace@20, displace@15-30, slip@grasp, freeze:front@15+10 or noise:position@0=0.05"
HALF_WAY = "half-way"  # the one event that needs no telling: half of what the world's expert takes
PATIENCE = 20
_PARSED = re.compile(
    r"(?P<kind>[^:@+=~]+)(:(?P<target>[^@+=~]+))?@(?P<at>[^@+=~]+)"
    r"(\+(?P<duration>[^+=~]*))?(=(?P<strength>[^+=~]*))?(~(?P<patience>[^+=~]*))?"
)
_EVENT = re.compile(r"[a-z][a-z-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong once in an episode.

    Attributes:
        kind: a name in `effects.KINDS`.
        at: the first tick that shows it; or a pair, and the episode's seed draws a tick from these two and all
            between; or an event: one that the world tells (`Eventful`), or "half-way".
        target: the camera or the part that it falls on; all of them where empty.
        duration: ticks that it lasts, to the end of the episode where None.
        strength: the kind says of what; its own where None.
        patience: ticks for which a disturbance that does not fit the moment is tried again.

    Raises:
        UnknownNameError: no such kind.
        ContractError: a value is out of range, or means nothing for this kind.
    """

    kind: str
    at: int | tuple[int, int] | str
    target: str = ""
    duration: int | None = None
    strength: float | None = None
    patience: int = PATIENCE

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UnknownNameError("fault, kind", self.kind, KINDS)
        path, kind = f"fault {self.kind!r}", KINDS[self.kind]
        _check_moment(path, self.at)
        if kind.on in ("world", "observation", "inference") and self.target:
            raise ContractError(path, f"falls on no single camera or part; leave out {self.target!r}")
        if kind.on == "world" and self.duration is not None:
            raise ContractError(path, f"happens at once; leave out the duration of {self.duration}")
        if kind.strength is None and self.strength is not None:
            raise ContractError(path, f"has no strength to vary; leave out {self.strength}")
        if self.duration is not None and not _whole(self.duration, 1):
            raise ContractError(f"{path}, duration", f"expected at least 1 tick, got {self.duration!r}")
        if not _whole(self.patience, 0):
            raise ContractError(f"{path}, patience", f"expected 0 ticks or more, got {self.patience!r}")
        if self.strength is not None and not (_number(self.strength) and 0 < self.strength < math.inf):
            raise ContractError(f"{path}, strength", f"expected a positive number, got {self.strength!r}")
        if kind.late and self.strength is not None and self.strength != round(self.strength):
            raise ContractError(f"{path}, strength", f"expected a whole number of ticks, got {self.strength!r}")

    @property
    def text(self) -> str:
        """The compact form, read back by `parse_fault`."""
        at = "-".join(map(str, self.at)) if isinstance(self.at, tuple) else str(self.at)
        text = self.kind + (f":{self.target}" if self.target else "") + f"@{at}"
        if self.duration is not None:
            text += f"+{self.duration}"
        if self.strength is not None:
            text += f"={np.format_float_positional(self.strength, trim='-')}"
        return text + (f"~{self.patience}" if self.patience != PATIENCE else "")

    def to_dict(self) -> dict[str, object]:
        """JSON-ready, read back by `fault_from_dict`."""
        return asdict(self) | {"at": list(self.at) if isinstance(self.at, tuple) else self.at}


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """What became of a fault in one episode.

    Attributes:
        fault: its compact form.
        due: the tick from which on it was to happen; None while its event has not come.
        onset: the first tick that shows it; None where it never happened.
        end: the first tick that is free of it again (the onset, where it happens at once); None before that.
    """

    fault: str
    kind: str
    due: int | None
    onset: int | None
    end: int | None

    @property
    def happened(self) -> bool:
        return self.onset is not None

    def to_dict(self) -> dict[str, object]:
        """JSON-ready, read back by `incident_from_dict`."""
        return asdict(self) | {"happened": self.happened}


def parse_fault(text: str) -> Fault:
    """The fault in its compact form; the module's docstring has examples.

    Raises:
        UnknownNameError: no such kind.
        ContractError: says which piece is wrong.
    """
    found = _PARSED.fullmatch(text.strip())
    if found is None:
        bare = text.strip().partition(":")[0]
        if bare.replace("-", "").isalpha() and bare not in KINDS:
            raise UnknownNameError("fault, kind", bare, KINDS)
        when = f"say when: {text.strip()}@20 or {text.strip()}@{HALF_WAY}" if bare in KINDS else f"expected {FORM}"
        raise ContractError(f"fault {text!r}", f"{when}, such as {EXAMPLES}")
    piece = found.groupdict()
    if piece["kind"] not in KINDS:
        raise UnknownNameError(f"fault {text!r}, kind", piece["kind"], KINDS)
    try:
        return Fault(
            kind=piece["kind"],
            at=_moment(piece["at"]),
            target=piece["target"] or "",
            duration=None if piece["duration"] is None else _int(piece["duration"], "+", "ticks"),
            strength=None if piece["strength"] is None else _float(piece["strength"]),
            patience=PATIENCE if piece["patience"] is None else _int(piece["patience"], "~", "ticks of patience"),
        )
    except ContractError as error:
        raise ContractError(f"fault {text!r}", str(error)) from error


def parse_faults(texts: Iterable[str]) -> tuple[Fault, ...]:
    """Faults in their compact form, in order, which is also the order in which they fall on a picture."""
    return tuple(parse_fault(text) for text in texts)


def fault_from_dict(plain: Mapping[str, object] | str) -> Fault:
    """The fault of `to_dict`, of a table in TOML (all but `kind` and `at` may be missing), or of a compact form.

    Raises:
        UnknownNameError: no such field or kind.
        ContractError: a field is missing or of the wrong form.
    """
    if isinstance(plain, str):
        return parse_fault(plain)
    known = [field.name for field in fields(Fault)]
    for name in plain:
        if name not in known:
            raise UnknownNameError("fault, field", name, known)
    for name in ("kind", "at"):
        if name not in plain:
            raise ContractError("fault", f"misses {name!r}: {dict(plain)}")
    at = plain["at"]
    values = dict(plain) | {"kind": str(plain["kind"]), "target": str(plain.get("target", ""))}
    values["at"] = tuple(at) if isinstance(at, list | tuple) else _moment(at) if isinstance(at, str) else at
    return Fault(**values)  # type: ignore[arg-type]  # judged field by field in __post_init__


def incident_from_dict(plain: Mapping[str, object]) -> Incident:
    """The incident that `Incident.to_dict` wrote.

    Raises:
        ContractError: a field is missing, or a tick is no number.
    """
    try:
        ticks = {name: plain[name] for name in ("due", "onset", "end")}
        fault, kind = str(plain["fault"]), str(plain["kind"])
    except KeyError as error:
        raise ContractError("incident", f"misses {error}: {dict(plain)}") from error
    for name, tick in ticks.items():
        if tick is not None and not _whole(tick, 0):
            raise ContractError(f"incident, {name}", f"expected a tick or null, got {tick!r}")
    return Incident(fault=fault, kind=kind, **ticks)  # type: ignore[arg-type]  # judged above


def _check_moment(path: str, at: object) -> None:
    if isinstance(at, str):
        if not _EVENT.fullmatch(at):
            raise ContractError(f"{path}, at", f"expected a tick, two ticks as 15-30, or an event, got {at!r}")
    elif isinstance(at, tuple):
        if len(at) != 2 or not all(_whole(tick, 0) for tick in at) or at[0] > at[1]:
            raise ContractError(f"{path}, at", f"expected two ticks, the earlier one first, got {at!r}")
    elif not _whole(at, 0):
        raise ContractError(f"{path}, at", f"expected a tick of 0 or more, got {at!r}")


def _moment(text: str) -> int | tuple[int, int] | str:
    first, dash, last = text.partition("-")
    if first.isdecimal() and last.isdecimal():
        return int(first), int(last)
    return int(first) if first.isdecimal() and not dash else text


def _int(text: str, sign: str, what: str) -> int:
    if not text.isdecimal():
        raise ContractError(f"after {sign!r}", f"expected a number of {what}, got {text!r}")
    return int(text)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ContractError("after '='", f"expected a number for the strength, got {text!r}") from error


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
