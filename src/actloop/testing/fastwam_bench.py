"""How long each stage of Fast-WAM takes on this machine, with random weights of a named size.

    instruction --text encoder--> --prompt--> keys and values        once per instruction
    frame --codec--> latents --prefill--> keys and values            once per observation
    noise --action step--> ... --> chunk                             per chunk, by variant

Random weights take as long as trained ones.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from actloop.errors import ContractError, UnknownNameError
from actloop.models.codec import PatchCodec
from actloop.models.fastwam import VARIANTS, FastWAM, FastWAMConfig, Noise, Prompt, Seen
from actloop.models.fastwam.compiled import CompiledFastWAM, captured
from actloop.models.fastwam.memory import memory_report, total_bytes
from actloop.models.fastwam.releases import libero, robotwin
from actloop.models.fastwam.sampling import Acting
from actloop.models.wan.text import TextConfig, UMT5Encoder
from actloop.models.wan.vae import WAN22, WanCodec
from actloop.testing import timing

SPARE = 0.9  # of what is free may be taken
RUNNABLE = ("fast", "joint", "idm")  # on one set of weights; the others run as one of these

SIZES: dict[str, Callable[[], FastWAMConfig]] = {
    "tiny": FastWAMConfig.tiny,
    "small": lambda: FastWAMConfig(vocabulary=32),
    "full": lambda: libero().config,
    "robotwin": lambda: robotwin().config,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTiming:
    """Milliseconds of wall clock that one stage took: median and 95th percentile over `repeats` runs."""

    stage: str
    variant: str = ""
    batch: int
    compiled: bool
    p50_ms: float
    p95_ms: float
    repeats: int


_Runner = FastWAM | CompiledFastWAM


def config_of(size: str, *, layers: int | None = None) -> FastWAMConfig:
    """See `timing.sized`."""
    return timing.sized(SIZES, size, layers=layers)


def bench_fastwam(
    size: str = "small",
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    batch_sizes: Sequence[int] = (1, 2, 4),
    repeats: int = 20,
    compiled: bool = False,
    threads: int | None = None,
    layers: int | None = None,
    text: bool = False,
    variants: Sequence[str] = RUNNABLE,
) -> list[StageTiming]:
    """Time every stage, eager and, if asked, compiled.

    `dtype`: by default float32 on a CPU, bfloat16 elsewhere. `layers` cuts the depth and keeps the widths, so that a
    part of a large network runs on a small machine. `text` adds the text encoder, where the size has one.

    Raises:
        UnknownNameError: no such size or variant.
        ContractError: a number out of range, no such device, or more memory is needed than is free on it.
    """
    config, place = config_of(size, layers=layers), timing.device_of(device)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    for name in variants:
        if name not in RUNNABLE:
            raise UnknownNameError("variant", name, RUNNABLE)
    if repeats < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ContractError("bench", f"expected repeats and batch sizes from 1 on, got {repeats}, {tuple(batch_sizes)}")
    wan = config.vocabulary == 0
    check_memory(config, dtype, place, batch=max(batch_sizes), wan=wan, text=text and wan)
    with timing.threads(threads):
        bench = _Bench(config, place, dtype, repeats)
        found = [bench.text_encoder(layers)] if text and wan else []
        for batch in batch_sizes:
            found += bench.batch(batch, tuple(variants), compiled=compiled)
    return found


def check_memory(
    config: FastWAMConfig, dtype: torch.dtype, device: torch.device, *, batch: int, wan: bool, text: bool
) -> None:
    """Before anything is allocated.

    Raises:
        ContractError: what is needed is more than what is free.
    """
    parts = memory_report(config, dtype, batch=batch, wan=wan, decoder=wan, text_encoder=text)
    needed, free = total_bytes(parts), free_bytes(device)
    if needed > SPARE * free:
        raise ContractError(
            "memory",
            f"needs about {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')}, and {free / 1e9:.1f} GB are "
            f"free on {device}: take fewer layers, a smaller dtype or another device",
        )


def free_bytes(device: torch.device) -> int:
    """Memory that can still be allocated there."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    raise ContractError("memory", "this system does not say how much is free")


