"""One policy judged on time, disturbed and rescued, in the exact world, where everything is known by hand."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_evaluation import HORIZON, Seeker, config, contents

from actloop.cli.evaluated import named
from actloop.contracts import Action, Observation, Prediction
from actloop.errors import ContractError
from actloop.evaluation import CompareConfig, Comparison, RunMismatchError, answer, compare, load_comparison
from actloop.evaluation.conditions import Condition, parse_scenario, parse_scenarios, settle_conditions
from actloop.evaluation.deciding import decide
from actloop.evaluation.failures import failures_of, kind_of
from actloop.evaluation.interventions import interventions_of
from actloop.evaluation.recovery import alarms_of, recovery_of
from actloop.evaluation.watching import Jerk
from actloop.loop.config import LoopConfig
from actloop.loop.episode import run_episode
from actloop.loop.events import EventLog, read_events
from actloop.loop.ladder import Handover
from actloop.loop.latency import LatencyProfile
from actloop.loop.log.replay import replay
from actloop.report.conduct import limits
from actloop.simulation.exact import ExactWorld
from actloop.simulation.faults import Disturbed, parse_faults
from actloop.simulation.registry import WORLDS

TASK = "reach-left"


def seeker() -> Seeker:
    return Seeker("fast")


def still() -> Seeker:
    """Never moves: whoever watches has to step in."""
    return Seeker("no-cotrain", lazy=1.0)


def single(out: Path, **changes: Any) -> CompareConfig:
    base = config(out, arms={"seeker": "test_eval:seeker"}, tasks=(TASK,), sweep=(), videos=0)
    return replace(base, **changes)


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "faults"),
    [
        ("displace@20", "displace", ("displace@20",)),
        ("freeze:front@15+10", "freeze-front", ("freeze:front@15+10",)),
        ("noise:position@0=0.05", "noise-position", ("noise:position@0=0.05",)),
        ("dark=dim@0,tint@0=0.2", "dark", ("dim@0", "tint@0=0.2")),
        ("goal@half-way", "goal", ("goal@half-way",)),
    ],
)
def test_a_disturbance_has_faults_and_a_name(text: str, name: str, faults: tuple[str, ...]) -> None:
    scenario = parse_scenario(text)
    assert (scenario.name, scenario.faults) == (name, faults)


def test_disturbances_of_one_kind_are_numbered_and_names_are_not_taken_twice() -> None:
    assert [one.name for one in parse_scenarios(["dim@1", "dim@5", "dim@9"])] == ["dim", "dim-2", "dim-3"]
    with pytest.raises(ContractError, match="names 'dark' twice"):
        parse_scenarios(["dark=dim@1", "dark=tint@1"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("displce@3", "did you mean 'displace'"),
        ("displace", "say when: displace@20 or displace@half-way"),
        ("goaal", "did you mean 'goal'"),
        ("a/b=dim@3", "names a folder"),
        ("dark=", "expected KIND"),
    ],
)
def test_a_wrong_disturbance_is_explained(text: str, says: str) -> None:
    with pytest.raises(ContractError, match=says):
        parse_scenario(text)


def test_conditions_are_latencies_times_disturbances_each_with_its_twin(tmp_path: Path) -> None:
    asked = single(tmp_path, latency="190", sweep=("600", "190", "paused"), disturb=("displace@5", "dim@0"))
    found = settle_conditions(asked, [])
    assert [one.name for one in found] == [
        *("190ms", "190ms+displace", "190ms+dim", "600ms", "600ms+displace", "600ms+dim"),
        *("paused", "paused+displace", "paused+dim"),
    ]
    assert [one.twin for one in found[:3]] == ["", "190ms", "190ms"]
    assert [one.disturbance for one in found[:3]] == ["", "displace", "dim"]
    assert {one.clock for one in found[:6]} == {"virtual"}
    assert {one.clock for one in found[6:]} == {"paused"}
    assert found[1].faults == ("displace@5",)
    for one in found:
        assert Condition.from_dict(one.to_dict(), {"clock": "virtual"}) == one


def test_paused_is_said_wherever_the_world_waits() -> None:
    profile = {"a": LatencyProfile.constant(0.6)}
    paused = Condition(name="600ms", profiles=profile, clock="paused")
    assert paused.label == "600ms, paused"
    assert replace(paused, name="600ms+dim", twin="600ms").label == "600ms, paused+dim"
    assert replace(paused, clock="virtual").label == "600ms"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"disturb": ("late@3",), "sweep": ("paused",)}, "the world waits for the model, so nothing is late"),
        ({"disturb": ("slip@3",)}, "did you mean|known: displace"),
        ({"disturb": ("displace@grasp",)}, "half-way"),
        ({"rescue": "expert"}, "no arm asks for a human"),
        ({"rescue_after": 0.5}, "asks? for a rescue|not who does"),
        ({"rescue": "nobody"}, "did you mean|expert"),
        ({"rescue": "expert", "rescue_after": 1.5}, "a share between 0 and 1"),
        ({"rescue": "expert", "rescue_after": 0.5, "rescue_seconds": 0.0}, "seconds above 0"),
        ({"until_decided": True}, "two arms, got 1"),
        ({"tasks": ("reach-lef",)}, "did you mean 'reach-left'"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_the_first_episode(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ContractError, match=says):
        compare(single(tmp_path, **changes))
    assert not (tmp_path / "run.json").exists()


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out = tmp_path_factory.mktemp("eval")
    arms = {"seeker": "test_eval:seeker", "still": "test_eval:still"}
    return compare(
        single(
            out, arms=arms, disturb=("displace@5",), sweep=("paused",), rescue="expert", rescue_after=0.6, episodes=3
        )
    )


def episode(comparison: Comparison, arm: str, condition: str, seed: int = 0) -> dict[str, Any]:
    wanted = (arm, condition, seed)
    return next(dict(r) for r in comparison.records if (r["arm"], r["condition"], r["seed"]) == wanted)


def test_a_disturbed_episode_is_its_twin_up_to_the_onset(tmp_path: Path) -> None:
    comparison = compare(single(tmp_path, disturb=("displace@5",), episodes=1))
    logs = {
        condition: read_events(tmp_path / episode(comparison, "seeker", condition)["events"])
        for condition in ("190ms", "190ms+displace")
    }
    ticks = {name: [line for line in log if line["event"] == "ticked"] for name, log in logs.items()}
    assert ticks["190ms"][:5] == ticks["190ms+displace"][:5]
    told = [line for line in logs["190ms+displace"] if line["event"] == "incident"]
    assert [(line["tick"], line["time"], line["fault"], line["phase"]) for line in told] == [
        (5, 0.5, "displace@5", "begins")
    ]
    assert not [line for line in logs["190ms"] if line["event"] == "incident"]
    assert replay(tmp_path / episode(comparison, "seeker", "190ms+displace")["events"]).same


def test_a_rescuer_takes_over_and_hands_back_and_nothing_is_mixed(judged: Comparison) -> None:
    record = episode(judged, "still", "190ms")
    (taken,) = record["watched"]["interventions"]
    assert (taken["cause"], taken["tick"]) == ("overdue", 30)  # 0.6 of five seconds, at 10 Hz
    assert record["result"]["outcome"]["success"]
    assert record["result"]["held_told"] == record["result"]["ticks"] - 30
    cell = judged.cell("still", "190ms")
    assert cell is not None
    assert cell.successes == 0  # of the policy
    found = next(item for item in judged.interventions if (item.arm, item.condition) == ("still", "190ms"))
    assert found.rate is not None
    assert (found.helped, found.rate.events, found.alone.value, found.together.value) == (3, 3, 0.0, 1.0)
    assert found.rate.seconds == pytest.approx(3 * 3.0)  # in which the policy had the robot
    assert found.causes == {"overdue": 3}


def test_nobody_is_called_where_the_policy_is_quick(judged: Comparison) -> None:
    found = next(item for item in judged.interventions if (item.arm, item.condition) == ("seeker", "190ms"))
    assert found.rate is not None
    assert (found.helped, found.alone.value) == (0, 1.0)
    assert math.isinf(found.rate.between.value)
    assert found.rate.per_hour.high > 0  # none seen is not none at all


def test_the_reaction_is_the_first_command_that_rests_on_what_was_seen_since(judged: Comparison) -> None:
    """Asked at tick 8, answered two ticks later: the first command that knows of tick 5 is that of tick 10."""
    record = episode(judged, "seeker", "190ms+displace")
    assert record["incidents"][0]["onset"] == 5
    assert record["watched"]["views"][:2] == [[2, 0], [10, 8]]
    found = next(item for item in judged.recoveries if (item.arm, item.condition) == ("seeker", "190ms+displace"))
    assert found.reaction is not None
    assert found.reaction.median.value == pytest.approx(0.5)
    assert (found.happened, found.detected, found.success.value) == (3, None, 1.0)
    paused = next(item for item in judged.recoveries if (item.arm, item.condition) == ("seeker", "paused+displace"))
    assert paused.reaction is not None
    assert paused.reaction.median.value == pytest.approx(0.3)  # the world waits for the answer of tick 8


def test_everything_is_in_the_machine_readable_results(judged: Comparison) -> None:
    plain = json.loads(json.dumps(judged.to_json(), allow_nan=False))
    assert {"recoveries", "interventions", "failures", "conduct", "alarms", "decision"} <= set(plain)
    kinds = {(item["kind"], item["arm"]) for item in plain["failures"]}
    assert kinds == {("a person had to help", "still")}
    assert plain["conduct"][0]["per_hour"] > 0


def test_workers_change_nothing(tmp_path: Path) -> None:
    """Neither what is run nor where it stops: what later seeds were run meanwhile is not counted."""
    arms = {"seeker": "test_eval:seeker", "still": "test_eval:still"}
    for workers in (1, 2):
        asked = single(tmp_path / str(workers), arms=arms, disturb=("displace@5",), workers=workers, until_decided=True)
        compare(replace(asked, rescue="expert", rescue_after=0.6, episodes=30))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_folder_of_other_disturbances_is_refused_and_older_folders_go_on(tmp_path: Path) -> None:
    compare(single(tmp_path, episodes=1))
    assert not {"disturb", "rescue", "until_decided"} & set(json.loads((tmp_path / "run.json").read_text())["config"])
    with pytest.raises(RunMismatchError, match="disturb"):
        compare(single(tmp_path, episodes=1, disturb=("dim@0",)))
    run = json.loads((tmp_path / "run.json").read_text())
    for condition in run["conditions"]:  # as an older version wrote them
        for name in ("clock", "faults", "twin"):
            del condition[name]
    (tmp_path / "run.json").write_text(json.dumps(run))
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    for line in lines:
        del line["watched"]
    (tmp_path / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = load_comparison(tmp_path)
    assert again.complete
    assert again.run.main.clock == "virtual"
    assert again.conduct[0].per_hour > 0


def test_one_arm_is_told_for_itself(tmp_path: Path) -> None:
    said = answer(compare(single(tmp_path, disturb=("goal=displace@5",), episodes=2)))
    assert said.headline.startswith("seeker succeeds in 100 %")
    assert said.headline.endswith("under 190 ms.")
    assert "goal (it happened in 2 of 2 episodes)" in dict(said.paragraphs)["Disturbed"]


# --- stopping early ---------------------------------------------------------------------------------------------------


def test_a_run_stops_at_the_seed_that_decides_it(tmp_path: Path) -> None:
    arms = {"seeker": "test_eval:seeker", "still": "test_eval:still"}
    asked = single(tmp_path, arms=arms, episodes=40, until_decided=True)
    comparison = compare(asked)
    found = comparison.decision
    assert found is not None
    assert found.verdict == "above"
    assert found.seeds == found.last + 1 < 20
    assert found.e_value >= 20
    assert comparison.complete
    assert {record["seed"] for record in comparison.records} == set(range(found.seeds))
    assert (tmp_path / "episodes.jsonl").read_text().count("\n") == 2 * found.seeds
    assert "stopped at seed" in dict(answer(comparison).paragraphs)["Decided"]
    before = (tmp_path / "episodes.jsonl").read_bytes()
    assert compare(asked).complete  # the same command runs nothing more
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


def test_seeds_count_in_their_order_whichever_was_finished_first(judged: Comparison) -> None:
    run = replace(judged.run, config={**judged.run.config, "until_decided": True, "episodes": 30})
    pattern = judged.records[0]

    def made(seed: int, arm: str, won: bool) -> dict[str, Any]:
        outcome = {"success": won, "reason": "", "time": 1.0}
        result = {**pattern["result"], "outcome": outcome, "rungs": {}}
        return {**pattern, "arm": arm, "condition": "190ms", "task": TASK, "seed": seed, "result": result}

    records = [made(seed, arm, arm == "seeker") for seed in range(30) for arm in ("seeker", "still")]
    full = decide(run, records)
    assert full.verdict == "above"
    assert decide(run, list(reversed(records))) == full
    assert decide(run, [r for r in records if r["seed"] != 3]).seeds == 3  # the others wait for it
    alike = [made(seed, arm, True) for seed in range(30) for arm in ("seeker", "still")]
    assert decide(run, alike).verdict == ""


# --- what was seen, by hand -------------------------------------------------------------------------------------------


def made(seed: int, *, won: bool, ticks: int = 40, onset: int | None = None, **watched: Any) -> dict[str, Any]:
    """A record of ten ticks a second."""
    outcome = {"success": won, "reason": "done" if won else "time limit", "time": ticks / 10}
    seen = {"alarms": [], "interventions": [], "views": [[0, 0]], "reached": {}, "last": [], **watched}
    result = {"outcome": outcome, "ticks": ticks, "period": 0.1, "error": "", "rungs": {}}
    if seen["alarms"]:
        result["alarms"] = len(seen["alarms"])
    incidents = [] if onset is None else [{"onset": onset}]
    return {
        "arm": "a", "condition": "c", "task": "t", "seed": seed, "result": result, "watched": seen,
        "incidents": incidents,
    }  # fmt: skip


def test_times_after_a_disturbance_are_those_of_the_record() -> None:
    quick = made(0, won=True, ticks=30, onset=10, alarms=[4, 14], views=[[0, 0], [12, 8], [18, 16]])
    lost = made(1, won=False, ticks=50, onset=20, alarms=[], views=[[0, 0]])
    missed = made(2, won=True, onset=None)
    twins = [made(seed, won=True) for seed in range(3)]
    found = recovery_of("a", "c+d", "c", [quick, lost, missed], twins, limit=5.0, checks=True)
    assert (found.episodes, found.happened) == (3, 2)
    assert found.success.value == 0.5
    assert found.recovered.value == 0.5
    assert found.against_twin.difference.value == -0.5
    assert found.detected is not None
    assert (found.detected.times, found.detected.happened) == ((pytest.approx(0.4),), (1,))
    assert found.detected.looked == pytest.approx(3.0)  # without an alarm until the end
    assert found.reaction is not None
    assert found.reaction.times[0] == pytest.approx(0.8)  # the command of tick 18, seen at 16
    assert found.replanning is not None
    assert found.replanning.times[0] == pytest.approx(0.4)
    assert found.recovery is not None
    assert found.recovery.times[0] == pytest.approx(2.0)
    assert found.recovery.looked == pytest.approx(5.0)  # a failure: not by the time limit


def test_false_alarms_are_those_of_undisturbed_successes() -> None:
    plain = [made(seed, won=seed != 3, alarms=[5] if seed in (0, 3) else []) for seed in range(4)]
    hit = [made(0, won=True, onset=20, alarms=[7]), made(1, won=True, onset=20, alarms=[25])]
    found = alarms_of("a", "c", plain, hit, promised=0.1)
    assert (found.false.alarmed, found.false.episodes, found.early) == (1, 3, 1)


def test_interventions_without_a_hand_back_last_to_the_end() -> None:
    helped = made(0, won=True, ticks=40, interventions=[{"tick": 30, "cause": "limits", "back": None}])
    helped["result"]["rungs"] = {"human": 1}
    found = interventions_of("a", "c", [helped, made(1, won=True, ticks=20)])
    assert found.rate is not None
    assert found.rate.seconds == pytest.approx(5.0)
    assert (found.helped, found.alone.value, found.together.value) == (1, 0.5, 1.0)


@pytest.mark.parametrize(
    ("watched", "kind"),
    [
        ({}, "never touched it"),
        ({"reached": {"touch": 5}}, "touched it, never grasped it"),
        ({"reached": {"touch": 5, "grasp": 6}}, "grasped it and lost it"),
        ({"reached": {"touch": 5, "grasp": 6}, "last": ["grasp", "touch"]}, "held it, did not finish"),
    ],
)
def test_failures_are_sorted_by_how_far_they_came(watched: dict[str, Any], kind: str) -> None:
    failed = made(1, won=False, **watched)
    assert kind_of(failed, tells=True) == kind
    assert kind_of(failed, tells=False) == "ran out of time"
    done = made(0, won=True, reached={"touch": 3, "grasp": 4})
    assert [(item.kind, item.episodes) for item in failures_of([done, failed])] == [(kind, (("t", 1),))]
    assert [item.kind for item in failures_of([failed])] == ["ran out of time"]  # no success says what can be seen


def test_other_failures_have_their_own_names() -> None:
    crashed, fallen, helped = (made(seed, won=False) for seed in range(3))
    crashed["result"]["error"] = "RuntimeError: out of memory"
    fallen["result"]["outcome"]["reason"] = "fell off the table"
    helped["result"]["rungs"] = {"human": 1}
    assert [kind_of(one, tells=True) for one in (crashed, fallen, helped)] == [
        *("crashed", "fell off the table", "a person had to help"),
    ]


# --- the hand-over in the loop ----------------------------------------------------------------------------------------


def rescued(tmp_path: Path, handover: Handover, **options: Any) -> tuple[Any, list[dict[str, Any]]]:
    world = ExactWorld()
    policy = options.pop("policy", still())
    log = tmp_path / "log.jsonl"
    with EventLog(log) as written:
        result = run_episode(
            world,
            policy,
            world.tasks[TASK],
            seed=0,
            latency=LatencyProfile.constant(190.0),
            config=LoopConfig(handover=handover),
            rescuer=world.demonstrate,
            subscribers=(written,),
            **options,
        )
    assert replay(log).same
    return result, read_events(log)


def test_a_hand_over_is_bounded_and_replays(tmp_path: Path) -> None:
    result, log = rescued(tmp_path, Handover(ticks=5, overdue=1.0))
    steps = [(line["tick"], line["before"], line["rung"], line["cause"]) for line in log if line["event"] == "stepped"]
    assert steps[:3] == [
        (10, "continue", "human", "overdue"),
        (15, "human", "continue", "handed back"),
        (25, "continue", "human", "overdue"),
    ]
    assert result.rungs["human"] == len([step for step in steps if step[2] == "human"])
    ticks = {line["tick"]: line for line in log if line["event"] == "ticked"}
    assert all(ticks[tick]["hold"] == "told" and ticks[tick]["rung"] == "human" for tick in range(10, 15))
    assert all(np.any(ticks[tick]["sent"]) for tick in range(10, 15))
    asked = [line["tick"] for line in log if line["event"] == "requested"]
    assert not [tick for tick in asked if 10 <= tick < 15]
    assert 15 in asked  # nothing that was thought before holds any more


def test_nobody_has_the_robot_where_an_episode_ends_by_asking() -> None:
    world = ExactWorld()
    result = run_episode(
        world, still(), world.tasks[TASK], seed=0, latency=LatencyProfile.constant(0.0),
        config=LoopConfig(handover=Handover(overdue=1.0)),
    )  # fmt: skip
    assert (result.outcome.reason, result.ticks, result.rungs) == ("asked for a human", 10, {"human": 1})


def test_a_hand_over_needs_somebody_and_sense() -> None:
    world = ExactWorld()
    with pytest.raises(ContractError, match="to whom"):
        run_episode(world, still(), world.tasks[TASK], seed=0, config=LoopConfig(handover=Handover(ticks=3)))
    for bad in ({"ticks": -1}, {"stopped": -1}, {"overdue": 0.0}, {"overdue": math.nan}):
        with pytest.raises(ContractError, match="handover"):
            Handover(**bad)


def test_the_hand_over_comes_back_from_its_json() -> None:
    config = LoopConfig(handover=Handover(ticks=3, overdue=2.5, stopped=4))
    assert LoopConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert "handover" not in LoopConfig().to_dict()
    assert LoopConfig.from_dict(LoopConfig().to_dict()) == LoopConfig()
    only = LoopConfig(handover=Handover(ticks=3))
    assert LoopConfig.from_dict(json.loads(json.dumps(only.to_dict()))) == only


def test_late_inference_makes_answers_late_and_nothing_else(tmp_path: Path) -> None:
    world = Disturbed(ExactWorld(), parse_faults(["late@8+10=0.3"]))
    log = tmp_path / "log.jsonl"
    with EventLog(log) as written:
        run_episode(
            world,
            seeker(),
            world.tasks[TASK],
            seed=0,
            latency=LatencyProfile.constant(100.0),
            stall=world.stall,
            subscribers=(written,),
        )
    replies = [line for line in read_events(log) if line["event"] == "replied"]
    assert [(line["anchor"], round(line["latency"], 3)) for line in replies[:2]] == [(0, 0.1), (8, 0.4)]
    assert replay(log).same
    assert world.incidents[0].onset == 8


# --- bad input --------------------------------------------------------------------------------------------------------


class Dying(ExactWorld):
    """Its process would be gone at tick 4 of the second seed."""

    def apply(self, action: Action) -> Action:
        if self._tick == 4 and np.array_equal(self._goal, Dying.doomed):
            raise RuntimeError("the simulator died")
        return super().apply(action)

    doomed = np.zeros(2)


def test_a_world_that_dies_is_a_crashed_episode_and_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = ExactWorld()
    probe.reset(probe.tasks[TASK], seed=1)
    monkeypatch.setattr(Dying, "doomed", probe.goal)
    monkeypatch.setitem(WORLDS, "dying", "test_eval:Dying")
    comparison = compare(single(tmp_path, world="dying", episodes=3))
    assert [bool(record["result"]["error"]) for record in comparison.records] == [False, True, False]
    assert "the simulator died (tick 4" in comparison.records[1]["result"]["error"]
    cell = comparison.cell("seeker", "190ms")
    assert cell is not None
    assert (cell.episodes, cell.planned, cell.crashed, cell.successes) == (3, 3, 1, 2)


class Broken(Seeker):
    def predict(self, session: bool, obs: Observation, **rest: Any) -> tuple[bool, Prediction]:
        session, prediction = super().predict(session, obs, **rest)
        if obs.tick == 0:
            return session, prediction
        actions = self.spoil(prediction.chunk.actions)
        return session, replace(prediction, chunk=replace(prediction.chunk, actions=actions))

    def spoil(self, actions: np.ndarray) -> np.ndarray:
        return np.full_like(actions, np.nan)


class Misshapen(Broken):
    def spoil(self, actions: np.ndarray) -> np.ndarray:
        return np.zeros((HORIZON, 3), dtype=np.float32)


def nan() -> Seeker:
    return Broken("fast")


def misshapen() -> Seeker:
    return Misshapen("fast")


def brief() -> Seeker:
    """Plans one action at a time, as OpenVLA does."""
    return Seeker("fast", horizon=1)


def test_a_policy_that_plans_fewer_actions_than_are_executed_executes_what_it_has(tmp_path: Path) -> None:
    asked = single(tmp_path, arms={"brief": "test_eval:brief"}, episodes=1, latency="0", execute_horizon=4)
    result = compare(asked).records[0]["result"]
    assert (result["error"], result["execute_horizon"], result["outcome"]["success"]) == ("", 1, True)


@pytest.mark.parametrize(("name", "says"), [("nan", "not finite"), ("misshapen", "expected 2 dimensions")])
def test_an_action_that_cannot_be_is_refused_with_its_tick(tmp_path: Path, name: str, says: str) -> None:
    comparison = compare(single(tmp_path, arms={name: f"test_eval:{name}"}, episodes=1, latency="0"))
    error = comparison.records[0]["result"]["error"]
    assert says in error
    assert "(tick 8" in error


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    """The limit on the size of a file stands for the full disk: writing fails in the same place."""
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from test_eval import single\n"
        "from actloop.evaluation import compare\n"
        "from actloop.errors import ActloopError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "def full(progress):\n"
        "    if progress.done == 2:\n"
        "        size = (Path(sys.argv[1]) / 'episodes.jsonl').stat().st_size\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, size + 100))\n"
        "try:\n"
        "    compare(single(Path(sys.argv[1]), episodes=4), full)\n"
        "except ActloopError as error:\n"
        "    print(error)\n"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=here, capture_output=True, text=True, check=True
    )
    assert "cannot be written" in done.stdout
    assert "2 of 4 episodes are kept" in done.stdout
    assert len(load_comparison(tmp_path).records) == 2
    assert compare(single(tmp_path, episodes=4)).complete  # once there is room


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "arm"),
    [
        ("fast", "fast"),
        ("checked", "checked"),
        ("runs/mine.safetensors", "mine=runs/mine.safetensors"),
        ("mine.safetensors?first-frame", "mine=mine.safetensors?first-frame"),
        ("my_package.policies:make", "make=my_package.policies:make"),
        ("a=b.toml", "a=b.toml"),
        ("nothing", "nothing"),
    ],
)
def test_a_policy_is_called_by_its_name(policy: str, arm: str) -> None:
    assert named(policy, "tabletop") == arm


def test_a_name_that_does_not_ship_suggests_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from actloop.cli import main

    assert main(["eval", "fsat", "--out", str(tmp_path)]) != 0
    assert "did you mean 'fast'" in capsys.readouterr().err


def test_the_command_judges_and_the_report_comes_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from actloop.cli import main

    monkeypatch.chdir(Path(__file__).parent)
    out = tmp_path / "run"
    asked = ["eval", "test_eval:seeker", "--world", "exact", "--tasks", TASK, "--latency", "190", "--episodes", "2"]
    assert main([*asked, "--disturb", "dim@0", "--videos", "0", "--workers", "1", "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [condition["name"] for condition in printed["run"]["conditions"]] == ["190ms", "190ms+dim"]
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    episodes = (out / "episodes.jsonl").read_bytes()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    assert (out / "episodes.jsonl").read_bytes() == episodes
    assert main(["replay", str(out)]) == 0


# --- jerk -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "of"), [("absolute", lambda t: t**3), ("delta", lambda t: 3 * t**2 * 0.1)])
def test_jerk_is_the_third_derivative_of_the_motion(kind: str, of: Callable[[np.ndarray], np.ndarray]) -> None:
    """Of x = t^3 it is 6 everywhere; a delta is what its velocity amounts to in a tick."""
    jerk = Jerk(ExactWorld(kind=kind, control_hz=10.0).embodiment)  # type: ignore[arg-type]
    for value in of(np.arange(12) * 0.1):
        assert len(jerk.to_dict()) <= 1
        jerk.add(np.array([value, 0.0], dtype=np.float64))
    assert jerk.to_dict() == {"position": pytest.approx(6.0, rel=1e-6)}


def test_a_motion_of_a_few_ticks_has_no_jerk_and_an_even_one_none() -> None:
    jerk = Jerk(ExactWorld().embodiment)
    jerk.add(np.ones(2))
    assert jerk.to_dict() == {}
    for _ in range(5):
        jerk.add(np.ones(2))
    assert jerk.to_dict() == {"position": 0.0}


def test_the_page_tells_the_jerk(judged: Comparison) -> None:
    conduct = next(one for one in judged.conduct if (one.arm, one.condition) == ("seeker", "190ms"))
    still = next(one for one in judged.conduct if (one.arm, one.condition) == ("still", "paused"))
    assert conduct.jerk["position"] > 0
    assert still.jerk["position"] >= 0
    assert "jerk of what was sent<small>m/s³" in limits(judged)
