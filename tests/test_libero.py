"""LIBERO as a World: its own starts and success test, the pictures that released policies know, and no questions."""

import importlib.util
import os
import pickle
import tarfile
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actloop.contracts import Demonstrator, Disturbable, ForceSensing, Task, World
from actloop.errors import ContractError, DataError, MissingDependency, UnknownNameError
from actloop.simulation import libero_package
from actloop.simulation.libero_package import (
    ASSETS_VARIABLE,
    NEEDED_ASSETS,
    all_tasks,
    find_assets,
    initial_states,
    language_of,
    package_root,
)

needs_mujoco = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="the extra 'simulation' is absent")
PACKED = Path(__file__).parents[2] / "shared" / "data" / "libero_assets.tar.xz"
SPATIAL = "pick_up_the_black_bowl_on_the_stove_and_place_it_on_the_plate"
STOVE = "KITCHEN_SCENE3_turn_on_the_stove"

# Without the package: what is said where something is missing


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of the same layout, with one task a suite."""
    root = tmp_path / "site" / "libero" / "libero"
    (root / "bddl_files").mkdir(parents=True)
    (root / "benchmark").mkdir()
    tasks = {suite: [STOVE if suite in ("libero_10", "libero_90") else SPATIAL] for suite in libero_package.STEPS}
    (root / "benchmark" / "libero_suite_task_map.py").write_text(f"libero_task_map = {tasks!r}\n", encoding="utf-8")
    spec = ModuleSpec("libero", None, is_package=True)
    spec.submodule_search_locations = [str(root.parent)]
    monkeypatch.setattr(libero_package, "find_spec", lambda name: spec)
    monkeypatch.delenv(ASSETS_VARIABLE, raising=False)
    libero_package.suites.cache_clear()
    yield root
    libero_package.suites.cache_clear()


def test_without_the_package_the_commands_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libero_package, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install --no-deps hf-libero==0\.1\.4 robosuite==1\.4\.0"):
        package_root()


def test_another_package_of_that_name_is_told_apart(made_up: Path) -> None:
    (made_up / "bddl_files").rmdir()
    with pytest.raises(MissingDependency, match="carries no tasks"):
        package_root()


def test_tasks_have_the_suite_and_number_that_papers_use(made_up: Path) -> None:
    tasks = all_tasks(tuple(libero_package.STEPS))
    spatial = tasks["libero_spatial-0"]
    assert spatial.instruction == "pick up the black bowl on the stove and place it on the plate"
    assert (spatial.skill, spatial.group, spatial.time_limit) == (SPATIAL, "libero_spatial", 11.0)
    assert tasks["libero_10-0"].instruction == "turn on the stove"
    with pytest.raises(UnknownNameError, match="did you mean 'libero_goal'"):
        all_tasks(("libero_gaol",))
    with pytest.raises(ContractError, match="at least one"):
        all_tasks(())


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (SPATIAL, "pick up the black bowl on the stove and place it on the plate"),
        (STOVE, "turn on the stove"),
        ("LIVING_ROOM_SCENE10_pick_up_the_book", "pick up the book"),
    ],
)
def test_nobody_is_told_the_scene(own: str, said: str) -> None:
    assert language_of(own) == said


def test_assets_are_those_asked_for_then_those_of_the_variable(
    made_up: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said = tmp_path / "asked", tmp_path / "said"
    for folder in (asked, said):
        for name in NEEDED_ASSETS:
            (folder / name).mkdir(parents=True)
    with pytest.raises(MissingDependency, match=f"is no folder.*{ASSETS_VARIABLE}=FOLDER"):
        find_assets(None)
    monkeypatch.setenv(ASSETS_VARIABLE, str(said))
    assert find_assets(None) == said
    assert find_assets(asked) == asked
    (asked / "scenes").rmdir()
    with pytest.raises(MissingDependency, match="has no scenes"):
        find_assets(asked)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("false",)


def test_initial_states_are_arrays_and_nothing_is_run_to_read_them(made_up: Path) -> None:
    torch = pytest.importorskip("torch")
    task = all_tasks(("libero_spatial",))["libero_spatial-0"]
    path = made_up / "init_files" / "libero_spatial" / f"{SPATIAL}.pruned_init"
    path.parent.mkdir(parents=True)
    wanted = np.arange(6.0).reshape(2, 3)
    torch.save(wanted, path)
    assert np.array_equal(initial_states(task), wanted)
    for content in (Evil(), {"state": [1.0]}, np.zeros(3)):
        torch.save(content, path)
        with pytest.raises(DataError, match=f"{SPATIAL}.pruned_init"):
            initial_states(task)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(DataError):
        initial_states(task)
    path.unlink()
    with pytest.raises(DataError):
        initial_states(task)


@needs_mujoco
def test_its_robot_is_the_one_that_released_policies_declare() -> None:
    pytest.importorskip("torch")
    from actloop.models.fastwam.releases import libero
    from actloop.models.openvla.released import libero_setup
    from actloop.simulation.libero import _embodiment

    stock = _embodiment(256, "mujoco")
    assert stock == libero().embodiment == libero_setup().embodiment
    assert stock.identity != _embodiment(256, "mujoco-plain").identity


@needs_mujoco
@pytest.mark.parametrize("turn", [(0, 0, 0), (0.3, -0.2, 0.1), (3.0, 0.4, -0.2), (0, 0, 3.1)])
def test_rotations_are_axis_times_angle(turn: tuple[float, float, float]) -> None:
    from actloop.simulation.libero_scene import _axis_angle

    angle = np.linalg.norm(turn)
    axis = np.array(turn) / (angle or 1.0)
    quat = np.append(np.sin(angle / 2) * axis, np.cos(angle / 2))
    assert np.allclose(_axis_angle(quat), turn)


# With the package and its assets

installed = importlib.util.find_spec("libero") is not None and importlib.util.find_spec("robosuite") is not None
needs_libero = pytest.mark.skipif(not installed, reason="the package hf-libero is absent")


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = os.environ.get(ASSETS_VARIABLE)
    if said:
        return Path(said)
    if not PACKED.exists():
        pytest.skip(f"no {ASSETS_VARIABLE}, and no {PACKED.name} beside the repository")
    folder = tmp_path_factory.mktemp("libero")
    with tarfile.open(PACKED) as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def blind(assets: Path) -> Iterator[World]:
    from actloop.simulation.libero import LiberoWorld

    world = LiberoWorld(assets=assets, image_size=0)
    yield world
    world.close()


@pytest.fixture(scope="session")
def theirs(assets: Path) -> Iterator[Any]:
    """LIBERO's environment as its users make it, hard resets and all, without cameras."""
    from actloop.simulation.libero_scene import _numpy_seeded

    with _numpy_seeded(0):
        control = libero_package.control_env(all_tasks(("libero_spatial",))["libero_spatial-0"], assets)
        control.env.hard_reset = True
        yield control
    control.close()


