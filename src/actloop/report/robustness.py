"""The sections on what went wrong on purpose, on who had to help, and on alarms that meant nothing."""

import math

from actloop.evaluation.comparison import Comparison
from actloop.evaluation.recovery import Recovery
from actloop.evaluation.statistics import Curve, Interval
from actloop.evaluation.wording import p_value
from actloop.report.charts import arm_class, interval_bar, legend
from actloop.report.curves import share_done
from actloop.report.markup import table, tag, text
from actloop.report.sections import key, number, percent


def disturbances(comparison: Comparison) -> str:
    """Each arm under each disturbed condition, against its twin; empty where nothing was disturbed."""
    found = [item for item in comparison.recoveries if item.episodes]
    if not found:
        return ""
    conditions = {condition.name: condition for condition in comparison.run.conditions}
    checked = any(item.detected for item in found)
    times = {"detected": "detection", "reaction": "reaction", "replanning": "replanning", "recovery": "recovery"}
    if not checked:  # nobody looks for alarms
        times = {name: said for name, said in times.items() if name not in ("detected", "replanning")}
    rows = [
        [
            text(conditions[item.condition].label) + tag("small", text(", ".join(conditions[item.condition].faults))),
            key(comparison, item.arm),
            f"{item.happened} of {item.episodes}",
            *_successes(comparison, item),
            *(seconds(getattr(item, name)) for name in times),
        ]
        for item in found
    ]
    head = [
        *("disturbed", "arm", "happened", "undisturbed", "success<small>where it happened</small>"),
        "against its twin<small>points, paired</small>",
        "recovered<small>of those its twin solves</small>",
        *(f"{name}<small>median s (95 %)</small>" for name in times.values()),
    ]
    drawn = [
        chart
        for name, condition in conditions.items()
        if condition.twin and (chart := _curves(comparison, name, condition.label))
    ]
    names = [arm.name for arm in comparison.run.arms]
    picture = legend(comparison, names) + tag("div", *drawn, class_="panels") if drawn else ""
    said = tag("p", text(_PROSE), class_="quiet prose")
    return tag("section", tag("h2", "Disturbed"), said, table(head, rows, class_="numbers"), picture)


_PROSE = (
    "Every disturbed episode has an undisturbed twin with the same task and seed. Times run from the first tick that "
    "shows the disturbance: to the first alarm of a check, to the first command that rests on a newer observation, "
    "from the alarm to the first command that rests on an observation since, and to success. What had not happened by "
    "the end is censored there (Kaplan and Meier); a failure has not recovered, however long one looks."
)


def _successes(comparison: Comparison, item: Recovery) -> list[str]:
    twin = comparison.cell(item.arm, item.twin)
    paired, name = item.against_twin, arm_class(comparison, item.arm)
    if not item.happened:
        return ["–" if twin is None else percent(twin.success.value), *["–"] * 3]
    low, high = 100 * item.success.low, 100 * item.success.high
    bar = interval_bar(item.success, name)
    apart = "" if math.isnan(paired.difference.value) else tag("small", f"p = {p_value(paired.p_value)}, uncorrected")
    return [
        "–" if twin is None else percent(twin.success.value),
        tag("strong", percent(item.success.value)) + bar + tag("small", f"{low:.0f} to {high:.0f} %"),
        _points(paired.difference) + apart,
        _share_range(item.recovered),
    ]


def _curves(comparison: Comparison, condition: str, title: str) -> str:
    """Share recovered by seconds since the onset, one curve an arm."""
    found = {item.arm: item.recovery for item in comparison.recoveries if item.condition == condition and item.recovery}
    return share_done(comparison, found, f"{title}: recovered, by seconds since", until="s since the onset")


def interventions(comparison: Comparison) -> str:
    """How often a person was called; empty where nobody could be."""
    if not comparison.interventions:
        return ""
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    rows = []
    for item in comparison.interventions:
        rate = item.rate
        rows.append(
            [
                text(labels[item.condition]),
                key(comparison, item.arm),
                f"{item.helped} of {item.episodes}",
                "–" if rate is None else str(rate.events),
                "–" if rate is None else _number_range(rate.per_hour, 0),
                "–" if rate is None else _number_range(rate.between, 1),
                "–" if rate is None else f"{rate.seconds / 60:.1f} min",
                text(", ".join(f"{count} {cause}" for cause, count in item.causes.items()) or "–"),
                _share_range(item.alone),
                _share_range(item.together),
            ]
        )
    head = [
        *("condition", "arm", "episodes helped", "calls", "per hour<small>95 %, Poisson</small>"),
        *("seconds between<small>95 %</small>", "alone for", "causes", "success alone", "success with help"),
    ]
    said = tag("p", text(_HELP), class_="quiet prose")
    return tag("section", tag("h2", "Interventions"), said, table(head, rows, class_="numbers"))


_HELP = (
    "A person is called where the ladder asks for one; with a rescue, also where limits have stopped the robot for a "
    "second, or where the task is overdue. Success alone is without any help, and is what all other tables show. Rates "
    "are per hour in which the policy had the robot."
)


def alarms(comparison: Comparison) -> str:
    """What the checks promised and what they did; empty without checks."""
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    rows = [
        [
            text(labels[item.condition]),
            key(comparison, item.arm),
            f"{item.false.alarmed} of {item.false.episodes}",
            _share_range(item.false.share),
            percent(item.false.promised),
            "–" if math.isnan(item.false.p_over) else p_value(item.false.p_over),
            str(item.early),
        ]
        for item in comparison.alarms
        if item.false.episodes
    ]
    if not rows:
        return ""
    head = ["condition", "arm", "undisturbed successes with an alarm", "false alarms", "promised at most"]
    head += ["p that it is kept", "disturbed, alarmed before the onset"]
    return tag("section", tag("h2", "False alarms"), table(head, rows, class_="numbers"))


def seconds(curve: Curve | None) -> str:
    """The median of a curve with its interval."""
    if curve is None:
        return "–"
    found = curve.median
    said = ["never" if math.isinf(value) else f"{value:.1f}" for value in (found.value, found.low, found.high)]
    return said[0] + tag("small", f"{said[1]} to {said[2]}")


def _points(difference: Interval) -> str:
    if math.isnan(difference.value):
        return "–"
    low, high = (f"{100 * value:+.0f}" for value in (difference.low, difference.high))
    return f"{100 * difference.value:+.0f} ({low} to {high})"


def _share_range(interval: Interval) -> str:
    return percent(interval.value) + tag("small", f"{100 * interval.low:.0f} to {100 * interval.high:.0f} %")


def _number_range(interval: Interval, digits: int) -> str:
    values = [
        "never" if math.isinf(value) else number(value, digits)
        for value in (interval.value, interval.low, interval.high)
    ]
    return values[0] + tag("small", f"{values[1]} to {values[2]}")
