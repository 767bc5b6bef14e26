"""FAST (2501.09747): a chunk as the rounded frequencies of its components, written with byte-pair encoding.

    chunk --normalise--> DCT over time --round(scale C)--> integers, lowest frequency first --> characters --> ids

Slow, smooth motion has few frequencies that are not 0, so that a chunk takes fewer tokens than one per component and
step; `scale` (the paper's gamma) sets how coarse they are rounded. Reads and writes the folder of
`physical-intelligence/fast`. Departures: horizon and width are given, not remembered from the last call; the alphabet
covers every coefficient of values within [-1, 1], where the released fit drops characters that it never saw; text is
not split at what looks like words; a failed decode is an error, where the released one answers zeros.
"""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from actloop.actions.representation import Chunk, Normalizes, checked
from actloop.errors import ContractError, DataError, MissingDependency

SCALE = 10.0
VOCABULARY = 1024  # of a tokenizer fitted to one robot; the released universal one has 2048
MOST = 0xD7FF  # the last character before those that no text may hold
CONFIG, TOKENIZER = "processor_config.json", "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class FAST:
    """One fitted tokenizer, for chunks of one shape.

    Attributes:
        tokenizer: a `tokenizers.Tokenizer`.
        least: the rounded coefficient that the character 0 stands for.
        writable: rounded coefficients that the tokenizer knows, rising; any other one is taken for the nearest.
        repair: what was answered wrongly is completed or cut, with a warning, instead of refused.
    """

    normalizer: Normalizes
    tokenizer: Any
    horizon: int
    width: int
    scale: float
    least: int
    writable: tuple[int, ...]
    repair: bool = False
    name: str = "FAST"

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.width < 1 or not 0 < self.scale < math.inf or not self.writable:
            given = f"horizon {self.horizon}, width {self.width}, scale {self.scale}"
            raise ContractError("fast", f"expected a chunk and a scale above 0, got {given}")

    @property
    def vocabulary(self) -> int:
        """Ids are 0 to `vocabulary` - 1."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, actions: Chunk) -> list[int]:
        """Token ids of one chunk.

        Raises:
            ContractError: a chunk of another shape, or not finite.
        """
        chunk = checked(actions, size=self.width)
        if chunk.shape != (self.horizon, self.width):
            raise ContractError("actions", f"expected ({self.horizon}, {self.width}), got {chunk.shape}")
        rounded = _nearest(_rounded(self.normalizer.normalize(chunk), self.scale), self.writable)
        ids: list[int] = self.tokenizer.encode(_text(rounded, self.least), add_special_tokens=False).ids
        return ids

    def decode(self, learned: Sequence[int]) -> Chunk:
        """Physical units, from token ids.

        Raises:
            ContractError: the ids write no chunk of this shape, unless `repair` is on.
        """
        actions, wrong = self.mended(learned)
        if wrong and not self.repair:
            raise ContractError("fast", f"{wrong}; decode with repair=True to complete or cut what there is")
        if wrong:
            warnings.warn(f"fast: {wrong}; repaired", stacklevel=2)
        return actions

    def mended(self, learned: Sequence[int]) -> tuple[Chunk, str]:
        """The chunk that the ids write, and what was wrong with them, empty where nothing was.

        Missing coefficients, those of the highest frequencies, are 0; surplus ones are cut; what is no coefficient at
        all is 0.
        """
        written, wrong = self._coefficients(learned)
        wanted = self.horizon * self.width
        if len(written) != wanted:
            wrong.append(f"{len(written)} coefficients where {self.horizon} x {self.width} were expected")
        coefficients = np.zeros(wanted)
        coefficients[: len(written)] = written[:wanted]
        spectrum = coefficients.reshape(self.horizon, self.width) / self.scale
        values = _scipy().idct(spectrum, axis=0, norm="ortho")
        return self.normalizer.denormalize(values), "; ".join(wrong)

    def size(self, learned: Sequence[int]) -> int:
        """Tokens."""
        return len(learned)

    def bits(self, learned: Sequence[int]) -> float:
        return len(learned) * math.log2(self.vocabulary)

    def save(self, folder: str | Path) -> None:
        """Write the layout of `physical-intelligence/fast`; the normaliser is not part of it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / TOKENIZER))
        config = {
            "action_dim": self.width,
            "min_token": self.least,
            "processor_class": "UniversalActionProcessor",
            "scale": self.scale,
            "time_horizon": self.horizon,
            "vocab_size": self.vocabulary,
        }
        ours = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        for name, plain in ((CONFIG, config), ("tokenizer_config.json", ours), ("special_tokens_map.json", {})):
            (folder / name).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")

    def _coefficients(self, learned: Sequence[int]) -> tuple[Int[np.ndarray, "written"], list[str]]:
        """What the ids write, whatever their number, and complaints about what is no coefficient."""
        ids = [int(one) for one in learned]
        known = [one for one in ids if 0 <= one < self.vocabulary]
        wrong = [] if len(known) == len(ids) else [f"{len(ids) - len(known)} ids outside 0 to {self.vocabulary - 1}"]
        text: str = self.tokenizer.decode(known, skip_special_tokens=False)
        written = np.array([ord(character) for character in text], dtype=np.int64) + self.least
        strange = ~np.isin(written, self.writable)
        if strange.any():
            wrong.append(f"{int(strange.sum())} characters that are no coefficients")
        return np.where(strange, 0, written), wrong


