"""Normalisers and gripper conventions: the released arithmetic, statistic files, and everything to be refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actloop.actions.grippers import GRIPPERS, from_robosuite, gripper_convention, to_robosuite
from actloop.actions.normalizers import (
    METHODS,
    RELEASED_METHODS,
    MaskedNormalizer,
    Normalizer,
    from_dict,
    from_moments,
    from_range,
    from_stats,
    masked_quantile,
    min_max,
    read_released_stats,
)
from actloop.errors import ContractError, DataError, UnknownNameError

RNG = np.random.default_rng(0)
ROWS = RNG.normal([0.1, -2.0, 30.0], [0.02, 1.0, 8.0], (500, 3))


def described(rows: np.ndarray) -> dict[str, Any]:
    """As the released files describe one vector, with the stepwise entries that nothing reads."""
    quantiles = np.quantile(rows, [0.01, 0.99], axis=0)
    fields = {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        "q01": quantiles[0],
        "q99": quantiles[1],
    }
    whole = {f"global_{name}": value.tolist() for name, value in fields.items()}
    return {**whole, **{f"stepwise_{name}": [value.tolist()] * 32 for name, value in fields.items()}}


def written(tmp_path: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Path:
    plain = {
        "state": {"default": described(ROWS)},
        "action": {"default": described(ROWS[:, :2])},
        "num_episodes": 7,
        "num_transition": 500,
    }
    if change is not None:
        change(plain)
    path = tmp_path / "robot_dataset_stats.json"
    path.write_text(json.dumps(plain))
    return path


def released_float32(stats: dict[str, np.ndarray], method: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The released formula in the released precision: x * scale + offset, clamped; and its unclamped inverse."""
    one = np.float32(1)
    low, high, mean, std = (stats[name].astype(np.float32) for name in ("min", "max", "mean", "std"))
    if method == "z_score":
        scale = one / (std + np.float32(1e-8))
        offset = -mean / (std + np.float32(1e-8))
    else:
        flat = high - low < np.float32(1e-4)
        scale = np.float32(2) / np.where(flat, np.float32(2), high - low)
        offset = np.where(flat, -low, -one - scale * low)
    normalised = np.clip(x.astype(np.float32) * scale + offset, np.float32(-5), np.float32(5))
    return normalised, (normalised - offset) / scale


@pytest.mark.parametrize("method", list(RELEASED_METHODS))
def test_released_statistics_give_the_released_numbers(tmp_path: Path, method: str) -> None:
    stats = read_released_stats(written(tmp_path))
    assert set(stats) == {"state", "action"}
    normalizer = RELEASED_METHODS[method](stats["state"])
    assert normalizer.method == method
    there, back = released_float32(stats["state"], method, ROWS)
    np.testing.assert_allclose(normalizer.normalize(ROWS), there, atol=3e-6)
    apart = np.abs(normalizer.denormalize(there) - back) / np.abs(ROWS).max(0)
    assert apart.max() < 1e-6, "no more than the released float32 arithmetic loses itself"
    assert len(RELEASED_METHODS[method](stats["action"]).offset) == 2


