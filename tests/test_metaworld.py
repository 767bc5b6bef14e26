"""Meta-World as a World: its own seeds, success test and experts, at our control rate and in our pictures."""

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

from actloop.contracts import Demonstrator, Disturbable, World
from actloop.errors import ContractError, MissingDependency, UnknownNameError
from actloop.simulation.metaworld_tasks import EASY, INSTRUCTIONS, all_tasks
from actloop.simulation.registry import make_world, tasks_of
from actloop.testing.conformance import check_world

if importlib.util.find_spec("metaworld") is None or importlib.util.find_spec("mujoco") is None:
    pytest.skip("the extra 'metaworld' is absent", allow_module_level=True)

import mujoco
from metaworld.env_dict import ALL_V3_ENVIRONMENTS

from actloop.simulation import rendering
from actloop.simulation.metaworld import RAW_LIMIT, RAW_STEP, MetaWorld
from actloop.simulation.rays import RayCamera


@pytest.fixture(scope="module")
def blind() -> Iterator[MetaWorld]:
    """A world without cameras: physics only."""
    world = MetaWorld(cameras=())
    yield world
    world.close()


def test_the_tasks_are_the_fifty(blind: MetaWorld) -> None:
    assert isinstance(blind, World)
    assert isinstance(blind, Demonstrator)
    assert isinstance(blind, Disturbable)
    assert sorted(blind.tasks) == sorted(name.removesuffix("-v3") for name in ALL_V3_ENVIRONMENTS)
    instructions = [task.instruction for task in blind.tasks.values()]
    assert len(set(instructions)) == 50  # an instruction alone tells the task
    assert set(EASY) <= set(INSTRUCTIONS)
    assert {task.name for task in tasks_of(blind, ["easy"])} == set(EASY)
    assert [task.name for task in tasks_of(blind, ["drawer"])] == ["drawer-close", "drawer-open"]


def test_the_body_declares_what_a_tick_is() -> None:
    body = MetaWorld(action_repeat=4, cameras=()).embodiment
    assert body.control_hz == 20.0
    assert body.action.parts[0].unit == "0.04 m"
    assert MetaWorld(cameras=()).embodiment.identity != body.identity


@pytest.mark.parametrize("name", ["drawer-open", "push"])
def test_it_conforms(name: str) -> None:
    check_world(lambda: make_world("metaworld", image_size=16), name, demonstrations=1)


@pytest.mark.parametrize("name", ["button-press-topdown", "pick-place", "reach"])
@pytest.mark.parametrize("seed", [0, 7])
def test_success_fires_exactly_when_theirs_does(blind: MetaWorld, name: str, seed: int) -> None:
    theirs = ALL_V3_ENVIRONMENTS[f"{name}-v3"]()
    theirs._freeze_rand_vec, theirs._set_task_called, theirs.seeded_rand_vec = False, True, True
    theirs._partially_observable = False
    theirs.__dict__.pop("sawyer_observation_space", None)
    theirs.seed(seed)
    seen, _ = theirs.reset()
    assert np.array_equal(blind.reset(blind.tasks[name], seed=seed).state, seen[:4].astype(np.float32))
    raw_steps, solved_at = 0, None
    while blind.outcome() is None:
        sent = blind.apply(blind.demonstrate())
        for _ in range(8):
            seen, _, _, _, info = theirs.step(sent)
            raw_steps += 1
            if info["success"] and solved_at is None:
                solved_at = raw_steps
        assert np.array_equal(blind.observe().state, seen[:4].astype(np.float32))
    assert solved_at is not None
    assert blind.outcome().success
    assert blind.outcome().time == solved_at * RAW_STEP


def test_asking_the_expert_moves_nothing(blind: MetaWorld) -> None:
    task = blind.tasks["push"]
    states = []
    for asks in (0, 3):
        blind.reset(task, seed=5)
        for tick in range(6):
            for _ in range(asks):
                blind.demonstrate()
            blind.apply(np.array([0.1 * tick, 0.3, -0.5, 1.0], dtype=np.float32))
        states.append(blind.observe().state)
    assert np.array_equal(*states)


@pytest.mark.parametrize("name", ["drawer-open", "drawer-close", "button-press-topdown", "window-open", "handle-press"])
def test_the_experts_succeed_at_the_control_rate(blind: MetaWorld, name: str) -> None:
    for seed in range(3):
        blind.reset(blind.tasks[name], seed=seed)
        while blind.outcome() is None:
            blind.apply(blind.demonstrate())
        assert blind.outcome().success


