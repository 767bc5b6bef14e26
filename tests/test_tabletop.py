"""The tabletop: what it declares, that it repeats, that its experts succeed, and that bad input is refused."""

import hashlib
import os
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest

from actloop.contracts import Demonstrator, Disturbable, ForceSensing, Task, World
from actloop.errors import ContractError, UnknownNameError

mujoco = pytest.importorskip("mujoco")

from actloop.simulation.faults import Disturbed, parse_faults  # noqa: E402
from actloop.simulation.tabletop import Tabletop  # noqa: E402
from actloop.simulation.tabletop.bodies import REACH_HIGH, REACH_LOW, Arm  # noqa: E402
from actloop.simulation.tabletop.scene import BELT_SPEED, COLOURS, HALF, MAX_OPENING, PAD_TOP  # noqa: E402

FINGERPRINT = """
import hashlib, numpy as np
from actloop.simulation.tabletop import Tabletop

def fingerprint(body, name):
    world = Tabletop(body=body)
    digest = hashlib.sha256()
    world.reset(world.tasks[name], seed=5)
    for tick in range(30):
        if tick == 7:
            world.disturb("push", seed=1)
        obs = world.observe()
        for image in obs.images.values():
            digest.update(image.tobytes())
        digest.update(obs.state.tobytes())
        digest.update(world.apply(world.demonstrate()).tobytes())
    return digest.hexdigest()
"""
exec(FINGERPRINT)


@pytest.fixture(scope="module")
def gripper():
    return Tabletop()


@pytest.fixture(scope="module")
def arm():
    return Tabletop(body="arm")


@pytest.fixture(params=["gripper", "arm"])
def world(request):
    return request.getfixturevalue(request.param)


def run(world, name, seed, disturbance=None, after=0):
    """One expert episode, disturbed once as soon as it applies from tick `after` on."""
    world.reset(world.tasks[name], seed=seed)
    tick, pending = 0, disturbance is not None
    while world.outcome() is None:
        if pending and tick >= after:
            try:
                world.disturb(disturbance, seed=seed)
                pending = False
            except ContractError:
                pass
        world.apply(world.demonstrate())
        tick += 1
    return world.outcome(), not pending


def test_is_a_world_that_can_be_shown_and_disturbed(world):
    assert isinstance(world, World)
    assert isinstance(world, Demonstrator)
    assert isinstance(world, Disturbable)
    assert isinstance(world, ForceSensing)
    obs = world.reset(world.tasks["pick-red"], seed=0)
    world.embodiment.check(obs)
    assert (obs.tick, obs.time) == (0, 0.0)
    world.apply(world.demonstrate())
    obs = world.observe()
    assert obs.tick == 1
    assert obs.time == pytest.approx(world.embodiment.period)
    assert obs is world.observe()  # drawn once per tick


def test_states_and_experts_stay_inside_what_the_body_declares(world):
    state, action = world.embodiment.state, world.embodiment.action
    for name in ("place-right-blue", "drawer-green"):
        obs = world.reset(world.tasks[name], seed=4)
        while world.outcome() is None:
            assert (obs.state >= state.low - 0.01).all()
            assert (obs.state <= state.high + 0.01).all()
            wanted = world.demonstrate()
            assert (wanted >= action.low).all()
            assert (wanted <= action.high).all()
            world.apply(wanted)
            obs = world.observe()


def test_every_task_has_its_words_its_skill_and_its_group(gripper):
    groups = defaultdict(set)
    for name, task in gripper.tasks.items():
        assert name == task.name
        assert name.startswith(task.skill)
        groups[task.group].add(task.skill)
        for colour in COLOURS:
            assert (colour in name) == (colour in task.instruction)
    assert groups == {
        "static": {"pick", "place-left", "place-right", "open-drawer"},
        "static-hard": {"stack", "drawer"},
        "timing": {"belt"},
        "consequence": {"uncover"},
    }
    assert len({task.instruction for task in gripper.tasks.values()}) == len(gripper.tasks) == 25


@pytest.mark.parametrize("body", ["gripper", "arm"])
def test_same_seed_same_bytes_in_two_instances_and_in_another_process(body):
    names = ("place-left-red", "belt-blue", "uncover-green")
    here = [fingerprint(body, name) for name in names]
    assert here == [fingerprint(body, name) for name in names]
    code = FINGERPRINT + f"\nprint(*[fingerprint({body!r}, name) for name in {names!r}])"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert there.stdout.split() == here


