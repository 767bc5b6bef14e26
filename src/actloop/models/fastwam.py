r"""Fast-WAM: a video expert and an action expert that share their attention (Yuan et al., arXiv 2603.16666).

    current frame --> first  --\                          first  sees  first
    noise         --> future ---> mixture of transformers  future sees  first, future  (video never sees actions)
    noise         --> action --/   (shared attention)      action sees  first, action + what its variant allows

One core, and a `Variant` per answer to "where does prediction live?": what the action tokens see, whether the
future is trained, and whether it is denoised before or with the actions.

    no-cotrain  action sees first            future is never trained: a plain VLA
    fast        action sees first            future is trained, never computed at test time
    joint       action sees first, future    both are denoised together
    idm         action sees first, future    the future is denoised first, actions follow from the imagined one

Departures from the released code: flow time runs 0 (noise) to 1 (data) and velocities point to the data; the boolean
masks are the same but written as the dense attentions they decompose into, so the clean first frame is computed once
where the released imagine-then-act training computes it twice; the small configuration adds a convolutional stem on
the first frame and learns its word embeddings. Parameter names and shapes are those of the released checkpoint.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from actloop.errors import ContractError, UnknownNameError
from actloop.models.action_model import Batch
from actloop.models.flow import bell_weight, euler_times, noised, sample_times
from actloop.models.layers import RMSNorm, rope_table, rotate
from actloop.models.stem import Stem

KeyValue = tuple[Float[Tensor, "batch heads tokens dim"], Float[Tensor, "batch heads tokens dim"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Where prediction lives: the attention of the action tokens, and what is denoised when.

    `action_sees_future`: the imagined future conditions the actions. `imagine_first`: it is denoised fully before
    them (in training the actions then see a separate, clean copy of it). `video_weight`: share of the video loss.
    """

    name: str
    action_sees_future: bool
    imagine_first: bool
    video_weight: float

    @property
    def trains_video(self) -> bool:
        return self.video_weight > 0


VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(name="no-cotrain", action_sees_future=False, imagine_first=False, video_weight=0.0),
        Variant(name="fast", action_sees_future=False, imagine_first=False, video_weight=1.0),
        Variant(name="joint", action_sees_future=True, imagine_first=False, video_weight=1.0),
        Variant(name="idm", action_sees_future=True, imagine_first=True, video_weight=1.0),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertConfig:
    """One transformer of the mixture; the attention width (heads x head_dim) is shared, the hidden width is not."""

    hidden: int
    ffn: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FastWAMConfig:
    """Sizes of the network. `latent_*` and `future_frames` describe what the codec gives; defaults are the small one.

    `stem_channels` > 0 adds the convolutional `Stem` on the first frame with its keypoints per camera (`cameras` lie
    side by side in the picture), `vocabulary` > 0 learned word embeddings (0: the context comes from a frozen text
    encoder). `cond_noise_share` is the share of imagine-then-act samples
    whose conditioning copy is noised, `action_samples` the number of noise draws per observation in training.
    """

    variant: str = "fast"
    video: ExpertConfig = ExpertConfig(hidden=128, ffn=256)
    action: ExpertConfig = ExpertConfig(hidden=128, ffn=256)
    layers: int = 2
    heads: int = 4
    head_dim: int = 32
    text_dim: int = 64
    freq_dim: int = 64
    eps: float = 1e-6
    latent_channels: int = 32
    latent_height: int = 8
    latent_width: int = 16
    future_frames: int = 1
    horizon: int = 16
    action_dim: int = 4
    state_dim: int = 4
    vocabulary: int = 0
    text_tokens: int = 16
    stem_channels: int = 32
    keypoints: int = 16
    cameras: int = 2
    video_shift: float = 3.0
    action_shift: float = 5.0
    bell_weighting: bool = False
    cond_noise_share: float = 0.5
    action_samples: int = 1
    denoising_steps: int = 4

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise UnknownNameError("variant", self.variant, VARIANTS)
        if self.head_dim // 3 % 2:
            raise ContractError(
                "head_dim", f"a third of it, rounded down, must be even for 3-D RoPE; got {self.head_dim}"
            )
        if self.latent_width % self.cameras:
            raise ContractError("cameras", f"{self.cameras} do not divide {self.latent_width} latent columns")
        if self.latent_height % 2 or self.latent_width % 2:
            raise ContractError("latents", f"must tile into 2 x 2, got {self.latent_height} x {self.latent_width}")

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def rows(self) -> int:
        return self.latent_height // 2

    @property
    def columns(self) -> int:
        return self.latent_width // 2

    @property
    def patch_dim(self) -> int:
        return self.latent_channels * 4

    @classmethod
    def tiny(cls, **changes: object) -> "FastWAMConfig":
        """Trains on a CPU in seconds; for tests."""
        base = cls(
            video=ExpertConfig(hidden=48, ffn=64),
            action=ExpertConfig(hidden=32, ffn=64),
            layers=2,
            heads=2,
            head_dim=24,
            text_dim=16,
            freq_dim=16,
            latent_channels=8,
            latent_height=4,
            latent_width=4,
            horizon=4,
            vocabulary=8,
            stem_channels=8,
            keypoints=4,
            cameras=1,
            denoising_steps=2,
        )
        return replace(base, **changes)  # type: ignore[arg-type]


