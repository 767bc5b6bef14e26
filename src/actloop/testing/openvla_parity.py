"""Numerical parity with the released OpenVLA, from a folder of numbers that the released code produced.

    config.json, model.safetensors          a model in the released layout, of any size
    fixture.npz                             its pixels and ids, and what followed: features to actions, a training loss
    preprocessor_config.json, <photo>.npz   the pixel tensor of <photo>.png, which lies here or in ../../data
    full_keys_7b.txt                        names and shapes at full size

What is there is compared.
"""

import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from actloop.actions.bins import centre_bins
from actloop.actions.normalizers import from_stats
from actloop.actions.tokens import TailTokens
from actloop.errors import ContractError, DataError
from actloop.models.backbone import IGNORED, LanguageBatch
from actloop.models.prismatic import PIXELS, ImageProcessor, PrismaticConfig, PrismaticVLM, load_prismatic
from actloop.models.prismatic.weights import layout, read_json
from actloop.testing.fastwam_parity import Quantity

FORWARD, LOSS, ACTION = 1e-5, 1e-5, 1e-6
EVERY = 501  # of `logits_full_l16`: that many logits apart
BINS = 256
SHAPE = re.compile(r"(\S+) \(([\d, ]*)\)")


def openvla_parity(folder: str | Path) -> Iterator[Quantity]:
    """Compare everything that a folder holds, one quantity after the other.

    Raises:
        DataError: the folder lacks what everything needs, or its parts do not fit together.
        CheckpointError: its weights are not those of its configuration.
    """
    folder = Path(folder)
    try:
        yield from _all(folder)
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError, ContractError) as error:
        raise DataError(f"{folder}: its parts do not fit together ({type(error).__name__}: {error})") from error


def _all(folder: Path) -> Iterator[Quantity]:
    held = _arrays(folder / "fixture.npz")
    plain = read_json(folder / "config.json")
    model = load_prismatic(folder, dtype=torch.float32)
    pixels = _tensor(held, "pixel_values")[:, None]
    ids = _tensor(held, "input_ids")
    with torch.no_grad():
        yield from _forward(model, pixels, ids, held)
        yield from _answers(model, pixels, ids, held, plain)
        yield from _batched(model, pixels, ids)
        if {"train_ids", "train_labels", "train_loss"} <= set(held):
            yield _training(model, pixels, held, int(plain.get("pad_token_id", 32000)))
    yield from _photos(folder)
    yield from _full_size(folder / "full_keys_7b.txt")


def _forward(model: PrismaticVLM, pixels: Tensor, ids: Tensor, held: Mapping[str, np.ndarray]) -> Iterator[Quantity]:
    vision = model.vision_backbone(pixels.flatten(0, 1))
    hidden = model.hidden(model.embed(pixels, ids))
    logits = model.logits(hidden)
    found = {
        "vision": vision,
        "projected": model.projector(vision),
        "hidden_last": hidden,
        "logits_last": logits[:, -1],
        "logits_full_l16": logits[..., ::EVERY],
    }
    for name, ours in found.items():
        if name in held:
            yield _close(name, ours, _tensor(held, name))


def _answers(
    model: PrismaticVLM, pixels: Tensor, ids: Tensor, held: Mapping[str, np.ndarray], plain: Mapping[str, Any]
) -> Iterator[Quantity]:
    """Greedy over the whole vocabulary, and over the ids of actions alone; each action as far as its ids agree."""
    vocabulary = model.config.language.vocabulary - model.config.pad_to_multiple_of
    rows = torch.arange(vocabulary - BINS, vocabulary)
    for tokens, action, chosen in (("greedy", "action", None), ("constrained", "action_constrained", rows)):
        if tokens not in held:
            continue
        theirs = _tensor(held, tokens)
        ours = model.decode(pixels, ids, torch.ones_like(ids, dtype=torch.bool), tokens=len(theirs), rows=chosen)[0]
        yield Quantity(name=f"{tokens} tokens that differ", difference=float((ours != theirs).sum()), tolerance=0.0)
        if action in held:
            yield _action(action, ours.tolist(), held[action], vocabulary, plain["norm_stats"])


