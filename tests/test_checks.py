"""The checks: each sees what it is for, is quiet where nothing is wrong, and refuses what it cannot compare."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from actloop.checks.both import Both
from actloop.checks.cameras import FrozenCamera
from actloop.checks.checker import Checker, checks_named
from actloop.checks.evidence import Check, Evidence, Overtaken, Score
from actloop.checks.grasp import Grasp
from actloop.checks.normaliser import Normaliser
from actloop.checks.novelty import Novelty
from actloop.checks.pictures import NOTHING, Foresight, LatentForesight, difference
from actloop.checks.plans import Disagreement, Spread, spread, stac
from actloop.checks.proprioception import Proprioception
from actloop.contracts import ActionChunk, Camera, Embodiment, Future, Observation, Part, Prediction, Space
from actloop.errors import ContractError, UnknownNameError

PERIOD = 0.1


def body(kind: str = "delta", unit: str = "m", state_unit: str = "m") -> Embodiment:
    """Two axes of range 1 and a gripper of range 0.1; sixteen-pixel cameras."""
    axes = Part(name="axes", unit=unit, low=(-0.5, -0.5), high=(0.5, 0.5), kind=kind)  # type: ignore[arg-type]
    gripper = Part(name="gripper", unit="m", low=(0.0,), high=(0.1,))
    return Embodiment(
        name="two-axes",
        cameras=tuple(Camera(name=name, height=16, width=16) for name in ("front", "wrist")),
        state=Space(parts=(replace(axes, kind="absolute", unit=state_unit), gripper)),
        action=Space(parts=(axes, gripper)),
        control_hz=1 / PERIOD,
    )


def picture(level: float) -> np.ndarray:
    return np.full((16, 16, 3), round(level), dtype=np.uint8)


def seen(tick: int, *state: float, level: float | None = None) -> Observation:
    frame = picture(10 * tick if level is None else level)
    values = np.array(state or (0.0, 0.0, 0.1), dtype=np.float32)
    return Observation(images={"front": frame, "wrist": frame}, state=values, tick=tick, time=tick * PERIOD)


def plan(anchor: int, actions: Any = None, future: Sequence[np.ndarray] = (), **about: Any) -> Prediction:
    rows = np.zeros((8, 3), dtype=np.float32) if actions is None else np.asarray(actions, dtype=np.float32)
    chunk = ActionChunk(actions=rows, anchor=anchor, period=PERIOD, observed_at=anchor * PERIOD)
    if not len(future):
        return Prediction(chunk=chunk)
    frames = {"front": np.stack(list(future))}
    return Prediction(chunk=chunk, future=Future(frames=frames, chunk=chunk, period=4 * PERIOD, **about))


def moment(now: Observation, anchor: Observation, sent: Any = None, **about: Any) -> Evidence:
    lead = now.tick - anchor.tick
    rows = np.zeros((lead, 3), dtype=np.float32) if sent is None else np.asarray(sent, dtype=np.float32)
    given: dict[str, Any] = {"prediction": plan(anchor.tick), "progress": float(lead), "instruction": "go", **about}
    return Evidence(observation=now, anchor=anchor, sent=rows, **given)


def begun(check: Any, embodiment: Embodiment | None = None) -> Any:
    check.begin(embodiment or body(), "go", seed=0)
    return check


def walk(check: Check, states: Sequence[Sequence[float]], sent: Sequence[Sequence[float]]) -> list[Score | None]:
    """One look each tick, a plan in force since tick 0."""
    anchor = seen(0, *states[0])
    return [check.score(moment(seen(t, *states[t]), anchor, sent[:t])) for t in range(1, len(states))]


CHECKS = (
    Proprioception(),
    Grasp(),
    FrozenCamera(),
    Foresight(camera="front"),
    LatentForesight(camera="front", embed=np.ravel, encoder="pixels"),
    Disagreement(),
    Spread(sample=lambda evidence: [evidence.prediction.chunk] * 2, sampler="same"),
    Novelty(embed=lambda obs: obs.state, encoder="state", reference=np.zeros((5, 3))),
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_every_check_honours_the_protocol_and_forgets_the_last_episode(check: Check) -> None:
    assert isinstance(check, Check)
    again = replace(check)  # type: ignore[type-var]
    assert again.identity == check.identity  # type: ignore[attr-defined]

    def episode() -> list[Score | None]:
        begun(check)
        old = plan(0, np.ones((8, 3)) * 0.1, [picture(40), picture(80)])
        looks = [moment(seen(t, 0.01 * t, 0, 0.1), seen(0), prediction=old) for t in range(1, 6)]
        new = {"prediction": plan(5), "overtaken": Overtaken(prediction=old, offset=5.0)}
        return [check.score(look) for look in [*looks, moment(seen(6), seen(5), **new)]]

    first = episode()
    assert first == episode()
    if check.name != "grasp":
        assert any(score is not None for score in first)


@pytest.mark.parametrize("check", CHECKS[:6], ids=lambda check: check.name)
def test_a_check_that_was_not_begun_says_so(check: Check) -> None:
    fresh = replace(check)  # type: ignore[type-var]
    with pytest.raises(ContractError, match="begin"):
        fresh.score(moment(seen(1), seen(0)))  # type: ignore[attr-defined]


def test_identities_tell_parameters_apart() -> None:
    assert Proprioception().identity != Proprioception(window=3).identity
    assert Foresight(camera="front").identity != Foresight(camera="front", cell=4).identity
    one, other = (Novelty(embed=np.ravel, encoder="e", reference=np.full((5, 1), x)) for x in (0.0, 1.0))
    assert one.identity != other.identity


class TestProprioception:
    def test_a_body_that_follows_its_deltas_scores_nothing(self) -> None:
        scores = walk(
            begun(Proprioception()),
            [(0, 0, 0.1), (0.02, 0, 0.1), (0.04, 0.01, 0.1)],
            [(0.02, 0, 0.1), (0.02, 0.01, 0.1)],
        )
        assert [score.lead for score in scores if score] == [1, 1]
        assert [score.value for score in scores if score] == pytest.approx([0, 0], abs=1e-7)

    def test_a_lag_of_one_tick_is_forgiven_and_a_shove_is_not(self) -> None:
        sent = [(0.02, 0, 0.1)] * 2
        lagging = walk(begun(Proprioception()), [(0, 0, 0.1), (0.012, 0, 0.1), (0.03, 0, 0.1)], sent)
        assert all(score is not None and score.value == pytest.approx(0, abs=1e-7) for score in lagging)
        shoved = walk(begun(Proprioception()), [(0, 0, 0.1), (0.02, 0, 0.1), (0.04, 0.03, 0.1)], sent)[-1]
        assert shoved is not None
        assert shoved.value == pytest.approx(np.sqrt(0.03**2 / 2), rel=1e-5)  # root mean square of (0, 0.03), range 1

    def test_a_window_sums_over_plans(self) -> None:
        """Drift of 1 mm per tick; the plan is replaced at tick 2, and what was sent before it is remembered."""
        check = begun(Proprioception(window=3, lag=0))
        states = [(0.001 * tick, 0.0, 0.1) for tick in range(5)]
        for tick in (1, 2):
            check.score(moment(seen(tick, *states[tick]), seen(0, *states[0])))
        scores = [check.score(moment(seen(t, *states[t]), seen(2, *states[2]))) for t in (3, 4)]
        assert [score.lead for score in scores] == [3, 3]
        assert scores[-1].value == pytest.approx(np.sqrt(0.003**2 / 2), rel=1e-4)

    def test_without_looks_in_between_it_goes_back_to_the_anchor(self) -> None:
        sent = [(0.01, 0, 0.1)] * 6
        score = begun(Proprioception()).score(moment(seen(6, 0.06, 0.02, 0.1), seen(0), sent))
        assert (score.lead, score.value) == (6, pytest.approx(np.sqrt(0.02**2 / 2), rel=1e-5))

    def test_absolute_targets(self) -> None:
        check = begun(Proprioception(), body("absolute"))
        scores = walk(check, [(0, 0, 0.1), (0.05, 0, 0.1), (0.1, 0.2, 0.1)], [(0.1, 0, 0.1), (0.1, 0, 0.1)])
        values = [score.value for score in scores if score]
        assert values == pytest.approx([0, np.sqrt(0.2**2 / 2)], abs=1e-7)

    @pytest.mark.parametrize(("state_unit", "state"), [("m", 0.05), ("m/s", 0.5)])
    def test_velocities_are_integrated_unless_they_are_measured(self, state_unit: str, state: float) -> None:
        check = begun(Proprioception(), body("velocity", "m/s", state_unit))
        score = check.score(moment(seen(1, state, 0, 0.1), seen(0), [(0.5, 0, 0.1)]))
        assert score.value == pytest.approx(0, abs=1e-7)
        assert (
            begun(check, body("velocity", "m/s", state_unit))
            .score(moment(seen(1, 2 * state, 0, 0.1), seen(0), [(0.5, 0, 0.1)]))
            .value
            > 0.03
        )

    def test_scales_are_measured(self) -> None:
        check = begun(Proprioception(lag=0))
        residual = check.residual(moment(seen(1, 0.01, 0.002, 0.1), seen(0)))
        white = check.whitened([residual, -residual])
        assert white.scales == pytest.approx((0.01, 0.002), rel=1e-5)
        score = begun(white).score(moment(seen(1, 0.01, 0.002, 0.1), seen(0)))
        assert score.value == pytest.approx(1.0, rel=1e-5)
        with pytest.raises(ContractError, match="got none"):
            check.whitened([])

    def test_nothing_to_compare(self) -> None:
        assert begun(Proprioception()).score(moment(seen(0), seen(0))) is None
        assert begun(Proprioception(parts=())).score(moment(seen(1), seen(0))) is None

    @pytest.mark.parametrize(
        ("bad", "said"),
        [({"parts": ("elbow",)}, "elbow"), ({"scales": (1.0,)}, "expected 2, got 1")],
    )
    def test_refuses(self, bad: dict[str, Any], said: str) -> None:
        with pytest.raises(ContractError, match=said):
            begun(Proprioception(**bad))
        with pytest.raises(ContractError, match="window"):
            Proprioception(window=0)


class TestGrasp:
    HELD = ((0, 0, 0.1), (0, 0, 0.06), (0, 0, 0.05), (0, 0, 0.05), (0, 0, 0.05))
    CLOSE = ((0, 0, 0.01),)

    def test_a_lost_object_scores_one(self) -> None:
        scores = walk(begun(Grasp()), [*self.HELD, (0, 0, 0.01)], [*self.CLOSE * 5])
        assert [score.value for score in scores[-2:] if score] == pytest.approx([0, 1], abs=1e-6)

    def test_a_firm_hold_and_a_wanted_release_are_quiet(self) -> None:
        held = walk(begun(Grasp()), [*self.HELD, (0, 0, 0.0499)], [*self.CLOSE * 5])
        assert max(score.value for score in held if score) < 0.01
        release = walk(begun(Grasp()), [*self.HELD, (0, 0, 0.08)], [*self.CLOSE * 4, (0, 0, 0.09)])
        assert release[-1] is None

    def test_closing_on_nothing_is_no_loss(self) -> None:
        states = [(0, 0, x) for x in (0.1, 0.07, 0.04, 0.01, 0.01, 0.01)]
        assert not any(walk(begun(Grasp()), states, [*self.CLOSE * 5]))

    def test_fingers_that_start_late_are_not_held(self) -> None:
        states = [(0, 0, x) for x in (0.1, 0.1, 0.1, 0.1, 0.06, 0.02, 0.01)]
        sent = [(0, 0, 0.1), (0, 0, 0.1), *self.CLOSE * 4]
        assert not any(walk(begun(Grasp()), states, sent))

    def test_a_command_that_is_high_where_it_closes(self) -> None:
        scores = walk(begun(Grasp(inverted=True)), [*self.HELD, (0, 0, 0.01)], [(0, 0, 0.09)] * 5)
        assert scores[-1] is not None
        assert scores[-1].value == pytest.approx(1, abs=1e-6)

    def test_a_body_without_a_gripper_is_left_alone(self) -> None:
        assert not any(walk(begun(Grasp(part="suction")), list(self.HELD), [*self.CLOSE * 4]))


class TestFrozenCamera:
    def test_a_picture_that_stands_still_while_the_robot_moves(self) -> None:
        check = begun(FrozenCamera())
        values = []
        for tick in range(1, 5):
            now = seen(tick, 0.1 * tick, 0, 0.1, level=10 * min(tick, 2))
            values.append(check.score(moment(now, seen(0))))
        assert values[0] is None
        assert [score.value for score in values[1:]] == pytest.approx([0, 0.1, 0.2], abs=1e-6)

    def test_the_worst_camera_counts_and_a_robot_at_rest_is_excused(self) -> None:
        check = begun(FrozenCamera())
        for tick, x in ((1, 0.0), (2, 0.2), (3, 0.0)):
            now = seen(tick, x, 0, 0.1)
            now = replace(now, images={**now.images, "wrist": picture(7)})
            score = check.score(moment(now, seen(0)))
            assert score is None or score.value == pytest.approx(x, abs=1e-6)
        assert begun(FrozenCamera(cameras=("front",))).score(moment(now, seen(0))) is None

    def test_noise_is_no_change_where_it_is_told_so(self) -> None:
        for noise, expected in ((0.0, 0.0), (3.0, 0.2)):
            check = begun(FrozenCamera(noise=noise))
            check.score(moment(seen(1, 0.0, 0, 0.1, level=100), seen(0)))
            score = check.score(moment(seen(2, 0.2, 0, 0.1, level=102), seen(0)))
            assert score.value == pytest.approx(expected, abs=1e-6)

    def test_refuses_a_camera_that_is_not_there(self) -> None:
        with pytest.raises(UnknownNameError, match="front"):
            begun(FrozenCamera(cameras=("frontt",)))


class TestForesight:
    def test_only_when_a_frame_is_due_and_relative_to_no_change(self) -> None:
        check = begun(Foresight(camera="front"))
        made = plan(0, None, [picture(100), picture(200)])
        anchor = seen(0, level=50)
        scores = {t: check.score(moment(seen(t, level=90), anchor, prediction=made)) for t in range(1, 10)}
        assert [t for t, score in scores.items() if score] == [4, 8]
        assert scores[4].lead == 4
        assert scores[4].value == pytest.approx((10 / 255) / (40 / 255 + NOTHING))
        plain = begun(Foresight(camera="front", relative=False))
        assert plain.score(moment(seen(4, level=90), anchor, prediction=made)).value == pytest.approx(10 / 255)

    def test_frames_outlive_their_plan_unless_they_follow_its_chunk(self) -> None:
        for follows, expected in ((False, 4), (True, None)):
            check = begun(Foresight(camera="front"))
            made = plan(0, None, [picture(100)], follows_chunk=follows)
            assert check.score(moment(seen(2), seen(0), prediction=made)) is None
            newer = plan(2, None, [picture(100)], follows_chunk=follows)
            score = check.score(moment(seen(4), seen(2), prediction=newer))
            assert (score and score.lead) == expected

    def test_a_robot_that_waited_is_not_where_it_was_imagined(self) -> None:
        made = plan(0, None, [picture(100)])
        check = begun(Foresight(camera="front"))
        assert check.score(moment(seen(4), seen(0), prediction=made, progress=1.5)) is None
        assert begun(check).score(moment(seen(4), seen(0), prediction=made, progress=3.0)) is not None

    def test_frames_are_not_asked_for_before_they_are_due(self) -> None:
        asked = []

        class Costly(dict[str, np.ndarray]):
            def __getitem__(self, camera: str) -> np.ndarray:
                asked.append(camera)
                return super().__getitem__(camera)

        made = plan(0, None, [picture(100)])
        assert made.future is not None
        made = replace(made, future=replace(made.future, frames=Costly(front=picture(1)[None])))
        check = begun(Foresight(camera="front"))
        asked.clear()
        assert check.score(moment(seen(3), seen(0), prediction=made)) is None
        assert not asked
        assert check.score(moment(seen(4), seen(0), prediction=made)) is not None
        assert asked

    def test_views(self) -> None:
        rng = np.random.default_rng(0)
        one = rng.integers(0, 200, size=(16, 16, 3), dtype=np.uint8)
        assert difference(one, one, "colour", 4) == difference(one, one, "gradient", 4) == 0
        lighter = one + np.uint8(50)
        assert difference(one, lighter, "colour", 4) == pytest.approx(50 / 255)
        assert difference(one, lighter, "gradient", 4) == pytest.approx(0, abs=1e-12)

    def test_latent(self) -> None:
        def embed(frame: np.ndarray) -> np.ndarray:
            return np.array([float(frame.mean()), 100.0])

        made = plan(0, None, [picture(100)])
        look = moment(seen(4, level=0), seen(0), prediction=made)
        cosine = begun(LatentForesight(camera="front", embed=embed, encoder="mean")).score(look)
        assert cosine.value == pytest.approx(1 - np.sqrt(0.5))
        white = LatentForesight(camera="front", embed=embed, encoder="mean", scales=np.array([50.0, 1.0]))
        assert begun(white).score(look).value == pytest.approx(np.sqrt(2.0**2 / 2))

    @pytest.mark.parametrize(
        "bad", [{"camera": "front", "view": "sound"}, {"camera": "front", "cell": 0}, {"camera": "rear"}]
    )
    def test_refuses(self, bad: dict[str, Any]) -> None:
        with pytest.raises((ContractError, TypeError)):  # a run that checks types is faster
            begun(Foresight(**bad))

    def test_refuses_cells_larger_than_the_picture(self) -> None:
        with pytest.raises(ContractError, match="do not fit"):
            difference(picture(1), picture(2), "colour", 32)


class TestDisagreement:
    def overlap(self, offset: float, progress: float, new: Any) -> Score | None:
        old = np.zeros((8, 3))
        old[:, 0] = 0.01 * np.arange(8)
        over = Overtaken(prediction=plan(0, old), offset=offset)
        look = moment(seen(5), seen(4), prediction=plan(4, new), progress=progress, overtaken=over)
        score: Score | None = begun(Disagreement()).score(look)
        return score

    @pytest.mark.parametrize("offset", [4.0, 3.5])
    def test_the_offset_lines_the_plans_up(self, offset: float) -> None:
        new = np.zeros((8, 3))
        new[:, 0] = 0.01 * (np.arange(8) + offset)
        same = self.overlap(offset, 1.0, new)
        assert same is not None
        assert (same.value, same.lead) == (pytest.approx(0, abs=1e-7), 4)
        apart = self.overlap(offset, 1.0, new + np.array([0.03, 0.04, 0.1]))
        assert apart is not None
        assert apart.value == pytest.approx(0.05, rel=1e-4)  # the gripper does not count

    def test_committed_ticks_and_no_overlap_do_not_count(self) -> None:
        new = np.zeros((8, 3))
        new[:, 0] = 0.01 * (np.arange(8) + 4)
        new[:2, 1] = 0.4  # committed: executed before the plan could begin
        late = self.overlap(4.0, 2.0, new)
        assert late is not None
        assert late.value == pytest.approx(0, abs=1e-7)
        assert self.overlap(4.0, 4.0, new) is None  # the old plan ended at its eighth action

    def test_once_per_plan(self) -> None:
        check = begun(Disagreement())
        over = Overtaken(prediction=plan(0), offset=4.0)
        looks = [moment(seen(t), seen(4), prediction=plan(4), overtaken=over) for t in (5, 6)]
        assert [check.score(look) is None for look in looks] == [False, True]

    def test_a_body_of_grippers_needs_names(self) -> None:
        grippers = replace(body(), action=Space(parts=body().action.parts[1:]))
        with pytest.raises(ContractError, match="only grippers"):
            begun(Disagreement(), grippers)
        begun(Disagreement(parts=("gripper",)), grippers)


def test_spread_is_the_deviation_of_samples() -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 5, 2)) * np.array([0.3, 0.4])
    assert spread(samples) == pytest.approx(0.5, rel=0.03)
    assert spread(np.zeros((3, 5, 2))) == 0
    with pytest.raises(ContractError, match="at least 2"):
        spread(np.zeros((1, 5, 2)))


def test_the_spread_check_asks_once_per_plan() -> None:
    asked = []

    def sample(evidence: Evidence) -> list[ActionChunk]:
        asked.append(evidence.observation.tick)
        return [plan(0, np.full((8, 3), x)).chunk for x in (-0.1, 0.1)]

    check = begun(Spread(sample=sample, sampler="two", first=4))
    scores = [check.score(moment(seen(t), seen(0))) for t in (1, 2)]
    assert asked == [1]
    assert scores[0].value == pytest.approx(np.sqrt(2 * 0.02))
    assert scores[1] is None


def test_stac() -> None:
    rng = np.random.default_rng(0)
    one, same, other = rng.normal(size=(3, 60, 4, 2))
    assert stac(one, one, beta=8.0) == 0
    assert stac(one, other + 3, beta=8.0) > 10 * stac(one, same, beta=8.0)
    assert stac(one[:1], other[:1] + 100, beta=1.0) == pytest.approx(2.0)
    with pytest.raises(ContractError, match="beta"):
        stac(one, same, beta=0.0)
    with pytest.raises(ContractError, match="samples"):
        stac(one, same[:0], beta=1.0)


def test_novelty_is_the_distance_to_the_nearest() -> None:
    reference = np.random.default_rng(0).normal(size=(200, 3)) * np.array([1.0, 10.0, 0.1])
    check = begun(Novelty(embed=lambda obs: obs.state, encoder="state", reference=reference))
    near = check.score(moment(seen(1, 0, 0, 0), seen(0)))
    far = check.score(moment(seen(1, 0, 0, 1.0), seen(0)))  # ten deviations of the third
    assert far.value > 4 > 1 > near.value
    with pytest.raises(ContractError, match="expected 3 dimensions"):
        replace(check, embed=lambda obs: obs.state[:2]).score(moment(seen(1), seen(0)))
    with pytest.raises(ContractError, match="at least 5"):
        Novelty(embed=np.ravel, encoder="e", reference=reference[:4])


class Scripted:
    """Answers what it is told, by tick."""

    def __init__(self, name: str, values: dict[int, float]) -> None:
        self.name, self.values, self.identity = name, values, f"scripted {name}"

    def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None: ...

    def score(self, evidence: Evidence) -> Score | None:
        tick = evidence.observation.tick
        return Score(value=self.values[tick], lead=0) if tick in self.values else None


def test_both_needs_both_sides_within_the_window() -> None:
    scale = Normaliser(leads=(0,), medians=(0.0,), spreads=(1.0,))
    double = Normaliser(leads=(0,), medians=(0.0,), spreads=(0.5,))
    sees, acts = Scripted("sees", {1: 1.0, 2: 3.0, 8: 9.0}), Scripted("acts", {3: 0.5, 4: 4.0, 20: 9.0})
    check = begun(Both(observation=sees, action=acts, normalisers=(scale, double), window=3))
    scores = {t: check.score(moment(seen(t), seen(0))) for t in (1, 2, 3, 4, 5, 8, 20)}
    values = {t: score and score.value for t, score in scores.items()}
    # 3: seen (1 + 3) / 2 against done 0.5 * 2; 4: seen 3 against done (1 + 8) / 2; then one side has left the window
    assert values == {1: None, 2: None, 3: 1.0, 4: 3.0, 5: None, 8: None, 20: None}
    assert "scripted sees" in check.identity


class TestChecker:
    def test_uncalibrated_it_collects(self) -> None:
        checker = Checker([Scripted("one", {1: 5.0, 2: 6.0}), Scripted("two", {2: 1.0})])
        checker.begin(body(), "go", seed=0)
        readings = [checker.look(moment(seen(t), seen(0))) for t in (1, 2, 3)]
        assert [[reading.check for reading in at] for at in readings] == [["one"], ["one", "two"], []]
        assert not any(reading.alarm for at in readings for reading in at)
        assert {name: [s.value for s in scores] for name, scores in checker.scores.items()} == {
            "one": [5.0, 6.0],
            "two": [1.0],
        }
        checker.begin(body(), "go", seed=0)
        assert checker.scores == {"one": (), "two": ()}

    def test_refuses(self) -> None:
        with pytest.raises(ContractError, match="distinct"):
            Checker([Scripted("one", {}), Scripted("one", {})])
        checker = Checker([Scripted("one", {1: float("nan")})])
        checker.begin(body(), "go", seed=0)
        with pytest.raises(ContractError, match="finite"):
            checker.look(moment(seen(1), seen(0)))

    def test_checks_by_name(self) -> None:
        names = ["grasp", "foresight.wrist", "proprioception"]
        assert [check.name for check in checks_named(names, body())] == names
        with pytest.raises(UnknownNameError, match=r"foresight\.wrist"):
            checks_named(["foresight.wist"], body())


@pytest.mark.parametrize(("robot", "widest"), [("gripper", 0.02), ("arm", 0.06)])
def test_a_shoved_hand_on_the_tabletop(robot: str, widest: float) -> None:
    """The expert's own episodes stay below what a push does, with delta and with absolute commands."""
    pytest.importorskip("mujoco")
    from actloop.simulation.tabletop import Tabletop

    world = Tabletop(body=robot, image_size=16)
    check = Proprioception()

    def scores(seed: int, push_at: int | None) -> list[float]:
        before = world.reset(world.tasks["pick-red"], seed=seed)
        check.begin(world.embodiment, "go", seed=seed)
        values = []
        while world.outcome() is None:
            if before.tick == push_at:
                world.disturb("push", seed=seed)
            sent = world.apply(world.demonstrate())
            now = world.observe()
            chunk = ActionChunk(actions=sent[None], anchor=before.tick, period=PERIOD, observed_at=before.time)
            look = moment(now, before, sent[None], prediction=Prediction(chunk=chunk))
            score = check.score(look)
            values.append(score.value if score else 0.0)
            before = now
        return values

    quiet = max(max(scores(seed, None)) for seed in range(3))
    pushed = [scores(seed, 5)[5:8] for seed in range(3)]
    assert quiet < widest
    assert all(max(values) > 1.3 * quiet for values in pushed)
