"""Decides an episode again, told what its log says, and compares every decision with the log.

log --replies, times, states, what was sent--> Controller --decisions--> the same as in the log, bit for bit?

A log that was cut off replays up to its end. What a residual added cannot be decided again: a function is in no log.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actloop.checks.evidence import Reading
from actloop.contracts import ActionChunk, Observation, Prediction, embodiment_from_dict
from actloop.errors import ActloopError, DataError
from actloop.loop.config import LoopConfig
from actloop.loop.controller import Controller
from actloop.loop.events import FORMAT, read_events
from actloop.loop.inference import Reply
from actloop.loop.latency import LatencyProfile
from actloop.loop.log.decided import Record, equal, of_ask, of_refusal, of_step, rounds, show, vector, words
from actloop.loop.questions import FRAME, Answer, Ticket

EPISODE = 0  # of the tickets here; those of another one have any other number
MOST = 20  # differences that are told; one usually leads to many more
PLANS = ("action", "foresight")  # layers whose answers are chunks
NOTED = ("requested", "replied", "refused", "stepped", "ticked", "absorbed")  # records of decisions, and their costs
COMMAND = ("wanted", "requested", "plan", "anchor", "index", "hold", "pace", "reasons", "rung")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of deciding again.

    Attributes:
        ticks: that were decided again, whole ones.
        compared: decisions by kind: `replied` (what became of an answer), `requested`, `refused`, `stepped`, `ticked`.
        differences: the first ones, in words; empty where every decision is the same.
        note: why not all of the log was compared, or empty.
    """

    ticks: int
    compared: Mapping[str, int]
    differences: tuple[str, ...]
    note: str = ""

    @property
    def same(self) -> bool:
        """Whether every decision came out as in the log."""
        return not self.differences


def replay(path: Path | str) -> Replay:
    """Decide the episode of a log again.

    Raises:
        DataError: the file cannot be read, holds no or several episodes, or was written by another version.
    """
    episodes = read_episodes(path)
    if len(episodes) != 1:
        raise DataError(f"{path}: expected the log of one episode, got {len(episodes)}")
    return replay_episode(episodes[0], name=str(path))


def read_episodes(path: Path | str) -> list[list[Record]]:
    """The records of a log, episode by episode.

    Raises:
        DataError: the file cannot be read, or begins with something else than an episode.
    """
    episodes: list[list[Record]] = []
    for record in read_events(path):
        if record.get("event") == "started":
            episodes.append([])
        if not episodes:
            raise DataError(f"{path}: expected the log of an episode, which begins with 'started', got {record}")
        episodes[-1].append(record)
    return episodes


def replay_episode(records: Sequence[Record], *, name: str = "log") -> Replay:
    """Decide the episode of `records` again, the first of which says how it began.

    Raises:
        DataError: the log is of another version, holds a residual, or lacks fields.
    """
    started = records[0]
    if started.get("format") != FORMAT:
        written = started.get("format", "of an older version")
        raise DataError(f"{name}: the log has format {written}, this version of actloop replays format {FORMAT}")
    if started["residual"]:
        reason = f"its actions were corrected by {started['residual']!r}, a function, which is not in the log"
        raise DataError(f"{name}: this episode cannot be replayed: {reason}")
    try:
        return _Again(started).play(records[1:])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{name}: not a log of the loop ({type(error).__name__}: {error})") from error


