"""Where should prediction live here? Rules over a comparison's numbers, in words that claim no more than they show.

The arm with the highest success under the main condition is the best; arms that a paired test does not separate from
it are its rivals. Where prediction lives in the rivals is the answer; the cheapest of them is the one to take. Arms
over the budget of computing are told and not taken; where it is said what a failure costs, the arm to take is the one
whose episodes cost least.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from actloop.evaluation.arms import OTHER_PLACE, PUBLISHED, Arm, Condition
from actloop.evaluation.comparison import ALL, Cell, Comparison, Contrast, Slowdown
from actloop.evaluation.economy import Economy, Stretch, affordable, cheapest, envelope
from actloop.evaluation.statistics import Interval, detectable_difference, pairs_needed

TIMING = "timing"
LEAST_DISCORDANT = 0.1  # share of pairs assumed to differ where hardly any did, when asking how many would be needed
ALIKE = 1.15  # costs closer than this are called alike: the same network was timed twice


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sentence, then what it rests on and where it ends: pairs of what a paragraph is about, and its text."""

    headline: str
    paragraphs: tuple[tuple[str, str], ...]


def answer(comparison: Comparison) -> Answer:
    """The answer that these episodes allow."""
    standing = _Standing(comparison)
    if not standing.ready:
        done, planned = len(comparison.records), len(comparison.run.units())
        text = f"Not every arm has run yet under the main condition: {done} of {planned} episodes are done."
        return Answer(headline="Too early to say.", paragraphs=(("Unfinished", text),))
    paragraphs = [
        ("Success", _success(standing)),
        ("Differences", _differences(standing)),
        ("Left open", _resolution(standing)),
        ("Waiting", _waiting(standing, ALL)),
        *_groups(standing),
        ("Cost", _cost(standing)),
        ("Cost of failure", _economy(standing)),
        ("Checks", _checks(standing)),
        ("Foresight", _foresight(comparison)),
        ("Limits", _limits(comparison)),
    ]
    return Answer(headline=_headline(standing), paragraphs=tuple(pair for pair in paragraphs if pair[1]))


