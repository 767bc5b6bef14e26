"""The comparison: fake policies in the exact world, where every success and failure is known by hand."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from rich.console import Console

from actloop.contracts import ActionChunk, Committed, Embodiment, Future, Observation, Prediction
from actloop.errors import CheckpointError, ContractError, UnknownNameError
from actloop.evaluation import (
    CompareConfig,
    Progress,
    RunMismatchError,
    answer,
    compare,
    format_table,
    load_comparison,
)
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.conditions import Condition
from actloop.evaluation.film import Arrived, Film
from actloop.evaluation.judging import judge
from actloop.evaluation.progress import Estimate, spoken
from actloop.evaluation.run import read_run
from actloop.evaluation.runner import Unit
from actloop.loop.config import derive_seed
from actloop.simulation.exact import FIELD, GRID, MAX_STEP, ExactWorld, read_tick

HORIZON = 8


def _where(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Metres, from the pixels: the middle of the square of this colour."""
    cell = image.shape[0] // GRID
    rows, columns = np.nonzero((image[2 * cell :] == colour).all(axis=-1))
    size = image.shape[0]
    return np.array([columns.min() / (size - cell), rows.min() / (5 * cell)]) * 2 * FIELD - FIELD


@dataclass
class Seeker:
    """Sees the goal and walks to it; imagines that the picture stays, or how the world will look."""

    variant: str
    imagines: bool = False
    lazy: float = 0.0  # share of episodes in which it does nothing
    embodiment: Embodiment = ExactWorld().embodiment
    horizon: int = HORIZON

    def describe(self) -> dict[str, Any]:
        return {"variant": self.variant, "digest": f"{self.variant}-{self.lazy}", "parameters": 0, "steps": 1}

    def start(self, instruction: str, *, seed: int) -> bool:
        return bool(np.random.default_rng(seed).random() < self.lazy)

    def predict(
        self, session: bool, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[bool, Prediction]:
        here, actions = obs.state.astype(float), []
        image = obs.images["front"]
        goal = _where(image, (0, 255, 0)) if (image == (0, 255, 0)).all(axis=-1).any() else here
        for _ in range(self.horizon):
            step = np.zeros(2) if session else np.clip(np.rint((goal - here) / MAX_STEP), -1, 1) * MAX_STEP
            here = here + step
            actions.append(step)
        chunk = ActionChunk(
            actions=np.array(actions, dtype=np.float32), anchor=obs.tick, period=0.1, observed_at=obs.time
        )
        future = None
        if imagine and self.imagines:
            future = Future(frames={"front": np.stack([image] * 4)}, chunk=chunk, period=0.2)
        return session, Prediction(chunk=chunk, future=future)


def plain() -> Seeker:
    return Seeker("no-cotrain", lazy=0.5)


def dreamer() -> Seeker:
    return Seeker("joint", imagines=True)


class Breaking(Seeker):
    def predict(self, session: bool, obs: Observation, **rest: Any) -> tuple[bool, Prediction]:
        if read_tick(obs.images["front"]) > 3:
            raise RuntimeError("the network exploded")
        return super().predict(session, obs, **rest)


def breaking() -> Seeker:
    return Breaking("fast")


def config(out: Path, **changes: Any) -> CompareConfig:
    arms = {"plain": "test_evaluation:plain", "dreamer": "test_evaluation:dreamer"}
    base = CompareConfig(
        out=out, arms=arms, world="exact", episodes=4, latency="190", sweep=("0",), videos=1, workers=1
    )
    return replace(base, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[CompareConfig, Comparison]:
    settings = config(tmp_path_factory.mktemp("run"))
    return settings, compare(settings)


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that must not depend on how the run went: not the timings of the arms, not the date."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("run.json", "results.json", "report.html")
    }


# --- running ----------------------------------------------------------------------------------------------------------


def test_every_arm_meets_the_same_initial_conditions(finished: tuple[CompareConfig, Comparison]) -> None:
    settings, comparison = finished
    assert comparison.complete
    assert len(comparison.records) == 2 * 2 * 2 * 4  # arms, conditions, tasks, seeds
    by_arm = {arm: {(r["task"], r["seed"]) for r in comparison.records if r["arm"] == arm} for arm in settings.arms}
    assert by_arm["plain"] == by_arm["dreamer"]


def test_the_numbers_are_those_of_the_episodes(finished: tuple[CompareConfig, Comparison]) -> None:
    _, comparison = finished
    cell = comparison.cell("dreamer", "190ms")
    assert cell is not None
    assert (cell.successes, cell.episodes, cell.planned, cell.crashed) == (8, 8, 8, 0)
    assert cell.latency_ms.p50 == cell.latency_ms.p99 == pytest.approx(190)
    quick = comparison.cell("dreamer", "0ms")
    assert quick is not None
    assert quick.age_ms.p50 < cell.age_ms.p50
    plain_cell = comparison.cell("plain", "190ms")
    assert plain_cell is not None
    expected = sum(
        not np.random.default_rng(derive_seed(seed, "policy")).random() < 0.5 for seed in range(4) for _ in range(2)
    )
    assert plain_cell.successes == expected


def test_one_and_two_workers_give_the_same_bytes(finished: tuple[CompareConfig, Comparison], tmp_path: Path) -> None:
    settings, one = finished
    two = compare(config(tmp_path, workers=2))
    assert contents(tmp_path) == contents(settings.out)
    assert two.records == one.records


def test_an_interrupted_run_goes_on_where_it_stopped(
    finished: tuple[CompareConfig, Comparison], tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done == 5:
            raise Enough

    with pytest.raises(Enough):
        compare(config(tmp_path), stop)
    path = tmp_path / "episodes.jsonl"
    assert len(path.read_text().splitlines()) == 5
    assert not load_comparison(tmp_path).complete
    path.write_bytes(path.read_bytes()[:-40])  # the last line was cut off as well
    frozen = (tmp_path / "run.json").read_bytes()
    seen: list[Progress] = []
    comparison = compare(config(tmp_path), seen.append)
    assert seen[0].done == 4
    assert seen[-1].done == seen[-1].total == 32
    assert comparison.complete
    assert contents(tmp_path) == contents(finished[0].out)
    assert (tmp_path / "run.json").read_bytes() == frozen


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"episodes": 9}, "episodes: the folder has 4, asked for 9"),
        ({"sweep": ("600",)}, "sweep"),
        ({"world_options": {"image_size": 64}}, "world_options.image_size"),
        ({"arms": {"plain": "test_evaluation:dreamer", "dreamer": "test_evaluation:dreamer"}}, "weights.plain"),
    ],
)
def test_another_configuration_is_refused_with_what_differs(
    finished: tuple[CompareConfig, Comparison], changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(RunMismatchError, match=named):
        compare(replace(finished[0], **changes))


def test_a_crash_is_a_failure_that_keeps_its_error(tmp_path: Path) -> None:
    comparison = compare(config(tmp_path, arms={"breaking": "test_evaluation:breaking"}, episodes=1, sweep=()))
    cell = comparison.cell("breaking", "190ms")
    assert cell is not None
    assert (cell.episodes, cell.successes, cell.crashed) == (2, 0, 2)
    assert "the network exploded" in comparison.to_json()["crashes"][0]["error"]
    assert "2 episodes crashed and count as failed" in dict(answer(comparison).paragraphs)["Limits"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arms": {}}, "nothing to compare"),
        ({"arms": {"a/b": "x:y"}}, "names a folder"),
        ({"baseline": "nobody"}, "none of the arms"),
        ({"episodes": 0}, "at least 1"),
        ({"clock": "sundial"}, "'virtual' or 'paused'"),
        ({"execute_horizon": 0}, "at least 1"),
    ],
)
def test_a_bad_configuration_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ContractError, match=reason):
        config(tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"arms": {"a": "nowhere.safetensors"}}, CheckpointError, "no such checkpoint"),
        ({"arms": {"a": "test_evaluation:absent"}}, ContractError, "cannot be imported"),
        ({"arms": {"a": "test_evaluation:contents"}}, TypeError, "argument"),
        ({"latency": "fastwam-5090"}, UnknownNameError, "fastwam-5090d"),
        (
            {"arms": {"a": "test_evaluation:unnamed"}, "latency": "published"},
            ContractError,
            "variant 'another'; .*'joint'",
        ),
        ({"tasks": ("reach-lefd",)}, UnknownNameError, "reach-left"),
        ({"world": "exakt"}, UnknownNameError, "exact"),
        ({"arms": {"a": "test_evaluation:deaf"}}, ContractError, "arm 'a', task 'reach-left': does not take"),
        ({"world_options": {"control_hz": 20.0}}, ContractError, "other cameras, limits, units or rate"),
    ],
)
def test_what_cannot_be_run_is_refused_before_the_first_episode(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        compare(config(tmp_path, **changes))
    assert not (tmp_path / "run.json").exists()


class Deaf(Seeker):
    def start(self, instruction: str, *, seed: int) -> bool:
        raise ContractError("instruction", "unknown word 'goal'")


def deaf() -> Seeker:
    return Deaf("fast")


def unnamed() -> Seeker:
    return Seeker("another")


def test_a_paused_world_waits_and_nothing_is_late(tmp_path: Path) -> None:
    comparison = compare(config(tmp_path, clock="paused", latency="600", sweep=("0",), videos=0, episodes=1))
    assert [condition.name for condition in comparison.run.conditions] == ["600ms"]
    cell = comparison.cell("dreamer", "600ms")
    assert cell is not None
    assert cell.late == cell.starved == 0


def test_measured_latency_is_frozen_into_the_run(tmp_path: Path) -> None:
    comparison = compare(config(tmp_path, latency="measured", sweep=(), episodes=1, videos=0))
    profiles = comparison.run.main.profiles
    assert len(profiles["plain"].seconds) == 20
    again = read_run(tmp_path)
    assert again.main.profiles == profiles
    assert load_comparison(tmp_path).cells == comparison.cells


def test_published_latency_is_each_variants_own(tmp_path: Path) -> None:
    comparison = compare(config(tmp_path, latency="published", sweep=(), episodes=1, videos=0))
    main = comparison.run.main
    assert (main.latency_ms("plain"), main.latency_ms("dreamer")) == (190, 580)


# --- films and foresight ----------------------------------------------------------------------------------------------


def test_films_show_imagined_beside_real_where_an_arm_imagines(finished: tuple[CompareConfig, Comparison]) -> None:
    settings, comparison = finished
    sizes = {}
    for record in comparison.records:
        filmed = record["condition"] == "190ms" and record["seed"] == 0
        assert (record["video"] is not None) == filmed
        if filmed:
            with av.open(str(settings.out / record["video"])) as container:
                stream = container.streams.video[0]
                sizes[record["arm"]] = (stream.width, stream.height)
                assert stream.codec_context.pix_fmt == "yuv420p"
                assert stream.frames == record["result"]["ticks"] + 1
    assert sizes == {"plain": (96, 96), "dreamer": (96 * 2 + 4, 96)}


def test_filming_changes_no_command(finished: tuple[CompareConfig, Comparison], tmp_path: Path) -> None:
    _, comparison = finished
    without = compare(config(tmp_path, videos=0))
    assert [r["result"] for r in without.records] == [r["result"] for r in comparison.records]


def test_a_still_imagination_has_no_foresight(finished: tuple[CompareConfig, Comparison]) -> None:
    _, comparison = finished
    rows = comparison.foresight
    assert {row.arm for row in rows} == {"dreamer"}
    assert [row.lead for row in rows] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert all(row.psnr == pytest.approx(row.still) for row in rows)


def test_the_film_picks_the_imagined_frame_for_the_time_nearest_to_now() -> None:
    film = Film(period=0.1, camera="front")
    shade = {tick: np.full((8, 8, 3), tick, dtype=np.uint8) for tick in range(12)}
    for tick, image in shade.items():
        film.seen[tick] = Observation(images={"front": image}, state=np.zeros(2, np.float32), tick=tick, time=tick / 10)
    chunk = ActionChunk(actions=np.zeros((8, 2), np.float32), anchor=2, period=0.1, observed_at=0.2)
    frames = np.stack([shade[4], shade[6], shade[8]])  # a perfect imagination, every 0.2 s from tick 2
    film.arrived.append(Arrived(tick=3, plan=0, future=Future(frames={"front": frames}, chunk=chunk, period=0.2)))
    beside = [int(picture[0, -1, 0]) for picture in film.panels()]
    assert beside == [96, 96, 96, 4, 4, 6, 6, 8, 8, 8, 8, 8]
    points = film.foresight()
    assert [round(point.lead, 1) for point in points] == [0.2, 0.4, 0.6]
    assert all(point.error == 0 < point.still for point in points)


# --- the answer -------------------------------------------------------------------------------------------------------


def staged(finished: tuple[CompareConfig, Comparison], rates: Mapping[str, tuple[str, int]], seeds: int) -> Comparison:
    """A comparison with made-up arms, name -> (variant, seeds out of `seeds` that succeed, the first ones)."""
    run, pattern = finished[1].run, finished[1].records[0]
    arms = tuple(replace(run.arms[0], name=name, identity={"variant": variant}) for name, (variant, _) in rates.items())
    main = Condition(name="190ms", profiles=dict.fromkeys(rates, run.main.profiles["plain"]))
    made = replace(
        run,
        arms=arms,
        conditions=(main,),
        baseline=arms[0].name,
        config={**run.config, "episodes": seeds},
    )
    records = []
    for name, (_, wins) in rates.items():
        for task in run.tasks:
            for seed in range(seeds):
                outcome = {"success": seed < wins, "reason": "", "time": 1.0}
                result = {**pattern["result"], "outcome": outcome}
                place = {"arm": name, "condition": "190ms", "task": task.name, "seed": seed}
                records.append({**pattern, **place, "result": result, "foresight": []})
    return judge(made, records)


@pytest.mark.parametrize(
    ("wins", "said"),
    [
        ({"vla": 35, "fast": 36, "joint": 35}, "cannot tell the arms apart"),
        ({"vla": 15, "fast": 38, "joint": 12}, "Prediction belongs in training here"),
        ({"vla": 10, "fast": 12, "joint": 38}, "Prediction pays in the control loop here"),
        ({"vla": 38, "fast": 12, "joint": 10}, "Prediction does not pay here"),
        ({"vla": 10, "fast": 37, "joint": 38}, "training with it does as well as predicting online"),
        ({"vla": 37, "fast": 38, "joint": 10}, "does not belong in the control loop here; whether training"),
        ({"vla": 37, "fast": 10, "joint": 38}, "whether predicting online does, these episodes cannot tell"),
        ({"vla": 0, "fast": 0, "joint": 0}, "No arm succeeded once"),
    ],
)
def test_the_answer_follows_from_the_numbers(
    finished: tuple[CompareConfig, Comparison], wins: dict[str, int], said: str
) -> None:
    variants = {"vla": "no-cotrain", "fast": "fast", "joint": "joint"}
    comparison = staged(finished, {name: (variants[name], count) for name, count in wins.items()}, 40)
    assert said in answer(comparison).headline


def test_few_episodes_are_not_enough_and_it_says_how_many_would_be(
    finished: tuple[CompareConfig, Comparison],
) -> None:
    comparison = staged(finished, {"vla": ("no-cotrain", 2), "fast": ("fast", 3)}, 8)
    said = answer(comparison)
    assert "cannot tell" in said.headline
    assert "Paired episodes that would settle it" in dict(said.paragraphs)["Left open"]
    assert "This run has 16" in dict(said.paragraphs)["Left open"]


@pytest.mark.parametrize(("seeds", "told_apart"), [(5, False), (6, True)])
def test_so_few_seeds_that_nothing_could_be_told_apart(
    finished: tuple[CompareConfig, Comparison], seeds: int, told_apart: bool
) -> None:
    said = answer(staged(finished, {"vla": ("no-cotrain", 0), "fast": ("fast", seeds)}, seeds))
    assert ("cannot tell" not in said.headline) == told_apart
    assert ("Run at least 6 (`--episodes 6`)" in dict(said.paragraphs).get("Left open", "")) != told_apart


def test_an_unfinished_run_says_so(tmp_path: Path, finished: tuple[CompareConfig, Comparison]) -> None:
    _, comparison = finished
    assert answer(judge(comparison.run, [])).headline == "Too early to say."
    some = judge(comparison.run, comparison.records[:-1])
    assert "not finished (31 of 32 episodes)" in dict(answer(some).paragraphs)["Limits"]


def test_the_order_of_episodes_changes_nothing(finished: tuple[CompareConfig, Comparison]) -> None:
    _, comparison = finished
    assert judge(comparison.run, list(reversed(comparison.records))) == comparison


def test_results_are_json_and_the_table_fits_a_terminal(finished: tuple[CompareConfig, Comparison]) -> None:
    settings, comparison = finished
    written = json.loads((settings.out / "results.json").read_text())
    assert written["complete"]
    assert written["answer"]["headline"] == answer(comparison).headline
    assert {cell["scope"] for cell in written["cells"]} == {"all", "task:reach-left", "task:reach-right"}
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(format_table(comparison))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "dreamer" in shown
    assert "190/190/190" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


# --- progress ---------------------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_like_episodes() -> None:
    units = [Unit(arm=arm, condition="0ms", task="t", seed=seed) for arm in ("quick", "slow") for seed in range(3)]
    estimate = Estimate(total=6, done=0, missing=units, workers=2)
    assert estimate.progress().remaining is None
    estimate.add(units[0], 1.0)
    estimate.add(units[3], 9.0)
    assert estimate.progress().remaining == pytest.approx((2 * 1.0 + 2 * 9.0) / 2)


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (200, "3 min"), (5400, "1 h 30 min")])
def test_durations_are_said_as_one_would(seconds: float, said: str) -> None:
    assert spoken(seconds) == said
