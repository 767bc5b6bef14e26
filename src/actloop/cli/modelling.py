"""The commands about data and networks that speak or tokenise: representations, RLDS, language models, OpenVLA."""

from pathlib import Path

from actloop.cli import options


def report_(
    dataset: options.ActionsOf,
    /,
    *,
    horizon: options.ChunkHorizon = 10,
    scales: options.FastScales = (10.0, 30.0, 100.0),
    bounds: options.BinBounds = "data",
    vocabulary: options.FastVocabulary = 1024,
    episodes: options.EpisodesRead = 500,
    split: options.Split = "train",
    recipe: options.RldsRecipe = "",
    json: options.Json = False,
) -> None:
    """Say what each action representation takes, and loses, on a dataset.

    Reads a LeRobot v3 dataset, a decoded one, or an RLDS folder.
    """
    from actloop.cli.actions import report

    print(
        report(
            dataset,
            horizon=horizon,
            scales=scales,
            bounds=bounds,
            vocabulary=vocabulary,
            episodes=episodes,
            split=split,
            recipe=recipe,
            json=json,
        )
    )


def convert(
    folder: options.RldsFolder,
    /,
    *,
    out: options.OutFolder,
    split: options.Split = "train",
    recipe: options.RldsRecipe = "",
    control_hz: options.ControlHz = None,
    released: options.ReleasedRelabel = False,
    cameras: options.Cameras = (),
    episodes: options.EpisodesTaken = None,
    json: options.Json = False,
) -> None:
    """Turn an RLDS dataset into a LeRobot v3 one; no TensorFlow.

    Interrupted, the dataset is readable; the same command again goes on from there.
    """
    from actloop.cli.commands import keeping
    from actloop.cli.rlds import convert_folder, converted
    from actloop.cli.text import as_json

    with keeping(out, "the same command goes on from there"):
        found = convert_folder(
            folder,
            out,
            split=split,
            recipe=recipe,
            control_hz=control_hz,
            released=released,
            cameras=cameras,
            episodes=episodes,
        )
    print(as_json(found) if json else converted(found))


def is_rlds(path: Path) -> bool:
    """Whether a folder, or one of its versions, is an RLDS dataset."""
    from actloop.data.rlds.dataset import is_rlds as found

    return found(path)


def rlds_info(path: Path, *, json: bool) -> int:
    """What is in an RLDS folder; 1 where a file is missing or damaged."""
    from actloop.cli.rlds import described
    from actloop.cli.text import as_json
    from actloop.data.rlds.info import describe

    found = describe(path)
    print(as_json(found) if json else described(found))
    return 1 if found.problems else 0


def openvla(
    *,
    size: options.OpenVLASize = "tiny",
    device: options.Device = "cpu",
    dtype: options.BenchDtype = None,
    batch_sizes: options.BatchSizes = (1,),
    repeats: options.Repeats = 20,
    threads: options.Threads = None,
    layers: options.Layers = None,
    json: options.Json = False,
) -> None:
    """Time each stage of OpenVLA on this machine.

    Weights are random: they do not change the time.
    """
    from actloop.cli.bench import show_openvla

    show_openvla(
        size,
        device=device,
        dtype=dtype,
        batch_sizes=batch_sizes,
        repeats=repeats,
        threads=threads,
        layers=layers,
        json=json,
    )


def dreamzero(
    *,
    size: options.DreamZeroSize = "small",
    device: options.Device = "cpu",
    dtype: options.BenchDtype = None,
    repeats: options.Repeats = 20,
    threads: options.Threads = None,
    layers: options.Layers = None,
    mode: options.DreamZeroMode = "",
    text: options.WithText = False,
    memory: options.MemoryOnly = False,
    json: options.Json = False,
) -> None:
    """Time each stage of DreamZero on this machine.

    Weights are random: they do not change the time.
    """
    from actloop.cli.bench import show_dreamzero

    show_dreamzero(
        size,
        device=device,
        dtype=dtype,
        repeats=repeats,
        threads=threads,
        layers=layers,
        mode=mode,
        text=text,
        memory=memory,
        json=json,
    )


def statistics(
    dataset: options.ActionsOf,
    /,
    *,
    out: options.StatisticsFolder = None,
    name: options.StatisticsKey = "",
    split: options.Split = "train",
    recipe: options.RldsRecipe = "",
    json: options.Json = False,
) -> None:
    """Write how large a dataset's actions are, as OpenVLA reads it.

    Goes to dataset_statistics.json; its key is the `unnorm_key` of a policy.
    """
    from actloop.cli.openvla import counted, write_dataset_statistics
    from actloop.cli.text import as_json

    path, key, found = write_dataset_statistics(dataset, out, name=name, split=split, recipe=recipe)
    print(as_json({"path": path, "key": key, "statistics": found}) if json else counted(path, key, found))


def robot(
    dataset: options.RobotData,
    /,
    *,
    out: options.OutFile,
    like: options.RobotLike = "",
    block_actions: options.BlockActions = 8,
    frame_ticks: options.FrameTicks = 4,
    template: options.Template = "{instruction}",
) -> None:
    """Declare a robot for DreamZero, with statistics of its dataset.

    Without `--like`, the body is that of the recording, its cameras side by side.
    """
    from actloop.cli.robots import declaration_of, measured, said, write

    known = declaration_of(like)
    declared = measured(dataset, known, block_actions=block_actions, frame_ticks=frame_ticks, template=template)
    write(declared, out)
    print(said(declared, out))


def ask(
    model: options.LanguageModel,
    question: options.Question,
    /,
    *,
    image: options.Images,
    max_tokens: options.MaxTokens = 48,
) -> None:
    """Ask a vision-language model about pictures.

    A file of ours, or the folder of a Hugging Face model.
    """
    from actloop.cli.vlm import ask as asked

    print(asked(model, image, question, max_tokens=max_tokens))
