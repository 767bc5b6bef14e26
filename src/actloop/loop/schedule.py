"""The plan on the tick grid: time and chunks in, one command per tick out. Pure: no threads, no clocks, no world.

    tick        k        k+1      k+2      k+3
    ask(k) -----+                  |
                `---- model -----> deliver(chunk anchored at k)
    executed    a        b         |        two fresh actions since the observation: skip chunk[0], chunk[1]
    command     old[i]   old[i+1]  chunk[2] chunk[3]

Every tick calls `command` once and then `sent` once. What was overtaken is counted, never estimated.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.contracts import Action, ActionChunk, Embodiment, Observation
from actloop.errors import ContractError

STARVED = "starved"  # held, no chunk has come yet
LATE = "late"  # held, the plan is spent


class InfeasibleError(ContractError):
    """A model this slow cannot feed a robot this fast with chunks this short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Which question a reply answers: its episode, its number in the episode, the tick of its observation."""

    episode: int
    plan: int
    tick: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a reply.

    `reason` is empty, or why it was dropped: `episode` (of another one), `plan` (given up), `older` (than the last
    accepted observation). `delay` is in ticks from its observation, `skipped` in actions.
    """

    accepted: bool
    reason: str
    delay: int
    skipped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to send at a tick. With a `hold` reason there was no fresh action, and plan, anchor and index are -1."""

    action: Action
    plan: int = -1
    anchor: int = -1
    index: int = -1
    hold: str = ""


@dataclass(slots=True)
class _Mark:
    """The odometer at the time of a question."""

    executed: int
    moved: Float[np.ndarray, "action"]


@dataclass(slots=True)
class _Plan:
    ticket: Ticket
    actions: Float[np.ndarray, "horizon action"]
    begun: int  # the executed count at the anchor
    index: int  # of the next action
    owed: Float[np.ndarray, "action"]  # delta parts: still to be made up, in action units
    spread: int  # ticks left to make it up in


class Schedule:
    """Owns the plan of one robot.

    A new chunk is asked for once `execute_horizon` actions were executed since the anchor of the current one, and
    earlier where it would be spent before the answer is expected. One question is open at a time.

    Deltas are integrated from the pose at the anchor. Where the old plan moved otherwise, while the model thought,
    than the new one had meant to, the difference is made up over the next `correction_ticks` actions, within the
    limits of the action space; 0 switches that off.

    Raises:
        ContractError: `execute_horizon` or `correction_ticks` is out of range.
    """

    _tick: int  # whose turn it is
    _plans: int  # questions asked so far
    _executed: int  # fresh actions sent so far
    _moved: Float[np.ndarray, "action"]  # their sum
    _marks: dict[int, _Mark]  # of the questions whose answer is still welcome
    _open: Ticket | None
    _plan: _Plan | None
    _pending: Command | None  # handed out, not yet reported sent
    _last: Action | None  # sent

    def __init__(self, embodiment: Embodiment, *, execute_horizon: int = 8, correction_ticks: int = 4) -> None:
        if execute_horizon < 1:
            raise ContractError("execute_horizon", f"expected at least 1 action, got {execute_horizon}")
        if correction_ticks < 0:
            raise ContractError("correction_ticks", f"expected at least 0 ticks, got {correction_ticks}")
        self._body = embodiment
        self._execute_horizon = execute_horizon
        self._correction_ticks = correction_ticks
        self._low, self._high = embodiment.action.low, embodiment.action.high
        self._delta = np.array([part.kind == "delta" for part in embodiment.action.parts for _ in part.low])
        self._episode = -1
        self._forget()

    def reset(self, episode: int) -> None:
        """Forget the plan and every open question; replies to them will be dropped."""
        self._episode = episode
        self._forget()

    def why_ask(self, expected_delay: int = 0) -> str:
        """Why to ask for a chunk now, or empty.

        `first`, `executed` (the execute horizon), `spending` (the plan will run out within `expected_delay` ticks) or
        `spent`.
        """
        if self._open is not None:
            return ""
        plan = self._plan
        if plan is None:
            return "first"
        left = len(plan.actions) - plan.index
        if not left:
            return "spent"
        if self._executed - plan.begun >= self._execute_horizon:
            return "executed"
        return "spending" if left <= expected_delay else ""

    def ask(self, tick: int) -> Ticket:
        """Open a question on the observation of `tick`, before that tick's command. An open one stays answerable.

        Raises:
            ContractError: it is not the turn of `tick`.
        """
        self._expect(tick, "ask")
        ticket = Ticket(episode=self._episode, plan=self._plans, tick=tick)
        self._plans += 1
        self._marks[ticket.plan] = _Mark(self._executed, self._moved.copy())
        self._open = ticket
        return ticket

    def give_up(self) -> None:
        """Give up every open question: late answers to them will be dropped, and a new one may be asked."""
        self._marks.clear()
        self._open = None

    def deliver(self, ticket: Ticket, chunk: ActionChunk, tick: int) -> Delivery:
        """Take the answer to `ticket`, before the command of `tick`, and replace the plan by it.

        Raises:
            ContractError: the chunk's shape, period, anchor or numbers are not what the body declares.
        """
        self._expect(tick, "deliver")
        delay = tick - ticket.tick
        reason = self._refusal(ticket)
        if self._open == ticket:
            self._open = None
        if reason:
            return Delivery(accepted=False, reason=reason, delay=delay)
        actions = self._checked(chunk, ticket.tick)
        mark = self._marks[ticket.plan]
        self._marks = {plan: kept for plan, kept in self._marks.items() if plan > ticket.plan}
        skipped = min(self._executed - mark.executed, len(actions))
        self._plan = _Plan(
            ticket=ticket,
            actions=actions,
            begun=mark.executed,
            index=skipped,
            owed=self._owed(actions[:skipped], mark),
            spread=self._correction_ticks,
        )
        return Delivery(accepted=True, reason="", delay=delay, skipped=skipped)

    def command(self, obs: Observation | None, tick: int) -> Command:
        """The command of `tick`: the next fresh action, or the body's own hold.

        `obs` is needed only while `needs_observation`.

        Raises:
            ContractError: it is not the turn of `tick`, or a first hold came without an observation.
        """
        self._expect(tick, "command")
        if self._pending is not None:
            raise ContractError("schedule.command", f"tick {tick} already has one; report it with sent() first")
        plan = self._plan
        if plan is None or plan.index >= len(plan.actions):
            self._pending = Command(action=self._hold(obs, tick), hold=STARVED if plan is None else LATE)
        else:
            self._pending = Command(
                action=self._corrected(plan),
                plan=plan.ticket.plan,
                anchor=plan.ticket.tick,
                index=plan.index,
            )
        return self._pending

    def sent(self, action: Action) -> None:
        """Report what was really sent for the last command, and go on to the next tick.

        Raises:
            ContractError: there was no command, or `action` is not finite or of the wrong shape.
        """
        command = self._pending
        if command is None:
            raise ContractError("schedule.sent", f"tick {self._tick} has no command yet")
        self._body.action.check(action, f"tick {self._tick}: sent action")
        if not command.hold and self._plan is not None:
            plan = self._plan
            plan.owed -= np.where(self._delta, command.action - plan.actions[plan.index], 0.0)
            plan.spread = max(plan.spread - 1, 0)
            plan.index += 1
            self._executed += 1
            self._moved += action
        self._last, self._pending = action, None
        self._tick += 1

    @property
    def tick(self) -> int:
        """The tick whose turn it is."""
        return self._tick

    @property
    def executed(self) -> int:
        """Fresh actions sent in this episode."""
        return self._executed

    @property
    def needs_observation(self) -> bool:
        """Whether the next command may be a hold at the measured pose, because nothing was sent yet."""
        return self._last is None

    def _forget(self) -> None:
        self._tick = self._plans = self._executed = 0
        self._moved = np.zeros(self._body.action.size)
        self._marks = {}
        self._open = self._plan = self._pending = self._last = None

    def _expect(self, tick: int, what: str) -> None:
        if tick != self._tick:
            raise ContractError(f"schedule.{what}", f"expected tick {self._tick}, got {tick}")

    def _refusal(self, ticket: Ticket) -> str:
        if ticket.episode != self._episode:
            return "episode"
        if self._plan is not None and ticket.tick <= self._plan.ticket.tick:
            return "older"
        return "" if ticket.plan in self._marks else "plan"

    def _checked(self, chunk: ActionChunk, tick: int) -> Float[np.ndarray, "horizon action"]:
        path = f"tick {tick}: chunk"
        if chunk.anchor != tick:
            raise ContractError(f"{path}.anchor", f"expected the tick of the observation, {tick}, got {chunk.anchor}")
        if not math.isclose(chunk.period, self._body.period, rel_tol=1e-6):
            raise ContractError(f"{path}.period", f"expected {self._body.period:g} s, got {chunk.period:g} s")
        if chunk.actions.ndim != 2 or not len(chunk.actions):
            expected = f"({self._body.action.size},) times a horizon of at least 1"
            raise ContractError(f"{path}.actions", f"expected {expected}, got shape {chunk.actions.shape}")
        self._body.action.check(chunk.actions, f"{path}.actions")
        return chunk.actions.astype(np.float32)

    def _owed(self, overtaken: Float[np.ndarray, "skipped action"], mark: _Mark) -> Float[np.ndarray, "action"]:
        """What the overtaken deltas would have moved, less what was moved instead."""
        if not self._correction_ticks:
            return np.zeros(self._body.action.size)
        meant = self._body.action.clip(overtaken).sum(axis=0, dtype=np.float64)
        return np.where(self._delta, meant - (self._moved - mark.moved), 0.0)

    def _corrected(self, plan: _Plan) -> Action:
        wanted = plan.actions[plan.index]
        share = plan.owed / max(plan.spread, 1)
        # An action that is itself beyond the limits is the governor's affair: here it is only not made worse.
        low, high = np.minimum(self._low, wanted), np.maximum(self._high, wanted)
        action: Action = np.where(self._delta, np.clip(wanted + share, low, high), wanted).astype(np.float32)
        return action

    def _hold(self, obs: Observation | None, tick: int) -> Action:
        if self._last is not None:
            obs = obs or Observation(images={}, state=np.zeros(self._body.state.size, np.float32), tick=tick, time=0.0)
        if obs is None:
            raise ContractError("schedule.command", f"tick {tick}: nothing was sent yet; holding needs an observation")
        return self._body.hold(obs, self._last)


def delay_in_ticks(latency: float, period: float) -> int:
    """Ticks from an observation to the first command that can use its answer."""
    return math.ceil(latency / period - 1e-6)


def infeasibility(*, latency: float, period: float, horizon: int) -> str:
    """Why a latency (seconds) cannot feed a robot without pauses, or empty.

    A chunk that arrives d ticks late has horizon - d actions left, and the next one takes d ticks again: both fit
    only if 2 d <= horizon, however early the question is asked.
    """
    delay = delay_in_ticks(latency, period)
    if 2 * delay <= horizon:
        return ""
    return (
        f"answers come {delay} ticks late ({latency * 1000:.0f} ms at {1 / period:g} Hz) and need chunks of at least "
        f"{2 * delay} actions, the policy gives {horizon}: take longer chunks, a faster model or a lower control rate"
    )
