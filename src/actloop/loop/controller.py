"""Every decision of the loop, and nothing else: what to ask, what to believe, what to send. Pure, so that it replays.

    replies ---> receive --> schedule, readings, instruction
    tick   ----> asks     --> questions to the layers, as the budget admits them
           ----> command  --> one action: the plan's, slower, or a hold
    sent   ----> sent

What it is told (replies, their times, the measured state, what was really sent) is in the event log; told the same
again, it decides the same again.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from actloop.checks.evidence import Reading
from actloop.contracts import Action, Committed, Embodiment, Observation, Outcome
from actloop.errors import ContractError
from actloop.loop.budget import Account
from actloop.loop.config import LoopConfig
from actloop.loop.decisions import Ask, Received, Refusal, Step
from actloop.loop.feasibility import (
    InfeasibleError,
    age_in_ticks,
    conflict,
    delay_in_ticks,
    infeasibility,
    outdated,
)
from actloop.loop.inference import Reply
from actloop.loop.ladder import CONTINUE, Ladder, Rung
from actloop.loop.latency import Expected, LatencyProfile
from actloop.loop.questions import Layer, Ticket
from actloop.loop.schedule import Command, Residual, Schedule

LIKELY = 0.95  # the quantile that decides when to start thinking
TYPICAL = 0.5  # the quantile that decides whether a latency can work at all
SETTLED = 4  # accepted replies after which a measured latency is believed enough to judge feasibility by
RUNG_LAYERS: dict[Rung, Layer] = {"choose": "foresight", "ask": "semantic"}


class Controller:
    """Decides for one robot.

    Args:
        horizon: actions in a chunk of the policy.
        layers: those that there are, with the latency that is declared for each, None where it is measured. The
            declared latency of `foresight` is that of one candidate.
    """

    counts: Counter[str]  # of what was decided, by name
    instruction: str  # that the policy follows now
    _expected: dict[Layer, Expected]
    _open: dict[Ticket, float]  # when each was asked
    _demanded: dict[Ticket, str]  # why, of those that a demand led to
    _looked: dict[Ticket, Ticket]  # the plan that a check was asked about
    _numbers: Counter[Layer]  # questions so far, of the layers that give no plans
    _demand: tuple[str, Layer] | None  # a chunk is wanted: why, and of which layer
    _outcome: Outcome | None
    _infeasible: str
    _accepted: int
    _failed: int  # tick of the observation with which the action layer failed last
    _awaited: int | None  # tick at which the open chunk is expected, where that is known
    _agreed: int  # tick of the newest observation on which a check saw the present plan hold
    _next_check: int
    _subtask_at: float | None
    _wants_subtask: bool
    _postponed: bool
    _now: float
    _back_at: int | None  # tick at which a person who has the robot hands it back
    _watched: float  # when somebody who watches began to wait for success
    _stopped: int  # ticks in a row for which limits have stopped the robot

    def __init__(
        self,
        embodiment: Embodiment,
        horizon: int,
        config: LoopConfig,
        layers: Mapping[Layer, LatencyProfile | None],
        *,
        residual: Residual | None = None,
    ) -> None:
        if "action" not in layers:
            raise ContractError("layers", f"expected an 'action' layer, got {sorted(layers)}")
        self._body, self._horizon, self._config = embodiment, horizon, config
        self._declared = dict(layers)
        self.schedule = Schedule(
            embodiment,
            execute_horizon=config.execute_horizon,
            join=config.join,
            max_age=age_in_ticks(config.max_age, embodiment.period),
            limits=config.limits,
            residual=residual,
        )
        rungs = tuple(rung for rung in config.ladder.rungs if RUNG_LAYERS.get(rung, "action") in layers)
        self._ladder = Ladder(replace(config.ladder, rungs=rungs))
        self._account = Account(config.budget)
        self._episode = -1
        self._begin("")

    def reset(self, episode: int, instruction: str) -> None:
        """Begin an episode: its tickets carry its number."""
        self.schedule.reset(episode)
        self._ladder.reset()
        self._account.reset()
        self._episode = episode
        self._begin(instruction)

    def judge(self) -> str:
        """Why the latency of the action layer cannot feed the robot, or empty.

        Declared, it can be judged before the first tick; measured, once some replies have settled it.

        Raises:
            InfeasibleError: in strict mode, also where the execute horizon leaves too little of the chunk.
        """
        seconds = self._expected["action"].quantile(TYPICAL)
        if seconds is None or 0 < self._accepted < SETTLED:
            return self._infeasible
        period, horizon = self._body.period, self._horizon
        self._infeasible = infeasibility(latency=seconds, period=period, horizon=horizon) or outdated(
            latency=seconds, period=period, max_age=self._config.max_age
        )
        if self._config.strict:
            execute = self._config.execute_horizon
            why = conflict(latency=seconds, period=period, horizon=horizon, execute_horizon=execute)
            why = why or self._infeasible
            if why:
                raise InfeasibleError("loop", why)
        return self._infeasible

    # replies

    def receive(self, reply: Reply, tick: int) -> Received:
        """Take a reply, before the questions and the command of `tick`."""
        layer, ticket = reply.ticket.layer, reply.ticket
        if ticket.episode != self._episode:
            return Received(accepted=False, reason="episode")
        asked = self._open.pop(ticket, None) is not None
        demanded = self._demanded.pop(ticket, "")
        self._account.settle(ticket, reply.computed)
        if reply.answer is None:
            self.schedule.failed(ticket)
            self._failed = ticket.tick if layer == "action" else self._failed
            self._demand_again(demanded)
            return Received(accepted=False, reason="error", delay=tick - ticket.tick)
        self._expected[layer].add(reply.latency / max(reply.answer.considered, 1))
        if layer == "check":
            return self._compare(ticket, reply.answer.readings, tick)
        if layer == "semantic":
            if not asked:
                return Received(accepted=False, reason="plan", delay=tick - ticket.tick)
            return self._listen(ticket, reply.answer.text, reply.answer.done, tick)
        if reply.answer.prediction is None:
            raise ContractError(f"layer {layer!r}", "expected an answer with a prediction, got none")
        delivery = self.schedule.deliver(ticket, reply.answer.prediction.chunk, tick)
        if delivery.accepted:
            self._accepted += 1
            self._agreed = -1
        return Received.of(delivery)

    def absorbed(self, reply: Reply) -> None:
        """A frame was taken in, at a cost."""
        self._account.spend(reply.ticket.layer, reply.computed)

    def _demand_again(self, why: str) -> None:
        """What was demanded did not come: it is still wanted, now of the action layer."""
        if why and self._demand is None:
            self._demand = (why, "action")

    def _compare(self, ticket: Ticket, readings: tuple[Reading, ...], tick: int) -> Received:
        delay, plan = tick - ticket.tick, self.schedule.plan
        looked = self._looked.pop(ticket, None)
        if plan is None or looked != plan:
            return Received(accepted=False, reason="older", delay=delay)
        alarms = [reading.check for reading in readings if reading.alarm]
        if not alarms:
            judged = [reading.value for reading in readings if math.isfinite(reading.threshold)]
            if any(map(math.isfinite, judged)):  # a check that compares nothing does not agree
                self._agreed = ticket.tick if max(judged) <= self._config.agree_below else -1
            return Received(accepted=True, delay=delay)
        self._agreed = -1
        self.counts["alarms"] += 1
        steps, refusals = self._climb(alarms[0], tick, seen=ticket.tick)
        return Received(accepted=True, delay=delay, steps=steps, refusals=refusals)

    def _listen(self, ticket: Ticket, text: str, done: bool | None, tick: int) -> Received:
        delay = tick - ticket.tick
        if done and self._config.done_ends:
            self._outcome = Outcome(success=True, reason="done, says the semantic layer", time=0.0)
        if not text or text == self.instruction:
            return Received(accepted=True, delay=delay)
        self.instruction = text
        self.schedule.give_up()  # what is being thought of follows the old instruction
        self.schedule.part()
        self._demanded.clear()
        self._open = {asked: since for asked, since in self._open.items() if asked.layer not in ("action", "foresight")}
        self._demand = ("told", "action")
        return Received(accepted=True, delay=delay)

    def _climb(self, cause: str, tick: int, *, seen: int) -> tuple[tuple[Step, ...], tuple[Refusal, ...]]:
        if self._back_at is not None:
            return (), ()
        before = self._ladder.rung
        tried = self._ladder.alarm(tick, self._unaffordable, self._rung_delay)
        refusals = tuple(
            Refusal(layer=RUNG_LAYERS.get(rung, "action"), why=why, instead=f"not {rung}") for rung, why in tried if why
        )
        if not tried or tried[-1][1]:
            return (), refusals
        rung = tried[-1][0]
        self.counts["rung " + rung] += 1
        self._take(rung, seen, tick)
        return (Step(rung=rung, before=before, cause=cause),), refusals

    def _take(self, rung: Rung, seen: int, tick: int) -> None:
        """Do what a rung means; `seen` is the tick of the observation that raised the alarm."""
        if rung in ("replan", "hold"):  # to hold, so as to have a plan from what is seen now once it is left
            thinking = self.schedule.open
            if thinking is None or thinking.tick < seen:
                self._demand, thinking = ("disagrees", "action"), None
            self.schedule.part(thinking)
        elif rung == "choose":
            self._demand = ("disagrees", "foresight")
            self.schedule.part()
        elif rung == "ask":
            self._wants_subtask = True
        elif rung == "human":
            self._hand_over(tick)

    def _hand_over(self, tick: int) -> None:
        """A person has the robot from now on; nothing that was thought before holds when they hand it back."""
        if not self._config.handover.ticks:
            self._outcome = Outcome(success=False, reason="asked for a human", time=0.0)
            return
        self._back_at = tick + self._config.handover.ticks
        self.schedule.give_up()
        self.schedule.cut()
        self.schedule.part()
        self._demand = None
        self._demanded.clear()
        self._open = {asked: since for asked, since in self._open.items() if asked.layer not in ("action", "foresight")}

    def _watch(self, tick: int, now: float) -> list[Step]:
        """Whether a person steps in, or hands back."""
        handover, before = self._config.handover, self.rung
        if self._back_at is not None:
            if tick < self._back_at:
                return []
            self._back_at, self._watched, self._stopped = None, now, 0
            self._ladder.reset()
            return [Step(rung=CONTINUE, before=before, cause="handed back")]
        cause = ""
        if handover.stopped and self._stopped >= handover.stopped:
            cause = "limits"
        elif now - self._watched >= handover.overdue - 1e-9:
            cause = "overdue"
        if not cause or self._outcome is not None:
            return []
        self.counts["rung human"] += 1
        self._hand_over(tick)
        return [Step(rung="human", before=before, cause=cause)]

    def _unaffordable(self, rung: Rung) -> str:
        if rung in ("slow", "hold", "human"):
            return ""
        layer = RUNG_LAYERS.get(rung, "action")
        return self._account.refusal(layer, self._seconds(layer), self._now)

    def _rung_delay(self, rung: Rung) -> int:
        if rung == "ask":
            return self._delay("semantic") + self._delay("action")
        if rung == "choose":
            return self._delay("foresight", self._config.candidates)
        return 0 if rung in ("slow", "human") else self._delay(RUNG_LAYERS.get(rung, "action"))

    # questions

    def asks(self, tick: int, now: float) -> tuple[list[Ask], list[Refusal], list[Step]]:
        """The questions to put before the command of `tick`; `now` is seconds on the loop's clock."""
        self._now = now
        refusals: list[Refusal] = []
        asks: list[Ask] = []
        steps = self._watch(tick, now)
        if self._back_at is not None:
            self._time_out(now)
            return asks, refusals, steps
        before = self._ladder.rung
        if self._ladder.calmed(tick):
            steps.append(Step(rung=CONTINUE, before=before, cause="calm"))
        self._time_out(now)
        self._ask_for_chunk(tick, now, asks, refusals)
        self._ask_to_check(tick, now, asks, refusals)
        self._ask_for_subtask(tick, now, asks, refusals)
        for refusal in refusals:
            self.counts["refused " + refusal.layer] += 1
        return asks, refusals, steps

    def _time_out(self, now: float) -> None:
        """Give up questions that are open for too long: their answers will be dropped."""
        late = [ticket for ticket, since in self._open.items() if now - since >= self._config.answer_timeout - 1e-9]
        for ticket in late:
            del self._open[ticket]
            self.counts["timed out " + ticket.layer] += 1
            self._looked.pop(ticket, None)
            self.schedule.failed(ticket)
            self._demand_again(self._demanded.pop(ticket, ""))

    def _put(self, ask: Ask, now: float, asks: list[Ask]) -> None:
        """Ask, and set aside what it will probably cost: the next question of this tick finds that much less."""
        asks.append(ask)
        self._open[ask.ticket] = now
        self._account.reserve(ask.ticket, self._seconds(ask.ticket.layer) * ask.candidates, now)
        self.counts["asked " + ask.ticket.layer] += 1

    def _ask_for_chunk(self, tick: int, now: float, asks: list[Ask], refusals: list[Refusal]) -> None:
        if self.schedule.open is not None or self._failed == tick:
            return  # one that fails at once is asked again in the next tick, not for ever in this one
        layer: Layer = "action"
        delay = self._delay(layer)
        run_on = self._config.run_on if self._config.run_on and self._agrees(tick) else 0
        why = self.schedule.why_ask(delay, execute_horizon=run_on or None)
        if self._demand:
            why, layer = self._demand
        if not why:
            return
        deadline = now + self.schedule.left * self._body.period if self.schedule.left else math.inf
        candidates = 1
        if layer == "foresight":
            candidates, refused = self._candidates(now, deadline)
            if refused:
                refusals.append(Refusal(layer=layer, why=refused, instead="action"))
                layer = "action"
        if why == "executed" and self.schedule.left > delay:
            refused = self._account.refusal(layer, self._seconds(layer), now)
            if refused:  # the plan still has actions: better those than none later
                if not self._postponed:
                    refusals.append(Refusal(layer=layer, why=refused, instead="the rest of the plan"))
                self._postponed = True
                return
        self._postponed = False
        delay = self._delay(layer, candidates)
        committed = self._committed(delay, why)
        ticket = self.schedule.ask(tick, layer)
        self._awaited = None if self._expected[layer].quantile(LIKELY) is None else tick + delay
        if self._demand:
            self._demand, self._demanded[ticket] = None, why
        ask = Ask(
            ticket=ticket,
            why=why,
            instruction=self.instruction,
            deadline=deadline,
            candidates=candidates,
            committed=committed,
        )
        self._put(ask, now, asks)

    def _committed(self, delay: int, why: str) -> Committed | None:
        """What the policy is to continue: of a plan that does not hold any more, only what cannot be changed."""
        if not self._config.continue_plan or self._ladder.rung == "hold":
            return None
        committed = self.schedule.committed(delay)
        if committed is None or why not in ("disagrees", "told"):
            return committed
        fixed = committed.fixed
        return Committed(actions=committed.actions[:fixed], fixed=fixed) if fixed else None

    def _candidates(self, now: float, deadline: float) -> tuple[int, str]:
        """How many there is time and money for, or why there is none for two."""
        each = self._seconds("foresight")
        wanted = self._config.candidates
        while wanted > 1 and (now + each * wanted > deadline or self._account.refusal("foresight", each * wanted, now)):
            wanted -= 1
        if wanted > 1 or self._config.candidates == 1:
            return wanted, ""
        left = f"{1000 * (deadline - now):.0f} ms"
        late = f"deadline: two candidates take {2000 * each:.0f} ms, the plan ends in {left}"
        return 1, self._account.refusal("foresight", 2 * each, now) or late

    def _ask_to_check(self, tick: int, now: float, asks: list[Ask], refusals: list[Refusal]) -> None:
        plan = self.schedule.plan
        busy = any(ticket.layer == "check" for ticket in self._open)
        if "check" not in self._declared or plan is None or busy or tick < self._next_check or tick == plan.tick:
            return
        refused = self._account.refusal("check", self._seconds("check"), now)
        self._next_check = tick + self._config.check_every
        if refused:
            refusals.append(Refusal(layer="check", why=refused, instead="no look at this tick"))
            return
        ticket = self._ticket("check", tick)
        self._looked[ticket] = plan
        self._put(Ask(ticket=ticket, why="every", instruction=self.instruction), now, asks)

    def _ask_for_subtask(self, tick: int, now: float, asks: list[Ask], refusals: list[Refusal]) -> None:
        if "semantic" not in self._declared or any(ticket.layer == "semantic" for ticket in self._open):
            return
        every = self._config.subtask_every
        due = self._subtask_at is None or (every > 0 and now - self._subtask_at >= every - 1e-9)
        if not (due or self._wants_subtask):
            return
        why = "ladder" if self._wants_subtask else "first" if self._subtask_at is None else "every"
        self._subtask_at, self._wants_subtask = now, False
        refused = self._account.refusal("semantic", self._seconds("semantic"), now)
        if refused:
            refusals.append(Refusal(layer="semantic", why=refused, instead="the instruction stands"))
            return
        self._put(Ask(ticket=self._ticket("semantic", tick), why=why, instruction=self.instruction), now, asks)

    # commands

    def command(self, obs: Observation | None, tick: int) -> Command:
        """The command of `tick`."""
        pace = min(self._ladder.pace, self._stretched(tick))
        hold = self._ladder.rung == "hold"
        command = self.schedule.command(obs, tick, pace=pace, hold=hold, aside=self.handed_over)
        is_stopped = bool(command.reasons) and not command.hold and command.pace <= 0
        self._stopped = self._stopped + 1 if is_stopped else 0
        return command

    def sent(self, action: Action) -> None:
        """What the world says was really sent."""
        self.schedule.sent(action)

    def miss(self, places: int) -> None:
        """Places of the grid that passed without a tick."""
        self.schedule.miss(places)

    def _stretched(self, tick: int) -> float:
        """The pace at which the plan lasts until the open answer is expected."""
        left = self.schedule.left
        if self._config.stretch == 1 or self.schedule.open is None or not left or self._awaited is None:
            return 1.0
        waiting = self._awaited - tick
        waiting = waiting if waiting > 0 else 1 - waiting  # one that is late may be as late again
        return 1.0 if waiting <= left else max(self._config.stretch, left / waiting)

    # what it knows

    @property
    def outcome(self) -> Outcome | None:
        """How the loop itself ended the episode: done, or a human is needed."""
        return self._outcome

    @property
    def handed_over(self) -> bool:
        """Whether a person has the robot now."""
        return self._back_at is not None

    @property
    def rung(self) -> str:
        """Of the ladder, the one in force."""
        return "human" if self.handed_over else self._ladder.rung

    @property
    def computed(self) -> Mapping[Layer, float]:
        """Seconds of computing so far, per layer."""
        return self._account.spent

    @property
    def infeasible(self) -> str:
        """Why the latency cannot feed the robot without pauses; empty where it can, or while unknown."""
        return self._infeasible

    def _begin(self, instruction: str) -> None:
        self.instruction = instruction
        self.counts, self._numbers = Counter(), Counter()
        self._expected = {layer: Expected(profile) for layer, profile in self._declared.items()}
        self._open, self._looked, self._demanded = {}, {}, {}
        self._failed, self._awaited = -1, None
        self._demand = self._outcome = self._subtask_at = None
        self._infeasible = ""
        self._accepted, self._agreed, self._next_check = 0, -1, 0
        self._wants_subtask = self._postponed = False
        self._now = self._watched = 0.0
        self._back_at, self._stopped = None, 0

    def _agrees(self, tick: int) -> bool:
        """Whether a check saw the plan in force hold, lately enough."""
        plan = self.schedule.plan
        if plan is None or "check" not in self._declared or self._ladder.rung != CONTINUE:
            return False
        late = self._delay("check")
        fresh = late + max(self._config.check_every, late)  # one look is open at a time
        return self._agreed > plan.tick and tick - self._agreed <= fresh

    def _ticket(self, layer: Layer, tick: int) -> Ticket:
        self._numbers[layer] += 1
        return Ticket(episode=self._episode, plan=self._numbers[layer] - 1, tick=tick, layer=layer)

    def _seconds(self, layer: Layer) -> float:
        """Of computing that a question will probably take; 0 while unknown."""
        return self._expected[layer].quantile(LIKELY) or 0.0

    def _delay(self, layer: Layer, times: int = 1) -> int:
        return delay_in_ticks(self._seconds(layer) * times, self._body.period)