class _Standing:
    """Who is best under the main condition, and who cannot be told from it."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.arms = {arm.name: arm for arm in comparison.run.arms}
        self.main = comparison.run.main
        found = {name: comparison.cell(name, self.main.name) for name in self.arms}
        self.cells: dict[str, Cell] = {name: cell for name, cell in found.items() if cell and cell.episodes}
        self.ready = len(self.cells) == len(self.arms)
        if not self.ready:
            return
        self.best = max(self.cells, key=lambda name: (self.cells[name].success.value, -self.cost(name)))
        self.beaten = [name for name in self.arms if self._separated(name)]
        self.rivals = [name for name in self.arms if name not in self.beaten]
        least = min(self.cost(name) for name in self.rivals)
        frugal = [name for name in self.rivals if self.cost(name) <= ALIKE * least]
        self.pick = max(frugal, key=lambda name: self.cells[name].success.value)
        config = comparison.run.config
        self.budget, self.failure_cost = config.get("compute_budget"), config.get("failure_cost")
        self.economies = {
            name: Economy(computed=cell.computed, failure=1 - cell.success.value, rate=cell.cost)
            for name, cell in self.cells.items()
        }
        self.within = affordable(self.economies, self.budget)
        if self.within and self.failure_cost is not None:
            self.pick = cheapest(self.within, self.failure_cost)
        elif self.within and self.pick not in self.within:
            self.pick = max(self.within, key=lambda name: (self.cells[name].success.value, -self.cost(name)))

    def cost(self, name: str) -> float:
        cost = self.cells[name].cost
        return cost if math.isfinite(cost) else self.main.latency_ms(name)

    def _separated(self, name: str) -> bool:
        contrast = self.comparison.contrast(self.best, name, self.main.name)
        return contrast is not None and contrast.separated

    def places(self, names: Iterable[str]) -> set[str]:
        return {self.arms[name].place for name in names}


def _headline(standing: _Standing) -> str:
    if len(standing.arms) == 1:
        (name,) = standing.arms
        return (
            f"One arm alone answers nothing about prediction: {name} succeeds in {_rate(standing.cells[name].success)}."
        )
    pick = _pick(standing)
    if not any(cell.successes for cell in standing.cells.values()):
        return "No arm succeeded once; this says nothing about where prediction should live."
    if not standing.beaten:
        return f"These episodes cannot tell the arms apart; until more are run, {pick}."
    return _verdict(standing.places(standing.rivals), standing) + f": {pick}."


def _pick(standing: _Standing) -> str:
    if not standing.within:
        return f"no arm stays within {standing.budget:g} s of computing per second"
    if standing.failure_cost is not None:
        return f"take {standing.pick}, whose episodes cost least where a failure costs {standing.failure_cost:g} s"
    if standing.pick not in standing.rivals:
        return f"take {standing.pick}, the best within {standing.budget:g} s of computing per second"
    return f"take {standing.pick}" + (", the cheapest of them" if len(standing.rivals) > 1 else "")


def _verdict(places: set[str], standing: _Standing) -> str:
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
    worse = _listed(standing.beaten)
    if OTHER_PLACE in places:
        return f"{standing.best} does best here, {worse} measurably worse"
    return f"Where prediction should live these episodes cannot tell; {worse} is measurably worse than {standing.best}"


def _success(standing: _Standing) -> str:
    run = standing.comparison.run
    rates = [f"{name} {_rate(standing.cells[name].success)}" for name in standing.arms]
    count = max(cell.episodes for cell in standing.cells.values())
    return (
        f"Under {condition_title(standing.main, run.config['clock'])}, over {_count(len(run.tasks), 'task')} and "
        f"{_count(count, 'episode')} per arm: {_listed(rates)}. In brackets, the 95 % interval."
    )


def _differences(standing: _Standing) -> str:
    """Each arm against the baseline, on shared seeds."""
    baseline = standing.comparison.run.baseline
    told: list[str] = []
    open_: list[str] = []
    for name in standing.arms:
        contrast = standing.comparison.contrast(name, baseline, standing.main.name)
        if name == baseline or contrast is None or not contrast.paired.pairs:
            continue
        said = f"{name} {_contrast(contrast)}"
        (told if contrast.separated else open_).append(said)
    texts = []
    if told:
        texts.append(f"Measurably apart from {baseline} on the same seeds: {'; '.join(told)}.")
    if open_:
        texts.append(f"{'Not' if told else f'Against {baseline}, not'} measurably: {'; '.join(open_)}.")
    return " ".join(texts)


def _contrast(contrast: Contrast) -> str:
    return f"{_points(contrast.paired.difference)}, p = {_p(contrast.p_corrected)}"


def _resolution(standing: _Standing) -> str:
    """For the rivals of the best: how many pairs would settle it."""
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
            count = _rounded(pairs_needed(gap, apart))
            needed.append(f"{count:,} for the {_points_alone(gap)} seen between {standing.best} and {name}")
        else:
            hidden.setdefault(round(100 * detectable_difference(paired.pairs, apart)), []).append(name)
    texts = []
    if needed:
        listed = "; ".join(needed).replace(",", "\N{NARROW NO-BREAK SPACE}")
        texts.append(f"Paired episodes that would settle it, 80 times in 100: about {listed}. This run has {pairs}.")
    for points, names in hidden.items():
        texts.append(
            f"Between {standing.best} and {_listed(names, 'or')} nothing was seen; "
            f"with {pairs} paired episodes less than about {points} points would not show."
        )
    return " ".join(texts)


def _cost(standing: _Standing) -> str:
    ms = {name: 1000 * arm.measured.quantile(0.5) for name, arm in standing.arms.items()}
    text = f"One answer takes {_listed([f'{name} {value:.0f} ms' for name, value in ms.items()])} on this machine."
    dearest = max(standing.arms, key=standing.cost)
    times = standing.cost(dearest) / max(standing.cost(standing.pick), 1e-9)
    if dearest != standing.pick and times > ALIKE:
        text += f" Over an episode {dearest} computes {times:.1f} times as much as {standing.pick}."
    return text


def _economy(standing: _Standing) -> str:
    """Which arm's episodes cost least, by what a failure costs."""
    if len(standing.economies) < 2 or not all(math.isfinite(arm.computed) for arm in standing.economies.values()):
        return ""
    texts = []
    over = [name for name in standing.arms if name not in standing.within]
    if over and standing.within:
        is_ = "compute" if len(over) > 1 else "computes"
        texts.append(f"{_listed(over)} {is_} more than the {standing.budget:g} s per second of robot time there are.")
    if not standing.within:
        return f"Every arm computes more than the {standing.budget:g} s per second of robot time that there are."
    stretches = envelope(standing.within)
    said = [f"{stretch.arm} {_between(stretch)}" for stretch in stretches]
    texts.append(f"Episodes cost least, if a failure costs so many seconds of computing: {'; '.join(said)}.")
    texts.append("These are the shares seen; where two arms are not measurably apart, neither is this.")
    return " ".join(texts)


