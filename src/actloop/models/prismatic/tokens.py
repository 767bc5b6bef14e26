"""Tokenizers: of a Hugging Face folder, of a JSON text kept inside a checkpoint, or trained here for a small model.

folder (tokenizer.json | tokenizer.model) --from_folder-+
texts --train_tokens------------------------------------+--> TextTokens --to_json--> one line of a checkpoint
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from actloop.errors import CheckpointError, ContractError, MissingDependency

PAD, BEGIN, END = "<pad>", "<bos>", "<eos>"
BYTES = 256


class TextTokens:
    """`Tokens` over one of the `tokenizers` library.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        begin, end, pad: ids before a text, after an answer, and where there is nothing.
    """

    def __init__(self, tokenizer: Any, *, begin: int, end: int, pad: int) -> None:
        self._tokenizer = tokenizer
        self.begin, self._end, self.pad = begin, end, pad
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset({begin, end, pad} | {at for at, token in added.items() if token.special})
        self._size = int(tokenizer.get_vocab_size(with_added_tokens=True))
        if not all(0 <= at < self._size for at in (begin, end, pad)):
            raise ContractError("tokens", f"begin {begin}, end {end} and pad {pad} are not all below {self._size}")

    @property
    def size(self) -> int:
        return self._size

    @property
    def end(self) -> int:
        return self._end

    @property
    def special(self) -> frozenset[int]:
        return self._special

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        kept = [int(at) for at in ids if int(at) not in self._special]
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False)
        return text

    def token(self, at: int) -> str | None:
        """The piece of an id as the vocabulary spells it; None where it has none."""
        piece: str | None = self._tokenizer.id_to_token(at)
        return piece

    def id_of(self, piece: str) -> int | None:
        """The id of a piece as the vocabulary spells it."""
        found: int | None = self._tokenizer.token_to_id(piece)
        return found

    def to_json(self) -> str:
        """Everything, as one text."""
        held = json.loads(self._tokenizer.to_str())
        return json.dumps({"tokenizer": held, "begin": self.begin, "end": self.end, "pad": self.pad})

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `from_folder` reads them."""
        folder = Path(folder)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        named = {"bos_token": self.begin, "eos_token": self.end, "pad_token": self.pad}
        config = {kind: self.token(at) for kind, at in named.items()}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))

    @classmethod
    def from_json(cls, text: str) -> "TextTokens":
        """The inverse of `to_json`.

        Raises:
            CheckpointError: not such a text.
            MissingDependency: tokenizers is not installed.
        """
        library = _library()
        try:
            held = json.loads(text)
            ids = {name: int(held[name]) for name in ("begin", "end", "pad")}
            return cls(library.Tokenizer.from_str(json.dumps(held["tokenizer"])), **ids)
        except (ContractError, MissingDependency):
            raise
        except Exception as error:  # the library raises plain Exception for what it cannot read
            raise CheckpointError(f"tokenizer: not as we store one ({type(error).__name__}: {error})") from error

    @classmethod
    def from_folder(cls, folder: str | Path) -> "TextTokens":
        """Of a folder with `tokenizer.json`, or with a sentencepiece `tokenizer.model` alone.

        Ids of the begin, end and pad tokens are those that the folder names; padding is `end` where none is named.

        Raises:
            CheckpointError: neither file is there, it cannot be read, or it does not say which tokens begin and end.
            MissingDependency: tokenizers, or for a sentencepiece model sentencepiece, is not installed.
        """
        folder = Path(folder)
        tokenizer = _read(folder)
        named = {kind: _named(folder, f"{kind}_token") for kind in ("bos", "eos", "pad")}
        ids = {kind: None if piece is None else tokenizer.token_to_id(piece) for kind, piece in named.items()}
        for kind, guesses in (("bos", ("<s>", BEGIN)), ("eos", ("</s>", END))):
            known = (tokenizer.token_to_id(piece) for piece in guesses)
            ids[kind] = ids[kind] if ids[kind] is not None else next((at for at in known if at is not None), None)
        if ids["bos"] is None or ids["eos"] is None:
            raise CheckpointError(f"{folder}: names no tokens that begin and end a text (tokenizer_config.json)")
        pad = ids["eos"] if ids["pad"] is None else ids["pad"]
        return cls(tokenizer, begin=ids["bos"], end=ids["eos"], pad=pad)


