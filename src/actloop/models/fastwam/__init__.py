"""Fast-WAM: one core, its variants, the released weights."""

from actloop.models.fastwam.config import VARIANTS, ExpertConfig, FastWAMConfig, Variant
from actloop.models.fastwam.continuation import CONTINUATIONS, Continuation, Leftover, leftover
from actloop.models.fastwam.model import Draws, FastWAM, Prompt
from actloop.models.fastwam.sampling import Noise, Seen

__all__ = [
    "CONTINUATIONS",
    "VARIANTS",
    "Continuation",
    "Draws",
    "ExpertConfig",
    "FastWAM",
    "FastWAMConfig",
    "Leftover",
    "Noise",
    "Prompt",
    "Seen",
    "Variant",
    "leftover",
]