def _between(stretch: Stretch) -> str:
    if math.isinf(stretch.high):
        return "whatever it costs" if stretch.low == 0 else f"above {_seconds(stretch.low)}"
    return (
        f"below {_seconds(stretch.high)}"
        if stretch.low == 0
        else f"{_seconds(stretch.low)} to {_seconds(stretch.high)}"
    )


def _seconds(value: float) -> str:
    return f"{value:.2g} s" if value < 100 else f"{value:.0f} s"


def _checks(standing: _Standing) -> str:
    """How often checks raised an alarm."""
    checked = [name for name, arm in standing.arms.items() if "check" in arm.identity.get("layers", ())]
    told = [f"{name} in {_alarmed(standing, name)} of its episodes" for name in checked]
    if not told:
        return ""
    alpha = standing.comparison.run.config.get("alpha")
    calibrated = (
        f" Calibrated for alarms in {100 * alpha:g} % of the undisturbed episodes that succeed." if alpha else ""
    )
    return f"Checks raised an alarm: {_listed(told)}.{calibrated}"


def _alarmed(standing: _Standing, name: str) -> str:
    mine = [
        r["result"] for r in standing.comparison.records if (r["arm"], r["condition"]) == (name, standing.main.name)
    ]
    return f"{100 * sum(bool(result.get('alarms')) for result in mine) / len(mine):.0f} %"


def _waiting(standing: _Standing, scope: str) -> str:
    """What a slower answer costs: each arm at its quickest against its slowest condition."""
    told: list[str] = []
    unmoved: list[str] = []
    for name in standing.arms:
        mine = [item for item in standing.comparison.slowdowns if (item.arm, item.scope) == (name, scope)]
        if mine and mine[-1].paired.pairs:
            (told if mine[-1].separated else unmoved).append(_slowdown(standing.comparison, mine[-1]))
    texts = []
    if told:
        texts.append(f"As answers get slower, success changes measurably: {'; '.join(told)}.")
    if unmoved:
        texts.append(f"{'Not' if told else 'As answers get slower, not'} measurably: {'; '.join(unmoved)}.")
    return " ".join(texts)


def _slowdown(comparison: Comparison, item: Slowdown) -> str:
    conditions = {condition.name: condition for condition in comparison.run.conditions}
    rates, waits = [], []
    for which in (item.quick, item.slow):
        cell = comparison.cell(item.arm, which, item.scope)
        assert cell is not None
        rates.append(f"{100 * cell.success.value:.0f}")
        waits.append(f"{conditions[which].latency_ms(item.arm):.0f}")
    return f"{item.arm} {' to '.join(rates)} % ({' to '.join(waits)} ms, p = {_p(item.p_corrected)})"


