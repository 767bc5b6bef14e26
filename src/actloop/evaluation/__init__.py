"""Judging policies: the comparison, its statistics, and what they allow to be said."""

from actloop.evaluation.answer import Answer, answer
from actloop.evaluation.compare import compare, load_comparison
from actloop.evaluation.comparison import Comparison
from actloop.evaluation.config import CompareConfig, RunMismatchError
from actloop.evaluation.progress import Progress, ProgressBar
from actloop.evaluation.table import format_table

__all__ = [
    "Answer",
    "CompareConfig",
    "Comparison",
    "Progress",
    "ProgressBar",
    "RunMismatchError",
    "answer",
    "compare",
    "format_table",
    "load_comparison",
]
