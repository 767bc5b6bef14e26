"""Markdown tables of finished comparisons: `python benchmarks/skill_table.py [--tasks] RUN_FOLDER ...`.

Joins the episodes of several run folders that share their arms, and prints one table per latency condition, by skill
or with `--tasks` by task: successes with Wilson's 95 % interval, median seconds to success, and what the clock saw.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from actloop.evaluation.run import read_episodes, read_run
from actloop.evaluation.statistics import wilson

Rows = list[dict[str, Any]]


def main(folders: Iterable[str], *, by_task: bool) -> None:
    episodes: dict[str, Rows] = defaultdict(list)
    skills: dict[str, str] = {}
    arms: list[str] = []
    for folder in map(Path, folders):
        run = read_run(folder)
        skills |= {task.name: task.name if by_task else task.skill or task.name for task in run.tasks}
        arms = arms or [arm.name for arm in run.arms]
        for row in read_episodes(folder):
            episodes[row["condition"]].append(row)
    for condition, rows in episodes.items():
        print(f"\n### {condition}\n")
        _success(rows, skills, arms)
        print()
        _timing(rows, arms)


def _success(rows: Rows, skills: dict[str, str], arms: list[str]) -> None:
    print("| skill | " + " | ".join(arms) + " |")
    print("|---|" + "---|" * len(arms))
    for skill in dict.fromkeys(skills[row["task"]] for row in rows):
        cells = []
        for arm in arms:
            wins = [r["result"]["outcome"]["success"] for r in rows if r["arm"] == arm and skills[r["task"]] == skill]
            cells.append(_share(sum(wins), len(wins)))
        print(f"| {skill} | " + " | ".join(cells) + " |")


def _share(wins: int, of: int) -> str:
    interval = wilson(wins, of)
    return f"{wins}/{of}, {100 * wins / of:.0f} % ({100 * interval.low:.0f}–{100 * interval.high:.0f})"


def _timing(rows: Rows, arms: list[str]) -> None:
    print("| arm | time to success s | latency ms p50 / p95 / p99 | late ticks | age of view ms p50 / p95 | calls |")
    print("|---|---|---|---|---|---|")
    for arm in arms:
        results = [row["result"] for row in rows if row["arm"] == arm]
        times = [r["outcome"]["time"] for r in results if r["outcome"]["success"]]
        latency = 1000 * np.percentile([x for r in results for x in r["latencies"]] or [np.nan], [50, 95, 99])
        age = 1000 * np.percentile([x for r in results for x in r["ages"]] or [np.nan], [50, 95])
        late, calls = (np.mean([r[key] for r in results]) for key in ("held_late", "calls"))
        print(
            f"| {arm} | {f'{np.median(times):.1f}' if times else '–'} | "
            f"{latency[0]:.0f} / {latency[1]:.0f} / {latency[2]:.0f} | {late:.1f} | "
            f"{age[0]:.0f} / {age[1]:.0f} | {calls:.1f} |"
        )


if __name__ == "__main__":
    main([a for a in sys.argv[1:] if a != "--tasks"], by_task="--tasks" in sys.argv)
