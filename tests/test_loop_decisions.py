"""What the loop decides: ladder, budget, when to ask whom, and what becomes of every answer that is late or wrong."""

import gc
import math
import threading
import weakref
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
    Stepped,
    Ticked,
    Ticket,
    VirtualClock,
    run_episode,
)
from actloop.loop.budget import Account
from actloop.loop.inference import Reply
from actloop.loop.ladder import RUNGS, Ladder
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
    moving = [(event.tick, event.index, event.pace) for event in ticked if event.tick >= 10 and not event.hold]
    assert [pace for _, _, pace in moving][:3] == [1.0] * 3, "as long as the plan outlasts the delay"
    assert all(0.2 <= pace <= 1.0 for _, index, pace in moving if index < 15)
    slow = [pace for tick, _, pace in moving if pace < 1]
    assert slow[:-1] == sorted(slow[:-1], reverse=True), "the later, the slower"
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


# ---- the semantic layer


class Obeying:
    """A policy that keeps the instructions of its sessions."""

    def __init__(self, world: ExactWorld) -> None:
        self.embodiment, self.horizon = world.embodiment, 16
        self.told: dict[int, str] = {}

    def start(self, instruction, *, seed):
        return instruction

    def predict(self, session, obs, *, committed=None, imagine=False):
        self.told[obs.tick] = session
        actions = np.full((16, 2), 0.5 if session == "reach right" else -0.5, np.float32)
        period = self.embodiment.period
        chunk = ActionChunk(actions=actions, anchor=obs.tick, period=period, observed_at=obs.time)
        return session, Prediction(chunk=chunk)


def test_the_semantic_layer_is_asked_at_the_start_every_so_often_and_when_the_ladder_asks():
    semantics = Semantics()
    config = LoopConfig(subtask_every=2.0, ladder=LadderConfig(rungs=("ask",), settle=50))
    _, recorder = play(100, config=config, semantic=(semantics, 300), check=(Checks(alarms=(9,)), 0))
    assert asked(recorder, "semantic") == [(0, "first"), (9, "ladder"), (29, "every"), (49, "every")]
    _, recorder = play(100, config=LoopConfig(), semantic=(Semantics(), 300))
    assert asked(recorder, "semantic") == [(0, "first")], "0 seconds: only at the start"


@pytest.mark.parametrize("late", [0, 500])
def test_another_subtask_is_followed_by_the_next_chunk_and_the_open_question_is_given_up(late):
    world = exact()
    policy = Obeying(world)
    semantics = Semantics(Answer(), Answer(text="reach right"))
    config = LoopConfig(execute_horizon=8, subtask_every=1.5)
    _, recorder = play(late, world=world, policy=policy, config=config, semantic=(semantics, 200))
    told = 17  # asked at 15, 200 ms late
    questions = of_layer(recorder, Requested, "action")
    before = [event for event in questions if event.tick < told]
    first = next(event for event in questions if event.tick >= told)
    assert (first.tick, first.why, first.instruction) == (told, "told", "reach right")
    assert {event.instruction for event in before} == {world.tasks["reach-left"].instruction}
    assert all(policy.told[event.tick] == event.instruction for event in questions if event.tick in policy.told)
    if late:
        given_up = before[-1]
        assert given_up.tick == 13, "under way when the other subtask came"
        dropped = [event for event in of_layer(recorder, Replied, "action") if not event.accepted]
        assert [(event.plan, event.reason) for event in dropped] == [(given_up.plan, "plan")]
    switch = next(event.tick for event in recorder.of(Ticked) if event.requested[0] == 0.5)
    begins = told if not late else 13 + 5 + 5  # one head: it answers the question that was given up first
    assert switch == begins
    assert {float(event.requested[0]) for event in recorder.of(Ticked)[switch:]} == {0.5}


def test_the_new_subtask_is_not_averaged_with_the_old_one():
    world = exact()
    config = LoopConfig(execute_horizon=2, join=Join(how="ensemble", decay=0.0), subtask_every=1.5)
    semantics = Semantics(Answer(), Answer(text="reach right"))
    _, recorder = play(0, world=world, policy=Obeying(world), config=config, semantic=(semantics, 200))
    sent = [float(event.requested[0]) for event in recorder.of(Ticked)]
    assert sent == [-0.5] * 17 + [0.5] * 43


