"""Modules on a server: the wire, what the server refuses, and a place that survives its server."""

import dataclasses
import io
import logging
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import place_modules
import pytest
from PIL import Image
from place_modules import ask, gather, only
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from actloop.checks.evidence import Evidence, Overtaken, Reading
from actloop.contracts import ActionChunk, Committed, Future, Prediction, embodiment_from_dict
from actloop.errors import ContractError
from actloop.loop.questions import Answer, Place, Question
from actloop.serving.place import ConnectionLost, Remote
from actloop.serving.plain import MAX_PIXELS, WireError
from actloop.serving.server import Server
from actloop.serving.wire import (
    FRAGMENT,
    VERSION,
    Ask,
    Begin,
    Failure,
    Message,
    Refusal,
    RemoteError,
    Reply,
    VersionError,
    Welcome,
    decode,
    describe,
    encode,
    encode_frames,
)
from actloop.simulation.exact import ExactWorld, read_tick

PATIENT = 20.0
SERVED = describe(layer="action", names=["saying"], embodiment=ExactWorld().embodiment, horizon=4, digest="d1")


def chunk(tick: int) -> ActionChunk:
    actions = np.arange(8, dtype=np.float32).reshape(4, 2) + tick
    return ActionChunk(actions=actions, anchor=tick, period=0.1, observed_at=tick * 0.1)


def full_question() -> Question:
    """A question in which everything is set."""
    question = ask(7, "go on", episode=3, imagine=True, layer="check", candidates=4, deadline=9.5, patience=0.25)
    rng = np.random.default_rng(0)
    frames = {"left": rng.integers(0, 255, (3, 16, 24, 3), np.uint8)}
    future = Future(frames=frames, chunk=chunk(5), period=0.2, follows_chunk=True)
    evidence = Evidence(
        observation=question.observation,
        anchor=ask(5).observation,
        prediction=Prediction(chunk=chunk(5), future=future, text="so"),
        progress=1.5,
        sent=np.ones((2, 2)),
        instruction="before",
        overtaken=Overtaken(prediction=Prediction(chunk=chunk(3)), offset=-0.5),
    )
    committed = Committed(actions=np.zeros((5, 2), np.float64), fixed=2)
    return dataclasses.replace(question, evidence=evidence, committed=committed)


def full_answer() -> Answer:
    reading = Reading(check="pixels", raw=0.5, lead=3, value=float("nan"), threshold=float("inf"))
    prediction = full_question().evidence.prediction
    return Answer(prediction=prediction, readings=(reading, reading), text="tëxt", considered=2, values=(0.5, -1.0))


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict | tuple):
        assert len(one) == len(other)
        pairs = zip(sorted(one), sorted(other), strict=True) if isinstance(one, dict) else zip(one, other, strict=True)
        for mine, theirs in pairs:
            assert_same(*((one[mine], other[theirs]) if isinstance(one, dict) else (mine, theirs)))
    else:
        assert one == other or one != one


