"""What co-fine-tuning buys an RT-2: questions answered before and after, and tasks done (arXiv 2307.15818).

    python benchmarks/rt2_cofinetuning.py --demonstrations datasets/tabletop --questions runs/questions \
        --vlm runs/vlm.safetensors --out runs/rt2 --md docs/results/rt2.md

The same tiny vision-language model becomes a policy in three ways, on as many robot examples: `scratch` (random
weights, robot alone), `fine-tuned` (from the VLM, robot alone), `co-fine-tuned` (from the VLM, with questions beside
the robot's in every batch). `planning` is the last one after some more steps in which it also learns to plan before it
acts. Measured: held-out questions answered right, by kind; tasks done in closed loop; how often the answer to a robot's
question would have been no action, were it not constrained. What is done already in `--out` is not done again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from actloop.contracts import Embodiment, Observation
from actloop.data.cache import CachedEpisodes, decode
from actloop.data.dataset import LeRobotDataset
from actloop.data.windows import Window
from actloop.errors import ContractError
from actloop.evaluation.identity import code_commit, processor
from actloop.evaluation.statistics import wilson
from actloop.loop import LatencyProfile, LoopConfig, run_episode
from actloop.loop.latency import parse_latency
from actloop.models.backbone import Allowed
from actloop.models.checkpoint import load_policy
from actloop.models.prismatic import PrismaticVLM
from actloop.models.rt2 import RT2Config, RT2Policy
from actloop.models.vlm import load_vlm
from actloop.simulation.registry import make_world
from actloop.training.answers import answer_accuracy, mean_accuracy
from actloop.training.language import ExampleSource
from actloop.training.plans import recorded_plans
from actloop.training.questions import QuestionExamples, QuestionStore
from actloop.training.recipe import Recipe
from actloop.training.rt2 import CoFineTuning, RobotExamples, fresh_policy, train_rt2
from actloop.training.runs import PER_PICTURE

ARMS = ("co-fine-tuned", "fine-tuned", "scratch", "planning")
MORE = 8  # `planning` trains for one part in so many of the steps, at a third of the learning rate
TASKS = tuple(
    f"{skill}-{colour}" for skill in ("pick", "place-left", "place-right") for colour in ("red", "green", "blue")
)
SKILLS = (*TASKS, "open-drawer")
SEED = 5000
FRAMES, FREE_ANSWERS, BATCH = 256, 64, 32


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    store, data = QuestionStore(args.questions), decode(LeRobotDataset(args.demonstrations))
    world = make_world("tabletop")
    plans: list[str] = []
    if "planning" in args.arms:
        plans = _kept(args.out / "plans.json", lambda: recorded_plans(world, args.demonstrations))
    results: dict[str, Any] = {
        "VLM": _kept(args.out / "vlm.json", lambda: {"answers": _answers(load_vlm(args.vlm).backbone, store)})
    }
    for arm in args.arms:
        file = args.out / f"{arm}.safetensors"
        if not file.exists():
            _train(arm, file, args, store, data, plans, world.embodiment)
        results[arm] = _kept(args.out / f"{arm}.json", lambda file=file: _measured(file, args, store, data, plans))
        print(f"{arm}: {_share(results[arm]['done'])} of the tasks", flush=True)
    world.close()
    text = _page(results, args)
    print(text)
    if args.md is not None:
        args.md.write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demonstrations", type=Path, required=True, help="a dataset of `actloop record`")
    parser.add_argument("--questions", type=Path, required=True, help="a store of questions about the same world")
    parser.add_argument("--vlm", type=Path, required=True, help="the vision-language model to start from")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--md", type=Path)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=40)
    parser.add_argument("--learning-rate", type=float, default=1.2e-3)
    parser.add_argument("--robot-share", type=float, default=0.6, help="of the co-fine-tuned one")
    parser.add_argument("--horizon", type=int, default=4)
    parser.add_argument("--mapping", default="rare")
    parser.add_argument("--states", action=argparse.BooleanOptionalAction, default=True, help="said in the prompt")
    parser.add_argument("--episodes", type=int, default=8, help="of each of the 10 tasks")
    parser.add_argument("--latency", default="100ms", help="that every answer is charged")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _kept(path: Path, make: Callable[[], Any]) -> Any:
    """What was made before, or is made and kept now."""
    if not path.exists():
        path.write_text(json.dumps(make(), indent=1), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def _train(
    arm: str, file: Path, args: argparse.Namespace, store: QuestionStore, data: CachedEpisodes, plans: Sequence[str],
    body: Embodiment,
) -> None:  # fmt: skip
    vlm, planning = load_vlm(args.vlm).backbone, arm == "planning"
    if arm == "scratch":
        torch.manual_seed(args.seed)
        vlm = PrismaticVLM(vlm.config, vlm.tokens)
    if planning:
        vlm = _loaded(args.out / f"{ARMS[0]}.safetensors").vlm
    forms = ("act", "plan") if planning else ("act",)
    config = RT2Config(horizon=args.horizon, mapping=args.mapping, forms=forms, states=args.states)
    policy = fresh_policy(vlm, body, config, name=f"rt2-{arm}")
    source: ExampleSource = RobotExamples(policy, data, source=data.source, plans=plans if planning else ())
    batch, steps, rate = round(args.robot_share * args.batch_size), args.steps, args.learning_rate
    if arm in ("co-fine-tuned", "planning"):
        source = CoFineTuning(
            source, QuestionExamples(store, vlm.tokens, per_picture=PER_PICTURE), robot_share=args.robot_share
        )
        batch = args.batch_size
    if planning:
        steps, rate = steps // MORE, rate / 3
    recipe = Recipe(
        steps=steps, batch_size=batch, learning_rate=rate, seed=args.seed, validate_every=max(1, steps // 6)
    )
    begun = time.perf_counter()

    def progress(step: int, losses: dict[str, float]) -> None:
        if step % 50 == 0:
            print(
                f"{arm} {step} {time.perf_counter() - begun:.0f} s {time.process_time():.0f} s cpu {losses}", flush=True
            )

    state = file.with_suffix(".state").exists()
    train_rt2(policy, source, recipe, file, half=True, resume=state, progress=progress)


def _loaded(file: Path) -> RT2Policy:
    policy = load_policy(file)
    assert isinstance(policy, RT2Policy)
    return policy


def _measured(
    file: Path, args: argparse.Namespace, store: QuestionStore, data: CachedEpisodes, plans: Sequence[str]
) -> dict[str, Any]:
    policy = _loaded(file)
    latency = parse_latency(args.latency)
    found = {
        "training": dict(policy.info.training),
        "answers": _answers(policy.vlm, store),
        "invalid": _invalid(policy, data),
        "error": _error(policy, data),
        "done": _done(policy, args.episodes, latency),
    }
    if "plan" in policy.config.forms:
        found["planned"] = _planned(policy, data, plans)
        found["done, planning"] = _done(policy, max(1, args.episodes // 2), latency)
    return found


def _answers(vlm: Any, store: QuestionStore) -> dict[str, Any]:
    accuracy = answer_accuracy(vlm, store, store.held_out())
    return {
        kind: {"exact": one.exact, "majority": one.majority, "count": one.count}
        for kind, one in [*accuracy.items(), ("mean", mean_accuracy(accuracy))]
    }


def _invalid(policy: RT2Policy, data: CachedEpisodes) -> float:
    """Share of robot questions about held-out frames whose most likely free answer is no action."""
    seen = _held_out(policy, data)[:FREE_ANSWERS]
    wrong = 0
    for ids in _answered(policy, seen, None):
        try:
            policy.string.decode(ids)
        except ContractError:
            wrong += 1
    return wrong / len(seen)


def _error(policy: RT2Policy, data: CachedEpisodes) -> dict[str, float]:
    """Mean distance of the first action's motion from the demonstrated one, mm, and of the mean motion from it."""
    seen = _held_out(policy, data)
    told = np.array([one.actions[0, :3] for one in seen])
    said = [policy.string.decode(ids).actions[0, :3] for ids in _answered(policy, seen, policy.string.allowed())]
    apart, spread = (1e3 * np.linalg.norm(told - other, axis=1).mean() for other in (np.array(said), told.mean(0)))
    return {"said": float(apart), "mean": float(spread)}


