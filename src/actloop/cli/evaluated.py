"""`actloop eval`: one policy or stack, judged as `compare` judges several; the same folder, the same report."""

from pathlib import Path

from actloop.cli import options


def eval_(
    policy: options.Judged,
    /,
    *,
    world: options.World = "tabletop",
    body: options.Body = "",
    world_options: options.WorldOptions = (),
    tasks: options.Tasks = (),
    episodes: options.Episodes = 20,
    seed: options.Seed = 0,
    latency: options.Latency = "measured",
    sweep: options.Sweep = (),
    clock: options.Clock = "virtual",
    execute_horizon: options.ExecuteHorizon = None,
    disturb: options.Disturb = (),
    rescue: options.Rescue = "none",
    rescue_seconds: options.RescueSeconds = 2.0,
    rescue_after: options.RescueAfter = None,
    force_limit: options.ForceLimit = None,
    alpha: options.Alpha = 0.1,
    calibration_episodes: options.CalibrationEpisodes = 20,
    videos: options.Videos = 1,
    workers: options.Workers = 2,
    batch: options.Batch = 1,
    ray: options.Ray = "",
    out: options.OutFolder,
    json: options.Json = False,
) -> None:
    """Judge one policy, on time and disturbed; write a report page.

    Interrupted, finished episodes are kept; the same command runs what is missing.
    """
    from actloop.cli.commands import built_with, keeping
    from actloop.cli.compared import run_comparison, sources
    from actloop.evaluation.config import CompareConfig
    from actloop.presets import EXECUTE_HORIZON

    config = CompareConfig(
        out=out,
        arms=sources([named(policy, world)], world, "POLICY"),
        world=world,
        world_options=built_with(body, world_options),
        tasks=tasks,
        episodes=episodes,
        seed=seed,
        latency=latency,
        sweep=sweep,
        clock=clock,
        execute_horizon=EXECUTE_HORIZON if execute_horizon is None else execute_horizon,
        disturb=disturb,
        rescue="" if rescue == "none" else rescue,
        rescue_seconds=rescue_seconds,
        rescue_after=rescue_after,
        force_limit=force_limit,
        alpha=alpha,
        calibration_episodes=calibration_episodes,
        videos=videos,
        workers=workers,
        batch=batch,
        ray=ray,
    )
    with keeping(out, "the same command runs what is missing"):
        run_comparison(config, json=json)


def named(policy: str, world: str) -> str:
    """What was asked for as an arm, `NAME=SOURCE`: a file is called by its name, a function by its own.

    A name that ships stays as it is.
    """
    from actloop.presets import shipped_stacks, shipped_weights
    from actloop.stack.sources import FACTORY

    if "=" in policy or policy in shipped_weights(world) or policy in shipped_stacks(world):
        return policy
    target = policy.partition("?")[0]
    if FACTORY.fullmatch(target) and not Path(target).exists():
        return f"{target.rpartition(':')[2]}={policy}"
    return f"{Path(target).stem}={policy}" if Path(target).suffix or Path(target).exists() else policy
