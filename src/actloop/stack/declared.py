"""What a stack file says, read and judged once; nothing is opened here. docs/stack.md explains every key.

TOML --read_stack--> Stack (world, loop, action, check, foresight, semantic) --open_stack--> places that answer
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.loop.config import LoopConfig
from actloop.loop.latency import MEASURED, LatencyProfile, parse_latency
from actloop.loop.modules import Prompts
from actloop.loop.questions import LAYERS, Layer
from actloop.simulation.faults import parse_faults
from actloop.stack.checking import FORESIGHT, Checks, checks_of
from actloop.stack.looping import LIMITS, loop_config
from actloop.stack.sources import FACTORY, Source, source_of
from actloop.stack.tables import Table, finite, named

HERE, THREAD, PROCESS, OFFLINE, FITTING = "here", "thread", "process", "offline", ""
PLACES = (HERE, THREAD, PROCESS, OFFLINE)
SCORES = ("verifier", "value", "verifier+value")
TASK = "task"
_PLACED = ("place", "token_file", "jpeg_quality", "latency", "timeout", "threads")
_THINKS = ("model", "device", *_PLACED)


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
    place: Placement = field(default_factory=Placement)
    fallback: "ActionTable | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckTable:
    """`[check]`: which checks, each with the options of its constructor."""

    checks: Checks
    verifier: Path | None = None
    calibration: Path | None = None
    place: Placement = field(default_factory=Placement)


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
    place: Placement = field(default_factory=Placement)


@dataclass(frozen=True, slots=True, kw_only=True)
class SemanticTable:
    """`[semantic]`: the language model. `known`: instructions that the policy understands; `task`: the world's."""

    model: Source | None
    device: str = "cpu"
    prompts: Prompts = field(default_factory=Prompts)
    known: tuple[str, ...] = ()
    known_tasks: bool = True
    max_tokens: int = 48
    place: Placement = field(default_factory=Placement)


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
        return tuple(layer for layer, table in self.layers.items() if table.place.where == OFFLINE)

    def at(self, key: str) -> str:
        """A key of this file, as errors name it."""
        return f"{self.path}: {key}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: what the file says, defaults filled in."""
        layers = {layer: _plain(table) for layer, table in self.layers.items()}
        world = asdict(self.world)
        loop: dict[str, Any] = self.loop.to_dict() | {"limits": finite(self.limits)}
        return {"name": self.name, "world": finite(world), "loop": loop, "layers": layers}


def read_stack(path: str | Path) -> Stack:
    """Read a stack file.

    Raises:
        DataError: no such file, or not TOML.
        UnknownNameError: a key or a name that means nothing; with the nearest that do.
        ContractError: a key is missing, or its value is not of its form; names the key.
    """
    path = Path(path)
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: not readable as TOML ({error})") from error
    file = Table(plain, str(path), ("world", "loop", *LAYERS))
    world = _world(file)
    reader = _Reader(path.parent, world.name, str(path))
    layers = {layer: reader.table(layer, file.value(layer)) for layer in LAYERS if layer in file}
    if "action" not in layers:
        raise ContractError(str(path), "needs [action]: the policy that drives the robot")
    loop, limits = loop_config(file.mapping("loop"), f"{path}: loop", reader.rates)
    stack = Stack(path=path, world=world, loop=loop, limits=limits, **layers)
    _judge(stack)
    return stack


