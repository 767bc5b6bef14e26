"""Training DreamZero: what its clips hold, that video alone teaches no actions, that it learns and goes on."""

import json
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dots import BODY, dots, picture
from test_dreamzero import TOLERANCE, acting_form, assert_equal_blocks, network, noisy_clip, trained_form

from actloop.contracts import Camera, Embodiment, Observation, Part, Space, embodiment_to_dict
from actloop.data.cache import CachedEpisodes
from actloop.errors import CheckpointError, ContractError, DataError, UnknownNameError
from actloop.models.checkpoint import load_policy
from actloop.models.codec import PatchCodec
from actloop.models.dreamzero import DreamZero, DreamZeroConfig, NoiseSchedule, SamplerConfig
from actloop.models.dreamzero.adapters import FILE, adapted, declared
from actloop.models.dreamzero.embodiments import RobotDeclaration, declare
from actloop.models.dreamzero.image import ImageTower, TowerConfig
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.models.stored import PolicyInfo
from actloop.models.tensors import read_tensors
from actloop.models.text import Vocabulary
from actloop.models.wan import PromptCache, VAEConfig, WanCodec
from actloop.training.dreamzero import (
    DreamZeroRecipe,
    LowRankLayers,
    VideoOnly,
    adapt_dreamzero,
    few_shot,
    released_recipe,
    small_robot,
    small_sizes,
    train_dreamzero,
    train_small_dreamzero,
)
from actloop.training.dreamzero.batches import ClipBatches
from actloop.training.dreamzero.learner import Learner
from actloop.training.dreamzero.pictures import LatentClips, fitted_codec
from actloop.training.dreamzero.samples import Recording, held_out_episodes, joined
from actloop.training.dreamzero.starting import begin, go_on, known

