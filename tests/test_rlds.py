"""Reading RLDS from disk: records and their checksums, protocol buffers, the tree of features, episodes."""

import json
import multiprocessing
import pickle
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_rlds import TEXT, Leaf, bytes_list, example, float_list, framed, image, int64_list, write_dataset

from actloop.data.rlds.dataset import RldsDataset, is_rlds, splits
from actloop.data.rlds.example import bytes_list as read_bytes
from actloop.data.rlds.example import floats, integers, parse_example
from actloop.data.rlds.features import read_schema
from actloop.data.rlds.info import describe
from actloop.data.rlds.tfrecord import masked_crc, open_shard
from actloop.errors import ContractError, DataError, MissingDependency, UnknownNameError

BRIDGE = Path(__file__).parents[2] / "shared" / "data" / "bridge"
needs_bridge = pytest.mark.skipif(not BRIDGE.is_dir(), reason="the real Bridge episodes are not here")
LENGTHS = (4, 1, 6, 3, 2)
HEIGHT, WIDTH = 6, 8
STEPS = {
    "action": Leaf(shape=(7,)),
    "reward": Leaf(),
    "language_instruction": TEXT,
    "observation/image": image(HEIGHT, WIDTH),
    "observation/state": Leaf(dtype="float64", shape=(2, 3)),
    "observation/counts": Leaf(dtype="int32", shape=(2,)),
    "observation/packed": Leaf(shape=(5,), encoding="zlib"),
    "observation/deep/raw": Leaf(dtype="uint8", shape=(3,), encoding="bytes"),
    "label": Leaf(kind="label"),
    "points": Leaf(shape=(2,), levels=1),
    "words": Leaf(kind="text", levels=2),
}
METADATA = {"episode_metadata/number": Leaf(dtype="int64"), "episode_metadata/file": TEXT}


def episode(number: int, length: int) -> dict[str, list[Any]]:
    rng = np.random.default_rng(number)
    return {
        "action": list(rng.normal(size=(length, 7)).astype(np.float32)),
        "reward": list(rng.normal(size=length).astype(np.float32)),
        "language_instruction": [f"do thing {number} \u00fc"] * length,
        "observation/image": list(rng.integers(256, size=(length, HEIGHT, WIDTH, 3), dtype=np.uint8)),
        "observation/state": list(rng.normal(size=(length, 2, 3)).astype(np.float32)),
        "observation/counts": list(rng.integers(-(2**31), 2**31, size=(length, 2))),
        "observation/packed": list(rng.normal(size=(length, 5)).astype(np.float32)),
        "observation/deep/raw": list(rng.integers(256, size=(length, 3), dtype=np.uint8)),
        "label": list(rng.integers(5, size=length)),
        "points": [rng.normal(size=(rows, 2)).astype(np.float32) for rows in rng.integers(4, size=length)],
        "words": [[["a", f"{tick}"], [], ["b"]][: number % 4] for tick in range(length)],
    }


EPISODES = [episode(number, length) for number, length in enumerate(LENGTHS)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    about = [{"episode_metadata/number": -n, "episode_metadata/file": f"f{n}"} for n in range(len(LENGTHS))]
    return write_dataset(tmp_path / "1.0.0", "thing", STEPS, EPISODES, metadata=METADATA, about=about, shards=3)


def shard_of(folder: Path, number: int = 0) -> Path:
    return sorted(folder.glob("*.tfrecord-*"))[number]


# --------------------------------------------------------------------------------------------------------- records


def test_the_checksum_is_crc32c() -> None:
    """The check value of the Castagnoli polynomial, masked by hand."""
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_by_number(tmp_path: Path) -> None:
    payloads = [b"one", b"", b"x" * 100_000]
    path = tmp_path / "file"
    path.write_bytes(b"".join(map(framed, payloads)))
    shard = open_shard(path)
    assert [shard.read(number) for number in (2, 0, 1)] == [payloads[2], payloads[0], payloads[1]]


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    raw = bytearray(framed(b"a record") + framed(b"another one"))
    place, bit = data.draw(st.integers(0, len(raw) - 1)), data.draw(st.integers(0, 7))
    raw[place] ^= 1 << bit
    path = tmp_path_factory.mktemp("flipped") / "file"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=rf"{path}: record {int(place >= 24)} at byte \d+"):
        [open_shard(path).read(number) for number in range(2)]


