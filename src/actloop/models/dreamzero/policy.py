"""DreamZero as a policy: a robot's observations in, chunks in physical units and the future that goes with them out.

    start --> PolicySession --absorb, absorb, ...--> --predict--> PolicySession, Prediction(chunk, future)

A session is a value: what is asked of it leaves it as it was, and gives the next one. `absorb` takes a frame between
two requests, and computes what memory will need of it, so that the next `predict` begins with the actions.
"""

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from torch import Tensor

from actloop.contracts import ActionChunk, Committed, Embodiment, Future, Observation, Prediction
from actloop.errors import ContractError, UnknownNameError
from actloop.models.codec import Codec
from actloop.models.dreamzero.config import MEMORIES
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.image import ImageTower
from actloop.models.dreamzero.layers import Words
from actloop.models.dreamzero.network import DreamZero
from actloop.models.dreamzero.sampling import Noise, Reuse, SamplerConfig, draw_noise, released_noise
from actloop.models.dreamzero.session import Chunk, DreamZeroActor
from actloop.models.dreamzero.watching import Anchoring, Encoding, Past, SeenFrame, Watcher
from actloop.models.policy import LazyFrames
from actloop.models.stored import PolicyInfo, Stored, Weighted, digest
from actloop.models.text import Instructions
from actloop.models.wan.vae import WanCodec