def start_theirs(control: Any, task: Task, index: int) -> None:
    control.seed(0)
    control.reset()
    control.set_init_state(initial_states(task)[index])
    for _ in range(10):
        control.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))


@needs_libero
def test_all_130_tasks_are_offered(blind: Any) -> None:
    assert isinstance(blind, World)
    assert isinstance(blind, Demonstrator)
    assert isinstance(blind, Disturbable)
    sizes = [sum(task.group == suite for task in blind.tasks.values()) for suite in libero_package.STEPS]
    assert sizes == [10, 10, 10, 10, 90]
    with pytest.raises(UnknownNameError, match="did you mean 'libero_goal-3'"):
        blind.reset(Task(name="libero_gaol-3", instruction="x", time_limit=1.0), seed=0)


@needs_libero
@pytest.mark.slow
def test_it_feels_what_it_presses(blind: Any) -> None:
    assert isinstance(blind, ForceSensing)
    blind.reset(blind.tasks["libero_spatial-0"], seed=0)
    assert blind.contact_force() == 0.0
    told = []
    for _ in range(25):
        blind.apply(np.array([0, 0, -1, 0, 0, 0, -1], dtype=np.float32))
        told.append(blind.contact_force())
    assert told[:5] == [0.0] * 5
    assert min(told[-3:]) > 50.0


