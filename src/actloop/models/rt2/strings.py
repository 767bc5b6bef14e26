"""Actions as a string of digits, and the string as tokens (RT-2, arXiv 2307.15818, section 3.2).

    actions --bins--> digits --> terminate x y z ... gripper | terminate x y z ... | --token map--> ids

One slot says whether the episode ends (1) or not (0), one is for each component; several actions follow one another,
where the paper writes one. Departing from it, `terminates=False` leaves the first slot out, as its own example of seven
numbers does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from actloop.actions.bins import Bins
from actloop.actions.tokens import IntegerText, RareTokens, SlotTrie, TokenMap, rarest
from actloop.errors import ContractError, UnknownNameError
from actloop.models.backbone import Allowed, Tokens

Mapping = Literal["integers", "rare"]
MAPPINGS: tuple[Mapping, ...] = get_args(Mapping)

_INTEGER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a string says: actions in physical units, and with each whether the episode ends there."""

    actions: Float[np.ndarray, "horizon action"]
    terminate: Bool[np.ndarray, "horizon"]


class ActionString:
    """`horizon` actions of `size` components, written with the digits of `bins` in the tokens of a map."""

    def __init__(
        self, *, bins: Bins, tokens: TokenMap, size: int, horizon: int, end: int, terminates: bool = True
    ) -> None:
        """`end` is the id that ends an answer.

        Raises:
            ContractError: no actions, or a digit that the map has no tokens for.
        """
        if size < 1 or horizon < 1:
            raise ContractError("rt2", f"expected 1 or more components and actions, got {size} and {horizon}")
        self.bins, self.tokens = bins, tokens
        self.size, self.horizon, self.terminates = size, horizon, terminates
        self._end = end
        self._any = self._trie(np.zeros((0, size), np.int64))

    @property
    def slots(self) -> int:
        """Digits of one action."""
        return self.size + self.terminates

    @property
    def longest(self) -> int:
        """Tokens of the whole string, at most."""
        return self._any.longest

    def encode(
        self, actions: Float[np.ndarray, "horizon action"], terminate: Bool[np.ndarray, "horizon"]
    ) -> tuple[int, ...]:
        """Ids of actions in physical units.

        Raises:
            ContractError: another number of actions or components, or one that is not finite.
        """
        if actions.shape != (self.horizon, self.size) or terminate.shape != (self.horizon,):
            expected = f"expected actions ({self.horizon}, {self.size}) and as many flags"
            raise ContractError("rt2", f"{expected}, got {actions.shape} and {terminate.shape}")
        return tuple(self.tokens.ids(self._digits(actions, terminate).reshape(-1).tolist()))

    def allowed(self, given: Float[np.ndarray, "given action"] | None = None) -> Allowed:
        """What may follow what, so that nothing but `horizon` actions can be written; the first ones are the given.

        Nothing may follow the whole string.

        Raises:
            ContractError: given actions that leave none to decide, or that are not of this size.
        """
        trie = self._any
        if given is not None and len(given):
            if len(given) >= self.horizon:
                raise ContractError("committed", f"{len(given)} fixed actions leave none of {self.horizon} to decide")
            trie = self._trie(self._indices(given))

        def following(ids: Sequence[int]) -> Sequence[int]:
            found = trie(ids)
            return () if found == (self._end,) else found

        return following

    def decode(self, ids: Sequence[int]) -> Said:
        """What ids say that `allowed` let through.

        Raises:
            ContractError: they are no such string.
        """
        return self._said(np.array(self._any.digits(ids)).reshape(self.horizon, self.slots))

    def read(self, text: str) -> Said:
        """Integers as another model wrote them, `1 128 91 ...`, with or without the slot that ends an episode.

        Only what follows the last `Action:` counts, where there is one.

        Raises:
            ContractError: another number of integers, or one that is no digit.
        """
        found = [int(number) for number in _INTEGER.findall(text.rpartition("Action:")[2])]
        counts = (self.horizon * (self.size + 1), self.horizon * self.size)
        if len(found) not in counts:
            wanted = f"expected {counts[0]} integers, or {counts[1]} without the ends"
            raise ContractError("rt2", f"{wanted}, got {len(found)} in {text!r}")
        digits = np.array(found).reshape(self.horizon, -1)
        if digits.shape[1] == self.size:
            digits = np.concatenate([np.zeros((self.horizon, 1), np.int64), digits], axis=1)
        if ((digits < 0) | (digits >= self.bins.count)).any() or (digits[:, 0] > 1).any():
            raise ContractError("rt2", f"expected ends of 0 or 1 and digits below {self.bins.count}, got {text!r}")
        return self._said(digits if self.terminates else digits[:, 1:])

    def _indices(self, actions: np.ndarray) -> Int[np.ndarray, "horizon action"]:
        """Digits from 0 on, whatever the bins count from."""
        indices: Int[np.ndarray, "horizon action"] = self.bins.encode(actions) - self.bins.digits.start
        if indices.shape[-1] != self.size:
            raise ContractError("rt2", f"expected {self.size} components, got {indices.shape[-1]}")
        return indices

    def _digits(self, actions: np.ndarray, terminate: np.ndarray) -> Int[np.ndarray, "horizon slots"]:
        indices = self._indices(actions)
        return np.concatenate([terminate[:, None].astype(np.int64), indices], axis=1) if self.terminates else indices

    def _said(self, digits: Int[np.ndarray, "horizon slots"]) -> Said:
        actions = self.bins.decode(digits[:, -self.size :] + self.bins.digits.start)
        ends = digits[:, 0] > 0 if self.terminates else np.zeros(self.horizon, bool)
        return Said(actions=actions, terminate=ends)

    def _trie(self, given: Int[np.ndarray, "given action"]) -> SlotTrie:
        """The given actions go on, and do not end the episode."""
        legal: list[Sequence[int]] = []
        for place in range(self.horizon):
            fixed = given[place].tolist() if place < len(given) else None
            if self.terminates:
                legal.append((0,) if fixed is not None else (0, 1))
            legal += [range(self.bins.count)] * self.size if fixed is None else [(digit,) for digit in fixed]
        return SlotTrie(self.tokens.slots(legal), end=self._end)


def token_map(mapping: str, tokens: Tokens, *, count: int, counts: Sequence[int] = ()) -> TokenMap:
    """One of the paper's two ways of writing `count` digits.

    Args:
        mapping: `integers` (PaLI-X): as text, in one token or several; `rare` (PaLM-E): the least frequent tokens of
            the vocabulary are given a new meaning.
        tokens: of the model.
        count: digits 0 to `count` - 1.
        counts: how often each id occurs in some text; without it the last ids of the vocabulary count as the rarest.

    Raises:
        UnknownNameError: no such way.
        ContractError: too few tokens, or integers that cannot be told apart.
    """
    if mapping == "integers":
        return IntegerText(tokens.encode, range(count))
    if mapping == "rare":
        return RareTokens(rarest(count, vocabulary=tokens.size, counts=counts, special=tokens.special))
    raise UnknownNameError("rt2.mapping", mapping, MAPPINGS)
