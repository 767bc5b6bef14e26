"""What the loop decides: ladder, budget, when to ask whom, and what becomes of every answer that is late or wrong."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from actloop.checks.evidence import Reading
from actloop.contracts import ActionChunk, Future, Observation, Prediction
from actloop.errors import ContractError, UnknownNameError
from actloop.loop import (
    Answer,
    Budget,
    Charged,
    ChooserModule,
    EpisodeEnded,
    Here,
    InfeasibleError,
    Join,
    LadderConfig,
    LatencyProfile,
    Limits,
    LoopConfig,
    PolicyModule,
    Question,
    Refused,
    Replied,
    Requested,
    SemanticModule,
    Stepped,
    Ticked,
    Ticket,
    WallClock,
    run_episode,
)
from actloop.loop.budget import Account
from actloop.loop.inference import Reply
from actloop.loop.ladder import RUNGS, Ladder
from actloop.loop.layers import Layers
from actloop.simulation.exact import MAX_STEP, ExactWorld
from actloop.testing.fakes import CountingPolicy, Recorder, origin

# ---- the ladder


def climb(config: LadderConfig, ticks, *, refused=(), delay=0) -> list[tuple[int, list[tuple[str, str]]]]:
    """What alarms at these ticks lead to."""
    ladder = Ladder(config)
    found = []
    for tick in ticks:
        ladder.calmed(tick)
        tried = ladder.alarm(tick, lambda rung: "no money" if rung in refused else "", lambda rung: delay)
        if tried:
            found.append((tick, tried))
    return found


def test_the_ladder_is_climbed_one_rung_per_alarm_that_persists():
    found = climb(LadderConfig(rungs=RUNGS, settle=0), range(6))
    assert found == [(tick, [(rung, "")]) for tick, rung in enumerate(RUNGS)]


@pytest.mark.parametrize("delay", [0, 3])
def test_a_rung_has_time_to_settle_besides_the_delay_of_what_it_asks_for(delay):
    config = LadderConfig(rungs=("slow", "replan", "hold"), settle=4, calm=50)
    assert [tick for tick, _ in climb(config, range(30), delay=delay)][:3] == [0, 4 + delay, 8 + 2 * delay]


def test_the_top_rung_is_taken_again():
    config = LadderConfig(rungs=("replan",), settle=2)
    assert climb(config, range(7)) == [(tick, [("replan", "")]) for tick in (0, 2, 4, 6)]


def test_refused_rungs_are_skipped_and_told():
    config = LadderConfig(rungs=("replan", "choose", "ask", "hold"), settle=0)
    found = climb(config, range(2), refused=("choose", "ask"))
    assert found[1] == (1, [("choose", "no money"), ("ask", "no money"), ("hold", "")])


def test_where_all_higher_rungs_are_refused_the_present_one_is_taken_again():
    config = LadderConfig(rungs=("replan", "choose"), settle=2)
    found = climb(config, range(5), refused=("choose",))
    again = [("choose", "no money"), ("replan", "")]
    assert found == [(0, [("replan", "")]), (2, again), (4, again)]
    assert climb(config, range(2), refused=("replan", "choose"))[1][1][-1] == ("choose", "no money"), "still below"


def test_the_ladder_is_left_when_it_is_calm():
    ladder = Ladder(LadderConfig(rungs=("replan", "hold"), settle=2, calm=5, pace=0.5))
    assert (ladder.rung, ladder.pace) == ("continue", 1.0)
    assert not ladder.calmed(100)
    ladder.alarm(10, lambda rung: "", lambda rung: 0)
    ladder.alarm(11, lambda rung: "", lambda rung: 0)
    assert (ladder.rung, ladder.pace) == ("replan", 0.5)
    assert [ladder.calmed(tick) for tick in (12, 15, 16, 17)] == [False, False, True, False]
    assert ladder.rung == "continue"
    ladder.alarm(20, lambda rung: "", lambda rung: 9)
    assert [tick for tick in range(20, 40) if ladder.calmed(tick)] == [31], "not before the rung had its time"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rungs": ("replan", "aks")}, "did you mean 'ask'"),
        ({"rungs": ("replan", "replan")}, "each once"),
        ({"settle": -1}, r"ladder\.settle"),
        ({"calm": 0}, r"ladder\.calm"),
        ({"pace": 0.0}, r"ladder\.pace"),
    ],
)
def test_ladders_that_mean_nothing_are_refused(bad, message):
    with pytest.raises((ContractError, UnknownNameError), match=message):
        LadderConfig(**bad)


# ---- the budget


def ticket(number: int, layer="action") -> Ticket:
    return Ticket(episode=0, plan=number, tick=number, layer=layer)


def test_what_is_asked_is_set_aside_and_settled_as_it_was():
    account = Account(Budget(total=0.5, window=2.0))
    account.reserve(ticket(0), 0.8, 0.0)
    assert account.refusal("action", 0.3, 0.0) == "budget: 300 ms wanted, 200 ms left of 0.5 s/s (total)"
    account.settle(ticket(0), 0.1)
    assert account.refusal("action", 0.9, 0.0) == ""
    assert account.spent == {"action": 0.1}
    account.settle(ticket(0), 0.1)
    assert account.spent == {"action": 0.1}, "an answer that comes twice was computed once"
    account.reset()
    assert (account.spent, account.refusal("action", 1.0, 0.0)) == ({}, "")


def test_allowance_accrues_with_robot_time_up_to_the_window():
    account = Account(Budget(total=0.5, window=2.0))
    account.reserve(ticket(0), 1.0, 10.0)
    assert account.refusal("check", 0.5, 10.0)
    assert account.refusal("check", 0.5, 11.0) == ""
    assert "600 ms wanted, 500 ms left" in account.refusal("check", 0.6, 11.0)
    assert account.refusal("check", 1.0, 99.0) == ""
    never = account.refusal("check", 1.1, 99.0)
    assert never == "budget: 1100 ms wanted, 1000 ms left of 0.5 s/s (total), which saves up 1000 ms at most"
    assert account.refusal("check", 1.0, 50.0) == "", "a clock that goes back costs nothing"


def test_layers_have_their_own_limit_besides_the_total():
    account = Account(Budget(total=1.0, layers={"check": 0.1, "semantic": 0.0}, window=1.0))
    assert account.refusal("action", 0.9, 0.0) == ""
    assert account.refusal("check", 0.2, 0.0).endswith("left of 0.1 s/s (check), which saves up 100 ms at most")
    assert account.refusal("semantic", 0.0, 0.0), "a layer without any allowance is never asked, however quick"
    account.reserve(ticket(0), 1.0, 0.0)
    assert account.refusal("check", 0.05, 0.0).endswith("0 ms left of 1 s/s (total)")
    assert Account(Budget()).refusal("action", 1e9, 0.0) == ""


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"layers": {"chek": 1.0}}, "did you mean 'check'"),
        ({"total": -0.1}, r"budget\.total"),
        ({"layers": {"check": float("nan")}}, r"budget\.check"),
        ({"window": 0.0}, r"budget\.window"),
        ({"window": math.inf}, r"budget\.window"),
    ],
)
def test_budgets_that_mean_nothing_are_refused(bad, message):
    with pytest.raises((ContractError, UnknownNameError), match=message):
        Budget(**bad)


# ---- episodes


def reading(alarm: bool, *, threshold: float = 1.0) -> Reading:
    value = 2.0 if alarm else 0.5
    return Reading(check="doubt", raw=value, lead=1, value=value, threshold=threshold)


class Checks:
    """A check layer that says what `readings(question)` says, alarms at these ticks, or at none."""

    def __init__(self, alarms=(), readings=None) -> None:
        self._readings = readings or (lambda question: (reading(question.ticket.tick in alarms),))
        self.questions: list[Question] = []

    def start(self, instruction, *, seed):
        pass

    def answer(self, question):
        self.questions.append(question)
        return Answer(readings=self._readings(question))


class Semantics:
    """A semantic layer that says one after the other, then nothing."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[int] = []

    def start(self, instruction, *, seed):
        pass

    def answer(self, question):
        self.asked.append(question.ticket.tick)
        answer = self._answers.pop(0) if self._answers else Answer()
        if isinstance(answer, Exception):
            raise answer
        return answer


