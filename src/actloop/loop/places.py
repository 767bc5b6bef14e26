"""Where a module runs on this machine's own interpreter: at once, or in a thread beside a real robot.

loop --submit--> [mailbox of one: the newest wins] --thread--> Worker.ask --> results --collect--> loop
                                                                  `- this module, a process, a server
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar, runtime_checkable

from actloop.errors import ActloopError, ContractError
from actloop.loop.questions import Answer, Module, Question, Result

Entered = TypeVar("Entered", bound="Threaded")


class Here:
    """Runs the module inside `submit`, in the loop's own thread: for the virtual clock, and for modules of no cost."""

    name = "here"
    superseded = 0

    def __init__(self, module: Module, *, timer: Callable[[], float] = time.perf_counter) -> None:
        self._worker = ModuleWorker(module, timer)
        self._results: list[Result] = []
        self._state = "new"

    def start(self, instruction: str, *, seed: int) -> None:
        """Begin an episode; what its beginning raises is the error of every question of it."""
        _check_open(self._state == "closed")
        self._state = "started"
        self._worker.begin(instruction, seed)

    def submit(self, question: Question) -> None:
        _check_open(self._state == "closed")
        _check_started(self._state == "started")
        self._results.append(self._worker.ask(question))

    def collect(self, timeout: float = 0.0) -> Sequence[Result]:
        """Every result since the last time; there is never one to wait for."""
        ready, self._results = self._results, []
        return ready

    def cancel(self) -> None:
        """Nothing ever waits here."""

    def close(self) -> bool:
        self._state = "closed"
        return True


@runtime_checkable
class Worker(Protocol):
    """What a place's thread drives; `begin` and `ask` come from that one thread and may take their time."""

    def begin(self, instruction: str, seed: int) -> None:
        """Begin an episode. It raises nothing: an error is that of the episode's questions."""
        ...

    def ask(self, question: Question) -> Result: ...

    def interrupt(self) -> None:
        """Called at the end, from another thread: let a running `ask` return soon, where that is possible."""
        ...

    def release(self, timeout: float) -> bool:
        """Called last, once no answer is wanted any more: give back what is held; False where force was needed."""
        ...


class ModuleWorker:
    """A module of this interpreter, timed, whose errors become results."""

    def __init__(self, module: Module, timer: Callable[[], float] = time.perf_counter) -> None:
        self._module = module
        self._timer = timer
        self._failed: Exception | None = None

    def begin(self, instruction: str, seed: int) -> None:
        self._failed = None
        try:
            self._module.start(instruction, seed=seed)
        except Exception as raised:  # told with the first question: beginning has no ticket of its own
            self._failed = raised

    def ask(self, question: Question) -> Result:
        answer: Answer | None = None
        error = self._failed
        begun = self._timer()
        if error is None:
            try:
                answer = self._module.answer(question)
            except Exception as raised:  # the module's code: its failure is the loop's to judge
                error = raised
        return Result(ticket=question.ticket, seconds=self._timer() - begun, answer=answer, error=error)

    def interrupt(self) -> None:
        """A running function cannot be interrupted."""

    def release(self, timeout: float) -> bool:
        return True


