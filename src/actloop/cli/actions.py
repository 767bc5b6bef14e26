"""`actloop actions report`: what each action representation takes, and loses, on the actions of a dataset."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from actloop.actions.comparison import HELD_OUT, chunked, compared
from actloop.actions.fast import VOCABULARY
from actloop.actions.representation import Reconstruction
from actloop.cli.text import as_json, columns
from actloop.contracts import Space
from actloop.errors import ContractError, DataError

HORIZON = 10
SCALES = (10.0, 30.0, 100.0)
EPISODES = 500
BOUNDS = ("data", "limits")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The actions of a dataset, by episode, and what their components are called; `held` episodes are there in all."""

    source: str
    held: int
    episodes: list[Float[np.ndarray, "_ action"]]
    parts: dict[str, slice]
    units: dict[str, str]
    space: Space | None


def report(
    dataset: Path,
    *,
    horizon: int = HORIZON,
    scales: Sequence[float] = SCALES,
    bounds: str = "data",
    vocabulary: int = VOCABULARY,
    episodes: int = EPISODES,
    split: str = "train",
    recipe: str = "",
    json: bool = False,
) -> str:
    """The table, or the same as JSON, of a LeRobotDataset v3, a decoded cache, or an RLDS folder.

    `bounds` of the uniform bins: the range of the `data`, or the `limits` that the recorded robot declares. Of more
    than `episodes`, as many are taken, evenly spread. `split` and `recipe` are for RLDS: without a recipe the actions
    are taken as recorded.

    Raises:
        DataError: no dataset, or a damaged one.
        ContractError: no chunk of that length, no declared limits, or a value that is not finite.
        MissingDependency: a package that reads it, `tokenizers` or `scipy` is not installed.
    """
    recorded = _spread(read(dataset, split=split, recipe=recipe), episodes)
    if bounds not in BOUNDS or (bounds == "limits" and recorded.space is None):
        known = "data" if recorded.space is None else " or ".join(BOUNDS)
        raise ContractError("bounds", f"expected {known} for {dataset}, got {bounds!r}")
    limits = (recorded.space.low, recorded.space.high) if bounds == "limits" and recorded.space else None
    results = compared(recorded.episodes, horizon, limits=limits, scales=scales, vocabulary=vocabulary)
    return as_json(_plain(recorded, results, horizon)) if json else table(recorded, results, horizon)


def read(dataset: Path, *, split: str = "train", recipe: str = "") -> Recorded:
    """The actions of any dataset that actloop knows.

    Raises:
        DataError: no dataset there, or a damaged one.
        UnknownNameError: no such split or recipe.
    """
    from actloop.data.cache import CachedEpisodes
    from actloop.data.dataset import LeRobotDataset
    from actloop.data.rlds.dataset import is_rlds

    if is_rlds(dataset):
        return _read_rlds(dataset, split, recipe)
    if (dataset / "manifest.json").is_file():
        cached = CachedEpisodes(dataset)
        return _recorded(dataset, cached, cached.embodiment.action if cached.embodiment else None, ())
    if not (dataset / "meta").is_dir():
        raise DataError(f"{dataset}: expected a LeRobotDataset v3, a decoded cache, or an RLDS folder")
    found = LeRobotDataset(dataset)
    names = found.info.features[found.fields.action].names
    return _recorded(dataset, found, found.embodiment.action if found.embodiment else None, names)


def table(recorded: Recorded, results: Sequence[Reconstruction], horizon: int) -> str:
    """What a model answers per chunk, and below it what is lost in each part, in its unit."""
    chunks = sum(len(one) for one in chunked(recorded.episodes, horizon))
    steps = sum(len(one) for one in recorded.episodes)
    taken = len(recorded.episodes)
    said = (
        f"{recorded.source}: {taken} of {recorded.held} episodes, {steps} steps; {chunks} chunks of {horizon} actions, "
        f"{results[0].outside:.1%} of the values outside the 1 % and 99 % quantiles"
    )
    wide: list[tuple[str, ...]] = [("", "per chunk", "fewer", "smaller", "RMSE", "largest")]
    for one in results:
        rmse, largest = one.normalised.overall
        numbers = (f"{one.fewer:.2f}x", f"{one.smaller:.2f}x", f"{rmse:.4f}", f"{largest:.4f}")
        wide.append((one.name, f"{one.size:.1f} {_counted(one)}", *numbers))
    heads = [f"{name} ({recorded.units[name]})" if recorded.units[name] else name for name in recorded.parts]
    lost: list[tuple[str, ...]] = [("", *heads)]
    for one in results:
        pairs = (_of_part(one, where) for where in recorded.parts.values())
        lost.append((one.name, *(f"{rmse:.2g} / {largest:.2g}" for rmse, largest in pairs)))
    parts = [
        said,
        "per chunk, and what is lost within the quantiles, in units of half their range\n" + columns(wide),
        "what is lost of all values: RMSE / largest error, in the unit of each part\n" + columns(lost),
        _notes(len(recorded.episodes)),
    ]
    return "\n\n".join(parts)