@pytest.mark.parametrize("kept", [1, 11, 12, 15, 23, 24 + 5, 24 + 20])
def test_a_truncated_file_is_named_with_record_and_byte(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "file"
    path.write_bytes((framed(b"a record") + framed(b"another one"))[:kept])
    number, start = (0, 0) if kept < 24 else (1, 24)
    with pytest.raises(DataError, match=rf"{path}: record {number} at byte {start}: expected .* truncated"):
        open_shard(path)


def test_a_file_that_shrinks_or_goes_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(framed(b"a record"))
    shard = open_shard(path)
    path.write_bytes(framed(b"a record")[:18])
    with pytest.raises(DataError, match="record 0 at byte 12: expected 12 bytes, found 6"):
        shard.read(0)
    path.unlink()
    with pytest.raises(DataError, match="record 0: not readable"):
        shard.read(0)


def test_unverified_reading_takes_what_is_there(tmp_path: Path) -> None:
    raw = bytearray(framed(b"a record"))
    raw[12] = ord("A")
    (tmp_path / "file").write_bytes(raw)
    assert open_shard(tmp_path / "file").read(0, verify=False) == b"A record"


def test_the_checksum_library_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(MissingDependency, match=r"google-crc32c is missing .* pip install 'actloop\[data\]'"):
        masked_crc(b"")


# -------------------------------------------------------------------------------------------------------- examples


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1)), st.booleans())
def test_integers_round_trip(values: list[int], packed: bool) -> None:
    assert integers(memoryview(int64_list(values, packed=packed))).tolist() == values


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False)), st.booleans())
def test_floats_round_trip(values: list[float], packed: bool) -> None:
    assert floats(memoryview(float_list(np.array(values), packed=packed))).tolist() == values


def test_packed_floats_are_not_copied() -> None:
    record = example({"a": float_list(np.arange(5))})
    values = floats(parse_example(record)["a"])
    assert np.shares_memory(values, np.frombuffer(record, np.uint8))


def test_examples_by_name() -> None:
    record = example({"a": bytes_list([b"x", b""]), "b/c": int64_list([3]), "empty": b""})
    parsed = parse_example(record)
    assert set(parsed) == {"a", "b/c", "empty"}
    assert [bytes(value) for value in read_bytes(parsed["a"])] == [b"x", b""]
    assert read_bytes(parsed["empty"]) == []
    assert floats(parsed["empty"]).size == 0


