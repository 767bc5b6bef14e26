"""How often Meta-World's scripted experts succeed when they may only speak once per control tick. Physics only.

python benchmarks/metaworld_experts.py --repeats 1 5 8 --seeds 10
"""

import argparse
import os
import time
from collections.abc import Iterable

from actloop.contracts import Task
from actloop.simulation.metaworld import MetaWorld
from actloop.simulation.registry import tasks_of


def play(world: MetaWorld, task: Task, seeds: Iterable[int]) -> tuple[int, list[float]]:
    """Successes, and seconds to success of each."""
    times = []
    for seed in seeds:
        world.reset(task, seed=seed)
        while (ended := world.outcome()) is None:
            world.apply(world.demonstrate())
        if ended.success:
            times.append(ended.time)
    return len(times), sorted(times)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, nargs="+", default=[1, 5, 8], help="raw steps of 12.5 ms in a tick")
    parser.add_argument("--seeds", type=int, default=10, help="episodes per task and repeat")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=[], help="names, skills or groups; all fifty where none is given")
    asked = parser.parse_args()
    worlds = {repeat: MetaWorld(cameras=(), action_repeat=repeat) for repeat in asked.repeats}
    print("| task | group | " + " | ".join(f"{80 / repeat:.4g} Hz" for repeat in worlds) + " |")
    print("|---|---|" + "---|" * len(worlds))
    totals = dict.fromkeys(worlds, 0)
    solved = dict.fromkeys(worlds, 0)
    tasks = tasks_of(worlds[asked.repeats[0]], asked.tasks)
    started = time.process_time()
    for task in tasks:
        cells = []
        for repeat, world in worlds.items():
            successes, times = play(
                world, world.tasks[task.name], range(asked.first_seed, asked.first_seed + asked.seeds)
            )
            totals[repeat] += successes
            solved[repeat] += successes >= 0.8 * asked.seeds
            cells.append(f"{successes}/{asked.seeds}" + (f", {times[len(times) // 2]:.2f} s" if times else ""))
        print(f"| {task.name} | {task.group} | " + " | ".join(cells) + " |", flush=True)
    episodes = len(tasks) * asked.seeds
    print("| all | | " + " | ".join(f"{100 * total / episodes:.1f} %" for total in totals.values()) + " |")
    print("| tasks at 80 % or more | | " + " | ".join(f"{count} of {len(tasks)}" for count in solved.values()) + " |")
    print(f"\n{time.process_time() - started:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
