"""Continuing a plan in force: the arithmetic against the paper's, every variant, training with given actions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dots import dots, picture
from torch import Tensor

from actloop.contracts import Committed, Observation, SamplingPolicy
from actloop.errors import ContractError, UnknownNameError
from actloop.models.action_model import Batch
from actloop.models.checkpoint import load_policy
from actloop.models.fastwam import (
    CONTINUATIONS,
    VARIANTS,
    Continuation,
    FastWAM,
    FastWAMConfig,
    Noise,
    Seen,
    leftover,
)
from actloop.models.fastwam.compiled import CompiledFastWAM
from actloop.models.fastwam.continuation import BETA, guidance, soft_mask
from actloop.models.flow import euler_grid
from actloop.models.policy import FastWAMPolicy
from actloop.testing.conformance import check_policy
from actloop.training.train import TrainConfig, train

HORIZON = 8


def made(variant: str = "fast", **changes: object) -> FastWAM:
    torch.manual_seed(0)
    model = FastWAM(FastWAMConfig.tiny(variant=variant, **{"horizon": HORIZON, "committed_max": 4, **changes}))
    with torch.no_grad():
        model.video.head.head.weight.normal_(std=0.1)
        model.action.head.weight.normal_(std=0.1)
    return model


def batch_of(config: FastWAMConfig, size: int = 2) -> Batch:
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


def seen_by(model: FastWAM, size: int = 1) -> Seen:
    batch = batch_of(model.config, size)
    return model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))


def noise_of(model: FastWAM, samples: int = 1, seed: int = 3) -> Noise:
    return model.noise(samples, torch.Generator().manual_seed(seed))


def plan(ticks: int = 6, size: int = 1) -> Tensor:
    return torch.randn(size, ticks, 4, generator=torch.Generator().manual_seed(11))


# the arithmetic


def test_the_mask_is_the_papers() -> None:
    end, fixed = 6, 2
    c = [(end - i) / (end - fixed + 1) for i in range(fixed, end)]
    falling = [value * (np.exp(value) - 1) / (np.e - 1) for value in c]
    np.testing.assert_allclose(soft_mask(fixed, end, HORIZON).numpy(), [1, 1, *falling, 0, 0], atol=1e-6)
    assert soft_mask(0, 3, 4).tolist()[0] < 1
    assert soft_mask(3, 3, 4).tolist() == [1, 1, 1, 0]


def test_the_strength_is_the_papers_in_its_own_time() -> None:
    """Flow time tau = 1 - level, five even steps: the paper's weights, which the bound of a step never cuts."""
    tau = np.arange(1, 5) / 5
    r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    expected = np.minimum(BETA, (1 - tau) / tau / r2)
    timesteps, deltas = euler_grid(5, 1.0, torch.zeros(1, dtype=torch.float64))
    np.testing.assert_allclose(guidance(timesteps / 1000, deltas).numpy(), [BETA, *expected], rtol=1e-6)


def test_no_step_of_a_shifted_grid_leads_past_the_plan() -> None:
    timesteps, deltas = euler_grid(4, 5.0, torch.zeros(1))
    strength = guidance(timesteps / 1000, deltas)
    assert float((strength * deltas).abs().max()) == pytest.approx(1.0)
    assert float(strength.max()) == BETA


def test_guidance_takes_the_true_gradient_of_the_predicted_chunk() -> None:
    """One step, where the answer is the predicted chunk itself, against differences of that answer."""
    model = made(denoising_steps=1, committed_max=0)
    seen, noise = seen_by(model), noise_of(model)
    left = leftover(plan(), fixed=2, horizon=HORIZON, how="guided")
    assert left is not None

    def predicted(x: Tensor) -> Tensor:
        return model.act(seen, Noise(action=x[None], video=None))[0][0]

    x, eps = noise.action[0], 1e-2
    moved = [
        predicted(x + eps * unit) - predicted(x - eps * unit) for unit in torch.eye(x.numel()).unflatten(1, x.shape)
    ]
    pull = (left.actions[0] - predicted(x)) * left.weights[:, None]
    pulled = (torch.stack(moved) / (2 * eps) * pull).sum((1, 2)).reshape(x.shape)
    found = model.act(seen, noise, left=left)[0][0]
    assert float(pulled.abs().max()) > 0.05
    torch.testing.assert_close(found - predicted(x), pulled, rtol=0.02, atol=2e-3)


