"""How long each stage of DreamZero takes on this machine, with random weights of a named size, and how often it runs.

    instruction --text encoder--> --prompt--> keys and values                      once per session
    picture --VAE, first-frame condition, image tower, network--> an anchor        once per anchor
    block of pictures --VAE--> --network--> memory                                 once per block, ahead of a request
    noise --evaluation--> ... --> chunk and video                                  per chunk
    video --VAE--> pictures                                                        where somebody looks

Random weights take as long as trained ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch

from actloop.contracts import Camera, Embodiment, Observation, Part, Space
from actloop.errors import ContractError
from actloop.models.codec import PatchCodec
from actloop.models.dreamzero import DreamZero, DreamZeroConfig, SamplerConfig
from actloop.models.dreamzero.embodiments import RobotDeclaration, declare
from actloop.models.dreamzero.image import ImageTower, TowerConfig, tower_layout
from actloop.models.dreamzero.policy import DreamZeroPolicy, PolicySession
from actloop.models.dreamzero.robots import droid
from actloop.models.dreamzero.statistics import RobotStatistics, VectorStatistics
from actloop.models.dreamzero.watching import anchor_condition
from actloop.models.dreamzero.weights import layout
from actloop.models.stored import PolicyInfo
from actloop.models.text import Vocabulary
from actloop.models.wan import WAN21, WAN22, PromptCache, TextConfig, UMT5Encoder, WanCodec
from actloop.testing import timing
from actloop.testing.fastwam_bench import SPARE, fill_randomly, free_bytes

PROMPT = "pick up the cup"
UMT5 = 5_680_910_336  # parameters of the text encoder, counted
VAE = {16: (WAN21, 126_892_531), 48: (WAN22, 704_688_668)}  # by channels: sizes, parameters
SIZES: dict[str, Callable[[], DreamZeroConfig]] = {
    "tiny": lambda: DreamZeroConfig.tiny(image_tokens=0, vocabulary=8, block_actions=4),
    "small": lambda: DreamZeroConfig(vocabulary=8),
    "5b": DreamZeroConfig.wan22_5b,
    "14b": DreamZeroConfig.wan21_14b,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Milliseconds of wall clock that one stage took; `runs` says how often it does."""

    stage: str
    runs: str
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamZeroBench:
    """What was timed and what it takes.

    Attributes:
        evaluations: of the network in a chunk, on `rows` rows each; `steps` of the sampler.
        tokens: that an evaluation computes; it sees `seen` more, of a full window.
        memory: bytes by part: weights, and the keys and values of one session.
    """

    size: str
    device: str
    dtype: str
    threads: int
    cut: str
    mode: str
    steps: int
    evaluations: int
    rows: int
    tokens: int
    seen: int
    repeats: int
    memory: dict[str, int]
    stages: tuple[Stage, ...]


def config_of(size: str, *, layers: int | None = None) -> DreamZeroConfig:
    """See `timing.sized`."""
    return timing.sized(SIZES, size, layers=layers)


def memory_of(config: DreamZeroConfig, dtype: torch.dtype, *, rows: int, text: bool = False) -> dict[str, int]:
    """Bytes by part, without allocating any; of the text encoder where `text`."""
    size = dtype.itemsize
    window = config.block_actions + 1 + (config.window_blocks * config.block_frames + 1) * config.frame_tokens
    held = {"network": sum(map(prod, layout(config).values())) * size}
    if not config.vocabulary:
        held["video VAE"] = VAE[config.latent_channels][1] * size
    if config.image_tokens:
        held["image tower"] = sum(map(prod, tower_layout().values())) * size
    if text and not config.vocabulary:
        held["text encoder"] = UMT5 * size
    held["memory of a session"] = 2 * rows * config.layers * window * config.dim * size
    return held


def bench_dreamzero(
    size: str = "small",
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    repeats: int = 20,
    threads: int | None = None,
    layers: int | None = None,
    mode: str = "",
    text: bool = False,
) -> DreamZeroBench:
    """Time every stage on a session whose window is full.

    `dtype`: by default float32 on a CPU, bfloat16 elsewhere. `layers` cuts the depth and keeps the widths, so that a
    part of a large network runs on a small machine. `mode`: of the policy (`DreamZeroPolicy.set_mode`). `text` adds the
    text encoder, where the size has one.

    Raises:
        UnknownNameError: no such size or mode.
        ContractError: a number out of range, no such device, or more memory is needed than is free on it.
    """
    config, place = config_of(size, layers=layers), timing.device_of(device)
    dtype = dtype or (torch.float32 if place.type == "cpu" else torch.bfloat16)
    if repeats < 1:
        raise ContractError("repeats", f"expected 1 or more, got {repeats}")
    sampler = SamplerConfig(guidance=1.0) if config.vocabulary else SamplerConfig.released()
    rows = 1 if sampler.guidance == 1 else 2
    memory = memory_of(config, dtype, rows=rows, text=text)
    check_memory(memory, place, dtype)
    with timing.threads(threads) as used:
        policy = random_policy(config, place, dtype, sampler)
        if mode:
            policy.set_mode(mode)
        session, obs = _full(policy)
        stages = [*_text(config, place, dtype, repeats)] if text and not config.vocabulary else []
        stages += _stages(policy, session, obs, repeats)
    assert session.past is not None
    memory_rows = session.past.session.memory
    return DreamZeroBench(
        size=size,
        device=torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu",
        dtype=str(dtype).removeprefix("torch."),
        threads=used,
        cut="" if layers is None else f"{layers} of {SIZES[size]().layers} layers",
        mode=mode,
        steps=policy.sampler.steps,
        evaluations=evaluations_of(policy, session, obs),
        rows=memory_rows.batch,
        tokens=config.block_frames * config.frame_tokens + config.block_actions + 1,
        seen=memory_rows.kept * config.frame_tokens,
        repeats=repeats,
        memory=memory,
        stages=tuple(stages),
    )


