"""`actloop foresight`: whether what a world action model imagines is worth acting on, judged by the simulator."""

from pathlib import Path
from typing import TYPE_CHECKING

from actloop.cli import options

if TYPE_CHECKING:
    from actloop.contracts import Embodiment
    from actloop.models.value import Value

SHIPPED, NONE = "shipped", "none"


def foresight(
    policy: options.Judged,
    /,
    *,
    world: options.World = "tabletop",
    body: options.Body = "",
    world_options: options.WorldOptions = (),
    tasks: options.Tasks = (),
    episodes: options.Episodes = 6,
    seed: options.Seed = 0,
    value: options.ValueFile = SHIPPED,
    moments: options.Moments = 3,
    candidates: options.Candidates = 8,
    draws: options.Draws = 3,
    run: options.KeptIn = None,
    json: options.Json = False,
) -> None:
    """Judge what a world action model imagines, by the simulator.

    Error, what the action changes, which chunk it prefers; only `--run` writes.
    """
    from rich.console import Console

    from actloop.cli.commands import built_with
    from actloop.cli.text import as_json
    from actloop.evaluation.foresight import judge_foresight
    from actloop.simulation.registry import make_world, tasks_of
    from actloop.stack.sources import open_policy, source_of

    opened = open_policy(source_of(policy, folder=Path(), path="POLICY", world=world))
    made = make_world(world, **built_with(body, world_options))
    try:
        report = judge_foresight(
            opened,
            made,
            tasks_of(made, tasks),
            range(seed, seed + episodes),
            value=judge_of(value, world, made.embodiment),
            moments=moments,
            candidates=candidates,
            draws=draws,
        )
    finally:
        made.close()
    if run is not None:
        from actloop.evaluation.foresight.keeping import keep_foresight
        from actloop.report.page import write_page

        keep_foresight(run, report)
        write_page(run)
    if json:
        print(as_json(report.to_dict()))
    else:
        Console().print(report.table())


def judge_of(value: str, world: str, embodiment: "Embodiment") -> "Value | None":
    """The value that ranks outcomes; None where there is none.

    Raises:
        CheckpointError: the file cannot be read, or is for another robot.
    """
    from importlib.resources import files

    from actloop.models.value import load_value

    if value == NONE:
        return None
    if value != SHIPPED:
        return load_value(value, embodiment=embodiment)
    path = Path(str(files("actloop"))) / "weights" / world / "checks" / "value.safetensors"
    return load_value(path, embodiment=embodiment) if path.exists() else None
