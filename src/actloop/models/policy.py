"""The policy: everything that carries one network to the robot's physical units and back.

Observation --codec, normalise, words--> Batch --network--> actions, latents --denormalise, decode--> Prediction
"""

import functools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from actloop.actions.grippers import gripper_convention
from actloop.actions.normalizers import Normalizer
from actloop.contracts import ActionChunk, Committed, Embodiment, Future, Observation, Prediction
from actloop.errors import ContractError, UnknownNameError
from actloop.models.codec import Codec
from actloop.models.fastwam import CONTINUATIONS, Continuation, FastWAM, Leftover, Noise, Prompt, Seen, leftover
from actloop.models.fastwam.compiled import CompiledFastWAM
from actloop.models.layers import KeyValue
from actloop.models.stored import PolicyInfo, Stored, digest
from actloop.models.text import Instructions
from actloop.models.views import Mosaic
from actloop.models.wan import PromptCache, WanCodec

PROMPTS_KEPT = 4
MODES = ("idm", "first-frame")  # of a variant that acts both ways: on an imagined future, or without one


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySession:
    """What a policy remembers of one episode: its instruction, and how often it was asked."""

    instruction: str
    seed: int
    calls: int = 0


class FastWAMPolicy:
    """A trained Fast-WAM on one robot: a `WorldActionModel` (of `no-cotrain`, only the acting half means anything).

    `mosaic` makes one picture of the cameras (default: side by side, as declared), `gripper` names the convention of
    the data.
    """

    kind = "fast-wam"

    def __init__(
        self,
        *,
        model: FastWAM,
        codec: Codec,
        text: Instructions,
        embodiment: Embodiment,
        state: Normalizer,
        action: Normalizer,
        info: PolicyInfo,
        mosaic: Mosaic | None = None,
        gripper: str = "as-recorded",
    ) -> None:
        self.model = model.eval()
        self.codec = codec
        self.text = text
        self.info = info
        sizes = {camera.name: (camera.height, camera.width) for camera in embodiment.cameras}
        self.mosaic = mosaic or Mosaic.side_by_side(sizes)
        self.gripper = gripper_convention(gripper)
        self.state_normalizer = state
        self.action_normalizer = action
        self.mode = MODES[0] if self.model.variant.imagined_share < 1 else ""
        self.continuation: Continuation = "trained" if self.committed_max else "prefix"
        self._runner: FastWAM | CompiledFastWAM = self.model
        self._embodiment = embodiment
        self._prompts: dict[str, Prompt] = {}
        self._rows = 1  # of the largest batch so far

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def device(self) -> torch.device:
        return self.model.proprio_encoder.weight.device

    @property
    def horizon(self) -> int:
        return self.model.config.horizon

    @property
    def imagines(self) -> bool:
        """Whether the future was trained at all."""
        return self.model.variant.trains_video

    @property
    def follows_chunk(self) -> bool:
        """Whether it imagines the consequences of any chunk, not only of its own behaviour."""
        return self.model.variant.video_sees_actions

    @property
    def committed_max(self) -> int:
        """Up to how many committed actions it was trained to continue; 0 where it never was."""
        return self.model.config.committed_max

    def set_mode(self, mode: str) -> None:
        """How to act, as names joined by `+`.

        One of `idm`, on an imagined future, and `first-frame`, without one, where the variant learned both; and how to
        continue committed actions: `prefix`, `guided`, `guided-identity` or `trained` (fastwam/continuation.py).

        Raises:
            UnknownNameError: no such mode.
            ContractError: the variant acts in one way only, or was not trained to continue; nothing is changed then.
        """
        chosen, continuation = self.mode, self.continuation
        for name in mode.split("+"):
            if name in MODES:
                if not self.mode:
                    reason = f"variant {self.model.variant.name!r} acts in one way; only 'optional-idm' has modes"
                    raise ContractError("mode", reason)
                chosen = name
            elif name in CONTINUATIONS:
                if name == "trained" and not self.committed_max:
                    known = [other for other in CONTINUATIONS if other != name]
                    raise ContractError("mode", f"{self.info.name!r} was not trained to continue; it has {known}")
                continuation = name
            else:
                raise UnknownNameError("mode", name, (*MODES, *CONTINUATIONS))
        self.mode, self.continuation = chosen, continuation

    def compile(self) -> "FastWAMPolicy":
        """Act through compiled layers, on CUDA as CUDA graphs: first calls take long, and weights must not change."""
        self._runner = CompiledFastWAM(self.model)
        return self

    def start(self, instruction: str, *, seed: int) -> PolicySession:
        """A session for one episode.

        Raises:
            ContractError: the instruction has an unknown word or is too long.
        """
        self._prompt(instruction)
        return PolicySession(instruction=instruction, seed=seed)

    def predict(
        self,
        session: PolicySession,
        obs: Observation,
        *,
        committed: Committed | None = None,
        imagine: bool = False,
    ) -> tuple[PolicySession, Prediction]:
        """A chunk anchored to `obs`; with `imagine`, also the future (None where it was never trained).

        `committed` is continued in the way that `set_mode` chose.

        Raises:
            ContractError: the observation or `committed` is not of this body, or leaves nothing to decide.
        """
        left = self._left(committed)
        seen = self._see(session, obs)
        actions, latents = self._act(seen, self._noise(session, "act"), left)
        chunk = self._chunk(actions[0], obs)
        future = None
        if imagine and self.imagines:
            if latents is None:
                given = actions if self.follows_chunk else None
                latents = self.model.imagine(seen, self._noise(session, "imagine"), actions=given)
            future = self._future(seen.reading.frame, latents, chunk)
        return replace(session, calls=session.calls + 1), Prediction(chunk=chunk, future=future)

    def predict_batch(
        self, sessions: Sequence[PolicySession], observations: Sequence[Observation], *, imagine: bool = False
    ) -> list[tuple[PolicySession, Prediction]]:
        """As `predict`, for several episodes in one pass; each row has the noise of its own session.

        Raises:
            ContractError: not one observation for each session, none, or one that is not of this body.
        """
        if len(sessions) != len(observations) or not sessions:
            raise ContractError("batch", f"{len(sessions)} sessions and {len(observations)} observations")
        seen = self._see_all(sessions, observations)
        actions, latents = self._act(seen, stacked([self._noise(session, "act") for session in sessions]), None)
        if imagine and self.imagines and latents is None:
            given = actions if self.follows_chunk else None
            noise = stacked([self._noise(session, "imagine") for session in sessions])
            latents = self.model.imagine(seen, noise, actions=given)
        answers = []
        for row, (session, obs) in enumerate(zip(sessions, observations, strict=True)):
            chunk, future = self._chunk(actions[row], obs), None
            if imagine and latents is not None and self.imagines:
                future = self._future(seen.reading.frame[row, None].clone(), latents[row, None].clone(), chunk)
            answers.append((replace(session, calls=session.calls + 1), Prediction(chunk=chunk, future=future)))
        return answers

    def sample(
        self, session: PolicySession, obs: Observation, *, count: int, committed: Committed | None = None
    ) -> tuple[PolicySession, list[ActionChunk]]:
        """Chunks from `count` noises, in one pass over the observation; the first is what `predict` answers.

        Raises:
            ContractError: as `predict`, or no chunk is asked for.
        """
        if count < 1:
            raise ContractError("count", f"expected 1 or more, got {count}")
        left = self._left(committed)
        seen = self._see(session, obs)
        noises = [self._noise(session, f"act/{number}" if number else "act") for number in range(count)]
        actions, _ = self._act(seen, stacked(noises), left)
        return replace(session, calls=session.calls + 1), [self._chunk(each, obs) for each in actions]

    def imagine(self, session: PolicySession, obs: Observation, chunk: ActionChunk) -> Future:
        """What will be seen after `obs`: if `chunk` is executed (variant `action-conditioned`), or else, since video
        never attends to actions in the other variants, what the policy expects of itself, whatever `chunk` says.

        Raises:
            ContractError: the future was never trained (`no-cotrain`), or the chunk is not of this policy's size.
        """
        if not self.imagines:
            variant = self.model.config.variant
            raise ContractError("policy.imagine", f"variant {variant!r} was trained without video, it cannot imagine")
        given = self._given(chunk) if self.follows_chunk else None
        seen = self._see(session, obs)
        latents = self.model.imagine(seen, self._noise(session, "imagine"), actions=given)
        return self._future(seen.reading.frame, latents, chunk)

    def describe(self) -> dict[str, object]:
        """Identity for reports: variant, size, training, digest of the weights."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "name": self.info.name,
            "variant": self.model.config.variant,
            **({"mode": self.mode} if self.mode == MODES[1] else {}),
            "continuation": self.continuation,
            "parameters": parameters,
            "embodiment": self.embodiment.name,
            "digest": self.digest(),
            "training": dict(self.info.training),
        }

    def digest(self) -> str:
        """Sixteen hex digits over every weight, normaliser and word."""
        return digest((self.model, self.codec), self.state_normalizer, self.action_normalizer, self.text.instructions)

    def stored(self, *, half: bool = False) -> Stored:
        """What its file holds; fastwam_file.py rebuilds it."""
        model = self.model.state_dict()
        tensors = {f"model.{name}": tensor.half() if half else tensor for name, tensor in model.items()}
        tensors |= {f"codec.{name}": tensor for name, tensor in self.codec.state_dict().items()}
        told: dict[str, object] = {"vocabulary": list(self.text.instructions)}
        if isinstance(self.text, PromptCache):
            contexts = self.text.contexts
            tensors |= {f"prompts.{index}": context for index, context in enumerate(contexts.values())}
            facts = {"template": self.text.template, "encoder": self.text.encoder, "max_tokens": self.text.max_tokens}
            told = {"prompts": {"instructions": list(contexts), **facts}}
        header = {
            "config": asdict(self.model.config),
            "dtype": str(self.model.proprio_encoder.weight.dtype).removeprefix("torch."),
            "mosaic": self.mosaic.to_dict(),
            "gripper": self.gripper.name,
            "state": self.state_normalizer.to_dict(),
            "action": self.action_normalizer.to_dict(),
            "codec": "wan" if isinstance(self.codec, WanCodec) else "patches",
            **told,
        }
        return Stored(header=header, tensors=tensors)

    def _see(self, session: PolicySession, obs: Observation) -> Seen:
        return self._see_all([session], [obs])

    def _see_all(self, sessions: Sequence[PolicySession], observations: Sequence[Observation]) -> Seen:
        self._rows = max(self._rows, len(sessions))
        frames, states = [], []
        for obs in observations:
            self.embodiment.check(obs)
            frames.append(self.mosaic.compose({name: obs.images[name] for name in self.mosaic.cameras})[None])
            states.append(self.state_normalizer.normalize(obs.state))
        latents = self.codec.encode(torch.from_numpy(np.stack(frames)).to(self.device))
        state = torch.from_numpy(np.stack(states)).to(self.device)
        return self._runner.see(latents, state, side_by_side([self._prompt(one.instruction) for one in sessions]))

    @torch.no_grad()
    def _prompt(self, instruction: str) -> Prompt:
        """Computed once per instruction; the newest few are kept, and those of two batches."""
        if instruction not in self._prompts:
            self._prompts[instruction] = self.model.prompt(self.text.encode(instruction)[None].to(self.device))
            if len(self._prompts) > max(PROMPTS_KEPT, 2 * self._rows):
                self._prompts.pop(next(iter(self._prompts)))
        return self._prompts[instruction]

    def _left(self, committed: Committed | None) -> Leftover | None:
        if committed is None:
            return None
        actions = self._normalized(committed.actions, "committed")
        return leftover(actions, fixed=committed.fixed, horizon=self.horizon, how=self.continuation)

    def _act(self, seen: Seen, noise: Noise, left: Leftover | None) -> tuple[Tensor, Tensor | None]:
        return self._runner.act(seen, noise, left=left, skip_future=self.mode == MODES[1])

    def _chunk(self, actions: Tensor, obs: Observation) -> ActionChunk:
        physical = self.action_normalizer.denormalize(actions.double().cpu().numpy())
        return ActionChunk(
            actions=self.gripper.to_body(physical),
            anchor=obs.tick,
            period=self.embodiment.period,
            observed_at=obs.time,
        )

    def _given(self, chunk: ActionChunk) -> Tensor:
        if chunk.horizon != self.horizon:
            raise ContractError("chunk", f"expected {self.horizon} actions, as this policy plans, got {chunk.horizon}")
        return self._normalized(chunk.actions, "chunk")

    def _normalized(self, actions: np.ndarray, path: str) -> Tensor:
        self.embodiment.action.check(actions, f"{path}.actions")
        normalized = self.action_normalizer.normalize(self.gripper.to_data(actions))
        return torch.from_numpy(normalized)[None].to(self.device)

    def _future(self, frame: Tensor, latents: Tensor, chunk: ActionChunk) -> Future:
        def decode() -> dict[str, UInt8[np.ndarray, "time height width 3"]]:
            frames = self.codec.decode(torch.cat([frame, latents], dim=1).float())
            return self.mosaic.apart(frames[0, 1:].cpu().numpy())

        names = tuple(camera.name for camera in self.embodiment.cameras)
        ticks = self.model.config.future_offsets[0] / self.codec.temporal_stride
        return Future(
            frames=LazyFrames(names, decode),
            chunk=chunk,
            period=ticks * self.embodiment.period,
            follows_chunk=self.follows_chunk,
        )

    def _noise(self, session: PolicySession, purpose: str) -> Noise:
        """Fresh noise for every call, the same for the same session: a replay repeats, a replan does not."""
        label = f"{session.seed}/{session.calls}/{purpose}"
        return self.model.noise(1, torch.Generator().manual_seed(zlib.crc32(label.encode())))


def stacked(noises: Sequence[Noise]) -> Noise:
    """Starting points of several samples in one batch."""
    videos = [noise.video for noise in noises if noise.video is not None]
    video = torch.cat(videos) if videos else None
    return Noise(action=torch.cat([noise.action for noise in noises]), video=video)


def side_by_side(prompts: Sequence[Prompt]) -> Prompt:
    """Several instructions in one batch; all are of one length, which the network fixes."""
    if len(prompts) == 1:
        return prompts[0]

    def joined(which: Callable[[Prompt], list[KeyValue]]) -> list[KeyValue]:
        layers = zip(*map(which, prompts), strict=True)
        return [(torch.cat([key for key, _ in rows]), torch.cat([value for _, value in rows])) for rows in layers]

    return Prompt(
        text=torch.cat([prompt.text for prompt in prompts]),
        video=joined(lambda prompt: prompt.video),
        action=joined(lambda prompt: prompt.action),
    )


class LazyFrames(Mapping[str, UInt8[np.ndarray, "time height width 3"]]):
    """Imagined frames by camera, decoded when somebody first looks at one."""

    def __init__(
        self, cameras: tuple[str, ...], decode: Callable[[], dict[str, UInt8[np.ndarray, "time height width 3"]]]
    ) -> None:
        self._cameras = cameras
        self._decode = functools.cache(decode)

    def __getitem__(self, camera: str) -> UInt8[np.ndarray, "time height width 3"]:
        return self._decode()[camera]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cameras)

    def __len__(self) -> int:
        return len(self._cameras)

    def __reduce__(self) -> tuple[type[dict], tuple[dict[str, np.ndarray]]]:  # type: ignore[type-arg]
        return dict, (self._decode(),)
