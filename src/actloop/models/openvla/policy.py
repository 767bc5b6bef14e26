"""OpenVLA on one robot: everything that carries the network to physical units and back, and its file.

Observation --pictures, prompt, normalised state--> Question --ActingVLM--> digits | numbers
            --bins, un-normalised, gripper--> ActionChunk
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from actloop.actions.bins import CentreBins, centre_bins
from actloop.actions.grippers import gripper_convention
from actloop.actions.normalizers import MaskedNormalizer
from actloop.contracts import ActionChunk, Committed, Embodiment, Observation, Prediction, embodiment_from_dict
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.openvla.network import ActingVLM, Question, action_config
from actloop.models.openvla.pictures import Pictures
from actloop.models.openvla.prompts import STATED, TEMPLATES, prompt_ids
from actloop.models.openvla.statistics import DatasetStatistics, statistics_from_dict
from actloop.models.prismatic.config import PrismaticConfig
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.prismatic.tokens import TextTokens
from actloop.models.state_words import StateWords
from actloop.models.stored import PolicyInfo, Stored, digest
from actloop.models.tensors import fill

KIND = "openvla"

BATCHED = 128  # tokens that prompts of a batch are padded to: how long a row is must not depend on its neighbours


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenVLASession:
    """What the policy remembers of one episode: its instruction, and how often it was asked."""

    instruction: str
    calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Conventions:
    """What a policy was trained to be told and to answer.

    Attributes:
        unnorm_key: the dataset in whose scale it answers.
        bounds: which statistics become -1 and 1, `quantile` or `min-max`.
        gripper: the convention of the data (actions/grippers.py).
        constrained: only action tokens can be answered; otherwise what is none is clipped, as the released code does.
    """

    unnorm_key: str
    template: str = "v1"
    bounds: str = "quantile"
    gripper: str = "as-recorded"
    constrained: bool = True

    def __post_init__(self) -> None:
        if self.template not in TEMPLATES:
            raise UnknownNameError("template", self.template, TEMPLATES)


class OpenVLAPolicy:
    """A `Policy`. Decoding is greedy: the seed changes nothing.

    Raises:
        ContractError: statistics, robot and network are not of the same sizes, or a picture shows no camera of it.
    """

    kind = KIND

    def __init__(
        self,
        *,
        model: ActingVLM,
        embodiment: Embodiment,
        statistics: DatasetStatistics,
        conventions: Conventions,
        pictures: Pictures,
        info: PolicyInfo,
    ) -> None:
        self.model = model.eval()
        self.statistics, self.conventions, self.pictures, self.info = statistics, conventions, pictures, info
        self.gripper = gripper_convention(conventions.gripper)
        self._embodiment = embodiment
        self._check_sizes()
        self.bins: CentreBins = centre_bins(statistics.action.normalizer(conventions.bounds))
        self._state_words = StateWords(embodiment.state) if conventions.template in STATED else None
        self.proprio: MaskedNormalizer | None = None
        if model.config.proprio_dim and statistics.proprio is not None:
            self.proprio = statistics.proprio.normalizer(conventions.bounds)

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def horizon(self) -> int:
        return self.model.config.horizon

    @property
    def device(self) -> torch.device:
        return self.model.device

    def set_mode(self, mode: str) -> None:
        """Raises:
        UnknownNameError: always; it acts in one way.
        """
        raise UnknownNameError("mode", mode, ())

    def start(self, instruction: str, *, seed: int) -> OpenVLASession:
        """A session for one episode; any instruction can be asked."""
        return OpenVLASession(instruction=instruction)

    def predict(
        self,
        session: OpenVLASession,
        obs: Observation,
        *,
        committed: Committed | None = None,
        imagine: bool = False,
    ) -> tuple[OpenVLASession, Prediction]:
        """A chunk anchored to `obs`. What is fixed of `committed` begins it; a head that answers token by token
        continues from there, a parallel one does not know of it.

        Raises:
            ContractError: the observation or `committed` is not of this body, or leaves nothing to decide.
        """
        given = self._given(committed)
        chunk = self._chunk(self._decide([session], [obs], given)[0], obs, given)
        return replace(session, calls=session.calls + 1), Prediction(chunk=chunk)

    def predict_batch(
        self, sessions: Sequence[OpenVLASession], observations: Sequence[Observation], *, imagine: bool = False
    ) -> list[tuple[OpenVLASession, Prediction]]:
        """As `predict`, for several robots in one pass; each is answered as if it were alone.

        Raises:
            ContractError: not one observation for each session, none, or one that is not of this body.
        """
        if len(sessions) != len(observations) or not sessions:
            raise ContractError("batch", f"{len(sessions)} sessions and {len(observations)} observations")
        decided = self._decide(sessions, observations, None, multiple=BATCHED)
        pairs = zip(sessions, decided, observations, strict=True)
        return [
            (replace(session, calls=session.calls + 1), Prediction(chunk=self._chunk(actions, obs, None)))
            for session, actions, obs in pairs
        ]

    def ask(self, instructions: Sequence[str], observations: Sequence[Observation], *, multiple: int = 1) -> Question:
        """What the network is asked about these moments, on its device; prompts are padded to a multiple of tokens.

        Raises:
            ContractError: an observation is not of this body.
        """
        for obs in observations:
            self.embodiment.check(obs)
        shown = [self.pictures.show({name: obs.images[name] for name in self.pictures.cameras}) for obs in observations]
        states = np.stack([obs.state for obs in observations])
        return self.question(self.model.vlm.images(shown), instructions, states, multiple=multiple).to(self.device)

    def question(
        self,
        pixels: Tensor,
        instructions: Sequence[str],
        states: Float[np.ndarray, "batch state"],
        *,
        multiple: int = 1,
    ) -> Question:
        """What the network is asked: the prompt, padded to a multiple of tokens, and the state where it is shown one.

        That is in words or as numbers.
        """
        words = [""] * len(instructions) if self._state_words is None else [self._state_words(row) for row in states]
        tokens, template = self.model.vlm.tokens, self.conventions.template
        rows = [
            [tokens.begin, *prompt_ids(tokens, instruction, template, said)]
            for instruction, said in zip(instructions, words, strict=True)
        ]
        width = -(-max(map(len, rows)) // multiple) * multiple
        ids = torch.full((len(rows), width), tokens.pad)
        mask = torch.zeros(ids.shape, dtype=torch.bool)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = torch.tensor(row)
            mask[at, : len(row)] = True
        state = None if self.proprio is None else torch.from_numpy(self.proprio.normalize(states))
        return Question(pixels=pixels, ids=ids, mask=mask, state=state)

    @property
    def variant(self) -> str:
        """`openvla`, or `openvla-oft` with one of the heads that answer at once."""
        return KIND if self.model.config.head == "tokens" else f"{KIND}-oft"

    def describe(self) -> dict[str, object]:
        """Identity for reports: variant, size, training, digest of the weights."""
        config = self.model.config
        return {
            "name": self.info.name,
            "variant": self.variant,
            "head": config.head,
            "tokens_per_action": 0.0 if config.head == "l1" else config.numbers / config.horizon,
            "unnorm_key": self.conventions.unnorm_key,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "embodiment": self.embodiment.name,
            "digest": self.digest(),
            "training": dict(self.info.training),
        }

    def digest(self) -> str:
        """Sixteen hex digits over every weight, statistic and convention."""
        facts = (self.statistics, self.conventions, self.pictures, self.model.config)
        return digest([self.model], *facts, self.model.vlm.tokens.to_json())

    def stored(self, *, half: bool) -> Stored:
        """Everything that alone rebuilds it; `rebuild` is the inverse. Adapters are merged and weights unquantised."""
        tensors = self.model.state_dict()
        strange = [name for name in tensors if ".lora_" in name or ".base_layer." in name]
        if strange:
            raise ContractError("policy", f"carries an adapter ({strange[0]}): merge it before it is saved")
        if any(type(parameter) is not nn.Parameter for parameter in self.model.parameters()):
            raise ContractError("policy", "its weights are quantised: save the one that they were made from")
        header = {
            "variant": self.variant,
            "network": self.model.vlm.config.as_dict(),
            "tokens": self.model.vlm.tokens.to_json(),
            "actions": asdict(self.model.config),
            "statistics": self.statistics.to_dict(),
            "conventions": asdict(self.conventions),
            "pictures": self.pictures.to_dict(),
            "dtype": str(self.model.vlm.dtype).removeprefix("torch."),
        }
        return Stored(header=header, tensors={n: t.half() if half else t for n, t in tensors.items()})

    def _decide(
        self,
        sessions: Sequence[OpenVLASession],
        observations: Sequence[Observation],
        given: np.ndarray | None,
        *,
        multiple: int = 1,
    ) -> Float[np.ndarray, "batch horizon action"]:
        """Chunks as the data have them, in physical units."""
        asked = self.ask([session.instruction for session in sessions], observations, multiple=multiple)
        if self.model.config.head == "l1":
            normalised = self.model.numbers(asked).cpu().numpy().astype(np.float64)
            return self.bins.normalizer.denormalize(normalised)
        first: Tensor | None = None
        if given is not None and len(given):
            first = torch.from_numpy(self.bins.encode(self.gripper.to_data(given)))[None].to(self.device)
        digits = self.model.digits(asked, first, constrained=self.conventions.constrained)
        return self.bins.decode(digits.cpu().numpy())

    def _chunk(self, actions: np.ndarray, obs: Observation, given: np.ndarray | None) -> ActionChunk:
        physical = self.gripper.to_body(actions).astype(np.float32)
        if given is not None:
            physical[: len(given)] = given
        return ActionChunk(actions=physical, anchor=obs.tick, period=self.embodiment.period, observed_at=obs.time)

    def _given(self, committed: Committed | None) -> Float[np.ndarray, "fixed action"] | None:
        if committed is None:
            return None
        self.embodiment.action.check(committed.actions, "committed.actions")
        if committed.fixed >= self.horizon:
            reason = f"{committed.fixed} actions are fixed, of a horizon of {self.horizon}: nothing is left to decide"
            raise ContractError("committed", reason)
        return committed.actions[: committed.fixed]

    def _check_sizes(self) -> None:
        config, body = self.model.config, self.embodiment
        sizes = {"network": config.action_dim, "statistics": self.statistics.action.size, "robot": body.action.size}
        if len(set(sizes.values())) != 1:
            raise ContractError("action", f"dimensions differ: {sizes}")
        proprio = 0 if self.statistics.proprio is None else self.statistics.proprio.size
        if config.proprio_dim and not config.proprio_dim == proprio == body.state.size:
            sizes = {"network": config.proprio_dim, "statistics": proprio, "robot": body.state.size}
            raise ContractError("state", f"dimensions differ: {sizes}")
        unknown = self.pictures.cameras - {camera.name for camera in body.cameras}
        if unknown:
            raise UnknownNameError("pictures: camera", min(unknown), [camera.name for camera in body.cameras])


def rebuild(stored: Stored, source: str, device: torch.device) -> OpenVLAPolicy:
    """The policy that `OpenVLAPolicy.stored` described.

    Raises:
        CheckpointError: a missing, unexpected or mis-shaped tensor, or a damaged header.
        KeyError, TypeError, ValueError: the header lacks something, or holds something of another form.
    """
    header = dict(stored.header)
    with torch.device("meta"):
        vlm = PrismaticVLM(PrismaticConfig.from_dict(_mapping(header, "network")))
        model = ActingVLM(vlm, action_config(_mapping(header, "actions")))
    fill(model, stored.tensors, source, dtype=getattr(torch, str(header["dtype"])))
    vlm.tokens = TextTokens.from_json(str(header["tokens"]))
    conventions = Conventions(**_mapping(header, "conventions"))  # type: ignore[arg-type]
    known = statistics_from_dict({conventions.unnorm_key: _mapping(header, "statistics")}, source)
    return OpenVLAPolicy(
        model=model.to(device),
        embodiment=embodiment_from_dict(_mapping(header, "embodiment")),
        statistics=known[conventions.unnorm_key],
        conventions=conventions,
        pictures=Pictures.from_dict(_mapping(header, "pictures")),
        info=PolicyInfo(name=str(header["name"]), training=_mapping(header, "training")),
    )


def _mapping(plain: Mapping[str, object], key: str) -> dict[str, object]:
    found = plain[key]
    if not isinstance(found, dict):
        raise CheckpointError(f"header: {key}: expected an object, got {type(found).__name__}")
    return dict(found)
