"""From a TOML file to a `Stack`: every key judged, nothing opened."""

import math
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.loop.latency import MEASURED, parse_latency
from actloop.loop.modules import Prompts
from actloop.loop.questions import LAYERS, Layer
from actloop.simulation.faults import parse_faults
from actloop.stack.checking import FORESIGHT, checks_of
from actloop.stack.declared import (
    FITTING,
    OFFLINE,
    PLACES,
    SCORES,
    ActionTable,
    CheckTable,
    ForesightTable,
    Placement,
    SemanticTable,
    Stack,
    WorldTable,
)
from actloop.stack.looping import LIMITS, loop_config
from actloop.stack.sources import FACTORY, Source, source_of
from actloop.stack.tables import Table, named

TASK = "task"
_PLACED = ("place", "token_file", "jpeg_quality", "latency", "timeout", "threads")
_THINKS = ("model", "device", *_PLACED)


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
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a stack file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
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
        return ActionTable(model=self._model(table, place), device=device, placement=place, fallback=fallback)

    def _fallback(self, table: Table) -> ActionTable | None:
        if "fallback" not in table or table.value("fallback") == "hold":
            return None
        found = table.value("fallback")
        plain = {"model": found} if isinstance(found, str) else found
        inner = Table(plain, table.at("fallback"), (*(key for key in _THINKS if key != "timeout"),))
        place = self._place(inner)
        if place.where == OFFLINE:
            raise ContractError(inner.at("place"), "what acts in an emergency cannot be offline")
        return ActionTable(model=self._model(inner, place), device=inner.text("device", "cpu"), placement=place)

    def _check(self, plain: object, path: str) -> CheckTable:
        table = Table(plain, path, ("checks", "verifier", "calibration", "every", *_PLACED))
        self.rates["check_every"] = table.whole("every", 2, least=1)
        return CheckTable(
            checks=checks_of(table.value("checks"), table.at("checks")),
            verifier=self._path(table, "verifier"),
            calibration=self._path(table, "calibration"),
            placement=self._place(table),
        )

    def _foresight(self, plain: object, path: str) -> ForesightTable:
        table = Table(plain, path, (*_THINKS, "imagines", "score", "verifier", "value", "candidates"))
        self.rates["candidates"] = table.whole("candidates", 8, least=2)
        place, score = self._place(table), self._score(table)
        imagines = self._source(table, "imagines", self._world) if "imagines" in table else None
        if score == "value" and imagines is None and not place.remote:
            raise ContractError(table.at("score"), "'value' judges imagined frames: name the model that `imagines`")
        return ForesightTable(
            model=self._model(table, place),
            imagines=imagines,
            score=score,
            verifier=self._path(table, "verifier"),
            value=self._path(table, "value"),
            device=table.text("device", "cpu"),
            placement=place,
        )

    def _semantic(self, plain: object, path: str) -> SemanticTable:
        table = Table(plain, path, (*_THINKS, "prompts", "known", "max_tokens", "every", "done_ends"))
        self.rates["subtask_every"] = table.seconds("every", math.inf) if "every" in table else 0.0
        self.rates["done_ends"] = table.flag("done_ends", False)
        known_tasks = table.value("known") == TASK if "known" in table else True
        place = self._place(table)
        return SemanticTable(
            model=self._model(table, place, world=""),
            device=table.text("device", "cpu"),
            prompts=_prompts(table),
            known=() if known_tasks else table.texts("known"),
            known_tasks=known_tasks,
            max_tokens=table.whole("max_tokens", 48, least=1),
            placement=place,
        )

    def _model(self, table: Table, place: Placement, *, world: str | None = None) -> Source | None:
        """None where a server has the model, and the file does not name it."""
        if place.remote and "model" not in table:
            return None
        return self._source(table, "model", self._world if world is None else world)

    def _score(self, table: Table) -> str | Source:
        score = table.text("score", SCORES[-1])
        if FACTORY.fullmatch(score):
            return self._source(table, "score", "")
        if score not in SCORES:
            raise UnknownNameError(table.at("score"), score, (*SCORES, "module:function"))
        return score

    def _source(self, table: Table, key: str, world: str) -> Source:
        return source_of(table.text(key), folder=self._folder, world=world, path=table.at(key))

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