def test_another_subtask_in_the_tick_of_a_chunk_of_the_old_one_wins():
    """Nothing takes time: a chunk was asked for and answered in the tick in which the other subtask is heard."""
    world, recorder = exact(), Recorder()
    policy = Obeying(world)
    layers = {
        "semantic": Charged(Here(Semantics(Answer(), Answer(text="reach right"))), layer="semantic", charged=False),
        "check": Charged(Here(Checks(alarms=(4,))), layer="check", charged=False),
    }
    config = LoopConfig(execute_horizon=4, check_every=3, ladder=LadderConfig(rungs=("ask",)))
    options = {"clock": "paused", "layers": layers, "config": config, "subscribers": [recorder]}
    result = run_episode(world, policy, world.tasks["reach-left"], seed=0, **options)
    sent = [float(event.requested[0]) for event in recorder.of(Ticked)]
    switch = sent.index(0.5)
    assert sent == [-0.5] * switch + [0.5] * (60 - switch)
    assert (switch, "told") in asked(recorder)
    assert result.dropped == {}


def test_a_subtask_while_a_look_is_open_leaves_the_look_to_the_plan_it_was_about():
    world = exact()
    config = LoopConfig(execute_horizon=16, check_every=1, ladder=LadderConfig(rungs=("replan",), settle=50))
    semantics = Semantics(Answer(text="reach right"))
    checks = Checks(alarms=range(1, 99))
    result, recorder = play(
        100, world=world, policy=Obeying(world), config=config, check=(checks, 400), semantic=(semantics, 300)
    )
    assert result.error == ""
    first = checks.questions[0]
    assert (first.ticket.tick, first.evidence.instruction) == (1, world.tasks["reach-left"].instruction)
    reply = of_layer(recorder, Replied, "check")[0]
    assert (reply.tick, reply.reason) == (5, "older"), "the plan of the other subtask is in force by then"
    assert checks.questions[1].evidence.instruction == "reach right"


def test_evidence_names_the_instruction_that_the_plan_in_force_was_asked_for_with():
    world = exact()
    checks = Checks()
    semantics = Semantics(Answer(text="reach right"))
    config = LoopConfig(execute_horizon=8, check_every=1)
    play(500, world=world, policy=Obeying(world), config=config, check=(checks, 0), semantic=(semantics, 700))
    for question in checks.questions:
        side = question.evidence.prediction.chunk.actions[0, 0]
        assert (question.evidence.instruction == "reach right") == (side == 0.5)
    assert {question.evidence.instruction for question in checks.questions if 7 < question.ticket.tick < 10} == {
        world.tasks["reach-left"].instruction
    }


def test_the_word_that_it_is_done_ends_the_episode_only_where_it_may():
    semantics = (Semantics(Answer(done=False), Answer(done=True)), 300)
    result, _ = play(100, config=LoopConfig(subtask_every=1.0, done_ends=True), semantic=semantics)
    assert (result.success, result.outcome.reason, result.ticks) == (True, "done, says the semantic layer", 13)
    assert result.outcome.time == pytest.approx(1.3)
    semantics = (Semantics(Answer(done=False), Answer(done=True)), 300)
    result, _ = play(100, config=LoopConfig(subtask_every=1.0), semantic=semantics)
    assert (result.success, result.ticks) == (False, 60)


# ---- a budget in an episode


def test_a_new_plan_is_postponed_while_the_old_one_lasts_and_said_once():
    """0.2 s/s and 200 ms each allow for one chunk a second; asked for every 400 ms, held for none."""
    config = LoopConfig(execute_horizon=4, budget=Budget(total=0.2, window=1.0))
    result, recorder = play(200, config=config)
    refused = recorder.of(Refused)
    assert {event.instead for event in refused} == {"the rest of the plan"}
    assert refused[0].why.startswith("budget: 200 ms wanted, ")
    questions = asked(recorder)
    for event in refused:
        assert sum(event.tick <= tick for tick, _ in questions) < len(questions)
    between = np.digitize([event.tick for event in refused], [tick for tick, _ in questions])
    assert len(set(between.tolist())) == len(between), "once before each question"
    assert gaps(recorder) == {10}
    assert result.held_late == 0
    assert result.computed["action"] <= 0.2 * 6 + 0.2 + 1e-9
    assert result.refused == {"action": len(refused)}