# --- blocks -----------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """The projections of one attention; who attends to whom is decided outside."""

    def __init__(self, hidden: int, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(hidden, width)
        self.k = nn.Linear(hidden, width)
        self.v = nn.Linear(hidden, width)
        self.o = nn.Linear(width, hidden)
        self.norm_q = RMSNorm(width, eps)
        self.norm_k = RMSNorm(width, eps)

    def split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.heads)

    def query(self, x: Tensor) -> Tensor:
        return self.split(self.norm_q(self.q(x)))

    def key_value(self, x: Tensor) -> KeyValue:
        return self.split(self.norm_k(self.k(x))), self.split(self.v(x))

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = self.o(rearrange(mixed, "b h n d -> b n (h d)"))
        return out


class Block(nn.Module):
    """Modulated self-attention (shared across experts), cross-attention to the context, modulated MLP."""

    def __init__(self, hidden: int, ffn: int, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.modulation = nn.Parameter(torch.zeros(1, 6, hidden))
        self.modulation.data[:, (2, 5)] = 1.0  # gates open: a fresh block is an ordinary pre-norm block
        self.norm1 = nn.LayerNorm(hidden, eps, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(hidden, eps, elementwise_affine=False)
        self.norm3 = nn.LayerNorm(hidden, eps)
        self.self_attn = Attention(hidden, width, heads, eps)
        self.cross_attn = Attention(hidden, width, heads, eps)
        self.ffn = nn.Sequential(nn.Linear(hidden, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, hidden))


class Expert(nn.Module):
    """One transformer: embeddings of time and context, and its blocks."""

    def __init__(self, config: FastWAMConfig, sizes: ExpertConfig) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.freq_dim = config.freq_dim
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, hidden)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))
        nn.init.normal_(self.time_projection[1].weight, std=0.02)  # type: ignore[arg-type]
        nn.init.zeros_(self.time_projection[1].bias)  # type: ignore[arg-type]
        self.blocks = nn.ModuleList(
            Block(hidden, sizes.ffn, config.width, config.heads, config.eps) for _ in range(config.layers)
        )

    def time(self, t: Float[Tensor, "batch"]) -> Tensor:
        """Time embedding (batch, hidden); the network was defined on the noise level in 0..1000."""
        half = self.freq_dim // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64, device=t.device) / half)
        angles = (1 - t).double()[:, None] * 1000 * rates
        embedding: Tensor = self.time_embedding(torch.cat([angles.cos(), angles.sin()], -1).to(t.dtype))
        return embedding

    def context(self, context: Float[Tensor, "batch tokens text"]) -> list[KeyValue]:
        """Cross-attention keys and values of every layer: constant for one prompt and state, computed once."""
        hidden = self.text_embedding(context)
        return [block.cross_attn.key_value(hidden) for block in self.blocks]  # type: ignore[union-attr,operator]


class VideoHead(nn.Module):
    """Modulated output projection of a frame's tokens; modulation is (shift, scale) of the time embedding itself."""

    def __init__(self, hidden: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden, eps, elementwise_affine=False)
        self.modulation = nn.Parameter(torch.zeros(1, 2, hidden))
        self.head = nn.Linear(hidden, outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor, time: Float[Tensor, "batch hidden"]) -> Tensor:
        shift, scale = (self.modulation + time[:, None]).chunk(2, dim=1)
        out: Tensor = self.head(self.norm(tokens) * (1 + scale) + shift)
        return out