def train_tokens(texts: Iterable[str], size: int, *, reserved: int = 256) -> TextTokens:
    """A byte-level BPE of exactly `size` tokens: three special ones, all bytes, merges, and reserved ones last.

    Any text can be encoded. The reserved ones, at least so many, are never the encoding of a text: actions may be
    written with them.

    Raises:
        ContractError: `size` has no room for the special tokens, the bytes and the reserved ones.
    """
    if reserved < 0 or size < 3 + BYTES + reserved:
        least = 3 + BYTES + reserved
        raise ContractError("size", f"expected {least} or more with {reserved} reserved tokens, got {size}")
    library = _library()
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size - reserved,
        special_tokens=[PAD, BEGIN, END],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    plain = json.loads(tokenizer.to_str())
    vocabulary = plain["model"]["vocab"]
    for at in range(len(vocabulary), size):
        vocabulary[f"<reserved{at}>"] = at  # no merge leads to it
    begin, end, pad = (vocabulary[piece] for piece in (BEGIN, END, PAD))
    return TextTokens(library.Tokenizer.from_str(json.dumps(plain)), begin=begin, end=end, pad=pad)


def _read(folder: Path) -> Any:
    """The folder's tokenizer, as one of the `tokenizers` library."""
    library = _library()
    try:
        if (folder / "tokenizer.json").is_file():
            return library.Tokenizer.from_file(str(folder / "tokenizer.json"))
        if (folder / "tokenizer.model").is_file():
            return _from_sentencepiece(folder / "tokenizer.model")
    except (CheckpointError, MissingDependency):
        raise
    except Exception as error:  # the library raises plain Exception for what it cannot read
        raise CheckpointError(f"{folder}: its tokenizer cannot be read ({type(error).__name__}: {error})") from error
    raise CheckpointError(f"{folder}: expected tokenizer.json or tokenizer.model")


def _from_sentencepiece(path: Path) -> Any:
    """A Llama-type model: merges in the order of the pieces' scores, bytes for what no piece has, a space in front."""
    try:
        pieces = import_module("sentencepiece").SentencePieceProcessor(str(path))
    except ModuleNotFoundError as error:
        why = f"{path} is one of its models"
        raise MissingDependency("package 'sentencepiece'", why, 'pip install "actloop[language]"') from error
    library = _library()
    ids = range(pieces.get_piece_size())
    vocabulary = {pieces.id_to_piece(at): at for at in ids}
    control = [at for at in ids if pieces.is_control(at) or pieces.is_unknown(at)]
    merged = {pieces.id_to_piece(at): pieces.get_score(at) for at in ids if not (at in control or pieces.is_byte(at))}
    if any(score != int(score) for score in merged.values()):
        raise CheckpointError(
            f"{path}: expected a byte-pair model, whose scores are ranks; this one is a unigram model"
        )
    pairs = [
        (-score, merged[piece[:cut]], merged[piece[cut:]], piece[:cut], piece[cut:])
        for piece, score in merged.items()
        for cut in range(1, len(piece))
        if piece[:cut] in merged and piece[cut:] in merged
    ]
    pairs.sort(key=lambda pair: (pair[0], -pair[1], -pair[2]))
    model = library.models.BPE(
        vocabulary,
        [(left, right) for *_, left, right in pairs],
        unk_token=pieces.id_to_piece(pieces.unk_id()),
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer, space = library.Tokenizer(model), "\u2581"
    normalizers, decoders = library.normalizers, library.decoders
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([pieces.id_to_piece(at) for at in control])
    return tokenizer


def _named(folder: Path, kind: str) -> str | None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).is_file():
            continue
        try:
            found: object = json.loads((folder / name).read_text()).get(kind)
        except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
            raise CheckpointError(f"{folder / name}: not a JSON object ({error})") from error
        if isinstance(found, Mapping):
            found = found.get("content")
        if found:
            return str(found)
    return None


def _library() -> Any:
    try:
        return import_module("tokenizers")
    except ModuleNotFoundError as error:
        why = "models that read text need it"
        raise MissingDependency("package 'tokenizers'", why, 'pip install "actloop[language]"') from error
