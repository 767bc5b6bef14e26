"""The thinking of each layer: a policy acts, a chooser looks ahead, checks compare, a language model interprets.

Question --PolicyModule | ChooserModule | CheckModule | SemanticModule--> Answer
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from actloop.checks.checker import Checker
from actloop.contracts import (
    Absorbing,
    ActionChunk,
    Committed,
    Embodiment,
    Future,
    Observation,
    Policy,
    Prediction,
    SamplingPolicy,
    VisionLanguageModel,
    WorldActionModel,
)
from actloop.errors import ContractError
from actloop.loop.questions import Answer, Question

OutcomeScore = Callable[[Observation, ActionChunk, Future | None, str], float]
"""`score(obs, chunk, future, instruction)`: how good it would be to execute this chunk, more is better."""


class PolicyModule:
    """Acts. A question with another instruction begins a new session."""

    def __init__(self, policy: Policy[Any]) -> None:
        self.policy = policy
        self._session: Any = None
        self._told: tuple[str, int] = ("", 0)

    def start(self, instruction: str, *, seed: int) -> None:
        self._session, self._told = self.policy.start(instruction, seed=seed), (instruction, seed)

    def answer(self, question: Question) -> Answer:
        self._listen(question.instruction)
        if question.ticket.is_frame:
            if isinstance(self.policy, Absorbing):
                self._session = self.policy.absorb(self._session, question.observation)
            return Answer()
        self._session, prediction = self.policy.predict(
            self._session, question.observation, committed=question.committed, imagine=question.imagine
        )
        return Answer(prediction=prediction)

    def _listen(self, instruction: str) -> None:
        if instruction != self._told[0]:
            self.start(instruction, seed=self._told[1])


class ChooserModule(PolicyModule):
    """Chooses the best of several chunks, as far as time allows: the best so far when it is up.

    Args:
        policy: gives the candidates.
        score: ranks what they lead to.
        imagines: of which the imagined future of each candidate goes into its score; None for scores without one.
        each: seconds that one candidate takes, where declared and not timed: what is considered then repeats exactly.
    """

    def __init__(
        self,
        policy: Policy[Any],
        score: OutcomeScore,
        *,
        imagines: WorldActionModel[Any] | None = None,
        each: float | None = None,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(policy)
        self._score = score
        self._imagines = imagines
        self._each = each
        self._timer = timer
        self._imagining: Any = None

    def start(self, instruction: str, *, seed: int) -> None:
        super().start(instruction, seed=seed)
        if self._imagines is not None:
            self._imagining = self._imagines.start(instruction, seed=seed)

    def answer(self, question: Question) -> Answer:
        begun = self._timer()
        self._listen(question.instruction)
        obs = question.observation
        chunks = self._candidates(obs, question.candidates, question.committed)
        ready = self._timer()
        best: Prediction | None = None
        values: list[float] = []
        while len(values) < question.candidates and self._affordable(len(values), begun, ready, question.patience):
            chunk = next(chunks, None)
            if chunk is None:
                break
            future = None
            if self._imagines is not None:
                future = self._imagines.imagine(self._imagining, obs, chunk)
            value = self._score(obs, chunk, future, question.instruction)
            if math.isnan(value):
                raise ContractError(f"candidate {len(values)}", "expected a number as its score, got NaN")
            if not values or value > max(values):
                best = Prediction(chunk=chunk, future=future)
            values.append(value)
        if not values:
            raise ContractError("candidates", "expected at least one chunk of the policy, got none")
        return Answer(prediction=best, considered=len(values), values=tuple(values))

    def _candidates(self, obs: Observation, count: int, committed: Committed | None) -> Iterator[ActionChunk]:
        """All at once where the policy can, else each when it is wanted."""
        if isinstance(self.policy, SamplingPolicy):
            self._session, chunks = self.policy.sample(self._session, obs, count=count, committed=committed)
            return iter(chunks)
        return (self._one(obs, committed) for _ in range(count))

    def _one(self, obs: Observation, committed: Committed | None) -> ActionChunk:
        self._session, prediction = self.policy.predict(self._session, obs, committed=committed)
        return prediction.chunk

    def _affordable(self, number: int, begun: float, ready: float, patience: float) -> bool:
        """Whether one more candidate after `number` of them will be done in time; the first always is."""
        if not number:
            return True
        if self._each is not None:
            return (number + 1) * self._each <= patience
        now = self._timer()
        return now - begun + (now - ready) / number <= patience


class CheckModule:
    """Compares what is seen with what was expected."""

    def __init__(self, checker: Checker, embodiment: Embodiment) -> None:
        self._checker = checker
        self._body = embodiment

    def start(self, instruction: str, *, seed: int) -> None:
        self._checker.begin(self._body, instruction, seed=seed)

    def answer(self, question: Question) -> Answer:
        if question.evidence is None:
            raise ContractError("question.evidence", "a check needs something to look at, got none")
        return Answer(readings=self._checker.look(question.evidence))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """What a language model is asked; `{instruction}` stands for the task's.

    `done` is answered with yes or no; empty prompts are not asked.
    """

    subtask: str = "The task: {instruction}. What should the robot do next?"
    done: str = "The task: {instruction}. Is it done? Answer yes or no."


class SemanticModule:
    """Interprets: which instruction the policy is to follow next, and whether the task is done.

    Args:
        known: what the policy understands; the answer that none of these equals, but for case and a full stop, is
            ignored. Empty for anything.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        *,
        prompts: Prompts | None = None,
        known: Sequence[str] = (),
        max_tokens: int = 48,
    ) -> None:
        self._model = model
        self._prompts = prompts or Prompts()
        self._known = {_plain(text): text for text in known}
        self._max_tokens = max_tokens
        self._task, self._seed, self._asked = "", 0, 0

    def start(self, instruction: str, *, seed: int) -> None:
        self._task, self._seed, self._asked = instruction, seed, 0

    def answer(self, question: Question) -> Answer:
        self._asked += 1
        done = self._ask(self._prompts.done, question.observation)
        text = self._ask(self._prompts.subtask, question.observation)
        if self._known:
            text = self._known.get(_plain(text), "")
        return Answer(text=text.strip(), done=_plain(done).startswith("yes") if done else None)

    def _ask(self, prompt: str, obs: Observation) -> str:
        if not prompt:
            return ""
        images = [obs.images[name] for name in sorted(obs.images)]
        words = prompt.format(instruction=self._task)
        return self._model.generate(images, words, max_tokens=self._max_tokens, seed=self._seed + self._asked)


def _plain(text: str) -> str:
    return " ".join(text.lower().strip().rstrip(".!").split())
