"""What prediction is worth: the cheapest arm for every cost of a failure, and stacks as arms of a comparison."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actloop.errors import ContractError, UnknownNameError
from actloop.evaluation import CompareConfig, answer, compare
from actloop.evaluation.economy import Economy, affordable, cheapest, envelope

quick = settings(max_examples=100, deadline=None, database=None)
arms = st.dictionaries(
    st.sampled_from("abcdef"),
    st.builds(
        Economy,
        computed=st.integers(0, 50).map(lambda n: n / 10),
        failure=st.integers(0, 20).map(lambda n: n / 20),
        rate=st.floats(0, 2),
    ),
    min_size=1,
)


def test_who_computes_more_and_fails_less_pays_where_failures_cost_enough():
    found = envelope(
        {
            "plain": Economy(computed=0.2, failure=0.5, rate=0.1),
            "checked": Economy(computed=1.2, failure=0.25, rate=0.4),
            "dominated": Economy(computed=2.0, failure=0.4, rate=0.5),
            "planner": Economy(computed=3.2, failure=0.05, rate=1.0),
        }
    )
    assert [(stretch.arm, stretch.low, stretch.high) for stretch in found] == [
        ("plain", 0.0, pytest.approx(4.0)),
        ("checked", pytest.approx(4.0), pytest.approx(10.0)),
        ("planner", pytest.approx(10.0), math.inf),
    ]


@quick
@given(arms, st.floats(0, 1000))
def test_the_envelope_names_the_cheapest_everywhere(economies, failure_cost):
    found = envelope(economies)
    assert found[0].low == 0.0
    assert math.isinf(found[-1].high)
    assert all(one.high == other.low for one, other in pairwise(found)), "without gaps"
    (here,) = [stretch for stretch in found if stretch.low <= failure_cost < stretch.high]
    least = economies[cheapest(economies, failure_cost)].cost(failure_cost)
    assert economies[here.arm].cost(failure_cost) == pytest.approx(least)


def test_a_budget_leaves_out_who_computes_more():
    economies = {name: Economy(computed=1, failure=0, rate=rate) for name, rate in (("slow", 0.9), ("quick", 0.1))}
    assert set(affordable(economies, None)) == {"slow", "quick"}
    assert set(affordable(economies, 0.5)) == {"quick"}


STACK = """
[world]
name = "exact"

[loop]
execute_horizon = 4
run_on = 8

[action]
model = "test_evaluation:dreamer"
latency = 50

[check]
checks = ["proprioception"]
every = 1
latency = 10
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> CompareConfig:
    folder = tmp_path_factory.mktemp("stacks")
    (folder / "checked.toml").write_text(STACK, encoding="utf-8")
    arms = {"plain": "test_evaluation:plain", "checked": str(folder / "checked.toml")}
    return CompareConfig(
        out=folder / "run",
        arms=arms,
        world="exact",
        episodes=4,
        latency="190",
        sweep=("0",),
        videos=1,
        workers=1,
        faults=("displace@3-5",),
        alpha=0.2,
        calibration_episodes=10,
        failure_cost=10.0,
    )


@pytest.fixture(scope="module")
def finished(config: CompareConfig):
    return compare(config)


def test_a_stack_file_is_an_arm_that_meets_the_same_episodes(finished, config):
    cell = finished.cell("checked", "190ms")
    assert cell.episodes == finished.cell("plain", "190ms").episodes == 8
    assert cell.latency_ms.p50 == 190, "the condition's latency, not the file's"
    records = [record for record in finished.records if record["arm"] == "checked"]
    assert all(record["result"]["error"] == "" for record in records)
    assert all(record["result"]["computed"]["check"] > 0 for record in records)
    pairs = {(record["task"], record["seed"], record["condition"]): record["incidents"] for record in records}
    for record in finished.records:
        key = (record["task"], record["seed"], record["condition"])
        assert [one["due"] for one in record["incidents"]] == [one["due"] for one in pairs[key]], "the same faults"


def test_a_stack_says_which_kind_of_policy_acts_in_it(finished, config, tmp_path):
    plain, _, _ = STACK.replace("run_on = 8", "").partition("[check]")
    (tmp_path / "alone.toml").write_text(plain, encoding="utf-8")
    arms = {"alone": str(tmp_path / "alone.toml")}
    run = compare(replace(config, out=tmp_path / "run", arms=arms, latency="published", sweep=(), episodes=1)).run
    assert run.main.latency_ms("alone") == 580, "as published for its variant"
    assert [(arm.variant, arm.place) for arm in run.arms] == [("joint", "online")]
    checked = next(arm for arm in finished.run.arms if arm.name == "checked")
    assert (checked.variant, checked.place) == ("joint", "in checks")


def test_checks_are_calibrated_once_for_each_condition(finished, config):
    files = sorted(path.name for path in (config.out / "calibrations" / "checked").iterdir())
    assert files == ["0ms.json", "190ms.json"]
    latencies = {
        json.loads((config.out / "calibrations" / "checked" / name).read_text())["identity"]["latency"]
        for name in files
    }
    assert latencies == {"0ms", "190ms"}


def test_the_answer_weighs_computing_against_failures(finished):
    said = answer(finished)
    paragraphs = dict(said.paragraphs)
    assert "where a failure costs 10 s" in said.headline
    assert "Episodes cost least" in paragraphs["Cost of failure"]
    assert paragraphs["Checks"].startswith("Checks raised an alarm: checked in ")


def test_the_same_comparison_goes_on_and_another_is_refused(finished, config):
    again = compare(config)
    assert again.cells == finished.cells


def test_what_means_nothing_is_refused(config):
    for wrong, said in (
        ({"failure_cost": -1.0}, "failure_cost"),
        ({"compute_budget": 0.0}, "compute_budget"),
        ({"alpha": 1.0}, "alpha"),
        ({"calibration_episodes": 0}, "calibration_episodes"),
    ):
        with pytest.raises(ContractError, match=said):
            replace(config, **wrong)
    with pytest.raises(UnknownNameError, match="displace"):
        replace(config, faults=("displce@3",))


def test_too_few_calibration_episodes_are_said_before_the_first_episode(config, tmp_path: Path):
    few = replace(config, out=tmp_path / "few", calibration_episodes=2, alpha=0.05)
    with pytest.raises(ContractError, match="ask for more calibration episodes"):
        compare(few)
