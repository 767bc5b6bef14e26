"""A model learns to see before it reads: linear heads answer every question about a picture at once.

    pictures --towers, projector--> patches --a look and a small head for each topic--> loss per picture

Through the language model alone a picture teaches a tower one answer a pass; here it teaches all of them, at a quarter
of the price. The heads are thrown away: what stays is that answers can be read off the patches by one attention.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from actloop.errors import DataError
from actloop.models.backbone import IGNORED
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.tensors import fingerprint
from actloop.training.loop import Loop, Progress, accelerator
from actloop.training.questions import QuestionStore
from actloop.training.recipe import Recipe

LEAST, MOST = 150, 64  # of a topic: answered questions it needs, different answers it may have
PARTS = ", "
VALIDATION_FRAMES, VALIDATION_BATCH = 512, 64

Pixels = Float[Tensor, "batch images channels height width"]
Answers = Int[Tensor, "batch topics"]
Values = Float[Tensor, "batch numbers"]
Seen = tuple[Pixels, Answers, Values]


class Topics:
    """Questions that have few answers, as classes: topics by name, and the answers of each, in order.

    Where all answers to a question have the same number of parts with commas between, each part is a topic. Where every
    answer is one of two words and a number (`left 4`, `right 12`), the topic is a number, negative behind the latter
    word in the alphabet: near misses then teach too, which no class does.
    """

    def __init__(self, store: QuestionStore) -> None:
        """Choose them from all questions of a store.

        Raises:
            DataError: it has none.
        """
        parts: dict[str, set[int]] = {}
        for question in store.questions:
            parts.setdefault(question.topic, set()).add(len(question.answer.split(PARTS)))
        said = [
            (question.frame, f"{question.topic} {part}" if part else question.topic, answer)
            for question in store.questions
            if len(parts[question.topic]) == 1
            for part, answer in enumerate(question.answer.split(PARTS))
        ]
        counts: dict[str, Counter[str]] = {}
        for _, topic, answer in said:
            counts.setdefault(topic, Counter())[answer] += 1
        known = {topic: sorted(answers) for topic, answers in sorted(counts.items()) if answers.total() >= LEAST}
        numbers = {topic: values for topic, answers in known.items() if (values := signed(answers))}
        self.numbers = tuple(numbers)
        self.answers = {t: a for t, a in known.items() if t not in numbers and 2 <= len(a) <= MOST}
        if not self.answers:
            raise DataError(f"{store.folder}: no question has {LEAST} answers of a few kinds; record more frames")
        self.labels = np.full((len(store.notes), len(self.answers)), IGNORED)
        """By frame and topic: which answer, or `IGNORED` where it was not asked."""
        self.values = np.full((len(store.notes), len(numbers)), np.nan, np.float32)
        """By frame and number: its value in mean magnitudes of its topic, or NaN."""
        columns = {topic: column for column, topic in enumerate(self.answers)}
        places = {topic: (column, _scale(counts[topic], numbers[topic])) for column, topic in enumerate(numbers)}
        classes = {topic: {answer: at for at, answer in enumerate(answers)} for topic, answers in self.answers.items()}
        for frame, topic, answer in said:
            if topic in columns:
                self.labels[frame, columns[topic]] = classes[topic][answer]
            elif topic in places:
                column, scale = places[topic]
                self.values[frame, column] = numbers[topic][answer] / scale


def signed(answers: Sequence[str]) -> dict[str, int]:
    """Each answer as a number, where every one is a word and an integer and there are two words; else nothing."""
    pairs = [answer.rpartition(" ") for answer in answers]
    words = sorted({word for word, _, _ in pairs})
    if len(words) != 2 or not all(word and number.isdecimal() for word, _, number in pairs):
        return {}
    return {
        answer: int(number) * (1 if word == words[0] else -1)
        for answer, (word, _, number) in zip(answers, pairs, strict=True)
    }


def _scale(counts: Counter[str], numbers: Mapping[str, int]) -> float:
    """Mean magnitude of a topic's numbers, at least 1."""
    total = sum(abs(numbers[answer]) * count for answer, count in counts.items())
    return max(1.0, total / counts.total())


