"""A module in a process of its own: what it computes can neither delay a tick nor take the robot down with it.

thread of the place:  question --pickle--> pipe --------> child: module.answer --pipe--> result
                      `- arrays -> shared memory, which is the child's until it has replied and keeps none of them

Parent and child are one code base, so the pipe carries pickles; nothing else writes into it.
"""

import contextlib
import io
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Collection
from multiprocessing import connection, shared_memory
from typing import Any

import numpy as np

from actloop.errors import ActloopError, ContractError
from actloop.loop.places import ModuleWorker, Portable, Threaded, check_seconds
from actloop.loop.questions import Module, Question, Result

SHARED = 4096  # bytes from which an array goes through shared memory; below, the pipe is cheaper
RING = 4  # shared memories at most: one on its way, and those that a session keeps without a copy
HEADER = 64  # bytes before the arrays: the number of the question, written before and after them
ALIVE = 0.5  # seconds between looks at whether the other process still lives; its end of the pipe tells sooner

_Parcel = tuple[int, str, tuple[int, ...], tuple[str, ...], bytes]  # number, memory, sizes, all memories, the rest


class ProcessFailed(ActloopError):
    """The process of a module ended, or never came up. `exitcode` is negative for a signal, None while unknown."""

    def __init__(self, reason: str, exitcode: int | None = None) -> None:
        self.reason = reason
        self.exitcode = exitcode
        super().__init__(reason)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.reason, self.exitcode)


class InProcess(Threaded):
    """Runs a module in a process that is started here and ends with this one, however this one ends.

    A process that dies answers its open question, and every later one, with `ProcessFailed`.

    Args:
        factory: makes the module, there; a function of an importable module, or a `functools.partial` of one.
        start_timeout: seconds until the module has to be ready.
        timeout: seconds that `close` waits for a running answer before it kills the process.
        threads: of torch and OpenMP, there; None for their own choice.

    Raises:
        ContractError: the factory cannot be sent to a process, or a number is out of range.
        ProcessFailed: the process was not ready in time, or ended.
        ActloopError: what the factory raised; anything else that it raised is the cause of a `ProcessFailed`.
    """

    def __init__(
        self,
        factory: Callable[[], Module],
        *,
        start_timeout: float = 120.0,
        timeout: float = 5.0,
        threads: int | None = None,
    ) -> None:
        check_seconds("start_timeout", start_timeout)
        check_seconds("timeout", timeout)
        if threads is not None and threads < 1:
            raise ContractError("place.threads", f"expected at least 1, got {threads}")
        self._child = _Child(factory, start_timeout, threads)
        super().__init__(self._child, "process", timeout=timeout)

    @property
    def pid(self) -> int | None:
        """Of the process; None once it has been closed."""
        return self._child.pid


