"""Writes small RLDS datasets: TFRecord, tf.train.Example and features.json, encoded here and nowhere else."""

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google_crc32c import value as crc32c
from PIL import Image

MODULE = "tensorflow_datasets.core.features"


@dataclass(frozen=True)
class Leaf:
    """A field: `kind` is tensor, text, image or label; `levels` counts sequences inside a step."""

    kind: str = "tensor"
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    encoding: str = "none"
    levels: int = 0


FLAGS = {"is_first": Leaf(dtype="bool"), "is_last": Leaf(dtype="bool")}
TEXT = Leaf(kind="text")


def image(height: int, width: int, encoding: str = "png", dtype: str = "uint8", channels: int = 3) -> Leaf:
    return Leaf(kind="image", dtype=dtype, shape=(height, width, channels), encoding=encoding)


def write_dataset(
    folder: Path,
    name: str,
    steps: Mapping[str, Leaf],
    episodes: Sequence[Mapping[str, Sequence[Any]]],
    *,
    metadata: Mapping[str, Leaf] | None = None,
    about: Sequence[Mapping[str, Any]] | None = None,
    shards: int = 1,
) -> Path:
    """Episodes map each key to one value per step; `about` holds the values of `metadata` for each."""
    steps, metadata = {**FLAGS, **steps}, metadata or {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.json").write_text(json.dumps(features(steps, metadata)))
    records = []
    for number, episode in enumerate(episodes):
        length = len(next(iter(episode.values())))
        flags = {"is_first": [i == 0 for i in range(length)], "is_last": [i == length - 1 for i in range(length)]}
        entries: dict[str, bytes] = {}
        for key, leaf in steps.items():
            entries |= encoded(f"steps/{key}", leaf, {**flags, **episode}[key], 1)
        for key, leaf in metadata.items():
            entries |= encoded(key, leaf, (about or [])[number][key], 0)
        records.append(example(entries))
    parts = np.array_split(np.arange(len(records)), shards)
    for number, part in enumerate(parts):
        path = folder / f"{name}-train.tfrecord-{number:05d}-of-{shards:05d}"
        path.write_bytes(b"".join(framed(records[index]) for index in part))
    split = {"name": "train", "shardLengths": [str(len(part)) for part in parts]}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": name, "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def features(steps: Mapping[str, Leaf], metadata: Mapping[str, Leaf]) -> dict[str, Any]:
    sequence = {"feature": tree({key: node(leaf) for key, leaf in steps.items()}), "length": "-1"}
    dataset = {"pythonClassName": f"{MODULE}.dataset_feature.Dataset", "sequence": sequence}
    return tree({"steps": dataset, **{key: node(leaf) for key, leaf in metadata.items()}})


def tree(children: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries from keys with slashes."""
    nested: dict[str, Any] = {}
    for key, child in children.items():
        head, _, rest = key.partition("/")
        if rest:
            nested.setdefault(head, {})[rest] = child
        else:
            nested[head] = child
    built = {head: child if "pythonClassName" in child else tree(child) for head, child in nested.items()}
    return {"pythonClassName": f"{MODULE}.features_dict.FeaturesDict", "featuresDict": {"features": built}}


def node(leaf: Leaf, levels: int | None = None) -> dict[str, Any]:
    levels = leaf.levels if levels is None else levels
    if levels:
        inner = {"feature": node(leaf, levels - 1), "length": "-1"}
        return {"pythonClassName": f"{MODULE}.sequence_feature.Sequence", "sequence": inner}
    shape = {"dimensions": [str(side) for side in leaf.shape]} if leaf.shape else {}
    if leaf.kind == "text":
        return {"pythonClassName": f"{MODULE}.text_feature.Text", "text": {}}
    if leaf.kind == "image":
        content = {"shape": shape, "dtype": leaf.dtype, "encodingFormat": leaf.encoding}
        return {"pythonClassName": f"{MODULE}.image_feature.Image", "image": content}
    if leaf.kind == "label":
        return {"pythonClassName": f"{MODULE}.class_label_feature.ClassLabel", "classLabel": {"numClasses": "5"}}
    content = {"shape": shape, "dtype": leaf.dtype, "encoding": leaf.encoding}
    return {"pythonClassName": f"{MODULE}.tensor_feature.Tensor", "tensor": content}


def encoded(key: str, leaf: Leaf, values: Any, levels: int) -> dict[str, bytes]:
    """The entries of one field; sequences inside sequences become flat values and row lengths."""
    if not levels:
        return {key: feature(leaf, [values])}
    if not leaf.levels:
        return {key: feature(leaf, values)}
    entries = {}
    for level in range(leaf.levels):
        entries[f"{key}/ragged_row_lengths_{level}"] = int64_list([len(value) for value in values])
        values = [one for value in values for one in value]
    return {**entries, f"{key}/ragged_flat_values": feature(leaf, values)}


def feature(leaf: Leaf, values: Sequence[Any]) -> bytes:
    if leaf.kind == "text":
        return bytes_list([value.encode() for value in values])
    if leaf.kind == "image":
        return bytes_list([picture(value, leaf) for value in values])
    if leaf.dtype == "string":
        return bytes_list(list(values))
    if leaf.encoding != "none":
        raw = [np.asarray(value, leaf.dtype).tobytes() for value in values]
        return bytes_list([zlib.compress(one) for one in raw] if leaf.encoding == "zlib" else raw)
    flat = np.concatenate([np.ravel(value) for value in values] or [np.zeros(0)])
    return float_list(flat) if leaf.kind == "tensor" and leaf.dtype.startswith("float") else int64_list(flat.tolist())


def picture(pixels: np.ndarray | bytes, leaf: Leaf) -> bytes:
    """An encoded image; bytes stand as they are."""
    if isinstance(pixels, bytes):
        return pixels
    if leaf.dtype == "float32":
        pixels = np.ascontiguousarray(pixels, np.float32).view(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format=leaf.encoding)
    return buffer.getvalue()


def example(entries: Mapping[str, bytes]) -> bytes:
    return sized(1, b"".join(sized(1, sized(1, key.encode()) + sized(2, value)) for key, value in entries.items()))


def bytes_list(values: Sequence[bytes]) -> bytes:
    return sized(1, b"".join(sized(1, value) for value in values))


def float_list(values: np.ndarray, *, packed: bool = True) -> bytes:
    raw = np.asarray(values, "<f4")
    inner = sized(1, raw.tobytes()) if packed else b"".join(b"\x0d" + value.tobytes() for value in raw)
    return sized(2, inner)


def int64_list(values: Sequence[int], *, packed: bool = True) -> bytes:
    numbers = [varint(int(value)) for value in values]
    return sized(3, sized(1, b"".join(numbers)) if packed else b"".join(b"\x08" + number for number in numbers))


def sized(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    value &= 2**64 - 1  # two's complement
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def framed(payload: bytes) -> bytes:
    length = len(payload).to_bytes(8, "little")
    return length + masked(length) + payload + masked(payload)


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")
