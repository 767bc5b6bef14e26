"""The real-time loop: clock, schedule, governor, budget, ladder, layers, episode, event log. No torch, no simulator."""

from actloop.loop.budget import Budget
from actloop.loop.clock import VirtualClock, WallClock
from actloop.loop.config import LoopConfig, derive_seed
from actloop.loop.controller import Controller
from actloop.loop.episode import run_episode
from actloop.loop.events import (
    Absorbed,
    EpisodeEnded,
    EpisodeStarted,
    Event,
    EventLog,
    Imagined,
    Refused,
    Replied,
    Requested,
    Stepped,
    Subscriber,
    Ticked,
    read_events,
)
from actloop.loop.feasibility import InfeasibleError, infeasibility
from actloop.loop.governor import Governor, Limits
from actloop.loop.inference import Charged, Inference, Live
from actloop.loop.joining import Join
from actloop.loop.ladder import LadderConfig
from actloop.loop.latency import (
    MEASURED,
    LatencyEstimate,
    LatencyProfile,
    measure,
    parse_latency,
    published_latencies,
)
from actloop.loop.layers import Actor
from actloop.loop.modules import CheckModule, ChooserModule, PolicyModule, Prompts, SemanticModule
from actloop.loop.places import Here, InThread
from actloop.loop.questions import Answer, Layer, Module, Place, Question, Result, Ticket
from actloop.loop.result import EpisodeResult
from actloop.loop.schedule import Command, Delivery, Residual, Schedule

__all__ = [
    "MEASURED",
    "Absorbed",
    "Actor",
    "Answer",
    "Budget",
    "Charged",
    "CheckModule",
    "ChooserModule",
    "Command",
    "Controller",
    "Delivery",
    "EpisodeEnded",
    "EpisodeResult",
    "EpisodeStarted",
    "Event",
    "EventLog",
    "Governor",
    "Here",
    "Imagined",
    "InThread",
    "InfeasibleError",
    "Inference",
    "Join",
    "LadderConfig",
    "LatencyEstimate",
    "LatencyProfile",
    "Layer",
    "Limits",
    "Live",
    "LoopConfig",
    "Module",
    "Place",
    "PolicyModule",
    "Prompts",
    "Question",
    "Refused",
    "Replied",
    "Requested",
    "Residual",
    "Result",
    "Schedule",
    "SemanticModule",
    "Stepped",
    "Subscriber",
    "Ticked",
    "Ticket",
    "VirtualClock",
    "WallClock",
    "derive_seed",
    "infeasibility",
    "measure",
    "parse_latency",
    "published_latencies",
    "read_events",
    "run_episode",
]
