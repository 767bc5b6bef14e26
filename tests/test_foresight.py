"""The judge of imagination, by models whose imagination is known: perfect, blind, weak, mirrored, and badly behaved."""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import actloop
from actloop.cli.foreseen import foresight
from actloop.contracts import ActionChunk, Committed, Embodiment, Future, Observation, Prediction
from actloop.errors import CheckpointError, ContractError, DataError
from actloop.evaluation import CompareConfig, compare
from actloop.evaluation.foresight import ForesightReport, judge_foresight
from actloop.evaluation.foresight.keeping import keep_foresight, read_foresight
from actloop.evaluation.foresight.measures import Ranked, measure_frames, spread_over_skill
from actloop.evaluation.foresight.moments import other_chunks, planned_moments, restore
from actloop.report.page import write_page
from actloop.simulation.exact import FIELD, GRID, MAX_STEP, ExactWorld

HORIZON = 8
TASKS = list(ExactWorld().tasks.values())


@dataclass
class Dreamer:
    """Walks to the goal, and imagines every second tick in a world of its own, at the place that it sees."""

    scale: float = 1.0  # of the actions that it imagines
    faint: float = 1.0  # of the change that it imagines
    noise: float = 0.0  # of its pixels, 0..1, another for each session
    follows: bool = True
    embodiment: Embodiment = field(default_factory=lambda: ExactWorld().embodiment)
    horizon: int = HORIZON

    def start(self, instruction: str, *, seed: int) -> int:
        return seed

    def predict(
        self, session: int, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[int, Prediction]:
        side = 1.0 if obs.images["front"].any() else 0.0
        actions = np.tile(np.float32([side * MAX_STEP, MAX_STEP / 2]), (self.horizon, 1))
        chunk = ActionChunk(actions=actions, anchor=obs.tick, period=0.1, observed_at=obs.time)
        return session, Prediction(chunk=chunk)

    def imagine(self, session: int, obs: Observation, chunk: ActionChunk) -> Future:
        world = ExactWorld()
        world.reset(TASKS[0], seed=0)
        world._position, world._tick = obs.state.astype(float), obs.tick
        world._goal = seen_goal(obs)
        frames = []
        for index, action in enumerate(chunk.actions):
            world.apply(np.float32(self.scale * action) if self.follows else np.zeros(2, np.float32))
            if index % 2:
                frames.append(world.observe().images["front"].astype(float))
        now = obs.images["front"].astype(float)
        rng = np.random.default_rng(session)
        dreamt = now + self.faint * (np.stack(frames) - now) + 255 * self.noise * rng.normal(size=now.shape)
        shown = np.clip(dreamt, 0, 255).round().astype(np.uint8)
        return Future(frames={"front": shown}, chunk=chunk, period=0.2, follows_chunk=self.follows)


def seen_goal(obs: Observation) -> np.ndarray:
    image = obs.images["front"]
    cell, size = image.shape[0] // GRID, image.shape[0]
    rows, columns = np.nonzero((image[2 * cell :] == (0, 255, 0)).all(axis=-1))
    return np.array([columns.min() / (size - cell), rows.min() / (5 * cell)]) * 2 * FIELD - FIELD


class Right:
    """Values a picture by how far right the red point is."""

    identity = "right-1"

    def judge(self, frames: Mapping[str, np.ndarray], states: np.ndarray, instruction: str) -> np.ndarray:
        images = frames["front"]
        red = (images[..., 0] > 120) & (images[..., 1] < 120)
        red[:, : images.shape[1] // 4] = False
        columns = np.arange(images.shape[2])
        return (red * columns).sum(axis=(1, 2)) / np.maximum(red.sum(axis=(1, 2)), 1) / images.shape[2]


def judged(policy: Any, **options: Any) -> ForesightReport:
    options = {"seeds": range(4), "value": Right(), "moments": 2, "candidates": 6, "draws": 2} | options
    return judge_foresight(policy, ExactWorld(), TASKS[1:], **options)


@pytest.fixture(scope="module")
def perfect() -> ForesightReport:
    return judged(Dreamer())


def test_a_perfect_imagination_is_found_perfect(perfect: ForesightReport) -> None:
    assert [row.lead for row in perfect.errors] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert all(row.error == 0 and row.still > 0 for row in perfect.errors)
    for row in perfect.responses:
        assert (row.correlation.value, row.gain.value) == pytest.approx((1.0, 1.0))
        assert row.moves > 0
    assert perfect.ranking is not None
    assert perfect.ranking.tau.value == pytest.approx(1.0)
    assert perfect.ranking.regret.value == pytest.approx(0.0)
    assert perfect.ranking.tau_still.value == 0.0
    assert perfect.ranking.regret_still.value == pytest.approx(perfect.ranking.regret_chance.value)
    assert perfect.ranking.regret_chance.value > 0.05
    assert perfect.calibration is not None
    assert perfect.calibration.error.value == pytest.approx(0.0)
    assert sum(part.count for part in perfect.calibration.bins) == perfect.moments * perfect.candidates


def test_an_imagination_that_ignores_the_chunk_is_found_out(perfect: ForesightReport) -> None:
    found = judged(Dreamer(follows=False))
    assert not found.follows_chunk
    assert all((row.correlation.value, row.gain.value) == (0.0, 0.0) for row in found.responses)
    assert found.ranking is not None
    assert found.ranking.tau.value == 0.0
    assert [row.moves for row in found.responses] == [row.moves for row in perfect.responses]


def test_a_faint_imagination_has_the_right_direction_and_too_little_gain() -> None:
    found = judged(Dreamer(faint=0.25))
    assert all(row.correlation.value > 0.95 for row in found.responses)
    assert all(0.2 < row.gain.value < 0.3 for row in found.responses)


def test_an_imagination_of_the_opposite_ranks_the_wrong_way_round() -> None:
    found = judged(Dreamer(scale=-1.0))
    assert found.ranking is not None
    assert found.ranking.tau.value < -0.5
    assert found.ranking.regret.value > found.ranking.regret_chance.value
    assert found.responses[-1].correlation.value < 0.5
    assert 0.7 < found.responses[-1].gain.value < 1.5


def test_draws_that_differ_as_much_as_they_err_know_how_unsure_they_are() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(2, 1, 4000))
    for sure, low, high in ((1.0, 0.95, 1.05), (0.3, 0.25, 0.4)):
        middle = truth[0] + rng.normal(size=(1, 4000))
        draws = middle + sure * rng.normal(size=(5, 1, 4000))
        found = measure_frames("a", 0, imagined=truth, real=truth, still=truth[0, 0], draws=draws)
        assert low < spread_over_skill([found], 0, 5) < high
    single = measure_frames("a", 0, imagined=truth, real=truth, still=truth[0, 0], draws=draws[:1])
    assert math.isnan(spread_over_skill([single], 0, 1))


def test_the_spread_between_draws_is_measured_in_the_loop() -> None:
    found = judged(Dreamer(noise=0.05), draws=3)
    assert all(row.spread > 0.3 for row in found.responses)
    assert math.isnan(judged(Dreamer(), draws=1).responses[0].spread)


def test_ranks_with_ties_and_the_regret_of_the_first() -> None:
    ranked = Ranked(imagined=(0.2, 0.9, 0.9), still=(0.5, 0.5, 0.5), real=(0.1, 0.3, 0.7))
    assert ranked.agreement(ranked.real) == pytest.approx(1.0)
    assert 0 < ranked.agreement(ranked.imagined) < 1
    assert ranked.regret(ranked.imagined) == pytest.approx(0.2)  # either of the two that look alike
    assert ranked.regret(ranked.still) == pytest.approx(ranked.regret_by_chance)
    assert not replace(ranked, real=(0.4, 0.4, 0.4)).tells


def test_candidates_are_the_own_plan_standing_still_and_pushed_ones_within_limits() -> None:
    world = ExactWorld()
    moment = planned_moments(Dreamer(), world, TASKS[0], seed=3, count=3, draws=1, execute_horizon=4)[1]
    chunks = other_chunks(world.embodiment, moment, 5)
    assert chunks[0] is moment.chunk
    assert not chunks[1].actions.any()  # a delta of zero holds
    assert len({chunk.actions.tobytes() for chunk in chunks}) == 5
    for chunk in chunks:
        assert (np.abs(chunk.actions) <= MAX_STEP).all()
        assert chunk.actions.dtype == np.float32
    again = other_chunks(world.embodiment, moment, 5)
    assert all(np.array_equal(one.actions, two.actions) for one, two in zip(chunks, again, strict=True))
    body = ExactWorld(kind="absolute").embodiment
    drifting = other_chunks(body, moment, 4)[3].actions - np.clip(moment.chunk.actions, -FIELD, FIELD)
    assert np.abs(drifting[0]).max() < np.abs(drifting[-1]).max() <= FIELD / 4 + 1e-6


def test_moments_are_spread_over_the_episode_and_remember_how_they_came_about() -> None:
    world = ExactWorld()
    moments = planned_moments(Dreamer(), world, TASKS[0], seed=0, count=3, draws=2, execute_horizon=4)
    ticks = [moment.observation.tick for moment in moments]
    assert ticks == sorted(set(ticks))
    assert ticks[0] == 0
    assert all(len(moment.sent) == moment.observation.tick and len(moment.sessions) == 2 for moment in moments)


class Drifting(ExactWorld):
    """Never starts at the same place twice."""

    resets = 0

    def reset(self, task: Any, *, seed: int) -> Observation:
        self.resets += 1
        return super().reset(task, seed=seed + self.resets)


def test_a_world_that_does_not_repeat_is_refused() -> None:
    world = Drifting()
    moment = planned_moments(Dreamer(), world, TASKS[0], seed=0, count=1, draws=1, execute_horizon=4)[0]
    with pytest.raises(ContractError, match="does not repeat"):
        restore(world, moment)


def test_without_a_value_nothing_is_ranked() -> None:
    found = judged(Dreamer(), value=None)
    assert (found.ranking, found.calibration, found.judge) == (None, None, "")


def test_the_report_is_json_and_fits_a_terminal(perfect: ForesightReport) -> None:
    plain = json.loads(json.dumps(perfect.to_dict(), allow_nan=False))
    assert plain["errors"][0]["psnr"] is None  # infinite
    assert plain["errors"][0]["psnr_still"] > 0
    assert plain["ranking"]["tau"]["value"] == 1.0
    assert plain["seeds"] == [0, 1, 2, 3]
    written = io.StringIO()
    Console(file=written, width=100).print(perfect.table())
    text = written.getvalue()
    assert "Kendall tau" in text
    assert "imagines what a chunk leads to" in text


class Late(Dreamer):
    def imagine(self, session: int, obs: Observation, chunk: ActionChunk) -> Future:
        return replace(super().imagine(session, obs, chunk), period=5.0)


class Blind:
    embodiment = ExactWorld().embodiment
    horizon = HORIZON

    def start(self, instruction: str, *, seed: int) -> int:
        return seed

    predict = Dreamer.predict


@pytest.mark.parametrize(
    ("policy", "options", "reason"),
    [
        (Dreamer(), {"seeds": []}, "tasks and seeds"),
        (Dreamer(), {"moments": 0}, "foresight.moments: expected 1"),
        (Dreamer(), {"candidates": 1}, "foresight.candidates: expected 2"),
        (Dreamer(), {"draws": 0}, "foresight.draws: expected 1"),
        (Late(), {}, "expected frames after 1 to 8 actions"),
        (Blind(), {}, "Blind cannot imagine"),
    ],
)
def test_what_cannot_be_judged_is_refused(policy: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        judged(policy, **options)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_judges_what_ships(capsys: pytest.CaptureFixture[str]) -> None:
    foresight("action-conditioned", tasks=("pick-red",), episodes=1, moments=1, candidates=2, draws=1, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["follows_chunk"]
    assert (found["moments"], found["candidates"], found["embodiment"]) == (1, 2, "tabletop-gripper")
    assert found["judge"].startswith("value-")
    assert found["responses"][0]["moves"] > 0


def test_the_command_refuses_what_cannot_imagine_and_a_value_of_another_robot() -> None:
    with pytest.raises(ContractError, match="cannot imagine"):
        foresight("no-cotrain", tasks=("pick-red",), episodes=1, moments=1, candidates=2, draws=1)
    shipped = Path(actloop.__file__).parent / "weights" / "tabletop"
    with pytest.raises(CheckpointError, match="exact"):
        foresight(str(shipped / "joint.safetensors"), world="exact", value=str(shipped / "checks/value.safetensors"))


# --- the page of a run ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    arms = {"dreamer": "test_foresight:dreamer", "other": "test_foresight:other"}
    settings = CompareConfig(
        out=tmp_path / "run", arms=arms, world="exact", tasks=(TASKS[1].name,), episodes=1, clock="paused",
        sweep=(), videos=0, workers=1,
    )  # fmt: skip
    compare(settings)
    return settings.out


@dataclass
class Named(Dreamer):
    digest: str = ""

    def describe(self) -> dict[str, Any]:
        return {"digest": self.digest}


def dreamer() -> Named:
    return Named(digest="0123")


def other() -> Named:
    return Named(digest="4567")


def test_what_was_judged_is_on_the_page_of_the_run_with_the_same_weights(run: Path, perfect: ForesightReport) -> None:
    assert "worth acting on" not in write_page(run).read_text(encoding="utf-8")
    report = replace(perfect, policy={"digest": "4567"})
    path = keep_foresight(run, report)
    assert path.name == "other.json"
    assert read_foresight(run, "dreamer") is None
    page = write_page(run).read_text(encoding="utf-8")
    section = page[page.index("worth acting on?") :].partition("</section>")[0]
    assert section.count("<tr>") == 1 + 4 + 1 + 1  # leads of one arm, and its ranking, each with a head
    assert "1.00 <small>1.00 to 1.00</small>" in section
    assert ">dreamer<" not in section


def test_without_a_value_only_the_frames_are_on_the_page(run: Path, perfect: ForesightReport) -> None:
    keep_foresight(run, replace(perfect, policy={"digest": "0123"}, ranking=None, calibration=None))
    page = write_page(run).read_text(encoding="utf-8")
    assert "worth acting on" in page
    assert "<th>regret" not in page


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"policy": {"digest": "89"}}, r"none of its arms \(dreamer, other\) has the weights"),
        ({"policy": {}}, "none of its arms"),
        ({"embodiment": "arm"}, "is of the robot 'exact-delta', what was judged acts on 'arm'"),
    ],
)
def test_a_judgement_of_something_else_is_not_kept(
    run: Path, perfect: ForesightReport, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ContractError, match=says):
        keep_foresight(run, replace(perfect, **changes))
    assert not (run / "foresight").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"errors": 3}', '{"errors": [], "responses": [{}]}'])
def test_a_damaged_judgement_is_refused(run: Path, content: str) -> None:
    (run / "foresight").mkdir()
    (run / "foresight" / "other.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=r"other\.json: not a judgement of foresight"):
        write_page(run)
