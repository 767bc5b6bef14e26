"""The learned judges: what they look at, what they refuse, that they learn, and what the shipped ones tell apart."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from actloop.actions.normalizers import Normalizer
from actloop.checks.evidence import Check, Evidence
from actloop.contracts import ActionChunk, Camera, Embodiment, Future, Observation, Part, Prediction, Space
from actloop.errors import CheckpointError, ContractError, DataError, UnknownNameError
from actloop.models.judge import Judge, JudgeConfig, Judging, resized
from actloop.models.text import Vocabulary
from actloop.models.value import (
    OutcomeScorer,
    Value,
    imagined_value,
    load_scorer,
    load_value,
    save_value,
)
from actloop.models.verifier import (
    Verifier,
    expected_state,
    load_verifier,
    moment_numbers,
    nearest_imagined,
    numbers_size,
    path_of,
    rest_of,
    save_verifier,
)
from actloop.training.judged import auprc, auroc
from actloop.training.judges import JudgeRecipe
from actloop.training.moments import Perturber, evidence, is_late, moments, usual_ticks
from actloop.training.rollouts import Rollout, read, read_rollouts, roll_out, write
from actloop.training.twins import collect_twins, twin
from actloop.training.verify import held_out, train_on

SHIPPED = Path(str(files("actloop"))) / "weights" / "tabletop"
HORIZON = 6
WORDS = "touch the square"
BODY = Embodiment(
    name="pointer",
    cameras=(Camera(name="top", height=16, width=16), Camera(name="side", height=16, width=16)),
    state=Space(parts=(Part(name="position", unit="m", low=(-1.0,), high=(1.0,)),)),
    action=Space(
        parts=(
            Part(name="position", unit="m", low=(-0.2,), high=(0.2,), kind="delta"),
            Part(name="gripper", unit="m", low=(0.0,), high=(1.0,), neutral=(0.0,)),
        )
    ),
    control_hz=10.0,
)


def one(value: float, count: int) -> Normalizer:
    return Normalizer(method="mean_std", offset=(0.0,) * count, scale=(value,) * count)


def judging(views: int, numbers: int, *, seed: int = 0, body: Embodiment = BODY) -> Judging:
    torch.manual_seed(seed)
    words = Vocabulary.of([WORDS, "leave it"], max_tokens=4)
    config = JudgeConfig(
        cameras=len(body.cameras), views=views, numbers=numbers, words=words.size, tokens=4, pixels=16, channels=8
    )
    normalizers = {
        "state": one(0.5, body.state.size),
        "path": one(0.5, body.action.size),
        "strayed": one(0.1, body.state.size),
    }
    return Judging(
        network=Judge(config).eval(), embodiment=body, vocabulary=words, normalizers=normalizers, facts={"seed": seed}
    )


def verifier(*, views: int = 3, seed: int = 0) -> Verifier:
    return Verifier(judging(views, numbers_size(BODY, HORIZON), seed=seed), horizon=HORIZON)


def value(seed: int = 0) -> Value:
    return Value(judging(1, BODY.state.size, seed=seed))


def picture(square: float, hand: float) -> np.ndarray:
    """A red square and a green line at places in -1..1."""
    image = np.full((16, 16, 3), 30, np.uint8)
    column = round((square + 1) * 6.5)
    image[6:10, column : column + 2] = (220, 30, 30)
    image[:4, round((hand + 1) * 7.5)] = (30, 220, 30)
    return image


def observation(tick: int, *, square: float = 0.5, hand: float = 0.0) -> Observation:
    images = {camera.name: picture(square, hand) for camera in BODY.cameras}
    return Observation(images=images, state=np.array([hand], np.float32), tick=tick, time=tick / 10)


def plan(tick: int = 0, *, deltas: float = 0.1) -> ActionChunk:
    actions = np.tile(np.array([deltas, 1.0], np.float32), (HORIZON, 1))
    return ActionChunk(actions=actions, anchor=tick, period=0.1, observed_at=tick / 10)


def future(chunk: ActionChunk, *, count: int = 2, period: float = 0.2, follows: bool = False) -> Future:
    frames = {camera.name: np.stack([picture(0.5, 0.1 * i) for i in range(count)]) for camera in BODY.cameras}
    return Future(frames=frames, chunk=chunk, period=period, follows_chunk=follows)


def moment(now: int = 2, *, imagined: bool = False) -> Evidence:
    chunk = plan()
    return Evidence(
        observation=observation(now, hand=0.1 * now),
        anchor=observation(0),
        prediction=Prediction(chunk=chunk, future=future(chunk) if imagined else None),
        progress=float(now),
        sent=chunk.actions[:now],
        instruction=WORDS,
    )


class TestScore:
    def test_is_a_check(self) -> None:
        found = verifier()
        assert isinstance(found, Check)
        assert found.name == "verifier"
        found.begin(BODY, WORDS, seed=0)
        score = found.score(moment(3))
        assert score is not None
        assert 0 < score.value < 1
        assert score.lead == 3

    def test_none_where_an_image_is_missing(self) -> None:
        seen = moment()
        without = {"top": seen.anchor.images["top"]}
        assert verifier().score(replace(seen, observation=replace(seen.observation, images=without))) is None
        assert verifier().score(replace(seen, anchor=replace(seen.anchor, images={}))) is None
        with pytest.raises(ContractError, match="side"):
            verifier().fits(replace(seen.observation, images=without), plan(), WORDS)

    @pytest.mark.parametrize("change", ["now", "anchor", "future", "rest", "words", "sent", "state"])
    def test_everything_that_it_is_told_matters(self, change: str) -> None:
        base = moment(imagined=True)
        shifted = replace(base.prediction.chunk, actions=base.prediction.chunk.actions * 0.5)
        changed = {
            "now": replace(base, observation=replace(base.observation, images=observation(2, square=-0.5).images)),
            "anchor": replace(base, anchor=replace(base.anchor, images=observation(2, square=-0.5).images)),
            "future": replace(base, prediction=replace(base.prediction, future=None)),
            "rest": replace(base, prediction=replace(base.prediction, chunk=shifted)),
            "words": replace(base, instruction="leave it"),
            "sent": replace(base, sent=base.sent * 3),
            "state": replace(base, anchor=replace(base.anchor, state=base.anchor.state + 0.3)),
        }[change]
        first, second = verifier().score(base), verifier().score(changed)
        assert first is not None
        assert second is not None
        assert first.value != second.value

    def test_without_the_third_view_imagined_frames_are_not_looked_at(self) -> None:
        blind = verifier(views=2)
        assert not blind.imagines
        assert blind.score(moment(imagined=True)) == blind.score(moment())

    def test_only_the_rest_of_the_chunk_counts(self) -> None:
        seen = moment(2)
        done = seen.prediction.chunk.actions.copy()
        done[:2] = 0.0
        other = replace(seen, prediction=Prediction(chunk=replace(seen.prediction.chunk, actions=done)))
        assert verifier().score(other) == verifier().score(seen)
        assert len(rest_of(replace(seen, progress=2.5))) == HORIZON - 2
        assert len(rest_of(replace(seen, progress=float(HORIZON)))) == 0
        assert verifier().score(replace(seen, progress=float(HORIZON))) is not None

    def test_numbers_have_their_places(self) -> None:
        told = moment_numbers(
            replace(moment(2), anchor=observation(0, hand=-0.05)),
            None,
            BODY,
            {"state": one(1.0, 1), "path": one(1.0, 2), "strayed": one(0.1, 1)},
            HORIZON,
        )
        lead = [2 / HORIZON, 0.0, 0.0]
        state = [0.2, 0.5]
        sent = [0.2, 1.0]
        rest = [number for step in range(1, 5) for number in (0.1 * step, 1.0, 1.0)] + [0.0] * 6
        np.testing.assert_allclose(told, lead + state + sent + rest, atol=1e-6)

    @pytest.mark.parametrize(("now", "index", "ahead"), [(0, 0, 2), (2, 0, 0), (4, 1, 0), (6, 1, -2)])
    def test_the_imagined_frame_nearest_to_now(self, now: int, index: int, ahead: float) -> None:
        found = nearest_imagined(moment(now, imagined=True))
        assert found is not None
        assert found[0] == index
        assert found[1] == pytest.approx(ahead)

    def test_shipped_sizes_are_small(self) -> None:
        config = JudgeConfig(cameras=2, views=3, numbers=numbers_size(BODY, 16) + 16 * 2, words=30, tokens=11)
        assert 100_000 < sum(p.numel() for p in Judge(config).parameters()) < 310_000

    def test_other_sizes_are_averaged_down(self) -> None:
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[:2, :2] = [[[100] * 3, [200] * 3], [[0] * 3, [20] * 3]]
        small = resized(frame, 16)
        assert small.shape == (16, 16, 3)
        assert small[0, 0].tolist() == [80] * 3
        assert (resized(small, 16) == small).all()
        assert resized(np.stack([frame] * 3), 16).shape == (3, 16, 16, 3)


class TestRefusals:
    def test_another_robot(self) -> None:
        other = replace(BODY, control_hz=20.0)
        with pytest.raises(ContractError, match="control_hz"):
            verifier().begin(other, WORDS, seed=0)

    def test_an_unknown_word(self) -> None:
        with pytest.raises(UnknownNameError, match="squares"):
            verifier().begin(BODY, "touch the squares", seed=0)

    def test_sizes_that_do_not_fit(self) -> None:
        with pytest.raises(ContractError, match="numbers"):
            Verifier(judging(3, 5), horizon=HORIZON)
        with pytest.raises(ContractError, match="1 view"):
            Value(judging(3, 1))
        with pytest.raises(ContractError, match="pixels by 4"):
            JudgeConfig(cameras=1, views=1, numbers=1, words=1, tokens=1, pixels=18)

    def test_a_value_of_too_few_frames(self) -> None:
        frames = future(plan()).frames
        with pytest.raises(ContractError, match=r"frames\.side"):
            value().judge({"top": frames["top"]}, np.zeros((2, 1), np.float32), WORDS)
        with pytest.raises(ContractError, match=r"frames\.top"):
            value().judge(frames, np.zeros((3, 1), np.float32), WORDS)


class TestFiles:
    def test_a_verifier_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        first = verifier()
        save_verifier(first, tmp_path / "verifier.safetensors")
        again = load_verifier(tmp_path / "verifier.safetensors", embodiment=BODY)
        assert again.identity == first.identity
        assert again.horizon == HORIZON
        assert again.judging.facts == {"seed": 0}
        for number in range(HORIZON):
            assert again.score(moment(number, imagined=True)) == first.score(moment(number, imagined=True))
        assert verifier(seed=1).identity != first.identity

    def test_a_value_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        save_value(value(), tmp_path / "value.safetensors")
        frames, states = future(plan()).frames, np.array([[0.1], [0.4]], np.float32)
        again = load_value(tmp_path / "value.safetensors")
        assert (again.judge(frames, states, WORDS) == value().judge(frames, states, WORDS)).all()
        assert again.identity == value().identity

    def test_another_robot_or_format(self, tmp_path: Path) -> None:
        save_verifier(verifier(), tmp_path / "one.safetensors")
        with pytest.raises(CheckpointError, match="was trained for 'pointer'"):
            load_verifier(tmp_path / "one.safetensors", embodiment=replace(BODY, name="arm"))
        with pytest.raises(CheckpointError, match=r"actloop\.value"):
            load_value(tmp_path / "one.safetensors")
        with pytest.raises(CheckpointError, match="no such file"):
            load_verifier(tmp_path / "none.safetensors")
        (tmp_path / "text.safetensors").write_text("nothing of the kind")
        with pytest.raises(CheckpointError, match="not a readable"):
            load_verifier(tmp_path / "text.safetensors")

    @pytest.mark.parametrize("damage", ["config", "words", "embodiment", "numbers", "tensor"])
    def test_damage_is_named(self, damage: str, tmp_path: Path) -> None:
        path = tmp_path / "one.safetensors"
        save_verifier(verifier(), path)
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["actloop"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        if damage == "tensor":
            tensors.pop("place")
        elif damage == "numbers":
            header["config"]["numbers"] += 1
        else:
            del header[damage]
        save_file(tensors, path, {"actloop": json.dumps(header)})
        with pytest.raises(CheckpointError):
            load_verifier(path)


class TestOutcomes:
    def test_parts_are_averaged(self) -> None:
        obs, chunk = observation(0), plan()
        imagined = future(chunk, follows=True)
        fits = verifier().fits(obs, chunk, WORDS, imagined)
        worth = imagined_value(value(), obs, chunk, imagined, WORDS)
        both = OutcomeScorer(verifier=verifier(), value=value())
        assert both.score(obs, chunk, imagined, WORDS) == pytest.approx((fits + worth) / 2)
        assert OutcomeScorer(value=value()).score(obs, chunk, imagined, WORDS) == pytest.approx(worth)
        assert both.score(obs, chunk, None, WORDS) == pytest.approx(verifier().fits(obs, chunk, WORDS))

    def test_a_future_that_is_not_the_chunks_has_no_value(self) -> None:
        with pytest.raises(ContractError, match="follows the chunk"):
            OutcomeScorer(value=value()).score(observation(0), plan(), future(plan()), WORDS)
        with pytest.raises(ContractError, match="verifier, a value"):
            OutcomeScorer()

    def test_parts_are_for_one_robot(self, tmp_path: Path) -> None:
        save_verifier(verifier(), tmp_path / "verifier.safetensors")
        save_value(Value(judging(1, 1, body=replace(BODY, name="arm"))), tmp_path / "value.safetensors")
        with pytest.raises(ContractError, match="different robots"):
            load_scorer(verifier=tmp_path / "verifier.safetensors", value=tmp_path / "value.safetensors")
        assert load_scorer(value=tmp_path / "value.safetensors").identity.startswith("value-")

    def test_the_frame_and_state_that_the_chunk_leads_to(self) -> None:
        chunk = plan()
        imagined = future(chunk, count=5, follows=True)  # the third is the last within 6 ticks
        frames = {name: found[2:3] for name, found in imagined.frames.items()}
        there = value().judge(frames, np.array([[0.6]], np.float32), WORDS)[0]
        assert imagined_value(value(), observation(0), chunk, imagined, WORDS) == pytest.approx(float(there))

    def test_expected_state(self) -> None:
        parts = [Part(name=kind, unit="m", low=(-1.0,), high=(1.0,)) for kind in ("delta", "velocity", "absolute")]
        sensed = Space(parts=(*parts, Part(name="force", unit="N", low=(0.0,), high=(9.0,))))
        told = Space(parts=tuple(replace(part, kind=part.name) for part in parts))
        body = replace(BODY, state=sensed, action=told)
        actions = np.array([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]], np.float32)
        start = np.array([0.5, 0.5, 0.5, 3.0], np.float32)
        np.testing.assert_allclose(path_of(actions, body), [[0.1, 0.1, 0.1], [0.3, 0.3, 0.2]], rtol=1e-6)
        np.testing.assert_allclose(expected_state(body, start, actions), [0.8, 0.53, 0.2, 3.0], rtol=1e-6)
        assert expected_state(body, start, actions[:0]).tolist() == start.tolist()
        assert expected_state(body, start, np.full((2, 3), 0.9, np.float32))[0] == 1.0


def rollout(number: int, *, disturbance: str = "", at: int = -1, success: bool = True, ticks: int = 12) -> Rollout:
    """A hand that reaches for a square; a `jump` puts the square on the other side."""
    rng = np.random.default_rng(number)
    square = float(rng.choice([-1, 1]) * rng.uniform(0.3, 0.7))
    asked = list(range(0, ticks, HORIZON))
    hand, seen, chunks, sent = 0.0, [], [], []
    for tick in range(ticks + 1):
        if tick == at:
            square = -square
        if tick in asked:
            chunks.append(plan(deltas=(square - hand) / HORIZON).actions)
        seen.append(observation(tick, square=square, hand=hand))
        if tick < ticks:
            sent.append(chunks[-1][tick % HORIZON])
            hand += float(sent[-1][0])
    frames = {name: np.stack([obs.images[name] for obs in seen]) for name in seen[0].images}
    return Rollout(
        arm="hand",
        task="touch",
        instruction=WORDS if number % 2 else "leave it",
        number=number,
        success=success,
        reason="done",
        disturbance=disturbance,
        disturbed_at=at,
        images=frames,
        states=np.stack([obs.state for obs in seen]),
        sent=np.stack(sent),
        asked=np.array(asked),
        chunks=np.stack(chunks),
        imagined={name: found[asked][:, None] for name, found in frames.items()},
        imagined_after=np.array([3.0], np.float32),
    )


def kinds(of: Rollout) -> str:
    """The kind of every tick by its first letter, `.` where it was left out."""
    found = {moment.now: moment.kind[0] for moment in moments(of, 0, 10.0)}
    return "".join(found.get(tick, ".") for tick in range(of.ticks + 1))


class TestMoments:
    @pytest.mark.parametrize(
        ("made", "expected"),
        [
            (rollout(0), "fffffffffffff"),
            (rollout(0, disturbance="jump", at=3), "fffjjjfffffff"),
            (rollout(0, disturbance="jump", at=3, success=False), "...jjj......."),
            (rollout(0, disturbance="push", at=3), "fff.pp......."),
            (rollout(0, success=False, ticks=18), "........fffffffffff"),
        ],
    )
    def test_labels(self, made: Rollout, expected: str) -> None:
        assert kinds(made) == expected

    def test_failures_are_not_executable(self) -> None:
        found = moments(rollout(0, success=False), 0, 10.0)
        assert {(moment.kind, moment.label) for moment in found} == {("failure", 1)}

    def test_evidence_is_what_a_check_would_get(self) -> None:
        made = rollout(0, disturbance="jump", at=8)
        found = [evidence(made, moment, BODY) for moment in moments(made, 0, 10.0)][9]
        assert found.observation.tick == 9
        assert found.anchor.tick == 6
        assert found.lead == found.progress == 3
        assert (found.sent == made.sent[6:9]).all()
        assert (found.prediction.chunk.actions == made.chunks[1]).all()
        assert found.prediction.future is not None
        assert found.prediction.future.period == pytest.approx(0.3)

    def test_perturbing_leaves_what_was_done(self) -> None:
        made = [rollout(number) for number in range(4)]
        perturb = Perturber(made, BODY, one(0.5, 2), np.random.default_rng(0))
        first = moments(made[0], 0, 10.0)[2]
        found = evidence(made[0], first, BODY)
        seen = set()
        for _ in range(40):
            changed = perturb(found, first)
            assert changed is not None
            seen.add(changed[1])
            actions = changed[0].prediction.chunk.actions
            assert (actions[:2] == found.prediction.chunk.actions[:2]).all()
            if changed[1] == "shifted":
                aside = np.abs(path_of(actions, BODY)[-1] - path_of(found.prediction.chunk.actions, BODY)[-1])
                assert 0.2 < aside[0] < 0.8
                assert aside[1] == 0
            if changed[1] == "otherwise":
                assert changed[0].instruction != found.instruction
        assert seen == {"shifted", "elsewhere", "otherwise"}
        last = moments(made[0], 0, 10.0)[5]
        assert perturb(evidence(made[0], last, BODY), last) is None

    def test_late_is_longer_than_usual_since_the_disturbance(self) -> None:
        usual = {"touch": 12.0}
        assert not is_late(rollout(0), usual)
        assert is_late(rollout(0, ticks=18), usual)
        assert not is_late(rollout(0, disturbance="jump", at=3, ticks=18), usual)
        assert not is_late(rollout(0, ticks=18), {})

    def test_usual_length_is_of_undisturbed_successes(self) -> None:
        made = [rollout(0), rollout(1, disturbance="jump", at=3, ticks=18), rollout(2, success=False, ticks=6)]
        assert usual_ticks(made) == {"touch": 12.0}


class TestTraining:
    def test_learns_what_can_be_seen(self, tmp_path: Path) -> None:
        made = [rollout(n, disturbance="jump" if n % 2 else "", at=2 + n % 3 if n % 2 else -1) for n in range(60)]
        losses: dict[str, list[float]] = {"verifier": [], "value": []}
        recipe = JudgeRecipe(steps=60, batch_size=32, pixels=16, hold_out=0.3)
        report = train_on(
            made, BODY, tmp_path, verifier=recipe, value=recipe, progress=lambda who, _, loss: losses[who].append(loss)
        )
        assert np.mean(losses["verifier"][-20:]) < 0.8 * np.mean(losses["verifier"][:20])
        assert np.mean(losses["value"][-20:]) < np.mean(losses["value"][:20])
        assert report["verifier"]["jump"]["auroc"] > 0.9
        assert json.loads((tmp_path / "report.json").read_text()) == report
        trained = load_verifier(tmp_path / "verifier.safetensors", embodiment=BODY)
        assert trained.judging.facts["report"] == report["verifier"]
        assert load_value(tmp_path / "value.safetensors").judging.facts["episodes"] == report["facts"]["episodes"]

    def test_nothing_to_learn_from(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="too few"):
            train_on([rollout(0, success=False)], BODY, tmp_path)
        with pytest.raises(ContractError, match="steps"):
            JudgeRecipe(steps=0)

    def test_held_out_by_number_alone(self) -> None:
        made = rollout(0)
        share = np.mean([held_out(replace(made, number=number), 0.2) for number in range(500)])
        assert 0.15 < share < 0.25

    def test_ranks(self) -> None:
        scores, positive = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
        assert auroc(scores, positive) == pytest.approx(3.5 / 4)
        assert auprc(scores, positive) == pytest.approx(1.0)
        assert auprc(-scores, positive) == pytest.approx((1 / 2 + 2 / 4) / 2)
        assert np.isnan(auroc(scores, np.zeros(4, bool)))


class TestRollouts:
    def test_written_and_read(self, tmp_path: Path) -> None:
        made = rollout(3, disturbance="jump", at=4)
        write(tmp_path / "000003.npz", made)
        (again,) = read_rollouts(tmp_path)
        for name in ("states", "sent", "asked", "chunks", "imagined_after"):
            assert (getattr(again, name) == getattr(made, name)).all()
        assert all((again.images[name] == frames).all() for name, frames in made.images.items())
        assert all((again.imagined[name] == frames).all() for name, frames in made.imagined.items())
        assert (again.disturbance, again.disturbed_at, again.number) == ("jump", 4, 3)

    def test_unreadable(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no rollouts"):
            read_rollouts(tmp_path)
        (tmp_path / "000000.npz").write_bytes(b"PK\x03\x04 and then nothing")
        with pytest.raises(DataError, match="delete it"):
            read(tmp_path / "000000.npz")
        np.savez(tmp_path / "000001.npz", facts=np.array("{}"))
        with pytest.raises(DataError, match="not a rollout"):
            read(tmp_path / "000001.npz")


class TestTwins:
    """Of one episode of a shipped policy on the tabletop."""

    @pytest.fixture(scope="class")
    @staticmethod
    def played() -> tuple[Any, Rollout]:
        pytest.importorskip("mujoco")
        from actloop.models.checkpoint import load_policy
        from actloop.simulation.tabletop import Tabletop

        world, policy = Tabletop(), load_policy(SHIPPED / "action-conditioned.safetensors")
        task = replace(world.tasks["pick-red"], time_limit=2.0)
        return world, roll_out(world, policy, task, arm="it", seed=5, number=0, disturb_share=0.0)

    def test_an_episode_is_whole(self, played: tuple[Any, Rollout]) -> None:
        world, made = played
        assert made.disturbance == ""
        assert made.asked[0] == 0
        assert len(made.states) == made.ticks + 1
        assert all(len(frames) == made.ticks + 1 for frames in made.images.values())
        assert made.imagined_after.tolist() == [8.0]
        assert made.imagined["front"].shape == (len(made.asked), 1, 64, 64, 3)
        assert made.success == (world.outcome().reason == "done")

    def test_a_twin_is_the_episode_until_its_disturbance(self, played: tuple[Any, Rollout]) -> None:
        world, made = played
        task, rng = world.tasks["pick-red"], np.random.default_rng
        one = twin(world, made, task, names=("slip", "displace", "push"), seed=5, rng=rng(3))
        two = twin(world, made, task, names=("slip", "displace", "push"), seed=5, rng=rng(3))
        assert one is not None
        assert two is not None
        anchor = int(made.asked[(made.chunks == one.chunks[0]).all((1, 2)).argmax()])
        at = one.disturbed_at
        assert at >= 1
        assert (one.images["front"][:at] == made.images["front"][anchor : anchor + at]).all()
        assert (one.states == two.states).all()
        assert (one.images["wrist"] == two.images["wrist"]).all()
        assert (one.images["front"][at:] != made.images["front"][anchor + at]).any()
        assert {moment.kind for moment in moments(one, 0, 10.0)} == {one.disturbance}

    def test_a_world_that_does_not_repeat_is_refused(self, played: tuple[Any, Rollout]) -> None:
        world, made = played
        other = replace(made, states=made.states + 0.01)
        with pytest.raises(ContractError, match="does not repeat"):
            twin(world, other, world.tasks["pick-red"], names=("push",), seed=5, rng=np.random.default_rng(0))

    def test_collecting_goes_on_where_it_was_cut(self, played: tuple[Any, Rollout], tmp_path: Path) -> None:
        world, made = played
        first = collect_twins(tmp_path, world, [made], each=1, seed=5)
        files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        again = collect_twins(tmp_path, world, [made], each=2, seed=5)
        assert len(first) == 1
        assert len(again) == 2
        assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in files.items())


class TestShipped:
    """On seeds of the tabletop that nobody trained on."""

    def test_small_and_quick_to_read(self) -> None:
        for name in ("verifier", "value"):
            assert (SHIPPED / "checks" / f"{name}.safetensors").stat().st_size < 1.5e6

    def test_tells_a_disturbed_moment_from_an_undisturbed_one(self) -> None:
        """The same chunk of the same policy, with and without the named block moved half-way."""
        pytest.importorskip("mujoco")
        from actloop.models.checkpoint import load_policy
        from actloop.simulation.tabletop import Tabletop

        world, policy = Tabletop(), load_policy(SHIPPED / "fast.safetensors")
        shipped = load_verifier(SHIPPED / "checks" / "verifier.safetensors", embodiment=world.embodiment)
        found: dict[str, list[float]] = {"": [], "displace": []}
        for seed in range(700_000, 700_010):
            for disturbance, scores in found.items():
                task = world.tasks["place-left-green"]
                obs = world.reset(task, seed=seed)
                shipped.begin(world.embodiment, task.instruction, seed=0)
                _, prediction = policy.predict(policy.start(task.instruction, seed=0), obs)
                sent = [world.apply(prediction.chunk.actions[0])]
                if disturbance:
                    world.disturb(disturbance, seed=seed)
                sent += [world.apply(action) for action in prediction.chunk.actions[1:4]]
                score = shipped.score(
                    Evidence(
                        observation=world.observe(),
                        anchor=obs,
                        prediction=prediction,
                        progress=4.0,
                        sent=np.stack(sent),
                        instruction=task.instruction,
                    )
                )
                assert score is not None
                scores.append(score.value)
        assert np.mean(found["displace"]) > np.mean(found[""]) + 0.2

    def test_progress_rises_on_the_way(self) -> None:
        pytest.importorskip("mujoco")
        from actloop.simulation.tabletop import Tabletop

        world = Tabletop()
        shipped = load_value(SHIPPED / "checks" / "value.safetensors", embodiment=world.embodiment)
        task, seen = world.tasks["pick-red"], []
        obs = world.reset(task, seed=700_001)
        while world.outcome() is None:
            seen.append(obs)
            world.apply(world.demonstrate())
            obs = world.observe()
        seen.append(obs)
        frames = {name: np.stack([obs.images[name] for obs in seen]) for name in obs.images}
        judged = shipped.judge(frames, np.stack([obs.state for obs in seen]), task.instruction)
        assert judged[-1] > judged[0] + 0.4
        assert np.corrcoef(judged, np.arange(len(judged)))[0, 1] > 0.8
