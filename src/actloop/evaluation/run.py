"""The folder of one comparison: opened once, continued after an interruption, refused to another configuration."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from actloop.contracts import Task
from actloop.errors import DataError
from actloop.evaluation.arms import Arm
from actloop.evaluation.conditions import Condition
from actloop.evaluation.config import CompareConfig, RunMismatchError, differences
from actloop.evaluation.runner import Unit

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything that was settled before the first episode; the same when the run is continued."""

    config: Mapping[str, Any]
    arms: tuple[Arm, ...]
    tasks: tuple[Task, ...]
    conditions: tuple[Condition, ...]
    baseline: str
    embodiment: Mapping[str, Any]
    identity: Mapping[str, Any]

    @property
    def main(self) -> Condition:
        return self.conditions[0]

    @property
    def seeds(self) -> range:
        return range(self.config["seed"], self.config["seed"] + self.config["episodes"])

    def units(self) -> list[Unit]:
        """Every planned episode; seed by seed and the main condition first, so that a part of a run is a fair part.

        Where answers are computed in batches, the episodes of an arm follow each other, so that batches are full.
        """
        units = [
            Unit(arm=arm.name, condition=condition.name, task=task.name, seed=seed)
            for seed in self.seeds
            for condition in self.conditions
            for task in self.tasks
            for arm in self.arms
        ]
        if self.config.get("batch", 1) > 1:
            order = [arm.name for arm in self.arms]
            units.sort(key=lambda unit: (unit.seed, order.index(unit.arm)))
        return units

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "config": dict(self.config),
            "arms": [arm.to_dict() for arm in self.arms],
            "tasks": [asdict(task) for task in self.tasks],
            "conditions": [condition.to_dict() for condition in self.conditions],
            "baseline": self.baseline,
            "embodiment": dict(self.embodiment),
            "identity": dict(self.identity),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Run":
        return cls(
            config=plain["config"],
            arms=tuple(Arm.from_dict(arm) for arm in plain["arms"]),
            tasks=tuple(Task(**task) for task in plain["tasks"]),
            conditions=tuple(Condition.from_dict(condition, plain["config"]) for condition in plain["conditions"]),
            baseline=plain["baseline"],
            embodiment=plain["embodiment"],
            identity=plain["identity"],
        )


def read_run(folder: Path) -> Run:
    """What `run.json` of a run folder says.

    Raises:
        DataError: there is none, or it is not readable as one.
    """
    path = folder / "run.json"
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["format"] != FORMAT:
            raise DataError(f"{path}: format {plain['format']}, this version reads format {FORMAT}")
        return Run.from_dict(plain)
    except OSError as error:
        reason = f"no comparison was started here (run.json: {error.strerror})"
        raise DataError(f"{folder}: {reason}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a run's description ({type(error).__name__}: {error})") from error


def check_same(before: Run, config: CompareConfig, identities: Mapping[str, Mapping[str, Any]]) -> None:
    """That a folder's run is the one that is asked for now.

    Raises:
        RunMismatchError: names each setting that differs. Where a checkpoint lies may change, what it holds may not.
    """

    def settings(plain: Mapping[str, object], arms: Mapping[str, Mapping[str, Any]]) -> dict[str, object]:
        held = {name: _contents(identity) for name, identity in arms.items()}
        sources = plain["arms"] if not all(held.values()) else list(arms)
        return {**plain, "arms": sources, "weights": held}

    old = settings(before.config, {arm.name: arm.identity for arm in before.arms})
    new = settings(config.to_dict(), identities)
    found = differences(old, new)
    if found:
        listed = "\n  ".join(found)
        raise RunMismatchError(
            f"{config.out} holds another comparison:\n  {listed}\nChoose another folder, or ask for the same again."
        )


def write_json(path: Path, plain: Mapping[str, Any]) -> None:
    """Write all or nothing: an interruption leaves the file that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)


def read_episodes(folder: Path) -> list[dict[str, Any]]:
    """The finished episodes, in the order of their units; a last line that was cut off is left out.

    Raises:
        DataError: a line other than the last is no episode.
    """
    path = folder / "episodes.jsonl"
    if not path.exists():
        return []
    *lines, rest = path.read_bytes().split(b"\n")
    records = {}
    for number, line in enumerate([*lines, *([rest] if rest else [])], start=1):
        try:
            record = json.loads(line)
            records[unit_of(record)] = record
        except (ValueError, KeyError, TypeError) as error:
            if number > len(lines):
                break
            raise DataError(f"{path}, line {number}: not an episode ({type(error).__name__}: {error})") from error
    return [records[unit] for unit in sorted(records)]


def write_episodes(folder: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write all finished episodes, in the order of their units, whichever way they were run."""
    path = folder / "episodes.jsonl"
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(episode_line(record) for record in records), encoding="utf-8")
    partial.replace(path)


def append_episode(folder: Path, record: Mapping[str, Any]) -> None:
    """Add a finished episode at once; where there is no room for it, what was there before stays readable."""
    with (folder / "episodes.jsonl").open("ab", buffering=0) as file:
        rest = memoryview(episode_line(record).encode())
        while rest:
            rest = rest[file.write(rest) :]


def episode_line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"


def unit_of(record: Mapping[str, Any]) -> Unit:
    return Unit(arm=record["arm"], condition=record["condition"], task=record["task"], seed=record["seed"])


def _contents(identity: Mapping[str, Any]) -> str:
    return str(identity.get("digest", ""))
