"""The arms of a comparison: what each says that it is, and how long it thinks under each condition.

Subject --describe, measure--> Arm --settle_conditions--> Condition (a profile per arm)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from actloop.errors import ContractError
from actloop.evaluation.config import CompareConfig
from actloop.loop.latency import LatencyProfile, parse_latency, published_latencies

PUBLISHED = "published"
PUBLISHED_BY_VARIANT = {
    "no-cotrain": "fastwam-5090d",
    "fast": "fastwam-5090d",
    "joint": "fastwam-joint-5090d",
    "idm": "fastwam-idm-5090d",
    "optional-idm": "fastwam-idm-5090d",
    "optional-idm, first-frame": "fastwam-5090d",
    "action-conditioned": "fastwam-5090d",
}
PLACES = {
    "no-cotrain": "nowhere",
    "fast": "in training only",
    "joint": "online",
    "idm": "online",
    "optional-idm": "online",
    "optional-idm, first-frame": "in training only",
    "action-conditioned": "in training only",
    "rt2": "nowhere",
    "openvla": "nowhere",
    "openvla-oft": "nowhere",
}
"""Where prediction lives in each variant."""
LAYER_PLACES = {"semantic": "in every layer", "foresight": "in planning", "check": "in checks"}
"""Where it lives in a stack: the first of these layers that is asked says it."""
OTHER_PLACE = "not stated"


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One policy of a comparison. `identity` is what it says of itself; `measured` its calls on this machine."""

    name: str
    source: str
    horizon: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    measured: LatencyProfile

    @property
    def variant(self) -> str:
        """What kind of policy it says it is, and the mode it acts in where it has several."""
        named = (self.identity.get("variant", ""), self.identity.get("mode", ""))
        return ", ".join(str(name) for name in named if name)

    @property
    def place(self) -> str:
        """Where prediction lives in it: nowhere, in training only, online, in checks, in planning, or not stated."""
        layers = self.identity.get("layers", ())
        for layer, place in LAYER_PLACES.items():
            if layer in layers:
                return place
        return PLACES.get(self.variant, OTHER_PLACE)

    @property
    def tokens_per_action(self) -> float:
        """Tokens that it decodes, one after the other, for each action of a chunk; NaN where it decodes none."""
        return float(self.identity.get("tokens_per_action") or "nan")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"measured": self.measured.to_dict(), "variant": self.variant, "place": self.place}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Arm":
        return cls(
            name=plain["name"],
            source=plain["source"],
            horizon=plain["horizon"],
            identity=plain["identity"],
            measured=LatencyProfile.from_dict(plain["measured"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """How long the arms think. The first condition of a comparison is the one that the answer rests on."""

    name: str
    profiles: Mapping[str, LatencyProfile]

    def latency_ms(self, arm: str) -> float:
        """The arm's median call, milliseconds."""
        return 1000 * self.profiles[arm].quantile(0.5)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "profiles": {arm: profile.to_dict() for arm, profile in self.profiles.items()}}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Condition":
        profiles = {arm: LatencyProfile.from_dict(profile) for arm, profile in plain["profiles"].items()}
        return cls(name=plain["name"], profiles=profiles)


def settle_conditions(config: CompareConfig, arms: Sequence[Arm]) -> list[Condition]:
    """The main condition, then those of the sweep, each once; on a paused clock the main one alone."""
    asked = [config.latency] if config.clock == "paused" else [config.latency, *config.sweep]
    conditions: dict[str, Condition] = {}
    for text in asked:
        condition = _condition(text, arms)
        conditions.setdefault(condition.name, condition)
    return list(conditions.values())


def _condition(text: str, arms: Sequence[Arm]) -> Condition:
    if text.strip().lower() == PUBLISHED:
        return Condition(name=PUBLISHED, profiles={arm.name: _published(arm) for arm in arms})
    profile = parse_latency(text)
    if isinstance(profile, LatencyProfile):
        return Condition(name=profile.name, profiles={arm.name: profile for arm in arms})
    return Condition(name=profile, profiles={arm.name: arm.measured for arm in arms})


def _published(arm: Arm) -> LatencyProfile:
    if arm.variant not in PUBLISHED_BY_VARIANT:
        known = ", ".join(repr(name) for name in PUBLISHED_BY_VARIANT)
        what = f"is of the variant {arm.variant!r}" if arm.variant else "does not say of which variant it is"
        reason = f"{what}; figures were published for {known}. Give a number instead"
        raise ContractError(f"latency 'published', arm {arm.name!r}", reason)
    return published_latencies()[PUBLISHED_BY_VARIANT[arm.variant]]


def computing(arm: Arm, result: Mapping[str, Any]) -> float:
    """Seconds of computing in an episode: of the action layer on this machine, of the others as they were charged."""
    mean = sum(arm.measured.seconds) / len(arm.measured.seconds)
    others = sum(seconds for layer, seconds in result.get("computed", {}).items() if layer != "action")
    asked = result.get("asked", {}).get("action", result["calls"])
    return float(asked * mean + others)
