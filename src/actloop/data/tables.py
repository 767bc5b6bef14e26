"""The parquet tables of a dataset: frames, episodes, tasks. pyarrow is imported when one is touched."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actloop.data.layout import CHUNK_SIZE, NOTES_COLUMN, Feature, Info
from actloop.errors import DataError, MissingDependency


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeRow:
    """One row of the episodes table; `videos` has chunk, file and start in seconds in that file, per feature."""

    index: int
    instruction: str
    start: int
    length: int
    data_chunk: int
    data_index: int
    videos: Mapping[str, tuple[int, int, float]]
    notes: str

    @property
    def data_file(self) -> int:
        return self.data_chunk * CHUNK_SIZE + self.data_index


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependency("pyarrow", "datasets are parquet tables", "pip install 'actloop[data]'") from error
    return pyarrow, pyarrow.parquet


def read_table(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A parquet file as an arrow table.

    Raises:
        DataError: missing, truncated, or without a column.
    """
    pyarrow, parquet = _parquet()
    if not path.is_file():
        raise DataError(f"{path}: missing, though the metadata names it")
    try:
        with parquet.ParquetFile(path) as file:
            absent = set(columns or ()) - set(file.schema_arrow.names)
            if absent:
                raise DataError(f"{path}: has no column {sorted(absent)[0]!r}, only {file.schema_arrow.names}")
            return file.read(columns=None if columns is None else list(columns))
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as parquet ({error}); it may be truncated") from error


def read_tasks(root: Path) -> list[str]:
    """Instructions in the order of their task index; LeRobot versions name the text column differently."""
    path = root / "meta" / "tasks.parquet"
    table = read_table(path)
    texts = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or len(texts) < 1:
        raise DataError(f"{path}: expected a column task_index and one of texts, got {table.column_names}")
    named = "task" if "task" in texts else texts[-1]
    by_index = dict(zip(table["task_index"].to_pylist(), table[named].to_pylist(), strict=True))
    if sorted(by_index) != list(range(len(by_index))):
        raise DataError(f"{path}: task_index is not 0 to {len(by_index) - 1}")
    return [str(by_index[index]) for index in range(len(by_index))]


