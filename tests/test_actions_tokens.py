"""Digits as token ids: the three maps, and that constrained decoding can end in nothing but a valid action."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from actloop.actions.bins import uniform_bins
from actloop.actions.representation import Representation
from actloop.actions.tokens import IntegerText, RareTokens, SlotTrie, TailTokens, TokenMap, rarest
from actloop.actions.written import WrittenBins
from actloop.errors import ContractError

END = 2
MAPS = ("digit by digit", "greedy pieces", "whole integers", "rare", "tail")


def characters(text: str) -> list[int]:
    """As Llama and Gemma write numbers: one token per digit, one for a space."""
    return [100 + ord(one) for one in text]


def pieces(text: str) -> list[int]:
    """Pairs of digits are one token, as byte-pair encodings often have it, and a space belongs to what follows."""
    found, at = [], 0
    while at < len(text):
        space = text[at] == " "
        piece = text[at : at + 2 + space]
        found.append(1000 + int.from_bytes(piece.encode(), "big"))
        at += len(piece)
    return found


def integers(text: str) -> list[int]:
    """As PaLI-X: one token for each integer, whatever stands before it."""
    return [5000 + int(text)]


@cache
def tokens_of(name: str) -> tuple[TokenMap, list[range], SlotTrie]:
    """A map, the digits of RT-2's slots (whether to terminate, and seven bins), and their trie."""
    first = 1 if name == "tail" else 0
    legal = [range(first, first + 2)] + [range(first, first + 256)] * 7
    makers: dict[str, Callable[[], TokenMap]] = {
        "digit by digit": lambda: IntegerText(characters),
        "greedy pieces": lambda: IntegerText(pieces),
        "whole integers": lambda: IntegerText(integers),
        "rare": lambda: RareTokens(rarest(256, vocabulary=32000, special={31999, 31990})),
        "tail": lambda: TailTokens(vocabulary=32000),
    }
    tokens = makers[name]()
    return tokens, legal, SlotTrie(tokens.slots(legal), end=END)


def decoded(trie: SlotTrie, logits: np.random.Generator) -> list[int]:
    """What a model with these logits answers: always the most likely allowed id."""
    ids: list[int] = []
    while True:
        allowed = trie(ids)
        assert allowed == tuple(sorted(set(allowed)))
        best = allowed[int(np.argmax(logits.normal(size=len(allowed))))]
        if best == END:
            return ids
        ids.append(best)
        assert len(ids) <= trie.longest


@pytest.mark.parametrize("name", MAPS)
@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 2**32 - 1))
def test_any_logits_decode_to_a_valid_action(name: str, seed: int) -> None:
    tokens, legal, trie = tokens_of(name)
    ids = decoded(trie, np.random.default_rng(seed))
    digits = trie.digits(ids)
    assert len(digits) == 8
    assert all(digit in slot for digit, slot in zip(digits, legal, strict=True))
    assert tokens.digits(ids) == digits, "what was decoded reads back without the trie, too"
    assert tokens.ids(digits) == ids
    assert trie.digits([*ids, END]) == digits


@pytest.mark.parametrize("name", MAPS)
@settings(deadline=None, max_examples=60, phases=[Phase.explicit, Phase.generate])
@given(data=st.data())
def test_every_valid_action_can_be_decoded(name: str, data: st.DataObject) -> None:
    tokens, legal, trie = tokens_of(name)
    digits = [data.draw(st.sampled_from(slot)) for slot in legal]
    ids = tokens.ids(digits)
    for at, one in enumerate(ids):
        assert one in trie(ids[:at])
    assert END in trie(ids)
    assert trie.digits(ids) == digits


TWO = IntegerText(characters), SlotTrie(IntegerText(characters).slots([range(2), range(256)]), end=END)


@settings(deadline=None, max_examples=100, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.sampled_from([END, 5, *characters("0123456789 ")]), max_size=6))
def test_arbitrary_ids_are_read_or_refused_and_never_misread(ids: list[int]) -> None:
    tokens, trie = TWO
    try:
        digits = trie.digits(ids)
    except ContractError:
        return
    assert tokens.ids(digits) == [one for one in ids if one != END]


def test_openvla_tail_tokens_and_what_the_released_code_clips() -> None:
    tokens = TailTokens(vocabulary=32000)
    assert tokens.ids([1, 128, 256]) == [31999, 31872, 31744]
    assert tokens.digits([31999, 31744]) == [1, 256]
    assert tokens.digits([5, 32000, 31743, 31744], clip=True) == [256, 1, 256, 256]
    for foreign in (31743, 32000, 5):
        with pytest.raises(ContractError, match=f"token id {foreign} is none of the 256"):
            tokens.digits([foreign])
    for digit in (0, 257):
        with pytest.raises(ContractError, match=f"digit {digit} is none of the 256"):
            tokens.ids([digit])
    with pytest.raises(ContractError, match="256 digits do not fit a vocabulary of 100"):
        TailTokens(vocabulary=100)


