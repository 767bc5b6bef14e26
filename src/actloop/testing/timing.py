"""What benchmarks of networks share: a device by name, threads for a while, and the median of repeated runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from actloop.errors import ContractError

WARM_UP = 2


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
    taken = []
    for _ in range(WARM_UP + repeats):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        taken.append(1000 * (time.perf_counter() - start))
    p50, p95 = np.quantile(taken[WARM_UP:], (0.5, 0.95))
    return float(p50), float(p95)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
