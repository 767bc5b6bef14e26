"""One form for every dataset, the conversion to LeRobotDataset v3, and mixtures."""

import pickle
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_rlds import TEXT, Leaf, image, write_dataset

from actloop.cli.rlds import convert_folder, converted, described
from actloop.data.dataset import LeRobotDataset
from actloop.data.mixture import MIXTURES, Mixture, preset_weights
from actloop.data.rlds.convert import convert
from actloop.data.rlds.dataset import RldsDataset
from actloop.data.rlds.frames import RldsFrames
from actloop.data.rlds.info import describe
from actloop.data.rlds.recipes import RECIPES, chosen, recipe_of
from actloop.data.rlds.standardise import MOTION, Constant, Recipe, Take, standardise
from actloop.data.windows import Frames, WindowSpec
from actloop.errors import ContractError, DataError, UnknownNameError

BRIDGE = Path(__file__).parents[2] / "shared" / "data" / "bridge"
needs_bridge = pytest.mark.skipif(not BRIDGE.is_dir(), reason="the real Bridge episodes are not here")
RNG = np.random.default_rng(7)
SIDE = 16
BRIDGE_STEPS = {
    "action": Leaf(shape=(7,)),
    "language_instruction": TEXT,
    "observation/image_0": image(SIDE, SIDE),
    "observation/image_1": image(SIDE, SIDE),
    "observation/state": Leaf(shape=(7,)),
}


def shade(number: int, tick: int) -> np.ndarray:
    """A flat picture, whose brightness says which it is."""
    return np.full((SIDE, SIDE, 3), 20 + 40 * number + 5 * tick, np.uint8)


def bridge_episode(number: int, length: int, told: str = "put carrot on plate") -> dict[str, list[Any]]:
    state = np.cumsum(RNG.normal(scale=0.02, size=(length, 7)), axis=0).astype(np.float32)
    action = RNG.normal(scale=0.02, size=(length, 7)).astype(np.float32)
    action[:, 6] = RNG.integers(2, size=length)
    return {
        "action": list(action),
        "language_instruction": [told] * length,
        "observation/image_0": [shade(number, tick) for tick in range(length)],
        "observation/image_1": [255 - shade(number, tick) for tick in range(length)],
        "observation/state": list(state),
    }


@pytest.fixture
def bridge(tmp_path: Path) -> RldsDataset:
    """Four episodes with something to learn, one without an instruction, and one that is too short."""
    episodes = [bridge_episode(0, 6), bridge_episode(1, 4), bridge_episode(2, 5, " "), bridge_episode(3, 2)]
    episodes += [bridge_episode(4, 7, "flip pot"), bridge_episode(5, 3)]
    return RldsDataset(write_dataset(tmp_path / "rlds", "bridge_dataset", BRIDGE_STEPS, episodes, shards=2))


def made(tmp_path: Path, name: str, steps: dict[str, Leaf], episode: dict[str, Any]) -> RldsDataset:
    return RldsDataset(write_dataset(tmp_path / "made", name, steps, [episode]))


# -------------------------------------------------------------------------------------------------------- one form


def test_bridge_is_the_motion_that_followed(bridge: RldsDataset) -> None:
    episode = bridge[0]
    standard = standardise(episode, recipe_of("bridge_dataset"))
    state, action = episode.array("observation/state"), episode.array("action")
    assert standard.steps.tolist() == [1, 2, 3, 4]  # the first of six is dropped, and the last has no next
    np.testing.assert_array_equal(standard.actions[:, :6], state[2:, :6] - state[1:-1, :6])
    np.testing.assert_array_equal(standard.actions[:, 6], action[1:-1, 6])
    np.testing.assert_array_equal(standard.states, state[1:-1])
    assert standard.instruction == "put carrot on plate"


