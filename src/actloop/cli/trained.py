"""`actloop train`: decode the dataset once, train, and show how the loss falls."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actloop.data.cache import CachedEpisodes, decode
from actloop.data.dataset import LeRobotDataset
from actloop.errors import UnknownNameError
from actloop.presets import PRESETS
from actloop.training.train import TrainResult, train

SHOWN_EVERY = 20  # steps between two updates of the losses on the terminal


def train_preset(preset: str, data: Path, out: Path, *, steps: int | None, seed: int, resume: bool) -> TrainResult:
    """Train a preset on a dataset.

    Raises:
        UnknownNameError: no such preset.
    """
    if preset not in PRESETS:
        raise UnknownNameError("preset", preset, PRESETS)
    config = replace(PRESETS[preset](), seed=seed)
    if steps is not None:
        config = replace(config, steps=steps)
    episodes = decoded(data)
    with _bar(preset) as bar:
        line = bar.add_task("training", total=config.steps, losses="")

        def show(step: int, losses: dict[str, float]) -> None:
            if step % SHOWN_EVERY == 0 or step == config.steps:
                said = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
                bar.update(line, completed=step, losses=said)

        return train(config, data=episodes, out=out, name=preset, resume=resume, progress=show)


def decoded(data: Path) -> CachedEpisodes:
    """The dataset as arrays, decoded beside it the first time, and again after it grew."""
    dataset, folder = LeRobotDataset(data), data.with_name(data.name + ".decoded")
    with _bar("decoding") as bar:
        line = bar.add_task("decoding", total=len(dataset.episodes), losses="", visible=False)
        return decode(
            dataset,
            folder,
            refresh=True,
            progress=lambda done, total: bar.update(line, completed=done, total=total, visible=True),
        )


def summary(result: TrainResult) -> str:
    """Where the checkpoint and its log are, and how good the policy is at what it was trained on."""
    losses = ", ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
    return f"{result.checkpoint}: {result.steps} steps in {result.seconds:.0f} s; validation losses: {losses}"


def _bar(title: str) -> Progress:
    columns = (TextColumn(f"[bold]{title}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[losses]}"), console=Console(stderr=True))