def check_memory(memory: dict[str, int], device: torch.device, dtype: torch.dtype) -> None:
    """Before anything is allocated; a session's memory counts twice, since a step copies it.

    Raises:
        ContractError: what is needed is more than what is free.
    """
    needed, free = sum(memory.values()) + memory["memory of a session"], free_bytes(device)
    if needed > SPARE * free:
        parts = ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in memory.items())
        raise ContractError(
            "memory",
            f"needs about {needed / 1e9:.1f} GB in {str(dtype).removeprefix('torch.')} ({parts}), and "
            f"{free / 1e9:.1f} GB are free on {device}: take fewer layers, a smaller dtype or another device",
        )


def random_policy(
    config: DreamZeroConfig, device: torch.device, dtype: torch.dtype, sampler: SamplerConfig
) -> DreamZeroPolicy:
    """A policy with random weights, made where and as it is needed: a large one passes through no fp32 copy."""
    with torch.device("meta"):
        model = DreamZero(config).to(dtype)
    model.to_empty(device=device)
    fill_randomly(model)
    declared = robot_of(config)
    if config.vocabulary:
        text: Vocabulary | PromptCache = Vocabulary.of([PROMPT], max_tokens=config.text_tokens)
        codec: PatchCodec | WanCodec = PatchCodec(config.latent_channels).to(device)
    else:
        context = torch.randn(20, config.text_dim, generator=torch.Generator().manual_seed(0))
        text = PromptCache(
            contexts={declared.prompt(PROMPT): context},
            template="{task}",
            encoder="random",
            max_tokens=config.text_tokens,
        )
        codec = WanCodec.untrained(VAE[config.latent_channels][0], device=device, dtype=dtype)
    tower = None
    if config.image_tokens:
        tower = ImageTower.untrained(TowerConfig(), device=device, dtype=dtype)
    return DreamZeroPolicy(
        model=model,
        codec=codec,
        text=text,
        declaration=declared,
        info=PolicyInfo(name="random", training={}),
        sampler=sampler,
        tower=tower,
        negative=None if config.vocabulary else torch.zeros(1, config.text_dim),
    )


def robot_of(config: DreamZeroConfig) -> RobotDeclaration:
    """DROID for a released size; else a robot with one camera that fits."""
    if config.latent_channels in VAE:
        return _ranged(droid(small=config.latent_channels == WAN22.channels))
    part = Part(name="joints", unit="rad", low=(-1.0,) * config.state_dim, high=(1.0,) * config.state_dim)
    told = replace(part, low=(-1.0,) * config.action_dim, high=(1.0,) * config.action_dim, kind="delta")
    camera = Camera(name="front", height=8 * config.latent_height, width=8 * config.latent_width)
    body = Embodiment(
        name="any", cameras=(camera,), state=Space(parts=(part,)), action=Space(parts=(told,)), control_hz=10.0
    )
    ticks = config.block_actions // config.block_frames
    return _ranged(declare(body, block_actions=config.block_actions, frame_ticks=ticks))


def evaluations_of(policy: DreamZeroPolicy, session: PolicySession, obs: Observation) -> int:
    """How often the network is asked for one chunk."""
    assert session.past is not None
    state = torch.from_numpy(policy.declaration.normalize_states(obs.state[None], policy.model.config.state_dim))
    return policy.actor.act(session.past.session, state, policy.draw(session)).evaluations


def _ranged(declared: RobotDeclaration) -> RobotDeclaration:
    """With the limits of its parts for statistics."""
    found = {}
    for name in ("state", "action"):
        space: Space = getattr(declared.embodiment, name)
        low, high = (tuple(map(float, side)) for side in (space.low, space.high))
        middle = tuple(map(float, (space.low + space.high) / 2))
        found[name] = VectorStatistics(min=low, q01=low, mean=middle, std=high, q99=high, max=high)
    return declared.with_statistics(RobotStatistics(**found))


