"""The section on what imagination is worth: judged by the simulator, where that was done for an arm of the run."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actloop.errors import DataError
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.foresight.keeping import FOLDER, read_foresight
from actloop.report.markup import table, tag, text
from actloop.report.sections import key, number

LEAD = (
    "The simulator was put back and ran several chunks from the same moment; the model imagined what each leads to. "
    "Correlation and gain are of the change that the chunk makes, imagined against real: 1 is perfect, 0 does not "
    "listen. Kendall's tau orders the chunks by their imagined outcomes; beside it, by the present picture and "
    "arithmetic on the state. Regret is what the first of them loses against the best; beside it, by chance."
)


def worth(comparison: Comparison, folder: Path) -> str:
    """Every arm that was judged (`actloop foresight --run`), lead by lead; empty where none was.

    Raises:
        DataError: a kept judgement is damaged.
    """
    rows, ranks = [], []
    for arm in comparison.run.arms:
        kept = read_foresight(folder, arm.name)
        if kept is None:
            continue
        try:
            rows += [[key(comparison, arm.name), *_response(kept, at)] for at in range(len(kept["responses"]))]
            ranks += [[key(comparison, arm.name), *_ranking(kept["ranking"])]] if kept["ranking"] else []
        except (KeyError, TypeError, IndexError, ValueError) as error:
            path = folder / FOLDER / f"{arm.name}.json"
            raise DataError(f"{path}: not a judgement of foresight ({type(error).__name__}: {error})") from error
    if not rows:
        return ""
    heads = ["arm", "ahead", "imagined", "had nothing changed", "correlation", "gain", "spread over error"]
    shown = tag("p", text(LEAD), class_="quiet prose") + table(heads, rows, class_="numbers")
    if ranks:
        heads = ["arm", "moments", "Kendall's tau", "the same, without imagining", "regret", "regret by chance"]
        shown += table(heads, ranks, class_="numbers")
    return tag("section", tag("h2", "Is what is imagined worth acting on?"), shown)


def _response(kept: Mapping[str, Any], at: int) -> list[str]:
    error, response = kept["errors"][at], kept["responses"][at]
    return [
        f"{response['lead']:.1f} s",
        f"{_number(error['psnr'], 1)} dB",
        f"{_number(error['psnr_still'], 1)} dB",
        _interval(response["correlation"]),
        _interval(response["gain"]),
        _number(response["spread"], 2),
    ]


def _ranking(ranking: Mapping[str, Any]) -> list[str]:
    names = ("tau", "tau_still", "regret", "regret_chance")
    return [str(ranking["moments"]), *(_interval(ranking[name]) for name in names)]


def _interval(found: Mapping[str, Any]) -> str:
    value, low, high = (found[name] for name in ("value", "low", "high"))
    spread = "" if low is None or high is None else f" <small>{low:.2f} to {high:.2f}</small>"
    return _number(value, 2) + spread


def _number(value: float | None, digits: int) -> str:
    return number(math.nan if value is None else value, digits)