@pytest.mark.parametrize(
    ("read", "feature", "said"),
    [
        (floats, int64_list([1]), "expected a float list, got a int64 list"),
        (integers, bytes_list([b"x"]), "expected a int64 list, got a bytes list"),
        (read_bytes, float_list(np.ones(1)), "expected a bytes list, got a float list"),
        (floats, b"\x12\x05\x0a\x03abc", "3 bytes"),
        (integers, b"\x1a\x03\x0a\x01\x80", "ends within one"),
        (integers, b"\x1a\x0e\x0a\x0c" + b"\x80" * 11 + b"\x01", "longer than 10"),
        (read_bytes, b"\x0a\x7fabc", "ends at byte 129 of 5"),
        (read_bytes, b"\x0b", "wire type 3"),
        (read_bytes, b"\x80" * 12, "does not end"),
    ],
)
def test_what_is_no_such_list(read: Any, feature: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read(memoryview(feature))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_an_error_or_an_example_and_nothing_else(raw: bytes) -> None:
    try:
        for feature in parse_example(raw).values():
            for read in (floats, integers, read_bytes):
                read(feature)
    except DataError:
        pass


# -------------------------------------------------------------------------------------------------------- episodes


def test_every_kind_of_field_is_read(folder: Path) -> None:
    dataset = RldsDataset(folder)
    assert (len(dataset), dataset.name, dataset.version, len(dataset.shards)) == (5, "thing", "1.0.0", 3)
    assert dataset.cameras == ("observation/image",)
    for index in (4, 0, 3, 1, 2):
        read, wanted = dataset[index], EPISODES[index]
        assert read.length == LENGTHS[index]
        assert read.metadata == {"episode_metadata/number": -index, "episode_metadata/file": f"f{index}"}
        assert read.texts("language_instruction") == wanted["language_instruction"]
        np.testing.assert_array_equal(read.images("observation/image"), np.stack(wanted["observation/image"]))
        for key in ("action", "reward", "observation/counts", "observation/packed", "observation/deep/raw", "label"):
            np.testing.assert_array_equal(read.array(key), np.stack(wanted[key]))
        np.testing.assert_array_equal(read.array("observation/state"), np.stack(wanted["observation/state"]))
        assert read.array("observation/state").dtype == np.float64
        assert read.array("is_first").tolist() == [True] + [False] * (read.length - 1)
        assert read.values("words") == wanted["words"]
        for found, points in zip(read.values("points"), wanted["points"], strict=True):
            np.testing.assert_array_equal(found, points)


def test_one_step(folder: Path) -> None:
    step = RldsDataset(folder)[2].step(5)
    assert set(step) == {"is_first", "is_last", *STEPS}
    np.testing.assert_array_equal(step["observation/image"], EPISODES[2]["observation/image"][5])
    assert step["is_last"] is True
    assert step["words"] == EPISODES[2]["words"][5]
    with pytest.raises(IndexError, match="step 6 of 6"):
        RldsDataset(folder)[2].step(6)


def test_the_folder_above_a_single_version(folder: Path) -> None:
    assert len(RldsDataset(folder.parent)) == 5
    assert is_rlds(folder.parent)
    assert not is_rlds(folder.parent.parent)
    assert splits(folder.parent) == {"train": 5}
    (folder.parent / "2.0.0").mkdir()
    (folder.parent / "2.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(DataError, match=r"several versions, 1\.0\.0, 2\.0\.0"):
        RldsDataset(folder.parent)
    with pytest.raises(DataError, match=r"no dataset_info\.json"):
        RldsDataset(folder.parent.parent.parent)


def third_step(dataset: RldsDataset, index: int, sent: Any) -> None:
    sent.put(dataset[index].array("action")[2].tolist())


def test_it_may_be_sent_and_forked(folder: Path) -> None:
    dataset = RldsDataset(folder)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(dataset))[0].array("action"), EPISODES[0]["action"])
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [context.Process(target=third_step, args=(dataset, index, queue)) for index in (0, 2)]
    for worker in workers:
        worker.start()
    found = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(found) == sorted(EPISODES[index]["action"][2].tolist() for index in (0, 2))


@pytest.mark.parametrize(
    ("dtype", "channels"), [("uint8", 1), ("uint8", 4), ("uint16", 1), ("float32", 1)], ids=lambda value: str(value)
)
def test_other_pictures(tmp_path: Path, dtype: str, channels: int) -> None:
    rng = np.random.default_rng(0)
    shape = (2, 5, 4, channels)
    wanted = rng.normal(size=shape).astype(dtype) if dtype == "float32" else rng.integers(200, size=shape).astype(dtype)
    leaf = image(5, 4, dtype=dtype, channels=channels)
    write_dataset(tmp_path, "depth", {"depth": leaf}, [{"depth": list(wanted)}])
    dataset = RldsDataset(tmp_path)
    np.testing.assert_array_equal(dataset[0].images("depth"), wanted)
    assert dataset.cameras == ()


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.tile(np.arange(64, dtype=np.uint8)[:, None, None] * 3, (1, 64, 3))
    write_dataset(tmp_path, "x", {"camera": image(64, 64, "jpeg")}, [{"camera": [smooth]}])
    found = RldsDataset(tmp_path)[0].images("camera")[0]
    assert np.abs(found.astype(int) - smooth).max() < 8