def test_an_episode_repeats_in_a_used_world_and_changes_with_seed_and_task(gripper):
    def start(name, seed):
        obs = gripper.reset(gripper.tasks[name], seed=seed)
        return hashlib.sha256(obs.state.tobytes() + obs.images["front"].tobytes()).hexdigest()

    first = start("uncover-red", 3)
    run(gripper, "uncover-red", 8)
    run(gripper, "pick-red", 3, "push", 2)
    assert start("uncover-red", 3) == first
    assert len({first, start("uncover-red", 4), start("uncover-blue", 3)}) == 3


def test_experts_succeed_on_every_task(world):
    for index, name in enumerate(world.tasks):
        outcome, _ = run(world, name, 500 + index)
        assert outcome.success, f"{name}: {outcome.reason}"
        assert 0.5 < outcome.time < 0.6 * world.tasks[name].time_limit


@pytest.mark.parametrize("disturbance", ["displace", "slip", "push"])
def test_experts_recover(world, disturbance):
    names = ("pick-red", "place-left-green", "stack-blue-on-red", "drawer-red", "belt-green", "uncover-blue")
    results = [run(world, name, seed, disturbance, after=4) for name in names for seed in (700, 701)]
    came = [outcome.success for outcome, came in results if came]
    assert len(came) >= 8
    assert np.mean(came) >= 0.9


def test_displace_moves_the_block_about_six_centimetres_to_a_free_place(gripper):
    moved = 0
    for seed in range(8):
        gripper.reset(gripper.tasks["pick-green"], seed=seed)
        before = {name: gripper._scene.block(name) for name in COLOURS}
        image = gripper.observe().images["front"]
        try:
            gripper.disturb("displace", seed=seed)
        except ContractError:  # no free place
            assert np.array_equal(gripper._scene.block("green"), before["green"])
            continue
        moved += 1
        after = gripper._scene.block("green")
        assert 0.03 < np.linalg.norm(after - before["green"]) < 0.09
        assert np.array_equal(gripper._scene.block("red"), before["red"])
        assert min(np.abs(after - before[name])[:2].max() for name in ("red", "blue")) > 2 * HALF
        assert not np.array_equal(gripper.observe().images["front"], image)
    assert moved >= 4


def test_slip_takes_the_block_out_of_the_gripper(gripper):
    gripper.reset(gripper.tasks["place-right-red"], seed=1)
    with pytest.raises(ContractError, match="holds no block"):
        gripper.disturb("slip", seed=0)
    while gripper._scene.block("red")[2] < 0.07:
        gripper.apply(gripper.demonstrate())
    gripper.disturb("slip", seed=0)
    for _ in range(3):
        gripper.apply(gripper.embodiment.hold(gripper.observe(), None))
    assert gripper._scene.touched("red") == 0
    assert gripper._scene.block("red")[2] == pytest.approx(HALF, abs=0.003)


def test_push_moves_the_hand_and_ends(world):
    world.reset(world.tasks["pick-red"], seed=0)
    still = world.embodiment.hold(world.observe(), None)
    world.apply(still)
    places = [world._scene.tcp]
    world.disturb("push", seed=3)
    for _ in range(6):
        still = world.embodiment.hold(world.observe(), still)
        world.apply(still)
        places.append(world._scene.tcp)
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert moved[:3].sum() > 0.02
    assert moved[-1] < 0.003
    assert not world._scene.data.xfrc_applied.any()


def test_disturbances_that_do_not_apply_say_so(gripper):
    gripper.reset(gripper.tasks["open-drawer"], seed=0)
    for name in ("displace", "slip"):
        with pytest.raises(ContractError, match="not applicable"):
            gripper.disturb(name, seed=0)
    gripper.reset(gripper.tasks["uncover-red"], seed=0)
    with pytest.raises(ContractError, match="under the cover"):
        gripper.disturb("displace", seed=0)
    with pytest.raises(UnknownNameError, match="displace"):
        gripper.disturb("displaced", seed=0)


def test_deltas_move_the_gripper_by_what_was_sent_and_zero_holds_it(gripper):
    gripper.reset(gripper.tasks["pick-red"], seed=2)
    before = gripper.observe().state.copy()
    sent = gripper.apply(np.array([0.02, -0.01, 0.03, MAX_OPENING], dtype=np.float32))
    after = gripper.observe().state
    assert np.allclose(after[:3] - before[:3], sent[:3], atol=0.004)
    for _ in range(15):
        gripper.apply(np.array([0, 0, 0, MAX_OPENING], dtype=np.float32))
    assert np.allclose(gripper.observe().state[:3], after[:3], atol=0.004)


