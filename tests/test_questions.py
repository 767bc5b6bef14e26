"""Questions about the tabletop: true, only about what is seen, in the words of the loop, and stored repeatably."""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from actloop.errors import ContractError, DataError
from actloop.loop.modules import Prompts
from actloop.simulation.exact import ExactWorld
from actloop.simulation.tabletop import Tabletop
from actloop.simulation.tabletop.bodies import REACH_HIGH
from actloop.simulation.tabletop.distances import in_words, things
from actloop.simulation.tabletop.questions import DONE, NEXT, is_done, kinds, place_of, questions, tasks_said, way_to
from actloop.simulation.tabletop.scene import COLOURS, HALF, PAD_TOP, PADS, Scene
from actloop.simulation.tabletop.sight import visible
from actloop.simulation.tabletop.steps import STOP, next_subtask
from actloop.simulation.tabletop.tasks import GOALS, succeeded
from actloop.training.questions import MANIFEST, PER_KIND, QuestionExamples, QuestionStore, record_questions

FRAMES = 60


@pytest.fixture(scope="module")
def world() -> Tabletop:
    return Tabletop()


@pytest.fixture(scope="module")
def store(world: Tabletop, tmp_path_factory: pytest.TempPathFactory) -> QuestionStore:
    return record_questions(world, tmp_path_factory.mktemp("questions"), frames=FRAMES, seed=5)


class Letters:
    """Tokens by character."""

    size, end, special = 256, 0, frozenset({0})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, ids: object) -> str:
        return bytes(ids).decode()  # type: ignore[call-overload,no-any-return]


def desk(world: Tabletop, task: str = "pick-red", **places: tuple[float, float, float]) -> Scene:
    """The desk with the hand high up and blocks where they are said to be."""
    world.reset(world.tasks[task], seed=0)
    scene = world._scene
    world._body.place(scene, np.array([0.0, -0.1, REACH_HIGH[2]]), 0.11)
    for name, place in places.items():
        scene.put_block(name, np.array(place), 0.0)
    refresh(scene)
    return scene


def refresh(scene: Scene) -> None:
    import mujoco

    mujoco.mj_forward(scene.model, scene.data)


ON_LEFT = (*PADS["left"], PAD_TOP + HALF)


def test_places_are_told_with_a_margin(world: Tabletop) -> None:
    scene = desk(world, red=ON_LEFT, green=(0.0, -0.15, HALF), blue=(0.0, -0.15, 3 * HALF))
    assert place_of(scene, "red") == "on the left pad"
    assert place_of(scene, "green") == "on the table"
    assert place_of(scene, "blue") == "on the green block"
    half_on = desk(world, red=(PADS["left"][0] + 0.06, PADS["left"][1], HALF))
    assert place_of(half_on, "red") == ""


def test_distances_are_told_in_centimetres_from_the_gripper(world: Tabletop) -> None:
    assert in_words(np.array([0.044, -0.12, -0.004])) == "right 4, in front 12, above 0"
    assert in_words(np.array([-0.27, 0.006, 0.05])) == "left 27, behind 1, above 5"
    scene = desk(world, red=(-0.2, -0.1, HALF), green=ON_LEFT, blue=(5.0, 5.0, HALF))
    told = dict(things(scene))
    assert set(told) == {"the red block", "the green block", "the handle", "the left pad", "the right pad"}
    assert in_words(told["the red block"] - scene.tcp).startswith("left 20, behind 0, below")
    world.reset(world.tasks["belt-red"], seed=0)
    assert not {"the handle", "the left pad", "the knob"} & set(dict(things(world._scene)))
    world.reset(world.tasks["uncover-red"], seed=0)
    assert "the knob" in dict(things(world._scene))


def test_directions_are_those_of_the_front_picture(world: Tabletop) -> None:
    scene = desk(world, red=(-0.2, -0.1, HALF), green=(0.2, -0.1, HALF), blue=(0.0, -0.19, HALF))
    assert [way_to(scene, name) for name in ("red", "green", "blue")] == ["left", "right", "in front"]
    scene.put_block("red", np.array([0.08, -0.16, HALF]), 0.0)
    refresh(scene)
    assert way_to(scene, "red") == "", "halfway between two directions"


