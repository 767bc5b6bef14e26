"""Where the event logs of a run lie, and the videos beside them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actloop.errors import DataError, UnknownNameError

EVENTS = "events"
VIDEOS = (".mp4", ".webm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The log of one episode. In a run its name is ARM/CONDITION/TASK-SEED, or TASK-SEED."""

    name: str
    path: Path
    video: Path | None = None


def find_logs(path: Path | str) -> list[Log]:
    """The log that `path` is, or those of the run folder that it is, by name.

    Raises:
        DataError: there is nothing, or no log in the folder.
    """
    path = Path(path)
    if path.is_file():
        return [Log(name=path.stem, path=path, video=_video(path))]
    if not path.is_dir():
        raise DataError(f"{path}: expected an event log or a run folder, found nothing there")
    root = path / EVENTS if (path / EVENTS).is_dir() else path
    found = sorted(root.rglob("*.jsonl"))
    if root == path:
        found = [file for file in found if file.name != "episodes.jsonl"]
    if not found:
        raise DataError(f"{path}: no event log in this folder; those of a run are {EVENTS}/**/*.jsonl")
    return [
        Log(name=file.relative_to(root).with_suffix("").as_posix(), path=file, video=_video(file)) for file in found
    ]


def choose(logs: Sequence[Log], name: str) -> Log:
    """The log of that name; the only one where none is given.

    Raises:
        UnknownNameError: there is none of that name, or several to choose from.
    """
    for log in logs:
        if log.name == name or (not name and len(logs) == 1):
            return log
    raise UnknownNameError("--episode", name, [log.name for log in logs])


def _video(log: Path) -> Path | None:
    """A file beside the log with its name, or what the list of a run's episodes says."""
    for suffix in VIDEOS:
        if log.with_suffix(suffix).is_file():
            return log.with_suffix(suffix)
    for folder in log.parents:
        episodes = folder / "episodes.jsonl"
        if not episodes.is_file():
            continue
        for line in episodes.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
                if folder / record["events"] == log and record["video"]:
                    return folder / str(record["video"])
            except (ValueError, KeyError, TypeError):  # cut off, or no list of episodes after all
                continue
        return None
    return None