def test_apply_clips_to_limits_and_reach_and_says_what_it_sent(gripper):
    gripper.reset(gripper.tasks["pick-red"], seed=2)
    for _ in range(20):
        sent = gripper.apply(np.array([9.0, 0.0, -9.0, 9.0], dtype=np.float32))
        assert (np.abs(sent[:3]) <= 0.04 + 1e-6).all()
        assert sent[3] == pytest.approx(MAX_OPENING)
    assert np.abs(sent[[0, 2]]).max() < 0.006  # at the corner of the reach nothing more is sent
    assert gripper.observe().state[2] >= REACH_LOW[2] - 0.002


def test_the_arm_follows_absolute_targets_no_faster_than_it_may(arm):
    arm.reset(arm.tasks["pick-red"], seed=2)
    target = np.append(Arm().solve(np.array([0.2, -0.15, 0.2])), 0.05).astype(np.float32)
    before = arm.observe().state
    for _ in range(12):
        arm.apply(target)
        state = arm.observe().state
        assert np.abs(state[:5] - before[:5]).max() < Arm.speed * 0.1 + 0.03
        before = state
    assert np.allclose(state, target, atol=0.01)


def test_inverse_kinematics_stays_inside_the_limits_over_the_whole_reach():
    axes = [np.linspace(low, high, 7) for low, high in zip(REACH_LOW, REACH_HIGH, strict=True)]
    for point in np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3):
        joints = Arm().solve(point)
        assert (joints > Arm.low).all()
        assert (joints < Arm.high).all()


def test_the_arms_hand_is_where_its_inverse_kinematics_puts_it(arm):
    arm.reset(arm.tasks["pick-red"], seed=2)
    scene = arm._scene
    for point in ([0.2, -0.1, 0.2], [-0.25, 0.1, 0.05], [0.0, 0.15, 0.28]):
        scene.data.qpos[scene.joint_qpos] = Arm().solve(np.array(point))
        mujoco.mj_kinematics(scene.model, scene.data)
        assert np.allclose(scene.tcp, point, atol=1e-6)
        assert np.allclose(scene.data.xmat[scene.body_id("hand")].reshape(3, 3), np.eye(3), atol=1e-6)


def test_the_belt_carries_and_drops_what_nobody_picks(gripper):
    gripper.reset(gripper.tasks["belt-red"], seed=0)
    hold = np.array([0, 0, 0, MAX_OPENING], dtype=np.float32)
    start = gripper._scene.block("red")[0]
    for _ in range(10):
        gripper.apply(hold)
    assert gripper._scene.block("red")[0] - start == pytest.approx(BELT_SPEED, abs=0.01)
    while gripper.outcome() is None:
        gripper.apply(hold)
    assert not gripper.outcome().success
    assert gripper.outcome().reason == "fell off the belt"


def test_a_picked_block_must_be_the_named_one_and_time_runs_out(gripper):
    task = gripper.tasks["pick-red"]
    gripper.reset(Task(name=task.name, instruction=task.instruction, time_limit=0.4), seed=0)
    for tick in range(4):
        assert gripper.outcome() is None, tick
        gripper.apply(gripper.demonstrate())
    assert gripper.outcome().reason == "time limit"
    gripper.reset(task, seed=0)
    gripper._scene.put_block("blue", np.array([0.0, -0.1, 0.2]), 0.0)
    gripper.apply(gripper.demonstrate())
    assert gripper.outcome() is None


def test_the_cover_hides_the_block_and_sliding_it_shows_the_block(gripper):
    def redness(image):
        pixels = image.astype(int)
        return int(((pixels[..., 0] > 90) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)).sum())

    for seed in range(4):
        obs = gripper.reset(gripper.tasks["uncover-red"], seed=seed)
        assert redness(obs.images["front"]) <= 2
        while gripper._scene.slide("cover") < 0.15:
            gripper.apply(gripper.demonstrate())
        assert redness(gripper.observe().images["front"]) > 8


def test_blocks_pads_and_drawer_are_seen_in_the_front_camera(gripper):
    for seed in range(5):
        image = gripper.reset(gripper.tasks["pick-red"], seed=seed).images["front"].astype(int)
        red, green, blue = (image[..., channel] for channel in range(3))
        assert ((red > 90) & (green < 70) & (blue < 70)).sum() > 15
        assert ((green > 70) & (red < 70) & (blue < 90)).sum() > 15
        assert ((blue > 90) & (red < 80) & (green < 110)).sum() > 15
        assert ((red > 180) & (green > 180) & (blue < 130)).sum() > 40  # the left pad
        assert ((red > 140) & (green < 130) & (blue > 150)).sum() > 40  # the right pad


