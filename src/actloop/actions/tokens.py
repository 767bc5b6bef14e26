"""Digits as token ids of a language model, and which ids may follow which so that only valid digits can come out.

    digits --TokenMap.ids--> ids --TokenMap.digits--> digits

    TailTokens     OpenVLA (2406.09246): digit d is the d-th id from the end of the vocabulary
    RareTokens     RT-2 on PaLM-E (2307.15818): digits overwrite the least frequent tokens
    IntegerText    RT-2 on PaLI-X: digits are written as integers; a tokenizer may take several tokens for one

    TokenMap.slots(legal digits per slot) --> SlotTrie --allowed(ids so far)--> ids that may come next

Plain integers: no tokenizer and no torch are imported.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from actloop.errors import ContractError

NOWHERE = -1  # no token has this id

Tokens = tuple[int, ...]
Slot = Mapping[int, Tokens]
"""The tokens of each digit that one place of an action may hold."""


@runtime_checkable
class TokenMap(Protocol):
    """One way of writing digits in the vocabulary of a language model."""

    def ids(self, digits: Sequence[int]) -> list[int]:
        """Token ids of digits, in order.

        Raises:
            ContractError: a digit that has no tokens.
        """
        ...

    def digits(self, ids: Sequence[int]) -> list[int]:
        """The digits that `ids` wrote.

        Raises:
            ContractError: ids that write no digits.
        """
        ...

    def slots(self, legal: Sequence[Iterable[int]]) -> list[Slot]:
        """For each place of an action, the tokens of the digits that are legal there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TailTokens:
    """Digit d, 1..count, is the id `vocabulary` - d: the last `count` tokens are overwritten.

    Of OpenVLA, `vocabulary` is 32000, the tokens of Llama 2, and neither the padded rows of its embedding nor the
    length of its tokenizer.
    """

    vocabulary: int
    count: int = 256

    def __post_init__(self) -> None:
        if not 0 < self.count <= self.vocabulary:
            raise ContractError("tokens", f"{self.count} digits do not fit a vocabulary of {self.vocabulary}")

    def ids(self, digits: Sequence[int]) -> list[int]:
        return [self.vocabulary - _member(digit, range(1, self.count + 1)) for digit in digits]

    def digits(self, ids: Sequence[int], *, clip: bool = False) -> list[int]:
        """The digits of ids; `clip` takes any other id for the nearest digit, as the released code does.

        Raises:
            ContractError: an id that is no digit, unless they are clipped.
        """
        if clip:
            return [min(max(self.vocabulary - int(one), 1), self.count) for one in ids]
        legal = range(self.vocabulary - self.count, self.vocabulary)
        return [self.vocabulary - _member(one, legal, "token id") for one in ids]

    def slots(self, legal: Sequence[Iterable[int]]) -> list[Slot]:
        return _single(self, legal)


@dataclass(frozen=True, slots=True)
class RareTokens:
    """Digit i, 0..len(tokens) - 1, is the i-th of the given ids; `rarest` chooses them."""

    tokens: Sequence[int]

    def __post_init__(self) -> None:
        if not len(self.tokens) or len(set(self.tokens)) != len(self.tokens) or min(self.tokens) < 0:
            raise ContractError("tokens", "expected distinct ids of at least 0, one per digit")

    def ids(self, digits: Sequence[int]) -> list[int]:
        return [int(self.tokens[_member(digit, range(len(self.tokens)))]) for digit in digits]

    def digits(self, ids: Sequence[int]) -> list[int]:
        digit_of = {int(one): digit for digit, one in enumerate(self.tokens)}
        return [digit_of[_member(one, digit_of, "token id")] for one in ids]

    def slots(self, legal: Sequence[Iterable[int]]) -> list[Slot]:
        return _single(self, legal)


class IntegerText:
    """Digits as text, `1 128 91`: the first as it is, the others after a space.

    Args:
        encode: ids of a text that continues another one, nothing put before or after it.
        legal: every digit that is ever written, negative ones included where a model counts so.

    Raises:
        ContractError: two digits have the same tokens, one has none, or nobody could tell where one ends.
    """

    def __init__(self, encode: Callable[[str], Sequence[int]], legal: Iterable[int] = range(256)) -> None:
        legal = list(legal)
        self._first = {digit: tuple(map(int, encode(str(digit)))) for digit in legal}
        self._later = {digit: tuple(map(int, encode(f" {digit}"))) for digit in legal}
        SlotTrie([self._first, self._later, self._later], end=NOWHERE)  # refuses what cannot be read back
        self._read_first = {tokens: digit for digit, tokens in self._first.items()}
        self._read_later = {tokens: digit for digit, tokens in self._later.items()}
        self._longest = max(map(len, (*self._read_first, *self._read_later)))

    def ids(self, digits: Sequence[int]) -> list[int]:
        found: list[int] = []
        for place, digit in enumerate(digits):
            table = self._later if place else self._first
            found.extend(table[_member(digit, table)])
        return found

    def digits(self, ids: Sequence[int]) -> list[int]:
        """The digits, by the longest match at each place.

        Raises:
            ContractError: ids that write no integers of this map.
        """
        found: list[int] = []
        rest = tuple(map(int, ids))
        at = 0
        while at < len(rest):
            table = self._read_later if found else self._read_first
            fitting = (rest[at : at + length] for length in range(min(self._longest, len(rest) - at), 0, -1))
            tokens = next((tokens for tokens in fitting if tokens in table), None)
            if tokens is None:
                raise ContractError(
                    "tokens", f"ids {rest[at : at + 6]} in place {len(found)} write no integer of this map"
                )
            found.append(table[tokens])
            at += len(tokens)
        return found

    def slots(self, legal: Sequence[Iterable[int]]) -> list[Slot]:
        tables = [self._later if place else self._first for place in range(len(legal))]
        return [
            {digit: table[_member(digit, table)] for digit in digits}
            for table, digits in zip(tables, legal, strict=True)
        ]


