"""Training an RT-2 (arXiv 2307.15818): demonstrations as questions with action strings for answers, beside others.

    demonstrations --RobotExamples--> "Q: what action ..." 0 128 91 ... --.
                                                                          |-- CoFineTuning, by share --> the loop
    questions about pictures -----------------------------> their answers-'

The paper's three regimes: from scratch (a network whose weights are random), fine-tuned (robot alone) and co-fine-tuned
(robot and questions in every batch, the robot's share 0.5 to 0.66), which keeps what the model knew.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from actloop.actions.bins import Bins, uniform_bins
from actloop.contracts import Embodiment, Space
from actloop.data.windows import Frames, Windows, WindowSpec
from actloop.errors import ContractError, DataError
from actloop.models.backbone import Example, LanguageBackbone
from actloop.models.checkpoint import save_policy
from actloop.models.huggingface import HuggingFaceVLM
from actloop.models.rt2 import RT2Config, RT2Policy, token_map
from actloop.models.stored import PolicyInfo
from actloop.models.views import Mosaic
from actloop.training.config import TrainResult
from actloop.training.language import ExampleSource, train_language
from actloop.training.loop import Progress
from actloop.training.recipe import Recipe

HELD_OUT = 32  # every so many-th episode is for validation
VALIDATION = 256  # its examples


@dataclass(frozen=True, slots=True, kw_only=True)
class RobotConfig:
    """How demonstrations become examples.

    Attributes:
        terminal_ticks: so many ticks at the end of an episode are told to end it.
        plan_share: of the examples of a policy that knows both forms, those with a plan; with one form all are of it.
    """

    terminal_ticks: int = 3
    plan_share: float = 0.5

    def __post_init__(self) -> None:
        if self.terminal_ticks < 0 or not 0 <= self.plan_share <= 1:
            raise ContractError("rt2", f"expected ticks from 0 on and a share of 0 to 1, got {self}")


def fresh_policy(
    vlm: LanguageBackbone,
    embodiment: Embodiment,
    config: RT2Config,
    *,
    name: str,
    bins: Bins | None = None,
    mosaic: Mosaic | None = None,
    counts: Sequence[int] = (),
) -> RT2Policy:
    """A policy that is to be trained: uniform bins between the limits of the body, unless others are given.

    `counts` says how often each id occurs in some text (`token_map`).

    Raises:
        UnknownNameError, ContractError: as `token_map` and `RT2Policy`.
    """
    bins = bins or uniform_bins(embodiment.action.low, embodiment.action.high)
    tokens = token_map(config.mapping, vlm.tokens, count=bins.count, counts=counts)
    info = PolicyInfo(name=name, training={})
    return RT2Policy(vlm=vlm, embodiment=embodiment, config=config, bins=bins, tokens=tokens, info=info, mosaic=mosaic)


class RobotExamples:
    """An `ExampleSource`: windows of demonstrations, as a policy is asked and as it is to answer."""

    def __init__(
        self,
        policy: RT2Policy,
        data: Frames,
        *,
        source: str,
        config: RobotConfig | None = None,
        plans: Sequence[str] = (),
    ) -> None:
        """`plans` says of every frame of the dataset what comes next, in words; the form `plan` needs it.

        Raises:
            DataError: no episodes.
            ContractError: data of another body or rate, or plans that are missing or of another number.
        """
        body = policy.embodiment
        if not data.episodes:
            raise DataError(f"{source}: has no episodes to train on")
        if abs(data.fps - body.control_hz) > 0.01 * body.control_hz:
            raise ContractError(
                f"{source}: fps", f"recorded at {data.fps:g} Hz; {body.name!r} acts at {body.control_hz}"
            )
        body.action.check(data.actions, f"{source}: action")
        if ("plan" in policy.config.forms or plans) and len(plans) != len(data.actions):
            raise ContractError(
                f"{source}: plans", f"expected one for each of {len(data.actions)} frames, got {len(plans)}"
            )
        self.config = config or RobotConfig()
        self._policy, self._data, self._plans = policy, data, plans
        spec = WindowSpec(frames=(0,), actions=policy.horizon)
        held_out = range(0, len(data.episodes), HELD_OUT) if len(data.episodes) >= HELD_OUT else range(0)
        self.train = Windows(data, spec, [index for index in range(len(data.episodes)) if index not in held_out])
        self.held_out = Windows(data, spec, held_out)
        self.source = f"{source}, {asdict(self.config)}, {asdict(policy.config)}"

    def draw(self, rng: np.random.Generator, count: int) -> list[Example]:
        return self._examples(self.train, self.train.draw(rng, count), rng)

    def validation(self) -> list[Example]:
        rng = np.random.default_rng(1)
        chosen = rng.permutation(len(self.held_out))[:VALIDATION]
        return self._examples(self.held_out, chosen, rng) if len(chosen) else []

    def _examples(self, windows: Windows, indices: np.ndarray, rng: np.random.Generator) -> list[Example]:
        batch, policy = windows.batch(indices), self._policy
        examples = []
        for row, (episode, tick) in enumerate(zip(batch.episodes, batch.ticks, strict=True)):
            info = self._data.episodes[episode]
            terminate = np.arange(tick, tick + policy.horizon) >= info.length - self.config.terminal_ticks
            held = held_past_end(batch.actions[row], batch.action_is_pad[row], policy.embodiment.action)
            actions = policy.gripper.to_data(held)
            answer = policy.string.encode(actions, terminate)
            form = self._form(rng)
            if form == "plan":
                answer = (*policy.planned(self._plans[info.start + tick]), *answer)
            pictures = policy.pictures({camera: frames[row, 0] for camera, frames in batch.images.items()})
            prompt = policy.prompt(info.instruction, form, batch.states[row, 0])
            examples.append(Example(images=pictures, prompt=prompt, answer=answer))
        return examples

    def _form(self, rng: np.random.Generator) -> str:
        forms = self._policy.config.forms
        if len(forms) == 1:
            return forms[0]
        return "plan" if rng.random() < self.config.plan_share else "act"


class CoFineTuning:
    """An `ExampleSource`: in every batch `robot_share` of robot examples, the rest questions.

    Where the share of a batch is no whole number, the rest is rounded up as often as it takes for the share to be
    exact over many batches.
    """

    def __init__(self, robot: ExampleSource, questions: ExampleSource, *, robot_share: float = 0.5) -> None:
        """Mix two sources.

        Raises:
            ContractError: a share outside 0 to 1.
        """
        if not 0 <= robot_share <= 1:
            raise ContractError("robot_share", f"expected 0 to 1, got {robot_share}")
        self.robot, self.questions, self.robot_share = robot, questions, robot_share
        self.source = f"{robot_share} of ({robot.source}) and ({questions.source})"

    def draw(self, rng: np.random.Generator, count: int) -> list[Example]:
        exact = self.robot_share * count
        robots = int(exact) + int(rng.random() < exact - int(exact))
        drawn = [*self.robot.draw(rng, robots)] if robots else []
        return drawn + ([*self.questions.draw(rng, count - robots)] if count > robots else [])

    def validation(self) -> list[Example]:
        return [*self.robot.validation(), *self.questions.validation()]


def train_rt2(
    policy: RT2Policy,
    source: ExampleSource,
    recipe: Recipe,
    out: str | Path,
    *,
    half: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a policy's backbone in place, and write the policy to `out`; `half`: in fp16.

    A Hugging Face backbone is written to a folder beside `out`, its name with the suffix `.backbone`.

    Raises:
        ContractError, DataError, CheckpointError, MissingDependency: as `train_language`.
    """

    def save(_: object, facts: dict[str, object]) -> None:
        if isinstance(policy.vlm, HuggingFaceVLM):  # is kept by reference, so that it needs a folder of its own
            policy.vlm.move(Path(out).with_suffix(".backbone"))
        policy.info = PolicyInfo(name=policy.info.name, training=facts)
        save_policy(policy, out, half=half)  # in place: the backbone itself was trained

    return train_language(policy.vlm, source, recipe, out, save=save, resume=resume, progress=progress)


def held_past_end(
    actions: Float[np.ndarray, "horizon action"], is_pad: Bool[np.ndarray, "horizon"], space: Space
) -> Float[np.ndarray, "horizon action"]:
    """Actions of which those past an episode's end hold: absolute parts repeat the last, the others are zero."""
    held = actions.copy()
    for part in space.parts:
        if part.kind != "absolute":
            held[is_pad, space.slice(part.name)] = 0.0
    return held