def _planned(policy: RT2Policy, data: CachedEpisodes, plans: Sequence[str]) -> float:
    """Share of held-out frames whose plan is the expert's step."""
    seen, right = _held_out(policy, data)[:FREE_ANSWERS], 0
    policy.set_mode("plan")
    for window in seen:
        images = {camera: frames[0] for camera, frames in window.images.items()}
        obs = Observation(images=images, state=window.states[0], tick=window.tick, time=0.0)
        session, _ = policy.predict(policy.start(window.instruction, seed=0), obs)
        right += session.plan == plans[data.episodes[window.episode].start + window.tick]
    return right / len(seen)


def _held_out(policy: RT2Policy, data: CachedEpisodes) -> list[Window]:
    windows = RobotExamples(policy, data, source=data.source, plans=[""] * len(data.actions)).held_out
    return [windows[int(index)] for index in np.random.default_rng(SEED).permutation(len(windows))[:FRAMES]]


def _answered(policy: RT2Policy, seen: Sequence[Window], allowed: Allowed | None) -> list[list[int]]:
    images = [policy.pictures({camera: frames[0] for camera, frames in one.images.items()}) for one in seen]
    prompts = [policy.prompt(one.instruction, "act", one.states[0]) for one in seen]
    answers: list[list[int]] = []
    for at in range(0, len(seen), BATCH):
        rows = slice(at, at + BATCH)
        answers += policy.vlm.answer(images[rows], prompts[rows], max_tokens=policy.string.longest, allowed=allowed)
    return answers


