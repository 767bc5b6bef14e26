"""The sections on how the arms ran: what was late and held, what limits changed, and how far prediction held."""

import math

from actloop.evaluation.comparison import Comparison
from actloop.evaluation.conduct import HELD, Conduct
from actloop.evaluation.force import Hardest
from actloop.report.markup import table, tag, text
from actloop.report.sections import key, number, percent


def timing(comparison: Comparison) -> str:
    """Ticks held, answers late, successes in an hour, and success by delay."""
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    rows = []
    for item in comparison.conduct:
        if not item.ticks:
            continue
        rows.append(
            [
                text(labels[item.condition]),
                key(comparison, item.arm),
                " / ".join(_share(item.held.get(why, math.nan)) for why in HELD),
                " / ".join(number(value, 0) for value in (item.delay.p50, item.delay.p95, item.delay.p99)),
                f"{item.overdue} of {item.answers}",
                number(item.per_hour, 0),
                " · ".join(f"{delay:.1f}: {percent(share)}" for delay, share in item.success_by_delay) or "–",
            ]
        )
    head = [
        *("condition", "arm", f"ticks held<small>{' / '.join(HELD)}</small>"),
        *("delay, ticks<small>p50 / p95 / p99</small>", "overdue answers", "successes per hour"),
        "success by mean delay<small>ticks: a third of the episodes each</small>",
    ]
    return _main_first(comparison, head, rows, "Timing under every condition")


def limits(comparison: Comparison) -> str:
    """What was asked for and what was sent."""
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    rows = [
        [
            text(labels[item.condition]),
            key(comparison, item.arm),
            _share(item.asked_outside, 2),
            f"{100 * item.worst:.1f} %",
            _share(item.sent_outside, 2),
            _bound(item),
            text(", ".join(f"{why} {100 * share:.1f} %" for why, share in item.modified.items()) or "none"),
            text(" · ".join(f"{part} {value:.3g}" for part, value in item.jerk.items()) or "–"),
        ]
        for item in comparison.conduct
        if item.ticks
    ]
    head = [
        *("condition", "arm", "ticks that asked for more than the action space allows", "farthest, of its range"),
        *("ticks sent outside", "episodes with any, at most<small>95 %</small>", "ticks changed by limits"),
        f"jerk of what was sent<small>{_jerk_units(comparison)}, root mean square</small>",
    ]
    return _main_first(comparison, head, rows, "Limits under every condition")


def force(comparison: Comparison) -> str:
    """How hard the arms touched things, and how often that was over the declared limit."""
    found = [item for item in comparison.conduct if item.ticks]
    if not any(item.force for item in found):
        return tag("p", "Contact force: not measured by this world, or not in these episodes.", class_="quiet prose")
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    limit = comparison.run.config.get("force_limit")
    rows = [
        [text(labels[item.condition]), key(comparison, item.arm), *_touched(item.force, over=limit is not None)]
        for item in found
    ]
    head = [
        *("condition", "arm", "hardest contact of an episode, N<small>median / p95 / worst</small>"),
        *("the worst<small>task, seed, tick</small>", "episodes measured"),
        *([f"episodes over {limit:g} N<small>with the exact 95 % interval</small>"] if limit is not None else []),
    ]
    return _main_first(comparison, head, rows, "Contact under every condition")


def _touched(hardest: Hardest | None, *, over: bool) -> list[str]:
    if hardest is None:  # this arm's episodes are from before it was recorded, or crashed
        return ["–"] * (4 if over else 3)
    task, seed, tick = hardest.where or ("", "", "")
    return [
        " / ".join(f"{value:.1f}" for value in (hardest.p50, hardest.p95, hardest.worst)),
        text(f"{task} {seed}, {tick}") if hardest.where else "touched nothing",
        str(hardest.episodes),
        *([_over(hardest)] if over else []),
    ]


def _over(hardest: Hardest) -> str:
    assert hardest.over_share is not None
    low, high = (f"{100 * value:.1f}" for value in (hardest.over_share.low, hardest.over_share.high))
    range_ = f"{low} to {high} %" if hardest.over else f"at most {high} %"
    return f"{hardest.over} of {hardest.episodes}" + tag("small", range_)


def _jerk_units(comparison: Comparison) -> str:
    parts = comparison.run.embodiment["action"]["parts"]
    return text(", ".join(sorted({f"{part['unit']}/s³" for part in parts if len(part["low"]) > 1})) or "–")


def failures(comparison: Comparison) -> str:
    """What failed alike, the most frequent first; empty where nothing failed."""
    if not comparison.failures:
        return ""
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    totals: dict[str, int] = {}
    for item in comparison.failures:
        totals[item.kind] = totals.get(item.kind, 0) + len(item.episodes)
    rows = [
        [
            tag("strong", text(item.kind)) + tag("small", f"{totals[item.kind]} in all"),
            key(comparison, item.arm),
            text(labels[item.condition]),
            str(len(item.episodes)),
            text(", ".join(f"{task} {seed}" for task, seed in item.episodes[:MOST]))
            + (text(f" and {len(item.episodes) - MOST} more") if len(item.episodes) > MOST else ""),
        ]
        for item in comparison.failures
    ]
    head = ["what was seen", "arm", "condition", "episodes", "task and seed"]
    folds = tag("details", tag("summary", "By arm and condition, with their episodes"), table(head, rows))
    return _sums(comparison, totals) + folds


MOST = 8  # episodes that a row of failures names


def _main_first(comparison: Comparison, head: list[str], rows: list[list[str]], title: str) -> str:
    """The rows of the main condition, and all of them folded; rows come condition by condition."""
    first = len(comparison.run.arms)
    shown = table(head, rows[:first], class_="numbers")
    if len(rows) <= first:
        return shown
    return shown + tag("details", tag("summary", text(title)), table(head, rows, class_="numbers"))


def _sums(comparison: Comparison, totals: dict[str, int]) -> str:
    """Kinds of failure by condition, all arms together."""
    conditions = comparison.run.conditions
    rows = []
    for kind, total in totals.items():
        counts = [
            sum(len(f.episodes) for f in comparison.failures if (f.kind, f.condition) == (kind, condition.name))
            for condition in conditions
        ]
        rows.append([text(kind), str(total), *(str(count) if count else "·" for count in counts)])
    return table(["what was seen", "all", *(text(condition.label) for condition in conditions)], rows, class_="numbers")


def _bound(item: Conduct) -> str:
    return "–" if math.isnan(item.outside_bound) else f"{100 * item.outside_bound:.1f} %"


def _share(value: float, digits: int = 1) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.{digits}f} %"
