r"""Fast-WAM: a video expert and an action expert that share their attention (Yuan et al., arXiv 2603.16666).

    current frame --> first  --\                          first  sees  first
    noise         --> future ---> mixture of transformers  future sees  first, future  (video never sees actions)
    noise         --> action --/   (shared attention)      action sees  first, action + what its variant allows

One core, and a `Variant` per answer to "where does prediction live?" (config.py): what the action tokens see, whether
the future is trained, and whether it is denoised before or with the actions.

    no-cotrain    action sees first            future is never trained: a plain VLA
    fast          action sees first            future is trained, never computed at test time
    joint         action sees first, future    both are denoised together
    idm           action sees first, future    the future is denoised first, actions follow from the imagined one
    optional-idm  as idm, or as fast           trained so that it acts with and without imagining
    action-conditioned  as fast                the future also sees a given chunk: what happens if I do this?

Names and shapes of the parameters, timesteps, velocities and masks are those of the released code. It differs in what
it does not compute: the clean first frame runs once where the released imagine-then-act training runs it twice, masks
are dense attentions, and what is constant (context, first frame, time) is computed once, not in every step. The small
configuration adds a convolutional stem on the first frame, learned word embeddings and a head that predicts change.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from actloop.models.action_model import Batch
from actloop.models.fastwam.config import VARIANTS, FastWAMConfig
from actloop.models.fastwam.continuation import Continuation, Leftover, leftover
from actloop.models.fastwam.experts import ActionExpert, VideoExpert
from actloop.models.fastwam.mixture import Stream, mix
from actloop.models.fastwam.sampling import Noise, Seen, act, imagine, with_clean
from actloop.models.flow import TIMESTEPS, bell_weight, noised, shifted
from actloop.models.layers import KeyValue, rope_table
from actloop.models.stem import Stem

Context = tuple[list[KeyValue], Bool[Tensor, "tokens context"] | None]

MIN_LEVEL = 1e-4  # a velocity out of a predicted change is divided by its noise level


@dataclass(slots=True, kw_only=True)
class Prompt:
    """One instruction as the transformers take it: computed once, kept as long as the instruction stands."""

    text: Float[Tensor, "batch tokens text"]
    video: list[KeyValue]
    action: list[KeyValue]


@dataclass(slots=True, kw_only=True)
class Reading:
    """One observation as the transformers take it: first-frame latents and tokens, and the context of each expert."""

    frame: Float[Tensor, "batch 1 channels height width"]
    tokens: Float[Tensor, "batch tokens hidden"]
    video: list[KeyValue]
    action: list[KeyValue]


@dataclass(slots=True, kw_only=True)
class Draws:
    """The randomness of one training step. Levels are noise levels, 0 (data) to 1 (noise).

    `copy_*` belong to the conditioning copy of imagine-then-act (level 0: clean); `imagines` says which samples let
    their actions see it. `committed` marks the actions that are given clean, where continuing them is trained.
    """

    video_noise: Float[Tensor, "batch time channels height width"]
    video_level: Float[Tensor, "batch"]
    action_noise: Float[Tensor, "draws horizon action"]
    action_level: Float[Tensor, "draws"]
    copy_noise: Float[Tensor, "batch time channels height width"]
    copy_level: Float[Tensor, "batch"]
    imagines: Bool[Tensor, "batch"]
    committed: Bool[Tensor, "draws horizon"] | None = None


class FastWAM(nn.Module):
    """The network, its losses and its samplers; latents, states and actions are normalised tensors.

    `checkpointed`: layers are computed again in the backward pass, for less memory in training.
    """

    def __init__(self, config: FastWAMConfig) -> None:
        super().__init__()
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.checkpointed = False
        video = VideoExpert(config, sees_actions=self.variant.video_sees_actions)
        self.mixtures = nn.ModuleDict({"video": video, "action": ActionExpert(config)})
        self.proprio_encoder = nn.Linear(config.state_dim, config.text_dim)
        if config.vocabulary:
            self.words = nn.Embedding(config.vocabulary, config.text_dim, padding_idx=0)
            self.word_positions = nn.Parameter(torch.randn(config.text_tokens, config.text_dim) * 0.1)
        if config.stem_channels:
            self.stem = Stem(
                latent_channels=config.latent_channels,
                channels=config.stem_channels,
                keypoints=config.keypoints,
                cameras=config.cameras,
                hidden=config.video.hidden,
                text_dim=config.text_dim,
                state_dim=config.state_dim,
            )
        self._ropes: dict[torch.device, dict[str, Tensor]] = {}

    @property
    def video(self) -> VideoExpert:
        expert = self.mixtures["video"]
        assert isinstance(expert, VideoExpert)
        return expert

    @property
    def action(self) -> ActionExpert:
        expert = self.mixtures["action"]
        assert isinstance(expert, ActionExpert)
        return expert

    # what is constant for an instruction, and for an observation

    def prompt(self, text: Shaped[Tensor, "batch tokens ..."]) -> Prompt:
        """Word indices, or context vectors of a frozen text encoder, as keys and values of every cross-attention."""
        if self.config.vocabulary:
            text = (self.words(text) + self.word_positions) * (text > 0)[..., None]
        text = text.to(self.proprio_encoder.weight.dtype)
        # Padding stays visible as zeros, as in the released model.
        return Prompt(text=text, video=self.video.context(text), action=self.action.context(text))

    def read(
        self,
        frame: Float[Tensor, "batch 1 channels height width"],
        state: Float[Tensor, "batch state"],
        prompt: Prompt,
    ) -> Reading:
        """The current frame and state: the state is one more token of the context."""
        dtype = self.proprio_encoder.weight.dtype
        frame, state = frame.to(dtype), state.to(dtype)
        tokens = self.video.embed(frame)
        context = self.proprio_encoder(state)[:, None]
        if self.config.stem_channels:
            patches, points = self.stem(frame[:, 0], 0.3 * prompt.text.sum(1), state)
            tokens, context = tokens + patches, torch.cat([context, points], dim=1)
        return Reading(
            frame=frame,
            tokens=tokens,
            video=extended(prompt.video, self.video.context(context)),
            action=extended(prompt.action, self.action.context(context)),
        )

    # streams

    def first_stream(self, reading: Reading, *, needed: bool = False) -> Stream:
        """The clean current frame, at timestep 0; usually only its keys and values are needed."""
        time = self.video.time(reading.tokens.new_zeros(1))
        return Stream(
            expert=self.video,
            x=reading.tokens,
            modulation=self.video.modulation(time),
            rope=self.rope("first"),
            context=reading.video,
            sees=("first",),
            needed=needed,
        )

    def future_stream(
        self,
        latents: Float[Tensor, "batch time channels height width"],
        modulation: Tensor,
        reading: Reading,
        *,
        name: str = "future",
        needed: bool = True,
        given: Context | None = None,
    ) -> Stream:
        """Future frames; `given` is the context with the chunk that they follow from, where the variant sees it."""
        context, mask = given or (reading.video, None)
        return Stream(
            expert=self.video,
            x=self.video.embed(latents),
            modulation=modulation,
            rope=self.rope("future"),
            context=context,
            sees=("first", name),
            needed=needed,
            context_mask=mask,
        )

    def action_stream(self, actions: Tensor, modulation: Tensor, reading: Reading, sees: tuple[str, ...]) -> Stream:
        return Stream(
            expert=self.action,
            x=self.action.action_encoder(actions),
            modulation=modulation,
            rope=self.rope("action"),
            context=reading.action,
            sees=sees,
        )

    def clean_modulation(self, like: Tensor) -> Float[Tensor, "1 layers 6 hidden"]:
        """What action tokens are told that carry no noise."""
        return self.action.modulation(self.action.time(like.new_zeros(1)))

    def video_velocity(
        self, tokens: Tensor, time: Float[Tensor, "times hidden"], noisy: Tensor, level: Tensor, frame: Tensor
    ) -> Float[Tensor, "batch time channels height width"]:
        """Velocity of the future latents, out of the last layer's tokens."""
        out = self.video.unembed(tokens, time, self.config.rows, self.config.columns)
        if not self.config.predicts_change:
            return out
        data = frame.repeat_interleave(len(out) // len(frame), dim=0) + out
        return (noisy - data) / level.clamp(min=MIN_LEVEL).reshape(-1, 1, 1, 1, 1)

    def action_velocity(self, tokens: Tensor) -> Float[Tensor, "batch horizon action"]:
        velocity: Tensor = self.action.head(tokens)
        return velocity

    def rope(self, name: str) -> Tensor:
        """The table of a stream's positions: of video (frame, row, column) in this order, of actions their step."""
        device = self.proprio_encoder.weight.device
        if device not in self._ropes:
            self._ropes[device] = {key: table.to(device) for key, table in rope_tables(self.config).items()}
        return self._ropes[device][name]

    def given(self, reading: Reading, actions: Float[Tensor, "batch horizon action"]) -> Context:
        """The video context with a chunk in it, of which each future frame sees what was executed before it."""
        own = reading.video[0][0].shape[2]
        return extended(reading.video, self.video.action_context(actions)), self._follows(own).to(actions.device)

    def _follows(self, context: int) -> Bool[Tensor, "tokens context"]:
        """Each future frame sees the context and the actions executed before it."""
        config = self.config
        executed = torch.arange(config.horizon) < torch.tensor(config.future_offsets)[:, None]
        seen = torch.cat([torch.ones(config.future_frames, context, dtype=torch.bool), executed], dim=1)
        return seen.repeat_interleave(config.rows * config.columns, dim=0)

    # training

    def forward(self, batch: Batch, draws: Draws) -> dict[str, Float[Tensor, "batch"]]:
        """The losses for given noise and levels, per sample: `action`, `video` where it is trained, and `total`."""
        config, variant = self.config, self.variant
        reading = self.read(batch.latents[:, :1], batch.state, self.prompt(batch.text))
        future, dtype = batch.latents[:, 1:].to(reading.frame), reading.frame.dtype
        streams = {"first": self.first_stream(reading)}
        sees: tuple[str, ...] = ("first", "action")
        if variant.trains_video:
            noisy_video = noised(future, draws.video_noise, draws.video_level).to(dtype)
            video_time = self.video.time((draws.video_level * TIMESTEPS).to(dtype))
            given = self.given(reading, batch.executed.to(dtype)) if variant.video_sees_actions else None
            streams["future"] = self.future_stream(noisy_video, self.video.modulation(video_time), reading, given=given)
        if variant.imagine_first:
            copy = noised(future, draws.copy_noise, draws.copy_level).to(dtype)
            time = self.video.time((draws.copy_level * TIMESTEPS).to(dtype))
            streams["imagined"] = self.future_stream(
                copy, self.video.modulation(time), reading, name="imagined", needed=False
            )
            sees = ("first", "imagined", "action")
        elif variant.action_sees_future:
            sees = ("first", "future", "action")
        data = repeat(batch.actions, "b h a -> (b n) h a", n=config.action_samples)
        noisy = noised(data, draws.action_noise, draws.action_level).to(dtype)
        modulation = self.action.modulation(self.action.time((draws.action_level * TIMESTEPS).to(dtype)))
        keep = (~batch.action_pad).repeat_interleave(config.action_samples, dim=0)
        if draws.committed is not None:
            noisy = torch.where(draws.committed[..., None], data.to(dtype), noisy)
            modulation = with_clean(modulation, self.clean_modulation(noisy), draws.committed)
            keep = keep & ~draws.committed
        streams["action"] = self.action_stream(noisy, modulation, reading, sees)
        if variant.imagined_share < 1:
            hidden = (~draws.imagines).repeat_interleave(config.action_samples)
            streams["action"].hidden_from = {"imagined": hidden}
        mix(streams, checkpointed=self.checkpointed)

        velocity = self.action_velocity(streams["action"].x).float()
        error = (velocity - (draws.action_noise - data)).square().mean(-1)
        per_draw = masked_mean(error, keep) * self._weight(draws.action_level, config.action_shift)
        losses = {"action": rearrange(per_draw, "(b n) -> b n", n=config.action_samples).mean(1)}
        losses["total"] = losses["action"]
        if variant.trains_video:
            noise, level = draws.video_noise, draws.video_level
            velocity = self.video_velocity(streams["future"].x, video_time, noisy_video, level, reading.frame)
            error = (velocity.float() - (noise - future)).square().mean((2, 3, 4))
            if config.predicts_change:  # the error of the predicted frame itself, not divided by its noise
                error = error * level.square()[:, None]
            weight = self._weight(draws.video_level, config.video_shift)
            losses["video"] = masked_mean(error, ~batch.latents_pad[:, 1:]) * weight
            losses["total"] = losses["action"] + variant.video_weight * losses["video"]
        return losses

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Float[Tensor, "batch"]]:
        """`forward` with randomness of its own."""
        losses: dict[str, Tensor] = self(batch, self.draw(batch, generator))
        return losses

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """All randomness of one training step, in fp32, drawn where the generator lives."""
        config, variant, size = self.config, self.variant, len(batch.state)
        many, frames = size * config.action_samples, batch.latents[:, 1:].shape

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=generator.device).to(batch.state.device)

        def uniform(count: int) -> Tensor:
            return torch.rand(count, generator=generator, device=generator.device).to(batch.state.device)

        copy_level = shifted(uniform(size), config.video_shift)
        draws = Draws(
            copy_level=copy_level * (uniform(size) < variant.noised_copy_share),
            video_noise=normal(*frames),
            video_level=shifted(uniform(size), config.video_shift),
            action_noise=normal(many, config.horizon, config.action_dim),
            action_level=shifted(uniform(many), config.action_shift),
            copy_noise=normal(*frames),
            imagines=uniform(size) < variant.imagined_share,
        )
        if config.committed_max:  # drawn last, so that without it a run is what it was
            # Of as many draws with none given as with some: where all show what was just done, it is copied, not seen.
            longest = config.committed_max
            ticks = (uniform(many) * 2 * longest).floor() - longest + 1
            draws.committed = torch.arange(config.horizon, device=ticks.device) < ticks[:, None]
        return draws

    def _weight(self, level: Tensor, shift: float) -> Tensor:
        return bell_weight(level, shift) if self.config.bell_weighting else torch.ones_like(level)

    # acting

    @torch.no_grad()
    def see(
        self,
        frame: Float[Tensor, "batch 1 channels height width"],
        state: Float[Tensor, "batch state"],
        prompt: Prompt,
    ) -> Seen:
        """Everything about an observation that acting and imagining share: its keys and values in every layer."""
        reading = self.read(frame, state, prompt)
        return Seen(reading=reading, past=mix({"first": self.first_stream(reading)}))

    def noise(self, samples: int, generator: torch.Generator) -> Noise:
        """Standard normal starting points, in fp32 where the generator lives, so that devices agree."""
        config = self.config
        video = (config.future_frames, config.latent_channels, config.latent_height, config.latent_width)
        device = generator.device
        return Noise(
            action=torch.randn(samples, config.horizon, config.action_dim, generator=generator, device=device),
            video=torch.randn(samples, *video, generator=generator, device=device),
        )

    @torch.no_grad()
    def act(
        self,
        seen: Seen,
        noise: Noise,
        *,
        left: Leftover | None = None,
        skip_future: bool = False,
    ) -> tuple[Float[Tensor, "batch horizon action"], Tensor | None]:
        """Actions, and the future latents where the variant computes them on the way.

        `noise` may hold several samples per observation. `left` of the plan in force is continued (continuation.py).
        `skip_future`: act without imagining, where the variant learned to.

        Raises:
            ContractError: `skip_future` of a variant that cannot, or `left` is continued in a way that this network
                was not trained for, or that needs gradients where there are none.
        """
        return act(self, seen, noise, left=left, skip_future=skip_future)

    @torch.no_grad()
    def imagine(
        self, seen: Seen, noise: Noise, *, actions: Float[Tensor, "batch horizon action"] | None = None
    ) -> Float[Tensor, "batch time channels height width"]:
        """The future latents: of a given chunk where video sees actions, of the policy's own behaviour elsewhere.

        Raises:
            ContractError: `actions` missing where the variant needs them, or given where it cannot see them.
        """
        return imagine(self, seen, noise, actions=actions)

    def sample(
        self, batch: Batch, *, generator: torch.Generator, prefix: Float[Tensor, "batch done action"] | None = None
    ) -> Float[Tensor, "batch horizon action"]:
        """Normalised actions for a batch of observations."""
        left = None
        if prefix is not None:
            how: Continuation = "trained" if self.config.committed_max else "prefix"
            left = leftover(prefix, fixed=prefix.shape[1], horizon=self.config.horizon, how=how)
        with torch.no_grad():
            seen = self.see(batch.latents[:, :1], batch.state, self.prompt(batch.text))
        return self.act(seen, self.noise(len(batch.state), generator), left=left)[0]


