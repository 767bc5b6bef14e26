"""DreamZero as a policy: what it remembers between requests, what it answers, and its file."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_dreamzero_embodiments import metadata

from actloop.contracts import ActionChunk, Camera, Committed, Embodiment, Observation, Part, Space, WorldActionModel
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.checkpoint import load_policy, save_policy
from actloop.models.codec import PatchCodec
from actloop.models.dreamzero import DreamZero, DreamZeroConfig, Reuse, SamplerConfig, draw_noise
from actloop.models.dreamzero.embodiments import RobotDeclaration, declare
from actloop.models.dreamzero.image import ImageTower, TowerConfig
from actloop.models.dreamzero.policy import DreamZeroPolicy, PolicySession
from actloop.models.dreamzero.released import released_policy
from actloop.models.dreamzero.robots import droid
from actloop.models.dreamzero.statistics import RobotStatistics, VectorStatistics
from actloop.models.stored import PolicyInfo
from actloop.models.text import Vocabulary
from actloop.models.wan import PromptCache, VAEConfig, WanCodec
from actloop.testing.conformance import check_policy

SHARED = Path(__file__).resolve().parents[2] / "shared"
TINY_VAE = VAEConfig(channels=16, width=2, decoder_width=2, patch=1, residual=False)
TOWER = TowerConfig(width=32, feed_forward=48, heads=4, layers=2, patch=14, side=28, outputs=8)
BLOCK, STRIDE = 6, 3
EULER = SamplerConfig(steps=2, guidance=1.0, solver="euler")


def body(side: int = 16, hz: float = 10.0) -> Embodiment:
    joints = Part(name="joints", unit="rad", low=(-2.0, -2.0), high=(2.0, 2.0))
    gripper = Part(name="gripper", unit="m", low=(0.0,), high=(0.1,))
    return Embodiment(
        name="small",
        cameras=tuple(Camera(name=name, height=side, width=side) for name in ("front", "wrist")),
        state=Space(parts=(joints, gripper)),
        action=Space(parts=(joints, gripper)),
        control_hz=hz,
    )


def robot(of: Embodiment | None = None, **changes: int) -> RobotDeclaration:
    of = of or body()
    rng = np.random.default_rng(0)
    sizes = {"block_actions": BLOCK, "frame_ticks": STRIDE, **changes}
    rows = [rng.uniform(space.low, space.high, (200, space.size)) for space in (of.state, of.action)]
    return declare(of, **sizes).measured([(rows[0], rows[1])])


def policy(sampler: SamplerConfig = EULER, **changes: object) -> DreamZeroPolicy:
    """Two latent frames a block, each of one picture of 16 x 32 pixels."""
    text = Vocabulary.of(["reach the goal", "pick the red cube"], max_tokens=6)
    sizes = {"latent_height": 2, "image_tokens": 0, "first_frame_condition": False, "block_actions": BLOCK}
    config = DreamZeroConfig.tiny(**{**sizes, "vocabulary": text.size, "action_dim": 4, "state_dim": 5, **changes})
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (8, 16, 32, 3), dtype=torch.uint8)
    return DreamZeroPolicy(
        model=DreamZero(config),
        codec=PatchCodec(config.latent_channels).fit(frames),
        text=text,
        declaration=robot(),
        info=PolicyInfo(name="tiny", training={"steps": 0}),
        sampler=sampler,
        negative=torch.tensor([1, 2]) if sampler.guidance != 1 else None,
    )


def observation(tick: int, of: Embodiment | None = None, episode: int = 0) -> Observation:
    of = of or body()
    rng = np.random.default_rng([episode, tick])
    return Observation(
        images={camera.name: rng.integers(0, 256, (camera.height, camera.width, 3), np.uint8) for camera in of.cameras},
        state=rng.uniform(of.state.low, of.state.high).astype(np.float32),
        tick=tick,
        time=tick * of.period,
    )


def asked(of: DreamZeroPolicy, ticks: dict[int, str], *, seed: int = 0, episode: int = 0) -> list[np.ndarray]:
    """The actions of a session that is shown (`a`) or asked for (`p`) these ticks."""
    session, found = of.start("reach the goal", seed=seed), []
    for tick, what in ticks.items():
        obs = observation(tick, episode=episode)
        if what == "a":
            session = of.absorb(session, obs)
        else:
            session, prediction = of.predict(session, obs)
            found.append(prediction.chunk.actions)
    return found


def every(ticks: range, asks: int) -> dict[int, str]:
    return {tick: "p" if tick % asks == 0 else "a" for tick in ticks}


# --- the contract -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["sliding", "recomputed", "released"])
def test_it_is_a_policy_that_imagines_and_samples(memory: str) -> None:
    made = policy(memory=memory)
    assert isinstance(made, WorldActionModel)
    check_policy(made, observation(3))


def test_it_is_one_with_guidance_too() -> None:
    check_policy(policy(replace(EULER, guidance=3.0)), observation(3))
    made = policy()
    with pytest.raises(ContractError, match="guidance 3 needs a negative prompt"):
        made._use(replace(EULER, guidance=3.0))


def test_a_session_is_a_value() -> None:
    made = policy()
    sessions = [made.start("reach the goal", seed=0)]
    answers = []
    for tick in range(0, 5 * BLOCK, BLOCK):
        session, prediction = made.predict(sessions[-1], observation(tick))
        sessions.append(session)
        answers.append(prediction.chunk.actions)
    for index, tick in reversed(list(enumerate(range(0, 5 * BLOCK, BLOCK)))):
        _, again = made.predict(sessions[index], observation(tick))
        assert np.array_equal(again.chunk.actions, answers[index])
    with pytest.raises(AttributeError):
        sessions[0].calls = 3  # type: ignore[misc]


def test_interleaved_sessions_equal_separate_runs() -> None:
    made, ticks = policy(), range(6 * BLOCK)
    apart = [asked(made, every(ticks, BLOCK), seed=seed, episode=seed) for seed in (1, 2)]
    sessions = {seed: made.start("reach the goal", seed=seed) for seed in (1, 2)}
    for tick in ticks:
        for seed in (1, 2):
            obs = observation(tick, episode=seed)
            if tick % BLOCK:
                sessions[seed] = made.absorb(sessions[seed], obs)
            else:
                sessions[seed], prediction = made.predict(sessions[seed], obs)
                assert np.array_equal(prediction.chunk.actions, apart[seed - 1][tick // BLOCK])


# --- memory -----------------------------------------------------------------------------------------------------------


def test_frames_absorbed_between_requests_are_in_memory_before_the_next_one() -> None:
    made = policy()
    session, _ = made.predict(made.start("reach the goal", seed=0), observation(0))
    for tick in range(1, BLOCK + 1):
        before = made.watcher.encoded
        session = made.absorb(session, observation(tick))
        assert made.watcher.encoded - before == (tick == BLOCK), "when the block is complete, and not before"
    before = made.watcher.encoded
    ahead, answer = made.predict(session, observation(BLOCK))
    assert made.watcher.encoded == before, "nothing is left to encode"
    late = asked(made, {0: "p", **dict.fromkeys(range(1, BLOCK), "a"), BLOCK: "p"})
    assert np.array_equal(answer.chunk.actions, late[1])
    assert ahead.past is not None
    assert ahead.past.session.memory.frames == made.model.config.frames(1)


@pytest.mark.parametrize("blocks", [1, 2])
def test_memory_step_by_step_equals_the_window_encoded_anew(blocks: int) -> None:
    made, last = policy(), blocks * BLOCK
    steps = asked(made, every(range(last + 1), BLOCK))[-1]
    shown = [observation(tick) for tick in range(last + 1)]
    session = made.start("reach the goal", seed=0)
    for obs in shown[:-1]:
        session = made.show(session, obs)
    session = replace(session, calls=blocks, past=None)
    fresh, prediction = made.predict(session, shown[-1])
    assert fresh.past is not None
    assert fresh.past.session.memory.frames == made.model.config.frames(blocks)
    assert np.abs(prediction.chunk.actions - steps).max() < 1e-5


def test_a_request_between_blocks_moves_the_window_to_it() -> None:
    made = policy()
    frames = dict.fromkeys(range(20), "a")
    session = made.start("reach the goal", seed=0)
    for tick in frames:
        session = made.absorb(session, observation(tick))
    assert session.past is not None
    assert session.past.tick == 18
    moved, _ = made.predict(session, observation(20))
    assert moved.past is not None
    assert (moved.past.tick, moved.past.session.memory.frames) == (20, made.model.config.frames(2)), "20, 14, 8"
    expected = made.codec.encode(torch.from_numpy(made.declaration.picture(observation(8).images))[None, None])
    assert torch.equal(moved.past.latents[0], expected), "anchored whole blocks before"


def test_a_missing_frame_is_the_one_before_it_unless_that_is_a_block_older() -> None:
    made = policy()
    sparse, held = made.start("reach the goal", seed=0), made.start("reach the goal", seed=0)
    sparse, _ = made.predict(sparse, observation(0))
    held, _ = made.predict(held, observation(0))
    sparse, first = made.predict(sparse, observation(BLOCK))
    held = made.absorb(held, replace(observation(0), tick=3))
    held, second = made.predict(held, observation(BLOCK))
    assert np.array_equal(first.chunk.actions, second.chunk.actions)
    assert sparse.past is not None
    assert sparse.past.session.memory.frames == made.model.config.frames(1)
    alone, _ = made.predict(sparse, observation(5 * BLOCK))
    assert alone.past is not None
    assert alone.past.session.memory.frames == 1, "nothing in the window but the newest frame"
    with pytest.raises(ContractError, match="expected 30 or later, got 29"):
        made.predict(alone, observation(29))


@pytest.mark.parametrize(
    ("memory", "frames"),
    [("sliding", [1, 3, 5, 7, 9, 11]), ("recomputed", [1, 3, 5, 5, 5, 5]), ("released", [1, 3, 5, 1, 3, 5])],
)
def test_past_the_window_memory_does_what_it_is_called(memory: str, frames: list[int]) -> None:
    made, found = policy(memory=memory), []
    session = made.start("reach the goal", seed=0)
    for tick in range(0, 6 * BLOCK, BLOCK):
        session, _ = made.predict(session, observation(tick))
        assert session.past is not None
        found.append(session.past.session.memory.frames)
        assert len(session.past.latents) <= 3
        assert len(session.frames) <= made.watcher.span
    assert found == frames


def test_a_moved_anchor_is_the_frame_before_the_window_as_in_training() -> None:
    made = policy()
    made.set_mode("moved-anchor")
    session = made.start("reach the goal", seed=0)
    for tick in range(5 * BLOCK + 1):
        session = made.absorb(session, observation(tick))
    assert session.past is not None
    assert session.past.session.memory.frames == made.model.config.frames(2), "of a window of three"
    anchor = torch.from_numpy(made.declaration.picture(observation(3 * BLOCK).images))
    assert torch.equal(session.past.latents[0], made.codec.encode(anchor[None, None]))
    late = made.start("reach the goal", seed=0)
    for tick in range(3 * BLOCK, 5 * BLOCK):
        late = made.absorb(late, observation(tick))
    last = observation(5 * BLOCK)
    answers = [made.predict(one, last)[1].chunk.actions for one in (session, late)]
    assert np.abs(answers[0] - answers[1]).max() < 1e-5, "nothing before the window is left"


# --- answers ----------------------------------------------------------------------------------------------------------


def test_committed_actions_begin_the_chunk_and_the_rest_goes_on_from_them() -> None:
    made, obs = policy(), observation(0)
    session = made.start("reach the goal", seed=0)
    _, free = made.predict(session, obs)
    plan = np.full((4, 3), 0.05, np.float32)
    _, bound = made.predict(session, obs, committed=Committed(actions=plan, fixed=2))
    assert np.array_equal(bound.chunk.actions[:2], plan[:2])
    assert not np.array_equal(bound.chunk.actions[2:], free.chunk.actions[2:]), "they are seen by the others"
    _, none = made.predict(session, obs, committed=Committed(actions=plan, fixed=0))
    assert np.array_equal(none.chunk.actions, free.chunk.actions)
    with pytest.raises(ContractError, match="6 fixed actions leave none of 6"):
        made.predict(session, obs, committed=Committed(actions=np.zeros((6, 3), np.float32), fixed=6))
    with pytest.raises(ContractError, match=r"committed\.actions"):
        made.predict(session, obs, committed=Committed(actions=np.zeros((4, 2), np.float32), fixed=2))


def test_a_prefix_holds_in_every_step_of_either_solver() -> None:
    for solver in ("euler", "unipc"):
        made = policy(replace(EULER, steps=4, solver=solver))
        seen: list[torch.Tensor] = []
        denoise = made.model.denoise

        def spy(*args: object, **kwargs: object) -> object:
            seen.append(kwargs["actions"])  # type: ignore[arg-type] # noqa: B023
            return denoise(*args, **kwargs)  # type: ignore[arg-type] # noqa: B023

        made.model.denoise = spy  # type: ignore[method-assign]
        plan = np.zeros((2, 3), np.float32)
        noise = draw_noise(made.model.config, torch.Generator().manual_seed(3))
        made.draw = lambda session: noise  # noqa: B023
        obs = observation(0)
        made.predict(made.start("reach the goal", seed=0), obs, committed=Committed(actions=plan, fixed=2))
        clean = torch.from_numpy(made.declaration.normalize_actions(plan, obs.state, 4))
        for level, actions in zip(made.actor.action_levels[:-1], seen, strict=True):
            expected = level * noise.action[0, :2] + (1 - level) * clean
            assert torch.allclose(actions[0, :2], expected, atol=1e-6)


def test_relative_actions_are_added_to_the_state_of_the_request() -> None:
    made = policy()
    act = made.actor.act
    made.actor.act = lambda *args, **kwargs: replace(  # type: ignore[method-assign]
        act(*args, **kwargs), actions=torch.zeros(1, BLOCK, 4)
    )
    obs = observation(0)
    _, prediction = made.predict(made.start("reach the goal", seed=0), obs)
    middle = made.declaration.known.action.denormalize(np.zeros(3), "quantile")
    expected = middle + np.array([obs.state[0], obs.state[1], 0.0])
    assert np.allclose(prediction.chunk.actions, expected, atol=1e-6)


def test_noise_follows_the_session_or_is_the_released_one() -> None:
    made = policy()
    first = asked(made, {0: "p", 6: "p"})
    assert np.array_equal(first, asked(made, {0: "p", 6: "p"}))
    session = made.start("reach the goal", seed=0)
    drawn = [made.draw(replace(session, calls=calls)).action for calls in (0, 1)]
    assert not torch.equal(*drawn)
    made.noise = "released"
    assert torch.equal(*[made.draw(replace(session, seed=seed, calls=seed)).action for seed in (0, 1)])


def test_what_was_expected_stands_beside_what_arrived() -> None:
    made = policy()
    session = made.start("reach the goal", seed=0)
    assert made.outlook(session) is None
    session, prediction = made.predict(session, observation(0), imagine=True)
    assert prediction.future is not None
    assert prediction.future.period == pytest.approx(0.3)
    assert not prediction.future.follows_chunk
    assert made.outlook(session) is None
    for tick in range(1, 5):
        session = made.absorb(session, observation(tick))
    outlook = made.outlook(session)
    assert outlook is not None
    assert outlook.ticks == (3,)
    for camera in ("front", "wrist"):
        assert np.array_equal(outlook.arrived[camera][0], observation(3).images[camera])
        assert np.array_equal(outlook.expected[camera][0], prediction.future.frames[camera][0])
    session, _ = made.predict(session, observation(6))
    assert made.outlook(session) is None, "it is that of the newest prediction"


def test_the_future_is_decoded_when_it_is_looked_at() -> None:
    made, decoded = policy(), []
    decode = made.codec.decode
    made.codec.decode = lambda latents: decoded.append(1) or decode(latents)  # type: ignore
    session = made.start("reach the goal", seed=0)
    _, prediction = made.predict(session, observation(0), imagine=True)
    future = made.imagine(session, observation(0), prediction.chunk)
    assert not decoded
    assert prediction.future is not None
    assert np.array_equal(future.frames["front"], prediction.future.frames["front"]), "what it would do anyway"
    assert len(decoded) == 2
    other = ActionChunk(actions=np.zeros((6, 3), np.float32), anchor=0, period=0.1, observed_at=0.0)
    assert made.imagine(session, observation(0), other).chunk is other


# --- samplers ---------------------------------------------------------------------------------------------------------


def counted(made: DreamZeroPolicy) -> list[int]:
    """Rows of every evaluation from here on."""
    rows: list[int] = []
    denoise = made.model.denoise

    def counting(memory: object, *args: object, **kwargs: object) -> object:
        rows.append(memory.batch)  # type: ignore[attr-defined]
        return denoise(memory, *args, **kwargs)  # type: ignore[arg-type]

    made.model.denoise = counting  # type: ignore
    return rows


@pytest.mark.parametrize(
    ("mode", "evaluations"),
    [("flash", 1), ("4-steps", 4), ("16-steps+reuse-8", 8), ("16-steps", 16), ("1-step", 1), ("recomputed", 2)],
)
def test_modes_change_how_often_the_network_is_asked(mode: str, evaluations: int) -> None:
    made = policy()
    made.set_mode(mode)
    rows = counted(made)
    made.predict(made.start("reach the goal", seed=0), observation(0))
    assert rows == [1] * evaluations


def test_both_branches_of_guidance_are_one_batch() -> None:
    made = policy(replace(EULER, guidance=5.0))
    rows = counted(made)
    made.predict(made.start("reach the goal", seed=0), observation(0))
    assert rows == [2, 2]


def test_modes_that_do_not_exist_or_do_not_fit_change_nothing() -> None:
    made = policy()
    before = made.sampler, made.model.config.memory
    with pytest.raises(UnknownNameError, match="did you mean 'sliding'"):
        made.set_mode("slidin")
    with pytest.raises(ContractError, match="step"):
        made.set_mode("released+reuse-8")
    assert (made.sampler, made.model.config.memory) == before
    made.set_mode("released+4-steps")
    assert (made.sampler.steps, made.model.config.memory) == (4, "released")
    assert "released" in str(made.describe()["memory"])


# --- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"declaration": robot(body(24))}, "declaration.picture"),
        ({"declaration": robot(block_actions=9)}, "declaration.block_actions"),
        ({"declaration": declare(body(), block_actions=BLOCK, frame_ticks=STRIDE)}, "declaration.statistics"),
        ({"tower": ImageTower.untrained(TOWER)}, "takes 0 image tokens"),
        ({"encoding": "streem"}, "did you mean 'stream'"),
        ({"noise": "fish"}, "did you mean 'fresh'"),
        ({"anchoring": "mooved"}, "did you mean 'moved'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    made = policy()
    parts = {name: getattr(made, name) for name in ("model", "codec", "text", "declaration", "info", "sampler")}
    with pytest.raises(ContractError, match=message):
        DreamZeroPolicy(**{**parts, **changes})


def test_unknown_words_are_refused_at_the_start() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'goal'"):
        policy().start("reach the gaol", seed=0)


# --- files ------------------------------------------------------------------------------------------------------------


def wan_policy(**changes: object) -> DreamZeroPolicy:
    """As the released one is put together: video VAE, image tower, both branches, contexts of prompts."""
    torch.manual_seed(0)
    declared = robot(body(32), block_actions=24)
    sizes = {"latent_channels": 16, "latent_width": 8, "block_actions": 24, "state_dim": 5}
    tower = {"image_tokens": TOWER.tokens, "image_dim": TOWER.width}
    config = DreamZeroConfig.tiny(**{**sizes, **tower, **changes})
    prompts = {name: torch.randn(3, config.text_dim) for name in ("reach the goal", "pick")}
    return DreamZeroPolicy(
        model=DreamZero(config),
        codec=WanCodec.untrained(TINY_VAE),
        text=PromptCache(contexts=prompts, template="{task}", encoder="none", max_tokens=6),
        declaration=declared,
        info=PolicyInfo(name="wan", training={}),
        sampler=SamplerConfig(steps=2, guidance=3.0, reuse=Reuse(run=(0,))),
        tower=ImageTower.untrained(TOWER),
        negative=torch.randn(4, config.text_dim),
    )


@pytest.mark.parametrize("make", [policy, wan_policy])
def test_a_file_alone_rebuilds_the_policy(tmp_path: Path, make: Callable[[], DreamZeroPolicy]) -> None:
    made = make()
    save_policy(made, tmp_path / "policy.safetensors")
    again = load_policy(tmp_path / "policy.safetensors", embodiment=made.embodiment)
    assert isinstance(again, DreamZeroPolicy)
    assert again.describe() == made.describe()
    assert again.declaration == made.declaration
    assert again.sampler == made.sampler
    answers = []
    for one in (made, again):
        session = one.start("reach the goal", seed=1)
        for tick in (0, made.horizon):
            session, prediction = one.predict(session, observation(tick, made.embodiment), imagine=True)
        assert prediction.future is not None
        answers.append((prediction.chunk.actions, prediction.future.frames["front"]))
    (actions, frames), (actions_again, frames_again) = answers
    assert np.abs(actions - actions_again).max() < 1e-5
    assert np.abs(frames.astype(int) - frames_again).max() <= 1
    with pytest.raises(CheckpointError, match="was trained for 'small'"):
        load_policy(tmp_path / "policy.safetensors", embodiment=droid().embodiment)
    save_policy(made, tmp_path / "half.safetensors", half=True)
    assert load_policy(tmp_path / "half.safetensors").model.dtype == torch.float32


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    made, path = policy(), tmp_path / "policy.safetensors"
    held = made.stored()
    for tensors, header, message in (
        ({**held.tensors, "odd.x": torch.zeros(1)}, {}, "unexpected odd.x"),
        ({k: t for k, t in held.tensors.items() if "head.modulation" not in k}, {}, "head.modulation"),
        (held.tensors, {"declaration": {}}, "declaration.embodiment: missing"),
        (held.tensors, {"sampler": {}}, "damaged header"),
    ):
        made.stored = lambda half=False, t=tensors, h=header: replace(held, header={**held.header, **h}, tensors=t)  # type: ignore
        save_policy(made, path)
        with pytest.raises(CheckpointError, match=message):
            load_policy(path)


def test_a_stream_remembers_what_a_block_apart_does_not() -> None:
    made = wan_policy()
    session = made.start("reach the goal", seed=0)
    blocks = [observation(tick, made.embodiment) for tick in range(0, 73, 3)]
    found = {}
    for encoding in ("stream", "apart"):
        made.watcher.encoding = encoding  # type: ignore[assignment]
        later: PolicySession = session
        for obs in blocks:
            later = made.absorb(later, obs)
        assert later.past is not None
        assert later.past.session.memory.frames == made.model.config.frames(3)
        found[encoding] = torch.cat(later.past.latents[-2:], dim=1)
    pictures = np.stack([made.declaration.picture(obs.images) for obs in blocks])
    whole = made.codec.encode(torch.from_numpy(pictures)[None])
    assert torch.allclose(found["stream"], whole[:, -4:], atol=1e-4), "as in training"
    apart = made.codec.encode(torch.from_numpy(np.concatenate([pictures[17:18], pictures[17:]]))[None])
    assert torch.allclose(found["apart"][:, -2:], apart[:, 1:], atol=1e-4)
    assert not torch.allclose(found["apart"], found["stream"], atol=1e-2)


def test_a_released_folder_becomes_a_policy(tmp_path: Path) -> None:
    folder = metadata(tmp_path / "DreamZero")
    torch.manual_seed(0)
    sizes = {"latent_channels": 16, "latent_height": 44, "latent_width": 80, "action_dim": 32, "state_dim": 64}
    config = DreamZeroConfig.tiny(block_actions=24, image_tokens=0, **sizes, dim=24, layers=1)
    tensors = {f"action_head.model.{k}": t for k, t in DreamZero(config).state_dict().items()}
    tensors |= {f"action_head.vae.model.{k}": t for k, t in WanCodec.untrained(TINY_VAE).vae.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text("{}")
    contexts = {text: torch.randn(3, config.text_dim) for text in (droid().prompt("Wipe the table"), "blurred")}
    cache = PromptCache(contexts=contexts, template="{task}", encoder="none", max_tokens=6)
    common = {"prompts": cache, "config": config, "dtype": torch.float32}
    with pytest.raises(ContractError, match="does not say the negative prompt"):
        released_policy(folder, droid(), **common)  # type: ignore[arg-type]
    made = released_policy(folder, droid(), negative="blurred", **common)  # type: ignore[arg-type]
    assert made.sampler == SamplerConfig.released()
    assert made.declaration.known.action.q01[0] == 11.0
    made.start("wipe the table", seed=0)
    with pytest.raises(UnknownNameError, match="unknown name"):
        made.start("wipe the chair", seed=0)
    with pytest.raises(CheckpointError, match="no text"):
        released_policy(folder, droid(), config=config)
    (folder / "config.json").write_text(json.dumps({"cfg": {"negative_prompt": "blurred"}}))
    assert released_policy(folder, droid(), **common).negative is not None  # type: ignore[arg-type]


# --- a real clip ------------------------------------------------------------------------------------------------------

NARROW = {
    "dim": 24, "ffn": 32, "heads": 2, "layers": 1, "freq_dim": 16, "text_dim": 16, "text_tokens": 6,
    "image_dim": TOWER.width, "image_tokens": TOWER.tokens, "action_hidden": 16, "window_blocks": 2,
}  # fmt: skip


def real_clip(cameras: tuple[str, ...], ticks: int) -> dict[str, list[np.ndarray]]:
    folder = SHARED / "data" / "droid_clip"
    if not folder.is_dir():
        pytest.skip("../shared/data/droid_clip is not here")
    av = pytest.importorskip("av")
    clip = {}
    for camera in cameras:
        with av.open(str(folder / f"{camera}.mp4")) as video:
            decoded = zip(range(ticks), video.decode(video=0), strict=False)
            clip[camera] = [frame.to_ndarray(format="rgb24") for _, frame in decoded]
    return clip


@pytest.mark.parametrize(
    ("config", "vae", "pixels", "tokens"),
    [
        pytest.param(
            DreamZeroConfig.wan21_14b(**NARROW), replace(TINY_VAE, width=1, decoder_width=1), (352, 640), 880,
            marks=pytest.mark.slow, id="14B",
        ),
        pytest.param(
            DreamZeroConfig.wan22_5b(**NARROW),
            VAEConfig(channels=48, width=2, decoder_width=2, patch=2, residual=True), (160, 320), 50, id="5B",
        ),
    ],
)  # fmt: skip
def test_a_real_clip_goes_through_the_droid_preset_end_to_end(
    config: DreamZeroConfig, vae: VAEConfig, pixels: tuple[int, int], tokens: int
) -> None:
    declared = droid(small=tokens == 50)
    ends = {"min": -3.0, "q01": -3.0, "mean": 0.0, "std": 1.0, "q99": 3.0, "max": 3.0}
    known = VectorStatistics(**{name: (value,) * 8 for name, value in ends.items()})
    declared = declared.with_statistics(RobotStatistics(state=known, action=known))
    clip = real_clip(declared.tiling.cameras, 25)
    torch.manual_seed(0)
    prompt = declared.prompt("Put the cup away")
    made = DreamZeroPolicy(
        model=DreamZero(config),
        codec=WanCodec.untrained(vae),
        text=PromptCache(contexts={prompt: torch.randn(5, 16)}, template="{task}", encoder="none", max_tokens=6),
        declaration=declared,
        info=PolicyInfo(name="clip", training={}),
        sampler=SamplerConfig(steps=2, guidance=5.0),
        tower=ImageTower.untrained(TOWER),
        negative=torch.randn(6, 16),
    )
    assert config.frame_tokens == tokens
    session = made.start("put the cup away", seed=0)
    for tick in range(25):
        images = {camera: frames[tick] for camera, frames in clip.items()}
        obs = Observation(images=images, state=np.zeros(8, np.float32), tick=tick, time=tick / 15)
        if tick % 24:
            session = made.absorb(session, obs)
        else:
            session, prediction = made.predict(session, obs, imagine=True)
    assert session.past is not None
    assert session.expected is not None
    latent = (config.latent_channels, config.latent_height, config.latent_width)
    assert [tuple(x.shape) for x in session.past.latents] == [(1, 1, *latent), (1, 2, *latent)]
    assert tuple(session.expected.latents.shape) == (1, 2, *latent)
    assert session.frames[-1].picture.shape == (*pixels, 3)
    assert prediction.chunk.actions.shape == (24, 8)
    assert prediction.chunk.period == pytest.approx(1 / 15)
    assert prediction.future is not None
    assert prediction.future.period == pytest.approx(0.2), "5 frames a second"
    shapes = {name: frames.shape for name, frames in prediction.future.frames.items()}
    assert shapes == dict.fromkeys(clip, (8, 180, 320, 3))
    wrist = declared.apart(session.frames[-1].picture)["wrist_image_left"]
    assert np.abs(wrist.astype(int) - clip["wrist_image_left"][24]).mean() < 12
