"""Contact forces: what the worlds measure, and what an evaluation says of them."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_eval import TASK, single
from test_evaluation import Seeker

from actloop.contracts import ForceSensing
from actloop.errors import ContractError
from actloop.evaluation import CompareConfig, RunMismatchError, compare, load_comparison
from actloop.evaluation.force import hardest_of
from actloop.report.conduct import force as page_of_force
from actloop.report.page import write_page
from actloop.simulation.exact import ExactWorld
from actloop.simulation.registry import WORLDS, make_world

mujoco = pytest.importorskip("mujoco")

from actloop.simulation.contact import ContactGauge  # noqa: E402
from actloop.simulation.tabletop import Tabletop  # noqa: E402

GRAVITY = 9.81
BLOCK = 0.06 * GRAVITY  # newtons that a block of the tabletop weighs

# --- the gauge --------------------------------------------------------------------------------------------------------

SLIDES = '<joint type="slide" axis="0 0 1" damping="5"/>'


def measured(bodies: str, squeeze: float = 0.0) -> tuple[ContactGauge, Any]:
    """The gauge that has seen one step, after the scene has come to rest; `squeeze` drives the last two joints."""
    header = '<mujoco><option timestep="0.002" cone="elliptic" impratio="10"/><worldbody>'
    model = mujoco.MjModel.from_xml_string(f'{header}<geom type="plane" size="1 1 .1"/>{bodies}</worldbody></mujoco>')
    data, gauge = mujoco.MjData(model), ContactGauge(model, "hand")
    if squeeze:
        data.qfrc_applied[-2:] = squeeze, -squeeze
    mujoco.mj_step(model, data, 1000)
    gauge.look(data)
    return gauge, data


def hand(size: str, mass: float, height: float) -> str:
    return f'<body name="hand" pos="0 0 {height}">{SLIDES}<geom type="box" size="{size}" mass="{mass}"/></body>'


def block(name: str, x: float = 0.0, height: float = 0.05) -> str:
    return (
        f'<body name="{name}" pos="{x} 0 {height}"><freejoint/><geom type="box" size=".05 .05 .05" mass=".5"/></body>'
    )


def test_a_known_weight_on_a_block_presses_with_that_weight() -> None:
    gauge, _ = measured(hand(".05 .05 .05", 2.0, 0.15) + block("block"))
    assert gauge.peak == pytest.approx(2.0 * GRAVITY, rel=0.01)
    gauge.start()
    assert gauge.peak == 0.0


def test_of_two_things_the_one_pressed_hardest_counts_and_not_their_sum() -> None:
    gauge, _ = measured(hand(".4 .05 .01", 2.0, 0.11) + block("a", -0.2) + block("b", 0.2))
    assert gauge.peak == pytest.approx(1.0 * GRAVITY, rel=0.02)


def test_a_grip_from_both_sides_cancels_and_what_is_carried_stays() -> None:
    """MuJoCo orders a pair by shape, then by number: of the ball's contact the robot is the first, of the box's not."""
    fingers = "".join(
        f'<body pos="{x} 0 0" gravcomp="1"><joint type="slide" axis="1 0 0"/>'
        f'<geom type="{shape}" size="{size}" mass=".1" friction="2"/></body>'
        for x, shape, size in ((-0.061, "sphere", ".01"), (0.061, "box", ".01 .03 .03"))
    )
    scene = block("block", 0.0, 0.5) + f'<body name="hand" pos="0 0 .5">{fingers}</body>'
    gauge, data = measured(scene, squeeze=20.0)
    wrench, squeezed = np.zeros(6), 0.0
    for index in range(data.ncon):
        mujoco.mj_contactForce(gauge._model, data, index, wrench)
        squeezed += wrench[0] / 2
    assert squeezed == pytest.approx(20.0, rel=0.05)  # by each finger
    assert gauge.peak == pytest.approx(0.5 * GRAVITY, rel=0.05)


@pytest.mark.parametrize("axis", [(1.0, 0.4, 0.0), (-0.4, 1.0, 0.3)])
def test_a_block_that_lies_on_a_tilted_hand_weighs_what_it_weighs(axis: tuple[float, float, float]) -> None:
    """Straight down is along neither the normal nor a tangent: each of the three is needed to make up the weight."""
    quat, up = np.zeros(4), np.zeros(3)
    mujoco.mju_axisAngle2Quat(quat, np.array(axis) / np.linalg.norm(axis), 0.3)
    mujoco.mju_rotVecQuat(up, np.array([0, 0, 0.06]), quat)
    turn = "quat='{} {} {} {}'".format(*quat)
    plate = f'<body name="hand" pos="0 0 1" {turn}><geom type="box" size=".3 .3 .01" friction="1.5"/></body>'
    place = f"{up[0]} {up[1]} {up[2] + 1}"
    lying = f'<body pos="{place}" {turn}><freejoint/><geom type="box" size=".05 .05 .05" mass=".5"/></body>'
    gauge, data = measured(plate + lying)
    assert gauge.peak == pytest.approx(0.5 * GRAVITY, rel=0.02)
    across = np.zeros(6)
    mujoco.mj_contactForce(gauge._model, data, 0, across)
    assert (np.abs(across[:3]) > 0.05).all()


def test_the_robot_itself_is_nothing_that_it_touches() -> None:
    shelf = '<body pos="0 0 .05"><geom type="box" size=".05 .05 .05"/></body>'
    gauge, data = measured(f'<body pos="0 0 .3">{shelf}{hand(".05 .05 .05", 1.0, 0.15)}</body>')
    assert data.ncon > 0
    assert gauge.peak == 0.0


# --- the tabletop -----------------------------------------------------------------------------------------------------


def go(world: Tabletop, place: np.ndarray, opening: float, ticks: int) -> list[float]:
    """Move the grasp point there; the forces of the ticks."""
    told = []
    for _ in range(ticks):
        scene = world._scene
        delta = np.clip(place - scene.tcp, -0.04, 0.04)
        world.apply(world.embodiment.action.clip(world._body.command(scene, delta, opening)))
        told.append(world.contact_force())
    return told


@pytest.mark.parametrize("body", ["gripper", "arm"])
def test_free_motion_touches_nothing_and_pressing_does(body: str) -> None:
    world = Tabletop(body=body, image_size=16)
    assert isinstance(world, ForceSensing)
    with pytest.raises(ContractError, match="call reset"):
        world.contact_force()
    world.reset(world.tasks["pick-red"], seed=0)
    assert world.contact_force() == 0.0
    above = world._scene.block("red") + np.array([0.0, 0.0, 0.1])
    assert go(world, above, 0.0, 8) == [0.0] * 8
    pressed = go(world, above - np.array([0.0, 0.0, 0.12]), 0.0, 8)
    assert max(pressed) > 20.0


def test_what_is_held_still_is_felt_by_its_weight() -> None:
    world = Tabletop(image_size=16)
    world.reset(world.tasks["pick-red"], seed=0)
    while world.outcome() is None:
        world.apply(world.demonstrate())
    held = go(world, world._scene.tcp, 0.0, 10)
    assert held[-1] == pytest.approx(BLOCK, rel=0.1)


def test_the_arm_that_is_driven_into_the_table_feels_it() -> None:
    world = Tabletop(body="arm", image_size=16)
    world.reset(world.tasks["pick-red"], seed=0)
    corner = np.array([0.10, -0.15, 0.10])
    assert max(go(world, corner, 0.0, 10)) == 0.0
    down = world._body.solve(corner)
    down[1] += 0.2  # the shoulder, some centimetres below the table
    told = []
    for _ in range(6):
        world.apply(np.append(down, 0.0).astype(np.float32))
        told.append(world.contact_force())
    assert min(told[3:]) > 50.0


def test_looking_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a byte of what is seen, with contacts of all kinds and a push."""

    def play() -> tuple[list[bytes], float]:
        world, told, hardest = Tabletop(image_size=16), [], 0.0
        world.reset(world.tasks["stack-red-on-green"], seed=3)
        for tick in range(25):
            if tick == 5:
                world.disturb("push", seed=1)
            world.apply(world.demonstrate())
            seen, hardest = world.observe(), max(hardest, world.contact_force())
            told += [seen.state.tobytes(), *(image.tobytes() for image in seen.images.values())]
        return told, hardest

    seen, hardest = play()
    assert hardest > 5.0
    monkeypatch.setattr(ContactGauge, "look", lambda self, data: None)
    assert play() == (seen, 0.0)


