"""Training OpenVLA and OpenVLA-OFT on a robot's demonstrations: all of the network, or low-rank adapters.

    Frames (a LeRobot cache, a standardised RLDS dataset) --windows--> pictures, prompt | digits, normalised chunk
        --loop.py--> trained tensors --merged--> OpenVLAPolicy, one file

It starts from released weights, from a language model trained on pictures, or from nothing.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from actloop.contracts import Embodiment
from actloop.data.windows import Frames, Windows, WindowSpec
from actloop.errors import ContractError, DataError, UnknownNameError
from actloop.models.checkpoint import save_policy
from actloop.models.openvla.adapters import LowRank, merge, put_adapters, save_adapter
from actloop.models.openvla.network import DIGITS, ActingVLM, ActionConfig, Head, Question, Target
from actloop.models.openvla.pictures import Pictures
from actloop.models.openvla.policy import Conventions, OpenVLAPolicy
from actloop.models.openvla.statistics import DatasetStatistics, compute
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.stored import PolicyInfo
from actloop.models.tensors import fill, fingerprint
from actloop.training.augmentation import Augmentation
from actloop.training.config import TrainResult
from actloop.training.loop import Loop, Progress, accelerator
from actloop.training.recipe import Recipe
from actloop.training.state import weights

TRAINABLE = ("all", "lora")
VALIDATION_SAMPLES, VALIDATION_BATCH = 512, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVLARecipe(Recipe):
    """One training run of OpenVLA.

    `horizon` actions are answered at once by `head`; `proprio`: parallel heads are shown the state; `template`, of a
    fresh policy, may say it in the prompt instead. `learned_slots`: see `ActionConfig`. `lora` adapters go on every
    linear layer but the output; heads of OFT train whole. `augmentation` changes pictures in training only, and needs a
    policy that is shown as much of them. `validation_share`: episodes kept for the validation losses, at least one
    unless it is 0.
    """

    head: Head = "tokens"
    horizon: int = 1
    proprio: bool = False
    template: str = "v1"
    learned_slots: bool = False
    trainable: str = "all"
    lora: LowRank = field(default_factory=LowRank)
    keep_adapter: bool = False
    augmentation: Augmentation | None = None
    validation_share: float = 0.03

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if not 0 <= self.validation_share < 1:
            raise ContractError("validation_share", f"expected a share from 0 to below 1, got {self.validation_share}")
        if self.trainable not in TRAINABLE:
            raise UnknownNameError("trainable", self.trainable, TRAINABLE)


def released_lora(*, head: Head = "tokens", horizon: int = 1, proprio: bool = False) -> OpenVLARecipe:
    """The released fine-tuning: rank 32, constant 5e-4, no weight decay, random crops and colours.

    OFT's is the same with `head="l1"`, `horizon=8` (LIBERO) and the state; there the rate falls tenfold late.
    """
    return OpenVLARecipe(
        head=head,
        horizon=horizon,
        proprio=proprio,
        trainable="lora",
        augmentation=Augmentation(),
        steps=50_000,
        batch_size=16,
        learning_rate=5e-4,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        warmup=0.0,
        final_rate=1.0,
        validate_every=1000,
        precision="bf16",
        threads=8,
    )


class ActionBatches:
    """Windows of demonstrations as questions and targets: a `Batches` of the loop.

    Raises:
        DataError: no episodes.
        ContractError: the dataset's rate, states or actions are not those of the robot, or not finite.
    """

    def __init__(self, data: Frames, policy: OpenVLAPolicy, recipe: OpenVLARecipe, *, source: str) -> None:
        if not data.episodes:
            raise DataError(f"{source}: has no episodes to train on")
        body = policy.embodiment
        if abs(data.fps - body.control_hz) > 0.01 * body.control_hz:
            reason = f"recorded at {data.fps:g} Hz; {body.name!r} acts at {body.control_hz:g} Hz"
            raise ContractError(f"{source}: fps", reason)
        body.state.check(data.states, f"{source}: state")
        body.action.check(data.actions, f"{source}: action")
        self._data, self._policy, self._recipe, self.source = data, policy, recipe, source
        spec, held_out = WindowSpec(frames=(0,), actions=recipe.horizon), held_out_episodes(data, recipe)
        self._train = Windows(data, spec, [i for i in range(len(data.episodes)) if i not in held_out])
        self._validation = Windows(data, spec, sorted(held_out))
        chosen = np.random.default_rng(1).permutation(len(self._validation))[:VALIDATION_SAMPLES]
        self._chunks = [chosen[at : at + VALIDATION_BATCH] for at in range(0, len(chosen), VALIDATION_BATCH)]
        self._device = torch.device("cpu")

    @property
    def held_out(self) -> int:
        return len(self._chunks)

    def place(self, device: torch.device) -> None:
        self._device = device

    def training(self, step: int, micro: int) -> tuple[Question, Target]:
        rng = np.random.default_rng((self._recipe.seed, step, micro))
        return self._batch(self._train, self._train.draw(rng, self._recipe.batch_size), rng)

    def validation(self, number: int) -> tuple[Question, Target]:
        """The same samples every time, their pictures as the policy shows them to the network."""
        return self._batch(self._validation, self._chunks[number], None)

    def _batch(
        self, windows: Windows, indices: Int[np.ndarray, "batch"], rng: np.random.Generator | None
    ) -> tuple[Question, Target]:
        at, policy, data = windows.places(indices), self._policy, self._data
        images = {name: data.images(name, at.frames[:, 0]) for name in policy.pictures.cameras}
        instructions = [data.episodes[index].instruction for index in at.episodes]
        asked = policy.question(self._pixels(images, rng), instructions, data.states[at.states[:, 0]])
        actions = policy.gripper.to_data(data.actions[at.actions])
        target = Target(
            actions=torch.from_numpy(policy.bins.normalizer.normalize(actions)),
            digits=torch.from_numpy(policy.bins.encode(actions)),
            is_pad=torch.from_numpy(at.action_is_pad),
        )
        return asked.to(self._device), target.to(self._device)

    def _pixels(self, images: Mapping[str, np.ndarray], rng: np.random.Generator | None) -> Tensor:
        """As the policy makes them, but for the random changes in place of the centre crop."""
        change = self._recipe.augmentation if rng is not None else None
        count = len(next(iter(images.values())))
        moments = ({name: frames[row] for name, frames in images.items()} for row in range(count))
        shown = [self._policy.pictures.show(moment, cut=change is None) for moment in moments]
        if change is not None and rng is not None:
            views = [change(np.stack(pictures), rng) for pictures in zip(*shown, strict=True)]
            shown = list(zip(*views, strict=True))
        return self._policy.model.vlm.images(shown)


def held_out_episodes(data: Frames, recipe: OpenVLARecipe) -> set[int]:
    """Episodes kept for the validation losses: the same whatever is trained."""
    episodes = len(data.episodes)
    some = recipe.validation_share > 0 and episodes > 1
    count = max(1, round(episodes * recipe.validation_share)) if some else 0
    return set(np.random.default_rng(0).permutation(episodes)[:count].tolist())


def fresh_policy(
    vlm: PrismaticVLM,
    data: Frames,
    recipe: OpenVLARecipe,
    *,
    embodiment: Embodiment,
    unnorm_key: str,
    statistics: DatasetStatistics | None = None,
    pictures: Pictures | None = None,
    gripper: str = "as-recorded",
) -> OpenVLAPolicy:
    """A policy to be trained, around a vision-language model: its last 256 tokens become action tokens.

    Statistics are those of `data` by default, the pictures every camera's own.

    Raises:
        ContractError: one of those tokens is a special one, or sizes do not fit.
    """
    size = vlm.tokens.size
    taken = sorted(vlm.tokens.special & set(range(size - DIGITS, size)))
    if taken:
        reason = f"id {taken[0]} among the last {DIGITS} of {size} is a special token; it cannot mean an action"
        raise ContractError("tokens", reason)
    known = statistics or compute(data.actions, data.states, trajectories=len(data.episodes), source=unnorm_key)
    config = ActionConfig(
        action_dim=embodiment.action.size,
        vocabulary=size,
        horizon=recipe.horizon,
        head=recipe.head,
        proprio_dim=embodiment.state.size if recipe.proprio else 0,
        learned_slots=recipe.learned_slots,
    )
    return OpenVLAPolicy(
        model=ActingVLM(vlm, config),
        embodiment=embodiment,
        statistics=known,
        conventions=Conventions(unnorm_key=unnorm_key, template=recipe.template, gripper=gripper),
        pictures=pictures or Pictures.one_each(embodiment),
        info=PolicyInfo(name="untrained", training={}),
    )


def train_openvla(
    policy: OpenVLAPolicy,
    data: Frames,
    recipe: OpenVLARecipe,
    *,
    out: str | Path,
    name: str,
    source: str,
    resume: bool = False,
    half: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a policy in place and write it to `out`; log (JSON lines) and resumable state lie beside it.

    `source` identifies the data: a run is resumed on the same only. With LoRA the adapters are merged in the end, and
    with `keep_adapter` also written beside `out`, as peft reads them.

    Raises:
        DataError, ContractError: the data do not fit the policy, or the recipe asks for other heads than it has.
        CheckpointError: `resume` without a state, or with one of another run.
        MissingDependency: accelerate, or peft for LoRA, is not installed.
    """
    _check(policy, recipe)
    out, begun = Path(out), time.perf_counter()
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    origin = fingerprint(policy.model.state_dict())
    batches = ActionBatches(data, policy, recipe, source=source)
    adapt(policy.model, recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    loop = Loop(policy.model, batches, recipe, out, accelerator(recipe), origin=origin)
    loop.begin(resume=resume)
    losses = loop.run(progress)
    seconds = loop.seconds + time.perf_counter() - begun
    tensors = weights(loop.model)
    if loop.is_main:
        facts: dict[str, object] = {"steps": recipe.steps, "seconds": round(seconds, 1), "data": source}
        facts |= {"episodes": len(data.episodes), "batch_size": recipe.batch_size * loop.micro_batches}
        facts |= {"learning_rate": recipe.learning_rate, "seed": recipe.seed, "trainable": recipe.trainable}
        facts |= {"init": origin, "torch": torch.__version__}
        facts |= {f"validation_{key}": value for key, value in losses.items()}
        policy.info = PolicyInfo(name=name, training=facts)
        policy.model = finished(policy.model, tensors, recipe, out)
        save_policy(policy, out, half=half)
        loop.state.unlink(missing_ok=True)
    loop.accelerator.wait_for_everyone()
    return TrainResult(checkpoint=out, log=loop.log, steps=recipe.steps, seconds=seconds, losses=losses)


def adapt(model: ActingVLM, recipe: OpenVLARecipe) -> None:
    """Choose what trains, in place: all that an answer goes through, or adapters on it and OFT's heads."""
    if recipe.trainable == "lora":
        put_adapters(model.vlm, recipe.lora)
    idle = idle_prefixes(model)
    for name, parameter in model.named_parameters():
        if name.startswith(idle):
            parameter.requires_grad_(False)
        elif recipe.precision == "bf16" and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)