def fit_fast(
    chunks: Sequence[Chunk],
    normalizer: Normalizes,
    *,
    scale: float = SCALE,
    vocabulary: int = VOCABULARY,
    repair: bool = False,
) -> FAST:
    """A tokenizer for chunks like these, in physical units, all of one shape.

    Its alphabet holds every coefficient that normalised values within [-1, 1] can have, and all that are seen, so that
    nothing of that is clipped; the rest of the vocabulary are pairs that occur at least twice.

    Raises:
        ContractError: no chunks, different shapes, not finite, or an alphabet larger than the vocabulary.
        MissingDependency: `tokenizers` or `scipy` is not installed.
    """
    if not len(chunks) or len({chunk.shape for chunk in chunks}) != 1 or chunks[0].ndim != 2:
        shapes = sorted({chunk.shape for chunk in chunks})
        raise ContractError("chunks", f"expected (horizon, action), all of one shape, got {shapes or 'none'}")
    if not 0 < scale < math.inf:
        raise ContractError("fast", f"expected a finite scale above 0, got {scale}")
    horizon, width = chunks[0].shape
    rounded = [_rounded(normalizer.normalize(checked(chunk, "chunks")), scale) for chunk in chunks]
    reach = math.ceil(scale * math.sqrt(horizon))
    least = min(-reach, *(int(one.min()) for one in rounded))
    most = max(reach, *(int(one.max()) for one in rounded))
    if most - least > MOST:
        raise ContractError(
            "fast", f"coefficients from {least} to {most} do not fit characters; lower the scale {scale}"
        )
    tokenizer = _trained([_text(one, least) for one in rounded], most - least, vocabulary)
    return FAST(
        normalizer=normalizer,
        tokenizer=tokenizer,
        horizon=horizon,
        width=width,
        scale=scale,
        least=least,
        writable=tuple(range(least, most + 1)),
        repair=repair,
    )


