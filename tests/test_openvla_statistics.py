"""Statistics by dataset, prompts and pictures: what goes into OpenVLA, and that what cannot be is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dots import BODY, dots
from tiny_openvla import TOKENS

from actloop.actions.bins import centre_bins
from actloop.cli.openvla import counted, write_dataset_statistics
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.models.openvla.pictures import Pictures, crop, lanczos
from actloop.models.openvla.prompts import LLAMA2_SPACE, is_llama2, prompt_ids, question
from actloop.models.openvla.statistics import choose, compute, read_statistics, write_statistics
from actloop.models.views import Mosaic, Panel

SHARED = Path(__file__).parents[2] / "shared"
BRIDGE = {
    "q01": [-0.0287, -0.0417, -0.0261, -0.0809, -0.0929, -0.2072, 0.0],
    "q99": [0.0283, 0.0409, 0.0402, 0.0819, 0.0779, 0.2038, 1.0],
    "mask": [True] * 6 + [False],
}


def written(path: Path, plain: object) -> Path:
    path.write_text(json.dumps(plain))
    return path


# --- norm_stats -------------------------------------------------------------------------------------------------------


def test_released_structure_is_read_and_used(tmp_path: Path) -> None:
    plain = {"norm_stats": {"bridge_orig": {"action": BRIDGE, "num_transitions": 7, "num_trajectories": 2}}}
    written(tmp_path / "config.json", plain)
    key, found = choose(read_statistics(tmp_path), None, "folder")
    assert (key, found.transitions, found.trajectories, found.proprio) == ("bridge_orig", 7, 2, None)
    normalizer = found.action.normalizer()
    low, high = np.array(BRIDGE["q01"]), np.array(BRIDGE["q99"])
    np.testing.assert_allclose(normalizer.normalize((low + high) / 2)[:6], 0, atol=1e-5)
    assert normalizer.normalize(high * 3)[:6].tolist() == [1.0] * 6  # clipped
    assert normalizer.denormalize(np.full(7, 0.7))[6] == 0.7  # the gripper is not touched
    assert centre_bins(normalizer).encode(np.zeros((1, 7)))[0, 6] == 128  # closed: id 31872


def test_the_statistics_file_wins_over_the_configuration(tmp_path: Path) -> None:
    written(tmp_path / "config.json", {"norm_stats": {"old": {"action": BRIDGE}}})
    written(tmp_path / "dataset_statistics.json", {"new": {"action": BRIDGE}})
    assert list(read_statistics(tmp_path)) == ["new"]
    assert list(read_statistics(tmp_path / "config.json")) == ["old"]


def test_a_wrong_key_lists_or_suggests(tmp_path: Path) -> None:
    names = ("bridge_orig", "fractal20220817_data", "libero_spatial_no_noops")
    known = read_statistics(written(tmp_path / "config.json", {name: {"action": BRIDGE} for name in names}))
    with pytest.raises(UnknownNameError, match=r"did you mean 'bridge_orig'"):
        choose(known, "bridge", "folder")
    with pytest.raises(UnknownNameError, match=r"unnorm_key.*fractal20220817_data"):
        choose(known, None, "folder")
    assert choose(known, "libero_spatial", "folder")[0] == "libero_spatial_no_noops"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q01": [1.0] * 7}, "component 0: q01 lies above q99"),
        ({"q99": [0.1] * 6}, "different lengths"),
        ({"mask": [True]}, "different lengths"),
        ({"mask": [1] * 7}, "expected true and false"),
        ({"q01": [float("nan")] * 7}, "not finite"),
        ({"q01": [0.0] * 7, "q99": [0.0] * 7, "mask": [True] * 7}, "nothing in these data moves"),
        ({"q01": "text"}, "lists of numbers"),
        ({"min": [1.0] * 7, "max": [0.0] * 7}, "min lies above max"),
    ],
)
def test_statistics_that_cannot_be_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = written(tmp_path / "dataset_statistics.json", {"mine": {"action": {**BRIDGE, **change}}})
    with pytest.raises(DataError, match=f"mine: action.*{said}"):
        read_statistics(path)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither dataset_statistics\.json nor config\.json"):
        read_statistics(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json: not a readable"):
        read_statistics(tmp_path)
    with pytest.raises(DataError, match="expected statistics by dataset"):
        read_statistics(written(tmp_path / "other.json", []))
    with pytest.raises(DataError, match="mine: no 'action', only"):
        read_statistics(written(tmp_path / "other.json", {"mine": {"actions": 1}}))


def test_own_statistics_are_numpys_quantiles_and_survive_the_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    actions = rng.normal(size=(500, 3)).astype(np.float32)
    actions[:, 2] = rng.integers(0, 2, 500)
    states = rng.normal(size=(500, 2)).astype(np.float32)
    found = compute(actions, states, trajectories=5)
    np.testing.assert_array_equal(found.action.q01, np.quantile(actions.astype(np.float64), 0.01, axis=0))
    np.testing.assert_array_equal(found.action.max, actions.max(0))
    assert found.action.mask == (True, True, False)  # a gripper, 1 open, 0 closed
    assert found.proprio is not None
    assert found.proprio.mask == (True, True)
    path = write_statistics(tmp_path / "out", {"mine": found})
    assert path.name == "dataset_statistics.json"
    assert read_statistics(tmp_path / "out") == {"mine": found}
    assert compute(actions, trajectories=5, mask=[True, True, True]).action.mask == (True,) * 3


def test_a_gripper_in_metres_is_normalised() -> None:
    actions = np.tile(np.array([[0.0, 0.01], [0.1, 0.11]]), (50, 1))
    assert compute(actions, trajectories=1).action.mask == (True, True)


def test_a_component_that_never_moves_reads_back_as_it_was() -> None:
    actions = np.stack([np.linspace(-1, 1, 100), np.full(100, 0.3)], axis=1)
    normalizer = compute(actions, trajectories=1).action.normalizer()
    assert normalizer.normalize(actions)[:, 1].tolist() == [0.0] * 100
    np.testing.assert_allclose(centre_bins(normalizer).decode(centre_bins(normalizer).encode(actions))[:, 1], 0.3)


def test_bounds_may_be_the_extremes() -> None:
    actions = np.linspace(-1, 1, 1000)[:, None]
    found = compute(actions, trajectories=1).action
    assert found.normalizer("min-max").high == (1.0,)
    assert found.normalizer().high[0] == pytest.approx(0.98)
    with pytest.raises(UnknownNameError, match="min-max"):
        found.normalizer("minmax")
    with pytest.raises(DataError, match="no extremes"):
        replace(found, min=(), max=()).normalizer("min-max")


def test_data_without_steps_or_with_nan_are_refused() -> None:
    with pytest.raises(DataError, match="got 0 steps"):
        compute(np.zeros((0, 3)), trajectories=0)
    with pytest.raises(DataError, match="finite"):
        compute(np.full((3, 2), np.nan), trajectories=1)
    with pytest.raises(DataError, match="nothing in these data moves"):
        compute(np.ones((3, 2)), trajectories=1)


def test_the_command_counts_a_dataset(tmp_path: Path) -> None:
    data = dots(tmp_path)
    path, key, found = write_dataset_statistics(tmp_path, None, name="dots")
    assert read_statistics(tmp_path)["dots"] == found
    assert (found.transitions, found.trajectories) == (len(data.actions), 10)
    said = counted(path, key, found, tuple(BODY.action.component_names))
    assert "10 episodes, 80 steps" in said
    assert "position.1" in said
    with pytest.raises(DataError, match="expected a LeRobotDataset v3"):
        write_dataset_statistics(tmp_path / "nothing", None)


@pytest.mark.skipif(not (SHARED / "data" / "bridge").is_dir(), reason="../shared/data/bridge is not here")
def test_real_bridge_steps_have_the_released_scale(tmp_path: Path) -> None:
    _, key, found = write_dataset_statistics(SHARED / "data" / "bridge", tmp_path, name="bridge_orig")
    assert key == "bridge_orig"
    assert found.trajectories == 25
    assert found.action.mask == (True,) * 6 + (False,)
    spread = (np.array(found.action.q99) - found.action.q01)[:6]
    released = (np.array(BRIDGE["q99"]) - BRIDGE["q01"])[:6]
    assert ((spread > released / 4) & (spread < released * 4)).all()


# --- prompts ----------------------------------------------------------------------------------------------------------


class Llama2:
    """As much of Llama 2's tokenizer as one prompt needs."""

    ids = (512, 29901, 1724, 3158, 881, 278, 19964, 2125, 304, 5839, 701, 278, 18002, 29973, 13, 3744, 29901)

    def __init__(self, *, space: bool = False) -> None:
        self.space = space

    size, begin, end, pad = 32001, 1, 2, 32000
    special = frozenset({0, 1, 2, 32000})

    def encode(self, text: str) -> list[int]:
        assert text == "In: What action should the robot take to pick up the cup?\nOut:"
        return list(self.ids)

    def decode(self, ids: object) -> str:
        return ""


