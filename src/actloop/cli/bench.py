"""`actloop bench fastwam`, `openvla` and `dreamzero`: how long each stage of a model takes on this machine."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from actloop.cli.text import as_json, columns
from actloop.errors import UnknownNameError
from actloop.models.fastwam.memory import Part, memory_report, total_bytes
from actloop.testing.dreamzero_bench import bench_dreamzero, memory_of
from actloop.testing.dreamzero_bench import config_of as dreamzero_of
from actloop.testing.fastwam_bench import RUNNABLE, SIZES, StageTiming, bench_fastwam, config_of
from actloop.testing.openvla_bench import bench_openvla

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def show_bench(
    size: str = "small",
    *,
    device: str = "cpu",
    dtype: str | None = None,
    batch_sizes: Sequence[int] = (1, 2, 4),
    repeats: int = 20,
    compiled: bool = False,
    threads: int | None = None,
    layers: int | None = None,
    text: bool = False,
    variants: Sequence[str] = RUNNABLE,
    memory: bool = False,
    json: bool = False,
) -> None:
    """Print one line per stage, batch size and form, and the memory that the size takes; see `bench_fastwam`.

    `memory`: that alone, so that a size is known before a machine is found for it; nothing runs.

    Raises:
        UnknownNameError: no such size, dtype or variant.
        ContractError: a number out of range, no such device, or not enough memory on it.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    config = config_of(size, layers=layers)
    chosen = DTYPES[dtype or ("float32" if device == "cpu" else "bfloat16")]
    timings = []
    if not memory:
        timings = bench_fastwam(
            size,
            device=device,
            dtype=chosen,
            batch_sizes=batch_sizes,
            repeats=repeats,
            compiled=compiled,
            threads=threads,
            layers=layers,
            text=text,
            variants=variants,
        )
    parts = memory_report(config, chosen, wan=config.vocabulary == 0)
    cut = "" if layers is None else f"{layers} of {SIZES[size]().layers} layers"
    about: dict[str, object] = {"size": size, "cut": cut, "dtype": str(chosen).removeprefix("torch.")}
    if timings:
        about |= {
            "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor(),
            "threads": threads or torch.get_num_threads(),
            "torch": torch.__version__,
            "weights": "random",
        }
    if json:
        held = [asdict(part) for part in parts]
        print(as_json({**about, "stages": timings, "memory": held, "memory_bytes": total_bytes(parts)}))
        return
    if timings:
        print(f"{_headline(about)}\n{_stages(timings)}\n")
    print(f"memory of size {size} in {about['dtype']} to act{f' ({cut})' if cut else ''}, one observation at a time")
    print(_memory(parts))


def show_openvla(
    size: str,
    *,
    device: str,
    dtype: str | None,
    batch_sizes: Sequence[int],
    repeats: int,
    threads: int | None,
    layers: int | None,
    json: bool,
) -> None:
    """Print one line per stage and batch size of one action, and the memory that the size takes; see `bench_openvla`.

    Raises:
        UnknownNameError: no such size or dtype.
        ContractError: a number out of range, no such device, or not enough memory on it.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    found = bench_openvla(
        size,
        device=device,
        dtype=None if dtype is None else DTYPES[dtype],
        batch_sizes=batch_sizes,
        repeats=repeats,
        threads=threads,
        layers=layers,
    )
    if json:
        print(as_json(found))
        return
    machine = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    cut = f", CUT TO {found.cut}: stages of the whole network take longer" if found.cut else ""
    print(f"openvla, size {found.size}{cut}: {found.tokens} tokens an action, after {found.positions} positions")
    print(f"{machine}, {found.threads} threads, torch {torch.__version__}, {found.dtype}, random weights")
    print(f"{_stages(found.timings)}\n\n{_bytes(found.memory)}")


def show_dreamzero(
    size: str,
    *,
    device: str,
    dtype: str | None,
    repeats: int,
    threads: int | None,
    layers: int | None,
    mode: str,
    text: bool,
    memory: bool,
    json: bool,
) -> None:
    """Print one line per stage with how often it runs, and the memory that the size takes; see `bench_dreamzero`.

    `memory`: that alone; nothing runs.

    Raises:
        UnknownNameError: no such size, dtype or mode.
        ContractError: a number out of range, no such device, or not enough memory on it.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    chosen = DTYPES[dtype or ("float32" if device == "cpu" else "bfloat16")]
    if memory:
        config = dreamzero_of(size, layers=layers)
        held = memory_of(config, chosen, rows=1 if config.vocabulary else 2, text=text)
        print(as_json({"size": size, "memory": held}) if json else _bytes(held))
        return
    found = bench_dreamzero(
        size, device=device, dtype=chosen, repeats=repeats, threads=threads, layers=layers, mode=mode, text=text
    )
    if json:
        print(as_json(found))
        return
    machine = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    cut = f", CUT TO {found.cut}: stages of the whole network take longer" if found.cut else ""
    print(
        f"dreamzero, size {found.size}{cut}: {found.evaluations} evaluations in {found.steps} steps a chunk, "
        f"{found.rows} x {found.tokens} tokens each, which see {found.seen} more"
    )
    print(f"{machine}, {found.threads} threads, torch {torch.__version__}, {found.dtype}, random weights")
    rows = [("stage", "once per", "p50 ms", "p95 ms")]
    rows += [(one.stage, one.runs, f"{one.p50_ms:.2f}", f"{one.p95_ms:.2f}") for one in found.stages]
    print(f"{columns(rows, indent=0)}\n\n{_bytes(found.memory)}")


def _bytes(held: dict[str, int]) -> str:
    rows = [(part, f"{size / 1e6:,.1f}") for part, size in held.items()]
    return columns([("part", "MB"), *rows, ("sum", f"{sum(held.values()) / 1e6:,.1f}")], indent=0)


def _headline(about: dict[str, object]) -> str:
    size = f"fastwam, size {about['size']}"
    if about["cut"]:
        size += f", CUT TO {about['cut']}: stages of the whole network take longer"
    machine = f"{about['device']}, {about['threads']} threads, torch {about['torch']}, {about['dtype']}"
    return f"{size}\n{machine}, random weights"


def _stages(timings: Sequence[StageTiming]) -> str:
    rows = [("stage", "batch", "form", "p50 ms", "p95 ms")]
    for timing in timings:
        stage = f"{timing.stage}, {timing.variant}" if timing.variant else timing.stage
        form = "compiled" if timing.compiled else "eager"
        rows.append((stage, str(timing.batch), form, f"{timing.p50_ms:.2f}", f"{timing.p95_ms:.2f}"))
    return columns(rows, indent=0)


def _memory(parts: list[Part]) -> str:
    rows = [("part", "held", "MB")]
    rows += [(part.name, part.when, f"{'about ' * part.estimated}{part.bytes / 1e6:,.1f}") for part in parts]
    return columns([*rows, ("sum", "", f"{total_bytes(parts) / 1e6:,.1f}")], indent=0)


def _processor() -> str:
    """The processor's name and the cores that this process may use."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        name = found[0] if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name} ({cores} cores for this process)"
