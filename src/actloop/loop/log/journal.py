"""An event log for the wall clock: it survives the process that writes it, and never makes a tick wait.

tick --pack--> pipe in the kernel's memory --> a small process of its own --> the file, line by line
               `-- outlives a robot process that is killed; the writer empties it and ends
"""

import errno
import fcntl
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

from actloop.loop.events import Event
from actloop.loop.log import lines
from actloop.loop.log.encoding import pack

PIPE_SIZE = 1 << 20  # bytes, seconds of robot time; what the kernel does not grant is halved
LAST_WAIT = 5.0  # seconds that the writer gets to finish
_unfinished: list[subprocess.Popen[bytes]] = []  # writers that still write after `close`: they end by themselves


class Journal:
    """Writes the same bytes as an `EventLog`, from another process. It is `Immediate`.

    What does not fit into the pipe is lost, counted, and said in the log (`lost`, with how many records) and in
    `warnings`.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lost = 0  # records that the log does not have
        self._untold = 0  # of those, the ones that the log does not know of
        self._rest = b""  # of a record of which the pipe took only a part
        self._broken = False
        source, self._pipe = os.pipe()
        try:
            _enlarge(self._pipe)
            os.set_blocking(self._pipe, False)
            self._writer = _start_writer(source, self.path)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            os.close(source)

    def on_event(self, event: Event) -> None:
        """Hand the record of an event to the writer, or lose it."""
        framed = lines.frame(pack(event))
        if self._untold and not self._rest:
            framed = lines.frame({"event": "lost", "count": self._untold}) + framed
        if self._put(framed):
            self._untold = 0
        else:
            self.lost += 1
            self._untold += 1

    @property
    def immediate(self) -> Literal[True]:
        """Told in the thread of the ticks."""
        return True

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the log lacks, and why."""
        ended = self._writer.poll()
        why = f"its writer ended: {os.strerror(ended)}" if ended else "its disk was too slow"
        return (f"{self.path}: {self.lost} records are not in the log: {why}",) if self.lost or ended else ()

    def close(self) -> None:
        """Wait until everything is written, for a few seconds at most; what takes longer is written afterwards."""
        if self._pipe < 0:
            return
        until = time.monotonic() + LAST_WAIT
        told = lines.frame({"event": "lost", "count": self._untold}) if self._untold else b""
        rest = self._rest + told + lines.END
        while rest and not self._broken and (remaining := until - time.monotonic()) > 0:
            if select.select([], [self._pipe], [], remaining)[1]:
                rest = rest[self._write(rest) :]
        os.close(self._pipe)
        self._pipe = -1
        try:
            self._writer.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            _unfinished.append(self._writer)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, framed: bytes) -> bool:
        """Whether the pipe takes a record; the rest of one that it began with goes first."""
        if self._rest:
            self._rest = self._rest[self._write(self._rest) :]
            if self._rest:
                return False
        taken = self._write(framed)
        if not taken:
            return False
        self._rest = framed[taken:]
        return True

    def _write(self, data: bytes) -> int:
        if self._broken:
            return 0
        try:
            return os.write(self._pipe, data)
        except BlockingIOError:
            return 0
        except OSError as error:  # the writer is gone: its disk is full, say
            if error.errno != errno.EPIPE:
                raise
            self._broken = True
            return 0


def _enlarge(pipe: int) -> None:
    size = PIPE_SIZE
    while size > 1 << 16:
        try:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
        except OSError:  # more than this user may have
            size //= 2
        else:
            return


def _start_writer(source: int, path: Path) -> subprocess.Popen[bytes]:
    """In a session of its own: Ctrl-C ends the robot's process, not this one."""
    _unfinished[:] = [writer for writer in _unfinished if writer.poll() is None]
    with path.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", lines.__file__],
            stdin=source,
            stdout=file,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
