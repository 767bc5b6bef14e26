"""Short episodes with every layer, drawn at random: what the tests of replay and of the pictures of episodes share."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from actloop.checks.evidence import Reading
from actloop.contracts import ActionChunk, Prediction
from actloop.loop import (
    Answer,
    Budget,
    Charged,
    EpisodeResult,
    EventLog,
    Here,
    Join,
    LadderConfig,
    LatencyProfile,
    Limits,
    LoopConfig,
    Question,
    run_episode,
)
from actloop.loop.ladder import RUNGS
from actloop.simulation.exact import ExactWorld
from actloop.testing.fakes import CountingPolicy


class Broken(RuntimeError):
    """A layer failed, and may be asked again."""

    transient = True


@dataclass
class Checks:
    """Readings by chance; some alarm."""

    alarms: float
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def start(self, instruction: str, *, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def answer(self, question: Question) -> Answer:
        if self.rng.random() < 0.05:
            raise Broken("no picture")
        value = float(self.rng.exponential())
        threshold = 0.0 if self.rng.random() < self.alarms else 99.0
        first = Reading(check="latent", raw=value / 3, lead=2, value=value, threshold=threshold)
        second = Reading(check="state", raw=float("nan"), lead=2, value=0.1, threshold=float("inf"))
        return Answer(readings=(first, second))


@dataclass
class Semantics:
    """Now and then another instruction, and the word that it is done."""

    done: float
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def start(self, instruction: str, *, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def answer(self, question: Question) -> Answer:
        text = ("", "reach left", "reach right")[self.rng.integers(3)]
        return Answer(text=text, done=bool(self.rng.random() < self.done))


@dataclass
class Chooser:
    """Chunks by chance, from as many candidates as there is time for."""

    horizon: int
    size: int
    period: float
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def start(self, instruction: str, *, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def answer(self, question: Question) -> Answer:
        obs = question.observation
        actions = self.rng.uniform(-0.06, 0.06, (self.horizon, self.size)).astype(np.float32)
        chunk = ActionChunk(actions=actions, anchor=obs.tick, period=self.period, observed_at=obs.time)
        considered = int(self.rng.integers(1, question.candidates + 1))
        return Answer(prediction=Prediction(chunk=chunk), considered=considered, values=(0.5,) * considered)


def drawn(rng: np.random.Generator, *, most: float = 1.0) -> LatencyProfile:
    """Latencies of up to `most` seconds: one, or several to draw from."""
    seconds = tuple(float(value) for value in rng.uniform(0, most, int(rng.integers(1, 5))))
    return LatencyProfile(name="drawn", seconds=seconds if rng.random() > 0.2 else (0.0,), source="test")


def drawn_config(rng: np.random.Generator) -> LoopConfig:
    """Any loop that is not refused."""

    def one(*values):
        return values[int(rng.integers(len(values)))]

    limits = Limits(velocity={"position": (0.4, 0.4)}, acceleration={"position": (4.0, 4.0)})
    rungs = tuple(rung for rung in RUNGS if rng.random() < (0.2 if rung == "human" else 0.6))
    return LoopConfig(
        execute_horizon=int(rng.integers(1, 9)),
        run_on=one(0, 16),
        continue_plan=one(True, False),
        imagine=one(True, False),
        join=Join(how=one("replace", "ensemble", "blend"), ticks=int(rng.integers(1, 5))),
        max_age=one(float("inf"), 0.7),
        answer_timeout=one(float("inf"), 0.5),
        limits=one(None, limits),
        stretch=one(1.0, 0.4),
        check_every=int(rng.integers(1, 4)),
        ladder=LadderConfig(
            rungs=rungs, settle=int(rng.integers(0, 4)), calm=int(rng.integers(1, 8)), pace=one(1.0, 0.5)
        ),
        budget=one(Budget(), Budget(total=0.8, layers={"check": 0.2, "foresight": 0.5}, window=1.0)),
        candidates=int(rng.integers(1, 5)),
        subtask_every=one(0.0, 1.1),
        done_ends=one(True, False),
        observe_every=one(0, 1),
    )


def random_episode(seed: int, path: Path, *, time_limit: float = 3.0, clock: str | None = None) -> EpisodeResult:
    """One episode of the exact world under a loop, latencies and layers drawn from `seed`, with its log at `path`."""
    rng = np.random.default_rng(seed)
    world = ExactWorld(kind=("delta", "absolute")[seed % 2], image_size=8, time_limit=time_limit)
    body, step = world.embodiment, 0.06 if seed % 2 == 0 else 0.9

    def actions(obs, horizon):
        return np.random.default_rng([seed, obs.tick]).uniform(-step, step, (horizon, 2)).astype(np.float32)

    policy = CountingPolicy(body, horizon=int(rng.integers(8, 17)), actions=actions)
    modules = {
        "check": Checks(alarms=float(rng.uniform(0, 0.6))),
        "foresight": Chooser(horizon=policy.horizon, size=2, period=body.period),
        "semantic": Semantics(done=0.1),
    }
    charged = clock is None
    layers = {
        name: Charged(Here(module), drawn(rng, most=0.4), layer=name, charged=charged)
        for name, module in modules.items()
        if rng.random() < 0.75
    }
    latency = drawn(rng) if charged else None
    with EventLog(path) as log:
        return run_episode(
            world,
            policy,
            world.tasks["reach-left"],
            seed=seed,
            latency=latency,
            config=drawn_config(rng),
            clock=clock,
            layers=layers,
            subscribers=[log],
        )