MESSAGES: list[Message] = [
    Welcome(served={"names": ["a"], "horizon": 4, "body": None}, max_bytes=1024),
    Begin(instruction="go", seed=2**62),
    Ask(question=full_question(), jpeg_quality=None),
    Reply(ticket=ask(1).ticket, seconds=0.25, answer=full_answer()),
    Reply(ticket=ask(1).ticket, seconds=0.0, failure=Failure(kind="ValueError", message="no")),
    Refusal(code="full", reason="later"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    if isinstance(message, Welcome):
        assert decode(encode(message)).served["names"] == ["a"]
        return
    assert_same(decode(encode(message)), message)


def test_the_frames_of_a_message_are_its_bytes_and_none_is_large() -> None:
    for size in (64, 512):
        message = Ask(question=ask(3, size=size))
        frames = encode_frames(message)
        assert b"".join(frames) == encode(message)
        assert max(map(len, frames)) <= FRAGMENT
        assert_same(decode(b"".join(frames)), message)


def test_every_field_of_a_question_and_of_an_answer_was_set_in_these_tests() -> None:
    for value, unset in ((full_question(), set()), (full_answer(), {"done"})):
        for field in dataclasses.fields(value):
            assert getattr(value, field.name) is not field.default or field.name in unset, field.name


def test_an_array_is_carried_once_and_can_be_written_to() -> None:
    message = Ask(question=full_question())
    envelope = msgpack.unpackb(encode(message))
    images = [entry for entry in envelope["arrays"] if entry["shape"] == [64, 64, 3]]
    assert len(images) == 4  # two cameras, of now and of the anchor; the evidence's own now is the question's
    question = decode(encode(message)).question
    assert question.evidence.observation.images["left"] is question.observation.images["left"]
    question.observation.images["left"][0] = 1


def test_jpeg_is_smaller_and_says_its_quality() -> None:
    message = Ask(question=full_question())
    packed = encode(message, jpeg_quality=90)
    assert len(packed) < len(encode(message)) / 5
    entries = [entry for entry in msgpack.unpackb(packed)["arrays"] if "jpeg" in entry]
    assert {entry["quality"] for entry in entries} == {90}
    question = decode(packed).question
    assert read_tick(question.observation.images["left"]) == 7
    assert question.evidence.prediction.future.frames["left"].shape == (3, 16, 24, 3)
    np.testing.assert_array_equal(question.committed.actions, full_question().committed.actions)


# ---- what is no message


def changed(change: Callable[[dict], None], message: Message | None = None) -> bytes:
    envelope = msgpack.unpackb(encode(message or Ask(question=ask(1))))
    change(envelope)
    return msgpack.packb(envelope)


def entry(**fields: object) -> Callable[[dict], None]:
    return lambda envelope: envelope["arrays"][0].update(fields)


def jpeg_entry(**fields: object) -> Callable[[dict], None]:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "JPEG")
    whole = {"jpeg": [stream.getvalue()], "quality": 90, "shape": [64, 64, 3], **fields}
    return lambda envelope: envelope["arrays"].__setitem__(0, whole)


def png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (64, 64)).save(stream, "PNG")
    return stream.getvalue()


def at(path: str, value: object) -> Callable[[dict], None]:
    def change(envelope: dict) -> None:
        *outer, last = path.split(".")
        for name in outer:
            envelope = envelope[name]
        envelope[last] = value

    return change


