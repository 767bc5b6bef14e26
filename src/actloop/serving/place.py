"""A module on a server, as a place of the loop; importable without torch.

thread of the place:  question -> Ask -> [server] -> Reply -> result, under the ticket of its question
                      broken? the question fails as `ConnectionLost`; the next one connects, begins anew, and asks
"""

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping

from actloop.errors import ActloopError, ContractError, MissingDependency
from actloop.loop.places import Threaded, check_seconds
from actloop.loop.questions import Question, Result, Ticket
from actloop.serving.plain import WireError
from actloop.serving.wire import (
    MAX_BYTES,
    MAX_FRAMES,
    Ask,
    Begin,
    Message,
    Refusal,
    RemoteError,
    Reply,
    Welcome,
    decode,
    encode_frames,
)

try:
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
    from websockets.sync.client import ClientConnection, connect
except ImportError as absent:
    raise MissingDependency("websockets", "a server is asked with it", "pip install 'actloop[serving]'") from absent

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts to connect; doubled after each that failed


class ConnectionLost(ActloopError):
    """The server could not be asked, or did not answer in time: hold, and ask again."""

    transient = True


class Remote(Threaded):
    """Asks a server, from a thread of its own; the loop never waits for it.

    A connection that breaks is made again with the next question, and the episode begun anew there. A question that
    meets no connection waits for one attempt, at most.

    Args:
        url: `ws://host:port`, or `wss://` for TLS.
        token: what the server demands.
        connect_timeout: seconds for the connection and the first frame, here and again later.
        reply_timeout: seconds from sending a question to its reply; later ones are dropped.
        timeout: seconds that `close` waits.
        jpeg_quality: of the pictures in both directions, 1 to 100; None to send them as they are.
        tls: in place of the machine's own trust.

    Raises:
        ContractError: a setting is out of range, the address is none, the token is refused, or the server speaks
            another version of the wire.
        ConnectionLost: the server cannot be reached.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        connect_timeout: float = 10.0,
        reply_timeout: float = 30.0,
        timeout: float = 5.0,
        jpeg_quality: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        for name, seconds in (("connect_timeout", connect_timeout), ("reply_timeout", reply_timeout)):
            check_seconds(name, seconds)
        check_seconds("timeout", timeout)
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
            raise ContractError("place.jpeg_quality", f"expected 1 to 100, got {jpeg_quality}")
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._link = _Link(url, headers, connect_timeout, reply_timeout, jpeg_quality, tls)
        self._link.connect()
        super().__init__(self._link, url, timeout=timeout)

    @property
    def served(self) -> dict[str, object]:
        """What the server says of itself, see `wire.describe`."""
        return dict(self._link.served or {})

    @property
    def connections(self) -> int:
        """How often a connection was made: 1 where none ever broke."""
        return self._link.connections

    @property
    def late(self) -> int:
        """Replies that came after their time and were dropped."""
        return self._link.late


class _Link:
    """The connection: one question on it at a time, so that a slow network does not queue them up."""

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        connect_timeout: float,
        reply_timeout: float,
        jpeg_quality: int | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._url, self._headers, self._tls = url, headers, tls
        self._connect_timeout, self._reply_timeout = connect_timeout, reply_timeout
        self._quality = jpeg_quality
        self._opened = contextlib.ExitStack()
        self._socket: ClientConnection | None = None
        self._max_bytes = MAX_BYTES
        self._episode: tuple[str, int] | None = None
        self._pause, self._not_before = FIRST_PAUSE, 0.0
        self._ended = threading.Event()
        self.served: Mapping[str, object] | None = None
        self.connections = self.late = 0

    def begin(self, instruction: str, seed: int) -> None:
        self._episode = (instruction, seed)
        if self._socket is not None:
            with contextlib.suppress(ConnectionLost):  # the next connection begins it
                self._send(Begin(instruction=instruction, seed=seed))

    def ask(self, question: Question) -> Result:
        ticket = question.ticket
        try:
            if self._socket is None:
                self._connect_again()
            self._send(Ask(question=question, jpeg_quality=self._quality))
            reply = self._reply_to(ticket)
        except ActloopError as error:
            return Result(ticket=ticket, seconds=0.0, error=error)
        failed = RemoteError(reply.failure.kind, reply.failure.message) if reply.failure else None
        return Result(ticket=ticket, seconds=reply.seconds, answer=reply.answer, error=failed)

    def interrupt(self) -> None:
        self._ended.set()
        if (connection := self._socket) is not None:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits for a reply

    def release(self, timeout: float) -> bool:
        self._hang_up()
        return True

    def connect(self) -> None:
        """Connect, and read the first frame.

        Raises:
            ContractError: it will not do, however often it is tried.
            ConnectionLost: it may do later.
        """
        opened = contextlib.ExitStack()
        try:
            connection = opened.enter_context(
                connect(
                    self._url,
                    additional_headers=self._headers,
                    open_timeout=self._connect_timeout,
                    close_timeout=1.0,
                    max_size=MAX_BYTES,
                    max_queue=MAX_FRAMES,
                    compression=None,
                    ssl=self._tls,
                    proxy=None,
                )
            )
        except (InvalidURI, ValueError) as error:
            raise ContractError(
                "place.url", f"expected ws://host:port or wss://host:port, got {self._url!r}"
            ) from error
        except InvalidStatus as error:
            if error.response.status_code == 401:
                raise ContractError("place.token", f"{self._url} needs another token") from error
            raise self._lost(f"refused the connection ({error})") from error
        except (OSError, InvalidHandshake, EOFError) as error:
            raise self._lost(f"cannot be reached ({error or type(error).__name__})") from error
        self._opened, self._socket = opened, connection
        self._check_wanted()
        _limit_sending(connection.socket, self._reply_timeout)
        welcome = self._receive(self._connect_timeout)
        if welcome is None:
            self._hang_up()
            raise self._lost(f"did not say what it serves within {self._connect_timeout:g} s")
        if not isinstance(welcome, Welcome):
            self._hang_up()
            raise WireError("welcome", f"expected the server's first frame, got {type(welcome).__name__.lower()}")
        if self.served is not None and dict(welcome.served) != dict(self.served):
            self._hang_up()
            raise ContractError("place.served", f"{self._url} serves something else than it did: start a new place")
        self.served, self._max_bytes = welcome.served, welcome.max_bytes
        self.connections += 1
        self._pause = FIRST_PAUSE

    def _connect_again(self) -> None:
        self._ended.wait(max(0.0, self._not_before - time.monotonic()))
        self._check_wanted()
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        self.connect()
        if self._episode is not None:
            self._send(Begin(instruction=self._episode[0], seed=self._episode[1]))

    def _check_wanted(self) -> None:
        if self._ended.is_set():
            self._hang_up()
            raise ConnectionLost("the place was closed")

    def _send(self, message: Begin | Ask) -> None:
        frames = encode_frames(message, jpeg_quality=self._quality)
        size = sum(map(len, frames))
        if size > self._max_bytes:
            reason = f"{size} bytes, the server takes {self._max_bytes}: send smaller pictures, or JPEG"
            raise ContractError("question", reason)
        if self._socket is None:
            raise self._lost("has hung up")
        try:
            self._socket.send(frames if len(frames) > 1 else frames[0])
        except (ConnectionClosed, OSError) as error:
            self._hang_up()
            raise self._lost(f"broke off ({error})") from error

    def _reply_to(self, ticket: Ticket) -> Reply:
        """The reply under this ticket; others come too late, and are dropped."""
        deadline = time.monotonic() + self._reply_timeout
        while True:
            message = self._receive(deadline - time.monotonic())
            if isinstance(message, Reply):
                if message.ticket == ticket:
                    return message
                self.late += 1
            elif message is None:
                raise self._lost(f"did not answer within {self._reply_timeout:g} s")

    def _receive(self, timeout: float) -> Message | None:
        """The next message; None where none came in time.

        Raises:
            ConnectionLost: there is no connection any more.
            RemoteError: the server said why it hangs up.
            WireError: it said something that is no message.
        """
        connection = self._socket
        if connection is None:
            raise self._lost("has hung up")
        try:
            message = decode(connection.recv(max(timeout, 0.0)))
        except TimeoutError:
            return None
        except WireError:
            self._hang_up()
            raise
        except (ConnectionClosed, OSError) as error:
            self._hang_up()
            raise self._lost(f"broke off ({error})") from error
        if isinstance(message, Refusal):
            self._hang_up()
            if message.code == "full":
                raise self._lost(message.reason)
            raise RemoteError(message.code, message.reason)
        return message

    def _lost(self, how: str) -> ConnectionLost:
        return ConnectionLost(f"{self._url} {how}")

    def _hang_up(self) -> None:
        self._socket = None
        self._opened.close()


def _limit_sending(connection: socket.socket, seconds: float) -> None:
    """Let a send fail that makes no progress for so long: a dead network would block it for many minutes."""
    limit = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with contextlib.suppress(OSError):  # already closed: reading from it will say why
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
