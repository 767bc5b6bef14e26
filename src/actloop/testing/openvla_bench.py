"""How long each stage of OpenVLA's network takes on this machine, with random weights of a named size.

    camera frame --images--> pixels --vision--> --projector--> --prefill--> first token --decode step--> ... --> action

Random weights take as long as trained ones. Decoding is constrained: of the output matrix, 256 rows are computed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.prismatic import Decoding, PrismaticConfig, PrismaticVLM
from actloop.models.prismatic.weights import layout
from actloop.testing import timing
from actloop.testing.fastwam_bench import SPARE, StageTiming, fill_randomly, free_bytes

SIZES: dict[str, Callable[[], PrismaticConfig]] = {
    "tiny": lambda: PrismaticConfig.tiny(1024),
    "7b": PrismaticConfig.openvla_7b,
}
PARTS = {"vision_backbone": "vision towers", "projector": "projector", "language_model": "language model"}
CAMERA = (480, 640)  # of the frame that is processed
PROMPT = 19  # tokens of "pick up the cup" in OpenVLA's template
TOKENS = 7  # of an action
BINS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVLABench:
    """What was timed and what it takes.

    Attributes:
        tokens: of one action; `positions` come before them.
        memory: bytes by part: weights, and the keys and values of one row of a batch.
    """

    size: str
    device: str
    dtype: str
    threads: int
    cut: str
    tokens: int
    positions: int
    memory: dict[str, int]
    timings: tuple[StageTiming, ...]


def config_of(size: str, *, layers: int | None = None) -> PrismaticConfig:
    """See `timing.sized`."""
    return timing.sized(SIZES, size, layers=layers, inside="language")


def memory_of(config: PrismaticConfig, dtype: torch.dtype) -> dict[str, int]:
    """Bytes by part, without allocating any."""
    held = dict.fromkeys(PARTS.values(), 0)
    for name, shape in layout(config).items():
        held[PARTS[name.partition(".")[0]]] += int(np.prod(shape)) * dtype.itemsize
    language = config.language
    room = config.patches + PROMPT + TOKENS - 1
    held["keys and values"] = 2 * language.layers * room * language.kv_heads * language.head_dim * dtype.itemsize
    return held


def bench_openvla(
    size: str = "tiny",
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 20,
    threads: int | None = None,
    layers: int | None = None,
) -> OpenVLABench:
    """Time every stage of one action.

    `dtype`: by default float32 on a CPU, bfloat16 elsewhere. `layers` cuts the language model's depth and keeps its
    width, so that a part of a large network runs on a small machine.

    Raises:
        UnknownNameError: no such size.
        ContractError: a number out of range, no such device, or more memory is needed than is free on it.
    """
    config, place = config_of(size, layers=layers), timing.device_of(device)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    if repeats < 1 or not batch_sizes or min(batch_sizes) < 1:
        raise ContractError("bench", f"expected repeats and batch sizes from 1 on, got {repeats}, {tuple(batch_sizes)}")
    memory = memory_of(config, dtype)
    _check_memory(memory, max(batch_sizes), place, dtype)
    with timing.threads(threads) as used:
        model = random_model(config, place, dtype)
        timings = [timing for batch in batch_sizes for timing in _stages(model, batch, repeats)]
    return OpenVLABench(
        size=size,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        threads=used,
        cut="" if layers is None else f"{layers} of {SIZES[size]().language.layers} layers",
        tokens=TOKENS,
        positions=config.patches + PROMPT,
        memory=memory,
        timings=tuple(timings),
    )


def random_model(config: PrismaticConfig, device: torch.device, dtype: torch.dtype) -> PrismaticVLM:
    """A network with random weights, made where and as it is needed: a large one passes through no fp32 copy."""
    with torch.device("meta"):
        model = PrismaticVLM(config).to(dtype)
    model.to_empty(device=device)
    fill_randomly(model)
    return model.eval()


@torch.no_grad()
def _stages(model: PrismaticVLM, batch: int, repeats: int) -> Iterator[StageTiming]:
    """Each stage by itself, on what the one before it gave; then all of them, as one action needs them."""
    config, device = model.config, model.device
    generator = torch.Generator().manual_seed(0)
    frames = [[np.random.default_rng(0).integers(0, 256, (*CAMERA, 3), dtype=np.uint8)] for _ in range(batch)]
    ids = torch.randint(3, config.language.vocabulary, (batch, PROMPT), generator=generator).to(device)
    mask = torch.ones_like(ids, dtype=torch.bool)
    rows = torch.arange(config.language.vocabulary - BINS, config.language.vocabulary, device=device)
    pixels = model.images(frames).to(device, model.dtype)
    features = model.vision_backbone(pixels.flatten(0, 1))
    embeds, lengths = model.embed(pixels, ids), mask.sum(1) + config.patches

    def prefill() -> Decoding:
        return Decoding(model.language_model, config.language, embeds, lengths, TOKENS - 1)

    def act() -> Tensor:
        return model.decode(model.images(frames), ids, mask, tokens=TOKENS, rows=rows)

    yield _timed("images", lambda: model.images(frames), batch, repeats, device)
    yield _timed("vision", lambda: model.vision_backbone(pixels.flatten(0, 1)), batch, repeats, device)
    yield _timed("projector", lambda: model.projector(features), batch, repeats, device)
    yield _timed("prefill", prefill, batch, repeats, device)
    yield from _steps(model, prefill, rows, batch, repeats)
    yield _timed(f"action of {TOKENS} tokens", act, batch, repeats, device)


def _steps(
    model: PrismaticVLM, prefill: Callable[[], Decoding], rows: Tensor, batch: int, repeats: int
) -> Iterator[StageTiming]:
    """Every step after the prefill, choosing among the rows included; the first token comes of the prefill itself."""
    taken: list[list[float]] = [[] for _ in range(TOKENS - 1)]
    for _ in range(timing.WARM_UP + repeats):
        decoding = prefill()

        def feed(decoding: Decoding = decoding) -> None:
            decoding.feed(rows[model.logits(decoding.hidden, rows).argmax(-1)])

        for step in taken:
            step.append(timing.once(feed, model.device))
    for at, step in enumerate(taken):
        yield _stage(f"decode step {at + 1}", timing.summary(step), batch, repeats)


def _timed(stage: str, run: Callable[[], object], batch: int, repeats: int, device: torch.device) -> StageTiming:
    return _stage(stage, timing.timed(run, repeats, device), batch, repeats)


def _stage(stage: str, taken: tuple[float, float], batch: int, repeats: int) -> StageTiming:
    p50, p95 = taken
    return StageTiming(stage=stage, batch=batch, compiled=False, p50_ms=p50, p95_ms=p95, repeats=repeats)


def _check_memory(memory: dict[str, int], batch: int, device: torch.device, dtype: torch.dtype) -> None:
    needed = sum(memory.values()) + (batch - 1) * memory["keys and values"]
    free = free_bytes(device)
    if needed > SPARE * free:
        parts = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in memory.items())
        raise ContractError(
            "memory",
            f"needs about {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} ({parts}), and "
            f"{free / 1e9:.1f} GB are free on {device}: take fewer layers, a smaller dtype or another device",
        )