def idle_prefixes(model: ActingVLM) -> tuple[str, ...]:
    """Of parameters that no answer goes through: a released tower's last block and what follows it, and under an L1
    head the output layer."""
    found = ["vlm.language_model.lm_head."] if model.config.head == "l1" else []
    for tower, config in zip(("featurizer", "fused_featurizer"), model.vlm.config.towers, strict=False):
        prefix = f"vlm.vision_backbone.{tower}."
        found += [f"{prefix}blocks.{at}." for at in range(config.computed, config.depth)]
        found += [f"{prefix}norm.", f"{prefix}attn_pool."]
    return tuple(found)


def finished(model: ActingVLM, tensors: Mapping[str, Tensor], recipe: OpenVLARecipe, out: Path) -> ActingVLM:
    """An ordinary network with the trained tensors; adapters are written where they are kept, and merged."""
    with torch.device("meta"):
        made = ActingVLM(PrismaticVLM(model.vlm.config), model.config)
        if recipe.trainable == "lora":
            put_adapters(made.vlm, recipe.lora)
    fill(made, tensors, "trained", dtype=torch.float32)
    made.vlm.tokens = model.vlm.tokens
    if recipe.trainable == "lora":
        if recipe.keep_adapter:
            save_adapter(made.vlm, recipe.lora, out.with_suffix(".adapter"))
        merge(made.vlm)
    return made.eval()


def _check(policy: OpenVLAPolicy, recipe: OpenVLARecipe) -> None:
    config = policy.model.config
    told = (recipe.head, recipe.horizon, recipe.proprio, recipe.learned_slots)
    has = (config.head, config.horizon, config.proprio_dim > 0, config.learned_slots)
    if told != has:
        reason = f"head, horizon, proprio, learned slots: the recipe says {told}, the policy has {has}"
        raise ContractError("recipe", reason)
    shown = policy.pictures.centre_crop
    if recipe.augmentation is not None and recipe.augmentation.crop_share != shown:
        reason = f"crops keep {recipe.augmentation.crop_share} of a picture, the policy will be shown {shown} of it"
        raise ContractError("augmentation", f"{reason}: give it Pictures(centre_crop=...) of the same share")
