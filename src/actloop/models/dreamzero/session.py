"""Acting: a robot's session, and what brings it from observed latents to a chunk.

    start(prompt, anchor) -> Session      act(session, state, noise) -> Chunk      observe(session, latents), ...

A session belongs to its caller and is changed in place; sessions share nothing but the network and its constants, so
they may be interleaved. What was observed is computed when it arrives, before the next chunk is asked for. The two
branches of guidance are two rows of one batch: the prompt, then the negative one.
"""

from collections import deque
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.layers import Context, Words
from actloop.models.dreamzero.memory import Memory
from actloop.models.dreamzero.network import DreamZero, Velocities
from actloop.models.dreamzero.sampling import (
    SOLVERS,
    Noise,
    Reuse,
    Reusing,
    SamplerConfig,
    levels,
    stacked,
    timesteps,
)


@dataclass(slots=True, kw_only=True)
class Anchor:
    """The first frame of a memory: its latents, and what the network takes of it beside them.

    `condition`: of all frames of a window, where the network has channels for it. `image`: the image tower's tokens.
    """

    latents: Float[Tensor, "1 1 channels height width"]
    condition: Float[Tensor, "1 frames extra height width"] | None = None
    image: Float[Tensor, "1 patches features"] | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """What one robot's past has become. `words`: the prompt's keys and values; `recent`: the window's own latents,
    kept where it is computed anew."""

    words: Words
    context: list[Context]
    memory: Memory
    condition: Tensor | None
    recent: deque[Tensor] = field(default_factory=deque)

    @property
    def spent(self) -> bool:
        """Whether the next observation has to be an anchor (`DreamZeroActor.restart`): the released rule."""
        config = self.memory.config
        return config.memory == "released" and self.memory.frames >= config.frames(config.window_blocks - 1)

    def clone(self) -> "Session":
        """The same past, apart: for trying what is not to be kept."""
        return replace(self, memory=self.memory.clone(), recent=deque(self.recent, self.recent.maxlen))


@dataclass(slots=True, kw_only=True)
class Chunk:
    """Normalised actions, the future that goes with them (the anchor and what was observed are not in it), and how
    often the network was asked."""

    actions: Float[Tensor, "1 horizon action"]
    video: Float[Tensor, "1 frames channels height width"]
    evaluations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReuseError:
    """What reusing velocities changes in a chunk: the largest and the root mean square difference."""

    evaluations: int
    of: int
    action_max: float
    action_rms: float
    video_rms: float


class Given:
    """Actions that a chunk begins with."""

    def __init__(
        self,
        prefix: Float[Tensor, "1 done action"] | None,
        noise: Float[Tensor, "1 horizon action"],
        level: Float[Tensor, "levels"],
    ) -> None:
        self.done = 0 if prefix is None else prefix.shape[1]
        if self.done >= noise.shape[1]:
            raise ContractError("prefix", f"{self.done} given actions leave none of {noise.shape[1]} to decide")
        self.prefix = None if prefix is None else prefix.to(noise)
        self.noise, self.level = noise[:, : self.done], [*level[:-1].tolist(), 0.0]

    def at(self, step: int, actions: Float[Tensor, "1 horizon action"]) -> Float[Tensor, "1 horizon action"]:
        """A sample whose given actions are where they have to be before that step."""
        if self.prefix is None:
            return actions
        noised = self.level[step] * self.noise + (1 - self.level[step]) * self.prefix
        return torch.cat([noised, actions[:, self.done :]], dim=1)