# -------------------------------------------------------------------------------------------------- what goes wrong


def test_damage_is_named_with_file_and_record(folder: Path) -> None:
    path = shard_of(folder, 1)
    raw = bytearray(path.read_bytes())
    shard = open_shard(path)
    raw[int(shard.offsets[1]) + 20] ^= 0xFF
    path.write_bytes(raw)
    dataset = RldsDataset(folder)
    assert dataset[2].length == LENGTHS[2]
    with pytest.raises(DataError, match=rf"{path}: record 1 at byte {shard.offsets[1]}: the checksum"):
        dataset[3]
    assert any("record 1" in problem for problem in describe(folder).problems)


def test_missing_and_miscounted_files(folder: Path) -> None:
    path = shard_of(folder, 2)
    raw = path.read_bytes()
    path.write_bytes(raw + framed(b""))
    with pytest.raises(DataError, match=rf"{path}: holds 2 records, dataset_info.json says 1"):
        RldsDataset(folder)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path}: missing"):
        RldsDataset(folder)


def test_unknown_names_suggest_the_nearest(folder: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        RldsDataset(folder, "trian")
    with pytest.raises(UnknownNameError, match="did you mean 'observation/image'"):
        RldsDataset(folder)[0].images("observation/imge")


def test_kinds_are_not_mixed_up(folder: Path) -> None:
    read = RldsDataset(folder)[0]
    for call in (read.array, read.images):
        with pytest.raises(ContractError, match="is text in 1 sequences"):
            call("language_instruction")
    with pytest.raises(ContractError, match="is number in 2 sequences, no array"):
        read.array("points")
    with pytest.raises(ContractError, match="is number in 1 sequences, no text"):
        read.texts("action")
    with pytest.raises(IndexError):
        RldsDataset(folder)[5]


def edit(folder: Path, name: str, change: Any) -> None:
    path = folder / name
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))


def steps_of(raw: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = raw["featuresDict"]["features"]["steps"]["sequence"]["feature"]["featuresDict"]["features"]
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: steps_of(raw).update(sound={"pythonClassName": "x.Audio", "audio": {}}), "'steps/sound' is of ki"),
        (lambda raw: steps_of(raw)["action"]["tensor"].update(dtype="float31"), "dtype 'float31'"),
        (lambda raw: steps_of(raw)["action"]["tensor"].update(encoding="gzip"), "encoding 'gzip'"),
        (lambda raw: raw["featuresDict"]["features"].pop("steps"), "has no sequence 'steps'"),
        (lambda raw: raw.pop("featuresDict"), "'the root' is of kind"),
        (lambda raw: steps_of(raw)["action"].update(tensor=3), "not readable as TFDS features"),
    ],
)
def test_features_that_cannot_be_read(folder: Path, change: Any, said: str) -> None:
    edit(folder, "features.json", change)
    with pytest.raises(DataError, match=rf"features\.json: .*{said}"):
        read_schema(folder / "features.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw.update(fileFormat="array_record"), "the files are 'array_record'"),
        (lambda raw: raw.pop("splits"), "declares no splits"),
        (lambda raw: raw["splits"][0].pop("shardLengths"), "has no shardLengths"),
        (lambda raw: raw["splits"][0].pop("name"), "without a name"),
        (lambda raw: raw["splits"][0].update(filepathTemplate="{SPLIT}.{EXT}"), "unknown name 'EXT'"),
    ],
)
def test_metadata_that_cannot_be_read(folder: Path, change: Any, said: str) -> None:
    edit(folder, "dataset_info.json", change)
    with pytest.raises((DataError, UnknownNameError), match=said):
        RldsDataset(folder)