class Broken(RuntimeError):
    """May be asked again."""

    transient = True


def exact(kind="absolute", **options) -> ExactWorld:
    return ExactWorld(kind=kind, image_size=8, **{"time_limit": 6.0, **options})


def play(ms=0.0, *, world=None, policy=None, config=None, seed=0, residual=None, action=None, **layers):
    """An episode of a counting policy `ms` late; each further layer is a module and its milliseconds."""
    world = world or exact()
    policy = policy or CountingPolicy(world.embodiment, horizon=16)
    recorder = Recorder()
    further = {
        layer: Charged(Here(module), LatencyProfile.constant(late), layer=layer)
        for layer, (module, late) in layers.items()
    }
    result = run_episode(
        world,
        policy,
        world.tasks["reach-left"],
        seed=seed,
        latency=None if action else LatencyProfile.constant(ms),
        inference=action,
        config=config,
        layers=further,
        residual=residual,
        subscribers=[recorder],
    )
    return result, recorder


def of_layer(recorder: Recorder, kind, layer: str):
    return [event for event in recorder.of(kind) if event.layer == layer]


def asked(recorder: Recorder, layer="action") -> list[tuple[int, str]]:
    return [(event.tick, event.why) for event in of_layer(recorder, Requested, layer)]


def test_rungs_of_layers_that_are_not_there_are_left_out():
    ladder = LadderConfig(rungs=("choose", "ask", "replan"), settle=0)
    result, recorder = play(config=LoopConfig(ladder=ladder), check=(Checks(alarms=range(99)), 0))
    assert set(result.rungs) == {"replan"}
    assert {event.rung for event in recorder.of(Stepped)} == {"replan"}
    assert result.refused == {}