def test_integer_text_is_the_text_of_the_integers() -> None:
    tokens = IntegerText(characters)
    text = "1 128 91 0 255"
    ids = tokens.ids([1, 128, 91, 0, 255])
    assert ids == characters(text)
    assert tokens.digits(characters(text)) == [1, 128, 91, 0, 255]
    assert SlotTrie(tokens.slots([range(256)] * 8), end=END).longest == 8 * 3 + 7
    for wrong in ("256", "1  2", "1 x", "1 -2"):
        with pytest.raises(ContractError, match="write no integer"):
            tokens.digits(characters(wrong))


def test_integers_may_be_negative_where_a_model_counts_so() -> None:
    tokens = IntegerText(characters, range(-10, 11))
    assert tokens.digits(characters("-10 3 -1")) == [-10, 3, -1]
    trie = SlotTrie(tokens.slots([range(-10, 11)] * 2), end=END)
    assert trie(characters("-1")) == tuple(sorted(characters("0 ")))


def test_an_integer_that_could_go_on_ends_only_where_the_next_begins() -> None:
    tokens = IntegerText(characters)
    trie = SlotTrie(tokens.slots([range(256)] * 2), end=END)
    assert trie(characters("25")) == tuple(sorted([*characters(" "), *characters("012345")]))
    assert trie(characters("26")) == tuple(characters(" ")), "no bin is 260 or more"
    assert trie(characters("7 255")) == (END,)
    assert END in trie(characters("7 25"))


def test_text_whose_integers_run_into_each_other_is_refused() -> None:
    """A tokenizer that drops the space would make 1 2 and 12 one answer."""
    with pytest.raises(ContractError, match="could go on or begin what follows"):
        IntegerText(lambda text: characters(text.strip()))
    with pytest.raises(ContractError, match="each its own"):
        IntegerText(lambda text: [7])
    with pytest.raises(ContractError, match="each its own"):
        IntegerText(lambda text: [])


def test_a_separator_keeps_slots_apart() -> None:
    slot = {1: (7,), 12: (7, 8), 2: (8,)}
    with pytest.raises(ContractError, match="after slot 0, id 8 could go on or begin what follows"):
        SlotTrie([slot, slot], end=END)
    trie = SlotTrie([slot, slot], end=END, separator=(9,))
    assert trie.digits([7, 9, 8]) == [1, 2]
    assert trie.digits([7, 8, 9, 7, 8]) == [12, 12]
    assert trie([7]) == (8, 9)
    assert trie.longest == 5
    with pytest.raises(ContractError, match="could go on or begin what follows"):
        SlotTrie([{1: (7,), 2: (7, END)}], end=END)


def test_a_trie_refuses_what_is_no_action() -> None:
    trie = SlotTrie([{0: (10,), 1: (11,)}] * 2, end=END)
    for ids in ([12], [10, 10, 10], [END]):
        with pytest.raises(ContractError):
            trie(ids)
    with pytest.raises(ContractError, match="stop in slot 0 of 2, before the action is whole"):
        trie.digits([10, END])
    with pytest.raises(ContractError, match="stop in slot 0 of 2"):
        trie.digits([])
    with pytest.raises(ContractError, match="expected at least one"):
        SlotTrie([], end=END)
    with pytest.raises(ContractError, match="got 0 of them"):
        SlotTrie([{}], end=END)


def test_the_rarest_tokens_are_neither_special_nor_frequent() -> None:
    counts = [9, 0, 3, 0, 1, 0]
    assert rarest(3, counts=counts) == (5, 3, 1)
    assert rarest(3, counts=counts, special={3}) == (5, 1, 4)
    assert rarest(2, vocabulary=6, special={5}) == (4, 3)
    with pytest.raises(ContractError, match="expected 6 rare ids, the vocabulary has 5"):
        rarest(6, counts=counts, special={0})
    with pytest.raises(ContractError, match="distinct ids"):
        RareTokens((3, 3))
    with pytest.raises(ContractError, match="token id 9 is none of the 3"):
        RareTokens((5, 3, 1)).digits([9])


def test_bins_written_in_a_vocabulary_are_one_representation() -> None:
    bins = uniform_bins(np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    written = WrittenBins(bins=bins, tokens=IntegerText(characters), width=2, vocabulary=11, name="text")
    assert isinstance(written, Representation)
    chunk = np.array([[-1.0, 1.0], [0.0, 0.5]])
    ids = written.encode(chunk)
    assert ids == characters("0 255 127 191")
    np.testing.assert_allclose(written.decode(ids), bins.decode(bins.encode(chunk)))
    assert written.size(ids) == 13
    assert written.bits(ids) == pytest.approx(13 * np.log2(11))
    with pytest.raises(ContractError, match="3 digits are no whole steps of 2"):
        written.decode(characters("1 2 3"))
