"""What every World and every Policy has to do, as checks that a plugin runs in its own tests.

    check_world(lambda: make_world("mine"), "pick")      check_policy(policy, observation)

Each raises `ContractError` naming the first promise that is broken, and returns None when all are kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from actloop.contracts import (
    ActionChunk,
    Committed,
    Demonstrator,
    Disturbable,
    Embodiment,
    ForceSensing,
    Future,
    Observation,
    Outcome,
    Policy,
    Prediction,
    SamplingPolicy,
    Session,
    Task,
    World,
    WorldActionModel,
)
from actloop.errors import ContractError, UnknownNameError

TICKS = 8  # long enough for a fault to show, short enough for a slow renderer
STILL = 0.02  # of the range of a state component: how far it may drift while held


def check_world(
    make: Callable[[], World],
    task_name: str,
    *,
    seed: int = 0,
    demonstrations: int = 3,
    must_succeed: int | None = None,
) -> None:
    """Run the whole suite on one task of a world.

    Args:
        make: builds a fresh world; called three times, each world is closed.
        task_name: a task whose initial state depends on the seed.
        seed: of the first episode; the following ones use the seeds after it.
        demonstrations: episodes that the expert plays where the world is a `Demonstrator`.
        must_succeed: of these; all of them where not given.

    Raises:
        ContractError: the first promise that is broken.
    """
    world, again, spare = make(), make(), make()
    try:
        task = world.tasks[task_name]
        _check_declared(world)
        _check_reset(world, again, task, seed)
        _check_refusals(world, task, seed)
        _check_ticks(world, task, seed)
        _check_limits(world, task, seed)
        _check_hold(world, task, seed)
        _check_end(world, task, seed)
        if isinstance(world, Demonstrator):
            needed = demonstrations if must_succeed is None else must_succeed
            _check_expert(world, task, range(seed, seed + demonstrations), needed)
        if isinstance(world, Disturbable):
            _check_disturbances(world, task, seed)
        if isinstance(spare, ForceSensing):
            _check_force(spare, task, seed)
        _check_close(spare, task, seed)
    finally:
        world.close()
        again.close()
        spare.close()


def check_policy(
    policy: Policy[Session], obs: Observation, *, instruction: str = "reach the goal", stochastic: bool = True
) -> None:
    """Run the whole suite on a policy and an observation that fits its embodiment.

    Args:
        policy: any policy; one that is a `WorldActionModel` or a `SamplingPolicy` is asked for that as well.
        obs: an observation of its body, best one taken from its world at a tick above 0.
        instruction: what it is told.
        stochastic: whether another seed has to give another answer; False for a policy without any randomness.

    Raises:
        ContractError: the first promise that is broken.
    """
    policy.embodiment.check(obs)
    before = _copy(obs)
    session = policy.start(instruction, seed=0)
    _, first = policy.predict(session, obs)
    _check_chunk(policy.embodiment, policy.horizon, obs, first.chunk, "predict")
    _require(_same_observation(obs, before), "policy.predict", "changed the observation it was given")
    _, repeated = policy.predict(session, obs)
    _require(_same(first, repeated), "policy.predict", "the same session and observation gave two answers")
    _, restarted = policy.predict(policy.start(instruction, seed=0), obs)
    _require(_same(first, restarted), "policy.start", "the same instruction and seed gave two answers")
    if stochastic:
        _, other = policy.predict(policy.start(instruction, seed=1), obs)
        _require(not _same(first, other), "policy.start", "another seed gave the same answer")
    later = replace(obs, tick=obs.tick + 2, time=obs.time + 2 * policy.embodiment.period)
    left = first.chunk.actions[2:]
    committed = Committed(actions=left, fixed=min(1, len(left), policy.horizon - 1))
    _, following = policy.predict(session, later, committed=committed)
    _check_chunk(policy.embodiment, policy.horizon, later, following.chunk, "predict(committed=...)")
    if isinstance(policy, SamplingPolicy):
        _check_samples(policy, session, obs, committed, stochastic=stochastic)
    if isinstance(policy, WorldActionModel):
        _check_imagination(policy, instruction, obs)
    _check_bad_observations(policy, instruction, obs)


def _check_samples(
    policy: SamplingPolicy[Session], session: Session, obs: Observation, committed: Committed, *, stochastic: bool
) -> None:
    for given, where in ((None, "policy.sample"), (committed, "policy.sample(committed=...)")):
        after, chunks = policy.sample(session, obs, count=3, committed=given)
        _require(len(chunks) == 3, where, f"gave {len(chunks)} chunks for count=3")
        for chunk in chunks:
            _check_chunk(policy.embodiment, policy.horizon, obs, chunk, where.removeprefix("policy."))
        _, again = policy.sample(session, obs, count=3, committed=given)
        same = [np.array_equal(chunk.actions, other.actions) for chunk, other in zip(chunks, again, strict=True)]
        _require(all(same), where, "the same session and observation gave other chunks")
        alike = np.array_equal(chunks[0].actions, chunks[1].actions)
        _require(not (stochastic and alike), where, "two samples are the same chunk")
        policy.predict(after, replace(obs, tick=obs.tick + 1, time=obs.time + policy.embodiment.period))


def _require(kept: bool, path: str, broken: str) -> None:
    if not kept:
        raise ContractError(path, broken)


def _check_declared(world: World) -> None:
    _require(isinstance(world, World), "world", f"{type(world).__name__} lacks a method of actloop.contracts.World")
    _require(len(world.tasks) > 0, "world.tasks", "is empty")
    for name, task in world.tasks.items():
        _require(task.name == name, f"world.tasks[{name!r}]", f"is called {task.name!r}")
        _require(bool(task.instruction.strip()), f"world.tasks[{name!r}].instruction", "is empty")
        _require(task.time_limit >= world.embodiment.period, f"world.tasks[{name!r}].time_limit", "is under a tick")


def _check_reset(world: World, again: World, task: Task, seed: int) -> None:
    first = world.reset(task, seed=seed)
    world.embodiment.check(first)
    _require(first.tick == 0 and first.time == 0.0, "world.reset", f"starts at tick {first.tick}, {first.time} s")
    _require(world.outcome() is None, "world.reset", "the episode is over before it began")
    other = world.reset(task, seed=seed + 1)
    _require(not _same_observation(first, other), "world.reset", "another seed gave the same start")
    _run(world, 2)
    repeated, elsewhere = world.reset(task, seed=seed), again.reset(task, seed=seed)
    _require(_same_observation(first, repeated), "world.reset", "the same seed gave another start after an episode")
    _require(_same_observation(first, elsewhere), "world.reset", "the same seed gave another start in a second world")
    for tick in range(TICKS):
        action = _wiggle(world.embodiment, tick)
        sent, sent_again = world.apply(action), again.apply(action)
        _require(np.array_equal(sent, sent_again), "world.apply", f"two equal worlds sent different actions at {tick}")
    _require(_same_observation(world.observe(), again.observe()), "world.apply", "two equal worlds moved apart")


def _check_refusals(world: World, task: Task, seed: int) -> None:
    start = world.reset(task, seed=seed)
    size = world.embodiment.action.size
    bad = {
        "NaN": np.full(size, np.nan, dtype=np.float32),
        "infinity": np.full(size, np.inf, dtype=np.float32),
        "one component too many": np.zeros(size + 1, dtype=np.float32),
        "a chunk in place of an action": np.zeros((2, size), dtype=np.float32),
        "whole numbers": np.zeros(size, dtype=np.int64),
    }
    for what, action in bad.items():
        _refuses(lambda action=action: world.apply(action), "world.apply", what)  # type: ignore[misc]
    _require(_same_observation(start, world.observe()), "world.apply", "moved on an action that it refused")
    unknown = Task(name="no such task", instruction="do nothing", time_limit=1.0)
    try:
        world.reset(unknown, seed=seed)
    except UnknownNameError:
        return
    raise ContractError("world.reset", "took an unknown task without UnknownNameError")


def _check_ticks(world: World, task: Task, seed: int) -> None:
    world.reset(task, seed=seed)
    for tick in range(1, TICKS + 1):
        world.apply(_wiggle(world.embodiment, tick))
        obs, again = world.observe(), world.observe()
        world.embodiment.check(obs)
        _require(obs.tick == tick, "world.apply", f"expected tick {tick}, got {obs.tick}")
        expected = tick * world.embodiment.period
        _require(bool(np.isclose(obs.time, expected)), "world.apply", f"expected time {expected}, got {obs.time}")
        _require(_same_observation(obs, again), "world.observe", "changed the world")


def _check_limits(world: World, task: Task, seed: int) -> None:
    space = world.embodiment.action
    world.reset(task, seed=seed)
    middle = ((space.low + space.high) / 2).astype(np.float32)
    for action in (space.high * 3 + 1, space.low * 3 - 1, middle):
        asked = action.astype(np.float32)
        sent = world.apply(asked.copy())
        _require(sent.shape == (space.size,), "world.apply", f"returned shape {sent.shape}, expected ({space.size},)")
        space.check(sent, "world.apply, returned")
        inside = (sent >= space.low - 1e-6).all() and (sent <= space.high + 1e-6).all()
        _require(bool(inside), "world.apply", f"sent {sent} for {asked}, beyond the declared limits")


def _check_hold(world: World, task: Task, seed: int) -> None:
    obs = world.reset(task, seed=seed)
    held = world.embodiment.hold(obs, None)
    for _ in range(TICKS):  # the body may settle first
        world.apply(held)
    settled = world.observe().state
    for _ in range(TICKS):
        world.apply(held)
    space = world.embodiment.state
    drift = np.abs(world.observe().state - settled) / (space.high - space.low)
    worst = int(drift.argmax())
    name = space.component_names[worst]
    _require(float(drift[worst]) <= STILL, "embodiment.hold", f"{name} drifts by {drift[worst]:.1%} of its range")


def _check_end(world: World, task: Task, seed: int) -> None:
    obs = world.reset(task, seed=seed)
    held = world.embodiment.hold(obs, None)
    ticks = int(np.ceil(task.time_limit / world.embodiment.period - 1e-6)) + 1
    for _ in range(ticks):
        if world.outcome() is not None:
            break
        world.apply(held)
    ended = world.outcome()
    _require(ended is not None, "world.outcome", f"still None after the time limit of {task.time_limit} s")
    _check_stays(world, ended)
    world.reset(task, seed=seed)
    _require(world.outcome() is None, "world.reset", "kept the outcome of the episode before")


def _check_stays(world: World, ended: Outcome | None) -> None:
    now = world.observe()
    _require(ended is not None and ended.time <= now.time + 1e-6, "world.outcome", "lies in the future")
    held = world.embodiment.hold(now, None)
    for _ in range(2):
        world.apply(held)
        _require(world.outcome() == ended, "world.outcome", f"changed from {ended} to {world.outcome()}")


def _check_expert(world: World, task: Task, seeds: range, needed: int) -> None:
    assert isinstance(world, Demonstrator)
    succeeded = 0
    for seed in seeds:
        world.reset(task, seed=seed)
        while world.outcome() is None:
            action = world.demonstrate()
            world.embodiment.action.check(action, "world.demonstrate")
            _require(
                np.array_equal(action, world.demonstrate()), "world.demonstrate", "changed its mind when asked twice"
            )
            world.apply(action)
        ended = world.outcome()
        succeeded += ended is not None and ended.success
        _check_stays(world, ended)
    _require(succeeded >= needed, "world.demonstrate", f"succeeded in {succeeded} of {len(seeds)}, needed {needed}")


def _check_disturbances(world: World, task: Task, seed: int) -> None:
    assert isinstance(world, Disturbable)
    for name in world.disturbances:
        after = []
        for _ in range(2):
            world.reset(task, seed=seed)
            _run(world, 2)
            try:
                world.disturb(name, seed=seed)
            except ContractError:  # allowed: it does not apply to this task, or not now
                break
            world.apply(_wiggle(world.embodiment, 2))
            after.append(world.observe())
        same = len(after) < 2 or _same_observation(*after)
        _require(same, "world.disturb", f"{name!r} under the same seed did two different things")
    world.reset(task, seed=seed)
    try:
        world.disturb("no such disturbance", seed=seed)
    except UnknownNameError:
        return
    raise ContractError("world.disturb", "took an unknown name without UnknownNameError")


def _check_force(world: World, task: Task, seed: int) -> None:
    """`world` is fresh: without an episode it has to refuse."""
    assert isinstance(world, ForceSensing)
    path = "world.contact_force"
    _refuses(world.contact_force, path, "being asked before the first reset")
    told = []
    for _ in range(2):
        world.reset(task, seed=seed)
        start = world.contact_force()
        _require(start == 0.0, path, f"is {start} N after reset, before any command")
        for tick in range(TICKS):
            world.apply(_wiggle(world.embodiment, tick))
            force = world.contact_force()
            _require(bool(np.isfinite(force)) and force >= 0, path, f"is {force}, expected newtons of 0 or more")
            _require(force == world.contact_force(), path, "changed when asked twice")
            told.append(force)
    _require(told[:TICKS] == told[TICKS:], path, "told other forces in the same episode")


def _check_close(world: World, task: Task, seed: int) -> None:
    """Closing twice is fine; a closed world may start again or refuse, but only with `ContractError`."""
    world.close()
    world.close()
    try:
        fresh = world.reset(task, seed=seed)
    except ContractError:
        return
    _require(fresh.tick == 0, "world.close", "an episode went on after it")


def _check_chunk(body: Embodiment, horizon: int, obs: Observation, chunk: ActionChunk, where: str) -> None:
    path = f"policy.{where}"
    expected = (horizon, body.action.size)
    _require(chunk.actions.shape == expected, path, f"expected actions {expected}, got {chunk.actions.shape}")
    body.action.check(chunk.actions, path)
    _require(chunk.anchor == obs.tick, path, f"is anchored to tick {chunk.anchor}, the observation is of {obs.tick}")
    _require(chunk.observed_at == obs.time, path, f"says observed at {chunk.observed_at} s, it was {obs.time} s")
    _require(
        bool(np.isclose(chunk.period, body.period)), path, f"has period {chunk.period} s, the body {body.period} s"
    )


def _check_imagination(policy: WorldActionModel[Session], instruction: str, obs: Observation) -> None:
    session = policy.start(instruction, seed=0)
    _, prediction = policy.predict(session, obs, imagine=True)
    _check_chunk(policy.embodiment, policy.horizon, obs, prediction.chunk, "predict(imagine=True)")
    if prediction.future is None:
        raise ContractError("policy.predict(imagine=True)", "returned no future")
    _check_future(policy.embodiment, prediction.future, prediction.chunk, "predict(imagine=True)")
    asked = policy.imagine(session, obs, prediction.chunk)
    _check_future(policy.embodiment, asked, prediction.chunk, "imagine")
    again = policy.imagine(session, obs, prediction.chunk)
    same = all(np.array_equal(asked.frames[name], again.frames[name]) for name in asked.frames)
    _require(same, "policy.imagine", "the same session, observation and chunk gave two futures")


def _check_future(body: Embodiment, future: Future, chunk: ActionChunk, where: str) -> None:
    path = f"policy.{where}"
    names = sorted(camera.name for camera in body.cameras)
    _require(sorted(future.frames) == names, path, f"imagined {sorted(future.frames)}, the cameras are {names}")
    for camera in body.cameras:
        frames = future.frames[camera.name]
        fits = frames.ndim == 4 and frames.shape[1:] == (camera.height, camera.width, 3) and frames.dtype == np.uint8
        _require(fits and len(frames) > 0, path, f"{camera.name} is {frames.dtype} {frames.shape}")
    _require(future.period > 0, path, f"the period between frames is {future.period} s")
    _require(np.array_equal(future.chunk.actions, chunk.actions), path, "the future is of another chunk")


def _check_bad_observations(policy: Policy[Session], instruction: str, obs: Observation) -> None:
    bad = {
        "NaN in the state": replace(obs, state=np.full_like(obs.state, np.nan)),
        "one state component too many": replace(obs, state=np.append(obs.state, obs.state[:1])),
    }
    if policy.embodiment.cameras:
        name = policy.embodiment.cameras[0].name
        others = {key: image for key, image in obs.images.items() if key != name}
        bad[f"no image of camera {name}"] = replace(obs, images=others)
        bad["an image of another size"] = replace(obs, images={**others, name: obs.images[name][:-1]})
        bad["an image of floats"] = replace(obs, images={**others, name: obs.images[name].astype(np.float32)})
    for what, observation in bad.items():
        session = policy.start(instruction, seed=0)
        _refuses(lambda s=session, o=observation: policy.predict(s, o), "policy.predict", what)  # type: ignore[misc]


def _refuses(call: Callable[[], object], path: str, what: str) -> None:
    try:
        call()
    except ContractError:
        return
    raise ContractError(path, f"took {what} without ContractError")


def _run(world: World, ticks: int) -> None:
    for tick in range(ticks):
        world.apply(_wiggle(world.embodiment, tick))


def _wiggle(body: Embodiment, tick: int) -> np.ndarray:
    """A different action every tick, well inside the limits."""
    share = 0.5 + 0.2 * np.sin(0.7 * tick + np.arange(body.action.size))
    action: np.ndarray = (body.action.low + share * (body.action.high - body.action.low)).astype(np.float32)
    return action


def _same(one: Prediction, other: Prediction) -> bool:
    return np.array_equal(one.chunk.actions, other.chunk.actions)


def _same_observation(one: Observation, other: Observation) -> bool:
    return (
        (one.tick, one.time) == (other.tick, other.time)
        and np.array_equal(one.state, other.state)
        and _same_images(one.images, other.images)
    )


def _same_images(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _copy(obs: Observation) -> Observation:
    images = {name: image.copy() for name, image in obs.images.items()}
    return replace(obs, images=images, state=obs.state.copy())
