"""Under what the arms act: how long they think, whether the world waits meanwhile, and what goes wrong.

    latencies x disturbances = conditions       190ms   190ms+displace   600ms   600ms+displace   paused   ...

The first latency without a disturbance is the one that the answer rests on. Every disturbed condition has an
undisturbed twin: the same clock, latencies, tasks and seeds.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actloop.errors import ContractError
from actloop.evaluation.arms import Arm
from actloop.evaluation.config import PLAIN_NAME, CompareConfig
from actloop.loop.latency import LatencyProfile, parse_latency, published_latencies
from actloop.simulation.faults import KINDS, parse_faults

ClockKind = Literal["virtual", "paused"]
PUBLISHED = "published"
PAUSED: Literal["paused"] = "paused"  # in place of a latency: the world waits
PUBLISHED_BY_VARIANT = {
    "no-cotrain": "fastwam-5090d",
    "fast": "fastwam-5090d",
    "joint": "fastwam-joint-5090d",
    "idm": "fastwam-idm-5090d",
    "optional-idm": "fastwam-idm-5090d",
    "optional-idm, first-frame": "fastwam-5090d",
    "action-conditioned": "fastwam-5090d",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What goes wrong in the episodes of a condition: faults in their compact form, under one name."""

    name: str
    faults: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How long the arms think, and what goes wrong.

    Attributes:
        profiles: latency of a call, by arm.
        clock: `paused` where the world waits for the model.
        faults: of every episode, in their compact form.
        twin: name of the condition that differs by the disturbance alone; empty where this is undisturbed.
    """

    name: str
    profiles: Mapping[str, LatencyProfile]
    clock: ClockKind = "virtual"
    faults: tuple[str, ...] = ()
    twin: str = ""

    @property
    def timing(self) -> str:
        """The name of the undisturbed condition: itself, or its twin."""
        return self.twin or self.name

    @property
    def disturbance(self) -> str:
        """The name of what goes wrong, empty where this is undisturbed."""
        return self.name.removeprefix(f"{self.twin}+") if self.twin else ""

    @property
    def label(self) -> str:
        """For tables: its name, and that it is paused wherever the name does not say so."""
        said = self.name if self.clock == "virtual" or PAUSED in self.name else f"{self.timing}, {PAUSED}"
        if self.twin and said != self.name:
            return f"{said}+{self.disturbance}"
        return said

    def latency_ms(self, arm: str) -> float:
        """The arm's median call, milliseconds."""
        return 1000 * self.profiles[arm].quantile(0.5)

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {
            "name": self.name,
            "profiles": {arm: profile.to_dict() for arm, profile in self.profiles.items()},
            "clock": self.clock,
            "faults": list(self.faults),
            "twin": self.twin,
        }
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], config: Mapping[str, Any]) -> "Condition":
        """What `to_dict` wrote; older runs have the clock and the faults in their configuration alone."""
        return cls(
            name=plain["name"],
            profiles={arm: LatencyProfile.from_dict(profile) for arm, profile in plain["profiles"].items()},
            clock=plain.get("clock", config["clock"]),
            faults=tuple(plain.get("faults", config.get("faults", ()))),
            twin=plain.get("twin", ""),
        )


def parse_scenario(text: str) -> Scenario:
    """`FAULT[,FAULT...]` or `NAME=FAULT[,FAULT...]`; without a name, that of the first fault and where it falls.

    Raises:
        UnknownNameError: no such kind of fault.
        ContractError: says which piece is wrong.
    """
    name, given, rest = text.partition("=")
    if not given or "@" in name:  # what stands behind the moment is a strength
        name, rest = "", text
    faults = parse_faults(rest.split(","))
    if not name:
        name = re.sub(r"[^A-Za-z0-9._-]", "-", faults[0].kind + (f"-{faults[0].target}" if faults[0].target else ""))
    if not PLAIN_NAME.fullmatch(name):
        raise ContractError(f"disturbance {text!r}", f"{name!r} names a folder: letters, digits and . _ + - only")
    return Scenario(name=name, faults=tuple(fault.text for fault in faults))


def parse_scenarios(texts: Sequence[str]) -> list[Scenario]:
    """Scenarios in order; one without a name that is taken is numbered.

    Raises:
        UnknownNameError, ContractError: as `parse_scenario`; or two have one name.
    """
    found: dict[str, Scenario] = {}
    for text in texts:
        scenario = parse_scenario(text)
        name, number = scenario.name, 2
        while name in found and not text.startswith(f"{scenario.name}="):
            name, number = f"{scenario.name}-{number}", number + 1
        if name in found:
            raise ContractError("disturb", f"names {name!r} twice; give each disturbance a name of its own")
        found[name] = Scenario(name=name, faults=scenario.faults)
    return list(found.values())


def settle_conditions(config: CompareConfig, arms: Sequence[Arm]) -> list[Condition]:
    """Every latency, each once, the main one first; after each of them the same with each disturbance."""
    asked = [config.latency] if config.clock == PAUSED else [config.latency, *config.sweep]
    scenarios = parse_scenarios(config.disturb)
    conditions: dict[str, Condition] = {}
    for text in asked:
        condition = _timed(text, config, arms)
        if condition.name in conditions:
            continue
        conditions[condition.name] = condition
        for scenario in scenarios:
            name = f"{condition.name}+{scenario.name}"
            conditions[name] = Condition(
                name=name,
                profiles=condition.profiles,
                clock=condition.clock,
                faults=(*config.faults, *scenario.faults),
                twin=condition.name,
            )
    for condition in conditions.values():
        _check_lateness(condition)
    return list(conditions.values())


def _timed(text: str, config: CompareConfig, arms: Sequence[Arm]) -> Condition:
    """The undisturbed condition of one latency."""
    word = text.strip().lower()
    if word == PAUSED:
        profile = LatencyProfile.constant(0.0)
        return Condition(
            name=PAUSED, profiles={arm.name: profile for arm in arms}, clock=PAUSED, faults=tuple(config.faults)
        )
    if word == PUBLISHED:
        name, profiles = PUBLISHED, {arm.name: _published(arm) for arm in arms}
    else:
        parsed = parse_latency(text)
        if isinstance(parsed, LatencyProfile):
            name, profiles = parsed.name, {arm.name: parsed for arm in arms}
        else:
            name, profiles = parsed, {arm.name: arm.measured for arm in arms}
    return Condition(name=name, profiles=profiles, clock=config.clock, faults=tuple(config.faults))


def _check_lateness(condition: Condition) -> None:
    late = [fault.text for fault in parse_faults(condition.faults) if KINDS[fault.kind].on == "inference"]
    if late and condition.clock == PAUSED:
        reason = f"the world waits for the model, so nothing is late; leave out {late[0]!r}, or the paused clock"
        raise ContractError(f"condition {condition.name!r}", reason)


def _published(arm: Arm) -> LatencyProfile:
    if arm.variant not in PUBLISHED_BY_VARIANT:
        known = ", ".join(repr(name) for name in PUBLISHED_BY_VARIANT)
        what = f"is of the variant {arm.variant!r}" if arm.variant else "does not say of which variant it is"
        reason = f"{what}; figures were published for {known}. Give a number instead"
        raise ContractError(f"latency 'published', arm {arm.name!r}", reason)
    return published_latencies()[PUBLISHED_BY_VARIANT[arm.variant]]
