"""The sections of the page, each a string of markup made from a comparison."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path

from actloop.evaluation.cells import ALL, Cell
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.film import GAP, SCALE
from actloop.evaluation.records import Record
from actloop.evaluation.statistics import clopper_pearson, posterior
from actloop.evaluation.wording import condition_title, counted, place_title
from actloop.report.charts import (
    arm_class,
    foresight,
    interval_bar,
    legend,
    marker,
    success_against_latency,
)
from actloop.report.markup import svg, table, tag, text

VIDEO_BUDGET = 4_000_000  # bytes of all videos in a page; the others stay in the run folder


def facts(comparison: Comparison) -> str:
    """One line: what was run."""
    run = comparison.run
    parts = [
        f"world {run.config['world']}",
        "the world waits for the model (paused)" if run.config["clock"] == "paused" else "",
        counted(len(run.tasks), "task"),
        counted(len(run.arms), "arm"),
        f"{len(comparison.records)} episodes"
        + ("" if comparison.complete else f" of {comparison.planned}, not finished yet"),
        str(run.identity.get("date", ""))[:10],
    ]
    return " · ".join(text(part) for part in parts if part)


def arms_table(comparison: Comparison) -> str:
    """The arms under the main condition."""
    run = comparison.run
    head = [
        "arm",
        "success",
        "95 % interval",
        "time to success<small>median / mean with failures at the limit</small>",
        "latency<small>p50 / p95 / p99</small>",
        "late ticks<small>per episode</small>",
        "age of view<small>p50 / p95</small>",
        "model calls<small>per episode</small>",
        "computing<small>s per s of robot</small>",
    ]
    speaks = any(not math.isnan(arm.tokens_per_action) for arm in run.arms)
    head += ["tokens<small>per action</small>"] * speaks
    rows = []
    for arm in run.arms:
        cell = comparison.cell(arm.name, run.main.name)
        name = key(comparison, arm.name) + tag("small", text(place_title(arm)))
        numbers = _numbers(cell, arm_class(comparison, arm.name)) if cell and cell.episodes else ["–"] * 8
        rows.append([name, *numbers, *[number(arm.tokens_per_action, 1)] * speaks])
    title = text(f"Under {condition_title(run.main)}")
    return table(head, rows, caption=title, class_="numbers")


def _numbers(cell: Cell, class_: str) -> list[str]:
    crashed = f", {cell.crashed} crashed" if cell.crashed else ""
    share = tag("strong", percent(cell.success.value)) + tag("small", f"{cell.successes}/{cell.episodes}{crashed}")
    low, high = 100 * cell.success.low, 100 * cell.success.high
    return [
        share,
        interval_bar(cell.success, class_) + tag("small", f"{low:.0f} to {high:.0f} %"),
        f"{number(cell.time.median, 1)} / {number(cell.time.restricted_mean, 1)} s",
        " / ".join(number(v, 0) for v in (cell.latency_ms.p50, cell.latency_ms.p95, cell.latency_ms.p99)) + " ms",
        number(cell.late, 1),
        f"{number(cell.age_ms.p50, 0)} / {number(cell.age_ms.p95, 0)} ms",
        number(cell.calls, 1),
        number(cell.cost, 2),
    ]


def latency_charts(comparison: Comparison) -> str:
    """Success against latency, over all tasks and by group."""
    panels = [success_against_latency(comparison, ALL, "all tasks")]
    panels += [success_against_latency(comparison, f"group:{name}", f"{name} tasks") for name in comparison.groups]
    names = [arm.name for arm in comparison.run.arms]
    return legend(comparison, names) + tag("div", *panels, class_="panels")


def latency_table(comparison: Comparison) -> str:
    """The numbers of the chart."""
    run = comparison.run
    timings = [condition for condition in run.conditions if not condition.twin]
    rows = []
    for scope in [ALL, *(f"group:{name}" for name in comparison.groups)]:
        for arm in run.arms:
            cells = [comparison.cell(arm.name, condition.name, scope) for condition in timings]
            where = "all tasks" if scope == ALL else f"{scope.partition(':')[2]} tasks"
            rows.append([key(comparison, arm.name), text(where), *(_success(cell) for cell in cells)])
    return table(["arm", "tasks", *(text(condition.label) for condition in timings)], rows, class_="numbers")


def heat_tables(comparison: Comparison) -> str:
    """Success by task and arm, one table per condition, the main one open."""
    run = comparison.run
    tables = []
    for condition in run.conditions:
        rows = []
        for task in run.tasks:
            cells = [comparison.cell(arm.name, condition.name, f"task:{task.name}") for arm in run.arms]
            group = f"{task.group}: " if task.group else ""
            name = text(task.name) + tag("small", text(f"{group}“{task.instruction}”"))
            rows.append([name, *(_heat(cell) for cell in cells)])
        drawn = table(["task", *(key(comparison, arm.name) for arm in run.arms)], rows, class_="heat")
        title = text(f"Under {condition_title(condition)}")
        is_main = condition.name == run.main.name
        tables.append(tag("details", tag("summary", title), drawn, open=is_main))
    return "".join(tables)


def _heat(cell: Cell | None) -> str:
    if cell is None or not cell.episodes:
        return "–"
    low, high = 100 * cell.success.low, 100 * cell.success.high
    return tag(
        "span",
        percent(cell.success.value),
        tag("small", f"{cell.successes}/{cell.episodes}"),
        class_="cell",
        style=f"--share:{100 * cell.success.value:.0f}%",
        title=f"95 % interval {low:.0f} to {high:.0f} %, exact {_exact(cell)}, posterior {_posterior(cell)}",
    )


def _exact(cell: Cell) -> str:
    found = clopper_pearson(cell.successes, cell.episodes)
    return f"{100 * found.low:.0f} to {100 * found.high:.0f} %"


def _posterior(cell: Cell) -> str:
    found = posterior(cell.successes, cell.episodes)
    return f"{100 * found.value:.0f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"


def contrasts_table(comparison: Comparison) -> str:
    """The paired tests that the answer rests on: all pairs of arms, main condition."""
    rows = []
    for item in comparison.contrasts:
        if item.condition != comparison.run.main.name or item.scope.startswith("task:") or not item.paired.pairs:
            continue
        difference = item.paired.difference
        rows.append(
            [
                text(f"{item.first} against {item.second}"),
                text("all" if item.scope == ALL else item.scope.partition(":")[2]),
                f"{100 * difference.value:+.0f} ({100 * difference.low:+.0f} to {100 * difference.high:+.0f})",
                f"{item.paired.only_first} / {item.paired.only_second} of {item.paired.pairs}",
                f"{item.paired.p_value:.3f}",
                f"{item.paired.p_mcnemar:.3f}",
                f"{item.p_corrected:.3f}",
                "yes" if item.separated else "no",
            ]
        )
    head = ["arms", "tasks", "difference, points", "solved by only one", "p<small>seeds swapped</small>"]
    head += ["p<small>McNemar</small>", "p<small>seeds, Holm</small>", "measurable"]
    return table(head, rows, class_="numbers") if rows else ""


def films(comparison: Comparison, folder: Path) -> str:
    """The filmed episodes, task by task, side by side; imagined beside real where an arm imagines."""
    by_task: dict[str, list[Record]] = {}
    for record in comparison.records:
        if record["video"]:
            by_task.setdefault(record["task"], []).append(record)
    if not by_task:
        return tag("p", "No episode of this run was filmed.")
    budget = VIDEO_BUDGET
    shown: list[str] = []
    left_out: list[str] = []
    order = {arm.name: index for index, arm in enumerate(comparison.run.arms)}
    for task in (task for task in comparison.run.tasks if task.name in by_task):
        records = sorted(by_task[task.name], key=lambda record: (record["seed"], order[record["arm"]]))
        files = [folder / record["video"] for record in records]
        size = sum(file.stat().st_size for file in files if file.exists())
        if size * 4 / 3 > budget:
            left_out.append(task.name)
            continue
        budget -= size * 4 // 3
        figures = [_film(comparison, record, file) for record, file in zip(records, files, strict=True)]
        grid = tag("div", *figures, class_="films")
        shown.append(tag("div", grid, data_choice=task.name, class_="choice"))
    note = tag("p", text(f"Left out to keep the page small: {', '.join(left_out)}; see videos/.")) if left_out else ""
    names = [task.name for task in comparison.run.tasks if task.name in by_task and task.name not in left_out]
    return chooser("films", "task", [(name, name) for name in names]) + "".join(shown) + note


def _film(comparison: Comparison, record: Record, file: Path) -> str:
    result = record["result"]
    verdict = "✓ success" if result["outcome"]["success"] else f"✗ {result['outcome']['reason']}"
    said = text(f"{verdict} after {result['outcome']['time']:.1f} s, seed {record['seed']}")
    panes = tag("span", tag("b", "seen"), tag("b", "imagined"), class_="panes") if record["imagines"] else ""
    caption = tag("figcaption", key(comparison, record["arm"]), tag("small", said))
    try:
        data = base64.b64encode(file.read_bytes()).decode("ascii")
    except OSError:
        return tag("figure", caption, tag("p", text(f"{record['video']} is missing")), class_="film")
    camera = comparison.run.embodiment["cameras"][0]
    height, width = camera["height"] * SCALE, camera["width"] * SCALE
    width = 2 * width + GAP if record["imagines"] else width
    source = f"data:video/mp4;base64,{data}"
    said_to_all = f"{record['arm']} on {record['task']}: {verdict}"
    video = tag(
        "video", src=source, controls=True, loop=True, muted=True, playsinline=True, preload="metadata",
        width=width, height=height, aria_label=said_to_all,
    )  # fmt: skip
    screen = tag("div", video, panes, class_="screen")
    return tag("figure", screen, caption, class_="film wide" if record["imagines"] else "film")


def foresight_chart(comparison: Comparison) -> str:
    """Whether what was imagined came, as numbers and, over several lead times, as a drawing; empty without any."""
    if not comparison.foresight:
        return ""
    rows = [
        [
            key(comparison, row.arm),
            f"{row.lead:.1f} s",
            str(row.frames),
            f"{number(row.psnr, 1)} dB",
            f"{number(row.still, 1)} dB",
            f"{row.psnr - row.still:+.1f} dB",
        ]
        for row in comparison.foresight
    ]
    head = ["arm", "ahead", "frames compared", "imagined", "had nothing changed", "foresight"]
    drawn = foresight(comparison)
    names = list(dict.fromkeys(row.arm for row in comparison.foresight))
    chart = legend(comparison, names) + tag("div", drawn, class_="panels") if drawn else ""
    return chart + table(head, rows, class_="numbers")


def chooser(name: str, what: str, choices: Sequence[tuple[str, str]]) -> str:
    """A menu that shows one `choice` of its section at a time; without scripts all of them are shown."""
    options = [tag("option", text(title), value=value) for value, title in choices]
    menu = tag("select", *options, id=f"choose-{name}", data_chooser=name)
    return tag("p", tag("label", f"{text(what)} ", for_=f"choose-{name}"), menu, class_="chooser")


def key(comparison: Comparison, arm: str) -> str:
    """The arm's name with its colour and shape."""
    names = [item.name for item in comparison.run.arms]
    shape = svg(14, 14, marker(names.index(arm), 7, 7), label="")
    return tag("span", shape, text(arm), class_=f"key {arm_class(comparison, arm)}")


def percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f} %"


def number(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _success(cell: Cell | None) -> str:
    if cell is None or not cell.episodes:
        return "–"
    return f"{percent(cell.success.value)} <small>{100 * cell.success.low:.0f} to {100 * cell.success.high:.0f}</small>"
