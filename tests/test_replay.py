"""Event logs that outlive their process, and decisions that come out the same when they are decided again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import episodes
import numpy as np
import pytest
from episodes import random_episode

from actloop.checks.evidence import Reading
from actloop.errors import ContractError, DataError
from actloop.loop import EventLog, LoopConfig, Replied, Ticked, WallClock, read_events, run_episode
from actloop.loop.events import Bus, Stepped, ThreadedBus
from actloop.loop.log.encoding import pack
from actloop.loop.log.journal import Journal
from actloop.loop.log.lines import encode, frame, unframed
from actloop.loop.log.replay import read_episodes, replay, replay_episode
from actloop.simulation.exact import ExactWorld
from actloop.testing.fakes import CountingPolicy, Recorder

SEEDS = range(36)


@pytest.fixture(scope="module")
def logs(tmp_path_factory) -> list[Path]:
    """Logs of random episodes, made once."""
    folder = tmp_path_factory.mktemp("logs")
    paths = [folder / f"{seed}.jsonl" for seed in SEEDS]
    for seed, path in zip(SEEDS, paths, strict=True):
        random_episode(seed, path)
    return paths


def tick(number: int, **fields) -> Ticked:
    vector = np.array([0.1, 1 / 3, -0.0], np.float32)
    given = {
        "episode": 0, "tick": number, "time": 0.1, "begun": 0.05, "wanted": vector, "requested": vector,
        "sent": vector, "plan": 1, "anchor": 0, "index": number, "hold": "", "pace": 1.0, "reasons": (),
        "rung": "continue", "age": 0.1, "missed": 0, "state": None, "observation": None,
    }  # fmt: skip
    return Ticked(**given | fields)


# deciding again


def test_random_episodes_are_decided_again_without_a_difference(logs):
    compared: Counter[str] = Counter()
    for path in logs:
        again = replay(path)
        assert again.differences == (), path
        assert again.note == ""
        compared.update(again.compared)
    assert min(compared[kind] for kind in ("requested", "replied", "refused", "stepped")) > 20, compared
    assert compared["ticked"] > 500
    assert compared["ended"] == len(logs)


def test_the_random_episodes_have_met_everything_that_is_decided(logs):
    seen: set[object] = set()
    for record in (record for path in logs for record in read_events(path)):
        if record["event"] == "requested":
            seen |= {("asked", record["layer"]), record["why"]}
            seen |= {"committed"} if record["fixed"] else set()
        if record["event"] == "ticked":
            seen |= {record["hold"], *record["reasons"]} | ({"slow"} if 0 < record["pace"] < 1 else set())
        if record["event"] == "replied":
            seen |= {("dropped", record["reason"])}
    for name in ("action", "check", "foresight", "semantic"):
        assert ("asked", name) in seen
    for name in ("first", "executed", "spending", "spent", "disagrees", "told", "every", "starved", "late", "slow"):
        assert name in seen
    assert {"committed", "stale", "velocity", ("dropped", "plan"), ("dropped", "error")} <= seen


def changed(path: Path, change) -> list[dict]:
    """The records of a log after `change(records)`, which says where it changed something."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert change(records) is not None, "there was nothing to change"
    return records


def nth(records, number, **wanted):
    """The place of the n-th record with these fields."""
    found = [place for place, record in enumerate(records) if wanted.items() <= record.items()]
    return found[number] if len(found) > number else None


def an_action(records):
    place = nth(records, 9, event="ticked")
    if place is None:
        return None
    records[place]["requested"][1] = float(np.nextafter(np.float32(records[place]["requested"][1]), np.float32(9)))
    return place


def a_chunk(records):
    followed = {record["plan"] for record in records if record["event"] == "ticked" and not record["hold"]}
    place = next(
        (place for place, record in enumerate(records) if record.get("actions") and record["plan"] in followed), None
    )
    if place is not None:
        records[place]["actions"] = [[number + 0.001 for number in row] for row in records[place]["actions"]]
    return place


def a_reply_removed(records):
    place = nth(records, 1, event="replied", layer="action", accepted=True)
    if place is not None:
        del records[place]
    return place


def a_question_removed(records):
    place = nth(records, 1, event="requested", layer="action")
    if place is not None:
        del records[place]
    return place


def a_question_added(records):
    place = nth(records, 1, event="requested", layer="action")
    if place is not None:
        records.insert(place, records[place] | {"plan": 99})
    return place


def a_tick_removed(records):
    place = nth(records, 7, event="ticked")
    if place is not None:
        del records[place]
    return place


