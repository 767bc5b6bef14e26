"""What happened, tick by tick, told to whoever listens; listeners can neither slow nor break a tick.

    loop --event--> Bus --on_event--> Subscriber (event log, video, viewer, counters)

In-process subscribers get the observations and predictions themselves; the log on disk gets what JSON can hold.
"""

import contextlib
import json
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from actloop.checks.evidence import Reading
from actloop.contracts import Action, Embodiment, Observation, Prediction, State, Task
from actloop.errors import DataError
from actloop.loop.log.encoding import pack
from actloop.loop.log.lines import encode
from actloop.loop.result import EpisodeResult

FORMAT = 2  # of the log; another one does not replay


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened at `time`, seconds since the first tick of the episode, on the loop's clock."""

    kind: ClassVar[str] = "event"
    live: ClassVar[frozenset[str]] = frozenset()  # fields for in-process subscribers only, kept out of the log

    episode: int
    tick: int
    time: float

    def record(self) -> dict[str, object]:
        """What a log gives back: JSON-ready, fields in the order of their declaration."""
        plain: dict[str, object] = json.loads(encode(pack(self)))
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeStarted(Event):
    """The world is reset. `embodiment_id` changes with anything that the body declares.

    `loop`, `body` and `layers` (their declared latencies, None where they are measured) are all that the decisions
    rest on besides what follows: the log replays, unless there was a `residual`, whose name is left of it.
    """

    kind: ClassVar[str] = "started"
    live: ClassVar[frozenset[str]] = frozenset({"task", "embodiment", "observation"})

    format: int = FORMAT
    task_name: str
    instruction: str
    seed: int
    clock: str
    latency: str
    period: float
    horizon: int
    execute_horizon: int
    embodiment_id: str
    loop: Mapping[str, object]
    body: Mapping[str, object]
    layers: Mapping[str, object]
    residual: str = ""
    task: Task
    embodiment: Embodiment
    observation: Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested(Event):
    """A layer was asked.

    `why`: `first`, `executed`, `spending` (asked early, it would run out), `spent`, `disagrees` (a check), `told`
    (another instruction), `every` or `ladder`. `deadline` is None where the answer is always worth having.
    """

    kind: ClassVar[str] = "requested"
    live: ClassVar[frozenset[str]] = frozenset({"observation"})

    layer: str
    plan: int
    why: str
    instruction: str
    deadline: float | None
    candidates: int
    fixed: int
    observation: Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Replied(Event):
    """An answer came, or an error.

    `reason` says why it was dropped: `episode`, `plan`, `older` or `error`; empty when accepted. `latency` is seconds
    from asking to here, `computed` those of computing, `actions` the chunk as it was given. `overdue`: it came after
    its deadline.
    """

    kind: ClassVar[str] = "replied"
    live: ClassVar[frozenset[str]] = frozenset({"prediction"})

    layer: str
    plan: int
    anchor: int
    accepted: bool
    reason: str
    delay: int
    skipped: float
    latency: float
    computed: float
    overdue: bool = False
    error: str = ""
    observed_at: float | None = None
    actions: Float[np.ndarray, "horizon action"] | None = None
    readings: tuple[Reading, ...] = ()
    text: str = ""
    done: bool | None = None
    considered: int = 0
    values: tuple[float, ...] = ()
    prediction: Prediction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorbed(Event):
    """The policy has taken in a frame that it was asked nothing about, of tick `anchor`.

    `latency` and `computed` as in `Replied`: computing that a later question does not wait for any more.
    """

    kind: ClassVar[str] = "absorbed"

    anchor: int
    latency: float
    computed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagined(Event):
    """An accepted answer came with a future: images `future_period` seconds apart, decoded when somebody looks."""

    kind: ClassVar[str] = "imagined"
    live: ClassVar[frozenset[str]] = frozenset({"prediction"})

    plan: int
    anchor: int
    cameras: tuple[str, ...]
    future_period: float
    prediction: Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """A question was not put, or a rung not taken: for want of budget or time. `instead` says what was done."""

    kind: ClassVar[str] = "refused"

    layer: str
    why: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepped(Event):
    """The ladder was climbed, or left. `cause` is the check that raised the alarm, or `calm`."""

    kind: ClassVar[str] = "stepped"

    rung: str
    before: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked(Event):
    """A command was sent.

    `begun` is when the tick began, `time` when the command went out. `wanted` is what the chunk has for this tick,
    `requested` what was asked of the robot after joining, pace and limits, with the `reasons` why they differ, and
    `sent` what the world says it did. `hold` is empty, `starved` (no chunk came yet), `late` (the plan is spent),
    `stale` (it rests on too old an observation) or `told`; then `plan`, `anchor` and `index` are -1 and `age` is None.
    `age` is seconds since the capture of the observation behind the action, `missed` the places of the grid left
    empty so far, `state` what was measured, where the decision looked at it. `observation` is the one of this tick,
    if one was taken.
    """

    kind: ClassVar[str] = "ticked"
    live: ClassVar[frozenset[str]] = frozenset({"observation"})

    begun: float
    wanted: Action
    requested: Action
    sent: Action
    plan: int
    anchor: int
    index: int
    hold: str
    pace: float
    reasons: tuple[str, ...]
    rung: str
    age: float | None
    missed: int
    state: State | None
    observation: Observation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident(Event):
    """Something that was made to go wrong shows from `tick` on, or does not any more: `phase` `begins` or `ends`.

    The loop knows nothing of it; whoever disturbs the world tells it to the log.
    """

    kind: ClassVar[str] = "incident"

    fault: str
    phase: Literal["begins", "ends"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeEnded(Event):
    """The episode is over; `observation` is the last one, if the world could still give it.

    `begun` is when the last tick began, whether or not it came to a command; None where that is not known.
    """

    kind: ClassVar[str] = "ended"
    live: ClassVar[frozenset[str]] = frozenset({"result", "observation"})

    success: bool
    reason: str
    error: str
    ticks: int
    executed: int
    held_starved: int
    held_late: int
    calls: int
    dropped: Mapping[str, int]
    infeasible: str
    begun: float | None = None
    result: EpisodeResult
    observation: Observation | None


@runtime_checkable
class Subscriber(Protocol):
    """Listens. What it raises is counted and reported with the episode; it never reaches the robot."""

    def on_event(self, event: Event) -> None: ...


@runtime_checkable
class Immediate(Subscriber, Protocol):
    """A subscriber that takes microseconds and waits for nothing: it listens in the thread of the ticks."""

    @property
    def immediate(self) -> Literal[True]: ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What it could not keep, in words, so far."""
        ...


class Bus:
    """Tells subscribers, in order, in this thread: for the virtual clock, where time stands still meanwhile."""

    def __init__(self, subscribers: Sequence[Subscriber] = ()) -> None:
        self._subscribers = tuple(subscribers)
        self._failures: Counter[str] = Counter()

    def publish(self, event: Event) -> None:
        for subscriber in self._subscribers:
            try:
                subscriber.on_event(event)
            except Exception as error:  # whatever a recorder raises is its own affair
                self._failures[f"{type(subscriber).__name__}: {type(error).__name__}: {error}"] += 1

    def close(self) -> tuple[str, ...]:
        """Finish, and say what went wrong, once each, with how often."""
        said = tuple(f"{what} ({count} times)" for what, count in self._failures.items())
        lacking = (subscriber.warnings for subscriber in self._subscribers if isinstance(subscriber, Immediate))
        return said + tuple(warning for warnings in lacking for warning in warnings)


class ThreadedBus(Bus):
    """Tells subscribers in another thread: for the wall clock. A full queue drops events, counted, and never blocks.

    Those that are `Immediate` are told in the thread of the ticks: what they keep outlives a process that is killed.
    """

    def __init__(self, subscribers: Sequence[Subscriber] = (), *, size: int = 1024, timeout: float = 5.0) -> None:
        super().__init__([subscriber for subscriber in subscribers if not isinstance(subscriber, Immediate)])
        self._immediate = Bus([subscriber for subscriber in subscribers if isinstance(subscriber, Immediate)])
        self._queue: queue.Queue[Event | None] = queue.Queue(maxsize=size)
        self._timeout = timeout
        self._lost = 0
        self._thread = threading.Thread(target=self._drain, name="actloop-events", daemon=True)
        if self._subscribers:  # a thread without work would still be woken by every event
            self._thread.start()

    def publish(self, event: Event) -> None:
        self._immediate.publish(event)
        if not self._subscribers:
            return
        try:
            self._queue.put_nowait(event)
        except queue.Full:
            self._lost += 1

    def close(self) -> tuple[str, ...]:
        """Wait for the subscribers, for as long as the timeout, and say what went wrong."""
        slow: tuple[str, ...] = ()
        if self._subscribers:
            with contextlib.suppress(queue.Full):
                self._queue.put(None, timeout=self._timeout)
                self._thread.join(self._timeout)
        if self._thread.is_alive():
            slow = (f"subscribers were still busy {self._timeout:g} s after the end and were left behind",)
        lost = (f"{self._lost} events were dropped because subscribers were too slow",) if self._lost else ()
        return super().close() + self._immediate.close() + lost + slow

    def _drain(self) -> None:
        while (event := self._queue.get()) is not None:
            super().publish(event)


class EventLog:
    """Writes events as JSON lines, flushed every tick, with bytes that follow from the events alone."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8", newline="\n")

    def on_event(self, event: Event) -> None:
        self._file.write(encode(pack(event)) + "\n")
        if isinstance(event, Ticked | EpisodeEnded):
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_events(path: Path | str) -> list[dict[str, object]]:
    """The records of an `EventLog`, without a last line that was cut off.

    Raises:
        DataError: there is no such file, or a line other than the last is no record.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot read the event log ({error})") from error
    return list(_records(Path(path), lines))


def _records(path: Path, lines: Sequence[bytes]) -> Iterator[dict[str, object]]:
    complete, rest = lines[:-1], lines[-1]  # a finished log ends with a newline, so `rest` is empty
    for number, line in enumerate(complete, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not an event ({error}); was the file edited?") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}, line {number}: expected a JSON object, got {type(record).__name__}")
        yield record
    if rest:
        try:
            record = json.loads(rest)
        except ValueError:
            return
        if isinstance(record, dict):
            yield record
