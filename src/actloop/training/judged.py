"""How well a verifier and a value do on episodes held out: by moment, by kind, by lead, and by episode.

What counts of a verifier is an episode: it gives a false alarm if its highest score is over the threshold, so the
threshold is a quantile of the highest scores of undisturbed successful episodes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from actloop.models.judge import Judge
from actloop.training.judge_samples import Frames, Samples, Told, value_samples, verifier_samples
from actloop.training.judges import scores
from actloop.training.moments import FITS, PERTURBED, is_late, usual_ticks
from actloop.training.rollouts import Rollout

LEADS = (0, 1, 3, 5, 9, 13, 17)  # edges of the groups of leads
FALSE_ALARMS = (0.05, 0.1)


def auroc(scores: Float[np.ndarray, "samples"], positive: Bool[np.ndarray, "samples"]) -> float:
    """Probability that a positive sample scores above a negative one, ties counted half; NaN without both."""
    high, low = scores[positive], np.sort(scores[~positive])
    if not len(high) or not len(low):
        return math.nan
    below = np.searchsorted(low, high, side="left") + np.searchsorted(low, high, side="right")
    return float(below.mean() / 2 / len(low))


def auprc(scores: Float[np.ndarray, "samples"], positive: Bool[np.ndarray, "samples"]) -> float:
    """Mean precision over the positive samples, from the highest score down; NaN where there is none."""
    if not positive.any():
        return math.nan
    hits = positive[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def verifier_report(
    network: Judge, rollouts: Sequence[Rollout], told: Told, rng: np.random.Generator
) -> dict[str, Any]:
    """Figures on episodes that were not trained on; `blind` are those without imagined frames."""
    frames = Frames.of(rollouts, told.embodiment, network.config.pixels)
    samples = verifier_samples(rollouts, frames, told, perturbed=1, rng=rng)
    report = _figures(scores(network, frames, samples), samples, rollouts)
    if told.imagines:
        report["blind"] = _figures(scores(network, frames, samples, blind=True), samples, rollouts)
    return report


def _figures(found: Float[np.ndarray, "samples"], samples: Samples, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    fits, kinds = samples.kind == FITS, sorted(set(samples.kind) - {FITS})
    groups = {"all": ~fits, "disturbed": ~fits & ~np.isin(samples.kind, [*PERTURBED, "failure"])}
    groups |= {"perturbed": np.isin(samples.kind, PERTURBED), **{kind: samples.kind == kind for kind in kinds}}
    report: dict[str, Any] = {"moments": len(samples)}
    for name, bad in groups.items():
        report[name] = _pair(found, fits, bad)
    report["by lead"] = {
        f"{low}-{high - 1}": _pair(found, fits & among, groups["disturbed"] & among)
        for low, high in pairwise(LEADS)
        if (among := (samples.lead >= low) & (samples.lead < high)).any()
    }
    report["by episode"] = {
        f"{rate:.0%} false alarms": _by_episode(found, samples, rollouts, rate) for rate in FALSE_ALARMS
    }
    return report


def _pair(found: np.ndarray, good: np.ndarray, bad: np.ndarray) -> dict[str, float | None]:
    both = good | bad
    return {
        "auroc": _rounded(auroc(found[both], bad[both])),
        "auprc": _rounded(auprc(found[both], bad[both])),
        "share": _rounded(bad.sum() / max(both.sum(), 1)),
    }


def _rounded(value: float) -> float | None:
    """To four places; None where there is no such figure, which JSON cannot say otherwise."""
    return None if math.isnan(value) else round(float(value), 4)


def _by_episode(found: np.ndarray, samples: Samples, rollouts: Sequence[Rollout], rate: float) -> dict[str, Any]:
    """Of the disturbed episodes, how many alarm between the disturbance and the next plan, and after how many ticks.

    The threshold is the order statistic of split conformal prediction over the held-out successes themselves.
    """
    quiet, late, loud = [], [], {}
    real, usual = ~np.isin(samples.kind, PERTURBED), usual_ticks(rollouts)
    for episode, rollout in enumerate(rollouts):
        rows = real & (samples.episode == episode)
        if rollout.success and not rollout.disturbance and rows.any():
            quiet.append(float(found[rows].max()))
            late.append(is_late(rollout, usual))
        elif rollout.disturbance and (rows := rows & (samples.kind == rollout.disturbance)).any():
            loud[episode] = found[rows]
    rank = min(math.ceil((len(quiet) + 1) * (1 - rate)), len(quiet))
    threshold = float(np.sort(quiet)[rank - 1]) if quiet else math.nan
    over = np.array(quiet) > threshold
    report: dict[str, Any] = {"threshold": _rounded(threshold), "successes": len(quiet)}
    report |= {"false alarms": int(over.sum()), "of them late": int((over & late).sum()), "late": sum(late)}
    for kind in sorted({rollouts[episode].disturbance for episode in loud}):
        series = [values for episode, values in loud.items() if rollouts[episode].disturbance == kind]
        heard = [int((values > threshold).argmax()) for values in series if (values > threshold).any()]
        delay = float(np.median(heard)) if heard else math.nan
        report[kind] = {
            "recall": round(len(heard) / len(series), 3),
            "episodes": len(series),
            "median ticks": _rounded(delay),
        }
    return report


def value_report(network: Judge, rollouts: Sequence[Rollout], told: Told, usual: Mapping[str, float]) -> dict[str, Any]:
    """Error and order of the value on successful episodes that were not trained on."""
    frames = Frames.of(rollouts, told.embodiment, network.config.pixels)
    samples = value_samples(rollouts, frames, told, usual)
    found, report = scores(network, frames, samples), {}
    for kind in ("seen", "imagined"):
        rows = samples.kind == kind
        if rows.any():
            error = np.abs(found[rows] - samples.target[rows]).mean()
            spread = np.abs(samples.target[rows] - samples.target[rows].mean()).mean()
            ordered = [
                _ordered(found[among], samples.target[among])
                for episode in sorted(set(samples.episode[rows]))
                if len(set(samples.target[among := rows & (samples.episode == episode)])) > 1
            ]
            report[kind] = {
                "moments": int(rows.sum()),
                "mean error": round(float(error), 4),
                "error of the mean": round(float(spread), 4),
                "ordered pairs": _rounded(float(np.mean(ordered)) if ordered else math.nan),
            }
    return report


def _ordered(found: np.ndarray, target: np.ndarray) -> float:
    """Share of the pairs of moments of one episode that are judged in the right order."""
    later = target[:, None] > target[None]
    return float((found[:, None] > found[None])[later].mean())
