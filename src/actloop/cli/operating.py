"""The commands that run robots: a stack, one layer of it, its thresholds, what its log says, what a tick costs."""

from actloop.cli import options


def run_(
    stack: options.StackFile,
    /,
    *,
    tasks: options.Tasks = (),
    seed: options.Seed = 0,
    episodes: options.StackEpisodes = 1,
    clock: options.StackClock = None,
    out: options.StackOut = None,
    json: options.Json = False,
) -> None:
    """Run a stack file on its world or robot.

    Ctrl-C ends the episode with its tick; a robot holds, and the log is kept.
    """
    from actloop.cli.ran import run_stack

    run_stack(stack, tasks=tasks, seed=seed, episodes=episodes, clock=clock, out=out, json=json)


def serve(
    stack: options.StackFile,
    layer: options.ServedLayer,
    /,
    *,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    token_file: options.TokenFile = None,
) -> None:
    """Serve one layer of a stack file to a robot elsewhere."""
    from actloop.cli.ran import serve as serve_layer

    serve_layer(stack, layer, host=host, port=port, token_file=token_file)


def calibrate(
    stack: options.StackFile,
    /,
    *,
    tasks: options.Tasks = (),
    episodes: options.StackEpisodes = 20,
    seed: options.Seed = 0,
    alpha: options.Alpha = 0.1,
    clock: options.StackClock = None,
    out: options.OutFile,
    json: options.Json = False,
) -> None:
    """Set the thresholds of a stack's checks from its own episodes.

    It runs without the faults; keep these seeds apart from those you judge by.
    """
    from actloop.cli.ran import calibrate as calibrate_stack

    calibrate_stack(stack, tasks=tasks, episodes=episodes, seed=seed, alpha=alpha, clock=clock, out=out, json=json)


def replay(log: options.Log, /, *, json: options.Json = False) -> int:
    """Decide again what a log says, and compare every decision.

    The exit code is 1 where anything came out differently.
    """
    from actloop.cli.inspected import show_replay

    return show_replay(log, json)


def inspect_(
    log: options.Log,
    /,
    *,
    episode: options.LoggedEpisode = "",
    out: options.Drawing = None,
    rerun: options.RerunFile = None,
    json: options.Json = False,
) -> int:
    """Draw one episode: plans, commands, questions, checks, holds."""
    from actloop.cli.inspected import show_inspect

    return show_inspect(log, episode=episode, out=out, rerun=rerun, json=json)


def loop(
    *,
    rates: options.Rates = (50.0, 100.0, 200.0, 500.0),
    seconds: options.Seconds = 10.0,
    think_ms: options.ThinkMs = 100.0,
    spin_us: options.SpinUs = 0.0,
    priority: options.Priority = 0,
    json: options.Json = False,
) -> None:
    """Measure how late ticks are beside a busy model, and what the loop itself costs."""
    from actloop.cli.bench_loop import show_loop_bench

    show_loop_bench(rates, seconds=seconds, think_ms=think_ms, spin_us=spin_us, priority=priority, json=json)
