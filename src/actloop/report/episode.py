"""An event log, read as one episode: what its drawings and its page show, worked out once.

records --EpisodeView--> questions as bars, plans as stretches of ticks, holds, readings, spending
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from actloop.contracts import Embodiment, embodiment_from_dict
from actloop.errors import DataError

Record = Mapping[str, Any]
LAYERS = ("action", "foresight", "check", "semantic")  # as they are drawn, from above
Fate = Literal["accepted", "dropped", "failed", "pending"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, from asking to its answer; `answered` is None where none came. Times are seconds of the episode.

    `second`: the one before of its layer was not answered yet, so that it is drawn in a second row.
    """

    layer: str
    plan: int
    tick: int
    asked: float
    answered: float | None
    deadline: float | None
    fate: Fate
    alarm: bool
    second: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Ticks `first` to `last` in a row that followed one plan, or held for one reason (then `plan` is -1)."""

    plan: int
    first: int
    last: int
    hold: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """What one check read, in order; thresholds are infinite where there is none."""

    check: str
    time: Float[np.ndarray, "looks"]
    value: Float[np.ndarray, "looks"]
    threshold: Float[np.ndarray, "looks"]
    alarm: np.ndarray


class EpisodeView:
    """One episode of a log.

    Raises:
        DataError: it has no tick, or lacks fields.
    """

    def __init__(self, records: Sequence[Record], *, name: str = "log") -> None:
        self.records = records
        self.started = records[0]
        self.ticks = [record for record in records if record["event"] == "ticked"]
        self.ended = next((record for record in records if record["event"] == "ended"), None)
        if not self.ticks:
            raise DataError(f"{name}: the log ends before the first tick; there is nothing to draw")
        try:
            self.body: Embodiment = embodiment_from_dict(self.started["body"])
            self.period: float = self.started["period"]
            self.asked = questions(records)
            self.stretches = list(_stretches(self.ticks))
        except (KeyError, TypeError) as error:
            raise DataError(f"{name}: not a log of this version ({type(error).__name__}: {error})") from error

    @property
    def layers(self) -> list[str]:
        """Those that were asked, as they are drawn."""
        return layers_of(self.asked)

    @property
    def crowded(self) -> set[str]:
        """Layers of which two questions were ever open at once."""
        return {asked.layer for asked in self.asked if asked.second}

    @property
    def times(self) -> Float[np.ndarray, "ticks"]:
        """Seconds at which each tick began."""
        return np.array([tick["begun"] for tick in self.ticks])

    @property
    def edges(self) -> Float[np.ndarray, "edges"]:
        """The same, and the end of the last tick."""
        return np.append(self.times, self.times[-1] + self.period)

    def series(self, name: str) -> Float[np.ndarray, "ticks size"]:
        """A vector of every tick (`wanted`, `requested`, `sent`, `state`); NaN where there was none."""
        size = self.body.state.size if name == "state" else self.body.action.size
        blank = [np.nan] * size
        return np.array([blank if tick[name] is None else tick[name] for tick in self.ticks], dtype=np.float64)

    def numbers(self, name: str) -> Float[np.ndarray, "ticks"]:
        """A number of every tick (`index`, `pace`, `age`, `missed`); NaN where there was none."""
        return np.array([np.nan if tick[name] is None else tick[name] for tick in self.ticks], dtype=np.float64)

    @property
    def readings(self) -> list[Readings]:
        """What the checks read, check by check."""
        told: dict[str, list[tuple[float, float, float, bool]]] = {}
        for record in self.records:
            for reading in record["readings"] if record["event"] == "replied" else ():
                value = np.nan if reading["value"] is None else reading["value"]
                threshold = np.inf if reading["threshold"] is None else reading["threshold"]
                told.setdefault(reading["check"], []).append((record["time"], value, threshold, reading["alarm"]))
        return [
            Readings(
                check=check,
                time=np.array([row[0] for row in rows]),
                value=np.array([row[1] for row in rows]),
                threshold=np.array([row[2] for row in rows]),
                alarm=np.array([row[3] for row in rows], dtype=bool),
            )
            for check, rows in told.items()
        ]

    @property
    def spent(self) -> dict[str, tuple[Float[np.ndarray, "answers"], Float[np.ndarray, "answers"]]]:
        """Per layer the times of its answers, and the seconds of computing up to each."""
        found = {}
        for layer in self.layers:
            mine = [record for record in self.records if record["event"] == "replied" and record["layer"] == layer]
            found[layer] = (
                np.array([record["time"] for record in mine]),
                np.cumsum([record["computed"] for record in mine]),
            )
        return found

    @property
    def rungs(self) -> list[tuple[float, float, str, str]]:
        """Of the ladder, where one was in force: from, to, rung, and the check that led to it."""
        steps = [record for record in self.records if record["event"] == "stepped"]
        ends = [*(step["time"] for step in steps[1:]), float(self.edges[-1])][: len(steps)]
        return [
            (step["time"], end, step["rung"], step["cause"])
            for step, end in zip(steps, ends, strict=True)
            if step["rung"] != "continue"
        ]

    @property
    def verdict(self) -> str:
        """How it ended, in a few words."""
        if self.ended is None:
            return f"the log ends after {self.edges[-1]:.1f} s"
        word = "success" if self.ended["success"] else "failure"
        reason = f" ({self.ended['reason']})" if self.ended["reason"] not in ("", word) else ""
        return f"{word} after {self.ended['time']:.1f} s{reason}"


def layers_of(asked: Sequence[Asked]) -> list[str]:
    """The layers that questions went to, as they are drawn, from above."""
    return [layer for layer in LAYERS if any(one.layer == layer for one in asked)]


def questions(records: Sequence[Record]) -> list[Asked]:
    """Every question with what became of it."""
    found = []
    replies = {(record["layer"], record["plan"]): record for record in records if record["event"] == "replied"}
    busy: dict[str, float] = {}  # until when the first row of a layer is taken
    for record in records:
        if record["event"] != "requested":
            continue
        reply = replies.get((record["layer"], record["plan"]))
        second = record["time"] < busy.get(record["layer"], -math.inf) - 1e-9
        if not second:
            busy[record["layer"]] = math.inf if reply is None else reply["time"]
        asked = Asked(
            layer=record["layer"],
            plan=record["plan"],
            tick=record["tick"],
            asked=record["time"],
            answered=None if reply is None else reply["time"],
            deadline=record["deadline"],
            fate=_fate(reply),
            alarm=reply is not None and any(reading["alarm"] for reading in reply["readings"]),
            second=second,
            words=_words(record, reply),
        )
        found.append(asked)
    return found


def _fate(reply: Record | None) -> Fate:
    if reply is None:
        return "pending"
    if reply["error"]:
        return "failed"
    return "accepted" if reply["accepted"] else "dropped"


def _words(asked: Record, reply: Record | None) -> str:
    said = f"{asked['layer']} {asked['plan']}, asked at {asked['time']:.2f} s ({asked['why']})"
    if reply is None:
        return said + ", no answer before the end"
    came = f" at {reply['time']:.2f} s, {1000 * reply['latency']:.0f} ms later"
    if reply["error"]:
        return f"{said}, failed{came}: {reply['error']}"
    if not reply["accepted"]:
        return f"{said}, answer dropped{came} ({reply['reason']})"
    said += f", answered{came}"
    if reply["actions"] is not None:
        said += f"; {reply['skipped']:g} of its {len(reply['actions'])} actions were overtaken"
    if reply["considered"]:
        said += f"; the best of {reply['considered']}"
    if reply["text"] or reply["done"] is not None:
        said += f"; “{reply['text']}”" + {None: "", True: ", done", False: ", not done"}[reply["done"]]
    for reading in reply["readings"]:
        value, threshold = (number(reading[name]) for name in ("value", "threshold"))
        said += f"; {reading['check']} {value} of {threshold}" + (", alarm" if reading["alarm"] else "")
    return said


def number(value: float | None) -> str:
    """Three digits; a log has null for what is not finite."""
    return "∞" if value is None else f"{value:.3g}"


def _stretches(ticks: Sequence[Record]) -> Iterator[Stretch]:
    """The ticks, grouped by the plan that they followed or the reason for which they held."""
    numbered = enumerate(ticks)
    for (plan, hold), group in groupby(numbered, key=lambda item: (item[1]["plan"], item[1]["hold"])):
        rows = list(group)
        first, last = rows[0], rows[-1]
        many = f"ticks {first[1]['tick']} to {last[1]['tick']}" if len(rows) > 1 else f"tick {first[1]['tick']}"
        words = f"{many}: held, {hold}"
        if not hold:
            indices = f"{first[1]['index']} to {last[1]['index']}" if len(rows) > 1 else str(first[1]["index"])
            words = f"{many}: plan {plan}, seen at tick {first[1]['anchor']}, its actions {indices}"
        yield Stretch(plan=plan, first=first[0], last=last[0], hold=hold, words=words)