def rope_tables(config: FastWAMConfig) -> dict[str, Tensor]:
    """Position tables by stream; time, row and column share the head, in this order."""
    third = config.head_dim // 3
    sizes = (config.head_dim - 2 * third, third, third)
    frames = torch.arange(1 + config.future_frames)
    grid = torch.meshgrid(frames, torch.arange(config.rows), torch.arange(config.columns), indexing="ij")
    video = torch.cat([rope_table(axis.flatten(), size) for axis, size in zip(grid, sizes, strict=True)], dim=-1)
    tokens = config.rows * config.columns
    first, future = video[:, :tokens], video[:, tokens:]
    action = rope_table(torch.arange(config.horizon), config.head_dim)
    return {"first": first, "future": future, "action": action}


def extended(left: list[KeyValue], right: list[KeyValue]) -> list[KeyValue]:
    """More tokens in the context of every layer."""
    return [
        (torch.cat([key, more_keys], dim=2), torch.cat([value, more_values], dim=2))
        for (key, value), (more_keys, more_values) in zip(left, right, strict=True)
    ]


def masked_mean(error: Float[Tensor, "batch steps"], keep: Bool[Tensor, "batch steps"]) -> Float[Tensor, "batch"]:
    """Mean over the kept steps; 0 where none is."""
    return (error * keep).sum(1) / keep.sum(1).clamp(min=1)
