"""Whole configurations, as functions: what `actloop train PRESET` trains and what `actloop demo` compares."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path

from actloop.evaluation.config import CompareConfig
from actloop.models.fastwam import VARIANTS, FastWAMConfig
from actloop.models.openvla.network import Head
from actloop.stack.sources import shipped_files
from actloop.training.dreamzero import DreamZeroRecipe
from actloop.training.openvla import OpenVLARecipe
from actloop.training.recipe import Recipe
from actloop.training.runs import RT2Recipe
from actloop.training.train import TrainConfig
from actloop.training.vlm import TinySizes, VLMRecipe

DEMO_TASKS = ("pick-red", "place-left-green", "place-right-blue", "open-drawer", "belt-red", "belt-blue")
DEMO_ARMS = ("no-cotrain", "fast", "joint", "idm")
EXECUTE_HORIZON = 4


def small(variant: str, *, steps: int) -> TrainConfig:
    """A Fast-WAM of 1.4 M parameters for 64-pixel cameras, trained alike for every variant."""
    return TrainConfig(model=FastWAMConfig(variant=variant), steps=steps)


STEPS = {"tabletop": 3000, "metaworld": 1200}  # a tenth of the demonstrations, less than half of the steps

SMALL_OPENVLA = TinySizes()  # of a network from nothing


def small_openvla(head: Head) -> OpenVLARecipe:
    """An OpenVLA of 1.4 M parameters: four actions as tokens, the state in words; or eight by OFT's regression."""
    if head == "tokens":
        return OpenVLARecipe(horizon=4, template="v1-state", steps=1800, batch_size=32, learning_rate=1.2e-3)
    return OpenVLARecipe(head=head, horizon=8, proprio=True, steps=2500, batch_size=32, learning_rate=1e-3)


def small_rt2() -> RT2Recipe:
    """An RT-2 out of the tiny vision-language model: four actions in an answer, the state in words."""
    return RT2Recipe(steps=1600, batch_size=40, learning_rate=1e-3, horizon=4, validate_every=400)


def planning_rt2() -> RT2Recipe:
    """The same, that also learns to say what comes next before it acts."""
    return replace(small_rt2(), forms=("act", "plan"))


def small_dreamzero() -> DreamZeroRecipe:
    """A DreamZero of 0.9 M parameters; with video of another body, four rows of it beside twenty that act."""
    return DreamZeroRecipe(steps=3000, batch_size=20, video_rows=4, learning_rate=1.5e-3, validate_every=750)


PRESETS: Mapping[str, Callable[[], Recipe]] = {
    **{
        f"{world}-{variant}": partial(small, variant, steps=steps)
        for world, steps in STEPS.items()
        for variant in VARIANTS
    },
    "tabletop-vlm": VLMRecipe,
    "tabletop-rt2": small_rt2,
    "tabletop-rt2-planning": planning_rt2,
    "tabletop-openvla": partial(small_openvla, "tokens"),
    "tabletop-openvla-oft": partial(small_openvla, "l1"),
    "tabletop-dreamzero": small_dreamzero,
}


def shipped_weights(world: str) -> dict[str, str]:
    """The policies that ship for a world: arm name to source; empty where none does."""
    order = list(VARIANTS)
    found = shipped_files(world)
    arms = {name: str(found[name]) for name in sorted(found, key=lambda n: (order.index(n) if n in order else 99, n))}
    both_ways = {f"{name}-first-frame": f"{path}?first-frame" for name, path in arms.items() if name == "optional-idm"}
    return arms | both_ways


def shipped_stacks(world: str) -> dict[str, str]:
    """The stack files that ship for a world: arm name to file; empty where none does."""
    folder = Path(str(files("actloop"))) / "weights" / world / "stacks"
    return {path.stem: str(path) for path in sorted(folder.glob("*.toml"))}


def demo(out: Path, *, world: str = "tabletop", workers: int = 2) -> CompareConfig:
    """The main job on what ships: the paper's variants, easy and timed tasks, this machine's latency and fixed ones."""
    return CompareConfig(
        out=out,
        arms={name: source for name, source in shipped_weights(world).items() if name in DEMO_ARMS},
        world=world,
        tasks=DEMO_TASKS if world == "tabletop" else ("easy",),
        episodes=8,  # fewer seeds cannot tell four arms apart
        execute_horizon=EXECUTE_HORIZON,
        workers=workers,
    )