BAD: dict[str, tuple[bytes | str, str]] = {
    "empty": (b"", "not msgpack"),
    "garbage": (bytes(range(256)), "message"),
    "text": ("{}", "binary"),
    "a list": (msgpack.packb([1, 2]), "expected a map"),
    "cut short": (encode(Ask(question=ask(1)))[:-7], "not msgpack"),
    "more behind": (encode(Ask(question=ask(1))) + b"\x00", "not msgpack"),
    "too deep": (b"\x91" * 100_000, "not msgpack"),
    "an extension": (msgpack.packb(msgpack.ExtType(5, b"x" * 10)), "message"),
    "a timestamp": (changed(at("body.question.instruction", msgpack.Timestamp(1))), "message|instruction"),
    "keys that are no names": (changed(lambda envelope: envelope.update({3: 4})), "message"),
    "another key": (changed(lambda envelope: envelope.update(more=1)), "expected actloop, type, body and arrays"),
    "no such type": (changed(at("type", "fire")), "message.type"),
    "a type that is none": (changed(at("type", ["ask"])), "message.type"),
    "a missing field": (changed(lambda envelope: envelope["body"]["question"].pop("observation")), "observation"),
    "an unknown field": (changed(at("body.question.torque", 1)), "torque"),
    "a number for a text": (changed(at("body.question.instruction", 5)), "question.instruction: expected str"),
    "a truth for a number": (changed(at("body.question.ticket.tick", True)), "ticket.tick: expected int"),
    "a text for a number": (changed(at("body.question.deadline", "soon")), "deadline: expected a number"),
    "no such layer": (changed(at("body.question.ticket.layer", "motor")), "ticket.layer: expected one of"),
    "an array of lists": (changed(at("body.question.observation.state", [1.0])), "observation.state"),
    "an array beyond the last": (changed(at("body.question.observation.state", {"array": 99})), "index below"),
    "an array before the first": (changed(at("body.question.observation.state", {"array": -1})), "index below"),
    "images as a list": (changed(at("body.question.observation.images", [])), "images: expected a map"),
    "an image for a state": (changed(at("body.question.observation.state", {"array": 0})), "uint8 of shape"),
    "an object array": (changed(entry(dtype="object")), r"arrays\[0\].dtype"),
    "a dtype in another spelling": (changed(entry(dtype="|u1")), r"arrays\[0\].dtype"),
    "a dtype that is none": (changed(entry(dtype=["uint8"])), r"arrays\[0\].dtype"),
    "a shape that is too large": (changed(entry(shape=[1 << 40, 64, 3])), r"arrays\[0\].bytes"),
    "a shape below zero": (changed(entry(shape=[-1, -64, 64, 3])), r"arrays\[0\].shape"),
    "a shape of fractions": (changed(entry(shape=[64.0, 64, 3])), r"arrays\[0\].shape"),
    "a shape of many": (changed(entry(shape=[1] * 7 + [64 * 64 * 3])), r"arrays\[0\].shape"),
    "bytes that are text": (changed(entry(bytes="x" * 64 * 64 * 3)), r"arrays\[0\].bytes"),
    "an array with more": (changed(entry(order="F")), "dtype, shape and bytes"),
    "a JPEG of another size": (changed(jpeg_entry(shape=[32, 64, 3])), "64 x 32 pixels"),
    "a JPEG that is a PNG": (changed(jpeg_entry(jpeg=[png()])), "not a JPEG"),
    "a JPEG of noise": (changed(jpeg_entry(jpeg=[b"noise"])), "not a JPEG"),
    "too few JPEGs": (changed(jpeg_entry(shape=[2, 64, 64, 3])), "2 pictures"),
    "a JPEG of a planet": (changed(jpeg_entry(shape=[MAX_PIXELS, 2, 3])), "pixels of JPEG"),
    "what its class refuses": (
        changed(at("body.question.committed.fixed", 99), Ask(question=full_question())),
        "0 <= fixed",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_message_is_refused_with_its_place(name: str) -> None:
    data, told = BAD[name]
    with pytest.raises(WireError, match=told):
        decode(data)


def test_a_message_may_be_too_large_and_of_another_version() -> None:
    data = encode(Ask(question=ask(1)))
    with pytest.raises(WireError, match="at most 100 bytes"):
        decode(data, max_bytes=100)
    with pytest.raises(VersionError, match=f"version {VERSION} of the wire, got 99"):
        decode(changed(at("actloop", 99)))


@pytest.mark.parametrize("value", [np.array([None]), np.zeros(3, "<M8[s]"), np.zeros((1,) * 8, np.float32)])
def test_an_array_that_others_could_not_read_is_not_sent(value: np.ndarray) -> None:
    obs = dataclasses.replace(ask(1).observation, state=value)
    with pytest.raises(WireError, match=r"observation\.state: cannot send"):
        encode(Ask(question=dataclasses.replace(ask(1), observation=obs)))


# ---- the server


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    """No thread outlives the places and servers of this module."""
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("actloop-")] == []


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(place_modules.saying, served=SERVED, port=0, max_bytes=2**20, timeout=5.0) as made:
        yield made


@pytest.fixture
def remote(server: Server) -> Iterator[Remote]:
    with Remote(server.url) as place:
        yield place


def until(true: Callable[[], object], seconds: float = PATIENT) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.005)


