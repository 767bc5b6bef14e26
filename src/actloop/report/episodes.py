"""The list of all episodes: what became of each, its timeline on a click, and the commands that open it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from actloop.errors import DataError
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.failures import failures_of
from actloop.evaluation.records import Record, alone, called, onset
from actloop.loop.events import read_events
from actloop.report.charts import arm_class
from actloop.report.logs import EVENTS
from actloop.report.markup import tag, text
from actloop.report.sections import chooser
from actloop.report.timeline import timeline

BUDGET = 2_500_000  # letters of all timelines in a page; the others are drawn by `actloop inspect`


def episodes(comparison: Comparison, folder: Path) -> str:
    """Every episode, by arm and condition; timelines for the first seeds and the failures, as many as fit."""
    kinds = {
        (item.arm, item.condition, task, seed): item.kind
        for item in failures_of(comparison.records)
        for task, seed in item.episodes
    }
    drawn = _timelines(comparison, folder)
    shown, names = [], []
    for arm in comparison.run.arms:
        for condition in comparison.run.conditions:
            mine = [r for r in comparison.records if (r["arm"], r["condition"]) == (arm.name, condition.name)]
            if not mine:
                continue
            choice = f"{arm.name}/{condition.name}"
            names.append((choice, f"{arm.name}, {condition.label}"))
            rows = [_item(record, kinds.get(_key(record), ""), drawn.get(_key(record), "")) for record in mine]
            shown.append(tag("div", *rows, data_choice=choice, class_="choice episodes"))
    if not shown:
        return tag("p", "No episode is finished yet.")
    note = "" if any(drawn.values()) else tag("p", "No event log was found.")
    return note + chooser("episodes", "arm and condition", names) + "".join(shown)


def _item(record: Record, kind: str, picture: str) -> str:
    """One line; with its timeline below it, on a click."""
    result = record["result"]
    seconds, period = result["outcome"]["time"], result["period"]
    won, help_ = bool(result["outcome"]["success"]), called(record)
    held = sum(result.get(f"held_{why}", 0) for why in ("starved", "late", "stale", "told"))
    began = onset(record)
    facts = [
        f"{'✓' if won else '✗'} {seconds:.1f} s" + (" with help" if won and help_ else ""),
        kind if not (won and help_) else "",
        "" if began is None else f"disturbed at {began * period:.1f} s",
        f"{held} of {result['ticks']} ticks held",
        f"{result['calls']} calls",
    ]
    name = tag("b", text(f"{record['task']}, seed {record['seed']}"))
    line = name + tag("span", text(" · ".join(fact for fact in facts if fact)))
    if not picture:
        return tag("p", line, class_="episode-line")
    opens = f"actloop inspect RUN --episode {Path(record['events']).relative_to(EVENTS).with_suffix('').as_posix()}"
    below = tag("div", picture, class_="scroll") + tag("p", tag("code", text(opens)), class_="quiet")
    return tag("details", tag("summary", line), below, class_="timelined")


def _timelines(comparison: Comparison, folder: Path) -> dict[tuple[str, str, str, int], str]:
    """Drawings by episode: of every arm and condition the first, then the failures, then the rest, while they fit."""
    first = comparison.run.config["seed"]
    tasks = [task.name for task in comparison.run.tasks]
    timed = next((task.name for task in comparison.run.tasks if task.group == "timing"), tasks[0])

    def order(record: Record) -> tuple[bool, bool, int, int]:
        is_first = record["seed"] == first and record["task"] == timed
        return not is_first, alone(record), record["seed"], tasks.index(record["task"])

    drawn, left = {}, BUDGET
    for record in sorted(comparison.records, key=order):
        picture = _timeline(comparison, record, folder)
        if len(picture) > left:
            break
        drawn[_key(record)] = picture
        left -= len(picture)
    return drawn


def _timeline(comparison: Comparison, record: Record, folder: Path) -> str:
    try:
        events: Sequence[Mapping[str, Any]] = read_events(folder / record["events"])
    except DataError:
        return ""
    title = f"{record['arm']}, {record['condition']}: {record['task']}, seed {record['seed']}"
    return timeline(events, class_=arm_class(comparison, record["arm"]), title=title)


def _key(record: Record) -> tuple[str, str, str, int]:
    return record["arm"], record["condition"], record["task"], record["seed"]