def _done(policy: RT2Policy, episodes: int, latency: LatencyProfile) -> dict[str, Any]:
    """Successes by task, and what the answers took on this machine."""
    world, found = make_world("tabletop"), {}
    config = LoopConfig(execute_horizon=max(1, policy.horizon // 2), observe_every=0)
    for task in SKILLS:
        results = [
            run_episode(world, policy, world.tasks[task], seed=SEED + number, latency=latency, config=config)
            for number in range(episodes)
        ]
        found[task] = {"done": sum(one.success for one in results), "of": episodes}
        print(f"  {policy.info.name} {policy.mode} {task}: {found[task]}", flush=True)
    world.close()
    return {"tasks": found, "milliseconds": _milliseconds(policy), "tokens": policy.string.longest}


def _milliseconds(policy: RT2Policy) -> float:
    world = make_world("tabletop")
    obs = world.reset(world.tasks["pick-red"], seed=0)
    session = policy.start("pick up the red block", seed=0)
    spent = []
    for _ in range(12):
        begun = time.process_time()
        policy.predict(session, obs)
        spent.append(time.process_time() - begun)
    world.close()
    return 1e3 * statistics.median(spent[2:])


def _share(done: dict[str, Any]) -> str:
    count = sum(one["done"] for one in done["tasks"].values())
    of = sum(one["of"] for one in done["tasks"].values())
    interval = wilson(count, of)
    return f"{count}/{of}, {count / of:.0%} ({100 * interval.low:.0f}–{100 * interval.high:.0f})"


def _page(results: dict[str, Any], args: argparse.Namespace) -> str:
    arms = [arm for arm in ARMS if arm in results]
    lines = ["# What co-fine-tuning buys a small RT-2", ""]
    lines += [f"{time.strftime('%Y-%m-%d')}, commit {code_commit()}, {processor()}, one thread. Made by", "", "```sh"]
    lines += ["python benchmarks/rt2_cofinetuning.py --demonstrations datasets/tabletop --questions runs/questions \\"]
    lines += [f"    --vlm runs/vlm.safetensors --out runs/rt2 --steps {args.steps}", "```", ""]
    lines += [*_overview(results, arms, args), "", *_kinds(results, arms), "", *_tasks(results, arms)]
    return "\n".join(lines) + "\n"


def _overview(results: dict[str, Any], arms: Sequence[str], args: argparse.Namespace) -> list[str]:
    before = results["VLM"]["answers"]["mean"]["exact"]
    error = results[arms[0]]["error"]["mean"]
    lines = ["| | questions answered right | motion wrong by | tasks done | free answers that are no action |"]
    lines += ["|---|---|---|---|---|", f"| the VLM before | {before:.1%} | ({error:.1f} mm: always the mean) | | |"]
    for arm in arms:
        one = results[arm]
        off, answers = one["error"]["said"], one["answers"]["mean"]["exact"]
        lines += [f"| {arm} | {answers:.1%} | {off:.1f} mm | {_share(one['done'])} | {one['invalid']:.0%} |"]
    if "planned" in results.get("planning", {}):
        one = results["planning"]
        lines += ["", f"`planning`: {one['planned']:.0%} of its plans are the expert's step, in the expert's words;"]
        lines += [f"planning first it does {_share(one['done, planning'])} of the tasks."]
    first = results[arms[0]]["done"]
    lines += [
        "",
        f"Every arm: {args.steps} steps of {round(args.robot_share * args.batch_size)} robot examples, in the",
        f"co-fine-tuned one of {args.batch_size} in all; {args.horizon} actions in an answer "
        f"({first['tokens']} tokens), mapping `{args.mapping}`,",
        f"{'the state in words' if args.states else 'no state'} in the prompt.",
        "Questions: mean of the kinds, held-out episodes. Motion: mean distance of the first action's displacement",
        f"from the demonstrated one, {FRAMES} held-out frames. Tasks: {args.episodes} fresh starts each, every answer",
        f"charged {args.latency} (it takes {first['milliseconds']:.0f} ms of one core here), Wilson's 95 % interval.",
    ]
    return lines


def _kinds(results: dict[str, Any], arms: Sequence[str]) -> list[str]:
    lines = ["| kind of question | majority | VLM | " + " | ".join(arms) + " |", "|---|---|---|" + "---|" * len(arms)]
    for kind, one in results["VLM"]["answers"].items():
        cells = " | ".join(f"{results[arm]['answers'][kind]['exact']:.0%}" for arm in arms)
        lines += [f"| {kind} | {one['majority']:.0%} | {one['exact']:.0%} | {cells} |"]
    return lines


def _tasks(results: dict[str, Any], arms: Sequence[str]) -> list[str]:
    lines = ["| task | " + " | ".join(arms) + " |", "|---|" + "---|" * len(arms)]
    for task in SKILLS:
        cells = [results[arm]["done"]["tasks"][task] for arm in arms]
        lines += [f"| {task} | " + " | ".join(f"{one['done']}/{one['of']}" for one in cells) + " |"]
    return lines


if __name__ == "__main__":
    main()
