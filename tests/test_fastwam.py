"""The small Fast-WAM: who sees whom, flow schedules, losses, sampling, and the codec beneath it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actloop.errors import ContractError, UnknownNameError
from actloop.models.action_model import ActionModel, Batch
from actloop.models.codec import PatchCodec
from actloop.models.fastwam import VARIANTS, FastWAM, FastWAMConfig, Noise, leftover
from actloop.models.fastwam.mixture import mix
from actloop.models.flow import bell_weight, euler_grid, shifted
from actloop.models.text import Vocabulary


def make_batch(config: FastWAMConfig, size: int = 3) -> Batch:
    g = torch.Generator().manual_seed(7)
    latents = (size, 1 + config.future_frames, config.latent_channels, config.latent_height, config.latent_width)
    return Batch(
        latents=torch.randn(latents, generator=g),
        state=torch.randn(size, config.state_dim, generator=g),
        text=torch.randint(0, config.vocabulary, (size, config.text_tokens), generator=g),
        actions=(actions := torch.randn(size, config.horizon, config.action_dim, generator=g)),
        executed=actions,
        action_pad=torch.zeros(size, config.horizon, dtype=torch.bool),
        latents_pad=torch.zeros(size, 1 + config.future_frames, dtype=torch.bool),
    )


def make_model(variant: str, **changes: object) -> FastWAM:
    torch.manual_seed(0)
    model = FastWAM(FastWAMConfig.tiny(variant=variant, **changes))
    with torch.no_grad():  # fresh video heads are zero; give every output something to say
        model.video.head.head.weight.normal_(std=0.1)
    return model


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_is_an_action_model(variant: str) -> None:
    model = make_model(variant)
    assert isinstance(model, ActionModel)
    batch = make_batch(model.config)
    losses = model.loss(batch, generator=generator())
    assert losses["total"].shape == (3,)
    assert ("video" in losses) == (variant != "no-cotrain")
    assert model.sample(batch, generator=generator()).shape == (3, 4, 4)


SEES_FUTURE = {
    "no-cotrain": False,
    "fast": False,
    "joint": True,
    "idm": True,
    "optional-idm": True,
    "action-conditioned": False,
}


@pytest.mark.parametrize(("variant", "sees_future"), SEES_FUTURE.items())
def test_only_joint_and_idm_actions_see_the_future(variant: str, sees_future: bool) -> None:
    model = make_model(variant)
    batch = make_batch(model.config)
    batch.latents.requires_grad_()
    model.loss(batch, generator=generator())["action"].sum().backward()
    future = batch.latents.grad[:, 1:].abs().max()
    assert batch.latents.grad[:, :1].abs().max() > 0
    assert (future > 0) == sees_future
    if not sees_future:
        assert future == 0


@pytest.mark.parametrize("variant", ["fast", "joint", "idm", "optional-idm"])
def test_video_never_sees_actions(variant: str) -> None:
    model = make_model(variant)
    batch = make_batch(model.config)
    batch.actions.requires_grad_()
    losses = model.loss(batch, generator=generator())
    (gradient,) = torch.autograd.grad(losses["video"].sum(), batch.actions, allow_unused=True)
    assert gradient is None or gradient.abs().max() == 0


def test_no_cotrain_and_fast_act_alike_with_the_same_weights() -> None:
    fast = make_model("fast")
    plain = FastWAM(replace(fast.config, variant="no-cotrain"))
    plain.load_state_dict(fast.state_dict())
    batch = make_batch(fast.config)
    torch.testing.assert_close(
        fast.sample(batch, generator=generator()), plain.sample(batch, generator=generator()), rtol=0, atol=0
    )


def test_idm_sampler_agrees_with_its_training_attention() -> None:
    """The cached inference path gives the velocity that the training pass gives for the same clean future."""
    model = make_model("idm", denoising_steps=1)
    batch = make_batch(model.config)
    draws = model.draw(batch, generator())
    draws.action_level = torch.ones_like(draws.action_level)
    draws.copy_level = torch.zeros_like(draws.copy_level)
    error = model(batch, draws)["action"]
    seen = model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))
    clean = model.video.modulation(model.video.time(torch.zeros(1)))
    imagined = model.future_stream(batch.latents[:, 1:], clean, seen.reading, name="imagined", needed=False)
    past = {**seen.past, **mix({"imagined": imagined}, seen.past)}
    noise = model.action.modulation(model.action.time(torch.full((1,), 1000.0)))
    stream = model.action_stream(draws.action_noise, noise, seen.reading, ("first", "imagined", "action"))
    mix({"action": stream}, past)
    target = draws.action_noise - batch.actions
    expected = (model.action_velocity(stream.x) - target).square().mean((1, 2))
    torch.testing.assert_close(error, expected, rtol=1e-5, atol=1e-6)


def test_optional_idm_hides_the_future_from_some_samples_only() -> None:
    model = make_model("optional-idm")
    batch = make_batch(model.config)
    draws = model.draw(batch, generator())
    draws.imagines = torch.tensor([True, False, True])
    batch.latents.requires_grad_()
    model(batch, draws)["action"].sum().backward()
    moved = batch.latents.grad[:, 1:].abs().amax((1, 2, 3, 4))
    assert (moved > 0).tolist() == [True, False, True]


def test_optional_idm_acts_both_ways_and_others_only_their_own() -> None:
    model = make_model("optional-idm")
    batch = make_batch(model.config)
    seen = model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))
    noise = model.noise(3, generator())
    imagined, future = model.act(seen, noise)
    plain, nothing = model.act(seen, noise, skip_future=True)
    assert future is not None
    assert nothing is None
    assert not torch.allclose(imagined, plain)
    fast = FastWAM(replace(model.config, variant="fast"))
    fast.load_state_dict(model.state_dict())
    torch.testing.assert_close(fast.act(seen, noise)[0], plain, rtol=0, atol=0)
    with pytest.raises(ContractError, match="acts on its imagined future"):
        make_model("idm").act(seen, noise, skip_future=True)


def test_an_action_conditioned_future_follows_no_action_after_its_last_frame() -> None:
    model = make_model("action-conditioned", future_offsets=(1, 3))
    batch = make_batch(model.config, size=1)
    seen = model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))
    noise = model.noise(1, generator())
    base = model.imagine(seen, noise, actions=batch.actions)
    for step, reaches in enumerate([True, True, True, False]):
        moved = batch.actions.clone()
        moved[:, step] += 1.0
        frames = (model.imagine(seen, noise, actions=moved) - base).abs().amax((0, 2, 3, 4))
        # Later frames also see earlier ones (video is bidirectional), so a frame may move with any action before the
        # last frame; but nothing moves with an action after the last one.
        assert bool(frames.max() > 0) == reaches, step
    with pytest.raises(ContractError, match="needs the chunk"):
        model.imagine(seen, noise)
    with pytest.raises(ContractError, match="cannot imagine a given chunk"):
        make_model("fast").imagine(seen, noise, actions=batch.actions)


def test_a_future_is_learned_as_that_of_what_was_executed_and_actions_as_what_was_wanted() -> None:
    model = make_model("action-conditioned")
    batch = make_batch(model.config)

    def losses(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
        return model.loss(replace(batch, **changes), generator=generator())

    plain, shaken = losses(), losses(executed=batch.executed + 0.5)
    assert torch.equal(plain["action"], shaken["action"])
    assert not torch.allclose(plain["video"], shaken["video"])
    wanted = losses(actions=batch.actions + 0.5)
    assert torch.equal(plain["video"], wanted["video"])
    assert not torch.allclose(plain["action"], wanted["action"])


def test_a_prefix_is_kept_for_every_sample_and_odd_numbers_of_noises_are_refused() -> None:
    model = make_model("fast")
    batch = make_batch(model.config, size=2)
    seen = model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))
    prefix = torch.rand(2, 1, 4, generator=generator())
    left = leftover(prefix, fixed=1, horizon=4, how="prefix")
    actions, _ = model.act(seen, model.noise(4, generator()), left=left)
    torch.testing.assert_close(actions[:, :1], prefix.repeat_interleave(2, dim=0))
    with pytest.raises(ContractError, match="2 observations, got 3"):
        model.act(seen, model.noise(3, generator()))


def test_several_samples_of_one_observation_share_its_keys_and_values() -> None:
    for variant in VARIANTS:
        model = make_model(variant)
        batch = make_batch(model.config, size=2)
        prompt = model.prompt(batch.text)
        seen = model.see(batch.latents[:, :1], batch.state, prompt)
        noise = model.noise(6, generator())
        many, _ = model.act(seen, noise)
        rows = [1, 4]
        picked = Noise(action=noise.action[rows], video=noise.video[rows])
        alone, _ = model.act(seen, picked)
        torch.testing.assert_close(many[rows], alone, rtol=1e-5, atol=1e-5)


def test_many_chunks_for_one_observation_are_imagined_together() -> None:
    model = make_model("action-conditioned")
    batch = make_batch(model.config, size=1)
    seen = model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))
    noise, chunks = model.noise(3, generator()), torch.randn(3, 4, 4, generator=generator())
    together = model.imagine(seen, noise, actions=chunks)
    for row in range(3):
        one = Noise(action=noise.action[row : row + 1], video=noise.video[row : row + 1])
        alone = model.imagine(seen, one, actions=chunks[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_recomputing_activations_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = make_model("idm")
        model.checkpointed = checkpointed
        batch = make_batch(model.config)
        model.loss(batch, generator=generator())["total"].sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-5, atol=1e-6)


def test_a_predicted_change_that_is_nothing_imagines_the_present() -> None:
    model = make_model("fast", predicts_change=True)
    with torch.no_grad():
        model.video.head.head.weight.zero_()
    batch = make_batch(model.config)
    seen = model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))
    future = model.imagine(seen, model.noise(3, generator()))
    torch.testing.assert_close(future, batch.latents[:, :1].expand_as(future), rtol=1e-4, atol=1e-5)


def test_padding_carries_no_loss() -> None:
    model = make_model("fast")
    batch = make_batch(model.config)
    draws = model.draw(batch, generator())
    draws.action_level.fill_(1.0)  # the inputs are pure noise, so a target can act through the loss alone
    before = model(batch, draws)["action"]
    batch.actions[:, 2:] += 5.0
    assert not torch.allclose(model(batch, draws)["action"], before)
    batch.action_pad[:, 2:] = True
    masked = model(batch, draws)["action"]
    batch.actions[:, 2:] += 5.0
    torch.testing.assert_close(model(batch, draws)["action"], masked, rtol=0, atol=0)


def test_several_noise_draws_share_one_observation() -> None:
    model = make_model("joint", action_samples=3)
    batch = make_batch(model.config)
    draws = model.draw(batch, generator())
    many = model(batch, draws)["action"]
    single = make_model("joint")
    single.load_state_dict(model.state_dict())
    each = []
    for k in range(3):
        one = replace(draws, action_noise=draws.action_noise[k::3], action_level=draws.action_level[k::3])
        each.append(single(batch, one)["action"])
    torch.testing.assert_close(many, torch.stack(each).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_committed_prefix_is_kept(variant: str) -> None:
    model = make_model(variant)
    batch = make_batch(model.config)
    prefix = torch.full((3, 2, 4), 0.5)
    out = model.sample(batch, generator=generator(), prefix=prefix)
    torch.testing.assert_close(out[:, :2], prefix)
    free = model.sample(batch, generator=generator())
    assert not torch.allclose(out[:, 2:], free[:, 2:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_batched_sampling_equals_one_by_one(variant: str) -> None:
    model = make_model(variant)
    batch = make_batch(model.config, size=1)
    double = Batch(**{f: torch.cat([getattr(batch, f)] * 2) for f in Batch.__dataclass_fields__})
    out = model.sample(double, generator=generator())
    assert out.shape[0] == 2
    assert not torch.equal(out[0], out[1]), "each row draws its own noise"


def test_sampling_repeats_with_the_generator_and_differs_without() -> None:
    model = make_model("fast")
    batch = make_batch(model.config)
    first, again = (model.sample(batch, generator=generator()) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, model.sample(batch, generator=torch.Generator().manual_seed(4)))


def test_schedules_match_the_published_numbers() -> None:
    # Spec of the released code: n = 10, shift 5.
    timesteps, deltas = euler_grid(10, 5.0, torch.zeros(1))
    expected = [1000, 978.26, 952.38, 921.05, 882.35, 833.33, 769.23, 681.82, 555.56, 357.14]
    np.testing.assert_allclose(timesteps.numpy(), expected, atol=0.01)
    assert float(deltas.sum()) == pytest.approx(-1.0)
    halved, steps = euler_grid(10, 5.0, torch.zeros(1, dtype=torch.bfloat16))
    assert halved.tolist() == [1000, 980, 952, 920, 884, 832, 768, 680, 556, 358]
    assert float(steps.double().sum()) == pytest.approx(-0.99976, abs=1e-5)
    weight = bell_weight(torch.tensor([0.0, 0.5, 1.0]), 5.0)
    np.testing.assert_allclose(weight.numpy(), [0.0, 2.0764, 0.0], atol=2e-3)
    assert float(shifted(torch.tensor(0.5), 1.0)) == 0.5


def test_bad_sizes_and_names_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="fast"):
        FastWAMConfig(variant="fats")
    with pytest.raises(ContractError, match="head_dim"):
        FastWAMConfig(head_dim=16)
    with pytest.raises(ContractError, match="2 x 2"):
        FastWAMConfig(latent_height=7)
    with pytest.raises(ContractError, match="rising"):
        FastWAMConfig(future_offsets=(8, 8))
    with pytest.raises(ContractError, match="rising"):
        FastWAMConfig(future_offsets=())


def test_full_size_parameters_have_the_released_names_and_shapes() -> None:
    keys = Path(__file__).parent / "fixtures" / "fastwam" / "full_keys.json"
    released = json.loads(keys.read_text())
    with torch.device("meta"):
        experts = FastWAM(FastWAMConfig.full()).mixtures
    for name, expert in experts.items():
        assert {key: list(tensor.shape) for key, tensor in expert.state_dict().items()} == released[name]


def test_the_stem_starts_from_the_picture_that_the_codec_decodes() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(np.kron(rng.integers(0, 255, (40, 4, 4, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8))
    codec = PatchCodec(8).fit(frames)
    model = make_model("fast", latent_channels=8)
    model.stem.unfold_with(*codec.cells(model.stem.cells))
    latents = codec.encode(frames[:1, None])[:, 0]
    picture = torch.nn.functional.pixel_shuffle(model.stem.picture(latents), model.stem.cells)[0]
    shown = codec.decode(codec.encode(frames[:1, None]))[0, 0].float() / 255
    cells = shown.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean((1, 3))
    torch.testing.assert_close(picture.permute(1, 2, 0) / 4 + 0.6, cells, rtol=0, atol=0.01)


def test_codec_round_trip_is_close_and_repeatable() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (40, 8, 8, 3))
    frames = torch.from_numpy(np.kron(coarse, np.ones((1, 4, 4, 1))).astype(np.uint8))  # 4-pixel squares
    codec = PatchCodec(12).fit(frames)
    back = codec.decode(codec.encode(frames[None]))[0]
    assert (back.int() - frames.int()).abs().float().mean() < 1.0
    assert torch.equal(PatchCodec(12).fit(frames).basis, codec.basis)
    coarse_codec = PatchCodec(2).fit(frames)
    worse = coarse_codec.decode(coarse_codec.encode(frames[None]))[0]
    assert (worse.int() - frames.int()).abs().float().mean() > 10.0
    with pytest.raises(ContractError, match="multiples of 8"):
        codec.encode(torch.zeros(1, 1, 12, 16, 3, dtype=torch.uint8))


def test_vocabulary_refuses_unknown_words() -> None:
    words = Vocabulary.of(["pick up the red block", "open the drawer"], max_tokens=6)
    assert words.encode("Open the red drawer.").tolist()[4:] == [0, 0]
    with pytest.raises(UnknownNameError, match="drawer"):
        words.encode("open the drawr")
    with pytest.raises(ContractError, match="words"):
        words.encode("the the the the the the the")
