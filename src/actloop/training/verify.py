"""Train the two judges of a robot, the verifier and the value, on its own rollouts.

    policies, world --collect--> rollouts --collect_twins--> disturbed ones --+
                                    +-- both: the verifier, the first: the value, --train_on--> two files, a report

The files that ship for the tabletop came from one call, half an hour of one free core, and everything follows from the
seed:

    train_judges(make_world("tabletop"), {name: load_policy(shipped_weights("tabletop")[name]) for name in ARMS},
                 rollouts=FOLDER, out=OUT)
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from actloop.contracts import Embodiment, Policy, Task, World
from actloop.errors import DataError
from actloop.models.judge import Judge, JudgeConfig, Judging
from actloop.models.value import Value, save_value
from actloop.models.verifier import VIEWS, Verifier, numbers_size, save_verifier
from actloop.training.judge_samples import (
    Frames,
    Samples,
    Told,
    told_by,
    value_samples,
    verifier_samples,
)
from actloop.training.judged import value_report, verifier_report
from actloop.training.judges import JudgeRecipe, fit
from actloop.training.moments import FITS, PERTURBED, usual_ticks
from actloop.training.rollouts import Rollout, collect, read_rollouts
from actloop.training.twins import collect_twins

HARD = ("static-hard", "consequence")  # groups of tasks that policies seldom succeed at: rolled out a third as often
SHARES = {"disturbed": 0.35, "perturbed": 0.12, "failure": 0.03}  # of a batch; the rest is executable

ARMS = ("fast", "no-cotrain", "action-conditioned", "joint")  # whose rollouts the shipped judges learned from
VERIFIER = JudgeRecipe(steps=1500, weight_decay=0.1)
VALUE = JudgeRecipe(steps=800, weight_decay=0.1)

Progress = Callable[[str, int, float], None]


def held_out(rollout: Rollout, share: float) -> bool:
    """Whether an episode is for validation: it follows from its number, whatever else there is."""
    return crc32(f"held out {rollout.number}".encode()) % 1000 < 1000 * share


def train_judges(
    world: World,
    policies: Mapping[str, Policy[Any]],
    rollouts: Path,
    out: Path,
    *,
    episodes: int = 1400,
    twins: int = 3,
    seed: int = 0,
    verifier: JudgeRecipe = VERIFIER,
    value: JudgeRecipe = VALUE,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Collect what is missing in the folder `rollouts`, train both on it, write both to `out`.

    Every episode gets up to `twins` disturbed twins. The report that comes back and lies beside the files,
    `report.json`, is on episodes held out, with their twins. `progress` is told "rollouts", "twins", "verifier" or
    "value", how many episodes or steps are done, and the last success or loss.

    Raises:
        DataError: too few rollouts to train on and hold some out.
    """
    collect(
        rollouts,
        world,
        policies,
        turns(world.tasks),
        episodes=episodes,
        seed=seed,
        progress=None if progress is None else partial(_collected, progress, "rollouts"),
    )
    made = read_rollouts(rollouts, limit=episodes)
    disturbed = collect_twins(
        rollouts / "twins",
        world,
        made,
        each=twins,
        seed=seed,
        progress=None if progress is None else partial(_collected, progress, "twins"),
    )
    facts = {"arms": sorted(policies), "seed": seed, "tasks": len(world.tasks)}
    return train_on(
        made,
        world.embodiment,
        out,
        twins=disturbed,
        verifier=verifier,
        value=value,
        facts=facts,
        progress=progress,
    )


def turns(tasks: Mapping[str, Task]) -> list[Task]:
    """The tasks in the order of their turns: all, then twice those that policies often succeed at."""
    return [*tasks.values(), *2 * [task for task in tasks.values() if task.group not in HARD]]


