"""One episode as a picture: panel under panel on one time axis, from the questions down to every component.

seen, imagined     frames, where there are any          checks     readings against their thresholds, alarms
asked              a bar from question to answer        ladder     the rung in force
action of chunk    which action of which plan           computing  seconds spent per layer, and what was allowed
pace               holds, slowing, limits               age        of the view behind each action
components         wanted, requested, sent, measured
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actloop.contracts import Frame
from actloop.report.episode import EpisodeView, Readings

INK, QUIET, RULE, GRID, PAPER = "#1c1e21", "#5d6470", "#dfe2e6", "#e8eaed", "#fcfcfa"
BAD, LATE, STARVED, STALE, TOLD = "#b3400a", "#c8500a", "#9aa1ab", "#7a6a00", "#6b5fc7"
LAYER_COLOURS = {"action": "#0072b2", "foresight": "#b0568f", "check": "#00845f", "semantic": "#6b5fc7"}
HOLD_COLOURS = {"starved": STARVED, "late": LATE, "stale": STALE, "told": TOLD}
SENT = LAYER_COLOURS["action"]
WIDTH, LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 13.0, 1.5, 1.7, 0.85, 0.5, 0.13  # inches
NAMES, LINE = 0.6, 0.165  # inches: from the axis to the names of the panels, from line to line of a legend
ACROSS, FRAME = WIDTH - LEFT - RIGHT, 0.75  # inches: the time axis, the height of a frame
MOST_COMPONENTS = 16
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": QUIET,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelsize": 8,
    "ytick.labelsize": 7,
    "svg.fonttype": "none",
    "svg.hashsalt": "actloop",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Film:
    """Pictures of the episode, drawn around `times`, seconds; `imagined` holds as many as `seen`, or none."""

    times: Sequence[float]
    seen: Sequence[Frame]
    imagined: Sequence[Frame] = ()


@dataclass(frozen=True, slots=True)
class _Panel:
    height: float  # inches
    draw: Callable[[Any], None]


class Drawing:
    """The picture of an episode.

    `hints` tells, by the `id` of a group in the SVG, what it shows in words; `mixed` which colours are faint ones, and
    what share of which colour they have.
    """

    def __init__(self, view: EpisodeView, film: Film | None = None) -> None:
        self.view = view
        self.hints: dict[str, str] = {}
        self.mixed: dict[str, tuple[str, float]] = {}
        self._film = film
        self._end = max(float(view.edges[-1]), view.period)

    def save(self, path: Path, *, dpi: int = 150) -> Path:
        """Write PNG, SVG or PDF, as the name ends."""
        import matplotlib

        path.parent.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            metadata = {"Date": None} if path.suffix == ".svg" else {}
            self.figure(titled=True).savefig(path, dpi=dpi, facecolor=PAPER, metadata=metadata)
        return path

    def svg(self) -> str:
        """The SVG without a title, on no background."""
        import io

        import matplotlib

        buffer = io.StringIO()
        with matplotlib.rc_context(STYLE):
            self.figure(titled=False).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return buffer.getvalue()

    def figure(self, *, titled: bool) -> Any:
        """The matplotlib figure."""
        from matplotlib.figure import Figure

        panels = self._panels()
        top = TOP if titled else 0.3
        height = top + sum(panel.height + BETWEEN for panel in panels) + BOTTOM
        figure = Figure(figsize=(WIDTH, height))
        down = top
        for number, panel in enumerate(panels):
            place = (LEFT / WIDTH, 1 - (down + panel.height) / height)
            axes = figure.add_axes((*place, ACROSS / WIDTH, panel.height / height))
            self._prepare(axes, last=number == len(panels) - 1)
            panel.draw(axes)
            axes.set_xlim(0, self._end)
            down += panel.height + BETWEEN
        if titled:
            self._title(figure, height)
        return figure

    def _panels(self) -> list[_Panel]:
        view = self.view
        panels = [_Panel(FRAME * (2 if self._film.imagined else 1), self._frames)] if self._film else []
        panels.append(_Panel(max(0.1 + 0.26 * len(view.layers), LINE * len(self._asked_legend)), self._asked))
        panels.append(_Panel(0.6, self._plans))
        panels.append(_Panel(max(0.42, LINE * len(self._pace_legend)), self._pace))
        for component in range(min(view.body.action.size, MOST_COMPONENTS)):
            panels.append(_Panel(0.5, partial(self._component, component=component)))
        for readings in view.readings:
            panels.append(_Panel(0.55, partial(self._check, readings=readings)))
        if view.rungs:
            panels.append(_Panel(0.24, self._ladder))
        panels.append(_Panel(0.6, self._computing))
        panels.append(_Panel(0.45, self._age))
        return panels

    def _prepare(self, axes: Any, *, last: bool) -> None:
        axes.patch.set_visible(False)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(length=2)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="x", labelbottom=last, length=3 if last else 0)
        if last:
            axes.set_xlabel("seconds", loc="right")

    def _title(self, figure: Any, height: float) -> None:
        started = self.view.started
        line = f"{started['task_name']}: “{started['instruction']}”"
        figure.text(LEFT / WIDTH, 1 - 0.32 / height, line, color=INK, size=12, weight="bold", parse_math=False)
        facts = f"{self.view.verdict} · {facts_line(self.view)}"
        figure.text(LEFT / WIDTH, 1 - 0.58 / height, facts, size=8.5, parse_math=False)

    def _name(self, axes: Any, text: str) -> None:
        x = -NAMES / ACROSS
        axes.text(x, 0.5, text, transform=axes.transAxes, ha="right", va="center", linespacing=1.3, parse_math=False)

    def _beside(self, axes: Any, rows: Sequence[tuple[str, str]]) -> None:
        """A legend at the right: words in their colours."""
        height = axes.get_position().height * axes.figure.get_figheight()
        for number, (words, colour) in enumerate(rows):
            y = 1.0 - LINE * (number + 0.5) / height
            axes.text(1.012, y, words, transform=axes.transAxes, color=colour, va="center", size=7.5, parse_math=False)

    def _faint(self, colour: str, share: float = 0.28) -> str:
        """A colour, mixed with white: no transparency, so that it prints alike everywhere."""
        mixed = "#" + "".join(f"{round(255 - share * (255 - int(colour[at : at + 2], 16))):02x}" for at in (1, 3, 5))
        self.mixed[mixed] = (colour, share)
        return mixed

    def _hint(self, artist: Any, words: str) -> None:
        name = f"hint-{len(self.hints)}"
        artist.set_gid(name)
        self.hints[name] = words

    # panels

    def _frames(self, axes: Any) -> None:
        film = self._film
        assert film is not None
        rows = [film.seen, film.imagined] if film.imagined else [film.seen]
        scale = self._end / ACROSS
        for row, frames in enumerate(rows):
            for time, frame in zip(film.times, frames, strict=True):
                wide = FRAME * frame.shape[1] / frame.shape[0] * scale
                at = time - wide / 2
                axes.imshow(frame, extent=(at, at + wide, -row - 1, -row), aspect="auto", interpolation="nearest")
        axes.set_ylim(-len(rows), 0)
        axes.set_yticks([-0.5, -1.5][: len(rows)], ["seen", "imagined"][: len(rows)], size=8.5)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(length=0, labelbottom=False)
        axes.tick_params(axis="y", pad=72 * NAMES)
        axes.grid(visible=False)

    def _asked(self, axes: Any) -> None:
        from matplotlib.patches import Rectangle

        layers, crowded = self.view.layers, self.view.crowded
        least = 0.003 * self._end
        for asked in self.view.asked:
            y, colour, tall = -float(layers.index(asked.layer)), LAYER_COLOURS[asked.layer], 0.68
            if asked.layer in crowded:  # questions that overlap go into two rows
                y, tall = y + (-0.18 if asked.second else 0.18), 0.34
            width = max((self._end if asked.answered is None else asked.answered) - asked.asked, least)
            kept = asked.fate == "accepted"
            edge = BAD if asked.alarm or asked.fate == "failed" else colour if kept else QUIET
            bar = Rectangle((asked.asked, y - tall / 2), width, tall, linewidth=0.9, edgecolor=edge)
            bar.set_facecolor(self._faint(BAD if asked.alarm else colour) if kept else "none")
            bar.set_linestyle("-" if kept else (0, (2.5, 2)))
            self._hint(bar, asked.words)
            axes.add_patch(bar)
            inches = width / self._end * ACROSS
            if kept and inches > 0.25:
                axes.text(asked.asked + width / 2, y, str(asked.plan), ha="center", va="center", size=7, color=INK)
            if asked.fate in ("dropped", "failed"):
                axes.text(asked.asked + width, y, "×", ha="right", va="center", size=11, color=BAD)
            if asked.deadline is not None and asked.deadline < self._end:
                axes.plot([asked.deadline] * 2, [y - 0.6 * tall, y + 0.6 * tall], color=INK, linewidth=1.0)
        axes.set_ylim(-len(layers) + 0.45, 0.55)
        axes.set_yticks([-row for row in range(len(layers))], layers, size=8.5)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0, pad=72 * NAMES)
        self._beside(axes, self._asked_legend)

    @property
    def _asked_legend(self) -> list[tuple[str, str]]:
        asked = self.view.asked
        rows = [("from question to answer", QUIET)]
        rows += [("| deadline", INK)] if any(one.deadline is not None for one in asked) else []
        rows += [("alarm, or failed", BAD)] if any(one.alarm or one.fate == "failed" for one in asked) else []
        return rows + ([("× dropped", BAD)] if any(one.fate == "dropped" for one in asked) else [])

    def _plans(self, axes: Any) -> None:
        edges, index = self.view.edges, self.view.numbers("index")
        order = {
            plan: number for number, plan in enumerate(dict.fromkeys(s.plan for s in self.view.stretches if not s.hold))
        }
        for stretch in self.view.stretches:
            if stretch.hold:
                continue
            rows = slice(stretch.first, stretch.last + 1)
            heights = index[rows] + 1
            x = edges[stretch.first : stretch.last + 2]
            colour = SENT if order[stretch.plan] % 2 else self._faint(SENT, 0.5)
            area = axes.fill_between(x, np.append(heights, heights[-1]), step="post", color=colour, linewidth=0)
            self._hint(area, stretch.words)
        axes.set_ylim(0, self.view.started["horizon"])
        axes.set_yticks([0, self.view.started["horizon"]])
        self._name(axes, "action\nof chunk")
        self._beside(axes, [("a new chunk, a new shade", QUIET), ("begins high: overtaken", QUIET)])

    def _pace(self, axes: Any) -> None:
        view = self.view
        for stretch in view.stretches:
            if stretch.hold:
                at = (view.edges[stretch.first], view.edges[stretch.last + 1])
                span = axes.axvspan(*at, color=self._faint(HOLD_COLOURS[stretch.hold], 0.5), linewidth=0)
                self._hint(span, stretch.words)
        pace = np.where([bool(tick["hold"]) for tick in view.ticks], np.nan, view.numbers("pace"))
        axes.step(view.edges, np.append(pace, pace[-1]), where="post", color=INK, linewidth=1.1)
        for time, tick in zip(view.times, view.ticks, strict=True):
            if tick["reasons"]:
                (mark,) = axes.plot(time + view.period / 2, -0.18, marker="|", markersize=5, color=BAD)
                self._hint(mark, f"tick {tick['tick']}: {', '.join(tick['reasons'])}")
        axes.set_ylim(-0.35, 1.1)
        axes.set_yticks([0, 1])
        self._name(axes, "pace")
        self._beside(axes, self._pace_legend)

    @property
    def _pace_legend(self) -> list[tuple[str, str]]:
        held = dict.fromkeys(stretch.hold for stretch in self.view.stretches if stretch.hold)
        limited = dict.fromkeys(reason for tick in self.view.ticks for reason in tick["reasons"])
        return [(f"■ held: {hold}", HOLD_COLOURS[hold]) for hold in held] + [(f"| {why}", BAD) for why in limited]

    def _component(self, axes: Any, component: int) -> None:
        view = self.view
        name = view.body.action.component_names[component]
        part = next(part for part in view.body.action.parts if name.partition(".")[0] == part.name)
        wanted, requested, sent = (view.series(which)[:, component] for which in ("wanted", "requested", "sent"))
        rows = []
        if part.kind == "absolute" and name in view.body.state.component_names:
            measured = view.series("state")[:, view.body.state.component_names.index(name)]
            if np.isfinite(measured).sum() > 1:
                axes.plot(view.times, measured, color=LAYER_COLOURS["check"], linewidth=1.0, linestyle=":")
                rows.append(("measured", LAYER_COLOURS["check"]))
        self._steps(axes, wanted, color=QUIET, linewidth=0.9)
        if not np.allclose(requested, sent, atol=1e-6):
            self._steps(axes, requested, color=LATE, linewidth=1.1, linestyle=(0, (3, 1.5)))
            rows = [("requested", LATE), *rows]
        self._steps(axes, sent, color=SENT, linewidth=1.4)
        axes.margins(y=0.12)
        axes.locator_params(axis="y", nbins=2)
        self._name(axes, f"{name}\n{part.unit}" if part.kind == "absolute" else f"{name}\n{part.kind}, {part.unit}")
        if component == 0 or len(rows) > 1:
            self._beside(axes, [("wanted by the chunk", QUIET), *rows[:1], ("sent", SENT), *rows[1:]])
        hidden = view.body.action.size - MOST_COMPONENTS
        if hidden > 0 and component == MOST_COMPONENTS - 1:
            self._beside(axes, [(f"{hidden} more components", QUIET)])

    def _steps(self, axes: Any, values: np.ndarray, **style: Any) -> None:
        axes.step(self.view.edges, np.append(values, values[-1]), where="post", **style)

    def _check(self, axes: Any, readings: Readings) -> None:
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
        self._name(axes, f"check\n{readings.check}")
        limit = ("- - threshold", INK) if np.isfinite(finite).any() else ("no threshold", QUIET)
        alarms = int(readings.alarm.sum())
        self._beside(axes, [("reading", colour), limit, *([(f"● {alarms} alarms", BAD)] if alarms else [])])

    def _ladder(self, axes: Any) -> None:
        for start, end, rung, cause in self.view.rungs:
            span = axes.axvspan(start, end, facecolor=self._faint(LATE), edgecolor=LATE, linewidth=0.8)
            self._hint(span, f"{rung}, from {start:.2f} to {end:.2f} s, because of {cause}")
            inches = (end - start) / self._end * ACROSS
            if inches > 0.075 * len(rung) + 0.05:
                axes.text((start + end) / 2, 0.5, rung, ha="center", va="center", size=7, color=INK)
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        self._name(axes, "ladder")

    def _computing(self, axes: Any) -> None:
        budget = self.view.started["loop"]["budget"]
        rows = []
        for layer, (times, seconds) in self.view.spent.items():
            total = float(seconds[-1]) if len(seconds) else 0.0
            axes.step(
                np.concatenate([[0.0], times, [self._end]]),
                np.concatenate([[0.0], seconds, [total]]),
                where="post",
                color=LAYER_COLOURS[layer],
                linewidth=1.3,
            )
            rows.append((f"{layer} {total / self._end:.2f} s/s", LAYER_COLOURS[layer]))
            share = budget["layers"].get(layer)
            if share is not None:
                self._allowed(axes, share, budget["window"], LAYER_COLOURS[layer])
        if budget["total"] is not None:
            self._allowed(axes, budget["total"], budget["window"], INK)
            rows.append((f"··· allowed {budget['total']:g} s/s", INK))
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="y", nbins=2)
        self._name(axes, "computing\ns")
        self._beside(axes, rows)

    def _allowed(self, axes: Any, share: float, window: float, colour: str) -> None:
        """What may have been spent by a time, at most: the allowance that was saved up, and what was earned since."""
        axes.plot(
            [0, self._end], [share * window, share * (window + self._end)], color=colour, linewidth=1.0, linestyle=":"
        )

    def _age(self, axes: Any) -> None:
        ages = 1000 * self.view.numbers("age")
        self._steps(axes, ages, color=QUIET, linewidth=1.2)
        axes.set_ylim(0, 1.2 * np.nanmax(ages, initial=1.0))
        axes.locator_params(axis="y", nbins=2)
        self._name(axes, "age of view\nms")
        if np.isfinite(ages).any():
            middle, most = np.nanmedian(ages), np.nanmax(ages)
            self._beside(axes, [(f"median {middle:.0f} ms", QUIET), (f"at most {most:.0f} ms", QUIET)])


def facts_line(view: EpisodeView) -> str:
    """What ran, in one line."""
    started = view.started
    parts = [
        view.body.name,
        f"seed {started['seed']}",
        f"{view.body.control_hz:g} Hz",
        f"{started['clock']} clock",
        f"latency {started['latency']}",
        f"{started['execute_horizon']} of {started['horizon']} actions",
        f"{len(view.ticks)} ticks",
    ]
    missed = int(view.ticks[-1]["missed"])
    return " · ".join(parts + ([f"{missed} places of the grid missed"] if missed else []))