def test_min_max_reaches_both_ends_and_z_score_has_unit_spread(tmp_path: Path) -> None:
    stats = read_released_stats(written(tmp_path))["state"]
    ends = RELEASED_METHODS["min_max"](stats).normalize(ROWS)
    np.testing.assert_allclose(ends.min(0), -1, atol=1e-6)
    np.testing.assert_allclose(ends.max(0), 1, atol=1e-6)
    spread = RELEASED_METHODS["z_score"](stats).normalize(ROWS)
    np.testing.assert_allclose(spread.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(spread.std(0), 1, atol=0.01)


def test_a_range_below_1e_4_keeps_its_unit_and_maps_to_0() -> None:
    low, high = np.array([3.0, 3.0, 3.0]), np.array([3.0, 3.00009, 3.00011])
    normalizer = from_range(low, high)
    np.testing.assert_allclose(normalizer.normalize(low), [0, 0, -1], atol=1e-6)
    np.testing.assert_allclose(normalizer.normalize(low + 0.25)[:2], 0.25)
    np.testing.assert_allclose(normalizer.denormalize(np.zeros(3)), [3, 3, 3.000055], rtol=1e-6)


def test_what_never_moved_is_clamped_under_the_z_score_and_decodes_to_its_mean() -> None:
    normalizer = from_moments(np.array([2.0]), np.array([0.0]))
    np.testing.assert_array_equal(normalizer.normalize(np.array([[2.0], [2.1], [1.9]])), [[0], [5], [-5]])
    np.testing.assert_allclose(normalizer.denormalize(np.array([4.0])), [2.0])


def test_normalising_is_clamped_to_5_and_the_inverse_is_not() -> None:
    normalizer = from_range(np.array([-1.0]), np.array([1.0]))
    np.testing.assert_array_equal(normalizer.normalize(np.array([[7.0], [-7.0]])), [[5], [-5]])
    np.testing.assert_array_equal(normalizer.denormalize(np.array([7.0])), [7.0])


@pytest.mark.parametrize("method", list(METHODS))
def test_fitted_normalisers_round_trip_vectors_batches_and_json(method: str) -> None:
    normalizer = METHODS[method](ROWS)
    for rows in (ROWS[3], ROWS[:6].reshape(2, 3, 3)):
        there = normalizer.normalize(rows)
        assert there.dtype == np.float32
        inside = np.abs(there) < 5
        np.testing.assert_allclose(normalizer.denormalize(there)[inside], rows[inside], rtol=1e-5, atol=1e-5)
    assert from_dict(json.loads(json.dumps(normalizer.to_dict()))) == normalizer


def test_min_max_of_rows_is_the_range_of_rows() -> None:
    assert min_max(ROWS) == from_range(ROWS.min(0), ROWS.max(0))


def drop(*keys: str) -> Callable[[dict[str, Any]], object]:
    def change(plain: dict[str, Any]) -> None:
        for key in keys[:-1]:
            plain = plain[key]
        del plain[keys[-1]]

    return change


def put(value: object, *keys: str) -> Callable[[dict[str, Any]], object]:
    def change(plain: dict[str, Any]) -> None:
        for key in keys[:-1]:
            plain = plain[key]
        plain[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("state"), r"state.default: no 'state' in the file, only \['action', 'num_episodes', 'num_transition'\]"),
        (drop("action", "default"), r"action.default: no 'default' in the file, only \[\]"),
        (put([1], "action"), "no 'default' in the file, only list"),
        (drop("state", "default", "global_std"), "state.default: misses global_std; has"),
        (put(3, "state", "default"), "misses global_min, global_max"),
        (put([1.0], "state", "default", "global_min"), "different lengths.*'min': 1, 'max': 3"),
        (put([1.0, None, 2.0], "state", "default", "global_min"), "global_min: expected a list of"),
        (put([1.0, "x", 2.0], "state", "default", "global_min"), "global_min: expected a list of numbers"),
        (put([1.0, float("nan"), 2.0], "state", "default", "global_min"), "global_min: expected a list of finite"),
        (
            put([[1.0], [2.0]], "state", "default", "global_min"),
            r"expected a list of finite numbers, got shape \(2, 1\)",
        ),
        (put([], "state", "default", "global_min"), r"got shape \(0,\)"),
        (put([9e9, 9e9, 9e9], "state", "default", "global_min"), "maximum lies below its minimum"),
        (put([-1.0, 0.0, 0.0], "state", "default", "global_std"), "standard deviation is negative"),
    ],
)
def test_a_damaged_statistics_file_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_released_stats(written(tmp_path, change))


