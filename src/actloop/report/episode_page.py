"""Writes one episode as a page that needs nothing else, and as a picture.

log --EpisodeView--> Drawing --> picture (PNG, SVG, PDF)
                      `--> the same in the page's colours, with words to hover over, beside the video and the tables
"""

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from actloop.errors import ContractError, DataError
from actloop.loop.log.replay import read_episodes
from actloop.report import episode_canvas as drawn
from actloop.report.episode import EpisodeView, Record, number
from actloop.report.episode_canvas import Film
from actloop.report.episode_drawing import Drawing, facts_line
from actloop.report.episode_film import read_film
from actloop.report.logs import Log
from actloop.report.markup import table, tag, text
from actloop.report.shell import page

PICTURES = (".png", ".svg", ".pdf")
MOST_ROWS = 200  # of what did not go as planned
VIDEO_LIMIT = 8_000_000  # bytes of a video that still goes into the page
VARIABLES = {  # the colours of the drawing, as the page calls them
    drawn.INK: "--ink",
    drawn.QUIET: "--quiet",
    drawn.RULE: "--rule",
    drawn.GRID: "--grid",
    drawn.BAD: "--bad",
    drawn.LATE: "--late",
    drawn.STARVED: "--starved",
    drawn.STALE: "--arm5",
    drawn.LAYER_COLOURS["action"]: "--arm0",
    drawn.LAYER_COLOURS["foresight"]: "--arm3",
    drawn.LAYER_COLOURS["check"]: "--arm2",
    drawn.LAYER_COLOURS["semantic"]: "--arm4",
}


def view_log(log: Log) -> EpisodeView:
    """The episode of a log.

    Raises:
        DataError: it cannot be read, holds several episodes, or no tick.
    """
    episodes = read_episodes(log.path)
    if len(episodes) != 1:
        raise DataError(f"{log.path}: expected the log of one episode, got {len(episodes)}")
    return EpisodeView(episodes[0], name=str(log.path))


