"""From a decoded dataset to a checkpoint.

    CachedEpisodes --codec, normalisers, words (fitted once)--> Samples --batches--> ActionModel.loss --AdamW--> policy

Every variant sees the same samples in the same order with the same seeds: batch `k` depends on (seed, k) alone. The
order survives an interruption, so that a resumed run continues the one that was cut.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from actloop.actions.normalizers import METHODS
from actloop.data.cache import CachedEpisodes
from actloop.data.windows import Windows, WindowSpec
from actloop.errors import CheckpointError, ContractError, DataError, UnknownNameError
from actloop.models.action_model import Batch
from actloop.models.checkpoint import save_policy
from actloop.models.codec import PatchCodec
from actloop.models.fastwam import FastWAM, FastWAMConfig
from actloop.models.policy import FastWAMPolicy, PolicyInfo, side_by_side
from actloop.models.text import Vocabulary

Progress = Callable[[int, dict[str, float]], None]  # steps done, the newest losses


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One training run. The sizes that follow from the data (`latent_*`, `state_dim`, ...) are filled in from it.

    `future_offsets`: ticks at which future frames are predicted. `warmup` is a share of `steps`; the learning rate
    then falls along a cosine to `final_rate` of its peak. `validation_share`: episodes kept for the validation loss.
    """

    model: FastWAMConfig
    steps: int = 3000
    batch_size: int = 40
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    warmup: float = 0.05
    final_rate: float = 0.01
    future_offsets: tuple[int, ...] = (8,)
    validation_share: float = 0.03
    validate_every: int = 500
    normalization: str = "mean_std"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.normalization not in METHODS:
            raise UnknownNameError("normalization", self.normalization, METHODS)
        if len(self.future_offsets) != self.model.future_frames:
            raise ContractError(
                "future_offsets", f"{len(self.future_offsets)} offsets for {self.model.future_frames} future frames"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run left behind: the checkpoint, the log beside it, and its last losses."""

    checkpoint: Path
    log: Path
    steps: int
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)


class Samples:
    """A dataset as the network sees it: latents of all frames, normalised states and actions, words. In memory."""

    def __init__(self, data: CachedEpisodes, config: TrainConfig) -> None:
        if data.embodiment is None:
            raise DataError(f"{data.path}: declares no embodiment, as `actloop record` and `EpisodeWriter` do")
        self.config, self.data, self.embodiment = config, data, data.embodiment
        self.embodiment.state.check(data.states, f"{data.path}: state")
        self.embodiment.action.check(data.actions, f"{data.path}: action")
        normalizer = METHODS[config.normalization]
        self.state, self.action = normalizer(np.asarray(data.states)), normalizer(np.asarray(data.actions))
        self.vocabulary = Vocabulary.of(
            (episode.instruction for episode in data.episodes), max_tokens=config.model.text_tokens
        )
        self.codec = PatchCodec(config.model.latent_channels).fit(torch.from_numpy(self._fitting_frames()))
        self.latents = self._encode_all()
        texts = sorted({episode.instruction for episode in data.episodes})
        self._words = {text: self.vocabulary.encode(text) for text in texts}
        self._states = torch.from_numpy(self.state.normalize(data.states))
        self._actions = torch.from_numpy(self.action.normalize(data.actions))
        spec = WindowSpec(frames=(0, *config.future_offsets), actions=config.model.horizon)
        held_out = _held_out(len(data.episodes), config.validation_share)
        kept = [index for index in range(len(data.episodes)) if index not in held_out]
        self.train = Windows(data, spec, kept)
        self.validation = Windows(data, spec, sorted(held_out))

    def model_config(self) -> FastWAMConfig:
        """The network's sizes, filled in from the data."""
        rows, columns = self.latents.shape[-2:]
        return replace(
            self.config.model,
            latent_height=rows,
            latent_width=columns,
            action_dim=self.embodiment.action.size,
            state_dim=self.embodiment.state.size,
            vocabulary=self.vocabulary.size,
            cameras=len(self.embodiment.cameras),
        )

    def batch(self, windows: Windows, indices: Int[np.ndarray, "batch"]) -> Batch:
        """Some samples as the network's input and targets."""
        at = windows.places(indices)
        return Batch(
            latents=self.latents[torch.from_numpy(at.frames)].float(),
            state=self._states[torch.from_numpy(at.states[:, 0])],
            text=torch.stack([self._words[self.data.episodes[index].instruction] for index in at.episodes]),
            actions=self._actions[torch.from_numpy(at.actions)],
            action_pad=torch.from_numpy(at.action_is_pad),
            latents_pad=torch.from_numpy(at.frame_is_pad),
        )

    def _pictures(self, indices: Int[np.ndarray, "frames"]) -> np.ndarray:
        images = {c.name: self.data.images(c.name, indices) for c in self.embodiment.cameras}
        return side_by_side(images)

    def _fitting_frames(self) -> np.ndarray:
        total = len(self.data.states)
        return self._pictures(np.linspace(0, total - 1, min(total, 600)).astype(np.int64))

    def _encode_all(self) -> Float[Tensor, "frames channels rows columns"]:
        """In half precision: a dataset of 50 000 small frames takes 400 MB."""
        total, pieces = len(self.data.states), []
        for start in range(0, total, 512):
            indices = np.arange(start, min(start + 512, total))
            pieces.append(self.codec.encode(torch.from_numpy(self._pictures(indices))[:, None])[:, 0].half())
        return torch.cat(pieces)


def _held_out(episodes: int, share: float) -> set[int]:
    count = max(1, round(episodes * share)) if episodes > 1 else 0
    return set(np.random.default_rng(0).permutation(episodes)[:count].tolist())


def train(
    config: TrainConfig,
    *,
    data: CachedEpisodes,
    out: str | Path,
    name: str,
    resume: bool = False,
    half: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one policy and write it to `out`; the log (JSON lines) and the resumable state lie beside it.

    Raises:
        DataError: the dataset is empty or declares no embodiment.
        ContractError: its states or actions are not finite, or not of the embodiment's size.
        CheckpointError: `resume` without a state, or with one of another run.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    if not data.episodes:
        raise DataError(f"{data.path}: has no episodes to train on")
    out, begun = Path(out), time.perf_counter()
    out.parent.mkdir(parents=True, exist_ok=True)
    samples = Samples(data, config)
    run = _Run(_fresh_model(samples), samples, config, out)
    if resume:
        run.restore()
    else:
        run.log.unlink(missing_ok=True)
    try:
        losses = run.fit(progress)
    except KeyboardInterrupt:
        run.save_state()
        raise
    seconds = run.seconds + time.perf_counter() - begun
    final = {f"validation_{key}": value for key, value in losses.items()}
    policy = _policy(run, name, {"steps": config.steps, "seconds": round(seconds, 1), **final})
    save_policy(policy, out, half=half)
    run.state.unlink(missing_ok=True)
    return TrainResult(checkpoint=out, log=run.log, steps=config.steps, seconds=seconds, losses=losses)


def _fresh_model(samples: Samples) -> FastWAM:
    model = FastWAM(samples.model_config())
    if model.config.stem_channels:
        model.stem.unfold_with(*samples.codec.cells(model.stem.cells))
    return model


def _policy(run: "_Run", name: str, training: dict[str, object]) -> FastWAMPolicy:
    samples, config = run.samples, run.config
    facts = {**training, "episodes": len(samples.data.episodes), "data": samples.data.source, "seed": config.seed}
    facts |= {"batch_size": config.batch_size, "learning_rate": config.learning_rate, "torch": torch.__version__}
    return FastWAMPolicy(
        model=run.model,
        codec=samples.codec,
        vocabulary=samples.vocabulary,
        embodiment=samples.embodiment,
        state=samples.state,
        action=samples.action,
        info=PolicyInfo(name=name, future_offsets=config.future_offsets, training=facts),
    )


class _Run:
    """The mutable side of a run: weights, optimiser, step, log."""

    def __init__(self, model: FastWAM, samples: Samples, config: TrainConfig, out: Path) -> None:
        self.model, self.samples, self.config = model, samples, config
        self.log, self.state = out.with_suffix(".log.jsonl"), out.with_suffix(".state")
        self.step, self.seconds = 0, 0.0
        self.optimizer = torch.optim.AdamW(
            model.parameters(), config.learning_rate, config.betas, weight_decay=config.weight_decay, fused=True
        )

    def fit(self, progress: Progress | None) -> dict[str, float]:
        """All remaining steps; returns the final validation losses."""
        config, begun = self.config, time.perf_counter()
        running: dict[str, float] = {}
        losses: dict[str, float] = {}
        self.model.train()
        while self.step < config.steps:
            newest = self._advance()
            running = {key: 0.98 * running.get(key, value) + 0.02 * value for key, value in newest.items()}
            self.step += 1
            if progress is not None:
                progress(self.step, running)
            if self.step % config.validate_every == 0 or self.step == config.steps:
                losses = self.validate()
                seconds = self.seconds + time.perf_counter() - begun
                self._note({"step": self.step, "seconds": round(seconds, 1), "train": running, "validation": losses})
                if self.step < config.steps:
                    self.save_state(seconds)
        return losses

    def _advance(self) -> dict[str, float]:
        config = self.config
        rng = np.random.default_rng((config.seed, self.step))
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        indices = self.samples.train.draw(rng, config.batch_size)
        losses = self.model.loss(self.samples.batch(self.samples.train, indices), generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(self.step, config)
        self.optimizer.zero_grad(set_to_none=True)
        losses["total"].mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        self.optimizer.step()
        return {key: float(value.detach().mean()) for key, value in losses.items()}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses over the held-out episodes, with the same noise every time."""
        self.model.eval()
        places = self.samples.validation
        sums: dict[str, float] = {}
        generator = torch.Generator().manual_seed(1)
        chosen = np.random.default_rng(1).permutation(len(places))[:512]
        for indices in _chunks(chosen, 64):
            losses = self.model.loss(self.samples.batch(places, indices), generator=generator)
            for key, value in losses.items():
                sums[key] = sums.get(key, 0.0) + float(value.sum())
        self.model.train()
        return {key: round(value / max(len(chosen), 1), 5) for key, value in sums.items()}

    def _note(self, line: dict[str, object]) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    # resuming

    def _identity(self) -> str:
        plain = asdict(self.config)
        plain.pop("threads")
        return json.dumps({"config": plain, "data": self.samples.data.source}, sort_keys=True)

    def save_state(self, seconds: float | None = None) -> None:
        """Everything that a resumed run needs; written whole or not at all."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
        spent = self.seconds if seconds is None else seconds
        metadata = {"identity": self._identity(), "step": str(self.step), "seconds": str(spent)}
        partial = self.state.with_suffix(".partial")
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
        os.replace(partial, self.state)

    def restore(self) -> None:
        """Continue where the last run of this output stopped.

        Raises:
            CheckpointError: no state there, or one of another configuration or dataset.
        """
        if not self.state.is_file():
            raise CheckpointError(f"{self.state}: nothing to resume; start without --resume")
        with safe_open(self.state, framework="pt") as file:
            metadata = file.metadata() or {}
        if metadata.get("identity") != self._identity():
            raise CheckpointError(f"{self.state}: belongs to another configuration or dataset; start without --resume")
        tensors = load_file(self.state)
        model = {k.removeprefix("model."): t for k, t in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict(model)
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = tensor
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.step, self.seconds = int(metadata["step"]), float(metadata["seconds"])


def _rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine down to `final_rate`."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return (step + 1) / warmup
    along = (step - warmup) / max(1, config.steps - warmup)
    return config.final_rate + (1 - config.final_rate) * (1 + math.cos(math.pi * along)) / 2


def _chunks(indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
