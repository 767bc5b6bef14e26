"""`actloop finetune`: a policy, a dataset and a recipe, declared in one file."""

from pathlib import Path

from actloop.cli.trained import bar, keep_finished
from actloop.training.config import TrainResult
from actloop.training.finetune import finetune, read_config

SHOWN_EVERY = 1


def finetune_file(path: Path, out: Path, *, resume: bool) -> TrainResult:
    """Train as the file says, with a progress bar.

    Raises:
        CheckpointError: `out` is there already.
    """
    config = read_config(path)
    keep_finished(out)
    with bar(path.stem) as shown:
        line = shown.add_task("training", total=None, losses="")

        def show(step: int, losses: dict[str, float]) -> None:
            if step % SHOWN_EVERY == 0:
                said = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
                shown.update(line, completed=step, losses=said)

        return finetune(config, out=out, name=path.stem, resume=resume, progress=show)
