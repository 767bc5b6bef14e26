"""The commands. Each names its options, calls the room that does the work, and prints what came of it.

Heavy packages are imported inside the commands, so that `actloop --help` answers at once.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tyro
from tyro.extras import SubcommandApp

from actloop.cli import evaluated, foreseen, importing, modelling, operating, options
from actloop.cli.text import as_json, from_json
from actloop.errors import ContractError

DESCRIPTION = "Runs, trains and judges models that act, on a clock that does not wait."


def doctor(*, json: options.Json = False) -> int:
    """Say what this machine can do, what is missing, and the command that mends it.

    The exit code is 0 where `actloop demo` can run, 1 where it cannot.
    """
    from actloop.cli.doctor import can_run, examine, report

    checks = examine()
    print(as_json({"can_run": can_run(checks), "checks": checks}) if json else report(checks))
    return 0 if can_run(checks) else 1


def worlds(
    name: options.WorldArgument = "",
    /,
    *,
    body: options.Body = "",
    world_options: options.WorldOptions = (),
    json: options.Json = False,
) -> None:
    """List the worlds; with a name, its robot, tasks, skills and groups."""
    from actloop.cli.worlds import describe_world, list_worlds

    print(describe_world(name, built_with(body, world_options), json=json) if name else list_worlds(json=json))


def record(
    *,
    world: options.World = "tabletop",
    body: options.Body = "",
    world_options: options.WorldOptions = (),
    tasks: options.Tasks = (),
    episodes: options.Episodes = 100,
    seed: options.Seed = 0,
    noise_share: options.NoiseShare = 0.3,
    astray_share: options.AstrayShare = 0.0,
    disturb_share: options.DisturbShare = 0.1,
    workers: options.Workers = 2,
    out: options.OutFolder,
    json: options.Json = False,
) -> None:
    """Record the scripted experts of a world as a LeRobot v3 dataset.

    Interrupted, the dataset is readable; the same command again goes on from there.
    """
    from functools import partial

    from actloop.cli.datasets import recorded
    from actloop.simulation.registry import make_world, tasks_of
    from actloop.training.record import record as record_episodes

    factory = partial(make_world, world, **built_with(body, world_options))
    asked = factory()
    chosen = tasks_of(asked, tasks)
    asked.close()
    with keeping(out, "the same command goes on from there"):
        summary = record_episodes(
            factory,
            chosen,
            out,
            episodes_per_task=episodes,
            seed=seed,
            noise_share=noise_share,
            astray_share=astray_share,
            disturb_share=disturb_share,
            workers=workers,
            progress=not json,
        )
        print(as_json(summary) if json else recorded(summary))
        if summary.interrupted:
            raise KeyboardInterrupt


def info(path: options.DatasetArgument, /, *, plot: options.Plot = None, json: options.Json = False) -> int:
    """Say what is in a dataset, in numbers or as a drawing.

    LeRobot v3 or RLDS; the exit code is 1 where a file is missing or damaged.
    """
    if modelling.is_rlds(path):
        if plot:
            raise ContractError("--plot", f"{path} is an RLDS dataset: convert it first (`actloop data convert`)")
        return modelling.rlds_info(path, json=json)
    from actloop.cli.datasets import described
    from actloop.data.info import describe
    from actloop.data.info import plot as draw

    found = describe(path)
    print(as_json(found) if json else described(found))
    if plot:
        draw(path, plot)
        tell(f"\ndrawn: {plot}", quiet=json)
    return 1 if found.problems else 0


def train(
    preset: options.Preset,
    /,
    *,
    data: options.TrainingData,
    init: options.Init = None,
    questions: options.Questions = None,
    video: options.VideoOf = (),
    out: options.OutFile,
    steps: options.Steps = None,
    seed: options.TrainSeed = 0,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Train a preset on a dataset; the file it writes alone rebuilds the policy.

    Interrupted, it keeps the last saved step; `--resume` goes on from there.
    """
    from actloop.cli.trained import summary, train_preset

    with keeping(out.with_suffix(".state"), "the same command with --resume goes on from there"):
        result = train_preset(
            preset, data, out, steps=steps, seed=seed, resume=resume, init=init, questions=questions, video=video
        )
    print(as_json(result) if json else summary(result))