def test_a_gripper_in_between_takes_what_is_decided_next(tmp_path: Path) -> None:
    episode = bridge_episode(0, 9)
    for action, opening in zip(episode["action"], [1, 0.5, 0.9, 0.0, 0.3, 0.97, 0.5, 0.2, 0.8], strict=True):
        action[6] = opening
    dataset = made(tmp_path, "bridge_dataset", BRIDGE_STEPS, episode)
    found = standardise(dataset[0], recipe_of("bridge_dataset")).actions[:, 6]
    # steps 1 to 7; the last two stay undecided up to 0.8 in the last step, which rounds to open
    assert found.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_angles_turn_the_short_way_round(tmp_path: Path) -> None:
    episode = bridge_episode(0, 5)
    for state, roll, yaw in zip(
        episode["observation/state"], [0, 3.1, -3.1, -3.0, 3.1], [0, -3.0, -2.9, 3.1, 0.5], strict=True
    ):
        state[3], state[5] = roll, yaw
    dataset = made(tmp_path, "bridge_dataset", BRIDGE_STEPS, episode)
    recipe = recipe_of("bridge_dataset")
    fixed, released = standardise(dataset[0], recipe), standardise(dataset[0], recipe, released=True)
    turn = 2 * np.pi
    np.testing.assert_allclose(fixed.actions[:, 3], [turn - 6.2, 0.1, 6.1 - turn], atol=1e-5)
    np.testing.assert_allclose(released.actions[:, 3], [-6.2, 0.1, 6.1], atol=1e-5)
    np.testing.assert_allclose(fixed.actions[:, 5], [0.1, 6.0 - turn, -2.6], atol=1e-5)
    others = [0, 1, 2, 4, 6]
    np.testing.assert_array_equal(fixed.actions[:, others], released.actions[:, others])
    assert fixed.actions[1, 3] == released.actions[1, 3]  # to the bit, where nothing wraps


def test_relative_closing_commands_become_absolute(tmp_path: Path) -> None:
    steps = {
        "action/world_vector": Leaf(shape=(3,)),
        "action/rotation_delta": Leaf(shape=(3,)),
        "action/gripper_closedness_action": Leaf(shape=(1,)),
        "observation/base_pose_tool_reached": Leaf(shape=(7,)),
        "observation/gripper_closed": Leaf(shape=(1,)),
        "observation/natural_language_instruction": Leaf(dtype="string"),
        "observation/image": image(SIDE, SIDE),
    }
    closing = [0, 0, 1, 0, -1, 0]
    episode: dict[str, Any] = {key: list(RNG.normal(size=(6, *leaf.shape))) for key, leaf in steps.items()}
    episode["action/gripper_closedness_action"] = [[value] for value in closing]
    episode["observation/natural_language_instruction"] = [b"pick coke can"] * 6
    episode["observation/image"] = [shade(0, 0)] * 6
    dataset = made(tmp_path, "fractal20220817_data", steps, episode)
    standard = standardise(dataset[0], chosen(dataset))
    assert standard.actions[:, 6].tolist() == [1, 1, 0, 0, 1, 1]  # open until it closes
    np.testing.assert_array_equal(standard.actions[:, :3], dataset[0].array("action/world_vector"))
    np.testing.assert_array_equal(standard.actions[:, 3:6], dataset[0].array("action/rotation_delta"))
    assert standard.states.shape == (6, 8)
    assert standard.instruction == "pick coke can"
    frames = RldsFrames(dataset)
    assert [part.name for part in frames.embodiment.state.parts] == ["position", "quat_xyzw", "gripper_closed"]
    assert frames.fps == 3


def test_droid_velocities_and_idle_steps(tmp_path: Path) -> None:
    cameras = ("exterior_image_1_left", "exterior_image_2_left", "wrist_image_left")
    steps = {
        "action_dict/cartesian_velocity": Leaf(dtype="float64", shape=(6,)),
        "action_dict/gripper_position": Leaf(dtype="float64", shape=(1,)),
        "observation/cartesian_position": Leaf(dtype="float64", shape=(6,)),
        "observation/gripper_position": Leaf(dtype="float64", shape=(1,)),
        **{f"language_instruction{end}": TEXT for end in ("", "_2", "_3")},
        **{f"observation/{camera}": image(SIDE, SIDE) for camera in cameras},
    }
    episode: dict[str, Any] = {key: list(RNG.normal(size=(3, *leaf.shape))) for key, leaf in steps.items()}
    episode["action_dict/cartesian_velocity"][1] = np.zeros(6)
    episode["action_dict/gripper_position"] = [[0.0], [0.25], [1.0]]
    episode |= {f"language_instruction{end}": [text] * 3 for end, text in (("", ""), ("_2", "wipe"), ("_3", "no"))}
    episode |= {f"observation/{camera}": [shade(0, 0)] * 3 for camera in cameras}
    frames = RldsFrames(made(tmp_path, "droid", steps, episode))
    assert frames.actions[:, 6].tolist() == [1, 0.75, 0]
    assert frames.is_idle.tolist() == [False, True, False]
    assert frames.episodes[0].instruction == "wipe"
    assert [part.kind for part in frames.embodiment.action.parts] == ["velocity", "velocity", "absolute"]
    assert frames.cameras == ("primary", "secondary", "wrist")


