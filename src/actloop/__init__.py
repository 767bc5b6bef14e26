"""actloop runs, trains and judges models that act. `import actloop` is light: NumPy, no torch."""

from actloop.contracts import (
    ActionChunk,
    Camera,
    Embodiment,
    Future,
    Observation,
    Outcome,
    Part,
    Policy,
    Prediction,
    Space,
    Task,
    VisionLanguageModel,
    World,
    WorldActionModel,
)
from actloop.errors import ActloopError, ContractError

__version__ = "0.1.0"

__all__ = [
    "ActionChunk",
    "ActloopError",
    "Camera",
    "ContractError",
    "Embodiment",
    "Future",
    "Observation",
    "Outcome",
    "Part",
    "Policy",
    "Prediction",
    "Space",
    "Task",
    "VisionLanguageModel",
    "World",
    "WorldActionModel",
]