def test_the_same_episode_has_the_same_forces_whatever_was_asked_between() -> None:
    def play(ask: Callable[[Tabletop], object]) -> list[float]:
        world, told = Tabletop(image_size=16), []
        world.reset(world.tasks["open-drawer"], seed=0)
        for _ in range(12):
            world.apply(world.demonstrate())
            ask(world)
            told.append(world.contact_force())
        return told

    forces = play(lambda world: None)
    assert max(forces) > 5.0
    assert play(lambda world: (world.observe(), world.demonstrate(), world.happened())) == forces


# --- Meta-World -------------------------------------------------------------------------------------------------------


def test_meta_world_feels_a_button_and_its_expert_looks_ahead_unfelt() -> None:
    pytest.importorskip("metaworld")
    world = make_world("metaworld", cameras=())
    assert isinstance(world, ForceSensing)
    world.reset(world.tasks["button-press-topdown"], seed=0)
    assert world.contact_force() == 0.0  # though its reset makes physics steps
    told = []
    while world.outcome() is None:
        world.apply(world.demonstrate())
        told.append(world.contact_force())
        world.demonstrate()
        assert world.contact_force() == told[-1]
    assert told[0] == 0.0
    assert max(told) > 50.0
    world.close()


# --- the evaluation ---------------------------------------------------------------------------------------------------


