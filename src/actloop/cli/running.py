"""What `actloop run` prints: a line about a running episode, one about a finished one, and two tables in the end."""

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from actloop.loop.events import EpisodeStarted, Event, Replied, Requested, Stepped, Ticked
from actloop.loop.latency import quantile
from actloop.loop.questions import LAYERS
from actloop.loop.result import EpisodeResult
from actloop.stack.declared import CheckTable, Stack
from actloop.stack.opened import OpenStack


class Shown:
    """A subscriber that keeps one line about a running episode."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._time, self._limit = 0.0, 0.0
        self._rung = ""
        self._held = self._calls = self._alarms = 0

    def on_event(self, event: Event) -> None:
        self._time = event.time
        if isinstance(event, EpisodeStarted):
            self._limit = event.task.time_limit
        elif isinstance(event, Ticked):
            self._held += bool(event.hold)
        elif isinstance(event, Requested):
            self._calls += event.layer in ("action", "foresight")
        elif isinstance(event, Replied):
            self._alarms += any(reading.alarm for reading in event.readings)
        elif isinstance(event, Stepped):
            self._rung = event.rung

    def __rich__(self) -> Text:
        rung = f", {self._rung}" if self._rung and self._rung != "continue" else ""
        said = f"{self._calls} chunks asked for, {self._held} ticks held, {self._alarms} alarms{rung}"
        return Text(f"{self._name}: {self._time:.1f} of {self._limit:g} s, {said}")


def remarks(stack: Stack, opened: OpenStack) -> list[str]:
    """What one should know before the first tick."""
    where = ", ".join(f"{layer} {place}" for layer, place in opened.places.items())
    said = [f"{stack.name} on {opened.world.embodiment.name}, {opened.clock} clock: {where}"]
    for layer in stack.offline:
        said.append(f"[{layer}] is placed offline: it is not asked here")
    if isinstance(stack.check, CheckTable) and stack.check.calibration is None and "check" not in stack.offline:
        said.append("[check] has no calibration: it measures, and raises no alarms")
    return said


def line(result: EpisodeResult) -> Text:
    """One finished episode."""
    mark, style = ("success", "green") if result.success else ("failure", "red")
    why = result.error or ("" if result.success else result.outcome.reason)
    text = Text(f"{result.task}, seed {result.seed}: ").append(mark, style=style)
    text.append(f" after {result.outcome.time:.1f} s" + (f" ({why})" if why else ""))
    return text.append(f", {result.calls} chunks asked for, {result.held} of {result.ticks} ticks held")


def tables(results: Sequence[EpisodeResult], opened: OpenStack) -> list[Table]:
    """Over all episodes: what became of them, and what each layer did."""
    if not results:
        return []
    return [_summary(results), _layers(results, opened)]


def _summary(results: Sequence[EpisodeResult]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    wins = [result.outcome.time for result in results if result.success]
    ticks = sum(result.ticks for result in results)
    rows = [("success", f"{len(wins)} of {len(results)}" + (f", after {_mid(wins)} s" if wins else ""))]
    held = {
        why: sum(getattr(result, f"held_{why}") for result in results) for why in ("starved", "late", "stale", "told")
    }
    rows.append(("ticks held", _counted(held) + f" of {ticks}"))
    rows.append(("alarms", str(sum(result.alarms for result in results))))
    rows.append(("rungs", _counted(_added(result.rungs for result in results))))
    rows.append(("limited", _counted(_added(result.modified for result in results))))
    rows.append(("age of view", _spread([age for result in results for age in result.ages])))
    late = [value for result in results for value in result.lateness]
    if late:
        rows.append(("lateness of ticks", _spread(late)))
        rows.append(("ticks missed", str(sum(result.missed for result in results))))
    for infeasible in {result.infeasible for result in results if result.infeasible}:
        rows.append(("too slow", infeasible))
    for row in rows:
        table.add_row(*row)
    return table


def _layers(results: Sequence[EpisodeResult], opened: OpenStack) -> Table:
    seconds = sum(result.outcome.time for result in results)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("layer", "place", "asked", "refused", "timed out", "computing s/s"):
        table.add_column(name, justify="left" if name in ("layer", "place") else "right")
    for layer in LAYERS:
        if layer in opened.places:
            counts = [sum(getattr(result, what).get(layer, 0) for result in results) for what in _COUNTED]
            spent = sum(result.computed.get(layer, 0.0) for result in results)
            share = f"{spent / seconds:.3f}" if seconds else "-"
            table.add_row(layer, opened.places[layer], *map(str, counts), share)
    return table


_COUNTED = ("asked", "refused", "timed_out")


def _mid(values: Sequence[float]) -> str:
    return f"{quantile(tuple(values), 0.5):.1f}"


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    p50, p99 = (1000 * quantile(tuple(seconds), q) for q in (0.5, 0.99))
    return f"{p50:.1f} ms in the middle, {p99:.1f} ms at the 99th of 100"


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            total[name] = total.get(name, 0) + count
    return total


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"
