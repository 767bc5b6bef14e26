"""One episode as a picture: panel under panel on one time axis."""

import io
from pathlib import Path
from typing import Any

from actloop.report.episode import EpisodeView
from actloop.report.episode_canvas import ACROSS, BETWEEN, BOTTOM, GRID, INK, LEFT, PAPER, STYLE, TOP, WIDTH, Canvas
from actloop.report.episode_panels import panels_of


class Drawing(Canvas):
    """The picture of an episode, with the frames of a `film` above it where there is one."""

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
        import matplotlib

        buffer = io.StringIO()
        with matplotlib.rc_context(STYLE):
            self.figure(titled=False).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        return buffer.getvalue()

    def figure(self, *, titled: bool) -> Any:
        """The matplotlib figure."""
        from matplotlib.figure import Figure

        panels = panels_of(self)
        top = TOP if titled else 0.3
        height = top + sum(panel.height + BETWEEN for panel in panels) + BOTTOM
        figure = Figure(figsize=(WIDTH, height))
        down = top
        for number, panel in enumerate(panels):
            place = (LEFT / WIDTH, 1 - (down + panel.height) / height)
            axes = figure.add_axes((*place, ACROSS / WIDTH, panel.height / height))
            self._prepare(axes, last=number == len(panels) - 1)
            panel.draw(axes)
            axes.set_xlim(0, self.end)
            down += panel.height + BETWEEN
        if titled:
            self._title(figure, height)
        return figure

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
