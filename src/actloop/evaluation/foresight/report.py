"""What imagination is worth to a robot, as numbers with their ranges, for people and for programs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from actloop.evaluation.film import Foresight, psnr
from actloop.evaluation.statistics import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """Whether imagined frames change with the action as the simulator's do, `lead` seconds ahead.

    `correlation` of the departures, `gain` their size, imagined over real; `moves` how far the real ones depart from
    each other, root mean square of pixels in 0..1. `spread` of draws over the error of their mean (1 is right).
    """

    lead: float
    correlation: Interval
    gain: Interval
    moves: float
    spread: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Whether the imagined outcomes order candidate chunks as the real ones do; values in 0..1, by a given judge.

    `tau` is Kendall's, mean over moments; `tau_still` that of the same judge shown the present picture with the state
    that the chunk leads to: what ranking needs no imagination for. `regret` is what the imagined best loses against
    the best, beside that of `still` and of choosing by chance.
    """

    moments: int
    tau: Interval
    tau_still: Interval
    regret: Interval
    regret_still: Interval
    regret_chance: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Chunks whose imagined value lay between two quantiles: mean imagined and mean real value."""

    count: int
    imagined: float
    real: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Whether an imagined value can be taken at its word: imagined minus real value, and both by bins of the first."""

    bias: Interval
    error: Interval
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForesightReport:
    """One policy's imagination in one world. Intervals are 95 % over seeds; each task counts the same."""

    policy: Mapping[str, Any]
    embodiment: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    moments: int
    candidates: int
    draws: int
    follows_chunk: bool
    errors: tuple[Foresight, ...]
    responses: tuple[Response, ...]
    ranking: Ranking | None
    calibration: Calibration | None
    judge: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; NaN and infinity as null."""
        plain: dict[str, Any] = _finite(asdict(self))
        for row, error in zip(plain["errors"], self.errors, strict=True):
            row |= {"psnr": _finite(psnr(error.error)), "psnr_still": _finite(psnr(error.still))}
        return plain

    def table(self) -> RenderableType:
        """For `rich.console.Console().print`."""
        name = str(self.policy.get("name") or self.policy.get("variant") or "policy")
        follows = (
            "imagines what a chunk leads to" if self.follows_chunk else "imagines its own behaviour, not a chunk's"
        )
        title = f"{name}: {follows}; {self.moments} moments, {self.candidates} candidates each"
        shown: list[RenderableType] = [Text(title, style="bold"), self._by_lead()]
        if self.ranking is not None:
            shown += [Text(f"Candidates ranked by {self.judge}"), _ranking(self.ranking)]
        if self.calibration is not None:
            shown += [Text("Imagined value against the real one"), _calibration(self.calibration)]
        return Group(*shown)

    def _by_lead(self) -> Table:
        heads = ("PSNR\ndB", "no change\ndB", "correlation\nwith the real", "gain\n1 = real", "spread/error\n1 = right")
        table = _table("lead s", heads)
        for error, response in zip(self.errors, self.responses, strict=True):
            table.add_row(
                f"{error.lead:.2g}",
                f"{psnr(error.error):.1f}",
                f"{psnr(error.still):.1f}",
                _interval(response.correlation),
                _interval(response.gain),
                _number(response.spread),
            )
        return table


def _ranking(ranking: Ranking) -> Table:
    table = _table("by", ("Kendall tau", "regret of the first"))
    table.add_row("imagined frames", _interval(ranking.tau), _interval(ranking.regret, 3))
    table.add_row("the picture as it is", _interval(ranking.tau_still), _interval(ranking.regret_still, 3))
    table.add_row("chance", "0.00", _interval(ranking.regret_chance, 3))
    return table


def _calibration(calibration: Calibration) -> Table:
    table = _table("", [f"{bin.imagined:.2f}" for bin in calibration.bins])
    table.add_row("real", *[f"{bin.real:.2f}" for bin in calibration.bins])
    table.caption = f"imagined minus real {_interval(calibration.bias)}, absolute {_interval(calibration.error)}"
    return table


def _table(first: str, heads: Sequence[str]) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first, style="bold")
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _interval(found: Interval, digits: int = 2) -> str:
    if not math.isfinite(found.value):
        return "-"
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return f"{found.value:.{digits}f}"
    return f"{found.value:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
