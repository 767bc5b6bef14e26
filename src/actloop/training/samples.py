"""A dataset as the network sees it.

    LatentSamples  CachedEpisodes --PatchCodec, Vocabulary (fitted here)--> all latents and words in memory
    FrameSamples   LeRobotDataset --frames of one batch--> one picture --frozen codec--> latents; prompts from a cache

Both cut the same windows, normalise states and actions alike and flag alike what lies past an episode's end.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from actloop.actions.normalizers import METHODS, Normalizer
from actloop.contracts import Embodiment
from actloop.data.cache import CachedEpisodes
from actloop.data.windows import Frames, Places, Windows, WindowSpec
from actloop.errors import ContractError, DataError
from actloop.models.action_model import Batch
from actloop.models.codec import PatchCodec
from actloop.models.fastwam import FastWAM, FastWAMConfig
from actloop.models.fastwam.releases import zero_padded_deltas
from actloop.models.policy import FastWAMPolicy
from actloop.models.stored import PolicyInfo
from actloop.models.text import Vocabulary
from actloop.models.views import Mosaic
from actloop.training.config import TrainConfig


class Samples(ABC):
    """Windows of a dataset, and everything that turns them into batches and a trained network into a policy.

    `source` identifies the data: a run is resumed on the same only.
    """

    def __init__(
        self,
        data: Frames,
        config: TrainConfig,
        *,
        source: str,
        embodiment: Embodiment,
        temporal_stride: int,
        state: Normalizer | None = None,
        action: Normalizer | None = None,
    ) -> None:
        if not data.episodes:
            raise DataError(f"{source}: has no episodes to train on")
        self.config, self.data, self.source, self.embodiment = config, data, source, embodiment
        if abs(data.fps - embodiment.control_hz) > 0.01 * embodiment.control_hz:
            reason = f"recorded at {data.fps:g} Hz; {embodiment.name!r} acts at {embodiment.control_hz:g} Hz"
            raise ContractError(f"{source}: fps", reason)
        embodiment.state.check(data.states, f"{source}: state")
        embodiment.action.check(data.actions, f"{source}: action")
        embodiment.action.check(data.executed, f"{source}: executed action")
        fitted = METHODS[config.normalization]
        self.state = state or fitted(np.asarray(data.states))
        self.action = action or fitted(np.asarray(data.actions))
        self._states = torch.from_numpy(self.state.normalize(data.states))
        self._actions = torch.from_numpy(self.action.normalize(data.actions))
        self._executed = torch.from_numpy(self.action.normalize(data.executed))
        offsets = frame_offsets(config.model.future_offsets, temporal_stride)
        spec = WindowSpec(frames=offsets, actions=config.model.horizon)
        held_out = _held_out(len(data.episodes), config.validation_share)
        kept = [index for index in range(len(data.episodes)) if index not in held_out]
        self.train = Windows(data, spec, kept)
        self.validation = Windows(data, spec, sorted(held_out))

    def batch(self, windows: Windows, indices: Int[np.ndarray, "batch"]) -> Batch:
        """Some samples as the network's input and targets."""
        at = windows.places(indices)
        actions = self._actions[torch.from_numpy(at.actions)]
        if self.config.zero_padded_deltas:
            targets = zero_padded_deltas(self.data.actions[at.actions], at.action_is_pad, self.embodiment.action)
            actions = torch.from_numpy(self.action.normalize(targets))
        return Batch(
            latents=self._latents(at),
            state=self._states[torch.from_numpy(at.states[:, 0])],
            text=torch.stack([self._text(self.data.episodes[index].instruction) for index in at.episodes]),
            actions=actions,
            executed=self._executed[torch.from_numpy(at.actions)],
            action_pad=torch.from_numpy(at.action_is_pad),
            latents_pad=latents_pad(torch.from_numpy(at.frame_is_pad), self.config.model.future_frames),
        )

    def place(self, device: torch.device) -> None:  # noqa: B027 (nothing to place is the ordinary case)
        """Bring what computes latents to the training device."""

    @abstractmethod
    def model_config(self) -> FastWAMConfig:
        """The network's sizes, filled in from the data."""

    @abstractmethod
    def prepare(self, model: FastWAM) -> None:
        """What a fresh network takes from the codec."""

    @abstractmethod
    def policy(self, model: FastWAM, info: PolicyInfo) -> FastWAMPolicy:
        """A trained network with what carries it to physical units."""

    @abstractmethod
    def _latents(self, at: Places) -> Float[Tensor, "batch time channels rows columns"]: ...

    @abstractmethod
    def _text(self, instruction: str) -> Shaped[Tensor, "tokens ..."]: ...