def test_a_client_can_check_the_fit_before_the_first_tick(remote: Remote, server: Server) -> None:
    assert isinstance(remote, Place)
    assert remote.name == server.url
    assert remote.served["horizon"] == 4
    assert remote.served["layer"] == "action"
    assert embodiment_from_dict(remote.served["embodiment"]) == ExactWorld().embodiment


def test_questions_are_answered_over_the_network(remote: Remote) -> None:
    for episode, instruction in enumerate(("left", "right")):
        remote.start(instruction, seed=episode)
        for tick in range(3):
            remote.submit(ask(tick, episode=episode, imagine=tick == 2))
            result = only(remote.collect(PATIENT))
            assert result.ticket == ask(tick, episode=episode).ticket
            assert result.answer.text == f"{instruction}/{episode} [{tick}]"
            future = result.answer.prediction.future
            assert (future is not None) == (tick == 2)
            if future is not None:
                assert [read_tick(frame) for frame in future.frames["right"]] == [2, 2, 2]
    assert remote.collect() == []


def test_pictures_may_travel_as_jpeg_in_both_directions(server: Server) -> None:
    with Remote(server.url, jpeg_quality=80) as place:
        place.start("left", seed=0)
        place.submit(ask(6, imagine=True))
        answer = only(place.collect(PATIENT)).answer
        assert answer.text == "left/0 [6]"
        assert read_tick(answer.prediction.future.frames["left"][2]) == 6


def test_the_newest_question_wins_over_the_network(remote: Remote) -> None:
    remote.start("left", seed=0)
    remote.submit(ask(0, "sleep 0.2"))
    until(lambda: remote._waiting is None)
    for tick in (1, 2):
        remote.submit(ask(tick))
    assert [result.ticket.tick for result in gather(remote, 2)] == [0, 2]
    assert remote.superseded == 1


def test_two_clients_have_sessions_of_their_own(server: Server) -> None:
    with Remote(server.url) as one, Remote(server.url) as other:
        one.start("left", seed=1)
        other.start("right", seed=2)
        for tick in range(3):
            for place in (one, other):
                place.submit(ask(tick, "keep"))
            kept = [[number] for number in range(tick + 1)]
            assert only(one.collect(PATIENT)).answer.text == f"left/1 {kept}"
            assert only(other.collect(PATIENT)).answer.text == f"right/2 {kept}"


def test_a_slow_client_does_not_keep_another_waiting(server: Server) -> None:
    with Remote(server.url) as slow, Remote(server.url) as quick:
        for place in (slow, quick):
            place.start("left", seed=0)
        slow.submit(ask(0, "sleep 1.5"))
        begun = time.monotonic()
        quick.submit(ask(0))
        only(quick.collect(PATIENT))
        assert time.monotonic() - begun < 1.2
        only(slow.collect(PATIENT))


def test_what_a_module_raises_there_is_the_error_of_its_result_here(
    remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "actloop.serving")
    remote.start("left", seed=0)
    for tick, (word, told) in enumerate(
        {"raise": "ValueError: no such thing", "unpicklable": "cannot be sent"}.items()
    ):
        remote.submit(ask(tick, word))
        (result,) = remote.collect(PATIENT)
        assert isinstance(result.error, RemoteError)
        assert told in str(result.error)
        assert not getattr(result.error, "transient", False)
    remote.start("refuse", seed=0)
    remote.submit(ask(0))
    assert "refused" in str(remote.collect(PATIENT)[0].error)
    remote.start("left", seed=0)
    remote.submit(ask(0))
    assert only(remote.collect(PATIENT)).answer.text == "left/0 [0]"
    assert remote.connections == 1


def test_a_client_that_goes_away_frees_its_module(server: Server) -> None:
    before = threading.active_count()
    place = Remote(server.url)
    place.start("left", seed=0)
    place.submit(ask(0))
    only(place.collect(PATIENT))
    assert server.clients == 1
    assert place.close()
    until(lambda: server.clients == 0)
    until(lambda: threading.active_count() <= before + 1)  # one of asyncio's own may be kept