def test_a_robot_that_holds_stands_still_is_planned_for_and_ends_with_a_human():
    world = exact()
    policy = CountingPolicy(
        world.embodiment, actions=lambda obs, horizon: obs.state + np.arange(1, horizon + 1)[:, None] * np.float32(0.01)
    )
    ladder = LadderConfig(rungs=("slow", "hold", "human"), settle=5, calm=50, pace=0.5)
    checks = Checks(alarms=range(10, 99))
    result, recorder = play(100, world=world, policy=policy, config=LoopConfig(ladder=ladder), check=(checks, 0))
    steps = [(event.tick, event.before, event.rung, event.cause) for event in recorder.of(Stepped)]
    slow, hold, human = (tick for tick, *_ in steps)
    assert [step[1:] for step in steps] == [
        ("continue", "slow", "doubt"),
        ("slow", "hold", "doubt"),
        ("hold", "human", "doubt"),
    ]
    ticked = recorder.of(Ticked)
    assert {event.pace for event in ticked[slow:hold] if not event.hold} == {0.5}
    assert {event.hold for event in ticked[hold:]} == {"told"}
    still = ticked[hold - 1].sent.tolist()
    assert all(event.sent.tolist() == still for event in ticked[hold:])
    assert (hold, "disagrees") in asked(recorder), "so as to have a plan from what is seen now"
    assert (result.success, result.outcome.reason) == (False, "asked for a human")
    assert (result.ticks, result.outcome.time) == (human, pytest.approx(human * 0.1))
    assert (result.held_told, result.rungs) == (human - hold, {"slow": 1, "hold": 1, "human": 1})


