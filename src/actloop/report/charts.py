"""Drawings of a comparison as inline SVG: intervals, success against latency, foresight. Colours come from the page.

An arm keeps one colour (class `a0`, `a1`, ...) and one shape through all drawings, so that neither is needed alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from actloop.evaluation.cells import ForesightRow
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.statistics import Interval
from actloop.report.markup import label, line, svg, tag

PANEL = (350, 240)
MARGIN = (44, 14, 12, 40)  # left, top, right, bottom
COLOURS = 6
Naming = Callable[[float], str]
Point = tuple[float, Interval, bool, bool]  # x, success, whether it is the main condition, whether it is paused


def arm_class(comparison: Comparison, arm: str) -> str:
    """The colour class of an arm: its place in the run."""
    names = [item.name for item in comparison.run.arms]
    return f"a{names.index(arm) % COLOURS}"


def interval_bar(interval: Interval, class_: str) -> str:
    """A fraction as a dot with its whisker on a track from 0 to 100 %."""
    width, height, pad = 132.0, 16.0, 6.0
    scale = width - 2 * pad
    x, low, high = pad + scale * interval.value, pad + scale * interval.low, pad + scale * interval.high
    quarters = [line(pad + scale * q, 4, pad + scale * q, 12, "track") for q in (0, 0.5, 1)]
    track = [line(pad, 8, width - pad, 8, "track"), *quarters]
    name = f"{100 * interval.value:.0f} %, 95 % interval {100 * interval.low:.0f} to {100 * interval.high:.0f}"
    drawn = [*track, line(low, 8, high, 8, "whisker"), tag("circle", cx=x, cy=8, r=4, class_="mark")]
    return svg(width, height, *drawn, label=name, class_=f"bar {class_}")


def marker(which: int, x: float, y: float, *, size: float = 4.5, class_: str = "mark") -> str:
    """The shape of an arm: circle, square, triangle, diamond, then circles again."""
    shapes: dict[int, list[tuple[float, float]]] = {
        1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        2: [(0, -1.25), (1.15, 0.9), (-1.15, 0.9)],
        3: [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)],
    }
    if which % 4 not in shapes:
        return tag("circle", cx=x, cy=y, r=size, class_=class_)
    corners = " ".join(f"{x + size * dx * 0.95:.1f},{y + size * dy * 0.95:.1f}" for dx, dy in shapes[which % 4])
    return tag("polygon", points=corners, class_=class_)


def success_against_latency(comparison: Comparison, scope: str, title: str) -> str:
    """Success and its interval over each arm's median latency; the main condition is drawn larger."""
    series: dict[str, list[Point]] = {}
    for arm in comparison.run.arms:
        points = []
        for condition in comparison.run.conditions:
            cell = comparison.cell(arm.name, condition.name, scope)
            if cell is not None and cell.episodes and not condition.twin:
                is_main = condition.name == comparison.run.main.name
                paused = condition.clock == "paused"
                points.append((0.0 if paused else condition.latency_ms(arm.name), cell.success, is_main, paused))
        series[arm.name] = sorted(points, key=lambda point: point[0])
    widest = max((point[0] for points in series.values() for point in points), default=0.0)
    frame = Frame(x_top=ceiling(widest), y_low=0.0, y_high=1.0)
    parts = [frame.grid_y([0, 0.25, 0.5, 0.75, 1], lambda value: f"{100 * value:.0f} %"), frame.grid_x("latency, ms")]
    for index, (name, points) in enumerate(series.items()):
        shift = 4.0 * (index - (len(series) - 1) / 2)
        parts.append(tag("g", *_curve(frame, points, index, shift), class_=arm_class(comparison, name)))
    return panel(title, svg(*PANEL, *parts, label=f"Success against latency, {title}"))


def _curve(frame: "Frame", points: Sequence[Point], index: int, shift: float) -> list[str]:
    placed = [(frame.x(x) + shift, interval, main, paused) for x, interval, main, paused in points]
    path = [f"{x:.1f},{frame.y(interval.value):.1f}" for x, interval, _, paused in placed if not paused]
    drawn = [tag("polyline", points=" ".join(path), class_="curve")] if len(path) > 1 else []
    for x, interval, main, paused in placed:
        drawn.append(line(x, frame.y(interval.low), x, frame.y(interval.high), "whisker"))
        shape = "mark hollow" if paused else "mark"
        drawn.append(marker(index, x, frame.y(interval.value), size=6.0 if main else 4.0, class_=shape))
    return drawn


