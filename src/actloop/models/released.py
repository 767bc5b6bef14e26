"""From released files to a policy: weights, statistics, video codec and prompts, each given or refused.

weights (.pt, shards, LeRobot)  -+
<name>_dataset_stats.json        +-- release (preset, variant, shift) --> FastWAMPolicy --> one file of ours
Wan2.2_VAE.pth                   |
prompts of the tasks            -+
"""

from pathlib import Path

import torch

from actloop.errors import CheckpointError, ContractError
from actloop.models.fastwam.releases import Release, release_of, released_stats_path
from actloop.models.fastwam.weights import load_weights
from actloop.models.policy import FastWAMPolicy
from actloop.models.stored import PolicyInfo
from actloop.models.wan import PromptCache, WanCodec


def load_released(
    path: str | Path,
    *,
    vae: str | Path,
    prompts: str | Path | PromptCache,
    stats: str | Path | None = None,
    preset: str | None = None,
    variant: str | None = None,
    shift: float | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    keep_decoder: bool = True,
) -> FastWAMPolicy:
    """A released Fast-WAM as a policy in physical units.

    `preset`, `variant` and `shift` follow from a released file name and must be given for any other. `stats` lie
    beside the weights by default. `keep_decoder=False` fetches the video decoder only while frames are looked at.

    Raises:
        ContractError: something that the file does not tell was not said, or what was said does not fit together.
        CheckpointError: a file is missing or damaged, or belongs to another network or robot.
    """
    if not Path(path).exists():
        raise CheckpointError(f"{path}: no such file or folder of weights")
    release = release_of(path, preset=preset, variant=variant, shift=shift)
    return assemble(
        release,
        path,
        vae=vae,
        prompts=prompts,
        stats=stats or released_stats_path(path),
        dtype=dtype,
        device=device,
        keep_decoder=keep_decoder,
    )


def assemble(
    release: Release,
    path: str | Path,
    *,
    vae: str | Path,
    prompts: str | Path | PromptCache,
    stats: str | Path,
    dtype: torch.dtype = torch.bfloat16,
    device: str | torch.device = "cpu",
    keep_decoder: bool = True,
) -> FastWAMPolicy:
    """As `load_released`, for a release of your own: another body, camera layout or size of network.

    Raises:
        ContractError, CheckpointError: see `load_released`.
    """
    state, action = release.normalizers(stats)
    known = prompts if isinstance(prompts, PromptCache) else PromptCache.read(prompts)
    check_prompts(known, release)
    codec = WanCodec.load(vae, device=device, keep_decoder=keep_decoder)
    if codec.channels != release.config.latent_channels:
        expected = f"expected {release.config.latent_channels} latent channels (Wan2.2), got {codec.channels}"
        raise CheckpointError(f"{vae}: the video codec of another network: {expected}")
    return FastWAMPolicy(
        model=load_weights(path, release.config, dtype=dtype).to(device),
        codec=codec,
        text=known,
        embodiment=release.embodiment,
        state=state,
        action=action,
        mosaic=release.mosaic,
        gripper=release.gripper,
        info=PolicyInfo(
            name=Path(path).name.split(".")[0],
            training={"release": release.name, "execute_horizon": release.execute_horizon},
        ),
    )


def check_prompts(prompts: PromptCache, release: Release) -> None:
    """The prompts were encoded as the network learned them.

    Raises:
        ContractError: another template, width or length.
    """
    config = release.config
    wanted = (release.template, config.text_dim, config.text_tokens)
    came = (prompts.template, prompts.width, prompts.max_tokens)
    if wanted != came:
        names = ("template", "width", "tokens")
        said = "; ".join(
            f"{n}: expected {w!r}, got {c!r}" for n, w, c in zip(names, wanted, came, strict=True) if w != c
        )
        raise ContractError("prompts", said)
