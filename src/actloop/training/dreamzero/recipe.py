"""What a training run of DreamZero is told: the recipe as data."""

from dataclasses import dataclass, field, replace

from actloop.contracts import Embodiment
from actloop.errors import ContractError, UnknownNameError
from actloop.models.dreamzero import DreamZeroConfig, NoiseSchedule, SamplerConfig
from actloop.models.dreamzero.embodiments import PLACE, RobotDeclaration, declare
from actloop.models.dreamzero.objective import Averaging
from actloop.training.recipe import Recipe

TRAINABLE = ("all", "lora")
AVERAGINGS = ("real", "released")
SMALL_BLOCK = 8  # ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRankLayers:
    """Low-rank adapters on the layers of the blocks whose names end in `targets`; the defaults are the released ones.

    What a robot's states and actions go through trains whole. `keep`: the adapter is also written beside the policy.
    """

    rank: int = 4
    alpha: int = 4
    targets: tuple[str, ...] = ("q", "k", "v", "o", "ffn.0", "ffn.2")
    keep: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not self.targets:
            raise ContractError("lora", f"expected rank and alpha of 1 or more, and targets; got {self}")


def small_robot(body: Embodiment) -> RobotDeclaration:
    """A body with cameras of one size as small networks are shown it: blocks of eight ticks that end in a frame.

    Its name is in the prompt: all that tells the network whose video it sees.
    """
    return declare(body, block_actions=SMALL_BLOCK, frame_ticks=SMALL_BLOCK, template=f"{body.name} {PLACE}")


def small_sizes(**changes: object) -> DreamZeroConfig:
    """A network for 64-pixel cameras that learns on a CPU; what follows from the data is filled in from it."""
    base = DreamZeroConfig(
        layers=2,
        stem_channels=32,
        keypoints=16,
        predicts_change=True,
        action_dim=8,
        state_dim=8,
        window_blocks=3,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, kw_only=True)
class DreamZeroRecipe(Recipe):
    """One training run of DreamZero.

    `sizes`: of the network; latents, cameras, words and the geometry of blocks are filled in from data and declaration,
    while `state_dim` and `action_dim` are the room that robots share. `clip_blocks`: of a training clip at most.

    `acting_episodes`: how many are learned to act from, evenly spread over the data; 0: all but those held out.
    `video_rows`: rows of video alone in a batch, beside the `batch_size` rows that act, where such data are given.
    `schedule`: noise levels; for the last `flash_share` of the steps they are decoupled, the video's near noise.
    `action_weight`: of the action loss beside the video's, 1 as released; actions that spread little between -1 and 1
    make a small loss, which a small network attends to last. `sampler`: what the policy samples with. `averaging`: see
    `losses`. `checkpointed`: less memory for more time.
    `validation_share`: episodes kept for the validation losses.
    """

    sizes: DreamZeroConfig = field(default_factory=small_sizes)
    clip_blocks: int = 3
    acting_episodes: int = 0
    video_rows: int = 0
    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule(bell=False))
    action_weight: float = 4.0
    flash_share: float = 0.0
    flash_near_noise: float = 7.0
    sampler: SamplerConfig = field(default_factory=lambda: SamplerConfig(steps=4, guidance=1.0, solver="euler"))
    averaging: Averaging = "real"
    trainable: str = "all"
    lora: LowRankLayers = field(default_factory=LowRankLayers)
    checkpointed: bool = False
    validation_share: float = 0.03

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.trainable not in TRAINABLE:
            raise UnknownNameError("trainable", self.trainable, TRAINABLE)
        if self.averaging not in AVERAGINGS:
            raise UnknownNameError("averaging", self.averaging, AVERAGINGS)
        if self.clip_blocks < 1 or self.video_rows < 0 or self.acting_episodes < 0:
            got = f"{self.clip_blocks}, {self.video_rows} and {self.acting_episodes}"
            raise ContractError(
                "clip_blocks", f"expected 1 or more, and video_rows and acting_episodes of 0 or more; got {got}"
            )
        if not 0 <= self.flash_share <= 1 or self.flash_near_noise <= 0:
            got = f"{self.flash_share} and {self.flash_near_noise}"
            raise ContractError("flash_share", f"expected 0 to 1, and flash_near_noise above 0; got {got}")
        if self.action_weight <= 0:
            raise ContractError("action_weight", f"expected more than 0, got {self.action_weight}")
        if not 0 < self.validation_share < 1:
            raise ContractError(
                "validation_share", f"expected more than 0 and less than 1, got {self.validation_share}"
            )

    @property
    def flash(self) -> NoiseSchedule:
        """Of the last stage."""
        return replace(self.schedule, near_noise=self.flash_near_noise, decoupled=True)

    def schedule_at(self, step: int) -> NoiseSchedule:
        """Of a step, counted from 0."""
        return self.flash if step >= self.steps - round(self.flash_share * self.steps) else self.schedule


def released_recipe(sizes: DreamZeroConfig | None = None, *, trainable: str = "lora") -> DreamZeroRecipe:
    """The released fine-tuning, on a 14 B network if none is given: 5000 steps of LoRA as for AgiBot.

    Full training is released with a rate of 1e-5 and 200 000 steps; 100 000 of batch 128 made the published weights.
    """
    return DreamZeroRecipe(
        sizes=sizes or DreamZeroConfig.wan21_14b(),
        clip_blocks=4,
        schedule=NoiseSchedule(),
        action_weight=1.0,
        sampler=SamplerConfig.released(),
        averaging="released",
        trainable=trainable,
        steps=5000 if trainable == "lora" else 200_000,
        batch_size=1,
        learning_rate=1e-5,
        weight_decay=1e-5,
        betas=(0.95, 0.999),
        final_rate=0.0,
        validate_every=1000,
        precision="bf16",
        seed=42,
        checkpointed=True,
    )
