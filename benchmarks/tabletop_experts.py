"""How often the tabletop's scripted experts succeed, undisturbed and disturbed, and how fast the world runs.

    python benchmarks/tabletop_experts.py --seeds 100
    python benchmarks/tabletop_experts.py --seeds 20 --body arm --skill pick stack

A disturbance comes once, at the first tick at which it applies after a random one in the first half of a usual
episode; episodes that end before it applied are not counted in its column. Rates are per CPU-second of this process.
"""

import argparse
import statistics
import time
from collections import defaultdict

import numpy as np

from actloop.contracts import Task
from actloop.errors import ContractError
from actloop.simulation.tabletop import Tabletop

CONDITIONS = ("none", "displace", "slip", "push")


def episode(world: Tabletop, task: Task, seed: int, disturbance: str, usual: int) -> tuple[bool, int, bool]:
    """Whether the expert succeeded, in how many ticks, and whether the disturbance came."""
    rng = np.random.default_rng(seed)
    after, came = int(rng.integers(2, max(3, usual // 2 + 2))), False
    world.reset(task, seed=seed)
    for tick in range(1000):
        if disturbance != "none" and not came and tick >= after:
            try:
                world.disturb(disturbance, seed=seed)
                came = True
            except ContractError:
                pass  # not applicable yet: nothing is held, or no place is free
        world.apply(world.demonstrate())
        outcome = world.outcome()
        if outcome is not None:
            return outcome.success, tick + 1, came
    raise RuntimeError(f"{task.name} did not end")


def rate(world: Tabletop, task: Task, *, steps: int, rendered: bool) -> float:
    """Control steps per CPU-second along expert episodes."""
    done, seed, start = 0, 0, time.process_time()
    while done < steps:
        world.reset(task, seed=seed)
        seed += 1
        while world.outcome() is None:
            world.apply(world.demonstrate())
            done += 1
            if rendered:
                world.observe()
    return done / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100, help="episodes per skill, body and condition")
    parser.add_argument("--body", nargs="+", default=["gripper", "arm"])
    parser.add_argument("--skill", nargs="*", default=[], help="all when left out")
    parser.add_argument("--failures", action="store_true", help="print task, seed and condition of each failure")
    args = parser.parse_args()
    print(f"{'body':8} {'skill':12} {'ticks (max)':>12} " + " ".join(f"{name:>9}" for name in CONDITIONS))
    for body in args.body:
        world = Tabletop(body=body)
        skills: dict[str, list[Task]] = defaultdict(list)
        for task in world.tasks.values():
            skills[task.skill].append(task)
        for skill, tasks in skills.items():
            if args.skill and skill not in args.skill:
                continue
            cells, lengths = [], [10]
            for condition in CONDITIONS:
                usual = int(statistics.median(lengths))
                runs = []
                for seed in range(args.seeds):
                    task = tasks[seed % len(tasks)]
                    success, ticks, came = episode(world, task, seed, condition, usual)
                    if came or condition == "none":
                        runs.append((success, ticks))
                    if args.failures and not success:
                        print(f"    failed: {body} {task.name} seed {seed} {condition}")
                if condition == "none":
                    lengths = [ticks for _, ticks in runs]
                cells.append(f"{sum(success for success, _ in runs)}/{len(runs)}" if runs else "-")
            span = f"{int(statistics.median(lengths))} ({max(lengths)})"
            print(f"{body:8} {skill:12} {span:>12} " + " ".join(f"{cell:>9}" for cell in cells), flush=True)
    print()
    for body in args.body:
        world = Tabletop(body=body)
        task = world.tasks["place-left-red"]
        plain, drawn = rate(world, task, steps=600, rendered=False), rate(world, task, steps=600, rendered=True)
        print(f"{body:8} control steps per CPU-second: {plain:.0f} without pictures, {drawn:.0f} with both at 64 x 64")


if __name__ == "__main__":
    main()
