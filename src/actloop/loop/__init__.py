"""The real-time loop: clock, schedule, inference, episode, event log. No torch, no simulator."""

from actloop.loop.clock import VirtualClock, WallClock
from actloop.loop.config import LoopConfig, derive_seed
from actloop.loop.episode import run_episode
from actloop.loop.events import (
    EpisodeEnded,
    EpisodeStarted,
    Event,
    EventLog,
    Imagined,
    Replied,
    Requested,
    Subscriber,
    Ticked,
    read_events,
)
from actloop.loop.inference import Inference, InlineInference, ThreadedInference
from actloop.loop.latency import (
    MEASURED,
    LatencyEstimate,
    LatencyProfile,
    measure,
    parse_latency,
    published_latencies,
)
from actloop.loop.result import EpisodeResult
from actloop.loop.schedule import Command, Delivery, InfeasibleError, Schedule, Ticket, infeasibility

__all__ = [
    "MEASURED",
    "Command",
    "Delivery",
    "EpisodeEnded",
    "EpisodeResult",
    "EpisodeStarted",
    "Event",
    "EventLog",
    "Imagined",
    "InfeasibleError",
    "Inference",
    "InlineInference",
    "LatencyEstimate",
    "LatencyProfile",
    "LoopConfig",
    "Replied",
    "Requested",
    "Schedule",
    "Subscriber",
    "ThreadedInference",
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