class Uphill(ExactWorld):
    """The further the episode, the harder it is to go on: a newton a tick, and five more where it was displaced."""

    displaced = 0.0

    def reset(self, *args: Any, **options: Any) -> Any:
        self.displaced = 0.0
        return super().reset(*args, **options)

    def disturb(self, name: str, *, seed: int) -> None:
        super().disturb(name, seed=seed)
        self.displaced = 5.0

    def contact_force(self) -> float:
        return self._tick + self.displaced


WORLDS |= {"uphill": "test_force:Uphill"}


def seeker() -> Seeker:
    return Seeker("fast")


def still() -> Seeker:
    return Seeker("no-cotrain", lazy=1.0)


def asked(out: Path, **changes: Any) -> CompareConfig:
    base = single(out, arms={"seeker": "test_force:seeker"}, world="uphill", episodes=3, disturb=("displace@5",))
    return replace(base, **changes)


def test_the_record_has_the_hardest_contact_and_its_tick(tmp_path: Path) -> None:
    comparison = compare(asked(tmp_path))
    for record in comparison.records:
        ticks = record["result"]["ticks"]
        more = 5.0 if record["condition"] == "190ms+displace" else 0.0
        assert record["watched"]["force"] == {"peak": ticks + more, "tick": ticks - 1}
    plain, displaced = (item.force for item in comparison.conduct)
    assert plain is not None
    assert displaced is not None
    peaks = sorted(float(r["result"]["ticks"]) for r in comparison.records if r["condition"] == "190ms")
    assert (plain.episodes, plain.p50, plain.worst, plain.over) == (3, peaks[1], peaks[2], None)
    assert plain.where is not None
    assert (plain.where[0], plain.where[2]) == (TASK, peaks[2] - 1)
    assert displaced.worst > plain.worst
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "hardest contact of an episode, N" in page
    assert f"{plain.p50:.1f} / {plain.p95:.1f} / {plain.worst:.1f}" in page
    assert f"{TASK} {plain.where[1]}, {plain.where[2]}" in page
    assert "Fingers that squeeze an object" in page
    assert "episodes over" not in page
    json.dumps(comparison.to_json(), allow_nan=False)


