"""Which dataset, and which of its frames, each sample of a batch comes from.

probability of a dataset = weight x size, of all; a frame within it = uniform

The draw of a step is a function of the seed and the step: a run that is taken up at step n needs n and nothing else,
and several processes can each draw their own share of a batch. Frames are drawn with replacement.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from actloop.errors import ContractError, UnknownNameError

EXTERNAL = "_converted_externally_to_rlds"

_EVERYWHERE = {
    "kuka": 0.8341046294,
    "bridge_orig": 1.0,
    "taco_play": 2.0,
    "jaco_play": 1.0,
    "berkeley_cable_routing": 1.0,
    "roboturk": 2.0,
    "viola": 2.0,
    "berkeley_autolab_ur5": 2.0,
    "toto": 1.0,
    f"stanford_hydra_dataset{EXTERNAL}": 2.0,
    f"austin_buds_dataset{EXTERNAL}": 1.0,
    f"nyu_franka_play_dataset{EXTERNAL}": 3.0,
    f"furniture_bench_dataset{EXTERNAL}": 0.1,
    f"ucsd_kitchen_dataset{EXTERNAL}": 2.0,
    f"austin_sailor_dataset{EXTERNAL}": 1.0,
    f"austin_sirius_dataset{EXTERNAL}": 1.0,
    f"dlr_edan_shared_control{EXTERNAL}": 1.0,
    f"iamlab_cmu_pickup_insert{EXTERNAL}": 1.0,
    "utaustin_mutex": 1.0,
    "berkeley_fanuc_manipulation": 2.0,
    "cmu_stretch": 1.0,
}
_SOUP = {"fractal20220817_data": 0.54087122203, **_EVERYWHERE, "language_table": 0.1}
_PLUS = {"bc_z": 0.2, "fmb_dataset": 1.0, "dobbe": 0.2}

MIXTURES: dict[str, dict[str, float]] = {
    "oxe_magic_soup": _SOUP,
    "oxe_magic_soup_plus": {**_SOUP, **_PLUS, "droid": 0.06},  # OpenVLA's first stage
    "oxe_magic_soup_plus_minus": {"fractal20220817_data": 1.0, **_EVERYWHERE, **_PLUS},  # and its last
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedBatch:
    """Where the samples of a batch come from: `names[datasets[i]]`, and its frame `items[i]`."""

    names: tuple[str, ...]
    datasets: Int[np.ndarray, "batch"]
    items: Int[np.ndarray, "batch"]

    def of(self, name: str) -> Int[np.ndarray, "some"]:
        """The frames of one dataset, in the order of the batch.

        Raises:
            UnknownNameError: the mixture has no such dataset.
        """
        if name not in self.names:
            raise UnknownNameError("mixture", name, self.names)
        items: np.ndarray = self.items[self.datasets == self.names.index(name)]
        return items


class Mixture:
    """Datasets by name, their sizes and weights, and the seed of the draw."""

    def __init__(self, sizes: Mapping[str, int], weights: Mapping[str, float] | None = None, *, seed: int = 0) -> None:
        """`sizes` counts the frames (transitions) of each dataset; without `weights` all weigh the same.

        Raises:
            UnknownNameError: a dataset has no weight, or a weight no dataset.
            ContractError: no datasets, an empty one, or a weight that is not above zero.
        """
        given = dict.fromkeys(sizes, 1.0) if weights is None else weights
        for name in sizes:
            if name not in given:
                raise UnknownNameError("mixture.weights", name, given)
        for name in given:
            if name not in sizes:
                raise UnknownNameError("mixture.sizes", name, sizes)
        if not sizes:
            raise ContractError("mixture", "has no datasets")
        for name, size in sizes.items():
            if size < 1 or not (np.isfinite(given[name]) and given[name] > 0):
                raise ContractError(f"mixture.{name}", f"expected frames and a weight, got {size} and {given[name]}")
        self.names, self.seed = tuple(sizes), seed
        self.sizes = np.array([sizes[name] for name in self.names], np.int64)
        self.weights = np.array([given[name] for name in self.names])
        self.probabilities = self.sizes * self.weights / (self.sizes @ self.weights)

    @property
    def epoch(self) -> int:
        """Samples after which every dataset of the largest weight was seen about once: the slowest of them.

        OpenVLA counts epochs so, by the datasets of weight 1 (released code); where none weighs 1, by the heaviest.
        """
        primary = self.weights == (1.0 if (self.weights == 1.0).any() else self.weights.max())
        return int(np.ceil(self.sizes[primary] / self.probabilities[primary]).max())

    def draw(self, step: int, size: int) -> MixedBatch:
        """The batch of a step, of any two calls the same.

        Raises:
            ContractError: a negative step, or an empty batch.
        """
        if step < 0 or size < 1:
            raise ContractError("mixture.draw", f"expected step 0 or more and size 1 or more, got {step} and {size}")
        rng = np.random.default_rng([self.seed, step])
        datasets = rng.choice(len(self.names), size=size, p=self.probabilities)
        return MixedBatch(names=self.names, datasets=datasets, items=rng.integers(self.sizes[datasets]))

    def shares(self, steps: range, size: int) -> dict[str, float]:
        """The share of the samples of those steps that came from each dataset; beside `probabilities`, what was meant.

        Raises:
            ContractError: no steps.
        """
        if not len(steps):
            raise ContractError("mixture.shares", "expected one step or more")
        counts = np.zeros(len(self.names), np.int64)
        for step in steps:
            counts += np.bincount(self.draw(step, size).datasets, minlength=len(self.names))
        return {name: float(count) / (len(steps) * size) for name, count in zip(self.names, counts, strict=True)}


def preset_weights(name: str, datasets: Mapping[str, object] | None = None) -> dict[str, float]:
    """The weights of a preset, for those of its datasets that there are; None takes all.

    Raises:
        UnknownNameError: no such preset, or it has no weight for a dataset; suggests the nearest.
    """
    if name not in MIXTURES:
        raise UnknownNameError("mixture", name, MIXTURES)
    weights = MIXTURES[name]
    for dataset in datasets or ():
        if dataset not in weights:
            raise UnknownNameError(f"mixture {name}", dataset, weights)
    return {one: weights[one] for one in (weights if datasets is None else datasets)}