PROMPTS_KEPT = 4
NOISES = ("fresh", "released")
ANCHORS: dict[str, Anchoring] = {"kept-anchor": "kept", "moved-anchor": "moved"}
MODES = (*MEMORIES, *ANCHORS, "flash", "all-steps", "dynamic-reuse", "N-steps", "reuse-N")
_STEPS, _REUSE = re.compile(r"(\d+)-steps?"), re.compile(r"reuse-([5-8])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The future of the last prediction, in latents; `past` is what it follows."""

    tick: int
    latents: Tensor
    past: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySession:
    """One robot's episode: its instruction, what was seen of late, and the memory of it."""

    instruction: str
    seed: int
    calls: int = 0
    frames: tuple[SeenFrame, ...] = ()
    past: Past | None = None
    expected: Expected | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the last prediction expected to be seen, and what then was, at the ticks of which both are known."""

    ticks: tuple[int, ...]
    expected: Mapping[str, UInt8[np.ndarray, "time height width 3"]]
    arrived: Mapping[str, UInt8[np.ndarray, "time height width 3"]]


class DreamZeroPolicy:
    """A DreamZero on one robot: a `WorldActionModel` whose future is what it expects of itself.

    `text` knows prompts (`RobotDeclaration.prompt`). `negative`: what guidance leads away from, as the text encoder
    gives it. `encoding`, `anchoring`: see `Watcher`. `noise`: drawn for every chunk ("fresh"), or one for all of them
    ("released").
    """

    kind = "dreamzero"
    follows_chunk = False

    def __init__(
        self,
        *,
        model: DreamZero,
        codec: Codec,
        text: Instructions,
        declaration: RobotDeclaration,
        info: PolicyInfo,
        sampler: SamplerConfig | None = None,
        tower: ImageTower | None = None,
        negative: Shaped[Tensor, "tokens ..."] | None = None,
        encoding: Encoding = "stream",
        anchoring: Anchoring = "kept",
        noise: str = "fresh",
    ) -> None:
        """Raises:
        ContractError: network, codec, robot, tower or negative prompt do not fit each other, or the robot has no
            statistics.
        """
        if noise not in NOISES:
            raise UnknownNameError("noise", noise, NOISES)
        self.model, self.codec, self.text, self.info = model.eval(), codec, text, info
        self.declaration, self.tower, self.negative = declaration, tower, negative
        self.encoding, self.anchoring, self.noise = encoding, anchoring, noise
        self.draw: Callable[[PolicySession], Noise] = self._noise
        _ = declaration.known
        self._use(sampler or SamplerConfig(guidance=1.0))

    @property
    def embodiment(self) -> Embodiment:
        return self.declaration.embodiment

    @property
    def horizon(self) -> int:
        return self.model.config.block_actions

    @property
    def sampler(self) -> SamplerConfig:
        return self.actor.sampler

    def set_mode(self, mode: str) -> None:
        """How to remember and to sample, as names joined by `+`; sessions from before are not for it.

        `sliding`, `recomputed` or `released`: what happens past the window; `kept-anchor` or `moved-anchor`: see
        `Watcher`. `flash`: one step; `N-steps`: so many. `reuse-N` (5 to 8 of 16), `dynamic-reuse` or `all-steps`:
        which of them ask the network.

        Raises:
            UnknownNameError: no such mode.
            ContractError: modes that do not go together; nothing is changed then.
        """
        memory, anchoring, sampler = self.model.config.memory, self.anchoring, self.sampler
        for name in mode.split("+"):
            if name in MEMORIES:
                memory = name
            elif name in ANCHORS:
                anchoring = ANCHORS[name]
            else:
                sampler = _sampler(name, sampler)
        if sampler.guidance != 1 and self.negative is None:
            raise ContractError("mode", f"guidance {sampler.guidance:g} needs a negative prompt")
        self.model.config, self.anchoring = replace(self.model.config, memory=memory), anchoring
        self._use(sampler)

    def start(self, instruction: str, *, seed: int) -> PolicySession:
        """A session for one episode.

        Raises:
            ContractError: the instruction is empty, or the text is not known.
        """
        self._words(instruction)
        return PolicySession(instruction=instruction, seed=seed)

    def absorb(self, session: PolicySession, obs: Observation) -> PolicySession:
        """The session after a frame was seen and nothing was asked; blocks that are complete enter the memory.

        Raises:
            ContractError: the observation is not of this body, or older than one before.
        """
        session = self._seen(session, obs)
        if not self.watcher.due(session.past, session.frames):
            return session
        return self._reached(session)

    def predict(
        self,
        session: PolicySession,
        obs: Observation,
        *,
        committed: Committed | None = None,
        imagine: bool = False,
    ) -> tuple[PolicySession, Prediction]:
        """A chunk anchored to `obs`; with `imagine`, also the future, which is decoded when it is looked at.

        `committed`: its fixed actions begin the chunk, and the rest is sampled to go on from them.

        Raises:
            ContractError: the observation or `committed` is not of this body, or leaves nothing to decide.
        """
        session = self._reached(self._seen(session, obs))
        found = self._act(session, obs, committed)
        chunk = self._chunk(found, obs, committed)
        assert session.past is not None
        expected = Expected(tick=obs.tick, latents=found.video, past=session.past.latents)
        future = self._future(expected, chunk) if imagine else None
        after = replace(session, calls=session.calls + 1, expected=expected)
        return after, Prediction(chunk=chunk, future=future)

    def sample(
        self, session: PolicySession, obs: Observation, *, count: int, committed: Committed | None = None
    ) -> tuple[PolicySession, list[ActionChunk]]:
        """Chunks from `count` noises on one memory; the first is what `predict` answers.

        Raises:
            ContractError: as `predict`, or no chunk is asked for.
        """
        if count < 1:
            raise ContractError("count", f"expected 1 or more, got {count}")
        after, first = self.predict(session, obs, committed=committed)
        chunks = [first.chunk]
        for number in range(1, count):
            other = replace(after, calls=session.calls)
            found = self._act(other, obs, committed, noise=self._noise(other, f"act/{number}"))
            chunks.append(self._chunk(found, obs, committed))
        return after, chunks

    def imagine(self, session: PolicySession, obs: Observation, chunk: ActionChunk) -> Future:
        """What the policy expects to see after `obs`; that depends on what it would do, not on `chunk`.

        Raises:
            ContractError: the observation is not of this body.
        """
        after, _ = self.predict(session, obs)
        assert after.expected is not None
        return self._future(after.expected, chunk)

    def outlook(self, session: PolicySession) -> Outlook | None:
        """The last prediction's future beside the frames that arrived since; None before the first of them."""
        expected = session.expected
        if expected is None:
            return None
        step = self.declaration.frame_ticks
        shown = {frame.tick: frame.picture for frame in session.frames}
        wanted = [expected.tick + step * (index + 1) for index in range(self.declaration.block_frames)]
        known = [index for index, tick in enumerate(wanted) if tick in shown]
        if not known:
            return None
        arrived = np.stack([shown[wanted[index]] for index in known])
        return Outlook(
            ticks=tuple(wanted[index] for index in known),
            expected=self.declaration.apart(self._decoded(expected)[known]),
            arrived=self.declaration.apart(arrived),
        )

    def describe(self) -> dict[str, object]:
        """Identity for reports: size, sampler, memory, training, digest of the weights."""
        sampler = self.sampler
        reuse = "dynamic" if sampler.reuse.similar else f"{len(sampler.reuse.run) or sampler.steps} evaluations"
        return {
            "name": self.info.name,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "embodiment": self.embodiment.name,
            "memory": f"{self.model.config.memory}, anchor {self.anchoring}",
            "sampler": f"{sampler.solver}, {sampler.steps} steps, {reuse}, guidance {sampler.guidance:g}",
            "digest": self.digest(),
            "training": dict(self.info.training),
        }

    def digest(self) -> str:
        """Sixteen hex digits over every weight, the declaration and what can be said."""
        modules: list[Weighted] = [self.model, self.codec, *([] if self.tower is None else [self.tower])]
        return digest(modules, self.declaration.to_dict(), self.text.instructions)

    def stored(self, *, half: bool = False) -> Stored:
        """What its file holds; files.py rebuilds it."""
        from actloop.models.dreamzero.files import stored

        return stored(self, half=half)

    # parts of an answer

    def _use(self, sampler: SamplerConfig) -> None:
        if sampler.guidance != 1 and self.negative is None:
            raise ContractError("negative", f"guidance {sampler.guidance:g} needs a negative prompt")
        self.actor = DreamZeroActor(self.model, sampler)
        self.watcher = Watcher(
            self.actor,
            self.codec,
            self.declaration,
            tower=self.tower,
            encoding=self.encoding,
            anchoring=self.anchoring,
        )
        self._prompts: dict[str, Words] = {}

    def _words(self, instruction: str) -> Words:
        """Keys and values of a prompt, computed once; the newest few are kept."""
        if instruction not in self._prompts:
            prompt = self.text.encode(self.declaration.prompt(instruction))[None].to(self.model.device)
            negative = None
            if self.negative is not None and self.sampler.guidance != 1:
                negative = _as_long(self.negative[None].to(prompt), prompt)
            self._prompts[instruction] = self.actor.words(prompt, negative)
            if len(self._prompts) > PROMPTS_KEPT:
                self._prompts.pop(next(iter(self._prompts)))
        return self._prompts[instruction]

    def _seen(self, session: PolicySession, obs: Observation) -> PolicySession:
        self.embodiment.check(obs)
        if session.frames and session.frames[-1].tick == obs.tick:
            return session
        picture = self.declaration.picture(obs.images)
        return replace(session, frames=self.watcher.seen(session.frames, obs.tick, picture))

    def _reached(self, session: PolicySession) -> PolicySession:
        past = self.watcher.reach(session.past, session.frames, self._words(session.instruction))
        return session if past is session.past else replace(session, past=past)

    def _act(
        self, session: PolicySession, obs: Observation, committed: Committed | None, *, noise: Noise | None = None
    ) -> Chunk:
        assert session.past is not None
        state = self.declaration.normalize_states(obs.state[None], self.model.config.state_dim)
        prefix = None
        if committed is not None and committed.fixed:
            prefix = self._prefix(committed, obs)
        noise = noise or self.draw(session)
        return self.actor.act(session.past.session, torch.from_numpy(state), noise, prefix=prefix)

    def _prefix(self, committed: Committed, obs: Observation) -> Tensor:
        self.embodiment.action.check(committed.actions, "committed.actions")
        if committed.fixed >= self.horizon:
            left = f"{committed.fixed} fixed actions leave none of {self.horizon} to decide"
            raise ContractError("committed", left)
        fixed = committed.actions[None, : committed.fixed]
        found = self.declaration.normalize_actions(fixed, obs.state[None], self.model.config.action_dim)
        return torch.from_numpy(found)

    def _chunk(self, found: Chunk, obs: Observation, committed: Committed | None) -> ActionChunk:
        plain = found.actions.float().cpu().numpy()
        actions = self.declaration.denormalize_actions(plain, obs.state[None])[0]
        if committed is not None:
            actions[: committed.fixed] = committed.actions[: committed.fixed]  # as they are, not as they were clipped
        return ActionChunk(actions=actions, anchor=obs.tick, period=self.embodiment.period, observed_at=obs.time)

    def _future(self, expected: Expected, chunk: ActionChunk) -> Future:
        names = tuple(camera.name for camera in self.embodiment.cameras)
        return Future(
            frames=LazyFrames(names, lambda: self.declaration.apart(self._decoded(expected))),
            chunk=chunk,
            period=self.declaration.frame_ticks * self.embodiment.period,
        )

    def _decoded(self, expected: Expected) -> UInt8[np.ndarray, "frames height width 3"]:
        """The pictures of a block, after those that came before it where the codec is causal."""
        parts = [*expected.past, expected.latents] if isinstance(self.codec, WanCodec) else [expected.latents]
        frames = self.codec.decode(torch.cat([part.to(expected.latents).float() for part in parts], dim=1))
        pictures: np.ndarray = frames[0, -self.declaration.block_frames :].cpu().numpy()
        return pictures

    def _noise(self, session: PolicySession, purpose: str = "act") -> Noise:
        """The same for the same session and call: a replay repeats, a replan does not."""
        if self.noise == "released" and purpose == "act":
            return released_noise(self.model.config)
        label = f"{session.seed}/{session.calls}/{purpose}"
        return draw_noise(self.model.config, torch.Generator().manual_seed(zlib.crc32(label.encode())))


def _sampler(name: str, sampler: SamplerConfig) -> SamplerConfig:
    """A sampler changed as a mode's name says."""
    steps, reuse = _STEPS.fullmatch(name), _REUSE.fullmatch(name)
    if name == "flash":
        return SamplerConfig.flash()
    if steps is not None:
        return replace(sampler, steps=int(steps[1]), reuse=Reuse())
    if reuse is not None:
        return replace(sampler, reuse=Reuse.released(int(reuse[1])))
    known = {"all-steps": Reuse(), "dynamic-reuse": Reuse.dynamic()}
    if name not in known:
        raise UnknownNameError("mode", name, MODES)
    return replace(sampler, reuse=known[name])


def _as_long(text: Tensor, other: Tensor) -> Tensor:
    """Padded with zeros to the tokens of another."""
    missing = other.shape[1] - text.shape[1]
    if missing < 0:
        raise ContractError("negative", f"{other.shape[1]} tokens fit, got {text.shape[1]}")
    return torch.cat([text, text.new_zeros(1, missing, *text.shape[2:])], dim=1)
