"""A very small OpenVLA for the dot of dots.py: what the tests of policy, release and training share."""

import torch
from dots import BODY

from actloop.models.openvla import ActingVLM, ActionConfig, Conventions, DatasetStatistics, OpenVLAPolicy, Pictures
from actloop.models.openvla.network import Head
from actloop.models.openvla.prompts import question
from actloop.models.openvla.statistics import VectorStatistics
from actloop.models.prismatic import LanguageConfig, PrismaticConfig, PrismaticVLM, TowerConfig, train_tokens
from actloop.models.stored import PolicyInfo

TOKENS = train_tokens([question("go left"), question("go right")], 576)
TOWER = TowerConfig(kind="siglip", image_size=16, patch=8, dim=16, depth=3, heads=2, hidden=32)
LANGUAGE = LanguageConfig(vocabulary=640, hidden=32, intermediate=48, layers=2, heads=4, kv_heads=2, head_dim=8)
CONFIG = PrismaticConfig(towers=(TOWER,), language=LANGUAGE)
STATISTICS = DatasetStatistics(
    action=VectorStatistics(q01=(-0.05, -0.01), q99=(0.05, 0.01), mask=(True, True)),
    proprio=VectorStatistics(q01=(0.0, 0.0), q99=(1.0, 1.0), mask=(True, True)),
)


def network(seed: int = 0) -> PrismaticVLM:
    """Random weights, large enough that pictures and words matter."""
    torch.manual_seed(seed)
    vlm = PrismaticVLM(CONFIG, TOKENS)
    with torch.no_grad():
        for parameter in vlm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return vlm.eval()


def acting(
    head: Head = "tokens", horizon: int = 3, proprio: int = 0, seed: int = 0, *, slots: bool = False
) -> ActingVLM:
    config = ActionConfig(
        action_dim=2, vocabulary=576, horizon=horizon, head=head, proprio_dim=proprio, learned_slots=slots
    )
    return ActingVLM(network(seed), config).eval()


def policy(
    head: Head = "tokens",
    horizon: int = 3,
    proprio: int = 0,
    *,
    constrained: bool = True,
    model: ActingVLM | None = None,
    template: str = "v1",
) -> OpenVLAPolicy:
    return OpenVLAPolicy(
        model=model or acting(head, horizon, proprio),
        embodiment=BODY,
        statistics=STATISTICS,
        conventions=Conventions(unnorm_key="dots", template=template, constrained=constrained),
        pictures=Pictures.one_each(BODY),
        info=PolicyInfo(name="tiny", training={"steps": 1}),
    )