@pytest.mark.parametrize(
    ("key", "change", "said"),
    [
        ("action", lambda raw: raw["tensor"]["shape"].update(dimensions=["6"]), "28 numbers are no whole number"),
        ("action", lambda raw: raw["tensor"]["shape"].update(dimensions=["14"]), "has 2 values for 4 steps"),
        ("action", lambda raw: raw["tensor"]["shape"].update(dimensions=["-1"]), "cannot be told"),
        ("action", lambda raw: raw["tensor"].update(dtype="int64"), "expected a int64 list, got a float list"),
        ("observation/packed", lambda raw: raw["tensor"].update(encoding="bytes"), "'steps/observation/packed'"),
    ],
)
def test_records_that_are_not_what_is_declared(folder: Path, key: str, change: Any, said: str) -> None:
    def change_node(raw: dict[str, Any]) -> None:
        node = steps_of(raw)
        for part in key.split("/")[:-1]:
            node = node[part]["featuresDict"]["features"]
        change(node[key.rpartition("/")[2]])

    edit(folder, "features.json", change_node)
    with pytest.raises(DataError, match=rf"record 0: .*{said}"):
        RldsDataset(folder)[0].array(key)


def test_a_declared_field_that_is_not_there(folder: Path) -> None:
    edit(folder, "features.json", lambda raw: steps_of(raw).update(extra=steps_of(raw)["action"]))
    with pytest.raises(DataError, match=r"'steps/extra' is declared in features\.json and not"):
        RldsDataset(folder)[0].array("extra")


@pytest.mark.parametrize(("pixels", "said"), [(b"no image", "is no readable image"), (None, r"is \(6, 9, 3\)")])
def test_pictures_that_cannot_be_read(tmp_path: Path, pixels: bytes | None, said: str) -> None:
    shown = np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8) if pixels is None else pixels
    write_dataset(tmp_path, "x", {"camera": image(HEIGHT, WIDTH)}, [{"camera": [shown]}])
    with pytest.raises(DataError, match=rf"record 0: 'steps/camera' of step 0 {said}"):
        RldsDataset(tmp_path)[0].images("camera")


def test_broken_compression(tmp_path: Path) -> None:
    leaf = Leaf(dtype="string")
    write_dataset(tmp_path, "x", {"packed": leaf}, [{"packed": [zlib.compress(b"1234")[:-3]]}])
    edit(
        tmp_path,
        "features.json",
        lambda raw: steps_of(raw)["packed"]["tensor"].update(dtype="float32", encoding="zlib"),
    )
    with pytest.raises(DataError, match="record 0: 'steps/packed': Error -5"):
        RldsDataset(tmp_path)[0].array("packed")


# ------------------------------------------------------------------------------------------------------- real data


@needs_bridge
def test_the_real_bridge_episodes() -> None:
    dataset = RldsDataset(BRIDGE)
    assert (len(dataset), sum(dataset[index].length for index in range(25)), dataset.bytes) == (25, 250, 3_474_742)
    actions = np.concatenate([dataset[index].array("action") for index in range(25)])
    assert actions.shape == (250, 7)
    assert np.abs(actions[::10, :6]).max() < 1e-5  # the first action of each is zero
    assert len({dataset[index].texts("language_instruction")[0] for index in range(25)}) == 4
    for index in (0, 24):
        read = dataset[index]
        assert read.images("observation/image_0").shape == (10, 64, 64, 3)
        assert read.images("observation/image_0").std() > 20
        assert read.images("observation/image_3").std() == 0  # this copy leaves the fourth camera blank
        assert read.array("observation/state").shape == (10, 7)
        assert read.array("is_first").tolist() == [True] + [False] * 9
    found = describe(BRIDGE)
    assert found.problems == ()
    assert (found.recipe, found.looked_at, found.steps) == ("bridge_orig", 25, (10, 10))
    json.dumps(found.to_dict())


@needs_bridge
def test_the_missing_split_of_the_real_copy() -> None:
    with pytest.raises(DataError, match=r"bridge_dataset-val\.tfrecord-00000-of-00001: missing"):
        RldsDataset(BRIDGE, "val")
