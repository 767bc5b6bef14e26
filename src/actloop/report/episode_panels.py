"""The panels of an episode's picture, each drawn on the same axis of time.

seen, imagined     frames, where there are any          checks     readings against their thresholds, alarms
asked              a bar from question to answer        ladder     the rung in force
action of chunk    which action of which plan           computing  seconds spent per layer, and what was allowed
pace               holds, slowing, limits               age        of the view behind each action
components         wanted, requested, sent, measured
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from actloop.report.episode import Readings
from actloop.report.episode_canvas import (
    ACROSS,
    BAD,
    FRAME,
    GUTTER,
    HOLD_COLOURS,
    INK,
    LATE,
    LAYER_COLOURS,
    LINE,
    MOST_COMPONENTS,
    NAMES,
    QUIET,
    SENT,
    Canvas,
)


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of some inches, and what draws it on its axes."""

    height: float
    draw: Callable[[Any], None]


def panels_of(canvas: Canvas) -> list[Panel]:
    """The panels that this episode needs, from above."""
    view = canvas.view
    panels = []
    if canvas.film:
        panels.append(Panel(2 * FRAME + GUTTER if canvas.film.imagined else FRAME, partial(_frames, canvas)))
    panels.append(Panel(max(0.1 + 0.26 * len(view.layers), LINE * len(_asked_legend(canvas))), partial(_asked, canvas)))
    panels.append(Panel(0.6, partial(_plans, canvas)))
    panels.append(Panel(max(0.42, LINE * len(_pace_legend(canvas))), partial(_pace, canvas)))
    for component in range(min(view.body.action.size, MOST_COMPONENTS)):
        panels.append(Panel(0.5, partial(_component, canvas, component=component)))
    for readings in view.readings:
        panels.append(Panel(0.55, partial(_check, canvas, readings=readings)))
    if view.rungs:
        panels.append(Panel(0.24, partial(_ladder, canvas)))
    panels.append(Panel(0.6, partial(_computing, canvas)))
    panels.append(Panel(0.45, partial(_age, canvas)))
    return panels


def _frames(canvas: Canvas, axes: Any) -> None:
    film = canvas.film
    assert film is not None
    rows = [film.seen, film.imagined] if film.imagined else [film.seen]
    scale = canvas.end / ACROSS
    for row, frames in enumerate(rows):
        for time, frame in zip(film.times, frames, strict=True):
            wide = FRAME * frame.shape[1] / frame.shape[0] * scale
            at = time - wide / 2
            low = -(row + 1) * FRAME - row * GUTTER
            axes.imshow(frame, extent=(at, at + wide, low, low + FRAME), aspect="auto", interpolation="nearest")
    axes.set_ylim(-len(rows) * FRAME - (len(rows) - 1) * GUTTER, 0)
    axes.set_yticks([-0.5 * FRAME, -1.5 * FRAME - GUTTER][: len(rows)], ["seen", "imagined"][: len(rows)], size=8.5)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelbottom=False)
    axes.tick_params(axis="y", pad=72 * NAMES)
    axes.grid(visible=False)


def _asked(canvas: Canvas, axes: Any) -> None:
    from matplotlib.patches import Rectangle

    layers, crowded = canvas.view.layers, canvas.view.crowded
    least = 0.003 * canvas.end
    for asked in canvas.view.asked:
        y, colour, tall = -float(layers.index(asked.layer)), LAYER_COLOURS[asked.layer], 0.68
        if asked.layer in crowded:  # questions that overlap go into two rows
            y, tall = y + (-0.18 if asked.second else 0.18), 0.34
        width = max((canvas.end if asked.answered is None else asked.answered) - asked.asked, least)
        kept = asked.fate == "accepted"
        edge = BAD if asked.alarm or asked.fate == "failed" else colour if kept else QUIET
        bar = Rectangle((asked.asked, y - tall / 2), width, tall, linewidth=0.9, edgecolor=edge)
        bar.set_facecolor(canvas.faint(BAD if asked.alarm else colour) if kept else "none")
        bar.set_linestyle("-" if kept else (0, (2.5, 2)))
        canvas.hint(bar, asked.words)
        axes.add_patch(bar)
        inches = width / canvas.end * ACROSS
        if kept and inches > 0.25:
            axes.text(asked.asked + width / 2, y, str(asked.plan), ha="center", va="center", size=7, color=INK)
        if asked.fate in ("dropped", "failed"):
            axes.text(asked.asked + width, y, "×", ha="right", va="center", size=11, color=BAD)
        if asked.deadline is not None and asked.deadline < canvas.end:
            axes.plot([asked.deadline] * 2, [y - 0.6 * tall, y + 0.6 * tall], color=INK, linewidth=1.0)
    axes.set_ylim(-len(layers) + 0.45, 0.55)
    axes.set_yticks([-row for row in range(len(layers))], layers, size=8.5)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0, pad=72 * NAMES)
    canvas.beside(axes, _asked_legend(canvas))