class _Bench:
    """One network and what it is fed."""

    def __init__(self, config: FastWAMConfig, device: torch.device, dtype: torch.dtype, repeats: int) -> None:
        self.config, self.device, self.dtype, self.repeats = config, device, dtype, repeats
        self.model = random_model(config, device, dtype)
        self.codec: PatchCodec | WanCodec
        if config.vocabulary:
            self.codec = PatchCodec(config.latent_channels).to(device)
        else:
            self.codec = WanCodec.untrained(WAN22, device=device, dtype=dtype)

    def batch(self, batch: int, variants: tuple[str, ...], *, compiled: bool) -> list[StageTiming]:
        model, codec = self.model, self.codec
        frames, frame, state, words, noise = self._inputs(batch)
        prompt = torch.no_grad()(model.prompt)(words)
        encode = "codec encode" if isinstance(codec, PatchCodec) else "VAE encode"
        found = [
            self._timed(encode, lambda: codec.encode(frames), batch=batch),
            self._timed("prompt", torch.no_grad()(lambda: model.prompt(words)), batch=batch),
        ]
        for runner in (model, CompiledFastWAM(model)) if compiled else (model,):
            found += self._stages(runner, frame, state, prompt, noise, variants)
        return found

    def text_encoder(self, layers: int | None) -> StageTiming:
        """Of one prompt; random weights, and released afterwards."""
        full = TextConfig()
        config = full if layers is None else replace(full, layers=min(layers, full.layers))
        encoder = UMT5Encoder.untrained(config, device=self.device, dtype=self.dtype)
        ids = torch.ones(1, self.config.text_tokens, dtype=torch.long)
        return self._timed("text encoder", lambda: encoder.encode_tokens(ids, ids > 0), batch=1)

    def _stages(
        self, runner: _Runner, frame: Tensor, state: Tensor, prompt: Prompt, noise: Noise, variants: tuple[str, ...]
    ) -> list[StageTiming]:
        batch, compiled = len(state), isinstance(runner, CompiledFastWAM)
        seen = runner.see(frame, state, prompt)
        see = self._timed("prefill", lambda: runner.see(frame, state, prompt), batch=batch, compiled=compiled)
        with acting_as(self.model, "fast"):
            step = self._timed("action step", self._step(runner, seen, noise), batch=batch, compiled=compiled)
        found = [see, step]
        for name in variants:
            with acting_as(self.model, name):
                run = partial(runner.act, seen, noise)
                found.append(self._timed("chunk", run, batch=batch, compiled=compiled, variant=name))
        return found

    @torch.no_grad()
    def _step(self, runner: _Runner, seen: Seen, noise: Noise) -> Callable[[], object]:
        if isinstance(runner, CompiledFastWAM):
            acting = runner.acting(seen, noise)
        else:
            acting = Acting(self.model, seen, noise, left=None, skip_future=False)
        acting.cache.fill(seen.past)
        acting.actions.start()

        @torch.no_grad()
        def step() -> None:
            acting.actions.step(0, acting.cache, acting.sees)

        graphed = isinstance(runner, CompiledFastWAM) and self.device.type == "cuda"
        return captured(step) if graphed else step

    def _inputs(self, batch: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Noise]:
        config, device = self.config, self.device
        stride = 8 if config.vocabulary else WAN22.spatial
        pixels = (config.latent_height * stride, config.latent_width * stride)
        generator = torch.Generator().manual_seed(0)
        latents = (batch, 1, config.latent_channels, config.latent_height, config.latent_width)
        if config.vocabulary:
            words = torch.randint(1, config.vocabulary, (batch, config.text_tokens), generator=generator)
        else:
            words = torch.randn(batch, config.text_tokens, config.text_dim, generator=generator)
        noise = self.model.noise(batch, generator)
        assert noise.video is not None
        return (
            torch.randint(0, 256, (batch, 1, *pixels, 3), generator=generator, dtype=torch.uint8).to(device),
            torch.randn(latents, generator=generator).to(device),
            torch.randn(batch, config.state_dim, generator=generator).to(device),
            words.to(device),
            Noise(action=noise.action.to(device), video=noise.video.to(device)),
        )

    def _timed(
        self, stage: str, run: Callable[[], object], *, batch: int, compiled: bool = False, variant: str = ""
    ) -> StageTiming:
        p50, p95 = timing.timed(run, self.repeats, self.device)
        return StageTiming(
            stage=stage,
            variant=variant,
            batch=batch,
            compiled=compiled,
            p50_ms=p50,
            p95_ms=p95,
            repeats=self.repeats,
        )


def random_model(config: FastWAMConfig, device: torch.device, dtype: torch.dtype) -> FastWAM:
    """A network with random weights, made where and as it is needed: the full one passes through no fp32 copy."""
    with torch.device("meta"):
        model = FastWAM(config).to(dtype)
    model.to_empty(device=device)
    fill_randomly(model)
    return model.eval()


@torch.no_grad()
def fill_randomly(module: nn.Module) -> None:
    """Weights that keep activations near 1: matrices by their fan-in, norms 1, biases 0."""
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1 and not name.endswith("modulation"):
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        elif parameter.ndim > 1:
            parameter.zero_()
            parameter[:, 2::3] = 1  # gates
        else:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)


@contextmanager
def acting_as(model: FastWAM, variant: str) -> Iterator[None]:
    """The same weights as another variant; of the released size all have the same."""
    own = model.variant
    model.variant = VARIANTS[variant]
    try:
        yield
    finally:
        model.variant = own
