"""How far a comparison is, and how long it will still take, from what like episodes took so far."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress

from actloop.evaluation.runner import Unit

Kind = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Episodes done of all, seconds left (None until it can be told), and the episode that was finished last."""

    done: int
    total: int
    remaining: float | None
    last: Unit | None = None


@dataclass(slots=True, kw_only=True)
class Estimate:
    """Expects of each missing episode what its like took: same arm, condition and task, or else the same arm."""

    total: int
    done: int
    missing: Sequence[Unit]
    workers: int
    _left: dict[Kind, int] = field(default_factory=lambda: defaultdict(int))
    _taken: dict[Kind, list[float]] = field(default_factory=lambda: defaultdict(list))
    _last: Unit | None = None

    def __post_init__(self) -> None:
        for unit in self.missing:
            self._left[_kind(unit)] += 1

    def add(self, unit: Unit, seconds: float) -> None:
        self.done += 1
        self._left[_kind(unit)] -= 1
        self._taken[_kind(unit)].append(seconds)
        self._last = unit

    def progress(self) -> Progress:
        return Progress(done=self.done, total=self.total, remaining=self._remaining(), last=self._last)

    def _remaining(self) -> float | None:
        if not self._taken:
            return None if self.done < self.total else 0.0
        by_arm: dict[str, list[float]] = defaultdict(list)
        for (arm, _, _), seconds in self._taken.items():
            by_arm[arm] += seconds
        every = [seconds for taken in by_arm.values() for seconds in taken]
        work = sum(
            left * _mean(self._taken.get(kind) or by_arm.get(kind[0]) or every) for kind, left in self._left.items()
        )
        return work / max(1, min(self.workers, self.total - self.done))


class ProgressBar:
    """A bar on the terminal for `compare(config, bar)`; a plain line now and then where there is no terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = RichProgress(
            TextColumn("[bold]comparing"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._told = -1

    def __enter__(self) -> "ProgressBar":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        left = "estimating" if progress.remaining is None else f"{spoken(progress.remaining)} left"
        if self._task is None:
            self._task = self._bar.add_task("", total=progress.total, left=left)
        self._bar.update(self._task, completed=progress.done, left=left)
        tenth = 10 * progress.done // max(1, progress.total)
        if not self._console.is_terminal and tenth > self._told:
            self._told = tenth
            self._console.print(f"comparing: {progress.done} of {progress.total} episodes, {left}", highlight=False)


def spoken(seconds: float) -> str:
    """A duration as one would say it: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 90:
        return f"{round(seconds)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _kind(unit: Unit) -> Kind:
    return unit.arm, unit.condition, unit.task


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
