"""One episode on an absolute tick grid, from reset to outcome.

t0 + k * period:  observe -> replies due by now -> ask, if it is time -> command or hold -> world.apply
                  `-- on the virtual clock an answer is due `latency` later; the world moves meanwhile
"""

import functools
import itertools
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actloop.contracts import Action, Clock, Embodiment, Observation, Outcome, Policy, Task, World, embodiment_to_dict
from actloop.errors import ContractError, MissingDependency
from actloop.loop.border import Border
from actloop.loop.clock import undisturbed
from actloop.loop.config import LoopConfig, check_fit, check_timed, clock_name, derive_seed, place
from actloop.loop.controller import Controller
from actloop.loop.decisions import Ask, Refusal, Step
from actloop.loop.events import (
    Absorbed,
    Bus,
    EpisodeEnded,
    EpisodeStarted,
    Event,
    Imagined,
    Refused,
    Replied,
    Requested,
    Stepped,
    Subscriber,
    ThreadedBus,
    Ticked,
)
from actloop.loop.feasibility import InfeasibleError
from actloop.loop.inference import SLACK, Inference, Reply
from actloop.loop.ladder import RUNGS
from actloop.loop.latency import LatencyProfile
from actloop.loop.layers import Actor, Asked, Layers, Memory, absorb_every, patience
from actloop.loop.questions import FRAME, LAYERS, Layer, Question, Ticket
from actloop.loop.result import EpisodeResult
from actloop.loop.schedule import LATE, STALE, STARVED, TOLD, Command, Residual

_tickets = itertools.count()  # one number per episode of this process: a reply that outlives its own meets no other


def run_episode(
    world: World,
    policy: Policy[Any] | Actor,
    task: Task,
    *,
    seed: int,
    latency: LatencyProfile | None = None,
    config: LoopConfig | None = None,
    clock: Clock | Literal["paused"] | None = None,
    inference: Inference | None = None,
    layers: Mapping[Layer, Inference] | None = None,
    residual: Residual | None = None,
    rescuer: Callable[[], Action] | None = None,
    stall: Callable[[int], float] | None = None,
    subscribers: Sequence[Subscriber] = (),
    episode: int = 0,
) -> EpisodeResult:
    """Run one task from reset to outcome.

    With a declared latency and the virtual clock, which is the default, the episode repeats exactly.

    Args:
        world: reset here with `seed` itself, so that policies compared under one seed start alike; closed by the
            caller.
        policy: what acts; where it runs elsewhere (`inference`), what is known of it is enough.
        task: one of the world's.
        seed: of the world; those of the policy and of the latencies follow from it.
        latency: what each call is charged on the virtual clock; None for the time it takes on this machine.
        config: how the loop runs; `LoopConfig()` when None.
        clock: virtual when None; with `paused` the world waits for the model; any other is taken for real time, and
            the policy runs in a thread.
        inference: where `policy` runs, if not as the clock suggests; left open for the next episode.
        layers: further ones: `check`, `foresight`, `semantic`; left open too.
        residual: corrects every action with the newest observation.
        rescuer: what a person who was called would send now, such as a world's `demonstrate`.
        stall: seconds that the answer to a question of that tick for a plan is late besides, for tests.
        subscribers: told every event, in order.
        episode: the number that events carry.

    Returns:
        The result. A world or policy that raises ends the episode as a failure, with `error` set.

    Raises:
        ContractError: policy, world, clock and latency do not fit together.
        UnknownNameError: the world has no such task.
        InfeasibleError: `config.strict`, and the latency cannot feed the robot without pauses.
        MissingDependency: the world or the policy needs something that is not installed.
    """
    config = config or LoopConfig()
    check_fit(world, policy, task, config)
    ticks, runs, owned = place(policy, latency, clock, inference)
    for layer, further in (layers or {}).items():
        if layer == "action" or layer not in LAYERS:
            raise ContractError(f"layers.{layer}", f"expected one of {', '.join(LAYERS[1:])}")
        check_timed(ticks, further, paused=clock == "paused")
    if config.handover.ticks and rescuer is None:
        raise ContractError("loop.handover", "hands the robot over, but to whom? give a rescuer, or 0 ticks")
    asked = Layers({"action": runs, **(layers or {})}, stall)
    begun = time.perf_counter()
    run = _Run(world, policy, task, seed, config, ticks, asked, subscribers, episode, residual, rescuer)
    stopped = True
    try:
        with undisturbed() if clock_name(ticks, runs) == "wall" else nullcontext():
            result = run.play()
    finally:
        warnings = run.bus.close() + run.warnings
        if owned:
            stopped = runs.close()
    if not stopped:
        warnings += ("the policy did not return in time after the end; its thread was left behind",)
    return replace(result, warnings=warnings, wall_seconds=time.perf_counter() - begun)


