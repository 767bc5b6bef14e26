"""Drawings over time and cost: the share that is done by then, and which arms nothing beats at their price."""

import math
from collections.abc import Mapping, Sequence

from actloop.evaluation.cells import ALL
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.statistics import Curve, Interval
from actloop.report.charts import PANEL, Frame, arm_class, ceiling, legend, marker, panel
from actloop.report.markup import line, svg, tag

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def share_done(comparison: Comparison, curves: Mapping[str, Curve], title: str, *, until: str) -> str:
    """The share of episodes in which it has happened by then, by arm, with its band; empty where it never did."""
    if not any(curve.times for curve in curves.values()):
        return ""
    frame = Frame(x_top=ceiling(max(curve.looked for curve in curves.values())), y_low=0.0, y_high=1.0)
    parts = [frame.grid_y(SHARES, _percent), frame.grid_x(until)]
    for name, curve in curves.items():
        steps = [(0.0, 0.0), *((time, 1 - share) for time, share in zip(curve.times, curve.share, strict=True))]
        low = [(0.0, 0.0), *((time, 1 - share) for time, share in zip(curve.times, curve.high, strict=True))]
        high = [(0.0, 0.0), *((time, 1 - share) for time, share in zip(curve.times, curve.low, strict=True))]
        ahead, back = _stairs(frame, low, curve.looked), _stairs(frame, high, curve.looked)
        band = tag("polygon", points=" ".join([*ahead, *reversed(back)]), class_="band")
        drawn = tag("polyline", points=" ".join(_stairs(frame, steps, curve.looked)), class_="curve")
        parts.append(tag("g", band, drawn, class_=arm_class(comparison, name)))
    return panel(title, svg(*PANEL, *parts, label=title))


def time_to_success(comparison: Comparison) -> str:
    """How soon the arms succeed, one panel for each undisturbed condition."""
    drawn = []
    for condition in comparison.run.conditions:
        curves = {
            item.arm: item.time_to_success
            for item in comparison.conduct
            if item.condition == condition.name and item.time_to_success is not None
        }
        if not condition.twin and curves:
            drawn.append(share_done(comparison, curves, f"{condition.label}: succeeded, by seconds", until="s"))
    return tag("div", *drawn, class_="panels") if any(drawn) else ""


def trade_offs(comparison: Comparison) -> str:
    """Success against latency and against computing; ringed are those that no arm beats in both."""
    points = [
        (index, arm.name, cell.latency_ms.p50, cell.cost, cell.success)
        for index, arm in enumerate(comparison.run.arms)
        if (cell := comparison.cell(arm.name, comparison.run.main.name, ALL)) and cell.episodes
    ]
    if len(points) < 2:
        return ""
    label_ = comparison.run.main.label
    latency = [(index, name, latency, success) for index, name, latency, _, success in points]
    cost = [(index, name, cost, success) for index, name, _, cost, success in points]
    own = [
        (index, arm.name, 1000 * arm.measured.quantile(0.5), success)
        for (index, _, _, _, success), arm in zip(points, comparison.run.arms, strict=False)
    ]
    panels = [
        _trade_off(comparison, cost, f"{label_}: success against computing", "s of computing per s"),
        _trade_off(comparison, own, f"{label_}: success against a call on this machine", "ms a call"),
    ]
    if len({round(point[2], 1) for point in latency}) > 1:
        panels.insert(0, _trade_off(comparison, latency, f"{label_}: success against latency", "ms charged"))
    names = [arm.name for arm in comparison.run.arms]
    return legend(comparison, names) + tag("div", *panels, class_="panels")


Point = tuple[int, str, float, Interval]


def _trade_off(comparison: Comparison, points: Sequence[Point], title: str, axis: str) -> str:
    known = [point for point in points if math.isfinite(point[2])]
    frame = Frame(x_top=ceiling(max((point[2] for point in known), default=0.0)), y_low=0.0, y_high=1.0)
    parts = [frame.grid_y(SHARES, _percent), frame.grid_x(axis)]
    best = undominated([(point[2], point[3].value) for point in known])
    for place, (index, name, price, success) in enumerate(known):
        x, y = frame.x(price), frame.y(success.value)
        drawn = [line(x, frame.y(success.low), x, frame.y(success.high), "whisker"), marker(index, x, y)]
        if place in best:
            drawn.append(tag("circle", cx=x, cy=y, r=9, class_="ring"))
        parts.append(tag("g", *drawn, class_=arm_class(comparison, name)))
    return panel(title, svg(*PANEL, *parts, label=title))


def undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (price, worth) no other one beats: as cheap and worth more, or worth as much and cheaper."""
    return [
        index
        for index, (price, worth) in enumerate(points)
        if not any(
            other_price <= price and other_worth >= worth and (other_price, other_worth) != (price, worth)
            for other_price, other_worth in points
        )
    ]


def _stairs(frame: Frame, steps: Sequence[tuple[float, float]], end: float) -> list[str]:
    placed = []
    before = steps[0][1]
    for time, share in steps:
        placed += [f"{frame.x(time):.1f},{frame.y(before):.1f}", f"{frame.x(time):.1f},{frame.y(share):.1f}"]
        before = share
    return [*placed, f"{frame.x(max(end, steps[-1][0])):.1f},{frame.y(before):.1f}"]


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"
