"""Serves modules to robots over WebSockets: a session per connection, and no thinking on the event loop.

connection -> decode (a thread) -> InThread (its own module; the newest question wins) -> encode (a thread) -> reply

`GET /healthz` answers 200 without a token. A client that goes away frees its module.
"""

import asyncio
import contextlib
import hmac
import http
import logging
import ssl
import threading
from collections.abc import Callable, Mapping

from actloop.errors import ActloopError, ContractError, MissingDependency
from actloop.loop.places import InThread, Portable, check_seconds
from actloop.loop.questions import Module, Result
from actloop.serving.plain import WireError
from actloop.serving.wire import (
    MAX_BYTES,
    MAX_FRAMES,
    Ask,
    Begin,
    Code,
    Failure,
    Refusal,
    Reply,
    VersionError,
    Welcome,
    decode,
    encode,
    encode_frames,
)

try:
    from websockets.asyncio.server import ServerConnection, serve
    from websockets.exceptions import ConnectionClosed
    from websockets.http11 import Request, Response
except ImportError as absent:
    raise MissingDependency("websockets", "modules are served with it", "pip install 'actloop[serving]'") from absent

LOCAL = ("127.0.0.1", "::1", "localhost")
# Once a block of this size was freed, glibc keeps smaller ones and does not give them back to the system: large
# messages come and go, and asking for their memory anew costs more than reading them.
KEPT = 16 * 2**20
PROTOCOL_ERROR, CRASHED, LATER = 1002, 1011, 1013  # close codes of WebSockets
log = logging.getLogger("actloop.serving")


