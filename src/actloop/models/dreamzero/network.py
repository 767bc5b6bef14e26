r"""DreamZero's network: a causal diffusion transformer over video, actions and state (Ye et al., arXiv 2602.15922).

    training   [clean clip | noisy clip | actions | states] ------> velocities of all blocks       `velocities`
    acting     anchor, observed blocks --> Memory                                                  `observe`
               [noisy block | actions | state] + Memory ----------> velocities of the next block   `denoise`

One set of layers, two forms: they differ in the attention that is passed to a layer. Latents count time before
channels. Timesteps are 1000 x noise level; the clean copy and what was observed have timestep 0.

Departures from the released code: the anchor stays in the window (sequence.py, memory.py), a state token sees in acting
what it saw in training unless `state_sees_all`, rows of a batch may differ in blocks and may lack actions, and what is
constant (context, times) is computed outside and passed in.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from actloop.errors import ContractError
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.layers import (
    ActionEncoder,
    Block,
    Context,
    Head,
    ImageEmbedding,
    Modulation,
    TimeEmbedding,
    TwoLayers,
    Words,
)
from actloop.models.dreamzero.memory import Memory
from actloop.models.dreamzero.sequence import ClipAttention, ClipSequence
from actloop.models.dreamzero.stem import FrameStem
from actloop.models.flow import TIMESTEPS
from actloop.models.layers import KeyValue

MIN_LEVEL = 0.02  # noise levels below it count as it where a change is turned into a velocity
TOLD_SCALE = 0.3  # of the sum over a prompt's words, as a stem is told it


@dataclass(slots=True, kw_only=True)
class Velocities:
    """What the network predicts, noise - data; `actions` is None where none were given. Of an anchor nothing is
    predicted, zeros, where changes are."""

    video: Float[Tensor, "batch frames channels height width"]
    actions: Float[Tensor, "batch actions action"] | None


@dataclass(slots=True, kw_only=True)
class NoisyClip:
    """What a training step shows the network. Timesteps are in 0..1000.

    `clean`: the same clip without noise (teacher forcing), None without a clean copy. `condition`: channels beside
    every frame's latents (`DreamZeroConfig.condition_channels`). `acts`: rows whose actions and states may be seen,
    None for all; without `actions` nobody's are.
    """

    video: Float[Tensor, "batch frames channels height width"]
    video_time: Float[Tensor, "batch frames"]
    clean: Float[Tensor, "batch frames channels height width"] | None
    condition: Float[Tensor, "batch frames extra height width"] | None = None
    actions: Float[Tensor, "batch actions action"] | None = None
    action_time: Float[Tensor, "batch actions"] | None = None
    states: Float[Tensor, "batch blocks state"] | None = None
    acts: Bool[Tensor, "batch"] | None = None


@dataclass(slots=True, kw_only=True)
class Times:
    """Timesteps as the layers take them, computed once for all steps of a sampler: of video, of actions."""

    steps: Float[Tensor, "steps kinds"]
    embedded: Float[Tensor, "steps kinds dim"]
    projected: Float[Tensor, "steps kinds 6 dim"]


class DreamZero(nn.Module):
    """The network. `checkpointed`: layers are computed again in the backward pass, for less memory in training."""

    def __init__(self, config: DreamZeroConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointed = False
        dim = config.dim
        self.state_encoder = TwoLayers(config.state_dim, config.action_hidden, dim)
        self.action_encoder = ActionEncoder(config.action_dim, dim)
        self.action_decoder = TwoLayers(dim, config.action_hidden, config.action_dim)
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = TimeEmbedding(config.freq_dim, dim)
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(dim, 4 * config.latent_channels, config.eps)
        if config.image_tokens:
            self.img_emb = ImageEmbedding(config.image_dim, dim)
        if config.vocabulary:
            self.words_table = nn.Embedding(config.vocabulary, config.text_dim, padding_idx=0)
            self.word_positions = nn.Parameter(torch.randn(config.text_tokens, config.text_dim) * 0.1)
        if config.stem_channels:
            self.stem = FrameStem(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.patch_embedding.weight.device

    # what is constant: for an instruction and an anchor, and for a sampler

    def words(self, text: Shaped[Tensor, "batch tokens ..."]) -> Words:
        """What every layer sees of a prompt: word indices, or context vectors, zeros beyond the prompt.

        Fewer than `text_tokens` are padded. Padding stays visible, as in the released model.

        Raises:
            ContractError: more than fit.
        """
        config = self.config
        missing = config.text_tokens - text.shape[1]
        if missing < 0:
            raise ContractError("context.text", f"{config.text_tokens} tokens fit, got {text.shape[1]}")
        if config.vocabulary:
            text = functional.pad(text, (0, missing))
            text = (self.words_table(text) + self.word_positions) * (text > 0)[..., None]
        else:
            text = functional.pad(text, (0, 0, 0, missing))
        hidden = self.text_embedding(text.to(self.dtype))
        told = TOLD_SCALE * text.to(self.dtype).sum(1) if config.stem_channels else None
        return Words([self._block(layer).cross_attn.words(hidden) for layer in range(config.layers)], told)

    def picture(self, image: Float[Tensor, "batch patches features"] | None) -> list[KeyValue | None]:
        """What every layer sees of the anchor: the tokens that the image tower gives of it.

        Raises:
            ContractError: an image where there is no place for one, none where there is, or another shape.
        """
        config = self.config
        got = None if image is None else tuple(image.shape[1:])
        wanted = (config.image_tokens, config.image_dim) if config.image_tokens else None
        if got != wanted:
            raise ContractError("context.image", f"expected tokens of shape {wanted}, got {got}")
        if image is None:
            return [None] * config.layers
        hidden = self.img_emb(image.to(self.dtype))
        return [self._block(layer).cross_attn.picture(hidden) for layer in range(config.layers)]

    def context(
        self, text: Shaped[Tensor, "batch tokens ..."], image: Float[Tensor, "batch patches features"] | None = None
    ) -> list[Context]:
        """Keys and values of every layer's cross-attention, of `words` and `picture`."""
        words = self.words(text)
        return [Context(*both, words.told) for both in zip(words.layers, self.picture(image), strict=True)]

    def times(self, steps: Float[Tensor, "steps kinds"]) -> Times:
        """Timesteps 0..1000 of a sampler's steps: of video and actions, or one column where they agree."""
        embedded = self.time_embedding(steps.to(self.device))
        projected = self.time_projection(embedded).unflatten(-1, (6, -1))
        return Times(steps=steps.to(self.device), embedded=embedded, projected=projected)

    # training

    def forward(self, clip: NoisyClip, context: list[Context]) -> Velocities:
        """As `velocities`, for what wraps a module's call."""
        return self.velocities(clip, context)

    def velocities(
        self, clip: NoisyClip, context: list[Context], *, layers: list[Float[Tensor, "batch tokens dim"]] | None = None
    ) -> Velocities:
        """Velocities of a whole clip; `layers` collects the tokens after each layer.

        Raises:
            ContractError: parts that do not fit together.
        """
        config = self.config
        sequence = self._sequence(clip, whole=layers is not None)
        x = self._tokens(clip, sequence, context[0].told)
        embedded, time_of = self._clip_times(clip, sequence)
        modulation = Modulation(self.time_projection(embedded).unflatten(-1, (6, -1)), time_of)
        attend = ClipAttention(sequence, x.device, clip.acts)
        for layer in range(config.layers):
            block = self._block(layer)
            if self.checkpointed and torch.is_grad_enabled():
                x = checkpoint(block, x, modulation, context[layer], attend, use_reentrant=False)
            else:
                x = block(x, modulation, context[layer], attend)
            if layers is not None:
                layers.append(x)
        noisy = Modulation(embedded[:, :, None], time_of[sequence.noisy])
        video = self.unembed(x[:, sequence.noisy], noisy)
        if config.predicts_change:
            video = self._from_changes(video, clip)
        actions = self.action_decoder(x[:, sequence.actions_at : sequence.states_at]) if sequence.acting else None
        return Velocities(video=video, actions=actions)

    def _from_changes(self, change: Tensor, clip: NoisyClip) -> Tensor:
        """Velocities out of the changes of all frames but the anchor, against the clean one at their block's start."""
        assert clip.clean is not None
        size = self.config.block_frames
        starts = clip.clean[:, : clip.clean.shape[1] - 1 : size].repeat_interleave(size, dim=1)
        found = _velocity(change, clip.video[:, 1:], starts, clip.video_time[:, 1:])
        return torch.cat([torch.zeros_like(found[:, :1]), found], dim=1)

    def _sequence(self, clip: NoisyClip, *, whole: bool) -> ClipSequence:
        config, (size, frames) = self.config, clip.video.shape[:2]
        blocks = config.blocks(frames)
        acting = clip.actions is not None
        parts = (clip.actions, clip.action_time, clip.states)
        if acting and any(part is None for part in parts):
            raise ContractError("clip.actions", "expected actions with their times and states, or none of the three")
        shapes = {
            "video_time": (clip.video_time, (size, frames)),
            "clean": (clip.clean, tuple(clip.video.shape)),
            "condition": (clip.condition, (size, frames, config.condition_channels, *clip.video.shape[3:])),
            "actions": (clip.actions, (size, blocks * config.block_actions, config.action_dim)),
            "action_time": (clip.action_time, (size, blocks * config.block_actions)),
            "states": (clip.states, (size, blocks, config.state_dim)),
        }
        for name, (part, expected) in shapes.items():
            if part is not None and tuple(part.shape) != expected:
                raise ContractError(f"clip.{name}", f"expected shape {expected}, got {tuple(part.shape)}")
        return ClipSequence(config, blocks, clean=clip.clean is not None, acting=acting, whole=whole)

    def _tokens(self, clip: NoisyClip, sequence: ClipSequence, told: Tensor | None) -> Tensor:
        looked, parts = None, []
        if clip.clean is not None:
            # What follows the last block's start is seen by nobody, so the stem does not look at it.
            before = max(1, sequence.frames - self.config.block_frames)
            kept = sequence.clean_frames
            condition = None if clip.condition is None else clip.condition[:, :kept]
            tokens, seen = self.embed(clip.clean[:, :kept], condition), before * self.config.frame_tokens
            first, looked = self._seen(tokens[:, :seen], clip.clean[:, :before], told)
            parts += [first, tokens[:, seen:]]
        elif self.config.stem_channels or self.config.predicts_change:
            raise ContractError("clip.clean", "with a stem or changes predicted, clips need a clean copy")
        noisy = slice(sequence.first_noisy, None)
        condition = None if clip.condition is None else clip.condition[:, noisy]
        parts.append(self.embed(clip.video[:, noisy], condition))
        if clip.actions is not None and clip.action_time is not None and clip.states is not None:
            at_start = None if looked is None else looked[:, :: self.config.block_frames]
            parts += self._acting(clip.actions, clip.action_time, clip.states, at_start, told)
        return torch.cat(parts, dim=1)

    def _seen(self, tokens: Tensor, latents: Tensor, told: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Tokens of clean frames with what the stem adds, and its keypoints (batch, frames, coordinates)."""
        if told is None:
            return tokens, None
        rows, frames = len(told), latents.shape[1]
        latents = latents.to(self.dtype).expand(rows, -1, -1, -1, -1)
        more, looked = self.stem.see(latents.flatten(0, 1), told.repeat_interleave(frames, dim=0))
        added = rearrange(more, "(b t) p d -> b (t p) d", t=frames)
        return tokens + added, rearrange(looked, "(b t) x -> b t x", t=frames)

    def _acting(
        self, actions: Tensor, time: Tensor, states: Tensor, looked: Tensor | None, told: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens of actions and of states, block after block; `looked`: keypoints of the frames at the blocks' starts.

        What the stem makes of a block's start goes into every token of it: attention finds one of a hundred late.
        """
        action: Tensor = self.action_encoder(actions.to(self.dtype), time)
        state: Tensor = self.state_encoder(states.to(self.dtype))
        if told is None or looked is None:
            return action, state
        rows, size = len(told), self.config.block_actions
        seen = self.stem.token(looked, states.to(self.dtype).expand(rows, -1, -1), told)
        return action + seen.repeat_interleave(size, dim=1), state + seen

    def _clip_times(self, clip: NoisyClip, sequence: ClipSequence) -> tuple[Tensor, Tensor]:
        """Embedded times (batch, times, dim), and which of them each token has: zero, a frame's, an action's."""
        config, frames = self.config, sequence.frames
        steps = [torch.zeros_like(clip.video_time[:, :1]), clip.video_time]
        per_frame = torch.arange(1 + sequence.first_noisy, 1 + frames).repeat_interleave(config.frame_tokens)
        time_of = [torch.zeros(sequence.noisy_at, dtype=torch.long), per_frame]
        if clip.action_time is not None and sequence.acting:
            steps.append(clip.action_time)
            own = 1 + frames + torch.arange(clip.action_time.shape[1])
            time_of += [own, own[:: config.block_actions]]  # a state has the time of its block's first action
        return self.time_embedding(torch.cat(steps, dim=1)), torch.cat(time_of).to(self.device)

    # acting

    @torch.no_grad()
    def observe(
        self,
        memory: Memory,
        latents: Float[Tensor, "batch frames channels height width"],
        context: list[Context],
        clean: Times,
        condition: Float[Tensor, "batch frames extra height width"] | None = None,
    ) -> None:
        """Keep observed frames in memory: the anchor first, then block after block. One row serves all of memory's.

        `clean`: `times` of the timestep 0.

        Raises:
            ContractError: neither the anchor (first) nor one block (afterwards).
        """
        frames, expected = latents.shape[1], self.config.block_frames if memory.frames else 1
        if frames != expected:
            raise ContractError("observed.frames", f"expected {expected} latent frames, got {frames}")
        tokens, looked = self._seen(self.embed(latents, condition), latents, context[0].told)
        x = tokens.expand(memory.batch, -1, -1)
        turns, modulation = memory.turns(frames, acting=False), Modulation(clean.projected)
        for layer in range(self.config.layers):
            attend = memory.observing(layer, turns, frames)
            x = self._block(layer)(x, modulation, context[layer], attend)
        memory.newest = latents[:, -1:]
        memory.looked = None if looked is None else looked[:, -1:]
        memory.observed(frames)

    @torch.no_grad()
    def denoise(
        self,
        memory: Memory,
        video: Float[Tensor, "batch frames channels height width"],
        times: Times,
        step: int,
        context: list[Context],
        *,
        actions: Float[Tensor, "batch horizon action"] | None = None,
        state: Float[Tensor, "batch state"] | None = None,
        condition: Float[Tensor, "batch frames extra height width"] | None = None,
    ) -> Velocities:
        """Velocities of the block after what memory holds; memory's rows may outnumber those of the inputs.

        Raises:
            ContractError: nothing was observed, another number of frames than a block's, or actions without state.
        """
        config = self.config
        if not memory.frames or video.shape[1] != config.block_frames or (actions is None) != (state is None):
            expected = f"an observed anchor, {config.block_frames} frames, and actions with a state or neither"
            raise ContractError(
                "denoise", f"expected {expected}; got {memory.frames} observed frames and {video.shape[1]}"
            )
        acting, parts = actions is not None, [self.embed(video, condition)]
        if actions is not None and state is not None:
            at = times.steps[step, -1].expand(len(actions), actions.shape[1])
            parts += self._acting(actions, at, state[:, None], memory.looked, context[0].told)
        x = torch.cat([part.expand(memory.batch, -1, -1) for part in parts], dim=1)
        tokens = config.block_frames * config.frame_tokens
        time_of = None
        if times.steps.shape[1] > 1:
            time_of = (torch.arange(x.shape[1], device=x.device) >= tokens).long()
        modulation = Modulation(times.projected[step : step + 1], time_of)
        turns = memory.turns(config.block_frames, acting=acting)
        for layer in range(config.layers):
            x = self._block(layer)(x, modulation, context[layer], memory.denoising(layer, turns, acting=acting))
        seen = self.unembed(x[:, :tokens], Modulation(times.embedded[step : step + 1, :1, None]))
        if config.predicts_change:
            assert memory.newest is not None
            seen = _velocity(seen, video, memory.newest.to(seen), times.steps[step : step + 1, :1])
        return Velocities(video=seen, actions=self.action_decoder(x[:, tokens:-1]) if acting else None)

    # patches

    def embed(self, latents: Tensor, condition: Tensor | None) -> Float[Tensor, "batch tokens dim"]:
        """Patch tokens, ordered frame, row, column. A stride-sized convolution is a matrix product.

        Raises:
            ContractError: a condition where there is no place for one, or none where there is; other channels.
        """
        channels = latents.shape[2] + (0 if condition is None else condition.shape[2])
        if latents.shape[2] != self.config.latent_channels or channels != self.config.in_channels:
            raise ContractError(
                "latents",
                f"expected {self.config.latent_channels} channels and {self.config.condition_channels} of the "
                f"condition, got {latents.shape[2]} and {channels - latents.shape[2]}",
            )
        both = latents if condition is None else torch.cat([latents, condition.to(latents)], dim=2)
        patches = rearrange(both.to(self.dtype), "b t c (h p) (w q) -> b (t h w) (c p q)", p=2, q=2)
        return functional.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def unembed(self, tokens: Tensor, time: Modulation) -> Float[Tensor, "batch frames channels height width"]:
        """Latents out of tokens; a patch's outputs are ordered row, column, channel."""
        rows, columns = self.config.rows, self.config.columns
        patches: Tensor = self.head(tokens, time)
        return rearrange(patches, "b (t h w) (p q c) -> b t c (h p) (w q)", h=rows, w=columns, p=2, q=2)

    def _block(self, layer: int) -> Block:
        block = self.blocks[layer]
        assert isinstance(block, Block)
        return block


def _velocity(
    change: Tensor, noisy: Tensor, start: Tensor, time: Float[Tensor, "batch frames"]
) -> Float[Tensor, "batch frames channels height width"]:
    """Velocity at timesteps 0..1000 towards what is predicted: a frame and its change."""
    level = (time / TIMESTEPS).clamp(min=MIN_LEVEL)[..., None, None, None]
    return (noisy - start - change) / level
