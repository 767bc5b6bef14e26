"""RT-2: action strings, what may be decoded, plans, the policy over a backbone that follows given logits, its file."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_vlm import END, LetterTokens, ScriptedVLM, random_logits, writing

from actloop.actions.bins import centre_bins, uniform_bins
from actloop.actions.normalizers import masked_quantile
from actloop.actions.tokens import RareTokens
from actloop.contracts import Camera, Committed, Embodiment, Observation, Part, Policy, Space, VisionLanguageModel
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.checkpoint import load_policy, save_policy
from actloop.models.prismatic import PrismaticConfig, PrismaticVLM, train_tokens
from actloop.models.rt2 import ActionString, PlanThenAct, RT2Config, RT2Policy, token_map
from actloop.models.rt2.policy import MARKER
from actloop.models.stored import PolicyInfo
from actloop.models.views import Mosaic
from actloop.testing.conformance import check_policy

LOW, HIGH = (-0.04, -0.04, -0.04, 0.0), (0.04, 0.04, 0.04, 0.11)
CAMERAS = (Camera(name="front", height=16, width=16), Camera(name="wrist", height=16, width=16))
ARM = Embodiment(
    name="arm",
    cameras=CAMERAS,
    state=Space(parts=(Part(name="gripper", unit="m", low=(0.0,), high=(0.11,)),)),
    action=Space(
        parts=(
            Part(name="position", unit="m", low=LOW[:3], high=HIGH[:3], kind="delta"),
            Part(name="gripper", unit="m", low=LOW[3:], high=HIGH[3:]),
        )
    ),
    control_hz=10.0,
)
BINS = uniform_bins(ARM.action.low, ARM.action.high)
SEEN = Observation(
    images={"front": np.full((16, 16, 3), 10, np.uint8), "wrist": np.full((16, 16, 3), 200, np.uint8)},
    state=np.array([0.05], np.float32),
    tick=3,
    time=0.3,
)


def string(mapping: str, *, horizon: int = 1, tokens: LetterTokens | None = None, **facts: bool) -> ActionString:
    tokens = tokens or LetterTokens()
    map_ = token_map(mapping, tokens, count=256)
    return ActionString(bins=BINS, tokens=map_, size=4, horizon=horizon, end=END, **facts)


def policy(logits, tokens: LetterTokens | None = None, mosaic: Mosaic | None = None, **facts) -> RT2Policy:
    vlm = ScriptedVLM(logits, tokens)
    config = RT2Config(**facts)
    tokens_of = token_map(config.mapping, vlm.tokens, count=256)
    info = PolicyInfo(name="scripted", training={})
    return RT2Policy(vlm=vlm, embodiment=ARM, config=config, bins=BINS, tokens=tokens_of, info=info, mosaic=mosaic)


def ids_of(found: RT2Policy, actions: np.ndarray, ends: list[bool]) -> list[int]:
    return list(found.string.encode(actions, np.array(ends)))


# the string


@pytest.mark.parametrize("mapping", ["integers", "rare"])
@pytest.mark.parametrize("terminates", [True, False])
def test_what_is_written_reads_back_within_a_bin(mapping, terminates):
    written = string(mapping, horizon=3, terminates=terminates)
    actions = np.random.default_rng(0).uniform(LOW, HIGH, (3, 4))
    said = written.decode(written.encode(actions, np.array([False, True, False])))
    assert np.abs(said.actions - actions).max() < np.subtract(HIGH, LOW).max() / 255
    assert said.terminate.tolist() == [False, terminates, False]


def test_integers_are_the_papers_string():
    tokens = LetterTokens()
    written = string("integers", tokens=tokens)
    ids = written.encode(np.array([[0.0, -0.04, 0.04, 0.11]]), np.array([True]))
    assert tokens.decode(ids) == "1 127 0 255 255"


def test_seven_or_eight_integers_of_another_model_are_read():
    seven = ActionString(bins=uniform_bins(np.full(7, -1), np.ones(7)), tokens=RareTokens(range(2, 258)), size=7,
                         horizon=1, end=END)  # fmt: skip
    short, whole = seven.read("1 128 91 241 5 101 127"), seven.read("Plan: go. Action: 1 128 124 136 121 158 111 255")
    assert not short.terminate[0]
    assert whole.terminate[0]
    assert np.allclose(whole.actions[0, [0, 6]], [128 / 127.5 - 1, 1.0])
    for bad in ("1 2 3", "1 128 124 136 121 158 111 256", "2 128 124 136 121 158 111 255", "", "1 -1 0 0 0 0 0 0"):
        with pytest.raises(ContractError, match="rt2"):
            seven.read(bad)


def test_quantile_bins_count_from_one_and_are_written_alike():
    rows = np.random.default_rng(1).normal(size=(500, 4)) * 0.01
    bins = centre_bins(masked_quantile(rows))
    written = ActionString(bins=bins, tokens=RareTokens(range(10, 266)), size=4, horizon=2, end=END)
    inside = np.clip(rows[:2], np.quantile(rows, 0.02, axis=0), np.quantile(rows, 0.98, axis=0))
    said = written.decode(written.encode(inside, np.zeros(2, bool)))
    assert np.abs(said.actions - inside).max() < np.ptp(rows, axis=0).max() / 255


def test_bad_strings_are_refused():
    written = string("rare", horizon=2)
    with pytest.raises(ContractError, match=r"expected actions \(2, 4\)"):
        written.encode(np.zeros((1, 4)), np.zeros(1, bool))
    with pytest.raises(ContractError):
        written.encode(np.full((2, 4), np.nan), np.zeros(2, bool))
    with pytest.raises(ContractError, match="before the action is whole"):
        written.decode(written.encode(np.zeros((2, 4)), np.zeros(2, bool))[:-1])
    with pytest.raises(ContractError, match="leave none of 2"):
        written.allowed(np.zeros((2, 4)))
    with pytest.raises(UnknownNameError, match="integers"):
        token_map("integer", LetterTokens(), count=256)
    with pytest.raises(ContractError, match="rare ids"):
        token_map("rare", LetterTokens(spare=0), count=256)


# constrained decoding


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), horizon=st.integers(1, 3), ends=st.booleans(), case=st.integers(0, 2))
def test_whatever_the_logits_a_valid_action_comes_out(seed, horizon, ends, case):
    tokens = LetterTokens(pairs=case == 1)  # one integer is one to three tokens
    facts = {"horizon": horizon, "terminates": ends, "mapping": "rare" if case == 2 else "integers"}
    found = policy(random_logits(seed, tokens.size), tokens, **facts)
    _, said = found.predict(found.start("open the drawer", seed=0), SEEN)
    assert said.chunk.actions.shape == (horizon, 4)
    assert (said.chunk.actions >= np.float32(LOW)).all()
    assert (said.chunk.actions <= np.float32(HIGH)).all()
    assert found.vlm.steps <= found.string.longest
    ids = ScriptedVLM(random_logits(seed, tokens.size), tokens).answer(
        [()], [""], max_tokens=99, allowed=found.string.allowed()
    )[0]
    if facts["mapping"] == "integers":
        numbers = tokens.decode(ids).split(" ")
        assert len(numbers) == horizon * (4 + ends)
        assert all(re.fullmatch(r"0|[1-9]\d{0,2}", number) and int(number) < 256 for number in numbers)
        assert not ends or {numbers[at] for at in range(0, len(numbers), 5)} <= {"0", "1"}
    else:
        assert len(ids) == horizon * (4 + ends)
        assert not set(ids) & tokens.special


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**9), limit=st.integers(1, 9))
def test_a_plan_always_ends_in_a_valid_action(seed, limit):
    tokens = LetterTokens()
    found = policy(random_logits(seed, tokens.size), tokens, forms=("plan",), plan_tokens=limit, horizon=2)
    _, said = found.predict(found.start("tidy up", seed=0), SEEN)
    assert (said.chunk.actions >= np.float32(LOW)).all()
    assert (said.chunk.actions <= np.float32(HIGH)).all()


def test_other_prompts_have_the_whole_vocabulary():
    tokens = LetterTokens()
    for seed in range(20):
        logits = random_logits(seed, tokens.size)
        plain, found = ScriptedVLM(logits, tokens), policy(logits, tokens)
        (before,) = plain.answer([[SEEN.images["front"]]], ["what is open?"], max_tokens=12)
        after = found.generate([SEEN.images["front"]], "what is open?", max_tokens=12, seed=4)
        assert after == tokens.decode(before).strip()
        assert found.vlm.asked == plain.asked


def test_a_plan_in_force_is_continued():
    tokens = LetterTokens()
    found = policy(random_logits(3, tokens.size), tokens, horizon=4)
    fixed = np.array([[0.013, -0.02, 0.001, 0.05], [0.0, 0.0, 0.004, 0.09], [1, 1, 1, 1]], np.float32)
    session = found.start("open the drawer", seed=0)
    _, said = found.predict(session, SEEN, committed=Committed(actions=fixed, fixed=2))
    assert np.array_equal(said.chunk.actions[:2], fixed[:2])
    _, free = found.predict(session, SEEN)
    assert not np.array_equal(free.chunk.actions[:2], fixed[:2])
    with pytest.raises(ContractError, match="leave none of 4"):
        found.predict(session, SEEN, committed=Committed(actions=np.zeros((4, 4), np.float32), fixed=4))
    with pytest.raises(ContractError, match=r"committed\.actions"):
        found.predict(session, SEEN, committed=Committed(actions=np.zeros((4, 3), np.float32), fixed=1))


# the policy


def test_it_asks_as_the_paper_does_and_acts_as_it_is_told():
    actions = np.array([[0.02, -0.04, 0.04, 0.11], [0.0, 0.01, 0.03, 0.0]])
    tokens = LetterTokens()
    found = policy(writing([], tokens.size), tokens, horizon=2)
    found.vlm.logits = writing(ids_of(found, actions, [False, False]), tokens.size)
    session, said = found.predict(found.start("Open the drawer.", seed=0), SEEN)
    assert found.vlm.asked[0][1] == "Q: what action should the robot take to Open the drawer? A:"
    assert [int(picture[0, 0, 0]) for picture in found.vlm.asked[0][0]] == [10, 200]
    assert np.abs(said.chunk.actions - actions).max() < 0.0006
    assert (said.chunk.anchor, said.chunk.observed_at, said.chunk.period) == (3, 0.3, 0.1)
    assert (said.text, said.future, session.calls, session.terminated) == ("", None, 1, False)
    assert isinstance(found, Policy)
    assert isinstance(found, VisionLanguageModel)


def test_the_state_is_said_in_the_prompt_where_it_is_to_be():
    tokens = LetterTokens()
    found = policy(writing([], tokens.size), tokens, forms=("act", "plan"), states=True)
    space = found.embodiment.state
    low, high = np.array(space.low), np.array(space.high)
    for share, digit in ((0.0, 0), (0.5, 127), (1.0, 255), (1.5, 255)):
        state = (low + share * (high - low)).astype(np.float32)
        words = " ".join([str(digit)] * space.size)
        asked = found.prompt("Open the drawer.", "act", state)
        assert asked == f"Q: what action should the robot take to Open the drawer? State: {words} A:"
    assert found.prompt("go", "plan", low).startswith("Instruction: go State: 0 Plan:")
    found.predict(found.start("Open the drawer.", seed=0), SEEN)
    assert found.vlm.asked[-1][1] == found.prompt("Open the drawer.", "act", SEEN.state)
    with pytest.raises(ContractError, match="finite"):
        found.prompt("go", "act", np.full(space.size, np.nan))


def test_when_it_ends_the_episode_it_holds_and_says_so():
    actions = np.array([[0.02, 0.0, 0.01, 0.11], [0.02, 0.02, 0.02, 0.03], [0.02, 0.02, 0.02, 0.08]])
    tokens = LetterTokens()
    found = policy(writing([], tokens.size), tokens, horizon=3)
    found.vlm.logits = writing(ids_of(found, actions, [False, True, False]), tokens.size)
    session, said = found.predict(found.start("pick up the red block", seed=0), SEEN)
    moved, held, still = said.chunk.actions
    assert moved[0] > 0.01
    assert np.array_equal(held[:3], np.zeros(3))
    assert np.array_equal(still, held)
    assert held[3] == pytest.approx(0.03, abs=0.0006)  # the gripper stays where it was told, not where it is
    assert session.terminated
    assert said.text == "Terminate."
    again, _ = found.predict(session, replace(SEEN, tick=4))
    assert again.calls == 2


def test_a_plan_is_text_in_the_prediction():
    tokens = LetterTokens()
    found = policy(writing([], tokens.size), tokens, forms=("act", "plan"))
    action = ids_of(found, np.array([[0.0, 0.02, 0.0, 0.05]]), [False])
    found.set_mode("plan")
    found.vlm.logits = writing([*found.planned("reach for the block."), *action], tokens.size)
    session, said = found.predict(found.start("pick up the block", seed=0), SEEN)
    assert found.vlm.asked[-1][1] == "Instruction: pick up the block Plan:"
    assert said.text == "Plan: reach for the block."
    assert session.plan == "reach for the block."
    assert said.chunk.actions[0, 1] == pytest.approx(0.02, abs=0.001)
    assert len(found.vlm.asked) == 1
    with pytest.raises(UnknownNameError, match="act"):
        found.set_mode("acts")


def test_a_model_that_ends_with_its_plan_is_asked_to_go_on():
    tokens = LetterTokens()
    found = policy(writing(tokens.encode("grasp"), tokens.size), tokens, forms=("plan",))
    session, said = found.predict(found.start("pick up the block", seed=0), SEEN)
    assert session.plan == "grasp"
    assert len(found.vlm.asked) == 2
    assert said.chunk.actions.shape == (1, 4)


def test_the_marker_comes_at_the_limit_even_where_it_had_begun():
    tokens = LetterTokens()
    marker, action = tokens.encode(MARKER), string("integers", tokens=tokens).allowed()
    free = PlanThenAct(action, marker=marker, limit=6)
    ids = tokens.encode("go on ")
    assert free(ids[:5]) is None
    ids += [tokens.encode("A")[0]]  # as the marker goes on
    assert free(ids) == (marker[2],)
    assert free(tokens.encode("go onx")) == (marker[0],)
    whole = tokens.encode("go on" + MARKER)
    assert free.parts(whole) == (tokens.encode("go on"), [])
    assert set(free(whole)) == set(tokens.encode("01"))
    with pytest.raises(ContractError, match="marker"):
        PlanThenAct(action, marker=(), limit=3)


def test_one_picture_of_all_cameras():
    tokens = LetterTokens()
    mosaic = Mosaic.side_by_side({camera.name: (16, 16) for camera in CAMERAS})
    found = policy(random_logits(0, tokens.size), tokens, mosaic=mosaic)
    found.predict(found.start("open the drawer", seed=0), SEEN)
    ((picture,), _) = found.vlm.asked[0]
    assert picture.shape == (16, 32, 3)


def test_bad_configurations_and_observations_are_refused():
    with pytest.raises(ContractError, match="1 or more actions"):
        RT2Config(horizon=0)
    with pytest.raises(UnknownNameError, match="plan"):
        RT2Config(forms=("plans",))
    with pytest.raises(ContractError, match="each form once"):
        RT2Config(forms=("act", "act"))
    found = policy(random_logits(0, LetterTokens().size))
    with pytest.raises(ContractError, match="expected words"):
        found.start("  ", seed=0)
    session = found.start("open the drawer", seed=0)
    with pytest.raises(ContractError, match=r"images\.wrist"):
        found.predict(session, replace(SEEN, images={"front": SEEN.images["front"]}))


# over a real network, and its file


@pytest.fixture(scope="module")
def tiny() -> RT2Policy:
    torch.manual_seed(0)
    texts = ["Q: what action should the robot take to open the drawer? A:", " ".join(map(str, range(256)))]
    tokens = train_tokens(texts * 3, 600)
    config = PrismaticConfig.tiny(tokens.size, image_size=16, patch=8, vision_dim=16, vision_depth=2, hidden=32,
                                  layers=2, heads=2, kv_heads=1)  # fmt: skip
    info = PolicyInfo(name="tiny", training={"steps": 0})
    settings = RT2Config(horizon=3, mapping="rare", forms=("act", "plan"))
    rare = token_map("rare", tokens, count=256)
    return RT2Policy(
        vlm=PrismaticVLM(config, tokens), embodiment=ARM, config=settings, bins=BINS, tokens=rare, info=info
    )


def test_it_keeps_every_promise_of_a_policy(tiny):
    check_policy(tiny, SEEN, stochastic=False)


def test_its_file_alone_rebuilds_it(tiny, tmp_path):
    save_policy(tiny, tmp_path / "tiny.safetensors")
    again = load_policy(tmp_path / "tiny.safetensors", embodiment=ARM, mode="plan")
    assert isinstance(again, RT2Policy)
    assert (again.digest(), again.mode) == (tiny.digest(), "plan")
    again.set_mode("act")
    for found, other in pairwise(one.predict(one.start("open the drawer", seed=0), SEEN)[1] for one in (tiny, again)):
        assert np.array_equal(found.chunk.actions, other.chunk.actions)
    described = again.describe()
    assert described["variant"] == "rt2"
    assert described["tokens_per_action"] == 5
    assert described["training"] == {"steps": 0}
    with pytest.raises(UnknownNameError, match="mode"):
        load_policy(tmp_path / "tiny.safetensors", mode="guided")


def test_a_policy_that_is_no_longer_whole_is_refused(tiny, tmp_path):
    from actloop.models.rt2 import rebuild
    from actloop.models.stored import Stored

    kept = tiny.stored(half=True)
    facts = {"embodiment": {}, "name": "tiny", "training": {}}
    with pytest.raises((CheckpointError, ContractError)):
        rebuild(Stored(header={**kept.header, **facts}, tensors=kept.tensors), "file", torch.device("cpu"))
    header = {**kept.header, **facts}
    for broken in ({"config": None}, {"bins": {"kind": "uniform", "count": 256}}, {"tokens": "rare"}):
        with pytest.raises(CheckpointError, match="file: damaged header"):
            rebuild(Stored(header={**header, **broken}, tensors=kept.tensors), "file", torch.device("cpu"))
    lost = dict(list(kept.tensors.items())[1:])
    with pytest.raises(CheckpointError, match="missing"):
        rebuild(Stored(header=header, tensors=lost), "file", torch.device("cpu"))


def test_a_backbone_without_a_file_cannot_be_stored(tmp_path):
    with pytest.raises(CheckpointError, match="ScriptedVLM cannot be stored"):
        save_policy(policy(random_logits(0, 400)), tmp_path / "no.safetensors")
