"""Whether a world action model's imagination is worth acting on, judged by the simulator."""

from actloop.evaluation.foresight.judging import MomentJudge, judge_foresight
from actloop.evaluation.foresight.report import Calibration, ForesightReport, Ranking, Response

__all__ = ["Calibration", "ForesightReport", "MomentJudge", "Ranking", "Response", "judge_foresight"]