class VideoExpert(Expert):
    """Latent frames in 2 x 2 patches; the head is modulated per frame."""

    def __init__(self, config: FastWAMConfig) -> None:
        super().__init__(config, config.video)
        hidden = config.video.hidden
        self.patch_embedding = nn.Conv3d(config.latent_channels, hidden, kernel_size=(1, 2, 2), stride=(1, 2, 2))
        self.head = VideoHead(hidden, config.patch_dim, config.eps)

    def embed(self, latents: Float[Tensor, "batch time channels height width"]) -> Tensor:
        """Patch tokens (batch, time * rows * columns, hidden). A stride-sized convolution is a matrix product."""
        patches = rearrange(latents, "b t c (h p) (w q) -> b (t h w) (c p q)", p=2, q=2)
        tokens: Tensor = functional.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        return tokens

    def unembed(self, tokens: Tensor, time: Tensor, rows: int, columns: int) -> Tensor:
        """Velocity of the latents; the head's outputs are ordered (row in patch, column in patch, channel)."""
        patches: Tensor = self.head(tokens, time)
        return rearrange(patches, "b (t h w) (p q c) -> b t c (h p) (w q)", h=rows, w=columns, p=2, q=2)


class ActionExpert(Expert):
    """One token per action; a plain linear head."""

    def __init__(self, config: FastWAMConfig) -> None:
        super().__init__(config, config.action)
        self.action_encoder = nn.Linear(config.action_dim, config.action.hidden)
        self.head = nn.Linear(config.action.hidden, config.action_dim)


# --- the shared attention ---------------------------------------------------------------------------------------------


def video_rope(config: FastWAMConfig, frames: range) -> Tensor:
    """3-D table (2, tokens, head_dim / 2): time, row and column share the head, in this order."""
    third = config.head_dim // 3
    grid = torch.meshgrid(
        torch.tensor(list(frames)), torch.arange(config.rows), torch.arange(config.columns), indexing="ij"
    )
    sizes = (config.head_dim - 2 * third, third, third)
    tables = [rope_table(axis.flatten(), size) for axis, size in zip(grid, sizes, strict=True)]
    return torch.stack([torch.cat(parts, dim=-1) for parts in zip(*tables, strict=True)])


@dataclass(slots=True)
class Stream:
    """One run of tokens through its expert. `sees` names the streams it attends to, in order, itself included."""

    expert: Expert
    x: Float[Tensor, "batch tokens hidden"]
    time: Float[Tensor, "batch hidden"]
    rope: Tensor
    context: list[KeyValue]
    sees: tuple[str, ...]
    needed: bool = True  # False: only its keys and values are, so the last layer stops there