def test_a_human_may_be_called_while_answers_are_under_way():
    ladder = LadderConfig(rungs=("human",))
    result, recorder = play(
        500, config=LoopConfig(ladder=ladder), check=(Checks(alarms=(7,)), 100), semantic=(Semantics(), 3000)
    )
    assert (result.ticks, result.outcome.reason, result.error) == (8, "asked for a human", "")
    assert isinstance(recorder.events[-1], EpisodeEnded)


@pytest.mark.parametrize(("late", "check_late"), [(0, 0), (200, 100), (300, 300)])
def test_an_alarm_leads_to_a_new_plan_within_the_expected_delay(late, check_late):
    config = LoopConfig(execute_horizon=16, ladder=LadderConfig(rungs=("replan",), settle=20))
    _, recorder = play(late, config=config, check=(Checks(alarms=(12, 13)), check_late))
    alarm = 12 + check_late // 100 + (late == 0)  # the first plan is looked at from the tick after its anchor on
    assert (alarm, "disagrees") in asked(recorder)
    first = next(event.tick for event in recorder.of(Ticked) if event.anchor == alarm)
    assert first == alarm + late // 100


def test_an_open_question_on_what_the_alarm_saw_is_enough():
    """The chunk that is under way was asked for when the check looked: it is the new plan from what is seen now."""
    config = LoopConfig(execute_horizon=6, check_every=1, ladder=LadderConfig(rungs=("replan",), settle=40))
    _, recorder = play(500, config=config, check=(Checks(alarms=(11,)), 100))
    questions = asked(recorder)
    assert questions[:2] == [(0, "first"), (11, "executed")], "5 ticks late, 6 executed"
    assert "disagrees" not in [why for _, why in questions]
    _, recorder = play(500, config=config, check=(Checks(alarms=(12,)), 100))
    assert (16, "disagrees") in asked(recorder), "what is under way rests on what was seen before: as soon as it is in"


def test_an_alarm_about_a_plan_that_was_replaced_meanwhile_is_dropped():
    """The check takes four ticks, and in the middle of a look the plan is replaced: its alarm is about the past."""
    config = LoopConfig(execute_horizon=6)
    result, recorder = play(0, config=config, check=(Checks(alarms=range(99)), 400))
    replies = of_layer(recorder, Replied, "check")
    late = [event for event in replies if any(event.anchor <= tick < event.tick for tick, _ in asked(recorder)[1:])]
    assert late
    for event in late:
        assert (event.accepted, event.reason, event.delay) == (False, "older", 4)
    assert result.alarms == len(replies) - len(late)


def test_checks_are_judged_before_the_plan_is_replaced():
    """Both answers come in one tick: the alarm is about the plan that was in force until then, and counts."""
    config = LoopConfig(execute_horizon=4, check_every=4)
    result, recorder = play(200, config=config, check=(Checks(alarms=(6,)), 200))
    arrived = [(event.tick, event.layer, event.accepted) for event in recorder.of(Replied) if event.tick == 8]
    assert arrived == [(8, "check", True), (8, "action", True)]
    assert result.alarms == 1


def test_a_layer_that_is_paused_with_the_world_is_judged_in_the_same_tick():
    """Zero latency everywhere: an alarm and a new plan of one tick, without asking twice for one observation."""
    world = exact()
    policy, recorder = CountingPolicy(world.embodiment), Recorder()
    layers = {"check": Charged(Here(Checks(alarms=range(99))), layer="check", charged=False)}
    config = LoopConfig(execute_horizon=4, ladder=LadderConfig(rungs=("replan",), settle=0))
    task = world.tasks["reach-left"]
    options = {"clock": "paused", "config": config, "layers": layers, "subscribers": [recorder]}
    result = run_episode(world, policy, task, seed=0, **options)
    assert (result.error, result.dropped, result.held) == ("", {}, 0)
    ticks = [tick for tick, _ in asked(recorder)]
    assert sorted(set(ticks)) == ticks, "one question for each observation"


