"""Numerical parity with the released DreamZero, from a folder of numbers that the released code produced.

    meta.json                        sizes of the network and the clip (`dit_state.safetensors`: the weights)
    fixtures.safetensors             numbers by group:
      train, train_dec, train_b2     teacher forcing: together, times per action, two rows
      notf                           without a clean copy
      inf, inf_win                   cached acting, its caches, and past the window
      head, head_loss, lazy          the loss with two gradients; the whole sampler
      sched                          noise levels and weights
    vae, t5.safetensors              the codec and the text encoder of `head`
    full_keys_14b.txt                names and shapes at full size

What is there is compared. The released loss runs in bf16 autocast, so ours does here.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actloop.errors import CheckpointError, DataError
from actloop.models.dreamzero import (
    Anchor,
    Clip,
    Draws,
    DreamZero,
    DreamZeroActor,
    DreamZeroConfig,
    Memory,
    NoiseSchedule,
    NoisyClip,
    SamplerConfig,
    Velocities,
    levels,
    losses,
    released_noise,
    timesteps,
)
from actloop.models.dreamzero.config import CLIP_DIM, CLIP_TOKENS
from actloop.models.dreamzero.weights import full_layout
from actloop.models.flow import TIMESTEPS, bell_weight, shifted
from actloop.models.tensors import fill, read_tensors
from actloop.models.wan.text import UMT5Encoder
from actloop.models.wan.vae import WanCodec
from actloop.testing.fastwam_parity import Quantity

FORWARD, SAMPLER, SHIFT = 1e-5, 1e-4, 5.0
BF16 = 2**-8  # relative rounding
ACTING_TIMESTEP = 837.0


def dreamzero_parity(folder: str | Path) -> Iterator[Quantity]:
    """Compare everything that a folder holds, one quantity after the other.

    Raises:
        DataError: the folder lacks what everything needs, its parts do not fit together, or nothing is to compare.
        CheckpointError: its weights are not those of its configuration.
    """
    compared = 0
    try:
        reference = _Reference(Path(folder))
        for compare in COMPARISONS:
            for quantity in compare(reference):
                compared += 1
                yield quantity
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise DataError(f"{folder}: its parts do not fit together ({type(error).__name__}: {error})") from error
    if not compared:
        raise DataError(f"{folder}: holds nothing to compare with, such as the groups train, inf or sched")


class _Reference:
    """The folder, read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.meta = json.loads((folder / "meta.json").read_text())
            self.held = read_tensors(folder / "fixtures.safetensors")
            self.weights = read_tensors(folder / "dit_state.safetensors")
            self.config = self._config(self.meta["dit_cfg"])
        except (OSError, json.JSONDecodeError, UnicodeDecodeError, CheckpointError) as error:
            raise DataError(f"{error}; expected a folder of DreamZero's reference numbers") from error
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / 'meta.json'}: lacks {error}") from error
        self.model = DreamZero(self.config)
        fill(self.model, self.weights, folder / "dit_state.safetensors")
        self.model.eval()

    def _config(self, plain: dict[str, Any]) -> DreamZeroConfig:
        if plain.get("num_state_per_block", 1) != 1:
            raise DataError(f"{self.folder}: meta.json: expected one state per block")
        clip = self._first("train/x", "train_b2/x", "head_loss/noisy_latents")
        image = self._first("train/clip", "train_b2/clip", "head_loss/dit_clip_feature")
        embeds = self.weights.get("img_emb.proj.0.weight")  # as wide as the tower's tokens
        if clip is None or clip.ndim != 5:
            raise DataError(f"{self.folder}: fixtures: expected a clip (batch, channels, frames, rows, columns)")
        channels, _, height, width = clip.shape[1:]
        return DreamZeroConfig(
            dim=plain["dim"],
            ffn=plain["ffn_dim"],
            heads=plain["num_heads"],
            layers=plain["num_layers"],
            freq_dim=plain["freq_dim"],
            text_dim=plain["text_dim"],
            text_tokens=plain["text_len"],
            image_tokens=0 if embeds is None else CLIP_TOKENS if image is None else image.shape[1],
            image_dim=CLIP_DIM if embeds is None else len(embeds),
            latent_channels=channels,
            latent_height=height,
            latent_width=width,
            first_frame_condition=plain["in_dim"] > channels,
            block_frames=plain["num_frame_per_block"],
            block_actions=plain["num_action_per_block"],
            window_blocks=plain["max_chunk_size"],
            action_dim=plain["action_dim"],
            state_dim=plain["max_state_dim"],
            action_hidden=plain["hidden_size"],
            eps=plain["eps"],
            memory="released",
            state_sees_all=True,
        )

    def _first(self, *names: str) -> Tensor | None:
        return next((self.held[name] for name in names if name in self.held), None)

    def has(self, group: str) -> bool:
        """Whether there are numbers of a group."""
        return any(name.startswith(f"{group}/") for name in self.held)

    def numbers(self, pattern: str) -> list[int]:
        """What numbers there are at a place in the tensors' names, rising."""
        return sorted(int(found[1]) for name in self.held if (found := re.fullmatch(pattern, name)))

    def get(self, name: str, *, otherwise: str = "") -> Tensor:
        """A tensor; one of the group `otherwise` where its own lacks it."""
        own = name in self.held or not otherwise
        return self.held[name if own else f"{otherwise}/{name.partition('/')[2]}"]

    def video(self, name: str, *, otherwise: str = "") -> Tensor:
        """Ours count time before channels."""
        return self.get(name, otherwise=otherwise).transpose(1, 2).contiguous()

    def condition(self, name: str, *, otherwise: str = "") -> Tensor | None:
        return self.video(name, otherwise=otherwise) if self.config.first_frame_condition else None

    def image(self, name: str, *, otherwise: str = "") -> Tensor | None:
        return self.get(name, otherwise=otherwise) if self.config.image_tokens else None


