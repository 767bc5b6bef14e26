"""Episodes on a Ray cluster: every process there runs one at a time, and sends home what it wrote.

units --> [station, station, ...] --record, files--> this process writes them
           `- one is lost: its episode is given to another, and nothing of the lost one is kept
"""

import pickle
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from actloop.errors import ActloopError, MissingDependency
from actloop.evaluation.runner import Job, Runner, Unit, crashed
from actloop.evaluation.subjects import source_identity

LOCAL = "local"
TRIES = 3  # stations that an episode may lose before it counts as what ends them
START = 300.0  # seconds for the first station to be ready
PATIENCE = 5.0  # for a machine to say that it is there, and for stations to clear up
LOOK = 5.0  # seconds between two looks at whether any is

Finished = tuple[Unit, dict[str, Any], float]
Files = dict[str, bytes]


def work_on_ray(job: Job, units: Iterator[Unit], count: int) -> Iterator[Finished]:
    """Finished episodes, in any order, from `job.config.workers` processes of the cluster at `job.config.ray`.

    `local` starts a cluster on this machine, and ends it. A process or machine that is lost is replaced, and its
    episode run again from the beginning: it is the same episode. One that has ended `TRIES` processes has crashed.

    Raises:
        MissingDependency: Ray is not installed.
        ActloopError: the cluster cannot be reached, starts nothing, or holds other weights.
    """
    ray = _ray()
    _check_there(job.config.ray)
    local = job.config.ray == LOCAL
    workers = min(job.config.workers, count)
    try:
        ray.init(
            address=LOCAL if local else job.config.ray,
            include_dashboard=False if local else None,
            num_cpus=workers if local else None,
            log_to_driver=False,
            logging_level="ERROR",
            ignore_reinit_error=False,
        )
    except Exception as error:  # Ray's own errors, of many kinds
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ActloopError(f"no Ray cluster at {job.config.ray!r} ({reason}); 'local' starts one here") from error
    try:
        yield from _Cluster(ray, job, workers).run(units)
    finally:
        ray.shutdown()


