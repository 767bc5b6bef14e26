"""The rules of time, over ten thousand random episodes: latencies, losses, duplicates, reorderings, resets, rates."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from actloop.checks.evidence import Reading
from actloop.contracts import ActionChunk, Embodiment, Observation, Part, Prediction, Space, Task
from actloop.loop import (
    Budget,
    Here,
    Join,
    LadderConfig,
    Limits,
    LoopConfig,
    PolicyModule,
    Ticked,
    run_episode,
)
from actloop.loop.inference import Reply
from actloop.loop.questions import Answer

EXAMPLES, EPISODES = 500, 20  # of one configuration each
SHARES = 2  # processes
TICKS = 14
EDGE = 1e6  # what the tags of an action may say
BOX = 0.5


def body(control_hz: float) -> Embodiment:
    """One of each kind, and three tags that say where an action comes from."""

    def part(name, kind, low, high, size=1, **more):
        return Part(name=name, unit="m", low=(low,) * size, high=(high,) * size, kind=kind, **more)

    return Embodiment(
        name="random",
        cameras=(),
        state=Space(parts=(part("joint", "absolute", -BOX, BOX), part("gripper", "absolute", 0.0, 1.0))),
        action=Space(
            parts=(
                part("joint", "absolute", -BOX, BOX),
                part("slide", "delta", -0.1, 0.1, 2),
                part("wheel", "velocity", -0.2, 0.2),
                part("gripper", "absolute", 0.0, 1.0),
                part("gripper_tag", "absolute", -EDGE, EDGE, 3, neutral=(0.0,) * 3),
            )
        ),
        control_hz=control_hz,
    )


JOINT, SLIDE, WHEEL, GRIPPER, TAGS = 0, slice(1, 3), 3, 4, slice(5, 8)


class Point:
    """A robot that does what it is told, now and then a little less, for `TICKS` ticks."""

    def __init__(self, embodiment: Embodiment, rng: np.random.Generator, *, faithful: bool) -> None:
        self.embodiment = embodiment
        self.task = Task(name="t", instruction="go", time_limit=TICKS * embodiment.period)
        self.tasks = {"t": self.task}
        self._rng, self._faithful = rng, faithful

    def reset(self, task, *, seed):
        self._tick, self._joint = 0, float(self._rng.uniform(-0.3, 0.3))
        return self.observe()

    def observe(self):
        state = np.array([self._joint, 0.5], np.float32)
        return Observation(images={}, state=state, tick=self._tick, time=self._tick * self.embodiment.period)

    def apply(self, action):
        sent = action.copy()
        if not self._faithful and self._rng.random() < 0.2:
            sent[SLIDE] *= np.float32(0.5)
        self._joint = float(sent[JOINT])
        self._tick += 1
        return sent

    def outcome(self):
        return None

    def close(self):
        pass


class Tagged:
    """A policy whose actions say which episode, observation and place in the chunk they come from."""

    def __init__(self, embodiment: Embodiment, horizon: int, rng: np.random.Generator, wild: float) -> None:
        self.embodiment, self.horizon = embodiment, horizon
        self._rng, self._wild = rng, wild
        self.chunks: dict[tuple[int, int], np.ndarray] = {}
        self.episode = -1

    def start(self, instruction, *, seed):
        self.episode += 1
        return self.episode

    def predict(self, session, obs, *, committed=None, imagine=False):
        actions = np.zeros((self.horizon, self.embodiment.action.size), np.float32)
        actions[:, JOINT] = np.clip(
            obs.state[0] + np.cumsum(self._rng.normal(0, 0.02 * self._wild, self.horizon)), -1.2 * BOX, 1.2 * BOX
        )
        actions[:, SLIDE] = self._rng.uniform(-0.09, 0.09, (self.horizon, 2)) * min(self._wild, 1.5)
        actions[:, WHEEL] = self._rng.uniform(-0.25, 0.25, self.horizon)
        actions[:, GRIPPER] = self._rng.integers(0, 2, self.horizon)
        actions[:, TAGS] = np.stack(
            [np.full(self.horizon, session), np.full(self.horizon, obs.tick), np.arange(self.horizon)], axis=1
        )
        self.chunks[session, obs.tick] = actions
        period = self.embodiment.period
        return session, Prediction(
            chunk=ActionChunk(actions=actions, anchor=obs.tick, period=period, observed_at=obs.time)
        )


class Alarms:
    """A check layer that cries wolf."""

    def __init__(self, rng: np.random.Generator, share: float) -> None:
        self._rng, self._share = rng, share

    def start(self, instruction, *, seed):
        pass

    def answer(self, question):
        value = 2.0 if self._rng.random() < self._share else 0.5
        lead = question.evidence.lead
        return Answer(readings=(Reading(check="wolf", raw=value, lead=lead, value=value, threshold=1.0),))


class Lossy:
    """An inference over the worst of networks: answers are late, lost, doubled, overtaken, and outlive an episode."""

    name, declared = "lossy", None

    def __init__(self, module, rng: np.random.Generator, *, mean: float, loss: float, twice: float) -> None:
        self.place = Here(module)
        self._rng, self._mean, self._loss, self._twice = rng, mean, loss, twice
        self._offset = 0.0
        self._mail: list[Reply] = []

    def start(self, instruction, *, seed):
        self.place.start(instruction, seed=seed)  # what is under way stays under way
        self._mail = [replace(reply, due=float(self._rng.uniform(0, 0.5))) for reply in self._mail]

    def submit(self, question, now):
        self.place.submit(question)
        (result,) = self.place.collect()
        for copy in range(1 + (self._rng.random() < self._twice)):
            if self._rng.random() >= self._loss:
                latency = float(self._rng.exponential(self._mean)) * (1 + copy)
                self._mail.append(
                    Reply(
                        ticket=result.ticket,
                        latency=latency,
                        computed=latency,
                        due=now + latency,
                        answer=result.answer,
                        error=result.error,
                    )
                )

    def poll(self, now):
        ready = sorted((reply for reply in self._mail if reply.due <= now + 1e-9), key=lambda reply: reply.due)
        self._mail = [reply for reply in self._mail if reply.due > now + 1e-9]
        return ready

    def close(self):
        return True


class Listener:
    def __init__(self):
        self.ticked = []
        self.accepted = 0

    def on_event(self, event):
        if isinstance(event, Ticked):
            self.ticked.append(event)


LIMITS = {"velocity": {"joint": 0.9, "slide": 0.8}, "acceleration": {"joint": 20.0}, "jerk": {"joint": 900.0}}


@st.composite
def cases(draw):
    horizon = draw(st.integers(1, 20))
    hz = draw(st.sampled_from([5.0, 10.0, 30.0, 50.0]))
    limited = draw(st.integers(0, 3)) == 0  # they cost ten times as much
    config = LoopConfig(
        execute_horizon=draw(st.integers(1, horizon)),
        run_on=draw(st.sampled_from([0, horizon])),
        join=Join(
            how=draw(st.sampled_from(["replace", "ensemble", "blend"])),
            ticks=draw(st.integers(1, 6)),
            decay=draw(st.floats(-1, 1)),
        ),
        max_age=draw(st.sampled_from([float("inf"), 3 / hz, 8 / hz])),
        answer_timeout=draw(st.sampled_from([float("inf"), 4 / hz, 10 / hz])),
        stretch=draw(st.sampled_from([1.0, 0.5])),
        check_every=draw(st.integers(1, 4)),
        ladder=LadderConfig(rungs=draw(st.sampled_from([("replan",), ("slow", "replan", "hold"), ()])), pace=0.5),
        budget=Budget(total=draw(st.sampled_from([float("inf"), 0.5]))),
        continue_plan=draw(st.booleans()),
        observe_every=0,
    )
    return {
        "hz": hz,
        "horizon": horizon,
        "limited": limited,
        "config": config,
        "mean": draw(st.sampled_from([0.2, 1.0, 3.0, 8.0])) / hz,
        "loss": draw(st.sampled_from([0.0, 0.1, 0.5])),
        "twice": draw(st.sampled_from([0.0, 0.3])),
        "alarms": draw(st.sampled_from([None, 0.1, 0.6])),
        "faithful": draw(st.booleans()),
        "wild": draw(st.sampled_from([0.3, 1.0, 4.0])),
        "seed": draw(st.integers(0, 2**32 - 1)),
    }


def test_the_rules_of_time_hold_in_ten_thousand_random_episodes():
    with ProcessPoolExecutor(SHARES, mp_context=get_context("spawn")) as pool:
        assert sum(pool.map(run_share, range(SHARES))) >= 10_000


def run_share(number: int) -> int:
    """A share of the examples, in a process of its own; how many episodes that were."""
    ran = 0

    @seed(number)
    @settings(max_examples=EXAMPLES // SHARES, deadline=None, database=None, phases=(Phase.explicit, Phase.generate))
    @given(cases())
    def episodes(case):
        nonlocal ran
        ran += run_case(case)

    episodes()
    return ran


def run_case(case) -> int:
    embodiment = body(case["hz"])
    rng = np.random.default_rng(case["seed"])
    config = case["config"]
    limits = Limits.of(embodiment, **LIMITS) if case["limited"] else None
    config = replace(config, limits=limits)
    policy = Tagged(embodiment, case["horizon"], rng, case["wild"])
    world = Point(embodiment, rng, faithful=case["faithful"])
    network = {"mean": case["mean"], "loss": case["loss"], "twice": case["twice"]}
    action = Lossy(PolicyModule(policy), rng, **network)
    layers = {} if case["alarms"] is None else {"check": Lossy(Alarms(rng, case["alarms"]), rng, **network)}
    for episode in range(EPISODES):
        listener = Listener()
        result = run_episode(
            world,
            policy,
            world.task,
            seed=episode,
            config=config,
            inference=action,
            layers=layers,
            subscribers=[listener],
        )
        assert result.error == ""
        assert result.warnings == ()
        check_episode(listener.ticked, policy, case, config, embodiment)
    return EPISODES


def check_episode(ticked, policy, case, config, embodiment):
    assert [event.tick for event in ticked] == list(range(TICKS)), "every tick has exactly one command"
    max_age = TICKS if np.isinf(config.max_age) else round(config.max_age * case["hz"])
    last, slowed = (-1, -1), False
    for event in ticked:
        space = embodiment.action
        assert (event.requested >= space.low).all(), "none beyond a limit"
        assert (event.requested <= space.high).all(), "none beyond a limit"
        if event.hold:
            assert event.requested[GRIPPER] == (0.5 if event.tick == 0 else ticked[event.tick - 1].sent[GRIPPER])
            continue
        assert event.wanted[TAGS].tolist() == [policy.episode, event.anchor, event.index], "of this episode and plan"
        assert event.tick - event.anchor < max_age, "none older than the staleness limit"
        assert (event.anchor, event.index) >= last, "none out of order"
        slowed = slowed or event.pace < 1
        assert slowed or (event.anchor, event.index) > last, "none twice"
        last = (event.anchor, event.index)
        if config.join.how == "replace" and not case["limited"]:
            assert slowed or event.requested[JOINT] == np.clip(event.wanted[JOINT], -BOX, BOX)
            assert event.requested[GRIPPER] == event.wanted[GRIPPER], "a grasp is switched"
    if case["limited"]:
        check_motion(ticked, embodiment)
    check_deltas(ticked, policy, config, case)


def check_motion(ticked, embodiment):
    """No jump beyond the governor's bounds: finite differences on the grid, from rest at the measured pose."""
    start = np.full(3, ticked[0].state[0] if ticked[0].state is not None else ticked[0].requested[JOINT])
    places = np.concatenate([start, [event.requested[JOINT] for event in ticked]])
    velocity = np.diff(places) / embodiment.period
    acceleration = np.diff(velocity) / embodiment.period
    jerk = np.diff(acceleration) / embodiment.period
    slack = 1e-4  # float32 commands
    assert np.abs(velocity).max() <= 0.9 * (1 + slack) + 1e-6 / embodiment.period
    assert np.abs(acceleration).max() <= 20.0 * (1 + slack) + 1e-6 / embodiment.period**2
    assert np.abs(jerk).max() <= 900.0 * (1 + slack) + 1e-6 / embodiment.period**3
    slide = np.array([event.requested[SLIDE] for event in ticked]) / embodiment.period
    assert np.abs(slide).max() <= 0.8 * (1 + slack)


