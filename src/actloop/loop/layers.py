"""The layers of one run, asked together: the driver's side of the questions.

Layers --submit / poll--> one `Inference` per layer;  Memory --evidence--> what a check may look at
"""

import math
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from actloop.checks.evidence import Evidence, Overtaken
from actloop.contracts import Action, Embodiment, Observation, Prediction
from actloop.loop.inference import SLACK, Inference, Reply
from actloop.loop.latency import LatencyProfile
from actloop.loop.questions import LAYERS, Layer, Question, Ticket

PLANS: tuple[Layer, ...] = ("action", "foresight")
WARM_UP_TIMEOUT = 600.0  # seconds; compiling a large model takes minutes


@runtime_checkable
class Actor(Protocol):
    """What the loop has to know of a policy, wherever it runs."""

    @property
    def embodiment(self) -> Embodiment: ...

    @property
    def horizon(self) -> int:
        """Actions in a chunk."""
        ...


def absorb_every(actor: Actor) -> int:
    """Ticks between the frames that a policy is shown beside its questions; 0 where it takes none (`Absorbing`)."""
    return int(getattr(actor, "absorb_every", 0))


class Layers:
    """Asks each layer where it runs. `stall` says how many seconds later a plan asked for in a tick comes."""

    def __init__(self, inferences: Mapping[Layer, Inference], stall: Callable[[int], float] | None = None) -> None:
        self.inferences = {layer: inferences[layer] for layer in LAYERS if layer in inferences}
        self._stall = stall
        self._stalled: list[Reply] = []

    @property
    def declared(self) -> dict[Layer, LatencyProfile | None]:
        """What is charged for each, None where it is measured."""
        return {layer: inference.declared for layer, inference in self.inferences.items()}

    @property
    def superseded(self) -> int:
        """Questions that a newer one replaced before anybody had started on them."""
        return sum(inference.place.superseded for inference in self.inferences.values())

    def start(self, instruction: str, seeds: Mapping[Layer, int]) -> None:
        """Begin an episode in every layer."""
        self._stalled.clear()
        for layer, inference in self.inferences.items():
            inference.start(instruction, seed=seeds[layer])

    def submit(self, question: Question, now: float) -> None:
        self.inferences[question.ticket.layer].submit(question, now)

    def poll(self, now: float) -> list[Reply]:
        """Every reply that is due, layer by layer: checks are heard before the plan that they looked at is replaced."""
        order: tuple[Layer, ...] = ("check", "semantic", "foresight", "action")
        replies = [reply for layer in order if layer in self.inferences for reply in self.inferences[layer].poll(now)]
        return replies if self._stall is None else self._delayed(replies, self._stall, now)

    def _delayed(self, replies: list[Reply], stall: Callable[[int], float], now: float) -> list[Reply]:
        """Those of `replies` and of the ones kept back before that are due, plans after the others."""
        others = [reply for reply in replies if reply.ticket.layer not in PLANS]
        for reply in replies:
            if reply.ticket.layer in PLANS:
                late = stall(reply.ticket.tick)
                self._stalled.append(replace(reply, due=reply.due + late, latency=reply.latency + late))
        due = [reply for reply in self._stalled if reply.due <= now + SLACK]
        self._stalled = [reply for reply in self._stalled if reply.due > now + SLACK]
        return others + sorted(due, key=lambda reply: reply.due)

    def warm_up(self, observation: Observation, instruction: str, seeds: Mapping[Layer, int], times: int) -> None:
        """Ask every layer, and throw the answers away: no tick of the episode meets a cold start.

        Raises:
            Exception: what the layer raised.
        """
        prediction: Prediction | None = None
        for layer in ("action", "foresight", "semantic", "check"):
            if layer not in self.inferences or (layer == "check" and prediction is None):
                continue
            place = self.inferences[layer].place
            place.start(instruction, seed=seeds[layer])
            for _ in range(times):
                evidence = None
                if layer == "check" and prediction is not None:
                    evidence = _first_look(observation, prediction, instruction)
                ticket = Ticket(episode=-1, plan=-1, tick=observation.tick, layer=layer)
                place.submit(
                    Question(ticket=ticket, observation=observation, instruction=instruction, evidence=evidence)
                )
                for result in place.collect(WARM_UP_TIMEOUT):
                    if result.error is not None:
                        raise result.error
                    if result.answer is not None and result.answer.prediction is not None:
                        prediction = result.answer.prediction


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plan was asked for with, and when, on the loop's clock."""

    observation: Observation
    instruction: str
    at: float


@dataclass(slots=True)
class Memory:
    """What an episode has to remember so that a check can look back; the rest is forgotten, however long it lasts."""

    asked: dict[int, Asked] = field(default_factory=dict)  # by plan: the one in force, and those still welcome
    predictions: dict[int, Prediction] = field(default_factory=dict)
    sent: list[Action] = field(default_factory=list)  # from tick `begun` on
    begun: int = 0

    def ask(self, plan: int, asked: Asked, welcome: Container[int]) -> None:
        """A plan was asked for; `welcome` are those whose answers will still be taken."""
        self.asked = {
            number: kept for number, kept in self.asked.items() if number in self.predictions or number in welcome
        }
        self.asked[plan] = asked

    def accept(self, plan: int, prediction: Prediction, previous: int | None) -> None:
        """Keep the plan in force and the one before; forget older ones."""
        kept = {number: made for number, made in self.predictions.items() if number == previous}
        self.predictions = {**kept, plan: prediction}
        anchor = self.asked[plan].observation.tick
        del self.sent[: anchor - self.begun]
        self.begun = anchor

    def evidence(
        self, obs: Observation, plan: Ticket, progress: float, overtaken: tuple[Ticket, float] | None
    ) -> Evidence:
        """What is known about the plan in force, at the tick of `obs`."""
        before = None
        if overtaken is not None and overtaken[0].plan in self.predictions:
            before = Overtaken(prediction=self.predictions[overtaken[0].plan], offset=overtaken[1])
        asked, since = self.asked[plan.plan], self.sent[plan.tick - self.begun :]
        width = self.predictions[plan.plan].chunk.actions.shape[1]
        return Evidence(
            observation=obs,
            anchor=asked.observation,
            prediction=self.predictions[plan.plan],
            progress=progress,
            sent=np.stack(since) if since else np.zeros((0, width), np.float32),
            instruction=asked.instruction,
            overtaken=before,
        )


def _first_look(observation: Observation, prediction: Prediction, instruction: str) -> Evidence:
    return Evidence(
        observation=observation,
        anchor=observation,
        prediction=prediction,
        progress=0.0,
        sent=np.zeros((0, prediction.chunk.actions.shape[1]), np.float32),
        instruction=instruction,
    )


def patience(deadline: float, now: float) -> float:
    """Seconds from now to a deadline."""
    return math.inf if math.isinf(deadline) else max(deadline - now, 0.0)