def a_threshold(records):
    for place, record in enumerate(records):
        for reading in record.get("readings", ()):
            if not reading["alarm"]:
                reading["threshold"] = -1.0
                return place
    return None


def the_ladder(records):
    if nth(records, 0, event="stepped") is None:
        return None
    records[0]["loop"]["ladder"]["rungs"] = []
    return 0


def the_execute_horizon(records):
    if nth(records, 0, event="requested", why="executed") is None:
        return None
    records[0]["loop"]["execute_horizon"] = 16
    return 0


def a_latency(records):
    for place, record in enumerate(records):
        if record["event"] == "refused" and record["why"].startswith("budget"):
            records[0]["loop"]["budget"]["layers"] = {}
            records[0]["loop"]["budget"]["total"] = None
            return place
    return None


def the_instruction(records):
    records[0]["instruction"] = "go home"
    return 0


def the_sums(records):
    records[-1]["executed"] += 1
    return -1


@pytest.mark.parametrize(
    "change",
    [
        an_action, a_chunk, a_reply_removed, a_question_removed, a_question_added, a_tick_removed,
        a_threshold, the_ladder, the_execute_horizon, a_latency, the_instruction, the_sums,
    ],
)  # fmt: skip
def test_what_was_changed_in_a_log_is_found(logs, change):
    tried = 0
    for path in logs:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        if change(records) is None:
            continue
        tried += 1
        again = replay_episode(records)
        assert not again.same, path
        assert again.differences[0].startswith("tick "), again.differences[0]
    assert tried >= 5


def test_a_difference_is_told_in_words(logs):
    def change(records):
        place = nth(records, 1, event="requested", layer="action")
        records[place]["why"] = "whim"
        return place

    records = changed(logs[0], change)
    place = nth(records, 1, event="requested", layer="action")
    told = replay_episode(records).differences
    assert len(told) == 1
    assert told[0].startswith(f"tick {records[place]['tick']}: requested (layer action, plan 1, why ")
    assert told[0].endswith("the log has 'whim'")


def test_a_log_that_was_cut_off_replays_up_to_its_end(logs, tmp_path):
    rng = np.random.default_rng(0)
    cut = tmp_path / "cut.jsonl"
    for path in logs[:12]:
        whole = path.read_bytes()
        start = whole.index(b"\n") + 1
        for end in rng.integers(start, len(whole), 5):
            cut.write_bytes(whole[:end])
            again = replay(cut)
            assert again.differences == (), (path, end)
            assert again.ticks == sum(record["event"] == "ticked" for record in read_events(cut))
            assert again.note == "the log ends before the episode does"


def test_lost_records_end_a_replay_where_they_are(logs):
    def change(records):
        place = nth(records, 8, event="ticked") + 1
        records[place:] = [{"event": "lost", "count": 3}, *records[place + 3 :]]
        return place

    again = replay_episode(changed(logs[1], change))
    assert again.same
    assert again.ticks == 9
    assert again.note == "3 records were lost after tick 8; compared up to there"


class Finer(ExactWorld):
    """It senses and sends in float64, and never quite what was asked."""

    def observe(self):
        obs = super().observe()
        return replace(obs, state=obs.state.astype(np.float64) + 1e-9 * (1 + obs.tick % 7))

    def apply(self, action):
        return super().apply(action).astype(np.float64) * (1 + 1e-9)


def test_a_world_that_reports_in_float64_is_decided_again(tmp_path, monkeypatch):
    monkeypatch.setattr(episodes, "ExactWorld", Finer)
    for seed in range(12):
        random_episode(seed, tmp_path / "log")
        assert replay(tmp_path / "log").differences == (), seed


def test_a_paused_clock_charges_nothing_that_the_log_does_not_hold(tmp_path):
    for seed in range(12):
        random_episode(seed, tmp_path / "log", clock="paused")
        assert replay(tmp_path / "log").differences == (), seed


def test_a_residual_is_named_in_the_log(tmp_path):
    def steadier(obs, action, index):
        return np.zeros(2, np.float32)

    world = ExactWorld(image_size=8, time_limit=0.5)
    policy = CountingPolicy(world.embodiment)
    with EventLog(tmp_path / "log") as log:
        run_episode(world, policy, world.tasks["reach-left"], seed=0, residual=steadier, subscribers=[log])
    with pytest.raises(DataError, match="steadier', a function"):
        replay(tmp_path / "log")