class _Again:
    """One episode, decided again."""

    def __init__(self, started: Record) -> None:
        config = LoopConfig.from_dict(started["loop"])
        layers = {
            layer: None if profile is None else LatencyProfile.from_dict(profile)
            for layer, profile in started["layers"].items()
        }
        body = embodiment_from_dict(started["body"])
        self._period, self._timed = body.period, started["clock"] == "wall"
        self._controller = Controller(body, started["horizon"], replace(config, strict=False), layers)
        self._controller.reset(EPISODE, started["instruction"])
        self._controller.judge()
        self._missed = 0
        self._tick = 0
        self._compared: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._differences: list[str] = []

    def play(self, records: Sequence[Record]) -> Replay:
        """Decide tick by tick what was decided then."""
        ended = next((record for record in records if record["event"] == "ended"), None)
        note = "" if ended else "the log ends before the episode does"
        rest: list[Record] = []
        try:
            for record in records:
                if record["event"] == "lost":
                    note = f"{record['count']} records were lost after tick {self._tick - 1}; compared up to there"
                    return self._result(note)
                if record["event"] in NOTED:
                    rest.append(record)
                if record["event"] == "ticked":
                    self._whole_tick(rest)
                    rest = []
                if len(self._differences) >= MOST:
                    return self._result("there may be more differences")
            self._last_tick(rest, ended)
        except ActloopError as error:
            self._differ(f"the log cannot be followed any further: {error}")
        return self._result(note)

    def _result(self, note: str) -> Replay:
        return Replay(
            ticks=self._tick,
            compared=dict(self._compared),
            differences=tuple(self._differences[:MOST]),
            note=note,
        )

    def _whole_tick(self, records: Sequence[Record]) -> None:
        *noted, ticked = records
        if ticked["tick"] != self._tick:
            self._differ(f"the log has tick {ticked['tick']} in its place")
        self._miss(ticked["missed"])
        self._decide(noted, ticked["begun"])
        self._command(ticked)
        self._controller.sent(vector(ticked["sent"]))
        self._tick += 1

    def _last_tick(self, noted: Sequence[Record], ended: Record | None) -> None:
        """A tick that came to no command: the episode ended in it, or the log did."""
        begun = None
        if ended is not None:
            self._miss(round(ended["time"] / self._period) - ended["ticks"])
            begun = ended["time"] if ended["begun"] is None and not self._timed else ended["begun"]
        crashed = ended is None or bool(ended["error"])
        if noted:
            self._decide(noted, begun, partly=crashed)
        if ended is not None:
            self._end(ended)

    def _miss(self, missed: int) -> None:
        if missed > self._missed:
            self._controller.miss(missed - self._missed)
        self._missed = missed

    def _decide(self, noted: Sequence[Record], begun: float | None, *, partly: bool = False) -> None:
        """Take the replies of a tick and ask, as often as the loop did."""
        asked_in = rounds(noted)
        for number, records in enumerate(asked_in):
            decided: list[Record] = []
            events = [record["event"] for record in records]
            before = events.index("requested") if "requested" in events else len(events)
            for record in records[:before]:
                if record["event"] == "replied":
                    decided += self._receive(record)
                elif record["event"] == "absorbed":
                    self._controller.absorbed(self._frame(record))
            asked = False
            if begun is not None:
                asks, refusals, steps = self._controller.asks(self._tick, begun)
                decided += map(of_step, steps)
                decided += map(of_refusal, refusals)
                decided += map(of_ask, asks)
                asked = bool(asks)
            for record in records[before:]:
                if record["event"] == "absorbed":
                    self._controller.absorbed(self._frame(record))
            records = [record for record in records if record["event"] != "absorbed"]
            if begun is None:  # what was asked cannot be known without the time at which it was
                self._compare(decided, records[: len(decided)], partly=partly)
                return
            self._compare(decided, records, partly=partly and number == len(asked_in) - 1)
            if not asked:
                self._compare([], [record for later in asked_in[number + 1 :] for record in later])
                return

    def _receive(self, record: Record) -> list[Record]:
        """What became of a reply, and what it led to."""
        ticket = Ticket(
            episode=EPISODE + (record["reason"] == "episode"),
            plan=record["plan"],
            tick=record["anchor"],
            layer=record["layer"],
        )
        reply = Reply(
            ticket=ticket,
            latency=record["latency"],
            computed=record["computed"],
            due=record["time"],
            answer=None if record["error"] else self._answer(record),
            error=ActloopError(record["error"]) if record["error"] else None,
        )
        received = self._controller.receive(reply, self._tick)
        if received.accepted and ticket.layer in PLANS:
            self._controller.judge()
        if ticket.layer in PLANS and not received.accepted:
            self._seen["dropped " + received.reason] += 1
        became = {name: getattr(received, name) for name in ("accepted", "reason", "delay", "skipped")}
        told = {"event": "replied", "layer": ticket.layer, "plan": ticket.plan, **became}
        return [told, *map(of_refusal, received.refusals), *map(of_step, received.steps)]

    def _frame(self, record: Record) -> Reply:
        """That a frame was taken in."""
        ticket = Ticket(episode=EPISODE, plan=FRAME, tick=record["anchor"])
        return Reply(ticket=ticket, latency=record["latency"], computed=record["computed"], due=record["time"])

    def _answer(self, record: Record) -> Answer:
        prediction = None
        if record["actions"] is not None:
            chunk = ActionChunk(
                actions=np.array(record["actions"], dtype=np.float32),
                anchor=record["anchor"],
                period=self._period,
                observed_at=record["observed_at"],
            )
            prediction = Prediction(chunk=chunk)
        return Answer(
            prediction=prediction,
            readings=tuple(self._reading(reading) for reading in record["readings"]),
            text=record["text"],
            done=record["done"],
            considered=record["considered"],
            values=tuple(record["values"]),
        )

    def _reading(self, said: Record) -> Reading:
        """A log has no infinite numbers: the alarm says which way one was."""
        alarm = said["alarm"]
        value = said["value"] if said["value"] is not None else math.inf if alarm else math.nan
        threshold = said["threshold"] if said["threshold"] is not None else -math.inf if alarm else math.inf
        raw = math.nan if said["raw"] is None else said["raw"]
        reading = Reading(check=said["check"], raw=raw, lead=said["lead"], value=value, threshold=threshold)
        if reading.alarm != alarm:
            found = "an alarm" if reading.alarm else "none"
            self._differ(f"{reading.check} reads {value:g} against {threshold:g}, {found}; the log says otherwise")
        return reading

    def _command(self, ticked: Record) -> None:
        obs = None
        if ticked["state"] is not None:
            obs = Observation(images={}, state=vector(ticked["state"]), tick=self._tick, time=ticked["time"])
        command = self._controller.command(obs, self._tick)
        decided = {
            "event": "ticked",
            "wanted": command.wanted,
            "requested": command.action,
            "plan": command.plan,
            "anchor": command.anchor,
            "index": command.index,
            "hold": command.hold,
            "pace": command.pace,
            "reasons": list(command.reasons),
            "rung": self._controller.rung,
        }
        self._seen["held " + command.hold if command.hold else "executed"] += 1
        self._compare([decided], [{name: ticked[name] for name in ("event", *COMMAND)}])

    def _end(self, ended: Record) -> None:
        """The sums of the episode, and why the loop itself ended it."""
        seen = self._seen
        dropped = {name.partition(" ")[2]: count for name, count in seen.items() if name.startswith("dropped ")}
        decided: dict[str, Any] = {
            "event": "ended",
            "ticks": self._tick,
            "executed": seen["executed"],
            "held_starved": seen["held starved"],
            "held_late": seen["held late"],
            "calls": seen["calls"],
            "dropped": dropped,
            "infeasible": self._controller.infeasible,
        }
        outcome = self._controller.outcome
        if outcome is not None and not ended["error"]:
            decided |= {"success": outcome.success, "reason": outcome.reason}
        self._compare([decided], [ended])

    def _compare(self, decided: Sequence[Record], logged: Sequence[Record], *, partly: bool = False) -> None:
        """One by one; `partly`: the log may have stopped among them."""
        for ours, theirs in zip(decided, logged, strict=False):
            self._compared[theirs["event"]] += 1
            if ours["event"] != theirs["event"]:
                self._differ(f"decided {words(ours)}, the log has {words(theirs)}")
                break
            for name in ours:
                if not equal(ours[name], theirs[name]):
                    told = f"{name} is {show(ours[name])}, the log has {show(theirs[name])}"
                    self._differ(f"{words(ours)}: {told}")
        for ours in decided[len(logged) :]:
            if not partly:
                self._differ(f"decided {words(ours)}, the log has no such record")
        for theirs in logged[len(decided) :]:
            self._differ(f"the log has {words(theirs)}, which was not decided")
        self._seen["calls"] += sum(ours["event"] == "requested" and ours["layer"] in PLANS for ours in decided)

    def _differ(self, words: str) -> None:
        self._differences.append(f"tick {self._tick}: {words}")
