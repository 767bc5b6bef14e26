"""What every training run is told, whatever it trains."""

import math
from dataclasses import dataclass

from actloop.errors import ContractError, UnknownNameError

PRECISIONS = ("no", "bf16")
ELSEWHERE = ("threads", "accumulation", "checkpointed")  # do not change what is computed: a run may go on with others


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Steps, batches and the optimiser of one run (AdamW).

    `batch_size` is that of one process in one pass; an optimiser step takes `accumulation` passes of every process.
    `warmup` is a share of `steps`; the learning rate then falls along a cosine to `final_rate` of its peak.
    `precision` "bf16" runs the layers in bfloat16 over parameters kept in float32.
    """

    steps: int = 3000
    batch_size: int = 40
    accumulation: int = 1
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    warmup: float = 0.05
    final_rate: float = 0.01
    validate_every: int = 500
    precision: str = "no"
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UnknownNameError("precision", self.precision, PRECISIONS)
        for name in ("steps", "batch_size", "accumulation", "validate_every", "threads"):
            if getattr(self, name) < 1:
                raise ContractError(name, f"expected 1 or more, got {getattr(self, name)}")
        if self.seed < 0:
            raise ContractError("seed", f"expected 0 or more, got {self.seed}")

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: a line up from 1/warm-up steps, then a cosine down to `final_rate`."""
        warmup = max(1, round(self.warmup * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        along = (step - warmup) / max(1, self.steps - warmup)
        return self.final_rate + (1 - self.final_rate) * (1 + math.cos(math.pi * along)) / 2