def _tensor(name: str, ours: Tensor, theirs: Tensor, tolerance: float = FORWARD, note: str = "") -> Quantity:
    """Absolute below 1, relative to the largest value above."""
    if ours.shape != theirs.shape:
        note = f"expected shape {tuple(theirs.shape)}, got {tuple(ours.shape)}"
        return Quantity(name=name, difference=math.inf, tolerance=tolerance, note=note)
    ours, theirs = ours.detach().double(), theirs.detach().double()
    scale = max(1.0, float(theirs.abs().max()))
    return Quantity(name=name, difference=float((ours - theirs).abs().max()), tolerance=tolerance * scale, note=note)


def _video(name: str, ours: Tensor, theirs: Tensor, tolerance: float = FORWARD) -> Quantity:
    return _tensor(name, ours.transpose(1, 2), theirs, tolerance)


def _layout(reference: _Reference) -> Iterator[Quantity]:
    """Names and shapes of the full-size checkpoint, none of it allocated."""
    path = reference.folder / "full_keys_14b.txt"
    if not path.is_file():
        return
    released = set()
    for line in path.read_text().splitlines():
        name, _, shape = line.partition("\t" if "\t" in line else " ")
        released.add(
            (name.strip(), tuple(int(part) for part in shape.strip(" ()").replace(" ", "").split(",") if part))
        )
    ours = set(full_layout().items())
    note = f"names and shapes of {len(released)} released tensors"
    yield Quantity(name="full-size layout", difference=float(len(ours ^ released)), tolerance=0.0, note=note)