def _groups(standing: _Standing) -> list[tuple[str, str]]:
    """The timing tasks by themselves, and any other group in which the paired tests saw something."""
    said = []
    for group in standing.comparison.groups:
        scope = f"group:{group}"
        cells = {name: standing.comparison.cell(name, standing.main.name, scope) for name in standing.arms}
        rates = [f"{name} {_rate(cell.success)}" for name, cell in cells.items() if cell and cell.episodes]
        told = [
            f"{c.first} against {c.second} {_contrast(c)}"
            for c in standing.comparison.contrasts
            if (c.condition, c.scope) == (standing.main.name, scope) and c.separated
        ]
        apart = f"Measurably apart: {'; '.join(told)}." if told else "No two arms are measurably apart there."
        if group == TIMING and rates:
            texts = [f"Where a late answer misses: {_listed(rates)}.", apart, _waiting(standing, scope)]
            said.append(("Timing tasks", " ".join(text for text in texts if text)))
        elif told:
            said.append((f"{group.capitalize()} tasks", apart))
    return said


def _foresight(comparison: Comparison) -> str:
    lines = []
    for arm in comparison.run.arms:
        rows = [row for row in comparison.foresight if row.arm == arm.name]
        if rows:
            gain = f"{rows[-1].psnr - rows[-1].still:+.1f} dB".replace("-", "\N{MINUS SIGN}")
            lines.append(f"{arm.name} {gain}")
    if not lines:
        return ""
    lead = max(row.lead for row in comparison.foresight)
    return (
        f"Imagined frames {lead:.1f} s ahead, against expecting no change (above zero: it foresees something): "
        f"{_listed(lines)}."
    )


def _limits(comparison: Comparison) -> str:
    texts = []
    if not comparison.complete:
        done, planned = len(comparison.records), len(comparison.run.units())
        texts.append(f"The run is not finished ({done} of {planned} episodes); the same command continues it.")
    crashed = sum(bool(record["result"]["error"]) for record in comparison.records)
    if crashed:
        texts.append(f"{_count(crashed, 'episode')} crashed and {'count' if crashed > 1 else 'counts'} as failed.")
    texts.append(
        "The intervals cover the luck of initial conditions, not that of training: each arm is one training run, "
        "and a second one may differ. They hold for these weights, these tasks and this world."
    )
    return " ".join(texts)


def condition_title(condition: Condition, clock: str = "virtual") -> str:
    """A condition in words."""
    if clock == "paused":
        return "a world that waits for the model"
    if condition.name == PUBLISHED:
        return "the latency published for each variant"
    if condition.name == "measured":
        return "each arm's own latency, measured on this machine"
    (profile, *_) = condition.profiles.values()
    ms = f"{1000 * profile.quantile(0.5):g} ms"
    return f"{ms} for every arm" if condition.name.endswith("ms") else f"{condition.name} ({ms}) for every arm"


def place_title(arm: Arm) -> str:
    return {"online": "predicts online", "in training only": "predicts in training", "nowhere": "predicts nowhere"}.get(
        arm.place, "prediction not stated"
    )


def _rate(interval: Interval) -> str:
    return f"{100 * interval.value:.0f} % ({100 * interval.low:.0f} to {100 * interval.high:.0f})"


def _points(difference: Interval) -> str:
    low, high = (f"{100 * value:+.0f}" for value in (difference.low, difference.high))
    return f"{100 * difference.value:+.0f} points ({low} to {high})".replace("-", "\N{MINUS SIGN}")


def _points_alone(difference: float) -> str:
    points = round(100 * abs(difference))
    return f"{points} point{'s' if points != 1 else ''}"


def _p(value: float) -> str:
    return "0.001 or less" if value <= 0.001 else f"{value:.2f}" if value >= 0.095 else f"{value:.3f}"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _rounded(count: int) -> int:
    """Two figures: it is an estimate."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit


def _listed(items: Sequence[str], last: str = "and") -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"
