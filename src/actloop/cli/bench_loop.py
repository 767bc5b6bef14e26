"""`actloop bench loop`: how late the ticks are on this machine, and what the loop itself costs."""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from actloop.cli.text import as_json, columns
from actloop.errors import UnknownNameError
from actloop.testing.loop_bench import ARMS, RATES, LoopTiming, bench_loop
from actloop.testing.loop_meter import Spread


def show_loop_bench(
    rates: Sequence[float] = RATES,
    *,
    arms: Sequence[str] = (),
    seconds: float = 10.0,
    think_ms: float = 100.0,
    spin_us: float = 0.0,
    priority: int = 0,
    json: bool = False,
) -> None:
    """Print what each arm did at each rate, all arms where none is named; see `bench_loop`.

    Raises:
        UnknownNameError: no such arm.
        ContractError: a number is out of range, or this user may not have the priority.
    """
    known = {arm.name: arm for arm in ARMS}
    for name in arms:
        if name not in known:
            raise UnknownNameError("arm", name, known)
    chosen = [known[name] for name in arms] or ARMS
    about: dict[str, object] = {
        "machine": _processor(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "load": os.getloadavg()[0],
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "scheduling": _scheduling(priority),
        "think_ms": think_ms,
        "spin_us": spin_us,
        "seconds": seconds,
    }
    if not json:
        print(_headline(about), flush=True)
    timings = []
    for timing in bench_loop(
        rates=rates, arms=chosen, seconds=seconds, think=think_ms / 1000, spin=spin_us / 1e6, priority=priority
    ):
        timings.append(timing)
        if not json and sys.stderr.isatty():
            print(f"\r{len(timings)} measured: {timing.arm}, {timing.hz:g} Hz\x1b[K", end="", file=sys.stderr)
    if json:
        print(as_json({**about, "arms": timings}))
        return
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    print(f"\n{_on_time(timings)}\n\n{_cost(timings)}\n\n{_executed(timings)}")
    for timing in timings:
        for warning in timing.warnings:
            print(f"{timing.arm}, {timing.hz:g} Hz: {warning}")


def _headline(about: dict[str, object]) -> str:
    return (
        f"{about['machine']}, load {about['load']:.1f}, nice {about['nice']}\n{about['system']}\n"
        f"ticks: {about['scheduling']}, spin {about['spin_us']:g} us; module: {about['think_ms']:g} ms per answer,"
        f" asked again at once; {about['seconds']:g} s each\ntimes are p50 / p99 / max in ms"
    )


def _on_time(timings: Sequence[LoopTiming]) -> str:
    rows = [("Hz", "on time", "effective Hz", "off %", "missed", "woken late", "sent late")]
    for timing in timings:
        off = f"{100 * timing.rate_off:+.3f}"
        counted = (f"{timing.effective_hz:.3f}", off, str(timing.missed))
        late = (_spread(timing.woken_late), _spread(timing.sent_late))
        rows.append((f"{timing.hz:g}", timing.arm, *counted, *late))
    return columns(rows, indent=0)


def _cost(timings: Sequence[LoopTiming]) -> str:
    rows = [("Hz", "own cost per tick", "to having sent", "whole tick", "whole tick, CPU", "the world's")]
    for timing in timings:
        own = (_spread(timing.to_send), _spread(timing.own), _spread(timing.own_cpu))
        rows.append((f"{timing.hz:g}", timing.arm, *own, _spread(timing.world)))
    return columns(rows, indent=0)


def _executed(timings: Sequence[LoopTiming]) -> str:
    rows = [("Hz", "what was executed", "ticks", "held", "answers", "after", "age of the observation")]
    for timing in timings:
        counts = (str(timing.ticks), str(timing.held), str(timing.answers))
        times = (_spread(timing.answered, 0), _spread(timing.age, 0))
        rows.append((f"{timing.hz:g}", timing.arm, *counts, *times))
    return columns(rows, indent=0)


def _spread(spread: Spread | None, digits: int = 3) -> str:
    if spread is None:
        return "-"
    return " / ".join(f"{value:.{digits}f}" for value in (spread.p50_ms, spread.p99_ms, spread.max_ms))


def _scheduling(priority: int) -> str:
    """Of the thread of the ticks; what it was started with is said too, since the module may have it as well."""
    if priority:
        return f"real-time priority {priority}, the ticks alone"
    if not hasattr(os, "sched_getscheduler"):
        return "no real-time priority"
    policy = os.sched_getscheduler(0)
    alone = bool(policy & os.SCHED_RESET_ON_FORK)
    if policy & ~os.SCHED_RESET_ON_FORK not in (os.SCHED_RR, os.SCHED_FIFO):
        return "no real-time priority"
    given = os.sched_getparam(0).sched_priority
    return f"started with real-time priority {given}, {'the ticks alone' if alone else 'the module too'}"


def _processor() -> str:
    """The processor's name and the cores that this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name} ({cores} cores for this process)"
