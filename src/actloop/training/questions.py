"""Pictures of a world with questions and their true answers: recording them, and learning from them.

    questions.json         format, seed, cameras, episodes
    frames.<camera>.npy    uint8 (frames, height, width, 3)
    frames.jsonl           per frame: episode, instruction, next step, next subtask, questions

A world that can be questioned is run by its expert, shaken and disturbed, and now and then put in order at random.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from actloop.contracts import Action, Demonstrator, Disturbable, Frame, Observation, Task, World
from actloop.errors import ContractError, DataError
from actloop.models.backbone import Example, Tokens
from actloop.training.demonstrate import Burst, noise_scale

FORMAT = "actloop.questions.1"
MANIFEST, FRAMES = "questions.json", "frames.jsonl"
REARRANGED = 0.4  # share of the frames that show a random arrangement, where the task's layout has them
SETTLE_TICKS, TAIL_TICKS = 4, 6  # before a rearranged picture is taken; after a task has succeeded
KEPT, KEPT_AFTER = 0.35, 0.7  # share of an episode's pictures, before and after success
NOISY, DISTURBED = 0.5, 0.4  # shares of the episodes
HELD_OUT = 12  # every so many-th episode is for validation
COMMON = 100  # answers given at least so often are drawn equally often
WEIGHTS = {
    "scene": 6.0,
    "distance": 6.0,
}  # kinds are drawn equally often but for these: a long answer teaches more of a picture
PER_KIND = 120  # validation questions of a kind


@runtime_checkable
class Questionable(Protocol):
    """A world that can be asked about its true state."""

    def questions(self, *, seed: int) -> Sequence["Asked"]: ...

    def next_step(self) -> str: ...

    def next_subtask(self) -> str: ...


@runtime_checkable
class Rearrangeable(Protocol):
    """A world that can be put in a random state that no task starts from."""

    def rearrange(self, *, seed: int) -> Action:
        """Returns the command under which things settle."""
        ...


@runtime_checkable
class Asked(Protocol):
    """A question with its answer; accuracy is reported by kind, and a topic is the same however it is asked."""

    @property
    def kind(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def answer(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQuestion:
    """One question of a store, about the pictures of one of its frames."""

    frame: int
    kind: str
    topic: str
    question: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameNote:
    """What is true of a frame besides its questions. `step` is what the expert does there, in words."""

    episode: int
    instruction: str
    step: str
    subtask: str


def record_questions(
    world: World,
    folder: str | Path,
    *,
    frames: int,
    seed: int = 0,
    tasks: Sequence[Task] = (),
    progress: Callable[[int, int], None] | None = None,
) -> "QuestionStore":
    """Record that many frames; tasks take turns. The same arguments write the same files.

    Args:
        world: with an expert, that can be questioned.
        folder: must not hold a store yet.
        frames: pictures of every camera.
        seed: everything random follows from it.
        tasks: all of the world's where none are given.
        progress: told frames done and frames in all.

    Raises:
        ContractError: the world cannot be questioned or has no expert, or `frames` is below 1.
        DataError: the folder holds a store already.
    """
    if not isinstance(world, Questionable) or not isinstance(world, Demonstrator):
        raise ContractError(world.embodiment.name, "has no questions, or no expert: it cannot be recorded from")
    if frames < 1:
        raise ContractError("frames", f"expected 1 or more, got {frames}")
    folder = Path(folder)
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder}: holds questions already; name another folder, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    cameras = {camera.name: (frames, camera.height, camera.width, 3) for camera in world.embodiment.cameras}
    arrays = {
        name: np.lib.format.open_memmap(_array(folder, name), "w+", np.uint8, shape) for name, shape in cameras.items()
    }
    at = 0
    with (folder / FRAMES).open("w", encoding="utf-8") as file:
        for episode, seen, asked, note in _seen(world, list(tasks) or list(world.tasks.values()), seed):
            if at == frames:
                break
            for name, array in arrays.items():
                array[at] = seen.images[name]
            plain = [[one.kind, one.topic, one.question, one.answer] for one in asked]
            file.write(json.dumps({"episode": episode, **note, "questions": plain}) + "\n")
            at += 1
            if progress is not None:
                progress(at, frames)
    for array in arrays.values():
        array.flush()
    manifest = {"format": FORMAT, "frames": frames, "seed": seed, "cameras": list(cameras)}
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    return QuestionStore(folder)


def _seen(
    world: World, tasks: Sequence[Task], seed: int
) -> Iterator[tuple[int, Observation, Sequence[Asked], dict[str, str]]]:
    """Frames without end: episode, what is seen, what may be asked about it, and notes."""
    assert isinstance(world, Questionable)
    frames = rearranged = episode = demonstrated = 0
    arrangeable = list(tasks) if isinstance(world, Rearrangeable) else []
    while True:
        rng = np.random.default_rng([seed, episode])
        order = arrangeable and rearranged < REARRANGED * frames
        task = arrangeable[int(rng.integers(len(arrangeable)))] if order else tasks[demonstrated % len(tasks)]
        states = _arranged(world, task, rng) if order else _demonstrated(world, task, rng)
        if states is None:
            arrangeable.remove(task)
            continue
        for obs in states:
            note = {"instruction": task.instruction, "step": world.next_step(), "subtask": world.next_subtask()}
            yield episode, obs, world.questions(seed=int(rng.integers(2**31))), note
            frames += 1
            rearranged += bool(order)
        demonstrated += not order
        episode += 1


def _arranged(world: World, task: Task, rng: np.random.Generator) -> Iterator[Observation] | None:
    """One random arrangement; None where this task's layout has none."""
    assert isinstance(world, Rearrangeable)
    world.reset(task, seed=int(rng.integers(2**31)))
    try:
        command = world.rearrange(seed=int(rng.integers(2**31)))
    except ContractError:  # of another layout
        return None
    for _ in range(SETTLE_TICKS):
        world.apply(command)
    return iter([world.observe()])


