"""`actloop import openvla`, `actloop data statistics`: a released policy as a file of ours; how large actions are."""

import json
from pathlib import Path

import torch

from actloop.cli.text import columns
from actloop.contracts import Embodiment, embodiment_from_dict
from actloop.data.cache import CachedEpisodes
from actloop.data.dataset import LeRobotDataset
from actloop.data.windows import Frames
from actloop.errors import ContractError, DataError
from actloop.models.checkpoint import save_policy
from actloop.models.openvla.pictures import Pictures
from actloop.models.openvla.policy import OpenVLAPolicy
from actloop.models.openvla.released import Setup, load_openvla
from actloop.models.openvla.statistics import DatasetStatistics, compute, write_statistics


def import_openvla(
    folder: Path,
    out: Path,
    *,
    unnorm_key: str | None,
    body: Path | None = None,
    horizon: int = 1,
    gripper: str = "as-recorded",
    statistics: Path | None = None,
    tokenizer: Path | None = None,
    adapter: Path | None = None,
    dtype: str = "bfloat16",
) -> OpenVLAPolicy:
    """See `load_openvla`; the policy is written to `out`.

    `body` is an embodiment as JSON, for a robot that is not listed; `horizon` and `gripper` belong to it.
    """
    setup = None
    if body is None and (horizon != 1 or gripper != "as-recorded"):
        raise ContractError("--horizon, --gripper", "belong to a robot of your own: give them with --body")
    if body is not None:
        embodiment = read_body(body)
        setup = Setup(embodiment=embodiment, pictures=Pictures.one_each(embodiment), gripper=gripper, horizon=horizon)
    policy = load_openvla(
        folder,
        unnorm_key=unnorm_key,
        setup=setup,
        statistics=statistics,
        tokenizer=tokenizer,
        adapter=adapter,
        dtype=getattr(torch, dtype),
    )
    save_policy(policy, out)
    return policy


def read_body(path: Path) -> Embodiment:
    """An embodiment in a JSON file.

    Raises:
        DataError: no such file, or no JSON object.
        ContractError: it is no embodiment.
    """
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: not a readable embodiment ({error})") from error
    if not isinstance(plain, dict):
        raise DataError(f"{path}: expected an embodiment as a JSON object, got a {type(plain).__name__}")
    return embodiment_from_dict(plain)


def imported(policy: OpenVLAPolicy, out: Path) -> str:
    """What was written, in one line."""
    facts = policy.describe()
    size = f"{int(str(facts['parameters'])) / 1e6:.0f} M parameters"
    head = f"answers by {facts['head']!r}, {policy.horizon} actions at once"
    return f"{out}: {facts['variant']}, {size}, {head}, in the scale of {facts['unnorm_key']!r}"


def write_dataset_statistics(
    dataset: Path, out: Path | None, *, name: str = "", split: str = "train", recipe: str = ""
) -> tuple[Path, str, DatasetStatistics]:
    """Count a dataset and write `dataset_statistics.json`, by default into its folder; `name` becomes its key.

    Raises:
        DataError: no dataset there, a damaged one, or one in which nothing moves.
    """
    frames = open_frames(dataset, split=split, recipe=recipe)
    key = name or dataset.resolve().name
    found = compute(frames.actions, frames.states, trajectories=len(frames.episodes), source=str(dataset))
    return write_statistics(out or dataset, {key: found}), key, found


def open_frames(dataset: Path, *, split: str = "train", recipe: str = "") -> Frames:
    """Any dataset that actloop knows.

    Raises:
        DataError: no dataset there, or a damaged one.
    """
    from actloop.data.rlds.dataset import RldsDataset, is_rlds
    from actloop.data.rlds.frames import RldsFrames
    from actloop.data.rlds.recipes import chosen

    if is_rlds(dataset):
        found = RldsDataset(dataset, split)
        return RldsFrames(found, chosen(found, recipe) if recipe else None)
    if (dataset / "manifest.json").is_file():
        return CachedEpisodes(dataset)
    if not (dataset / "meta").is_dir():
        raise DataError(f"{dataset}: expected a LeRobotDataset v3, a decoded cache, or an RLDS folder")
    return LeRobotDataset(dataset)


def counted(path: Path, key: str, found: DatasetStatistics, names: tuple[str, ...] = ()) -> str:
    """The statistics of the actions as a table, and where they were written."""
    head = f"{path}: {key!r}, {found.trajectories} episodes, {found.transitions} steps"
    action = found.action
    rows: list[tuple[str, ...]] = [("", "min", "1 %", "mean", "99 %", "max", "")]
    for at in range(action.size):
        values = (action.min[at], action.q01[at], action.mean[at], action.q99[at], action.max[at])
        name = names[at] if names else f"action.{at}"
        rows.append((name, *(f"{one:.4g}" for one in values), "" if action.mask[at] else "learned as it is"))
    return f"{head}\n{columns(rows)}"