@dataclass(slots=True)
class _Node:
    """What was decoded within one slot so far; `digit` where that is a whole one."""

    children: dict[int, "_Node"] = field(default_factory=dict)
    digit: int | None = None


class SlotTrie:
    """Which ids may follow which, so that exactly one digit of each slot is decoded, in order, and then the end.

    Called with the ids decoded so far (an `Allowed` of models/backbone.py). Any choice among the answers leads to a
    valid action after at most `longest` tokens.

    Args:
        slots: legal digits and their tokens, place by place (`TokenMap.slots`).
        end: the id that ends an answer.
        separator: tokens between two digits, where the maps' own do not hold it.

    Raises:
        ContractError: no slots, an empty one, two digits of the same tokens, or tokens after which nobody can tell
            whether a digit goes on or the next one begins.
    """

    def __init__(self, slots: Sequence[Slot], *, end: int, separator: Tokens = ()) -> None:
        if not slots:
            raise ContractError("slots", "expected at least one")
        self._end = end
        self._roots = [_grown(slot, separator if place else ()) for place, slot in enumerate(slots)]
        self.longest = sum(max(map(len, slot.values())) for slot in slots) + len(separator) * (len(slots) - 1)
        for place, root in enumerate(self._roots):
            after = self._roots[place + 1].children if place + 1 < len(slots) else {end: _Node()}
            self._check(root, after, place)

    def __call__(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The ids that may follow, rising; after the whole action the end alone.

        Raises:
            ContractError: the ids so far begin no valid action.
        """
        _, place, node = self._walk(ids)
        following = set(node.children)
        if node.digit is not None:
            following |= self._after(place)
        return tuple(sorted(following))

    def digits(self, ids: Sequence[int]) -> list[int]:
        """The digit of each slot of a whole action, its end token left out or not.

        Raises:
            ContractError: the ids are no valid action, or one that is not finished.
        """
        ids = [int(one) for one in ids]
        found, place, node = self._walk(ids[:-1] if ids and ids[-1] == self._end else ids)
        if node.digit is None or place + 1 < len(self._roots):
            raise ContractError(
                "tokens", f"{ids} stop in slot {place} of {len(self._roots)}, before the action is whole"
            )
        return [*found, node.digit]

    def _after(self, place: int) -> set[int]:
        return set(self._roots[place + 1].children) if place + 1 < len(self._roots) else {self._end}

    def _walk(self, ids: Sequence[int]) -> tuple[list[int], int, _Node]:
        """The digits already complete, the slot that is being written, and how far it is."""
        found: list[int] = []
        place, node = 0, self._roots[0]
        for position, one in enumerate(map(int, ids)):
            if one in node.children:
                node = node.children[one]
                continue
            if node.digit is None or place + 1 == len(self._roots) or one not in self._after(place):
                raise ContractError("tokens", f"id {one} at {position} cannot stand there, in slot {place}")
            found.append(node.digit)
            place += 1
            node = self._roots[place].children[one]
        return found, place, node

    def _check(self, node: _Node, after: Mapping[int, _Node], place: int) -> None:
        """No whole digit may go on with what could also begin the next one; the end stands in no digit."""
        clash = set(node.children) & set(after) if node.digit is not None else set()
        if clash or self._end in node.children:
            token = min(clash) if clash else self._end
            raise ContractError(
                "slots", f"after slot {place}, id {token} could go on or begin what follows; separate them"
            )
        for child in node.children.values():
            self._check(child, after, place)


def rarest(
    count: int, *, vocabulary: int = 0, counts: Sequence[int] = (), special: Iterable[int] = frozenset()
) -> tuple[int, ...]:
    """The `count` least frequent ids that are not special, rarest first.

    `counts` says how often each id occurs in some text; ties go to the higher id. Without it the order of the
    vocabulary stands for it: merges are learned from the most frequent on, so the last ids are the rarest.

    Raises:
        ContractError: fewer ids than that.
    """
    often = np.asarray(counts) if len(counts) else np.zeros(vocabulary, dtype=np.int64)
    apart = set(special)
    order = np.lexsort((-np.arange(len(often)), often)).tolist()
    found = tuple(one for one in order if one not in apart)[:count]
    if count < 1 or len(found) < count:
        raise ContractError(
            "tokens", f"expected {count} rare ids, the vocabulary has {len(found)} that are not special"
        )
    return found


def _single(tokens: TokenMap, legal: Sequence[Iterable[int]]) -> list[Slot]:
    """Slots of a map in which every digit is one token."""
    return [{digit: (tokens.ids([digit])[0],) for digit in digits} for digits in legal]


def _grown(slot: Slot, separator: Tokens) -> _Node:
    """The trie of one slot."""
    _check_slot(slot)
    root = _Node()
    for digit, tokens in slot.items():
        node = root
        for one in (*separator, *tokens):
            node = node.children.setdefault(one, _Node())
        node.digit = digit
    return root


def _check_slot(slot: Slot) -> None:
    """Every digit has tokens, and its own."""
    if not slot or not all(slot.values()) or len(set(slot.values())) != len(slot):
        raise ContractError("slots", f"expected digits that have tokens, each its own, got {len(slot)} of them")


def _member(value: int, legal: range | Mapping[int, object], what: str = "digit") -> int:
    """The value as a plain int, refused where it is not legal."""
    if int(value) not in legal:
        raise ContractError(
            "tokens", f"{what} {value} is none of the {len(legal)} of this map ({min(legal)} to {max(legal)})"
        )
    return int(value)
