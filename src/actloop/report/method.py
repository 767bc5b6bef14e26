"""The section on what was measured, on what, and how to repeat it."""

import json
from collections.abc import Mapping
from typing import Any

from actloop.evaluation.comparison import Comparison
from actloop.evaluation.wording import condition_title, place_title
from actloop.report.markup import table, tag, text
from actloop.report.sections import key, number

CLOCKS = {
    "virtual": (
        "Virtual: the world moves on while a model thinks, by the latency charged for that call. "
        "Given the seeds and the profiles an episode repeats exactly."
    ),
    "paused": (
        "Paused, wherever a table says so: the world waits for the model. Nothing is ever late; "
        "no robot works like this."
    ),
}
CONTACT = (
    "All that the robot exerts on one thing by contact, summed, in the physics step in which that is largest, while "
    "nobody helped. Fingers that squeeze an object from both sides cancel out: a grip is not in it. How high an impact "
    "is depends on the simulator's contacts: compare arms in one world with it, not a world with a robot."
)


def method(comparison: Comparison) -> str:
    """How it was measured."""
    run = comparison.run
    seeds = run.seeds
    return _pairs(
        {
            "Question": (
                "Does predicting what will be seen pay nowhere, in training only, or online, at every call?"
                if len(run.arms) > 1
                else "How well does it act here, on time, and when something goes wrong?"
            ),
            "Design": (
                f"Every arm ran the same {len(run.tasks)} tasks from the same initial conditions "
                f"(seeds {seeds[0]} to {seeds[-1]}) under the same {len(run.conditions)} conditions. "
                f"Crashed episodes count as failures. Baseline: {run.baseline}."
            ),
            "Clock": " ".join(CLOCKS[clock] for clock in CLOCKS if clock in {c.clock for c in run.conditions}),
            "Success": (
                "Of the policy alone: an episode in which a person had to help is none. Per task with Wilson's "
                "interval. Over tasks: the mean of the tasks, with Wilson's interval for the independent episodes that "
                "they are worth: one seed may lay out several tasks alike. All intervals are 95 %."
            ),
            "Comparison": (
                "On shared seeds, by a permutation test that swaps the arms seed by seed, with the exact McNemar test "
                "of the pairs beside it, corrected after Holm within each set of tasks. “Measurable” means p below "
                "0.05 after correction, and an interval that leaves out zero."
            ),
            "Late ticks": (
                "Control ticks without a fresh action because the plan was spent before the next answer came; "
                "the robot held. Ticks before the very first answer are counted apart."
            ),
            "Age of view": "Seconds between the capture of an observation and an action that was computed from it.",
            "Computing": (
                "Model calls times the mean time of a call on this machine (one thread, warm-up left out), per second "
                "of robot time. It is the same whichever latency was charged."
            ),
            **({"Contact force": CONTACT} if any(item.force for item in comparison.conduct) else {}),
            **({"Answers": _answers(comparison)} if any(arm.batch > 1 or arm.rowwise for arm in run.arms) else {}),
            "Foresight": (
                "Imagined frames against the camera's, in filmed episodes, also where a newer plan had taken over by "
                "then (PSNR, all cameras). What expecting no change would have scored stands beside it."
            ),
        }
    )


def _answers(comparison: Comparison) -> str:
    """How the arms were asked, where answers in batches were wanted."""
    said = [
        f"{arm.name}: row by row ({arm.rowwise})" if arm.rowwise else f"{arm.name}: {arm.batch} rows at a time"
        for arm in comparison.run.arms
    ]
    return (
        "Computed in batches of one size, whoever else was asked, so that episodes do not depend on each other: "
        f"{'; '.join(said)}."
    )


def identities(comparison: Comparison) -> str:
    """The arms and the latencies they were charged."""
    run = comparison.run
    rows = [
        [
            key(comparison, arm.name),
            text(place_title(arm)),
            text(arm.variant or "–"),
            _count(arm.identity.get("parameters")),
            _count(_steps(arm.identity)),
            str(arm.horizon),
            number(1000 * arm.measured.quantile(0.5), 1) + " / " + number(1000 * arm.measured.quantile(0.95), 1),
            tag("code", text(str(arm.identity.get("digest", "–"))[:16])),
            tag("code", text("/".join(arm.source.split("/")[-2:]))),
        ]
        for arm in run.arms
    ]
    head = ["arm", "prediction", "variant", "parameters", "training steps", "chunk"]
    arms = table([*head, "own ms p50 / p95", "weights", "source"], rows)
    profiles = [
        [
            text(condition_title(condition)),
            text(arm.name),
            text(condition.profiles[arm.name].name),
            number(condition.latency_ms(arm.name), 1),
            text(condition.profiles[arm.name].source),
        ]
        for condition in run.conditions
        for arm in run.arms
    ]
    latencies = table(["condition", "arm", "profile", "ms p50", "source"], profiles)
    return arms + tag("details", tag("summary", "Latencies charged, with their sources"), latencies)


def machine(comparison: Comparison) -> str:
    """Versions, machine, robot and how to repeat the run."""
    run = comparison.run
    said = run.identity
    body = run.embodiment
    cameras = ", ".join(f"{c['name']} {c['width']}×{c['height']} ({c['renderer']})" for c in body["cameras"])
    packages = ", ".join(f"{name} {version}" for name, version in said.get("packages", {}).items())
    listed = _pairs(
        {
            "Robot": f"{body['name']}, {body['control_hz']:g} Hz, cameras {cameras}",
            "Tasks": ", ".join(task.name for task in run.tasks),
            "Machine": f"{said.get('processor', '')}, {said.get('cpus', '')} CPUs, {said.get('system', '')}",
            "Versions": f"Python {said.get('python', '')}, {packages}",
            "Code": said.get("commit") or "not from a checkout",
            "Date": said.get("date", ""),
        }
    )
    settings = tag("pre", text(json.dumps(run.config, indent=1)))
    command = tag("pre", text(said.get("command") or "actloop compare"))
    return (
        listed
        + tag("p", "Run this again; in a fresh folder it repeats the comparison, in its own it continues it:")
        + command
        + tag("details", tag("summary", "All settings"), settings)
    )


def crashes(comparison: Comparison) -> str:
    """Episodes that broke, with what was said; empty where none did."""
    rows = [
        [text(r["arm"]), text(r["condition"]), text(r["task"]), str(r["seed"]), tag("code", text(r["result"]["error"]))]
        for r in comparison.records
        if r["result"]["error"]
    ]
    if not rows:
        return ""
    return tag("h3", "Crashed episodes") + table(["arm", "condition", "task", "seed", "error"], rows)


def _steps(identity: Mapping[str, Any]) -> object:
    training = identity.get("training")
    return identity.get("steps", training.get("steps") if isinstance(training, Mapping) else None)


def _pairs(said: dict[str, Any]) -> str:
    return tag("dl", *(tag("dt", text(name)) + tag("dd", text(value)) for name, value in said.items()))


def _count(value: object) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else "–"
