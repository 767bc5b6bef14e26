"""Modules for the tests of places; a started process imports them from here."""

import os
import signal
import sys
import time
import types
from collections.abc import Mapping

import numpy as np

from actloop.contracts import ActionChunk, Future, Observation, Prediction
from actloop.loop.questions import Answer, Place, Question, Result, Ticket
from actloop.simulation.exact import draw_tick, read_tick


class Saying:
    """Answers with text and a chunk that tell what it was shown; the instruction of a question says how to behave.

    `sleep S`, `hang`, `raise`, `odd` (an error that cannot be rebuilt), `unpicklable`, `die`, `exit`, `threads`,
    `keep` (the images of all questions so far, read again).
    """

    def __init__(self) -> None:
        self.episode = ""
        self.kept: list[Observation] = []

    def start(self, instruction: str, *, seed: int) -> None:
        if instruction == "refuse":
            raise ValueError("this instruction is refused")
        self.episode = f"{instruction}/{seed}"
        self.kept = []

    def answer(self, question: Question) -> Answer:
        word, _, rest = question.instruction.partition(" ")
        if word == "sleep":
            time.sleep(float(rest))
        elif word == "hang":
            time.sleep(3600)
        elif word == "raise":
            raise ValueError("no such thing")
        elif word == "odd":
            raise OddError("one", "two")
        elif word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "exit":
            sys.exit(3)
        elif word == "unpicklable":
            return Answer(values=lambda: None)
        elif word == "threads":
            return Answer(text=f"{os.environ.get('OMP_NUM_THREADS')} {sys.modules['torch'].threads}")
        obs = question.observation
        self.kept.append(obs)
        seen = [sorted({read_tick(image) for image in kept.images.values()}) for kept in self.kept]
        text = f"{self.episode} {seen if word == 'keep' else seen[-1]}"
        chunk = ActionChunk(actions=np.full((4, 2), obs.tick, np.float32), anchor=obs.tick, period=0.1, observed_at=0.0)
        frames = {name: np.repeat(image[None], 3, axis=0) for name, image in obs.images.items()}
        future = Future(frames=Undecoded(frames), chunk=chunk, period=0.1)
        return Answer(prediction=Prediction(chunk=chunk, future=future), text=text)


class OddError(Exception):
    """Pickles well, and cannot be unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


class Undecoded(Mapping):
    """Frames that are not a dict until somebody looks."""

    def __init__(self, frames: dict) -> None:
        self._frames = frames

    def __getitem__(self, name: str) -> np.ndarray:
        return self._frames[name]

    def __iter__(self):
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)

    def __reduce__(self):
        raise TypeError("frames that nobody decoded were sent")


def saying() -> Saying:
    return Saying()


def cyclic() -> Saying:
    """A module that refers to itself, as those with networks do: only the garbage collector ends it."""
    made = Saying()
    made.itself = made
    return made


def threaded() -> Saying:
    """A module that has imported something called torch."""
    torch = types.ModuleType("torch")
    torch.threads = 0
    torch.set_num_threads = lambda count: setattr(torch, "threads", count)
    sys.modules["torch"] = torch
    return Saying()


def failing() -> Saying:
    raise OSError("no weights at that path")


def sleeping() -> Saying:
    time.sleep(60)
    return Saying()


def exiting() -> Saying:
    sys.exit(7)


class Unimportable:
    """Pickles as the name of a function that no module has."""

    def __call__(self) -> Saying:
        return Saying()

    def __reduce__(self):
        return eval, ("__import__('no_such_module').factory",)


def ask(
    tick: int, instruction: str = "go", *, episode: int = 0, imagine: bool = False, size: int = 64, **more
) -> Question:
    """A question whose two images show the number of its tick."""
    obs = Observation(
        images={"left": draw_tick(tick, size), "right": draw_tick(tick, size)},
        state=np.array([tick, 0.5], np.float32),
        tick=tick,
        time=tick * 0.1,
    )
    ticket = Ticket(episode=episode, plan=tick, tick=tick, layer=more.pop("layer", "action"))
    return Question(ticket=ticket, observation=obs, instruction=instruction, imagine=imagine, **more)


def only(results) -> Result:
    """The only result, which has to be one without an error."""
    (result,) = results
    if result.error is not None:
        raise result.error
    return result


def gather(place: Place, count: int, seconds: float = 20.0) -> list[Result]:
    """The next `count` results, in order."""
    found: list[Result] = []
    end = time.monotonic() + seconds
    while len(found) < count:
        assert time.monotonic() < end, f"{len(found)} of {count} results came"
        found += place.collect(1.0)
    assert len(found) == count
    return found
