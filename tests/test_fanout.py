"""Many worlds at once: batches, processes, a cluster, interruptions and deaths change nothing but the speed."""

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_eval import TASK, single
from test_evaluation import Seeker, contents

from actloop.contracts import Action, BatchedPolicy, Committed, Observation, Prediction, Task
from actloop.errors import ActloopError, ContractError, MissingDependency
from actloop.evaluation import CompareConfig, Comparison, RunMismatchError, compare, load_comparison
from actloop.evaluation.batching import AtDesk, Beside, Desk, Padded, unbatchable
from actloop.evaluation.cluster import LOCAL
from actloop.evaluation.floor import portable
from actloop.loop.questions import Question, Result, Ticket
from actloop.report.page import write_page
from actloop.simulation.exact import ExactWorld
from actloop.simulation.registry import WORLDS, make_world
from actloop.stack.guarded import one_thread

HERE = Path(__file__).parent
BATCH = 3


@dataclass
class Rounding(Seeker):
    """Answers in batches; the last bits depend on their size, as a matrix product's do."""

    passes: list[int] = field(default_factory=list)

    def predict_batch(
        self, sessions: Sequence[bool], observations: Sequence[Observation], *, imagine: bool = False
    ) -> list[tuple[bool, Prediction]]:
        self.passes.append(len(sessions))
        rows = [self.predict(*row, imagine=imagine) for row in zip(sessions, observations, strict=True)]
        return [(session, _scaled(answer, 1 - len(rows) * 1e-5)) for session, answer in rows]


class Whispering(Rounding):
    """A row of it depends on its neighbours."""

    def predict_batch(
        self, sessions: Sequence[bool], observations: Sequence[Observation], *, imagine: bool = False
    ) -> list[tuple[bool, Prediction]]:
        rows = super().predict_batch(sessions, observations, imagine=imagine)
        mean = float(np.mean([obs.state for obs in observations]))
        return [(session, _scaled(answer, 1 + mean * 1e-6)) for session, answer in rows]


