"""Adaptive execution against fixed chunks, at 190 ms, where things go wrong: calls, success, recovery.

    python benchmarks/adaptive.py --episodes 12 --out runs/adaptive --md docs/results/adaptive.md

Every arm is the same policy. `fixed-N` asks for a new chunk after N executed actions; `adaptive` executes more while
calibrated checks agree, and replans where one raises an alarm. All meet the same tasks, seeds and
faults; one comparison per kind of fault, which `actloop report` shows as a page.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from actloop.checks.detection import detection
from actloop.evaluation import CompareConfig, compare
from actloop.evaluation.cells import ALL
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.identity import code_commit, processor
from actloop.evaluation.progress import ProgressBar
from actloop.evaluation.statistics import compare_paired, wilson
from actloop.loop import read_events
from actloop.report.page import write_page

FIXED = (2, 4, 8, 16)
SOON = 10  # ticks after the onset that count as in time
TASKS = ("pick-red", "pick-blue", "place-left-green", "place-right-blue", "belt-red")
FAULTS = {
    "undisturbed": (),
    "object displaced": ("displace@2-8",),
    "grasp lost": ("slip@grasp",),
    "camera frozen": ("freeze:front@4-12+12", "freeze:wrist@4-12+12"),
}
STACK = """
[world]
name = "tabletop"

[loop]
execute_horizon = {execute}
run_on = {run_on}
agree_below = {agree_below}

[loop.ladder]
rungs = ["replan"]
settle = {settle}
calm = {calm}