def test_libero_language_table_and_quaternions(tmp_path: Path) -> None:
    both = {"observation/image": image(SIDE, SIDE), "observation/wrist_image": image(SIDE, SIDE)}
    shown: dict[str, Any] = {key: [shade(0, 0)] * 2 for key in both}
    libero = {"action": Leaf(shape=(7,)), "observation/state": Leaf(shape=(8,)), "language_instruction": TEXT, **both}
    told = {"language_instruction": ["open it"] * 2}
    actions = [[0.1] * 6 + [-1.0], [0.2] * 6 + [1.0]]
    episode = {"action": actions, "observation/state": [np.arange(8.0)] * 2, **told, **shown}
    frames = RldsFrames(made(tmp_path / "a", "libero_10_no_noops", libero, episode))
    assert frames.actions[:, 6].tolist() == [1, 0]
    assert (frames.fps, frames.recipe.name, frames.states.shape) == (20, "libero", (2, 8))

    table = {
        "action": Leaf(shape=(2,)),
        "observation/effector_translation": Leaf(shape=(2,)),
        "observation/instruction": Leaf(dtype="int32", shape=(13,)),
        "observation/rgb": image(SIDE, SIDE),
    }
    letters = [[*map(ord, "to the l\u00e9ft"), 0, 0]] * 2
    episode = {"action": [[0.1, 0.2]] * 2, "observation/effector_translation": [[0, 1]] * 2}
    episode |= {"observation/instruction": letters, "observation/rgb": [shade(0, 0)] * 2}
    frames = RldsFrames(made(tmp_path / "b", "language_table", table, episode))
    np.testing.assert_array_equal(frames.actions[0], np.float32([0.1, 0.2, 0, 0, 0, 0, 1]))
    assert frames.episodes[0].instruction == "to the l\u00e9ft"

    furniture = {**libero, "action": Leaf(shape=(8,))}
    half = np.sqrt(0.5)
    episode = {"action": [[1, 2, 3, 0, 0, half, half, -1], [0, 0, 0, -half, 0, 0, -half, 1]], **told, **shown}
    episode["observation/state"] = [np.arange(8.0)] * 2
    name = "furniture_bench_dataset_converted_externally_to_rlds"
    frames = RldsFrames(made(tmp_path / "c", name, furniture, episode))
    np.testing.assert_allclose(frames.actions[0], [1, 2, 3, 0, 0, np.pi / 2, 1], atol=1e-6)
    np.testing.assert_allclose(frames.actions[1], [0, 0, 0, np.pi / 2, 0, 0, 0], atol=1e-6)
    episode["action"][0][5:7] = [0, 0]
    with pytest.raises(DataError, match=r"record 0: is not as 'furniture_bench_dataset' says: .*length"):
        RldsFrames(made(tmp_path / "d", name, furniture, episode))


def test_compressed_states(tmp_path: Path) -> None:
    """Kuka keeps float32 numbers as zlib strings."""
    steps = {
        "action/world_vector": Leaf(shape=(3,)),
        "action/rotation_delta": Leaf(shape=(3,)),
        "action/gripper_closedness_action": Leaf(shape=(1,)),
        "observation/clip_function_input/base_pose_tool_reached": Leaf(dtype="string"),
        "observation/gripper_closed": Leaf(dtype="string"),
        "observation/natural_language_instruction": TEXT,
        "observation/image": image(SIDE, SIDE),
    }
    pose, closed = RNG.normal(size=(2, 7)).astype(np.float32), np.float32([[0], [1]])
    episode: dict[str, Any] = {key: list(RNG.normal(size=(2, *leaf.shape))) for key, leaf in steps.items()}
    episode["observation/clip_function_input/base_pose_tool_reached"] = [zlib.compress(row.tobytes()) for row in pose]
    episode["observation/gripper_closed"] = [zlib.compress(row.tobytes()) for row in closed]
    episode |= {"observation/natural_language_instruction": ["pick"] * 2, "observation/image": [shade(0, 0)] * 2}
    frames = RldsFrames(made(tmp_path, "kuka", steps, episode))
    np.testing.assert_array_equal(frames.states, np.concatenate([pose, closed], axis=1))
    assert [part.size for part in frames.embodiment.state.parts] == [3, 4, 1]
    episode["observation/gripper_closed"][1] = b"no zlib"
    with pytest.raises(DataError, match="record 0: is not as 'kuka' says: Error -3"):
        RldsFrames(made(tmp_path / "bad", "kuka", steps, episode))