def test_a_client_that_closes_in_the_middle_of_a_question_does_not_wait_for_it(server: Server) -> None:
    place = Remote(server.url)
    place.start("left", seed=0)
    place.submit(ask(0, "sleep 1"))
    until(lambda: place._waiting is None)
    begun = time.monotonic()
    assert place.close()
    assert time.monotonic() - begun < 0.9
    until(lambda: server.clients == 0)


def test_health_is_told_without_a_token() -> None:
    with Server(place_modules.saying, served=SERVED, port=0, token="secret") as guarded:
        address = guarded.url.replace("ws://", "http://")
        with urllib.request.urlopen(f"{address}/healthz", timeout=PATIENT) as response:
            assert (response.status, response.read()) == (200, b"OK\n")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/", timeout=PATIENT)


def test_a_wrong_token_is_refused() -> None:
    with Server(place_modules.saying, served=SERVED, port=0, token="sëcret") as guarded:
        for token in (None, "", "secre", "Secret"):
            with pytest.raises(ContractError, match="another token"):
                Remote(guarded.url, token=token)
        assert guarded.clients == 0


def test_the_right_token_is_let_in() -> None:
    with (
        Server(place_modules.saying, served=SERVED, port=0, token="secret") as guarded,
        Remote(guarded.url, token="secret") as place,
    ):
        place.start("left", seed=0)
        place.submit(ask(0))
        only(place.collect(PATIENT))


def test_a_server_for_others_needs_a_token_and_a_free_port(server: Server) -> None:
    with pytest.raises(ContractError, match="needs a token"):
        Server(place_modules.saying, served=SERVED, host="0.0.0.0", port=0)
    with pytest.raises(ContractError, match="cannot listen"):
        Server(place_modules.saying, served=SERVED, port=int(server.url.rpartition(":")[2]))


@pytest.mark.parametrize(
    ("data", "code", "told"),
    [
        (b"\xc1garbage", "malformed", "not msgpack"),
        ("text", "malformed", "binary"),
        (changed(at("actloop", 99)), "version", "version 1 of the wire, got 99"),
        (encode(Refusal(code="full", reason="")), "malformed", "expected begin or ask"),
        (encode(Ask(question=ask(1))), "malformed", "call start"),
    ],
    ids=["garbage", "text", "version", "a server's message", "no episode"],
)
def test_the_server_says_why_it_hangs_up(server: Server, data: bytes | str, code: str, told: str) -> None:
    with connect(server.url, compression=None, proxy=None) as client:
        assert isinstance(decode(client.recv(PATIENT)), Welcome)
        client.send(data)
        refusal = decode(client.recv(PATIENT))
        assert (type(refusal), refusal.code) == (Refusal, code)
        assert told in refusal.reason
        with pytest.raises(ConnectionClosed):
            client.recv(PATIENT)


def test_a_message_that_is_too_large_is_refused_on_both_sides(server: Server, remote: Remote) -> None:
    remote.start("left", seed=0)
    remote.submit(ask(1, size=512))
    (result,) = remote.collect(PATIENT)
    assert isinstance(result.error, ContractError)
    assert "send smaller pictures, or JPEG" in str(result.error)
    remote.submit(ask(2))
    assert only(remote.collect(PATIENT)).ticket.tick == 2
    with connect(server.url, compression=None, proxy=None) as client:
        client.recv(PATIENT)
        client.send(b"x" * (2**20 + 1))
        with pytest.raises(ConnectionClosed, match="1009"):
            client.recv(PATIENT)


def test_bytes_that_are_no_websocket_do_no_harm(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "actloop.serving")
    port = int(server.url.rpartition(":")[2])
    for data in (b"\x00\xff" * 1000, b"GET / HTTP/1.1\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", port), PATIENT) as raw:
            raw.sendall(data)
    with Remote(server.url) as place:
        place.start("left", seed=0)
        place.submit(ask(0))
        only(place.collect(PATIENT))


