"""Our tiny vision-language model, trained from nothing on questions about a world.

    QuestionStore --its words--> tokens --> PrismaticVLM, small --learn_to_see--> towers --train_language--> one file

The vocabulary ends with 256 ids that no text uses: policies that act through the model write actions with them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from actloop.errors import CheckpointError, ContractError
from actloop.models.prismatic.config import PrismaticConfig
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.prismatic.tokens import train_tokens
from actloop.models.tensors import fill, read_tensors, write_tensors
from actloop.models.vlm import VLM, save_vlm
from actloop.training.answers import Accuracy, answer_accuracy
from actloop.training.config import TrainResult
from actloop.training.language import train_language
from actloop.training.loop import Progress
from actloop.training.questions import QuestionExamples, QuestionStore
from actloop.training.recipe import Recipe
from actloop.training.seeing import learn_to_see

INTEGERS = tuple(f" {number}" for number in range(256)) * 100  # often enough for each to become a token of its own
VOCABULARY, RESERVED = 1024, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TinySizes:
    """Of our own network, see `PrismaticConfig.tiny`; 16 patches and 16 keypoints for each picture of 64 px."""

    patch: int = 16
    channels: int = 32
    keypoints: int = 16
    vision_dim: int = 96
    vision_depth: int = 2
    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class VLMRecipe(Recipe):
    """How the tiny model is trained: `seeing` steps of the towers alone (see seeing.py), then `steps` of the rest.

    With `seeing` 0 the towers are trained with the rest. `batch_size` counts questions, of which `per_picture` are
    about the same frame, which is read once for all of them.
    """

    sizes: TinySizes = field(default_factory=TinySizes)
    steps: int = 2000
    batch_size: int = 192
    per_picture: int = 6
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.02
    seeing: int = 1200
    seeing_batch: int = 64
    seeing_rate: float = 1.5e-3

    def __post_init__(self) -> None:
        Recipe.__post_init__(self)
        if self.seeing < 0 or self.seeing_batch < 1:
            raise ContractError("seeing", f"expected 0 or more steps of 1 or more, got {self.seeing}")

    @property
    def eye(self) -> Recipe:
        """That of the towers alone."""
        return Recipe(
            steps=self.seeing,
            batch_size=self.seeing_batch,
            learning_rate=self.seeing_rate,
            weight_decay=self.weight_decay,
            validate_every=self.validate_every,
            precision=self.precision,
            seed=self.seed,
            threads=self.threads,
        )


def fresh(store: QuestionStore, sizes: TinySizes) -> PrismaticVLM:
    """An untrained model with the store's words.

    Raises:
        ContractError: the store's pictures are not square, or of several sizes.
    """
    shapes = {image.shape[:2] for image in store.images(0)}
    height, width = next(iter(shapes))
    if len(shapes) > 1 or height != width:
        raise ContractError("questions: pictures", f"expected square ones of one size, got {sorted(shapes)}")
    return tiny_network(store.texts(), sizes, image_size=height)


def tiny_network(texts: Iterable[str], sizes: TinySizes, *, image_size: int) -> PrismaticVLM:
    """An untrained model for square pictures of `image_size` pixels, with a vocabulary learnt from texts."""
    tokens = train_tokens([*texts, *INTEGERS], VOCABULARY, reserved=RESERVED)
    config = PrismaticConfig.tiny(
        tokens.size,
        image_size=image_size,
        patch=sizes.patch,
        channels=sizes.channels,
        keypoints=sizes.keypoints,
        vision_dim=sizes.vision_dim,
        vision_depth=sizes.vision_depth,
        hidden=sizes.hidden,
        layers=sizes.layers,
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
    )
    return PrismaticVLM(config, tokens)


def train_vlm(
    store: QuestionStore,
    out: str | Path,
    recipe: VLMRecipe,
    *,
    name: str,
    init: VLM[PrismaticVLM] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    done: Callable[[Mapping[str, Accuracy]], None] | None = None,
) -> TrainResult:
    """Train a model on a store's questions and write it to `out`; log and resumable state lie beside it.

    `init` is trained further, in place, through both stages, whose steps `progress` counts on. `done` is told the
    accuracy on the held-out questions, which also goes into the file.

    Raises:
        DataError: the store has no questions.
        CheckpointError: `resume` without a state, or with one of another run.
        MissingDependency: accelerate, transformers or tokenizers is not installed.
    """
    out = Path(out)
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    model = fresh(store, recipe.sizes) if init is None else init.backbone
    pictures = len(store.cameras)
    if recipe.seeing:
        seen = _seen(model, store, recipe, out, resume=resume, progress=progress)
        resume = resume and seen and out.with_suffix(".state").is_file()
        model.vision_backbone.requires_grad_(False)

    def save(tensors: Mapping[str, Tensor], facts: dict[str, object]) -> None:
        trained = PrismaticVLM(model.config, model.tokens)
        fill(trained, tensors, "trained", dtype=torch.float32)
        accuracy = answer_accuracy(trained.eval(), store, store.held_out())
        facts["accuracy"] = {kind: round(one.exact, 4) for kind, one in accuracy.items()}
        save_vlm(VLM(trained, pictures=pictures, name=name, training=facts), out, half=True)
        if done is not None:
            done(accuracy)

    def read(step: int, losses: dict[str, float]) -> None:
        if progress is not None:
            progress(recipe.seeing + step, losses)

    examples = QuestionExamples(store, model.tokens, per_picture=recipe.per_picture)
    result = train_language(model, examples, recipe, out, save=save, resume=resume, progress=read)
    model.vision_backbone.requires_grad_(True)
    _seen_file(out).unlink(missing_ok=True)
    return result


def _seen(
    model: PrismaticVLM, store: QuestionStore, recipe: VLMRecipe, out: Path, *, resume: bool, progress: Progress | None
) -> bool:
    """Let the towers learn to see, or take those of a run that was cut later; whether that was so."""
    file = _seen_file(out)
    if resume and file.is_file():
        fill(model, read_tensors(file), file)
        return True
    going_on = resume and file.with_suffix(".state").is_file()
    if resume and not going_on:
        raise CheckpointError(f"{out.with_suffix('.state')}: nothing to resume; start without --resume")
    learn_to_see(model, store, recipe.eye, file, resume=going_on, progress=progress)
    write_tensors(file, model.state_dict(), {})
    return False


def _seen_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}.seen.safetensors")