def _asked_legend(canvas: Canvas) -> list[tuple[str, str]]:
    asked = canvas.view.asked
    rows = [("from question to answer", QUIET)]
    rows += [("| deadline", INK)] if any(one.deadline is not None for one in asked) else []
    rows += [("alarm, or failed", BAD)] if any(one.alarm or one.fate == "failed" for one in asked) else []
    return rows + ([("× dropped", BAD)] if any(one.fate == "dropped" for one in asked) else [])


def _plans(canvas: Canvas, axes: Any) -> None:
    edges, index = canvas.view.edges, canvas.view.numbers("index")
    order = {
        plan: number for number, plan in enumerate(dict.fromkeys(s.plan for s in canvas.view.stretches if not s.hold))
    }
    for stretch in canvas.view.stretches:
        if stretch.hold:
            continue
        rows = slice(stretch.first, stretch.last + 1)
        heights = index[rows] + 1
        x = edges[stretch.first : stretch.last + 2]
        colour = SENT if order[stretch.plan] % 2 else canvas.faint(SENT, 0.5)
        area = axes.fill_between(x, np.append(heights, heights[-1]), step="post", color=colour, linewidth=0)
        canvas.hint(area, stretch.words)
    axes.set_ylim(0, canvas.view.started["horizon"])
    axes.set_yticks([0, canvas.view.started["horizon"]])
    canvas.name(axes, "action\nof chunk")
    canvas.beside(axes, [("a new chunk, a new shade", QUIET), ("begins high: overtaken", QUIET)])


def _pace(canvas: Canvas, axes: Any) -> None:
    view = canvas.view
    for stretch in view.stretches:
        if stretch.hold:
            at = (view.edges[stretch.first], view.edges[stretch.last + 1])
            span = axes.axvspan(*at, color=canvas.faint(HOLD_COLOURS[stretch.hold], 0.5), linewidth=0)
            canvas.hint(span, stretch.words)
    pace = np.where([bool(tick["hold"]) for tick in view.ticks], np.nan, view.numbers("pace"))
    axes.step(view.edges, np.append(pace, pace[-1]), where="post", color=INK, linewidth=1.1)
    for time, tick in zip(view.times, view.ticks, strict=True):
        if tick["reasons"]:
            (mark,) = axes.plot(time + view.period / 2, -0.18, marker="|", markersize=5, color=BAD)
            canvas.hint(mark, f"tick {tick['tick']}: {', '.join(tick['reasons'])}")
    axes.set_ylim(-0.35, 1.1)
    axes.set_yticks([0, 1])
    canvas.name(axes, "pace")
    canvas.beside(axes, _pace_legend(canvas))


def _pace_legend(canvas: Canvas) -> list[tuple[str, str]]:
    held = dict.fromkeys(stretch.hold for stretch in canvas.view.stretches if stretch.hold)
    limited = dict.fromkeys(reason for tick in canvas.view.ticks for reason in tick["reasons"])
    return [(f"■ held: {hold}", HOLD_COLOURS[hold]) for hold in held] + [(f"| {why}", BAD) for why in limited]


def _component(canvas: Canvas, axes: Any, component: int) -> None:
    view = canvas.view
    name = view.body.action.component_names[component]
    part = next(part for part in view.body.action.parts if name.partition(".")[0] == part.name)
    wanted, requested, sent = (view.series(which)[:, component] for which in ("wanted", "requested", "sent"))
    rows = []
    if part.kind == "absolute" and name in view.body.state.component_names:
        measured = view.series("state")[:, view.body.state.component_names.index(name)]
        if np.isfinite(measured).sum() > 1:
            axes.plot(view.times, measured, color=LAYER_COLOURS["check"], linewidth=1.0, linestyle=":")
            rows.append(("measured", LAYER_COLOURS["check"]))
    canvas.steps(axes, wanted, color=QUIET, linewidth=0.9)
    if not np.allclose(requested, sent, atol=1e-6):
        canvas.steps(axes, requested, color=LATE, linewidth=1.1, linestyle=(0, (3, 1.5)))
        rows = [("requested", LATE), *rows]
    canvas.steps(axes, sent, color=SENT, linewidth=1.4)
    axes.margins(y=0.12)
    axes.locator_params(axis="y", nbins=2)
    canvas.name(axes, f"{name}\n{part.unit}" if part.kind == "absolute" else f"{name}\n{part.kind}, {part.unit}")
    if component == 0 or len(rows) > 1:
        canvas.beside(axes, [("wanted by the chunk", QUIET), *rows[:1], ("sent", SENT), *rows[1:]])
    hidden = view.body.action.size - MOST_COMPONENTS
    if hidden > 0 and component == MOST_COMPONENTS - 1:
        canvas.beside(axes, [(f"{hidden} more components", QUIET)])


