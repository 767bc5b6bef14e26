"""From a dataset to a checkpoint.

    dataset --samples.py, frames.py--> Batch --batches.py, loop.py--> trained tensors --adapt.py--> policy

Every variant sees the same samples in the same order with the same seeds. The small models and the 6 B one are trained
by the same code: what differs is the recipe (config.py) and where samples come from.
"""

import time
from pathlib import Path

import torch

from actloop.data.cache import CachedEpisodes
from actloop.errors import ContractError
from actloop.models.checkpoint import save_policy
from actloop.models.fastwam import FastWAM
from actloop.models.policy import FastWAMPolicy
from actloop.models.stored import PolicyInfo
from actloop.models.tensors import fingerprint
from actloop.training.adapt import adapt, finished, leaves_unused, objective, save_adapter, start
from actloop.training.batches import NoisedBatches
from actloop.training.config import LoraRecipe, TrainConfig, TrainResult, released
from actloop.training.loop import Loop, Progress, accelerator
from actloop.training.samples import LatentSamples, Samples
from actloop.training.state import weights

__all__ = ["LoraRecipe", "Progress", "TrainConfig", "TrainResult", "released", "train"]


def train(
    config: TrainConfig,
    *,
    data: CachedEpisodes | Samples,
    out: str | Path,
    name: str,
    init: FastWAM | FastWAMPolicy | None = None,
    resume: bool = False,
    half: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Train one policy and write it to `out`; the log (JSON lines) and the resumable state lie beside it.

    `init`: weights to start from, which stay as they are; a policy brings its codec, words and normalisers along.

    Raises:
        DataError: the dataset is empty or declares no embodiment.
        ContractError: its states or actions are not finite, or not of the embodiment's size; `init` does not fit, or
            is missing where the recipe trains only parts.
        CheckpointError: `resume` without a state, or with one of another run.
        MissingDependency: accelerate, or peft for LoRA, is not installed.
    """
    if init is None and config.trainable != "all":
        raise ContractError(
            "init", f"trainable={config.trainable!r} keeps most weights as they are: which? Give `init`"
        )
    out, begun = Path(out), time.perf_counter()
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    policy = init if isinstance(init, FastWAMPolicy) else None
    first = init.model if isinstance(init, FastWAMPolicy) else init
    samples = data if isinstance(data, Samples) else LatentSamples(data, config, like=policy)
    model = start(samples.model_config(), first)
    if first is None:
        samples.prepare(model)
    adapt(model, config)
    origin = "" if first is None else fingerprint(first.state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    batches = NoisedBatches(samples, model, seed=config.seed, batch_size=config.batch_size)
    spread = accelerator(config, unused=leaves_unused(model))
    loop = Loop(model, batches, config, out, spread, origin=origin, objective=objective(config))
    loop.begin(resume=resume)
    losses = loop.run(progress)
    seconds = loop.seconds + time.perf_counter() - begun
    final = {f"validation_{key}": value for key, value in losses.items()}
    tensors = weights(loop.model)
    if loop.is_main:
        facts = {"steps": config.steps, "seconds": round(seconds, 1), **final, **_facts(config, samples, loop)}
        trained = finished(model.config, tensors, config)
        save_policy(samples.policy(trained, PolicyInfo(name=name, training=facts)), out, half=half)
        if config.trainable == "lora" and config.lora.keep_adapter:
            save_adapter(tensors, config.lora, out.with_suffix(".adapter"))
        loop.state.unlink(missing_ok=True)
    loop.accelerator.wait_for_everyone()
    return TrainResult(checkpoint=out, log=loop.log, steps=config.steps, seconds=seconds, losses=losses)


def _facts(config: TrainConfig, samples: Samples, loop: Loop) -> dict[str, object]:
    """How it was trained, for the checkpoint."""
    facts: dict[str, object] = {"episodes": len(samples.data.episodes), "data": samples.source, "seed": config.seed}
    facts |= {"batch_size": config.batch_size * loop.micro_batches, "learning_rate": config.learning_rate}
    facts |= {"trainable": config.trainable, "init": loop.origin, "torch": torch.__version__}
    return facts
