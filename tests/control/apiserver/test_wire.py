"""gRPC by hand: against grpcio as the other side, and against servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.apiserver.wire import connection as wire
from control.apiserver.wire import frames, headers
from control.apiserver.wire.channel import Channel
from control.apiserver.wire.connection import WireError

PATH = "/test.Echo/Call"
TEXTS = st.binary(max_size=30)
MESSAGE_BYTES_MAX = 4 << 20
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def call(request: bytes, context: Any) -> bytes:
    """Do what the message says."""
    if request.startswith(b"fail"):
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far: é %")
    if request == b"sleep":
        await asyncio.sleep(30)
    if request.startswith(b"large"):
        return b"x" * int(request[5:])
    return request


async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Count to what the first message says, in messages of the size that it says."""
    async for request in requests:
        count, size = (int(part) for part in request.split())
        for number in range(count):
            yield b"%d" % number + b"." * size
        return


@asynccontextmanager
async def echo(**options: int) -> AsyncIterator[Channel]:
    server = grpc.aio.server(options=[*((f"grpc.{name}", value) for name, value in options.items())])
    methods: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(call),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = Channel(f"http://127.0.0.1:{port}", None, MESSAGE_BYTES_MAX)
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop(None)


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[Channel]:
    """Run a server that is no good."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await talk(reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = Channel(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", None, MESSAGE_BYTES_MAX)
    try:
        yield channel
    finally:
        await channel.close()
        server.close()
        for writer in writers:
            writer.close()
        await asyncio.sleep(0)


async def failure(channel: Channel, message: bytes = b"x", timeout_s: float = 5.0) -> WireError:
    with pytest.raises(WireError) as caught:
        await channel.unary(PATH, message, timeout_s)
    return caught.value


async def test_a_server_that_allows_no_table_is_told_of_none() -> None:
    """Such a one refuses the first headers else, as HPACK asks it to (RFC 7541, 4.2)."""
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    told: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(frames.PREFACE))
        writer.write(frames.settings(((frames.TABLE_SIZE, 0), (3, 100))))
        while True:
            head = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == frames.HEADERS:
                told.extend(str(value) for name, value in decoder.decode(payload) if str(name) == ":path")

    async with talking(talk) as channel:
        calls = [asyncio.ensure_future(channel.unary(PATH, b"x", 5.0)) for _ in range(3)]
        async with asyncio.timeout(5):
            while len(told) < len(calls):
                await asyncio.sleep(0.005)
        for each in calls:
            each.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    assert told == [PATH] * 3


async def test_many_calls_share_a_connection() -> None:
    async with echo(max_concurrent_streams=7) as channel:
        wanted = [b"%d" % number * number for number in range(200)]
        assert await asyncio.gather(*(channel.unary(PATH, each, 20) for each in wanted)) == wanted


async def test_large_messages_obey_the_windows() -> None:
    async with echo(max_receive_message_length=-1, max_send_message_length=-1) as channel:
        small = [asyncio.ensure_future(channel.unary(PATH, b"small", 20)) for _ in range(5)]
        large = b"y" * (3 << 20)
        assert await channel.unary(PATH, large, 20) == large
        assert await channel.unary(PATH, b"large3000000", 20) == b"x" * 3_000_000
        assert await asyncio.gather(*small) == [b"small"] * 5
        assert (await failure(channel, b"large5000000")).code == wire.RESOURCE_EXHAUSTED
        assert await channel.unary(PATH, b"after", 20) == b"after"


async def test_failures_have_code_and_text() -> None:
    async with echo() as channel:
        error = await failure(channel, b"fail")
        assert (error.code, error.details) == (grpc.StatusCode.OUT_OF_RANGE.value[0], "too far: é %")


async def test_a_deadline_ends_one_call_alone() -> None:
    async with echo() as channel:
        late = asyncio.ensure_future(failure(channel, b"sleep", 0.3))
        assert await channel.unary(PATH, b"x", 5) == b"x"
        assert (await late).code == wire.DEADLINE_EXCEEDED


async def test_a_cancelled_call_leaves_the_connection_alone() -> None:
    async with echo() as channel:
        task = asyncio.ensure_future(channel.unary(PATH, b"sleep", 20))
        assert await channel.unary(PATH, b"x", 5) == b"x"
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await channel.unary(PATH, b"x", 5) == b"x"


@pytest.mark.parametrize(("count", "size"), [(1000, 10), (30, 1 << 20), (0, 0)])
async def test_streams_bring_every_message_in_order(count: int, size: int) -> None:
    async with echo(max_send_message_length=-1) as channel:
        found = []
        async with aclosing(channel.stream("/test.Echo/Stream", b"%d %d" % (count, size))) as messages:
            async for message in messages:
                assert len(message) >= size
                found.append(int(message.split(b".", 1)[0]))
        assert found == list(range(count))


async def test_a_reader_that_does_not_read_holds_the_server_back() -> None:
    path, wish = "/test.Echo/Stream", b"100 1000000"
    async with echo(max_send_message_length=-1) as channel, aclosing(channel.stream(path, wish)) as messages:
        first = await anext(messages)
        await asyncio.sleep(0.3)
        assert len(first) >= 1_000_000
        connection = channel._connection
        assert connection is not None
        held = sum(call.held for call in connection._calls.values())
        assert held <= wire.STREAM_WINDOW_BYTES + wire.STREAM_WINDOW_BYTES // 2
        assert len([message async for message in messages]) == 99


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Take the preface, answer with SETTINGS, and return the first call's stream."""
    await reader.readexactly(len(frames.PREFACE))
    writer.write(frames.settings(()))
    return await next_call(reader)