def _demonstrated(world: World, task: Task, rng: np.random.Generator) -> Iterator[Observation]:
    """Some of the pictures of an episode of the expert, shaken and disturbed, up to some ticks after its end."""
    assert isinstance(world, Demonstrator)
    body = world.embodiment
    burst = Burst(scale=noise_scale(body) * (rng.random() < NOISY), rng=rng)
    world.reset(task, seed=int(rng.integers(2**31)))
    due = int(rng.integers(3, 25)) if rng.random() < DISTURBED else -1
    tick, tail = 0, TAIL_TICKS
    while tail:
        outcome = world.outcome()
        tail -= outcome is not None
        if rng.random() < (KEPT if outcome is None else KEPT_AFTER):
            yield world.observe()
        if tick == due and outcome is None:
            _disturb(world, rng)
        noise = burst() if outcome is None else 0.0
        world.apply(body.action.clip(world.demonstrate() + noise))
        tick += 1


def _disturb(world: World, rng: np.random.Generator) -> None:
    if isinstance(world, Disturbable):
        for name in rng.permutation(world.disturbances):
            try:
                world.disturb(str(name), seed=int(rng.integers(2**31)))
            except ContractError:  # nothing was changed: it does not fit the moment
                continue
            return


class QuestionStore:
    """What `record_questions` wrote, its pictures mapped."""

    def __init__(self, folder: str | Path) -> None:
        """Read the questions and map the pictures.

        Raises:
            DataError: no such store, or files are missing or damaged.
        """
        self.folder = folder = Path(folder)
        try:
            raw = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if raw["format"] != FORMAT:
                raise DataError(f"{folder}: is {raw['format']!r}, expected {FORMAT!r}; record it again")
            self.cameras: tuple[str, ...] = tuple(raw["cameras"])
            self.source = f"questions of {raw['frames']} frames, seed {raw['seed']}"
            with (folder / FRAMES).open(encoding="utf-8") as file:
                lines = [json.loads(line) for line in file]
            self._frames = {name: np.load(_array(folder, name), mmap_mode="r") for name in self.cameras}
            self.notes = [_note(line) for line in lines]
            self.questions = [
                StoredQuestion(frame=frame, kind=kind, topic=topic, question=question, answer=answer)
                for frame, line in enumerate(lines)
                for kind, topic, question, answer in line["questions"]
            ]
        except (OSError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {error}"
            made = "`actloop train tabletop-vlm` records one"
            raise DataError(f"{folder}: not a store of questions ({reason}); {made}") from error
        for name, frames in self._frames.items():
            if len(frames) != len(lines):
                raise DataError(f"{folder}: {len(frames)} pictures of {name}, {len(lines)} lines in {FRAMES}")

    def images(self, frame: int) -> tuple[Frame, ...]:
        """What every camera saw, by the cameras' names in order."""
        return tuple(np.array(self._frames[name][frame]) for name in sorted(self.cameras))

    def is_held_out(self, frame: int) -> bool:
        """Whether its episode is for validation."""
        return self.notes[frame].episode % HELD_OUT == 0

    def held_out(self, per_kind: int = PER_KIND) -> list[StoredQuestion]:
        """Validation questions, at most so many of a kind; the answers of a kind take turns, as far as there are."""
        rng = np.random.default_rng(1)
        pools: dict[str, dict[str, list[StoredQuestion]]] = {}
        for question in self.questions:
            if self.is_held_out(question.frame):
                pools.setdefault(question.kind, {}).setdefault(question.answer, []).append(question)
        chosen: list[StoredQuestion] = []
        for _, answers in sorted(pools.items()):
            shuffled = [[pool[int(at)] for at in rng.permutation(len(pool))] for _, pool in sorted(answers.items())]
            ranked = sorted((rank, place) for place, pool in enumerate(shuffled) for rank in range(len(pool)))
            chosen += [shuffled[place][rank] for rank, place in ranked[:per_kind]]
        return chosen

    def texts(self) -> Iterator[str]:
        """Everything that is said in it: what a tokenizer is trained on."""
        for question in self.questions:
            yield question.question
            yield question.answer
        for note in self.notes:
            yield from (note.instruction, note.step, note.subtask)


class QuestionExamples:
    """An `ExampleSource` over a store: kinds are drawn equally often, and so are the answers of a kind.

    Args:
        store: of which every 12th episode is held out.
        tokens: of the model that learns.
        kinds: those that are asked; all where none are given.
        per_picture: questions drawn about one frame. Of them the first is drawn as said, the others among those of the
            frame, kinds by the same weights. A model may read their pictures once (see `LanguageBatch`).
    """

    def __init__(
        self, store: QuestionStore, tokens: Tokens, *, kinds: Sequence[str] = (), per_picture: int = 1
    ) -> None:
        if per_picture < 1:
            raise ContractError("per_picture", f"expected 1 or more questions, got {per_picture}")
        self._store, self._tokens, self._per_picture = store, tokens, per_picture
        asked = [one for one in store.questions if not kinds or one.kind in kinds]
        pools: dict[str, dict[str, list[StoredQuestion]]] = {}
        for question in asked:
            if not store.is_held_out(question.frame):
                pools.setdefault(question.kind, {}).setdefault(question.answer, []).append(question)
        if not pools:
            raise DataError(f"{store.folder}: has no questions to train on (of {', '.join(kinds) or 'any kind'})")
        self.kinds = tuple(sorted(pools))
        self._pools = [[pools[kind][answer] for answer in sorted(pools[kind])] for kind in self.kinds]
        self._shares = [_shares([len(pool) for pool in answers]) for answers in self._pools]
        weights = np.array([WEIGHTS.get(kind, 1.0) for kind in self.kinds])
        self._kind_shares = weights / weights.sum()
        self.source = f"{store.source}: {', '.join(self.kinds)}"
        if per_picture > 1:
            self.source += f"; {per_picture} of a frame"
        self._of_frame: dict[int, list[StoredQuestion]] = {}
        for one in asked:
            self._of_frame.setdefault(one.frame, []).append(one)

    def draw(self, rng: np.random.Generator, count: int) -> list[Example]:
        """That many; of the last frame as many as are left, of one with few questions all."""
        chosen: list[Example] = []
        kinds = iter(rng.choice(len(self._pools), size=count, p=self._kind_shares))
        while len(chosen) < count:
            kind = next(kinds)
            pool = self._pools[kind][int(rng.choice(len(self._pools[kind]), p=self._shares[kind]))]
            first = pool[int(rng.integers(len(pool)))]
            others = [] if self._per_picture == 1 else self._others(first, rng)
            images = self._store.images(first.frame)
            chosen += [self._example(one, images) for one in [first, *others]]
        return chosen[:count]

    def _others(self, first: StoredQuestion, rng: np.random.Generator) -> list[StoredQuestion]:
        """More questions about the same frame, none twice."""
        rest = [one for one in self._of_frame[first.frame] if one is not first]
        same = Counter(one.kind for one in rest)
        shares = np.array([WEIGHTS.get(one.kind, 1.0) / same[one.kind] for one in rest])
        count = min(len(rest), self._per_picture - 1)
        return (
            [rest[at] for at in rng.choice(len(rest), size=count, replace=False, p=shares / shares.sum())]
            if count
            else []
        )

    def validation(self) -> list[Example]:
        return [self.example(question) for question in self._store.held_out() if question.kind in self.kinds]

    def example(self, question: StoredQuestion) -> Example:
        """The question as a model learns it."""
        return self._example(question, self._store.images(question.frame))

    def _example(self, question: StoredQuestion, images: tuple[Frame, ...]) -> Example:
        answer = tuple(self._tokens.encode(question.answer))
        return Example(images=images, prompt=question.question, answer=answer)


def _shares(counts: Sequence[int]) -> np.ndarray:
    capped = np.minimum(np.array(counts, dtype=np.float64), COMMON)
    shares: np.ndarray = capped / capped.sum()
    return shares


def _note(line: dict[str, Any]) -> FrameNote:
    names = ("episode", "instruction", "step", "subtask")
    return FrameNote(**{name: line[name] for name in names})


def _array(folder: Path, camera: str) -> Path:
    return folder / f"frames.{camera}.npy"
