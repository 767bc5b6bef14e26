"""The steps that train a `Judge`, and its answers on many samples at once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch.nn import functional

from actloop.errors import ContractError
from actloop.models.judge import Judge
from actloop.models.verifier import IMAGINED, VIEWS
from actloop.training.judge_samples import Frames, Samples

SHIFT = 1  # pixels that a batch is shifted by at most, or the network learns scenes by heart


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeRecipe:
    """How long and how fast; `hold_out` of the episodes are for validation alone."""

    steps: int = 2000
    batch_size: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    hold_out: float = 0.2
    imagines: bool = True
    blind: float = 0.3
    """Share of training samples whose imagined view is taken away."""
    pixels: int = 32
    """A side of the pictures that the network sees."""
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.threads) < 1 or not 0 < self.hold_out < 1:
            raise ContractError("recipe", f"expected steps, batch_size, threads of 1 or more, 0 < hold_out < 1: {self}")


def fit(
    network: Judge,
    frames: Frames,
    samples: Samples,
    groups: Sequence[tuple[np.ndarray, np.ndarray, float]],
    recipe: JudgeRecipe,
    progress: Callable[[int, float], None] | None = None,
) -> list[float]:
    """Minimise the cross-entropy; the loss of every step.

    A batch is drawn from `groups`: rows of the samples, their chances within the group, the group's share.
    """
    rng = np.random.default_rng([recipe.seed, 1])
    torch.manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps + 1, pct_start=0.1
    )
    drawn = [group for group in groups if len(group[0])]
    shares = np.array([share for *_, share in drawn])
    network.train()
    losses = []
    for step in range(recipe.steps):
        counts = rng.multinomial(recipe.batch_size, shares / shares.sum())
        rows = np.concatenate(
            [rng.choice(rows, n, p=chances) for (rows, chances, _), n in zip(drawn, counts, strict=True)]
        )
        views = samples.views[rows].copy()
        if views.shape[1] == len(VIEWS):
            views[rng.random(len(rows)) < recipe.blind, -1] = -1
        shift = (int(rng.integers(-SHIFT, SHIFT + 1)), int(rng.integers(-SHIFT, SHIFT + 1)))
        logit = answer(network, frames, views, samples.numbers[rows], samples.words[rows], shift=shift)
        loss = functional.binary_cross_entropy_with_logits(logit, torch.from_numpy(samples.target[rows]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if progress is not None:
            progress(step + 1, losses[-1])
    network.eval()
    return losses


def answer(
    network: Judge,
    frames: Frames,
    views: np.ndarray,
    numbers: np.ndarray,
    words: np.ndarray,
    *,
    shift: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    """The logits for rows of frames, all of them shifted by so many rows and columns."""
    shown = frames.pixels[np.maximum(views, 0)].swapaxes(1, 2)
    if any(shift):
        shown = np.roll(shown, shift, axis=(3, 4))
    absent = views < 0
    shown[np.broadcast_to(absent[:, None], shown.shape[:3])] = 0
    if views.shape[1] == len(VIEWS):
        numbers = numbers.copy()
        numbers[absent[:, -1], IMAGINED] = 0
    logit: torch.Tensor = network(
        torch.from_numpy(shown),
        torch.from_numpy(numbers),
        torch.from_numpy(words),
        torch.from_numpy(absent.astype(np.float32)),
    )
    return logit


def scores(network: Judge, frames: Frames, samples: Samples, *, blind: bool = False) -> Float[np.ndarray, "samples"]:
    """The network's probabilities, in order; `blind` takes the imagined view away."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(samples), 256):
            part = slice(start, start + 256)
            views = samples.views[part].copy()
            if blind:
                views[:, -1] = -1
            logit = answer(network, frames, views, samples.numbers[part], samples.words[part])
            found.append(torch.sigmoid(logit).numpy())
    return np.concatenate(found)