def write_episode(log: Log, out: Path) -> Path:
    """The page (`.html`) or the picture (`.png`, `.svg`, `.pdf`) of a log, as the name of `out` ends.

    Raises:
        DataError: the log or its video cannot be read.
        ContractError: the name ends otherwise.
        MissingDependency: there is a video, and PyAV is not installed.
    """
    *others, last = endings = (".html", *PICTURES)
    if out.suffix not in endings:
        raise ContractError("--out", f"expected a name that ends in {', '.join(others)} or {last}, got {out.name!r}")
    view = view_log(log)
    film = read_film(log.video, view) if log.video else None
    if out.suffix in PICTURES:
        return Drawing(view, film).save(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(render(view, name=log.name, film=film, video=log.video), encoding="utf-8")
    partial.replace(out)
    return out


def render(view: EpisodeView, *, name: str, film: Film | None = None, video: Path | None = None) -> str:
    """The page as a string."""
    started = view.started
    filled = {
        "title": text(f"{name}: one episode"),
        "kicker": text(name),
        "headline": text(f"{started['task_name']}: {view.verdict}"),
        "facts": text(f"“{started['instruction']}” · {facts_line(view)}"),
        "drawing": _coloured(Drawing(view, film)),
        "pictures": _video(video, imagined=bool(film and film.imagined)),
        "layers": _layers(view),
        "events": _events(view.records),
        "configuration": text(json.dumps({key: started[key] for key in ("loop", "layers", "body")}, indent=1)),
    }
    return page("episode.html", filled)


def _coloured(drawing: Drawing) -> str:
    """The drawing in the colours of the page, light or dark, with its hints to hover over."""
    svg = drawing.svg()
    svg = svg[svg.index("<svg") :]
    for mixed, (colour, share) in drawing.mixed.items():
        svg = svg.replace(mixed, f"color-mix(in srgb, var({VARIABLES[colour]}) {100 * share:.0f}%, transparent)")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif")
    svg = re.sub(r' width="[\d.]+pt" height="[\d.]+pt"', ' role="img"', svg, count=1)
    for name, words in drawing.hints.items():
        svg = svg.replace(f'<g id="{name}">', f'<g id="{name}">{tag("title", text(words))}', 1)
    return svg


def _video(video: Path | None, *, imagined: bool) -> str:
    if video is None:
        said = "A log holds no pictures, and no video lies beside it: what was seen and imagined is not shown."
        return tag("p", said, class_="quiet prose")
    if video.stat().st_size > VIDEO_LIMIT:
        return tag("p", text(f"The video is too large for a page: {video}"), class_="quiet prose")
    data = base64.b64encode(video.read_bytes()).decode("ascii")
    kind = "webm" if video.suffix == ".webm" else "mp4"
    source = f"data:video/{kind};base64,{data}"
    panes = tag("span", tag("b", "seen"), tag("b", "imagined"), class_="panes") if imagined else ""
    shown = tag("video", src=source, controls=True, loop=True, muted=True, playsinline=True, aria_label="the episode")
    return tag("figure", tag("div", shown, panes, class_="screen"), class_="film")


def _layers(view: EpisodeView) -> str:
    """What was asked of each layer, what came of it, and what it cost."""
    refused = [record["layer"] for record in view.records if record["event"] == "refused"]
    rows = []
    for layer in view.layers:
        mine = [asked for asked in view.asked if asked.layer == layer]
        waits = [1000 * (asked.answered - asked.asked) for asked in mine if asked.answered is not None]
        _, seconds = view.spent[layer]
        spent = float(seconds[-1]) if len(seconds) else 0.0
        rows.append(
            [
                text(layer),
                str(len(mine)),
                *(
                    str(sum(asked.fate == fate for asked in mine))
                    for fate in ("accepted", "dropped", "failed", "pending")
                ),
                str(refused.count(layer)),
                f"{np.median(waits):.0f} / {max(waits):.0f} ms" if waits else "–",
                f"{spent:.2f} s",
                f"{spent / float(view.edges[-1]):.2f}",
            ]
        )
    head = ["layer", "asked", "accepted", "dropped", "failed", "open at the end", "refused"]
    head += ["wait<small>median / longest</small>", "computing", "s per s of robot"]
    return table(head, rows, class_="numbers") if rows else tag("p", "Nothing was asked.")


def _events(records: Sequence[Record]) -> str:
    """Alarms, steps on the ladder, refusals, dropped and failed answers, lost records, in order."""
    rows = [row for record in records if (row := _told(record))]
    if not rows:
        return tag("p", "Everything did: no alarm, no refusal, no answer dropped.")
    shown = [[text(cell) for cell in row] for row in rows[:MOST_ROWS]]
    rest = tag("p", f"{len(rows) - MOST_ROWS} more are in the log.") if len(rows) > MOST_ROWS else ""
    return table(["when", "tick", "what"], shown, class_="numbers") + rest


def _told(record: Record) -> list[str] | None:
    """What is worth telling of a record, or None."""
    kind = record["event"]
    what = ""
    if kind == "stepped":
        what = f"ladder: {record['before']} → {record['rung']} ({record['cause']})"
    elif kind == "incident":
        what = f"disturbed: {record['fault']} {record['phase']}"
    elif kind == "refused":
        what = f"{record['layer']} refused: {record['why']}; instead: {record['instead']}"
    elif kind == "replied" and record["error"]:
        what = f"{record['layer']} {record['plan']} failed: {record['error']}"
    elif kind == "replied" and not record["accepted"]:
        what = f"{record['layer']} {record['plan']} dropped: {record['reason']}"
    elif kind == "replied":
        alarms = [f"{item['check']} {number(item['value'])}" for item in record["readings"] if item["alarm"]]
        what = f"alarm: {', '.join(alarms)}" if alarms else ""
    elif kind == "lost":
        return ["", "", f"{record['count']} records were lost here"]
    elif kind == "ended" and record["error"]:
        what = f"crashed: {record['error']}"
    return [f"{record['time']:.2f} s", str(record["tick"]), what] if what else None