class Sight(nn.Module):
    """The towers and the projector of a model, with a look and a small head for each topic."""

    def __init__(self, model: PrismaticVLM, topics: Topics) -> None:
        super().__init__()
        self._see: Callable[[Pixels], Tensor] = model.see
        self.vision_backbone, self.projector = model.vision_backbone, model.projector
        self.sizes = [len(answers) for answers in topics.answers.values()]
        width, numbers = model.config.language.hidden, len(topics.numbers)
        self.looks = nn.Parameter(torch.randn(len(self.sizes) + numbers, width) * width**-0.5)
        self.keys = nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in self.sizes)
        self.scales = nn.Parameter(torch.randn(numbers, width) * width**-0.5)

    def forward(self, pixels: Pixels, answers: Answers, values: Values) -> dict[str, Float[Tensor, "batch"]]:
        """Per picture: `loss`, mean cross-entropy over the topics that it says something about and mean L1 over its
        numbers; `wrong`, the share of those topics; `off`, that L1."""
        patches = self._see(pixels)
        looked = torch.einsum("td,bpd->btp", self.looks, self.keys(patches)).softmax(-1) @ patches
        looked = looked + self.think(looked)
        logits = [head(looked[:, place]) for place, head in enumerate(self.heads)]
        losses = torch.stack(
            [
                functional.cross_entropy(logit, answers[:, place], reduction="none", ignore_index=IGNORED)
                for place, logit in enumerate(logits)
            ],
            dim=1,
        )
        best = torch.stack([logit.argmax(1) for logit in logits], dim=1)
        known, given = answers != IGNORED, ~values.isnan()
        count = known.sum(1).clamp(min=1)
        numbers = torch.einsum("bnd,nd->bn", looked[:, len(logits) :], self.scales)
        off = ((numbers - values.nan_to_num()).abs() * given).sum(1) / given.sum(1).clamp(min=1)
        loss = losses.sum(1) / count + off
        return {"loss": loss, "wrong": ((best != answers) & known).sum(1) / count, "off": off.detach()}


class SeenBatches:
    """A `Batches` of the loop: pictures of a store, with the answers to all topics."""

    def __init__(self, model: PrismaticVLM, store: QuestionStore, topics: Topics, recipe: Recipe) -> None:
        self.source = f"{store.source}: {len(topics.answers)} topics and {len(topics.numbers)} numbers at once"
        self._model, self._store, self._topics, self._recipe = model, store, topics, recipe
        self._device = torch.device("cpu")
        out = np.array([store.is_held_out(frame) for frame in range(len(store.notes))])
        self._frames = np.flatnonzero(~out)
        held_out = np.random.default_rng(1).permutation(np.flatnonzero(out))[:VALIDATION_FRAMES]
        self._held_out = [held_out[at : at + VALIDATION_BATCH] for at in range(0, len(held_out), VALIDATION_BATCH)]

    @property
    def held_out(self) -> int:
        return len(self._held_out)

    def place(self, device: torch.device) -> None:
        self._device = device

    def training(self, step: int, micro: int) -> Seen:
        rng = np.random.default_rng((self._recipe.seed, step, micro))
        return self._seen(rng.choice(self._frames, self._recipe.batch_size))

    def validation(self, number: int) -> Seen:
        return self._seen(self._held_out[number])

    def _seen(self, frames: Sequence[int] | np.ndarray) -> Seen:
        pixels = self._model.images([self._store.images(int(frame)) for frame in frames]).to(self._device)
        labels, values = (torch.from_numpy(of[frames]) for of in (self._topics.labels, self._topics.values))
        return pixels, labels.to(self._device), values.to(self._device)


def learn_to_see(
    model: PrismaticVLM,
    store: QuestionStore,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Train the towers and the projector in place; returns the last validation losses.

    The log and the resumable state lie beside `out`. Runs on one process.

    Raises:
        DataError: the store's questions do not suffice.
        CheckpointError: `resume` without a state, or with one of another run.
    """
    topics = Topics(store)
    torch.manual_seed(recipe.seed)
    sight = Sight(model, topics)
    batches = SeenBatches(model, store, topics, recipe)
    origin = fingerprint(sight.state_dict())
    loop = Loop(sight, batches, recipe, Path(out), accelerator(recipe, unused=True), origin=origin)
    loop.begin(resume=resume)
    losses = loop.run(progress)
    loop.state.unlink(missing_ok=True)
    return losses