def test_the_time_limit_is_theirs_in_whole_ticks(blind: MetaWorld) -> None:
    task = blind.tasks["drawer-open"]
    assert task.time_limit == pytest.approx(RAW_LIMIT // 8 * 8 * RAW_STEP)
    held = blind.embodiment.hold(blind.reset(task, seed=0), None)
    ticks = 0
    while blind.outcome() is None:
        blind.apply(held)
        ticks += 1
    assert ticks == RAW_LIMIT // 8
    assert blind.outcome().reason == "time limit"
    blind.apply(held)  # the loop may be a tick behind: the world goes on
    assert not blind.outcome().success


def test_a_loose_object_is_displaced_and_a_drawer_is_not(blind: MetaWorld) -> None:
    blind.reset(blind.tasks["push"], seed=0)
    scene, _ = blind._scene()
    start = scene.free_object()
    before = scene.data.qpos.copy()
    blind.disturb("displace", seed=1)
    moved = scene.data.qpos - before
    assert 0.03 <= np.linalg.norm(moved[start : start + 2]) <= 0.06
    assert np.count_nonzero(moved) == 2
    blind.reset(blind.tasks["drawer-open"], seed=0)
    with pytest.raises(ContractError, match="no loose object"):
        blind.disturb("displace", seed=1)


def test_many_tasks_in_turn_keep_few_scenes(blind: MetaWorld) -> None:
    first = blind.reset(blind.tasks["reach"], seed=2).state
    for name in ("push", "pick-place", "door-open", "door-close", "faucet-open", "plate-slide", "sweep", "dial-turn"):
        blind.reset(blind.tasks[name], seed=0)
    assert len(blind._scenes) <= 8
    assert np.array_equal(blind.reset(blind.tasks["reach"], seed=2).state, first)


def test_bad_options_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="'corner2'"):
        MetaWorld(cameras=("corner22",))
    with pytest.raises(UnknownNameError, match="known: gl, ray"):
        MetaWorld(renderer="vulkan")
    with pytest.raises(ContractError, match="action_repeat"):
        MetaWorld(action_repeat=0)
    with pytest.raises(UnknownNameError, match="did you mean 'drawer-open'"):
        tasks_of(MetaWorld(cameras=()), ["draweropen"])
    with pytest.raises(ContractError, match="call reset"):
        MetaWorld(cameras=()).observe()


# Pictures


def test_every_camera_shows_the_scene_and_the_hand_moves_in_it() -> None:
    world = MetaWorld(image_size=32, cameras=("corner2_near", "corner2", "gripperPOV", "topview"))
    first = world.reset(world.tasks["drawer-open"], seed=0)
    assert not np.array_equal(first.images["corner2"], first.images["corner2_near"])
    for _ in range(4):
        world.apply(np.array([-1.0, 0.5, 0.0, 1.0], dtype=np.float32))
    later = world.observe()
    for name, image in later.images.items():
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
        assert not np.array_equal(image, first.images[name]), name
    world.close()


def test_the_goal_marker_is_drawn() -> None:
    world = MetaWorld(cameras=("corner2_near",))
    image = world.reset(world.tasks["push"], seed=0).images["corner2_near"]
    assert (image == (0, 204, 0)).all(axis=-1).any()  # the only sign of where to push
    world.close()


_SCENE = """
<mujoco><worldbody>
  <camera name="front" pos="0 0 2" fovy="45"/>
  <geom type="box" size="0.2 0.2 0.1" pos="0.3 0.3 0" rgba="1 0 0 1"/>
  <geom type="box" size="0.2 0.2 0.1" pos="-0.3 -0.3 0" rgba="0 0 1 1" group="4"/>
  <site type="sphere" size="0.1" pos="0.3 -0.3 0" rgba="0 1 0 1"/>
</worldbody></mujoco>
"""


def test_rays_put_things_where_they_are() -> None:
    model = mujoco.MjModel.from_xml_string(_SCENE)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    image = RayCamera(model, "front", height=40, width=60).render(data)
    red, green, hidden = image[12, 37], image[27, 37], image[27, 22]
    assert red[0] > 240  # almost squarely faced
    assert red[1:].max() == 0
    assert tuple(green) == (0, 255, 0)
    assert tuple(hidden) == tuple(image[0, 0])  # the sky
    with pytest.raises(UnknownNameError, match="'front'"):
        RayCamera(model, "frnt", height=8, width=8)
    with pytest.raises(ContractError, match="at least 2 pixels"):
        RayCamera(model, "front", height=1, width=8)


def _has_gl() -> bool:
    try:
        rendering.gl_backend()
    except MissingDependency:
        return False
    return True


def test_a_machine_without_opengl_gets_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(MissingDependency, match="apt-get install -y --no-install-recommends libosmesa6"):
        MetaWorld(renderer="gl")
    MetaWorld(renderer="ray")  # needs none


def test_the_backend_asked_for_is_the_one_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering.ctypes.util, "find_library", lambda name: name)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert rendering.gl_backend() == "osmesa"
    monkeypatch.delenv("MUJOCO_GL")
    assert rendering.gl_backend() == "egl"


@pytest.mark.skipif(not _has_gl(), reason="no EGL or OSMesa on this machine")
def test_rays_and_opengl_see_the_same_scene() -> None:
    by_ray, by_gl = MetaWorld(), MetaWorld(renderer="gl")
    assert by_ray.embodiment.identity != by_gl.embodiment.identity
    for name in ("drawer-open", "push"):
        ray = by_ray.reset(by_ray.tasks[name], seed=1).images
        gl = by_gl.reset(by_gl.tasks[name], seed=1).images
        for camera in ray:  # colours and lamps differ, edges and places do not
            likeness = np.corrcoef(ray[camera].mean(-1).ravel(), gl[camera].mean(-1).ravel())[0, 1]
            flipped = np.corrcoef(ray[camera][::-1].mean(-1).ravel(), gl[camera].mean(-1).ravel())[0, 1]
            assert likeness > 0.5, (name, camera, likeness)
            assert likeness > flipped
    by_ray.close()
    by_gl.close()


def test_scenes_of_many_kinds_start(blind: MetaWorld) -> None:
    for task in list(all_tasks(6.0).values())[::7]:  # the benchmark plays all fifty
        start = blind.reset(task, seed=1)
        blind.embodiment.check(start)
        blind.apply(blind.demonstrate())
        assert blind.outcome() is None