def test_a_block_behind_another_thing_is_not_seen(world: Tabletop) -> None:
    world.reset(world.tasks["uncover-red"], seed=1)
    scene = world._scene
    assert not visible(scene, "red")
    assert visible(scene, "green")
    rng = np.random.default_rng(0)
    asked = [one for _ in range(20) for one in questions(scene, GOALS["uncover-red"], rng)]
    about_red = [one for one in asked if one.kind == "where" and "red" in one.question]
    assert not about_red
    assert {one.answer for one in asked if one.kind == "place" and "red" in one.question} <= {"under the cover"}


def test_done_follows_the_goal_and_is_silent_at_its_border(world: Tabletop) -> None:
    goal = GOALS["place-left-red"]
    scene = desk(world, "place-left-red", red=ON_LEFT)
    assert is_done(scene, goal) is True
    scene.put_block("red", np.array([0.0, -0.15, HALF]), 0.0)
    refresh(scene)
    assert is_done(scene, goal) is False
    scene.put_block("red", np.array([PADS["left"][0] + 0.075, PADS["left"][1], HALF]), 0.0)
    refresh(scene)
    assert is_done(scene, goal) is None
    scene.put_slide("drawer", 0.085)
    refresh(scene)
    assert is_done(scene, GOALS["open-drawer"]) is None


def test_subtasks_are_instructions_that_a_policy_knows(world: Tabletop) -> None:
    known = {task.instruction for task in world.tasks.values()}
    for task in ("pick-red", "belt-green", "uncover-blue"):
        world.reset(world.tasks[task], seed=2)
        for _, goals in tasks_said(world._scene, GOALS[task]):
            assert next_subtask(world._scene, goals) in known


def test_the_drawer_is_opened_before_a_block_is_put_in_it(world: Tabletop) -> None:
    goal = GOALS["drawer-red"]
    scene = desk(world, "drawer-red", red=(-0.1, -0.15, HALF))
    assert next_subtask(scene, (goal,)) == "open the drawer"
    scene.put_slide("drawer", 0.112)
    refresh(scene)
    assert next_subtask(scene, (goal,)) == "open the drawer and put the red block in it"
    pair = (GOALS["place-left-red"], GOALS["place-right-blue"])
    assert next_subtask(scene, pair) == "put the red block on the left pad"
    scene.put_block("red", np.array(ON_LEFT), 0.0)
    refresh(scene)
    assert next_subtask(scene, pair) == "put the blue block on the right pad"


@pytest.mark.parametrize("task", ["place-right-green", "drawer-blue", "uncover-red", "belt-red"])
def test_the_experts_steps_end_in_stop_and_never_go_unnamed(world: Tabletop, task: str) -> None:
    world.reset(world.tasks[task], seed=3)
    steps = []
    while world.outcome() is None:
        steps.append(world.next_step())
        world.apply(world.demonstrate())
    assert succeeded(world._scene, GOALS[task])
    assert world.next_step() == STOP
    assert STOP not in steps
    verbs = Counter(step.split()[0] for step in steps)
    expected = {"reach", "grasp", "lift"} | ({"carry"} if "belt" not in task and "uncover" not in task else set())
    assert expected <= set(verbs), verbs
    if task == "drawer-blue":
        assert steps.index("pull the drawer open") < steps.index("reach for the blue block")


def test_questions_use_the_words_of_the_loop() -> None:
    assert Prompts().done == DONE.replace("{task}", "{instruction}")
    assert Prompts().subtask == NEXT.replace("{task}", "{instruction}")


def test_rearranged_desks_are_physical_and_of_the_desk_alone(world: Tabletop) -> None:
    places = Counter()
    for seed in range(25):
        world.reset(world.tasks["pick-red"], seed=seed)
        command = world.rearrange(seed=seed)
        for _ in range(4):
            world.apply(command)
        scene = world._scene
        for name in COLOURS:
            assert scene.block(name)[2] < -0.02 or scene.block_speed(name) < 0.2, (seed, name)
            places[place_of(scene, name)] += 1
    assert {"on the table", "in the gripper", "on the left pad", "on the right pad"} <= set(places)
    world.reset(world.tasks["belt-red"], seed=0)
    with pytest.raises(ContractError, match="desk"):
        world.rearrange(seed=0)


