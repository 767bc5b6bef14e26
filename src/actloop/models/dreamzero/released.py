"""A policy out of a released checkpoint's folder: its network, its frozen parts, its robot's statistics.

folder --weights.py--> network, text encoder, image tower, VAE
       --metadata.py-> statistics, negative prompt          + a robot's declaration --> DreamZeroPolicy
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actloop.errors import CheckpointError, ContractError
from actloop.models.dreamzero.config import DreamZeroConfig
from actloop.models.dreamzero.embodiments import RobotDeclaration
from actloop.models.dreamzero.metadata import negative_prompt, with_metadata
from actloop.models.dreamzero.policy import DreamZeroPolicy
from actloop.models.dreamzero.sampling import SamplerConfig
from actloop.models.dreamzero.watching import Encoding
from actloop.models.dreamzero.weights import load_release
from actloop.models.dreamzero.words import EncodedPrompts
from actloop.models.stored import PolicyInfo
from actloop.models.text import Instructions
from actloop.models.wan.prompts import PromptCache
from actloop.models.wan.vae import WanCodec


def released_policy(
    folder: str | Path,
    declaration: RobotDeclaration,
    *,
    prompts: PromptCache | None = None,
    tokenizer: Any = None,
    negative: str | None = None,
    codec: WanCodec | None = None,
    config: DreamZeroConfig | None = None,
    sampler: SamplerConfig | None = None,
    encoding: Encoding = "stream",
    noise: str = "fresh",
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.bfloat16,
) -> DreamZeroPolicy:
    """A policy for the robot, whose statistics are read from the folder where the declaration has none.

    `prompts`: contexts of prompts, the negative one among them, so that the text encoder is not loaded; else
    `tokenizer`, the encoder's. `negative`: where the folder does not say it. `codec`: where the VAE is left out of it.
    `config`: by default the released one, of these sizes. `sampler`: by default the released one.
    As released altogether: a `config` with `memory="released"`, `encoding="apart"`, `noise="released"`.

    Raises:
        CheckpointError: see `load_release` and `with_metadata`; or a part that is needed is nowhere.
        ContractError: network and robot do not fit each other.
    """
    folder = Path(folder)
    sampler = sampler or SamplerConfig.released()
    if declaration.statistics is None:
        declaration = with_metadata(declaration, folder)
    parts = ["network", "image", *([] if codec else ["vae"]), *([] if prompts else ["text"])]
    release = load_release(folder, config=config, parts=parts, tokenizer=tokenizer, device=device, dtype=dtype)
    codec = codec or release.vae
    if codec is None:
        raise CheckpointError(f"{folder}: holds no VAE; pass one as `codec`")
    text: Instructions
    if prompts is not None:
        text = prompts
    elif release.text is not None and tokenizer is not None:
        text = EncodedPrompts(release.text)
    else:
        raise CheckpointError(f"{folder}: no text: pass `prompts`, or a `tokenizer` for the encoder in the checkpoint")
    away = None if sampler.guidance == 1 else _away(text, negative or negative_prompt(folder), folder)
    return DreamZeroPolicy(
        model=release.network,
        codec=codec,
        text=text,
        declaration=declaration,
        info=PolicyInfo(name=folder.name, training={"checkpoint": folder.name}),
        sampler=sampler,
        tower=release.image,
        negative=away,
        encoding=encoding,
        noise=noise,
    )


def _away(text: Instructions, negative: str | None, folder: Path) -> Tensor:
    if negative is None:
        raise ContractError(
            "negative", f"{folder / 'config.json'} does not say the negative prompt, and guidance needs it: pass it"
        )
    return text.encode(negative)