def load_fast(
    folder: str | Path,
    normalizer: Normalizes,
    *,
    horizon: int | None = None,
    width: int | None = None,
    repair: bool = False,
) -> FAST:
    """What `FAST.save` wrote, or a folder laid out as `physical-intelligence/fast`.

    Horizon and width are those of the folder where they are not given; the released universal tokenizer names none.

    Raises:
        DataError: a file is missing or not readable.
        ContractError: neither the folder nor the caller says the shape of a chunk.
        MissingDependency: `tokenizers` is not installed.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        scale, least = float(config["scale"]), int(config["min_token"])
        horizon, width = horizon or _whole(config.get("time_horizon")), width or _whole(config.get("action_dim"))
        tokenizer = _tokenizers().Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{folder}: expected {CONFIG} and {TOKENIZER} ({error})") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder / CONFIG}: expected numbers such as 'scale' and 'min_token' ({error!r})") from error
    except Exception as error:  # tokenizers raises plain Exception for what it cannot parse
        raise DataError(f"{folder / TOKENIZER}: not a tokenizer ({error})") from error
    if horizon is None or width is None:
        raise ContractError("fast", f"{folder} names no horizon and width; give them")
    return FAST(
        normalizer=normalizer,
        tokenizer=tokenizer,
        horizon=horizon,
        width=width,
        scale=scale,
        least=least,
        writable=tuple(least + character for character in _writable(tokenizer)),
        repair=repair,
    )


def _whole(value: object) -> int | None:
    return None if value is None else int(str(value))


def _rounded(normalised: Float[np.ndarray, "horizon action"], scale: float) -> Int[np.ndarray, "horizon action"]:
    """Scaled, rounded coefficients of an orthonormal DCT-II over time; frequencies rise along the first axis."""
    spectrum = _scipy().dct(np.asarray(normalised, dtype=np.float64), axis=0, norm="ortho")
    rounded: Int[np.ndarray, "horizon action"] = np.around(spectrum * scale).astype(np.int64)
    return rounded


def _text(rounded: Int[np.ndarray, "horizon action"], least: int) -> str:
    """One character per coefficient, all components of the lowest frequency first."""
    return "".join(map(chr, (rounded - least).ravel().tolist()))


def _trained(texts: list[str], largest: int, vocabulary: int) -> Any:
    """Byte-pair encoding over whole chunks, with the bytes of every character up to `largest` in its alphabet."""
    library = _tokenizers()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    every = "".join(map(chr, range(largest + 1)))
    alphabet = sorted(set(tokenizer.pre_tokenizer.pre_tokenize_str(every)[0][0]))
    if len(alphabet) > vocabulary:
        raise ContractError("fast", f"an alphabet of {len(alphabet)} does not fit a vocabulary of {vocabulary}")
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        show_progress=False,
        special_tokens=[],
        initial_alphabet=alphabet,
        max_token_length=10000,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    return tokenizer


def _writable(tokenizer: Any) -> list[int]:
    """The characters that survive being encoded and decoded; of a released fit, not every one that it never saw.

    Raises:
        DataError: there is none.
    """
    characters = [chr(one) for one in range(MOST + 1)]
    written = [one.ids for one in tokenizer.encode_batch(characters, add_special_tokens=False)]
    read = tokenizer.decode_batch(written, skip_special_tokens=False)
    known = [index for index, (text, character) in enumerate(zip(read, characters, strict=True)) if text == character]
    if not known:
        raise DataError(f"{TOKENIZER}: not a tokenizer of action coefficients; it can write none")
    return known


def _nearest(values: Int[np.ndarray, "horizon action"], legal: Sequence[int]) -> Int[np.ndarray, "horizon action"]:
    """Each value, or the legal one that is nearest to it."""
    known = np.array(legal, dtype=np.int64)
    above = np.minimum(np.searchsorted(known, values), len(known) - 1)
    below = np.maximum(above - 1, 0)
    nearer: Int[np.ndarray, "horizon action"] = np.where(
        np.abs(values - known[below]) < np.abs(known[above] - values), known[below], known[above]
    )
    return nearer


def _scipy() -> Any:
    return _library("scipy.fft")


def _tokenizers() -> Any:
    return _library("tokenizers")


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise MissingDependency(f"package {package!r}", "FAST needs it", "pip install 'actloop[language]'") from error