WIDTHS = {
    "action/world_vector": 3,
    "action/rotation_delta": 3,
    "action/rel_actions_world": 7,
    "action_dict/cartesian_velocity": 6,
    "observation/joint_states": 7,
}


def leaves(recipe: Recipe) -> Iterator[Take]:
    takes = (*recipe.motion, recipe.gripper, *(part.take for part in recipe.state))
    yield from (take for take in takes if isinstance(take, Take))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_seven_numbers(name: str, tmp_path: Path) -> None:
    """A dataset made from the recipe's own keys, each as wide as the recipe reaches into it."""
    recipe = RECIPES[name]
    widths = WIDTHS | {
        "action": {"nyu_franka_play_dataset": 15, "ucsd_kitchen_dataset": 8, "cmu_stretch": 8}.get(name, 7)
    }
    steps: dict[str, Leaf] = {}
    for take in leaves(recipe):
        reach = max(take.stop or 0, -(take.stop or 0), -(take.start or 0), (take.start or 0) + 1)
        before = steps[take.key].shape[0] if take.key in steps else widths.get(take.key, 1)
        steps[take.key] = Leaf(shape=(max(before, reach),))
    steps |= dict.fromkeys(recipe.instructions, TEXT) | {key: image(SIDE, SIDE) for key in recipe.cameras.values()}
    episode: dict[str, Any] = {key: list(RNG.uniform(0.1, 1, size=(4, *leaf.shape))) for key, leaf in steps.items()}
    episode |= {key: ["go"] * 4 for key in recipe.instructions}
    episode |= {key: [shade(0, 0)] * 4 for key in recipe.cameras.values()}
    if name == "language_table":
        steps |= {recipe.instructions[0]: Leaf(dtype="int32", shape=(2,))}
        episode[recipe.instructions[0]] = [[ord("g"), 0]] * 4
    frames = RldsFrames(made(tmp_path, recipe.names[0].replace("*", "x"), steps, episode))
    assert frames.recipe == recipe
    assert frames.actions.shape[1] == 7
    assert frames.embodiment.action.size == 7
    assert frames.embodiment.state.size == frames.states.shape[1]
    assert frames.embodiment.control_hz == recipe.control_hz
    gripper = frames.actions[:, 6]
    assert ((gripper >= 0) & (gripper <= 1)).all()
    frames.embodiment.state.check(frames.states, "state")


def test_every_mixture_knows_how_to_read_its_datasets() -> None:
    for weights in MIXTURES.values():
        for name in weights:
            assert name in recipe_of(name).names


def test_unknown_recipes_suggest_the_nearest(bridge: RldsDataset) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bridge_orig'"):
        chosen(bridge, "bridge_org")
    with pytest.raises(UnknownNameError, match="observation/image_0"):
        RldsFrames(bridge, replace(recipe_of("bridge_orig"), cameras={"primary": "observation/image0"}))
    with pytest.raises(ContractError, match="above zero"):
        chosen(bridge, control_hz=0.0)
    assert chosen(bridge, control_hz=7.0).control_hz == 7
    assert chosen(bridge, "as-recorded", control_hz=7.0).control_hz == 7


def test_as_recorded_keeps_every_step_and_number(bridge: RldsDataset) -> None:
    frames = RldsFrames(bridge, chosen(bridge, "as-recorded"))
    assert frames.cameras == ("image_0", "image_1")
    assert [info.length for info in frames.episodes] == [6, 4, 2, 7, 3]
    np.testing.assert_array_equal(frames.actions[:6], bridge[0].array("action"))


