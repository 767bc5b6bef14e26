"""How long a model thinks: declared (a number, a published figure), or measured on this machine.

parse_latency("190") -> LatencyProfile --sample(rng)--> seconds charged to one call on the virtual clock
measure(policy, observation) -> LatencyProfile of the calls that this machine really took
LatencyEstimate: what the next call will probably take, from the last calls, the cold start left out
"""

import json
import math
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Final, Literal

import numpy as np

from actloop.contracts import Observation, Policy
from actloop.errors import ContractError, UnknownNameError

Measured = Literal["measured"]
MEASURED: Final[Measured] = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyProfile:
    """Seconds from asking a model to its answer: one number, or measured ones that are drawn from with replacement.

    `seconds` are finite and not negative. Where a source gives no spread, none is invented.
    """

    name: str
    seconds: tuple[float, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ContractError(f"latency.{self.name}", "expected at least one number of seconds, got none")
        if not all(math.isfinite(value) and value >= 0 for value in self.seconds):
            bad = next(value for value in self.seconds if not (math.isfinite(value) and value >= 0))
            raise ContractError(f"latency.{self.name}", f"expected finite seconds of at least 0, got {bad}")

    @classmethod
    def constant(cls, ms: float, *, name: str = "", source: str = "declared") -> "LatencyProfile":
        """Every call takes `ms` milliseconds."""
        return cls(name=name or f"{ms:g}ms", seconds=(ms / 1000,), source=source)

    def sample(self, rng: np.random.Generator) -> float:
        """Seconds of one call; a constant profile draws nothing from `rng`."""
        return self.seconds[0] if len(self.seconds) == 1 else self.seconds[int(rng.integers(len(self.seconds)))]

    def quantile(self, q: float) -> float:
        """The smallest of `seconds` that at least a share `q` of them does not exceed."""
        return quantile(self.seconds, q)

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form, read back by `from_dict`."""
        return {"name": self.name, "seconds": list(self.seconds), "source": self.source}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "LatencyProfile":
        """The profile that `to_dict` wrote.

        Raises:
            ContractError: a field is missing or of the wrong form.
        """
        try:
            seconds = tuple(float(value) for value in plain["seconds"])
            return cls(name=str(plain["name"]), seconds=seconds, source=str(plain.get("source", "")))
        except (KeyError, TypeError, ValueError) as error:
            raise ContractError("latency", f"not a saved profile ({type(error).__name__}: {error})") from error


def quantile(values: tuple[float, ...], q: float) -> float:
    """An order statistic of `values`: nothing is interpolated, so it is a number that really occurred."""
    if not values or not 0 <= q <= 1:
        raise ContractError("quantile", f"expected values and a share in [0, 1], got {len(values)} values and {q}")
    return sorted(values)[max(0, math.ceil(q * len(values)) - 1)]


def published_latencies() -> dict[str, LatencyProfile]:
    """Published figures by name: one number each, with its source."""
    text = resources.files("actloop.loop").joinpath("latency_profiles.json").read_text(encoding="utf-8")
    profiles = {}
    for entry in json.loads(text)["profiles"]:
        source = f"{entry['system']} on {entry['hardware']}, {entry['scope']}: {entry['source']}"
        profiles[entry["name"]] = LatencyProfile.constant(entry["ms"], name=entry["name"], source=source)
    return profiles


def parse_latency(text: str) -> LatencyProfile | Measured:
    """What a user meant by `measured`, `190`, `190ms`, `0.19s` or `fastwam-5090d`.

    Returns:
        A profile, or `MEASURED` where the calls of this machine have to be timed.

    Raises:
        UnknownNameError: neither a duration nor a known name; suggests the nearest.
        ContractError: a duration that is negative or not finite.
    """
    word = text.strip().lower()
    if word == MEASURED:
        return MEASURED
    published = published_latencies()
    if word in published:
        return published[word]
    number, scale = (word[:-2], 1.0) if word.endswith("ms") else (word, 1.0)
    if not word.endswith("ms") and word.endswith("s"):
        number, scale = word[:-1], 1000.0
    try:
        ms = float(number) * scale
    except ValueError:
        raise UnknownNameError("latency (milliseconds, or a name)", text, [MEASURED, *published]) from None
    return LatencyProfile.constant(ms)


def measure(
    policy: Policy[Any],
    observation: Observation,
    *,
    calls: int = 20,
    warm_up: int = 3,
    imagine: bool = False,
    instruction: str = "",
    seed: int = 0,
    timer: Callable[[], float] = time.perf_counter,
) -> LatencyProfile:
    """Time `calls` predictions on this machine, after `warm_up` that are thrown away.

    Every call sees the pixels and the state of `observation`, one control tick later than the call before.
    """
    if calls < 1 or warm_up < 0:
        raise ContractError("measure", f"expected calls >= 1 and warm_up >= 0, got {calls} and {warm_up}")
    session = policy.start(instruction, seed=seed)
    seconds = []
    for call in range(warm_up + calls):
        later = observation.time + call * policy.embodiment.period
        obs = replace(observation, tick=observation.tick + call, time=later)
        start = timer()
        session, _ = policy.predict(session, obs, imagine=imagine)
        if call >= warm_up:
            seconds.append(timer() - start)
    source = f"{calls} calls after {warm_up} to warm up, {platform.machine()}, {os.cpu_count()} CPUs"
    return LatencyProfile(name=MEASURED, seconds=tuple(seconds), source=source)


class LatencyEstimate:
    """A windowed quantile of past latencies. The first `warm_up` calls are left out: a cold start says nothing."""

    def __init__(self, *, window: int = 32, warm_up: int = 1) -> None:
        if window < 1 or warm_up < 0:
            raise ContractError("estimate", f"expected window >= 1 and warm_up >= 0, got {window} and {warm_up}")
        self._seconds: deque[float] = deque(maxlen=window)
        self._left_out = warm_up

    def add(self, seconds: float) -> None:
        if self._left_out:
            self._left_out -= 1
        else:
            self._seconds.append(seconds)

    def quantile(self, q: float) -> float | None:
        """Seconds; None until a call after the warm-up was seen."""
        return quantile(tuple(self._seconds), q) if self._seconds else None


class Expected:
    """What the next call of a layer will probably take: as declared, or as the last ones took."""

    def __init__(self, declared: LatencyProfile | None) -> None:
        self._declared = declared
        self._estimate = LatencyEstimate()
        self._known: dict[float, float | None] = {}  # quantiles since the last number

    def add(self, seconds: float) -> None:
        self._estimate.add(seconds)
        self._known.clear()

    def quantile(self, q: float) -> float | None:
        """Seconds; None while unknown."""
        if q not in self._known:
            self._known[q] = (self._declared or self._estimate).quantile(q)
        return self._known[q]
