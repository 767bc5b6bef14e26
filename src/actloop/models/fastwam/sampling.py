"""Euler integration of the two velocities. What does not change between steps is computed before the first one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from actloop.errors import ContractError
from actloop.models.fastwam.continuation import Continuation, Leftover, guidance
from actloop.models.fastwam.experts import detached
from actloop.models.fastwam.mixture import Cache, Joined, Past, Stream, mix, repeated
from actloop.models.flow import TIMESTEPS, euler_grid

if TYPE_CHECKING:
    from actloop.models.fastwam.model import FastWAM, Reading


@dataclass(slots=True, kw_only=True)
class Noise:
    """Starting points of the samplers; `video` is needed only where a future is computed."""

    action: Float[Tensor, "batch horizon action"]
    video: Float[Tensor, "batch time channels height width"] | None = None


@dataclass(slots=True, kw_only=True)
class Seen:
    """An observation after the first pass: its reading, and keys and values of the current frame."""

    reading: Reading
    past: Past


def act(
    model: FastWAM, seen: Seen, noise: Noise, *, left: Leftover | None, skip_future: bool
) -> tuple[Tensor, Tensor | None]:
    """See `FastWAM.act`."""
    return Acting(model, seen, noise, left=left, skip_future=skip_future).run()


def imagine(model: FastWAM, seen: Seen, noise: Noise, *, actions: Tensor | None) -> Tensor:
    """See `FastWAM.imagine`."""
    if (actions is not None) != model.variant.video_sees_actions:
        said = "needs the chunk to imagine" if actions is None else "cannot imagine a given chunk"
        hint = "video sees actions only in variant 'action-conditioned'"
        raise ContractError("imagine.actions", f"variant {model.variant.name!r} {said}: {hint}")
    future = FuturePath(model, seen.reading, noise, actions, steps=model.config.imagination_steps)
    future.start()
    cache = Cache(seen.past, {"future": future.tokens}, len(future.latents))
    cache.fill(seen.past)
    return future.run(cache, "future")


class Acting:
    """One way of acting on what was seen: all that steps have in common is made here, and `run` takes the steps.

    `run` reads `seen` and `noise` anew each time and leaves the device alone but for kernels, so that a CUDA graph can
    hold it.
    """

    def __init__(self, model: FastWAM, seen: Seen, noise: Noise, *, left: Leftover | None, skip_future: bool) -> None:
        variant = model.variant
        if skip_future and not variant.may_skip_future:
            reason = f"variant {variant.name!r} acts on its imagined future; it learned no other way"
            raise ContractError("skip_future", reason)
        self.seen, self.together = seen, not variant.imagine_first
        self.actions = ActionPath(model, seen.reading, noise.action, left)
        self.future: FuturePath | None = None
        self.name = "future" if self.together else "imagined"
        self.sees: tuple[str, ...] = ("first", "action")
        tokens = {"action": model.config.horizon}
        if variant.action_sees_future and not skip_future:
            self.future = FuturePath(model, seen.reading, noise, None)
            self.sees = ("first", self.name, "action")
            tokens = {self.name: self.future.tokens, **tokens}
        memory = Joined if self.actions.differentiates else Cache
        self.cache = memory(seen.past, tokens, len(noise.action))

    def run(self) -> tuple[Tensor, Tensor | None]:
        """Actions, and the future latents if there are any."""
        actions, future, cache = self.actions, self.future, self.cache
        cache.fill(self.seen.past)
        actions.start()
        if future is None:
            return actions.run(cache, self.sees), None
        future.start()
        if not self.together:
            latents = future.run(cache, self.name)
            mix({self.name: future.finished(self.name)}, cache=cache)
            return actions.run(cache, self.sees), latents
        for step in range(len(actions.deltas)):
            stream = future.stream(step, self.name)
            mix({self.name: stream}, cache=cache)  # first, as it never sees the actions
            actions.step(step, cache, self.sees)
            future.advance(step, stream.x)
        return actions.result(), future.latents


def _check_samples(noises: int, observations: int) -> None:
    if noises % observations:
        raise ContractError("noise", f"expected as many or more for each of {observations} observations, got {noises}")


class ActionPath:
    """The actions on their way from noise; what is left of a plan in force is continued on the way."""

    def __init__(self, model: FastWAM, reading: Reading, noise: Tensor, left: Leftover | None) -> None:
        config = model.config
        _check_samples(len(noise), len(reading.frame))
        if left is not None:
            _check_continuation(model, left.how)
        self.model, self.left, self.layers = model, left, model.action.layers()
        self.differentiates = left is not None and left.how == "guided"
        if self.differentiates:  # with respect to the actions alone
            self.layers = [detached(layer) for layer in self.layers]
        self._given = reading, noise
        timesteps, deltas = euler_grid(config.denoising_steps, config.action_shift, reading.frame)
        levels = timesteps / TIMESTEPS
        self.levels, self.deltas, self.strengths = levels.unbind(), deltas.unbind(), guidance(levels, deltas).unbind()
        self._modulations = model.action.modulation(model.action.time(timesteps))
        self.clean = model.clean_modulation(reading.frame) if left is not None and left.how == "trained" else None

    def start(self) -> None:
        """Take noise, context and what is left as they are now."""
        reading, noise = self._given
        self.noise = self.actions = noise.to(reading.frame)
        self.reading = replace(reading, action=repeated(reading.action, len(noise)))
        if self.left is not None:
            many = len(noise) // len(self.left.actions)
            self.target = self.left.actions.to(reading.frame).repeat_interleave(many, dim=0)
            self.fixed, self.weights = self.left.fixed, self.left.weights[:, None].to(reading.frame)
        modulations = self._modulations
        if self.clean is not None:
            modulations = with_clean(modulations, self.clean, self.fixed.T)
        self.modulations = torch.split(modulations, 1)

    def run(self, cache: Cache | Joined, sees: tuple[str, ...]) -> Tensor:
        """All steps, where nothing else is denoised beside."""
        for step in range(len(self.deltas)):
            self.step(step, cache, sees)
        return self.result()

    def step(self, step: int, cache: Cache | Joined, sees: tuple[str, ...]) -> None:
        """One step of Euler; what else the actions see in it is in the cache."""
        noisy = self._with_given(self.actions, self.levels[step])
        with torch.set_grad_enabled(self.differentiates):
            if self.differentiates:
                noisy = noisy.detach().requires_grad_()
            stream = self.model.action_stream(noisy, self.modulations[step], self.reading, sees)
            stream.layers = self.layers
            mix({"action": stream}, cache=cache)
            velocity = self.model.action_velocity(stream.x)
            if self.left is not None and self.left.guides:
                velocity = self._guided(velocity, noisy, step)
        self.actions = noisy.detach() + velocity * self.deltas[step]

    def _guided(self, velocity: Tensor, noisy: Tensor, step: int) -> Tensor:
        data = noisy - self.levels[step] * velocity
        pull = (self.target - data).detach() * self.weights
        if self.differentiates:
            (pull,) = torch.autograd.grad(data, noisy, pull)
        return velocity.detach() - self.strengths[step] * pull

    def result(self) -> Tensor:
        return self._with_given(self.actions, self.noise.new_zeros(()))

    def _with_given(self, actions: Tensor, level: Tensor) -> Tensor:
        """The fixed actions where they are given: clean, or on their own noising path."""
        if self.left is None or self.left.guides:
            return actions
        known = self.target
        if self.clean is None:
            known = (1 - level) * known + level * self.noise
        return torch.where(self.fixed, known, actions)


def _check_continuation(model: FastWAM, how: Continuation) -> None:
    if how == "trained" and not model.config.committed_max:
        reason = "this network was not trained to continue given actions (`committed_max` is 0)"
        raise ContractError("continuation", f"{reason}; known without: 'prefix', 'guided', 'guided-identity'")
    if how == "guided" and torch.is_inference_mode_enabled():
        reason = "'guided' takes gradients, which inference mode forbids"
        raise ContractError("continuation", f"{reason}; use torch.no_grad, or 'guided-identity'")


def with_clean(
    modulation: Float[Tensor, "times layers 6 hidden"],
    clean: Float[Tensor, "1 layers 6 hidden"],
    mask: Bool[Tensor, "many tokens"],
) -> Float[Tensor, "times layers 6 tokens hidden"]:
    """Modulation per token: that of noise level 0 where the mask is set."""
    return torch.where(mask[:, None, None, :, None], clean[..., None, :], modulation[..., None, :])


class FuturePath:
    """The future latents on their way from noise."""

    def __init__(
        self, model: FastWAM, reading: Reading, noise: Noise, actions: Tensor | None, *, steps: int | None = None
    ) -> None:
        if noise.video is None:
            raise ContractError("noise.video", "this variant computes a future, which needs noise to start from")
        config = model.config
        _check_samples(len(noise.video), len(reading.frame))
        self.model, self.layers = model, model.video.layers()
        self._given = reading, noise.video
        self.given = None
        if actions is not None:
            many = max(len(actions), len(noise.video))
            several = replace(reading, video=repeated(reading.video, many))
            self.given = model.given(several, actions.to(reading.frame).repeat_interleave(many // len(actions), dim=0))
        self.tokens = config.future_frames * config.rows * config.columns
        shift = config.video_sampling_shift or config.video_shift
        timesteps, deltas = euler_grid(steps or config.denoising_steps, shift, reading.frame)
        self.levels, self.deltas = torch.split(timesteps / TIMESTEPS, 1), deltas.unbind()
        times = model.video.time(timesteps)
        self.times, self.modulations = torch.split(times, 1), torch.split(model.video.modulation(times), 1)
        self.clean = model.video.modulation(model.video.time(reading.frame.new_zeros(1)))

    def start(self) -> None:
        """Take noise and context as they are now."""
        reading, noise = self._given
        self.latents = noise.to(reading.frame)
        self.reading = replace(reading, video=repeated(reading.video, len(noise)))

    def run(self, cache: Cache | Joined, name: str) -> Tensor:
        """All steps, where nothing else is denoised beside."""
        for step in range(len(self.deltas)):
            stream = self.stream(step, name)
            mix({name: stream}, cache=cache)
            self.advance(step, stream.x)
        return self.latents

    def stream(self, step: int, name: str) -> Stream:
        return self._stream(self.modulations[step], name)

    def advance(self, step: int, tokens: Tensor) -> None:
        velocity = self.model.video_velocity(
            tokens, self.times[step], self.latents, self.levels[step], self.reading.frame
        )
        self.latents = self.latents + velocity * self.deltas[step]

    def finished(self, name: str) -> Stream:
        """The imagined future as something to see: clean, at timestep 0."""
        return self._stream(self.clean, name, needed=False)

    def _stream(self, modulation: Tensor, name: str, *, needed: bool = True) -> Stream:
        stream = self.model.future_stream(
            self.latents, modulation, self.reading, name=name, needed=needed, given=self.given
        )
        stream.layers = self.layers
        return stream