class Picky(Rounding):
    """Fails for what it sees from tick 4 on of one seed, alone as among others."""

    def predict(
        self, session: bool, obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[bool, Prediction]:
        if session and obs.tick >= 4:
            raise FloatingPointError("no answer to this")
        return super().predict(session, obs, committed=committed, imagine=imagine)


def _scaled(answer: Prediction, by: float) -> Prediction:
    actions = (answer.chunk.actions * by).astype(np.float32)
    return replace(answer, chunk=replace(answer.chunk, actions=actions))


def rounding() -> Rounding:
    return Rounding("fast", lazy=0.3)


def dreaming() -> Rounding:
    return Rounding("joint", imagines=True)


def whispering() -> Whispering:
    return Whispering("fast")


def picky() -> Picky:
    return Picky("fast", lazy=0.4)


def asked(out: Path, **changes: Any) -> CompareConfig:
    arms = {"rounding": "test_fanout:rounding", "dreaming": "test_fanout:dreaming"}
    return replace(single(out, arms=arms, episodes=4, sweep=("0",), batch=BATCH), **changes)


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(asked(tmp_path_factory.mktemp("serial") / "run", videos=1))


def folder(comparison: Comparison, tmp_path: Path) -> dict[str, bytes]:
    """Of an earlier run, whose folder is beside those of this one."""
    found = next(path for path in tmp_path.parent.glob("serial*/run"))
    assert len(load_comparison(found).records) == len(comparison.records)
    return contents(found)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_processes_with_batches_give_the_bytes_of_one_worker(serial: Comparison, tmp_path: Path) -> None:
    many = compare(asked(tmp_path, videos=1, workers=4))
    assert contents(tmp_path) == folder(serial, tmp_path)
    assert many.records == serial.records
    assert [arm.batch for arm in many.run.arms] == [BATCH, BATCH]


def test_the_size_of_the_batch_decides_the_last_bits_so_a_folder_keeps_it(serial: Comparison, tmp_path: Path) -> None:
    rows = compare(asked(tmp_path, videos=1, batch=1))
    assert contents(tmp_path) != folder(serial, tmp_path)
    assert [arm.to_dict().get("batch") for arm in rows.run.arms] == [None, None]
    with pytest.raises(RunMismatchError, match="batch"):
        compare(asked(tmp_path, videos=1))


def test_every_pass_has_the_declared_size_whoever_asks() -> None:
    policy = rounding()
    rows = Padded(policy, BATCH)
    world = ExactWorld()
    seen = [world.reset(world.tasks[TASK], seed=seed) for seed in range(3)]
    sessions = [rows.start("", seed=seed) for seed in range(3)]
    alone = [rows.predict(session, obs)[1].chunk.actions for session, obs in zip(sessions, seen, strict=True)]
    together = [answer.chunk.actions for _, answer in rows.predict_batch(sessions, seen)]
    np.testing.assert_array_equal(alone, together)
    assert policy.passes == [3, 3, 3, 3]
    assert isinstance(rows, BatchedPolicy)


def test_what_continues_a_plan_is_answered_by_itself() -> None:
    policy = rounding()
    world = ExactWorld()
    obs = world.reset(world.tasks[TASK], seed=0)
    committed = Committed(actions=np.zeros((2, 2), np.float32), fixed=1)
    Padded(policy, BATCH).predict(policy.start("", seed=0), obs, committed=committed)
    assert policy.passes == []


@pytest.mark.parametrize(
    ("policy", "why"), [(rounding(), ""), (whispering(), "its neighbours"), (Seeker("fast"), "no predict_batch")]
)
def test_a_policy_is_tried_before_its_answers_are_shared(policy: Any, why: str) -> None:
    world = ExactWorld()
    said = unbatchable(policy, BATCH, world, [world.tasks[TASK]], seed=0)
    assert bool(said) == bool(why)
    assert why in said


def test_a_policy_that_cannot_answers_row_by_row_and_the_report_says_so(tmp_path: Path) -> None:
    arms = {"whispering": "test_fanout:whispering", "rounding": "test_fanout:rounding"}
    done = compare(asked(tmp_path / "many", arms=arms, workers=3, episodes=2))
    compare(asked(tmp_path / "one", arms=arms, episodes=2))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    whispering, rounding = done.run.arms
    assert (whispering.batch, rounding.batch) == (1, BATCH)
    assert "neighbours" in whispering.rowwise
    page = write_page(tmp_path / "many").read_text(encoding="utf-8")
    assert "rounding: 3 rows at a time" in page
    assert "whispering: row by row (a row of it depends on its neighbours, or on its place)" in page


def test_an_error_is_that_of_its_own_row(tmp_path: Path) -> None:
    arms = {"picky": "test_fanout:picky"}
    many = compare(asked(tmp_path / "many", arms=arms, episodes=6, workers=4))
    compare(asked(tmp_path / "one", arms=arms, episodes=6))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    errors = [record["result"]["error"] for record in many.records]
    assert any("FloatingPointError: no answer to this (tick" in error for error in errors)
    assert any(not error for error in errors)


@pytest.mark.parametrize("broken", ["a row is missing", "a row is none"])
def test_a_batch_of_the_wrong_form_is_the_error_of_nobody_else(broken: str) -> None:
    policy = rounding()
    right = policy.predict_batch
    wrong = {"a row is missing": lambda rows: rows[:1], "a row is none": lambda rows: [None, *rows[1:]]}[broken]
    policy.predict_batch = lambda *args, **options: wrong(right(*args, **options))  # type: ignore[method-assign]
    world, desk = ExactWorld(), Desk(policy, BATCH)
    asked = {}
    for seat in range(2):
        obs = world.reset(world.tasks[TASK], seed=seat)
        desk.begin(seat, "one", seat)
        asked[seat] = Question(ticket=Ticket(episode=seat, plan=0, tick=0), observation=obs, instruction="one")
    found = desk.answer(asked)
    errors = [found[seat].error for seat in range(2)]
    assert all(errors) if broken == "a row is none" else not any(errors)


def test_an_instruction_that_is_refused_is_never_answered_from_the_one_before() -> None:
    policy = rounding()

    def start(instruction: str, *, seed: int) -> bool:
        if instruction == "bad":
            raise ContractError("instruction", "unknown")
        return False

    policy.start = start  # type: ignore[method-assign]
    world, desk = ExactWorld(), Desk(policy, BATCH)
    obs = world.reset(world.tasks[TASK], seed=0)
    desk.begin(0, "good", 0)
    for number in range(2):
        ticket = Ticket(episode=0, plan=number, tick=0)
        question = Question(ticket=ticket, observation=obs, instruction="bad")
        assert isinstance(desk.answer({0: question})[0].error, ContractError)


def test_a_new_instruction_begins_a_new_session() -> None:
    policy = rounding()
    desk = Desk(policy, BATCH)
    place = AtDesk(Beside(desk))
    world = ExactWorld()
    obs = world.reset(world.tasks[TASK], seed=0)
    told: list[str] = []
    policy.start = lambda instruction, *, seed: told.append(instruction) or False  # type: ignore[method-assign]
    place.start("one", seed=0)
    for number, instruction in enumerate(["one", "two", "two"]):
        ticket = Ticket(episode=0, plan=number, tick=0)
        place.submit(Question(ticket=ticket, observation=obs, instruction=instruction))
        (result,) = place.collect(1.0)
        assert result.error is None
    assert told == ["one", "two"]
    assert place.collect() == []


def test_a_beginning_that_fails_is_the_error_of_its_questions_and_an_open_question_waits_alone() -> None:
    def refuse(instruction: str, *, seed: int) -> bool:
        raise ContractError("instruction", "never heard of it")

    policy = rounding()
    policy.start = refuse  # type: ignore[method-assign]
    place = AtDesk(Beside(Desk(policy, BATCH)))
    world = ExactWorld()
    obs = world.reset(world.tasks[TASK], seed=0)
    question = Question(ticket=Ticket(episode=0, plan=0, tick=0), observation=obs, instruction="")
    place.start("", seed=0)
    place.submit(question)
    with pytest.raises(ContractError, match="still open"):
        place.submit(question)
    (result,) = place.collect(1.0)
    assert "never heard of it" in str(result.error)
    place.submit(question)
    place.start("", seed=1)  # the next episode: nobody waits for it any more
    assert place.collect(1.0) == []


class Unsendable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def test_errors_that_cannot_travel_are_told() -> None:
    ticket = Ticket(episode=0, plan=0, tick=0)
    plain = Result(ticket=ticket, seconds=0.0, error=ContractError("a", "b"))
    assert portable(plain) is plain
    told = portable(Result(ticket=ticket, seconds=0.0, error=Unsendable(1, 2))).error
    assert isinstance(told, ActloopError)
    assert str(told) == "Unsendable: 1 and 2"


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_at_least_one_row(tmp_path: Path, batch: int) -> None:
    with pytest.raises(ContractError, match=r"compare\.batch: expected at least 1"):
        asked(tmp_path, batch=batch)


# --- processes that die -----------------------------------------------------------------------------------------------


class Seeds(tuple[int, ...]):
    """Seeds; a process that is sent some imports this file, and so knows its worlds."""


class Killed(ExactWorld):
    """Its process is killed at tick 4 of some seeds: at first, or each time. It feels where it is."""

    def __init__(self, *, seeds: Sequence[int] = (), marker: str = "") -> None:
        super().__init__()
        self._doomed, self._marker, self._seed = seeds, Path(marker), -1

    def reset(self, task: Task, *, seed: int) -> Observation:
        self._seed = seed
        return super().reset(task, seed=seed)

    def apply(self, action: Action) -> Action:
        spared = self._marker.name and self._marker.exists()
        if self._tick == 4 and self._seed in self._doomed and not spared:
            if self._marker.name:
                self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().apply(action)

    def contact_force(self) -> float:
        return float(np.abs(self._position).sum())


class Full(ExactWorld):
    """The disk is full for its process, from some seeds on."""

    def __init__(self, *, seeds: Sequence[int] = ()) -> None:
        super().__init__()
        self._doomed = seeds

    def reset(self, task: Task, *, seed: int) -> Observation:
        if seed in self._doomed and multiprocessing.parent_process():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
        return super().reset(task, seed=seed)


WORLDS |= {"killed": "test_fanout:Killed", "full": "test_fanout:Full"}  # also in the processes that import this


def doomed(out: Path, world: str, *seeds: int, **changes: Any) -> CompareConfig:
    options = {"seeds": Seeds(seeds)}
    arms = {"rounding": "test_fanout:rounding"}
    return asked(out, world=world, world_options=options, workers=2, sweep=(), **{"arms": arms} | changes)


def test_a_killed_process_is_a_crashed_episode_and_replaced(tmp_path: Path) -> None:
    done = compare(doomed(tmp_path, "killed", 1))
    errors = [record["result"]["error"] for record in done.records]
    assert [bool(error) for error in errors] == [False, True, False, False]
    assert errors[1] == "ProcessDied: the process of the world ended by signal 9 (SIGKILL)"
    cell = done.cell("rounding", "190ms")
    assert cell is not None
    assert (cell.episodes, cell.planned, cell.crashed) == (4, 4, 1)
    assert not done.records[1]["result"]["outcome"]["success"]


def test_forces_are_the_same_on_many_workers_and_when_a_run_goes_on(tmp_path: Path) -> None:
    one, many = (doomed(tmp_path / name, "killed") for name in ("one", "many"))
    done = compare(replace(one, workers=1))
    assert all(record["watched"]["force"]["peak"] > 0 for record in done.records)
    compare(many)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    episodes = tmp_path / "many" / "episodes.jsonl"
    episodes.write_text("".join(episodes.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    compare(many)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


@pytest.mark.slow
def test_processes_that_all_die_end_the_run_and_what_was_finished_is_kept(tmp_path: Path) -> None:
    settings = doomed(tmp_path, "killed", *range(2, 40), episodes=40)
    with pytest.raises(ActloopError, match=r"one world's process after the other ended by signal 9 \(SIGKILL\)"):
        compare(settings)
    records = load_comparison(tmp_path).records
    assert {record["seed"] for record in records if not record["result"]["error"]} == {0, 1}
    assert 2 < len(records) < 12


def test_a_disk_that_is_full_for_a_worker_keeps_what_was_written(tmp_path: Path) -> None:
    settings = doomed(tmp_path, "full", 2, episodes=6)
    with pytest.raises(ActloopError, match=r"cannot be written \(File too large\)\. \d of 6 episodes are kept"):
        compare(settings)
    kept = load_comparison(tmp_path).records
    assert {record["seed"] for record in kept} <= {0, 1, 3, 4, 5}
    assert not any(record["result"]["error"] for record in kept)


def test_a_run_that_was_killed_goes_on_to_the_same_folder(serial: Comparison, tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        from pathlib import Path
        from test_fanout import asked
        from actloop.evaluation import compare

        def kill(progress):
            if progress.done == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        if __name__ == "__main__":
            compare(asked(Path(sys.argv[1]), videos=1, workers=3), kill)
    """
    path = tmp_path / "killed.py"
    path.write_text(textwrap.dedent(script), encoding="utf-8")
    out = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, str(path), str(out)], env=environment, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(load_comparison(out).records) == 5
    again = compare(asked(out, videos=1, workers=2))
    assert again.complete
    assert contents(out) == folder(serial, tmp_path)


# --- a cluster --------------------------------------------------------------------------------------------------------


def test_a_ray_address_where_nobody_listens_is_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra 'ray' is absent")
    begun = time.monotonic()
    with pytest.raises(ActloopError, match=r"no Ray cluster at '127\.0\.0\.1:9'"):
        compare(asked(tmp_path, ray="127.0.0.1:9"))
    assert time.monotonic() - begun < 30


def test_ray_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"pip install 'actloop\[ray\]'"):
        compare(asked(tmp_path, ray=LOCAL))


@pytest.mark.slow
def test_a_cluster_that_loses_a_process_gives_the_bytes_of_one_worker(tmp_path: Path) -> None:
    """About 25 s on a free machine, nearly all of it Ray's own start."""
    pytest.importorskip("ray", reason="the extra 'ray' is absent")
    spared = tmp_path / "marker"
    options = {"seeds": Seeds([2]), "marker": str(spared)}
    settings = asked(tmp_path / "cluster", world="killed", world_options=options, episodes=5, videos=1, workers=3)
    once = compare(replace(settings, ray=LOCAL))
    assert spared.exists()  # a process was killed
    lines = (tmp_path / "cluster" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(set(lines)) == len(once.records) == once.planned
    compare(replace(settings, out=tmp_path / "one", workers=1))
    assert contents(tmp_path / "cluster") == contents(tmp_path / "one")
    assert not any(record["result"]["error"] for record in once.records)
    assert all(record["watched"]["force"]["peak"] > 0 for record in once.records)


# --- the networks that ship -------------------------------------------------------------------------------------------


def shipped(name: str) -> Any:
    pytest.importorskip("mujoco")
    from actloop.evaluation.subjects import policy_of
    from actloop.presets import shipped_weights

    return policy_of(shipped_weights("tabletop")[name])


@pytest.mark.parametrize("name", ["fast", "joint", "action-conditioned", "openvla-oft", "openvla"])
def test_a_batch_of_the_network_answers_as_single_calls_do(name: str) -> None:
    """But for rounding; and with the futures of the same noise. Prompts are of several lengths."""
    policy, world = shipped(name), make_world("tabletop")
    tasks = [world.tasks[task] for task in ("pick-red", "place-left-green", "open-drawer")]
    seen = [world.reset(task, seed=seed) for seed, task in enumerate(tasks)]
    sessions = [policy.start(task.instruction, seed=seed) for seed, task in enumerate(tasks)]
    with one_thread():
        together = policy.predict_batch(sessions, seen, imagine=True)
        for (later, row), session, obs in zip(together, sessions, seen, strict=True):
            again, alone = policy.predict(session, obs, imagine=True)
            assert later == again
            assert (row.chunk.anchor, row.chunk.observed_at) == (obs.tick, obs.time)
            np.testing.assert_allclose(row.chunk.actions, alone.chunk.actions, atol=1e-5)
            assert (row.future is None) == (alone.future is None)
            if row.future is not None and alone.future is not None:
                front = row.future.frames["front"].astype(int) - alone.future.frames["front"]
                assert np.abs(front).max() <= 1
        said = unbatchable(policy, BATCH, world, tasks, seed=0)
    assert said == ""
    for held, shown in ((sessions[:1], seen), ([], [])):
        with pytest.raises(ContractError, match="sessions and"):
            policy.predict_batch(held, shown)


@pytest.mark.slow
def test_the_network_that_ships_gives_the_same_bytes_on_one_worker_and_on_many(tmp_path: Path) -> None:
    pytest.importorskip("mujoco")
    from actloop.presets import shipped_weights

    settings = CompareConfig(
        out=tmp_path / "one",
        arms={"fast": shipped_weights("tabletop")["fast"]},
        tasks=("pick-red", "place-left-green"),
        episodes=2,
        latency="190",
        sweep=(),
        disturb=("goal@3",),
        execute_horizon=4,
        videos=0,
        workers=1,
        batch=2,
    )
    done = compare(settings)
    compare(replace(settings, out=tmp_path / "many", workers=3))
    assert contents(tmp_path / "many") == contents(tmp_path / "one")
    assert max(record["watched"]["force"]["peak"] for record in done.records) > 0.5  # a block weighs 0.6 N