def test_a_budget_never_starves_the_robot():
    """What cannot be paid for at all is asked for when the plan would else run out: no tick is lost to it."""
    config = LoopConfig(execute_horizon=4, budget=Budget(total=0.0))
    result, recorder = play(200, config=config)
    assert {why for _, why in asked(recorder)[1:]} == {"executed"}
    assert gaps(recorder) == {14}, "2 ticks before the end of 16 actions"
    assert (result.held_late, result.held_starved) == (0, 2)


def test_questions_of_one_tick_share_what_there_is():
    """Each would fit alone; together they would be 300 ms over."""
    config = LoopConfig(execute_horizon=4, check_every=4, budget=Budget(total=0.3, window=1.0))
    _, recorder = play(200, config=config, check=(Checks(), 200))
    level, at, expected = 0.3, 0.0, 0.2
    for event in recorder.events:
        if isinstance(event, Requested):
            level, at = min(level + 0.3 * (event.time - at), 0.3) - expected, event.time
            assert level > -1e-9 or event.why in ("first", "spending"), (event.tick, event.layer)


def test_looks_that_are_not_paid_for_are_refused():
    config = LoopConfig(check_every=2, budget=Budget(layers={"check": 0.25}, window=1.0))
    result, recorder = play(0, config=config, check=(Checks(), 100))
    refused = of_layer(recorder, Refused, "check")
    assert {event.instead for event in refused} == {"no look at this tick"}
    assert "100 ms wanted" in refused[0].why
    assert refused[0].why.endswith("left of 0.25 s/s (check)")
    assert result.computed["check"] <= 0.25 * 6 + 0.25 + 1e-9
    assert result.asked["check"] + result.refused["check"] == 30
    assert result.refused["check"] == len(refused)


def test_a_subtask_that_is_not_paid_for_leaves_the_instruction():
    config = LoopConfig(subtask_every=1.0, budget=Budget(layers={"semantic": 0.1}, window=1.0))
    semantics = Semantics(*[Answer(text="reach right")] * 9)
    result, recorder = play(config=config, semantic=(semantics, 300))
    refused = of_layer(recorder, Refused, "semantic")
    assert {event.instead for event in refused} == {"the instruction stands"}
    assert refused[0].why.endswith("which saves up 100 ms at most")
    assert (semantics.asked, result.refused["semantic"]) == ([], 6)


# ---- choosing


class Line:
    """A policy that samples chunks of constant actions: 0, 1, 2, ... hundredths."""

    def __init__(self, world: ExactWorld, spend=lambda: None) -> None:
        self.embodiment, self.horizon = world.embodiment, 16
        self._spend = spend
        self.predicted = 0

    def start(self, instruction, *, seed):
        return 0

    def predict(self, session, obs, *, committed=None, imagine=False):
        self._spend()
        self.predicted += 1
        return session + 1, Prediction(chunk=line(obs, session))

    def imagine(self, session, obs, chunk):
        frames = {"front": np.full((1, 8, 8, 3), round(float(chunk.actions[0, 0]) * 100), np.uint8)}
        return Future(frames=frames, chunk=chunk, period=0.1, follows_chunk=True)


class Several(Line):
    """All samples at once."""

    def sample(self, session, obs, *, count, committed=None):
        self._spend()
        return session, [line(obs, number) for number in range(count)]


def line(obs: Observation, number: int) -> ActionChunk:
    actions = np.full((16, 2), number / 100, np.float32)
    return ActionChunk(actions=actions, anchor=obs.tick, period=0.1, observed_at=obs.time)


def question(world: ExactWorld, candidates: int, patience=math.inf) -> Question:
    obs = world.reset(world.tasks["reach-left"], seed=0)
    about = Ticket(episode=0, plan=0, tick=0, layer="foresight")
    return Question(ticket=about, observation=obs, instruction="go", candidates=candidates, patience=patience)


