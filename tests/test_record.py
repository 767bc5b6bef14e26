"""Recording the scripted expert: what is written, that it repeats, and what an interruption leaves."""

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from actloop.contracts import Action, Observation, Outcome, Task, World
from actloop.data.dataset import LeRobotDataset
from actloop.data.fields import EXECUTED
from actloop.data.info import describe
from actloop.errors import ActloopError, ContractError, DataError
from actloop.simulation.exact import MAX_STEP, ExactWorld, read_tick
from actloop.training.demonstrate import ASTRAY_TICKS, SETTLE_TICKS, Attempt, demonstrate
from actloop.training.record import record

SIZE = 32


class Clumsy(ExactWorld):
    """Its expert fails every third episode; counts episodes, and calls a hook before each."""

    hook: Any = None

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__(image_size=SIZE, time_limit=6.0)
        self._broken, self._fails = broken, False

    def reset(self, task: Task, *, seed: int) -> Observation:
        if self.hook is not None:
            type(self).hook()
        self._fails = self._broken or seed % 3 == 0
        return super().reset(task, seed=seed)

    def demonstrate(self) -> Action:
        return -super().demonstrate() if self._fails else super().demonstrate()


class Picky(ExactWorld):
    """Can be disturbed in its second half second alone, and breaks in a task of another name."""

    disturbances = ("displace", "never")

    def __init__(self) -> None:
        super().__init__(image_size=SIZE, time_limit=6.0)

    def disturb(self, name: str, *, seed: int) -> None:
        if name == "never" or not 5 <= self.observe().tick < 10:
            raise ContractError("disturb", "not applicable now")
        super().disturb(name, seed=seed)

    def demonstrate(self) -> Action:
        if self._task is not None and self._task.instruction == "break":
            raise ContractError("expert", "is broken")
        return super().demonstrate()


class NoExpert:
    """A world that only runs."""

    def __init__(self) -> None:
        self.inner = ExactWorld(image_size=SIZE)
        self.embodiment, self.tasks = self.inner.embodiment, self.inner.tasks

    def reset(self, task: Task, *, seed: int) -> Observation:
        return self.inner.reset(task, seed=seed)

    def observe(self) -> Observation:
        return self.inner.observe()

    def apply(self, action: Action) -> Action:
        return self.inner.apply(action)

    def outcome(self) -> Outcome | None:
        return self.inner.outcome()

    def close(self) -> None:
        self.inner.close()


make_exact = partial(ExactWorld, image_size=SIZE, time_limit=6.0)
TASKS = list(make_exact().tasks.values())


def attempt(number: int, *, noise: float = 0.0, disturb: float = 0.0, astray: float = 0.0) -> Attempt:
    return Attempt(task=TASKS[0], seed=3, number=number, noise_share=noise, disturb_share=disturb, astray_share=astray)


def contents(path: Path) -> dict[str, Any]:
    dataset = LeRobotDataset(path)
    return {
        "states": dataset.states.tobytes(),
        "actions": dataset.actions.tobytes(),
        "notes": dataset.notes,
        "instructions": [episode.instruction for episode in dataset.episodes],
        "frames": dataset.images("front", np.arange(dataset.info.frames)).tobytes(),
    }


def test_a_clean_episode_is_what_the_expert_does() -> None:
    world = make_exact()
    done = demonstrate(world, attempt(0))
    length = len(done.states)
    assert (done.success, done.is_noisy, done.disturbance) == (True, False, "")
    np.testing.assert_array_equal(done.actions, done.executed)
    assert [read_tick(image) for image in done.images["front"]] == list(range(length))
    np.testing.assert_allclose(done.states[1:], done.states[:-1] + done.executed[:-1], atol=1e-6)
    reached = np.flatnonzero(np.abs(done.actions).max(axis=1) == 0)
    assert reached[0] == length - SETTLE_TICKS  # the goal is reached, and held for a few more ticks
    np.testing.assert_array_equal(demonstrate(world, attempt(0)).states, done.states)
    assert not np.array_equal(demonstrate(world, attempt(1)).states[0], done.states[0])


def test_noise_is_executed_and_the_label_stays_clean() -> None:
    world = make_exact()
    done = [demonstrate(world, attempt(number, noise=1.0)) for number in range(6)]
    assert all(one.is_noisy for one in done)
    shaken = 0
    for one in done:
        goal = one.states[-1]
        np.testing.assert_allclose(one.actions, np.clip(goal - one.states, -MAX_STEP, MAX_STEP), atol=1e-6)
        np.testing.assert_allclose(one.states[1:], one.states[:-1] + one.executed[:-1], atol=1e-6)
        np.testing.assert_array_equal(one.executed[-SETTLE_TICKS:], one.actions[-SETTLE_TICKS:])
        shaken += int((np.abs(one.executed - one.actions).max(axis=1) > 1e-6).sum())
    total = sum(len(one.states) for one in done)
    assert 0.05 < shaken / total < 0.8  # bursts, with calm between them


