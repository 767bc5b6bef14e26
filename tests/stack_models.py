"""Models for the tests of stack files; the places of a stack import them from here, in other processes too."""

import os
import signal
import threading
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fake_robot import FakeArm

from actloop.contracts import ActionChunk, Committed, Embodiment, Frame, Future, Observation, Prediction, World
from actloop.loop.events import Event
from actloop.simulation.exact import FIELD, GRID, MAX_STEP, ExactWorld
from actloop.simulation.robot import robot_from_toml
from actloop.testing.fakes import CountingPolicy

SIZE = 128
HORIZON = 8
ARMS: list[FakeArm] = []  # every one that was made
SPOKEN = (
    "<pad> <s> </s> <unk> <image> <fake_token_around_image> <global-img> <end_of_utterance> user assistant yes no the "
    "task is it done ? pick up red cube : . , what should robot do next or answer"
)
WORDS = SPOKEN.split()
ROBOT = """
[world]
name = "robot"
task = "tidy"
robot = "stack_models:arm"
body = "arm"
control_hz = 20
cameras = ["front"]
[[world.parts]]
name = "joints"
features = ["shoulder_pan.pos", "shoulder_lift.pos", "elbow_flex.pos", "wrist_flex.pos", "wrist_roll.pos"]
unit = "deg"
low = -100
high = 100
[[world.parts]]
name = "gripper"
features = ["gripper.pos"]
unit = "%"
low = 0
high = 100
[[world.tasks]]
name = "tidy"
instruction = "put the cup on the shelf"
time_limit = 20
[loop]
execute_horizon = 4
[action]
model = "stack_models:waving"
place = "thread"
"""

SEEN = "STACK_MODELS_SEEN"  # a file that a model writes what it does to, where this is set


class Reaching:
    """Sees the goal in the picture of an `ExactWorld` and plans straight to it; samples stray by seed."""

    def __init__(self, *, horizon: int = HORIZON, seconds: float = 0.0, fails_from: int | None = None) -> None:
        self._embodiment = ExactWorld(image_size=SIZE).embodiment
        self._horizon, self._seconds, self._fails_from = horizon, seconds, fails_from
        self._calls = 0

    @property
    def embodiment(self) -> Embodiment:
        return self._embodiment

    @property
    def horizon(self) -> int:
        return self._horizon

    def start(self, instruction: str, *, seed: int) -> tuple[int, int]:
        return seed, 0

    def predict(
        self, session: tuple[int, int], obs: Observation, *, committed: Committed | None = None, imagine: bool = False
    ) -> tuple[tuple[int, int], Prediction]:
        self._calls += 1
        if self._fails_from is not None and self._calls > self._fails_from:
            raise ConnectionError("the model is gone")
        time.sleep(self._seconds)
        (chunk,) = self.sample(session, obs, count=1)[1]
        future = self.imagine(session, obs, chunk) if imagine else None
        return (session[0], session[1] + 1), Prediction(chunk=chunk, future=future)

    def sample(
        self, session: tuple[int, int], obs: Observation, *, count: int, committed: Committed | None = None
    ) -> tuple[tuple[int, int], Sequence[ActionChunk]]:
        rng = np.random.default_rng(session)
        straight = self._straight(obs)
        strays = [np.zeros_like(straight), *(rng.normal(0, 0.01, straight.shape) for _ in range(count - 1))]
        chunks = [
            ActionChunk(
                actions=(straight + stray).astype(np.float32),
                anchor=obs.tick,
                period=self._embodiment.period,
                observed_at=obs.time,
            )
            for stray in strays
        ]
        return (session[0], session[1] + 1), chunks

    def imagine(self, session: object, obs: Observation, chunk: ActionChunk) -> Future:
        frames = {name: np.repeat(image[None], chunk.horizon, axis=0) for name, image in obs.images.items()}
        return Future(frames=frames, chunk=chunk, period=chunk.period, follows_chunk=True)

    def _straight(self, obs: Observation) -> np.ndarray:
        """A step towards the goal for each tick of the chunk."""
        way = goal_of(obs.images["front"]) - obs.state
        steps = np.zeros((self._horizon, 2), np.float32)
        for row in steps:
            row[:] = np.clip(way, -MAX_STEP, MAX_STEP)
            way = way - row
        return steps


def goal_of(image: Frame) -> np.ndarray:
    """Where the green square is, metres; the middle where the red one covers it."""
    cell = image.shape[0] // GRID
    green = (image[2 * cell :] == (0, 255, 0)).all(axis=2)
    if not green.any():
        return np.zeros(2)
    down, across = (indices.min() for indices in np.nonzero(green))
    return (np.array([across / (image.shape[0] - cell), down / (5 * cell)]) * 2 - 1) * FIELD


