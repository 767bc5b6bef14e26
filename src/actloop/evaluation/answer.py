"""Where should prediction live here? Rules over a comparison's numbers, in words that claim no more than they show.

The arm with the highest success under the main condition is the best; arms that a paired test does not separate from
it are its rivals. Where prediction lives in the rivals is the answer; the cheapest of them is the one to take. Arms
over the budget of computing are told and not taken; where it is said what a failure costs, the arm to take is the one
whose episodes cost least.
"""

from dataclasses import dataclass
from itertools import count

from actloop.evaluation import paragraphs
from actloop.evaluation.arms import OTHER_PLACE
from actloop.evaluation.cells import ALL, SIGNIFICANT
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.deciding import ALPHA
from actloop.evaluation.standing import Standing
from actloop.evaluation.statistics import detectable_difference, pairs_needed
from actloop.evaluation.wording import (
    condition_title,
    contrast_words,
    counted,
    in_points,
    listed,
    points_alone,
    rate,
    rounded,
)

LEAST_DISCORDANT = 0.1  # share of pairs assumed to differ where hardly any did, when asking how many would be needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sentence, then what it rests on and where it ends: pairs of what a paragraph is about, and its text."""

    headline: str
    paragraphs: tuple[tuple[str, str], ...]


def answer(comparison: Comparison) -> Answer:
    """The answer that these episodes allow."""
    standing = Standing(comparison)
    if not standing.ready:
        done, planned = len(comparison.records), comparison.planned
        text = f"Not every arm has run yet under the main condition: {done} of {planned} episodes are done."
        return Answer(headline="Too early to say.", paragraphs=(("Unfinished", text),))
    said = [
        ("Success", _success(standing)),
        ("Differences", _differences(standing)),
        ("Decided", _decided(comparison)),
        ("Left open", _resolution(standing)),
        ("Waiting", paragraphs.waiting(standing, ALL)),
        *paragraphs.groups(standing),
        ("Disturbed", paragraphs.disturbed(comparison)),
        ("Interventions", paragraphs.interventions(standing)),
        ("Cost", paragraphs.cost(standing)),
        ("Cost of failure", paragraphs.economy(standing)),
        ("Checks", paragraphs.checks(standing)),
        ("Foresight", paragraphs.foresight(comparison)),
        ("Limits", paragraphs.limits(comparison)),
    ]
    return Answer(headline=_headline(standing), paragraphs=tuple(pair for pair in said if pair[1]))


def _headline(standing: Standing) -> str:
    if len(standing.arms) == 1:
        return _alone(standing)
    pick = _pick(standing)
    if not any(cell.successes for cell in standing.cells.values()):
        return "No arm succeeded once; this says nothing about where prediction should live."
    if not standing.beaten:
        return f"These episodes cannot tell the arms apart; until more are run, {pick}."
    return _verdict(standing.places(standing.rivals), standing) + f": {pick}."


def _alone(standing: Standing) -> str:
    """Of a single arm: how often it succeeds, and the disturbance that costs it most, if that is measurable."""
    (name,) = standing.arms
    said = f"{name} succeeds in {rate(standing.cells[name].success)} under {condition_title(standing.main)}"
    hurt = [
        item
        for item in standing.comparison.recoveries
        if item.twin == standing.main.name and item.against_twin.pairs and item.against_twin.difference.high < 0
    ]
    if not hurt:
        return said + "."
    worst = min(hurt, key=lambda item: item.against_twin.difference.value)
    condition = next(item for item in standing.comparison.run.conditions if item.name == worst.condition)
    return f"{said}; where it is disturbed ({condition.disturbance}), in {rate(worst.success)}."


def _pick(standing: Standing) -> str:
    if not standing.within:
        return f"no arm stays within {standing.budget:g} s of computing per second"
    if standing.failure_cost is not None:
        return f"take {standing.pick}, whose episodes cost least where a failure costs {standing.failure_cost:g} s"
    if standing.pick not in standing.rivals:
        return f"take {standing.pick}, the best within {standing.budget:g} s of computing per second"
    return f"take {standing.pick}" + (", the cheapest of them" if len(standing.rivals) > 1 else "")