@torch.no_grad()
def _training(reference: _Reference) -> Iterator[Quantity]:
    """The training form: both predictions, and the tokens after each layer where they are held."""
    for group in ("train", "train_dec", "train_b2", "notf"):
        if not reference.has(group):
            continue
        layers: list[Tensor] = []
        found = _forward(reference, group, layers)
        yield _video(f"{group} video", found.video, reference.get(f"{group}/video_pred"))
        assert found.actions is not None
        yield _tensor(f"{group} action", found.actions, reference.get(f"{group}/action_pred"))
        for layer, tokens in enumerate(layers):
            if f"{group}/block{layer}" in reference.held:
                yield _tensor(f"{group} layer {layer}", tokens, reference.get(f"{group}/block{layer}"))


def _forward(reference: _Reference, group: str, layers: list[Tensor]) -> Velocities:
    def get(name: str) -> Tensor:
        return reference.get(f"{group}/{name}", otherwise="train")

    clip = NoisyClip(
        video=reference.video(f"{group}/x", otherwise="train"),
        video_time=get("t_vid"),
        clean=None if group == "notf" else reference.video(f"{group}/clean_x", otherwise="train"),
        condition=reference.condition(f"{group}/y", otherwise="train"),
        actions=get("action"),
        action_time=get("t_act"),
        states=get("state"),
    )
    context = reference.model.context(get("context"), reference.image(f"{group}/clip", otherwise="train"))
    return reference.model.velocities(clip, context, layers=layers)


class _Acting:
    """The acting form, driven as the reference was: everything from the group `train`."""

    def __init__(self, reference: _Reference) -> None:
        self.reference, self.model, self.config = reference, reference.model, reference.config
        self.noisy, self.clean = reference.video("train/x")[:1], reference.video("train/clean_x")[:1]
        self.condition = reference.condition("train/y")
        self.context = self.model.context(reference.get("train/context"), reference.image("train/clip"))
        self.memory = Memory(self.config, 1, device=self.model.device, dtype=self.model.dtype)
        self.zero = self.model.times(torch.zeros(1, 1))
        self.times = self.model.times(torch.tensor([[ACTING_TIMESTEP]]))

    def observe(self, frames: slice, condition: slice) -> None:
        seen = None if self.condition is None else self.condition[:, condition]
        self.model.observe(self.memory, self.clean[:, frames], self.context, self.zero, seen)

    def act(self, frames: slice, condition: slice, block: int) -> Velocities:
        size = self.config.block_actions
        return self.model.denoise(
            self.memory,
            self.noisy[:, frames],
            self.times,
            0,
            self.context,
            actions=self.reference.get("train/action")[:, block * size : (block + 1) * size],
            state=self.reference.get("train/state")[:, block],
            condition=None if self.condition is None else self.condition[:, condition],
        )

    def compare(self, name: str, found: Velocities) -> Iterator[Quantity]:
        yield _video(f"{name} video".replace("/", " "), found.video, self.reference.get(f"{name}_video_pred"))
        assert found.actions is not None
        yield _tensor(f"{name} action".replace("/", " "), found.actions, self.reference.get(f"{name}_action_pred"))

    def caches(self, name: str) -> Iterator[Quantity]:
        """Of the frames that can still be seen; the released cache also holds some that no later call sees."""
        for layer in self.reference.numbers(rf"{name}_l(\d+)"):
            ours, theirs = self.memory.seen(layer), self.reference.get(f"{name}_l{layer}").transpose(2, 3)
            kept = theirs[:, :, :, -ours.shape[3] :]
            note = "" if kept.shape == theirs.shape else "the frames that are seen again"
            yield _tensor(f"{name}_l{layer}".replace("/", " "), ours, kept, note=note)