def _check(canvas: Canvas, axes: Any, readings: Readings) -> None:
    colour = LAYER_COLOURS["check"]
    axes.plot(readings.time, readings.value, color=colour, linewidth=1.1, marker="o", markersize=2.2)
    finite = np.where(np.isfinite(readings.threshold), readings.threshold, np.nan)
    if np.isfinite(finite).any():
        axes.step(readings.time, finite, where="post", color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    if readings.alarm.any():
        axes.plot(readings.time[readings.alarm], readings.value[readings.alarm], "o", color=BAD, markersize=4.5)
    axes.set_ylim(bottom=min(0.0, np.nanmin(readings.value, initial=0.0)))
    axes.margins(y=0.15)
    axes.locator_params(axis="y", nbins=2)
    canvas.name(axes, f"check\n{readings.check}")
    limit = ("- - threshold", INK) if np.isfinite(finite).any() else ("no threshold", QUIET)
    alarms = int(readings.alarm.sum())
    canvas.beside(axes, [("reading", colour), limit, *([(f"● {alarms} alarms", BAD)] if alarms else [])])


def _ladder(canvas: Canvas, axes: Any) -> None:
    for start, end, rung, cause in canvas.view.rungs:
        span = axes.axvspan(start, end, facecolor=canvas.faint(LATE), edgecolor=LATE, linewidth=0.8)
        canvas.hint(span, f"{rung}, from {start:.2f} to {end:.2f} s, because of {cause}")
        inches = (end - start) / canvas.end * ACROSS
        if inches > 0.075 * len(rung) + 0.05:
            axes.text((start + end) / 2, 0.5, rung, ha="center", va="center", size=7, color=INK)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    canvas.name(axes, "ladder")


def _computing(canvas: Canvas, axes: Any) -> None:
    budget = canvas.view.started["loop"]["budget"]
    rows = []
    for layer, (times, seconds) in canvas.view.spent.items():
        total = float(seconds[-1]) if len(seconds) else 0.0
        axes.step(
            np.concatenate([[0.0], times, [canvas.end]]),
            np.concatenate([[0.0], seconds, [total]]),
            where="post",
            color=LAYER_COLOURS[layer],
            linewidth=1.3,
        )
        rows.append((f"{layer} {total / canvas.end:.2f} s/s", LAYER_COLOURS[layer]))
        share = budget["layers"].get(layer)
        if share is not None:
            _allowed(canvas, axes, share, budget["window"], LAYER_COLOURS[layer])
    if budget["total"] is not None:
        _allowed(canvas, axes, budget["total"], budget["window"], INK)
        rows.append((f"··· allowed {budget['total']:g} s/s", INK))
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="y", nbins=2)
    canvas.name(axes, "computing\ns")
    canvas.beside(axes, rows)


def _allowed(canvas: Canvas, axes: Any, share: float, window: float, colour: str) -> None:
    """What may have been spent by a time, at most: the allowance that was saved up, and what was earned since."""
    axes.plot(
        [0, canvas.end], [share * window, share * (window + canvas.end)], color=colour, linewidth=1.0, linestyle=":"
    )


def _age(canvas: Canvas, axes: Any) -> None:
    ages = 1000 * canvas.view.numbers("age")
    canvas.steps(axes, ages, color=QUIET, linewidth=1.2)
    axes.set_ylim(0, 1.2 * np.nanmax(ages, initial=1.0))
    axes.locator_params(axis="y", nbins=2)
    canvas.name(axes, "age of view\nms")
    if np.isfinite(ages).any():
        middle, most = np.nanmedian(ages), np.nanmax(ages)
        canvas.beside(axes, [(f"median {middle:.0f} ms", QUIET), (f"at most {most:.0f} ms", QUIET)])
