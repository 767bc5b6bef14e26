"""What the panels of an episode's picture share: measures, colours, names, legends, and words to hover over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from actloop.contracts import Frame
from actloop.report.episode import EpisodeView

INK, QUIET, RULE, GRID, PAPER = "#1c1e21", "#5d6470", "#dfe2e6", "#e8eaed", "#fcfcfa"
BAD, LATE, STARVED, STALE, TOLD = "#b3400a", "#c8500a", "#9aa1ab", "#7a6a00", "#6b5fc7"
LAYER_COLOURS = {"action": "#0072b2", "foresight": "#b0568f", "check": "#00845f", "semantic": "#6b5fc7"}
HOLD_COLOURS = {"starved": STARVED, "late": LATE, "stale": STALE, "told": TOLD}
SENT = LAYER_COLOURS["action"]
WIDTH, LEFT, RIGHT, TOP, BOTTOM, BETWEEN = 13.0, 1.5, 1.7, 0.85, 0.5, 0.13  # inches
NAMES, LINE = 0.6, 0.165  # inches: from the axis to the names of the panels, from line to line of a legend
ACROSS, FRAME, GUTTER = WIDTH - LEFT - RIGHT, 0.75, 0.05  # inches: the time axis, a frame's height, between frames
MOST_COMPONENTS = 16
STYLE: Any = {
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


class Canvas:
    """An episode on its way to a picture.

    `hints` tells, by the `id` of a group in the SVG, what it shows in words; `mixed` which colours are faint ones, and
    what share of which colour they have. The time axis ends at `end`, in seconds.
    """

    def __init__(self, view: EpisodeView, film: Film | None = None) -> None:
        self.view = view
        self.film = film
        self.end = max(float(view.edges[-1]), view.period)
        self.hints: dict[str, str] = {}
        self.mixed: dict[str, tuple[str, float]] = {}

    def faint(self, colour: str, share: float = 0.28) -> str:
        """A colour, mixed with white: no transparency, so that it prints alike everywhere."""
        mixed = "#" + "".join(f"{round(255 - share * (255 - int(colour[at : at + 2], 16))):02x}" for at in (1, 3, 5))
        self.mixed[mixed] = (colour, share)
        return mixed

    def hint(self, artist: Any, words: str) -> None:
        """Say in words what an artist shows."""
        name = f"hint-{len(self.hints)}"
        artist.set_gid(name)
        self.hints[name] = words

    def name(self, axes: Any, text: str) -> None:
        """The name of a panel, at its left."""
        x = -NAMES / ACROSS
        axes.text(x, 0.5, text, transform=axes.transAxes, ha="right", va="center", linespacing=1.3, parse_math=False)

    def beside(self, axes: Any, rows: Sequence[tuple[str, str]]) -> None:
        """A legend at the right: words in their colours."""
        height = axes.get_position().height * axes.figure.get_figheight()
        for number, (words, colour) in enumerate(rows):
            y = 1.0 - LINE * (number + 0.5) / height
            axes.text(1.012, y, words, transform=axes.transAxes, color=colour, va="center", size=7.5, parse_math=False)

    def steps(self, axes: Any, values: np.ndarray, **style: Any) -> None:
        """One value per tick, as a line of steps."""
        axes.step(self.view.edges, np.append(values, values[-1]), where="post", **style)
