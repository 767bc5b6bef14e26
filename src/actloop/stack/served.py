"""One layer of a stack file behind a port, for the robots that name it as `place = "ws://host:port"`."""

from typing import TYPE_CHECKING

from actloop.errors import ActloopError, ContractError, UnknownNameError
from actloop.loop.modules import PolicyModule
from actloop.loop.questions import Layer, Module
from actloop.stack.building import build, plan_of
from actloop.stack.declared import CheckTable, SemanticTable, Stack
from actloop.stack.describing import world_of
from actloop.stack.placing import calibration_identity
from actloop.stack.sources import card_of, policy_identity

if TYPE_CHECKING:
    from actloop.serving.server import Server


def serve_layer(
    stack: Stack, layer: str, *, host: str = "127.0.0.1", port: int = 8000, token: str | None = None
) -> "Server":
    """Load a layer and serve it to one robot at a time, until the server is closed.

    Raises:
        UnknownNameError: the file has no such layer.
        CheckpointError, ContractError: as `build`; or the port cannot be listened on, or needs a token.
        MissingDependency: the packages of a server are not installed.
    """
    from actloop.serving.server import Server
    from actloop.serving.wire import describe

    tables = {str(name): (name, table) for name, table in stack.layers.items()}
    if layer not in tables:
        raise UnknownNameError(str(stack.path), layer, tables)
    name, table = tables[layer]
    module = _module(stack, name)
    body, horizon = None, 0
    if isinstance(module, PolicyModule):
        body, horizon = module.policy.embodiment, module.policy.horizon
    served = describe(layer=name, names=_names(table), embodiment=body, horizon=horizon, digest=_digest(table))
    # One robot at a time: `start` makes a module its own, and two of them would not.
    return Server(lambda: module, served=served, host=host, port=port, token=token, max_clients=1)


def _module(stack: Stack, layer: Layer) -> Module:
    table = stack.layers[layer]
    told = instructions_of(stack) if isinstance(table, SemanticTable) and table.known_tasks else ()
    identity = None
    if isinstance(table, CheckTable) and table.calibration is not None and stack.action.model is not None:
        model = stack.action.model
        body = card_of(model).embodiment
        identity = calibration_identity(stack, body, policy=policy_identity(model), latency="")
        del identity["latency"]  # which clock the robot runs on is not known here
    return build(plan_of(stack, layer, instructions=told, identity=identity))


def instructions_of(stack: Stack) -> tuple[str, ...]:
    """Those of the world's tasks.

    Raises:
        ContractError: the world cannot be made on this machine.
    """
    tasks = stack.world.robot.get("tasks")
    if tasks:
        return tuple(str(task["instruction"]) for task in tasks)
    try:
        world = world_of(stack)
    except ActloopError as error:
        reason = f"'task' asks the world, which cannot be made here ({error}); list the instructions instead"
        raise ContractError(stack.at("semantic.known"), reason) from error
    told = tuple(task.instruction for task in world.tasks.values())
    world.close()
    return told


def _names(table: object) -> list[str]:
    if isinstance(table, CheckTable):
        return [name for name, _ in table.checks]
    model = getattr(table, "model", None)
    return [] if model is None else [model.text]


def _digest(table: object) -> str:
    model = getattr(table, "model", None)
    return "" if model is None else model.digest
