"""Writing, reading, caching and describing datasets; what LeRobot wrote; and what goes wrong."""

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actloop.contracts import Camera, Embodiment, Observation, Part, Space
from actloop.data import layout, video
from actloop.data.cache import CachedEpisodes, decode
from actloop.data.dataset import LeRobotDataset
from actloop.data.fields import EXECUTED, FieldMap, default_fields
from actloop.data.info import describe, plot
from actloop.data.schema import Extra
from actloop.data.statistics import image_histogram, image_stats, vector_stats
from actloop.data.video import VideoFile
from actloop.data.windows import WindowSpec
from actloop.data.writer import EpisodeWriter
from actloop.errors import ContractError, DataError, UnknownNameError

HEIGHT, WIDTH, HZ = 48, 64, 10.0
LENGTHS = (7, 12, 5, 9, 1)
SAMPLES = Path(__file__).parents[2] / "shared" / "data" / "lerobot_v3_sample"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="the sample datasets that LeRobot wrote are not here")
SPEC = WindowSpec(frames=(-2, 0, 3), states=(-1, 0), actions=4)


def embodiment(name: str = "arm", cameras: tuple[str, ...] = ("front", "wrist")) -> Embodiment:
    position = Part(name="position", unit="m", low=(-1.0,) * 3, high=(1.0,) * 3, kind="delta")
    gripper = Part(name="gripper", unit="m", low=(0.0,), high=(1.0,))
    return Embodiment(
        name=name,
        cameras=tuple(Camera(name=camera, height=HEIGHT, width=WIDTH) for camera in cameras),
        state=Space(parts=(replace(position, kind="absolute"), gripper)),
        action=Space(parts=(position, gripper)),
        control_hz=HZ,
    )