def _spread(recorded: Recorded, most: int) -> Recorded:
    """At most so many episodes, from the first to the last."""
    if most < 1:
        raise ContractError("episodes", f"expected at least 1, got {most}")
    if recorded.held <= most:
        return recorded
    chosen = np.linspace(0, recorded.held - 1, most).round().astype(int)
    return replace(recorded, episodes=[recorded.episodes[index] for index in chosen])


def _notes(episodes: int) -> str:
    seen = "the same episodes" if episodes < HELD_OUT else f"episodes other than every {HELD_OUT}th, counted on that"
    return (
        "fewer: tokens or numbers against one per component and step; smaller: bits against 8 per component and step.\n"
        f"FAST learned its pairs from {seen}. Integer text: one token per digit and space."
    )


def _plain(recorded: Recorded, results: Sequence[Reconstruction], horizon: int) -> dict[str, Any]:
    """JSON-ready form of the table."""
    rows = []
    for one in results:
        lost = {name: _of_part(one, where) for name, where in recorded.parts.items()}
        rmse, largest = one.normalised.overall
        rows.append(
            {
                "representation": one.name,
                "counted": _counted(one),
                "per_chunk": one.size,
                "longest": one.longest,
                "fewer": one.fewer,
                "smaller": one.smaller,
                "normalised": {"rmse": rmse, "largest": largest},
                "physical": {
                    name: {"unit": recorded.units[name], "rmse": pair[0], "largest": pair[1]}
                    for name, pair in lost.items()
                },
            }
        )
    return {
        "dataset": recorded.source,
        "episodes": len(recorded.episodes),
        "episodes_held": recorded.held,
        "steps": sum(len(one) for one in recorded.episodes),
        "chunks": results[0].chunks,
        "horizon": horizon,
        "outside": results[0].outside,
        "rows": rows,
    }


def _counted(one: Reconstruction) -> str:
    return "numbers" if one.name.startswith("continuous") else "tokens"


def _of_part(one: Reconstruction, where: slice) -> tuple[float, float]:
    """RMSE and largest error of the components of one part."""
    return float(np.sqrt(np.mean(one.physical.rmse[where] ** 2))), float(one.physical.largest[where].max())


def _read_rlds(folder: Path, split: str, recipe: str) -> Recorded:
    from actloop.data.rlds.dataset import RldsDataset
    from actloop.data.rlds.frames import RldsFrames
    from actloop.data.rlds.recipes import chosen

    dataset = RldsDataset(folder, split)
    if recipe:
        frames = RldsFrames(dataset, chosen(dataset, recipe))
        return _recorded(folder, frames, frames.embodiment.action, ())
    episodes = [dataset[index].array("action").astype(np.float64) for index in range(len(dataset))]
    if not episodes:
        raise DataError(f"{folder}: split {split!r} holds no episodes")
    return _named(str(folder), episodes, None, ())


def _recorded(folder: Path, dataset: Any, space: Space | None, names: Sequence[str]) -> Recorded:
    """From what holds all actions in one array, and episodes that say where theirs lie."""
    rows = [dataset.actions[info.start : info.start + info.length] for info in dataset.episodes]
    if not rows:
        raise DataError(f"{folder}: holds no episodes")
    return _named(str(folder), [np.asarray(one, dtype=np.float64) for one in rows], space, names)


def _named(source: str, episodes: list[np.ndarray], space: Space | None, names: Sequence[str]) -> Recorded:
    """Parts of the declared space, or every component for itself."""
    width = episodes[0].shape[-1]
    if space is not None:
        parts = {part.name: space.slice(part.name) for part in space.parts}
        units = {part.name: part.unit for part in space.parts}
    else:
        called = list(names) if len(set(names)) == width else [f"action.{index}" for index in range(width)]
        parts = {name: slice(index, index + 1) for index, name in enumerate(called)}
        units = dict.fromkeys(parts, "")
    return Recorded(source=source, held=len(episodes), episodes=episodes, parts=parts, units=units, space=space)