def test_a_store_repeats_to_the_byte(world: Tabletop, store: QuestionStore, tmp_path: Path) -> None:
    record_questions(Tabletop(), tmp_path / "again", frames=20, seed=5)
    again = QuestionStore(tmp_path / "again")
    assert again.questions == [question for question in store.questions if question.frame < 20]
    assert all(
        np.array_equal(a, b)
        for frame in range(20)
        for a, b in zip(again.images(frame), store.images(frame), strict=True)
    )
    with pytest.raises(DataError, match="already"):
        record_questions(world, tmp_path / "again", frames=2)


def test_every_frame_says_what_comes_next(store: QuestionStore, world: Tabletop) -> None:
    assert len(store.notes) == FRAMES
    known = {task.instruction for task in world.tasks.values()}
    assert {note.subtask for note in store.notes} <= known
    assert all(note.step for note in store.notes)
    assert {question.kind for question in store.questions} <= set(kinds())
    assert {"scene", "where", "place", "done", "subtask"} <= {question.kind for question in store.questions}
    assert all(question.answer for question in store.questions)


def test_held_out_episodes_are_not_trained_on(store: QuestionStore) -> None:
    examples = QuestionExamples(store, Letters())
    held_out = store.held_out()
    assert held_out
    assert max(Counter(question.kind for question in held_out).values()) <= PER_KIND
    rng = np.random.default_rng(0)
    episodes = {store.notes[question.frame].episode for question in held_out}
    pictures = {
        image.tobytes() for q in store.questions if store.is_held_out(q.frame) for image in store.images(q.frame)[:1]
    }
    drawn = examples.draw(rng, 200)
    assert not any(example.images[0].tobytes() in pictures for example in drawn)
    assert all(episode % 12 == 0 for episode in episodes)


def test_draws_follow_from_the_generator_and_balance_answers(store: QuestionStore) -> None:
    examples = QuestionExamples(store, Letters(), kinds=("drawer",))
    one, two = (examples.draw(np.random.default_rng(3), 40) for _ in range(2))
    assert [(a.prompt, a.answer) for a in one] == [(b.prompt, b.answer) for b in two]
    assert all(example.prompt.startswith(("Is the drawer", "Has the drawer")) for example in one)
    with pytest.raises(DataError, match="no questions to train on"):
        QuestionExamples(store, Letters(), kinds=("weather",))


def test_several_questions_about_a_frame_hold_the_same_pictures_and_none_comes_twice(store: QuestionStore) -> None:
    examples = QuestionExamples(store, Letters(), per_picture=5)
    drawn = examples.draw(np.random.default_rng(0), 23)
    assert len(drawn) == 23
    groups = [list(group) for _, group in itertools.groupby(drawn, key=lambda example: id(example.images))]
    assert [len(group) for group in groups] == [5, 5, 5, 5, 3]
    for group in groups:
        assert len({(one.prompt, one.answer) for one in group}) == len(group)
    few = QuestionExamples(store, Letters(), kinds=("scene", "drawer"), per_picture=5)  # one or two of a frame
    assert len(few.draw(np.random.default_rng(0), 23)) == 23
    again = examples.draw(np.random.default_rng(0), 23)
    assert [(one.prompt, one.answer) for one in drawn] == [(one.prompt, one.answer) for one in again]
    assert examples.source != QuestionExamples(store, Letters()).source
    with pytest.raises(ContractError, match="per_picture"):
        QuestionExamples(store, Letters(), per_picture=0)


def test_what_cannot_be_questioned_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="no questions"):
        record_questions(ExactWorld(), tmp_path, frames=3)


def test_damaged_stores_are_named(store: QuestionStore, world: Tabletop, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a store"):
        QuestionStore(tmp_path)
    with pytest.raises(ContractError, match="frames"):
        record_questions(world, tmp_path / "none", frames=0)
    broken = tmp_path / "broken"
    record_questions(world, broken, frames=3)
    (broken / "frames.jsonl").write_text((broken / "frames.jsonl").read_text().rpartition('{"episode"')[0])
    with pytest.raises(DataError, match="3 pictures of front, 2 lines"):
        QuestionStore(broken)
    (broken / MANIFEST).write_text('{"format": "other"}')
    with pytest.raises(DataError, match=r"expected .actloop"):
        QuestionStore(broken)