def test_llama_2_is_asked_with_the_lone_space_and_others_are_not() -> None:
    assert is_llama2(Llama2())
    assert prompt_ids(Llama2(), "Pick up the cup") == [*Llama2.ids, LLAMA2_SPACE]
    assert not is_llama2(TOKENS)
    assert TOKENS.decode(prompt_ids(TOKENS, " Go LEFT ")) == question("go left")


def test_templates() -> None:
    assert question("Pick it UP") == "In: What action should the robot take to pick it up?\nOut:"
    assert question("x", "v0.1").endswith(
        "answers to the user's questions. USER: What action should the robot take to x? ASSISTANT:"
    )
    with pytest.raises(UnknownNameError, match=r"did you mean 'v0\.1'"):
        question("x", "v0")


# --- pictures ---------------------------------------------------------------------------------------------------------


def noise(height: int = 12, width: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_centre_crop_is_the_released_one() -> None:
    """Sampled at box corners that coincide with pixel centres, bilinearly, one pixel after the other."""
    picture, side = noise(), 0.9**0.5
    expected = np.empty_like(picture)
    for row in range(12):
        for column in range(12):
            y, x = (((1 - side) / 2 + side * at / 11) * 11 for at in (row, column))
            top, left = int(y), int(x)
            a, b = y - top, x - left
            corners = picture[top : top + 2, left : left + 2].astype(np.float64) / 255
            value = (1 - a) * ((1 - b) * corners[0, 0] + b * corners[0, 1])
            value += a * ((1 - b) * corners[1, 0] + b * corners[1, 1])
            expected[row, column] = np.minimum(np.floor(value * 255.5), 255)
    found = crop(picture, 0.9, 0.5, 0.5)
    assert np.abs(found.astype(int) - expected).max() <= 1  # float32 against float64, on the edge of a level
    assert (found == expected).mean() > 0.99
    np.testing.assert_array_equal(crop(picture, 1.0, 0.5, 0.5), picture)


def test_pictures_are_turned_and_resized() -> None:
    panel = Panel(camera="top", top=0, left=0, height=16, width=16, rotate_180=True)
    shown = Pictures(mosaics=(Mosaic(height=16, width=16, panels=(panel,)),))
    frame = noise(16, 16)
    np.testing.assert_array_equal(shown.show({"top": frame})[0], frame[::-1, ::-1])
    small = replace(shown, side=8).show({"top": frame})[0]
    np.testing.assert_array_equal(small, lanczos(frame[::-1, ::-1], 8))
    assert small.shape == (8, 8, 3)
    cut = replace(shown, centre_crop=0.5)
    assert (cut.show({"top": frame})[0] != frame[::-1, ::-1]).any()
    np.testing.assert_array_equal(cut.show({"top": frame}, cut=False)[0], frame[::-1, ::-1])


def test_pictures_survive_json() -> None:
    shown = Pictures(mosaics=Pictures.one_each(BODY).mosaics, side=224, centre_crop=0.9)
    assert Pictures.from_dict(json.loads(json.dumps(shown.to_dict()))) == shown
    with pytest.raises(ContractError, match="pictures"):
        Pictures.from_dict({"mosaics": []})
    with pytest.raises(ContractError, match="centre_crop"):
        replace(shown, centre_crop=0.0)


def test_tokens_for_actions_exist() -> None:
    assert not TOKENS.special & set(range(TOKENS.size - 256, TOKENS.size))