def foresight(comparison: Comparison) -> str:
    """PSNR of imagined frames by lead time, solid; dotted: had nothing changed. Empty for a single lead time."""
    rows = [row for row in comparison.foresight if math.isfinite(row.psnr)]
    if len({row.lead for row in rows}) < 2:
        return ""
    values = [value for row in rows for value in (row.psnr, row.still) if math.isfinite(value)]
    frame = Frame(
        x_top=ceiling(max(row.lead for row in rows)),
        y_low=5 * math.floor(min(values) / 5),
        y_high=5 * math.floor(max(values) / 5) + 5,
    )
    steps = [frame.y_low + 5 * step for step in range(round((frame.y_high - frame.y_low) / 5) + 1)]
    parts = [frame.grid_y(steps, lambda value: f"{value:.0f} dB"), frame.grid_x("s ahead")]
    names = [arm.name for arm in comparison.run.arms]
    for name in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == name]
        marks = [marker(names.index(name), frame.x(row.lead), frame.y(row.psnr)) for row in mine]
        curves = [
            _foresight_curve(frame, mine, "psnr", "curve"),
            _foresight_curve(frame, mine, "still", "curve dotted"),
        ]
        parts.append(tag("g", *curves, *marks, class_=arm_class(comparison, name)))
    return panel("solid: imagined; dotted: had nothing changed", svg(*PANEL, *parts, label="Foresight by lead time"))


def _foresight_curve(frame: "Frame", rows: Sequence[ForesightRow], which: str, class_: str) -> str:
    heights: Mapping[float, float] = {row.lead: getattr(row, which) for row in rows}
    path = " ".join(
        f"{frame.x(lead):.1f},{frame.y(height):.1f}" for lead, height in heights.items() if math.isfinite(height)
    )
    return tag("polyline", points=path, class_=class_)


def legend(comparison: Comparison, arms: Sequence[str]) -> str:
    """The arms with their colours and shapes."""
    names = [arm.name for arm in comparison.run.arms]
    items = []
    for name in arms:
        shape = svg(16, 16, marker(names.index(name), 8, 8, size=5), label="")
        items.append(tag("span", shape, label_text(name), class_=f"key {arm_class(comparison, name)}"))
    return tag("p", *items, class_="legend")


def label_text(value: str) -> str:
    return tag("span", value.replace("&", "&amp;").replace("<", "&lt;"))


class Frame:
    """Axes from 0 to `x_top` and `y_low` to `y_high` inside a panel."""

    def __init__(self, *, x_top: float, y_low: float, y_high: float) -> None:
        self.x_top, self.y_low, self.y_high = x_top, y_low, y_high
        left, top, right, bottom = MARGIN
        self.left, self.right = left + 8.0, PANEL[0] - right - 10.0
        self.top, self.bottom = float(top), float(PANEL[1] - bottom)

    def x(self, value: float) -> float:
        return self.left + (self.right - self.left) * value / self.x_top

    def y(self, value: float) -> float:
        return self.bottom - (self.bottom - self.top) * (value - self.y_low) / (self.y_high - self.y_low)

    def grid_y(self, values: Sequence[float], name: Naming) -> str:
        return "".join(
            line(self.left - 8, self.y(value), self.right + 8, self.y(value), "grid")
            + label(name(value), self.left - 12, self.y(value) + 4, anchor="end")
            for value in values
        )

    def grid_x(self, name: str) -> str:
        ticks = [self.x_top * step / 4 for step in range(5)]
        marks = [label(f"{value:g}", self.x(value), self.bottom + 20, anchor="middle") for value in ticks]
        return "".join(marks) + label(name, self.right + 10, self.bottom + 36, anchor="end")


def panel(title: str, drawing: str) -> str:
    """A drawing with its title."""
    return tag("figure", tag("figcaption", label_text(title)), drawing, class_="panel")


def ceiling(value: float) -> float:
    """The next number that four steps divide well."""
    if value <= 0:
        return 100.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * unit >= value - 1e-9)