def finetune(
    recipe: options.Recipe,
    /,
    *,
    out: options.OutFile,
    resume: options.Resume = False,
    json: options.Json = False,
) -> None:
    """Train a policy further on a dataset of your own.

    On several GPUs: `accelerate launch --multi_gpu -m actloop finetune ...`.
    """
    from actloop.cli.finetuned import finetune_file
    from actloop.cli.trained import summary

    with keeping(out.with_suffix(".state"), "the same command with --resume goes on from there"):
        result = finetune_file(recipe, out, resume=resume)
    print(as_json(result) if json else summary(result))


def compare(
    *,
    world: options.World = "tabletop",
    body: options.Body = "",
    world_options: options.WorldOptions = (),
    arms: options.Arms = (),
    tasks: options.Tasks = (),
    episodes: options.Episodes = 10,
    seed: options.Seed = 0,
    latency: options.Latency = "measured",
    sweep: options.Sweep = ("0", "190", "600"),
    clock: options.Clock = "virtual",
    execute_horizon: options.ExecuteHorizon = None,
    faults: options.Faults = (),
    disturb: options.Disturb = (),
    rescue: options.Rescue = "none",
    rescue_seconds: options.RescueSeconds = 2.0,
    rescue_after: options.RescueAfter = None,
    force_limit: options.ForceLimit = None,
    until_decided: options.UntilDecided = False,
    alpha: options.Alpha = 0.1,
    calibration_episodes: options.CalibrationEpisodes = 20,
    failure_cost: options.FailureCost = None,
    compute_budget: options.ComputeBudget = None,
    videos: options.Videos = 1,
    workers: options.Workers = 2,
    batch: options.Batch = 1,
    ray: options.Ray = "",
    out: options.OutFolder,
    json: options.Json = False,
) -> None:
    """Judge policies on the same episodes; write a report page.

    Interrupted, finished episodes are kept; the same command runs what is missing.
    """
    from actloop.cli.compared import run_comparison, sources
    from actloop.evaluation.config import CompareConfig
    from actloop.presets import EXECUTE_HORIZON

    config = CompareConfig(
        out=out,
        arms=sources(arms, world),
        world=world,
        world_options=built_with(body, world_options),
        tasks=tasks,
        episodes=episodes,
        seed=seed,
        latency=latency,
        sweep=sweep,
        clock=clock,
        execute_horizon=EXECUTE_HORIZON if execute_horizon is None else execute_horizon,
        faults=faults,
        disturb=disturb,
        rescue="" if rescue == "none" else rescue,
        rescue_seconds=rescue_seconds,
        rescue_after=rescue_after,
        force_limit=force_limit,
        until_decided=until_decided,
        alpha=alpha,
        calibration_episodes=calibration_episodes,
        failure_cost=failure_cost,
        compute_budget=compute_budget,
        videos=videos,
        workers=workers,
        batch=batch,
        ray=ray,
    )
    with keeping(out, "the same command runs what is missing"):
        run_comparison(config, json=json)


def report(run: options.RunArgument, /) -> None:
    """Write the report page of a run again, finished or not."""
    from actloop.report.page import write_page

    print(write_page(run))


def demo(*, out: options.OutFolder = Path("runs/demo"), workers: options.Workers = 2) -> None:
    """Compare the policies that ship, on the tabletop, in minutes."""
    from actloop import presets
    from actloop.cli.compared import run_comparison

    with keeping(out, "the same command runs what is missing"):
        run_comparison(presets.demo(out=out, workers=workers), json=False)


def prompts(
    encoder: options.Encoder,
    /,
    *,
    tokenizer: options.Tokenizer,
    instruction: options.Told = (),
    data: options.ToldIn = None,
    out: options.OutFile,
) -> None:
    """Encode instructions once: no robot needs the text encoder."""
    from actloop.cli.released import encode

    print(encode(encoder, tokenizer, instruction, data, out))


def parity(model: options.ParityModel, folder: options.ParityFolder, /, *, json: options.Json = False) -> int:
    """Compare a model with numbers of its released code.

    The exit code is 1 where a difference is past its tolerance.
    """
    from actloop.cli.parity import show_parity

    return 0 if show_parity(model, folder, json=json) else 1


