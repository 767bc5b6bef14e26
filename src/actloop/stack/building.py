"""The modules of a stack's layers, built from plain values: here, in another process, or on a server, by the same code.

plan_of(stack, layer, ...) -> plan (plain, quick to pickle) --build--> Module
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actloop.checks.calibration import Calibration
from actloop.checks.checker import PREFIX, Checker
from actloop.checks.evidence import Check, Evidence
from actloop.contracts import (
    ActionChunk,
    Embodiment,
    Policy,
    SamplingPolicy,
    VisionLanguageModel,
    WorldActionModel,
    embodiment_from_dict,
    embodiment_to_dict,
)
from actloop.errors import CheckpointError, ContractError
from actloop.loop.modules import CheckModule, ChooserModule, OutcomeScore, PolicyModule, SemanticModule
from actloop.loop.questions import Layer, Module
from actloop.stack.checking import CHECKS, FORESIGHT, SAMPLES, SPREAD, VERIFIER
from actloop.stack.declared import ActionTable, CheckTable, ForesightTable, LayerTable, SemanticTable, Stack
from actloop.stack.sources import Source, call, card_of, importable, open_policy, policy_identity
from actloop.stack.tables import named


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What it takes to build the module of one layer, wherever that happens.

    Attributes:
        key: of the table, for errors.
        folder: of the stack file; functions of modules beside it can be imported.
        table: of the layer.
        action: the policy of the action layer, for checks that ask it.
        body: of the world, in its plain form; None where it is not known: a server's.
        instructions: of the world's tasks.
        identity: what a calibration has to have been made for, as far as that is known.
        each: seconds that one candidate of foresight takes, where declared and not timed.
    """

    key: str
    folder: str
    table: LayerTable
    action: Source | None = None
    body: Mapping[str, object] | None = None
    instructions: tuple[str, ...] = ()
    identity: Mapping[str, str] | None = None
    each: float | None = None


def plan_of(
    stack: Stack,
    layer: Layer,
    *,
    embodiment: Embodiment | None = None,
    instructions: Sequence[str] = (),
    identity: Mapping[str, str] | None = None,
    each: float | None = None,
    table: LayerTable | None = None,
) -> Plan:
    """The plan of a layer, or of another `table` in its place."""
    return Plan(
        key=stack.at(layer),
        folder=str(stack.path.parent.absolute()),
        table=table or stack.layers[layer],
        action=stack.action.model,
        body=None if embodiment is None else embodiment_to_dict(embodiment),
        instructions=tuple(instructions),
        identity=identity,
        each=each,
    )


def build(plan: Plan) -> Module:
    """The module of a layer, with its models loaded.

    Raises:
        CheckpointError: weights are missing, damaged, or for another robot.
        ContractError: a model is not what its layer needs, or a calibration was made for something else.
        UnknownNameError: a name in the file means nothing here.
    """
    importable(Path(plan.folder))
    table = plan.table
    if isinstance(table, ActionTable):
        return PolicyModule(_policy(plan, table.model, table.device))
    if isinstance(table, CheckTable):
        return _check_module(plan, table)
    return _chooser(plan, table) if isinstance(table, ForesightTable) else _semantic(plan, table)


def _policy(plan: Plan, source: Source | None, device: str) -> Policy[Any]:
    if source is None:
        raise ContractError(f"{plan.key}.model", "is needed wherever the layer is to run, also on a server")
    policy = open_policy(source, device=device)
    if plan.body is not None:
        _check_body(embodiment_from_dict(plan.body), policy.embodiment, source.path)
    return policy


def _check_body(body: Embodiment, known: Embodiment, path: str) -> None:
    """As the loop does, but before the first episode and with the key of the file."""
    for name in ("action", "state", "control_hz"):
        if getattr(body, name) != getattr(known, name):
            reason = f"was made for {known.name!r}, the world has {body.name!r}, with another {name}"
            raise ContractError(path, reason)
    missing = [camera.name for camera in known.cameras if camera not in body.cameras]
    if missing:
        raise ContractError(path, f"needs the camera {missing[0]!r}, which {body.name!r} does not have alike")


def checker_of(plan: Plan) -> Checker:
    """The checks of a check layer, without a calibration; for their identity.

    Raises:
        CheckpointError, ContractError: as `build`.
    """
    assert isinstance(plan.table, CheckTable)
    importable(Path(plan.folder))
    body = _body(plan)
    with named(f"{plan.key}.checks"):
        return Checker(
            [check for index in range(len(plan.table.checks)) for check in _checks(plan, plan.table, index, body)]
        )


