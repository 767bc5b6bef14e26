"""The arms of a comparison: what each says that it is, and how long its calls take on this machine."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from actloop.loop.latency import LatencyProfile

PLACES = {
    "no-cotrain": "nowhere",
    "fast": "in training only",
    "joint": "online",
    "idm": "online",
    "optional-idm": "online",
    "optional-idm, first-frame": "in training only",
    "action-conditioned": "in training only",
    "dreamzero": "online",
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
    """One policy of a comparison. `identity` is what it says of itself; `measured` its calls on this machine.

    `batch` is how many rows each of its answers is computed with; where fewer were asked for, `rowwise` says why.
    """

    name: str
    source: str
    horizon: int
    identity: Mapping[str, Any] = field(default_factory=dict)
    measured: LatencyProfile
    batch: int = 1
    rowwise: str = ""

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
        plain = asdict(self)
        if self.batch == 1 and not self.rowwise:  # nobody asked for batches: as it always was
            del plain["batch"], plain["rowwise"]
        return plain | {"measured": self.measured.to_dict(), "variant": self.variant, "place": self.place}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Arm":
        return cls(
            name=plain["name"],
            source=plain["source"],
            horizon=plain["horizon"],
            identity=plain["identity"],
            measured=LatencyProfile.from_dict(plain["measured"]),
            batch=plain.get("batch", 1),
            rowwise=plain.get("rowwise", ""),
        )


def computing(arm: Arm, result: Mapping[str, Any]) -> float:
    """Seconds of computing in an episode: of the action layer on this machine, of the others as they were charged."""
    mean = sum(arm.measured.seconds) / len(arm.measured.seconds)
    others = sum(seconds for layer, seconds in result.get("computed", {}).items() if layer != "action")
    asked = result.get("asked", {}).get("action", result["calls"])
    return float(asked * mean + others)