class Threaded:
    """A place whose worker is driven by a thread of its own; the loop never waits for it.

    Use it as a context manager or close it; it can serve many episodes, one after the other.

    Args:
        worker: what answers.
        name: of the place.
        timeout: seconds that `close` waits for a running answer.
        notify: called from the thread after every result.

    Raises:
        ContractError: `timeout` is not above 0; later, a question before the first `start` or after `close`.
    """

    def __init__(self, worker: Worker, name: str, *, timeout: float, notify: Callable[[], None] | None = None) -> None:
        check_seconds("timeout", timeout)
        self._worker = worker
        self._name = name
        self._timeout = timeout
        self._notify = notify
        self._changed = threading.Condition()
        self._episode: tuple[int, str, int] = (0, "", 0)  # how many were started, instruction, seed
        self._waiting: Question | None = None
        self._frames: list[Question] = []  # that ask for nothing: none of them replaces another
        self._answering = False
        self._results: list[Result] = []
        self._superseded = 0
        self._closing = False
        self._closed: bool | None = None
        self._thread = threading.Thread(target=self._work, name=f"actloop-{name}", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        return self._name

    @property
    def superseded(self) -> int:
        return self._superseded

    def start(self, instruction: str, *, seed: int) -> None:
        """Begin an episode before its first question; one of the last that waits is dropped.

        One that is being answered goes on, and its result comes under its own ticket.
        """
        with self._changed:
            _check_open(self._closing)
            self._episode = (self._episode[0] + 1, instruction, seed)
            self._waiting = None
            self._frames.clear()
            self._changed.notify_all()

    def submit(self, question: Question) -> None:
        """Leave a question: the newest wins; frames that ask for nothing are all taken in, in their order."""
        with self._changed:
            _check_open(self._closing)
            _check_started(self._episode[0] > 0)
            if question.ticket.is_frame:
                self._frames.append(question)
            else:
                self._superseded += self._waiting is not None
                self._waiting = question
            self._changed.notify_all()

    def collect(self, timeout: float = 0.0) -> Sequence[Result]:
        """What has come since the last time, in order; waits only while a question is open."""
        with self._changed:
            if timeout > 0:
                self._changed.wait_for(lambda: self._results or not self._busy, timeout)
            ready, self._results = self._results, []
        return ready

    def cancel(self) -> None:
        with self._changed:
            self._waiting = None
            self._changed.notify_all()

    def close(self) -> bool:
        """Stop; False where the worker did not return within the timeout. A thread that hangs is left behind."""
        if self._closed is None:
            with self._changed:
                self._closing, self._waiting = True, None
                self._changed.notify_all()
            self._worker.interrupt()
            self._thread.join(self._timeout)
            returned = not self._thread.is_alive()
            released = self._worker.release(self._timeout if returned else 0.0)
            if not returned:
                self._thread.join(0.5)  # a worker that was killed in `release` lets its thread go
            self._closed = returned and released
        return self._closed

    def __enter__(self: Entered) -> Entered:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        begun, failed = 0, None
        while (job := self._next(begun)) is not None:
            (number, instruction, seed), question = job
            try:
                if question is None:
                    begun, failed = number, None
                    self._worker.begin(instruction, seed)
                    continue
                result = self._worker.ask(question) if failed is None else _failure(question, failed)
            except BaseException as raised:  # a thread that dies in silence would leave the robot holding for ever
                if question is None:
                    failed = raised
                    continue
                result = _failure(question, raised)
            with self._changed:
                self._answering = False
                self._results.append(result)
                self._changed.notify_all()
            if self._notify:
                self._notify()

    def _next(self, begun: int) -> tuple[tuple[int, str, int], Question | None] | None:
        """A new episode (no question), else a question, else, once closing, None. Waits for one of them."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._episode[0] != begun or self._waiting is not None or bool(self._frames)
            )
            if self._closing:
                return None
            if self._episode[0] != begun:
                return self._episode, None
            question = self._oldest()
            self._answering = True
            return self._episode, question

    @property
    def _busy(self) -> bool:
        return self._answering or self._waiting is not None or bool(self._frames)

    def _oldest(self) -> Question | None:
        """Of what waits, by the tick of its observation; it waits no more."""
        waiting, frames = self._waiting, self._frames
        if frames and (waiting is None or frames[0].ticket.tick <= waiting.ticket.tick):
            return frames.pop(0)
        self._waiting = None
        return waiting


class Portable:
    """A module whose answers can leave this interpreter.

    Imagined frames are decoded as a part of answering, and left out where nobody asked for them.
    """

    def __init__(self, module: Module) -> None:
        self._module = module

    def start(self, instruction: str, *, seed: int) -> None:
        self._module.start(instruction, seed=seed)

    def answer(self, question: Question) -> Answer:
        answer = self._module.answer(question)
        prediction = answer.prediction
        if prediction is None or prediction.future is None:
            return answer
        future = None
        if question.imagine or question.ticket.layer == "foresight":
            future = replace(prediction.future, frames=dict(prediction.future.frames))
        return replace(answer, prediction=replace(prediction, future=future))


class InThread(Threaded):
    """Runs the module in a thread of this process, for the wall clock.

    Python runs one thread at a time: a module that computes in Python delays the tick. Use `InProcess` for those.
    """

    def __init__(self, module: Module, timeout: float = 5.0, *, notify: Callable[[], None] | None = None) -> None:
        super().__init__(ModuleWorker(module), "thread", timeout=timeout, notify=notify)


def check_seconds(what: str, seconds: float) -> None:
    """Raise `ContractError` where a duration is not above 0 and finite."""
    if not 0 < seconds < float("inf"):
        raise ContractError(f"place.{what}", f"expected seconds above 0, got {seconds}")


def _failure(question: Question, raised: BaseException) -> Result:
    error = raised if isinstance(raised, Exception) else ActloopError(f"the module raised {raised!r}")
    return Result(ticket=question.ticket, seconds=0.0, error=error)


def _check_open(closed: bool) -> None:
    if closed:
        raise ContractError("place", "is closed; make a new one")


def _check_started(started: bool) -> None:
    if not started:
        raise ContractError("place", "has no episode yet; call start(instruction, seed=...) before the first question")
