"""Where modules run on this machine: at once, in a thread, in a process."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import place_modules
import pytest
from place_modules import Saying, ask, gather, only

from actloop.checks.evidence import Evidence
from actloop.contracts import Prediction
from actloop.errors import ActloopError, ContractError
from actloop.loop.places import Here, InThread, Threaded
from actloop.loop.process import InProcess, ProcessFailed, _Inbox, _Outbox
from actloop.loop.questions import Answer, Place, Question
from actloop.simulation.exact import read_tick

PATIENT = 20.0  # seconds, on a busy machine


def until(true: Callable[[], object], seconds: float = PATIENT) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.002)


def started_on(place: Threaded) -> None:
    """Wait until nobody waits: somebody has started on the last question."""
    until(lambda: place._waiting is None)


def shared_memories() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith("psm_")} if os.path.isdir("/dev/shm") else set()


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread, process or shared memory outlives the places of this module."""
    before = shared_memories()
    yield
    assert multiprocessing.active_children() == []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("actloop-")] == []
    until(lambda: shared_memories() <= before)  # a resource tracker removes those of a killed parent, in its own time


@pytest.fixture(scope="module")
def process() -> Iterator[InProcess]:
    place = InProcess(place_modules.saying)
    yield place
    assert place.close()


@pytest.fixture(params=["here", "thread", "process"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Every kind of place, without a result of the test before."""
    if request.param == "process":
        shared = request.getfixturevalue("process")
        while shared.collect(PATIENT):
            pass
        yield shared
        return
    made = Here(Saying()) if request.param == "here" else InThread(Saying())
    yield made
    assert made.close()


@pytest.fixture(params=["thread", "process"])
def beside(request: pytest.FixtureRequest) -> Iterator[Threaded]:
    """The places that work beside the loop."""
    if request.param == "process":
        shared = request.getfixturevalue("process")
        while shared.collect(PATIENT):
            pass
        yield shared
        return
    with InThread(Saying()) as made:
        yield made


def test_answers_come_under_the_ticket_of_their_question(place: Place) -> None:
    assert isinstance(place, Place)
    place.start("left", seed=7)
    for tick in range(3):
        place.submit(ask(tick))
        result = only(place.collect(PATIENT))
        assert result.ticket == ask(tick).ticket
        assert result.answer.text == f"left/7 [{tick}]"
        np.testing.assert_array_equal(result.answer.prediction.chunk.actions, np.full((4, 2), tick))
        assert 0 <= result.seconds < PATIENT
    assert place.collect() == []


def test_an_episode_begins_before_its_first_question(place: Place) -> None:
    for number, instruction in enumerate(["left", "right", "left"]):
        place.start(instruction, seed=number)
        place.submit(ask(1, episode=number))
        assert only(place.collect(PATIENT)).answer.text == f"{instruction}/{number} [1]"


def test_what_a_module_raises_is_the_error_of_its_result(place: Place) -> None:
    place.start("left", seed=0)
    place.submit(ask(1, "raise"))
    (result,) = place.collect(PATIENT)
    assert result.ticket == ask(1).ticket
    assert result.answer is None
    assert isinstance(result.error, ValueError)
    assert "no such thing" in str(result.error)
    place.submit(ask(2))
    assert only(place.collect(PATIENT)).answer.text == "left/0 [2]"


def test_an_episode_that_cannot_begin_fails_its_questions_and_not_the_next_episode(place: Place) -> None:
    place.start("refuse", seed=0)
    for tick in (0, 1):
        place.submit(ask(tick))
        (result,) = place.collect(PATIENT)
        assert "refused" in str(result.error)
    place.start("left", seed=0)
    place.submit(ask(0))
    assert only(place.collect(PATIENT)).error is None


@pytest.mark.parametrize("make", [lambda: Here(Saying()), lambda: InThread(Saying())], ids=["here", "thread"])
def test_a_question_needs_an_episode_and_an_open_place(make: Callable[[], Place]) -> None:
    place = make()
    with pytest.raises(ContractError, match="call start"):
        place.submit(ask(0))
    assert place.close()
    assert place.close()
    with pytest.raises(ContractError, match="closed"):
        place.submit(ask(0))
    with pytest.raises(ContractError, match="closed"):
        place.start("left", seed=0)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_timeout_has_to_be_a_duration(seconds: float) -> None:
    with pytest.raises(ContractError, match="seconds above 0"):
        InThread(Saying(), timeout=seconds)


def test_the_newest_question_wins(beside: Threaded) -> None:
    before = beside.superseded
    beside.start("left", seed=0)
    beside.submit(ask(0, "sleep 0.2"))
    started_on(beside)
    for tick in (1, 2, 3):
        beside.submit(ask(tick))
    assert [result.ticket.tick for result in gather(beside, 2)] == [0, 3]
    assert beside.superseded == before + 2


def test_a_late_reply_of_an_old_episode_keeps_its_ticket(beside: Threaded) -> None:
    beside.start("left", seed=0)
    beside.submit(ask(9, "sleep 0.2", episode=0))
    started_on(beside)
    beside.start("right", seed=1)
    beside.submit(ask(2, episode=1))
    late, fresh = gather(beside, 2)
    assert (late.ticket, late.answer.text) == (ask(9, episode=0).ticket, "left/0 [9]")
    assert (fresh.ticket, fresh.answer.text) == (ask(2, episode=1).ticket, "right/1 [2]")


def test_a_question_that_waits_is_dropped_by_the_next_episode_and_by_cancel(beside: Threaded) -> None:
    beside.start("left", seed=0)
    for drop in (lambda: beside.start("right", seed=1), beside.cancel):
        beside.submit(ask(0, "sleep 0.1"))
        started_on(beside)
        beside.submit(ask(1))
        drop()
        assert only(beside.collect(PATIENT)).ticket.tick == 0
        assert beside.collect(0.05) == []


def test_only_a_timeout_waits_and_only_for_an_open_question(beside: Threaded) -> None:
    beside.start("left", seed=0)
    begun = time.monotonic()
    assert beside.collect(PATIENT) == []
    beside.submit(ask(0, "sleep 2"))
    assert beside.collect() == []
    assert beside.collect(0.01) == []
    assert time.monotonic() - begun < 1.5
    assert only(beside.collect(PATIENT)).ticket.tick == 0


def test_an_exit_in_a_thread_is_an_error_and_not_the_end_of_the_thread() -> None:
    with InThread(Saying()) as place:
        place.start("left", seed=0)
        place.submit(ask(0, "exit"))
        (result,) = place.collect(PATIENT)
        assert "SystemExit(3)" in str(result.error)
        place.submit(ask(1))
        assert only(place.collect(PATIENT)).ticket.tick == 1


def test_a_thread_that_hangs_at_close_is_left_behind() -> None:
    freed = threading.Event()

    class Hanging(Saying):
        def answer(self, question: Question) -> Answer:
            freed.wait()
            return Answer()

    place = InThread(Hanging(), timeout=0.1)
    place.start("left", seed=0)
    place.submit(ask(0))
    started_on(place)
    assert not place.close()
    freed.set()
    place._thread.join(PATIENT)
    assert not place._thread.is_alive()


def test_here_times_the_module_and_nothing_else() -> None:
    times = iter([3.0, 3.25])
    place = Here(Saying(), timer=lambda: next(times))
    place.start("left", seed=0)
    place.submit(ask(0))
    assert only(place.collect()).seconds == 0.25


# ---- in a process


def test_no_frame_is_torn_or_of_another_question_however_fast_they_come(process: InProcess) -> None:
    process.start("hammer", seed=0)
    superseded, answered, tick = process.superseded, 0, 0
    end = time.monotonic() + 2.0
    while answered < 40 or time.monotonic() < end:
        process.submit(ask(tick, size=256))
        tick += 1
        for result in process.collect(0.001 if tick % 3 else 0.0):
            assert result.error is None
            assert result.answer.text == f"hammer/0 [{result.ticket.tick}]"
            answered += 1
        assert time.monotonic() < end + PATIENT
    assert process.superseded > superseded
    while process.collect(PATIENT):
        pass


def test_images_that_a_session_keeps_are_never_written_over(process: InProcess) -> None:
    process.start("keep", seed=0)
    for tick in range(12):
        process.submit(ask(tick, "keep"))
        assert only(process.collect(PATIENT)).answer.text == f"keep/0 {[[n] for n in range(tick + 1)]}"


def test_larger_and_smaller_images_may_alternate(process: InProcess) -> None:
    process.start("sizes", seed=0)
    for tick, size in enumerate((64, 256, 8, 512, 64, 256)):
        process.submit(ask(tick, size=size))
        assert only(process.collect(PATIENT)).answer.text == f"sizes/0 [{tick}]"


def test_an_image_with_gaps_between_its_rows_arrives_whole(process: InProcess) -> None:
    question = ask(5, size=128)
    padded = {name: np.zeros((128, 200, 3), np.uint8) for name in question.observation.images}
    for name, image in question.observation.images.items():
        padded[name][:, :128] = image
    cropped = {name: image[:, :128] for name, image in padded.items()}
    process.start("crop", seed=0)
    process.submit(dataclasses.replace(question, observation=dataclasses.replace(question.observation, images=cropped)))
    assert only(process.collect(PATIENT)).answer.text == "crop/0 [5]"


def test_frames_are_decoded_and_sent_only_where_they_were_asked_for(process: InProcess) -> None:
    process.start("left", seed=0)
    process.submit(ask(3))
    assert only(process.collect(PATIENT)).answer.prediction.future is None
    for question in (ask(4, imagine=True), ask(4, layer="foresight")):
        process.submit(question)
        future = only(process.collect(PATIENT)).answer.prediction.future
        assert {name: [read_tick(frame) for frame in frames] for name, frames in future.frames.items()} == {
            "left": [4, 4, 4],
            "right": [4, 4, 4],
        }


def evidence_of(question: Question) -> Question:
    """The question with evidence whose observation is its own."""
    obs = question.observation
    anchor = ask(obs.tick - 2).observation
    prediction = Saying().answer(ask(anchor.tick)).prediction
    chunk = Prediction(chunk=prediction.chunk)
    sent = np.zeros((2, 2), np.float32)
    evidence = Evidence(
        observation=obs, anchor=anchor, prediction=chunk, progress=2.0, sent=sent, instruction="go", overtaken=None
    )
    return dataclasses.replace(question, evidence=evidence)


def test_an_image_crosses_once_however_often_the_question_holds_it() -> None:
    outbox, inbox = _Outbox(), _Inbox()
    parcel = outbox.pack(evidence_of(ask(5)))
    assert len(parcel[2]) == 4  # two cameras, of now and of the anchor
    question = inbox.unpack(*parcel)
    assert question.evidence.observation is question.observation
    assert {read_tick(image) for image in question.evidence.anchor.images.values()} == {3}
    del question
    inbox.unpack(*outbox.pack(ask(6, size=512)))  # larger: the first memory is replaced, and let go here
    for memory in inbox._ring.values():
        memory.close()
    outbox.close()


def test_a_memory_that_is_written_too_early_is_noticed() -> None:
    outbox, inbox = _Outbox(), _Inbox()
    number, name, *rest = outbox.pack(ask(1))
    kept = inbox.unpack(number, name, *rest)
    inbox.check(number, name)
    assert inbox.held() == [name]
    outbox.held = ()  # the child's word is not heard
    outbox.pack(ask(2))
    with pytest.raises(ActloopError, match="torn"):
        inbox.check(number, name)
    del kept
    assert inbox.held() == []
    for memory in inbox._ring.values():
        memory.close()
    outbox.close()


def test_images_of_a_question_that_failed_are_let_go(process: InProcess) -> None:
    for tick, deed in enumerate(("raise", "odd")):
        process.start("left", seed=0)
        process.submit(ask(tick, deed))
        (result,) = process.collect(PATIENT)
        assert result.error is not None
        assert process._child._outbox.held == []


@pytest.mark.parametrize("deed", ["keep", "raise"])
def test_a_child_whose_module_keeps_images_ends_without_a_word(deed: str, capfd: pytest.CaptureFixture[str]) -> None:
    with InProcess(place_modules.cyclic) as place:
        place.start("left", seed=0)
        for tick in range(2):
            place.submit(ask(tick, deed))
            assert place.collect(PATIENT)
    assert capfd.readouterr().err == ""


def test_errors_that_do_not_survive_a_pipe_are_told_in_words(process: InProcess) -> None:
    process.start("left", seed=0)
    process.submit(ask(0, "odd"))
    (result,) = process.collect(PATIENT)
    assert str(result.error) == "OddError: one two"
    assert "place_modules.py" in result.error.__notes__[0]
    process.submit(ask(1, "unpicklable"))
    (result,) = process.collect(PATIENT)
    assert "pickle" in str(result.error)
    process.submit(ask(2))
    assert only(process.collect(PATIENT)).ticket.tick == 2


def test_a_key_press_meant_for_the_parent_does_not_stop_the_child(process: InProcess) -> None:
    os.kill(process.pid, signal.SIGINT)
    process.start("left", seed=0)
    process.submit(ask(0))
    assert only(process.collect(PATIENT)).answer.text == "left/0 [0]"


@pytest.mark.parametrize(
    ("deed", "told", "code"), [("hang", r"signal 9 \(SIGKILL\)", -9), ("exit", "exit code 3", 3)], ids=["kill", "exit"]
)
def test_a_process_that_dies_in_a_question_is_an_error_at_once(deed: str, told: str, code: int) -> None:
    with InProcess(place_modules.saying) as place:
        place.start("left", seed=0)
        place.submit(ask(0, deed))
        if deed == "hang":
            assert place.collect(0.3) == []
            os.kill(place.pid, signal.SIGKILL)
        (result,) = place.collect(2.0)
        assert result.ticket == ask(0).ticket
        assert isinstance(result.error, ProcessFailed)
        assert result.error.exitcode == code
        with pytest.raises(ProcessFailed, match=told):
            raise result.error
        place.start("right", seed=1)
        place.submit(ask(1))
        assert isinstance(place.collect(2.0)[0].error, ProcessFailed)
        assert place.close()


def test_a_process_that_hangs_at_close_is_killed() -> None:
    place = InProcess(place_modules.saying, timeout=0.2)
    place.start("left", seed=0)
    place.submit(ask(0, "hang"))
    started_on(place)
    assert place.collect(0.2) == []
    pid = place.pid
    assert not place.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not place._thread.is_alive()


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        (place_modules.failing, "OSError: no weights at that path"),
        (place_modules.Unimportable(), "ModuleNotFoundError: No module named 'no_such_module'"),
        (place_modules.exiting, "exit code 7"),
    ],
    ids=["raises", "cannot be imported", "exits"],
)
def test_a_factory_that_fails_says_so_at_once(factory: Callable[[], Saying], told: str) -> None:
    with pytest.raises(ProcessFailed, match=told):
        InProcess(factory)


def test_a_factory_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(ProcessFailed, match=r"not ready within 0\.2 s"):
        InProcess(place_modules.sleeping, start_timeout=0.2)


def test_what_cannot_be_sent_to_a_process_is_refused_before_it_starts() -> None:
    with pytest.raises(ContractError, match="can be imported"):
        InProcess(lambda: Saying())
    with pytest.raises(ContractError, match="threads"):
        InProcess(place_modules.saying, threads=0)


def test_threads_of_torch_are_limited_there() -> None:
    with InProcess(place_modules.threaded, threads=1) as place:
        place.start("left", seed=0)
        place.submit(ask(0, "threads"))
        assert only(place.collect(PATIENT)).answer.text == "1 1"


def test_a_process_ends_with_its_parent_even_if_that_is_killed(tmp_path: Path) -> None:
    script = """
        import time
        from place_modules import ask, saying
        from actloop.loop.process import InProcess

        if __name__ == "__main__":
            place = InProcess(saying)
            place.start("left", seed=0)
            place.submit(ask(0))
            place.collect(20)
            place.submit(ask(1, "hang"))
            ring = place._child._outbox._ring
            while len(ring) < 2:  # the module keeps the images of the first question
                time.sleep(0.001)
            print(place.pid, *ring, flush=True)
            time.sleep(60)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script), encoding="utf-8")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
        text=True,
    )
    with parent:
        child, *memories = parent.stdout.readline().split()
        assert len(memories) == 2
        assert set(memories) <= shared_memories()
        parent.kill()
    until(lambda: not Path(f"/proc/{child}").exists())
    until(lambda: not shared_memories() & set(memories))