def test_the_two_forms_agree_where_the_velocity_does_not_depend_on_the_noise() -> None:
    model = made()
    with torch.no_grad():
        model.action.head.weight.zero_()
    seen, noise = seen_by(model), noise_of(model)
    found = [model.act(seen, noise, left=leftover(plan(), fixed=2, horizon=HORIZON, how=how))[0] for how in GUIDED]
    torch.testing.assert_close(*found)
    model = made()
    found = [model.act(seen, noise, left=leftover(plan(), fixed=2, horizon=HORIZON, how=how))[0] for how in GUIDED]
    assert not torch.allclose(*found)


GUIDED: tuple[Continuation, ...] = ("guided", "guided-identity")


# every variant, every way


@pytest.mark.parametrize("how", CONTINUATIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_several_noises_are_continued_as_one_by_one(variant: str, how: Continuation) -> None:
    model = made(variant)
    seen, noise = seen_by(model, 2), noise_of(model, 4)
    assert noise.video is not None
    together, _ = model.act(seen, noise, left=leftover(plan(size=2), fixed=2, horizon=HORIZON, how=how))
    free, _ = model.act(seen, noise)
    batch = batch_of(model.config, 2)
    for k in range(4):
        row = slice(k // 2, k // 2 + 1)
        own = model.see(batch.latents[row, :1], batch.state[row], model.prompt(batch.text[row]))
        single = Noise(action=noise.action[k : k + 1], video=noise.video[k : k + 1])
        left = leftover(plan(size=2)[row], fixed=2, horizon=HORIZON, how=how)
        one, _ = model.act(own, single, left=left)
        torch.testing.assert_close(together[k], one[0], rtol=1e-4, atol=1e-5)
    off, off_free = ((found[:, :2] - plan(size=2)[:, :2].repeat_interleave(2, 0)).abs() for found in (together, free))
    if how == "guided":
        assert float(off.mean()) < float(off_free.mean())
    else:
        torch.testing.assert_close(off, torch.zeros_like(off), rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", CONTINUATIONS)
def test_what_the_plan_does_not_say_is_masked(how: Continuation) -> None:
    model = made()
    seen, noise = seen_by(model), noise_of(model)
    left = leftover(plan(5), fixed=2, horizon=HORIZON, how=how)
    assert left is not None
    silent = left.weights == 0
    assert silent[5:].all()
    before, _ = model.act(seen, noise, left=left)
    left.actions[:, silent] = 1e6
    assert torch.equal(model.act(seen, noise, left=left)[0], before)
    left.actions[:, 0] += 1
    assert not torch.equal(model.act(seen, noise, left=left)[0], before)


@pytest.mark.parametrize("how", CONTINUATIONS)
def test_nothing_committed_changes_nothing(how: Continuation) -> None:
    assert leftover(plan(0), fixed=0, horizon=HORIZON, how=how) is None
    if how not in GUIDED:
        assert leftover(plan(5), fixed=0, horizon=HORIZON, how=how) is None
    with pytest.raises(ContractError, match="leave none of 8"):
        leftover(plan(9), fixed=8, horizon=HORIZON, how=how)


def test_guidance_leaves_parameters_and_noise_as_they_were() -> None:
    model = made("joint")
    seen, noise = seen_by(model), noise_of(model)
    actions, future = model.act(seen, noise, left=leftover(plan(), fixed=2, horizon=HORIZON, how="guided"))
    assert future is not None
    assert not actions.requires_grad
    assert not future.requires_grad
    assert not noise.action.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_guidance_by_gradients_is_refused_where_there_are_none() -> None:
    model = made()
    with torch.inference_mode():
        seen, noise = seen_by(model), noise_of(model)
        model.act(seen, noise, left=leftover(plan(), fixed=2, horizon=HORIZON, how="guided-identity"))
        with pytest.raises(ContractError, match="guided-identity"):
            model.act(seen, noise, left=leftover(plan(), fixed=2, horizon=HORIZON, how="guided"))


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["fast", "joint", "idm"])
def test_graphs_continue_as_eager(variant: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = made(variant).cuda()
    runner = CompiledFastWAM(model)
    batch = Batch(**{name: getattr(batch_of(model.config, 1), name).cuda() for name in Batch.__dataclass_fields__})
    with torch.no_grad():
        seen = model.see(batch.latents[:, :1], batch.state, model.prompt(batch.text))
    for how in CONTINUATIONS:
        for fixed, seed in ((2, 3), (4, 4)):  # the second meets the graph of the first
            noise = noise_of(model, 2, seed)
            assert noise.video is not None
            noise = Noise(action=noise.action.cuda(), video=noise.video.cuda())
            left = leftover(plan().cuda(), fixed=fixed, horizon=HORIZON, how=how)
            eager, graphed = model.act(seen, noise, left=left)[0], runner.act(seen, noise, left=left)[0]
            torch.testing.assert_close(graphed, eager, rtol=1e-3, atol=1e-3)


# training with given actions


def test_without_committed_actions_training_is_what_it_was() -> None:
    """The same draws, and the same loss where none of them gives an action."""
    plain, continuing = made(committed_max=0), made()
    continuing.load_state_dict(plain.state_dict())
    batch, generators = batch_of(plain.config), [torch.Generator().manual_seed(5) for _ in range(2)]
    draws, also = plain.draw(batch, generators[0]), continuing.draw(batch, generators[1])
    assert draws.committed is None
    assert also.committed is not None
    for name in ("video_noise", "video_level", "action_noise", "action_level", "copy_noise", "copy_level", "imagines"):
        assert torch.equal(getattr(draws, name), getattr(also, name))
    none = replace(also, committed=torch.zeros_like(also.committed))
    torch.testing.assert_close(continuing(batch, none)["total"], plain(batch, draws)["total"])


def test_half_of_the_draws_give_nothing_and_the_others_any_number_alike() -> None:
    model = made(action_samples=500)
    committed = model.draw(batch_of(model.config), torch.Generator().manual_seed(0)).committed
    assert committed is not None
    counts = np.bincount(committed.sum(1).numpy(), minlength=5)
    np.testing.assert_allclose(counts / 1000, [1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8], atol=0.05)
    assert torch.equal(committed, committed.cummin(dim=1).values), "the first ones"


def test_given_actions_are_clean_and_carry_no_loss() -> None:
    model = made(action_samples=3)
    batch = batch_of(model.config)
    draws = model.draw(batch, torch.Generator().manual_seed(5))
    draws.committed = torch.arange(HORIZON).expand(6, -1) < 2
    before = model(batch, draws)["action"]
    draws.action_noise[:, :2] += 5
    assert torch.equal(model(batch, draws)["action"], before), "their noise is neither seen nor asked for"
    batch.actions[:, 1] += 1
    assert not torch.allclose(model(batch, draws)["action"], before), "they themselves are seen"
    draws.committed[1] = True
    assert torch.isfinite(model(batch, draws)["action"]).all()


def test_a_token_that_is_given_is_told_noise_level_zero() -> None:
    model = made()
    batch = batch_of(model.config)
    draws = model.draw(batch, torch.Generator().manual_seed(5))
    draws.committed = torch.arange(HORIZON).expand(2, -1) < 3
    told: list[Tensor] = []
    encoder = model.action.time_embedding
    hook = encoder.register_forward_hook(lambda module, given, out: told.append(given[0]))
    model(batch, draws)
    hook.remove()
    (levels, clean) = told
    assert len(levels) == 2
    assert torch.equal(clean, torch.cat([torch.ones(1, 8), torch.zeros(1, 8)], dim=1)), "cosines and sines of 0"


def test_what_cannot_be_trained_or_continued_is_refused() -> None:
    with pytest.raises(ContractError, match="0 to 3"):
        FastWAMConfig.tiny(committed_max=4)
    model = made(committed_max=0)
    with pytest.raises(ContractError, match="not trained to continue"):
        model.act(seen_by(model), noise_of(model), left=leftover(plan(), fixed=2, horizon=HORIZON, how="trained"))


# as a policy


def observation(x: float = 0.5, tick: int = 3) -> Observation:
    return Observation(images={"top": picture(x)}, state=np.array([x, 0.5], np.float32), tick=tick, time=tick / 10)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on dots that go left or right: plans in the middle between them can be told from its own."""
    out = tmp_path_factory.mktemp("continuing") / "dot.safetensors"
    model = FastWAMConfig.tiny(latent_channels=12, denoising_steps=4, horizon=HORIZON, committed_max=3)
    config = TrainConfig(model=model, steps=100, batch_size=16, validate_every=100)
    train(config, data=dots(tmp_path_factory.mktemp("dots")), out=out, name="dot", half=False)
    return out


def off_plan(policy: FastWAMPolicy, committed: Committed | None, actions: np.ndarray) -> np.ndarray:
    """How far the chunk is from the plan, tick by tick; metres, mean of several seeds."""
    found = []
    for seed in range(6):
        _, prediction = policy.predict(policy.start("go left", seed=seed), observation(), committed=committed)
        found.append(np.abs(prediction.chunk.actions[: len(actions)] - actions).mean(axis=1))
    return np.mean(found, axis=0)


def test_guided_chunks_begin_with_the_plan_and_leave_it_slowly(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    actions = np.zeros((6, 2), np.float32)  # it would move by 0.05 per tick
    free = off_plan(policy, None, actions)
    for mode, near in (("guided", 0.9), ("guided-identity", 0.05)):
        policy.set_mode(mode)
        np.testing.assert_array_equal(off_plan(policy, None, actions), free)
        off = off_plan(policy, Committed(actions=actions, fixed=2), actions)
        assert off[:2].mean() < near * free[:2].mean()
        assert off[2] < off[5] < 1.2 * free[5]
    assert (np.diff(off[1:]) > 0).all(), "ever less"


def test_a_checkpoint_says_that_it_was_trained_to_continue(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    assert (policy.committed_max, policy.continuation) == (3, "trained")
    assert policy.describe()["continuation"] == "trained"
    actions = np.full((5, 2), 0.02, np.float32)
    _, prediction = policy.predict(
        policy.start("go left", seed=0), observation(), committed=Committed(actions=actions, fixed=2)
    )
    np.testing.assert_allclose(prediction.chunk.actions[:2], actions[:2], atol=1e-6)
    assert np.abs(prediction.chunk.actions[4:5] - actions[4]).max() > 0.01


def test_ways_are_chosen_by_name(checkpoint: Path) -> None:
    for mode in CONTINUATIONS:
        assert load_policy(checkpoint, mode=mode).continuation == mode
    policy = load_policy(checkpoint)
    with pytest.raises(UnknownNameError, match="guided-identity"):
        policy.set_mode("guided-identiti")
    with pytest.raises(ContractError, match="one way"):
        policy.set_mode("prefix+first-frame")
    assert policy.continuation == "trained", "what is refused changes nothing"
    policy.model.config = replace(policy.model.config, committed_max=0)
    with pytest.raises(ContractError, match="not trained to continue"):
        policy.set_mode("trained")


def test_bad_plans_are_refused(checkpoint: Path) -> None:
    policy = load_policy(checkpoint)
    session = policy.start("go left", seed=0)
    for mode in CONTINUATIONS:
        policy.set_mode(mode)
        for actions, fixed, match in (
            (np.zeros((9, 2), np.float32), 8, "leave none of 8"),
            (np.zeros((4, 3), np.float32), 2, "expected 2 dimensions"),
            (np.full((4, 2), np.nan, np.float32), 2, "not finite"),
        ):
            with pytest.raises(ContractError, match=match):
                policy.predict(session, observation(), committed=Committed(actions=actions, fixed=fixed))


@pytest.mark.parametrize("mode", CONTINUATIONS)
def test_the_first_sample_is_what_predict_answers(checkpoint: Path, mode: str) -> None:
    policy = load_policy(checkpoint, mode=mode)
    assert isinstance(policy, SamplingPolicy)
    session = policy.start("go left", seed=0)
    for committed in (None, Committed(actions=np.zeros((5, 2), np.float32), fixed=2)):
        after, prediction = policy.predict(session, observation(), committed=committed)
        also, chunks = policy.sample(session, observation(), count=5, committed=committed)
        assert also == after
        assert [chunk.anchor for chunk in chunks] == [3] * 5
        np.testing.assert_allclose(chunks[0].actions, prediction.chunk.actions, atol=1e-6)
        spread = np.std([chunk.actions for chunk in chunks], axis=0)
        assert spread[-1].min() > 0
    with pytest.raises(ContractError, match="1 or more"):
        policy.sample(session, observation(), count=0)


@pytest.mark.parametrize("mode", CONTINUATIONS)
def test_every_way_keeps_the_promises_of_a_policy(checkpoint: Path, mode: str) -> None:
    check_policy(load_policy(checkpoint, mode=mode), observation(), instruction="go left")


def test_the_shipped_checkpoint_continues_the_plan_in_force() -> None:
    """Told what the robot does meanwhile, it goes on from there; told nothing, it begins elsewhere."""
    pytest.importorskip("mujoco")
    from importlib.resources import files

    from actloop.simulation.tabletop import Tabletop

    folder = Path(str(files("actloop"))) / "weights" / "tabletop" / "continuing"
    policy, world = load_policy(folder / "fast-committed.safetensors"), Tabletop()
    assert (policy.continuation, policy.committed_max) == ("trained", 4)
    task, seams = world.tasks["place-left-green"], {"told": [], "alone": []}
    for seed in range(6):
        obs = world.reset(task, seed=900_000 + seed)
        session, before = policy.predict(policy.start(task.instruction, seed=seed), obs)
        for action in before.chunk.actions[:4]:
            world.apply(action)
        committed = Committed(actions=before.chunk.actions[4:], fixed=2)
        later = world.observe()
        for name, given in (("told", committed), ("alone", None)):
            _, after = policy.predict(session, later, committed=given)
            seams[name].append(np.abs(after.chunk.actions[:2, :3] - committed.actions[:2, :3]).max())
    assert max(seams["told"]) < 1e-6, "what is fixed comes back as it is"
    assert np.mean(seams["alone"]) > 1e-3
