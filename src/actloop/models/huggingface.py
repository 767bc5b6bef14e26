"""A Hugging Face vision-language model of a local folder: whatever `AutoModelForImageTextToText` reads.

    images, prompt --chat template, or image tokens before the prompt--> processor --> inputs --> transformers

One class for both sides: the `VisionLanguageModel` that the loop asks, and the `LanguageBackbone` that is trained and
that policies act through. Answers are decoded greedily by transformers' own `generate`, with its cache; what an answer
may be is kept by masking the logits before each choice.
"""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actloop.contracts import Frame
from actloop.errors import CheckpointError, ContractError, MissingDependency
from actloop.models.backbone import IGNORED, Allowed, Example, LanguageBatch
from actloop.models.tensors import fingerprint

ANCHOR = ":"  # what comes before a text that continues, so that no tokenizer takes it for a beginning
PROMPT_TYPE = "token_type_ids"  # of PaliGemma: 0 in the prompt, which sees all of itself; 1 in the answer, causal
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # nothing is downloaded, no code of a folder runs
STILL = {"SmolVLMProcessor": "Idefics3Processor"}  # the same pictures and template, without what only videos need


class HuggingFaceTokens:
    """The tokenizer of a folder, as `Tokens`."""

    def __init__(self, tokenizer: Any, *, end: int, more_special: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._end = end
        added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = frozenset({*tokenizer.all_special_ids, *added, *more_special, end})

    @property
    def size(self) -> int:
        return len(self._tokenizer)

    @property
    def end(self) -> int:
        return self._end

    @property
    def special(self) -> frozenset[int]:
        return self._special

    def encode(self, text: str) -> list[int]:
        before, whole = self._ids(ANCHOR), self._ids(ANCHOR + text)
        return whole[len(before) :] if whole[: len(before)] == before else self._ids(text)

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


class HuggingFaceVLM(nn.Module):
    """A `LanguageBackbone` and a `VisionLanguageModel`. Nothing is downloaded, no code that comes with weights is run.

    Args:
        folder: weights, configuration and processor, as `save_pretrained` writes them.
        device: `cpu`, `cuda`, ... On a CPU it computes in float32, elsewhere in the format of its weights.
        splitting: whether a picture is also shown in tiles, by families that can (Idefics3, SmolVLM): many times the
            tokens, for details that a robot's small pictures do not have.

    Raises:
        MissingDependency: transformers is not installed.
        CheckpointError: no such folder, or it does not hold such a model.
    """

    def __init__(self, folder: str | Path, *, device: str | torch.device = "cpu", splitting: bool = False) -> None:
        super().__init__()
        if not Path(folder).is_dir():
            raise CheckpointError(f"{folder}: no such folder; name one that holds a Hugging Face model")
        library = _library()
        dtype = "float32" if torch.device(device).type == "cpu" else "auto"
        try:
            self._processor = _processor(library, folder)
            model = library.AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, **LOCAL)
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
            reason = str(error).strip().partition("\n")[0]
            reason = f"not a vision-language model ({type(error).__name__}: {reason})"
            raise CheckpointError(f"{folder}: {reason}") from error
        self.folder = Path(folder)
        self.model: Any = model.to(device).eval()
        if hasattr(self._processor.image_processor, "do_image_splitting"):
            self._processor.image_processor.do_image_splitting = splitting
        self._splits = splitting
        self._ends = _ends(self.model, self._processor.tokenizer)
        # A folder's penalties, bans and beams would bend answers: what is not set in a call is taken from here.
        pad = self._processor.tokenizer.pad_token_id
        self.model.generation_config = library.GenerationConfig(eos_token_id=self._ends, pad_token_id=pad)
        pictures = [value for key, value in self.model.config.to_dict().items() if key.endswith("_token_id")]
        known = [value for value in pictures if isinstance(value, int)]
        self._read = fingerprint(self.model.state_dict())
        self._tokens = HuggingFaceTokens(self._processor.tokenizer, end=self._ends[0], more_special=known + self._ends)

    @property
    def tokens(self) -> HuggingFaceTokens:
        return self._tokens

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    @property
    def splits(self) -> bool:
        """Whether pictures are also shown in tiles, where the family can."""
        return self._splits

    def generate(self, images: Sequence[Frame], prompt: str, *, max_tokens: int, seed: int) -> str:
        """The answer, by greedy decoding: the seed changes nothing.

        Raises:
            ContractError: the model cannot be shown so many pictures, or such a prompt.
        """
        (ids,) = self.answer([images], [prompt], max_tokens=max_tokens)
        return self.tokens.decode(ids).strip()

    def collate(self, examples: Sequence[Example]) -> LanguageBatch:
        """Prompts in the model's template, each followed by its answer and the end, padded on the right.

        Raises:
            ContractError: the model cannot be shown so many pictures, or such prompts.
        """
        inputs = self._inputs([example.images for example in examples], [one.prompt for one in examples], "right")
        ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask").bool()
        answers = [torch.tensor([*example.answer, self.tokens.end]) for example in examples]
        filler = self._processor.tokenizer.pad_token_id
        labels = [torch.full((int(row.sum()),), IGNORED) for row in mask]
        along = {name: inputs.pop(name) for name in [*inputs] if inputs[name].shape == ids.shape}
        for name, values in along.items():
            inputs[name] = _followed(values, mask, [torch.full_like(a, name == PROMPT_TYPE) for a in answers], 0)
        return LanguageBatch(
            ids=_followed(ids, mask, answers, filler),
            mask=_followed(mask.long(), mask, [torch.ones_like(answer) for answer in answers], 0).bool(),
            labels=_padded([torch.cat(row) for row in zip(labels, answers, strict=True)], IGNORED),
            pictures=inputs,
        )

    def forward(self, batch: LanguageBatch) -> Float[Tensor, "batch"]:
        """Mean cross-entropy over the labelled tokens of each row."""
        labelled = batch.labels != IGNORED
        first = int(labelled.any(0).long().argmax())
        tail = batch.ids.shape[1] - first + 1  # the logits before the first label on, and no more of them
        logits = self.model(
            input_ids=batch.ids, attention_mask=batch.mask.long(), logits_to_keep=tail, use_cache=False,
            **self._cast(batch.pictures),
        ).logits[:, :-1]  # fmt: skip
        labels = batch.labels[:, first:]
        each = functional.cross_entropy(logits.float().transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        loss: Tensor = each.sum(1) / labelled.sum(1).clamp(min=1)
        return loss

    @torch.no_grad()
    def answer(
        self,
        images: Sequence[Sequence[Frame]],
        prompts: Sequence[str],
        *,
        max_tokens: int,
        allowed: Allowed | None = None,
    ) -> list[list[int]]:
        """The most likely ids after each prompt, of those allowed; nothing allowed ends the answer.

        Raises:
            ContractError: the model cannot be shown so many pictures, or such prompts.
        """
        inputs = {name: tensor.to(self.device) for name, tensor in self._inputs(images, prompts, "left").items()}
        begin = inputs["input_ids"].shape[1]
        only = [] if allowed is None else [_Only(allowed, begin, self._ends)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about sampling settings, which greedy decoding ignores
            said = self.model.generate(
                **self._cast(inputs), max_new_tokens=max_tokens, do_sample=False, logits_processor=only
            )
        return [self._until_end(row) for row in said[:, begin:].tolist()]

    def move(self, folder: str | Path) -> None:
        """Write it to a folder as it is now, and be the model of that folder from here on."""
        self.save(folder)
        self.folder, self._read = Path(folder), fingerprint(self.model.state_dict())

    def save(self, folder: str | Path) -> None:
        """Write weights, configuration and processor, as this class and transformers read them.

        Of a processor without its part for videos, tokenizer and pictures are written in their own files.
        """
        self.model.save_pretrained(folder)
        for part in (self._processor.tokenizer, self._processor.image_processor):
            part.save_pretrained(folder)
        for name in ("processor_config.json", "chat_template.jinja"):
            if (self.folder / name).is_file() and not (Path(folder) / name).exists():
                (Path(folder) / name).write_bytes((self.folder / name).read_bytes())

    def check_as_read(self) -> None:
        """Raise CheckpointError where the weights are no longer those of the folder: they were trained since."""
        if fingerprint(self.model.state_dict()) != self._read:
            raise CheckpointError(f"{self.folder}: the weights were trained since they were read; `save` them first")

    def digest(self) -> str:
        """Sixteen hex digits over the files of the folder, by name and content, and over how pictures are shown."""
        sha = hashlib.sha256(repr(self._splits).encode())
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                sha.update(path.relative_to(self.folder).as_posix().encode())
                with path.open("rb") as file:
                    sha.update(hashlib.file_digest(file, "sha256").digest())
        return sha.hexdigest()[:16]

    def _inputs(self, images: Sequence[Sequence[Frame]], prompts: Sequence[str], padded: str) -> dict[str, Tensor]:
        """What the processor makes of prompts, on the CPU."""
        pillow = import_module("PIL.Image")
        pictures = [[pillow.fromarray(image) for image in row] for row in images]
        shown = pictures if any(pictures) else None
        try:
            asked = [self._asked(len(row), prompt) for row, prompt in zip(images, prompts, strict=True)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # PaliGemma's processor, about NumPy
                made = self._processor(text=asked, images=shown, return_tensors="pt", padding=True, padding_side=padded)
        except (ValueError, IndexError, TypeError) as error:
            counts = sorted({len(row) for row in images})
            reason = f"cannot be asked {prompts[0]!r} about {' or '.join(map(str, counts))} pictures ({error})"
            raise ContractError("language model", reason) from error
        return {name: tensor for name, tensor in made.items() if name != "labels"}

    def _asked(self, pictures: int, prompt: str) -> str:
        """The prompt in the form that the model was trained on."""
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image"}] * pictures + [{"type": "text", "text": prompt}]
            asked: str = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            return asked
        token = getattr(self._processor, "image_token", "")
        return str(token) * pictures + prompt

    def _cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Floating-point ones in the format of the weights."""
        return {k: t.to(self.model.dtype) if t.is_floating_point() else t for k, t in tensors.items()}

    def _until_end(self, ids: list[int]) -> list[int]:
        ends = [ids.index(end) for end in self._ends if end in ids]
        return ids[: min(ends)] if ends else ids


class _Only:
    """Before each choice of `generate`, masks the logits of what may not follow; ended rows are left alone."""

    def __init__(self, allowed: Allowed, begin: int, ends: Sequence[int]) -> None:
        self._allowed, self._begin, self._ends = allowed, begin, ends

    def __call__(
        self, ids: Int[Tensor, "batch tokens"], scores: Float[Tensor, "batch vocabulary"]
    ) -> Float[Tensor, "batch vocabulary"]:
        for number, row in enumerate(ids[:, self._begin :].tolist()):
            following = None if any(end in row for end in self._ends) else self._allowed(row)
            if following is not None:
                kept = torch.tensor(list(following) or self._ends[:1], device=scores.device)
                masked = torch.full_like(scores[number], -torch.inf)
                scores[number] = masked.scatter(0, kept, scores[number, kept])
        return scores


def _library() -> Any:
    try:
        return import_module("transformers")
    except ModuleNotFoundError as error:
        why, mend = "vision-language models need it", "pip install 'actloop[language]'"
        raise MissingDependency("package 'transformers'", why, mend) from error


def _processor(library: Any, folder: str | Path) -> Any:
    """The processor of a folder; where its part for videos cannot be made here (it needs torchvision), without it."""
    try:
        return library.AutoProcessor.from_pretrained(folder, **LOCAL)
    except ImportError:
        config = library.AutoConfig.from_pretrained(folder, **LOCAL)
        whole = import_module("transformers.models.auto.processing_auto").PROCESSOR_MAPPING[type(config)]
        base = getattr(library, STILL.get(whole.__name__, whole.__name__))
    still = type(base.__name__, (base,), {"get_attributes": classmethod(_without_video)})
    facts, _ = base.get_processor_dict(folder, local_files_only=True)
    taken = {name: facts[name] for name in ("chat_template", "image_seq_len") if name in facts}
    return still(
        image_processor=library.AutoImageProcessor.from_pretrained(folder, **LOCAL),
        tokenizer=library.AutoTokenizer.from_pretrained(folder, **LOCAL),
        **taken,
    )


def _without_video(kind: Any) -> list[str]:
    return [name for name in super(kind, kind).get_attributes() if "video" not in name]


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer; the tokenizer's own first, where the model ends with it."""
    named = model.generation_config.eos_token_id
    ends = [named] if isinstance(named, int) else list(named or ())
    own = tokenizer.eos_token_id
    if own is not None and (own in ends or not ends):
        ends = [own, *(end for end in ends if end != own)]
    if not ends:
        raise ValueError("neither the tokenizer nor the configuration says which token ends an answer")
    return ends


def _followed(
    values: Int[Tensor, "batch tokens"], mask: Tensor, answers: Sequence[Tensor], filler: int
) -> Int[Tensor, "batch longer"]:
    """Each row without its padding, followed by its answer."""
    rows = [torch.cat([row[kept], answer]) for row, kept, answer in zip(values, mask, answers, strict=True)]
    return _padded(rows, filler)


def _padded(rows: Sequence[Tensor], filler: int) -> Int[Tensor, "batch longest"]:
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=filler)