@torch.no_grad()
def _acting(reference: _Reference) -> Iterator[Quantity]:
    """Cached acting: the anchor, a chunk, a block observed, a chunk, and on past the window."""
    if not reference.has("inf"):
        return
    acting, size = _Acting(reference), reference.config.block_frames
    acting.observe(slice(0, 1), slice(0, 1))
    yield from acting.caches("inf/kv_after_first")
    for chunk in reference.numbers(r"inf/chunk(\d+)_video_pred"):
        at = slice(1 + chunk * size, 1 + (chunk + 1) * size)
        if chunk:
            before = slice(at.start - size, at.start)
            acting.observe(before, before)
        yield from acting.compare(f"inf/chunk{chunk}", acting.act(at, at, chunk))
    yield from acting.caches("inf/kv_final")
    first, second = (slice(1 + n * size, 1 + (n + 1) * size) for n in range(2))
    last = slice(acting.clean.shape[1] - size, acting.clean.shape[1])
    for count, start in enumerate(reference.numbers(r"inf_win/start(\d+)_video_pred")):
        acting.observe(first if count % 2 else second, last)
        if acting.memory.frames != start:
            raise DataError(
                f"{reference.folder}: inf_win/start{start} is not what follows {acting.memory.frames} frames"
            )
        name = f"inf_win/start{start}"
        yield from acting.compare(name, acting.act(first, last, 0))
        yield from acting.caches(f"{name}_kv")


def _schedules(reference: _Reference) -> Iterator[Quantity]:
    if not reference.has("sched"):
        return
    grid = _grid(len(reference.get("sched/train_sigmas")))
    yield _tensor("sched train_sigmas", grid, reference.get("sched/train_sigmas"))
    yield _tensor("sched train_timesteps", grid * TIMESTEPS, reference.get("sched/train_timesteps"), 1e-6)
    yield _tensor("sched train_weights", bell_weight(grid, SHIFT), reference.get("sched/train_weights"))
    steps = len(reference.get("sched/unipc_timesteps"))
    level = levels(steps, SHIFT)
    yield _tensor("sched unipc_sigmas", level, reference.get("sched/unipc_sigmas"))
    yield _tensor("sched unipc_timesteps", timesteps(level), reference.get("sched/unipc_timesteps"), 0.0)


def _grid(size: int = TIMESTEPS) -> Tensor:
    return shifted(1 - torch.arange(size) / size, SHIFT)


@torch.no_grad()
def _inputs(reference: _Reference) -> Iterator[Quantity]:
    """What the frozen networks make of the head's inputs."""
    folder = reference.folder
    if (folder / "vae.safetensors").is_file() and "head/images" in reference.held:
        latents = WanCodec.load(folder / "vae.safetensors").encode(reference.get("head/images"))
        yield _video("head latents", latents, reference.get("head_loss/dit_clean_x"))
    if (folder / "t5.safetensors").is_file() and "head/text" in reference.held:
        context = _text(reference, "")
        yield _tensor("head context", context, reference.get("head_loss/dit_context"))


def _text(reference: _Reference, suffix: str) -> Tensor:
    path = reference.folder / "t5.safetensors"
    encoder = UMT5Encoder.from_tensors(read_tensors(path), path, tokenizer=None, dtype=torch.float32)
    ids, mask = reference.get(f"head/text{suffix}"), reference.get(f"head/text_attention_mask{suffix}")
    return encoder.encode_tokens(ids, mask.bool())


def _loss(reference: _Reference) -> Iterator[Quantity]:
    """The released loss, its parts and two gradients; the noise follows from what was noised."""
    if not reference.has("head_loss"):
        return
    clip, draws = _head_clip(reference)
    plain, exact = _backward(reference, clip, draws), _backward(reference, clip, draws, half=False)
    floors = {"loss": 0.5, "dynamics_loss": 0.5, "action_loss": 0.5, "grad_action_decoder_l2W": 2, "grad_block0_q": 2}
    for name, floor in floors.items():
        if f"head_loss/{name}" in reference.held:
            ours, theirs = plain[name].double(), reference.get(f"head_loss/{name}").double()
            scale = float(theirs.abs().max())
            yield Quantity(
                name=f"head_loss {name}",
                difference=float((ours - theirs).abs().max()) / scale,
                tolerance=floor * BF16 + float((exact[name].double() - ours).abs().max()) / scale,
                note="relative, in bf16 autocast as released; tolerance: what bf16 changes in ours, and its rounding",
            )


