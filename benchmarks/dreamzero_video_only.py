"""What video of another robot buys a small DreamZero, and what one denoising step costs it (arXiv 2602.15922).

    actloop record --world tabletop --body arm --episodes 11 --seed 50000 --out datasets/second-body
    python benchmarks/dreamzero_video_only.py --demonstrations datasets/tabletop --video datasets/second-body \
        --out runs/dreamzero --md docs/results/dreamzero.md

Two policies learn to act from the same demonstrations, in the same order, with the same noise for the rows that act:
`without`, and `with` rows of video alone beside them, of a second body whose actions are never read. `flash` is `with`
after a last stage in which the video is near noise and actions are anywhere. All are asked for the same tasks from the
same starts, every answer charged alike; `with` and `flash` in 1, 4 and 16 steps. `with` also at the time that its own
answers take, at none, and, asked once a block, with memory that slides against memory that is encoded anew. What is
done already in `--out` is not done again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from actloop.contracts import Task, World
from actloop.data.cache import decode
from actloop.data.dataset import LeRobotDataset
from actloop.evaluation.identity import code_commit, processor
from actloop.evaluation.statistics import compare_paired, wilson
from actloop.loop import LoopConfig, run_episode
from actloop.loop.latency import LatencyProfile, parse_latency
from actloop.models.checkpoint import load_policy
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.simulation.registry import make_world
from actloop.training.dreamzero import DreamZeroRecipe, train_small_dreamzero

ARMS = ("with", "without", "flash")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A policy, how it samples and remembers, what an answer is charged, and how much of a chunk is executed."""

    arm: str
    mode: str
    latency: str = "50ms"
    execute: int = 4

    @property
    def name(self) -> str:
        """Of a row; what is not said is as usual."""
        parts = [self.arm, self.mode.replace("-step", " step").replace("+", ", ")]
        parts += [self.latency] if self.latency != "50ms" else []
        return ", ".join(parts + ([f"all {self.execute} executed"] if self.execute != 4 else []))

    @property
    def file(self) -> str:
        return f"{self.arm}.{self.mode}.{self.latency}.{self.execute}.json"