def train_on(
    rollouts: Sequence[Rollout],
    embodiment: Embodiment,
    out: Path,
    *,
    twins: Sequence[Rollout] = (),
    verifier: JudgeRecipe = VERIFIER,
    value: JudgeRecipe = VALUE,
    facts: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train both on rollouts, the verifier on `twins` too; write `verifier.`, `value.safetensors` and `report.json`.

    Raises:
        DataError: rollouts without the robot's cameras, or too few to train on and hold some out.
    """
    check = [rollout for rollout in rollouts if held_out(rollout, verifier.hold_out)]
    train = [rollout for rollout in rollouts if not held_out(rollout, verifier.hold_out)]
    if not any(rollout.success for rollout in train) or not any(rollout.success for rollout in check):
        raise DataError(f"{len(rollouts)} rollouts: too few successes to train on some and hold some out")
    said = {"episodes": len(train), "held_out": len(check), "torch": torch.__version__, **(facts or {})}
    more = [[one for one in twins if held_out(one, verifier.hold_out) == away] for away in (False, True)]
    said |= {"twins": len(more[0]), "held_out_twins": len(more[1])}
    judged, verifier_says = train_verifier(
        [*train, *more[0]], [*check, *more[1]], embodiment, verifier, said, _told(progress, "verifier")
    )
    save_verifier(judged, out / "verifier.safetensors")
    valued, value_says = train_value(train, check, embodiment, value, said, _told(progress, "value"))
    save_value(valued, out / "value.safetensors")
    report = {"facts": said, "verifier": verifier_says, "value": value_says}
    (out / "report.json").write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return report


def train_verifier(
    train: Sequence[Rollout],
    check: Sequence[Rollout],
    embodiment: Embodiment,
    recipe: JudgeRecipe,
    facts: Mapping[str, object],
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Verifier, dict[str, Any]]:
    """A verifier from rollouts, and how well it does on others."""
    told = told_by(train, embodiment, instructions=_instructions(check), imagines=recipe.imagines)
    views = len(VIEWS) if recipe.imagines else len(VIEWS) - 1
    network = _network(told, recipe, views=views, numbers=numbers_size(embodiment, told.horizon))
    frames = Frames.of(train, embodiment, network.config.pixels)
    samples = verifier_samples(train, frames, told, perturbed=2, rng=np.random.default_rng([recipe.seed, 2]))
    losses = fit(network, frames, samples, _verifier_groups(samples), recipe, progress)
    report = verifier_report(network, check, told, np.random.default_rng([recipe.seed, 3]))
    said = {**facts, **_trained(recipe, losses), "report": report}
    return Verifier(_judging(network, told, said), horizon=told.horizon), report


def _verifier_groups(samples: Samples) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Rows, how likely each is, and the share of a batch, by kind.

    Every disturbance has the same share, however rare it is; and every lead within a kind, or the verifier would learn
    that chunks executed for long are the disturbed ones.
    """
    kinds = sorted(set(samples.kind))
    disturbed = [kind for kind in kinds if kind not in (FITS, "failure", *PERTURBED)]
    shares = {FITS: 1 - sum(SHARES.values()), "failure": SHARES["failure"]}
    shares |= {kind: SHARES["perturbed"] / len(PERTURBED) for kind in PERTURBED}
    shares |= {kind: SHARES["disturbed"] / len(disturbed) for kind in disturbed}
    groups = []
    for kind in kinds:
        rows = np.flatnonzero(samples.kind == kind)
        likely = 1.0 / np.bincount(samples.lead[rows])[samples.lead[rows]]
        groups.append((rows, likely / likely.sum(), shares[kind]))
    return groups


def train_value(
    train: Sequence[Rollout],
    check: Sequence[Rollout],
    embodiment: Embodiment,
    recipe: JudgeRecipe,
    facts: Mapping[str, object],
    progress: Callable[[int, float], None] | None = None,
) -> tuple[Value, dict[str, Any]]:
    """A value from rollouts, and how well it does on others."""
    told, usual = told_by(train, embodiment, instructions=_instructions(check), imagines=False), usual_ticks(train)
    network = _network(told, recipe, views=1, numbers=embodiment.state.size)
    frames = Frames.of(train, embodiment, network.config.pixels)
    samples = value_samples(train, frames, told, usual)
    groups = []
    for kind, share in (("seen", 0.75), ("imagined", 0.25)):
        rows = np.flatnonzero(samples.kind == kind)
        groups.append((rows, np.full(len(rows), 1.0 / max(len(rows), 1)), share))
    losses = fit(network, frames, samples, groups, recipe, progress)
    report = value_report(network, check, told, usual)
    said = {**facts, **_trained(recipe, losses), "report": report}
    return Value(_judging(network, told, said)), report


def _instructions(rollouts: Sequence[Rollout]) -> list[str]:
    return [rollout.instruction for rollout in rollouts]


def _network(told: Told, recipe: JudgeRecipe, *, views: int, numbers: int) -> Judge:
    """An untrained judge; the seed and the threads of the recipe are torch's from here on."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    return Judge(
        JudgeConfig(
            cameras=len(told.embodiment.cameras),
            views=views,
            numbers=numbers,
            words=told.vocabulary.size,
            tokens=told.vocabulary.max_tokens,
            pixels=recipe.pixels,
        )
    )


def _trained(recipe: JudgeRecipe, losses: Sequence[float]) -> dict[str, Any]:
    return {"recipe": asdict(recipe), "loss": round(float(np.mean(losses[-50:])), 4)}


def _judging(network: Judge, told: Told, facts: Mapping[str, object]) -> Judging:
    return Judging(
        network=network,
        embodiment=told.embodiment,
        vocabulary=told.vocabulary,
        normalizers=told.normalizers,
        facts=facts,
    )


def _told(progress: Progress | None, name: str) -> Callable[[int, float], None] | None:
    return None if progress is None else lambda step, loss: progress(name, step, loss)


def _collected(progress: Progress, what: str, number: int, rollout: Rollout) -> None:
    progress(what, number, float(rollout.success))