# ---- running on while the checks agree


def gaps(recorder: Recorder) -> set[int]:
    """Ticks between two questions, but for the first and the last ones."""
    return set(np.diff([tick for tick, _ in asked(recorder)[1:]]).tolist())


def test_while_the_checks_agree_a_chunk_is_run_to_its_end():
    config = LoopConfig(execute_horizon=4, run_on=99)
    result, recorder = play(200, config=config, check=(Checks(), 100))
    assert {why for _, why in asked(recorder)[1:]} == {"spending"}
    assert gaps(recorder) == {14}, "16 actions, asked 2 ticks before the end"
    assert result.held_late == 0
    without, _ = play(200, config=replace(config, run_on=0), check=(Checks(), 100))
    assert without.calls >= 3 * result.calls


def test_running_on_may_be_bounded_and_takes_more_than_no_alarm():
    config = LoopConfig(execute_horizon=4, run_on=10, agree_below=0.5)
    _, recorder = play(200, config=config, check=(Checks(), 100))
    assert gaps(recorder) == {10}
    assert {why for _, why in asked(recorder)[1:]} == {"executed"}
    _, recorder = play(200, config=replace(config, agree_below=0.4), check=(Checks(), 100))
    assert gaps(recorder) == {4}, "no alarm, but no agreement either"


def test_checks_slower_than_their_rate_still_let_the_robot_run_on():
    """A look takes four ticks, one is open at a time: agreement is as fresh as it can be."""
    config = LoopConfig(execute_horizon=10, run_on=99, check_every=1)
    _, recorder = play(200, world=exact(time_limit=12.0), policy=long(), config=config, check=(Checks(), 400))
    assert gaps(recorder) == {30}


def long() -> CountingPolicy:
    return CountingPolicy(exact().embodiment, horizon=32)


