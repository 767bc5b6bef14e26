"""A comparison on the terminal, readable from 80 columns."""

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from actloop.evaluation.answer import answer
from actloop.evaluation.cells import ALL, Cell, Spread
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.statistics import Curve, Interval
from actloop.evaluation.wording import condition_title


def format_table(comparison: Comparison) -> RenderableType:
    """The answer, the arms under the main condition, success by group and against latency, and the reasons.

    For `rich.console.Console().print`.
    """
    said = answer(comparison)
    shown: list[RenderableType] = [Text(said.headline, style="bold"), Text()]
    for table in (
        _arms(comparison),
        _groups(comparison),
        _conditions(comparison),
        _disturbed(comparison),
        _interventions(comparison),
    ):
        if table is not None:
            title, table.title = str(table.title), None  # rich wraps a title to the width of its table
            shown += [Text(title), table]
    return Group(*shown, _reasons(said.paragraphs))


def _arms(comparison: Comparison) -> Table:
    run = comparison.run
    heads = [
        "success\n95 %",
        "time\ns",
        "latency ms\np50/p95/p99",
        "late\nticks",
        "view ms\np50/p95",
        "model\ncalls",
        "cost\ns/s",
    ]
    speaks = [arm for arm in run.arms if not math.isnan(arm.tokens_per_action)]
    table = _table(f"Under {condition_title(run.main)}", heads=heads + ["tokens\nper act."] * bool(speaks))
    for arm in run.arms:
        cell = comparison.cell(arm.name, run.main.name)
        numbers = _numbers(cell) if cell is not None and cell.episodes else ["-"] * len(heads)
        table.add_row(arm.name, *numbers, *[_number(arm.tokens_per_action, 1)] * bool(speaks))
    return table


def _numbers(cell: Cell) -> list[str]:
    return [
        _success(cell),
        _number(cell.time.median, 1),
        _spread(cell.latency_ms, 3),
        _number(cell.late, 1),
        _spread(cell.age_ms, 2),
        _number(cell.calls, 1),
        _number(cell.cost, 2),
    ]


def _groups(comparison: Comparison) -> Table | None:
    if not comparison.groups:
        return None
    table = _table("Success by group of tasks, same condition", heads=comparison.groups)
    for arm in comparison.run.arms:
        cells = [comparison.cell(arm.name, comparison.run.main.name, f"group:{group}") for group in comparison.groups]
        table.add_row(arm.name, *(_success(cell) for cell in cells))
    return table


def _conditions(comparison: Comparison) -> Table | None:
    run = comparison.run
    timings = [condition for condition in run.conditions if not condition.twin]
    if len(timings) == 1:
        return None
    table = _table("Success against latency", heads=[condition.label for condition in timings])
    for scope in [ALL, *(f"group:{group}" for group in comparison.groups if group == "timing")]:
        for arm in run.arms:
            label = arm.name if scope == ALL else f"{arm.name}, timing"
            cells = [comparison.cell(arm.name, condition.name, scope) for condition in timings]
            table.add_row(label, *(_success(cell) for cell in cells))
        table.add_section()
    return table


def _disturbed(comparison: Comparison) -> Table | None:
    """Each arm under each disturbed condition, against its undisturbed twin."""
    if not comparison.recoveries:
        return None
    heads = ["arm", "hit", "twin", "success\n95 %", "diff.", "reacts\ns", "recovers\ns"]
    title = "Disturbed, against undisturbed on the same seeds (medians of seconds)"
    table = _table(title, heads=heads, first="condition")
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    for item in comparison.recoveries:
        twin = comparison.cell(item.arm, item.twin)
        table.add_row(
            labels[item.condition],
            item.arm,
            f"{item.happened}/{item.episodes}",
            "-" if twin is None else _percent(twin.success.value),
            f"{_percent(item.success.value)} {_range(item.success)}" if item.happened else "-",
            _difference(item.against_twin.difference.value),
            _median(item.reaction),
            _median(item.recovery),
        )
    return table


def _interventions(comparison: Comparison) -> Table | None:
    """How often a person was called, and what was done with and without."""
    if not comparison.interventions:
        return None
    heads = ["arm", "helped", "per hour\n95 %", "between\ns", "alone", "with\nhelp"]
    table = _table("Interventions", heads=heads, first="condition")
    labels = {condition.name: condition.label for condition in comparison.run.conditions}
    for item in comparison.interventions:
        rate = item.rate
        often = "-" if rate is None else f"{rate.per_hour.value:.0f} {rate.per_hour.low:.0f}-{rate.per_hour.high:.0f}"
        table.add_row(
            labels[item.condition],
            item.arm,
            f"{item.helped}/{item.episodes}",
            often,
            "-" if rate is None else _time(rate.between.value),
            _percent(item.alone.value),
            _percent(item.together.value),
        )
    return table


def _reasons(paragraphs: Sequence[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 1, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for about, said in paragraphs:
        grid.add_row(about, said)
    return grid


def _table(title: str, *, heads: Sequence[str], first: str = "arm") -> Table:
    table = Table(title=title, header_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column(first, style="bold", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap="/" in head)  # three numbers cut short say nothing
    return table


def _success(cell: Cell | None) -> str:
    if cell is None or not cell.episodes:
        return "-"
    return f"{_percent(cell.success.value)} {_range(cell.success)}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.0f} %"


def _range(interval: Interval) -> str:
    return f"{100 * interval.low:.0f}-{100 * interval.high:.0f}"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _spread(spread: Spread, count: int) -> str:
    return "/".join(_number(value, 0) for value in (spread.p50, spread.p95, spread.p99)[:count])


def _difference(points: float) -> str:
    return "-" if math.isnan(points) else f"{100 * points:+.0f}"


def _median(curve: Curve | None) -> str:
    return "-" if curve is None else _time(curve.median.value)


def _time(seconds: float) -> str:
    return "never" if math.isinf(seconds) else _number(seconds, 1)
