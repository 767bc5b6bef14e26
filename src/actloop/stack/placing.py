"""Where the layers of a stack run: their modules are built there, by the same plan everywhere."""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from actloop.contracts import Embodiment, World, embodiment_from_dict
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.loop.latency import LatencyProfile
from actloop.loop.layers import absorb_every
from actloop.loop.modules import PolicyModule
from actloop.loop.places import Here, InThread
from actloop.loop.process import InProcess
from actloop.loop.questions import Layer, Place
from actloop.stack.building import Plan, build, plan_of
from actloop.stack.declared import (
    FITTING,
    HERE,
    PROCESS,
    THREAD,
    ActionTable,
    CheckTable,
    ForesightTable,
    LayerTable,
    Placement,
    Stack,
)
from actloop.stack.sources import Card, card_of, policy_identity

ClockName = Literal["virtual", "wall", "paused"]
CLOCKS: tuple[ClockName, ...] = ("virtual", "wall", "paused")
START_TIMEOUT = 600.0  # seconds: large weights come slowly from a disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """One layer that is asked: where it runs, and what its calls are charged on the virtual clock (None: their time).

    `card` is of a policy, `digest` what a server says that it has; `fallback` stands in for it.
    """

    place: Place
    placement: Placement
    profile: LatencyProfile | None
    card: Card | None = None
    digest: str = ""
    fallback: "Placed | None" = None


class Opener:
    """Opens the layers of one stack for one world.

    Args:
        place: for every layer that is not on a server, in place of the file's.
        latency: of the action layer, in place of the file's.
    """

    def __init__(
        self,
        stack: Stack,
        clock: ClockName,
        world: World,
        *,
        place: str | None = None,
        latency: LatencyProfile | str | None = None,
    ) -> None:
        if place is not None and place not in (HERE, THREAD, PROCESS):
            raise UnknownNameError("place", place, (HERE, THREAD, PROCESS))
        self._stack, self._clock, self._world = stack, clock, world
        self._place, self._latency = place, latency
        self._served = ""  # what a server says that the policy is

    def open(self, owned: ExitStack) -> dict[Layer, Placed]:
        """Start every layer that is asked; `owned` will end them, also where one of them fails."""
        stack = self._stack
        acting = [table for table in (stack.action, stack.action.fallback) if table is not None]
        first, *second = self._start([("action", table) for table in acting], owned)
        self._served = first.digest
        for found in second:
            self._judge_fallback(found)
        others = [item for item in stack.layers.items() if item[0] not in ("action", *stack.offline)]
        rest = self._start(others, owned)
        placed: dict[Layer, Placed] = {"action": replace(first, fallback=second[0] if second else None)}
        return placed | {layer: found for (layer, _), found in zip(others, rest, strict=True)}

    def _start(self, jobs: Sequence[tuple[Layer, LayerTable]], owned: ExitStack) -> list[Placed]:
        """Processes and servers together, each waiting for its own; what runs here meanwhile, one after the other."""
        with ThreadPoolExecutor(max(len(jobs), 1)) as pool:
            begun: list[Future[Placed]] = []
            for layer, table in jobs:
                where = self._where(layer, table.placement)
                if where in (HERE, THREAD):
                    begun.append(Future())
                else:
                    begun.append(pool.submit(self._elsewhere, layer, table))
            for future, (layer, table) in zip(begun, jobs, strict=True):
                if self._where(layer, table.placement) in (HERE, THREAD):
                    _settle(future, partial(self._here, layer, table))
        for future in begun:
            if future.exception() is None:
                owned.callback(future.result().place.close)
        return [future.result() for future in begun]

    def _here(self, layer: Layer, table: LayerTable) -> Placed:
        module, card = build(self.plan(layer, table)), None
        if isinstance(module, PolicyModule) and isinstance(table, ActionTable):
            policy = module.policy
            card = Card(embodiment=policy.embodiment, horizon=policy.horizon, absorb_every=absorb_every(policy))
        place: Place = Here(module) if self._where(layer, table.placement) == HERE else InThread(module)
        return Placed(place=place, placement=table.placement, profile=self._profile(table), card=card)

    def _elsewhere(self, layer: Layer, table: LayerTable) -> Placed:
        profile = self._profile(table)
        if table.placement.remote:
            place, card, digest = self._remote(layer, table)
            return Placed(place=place, placement=table.placement, profile=profile, card=card, digest=digest)
        threads = table.placement.threads or (None if self._clock == "wall" else 1)
        card = card_of(table.model) if isinstance(table, ActionTable) and table.model is not None else None
        started = InProcess(partial(build, self.plan(layer, table)), start_timeout=START_TIMEOUT, threads=threads)
        return Placed(place=started, placement=table.placement, profile=profile, card=card)

    def _where(self, layer: Layer, placement: Placement) -> str:
        if placement.remote:
            return placement.where
        wall = self._clock == "wall"
        where = self._place or placement.where
        if where == FITTING:
            return PROCESS if wall else HERE
        if wall and where == HERE:
            instead = f'write "{PROCESS}" or "{THREAD}", or leave it out'
            reason = f"every tick would wait for it on the wall clock: {instead}"
            raise ContractError(self._stack.at(f"{layer}.place"), reason)
        return where

    def plan(self, layer: Layer, table: LayerTable) -> Plan:
        """What it takes to build the module of a layer."""
        each = None
        if isinstance(table, ForesightTable) and self._clock == "virtual" and table.placement.profile is not None:
            each = table.placement.profile.quantile(0.5)
        known = isinstance(table, CheckTable) and table.calibration is not None
        return plan_of(
            self._stack,
            layer,
            table=table,
            embodiment=self._world.embodiment,
            instructions=[task.instruction for task in self._world.tasks.values()],
            identity=self.identity() if known else None,
            each=each,
        )

    def _profile(self, table: LayerTable) -> LatencyProfile | None:
        if table is self._stack.action and self._latency is not None:
            return self._latency if isinstance(self._latency, LatencyProfile) else None
        return table.placement.profile

    def _remote(self, layer: Layer, table: LayerTable) -> tuple[Place, Card | None, str]:
        """The place, whom its policy is for, and what it is; checked against what the file says."""
        from actloop.serving.place import Remote

        key, placement = self._stack.at(layer), table.placement
        place = Remote(placement.where, token=token_of(placement, key), jpeg_quality=placement.jpeg_quality)
        try:
            served = place.served
            if served.get("layer") != layer:
                reason = f"{placement.where} serves the layer {served.get('layer')!r}, not {layer!r}"
                raise ContractError(f"{key}.place", reason)
            card = _card(served, f"{key}.place") if isinstance(table, ActionTable) else None
        except BaseException:
            place.close()
            raise
        return place, card, str(served.get("digest", ""))

    def _judge_fallback(self, found: Placed) -> None:
        """A fallback has to fit the same plan."""
        assert found.card is not None
        if found.card.horizon < self._stack.loop.execute_horizon:
            reason = f"plans {found.card.horizon} actions, fewer than the {self._stack.loop.execute_horizon} to execute"
            raise ContractError(self._stack.at("action.fallback"), reason)

    def identity(self) -> dict[str, str]:
        """What a calibration of this stack's checks holds for, but for the checks, which add their own."""
        policy = self._served or policy_identity(self._stack.action.model)
        latency = f"{self._clock} clock"
        if self._clock == "virtual":
            profile = self._profile(self._stack.action)
            latency = "measured" if profile is None else profile.name
        return calibration_identity(self._stack, self._world.embodiment, policy=policy, latency=latency)