async def next_call(reader: asyncio.StreamReader) -> int:
    """Return the stream of the next request's body."""
    while True:
        head = await reader.readexactly(frames.HEAD_BYTES)
        await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == frames.DATA:
            return int.from_bytes(head[5:9], "big")


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(frames.reset(await greet(reader, writer)))


async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    stream = await greet(reader, writer)
    for _ in range(wire.REFUSALS_MAX):
        writer.write(frames.reset(stream, frames.REFUSED_STREAM))
        stream = await next_call(reader)
    writer.write(frames.reset(stream, frames.REFUSED_STREAM))


async def go_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer)
    writer.write(frames.frame(frames.GOAWAY, 0, 0, bytes(8) + b"enough"))


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer)
    writer.close()


async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 20_000)


async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    stream = await greet(reader, writer)
    block = frames.literals([(b":status", b"503")])
    writer.write(frames.frame(frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, stream, block))


async def split(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    stream = await greet(reader, writer)
    block = frames.literals([(b"grpc-status", b"11"), (b"grpc-message", b"later%20on")])
    padded = bytes((3,)) + block[:4] + bytes(3)
    writer.write(frames.frame(frames.HEADERS, frames.END_STREAM | frames.PADDED, stream, padded))
    writer.write(frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream, block[4:]))


@pytest.mark.parametrize(
    ("talk", "code"),
    [
        (reset, wire.CANCELLED), (refuse, wire.UNAVAILABLE), (go_away, wire.UNAVAILABLE), (hang_up, wire.UNAVAILABLE),
        (babble, wire.UNAVAILABLE), (plain, wire.UNKNOWN), (split, 11),
    ],
)  # fmt: skip
async def test_every_way_to_fail_has_a_code(talk: Talk, code: int) -> None:
    async with talking(talk) as channel:
        error = await failure(channel)
        assert error.code == code
        if talk is split:
            assert error.details == "later on"


async def test_nobody_there_is_unavailable() -> None:
    channel = Channel("http://127.0.0.1:1", None, MESSAGE_BYTES_MAX)
    assert (await failure(channel)).code == wire.UNAVAILABLE
    await channel.close()


async def test_a_silent_server_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "KEEPALIVE_S", 0.1)
    monkeypatch.setattr(wire, "KEEPALIVE_TIMEOUT_S", 0.1)

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)

    async with talking(mute) as channel:
        error = await failure(channel, timeout_s=20)
        assert (error.code, "pings" in error.details) == (wire.UNAVAILABLE, True)


@given(
    st.dictionaries(st.sampled_from([b"grpc-status", b"grpc-message", b"x-y"]), TEXTS),
    st.booleans(),
    st.sampled_from([b"200", b"503", b"204"]),
)
def test_headers_are_read_as_they_were_written(wanted: dict[bytes, bytes], huffman: bool, status: bytes) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    block = encoder.encode(
        [(b":status", status), (b"content-type", b"application/grpc"), *wanted.items()], huffman=huffman
    )
    assert headers.fields(block) == {**wanted, b":status": status}
    assert headers.fields(frames.literals(wanted.items())) == wanted


@given(st.binary(max_size=60))
def test_any_bytes_are_headers_or_none(block: bytes) -> None:
    try:
        headers.HeadReader().read(block)
    except headers.ProtocolError:
        pass


def test_a_dynamic_table_is_refused() -> None:
    with pytest.raises(headers.ProtocolError, match="dynamic"):
        headers.fields(b"\xbe")
