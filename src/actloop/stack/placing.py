"""Where the layers of a stack run: their modules are built there, by the same plan everywhere."""

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

from actloop.contracts import Embodiment, World, embodiment_from_dict
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.loop.latency import LatencyProfile
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
        self._actor: Card | None = None
        self._served = ""  # what a server says that the policy is

    @property
    def actor(self) -> Card:
        """Of the action layer, once it was placed."""
        assert self._actor is not None
        return self._actor

    def profile(self, table: LayerTable) -> LatencyProfile | None:
        """What a call is charged on the virtual clock; None for the time it takes."""
        if table is self._stack.action and self._latency is not None:
            return self._latency if isinstance(self._latency, LatencyProfile) else None
        return table.place.profile

    def place(self, layer: Layer, table: LayerTable) -> Place:
        """Start a layer, or a table in its place."""
        where = self._where(layer, table.place)
        remote = table.place.remote
        if remote:
            return self._remote(layer, table)
        plan = self.plan(layer, table)
        if where == PROCESS:
            place: Place = InProcess(partial(build, plan), start_timeout=START_TIMEOUT, threads=self._threads(table))
            if isinstance(table, ActionTable) and table.model is not None:
                self._know(card_of(table.model), table)
            return place
        module = build(plan)
        if isinstance(module, PolicyModule) and isinstance(table, ActionTable):
            self._know(Card(embodiment=module.policy.embodiment, horizon=module.policy.horizon), table)
        return Here(module) if where == HERE else InThread(module)

    def _where(self, layer: Layer, placement: Placement) -> str:
        if placement.remote:
            return placement.where
        wall = self._clock == "wall"
        where = self._place or placement.where
        if where == FITTING:
            return PROCESS if wall else HERE
        if wall and where == HERE:
            reason = (
                f'every tick would wait for it on the wall clock: write "{PROCESS}" (or "{THREAD}", or leave it out)'
            )
            raise ContractError(self._stack.at(f"{layer}.place"), reason)
        return where

    def plan(self, layer: Layer, table: LayerTable) -> Plan:
        """What it takes to build the module of a layer."""
        each = None
        if isinstance(table, ForesightTable) and self._clock == "virtual" and table.place.profile is not None:
            each = table.place.profile.quantile(0.5)
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

    def _threads(self, table: LayerTable) -> int | None:
        given = table.place.threads
        return given if given is not None else None if self._clock == "wall" else 1

    def _remote(self, layer: Layer, table: LayerTable) -> Place:
        from actloop.serving.place import Remote

        key, placement = self._stack.at(layer), table.place
        place = Remote(placement.where, token=token_of(placement, key), jpeg_quality=placement.jpeg_quality)
        try:
            self._fit(layer, table, place.served)
        except BaseException:
            place.close()
            raise
        return place

    def _fit(self, layer: Layer, table: LayerTable, served: Mapping[str, Any]) -> None:
        """That a server has what the file says."""
        key = self._stack.at(f"{layer}.place")
        if served.get("layer") != layer:
            raise ContractError(key, f"{table.place.where} serves the layer {served.get('layer')!r}, not {layer!r}")
        if not isinstance(table, ActionTable):
            return
        try:
            card = Card(embodiment=embodiment_from_dict(served["embodiment"]), horizon=int(served["horizon"]))
        except (KeyError, TypeError, ValueError, ContractError) as error:
            raise ContractError(key, f"{table.place.where} does not say for which robot its policy is") from error
        if table is self._stack.action:
            self._served = str(served.get("digest", ""))
        self._know(card, table)

    def _know(self, card: Card, table: ActionTable) -> None:
        """What the loop has to know of the policy; a fallback has to fit the same plan."""
        if table is self._stack.action:
            self._actor = card
        elif self._actor is not None and card.horizon < self._stack.loop.execute_horizon:
            reason = f"plans {card.horizon} actions, fewer than the {self._stack.loop.execute_horizon} to execute"
            raise ContractError(self._stack.at("action.fallback"), reason)

    def identity(self) -> dict[str, str]:
        """What a calibration of this stack's checks holds for, but for the checks, which add their own."""
        policy = self._served or policy_identity(self._stack.action.model)
        latency = f"{self._clock} clock"
        if self._clock == "virtual":
            profile = self.profile(self._stack.action)
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
        raise DataError(f"{key}.token_file: cannot be read ({error})") from error
    if not token:
        raise DataError(f"{key}.token_file: {placement.token_file} is empty")
    return token
