"""The promise about false alarms: kept on average, refused where it cannot be made, bound to what it was made for."""

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from actloop.checks.calibration import Calibration, CalibrationMismatch, Scores, calibrate
from actloop.checks.checker import Checker
from actloop.checks.conformal import (
    AdaptiveThreshold,
    Guarantee,
    Rate,
    TooFewEpisodes,
    beta_quantile,
    episodes_for_certainty,
    episodes_needed,
    order_statistic,
    rank,
)
from actloop.checks.detection import auroc, detection
from actloop.checks.evidence import Evidence, Score
from actloop.checks.normaliser import STILL, Normaliser
from actloop.contracts import Embodiment
from actloop.errors import ActloopError, ContractError, UnknownNameError

FLAT = {"leads": [1], "medians": [0], "spreads": [0], "centre": 0, "scale": 1}
IDENTITY = {"policy": "abc", "robot": "arm", "check.near": "near 1"}


def episode(rng: np.random.Generator, *, trouble: float = 0.0) -> dict[str, list[Score]]:
    """Two checks: errors that grow with the lead and hang together, and a heavy-tailed one at seldom moments."""
    mood = rng.normal()
    near = [
        Score(value=(1 + lead) * float(np.exp(0.5 * (mood + rng.normal())) + trouble), lead=lead)
        for lead in range(1, 9)
    ]
    rare = [Score(value=float(rng.standard_cauchy() ** 2), lead=0) for _ in range(int(rng.integers(0, 4)))]
    return {"near": near, "rare": rare}


def many(seed: int, count: int) -> list[dict[str, list[Score]]]:
    rng = np.random.default_rng(seed)
    return [episode(rng) for _ in range(count)]


