"""Stack files: how a bad one is refused, and stacks that run here, in processes and behind a port, on both clocks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stack_models

from actloop.checks.calibration import CalibrationMismatch
from actloop.checks.conformal import TooFewEpisodes
from actloop.cli.inspected import show_replay
from actloop.cli.ran import calibrate, run_stack
from actloop.errors import ActloopError, CheckpointError, ContractError, DataError, UnknownNameError
from actloop.loop import EventLog, LoopConfig, read_events
from actloop.loop.log.replay import replay
from actloop.models.huggingface import HuggingFaceVLM
from actloop.simulation.exact import ExactWorld
from actloop.stack import describe_stack, describing, open_stack, read_stack, serve_layer
from actloop.stack.calibrating import calibrate_stack

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.toml"))
WORLD = """
[world]
name = "exact"
task = "reach-left"
options = { image_size = 128 }
"""
ACTION = """
[action]
model = "stack_models:reaching"
latency = 190
"""
CHECK = """
[check]
checks = ["proprioception", "frozen-camera", "foresight", "disagreement", { name = "spread", count = 3 }]
latency = 20
"""
FORESIGHT = """
[foresight]
model = "stack_models:reaching"
imagines = "stack_models:reaching"
score = "stack_models:nearest"
candidates = 4
latency = 40
"""
SEMANTIC = """
[semantic]
model = "stack_models:talker"
latency = 300
"""
LOOP = """
[loop]
execute_horizon = 4
run_on = 8
imagine = true
"""
PLAIN = WORLD + ACTION


@pytest.fixture
def stack(tmp_path):
    """Writes a stack file and reads it."""

    def written(text: str, name: str = "mine.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return read_stack(path)

    return written


def logged(opened, path: Path, task: str = "reach-left"):
    """One episode and the bytes of its log."""
    with EventLog(path) as log:
        result = opened.run(task, seed=3, subscribers=(log,))
    return result, path.read_bytes()


# what a file says


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_understood(path):
    found = read_stack(path)
    assert json.loads(json.dumps(describe_stack(found), allow_nan=False))["name"] == path.stem


def test_all_that_a_file_says_arrives(stack):
    found = stack(
        WORLD
        + """
