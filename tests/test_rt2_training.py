"""Training an RT-2: demonstrations as answers, the mixture, the three regimes, plans played again from a recording."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from dots import BODY, dots
from scripted_vlm import LetterTokens, ScriptedVLM, random_logits

from actloop.actions.bins import uniform_bins
from actloop.actions.grippers import GripperConvention
from actloop.contracts import Part, Space
from actloop.data.cache import CachedEpisodes
from actloop.errors import ContractError, DataError
from actloop.models.backbone import Example
from actloop.models.checkpoint import load_policy
from actloop.models.prismatic import PrismaticConfig, PrismaticVLM, train_tokens
from actloop.models.rt2 import RT2Config, RT2Policy, token_map
from actloop.models.stored import PolicyInfo
from actloop.simulation.exact import ExactWorld
from actloop.simulation.registry import make_world
from actloop.training.demonstrate import Attempt, demonstrate
from actloop.training.plans import recorded_plans
from actloop.training.recipe import Recipe
from actloop.training.record import record
from actloop.training.rt2 import CoFineTuning, RobotConfig, RobotExamples, held_past_end, train_rt2

BINS = uniform_bins(BODY.action.low, BODY.action.high)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> CachedEpisodes:
    return dots(tmp_path_factory.mktemp("cache"))


def policy(vlm=None, **facts) -> RT2Policy:
    tokens = LetterTokens()
    vlm = vlm or ScriptedVLM(random_logits(0, tokens.size), tokens)
    config = RT2Config(**{"mapping": "rare", **facts})
    info = PolicyInfo(name="dot", training={})
    map_ = token_map(config.mapping, vlm.tokens, count=256)
    return RT2Policy(vlm=vlm, embodiment=BODY, config=config, bins=BINS, tokens=map_, info=info)


class Questions:
    """An `ExampleSource` of one question."""

    source = "one question"

    def draw(self, rng: np.random.Generator, count: int) -> list[Example]:
        return [Example(images=(), prompt="is it open?", answer=(5,))] * count

    def validation(self) -> list[Example]:
        return self.draw(np.random.default_rng(0), 2)


def test_demonstrations_become_answers_in_physical_units(data):
    asked = policy(horizon=3)
    for example in RobotExamples(asked, data, source="dots").draw(np.random.default_rng(0), 40):
        side = 1 if "right" in example.prompt else -1
        assert example.prompt == f"Q: what action should the robot take to go {'right' if side > 0 else 'left'}? A:"
        said = asked.string.decode(example.answer)
        assert said.actions[0, 0] == pytest.approx(0.05 * side, abs=0.001)
        (picture,) = example.images
        assert picture.shape == (16, 16, 3)


def test_what_is_learned_is_in_the_convention_of_the_data(data):
    asked = policy(horizon=1)
    asked.gripper = GripperConvention(name="doubled", to_body=lambda a: 2 * a, to_data=lambda a: a / 2)
    (example,) = RobotExamples(asked, data, source="dots").draw(np.random.default_rng(0), 1)
    side = 1 if "right" in example.prompt else -1
    told = asked.string.decode(example.answer).actions
    assert told[0, 0] == pytest.approx(0.025 * side, abs=0.001)
    assert asked.gripper.to_body(told)[0, 0] == pytest.approx(0.05 * side, abs=0.001)


def test_an_episode_ends_and_holds_after_its_end(data):
    asked = policy(horizon=4)
    robot = RobotExamples(asked, data, source="dots", config=RobotConfig(terminal_ticks=2))
    lengths = robot.train.batch(np.arange(8))
    for row, example in enumerate(robot._examples(robot.train, np.arange(8), np.random.default_rng(0))):
        said, tick = asked.string.decode(example.answer), int(lengths.ticks[row])
        ticks = np.arange(tick, tick + 4)
        assert said.terminate.tolist() == (ticks >= 6).tolist()
        assert np.allclose(said.actions[ticks > 7], 0, atol=0.001)
        assert np.abs(said.actions[ticks <= 7, 0]).min() > 0.04
    space = Space(parts=(*BODY.action.parts, Part(name="gripper", unit="m", low=(0.0,), high=(0.1,))))
    held = held_past_end(np.full((3, 3), 0.07), np.array([False, True, True]), space)
    assert held.tolist() == [[0.07, 0.07, 0.07], [0, 0, 0.07], [0, 0, 0.07]]


def test_plans_stand_before_the_actions_of_their_share(data):
    plans = [f"step {frame}." for frame in range(len(data.actions))]
    asked = policy(forms=("act", "plan"))
    robot = RobotExamples(asked, data, source="dots", config=RobotConfig(plan_share=0.25), plans=plans)
    drawn = robot.draw(np.random.default_rng(1), 400)
    planned = [one for one in drawn if one.prompt.startswith("Instruction: ")]
    assert 60 < len(planned) < 140
    for example in planned:
        text = asked.vlm.tokens.decode(example.answer)
        assert text.startswith("step ")
        assert ". Action: " in text
        frame = int(text.split()[1].rstrip("."))
        assert picture_at(data, frame) == int(np.argmax(example.images[0][0, :, 0]))
    always = RobotExamples(policy(forms=("plan",)), data, source="dots", plans=plans)
    assert all(one.prompt.endswith("Plan:") for one in always.draw(np.random.default_rng(0), 20))


def picture_at(data: CachedEpisodes, frame: int) -> int:
    return int(np.argmax(data.images("top", np.array([frame]))[0, 0, :, 0]))


def test_what_does_not_fit_the_policy_is_refused(data):
    with pytest.raises(ContractError, match="plans: expected one for each of 80 frames, got 0"):
        RobotExamples(policy(forms=("plan",)), data, source="dots")
    with pytest.raises(ContractError, match="plans"):
        RobotExamples(policy(), data, source="dots", plans=["go"])
    other = policy()
    other._embodiment = replace(BODY, control_hz=30.0)
    with pytest.raises(ContractError, match="acts at 30"):
        RobotExamples(other, data, source="dots")
    with pytest.raises(ContractError, match="share"):
        RobotConfig(plan_share=1.5)
    with pytest.raises(ContractError, match="robot_share"):
        CoFineTuning(Questions(), Questions(), robot_share=-0.1)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.6, 0.66, 1.0])
def test_the_robots_share_is_kept_in_every_batch_and_exact_over_many(data, share):
    mixture = CoFineTuning(RobotExamples(policy(), data, source="dots"), Questions(), robot_share=share)
    counts = []
    for step in range(200):
        drawn = mixture.draw(np.random.default_rng((3, step, 0)), 16)
        assert len(drawn) == 16
        counts.append(sum(one.prompt.startswith("Q:") for one in drawn))
    assert max(counts) - min(counts) <= 1
    assert np.mean(counts) == pytest.approx(16 * share, abs=0.1)
    again = mixture.draw(np.random.default_rng((3, 7, 0)), 16)
    assert [one.prompt for one in again] == [one.prompt for one in mixture.draw(np.random.default_rng((3, 7, 0)), 16)]
    assert len(mixture.validation()) == len(mixture.robot.validation()) + 2


KNOWN = {"is it open?": "yes", "is it shut?": "no", "what is it?": "a dot", "where is it?": "in the picture"}


def tiny(seed: int) -> PrismaticVLM:
    torch.manual_seed(seed)
    texts = ["Q: what action should the robot take to go left? A:", *KNOWN, *KNOWN.values()]
    tokens = train_tokens(texts * 3, 560)
    config = PrismaticConfig.tiny(tokens.size, image_size=16, patch=8, vision_dim=16, vision_depth=2, hidden=32,
                                  layers=2, heads=2, kv_heads=1)  # fmt: skip
    return PrismaticVLM(config, tokens)


class Answers(Questions):
    """What a model may know: the answers to a few questions."""

    def __init__(self, vlm: PrismaticVLM) -> None:
        picture = np.zeros((16, 16, 3), np.uint8)
        self.known = [
            Example(images=(picture,), prompt=question, answer=tuple(vlm.tokens.encode(answer)))
            for question, answer in KNOWN.items()
        ]

    def draw(self, rng: np.random.Generator, count: int) -> list[Example]:
        return [self.known[int(one)] for one in rng.integers(len(self.known), size=count)]


def test_co_fine_tuning_keeps_what_fine_tuning_forgets(data, tmp_path):
    """The paper's ablation in small: from a model that answers, trained on the robot alone and on both."""
    recipe = Recipe(steps=60, batch_size=16, learning_rate=5e-3, validate_every=60)
    known = tiny(0)
    from actloop.training.language import train_language

    train_language(known, Answers(known), recipe, tmp_path / "vlm.safetensors", save=lambda tensors, facts: None)
    before = {name: tensor.clone() for name, tensor in known.state_dict().items()}
    assert right(known) == 1
    kept = {}
    for arm in ("fine-tuned", "co-fine-tuned"):
        vlm = tiny(0)
        vlm.load_state_dict(before)
        acting = policy(vlm)
        source = RobotExamples(acting, data, source="dots")
        if arm == "co-fine-tuned":
            source = CoFineTuning(source, Answers(vlm), robot_share=0.6)
        out = tmp_path / f"{arm}.safetensors"
        result = train_rt2(acting, source, recipe, out)
        assert result.losses == {} or result.losses["loss"] < 5
        again = load_policy(out, embodiment=BODY)
        assert again.info.training["steps"] == 60
        kept[arm] = right(again.vlm)
        assert acts(again, data) > 0.9
    assert kept["co-fine-tuned"] == 1
    assert kept["fine-tuned"] < 0.5


