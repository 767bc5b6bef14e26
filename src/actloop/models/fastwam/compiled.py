"""The network compiled for acting: layers by `torch.compile`, and on CUDA whole samplers as CUDA graphs.

A sampler is hundreds of small kernels per step, so that on a GPU most of its time is spent starting them. Compiling one
layer is enough, as all run the same code on other weights; a CUDA graph then starts everything at once. On a CPU there
are no graphs, and compiled layers alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from actloop.models.fastwam.continuation import Leftover
from actloop.models.fastwam.experts import Layer, Modulation
from actloop.models.fastwam.mixture import mix
from actloop.models.fastwam.model import FastWAM, Prompt
from actloop.models.fastwam.sampling import Acting, Noise, Seen

Out = TypeVar("Out")

WARM_UP = 3  # runs before a capture, in which kernels are compiled and libraries allocate their work space
SHAPES = 64  # experts, streams and batch sizes for which a layer is compiled before torch gives up


class CompiledFastWAM:
    """`see` and `act` of a model, compiled; the first call of each with other shapes takes long.

    The weights must not change afterwards, and inputs are on the model's device, as are outputs, which are fresh.
    """

    def __init__(self, model: FastWAM) -> None:
        self.model = model
        self._graphs: dict[object, _Graph[Any]] = {}

    @torch.no_grad()
    def see(
        self,
        frame: Float[Tensor, "batch 1 channels height width"],
        state: Float[Tensor, "batch state"],
        prompt: Prompt,
    ) -> Seen:
        """As `FastWAM.see`."""
        return self._run("see", lambda inputs: lambda: self._see(*inputs), (frame, state, prompt))

    @torch.no_grad()
    def act(
        self,
        seen: Seen,
        noise: Noise,
        *,
        left: Leftover | None = None,
        skip_future: bool = False,
    ) -> tuple[Float[Tensor, "batch horizon action"], Tensor | None]:
        """As `FastWAM.act`; continued by gradients ("guided"), it is the uncompiled network that acts.

        Raises:
            ContractError: see there.
        """

        def made(inputs: tuple[Seen, Noise, Leftover | None]) -> Callable[[], tuple[Tensor, Tensor | None]]:
            seen, noise, left = inputs
            return self.acting(seen, noise, left=left, skip_future=skip_future).run

        how = None if left is None else left.how
        if how == "guided":
            return self.model.act(seen, noise, left=left, skip_future=skip_future)
        return self._run(("act", skip_future, self.model.variant.name, how), made, (seen, noise, left))

    def acting(self, seen: Seen, noise: Noise, *, left: Leftover | None = None, skip_future: bool = False) -> Acting:
        """The sampler over compiled layers, not yet in a graph."""
        acting = Acting(self.model, seen, noise, left=left, skip_future=skip_future)
        acting.actions.layers = compiled(acting.actions.layers)
        if acting.future is not None:
            acting.future.layers = compiled(acting.future.layers)
        return acting

    def _see(self, frame: Tensor, state: Tensor, prompt: Prompt) -> Seen:
        reading = self.model.read(frame, state, prompt)
        stream = self.model.first_stream(reading)
        stream.layers = compiled(self.model.video.layers())
        return Seen(reading=reading, past=mix({"first": stream}))

    def _run(self, what: object, make: Callable[[Any], Callable[[], Out]], inputs: Any) -> Out:
        if next(self.model.parameters()).device.type != "cuda":
            return make(inputs)()
        key = (what, *((tensor.shape, tensor.dtype) for tensor in _tensors(inputs)))
        if key not in self._graphs:
            self._graphs[key] = _Graph(make, inputs)
        found: Out = self._graphs[key](inputs)
        return found


class _Graph(Generic[Out]):
    """One function over tensors that stay where they are: inputs are copied in, outputs out."""

    def __init__(self, make: Callable[[Any], Callable[[], Out]], inputs: Any) -> None:
        self._inputs = _copied(inputs)
        self._replay = captured(make(self._inputs))

    def __call__(self, inputs: Any) -> Out:
        torch._foreach_copy_(_tensors(self._inputs), _tensors(inputs))
        found: Out = _copied(self._replay())
        return found


def captured(run: Callable[[], Out]) -> Callable[[], Out]:
    """The same kernels on the same memory, as a CUDA graph: what it returns is overwritten by the next call."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()

    def replay() -> Out:
        graph.replay()
        return out

    return replay


class _CompiledLayer(Layer):
    """A layer whose halves are compiled, once for all layers of the same shapes."""

    def project(self, x: Tensor, modulation: Modulation, turns: Tensor, *, asks: bool = True) -> Any:
        return _compiled("project")(Layer(*self), x, modulation, torch.view_as_real(turns), asks=asks)

    def update(self, *given: Any, **named: Any) -> Any:
        return _compiled("update")(Layer(*self), *given, **named)


def compiled(layers: list[Layer]) -> list[Layer]:
    return [_CompiledLayer(*layer) for layer in layers]


@cache
def _compiled(half: str) -> Callable[..., Any]:
    dynamo = torch._dynamo.config
    dynamo.recompile_limit = max(dynamo.recompile_limit, SHAPES)
    made: Callable[..., Any] = torch.compile(getattr(Layer, half), dynamic=False)
    return made


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _mapped(value, keep)
    return found


def _copied(value: Any) -> Any:
    """The same with tensors of its own, copied together."""
    copy = _mapped(value, torch.empty_like)
    torch._foreach_copy_(_tensors(copy), _tensors(value))
    return copy


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same dataclasses and containers around changed tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _mapped(getattr(value, field.name), change) for field in fields(value)})
    if isinstance(value, Mapping):
        return {key: _mapped(held, change) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(held, change) for held in value)
    return value
