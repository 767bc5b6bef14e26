"""How many episodes are judged in a minute? `python benchmarks/eval_throughput.py --md docs/results/throughput.md`

The obvious way is `gymnasium.vector.AsyncVectorEnv`: all worlds step together, and the policy is called in every step.
Here are that, what `actloop eval` does, and the steps between. Same policy, worlds, tasks, seeds and machine; the
world waits for the model in all of them. The ways take turns, a round after the other, and each is held against the
first of its own round. Timed is from the end of the first quarter of the episodes to that of the last one: what it
takes to start (imports, mostly) is nobody's.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from actloop.contracts import Observation, Task
from actloop.evaluation import CompareConfig
from actloop.evaluation.batching import Padded
from actloop.evaluation.compare import job_of, settle
from actloop.evaluation.identity import code_commit, processor
from actloop.evaluation.runner import Job, Unit
from actloop.evaluation.subjects import policy_of
from actloop.evaluation.working import work
from actloop.loop.config import derive_seed
from actloop.presets import EXECUTE_HORIZON, shipped_weights
from actloop.simulation.registry import make_world
from actloop.stack.guarded import one_thread

TASKS = ("pick-red", "place-left-green", "open-drawer", "place-right-blue")


@dataclass(frozen=True)
class Round:
    """Of one way: when its episodes ended, in seconds, and how many of them succeeded."""

    ends: list[float]
    successes: int

    @property
    def per_minute(self) -> float:
        first = len(self.ends) // 4
        return 60 * (len(self.ends) - first) / (self.ends[-1] - self.ends[first - 1])


class Tabletop(gymnasium.Env[dict[str, np.ndarray], np.ndarray]):
    """The world as a Gymnasium environment: it goes through its episodes, and says which of them it is in."""

    def __init__(self, units: list[Unit]) -> None:
        self._world, self._units, self._at = make_world("tabletop"), units, -1
        body = self._world.embodiment
        low, high = body.action.low, body.action.high
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        spaces: dict[str, gymnasium.Space[Any]] = {
            camera.name: gymnasium.spaces.Box(0, 255, (camera.height, camera.width, 3), np.uint8)
            for camera in body.cameras
        }
        spaces["state"] = gymnasium.spaces.Box(-np.inf, np.inf, (body.state.size,), np.float32)
        spaces["where"] = gymnasium.spaces.Box(-1, 2**31 - 1, (2,), np.int64)  # episode, tick
        self.observation_space = gymnasium.spaces.Dict(spaces)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        self._at = min(self._at + 1, len(self._units) - 1)  # who is done goes on with the last until all are
        unit = self._units[self._at]
        self._task: Task = self._world.tasks[unit.task]
        return self._told(self._world.reset(self._task, seed=unit.seed)), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self._world.apply(action)
        obs, outcome = self._world.observe(), self._world.outcome()
        late = obs.tick * self._world.embodiment.period >= self._task.time_limit - 1e-9
        return self._told(obs), float(bool(outcome and outcome.success)), outcome is not None, late, {}

    def close(self) -> None:
        self._world.close()

    def _told(self, obs: Observation) -> dict[str, np.ndarray]:
        return {**obs.images, "state": obs.state, "where": np.array([self._at, obs.tick])}


class VectorPolicy:
    """The policy before a vector of environments: a call, or a row of a batch, for each of them."""

    def __init__(self, policy: Any, units: list[list[Unit]], tasks: dict[str, Task], *, batched: bool) -> None:
        self._units, self._tasks, self._batched = units, tasks, batched
        self._rows = Padded(policy, len(units)) if batched else policy
        self._sessions: list[Any] = [None] * len(units)
        self._episodes = [-1] * len(units)

    def chunks(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        """(environments, horizon, action)."""
        observations = []
        for row, (episode, tick) in enumerate(seen["where"]):
            if episode != self._episodes[row]:
                self._begin(row, int(episode))
            images = {name: seen[name][row] for name in seen if name not in ("state", "where")}
            observations.append(Observation(images=images, state=seen["state"][row], tick=int(tick), time=0.1 * tick))
        if self._batched:
            answers = self._rows.predict_batch(self._sessions, observations)
        else:
            pairs = zip(self._sessions, observations, strict=True)
            answers = [self._rows.predict(session, obs) for session, obs in pairs]
        self._sessions = [session for session, _ in answers]
        return np.stack([prediction.chunk.actions for _, prediction in answers])

    def _begin(self, row: int, episode: int) -> None:
        unit = self._units[row][episode]
        instruction = self._tasks[unit.task].instruction
        self._sessions[row] = self._rows.start(instruction, seed=derive_seed(unit.seed, "policy"))
        self._episodes[row] = episode


def vector(units: list[Unit], policy: Any, *, worlds: int, batched: bool, every: int, processes: bool) -> Round:
    """All episodes in a vector of environments; the policy is called every so many steps."""
    shares = [units[number::worlds] for number in range(worlds)]
    makers = [partial(Tabletop, share) for share in shares]
    mode = AutoresetMode.NEXT_STEP
    envs = (
        AsyncVectorEnv(makers, context="spawn", autoreset_mode=mode)
        if processes
        else SyncVectorEnv(makers, autoreset_mode=mode)
    )
    world = make_world("tabletop")
    asked = VectorPolicy(policy, shares, dict(world.tasks), batched=batched)
    world.close()
    left, successes, ends = [len(share) for share in shares], 0, []
    try:
        seen, _ = envs.reset()
        while any(left):
            chunks = asked.chunks(seen)
            for index in range(every):
                seen, rewards, ended, late, _ = envs.step(chunks[:, index])
                for row in np.flatnonzero(ended | late):
                    if left[row]:
                        left[row] -= 1
                        ends.append(time.perf_counter())
                        successes += rewards[row] > 0
        return Round(ends, int(successes))
    finally:
        envs.close()


def ours(units: list[Unit], job: Job) -> Round:
    """All episodes as `actloop eval` runs them, event logs included."""
    ends, successes = [], 0
    for _, record, _ in work(job, iter(units), len(units)):
        ends.append(time.perf_counter())
        successes += record["result"]["outcome"]["success"]
    return Round(ends, successes)


def ways(
    policy: str, worlds: int, workers: int, episodes: int, folder: Path
) -> Iterator[tuple[str, Callable[[], Round]]]:
    """What is timed, by name; the first is what the others are held against."""
    source = shipped_weights("tabletop")[policy]
    held = policy_of(source)
    base = CompareConfig(
        out=folder / "rows",
        arms={policy: source},
        tasks=TASKS,
        episodes=episodes,
        clock="paused",
        sweep=(),
        execute_horizon=EXECUTE_HORIZON,
        videos=0,
        workers=1,
    )
    batched = replace(base, out=folder / "batched", batch=worlds, workers=workers)
    rows, many = (job_of(config, settle(config)) for config in (base, batched))
    units = settle(base).units()
    every = EXECUTE_HORIZON
    in_vector = partial(vector, units, held, worlds=worlds)
    yield "vector, a batched call in every step", partial(in_vector, batched=True, every=1, processes=True)
    yield "vector, a call for each world in every step", partial(in_vector, batched=False, every=1, processes=True)
    yield f"vector, a batched call every {every} steps", partial(in_vector, batched=True, every=every, processes=True)
    yield "the same in one process", partial(in_vector, batched=True, every=every, processes=False)
    yield "actloop, one worker", partial(ours, units, rows)
    yield "actloop, two workers", partial(ours, units, replace(rows, config=replace(base, workers=2)))
    yield f"actloop, {workers} workers, batches of {worlds}", partial(ours, units, many)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="fast")
    parser.add_argument("--episodes", type=int, default=12, help="per task and way, in every round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worlds", type=int, default=4, help="in the vector; also the size of our batches")
    parser.add_argument("--workers", type=int, default=8, help="processes of ours that answer in batches")
    parser.add_argument("--md", type=Path, help="page whose table is written anew")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, one_thread():
        found = dict(ways(args.policy, args.worlds, args.workers, args.episodes, Path(folder)))
        rounds: list[dict[str, Round]] = []
        names = list(found)
        for number in range(args.rounds):
            turn = number % len(names)  # nobody is always the first of a round
            done = {name: found[name]() for name in names[turn:] + names[:turn]}
            rounds.append(done)
            print(f"round {number + 1} of {args.rounds}", flush=True)
    text = table(rounds, names, args.episodes * len(TASKS))
    print(text)
    if args.md:
        page = args.md.read_text(encoding="utf-8")
        before, begin, rest = page.partition("<!-- table -->\n")
        args.md.write_text(before + begin + text + rest[rest.index("<!-- end -->") :], encoding="utf-8")


def table(rounds: list[dict[str, Round]], names: list[str], episodes: int) -> str:
    lines = ["| way | episodes per minute | against the first (range) | success |", "|---|---|---|---|"]
    for name in names:
        rates = [done[name].per_minute for done in rounds]
        ratios = sorted(done[name].per_minute / done[names[0]].per_minute for done in rounds)
        won = sum(done[name].successes for done in rounds) / (episodes * len(rounds))
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {name} | {statistics.median(rates):.0f} | {ratio} | {100 * won:.0f} % |")
    told = f"{len(rounds)} rounds of {episodes} episodes; {processor()}, {os.cpu_count()} cores; code {code_commit()}"
    return "\n".join([*lines, "", told, ""])


if __name__ == "__main__":
    main()