def _action(name: str, ids: list[int], theirs: np.ndarray, vocabulary: int, norm_stats: Mapping[str, Any]) -> Quantity:
    """By the dataset whose statistics bring us nearest; ids that are no action are clipped, as released."""
    digits = np.array(TailTokens(vocabulary=vocabulary).digits(ids, clip=True))
    nearest = Quantity(name=name, difference=math.inf, tolerance=ACTION, note="no norm_stats of this many actions")
    for key, stats in norm_stats.items():
        if len(stats["action"]["q01"]) != len(theirs):
            continue
        ours = centre_bins(from_stats(stats["action"], f"norm_stats.{key}.action")).decode(digits)
        difference = float(np.abs(ours - theirs).max())
        if not nearest.difference <= difference:
            nearest = Quantity(name=name, difference=difference, tolerance=ACTION, note=f"unnorm_key {key}")
    return nearest


def _batched(model: PrismaticVLM, pixels: Tensor, ids: Tensor) -> Iterator[Quantity]:
    """Beside a shorter prompt, the longer one answers as it does alone, and the shorter one too."""
    cut = 2
    short = torch.cat((ids[:, :-cut], torch.zeros_like(ids[:, -cut:])), dim=1)
    mask = torch.ones(2, ids.shape[1], dtype=torch.bool)
    mask[1, -cut:] = False
    both = model.prefill(pixels[:1].expand(2, -1, -1, -1, -1), torch.cat((ids[:1], short[:1])), mask, room=1)
    first, second = (model.prefill(pixels[:1], row[:1], row[:1] >= 0, room=1) for row in (ids, ids[:, :-cut]))
    for step in ("prompt", "next token"):
        if step == "next token":
            both.feed(torch.tensor([5, 5]))
            first.feed(torch.tensor([5]))
            second.feed(torch.tensor([5]))
        alone = torch.cat((first.hidden, second.hidden))
        yield _close(f"a batch of two, {step}", both.hidden, alone)


def _training(model: PrismaticVLM, pixels: Tensor, held: Mapping[str, np.ndarray], pad: int) -> Quantity:
    ids, labels = _tensor(held, "train_ids"), _tensor(held, "train_labels")
    shown = pixels.expand(len(ids), -1, -1, -1, -1)
    counts = (labels != IGNORED).sum(1)
    rows = model(LanguageBatch(ids=ids, mask=ids != pad, labels=labels, pictures={PIXELS: shown}))
    ours, theirs = float((rows * counts).sum() / counts.sum()), float(held["train_loss"])
    return Quantity(name="train_loss", difference=abs(ours - theirs) / max(1.0, abs(theirs)), tolerance=LOSS)


def _photos(folder: Path) -> Iterator[Quantity]:
    if not (folder / "preprocessor_config.json").is_file():
        return
    processor = ImageProcessor.from_hf(read_json(folder / "preprocessor_config.json"))
    for file in sorted(folder.glob("*.npz")):
        places = [folder / f"{file.stem}.png", folder.parent.parent / "data" / f"{file.stem}.png"]
        photo = next((place for place in places if place.is_file()), None)
        if photo is None:
            continue
        from PIL import Image

        with Image.open(photo) as picture:
            ours = processor([[np.asarray(picture.convert("RGB"))]])[0]
        difference = _difference(ours, _tensor(_arrays(file), "pixel_values"))
        yield Quantity(name=f"pixels of {photo.name}", difference=difference, tolerance=0.0)


def _full_size(path: Path) -> Iterator[Quantity]:
    if not path.is_file():
        return
    theirs = {
        found[1]: tuple(int(part) for part in found[2].split(",") if part.strip())
        for found in map(SHAPE.match, path.read_text().splitlines())
        if found
    }
    ours = layout(PrismaticConfig.openvla_7b())
    off = sum(ours.get(name) != theirs.get(name) for name in ours.keys() | theirs.keys())
    note = f"{len(theirs)} names and shapes"
    yield Quantity(name="full-size layout", difference=float(off), tolerance=0.0, note=note)


def _close(name: str, ours: Tensor, theirs: Tensor) -> Quantity:
    return Quantity(name=name, difference=_difference(ours, theirs), tolerance=FORWARD)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max()) if ours.shape == theirs.shape else math.inf


def _tensor(held: Mapping[str, np.ndarray], name: str) -> Tensor:
    return torch.from_numpy(held[name])


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; expected a folder of reference numbers") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
