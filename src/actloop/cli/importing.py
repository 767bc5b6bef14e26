"""The commands that bring what others released into one file of ours."""

from actloop.cli import options
from actloop.cli.text import as_json


def fastwam(
    weights: options.Weights,
    /,
    *,
    vae: options.VideoCodec,
    prompts: options.Prompts,
    stats: options.Statistics = None,
    preset: options.Release = None,
    variant: options.Variant = None,
    shift: options.Shift = None,
    dtype: options.Dtype = "bfloat16",
    out: options.OutFile,
    json: options.Json = False,
) -> None:
    """Bring released Fast-WAM weights and what belongs to them into one file.

    What a released file name does not tell must be given.
    """
    from actloop.cli.released import import_policy

    policy = import_policy(
        weights, out, vae=vae, prompts=prompts, stats=stats, preset=preset, variant=variant, shift=shift, dtype=dtype
    )
    print(as_json(policy.describe()) if json else f"{out}: {policy.info.name}, variant {policy.model.config.variant}")


def openvla(
    folder: options.ReleasedFolder,
    /,
    *,
    unnorm_key: options.UnnormKey = None,
    body: options.BodyFile = None,
    horizon: options.ChunkHorizon = 1,
    gripper: options.Gripper = "as-recorded",
    statistics: options.StatisticsFile = None,
    tokenizer: options.TokenizerFolder = None,
    adapter: options.Adapter = None,
    dtype: options.Dtype = "bfloat16",
    out: options.OutFile,
    json: options.Json = False,
) -> None:
    """Bring released OpenVLA or OpenVLA-OFT weights into one file.

    The robot is known by the key (`bridge_*`, `libero_*`), or told as JSON.
    """
    from actloop.cli.openvla import import_openvla, imported

    policy = import_openvla(
        folder,
        out,
        unnorm_key=unnorm_key,
        body=body,
        horizon=horizon,
        gripper=gripper,
        statistics=statistics,
        tokenizer=tokenizer,
        adapter=adapter,
        dtype=dtype,
    )
    print(as_json(policy.describe()) if json else imported(policy, out))
