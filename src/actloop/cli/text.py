"""What the commands print: aligned columns for people, JSON for scripts."""

import json
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass


def width() -> int:
    """Columns of the terminal, 60 at least."""
    return max(60, shutil.get_terminal_size().columns)


def columns(rows: Sequence[Sequence[str]], *, indent: int = 2) -> str:
    """Rows in aligned columns; the last column wraps at the width of the terminal."""
    if not rows:
        return ""
    starts = [indent]
    for column in range(len(rows[0]) - 1):
        starts.append(starts[-1] + max(len(row[column]) for row in rows) + 2)
    lines = []
    for row in rows:
        head = "".join(cell.ljust(after - before) for cell, before, after in zip(row, starts, starts[1:], strict=False))
        wrapped = textwrap.wrap(row[-1], max(20, width() - starts[-1]), break_on_hyphens=False) or [""]
        lines.append((" " * indent + head + wrapped[0]).rstrip())
        lines += [" " * starts[-1] + line for line in wrapped[1:]]
    return "\n".join(lines)


def as_json(value: object) -> str:
    """Indented JSON; dataclasses as objects, and what JSON does not know, such as a path, as its text."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: object) -> object:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else str(value)


def from_json(text: str) -> object:
    """The value that `text` spells in JSON, or the text itself where it spells none: 96, [1, 2], true, gl."""
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value