def _visible(tensors: list[Tensor], batch: int) -> Tensor:
    """One sequence out of several, each repeated to the batch (several action samples share one observation)."""
    return torch.cat([t if len(t) == batch else t.repeat_interleave(batch // len(t), dim=0) for t in tensors], dim=2)


def mix(streams: Mapping[str, Stream], past: Mapping[str, list[KeyValue]] | None = None) -> dict[str, list[KeyValue]]:
    """Runs the streams through all layers, in place; returns the keys and values of each, per layer.

    `past` holds keys and values of streams that were run before and stay as they are.
    """
    past = past or {}
    kept: dict[str, list[KeyValue]] = {name: [] for name in streams}
    layers = len(next(iter(streams.values())).expert.blocks)
    modulations = {name: stream.expert.time_projection(stream.time) for name, stream in streams.items()}
    for layer in range(layers):
        parts, queries = {}, {}
        for name, stream in streams.items():
            block = stream.expert.blocks[layer]
            mod = rearrange(modulations[name], "b (six d) -> b six d", six=6) + block.modulation
            parts[name] = [part[:, None] for part in mod.unbind(1)]
            shift, scale = parts[name][:2]
            normed = torch.addcmul(shift, block.norm1(stream.x), 1 + scale)  # type: ignore[operator]
            key, value = block.self_attn.key_value(normed)  # type: ignore[union-attr,operator]
            kept[name].append((rotate(key, stream.rope), value))
            queries[name] = normed
        for name, stream in streams.items():
            if layer == layers - 1 and not stream.needed:
                continue
            visible = [kept[seen][layer] if seen in kept else past[seen][layer] for seen in stream.sees]
            _layer(stream, layer, queries[name], visible, parts[name])
    return kept


def _layer(stream: Stream, layer: int, normed: Tensor, visible: list[KeyValue], mod: list[Tensor]) -> None:
    block = stream.expert.blocks[layer]
    assert isinstance(block, Block)
    _, _, gate1, shift2, scale2, gate2 = mod
    batch = len(normed)
    query = rotate(block.self_attn.query(normed), stream.rope)
    key, value = _visible([k for k, _ in visible], batch), _visible([v for _, v in visible], batch)
    x = torch.addcmul(stream.x, gate1, block.self_attn.attend(query, key, value))
    context_key, context_value = (_visible([part], batch) for part in stream.context[layer])
    x = x + block.cross_attn.attend(block.cross_attn.query(block.norm3(x)), context_key, context_value)
    stream.x = torch.addcmul(x, gate2, block.ffn(torch.addcmul(shift2, block.norm2(x), 1 + scale2)))


@dataclass(slots=True, kw_only=True)
class Reading:
    """One observation as the transformers take it."""

    first: Float[Tensor, "batch tokens hidden"]
    video: list[KeyValue]
    action: list[KeyValue]


@dataclass(slots=True, kw_only=True)
class Draws:
    """The randomness of one training step; `copy` is the conditioning copy of imagine-then-act (t = 1: clean)."""

    video_noise: Float[Tensor, "batch time channels height width"]
    t_video: Float[Tensor, "batch"]
    action_noise: Float[Tensor, "draws horizon action"]
    t_action: Float[Tensor, "draws"]
    copy_noise: Float[Tensor, "batch time channels height width"]
    t_copy: Float[Tensor, "batch"]


# --- the model --------------------------------------------------------------------------------------------------------


class FastWAM(nn.Module):
    """The network, its losses and its samplers; latents, states and actions are normalised tensors."""

    def __init__(self, config: FastWAMConfig) -> None:
        super().__init__()
        self.config = config
        self.variant = VARIANTS[config.variant]
        self.mixtures = nn.ModuleDict({"video": VideoExpert(config), "action": ActionExpert(config)})
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
        actions = torch.stack(rope_table(torch.arange(config.horizon), config.head_dim))
        self.register_buffer("rope_first", video_rope(config, range(1)), persistent=False)
        self.register_buffer("rope_future", video_rope(config, range(1, 1 + config.future_frames)), persistent=False)
        self.register_buffer("rope_action", actions, persistent=False)

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

    # streams

    def read(self, batch: Batch) -> Reading:
        """Everything that is constant for one observation: first-frame tokens, and the context of each expert."""
        text = batch.text
        if self.config.vocabulary:
            present = (text > 0)[..., None]
            text = (self.words(text) + self.word_positions) * present
        first = self.video.embed(batch.latents[:, :1])
        # Padding stays visible as zeros, as in the released model; the state is one more token.
        context = [text, self.proprio_encoder(batch.state)[:, None]]
        if self.config.stem_channels:
            patches, points = self.stem(batch.latents[:, 0], 0.3 * text.sum(1), batch.state)
            first = first + patches
            context.append(points)
        joined = torch.cat(context, dim=1)
        return Reading(first=first, video=self.video.context(joined), action=self.action.context(joined))

    def first_stream(self, reading: Reading) -> Stream:
        """The clean current frame, of which only keys and values are needed."""
        clean = reading.first.new_ones(len(reading.first))
        rope = self._buffer("rope_first")
        return Stream(self.video, reading.first, self.video.time(clean), rope, reading.video, ("first",), False)

    def future_stream(
        self, latents: Tensor, t: Tensor, context: list[KeyValue], *, name: str = "future", needed: bool = True
    ) -> Stream:
        rope = self._buffer("rope_future")
        return Stream(self.video, self.video.embed(latents), self.video.time(t), rope, context, ("first", name), needed)

    def action_stream(self, actions: Tensor, t: Tensor, context: list[KeyValue], sees: tuple[str, ...]) -> Stream:
        tokens: Tensor = self.action.action_encoder(actions)
        return Stream(self.action, tokens, self.action.time(t), self._buffer("rope_action"), context, sees)

    def video_velocity(self, stream: Stream) -> Tensor:
        return -self.video.unembed(stream.x, stream.time, self.config.rows, self.config.columns)

    def action_velocity(self, stream: Stream) -> Tensor:
        velocity: Tensor = -self.action.head(stream.x)
        return velocity

    def _buffer(self, name: str) -> Tensor:
        table = getattr(self, name)
        assert isinstance(table, Tensor)
        return table

    # training

    def loss(self, batch: Batch, *, generator: torch.Generator) -> dict[str, Float[Tensor, "batch"]]:
        """Flow-matching losses per sample: `action`, `video` where the variant trains it, their weighted `total`."""
        return self.loss_of(batch, self.draw(batch, generator))

    def draw(self, batch: Batch, generator: torch.Generator) -> Draws:
        """All randomness of one training step."""
        config, device, size = self.config, batch.state.device, len(batch.state)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device)

        frames, many = batch.latents[:, 1:].shape, size * config.action_samples
        t_copy = sample_times(size, config.video_shift, generator, device)
        noisy_copy = torch.rand(size, generator=generator, device=device) < config.cond_noise_share
        return Draws(
            video_noise=normal(*frames),
            t_video=sample_times(size, config.video_shift, generator, device),
            action_noise=normal(many, config.horizon, config.action_dim),
            t_action=sample_times(many, config.action_shift, generator, device),
            copy_noise=normal(*frames),
            t_copy=torch.where(noisy_copy, t_copy, torch.ones_like(t_copy)),
        )

    def loss_of(self, batch: Batch, draws: Draws) -> dict[str, Float[Tensor, "batch"]]:
        """The losses for given noise and times: deterministic, and what `torch.compile` sees."""
        config, variant = self.config, self.variant
        reading = self.read(batch)
        streams = {"first": self.first_stream(reading)}
        future = batch.latents[:, 1:]
        sees: tuple[str, ...] = ("first", "action")
        if variant.trains_video:
            noisy = noised(future, draws.video_noise, draws.t_video)
            streams["future"] = self.future_stream(noisy, draws.t_video, reading.video)
        if variant.imagine_first:
            copy = noised(future, draws.copy_noise, draws.t_copy)
            streams["imagined"] = self.future_stream(copy, draws.t_copy, reading.video, name="imagined", needed=False)
            sees = ("first", "imagined", "action")
        elif variant.action_sees_future:
            sees = ("first", "future", "action")
        data = repeat(batch.actions, "b h a -> (b n) h a", n=config.action_samples)
        noisy = noised(data, draws.action_noise, draws.t_action)
        streams["action"] = self.action_stream(noisy, draws.t_action, reading.action, sees)
        mix(streams)

        error = (self.action_velocity(streams["action"]) - (data - draws.action_noise)).square().mean(-1)
        keep = (~batch.action_pad).repeat_interleave(config.action_samples, dim=0)
        per_draw = _masked_mean(error, keep) * self._weight(draws.t_action, config.action_shift)
        losses = {"action": rearrange(per_draw, "(b n) -> b n", n=config.action_samples).mean(1)}
        losses["total"] = losses["action"]
        if variant.trains_video:
            residual = self.video_velocity(streams["future"]) - (future - draws.video_noise)
            error = residual.square().mean((2, 3, 4))
            weight = self._weight(draws.t_video, config.video_shift)
            losses["video"] = _masked_mean(error, ~batch.latents_pad[:, 1:]) * weight
            losses["total"] = losses["action"] + variant.video_weight * losses["video"]
        return losses

    def _weight(self, t: Tensor, shift: float) -> Tensor:
        return bell_weight(t, shift) if self.config.bell_weighting else torch.ones_like(t)

    # sampling

    @torch.no_grad()
    def sample(
        self,
        batch: Batch,
        *,
        generator: torch.Generator,
        prefix: Float[Tensor, "batch done action"] | None = None,
    ) -> Float[Tensor, "batch horizon action"]:
        """Actions for each observation; `prefix` holds normalised actions that are committed and must be continued."""
        return self.sample_with_future(batch, generator=generator, prefix=prefix)[0]

    @torch.no_grad()
    def sample_with_future(
        self, batch: Batch, *, generator: torch.Generator, prefix: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Actions, and the future latents (batch, future_frames, ...) where the variant computes them on the way."""
        reading = self.read(batch)
        past = mix({"first": self.first_stream(reading)})
        actions = _noise((len(batch.state), self.config.horizon, self.config.action_dim), batch.state, generator)
        sampler = _ActionSampler(self, reading.action, actions, prefix)
        if not self.variant.action_sees_future:
            return sampler.run(past, ("first", "action")), None
        latents = self._future_noise(batch, generator)
        if self.variant.imagine_first:
            latents = self._denoise_future(latents, past, reading.video)
            done = torch.ones(len(latents), device=latents.device, dtype=latents.dtype)
            imagined = self.future_stream(latents, done, reading.video, name="imagined", needed=False)
            past = past | mix({"imagined": imagined}, past)
            return sampler.run(past, ("first", "imagined", "action")), latents
        return sampler.run_jointly(past, latents, reading.video)

    @torch.no_grad()
    def imagine(self, batch: Batch, *, generator: torch.Generator) -> Float[Tensor, "batch time channels height width"]:
        """The future latents that the model expects from an observation. Video never attends to actions, so this is
        what the policy's own behaviour leads to, not a counterfactual of a given chunk."""
        reading = self.read(batch)
        past = mix({"first": self.first_stream(reading)})
        return self._denoise_future(self._future_noise(batch, generator), past, reading.video)

    def _future_noise(self, batch: Batch, generator: torch.Generator) -> Tensor:
        shape = (len(batch.state), self.config.future_frames, *batch.latents.shape[2:])
        return _noise(shape, batch.state, generator)

    def _denoise_future(self, latents: Tensor, past: dict[str, list[KeyValue]], context: list[KeyValue]) -> Tensor:
        times = euler_times(self.config.denoising_steps, self.config.video_shift).to(latents)
        for now, then in itertools.pairwise(times):
            stream = self.future_stream(latents, now.expand(len(latents)), context)
            mix({"future": stream}, past)
            latents = latents + (then - now) * self.video_velocity(stream)
        return latents


@dataclass(slots=True)
class _ActionSampler:
    """Euler integration of the action velocity; a committed prefix is held on its own noising path."""

    model: FastWAM
    context: list[KeyValue]
    noise: Tensor
    prefix: Tensor | None

    def run(self, past: Mapping[str, list[KeyValue]], sees: tuple[str, ...]) -> Tensor:
        actions, times = self.noise, self._times(self.model.config.action_shift)
        for now, then in itertools.pairwise(times):
            stream = self._stream(actions, now, sees)
            mix({"action": stream}, past)
            actions = actions + (then - now) * self.model.action_velocity(stream)
        return self._pinned(actions, times[-1])

    def run_jointly(
        self, past: Mapping[str, list[KeyValue]], latents: Tensor, context: list[KeyValue]
    ) -> tuple[Tensor, Tensor]:
        model, actions = self.model, self.noise
        video_times, action_times = self._times(model.config.video_shift), self._times(model.config.action_shift)
        for step in range(model.config.denoising_steps):
            future = model.future_stream(latents, video_times[step].expand(len(latents)), context)
            stream = self._stream(actions, action_times[step], ("first", "future", "action"))
            mix({"future": future, "action": stream}, past)
            actions = actions + (action_times[step + 1] - action_times[step]) * model.action_velocity(stream)
            latents = latents + (video_times[step + 1] - video_times[step]) * model.video_velocity(future)
        return self._pinned(actions, action_times[-1]), latents

    def _stream(self, actions: Tensor, now: Tensor, sees: tuple[str, ...]) -> Stream:
        return self.model.action_stream(self._pinned(actions, now), now.expand(len(actions)), self.context, sees)

    def _times(self, shift: float) -> Tensor:
        return euler_times(self.model.config.denoising_steps, shift).to(self.noise)

    def _pinned(self, actions: Tensor, t: Tensor) -> Tensor:
        if self.prefix is None:
            return actions
        done = self.prefix.shape[1]
        on_path = t * self.prefix + (1 - t) * self.noise[:, :done]
        return torch.cat([on_path, actions[:, done:]], dim=1)


def _noise(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal, drawn in fp32 where the generator lives, so that devices agree."""
    return torch.randn(shape, generator=generator, device=generator.device).to(like)


def _masked_mean(error: Float[Tensor, "batch steps"], keep: Tensor) -> Float[Tensor, "batch"]:
    return (error * keep).sum(1) / keep.sum(1).clamp(min=1)
