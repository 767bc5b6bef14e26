"""The steps of a run, on one process or many, and the state from which a cut run goes on.

    Batches --(step, micro-batch)--> inputs of the network --forward--> losses per row --> AdamW --> log, state

It trains any `nn.Module` that answers its inputs with losses: FastWAM (batches.py), a language model (language.py).

A step takes a number of micro-batches. Which samples and which noise micro-batch `m` of step `k` holds follows from
(seed, k, m) alone; process r of n computes m = r, r + n, ... So a run on two processes is the run on one that
accumulates twice as often, and a resumed run is the one that was cut.

How the network is spread is decided at launch, not here: `accelerate launch --num_processes 8 ...` for data-parallel
training; on CPUs `torchrun` with ACCELERATE_USE_CPU=true. FSDP takes the whole network as one unit, since the two
experts exchange keys and values inside a layer and no block is called through its own `forward`:
`--use_fsdp --fsdp_version 2 --fsdp_auto_wrap_policy NO_WRAP --fsdp_reshard_after_forward false` shards gradients and
optimiser state (ZeRO-2).
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from actloop.errors import ContractError, MissingDependency
from actloop.models.tensors import write_tensors
from actloop.training.recipe import ELSEWHERE, Recipe
from actloop.training.state import gathered, read_state

if TYPE_CHECKING:
    from accelerate import Accelerator

Progress = Callable[[int, dict[str, float]], None]  # steps done, the newest losses
T = TypeVar("T")

LOSS = "loss"  # its name where a network answers with one tensor
_ROWS = ""  # counted beside the losses while validating


@runtime_checkable
class Batches(Protocol):
    """Where a run's batches come from; each is the positional arguments of the network's `forward`.

    Two calls with the same arguments give the same batch: nothing is remembered between them.
    """

    source: str
    """Identifies the data, and how batches are drawn from it beyond the recipe: a run is resumed on the same only."""

    @property
    def held_out(self) -> int:
        """Number of validation batches."""
        ...

    def place(self, device: torch.device) -> None:
        """From now on batches lie there."""
        ...

    def training(self, step: int, micro: int) -> tuple[Any, ...]: ...

    def validation(self, number: int) -> tuple[Any, ...]: ...


def accelerator(recipe: Recipe, *, unused: bool = False) -> "Accelerator":
    """What places, wraps and spreads the network; it reads what `accelerate launch` said.

    Args:
        recipe: gives precision and accumulation.
        unused: some parameters that train get no gradient, which data-parallel training must be told.

    Raises:
        MissingDependency: accelerate is not installed.
        ContractError: this process trained at another precision before, which accelerate cannot change.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise MissingDependency("accelerate", "training runs through it", "pip install 'actloop[training]'") from error
    try:
        return Accelerator(
            mixed_precision=recipe.precision,
            gradient_accumulation_steps=recipe.accumulation,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=unused)],
        )
    except ValueError as error:
        if "already been initialized" not in str(error):
            raise
        raise ContractError(
            "precision", f"{recipe.precision!r}: this process trains at another one; start a new process"
        ) from error