def _check_module(plan: Plan, table: CheckTable) -> CheckModule:
    plain, calibration = checker_of(plan), None
    if table.calibration is not None:
        with named(f"{plan.key}.calibration"):
            calibration = Calibration.load(table.calibration)
            around = {key: text for key, text in calibration.identity.items() if not key.startswith(PREFIX)}
            calibration.require(around | dict(plan.identity or {}) | plain.identity)
    return CheckModule(Checker(plain.checks, calibration), _body(plan))


def _checks(plan: Plan, table: CheckTable, index: int, body: Embodiment) -> list[Check]:
    name, options = table.checks[index]
    if name == VERIFIER:
        return [_judge(plan, VERIFIER, table.verifier)]
    if name == SPREAD:
        count = options.get("count", SAMPLES)
        sample = _sampler(_policy(plan, plan.action, "cpu"), count, f"{plan.key}.checks[{index}]")
        rest = {key: value for key, value in options.items() if key != "count"}
        return [CHECKS[name](sample=sample, sampler=f"{count} of {policy_identity(plan.action)}", **rest)]
    if name == FORESIGHT and "camera" not in options:
        return [CHECKS[name](camera=camera.name, **options) for camera in body.cameras]
    return [CHECKS[name](**options)]


def _sampler(policy: Policy[Any], count: int, path: str) -> Callable[[Evidence], Sequence[ActionChunk]]:
    if not isinstance(policy, SamplingPolicy):
        raise ContractError(path, f"{type(policy).__name__} cannot be asked for several chunks (`SamplingPolicy`)")

    def sample(evidence: Evidence) -> Sequence[ActionChunk]:
        session = policy.start(evidence.instruction, seed=evidence.observation.tick)
        return policy.sample(session, evidence.observation, count=count)[1]

    return sample


def _chooser(plan: Plan, table: ForesightTable) -> ChooserModule:
    policy = _policy(plan, table.model, table.device)
    imagines: WorldActionModel[Any] | None = None
    if table.imagines is not None:
        same = table.model is not None and (table.imagines.target, table.imagines.mode) == (
            table.model.target,
            table.model.mode,
        )
        found = policy if same else _policy(plan, table.imagines, table.device)
        if not isinstance(found, WorldActionModel):
            reason = f"{type(found).__name__} cannot imagine (`WorldActionModel`)"
            raise ContractError(table.imagines.path, reason)
        imagines = found
    return ChooserModule(policy, _score(plan, table), imagines=imagines, each=plan.each)


def _score(plan: Plan, table: ForesightTable) -> OutcomeScore:
    if isinstance(table.score, Source):
        score: OutcomeScore = call(table.score)
        if not callable(score):
            raise ContractError(table.score.path, f"returned {type(score).__name__}, which cannot be called")
        return score
    from actloop.models.value import OutcomeScorer

    parts = {name: _judge(plan, name, getattr(table, name)) for name in table.score.split("+")}
    return OutcomeScorer(**parts).score


def _judge(plan: Plan, kind: str, path: Path | None) -> Any:
    """A verifier or a value, for exactly this body where that is known."""
    from actloop.models.value import load_value
    from actloop.models.verifier import load_verifier

    load: Callable[..., Any] = load_verifier if kind == "verifier" else load_value
    if path is None:
        raise ContractError(f"{plan.key}.{kind}", f"is needed: the file of a {kind} that was trained for this robot")
    try:
        return load(path, embodiment=None if plan.body is None else embodiment_from_dict(plan.body))
    except CheckpointError as error:
        raise CheckpointError(f"{plan.key}.{kind}: {error}") from error


def _semantic(plan: Plan, table: SemanticTable) -> SemanticModule:
    if table.model is None:
        raise ContractError(f"{plan.key}.model", "is needed wherever the layer is to run, also on a server")
    model: object
    if table.model.is_function:
        model = call(table.model)
    else:
        from actloop.models.vlm import open_vlm

        model = open_vlm(table.model.target, device=table.device)
    if not isinstance(model, VisionLanguageModel):
        raise ContractError(table.model.path, f"{type(model).__name__} is no actloop.contracts.VisionLanguageModel")
    known = plan.instructions if table.known_tasks else table.known
    return SemanticModule(model, prompts=table.prompts, known=known, max_tokens=table.max_tokens)


def _body(plan: Plan) -> Embodiment:
    """Of the world; where that is not known, of the policy in the action layer."""
    if plan.body is not None:
        return embodiment_from_dict(plan.body)
    if plan.action is None:
        raise ContractError(f"{plan.key}", "name the model in [action]: it says for which robot the checks are")
    return card_of(plan.action).embodiment