class LatentSamples(Samples):
    """All latents in memory, half precision: a dataset of 50 000 small frames takes 400 MB."""

    def __init__(self, data: CachedEpisodes, config: TrainConfig, *, like: FastWAMPolicy | None = None) -> None:
        """Codec, words and normalisers are fitted to the data, or those of the policy that is trained further.

        Raises:
            DataError: the dataset is empty or declares no embodiment.
            ContractError: its states or actions are not finite, or not of the embodiment's size; the embodiment is
                not that of `like`, or an instruction has a word that it does not know.
        """
        if data.embodiment is None:
            raise DataError(f"{data.path}: declares no embodiment, as `actloop record` and `EpisodeWriter` do")
        super().__init__(
            data,
            config,
            source=data.source,
            embodiment=data.embodiment,
            temporal_stride=PatchCodec.temporal_stride,
            state=None if like is None else like.state_normalizer,
            action=None if like is None else like.action_normalizer,
        )
        instructions = sorted({episode.instruction for episode in data.episodes})
        cameras = data.embodiment.cameras
        self.mosaic = Mosaic.side_by_side({camera.name: (camera.height, camera.width) for camera in cameras})
        if like is None:
            self.vocabulary = Vocabulary.of(instructions, max_tokens=config.model.text_tokens)
            self.codec = PatchCodec(config.model.latent_channels).fit(torch.from_numpy(self._fitting_frames()))
        else:
            if like.embodiment.identity != data.embodiment.identity:
                raise ContractError("init", f"is a policy for {like.embodiment}, the data are of {data.embodiment}")
            if not isinstance(like.text, Vocabulary) or not isinstance(like.codec, PatchCodec):
                raise ContractError("init", f"{like.info.name!r} sees through a video codec: train it on FrameSamples")
            self.vocabulary, self.codec, self.mosaic = like.text, like.codec, like.mosaic
        self.latents = self._encode_all()
        self._words = {text: self.vocabulary.encode(text) for text in instructions}

    def model_config(self) -> FastWAMConfig:
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

    def prepare(self, model: FastWAM) -> None:
        if model.config.stem_channels:
            model.stem.unfold_with(*self.codec.cells(model.stem.cells))

    def policy(self, model: FastWAM, info: PolicyInfo) -> FastWAMPolicy:
        return FastWAMPolicy(
            model=model,
            codec=self.codec,
            text=self.vocabulary,
            embodiment=self.embodiment,
            state=self.state,
            action=self.action,
            info=info,
            mosaic=self.mosaic,
        )

    def _latents(self, at: Places) -> Float[Tensor, "batch time channels rows columns"]:
        return self.latents[torch.from_numpy(at.frames)].float()

    def _text(self, instruction: str) -> Int[Tensor, "tokens"]:
        return self._words[instruction]

    def _pictures(self, indices: Int[np.ndarray, "frames"]) -> np.ndarray:
        return self.mosaic.compose({name: self.data.images(name, indices) for name in self.mosaic.cameras})

    def _fitting_frames(self) -> np.ndarray:
        total = len(self.data.states)
        return self._pictures(np.linspace(0, total - 1, min(total, 600)).astype(np.int64))

    def _encode_all(self) -> Float[Tensor, "frames channels rows columns"]:
        total, pieces = len(self.data.states), []
        for start in range(0, total, 512):
            indices = np.arange(start, min(start + 512, total))
            pieces.append(self.codec.encode(torch.from_numpy(self._pictures(indices))[:, None])[:, 0].half())
        return torch.cat(pieces)


def frame_offsets(future: Sequence[int], temporal_stride: int) -> tuple[int, ...]:
    """Ticks of the frames that a video codec needs for latents that reach up to `future`: one latent for the current
    frame, then one for every `temporal_stride` frames. Offsets (16, 32) and stride 4 give 0, 4, 8, ..., 32.

    Raises:
        ContractError: an interval does not divide by the stride.
    """
    offsets = [0]
    for before, after in itertools.pairwise((0, *future)):
        step, rest = divmod(after - before, temporal_stride)
        if rest:
            raise ContractError(
                "future_offsets", f"the codec needs {temporal_stride} frames per latent, got {after - before} ticks"
            )
        offsets += range(before + step, after + 1, step)
    return tuple(offsets)


def latents_pad(frames: Bool[Tensor, "batch frames"], future: int) -> Bool[Tensor, "batch time"]:
    """Which latents are padding: those of which every frame is."""
    size = len(frames)
    return torch.cat([frames[:, :1], frames[:, 1:].reshape(size, future, -1).all(-1)], dim=1)


def _held_out(episodes: int, share: float) -> set[int]:
    count = max(1, round(episodes * share)) if episodes > 1 else 0
    return set(np.random.default_rng(0).permutation(episodes)[:count].tolist())
