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
)
from actloop.models.dreamzero.memory import Memory
from actloop.models.dreamzero.sequence import ClipAttention, ClipSequence
from actloop.models.layers import KeyValue


@dataclass(slots=True, kw_only=True)
class Velocities:
    """What the network predicts, noise - data; `actions` is None where none were given."""

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

    @property
    def dtype(self) -> torch.dtype:
        return self.patch_embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.patch_embedding.weight.device

    # what is constant: for an instruction and an anchor, and for a sampler

    def words(self, text: Shaped[Tensor, "batch tokens ..."]) -> list[KeyValue]:
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
        return [self._block(layer).cross_attn.words(hidden) for layer in range(config.layers)]

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
        return [Context(*both) for both in zip(self.words(text), self.picture(image), strict=True)]

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
        sequence = self._sequence(clip)
        x = self._tokens(clip, sequence)
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
        actions = self.action_decoder(x[:, sequence.actions_at : sequence.states_at]) if sequence.acting else None
        return Velocities(video=video, actions=actions)

    def _sequence(self, clip: NoisyClip) -> ClipSequence:
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
        return ClipSequence(config, blocks, clean=clip.clean is not None, acting=acting)

    def _tokens(self, clip: NoisyClip, sequence: ClipSequence) -> Tensor:
        parts = [] if clip.clean is None else [self.embed(clip.clean, clip.condition)]
        parts.append(self.embed(clip.video, clip.condition))
        if clip.actions is not None and clip.action_time is not None and clip.states is not None:
            parts.append(self.action_encoder(clip.actions.to(self.dtype), clip.action_time))
            parts.append(self.state_encoder(clip.states.to(self.dtype)))
        return torch.cat(parts, dim=1)

    def _clip_times(self, clip: NoisyClip, sequence: ClipSequence) -> tuple[Tensor, Tensor]:
        """Embedded times (batch, times, dim), and which of them each token has: zero, a frame's, an action's."""
        config, frames = self.config, sequence.frames
        steps = [torch.zeros_like(clip.video_time[:, :1]), clip.video_time]
        per_frame = torch.arange(1, 1 + frames).repeat_interleave(config.frame_tokens)
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
        x = self.embed(latents, condition).expand(memory.batch, -1, -1)
        turns, modulation = memory.turns(frames, acting=False), Modulation(clean.projected)
        for layer in range(self.config.layers):
            attend = memory.observing(layer, turns, frames)
            x = self._block(layer)(x, modulation, context[layer], attend)
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
            parts += [
                self.action_encoder(actions.to(self.dtype), at),
                self.state_encoder(state[:, None].to(self.dtype)),
            ]
        x = torch.cat(parts, dim=1).expand(memory.batch, -1, -1)
        tokens = config.block_frames * config.frame_tokens
        time_of = None
        if times.steps.shape[1] > 1:
            time_of = (torch.arange(x.shape[1], device=x.device) >= tokens).long()
        modulation = Modulation(times.projected[step : step + 1], time_of)
        turns = memory.turns(config.block_frames, acting=acting)
        for layer in range(config.layers):
            x = self._block(layer)(x, modulation, context[layer], memory.denoising(layer, turns, acting=acting))
        seen = self.unembed(x[:, :tokens], Modulation(times.embedded[step : step + 1, :1, None]))
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
