"""DreamZero as a policy: a robot's observations in, chunks in physical units and the future that goes with them out.

    start --> PolicySession --absorb, absorb, ...--> --predict--> PolicySession, Prediction(chunk, future)

A session is a value: what is asked of it leaves it as it was, and gives the next one. `absorb` takes a frame between
two requests, and computes what memory will need of it, so that the next `predict` begins with the actions.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from actloop.contracts import ActionChunk, Committed, Embodiment, Future, Observation, Prediction
from actloop.errors import ContractError, UnknownNameError
from actloop.models.codec import Codec
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.expecting import Expected, Expecting, Outlook
from actloop.models.dreamzero.image import ImageTower
from actloop.models.dreamzero.modes import Manner
from actloop.models.dreamzero.network import DreamZero
from actloop.models.dreamzero.sampling import Noise, SamplerConfig, draw_noise, released_noise
from actloop.models.dreamzero.session import Chunk, DreamZeroActor
from actloop.models.dreamzero.watching import Anchoring, Encoding, Past, SeenFrame, Watcher
from actloop.models.dreamzero.words import PromptWords
from actloop.models.stored import PolicyInfo, Stored, Weighted, digest
from actloop.models.text import Instructions

NOISES = ("fresh", "released")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySession:
    """One robot's episode: its instruction, what was seen of late, and the memory of it."""

    instruction: str
    seed: int
    calls: int = 0
    frames: tuple[SeenFrame, ...] = ()
    past: Past | None = None
    expected: Expected | None = None


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
        self.expecting = Expecting(codec, declaration)
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
    def absorb_every(self) -> int:
        """Every frame, for requests at any tick; none where a block is one frame, which is the request's own."""
        return 1 if self.declaration.block_frames > 1 else 0

    @property
    def sampler(self) -> SamplerConfig:
        return self.actor.sampler

    def set_mode(self, mode: str) -> None:
        """How to remember and to sample (modes.py); sessions from before are not for it.

        Raises:
            UnknownNameError: no such mode.
            ContractError: modes that do not go together; nothing is changed then.
        """
        chosen = Manner(self.model.config.memory, self.anchoring, self.sampler).changed(mode)
        if chosen.sampler.guidance != 1 and self.negative is None:
            raise ContractError("mode", f"guidance {chosen.sampler.guidance:g} needs a negative prompt")
        self.model.config, self.anchoring = replace(self.model.config, memory=chosen.memory), chosen.anchoring
        self._use(chosen.sampler)

    def start(self, instruction: str, *, seed: int) -> PolicySession:
        """A session for one episode.

        Raises:
            ContractError: the instruction is empty, or the text is not known.
        """
        self.words(instruction)
        return PolicySession(instruction=instruction, seed=seed)

    def absorb(self, session: PolicySession, obs: Observation) -> PolicySession:
        """The session after a frame was seen and nothing was asked: it is encoded, and blocks that are complete enter
        the memory.

        Raises:
            ContractError: the observation is not of this body, or older than one before.
        """
        session = self.show(session, obs)
        if session.past is None or self.watcher.due(session.past, session.frames):
            return self._reached(session)
        past = self.watcher.prepared(session.past, session.frames)
        return session if past is session.past else replace(session, past=past)

    def show(self, session: PolicySession, obs: Observation) -> PolicySession:
        """The session that knows a frame, of which nothing is computed before the next request.

        Raises:
            ContractError: the observation is not of this body, or older than one before.
        """
        self.embodiment.check(obs)
        if session.frames and session.frames[-1].tick == obs.tick:
            return session
        picture = self.declaration.picture(obs.images)
        return replace(session, frames=self.watcher.seen(session.frames, obs.tick, picture))

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
        session = self._reached(self.show(session, obs))
        found = self._act(session, obs, committed)
        chunk = self._chunk(found, obs, committed)
        assert session.past is not None
        expected = Expected(tick=obs.tick, latents=found.video, past=session.past.latents)
        future = self.expecting.future(expected, chunk) if imagine else None
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
        return self.expecting.future(after.expected, chunk)

    def outlook(self, session: PolicySession) -> Outlook | None:
        """The last prediction's future beside the frames that arrived since; None before the first of them."""
        return None if session.expected is None else self.expecting.outlook(session.expected, session.frames)

    def describe(self) -> dict[str, object]:
        """Identity for reports: size, sampler, memory, training, digest of the weights."""
        sampler = self.sampler
        reuse = "dynamic" if sampler.reuse.similar else f"{len(sampler.reuse.run) or sampler.steps} evaluations"
        return {
            "name": self.info.name,
            "variant": self.kind,
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
        self.words = PromptWords(self.actor, self.text, self.declaration, self.negative)

    def _reached(self, session: PolicySession) -> PolicySession:
        past = self.watcher.reach(session.past, session.frames, self.words(session.instruction))
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

    def _noise(self, session: PolicySession, purpose: str = "act") -> Noise:
        """The same for the same session and call: a replay repeats, a replan does not."""
        if self.noise == "released" and purpose == "act":
            return released_noise(self.model.config)
        label = f"{session.seed}/{session.calls}/{purpose}"
        return draw_noise(self.model.config, torch.Generator().manual_seed(zlib.crc32(label.encode())))
