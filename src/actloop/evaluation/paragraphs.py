"""What else the numbers of a comparison say, a paragraph each; empty where they say nothing about it."""

import math

from actloop.evaluation.cells import Slowdown
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.conditions import PAUSED
from actloop.evaluation.economy import Stretch, envelope
from actloop.evaluation.standing import ALIKE, Standing
from actloop.evaluation.wording import (
    contrast_words,
    counted,
    in_points,
    in_seconds,
    listed,
    p_value,
    rate,
    share,
)

TIMING = "timing"


def cost(standing: Standing) -> str:
    ms = {name: 1000 * arm.measured.quantile(0.5) for name, arm in standing.arms.items()}
    text = f"One answer takes {listed([f'{name} {value:.0f} ms' for name, value in ms.items()])} on this machine."
    dearest = max(standing.arms, key=standing.cost)
    times = standing.cost(dearest) / max(standing.cost(standing.pick), 1e-9)
    if dearest != standing.pick and times > ALIKE:
        text += f" Over an episode {dearest} computes {times:.1f} times as much as {standing.pick}."
    return text


def economy(standing: Standing) -> str:
    """Which arm's episodes cost least, by what a failure costs."""
    if len(standing.economies) < 2 or not all(math.isfinite(arm.computed) for arm in standing.economies.values()):
        return ""
    texts = []
    over = [name for name in standing.arms if name not in standing.within]
    if over and standing.within:
        is_ = "compute" if len(over) > 1 else "computes"
        texts.append(f"{listed(over)} {is_} more than the {standing.budget:g} s per second of robot time there are.")
    if not standing.within:
        return f"Every arm computes more than the {standing.budget:g} s per second of robot time that there are."
    stretches = envelope(standing.within)
    said = [f"{stretch.arm} {_between(stretch)}" for stretch in stretches]
    texts.append(f"Episodes cost least, if a failure costs so many seconds of computing: {'; '.join(said)}.")
    texts.append("These are the shares seen; where two arms are not measurably apart, neither is this.")
    return " ".join(texts)


def _between(stretch: Stretch) -> str:
    if math.isinf(stretch.high):
        return "whatever it costs" if stretch.low == 0 else f"above {in_seconds(stretch.low)}"
    return (
        f"below {in_seconds(stretch.high)}"
        if stretch.low == 0
        else f"{in_seconds(stretch.low)} to {in_seconds(stretch.high)}"
    )


def checks(standing: Standing) -> str:
    """How often checks raised an alarm."""
    checked = [name for name, arm in standing.arms.items() if "check" in arm.identity.get("layers", ())]
    told = [f"{name} in {_alarmed(standing, name)} of its episodes" for name in checked]
    if not told:
        return ""
    alpha = standing.comparison.run.config.get("alpha")
    calibrated = (
        f" Calibrated for alarms in {100 * alpha:g} % of the undisturbed episodes that succeed." if alpha else ""
    )
    return f"Checks raised an alarm: {listed(told)}.{calibrated}"


def _alarmed(standing: Standing, name: str) -> str:
    mine = [
        r["result"] for r in standing.comparison.records if (r["arm"], r["condition"]) == (name, standing.main.name)
    ]
    return f"{100 * sum(bool(result.get('alarms')) for result in mine) / len(mine):.0f} %"


def waiting(standing: Standing, scope: str) -> str:
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
        paused = conditions[which].clock == PAUSED
        waits.append(PAUSED if paused else f"{conditions[which].latency_ms(item.arm):.0f}")
    return f"{item.arm} {' to '.join(rates)} % ({' to '.join(waits)} ms, p = {p_value(item.p_corrected)})"


def groups(standing: Standing) -> list[tuple[str, str]]:
    """The timing tasks by themselves, and any other group in which the paired tests saw something."""
    said = []
    for group in standing.comparison.groups:
        scope = f"group:{group}"
        cells = {name: standing.comparison.cell(name, standing.main.name, scope) for name in standing.arms}
        rates = [f"{name} {rate(cell.success)}" for name, cell in cells.items() if cell and cell.episodes]
        told = [
            f"{c.first} against {c.second} {contrast_words(c)}"
            for c in standing.comparison.contrasts
            if (c.condition, c.scope) == (standing.main.name, scope) and c.separated
        ]
        apart = f"Measurably apart: {'; '.join(told)}." if told else "No two arms are measurably apart there."
        if group == TIMING and rates:
            texts = [f"Where a late answer misses: {listed(rates)}.", apart, waiting(standing, scope)]
            said.append(("Timing tasks", " ".join(text for text in texts if text)))
        elif told:
            said.append((f"{group.capitalize()} tasks", apart))
    return said


def disturbed(comparison: Comparison) -> str:
    """What each disturbance costs, against the undisturbed twin of the main condition."""
    texts = []
    for condition in comparison.run.conditions:
        mine = [item for item in comparison.recoveries if item.condition == condition.name and item.happened]
        if condition.twin != comparison.run.main.name or not mine:
            continue
        said = [
            f"{item.arm} {rate(item.success)}, {in_points(item.against_twin.difference)} against undisturbed"
            for item in mine
        ]
        happened = f"{sum(item.happened for item in mine)} of {sum(item.episodes for item in mine)} episodes"
        texts.append(f"{condition.disturbance} (it happened in {happened}): {'; '.join(said)}.")
    return " ".join(texts)


def interventions(standing: Standing) -> str:
    """How often a person was called under the main condition, and what they made of it."""
    told = []
    for item in standing.comparison.interventions:
        if item.condition != standing.main.name or not item.episodes or item.rate is None:
            continue
        between = "never" if not item.rate.events else f"every {item.rate.between.value:.0f} s of robot time"
        low = f"at least {item.rate.between.low:.0f} s between two"
        told.append(
            f"{item.arm} {between} (95 %: {low}), success {share(item.alone.value)} alone and "
            f"{share(item.together.value)} with help"
        )
    return f"A person was called: {'; '.join(told)}." if told else ""


def foresight(comparison: Comparison) -> str:
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
        f"{listed(lines)}."
    )


def limits(comparison: Comparison) -> str:
    texts = []
    if not comparison.complete:
        done, planned = len(comparison.records), comparison.planned
        texts.append(f"The run is not finished ({done} of {planned} episodes); the same command continues it.")
    crashes = [record["result"]["error"] for record in comparison.records if record["result"]["error"]]
    if crashes:
        count = "count" if len(crashes) > 1 else "counts"
        first = f"; the first of them with {crashes[0]}" if len(crashes) > 1 else f", with {crashes[0]}"
        texts.append(f"{counted(len(crashes), 'episode')} crashed and {count} as failed{first}.")
    texts.append(
        "The intervals cover the luck of initial conditions, not that of training: each arm is one training run, "
        "and a second one may differ. They hold for these weights, these tasks and this world."
    )
    return " ".join(texts)
