"""DreamZero's two forms agree, nothing leaks, memory is what it says, and what is constant is computed once."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from actloop.errors import ContractError, UnknownNameError
from actloop.models.dreamzero import (
    Anchor,
    DreamZero,
    DreamZeroActor,
    DreamZeroConfig,
    Memory,
    Noise,
    NoisyClip,
    Reuse,
    SamplerConfig,
    Session,
    Velocities,
    draw_noise,
)
from actloop.models.dreamzero.layers import Words
from actloop.models.dreamzero.sampling import SOLVERS, Reusing, levels
from actloop.models.dreamzero.sequence import ClipSequence

TOLERANCE = 1e-5
EULER = SamplerConfig(steps=4, solver="euler", guidance=3.0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def network(**changes: object) -> DreamZero:
    torch.manual_seed(0)
    model = DreamZero(DreamZeroConfig.tiny(**changes))
    for parameter in model.parameters():  # nothing that a mistake could hide behind: no zeros, no ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def noisy_clip(config: DreamZeroConfig, blocks: int, *, rows: int = 1, seed: int = 1) -> NoisyClip:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator)

    frames, sides = config.frames(blocks), (config.latent_height, config.latent_width)
    times = 1000 * torch.rand(rows, blocks, generator=generator)
    actions = times.repeat_interleave(config.block_actions, dim=1)
    return NoisyClip(
        video=normal(frames, config.latent_channels, *sides),
        video_time=torch.cat([times[:, :1], times.repeat_interleave(config.block_frames, dim=1)], dim=1),
        clean=normal(frames, config.latent_channels, *sides),
        condition=normal(frames, config.condition_channels, *sides),
        actions=normal(blocks * config.block_actions, config.action_dim),
        action_time=actions,
        states=normal(blocks, config.state_dim),
    )


def context_inputs(config: DreamZeroConfig, rows: int = 1, seed: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(rows, config.text_tokens, config.text_dim, generator=generator)
    return text, torch.randn(rows, config.image_tokens, config.image_dim, generator=generator)


@torch.no_grad()
def trained_form(model: DreamZero, clip: NoisyClip) -> Velocities:
    return model.velocities(clip, model.context(*context_inputs(model.config, len(clip.video))))


@torch.no_grad()
def acting_form(model: DreamZero, clip: NoisyClip) -> list[Velocities]:
    """The same clip, block after block, through memory; the condition is taken as the clip has it."""
    config = model.config
    context, zero = model.context(*context_inputs(config)), model.times(torch.zeros(1, 1))
    memory = Memory(config, 1, device=torch.device("cpu"), dtype=torch.float32)
    found = []
    assert clip.clean is not None
    assert clip.condition is not None
    for block in range(-1, config.blocks(clip.video.shape[1]) - 1):
        seen = slice(0, 1) if block < 0 else slice(config.frames(block), config.frames(block + 1))
        model.observe(memory, clip.clean[:, seen], context, zero, clip.condition[:, seen])
        at = slice(config.frames(block + 1), config.frames(block + 2))
        actions = slice((block + 1) * config.block_actions, (block + 2) * config.block_actions)
        velocities = model.denoise(
            memory,
            clip.video[:, at],
            model.times(clip.video_time[:, at.start, None]),
            0,
            context,
            actions=None if clip.actions is None else clip.actions[:, actions],
            state=None if clip.states is None else clip.states[:, block + 1],
            condition=clip.condition[:, at],
        )
        found.append(velocities)
    return found


def assert_equal_blocks(config: DreamZeroConfig, whole: Velocities, blocks: list[Velocities], tolerance: float) -> None:
    assert whole.actions is not None
    video = torch.cat([block.video for block in blocks], dim=1)
    actions = torch.cat([block.actions for block in blocks if block.actions is not None], dim=1)
    assert (whole.video[:, 1:] - video).abs().max() <= tolerance
    assert (whole.actions - actions).abs().max() <= tolerance
    assert whole.video.abs().mean() > 0.1


# --- the two forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("memory", ["sliding", "recomputed", "released"])
def test_acting_from_memory_equals_the_training_form_within_the_window(blocks: int, memory: str) -> None:
    model = network(memory=memory)
    clip = noisy_clip(model.config, blocks)
    assert_equal_blocks(model.config, trained_form(model, clip), acting_form(model, clip), TOLERANCE)


@pytest.mark.parametrize("blocks", [4, 5, 8])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_past_the_window_it_equals_the_training_form_with_that_window(blocks: int, window: int) -> None:
    model = network(window_blocks=window, layers=3)
    clip = noisy_clip(model.config, blocks)
    assert_equal_blocks(model.config, trained_form(model, clip), acting_form(model, clip), TOLERANCE)


@pytest.mark.parametrize("window", [2, 3])
def test_video_alone_is_acted_out_as_it_was_trained(window: int) -> None:
    model = network(window_blocks=window)
    clip = replace(noisy_clip(model.config, 4), actions=None, action_time=None, states=None)
    whole, blocks = trained_form(model, clip), acting_form(model, clip)
    assert all(block.actions is None for block in blocks)
    assert (whole.video[:, 1:] - torch.cat([block.video for block in blocks], dim=1)).abs().max() <= TOLERANCE


def test_the_released_state_token_is_what_the_two_forms_differ_in() -> None:
    released, consistent = network(state_sees_all=True), network()
    clip = noisy_clip(released.config, 2)
    whole, acted = trained_form(released, clip), acting_form(released, clip)
    difference = (whole.video[:, 1:] - torch.cat([block.video for block in acted], dim=1)).abs().max()
    assert difference > 100 * TOLERANCE
    assert torch.equal(whole.video, trained_form(consistent, clip).video), "training does not know the flag"


def test_the_released_window_forgets_the_anchor_and_counts_on() -> None:
    ours, released = network(window_blocks=2), network(window_blocks=2, memory="released")
    clip = noisy_clip(ours.config, 4)
    first, second = acting_form(ours, clip), acting_form(released, clip)
    assert torch.equal(first[1].video, second[1].video)
    assert (first[2].video - second[2].video).abs().max() > 100 * TOLERANCE


@torch.no_grad()
def test_memory_holds_the_anchor_and_the_newest_blocks_at_their_places() -> None:
    model = network(window_blocks=3)
    config, clip = model.config, noisy_clip(model.config, 7)
    assert clip.clean is not None
    assert clip.condition is not None
    context, zero = model.context(*context_inputs(config)), model.times(torch.zeros(1, 1))

    def seen(*blocks: int) -> Memory:
        memory = Memory(config, 1, device=torch.device("cpu"), dtype=torch.float32)
        for index, block in enumerate((-1, *blocks)):
            at = slice(0, 1) if block < 0 else slice(config.frames(block), config.frames(block + 1))
            place = slice(0, 1) if block < 0 else slice(config.frames(min(index - 1, 2)), config.frames(min(index, 3)))
            model.observe(memory, clip.clean[:, at], context, zero, clip.condition[:, place])
        return memory

    long, size = seen(0, 1, 2, 3, 4, 5), [buffer.shape for buffer in seen().keys]
    assert [buffer.shape for buffer in long.keys] == size, "buffers never grow"
    assert long.kept == config.frames(2)
    # The first layer's keys know of nothing but their own frame and place: as if only the window had been seen.
    short = seen(4, 5)
    assert (long.seen(0)[1, :, :, : config.frame_tokens] == short.seen(0)[1, :, :, : config.frame_tokens]).all()
    assert (long.seen(0)[0] - short.seen(0)[0]).abs().max() > 1e-3, "the condition differs by place"
    plain = network(window_blocks=3, first_frame_condition=False)
    memories = []
    for blocks in ((0, 1, 2, 3, 4, 5), (4, 5)):
        memory = Memory(plain.config, 1, device=torch.device("cpu"), dtype=torch.float32)
        for block in (-1, *blocks):
            at = slice(0, 1) if block < 0 else slice(config.frames(block), config.frames(block + 1))
            plain.observe(
                memory, clip.clean[:, at], plain.context(*context_inputs(config)), plain.times(torch.zeros(1, 1))
            )
        memories.append(memory)
    assert (memories[0].seen(0) - memories[1].seen(0)).abs().max() <= TOLERANCE


# --- leaks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acting", [True, False])
@pytest.mark.parametrize("window", [2, 4])
def test_a_future_clean_frame_changes_nothing_that_an_earlier_block_predicts(acting: bool, window: int) -> None:
    model = network(window_blocks=window)
    config, clip = model.config, noisy_clip(model.config, 4)
    if not acting:
        clip = replace(clip, actions=None, action_time=None, states=None)
    base = trained_form(model, clip)
    for changed in range(config.frames(4)):
        assert clip.clean is not None
        clean = clip.clean.clone()
        clean[:, changed] += 1
        moved = trained_form(model, replace(clip, clean=clean))
        own = 0 if changed == 0 else 1 + (changed - 1) // config.block_frames  # block, counted from 1
        until = 1 if own == 0 else config.frames(own)  # its own block does not see its clean copy either
        assert torch.equal(moved.video[:, :until], base.video[:, :until])
        if base.actions is not None and moved.actions is not None and own:
            actions = own * config.block_actions
            assert torch.equal(moved.actions[:, :actions], base.actions[:, :actions])
        if own < 4:
            assert (moved.video[:, until:] != base.video[:, until:]).any(), "later blocks do follow"


def test_noisy_blocks_do_not_see_each_other_nor_others_actions() -> None:
    model = network()
    config, clip = model.config, noisy_clip(model.config, 3)
    base = trained_form(model, clip)
    assert clip.actions is not None
    assert base.actions is not None
    video, actions = clip.video.clone(), clip.actions.clone()
    video[:, 3:5] += 1
    actions[:, config.block_actions : 2 * config.block_actions] += 1
    moved = trained_form(model, replace(clip, video=video, actions=actions))
    same = [0, 1, 2, 5, 6]
    assert torch.equal(moved.video[:, same], base.video[:, same])
    assert (moved.video[:, 3:5] != base.video[:, 3:5]).any()


def test_rows_of_video_alone_see_no_actions() -> None:
    model = network()
    clip = noisy_clip(model.config, 2, rows=2)
    mixed = trained_form(model, replace(clip, acts=torch.tensor([True, False])))
    acting, alone = (
        trained_form(model, clip),
        trained_form(model, replace(clip, actions=None, action_time=None, states=None)),
    )
    assert alone.actions is None
    assert mixed.actions is not None
    assert acting.actions is not None
    assert (mixed.video[0] - acting.video[0]).abs().max() <= TOLERANCE
    assert (mixed.actions[0] - acting.actions[0]).abs().max() <= TOLERANCE
    assert (mixed.video[1] - alone.video[1]).abs().max() <= TOLERANCE
    assert clip.actions is not None
    assert clip.states is not None
    other = replace(clip, actions=clip.actions + 1, states=clip.states - 1, acts=torch.tensor([True, False]))
    moved = trained_form(model, other)
    assert torch.equal(moved.video[1], mixed.video[1])
    assert (moved.video[0] != mixed.video[0]).any()


def test_a_row_with_fewer_blocks_is_what_it_is_alone() -> None:
    model = network()
    config, long = model.config, noisy_clip(model.config, 3)
    assert long.clean is not None
    assert long.condition is not None
    assert long.actions is not None
    assert long.action_time is not None
    assert long.states is not None
    frames, actions = config.frames(2), 2 * config.block_actions
    short = NoisyClip(
        video=long.video[:, :frames],
        video_time=long.video_time[:, :frames],
        clean=long.clean[:, :frames],
        condition=long.condition[:, :frames],
        actions=long.actions[:, :actions],
        action_time=long.action_time[:, :actions],
        states=long.states[:, :2],
    )
    padded, alone = trained_form(model, long), trained_form(model, short)
    assert padded.actions is not None
    assert alone.actions is not None
    assert (padded.video[:, :frames] - alone.video).abs().max() <= TOLERANCE
    assert (padded.actions[:, :actions] - alone.actions).abs().max() <= TOLERANCE


def test_who_sees_whom_is_the_table() -> None:
    config = DreamZeroConfig.tiny(latent_height=2, latent_width=2, block_frames=1, block_actions=1, window_blocks=2)
    clip = ClipSequence(config, 3, clean=True, acting=True)
    rows = ["".join("x" if seen else "." for seen in row) for row in clip.visibility().tolist()]
    assert rows == [row.replace(" ", "") for row in EXPECTED]


EXPECTED = [
    "x... .... ... ...",  # clean: the anchor, blocks 0, 1, 2
    "xx.. .... ... ...",
    "xxx. .... ... ...",
    "x.xx .... ... ...",  # the window has left block 0
    ".... x... ... ...",  # noisy
    "x... .x.. x.. x..",
    "xx.. ..x. .x. .x.",
    "x.x. ...x ..x ..x",
    "x... .x.. x.. x..",  # actions
    "xx.. ..x. .x. .x.",
    "x.x. ...x ..x ..x",
    ".... .... ... x..",  # states
    ".... .... ... .x.",
    ".... .... ... ..x",
]


def test_parts_that_do_not_fit_are_named() -> None:
    model = network()
    clip, context = noisy_clip(model.config, 2), model.context(*context_inputs(model.config))
    assert clip.actions is not None
    assert clip.action_time is not None
    assert clip.clean is not None
    assert clip.condition is not None
    four = {name: getattr(clip, name)[:, :4] for name in ("video", "video_time", "clean", "condition")}
    for changes, message in (
        ({"actions": clip.actions[:, :-1], "action_time": clip.action_time[:, :-1]}, "clip.actions"),
        ({"states": None}, "clip.actions: expected actions with"),
        ({"condition": None}, "condition"),
        (four, r"1 \+ 2n latent frames"),
    ):
        with pytest.raises(ContractError, match=message):
            model.velocities(replace(clip, **changes), context)
    text, image = context_inputs(model.config)
    with pytest.raises(ContractError, match=r"context\.image"):
        model.context(text)
    with pytest.raises(ContractError, match="6 tokens fit, got 12"):
        model.context(torch.cat([text, text], dim=1), image)
    with pytest.raises(ContractError, match="window"):
        trained_form(network(memory="recomputed"), noisy_clip(model.config, 4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 50}, "dim"),
        ({"latent_width": 5}, "latents"),
        ({"window_blocks": 0}, "window_blocks"),
        ({"freq_dim": 7}, "freq_dim"),
    ],
)
def test_sizes_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        DreamZeroConfig.tiny(**changes)


def test_an_unknown_memory_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="sliding"):
        DreamZeroConfig.tiny(memory="slidin")


# --- sessions ---------------------------------------------------------------------------------------------------------


class Robot:
    """A session with the frames that it will see."""

    def __init__(self, actor: DreamZeroActor, seed: int) -> None:
        self.actor, config = actor, actor.config
        self.generator = torch.Generator().manual_seed(seed)
        guided = actor.sampler.guidance != 1
        texts = [self.normal(config.text_tokens, config.text_dim) for _ in range(2 if guided else 1)]
        self.words = actor.words(*texts)
        self.first = self.anchor()
        self.session = actor.start(self.words, self.first)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=self.generator)

    def anchor(self) -> Anchor:
        config = self.actor.config
        sides = (config.latent_height, config.latent_width)
        return Anchor(
            latents=self.normal(1, config.latent_channels, *sides),
            condition=self.normal(config.window_frames, config.condition_channels, *sides)
            if config.condition_channels
            else None,
            image=self.normal(config.image_tokens, config.image_dim),
        )

    def block(self) -> Tensor:
        config = self.actor.config
        return self.normal(config.block_frames, config.latent_channels, config.latent_height, config.latent_width)

    def turn(self) -> Tensor:
        """Act, and see what came of it."""
        noise = draw_noise(self.actor.config, self.generator)
        chunk = self.actor.act(self.session, self.normal(self.actor.config.state_dim), noise)
        self.actor.observe(self.session, self.block())
        return torch.cat([chunk.actions.flatten(), chunk.video.flatten()])


@pytest.mark.parametrize("memory", ["sliding", "recomputed"])
def test_interleaved_sessions_equal_separate_runs(memory: str) -> None:
    actor = DreamZeroActor(network(memory=memory), EULER)
    apart = [[robot.turn() for _ in range(5)] for robot in (Robot(actor, 1), Robot(actor, 2))]
    robots = [Robot(actor, 1), Robot(actor, 2)]
    together = [[robot.turn() for robot in robots] for _ in range(5)]
    for index in range(2):
        assert all(torch.equal(turn[index], own) for turn, own in zip(together, apart[index], strict=True))


@pytest.mark.parametrize("turns", [3, 4, 7])
def test_a_recomputed_window_is_a_session_that_saw_nothing_else(turns: int) -> None:
    actor = DreamZeroActor(network(memory="recomputed"), EULER)
    robot = Robot(actor, 1)
    blocks = [robot.block() for _ in range(turns)]
    for block in blocks:
        actor.observe(robot.session, block)
    fresh = actor.start(robot.words, robot.first)
    for block in blocks[1 - actor.config.window_blocks :]:
        actor.observe(fresh, block)
    noise, state = draw_noise(actor.config, robot.generator), robot.normal(actor.config.state_dim)
    ours, theirs = actor.act(robot.session, state, noise), actor.act(fresh, state, noise)
    assert (ours.actions - theirs.actions).abs().max() <= TOLERANCE
    assert (ours.video - theirs.video).abs().max() <= TOLERANCE
    sliding = DreamZeroActor(network(memory="sliding"), EULER)
    other = Robot(sliding, 1)
    for block in blocks:
        sliding.observe(other.session, block)
    difference = (sliding.act(other.session, state, noise).actions - ours.actions).abs().max()
    assert difference > 100 * TOLERANCE, "a block that slid out still shows in what later ones made of it"


def test_the_released_rule_empties_memory_every_window() -> None:
    actor = DreamZeroActor(network(memory="released"), EULER)
    robot = Robot(actor, 1)
    for _ in range(actor.config.window_blocks - 1):
        assert not robot.session.spent
        actor.observe(robot.session, robot.block())
    assert robot.session.spent
    with pytest.raises(ContractError, match="restart it with the newest frame"):
        actor.observe(robot.session, robot.block())
    newest = robot.anchor()
    actor.restart(robot.session, newest)
    fresh = actor.start(robot.words, newest)
    noise, state = draw_noise(actor.config, robot.generator), robot.normal(actor.config.state_dim)
    assert torch.equal(actor.act(robot.session, state, noise).actions, actor.act(fresh, state, noise).actions)


def test_acting_leaves_the_session_as_it_was() -> None:
    actor = DreamZeroActor(network(), EULER)
    robot = Robot(actor, 1)
    robot.turn()
    noise, state = draw_noise(actor.config, robot.generator), robot.normal(actor.config.state_dim)
    copy = robot.session.clone()
    first = actor.act(robot.session, state, noise)
    actor.observe(copy, robot.block())
    assert torch.equal(actor.act(robot.session, state, noise).actions, first.actions)


def test_guidance_moves_the_video_alone_and_both_branches_fit_one_batch() -> None:
    model = network()
    guided = DreamZeroActor(model, replace(EULER, steps=1))
    robot = Robot(guided, 1)
    plain = DreamZeroActor(model, replace(EULER, steps=1, guidance=1.0))
    branches = []
    for row in range(2):
        words = Words([(key[row : row + 1], value[row : row + 1]) for key, value in robot.words.layers])
        branches.append(plain.start(words, robot.first))
    noise, state = draw_noise(model.config, robot.generator), robot.normal(model.config.state_dim)
    chunk = guided.act(robot.session, state, noise)
    towards, away = (plain.act(session, state, noise) for session in branches)
    # One Euler step from the same noise: the guided video is the same combination of the branches' videos.
    expected = away.video + 3.0 * (towards.video - away.video)
    assert (chunk.actions - towards.actions).abs().max() <= TOLERANCE
    assert (chunk.video - expected).abs().max() <= 10 * TOLERANCE
    with pytest.raises(ContractError, match="negative prompt"):
        guided.words(robot.normal(model.config.text_tokens, model.config.text_dim))


class Calls:
    """How often each kind of layer was run."""

    def __init__(self, model: nn.Module) -> None:
        self.counts: Counter[str] = Counter()
        for name, module in model.named_modules():
            kind = re.sub(r"^blocks\.\d+", "blocks", name)
            module.register_forward_hook(lambda *_, kind=kind: self.counts.update([kind]))


def test_nothing_constant_is_computed_twice() -> None:
    model = network()
    layers, calls = model.config.layers, Calls(model)
    actor = DreamZeroActor(model, replace(EULER, reuse=Reuse(run=(0, 2))))
    assert calls.counts["time_embedding"] == 2, "of all steps at once, and of what is clean"
    robot = Robot(actor, 1)
    for turn in range(5):
        robot.turn()
        counts = calls.counts
        assert counts["blocks.self_attn.q"] == layers * (1 + 3 * (turn + 1)), "the anchor, two steps and a block"
        assert counts["state_encoder"] == counts["action_encoder"] == 2 * (turn + 1)
        for constant in ("text_embedding", "img_emb"):
            assert counts[constant] == 1
        for constant in ("k", "v", "k_img", "v_img"):
            assert counts[f"blocks.cross_attn.{constant}"] == layers
        assert counts["time_embedding"] == 2
    actor.restart(robot.session, robot.anchor())
    assert calls.counts["blocks.cross_attn.k"] == layers, "another anchor does not change the words"
    assert calls.counts["blocks.cross_attn.k_img"] == 2 * layers
    actor.start(robot.words, robot.first)
    assert calls.counts["text_embedding"] == 1, "words serve any number of sessions"


# --- the sampler ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("end", [0.0, 0.8])
def test_a_solver_follows_a_straight_path(solver: str, end: float) -> None:
    level = levels(16, 5.0, end)
    data, noise = torch.randn(2, 3), torch.randn(2, 3)
    first = float(level[0])
    taken = SOLVERS[solver](level)
    sample = (1 - first) * data + first * noise
    for _ in range(16):
        sample = taken.step(noise - data, sample)
    assert (sample - ((1 - end) * data + end * noise)).abs().max() < 1e-4
    assert level[0] == levels(16, 5.0)[0]
    assert (level.diff() < 0).all()


def test_flash_is_one_step_to_finished_actions() -> None:
    actor = DreamZeroActor(network(), SamplerConfig.flash())
    robot = Robot(actor, 1)
    noise, state = draw_noise(actor.config, robot.generator), robot.normal(actor.config.state_dim)
    chunk = actor.act(robot.session, state, noise)
    assert chunk.evaluations == 1
    memory, model = robot.session.memory, actor.model
    assert robot.session.condition is not None
    found = model.denoise(
        memory,
        noise.video,
        model.times(torch.tensor([[999.0]])),
        0,
        robot.session.context,
        actions=noise.action,
        state=state,
        condition=robot.session.condition[:, 1:3],
    )
    assert found.actions is not None
    level = float(levels(1, 5.0)[0])
    assert (chunk.actions - (noise.action - level * found.actions)).abs().max() <= TOLERANCE
    assert (chunk.video - (noise.video - level * found.video)).abs().max() <= TOLERANCE


def test_video_may_stop_early_while_actions_finish() -> None:
    early = DreamZeroActor(network(), replace(EULER, video_end=0.8))
    assert early.times.steps.shape == (4, 2)
    robot = Robot(early, 1)
    noise, state = draw_noise(early.config, robot.generator), robot.normal(early.config.state_dim)
    chunk = early.act(robot.session, state, noise)
    full = DreamZeroActor(early.model, EULER)
    assert full.times.steps.shape == (4, 1)
    other = full.act(robot.session, state, noise)
    assert torch.isfinite(chunk.actions).all()
    assert (chunk.actions - other.actions).abs().max() > 1e-4


@pytest.mark.parametrize(("evaluations", "expected"), [(8, 8), (7, 7), (6, 6), (5, 5), (16, 16)])
def test_static_reuse_asks_as_often_as_it_says(evaluations: int, expected: int) -> None:
    actor = DreamZeroActor(network(), SamplerConfig(reuse=Reuse.released(evaluations), solver="euler"))
    robot = Robot(actor, 1)
    noise, state = draw_noise(actor.config, robot.generator), robot.normal(actor.config.state_dim)
    error = actor.reuse_error(robot.session, state, noise)
    assert (error.evaluations, error.of) == (expected, 16)
    assert (error.action_max > 0) == (error.video_rms > 0) == (expected < 16)


def test_dynamic_reuse_rests_while_velocities_agree_and_asks_once_after() -> None:
    def asked(velocities: Callable[[int], Tensor], steps: int) -> list[int]:
        reusing, found = Reusing(Reuse.dynamic()), []
        for step in range(steps):
            if reusing.asks(step):
                reusing.answered(velocities(len(found)))
                found.append(step)
        return found

    same = torch.ones(1, 8)
    assert asked(lambda _: same, 16) == [0, 1, 6, 11], "four steps rest, then one asks"
    turned = torch.cat([torch.ones(1, 4), -torch.ones(1, 4)], dim=1)
    assert asked(lambda n: same if n % 2 else turned, 6) == [0, 1, 2, 3, 4, 5]
    close = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.94, (1 - 0.94**2) ** 0.5]])
    assert asked(lambda n: close[n % 2], 8) == [0, 1, 4, 7], "two steps rest"


@pytest.mark.parametrize(
    "broken",
    [
        lambda: Reuse(run=(1, 2)),
        lambda: Reuse(run=(0, 2, 1)),
        lambda: Reuse(similar=((0.5, 0),)),
        lambda: Reuse(similar=((0.5, 2), (0.9, 1))),
        lambda: SamplerConfig(steps=4, reuse=Reuse.released()),
        lambda: SamplerConfig(steps=0),
        lambda: SamplerConfig(video_end=1.0),
    ],
)
def test_samplers_that_make_no_sense_are_refused(broken: Callable[[], object]) -> None:
    with pytest.raises(ContractError):
        broken()


def test_half_precision_acts() -> None:
    model = network().to(torch.bfloat16)
    actor = DreamZeroActor(model, EULER)
    robot = Robot(actor, 1)
    turns = [robot.turn() for _ in range(5)]
    assert all(torch.isfinite(turn).all() for turn in turns)
    exact = Robot(DreamZeroActor(network(), EULER), 1)
    assert (exact.turn() - turns[0]).abs().max() < 0.5


def test_a_session_says_what_it_cannot_take() -> None:
    actor = DreamZeroActor(network(), EULER)
    robot = Robot(actor, 1)
    with pytest.raises(ContractError, match="expected 2 latent frames, got 1"):
        actor.observe(robot.session, robot.block()[:, :1])
    with pytest.raises(ContractError, match=r"anchor\.condition"):
        actor.start(robot.words, replace(robot.first, condition=None))
    assert isinstance(robot.session, Session)
    plain = DreamZeroActor(network(first_frame_condition=False), EULER)
    robot, noise = Robot(plain, 1), draw_noise(plain.config, robot.generator)
    short = Noise(video=noise.video[:, :1], action=noise.action)
    with pytest.raises(ContractError, match="2 frames, and actions with a state"):
        plain.act(robot.session, robot.normal(plain.config.state_dim), short)
