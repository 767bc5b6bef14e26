"""OpenVLA's network and policy: the released numbers, what sees what, and the way to physical units and back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dots import BODY, picture
from tiny_openvla import STATISTICS, TOKENS, acting, network, policy
from torch import Tensor
from torch.nn import functional

from actloop.actions.normalizers import from_stats
from actloop.contracts import Committed, Observation
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.models.checkpoint import load_policy, save_policy
from actloop.models.openvla import ActingVLM, ActionConfig, OpenVLAPolicy, Question, Target
from actloop.models.prismatic import load_prismatic
from actloop.testing.conformance import check_policy

SHARED = Path(__file__).parents[2] / "shared" / "fixtures" / "openvla"
released = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/fixtures/openvla is not here")


def observed(x: float = 0.5, tick: int = 0) -> Observation:
    state = np.array([x, 0.5], np.float32)
    return Observation(images={"top": picture(x)}, state=state, tick=tick, time=tick / 10)


def asked(lengths: tuple[int, ...] = (9, 5), seed: int = 0, *, proprio: int = 0) -> Question:
    generator = torch.Generator().manual_seed(seed)
    rows, longest = len(lengths), max(lengths)
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    ids = torch.randint(3, 300, (rows, longest), generator=generator) * mask
    ids[:, 0] = 1
    state = torch.rand((rows, proprio), generator=generator) if proprio else None
    return Question(pixels=torch.randn((rows, 1, 3, 16, 16), generator=generator), ids=ids, mask=mask, state=state)


def alone(question: Question, row: int) -> Question:
    length = int(question.mask[row].sum())
    state = None if question.state is None else question.state[row : row + 1]
    one = slice(row, row + 1)
    return Question(
        pixels=question.pixels[one], ids=question.ids[one, :length], mask=question.mask[one, :length], state=state
    )


def target(rows: int = 2, horizon: int = 3, seed: int = 0) -> Target:
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(1, 257, (rows, horizon, 2), generator=generator)
    centres = acting().centres()
    return Target(actions=centres[digits - 1], digits=digits, is_pad=torch.zeros((rows, horizon), dtype=torch.bool))


# --- the released numbers ---------------------------------------------------------------------------------------------


@released
def test_the_released_actions_are_reproduced() -> None:
    held = np.load(SHARED / "fixture.npz")
    vlm = load_prismatic(SHARED)
    vlm.tokens = type("Llama2", (), {"size": 32001, "begin": 1, "end": 2, "pad": 32000})()
    model = ActingVLM(vlm, ActionConfig(action_dim=7, vocabulary=32000)).eval()
    pixels = torch.from_numpy(held["pixel_values"])[:, None]
    ids = torch.from_numpy(held["input_ids"])
    question = Question(pixels=pixels, ids=ids, mask=torch.ones_like(ids, dtype=torch.bool))
    stats = json.loads((SHARED / "config.json").read_text())["norm_stats"]["toy"]["action"]
    normalizer = from_stats(stats)
    for constrained, name in ((True, "action_constrained"), (False, "action")):
        digits = model.digits(question, constrained=constrained)
        found = normalizer.denormalize(model.centres()[digits - 1][0, 0].double().numpy())
        np.testing.assert_allclose(found, held[name], atol=1e-6)


# --- the network ------------------------------------------------------------------------------------------------------


def test_every_digit_has_its_own_token_and_centre() -> None:
    model = acting()
    assert model.rows()[[0, 255]].tolist() == [575, 320]
    centres = model.centres()
    assert centres[255] == centres[254] == pytest.approx(254 / 255)
    assert centres[127] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("head", ["tokens", "parallel-tokens"])
def test_a_batch_is_answered_as_its_rows_are(head: str) -> None:
    model, question = acting(head, proprio=0 if head == "tokens" else 2), asked(proprio=2)  # type: ignore[arg-type]
    together = model.digits(question)
    assert together.shape == (2, 3, 2)
    assert together.min() >= 1
    assert together.max() <= 256
    for row in range(2):
        assert torch.equal(model.digits(alone(question, row))[0], together[row])


def test_numbers_of_a_batch_are_those_of_its_rows() -> None:
    model, question = acting("l1", proprio=2), asked(proprio=2)
    together = model.numbers(question)
    for row in range(2):
        torch.testing.assert_close(model.numbers(alone(question, row))[0], together[row], atol=1e-5, rtol=0)


def test_greedy_digits_are_what_teacher_forcing_finds_most_likely() -> None:
    model, question = acting(), asked()
    digits = model.digits(question)
    taught = model(question, replace(target(), digits=digits))
    assert taught["accuracy"].tolist() == [1.0, 1.0]
    other = digits.clone()
    other[:, -1, -1] = digits[:, -1, -1] % 256 + 1
    assert model(question, replace(target(), digits=other))["accuracy"].tolist() == pytest.approx([5 / 6, 5 / 6])


def test_the_loss_of_tokens_is_that_of_the_backbone_on_the_same_sequence() -> None:
    model, question, wanted = acting(), alone(asked(), 0), target(rows=1)
    answer = 576 - wanted.digits.flatten(1)
    ids = torch.cat([question.ids, answer, torch.tensor([[model.vlm.tokens.end]])], dim=1)
    hidden = model.vlm.hidden(model.vlm.embed(question.pixels, ids))
    logits = model.vlm.logits(hidden)[:, -8:-1]
    expected = functional.cross_entropy(logits.flatten(0, 1), ids[:, -7:].flatten())
    torch.testing.assert_close(model(question, wanted)["loss"][0], expected)


@pytest.mark.parametrize("head", ["tokens", "parallel-tokens", "l1"])
def test_nothing_is_learned_of_padding(head: str) -> None:
    model, question, wanted = acting(head), asked(), target()  # type: ignore[arg-type]
    is_pad = torch.tensor([[False, False, True], [False, True, True]])
    other = Target(
        actions=torch.where(is_pad[..., None], -wanted.actions, wanted.actions), digits=wanted.digits, is_pad=is_pad
    )
    known = replace(wanted, is_pad=is_pad)
    losses = [model(question, each) for each in (known, other)]
    for name in losses[0]:
        torch.testing.assert_close(losses[0][name], losses[1][name])
    assert not torch.allclose(losses[0]["l1"], model(question, wanted)["l1"])


def test_given_actions_are_continued() -> None:
    model, question = acting(), asked()
    first = torch.tensor([[[1, 256]], [[77, 3]]])
    answered = model.digits(question, first)
    assert torch.equal(answered[:, :1], first)
    free = model.digits(question)
    assert torch.equal(model.digits(question, free[:, :2]), free)


def test_a_parallel_head_sees_the_state_both_ways_and_answers_in_one_pass() -> None:
    model, question = acting("l1", proprio=2), asked(proprio=2)
    assert question.state is not None
    before = model.slots(question)
    after = model.slots(replace(question, state=question.state + 1))
    assert (after - before).abs().amax(-1).min() > 1e-6
    calls: list[int] = []
    model.vlm.language_model.model.layers[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore
    model.numbers(question)
    assert len(calls) == 1
    with pytest.raises(ContractError, match="without it"):
        model.numbers(replace(question, state=None))


def test_the_sequence_of_a_parallel_head_is_the_released_one() -> None:
    """begin, patches, state, prompt, zeros, end; read one position to the left of each zero."""
    model, question = acting("parallel-tokens", proprio=2), alone(asked(proprio=2), 1)
    vlm, words = model.vlm, model.vlm.embed(None, question.ids)
    assert model.proprio_projector is not None
    assert question.state is not None
    end = vlm.embed(None, torch.tensor([[vlm.tokens.end]]))
    state = model.proprio_projector(question.state)
    zeros = torch.zeros(1, 6, words.shape[-1])
    sequence = torch.cat([words[:, :1], vlm.see(question.pixels), state, words[:, 1:], zeros, end], dim=1)
    hidden = vlm.hidden(sequence, causal=False)
    torch.testing.assert_close(model.slots(question), hidden[:, -8:-2], atol=1e-6, rtol=0)
    causal: Tensor = vlm.hidden(sequence)[:, -8:-2]
    assert not torch.allclose(causal, model.slots(question), atol=1e-3)


def test_learnt_slots_stand_where_numbers_are_read_and_learn() -> None:
    model, question = acting("l1", slots=True), alone(asked(), 1)
    vlm, words = model.vlm, model.vlm.embed(None, question.ids)
    assert model.slot_embeddings is not None
    end = vlm.embed(None, torch.tensor([[vlm.tokens.end]]))
    slots = model.slot_embeddings[None]
    sequence = torch.cat([words[:, :1], vlm.see(question.pixels), words[:, 1:], slots, end], dim=1)
    hidden = vlm.hidden(sequence, causal=False)
    torch.testing.assert_close(model.slots(question), hidden[:, -8:-2], atol=1e-6, rtol=0)
    model(question, target(rows=1))["loss"].sum().backward()
    gradient = model.slot_embeddings.grad
    assert gradient is not None
    assert (gradient.abs().amax(-1) > 0).all()
    with pytest.raises(ContractError, match="learned_slots"):
        ActionConfig(action_dim=2, vocabulary=600, learned_slots=True)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ContractError, match="reach up to 32000, the model has 640"):
        ActingVLM(network(), ActionConfig(action_dim=2, vocabulary=32000))
    with pytest.raises(UnknownNameError, match="did you mean 'l1'"):
        ActionConfig(action_dim=2, vocabulary=576, head="L1")  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="parallel heads only"):
        ActionConfig(action_dim=2, vocabulary=576, proprio_dim=2)
    with pytest.raises(ContractError, match="answers with tokens"):
        acting().numbers(asked())


# --- the policy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["tokens", "parallel-tokens", "l1"])
def test_it_keeps_the_promises_of_a_policy(head: str) -> None:
    check_policy(policy(head, proprio=0 if head == "tokens" else 2), observed(tick=2), stochastic=False)  # type: ignore[arg-type]


def test_actions_are_in_physical_units_and_follow_the_picture() -> None:
    chosen = policy()
    session = chosen.start("go left", seed=0)
    session, first = chosen.predict(session, observed(0.2, tick=3))
    assert session.calls == 1
    assert (first.chunk.anchor, first.chunk.period, first.chunk.observed_at) == (3, 0.1, pytest.approx(0.3))
    assert first.chunk.actions.dtype == np.float32
    limits = STATISTICS.action
    assert (first.chunk.actions >= np.array(limits.q01) - 1e-6).all()
    assert (first.chunk.actions <= np.array(limits.q99) + 1e-6).all()
    other = chosen.predict(session, observed(0.9))[1]
    assert (first.chunk.actions != other.chunk.actions).any()  # the silent failure of newer libraries: image ignored
    said = chosen.predict(chosen.start("go right", seed=0), observed(0.2))[1]
    assert (first.chunk.actions != said.chunk.actions).any()


def test_the_state_is_said_in_the_prompt_where_the_template_does() -> None:
    chosen = policy(template="v1-state")
    low = replace(observed(0.2), state=np.array([0.0, 0.0], np.float32))
    asked = chosen.ask(["go left"], [low])
    begin, *said = asked.ids[0].tolist()
    assert begin == TOKENS.begin
    assert TOKENS.decode(said) == "In: What action should the robot take to go left?\nState: 0 0\nOut:"
    assert asked.state is None
    other = chosen.ask(["go left"], [replace(low, state=np.array([1.0, 0.5], np.float32))])
    assert "State: 255 127" in TOKENS.decode(other.ids[0].tolist())
    assert "State" not in TOKENS.decode(policy().ask(["go left"], [low]).ids[0].tolist())


@pytest.mark.parametrize("head", ["tokens", "l1"])
def test_a_batch_of_robots_is_answered_as_each_alone(head: str) -> None:
    chosen = policy(head)  # type: ignore[arg-type]
    sessions = [chosen.start(text, seed=0) for text in ("go left", "go right and then up")]
    views = [observed(0.2), observed(0.8)]
    together = chosen.predict_batch(sessions, views)
    for session, view, (after, answered) in zip(sessions, views, together, strict=True):
        assert after.calls == 1
        np.testing.assert_allclose(answered.chunk.actions, chosen.predict(session, view)[1].chunk.actions, atol=1e-7)
    with pytest.raises(ContractError, match="2 sessions and 1 observations"):
        chosen.predict_batch(sessions, views[:1])


@pytest.mark.parametrize("head", ["tokens", "parallel-tokens", "l1"])
def test_what_is_committed_begins_the_chunk(head: str) -> None:
    chosen = policy(head)  # type: ignore[arg-type]
    session = chosen.start("go left", seed=0)
    fixed = np.array([[0.05, -0.01], [-0.05, 0.01]], np.float32)
    committed = Committed(actions=fixed, fixed=2)
    chunk = chosen.predict(session, observed(), committed=committed)[1].chunk
    np.testing.assert_array_equal(chunk.actions[:2], fixed)
    assert chunk.horizon == 3
    with pytest.raises(ContractError, match="nothing is left to decide"):
        chosen.predict(session, observed(), committed=Committed(actions=np.zeros((3, 2), np.float32), fixed=3))


def test_without_the_constraint_other_tokens_are_clipped() -> None:
    model = acting()
    with torch.no_grad():
        head = model.vlm.language_model.lm_head  # type: ignore[union-attr]
        head.weight[:320] = head.weight[:320] * 100  # type: ignore[index]
    session = policy(model=model).start("go left", seed=0)
    loose = policy(model=model, constrained=False).predict(session, observed())[1].chunk.actions
    np.testing.assert_allclose(loose, np.tile([[0.05, 0.01]], (3, 1)) * 254 / 255, atol=1e-6)
    tight = policy(model=model).predict(session, observed())[1].chunk.actions
    assert (tight != loose).any()


@pytest.mark.parametrize(("head", "proprio"), [("tokens", 0), ("parallel-tokens", 2), ("l1", 2)])
def test_a_file_alone_rebuilds_it(tmp_path: Path, head: str, proprio: int) -> None:
    chosen = policy(head, proprio=proprio)  # type: ignore[arg-type]
    path = tmp_path / "policy.safetensors"
    save_policy(chosen, path)
    again = load_policy(path, embodiment=BODY)
    assert isinstance(again, OpenVLAPolicy)
    assert again.describe() == chosen.describe()
    assert again.describe()["variant"] == ("openvla" if head == "tokens" else "openvla-oft")
    session = chosen.start("go left", seed=0)
    one, other = (each.predict(session, observed())[1].chunk.actions for each in (chosen, again))
    np.testing.assert_allclose(one, other, atol=1e-6)
    save_policy(chosen, path, half=True)
    assert next(load_policy(path).model.parameters()).dtype == torch.float32  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="mode"):
        load_policy(path, mode="fast")


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    chosen = policy()
    stored = chosen.stored(half=False)
    tensors = {name: tensor for name, tensor in stored.tensors.items() if "lm_head" not in name}
    chosen.stored = lambda *, half: replace(stored, tensors=tensors)  # type: ignore[method-assign]
    save_policy(chosen, path)
    with pytest.raises(CheckpointError, match=r"missing vlm\.language_model\.lm_head\.weight"):
        load_policy(path)
    header = {**stored.header, "statistics": {"action": {"q01": [0.0], "q99": [1.0]}}}
    chosen.stored = lambda *, half: replace(stored, header=header)  # type: ignore[method-assign]
    save_policy(chosen, path)
    with pytest.raises(CheckpointError, match="action: dimensions differ"):
        load_policy(path)


def test_another_robots_statistics_or_cameras_are_refused() -> None:
    chosen = policy()
    parts = {
        "model": chosen.model,
        "statistics": STATISTICS,
        "conventions": chosen.conventions,
        "pictures": chosen.pictures,
        "info": chosen.info,
    }
    cameras = tuple(replace(camera, name="side") for camera in BODY.cameras)
    with pytest.raises(UnknownNameError, match="camera"):
        OpenVLAPolicy(embodiment=replace(BODY, cameras=cameras), **parts)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="state: dimensions differ"):
        policy("l1", proprio=3)
    session = chosen.start("go left", seed=0)
    with pytest.raises(ContractError, match="state"):
        chosen.predict(session, replace(observed(), state=np.zeros(3, np.float32)))
