"""Decisions in the form in which the log has them, to compare one with the other and to tell how they differ."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from actloop.loop.decisions import Ask, Refusal, Step

Record = Mapping[str, Any]


def rounds(records: Iterable[Record]) -> list[list[Record]]:
    """The records of a tick, split after every round of questions: an answer that takes no time follows them.

    Frames that were taken in behind a round, before any answer, go with it: they led to no questions.
    """
    rounds: list[list[Record]] = [[]]
    for record in records:
        asked = any(one["event"] == "requested" for one in rounds[-1])
        if asked and record["event"] not in ("requested", "absorbed"):
            rounds.append([])
        rounds[-1].append(record)
    return rounds


def of_ask(ask: Ask) -> Record:
    """The record of a question."""
    return {
        "event": "requested",
        "layer": ask.ticket.layer,
        "plan": ask.ticket.plan,
        "why": ask.why,
        "instruction": ask.instruction,
        "deadline": None if math.isinf(ask.deadline) else ask.deadline,
        "candidates": ask.candidates,
        "fixed": 0 if ask.committed is None else ask.committed.fixed,
    }


def of_refusal(refusal: Refusal) -> Record:
    """The record of a question that was not put, or a rung not taken."""
    return {"event": "refused", "layer": refusal.layer, "why": refusal.why, "instead": refusal.instead}


def of_step(step: Step) -> Record:
    """The record of a move on the ladder."""
    return {"event": "stepped", "rung": step.rung, "before": step.before, "cause": step.cause}


def vector(values: Sequence[float]) -> np.ndarray:
    """A vector of the log: float32, exactly as it was."""
    return np.array(values, dtype=np.float32)


def equal(ours: Any, theirs: Any) -> bool:
    """Whether a value is the one of the log, bit for bit."""
    if isinstance(ours, np.ndarray):
        return bool(np.array_equal(ours.astype(np.float32), vector(theirs)))
    return bool(ours == theirs)


def show(value: Any) -> str:
    """A value in a difference."""
    return str(value.tolist()) if isinstance(value, np.ndarray) else repr(value)


def words(record: Record) -> str:
    """A record, so that a person recognises it."""
    said: Mapping[str, Sequence[str]] = {
        "requested": ("layer", "plan", "why"),
        "replied": ("layer", "plan"),
        "refused": ("layer", "why"),
        "stepped": ("before", "rung", "cause"),
    }
    kind = "command" if record["event"] == "ticked" else record["event"]
    listed = ", ".join(f"{name} {record[name]}" for name in said.get(record["event"], ()))
    return f"{kind} ({listed})" if listed else kind