class Sometimes(Checks):
    """Fails from tick 20 on, in one of the ways in which a layer fails."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self._how = how

    def answer(self, question):
        answer = super().answer(question)
        if question.ticket.tick < 20:
            return answer
        if self._how == "failing":
            raise Broken("no picture")
        if self._how == "uncalibrated":
            return Answer(readings=(reading(False, threshold=math.inf),))
        return Answer() if self._how == "nothing to compare" else answer


class Hanging(Charged):
    """Answers come in time, until none comes any more."""

    def submit(self, question, now):
        if question.ticket.tick < 20:
            super().submit(question, now)


@pytest.mark.parametrize("how", ["failing", "nothing to compare", "uncalibrated", "silent", "refused"])
def test_where_the_checks_fall_silent_the_execute_horizon_holds_again(how):
    world = exact(time_limit=8.0)
    policy, recorder = long(), Recorder()
    inference = Hanging if how == "silent" else Charged
    config = LoopConfig(execute_horizon=4, run_on=99)
    profile = LatencyProfile.constant(100)
    if how == "refused":  # they take 0.5 s/s
        config = replace(config, budget=Budget(layers={"check": 0.2}, window=4.0))
    options = {"latency": LatencyProfile.constant(200), "config": config, "subscribers": [recorder]}
    layers = {"check": inference(Here(Sometimes(how)), profile, layer="check")}
    result = run_episode(world, policy, world.tasks["reach-left"], seed=0, layers=layers, **options)
    assert result.error == ""
    questions = asked(recorder)
    assert [tick for tick, _ in questions if tick < 20] == [0], "no question while all is well"
    later = [(tick, why) for tick, why in questions if tick > 30]
    if how == "refused":
        assert result.refused["check"] > 0
        assert any(why == "executed" for _, why in later)
    else:
        assert {why for _, why in later} == {"executed"}
        assert set(np.diff([tick for tick, _ in later]).tolist()) == {4}


def test_agreement_with_the_last_plan_is_none_with_the_next():
    """With a plan that takes over, only a look at what that one expected counts."""
    config = LoopConfig(execute_horizon=2, run_on=99, check_every=1)
    checks = Checks(readings=lambda question: (reading(False),) if question.ticket.tick < 19 else ())
    _, recorder = play(300, config=config, check=(checks, 0))
    assert asked(recorder)[1:3] == [(16, "spending"), (19, "executed")], "the look at tick 18 was at the plan before"


# ---- late, lost and wrong answers


class Silent(Charged):
    """Does not answer the questions of these numbers; what is asked later it answers."""

    def __init__(self, module, ms: float, layer, lost) -> None:
        super().__init__(Here(module), LatencyProfile.constant(ms), layer=layer)
        self._lost = lost

    def submit(self, question, now):
        if question.ticket.plan not in self._lost:
            super().submit(question, now)


def lossy(ms=100.0, lost=(), *, config, check=None, semantic=None, world=None):
    """An episode in which answers are lost: `check` and `semantic` are a module, its milliseconds and what is lost."""
    world = world or exact()
    policy, recorder = CountingPolicy(world.embodiment), Recorder()
    further = {"check": check, "semantic": semantic}
    layers = {name: Silent(one[0], one[1], name, one[2]) for name, one in further.items() if one}
    action = Silent(PolicyModule(policy), ms, "action", lost)
    options = {"inference": action, "layers": layers, "config": config, "subscribers": [recorder]}
    return run_episode(world, policy, world.tasks["reach-left"], seed=0, **options), recorder


def test_a_chunk_that_does_not_come_is_asked_for_again_after_the_timeout():
    config = LoopConfig(execute_horizon=4, answer_timeout=0.5)
    result, recorder = lossy(lost=(1,), config=config)
    assert asked(recorder)[:3] == [(0, "first"), (5, "executed"), (10, "executed")], "1 tick late, 4 executed"
    assert result.timed_out == {"action": 1}
    result, recorder = lossy(lost=(0,), config=config)
    assert [event.tick for event in recorder.of(Ticked) if event.hold] == list(range(6))


def test_a_look_that_does_not_come_is_given_up_and_another_is_taken():
    config = LoopConfig(answer_timeout=0.5, check_every=2)
    result, recorder = lossy(config=config, check=(Checks(), 100, (2,)))
    ticks = [tick for tick, _ in asked(recorder, "check")]
    assert np.diff(ticks).tolist()[:4] == [2, 2, 5, 2]
    assert result.timed_out == {"check": 1}


def test_a_subtask_that_comes_after_the_timeout_is_dropped():
    """What was given up is not listened to, however long ago it was said."""
    config = LoopConfig(answer_timeout=1.0, subtask_every=10.0)
    result, recorder = play(config=config, semantic=(Semantics(Answer(text="reach right", done=True)), 2000))
    (reply,) = of_layer(recorder, Replied, "semantic")
    assert (reply.tick, reply.accepted, reply.reason) == (20, False, "plan")
    assert result.timed_out == {"semantic": 1}
    assert {event.instruction for event in recorder.of(Requested)} == {exact().tasks["reach-left"].instruction}


def test_a_subtask_that_comes_twice_is_heard_once():
    """A network that repeats an old answer does not bring the old instruction back."""

    class Twice(Charged):
        kept: list[Reply] = []  # noqa: RUF012

        def poll(self, now):
            replies = super().poll(now)
            again = self.kept if now > 2.05 else []
            self.kept = [] if again else self.kept + [replace(reply, due=now) for reply in replies]
            return again[:1] or replies

    world, recorder = exact(), Recorder()
    policy = CountingPolicy(world.embodiment)
    module = Semantics(Answer(text="one"), Answer(text="two"))
    layers = {"semantic": Twice(Here(module), LatencyProfile.constant(100), layer="semantic")}
    config = LoopConfig(subtask_every=1.0)
    options = {"latency": LatencyProfile.constant(100), "layers": layers, "config": config, "subscribers": [recorder]}
    result = run_episode(world, policy, world.tasks["reach-left"], seed=0, **options)
    heard = [(event.text, event.accepted) for event in of_layer(recorder, Replied, "semantic") if event.text]
    assert heard == [("one", True), ("two", True), ("one", False)]
    assert recorder.of(Requested)[-1].instruction == "two"
    assert result.computed["semantic"] == pytest.approx(0.1 * len(module.asked), abs=0.11)


def test_what_rests_on_too_old_an_observation_is_held_and_asked_anew():
    config = LoopConfig(execute_horizon=4, max_age=0.6, answer_timeout=2.0)
    result, recorder = lossy(lost=(1,), config=config)
    ticked = recorder.of(Ticked)
    assert [event.tick for event in ticked if event.hold == "stale"][:2] == [6, 7]
    assert max(event.age for event in ticked if not event.hold) < 0.6
    assert (25, "spent") in asked(recorder), "when the lost one was given up"
    assert result.held_stale == len([event for event in ticked if event.hold == "stale"])
    assert result.infeasible == ""


def test_answers_that_are_always_too_old_are_called_infeasible():
    result, _ = play(500, config=LoopConfig(max_age=0.5))
    assert result.executed == 0
    assert result.infeasible.startswith("answers come 500 ms late, and no action is executed later than 500 ms after")
    with pytest.raises(InfeasibleError, match="allow more, or take a faster model"):
        play(500, config=LoopConfig(max_age=0.5, strict=True))
    assert play(400, config=LoopConfig(max_age=0.5))[0].infeasible == ""


@pytest.mark.parametrize("slowest", [0.5, 0.25])
def test_the_tail_is_followed_slower_while_an_answer_is_late(slowest):
    """Chunks of 8, answers of 500 ms or, now and then, 1100: with some stretching fewer ticks are starved."""
    world = exact(time_limit=30.0)
    late = LatencyProfile(name="spread", seconds=(0.5, 0.5, 0.5, 1.1))
    found = {}
    for stretch in (1.0, slowest):
        policy, recorder = CountingPolicy(world.embodiment, horizon=12), Recorder()
        config = LoopConfig(execute_horizon=4, stretch=stretch)
        options = {"latency": late, "config": config, "subscribers": [recorder]}
        found[stretch] = run_episode(world, policy, world.tasks["reach-left"], seed=2, **options)
        paces = {event.pace for event in recorder.of(Ticked) if not event.hold and event.pace < 1}
        last = [event for event in recorder.of(Ticked) if not event.hold and event.pace < slowest - 1e-9]
        assert all(event.index == 11 for event in last), "less only for what is left of the last action"
        assert bool(paces) == (stretch < 1)
    assert found[slowest].held_late < 0.7 * found[1.0].held_late


def test_an_answer_that_is_overdue_slows_the_robot_too():
    """Nothing is known of when it will come: what is left is made to last as long again as it is late."""
    config = LoopConfig(execute_horizon=8, stretch=0.2)
    _, recorder = lossy(200, lost=(1,), config=config)
    ticked = recorder.of(Ticked)
    assert asked(recorder)[1] == (10, "executed")
    paces = [event.pace for event in ticked[8:40]]
    full = paces.index(next(pace for pace in paces if pace < 1))
    assert full >= 3, "as long as the plan outlasts the delay"
    assert all(pace >= 0.2 for pace in paces if ticked[8 + paces.index(pace)].index < 15)
    quick = lossy(200, lost=(1,), config=replace(config, stretch=1.0))[1].of(Ticked)
    assert sum(not event.hold for event in ticked) > sum(not event.hold for event in quick) + 5


def test_where_no_latency_is_known_yet_nothing_is_slowed():
    ticking = iter(np.arange(1000) * 0.25)
    world = exact()
    policy = CountingPolicy(world.embodiment)
    action = Charged(Here(PolicyModule(policy), timer=lambda: float(next(ticking))))
    _, recorder = play(world=world, policy=policy, config=LoopConfig(stretch=0.5), action=action)
    assert {event.pace for event in recorder.of(Ticked)[:20] if not event.hold} == {1.0}


# ---- errors


def failing(*calls: int, error=Broken):
    """Raises when it is called for these times, from 0."""
    times = iter(range(10**9))

    def fail(_: int) -> None:
        if next(times) in calls:
            raise error("device lost")

    return fail


def test_a_transient_error_of_the_action_layer_is_asked_again_in_the_next_tick():
    world = exact()
    policy = CountingPolicy(world.embodiment, on_call=failing(1, 2))
    result, recorder = play(0, world=world, policy=policy, config=LoopConfig(execute_horizon=4))
    assert result.error == ""
    assert result.warnings == ("action: Broken: device lost (2 times)",)
    assert [tick for tick, _ in asked(recorder)][:4] == [0, 4, 5, 6]
    assert result.dropped == {"error": 2}
    assert result.held == 0


@pytest.mark.parametrize("clock", [None, "paused"])
def test_an_action_layer_that_always_fails_at_once_does_not_stop_the_ticks(clock):
    """The robot holds, is asked for once a tick, and the episode ends when its time is up."""
    world = exact(time_limit=1.0)
    policy = CountingPolicy(world.embodiment, on_call=failing(*range(99)))
    latency = LatencyProfile.constant(0) if clock is None else None
    result = run_episode(world, policy, world.tasks["reach-left"], seed=0, latency=latency, clock=clock)
    assert (result.ticks, result.held_starved, result.calls, result.error) == (10, 10, 10, "")


def test_an_error_that_is_not_transient_ends_the_episode_and_one_of_another_layer_does_not():
    world = exact()
    policy = CountingPolicy(world.embodiment, on_call=failing(1, error=ValueError))
    result, _ = play(100, world=world, policy=policy)
    assert result.outcome.reason == "crashed"
    assert "ValueError: device lost" in result.error

    class Failing(Checks):
        def answer(self, question):
            raise ValueError("no picture")

    semantics = Semantics(ValueError("overloaded"))
    result, recorder = play(
        100, check=(Failing(), 100), semantic=(semantics, 100), config=LoopConfig(subtask_every=1.0)
    )
    assert (result.error, result.ticks) == ("", 60)
    assert sorted(result.warnings) == [
        f"check: ValueError: no picture ({result.asked['check'] - 1} times)",
        "semantic: ValueError: overloaded (1 times)",
    ]
    assert len(semantics.asked) == 6
    assert {event.reason for event in of_layer(recorder, Replied, "check")} == {"error"}


def test_what_an_alarm_demanded_is_demanded_again_where_it_fails():
    """The server is down when the replan is asked for: it is asked for in the next tick, not when the plan is spent."""
    world = exact()
    config = LoopConfig(execute_horizon=16, ladder=LadderConfig(rungs=("replan",), settle=30))
    policy = CountingPolicy(world.embodiment, on_call=failing(1, 2))
    _, recorder = play(100, world=world, policy=policy, config=config, check=(Checks(alarms=(7,)), 0))
    assert asked(recorder)[1:4] == [(7, "disagrees"), (8, "disagrees"), (9, "disagrees")]


def test_what_a_choice_did_not_give_is_asked_of_the_action_layer():
    class Unable:
        def start(self, instruction, *, seed):
            pass

        def answer(self, question):
            raise ValueError("out of memory")

    config = LoopConfig(execute_horizon=16, ladder=LadderConfig(rungs=("choose",), settle=30))
    result, recorder = play(100, config=config, check=(Checks(alarms=(7,)), 0), foresight=(Unable(), 100))
    questions = [(event.tick, event.layer, event.why) for event in recorder.of(Requested) if event.tick in (7, 8)]
    assert (7, "foresight", "disagrees") in questions
    assert (7, "action", "disagrees") in questions, "the error of several candidates comes at once"
    assert result.error == ""
