"""Actions as real numbers: the flow-matching formulas on NumPy and torch, and diffusion over diffusers' schedules."""

import numpy as np
import pytest

from actloop.actions.continuous import Continuous, euler, flow_levels, flow_velocity, noised
from actloop.actions.normalizers import masked_quantile, mean_std
from actloop.actions.representation import reconstruction
from actloop.errors import ContractError, UnknownNameError

RNG = np.random.default_rng(0)
ROWS = RNG.normal([0.1, -2.0], [0.02, 1.0], (500, 2))


def test_regression_loses_nothing_and_clipping_loses_the_tails() -> None:
    chunks = [ROWS[at : at + 10] for at in range(0, 500, 10)]
    normalizer = masked_quantile(ROWS)
    whole = reconstruction(Continuous(normalizer=mean_std(ROWS)), chunks, normalizer)
    assert whole.physical.largest.max() < 1e-5
    assert (whole.size, whole.fewer, whole.smaller) == (20, 1, 0.25)
    clipped = reconstruction(Continuous(normalizer=normalizer, clip=True), chunks, normalizer)
    assert clipped.normalised.largest.max() < 1e-6
    assert clipped.physical.largest[1] > 0.1
    with pytest.raises(ContractError, match="learned: not finite"):
        Continuous(normalizer=normalizer).decode(np.full((10, 2), np.nan))


def test_flow_matching_goes_straight_from_noise_to_data() -> None:
    data, noise = RNG.normal(size=(2, 3, 4, 5))
    np.testing.assert_array_equal(noised(data, noise, 0.0), data)
    np.testing.assert_array_equal(noised(data, noise, 1.0), noise)
    level, step = 0.3, 1e-6
    slope = (noised(data, noise, level + step) - noised(data, noise, level)) / step
    np.testing.assert_allclose(slope, flow_velocity(data, noise), atol=1e-6)
    asked: list[float] = []

    def velocity(x: np.ndarray, level: float) -> np.ndarray:
        asked.append(level)
        return flow_velocity(data, noise)

    np.testing.assert_allclose(euler(velocity, noise, 4), data, atol=1e-12)
    np.testing.assert_allclose(asked, [1, 0.75, 0.5, 0.25])
    with pytest.raises(ContractError, match="at least 1, got 0"):
        euler(velocity, noise, 0)


def test_a_field_that_bends_is_followed_the_closer_the_more_steps() -> None:
    """Towards a point, the exact velocity at level t is (x - data) / t; Euler is exact on it for any steps."""
    data = RNG.normal(size=(3, 2))
    noise = RNG.normal(size=(3, 2))
    np.testing.assert_allclose(euler(lambda x, level: (x - data) / level, noise, 10), data, atol=1e-12)
    errors = [np.abs(euler(lambda x, level: x, noise, steps) - noise / np.e).max() for steps in (5, 50)]
    assert errors[1] < errors[0] / 8


def test_levels_to_train_at_are_pi0s() -> None:
    levels = flow_levels(np.random.default_rng(0), 200_000)
    assert levels.min() >= 0.001
    assert levels.max() <= 1
    assert levels.mean() == pytest.approx(0.999 * 0.6 + 0.001, abs=2e-3), "Beta(1.5, 1) has mean 0.6"


def test_the_formulas_take_torch_tensors_as_well() -> None:
    torch = pytest.importorskip("torch")
    data, noise = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    level = torch.rand(4, 1, 1, generator=torch.Generator().manual_seed(0))
    mixed = noised(data, noise, level)
    np.testing.assert_allclose(mixed.numpy(), noised(data.numpy(), noise.numpy(), level.numpy()), atol=1e-6)
    torch.testing.assert_close(euler(lambda x, level: flow_velocity(data, noise), noise, 5), data)