class Nearest:
    """Scores a candidate by how near it leads to the goal."""

    def __call__(self, obs: Observation, chunk: ActionChunk, future: Future | None, instruction: str) -> float:
        assert future is None or future.chunk is chunk
        return -float(np.abs(obs.state + chunk.actions.sum(axis=0) - goal_of(obs.images["front"])).max())


class Scripted:
    """A language model that answers from a list, the last answer for ever."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)

    def generate(self, images: Sequence[Frame], prompt: str, *, max_tokens: int, seed: int) -> str:
        if note := os.environ.get(SEEN):
            with Path(note).open("a", encoding="utf-8") as file:
                file.write(f"{len(images)} {prompt}\n")
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def reaching() -> Reaching:
    return Reaching()


def short() -> Reaching:
    return Reaching(horizon=4)


def slow() -> Reaching:
    return Reaching(seconds=0.6)


def failing() -> Reaching:
    return Reaching(fails_from=1)


def nearest() -> Nearest:
    return Nearest()


def talker() -> Scripted:
    return Scripted("no", "Move the red point to the green goal on the left.")


def finisher() -> Scripted:
    return Scripted("yes")


def nothing() -> str:
    return "no model"


class Interrupting(FakeArm):
    """Ctrl-C comes with the twentieth command."""

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        if len(self.commands) == 19:
            os.kill(os.getpid(), signal.SIGINT)
        return super().send_action(action)


def arm() -> FakeArm:
    ARMS.append(Interrupting())
    return ARMS[-1]


class AtTick:
    """A subscriber that does something once, in a thread of its own."""

    def __init__(self, tick: int, action: Callable[[], object]) -> None:
        self._tick, self._thread = tick, threading.Thread(target=action)

    def on_event(self, event: Event) -> None:
        if event.kind == "ticked" and event.tick == self._tick:
            self._thread.start()


def waving() -> CountingPolicy:
    """Moves the joints of `ROBOT` a little further with every tick."""
    table = {key: value for key, value in tomllib.loads(ROBOT)["world"].items() if key != "task"}
    body = robot_from_toml(table | {"robot": "fake_robot:FakeArm"}).embodiment

    def wave(obs: Observation, horizon: int) -> np.ndarray:
        return np.linspace(obs.state, obs.state + 1.0, horizon, dtype=np.float32)

    return CountingPolicy(body, horizon=8, actions=wave)


def save_judges(folder: Path, world: World) -> None:
    """A random verifier and a random value for a world."""
    import torch

    from actloop.actions.normalizers import Normalizer
    from actloop.models.judge import Judge, JudgeConfig, Judging
    from actloop.models.text import Vocabulary
    from actloop.models.value import Value, save_value
    from actloop.models.verifier import Verifier, numbers_size, save_verifier

    body, horizon = world.embodiment, 16
    words = Vocabulary.of([task.instruction for task in world.tasks.values()], max_tokens=16)

    def scaled(size: int) -> Normalizer:
        return Normalizer(method="mean_std", offset=(0.0,) * size, scale=(1.0,) * size)

    def judging(views: int, numbers: int) -> Judging:
        torch.manual_seed(0)
        sizes = {"cameras": len(body.cameras), "views": views, "numbers": numbers, "tokens": 16, "pixels": 16}
        network = Judge(JudgeConfig(words=words.size, channels=8, **sizes)).eval()
        normalizers = {name: scaled(body.state.size) for name in ("state", "strayed")}
        normalizers["path"] = scaled(body.action.size)
        return Judging(network=network, embodiment=body, vocabulary=words, normalizers=normalizers, facts={})

    save_verifier(Verifier(judging(3, numbers_size(body, horizon)), horizon=horizon), folder / "verifier.safetensors")
    save_value(Value(judging(1, body.state.size)), folder / "value.safetensors")


def save_tiny_vlm(folder: Path) -> None:
    """A random Idefics3 with a processor, as `save_pretrained` writes them; made here, nothing is downloaded."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokens = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=WORDS[4:8],
    )  # fmt: skip
    size = {"longest_edge": 32}
    images = transformers.Idefics3ImageProcessorPil(do_image_splitting=False, size=size, max_image_size=size)
    template = (
        "{% for m in messages %}{{m['role']}} : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
        "{% else %} {{c['text']}}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %} assistant :{% endif %}"
    )
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=16, chat_template=template)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Idefics3Config(
        vision_config=small | {"image_size": 32, "patch_size": 4},
        text_config=small | {"model_type": "llama", "num_key_value_heads": 2, "vocab_size": len(WORDS)},
        scale_factor=2, image_token_id=4, pad_token_id=0,
    )  # fmt: skip
    transformers.Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
