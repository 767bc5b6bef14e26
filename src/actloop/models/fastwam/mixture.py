"""The shared attention: streams of tokens run through their experts side by side and see each other by name.

The boolean masks of the paper are written as the dense attentions that they decompose into: a stream attends to the
whole of every stream that it names and to nothing else, so no mask is built where all is visible.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from actloop.models.fastwam.experts import Expert, Layer, Modulation
from actloop.models.layers import KeyValue, turns

Past = Mapping[str, list[KeyValue]]  # keys and values per layer, of streams that were run before


@dataclass(slots=True, kw_only=True)
class Stream:
    """One run of tokens through its expert.

    `sees` names the streams that it attends to, in order, itself included; `hidden_from` lists, per stream seen, the
    samples that must not see it after all. `modulation` is one for all samples, or one each,
    of a sample or of each of its tokens. `context_mask` restricts
    the context per token. Of a stream that is not `needed` only the keys and values are, so it stops in the last layer.
    `layers` are those of the expert, if they were taken before.
    """

    expert: Expert
    x: Float[Tensor, "batch tokens hidden"]
    modulation: Float[Tensor, "times layers 6 hidden"] | Float[Tensor, "times layers 6 tokens hidden"]
    rope: Float[Tensor, "1 tokens dim"]
    context: list[KeyValue]
    sees: tuple[str, ...]
    needed: bool = True
    hidden_from: Mapping[str, Bool[Tensor, "batch"]] | None = None
    context_mask: Bool[Tensor, "tokens context"] | None = None
    layers: list[Layer] | None = None


class Cache:
    """Keys and values of streams side by side, one piece of memory per layer: a sampler joins nothing in its steps.

    Room for the streams of `past`, repeated to the batch, then for those that `tokens` counts, in this order. All write
    theirs in place, so it is for use without gradients. What a stream sees must lie side by side.
    """

    def __init__(self, past: Past, tokens: Mapping[str, int], batch: int) -> None:
        held = {name: pairs[0][0].shape[2] for name, pairs in past.items()}
        ends, self._spans = 0, dict[str, slice]()
        for name, count in {**held, **tokens}.items():
            self._spans[name] = slice(ends, ends + count)
            ends += count
        firsts = [key for key, _ in next(iter(past.values()))]
        shape = (batch, ends, firsts[0].shape[1], firsts[0].shape[3])
        self._layers: list[KeyValue] = []
        for key in firsts:
            self._layers.append((key.new_empty(shape).transpose(1, 2), key.new_empty(shape).transpose(1, 2)))
        self._views: dict[tuple[str, ...], list[KeyValue]] = {}

    def fill(self, past: Past) -> None:
        """Take what was run before."""
        for name, pairs in past.items():
            for layer, pair in enumerate(pairs):
                self.write(layer, name, pair)

    def write(self, layer: int, name: str, pair: KeyValue) -> None:
        key, value = self.seen(layer, (name,))
        batch = len(key)
        key.copy_(_repeated(pair[0], batch))
        value.copy_(_repeated(pair[1], batch))

    def seen(self, layer: int, names: tuple[str, ...]) -> KeyValue:
        """Views of what these streams hold, together."""
        if names not in self._views:
            start, stop = self._spans[names[0]].start, self._spans[names[-1]].stop
            assert stop - start == sum(self._spans[name].stop - self._spans[name].start for name in names)
            self._views[names] = [(keys[:, :, start:stop], values[:, :, start:stop]) for keys, values in self._layers]
        return self._views[names][layer]


class Joined:
    """As `Cache`, for use with gradients: nothing is written in place, and what is seen is joined anew."""

    def __init__(self, past: Past, tokens: Mapping[str, int], batch: int) -> None:
        self._batch = batch
        self._held: dict[str, dict[int, KeyValue]] = {name: {} for name in {**past, **tokens}}

    def fill(self, past: Past) -> None:
        """Take what was run before."""
        for name, pairs in past.items():
            for layer, pair in enumerate(pairs):
                self.write(layer, name, pair)

    def write(self, layer: int, name: str, pair: KeyValue) -> None:
        self._held[name][layer] = pair

    def seen(self, layer: int, names: tuple[str, ...]) -> KeyValue:
        """What these streams hold, together."""
        return joined([self._held[name][layer] for name in names], self._batch)


def mix(
    streams: Mapping[str, Stream],
    past: Past | None = None,
    *,
    cache: Cache | Joined | None = None,
    checkpointed: bool = False,
) -> Past:
    """Runs the streams through all layers, in place; returns the keys and values of each, per layer.

    What was run before is in `past`, or in a `cache`, which then takes these streams' keys and values too: nothing is
    returned. `checkpointed` trades time for memory in training: activations inside a layer are computed again.
    """
    runs = {name: _Run(stream) for name, stream in streams.items()}
    kept: dict[str, list[KeyValue]] = {name: [] for name in streams if cache is None}
    tokens = {name: stream.x for name, stream in streams.items()}
    depth = len(next(iter(runs.values())).layers)
    for at in range(depth):
        run = partial(_layer, runs, past or {}, cache, at, last=at == depth - 1)
        tokens, pairs = checkpoint(run, tokens, use_reentrant=False) if checkpointed else run(tokens)
        if cache is None:
            for name, pair in pairs.items():
                kept[name].append(pair)
    for name, stream in streams.items():
        stream.x = tokens[name]
    return kept


class _Run:
    """A stream on its way through the layers; what they are told about time is taken apart for all of them at once."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.layers = stream.layers or stream.expert.layers()
        self.turns = turns(stream.rope)
        told = stream.modulation
        if len(told) == 1:
            by_layer = told[0]
        else:
            by_layer = (told if told.ndim == 5 else told[..., None, :]).movedim(0, 2)
        parts = by_layer.flatten(0, 1).unbind()
        self.modulations = [Modulation(*parts[at : at + 6]) for at in range(0, len(parts), 6)]