faults = ["displace@20"]
[loop]
execute_horizon = 4
stretch = 1
join = { how = "blend", ticks = 3 }
ladder = { rungs = ["slow", "hold"], pace = 0.5 }
budget = { total = 1.5, layers = { action = 1 } }
[loop.limits.velocity]
position = 0.5
[action]
model = "stack_models:reaching"
place = "process"
threads = 2
latency = "fastwam-5090d"
timeout = 0.5
max_age = 2
fallback = { model = "stack_models:short", place = "thread", latency = 50 }
[check]
checks = ["proprioception", { name = "frozen-camera", cameras = ["front"] }]
every = 3
timeout = 0.2
[semantic]
model = "stack_models:talker"
place = "offline"
every = 2
known = ["go", "stop"]
prompts = { done = "" }
"""
    )
    loop = found.loop
    assert (loop.execute_horizon, loop.stretch, loop.max_age, loop.check_every, loop.subtask_every) == (
        4,
        1.0,
        2.0,
        3,
        2,
    )
    assert (loop.join.how, loop.join.ticks, loop.ladder.rungs, loop.ladder.pace) == ("blend", 3, ("slow", "hold"), 0.5)
    assert (loop.budget.total, loop.budget.layers) == (1.5, {"action": 1})
    assert found.action.placement.profile.seconds == (0.19,)
    assert (found.action.placement.threads, found.action.placement.timeout) == (2, 0.5)
    assert found.action.fallback.model.target == "stack_models:short"
    assert found.check.checks[1] == ("frozen-camera", {"cameras": ("front",)})
    assert found.offline == ("semantic",)
    assert (found.semantic.known, found.semantic.known_tasks, found.semantic.prompts.done) == (
        ("go", "stop"),
        False,
        "",
    )
    with open_stack(found) as opened:
        assert dict(opened.loop.limits.velocity) == {"position": (0.5, 0.5)}
        assert set(opened.places) == {"action", "check"}


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("[world", DataError, "not readable as TOML"),
        (ACTION, ContractError, "world: needs name"),
        (WORLD, ContractError, r"needs \[action\]"),
        (PLAIN + "[acton]\n", UnknownNameError, "'action'"),
        (PLAIN + "plce = 'here'\n", UnknownNameError, "action: unknown name 'plce'; did you mean 'place'"),
        (PLAIN + "place = 'proces'\n", UnknownNameError, "action.place: .*did you mean 'process'"),
        (PLAIN + "place = 3\n", ContractError, "action.place: expected text"),
        (PLAIN + "place = 'offline'\n", ContractError, "action.place: the action layer drives"),
        (PLAIN + "threads = 0\n", ContractError, "action.threads: expected a whole number of at least 1"),
        (PLAIN + "timeout = 0\n", ContractError, "action.timeout: expected seconds above 0, got 0"),
        (PLAIN + "max_age = '2 s'\n", ContractError, "action.max_age: expected seconds above 0, got '2 s'"),
        (PLAIN + "token_file = 't'\n", ContractError, "action.token_file: belongs to a server"),
        (PLAIN + "fallback = 'stack_models:short'\n", ContractError, "action.fallback: .*`timeout`"),
        (PLAIN + "timeout = 1\nfallback = 'fats'\n", UnknownNameError, "action.fallback.model, policy shipped"),
        (PLAIN.replace("190", "'190 miles'"), UnknownNameError, "action.latency"),
        (PLAIN.replace("190", "-1"), ContractError, "action.latency"),
        (PLAIN.replace("190", "true"), ContractError, "action.latency: expected milliseconds"),
        (WORLD + "[action]\nlatency = 3\n", ContractError, "action: needs 'model'"),
        (WORLD.replace("exact", "tabletop") + "[action]\nmodel='fest'\n", UnknownNameError, "did you mean 'fast'"),
        (WORLD + "faults = ['displace']\n" + ACTION, ContractError, "world.faults"),
        (WORLD + "faults = ['displaces@3']\n" + ACTION, UnknownNameError, "world.faults.*'displace'"),
        (WORLD + "option = {}\n" + ACTION, UnknownNameError, "world: .*'options'"),
        (PLAIN + "[loop]\nrunon = 8\n", UnknownNameError, "loop: .*'run_on'"),
        (PLAIN + "[loop]\nexecute_horizon = 0\n", ContractError, "loop.execute_horizon: expected at least 1"),
        (PLAIN + "[loop]\nexecute_horizon = 4.5\n", ContractError, "loop.execute_horizon: expected a whole number"),
        (PLAIN + "[loop]\nimagine = 1\n", ContractError, "loop.imagine: expected true or false"),
        (PLAIN + "[loop]\nstretch = 2\n", ContractError, "loop.stretch: expected above 0"),
        (PLAIN + "[loop]\ncheck_every = 2\n", ContractError, r"loop.check_every: .*every in \[check\]"),
        (PLAIN + "[loop]\nrun_on = 8\n", ContractError, r"loop.run_on: .*\[check\]"),
        (PLAIN + "[loop.join]\nhow = 'blent'\n", UnknownNameError, "loop.join.how: .*'blend'"),
        (PLAIN + "[loop.ladder]\nrungs = ['replan', 'jump']\n", UnknownNameError, "loop.ladder.rungs"),
        (PLAIN + "[loop.ladder]\nrungs = [1]\n", ContractError, "loop.ladder.rungs: expected names"),
        (PLAIN + "[loop.budget]\nlayers = { acton = 1 }\n", UnknownNameError, "loop.budget.layers: .*'action'"),
        (PLAIN + "[loop.budget]\ntotal = -1\n", ContractError, "loop.budget.total"),
        (PLAIN + "[loop.limits]\nvelocity = 3\n", ContractError, "loop.limits.velocity: expected a table"),
        (PLAIN + "[loop.limits.speed]\nposition = 3\n", UnknownNameError, "loop.limits: unknown name 'speed'"),
        (PLAIN + "[check]\nevery = 2\n", ContractError, "check: needs 'checks'"),
        (PLAIN + "[check]\nchecks = 'grasp'\n", ContractError, "check.checks: expected a list"),
        (PLAIN + "[check]\nchecks = ['grab']\n", UnknownNameError, r"check.checks\[0\]: .*'grasp'"),
        (PLAIN + "[check]\nchecks = [{ name = 'grasp', stedy = 1 }]\n", UnknownNameError, r"checks\[0\]: .*'steady'"),
        (PLAIN + "[check]\nchecks = [{ name = 'spread', count = 1 }]\n", ContractError, r"checks\[0\].count"),
        (PLAIN + "[check]\nchecks = ['foresight']\n", ContractError, "check.checks: .*imagine = true"),
        (PLAIN + "[check]\nchecks = ['grasp']\nevery = 0\n", ContractError, "check.every"),
        (PLAIN + FORESIGHT + "score = 'best'\n", DataError, "TOML"),
        (PLAIN + FORESIGHT.replace("stack_models:nearest", "best"), UnknownNameError, "foresight.score"),
        (
            PLAIN + "[foresight]\nmodel = 'a.safetensors'\nscore = 'value'\n",
            ContractError,
            "foresight.score: .*imagines",
        ),
        (PLAIN + FORESIGHT.replace("candidates = 4", "candidates = 1"), ContractError, "foresight.candidates"),
        (
            PLAIN + SEMANTIC.replace("talker'", "") + "every = 0\n",
            ContractError,
            "semantic.every: expected seconds above 0",
        ),
        (PLAIN + SEMANTIC + "known = 3\n", ContractError, "semantic.known: expected a list"),
        (PLAIN + SEMANTIC + "done_ends = 'yes'\n", ContractError, "semantic.done_ends: expected true or false"),
        (PLAIN + SEMANTIC + "prompts = { subtask = '{task}' }\n", ContractError, "semantic.prompts.subtask: may hold"),
        (PLAIN + SEMANTIC + "prompts = { next = '' }\n", UnknownNameError, "semantic.prompts"),
    ],
)
def test_a_bad_file_is_refused_with_the_key(stack, text, kind, said):
    with pytest.raises(kind, match=said) as raised:
        stack(text)
    assert "mine.toml" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
        DataError, match=r"no\.toml: cannot be read \(No such file or directory\); expected a stack file"
    ):
        read_stack(tmp_path / "no.toml")


# what cannot be opened


@pytest.mark.parametrize(
    ("text", "options", "kind", "said"),
    [
        (WORLD.replace("exact", "exakt") + ACTION, {}, UnknownNameError, "'exact'"),
        (WORLD.replace("image_size", "imagesize") + ACTION, {}, UnknownNameError, "image_size"),
        (PLAIN + "place = 'here'\n", {"clock": "wall"}, ContractError, 'action.place: .*write "process" or "thread"'),
        (PLAIN, {"clock": "wall", "place": "here"}, ContractError, "action.place"),
        (PLAIN, {"clock": "sundial"}, UnknownNameError, "clock"),
        (PLAIN, {"place": "there"}, UnknownNameError, "place"),
        (PLAIN.replace("reaching", "nobody"), {}, ContractError, "action.model: .*cannot be imported"),
        (PLAIN.replace("reaching", "nothing"), {}, ContractError, "action.model: .*no policy, but a str"),
        (PLAIN.replace("128", "64"), {}, ContractError, "action.model: needs the camera 'front'"),
        (PLAIN.replace("128", "128, kind = 'absolute'"), {}, ContractError, "action.model: was made for 'exact-delta'"),
        (PLAIN.replace("stack_models:reaching", "w/a.safetensors"), {}, CheckpointError, "action.model: .*no such"),
        (PLAIN + "[loop.limits.velocity]\nhand = 1\n", {}, UnknownNameError, "loop.limits.velocity: .*'hand'"),
        (PLAIN + "[check]\nchecks = ['verifier']\n", {}, ContractError, "check.verifier: is needed"),
        (PLAIN + "[check]\nchecks = ['verifier']\nverifier='v'\n", {}, CheckpointError, "check.verifier: .*no such"),
        (PLAIN + "[check]\nchecks=['grasp']\ncalibration = 'c'\n", {}, ContractError, "check.calibration"),
        (PLAIN + "[check]\nchecks=['grasp', 'grasp']\n", {}, ContractError, "check.checks"),
        (PLAIN + "[foresight]\nmodel = 'stack_models:reaching'\n", {}, ContractError, "foresight.verifier: is needed"),
        (PLAIN + SEMANTIC.replace("talker", "nothing"), {}, ContractError, "semantic.model: .*VisionLanguageModel"),
        (
            PLAIN + SEMANTIC.replace("stack_models:talker", "w/vlm"),
            {},
            CheckpointError,
            "w/vlm: no such file",
        ),
        (PLAIN + "place = 'ws://127.0.0.1:9'\n", {}, ActloopError, "cannot be reached"),
        (PLAIN + "place = 'ws://127.0.0.1:9'\ntoken_file = 'no'\n", {}, DataError, "action.token_file: .* be read"),
        (
            PLAIN + "timeout = 1\nfallback = 'stack_models:short'\n[loop]\nexecute_horizon = 6\n",
            {},
            ContractError,
            "action.fallback: plans 4 actions, fewer than the 6",
        ),
    ],
)
def test_what_cannot_be_opened_says_why(stack, text, options, kind, said):
    with pytest.raises(kind, match=said):
        open_stack(stack(text), **options)


def test_what_a_process_cannot_build_is_said_there_too(stack):
    found = stack(PLAIN.replace("reaching", "nothing"))
    with pytest.raises(ContractError, match=r"action\.model: .*no policy"):
        open_stack(found, place="process")


# on the virtual clock


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    path = folder / "mine.toml"
    path.write_text(WORLD + ACTION + LOOP + CHECK, encoding="utf-8")
    told: list[tuple[int, int]] = []
    found = calibrate_stack(
        read_stack(path), alpha=0.1, episodes=20, seed=500, progress=lambda *counts: told.append(counts)
    )
    assert (found.episodes, found.successes) == (20, 20) == told[-1]
    found.calibration.save(folder / "calibration.json")
    return folder / "calibration.json"


def test_place_changes_no_byte_of_the_log(stack, calibration, tmp_path):
    text = WORLD + "faults = ['displace@8']\n" + ACTION + LOOP + CHECK + FORESIGHT + SEMANTIC
    found = stack(text + "every = 1\n")
    logs, results = {}, {}
    for place in ("here", "process"):
        with open_stack(found, place=place, calibration=calibration) as opened:
            assert set(opened.places.values()) == {place}
            results[place], logs[place] = logged(opened, tmp_path / f"{place}.jsonl")
            _, again = logged(opened, tmp_path / "again.jsonl")
            assert again == logs[place]
    assert logs["here"] == logs["process"]
    result = results["here"]
    assert result.success
    assert result.alarms > 0
    assert set(result.asked) >= {"action", "check", "semantic"}
    assert replay(tmp_path / "process.jsonl").differences == ()


def test_the_chooser_is_asked_on_the_ladder_and_takes_what_it_declares(stack, calibration, tmp_path):
    ladder = LOOP + "[loop.ladder]\nrungs = ['choose']\n"
    found = stack(WORLD + "faults = ['displace@8']\n" + ACTION + ladder + CHECK + FORESIGHT)
    with open_stack(found, calibration=calibration) as opened:
        result, _ = logged(opened, tmp_path / "log.jsonl")
    assert result.rungs.get("choose", 0) >= 1
    replies = [record for record in read_events(tmp_path / "log.jsonl") if record.get("layer") == "foresight"]
    answered = [record for record in replies if record["event"] == "replied" and record["accepted"]]
    assert answered
    for record in answered:
        assert 1 <= record["considered"] <= 4
        assert record["latency"] == pytest.approx(0.04 * record["considered"])
        assert max(record["values"]) == record["values"][int(np.argmax(record["values"]))]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latency": "300"}, "latency: calibrated for '190ms', now '300ms'"),
        ({"clock": "paused"}, "latency: .*'paused clock'"),
        ({"text": LOOP.replace("execute_horizon = 4", "execute_horizon = 5")}, "loop: calibrated"),
        ({"checks": CHECK.replace("count = 3", "count = 5")}, r"check\.spread"),
        ({"action": ACTION.replace("reaching", "short")}, "policy: calibrated"),
    ],
)
def test_a_calibration_of_something_else_is_refused(stack, calibration, change, said):
    change = dict(change)
    parts = change.pop("action", ACTION), change.pop("text", LOOP), change.pop("checks", CHECK)
    with pytest.raises(CalibrationMismatch, match=f"check.calibration.*{said}"):
        open_stack(stack(WORLD + "".join(parts)), calibration=calibration, **change)


def test_a_calibration_is_bound_and_needs_checks(stack, calibration):
    found = stack(WORLD + "faults = ['displace@8']\n" + ACTION + LOOP + CHECK)
    open_stack(found, calibration=calibration).close()  # the faults are what it is there to tell
    with pytest.raises(ContractError, match=r"no \[check\]"):
        calibrate_stack(stack(PLAIN), alpha=0.1, episodes=20)


def test_a_late_policy_is_replaced_by_its_fallback(stack, tmp_path):
    text = PLAIN.replace("190", "2000") + "timeout = 0.5\nfallback = { model = 'stack_models:short', latency = 100 }\n"
    with open_stack(stack(text + "[loop]\nexecute_horizon = 3\n")) as opened:
        result, _ = logged(opened, tmp_path / "log.jsonl")
    assert result.success
    assert result.timed_out["action"] >= 1
    assert any("late by more than 0.5 s" in warning for warning in result.warnings)
    assert any("busy with what was given up" in warning for warning in result.warnings)
    replies = [record for record in read_events(tmp_path / "log.jsonl") if record["event"] == "replied"]
    assert replies[0]["accepted"]
    assert replies[0]["latency"] == pytest.approx(0.6)
    assert len(replies[0]["actions"]) == 4
    assert replay(tmp_path / "log.jsonl").differences == ()
    # its computing is on the account: the fallback's calls, and the 2 s of each answer that came late
    assert result.computed["action"] == pytest.approx(2.0 * (result.outcome.time // 2.5) + 0.1 * len(replies), abs=2.1)


def test_a_policy_that_fails_is_replaced_and_the_reason_is_said(stack, tmp_path):
    text = PLAIN.replace("reaching", "failing") + "timeout = 0.5\nfallback = 'stack_models:reaching'\n"
    with open_stack(stack(text + LOOP.replace("run_on = 8", ""))) as opened:
        result, _ = logged(opened, tmp_path / "log.jsonl")
        assert result.success
        assert result.calls >= 2
        assert any("ConnectionError: the model is gone" in warning for warning in result.warnings)
        assert replay(tmp_path / "log.jsonl").differences == ()
    with open_stack(stack(PLAIN.replace("reaching", "failing") + LOOP.replace("run_on = 8", ""))) as opened:
        assert "ConnectionError" in opened.run("reach-left", seed=3).error


def test_without_a_fallback_the_robot_holds_while_answers_are_late(stack, tmp_path):
    with open_stack(stack(PLAIN.replace("190", "800") + "timeout = 0.5\nfallback = 'hold'\n")) as opened:
        result, _ = logged(opened, tmp_path / "log.jsonl")
    assert not result.success
    assert result.executed == 0
    assert result.calls - 1 <= result.timed_out["action"] <= result.calls  # one is open at the end
    assert result.calls > 5
    assert replay(tmp_path / "log.jsonl").differences == ()


def test_the_world_may_wait_and_then_nothing_is_late(stack):
    with open_stack(stack(PLAIN.replace("190", "800") + "timeout = 0.5\n"), clock="paused") as opened:
        result = opened.run("reach-left", seed=3)
    assert (result.success, result.held, result.timed_out) == (True, 0, {})


def test_the_language_model_speaks_and_offline_is_silent(stack, monkeypatch, tmp_path):
    monkeypatch.setenv(stack_models.SEEN, str(tmp_path / "seen"))
    text = PLAIN + SEMANTIC + "prompts = { done = 'Done with: {instruction}?' }\n"
    with open_stack(stack(text)) as opened:
        result, _ = logged(opened, tmp_path / "log.jsonl", task="reach-right")
    assert result.asked["semantic"] == 1
    told = [record["instruction"] for record in read_events(tmp_path / "log.jsonl") if record["event"] == "requested"]
    assert (told[0], told[-1]) == tuple(
        f"move the red point to the green goal on the {side}" for side in ("right", "left")
    )
    seen = (tmp_path / "seen").read_text(encoding="utf-8").splitlines()
    assert seen[0] == "1 Done with: move the red point to the green goal on the right?"
    with open_stack(stack(text.replace("talker", "finisher") + "done_ends = true\nevery = 0.5\n")) as opened:
        assert opened.run("reach-right", seed=3).outcome.reason.startswith("done")
    with open_stack(stack(text + "place = 'offline'\n")) as opened:
        assert "semantic" not in opened.run("reach-right", seed=3).asked


def test_the_adaptive_example_runs():
    with open_stack(EXAMPLES[[path.stem for path in EXAMPLES].index("tabletop-adaptive")]) as opened:
        result = opened.run("pick-red", seed=6)
    assert result.error == ""
    assert result.alarms == 0  # it was not calibrated
    assert result.asked["check"] > 3
    assert result.latency == "fastwam-5090d"


def test_the_layered_example_runs_with_judges_and_a_language_model(stack, tmp_path):
    text = (Path(__file__).parents[1] / "examples" / "tabletop-layered.toml").read_text(encoding="utf-8")
    found = stack(text.replace('"SmolVLM2-500M-Instruct"', '"stack_models:talker"').replace("drawer-red", "pick-red"))
    with pytest.raises(CheckpointError, match=r"check\.verifier: .*verifier\.safetensors: no such file"):
        open_stack(found)
    stack_models.save_judges(tmp_path, describing.world_of(found))
    with open_stack(found) as opened:
        assert tuple(opened.places) == ("action", "check", "foresight", "semantic")
        result, _ = logged(opened, tmp_path / "log.jsonl", task="pick-red")
    assert result.error == ""
    readings = {
        reading["check"] for record in read_events(tmp_path / "log.jsonl") for reading in record.get("readings", ())
    }
    assert readings >= {"proprioception", "verifier", "foresight.front"}
    assert replay(tmp_path / "log.jsonl").differences == ()


def test_what_a_comparison_needs(stack):
    """Its own world and latency, the identity, the calls timed, and the loop changed for recorders."""
    found = stack(PLAIN)
    assert describe_stack(found)["digests"] == {"action.model": "stack_models:reaching"}
    world = ExactWorld(image_size=128)
    with open_stack(found, world=world, latency="600", place="here") as opened:
        assert (opened.embodiment, opened.horizon) == (world.embodiment, stack_models.HORIZON)
        observation = world.reset(world.tasks["reach-left"], seed=0)
        measured = opened.measure(observation, "go", calls=3, warm_up=1)
        assert len(measured.seconds) == 3
        config: LoopConfig = replace(opened.loop, imagine=True, observe_every=0)
        result = opened.run("reach-left", seed=1, config=config)
    assert result.latency == "600ms"
    world.observe()  # and it is still open
    assert result.held_starved == 6


# on the wall clock


@pytest.mark.parametrize("place", ["thread", "process"])
def test_on_the_wall_clock(stack, place, tmp_path):
    found = stack(WORLD + ACTION + LOOP + CHECK + "timeout = 1\n" + FORESIGHT)
    with open_stack(found, clock="wall", place=place) as opened:
        result, _ = logged(opened, tmp_path / "log.jsonl")
    assert result.error == ""
    assert result.success
    assert result.clock == "wall"
    assert len(result.lateness) == result.ticks
    assert result.asked["check"] > 1
    assert replay(tmp_path / "log.jsonl").differences == ()


def test_a_server_answers_and_when_it_goes_the_fallback_does(stack, tmp_path):
    (tmp_path / "token").write_text("let me in\n", encoding="utf-8")
    found = stack(PLAIN + CHECK.replace('"foresight", ', ""))
    first = serve_layer(found, "action", port=0, token="let me in")
    with first as server, serve_layer(found, "check", port=0) as second:
        remote = f"place = '{server.url}'\ntoken_file = 'token'\n"
        text = WORLD + "[action]\n" + remote + "timeout = 0.5\nfallback = 'stack_models:short'\n"
        text += "[check]\nchecks = ['proprioception']\n" + f"place = '{second.url}'\njpeg_quality = 95\n"
        remote_stack = stack(text + "[loop]\nexecute_horizon = 4\n", "remote.toml")
        opened = open_stack(remote_stack, clock="wall", place="thread")
        with opened:
            assert opened.places == {"action": server.url, "check": second.url}
            assert (opened.horizon, opened.embodiment.name) == (stack_models.HORIZON, "exact-delta")
            assert opened.run("reach-left", seed=3).success
            assert opened.run("reach-left", seed=3).asked["check"] > 1
            result = opened.run("reach-left", seed=5, subscribers=(stack_models.AtTick(3, server.close),))
        assert result.success
        assert any("ConnectionLost" in warning for warning in result.warnings)
        with pytest.raises(ContractError, match=r"action\.place: .* serves the layer 'check', not 'action'"):
            open_stack(stack(WORLD + f"[action]\nplace = '{second.url}'\n", "wrong.toml"))
    with pytest.raises(UnknownNameError, match="semantic"):
        serve_layer(found, "semantic", port=0)


# the command


def test_run_writes_what_can_be_read_again(stack, tmp_path, capsys):
    found = stack(PLAIN + CHECK.replace('"foresight", ', "") + SEMANTIC + "place = 'offline'\n")
    run_stack(found.path, episodes=2, seed=7, out=tmp_path / "run")
    said = capsys.readouterr().out
    assert "no calibration" in said
    assert "[semantic] is placed offline" in said
    assert "2 of 2" in said
    plain = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert plain["stack"]["layers"]["action"]["model"] == "stack_models:reaching"
    assert [episode["seed"] for episode in plain["episodes"]] == [7, 8]
    for episode in plain["episodes"]:
        assert read_events(tmp_path / "run" / episode["events"])[-1]["event"] == "ended"
    assert show_replay(tmp_path / "run", json=False) == 0
    capsys.readouterr()
    with pytest.raises(ContractError, match="holds a run already"):
        run_stack(found.path, out=tmp_path / "run")
    run_stack(found.path, tasks=("reach-right",), out=tmp_path / "more", json=True)
    assert json.loads(capsys.readouterr().out)["episodes"][0]["task"] == "reach-right"


def test_calibrate_says_what_it_promises(stack, tmp_path, capsys):
    found = stack(WORLD + ACTION + LOOP + CHECK)
    calibrate(found.path, episodes=20, seed=500, alpha=0.1, out=tmp_path / "calibration.json")
    said = " ".join(capsys.readouterr().out.split())
    assert "20 of 20 episodes succeeded" in said
    assert "at most 10.0% of fresh successful episodes" in said
    assert "`calibration` in [check]" in said
    open_stack(found, calibration=tmp_path / "calibration.json").close()
    with pytest.raises(TooFewEpisodes, match=r"need at least 5 episodes, got 2"):
        calibrate(found.path, episodes=3, seed=500, alpha=0.1, out=tmp_path / "calibration.json")


def test_an_interrupted_robot_is_told_to_hold(stack, tmp_path, capsys):
    found = stack(stack_models.ROBOT)
    with pytest.raises(KeyboardInterrupt, match="the robot was told to hold"):
        run_stack(found.path, episodes=3, out=tmp_path / "run")
    plain = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    (episode,) = plain["episodes"]
    assert episode["result"]["outcome"]["reason"] == "interrupted"
    records = read_events(tmp_path / "run" / episode["events"])
    assert records[-1]["event"] == "ended"
    arm = stack_models.ARMS[-1]
    assert not arm.is_connected
    last = [record["sent"] for record in records if record["event"] == "ticked"][-1]
    assert list(arm.commands[-1].values()) == pytest.approx(last)
    assert len(arm.commands) == episode["result"]["ticks"] + 1
    with pytest.raises(ContractError, match="world: a robot does not wait for a virtual clock"):
        open_stack(found, clock="virtual")


# a Hugging Face model


@pytest.mark.slow
def test_a_hugging_face_model_of_a_folder(tmp_path, stack):
    stack_models.save_tiny_vlm(tmp_path / "vlm")
    model = HuggingFaceVLM(tmp_path / "vlm")
    frame = np.full((40, 64, 3), 90, np.uint8)
    answer = model.generate([frame, frame], "is it done ?", max_tokens=5, seed=0)
    assert answer == model.generate([frame, frame], "is it done ?", max_tokens=5, seed=1)
    assert set(answer.split()) <= set(stack_models.WORDS)
    with open_stack(stack(PLAIN + "[semantic]\nmodel = 'vlm'\nlatency = 500\nmax_tokens = 4\n")) as opened:
        assert opened.run("reach-left", seed=3).asked["semantic"] == 1
    (tmp_path / "vlm" / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not a vision-language model"):
        HuggingFaceVLM(tmp_path / "vlm")
