"""The plan on the tick grid: time and chunks in, one command per tick out. Pure: no threads, no clocks, no world.

    tick        k        k+1      k+2      k+3
    ask(k) -----+                  |
                `---- model -----> deliver(chunk anchored at k)
    executed    a        b         |        two fresh actions since the observation: skip chunk[0], chunk[1]
    command     old[i]   old[i+1]  chunk[2] chunk[3]

Every tick calls `command` once and then `sent` once. What was overtaken is counted, never estimated: as progress along
the plan, a whole action per tick at full pace, less where the governor or the loop slowed the robot down.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from actloop.contracts import Action, ActionChunk, Committed, Embodiment, Observation
from actloop.errors import ContractError
from actloop.loop.border import sound
from actloop.loop.governor import Governor, Limits
from actloop.loop.joining import Join, Motion, continued, ensembled
from actloop.loop.path import NEARLY, Kinds, Path
from actloop.loop.questions import Layer, Ticket

STARVED = "starved"  # held, no chunk has come yet
LATE = "late"  # held, the plan is spent
STALE = "stale"  # held, the plan rests on too old an observation
TOLD = "told"  # held, because the loop said so

Residual = Callable[[Observation, Action, int], Action]
"""`residual(obs, action, index)`: what to add to the action of this tick, in action units (as A2C2, 2509.23224)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a reply.

    `reason` is empty, or why it was dropped: `episode` (of another one), `plan` (given up), `older` (than the last
    accepted observation). `delay` is in ticks from its observation, `skipped` in actions.
    """

    accepted: bool
    reason: str
    delay: int
    skipped: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to send at a tick.

    `wanted` is what the chunk itself has for this tick, `action` what joining, pace and limits made of it, and
    `reasons` why they differ. With a `hold` reason there was no fresh action, and plan, anchor and index are -1.
    """

    action: Action
    wanted: Action
    plan: int = -1
    anchor: int = -1
    index: int = -1
    hold: str = ""
    pace: float = 1.0
    reasons: tuple[str, ...] = ()


@dataclass(slots=True)
class _Mark:
    """The odometer at the time of a question."""

    progress: float
    moved: Float[np.ndarray, "action"]
    place: int  # on the grid, with the places that were missed


@dataclass(slots=True)
class _Plan:
    ticket: Ticket
    raw: Float[np.ndarray, "horizon action"]  # as the policy gave it
    begun: float  # progress of the episode at the anchor
    place: int  # of the anchor on the grid
    path: Path  # the rest of it, as it is to be sent
    first: int  # path.actions[0] is raw[first]
    at: float  # progress along the path
    end: float  # where the path may be followed to
    done: Float[np.ndarray, "action"]  # delta parts: where what was sent since the join has led, on the path