def _check_there(address: str) -> None:
    """Ray itself would try for a minute, in words of its own."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ActloopError(f"no Ray cluster at {address!r} ({error}); 'local' starts one here") from error


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise MissingDependency("ray", "it spreads episodes over machines", "pip install 'actloop[ray]'") from error


class Station:
    """What runs on the cluster: a runner in a folder of its own, with the calibrations of the run."""

    def __init__(self, packed: bytes, calibrations: Files, paths: list[str]) -> None:
        sys.path += [path for path in paths if path not in sys.path]
        job: Job = pickle.loads(packed)  # not before its modules can be found
        self._folder = Path(tempfile.mkdtemp(prefix="actloop-"))
        _write(self._folder, calibrations)
        self._kept = set(calibrations)
        self._runner = Runner(job=replace(job, config=replace(job.config, out=self._folder)))

    def ready(self, digests: Mapping[str, str]) -> list[str]:
        """The arms whose weights are other ones on this machine."""
        arms = self._runner.job.config.arms
        return [name for name, held in digests.items() if held and source_identity(arms[name]).get("digest") != held]

    def run(self, unit: Unit) -> tuple[dict[str, Any], Files]:
        """One episode: its record, and what it wrote."""
        record = self._runner.run(unit)
        written = [path for path in self._folder.rglob("*") if path.is_file()]
        files = {path.relative_to(self._folder).as_posix(): path for path in written}
        found = {name: path.read_bytes() for name, path in files.items() if name not in self._kept}
        for name in found:
            files[name].unlink()
        return record, found

    def close(self) -> None:
        """Let go of the world, the policies and the folder."""
        self._runner.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class _Cluster:
    """The stations of one run, and what each of them is doing."""

    def __init__(self, ray: Any, job: Job, workers: int) -> None:
        self._ray, self._job = ray, job
        out = job.config.out
        self._calibrations = {
            path.relative_to(out).as_posix(): path.read_bytes() for path in (out / "calibrations").rglob("*.json")
        }
        self._make = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Station).remote
        self._begun = time.monotonic()
        self._doing: dict[Any, tuple[Any, Unit | None, float]] = {}  # by reference: station, episode, since when
        self._idle: list[Any] = []
        self._lost: Counter[Unit] = Counter()
        self._again: list[Unit] = []
        self._failed_starts = 0
        for _ in range(workers):
            self._start()

    def run(self, units: Iterator[Unit]) -> Iterator[Finished]:
        """Give units to whoever is idle until there are none; those of lost stations first."""
        try:
            while True:
                while self._idle and (unit := self._next(units)) is not None:
                    self._give(self._idle.pop(), unit)
                if not any(unit for _, unit, _ in self._doing.values()) and self._idle:
                    return
                yield from self._hear()
        finally:
            self._close()

    def _next(self, units: Iterator[Unit]) -> Unit | None:
        return self._again.pop(0) if self._again else next(units, None)

    def _start(self) -> None:
        """A further station; it takes episodes once the cluster has found room for it."""
        station = self._make(pickle.dumps(self._job), self._calibrations, [path for path in sys.path if path])
        digests = {name: held for name, held in self._job.digests.items() if name in self._job.config.arms}
        self._doing[station.ready.remote(digests)] = (station, None, time.perf_counter())

    def _give(self, station: Any, unit: Unit) -> None:
        self._doing[station.run.remote(unit)] = (station, unit, time.perf_counter())

    def _hear(self) -> Iterator[Finished]:
        done, _ = self._ray.wait(list(self._doing), num_returns=1, timeout=LOOK)
        if not done and not self._idle and not any(unit for _, unit, _ in self._doing.values()):
            self._check_started()
        for reference in done:
            station, unit, since = self._doing.pop(reference)
            try:
                found = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:  # the disk is full, or it cannot be made ready
                raise _cause(error) from error
            except self._ray.exceptions.RayError as error:  # of its process, or its machine
                yield from self._bury(unit, since, f"{error}".strip().splitlines()[-1])
                continue
            self._idle.append(station)
            if unit is None:
                self._failed_starts = 0
                _check_weights(found)
                continue
            record, files = found
            _write(self._job.config.out, files)
            yield unit, record, time.perf_counter() - since

    def _bury(self, unit: Unit | None, since: float, why: str) -> Iterator[Finished]:
        """A station is lost: another takes its place, and its episode is run again."""
        if unit is None:
            self._failed_starts += 1
            if self._failed_starts > TRIES:
                raise ActloopError(f"processes of the Ray cluster end before they are ready ({why}); see its logs")
        self._start()
        if unit is None:
            return
        self._lost[unit] += 1
        if self._lost[unit] < TRIES:
            self._again.append(unit)
            return
        said = f"ProcessDied: {TRIES} processes of the cluster ended in this episode"
        yield unit, crashed(self._job, unit, said), time.perf_counter() - since

    def _check_started(self) -> None:
        waited = time.monotonic() - self._begun
        if waited > START:
            free = self._ray.available_resources().get("CPU", 0)
            raise ActloopError(f"the Ray cluster started nothing in {waited:.0f} s ({free:g} CPUs are free there)")

    def _close(self) -> None:
        if self._idle:  # a cluster that ends at once would leave their folders behind
            closing = [station.close.remote() for station in self._idle]
            self._ray.wait(closing, num_returns=len(closing), timeout=PATIENCE)
        for station, _, _ in self._doing.values():
            self._ray.kill(station)


def _check_weights(others: list[str]) -> None:
    if others:
        reason = f"a machine of the cluster has other weights for {', '.join(others)}"
        raise ActloopError(f"{reason}; the episodes would not be comparable: copy the same files there")


def _cause(error: Any) -> Exception:
    """What was raised there, as far as it is ours or the system's; else what Ray makes of it."""
    cause = error.cause
    found: Exception = cause if isinstance(cause, ActloopError | OSError) else ActloopError(str(error))
    return found


def _write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
