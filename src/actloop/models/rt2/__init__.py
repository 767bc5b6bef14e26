"""RT-2 (arXiv 2307.15818): a vision-language model that writes actions as it writes words.

strings.py   actions as slots of digits, digits as tokens, and what may follow what
plans.py     a plan in free words before the action
policy.py    the policy over any `LanguageBackbone`
files.py     the policy at rest
"""

from actloop.models.rt2.files import rebuild
from actloop.models.rt2.plans import PlanThenAct
from actloop.models.rt2.policy import FORMS, RT2Config, RT2Policy, RT2Session
from actloop.models.rt2.strings import MAPPINGS, ActionString, Said, token_map

__all__ = [
    "FORMS",
    "MAPPINGS",
    "ActionString",
    "PlanThenAct",
    "RT2Config",
    "RT2Policy",
    "RT2Session",
    "Said",
    "rebuild",
    "token_map",
]
