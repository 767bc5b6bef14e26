"""OpenVLA: a vision-language model that answers with action tokens, and OpenVLA-OFT, which answers in one pass."""

from actloop.models.openvla.network import ActingVLM, ActionConfig, Question, Target
from actloop.models.openvla.pictures import Pictures
from actloop.models.openvla.policy import Conventions, OpenVLAPolicy
from actloop.models.openvla.statistics import DatasetStatistics

__all__ = [
    "ActingVLM",
    "ActionConfig",
    "Conventions",
    "DatasetStatistics",
    "OpenVLAPolicy",
    "Pictures",
    "Question",
    "Target",
]
