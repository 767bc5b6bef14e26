"""How often the scripted arms solve the pick-and-place tasks of LIBERO and SIMPLER, from their fixed initial states.

python benchmarks/arm_experts.py libero --assets FOLDER --tasks libero_spatial libero_goal --seeds 3
python benchmarks/arm_experts.py simpler --assets FOLDER --seeds 24
"""

import argparse
import os
import time
from typing import Protocol, cast

from actloop.contracts import Demonstrator, Task, World
from actloop.simulation.registry import make_world, tasks_of


class ArmWorld(World, Demonstrator, Protocol):
    """A world with a scripted arm; LIBERO also says which tasks it is for, by `has_expert`."""


def play(world: ArmWorld, task: Task, seed: int) -> tuple[bool, float, int]:
    """Success, the time it came (or the limit), and ticks played."""
    world.reset(task, seed=seed)
    while (ended := world.outcome()) is None:
        world.apply(world.demonstrate())
    return ended.success, ended.time, round(ended.time * world.embodiment.control_hz)


def row(world: ArmWorld, task: Task, seeds: int) -> tuple[str, int, int]:
    """One line of the table, successes, and ticks played."""
    if not getattr(world, "has_expert", lambda _: True)(task):
        return f"| {task.name} | {task.instruction} | not scripted |", 0, 0
    played = [play(world, task, seed) for seed in range(seeds)]
    times = sorted(seconds for success, seconds, _ in played if success)
    cell = f"{len(times)}/{seeds}" + (f", {times[len(times) // 2]:.1f} s" if times else "")
    return f"| {task.name} | {task.instruction} | {cell} |", len(times), sum(ticks for *_, ticks in played)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=("libero", "simpler"))
    parser.add_argument("--assets", default=None, help="the folder of the world's meshes and textures")
    parser.add_argument("--tasks", nargs="+", default=[], help="names or suites; all where not given")
    parser.add_argument("--seeds", type=int, default=3, help="initial states of each, from the first")
    asked = parser.parse_args()
    blind = {"image_size": 0} if asked.world == "libero" else {}  # SIMPLER's tasks are drawn in any case
    world = cast(ArmWorld, make_world(asked.world, assets=asked.assets, **blind))
    print("| task | instruction | successes, median time |\n|---|---|---|")
    successes = episodes = ticks = 0
    started = time.process_time()
    for task in tasks_of(world, asked.tasks):
        line, solved, played = row(world, task, asked.seeds)
        successes, ticks, episodes = successes + solved, ticks + played, episodes + asked.seeds * (played > 0)
        print(line, flush=True)
    spent = time.process_time() - started
    print(f"| all that are scripted | | {successes}/{episodes} |")
    world.close()
    print(f"\n{ticks} ticks in {spent:.0f} CPU-seconds, scenes built meanwhile included")


if __name__ == "__main__":
    main()