class TestDiffusion:
    """models/action_diffusion.py: the torch side."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("torch")
        pytest.importorskip("diffusers")

    def test_noising_is_the_cosine_schedule(self) -> None:
        import torch

        from actloop.models.action_diffusion import ActionDiffusion, DiffusionConfig

        diffusion = ActionDiffusion(DiffusionConfig())
        actions, noise = torch.ones(100, 1, 1), torch.zeros(100, 1, 1)
        kept = diffusion.noised(actions, noise, torch.arange(100))[:, 0, 0].double().square()

        def bar(t: np.ndarray) -> np.ndarray:
            return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2  # type: ignore[no-any-return]

        steps = np.arange(100)
        betas = np.minimum(1 - bar((steps + 1) / 100) / bar(steps / 100), 0.999)
        np.testing.assert_allclose(kept.numpy(), np.cumprod(1 - betas), atol=1e-6)
        mixed = diffusion.noised(actions, noise + 1, torch.arange(100))[:, 0, 0]
        np.testing.assert_allclose(mixed, kept.sqrt() + (1 - kept).sqrt(), atol=1e-5)

    @pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
    @pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
    def test_a_network_that_knows_the_data_samples_it(self, sampler: str, prediction: str) -> None:
        import torch

        from actloop.models.action_diffusion import ActionDiffusion, DiffusionConfig

        diffusion = ActionDiffusion(DiffusionConfig(prediction=prediction))
        generator = torch.Generator().manual_seed(0)
        data = torch.rand(3, 4, 2, generator=generator) * 1.6 - 0.8

        def predict(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            none = torch.zeros_like(x)
            share = diffusion.noised(none + 1, none, timesteps)
            noise = (x - share * data) / diffusion.noised(none, none + 1, timesteps)
            return diffusion.target(data, noise, timesteps)

        noise = torch.randn(3, 4, 2, generator=generator)
        drawn = diffusion.sample(predict, noise, generator=generator, sampler=sampler)  # type: ignore[arg-type]
        torch.testing.assert_close(drawn, data, atol=0.01, rtol=0)

    def test_samples_are_clipped_and_ddim_repeats_itself(self) -> None:
        import torch

        from actloop.models.action_diffusion import ActionDiffusion, DiffusionConfig

        diffusion = ActionDiffusion(DiffusionConfig(prediction="sample"))
        noise = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(1))
        drawn = [
            diffusion.sample(lambda x, t: torch.full_like(x, 3.0), noise, generator=torch.Generator().manual_seed(seed))
            for seed in (0, 1)
        ]
        torch.testing.assert_close(drawn[0], torch.ones_like(noise))
        torch.testing.assert_close(drawn[0], drawn[1])

    def test_the_loss_is_zero_for_a_network_that_knows_the_noise(self) -> None:
        import torch

        from actloop.models.action_diffusion import ActionDiffusion, DiffusionConfig

        diffusion = ActionDiffusion(DiffusionConfig())
        actions = torch.zeros(64, 4, 2)
        asked: list[torch.Tensor] = []

        def predict(x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
            asked.append(timesteps)
            return x / diffusion.noised(torch.zeros_like(x), torch.ones_like(x), timesteps)

        loss = diffusion.loss(predict, actions, generator=torch.Generator().manual_seed(0))
        assert loss.shape == (64,)
        torch.testing.assert_close(loss, torch.zeros(64), atol=1e-6, rtol=0)
        assert asked[0].min() >= 0
        assert asked[0].max() < 100
        assert len(asked[0].unique()) > 30
        ones = diffusion.loss(lambda x, t: torch.zeros_like(x), actions, generator=torch.Generator().manual_seed(0))
        assert ones.mean() == pytest.approx(1, abs=0.15)

    def test_bad_configurations_are_refused(self) -> None:
        import torch

        from actloop.models.action_diffusion import ActionDiffusion, DiffusionConfig

        with pytest.raises(ContractError, match="101 sample steps do not fit 100"):
            DiffusionConfig(sample_steps=101)
        with pytest.raises(UnknownNameError, match="'epsilon'"):
            DiffusionConfig(prediction="epsilo")
        with pytest.raises(ContractError, match="limit above 0"):
            DiffusionConfig(clip=0.0)
        with pytest.raises(ContractError, match="schedule"):
            ActionDiffusion(DiffusionConfig(schedule="cubic"))
        with pytest.raises(UnknownNameError, match="'ddim'"):
            ActionDiffusion(DiffusionConfig()).sample(
                lambda x, t: x,
                torch.zeros(1, 1, 1),
                generator=torch.Generator(),
                sampler="ddin",  # type: ignore[arg-type]
            )