class _Child:
    """The parent's end: one question at a time, so that the shared memory has one owner at a time."""

    def __init__(self, factory: Callable[[], Module], start_timeout: float, threads: int | None) -> None:
        try:
            packed = pickle.dumps(factory)
        except Exception as error:
            reason = f"expected a function that can be imported, or a functools.partial of one, got {factory!r}"
            raise ContractError("place.factory", f"{reason} ({error})") from error
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, packed, threads, os.getpid())
        self._process = context.Process(target=_serve, args=arguments, name="actloop-module", daemon=True)
        self._process.start()
        theirs.close()
        self.pid = self._process.pid
        self._talking = threading.Lock()
        self._outbox = _Outbox()
        self._failed: ProcessFailed | None = None
        try:
            self._await_ready(start_timeout)
        except BaseException:
            self.release(0.0)
            raise

    def begin(self, instruction: str, seed: int) -> None:
        with contextlib.suppress(ProcessFailed):  # it is remembered, and the error of every question
            self._exchange(lambda: ("begin", instruction, seed))

    def ask(self, question: Question) -> Result:
        try:
            reply = self._exchange(lambda: ("ask", *self._outbox.pack(question)))
            seconds, answer, error, trace, self._outbox.held = reply
        except (ProcessFailed, OSError) as failed:
            return Result(ticket=question.ticket, seconds=0.0, error=failed)
        if trace:
            error.add_note(trace)
        return Result(ticket=question.ticket, seconds=seconds, answer=answer, error=error)

    def interrupt(self) -> None:
        """The module may finish its answer within the timeout; after that the process is killed."""

    def release(self, timeout: float) -> bool:
        if self.pid is None:
            return True
        if timeout:
            with contextlib.suppress(OSError):
                self._pipe.send_bytes(pickle.dumps(("stop",)))
        self._process.join(timeout)
        returned = self._process.exitcode is not None
        if not returned:
            self._process.kill()
            self._process.join()
        with self._talking:  # the thread has seen the end of the process by now, or sees it within ALIVE
            self._failed = self._failed or ProcessFailed("the place was closed")
            self._pipe.close()
            self._outbox.close()
            self._process.close()
            self.pid = None
        return returned

    def _await_ready(self, timeout: float) -> None:
        if not self._wait(timeout):
            raise ProcessFailed(f"the module was not ready within {timeout:g} s; its process was ended")
        word, error, trace = self._receive()
        if word == "ready":
            return
        error.add_note(trace)
        if isinstance(error, ActloopError):
            raise error
        raise ProcessFailed(f"the factory raised {type(error).__name__}: {error}") from error

    def _exchange(self, make: Callable[[], tuple[object, ...]]) -> Any:
        with self._talking:
            if self._failed is not None:
                raise self._failed
            message = pickle.dumps(make())
            try:
                self._pipe.send_bytes(message)
            except OSError:
                raise self._died() from None
            while not self._wait(3600.0):
                pass
            return self._receive()

    def _wait(self, timeout: float) -> bool:
        """Whether something has come; raises where nothing can come any more."""
        while timeout > 0:
            if self._pipe.poll(min(ALIVE, timeout)):
                return True
            if not self._process.is_alive() and not self._pipe.poll(0):
                raise self._died()
            timeout -= ALIVE
        return False

    def _receive(self) -> Any:
        try:
            return pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError):
            raise self._died() from None

    def _died(self) -> ProcessFailed:
        self._process.join(2.0)
        code = self._process.exitcode
        if code is None:
            self._process.kill()
            how = "closed its pipe and was killed"
        elif code < 0:
            name = signal.Signals(-code).name
            how = f"was ended by signal {-code} ({name})"
            how += ", as the system does when memory runs out" if name == "SIGKILL" else ""
        else:
            how = f"ended with exit code {code}; what it said is in its own output"
            if code == 1:
                how += " (a script that starts processes needs `if __name__ == '__main__':`)"
        self._failed = ProcessFailed(f"the process of the module {how}", code)
        return self._failed


class _Outbox:
    """A ring of shared memories for the arrays of questions, each as large as it ever had to be."""

    def __init__(self) -> None:
        self._ring: dict[str, shared_memory.SharedMemory] = {}
        self._number = 0
        self.held: Collection[str] = ()
        weakref.finalize(self, _unlink, self._ring)  # for those who leave without closing

    def pack(self, question: Question) -> _Parcel:
        """Write the arrays of a question, each once, however often the question holds it, and pickle the rest.

        Raises:
            OSError: the machine has no shared memory left.
        """
        arrays: list[np.ndarray] = []

        def take(buffer: pickle.PickleBuffer) -> bool:
            array = np.frombuffer(buffer.raw(), np.uint8)
            if array.nbytes < SHARED:
                return True  # in the pickle
            arrays.append(array)
            return False

        stream = io.BytesIO()
        _Packer(stream, protocol=5, buffer_callback=take).dump(question)
        sizes = tuple(array.nbytes for array in arrays)
        self._number += 1
        memory = self._room(HEADER + sum(sizes)) if sizes else None
        if memory is not None:
            marks = np.frombuffer(_bytes(memory), np.uint64, 2)
            marks[0] = self._number
            begin = HEADER
            for array in arrays:
                # NumPy lets other threads run while it copies; a slice of a memoryview would not.
                np.copyto(np.frombuffer(_bytes(memory), np.uint8, array.nbytes, begin), array)
                begin += array.nbytes
            marks[1] = self._number
        return self._number, memory.name if memory else "", sizes, tuple(self._ring), stream.getvalue()

    def close(self) -> None:
        for name in list(self._ring):
            self._drop(name)

    def _room(self, size: int) -> shared_memory.SharedMemory:
        free = [name for name in self._ring if name not in self.held]
        for name in free:
            if self._ring[name].size >= size:
                return self._ring[name]
            self._drop(name)
        left = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
        if left is not None and left.f_bavail * left.f_frsize < size:  # writing beyond would be SIGBUS, not an error
            mend = "give the container more, for example with --shm-size=1g"
            raise OSError(f"shared memory (/dev/shm) has no room for {size / 1e6:.1f} MB of images: {mend}")
        memory = shared_memory.SharedMemory(create=True, size=size)
        self._ring[memory.name] = memory
        return memory

    def _drop(self, name: str) -> None:
        memory = self._ring.pop(name)
        memory.close()
        memory.unlink()


def _unlink(ring: dict[str, shared_memory.SharedMemory]) -> None:
    while ring:
        ring.popitem()[1].unlink()