def _head_clip(reference: _Reference) -> tuple[Clip, Draws]:
    def get(name: str) -> Tensor:
        return reference.get(f"head_loss/{name}")

    latents, actions = reference.video("head_loss/dit_clean_x"), reference.get("head/action")
    counts = reference.get("head/action_mask").bool() & reference.get("head/has_real_action").bool()[:, None, None]
    clip = Clip(
        latents=latents,
        text=get("dit_context"),
        actions=actions,
        states=get("dit_state"),
        counts=counts,
        blocks=torch.full((len(latents),), reference.config.blocks(latents.shape[1])),
        condition=reference.condition("head_loss/dit_y"),
        image=reference.image("head_loss/dit_clip_feature"),
    )
    video_level, action_level = _level(get("dit_timestep")), _level(get("dit_timestep_action"))
    draws = Draws(
        video_noise=_denoised(reference.video("head_loss/noisy_latents"), latents, video_level),
        video_level=video_level,
        action_noise=_denoised(get("dit_action"), actions, action_level),
        action_level=action_level,
    )
    return clip, draws


def _level(timestep: Tensor) -> Tensor:
    """The noise level of the grid that a timestep is."""
    grid = _grid()
    return grid[(grid * TIMESTEPS - timestep[..., None]).abs().argmin(-1)]


def _denoised(noisy: Tensor, data: Tensor, level: Tensor) -> Tensor:
    """The noise in it."""
    level = level.double().reshape(*level.shape, *[1] * (data.ndim - 2))
    return ((noisy.double() - (1 - level) * data.double()) / level).float()


def _backward(reference: _Reference, clip: Clip, draws: Draws, *, half: bool = True) -> dict[str, Tensor]:
    model = reference.model
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        parts = losses(model, clip, draws, NoiseSchedule(), averaging="released")
    total = parts["total"].mean()
    total.backward()  # type: ignore[no-untyped-call]
    gradients = model.action_decoder.layer2.W.grad, model.get_parameter("blocks.0.self_attn.q.weight").grad
    assert gradients[0] is not None
    assert gradients[1] is not None
    found = {
        "loss": total,
        "dynamics_loss": parts["video"].mean(),
        "action_loss": parts["action"].mean(),
        "grad_action_decoder_l2W": gradients[0],
        "grad_block0_q": gradients[1],
    }
    model.zero_grad()
    return {name: tensor.detach().clone() for name, tensor in found.items()}


@torch.no_grad()
def _sampler(reference: _Reference) -> Iterator[Quantity]:
    """The whole sampler: 8 of 16 steps asked, guided, from a CPU generator's noise and the anchor of `head_loss`."""
    names = ("lazy/0_action_pred", "head/text_negative", "head_loss/dit_y")
    if not reference.config.first_frame_condition or any(name not in reference.held for name in names):
        return
    if not (reference.folder / "t5.safetensors").is_file():
        return
    actor = DreamZeroActor(reference.model, SamplerConfig.released())
    condition = reference.video("head_loss/dit_y")
    latents = condition[:, :1, -reference.config.latent_channels :]
    words = actor.words(reference.get("head_loss/dit_context"), _text(reference, "_negative"))
    anchor = Anchor(latents=latents, condition=condition, image=reference.image("head_loss/dit_clip_feature"))
    session = actor.start(words, anchor)
    chunk = actor.act(session, reference.get("head/state")[:, 0], released_noise(reference.config))
    yield _tensor("lazy 0 action", chunk.actions, reference.get("lazy/0_action_pred"), SAMPLER)
    video = torch.cat([latents, chunk.video], dim=1)
    yield _video("lazy 0 video", video, reference.get("lazy/0_video_pred"), SAMPLER)


COMPARISONS: tuple[Callable[[_Reference], Iterator[Quantity]], ...] = (
    _layout,
    _training,
    _acting,
    _schedules,
    _inputs,
    _loss,
    _sampler,
)