def _verdict(places: set[str], standing: Standing) -> str:
    verdicts = {
        frozenset({"nowhere"}): "Prediction does not pay here: the arm without it beats every arm with it",
        frozenset({"in training only"}): "Prediction belongs in training here, and not in the control loop",
        frozenset({"online"}): "Prediction pays in the control loop here",
        frozenset({"nowhere", "in training only"}): (
            "Prediction does not belong in the control loop here; whether training with it helps, "
            "these episodes cannot tell"
        ),
        frozenset({"in training only", "online"}): (
            "Prediction pays here, and training with it does as well as predicting online, as far as can be told"
        ),
        frozenset({"nowhere", "online"}): (
            "Prediction in training alone does not pay here; whether predicting online does, these episodes cannot tell"
        ),
    }
    if frozenset(places) in verdicts:
        return verdicts[frozenset(places)]
    if len(places) == 1 and OTHER_PLACE not in places:
        return f"Prediction pays {next(iter(places))} here"
    worse = listed(standing.beaten)
    if OTHER_PLACE in places:
        return f"{standing.best} does best here, {worse} measurably worse"
    return f"Where prediction should live these episodes cannot tell; {worse} is measurably worse than {standing.best}"


def _success(standing: Standing) -> str:
    run = standing.comparison.run
    rates = [f"{name} {rate(standing.cells[name].success)}" for name in standing.arms]
    count = max(cell.episodes for cell in standing.cells.values())
    each = " per arm" if len(rates) > 1 else ""
    return (
        f"Under {condition_title(standing.main)}, over {counted(len(run.tasks), 'task')} and "
        f"{counted(count, 'episode')}{each}: {listed(rates)}. In brackets, the 95 % interval."
    )


def _differences(standing: Standing) -> str:
    """Each arm against the baseline, on shared seeds."""
    baseline = standing.comparison.run.baseline
    told: list[str] = []
    open_: list[str] = []
    for name in standing.arms:
        contrast = standing.comparison.contrast(name, baseline, standing.main.name)
        if name == baseline or contrast is None or not contrast.paired.pairs:
            continue
        said = f"{name} {contrast_words(contrast)}"
        (told if contrast.separated else open_).append(said)
    texts = []
    if told:
        texts.append(f"Measurably apart from {baseline} on the same seeds: {'; '.join(told)}.")
    if open_:
        texts.append(f"{'Not' if told else f'Against {baseline}, not'} measurably: {'; '.join(open_)}.")
    return " ".join(texts)


def _decided(comparison: Comparison) -> str:
    """What a sequential test found, where one was asked for."""
    found = comparison.decision
    if found is None:
        return ""
    gain = in_points(found.interval)
    test = f"{found.first} against {found.second}: {gain}, an e-value of {found.e_value:.3g} after {found.seeds} seeds"
    if not found.verdict:
        return f"Not yet, by a test that may be looked at after every seed. {test}; it stops at {1 / ALPHA:.0f}."
    return f"By a test that may be looked at after every seed, and was stopped at seed {found.last}. {test}."


def _too_few_seeds(seeds: int, arms: int) -> str:
    """Why no difference can be called measurable, or empty: arms are swapped seed by seed, and Holm corrects."""
    rivals = max(1, arms - 1)
    least = min(1.0, rivals * 2.0 ** (1 - seeds))
    if least < SIGNIFICANT:
        return ""
    enough = next(more for more in count(seeds + 1) if rivals * 2.0 ** (1 - more) < SIGNIFICANT)
    return (
        f"{seeds} seeds cannot tell {arms} arms apart, however far they are: were one arm better with every seed, p "
        f"would be {least:.2f}. Run at least {enough} (`--episodes {enough}`)."
    )


def _resolution(standing: Standing) -> str:
    """For the rivals of the best: how many pairs would settle it."""
    why = _too_few_seeds(int(standing.comparison.run.config.get("episodes", 0)), len(standing.arms))
    if why and len(standing.rivals) > 1:
        return why
    needed: list[str] = []
    hidden: dict[int, list[str]] = {}
    pairs = 0
    for name in standing.rivals:
        contrast = standing.comparison.contrast(standing.best, name, standing.main.name)
        if name == standing.best or contrast is None or contrast.paired.pairs == 0:
            continue
        paired = contrast.paired
        pairs = max(pairs, paired.pairs)
        apart = max(paired.discordant / paired.pairs, LEAST_DISCORDANT)
        gap = paired.difference.value
        if abs(gap) >= 0.01:
            pairs_for_it = rounded(pairs_needed(gap, apart))
            needed.append(f"{pairs_for_it:,} for the {points_alone(gap)} seen between {standing.best} and {name}")
        else:
            hidden.setdefault(round(100 * detectable_difference(paired.pairs, apart)), []).append(name)
    texts = []
    if needed:
        said = "; ".join(needed).replace(",", "\N{NARROW NO-BREAK SPACE}")
        texts.append(f"Paired episodes that would settle it, 80 times in 100: about {said}. This run has {pairs}.")
    for points, names in hidden.items():
        texts.append(
            f"Between {standing.best} and {listed(names, 'or')} nothing was seen; "
            f"with {pairs} paired episodes less than about {points} points would not show."
        )
    return " ".join(texts)