def right(vlm: PrismaticVLM) -> float:
    asked = Answers(vlm).known
    said = vlm.answer([one.images for one in asked], [one.prompt for one in asked], max_tokens=16)
    return float(np.mean([tuple(ids) == one.answer for ids, one in zip(said, asked, strict=True)]))


def acts(acting: RT2Policy, data: CachedEpisodes) -> float:
    """Share of frames in which it moves as it is told."""
    from actloop.contracts import Observation

    good = []
    for index in range(10):
        episode = data.episode(index)
        session = acting.start(episode.instruction, seed=0)
        for tick in (0, 3):
            images = {"top": np.array(episode.frames("top")[tick])}
            obs = Observation(images=images, state=episode.states[tick], tick=tick, time=tick / 10)
            _, said = acting.predict(session, obs)
            good.append(np.sign(said.chunk.actions[0, 0]) == np.sign(episode.actions[tick, 0]))
    return float(np.mean(good))


# plans of a recording


def test_a_recording_is_played_again_step_by_step(tmp_path):
    world = make_world("tabletop")
    tasks = [world.tasks[name] for name in ("place-left-red", "open-drawer")]
    record(lambda: make_world("tabletop"), tasks, tmp_path / "data", episodes_per_task=1, seed=1, disturb_share=1.0,
           noise_share=1.0)  # fmt: skip
    plans = recorded_plans(world, tmp_path / "data")
    found = demonstrate(world, Attempt(task=tasks[0], seed=1, number=0, noise_share=1.0, disturb_share=1.0))
    first = plans[: len(found.actions)]
    assert first[0] == "reach for the red block"
    assert first[-1] == "stop"
    assert "carry the red block to the left pad" in first
    assert {"reach for the handle", "pull the drawer open"} <= set(plans)
    info = json.loads((tmp_path / "data" / "meta" / "info.json").read_text())
    assert len(plans) == info["total_frames"]
    with pytest.raises(ContractError, match="cannot be asked"):
        recorded_plans(ExactWorld(), tmp_path / "data")
    with pytest.raises(ContractError, match="was not recorded from"):
        recorded_plans(make_world("tabletop", body="arm"), tmp_path / "data")
    with pytest.raises(DataError):
        recorded_plans(world, tmp_path / "nothing")