class TestOrderStatistic:
    @pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1), (0.3, 3)])
    def test_the_least_number_of_episodes(self, alpha: float, needed: int) -> None:
        assert episodes_needed(alpha) == needed
        assert rank(needed, alpha) == needed
        with pytest.raises(TooFewEpisodes, match=f"at least {needed} episodes, got {needed - 1}"):
            rank(needed - 1, alpha)

    @pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 5.0])
    def test_refuses_what_is_no_rate(self, alpha: float) -> None:
        with pytest.raises(ContractError, match="between 0 and 1"):
            rank(1000, alpha)

    def test_it_keeps_its_rate_where_the_plain_quantile_does_not(self) -> None:
        """n = 20, alpha = 5 %: the exact rates are 1/21 for the order statistic and about 9 % for np.quantile."""
        rng = np.random.default_rng(0)
        maxima, fresh = rng.normal(size=(40_000, 20)), rng.normal(size=40_000)
        kept = np.mean(fresh > np.sort(maxima, axis=1)[:, rank(20, 0.05) - 1])
        plain = np.mean(fresh > np.quantile(maxima, 0.95, axis=1))
        error = 3 * math.sqrt(0.05 * 0.95 / 40_000)
        assert kept == pytest.approx(1 / 21, abs=error)
        assert plain > 0.085
        assert order_statistic(list(maxima[0]), 0.05) == maxima[0].max()

    @pytest.mark.parametrize(("n", "upper"), [(20, 0.139), (50, 0.091), (100, 0.089), (200, 0.077), (500, 0.067)])
    def test_what_one_calibration_is_worth(self, n: int, upper: float) -> None:
        guarantee = Guarantee.of(n, 0.05)
        assert guarantee.upper == pytest.approx(upper, abs=6e-4)
        assert guarantee.mean <= 0.05
        assert f"{n} calibrated on" in guarantee.statement

    def test_certainty_takes_more(self) -> None:
        assert [episodes_for_certainty(alpha) for alpha in (0.1, 0.05, 0.01)] == [29, 59, 299]
        assert Guarantee.of(59, 0.05).k == 57  # and that is the rank for the mean; the largest of 59 is for certainty

    @pytest.mark.parametrize(("a", "b", "p"), [(1, 20, 0.95), (3, 5, 0.5), (40, 2, 0.025), (1, 1, 0.3), (90, 11, 0.95)])
    def test_beta_quantile(self, a: int, b: int, p: float) -> None:
        assert beta_quantile(a, b, p) == pytest.approx(beta.ppf(p, a, b), abs=1e-9)

    @pytest.mark.parametrize(("k", "n"), [(0, 10), (5, 10), (10, 10), (18, 20), (3, 150)])
    def test_rates_come_with_exact_intervals(self, k: int, n: int) -> None:
        rate = Rate.counted([True] * k + [False] * (n - k))
        exact = binomtest(k, n).proportion_ci(method="exact")
        assert (rate.low, rate.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
        assert str(rate).startswith(f"{k}/{n}, ")

    def test_a_rate_of_nothing(self) -> None:
        nothing = Rate.counted([])
        assert math.isnan(nothing.value)
        assert (nothing.low, nothing.high, str(nothing)) == (0.0, 1.0, "none")


class TestCalibration:
    def test_the_promise_is_kept_by_all_checks_together(self) -> None:
        """Fresh calibrations and episodes over and over: alarms of either check in at most alpha of the episodes."""
        alarms = []
        for seed in range(150):
            episodes = many(seed, 60)
            calibration = calibrate(episodes[:40], alpha=0.1, identity=IDENTITY, seed=seed)
            alarms += [calibration.maximum(one) > calibration.threshold for one in episodes[40:]]
        # 20 calibrated: the 19th of them, 2/21 expected; episodes that share a calibration hang together
        per_calibration = np.reshape(alarms, (150, 20)).mean(axis=1)
        error = 3 * per_calibration.std() / math.sqrt(150)
        assert np.mean(alarms) == pytest.approx(2 / 21, abs=error)
        assert np.mean(alarms) <= 0.1 + error

    def test_fitting_on_the_calibrated_episodes_would_break_it(self) -> None:
        """Why the split: each episode the only one at its own lead looks usual to a normaliser that has seen it."""
        rng = np.random.default_rng(0)
        realised = []
        for _ in range(60):
            values = rng.standard_cauchy(size=(40, 25)) ** 2
            episodes = [[Score(value=float(v), lead=lead) for lead, v in enumerate(row)] for row in values]
            seen = Normaliser.fit(episodes[:20], tail=0.1)
            maxima = [max(seen.value(score) for score in one) for one in episodes]
            realised.append(np.mean(np.array(maxima[20:]) > order_statistic(maxima[:20], 0.1)))
        assert np.mean(realised) > 0.12

    def test_normalisers_and_threshold_come_from_different_episodes(self) -> None:
        episodes = many(7, 40)
        order = np.random.default_rng(3).permutation(40)
        fit, rest = [episodes[i] for i in order[:20]], [episodes[i] for i in order[20:]]
        calibration = calibrate(episodes, alpha=0.1, identity=IDENTITY, seed=3)
        assert calibration.fitted == 20
        for name in ("near", "rare"):  # two checks: each may use half of alpha before they are calibrated together
            assert calibration.normalisers[name] == Normaliser.fit([one[name] for one in fit], tail=0.05)
        assert calibration.maxima == tuple(sorted(calibration.maximum(one) for one in rest))

    def test_trouble_is_noticed_at_every_lead(self) -> None:
        calibration = calibrate(many(1, 200), alpha=0.05, identity=IDENTITY)
        rng = np.random.default_rng(2)
        alarms = [calibration.maximum(episode(rng, trouble=30.0)) > calibration.threshold for _ in range(50)]
        assert np.mean(alarms) > 0.95
        readings = [calibration.reading("near", Score(value=30.0 * (1 + lead), lead=lead)) for lead in (1, 8, 20)]
        assert all(reading.alarm for reading in readings)
        assert not calibration.reading("near", Score(value=20.0, lead=8)).alarm  # usual so far ahead
        assert calibration.reading("near", Score(value=20.0, lead=1)).alarm

    def test_realised_false_alarms(self) -> None:
        calibration = calibrate(many(3, 200), alpha=0.1, identity=IDENTITY)
        rate = calibration.false_alarms(many(4, 400))
        assert rate.of == 400
        assert rate.low < 0.1 < calibration.guarantee.upper
        assert rate.value < calibration.guarantee.upper

    def test_too_few_episodes_says_how_many(self) -> None:
        with pytest.raises(TooFewEpisodes, match="needs at least 37 episodes, got 36"):
            calibrate(many(0, 36), alpha=0.05, identity=IDENTITY)
        calibrate(many(0, 37), alpha=0.05, identity=IDENTITY)
        with pytest.raises(TooFewEpisodes):
            calibrate(many(0, 40), alpha=0.05, identity=IDENTITY, fit_share=0.1)

    @pytest.mark.parametrize("bad", [{"alpha": 1.5}, {"alpha": 0.1, "fit_share": 1.0}])
    def test_refuses(self, bad: dict[str, float]) -> None:
        with pytest.raises(ContractError):
            calibrate(many(0, 40), identity=IDENTITY, **bad)

    def test_refuses_scores_that_are_no_numbers(self) -> None:
        broken = many(0, 40)
        broken[17]["near"].insert(3, Score(value=math.nan, lead=1))
        with pytest.raises(ContractError, match=r"calibration\.near.*finite"):
            calibrate(broken, alpha=0.1, identity=IDENTITY)

    def test_refuses_checks_that_never_scored(self) -> None:
        with pytest.raises(ContractError, match="no check scored"):
            calibrate([{"near": []}] * 40, alpha=0.1, identity=IDENTITY)
        late = [
            {**one, "late": [Score(value=1.0, lead=0)] if index == 0 else []} for index, one in enumerate(many(0, 40))
        ]
        seed = next(s for s in range(99) if 0 in np.random.default_rng(s).permutation(40)[20:])
        with pytest.raises(ContractError, match=r"calibration\.late.*none"):
            calibrate(late, alpha=0.1, identity=IDENTITY, seed=seed)

    def test_episodes_without_scores_count_as_quiet(self) -> None:
        episodes: list[Scores] = [*many(0, 60), *({} for _ in range(60))]
        calibration = calibrate(episodes, alpha=0.1, identity=IDENTITY)
        assert sum(value == -math.inf for value in calibration.maxima) > 10
        assert Calibration.from_dict(calibration.to_dict()) == calibration

    def test_a_check_that_never_varied_alarms_when_it_does(self) -> None:
        still: list[Scores] = [{"frozen": [Score(value=0.0, lead=0)] * 5, **one} for one in many(5, 80)]
        calibration = calibrate(still, alpha=0.1, identity=IDENTITY)
        assert calibration.reading("frozen", Score(value=20 * STILL, lead=0)).alarm
        assert not calibration.reading("frozen", Score(value=0.0, lead=0)).alarm


class TestNormaliser:
    def test_differences_below_the_resolution_do_not_count(self) -> None:
        rng = np.random.default_rng(0)
        rows = rng.uniform(0, 0.001, size=(40, 5))
        fine, coarse = (
            Normaliser.fit([[Score(value=float(v), lead=0, resolution=grain) for v in row] for row in rows], tail=0.1)
            for grain in (0.0, 0.1)
        )
        odd = Score(value=0.03, lead=0)
        assert fine.value(odd) > 30
        assert coarse.value(odd) < 1 < coarse.value(Score(value=0.2, lead=0))

    def test_leads_with_few_scores_borrow_from_their_neighbours(self) -> None:
        scores = [Score(value=float(i % 5), lead=1) for i in range(40)] + [Score(value=100.0, lead=9)]
        fitted = Normaliser.fit([scores], tail=0.1)
        assert fitted.leads == (1, 9)
        assert fitted.medians[1] < 5  # one score says nothing: those of lead 1 join it
        assert fitted.value(Score(value=3.0, lead=2)) == fitted.value(Score(value=3.0, lead=1))
        assert fitted.value(Score(value=3.0, lead=99)) == fitted.value(Score(value=3.0, lead=9))

    def test_the_scale(self) -> None:
        rng = np.random.default_rng(0)
        episodes = [[Score(value=float(v), lead=3) for v in rng.normal(5, 2, size=10)] for _ in range(400)]
        fitted = Normaliser.fit(episodes, tail=0.1)
        maxima = sorted(max(fitted.value(score) for score in one) for one in episodes)
        assert maxima[200] == pytest.approx(0, abs=0.02)
        assert maxima[360] == pytest.approx(1, abs=0.05)


class TestIdentity:
    def test_what_changed_is_named(self) -> None:
        calibration = calibrate(many(0, 40), alpha=0.1, identity=IDENTITY)
        calibration.require(dict(IDENTITY))
        changed = {"policy": "abd", "check.near": "near 1", "rate": "10"}
        with pytest.raises(CalibrationMismatch) as caught:
            calibration.require(changed)
        for line in ("policy: calibrated for 'abc', now 'abd'", "robot: calibrated for 'arm', now nothing", "rate: "):
            assert line in str(caught.value)
        assert "check.near" not in str(caught.value)
        assert isinstance(pickle.loads(pickle.dumps(caught.value)), CalibrationMismatch)
        assert isinstance(caught.value, ActloopError)

    def test_a_checker_runs_only_the_checks_that_were_calibrated(self) -> None:
        class Near:
            name = "near"

            def __init__(self, identity: str) -> None:
                self.identity = identity

            def begin(self, embodiment: Embodiment, instruction: str, *, seed: int) -> None: ...

            def score(self, evidence: Evidence) -> Score | None:
                return None

        calibration = calibrate(many(0, 40), alpha=0.1, identity=IDENTITY)
        Checker([Near("near 1")], calibration)
        with pytest.raises(CalibrationMismatch, match=r"check\.near: calibrated for 'near 1', now 'near 2'"):
            Checker([Near("near 2")], calibration)

    def test_unknown_checks(self) -> None:
        calibration = calibrate(many(0, 40), alpha=0.1, identity=IDENTITY)
        with pytest.raises(UnknownNameError, match="near"):
            calibration.reading("nearr", Score(value=1.0, lead=1))


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        calibration = calibrate(many(0, 40), alpha=0.1, identity=IDENTITY)
        calibration.save(tmp_path / "calibration.json")
        assert Calibration.load(tmp_path / "calibration.json") == calibration
        assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]

    @pytest.mark.parametrize(
        ("broken", "said"),
        [
            ({"format": "actloop.calibration.0"}, "expected format"),
            ({"maxima": [1.0, 0.0] * 10}, "sorted"),
            ({"maxima": [0.0]}, "needs at least 9 episodes"),
            ({"maxima": "many"}, "damaged"),
            ({"identity": None}, "damaged"),
            ({"normalisers": {"near": {"leads": [1]}}}, "damaged"),
            (
                {"normalisers": {"near": {"leads": [1], "medians": [0], "spreads": [0], "centre": 0, "scale": 1}}},
                "spread",
            ),
        ],
    )
    def test_damage_is_found(self, tmp_path: Path, broken: dict[str, object], said: str) -> None:
        plain = calibrate(many(0, 40), alpha=0.1, identity=IDENTITY).to_dict()
        path = tmp_path / "calibration.json"
        path.write_text(json.dumps(plain | broken), encoding="utf-8")
        with pytest.raises(ContractError, match=said):
            Calibration.load(path)

    @pytest.mark.parametrize("text", ["", "[]", "{"])
    def test_what_is_no_calibration(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "calibration.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ContractError, match="not a calibration"):
            Calibration.load(path)
        with pytest.raises(ContractError, match="not a calibration"):
            Calibration.load(tmp_path / "missing.json")


class TestAdaptive:
    def test_it_keeps_the_rate_in_the_long_run_where_a_fixed_threshold_does_not(self) -> None:
        rng = np.random.default_rng(0)
        start = list(rng.normal(size=40))
        adaptive, fixed = AdaptiveThreshold(start, alpha=0.1), order_statistic(start, 0.1)
        drifting = rng.normal(size=4000) + np.linspace(0, 20, 4000)
        realised = np.mean([adaptive.update(float(value)) for value in drifting])
        bound = (0.9 + 0.02) / (0.02 * 4000)
        assert abs(realised - 0.1) <= bound
        assert np.mean(drifting > fixed) > 0.8

    def test_its_ends_and_its_borders(self) -> None:
        adaptive = AdaptiveThreshold([1.0, 2.0, 3.0], alpha=0.3, step=0.5)
        assert adaptive.threshold == 3.0
        assert adaptive.update(10.0)
        assert adaptive.alpha == pytest.approx(-0.05)
        assert adaptive.threshold == math.inf
        for _ in range(8):
            adaptive.update(-1.0)
        assert adaptive.alpha > 1 or adaptive.threshold < math.inf
        for bad in ({"alpha": 0.0}, {"alpha": 0.1, "step": 1.0}):
            with pytest.raises(ContractError):
                AdaptiveThreshold([1.0], **bad)
        with pytest.raises(ContractError):
            AdaptiveThreshold([], alpha=0.1)


class TestDetection:
    def test_counts(self) -> None:
        episodes = [{1: 0.1, 2: 5.0}, {1: 0.0}, {3: 9.0, 4: 0.0, 9: 9.0}, {5: 2.0, 8: 0.5}, {2: 0.1}]
        onsets = [None, None, 4, 5, 1]
        found = detection(episodes, onsets, threshold=1.0)
        assert (found.false_alarms.count, found.false_alarms.of) == (1, 2)
        assert (found.early.count, found.early.of) == (1, 3)
        assert (found.recall.count, found.delays, found.median_delay) == (2, (5, 0), 2.5)
        in_time = detection(episodes, onsets, threshold=1.0, within=3)
        assert (in_time.recall.count, in_time.delays) == (1, (0,))
        assert math.isnan(detection([], [], threshold=1.0).median_delay)

    def test_auroc(self) -> None:
        assert auroc([2.0, 3.0], [1.0, 0.0]) == 1.0
        assert auroc([1.0], [1.0]) == 0.5
        assert auroc([0.0, 2.0], [1.0, -math.inf]) == 0.75
        assert math.isnan(auroc([], [1.0]))