class Stopwatch:
    """A timer that moves when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds


def chosen(made, values, *, candidates=8, patience=math.inf, cost=0.0, upfront=0.0, each=None, imagines=False):
    """The answer of a chooser whose n-th candidate has `values[n]` and takes `cost` seconds to weigh."""
    world, watch, seen = exact(), Stopwatch(), []
    policy = made(world, lambda: watch.spend(upfront))

    def score(obs, chunk, future, instruction):
        watch.spend(cost)
        number = round(float(chunk.actions[0, 0]) * 100)
        seen.append(None if future is None else int(future.frames["front"][0, 0, 0, 0]))
        return float(values[number])

    chooser = ChooserModule(policy, score, imagines=policy if imagines else None, each=each, timer=watch)
    chooser.start("go", seed=0)
    answer = chooser.answer(question(world, candidates, patience))
    return answer, round(float(answer.prediction.chunk.actions[0, 0]) * 100), seen, watch, policy


@pytest.mark.parametrize("made", [Line, Several])
def test_the_best_candidate_is_chosen_and_the_first_of_equals(made):
    answer, best, _, _, _ = chosen(made, [1, 5, 9, 9, 2], candidates=5)
    assert (best, answer.considered, answer.values) == (2, 5, (1, 5, 9, 9, 2))
    assert chosen(made, [-math.inf] * 3, candidates=3)[1] == 0


@pytest.mark.parametrize("made", [Line, Several])
def test_choosing_stops_in_time_with_the_best_so_far(made):
    answer, best, _, watch, _ = chosen(made, [1, 5, 2, 9, 9], candidates=5, patience=0.35, cost=0.1)
    assert (answer.considered, best) == (3, 1)
    assert watch.now <= 0.35
    answer, best, _, _, _ = chosen(made, [1, 5], candidates=2, patience=0.0, cost=0.1)
    assert (answer.considered, best) == (1, 0), "the first is always considered"


def test_where_each_candidate_is_computed_for_itself_none_is_computed_in_vain():
    answer, _, _, watch, policy = chosen(Line, [1] * 8, patience=0.5, cost=0.05, upfront=0.1)
    assert (answer.considered, policy.predicted) == (3, 3)
    assert watch.now <= 0.5


def test_samples_that_come_all_at_once_are_paid_for_once():
    """0.3 s for all and 0.1 s to weigh each: there is time for six."""
    assert chosen(Several, [1] * 8, patience=0.9, cost=0.1, upfront=0.3)[0].considered == 6


def test_with_a_declared_price_the_machine_does_not_matter():
    for cost in (0.0, 5.0):
        assert chosen(Several, [1] * 8, patience=0.45, cost=cost, each=0.1)[0].considered == 4


@pytest.mark.parametrize("made", [Line, Several])
def test_futures_are_used_where_they_are_imagined(made):
    answer, best, seen, _, _ = chosen(made, [1, 3, 2], candidates=3, imagines=True)
    assert seen == [0, 1, 2]
    assert answer.prediction.future.frames["front"][0, 0, 0, 0] == best == 1
    answer, _, seen, _, _ = chosen(made, [1, 3, 2], candidates=3)
    assert (seen, answer.prediction.future) == ([None] * 3, None)


def test_a_choice_without_numbers_or_candidates_is_an_error():
    with pytest.raises(ContractError, match="candidate 1: expected a number as its score, got NaN"):
        chosen(Line, [1, math.nan, 2], candidates=3)

    class Nothing(Line):
        def sample(self, session, obs, *, count, committed=None):
            return session, []

    with pytest.raises(ContractError, match="at least one chunk"):
        chosen(Nothing, [1])


def choosing(*, ms=100, config, patient=True, policy=None):
    """An episode in which an alarm at tick 7 leads to a choice of up to 8 candidates, `ms` each."""
    world = exact()
    module = ChooserModule(Several(world), lambda obs, chunk, future, instruction: chunk.actions[0, 0], each=ms / 1000)
    config = replace(config, ladder=LadderConfig(rungs=("choose",), settle=99))
    return play(100, world=world, config=config, check=(Checks(alarms=(7,)), 0), foresight=(module, ms))


def test_candidates_are_as_many_as_there_is_time_for():
    result, recorder = choosing(config=LoopConfig(execute_horizon=16))
    (put,) = of_layer(recorder, Requested, "foresight")
    left = 16 - 6  # actions of the plan at tick 7, the first of which came at tick 1
    assert (put.tick, put.candidates, put.deadline) == (7, 8, pytest.approx(0.7 + left * 0.1))
    (reply,) = of_layer(recorder, Replied, "foresight")
    assert (reply.considered, reply.tick, reply.latency) == (8, 15, pytest.approx(0.8)), "charged for each"
    assert result.held_late == 0
    _, recorder = choosing(ms=300, config=LoopConfig(execute_horizon=16))
    (put,) = of_layer(recorder, Requested, "foresight")
    assert put.candidates == 3
    assert of_layer(recorder, Replied, "foresight")[0].tick == 16


def test_candidates_are_as_many_as_are_paid_for():
    config = LoopConfig(execute_horizon=16, budget=Budget(layers={"foresight": 0.25}, window=2.0))
    result, recorder = choosing(config=config)
    assert of_layer(recorder, Requested, "foresight")[0].candidates == 5
    assert result.computed["foresight"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("config", "ms", "why"),
    [
        (LoopConfig(execute_horizon=16), 600, "deadline: two candidates take 1200 ms, the plan ends in 1000 ms"),
        (
            LoopConfig(execute_horizon=16, budget=Budget(layers={"foresight": 0.1}, window=1.5)),
            100,
            "budget: 200 ms wanted, 150 ms left of 0.1 s/s (foresight), which saves up 150 ms at most",
        ),
    ],
)
def test_where_there_is_no_choice_the_action_layer_is_asked(config, ms, why):
    result, recorder = choosing(ms=ms, config=config)
    refused = [(event.tick, event.layer, event.instead, event.why) for event in recorder.of(Refused)]
    assert refused == [(7, "foresight", "action", why)]
    assert (7, "disagrees") in asked(recorder)
    assert of_layer(recorder, Requested, "foresight") == []
    assert result.refused == {"foresight": 1}


def test_what_is_fixed_for_a_choice_is_what_all_candidates_take():
    """With real-time chunking the policy has to know how long the robot goes on by the old plan: for 4 x 100 ms."""
    told = []

    class Told(Several):
        def sample(self, session, obs, *, count, committed=None):
            told.append(committed)
            return super().sample(session, obs, count=count, committed=committed)

    world = exact()
    module = ChooserModule(Told(world), lambda obs, chunk, future, instruction: 0.0, each=0.1)
    config = LoopConfig(execute_horizon=16, candidates=4, continue_plan=True, ladder=LadderConfig(rungs=("choose",)))
    _, recorder = play(100, world=world, config=config, check=(Checks(alarms=(7,)), 0), foresight=(module, 100))
    (committed,) = told
    assert (committed.fixed, len(committed.actions)) == (4, 4), "and no more than that: the rest is what was wrong"
    sent = [event.requested.tolist() for event in recorder.of(Ticked)[7:11]]
    assert committed.actions.tolist() == sent
    assert of_layer(recorder, Replied, "foresight")[0].tick == 11


# ---- latency on the virtual clock


def asks_of(inference: Charged, *at: float) -> None:
    world = exact()
    obs = world.reset(world.tasks["reach-left"], seed=0)
    for number, now in enumerate(at):
        about = Ticket(episode=0, plan=number, tick=0)
        inference.submit(Question(ticket=about, observation=obs, instruction="go"), now)


def test_one_head_answers_one_question_after_the_other_in_order():
    inference = Charged(Here(Checks()), LatencyProfile.constant(300), layer="check")
    inference.start("go", seed=0)
    asks_of(inference, 0.0, 0.1, 2.0)
    replies = inference.poll(9.0)
    assert [reply.ticket.plan for reply in replies] == [0, 1, 2]
    assert [reply.due for reply in replies] == pytest.approx([0.3, 0.6, 2.3])
    assert [reply.latency for reply in replies] == pytest.approx([0.3, 0.5, 0.3]), "from asking on"
    assert [reply.computed for reply in replies] == pytest.approx([0.3] * 3)


def test_paused_everything_is_due_at_once_and_costs_what_it_took():
    stops = iter([0.0, 0.2, 1.0, 1.7])
    inference = Charged(Here(Checks(), timer=lambda: next(stops)), layer="check", charged=False)
    inference.start("go", seed=0)
    asks_of(inference, 0.0, 0.0)
    replies = inference.poll(0.0)
    assert [(reply.due, reply.computed) for reply in replies] == [(0.0, pytest.approx(0.2)), (0.0, pytest.approx(0.7))]


def test_replies_come_layer_by_layer_whatever_was_due_first():
    """Checks are heard before another subtask, and both before the plan that they looked at is replaced."""
    config = LoopConfig(execute_horizon=4, check_every=4, subtask_every=0.6)
    _, recorder = play(200, config=config, check=(Checks(), 200), semantic=(Semantics(), 200))
    together = [event.layer for event in recorder.of(Replied) if event.tick == 8]
    assert together == ["check", "semantic", "action"]


# ---- what a robot engineer will meet


def test_two_episodes_at_once_do_not_know_of_each_other():
    def run(found: list, seed: int) -> None:
        late = LatencyProfile(name="spread", seconds=(0.1, 0.2, 0.4))
        recorder, world = Recorder(), exact(time_limit=20.0)
        checks = {"check": Charged(Here(Checks(alarms=range(0, 200, 7))), late, layer="check")}
        options = {"latency": late, "layers": checks, "subscribers": [recorder]}
        policy = CountingPolicy(world.embodiment)
        result = run_episode(world, policy, world.tasks["reach-left"], seed=seed, **options)
        found.append((replace(result, wall_seconds=0), [event.requested.tolist() for event in recorder.of(Ticked)]))

    alone: list = []
    together: list[list] = [[], []]
    run(alone, 1)
    run(alone, 2)
    threads = [threading.Thread(target=run, args=(together[number], number + 1)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[0][0], together[1][0]] == alone


@pytest.mark.parametrize("begun", [0.0, 123.456, 1e6])
def test_at_500_hz_an_answer_is_used_in_the_tick_in_which_it_is_due(begun):
    """Sums of floats: 3 x 2 ms must not become 4 ticks, whatever the clock says at the start."""
    world = exact(control_hz=500.0, time_limit=6.0)
    recorder, policy = Recorder(), CountingPolicy(world.embodiment, horizon=16)
    options = {"latency": LatencyProfile.constant(6), "clock": VirtualClock(begun), "subscribers": [recorder]}
    result = run_episode(world, policy, world.tasks["reach-left"], seed=0, **options)
    assert (result.ticks, set(result.delays), result.held, result.missed) == (3000, {3}, 3, 0)
    assert gaps(recorder) == {8}
    for event in recorder.of(Ticked)[3:]:
        assert origin(event.wanted) == (event.anchor, event.index)


def test_what_an_episode_remembers_does_not_grow_with_its_length():
    """A hundred thousand ticks would be 200 s at 500 Hz: neither observations nor what was sent is kept for ever."""
    world = exact(time_limit=400.0)
    recorder = Keeping()
    policy = CountingPolicy(world.embodiment, on_call=failing(*range(0, 400, 2)))
    sizes: list[int] = []

    class Measuring(Checks):
        def answer(self, question):
            sizes.append(len(question.evidence.sent))
            return Answer(readings=(reading(False),))

    layers = {"check": Charged(Here(Measuring()), LatencyProfile.constant(100), layer="check")}
    config = LoopConfig(execute_horizon=8, join=Join(how="ensemble"))
    options = {"latency": LatencyProfile.constant(100), "layers": layers, "config": config, "subscribers": [recorder]}
    result = run_episode(world, policy, world.tasks["reach-left"], seed=0, **options)
    assert (result.ticks, result.error) == (4000, "")
    assert recorder.alive < 50, "images and commands of 4000 ticks"
    assert max(sizes) < 40


class Keeping:
    """Keeps weak references to the image and the command of every tick: who else keeps them?"""

    def __init__(self) -> None:
        self.seen: list = []
        self.alive = -1

    def on_event(self, event):
        if isinstance(event, EpisodeEnded):
            gc.collect()
            self.alive = sum(reference() is not None for reference in self.seen)
        if isinstance(event, Ticked):
            self.seen += [weakref.ref(event.observation.images["front"]), weakref.ref(event.sent)]


def test_evidence_is_what_was_sent_since_the_anchor():
    checks = Checks()
    _, recorder = play(200, config=LoopConfig(execute_horizon=6), check=(checks, 100))
    ticked = recorder.of(Ticked)
    assert len(checks.questions) > 15
    for question in checks.questions:
        evidence, tick = question.evidence, question.ticket.tick
        assert evidence.observation.tick == tick > evidence.anchor.tick == evidence.prediction.chunk.anchor
        since = [event.sent.tolist() for event in ticked[evidence.anchor.tick : tick]]
        assert evidence.sent.tolist() == since
        held = sum(bool(event.hold) for event in ticked[evidence.anchor.tick : tick])
        assert evidence.progress == len(since) - held
        if evidence.overtaken is not None:
            before = evidence.overtaken.prediction.chunk
            assert evidence.overtaken.offset == sum(
                not event.hold for event in ticked[before.anchor : evidence.anchor.tick]
            )


@pytest.mark.parametrize("late", [0, 100, 300])
def test_chunks_may_differ_in_length_from_call_to_call(late):
    world = exact()
    lengths = iter([3, 16, 1, 7, 2, 12, 5, 16, 1, 1, 9] * 20)
    tagged = CountingPolicy(world.embodiment)._numbered
    policy = CountingPolicy(world.embodiment, horizon=16, actions=lambda obs, _: tagged(obs, next(lengths)))
    result, recorder = play(late, world=world, policy=policy, config=LoopConfig(execute_horizon=4))
    assert result.error == ""
    last = (-1, -1)
    for event in recorder.of(Ticked):
        if not event.hold:
            assert origin(event.wanted) == (event.anchor, event.index) > last
            last = (event.anchor, event.index)
    if not late:
        assert result.held == 0


def test_chunks_of_one_action_and_chunks_that_are_executed_to_the_end_need_no_pause_without_latency():
    for horizon in (1, 5):
        policy = CountingPolicy(exact().embodiment, horizon=horizon)
        result, recorder = play(0, policy=policy, config=LoopConfig(execute_horizon=horizon, strict=True))
        assert (result.held, result.infeasible, result.calls) == (0, "", 60 // horizon)
        assert [event.index for event in recorder.of(Ticked)][:10] == [tick % horizon for tick in range(10)]
    policy = CountingPolicy(exact().embodiment, horizon=1)
    result, _ = play(100, policy=policy, config=LoopConfig(execute_horizon=1))
    assert result.infeasible
    assert result.executed >= 29, "every other tick, as well as it can be done"


class Jumping(VirtualClock):
    """Is asleep for three seconds, once."""

    def sleep_until(self, time):
        super().sleep_until(time + (3.04 if 2.0 <= time < 2.1 else 0.0))


def test_a_clock_that_jumps_leaves_places_empty_and_makes_old_plans_stale():
    world, recorder = exact(), Recorder()
    config = LoopConfig(max_age=1.5, answer_timeout=2.0)
    policy = CountingPolicy(world.embodiment)
    options = {"latency": LatencyProfile.constant(200), "config": config, "clock": Jumping(), "subscribers": [recorder]}
    result = run_episode(world, policy, world.tasks["reach-left"], seed=0, **options)
    assert (result.missed, result.ticks, result.error) == (30, 30, "")
    ticked = recorder.of(Ticked)
    jump = next(event.tick for event in ticked if event.missed)
    assert ticked[jump].hold in ("", "stale")
    assert max(event.age for event in ticked if not event.hold) < 1.5
    times = np.diff([event.time for event in ticked[jump:]])
    assert times == pytest.approx([0.06] + [0.1] * (len(times) - 1)), "no burst: back on the grid"


class Losing(ExactWorld):
    """Does half of each third delta, and says so."""

    def apply(self, action):
        if self._tick % 3 == 2:
            action = action / 2
        return super().apply(action)


@pytest.mark.parametrize("late", [0, 200, 500])
def test_the_odometer_counts_what_the_world_says_it_did(late):
    """Every plan leads to a place; where the robot did less than commanded, it still gets there."""
    world = Losing(kind="delta", image_size=8, time_limit=8.0)
    start = world.reset(world.tasks["reach-right"], seed=4).state

    def actions(obs, horizon):
        towards = start[0] - 0.02 * (obs.tick + np.arange(1, horizon + 1))  # along a ramp in time
        steps = np.diff(towards, prepend=obs.state[0])
        return np.stack([np.clip(steps, -MAX_STEP, MAX_STEP), 0 * steps], axis=1).astype(np.float32)

    policy = CountingPolicy(world.embodiment, horizon=16, actions=actions)
    recorder = Recorder()
    options = {"latency": LatencyProfile.constant(late), "subscribers": [recorder]}
    run_episode(world, policy, world.tasks["reach-right"], seed=4, **options)
    places = np.array([event.observation.state[0] for event in recorder.of(Ticked)])
    if not late:
        ramp = start[0] - 0.02 * np.arange(len(places))
        assert np.abs(places - ramp)[:40].max() < 0.03, "half of a step, and what is made up for it"


@pytest.mark.parametrize("kind", ["absolute", "delta"])
def test_observing_less_changes_no_command_with_limits_either(kind):
    """At rest the governor may look at where the robot is: it must not depend on what recorders want to see."""

    class Slipping(ExactWorld):
        def apply(self, action):
            super().apply(action * np.float32(0.6))
            return action

    world = Slipping(kind=kind, image_size=8, time_limit=8.0)
    limits = Limits.of(
        world.embodiment,
        velocity={"position": 0.6},
        acceleration={"position": 3.0},
        low={"position": -0.2},
        high={"position": 0.2},
    )
    rng = np.random.default_rng(0)
    scale = 0.06 if kind == "delta" else 0.5
    drawn = {tick: rng.uniform(-scale, scale, (8, 2)).astype(np.float32) + np.float32(0.02) for tick in range(99)}
    found = []
    for every in (1, 3, 0):
        policy = CountingPolicy(world.embodiment, horizon=8, actions=lambda obs, _: drawn[obs.tick])
        config = LoopConfig(limits=limits, observe_every=every)
        ticked = play(300, world=world, policy=policy, config=config)[1].of(Ticked)
        found.append([event.requested.tolist() for event in ticked])
    assert found[0] == found[1] == found[2]


def test_an_observation_of_another_tick_is_an_error_that_names_both():
    class Lagging(ExactWorld):
        def observe(self):
            seen = super().observe()
            return replace(seen, tick=max(seen.tick - 2, 0))

    result, _ = play(100, world=Lagging(kind="absolute", image_size=8))
    assert result.error.startswith("ContractError: observation.tick: expected 1, got 0 (tick 1")


def test_a_subscriber_that_fails_does_not_change_a_decision():
    class Bad:
        def on_event(self, event):
            raise RuntimeError(type(event).__name__)

    world = exact()
    config = LoopConfig(ladder=LadderConfig(rungs=("replan", "hold"), settle=1), budget=Budget(total=0.9))
    found = []
    for listener in (Recorder(), Bad()):
        layers = {"check": Charged(Here(Checks(alarms=range(9, 30))), LatencyProfile.constant(100), layer="check")}
        recorder = Recorder()
        options = {"latency": LatencyProfile.constant(200), "config": config, "layers": layers}
        policy = CountingPolicy(world.embodiment)
        subscribers = [listener, recorder]
        result = run_episode(world, policy, world.tasks["reach-left"], seed=0, subscribers=subscribers, **options)
        found.append([event.requested.tolist() for event in recorder.of(Ticked)])
    assert found[0] == found[1]
    assert len(result.warnings) >= 5


def test_while_it_is_told_to_hold_the_robot_is_committed_to_nothing():
    """The plan that is held is the one that failed: the next one begins where the robot stands, with what it likes."""
    told = {}

    class Told(Obeying):
        def predict(self, session, obs, *, committed=None, imagine=False):
            told[obs.tick] = committed
            return super().predict(session, obs, committed=committed, imagine=imagine)

    world = exact()
    config = LoopConfig(
        execute_horizon=4, continue_plan=True, ladder=LadderConfig(rungs=("hold",), settle=99, calm=200)
    )
    _, recorder = play(200, world=world, policy=Told(world), config=config, check=(Checks(alarms=(8,)), 0))
    held = [tick for tick in told if recorder.of(Ticked)[tick].hold == "told"]
    assert held
    assert all(told[tick] is None for tick in held)
    assert all(told[tick] is not None for tick in told if 0 < tick < 8)
