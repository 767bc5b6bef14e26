"""Action chunks by diffusion (Diffusion Policy, 2303.04137): what the network learns, and how chunks are drawn from it.

    chunk, noise --noised(t)--> x_t --predict(x_t, t)--> epsilon, which `loss` compares with the noise
    noise --sample: DDIM in a few steps, or DDPM in all--> normalised chunk

The schedules are those of `diffusers`; the network is whatever `predict` calls. Normalised actions lie within [-1, 1],
and samples are clipped to it. Flow matching is in actions/continuous.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from actloop.errors import ContractError, MissingDependency, UnknownNameError

Sampler = Literal["ddim", "ddpm"]
SAMPLERS: tuple[Sampler, ...] = ("ddim", "ddpm")
PREDICTIONS = ("epsilon", "sample", "v_prediction")

Predict = Callable[[Float[Tensor, "batch horizon action"], Int[Tensor, "batch"]], Float[Tensor, "batch horizon action"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionConfig:
    """Defaults of Diffusion Policy's released configurations, with fewer steps to sample.

    Attributes:
        train_steps: noise steps of training; a timestep is 0 to `train_steps` - 1.
        sample_steps: steps of a sample; DDPM takes all of training.
        prediction: what the network answers: `epsilon` the noise, `sample` the chunk, `v_prediction`.
    """

    train_steps: int = 100
    sample_steps: int = 10
    schedule: str = "squaredcos_cap_v2"
    prediction: str = "epsilon"
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.sample_steps <= self.train_steps:
            raise ContractError(
                "diffusion", f"{self.sample_steps} sample steps do not fit {self.train_steps} of training"
            )
        if self.prediction not in PREDICTIONS:
            raise UnknownNameError("diffusion.prediction", self.prediction, PREDICTIONS)
        if not self.clip > 0:
            raise ContractError("diffusion.clip", f"expected a limit above 0, got {self.clip}")


class ActionDiffusion:
    """The schedule of one configuration; it holds no parameters and no state between calls.

    Raises:
        MissingDependency: diffusers is not installed.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        self.config = config
        self._ddpm = self._scheduler("ddpm")

    def timesteps(self, batch: int, *, generator: torch.Generator) -> Int[Tensor, "batch"]:
        """Timesteps to train at, each as likely."""
        return torch.randint(self.config.train_steps, (batch,), generator=generator, device=generator.device)

    def noised(
        self,
        actions: Float[Tensor, "batch horizon action"],
        noise: Float[Tensor, "batch horizon action"],
        timesteps: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch horizon action"]:
        """`x_t`: sqrt(alpha_bar) actions + sqrt(1 - alpha_bar) noise."""
        mixed: Tensor = self._ddpm.add_noise(actions, noise, timesteps)
        return mixed

    def target(
        self,
        actions: Float[Tensor, "batch horizon action"],
        noise: Float[Tensor, "batch horizon action"],
        timesteps: Int[Tensor, "batch"],
    ) -> Float[Tensor, "batch horizon action"]:
        """What the network should answer to `noised`."""
        if self.config.prediction == "epsilon":
            return noise
        if self.config.prediction == "sample":
            return actions
        velocity: Tensor = self._ddpm.get_velocity(actions, noise, timesteps)
        return velocity

    def loss(
        self, predict: Predict, actions: Float[Tensor, "batch horizon action"], *, generator: torch.Generator
    ) -> Float[Tensor, "batch"]:
        """Mean squared error of each row at a random timestep."""
        timesteps = self.timesteps(len(actions), generator=generator)
        noise = torch.randn(actions.shape, generator=generator, device=actions.device, dtype=actions.dtype)
        answered = predict(self.noised(actions, noise, timesteps), timesteps)
        return (answered - self.target(actions, noise, timesteps)).square().mean(dim=(1, 2))

    def sample(
        self,
        predict: Predict,
        noise: Float[Tensor, "batch horizon action"],
        *,
        generator: torch.Generator,
        sampler: Sampler = "ddim",
    ) -> Float[Tensor, "batch horizon action"]:
        """Normalised chunks from noise, within +-`clip`; DDIM draws nothing after the noise.

        Raises:
            UnknownNameError: no such sampler.
        """
        scheduler = self._scheduler(sampler)
        scheduler.set_timesteps(self.config.sample_steps if sampler == "ddim" else self.config.train_steps)
        x = noise
        for timestep in scheduler.timesteps.to(noise.device):
            answered = predict(x, timestep.expand(len(x)))
            x = scheduler.step(answered, timestep, x, generator=generator).prev_sample
        return x

    def _scheduler(self, sampler: Sampler) -> Any:
        """A fresh scheduler: they remember the steps that they were set to."""
        if sampler not in SAMPLERS:
            raise UnknownNameError("diffusion.sampler", sampler, SAMPLERS)
        try:
            library = import_module("diffusers")
        except ModuleNotFoundError as error:
            why, mend = "action diffusion uses its schedulers", "pip install 'actloop[wan]'"
            raise MissingDependency("package 'diffusers'", why, mend) from error
        make = library.DDIMScheduler if sampler == "ddim" else library.DDPMScheduler
        try:
            return make(
                num_train_timesteps=self.config.train_steps,
                beta_schedule=self.config.schedule,
                prediction_type=self.config.prediction,
                clip_sample=True,
                clip_sample_range=self.config.clip,
            )
        except NotImplementedError as error:
            raise ContractError("diffusion.schedule", f"diffusers knows no {self.config.schedule!r}") from error
