"""A comparison on the terminal."""

import math

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from actloop.evaluation.answer import answer, condition_title
from actloop.evaluation.comparison import ALL, Cell, Comparison, Spread
from actloop.evaluation.statistics import Interval


def format_table(comparison: Comparison) -> RenderableType:
    """The answer, the arms under the main condition, success by group and against latency, for `Console.print`."""
    said = answer(comparison)
    parts: list[RenderableType] = [Text(said.headline, style="bold"), Text(), _arms(comparison), Text()]
    if comparison.groups:
        parts += [_groups(comparison), Text()]
    if len(comparison.run.conditions) > 1:
        parts += [_conditions(comparison), Text()]
    parts += [Padding(Text(paragraph), (0, 0, 1, 0)) for paragraph in said.paragraphs]
    return Group(*parts)


def _arms(comparison: Comparison) -> Table:
    run = comparison.run
    table = _table(f"Under {condition_title(run.main, run.config['clock'])}")
    table.add_column("arm", style="bold")
    table.add_column("prediction")
    heads = ("success", "95 %", "time to\nsuccess s", "latency ms\np50/p95/p99", "late\nticks", "obs. age ms\np50/p95")
    for head in (*heads, "calls", "computing\ns/s"):
        table.add_column(head, justify="right")
    for arm in run.arms:
        cell = comparison.cell(arm.name, run.main.name)
        if cell is None or not cell.episodes:
            table.add_row(arm.name, arm.place, "no episode yet")
            continue
        table.add_row(arm.name, arm.place, *_numbers(cell))
    return table


def _numbers(cell: Cell) -> list[str]:
    return [
        f"{_percent(cell.success.value)} {cell.successes}/{cell.episodes}",
        _range(cell.success),
        _number(cell.time.median, 1),
        _spread(cell.latency_ms, 3),
        _number(cell.late, 1),
        _spread(cell.age_ms, 2),
        _number(cell.calls, 1),
        _number(cell.cost, 2),
    ]


def _groups(comparison: Comparison) -> Table:
    table = _table("Success by group of tasks, same condition")
    table.add_column("arm", style="bold")
    for group in comparison.groups:
        table.add_column(group, justify="right")
    for arm in comparison.run.arms:
        cells = [comparison.cell(arm.name, comparison.run.main.name, f"group:{group}") for group in comparison.groups]
        table.add_row(arm.name, *(_success(cell) for cell in cells))
    return table


def _conditions(comparison: Comparison) -> Table:
    run = comparison.run
    table = _table("Success against latency")
    table.add_column("arm", style="bold")
    for condition in run.conditions:
        table.add_column(condition.name, justify="right")
    scopes = [ALL, *(f"group:{group}" for group in comparison.groups if group == "timing")]
    for scope in scopes:
        for arm in run.arms:
            label = arm.name if scope == ALL else f"{arm.name}, {scope.partition(':')[2]}"
            cells = [comparison.cell(arm.name, condition.name, scope) for condition in run.conditions]
            table.add_row(label, *(_success(cell) for cell in cells))
        table.add_section()
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="", header_style="bold", expand=False)


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
