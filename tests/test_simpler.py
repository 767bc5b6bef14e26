"""SIMPLER's Bridge tasks as a World: ManiSkill's starts and success test, the body of BridgeData, and no questions."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from simpler_assets import write_stand_ins

from actloop.contracts import Demonstrator, Disturbable, World
from actloop.errors import ContractError, MissingDependency, UnknownNameError
from actloop.simulation import simpler_package, simpler_scene
from actloop.simulation.registry import make_world
from actloop.simulation.simpler import TASKS, SimplerWorld, _embodiment
from actloop.simulation.simpler_package import ASSETS_VARIABLE, NEEDED, find_assets
from actloop.simulation.simpler_scene import BridgeScene, _xyz_about_own

pytest.importorskip("gymnasium", reason="the extra 'metaworld' is absent")
torch = pytest.importorskip("torch")
STACK = "widowx_stack_cube"

# Without the package: what is said where something is missing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(ASSETS_VARIABLE, raising=False)
    for path in NEEDED:
        (tmp_path / "data" / path).mkdir(parents=True)
    return tmp_path


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simpler_package, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r'mani-skill.*pip install "actloop\[simpler\]"'):
        make_world("simpler")


def test_assets_are_those_asked_for_then_those_of_the_variable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingDependency, match=r"nowhere is no folder.*download_asset bridge_v2_real2sim"):
        find_assets(tmp_path / "nowhere")
    monkeypatch.setenv(ASSETS_VARIABLE, str(folder))
    assert find_assets(None) == folder
    (folder / "data" / NEEDED[-1]).rmdir()
    with pytest.raises(MissingDependency, match=r"has no data/robots/widowx/wx250s\.urdf\)"):
        find_assets(folder)


def test_a_machine_that_cannot_draw_is_told_what_draws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError('Failed to find a supported physical device "cpu"')

    with_gymnasium(monkeypatch, folder, refuse)
    with pytest.raises(MissingDependency, match=r"Mesa 24\.3 or later.*bookworm-backports mesa-vulkan-drivers"):
        simpler_package.open_task("PutCarrotOnPlateInScene-v1", folder, "cpu")


def test_another_failure_of_the_package_is_not_called_a_missing_device(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    with_gymnasium(monkeypatch, folder, fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        simpler_package.open_task("PutCarrotOnPlateInScene-v1", folder, "cpu")


def test_a_second_folder_in_one_process_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_gymnasium(monkeypatch, folder, lambda *_, **__: None)
    with pytest.raises(ContractError, match="start another process"):
        simpler_package.open_task("PutCarrotOnPlateInScene-v1", tmp_path / "other", "cpu")


def with_gymnasium(monkeypatch: pytest.MonkeyPatch, folder: Path, make: Any) -> None:
    """ManiSkill as far as its import goes, and `gymnasium.make`."""
    logger = SimpleNamespace(setLevel=lambda level: None)
    twins = SimpleNamespace(BaseDigitalTwinEnv=SimpleNamespace())
    modules = {
        "mani_skill": SimpleNamespace(ASSET_DIR=folder / "data", logger=logger),
        "mani_skill.envs.tasks.digital_twins.bridge_dataset_eval": SimpleNamespace(),
        "mani_skill.envs.tasks.digital_twins.base_env": twins,
        "gymnasium": SimpleNamespace(make=make),
    }
    monkeypatch.setenv(ASSETS_VARIABLE, str(folder))
    monkeypatch.setattr(simpler_package, "find_spec", lambda name: name)
    monkeypatch.setattr(simpler_package, "import_module", modules.__getitem__)


# With something that answers as ManiSkill does


class Pose:
    """A batch of one, as ManiSkill's."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    def inv(self) -> "Pose":
        return Pose(np.linalg.inv(self.matrix))

    def __mul__(self, other: "Pose") -> "Pose":
        return Pose(self.matrix @ other.matrix)

    def to_transformation_matrix(self) -> Any:
        return torch.from_numpy(self.matrix[None])


