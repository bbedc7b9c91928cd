"""Calls on a live door, spoken by hand: every kind of method, every way in which a call ends."""

from __future__ import annotations

import asyncio
import gzip

import pytest

from store.frontdoor import frames
from store.frontdoor.frames import ErrorCode, encode
from tests.store.frontdoor.conftest import (
    DIRECT,
    ECHO,
    FAIL,
    HANG,
    POUR,
    REFUSE,
    REQUEST_BYTES_MAX,
    TALK,
    Running,
    connected,
    eventually,
    running,
)
from tests.store.frontdoor.wire import (
    END,
    END_BOTH,
    START,
    block,
    call,
    data,
    headers,
    message,
    request_block,
    setting,
    u32,
)


@pytest.mark.parametrize(
    ("path", "body", "status", "text", "answer"),
    [
        (ECHO, b"a", "0", None, b"a"),
        (ECHO, b"", "0", None, b""),
        (DIRECT, b"a", "0", None, b"a"),
        (DIRECT, b"wait", "0", None, b"wait"),
        (DIRECT, b"refuse", "5", "not %C3%B6 here", None),
        (DIRECT, b"raise", "2", "ValueError: a defect", None),
        (FAIL, b"", "2", "ValueError: a defect", None),
        (REFUSE, b"", "3", "100%25 wrong:%0Azw%C3%B6lf", None),
        (TALK, b"once", "0", None, b"once"),
        ("/t.T/None", b"", "12", "unknown method None for service t.T", None),
        ("/none/Echo", b"", "12", "unknown service none", None),
        ("nonsense", b"", "12", "malformed method name: 'nonsense'", None),
    ],
)
async def test_how_calls_end(
    door: Running, path: str, body: bytes, status: str, text: str | None, answer: bytes | None
) -> None:
    async with connected(door.port) as client:
        await client.say(call(1, body, path))
        fields = await client.until(1)
    assert fields[":status"] == "200"
    assert fields["content-type"] == "application/grpc"
    assert (fields["grpc-status"], fields.get("grpc-message")) == (status, text)
    assert client.answers.bodies.get(1) == (None if answer is None else message(answer))


@pytest.mark.parametrize(
    ("said", "status", "text"),
    [
        (headers(1, request_block(ECHO), END_BOTH), "13", "the request has no message"),
        (headers(1, request_block(ECHO)) + data(1, b"", END), "13", "the request has no message"),
        (headers(1, request_block(ECHO)) + data(1, b"\0\0", END), "13", "unexpected EOF"),
        (headers(1, request_block(ECHO)) + data(1, message(b"ab")[:-1], END), "13", "unexpected EOF"),
        (headers(1, request_block(ECHO)) + data(1, message(b"a") * 2, END), "13", "more than one message"),
        (headers(1, request_block(ECHO)) + data(1, message(b"a", 1), END), "13", "compressed flag set"),
        (headers(1, request_block(ECHO)) + data(1, message(b"a", 7), END), "13", "unexpected payload format 7"),
        (
            headers(1, request_block(ECHO, ("grpc-encoding", "gzip"))) + data(1, message(b"no gzip", 1), END),
            "13", "failed to decompress",
        ),
        (
            headers(1, request_block(ECHO, ("grpc-encoding", "gzip")))
            + data(1, message(gzip.compress(b"a" * 100)[:-9], 1), END),
            "13", "failed to decompress",
        ),
        (
            headers(1, request_block(ECHO, ("grpc-encoding", "gzip")))
            + data(1, message(gzip.compress(bytes(3 << 20)), 1), END),
            "8", "larger than max",
        ),
        (
            headers(1, request_block(ECHO, ("grpc-encoding", "snappy"))) + data(1, message(b"x", 1), END),
            "12", 'Decompressor is not installed for grpc-encoding "snappy"',
        ),
        (headers(1, request_block(ECHO, ("grpc-timeout", "soon"))), "13", "malformed grpc-timeout"),
        (headers(1, request_block(ECHO)) + data(1, b"\0" + u32(2**31), 0), "8", "larger than max"),
        (headers(1, request_block(ECHO, method="PUT"), END_BOTH), "13", "method PUT"),
    ],
)  # fmt: skip
async def test_requests_that_are_none(door: Running, said: bytes, status: str, text: str) -> None:
    async with connected(door.port) as client:
        await client.say(said)
        fields = await client.until(1)
        assert (fields["grpc-status"], fields.get("grpc-message", "").find(text) >= 0) == (status, True)
        await client.say(call(3, b"x", ECHO))
        assert (await client.until(3))["grpc-status"] == "0", "the connection goes on"
    assert door.door.desk.held_bytes == 0
    assert not door.door.desk.unfinished