BLOCK, STEP = 4, 2
TINY_VAE = VAEConfig(channels=16, width=4, decoder_width=4, patch=1, residual=False)
TOWER = TowerConfig(width=32, feed_forward=48, heads=4, layers=2, patch=14, side=28, outputs=8)
ARM = Embodiment(
    name="arm",
    cameras=BODY.cameras,
    state=Space(parts=(Part(name="joints", unit="rad", low=(-1.0,) * 3, high=(1.0,) * 3),)),
    action=Space(parts=(Part(name="joints", unit="rad", low=(-1.0,) * 3, high=(1.0,) * 3),)),
    control_hz=10.0,
)
SIZES = small_sizes(
    dim=32,
    ffn=48,
    heads=2,
    layers=2,
    freq_dim=16,
    text_dim=16,
    text_tokens=4,
    latent_channels=8,
    action_hidden=32,
    stem_channels=8,
    keypoints=4,
    action_dim=4,
    state_dim=4,
)
RECIPE = DreamZeroRecipe(
    sizes=SIZES,
    clip_blocks=2,
    steps=6,
    batch_size=8,
    learning_rate=1e-2,
    validate_every=3,
    validation_share=0.2,
    sampler=SamplerConfig(steps=4, guidance=1.0, solver="euler"),
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def said(body: Embodiment = BODY) -> RobotDeclaration:
    return declare(body, block_actions=BLOCK, frame_ticks=STEP, template=f"{body.name} {{instruction}}")


def arm(folder: Path, *, lengths: tuple[int, ...] = (3, 13, 14), word: str = "lift") -> CachedEpisodes:
    """A second body: joints that move on, episodes of several lengths; its camera shows the first joint."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, total = np.random.default_rng(1), sum(lengths)
    states = np.cumsum(rng.uniform(-0.05, 0.05, (total, 3)), axis=0).astype(np.float32)
    np.save(folder / "states.npy", states)
    np.save(folder / "actions.npy", (states + rng.uniform(0.0, 0.1, states.shape)).astype(np.float32))
    np.save(folder / "frames.top.npy", np.stack([picture(0.5 + 0.4 * float(np.tanh(x))) for x in states[:, 0]]))
    manifest = {
        "format": "actloop.cache.1",
        "source": f"arm-{word}",
        "fps": 10,
        "cameras": ["top"],
        "embodiment": embodiment_to_dict(ARM),
        "episodes": [{"instruction": f"go {word}", "length": length} for length in lengths],
        "statistics": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return CachedEpisodes(folder)


def samples(
    data: CachedEpisodes, declaration: RobotDeclaration, *, acts: bool = True, blocks: int = 2
) -> tuple[LatentClips, PatchCodec]:
    """Of all episodes of some data, in a network with room for both bodies."""
    recording = Recording(data=data, declaration=declaration, source=data.source)
    codec = fitted_codec([recording], SIZES.latent_channels)
    words = Vocabulary(["arm", "dot", "go", "left", "right", "lift", "drop"], max_tokens=4)
    sides = {"latent_height": 2, "latent_width": 2, "block_frames": 2, "block_actions": BLOCK}
    config = replace(SIZES, vocabulary=words.size, **sides)
    found = LatentClips(recording, config, codec=codec, text=words, blocks=blocks, validation_share=0.2, acts=acts)
    return found, codec


# --- clips ------------------------------------------------------------------------------------------------------------


def test_a_clip_is_frames_states_and_relative_actions_of_its_ticks_and_no_more(tmp_path: Path) -> None:
    data = arm(tmp_path)
    declaration = known(said(ARM), data, None)
    assert declaration.relative == ("joints",)
    found, codec = samples(data, declaration)
    chosen = [index for index in range(len(found.train)) if found.train.places([index]).episodes[0] == 1]
    clip = found.clip(found.train, np.array(chosen[1:3]))
    assert clip.blocks.tolist() == [2, 2]
    for row, anchor in enumerate((4, 5)):  # ticks 1 and 2 of the second episode, whose first frame is number 3
        frames = data.images("top", np.array([anchor, anchor + 2, anchor + 4, anchor + 6, anchor + 8]))
        latents = codec.encode(torch.from_numpy(frames)[None])[0]
        assert torch.allclose(clip.latents[row], latents, atol=2e-3), "half precision in memory"
        for block, start in enumerate((anchor, anchor + BLOCK)):
            state = declaration.normalize_states(data.states[start], 4)
            assert torch.equal(clip.states[row, block], torch.from_numpy(state))
            physical = data.actions[start : start + BLOCK]
            told = clip.actions[row, block * BLOCK : (block + 1) * BLOCK].numpy()
            back = declaration.denormalize_actions(told, data.states[start])
            inside = np.abs(told[:, :3]) < 1
            assert np.allclose(back[inside], physical[inside], atol=1e-5)
            assert inside.mean() > 0.6
    assert clip.counts[..., :3].all()
    assert not clip.counts[..., 3:].any(), "the network has room for four, the arm has three"
    assert (clip.actions[..., 3:] == 0).all()


def test_what_lies_past_an_episodes_end_is_masked_and_rows_differ_in_blocks(tmp_path: Path) -> None:
    data = arm(tmp_path)
    found, _ = samples(data, known(said(ARM), data, None))
    places = found.train.places(np.arange(len(found.train)))
    held_out = held_out_episodes(3, 0.2)
    assert set(places.episodes.tolist()) == {0, 1, 2} - held_out
    rows = [int(np.flatnonzero((places.episodes == 1) & (places.ticks == tick))[0]) for tick in (0, 13 - 6, 13 - 1)]
    clip = found.clip(found.train, np.array(rows))
    assert clip.blocks.tolist() == [2, 1, 1], "blocks of which all frames are inside, one at least"
    assert clip.counts[:, :, 0].sum(1).tolist() == [8, 6, 1]
    assert clip.counts[2, 0, 0]
    assert clip.states.shape[1] == 2
    short = found.clip(found.train, np.array(rows[2:]))
    assert short.states.shape[1] == 1, "as long as its longest row"
    assert short.latents.shape[1] == 1 + 2
    assert (short.latents[0, 1] == short.latents[0, 0]).all(), "the last frame again"
    drawn = found.draw(np.random.default_rng(0), 32, 2)
    lengths = [data.episodes[e].length - t for e, t in zip(places.episodes[drawn], places.ticks[drawn], strict=True)]
    assert min(lengths) > BLOCK
    assert len(set(places.ticks[drawn].tolist())) > 2, "anchors at different places"


def test_prompts_are_of_their_rows_and_videos_alone_have_no_labels(tmp_path: Path) -> None:
    both, _ = samples(dots(tmp_path), known(said(), dots(tmp_path), None))
    clip = both.clip(both.train, np.array([0, 8]))
    assert clip.text.tolist() == [[2, 3, 4, 0], [2, 3, 7, 0]] or clip.text[0].tolist() != clip.text[1].tolist()
    data = arm(tmp_path / "arm")
    silent, _ = samples(data, said(ARM), acts=False)
    video = silent.clip(silent.train, np.arange(4))
    assert not video.counts.any()
    assert not video.states.any()
    assert not video.actions.any()
    mixed = joined([clip, video], both.config)
    assert mixed.latents.shape[0] == 6
    assert mixed.states.shape[1] == max(clip.states.shape[1], video.states.shape[1])
    assert mixed.counts.any(dim=(1, 2)).tolist() == [True, True, False, False, False, False]


def test_data_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    data = arm(tmp_path)
    with pytest.raises(ContractError, match="statistics"):
        samples(data, said(ARM))
    with pytest.raises(ContractError, match="acts at 20 Hz"):
        Recording(data=data, declaration=said(replace(ARM, control_hz=20.0)), source="arm")
    with pytest.raises(DataError, match="no episodes"):
        Recording(data=SimpleNamespace(episodes=[], fps=10.0), declaration=said(ARM), source="none")  # type: ignore[arg-type]
    with pytest.raises(ContractError, match=r"arm-lift: state"):
        samples(data, known(said(), dots(tmp_path), None))
    other = declare(replace(BODY, cameras=(Camera(name="top", height=32, width=32),)), block_actions=4, frame_ticks=2)
    with pytest.raises(ContractError, match="one size"):
        fitted_codec(
            [
                Recording(data=data, declaration=said(ARM), source="a"),
                Recording(data=data, declaration=other, source="b"),
            ],
            4,
        )


# --- batches ----------------------------------------------------------------------------------------------------------


def batches(folder: Path, recipe: DreamZeroRecipe, *, video: bool) -> ClipBatches:
    acting, _ = samples(dots(folder), known(said(), dots(folder), None))
    silent = [samples(arm(folder / "arm"), said(ARM), acts=False)[0]] if video else []
    return ClipBatches(acting, silent, recipe)


def test_rows_that_act_are_the_same_with_and_without_video_of_others(tmp_path: Path) -> None:
    recipe = replace(RECIPE, video_rows=3)
    alone, mixed = (batches(tmp_path, recipe, video=video) for video in (False, True))
    clip, draws = alone.training(2, 0)
    again, _ = alone.training(2, 0)
    with_video, _ = mixed.training(2, 0)
    for field in ("latents", "actions", "states", "text"):
        mine = getattr(clip, field)
        assert torch.equal(mine, getattr(again, field))
        theirs = getattr(with_video, field)
        assert len(theirs) == 8 + 3
        part = theirs[(slice(0, 8), *(slice(0, length) for length in mine.shape[1:2]))]
        assert torch.equal(part, mine), field
    assert draws.video_noise.shape == clip.latents.shape
    assert not torch.equal(alone.training(3, 0)[0].actions, clip.actions) or alone.training(3, 0)[0] is not clip
    for number in range(alone.held_out):
        one, other = alone.validation(number), mixed.validation(number)
        for field in fields(one[0]):
            if getattr(one[0], field.name) is not None:
                assert torch.equal(getattr(one[0], field.name), getattr(other[0], field.name))
        assert torch.equal(one[1].video_noise, other[1].video_noise)
    assert alone.source != mixed.source


def test_the_last_steps_have_videos_near_noise_and_actions_anywhere(tmp_path: Path) -> None:
    recipe = replace(
        RECIPE,
        steps=10,
        flash_share=0.3,
        batch_size=64,
        schedule=NoiseSchedule(video_shift=1, action_shift=1, bell=False),
    )
    assert [recipe.schedule_at(step).decoupled for step in range(10)] == [False] * 7 + [True] * 3
    made = batches(tmp_path, recipe, video=False)
    before, after = made.training(6, 0)[1], made.training(7, 0)[1]
    assert before.video_level.mean().item() == pytest.approx(0.5, abs=0.1)
    assert after.video_level[:, 1:].mean().item() == pytest.approx(7 / 8, abs=0.05)
    assert after.action_level.mean().item() == pytest.approx(0.5, abs=0.12)
    assert made.validation(0)[1].video_level.mean().item() < 0.7, "losses before and after stay comparable"


@torch.no_grad()
def test_videos_of_others_teach_the_video_and_no_actions(tmp_path: Path) -> None:
    recipe = replace(RECIPE, video_rows=3)
    made = batches(tmp_path, recipe, video=True)
    acting = Recording(data=dots(tmp_path), declaration=known(said(), dots(tmp_path), None), source="dots")
    parts = begin(replace(recipe, sizes=made._acting.config), [acting])
    network = parts.network
    network.words_table = torch.nn.Embedding(8, SIZES.text_dim)
    learner = Learner(network, recipe)
    clip, draws = made.training(0, 0)
    found = learner(clip, draws)
    assert (found["action"][8:] == 0).all()
    assert (found["action"][:8] > 0).all()
    assert (found["video"] > 0).all()
    assert torch.allclose(found["total"], found["video"] + recipe.action_weight * found["action"])
    clip.actions[8:], clip.states[8:] = 0.9, -0.9
    assert torch.equal(learner(clip, draws)["total"], found["total"])


# --- the stem ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["sliding", "recomputed"])
def test_with_a_stem_acting_still_equals_the_training_form(memory: str) -> None:
    model = network(memory=memory, stem_channels=8, keypoints=3, cameras=2)
    clip = noisy_clip(model.config, 3)
    whole = trained_form(model, clip)
    assert_equal_blocks(model.config, whole, acting_form(model, clip), TOLERANCE)
    assert clip.clean is not None
    other = clip.clean.clone()
    other[:, 3:5] += 1.0  # the second block's frames: at the start of the third
    moved = trained_form(model, replace(clip, clean=other))
    assert whole.actions is not None
    assert moved.actions is not None
    size = model.config.block_actions
    assert torch.equal(moved.actions[:, : 2 * size], whole.actions[:, : 2 * size]), "nothing leaks back"
    assert (moved.actions[:, 2 * size :] - whole.actions[:, 2 * size :]).abs().max() > 1e-3


def test_a_stem_is_told_the_instruction_and_needs_cameras_that_fit() -> None:
    model = network(stem_channels=8, keypoints=3, image_tokens=0, first_frame_condition=False, vocabulary=5)
    clip = replace(noisy_clip(model.config, 1), condition=None)
    with torch.no_grad():
        found = [
            model.stem.see(clip.clean[0], model.context(torch.tensor([[word]]))[0].told.expand(3, -1))
            for word in (1, 2)
        ]
    assert (found[0][1] - found[1][1]).abs().max() > 1e-3, "it looks elsewhere for another word"
    with pytest.raises(ContractError, match="stem_channels"):
        DreamZeroConfig.tiny(stem_channels=8, cameras=3)
    with pytest.raises(ContractError, match="clean copy"):
        model.velocities(replace(clip, clean=None), model.context(torch.tensor([[1]])))
    assert not any("stem" in name for name in network().state_dict()), "released networks have none"


# --- runs -------------------------------------------------------------------------------------------------------------


def moves(policy: DreamZeroPolicy, instruction: str, x: float = 0.5) -> np.ndarray:
    obs = Observation(images={"top": picture(x)}, state=np.array([x, 0.5], np.float32), tick=0, time=0.0)
    return policy.predict(policy.start(instruction, seed=0), obs)[1].chunk.actions


def opened(path: Path) -> DreamZeroPolicy:
    policy = load_policy(path)
    assert isinstance(policy, DreamZeroPolicy)
    return policy


def test_it_learns_which_way_a_word_means_beside_video_of_another_robot(tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=60, validate_every=30, video_rows=3, flash_share=0.25)
    out = tmp_path / "out" / "policy.safetensors"
    video = VideoOnly(data=arm(tmp_path / "arm"), declaration=said(ARM))
    result = train_dreamzero(recipe, dots(tmp_path), out, name="tiny", declaration=said(), video_only=[video])
    policy = opened(out)
    assert (moves(policy, "go left")[:, 0] < -0.02).all()
    assert (moves(policy, "go right")[:, 0] > 0.02).all()
    assert moves(policy, "go left").shape == (BLOCK, 2)
    policy.set_mode("flash")
    assert (moves(policy, "go left")[:, 0] < -0.02).all(), "and in one step"
    lines = [json.loads(line) for line in result.log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [30, 60]
    assert set(lines[0]["validation"]) == {"video", "action", "total"}
    assert lines[-1]["validation"] == {key: round(value, 5) for key, value in result.losses.items()}
    training = policy.info.training
    assert training["video_only"] == {"arm-lift": 3}
    assert {"steps", "seconds", "data", "validation_action", "init", "trainable", "flash_share"} <= set(training)
    assert "arm" in policy.text.instructions
    assert not result.log.with_name("policy.state").exists()


def test_a_cut_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    train_dreamzero(RECIPE, dots(tmp_path), whole, name="tiny", declaration=said(), half=False)

    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_dreamzero(RECIPE, dots(tmp_path), cut, name="tiny", declaration=said(), half=False, progress=stop)
    other = replace(RECIPE, learning_rate=1e-3)
    with pytest.raises(CheckpointError, match="another configuration"):
        train_dreamzero(other, dots(tmp_path), cut, name="tiny", declaration=said(), half=False, resume=True)
    train_dreamzero(RECIPE, dots(tmp_path), cut, name="tiny", declaration=said(), half=False, resume=True)
    assert opened(whole).digest() == opened(cut).digest()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy to go on from."""
    folder = tmp_path_factory.mktemp("base")
    out = folder / "base.safetensors"
    train_dreamzero(RECIPE, dots(folder), out, name="base", declaration=said(), half=False)
    return out


def test_with_adapters_the_rest_stays_and_what_is_kept_is_what_was_merged(tmp_path: Path, base: Path) -> None:
    lora = LowRankLayers(rank=2, alpha=4, targets=("q", "ffn.0"), keep=True)
    recipe, before = replace(RECIPE, trainable="lora", lora=lora), opened(base)
    out = tmp_path / "policy.safetensors"
    train_dreamzero(recipe, dots(tmp_path), out, name="tiny", declaration=said(), init=before, half=False)
    had, has = before.model.state_dict(), opened(out).model.state_dict()
    changed = {name for name in had if not torch.equal(had[name], has[name])}
    whole = ("state_encoder", "action_encoder", "action_decoder")
    assert changed
    assert {name for name in changed if not name.startswith(whole)} == {
        f"blocks.{layer}.{name}.weight" for layer in range(2) for name in ("self_attn.q", "cross_attn.q", "ffn.0")
    }
    folder = out.with_suffix(".adapter")
    made = adapted(had, read_tensors(folder / FILE), declared(folder), base_name="base", source=folder)
    assert all(torch.allclose(made[name], has[name], atol=1e-6) for name in has)
    with pytest.raises(CheckpointError, match="fingerprint"):
        adapted(has, read_tensors(folder / FILE), declared(folder), base_name="base", source=folder)
    strange = replace(recipe, lora=replace(lora, targets=("kk",)))
    with pytest.raises(UnknownNameError, match=r"lora\.targets"):
        train_dreamzero(strange, dots(tmp_path), out, name="tiny", declaration=said(), init=before)
    with pytest.raises(ContractError, match="init"):
        train_dreamzero(recipe, dots(tmp_path), out, name="tiny", declaration=said())


def test_a_network_with_frozen_encoders_trains_on_frames_as_its_sessions_see_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data, declaration = dots(tmp_path), declare(BODY, block_actions=4, frame_ticks=1, template="the {instruction}")
    declaration = known(declaration, data, None)
    config = DreamZeroConfig.tiny(
        latent_channels=16,
        latent_height=2,
        latent_width=2,
        block_frames=1,
        block_actions=4,
        image_tokens=5,
        image_dim=32,
    )
    contexts = {f"the go {side}": torch.randn(3, config.text_dim) for side in ("left", "right")}
    before = DreamZeroPolicy(
        model=DreamZero(config),
        codec=WanCodec.untrained(TINY_VAE),
        text=PromptCache(contexts=contexts, template="{task}", encoder="none", max_tokens=config.text_tokens),
        declaration=declaration,
        info=PolicyInfo(name="frozen", training={}),
        sampler=SamplerConfig(steps=2, guidance=1.0),
        tower=ImageTower.untrained(TOWER),
    )
    recipe = replace(RECIPE, sizes=config, steps=2, batch_size=2, validate_every=2, trainable="lora")
    recording = Recording(data=data, declaration=declaration, source="dots")
    clips = go_on(recipe, [recording], before).clips(recording, recipe, acts=True)
    clip = clips.clip(clips.train, np.array([0]))
    session = before.start("go left", seed=0)
    for tick in range(5):
        obs = Observation(
            images={"top": data.images("top", np.array(tick))}, state=data.states[tick], tick=tick, time=0.1 * tick
        )
        session = before.absorb(session, obs)
    assert session.past is not None
    assert torch.allclose(torch.cat(session.past.latents, dim=1), clip.latents[:, :2], atol=1e-4)
    assert clip.condition is not None
    assert torch.allclose(session.past.session.condition[:, :3], clip.condition, atol=1e-5)
    assert clip.image is not None
    assert clip.image.shape == (1, 5, 32)
    out = tmp_path / "policy.safetensors"
    train_dreamzero(recipe, data, out, name="tiny", declaration=declaration, init=before, half=False)
    after = opened(out)
    assert after.predict(after.start("go left", seed=0), obs)[1].chunk.actions.shape == (4, 2)
    had, has = before.model.state_dict(), after.model.state_dict()
    assert torch.equal(had["patch_embedding.weight"], has["patch_embedding.weight"])
    assert not torch.equal(had["blocks.0.self_attn.q.weight"], has["blocks.0.self_attn.q.weight"])


def test_a_policy_is_brought_to_another_robot_with_a_few_episodes(tmp_path: Path, base: Path) -> None:
    before, data = opened(base), arm(tmp_path / "arm", lengths=(12, 12, 12), word="drop")
    out = tmp_path / "arm.safetensors"
    recipe = replace(few_shot(before, steps=4), batch_size=4, validation_share=0.2)
    adapt_dreamzero(before, data, out, name="arm", declaration=said(ARM), recipe=recipe)
    after = opened(out)
    assert after.embodiment.identity == ARM.identity
    assert after.declaration.known.action.size == 3
    assert after.declaration.known != before.declaration.known
    assert set(before.text.instructions) | {"arm", "drop"} == set(after.text.instructions)
    obs = Observation(images={"top": picture(0.5)}, state=np.zeros(3, np.float32), tick=0, time=0.0)
    assert after.predict(after.start("go drop", seed=0), obs)[1].chunk.actions.shape == (BLOCK, 3)
    assert torch.equal(after.codec.state_dict()["basis"], before.codec.state_dict()["basis"])
    for changes, message in (({"dim": 64}, r"init.*dim: data and recipe say 64"), ({"state_dim": 2}, "state_dim")):
        other = replace(recipe, sizes=replace(recipe.sizes, **changes))
        with pytest.raises(ContractError, match=message):
            adapt_dreamzero(before, data, out, name="arm", declaration=said(ARM), recipe=other)


def test_the_same_body_keeps_its_statistics_and_old_words_their_embeddings(tmp_path: Path, base: Path) -> None:
    before = opened(base)
    assert known(said(), dots(tmp_path), before) == before.declaration
    still = replace(RECIPE, steps=1, learning_rate=1e-12, weight_decay=0.0)
    out = tmp_path / "same.safetensors"
    train_dreamzero(still, dots(tmp_path), out, name="same", declaration=said(), init=before, half=False)
    np.testing.assert_allclose(moves(opened(out), "go left"), moves(before, "go left"), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainable": "some"}, "all"),
        ({"averaging": "fair"}, "released"),
        ({"clip_blocks": 0}, "clip_blocks"),
        ({"video_rows": -1}, "video_rows"),
        ({"flash_share": 1.5}, "flash_share"),
        ({"action_weight": 0.0}, "action_weight"),
        ({"validation_share": 0.0}, "validation_share"),
    ],
)
def test_recipes_are_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        replace(RECIPE, **changes)
    with pytest.raises(ContractError, match="lora"):
        LowRankLayers(rank=0)


def test_a_small_robot_is_declared_by_its_dataset(tmp_path: Path) -> None:
    assert small_robot(ARM).prompt("Go") == "arm go"
    nobody = SimpleNamespace(embodiment=None, path=tmp_path)
    with pytest.raises(DataError, match="declares no embodiment"):
        train_small_dreamzero(RECIPE, nobody, tmp_path / "x.safetensors", name="x")  # type: ignore[arg-type]


def test_the_released_recipe_is_what_the_scripts_say() -> None:
    lora, full = released_recipe(), released_recipe(trainable="all")
    assert (lora.action_weight, full.action_weight) == (1.0, 1.0)
    assert (lora.lora.rank, lora.lora.alpha, lora.averaging, lora.schedule) == (4, 4, "released", NoiseSchedule())
    assert (lora.steps, full.steps, full.learning_rate, full.betas) == (5000, 200_000, 1e-5, (0.95, 0.999))
