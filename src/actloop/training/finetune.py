"""Train a policy further on a dataset of one's own; everything that is not in the two is declared in one TOML file.

init     = "policies/libero.safetensors"     a policy of ours; `actloop import fastwam` makes one of released weights
data     = "datasets/kitchen"                a LeRobot v3 dataset
prompts  = "prompts.safetensors"             contexts of its instructions, where the policy reads contexts
variant  = "fast"                            default: the policy's
upright  = true                              recorded frames are upright where the policy's body turns them
committed_max = 4                            train to continue up to 4 given actions; default: as the policy

[fields]                                     which feature is what; cameras under the names of the policy's body
cameras = { front = "observation.images.top", wrist = "observation.images.wrist" }
state   = "observation.state"
action  = "action"

[recipe]                                     any field of `TrainConfig`, and [recipe.lora]
trainable = "lora"

[body]                                       only for another robot: an embodiment, and how its cameras are tiled
[mosaic]
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from actloop.contracts import Embodiment, embodiment_from_dict
from actloop.data.cache import decode
from actloop.data.dataset import LeRobotDataset
from actloop.data.fields import FieldMap
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.models.checkpoint import load_fastwam
from actloop.models.fastwam import FastWAM, FastWAMConfig
from actloop.models.fastwam.weights import for_body
from actloop.models.policy import FastWAMPolicy
from actloop.models.views import Mosaic
from actloop.models.wan import PromptCache, WanCodec
from actloop.training.config import LoraRecipe, TrainConfig, TrainResult, released
from actloop.training.frames import FrameSamples
from actloop.training.loop import Progress
from actloop.training.samples import LatentSamples, Samples
from actloop.training.train import train

Recipe = TypeVar("Recipe", TrainConfig, LoraRecipe)

CODE = ("model", "lora")  # of a recipe: not values of its table
KEYS = (
    "init",
    "data",
    "prompts",
    "variant",
    "upright",
    "committed_max",
    "fields",
    "recipe",
    "body",
    "mosaic",
    "gripper",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneConfig:
    """What the TOML file says; paths are relative to it."""

    init: Path
    data: Path
    prompts: Path | None = None
    variant: str = ""
    upright: bool = False
    committed_max: int | None = None
    fields: FieldMap | None = None
    recipe: Mapping[str, Any]
    body: Embodiment | None = None
    mosaic: Mosaic | None = None
    gripper: str = ""


def read_config(path: str | Path) -> FinetuneConfig:
    """Read a fine-tuning file.

    Raises:
        DataError: no such file, or not TOML.
        UnknownNameError: a key that means nothing.
        ContractError: a key is missing, or a value is not of its form.
    """
    path = Path(path)
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: not readable as TOML ({error})") from error
    _only(plain, KEYS, str(path))
    for needed in ("init", "data"):
        if not isinstance(plain.get(needed), str):
            raise ContractError(f"{path}: {needed}", f"expected a path in quotes, got {plain.get(needed)!r}")
    prompts = plain.get("prompts")
    return FinetuneConfig(
        init=path.parent / plain["init"],
        data=path.parent / plain["data"],
        prompts=None if prompts is None else path.parent / str(prompts),
        variant=str(plain.get("variant", "")),
        upright=_flag(plain, "upright", path),
        committed_max=_count(plain, "committed_max", path),
        fields=_fields(plain.get("fields"), str(path)),
        recipe=dict(plain.get("recipe", {})),
        body=None if "body" not in plain else embodiment_from_dict(plain["body"]),
        mosaic=None if "mosaic" not in plain else Mosaic.from_dict(plain["mosaic"]),
        gripper=str(plain.get("gripper", "")),
    )


def finetune(
    config: FinetuneConfig, *, out: str | Path, name: str, resume: bool = False, progress: Progress | None = None
) -> TrainResult:
    """Train as declared; the result is a policy like the one it started from.

    Raises:
        CheckpointError: `init` or `prompts` cannot be read.
        DataError, ContractError, UnknownNameError: the declaration, the dataset and the policy do not fit together.
    """
    policy = load_fastwam(config.init)
    dataset = LeRobotDataset(config.data, config.fields)
    light = not isinstance(policy.codec, WanCodec)
    _refuse_idle(config, light=light)
    model = policy.model.config
    if config.variant:
        model = replace(model, variant=config.variant)
    if config.committed_max is not None:
        model = replace(model, committed_max=config.committed_max)
    if config.body is not None:
        model = replace(model, action_dim=config.body.action.size, state_dim=config.body.state.size)
    recipe = recipe_of(config.recipe, model, light=light)
    samples = _light_samples(dataset, recipe, policy) if light else _frame_samples(dataset, recipe, policy, config)
    init: FastWAM = policy.model if config.body is None else for_body(policy.model, samples.model_config())
    return train(recipe, data=samples, out=out, name=name, init=init, resume=resume, half=light, progress=progress)


def recipe_of(plain: Mapping[str, Any], model: FastWAMConfig, *, light: bool) -> TrainConfig:
    """The released recipe, or that of the small models, with what the file changes.

    Raises:
        UnknownNameError: no such field.
        ContractError: a value is not of its field's kind.
    """
    base = TrainConfig(model=model) if light else released(model)
    plain = dict(plain)
    lora = _changed(base.lora, plain.pop("lora", {}), "recipe.lora")
    return replace(_changed(base, plain, "recipe"), lora=lora)


def _changed(base: Recipe, plain: Mapping[str, Any], path: str) -> Recipe:
    """A recipe with the values of a table, each of its field's kind; lists become tuples."""
    known = {field.name: type(getattr(base, field.name)) for field in fields(base) if field.name not in CODE}
    _only(plain, known, path)
    changes: dict[str, Any] = {}
    for key, value in plain.items():
        value = tuple(value) if isinstance(value, list) else value
        if not isinstance(value, known[key]) and not (known[key] is float and isinstance(value, int)):
            raise ContractError(f"{path}.{key}", f"expected a {known[key].__name__}, got {value!r}")
        changes[key] = value
    return replace(base, **changes)