def _layer(
    runs: Mapping[str, _Run],
    past: Past,
    cache: Cache | Joined | None,
    at: int,
    tokens: dict[str, Tensor],
    *,
    last: bool,
) -> tuple[dict[str, Tensor], dict[str, KeyValue]]:
    queries: dict[str, Tensor] = {}
    pairs: dict[str, KeyValue] = {}
    for name, run in runs.items():
        asks = run.stream.needed or not last
        query, pairs[name] = run.layers[at].project(tokens[name], run.modulations[at], run.turns, asks=asks)
        if query is not None:
            queries[name] = query
        if cache is not None:
            cache.write(at, name, pairs[name])
    after = dict(tokens)
    for name, query in queries.items():
        run, stream = runs[name], runs[name].stream
        if cache is not None:
            seen, mask = cache.seen(at, stream.sees), None
        else:
            parts = [pairs[other] if other in pairs else past[other][at] for other in stream.sees]
            seen, mask = joined(parts, len(query)), _mask(stream, parts)
        context = joined([stream.context[at]], len(query))
        after[name] = run.layers[at].update(
            tokens[name], query, run.modulations[at], seen, context, mask, stream.context_mask
        )
    return after, pairs


def joined(pairs: list[KeyValue], batch: int) -> KeyValue:
    """One run of keys and values out of several, each repeated to the batch: many samples can share an observation."""
    if len(pairs) == 1 and len(pairs[0][0]) == batch:
        return pairs[0]
    keys, values = ([_repeated(part, batch) for part in parts] for parts in zip(*pairs, strict=True))
    return torch.cat(keys, dim=2), torch.cat(values, dim=2)


def repeated(pairs: list[KeyValue], batch: int) -> list[KeyValue]:
    """The same of every layer for each of several samples per observation."""
    return [(_repeated(key, batch), _repeated(value, batch)) for key, value in pairs]


def _repeated(part: Tensor, batch: int) -> Tensor:
    return part if len(part) == batch else part.repeat_interleave(batch // len(part), dim=0)


def _mask(stream: Stream, seen: list[KeyValue]) -> Bool[Tensor, "batch 1 1 keys"] | None:
    """Only where a stream is hidden from some samples; otherwise attention is dense."""
    if stream.hidden_from is None:
        return None
    batch, parts = len(stream.x), []
    for name, (key, _) in zip(stream.sees, seen, strict=True):
        hidden = stream.hidden_from.get(name, torch.zeros(batch, dtype=torch.bool, device=key.device))
        parts.append(~hidden[:, None].expand(batch, key.shape[2]))
    return torch.cat(parts, dim=1)[:, None, None]