@pytest.mark.parametrize("parts", [1, 2, 7, 1000], ids=lambda parts: f"{parts} frames")
async def test_a_message_may_come_in_parts(door: Running, parts: int) -> None:
    body = bytes(range(256)) * 60
    whole = message(body)
    size = len(whole) // parts + 1
    async with connected(door.port) as client:
        await client.say(headers(1, request_block(ECHO)))
        for start in range(0, len(whole), size):
            await client.say(data(1, whole[start : start + size], END if start + size >= len(whole) else 0))
        await client.until(1)
    assert client.answers.bodies[1] == whole


async def test_gzip_is_understood(door: Running) -> None:
    async with connected(door.port) as client:
        zipped = message(gzip.compress(b"a" * 1000), 1)
        await client.say(headers(1, request_block(ECHO, ("grpc-encoding", "gzip"))), data(1, zipped, END))
        await client.until(1)
    assert client.answers.bodies[1] == message(b"a" * 1000)


async def test_large_messages_pass_both_ways(door: Running) -> None:
    body = bytes(REQUEST_BYTES_MAX)
    async with connected(door.port, START + encode(frames.WINDOW_UPDATE, 0, 0, u32(1 << 30))) as client:
        await client.say(encode(frames.SETTINGS, 0, 0, setting(4, 1 << 24)))
        for stream_id in (1, 3):
            await client.say(headers(stream_id, request_block(ECHO)))
            whole = message(body)
            for start in range(0, len(whole), 16_384):
                # The server's windows are 1 MiB a stream: it lets us send the rest as it takes what has come.
                await client.say(
                    data(stream_id, whole[start : start + 16_384], END if start + 16_384 >= len(whole) else 0)
                )
                if start == 512 * 1024:
                    while not any(f[0] == frames.WINDOW_UPDATE and f[2] == stream_id for f in client.answers.frames):
                        await client.listen()
            await client.until(stream_id)
            assert client.answers.bodies[stream_id] == whole


async def test_what_a_handler_is_told(door: Running) -> None:
    more = (("token", "ann.1"), ("token", "second"), ("trace-bin", "AAEC"), ("grpc-timeout", "5S"), ("x", "ö"))
    async with connected(door.port) as client:
        await client.say(headers(1, request_block(ECHO, *more)), data(1, message(b""), END))
        await client.until(1)
    metadata = door.methods.calls[0].metadata
    assert metadata["token"] == "ann.1"
    assert not {"trace-bin", "grpc-timeout", "te", "content-type"} & set(metadata)
    assert door.methods.calls[0].common_name == ""


@pytest.mark.parametrize("path", [HANG, DIRECT, TALK])
async def test_a_deadline_ends_a_call(door: Running, path: str) -> None:
    async with connected(door.port) as client:
        await client.say(headers(1, request_block(path, ("grpc-timeout", "50m"))))
        if path != TALK:
            await client.say(data(1, message(b"later"), END))
        fields = await client.until(1)
        assert (fields["grpc-status"], fields["grpc-message"]) == ("4", "context deadline exceeded")
        (one,) = door.door._clients
        assert one.connection is not None
        connection = one.connection
        if path == DIRECT:
            assert connection.orphans == 1, "somebody still works on it"
            door.methods.replies[0].send(b"late")
        await eventually(lambda: connection.orphans == 0)
    assert door.methods.cancelled == ([] if path == DIRECT else [path.rpartition("/")[2].lower()])


@pytest.mark.parametrize("path", [HANG, TALK])
async def test_a_reset_cancels_the_handler(door: Running, path: str) -> None:
    async with connected(door.port) as client:
        await client.say(headers(1, request_block(path)), data(1, message(b"x"), END if path == HANG else 0))
        await eventually(lambda: door.methods.running == 1)
        await client.say(encode(frames.RST_STREAM, 0, 1, u32(ErrorCode.CANCEL)), call(3, b"x", ECHO))
        await client.until(3)
        assert 1 not in client.answers.ended
        await eventually(lambda: door.methods.cancelled == [path.rpartition("/")[2].lower()])


async def test_a_reset_may_come_with_its_call(door: Running) -> None:
    resets = b"".join(call(n, b"", HANG) + encode(frames.RST_STREAM, 0, n, u32(8)) for n in range(1, 200, 2))
    async with connected(door.port) as client:
        await client.say(resets, call(201, b"x", ECHO))
        await client.until(201)
        (one,) = door.door._clients
        connection = one.connection
        assert connection is not None
        await eventually(lambda: connection.orphans == 0)
    assert door.methods.running == 0


async def test_a_lost_connection_cancels_its_handlers(door: Running) -> None:
    async with connected(door.port) as client:
        await client.say(*(call(stream_id, b"", HANG) for stream_id in (1, 3, 5)))
        await eventually(lambda: door.methods.running == 3)
    await eventually(lambda: door.methods.running == 0)
    await eventually(lambda: not door.door._clients)


