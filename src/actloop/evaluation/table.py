"""A comparison on the terminal, readable from 80 columns."""

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from actloop.evaluation.answer import answer, condition_title
from actloop.evaluation.comparison import ALL, Cell, Comparison, Spread
from actloop.evaluation.statistics import Interval


def format_table(comparison: Comparison) -> RenderableType:
    """The answer, the arms under the main condition, success by group and against latency, and the reasons.

    For `rich.console.Console().print`.
    """
    said = answer(comparison)
    shown: list[RenderableType] = [Text(said.headline, style="bold"), Text()]
    for table in (_arms(comparison), _groups(comparison), _conditions(comparison)):
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
    table = _table(
        f"Under {condition_title(run.main, run.config['clock'])}", heads=heads + ["tokens\nper act."] * bool(speaks)
    )
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
    if len(run.conditions) == 1:
        return None
    table = _table("Success against latency", heads=[condition.name for condition in run.conditions])
    for scope in [ALL, *(f"group:{group}" for group in comparison.groups if group == "timing")]:
        for arm in run.arms:
            label = arm.name if scope == ALL else f"{arm.name}, timing"
            cells = [comparison.cell(arm.name, condition.name, scope) for condition in run.conditions]
            table.add_row(label, *(_success(cell) for cell in cells))
        table.add_section()
    return table


def _reasons(paragraphs: Sequence[tuple[str, str]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 1, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for about, said in paragraphs:
        grid.add_row(about, said)
    return grid


def _table(title: str, *, heads: Sequence[str]) -> Table:
    table = Table(title=title, header_style="bold", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("arm", style="bold", no_wrap=True)
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
