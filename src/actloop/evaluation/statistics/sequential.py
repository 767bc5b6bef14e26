"""Looking at a run while it runs: a test that may be read after every episode, and stopped at, at no price in truth.

    outcome --observe--> wealth of bets against the null --1/alpha reached--> decided
                                  '--nulls that are not yet refuted--> interval, right at every look at once

A bet stakes a share of its wealth on the next outcome lying above the null (or below it). If the null is true nobody
grows rich: wealth is a nonnegative martingale of mean 1, and by Ville's inequality it reaches 1/alpha with probability
alpha at most, however often one looks. The stakes are spread evenly over (0, 1), each growing by itself, as in the
diversified bets of Waudby-Smith and Ramdas (2024, section 5); the order of the outcomes then does not matter.
"""

import math
from collections import Counter
from typing import Literal

import numpy as np
from jaxtyping import Float

from actloop.evaluation.statistics.intervals import Interval

Alternative = Literal["two-sided", "greater", "less"]
Verdict = Literal["", "above", "below", "alike"]

_STAKES = (np.arange(48) + 0.5) / 48  # shares of the wealth
_PARTS = np.linspace(0, 1, 33)  # of a range in which the end of an interval is looked for
_ROUNDS = 6


class SequentialTest:
    """Anytime-valid test and confidence sequence for the mean of outcomes in [`low`, `high`] against `null`.

    Outcomes must come in an order that was fixed before: of the seeds, not of finishing (quick episodes are more often
    successes). A crash is observed as a failure. Once decided it stays decided; outcomes after that narrow `interval`.

    With `alike`, two-sided only, it also stops when the mean is shown to lie closer to the null than that.

    Raises:
        ValueError: not low < null < high, alpha outside (0, 1), an unknown alternative, or `alike` below 0 or with a
            one-sided one.
    """

    def __init__(
        self,
        *,
        low: float = 0.0,
        high: float = 1.0,
        null: float = 0.5,
        alpha: float = 0.05,
        alternative: Alternative = "two-sided",
        alike: float = 0.0,
    ) -> None:
        if not (low < null < high and 0 < alpha < 1):
            raise ValueError(f"low < null < high and alpha in (0, 1) are needed, got {low}, {null}, {high}, {alpha}")
        if alternative not in ("two-sided", "greater", "less"):
            raise ValueError(f"an alternative of two-sided, greater or less is needed, got {alternative!r}")
        if alike < 0 or (alike and alternative != "two-sided"):
            raise ValueError(f"a margin of 0 or more, and above 0 only where two-sided, is needed, got {alike}")
        self.low, self.high, self.null, self.alpha = low, high, null, alpha
        self.alternative, self.alike = alternative, alike
        self._seen: Counter[float] = Counter()
        self._verdict: Verdict = ""

    @classmethod
    def of_rate(
        cls, null: float, *, alpha: float = 0.05, alternative: Alternative = "two-sided", alike: float = 0.0
    ) -> "SequentialTest":
        """Whether one arm's success rate differs from `null`; outcomes are successes, 0 or 1."""
        return cls(null=null, alpha=alpha, alternative=alternative, alike=alike)

    @classmethod
    def of_pairs(
        cls, *, alpha: float = 0.05, alternative: Alternative = "two-sided", alike: float = 0.0
    ) -> "SequentialTest":
        """Whether two arms differ on shared seeds; outcomes are first minus second, -1 to 1.

        Where several tasks share a seed, one outcome is a seed's mean over them. `alike` is in success rate.
        """
        return cls(low=-1.0, null=0.0, alpha=alpha, alternative=alternative, alike=alike)

    def observe(self, outcome: float) -> Verdict:
        """Take one more outcome into account; returns the verdict.

        Raises:
            ValueError: an outcome outside [`low`, `high`], or none; nothing is changed.
        """
        value = float(outcome)
        if not self.low <= value <= self.high:
            raise ValueError(f"an outcome in [{self.low}, {self.high}] is needed, got {outcome}")
        self._seen[value] += 1
        if not self._verdict:
            self._verdict = self._judged()
        return self._verdict

    @property
    def count(self) -> int:
        return self._seen.total()

    @property
    def mean(self) -> float:
        """Of the outcomes so far; NaN before the first."""
        return math.fsum(value * count for value, count in self._seen.items()) / self.count if self.count else math.nan

    @property
    def decided(self) -> bool:
        return bool(self._verdict)

    @property
    def verdict(self) -> Verdict:
        """`above` or `below` the null, `alike` to it, or empty while undecided; the first that was reached."""
        return self._verdict

    @property
    def e_value(self) -> float:
        """Evidence against the null: what one unit staked on its being false has become."""
        return math.exp(min(self._evidence(self.null), 700.0))

    @property
    def p_value(self) -> float:
        """1 / `e_value`, 1 at most; may be read at any time, or stopped at."""
        return min(1.0, math.exp(-self._evidence(self.null)))

    @property
    def interval(self) -> Interval:
        """The means that are not refuted; holds the true one at every look at once, with probability 1 - alpha."""
        low, high = self.low, self.high
        if self.count and self.alternative != "less":
            low = self._boundary(above=True)
        if self.count and self.alternative != "greater":
            high = self._boundary(above=False)
        return Interval(value=self.mean, low=low, high=high)

    def _judged(self) -> Verdict:
        if self._refuted(self.null):
            return "above" if self.mean > self.null else "below"
        if not self.alike:
            return ""
        lower, upper = self.null - self.alike, self.null + self.alike
        apart = (lower <= self.low or self._refuted(lower)) and (upper >= self.high or self._refuted(upper))
        return "alike" if apart and lower < self.mean < upper else ""

    def _refuted(self, null: float) -> bool:
        return self._evidence(null) >= -math.log(self.alpha)

    def _evidence(self, null: float) -> float:
        """Log wealth; two-sided, half of it is staked on either side, and the richer half counts."""
        if self.alternative == "greater":
            return self._wealth(null, above=True)
        if self.alternative == "less":
            return self._wealth(null, above=False)
        return max(self._wealth(null, above=True), self._wealth(null, above=False)) - math.log(2)

    def _wealth(self, null: float, *, above: bool) -> float:
        return float(self._wealths(np.array([null]), above=above)[0])

    def _wealths(self, nulls: Float[np.ndarray, "nulls"], *, above: bool) -> Float[np.ndarray, "nulls"]:
        """Log of the mean wealth of the bets that outcomes lie above (below) each null."""
        if not self._seen:
            return np.zeros(len(nulls))
        values, counts = (np.array(list(each), dtype=float) for each in (self._seen.keys(), self._seen.values()))
        scale = 1 / (nulls - self.low) if above else -1 / (self.high - nulls)  # nothing is lost that is not owned
        returns = scale[:, None] * (values - nulls[:, None])  # (nulls, values), for a stake of everything
        logs = np.einsum("v,nvs->ns", counts, np.log1p(returns[..., None] * _STAKES))  # of each bet
        most = logs.max(axis=1)
        wealths: np.ndarray = most + np.log(np.exp(logs - most[:, None]).mean(axis=1))
        return wealths

    def _boundary(self, *, above: bool) -> float:
        """The last null between the mean and the edge that is not refuted; wealth grows towards the edge."""
        target = -math.log(self.alpha) + (math.log(2) if self.alternative == "two-sided" else 0.0)
        inside, outside = self.mean, self.low if above else self.high
        for _ in range(_ROUNDS):
            nulls = inside + (outside - inside) * _PARTS
            if inside == outside:
                break
            refuted = self._wealths(nulls[1:-1], above=above) >= target
            last = int(refuted.argmax()) if refuted.any() else len(refuted)
            inside, outside = float(nulls[last]), float(nulls[last + 1])
        return outside
