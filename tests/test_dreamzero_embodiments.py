"""A robot's declaration: pictures, prompts, normalised states and actions, time, and what released files say of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from actloop.contracts import Camera, Embodiment, Part, Space
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.dreamzero import DreamZeroConfig
from actloop.models.dreamzero.embodiments import RobotDeclaration, declare
from actloop.models.dreamzero.metadata import negative_prompt, with_metadata
from actloop.models.dreamzero.robots import ROBOTS, agibot, droid, released_robot, yam
from actloop.models.dreamzero.statistics import RobotStatistics, VectorStatistics, merged
from actloop.models.dreamzero.tiling import Cell, Tiling

JOINTS = Part(name="joints", unit="rad", low=(-2.0, -2.0), high=(2.0, 2.0))
GRIPPER = Part(name="gripper", unit="m", low=(0.0,), high=(0.1,))
BASE = Part(name="base", unit="m/s", low=(-1.0,), high=(1.0,), kind="velocity")


def body() -> Embodiment:
    return Embodiment(
        name="small",
        cameras=(Camera(name="front", height=16, width=24), Camera(name="wrist", height=16, width=24)),
        state=Space(parts=(JOINTS, GRIPPER)),
        action=Space(parts=(GRIPPER, JOINTS, BASE)),
        control_hz=10.0,
    )


def episodes(count: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.normal(size=(20 + i, 3)), rng.normal(size=(20 + i, 4))) for i in range(count)]


def robot() -> RobotDeclaration:
    return declare(body(), block_actions=6, frame_ticks=3).measured(episodes())


def images(declared: RobotDeclaration, *lead: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        camera.name: rng.integers(0, 256, (*lead, camera.height, camera.width, 3), np.uint8)
        for camera in declared.embodiment.cameras
    }


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_droids_picture_has_the_wrist_above_the_exterior_cameras_each_column_twice() -> None:
    declared = droid()
    given = images(declared, 2)
    picture = declared.picture(given)
    assert picture.shape == (2, 352, 640, 3)
    for camera, rows, columns in (
        ("exterior_image_1_left", slice(176, 352), slice(0, 320)),
        ("exterior_image_2_left", slice(176, 352), slice(320, 640)),
        ("wrist_image_left", slice(0, 176), slice(0, 640, 2)),
    ):
        middle = torch.from_numpy(given[camera][:, 4 : 4 + 171, 8 : 8 + 304]).permute(0, 3, 1, 2).float()
        small = functional.interpolate(middle, size=(176, 320), mode="bilinear", antialias=True)
        expected = small.round().clamp(0, 255).permute(0, 2, 3, 1).numpy().astype(np.uint8)
        assert np.array_equal(picture[:, rows, columns], expected), camera
    assert np.array_equal(picture[:, :176, 0::2], picture[:, :176, 1::2])


@pytest.mark.parametrize("make", [agibot, yam])
def test_three_corners_are_cameras_and_the_fourth_is_black(make: object) -> None:
    declared = released_robot(make.__name__)  # type: ignore[attr-defined]
    names = declared.tiling.cameras
    flat = {
        camera.name: np.full((camera.height, camera.width, 3), 50 * (1 + names.index(camera.name)), np.uint8)
        for camera in declared.embodiment.cameras
    }
    picture = declared.picture(flat)
    corners = picture[::351, ::639, 0].tolist()
    assert corners == [[50, 150], [100, 0]]  # first camera above the second, the third to the right


def test_the_small_release_sees_the_same_picture_smaller() -> None:
    given = images(droid())
    large, small = droid().picture(given), droid(small=True).picture(given)
    assert small.shape == (160, 320, 3)
    expected = functional.interpolate(
        torch.from_numpy(large).permute(2, 0, 1)[None].float(), size=(160, 320), mode="bilinear", align_corners=False
    )
    assert np.array_equal(small, expected[0].round().permute(1, 2, 0).numpy().astype(np.uint8))


def test_a_picture_comes_apart_into_cameras_of_their_own_size() -> None:
    plain = declare(body(), block_actions=6, frame_ticks=3)
    given = images(plain, 3)
    again = plain.apart(plain.picture(given))
    assert all(np.array_equal(again[name], given[name]) for name in given)
    declared = droid()
    ramp = np.linspace(0, 255, 320).astype(np.uint8)[None, :, None].repeat(180, 0).repeat(3, 2)
    apart = declared.apart(declared.picture({camera.name: ramp for camera in declared.embodiment.cameras}))
    for frames in apart.values():
        assert frames.shape == (180, 320, 3)
        error = np.abs(frames.astype(int) - ramp)[:, 8:-8]
        assert error.max() <= 2, "what was cut away is all that is lost"


def test_a_missing_camera_is_named_and_others_are_left_out() -> None:
    declared = robot()
    given = images(declared)
    declared.picture({**given, "another": given["front"]})
    with pytest.raises(ContractError, match=r"images\.wrist: missing; got \['front'\]"):
        declared.picture({"front": given["front"]})
    with pytest.raises(ContractError, match="expected uint8"):
        declared.picture({**given, "wrist": given["wrist"].astype(np.float32)})
    with pytest.raises(ContractError, match="expected frames"):
        declared.picture({**given, "wrist": given["wrist"][None]})


def test_cells_lie_inside_and_apart() -> None:
    cell = Cell(camera="a", row=0, column=0)
    sizes = {"rows": 1, "columns": 2, "height": 8, "width": 8}
    for cells, message in (
        ((replace(cell, wide=3),), "outside of"),
        ((cell, replace(cell, camera="b")), "lies on camera 'a'"),
        ((cell, replace(cell, column=1)), "each once"),
        ((), "at least one camera"),
    ):
        with pytest.raises(ContractError, match=message):
            Tiling(cells=cells, **sizes)
    with pytest.raises(ContractError, match="crop"):
        Tiling(cells=(cell,), crop=0.0, **sizes)
    with pytest.raises(ContractError, match="shows"):
        declare(body(), block_actions=6, frame_ticks=3, tiling=Tiling(cells=(cell,), **sizes))


# --- words ------------------------------------------------------------------------------------------------------------


def test_the_instruction_is_said_twice_in_lower_case() -> None:
    prompt = droid().prompt("Put the CUP away")
    assert prompt.startswith("A multi-view video shows that a robot put the cup away The video is split into three")
    assert prompt.endswith("may be a black screen (dropped view). The robot put the cup away")
    assert agibot().prompt("x").count(" x") == yam().prompt("x").count(" x") == 2
    with pytest.raises(ContractError, match="instruction: is empty"):
        droid().prompt(" ")
    with pytest.raises(ContractError, match="template"):
        declare(body(), block_actions=6, frame_ticks=3, template="do it")


# --- states and actions -----------------------------------------------------------------------------------------------


def test_joints_are_relative_to_the_blocks_start_and_come_back() -> None:
    declared = robot()
    assert declared.relative == ("joints",), "no gripper, no velocity"
    rng = np.random.default_rng(1)
    start, actions = rng.normal(size=(5, 3)), rng.normal(size=(5, 6, 4))
    relative = declared.numbers.relative_actions(actions, start)
    assert np.allclose(relative[..., 1:3], actions[..., 1:3] - start[:, None, :2])
    assert np.array_equal(relative[..., [0, 3]], actions[..., [0, 3]])
    inside = 0.2 * actions
    normalised = declared.normalize_actions(inside, 0.2 * start, 9)
    assert normalised.shape == (5, 6, 9)
    assert normalised.dtype == np.float32
    assert not normalised[..., 4:].any()
    assert declared.real_actions(9).tolist() == [True] * 4 + [False] * 5
    assert np.abs(declared.denormalize_actions(normalised, 0.2 * start) - inside).max() < 1e-5
    assert declared.normalize_states(start, 7).shape == (5, 7)


def test_quantiles_become_one_outliers_are_clipped_and_what_never_moves_passes_through() -> None:
    rows = np.stack([np.linspace(0, 100, 10_001), np.full(10_001, 0.25)], axis=1)
    found = VectorStatistics.of(rows)
    assert np.allclose(found.q01, [1, 0.25])
    assert np.allclose(found.q99, [99, 0.25])
    given = np.array([[1, 0.25], [99, 3.0], [50, -0.5], [1000, 0.0]])
    assert np.allclose(found.normalize(given, "quantile"), [[-1, 0.25], [1, 1], [0, -0.5], [1, 0]])
    assert np.allclose(found.denormalize(np.array([[1.5, 0.25]]), "quantile"), [[123.5, 0.25]]), "not clipped"
    assert np.allclose(found.normalize(np.array([[0, 0.25], [100, 0.25]]), "range")[:, 0], [-1, 1])
    with pytest.raises(UnknownNameError, match="did you mean 'quantile'"):
        found.normalize(given, "quantiles")


def test_statistics_of_relative_parts_are_those_of_the_differences() -> None:
    declared = robot()
    found = []
    for states, actions in episodes():
        for at in range(len(actions)):
            rows = actions[at : at + 6].copy()
            rows[:, 1:3] -= states[at, :2]
            found.append(rows)
    expected = VectorStatistics.of(np.concatenate(found))
    assert declared.known.action == expected
    assert declared.known.state == VectorStatistics.of(np.concatenate([states for states, _ in episodes()]))
    thinned = declare(body(), block_actions=6, frame_ticks=3).measured(episodes(), rows=10**6)
    assert thinned.known.action != expected
    assert np.allclose(thinned.known.action.std, expected.std, rtol=0.3)
    with pytest.raises(ContractError, match="no episodes"):
        declared.measured([])
    with pytest.raises(ContractError, match="actions: expected 4 components"):
        declared.measured([(np.zeros((5, 3)), np.zeros((5, 3)))])


def test_mixtures_have_weighted_means_and_the_outermost_bounds() -> None:
    first, second = robot().known, robot().measured(episodes(1)).known
    both = merged([first, second], [3.0, 1.0])
    assert np.allclose(both.state.mean, 0.75 * np.array(first.state.mean) + 0.25 * np.array(second.state.mean))
    assert np.array_equal(both.action.q99, np.maximum(first.action.q99, second.action.q99))
    assert np.array_equal(both.action.min, np.minimum(first.action.min, second.action.min))
    same = merged([first, first], [1.0, 5.0])
    assert np.allclose(same.state.std, first.state.std)
    with pytest.raises(ContractError, match="weights"):
        merged([first], [0.0])


def test_no_statistics_are_no_zeros() -> None:
    bare = declare(body(), block_actions=6, frame_ticks=3)
    with pytest.raises(ContractError, match=r"declaration\.statistics: none for 'small'"):
        bare.normalize_states(np.zeros(3))
    with pytest.raises(ContractError, match="room for 3"):
        robot().normalize_actions(np.zeros((6, 4)), np.zeros(3), 3)
    with pytest.raises(ContractError, match=r"statistics\.action: of 3 components"):
        bare.with_statistics(RobotStatistics(state=robot().known.state, action=robot().known.state))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("jonts", UnknownNameError, "did you mean 'joints'"),
        ("base", ContractError, "needs an absolute action part"),
    ],
)
def test_only_what_is_measured_can_be_relative(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        declare(body(), block_actions=6, frame_ticks=3, relative=(name,))


# --- time and fit -----------------------------------------------------------------------------------------------------


def test_a_clip_has_its_frames_actions_and_states_on_one_grid() -> None:
    declared = droid()
    assert declared.block_frames == 8
    assert declared.block_seconds == pytest.approx(1.6)
    assert declared.frame_offsets(4).tolist() == list(range(0, 97, 3))
    assert declared.state_offsets(4).tolist() == [0, 24, 48, 72]
    with pytest.raises(ContractError, match="divisor of the 24 actions"):
        replace(declared, frame_ticks=5)


@pytest.mark.parametrize("name", ROBOTS)
def test_the_released_networks_take_the_released_robots(name: str) -> None:
    released_robot(name).check(DreamZeroConfig.wan21_14b(), temporal_stride=4, size=(352, 640))
    released_robot(name, small=True).check(DreamZeroConfig.wan22_5b(), temporal_stride=4, size=(160, 320))
    for changes, message in (
        ({"block_actions": 48}, "block_actions: the robot has 24"),
        ({"action_dim": 3}, "room for 3"),
        ({"block_frames": 1}, "block_frames: the robot has 8"),
    ):
        with pytest.raises(ContractError, match=message):
            released_robot(name).check(DreamZeroConfig.wan21_14b(**changes), temporal_stride=4, size=(352, 640))
    with pytest.raises(ContractError, match="picture"):
        released_robot(name).check(DreamZeroConfig.wan21_14b(), temporal_stride=4, size=(160, 320))


def test_released_robots_have_their_sizes() -> None:
    sizes = {name: (make().embodiment.state.size, make().embodiment.action.size) for name, make in ROBOTS.items()}
    assert sizes == {"droid": (8, 8), "agibot": (20, 22), "yam": (14, 14)}
    assert droid().relative == ("joint_position",)
    assert "robot_velocity" not in agibot().relative
    with pytest.raises(UnknownNameError, match="did you mean 'droid'"):
        released_robot("driod")


# --- at rest ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [robot(), droid(small=True)], ids=["measured", "released"])
def test_a_declaration_survives_json(declared: RobotDeclaration) -> None:
    assert RobotDeclaration.from_dict(json.loads(json.dumps(declared.to_dict()))) == declared


def test_what_a_declaration_lacks_is_named() -> None:
    plain = robot().to_dict()
    for name in ("embodiment", "tiling", "template", "relative", "frame_ticks", "block_actions"):
        with pytest.raises(ContractError, match=f"declaration.{name}: missing"):
            RobotDeclaration.from_dict({key: value for key, value in plain.items() if key != name})
    for changes, message in (
        ({"frame_tick": 3}, "did you mean 'frame_ticks'"),
        ({"block_actions": "6"}, "whole number"),
        ({"tiling": 3}, "expected an object"),
        ({"relative": "joints"}, "a list of action parts"),
        ({"statistics": {"state": {}}}, r"statistics\.state\.min: missing"),
    ):
        with pytest.raises(ContractError, match=message):
            RobotDeclaration.from_dict({**plain, **changes})
    short = {key: plain[key] for key in plain if key not in ("normalizer", "statistics", "tag")}
    assert RobotDeclaration.from_dict(short).statistics is None


# --- released metadata ------------------------------------------------------------------------------------------------


def metadata(folder: Path, change: object = None) -> Path:
    """As it lies beside released weights, of DROID."""
    parts = {"joint_position": 7, "gripper_position": 1}

    def vector(size: int, start: float) -> dict[str, list[float]]:
        names = ("min", "q01", "mean", "q99", "max", "std")
        return {name: [start + index + 0.1 * at for at in range(size)] for index, name in enumerate(names)}

    robot = {
        "statistics": {
            "state": {name: vector(size, 0.0) for name, size in parts.items()},
            "action": {name: vector(size, 10.0) for name, size in reversed(parts.items())},
        },
        "modalities": {
            "video": {camera.name: {"resolution": [320, 180], "fps": 15} for camera in droid().embodiment.cameras},
            "state": {name: {"shape": [size], "absolute": True} for name, size in parts.items()},
            "action": {name: {"shape": [size], "absolute": False} for name, size in parts.items()},
        },
    }
    if callable(change):
        change(robot)
    (folder / "experiment_cfg").mkdir(parents=True, exist_ok=True)
    (folder / "experiment_cfg" / "metadata.json").write_text(json.dumps({"oxe_droid": robot}))
    return folder


def test_statistics_come_from_the_checkpoints_own_file_in_the_declared_order(tmp_path: Path) -> None:
    declared = with_metadata(droid(), metadata(tmp_path))
    assert declared.known.state.q01[:7] == pytest.approx([1 + 0.1 * at for at in range(7)])
    assert declared.known.action.q99[7] == 13.0, "the gripper is last, as declared"
    assert with_metadata(droid(), tmp_path / "experiment_cfg" / "metadata.json") == declared


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r["statistics"]["state"].pop("gripper_position"),
            r"state: no 'gripper_position' in it, only \['joi",
        ),
        (lambda r: r["statistics"]["action"]["joint_position"].pop("q99"), r"joint_position\.q99: missing"),
        (lambda r: r["modalities"]["state"]["joint_position"].update(shape=[6]), "of shape"),
        (lambda r: r["modalities"]["video"].pop("wrist_image_left"), "no 'wrist_image_left'"),
        (lambda r: r["modalities"]["video"]["wrist_image_left"].update(resolution=[640, 480]), "declared are"),
        (lambda r: r.pop("statistics"), "no 'statistics'"),
        (lambda r: r["statistics"]["state"]["gripper_position"].update(mean=[1, 2]), "different lengths"),
    ],
)
def test_what_the_metadata_lacks_is_named(tmp_path: Path, change: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        with_metadata(droid(), metadata(tmp_path, change))


def test_another_robots_metadata_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no 'agibot' in it, only \['oxe_droid'\]"):
        with_metadata(agibot(), metadata(tmp_path))
    with pytest.raises(CheckpointError, match="expected the metadata"):
        with_metadata(droid(), tmp_path / "nowhere")


def test_the_negative_prompt_is_found_however_deep(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"a": [{"b": 1}], "c": {"d": {"negative_prompt": "blurred"}}}))
    assert negative_prompt(tmp_path) == "blurred"
    (tmp_path / "config.json").write_text("{}")
    assert negative_prompt(tmp_path) is None
