"""What a stack file says, read and judged once; nothing is opened here. docs/stack.md explains every key.

TOML --read_stack--> Stack (world, loop, action, check, foresight, semantic) --open_stack--> places that answer
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from actloop.loop.config import LoopConfig
from actloop.loop.latency import MEASURED, LatencyProfile, parse_latency
from actloop.loop.modules import Prompts
from actloop.loop.questions import LAYERS, Layer
from actloop.stack.checking import Checks
from actloop.stack.sources import Source

HERE, THREAD, PROCESS, OFFLINE, FITTING = "here", "thread", "process", "offline", ""
PLACES = (HERE, THREAD, PROCESS, OFFLINE)
SCORES = ("verifier", "value", "verifier+value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a layer runs, and what its answers may take.

    Attributes:
        where: `here`, `thread`, `process`, `offline`, `ws://...`; empty for `here` on the virtual clock and `process`
            on the wall clock.
        token_file: holds what a server demands to be shown.
        jpeg_quality: of the pictures to and from a server; None: as they are.
        latency: on the virtual clock: `measured`, or what `parse_latency` reads; of foresight for one candidate.
        timeout: seconds from asking after which an answer is not used any more.
        threads: of torch; None for one on the virtual clock and torch's own choice on the wall clock.
    """

    where: str = FITTING
    token_file: Path | None = None
    jpeg_quality: int | None = None
    latency: str = MEASURED
    timeout: float = math.inf
    threads: int | None = None

    @property
    def remote(self) -> bool:
        return self.where.startswith(("ws://", "wss://"))

    @property
    def profile(self) -> LatencyProfile | None:
        """What is declared, None where the calls are timed."""
        profile = parse_latency(self.latency)
        return profile if isinstance(profile, LatencyProfile) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorldTable:
    """`[world]`: which one, with what options, on which tasks (names, skills or groups; empty for all), with what
    faults. `robot` is the description of a robot where the world is one that is described here."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    robot: Mapping[str, Any] = field(default_factory=dict)

    @property
    def real(self) -> bool:
        """Whether it runs in real time, whatever the clock."""
        return self.name == "robot"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionTable:
    """`[action]`: the policy. `fallback` is asked when it fails or is late; None: the robot holds."""

    model: Source | None
    device: str = "cpu"
    placement: Placement = field(default_factory=Placement)
    fallback: "ActionTable | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTable:
    """`[check]`: which checks, each with the options of its constructor."""

    checks: Checks
    verifier: Path | None = None
    calibration: Path | None = None
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForesightTable:
    """`[foresight]`: chunks of `model`, imagined by `imagines` where there is one; the best by `score` is taken.

    `score` is one of `SCORES`, or a function that makes an `OutcomeScore`.
    """

    model: Source | None
    imagines: Source | None = None
    score: str | Source = "verifier+value"
    verifier: Path | None = None
    value: Path | None = None
    device: str = "cpu"
    placement: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticTable:
    """`[semantic]`: the language model. `known`: instructions that the policy understands; `task`: the world's."""

    model: Source | None
    device: str = "cpu"
    prompts: Prompts = field(default_factory=Prompts)
    known: tuple[str, ...] = ()
    known_tasks: bool = True
    max_tokens: int = 48
    placement: Placement = field(default_factory=Placement)


LayerTable = ActionTable | CheckTable | ForesightTable | SemanticTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A stack file; paths in it are relative to the file's folder.

    Attributes:
        path: of the file.
        loop: without the limits, which need a body to be spread over.
        limits: of the motion by kind and action part, as written.
    """

    path: Path
    world: WorldTable
    loop: LoopConfig
    limits: Mapping[str, Mapping[str, Any]]
    action: ActionTable
    check: CheckTable | None = None
    foresight: ForesightTable | None = None
    semantic: SemanticTable | None = None

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def layers(self) -> dict[Layer, LayerTable]:
        """Those that are declared, also offline."""
        tables: dict[Layer, LayerTable | None] = {
            "action": self.action,
            "check": self.check,
            "foresight": self.foresight,
            "semantic": self.semantic,
        }
        return {layer: table for layer in LAYERS if (table := tables[layer]) is not None}

    @property
    def offline(self) -> tuple[Layer, ...]:
        """Layers that are declared and not asked at run time."""
        return tuple(layer for layer, table in self.layers.items() if table.placement.where == OFFLINE)

    def at(self, key: str) -> str:
        """A key of this file, as errors name it."""
        return f"{self.path}: {key}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what the file says, defaults filled in."""
        folder = self.path.parent.absolute()
        loop: dict[str, Any] = self.loop.to_dict() | {"limits": dict(self.limits)}
        layers = {layer: _plain(table, folder) for layer, table in self.layers.items()}
        return {
            "name": self.name,
            "world": _plain(self.world, folder),
            "loop": _plain(loop, folder),
            "layers": layers,
        }


def _plain(value: Any, folder: Path) -> Any:
    """JSON-ready; models by the name that was written, paths relative to the file where they are below it."""
    if isinstance(value, Source):
        return value.text
    if isinstance(value, Path):
        return str(value.relative_to(folder) if value.is_relative_to(folder) else value)
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name), folder) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, folder) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, folder) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
