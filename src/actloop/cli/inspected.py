"""`actloop replay` and `actloop inspect`: an episode decided again, and an episode to look at."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actloop.cli.text import as_json, columns
from actloop.loop.log.replay import Replay, read_episodes, replay_episode
from actloop.report.logs import Log, choose, find_logs


def show_replay(path: Path, json: bool) -> int:
    """Decide again what a log, or every log of a run, says; the exit code is 1 where anything came out differently."""
    found = [
        (log, number, replay_episode(records, name=str(log.path)))
        for log in find_logs(path)
        for number, records in enumerate(read_episodes(log.path))
    ]
    same = all(again.same for _, _, again in found)
    if json:
        print(as_json({"same": same, "episodes": [_plain(log, number, again) for log, number, again in found]}))
    else:
        print(_replayed([(_name(log, number), again) for log, number, again in found]))
    return 0 if same else 1


def show_inspect(
    path: Path, *, episode: str = "", out: Path | None = None, rerun: Path | None = None, json: bool = False
) -> int:
    """Draw one episode: as the page or picture that `out` names, or as both beside its log; for Rerun where asked.

    Of a run with several episodes they are listed, unless `episode` names one.
    """
    from actloop.report.episode_page import view_log, write_episode

    logs = find_logs(path)
    if not episode and len(logs) > 1:
        return _list(logs, json=json)
    log = choose(logs, episode)
    view = view_log(log)
    targets = [out] if out else [] if rerun else [log.path.with_suffix(".html"), log.path.with_suffix(".png")]
    written = [write_episode(log, target) for target in targets]
    if rerun is not None:
        from actloop.report.rerun_export import export_rerun

        written.append(export_rerun(view, rerun, video=log.video))
    if json:
        print(as_json({"episode": log.name, "outcome": view.verdict, "ticks": len(view.ticks), "files": written}))
    else:
        print("\n".join([f"{log.name}: {view.verdict}", *(f"  {file}" for file in written)]))
    return 0


def _list(logs: Sequence[Log], *, json: bool) -> int:
    if json:
        print(as_json({"episodes": [log.name for log in logs]}))
    else:
        rows = [f"  {log.name}" + ("  (filmed)" if log.video else "") for log in logs]
        print("\n".join([f"{len(logs)} episodes; choose one with --episode NAME:", *rows]))
    return 0


def _name(log: Log, number: int) -> str:
    return f"{log.name}, episode {number}" if number else log.name


def _plain(log: Log, number: int, again: Replay) -> dict[str, Any]:
    return {
        "log": str(log.path),
        "episode": number,
        "same": again.same,
        "ticks": again.ticks,
        "compared": again.compared,
        "differences": again.differences,
        "note": again.note,
    }


def _replayed(found: Sequence[tuple[str, Replay]]) -> str:
    """A line per episode, its differences below it, and the sum."""
    lines = []
    rows = [
        [name, f"{again.ticks} ticks", f"{sum(again.compared.values())} decisions", _verdict(again)]
        for name, again in found
    ]
    for line, (_, again) in zip(columns(rows, indent=0).splitlines(), found, strict=False):
        lines += [line, *(f"    {difference}" for difference in again.differences)]
    different = sum(not again.same for _, again in found)
    if len(found) > 1:
        lines.append(f"{len(found)} episodes, {different} of them decided differently")
    return "\n".join(lines)


def _verdict(again: Replay) -> str:
    said = "the same" if again.same else "DIFFERENT"
    return f"{said} ({again.note})" if again.note else said
