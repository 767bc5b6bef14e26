"""What the page says of disturbances, help, failures and every single episode."""

import re
from pathlib import Path

import pytest
from test_eval import TASK, single
from test_report import events, read

from actloop.evaluation import Comparison, compare
from actloop.evaluation.statistics import survival_curve
from actloop.report import conduct, curves, episodes, robustness, write_page
from actloop.report.logs import choose, find_logs
from actloop.report.timeline import timeline


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("disturbed")
    arms = {"seeker": "test_eval:seeker", "still": "test_eval:still"}
    asked = single(out, arms=arms, episodes=2, sweep=("paused",), disturb=("displace@5",))
    return out, compare(asked)


@pytest.fixture(scope="module")
def rescued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Comparison]:
    out = tmp_path_factory.mktemp("rescued")
    asked = single(out, arms={"still": "test_eval:still"}, episodes=2, rescue="expert", rescue_after=0.5)
    return out, compare(asked)


def words_of(page: str) -> str:
    return " ".join("".join(read(page).words).split())


def test_the_page_says_what_was_disturbed_and_what_came_of_it(disturbed: tuple[Path, Comparison]) -> None:
    out, _ = disturbed
    page = write_page(out).read_text(encoding="utf-8")
    words = words_of(page)
    for said in ("Disturbed", "190ms+displace", "paused+displace", "against its twin", "Failures, by what was seen"):
        assert said in words
    assert "Paused, wherever a table says so" in words
    assert "Virtual: the world moves on" in words
    assert "Interventions" not in words
    assert not re.search(r"https?://|<link|\bhref=", page)


def test_a_single_arm_is_asked_another_question(rescued: tuple[Path, Comparison]) -> None:
    out, _ = rescued
    words = words_of(write_page(out).read_text(encoding="utf-8"))
    assert "How well does it act here?" in words
    assert "Where should prediction live" not in words
    assert "still succeeds in 0 %" in words
    assert "Interventions" in words
    assert "2 overdue" in words
    assert "a person had to help" in words


def test_every_episode_is_listed_and_its_command_finds_it(disturbed: tuple[Path, Comparison]) -> None:
    out, comparison = disturbed
    markup = episodes.episodes(comparison, out)
    named = re.findall(r"actloop inspect RUN --episode (\S+?)<", markup)
    assert len(named) == len(comparison.records) == markup.count("timelined")
    logs = find_logs(out)
    for name in named:
        assert choose(logs, name).path.is_file()
    assert markup.count("disturbed at 0.5 s") == 8
    assert markup.count('class="incident"') == 8


def test_timelines_that_do_not_fit_are_left_out(
    disturbed: tuple[Path, Comparison], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, comparison = disturbed
    monkeypatch.setattr(episodes, "BUDGET", 40_000)
    markup = episodes.episodes(comparison, out)
    assert 0 < markup.count("timelined") < len(comparison.records)
    assert markup.count("timelined") + markup.count("episode-line") == len(comparison.records)


def test_a_timeline_shows_what_was_disturbed_and_who_helped() -> None:
    told = events()
    told.insert(5, {"event": "incident", "tick": 1, "time": 0.1, "fault": "dim@1+1", "phase": "begins"})
    told.insert(8, {"event": "incident", "tick": 2, "time": 0.2, "fault": "dim@1+1", "phase": "ends"})
    for line in told:
        if line["event"] == "ticked" and line["tick"] == 3:
            line["rung"] = "human"
    drawing = timeline(told, class_="a0", title="an episode")
    assert drawing.count('class="incident"') == 2
    assert drawing.count('class="incident-name"') == 1
    assert drawing.count('class="helped"') == 1
    assert "dim@1+1 ends at 0.2 s" in drawing


def test_nothing_is_said_about_what_was_not_done(rescued: tuple[Path, Comparison]) -> None:
    _, comparison = rescued
    assert robustness.disturbances(comparison) == ""
    assert robustness.alarms(comparison) == ""
    assert curves.trade_offs(comparison) == ""  # one arm trades nothing


def test_only_arms_that_nothing_beats_are_ringed(disturbed: tuple[Path, Comparison]) -> None:
    assert curves.undominated([(1.0, 0.5), (2.0, 0.9), (2.0, 0.4), (3.0, 0.9)]) == [0, 1]
    assert curves.undominated([(1.0, 0.5), (1.0, 0.5)]) == [0, 1]
    drawn = curves.trade_offs(disturbed[1])
    assert drawn.count('class="ring"') >= 2


def test_a_curve_of_what_is_done_only_rises(disturbed: tuple[Path, Comparison]) -> None:
    curve = survival_curve([1.0, 2.0, 2.0, 5.0], [True, True, False, False])
    drawn = curves.share_done(disturbed[1], {"seeker": curve}, "done", until="s")
    (path,) = re.findall(r'<polyline points="([^"]+)"', drawn)
    heights = [float(pair.split(",")[1]) for pair in path.split()]
    assert heights == sorted(heights, reverse=True)  # down the picture is less
    never = survival_curve([5.0], [False])
    assert curves.share_done(disturbed[1], {"seeker": never}, "done", until="s") == ""


def test_limits_and_timing_are_told_for_every_condition(disturbed: tuple[Path, Comparison]) -> None:
    _, comparison = disturbed
    for drawn in (conduct.timing(comparison), conduct.limits(comparison)):
        everywhere, main = len(comparison.run.conditions) * len(comparison.run.arms), len(comparison.run.arms)
        assert drawn.count("<tr>") == 1 + main + 1 + everywhere
    assert TASK in conduct.failures(comparison)
