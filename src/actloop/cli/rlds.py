"""`actloop convert` and `actloop data info` of an RLDS dataset: the work, and what came of it in words."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from actloop.cli.text import columns
from actloop.data.rlds.convert import Conversion, convert
from actloop.data.rlds.dataset import RldsDataset
from actloop.data.rlds.frames import RldsFrames
from actloop.data.rlds.info import RldsInfo
from actloop.data.rlds.recipes import chosen
from actloop.errors import ContractError, UnknownNameError

MB = 1e6
SHOWN_INSTRUCTIONS = 12


def convert_folder(
    folder: Path,
    out: Path,
    *,
    split: str = "train",
    recipe: str = "",
    control_hz: float | None = None,
    released: bool = False,
    cameras: tuple[str, ...] = (),
    episodes: int | None = None,
    codec: str = "libsvtav1",
) -> Conversion:
    """Standardise a split and write it as LeRobotDataset v3; taken up again, it goes on where it was stopped.

    `recipe` empty takes that of the dataset's name, `as-recorded` leaves the actions as they are; `cameras` empty
    takes all that the recipe names.

    Raises:
        UnknownNameError: no such split, recipe or camera.
        ContractError: less than one episode.
        DataError: the dataset is damaged, or `out` holds something else.
    """
    if episodes is not None and episodes < 1:
        raise ContractError("--episodes", f"expected 1 or more, got {episodes}")
    dataset = RldsDataset(folder, split)
    taken = chosen(dataset, recipe, control_hz=control_hz)
    for camera in cameras:
        if camera not in taken.cameras:
            raise UnknownNameError("--cameras", camera, taken.cameras)
    if cameras:
        taken = replace(taken, cameras={camera: taken.cameras[camera] for camera in cameras})
    with _bar() as shown:
        read = shown.add_task("reading", total=None)
        frames = RldsFrames(
            dataset,
            taken,
            released=released,
            episodes=episodes,
            progress=lambda done, total: shown.update(read, completed=done, total=total),
        )
        written = shown.add_task("converting", total=len(frames.episodes))
        return convert(
            frames, out, codec=codec, progress=lambda done, total: shown.update(written, completed=done, total=total)
        )


def converted(found: Conversion) -> str:
    """Where the dataset is, what is in it, and what the conversion cost."""
    rows = [
        ("dataset", f"{found.path}: {found.episodes} episodes, {found.frames} frames ({found.new} episodes new)"),
        ("from", f"{found.source}, recipe {found.recipe}"),
        ("checked", "every state and action reads back the same, bit for bit"),
        ("pictures", f"{found.psnr_db:.1f} dB PSNR, {found.image_error:.2f} of 255 mean error, from the video codec"),
    ]
    if found.silent:
        rows.append(("left out", f"{found.silent} records without an instruction or a motion"))
    return columns(rows, indent=0)


def described(info: RldsInfo) -> str:
    """Size, fields, recipe and instructions of an RLDS dataset, and what is wrong with it."""
    counts = ", ".join(f"{name} {episodes} episodes" for name, episodes in info.splits.items())
    rate = f"{info.control_hz:g} Hz, rotation {info.rotation}" if info.control_hz else ""
    recipe = f"{info.recipe}: {rate}" if info.recipe else "none known; `--recipe as-recorded`, or write one"
    steps = f"{info.steps[0]} to {info.steps[1]}, in the {info.looked_at} episodes looked at" if info.steps else "none"
    head = [
        ("dataset", f"{info.path}: {info.name} {info.version}, RLDS"),
        ("splits", counts),
        ("on disk", f"{info.bytes / MB:.1f} MB in {info.files} files of split {info.split}"),
        ("steps", steps),
        ("recipe", recipe),
    ]
    parts = [columns(head, indent=0), "every step\n" + columns(list(info.fields.items()))]
    if info.episode_fields:
        parts.append("every episode\n" + columns(list(info.episode_fields.items())))
    told = [(f"{count}", text) for text, count in list(info.instructions.items())[:SHOWN_INSTRUCTIONS] if text]
    if told:
        parts.append("instructions of the episodes looked at\n" + columns(told))
    if info.problems:
        parts.append("problems\n" + columns([("!", problem) for problem in info.problems]))
    return "\n\n".join(parts)


def _bar() -> Progress:
    shown = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*shown, console=Console(stderr=True))