def test_led_astray_it_goes_straight_somewhere_for_a_while_and_the_label_stays_clean() -> None:
    world = make_exact()
    done = [demonstrate(world, attempt(number, noise=1.0, astray=1.0)) for number in range(12)]
    kept = [one for one in done if one.success]
    assert len(kept) > 2
    longest = 0
    for one in kept:
        assert (one.is_astray, one.is_noisy) == (True, False)
        goal = one.states[-1]
        np.testing.assert_allclose(one.actions, np.clip(goal - one.states, -MAX_STEP, MAX_STEP), atol=1e-6)
        led = np.abs(one.executed - one.actions).max(axis=1) > 1e-6
        same = (np.diff(one.executed, axis=0) == 0).all(axis=1)
        longest = max([longest, *(len(run) for run in "".join("x" if k else " " for k in led[1:] & same).split())])
    assert longest >= ASTRAY_TICKS[0] - 1
    plain = demonstrate(world, attempt(0, noise=1.0))
    np.testing.assert_array_equal(demonstrate(world, attempt(0, noise=1.0, astray=1e-9)).executed, plain.executed)


def test_a_disturbance_happens_inside_the_episode() -> None:
    world = make_exact()
    done = [demonstrate(world, attempt(number, disturb=1.0)) for number in range(8)]
    for one in done:
        assert one.disturbance in world.disturbances
        assert 0 <= one.disturbed_at < len(one.states) - SETTLE_TICKS
        if one.disturbed_at and one.disturbance == "displace":
            jump = np.abs(one.states[one.disturbed_at] - one.states[one.disturbed_at - 1])
            assert jump.max() > 2 * MAX_STEP
    assert {one.disturbance for one in done} == set(world.disturbances)


def test_a_disturbance_waits_until_it_is_possible() -> None:
    world = Picky()
    done = [demonstrate(world, attempt(number, disturb=1.0)) for number in range(12)]
    happened = [one.disturbed_at for one in done if one.disturbance]
    assert len(happened) >= 6
    assert all(one.disturbance in ("displace", "") for one in done)
    assert min(happened) == 5
    assert max(happened) < 10
    assert all(one.disturbed_at == -1 for one in done if not one.disturbance)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_world_keeps_what_is_finished(tmp_path: Path, workers: int) -> None:
    tasks = [TASKS[0], replace(TASKS[1], instruction="break")]
    with pytest.raises(ActloopError, match="expert: is broken"):
        record(Picky, tasks, tmp_path, episodes_per_task=3, seed=0, workers=workers)
    assert [episode.instruction for episode in LeRobotDataset(tmp_path).episodes] == [TASKS[0].instruction]


def test_what_is_recorded(tmp_path: Path) -> None:
    summary = record(make_exact, TASKS, tmp_path, episodes_per_task=8, seed=0, noise_share=0.5, disturb_share=0.5)
    dataset = LeRobotDataset(tmp_path)
    assert (summary.episodes, summary.interrupted, summary.frames) == (16, False, dataset.info.frames)
    assert [episode.instruction for episode in dataset.episodes[:2]] == [task.instruction for task in TASKS]
    assert describe(tmp_path).tasks == {task.instruction: 8 for task in TASKS}
    for name, count in summary.tasks.items():
        notes = [note for note in dataset.notes if note["task"] == name]
        assert (count.recorded, count.new, count.failed) == (8, 8, 0)
        assert [note["attempt"] for note in notes] == list(range(8))
        assert count.noisy == sum(note["noisy"] for note in notes)
        assert count.disturbed == sum(bool(note["disturbance"]) for note in notes)
    assert 0 < sum(note["noisy"] for note in dataset.notes) < 16
    assert 0 < sum(bool(note["disturbance"]) for note in dataset.notes) < 16
    assert dataset.embodiment == make_exact().embodiment
    episode = dataset.episode(5)
    assert [read_tick(image) for image in episode.frames("front")] == list(range(len(episode.states)))
    executed = np.stack(pq.read_table(tmp_path / "data/chunk-000/file-000.parquet")[EXECUTED].to_pylist())
    assert (np.abs(executed - dataset.actions).max(axis=1) > 1e-6).any()