def fastwam(
    *,
    size: options.Size = "small",
    device: options.Device = "cpu",
    dtype: options.BenchDtype = None,
    batch_sizes: options.BatchSizes = (1, 2, 4),
    repeats: options.Repeats = 20,
    compiled: options.Compiled = False,
    threads: options.Threads = None,
    layers: options.Layers = None,
    text: options.WithText = False,
    variants: options.BenchVariants = (),
    memory: options.MemoryOnly = False,
    json: options.Json = False,
) -> None:
    """Time each stage of Fast-WAM on this machine.

    Weights are random: they do not change the time.
    """
    from actloop.cli.bench import show_bench
    from actloop.testing.fastwam_bench import RUNNABLE

    show_bench(
        size,
        device=device,
        dtype=dtype,
        batch_sizes=batch_sizes,
        repeats=repeats,
        compiled=compiled,
        threads=threads,
        layers=layers,
        text=text,
        variants=variants or RUNNABLE,
        memory=memory,
        json=json,
    )


def built_with(body: str, given: Sequence[str]) -> dict[str, object]:
    """The arguments of a world's constructor; values are JSON where they can be, and text otherwise.

    Raises:
        ContractError: an option without a value.
    """
    options: dict[str, object] = {"body": body} if body else {}
    for text in given:
        name, is_given, value = text.partition("=")
        if not is_given:
            raise ContractError("--world-options", f"expected NAME=VALUE, got {text!r}")
        options[name] = from_json(value)
    return options


def tell(message: str, *, quiet: bool) -> None:
    """Print a remark, unless the output is for a script."""
    if not quiet:
        print(message)


@contextmanager
def keeping(out: Path, how_to_go_on: str) -> Iterator[None]:
    """Say what an interruption leaves, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        kept = f"what was finished is kept in {out}; {how_to_go_on}" if out.exists() else "nothing was written yet"
        raise KeyboardInterrupt(f"interrupted; {kept}") from interrupt


COMMANDS: tuple[Callable[..., int | None], ...] = (
    doctor,
    worlds,
    record,
    info,
    train,
    finetune,
    evaluated.eval_,
    compare,
    foreseen.foresight,
    report,
    demo,
    prompts,
    importing.fastwam,
    importing.openvla,
    parity,
    operating.run_,
    operating.serve,
    operating.calibrate,
    operating.replay,
    operating.inspect_,
    fastwam,
    modelling.openvla,
    modelling.dreamzero,
    operating.loop,
    modelling.ask,
    modelling.report_,
    modelling.convert,
    modelling.statistics,
    modelling.robot,
)
GROUPS: dict[str, tuple[str, tuple[Callable[..., int | None], ...]]] = {
    "data": ("Look into a dataset, or convert one.", (info, modelling.convert, modelling.statistics, modelling.robot)),
    "import": ("Bring released weights into one file.", (importing.fastwam, importing.openvla)),
    "actions": ("Compare action representations.", (modelling.report_,)),
    "bench": (
        "Time a model, or the loop, on this machine.",
        (fastwam, modelling.openvla, modelling.dreamzero, operating.loop),
    ),
}


def run(argv: Sequence[str]) -> int:
    """Parse the arguments, run the command, and return its exit code."""
    argv = argv or ["--help"]
    app = _commands(brief=argv[0] in ("-h", "--help"))
    markers = (tyro.conf.FlagCreatePairsOff,)
    code: object = app.cli(prog="actloop", description=DESCRIPTION, args=argv, config=markers)
    return code if isinstance(code, int) else 0


def command_name(command: Callable[..., object]) -> str:
    """What is typed; some are words of Python's own."""
    return command.__name__.rstrip("_")


def group_of(command: Callable[..., object]) -> str:
    """The word before it, or empty."""
    return next((name for name, (_, commands) in GROUPS.items() if command in commands), "")


def _commands(*, brief: bool) -> SubcommandApp:
    """The tree of commands; `brief` leaves of each description what fits a list of commands."""
    app = SubcommandApp()
    groups = {name: SubcommandApp() for name in GROUPS}
    for command in COMMANDS:
        text = inspect.getdoc(command) or ""
        first = text.partition("\n")[0]
        name = group_of(command)
        groups.get(name, app).command(name=command_name(command), help=first if brief else text)(command)
        if name and command is GROUPS[name][1][0]:
            app.command(groups[name], name=name, help=GROUPS[name][0])
    return app
