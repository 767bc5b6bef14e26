"""`actloop record` and `actloop data info` in words."""

from actloop.cli.text import columns
from actloop.data.info import ComponentRange, DatasetInfo
from actloop.training.record import RecordSummary

MB = 1e6


def recorded(summary: RecordSummary) -> str:
    """One line for the dataset and one per task, with how often the expert failed and was replaced."""
    rows = []
    for name, count in summary.tasks.items():
        said = f"{count.new} new, {count.noisy} with noise, {count.astray} astray, {count.disturbed} disturbed"
        again = f", {count.failed} failed and were replaced" if count.failed else ""
        rows.append((name, f"{count.recorded} episodes", said + again))
    head = f"{summary.path}: {summary.episodes} episodes, {summary.frames} frames, {summary.seconds:.0f} s"
    return f"{head}\n{columns(rows)}"


def described(info: DatasetInfo) -> str:
    """Size, robot, features, ranges and instructions of a dataset, and what is wrong with it."""
    robot = info.embodiment or f"{info.robot_type or 'unknown robot'}, no embodiment recorded"
    minutes = info.seconds / 60
    head = [
        ("dataset", info.path),
        ("size", f"{info.episodes} episodes, {info.frames} frames, {minutes:.1f} min at {info.fps:g} Hz"),
        ("on disk", f"{info.bytes / MB:.1f} MB"),
        ("robot", robot),
    ]
    shapes = [(name, f"{dtype} {'x'.join(map(str, shape))}") for name, (dtype, shape) in info.features.items()]
    lengths = [(f"{low}-{high}" if low != high else f"{low}", f"{count}") for low, high, count in info.lengths if count]
    tasks = [(f"{count}", text) for text, count in info.tasks.items()]
    parts = [
        columns(head, indent=0),
        "features\n" + columns(shapes),
        _ranges("state", info.state),
        _ranges("action", info.action),
        "episodes by number of frames\n" + columns(lengths),
        "episodes per instruction\n" + columns(tasks),
    ]
    if info.problems:
        parts.append("problems\n" + columns([("!", problem) for problem in info.problems]))
    return "\n\n".join(parts)


def _ranges(title: str, components: tuple[ComponentRange, ...]) -> str:
    rows: list[tuple[str, ...]] = [("", "min", "1 %", "mean", "99 %", "max")]
    for part in components:
        values = (part.minimum, part.q01, part.mean, part.q99, part.maximum)
        rows.append((part.name, *(f"{value:.4g}" for value in values)))
    return f"{title}\n{columns(rows)}"
