"""An episode for the Rerun viewer: components, readings and answers on one time axis, and frames where there are any.

wanted/..  requested/..  sent/..  state/..   scalars per component      checks/..     readings, thresholds
loop/pace, loop/index, loop/age_ms           scalars per tick           computing/..  seconds spent per layer
seen, imagined                               images                     events        a text per thing that happened
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from actloop.errors import MissingDependency
from actloop.report.episode import EpisodeView, Record

TIMELINE, TICK = "time", "tick"
QUIET = ("ticked", "started")  # records that are no lines of text


def export_rerun(view: EpisodeView, path: Path, *, video: Path | None = None) -> Path:
    """Write the episode as an `.rrd` file: `rerun FILE` shows it.

    Raises:
        MissingDependency: rerun-sdk is not installed, or PyAV where there is a video.
        DataError: the video cannot be read.
    """
    rr = _require_rerun()
    path.parent.mkdir(parents=True, exist_ok=True)
    recording = rr.RecordingStream("actloop")
    recording.save(str(path))
    _ticks(rr, recording, view)
    _checks(rr, recording, view)
    _computing(rr, recording, view)
    for record in view.records:
        _event(rr, recording, record)
    if video is not None:
        _frames(rr, recording, view, video)
    recording.flush()
    recording.disconnect()
    return path


def _require_rerun() -> Any:
    try:
        return import_module("rerun")
    except ModuleNotFoundError as error:
        mend = 'pip install "actloop[rerun]"'
        raise MissingDependency("package 'rerun-sdk'", "episodes are exported with it", mend) from error


def _send(rr: Any, recording: Any, name: str, times: np.ndarray, values: np.ndarray, ticks: Any = None) -> None:
    """One series, without what is not finite."""
    kept = np.isfinite(values)
    if not kept.any():
        return
    columns = [rr.TimeColumn(TIMELINE, duration=np.asarray(times)[kept])]
    if ticks is not None:
        columns.append(rr.TimeColumn(TICK, sequence=np.asarray(ticks)[kept]))
    recording.send_columns(name, indexes=columns, columns=rr.Scalars.columns(scalars=values[kept]))


def _ticks(rr: Any, recording: Any, view: EpisodeView) -> None:
    numbers = np.array([tick["tick"] for tick in view.ticks])
    for which in ("wanted", "requested", "sent", "state"):
        space = view.body.state if which == "state" else view.body.action
        for component, values in zip(space.component_names, view.series(which).T, strict=True):
            _send(rr, recording, f"{which}/{component}", view.times, values, numbers)
    held = np.array([bool(tick["hold"]) for tick in view.ticks])
    series = {
        "pace": view.numbers("pace"),
        "index": np.where(held, np.nan, view.numbers("index")),
        "age_ms": 1000 * view.numbers("age"),
        "held": held.astype(np.float64),
    }
    for name, values in series.items():
        _send(rr, recording, f"loop/{name}", view.times, values, numbers)


def _checks(rr: Any, recording: Any, view: EpisodeView) -> None:
    for readings in view.readings:
        _send(rr, recording, f"checks/{readings.check}/value", readings.time, readings.value)
        _send(rr, recording, f"checks/{readings.check}/threshold", readings.time, readings.threshold)


def _computing(rr: Any, recording: Any, view: EpisodeView) -> None:
    for layer, (times, seconds) in view.spent.items():
        _send(rr, recording, f"computing/{layer}", times, seconds)


def _event(rr: Any, recording: Any, record: Record) -> None:
    """What is not a number of every tick, in words."""
    kind = record["event"]
    if kind in QUIET or "time" not in record:
        return
    told = {
        name: value for name, value in record.items() if name not in ("event", "episode", "tick", "time", "actions")
    }
    words = ", ".join(f"{name} {value}" for name, value in told.items() if value not in ("", None, [], 0, False))
    alarm = any(reading["alarm"] for reading in record.get("readings", ()))
    level = "ERROR" if record.get("error") else "WARN" if alarm or kind in ("refused", "stepped") else "INFO"
    recording.set_time(TIMELINE, duration=record["time"])
    recording.set_time(TICK, sequence=record["tick"])
    recording.log(f"events/{record.get('layer', 'loop')}", rr.TextLog(f"{kind}: {words}", level=level))


def _frames(rr: Any, recording: Any, view: EpisodeView, video: Path) -> None:
    from actloop.report.episode_film import read_film

    film = read_film(video, view, every=True)
    for number, time in enumerate(film.times):
        recording.set_time(TIMELINE, duration=time)
        recording.set_time(TICK, sequence=round(time / view.period))
        recording.log("seen", rr.Image(film.seen[number]).compress())
        if film.imagined:
            recording.log("imagined", rr.Image(film.imagined[number]).compress())