def test_workers_change_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {"episodes_per_task": 4, "seed": 5, "noise_share": 0.5, "disturb_share": 0.5}
    record(Clumsy, TASKS, tmp_path / "one", **options)
    summary = record(Clumsy, TASKS, tmp_path / "two", workers=2, progress=True, **options)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert sum(count.failed for count in summary.tasks.values()) > 0
    assert all(count.recorded == 4 for count in summary.tasks.values())


def test_failures_are_discarded_and_counted(tmp_path: Path) -> None:
    summary = record(Clumsy, TASKS, tmp_path, episodes_per_task=6, seed=1, noise_share=0.0, disturb_share=0.0)
    dataset = LeRobotDataset(tmp_path)
    assert len(dataset.episodes) == 12
    for name, count in summary.tasks.items():
        attempts = [note["attempt"] for note in dataset.notes if note["task"] == name]
        assert len(attempts) == 6
        assert count.failed == max(attempts) + 1 - 6


def test_an_expert_that_never_succeeds(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="task reach-left: the expert failed 25 times in a row, last: time limit"):
        record(partial(Clumsy, broken=True), TASKS, tmp_path, episodes_per_task=1, seed=0)


def test_ctrl_c_keeps_what_is_finished_and_resuming_completes_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"episodes_per_task": 4, "seed": 2, "noise_share": 0.4, "disturb_share": 0.4}
    record(Clumsy, TASKS, tmp_path / "whole", **options)
    episodes = 0

    def press() -> None:
        nonlocal episodes
        episodes += 1
        if episodes == 6:
            os.kill(os.getpid(), signal.SIGINT)

    Clumsy.hook = staticmethod(press)
    try:
        summary = record(Clumsy, TASKS, tmp_path / "parts", **options)
    finally:
        Clumsy.hook = None
    assert summary.interrupted
    assert 0 < summary.episodes < 8
    assert describe(tmp_path / "parts").episodes == summary.episodes
    assert describe(tmp_path / "parts").problems == ()
    resumed = record(Clumsy, TASKS, tmp_path / "parts", **options)
    assert not resumed.interrupted
    assert sum(count.new for count in resumed.tasks.values()) == 8 - summary.episodes
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    again = record(Clumsy, TASKS, tmp_path / "parts", **options)
    assert (again.episodes, sum(count.new for count in again.tasks.values())) == (8, 0)


def test_more_tasks_and_episodes_are_added(tmp_path: Path) -> None:
    record(make_exact, TASKS[:1], tmp_path, episodes_per_task=2, seed=0)
    summary = record(make_exact, TASKS, tmp_path, episodes_per_task=3, seed=0)
    assert {name: (count.recorded, count.new) for name, count in summary.tasks.items()} == {
        "reach-left": (3, 1),
        "reach-right": (3, 3),
    }
    starts = [LeRobotDataset(tmp_path).episode(index).states[0].tolist() for index in range(6)]
    assert len({tuple(start) for start in starts}) > 3


def test_another_body_is_refused(tmp_path: Path) -> None:
    record(make_exact, TASKS, tmp_path, episodes_per_task=1, seed=0)
    with pytest.raises(DataError, match="recorded from embodiment 'exact-delta'"):
        record(partial(make_exact, kind="absolute"), TASKS, tmp_path, episodes_per_task=2, seed=0)
    assert len(LeRobotDataset(tmp_path).episodes) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_share": 1.5}, "noise_share: expected a share between 0 and 1, got 1.5"),
        ({"astray_share": 2}, "astray_share: expected a share"),
        ({"disturb_share": -0.1}, "disturb_share: expected a share"),
        ({"episodes_per_task": 0}, "got a seed of 0 and 0 episodes"),
        ({"seed": -2}, "got a seed of -2"),
        ({"tasks": []}, "distinct tasks"),
        ({"tasks": TASKS[:1] * 2}, "distinct tasks"),
    ],
)
def test_bad_options(tmp_path: Path, options: Mapping[str, Any], message: str) -> None:
    wanted: dict[str, Any] = {"tasks": TASKS, "episodes_per_task": 1, "seed": 0} | dict(options)
    tasks = wanted.pop("tasks")
    with pytest.raises(ContractError, match=message):
        record(make_exact, tasks, tmp_path / "new", **wanted)
    assert not (tmp_path / "new").exists()


def test_a_world_without_an_expert(tmp_path: Path) -> None:
    assert isinstance(NoExpert(), World)
    with pytest.raises(ContractError, match="has no scripted expert"):
        record(NoExpert, TASKS, tmp_path / "new", episodes_per_task=1, seed=0)
    with pytest.raises(ContractError, match="has no scripted expert"):
        demonstrate(NoExpert(), attempt(0))