[action]
model = "{model}"
latency = 190
"""
CHECK = """
[check]
checks = [{checks}]
verifier = "{verifier}"
every = {every}
latency = {latency}
"""


@dataclass(frozen=True)
class Row:
    """One arm under one kind of fault."""

    arm: str
    episodes: int
    success: Any
    happened: int
    recovered: int
    calls: float
    computed: float
    alarmed: float
    time: float


def stacks(folder: Path, options: argparse.Namespace) -> dict[str, str]:
    """The stack files of all arms."""
    folder.mkdir(parents=True, exist_ok=True)
    verifier = Path(str(files("actloop"))) / "weights" / "tabletop" / "checks" / "verifier.safetensors"
    common = {name: getattr(options, name) for name in ("model", "settle", "calm", "agree_below")}
    texts = {f"fixed-{count}": STACK.format(execute=count, run_on=0, **common) for count in options.fixed}
    texts["adaptive"] = STACK.format(execute=options.execute, run_on=options.run_on, **common) + CHECK.format(
        verifier=verifier,
        checks=", ".join(f'"{name}"' for name in options.checks),
        every=options.every,
        latency=options.check_latency,
    )
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return {name: str(folder / f"{name}.toml") for name in texts}


def rows(comparison: Comparison) -> list[Row]:
    condition = comparison.run.main.name
    found = []
    for arm in comparison.run.arms:
        cell = comparison.cell(arm.name, condition, ALL)
        assert cell is not None
        records = [record for record in comparison.records if record["arm"] == arm.name]
        hit = [
            record
            for record in records
            if any(incident["onset"] is not None for incident in record.get("incidents", ()))
        ]
        found.append(
            Row(
                arm=arm.name,
                episodes=cell.episodes,
                success=cell.success,
                happened=len(hit),
                recovered=sum(record["result"]["outcome"]["success"] for record in hit),
                calls=cell.calls,
                computed=cell.computed,
                alarmed=sum(bool(record["result"]["alarms"]) for record in records) / max(len(records), 1),
                time=cell.time.restricted_mean,
            )
        )
    return found


def table(name: str, found: Sequence[Row]) -> str:
    lines = [
        f"### {name}",
        "",
        "| arm | success (95 %) | recovered, of those hit (95 %) | model calls | time, s | episodes with an alarm |",
        "|---|---|---|---|---|---|",
    ]
    for row in found:
        low, high = 100 * row.success.low, 100 * row.success.high
        recovered = "–"
        if row.happened:
            interval = wilson(row.recovered, row.happened)
            recovered = f"{row.recovered}/{row.happened}, {100 * interval.low:.0f}–{100 * interval.high:.0f} %"
        alarms = f"{100 * row.alarmed:.0f} %" if row.arm == "adaptive" else "–"
        lines.append(
            f"| {row.arm} | {100 * row.success.value:.0f} % ({low:.0f}–{high:.0f}) | {recovered} | {row.calls:.1f} |"
            f" {row.time:.2f} | {alarms} |"
        )
    return "\n".join(lines)


def alarms(name: str, comparison: Comparison, out: Path, alpha: float) -> str:
    """When the checks of the adaptive arm spoke: false alarms where nothing happened, detection where something did."""
    records = [record for record in comparison.records if record["arm"] == "adaptive"]
    onsets = [
        min((one["onset"] for one in record.get("incidents", ()) if one["onset"] is not None), default=None)
        for record in records
    ]
    watched = [
        {
            event["anchor"]: float(any(reading["alarm"] for reading in event["readings"]))
            for event in read_events(out / record["events"])
            if event["event"] == "replied" and event["layer"] == "check"
        }
        for record in records
    ]
    quiet = [
        episode
        for episode, onset, record in zip(watched, onsets, records, strict=True)
        if onset is None and record["result"]["outcome"]["success"]
    ]
    false = detection(quiet, [None] * len(quiet), threshold=0.5).false_alarms
    lines = [
        f"Alarms, {name}: in {false} of the successful episodes without a fault, calibrated for {100 * alpha:g} %."
    ]
    found = detection(watched, onsets, threshold=0.5, within=SOON)
    if found.recall.of:
        lines.append(
            f"Within {SOON} ticks of the fault in {found.recall}, median delay {found.median_delay:.0f} ticks;"
            f" before it in {found.early}."
        )
    return " ".join(lines)


def verdict(comparisons: Sequence[Comparison]) -> str:
    """The adaptive arm against the fixed chunk that succeeded most often over all comparisons."""

    def mean(arm: str, what: str) -> float:
        cells = [comparison.cell(arm, comparison.run.main.name, ALL) for comparison in comparisons]
        values = [cell.success.value if what == "success" else getattr(cell, what) for cell in cells if cell]
        return sum(values) / len(values)

    def time(arm: str) -> float:
        cells = [comparison.cell(arm, comparison.run.main.name, ALL) for comparison in comparisons]
        return sum(cell.time.restricted_mean for cell in cells if cell) / len(cells)

    fixed = [arm.name for arm in comparisons[0].run.arms if arm.name.startswith("fixed")]
    best = max(fixed, key=lambda arm: (mean(arm, "success"), -mean(arm, "calls")))
    pooled: list[dict[str, dict[int, bool]]] = [{}, {}]
    for number, comparison in enumerate(comparisons):
        for record in comparison.records:
            for side, arm in enumerate(("adaptive", best)):
                if record["arm"] == arm:
                    won = bool(record["result"]["outcome"]["success"])
                    pooled[side].setdefault(f"{number}/{record['task']}", {})[record["seed"]] = won
    paired = compare_paired(*pooled)
    saved, quicker = 1 - mean("adaptive", "calls") / mean(best, "calls"), 1 - time("adaptive") / time(best)
    points = 100 * paired.difference.value
    return (
        f"Against the best fixed chunk, `{best}`: {-100 * saved:+.0f} % model calls, {-100 * quicker:+.0f} % time to"
        f" success (restricted mean), {points:+.1f} points of success ({100 * paired.difference.low:+.1f} to"
        f" {100 * paired.difference.high:+.1f}; {paired.pairs} pairs, p = {paired.p_value:.2f}). The published mark"
        " (2605.06222, RoboTwin): 69 % fewer passes, 34 % less time, +2.5 points."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=12, help="of each task, arm and kind of fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    parser.add_argument("--faults", nargs="*", default=tuple(FAULTS), help="kinds to run")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--checks", nargs="*", default=("verifier", "proprioception", "grasp", "frozen-camera"))
    parser.add_argument("--fixed", type=int, nargs="*", default=FIXED, help="actions of the fixed arms")
    parser.add_argument("--execute", type=int, default=4, help="actions that adaptive executes where checks are silent")
    parser.add_argument("--run-on", type=int, default=8, help="actions that adaptive executes while checks agree")
    parser.add_argument("--settle", type=int, default=4, help="ticks that a new chunk gets before another replaces it")
    parser.add_argument("--agree-below", type=float, default=0.0, help="score up to which reality agrees")
    parser.add_argument("--calm", type=int, default=50, help="ticks without an alarm before chunks are run on again")
    parser.add_argument("--every", type=int, default=1, help="ticks between two looks")
    parser.add_argument("--check-latency", type=float, default=20, help="milliseconds that a look is charged")
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--calibration-episodes", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive"))
    parser.add_argument("--md", type=Path)
    options = parser.parse_args()
    arms = stacks(options.out / "stacks", options)
    comparisons, parts = [], []
    for name in options.faults:
        config = CompareConfig(
            out=options.out / name.replace(" ", "-"),
            arms=arms,
            tasks=tuple(options.tasks),
            episodes=options.episodes,
            seed=options.seed,
            latency="190",
            sweep=(),
            baseline=f"fixed-{options.fixed[0]}",
            videos=0,
            workers=options.workers,
            faults=FAULTS[name],
            alpha=options.alpha,
            calibration_episodes=options.calibration_episodes,
        )
        with ProgressBar() as bar:
            comparison = compare(config, bar)
        write_page(config.out)
        comparisons.append(comparison)
        parts.append(table(f"{name}: `{' '.join(FAULTS[name]) or 'nothing'}`", rows(comparison)))
        parts.append(alarms(name, comparison, config.out, options.alpha))
        print(*parts[-2:], sep="\n\n", flush=True)
    disturbed = [item for item, name in zip(comparisons, options.faults, strict=True) if FAULTS[name]]
    parts.append(f"**Where something goes wrong.** {verdict(disturbed)}" if disturbed else "")
    if "undisturbed" in options.faults:
        parts.append(f"**Undisturbed.** {verdict([comparisons[list(options.faults).index('undisturbed')]])}")
    print(*parts[-2:], sep="\n\n")
    if options.md:
        head = f"{processor()}, commit {code_commit() or 'unknown'}, {' '.join(options.tasks)}."
        options.md.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
