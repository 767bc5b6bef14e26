"""FAST: the released arithmetic and folder, what a fit covers, and answers that are no chunk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from actloop.actions.fast import FAST, fit_fast, load_fast
from actloop.actions.normalizers import MaskedNormalizer, quantile
from actloop.actions.representation import Representation, reconstruction
from actloop.errors import ContractError, DataError

fft = pytest.importorskip("scipy.fft")
tokenizers = pytest.importorskip("tokenizers")

HORIZON, WIDTH = 10, 3
UNIT = MaskedNormalizer(low=(-1.0,) * WIDTH, high=(1.0,) * WIDTH, mask=(True,) * WIDTH)


def smooth(count: int, seed: int = 0) -> list[np.ndarray]:
    """Chunks of slow motion within [-1, 1]."""
    random = np.random.default_rng(seed)
    time = np.linspace(0, 1, HORIZON)[:, None]
    return [
        np.clip(random.uniform(-0.6, 0.6, WIDTH) + 0.4 * np.sin(random.uniform(1, 4, WIDTH) * time), -1, 1)
        for _ in range(count)
    ]


CHUNKS = smooth(200)
FITTED = fit_fast(CHUNKS, UNIT)


def released_fit(chunks: list[np.ndarray], vocabulary: int) -> tuple[Any, int]:
    """A tokenizer as the released code fits one, and the smallest coefficient: the alphabet are raw characters."""
    rounded = [np.around(fft.dct(chunk, axis=0, norm="ortho") * 10).astype(int) for chunk in chunks]
    least, most = min(one.min() for one in rounded), max(one.max() for one in rounded)
    library = tokenizers.ByteLevelBPETokenizer()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=[chr(one) for one in range(most - least + 1)],
        max_token_length=10000,
    )
    texts = ["".join(map(chr, (one - least).ravel())) for one in rounded]
    library._tokenizer.train_from_iterator(texts, trainer=trainer)
    return library._tokenizer, int(least)


def test_smooth_motion_takes_fewer_tokens_and_loses_what_rounding_loses() -> None:
    found = reconstruction(FITTED, smooth(50, seed=1), UNIT)
    assert isinstance(FITTED, Representation)
    assert found.fewer > 1.5
    assert found.longest < HORIZON * WIDTH
    rounding = 0.1 / np.sqrt(12)
    assert 0.5 * rounding < found.normalised.overall[0] < 1.1 * rounding
    finer = fit_fast(CHUNKS, UNIT, scale=100.0)
    assert reconstruction(finer, smooth(50, seed=1), UNIT).normalised.overall[0] < found.normalised.overall[0] / 5


def test_the_lowest_frequency_of_every_component_comes_first() -> None:
    text = FITTED.tokenizer.decode(FITTED.encode(np.tile([0.5, -0.5, 0.0], (HORIZON, 1))), skip_special_tokens=False)
    coefficients = [ord(one) + FITTED.least for one in text]
    assert coefficients[:3] == [16, -16, 0], "10 * 0.5 * sqrt(10)"
    assert coefficients[3:] == [0] * (HORIZON - 1) * WIDTH


@settings(deadline=None, max_examples=100, phases=[Phase.explicit, Phase.generate])
@given(arrays(np.float64, (HORIZON, WIDTH), elements=st.floats(-1, 1)))
def test_any_normalised_chunk_survives_up_to_rounding(chunk: np.ndarray) -> None:
    """Also those that look nothing like what the tokenizer was fitted on: its alphabet is complete."""
    ids = FITTED.encode(chunk)
    assert all(0 <= one < FITTED.vocabulary for one in ids)
    spectrum = np.around(fft.dct(chunk, axis=0, norm="ortho") * 10) / 10
    np.testing.assert_allclose(FITTED.decode(ids), fft.idct(spectrum, axis=0, norm="ortho"), atol=0.06)
    assert np.abs(FITTED.decode(ids) - chunk).max() <= 0.05 * HORIZON**0.5 + 1e-6


@settings(deadline=None, max_examples=100, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.integers(-3, 1200), max_size=40))
def test_arbitrary_answers_are_refused_or_mended_and_never_silent(ids: list[int]) -> None:
    actions, wrong = FITTED.mended(ids)
    assert actions.shape == (HORIZON, WIDTH)
    assert np.isfinite(actions).all()
    if not wrong:
        np.testing.assert_array_equal(FITTED.decode(ids), actions)
        return
    with pytest.raises(ContractError, match="repair=True"):
        FITTED.decode(ids)


def test_a_wrong_answer_says_what_is_wrong_and_keeps_what_is_there() -> None:
    steady = np.tile([0.5, -0.5, 0.2], (HORIZON, 1))
    ids = FITTED.encode(steady)
    long, short = [*ids, *ids], FITTED.tokenizer.encode(chr(16 - FITTED.least)).ids
    with pytest.raises(ContractError, match="60 coefficients where 10 x 3 were expected"):
        FITTED.decode(long)
    with pytest.raises(ContractError, match="1 coefficients where"):
        FITTED.decode(short)
    with pytest.raises(ContractError, match=f"1 ids outside 0 to {FITTED.vocabulary - 1}"):
        FITTED.decode([*ids, 99999])
    lenient = fit_fast(CHUNKS, UNIT, repair=True)
    with pytest.warns(UserWarning, match="60 coefficients where"):
        np.testing.assert_allclose(lenient.decode(long), FITTED.decode(ids))
    with pytest.warns(UserWarning, match="1 coefficients where"):
        mended = lenient.decode(short)
    np.testing.assert_allclose(mended, np.tile([1.6 / 10**0.5, 0, 0], (HORIZON, 1)), atol=1e-6)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_scale_is_a_finite_number_above_zero(scale: float) -> None:
    with pytest.raises(ContractError, match="finite scale above 0"):
        fit_fast(CHUNKS, UNIT, scale=scale)


def test_a_wide_alphabet_survives_its_folder(tmp_path: Path) -> None:
    wide = fit_fast(CHUNKS, UNIT, scale=2500.0, vocabulary=20_000)
    wide.save(tmp_path)
    assert set(wide.writable) <= set(load_fast(tmp_path, UNIT).writable)


def test_half_a_character_is_no_coefficient() -> None:
    """Wide alphabets take two bytes for a character; a model may answer one of them alone."""
    wide = fit_fast(CHUNKS, UNIT, scale=100.0)
    assert wide.writable[-1] - wide.least > 128
    half = wide.tokenizer.token_to_id("Ã")
    assert half is not None
    with pytest.raises(ContractError, match="1 characters that are no coefficients; 1 coefficients where"):
        wide.decode([half])


def test_a_folder_round_trips_and_opens_in_transformers(tmp_path: Path) -> None:
    FITTED.save(tmp_path)
    again = load_fast(tmp_path, UNIT)
    assert (again.horizon, again.width, again.scale, again.least) == (HORIZON, WIDTH, 10, FITTED.least)
    assert set(again.writable) >= set(FITTED.writable)
    for chunk in CHUNKS[:20]:
        assert again.encode(chunk) == FITTED.encode(chunk)
        np.testing.assert_array_equal(again.decode(FITTED.encode(chunk)), FITTED.decode(FITTED.encode(chunk)))
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = "".join(chr(one) for one in np.random.default_rng(0).integers(0, 60, 30))
    assert theirs(text)["input_ids"] == FITTED.tokenizer.encode(text).ids


def test_the_released_layout_gives_the_released_numbers(tmp_path: Path) -> None:
    tokenizer, least = released_fit(CHUNKS, 512)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"scale": 10, "vocab_size": 512, "min_token": least, "action_dim": None, "time_horizon": None}
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(ContractError, match="names no horizon and width"):
        load_fast(tmp_path, UNIT)
    ours = load_fast(tmp_path, UNIT, horizon=HORIZON, width=WIDTH)
    for chunk in CHUNKS[:20]:
        rounded = np.around(fft.dct(chunk.astype(np.float32).astype(float), axis=0, norm="ortho") * 10)
        text = "".join(map(chr, np.maximum(rounded.ravel() - least, 0).astype(int)))
        ids = tokenizer.encode(text).ids
        assert ours.encode(chunk) == ids
        np.testing.assert_allclose(ours.decode(ids), fft.idct(rounded / 10, axis=0, norm="ortho"), atol=1e-6)


def test_a_released_fit_writes_the_nearest_of_what_it_knows(tmp_path: Path) -> None:
    """The released code drops characters that its fit never saw: the chunk is then too short, and decodes to zeros."""
    level = np.tile([0.9, -0.9, 0.0], (HORIZON, 1))
    tokenizer, least = released_fit([level], 64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = {"scale": 10, "vocab_size": 64, "min_token": least, "action_dim": WIDTH, "time_horizon": HORIZON}
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    ours = load_fast(tmp_path, UNIT)
    assert len(ours.writable) < 2 * -least
    slope = np.linspace(-1, 1, HORIZON)[:, None] * np.ones(WIDTH)
    assert ours.decode(ours.encode(slope)).shape == (HORIZON, WIDTH)


def test_outliers_beyond_the_quantiles_survive() -> None:
    chunks = smooth(100)
    chunks[3] = chunks[3] * 4
    normalizer = quantile(np.concatenate(chunks))
    fast = fit_fast(chunks, normalizer)
    assert np.abs(fast.decode(fast.encode(chunks[3])) - chunks[3]).max() < 0.2


def test_what_cannot_be_fitted_or_encoded_is_refused() -> None:
    with pytest.raises(ContractError, match="all of one shape, got none"):
        fit_fast([], UNIT)
    with pytest.raises(ContractError, match="all of one shape, got"):
        fit_fast([CHUNKS[0], CHUNKS[0][:5]], UNIT)
    with pytest.raises(ContractError, match="does not fit a vocabulary of 16"):
        fit_fast(CHUNKS, UNIT, vocabulary=16)
    with pytest.raises(ContractError, match="lower the scale"):
        fit_fast(CHUNKS, UNIT, scale=1e5)
    with pytest.raises(ContractError, match=r"expected \(10, 3\), got \(9, 3\)"):
        FITTED.encode(CHUNKS[0][:9])
    with pytest.raises(ContractError, match="expected 3 components"):
        FITTED.encode(CHUNKS[0][:, :2])
    with pytest.raises(ContractError, match="not finite"):
        FITTED.encode(np.full((HORIZON, WIDTH), np.nan))
    with pytest.raises(ContractError, match="scale above 0"):
        FAST(normalizer=UNIT, tokenizer=None, horizon=1, width=1, scale=0.0, least=0, writable=(0,))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("processor_config.json", None, "expected processor_config.json and tokenizer.json"),
        ("processor_config.json", "{", "expected numbers such as 'scale'"),
        ("processor_config.json", "[]", "expected numbers such as 'scale'"),
        ("processor_config.json", '{"scale": 10}', "min_token"),
        ("processor_config.json", '{"scale": 10, "min_token": 0, "action_dim": "x"}', "expected numbers such as"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("tokenizer.json", None, "expected processor_config.json and tokenizer.json"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, name: str, text: str | None, said: str) -> None:
    FITTED.save(tmp_path)
    if text is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        load_fast(tmp_path, UNIT)
