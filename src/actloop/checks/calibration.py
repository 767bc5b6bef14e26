"""From scores of successful episodes to a threshold with a stated rate of false alarms, bound to what it was made for.

    episodes --fit share--> Normaliser per check: lead's median and upper spread, then the episodes' maxima to one scale
             --the rest --> each episode's maximum over checks and moments --order statistic--> threshold

All checks share one threshold on one scale, calibrated together: the promise covers an alarm of any of them. The
normalisers never see the episodes that the threshold comes from, so those stay exchangeable with fresh ones.
"""

import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actloop.checks.conformal import Guarantee, Rate, TooFewEpisodes, episodes_needed, rank
from actloop.checks.evidence import Reading, Score
from actloop.checks.normaliser import Normaliser
from actloop.errors import ContractError, UnknownNameError

FORMAT = "actloop.calibration.1"
LEAST_FITTED = 5  # episodes that normalisers need
OUT_OF_REACH = 1e9  # of any normalised score

Scores = Mapping[str, Sequence[Score]]
"""What an episode gave, by check, in order of time; see `Checker.scores`."""


class CalibrationMismatch(ContractError):
    """A calibration is asked about something that it was not made for; the message lists what changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Normalisers by check, a threshold for them all, and what it holds for.

    Attributes:
        identity: what it was made for, as text by name: policy, embodiment, rate, world, latency, horizon, checks
            (`check.NAME`), codec, ... : everything that a change of voids the promise.
        maxima: of the calibration's episodes, sorted; minus infinite where nothing was scored.
        fitted: episodes that the normalisers were fitted on; not among the maxima.
    """

    alpha: float
    identity: Mapping[str, str]
    normalisers: Mapping[str, Normaliser]
    maxima: tuple[float, ...]
    fitted: int

    @property
    def threshold(self) -> float:
        return self.maxima[rank(len(self.maxima), self.alpha) - 1]

    @property
    def guarantee(self) -> Guarantee:
        return Guarantee.of(len(self.maxima), self.alpha)

    def reading(self, check: str, score: Score) -> Reading:
        """The score on the common scale, beside the threshold.

        Raises:
            UnknownNameError: the check was not calibrated.
        """
        value = self._normaliser(check).value(score)
        return Reading(check=check, raw=score.value, lead=score.lead, value=value, threshold=self.threshold)

    def maximum(self, episode: Scores) -> float:
        """The episode's largest normalised score over checks and moments; minus infinite without any."""
        values = [self._normaliser(name).value(score) for name, scores in episode.items() for score in scores]
        return max(values, default=-math.inf)

    def completed(self, episodes: Sequence[Scores]) -> "Calibration":
        """With a threshold from these successful episodes, none of which the normalisers were fitted on.

        A check that first scores here takes no part.

        Raises:
            TooFewEpisodes: fewer than 1 / alpha - 1.
            ContractError: a score is not finite.
        """
        needed = episodes_needed(self.alpha)
        if len(episodes) < needed:
            reason = f"a false-alarm rate of {self.alpha:g} needs at least {needed} episodes, got {len(episodes)}"
            raise TooFewEpisodes("calibration", reason)
        _refuse_odd(episodes)
        known = [{name: one for name, one in episode.items() if name in self.normalisers} for episode in episodes]
        return replace(self, maxima=tuple(sorted(self.maximum(episode) for episode in known)))

    def false_alarms(self, episodes: Iterable[Scores]) -> Rate:
        """How many of these successful episodes, fresh ones, it would have raised an alarm in."""
        threshold = self.threshold
        return Rate.counted(self.maximum(episode) > threshold for episode in episodes)

    def changes(self, identity: Mapping[str, str]) -> list[str]:
        """How this identity differs from the calibrated one, one line for each name."""
        names = sorted(set(self.identity) | set(identity))
        return [
            f"{name}: calibrated for {_shown(self.identity, name)}, now {_shown(identity, name)}"
            for name in names
            if self.identity.get(name) != identity.get(name)
        ]

    def require(self, identity: Mapping[str, str]) -> None:
        """Refuse to promise anything about something else.

        Raises:
            CalibrationMismatch: anything differs; lists it.
        """
        changes = self.changes(identity)
        if changes:
            reason = "its rate of false alarms holds no longer; calibrate again. Changed: " + "; ".join(changes)
            raise CalibrationMismatch("calibration", reason)

    def to_dict(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "alpha": self.alpha,
            "identity": dict(self.identity),
            "normalisers": {
                name: {key: getattr(one, key) for key in Normaliser.__slots__} for name, one in self.normalisers.items()
            },
            "maxima": [None if value == -math.inf else value for value in self.maxima],
            "fitted": self.fitted,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, object]) -> "Calibration":
        """What `to_dict` wrote.

        Raises:
            ContractError: another format, something missing or of the wrong form.
        """
        if plain.get("format") != FORMAT:
            raise ContractError("calibration", f"expected format {FORMAT!r}, got {plain.get('format')!r}")
        try:
            return _read(plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ContractError("calibration", f"damaged ({type(error).__name__}: {error})") from error

    def save(self, path: str | Path) -> None:
        """Write it as JSON; the file appears whole or not at all."""
        path = Path(path)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False), encoding="utf-8")
        part.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """What `save` wrote.

        Raises:
            ContractError: no such file, or not a calibration.
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ContractError(str(path), f"not a calibration ({type(error).__name__}: {error})") from error
        if not isinstance(plain, dict):
            raise ContractError(str(path), f"not a calibration, but a {type(plain).__name__}")
        return cls.from_dict(plain)

    def _normaliser(self, check: str) -> Normaliser:
        if check not in self.normalisers:
            raise UnknownNameError("calibration.check", check, self.normalisers)
        return self.normalisers[check]


def calibrate(
    episodes: Sequence[Scores],
    *,
    alpha: float,
    identity: Mapping[str, str],
    fit_share: float = 0.5,
    seed: int = 0,
) -> Calibration:
    """A calibration from successful episodes, which are shuffled and split: `fit_share` of them fit the normalisers.

    Every check that scored anywhere takes part. Calibrate on episodes run as later ones will be: with the same moments
    of checking, and with whatever an alarm sets off switched on.

    Raises:
        TooFewEpisodes: the share that is left for the threshold is below 1 / alpha - 1, or the fitted below 5.
        ContractError: alpha or the share is no share, a check has no scores among the fitted episodes, or one that is
            not finite.
    """
    if not 0 < fit_share < 1:
        raise ContractError("calibration.fit_share", f"expected a share between 0 and 1, got {fit_share}")
    if not 0 < alpha < 1:
        raise ContractError("alpha", f"expected a rate between 0 and 1, got {alpha}")
    fitted = _fitted(len(episodes), alpha, fit_share)
    if fitted is None:
        start = int(episodes_needed(alpha) / (1 - fit_share))
        needed = next(n for n in itertools.count(max(start - 1, 0)) if _fitted(n, alpha, fit_share) is not None)
        wanted = f"a false-alarm rate of {alpha:g}, with {fit_share:.0%} of the episodes to fit on,"
        raise TooFewEpisodes("calibration", f"{wanted} needs at least {needed} episodes, got {len(episodes)}")
    order = np.random.default_rng(seed).permutation(len(episodes))
    fit, rest = [episodes[i] for i in order[:fitted]], [episodes[i] for i in order[fitted:]]
    names = {name for episode in episodes for name, scores in episode.items() if scores}
    return normalised(fit, alpha=alpha, identity=identity, names=names).completed(rest)


def normalised(
    episodes: Sequence[Scores], *, alpha: float, identity: Mapping[str, str], names: Iterable[str] = ()
) -> Calibration:
    """A calibration that raises no alarm yet: normalisers alone, so that scores can be told on the common scale.

    Where scores decide how long the robot runs on, its threshold has to come from episodes in which they did:
    `completed` with those.

    Args:
        episodes: successful ones.
        alpha: as in `calibrate`.
        identity: as in `calibrate`.
        names: checks that have to be among them, besides those that scored.

    Raises:
        TooFewEpisodes: fewer than 5.
        ContractError: a check has no scores, or one that is not finite.
    """
    if len(episodes) < LEAST_FITTED:
        raise TooFewEpisodes("calibration", f"normalisers need at least {LEAST_FITTED} episodes, got {len(episodes)}")
    _refuse_odd(episodes)
    found = sorted({name for episode in episodes for name, scores in episode.items() if scores} | set(names))
    normalisers = {}
    for name in found:
        try:
            normalisers[name] = Normaliser.fit([episode.get(name, ()) for episode in episodes], tail=alpha / len(found))
        except ContractError as error:
            raise ContractError(f"calibration.{name}", error.reason) from error
    quiet = (OUT_OF_REACH,) * episodes_needed(alpha)
    return Calibration(
        alpha=alpha, identity=dict(identity), normalisers=normalisers, maxima=quiet, fitted=len(episodes)
    )


def _refuse_odd(episodes: Sequence[Scores]) -> None:
    if not any(scores for episode in episodes for scores in episode.values()):
        raise ContractError("calibration", "no check scored anything in any episode")
    for episode in episodes:
        for name, scores in episode.items():
            if not all(math.isfinite(score.value) for score in scores):
                raise ContractError(f"calibration.{name}", "expected finite scores, got one that is not")


def _shown(identity: Mapping[str, str], name: str) -> str:
    return repr(identity[name]) if name in identity else "nothing"


def _fitted(episodes: int, alpha: float, share: float) -> int | None:
    """How many of so many episodes to fit on; None where either part would be too small."""
    count = round(share * episodes)
    return count if count >= LEAST_FITTED and episodes - count >= episodes_needed(alpha) else None


def _read(plain: Mapping[str, Any]) -> Calibration:
    maxima = tuple(-math.inf if value is None else float(value) for value in plain["maxima"])
    calibration = Calibration(
        alpha=float(plain["alpha"]),
        identity={str(name): str(value) for name, value in plain["identity"].items()},
        normalisers={str(name): Normaliser.from_dict(one) for name, one in plain["normalisers"].items()},
        maxima=maxima,
        fitted=int(plain["fitted"]),
    )
    if list(maxima) != sorted(maxima) or not all(value < math.inf for value in maxima):
        raise ValueError("maxima are not sorted finite numbers")
    _ = calibration.guarantee  # too few maxima for its alpha are found here, not at the first alarm
    return calibration
