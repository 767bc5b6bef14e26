"""Numerical parity with the released Fast-WAM, from a folder of numbers that the released code produced.

    config.json                      sizes, seeds, steps, shifts (`tiny_ckpt.pt` and `tiny_vae.pt`: the weights)
    batch, latents_batch             a training batch and its VAE latents
    fastwam | joint | idm            the whole sampler, one joint forward
    *_bf16, fastwam_shift1           the sampler in bf16, and with another shift
    index.json, report.json          losses, gradient norms

    full_keys.json                   names and shapes at full size

What is there is compared; time and noise are drawn in the order of the released code.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from actloop.errors import CheckpointError, DataError
from actloop.models.action_model import Batch
from actloop.models.fastwam import Draws, ExpertConfig, FastWAM, FastWAMConfig, Noise, Seen
from actloop.models.fastwam.mixture import mix
from actloop.models.fastwam.weights import layout, load_weights
from actloop.models.flow import TIMESTEPS, bell_weight, euler_grid, shifted
from actloop.models.tensors import read_tensors

VARIANTS = {"fastwam": "fast", "joint": "joint", "idm": "idm"}  # name of the released class: ours
FORWARD, LOSS, GRADIENT = 1e-5, 1e-5, 1e-4
COPY_NOISED = 0.5  # of the samples, in imagine-then-act training


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """One compared number or tensor. `difference` is absolute for tensors, relative for losses and norms."""

    name: str
    difference: float
    tolerance: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return math.isfinite(self.difference) and self.difference <= self.tolerance


def fastwam_parity(folder: str | Path) -> Iterator[Quantity]:
    """Compare everything that a folder holds, one quantity after the other.

    Raises:
        DataError: the folder lacks what everything needs, its parts do not fit together, or nothing is to compare.
        CheckpointError: its weights are not those of its configuration.
    """
    compared = 0
    try:
        for quantity in _all(_Reference(Path(folder))):
            compared += 1
            yield quantity
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise DataError(f"{folder}: its parts do not fit together ({type(error).__name__}: {error})") from error
    if not compared:
        raise DataError(f"{folder}: holds nothing to compare with, such as {', '.join(VARIANTS)}.safetensors")


def _all(reference: "_Reference") -> Iterator[Quantity]:
    yield from _layout(reference)
    yield from _codec(reference)
    yield from _schedules(reference)
    for name, variant in VARIANTS.items():
        held = reference.optional(name)
        if held is None:
            continue
        yield from _sampled(reference, name, variant, held)
        yield from _forward(reference, name, variant, held)
        yield from _losses(reference, name, variant)
        yield from _causality(reference, name, variant)
        yield from _half(reference, name, variant)
    yield from _without_video(reference)


class _Reference:
    """The folder, read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plain = self.json("config.json")
        self.batch, self.latents = self._needed("batch"), self._needed("latents_batch")
        latents = next(iter(self.latents.values()))
        if latents.ndim != 5 or len(latents) != len(self.batch["action"]):
            raise DataError(f"{folder}: latents_batch: expected (batch, channels, time, rows, columns) of the batch")
        mask = self.batch.get("context_mask")
        if mask is not None and not mask.all():
            raise DataError(f"{folder}: batch: context_mask hides tokens; the released pipeline lets all be seen")
        self.latents_batch = latents.transpose(1, 2).contiguous()  # ours count time before channels
        self.scalars = self.json("index.json", {})
        self.report = self.json("report.json", {})
        try:
            self.config = self._config()
            self.seed = int(self.plain["inference"]["seed"])
            self.sample = int(self.plain["inference"].get("sample", 0))
        except (KeyError, TypeError) as error:
            raise DataError(f"{folder / 'config.json'}: lacks {error}") from error

    def _config(self) -> FastWAMConfig:
        video, action = self.plain["video"], self.plain["action"]
        for name in ("num_layers", "num_heads", "attn_head_dim", "text_dim", "freq_dim", "eps"):
            if video[name] != action[name]:
                raise DataError(f"{self.folder}: config.json: the experts disagree on {name}")
        shift = float(self.plain["inference"]["shift"])
        _, time, channels, height, width = self.latents_batch.shape
        horizon = int(self.plain["action_horizon"])
        return FastWAMConfig.full(
            video=ExpertConfig(hidden=video["hidden_dim"], ffn=video["ffn_dim"]),
            action=ExpertConfig(hidden=action["hidden_dim"], ffn=action["ffn_dim"]),
            layers=video["num_layers"],
            heads=video["num_heads"],
            head_dim=video["attn_head_dim"],
            text_dim=video["text_dim"],
            freq_dim=video["freq_dim"],
            eps=video["eps"],
            latent_channels=channels,
            latent_height=height,
            latent_width=width,
            future_offsets=tuple(horizon * (k + 1) // (time - 1) for k in range(time - 1)),
            horizon=horizon,
            action_dim=action["action_dim"],
            state_dim=int(self.plain["proprio_dim"]),
            text_tokens=int(self.plain["context_length"]),
            video_shift=shift,
            action_shift=shift,
            denoising_steps=int(self.plain["inference"]["num_inference_steps"]),
        )

    def model(self, variant: str, *, dtype: torch.dtype = torch.float32, shift: float | None = None) -> FastWAM:
        config = replace(self.config, variant=variant)
        if shift is not None:
            config = replace(config, video_shift=shift, action_shift=shift)
        return load_weights(self.folder / "tiny_ckpt.pt", config, dtype=dtype)

    def optional(self, name: str) -> dict[str, Tensor] | None:
        path = self.folder / f"{name}.safetensors"
        return read_tensors(path) if path.is_file() else None

    def _needed(self, name: str) -> dict[str, Tensor]:
        try:
            return read_tensors(self.folder / f"{name}.safetensors")
        except CheckpointError as error:
            raise DataError(f"{error}; a parity folder is laid out as the released numbers are") from error

    def json(self, name: str, default: dict[str, object] | None = None) -> dict:  # type: ignore[type-arg]
        path = self.folder / name
        if not path.is_file():
            if default is not None:
                return default
            raise DataError(f"{path}: no such file; expected a folder of reference numbers")
        try:
            found = json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not JSON ({error})") from error
        if not isinstance(found, dict):
            raise DataError(f"{path}: expected an object, got {type(found).__name__}")
        return found

    def seen(self, model: FastWAM, sample: int | None = None) -> Seen:
        first = self.sample if sample is None else sample
        at = slice(first, first + 1)
        if not 0 <= first < len(self.latents_batch):
            raise DataError(f"{self.folder}: config.json: sample {first} of a batch of {len(self.latents_batch)}")
        with torch.no_grad():
            prompt = model.prompt(self.batch["context"][at])
        return model.see(self.latents_batch[at, :1], self.batch["proprio"][at, 0], prompt)

    def noise(self) -> Noise:
        """Video and action start from generators of the same seed; the frame that is known is drawn too."""
        _, time, channels, height, width = self.latents_batch.shape
        video = torch.randn(1, channels, time, height, width, generator=torch.Generator().manual_seed(self.seed))
        action = torch.randn(
            1, self.config.horizon, self.config.action_dim, generator=torch.Generator().manual_seed(self.seed)
        )
        return Noise(action=action, video=video.transpose(1, 2)[:, 1:])


def _distance(ours: Tensor, theirs: Tensor) -> float:
    if ours.shape != theirs.shape:
        return math.inf
    return float((ours.float() - theirs.float()).abs().max())


def _tensor(name: str, ours: Tensor, theirs: Tensor, tolerance: float = FORWARD) -> Quantity:
    """Absolute below 1, relative to the largest value above."""
    scale = max(1.0, float(theirs.float().abs().max()))
    return Quantity(name=name, difference=_distance(ours, theirs), tolerance=tolerance * scale)


def _relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


def _layout(reference: _Reference) -> Iterator[Quantity]:
    """Names and shapes of the full-size network, none of it allocated."""
    full = reference.json("full_keys.json", {})
    released = {
        f"mixtures.{expert}.{name}": tuple(shape)
        for expert in ("video", "action")
        for name, shape in full.get(expert, {}).items()
    }
    if full:
        ours = {name: shape for name, shape in layout(FastWAMConfig.full()).items() if name.startswith("mixtures.")}
        unlike = float(len(set(ours.items()) ^ set(released.items())))
        note = f"names and shapes of {len(released)} released tensors"
        yield Quantity(name="full-size layout", difference=unlike, tolerance=0.0, note=note)


def _codec(reference: _Reference) -> Iterator[Quantity]:
    path = reference.folder / "tiny_vae.pt"
    if path.is_file() and "video" in reference.batch:
        from actloop.models.wan.vae import WanCodec

        codec = WanCodec.load(path)
        ours = codec.encode_video(reference.batch["video"]).transpose(1, 2)
        theirs = next(iter(reference.latents.values()))
        yield _tensor("vae latents", ours, theirs)


def _schedules(reference: _Reference) -> Iterator[Quantity]:
    for key, constants in reference.report.items():
        if not key.startswith("scheduler_shift"):
            continue
        shift = float(key.removeprefix("scheduler_shift"))
        theirs = torch.tensor(constants["timesteps"])
        timesteps, deltas = euler_grid(len(theirs), shift, theirs)
        yield Quantity(name=f"{key} timesteps", difference=_distance(timesteps, theirs), tolerance=1e-4)
        difference = _distance(deltas, torch.tensor(constants["deltas"]))
        yield Quantity(name=f"{key} deltas", difference=difference, tolerance=1e-6)
        at, weights = torch.tensor(constants["weight_at"]).unbind(1)
        ours = bell_weight(at / TIMESTEPS, shift)
        yield Quantity(name=f"{key} loss weights", difference=_distance(ours, weights), tolerance=FORWARD)


def _sampled(reference: _Reference, name: str, variant: str, held: Mapping[str, Tensor]) -> Iterator[Quantity]:
    model = reference.model(variant)
    ours, _ = model.act(reference.seen(model), reference.noise())
    for key in ("action", "joint_action"):
        if key in held:
            yield _tensor(f"{name} {key}", ours[0], held[key])
    other = reference.optional(f"{name}_shift1")
    if other is not None:
        shift = float(reference.plain["inference"].get("shift_in_fastwam_shift1", 1.0))
        model = reference.model(variant, shift=shift)
        ours, _ = model.act(reference.seen(model), reference.noise())
        yield _tensor(f"{name} action, shift {shift:g}", ours[0], other["action"])


def _half(reference: _Reference, name: str, variant: str) -> Iterator[Quantity]:
    other = reference.optional(f"{name}_bf16")
    if other is None:
        return
    plain, model = reference.model(variant), reference.model(variant, dtype=torch.bfloat16)
    ours, _ = model.act(reference.seen(model), reference.noise())
    exact, _ = plain.act(reference.seen(plain), reference.noise())
    ulps = 2 * 2**-8 * float(exact.abs().max())
    yield Quantity(
        name=f"{name} action, bf16",
        difference=_distance(ours[0], other["action"]),
        tolerance=_distance(ours, exact) + ulps,
        note="tolerance: what bf16 changes in ours",
    )


@torch.no_grad()
def _joint_forward(model: FastWAM, seen: Seen, future: Tensor, actions: Tensor, timestep: float) -> dict[str, Tensor]:
    """All streams once, the first frame's own output included."""
    time = torch.tensor([timestep])
    video_time, zero = model.video.time(time), model.video.time(torch.zeros(1))
    sees = ("first", "future", "action") if model.variant.action_sees_future else ("first", "action")
    streams = {
        "first": model.first_stream(seen.reading, needed=True),
        "future": model.future_stream(future, model.video.modulation(video_time), seen.reading),
        "action": model.action_stream(actions, model.action.modulation(model.action.time(time)), seen.reading, sees),
    }
    mix(streams)
    rows, columns = model.config.rows, model.config.columns
    first = model.video.unembed(streams["first"].x, zero, rows, columns)
    video = model.video.unembed(streams["future"].x, video_time, rows, columns)
    return {
        "pred_video": torch.cat([first, video], dim=1).transpose(1, 2),
        "pred_action": model.action_velocity(streams["action"].x),
    }


def _probe(reference: _Reference) -> tuple[int, float, Tensor]:
    """Sample, timestep and actions of the reference's single joint forward, as its note says."""
    probe = reference.plain.get("probe", {})
    note = str(probe.get("note", ""))
    timestep, seed = re.search(r"t_action=(\d+(?:\.\d+)?)", note), re.search(r"seeded (\d+)", note)
    sample = re.search(r"of sample (\d+)", note)
    generator = torch.Generator().manual_seed(int(probe.get("seed", seed[1] if seed else 1)))
    actions = torch.randn(1, reference.config.horizon, reference.config.action_dim, generator=generator)
    at = int(probe.get("sample", sample[1] if sample else reference.sample))
    return at, float(probe.get("timestep", timestep[1] if timestep else 500)), actions


def _forward(reference: _Reference, name: str, variant: str, held: Mapping[str, Tensor]) -> Iterator[Quantity]:
    model = reference.model(variant)
    at, timestep, actions = _probe(reference)
    seen, future = reference.seen(model, at), reference.latents_batch[at : at + 1, 1:]
    ours = _joint_forward(model, seen, future, actions, timestep)
    ours["latents"] = reference.latents_batch[at : at + 1].transpose(1, 2)
    for key, tensor in ours.items():
        if key in held:
            yield _tensor(f"{name} {key}", tensor, held[key])


def _causality(reference: _Reference, name: str, variant: str) -> Iterator[Quantity]:
    """What must not move when something else does: exactly 0."""
    model = reference.model(variant)
    at, timestep, actions = _probe(reference)
    seen, future = reference.seen(model, at), reference.latents_batch[at : at + 1, 1:]
    base = _joint_forward(model, seen, future, actions, timestep)
    moved = _joint_forward(model, seen, future + 1, actions, timestep)
    acted = _joint_forward(model, seen, future, actions + 1, timestep)
    first = (base["pred_video"][:, :, 0], moved["pred_video"][:, :, 0])
    yield Quantity(name=f"{name} first frame when the future moves", difference=_distance(*first), tolerance=0.0)
    video = _distance(base["pred_video"], acted["pred_video"])
    yield Quantity(name=f"{name} video when the actions move", difference=video, tolerance=0.0)
    reaction = _distance(base["pred_action"], moved["pred_action"])
    if not model.variant.action_sees_future:
        yield Quantity(name=f"{name} actions when the future moves", difference=reaction, tolerance=0.0)
    else:
        yield Quantity(
            name=f"{name} actions do follow the future",
            difference=0.0 if reaction > 0 else math.inf,
            tolerance=0.0,
            note=f"they move by {reaction:.2g}",
        )


# --- losses -----------------------------------------------------------------------------------------------------------


def released_draws(latents: Tensor, actions: Tensor, *, shift: float, imagine_first: bool) -> Draws:
    """The randomness of one released training step, in its order, from torch's global generator.

    `latents` are (batch, channels, time, height, width) as the released code holds them.
    """
    batch = len(latents)
    video_noise = torch.randn_like(latents)
    video_level = shifted(torch.rand(batch), shift)
    action_noise = torch.randn_like(actions)
    action_level = shifted(torch.rand(batch), shift)
    copy_noise, copy_level = torch.zeros_like(latents), torch.zeros(batch)
    if imagine_first:
        noised = torch.rand(batch) < COPY_NOISED
        if noised.any():
            copy_level = torch.where(noised, shifted(torch.rand(batch), shift), 0.0)
            copy_noise = torch.randn_like(latents)
    return Draws(
        video_noise=video_noise.transpose(1, 2)[:, 1:],
        video_level=video_level,
        action_noise=action_noise,
        action_level=action_level,
        copy_noise=copy_noise.transpose(1, 2)[:, 1:],
        copy_level=copy_level,
        imagines=torch.ones(batch, dtype=torch.bool),
    )


def _losses(reference: _Reference, name: str, variant: str) -> Iterator[Quantity]:
    training, batch = reference.plain["training"], _training_batch(reference)
    model = reference.model(variant, shift=float(training["shift"])).train()
    torch.manual_seed(int(training["torch_manual_seed_before_loss"]))
    latents = next(iter(reference.latents.values()))
    imagines = model.variant.imagine_first
    draws = released_draws(latents, batch.actions, shift=float(training["shift"]), imagine_first=imagines)
    parts = {key: value.mean() for key, value in model(batch, draws).items()}
    weights = {key: float(training.get(f"lambda_{key}", 1.0)) for key in ("video", "action")}
    weighted = {key: weight * parts[key] for key, weight in weights.items()}  # as the released code reports them
    total = weighted["video"] + weighted["action"]
    total.backward()
    reported = reference.report.get(name, {})
    expected = {
        "loss": reference.scalars.get(name, {}).get("scalars", {}).get("loss"),
        "reported loss": reported.get("train_loss"),
        "video loss": reported.get("train_parts", {}).get("loss_video"),
        "action loss": reported.get("train_parts", {}).get("loss_action"),
    }
    ours = {"loss": total, "reported loss": total, "video loss": weighted["video"], "action loss": weighted["action"]}
    for key, value in expected.items():
        if value is not None:
            difference = _relative(ours[key].item(), value)
            yield Quantity(name=f"{name} {key}", difference=difference, tolerance=LOSS, note="relative")
    norms = {"grad_norm": model.parameters(), "grad_norm_video": model.video.parameters()}
    for key, parameters in norms.items():
        if key in reported:
            grads = [p.grad.norm() for p in parameters if p.grad is not None]
            difference = _relative(float(torch.stack(grads).norm()), reported[key])
            yield Quantity(name=f"{name} {key}", difference=difference, tolerance=GRADIENT, note="relative")


def _without_video(reference: _Reference) -> Iterator[Quantity]:
    """The ablation: no video loss, but the video expert still learns through the keys and values that actions see."""
    reported = reference.report.get("no_video_cotrain")
    if reported is None:
        return
    training, batch = reference.plain["training"], _training_batch(reference)
    model = reference.model("no-cotrain", shift=float(training["shift"])).train()
    torch.manual_seed(int(training["torch_manual_seed_before_loss"]))
    latents = next(iter(reference.latents.values()))
    draws = released_draws(latents, batch.actions, shift=float(training["shift"]), imagine_first=False)
    total = float(training.get("lambda_action", 1.0)) * model(batch, draws)["action"].mean()
    total.backward()
    difference = _relative(total.item(), reported["train_loss"])
    yield Quantity(name="no-cotrain loss", difference=difference, tolerance=LOSS, note="relative")
    learning = sum(p.grad is not None and bool(p.grad.any()) for p in model.video.parameters())
    expected = reported.get("n_video_params_with_grad")
    if expected is not None:
        note = f"{learning} tensors of the video expert learn, {expected} in the reference"
        difference = float(abs(learning - expected))
        yield Quantity(name="no-cotrain gradients", difference=difference, tolerance=0.0, note=note)


def _training_batch(reference: _Reference) -> Batch:
    held = dict(reference.batch)
    size, latents = reference.latents_batch.shape[:2]
    held.setdefault("image_is_pad", torch.zeros(size, latents, dtype=torch.bool))
    held.setdefault("action_is_pad", torch.zeros(size, held["action"].shape[1], dtype=torch.bool))
    stride = (held["image_is_pad"].shape[1] - 1) // (reference.latents_batch.shape[1] - 1)
    groups = held["image_is_pad"][:, 1:].reshape(size, -1, stride).all(-1)  # padded: all its frames are
    return Batch(
        latents=reference.latents_batch,
        state=held["proprio"][:, 0],
        text=held["context"],
        actions=held["action"],
        executed=held["action"],
        action_pad=held["action_is_pad"],
        latents_pad=torch.cat([held["image_is_pad"][:, :1], groups], dim=1),
    )