class _Run:
    """The state of one episode."""

    def __init__(
        self,
        world: World,
        actor: Actor,
        task: Task,
        seed: int,
        config: LoopConfig,
        clock: Clock,
        layers: Layers,
        subscribers: Sequence[Subscriber],
        episode: int,
        residual: Residual | None,
        rescuer: Callable[[], Action] | None,
    ) -> None:
        self._world, self._task, self._seed, self._config = world, task, seed, config
        self._rescuer = rescuer
        self._residual = "" if residual is None else getattr(residual, "__qualname__", type(residual).__name__)
        self._clock, self._layers = clock, layers
        action = layers.inferences["action"]
        self._clock_name, self._latency_name = clock_name(clock, action), action.name
        self._body, self._horizon = world.embodiment, actor.horizon
        self._absorb_every = absorb_every(actor) if config.absorb else 0
        self._shown = -1  # tick of the newest observation that the policy has seen
        self._taking_in = False  # a frame that it was asked nothing about
        self._border = Border(self._body)
        self._episode, self._ticket_episode = episode, next(_tickets)
        self._controller = Controller(self._body, actor.horizon, config, layers.declared, residual=residual)
        self._controller.reset(self._ticket_episode, task.instruction)
        self._schedule = self._controller.schedule
        self._memory = Memory()
        self.bus = ThreadedBus(subscribers) if self._clock_name == "wall" else Bus(subscribers)
        self._t0 = clock.now()
        self._missed = 0
        self._observation: Observation | None = None  # of the current tick, once taken
        self._deadlines: dict[Ticket, float] = {}
        self._counts: Counter[str] = Counter()
        self._modified: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._ages: list[float] = []
        self._delays: list[int] = []
        self._skipped: list[float] = []
        self._lateness: list[float] = []
        self._begun = 0.0
        self._untold: list[Event] = []

    def play(self) -> EpisodeResult:
        self._controller.judge()
        error = ""
        try:
            outcome = self._start()
            while outcome is None:
                outcome = self._tick(self._schedule.tick)
        except (InfeasibleError, MissingDependency):
            self._tell_all()
            raise  # not this episode's failure: no episode could be run like this
        except Exception as raised:  # the world's and the policy's code: a crash is a failure, never a lost episode
            error = _describe(raised, self._schedule.tick)
            outcome = Outcome(success=False, reason="crashed", time=self._elapsed(self._schedule.tick))
        return self._end(outcome, error)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Layers that failed without ending the episode, once each, with how often."""
        return tuple(f"{what} ({count} times)" for what, count in self._failures.items())

    def _start(self) -> Outcome | None:
        first = self._world.reset(self._task, seed=self._seed)
        self._body.check(first)
        # The action layer's seed is the policy's own, as ever; the others have theirs.
        seeds: dict[Layer, int] = {
            layer: derive_seed(self._seed, "policy" if layer == "action" else layer) for layer in LAYERS
        }
        if self._clock_name == "wall" and self._config.warm_up:
            self._layers.warm_up(first, self._task.instruction, seeds, self._config.warm_up)
            first = self._world.observe()
        self._layers.start(self._task.instruction, seeds)
        self._t0 = self._clock.now()
        self._take(first, 0)
        identity, body = _declared(self._body)
        self._tell(
            EpisodeStarted(
                episode=self._episode,
                tick=0,
                time=0.0,
                task_name=self._task.name,
                instruction=self._task.instruction,
                seed=self._seed,
                clock=self._clock_name,
                latency=self._latency_name,
                period=self._body.period,
                horizon=self._horizon,
                execute_horizon=self._config.execute_horizon,
                embodiment_id=identity,
                loop=self._config.to_dict(),
                body=body,
                layers={
                    layer: None if profile is None else profile.to_dict()
                    for layer, profile in self._layers.declared.items()
                },
                residual=self._residual,
                task=self._task,
                embodiment=self._body,
                observation=first,
            )
        )
        self._tell_all()
        return self._world.outcome()

    def _tick(self, tick: int) -> Outcome | None:
        """One tick; returns the outcome, if it was the last."""
        every = self._config.observe_every
        if every and tick % every == 0:
            self._observe(tick)
        self._begun = self._now()
        self._receive(tick)
        while self._ask(tick) and self._receive(tick):
            pass  # an answer that takes no time is used in the tick of its question
        if self._controller.outcome is not None:
            return replace(self._controller.outcome, time=self._elapsed(tick))
        due = bool(self._absorb_every) and tick % self._absorb_every == 0 and tick != self._shown
        shows = due and not self._taking_in  # one at a time: frames must not pile up before a question
        obs = self._observe(tick) if shows or self._schedule.needs_observation else self._observation
        command = self._controller.command(obs, tick)
        action = command.action
        if self._rescuer is not None and self._controller.handed_over:
            action = self._rescuer()
        at = self._now()
        sent = np.asarray(self._world.apply(action), dtype=np.float32)
        self._controller.sent(sent)
        self._memory.sent.append(sent)
        self._count(command, sent, obs, tick, at)
        if shows and obs is not None:
            self._show(obs)
        self._tell_all()
        self._observation = None
        self._wait(tick + 1)
        outcome = self._world.outcome()
        elapsed = self._elapsed(tick + 1)
        if outcome is None and elapsed >= self._task.time_limit - 1e-9:
            return Outcome(success=False, reason="time limit", time=elapsed)
        return outcome

    def _observe(self, tick: int) -> Observation:
        """The observation of this tick, taken once."""
        return self._observation or self._take(self._world.observe(), tick)

    def _take(self, obs: Observation, tick: int) -> Observation:
        self._border.check(obs)
        if obs.tick != tick:
            raise ContractError("observation.tick", f"expected {tick}, got {obs.tick}")
        if obs.state.dtype != np.float32:  # what the log holds: decisions rest on nothing finer
            obs = replace(obs, state=obs.state.astype(np.float32))
        self._observation = obs
        return obs

    def _ask(self, tick: int) -> bool:
        """Put the questions that it is time for; whether there were any."""
        asks, refusals, steps = self._controller.asks(tick, self._begun)
        for step in steps:
            self._publish_step(step, tick)
        for refusal in refusals:
            self._publish_refusal(refusal, tick)
        for ask in asks:
            self._put(ask, tick)
        return bool(asks)

    def _put(self, ask: Ask, tick: int) -> None:
        obs, ticket, now = self._observe(tick), ask.ticket, self._clock.now()
        if ticket.layer == "action":
            self._shown = tick
        if ticket.layer in ("action", "foresight"):
            self._memory.ask(ticket.plan, Asked(obs, ask.instruction, now), self._schedule.welcome)
            self._counts["calls"] += 1
        self._deadlines[ticket] = ask.deadline
        self._tell(
            Requested(
                episode=self._episode,
                tick=tick,
                time=now - self._t0,
                layer=ticket.layer,
                plan=ticket.plan,
                why=ask.why,
                instruction=ask.instruction,
                deadline=None if math.isinf(ask.deadline) else ask.deadline,
                candidates=ask.candidates,
                fixed=0 if ask.committed is None else ask.committed.fixed,
                observation=obs,
            )
        )
        plan = self._schedule.plan
        evidence = None
        if ticket.layer == "check" and plan is not None:
            evidence = self._memory.evidence(obs, plan, self._schedule.since_anchor, self._schedule.overtaken)
        question = Question(
            ticket=ticket,
            observation=obs,
            instruction=ask.instruction,
            deadline=ask.deadline,
            patience=patience(ask.deadline, self._begun),
            imagine=self._config.imagine,
            committed=ask.committed,
            candidates=ask.candidates,
            evidence=evidence,
        )
        self._layers.submit(question, now)

    def _show(self, obs: Observation) -> None:
        """Let the policy take in what it is asked nothing about, once the command is out."""
        self._shown, self._taking_in = obs.tick, True
        ticket = Ticket(episode=self._ticket_episode, plan=FRAME, tick=obs.tick)
        question = Question(ticket=ticket, observation=obs, instruction=self._controller.instruction)
        self._layers.submit(question, self._clock.now())

    def _taken_in(self, reply: Reply, tick: int) -> None:
        if reply.ticket.episode != self._ticket_episode:
            return
        self._taking_in = False
        if reply.error is not None and not getattr(reply.error, "transient", False):
            raise reply.error
        if self._clock_name == "paused":
            reply = replace(reply, latency=0.0, computed=0.0)
        self._controller.absorbed(reply)
        self._tell(
            Absorbed(
                episode=self._episode,
                tick=tick,
                time=self._now(),
                anchor=reply.ticket.tick,
                latency=reply.latency,
                computed=reply.computed,
            )
        )

    def _receive(self, tick: int) -> bool:
        """Take what has come; whether any answer has."""
        replies = self._layers.poll(self._clock.now())
        for reply in replies:
            if reply.ticket.is_frame:
                self._taken_in(reply, tick)
                continue
            if reply.error is not None and reply.ticket.episode == self._ticket_episode:
                if reply.ticket.layer == "action" and not getattr(reply.error, "transient", False):
                    raise reply.error
                self._failures[f"{reply.ticket.layer}: {type(reply.error).__name__}: {reply.error}"] += 1
            self._deliver(reply, tick)
        return any(not reply.ticket.is_frame for reply in replies)

    def _deliver(self, reply: Reply, tick: int) -> None:
        ticket, answer = reply.ticket, reply.answer
        previous = self._schedule.plan
        paused = self._clock_name == "paused"  # then an answer costs nothing, whatever this machine took for it
        received = self._controller.receive(replace(reply, latency=0.0, computed=0.0) if paused else reply, tick)
        now = self._now()
        prediction = None if answer is None else answer.prediction
        overdue = reply.due - self._t0 > self._deadlines.pop(ticket, math.inf) + SLACK
        self._counts["overdue"] += overdue
        self._tell(
            Replied(
                episode=self._episode,
                tick=tick,
                time=now,
                layer=ticket.layer,
                plan=ticket.plan,
                anchor=ticket.tick,
                accepted=received.accepted,
                reason=received.reason,
                delay=received.delay,
                skipped=received.skipped,
                latency=0.0 if paused else reply.latency,
                computed=0.0 if paused else reply.computed,
                overdue=overdue,
                error="" if reply.error is None else f"{type(reply.error).__name__}: {reply.error}",
                observed_at=None if prediction is None else prediction.chunk.observed_at,
                actions=None if prediction is None else prediction.chunk.actions,
                readings=() if answer is None else answer.readings,
                text="" if answer is None else answer.text,
                done=None if answer is None else answer.done,
                considered=0 if answer is None else answer.considered,
                values=() if answer is None else answer.values,
                prediction=prediction,
            )
        )
        for refusal in received.refusals:
            self._publish_refusal(refusal, tick)
        for step in received.steps:
            self._publish_step(step, tick)
        if ticket.layer not in ("action", "foresight"):
            return
        if prediction is not None:
            self._latencies.append(reply.latency)
        if not received.accepted:
            self._dropped[received.reason] += 1
            return
        assert prediction is not None
        self._memory.accept(ticket.plan, prediction, None if previous is None else previous.plan)
        self._controller.judge()
        self._delays.append(received.delay)
        self._skipped.append(received.skipped)
        if prediction.future is not None:
            self._tell(
                Imagined(
                    episode=self._episode,
                    tick=tick,
                    time=now,
                    plan=ticket.plan,
                    anchor=ticket.tick,
                    cameras=tuple(sorted(prediction.future.frames)),
                    future_period=prediction.future.period,
                    prediction=prediction,
                )
            )

    def _tell(self, event: Event) -> None:
        """Publish an event of this tick, in order, once the command is out: no command waits for a listener."""
        self._untold.append(event)

    def _tell_all(self) -> None:
        untold, self._untold = self._untold, []
        for event in untold:
            self.bus.publish(event)

    def _publish_step(self, step: Step, tick: int) -> None:
        self._tell(
            Stepped(
                episode=self._episode,
                tick=tick,
                time=self._now(),
                rung=step.rung,
                before=step.before,
                cause=step.cause,
            )
        )

    def _publish_refusal(self, refusal: Refusal, tick: int) -> None:
        self._tell(
            Refused(
                episode=self._episode,
                tick=tick,
                time=self._now(),
                layer=refusal.layer,
                why=refusal.why,
                instead=refusal.instead,
            )
        )

    def _count(self, command: Command, sent: Action, obs: Observation | None, tick: int, at: float) -> None:
        age = None if command.hold else at + self._t0 - self._memory.asked[command.plan].at
        self._counts["held_" + command.hold if command.hold else "executed"] += 1
        self._modified.update(command.reasons)
        if age is not None:
            self._ages.append(age)
        if self._clock_name == "wall":
            self._lateness.append(max(0.0, at - self._elapsed(tick)))
        self._tell(
            Ticked(
                episode=self._episode,
                tick=tick,
                time=at,
                begun=self._begun,
                wanted=command.wanted,
                requested=command.action,
                sent=sent,
                plan=command.plan,
                anchor=command.anchor,
                index=command.index,
                hold=command.hold,
                pace=command.pace,
                reasons=command.reasons,
                rung=self._controller.rung,
                age=age,
                missed=self._missed,
                state=None if obs is None else obs.state,
                observation=self._observation,
            )
        )

    def _wait(self, tick: int) -> None:
        """Sleep until the place of `tick` on the grid.

        Places that passed altogether are left empty: commands sent in a burst would move the robot that much faster.
        """
        self._leave_out(tick)
        self._clock.sleep_until(self._t0 + self._elapsed(tick))
        self._leave_out(tick)  # where the process was stopped in its sleep

    def _leave_out(self, tick: int) -> None:
        """Count the places that have passed before that of `tick`."""
        behind = self._now() - self._elapsed(tick)
        if behind >= self._body.period:
            places = math.floor(behind / self._body.period)
            self._missed += places
            self._controller.miss(places)

    def _now(self) -> float:
        """Seconds since the first tick."""
        return self._clock.now() - self._t0

    def _elapsed(self, tick: int) -> float:
        return (tick + self._missed) * self._body.period

    def _by_layer(self, what: str) -> dict[str, int]:
        counts = self._controller.counts
        return {layer: counts[f"{what} {layer}"] for layer in LAYERS if counts[f"{what} {layer}"]}

    def _end(self, outcome: Outcome, error: str) -> EpisodeResult:
        counts = self._controller.counts
        result = EpisodeResult(
            task=self._task.name,
            seed=self._seed,
            outcome=outcome,
            clock=self._clock_name,
            latency=self._latency_name,
            period=self._body.period,
            horizon=self._horizon,
            execute_horizon=self._config.execute_horizon,
            ticks=self._schedule.tick,
            executed=self._counts["executed"],
            held_starved=self._counts["held_" + STARVED],
            held_late=self._counts["held_" + LATE],
            held_stale=self._counts["held_" + STALE],
            held_told=self._counts["held_" + TOLD],
            calls=self._counts["calls"],
            asked=self._by_layer("asked"),
            computed={
                layer: self._controller.computed[layer] for layer in LAYERS if layer in self._controller.computed
            },
            refused=self._by_layer("refused"),
            timed_out=self._by_layer("timed out"),
            superseded=self._layers.superseded,
            overdue=self._counts["overdue"],
            alarms=counts["alarms"],
            rungs={rung: counts[f"rung {rung}"] for rung in RUNGS if counts[f"rung {rung}"]},
            modified=dict(sorted(self._modified.items())),
            latencies=tuple(self._latencies),
            ages=tuple(self._ages),
            delays=tuple(self._delays),
            skipped=tuple(self._skipped),
            dropped=dict(sorted(self._dropped.items())),
            lateness=tuple(self._lateness),
            missed=self._missed,
            infeasible=self._controller.infeasible,
            error=error,
        )
        last = None if error or not self._config.observe_every else self._last_observation()
        self._tell(
            EpisodeEnded(
                episode=self._episode,
                tick=result.ticks,
                time=self._elapsed(result.ticks),
                success=outcome.success,
                reason=outcome.reason,
                error=error,
                ticks=result.ticks,
                executed=result.executed,
                held_starved=result.held_starved,
                held_late=result.held_late,
                calls=result.calls,
                dropped=result.dropped,
                infeasible=result.infeasible,
                begun=self._begun,
                result=result,
                observation=last,
            )
        )
        self._tell_all()
        return result

    def _last_observation(self) -> Observation | None:
        try:
            return self._world.observe()
        except Exception:  # only a recorder wants it, and the episode is already decided
            return None


@functools.lru_cache(maxsize=8)
def _declared(embodiment: Embodiment) -> tuple[str, dict[str, object]]:
    """Its identity and its plain form: a body lives longer than an episode."""
    return embodiment.identity, embodiment_to_dict(embodiment)


def _describe(error: Exception, tick: int) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f", {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {error} (tick {tick}{where})"