class _Inbox:
    """The child's side of the ring. A memory stays the child's until nothing there looks at its arrays any more."""

    def __init__(self) -> None:
        self._ring: dict[str, _Lent] = {}
        self._lent: dict[str, weakref.ref[np.ndarray]] = {}

    def unpack(self, number: int, name: str, sizes: tuple[int, ...], ring: tuple[str, ...], rest: bytes) -> Question:
        """The question, its arrays where the parent wrote them, or copied where too many of the ring are kept."""
        for gone in set(self._ring) - set(ring):
            self._ring.pop(gone).close()
        arrays: list[np.ndarray] = []
        if sizes:
            if name not in self._ring:
                self._ring[name] = _Lent(name=name)
            self.check(number, name)
            whole = np.frombuffer(_bytes(self._ring[name]), np.uint8)
            begins = np.cumsum((HEADER, *sizes))
            arrays = [whole[begin : begin + size] for begin, size in zip(begins, sizes, strict=False)]
            if len(self.held()) >= RING - 1:
                arrays = [array.copy() for array in arrays]
            self._lent[name] = weakref.ref(whole)
        question: Question = pickle.loads(rest, buffers=arrays)
        return question

    def check(self, number: int, name: str) -> None:
        """Raise `ActloopError` where a memory does not hold the whole of the question announced."""
        if name:
            found = np.frombuffer(_bytes(self._ring[name]), np.uint64, 2).tolist()
            if found != [number, number]:
                raise ActloopError(f"torn images: those of question {number} are from {found[0]} to {found[1]}")

    def held(self) -> list[str]:
        """The memories that something here still looks at: a session may keep what it saw."""
        return [name for name, whole in self._lent.items() if whole() is not None and name in self._ring]


class _Lent(shared_memory.SharedMemory):
    """A memory of the parent, which what still looks at it keeps mapped: a session may outlive the last question."""

    def close(self) -> None:
        with contextlib.suppress(BufferError):
            super().close()


def _bytes(memory: shared_memory.SharedMemory) -> memoryview:
    assert memory.buf is not None, "the memory was closed"
    return memory.buf


class _Packer(pickle.Pickler):
    """Sends arrays out of band, those with gaps between their rows too (a crop, a flipped picture)."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is np.ndarray and not value.flags.forc:
            return np.ascontiguousarray(value).__reduce_ex__(5)
        return NotImplemented


def _serve(pipe: connection.Connection, factory: bytes, threads: int | None, parent: int) -> None:
    """The life of the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent closes it, in order
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    try:
        worker = ModuleWorker(Portable(pickle.loads(factory)()))
    except Exception as raised:
        pipe.send_bytes(pickle.dumps(("failed", *_portable(raised))))
        return
    if threads is not None and (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(threads)
    pipe.send_bytes(pickle.dumps(("ready", None, "")))
    inbox = _Inbox()
    with contextlib.suppress(EOFError, OSError):  # the parent is gone
        while (message := pickle.loads(pipe.recv_bytes()))[0] != "stop":
            pipe.send_bytes(_reply(worker, inbox, *message))


def _reply(worker: ModuleWorker, inbox: _Inbox, word: str, *content: Any) -> bytes:
    if word == "begin":
        worker.begin(*content)
        return pickle.dumps(None)
    number, name, *_ = content
    seconds, error = 0.0, None
    try:
        result = worker.ask(inbox.unpack(*content))
        inbox.check(number, name)
        seconds, error = result.seconds, result.error
        if error is None:
            return pickle.dumps((seconds, result.answer, None, "", inbox.held()), protocol=5)
    except Exception as raised:  # torn images, or an answer that cannot be pickled
        error = raised
    told = _portable(error)
    traceback.clear_frames(error.__traceback__)  # they hold the question, and with it the memory of its images
    return pickle.dumps((seconds, None, *told, inbox.held()))


def _portable(raised: Exception) -> tuple[Exception, str]:
    """The error in a form that survives the pipe, and its traceback as text."""
    trace = "in the process of the module:\n" + "".join(traceback.format_exception(raised))
    try:
        return pickle.loads(pickle.dumps(raised)), trace
    except Exception:  # an error whose class cannot be rebuilt from its own arguments
        return ActloopError(f"{type(raised).__name__}: {raised}"), trace


def _end_with(parent: int) -> None:
    """End this process as soon as its parent has, even where a module computes or a signal ended the parent."""
    living = multiprocessing.parent_process()
    while living is not None and living.is_alive() and os.getppid() == parent:
        connection.wait([living.sentinel], ALIVE)
    os._exit(1)