class Schedule:
    """Owns the plan of one robot.

    A new chunk is asked for once `execute_horizon` actions were executed since the anchor of the current one, and
    earlier where it would be spent before the answer is expected. One question is open at a time.

    Deltas are integrated from the pose at the anchor. Where the old plan moved otherwise, while the model thought,
    than the new one had meant to, the difference is made up as `join` says, within the limits of the action space.

    Args:
        max_age: ticks from its observation after which an action is not executed any more; 0 for no limit.
        limits: of the motion; none when None. Actions never leave the action space.
        residual: corrects each action with the newest observation, before the governor; it must be quick.

    Raises:
        ContractError: `execute_horizon` or `max_age` is out of range.
    """

    _tick: int  # whose turn it is
    _missed: int  # places of the grid that were left empty
    _plans: int  # questions asked so far
    _executed: int  # ticks with a fresh action so far
    _progress: float  # actions executed so far
    _moved: Float[np.ndarray, "action"]  # the sum of what was sent
    _marks: dict[int, _Mark]  # of the questions whose answer is still welcome
    _open: Ticket | None
    _plan: _Plan | None
    _older: list[_Plan]  # that a newer one replaced, for the ensemble
    _parted: int  # the first question whose plan has nothing to do with those before
    _added: Float[np.ndarray, "action"]  # by the residual, to the pending command
    _pending: Command | None  # handed out, not yet reported sent
    _last: tuple[Action, ...]  # sent, newest first

    def __init__(
        self,
        embodiment: Embodiment,
        *,
        execute_horizon: int = 8,
        join: Join | None = None,
        max_age: int = 0,
        limits: Limits | None = None,
        residual: Residual | None = None,
    ) -> None:
        for name, value, least in (("execute_horizon", execute_horizon, 1), ("max_age", max_age, 0)):
            if value < least:
                raise ContractError(name, f"expected at least {least}, got {value}")
        self._body = embodiment
        self._kinds = Kinds.of(embodiment)
        self._any_delta = bool(self._kinds.delta.any())
        self._size = embodiment.action.size
        self._execute_horizon = execute_horizon
        self._join = join or Join()
        self._max_age = max_age
        self._residual = residual
        self._governor = Governor(embodiment, limits or Limits.none())
        self._episode = -1
        self._forget()

    def reset(self, episode: int) -> None:
        """Forget the plan and every open question; replies to them will be dropped."""
        self._episode = episode
        self._forget()

    # asking

    def why_ask(self, expected_delay: int = 0, *, execute_horizon: int | None = None) -> str:
        """Why to ask for a chunk now, or empty.

        `first`, `executed` (the execute horizon, or the one given in its place), `spending`
        (the plan will run out within `expected_delay` ticks) or `spent`.
        """
        if self._open is not None:
            return ""
        if self._plan is None:
            return "first"
        left = self.left
        if left <= NEARLY or self._stale():
            return "spent"
        if self._progress - self._plan.begun >= (execute_horizon or self._execute_horizon) - NEARLY:
            return "executed"
        return "spending" if left <= expected_delay + NEARLY else ""

    def ask(self, tick: int, layer: Layer = "action") -> Ticket:
        """Open a question on the observation of `tick`, before that tick's command. An open one stays answerable.

        Raises:
            ContractError: it is not the turn of `tick`.
        """
        self._expect(tick, "ask")
        ticket = Ticket(episode=self._episode, plan=self._plans, tick=tick, layer=layer)
        self._plans += 1
        self._marks[ticket.plan] = _Mark(self._progress, self._moved.copy(), tick + self._missed)
        self._open = ticket
        return ticket

    def committed(self, delay: int) -> Committed | None:
        """What the plan has from now on, its next `delay` actions to be executed meanwhile; None where it is spent."""
        plan = self._plan
        if plan is None or self.left < 1 or self._stale():
            return None
        rest = np.stack([plan.path.action(at, 1.0) for at in np.arange(plan.at, plan.end - 1 + NEARLY)])
        return Committed(actions=self._body.action.clip(rest), fixed=min(delay, len(rest)))

    def part(self, ticket: Ticket | None = None) -> None:
        """Part the plans from `ticket` on, or from the next question, from those before.

        They are neither averaged with them nor compared to them, which rested on what does not hold any more.
        """
        self._parted = self._plans if ticket is None else ticket.plan

    def give_up(self) -> None:
        """Give up every open question: late answers to them will be dropped, and a new one may be asked."""
        self._marks.clear()
        self._open = None

    def failed(self, ticket: Ticket) -> None:
        """No answer will come to `ticket`; another may be asked."""
        if self._open == ticket or ticket.layer in ("action", "foresight"):
            self._marks.pop(ticket.plan, None)
        if self._open == ticket:
            self._open = None

    def deliver(self, ticket: Ticket, chunk: ActionChunk, tick: int) -> Delivery:
        """Take the answer to `ticket`, before the command of `tick`, and join the plan to it.

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
        raw = self._checked(chunk, ticket.tick)
        mark = self._marks[ticket.plan]
        self._marks = {plan: kept for plan, kept in self._marks.items() if plan > ticket.plan}
        skipped = min(self._progress - mark.progress, float(len(raw)))
        if abs(skipped - round(skipped)) < NEARLY:
            skipped = float(round(skipped))
        self._replace(ticket, raw, mark, skipped)
        return Delivery(accepted=True, reason="", delay=delay, skipped=skipped)

    # acting

    def command(
        self, obs: Observation | None, tick: int, *, pace: float = 1.0, hold: bool = False, aside: bool = False
    ) -> Command:
        """The command of `tick`: the next fresh action, or the body's own hold.

        `obs` is needed only while `needs_observation`. `pace` below 1 follows the plan slower, `hold` not at all;
        nor does `aside`: somebody else has the robot, whatever the plan has left.

        Raises:
            ContractError: it is not the turn of `tick`, or a first hold came without an observation.
        """
        self._expect(tick, "command")
        if self._pending is not None:
            raise ContractError("schedule.command", f"tick {tick} already has one; report it with sent() first")
        self._added = self._nothing
        plan, why = self._plan, TOLD if aside else self._why_hold(told=hold)
        state = None if obs is None else obs.state
        if why or plan is None:
            held = self._hold(obs, tick)
            governed = self._governor.govern(None, 0.0, hold=held, state=state)
            self._pending = Command(action=governed.action, wanted=held, hold=why, pace=0.0, reasons=governed.reasons)
            return self._pending
        pace = min(pace, plan.end - plan.at)
        if pace > 1 - NEARLY:
            pace = 1.0
        correction = self._correction(plan, obs, _index(plan.at + pace, plan.path))
        governed = self._governor.govern(plan.path, plan.at, pace=pace, state=state, correction=correction)
        index = _index(plan.at + governed.pace, plan.path)
        self._pending = Command(
            action=governed.action,
            wanted=plan.raw[plan.first + index],
            plan=plan.ticket.plan,
            anchor=plan.ticket.tick,
            index=plan.first + index,
            pace=governed.pace,
            reasons=governed.reasons,
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
        if not sound(action, self._size):
            self._body.action.check(action, f"tick {self._tick}: sent action")
        self._governor.sent(action)
        if not command.hold and self._plan is not None:
            plan = self._plan
            plan.at += command.pace
            if abs(plan.at - round(plan.at)) < NEARLY:
                plan.at = float(round(plan.at))
            self._executed += 1
            self._progress += command.pace
        if self._any_delta:
            self._moved += action
            if self._plan is not None:  # also what a hold took to brake
                self._plan.done += action - self._added
        self._last = (action, *self._last[:2])
        self._pending = None
        self._tick += 1

    def cut(self, keep: float = 0.0) -> None:
        """Drop what the plan has beyond the next `keep` actions."""
        if self._plan is not None:
            self._plan.end = min(self._plan.end, self._plan.at + max(keep, 0.0))

    def miss(self, places: int) -> None:
        """Report places of the grid that passed without a tick: what the plan rests on is that much older."""
        self._missed += places

    # what it knows

    @property
    def tick(self) -> int:
        """The tick whose turn it is."""
        return self._tick

    @property
    def executed(self) -> int:
        """Ticks with a fresh action in this episode."""
        return self._executed

    @property
    def left(self) -> float:
        """Actions that the plan still has."""
        return 0.0 if self._plan is None else max(self._plan.end - self._plan.at, 0.0)

    @property
    def plan(self) -> Ticket | None:
        """Whose answer is the plan in force."""
        return None if self._plan is None else self._plan.ticket

    @property
    def since_anchor(self) -> float:
        """Actions executed since the anchor of the plan in force."""
        return 0.0 if self._plan is None else self._progress - self._plan.begun

    @property
    def overtaken(self) -> tuple[Ticket, float] | None:
        """The plan before the present one, and how much later its own anchor the present one's is, in actions."""
        if self._plan is None or not self._older:
            return None
        return self._older[-1].ticket, self._plan.begun - self._older[-1].begun

    @property
    def welcome(self) -> Collection[int]:
        """The questions whose answers will still be taken."""
        return self._marks.keys()

    @property
    def open(self) -> Ticket | None:
        """The question that waits for its answer."""
        return self._open

    @property
    def needs_observation(self) -> bool:
        """Whether the next command needs one: to hold where it is measured, for a residual, or for the governor."""
        return not self._last or self._residual is not None or self._governor.looks

    def _forget(self) -> None:
        self._tick = self._missed = self._plans = self._executed = 0
        self._progress = 0.0
        self._moved = np.zeros(self._body.action.size)
        self._marks, self._older, self._last = {}, [], ()
        self._parted = 0
        self._nothing = self._added = np.zeros(self._size)
        self._open = self._plan = self._pending = None
        self._governor.reset()

    def _expect(self, tick: int, what: str) -> None:
        if tick != self._tick:
            raise ContractError(f"schedule.{what}", f"expected tick {self._tick}, got {tick}")

    def _refusal(self, ticket: Ticket) -> str:
        if ticket.episode != self._episode:
            return "episode"
        if self._plan is not None and ticket.plan <= self._plan.ticket.plan:
            return "older"
        return "" if ticket.plan in self._marks else "plan"

    def _checked(self, chunk: ActionChunk, tick: int) -> Float[np.ndarray, "horizon action"]:
        actions, path = chunk.actions, f"tick {tick}: chunk"
        if chunk.anchor != tick:
            raise ContractError(f"{path}.anchor", f"expected the tick of the observation, {tick}, got {chunk.anchor}")
        if not math.isclose(chunk.period, self._body.period, rel_tol=1e-6):
            raise ContractError(f"{path}.period", f"expected {self._body.period:g} s, got {chunk.period:g} s")
        if actions.ndim != 2 or not len(actions):
            expected = f"({self._size},) times a horizon of at least 1"
            raise ContractError(f"{path}.actions", f"expected {expected}, got shape {actions.shape}")
        if actions.shape[1] != self._size or actions.dtype.kind != "f" or not np.isfinite(actions).all():
            self._body.action.check(actions, f"{path}.actions")  # says what is wrong
        return actions.astype(np.float32)

    def _replace(self, ticket: Ticket, raw: Float[np.ndarray, "horizon action"], mark: _Mark, at: float) -> None:
        """Put the plan of `raw` in force, from progress `at` on."""
        kinds = self._kinds
        meant = self._doable(raw)
        if self._plan is not None:
            older = [*self._older, self._plan][-8:]
            apart = ticket.plan >= self._parted
            self._older = [plan for plan in older if plan.ticket.plan >= self._parted] if apart else older
        if self._join.how == "ensemble":
            chunks = [
                (mark.progress - old.begun, self._doable(old.raw))
                for old in self._older
                if mark.progress - old.begun < len(old.raw)
            ]
            meant = ensembled([*chunks, (0.0, meant)], kinds, self._join.decay)
        owed = np.zeros(self._size)
        if self._any_delta:
            whole = Path(meant, np.zeros(self._size, np.float32), kinds)
            owed = np.where(kinds.delta, whole.point(at) - (self._moved - mark.moved), 0.0)
        rest = continued(meant, at, Motion(self._last, owed), kinds, self._join)
        first = int(at)
        origin = self._origin(rest, at - first) if len(rest) else np.zeros(self._size, np.float32)
        path = Path(rest if len(rest) else meant, origin, kinds)
        self._plan = _Plan(
            ticket=ticket,
            raw=raw,
            begun=mark.progress,
            place=mark.place,
            path=path,
            first=first if len(rest) else 0,
            at=at - first if len(rest) else at,
            end=float(len(rest) or len(raw)),
            done=path.point(at - first if len(rest) else at).copy(),
        )

    def _doable(self, raw: Float[np.ndarray, "horizon action"]) -> Float[np.ndarray, "horizon action"]:
        """A chunk without deltas beyond the action space: its path must not lead where they will not."""
        return np.where(self._kinds.delta, self._body.action.clip(raw), raw) if self._any_delta else raw

    def _origin(self, rest: Float[np.ndarray, "rest action"], part: float) -> Action:
        """Where the path begins, so that it passes through what was sent last at progress `part` of its first step."""
        last = self._last[0] if self._last else rest[0]
        origin: Action = last if part == 0.0 else (last - part * rest[0]) / (1.0 - part)
        return origin

    def _correction(self, plan: _Plan, obs: Observation | None, index: int) -> Action | None:
        """What deltas are behind the path, where limits cut them, and what a residual adds."""
        if self._residual is None and not self._any_delta:
            return None
        behind = np.where(self._kinds.delta, plan.path.point(plan.at) - plan.done, 0.0)
        correction = np.where(np.abs(behind) > NEARLY, behind, 0.0)
        if self._residual is not None and obs is not None:
            added = np.asarray(self._residual(obs, plan.path.actions[index], plan.first + index))
            if added.shape != (self._size,):
                reason = f"expected shape ({self._size},), got {added.shape}"
                raise ContractError(f"tick {self._tick}: residual", reason)
            self._body.action.check(added, f"tick {self._tick}: residual")
            correction, self._added = correction + added, added
        return correction.astype(np.float32) if correction.any() else None

    def _stale(self) -> bool:
        plan = self._plan
        return bool(self._max_age and plan and self._tick + self._missed - plan.place >= self._max_age)

    def _why_hold(self, *, told: bool) -> str:
        if self._plan is None:
            return STARVED
        if self.left <= NEARLY:
            return LATE
        if self._stale():
            return STALE
        return TOLD if told else ""

    def _hold(self, obs: Observation | None, tick: int) -> Action:
        if self._last:
            obs = obs or Observation(images={}, state=np.zeros(self._body.state.size, np.float32), tick=tick, time=0.0)
        if obs is None:
            raise ContractError("schedule.command", f"tick {tick}: nothing was sent yet; holding needs an observation")
        return self._body.hold(obs, self._last[0] if self._last else None)


def _index(progress: float, path: Path) -> int:
    """Of the action that is under way, or just done, at this progress."""
    return min(max(math.ceil(progress - NEARLY) - 1, 0), len(path) - 1)
