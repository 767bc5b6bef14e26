"""The messages between a robot and a server, and their bytes: msgpack, versioned, nothing that could run.

server                                client
  Welcome (what is served)     --->
                               <---   Begin (an episode)
                               <---   Ask (a question; a newer one replaces one that nobody has started on)
  Reply (under its ticket)     --->
  Refusal (then it hangs up)   --->

Every frame is {"actloop": VERSION, "type": ..., "body": {...}, "arrays": [...]}; see `plain` for values and arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actloop.contracts import Embodiment, embodiment_to_dict
from actloop.errors import ActloopError, ContractError, MissingDependency
from actloop.loop.questions import Answer, Layer, Question, Ticket
from actloop.serving.plain import Arrays, WireError, from_plain, read_arrays, to_plain

try:
    import msgpack
except ImportError as absent:
    raise MissingDependency("msgpack", "messages are written with it", "pip install 'actloop[serving]'") from absent

VERSION = 1
FRAGMENT = 256 * 2**10  # bytes of a frame: the receiver of larger ones spends its time on making room for them
BIN_32 = b"\xc6"  # msgpack: bytes, their number in the four that follow
MAX_FRAMES = 64  # that may wait unread before the sender is made to wait
MAX_BYTES = 64 * 2**20  # of one message, unless a server says otherwise

Code = Literal["version", "malformed", "module", "full"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """The first frame: what is served, and the largest message that is taken."""

    served: Mapping[str, object]
    max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """Begin an episode."""

    instruction: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question; the frames of its answer come as JPEG of this quality, or as they are."""

    question: Question
    jpeg_quality: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What a module raised: the name of its class, and its message."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer, or the failure that came instead; `seconds` of computing."""

    ticket: Ticket
    seconds: float
    answer: Answer | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why the server hangs up; `full` may be tried again later."""

    code: Code
    reason: str


Message = Welcome | Begin | Ask | Reply | Refusal
TYPES: dict[str, type[Message]] = {
    "welcome": Welcome,
    "begin": Begin,
    "ask": Ask,
    "reply": Reply,
    "refusal": Refusal,
}
NAMES = {kind: name for name, kind in TYPES.items()}


class VersionError(WireError):
    """The other side speaks another version of the wire."""


class RemoteError(ActloopError):
    """A module on a server raised; `kind` is the class of the error there."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}: {message}")


def encode(message: Message, *, jpeg_quality: int | None = None) -> bytes:
    """The bytes of a message; pictures as JPEG where a quality (1 to 100) is given.

    Raises:
        WireError: something in it has no form on the wire.
    """
    return b"".join(_parts(message, jpeg_quality))


def encode_frames(message: Message, *, jpeg_quality: int | None = None) -> list[bytes | memoryview]:
    """The same bytes in pieces to send one after another; large arrays are not copied, so nobody may write to them.

    Raises:
        WireError: something in it has no form on the wire.
    """
    frames: list[bytes | memoryview] = []
    small: list[bytes | memoryview] = []
    for part in _parts(message, jpeg_quality):
        if len(part) < FRAGMENT // 4:
            small.append(part)
            continue
        frames.append(b"".join(small))
        small.clear()
        frames += [memoryview(part)[begin : begin + FRAGMENT] for begin in range(0, len(part), FRAGMENT)]
    return [*frames, b"".join(small)] if small else frames


def decode(data: bytes | str, *, max_bytes: int = MAX_BYTES) -> Message:
    """The message in these bytes.

    Raises:
        VersionError: it is of another version.
        WireError: it is no message, too large, or not as its type declares.
    """
    envelope = _unpacked(data, max_bytes)
    if envelope.get("actloop") != VERSION:
        raise VersionError("message", f"expected version {VERSION} of the wire, got {envelope.get('actloop')!r}")
    if set(envelope) != {"actloop", "type", "body", "arrays"}:
        raise WireError("message", f"expected actloop, type, body and arrays, got {sorted(map(str, envelope))}")
    name = envelope["type"]
    if not isinstance(name, str) or name not in TYPES:
        raise WireError("message.type", f"expected one of {tuple(TYPES)}, got {name!r}")
    try:
        message: Message = from_plain(TYPES[name], envelope["body"], read_arrays(envelope["arrays"]), name)
    except WireError:
        raise
    except (ContractError, TypeError, ValueError) as error:  # what the dataclasses themselves demand
        raise WireError(name, str(error)) from error
    return message


def describe(
    *,
    layer: Layer,
    names: Sequence[str],
    embodiment: Embodiment | None = None,
    horizon: int = 0,
    digest: str = "",
) -> dict[str, object]:
    """What a server says of itself in its first frame: a client checks the fit before the first tick.

    Args:
        layer: that it answers for.
        names: of the policies or checks behind it.
        embodiment: the body they were made for; read back by `embodiment_from_dict`.
        horizon: actions in a chunk; 0 where no chunks are given.
        digest: of the weights; it changes when they do.
    """
    body = embodiment_to_dict(embodiment) if embodiment else None
    return {"layer": layer, "names": list(names), "embodiment": body, "horizon": horizon, "digest": digest}


def _parts(message: Message, jpeg_quality: int | None) -> list[bytes | memoryview]:
    """A msgpack map, written by hand around the bytes of its arrays: packing would copy them twice."""
    arrays, name = Arrays(jpeg_quality), NAMES[type(message)]
    body = to_plain(message, arrays, name)
    packer = msgpack.Packer()
    try:
        start = [packer.pack_map_header(4)]
        start += [packer.pack(item) for item in ("actloop", VERSION, "type", name, "body", body, "arrays")]
        parts: list[bytes | memoryview] = [*start, packer.pack_array_header(len(arrays.plain))]
        for entry in arrays.plain:
            data = entry.get("bytes")
            if not isinstance(data, memoryview):
                parts.append(packer.pack(entry))
                continue
            parts.append(packer.pack_map_header(3))
            parts += [packer.pack(item) for item in ("dtype", entry["dtype"], "shape", entry["shape"], "bytes")]
            parts += [BIN_32 + len(data).to_bytes(4, "big"), data]
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(name, f"cannot be sent ({error})") from error
    return parts


def _unpacked(data: bytes | str, max_bytes: int) -> dict[str, Any]:
    if isinstance(data, str):
        raise WireError("message", "expected a binary frame, got text")
    if len(data) > max_bytes:
        raise WireError("message", f"expected at most {max_bytes} bytes, got {len(data)}")
    try:
        envelope = msgpack.unpackb(data, strict_map_key=True, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError("message", f"not msgpack ({type(error).__name__}: {error})") from error
    if not isinstance(envelope, dict):
        raise WireError("message", f"expected a map, got {type(envelope).__name__}")
    return envelope