def test_as_recorded_says_what_it_needs(tmp_path: Path) -> None:
    own = made(tmp_path / "a", "own", BRIDGE_STEPS, bridge_episode(0, 3))
    with pytest.raises(ContractError, match="control_hz: is not known for 'own'"):
        chosen(own, "as-recorded")
    joints = made(tmp_path / "b", "own", {"action": Leaf(shape=(14,))}, {"action": [np.zeros(14)] * 2})
    with pytest.raises(ContractError, match=r"got \(14,\); write a Recipe"):
        chosen(joints, "as-recorded", control_hz=5.0)


def test_recipes_that_do_not_fit(bridge: RldsDataset) -> None:
    recipe = recipe_of("bridge_orig")
    short = replace(recipe, reached=False, motion=(Take(key="action", start=0, stop=3),))
    with pytest.raises(DataError, match=r"record 0: is not as 'bridge_orig' says: action: expected 6 .* got 3 and 1"):
        RldsFrames(bridge, short)
    with pytest.raises(DataError, match="unknown name 'wrist'"):
        RldsFrames(bridge, replace(recipe, gripper=Take(key="wrist")))
    with pytest.raises(DataError, match="holds text, expected numbers"):
        RldsFrames(bridge, replace(recipe, gripper=Take(key="language_instruction")))
    with pytest.raises(DataError, match="has steps and an instruction"):
        RldsFrames(bridge, replace(recipe, instructions=()))


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    episode = bridge_episode(0, 5)
    episode["observation/state"][2][0] = np.nan
    with pytest.raises(DataError, match="record 0: the state of step 2 is not finite"):
        RldsFrames(made(tmp_path, "bridge_dataset", BRIDGE_STEPS, episode))


def test_a_recipe_of_ones_own(tmp_path: Path) -> None:
    """A planar robot: what the data lack are constants."""
    recipe = Recipe(
        name="planar",
        names=("planar",),
        control_hz=10.0,
        cameras={"front": "observation/image_0"},
        motion=(Take(key="action", start=0, stop=2), Constant(value=0.0, size=4)),
        gripper=Constant(value=1.0),
        rotation="none",
    )
    frames = RldsFrames(made(tmp_path, "planar", BRIDGE_STEPS, bridge_episode(0, 4)), recipe)
    assert frames.states.tolist() == [[0.0]] * 4
    assert [part.name for part in frames.embodiment.state.parts] == ["unmeasured"]
    np.testing.assert_array_equal(frames.actions[:, 2:], [[0, 0, 0, 0, 1]] * 4)


# ---------------------------------------------------------------------------------------------------------- frames


def test_windows_are_cut_from_records(bridge: RldsDataset) -> None:
    frames = RldsFrames(bridge)
    assert isinstance(frames, Frames)
    assert [(info.length, info.instruction) for info in frames.episodes] == [
        (4, "put carrot on plate"),
        (2, "put carrot on plate"),
        (5, "flip pot"),
        (1, "put carrot on plate"),
    ]
    assert (frames.records, frames.silent) == ([0, 1, 4, 5], 2)
    batch = frames.windows(WindowSpec(frames=(-1, 0), states=(0,), actions=3)).batch([4, 0, 10])
    assert batch.images["primary"].shape == (3, 2, SIDE, SIDE, 3)
    # window 4 is the first of record 1: its step 1, whose step before is clamped to it
    assert batch.images["primary"][:, :, 0, 0, 0].tolist() == [[65, 65], [25, 25], [20 + 160 + 20, 20 + 160 + 25]]
    assert batch.images["secondary"][0, 1, 0, 0, 0] == 255 - 65
    assert batch.instructions == ["put carrot on plate"] * 2 + ["flip pot"]
    assert batch.action_is_pad.tolist() == [[False, False, True], [False] * 3, [False, True, True]]
    episode = frames.episode(2)
    assert episode.frames("primary").shape == (5, SIDE, SIDE, 3)
    np.testing.assert_array_equal(episode.actions, frames.actions[6:11])
    assert frames.images("primary", np.zeros((0, 3), np.int64)).shape == (0, 3, SIDE, SIDE, 3)
    with pytest.raises(UnknownNameError, match="did you mean 'primary'"):
        frames.images("primry", np.array([0]))
    with pytest.raises(ContractError, match="4 is not in"):
        frames.episode(4)


