"""Whole runs: from recordings to a DreamZero policy, and from a trained one to another robot."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from actloop.data.cache import CachedEpisodes
from actloop.errors import ContractError, DataError
from actloop.models.checkpoint import save_policy
from actloop.models.dreamzero.adapters import save_adapter
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.models.stored import PolicyInfo
from actloop.models.tensors import fingerprint
from actloop.training.config import TrainResult
from actloop.training.dreamzero.batches import ClipBatches
from actloop.training.dreamzero.learner import OBJECTIVE, Learner, adapt, adapter_tensors, finished
from actloop.training.dreamzero.recipe import DreamZeroRecipe, small_robot
from actloop.training.dreamzero.samples import Recording
from actloop.training.dreamzero.starting import Parts, Recorded, begin, go_on, identity, known
from actloop.training.loop import Loop, Progress, accelerator
from actloop.training.state import weights


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOnly:
    """Recordings of which the video alone is learned from; of the declaration, cameras and prompt are used."""

    data: Recorded
    declaration: RobotDeclaration


def train_dreamzero(
    recipe: DreamZeroRecipe,
    data: Recorded,
    out: str | Path,
    *,
    name: str,
    declaration: RobotDeclaration,
    video_only: Sequence[VideoOnly] = (),
    init: DreamZeroPolicy | None = None,
    resume: bool = False,
    half: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a policy and write it to `out`; the log (JSON lines) and the resumable state lie beside it.

    A declaration without statistics gets those of the data or, where `init` is of the same body, keeps that one's.
    `init`: the policy to go on from, which stays as it is; it brings codec and words along, and learns new words.

    Raises:
        DataError: no episodes.
        ContractError: data, declaration, recipe and `init` do not fit each other, or LoRA without `init`.
        CheckpointError: `resume` without a state, or with one of another run.
        MissingDependency: accelerate, or peft for LoRA, is not installed.
    """
    if init is None and recipe.trainable != "all":
        raise ContractError(
            "init", f"trainable={recipe.trainable!r} keeps most weights as they are: which? Give `init`"
        )
    out, begun = Path(out), time.perf_counter()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    recording = Recording(data=data, declaration=known(declaration, data, init), source=identity(data))
    others = [Recording(data=one.data, declaration=one.declaration, source=identity(one.data)) for one in video_only]
    parts = begin(recipe, [recording, *others]) if init is None else go_on(recipe, [recording, *others], init)
    origin = "" if init is None else fingerprint(parts.network.state_dict())
    acting, *silent = [parts.clips(one, recipe, acts=one is recording) for one in (recording, *others)]
    keeps = recipe.trainable == "lora" and recipe.lora.keep
    base = {key: tensor.detach().clone() for key, tensor in parts.network.state_dict().items()} if keeps else {}
    adapt(parts.network, recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    batches = ClipBatches(acting, silent, recipe)
    loop = Loop(
        Learner(parts.network, recipe), batches, recipe, out, accelerator(recipe), origin=origin, objective=OBJECTIVE
    )
    loop.begin(resume=resume)
    losses = loop.run(progress)
    seconds = loop.seconds + time.perf_counter() - begun
    tensors = weights(loop.model)
    if loop.is_main:
        facts = _facts(recipe, recording, others, loop, losses, seconds)
        info = PolicyInfo(name=name, training=facts)
        save_policy(_policy(tensors, parts, recording.declaration, recipe, info, init), out, half=half)
        if keeps and init is not None:
            folder = out.with_suffix(".adapter")
            folder.mkdir(exist_ok=True)
            learned = adapter_tensors(tensors)
            save_adapter(folder, learned, base=base, base_name=init.info.name, alpha=recipe.lora.alpha)
        loop.state.unlink(missing_ok=True)
    loop.accelerator.wait_for_everyone()
    return TrainResult(checkpoint=out, log=loop.log, steps=recipe.steps, seconds=seconds, losses=losses)


def train_small_dreamzero(
    recipe: DreamZeroRecipe,
    data: CachedEpisodes,
    out: str | Path,
    *,
    name: str,
    video: Sequence[CachedEpisodes] = (),
    init: DreamZeroPolicy | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """`train_dreamzero` on datasets that say their body, declared as `small_robot` does; of `video`, the video alone.

    Raises:
        DataError: a dataset declares no embodiment, or has no episodes.
        ContractError, CheckpointError, MissingDependency: as `train_dreamzero`.
    """
    robots = []
    for one in (data, *video):
        if one.embodiment is None:
            raise DataError(f"{one.path}: declares no embodiment, as `actloop record` and `EpisodeWriter` do")
        robots.append(small_robot(one.embodiment))
    others = [VideoOnly(data=one, declaration=robot) for one, robot in zip(video, robots[1:], strict=True)]
    return train_dreamzero(
        recipe,
        data,
        out,
        name=name,
        declaration=robots[0],
        video_only=others,
        init=init,
        resume=resume,
        progress=progress,
    )


def adapt_dreamzero(
    policy: DreamZeroPolicy,
    data: Recorded,
    out: str | Path,
    *,
    name: str,
    declaration: RobotDeclaration,
    recipe: DreamZeroRecipe | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Bring a trained policy to another robot with a few episodes of it: all weights, a short warm-up, a lower rate.

    The declaration gets statistics of these episodes where it has none. Its states and actions must fit into the room
    that the network has (`state_dim`, `action_dim`), its pictures into the codec.

    Raises:
        DataError, ContractError, MissingDependency: as `train_dreamzero`.
    """
    recipe = recipe or few_shot(policy)
    return train_dreamzero(recipe, data, out, name=name, declaration=declaration, init=policy, progress=progress)


def few_shot(policy: DreamZeroPolicy, *, steps: int = 400) -> DreamZeroRecipe:
    """What `adapt_dreamzero` does unless told otherwise."""
    return DreamZeroRecipe(
        sizes=policy.model.config,
        sampler=policy.sampler,
        steps=steps,
        batch_size=16,
        learning_rate=5e-4,
        validate_every=max(1, steps // 4),
        clip_blocks=policy.model.config.window_blocks,
    )


def _policy(
    tensors: Mapping[str, Tensor],
    parts: Parts,
    declaration: RobotDeclaration,
    recipe: DreamZeroRecipe,
    info: PolicyInfo,
    init: DreamZeroPolicy | None,
) -> DreamZeroPolicy:
    """What was trained; what it is told to keep away from, and how it sees, stay those of `init`."""
    return DreamZeroPolicy(
        model=finished(parts.network.config, tensors, recipe),
        codec=parts.codec,
        text=parts.text,
        declaration=declaration,
        info=info,
        sampler=recipe.sampler,
        tower=parts.tower,
        negative=None if init is None else init.negative,
        encoding="stream" if init is None else init.encoding,
        noise="fresh" if init is None else init.noise,
    )


def _facts(
    recipe: DreamZeroRecipe,
    recording: Recording,
    others: Sequence[Recording],
    loop: Loop,
    losses: Mapping[str, float],
    seconds: float,
) -> dict[str, object]:
    """How it was trained, for the checkpoint."""
    facts: dict[str, object] = {"steps": recipe.steps, "seconds": round(seconds, 1), "seed": recipe.seed}
    facts |= {f"validation_{key}": value for key, value in losses.items()}
    facts |= {"episodes": recipe.acting_episodes or len(recording.data.episodes), "data": recording.source}
    facts |= {"video_only": {one.source: len(one.data.episodes) for one in others}, "video_rows": recipe.video_rows}
    facts |= {"batch_size": recipe.batch_size * loop.micro_batches, "learning_rate": recipe.learning_rate}
    facts |= {"flash_share": recipe.flash_share, "trainable": recipe.trainable, "init": loop.origin}
    return facts | {"torch": torch.__version__}