def test_logs_that_cannot_be_replayed_are_refused(logs, tmp_path):
    records = read_episodes(logs[0])[0]
    started = dict(records[0])
    with pytest.raises(DataError, match="format 99, this version of actloop replays format 2"):
        replay_episode([started | {"format": 99}])
    del started["format"]
    with pytest.raises(DataError, match="format of an older version"):
        replay_episode([started])
    with pytest.raises(DataError, match="corrected by 'a2c2', a function"):
        replay_episode([{**records[0], "residual": "a2c2"}])
    with pytest.raises(DataError, match="not a log of the loop"):
        replay_episode([records[0], {"event": "ticked", "tick": 0}])
    with pytest.raises(DataError, match="cannot read the event log"):
        replay(tmp_path / "none.jsonl")
    other = tmp_path / "other.jsonl"
    other.write_text('{"event":"ticked"}\n')
    with pytest.raises(DataError, match="begins with 'started'"):
        replay(other)
    other.write_bytes(logs[0].read_bytes() + logs[1].read_bytes())
    with pytest.raises(DataError, match="expected the log of one episode, got 2"):
        replay(other)
    assert [replay_episode(episode).same for episode in read_episodes(other)] == [True, True]


# the journal


def test_a_journal_has_the_bytes_of_an_event_log(tmp_path):
    world = ExactWorld(image_size=8)
    policy = CountingPolicy(world.embodiment)
    with EventLog(tmp_path / "log") as log, Journal(tmp_path / "deep" / "journal") as journal:
        options = {"seed": 1, "config": LoopConfig(imagine=True), "subscribers": [log, journal]}
        result = run_episode(world, policy, world.tasks["reach-left"], **options)
    written = (tmp_path / "deep" / "journal").read_bytes()
    assert result.warnings == journal.warnings == ()
    assert written == (tmp_path / "log").read_bytes()
    assert written.count(b'"event":"ticked"') == 50
    journal.close()  # again: nothing happens


def test_a_journal_ends_even_where_another_process_holds_its_pipe(tmp_path):
    journal = Journal(tmp_path / "log")
    other = os.dup(journal._pipe)  # as a forked process has it
    journal.on_event(tick(0))
    begun = time.monotonic()
    journal.close()
    assert journal._writer.returncode == 0
    assert time.monotonic() - begun < 4
    assert len(read_events(tmp_path / "log")) == 1
    os.close(other)


def test_numbers_read_back_exactly_and_what_is_not_finite_is_null():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 4000, dtype=np.uint32).view(np.float32)
    vector = np.concatenate([bits[np.isfinite(bits)], np.float32([0.1, 1, 0, 3.4028235e38, 1e-45])])
    event = tick(0, sent=vector, wanted=np.float32([-0.0, np.nan, np.inf]), time=np.float64(0.1) + 0.2)
    record = json.loads(encode(pack(event)))
    assert np.array_equal(np.array(record["sent"], np.float32), vector)
    assert record["wanted"] == [0.0, None, None]
    assert encode(pack(event)).count("-0.0,") == 0
    assert record["time"] == 0.1 + 0.2
    reading = Reading(check="a", raw=0.1, lead=2, value=3.0, threshold=float("inf"))
    replied = Replied(
        episode=0, tick=1, time=0.0, layer="action", plan=0, anchor=0, accepted=True, reason="", delay=1, skipped=1,
        latency=0.1, computed=0.1, actions=np.float32([[0.1, 2], [3, 4]]), readings=(reading,), text='say "é"\n',
    )  # fmt: skip
    record = json.loads(encode(pack(replied)))
    assert record["actions"] == [[pytest.approx(0.1), 2.0], [3.0, 4.0]]
    assert record["readings"] == [
        {"check": "a", "raw": 0.1, "lead": 2, "value": 3.0, "threshold": None, "alarm": False}
    ]
    assert record["text"] == 'say "é"\n'
    with pytest.raises(ContractError, match="object has no place in the log"):
        pack(tick(0, rung=object()))


def test_frames_come_apart_wherever_they_are_cut():
    events = [pack(tick(number)) for number in range(3)]
    stream = b"".join(frame(event) for event in events)
    for cut in range(len(stream)):
        first, rest = unframed(stream[:cut])
        second, left = unframed(rest + stream[cut:])
        assert first + second == events
        assert left == b""


def paused(journal: Journal) -> None:
    os.kill(journal._writer.pid, signal.SIGSTOP)


def resumed(journal: Journal) -> None:
    os.kill(journal._writer.pid, signal.SIGCONT)