def _observation(policy: DreamZeroPolicy, tick: int) -> Observation:
    body, rng = policy.embodiment, np.random.default_rng(tick)
    images = {camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in body.cameras}
    return Observation(images=images, state=np.zeros(body.state.size, np.float32), tick=tick, time=tick * body.period)


def _full(policy: DreamZeroPolicy) -> tuple[PolicySession, Observation]:
    """A session whose memory is as full as it gets, and the observation that it ends with."""
    session, declared = policy.start(PROMPT, seed=0), policy.declaration
    last = (policy.model.config.window_blocks - 1) * declared.block_actions
    for tick in range(0, last + 1, declared.frame_ticks):
        obs = _observation(policy, tick)
        session = policy.absorb(session, obs)
    return session, obs


def _text(config: DreamZeroConfig, device: torch.device, dtype: torch.dtype, repeats: int) -> Iterator[Stage]:
    """Of one prompt of all tokens; random weights, and released afterwards."""
    encoder = UMT5Encoder.untrained(TextConfig(), device=device, dtype=dtype)
    ids = torch.ones(1, config.text_tokens, dtype=torch.long)
    yield _stage("text encoder", "session", lambda: encoder.encode_tokens(ids, ids > 0), repeats, device)


@torch.no_grad()
def _stages(policy: DreamZeroPolicy, session: PolicySession, obs: Observation, repeats: int) -> Iterator[Stage]:
    """Each stage by itself, on what the one before it gave; then a whole request with everything absorbed."""
    past, device, declared = session.past, policy.model.device, policy.declaration
    config, watcher, actor = policy.model.config, policy.watcher, policy.actor
    assert past is not None
    picture = session.frames[-1].picture
    frame = torch.from_numpy(picture)[None]
    block = torch.from_numpy(np.stack([picture] * declared.block_frames))[None]
    state = torch.from_numpy(declared.normalize_states(obs.state[None], config.state_dim))
    noise, words = policy.draw(session), policy.words(PROMPT)

    def prompt() -> object:
        policy.words.forget()
        return policy.words(PROMPT)

    def encode() -> object:
        return watcher._one(block, None if past.stream is None else past.stream.clone())

    def evaluation() -> object:
        return actor._velocity(past.session, noise.video.to(device), noise.action.to(device), state, 0)

    def observe() -> object:
        inner = spare[0]
        if inner.spent:  # the released rule: there is no next block
            return None
        return actor.observe(inner, past.latents[-1])

    spare = [past.session.clone()]
    runs: list[tuple[str, str, Callable[[], object]]] = [
        ("tile", "frame", lambda: declared.picture(obs.images)),
        ("prompt, all layers", "session", prompt),
    ]
    if policy.tower is not None:
        tower = policy.tower
        runs.append(("image tower", "anchor", lambda: tower.encode(frame)))
    if config.first_frame_condition:
        runs.append(
            ("first-frame condition", "anchor", lambda: anchor_condition(policy.codec, frame, config.window_frames))
        )
    runs += [
        ("anchor, all of it", "anchor", lambda: watcher._anchored(picture, 0, words)),
        (f"encode {declared.block_frames} frames", "block", encode),
        ("copy of the memory", "block", past.session.clone),
        ("observe, network", "block", observe),
        ("evaluation, network", "evaluation", evaluation),
        ("chunk", "chunk", lambda: actor.act(past.session, state, noise)),
        ("request, all absorbed", "chunk", lambda: policy.predict(session, obs)),
        ("request, earlier frames absorbed", "chunk", _request(policy, session, obs, absorb=True)),
        ("request, frames come with it", "chunk", _request(policy, session, obs, absorb=False)),
    ]
    for name, often, run in runs:
        yield _stage(name, often, run, repeats, device)
    after, _ = policy.predict(session, obs)
    expected = after.expected
    assert expected is not None
    yield _stage("decode the future", "look", lambda: policy.expecting.decoded(expected), repeats, device)


def _request(
    policy: DreamZeroPolicy, session: PolicySession, obs: Observation, *, absorb: bool
) -> Callable[[], object]:
    """The request a block later, whose frames but the newest were absorbed as they came, or are all still to encode."""
    declared, take = policy.declaration, policy.absorb if absorb else policy.show
    end = obs.tick + declared.block_actions
    for tick in range(obs.tick + declared.frame_ticks, end, declared.frame_ticks):
        session = take(session, _observation(policy, tick))
    newest = _observation(policy, end)
    return lambda: policy.predict(session, newest)


def _stage(name: str, often: str, run: Callable[[], object], repeats: int, device: torch.device) -> Stage:
    p50, p95 = timing.timed(run, repeats, device)
    return Stage(stage=name, runs=often, p50_ms=p50, p95_ms=p95)