@needs_libero
@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_starts_states_and_success_are_theirs_on_the_experts_way(blind: Any, theirs: Any, seed: int) -> None:
    """Played to the end, and again in LIBERO's own environment: it calls it done on the same tick, and on no other."""
    task = blind.tasks["libero_spatial-0"]
    start_theirs(theirs, task, seed)
    now = blind.reset(task, seed=seed)
    while blind.outcome() is None:
        sent = blind.apply(blind.demonstrate())
        seen, reward, done, _ = theirs.step(sent.astype(np.float64))
        now = blind.observe()
        assert np.array_equal(now.state[:3], seen["robot0_eef_pos"].astype(np.float32))
        assert np.array_equal(now.state[6:], seen["robot0_gripper_qpos"].astype(np.float32))
        assert (blind.outcome() is not None) == bool(done) == (reward == 1.0) == theirs.check_success()
    assert blind.outcome().success


@needs_libero
@pytest.mark.slow
def test_nor_does_it_fire_on_random_ways_where_theirs_does_not(blind: Any, theirs: Any) -> None:
    task = blind.tasks["libero_spatial-0"]
    start_theirs(theirs, task, 4)
    blind.reset(task, seed=4)
    rng = np.random.default_rng(0)
    action = np.zeros(7, dtype=np.float32)
    for tick in range(40):
        if tick % 5 == 0:
            action = rng.uniform(-1, 1, 7).astype(np.float32)
        blind.apply(action)
        _, _, done, _ = theirs.step(action.astype(np.float64))
        assert (blind.outcome() is not None) == bool(done)
    assert np.array_equal(blind._scene.data.qpos, theirs.sim.data._data.qpos)


@needs_libero
@pytest.mark.slow
def test_seeds_count_initial_states_and_then_draw_the_fixtures_anew(blind: Any) -> None:
    task = blind.tasks["libero_spatial-0"]
    first = blind.reset(task, seed=2)
    model = blind._scene.model
    where = model.body_pos.copy()
    blind.apply(np.full(7, 0.5, dtype=np.float32))
    assert not np.array_equal(blind.reset(task, seed=3).state, first.state)
    assert np.array_equal(model.body_pos, where)
    blind.reset(task, seed=52)
    assert not np.array_equal(model.body_pos, where)
    again = blind.reset(task, seed=2)
    assert np.array_equal(again.state, first.state)
    assert np.array_equal(model.body_pos, where)
    global_before = np.random.get_state()[1].copy()
    blind.reset(task, seed=2)
    assert np.array_equal(np.random.get_state()[1], global_before)
    with pytest.raises(ContractError, match="0 or more"):
        blind.reset(task, seed=-1)


@needs_libero
@pytest.mark.slow
def test_a_displaced_bowl_is_still_brought(blind: Any) -> None:
    task = blind.tasks["libero_spatial-0"]
    blind.reset(task, seed=0)
    before = blind._scene.place("akita_black_bowl_1")
    blind.disturb("displace", seed=1)
    assert 0.02 < np.linalg.norm(blind._scene.place("akita_black_bowl_1") - before) < 0.07
    while blind.outcome() is None:
        blind.apply(blind.demonstrate())
    assert blind.outcome().success
    with pytest.raises(UnknownNameError, match="'displace'"):
        blind.disturb("displaced", seed=1)


@needs_libero
@pytest.mark.slow
def test_pictures_are_robosuites_to_the_pixel(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from actloop.simulation.libero import LiberoWorld
    from actloop.simulation.libero_scene import VIEWS, _numpy_seeded
    from actloop.simulation.rendering import gl_backend

    world = LiberoWorld(assets=assets, settle=1)
    task = world.tasks["libero_spatial-0"]
    images = world.reset(task, seed=0).images
    monkeypatch.setenv("MUJOCO_GL", gl_backend())
    wrapper: Any = importlib.import_module("libero.libero.envs.env_wrapper")
    bddl = package_root() / "bddl_files" / task.group / f"{task.skill}.bddl"
    with _numpy_seeded(0):
        stock = wrapper.OffScreenRenderEnv(bddl_file_name=str(bddl), camera_heights=256, camera_widths=256)
        stock.seed(0)
        stock.reset()
    stock.set_init_state(initial_states(task)[0])
    seen, *_ = stock.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))
    for name, view in VIEWS.items():
        assert np.array_equal(images[name], seen[f"{view}_image"]), name
    stock.close()
    world.close()


@needs_libero
@pytest.mark.slow
def test_it_conforms(assets: Path) -> None:
    from actloop.simulation.libero import LiberoWorld
    from actloop.testing.conformance import check_world

    check_world(
        lambda: LiberoWorld(assets=assets, image_size=16, settle=2),
        "libero_spatial-0",
        demonstrations=1,
        must_succeed=1,
    )