def read_episodes(root: Path, info: Info) -> list[EpisodeRow]:
    """The episodes that info.json counts, in order; rows beyond (of a recording that was killed) are left out.

    Raises:
        DataError: fewer rows than counted, or rows that do not follow one another.
    """
    folder = root / "meta" / "episodes"
    videos = [feature.name for feature in info.features.values() if feature.dtype == "video"]
    needed = ["episode_index", "tasks", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    needed += [f"videos/{name}/{key}" for name in videos for key in ("chunk_index", "file_index", "from_timestamp")]
    rows: list[EpisodeRow] = []
    for path in sorted(folder.glob("*/*.parquet")):
        if len(rows) >= info.episodes:
            break
        _, parquet = _parquet()
        try:
            has_notes = NOTES_COLUMN in parquet.read_schema(path).names
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not readable as parquet ({error}); it may be truncated") from error
        table = read_table(path, [*needed, NOTES_COLUMN] if has_notes else needed)
        rows += [_episode_row(raw, videos) for raw in table.to_pylist()]
    rows = rows[: info.episodes]
    if len(rows) < info.episodes:
        raise DataError(f"{folder}: lists {len(rows)} episodes, info.json counts {info.episodes}")
    start = 0
    for number, row in enumerate(rows):
        if row.index != number or row.start != start or row.length < 1:
            raise DataError(
                f"{folder}: episode {number} starts at frame {row.start} with index {row.index}, expected frame {start}"
            )
        start += row.length
    if start != info.frames:
        raise DataError(f"{folder}: episodes have {start} frames together, info.json counts {info.frames}")
    return rows


def _episode_row(raw: Mapping[str, Any], videos: Sequence[str]) -> EpisodeRow:
    places = {
        name: (
            int(raw[f"videos/{name}/chunk_index"]),
            int(raw[f"videos/{name}/file_index"]),
            float(raw[f"videos/{name}/from_timestamp"]),
        )
        for name in videos
    }
    return EpisodeRow(
        index=int(raw["episode_index"]),
        instruction=str(raw["tasks"][0]) if raw["tasks"] else "",
        start=int(raw["dataset_from_index"]),
        length=int(raw["length"]),
        data_chunk=int(raw["data/chunk_index"]),
        data_index=int(raw["data/file_index"]),
        videos=places,
        notes=str(raw.get(NOTES_COLUMN) or ""),
    )


def data_files(root: Path, info: Info, rows: Sequence[EpisodeRow]) -> dict[Path, list[EpisodeRow]]:
    """The data files in order, each with its episodes."""
    files: dict[Path, list[EpisodeRow]] = {}
    for row in rows:
        path = root / info.data_path.format(chunk_index=row.data_chunk, file_index=row.data_index)
        files.setdefault(path, []).append(row)
    return files


def read_columns(root: Path, info: Info, rows: Sequence[EpisodeRow], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Vector features over all frames, `(frames, size)` each, in their own dtype.

    Raises:
        DataError: a file is missing or truncated, or its rows are not those that the episodes name.
    """
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for path, members in data_files(root, info, rows).items():
        table = read_table(path, sorted({*names, "index"}))
        first, last = members[0].start, members[-1].start + members[-1].length
        table = table.slice(0, last - first)  # a killed recording may have left rows behind the counted ones
        index = table["index"].to_numpy()
        if len(index) != last - first or (index != np.arange(first, last)).any():
            raise DataError(
                f"{path}: has {len(index)} rows in order, but the episodes put frames {first} to {last} there"
            )
        for name in names:
            chunks[name].append(_vectors(table[name], info.features[name], path))
    empty = {name: np.zeros((0, info.features[name].size), info.features[name].dtype) for name in names}
    return {name: np.concatenate(parts) if parts else empty[name] for name, parts in chunks.items()}


def _vectors(column: Any, feature: Feature, path: Path) -> np.ndarray:
    """A column as `(rows, size)`."""
    array = column.combine_chunks()
    rows = len(array)
    if hasattr(array, "storage"):
        array = array.storage
    while hasattr(array, "flatten") and hasattr(array.type, "value_type"):
        array = array.flatten()
    if array.null_count:
        raise DataError(f"{path}: column {feature.name!r} has {array.null_count} empty values")
    values = array.to_numpy(zero_copy_only=False)
    if len(values) != rows * feature.size:
        raise DataError(
            f"{path}: column {feature.name!r} has {len(values) / max(rows, 1):g} values per row, info.json says "
            f"shape {feature.shape}"
        )
    return np.array(values, feature.dtype).reshape(rows, feature.size)


def write_data(features: Sequence[Feature], values: Mapping[str, Sequence[np.ndarray]]) -> bytes:
    """Frames of several episodes as one parquet file, a row group each."""
    pyarrow, parquet = _parquet()
    fields = []
    for feature in features:
        scalar = pyarrow.from_numpy_dtype(np.dtype(feature.dtype))
        fields.append(
            pyarrow.field(feature.name, scalar if feature.shape == (1,) else pyarrow.list_(scalar, feature.size))
        )
    schema = pyarrow.schema(fields)
    sink = io.BytesIO()
    with parquet.ParquetWriter(sink, schema, compression="snappy", use_dictionary=True) as writer:
        for episode in range(len(values["index"])):
            arrays = []
            for feature, field in zip(features, fields, strict=True):
                flat = pyarrow.array(np.ascontiguousarray(values[feature.name][episode]).reshape(-1))
                is_scalar = feature.shape == (1,)
                arrays.append(flat if is_scalar else pyarrow.FixedSizeListArray.from_arrays(flat, type=field.type))
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
    return sink.getvalue()


def write_tasks(tasks: Sequence[str]) -> bytes:
    """The task table: its row index, in pandas' terms, is the text."""
    pyarrow, parquet = _parquet()
    table = pyarrow.table({"task_index": np.arange(len(tasks)), "task": pyarrow.array(list(tasks), pyarrow.string())})
    column = {"field_name": "task_index", "metadata": None, "name": "task_index", "numpy_type": "int64"}
    text = {"field_name": "task", "metadata": None, "name": "task", "numpy_type": "object"}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [column | {"pandas_type": "int64"}, text | {"pandas_type": "unicode"}],
        "pandas_version": "2.0.0",
    }
    return _encode(parquet, table.replace_schema_metadata({"pandas": json.dumps(pandas)}))


def write_rows(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Plain rows as a parquet file; all have the same keys."""
    pyarrow, parquet = _parquet()
    return _encode(parquet, pyarrow.table({key: [row[key] for row in rows] for key in rows[0]}))


def _encode(parquet: Any, table: Any) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="snappy")
    return sink.getvalue()
