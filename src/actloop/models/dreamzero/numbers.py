"""A robot's states and actions, and what the network sees of them.

states     --statistics--> -1..1, padded with zeros to the network's room
actions    --relative to the state at the block's start--> --statistics--> the same         (and back)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.contracts import Embodiment, Space
from actloop.errors import ContractError, UnknownNameError
from actloop.models.dreamzero.statistics import RobotStatistics, VectorStatistics

ROWS = 2_000_000  # of relative actions that statistics are measured on at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Of one declared robot; fields as in its `RobotDeclaration`."""

    body: Embodiment
    relative: tuple[str, ...]
    block_actions: int
    normalizer: str
    statistics: RobotStatistics | None

    @property
    def known(self) -> RobotStatistics:
        """The statistics.

        Raises:
            ContractError: there are none yet.
        """
        if self.statistics is None:
            raise ContractError(
                "declaration.statistics",
                f"none for {self.body.name!r}: measure them on its data, or read those of the released weights",
            )
        return self.statistics

    def normalize_states(
        self, states: Float[np.ndarray, "*rows state"], width: int | None = None
    ) -> Float[np.ndarray, "*rows width"]:
        """To -1..1, clipped, float32; with zeros up to `width`, the network's `state_dim`.

        Raises:
            ContractError: no statistics yet, or another number of components.
        """
        _check_size(states, self.body.state, "states")
        return _padded(self.known.state.normalize(states, self.normalizer), width, "state")

    def normalize_actions(
        self,
        actions: Float[np.ndarray, "*rows horizon action"],
        start: Float[np.ndarray, "*rows state"],
        width: int | None = None,
    ) -> Float[np.ndarray, "*rows horizon width"]:
        """Of blocks whose states at their start are `start`; to -1..1, clipped, float32, padded up to `width`.

        Raises:
            ContractError: no statistics yet, or another number of components.
        """
        relative = self.relative_actions(actions, start)
        return _padded(self.known.action.normalize(relative, self.normalizer), width, "action")

    def denormalize_actions(
        self, actions: Float[np.ndarray, "*rows horizon width"], start: Float[np.ndarray, "*rows state"]
    ) -> Float[np.ndarray, "*rows horizon action"]:
        """Physical actions of blocks that start at `start`, float32; padding is dropped, nothing is clipped."""
        real = actions[..., : self.body.action.size]
        relative = self.known.action.denormalize(real, self.normalizer)
        found: np.ndarray = (relative + self._offset(start)[..., None, :]).astype(np.float32)
        return found

    def relative_actions(
        self, actions: Float[np.ndarray, "*rows horizon action"], start: Float[np.ndarray, "*rows state"]
    ) -> Float[np.ndarray, "*rows horizon action"]:
        """In physical units: `relative` parts minus the state at the block's start, the others as they are."""
        _check_size(actions, self.body.action, "actions")
        found: np.ndarray = actions - self._offset(start)[..., None, :]
        return found

    def measured(self, episodes: Iterable[tuple[np.ndarray, np.ndarray]], *, rows: int = 0) -> RobotStatistics:
        """Statistics of a robot's data: (states, actions) by episode, one row per tick.

        Relative parts are measured over blocks that start at any tick, as many as fit `ROWS`; `rows` is the number of
        ticks in all where it is known, so that long datasets are thinned evenly.

        Raises:
            ContractError: no episodes, or rows of another size.
        """
        step = max(1, -(-rows * self.block_actions // ROWS))
        states, actions = [], []
        for state, action in episodes:
            _check_size(state, self.body.state, "states")
            _check_size(action, self.body.action, "actions")
            states.append(state)
            actions.append(self._blocks_of(state, action, step))
        if not states:
            raise ContractError("statistics", "no episodes to measure")
        return RobotStatistics(
            state=VectorStatistics.of(np.concatenate(states)), action=VectorStatistics.of(np.concatenate(actions))
        )

    def _offset(self, start: Float[np.ndarray, "*rows state"]) -> Float[np.ndarray, "*rows action"]:
        """What is taken from every action of a block."""
        _check_size(start, self.body.state, "start")
        offset = np.zeros((*start.shape[:-1], self.body.action.size))
        for name in self.relative:
            offset[..., self.body.action.slice(name)] = start[..., self.body.state.slice(name)]
        return offset

    def _blocks_of(self, states: np.ndarray, actions: np.ndarray, step: int) -> np.ndarray:
        """Rows of actions as the network sees them, of blocks from every `step`-th tick on."""
        if not self.relative:
            return actions
        found = [
            self.relative_actions(actions[at : at + self.block_actions], states[at])
            for at in range(0, len(actions), step)
        ]
        return np.concatenate(found)


def check_relative(body: Embodiment, relative: Sequence[str]) -> None:
    """Raise where a part cannot be relative to the state.

    Raises:
        UnknownNameError: no such action part.
        ContractError: it is no absolute target, or no state of that name and size is measured.
    """
    measured = {part.name: part.size for part in body.state.parts}
    told = {part.name: part for part in body.action.parts}
    for name in relative:
        if name not in told:
            raise UnknownNameError("declaration.relative", name, told)
        if measured.get(name) != told[name].size or told[name].kind != "absolute":
            raise ContractError(
                f"declaration.relative.{name}",
                f"needs an absolute action part and a state part of that name and size, got {told[name].kind} of "
                f"{told[name].size} and states {measured}",
            )


def _check_size(values: np.ndarray, space: Space, path: str) -> None:
    if not values.ndim or values.shape[-1] != space.size:
        raise ContractError(path, f"expected {space.size} components, got shape {values.shape}")


def _padded(values: np.ndarray, width: int | None, what: str) -> np.ndarray:
    missing = 0 if width is None else width - values.shape[-1]
    if missing < 0:
        raise ContractError(f"declaration.{what}", f"has {values.shape[-1]} components, there is room for {width}")
    return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
