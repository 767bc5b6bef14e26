"""`actloop run`, `serve` and `calibrate`: the layers of a stack file, on a world or a robot, or behind a port.

run_stack --> OUT/run.json (the stack, versions, results so far), OUT/events/<task>-<seed>.jsonl, tables
"""

import itertools
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live as Display
from rich.table import Table
from rich.text import Text

from actloop.cli.text import as_json
from actloop.contracts import Task
from actloop.errors import ContractError, DataError
from actloop.evaluation.identity import identity
from actloop.evaluation.run import write_json
from actloop.evaluation.runner import file_name
from actloop.loop.events import EpisodeStarted, Event, EventLog, Replied, Requested, Stepped, Subscriber, Ticked
from actloop.loop.journal import Journal
from actloop.loop.latency import quantile
from actloop.loop.questions import LAYERS
from actloop.loop.result import EpisodeResult
from actloop.simulation.registry import tasks_of
from actloop.stack.calibrating import calibrate_stack
from actloop.stack.declared import CheckTable, Stack
from actloop.stack.describing import describe_stack
from actloop.stack.opened import OpenStack, open_stack
from actloop.stack.reader import read_stack
from actloop.stack.served import serve_layer

FORMAT = "actloop.run.1"
SHOWN_EVERY = 0.5  # seconds between two looks at a running episode
Clock = Literal["virtual", "wall"]
INTERRUPTED = "interrupted"


def run_stack(
    path: Path,
    *,
    tasks: Sequence[str] = (),
    seed: int = 0,
    episodes: int = 1,
    clock: Clock | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Run every task `episodes` times, counting the seeds up; on the wall clock where the world is a robot.

    Raises:
        ActloopError: the file, the models and the world do not fit together.
        ContractError: the folder holds another run.
        KeyboardInterrupt: after the robot was told to hold and the log was closed.
    """
    stack = read_stack(path)
    clock = clock or ("wall" if stack.world.real else "virtual")
    out = out or Path("runs", f"{stack.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    if (out / "run.json").exists():
        raise ContractError("--out", f"{out} holds a run already; name another folder")
    console = Console(quiet=json, markup=False, highlight=False)
    with console.status("loading the models"):
        opened = open_stack(stack, clock=clock)
    with opened:
        run = _Run(opened, out, console)
        for line in remarks(stack, opened):
            console.print(Text(line, style="dim"))
        with _stopping(opened, console):
            chosen = tasks_of(opened.world, tasks) if tasks else opened.tasks
            for task, number in itertools.product(chosen, range(seed, seed + episodes)):
                run.episode(task, number)
                if run.interrupted:
                    break
    if json:
        print(as_json(run.to_dict()))
    else:
        console.print(*tables(run.results, opened), sep="\n")
        console.print(f"events and results: {out}")
    if run.interrupted:
        raise KeyboardInterrupt(f"interrupted; {_left(stack)}, and what was run is kept in {out}")


def serve(path: Path, layer: str, *, host: str, port: int, token_file: Path | None) -> None:
    """Serve one layer until interrupted.

    Raises:
        ActloopError: there is no such layer, its models cannot be loaded, or the port cannot be listened on.
    """
    token = None
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"--token-file: cannot be read ({error})") from error
    console = Console(markup=False, highlight=False)
    with console.status("loading the model"):
        server = serve_layer(read_stack(path), layer, host=host, port=port, token=token)
    with server:
        console.print(f"serving {layer} of {path.name} at {server.url}, to one robot at a time; Ctrl-C ends it")
        server.wait()


def calibrate(
    path: Path,
    *,
    tasks: Sequence[str] = (),
    episodes: int,
    seed: int,
    alpha: float,
    clock: Clock | None = None,
    out: Path,
    json: bool = False,
) -> None:
    """Run a stack without its faults, and write thresholds for its checks.

    Raises:
        TooFewEpisodes: fewer succeeded than the rate needs; says how many it needs.
        ActloopError: the file, the models and the world do not fit together.
    """
    stack, console = read_stack(path), Console(quiet=json, markup=False, highlight=False)
    with console.status("calibrating") as shown:
        found = calibrate_stack(
            stack,
            alpha=alpha,
            episodes=episodes,
            seed=seed,
            tasks=tasks,
            clock=clock or ("wall" if stack.world.real else "virtual"),
            progress=lambda run, won: shown.update(f"{run} episodes run, {won} succeeded"),
        )
    found.calibration.save(out)
    guarantee = found.calibration.guarantee
    if json:
        print(as_json({"episodes": found.episodes, "successes": found.successes, "guarantee": guarantee, "file": out}))
        return
    console.print(f"{found.successes} of {found.episodes} episodes succeeded and were calibrated on")
    console.print(guarantee.statement)
    console.print(f"written: {out}; name it as `calibration` in [check]")


class _Run:
    """What was run so far, and its folder."""

    def __init__(self, opened: OpenStack, out: Path, console: Console) -> None:
        self._opened, self._out, self._console = opened, out, console
        self._facts = {
            "format": FORMAT,
            "stack": describe_stack(opened.stack),
            "clock": opened.clock,
            "places": opened.places,
            "identity": identity([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        self._records: list[dict[str, Any]] = []
        self.results: list[EpisodeResult] = []
        self._write()

    @property
    def interrupted(self) -> bool:
        return bool(self.results) and self.results[-1].outcome.reason == INTERRUPTED

    def to_dict(self) -> dict[str, Any]:
        return self._facts | {"episodes": self._records}

    def episode(self, task: Task, seed: int) -> None:
        """Run one, log it, and keep its result at once."""
        log = Path("events", f"{file_name(task.name)}-{seed}.jsonl")
        shown = Shown(f"{task.name}, seed {seed}")
        writer = (Journal if self._opened.clock == "wall" else EventLog)(self._out / log)
        told: tuple[Subscriber, ...] = (writer, shown)
        try:
            with _display(shown, self._console):
                result = self._opened.run(task, seed=seed, subscribers=told, episode=len(self.results))
        finally:
            writer.close()
        self.results.append(result)
        self._records.append({"task": task.name, "seed": seed, "events": log.as_posix(), "result": result.to_dict()})
        self._write()
        self._console.print(line(result))
        for warning in (*result.warnings, *getattr(writer, "warnings", ())):
            self._console.print(Text(f"  {warning}", style="yellow"))

    def _write(self) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        write_json(self._out / "run.json", self.to_dict())


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


@contextmanager
def _display(shown: Shown, console: Console) -> Iterator[None]:
    if not console.is_terminal or console.quiet:
        yield
        return
    with Display(shown, console=console, refresh_per_second=1 / SHOWN_EVERY, transient=True):
        yield


@contextmanager
def _stopping(opened: OpenStack, console: Console) -> Iterator[None]:
    """The first Ctrl-C ends the episode with its tick, a second one everything at once."""

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        opened.stop(INTERRUPTED)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


def _left(stack: Stack) -> str:
    return "the robot was told to hold" if stack.world.real else "the episode was ended"
