"""The policy: everything that carries one network to the robot's physical units and back.

Observation --codec, normalise, words--> Batch --network--> actions, latents --denormalise, decode--> Prediction
"""

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from actloop.actions.normalizers import Normalizer
from actloop.contracts import ActionChunk, Embodiment, Future, Observation, Prediction
from actloop.errors import ContractError
from actloop.models.action_model import Batch
from actloop.models.codec import PatchCodec
from actloop.models.fastwam import FastWAM
from actloop.models.text import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySession:
    """What a policy remembers of one episode: the encoded instruction, and how often it was asked."""

    instruction: str
    words: Tensor
    seed: int
    calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInfo:
    """Where a policy comes from, kept with its weights. `future_offsets`: ticks ahead of its imagined frames."""

    name: str
    future_offsets: tuple[int, ...]
    training: Mapping[str, object]


class FastWAMPolicy:
    """A trained Fast-WAM on one robot: a `WorldActionModel` (of `no-cotrain`, only the acting half means anything)."""

    def __init__(
        self,
        *,
        model: FastWAM,
        codec: PatchCodec,
        vocabulary: Vocabulary,
        embodiment: Embodiment,
        state: Normalizer,
        action: Normalizer,
        info: PolicyInfo,
    ) -> None:
        self.model = model.eval()
        self.codec = codec
        self.vocabulary = vocabulary
        self.info = info
        self.state_normalizer = state
        self.action_normalizer = action
        self._embodiment = embodiment

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def horizon(self) -> int:
        return self.model.config.horizon

    @property
    def imagines(self) -> bool:
        """Whether the future was trained at all."""
        return self.model.variant.trains_video

    def start(self, instruction: str, *, seed: int) -> PolicySession:
        """A session for one episode.

        Raises:
            ContractError: the instruction has an unknown word or is too long.
        """
        return PolicySession(instruction=instruction, words=self.vocabulary.encode(instruction), seed=seed)

    def predict(
        self,
        session: PolicySession,
        obs: Observation,
        *,
        committed: ActionChunk | None = None,
        imagine: bool = False,
    ) -> tuple[PolicySession, Prediction]:
        """A chunk anchored to `obs`; with `imagine`, also the future (None where it was never trained).

        `committed` holds the first actions of the chunk, in physical units, that can no longer be changed.
        """
        batch = self._batch(session, obs)
        prefix = None if committed is None else self._prefix(committed)
        generator = self._generator(session, "act")
        actions, latents = self.model.sample_with_future(batch, generator=generator, prefix=prefix)
        physical = self.action_normalizer.denormalize(actions[0].double().numpy())
        chunk = ActionChunk(actions=physical, anchor=obs.tick, period=self.embodiment.period, observed_at=obs.time)
        future = None
        if imagine and self.imagines:
            if latents is None:
                latents = self.model.imagine(batch, generator=self._generator(session, "imagine"))
            future = self._future(latents, chunk)
        return replace(session, calls=session.calls + 1), Prediction(chunk=chunk, future=future)

    def imagine(self, session: PolicySession, obs: Observation, chunk: ActionChunk) -> Future:
        """What the policy expects to see after `obs`.

        Video never attends to actions in this model, so the future is that of the policy's own behaviour, whatever
        `chunk` says; it is attached to the answer for its timing.

        Raises:
            ContractError: the future was never trained (`no-cotrain`).
        """
        if not self.imagines:
            variant = self.model.config.variant
            raise ContractError("policy.imagine", f"variant {variant!r} was trained without video, it cannot imagine")
        latents = self.model.imagine(self._batch(session, obs), generator=self._generator(session, "imagine"))
        return self._future(latents, chunk)

    def describe(self) -> dict[str, object]:
        """Identity for reports: variant, size, training, digest of the weights."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "name": self.info.name,
            "variant": self.model.config.variant,
            "parameters": parameters,
            "embodiment": self.embodiment.name,
            "digest": self.digest(),
            "training": dict(self.info.training),
        }

    def digest(self) -> str:
        """Sixteen hex digits over every weight, normaliser and word."""
        sha = hashlib.sha256()
        for module in (self.model, self.codec):
            for name, tensor in sorted(module.state_dict().items()):
                sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
        sha.update(repr((self.state_normalizer, self.action_normalizer, self.vocabulary.words)).encode())
        return sha.hexdigest()[:16]

    def _batch(self, session: PolicySession, obs: Observation) -> Batch:
        self.embodiment.check(obs)
        frames = side_by_side({camera.name: obs.images[camera.name] for camera in self.embodiment.cameras})
        latents = self.codec.encode(torch.from_numpy(frames)[None, None])
        state = torch.from_numpy(self.state_normalizer.normalize(obs.state))[None]
        config = self.model.config
        return Batch(
            latents=latents,
            state=state,
            text=session.words[None],
            actions=torch.zeros(1, config.horizon, config.action_dim),
            action_pad=torch.zeros(1, config.horizon, dtype=torch.bool),
            latents_pad=torch.zeros(1, 1, dtype=torch.bool),
        )

    def _prefix(self, committed: ActionChunk) -> Tensor:
        self.embodiment.action.check(committed.actions, "committed.actions")
        if committed.horizon >= self.horizon:
            raise ContractError("committed", f"{committed.horizon} actions leave none of {self.horizon} to decide")
        return torch.from_numpy(self.action_normalizer.normalize(committed.actions))[None]

    def _future(self, latents: Tensor, chunk: ActionChunk) -> Future:
        frames = self.codec.decode(latents)[0].numpy()
        offsets = self.info.future_offsets
        return Future(frames=apart(frames, self.embodiment), chunk=chunk, period=offsets[0] * self.embodiment.period)

    def _generator(self, session: PolicySession, purpose: str) -> torch.Generator:
        """Fresh noise for every call, the same for the same session: a replay repeats, a replan does not."""
        label = f"{session.seed}/{session.calls}/{purpose}"
        return torch.Generator().manual_seed(zlib.crc32(label.encode()))


def side_by_side(images: Mapping[str, UInt8[np.ndarray, "*time height width 3"]]) -> UInt8[np.ndarray, "*time h w 3"]:
    """All cameras as one picture, left to right in declared order: the network sees one video."""
    return np.concatenate(list(images.values()), axis=-2)


def apart(
    frames: UInt8[np.ndarray, "time height width 3"], embodiment: Embodiment
) -> dict[str, UInt8[np.ndarray, "time height width 3"]]:
    """The cameras of a joint picture."""
    pieces = rearrange(frames, "t h (n w) c -> n t h w c", n=len(embodiment.cameras))
    return {camera.name: piece for camera, piece in zip(embodiment.cameras, pieces, strict=True)}