def calibration_identity(stack: Stack, embodiment: Embodiment, *, policy: str, latency: str) -> dict[str, str]:
    """What a calibration holds for, but for the checks, which add their own.

    The faults of the file are left out: a calibration is there to tell them.
    """
    loop = stack.loop.to_dict() | {"limits": dict(stack.limits)}
    kept = ("execute_horizon", "run_on", "imagine", "continue_plan", "join", "stretch", "check_every", "limits")
    return {
        "policy": policy,
        "embodiment": embodiment.identity,
        "rate": f"{embodiment.control_hz:g} Hz",
        "world": json.dumps([stack.world.name, dict(stack.world.options)], sort_keys=True, default=str),
        "latency": latency,
        "loop": json.dumps({key: loop[key] for key in kept}, sort_keys=True),
    }


def _card(served: Mapping[str, Any], path: str) -> Card:
    try:
        return Card(embodiment=embodiment_from_dict(served["embodiment"]), horizon=int(served["horizon"]))
    except (KeyError, TypeError, ValueError, ContractError) as error:
        raise ContractError(path, "the server does not say for which robot its policy is") from error


def _settle(future: "Future[Placed]", make: Callable[[], Placed]) -> None:
    try:
        future.set_result(make())
    except Exception as error:  # told in the order of the layers, once the others have come up
        future.set_exception(error)


def token_of(placement: Placement, key: str) -> str | None:
    """What a server demands to be shown.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    if placement.token_file is None:
        return None
    try:
        token = placement.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{key}.token_file: {placement.token_file} cannot be read ({why})") from error
    if not token:
        raise DataError(f"{key}.token_file: {placement.token_file} is empty")
    return token
