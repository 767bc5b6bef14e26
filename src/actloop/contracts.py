"""What a robot senses, does and may expect. NumPy only, no torch.

    World --observe--> Observation --> Policy --> Prediction(ActionChunk, Future?) --> schedule --> World

The physical side is unbatched NumPy in declared units; only a `Policy` crosses to the torch side.
Names, units, limits and rates are declared once, in an `Embodiment`, and checked at the border.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from actloop.errors import ContractError

Kind = Literal["absolute", "delta", "velocity"]
Frame = UInt8[np.ndarray, "height width 3"]
State = Float[np.ndarray, "state"]
Action = Float[np.ndarray, "action"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A named stretch of a state or action vector that shares one unit and one kind.

    `low` and `high` bound each component, in `unit`; their length is the size of the part. `neutral` is the
    safe command of an absolute action part before anything was sent, where the state cannot tell it.
    """

    name: str
    unit: str
    low: tuple[float, ...]
    high: tuple[float, ...]
    kind: Kind = "absolute"
    neutral: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.low or len(self.low) != len(self.high):
            raise ContractError(self.name, f"low has {len(self.low)} values and high {len(self.high)}")
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ContractError(self.name, f"every low must be below its high, got {self.low} and {self.high}")
        if self.neutral is not None and len(self.neutral) != len(self.low):
            raise ContractError(self.name, f"neutral has {len(self.neutral)} values, expected {len(self.low)}")

    @property
    def size(self) -> int:
        return len(self.low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A vector space made of parts, in order."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        if not names or len(set(names)) != len(names):
            raise ContractError("space", f"parts need distinct names, got {names}")

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def low(self) -> Float[np.ndarray, "size"]:
        return np.array([value for part in self.parts for value in part.low], dtype=np.float32)

    @property
    def high(self) -> Float[np.ndarray, "size"]:
        return np.array([value for part in self.parts for value in part.high], dtype=np.float32)

    @property
    def component_names(self) -> list[str]:
        """One name per component: `gripper`, or `position.0`, `position.1`, ..."""
        return [
            part.name if part.size == 1 else f"{part.name}.{index}" for part in self.parts for index in range(part.size)
        ]

    def slice(self, name: str) -> slice:
        """Where the part `name` lies in the vector."""
        start = 0
        for part in self.parts:
            if part.name == name:
                return slice(start, start + part.size)
            start += part.size
        raise ContractError("space", f"has no part {name!r}, only {[part.name for part in self.parts]}")

    def split(self, vector: Float[np.ndarray, "size"]) -> dict[str, Float[np.ndarray, "part"]]:
        """Views of the vector by part name."""
        return {part.name: vector[self.slice(part.name)] for part in self.parts}

    def check(self, vector: np.ndarray, path: str) -> None:
        """Shape, dtype and finiteness of one vector `(size,)` or of rows `(time, size)`; limits are the governor's.

        Raises:
            ContractError: names the first part that breaks the contract.
        """
        if vector.ndim not in (1, 2) or vector.shape[-1] != self.size:
            raise ContractError(path, f"expected {self.size} dimensions, got shape {vector.shape}")
        if vector.dtype.kind != "f":
            raise ContractError(path, f"expected floating point, got {vector.dtype}")
        if not np.isfinite(vector).all():
            bad = [part.name for part in self.parts if not np.isfinite(vector[..., self.slice(part.name)]).all()]
            raise ContractError(f"{path}.{bad[0]}", "not finite (NaN or infinity)")

    def clip(self, vector: Float[np.ndarray, "*rows size"]) -> Float[np.ndarray, "*rows size"]:
        """The nearest vector inside the limits, float32."""
        clipped: Float[np.ndarray, "*rows size"] = np.clip(vector, self.low, self.high).astype(np.float32)
        return clipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A colour camera. `renderer` says what made the pixels: a network trained on one renderer fails on another."""

    name: str
    height: int
    width: int
    renderer: str = "camera"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embodiment:
    """One robot body as the policy sees it: its cameras, what it senses, what it is told, and how often."""

    name: str
    cameras: tuple[Camera, ...]
    state: Space
    action: Space
    control_hz: float

    def __post_init__(self) -> None:
        measured = {part.name: part.size for part in self.state.parts}
        for part in self.action.parts:
            if part.kind == "absolute" and part.neutral is None and measured.get(part.name) != part.size:
                raise ContractError(
                    f"{self.name}.action.{part.name}",
                    "an absolute part needs a state part of the same name and size, or a neutral value, to hold at",
                )

    @property
    def period(self) -> float:
        """Seconds between control ticks."""
        return 1.0 / self.control_hz

    @property
    def identity(self) -> str:
        """Sixteen hex digits that change when anything declared here changes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def hold(self, obs: "Observation", last: Action | None) -> Action:
        """The safe action of a tick that has no fresh one.

        Absolute parts keep the last target (before the first one: the measured value, or the declared neutral);
        delta and velocity parts are zero. Repeating a delta would move the robot; a zero absolute target would throw
        it across the table.
        """
        held = np.zeros(self.action.size, dtype=np.float32)
        for part in self.action.parts:
            where = self.action.slice(part.name)
            if part.kind != "absolute":
                continue
            if last is not None:
                held[where] = last[where]
            elif part.neutral is not None:
                held[where] = part.neutral
            else:
                held[where] = obs.state[self.state.slice(part.name)]
        return held

    def check(self, obs: "Observation") -> None:
        """Raise `ContractError` where an observation is not what this body declares."""
        self.state.check(obs.state, "observation.state")
        for camera in self.cameras:
            path = f"observation.images.{camera.name}"
            if camera.name not in obs.images:
                raise ContractError(path, f"missing; got {sorted(obs.images) or 'no images'}")
            image = obs.images[camera.name]
            if image.shape != (camera.height, camera.width, 3) or image.dtype != np.uint8:
                expected = f"uint8 ({camera.height}, {camera.width}, 3)"
                raise ContractError(path, f"expected {expected}, got {image.dtype} {image.shape}")
        if len(obs.images) > len(self.cameras):
            names = [camera.name for camera in self.cameras]
            raise ContractError("observation.images", f"expected cameras {names}, got {list(obs.images)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What was sensed at one tick. `time` is seconds on the world's clock, at capture."""

    images: Mapping[str, Frame]
    state: State
    tick: int
    time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionChunk:
    """Actions in physical units, one per tick, anchored to the observation they were computed from.

    `actions[i]` is meant for the i-th tick executed after the anchor's observation.
    """

    actions: Float[np.ndarray, "horizon action"]
    anchor: int
    period: float
    observed_at: float

    @property
    def horizon(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """What the robot will do from an observation on, unless the answer to it changes that.

    `actions[i]` is what the plan in force has for the i-th tick from the observation. The first `fixed` of them will
    have been executed before an answer can arrive: a new chunk begins with them, and stays near the rest.
    """

    actions: Float[np.ndarray, "ticks action"]
    fixed: int

    def __post_init__(self) -> None:
        if self.actions.ndim != 2 or not 0 <= self.fixed <= len(self.actions):
            shape = self.actions.shape
            raise ContractError(
                "committed", f"expected actions by tick and 0 <= fixed <= ticks, got {shape}, {self.fixed}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Future:
    """What a model expects to see: `frames[camera][i]` at `chunk.observed_at + (i + 1) * period`.

    `follows_chunk`: the frames are the consequence of exactly `chunk`; otherwise they are what the policy expects of
    its own behaviour, and `chunk` only says when. `frames` may be decoded when first looked at.
    """

    frames: Mapping[str, UInt8[np.ndarray, "time height width 3"]]
    chunk: ActionChunk
    period: float
    follows_chunk: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A policy's answer: what to do, and, where asked and able, what will be seen."""

    chunk: ActionChunk
    future: Future | None = None
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One thing to ask of a robot in a world. `skill` groups the wordings of one skill; `group` says what it tests."""

    name: str
    instruction: str
    time_limit: float
    skill: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an episode ended; `time` in seconds on the world's clock."""

    success: bool
    reason: str
    time: float


Session = TypeVar("Session")


@runtime_checkable
class VisionLanguageModel(Protocol):
    """Interprets: answers a prompt about images with text."""

    def generate(self, images: Sequence[Frame], prompt: str, *, max_tokens: int, seed: int) -> str: ...


@runtime_checkable
class Policy(Protocol[Session]):
    """Acts. Memory is a session that the caller holds, so a server keeps robots apart and a replay repeats."""

    @property
    def embodiment(self) -> Embodiment: ...

    @property
    def horizon(self) -> int:
        """Actions in a chunk."""
        ...

    def start(self, instruction: str, *, seed: int) -> Session: ...

    def predict(
        self, session: Session, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[Session, Prediction]: ...


@runtime_checkable
class SamplingPolicy(Policy[Session], Protocol[Session]):
    """A policy that can be asked for several different chunks for one observation, at less than their single price."""

    def sample(
        self, session: Session, obs: Observation, *, count: int, committed: Committed | None = None
    ) -> tuple[Session, Sequence[ActionChunk]]: ...


@runtime_checkable
class BatchedPolicy(Policy[Session], Protocol[Session]):
    """A policy that answers several episodes in one pass, each from a session of its own.

    Row by row the answers are those of `predict`, but for rounding: a batch of another size may add up in another
    order.
    """

    def predict_batch(
        self, sessions: Sequence[Session], observations: Sequence[Observation], *, imagine: bool = False
    ) -> Sequence[tuple[Session, Prediction]]: ...


@runtime_checkable
class Absorbing(Policy[Session], Protocol[Session]):
    """A policy that takes in what is seen between two requests, so that a request has less left to compute.

    Its answers are those to the same frames taken in with the request.
    """

    @property
    def absorb_every(self) -> int:
        """Ticks from one frame that it wants to the next; 0 for none between requests."""
        ...

    def absorb(self, session: Session, obs: Observation) -> Session: ...


@runtime_checkable
class WorldActionModel(Policy[Session], Protocol[Session]):
    """Acts and imagines: what will be seen after this observation if this chunk is executed.

    A model whose future cannot depend on a given chunk answers with what it expects of itself, and says so
    (`Future.follows_chunk`).
    """

    def imagine(self, session: Session, obs: Observation, chunk: ActionChunk) -> Future: ...


@runtime_checkable
class World(Protocol):
    """A robot or a simulator; it does not wait for the model.

    `apply` sends the command of one tick and returns what was really sent, after limits. A simulated world advances
    by one control period in `apply`; a robot returns at once. `observe` changes nothing, and its `tick` counts the
    calls of `apply` since `reset`. `outcome` is None while the episode runs.
    """

    @property
    def embodiment(self) -> Embodiment: ...

    @property
    def tasks(self) -> Mapping[str, Task]: ...

    def reset(self, task: Task, *, seed: int) -> Observation: ...

    def observe(self) -> Observation: ...

    def apply(self, action: Action) -> Action: ...

    def outcome(self) -> Outcome | None: ...

    def close(self) -> None: ...


@runtime_checkable
class Demonstrator(Protocol):
    """A world whose scripted expert can be asked what it would send now; it may use privileged state."""

    def demonstrate(self) -> Action: ...


@runtime_checkable
class Disturbable(Protocol):
    """A world that can disturb itself, now, by name; what exactly happens follows from the seed.

    `disturb` raises `ContractError`, and changes nothing, where the disturbance does not fit the moment.
    """

    @property
    def disturbances(self) -> tuple[str, ...]: ...

    def disturb(self, name: str, *, seed: int) -> None: ...


@runtime_checkable
class DisturbableByName(Disturbable, Protocol):
    """A world with further disturbances, that happen only where one is asked for by its name.

    Whoever draws among `disturbances` never meets them: what was recorded before there were any stays what it was.
    """

    @property
    def disturbances_by_name(self) -> tuple[str, ...]: ...


@runtime_checkable
class ForceSensing(Protocol):
    """A world that tells how hard its robot touched what is around it, of the last `apply`; asking changes nothing.

    `contact_force` is in newtons: all that the robot (arm, hand, fingers) exerts on one thing by contact, friction
    included, summed as vectors; the largest magnitude over the things it touched and over the physics steps of the
    tick. One thing is what moves as one rigid body, or one fixed piece. The sum is what hits, presses, drags or carries
    a thing, also through an object in the hand: fingers that squeeze it from both sides cancel out, so the force of a
    grip is not in it. 0 where nothing is touched, and after `reset`; without an episode it raises `ContractError`.
    """

    def contact_force(self) -> float: ...


@runtime_checkable
class Clock(Protocol):
    """Seconds on the loop's clock; `sleep_until` returns at once when the time has passed."""

    def now(self) -> float: ...

    def sleep_until(self, time: float) -> None: ...


def embodiment_to_dict(embodiment: Embodiment) -> dict[str, object]:
    """JSON-ready form, read back by `embodiment_from_dict`."""
    plain: dict[str, object] = json.loads(json.dumps(asdict(embodiment)))
    return plain


def embodiment_from_dict(plain: Mapping[str, object]) -> Embodiment:
    """The embodiment that `embodiment_to_dict` wrote, or a person in that form; parts may lack `kind` and `neutral`.

    Raises:
        ContractError: a field is missing or of the wrong form.
    """

    def space(raw: object) -> Space:
        assert isinstance(raw, Mapping)
        return Space(
            parts=tuple(
                Part(
                    name=part["name"],
                    unit=part["unit"],
                    low=tuple(part["low"]),
                    high=tuple(part["high"]),
                    kind=part.get("kind", "absolute"),
                    neutral=None if part.get("neutral") is None else tuple(part["neutral"]),
                )
                for part in raw["parts"]
            )
        )

    try:
        cameras = plain["cameras"]
        assert isinstance(cameras, Sequence)
        return Embodiment(
            name=str(plain["name"]),
            cameras=tuple(Camera(**camera) for camera in cameras),
            state=space(plain["state"]),
            action=space(plain["action"]),
            control_hz=float(str(plain["control_hz"])),
        )
    except (KeyError, TypeError, AssertionError, ValueError) as error:
        raise ContractError("embodiment", f"not a saved embodiment ({type(error).__name__}: {error})") from error
