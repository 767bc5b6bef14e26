"""Writes the page of a run folder: one file that needs nothing else, readable on a phone, in print and in the dark."""

from collections.abc import Sequence
from pathlib import Path

from actloop.evaluation.answer import answer
from actloop.evaluation.compare import load_comparison
from actloop.evaluation.comparison import Comparison
from actloop.report import conduct, curves, episodes, imagination, method, robustness, sections
from actloop.report.markup import tag, text
from actloop.report.shell import packaged, page

TITLE = "Where should prediction live here?"
TITLE_OF_ONE = "How well does it act here?"
NAME = "report.html"


def write_page(folder: Path | str) -> Path:
    """The page of a comparison, finished or not, as `report.html` in its folder.

    Raises:
        DataError: there is no comparison in the folder, or its files are damaged.
    """
    folder = Path(folder)
    path = folder / NAME
    partial = path.with_suffix(".partial")
    partial.write_text(render(load_comparison(folder), folder), encoding="utf-8")
    partial.replace(path)
    return path


def render(comparison: Comparison, folder: Path) -> str:
    """The page as a string; films and event logs are read from the folder."""
    said = answer(comparison)
    foresight = sections.foresight_chart(comparison)
    broken = conduct.failures(comparison)
    filled = {
        "title": text(TITLE if len(comparison.run.arms) > 1 else TITLE_OF_ONE),
        "script": packaged("page.js"),
        "headline": _unbroken(text(said.headline), [arm.name for arm in comparison.run.arms]),
        "facts": sections.facts(comparison),
        "answer": tag("dl", *(tag("dt", text(about)) + tag("dd", text(words)) for about, words in said.paragraphs)),
        "arms": sections.arms_table(comparison),
        "contrasts": sections.contrasts_table(comparison),
        "latency": sections.latency_charts(comparison),
        "latency_table": sections.latency_table(comparison),
        "heat": sections.heat_tables(comparison),
        "films": sections.films(comparison, folder),
        "foresight": (tag("section", tag("h2", "Did what was imagined come?"), foresight) if foresight else "")
        + imagination.worth(comparison, folder),
        "trade_offs": curves.trade_offs(comparison),
        "time_to_success": curves.time_to_success(comparison),
        "disturbances": robustness.disturbances(comparison),
        "interventions": robustness.interventions(comparison),
        "alarms": robustness.alarms(comparison),
        "failures": tag("section", tag("h2", "Failures, by what was seen"), broken) if broken else "",
        "timing": conduct.timing(comparison),
        "limits": conduct.limits(comparison),
        "force": conduct.force(comparison),
        "episodes": episodes.episodes(comparison, folder),
        "method": method.method(comparison),
        "identities": method.identities(comparison),
        "machine": method.machine(comparison),
        "crashes": method.crashes(comparison),
    }
    return page("page.html", filled)


def _unbroken(markup: str, names: Sequence[str]) -> str:
    """The names of arms in a headline, kept on one line."""
    for name in names:
        if "-" in name:
            markup = markup.replace(text(name), tag("span", text(name), class_="whole"))
    return markup
