"""What episodes allow to be said: pure functions; all intervals are 95 % unless told.

one arm, one task         wilson, clopper_pearson, upper_bound, posterior, probability_better
one arm, many tasks       mean_success, mean_value: initial conditions as clusters
two arms, same seeds      compare_paired, compare_values, mcnemar, flip_by_seed, paired_difference, holm
before a run              pairs_needed, detectable_difference, mcnemar_power, episodes_needed, discordant_share
while it runs             SequentialTest
how often                 event_rate, rate_ratio, dispersion, false_alarms
how fast                  success_curve, waiting, survival_curve, logrank, time_to_success
"""

from actloop.evaluation.statistics.clusters import Successes, Values, mean_success, mean_value
from actloop.evaluation.statistics.intervals import (
    Interval,
    clopper_pearson,
    posterior,
    probability_better,
    upper_bound,
    wilson,
)
from actloop.evaluation.statistics.paired import (
    Paired,
    PairedMean,
    compare_paired,
    compare_values,
    flip_by_seed,
    holm,
    mcnemar,
    paired_difference,
)
from actloop.evaluation.statistics.planning import (
    detectable_difference,
    discordant_share,
    episodes_needed,
    mcnemar_power,
    pairs_needed,
)
from actloop.evaluation.statistics.rates import (
    EventRate,
    FalseAlarms,
    RateRatio,
    dispersion,
    event_rate,
    false_alarms,
    rate_ratio,
)
from actloop.evaluation.statistics.sequential import SequentialTest
from actloop.evaluation.statistics.survival import (
    Curve,
    TimeToSuccess,
    Waiting,
    logrank,
    success_curve,
    survival_curve,
    time_to_success,
    waiting,
)

__all__ = [
    "Curve",
    "EventRate",
    "FalseAlarms",
    "Interval",
    "Paired",
    "PairedMean",
    "RateRatio",
    "SequentialTest",
    "Successes",
    "TimeToSuccess",
    "Values",
    "Waiting",
    "clopper_pearson",
    "compare_paired",
    "compare_values",
    "detectable_difference",
    "discordant_share",
    "dispersion",
    "episodes_needed",
    "event_rate",
    "false_alarms",
    "flip_by_seed",
    "holm",
    "logrank",
    "mcnemar",
    "mcnemar_power",
    "mean_success",
    "mean_value",
    "paired_difference",
    "pairs_needed",
    "posterior",
    "probability_better",
    "rate_ratio",
    "success_curve",
    "survival_curve",
    "time_to_success",
    "upper_bound",
    "waiting",
    "wilson",
]