def test_pictures_of_other_sizes_show_the_same_scene():
    small, large = Tabletop(image_size=32), Tabletop(image_size=128)
    one = small.reset(small.tasks["pick-red"], seed=0).images
    other = large.reset(large.tasks["pick-red"], seed=0).images
    assert large.embodiment.identity != small.embodiment.identity
    for camera in ("front", "wrist"):
        assert other[camera].shape == (128, 128, 3)
        shrunk = other[camera].reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - one[camera]).mean() < 8


def test_bad_input_is_refused_by_name(gripper):
    with pytest.raises(UnknownNameError, match="gripper"):
        Tabletop(body="griper")
    with pytest.raises(ContractError, match="16 pixels"):
        Tabletop(image_size=4)
    with pytest.raises(UnknownNameError, match="pick-red"):
        gripper.reset(Task(name="pick-rd", instruction="", time_limit=1.0), seed=0)
    gripper.reset(gripper.tasks["pick-red"], seed=0)
    good = gripper.demonstrate()
    for bad in (good[:3], np.stack([good, good]), good.astype(int), np.full(4, np.nan, dtype=np.float32)):
        with pytest.raises(ContractError, match="action"):
            gripper.apply(bad)
    assert gripper.observe().tick == 0


def test_nothing_runs_before_reset_or_after_close():
    world = Tabletop()
    with pytest.raises(ContractError, match="reset"):
        world.observe()
    world.reset(world.tasks["pick-red"], seed=0)
    world.close()
    with pytest.raises(ContractError, match="reset"):
        world.apply(np.zeros(4, dtype=np.float32))


def test_without_mujoco_the_import_says_what_to_install():
    code = "import sys; sys.modules['mujoco'] = None\nimport actloop.simulation.tabletop"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "MissingDependency" in done.stderr
    assert "pip install 'actloop[simulation]'" in done.stderr


def test_it_draws_where_opengl_is_switched_off_and_needs_no_torch():
    code = (
        "import sys; from actloop.simulation.tabletop import Tabletop; w = Tabletop(); "
        "image = w.reset(w.tasks['pick-red'], seed=0).images['front']; "
        "print(image.std() > 20, [name for name in sys.modules if name.split('.')[0] in ('torch', 'OpenGL')])"
    )
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert done.stdout.strip() == "True []"


@pytest.mark.parametrize("body", ["gripper", "arm"])
def test_the_goal_moves_where_it_is_seen_and_the_expert_follows(body: str) -> None:
    world = Tabletop(body=body)
    task, moved = world.tasks["place-left-green"], 0
    for seed in range(4):
        first = world.reset(task, seed=seed)
        scene = world._scene
        home = scene.pad("left")
        for _ in range(6):
            world.apply(world.demonstrate())
        before = world.observe().images["front"]
        world.disturb("goal", seed=seed)
        apart = np.linalg.norm(scene.pad("left") - home)
        assert 0.03 < apart < 0.09
        assert (world.observe().images["front"] != before).any(axis=-1).sum() > 40
        while world.outcome() is None:
            world.apply(world.demonstrate())
        moved += world.outcome().success
        block = scene.block("green")
        assert np.abs(block[:2] - scene.pad("left")).max() < 0.06
        assert block[2] == pytest.approx(PAD_TOP + HALF, abs=0.004)  # it lies on the pad, not in the table
        again = world.reset(task, seed=seed)
        assert np.array_equal(scene.pad("left"), home)
        assert np.array_equal(again.images["front"], first.images["front"])
    assert moved == 4
    world.close()


def test_only_a_goal_that_is_free_moves(gripper):
    gripper.reset(gripper.tasks["pick-red"], seed=0)
    with pytest.raises(ContractError, match="about no pad"):
        gripper.disturb("goal", seed=0)
    gripper.reset(gripper.tasks["place-right-red"], seed=0)
    while gripper.outcome() is None:
        gripper.apply(gripper.demonstrate())
    with pytest.raises(ContractError, match="a block is above the right pad"):
        gripper.disturb("goal", seed=0)
    assert "goal" not in gripper.disturbances  # recordings that draw from them stay what they were


def test_a_moved_goal_is_a_fault_that_repeats(gripper):
    seen = []
    for _ in range(2):
        world = Disturbed(gripper, parse_faults(["goal@3"]))
        world.reset(gripper.tasks["place-left-blue"], seed=5)
        for _ in range(8):
            world.apply(world.demonstrate())
        seen.append(world.observe().images["front"])
        assert [one.onset for one in world.incidents] == [3]
    assert np.array_equal(*seen)
