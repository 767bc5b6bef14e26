"""Our tiny vision-language model: it learns from questions, a cut run goes on, one file rebuilds it, answers count."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actloop.cli import vlm as commands
from actloop.contracts import Observation, VisionLanguageModel
from actloop.errors import CheckpointError, ContractError, DataError
from actloop.loop.modules import SemanticModule
from actloop.loop.questions import Question, Ticket
from actloop.models.backbone import Example, LanguageBackbone
from actloop.models.prismatic.model import PrismaticVLM
from actloop.models.tensors import write_tensors
from actloop.models.vlm import VLM, load_vlm, open_vlm, save_vlm
from actloop.simulation.tabletop import Tabletop
from actloop.training import seeing
from actloop.training.answers import accuracy_table, answer_accuracy, mean_accuracy
from actloop.training.language import LanguageBatches, train_language
from actloop.training.loop import Loop, accelerator
from actloop.training.questions import QuestionExamples, QuestionStore, StoredQuestion, record_questions
from actloop.training.recipe import Recipe
from actloop.training.vlm import RESERVED, TinySizes, VLMRecipe, fresh, train_vlm

SIZES = TinySizes(vision_dim=32, vision_depth=2, hidden=32, layers=1, heads=2, kv_heads=1)
RECIPE = VLMRecipe(sizes=SIZES, steps=6, batch_size=8, validate_every=2, learning_rate=3e-3, seeing=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> QuestionStore:
    return record_questions(Tabletop(), tmp_path_factory.mktemp("questions"), frames=30, seed=1)


@pytest.fixture
def model(store: QuestionStore) -> PrismaticVLM:
    torch.manual_seed(0)
    return fresh(store, SIZES)


class OneSource:
    """Always the same few examples."""

    source = "one"

    def __init__(self, examples: Sequence[Example]) -> None:
        self.examples = list(examples)

    def draw(self, rng: np.random.Generator, count: int) -> list[Example]:
        return [self.examples[int(at)] for at in rng.integers(max(len(self.examples), 1), size=count) if self.examples]

    def validation(self) -> list[Example]:
        return self.examples


def test_it_learns_what_it_is_shown_and_says_it(store: QuestionStore, model: PrismaticVLM, tmp_path: Path) -> None:
    questions = [("Is the drawer open?", "no"), ("How high is the gripper?", "high"), ("Where is red?", "on the table")]
    images = store.images(0)
    tokens = model.tokens
    source = OneSource(
        [Example(images=images, prompt=prompt, answer=tuple(tokens.encode(answer))) for prompt, answer in questions]
    )
    saved: list[dict[str, Tensor]] = []
    recipe = Recipe(steps=60, batch_size=6, learning_rate=1e-2, validate_every=30)
    result = train_language(
        model, source, recipe, tmp_path / "m.safetensors", save=lambda tensors, _: saved.append(dict(tensors))
    )
    assert result.losses["loss"] < 0.2
    assert saved[0].keys() == model.state_dict().keys()
    vlm = VLM(model)
    assert isinstance(vlm, VisionLanguageModel)
    assert [vlm.generate(images, prompt, max_tokens=8, seed=0) for prompt, _ in questions] == [a for _, a in questions]
    assert vlm.answers([images] * 3, [prompt for prompt, _ in questions], max_tokens=8) == [a for _, a in questions]


def test_a_cut_run_goes_on_as_if_it_had_not_been_cut(store: QuestionStore, tmp_path: Path) -> None:
    whole = train_vlm(store, tmp_path / "whole.safetensors", RECIPE, name="whole")

    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_vlm(store, tmp_path / "cut.safetensors", RECIPE, name="cut", progress=stop)
    resumed = train_vlm(store, tmp_path / "cut.safetensors", RECIPE, name="cut", resume=True)
    assert resumed.losses == whole.losses
    one, two = (load_vlm(tmp_path / f"{name}.safetensors") for name in ("whole", "cut"))
    assert one.digest() == two.digest()
    assert not (tmp_path / "cut.state").exists()
    for recipe in (RECIPE, replace(RECIPE, seeing=3)):
        with pytest.raises(CheckpointError, match="nothing to resume"):
            train_vlm(store, tmp_path / "cut.safetensors", recipe, name="cut", resume=True)


@pytest.mark.parametrize("cut_at", [2, 3, 4, 6], ids=["seeing", "seen", "begun to read", "reading"])
def test_both_stages_go_on_where_they_were_cut(
    store: QuestionStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: int
) -> None:
    monkeypatch.setattr(seeing, "LEAST", 5)
    recipe = replace(RECIPE, seeing=3, seeing_batch=8, steps=4, validate_every=9)
    whole = train_vlm(store, tmp_path / "whole.safetensors", recipe, name="m")
    calls = []

    def stop(step: int, losses: dict[str, float]) -> None:
        calls.append(step)
        if len(calls) == cut_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_vlm(store, tmp_path / "cut.safetensors", recipe, name="m", progress=stop)
    steps: list[int] = []
    resumed = train_vlm(
        store, tmp_path / "cut.safetensors", recipe, name="m", resume=True, progress=lambda step, _: steps.append(step)
    )
    assert steps[-1] == 7
    assert (steps[0] > 3) == (cut_at > 2)
    assert resumed.losses == whole.losses
    assert [file.name for file in tmp_path.glob("*.seen.safetensors")] == []


def test_a_tower_learns_to_see_and_nothing_else_changes(
    store: QuestionStore, model: PrismaticVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no question has 150 answers"):
        seeing.Topics(store)
    monkeypatch.setattr(seeing, "LEAST", 5)
    topics = seeing.Topics(store)
    question = next(one for one in store.questions if one.topic in topics.answers)
    place = list(topics.answers).index(question.topic)
    assert topics.answers[question.topic][topics.labels[question.frame, place]] == question.answer
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recipe = Recipe(steps=45, batch_size=16, learning_rate=5e-3, validate_every=10)
    running: list[float] = []
    seeing.learn_to_see(
        model, store, recipe, tmp_path / "seen", progress=lambda _, losses: running.append(losses["wrong"])
    )
    newest = [(now - 0.98 * before) / 0.02 for before, now in itertools.pairwise(running)]  # the loop tells a mean
    assert np.mean(newest[-5:]) < 0.7 * running[0]
    changed = {name.partition(".")[0] for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"vision_backbone", "projector"}


def test_a_state_of_another_source_is_refused(store: QuestionStore, model: PrismaticVLM, tmp_path: Path) -> None:
    examples = QuestionExamples(store, model.tokens)

    def stop(step: int, losses: dict[str, float]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_language(model, examples, RECIPE, tmp_path / "m.x", save=lambda *_: None, progress=stop)
    other = QuestionExamples(store, model.tokens, kinds=("where",))
    with pytest.raises(CheckpointError, match="another configuration, dataset"):
        train_language(model, other, RECIPE, tmp_path / "m.x", save=lambda *_: None, resume=True)


def test_accumulating_twice_as_often_is_a_batch_of_two_processes(store: QuestionStore, model: PrismaticVLM) -> None:
    batches = LanguageBatches(model, QuestionExamples(store, model.tokens), seed=3, batch_size=4)
    again = LanguageBatches(model, QuestionExamples(store, model.tokens), seed=3, batch_size=4)
    (one,), (two,), (other,) = batches.training(5, 1), again.training(5, 1), batches.training(5, 0)
    assert torch.equal(one.ids, two.ids)
    assert one.ids.shape != other.ids.shape or not torch.equal(one.ids, other.ids)


def test_the_loop_trains_any_module_and_refuses_what_cannot_train(model: PrismaticVLM, tmp_path: Path) -> None:
    class Line(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            squared = (self.weight * x - y) ** 2
            return {"squared": squared, "absolute": squared.detach().sqrt()}

    class Points:
        source, held_out = "points", 2

        def place(self, device: torch.device) -> None:
            self.device = device

        def training(self, step: int, micro: int) -> tuple[Tensor, Tensor]:
            x = torch.randn(16, generator=torch.Generator().manual_seed(100 * step + micro))
            return x, 3 * x

        def validation(self, number: int) -> tuple[Tensor, Tensor]:
            x = torch.ones(4 - 2 * number)  # of different sizes: each row counts once
            return x, (3 + number) * x

    line, recipe = Line(), Recipe(steps=150, learning_rate=0.1, weight_decay=0.0, accumulation=2, validate_every=150)
    loop = Loop(line, Points(), recipe, tmp_path / "line", accelerator(recipe), objective="squared")
    losses = loop.run(None)
    assert line.weight.item() == pytest.approx(3.0, abs=0.02)
    assert losses["squared"] == pytest.approx(2 / 6, abs=0.02), "two of six rows are off by one"
    with pytest.raises(ContractError, match="nothing would train"):
        train_language(model.requires_grad_(False), OneSource([]), recipe, tmp_path / "none", save=lambda *_: None)
    with pytest.raises(ContractError, match=r"torch\.nn\.Module"):
        train_language(Fake([]), OneSource([]), recipe, tmp_path / "none", save=lambda *_: None)
    with pytest.raises(DataError, match="no examples"):
        LanguageBatches(model, OneSource([]), seed=0, batch_size=2).training(0, 0)


def test_one_file_rebuilds_the_model(store: QuestionStore, model: PrismaticVLM, tmp_path: Path) -> None:
    first = VLM(model, pictures=2, name="mine", training={"steps": 7})
    save_vlm(first, tmp_path / "m.safetensors")
    read = load_vlm(tmp_path / "m.safetensors")
    assert (read.name, read.pictures, read.training) == ("mine", 2, {"steps": 7})
    assert read.digest() == first.digest()
    assert isinstance(read.backbone, LanguageBackbone)
    prompt = "Describe the scene."
    assert read.generate(store.images(0), prompt, max_tokens=9, seed=0) == first.generate(
        store.images(0), prompt, max_tokens=9, seed=1
    )
    assert isinstance(open_vlm(tmp_path / "m.safetensors"), VLM)
    save_vlm(first, tmp_path / "half.safetensors", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "m.safetensors").stat().st_size
    assert load_vlm(tmp_path / "half.safetensors").backbone.dtype == torch.float32


def test_reserved_ids_are_never_text(store: QuestionStore, model: PrismaticVLM) -> None:
    tokens = model.tokens
    reserved = range(tokens.size - RESERVED, tokens.size)
    used = {at for text in store.texts() for at in tokens.encode(text)}
    assert not used & set(reserved)
    for number in (0, 7, 128, 255):
        assert tokens.decode(tokens.encode(f" {number}")).strip() == str(number)


def test_wrong_files_and_pictures_are_refused(store: QuestionStore, model: PrismaticVLM, tmp_path: Path) -> None:
    vlm = VLM(model, pictures=2, name="mine")
    with pytest.raises(ContractError, match="mine: pictures: expected 2, as it was trained, got 1"):
        vlm.generate(store.images(0)[:1], "Where?", max_tokens=3, seed=0)
    with pytest.raises(CheckpointError, match="no such file"):
        load_vlm(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(CheckpointError, match="not a readable"):
        load_vlm(tmp_path / "text.safetensors")
    write_tensors(tmp_path / "other.safetensors", {"a": torch.zeros(1)}, {"actloop": '{"format": "actloop.policy.2"}'})
    with pytest.raises(CheckpointError, match=r"expected format 'actloop\.vlm\.1'"):
        load_vlm(tmp_path / "other.safetensors")
    write_tensors(tmp_path / "bare.safetensors", {"a": torch.zeros(1)}, {"actloop": '{"format": "actloop.vlm.1"}'})
    with pytest.raises(CheckpointError, match="damaged header"):
        load_vlm(tmp_path / "bare.safetensors")


class Fake:
    """Says what it is told, in order; tokens are bytes."""

    device = torch.device("cpu")

    def __init__(self, says: Sequence[str]) -> None:
        self.says = list(says)
        self.tokens = SimpleNamespace(
            size=256, end=0, special=frozenset({0}), encode=lambda text: list(text.encode()), decode=_text
        )

    def collate(self, examples: Sequence[Example]) -> object:
        raise NotImplementedError

    def forward(self, batch: object) -> Tensor:
        raise NotImplementedError

    def answer(self, images: Sequence[object], prompts: Sequence[str], **_: object) -> list[list[int]]:
        return [list(self.says.pop(0).encode()) for _ in prompts]


def _text(ids: Sequence[int]) -> str:
    return bytes(ids).decode()


def test_accuracy_is_by_kind_beside_the_commonest_answer(store: QuestionStore) -> None:
    right = [("drawer", "yes"), ("drawer", "yes"), ("drawer", "no"), ("order", "red")]
    questions = [StoredQuestion(frame=0, kind=kind, topic="?", question="?", answer=answer) for kind, answer in right]
    found = answer_accuracy(Fake(["yes", "yeah", "yes", "red"]), store, questions)
    assert (found["drawer"].count, found["drawer"].exact, found["drawer"].majority) == (
        3,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    )
    assert found["drawer"].tokens == pytest.approx((3 + 2 + 0) / 8)
    assert found["order"].exact == 1.0
    assert mean_accuracy(found).exact == pytest.approx(2 / 3)
    assert accuracy_table(found).splitlines()[2] == "| drawer | 3 | 33.3% | 62.5% | 66.7% |"


def test_the_semantic_layer_asks_it(store: QuestionStore, model: PrismaticVLM) -> None:
    world = Tabletop()
    obs = world.reset(world.tasks["drawer-red"], seed=0)
    images = [obs.images[name] for name in sorted(obs.images)]
    asked = SemanticModule(VLM(model, pictures=2), known=[task.instruction for task in world.tasks.values()])
    asked.start("open the drawer and put the red block in it", seed=0)
    answer = asked.answer(_question(obs))
    assert answer.text == "", "an untrained model says nothing that a policy knows, and is not followed"
    assert answer.done is False or answer.done is None
    assert len(images) == 2


def _question(obs: Observation) -> Question:
    return Question(ticket=Ticket(episode=0, plan=0, tick=obs.tick), observation=obs, instruction="x")


def test_the_command_asks_about_pictures_on_disk(store: QuestionStore, model: PrismaticVLM, tmp_path: Path) -> None:
    from PIL import Image

    paths = []
    for number, image in enumerate(store.images(0)):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    save_vlm(VLM(model, pictures=2), tmp_path / "m.safetensors")
    said = commands.ask(tmp_path / "m.safetensors", paths, "Is the drawer open?", max_tokens=4)
    assert said == VLM(model).generate(store.images(0), "Is the drawer open?", max_tokens=4, seed=0)
    (tmp_path / "no.png").write_text("no")
    with pytest.raises(DataError, match="not a picture"):
        commands.ask(tmp_path / "m.safetensors", [tmp_path / "no.png"], "?")


def test_questions_are_recorded_once_and_what_was_trained_says_how_well(tmp_path: Path) -> None:
    store = commands.stored(tmp_path / "data", world="tabletop", frames=20, seed=4)
    again = commands.stored(tmp_path / "data", world="tabletop", frames=999, seed=9)
    assert again.questions == store.questions
    tables: list[str] = []
    result = train_vlm(
        store,
        tmp_path / "m.safetensors",
        replace(RECIPE, steps=2),
        name="m",
        done=lambda found: tables.append(accuracy_table(found)),
    )
    vlm = load_vlm(result.checkpoint)
    assert (vlm.name, vlm.pictures, vlm.training["steps"]) == ("m", 2, 2)
    kinds = [line.split("|")[1].strip() for line in tables[0].splitlines()[2:]]
    assert [*vlm.training["accuracy"], "mean of kinds"] == kinds  # type: ignore[misc]
