"""How fast are random 16-frame windows read from 64-pixel AV1 video? Ours, its decoded cache, and LeRobot's reader.

    python benchmarks/data_reader.py                    writes 20 episodes of 150 frames, then reads them
    python benchmarks/data_reader.py --lerobot          LeRobot 0.4.4 in the same run, see lerobot_reads_ours.py

A window is 16 past frames, 16 states and 16 actions of one camera. Every figure is the best of several rounds, in
windows per second of wall clock, with the CPU seconds per window beside it: on a busy machine the latter says more.
LeRobot 0.4.4 with torchcodec gave 174-181 without and 200 with two workers on two quiet cores.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from actloop.contracts import Camera, Embodiment, Observation, Part, Space
from actloop.data.cache import decode
from actloop.data.dataset import LeRobotDataset
from actloop.data.windows import Windows, WindowSpec
from actloop.data.writer import EpisodeWriter

SIDE, FPS = 64, 20.0
SPEC = WindowSpec(frames=tuple(range(-15, 1)), states=tuple(range(-15, 1)), actions=16)


def embodiment() -> Embodiment:
    state = Part(name="joint", unit="rad", low=(-1.0,) * 8, high=(1.0,) * 8)
    action = Part(name="joint", unit="rad/s", low=(-1.0,) * 7, high=(1.0,) * 7, kind="velocity")
    return Embodiment(
        name="benchmark",
        cameras=(Camera(name="front", height=SIDE, width=SIDE),),
        state=Space(parts=(state,)),
        action=Space(parts=(action,)),
        control_hz=FPS,
    )


def frame(episode: int, tick: int) -> np.ndarray:
    """A drawn scene: a gradient, and two squares that move."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    image = np.stack([rows * 2 + 60, columns * 2 + 40, np.full_like(rows, 90 + 10 * (episode % 8))], axis=-1)
    left, top = int(26 + 24 * np.sin(tick / 9 + episode)), int(26 + 24 * np.cos(tick / 13))
    image[top : top + 12, left : left + 12] = (220, 40, 40)
    image[SIDE - 14 : SIDE - 4, (tick * 2) % 54 : (tick * 2) % 54 + 10] = (40, 60, 220)
    return image.astype(np.uint8)


def write(path: Path, episodes: int, length: int, keyframe_every: int) -> None:
    rng = np.random.default_rng(0)
    with EpisodeWriter(path, embodiment=embodiment(), keyframe_every=keyframe_every) as writer:
        for episode in range(episodes):
            for tick in range(length):
                state = rng.normal(size=8).astype(np.float32)
                obs = Observation(images={"front": frame(episode, tick)}, state=state, tick=tick, time=tick / FPS)
                writer.add_frame(obs, rng.normal(size=7).astype(np.float32))
            writer.save_episode("follow the red square")


def batches(total: int, size: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(total, size=size) for _ in range(count)]


def best(run: Callable[[], int], rounds: int) -> dict[str, float]:
    """Windows per second and CPU milliseconds per window of the fastest round."""
    results = []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        windows = run()
        results.append((windows / (time.perf_counter() - wall), (time.process_time() - cpu) / windows * 1000))
    rate = max(result[0] for result in results)
    return {"windows_per_s": round(rate, 1), "cpu_ms_per_window": round(min(result[1] for result in results), 3)}


def read_all(windows: Windows, chosen: list[np.ndarray]) -> int:
    return sum(len(windows.batch(indices).ticks) for indices in chosen)


def read_one_by_one(windows: Windows, chosen: list[np.ndarray]) -> int:
    return sum(windows[int(index)].tick >= 0 for indices in chosen for index in indices)


def read_forked(windows: Windows, chosen: list[np.ndarray]) -> int:
    """Two forked workers that decode, after this process has decoded; the batches stay where they are read."""
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=read_all, args=(windows, chosen[part::2])) for part in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a worker ended with {worker.exitcode}")
    return sum(len(indices) for indices in chosen)


def read_threaded(windows: Windows, chosen: list[np.ndarray]) -> int:
    with ThreadPoolExecutor(2) as pool:
        return sum(len(batch.ticks) for batch in pool.map(windows.batch, chosen))


def lerobot_cases(path: Path, chosen: list[np.ndarray], rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    import torch
    from lerobot_reads_ours import open_with_lerobot
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    past = [offset / FPS for offset in range(-15, 1)]
    deltas = {"observation.images.front": past, "observation.state": past, "action": [i / FPS for i in range(16)]}
    size, order = len(chosen[0]), np.concatenate(chosen).tolist()
    for workers in (2, 0):  # once it has decoded in this process, its forked workers fail
        dataset = open_with_lerobot(path, delta_timestamps=deltas)
        loader = DataLoader(dataset, batch_size=size, sampler=order, num_workers=workers)
        yield f"LeRobot 0.4.4, {workers} workers", best(lambda: sum(len(b["index"]) for b in loader), rounds)  # noqa: B023


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--length", type=int, default=150, help="frames per episode")
    parser.add_argument("--batch", type=int, default=16, help="windows per batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lerobot", action="store_true", help="time LeRobot's reader as well")
    options = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for keyframe_every in (2, 1):
            path = Path(folder, f"keyframe-{keyframe_every}")
            write(path, options.episodes, options.length, keyframe_every)
            dataset = LeRobotDataset(path)
            windows = dataset.windows(SPEC)
            chosen = batches(len(windows), options.batch, 40)
            few = chosen[: max(1, 160 // options.batch)]
            kind = "LeRobot's setting, a keyframe every second frame" if keyframe_every == 2 else "keyframes alone"
            cases = {
                "one by one": lambda w=windows, c=chosen: read_one_by_one(w, c),
                f"batches of {options.batch}": lambda w=windows, c=chosen: read_all(w, c),
                f"batches of {options.batch}, two threads": lambda w=windows, c=chosen: read_threaded(w, c),
                f"batches of {options.batch}, two forked workers": lambda w=windows, c=chosen: read_forked(w, c),
            }
            for name, case in cases.items():
                results[f"{kind}: {name}"] = best(case, options.rounds)
            cached = decode(dataset, Path(folder, f"cache-{keyframe_every}")).windows(SPEC)
            results[f"{kind}: decoded cache"] = best(lambda w=cached, c=chosen: read_all(w, c), options.rounds)
            if options.lerobot and keyframe_every == 2:
                results |= dict(lerobot_cases(path, few, options.rounds))
    width = max(map(len, results))
    for name, result in results.items():
        print(
            f"{name:{width}}  {result['windows_per_s']:9.1f} windows/s  {result['cpu_ms_per_window']:7.3f} CPU ms each"
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
