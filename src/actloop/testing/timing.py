"""What benchmarks of networks share: a size and a device by name, threads for a while, the median of repeated runs."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch

from actloop.errors import ContractError, UnknownNameError

WARM_UP = 2

Sizes = TypeVar("Sizes")


def sized(sizes: Mapping[str, Callable[[], Sizes]], size: str, *, layers: int | None = None, inside: str = "") -> Sizes:
    """The configuration of a named size, or that many of its `layers`; `inside`: the field that they belong to.

    Raises:
        UnknownNameError: no such size.
        ContractError: `layers` is not between 1 and the depth of the size.
    """
    if size not in sizes:
        raise UnknownNameError("size", size, sizes)
    config: Any = sizes[size]()
    if layers is not None:
        deep = getattr(config, inside) if inside else config
        if not 0 < layers <= deep.layers:
            raise ContractError("layers", f"size {size!r} has {deep.layers}; expected 1 to {deep.layers}, got {layers}")
        cut = replace(deep, layers=layers)
        config = replace(config, **{inside: cut}) if inside else cut
    found: Sizes = config
    return found


def device_of(name: str) -> torch.device:
    """A device that can be used.

    Raises:
        ContractError: none of that name.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ContractError("device", f"expected cpu or cuda[:N], got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ContractError("device", f"expected cpu or cuda[:N], got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ContractError("device", "this machine has no CUDA device that torch can use")
    return device


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """So many threads for torch inside, or as many as there were; gives the number.

    Raises:
        ContractError: fewer than one.
    """
    if count is not None and count < 1:
        raise ContractError("threads", f"expected 1 or more, got {count}")
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield count or before
    finally:
        torch.set_num_threads(before)


def timed(run: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Median and 95th percentile of a run, in milliseconds of wall clock, after two that do not count."""
    return summary([once(run, device) for _ in range(WARM_UP + repeats)])


def once(run: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of wall clock that a run took, with all that it left to the device."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return 1000 * (time.perf_counter() - start)


def summary(taken: list[float]) -> tuple[float, float]:
    """Median and 95th percentile, without the first two."""
    p50, p95 = np.quantile(taken[WARM_UP:], (0.5, 0.95))
    return float(p50), float(p95)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
