"""How large actions are, per dataset, as OpenVLA keeps it (`norm_stats`, spec of the released `config.json`).

    config.json | dataset_statistics.json --read_statistics--> {unnorm_key: DatasetStatistics} --choose--> normaliser
    states, actions of your own data      --compute---------'

A key of that dictionary names the dataset, and so the unit and scale in which a policy answers: `unnorm_key`.
NumPy only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from actloop.actions.normalizers import MaskedNormalizer
from actloop.errors import DataError, UnknownNameError

FILE = "dataset_statistics.json"
PLACES = (FILE, "config.json")
FIELDS = ("mean", "std", "min", "max", "q01", "q99")
UNPADDED = "_no_noops"  # released LIBERO statistics are of the datasets without idle steps

Vector = tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorStatistics:
    """One vector over every step of a dataset. Only `q01` and `q99` are always there; others may be empty.

    `mask`: which components are brought to [-1, 1]; the others are learned as they are.
    """

    q01: Vector
    q99: Vector
    mask: tuple[bool, ...]
    mean: Vector = ()
    std: Vector = ()
    min: Vector = ()
    max: Vector = ()

    @property
    def size(self) -> int:
        return len(self.q01)

    def normalizer(self, bounds: str = "quantile") -> MaskedNormalizer:
        """From physical units to [-1, 1]: between the quantiles, or the extremes (`min-max`, as OFT does for ALOHA).

        Raises:
            UnknownNameError: no such bounds.
            DataError: these statistics lack the extremes.
        """
        if bounds not in ("quantile", "min-max"):
            raise UnknownNameError("bounds", bounds, ("quantile", "min-max"))
        low, high = (self.q01, self.q99) if bounds == "quantile" else (self.min, self.max)
        if not low or not high:
            raise DataError(f"statistics have no extremes, only {sorted(self.to_dict())}: use bounds 'quantile'")
        constant = tuple(a == b for a, b in zip(self.min, self.max, strict=True))
        return MaskedNormalizer(low=low, high=high, mask=self.mask, constant=constant if any(constant) else ())

    def to_dict(self) -> dict[str, list[float] | list[bool]]:
        """As the released files have it; what is not known is left out."""
        known = {name: list(getattr(self, name)) for name in FIELDS if getattr(self, name)}
        return {**known, "mask": list(self.mask)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetStatistics:
    """Actions of one dataset, its proprioception where that was counted, and how much there was."""

    action: VectorStatistics
    proprio: VectorStatistics | None = None
    transitions: int = 0
    trajectories: int = 0

    def to_dict(self) -> dict[str, object]:
        """As the released files have it."""
        plain: dict[str, object] = {"action": self.action.to_dict()}
        if self.proprio is not None:
            plain["proprio"] = self.proprio.to_dict()
        return plain | {"num_transitions": self.transitions, "num_trajectories": self.trajectories}


Known = Mapping[str, DatasetStatistics]


def read_statistics(path: str | Path) -> dict[str, DatasetStatistics]:
    """Those of a folder (its own file wins over `config.json`) or of either file.

    Raises:
        DataError: no such file, no JSON, no statistics in it, or some that cannot be: named by file and dataset.
    """
    file = _file(Path(path))
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: not a readable statistics file ({error})") from error
    if isinstance(plain, dict) and "norm_stats" in plain:
        plain = plain["norm_stats"]
    return statistics_from_dict(plain, str(file))


def statistics_from_dict(plain: object, source: str) -> dict[str, DatasetStatistics]:
    """What `to_dict` gave, by dataset.

    Raises:
        DataError: it is not of that form, or a dataset's numbers cannot be.
    """
    if not isinstance(plain, dict) or not plain or not all(isinstance(one, dict) for one in plain.values()):
        raise DataError(f"{source}: expected statistics by dataset, {{name: {{action: {{q01, q99, mask}}}}}}")
    return {name: _dataset(one, f"{source}: {name}") for name, one in plain.items()}


def write_statistics(path: str | Path, known: Known) -> Path:
    """Write `dataset_statistics.json` (into a folder, or the file itself), as released policies carry it."""
    path = Path(path)
    file = path if path.suffix == ".json" else path / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: one.to_dict() for name, one in known.items()}
    file.write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    return file


def choose(known: Known, unnorm_key: str | None, source: str) -> tuple[str, DatasetStatistics]:
    """The statistics of one dataset; the key may be left out where there is one, and lack the ending `_no_noops`.

    Raises:
        UnknownNameError: there are several and none was named, or none is called so; the error lists or suggests.
    """
    if unnorm_key is None and len(known) == 1:
        return next(iter(known.items()))
    for name in (unnorm_key or "", f"{unnorm_key}{UNPADDED}"):
        if name in known:
            return name, known[name]
    raise UnknownNameError(f"{source}: unnorm_key", unnorm_key or "", known)


def compute(
    actions: Float[np.ndarray, "steps action"],
    states: Float[np.ndarray, "steps state"] | None = None,
    *,
    trajectories: int,
    mask: Sequence[bool] | None = None,
    source: str = "data",
) -> DatasetStatistics:
    """Statistics of your own data, with NumPy's quantiles, as released ones were made.

    `mask` of the actions; by default all but a last component that is a gripper from 0 (closed) to 1 (open), which
    OpenVLA learns as it is.

    Raises:
        DataError: no steps, values that are not finite, or a mask of another length.
    """
    size = actions.shape[-1]
    chosen = [True] * (size - 1) + [not _is_open_share(actions[:, -1])] if mask is None else list(mask)
    found = DatasetStatistics(
        action=_described(actions, chosen, f"{source}: action"),
        proprio=None if states is None else _described(states, [True] * states.shape[-1], f"{source}: proprio"),
        transitions=len(actions),
        trajectories=trajectories,
    )
    _check(found.action, f"{source}: action")
    return found


def _is_open_share(values: np.ndarray) -> bool:
    return len(values) > 0 and bool(values.min() == 0.0 and values.max() == 1.0)


def _described(rows: np.ndarray, mask: Sequence[bool], source: str) -> VectorStatistics:
    if not len(rows) or not np.isfinite(rows).all():
        raise DataError(f"{source}: expected steps of finite numbers, got {len(rows)} steps")
    rows = np.asarray(rows, np.float64)
    low, high = np.quantile(rows, [0.01, 0.99], axis=0)
    values = {"mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0), "q01": low, "q99": high}
    return VectorStatistics(**{name: tuple(row.tolist()) for name, row in values.items()}, mask=tuple(map(bool, mask)))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in PLACES:
        if (path / name).is_file():
            return path / name
    raise DataError(f"{path}: has neither {' nor '.join(PLACES)}; make one with `actloop data statistics DATASET`")


def _dataset(plain: Mapping[str, object], source: str) -> DatasetStatistics:
    if "action" not in plain:
        raise DataError(f"{source}: no 'action', only {sorted(plain)}")
    proprio = plain.get("proprio")
    counts = [plain.get(name, 0) for name in ("num_transitions", "num_trajectories")]
    if not all(isinstance(count, int) for count in counts):
        raise DataError(f"{source}: expected whole numbers of transitions and trajectories, got {counts}")
    return DatasetStatistics(
        action=_vector(plain["action"], f"{source}: action"),
        proprio=None if proprio is None else _vector(proprio, f"{source}: proprio"),
        transitions=int(str(counts[0])),
        trajectories=int(str(counts[1])),
    )


def _vector(plain: object, source: str) -> VectorStatistics:
    if not isinstance(plain, dict) or "q01" not in plain or "q99" not in plain:
        has = sorted(plain) if isinstance(plain, dict) else type(plain).__name__
        raise DataError(f"{source}: expected at least q01 and q99, got {has}")
    try:
        values = {name: tuple(float(value) for value in plain[name]) for name in FIELDS if name in plain}
        mask = tuple(plain.get("mask", [True] * len(values["q01"])))
    except (TypeError, ValueError) as error:
        raise DataError(f"{source}: expected lists of numbers ({error})") from error
    if not all(isinstance(one, bool) for one in mask):
        raise DataError(f"{source}: mask: expected true and false, got {mask}")
    found = VectorStatistics(**values, mask=mask)
    _check(found, source)
    return found


def _check(found: VectorStatistics, source: str) -> None:
    """What would silently scale a robot's motions wrongly is refused."""
    sizes = {name: len(getattr(found, name)) for name in (*FIELDS, "mask") if getattr(found, name)}
    if len(set(sizes.values())) != 1 or not found.size:
        raise DataError(f"{source}: fields of different lengths, {sizes or 'none'}")
    if bool(found.min) != bool(found.max):
        raise DataError(f"{source}: has only one of min and max; give both or neither")
    if not all(np.isfinite(getattr(found, name)).all() for name in FIELDS):
        raise DataError(f"{source}: holds values that are not finite")
    for low, high in (("q01", "q99"), ("min", "max")):
        bad = [i for i, (a, b) in enumerate(zip(getattr(found, low), getattr(found, high), strict=False)) if a > b]
        if bad:
            raise DataError(f"{source}: component {bad[0]}: {low} lies above {high}")
    still = [i for i, (a, b, on) in enumerate(zip(found.q01, found.q99, found.mask, strict=True)) if on and a == b]
    if len(still) == found.size:
        raise DataError(f"{source}: q01 equals q99 in every component: nothing in these data moves")
