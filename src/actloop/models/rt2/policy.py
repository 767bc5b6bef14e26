"""RT-2 (arXiv 2307.15818): any vision-language model as a policy, whose actions are words of its answers.

    pictures, "Q: what action should the robot take to {instruction}? A:" --model, valid digits alone--> action string
    pictures, "Instruction: {instruction} Plan:" --model--> "pick the red block. Action: 0 128 91 ..."
    pictures, any other prompt --model, full vocabulary--> text

Departures: several cameras, as several pictures or as one; chunks of several actions, one after the other (the paper:
one); where `states` says so, the robot's state as words of the prompt (state_words.py); a plan in force is continued,
its fixed actions being the only ones allowed. Decoding is greedy, as in the paper: it has no randomness, and does not
offer several samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from actloop.actions.bins import Bins
from actloop.actions.grippers import gripper_convention
from actloop.actions.tokens import RareTokens, TokenMap
from actloop.contracts import ActionChunk, Committed, Embodiment, Frame, Observation, Prediction
from actloop.errors import ContractError, UnknownNameError
from actloop.models.backbone import Allowed, LanguageBackbone
from actloop.models.rt2.backbones import backbone_at_rest, bins_to_dict
from actloop.models.rt2.plans import PlanThenAct, after
from actloop.models.rt2.strings import ActionString
from actloop.models.state_words import StateWords
from actloop.models.stored import PolicyInfo, Stored, digest
from actloop.models.views import Mosaic

Form = Literal["act", "plan"]
FORMS: tuple[Form, ...] = get_args(Form)

QUESTION = "Q: what action should the robot take to {instruction}?{state} A:"
PLANNED = "Instruction: {instruction}{state} Plan:"
STATE = " State: {words}"
MARKER = " Action: "
TERMINATE = "Terminate."


@dataclass(frozen=True, slots=True, kw_only=True)
class RT2Config:
    """How one RT-2 reads and writes.

    Attributes:
        horizon: actions in an answer; the paper's is 1.
        mapping: which tokens digits are (`strings.token_map`).
        terminates: whether each action begins with the slot that ends an episode.
        forms: what it was trained to answer: `act`, the action alone, or `plan`, words first; the first is its default.
        plan_tokens: up to how many tokens a plan may take.
        states: whether the prompt says the robot's state.
    """

    horizon: int = 1
    mapping: str = "integers"
    terminates: bool = True
    forms: tuple[str, ...] = ("act",)
    plan_tokens: int = 24
    states: bool = False

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.plan_tokens < 1:
            raise ContractError("rt2", f"expected 1 or more actions and tokens, got {self.horizon}, {self.plan_tokens}")
        for form in self.forms:
            if form not in FORMS:
                raise UnknownNameError("rt2.forms", form, FORMS)
        if not self.forms or len(set(self.forms)) != len(self.forms):
            raise ContractError("rt2.forms", f"expected each form once, got {self.forms}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RT2Session:
    """What the policy remembers of an episode: its instruction, its last plan, whether it last said that it is done."""

    instruction: str
    seed: int
    calls: int = 0
    plan: str = ""
    terminated: bool = False


class RT2Policy:
    """A vision-language model on one robot: a `Policy`, and a `VisionLanguageModel` still.

    When the model ends the episode at some action of a chunk, the chunk holds from there on (zero deltas, absolute
    parts at the target that the model gave); the session and `Prediction.text` say so. It is asked again all the same:
    the loop and its semantic layer decide what is over.

    Args:
        vlm: what reads and writes.
        bins: digits of actions in physical units, by the convention of the data.
        tokens: how digits are written (`token_map`).
        mosaic: makes one picture of the cameras; None shows each by itself, in the order of their names.
        gripper: convention of the data.
    """

    kind = "rt2"

    def __init__(
        self,
        *,
        vlm: LanguageBackbone,
        embodiment: Embodiment,
        config: RT2Config,
        bins: Bins,
        tokens: TokenMap,
        info: PolicyInfo,
        mosaic: Mosaic | None = None,
        gripper: str = "as-recorded",
    ) -> None:
        self.vlm, self.config, self.info, self.mosaic = vlm, config, info, mosaic
        self.gripper = gripper_convention(gripper)
        self.mode = config.forms[0]
        self.string = ActionString(
            bins=bins,
            tokens=tokens,
            size=embodiment.action.size,
            horizon=config.horizon,
            end=vlm.tokens.end,
            terminates=config.terminates,
        )
        self._embodiment = embodiment
        self._state_words = StateWords(embodiment.state) if config.states else None
        self._marker = vlm.tokens.encode(MARKER)
        self._network.eval()

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def horizon(self) -> int:
        return self.config.horizon

    @property
    def device(self) -> torch.device:
        return self.vlm.device

    def set_mode(self, mode: str) -> None:
        """How to answer: `act`, or `plan` first.

        Raises:
            UnknownNameError: it was not trained so.
        """
        if mode not in self.config.forms:
            raise UnknownNameError("mode", mode, self.config.forms)
        self.mode = mode

    def start(self, instruction: str, *, seed: int) -> RT2Session:
        """A session for one episode; any words will do.

        Raises:
            ContractError: there are none.
        """
        if not instruction.strip():
            raise ContractError("instruction", "expected words, got none")
        return RT2Session(instruction=instruction, seed=seed)

    def predict(
        self, session: RT2Session, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[RT2Session, Prediction]:
        """A chunk anchored to `obs`, and as text the plan and whether the episode ends; it never has a future.

        Raises:
            ContractError: the observation or `committed` is not of this body, or leaves nothing to decide.
        """
        self.embodiment.check(obs)
        given = np.zeros((0, self.string.size)) if committed is None else committed.actions[: committed.fixed]
        self.embodiment.action.check(np.asarray(given, np.float32), "committed.actions")
        allowed = self.string.allowed(self.gripper.to_data(given))
        prompt = self.prompt(session.instruction, self.mode, obs.state)
        plan, ids = self._said(self.pictures(obs.images), prompt, allowed)
        said = self.string.decode(ids)
        actions = self.gripper.to_body(said.actions).astype(np.float32)
        actions[: len(given)] = given
        if said.terminate.any():
            first = int(said.terminate.argmax())
            actions[first:] = self.embodiment.hold(obs, actions[first])
        chunk = ActionChunk(actions=actions, anchor=obs.tick, period=self.embodiment.period, observed_at=obs.time)
        over = bool(said.terminate.any())
        words = [f"Plan: {plan}"] * bool(plan) + [TERMINATE] * over
        after_this = replace(session, calls=session.calls + 1, plan=plan, terminated=over)
        return after_this, Prediction(chunk=chunk, text=" ".join(words))

    def generate(self, images: Sequence[Frame], prompt: str, *, max_tokens: int, seed: int) -> str:
        """The model's answer to any prompt, from its full vocabulary; greedy, so that the seed changes nothing."""
        (ids,) = self.vlm.answer([images], [prompt], max_tokens=max_tokens)
        return self.vlm.tokens.decode(ids).strip()

    def prompt(self, instruction: str, form: str, state: Float[np.ndarray, "state"]) -> str:
        """What the model is asked for an action."""
        words = instruction.strip().rstrip(".?!")
        said = "" if self._state_words is None else STATE.format(words=self._state_words(state))
        return (PLANNED if form == "plan" else QUESTION).format(instruction=words, state=said)

    def planned(self, plan: str) -> tuple[int, ...]:
        """Ids of a plan and of what stands between it and the action."""
        return (*self.vlm.tokens.encode(plan), *self._marker)

    def pictures(self, images: Mapping[str, Frame]) -> tuple[Frame, ...]:
        """What the model is shown: the cameras in the order of their names, as in any other question, or a mosaic."""
        if self.mosaic is not None:
            return (self.mosaic.compose({name: images[name] for name in self.mosaic.cameras}),)
        return tuple(images[name] for name in sorted(camera.name for camera in self.embodiment.cameras))

    def describe(self) -> dict[str, object]:
        """Identity for reports: mapping, size, training, tokens of an action, digest of the weights."""
        return {
            "name": self.info.name,
            "variant": self.kind,
            **({"mode": self.mode} if self.mode != self.config.forms[0] else {}),
            "mapping": self.config.mapping,
            "tokens_per_action": self.string.longest / self.horizon,
            "parameters": sum(parameter.numel() for parameter in self._network.parameters()),
            "embodiment": self.embodiment.name,
            "digest": self.digest(),
            "training": dict(self.info.training),
        }

    def digest(self) -> str:
        """Sixteen hex digits over every weight, and over how actions are written."""
        return digest([self._network], *self._facts().values())

    def stored(self, *, half: bool) -> Stored:
        """See models/stored.py; a Hugging Face model is kept by reference to its folder.

        Raises:
            CheckpointError: a backbone of a kind that cannot be stored, or one that is no longer as its folder says.
        """
        backbone = backbone_at_rest(self.vlm, half=half)
        return Stored(header={**self._facts(), "backbone": backbone.header}, tensors=backbone.tensors)

    def _facts(self) -> dict[str, object]:
        """What is kept beside the backbone."""
        string = self.string
        return {
            "config": asdict(self.config),
            "bins": bins_to_dict(string.bins),
            "tokens": list(string.tokens.tokens) if isinstance(string.tokens, RareTokens) else None,
            "mosaic": None if self.mosaic is None else self.mosaic.to_dict(),
            "gripper": self.gripper.name,
        }

    @property
    def _network(self) -> nn.Module:
        return cast(nn.Module, self.vlm)

    def _said(self, pictures: Sequence[Frame], prompt: str, action: Allowed) -> tuple[str, list[int]]:
        """The plan, where one is made, and the ids of the action."""
        longest = self.string.longest
        if self.mode == "act":
            (ids,) = self.vlm.answer([pictures], [prompt], max_tokens=longest, allowed=action)
            return "", ids
        limit = self.config.plan_tokens
        most = limit + len(self._marker) + longest
        free = PlanThenAct(action, marker=self._marker, limit=limit)
        (ids,) = self.vlm.answer([pictures], [prompt], max_tokens=most, allowed=free)
        plan, said = free.parts(ids)
        if said is None:  # the model ended its answer with the plan: it is asked to go on
            begun = [*plan, *self._marker]
            (ids,) = self.vlm.answer([pictures], [prompt], max_tokens=most, allowed=after(begun, action))
            said = ids[len(begun) :]
        return self.vlm.tokens.decode(plan).strip(), said