def test_keys_are_named_and_files_must_exist(tmp_path: Path) -> None:
    path = written(tmp_path, lambda plain: plain["state"].update(arm=described(ROWS[:, :1])))
    assert len(read_released_stats(path, state_key="arm")["state"]["mean"]) == 1
    with pytest.raises(DataError, match=r"action.arm: no 'arm' in the file, only \['default'\]"):
        read_released_stats(path, action_key="arm")
    with pytest.raises(DataError, match="not a readable statistics file"):
        read_released_stats(tmp_path / "absent.json")
    path.write_text("{")
    with pytest.raises(DataError, match="not a readable statistics file"):
        read_released_stats(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a readable statistics file"):
        read_released_stats(path)


def test_normalisers_refuse_what_cannot_be_inverted() -> None:
    with pytest.raises(ContractError, match="2 offsets but 1 scales"):
        Normalizer(method="x", offset=(0.0, 0.0), scale=(1.0,))
    with pytest.raises(ContractError, match="scales positive"):
        Normalizer(method="x", offset=(0.0,), scale=(0.0,))
    with pytest.raises(ContractError, match="expected lists"):
        from_dict({"method": "x", "offset": 3})


BRIDGE = {
    "q01": [-0.02872725307941437, -0.04170349963009357, -0.08092105075716972, 0.0],
    "q99": [0.028309678435325586, 0.040855254605412394, 0.08192047759890528, 1.0],
    "mask": [True, True, True, False],
}


def test_openvlas_statistics_give_openvlas_numbers() -> None:
    normalizer = from_stats(BRIDGE)
    low, high = np.array(BRIDGE["q01"]), np.array(BRIDGE["q99"])
    physical = np.array([[0.01, -0.02, 0.03, 1.0], [0.5, -0.5, 0.0, 0.3], [*low[:3], 0.0], [*high[:3], 7.0]])
    expected = np.clip(2 * (physical - low) / (high - low + 1e-8) - 1, -1, 1)
    expected[:, 3] = physical[:, 3]
    there = normalizer.normalize(physical)
    assert there.dtype == np.float32
    np.testing.assert_allclose(there, expected, atol=1e-7)
    answered = np.array([[0.25, -1.0, 0.99608, 0.99608]])
    back = normalizer.denormalize(answered)
    assert back.dtype == np.float64
    np.testing.assert_array_equal(back[0, :3], (0.5 * (answered + 1) * (high - low) + low)[0, :3])
    assert back[0, 3] == 0.99608


def test_a_masked_normaliser_reads_arrays_and_its_own_dictionary() -> None:
    arrays = {name: np.array(value) for name, value in BRIDGE.items()}
    normalizer = from_stats(arrays)
    assert from_stats(json.loads(json.dumps(normalizer.to_dict()))).to_dict() == normalizer.to_dict()
    assert from_stats({"q01": [0.0], "q99": [1.0]}).mask == (True,), "no mask: all of them"
    assert from_stats({"q01": [0], "q99": [1], "mask": [0]}).mask == (False,)


def test_what_never_moved_is_learned_as_0_and_read_back_as_it_was() -> None:
    stats = {**BRIDGE, "min": [-0.4, 0.0, -1.0, 1.0], "max": [0.4, 0.0, 1.0, 1.0]}
    stats["q01"], stats["q99"] = [-0.03, 0.0, -0.08, 1.0], [0.03, 0.0, 0.08, 1.0]
    normalizer = from_stats(stats)
    assert normalizer.constant == (False, True, False, True)
    there = normalizer.normalize(np.array([[0.0, 0.0, 0.0, 1.0], [0.0, 0.7, 0.0, 0.5]]))
    np.testing.assert_array_equal(there[:, 1], [0, 0])
    np.testing.assert_array_equal(there[:, 3], [1, 0.5], "not masked: passed through, constant or not")
    np.testing.assert_allclose(normalizer.denormalize(there)[0], [0, 0, 0, 1], atol=1e-8)
    assert from_stats(json.loads(json.dumps(normalizer.to_dict()))) == normalizer


def test_fitted_masked_quantiles_are_numpys() -> None:
    rows = np.concatenate([ROWS, np.full((500, 1), 4.0)], axis=1)
    normalizer = masked_quantile(rows, [True, True, False, True])
    np.testing.assert_array_equal(normalizer.low, np.quantile(rows, 0.01, axis=0))
    np.testing.assert_array_equal(normalizer.high, np.quantile(rows, 0.99, axis=0))
    assert normalizer.constant == (False, False, False, True)
    inside = (rows[:, :2] > normalizer.low[:2]) & (rows[:, :2] < normalizer.high[:2])
    back = normalizer.denormalize(normalizer.normalize(rows))
    np.testing.assert_allclose(back[:, :2][inside], rows[:, :2][inside], atol=1e-6)
    np.testing.assert_allclose(back[:, 2:], rows[:, 2:], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"q99": None}, r"bridge\.q99: expected a list of numbers, got NoneType"),
        ({"q01": ["a", 0, 0, 0]}, "q01: expected a list of numbers"),
        ({"q01": [0.0, 0.0]}, r"different lengths, \[2, 4\]"),
        ({"mask": [True]}, "different lengths"),
        ({"mask": ["yes", 1, 1, 1]}, r"bridge\.mask: expected a list of true and false"),
        ({"q01": [9.0, 9.0, 9.0, 9.0]}, "at most its high"),
        ({"q99": [float("nan")] * 4}, "at most its high"),
        ({"q01": [], "q99": [], "mask": []}, "different lengths"),
    ],
)
def test_damaged_masked_statistics_are_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ContractError, match=said):
        from_stats({**BRIDGE, **change}, "bridge")


def test_missing_masked_statistics_are_named() -> None:
    with pytest.raises(ContractError, match=r"normalizer\.q99: missing; got \['q01'\]"):
        from_stats({"q01": [0.0]})
    with pytest.raises(ContractError, match="different lengths"):
        MaskedNormalizer(low=(0.0,), high=(1.0,), mask=(True,), constant=(True, False))


def test_robosuite_opens_at_minus_1_and_closes_at_plus_1() -> None:
    data = np.array([[0.1, 1.0], [0.2, 0.0], [0.3, 0.9], [0.4, 0.2], [0.5, 0.5], [0.6, -0.3], [0.7, 1.4]], np.float32)
    kept = data.copy()
    commands = to_robosuite(data)
    np.testing.assert_array_equal(commands[:, 1], [-1, 1, -1, 1, 0, 1, -1])
    np.testing.assert_array_equal(commands[:, 0], data[:, 0])
    np.testing.assert_array_equal(data, kept, "inputs are never changed")
    assert commands.dtype == np.float32
    # The released evaluation's own order: double and shift, negate, sign.
    np.testing.assert_array_equal(commands[:, 1], np.sign(-(2 * data[:, 1] - 1)))


def test_gripper_conventions_have_inverses() -> None:
    np.testing.assert_array_equal(from_robosuite(np.array([[2.0, -1.0], [2.0, 1.0], [2.0, 0.0]]))[:, 1], [1, 0, 0.5])
    commands = np.array([[0.3, -1.0], [0.4, 1.0], [0.5, 0.0]])
    for name, convention in GRIPPERS.items():
        assert convention.name == name
        sent = commands if name in ("as-recorded", "robosuite") else np.array([[0.4, 1.0], [0.5, 0.0]])
        np.testing.assert_array_equal(convention.to_body(convention.to_data(sent)), sent)
    assert gripper_convention("as-recorded").to_body(commands) is not commands


def test_an_unknown_gripper_convention_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'robosuite'"):
        gripper_convention("robosuit")