def at(x: float, y: float, z: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


class FakeEnv:
    """Told an action it writes it down; solved on the steps of `fires`, over at step 4."""

    def __init__(self, fires: tuple[int, ...] = ()) -> None:
        self.unwrapped = self
        self.action_space = SimpleNamespace(shape=(7,), dtype=np.dtype("float32"))
        self.fires, self.steps, self.told, self.starts = fires, 0, [], []
        base = at(0.147, 0.028, 0.87)
        base[:2, :2] = -np.eye(2)  # it looks the other way
        hand = base @ at(0.3, 0.0, 0.13)
        hand[:3, :3] = base[:3, :3] @ simpler_scene.DOWN
        links = {"ee_gripper_link": SimpleNamespace(pose=Pose(hand))}
        fingers = torch.tensor([[0.0] * 6 + [0.026, 0.026]])
        robot = SimpleNamespace(pose=Pose(base), links_map=links, get_qpos=lambda: fingers)
        self.agent = SimpleNamespace(robot=robot, is_grasping=lambda actor: torch.tensor([False]))
        self.source_obj_name, self.target_obj_name = "cube", "other"
        self.objs = {"cube": FakeActor(at(-0.2, 0.0, 0.88)), "other": FakeActor(at(-0.1, 0.0, 0.88))}
        self.episode_model_bbox_sizes = {name: torch.full((3,), 0.03) for name in self.objs}
        self.closed = False

    def reset(self, *, seed: int, options: dict[str, Any]) -> tuple[Any, Any]:
        self.starts.append((seed, options["episode_id"]))
        self.steps = 0
        return self.get_obs(), {}

    def step(self, action: np.ndarray) -> tuple[Any, ...]:
        self.told.append(action)
        self.steps += 1
        fired, over = torch.tensor([self.steps in self.fires]), torch.tensor([self.steps >= 4])
        return self.get_obs(), torch.zeros(1), fired, over, {"success": fired}

    def get_obs(self) -> Any:
        pixels = torch.full((1, 480, 640, 3), 10 * self.steps, dtype=torch.uint8)
        return {"sensor_data": {"3rd_view_camera": {"rgb": pixels}}}

    def close(self) -> None:
        self.closed = True


class FakeActor:
    def __init__(self, matrix: np.ndarray) -> None:
        self.state = torch.zeros(1, 13)
        self.state[0, :3] = torch.from_numpy(matrix[:3, 3])
        self.state[0, 7:] = 1.0

    @property
    def pose(self) -> Pose:
        return Pose(at(*self.state[0, :3].tolist()))

    def get_state(self) -> Any:
        return self.state

    def set_state(self, state: Any) -> None:
        self.state = state


@pytest.fixture
def fakes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeEnv]:
    made: dict[str, FakeEnv] = {}
    fires = {"StackGreenCubeOnYellowCubeBakedTexInScene-v1": (2,), "PutCarrotOnPlateInScene-v1": (1, 4)}

    def open_task(own: str, assets: Path, render_backend: str) -> FakeEnv:
        assert (assets, render_backend) == (folder, "cpu")
        return made.setdefault(own, FakeEnv(fires.get(own, ())))

    monkeypatch.setattr(simpler_scene, "open_task", open_task)
    monkeypatch.setattr(simpler_package, "find_spec", lambda name: name)
    return made


def test_the_body_is_the_one_that_policies_of_bridge_declare() -> None:
    pytest.importorskip("safetensors", reason="the extra 'models' is absent")
    from actloop.models.openvla.released import bridge_setup

    assert _embodiment(256) == bridge_setup().embodiment


def test_a_seed_is_the_number_of_a_start(fakes: dict[str, FakeEnv], folder: Path) -> None:
    world = SimplerWorld(assets=folder)
    assert isinstance(world, World)
    assert isinstance(world, Demonstrator)
    assert isinstance(world, Disturbable)
    assert list(world.tasks) == list(TASKS)
    task = world.tasks[STACK]
    assert (task.instruction, task.time_limit) == ("stack the green block on the yellow block", 12.0)
    now = world.reset(task, seed=17)
    assert fakes[task.skill].starts == [(17, 17)]
    assert np.allclose(now.state, [0.3, 0, 0.13, 0, 0, 0, 0.5], atol=1e-6)  # straight down is no turn; half open
    assert now.images["image_0"].shape == (256, 256, 3)
    with pytest.raises(ContractError, match="0 or more"):
        world.reset(task, seed=-1)
    with pytest.raises(UnknownNameError, match="did you mean 'end'"):
        SimplerWorld(assets=folder, judged="ends")
    world.close()
    assert fakes[task.skill].closed


def test_commands_reach_maniskill_in_its_own_numbers(fakes: dict[str, FakeEnv], folder: Path) -> None:
    world = SimplerWorld(assets=folder)
    world.reset(world.tasks[STACK], seed=0)
    world.apply(np.array([0.01, -0.02, 0.5, 0, 0, 0.2, 1.0], dtype=np.float32))
    world.apply(np.array([0, 0, 0, 0, 0, 0, 0.0], dtype=np.float32))
    told = fakes[world.tasks[STACK].skill].told
    assert np.allclose(told[0], [0.01, -0.02, 0.05, 0, 0, 0.2, 1.0])  # within the limits; 1 is open in both
    assert np.allclose(told[1], [0, 0, 0, 0, 0, 0, -1.0])
    assert told[0].dtype == np.float32


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (0.2, -0.1, 0.25), (-0.25, 0.25, 0.25)])
def test_a_turn_about_fixed_axes_is_the_same_turn_about_own_ones(turn: tuple[float, float, float]) -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    told = _xyz_about_own(np.array(turn, dtype=np.float32))
    assert np.allclose(rotation.from_euler("XYZ", told).as_matrix(), rotation.from_euler("xyz", turn).as_matrix())