CONDITIONS = (
    Asked(arm="with", mode="4-steps"),
    Asked(arm="without", mode="4-steps"),
    Asked(arm="with", mode="1-step"),
    Asked(arm="with", mode="16-steps"),
    *(Asked(arm="flash", mode=mode) for mode in ("1-step", "4-steps", "16-steps")),
    Asked(arm="with", mode="4-steps", latency="measured"),
    Asked(arm="with", mode="4-steps", latency="0ms"),
    Asked(arm="with", mode="4-steps+kept-anchor", latency="0ms", execute=8),
    Asked(arm="with", mode="4-steps+moved-anchor", latency="0ms", execute=8),
)
TASKS = (
    *(f"{skill}-{colour}" for skill in ("pick", "place-left", "place-right") for colour in ("red", "green", "blue")),
    "open-drawer",
)
SEED = 7000
FLASH_PART = 4  # `flash` trains for one part in so many of the steps, at a third of the learning rate


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for arm in args.arms:
        file = args.out / f"{arm}.safetensors"
        if not file.exists():
            _train(arm, file, args)
    results: dict[str, Any] = {}
    for asked in CONDITIONS:
        if asked.arm in args.arms:
            results[asked.name] = _kept(args.out / asked.file, lambda asked=asked: _measured(asked, args))
            print(f"{asked.name}: {_share(results[asked.name])}", flush=True)
    text = _page(results, args)
    print(text)
    if args.md is not None:
        args.md.write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demonstrations", type=Path, required=True, help="a dataset of `actloop record`")
    parser.add_argument("--video", type=Path, required=True, help="one of another body of the same world")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--md", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--acting", type=int, default=0, help="demonstrations to learn to act from; 0: all")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--video-rows", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS))
    parser.add_argument("--episodes", type=int, default=6, help="of each task")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was made before, or is made and kept now."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def _train(arm: str, file: Path, args: argparse.Namespace) -> None:
    data, other = (decode(LeRobotDataset(path)) for path in (args.demonstrations, args.video))
    flash = arm == "flash"
    steps = args.steps // FLASH_PART if flash else args.steps
    recipe = DreamZeroRecipe(
        steps=steps,
        batch_size=args.batch_size,
        video_rows=0 if arm == "without" else args.video_rows,
        acting_episodes=args.acting,
        learning_rate=args.learning_rate / 3 if flash else args.learning_rate,
        flash_share=1.0 if flash else 0.0,
        validate_every=max(1, steps // 4),
        seed=args.seed,
    )
    init = load_policy(args.out / "with.safetensors") if flash else None
    assert init is None or isinstance(init, DreamZeroPolicy)
    # Codec and words are those of both bodies in every arm: what differs is which rows are learned from.
    begun = time.perf_counter()

    def progress(step: int, losses: dict[str, float]) -> None:
        if step % 50 == 0:
            spent = f"{time.perf_counter() - begun:.0f} s, {time.process_time():.0f} s cpu"
            print(f"{arm} {step} {spent} {losses}", flush=True)

    train_small_dreamzero(
        recipe,
        data,
        file,
        name=f"dreamzero-{arm}",
        video=[other],
        init=init,
        resume=file.with_suffix(".state").exists(),
        progress=progress,
    )


def _measured(asked: Asked, args: argparse.Namespace) -> dict[str, Any]:
    """Successes by task and seed, and what an answer takes on this machine."""
    policy = load_policy(args.out / f"{asked.arm}.safetensors", mode=asked.mode)
    assert isinstance(policy, DreamZeroPolicy)
    world, done = make_world("tabletop"), {}
    milliseconds = _milliseconds(policy, world, world.tasks[args.tasks[0]])
    own = asked.latency == "measured"
    latency = LatencyProfile.constant(milliseconds) if own else parse_latency(asked.latency)
    config = LoopConfig(execute_horizon=asked.execute, observe_every=0)
    for task in args.tasks:
        seeds = range(SEED, SEED + args.episodes)
        runs = {
            seed: run_episode(world, policy, world.tasks[task], seed=seed, latency=latency, config=config)
            for seed in seeds
        }
        done[task] = {str(seed): run.success for seed, run in runs.items()}
    world.close()
    return {"done": done, "milliseconds": milliseconds, "training": dict(policy.info.training)}


def _milliseconds(policy: DreamZeroPolicy, world: World, task: Task) -> float:
    """Of this processor, that an answer takes in the middle of an episode; median."""
    session, spent = policy.start(task.instruction, seed=0), []
    obs = world.reset(task, seed=0)
    for number in range(16):
        begun = time.process_time()
        session, _ = policy.predict(session, replace(obs, tick=4 * number))
        spent.append(time.process_time() - begun)
    return 1e3 * statistics.median(spent[4:])


def _successes(result: dict[str, Any]) -> dict[str, dict[int, bool]]:
    return {task: {int(seed): won for seed, won in seeds.items()} for task, seeds in result["done"].items()}


def _share(result: dict[str, Any]) -> str:
    won = [one for seeds in result["done"].values() for one in seeds.values()]
    interval = wilson(sum(won), len(won))
    return f"{sum(won)}/{len(won)}, {sum(won) / len(won):.0%} ({100 * interval.low:.0f}–{100 * interval.high:.0f})"


def _paired(results: dict[str, Any], one: str, two: str) -> str:
    """A sentence on two arms that had the same starts."""
    found = compare_paired(_successes(results[one]), _successes(results[two]))
    points = [100 * value for value in (found.difference.value, found.difference.low, found.difference.high)]
    return (
        f"`{one}` against `{two}`: {points[0]:+.0f} points ({points[1]:+.0f} to {points[2]:+.0f}), "
        f"{found.pairs} pairs, {found.only_first} by the first alone, {found.only_second} by the second alone, "
        f"p = {found.p_value:.2f}"
    )


def _page(results: dict[str, Any], args: argparse.Namespace) -> str:
    lines = ["# A small DreamZero: video of another robot, and one step", ""]
    lines += [f"{time.strftime('%Y-%m-%d')}, commit {code_commit()}, {processor()}, one thread. Made by", "", "```sh"]
    lines += ["actloop record --world tabletop --body arm --episodes 11 --seed 50000 --out datasets/second-body"]
    lines += ["python benchmarks/dreamzero_video_only.py --demonstrations datasets/tabletop \\"]
    lines += [f"    --video datasets/second-body --out runs/dreamzero --steps {args.steps} --acting {args.acting}"]
    lines += ["```", "", *_overview(results, args), "", *_comparisons(results), "", *_tasks(results)]
    return "\n".join(lines) + "\n"


def _overview(results: dict[str, Any], args: argparse.Namespace) -> list[str]:
    lines = ["| policy | tasks done | ms an answer | validation loss, action / video | training, min |"]
    lines += ["|---|---|---|---|---|"]
    for name, one in results.items():
        told = one["training"]
        losses = f"{told['validation_action']:.3f} / {told['validation_video']:.3f}"
        minutes = told["seconds"] / 60
        lines += [f"| {name} | {_share(one)} | {one['milliseconds']:.0f} | {losses} | {minutes:.0f} |"]
    acting = f"{args.acting} demonstrations" if args.acting else "all demonstrations but those held out"
    return [
        *lines,
        "",
        f"Both learn to act from {acting}, {args.steps} steps of {args.batch_size} clips; `with` has "
        f"{args.video_rows} clips of video alone",
        f"beside them, of the second body. Tasks: {args.episodes} fresh starts each, every answer charged 50 ms,",
        "4 of 8 actions executed, unless said otherwise; `measured`: charged the time of its own answers. Wilson's",
        "95 % interval. Times are of a shared core.",
    ]


def _comparisons(results: dict[str, Any]) -> list[str]:
    pairs = [
        ("with, 4 steps", "without, 4 steps"),
        ("with, 1 step", "with, 4 steps"),
        ("flash, 1 step", "with, 1 step"),
        ("flash, 1 step", "flash, 4 steps"),
        ("flash, 4 steps", "flash, 16 steps"),
        ("with, 4 steps", "with, 16 steps"),
        ("with, 4 steps, measured", "with, 4 steps, 0ms"),
        (
            "with, 4 steps, kept-anchor, 0ms, all 8 executed",
            "with, 4 steps, moved-anchor, 0ms, all 8 executed",
        ),
    ]
    return [f"- {_paired(results, *pair)}" for pair in pairs if all(name in results for name in pair)]


def _tasks(results: dict[str, Any]) -> list[str]:
    names: Sequence[str] = list(results)
    lines = ["| task | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for task in next(iter(results.values()))["done"]:
        cells = [list(results[name]["done"][task].values()) for name in names]
        lines += [f"| {task} | " + " | ".join(f"{sum(won)}/{len(won)}" for won in cells) + " |"]
    return lines


if __name__ == "__main__":
    main()