class Server:
    """Serves until it is closed, in a thread of its own; a context manager.

    Args:
        factory: makes the module of a connection. Modules of two connections are used from two threads at once: what
            they share (weights) must bear that.
        served: what the server says of itself, see `wire.describe`.
        host: to listen on; anything but this machine needs a token.
        port: 0 for any free one, see `url`.
        token: that clients have to show; send it over TLS where others can listen.
        max_bytes: of one message.
        max_clients: further ones are told to come again later.
        timeout: seconds for a module to return, once its client is gone; and for a client to answer a ping.
        tls: certificate and key.

    Raises:
        ContractError: a setting is out of range, or the port cannot be listened on.
    """

    def __init__(
        self,
        factory: Callable[[], Module],
        *,
        served: Mapping[str, object],
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        max_bytes: int = MAX_BYTES,
        max_clients: int = 8,
        timeout: float = 20.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        check_seconds("timeout", timeout)
        if host not in LOCAL and not token:
            raise ContractError("server.token", f"listening on {host}, beyond this machine, needs a token")
        if max_bytes < 1024 or max_clients < 1:
            raise ContractError("server", f"expected room for messages and clients, got {max_bytes}, {max_clients}")
        self._factory = factory
        self._served = dict(served)
        self._host, self._port = host, port
        self._token = token
        self._max_bytes, self._max_clients = max_bytes, max_clients
        self._timeout = timeout
        self._tls = tls
        self._clients = 0
        self._started = threading.Event()
        self._failed: Exception | None = None
        self._stop: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=self._run, name="actloop-server", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failed is not None:
            self._thread.join()
            raise ContractError("server", f"cannot listen on {host}:{port} ({self._failed})") from self._failed

    @property
    def url(self) -> str:
        """Where clients find it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'wss' if self._tls else 'ws'}://{host}:{self._port}"

    @property
    def clients(self) -> int:
        """Connected now."""
        return self._clients

    def wait(self) -> None:
        """Serve until another thread closes it, or an interrupt from the keyboard comes."""
        while self._thread.is_alive():
            self._thread.join(1.0)

    def close(self) -> bool:
        """Hang up and stop; False where that took longer than the modules were given."""
        self._stop()
        self._thread.join(2 * self._timeout + 1.0)
        return not self._thread.is_alive()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._listen())
        except Exception as error:  # told by the constructor; once it serves, nothing of a client comes up to here
            self._failed = error
        finally:
            self._started.set()

    async def _listen(self) -> None:
        bytearray(KEPT)
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with serve(
            self._session,
            self._host,
            self._port,
            process_request=self._admit,
            max_size=self._max_bytes,
            max_queue=MAX_FRAMES,
            compression=None,
            ping_interval=self._timeout,
            ping_timeout=self._timeout,
            close_timeout=2.0,
            ssl=self._tls,
            logger=log,
        ) as listener:
            self._port = next(iter(listener.sockets)).getsockname()[1]
            self._stop = lambda: _from_thread(loop, stopped.set)
            self._started.set()
            await stopped.wait()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """An answer in place of a session, or None for a session."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._token is not None:
            shown = request.headers.get("Authorization", "")
            if not hmac.compare_digest(shown.encode(), f"Bearer {self._token}".encode()):
                return connection.respond(http.HTTPStatus.UNAUTHORIZED, "a bearer token is needed\n")
        return None

    async def _session(self, connection: ServerConnection) -> None:
        if self._clients >= self._max_clients:
            await refuse(connection, "full", f"already {self._clients} clients; come again later", LATER)
            return
        self._clients += 1
        try:
            with contextlib.suppress(ConnectionClosed):
                await self._serve_module(connection)
        finally:
            self._clients -= 1

    async def _serve_module(self, connection: ServerConnection) -> None:
        try:
            module = await asyncio.to_thread(self._factory)
        except Exception as error:  # whatever the factory is made of
            log.exception("the factory of modules failed")
            await refuse(connection, "module", f"{type(error).__name__}: {error}", CRASHED)
            return
        session = _Session(connection, module, self._timeout, self._max_bytes)
        await connection.send(encode(Welcome(served=self._served, max_bytes=self._max_bytes)))
        await session.run()


class _Session:
    """One client: its module in a thread, its questions in, its replies out."""

    def __init__(self, connection: ServerConnection, module: Module, timeout: float, max_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self._connection = connection
        self._max_bytes = max_bytes
        self._ready = asyncio.Event()
        self._jpeg_quality: int | None = None
        self._place = InThread(Portable(module), timeout, notify=lambda: _from_thread(loop, self._ready.set))

    async def run(self) -> None:
        """Until the client goes away, or says what cannot be understood."""
        replies = asyncio.create_task(self._reply())
        try:
            async for data in self._connection:
                await self._take(data)
        except WireError as error:
            code: Code = "version" if isinstance(error, VersionError) else "malformed"
            await refuse(self._connection, code, str(error), PROTOCOL_ERROR)
        except (ContractError, MissingDependency) as error:  # a question before the first episode; JPEG without pillow
            await refuse(self._connection, "malformed", str(error), PROTOCOL_ERROR)
        finally:
            replies.cancel()
            await asyncio.gather(replies, return_exceptions=True)
            if not await asyncio.to_thread(self._place.close):
                log.warning("a module did not return in time after its client had gone; its thread is left behind")

    async def _take(self, data: bytes | str) -> None:
        message = await asyncio.to_thread(decode, data, max_bytes=self._max_bytes)
        if isinstance(message, Begin):
            self._place.start(message.instruction, seed=message.seed)
        elif isinstance(message, Ask):
            self._jpeg_quality = message.jpeg_quality
            self._place.submit(message.question)
        else:
            raise WireError("message.type", f"expected begin or ask, got {type(message).__name__.lower()}")

    async def _reply(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while await self._ready.wait():
                self._ready.clear()
                for result in self._place.collect():
                    frames = await asyncio.to_thread(_encoded, result, self._jpeg_quality)
                    await self._connection.send(frames if len(frames) > 1 else frames[0])


async def refuse(connection: ServerConnection, code: Code, reason: str, close: int) -> None:
    """Say why, and hang up."""
    with contextlib.suppress(ConnectionClosed):
        await connection.send(encode(Refusal(code=code, reason=reason)))
        await connection.close(close, code)


def _encoded(result: Result, jpeg_quality: int | None) -> list[bytes | memoryview]:
    ticket, seconds, error = result.ticket, result.seconds, result.error
    if error is None:
        try:
            return encode_frames(Reply(ticket=ticket, seconds=seconds, answer=result.answer), jpeg_quality=jpeg_quality)
        except ActloopError as unsendable:
            error = unsendable
    log.error("a module failed at %s", ticket, exc_info=error)
    failure = Failure(kind=type(error).__name__, message=str(error))
    return encode_frames(Reply(ticket=ticket, seconds=seconds, failure=failure))


def _from_thread(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the event loop has ended, and nobody waits any more
        loop.call_soon_threadsafe(call)