def check_deltas(ticked, policy, config, case):
    """Once a plan had time to make up for what it was late by, the deltas sum to the pose that it meant."""
    if config.join.how == "ensemble" or case["limited"]:
        return
    for event in ticked:
        since = [other for other in ticked[: event.tick + 1] if other.anchor == event.anchor and not other.hold]
        settled = sum(other.pace for other in since) > config.join.ticks + 3
        if (
            event.hold
            or not settled
            or any(other.pace < 1 for other in ticked[event.anchor : event.tick + 1] if not other.hold)
        ):
            continue
        chunk = np.clip(policy.chunks[policy.episode, event.anchor][:, SLIDE], np.float32(-0.1), np.float32(0.1))
        meant = chunk[: event.index + 1].sum(axis=0, dtype=np.float64)
        moved = moved_since(ticked, event)
        tight = np.abs(chunk[: event.index + 1]).max() > 0.05  # no room within the limits to make up for anything
        assert tight or np.allclose(moved, meant, atol=1e-5), (event.tick, moved, meant)


def moved_since(ticked, event):
    """What was sent from the anchor on, up to the command of this tick: what a robot did less is made up at once."""
    before = sum((other.sent[SLIDE].astype(np.float64) for other in ticked[event.anchor : event.tick]), np.zeros(2))
    return before + event.requested[SLIDE]