def test_frames_may_be_sent_and_know_themselves(bridge: RldsDataset) -> None:
    frames = RldsFrames(bridge)
    again = pickle.loads(pickle.dumps(frames))
    assert again.identity == frames.identity == RldsFrames(RldsDataset(bridge.folder)).identity
    assert again.embodiment == frames.embodiment
    np.testing.assert_array_equal(again.images("primary", np.arange(3)), frames.images("primary", np.arange(3)))
    assert RldsFrames(bridge, episodes=2).identity != frames.identity
    assert frames.statistics["action"]["count"] == [12]
    np.testing.assert_allclose(frames.embodiment.action.high[:MOTION], frames.actions[:, :MOTION].max(axis=0))


# ------------------------------------------------------------------------------------------------------ conversion


def test_conversion_reads_back_the_same(bridge: RldsDataset, tmp_path: Path) -> None:
    frames = RldsFrames(bridge)
    found = convert(frames, tmp_path / "out", codec="libx264")
    assert (found.episodes, found.frames, found.new, found.silent) == (4, 12, 4, 2)
    assert found.psnr_db > 35
    assert 0 < found.image_error < 3
    written = LeRobotDataset(tmp_path / "out")
    np.testing.assert_array_equal(written.actions, frames.actions)
    assert written.embodiment == frames.embodiment
    assert written.fps == 5
    assert [notes["record"] for notes in written.notes] == [0, 1, 4, 5]
    assert "4 episodes, 12 frames" in " ".join(converted(found).split())


def test_conversion_goes_on_where_it_was_stopped(bridge: RldsDataset, tmp_path: Path) -> None:
    frames, out = RldsFrames(bridge), tmp_path / "out"

    def stop(done: int, total: int) -> None:
        assert total == 4
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(frames, out, codec="libx264", progress=stop)
    assert len(LeRobotDataset(out).episodes) == 2
    found = convert(RldsFrames(RldsDataset(bridge.folder)), out, codec="libx264")
    assert (found.new, found.episodes) == (2, 4)
    assert convert(frames, out, codec="libx264").new == 0