def test_success_counts_when_it_fires_or_at_the_end_as_asked(fakes: dict[str, FakeEnv], folder: Path) -> None:
    def played(judged: str, name: str) -> tuple[bool, float]:
        world = SimplerWorld(assets=folder, judged=judged)
        now = world.reset(world.tasks[name], seed=0)
        while world.outcome() is None:
            world.apply(world.embodiment.hold(now, None))
        outcome = world.outcome()
        assert outcome is not None
        return outcome.success, outcome.time

    carrot = "widowx_carrot_on_plate"
    assert played("first", STACK) == (True, pytest.approx(0.4))
    assert played("end", STACK) == (False, pytest.approx(0.8))  # on the second step, and no longer on the last
    assert played("end", carrot) == (True, pytest.approx(0.8))


def test_displacing_moves_the_thing_and_shows_it(fakes: dict[str, FakeEnv], folder: Path) -> None:
    world = SimplerWorld(assets=folder)
    task = world.tasks[STACK]
    world.reset(task, seed=0)
    env = fakes[task.skill]
    before = env.objs["cube"].state.clone()
    env.steps = 9  # so that a new picture is another one
    world.disturb("displace", seed=3)
    after = env.objs["cube"].state
    assert 0.03 <= float((after - before)[0, :3].norm()) <= 0.06
    assert float((after - before)[0, 2]) == pytest.approx(0.0, abs=1e-7)
    assert bool((after[0, 7:] == 0).all())
    assert int(world.observe().images["image_0"].mean()) == 90
    with pytest.raises(UnknownNameError, match="'displace'"):
        world.disturb("displaced", seed=0)
    env.agent.is_grasping = lambda actor: torch.tensor([True])
    with pytest.raises(ContractError, match="holds the thing"):
        world.disturb("displace", seed=0)


# With the package and a Vulkan that draws; on stand-ins of the meshes unless MS_ASSET_DIR names the real ones


def real(test: Any) -> Any:
    """Marks what runs ManiSkill itself, which warns of its own use of NumPy."""
    return pytest.mark.slow(pytest.mark.filterwarnings("ignore::DeprecationWarning")(test))


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("mani_skill") is None:
        pytest.skip("the package mani-skill is absent")
    said = os.environ.get(ASSETS_VARIABLE)
    folder = Path(said) if said else write_stand_ins(tmp_path_factory.mktemp("simpler"))
    try:
        BridgeScene("PutCarrotOnPlateInScene-v1", folder, judged="first", side=64, render_backend="cpu").close()
    except MissingDependency as error:
        pytest.skip(str(error))
    return folder


@pytest.fixture
def world(assets: Path) -> Iterator[Any]:
    made = SimplerWorld(assets=assets, image_size=64)
    yield made
    made.close()


@real
@pytest.mark.parametrize("name", list(TASKS))
def test_starts_and_success_are_maniskills_on_the_experts_way(world: Any, assets: Path, name: str) -> None:
    task = world.tasks[name]
    theirs = simpler_package.open_task(task.skill, assets, "cpu")
    theirs.reset(seed=2, options={"episode_id": torch.tensor([2])})
    world.reset(task, seed=2)
    mine = world._scene._env.unwrapped
    while world.outcome() is None:
        told = world.apply(world.demonstrate())
        spoken = np.concatenate([told[:3], _xyz_about_own(told[3:6]), 2 * told[6:] - 1]).astype(np.float32)
        _, _, fired, over, info = theirs.step(spoken)
        assert bool(fired) == bool(info["success"]) == bool(world.outcome() and world.outcome().success)
        for key, actor in theirs.unwrapped.objs.items():
            assert torch.equal(actor.pose.raw_pose, mine.objs[key].pose.raw_pose)
        assert bool(over) <= (world.outcome() is not None)
    assert world.outcome().success
    theirs.close()


@real
def test_two_tasks_in_one_process_keep_their_own_photograph(world: Any) -> None:
    """ManiSkill keeps it, and what is drawn over it, in one variable for all its tasks."""
    table, sink = world.tasks["widowx_carrot_on_plate"], world.tasks["widowx_put_eggplant_in_basket"]
    alone = world.reset(table, seed=0).images["image_0"].copy()
    other = world.reset(sink, seed=0).images["image_0"]
    assert not np.array_equal(other, alone)
    assert np.array_equal(world.reset(table, seed=0).images["image_0"], alone)


@real
def test_a_displaced_cube_is_still_brought(world: Any) -> None:
    world.reset(world.tasks[STACK], seed=0)
    before = world._scene.thing[:3, 3]
    for _ in range(3):
        world.apply(world.demonstrate())
    world.disturb("displace", seed=1)
    assert 0.02 < np.linalg.norm(world._scene.thing[:3, 3] - before) < 0.07
    while world.outcome() is None:
        world.apply(world.demonstrate())
    assert world.outcome().success


@real
def test_it_conforms(assets: Path) -> None:
    from actloop.testing.conformance import check_world

    check_world(lambda: SimplerWorld(assets=assets, image_size=32), STACK, demonstrations=2)


@real
def test_nothing_is_asked_where_files_are_missing(assets: Path, tmp_path: Path) -> None:
    """Left alone, the package asks on stdin, and ends the process."""
    code = f"from actloop.simulation.registry import make_world; make_world('simpler', assets={str(tmp_path)!r})"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    assert "MissingDependency" in ended.stderr
    assert "(y|n)" not in ended.stdout + ended.stderr