def _light_samples(dataset: LeRobotDataset, recipe: TrainConfig, policy: FastWAMPolicy) -> Samples:
    return LatentSamples(decode(dataset, refresh=True), recipe, like=policy)


def _frame_samples(
    dataset: LeRobotDataset, recipe: TrainConfig, policy: FastWAMPolicy, config: FinetuneConfig
) -> Samples:
    same_body = config.body is None
    prompts = policy.text if config.prompts is None else PromptCache.read(config.prompts)
    mosaic = config.mosaic or policy.mosaic
    assert isinstance(prompts, PromptCache)
    assert isinstance(policy.text, PromptCache)
    if prompts.template != policy.text.template:
        raise ContractError("prompts", f"expected the template {policy.text.template!r}, got {prompts.template!r}")
    assert isinstance(policy.codec, WanCodec)
    return FrameSamples(
        dataset,
        recipe,
        codec=policy.codec,
        prompts=prompts,
        mosaic=mosaic,
        recorded=mosaic.upright() if config.upright else mosaic,
        embodiment=config.body or policy.embodiment,
        state=policy.state_normalizer if same_body else None,
        action=policy.action_normalizer if same_body else None,
        gripper=policy.gripper.name if same_body else config.gripper or "as-recorded",
    )


def _fields(plain: object, path: str) -> FieldMap | None:
    if plain is None:
        return None
    if not isinstance(plain, Mapping) or not isinstance(plain.get("cameras"), Mapping):
        raise ContractError(f"{path}: fields", 'expected cameras = { name = "feature" }, and optionally state, action')
    _only(plain, ("cameras", "state", "action"), f"{path}: fields")
    return FieldMap(**plain)


def _refuse_idle(config: FinetuneConfig, *, light: bool) -> None:
    """Every key that is given must do something."""
    given = {name: getattr(config, name) for name in ("prompts", "upright", "body", "mosaic", "gripper")}
    if light:
        for name, value in given.items():
            if value:
                reason = "a small policy is fitted to its robot and words from the start: train it with a preset"
                raise ContractError(name, reason)
    elif config.gripper and config.body is None:
        raise ContractError("gripper", "belongs to a [body]; without one the policy's own convention stays")


def _flag(plain: Mapping[str, Any], key: str, path: Path) -> bool:
    value = plain.get(key, False)
    if not isinstance(value, bool):
        raise ContractError(f"{path}: {key}", f"expected true or false, got {value!r}")
    return value


def _count(plain: Mapping[str, Any], key: str, path: Path) -> int | None:
    value = plain.get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise ContractError(f"{path}: {key}", f"expected a whole number, got {value!r}")
    return value


def _only(plain: Mapping[str, Any], known: Any, path: str) -> None:
    for key in plain:
        if key not in known:
            raise UnknownNameError(path, key, known)