def test_a_factory_that_fails_is_told_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "actloop.serving")
    with (
        Server(place_modules.failing, served=SERVED, port=0) as broken,
        pytest.raises(RemoteError, match="no weights at that path"),
    ):
        Remote(broken.url)


def test_a_full_server_says_come_again() -> None:
    with Server(place_modules.saying, served=SERVED, port=0, max_clients=1) as small, Remote(small.url):
        with pytest.raises(ConnectionLost, match="come again later") as caught:
            Remote(small.url)
        assert caught.value.transient


# ---- a place that survives its server


def test_a_server_that_comes_back_is_asked_again() -> None:
    server = Server(place_modules.saying, served=SERVED, port=0, timeout=2.0)
    port = int(server.url.rpartition(":")[2])
    with Remote(server.url) as place:
        place.start("left", seed=5)
        place.submit(ask(0))
        only(place.collect(PATIENT))
        place.submit(ask(1, "sleep 0.5"))
        until(lambda: place._waiting is None)
        time.sleep(0.1)
        assert server.close()
        (lost,) = place.collect(PATIENT)
        assert lost.ticket == ask(1).ticket
        assert isinstance(lost.error, ConnectionLost)
        assert lost.error.transient
        place.submit(ask(2))
        (lost,) = place.collect(PATIENT)
        assert isinstance(lost.error, ConnectionLost)
        with Server(place_modules.saying, served=SERVED, port=port):
            place.submit(ask(3, "keep"))
            assert only(place.collect(PATIENT)).answer.text == "left/5 [[3]]"  # begun anew, with the same seed
            assert place.connections == 2


def test_a_server_that_comes_back_with_other_weights_is_refused() -> None:
    with Server(place_modules.saying, served=SERVED, port=0) as server:
        port = int(server.url.rpartition(":")[2])
        place = Remote(server.url)
    with Server(place_modules.saying, served={**SERVED, "digest": "d2"}, port=port):
        place.start("left", seed=0)
        for tick in range(2):
            place.submit(ask(tick))
            (result,) = place.collect(PATIENT)
            assert "serves something else" in str(result.error) or isinstance(result.error, ConnectionLost)
    assert "serves something else" in str(result.error)
    assert not getattr(result.error, "transient", False)
    assert place.close()


def test_a_reply_that_comes_too_late_is_dropped_by_its_ticket(server: Server) -> None:
    with Remote(server.url, reply_timeout=0.3) as place:
        place.start("left", seed=0)
        place.submit(ask(0, "sleep 0.6"))
        (result,) = place.collect(PATIENT)
        assert result.ticket.tick == 0
        assert isinstance(result.error, ConnectionLost)
        assert "did not answer within 0.3 s" in str(result.error)
        time.sleep(0.4)
        place.submit(ask(1))
        assert only(place.collect(PATIENT)).answer.text == "left/0 [1]"
        assert (place.late, place.connections) == (1, 1)


def test_nobody_there_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        Remote(f"ws://127.0.0.1:{port}")


def test_somebody_else_there_is_told_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ConnectionLost, match="cannot be reached"):
        Remote(f"ws://127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.3)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://127.0.0.1:8000", "ws://", ""])
def test_an_address_has_to_be_one_of_a_websocket(url: str) -> None:
    with pytest.raises(ContractError, match="ws://host:port"):
        Remote(url)


@pytest.mark.parametrize(
    "wrong",
    [{"jpeg_quality": 0}, {"reply_timeout": 0.0}, {"connect_timeout": -1.0}, {"timeout": float("inf")}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match=next(iter(wrong))):
        Remote("ws://127.0.0.1:1", **wrong)


def test_the_client_is_light() -> None:
    script = "import actloop.serving.place, sys; print(sorted({'torch', 'PIL', 'mujoco'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
