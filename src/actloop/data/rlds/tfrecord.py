"""One TFRecord file: which records it holds, and each of them by number.

length u64 | masked CRC32C of the length u32 | payload | masked CRC32C of the payload u32      little-endian, repeated

The file is opened for each read and held by nobody: a shard may be used after a fork, sent to a process, and be one of
thousands.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from actloop.errors import DataError, MissingDependency

HEAD, TAIL = 12, 4  # bytes around a payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file; record `i` is the `lengths[i]` bytes at `offsets[i]`."""

    path: Path
    offsets: Int[np.ndarray, "records"]
    lengths: Int[np.ndarray, "records"]

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, number: int, *, verify: bool = True) -> bytes:
        """The payload of a record; `verify` compares its checksum.

        Raises:
            DataError: the file is gone, was cut since it was opened, or the payload is not what was written.
        """
        offset, length = int(self.offsets[number]), int(self.lengths[number])
        try:
            with self.path.open("rb", buffering=0) as file:
                raw = os.pread(file.fileno(), length + TAIL, offset)
        except OSError as error:
            raise DataError(f"{self.path}: record {number}: not readable ({error})") from error
        if len(raw) != length + TAIL:
            raise _truncated(self.path, number, offset, length + TAIL, len(raw))
        payload = raw[:length]
        if verify and masked_crc(payload) != int.from_bytes(raw[length:], "little"):
            raise DataError(
                f"{self.path}: record {number} at byte {offset}: the checksum of its {length} bytes does not match; "
                "the file is damaged, copy it again"
            )
        return payload


def open_shard(path: str | Path) -> Shard:
    """Find the records of a file by walking over their lengths, whose checksums are compared.

    Raises:
        DataError: missing, truncated, or no TFRecord file; names the record and the byte.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: missing")
    offsets: list[int] = []
    lengths: list[int] = []
    with path.open("rb", buffering=0) as file:
        size, place = os.fstat(file.fileno()).st_size, 0
        while place < size:
            head = os.pread(file.fileno(), HEAD, place)
            if len(head) < HEAD:
                raise _truncated(path, len(offsets), place, HEAD, len(head))
            if masked_crc(head[:8]) != int.from_bytes(head[8:], "little"):
                raise DataError(
                    f"{path}: record {len(offsets)} at byte {place}: the checksum of its length does not match; the "
                    "file is damaged, or compressed, or no TFRecord file"
                )
            length = int.from_bytes(head[:8], "little")
            after = place + HEAD + length + TAIL
            if after > size:
                raise _truncated(path, len(offsets), place, after - place, size - place)
            offsets.append(place + HEAD)
            lengths.append(length)
            place = after
    return Shard(path=path, offsets=np.array(offsets, np.int64), lengths=np.array(lengths, np.int64))


def masked_crc(data: bytes) -> int:
    """The CRC32C of `data`, rotated and offset as TFRecord stores it.

    Raises:
        MissingDependency: google-crc32c is not installed.
    """
    crc = _crc32c()(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c() -> Callable[[bytes], int]:
    try:
        from google_crc32c import value
    except ImportError as error:
        raise MissingDependency(
            "google-crc32c", "TFRecord files carry CRC32C checksums", "pip install 'actloop[data]'"
        ) from error
    checksum: Callable[[bytes], int] = value
    return checksum


def _truncated(path: Path, number: int, place: int, expected: int, found: int) -> DataError:
    return DataError(
        f"{path}: record {number} at byte {place}: expected {expected} bytes, found {found}; the file is truncated"
    )
