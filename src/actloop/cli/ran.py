"""`actloop run`, `serve` and `calibrate`: the layers of a stack file, on a world or a robot, or behind a port.

run_stack --> OUT/run.json (the stack, versions, results so far), OUT/events/<task>-<seed>.jsonl, tables
"""

import itertools
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.live import Live as Display
from rich.text import Text

from actloop.cli.running import Shown, line, remarks, tables
from actloop.cli.text import as_json
from actloop.contracts import Task
from actloop.errors import ContractError, DataError
from actloop.evaluation.identity import identity
from actloop.evaluation.run import write_json
from actloop.evaluation.runner import file_name
from actloop.loop.events import EventLog, Subscriber
from actloop.loop.log.journal import Journal
from actloop.loop.result import EpisodeResult
from actloop.simulation.registry import tasks_of
from actloop.stack.calibrating import calibrate_stack
from actloop.stack.declared import Stack
from actloop.stack.describing import describe_stack
from actloop.stack.opened import OpenStack, open_stack
from actloop.stack.reader import read_stack
from actloop.stack.served import serve_layer

FORMAT = "actloop.run.1"
SHOWN_EVERY = 0.5  # seconds between two looks at a running episode
Clock = Literal["virtual", "wall"]
INTERRUPTED = "interrupted"


def _check_numbers(seed: int, episodes: int) -> None:
    for name, value, least in (("--seed", seed, 0), ("--episodes", episodes, 1)):
        if value < least:
            raise ContractError(name, f"expected {least} or more, got {value}")


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
    _check_numbers(seed, episodes)
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
    _check_numbers(seed, episodes)
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


def _left(stack: Stack) -> str:
    return "the robot was told to hold" if stack.world.real else "the episode was ended"
