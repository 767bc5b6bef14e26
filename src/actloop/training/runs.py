"""Whole runs of policies that write or read their actions through a language model, from a recipe and what it needs.

questions --VLMRecipe (vlm.py)--> VLM --init--.
demonstrations ---------------------------------+--> RT2Recipe | OpenVLARecipe --> one policy file
questions, where RT-2 is co-fine-tuned --------'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actloop.contracts import Embodiment
from actloop.data.cache import CachedEpisodes
from actloop.errors import ContractError, DataError
from actloop.models.openvla.prompts import question
from actloop.models.prismatic import PrismaticVLM
from actloop.models.rt2 import RT2Config
from actloop.models.vlm import VLM
from actloop.training import openvla, rt2
from actloop.training.config import TrainResult
from actloop.training.language import ExampleSource
from actloop.training.loop import Progress
from actloop.training.openvla import OpenVLARecipe
from actloop.training.questions import QuestionExamples, QuestionStore
from actloop.training.recipe import Recipe
from actloop.training.vlm import TinySizes, tiny_network

PER_PICTURE = 4  # questions about the same frame, beside the robot's


@dataclass(frozen=True, slots=True, kw_only=True)
class RT2Recipe(Recipe):
    """One training run of RT-2.

    `batch_size` counts robot examples and questions; of a batch without questions, `robot_share` of it is drawn, so
    that the robot is learned from as many examples with them as without. The others: see `RT2Config`; with the form
    `plan` among `forms`, half of the robot examples of a policy that knows both are planned.
    """

    horizon: int = 2
    mapping: str = "rare"
    states: bool = True
    forms: tuple[str, ...] = ("act",)
    robot_share: float = 0.6

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if not 0 < self.robot_share <= 1:
            raise ContractError("robot_share", f"expected more than 0 and at most 1, got {self.robot_share}")


def run_openvla(
    recipe: OpenVLARecipe,
    data: CachedEpisodes,
    out: str | Path,
    *,
    name: str,
    sizes: TinySizes,
    init: VLM[PrismaticVLM] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train an OpenVLA on demonstrations, from a vision-language model or, without one, a network of `sizes`.

    Raises:
        DataError: the dataset declares no embodiment.
        ContractError, CheckpointError, MissingDependency: as `train_openvla`.
    """
    body = _body(data)
    torch.manual_seed(recipe.seed)
    if init is None:
        texts = sorted({question(episode.instruction) for episode in data.episodes})
        network = tiny_network(texts, sizes, image_size=_side(body))
    else:
        network = init.backbone
    policy = openvla.fresh_policy(network, data, recipe, embodiment=body, unnorm_key=body.name)
    return openvla.train_openvla(
        policy, data, recipe, out=out, name=name, source=data.source, resume=resume, progress=progress
    )


def run_rt2(
    recipe: RT2Recipe,
    data: CachedEpisodes,
    out: str | Path,
    *,
    name: str,
    init: VLM[PrismaticVLM],
    questions: QuestionStore | None = None,
    plans: Sequence[str] = (),
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Fine-tune a vision-language model into an RT-2 or, with questions, co-fine-tune it.

    `plans`: what comes next in every frame of the dataset, in words (`recorded_plans`); the form `plan` needs them.

    Raises:
        DataError: the dataset declares no embodiment.
        ContractError, CheckpointError, MissingDependency: as `train_rt2`.
    """
    config = RT2Config(horizon=recipe.horizon, mapping=recipe.mapping, states=recipe.states, forms=recipe.forms)
    policy = rt2.fresh_policy(init.backbone, _body(data), config, name=name)
    source: ExampleSource = rt2.RobotExamples(policy, data, source=data.source, plans=plans)
    changed: Mapping[str, int] = {"batch_size": max(1, round(recipe.robot_share * recipe.batch_size))}
    if questions is not None:
        asked = QuestionExamples(questions, init.backbone.tokens, per_picture=PER_PICTURE)
        source, changed = rt2.CoFineTuning(source, asked, robot_share=recipe.robot_share), {}
    plain = {field: getattr(recipe, field) for field in Recipe.__dataclass_fields__}
    return rt2.train_rt2(
        policy, source, Recipe(**{**plain, **changed}), out, half=True, resume=resume, progress=progress
    )


def _body(data: CachedEpisodes) -> Embodiment:
    if data.embodiment is None:
        raise DataError(f"{data.path}: declares no embodiment, as `actloop record` and `EpisodeWriter` do")
    return data.embodiment


def _side(body: Embodiment) -> int:
    """Of the square pictures of all cameras, pixels."""
    sides = {side for camera in body.cameras for side in (camera.height, camera.width)}
    if len(sides) != 1:
        raise ContractError(f"{body.name}: cameras", f"expected square pictures of one size, got sides {sorted(sides)}")
    return sides.pop()
