"""What one episode was: its outcome and everything the clock had to say about it, ready for JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from actloop.contracts import Outcome
from actloop.errors import ContractError


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeResult:
    """One finished episode. Times are seconds, delays and counts are control ticks.

    Attributes:
        task: name of the task.
        clock: `virtual`, `wall` or `paused`.
        latency: name of the latency profile; `measured` where calls were timed.
        period: seconds between ticks.
        horizon: actions in a chunk of this policy.
        ticks: commands sent, one per tick: `executed + held`.
        executed: ticks that had a fresh action.
        held_starved: ticks held before the first chunk came.
        held_late: ticks held later, because a plan was spent before the next one came.
        held_stale: ticks held because the plan rested on too old an observation.
        held_told: ticks held because the ladder said so.
        calls: times a chunk was asked for.
        asked: questions by layer.
        computed: seconds of computing by layer.
        refused: questions that were not put, by layer, for want of budget or time.
        timed_out: questions that were given up, by layer.
        superseded: questions that a newer one replaced before anybody had started on them.
        overdue: answers that came after their deadline.
        alarms: looks on which a check was over its threshold.
        rungs: of the ladder, how often each was taken.
        modified: ticks in which limits changed the command, by reason.
        latencies: of every chunk, accepted or not, in the order of arrival.
        ages: of the observation behind each executed action, at the time of the action.
        delays: per accepted reply, ticks from its observation to its first use.
        skipped: per accepted reply, actions of the chunk that were overtaken.
        dropped: chunks that came too late to be used, by reason.
        lateness: of each tick on the wall clock against its grid; empty on the virtual clock, which is never late.
        missed: places of the grid that no command was sent in, because the process was stopped for that long.
        infeasible: why this latency cannot feed the robot without pauses; empty where it can.
        error: what ended the episode, if the world or the policy broke; empty otherwise.
        warnings: what went wrong without touching the episode, such as a recorder that failed.
        wall_seconds: how long the episode took to run on this machine.
    """

    task: str
    seed: int
    outcome: Outcome
    clock: str
    latency: str
    period: float
    horizon: int
    execute_horizon: int
    ticks: int = 0
    executed: int = 0
    held_starved: int = 0
    held_late: int = 0
    held_stale: int = 0
    held_told: int = 0
    calls: int = 0
    asked: Mapping[str, int] = field(default_factory=dict)
    computed: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    timed_out: Mapping[str, int] = field(default_factory=dict)
    superseded: int = 0
    overdue: int = 0
    alarms: int = 0
    rungs: Mapping[str, int] = field(default_factory=dict)
    modified: Mapping[str, int] = field(default_factory=dict)
    latencies: tuple[float, ...] = ()
    ages: tuple[float, ...] = ()
    delays: tuple[int, ...] = ()
    skipped: tuple[float, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    lateness: tuple[float, ...] = ()
    missed: int = 0
    infeasible: str = ""
    error: str = ""
    warnings: tuple[str, ...] = ()
    wall_seconds: float = 0.0

    @property
    def success(self) -> bool:
        return self.outcome.success

    @property
    def held(self) -> int:
        """Ticks without a fresh action."""
        return self.held_starved + self.held_late + self.held_stale + self.held_told

    @property
    def crashed(self) -> bool:
        """Whether the world or the policy broke; a crash counts as a failure, never as a missing episode."""
        return bool(self.error)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form, read back by `from_dict`."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "EpisodeResult":
        """The result that `to_dict` wrote.

        Raises:
            ContractError: a field is missing, unknown or of the wrong form.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(plain) - known)
        if unknown:
            raise ContractError("result", f"unknown fields {unknown}; it was written by another version")
        try:
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
            }
            return cls(**(values | {"outcome": Outcome(**plain["outcome"])}))
        except (KeyError, TypeError) as error:
            raise ContractError("result", f"not a saved episode ({type(error).__name__}: {error})") from error
