"""How well a model answers: held-out questions by kind, beside the answer that is right most often.

exact      share of answers that are right to the letter
tokens     share of the right answer's tokens that stand at their place
majority   share of the kind's questions that its most frequent answer would have got right
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from actloop.models.backbone import LanguageBackbone
from actloop.training.questions import QuestionStore, StoredQuestion

BATCH = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Of the questions of one kind; shares from 0 to 1."""

    count: int
    exact: float
    tokens: float
    majority: float


def answer_accuracy(
    backbone: LanguageBackbone, store: QuestionStore, questions: Sequence[StoredQuestion], *, max_tokens: int = 24
) -> dict[str, Accuracy]:
    """Accuracy by kind, of greedy answers."""
    by_kind: dict[str, list[tuple[StoredQuestion, list[int]]]] = {}
    for question, said in zip(questions, answered(backbone, store, questions, max_tokens=max_tokens), strict=True):
        by_kind.setdefault(question.kind, []).append((question, said))
    return {kind: _accuracy(backbone, pairs) for kind, pairs in sorted(by_kind.items())}


@torch.no_grad()
def answered(
    backbone: LanguageBackbone, store: QuestionStore, questions: Sequence[StoredQuestion], *, max_tokens: int
) -> list[list[int]]:
    """The ids that a model answers each question with."""
    said: list[list[int]] = []
    for start in range(0, len(questions), BATCH):
        some = questions[start : start + BATCH]
        images = [store.images(question.frame) for question in some]
        said += backbone.answer(images, [question.question for question in some], max_tokens=max_tokens)
    return said


def mean_accuracy(accuracies: Mapping[str, Accuracy]) -> Accuracy:
    """Over kinds, each of the same weight."""
    kinds = list(accuracies.values())
    share = {
        name: sum(float(getattr(one, name)) for one in kinds) / max(len(kinds), 1)
        for name in ("exact", "tokens", "majority")
    }
    return Accuracy(count=sum(one.count for one in kinds), **share)


def accuracy_table(accuracies: Mapping[str, Accuracy]) -> str:
    """Markdown: a line for each kind, and one for their mean."""
    lines = ["| kind | questions | exact | tokens | majority |", "|---|---|---|---|---|"]
    for kind, one in [*accuracies.items(), ("mean of kinds", mean_accuracy(accuracies))]:
        lines.append(f"| {kind} | {one.count} | {one.exact:.1%} | {one.tokens:.1%} | {one.majority:.1%} |")
    return "\n".join(lines)


def _accuracy(backbone: LanguageBackbone, pairs: Sequence[tuple[StoredQuestion, list[int]]]) -> Accuracy:
    tokens = backbone.tokens
    exact = matched = wanted = 0
    for question, said in pairs:
        exact += tokens.decode(said).strip() == question.answer
        right = tokens.encode(question.answer)
        matched += sum(one == other for one, other in zip(right, said, strict=False))
        wanted += len(right)
    commonest = Counter(question.answer for question, _ in pairs).most_common(1)[0][1]
    return Accuracy(
        count=len(pairs), exact=exact / len(pairs), tokens=matched / wanted, majority=commonest / len(pairs)
    )