async def test_a_conversation(door: Running) -> None:
    async with connected(door.port) as client:
        await client.say(headers(1, request_block(TALK)))
        for number in range(5):
            await client.say(data(1, message(b"%d" % number)))
            expected = b"".join(message(b"%d" % one) for one in range(number + 1))
            async with asyncio.timeout(20):
                while client.answers.bodies.get(1, b"") != expected:
                    await client.listen()
        assert client.answers.fields[1].get("grpc-status") is None
        await client.say(headers(1, block(("trailer", "x")), END_BOTH))
        assert (await client.until(1))["grpc-status"] == "0"


async def test_who_does_not_read_makes_the_handler_wait(door: Running) -> None:
    async with connected(door.port) as client:
        await client.say(headers(1, request_block(POUR)), data(1, message(b"")))
        async with asyncio.timeout(20):
            while len(client.answers.bodies.get(1, b"")) < 65_535:
                await client.listen()
        poured = door.methods.poured
        assert poured == 65_535 // 50_005
        await client.say(call(3, b"x", HANG), encode(frames.PING, 0, 0, b"12345678"))
        while not any(kind == frames.PING for kind, *_ in client.answers.frames):
            await client.listen()
        assert door.methods.poured == poured, "nothing is made for whom it cannot be sent to"
        await client.say(
            encode(frames.WINDOW_UPDATE, 0, 1, u32(40_000)), encode(frames.WINDOW_UPDATE, 0, 0, u32(40_000))
        )
        await eventually(lambda: door.methods.poured > poured)


async def test_what_a_handler_does_not_read_is_not_taken() -> None:
    async with running() as served, connected(served.port) as client:
        # The conversation's handler stops to read as soon as it cannot write.
        await client.say(encode(frames.SETTINGS, 0, 0, setting(4, 0)), headers(1, request_block(TALK)))
        whole = message(bytes(16_000))
        for _ in range((1 << 20) // len(whole)):
            await client.say(data(1, whole))
        await client.say(encode(frames.PING, 0, 0, b"12345678"))
        while not any(kind == frames.PING for kind, *_ in client.answers.frames):
            await client.listen()
        refilled = sum(
            int.from_bytes(payload, "big")
            for kind, _, stream_id, payload in client.answers.frames
            if kind == frames.WINDOW_UPDATE and stream_id == 1
        )
        assert refilled == 0
        assert served.door.desk.held_bytes < 1 << 20
        await client.say(data(1, whole), data(1, whole))
        await client.until(1)
        assert client.answers.resets == {1: ErrorCode.FLOW_CONTROL_ERROR}
    assert served.door.desk.held_bytes == 0


async def test_pages_are_served_beside_calls(door: Running) -> None:
    async with connected(door.port) as client:
        get = [(":method", "GET"), (":scheme", "http"), (":path", "/health?x=1"), (":authority", "x")]
        await client.say(headers(1, block(*get), END_BOTH))
        fields = await client.until(1)
        assert (fields[":status"], fields["content-length"]) == ("200", "5")
        assert client.answers.bodies[1] == b"fine\n"
        await client.say(headers(3, block(("x", "y")), END_BOTH))
        get[2] = (":path", "/none")
        get[0] = (":method", "HEAD")
        await client.say(headers(5, block(*get), END_BOTH))
        assert (await client.until(5))[":status"] == "404"
        assert client.answers.bodies.get(5, b"") == b""
        for stream_id, method, status in ((7, "POST", "415"), (9, "PUT", "405")):
            get[0] = (":method", method)
            await client.say(headers(stream_id, block(*get), END_BOTH))
            assert (await client.until(stream_id))[":status"] == status


async def test_a_client_of_http_1_is_served_on_the_same_port(door: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        for part in (b"G", b"E", b"T /health HTTP/1.1\r\n", b"Host: x\r\n\r\n"):
            writer.write(part)
            await writer.drain()
        assert (await reader.read()).endswith(b"\r\n\r\nfine\n")
    finally:
        writer.close()
    await eventually(lambda: not door.door._clients)


async def test_stopping_lets_calls_end_and_refuses_new_ones() -> None:
    async with running() as served, connected(served.port) as client:
        await client.say(call(1, b"later", DIRECT), call(3, b"", HANG))
        await eventually(lambda: served.methods.running == 1)
        stopping = asyncio.ensure_future(served.door.stop())
        async with asyncio.timeout(20):
            while not any(kind == frames.PING for kind, *_ in client.answers.frames):
                await client.listen()
        assert client.answers.goaway == (2**31 - 1, 0, b"")
        await client.say(call(5, b"x", ECHO))
        assert (await client.until(5))["grpc-status"] == "0", "it was under way"
        await client.say(encode(frames.PING, frames.ACK, 0, b"draining"))
        while client.answers.goaway[0] != 5:
            await client.listen()
        served.methods.replies[0].send(b"done")
        assert (await client.until(1))["grpc-status"] == "0"
        fields = await client.until(3)
        assert (fields["grpc-status"], fields["grpc-message"]) == ("14", "etcdserver: server stopped")
        await client.until_closed()
        await stopping
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", served.port)
