"""A robot as DreamZero takes it, declared in one place as data; and what follows from the declaration.

    cameras    --tiling--> picture              instruction  --template--> prompt
    states     --statistics--> -1..1, padded    actions      --relative to the block's start, statistics--> the same
    a clip     1 + n blocks: frames every `frame_ticks` ticks, `block_actions` actions and one state per block

    tick       t   t+k  t+2k ...  t+b          k frame_ticks, b block_actions
    frames     *   *    *         *            the first one is the anchor; a block's frames follow its start
    states     *                               of the block that starts at t
    actions    t, t+1, ...        t+b-1

Nothing in the weights belongs to a robot: what is declared here is all that tells one from another.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from actloop.contracts import Embodiment, embodiment_from_dict, embodiment_to_dict
from actloop.errors import ContractError, UnknownNameError
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.numbers import Numbers, check_relative
from actloop.models.dreamzero.statistics import BOUNDS, RobotStatistics
from actloop.models.dreamzero.tiling import Tiling

PLACE = "{instruction}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotDeclaration:
    """A robot body and how the network is shown it.

    `template` holds `{instruction}` at least once, where the lower-cased instruction goes. `relative`: action parts
    that the network sees as differences to the state part of the same name at the block's start. `frame_ticks`: control
    ticks from one video frame to the next. `normalizer`: how `statistics` become a map (statistics.py). `tag`: the
    robot's name in released metadata.

    Raises:
        ContractError: the parts do not fit each other; the one at fault is named.
        UnknownNameError: no such action part, or no such normalizer.
    """

    embodiment: Embodiment
    tiling: Tiling
    template: str
    relative: tuple[str, ...]
    frame_ticks: int
    block_actions: int
    normalizer: str = "quantile"
    statistics: RobotStatistics | None = None
    tag: str = ""

    def __post_init__(self) -> None:
        body = self.embodiment
        if PLACE not in self.template:
            raise ContractError("declaration.template", f"expected {PLACE} in it, got {self.template!r}")
        cameras = [camera.name for camera in body.cameras]
        strange = [name for name in self.tiling.cameras if name not in cameras]
        unseen = [name for name in cameras if name not in self.tiling.cameras]
        if strange or unseen:
            raise ContractError("declaration.tiling", f"shows {self.tiling.cameras}, the body has cameras {cameras}")
        if self.frame_ticks < 1 or self.block_actions < 1 or self.block_actions % self.frame_ticks:
            raise ContractError(
                "declaration.frame_ticks",
                f"expected a divisor of the {self.block_actions} actions of a block, got {self.frame_ticks}",
            )
        if self.normalizer not in BOUNDS:
            raise UnknownNameError("declaration.normalizer", self.normalizer, BOUNDS)
        check_relative(body, self.relative)
        self._check_statistics()

    # pictures and words

    def picture(
        self, images: Mapping[str, UInt8[np.ndarray, "*time h w 3"]]
    ) -> UInt8[np.ndarray, "*time height width 3"]:
        """What the video network is shown of the cameras.

        Raises:
            ContractError: see `Tiling.compose`.
        """
        return self.tiling.compose(images)

    def apart(self, pictures: UInt8[np.ndarray, "*time height width 3"]) -> dict[str, UInt8[np.ndarray, "*time h w 3"]]:
        """The cameras of such pictures, at the size that the body declares."""
        sizes = {camera.name: (camera.height, camera.width) for camera in self.embodiment.cameras}
        return self.tiling.apart(pictures, sizes)

    def prompt(self, instruction: str) -> str:
        """What the text encoder is given.

        Raises:
            ContractError: no instruction.
        """
        if not instruction.strip():
            raise ContractError("instruction", "is empty")
        return self.template.replace(PLACE, instruction.lower())

    # states and actions

    @property
    def numbers(self) -> Numbers:
        """How states and actions become what the network sees."""
        return Numbers(
            body=self.embodiment,
            relative=self.relative,
            block_actions=self.block_actions,
            normalizer=self.normalizer,
            statistics=self.statistics,
        )

    def normalize_states(
        self, states: Float[np.ndarray, "*rows state"], width: int | None = None
    ) -> Float[np.ndarray, "*rows width"]:
        """See `Numbers`, here and below."""
        return self.numbers.normalize_states(states, width)

    def normalize_actions(
        self,
        actions: Float[np.ndarray, "*rows horizon action"],
        start: Float[np.ndarray, "*rows state"],
        width: int | None = None,
    ) -> Float[np.ndarray, "*rows horizon width"]:
        return self.numbers.normalize_actions(actions, start, width)

    def denormalize_actions(
        self, actions: Float[np.ndarray, "*rows horizon width"], start: Float[np.ndarray, "*rows state"]
    ) -> Float[np.ndarray, "*rows horizon action"]:
        return self.numbers.denormalize_actions(actions, start)

    def real_actions(self, width: int) -> Bool[np.ndarray, "width"]:
        """Which of the network's `width` action components this robot has."""
        found: np.ndarray = np.arange(width) < self.embodiment.action.size
        return found

    # time

    @property
    def block_frames(self) -> int:
        """Pixel frames of a block."""
        return self.block_actions // self.frame_ticks

    @property
    def block_seconds(self) -> float:
        return self.block_actions * self.embodiment.period

    def frame_offsets(self, blocks: int) -> Int[np.ndarray, "frames"]:
        """Ticks of a clip's frames after its anchor's, the anchor first."""
        found: np.ndarray = np.arange(1 + blocks * self.block_frames) * self.frame_ticks
        return found

    def state_offsets(self, blocks: int) -> Int[np.ndarray, "blocks"]:
        """Ticks of the blocks' starts after the anchor."""
        found: np.ndarray = np.arange(blocks) * self.block_actions
        return found

    # fit and statistics

    @property
    def known(self) -> RobotStatistics:
        """The statistics.

        Raises:
            ContractError: there are none yet.
        """
        return self.numbers.known

    def with_statistics(self, statistics: RobotStatistics) -> "RobotDeclaration":
        """The same robot, with these statistics."""
        return replace(self, statistics=statistics)

    def measured(self, episodes: Iterable[tuple[np.ndarray, np.ndarray]], *, rows: int = 0) -> "RobotDeclaration":
        """The same robot, with statistics of its data: see `Numbers.measured`."""
        return self.with_statistics(self.numbers.measured(episodes, rows=rows))

    def check(self, config: DreamZeroConfig, *, temporal_stride: int, size: tuple[int, int]) -> None:
        """Whether a network takes this robot; `size` is the (height, width) that its codec brings to its latents.

        Raises:
            ContractError: names what does not fit.
        """
        frames = config.block_frames * temporal_stride
        pairs = {
            "block_actions": (self.block_actions, config.block_actions),
            "block_frames": (self.block_frames, frames),
            "picture": (self.tiling.size, size),
        }
        for name, (ours, theirs) in pairs.items():
            if ours != theirs:
                raise ContractError(f"declaration.{name}", f"the robot has {ours}, the network takes {theirs}")
        for name, space, width in (
            ("state", self.embodiment.state, config.state_dim),
            ("action", self.embodiment.action, config.action_dim),
        ):
            if space.size > width:
                raise ContractError(
                    f"declaration.{name}", f"has {space.size} components, the network has room for {width}"
                )

    # at rest

    def to_dict(self) -> dict[str, object]:
        """JSON-ready form, read back by `from_dict`."""
        return {
            "embodiment": embodiment_to_dict(self.embodiment),
            "tiling": self.tiling.to_dict(),
            "template": self.template,
            "relative": list(self.relative),
            "frame_ticks": self.frame_ticks,
            "block_actions": self.block_actions,
            "normalizer": self.normalizer,
            "statistics": None if self.statistics is None else self.statistics.to_dict(),
            "tag": self.tag,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> "RobotDeclaration":
        """What `to_dict` wrote, or a person in that form; `normalizer`, `statistics` and `tag` may be left out.

        Raises:
            ContractError: names the field that is missing, unknown or of the wrong form.
        """
        for name in ("embodiment", "tiling", "template", "relative", "frame_ticks", "block_actions"):
            if name not in plain:
                raise ContractError(f"declaration.{name}", f"missing; got {sorted(plain)}")
        unknown = [name for name in plain if name not in cls.__slots__]
        if unknown:
            raise UnknownNameError("declaration", unknown[0], cls.__slots__)
        statistics, relative = plain.get("statistics"), plain["relative"]
        if not isinstance(relative, list | tuple):
            raise ContractError("declaration.relative", f"expected a list of action parts, got {relative!r}")
        return cls(
            embodiment=embodiment_from_dict(_mapping(plain, "embodiment")),
            tiling=Tiling.from_dict(_mapping(plain, "tiling")),
            template=str(plain["template"]),
            relative=tuple(map(str, relative)),
            frame_ticks=_whole(plain, "frame_ticks"),
            block_actions=_whole(plain, "block_actions"),
            normalizer=str(plain.get("normalizer", "quantile")),
            statistics=None if statistics is None else RobotStatistics.from_dict(_mapping(plain, "statistics")),
            tag=str(plain.get("tag", "")),
        )

    def _check_statistics(self) -> None:
        if self.statistics is None:
            return
        for name, space in (("state", self.embodiment.state), ("action", self.embodiment.action)):
            size = getattr(self.statistics, name).size
            if size != space.size:
                raise ContractError(
                    f"declaration.statistics.{name}",
                    f"of {size} components, but {self.embodiment.name!r} has {space.size}",
                )


def declare(
    embodiment: Embodiment,
    *,
    block_actions: int,
    frame_ticks: int,
    template: str = PLACE,
    tiling: Tiling | None = None,
    relative: Sequence[str] | None = None,
    normalizer: str = "quantile",
) -> RobotDeclaration:
    """A declaration of any body, with what usually fits it.

    `tiling`: cameras side by side. `relative`: as released, absolute action parts that the state measures too, but no
    gripper; what is a delta already stays.
    """
    sizes = {camera.name: (camera.height, camera.width) for camera in embodiment.cameras}
    measured = {part.name: part.size for part in embodiment.state.parts}
    usual = tuple(
        part.name
        for part in embodiment.action.parts
        if part.kind == "absolute" and measured.get(part.name) == part.size and "gripper" not in part.name
    )
    return RobotDeclaration(
        embodiment=embodiment,
        tiling=tiling or Tiling.side_by_side(sizes),
        template=template,
        relative=usual if relative is None else tuple(relative),
        frame_ticks=frame_ticks,
        block_actions=block_actions,
        normalizer=normalizer,
    )


def _mapping(plain: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = plain[name]
    if not isinstance(found, Mapping):
        raise ContractError(f"declaration.{name}", f"expected an object, got {type(found).__name__}")
    return found


def _whole(plain: Mapping[str, object], name: str) -> int:
    found = plain[name]
    if not isinstance(found, int) or isinstance(found, bool):
        raise ContractError(f"declaration.{name}", f"expected a whole number, got {found!r}")
    return found
