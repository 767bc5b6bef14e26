"""`actloop prompts` and `actloop import fastwam`: what others released, brought into one file of ours."""

from collections.abc import Sequence
from pathlib import Path

import torch

from actloop.data.dataset import LeRobotDataset
from actloop.errors import ContractError
from actloop.models.checkpoint import save_policy
from actloop.models.policy import FastWAMPolicy
from actloop.models.released import load_released
from actloop.models.wan import UMT5Encoder, encode_prompts


def encode(encoder: Path, tokenizer: Path, instructions: Sequence[str], data: Path | None, out: Path) -> str:
    """Encode instructions, those of a dataset too, and say what was written.

    Raises:
        ContractError: there is nothing to encode.
    """
    known = list(instructions)
    if data is not None:
        known += sorted({episode.instruction for episode in LeRobotDataset(data).episodes})
    if not known:
        raise ContractError("--instruction", "expected at least one instruction, or --data with a dataset")
    cache = encode_prompts(UMT5Encoder.load(encoder, tokenizer=tokenizer), known)
    cache.save(out)
    return f"{out}: {len(cache.instructions)} instructions, {cache.width} numbers per token"


def import_policy(
    weights: Path,
    out: Path,
    *,
    vae: Path,
    prompts: Path,
    stats: Path | None,
    preset: str | None,
    variant: str | None,
    shift: float | None,
    dtype: str,
) -> FastWAMPolicy:
    """See `load_released`; the policy is written to `out`."""
    policy = load_released(
        weights,
        vae=vae,
        prompts=prompts,
        stats=stats,
        preset=preset,
        variant=variant,
        shift=shift,
        dtype=getattr(torch, dtype),
    )
    save_policy(policy, out)
    return policy