class Loop:
    """The mutable side of a run: weights, optimiser, step, log.

    The network's `forward` answers a batch with one loss per row, or with several by name.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        recipe: Recipe,
        out: Path,
        accelerator: "Accelerator",
        *,
        origin: str = "",
        objective: str = LOSS,
    ) -> None:
        """`origin` identifies the weights the run starts from; `objective` is the loss that is minimised.

        Log and state lie beside `out`, as `.log.jsonl` and `.state`.
        """
        self.batches, self.config, self.accelerator = batches, recipe, accelerator
        self.log, self.state = out.with_suffix(".log.jsonl"), out.with_suffix(".state")
        self.step, self.seconds = 0, 0.0
        self.origin, self.objective = origin, objective
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            recipe.learning_rate,
            recipe.betas,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        batches.place(accelerator.device)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step, over all processes."""
        return int(self.accelerator.num_processes) * self.config.accumulation

    def begin(self, *, resume: bool) -> None:
        """Start afresh, or where the last run of this output stopped.

        Raises:
            CheckpointError: `resume` without a state, or with one of another run.
        """
        if resume:
            self.restore()
        elif self.is_main:
            self.log.unlink(missing_ok=True)

    def run(self, progress: Progress | None) -> dict[str, float]:
        """`fit`, leaving a state behind where it is interrupted."""
        try:
            return self.fit(progress)
        except KeyboardInterrupt:
            if self.accelerator.num_processes == 1:  # several are interrupted at different places: the last stands
                self.save_state()
            raise

    def fit(self, progress: Progress | None) -> dict[str, float]:
        """All remaining steps; returns the final validation losses."""
        config, begun = self.config, time.perf_counter()
        running: dict[str, float] = {}
        losses: dict[str, float] = {}
        # On a CPU the network itself takes every core: a thread beside it would only wait.
        on_cpu = self.accelerator.device.type == "cpu"
        batches = (job() for job in self._jobs()) if on_cpu else one_ahead(self._jobs(), config.threads)
        self.model.train()
        while self.step < config.steps:
            newest = self._advance(batches)
            running = {key: 0.98 * running.get(key, value) + 0.02 * value for key, value in newest.items()}
            self.step += 1
            if progress is not None and self.is_main:
                progress(self.step, running)
            if self.step % config.validate_every == 0 or self.step == config.steps:
                losses = self.validate()
                seconds = self.seconds + time.perf_counter() - begun
                self._note({"step": self.step, "seconds": round(seconds, 1), "train": running, "validation": losses})
                if self.step < config.steps:
                    self.save_state(seconds)
        return losses

    def _jobs(self) -> Iterator[Callable[[], tuple[Any, ...]]]:
        """This process's micro-batches from the current step on, in order."""
        own = range(self.accelerator.process_index, self.micro_batches, self.accelerator.num_processes)
        for step in range(self.step, self.config.steps):
            for micro in own:
                yield lambda step=step, micro=micro: self.batches.training(step, micro)  # type: ignore[misc]

    def _advance(self, batches: Iterator[tuple[Any, ...]]) -> dict[str, float]:
        config, accelerator = self.config, self.accelerator
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * config.rate(self.step)
        sums: dict[str, Tensor] = {}
        for _ in range(config.accumulation):
            inputs = next(batches)
            with accelerator.accumulate(self.model):
                losses = _named(self.model(*inputs))
                accelerator.backward(losses[self.objective].mean())
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            for key, value in losses.items():
                sums[key] = sums.get(key, 0) + value.detach().mean() / config.accumulation
        return self._over_processes(sums, "mean")

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean losses over the held-out samples, the same ones every time."""
        self.model.eval()
        accelerator, last = self.accelerator, self.batches.held_out - 1
        sums: dict[str, Tensor] = {}
        # Every process makes the same number of passes, as sharded networks need: what is left over counts nothing.
        for first in range(0, last + 1, accelerator.num_processes):
            mine = first + accelerator.process_index
            losses = _named(self.model(*self.batches.validation(min(mine, last))))
            losses[_ROWS] = torch.ones_like(losses[self.objective])
            for key, value in losses.items():
                sums[key] = sums.get(key, 0) + value.sum() * (mine <= last)
        self.model.train()
        totals = self._over_processes(sums, "sum")
        rows = max(totals.pop(_ROWS, 1.0), 1.0)
        return {key: round(value / rows, 5) for key, value in totals.items()}

    def _over_processes(self, values: dict[str, Tensor], reduction: str) -> dict[str, float]:
        if not values:
            return {}
        stacked = self.accelerator.reduce(torch.stack([values[key].float() for key in values]), reduction)
        return dict(zip(values, stacked.tolist(), strict=True))

    def _note(self, line: dict[str, object]) -> None:
        if self.is_main:
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    # resuming

    def identity(self) -> str:
        """What must agree for a run to go on: recipe, data, first weights and the number of micro-batches in a step."""
        plain = asdict(self.config)
        for elsewhere in ELSEWHERE:
            plain.pop(elsewhere, None)
        facts = {"config": plain, "data": self.batches.source, "init": self.origin, "micro_batches": self.micro_batches}
        return json.dumps(facts, sort_keys=True)

    def save_state(self, seconds: float | None = None) -> None:
        """Everything that a resumed run needs; written whole or not at all, by the main process."""
        spent = self.seconds if seconds is None else seconds
        tensors = gathered(self.model, self.optimizer.optimizer)
        if self.is_main:
            facts = {"identity": self.identity(), "step": str(self.step), "seconds": str(spent)}
            write_tensors(self.state, tensors, facts)
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        """Continue where the last run of this output stopped.

        Raises:
            CheckpointError: no state there, or one of another configuration or dataset.
        """
        facts = read_state(self.state, self.model, self.optimizer.optimizer, self.identity())
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])


def _named(losses: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Losses per row, by name."""
    return {LOSS: losses} if isinstance(losses, Tensor) else dict(losses)


def one_ahead(jobs: Iterable[Callable[[], T]], threads: int) -> Iterator[T]:
    """Results of the jobs in order; while one is used, a thread works on the next, so that decoding costs no time
    where the network runs on a GPU."""
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        pending = None
        for job in jobs:
            current, pending = pending, pool.submit(job)
            if current is not None:
                yield current.result()
        if pending is not None:
            yield pending.result()