def test_conversion_keeps_off_what_is_not_its_own(bridge: RldsDataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(RldsFrames(bridge), out, codec="libx264")
    with pytest.raises(DataError, match="choose another folder"):
        convert(RldsFrames(bridge, chosen(bridge, "as-recorded")), out, codec="libx264")
    episodes = [bridge_episode(0, 6)]
    other = RldsDataset(write_dataset(tmp_path / "other", "bridge_dataset", BRIDGE_STEPS, episodes))
    with pytest.raises(DataError, match="of other records or another recipe; choose another folder"):
        convert(RldsFrames(other), out, codec="libx264")


@needs_bridge
def test_the_real_bridge_episodes_convert(tmp_path: Path) -> None:
    found = convert_folder(BRIDGE, tmp_path / "all", recipe="as-recorded", codec="libx264", cameras=("image_0",))
    assert (found.episodes, found.frames) == (25, 250)
    written, source = LeRobotDataset(tmp_path / "all"), RldsDataset(BRIDGE)
    actions = np.concatenate([source[index].array("action") for index in range(25)])
    assert written.actions.tobytes() == actions.tobytes()
    assert found.psnr_db > 30
    frames = RldsFrames(source)
    assert (len(frames.episodes), len(frames.actions)) == (25, 200)
    assert set(frames.actions[:, 6].tolist()) == {0.0, 1.0}
    raw = RldsFrames(source, released=True)
    np.testing.assert_array_equal(raw.actions, frames.actions)  # nothing wraps in these
    with pytest.raises(UnknownNameError, match="did you mean 'image_0'"):
        convert_folder(BRIDGE, tmp_path / "none", recipe="as-recorded", cameras=("image0",))


def test_what_is_said_of_a_dataset(bridge: RldsDataset) -> None:
    found = describe(bridge.folder)
    assert found.instructions == {"put carrot on plate": 4, "flip pot": 1, "": 1}
    assert found.problems == ("1 of 6 episodes looked at have no instruction",)
    said = described(found)
    assert "bridge_orig: 5 Hz, rotation euler_xyz_difference" in said
    assert "observation/image_0" in said


# -------------------------------------------------------------------------------------------------------- mixtures


def test_presets_carry_the_weights_of_openvla() -> None:
    final, first = MIXTURES["oxe_magic_soup_plus_minus"], MIXTURES["oxe_magic_soup_plus"]
    assert (final["fractal20220817_data"], final["kuka"], final["bridge_orig"], final["bc_z"]) == (
        1.0,
        0.8341046294,
        1.0,
        0.2,
    )
    assert len(final) == 25
    assert set(first) - set(final) == {"language_table", "droid"}
    assert {name for name in final if final[name] != first[name]} == {"fractal20220817_data"}
    assert (first["fractal20220817_data"], first["droid"], first["language_table"]) == (0.54087122203, 0.06, 0.1)
    assert set(first) - set(MIXTURES["oxe_magic_soup"]) == {"bc_z", "fmb_dataset", "dobbe", "droid"}


def test_probability_is_weight_times_size() -> None:
    mixture = Mixture({"a": 100, "b": 300, "c": 50}, {"a": 1.0, "b": 0.5, "c": 2.0}, seed=3)
    np.testing.assert_allclose(mixture.probabilities, np.array([100, 150, 100]) / 350)
    assert mixture.epoch == 350
    shares = mixture.shares(range(200), 256)
    assert sum(shares.values()) == pytest.approx(1)
    for share, wanted in zip(shares.values(), mixture.probabilities, strict=True):
        assert share == pytest.approx(wanted, abs=5 * np.sqrt(wanted * (1 - wanted) / (200 * 256)))
    counts = np.zeros(300, int)
    for step in range(200):
        np.add.at(counts, mixture.draw(step, 256).of("b"), 1)
    assert counts.min() > 0
    assert abs(counts.mean() - 200 * 256 * 150 / 350 / 300) < 3


def test_a_draw_is_a_function_of_seed_and_step() -> None:
    sizes = {"a": 1000, "b": 2000}
    first, again, other = Mixture(sizes, seed=1), Mixture(sizes, seed=1), Mixture(sizes, seed=2)
    for step in (0, 7, 10**9):
        one, two = first.draw(step, 64), again.draw(step, 64)
        np.testing.assert_array_equal(one.datasets, two.datasets)
        np.testing.assert_array_equal(one.items, two.items)
        assert (one.items < np.array([1000, 2000])[one.datasets]).all()
        assert len(one.of("a")) + len(one.of("b")) == 64
        assert (other.draw(step, 64).items != one.items).any()
    assert (first.draw(1, 64).items != first.draw(0, 64).items).any()


def test_mixtures_that_make_no_sense() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'bridge_orig'"):
        preset_weights("oxe_magic_soup_plus_minus", {"bridge_org": None})
    with pytest.raises(UnknownNameError, match="oxe_magic_soup_plus"):
        preset_weights("oxe_magic_soup_pls")
    with pytest.raises(UnknownNameError, match="unknown name 'b'"):
        Mixture({"a": 1, "b": 1}, {"a": 1.0})
    with pytest.raises(UnknownNameError, match="unknown name 'b'"):
        Mixture({"a": 1}, {"a": 1.0, "b": 1.0})
    for sizes, weights in (({}, None), ({"a": 0}, None), ({"a": 1}, {"a": -1.0}), ({"a": 1}, {"a": float("nan")})):
        with pytest.raises(ContractError):
            Mixture(sizes, weights)
    with pytest.raises(ContractError, match="step 0 or more"):
        Mixture({"a": 1}).draw(-1, 4)
    with pytest.raises(ContractError, match="one step or more"):
        Mixture({"a": 1}).shares(range(0), 4)
    with pytest.raises(UnknownNameError, match="unknown name 'x'"):
        Mixture({"a": 1}).draw(0, 1).of("x")
    assert preset_weights("oxe_magic_soup", {"kuka": 0}) == {"kuka": 0.8341046294}
    assert preset_weights("oxe_magic_soup") == MIXTURES["oxe_magic_soup"]


def test_the_page_says_what_the_recipes_say() -> None:
    page = (Path(__file__).parents[1] / "docs" / "rlds.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    said = {row[0]: (row[1], row[2]) for row in rows if row[0] in RECIPES}
    assert said == {recipe.name: (f"{recipe.control_hz:g}", recipe.rotation) for recipe in RECIPES.values()}