def test_a_full_pipe_loses_records_and_says_so_and_never_waits(tmp_path):
    with Journal(tmp_path / "log") as journal:
        paused(journal)
        longest = 0.0
        rows = np.ones((64, 8), np.float32)
        for number in range(2000):
            begun = time.perf_counter()
            journal.on_event(tick(number, wanted=rows, rung="x" * 500))
            longest = max(longest, time.perf_counter() - begun)
        lost = journal.lost
        assert lost > 0
        assert longest < 0.5
        assert f"{lost} records are not in the log" in journal.warnings[0]
        resumed(journal)
        until = time.monotonic() + 20
        while journal.lost == lost and time.monotonic() < until:  # until there is room again
            journal.on_event(Stepped(episode=0, tick=9999, time=0.0, rung="hold", before="continue", cause="test"))
            lost = journal.lost if journal._untold else -1
            time.sleep(0.01)
    records = read_events(tmp_path / "log")
    told = [record["count"] for record in records if record["event"] == "lost"]
    kept = [record["tick"] for record in records if record["event"] == "ticked"]
    assert sum(told) == journal.lost
    assert kept == list(range(len(kept))), "what was kept is whole, and from before"
    assert len(kept) + sum(told) + sum(record["event"] == "stepped" for record in records) >= 2000


def test_a_full_disk_is_a_warning_and_no_crash(tmp_path):
    journal = Journal("/dev/full")
    until = time.monotonic() + 20
    while not journal.lost and time.monotonic() < until:
        journal.on_event(tick(0))
        time.sleep(0.01)
    journal.close()
    assert "No space left on device" in journal.warnings[0]


def test_a_journal_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "folder").mkdir()
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(IsADirectoryError):
        Journal(tmp_path / "folder")
    assert set(os.listdir("/proc/self/fd")) == before


def test_immediate_subscribers_are_told_in_the_thread_of_the_ticks(tmp_path):
    class Watch(Journal):
        def on_event(self, event):
            threads.append(threading.current_thread())

    threads: list[threading.Thread] = []
    recorder = Recorder()
    with Watch(tmp_path / "log") as watch:
        bus = ThreadedBus([watch, recorder])
        bus.publish(tick(0))
        assert threads == [threading.current_thread()]
        watch.lost = 3
        assert bus.close() == watch.warnings
        assert len(recorder.events) == 1
        assert Bus([watch]).close() == watch.warnings


def test_a_wall_clock_episode_is_decided_again(tmp_path):
    world = ExactWorld(image_size=8, control_hz=100.0, time_limit=0.6)
    policy = CountingPolicy(world.embodiment, on_call=lambda call: time.sleep(0.02 * (call % 4)))
    with Journal(tmp_path / "log") as journal:
        config = LoopConfig(execute_horizon=4, answer_timeout=0.05)
        result = run_episode(
            world, policy, world.tasks["reach-left"], seed=1, clock=WallClock(), config=config, subscribers=[journal]
        )
    assert result.error == ""
    again = replay(tmp_path / "log")
    assert again.differences == ()
    assert again.ticks == result.ticks
    assert again.note == ""


CHILD = """
import os, sys, time
from actloop.loop import WallClock, run_episode
from actloop.loop.log.journal import Journal
from actloop.simulation.exact import ExactWorld
from actloop.testing.fakes import CountingPolicy

class Told(ExactWorld):
    def apply(self, action):
        sent = super().apply(action)
        os.write(1, b".")
        return sent

world = Told(image_size=8, control_hz=100.0, time_limit=60.0)
policy = CountingPolicy(world.embodiment, on_call=lambda call: time.sleep(0.03))
journal = Journal(sys.argv[1])
run_episode(world, policy, world.tasks["reach-left"], seed=0, clock=WallClock(), subscribers=[journal])
"""


def test_a_killed_run_loses_at_most_the_current_tick(tmp_path):
    path = tmp_path / "log"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE)
    try:
        sent = 0
        while sent < 60:
            dots = os.read(child.stdout.fileno(), 1000)
            assert dots, "the run ended by itself"
            sent += len(dots)
    finally:
        child.send_signal(signal.SIGKILL)
    sent += len(child.stdout.read())
    child.stdout.close()
    child.wait()
    until = time.monotonic() + 20
    while True:  # the writer is nobody's child any more
        ticks = [record["tick"] for record in read_events(path) if record["event"] == "ticked"]
        if len(ticks) >= sent - 1 or time.monotonic() > until:
            break
        time.sleep(0.02)
    assert ticks == list(range(len(ticks)))
    assert len(ticks) in (sent - 1, sent)
    again = replay(path)
    assert again.same
    assert again.ticks == len(ticks)
