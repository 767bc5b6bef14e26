"""The page: self-contained, whole, and saying what the run folder says."""

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from test_evaluation import config

from actloop.errors import DataError
from actloop.evaluation import Comparison, answer, compare, load_comparison
from actloop.evaluation.cells import ForesightRow
from actloop.evaluation.judging import judge
from actloop.evaluation.statistics import Interval
from actloop.report import charts, sections, write_page
from actloop.report.markup import svg, tag, text
from actloop.report.page import render
from actloop.report.timeline import timeline

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Reader(HTMLParser):
    """Checks that elements close in order; keeps attributes, and the text of each element by name."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for seen, attributes in self.seen if seen == name]


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reported")
    compare(config(out))
    return out


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return write_page(folder).read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    without_films = re.sub(r'src="data:video/mp4;base64,[A-Za-z0-9+/=]+"', "", page)
    assert not re.search(r"https?://|//[a-z]+\.|@import|url\(|<link|\bsrc=|\bhref=|fetch\(|XMLHttp", without_films)
    assert "$" not in re.sub(r"<script>.*?</script>", "", without_films, flags=re.S)  # every placeholder was filled


def test_the_page_is_well_formed_and_says_what_the_run_says(page: str, folder: Path) -> None:
    reader = read(page)
    words = "".join(reader.words)
    said = answer(load_comparison(folder))
    assert said.headline in words
    for about, paragraph in said.paragraphs:
        assert about in words
        assert paragraph in words
    for expected in ("plain", "dreamer", "reach-left", "reach-right", "190 ms for every arm", "seeds 0 to 3", "dB"):
        assert expected in words
    assert reader.all("html")[0]["lang"] == "en"
    assert [attributes for attributes in reader.all("meta") if attributes.get("name") == "viewport"]


def test_every_choice_of_a_menu_shows_something(page: str) -> None:
    reader = read(page)
    offered = [attributes["value"] for attributes in reader.all("option")]
    shown = [attributes["data-choice"] for attributes in reader.all("div") if "data-choice" in attributes]
    assert sorted(offered) == sorted(shown)
    assert {"reach-left", "dreamer/190ms", "plain/0ms"} <= set(offered)


def test_films_are_inside_and_labelled(page: str) -> None:
    films = read(page).all("video")
    assert len(films) == 4  # two arms, two tasks, one seed
    assert all(str(film["src"]).startswith("data:video/mp4;base64,AAAA") for film in films)
    assert {film["width"] for film in films} == {"96", "196"}
    assert all(film["aria-label"] for film in films)


def test_drawings_have_names(page: str) -> None:
    reader = read(page)
    assert len(reader.all("svg")) > 10
    assert all(attributes["role"] == "img" for attributes in reader.all("svg"))


def test_an_unfinished_run_has_a_page_too(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:20]) + lines[20][:50])
    words = "".join(read(write_page(tmp_path / "run").read_text()).words)
    assert "20 episodes of 32, not finished yet" in words
    path.write_text("")
    assert "Too early to say." in write_page(tmp_path / "run").read_text()


def test_missing_films_and_logs_leave_a_page(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "events")
    for film in (tmp_path / "run" / "videos").rglob("*.mp4"):
        film.unlink()
    words = "".join(read(write_page(tmp_path / "run").read_text()).words)
    assert "is missing" in words
    assert "No event log was found." in words


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run.json", None, "no comparison was started here"),
        ("run.json", "{", "not a run's description"),
        ("run.json", '{"format": 99}', "format 99"),
        ("episodes.jsonl", '{"arm": 1}\n{}\n', "line 1: not an episode"),
    ],
)
def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path, name: str, content: str | None, reason: str) -> None:
    shutil.copytree(folder, tmp_path / "run")
    if content is None:
        (tmp_path / "run" / name).unlink()
    else:
        (tmp_path / "run" / name).write_text(content)
    with pytest.raises(DataError, match=reason):
        write_page(tmp_path / "run")


def test_nothing_from_outside_becomes_markup(folder: Path) -> None:
    comparison = load_comparison(folder)
    task = replace(comparison.run.tasks[0], instruction='</td><script>alert("x")</script>')
    hostile = replace(comparison.run, tasks=(task, *comparison.run.tasks[1:]))
    page = render(judge(hostile, comparison.records), folder)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert tag("a", title='"<>') == '<a title="&quot;&lt;&gt;"></a>'
    assert text("<b>") == "&lt;b&gt;"


def test_too_many_films_stay_in_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "VIDEO_BUDGET", 10)
    markup = sections.films(load_comparison(folder), folder)
    assert "<video" not in markup
    assert "Left out to keep the page small: reach-left, reach-right" in markup


def test_an_arm_keeps_its_colour(folder: Path) -> None:
    comparison = load_comparison(folder)
    assert charts.arm_class(comparison, "plain") == "a0"
    assert charts.arm_class(comparison, "dreamer") == "a1"
    drawing = charts.success_against_latency(comparison, "all", "all tasks")
    assert drawing.count('class="a0"') == drawing.count('class="a1"') == 1
    assert drawing.count('class="whisker"') == 4  # two arms, two conditions
    assert drawing.count('class="curve"') == 2


def test_the_interval_bar_stays_on_its_track() -> None:
    drawing = charts.interval_bar(Interval(value=1.0, low=0.0, high=1.0), "a0")
    assert 'x1="6" y1="8" x2="126"' in drawing
    assert "100 %, 95 % interval 0 to 100" in drawing


def test_foresight_is_drawn_over_several_lead_times_only(folder: Path) -> None:
    comparison: Comparison = load_comparison(folder)
    assert charts.foresight(comparison).count('class="mark"') == 4
    row = ForesightRow(arm="dreamer", lead=0.8, frames=3, psnr=20.0, still=18.0)
    single = replace(comparison, foresight=[row])
    assert charts.foresight(single) == ""
    assert "+2.0 dB" in sections.foresight_chart(single)
    assert sections.foresight_chart(replace(comparison, foresight=[])) == ""


def events() -> list[dict[str, Any]]:
    """Two plans: the first answer comes late, the second is dropped, the third never comes; then the robot holds."""

    def ticked(tick: int, hold: str, plan: int, index: int, age: float | None) -> dict[str, Any]:
        return {"event": "ticked", "tick": tick, "hold": hold, "plan": plan, "index": index, "age": age}

    asked = {"event": "requested", "layer": "action", "tick": 0, "why": "first", "deadline": None}
    came = {"event": "replied", "layer": "action", "skipped": 0, "reason": "", "error": "", "latency": 0.1}
    came |= {"actions": None, "considered": 0, "text": "", "done": None, "readings": []}
    return [
        {"event": "started", "period": 0.1, "horizon": 2},
        {**asked, "plan": 0, "time": 0.0},
        ticked(0, "starved", -1, -1, None),
        {**came, "plan": 0, "time": 0.1, "accepted": True},
        ticked(1, "", 0, 0, 0.1),
        {**asked, "plan": 1, "time": 0.1},
        ticked(2, "", 0, 1, 0.2),
        {**came, "plan": 1, "time": 0.3, "accepted": False, "reason": "older"},
        {**asked, "plan": 2, "time": 0.3},
        ticked(3, "late", -1, -1, None),
        {"event": "ended", "success": False, "reason": "time limit"},
    ]


def test_the_timeline_shows_asking_dropping_and_holding() -> None:
    drawing = timeline(events(), class_="a0", title="an episode")
    for shape, count in (
        ("ask accepted", 1),
        ("ask dropped", 1),
        ("ask pending", 1),
        ("did even", 2),
        ("hold starved", 1),
        ("hold late", 1),
        ("end failure", 1),
    ):
        assert drawing.count(f'class="{shape}"') == count, shape
    assert "answer dropped at 0.30 s, 100 ms later (older)" in drawing
    assert "up to 200 ms" in drawing
    assert timeline([], class_="a0", title="") == ""


def test_a_log_that_was_cut_off_is_drawn_as_far_as_it_goes() -> None:
    assert "log ends" in timeline(events()[:-1], class_="a0", title="an episode")


def test_numbers_in_drawings_are_short() -> None:
    assert 'width="1.23"' in svg(1.23456, 2.0, label="")
    assert 'height="2"' in svg(1.23456, 2.0, label="")