class DreamZeroActor:
    """A network with a sampler; what is constant is computed here, once. Weights must not change afterwards."""

    def __init__(self, model: DreamZero, sampler: SamplerConfig | None = None) -> None:
        self.model = model.eval()
        self.sampler = sampler or SamplerConfig()
        steps, shift = self.sampler.steps, self.sampler.shift
        self.video_levels = levels(steps, shift, self.sampler.video_end)
        self.action_levels = levels(steps, shift)
        with torch.no_grad():
            self.times = model.times(stacked([timesteps(self.video_levels), timesteps(self.action_levels)]))
            self.clean = model.times(torch.zeros(1, 1))

    @property
    def config(self) -> DreamZeroConfig:
        return self.model.config

    @torch.no_grad()
    def words(
        self, prompt: Shaped[Tensor, "1 tokens ..."], negative: Shaped[Tensor, "1 tokens ..."] | None = None
    ) -> Words:
        """A prompt as the layers take it, for any number of sessions.

        Raises:
            ContractError: no negative prompt where guidance needs one, or one where nothing asks for it.
        """
        if (negative is None) != (self.sampler.guidance == 1):
            needs = "needs no" if self.sampler.guidance == 1 else "needs a"
            raise ContractError("negative", f"guidance {self.sampler.guidance:g} {needs} negative prompt")
        return self.model.words(prompt if negative is None else torch.cat([prompt, negative]))

    @torch.no_grad()
    def start(self, words: Words, anchor: Anchor) -> Session:
        """A session that has seen its first frame."""
        model, rows = self.model, words.rows
        memory = Memory(self.config, rows, device=model.device, dtype=model.dtype)
        session = Session(words=words, context=[], memory=memory, condition=None)
        self.restart(session, anchor)
        return session

    @torch.no_grad()
    def restart(self, session: Session, anchor: Anchor) -> None:
        """Forget all but the prompt and begin with another first frame.

        Raises:
            ContractError: not one frame, or a condition of another number of frames than a window's.
        """
        config, rows = self.config, session.memory.batch
        wanted = config.window_frames if config.condition_channels else None
        got = None if anchor.condition is None else anchor.condition.shape[1]
        if got != wanted:
            raise ContractError("anchor.condition", f"expected one of {wanted} frames, got {got}")
        pictures = self.model.picture(anchor.image)
        shared = [
            None if one is None else (one[0].expand(rows, *[-1] * 3), one[1].expand(rows, *[-1] * 3))
            for one in pictures
        ]
        words = session.words
        session.context = [Context(*both, words.told) for both in zip(words.layers, shared, strict=True)]
        session.condition = anchor.condition
        session.memory.forget()
        session.recent.clear()
        self._observe(session, anchor.latents)

    @torch.no_grad()
    def observe(self, session: Session, latents: Float[Tensor, "1 frames channels height width"]) -> None:
        """A block of frames that arrived.

        Raises:
            ContractError: not a block, or the session is `spent`.
        """
        if session.spent:
            raise ContractError(
                "session", "its memory is full and is emptied by the released rule: restart it with the newest frame"
            )
        if self.config.memory == "recomputed":
            session.recent.append(latents)
            if len(session.recent) >= self.config.window_blocks:
                session.recent.popleft()
                session.memory.forget(1)
                for block in session.recent:
                    self._observe(session, block)
                return
        self._observe(session, latents)

    @torch.no_grad()
    def act(
        self,
        session: Session,
        state: Float[Tensor, "1 state"],
        noise: Noise,
        *,
        prefix: Float[Tensor, "1 done action"] | None = None,
        reuse: Reuse | None = None,
    ) -> Chunk:
        """The next chunk and its video, from this noise; the session is left as it was.

        `prefix`: the first actions, where they are given already: in every step they are put on their own way from
        noise to data. `reuse`: instead of the sampler's own.

        Raises:
            ContractError: a prefix that leaves no action to decide.
        """
        video, actions = (x.to(self.model.device) for x in (noise.video, noise.action))
        given = Given(prefix, actions, self.action_levels)
        solver = SOLVERS[self.sampler.solver]
        video_solver, action_solver = solver(self.video_levels), solver(self.action_levels)
        reusing, velocity, evaluations = Reusing(reuse or self.sampler.reuse), None, 0
        for step in range(self.sampler.steps):
            actions = given.at(step, actions)
            if velocity is None or reusing.asks(step):
                velocity = self._velocity(session, video, actions, state, step)
                reusing.answered(velocity.video)
                evaluations += 1
            assert velocity.actions is not None
            video = video_solver.step(velocity.video, video)
            actions = action_solver.step(velocity.actions, actions)
        if velocity is not None and self.sampler.video_end:
            video = video - self.video_levels[-1].item() * velocity.video  # where it was going
        actions = given.at(self.sampler.steps, actions)
        return Chunk(actions=actions, video=video, evaluations=evaluations)

    def reuse_error(self, session: Session, state: Float[Tensor, "1 state"], noise: Noise) -> ReuseError:
        """What the sampler's reuse changes here, against asking in every step."""
        ours, full = self.act(session, state, noise), self.act(session, state, noise, reuse=Reuse())
        action, video = ours.actions - full.actions, ours.video - full.video
        return ReuseError(
            evaluations=ours.evaluations,
            of=full.evaluations,
            action_max=float(action.abs().max()),
            action_rms=float(action.square().mean().sqrt()),
            video_rms=float(video.square().mean().sqrt()),
        )

    def _observe(self, session: Session, latents: Tensor) -> None:
        condition = self._condition(session, latents.shape[1])
        self.model.observe(session.memory, latents.to(self.model.device), session.context, self.clean, condition)

    def _velocity(self, session: Session, video: Tensor, actions: Tensor, state: Tensor, step: int) -> Velocities:
        """Guided, in fp32: actions follow the prompt's own branch."""
        found = self.model.denoise(
            session.memory,
            video,
            self.times,
            step,
            session.context,
            actions=actions,
            state=state.to(self.model.device),
            condition=self._condition(session, self.config.block_frames),
        )
        assert found.actions is not None
        towards, *away = torch.split(found.video.float(), len(video))
        if away:
            towards = away[0] + self.sampler.guidance * (towards - away[0])
        return Velocities(video=towards, actions=found.actions[: len(actions)].float())

    def _condition(self, session: Session, frames: int) -> Tensor | None:
        if session.condition is None:
            return None
        first = session.memory.first
        return session.condition[:, first : first + frames].to(self.model.device)
