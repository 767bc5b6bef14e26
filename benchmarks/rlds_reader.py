"""How fast is an RLDS split read, with and without its checksums?

    python benchmarks/rlds_reader.py FOLDER

Five depths, each over every episode: `bytes` reads the records, `vectors` takes action and state from them, `standard`
brings them into the common form, `images` decodes every picture of one camera, and `one frame` reads single pictures
at random, each with its record. Best of several rounds of one process, per CPU second, which a busy machine does not
stretch; on a quiet one it is the wall clock. MB are of records, whatever part of them is decoded.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from actloop.data.rlds.dataset import RldsDataset
from actloop.data.rlds.frames import RldsFrames
from actloop.data.rlds.recipes import chosen
from actloop.data.rlds.standardise import standardise

ROUNDS, SINGLE = 7, 200


def depths(dataset: RldsDataset) -> Iterator[tuple[str, Callable[[], None], int, str]]:
    """Name, work, how many of it, and of what."""
    recipe, episodes = chosen(dataset), range(len(dataset))
    camera = next(iter(recipe.cameras))
    frames = RldsFrames(dataset, recipe)
    random = np.random.default_rng(0).integers(len(frames.actions), size=SINGLE)

    def read() -> None:
        for shard in dataset.shards:
            for number in range(len(shard)):
                shard.read(number, verify=dataset.verify)

    def vectors() -> None:
        for index in episodes:
            episode = dataset[index]
            episode.array("action"), episode.array("observation/state")

    def standard() -> None:
        for index in episodes:
            standardise(dataset[index], recipe)

    def images() -> None:
        for index in episodes:
            dataset[index].images(recipe.cameras[camera])

    def one_frame() -> None:
        for place in random:
            frames.images(camera, np.array([place]))

    pictures = sum(dataset[index].length for index in episodes)
    yield "bytes", read, len(dataset), "records"
    yield "vectors", vectors, len(dataset), "records"
    yield "standard", standard, len(dataset), "records"
    yield "images", images, pictures, "images"
    yield "one frame", one_frame, SINGLE, "images"


def best(work: Callable[[], None]) -> float:
    """CPU seconds of the fastest round."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="train")
    given = parser.parse_args()
    for verify in (True, False):
        dataset = RldsDataset(given.folder, given.split, verify=verify)
        print(f"{'with' if verify else 'without'} checksums: {len(dataset)} records, {dataset.bytes / 1e6:.1f} MB")
        for name, work, count, unit in depths(dataset):
            seconds = best(work)
            size = dataset.bytes if name != "one frame" else dataset.bytes / len(dataset) * count
            print(f"  {name:10} {count / seconds:10,.0f} {unit:8} /s {size / seconds / 1e6:10,.0f} MB/s")


if __name__ == "__main__":
    main()
