"""`actloop actions report`: the figures on real Bridge actions, the table and its JSON, and what is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from actloop.actions.comparison import chunked, compared, held_out
from actloop.cli import actions as report_module
from actloop.cli.actions import read, report, table
from actloop.errors import ContractError, DataError, UnknownNameError

pytest.importorskip("scipy")
pytest.importorskip("tokenizers")

SHARED = Path(__file__).parents[2] / "shared" / "data"
BRIDGE = pytest.mark.skipif(not (SHARED / "bridge").is_dir(), reason="needs ../shared/data/bridge: real Bridge steps")
LEROBOT = pytest.mark.skipif(
    not (SHARED / "lerobot_v3_sample").is_dir(), reason="needs ../shared/data/lerobot_v3_sample"
)


def wave(count: int, steps: int = 25, seed: int = 0) -> list[np.ndarray]:
    """Episodes of slow motion in two components, metres and a gripper."""
    random = np.random.default_rng(seed)
    time = np.arange(steps)[:, None] / 10
    return [
        np.concatenate([0.1 * np.sin(time + random.uniform(0, 6)), time > random.uniform(0, 2)], axis=1)
        for _ in range(count)
    ]


@BRIDGE
def test_the_known_figures_on_250_real_bridge_steps() -> None:
    """10-step chunks: 256 quantile bins lose about 0.0025 and FAST at scale 10 about 0.028 (specification 4.1)."""
    found = json.loads(report(SHARED / "bridge", horizon=10, json=True))
    assert (found["episodes"], found["steps"], found["chunks"]) == (25, 250, 25)
    rows = {row["representation"]: row for row in found["rows"]}
    bins, fast = rows["quantile bins"], rows["FAST, scale 10"]
    assert bins["normalised"]["rmse"] == pytest.approx(0.0025, abs=1e-4)
    assert bins["normalised"]["largest"] == pytest.approx(1 / 255, rel=1e-3)
    assert fast["normalised"]["rmse"] == pytest.approx(0.028, abs=1e-3)
    assert fast["normalised"]["largest"] == pytest.approx(0.09, abs=2e-3)
    assert bins["per_chunk"] == 70
    assert fast["per_chunk"] < 60
    assert rows["continuous"]["normalised"]["largest"] < 1e-6
    assert bins["physical"]["action.0"]["largest"] > 0.002, "what lies outside the quantiles is clipped"


@BRIDGE
def test_a_recipe_names_parts_and_units() -> None:
    text = report(SHARED / "bridge", horizon=8, recipe="bridge_orig", scales=[10.0])
    assert "translation (m)" in text
    assert "rotation (rad)" in text
    with pytest.raises(ContractError, match="no episode has 10 steps, the longest has 8"):
        report(SHARED / "bridge", horizon=10, recipe="bridge_orig")
    with pytest.raises(UnknownNameError):
        report(SHARED / "bridge", recipe="brige_orig")


@LEROBOT
def test_a_lerobot_dataset_is_read() -> None:
    folder = sorted(path.parent.parent for path in (SHARED / "lerobot_v3_sample").glob("**/meta/info.json"))[0]
    recorded = read(folder)
    assert len(recorded.episodes) == 2
    assert sum(map(len, recorded.episodes)) == 70
    assert recorded.space is None
    assert len(recorded.parts) == recorded.episodes[0].shape[1]
    found = json.loads(report(folder, horizon=5, scales=[10.0], json=True))
    assert found["episodes"] == 2
    with pytest.raises(ContractError, match="bounds: expected data for"):
        report(folder, bounds="limits")


def test_every_representation_is_compared_on_the_same_chunks() -> None:
    results = {one.name: one for one in compared(wave(10), 10, scales=(10.0, 100.0))}
    assert set(results) == {
        "uniform bins",
        "integer text, digit by digit",
        "quantile bins",
        "continuous",
        "continuous, clipped",
        "FAST, scale 10",
        "FAST, scale 100",
    }
    assert {one.chunks for one in results.values()} == {20}
    assert results["integer text, digit by digit"].size > 2 * results["uniform bins"].size
    np.testing.assert_allclose(
        results["integer text, digit by digit"].physical.rmse, results["uniform bins"].physical.rmse
    )
    assert results["FAST, scale 10"].size < results["uniform bins"].size
    assert results["FAST, scale 100"].normalised.overall[0] < results["FAST, scale 10"].normalised.overall[0] / 5
    bounded = compared(wave(10), 10, limits=(np.array([-1.0, 0.0]), np.array([1.0, 1.0])))[0]
    assert bounded.physical.rmse[0] > 5 * results["uniform bins"].physical.rmse[0], "wide limits, coarse bins"


def test_components_that_never_move_are_allowed() -> None:
    still = [np.concatenate([one, np.full((len(one), 1), 3.0)], axis=1) for one in wave(6)]
    for one in compared(still, 10):
        assert one.physical.largest[2] < 0.01, one.name


def test_tokens_are_counted_on_episodes_that_were_not_learned_from() -> None:
    chunks = chunked(wave(11), 10)
    learned, counted = held_out(chunks)
    assert len(learned) == 18
    assert len(counted) == 4
    assert counted[0] is chunks[4][0]
    few = held_out(chunked(wave(3), 10))
    assert few[0] == few[1]


def test_chunks_do_not_overlap_and_leftovers_are_dropped() -> None:
    chunks = chunked([np.arange(25.0)[:, None], np.arange(4.0)[:, None]], 10)
    assert [len(one) for one in chunks] == [2, 0]
    np.testing.assert_array_equal(chunks[0][1][:, 0], np.arange(10, 20))
    with pytest.raises(ContractError, match="no episode has 30 steps, the longest has 25"):
        chunked(wave(2), 30)
    with pytest.raises(ContractError, match="at least 1 action, got 0"):
        chunked(wave(2), 0)


def test_the_table_is_aligned_and_says_what_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = report_module._named("waves", wave(10), None, ("x", "gripper"))
    monkeypatch.setenv("COLUMNS", "120")
    text = table(recorded, compared(recorded.episodes, 10, scales=(10.0,)), 10)
    assert text.startswith("waves: 10 of 10 episodes, 250 steps; 20 chunks of 10 actions, ")
    assert re.search(r"^  quantile bins +20\.0 tokens +1\.00x +1\.00x +0\.00\d\d +0\.00\d\d$", text, re.MULTILINE)
    assert re.search(r"^  +x +gripper$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 120


def test_of_many_episodes_some_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = report_module._named("waves", wave(30), None, ())
    monkeypatch.setattr(report_module, "read", lambda *_, **__: recorded)
    found = json.loads(report(tmp_path, episodes=10, scales=[10.0], json=True))
    assert (found["episodes"], found["episodes_held"]) == (10, 30)
    with pytest.raises(ContractError, match="episodes: expected at least 1, got 0"):
        report(tmp_path, episodes=0)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a LeRobotDataset v3, a decoded cache, or an RLDS folder"):
        report(tmp_path)
    bad = wave(6)
    bad[2][3, 0] = np.nan
    with pytest.raises(ContractError, match="not finite"):
        compared(bad, 10)