def test_whoever_helps_is_not_counted(tmp_path: Path) -> None:
    """Called at tick 30: the hardest contact of the policy's own is that of the tick before."""
    arms = {"still": "test_force:still"}
    comparison = compare(asked(tmp_path, arms=arms, disturb=(), rescue="expert", rescue_after=0.6))
    for record in comparison.records:
        assert record["result"]["ticks"] > 30
        assert record["watched"]["force"] == {"peak": 30.0, "tick": 29}


def test_a_declared_limit_counts_episodes_with_an_exact_interval(tmp_path: Path) -> None:
    none = compare(asked(tmp_path / "none", force_limit=1000.0))
    plain = none.conduct[0].force
    assert plain is not None
    assert plain.over == 0
    assert plain.over_share is not None
    assert plain.over_share.high == pytest.approx(1 - 0.05 ** (1 / 3))
    page = page_of_force(none)
    assert "episodes over 1000 N" in page
    assert "0 of 3<small>at most 63.2 %" in page
    least = min(record["watched"]["force"]["peak"] for record in none.records)
    every = compare(asked(tmp_path / "all", force_limit=least - 0.5))
    assert "3 of 3<small>29.2 to 100.0 %" in page_of_force(every)
    assert [r["watched"] for r in every.records] == [r["watched"] for r in none.records]  # it stops nothing
    exactly = compare(asked(tmp_path / "exactly", force_limit=max(r["watched"]["force"]["peak"] for r in none.records)))
    assert {item.force.over for item in exactly.conduct if item.force} == {0}  # as much as the limit is within it


def test_a_limit_needs_a_world_that_measures(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"force_limit: the world 'exact' does not measure"):
        compare(asked(tmp_path, world="exact", force_limit=10.0))
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ContractError, match="newtons above 0"):
            asked(tmp_path, force_limit=wrong)


def test_the_command_takes_the_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from actloop.cli import main

    said = ["eval", "test_force:seeker", "--world", "uphill", "--tasks", TASK, "--latency", "190", "--episodes", "2"]
    said += ["--videos", "0", "--workers", "1", "--force-limit", "4", "--out", str(tmp_path), "--json"]
    assert main(said) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["run"]["config"]["force_limit"] == 4.0
    assert printed["conduct"][0]["force"]["over"] == 2
    assert "episodes over 4 N" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_world_that_does_not_measure_says_so(tmp_path: Path) -> None:
    comparison = compare(asked(tmp_path, world="exact", disturb=()))
    assert [record["watched"]["force"] for record in comparison.records] == [None] * 3
    assert comparison.conduct[0].force is None
    assert "not measured by this world" in page_of_force(comparison)
    assert "Fingers that squeeze" not in write_page(tmp_path).read_text(encoding="utf-8")


def test_older_folders_are_read_and_go_on(tmp_path: Path) -> None:
    compare(asked(tmp_path, disturb=()))
    assert "force_limit" not in json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["config"]
    lines = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in lines:
        del line["watched"]["force"]

    def keep(kept: list[Any]) -> None:
        text = "".join(json.dumps(line) + "\n" for line in kept)
        (tmp_path / "episodes.jsonl").write_text(text, encoding="utf-8")

    keep(lines)
    old = load_comparison(tmp_path)
    assert old.conduct[0].force is None
    assert "not measured" in page_of_force(old)
    keep(lines[:2])
    mixed = compare(asked(tmp_path, disturb=()))
    assert mixed.conduct[0].force is not None
    assert mixed.conduct[0].force.episodes == 1
    with pytest.raises(RunMismatchError, match="force_limit"):
        compare(asked(tmp_path, disturb=(), force_limit=5.0))


def test_an_arm_that_touched_nothing_has_no_place_of_it() -> None:
    record = {"task": TASK, "seed": 1, "watched": {"force": {"peak": 0.0, "tick": None}}}
    found = hardest_of([record, {"task": TASK, "seed": 2}], None)  # the other one crashed
    assert found is not None
    assert (found.episodes, found.worst, found.where) == (1, 0.0, None)
    assert hardest_of([], 3.0) is None
    assert re.search("touched nothing", page_with(found))


def page_with(found: Any) -> str:
    from actloop.report.conduct import _touched

    return " ".join(_touched(found, over=False))