def picture(episode: int, tick: int, camera: str) -> np.ndarray:
    """Smooth, so that it survives compression; the brightness of its blue says which frame it is."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    shade = 20 + 30 * episode + 8 * tick + (5 if camera == "wrist" else 0)
    return np.stack([rows * 3, columns * 2, np.full_like(rows, shade)], axis=-1).astype(np.uint8)


def vectors(episode: int, tick: int) -> tuple[np.ndarray, np.ndarray]:
    state = np.array([episode / 10, tick / 20, -0.5, 0.25], np.float32)
    return state, np.array([tick / 20, episode / 10, 0.125, tick % 2], np.float32)


def add_episodes(writer: EpisodeWriter, episodes: Any, lengths: tuple[int, ...] = LENGTHS) -> None:
    for episode in episodes:
        for tick in range(lengths[episode]):
            state, action = vectors(episode, tick)
            images = {camera.name: picture(episode, tick, camera.name) for camera in writer.embodiment.cameras}
            writer.add_frame(Observation(images=images, state=state, tick=tick, time=tick / HZ), action)
        writer.save_episode(f"do thing {episode % 2}", notes={"number": episode})


@pytest.fixture(scope="module")
def dataset_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset"
    with EpisodeWriter(path, embodiment=embodiment(), episodes_per_file=2) as writer:
        add_episodes(writer, range(len(LENGTHS)))
    return path


@pytest.fixture
def broken(dataset_path: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(dataset_path, tmp_path / "copy"))


@pytest.fixture(scope="module")
def dataset(dataset_path: Path) -> LeRobotDataset:
    return LeRobotDataset(dataset_path)


def frame_error(images: np.ndarray, episode: int, ticks: Any, camera: str) -> float:
    """Worst mean difference in blue, whose step from tick to tick is 8."""
    wanted = np.stack([picture(episode, tick, camera) for tick in ticks]).astype(int)
    return float(np.abs(images.astype(int) - wanted)[..., 2].mean(axis=(1, 2)).max())


# ---------------------------------------------------------------------------------------------- writing, reading


def test_what_was_written_is_read(dataset: LeRobotDataset) -> None:
    assert dataset.info.fps == HZ
    assert (dataset.info.episodes, dataset.info.frames) == (len(LENGTHS), sum(LENGTHS))
    assert dataset.tasks == ["do thing 0", "do thing 1"]
    assert [episode.length for episode in dataset.episodes] == list(LENGTHS)
    assert dataset.embodiment == embodiment()
    assert dataset.info.features["action"].names == ("position.0", "position.1", "position.2", "gripper")
    assert dataset.cameras == ("front", "wrist")
    assert dataset.fields == default_fields(embodiment())
    assert [notes["number"] for notes in dataset.notes] == list(range(len(LENGTHS)))
    for index, length in enumerate(LENGTHS):
        episode = dataset.episode(index)
        assert episode.instruction == f"do thing {index % 2}"
        for tick in range(length):
            state, action = vectors(index, tick)
            np.testing.assert_array_equal(episode.states[tick], state)
            np.testing.assert_array_equal(episode.actions[tick], action)
        for camera in dataset.cameras:
            frames = episode.frames(camera)
            assert frames.shape == (length, HEIGHT, WIDTH, 3)
            assert frames.dtype == np.uint8
            assert frame_error(frames, index, range(length), camera) < 3.5


@pytest.mark.parametrize(("codec", "keyframe_every"), [("libsvtav1", 2), ("libx264", 1), ("libx264", 5)])
def test_codecs_and_keyframes(tmp_path: Path, codec: str, keyframe_every: int) -> None:
    with EpisodeWriter(tmp_path, embodiment=embodiment(), codec=codec, keyframe_every=keyframe_every) as writer:
        add_episodes(writer, range(len(LENGTHS)))
    dataset = LeRobotDataset(tmp_path)
    for index in reversed(range(len(LENGTHS))):
        ticks = np.random.default_rng(index).integers(LENGTHS[index], size=4)
        images = dataset.images("front", dataset.episodes[index].start + ticks)
        assert frame_error(images, index, ticks, "front") < 3.5
    file = VideoFile(dataset.files()[-1])
    assert len(file) >= sum(LENGTHS)


def test_files_roll_over_and_wrap(dataset_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert len(list(dataset_path.glob("data/*/*.parquet"))) == 3
    assert len(list(dataset_path.glob("videos/observation.images.front/*/*.mp4"))) == 3
    monkeypatch.setattr(layout, "CHUNK_SIZE", 2)
    with EpisodeWriter(tmp_path, embodiment=embodiment(), episodes_per_file=1) as writer:
        add_episodes(writer, range(len(LENGTHS)))
    assert (tmp_path / "data" / "chunk-002" / "file-000.parquet").is_file()
    dataset = LeRobotDataset(tmp_path)
    assert frame_error(dataset.episode(4).frames("wrist"), 4, range(1), "wrist") < 3.5


def test_a_full_file_is_closed_by_its_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("actloop.data.writer.HELD_MB", 0.2)
    with EpisodeWriter(tmp_path, embodiment=embodiment()) as writer:
        add_episodes(writer, range(len(LENGTHS)))
    assert 2 <= len(list(tmp_path.glob("videos/observation.images.front/*/*.mp4"))) <= len(LENGTHS)
    assert len(LeRobotDataset(tmp_path).episodes) == len(LENGTHS)


def test_tables_have_the_columns_of_the_format(dataset_path: Path) -> None:
    data = pq.read_table(dataset_path / "data/chunk-000/file-001.parquet")
    assert data.schema.field("action").type == pa.list_(pa.float32(), 4)
    assert data.schema.field("timestamp").type == pa.float32()
    assert data["index"].to_pylist() == list(range(19, 33))
    assert data["frame_index"].to_pylist() == [*range(5), *range(9)]
    assert data["episode_index"].to_pylist() == [2] * 5 + [3] * 9
    rows = pq.read_table(dataset_path / "meta/episodes/chunk-000/file-001.parquet").to_pylist()
    assert rows[1]["dataset_from_index"] == 24
    assert rows[1]["dataset_to_index"] == 33
    assert rows[1]["videos/observation.images.front/from_timestamp"] == pytest.approx(0.5)
    assert rows[1]["videos/observation.images.front/to_timestamp"] == pytest.approx(1.4)
    assert rows[1]["data/file_index"] == 1
    assert rows[1]["tasks"] == ["do thing 1"]
    assert np.shape(rows[0]["stats/observation.images.front/mean"]) == (3, 1, 1)
    assert rows[0]["stats/action/count"] == [5]
    raw = json.loads((dataset_path / "meta/info.json").read_text())
    assert raw["splits"] == {"train": "0:5"}
    assert raw["fps"] == 10
    assert isinstance(raw["fps"], int)
    assert raw["features"]["observation.images.front"]["info"]["video.codec"] == "av1"


def test_extra_columns(tmp_path: Path) -> None:
    extras = [Extra(name="executed", names=("a", "b")), Extra(name="shaken", names=("shaken",), dtype="bool")]
    with EpisodeWriter(tmp_path, embodiment=embodiment(cameras=()), extras=extras) as writer:
        state, action = vectors(0, 0)
        obs = Observation(images={}, state=state, tick=0, time=0.0)
        writer.add_frame(obs, action, extra={"executed": [1.0, 2.0], "shaken": True})
        with pytest.raises(ContractError, match="extra: expected"):
            writer.add_frame(obs, action)
        with pytest.raises(ContractError, match=r"extra\.executed: expected 2 values, got 3"):
            writer.add_frame(obs, action, extra={"executed": [1.0, 2.0, 3.0], "shaken": True})
        writer.save_episode("one")
    table = pq.read_table(tmp_path / "data/chunk-000/file-000.parquet")
    assert table["executed"].to_pylist() == [[1.0, 2.0]]
    assert table["shaken"].to_pylist() == [True]
    assert LeRobotDataset(tmp_path).cameras == ()


def test_true_statistics(dataset: LeRobotDataset) -> None:
    stats = dataset.statistics
    np.testing.assert_allclose(stats["action"]["mean"], dataset.actions.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats["action"]["q90"], np.quantile(dataset.actions, 0.9, axis=0), rtol=1e-5)
    assert stats["observation.state"]["count"] == [sum(LENGTHS)]
    clean = [picture(e, t, "front") / 255 for e, length in enumerate(LENGTHS) for t in range(length)]
    for key, value in (("mean", np.mean), ("std", np.std), ("min", np.min), ("max", np.max)):
        np.testing.assert_allclose(
            np.ravel(stats["observation.images.front"][key]), value(clean, axis=(0, 1, 2)), atol=1e-6
        )
    pixels = np.random.default_rng(0).integers(0, 256, size=(3, 20, 30, 3), dtype=np.uint8)
    described = image_stats(image_histogram(pixels), 3)
    for name, q in (("q01", 0.01), ("q50", 0.5), ("q99", 0.99)):
        exact = np.quantile(pixels.reshape(-1, 3), q, axis=0, method="inverted_cdf") / 255
        np.testing.assert_allclose(np.ravel(described[name]), exact, atol=1 / 255)
    assert vector_stats(np.ones((4, 2), np.float32))["std"] == [0.0, 0.0]


# ---------------------------------------------------------------------------------------------- interrupted, resumed


def fall_over(path: Path) -> None:
    with EpisodeWriter(path, embodiment=embodiment()) as writer:
        add_episodes(writer, [0, 1])
        state, action = vectors(0, 0)
        images = {name: picture(2, 0, name) for name in ("front", "wrist")}
        writer.add_frame(Observation(images=images, state=state, tick=0, time=0.0), action)
        raise RuntimeError("robot fell over")


def test_an_exception_keeps_finished_episodes(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="robot"):
        fall_over(tmp_path)
    dataset = LeRobotDataset(tmp_path)
    assert [episode.length for episode in dataset.episodes] == [7, 12]
    assert frame_error(dataset.episode(1).frames("front"), 1, range(12), "front") < 3.5


def test_resumed_equals_uninterrupted(dataset_path: Path, tmp_path: Path) -> None:
    for part in ([0, 1, 2], [3], [4]):
        with EpisodeWriter(tmp_path, embodiment=embodiment(), episodes_per_file=2) as writer:
            assert len(writer.saved) == part[0]
            add_episodes(writer, part)
    whole, resumed = LeRobotDataset(dataset_path), LeRobotDataset(tmp_path)
    assert len(list(tmp_path.glob("data/*/*.parquet"))) == 4
    np.testing.assert_array_equal(whole.actions, resumed.actions)
    assert whole.episodes == resumed.episodes
    assert whole.tasks == resumed.tasks
    assert whole.statistics == resumed.statistics
    for index in range(len(LENGTHS)):
        np.testing.assert_array_equal(whole.episode(index).frames("front"), resumed.episode(index).frames("front"))


@pytest.mark.parametrize("last", ["data", "tasks.parquet", "episodes", "stats.json", "info.json"])
def test_death_during_a_commit_loses_only_that_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    with EpisodeWriter(tmp_path, embodiment=embodiment()) as writer:
        add_episodes(writer, [0, 1])
    writer = EpisodeWriter(tmp_path, embodiment=embodiment())
    add_episodes(writer, [2])
    real = layout.write_atomically

    def dies(path: Path, content: bytes) -> None:
        if last in path.relative_to(tmp_path).parts:
            raise MemoryError("killed")
        real(path, content)

    monkeypatch.setattr("actloop.data.writer.write_atomically", dies)
    with pytest.raises(MemoryError):
        writer.commit()
    monkeypatch.undo()
    dataset = LeRobotDataset(tmp_path)
    assert [episode.length for episode in dataset.episodes] == [7, 12]
    assert describe(tmp_path).problems == ()
    with EpisodeWriter(tmp_path, embodiment=embodiment()) as writer:
        add_episodes(writer, [2, 3, 4])
    dataset = LeRobotDataset(tmp_path)
    assert [episode.length for episode in dataset.episodes] == list(LENGTHS)
    assert dataset.statistics["observation.images.front"]["count"] == [sum(LENGTHS)]
    assert frame_error(dataset.episode(2).frames("wrist"), 2, range(5), "wrist") < 3.5


def test_kill_leaves_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "dataset"
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_data import *
        writer = EpisodeWriter({str(path)!r}, embodiment=embodiment(), episodes_per_file=2)
        number = 0
        while True:
            add_episodes(writer, [number % 5])
            number += 1
            print(number, flush=True)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) == 5:
            child.send_signal(signal.SIGKILL)
            break
    child.stdout.close()
    child.wait()
    dataset = LeRobotDataset(path)
    kept = len(dataset.episodes)
    assert kept >= 4
    assert kept % 2 == 0
    assert describe(path).problems == ()
    with EpisodeWriter(path, embodiment=embodiment()) as writer:
        add_episodes(writer, [0])
    assert not list(path.rglob("*.partial"))
    dataset = LeRobotDataset(path)
    assert len(dataset.episodes) == kept + 1
    assert frame_error(dataset.episode(kept).frames("front"), 0, range(7), "front") < 3.5


def test_ctrl_c_waits_until_an_episode_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = EpisodeWriter(tmp_path, embodiment=embodiment())
    add_clip = EpisodeWriter._add_clip

    def interrupted(self: EpisodeWriter, camera: str, stats: Any) -> Any:
        if camera == "wrist":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return add_clip(self, camera, stats)

    monkeypatch.setattr(EpisodeWriter, "_add_clip", interrupted)
    with pytest.raises(KeyboardInterrupt), writer:
        add_episodes(writer, [0])
    assert [episode.length for episode in LeRobotDataset(tmp_path).episodes] == [7]


def test_an_encoder_that_fails_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = video._encode, []

    def fails(path: Path, clips: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            path.write_bytes(b"half a file")
            raise av.error.ArgumentError(22, "Invalid argument", str(path))
        real(path, clips[: 1 if len(calls) == 2 else None], **options)

    monkeypatch.setattr(video, "_encode", fails)
    with EpisodeWriter(tmp_path, embodiment=embodiment(cameras=("front",))) as writer:
        add_episodes(writer, [0, 1])
    assert len(calls) == 3
    assert describe(tmp_path).problems == ()
    monkeypatch.setattr(video, "_encode", lambda path, clips, **options: real(path, clips[:1], **options))
    writer = EpisodeWriter(tmp_path, embodiment=embodiment(cameras=("front",)))
    add_episodes(writer, [2, 3])
    with pytest.raises(DataError, match="could not be encoded with libsvtav1"):
        writer.commit()
    assert len(LeRobotDataset(tmp_path).episodes) == 2


def test_only_ones_own_dataset_is_continued(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"recorded from embodiment 'arm' .* not 'leg'"):
        EpisodeWriter(broken, embodiment=embodiment("leg"))
    with pytest.raises(DataError, match="was recorded at 10 Hz"):
        EpisodeWriter(broken, embodiment=embodiment(), fps=5.0)
    raw = json.loads((broken / "meta/info.json").read_text())
    del raw[layout.EMBODIMENT_KEY]
    (broken / "meta/info.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match="says no embodiment"):
        EpisodeWriter(broken, embodiment=embodiment())
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-mum.txt").write_text("dear mum")
    with pytest.raises(DataError, match="not empty and no dataset"):
        EpisodeWriter(tmp_path / "letters", embodiment=embodiment())


def test_the_writer_checks_what_it_gets(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path, embodiment=embodiment())
    state, action = vectors(0, 0)
    images = {name: picture(0, 0, name) for name in ("front", "wrist")}
    obs = Observation(images=images, state=state, tick=0, time=0.0)
    with pytest.raises(ContractError, match=r"action\.position: not finite"):
        writer.add_frame(obs, np.array([np.nan, 0, 0, 0], np.float32))
    with pytest.raises(ContractError, match="action: expected 4 dimensions"):
        writer.add_frame(obs, action[:3])
    with pytest.raises(ContractError, match=r"observation\.images\.wrist: missing"):
        writer.add_frame(replace(obs, images={"front": images["front"]}), action)
    with pytest.raises(ContractError, match="no frames"):
        writer.save_episode("nothing")
    writer.add_frame(obs, action)
    with pytest.raises(ContractError, match="instruction: is empty"):
        writer.save_episode("  ")
    with pytest.raises(UnknownNameError, match="did you mean 'libx264'"):
        EpisodeWriter(tmp_path / "other", embodiment=embodiment(), codec="libx265")
    odd = replace(embodiment(), cameras=(Camera(name="front", height=33, width=64),))
    with pytest.raises(ContractError, match="even sides, got 33 x 64"):
        EpisodeWriter(tmp_path / "odd", embodiment=odd)


# ---------------------------------------------------------------------------------------------- windows


def test_windows_clamp_to_the_episode_and_say_so(dataset: LeRobotDataset) -> None:
    windows = dataset.windows(SPEC)
    assert len(windows) == sum(LENGTHS)
    first = windows[7]  # the first frame of episode 1
    assert (first.episode, first.tick, first.instruction) == (1, 0, "do thing 1")
    assert first.frame_is_pad.tolist() == [True, False, False]
    assert first.state_is_pad.tolist() == [True, False]
    assert first.action_is_pad.tolist() == [False] * 4
    assert frame_error(first.images["front"], 1, [0, 0, 3], "front") < 3.5
    np.testing.assert_array_equal(first.states[0], vectors(1, 0)[0])
    last = windows[18]  # the last frame of episode 1
    assert (last.episode, last.tick) == (1, 11)
    assert last.frame_is_pad.tolist() == [False, False, True]
    assert last.action_is_pad.tolist() == [False, True, True, True]
    np.testing.assert_array_equal(last.actions, np.stack([vectors(1, 11)[1]] * 4))
    assert frame_error(last.images["wrist"], 1, [9, 11, 11], "wrist") < 3.5
    with pytest.raises(IndexError):
        windows[len(windows)]
    with pytest.raises(ContractError, match="number of actions"):
        WindowSpec(frames=(0,), actions=-1)


def test_a_batch_is_its_windows(dataset: LeRobotDataset) -> None:
    windows = dataset.windows(SPEC)
    chosen = [30, 2, 2, 18, 33]
    batch = windows.batch(chosen)
    for place, index in enumerate(chosen):
        one = windows[index]
        assert batch.instructions[place] == one.instruction
        for name in ("states", "actions", "frame_is_pad", "state_is_pad", "action_is_pad"):
            np.testing.assert_array_equal(getattr(batch, name)[place], getattr(one, name))
        for camera in dataset.cameras:
            np.testing.assert_array_equal(batch.images[camera][place], one.images[camera])
    assert dataset.windows(WindowSpec(frames=(), actions=2)).batch([0]).images == {}


def test_windows_of_some_episodes(dataset: LeRobotDataset) -> None:
    windows = dataset.windows(SPEC, episodes=[3, 0])
    assert len(windows) == 9 + 7
    assert set(windows.batch(range(len(windows))).episodes) == {0, 3}
    assert windows[0].episode == 3
    with pytest.raises(ContractError, match="episode 5 is not in the dataset"):
        dataset.windows(SPEC, episodes=[5])


def test_frames_equal_those_of_a_plain_decoder(dataset: LeRobotDataset) -> None:
    """The stitched conversion changes no pixel."""
    feature = "observation.images.wrist"
    plain = []
    for path in sorted(dataset.path.glob(f"videos/{feature}/*/*.mp4")):
        with av.open(str(path)) as container:
            plain += [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    order = np.random.default_rng(3).permutation(sum(LENGTHS))
    np.testing.assert_array_equal(dataset.images("wrist", order), np.stack(plain)[order])


def test_declared_fields(dataset_path: Path) -> None:
    fields = FieldMap(cameras={"eye": "observation.images.wrist"}, state="action", action="observation.state")
    dataset = LeRobotDataset(dataset_path, fields)
    assert dataset.cameras == ("eye",)
    np.testing.assert_array_equal(dataset.actions[0], vectors(0, 0)[0])
    assert frame_error(dataset.episode(3).frames("eye"), 3, range(9), "wrist") < 3.5
    with pytest.raises(UnknownNameError, match=r"did you mean 'observation\.images\.wrist'"):
        LeRobotDataset(dataset_path, FieldMap(cameras={"eye": "observation.images.wirst"}))
    with pytest.raises(UnknownNameError, match=r"fields\.action"):
        LeRobotDataset(dataset_path, FieldMap(cameras={}, action="actions"))
    with pytest.raises(ContractError, match="no image"):
        LeRobotDataset(dataset_path, FieldMap(cameras={"eye": "action"}))
    with pytest.raises(ContractError, match="no vector"):
        LeRobotDataset(dataset_path, FieldMap(cameras={}, state="observation.images.front"))
    with pytest.raises(ContractError, match="two cameras"):
        FieldMap(cameras={"a": "x", "b": "x"})
    with pytest.raises(UnknownNameError, match="camera"):
        dataset.images("front", np.array([0]))
    with pytest.raises(ContractError, match="99 is not in"):
        dataset.episode(99)


def _sums(dataset: LeRobotDataset, seed: int, out: Any) -> None:
    order = np.random.default_rng(seed).permutation(sum(LENGTHS))
    out.put([int(dataset.images(camera, order).astype(np.int64).sum()) for camera in dataset.cameras])


def test_used_before_and_after_a_fork(dataset: LeRobotDataset) -> None:
    everything = np.arange(sum(LENGTHS))
    wanted = [int(dataset.images(camera, everything).astype(np.int64).sum()) for camera in dataset.cameras]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    children = [context.Process(target=_sums, args=(dataset, seed, queue)) for seed in range(3)]
    for child in children:
        child.start()
    assert [queue.get(timeout=30) for _ in children] == [wanted] * 3
    assert [int(dataset.images(camera, everything).astype(np.int64).sum()) for camera in dataset.cameras] == wanted
    for child in children:
        child.join()
    queue.close()
    queue.join_thread()
    copy = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(copy.images("front", everything), dataset.images("front", everything))


def test_reading_is_lazy_about_libraries() -> None:
    code = """
        import sys
        import actloop.data.dataset, actloop.data.writer, actloop.data.info, actloop.training.record
        assert not {"av", "pyarrow", "torch", "matplotlib", "PIL"} & set(sys.modules), sorted(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


# ---------------------------------------------------------------------------------------------- cache


def test_the_cache_gives_the_same(dataset: LeRobotDataset, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    cache = decode(dataset, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(number, len(LENGTHS)) for number in range(1, len(LENGTHS) + 1)]
    assert cache.episodes == dataset.episodes
    assert cache.embodiment == dataset.embodiment
    assert cache.statistics == dataset.statistics
    assert cache.fps == HZ
    chosen = np.random.default_rng(0).permutation(len(dataset.windows(SPEC)))
    ours, theirs = cache.windows(SPEC).batch(chosen), dataset.windows(SPEC).batch(chosen)
    for name in ("states", "actions", "frame_is_pad", "action_is_pad", "episodes", "ticks"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    for camera in dataset.cameras:
        np.testing.assert_array_equal(ours.images[camera], theirs.images[camera])
    np.testing.assert_array_equal(cache.episode(3).frames("wrist"), dataset.episode(3).frames("wrist"))
    assert ours.instructions == theirs.instructions
    with pytest.raises(UnknownNameError, match="did you mean 'front'"):
        cache.episode(0).frames("frnt")
    with pytest.raises(ContractError, match="5 is not in"):
        cache.episode(5)


def test_what_was_executed_is_kept_beside_what_was_wanted(
    dataset: LeRobotDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.testing.assert_array_equal(dataset.executed, dataset.actions)  # nothing else was recorded
    extras = [Extra(name=EXECUTED, names=tuple(embodiment().action.component_names))]
    with EpisodeWriter(tmp_path / "shaken", embodiment=embodiment(cameras=()), extras=extras) as writer:
        for tick in range(3):
            state, action = vectors(0, tick)
            obs = Observation(images={}, state=state, tick=tick, time=tick / HZ)
            writer.add_frame(obs, action, extra={EXECUTED: action + 1})
        writer.save_episode("one")
    shaken = LeRobotDataset(tmp_path / "shaken")
    np.testing.assert_array_equal(shaken.executed, shaken.actions + 1)
    cache = decode(shaken)
    assert cache.path == tmp_path / "shaken.decoded"
    np.testing.assert_array_equal(cache.executed, shaken.executed)
    (cache.path / "executed.npy").unlink()  # as caches were that were written before it was kept
    np.testing.assert_array_equal(CachedEpisodes(cache.path).executed, shaken.actions)
    monkeypatch.setattr(LeRobotDataset, "images", None)  # nothing is decoded again for it
    np.testing.assert_array_equal(decode(shaken).executed, shaken.executed)


def test_the_cache_needs_numpy_alone(dataset: LeRobotDataset, tmp_path: Path) -> None:
    decode(dataset, tmp_path / "cache")
    code = f"""
        import sys
        for name in ("av", "pyarrow", "PIL", "torch", "matplotlib"):
            sys.modules[name] = None
        from actloop.data.cache import CachedEpisodes
        from actloop.data.windows import WindowSpec
        cache = CachedEpisodes({str(tmp_path / "cache")!r})
        assert cache.windows(WindowSpec(frames=(0, 1), actions=2)).batch([0, 5]).images["front"].shape[:2] == (2, 2)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_stale_cache_is_refused(broken: Path, tmp_path: Path) -> None:
    where = tmp_path / "cache"
    decode(LeRobotDataset(broken), where)
    stamp = (where / "manifest.json").stat().st_mtime_ns
    decode(LeRobotDataset(broken), where)
    assert (where / "manifest.json").stat().st_mtime_ns == stamp  # opened, not decoded again
    with EpisodeWriter(broken, embodiment=embodiment()) as writer:
        add_episodes(writer, [0])
    with pytest.raises(DataError, match="another state of the dataset"):
        decode(LeRobotDataset(broken), where)
    with pytest.raises(DataError, match="another state"):
        CachedEpisodes(where).check_source(LeRobotDataset(broken).identity)
    assert len(decode(LeRobotDataset(broken), where, refresh=True).episodes) == len(LENGTHS) + 1
    fewer = LeRobotDataset(broken, FieldMap(cameras={"front": "observation.images.front"}))
    with pytest.raises(DataError, match="another state"):
        decode(fewer, where)


def test_a_damaged_cache_is_refused(dataset: LeRobotDataset, tmp_path: Path) -> None:
    where = tmp_path / "cache"
    with pytest.raises(DataError, match=r"manifest\.json: missing"):
        CachedEpisodes(where)
    decode(dataset, where)
    frames = where / "frames.front.npy"
    frames.write_bytes(frames.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"frames\.front\.npy: not readable"):
        CachedEpisodes(where)
    frames.unlink()
    with pytest.raises(DataError, match=r"frames\.front\.npy: missing"):
        CachedEpisodes(where)
    (where / "manifest.json").write_text('{"format": "actloop.cache.1"}')
    with pytest.raises(DataError, match="not a cache manifest"):
        CachedEpisodes(where)
    (where / "manifest.json").write_text('{"format": "actloop.cache.0"}')
    with pytest.raises(DataError, match=r"expected 'actloop\.cache\.1'"):
        CachedEpisodes(where)


def test_an_interrupted_decode_leaves_no_cache(dataset: LeRobotDataset, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode(dataset, tmp_path / "cache", progress=stop)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-mum.txt").write_text("dear mum")
    with pytest.raises(DataError, match="not empty and no cache"):
        decode(dataset, tmp_path / "letters")


# ---------------------------------------------------------------------------------------------- info


def test_describe_and_plot(dataset_path: Path, tmp_path: Path) -> None:
    info = describe(dataset_path)
    assert (info.episodes, info.frames, info.fps, info.embodiment) == (5, 34, 10.0, "arm")
    assert info.tasks == {"do thing 0": 3, "do thing 1": 2}
    assert info.features["observation.images.front"] == ("video", (HEIGHT, WIDTH, 3))
    assert [part.name for part in info.action] == ["position.0", "position.1", "position.2", "gripper"]
    assert info.action[0].maximum == pytest.approx(11 / 20)
    assert sum(count for _, _, count in info.lengths) == 5
    assert info.lengths[0][0] == 1
    assert info.lengths[-1][1] == 12
    assert info.problems == ()
    assert info.bytes > 1000
    assert json.loads(json.dumps(info.to_dict()))["seconds"] == pytest.approx(3.4)
    plot(dataset_path, tmp_path / "new" / "plot.png")
    assert (tmp_path / "new" / "plot.png").read_bytes()[:4] == b"\x89PNG"


def test_describe_lists_problems(broken: Path, tmp_path: Path) -> None:
    (broken / "videos/observation.images.front/chunk-000/file-001.mp4").unlink()
    (broken / "meta/stats.json").unlink()
    problems = describe(broken).problems
    assert len(problems) == 2
    assert "file-001.mp4: missing" in problems[0]
    assert "stats.json" in problems[1]
    plot(broken, tmp_path / "plot.png")
    damaged = broken / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    damaged.write_bytes(damaged.read_bytes()[:900])
    assert any("file-000.mp4" in problem for problem in describe(broken).problems)


# ---------------------------------------------------------------------------------------------- bad input


def edit_info(path: Path, **changes: Any) -> None:
    where = path / "meta" / "info.json"
    where.write_text(json.dumps(json.loads(where.read_text()) | changes))


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"info\.json: missing; expected the root folder"):
        LeRobotDataset(tmp_path / "nowhere")


def test_other_versions_say_so(broken: Path) -> None:
    edit_info(broken, codebase_version="v2.1")
    with pytest.raises(DataError, match=r"is LeRobotDataset v2\.1, expected v3\.0; convert it"):
        LeRobotDataset(broken)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not readable as JSON"), ("[]", "unknown version"), ('{"codebase_version": "v3.0"}', "a field is missing")],
)
def test_a_bad_info_json(broken: Path, content: str, message: str) -> None:
    (broken / "meta/info.json").write_text(content)
    with pytest.raises(DataError, match=message):
        LeRobotDataset(broken)


def test_a_missing_video(broken: Path) -> None:
    (broken / "videos/observation.images.front/chunk-000/file-000.mp4").unlink()
    dataset = LeRobotDataset(broken)
    assert dataset.images("wrist", np.array([0])).shape == (1, HEIGHT, WIDTH, 3)
    with pytest.raises(DataError, match=r"front/chunk-000/file-000\.mp4: missing"):
        dataset.images("front", np.array([0]))


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.8])
def test_a_truncated_video(broken: Path, keep: float) -> None:
    path = broken / "videos/observation.images.front/chunk-000/file-000.mp4"
    raw = path.read_bytes()
    path.write_bytes(raw[: int(keep * len(raw)) if keep < 1 else int(keep)])
    with pytest.raises(DataError, match=r"file-000\.mp4"):
        LeRobotDataset(broken).episode(1).frames("front")


def test_a_video_with_garbage_inside(broken: Path) -> None:
    path = broken / "videos/observation.images.front/chunk-000/file-000.mp4"
    raw = bytearray(path.read_bytes())
    start = raw.index(b"mdat") + 4
    raw[start : start + 600] = bytes(600)
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"file-000\.mp4.*do not decode"):
        LeRobotDataset(broken).episode(0).frames("front")


def test_a_video_with_too_few_frames(broken: Path) -> None:
    videos = broken / "videos/observation.images.front/chunk-000"
    shutil.copy(videos / "file-002.mp4", videos / "file-000.mp4")  # one frame instead of nineteen
    with pytest.raises(DataError, match=r"file-000\.mp4: no frame at .* fewer than the episodes say"):
        LeRobotDataset(broken).episode(0).frames("front")


def test_a_video_of_another_size(broken: Path) -> None:
    raw = json.loads((broken / "meta/info.json").read_text())
    raw["features"]["observation.images.front"]["shape"] = [64, 64, 3]
    (broken / "meta/info.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=r"frames are \(48, 64, 3\), info\.json says \(64, 64, 3\)"):
        LeRobotDataset(broken).images("front", np.array([0]))


@pytest.mark.parametrize("table", ["data/chunk-000/file-001.parquet", "meta/episodes/chunk-000/file-001.parquet"])
def test_a_truncated_or_missing_parquet(broken: Path, table: str) -> None:
    path = broken / table
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"file-001\.parquet: not readable as parquet"):
        LeRobotDataset(broken)
    path.unlink()
    with pytest.raises(DataError, match=r"missing|lists 3 episodes, info\.json counts 5|starts at frame"):
        LeRobotDataset(broken)


def rewrite(path: Path, **columns: Any) -> None:
    table = pq.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table, path)


def test_rows_that_disagree_with_the_episodes(broken: Path) -> None:
    path = broken / "data/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 11), path)
    with pytest.raises(
        DataError, match=r"file-000\.parquet: has 11 rows in order, but the episodes put frames 0 to 19"
    ):
        LeRobotDataset(broken)


def test_counts_that_disagree(broken: Path) -> None:
    edit_info(broken, total_frames=35)
    with pytest.raises(DataError, match=r"34 frames together, info\.json counts 35"):
        LeRobotDataset(broken)
    edit_info(broken, total_frames=34, total_episodes=6)
    with pytest.raises(DataError, match=r"lists 5 episodes, info\.json counts 6"):
        LeRobotDataset(broken)


def test_vectors_of_another_shape_or_not_finite(broken: Path) -> None:
    path = broken / "data/chunk-000/file-000.parquet"
    values = pq.read_table(path)["action"].to_pylist()
    values[3][1] = float("nan")
    rewrite(path, action=pa.array(values, pa.list_(pa.float32(), 4)))
    with pytest.raises(DataError, match="'action' is not finite in 1 frames, the first is frame 3"):
        LeRobotDataset(broken)
    rewrite(path, action=pa.array([row[:3] for row in values], pa.list_(pa.float32(), 3)))
    with pytest.raises(
        DataError, match=r"file-000\.parquet: column 'action' has 3 values per row, info\.json says shape"
    ):
        LeRobotDataset(broken)
    values[3] = None
    rewrite(path, action=pa.array(values, pa.list_(pa.float32())))
    with pytest.raises(DataError, match=r"file-000\.parquet: column 'action'"):
        LeRobotDataset(broken)
    table = pq.read_table(path).drop_columns(["action"])
    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"file-000\.parquet: has no column 'action'"):
        LeRobotDataset(broken)


def test_an_embodiment_that_does_not_fit(broken: Path) -> None:
    raw = json.loads((broken / "meta/info.json").read_text())
    raw[layout.EMBODIMENT_KEY]["action"]["parts"].pop()
    edit_info(broken, **raw)
    with pytest.raises(DataError, match="'action' has shape"):
        LeRobotDataset(broken)
    raw[layout.EMBODIMENT_KEY] = {"name": "arm"}
    edit_info(broken, **raw)
    with pytest.raises(DataError, match=r"actloop\.embodiment"):
        LeRobotDataset(broken)


# ---------------------------------------------------------------------------------------------- what LeRobot wrote


@pytest.fixture(params=["av1_2ep", "h264_2ep", "image_2ep", "main062_2ep"])
def sample(request: pytest.FixtureRequest) -> Iterator[LeRobotDataset]:
    if not SAMPLES.is_dir():
        pytest.skip("the sample datasets that LeRobot wrote are not here")
    return LeRobotDataset(SAMPLES / str(request.param))


def test_reads_what_lerobot_wrote(sample: LeRobotDataset) -> None:
    old = sample.path.name != "main062_2ep"
    assert (sample.info.episodes, sample.info.frames, sample.info.fps) == (2, 70, 20.0)
    assert [episode.length for episode in sample.episodes] == [30, 40] or [e.length for e in sample.episodes] == [
        40,
        30,
    ]
    assert sample.tasks == (["push the ball right", "push the ball left"] if old else ["t0", "t1"])
    assert sample.embodiment is None
    assert sample.notes == [{}, {}]
    rows = pq.read_table(sample.path / "data/chunk-000/file-000.parquet").to_pylist()
    for index in (0, 33, 69):
        np.testing.assert_array_equal(sample.actions[index], np.float32(rows[index]["action"]))
        np.testing.assert_array_equal(sample.states[index], np.float32(rows[index]["observation.state"]))
    spec = WindowSpec(frames=tuple(range(-15, 1)), states=tuple(range(-15, 1)), actions=16)
    batch = sample.windows(spec).batch(np.arange(70))
    assert {images.shape for images in batch.images.values()} == {(70, 16, 64, 64, 3)}
    assert describe(sample.path).problems == ()


@needs_samples
@pytest.mark.parametrize("name", ["av1_2ep", "h264_2ep", "main062_2ep"])
def test_lerobot_video_frames_are_the_right_ones(name: str) -> None:
    dataset = LeRobotDataset(SAMPLES / name)
    (path,) = (SAMPLES / name).glob("videos/observation.images.front/*/*.mp4")
    with av.open(str(path)) as container:
        plain = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    order = np.random.default_rng(1).permutation(70)
    np.testing.assert_array_equal(dataset.images("front", order), plain[order])
    np.testing.assert_array_equal(dataset.images("front", np.array([41])), plain[41:42])


@needs_samples
def test_embedded_images_are_lossless_and_match_the_video() -> None:
    videos, images = LeRobotDataset(SAMPLES / "av1_2ep"), LeRobotDataset(SAMPLES / "image_2ep")
    np.testing.assert_array_equal(videos.states[:, :4], images.states[:, :4])
    every = np.arange(70)
    difference = np.abs(videos.images("front", every).astype(int) - images.images("front", every)).mean(axis=(1, 2, 3))
    assert difference.max() < 12
    assert decode_shape(images) == (70, 64, 64, 3)


def decode_shape(dataset: LeRobotDataset) -> tuple[int, ...]:
    return dataset.images("front", np.arange(70)).shape


@needs_samples
def test_a_damaged_embedded_image(tmp_path: Path) -> None:
    path = Path(shutil.copytree(SAMPLES / "image_2ep", tmp_path / "copy"))
    for file in path.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    table = path / "data/chunk-000/file-000.parquet"
    cells: list[Mapping[str, Any]] = pq.read_table(table)["observation.images.front"].to_pylist()
    cells[5] = {"bytes": b"not a picture", "path": None}
    cells[6] = {"bytes": None, "path": "elsewhere.png"}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rewrite(table, **{"observation.images.front": pa.array(cells, kind)})
    dataset = LeRobotDataset(path)
    assert dataset.images("front", np.array([4])).shape == (1, 64, 64, 3)
    with pytest.raises(DataError, match=r"row 5 of 'observation\.images\.front' is no readable image"):
        dataset.images("front", np.array([5]))
    with pytest.raises(DataError, match=r"row 6 of 'observation\.images\.front' holds no image bytes"):
        dataset.images("front", np.array([6]))