class _Reader:
    """Reads layer tables; what they say about the loop is gathered in `rates`."""

    def __init__(self, folder: Path, world: str, file: str) -> None:
        self._folder, self._world, self._file = folder, world, file
        self.rates: dict[str, Any] = {}

    def table(self, layer: Layer, plain: object) -> Any:
        path = f"{self._file}: {layer}"
        if layer == "action":
            return self._action(plain, path)
        if layer == "check":
            return self._check(plain, path)
        return self._foresight(plain, path) if layer == "foresight" else self._semantic(plain, path)

    def _action(self, plain: object, path: str) -> ActionTable:
        table = Table(plain, path, (*_THINKS, "max_age", "fallback"))
        self.rates["max_age"] = table.seconds("max_age", math.inf)
        place = self._place(table)
        if place.where == OFFLINE:
            raise ContractError(table.at("place"), "the action layer drives the robot, it cannot be offline")
        fallback = self._fallback(table)
        if fallback is not None and math.isinf(place.timeout):
            reason = "a fallback needs to know when the policy is late: give its seconds as `timeout`"
            raise ContractError(table.at("fallback"), reason)
        device = table.text("device", "cpu")
        return ActionTable(model=self._model(table, place), device=device, place=place, fallback=fallback)

    def _fallback(self, table: Table) -> ActionTable | None:
        if "fallback" not in table or table.value("fallback") == "hold":
            return None
        found = table.value("fallback")
        plain = {"model": found} if isinstance(found, str) else found
        inner = Table(plain, table.at("fallback"), (*(key for key in _THINKS if key != "timeout"),))
        place = self._place(inner)
        if place.where == OFFLINE:
            raise ContractError(inner.at("place"), "what acts in an emergency cannot be offline")
        return ActionTable(model=self._model(inner, place), device=inner.text("device", "cpu"), place=place)

    def _check(self, plain: object, path: str) -> CheckTable:
        table = Table(plain, path, ("checks", "verifier", "calibration", "every", *_PLACED))
        self.rates["check_every"] = table.whole("every", 2, least=1)
        return CheckTable(
            checks=checks_of(table.value("checks"), table.at("checks")),
            verifier=self._path(table, "verifier"),
            calibration=self._path(table, "calibration"),
            place=self._place(table),
        )

    def _foresight(self, plain: object, path: str) -> ForesightTable:
        table = Table(plain, path, (*_THINKS, "imagines", "score", "verifier", "value", "candidates"))
        self.rates["candidates"] = table.whole("candidates", 8, least=2)
        place, score = self._place(table), self._score(table)
        imagines = self._source(table, "imagines") if "imagines" in table else None
        if score == "value" and imagines is None and not place.remote:
            raise ContractError(table.at("score"), "'value' judges imagined frames: name the model that `imagines`")
        return ForesightTable(
            model=self._model(table, place),
            imagines=imagines,
            score=score,
            verifier=self._path(table, "verifier"),
            value=self._path(table, "value"),
            device=table.text("device", "cpu"),
            place=place,
        )

    def _semantic(self, plain: object, path: str) -> SemanticTable:
        table = Table(plain, path, (*_THINKS, "prompts", "known", "max_tokens", "every", "done_ends"))
        self.rates["subtask_every"] = table.seconds("every", math.inf) if "every" in table else 0.0
        self.rates["done_ends"] = table.flag("done_ends", False)
        known_tasks = table.value("known") == TASK if "known" in table else True
        place = self._place(table)
        return SemanticTable(
            model=self._model(table, place),
            device=table.text("device", "cpu"),
            prompts=_prompts(table),
            known=() if known_tasks else table.texts("known"),
            known_tasks=known_tasks,
            max_tokens=table.whole("max_tokens", 48, least=1),
            place=place,
        )

    def _model(self, table: Table, place: Placement) -> Source | None:
        """None where a server has the model, and the file does not name it."""
        if place.remote and "model" not in table:
            return None
        return self._source(table, "model")

    def _score(self, table: Table) -> str | Source:
        score = table.text("score", SCORES[-1])
        if FACTORY.fullmatch(score):
            return self._source(table, "score")
        if score not in SCORES:
            raise UnknownNameError(table.at("score"), score, (*SCORES, "module:function"))
        return score

    def _source(self, table: Table, key: str) -> Source:
        return source_of(table.text(key), folder=self._folder, world=self._world, path=table.at(key))

    def _path(self, table: Table, key: str) -> Path | None:
        return (self._folder / table.text(key)).absolute() if key in table else None

    def _place(self, table: Table) -> Placement:
        where = table.text("place", FITTING)
        placement = Placement(
            where=where,
            token_file=self._path(table, "token_file"),
            jpeg_quality=table.whole("jpeg_quality", 90, least=1) if "jpeg_quality" in table else None,
            latency=_latency(table),
            timeout=table.seconds("timeout", math.inf),
            threads=table.whole("threads", 1, least=1) if "threads" in table else None,
        )
        if "place" in table and where not in PLACES and not placement.remote:
            raise UnknownNameError(table.at("place"), where, (*PLACES, "ws://host:port"))
        for key in ("token_file", "jpeg_quality"):
            if key in table and not placement.remote:
                raise ContractError(table.at(key), 'belongs to a server: place = "ws://host:port"')
        return placement


def _world(file: Table) -> WorldTable:
    plain = file.mapping("world")
    if not isinstance(plain.get("name"), str):
        raise ContractError(f"{file.path}: world", 'needs name = "..."; see `actloop worlds`')
    path = f"{file.path}: world"
    ours = ("name", "options", "task", "faults")
    described = plain["name"] == "robot" and "robot" in plain
    table = Table({key: plain[key] for key in plain if key in ours or not described}, path, ours)
    faults = table.texts("faults")
    with named(f"{path}.faults"):
        parse_faults(faults)
    if faults and plain["name"] == "robot":
        raise ContractError(table.at("faults"), "are made in simulation; a robot has its own")
    robot = {key: value for key, value in plain.items() if key not in ("task", "faults")} if described else {}
    return WorldTable(
        name=table.text("name"),
        options={} if described else dict(table.mapping("options")),
        tasks=table.texts("task"),
        faults=faults,
        robot=robot,
    )


def _latency(table: Table) -> str:
    found = table.value("latency") if "latency" in table else MEASURED
    text = f"{found:g}" if isinstance(found, int | float) and not isinstance(found, bool) else found
    if not isinstance(text, str):
        raise ContractError(table.at("latency"), f"expected milliseconds, a name or 'measured', got {found!r}")
    with named(table.at("latency")):
        parse_latency(text)
    return text


def _prompts(table: Table) -> Prompts:
    plain = Table(table.mapping("prompts"), table.at("prompts"), ("subtask", "done"))
    prompts = Prompts(**{key: plain.text(key) for key in ("subtask", "done") if key in plain})
    for key, text in asdict(prompts).items():
        try:
            text.format(instruction="")
        except (KeyError, IndexError, ValueError) as error:
            reason = f"may hold {{instruction}} and no other braces, got {text!r}"
            raise ContractError(plain.at(key), reason) from error
    if not (prompts.subtask or prompts.done):
        raise ContractError(plain.path, "both prompts are empty: nothing would be asked")
    return prompts


def _judge(stack: Stack) -> None:
    """Refuse what could not do anything."""
    check = stack.check
    asks_future = check is not None and any(name == FORESIGHT for name, _ in check.checks)
    if asks_future and not stack.loop.imagine and "check" not in stack.offline:
        reason = "'foresight' compares imagined pictures with seen ones: set imagine = true in [loop]"
        raise ContractError(stack.at("check.checks"), reason)
    if stack.loop.run_on and (check is None or "check" in stack.offline):
        raise ContractError(stack.at("loop.run_on"), "runs on while checks agree: declare [check]")
    for kind in stack.limits:
        if kind not in LIMITS:
            raise UnknownNameError(stack.at("loop.limits"), kind, LIMITS)


def _plain(table: LayerTable) -> dict[str, Any]:
    def text(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): text(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [text(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    plain: dict[str, Any] = finite(text(asdict(table)))
    return plain
