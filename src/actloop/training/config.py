"""What a training run is told: the recipe as data."""

from dataclasses import dataclass, field
from pathlib import Path

from actloop.actions.normalizers import METHODS
from actloop.errors import ContractError, UnknownNameError
from actloop.models.fastwam import FastWAMConfig
from actloop.training.recipe import Recipe

TRAINABLE = ("all", "frozen-video", "lora")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraRecipe:
    """Low-rank adapters (Hu et al. 2021) on the linear layers whose names end in `targets`.

    `keep_adapter`: the adapter is also written beside the policy, in peft's format; the policy has it merged in.
    """

    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = ("q", "k", "v", "o", "ffn.0", "ffn.2")
    keep_adapter: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not self.targets:
            raise ContractError("lora", f"expected rank and alpha of 1 or more, and targets; got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(Recipe):
    """One training run. The sizes that follow from the data (`latent_*`, `state_dim`, ...) are filled in from it.

    `validation_share`: episodes kept for the validation loss. `zero_padded_deltas`: delta parts of
    actions past an episode's end are 0, which is no movement, instead of repeating the last one.

    `trainable`: "all"; "frozen-video" (action expert and state encoder: no video loss is minimised, and where nothing
    waits for a future none is computed); "lora" (adapters; the small layers that a robot's dimensions go through are
    trained whole). Under `precision` "bf16" a bfloat16 copy is all there is of parameters that are not trained.
    `checkpointed`: less memory for a third more time.
    """

    model: FastWAMConfig
    validation_share: float = 0.03
    normalization: str = "mean_std"
    zero_padded_deltas: bool = False
    trainable: str = "all"
    lora: LoraRecipe = LoraRecipe()
    checkpointed: bool = False

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.normalization not in METHODS:
            raise UnknownNameError("normalization", self.normalization, METHODS)
        if self.trainable not in TRAINABLE:
            raise UnknownNameError("trainable", self.trainable, TRAINABLE)


def released(model: FastWAMConfig | None = None, *, steps: int = 20_000) -> TrainConfig:
    """The released recipe: LIBERO's, there on 8 GPUs (128 samples a step); the full network if none is given.

    RoboTwin differs by `normalization="mean_std"`, `zero_padded_deltas=False` and 30 000 steps on 64 GPUs. Weights,
    gradients and moments of all 6 B parameters take 96 GB (16 bytes each) before activations: shard them (loop.py), or
    train parts, which takes 12 GB for the frozen bfloat16 network and 16 bytes for each parameter that trains.
    """
    return TrainConfig(
        model=model or FastWAMConfig.full(),
        steps=steps,
        batch_size=16,
        learning_rate=1e-4,
        validation_share=0.01,
        validate_every=1000,
        normalization="min_max",
        zero_padded_deltas=True,
        precision="bf16",
        seed=42,
        threads=8,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run left behind: the checkpoint, the log beside it, and its last losses."""

    checkpoint: Path
    log: Path
    steps: int
    seconds: float
    losses: dict[str, float] = field(default_factory=dict)
