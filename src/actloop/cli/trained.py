"""`actloop train`: decode the dataset once, train, and show how the loss falls."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actloop.cli.vlm import QUESTIONED_FRAMES, stored
from actloop.data.cache import CachedEpisodes, decode
from actloop.data.dataset import LeRobotDataset
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.vlm import load_vlm
from actloop.presets import PRESETS, SMALL_OPENVLA
from actloop.simulation.registry import make_world
from actloop.training.answers import Accuracy, accuracy_table
from actloop.training.config import TrainConfig
from actloop.training.dreamzero import DreamZeroRecipe, train_small_dreamzero
from actloop.training.openvla import OpenVLARecipe
from actloop.training.plans import recorded_plans
from actloop.training.questions import QuestionStore
from actloop.training.recipe import Recipe
from actloop.training.runs import RT2Recipe, run_openvla, run_rt2
from actloop.training.train import TrainResult, train
from actloop.training.vlm import VLMRecipe, train_vlm

SHOWN_EVERY = 20  # steps between two updates of the losses on the terminal


def train_preset(
    preset: str,
    data: Path,
    out: Path,
    *,
    steps: int | None,
    seed: int,
    resume: bool,
    init: Path | None = None,
    questions: Path | None = None,
    video: Sequence[Path] = (),
) -> TrainResult:
    """Train a preset on a dataset; the tiny vision-language model on questions, recorded where there are none yet.

    `video`: recordings of other bodies, of which a DreamZero learns from the video alone.

    Raises:
        UnknownNameError: no such preset.
        ContractError: `init`, `questions` or `video` where the preset takes none, or lacks what it needs.
        CheckpointError: `out` is there already.
    """
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    recipe = replace(PRESETS[preset](), seed=seed)
    if steps is not None:
        recipe = replace(recipe, steps=steps, validate_every=min(recipe.validate_every, steps))
    _check_taken(preset, recipe, init, questions)
    if video and not isinstance(recipe, DreamZeroRecipe):
        raise ContractError("--video", f"preset {preset!r} learns from no video alone; only DreamZero does")
    keep_finished(out)
    if isinstance(recipe, VLMRecipe):
        store = stored(data, world=preset.partition("-")[0], frames=QUESTIONED_FRAMES, seed=0)
        with progress_of(preset, recipe) as progress:
            return train_vlm(store, out, recipe, name=preset, resume=resume, progress=progress, done=tell_accuracy)
    episodes = decoded(data)
    vlm = None if init is None else load_vlm(init)
    plans = planned(data, preset) if isinstance(recipe, RT2Recipe) and "plan" in recipe.forms else []
    with progress_of(preset, recipe) as progress:
        if isinstance(recipe, OpenVLARecipe):
            return run_openvla(
                recipe, episodes, out, name=preset, sizes=SMALL_OPENVLA, init=vlm, resume=resume, progress=progress
            )
        if isinstance(recipe, RT2Recipe):
            assert vlm is not None
            asked = None if questions is None else QuestionStore(questions)
            return run_rt2(
                recipe, episodes, out, name=preset, init=vlm, questions=asked, plans=plans, resume=resume,
                progress=progress,
            )  # fmt: skip
        if isinstance(recipe, DreamZeroRecipe):
            others = [decoded(one) for one in video]
            return train_small_dreamzero(
                recipe, episodes, out, name=preset, video=others, resume=resume, progress=progress
            )
        assert isinstance(recipe, TrainConfig)
        return train(recipe, data=episodes, out=out, name=preset, resume=resume, progress=progress)


def keep_finished(out: Path) -> None:
    """Raises:
    CheckpointError: `out` is there: a finished run is never overwritten.
    """
    if out.exists():
        raise CheckpointError(f"{out}: is there already, a finished run; name another file, or delete it")


def tell_accuracy(accuracies: Mapping[str, Accuracy]) -> None:
    """How well it answers what it was not trained on, beside the progress."""
    print(accuracy_table(accuracies), file=sys.stderr)


def _check_taken(preset: str, recipe: Recipe, init: Path | None, questions: Path | None) -> None:
    if init is not None and not isinstance(recipe, OpenVLARecipe | RT2Recipe):
        raise ContractError(
            "--init", f"preset {preset!r} starts from nothing; to go on from a policy: actloop finetune"
        )
    if questions is not None and not isinstance(recipe, RT2Recipe):
        raise ContractError("--questions", f"preset {preset!r} is not co-fine-tuned; only RT-2 is")
    if init is None and isinstance(recipe, RT2Recipe):
        raise ContractError(
            "--init", f"preset {preset!r} starts from a vision-language model; `actloop train tabletop-vlm` makes one"
        )


@contextmanager
def progress_of(title: str, recipe: Recipe) -> Iterator[Callable[[int, dict[str, float]], None]]:
    """A bar on the terminal that shows how the losses fall."""
    total = recipe.steps + (recipe.seeing if isinstance(recipe, VLMRecipe) else 0)
    with bar(title) as shown:
        line = shown.add_task("training", total=total, losses="")

        def show(step: int, losses: dict[str, float]) -> None:
            if step % SHOWN_EVERY == 0 or step == total:
                said = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
                shown.update(line, completed=step, losses=said)

        yield show


def decoded(data: Path) -> CachedEpisodes:
    """The dataset as arrays, decoded beside it the first time, and again after it grew."""
    dataset = LeRobotDataset(data)
    with bar("decoding") as shown:
        line = shown.add_task("decoding", total=len(dataset.episodes), losses="", visible=False)
        return decode(
            dataset,
            refresh=True,
            progress=lambda done, total: shown.update(line, completed=done, total=total, visible=True),
        )


def planned(data: Path, preset: str) -> list[str]:
    """What the expert does in every frame of a recording, in words."""
    world = make_world(preset.partition("-")[0])
    with bar("plans") as shown:
        line = shown.add_task("playing the recording again", total=None, losses="")
        try:
            return recorded_plans(
                world, data, progress=lambda done, total: shown.update(line, completed=done, total=total)
            )
        finally:
            world.close()


def summary(result: TrainResult) -> str:
    """Where the checkpoint and its log are, and how good the policy is at what it was trained on."""
    losses = ", ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
    return f"{result.checkpoint}: {result.steps} steps in {result.seconds:.0f} s; validation losses: {losses}"


def bar(title: str) -> Progress:
    """A progress bar on the terminal that shows losses beside the steps."""
    columns = (TextColumn(f"[bold]{title}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_main = os.environ.get("RANK", "0") == "0"  # of several processes, which a launcher numbers, one shows it
    console = Console(stderr=True, quiet=not is_main)
    return Progress(*columns, TextColumn("{task.fields[losses]}"), console=console)
