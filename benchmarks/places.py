"""What does it cost to run a module elsewhere? `python benchmarks/places.py [--questions N]`

The time from asking to the answer, for a module that answers at once: the overhead of each place. `submit` is the
part of it that the tick pays; the rest passes beside it. The server of `remote` runs in a process of its own, on this
machine, so its network is a loopback.
"""

import argparse
import gc
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import numpy as np

from actloop.contracts import ActionChunk, Observation, Prediction
from actloop.loop.places import Here, InThread
from actloop.loop.process import InProcess
from actloop.loop.questions import Answer, Place, Question, Ticket
from actloop.serving.place import Remote
from actloop.serving.server import Server

PICTURES = {"2 x 64 x 64": (2, 64, 64), "3 x 480 x 640": (3, 480, 640)}
WARM = 20  # questions that are not counted


class AtOnce:
    """A module that answers with a chunk of 16 actions, without looking."""

    def start(self, instruction: str, *, seed: int) -> None:
        self._actions = np.zeros((16, 7), np.float32)

    def answer(self, question: Question) -> Answer:
        obs = question.observation
        chunk = ActionChunk(actions=self._actions, anchor=obs.tick, period=0.05, observed_at=obs.time)
        return Answer(prediction=Prediction(chunk=chunk))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=150, help="per place and size")
    count = parser.parse_args().questions
    mine, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    url = mine.recv()
    places: dict[str, Callable[[], Place]] = {
        "here": partial(Here, AtOnce()),
        "thread": partial(InThread, AtOnce()),
        "process": partial(InProcess, AtOnce),
        "remote": partial(Remote, url),
        "remote, JPEG 90": partial(Remote, url, jpeg_quality=90),
    }
    print("Milliseconds. On a busy machine, p10 is the nearest to what an idle one shows.\n")
    print("| images | place | round trip p10 | p50 | p99 | submit p50 | p99 |\n|---|---|---|---|---|---|---|")
    for pictures, shape in PICTURES.items():
        for name, make in places.items():
            place = make()
            spent = _measure(place, shape, count)
            place.close()
            found = [*np.quantile(spent[0], (0.1, 0.5, 0.99)), *np.quantile(spent[1], (0.5, 0.99))]
            print(f"| {pictures} | {name} | {' | '.join(f'{value:.2f}' for value in found)} |", flush=True)
    mine.send("stop")
    server.join()


def _measure(place: Place, shape: tuple[int, int, int], count: int) -> np.ndarray:
    """Milliseconds of the whole trip and of `submit`, (2, count)."""
    rng = np.random.default_rng(0)
    smooth = np.linspace(0, 200, shape[2])[:, None] + rng.normal(0, 4, (*shape, 3))
    images = {f"camera{number}": image for number, image in enumerate(smooth.clip(0, 255).astype(np.uint8))}
    state = np.zeros(7, np.float32)
    spent = np.zeros((2, WARM + count))
    place.start("measure", seed=0)
    gc.collect()
    for number in range(WARM + count):
        obs = Observation(images=images, state=state, tick=number, time=number * 0.05)
        ticket = Ticket(episode=0, plan=number, tick=number)
        question = Question(ticket=ticket, observation=obs, instruction="measure")
        begun = time.perf_counter()
        place.submit(question)
        submitted = time.perf_counter()
        (result,) = place.collect(30.0)
        spent[:, number] = time.perf_counter() - begun, submitted - begun
        if result.error is not None:
            raise result.error
        time.sleep(0.002)  # a loop does not ask again at once
    return spent[:, WARM:] * 1e3


def _serve(pipe: Connection) -> None:
    with Server(AtOnce, served={"names": ["at once"]}, port=0) as server:
        pipe.send(server.url)
        pipe.recv()


if __name__ == "__main__":
    main()
