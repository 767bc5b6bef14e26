"""One episode to look at: the picture, the page, the export, and the two commands."""

import json
import re
import sys
import types
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from episodes import random_episode

from actloop.cli.inspected import show_inspect, show_replay
from actloop.errors import ContractError, DataError, MissingDependency, UnknownNameError
from actloop.evaluation.film import Film as Recorded
from actloop.evaluation.film import write_video
from actloop.loop import EventLog, LatencyProfile, LoopConfig, run_episode
from actloop.loop.log.replay import read_episodes
from actloop.report.episode import EpisodeView, questions
from actloop.report.episode_drawing import Drawing
from actloop.report.episode_film import read_film
from actloop.report.episode_page import render, view_log, write_episode
from actloop.report.logs import Log, choose, find_logs
from actloop.report.rerun_export import export_rerun
from actloop.report.timeline import timeline
from actloop.simulation.exact import ExactWorld
from actloop.testing.fakes import CountingPolicy

BUSY = 1  # a seed whose episode has checks, alarms, a ladder, holds and limits


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder: a filmed episode under `plain/190ms`, and one with layers under `layered/190ms`."""
    folder = tmp_path_factory.mktemp("run")
    world = ExactWorld(image_size=32, time_limit=2.0)
    film = Recorded()
    log = folder / "events" / "plain" / "190ms" / "reach-left-0.jsonl"
    policy = CountingPolicy(world.embodiment, actions=lambda obs, horizon: np.full((horizon, 2), 0.01, np.float32))
    with EventLog(log) as events:
        run_episode(
            world,
            policy,
            world.tasks["reach-left"],
            seed=0,
            latency=LatencyProfile.constant(190),
            config=LoopConfig(imagine=True),
            subscribers=[events, film],
        )
    write_video(folder / "videos" / "reach-left-0.mp4", film.panels(), fps=10)
    record = {"events": log.relative_to(folder).as_posix(), "video": "videos/reach-left-0.mp4"}
    (folder / "episodes.jsonl").write_text(json.dumps(record) + '\n{"cut o')
    random_episode(BUSY, folder / "events" / "layered" / "190ms" / "reach-left-0.jsonl")
    return folder


@pytest.fixture(scope="module")
def busy(run) -> EpisodeView:
    return view_log(find_logs(run)[0])


def test_the_logs_of_a_run_are_found_with_their_videos(run, tmp_path):
    logs = find_logs(run)
    assert [log.name for log in logs] == ["layered/190ms/reach-left-0", "plain/190ms/reach-left-0"]
    assert [log.video for log in logs] == [None, run / "videos" / "reach-left-0.mp4"]
    alone = find_logs(logs[1].path)
    assert [(log.name, log.video) for log in alone] == [("reach-left-0", logs[1].video)]
    assert choose(logs, "plain/190ms/reach-left-0") == logs[1]
    with pytest.raises(UnknownNameError, match="did you mean 'plain/190ms/reach-left-0'"):
        choose(logs, "plain/190ms/reach-left-1")
    with pytest.raises(DataError, match="no event log in this folder"):
        find_logs(tmp_path)
    with pytest.raises(DataError, match="found nothing there"):
        find_logs(tmp_path / "none")
    (tmp_path / "a.jsonl").write_bytes(logs[0].path.read_bytes())
    (tmp_path / "a.mp4").write_bytes(b"video")
    assert find_logs(tmp_path) == [Log(name="a", path=tmp_path / "a.jsonl", video=tmp_path / "a.mp4")]


def test_questions_know_what_became_of_them(busy):
    fates = {(one.layer, one.fate) for one in busy.asked}
    assert {("action", "accepted"), ("check", "accepted"), ("check", "failed"), ("check", "dropped")} <= fates
    for one in busy.asked:
        assert one.answered is None or one.answered >= one.asked
        assert (one.answered is None) == (one.fate == "pending")
        assert one.words.startswith(f"{one.layer} {one.plan}, asked at {one.asked:.2f} s (")
    assert any(one.alarm and "alarm" in one.words for one in busy.asked)
    assert busy.layers == ["action", "check"]
    replies = [record for record in busy.records if record["event"] == "replied"]
    for layer, (times, seconds) in busy.spent.items():
        assert seconds[-1] == pytest.approx(sum(r["computed"] for r in replies if r["layer"] == layer))
        assert list(times) == sorted(times)


def test_a_question_that_another_overtakes_is_in_a_second_row():
    asked = {"event": "requested", "layer": "action", "tick": 0, "why": "first", "deadline": None}
    came = {
        "event": "replied", "layer": "action", "accepted": True, "skipped": 0, "error": "", "latency": 0.5,
        "actions": None, "considered": 0, "text": "", "done": None, "readings": [],
    }  # fmt: skip
    records = [
        {**asked, "plan": 0, "time": 0.0},
        {**asked, "plan": 1, "time": 0.2},
        {**came, "plan": 0, "time": 0.5},
        {**asked, "plan": 2, "time": 0.5},
    ]
    assert [one.second for one in questions(records)] == [False, True, False]


def test_stretches_cover_every_tick_once(busy):
    covered = [tick for stretch in busy.stretches for tick in range(stretch.first, stretch.last + 1)]
    assert covered == list(range(len(busy.ticks)))
    for stretch in busy.stretches:
        assert (stretch.plan == -1) == bool(stretch.hold)
    readings = {reading.check: reading for reading in busy.readings}
    assert readings["latent"].alarm.any()
    assert np.isinf(readings["state"].threshold).all()
    assert busy.rungs[0][2] in ("slow", "replan", "choose", "ask", "hold")
    assert all(start <= end for start, end, _, _ in busy.rungs)


@pytest.fixture(scope="module")
def picture(busy) -> str:
    """The SVG of the busy episode."""
    return Drawing(busy).svg()


def test_the_picture_is_written_and_repeats(busy, picture, tmp_path):
    assert Drawing(busy).svg() == picture
    drawn = Drawing(busy).save(tmp_path / "deep" / "a.png", dpi=40).read_bytes()
    assert drawn.startswith(b"\x89PNG")
    assert len(drawn) > 10_000


def words_of(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_shows_every_panel(picture):
    words = " ".join(words_of(picture))
    names = [
        "action",
        "check",
        "of chunk",
        "pace",
        "position.0",
        "position.1",
        "latent",
        "ladder",
        "computing",
        "age of view",
    ]
    for name in names:
        assert name in words, name
    assert "held: starved" in words
    assert "alarms" in words
    assert "seen" not in words, "a log alone has no pictures"


def shown_labels(axes):
    """Those of the vertical axis; matplotlib also keeps some beyond its ends, which it does not draw."""
    low, high = sorted(axes.get_ylim())
    return [label for at, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True) if low <= at <= high]


def test_words_in_the_picture_do_not_overlap(busy):
    import matplotlib

    from actloop.report.episode_canvas import STYLE

    with matplotlib.rc_context(STYLE):
        figure = Drawing(busy).figure(titled=True)
        figure.canvas.draw()
        boxes = [
            (text.get_text(), text.get_window_extent())
            for axes in figure.axes
            for text in [*axes.texts, *shown_labels(axes)]
            if text.get_text() and not text.get_text().isdigit() and text.get_text() != "×"
        ]
    assert len(boxes) > 20
    for number, (name, box) in enumerate(boxes):
        for other, after in boxes[number + 1 :]:
            wide = min(box.x1, after.x1) - max(box.x0, after.x0)
            high = min(box.y1, after.y1) - max(box.y0, after.y0)
            assert wide < 1 or high < 1, (name, other)
        assert box.x1 <= figure.bbox.x1, f"{name} runs over the edge"


def test_frames_lie_side_by_side_over_their_times(run):
    log = find_logs(run)[1]
    view = view_log(log)
    film = read_film(log.video, view)
    assert len(film.seen) == len(film.imagined) == len(film.times) > 5
    assert np.diff(film.times) == pytest.approx(np.diff(film.times)[0], rel=1e-6)
    assert film.seen[0].shape == film.imagined[0].shape == (96, 96, 3)
    assert film.imagined[0].mean() < 110, "grey: nothing was imagined yet"
    assert len(read_film(log.video, view, every=True).times) == len(view.ticks) + 1
    with pytest.raises(DataError, match="cannot be read as a video"):
        read_film(log.path, view)
    assert "imagined" in words_of(Drawing(view, film).svg())


def test_the_page_needs_nothing_else_and_has_the_colours_of_the_reader(run, tmp_path):
    log = find_logs(run)[1]
    page = write_episode(log, tmp_path / "deep" / "page.html").read_text()
    assert "data:video/mp4;base64," in page
    outside = set(re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', page)) | set(re.findall(r"url\((?!#)", page))
    assert outside == set()
    drawing = page[page.index("<svg") : page.index("</svg>")]
    assert "var(--ink)" in drawing
    assert "color-mix(in srgb, var(--arm0)" in drawing
    assert "$" not in page.replace("$\\", "")
    assert set(re.findall(r"#[0-9a-f]{6}", drawing)) <= {"#000000", "#ffffff"}
    assert drawing.count("<title>action 0, asked at 0.00 s (first), answered at") == 1
    assert "success" in page or "failure after 2.0 s (time limit)" in page
    assert not list(tmp_path.rglob("*.partial"))


def test_the_page_of_a_log_alone_tells_what_happened_and_nothing_of_it_is_markup(run):
    records = [dict(record) for record in read_episodes(find_logs(run)[0].path)[0]]
    records[0]["instruction"] = "<script>alert(1)</script> $5"
    records[0]["task_name"] = "a$b^2$ & <b>"
    next(record for record in records if record["event"] == "stepped")["cause"] = "<img src=x>"
    view = EpisodeView(records)
    page = render(view, name="<i>")
    assert "A log holds no pictures" in page
    assert "<video" not in page
    assert "alarm: latent" in page
    assert "ladder: continue →" in page
    assert "<script>" not in page
    assert "<img" not in page
    assert "<i>" not in page
    assert "&lt;img src=x&gt;" in page


def test_logs_that_cannot_be_drawn_are_refused(run, tmp_path):
    records = read_episodes(find_logs(run)[0].path)[0]
    with pytest.raises(DataError, match="ends before the first tick"):
        EpisodeView(records[:2])
    old = [{name: value for name, value in records[0].items() if name != "body"}, *records[1:]]
    with pytest.raises(DataError, match="not a log of this version"):
        EpisodeView(old)
    with pytest.raises(ContractError, match=r"ends in \.html, \.png, \.svg or \.pdf, got 'x\.gif'"):
        write_episode(find_logs(run)[0], tmp_path / "x.gif")
    cut = EpisodeView(records[: len(records) // 2])
    assert cut.verdict.startswith("the log ends after")
    assert "the log ends after" in render(cut, name="cut")


def test_the_comparison_page_draws_every_layer_in_a_lane(busy):
    drawing = timeline(busy.records, class_="a0", title="layers")
    assert "model thinks" in drawing
    assert ">check<" in drawing
    assert ">!<" in drawing, "an alarm"
    old = [{name: value for name, value in record.items() if name != "layer"} for record in busy.records]
    assert timeline(old, class_="a0", title="old") == ""


# the commands


def test_inspect_writes_what_is_asked_for(run, tmp_path, capsys):
    assert show_inspect(run) == 0
    listed = capsys.readouterr().out
    assert "2 episodes; choose one with --episode NAME:" in listed
    assert "plain/190ms/reach-left-0  (filmed)" in listed
    show_inspect(run, episode="layered/190ms/reach-left-0", out=tmp_path / "one.svg", json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == [str(tmp_path / "one.svg")]
    assert said["episode"] == "layered/190ms/reach-left-0"
    log = tmp_path / "log.jsonl"
    log.write_bytes(find_logs(run)[0].path.read_bytes())
    show_inspect(log)
    assert (tmp_path / "log.html").exists()
    assert (tmp_path / "log.png").exists()
    show_inspect(run, json=True)
    capsys.readouterr()


def test_replay_says_what_is_different_and_ends_with_1(run, tmp_path, capsys):
    assert show_replay(run, json=False) == 0
    said = capsys.readouterr().out
    assert "the same" in said
    assert "2 episodes, 0 of them decided differently" in said
    lines = find_logs(run)[0].path.read_text().splitlines()
    place = next(place for place, line in enumerate(lines) if '"event":"requested"' in line)
    changed = tmp_path / "changed.jsonl"
    changed.write_text("\n".join([*lines[:place], *lines[place + 1 :]]) + "\n")
    assert show_replay(changed, json=False) == 1
    said = capsys.readouterr().out
    assert "DIFFERENT" in said
    assert "    tick 0: decided requested (layer action, plan 0, why first)" in said
    assert show_replay(changed, json=True) == 1
    assert json.loads(capsys.readouterr().out)["same"] is False


# Rerun


def test_without_rerun_the_export_says_how_to_get_it(busy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingDependency, match=r'pip install "actloop\[rerun\]"'):
        export_rerun(busy, tmp_path / "a.rrd")
    assert not (tmp_path / "a.rrd").exists()


class FakeRecording:
    """Keeps what it is told, in place of a recording of rerun-sdk 0.41."""

    def __init__(self, application: str) -> None:
        self.series, self.logged, self.closed = {}, [], False

    def save(self, path: str) -> None:
        Path(path).write_bytes(b"rrd")

    def send_columns(self, name, *, indexes, columns) -> None:
        assert all(len(index[1]) == len(columns) for index in indexes)
        assert np.isfinite(columns).all()
        self.series[name] = (dict(indexes), columns)

    def set_time(self, timeline, **at) -> None:
        assert len(at) == 1

    def log(self, name, what) -> None:
        self.logged.append((name, what))

    def flush(self) -> None:
        self.closed = False

    def disconnect(self) -> None:
        self.closed = True


@pytest.fixture
def fake(monkeypatch) -> list[FakeRecording]:
    made: list[FakeRecording] = []

    class Image:
        def __init__(self, frame):
            self.frame = frame

        def compress(self):
            return self.frame

    rerun = types.SimpleNamespace(
        RecordingStream=lambda application: made.append(FakeRecording(application)) or made[-1],
        TimeColumn=lambda name, **at: (name, next(iter(at.values()))),
        Scalars=types.SimpleNamespace(columns=lambda scalars: scalars),
        TextLog=lambda text, level: (level, text),
        Image=Image,
    )
    monkeypatch.setitem(sys.modules, "rerun", rerun)
    return made


def test_the_export_holds_every_component_reading_and_answer(busy, run, tmp_path, fake):
    assert export_rerun(busy, tmp_path / "a.rrd").exists()
    (recording,) = fake
    assert recording.closed
    indexes, sent = recording.series["sent/position.1"]
    assert np.array_equal(sent, busy.series("sent")[:, 1])
    assert np.array_equal(indexes["tick"], np.arange(len(busy.ticks)))
    assert {"checks/latent/value", "checks/latent/threshold", "computing/action", "loop/pace"} <= set(recording.series)
    assert "checks/state/threshold" not in recording.series, "it is infinite"
    levels = {level for _, (level, _) in recording.logged}
    assert levels == {"INFO", "WARN", "ERROR"}
    log = find_logs(run)[1]
    export_rerun(view_log(log), tmp_path / "b.rrd", video=log.video)
    assert sum(name == "imagined" for name, _ in fake[1].logged) == len(view_log(log).ticks) + 1


def test_the_export_is_read_by_rerun(busy, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    path = export_rerun(busy, tmp_path / "a.rrd")
    assert path.stat().st_size > 10_000


def test_a_task_of_many_components_says_what_it_leaves_out(run):
    records = [dict(record) for record in read_episodes(find_logs(run)[1].path)[0]]
    part = records[0]["body"]["action"]["parts"][0]
    wide = {**part, "low": part["low"] * 10, "high": part["high"] * 10, "kind": "delta"}
    records[0]["body"] = {**records[0]["body"], "action": {"parts": [wide]}}
    for record in records:
        for name in ("wanted", "requested", "sent"):
            if record["event"] == "ticked":
                record[name] = record[name] * 10
    words = " ".join(words_of(Drawing(EpisodeView(records)).svg()))
    assert "4 more components" in words
    assert "position.15" in words
    assert "position.16" not in words
