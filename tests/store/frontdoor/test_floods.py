"""What is cheap to send and costs its receiver: each ends with the connection, and others are served all the while."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace

import pytest

from store.frontdoor import frames
from store.frontdoor.abuse import Limits
from store.frontdoor.frames import ErrorCode, encode
from tests.store.frontdoor.conftest import (
    DIRECT,
    ECHO,
    HANG,
    POUR,
    Running,
    connected,
    eventually,
    is_served,
    running,
)
from tests.store.frontdoor.wire import (
    END,
    END_BOTH,
    PUT,
    START,
    call,
    data,
    headers,
    message,
    request_block,
    setting,
    u32,
)

CALM = ErrorCode.ENHANCE_YOUR_CALM
SMALL = Limits(streams_max=50, resets_burst=100, control_frames_burst=500)


@pytest.fixture
async def door() -> AsyncIterator[Running]:
    async with running(SMALL) as served:
        yield served


def odd() -> Iterator[int]:
    return itertools.count(1, 2)


def always(frame: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.repeat(frame * 50)


def opened_first(frame: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain([headers(1, request_block(HANG))], itertools.repeat(frame * 50))


def endless_head(part: bytes) -> Callable[[], Iterator[bytes]]:
    return lambda: itertools.chain(
        [encode(frames.HEADERS, 0, 1, b"\x20")], itertools.repeat(encode(frames.CONTINUATION, 0, 1, part))
    )


def rapid_reset() -> Iterator[bytes]:
    return (call(number, b"", HANG) + encode(frames.RST_STREAM, 0, number, u32(8)) for number in odd())


def too_many_streams() -> Iterator[bytes]:
    return (headers(number, request_block(HANG)) for number in odd())


def no_requests() -> Iterator[bytes]:
    return (headers(number, request_block(PUT, ("Token", "x")), END_BOTH) for number in odd())


FLOODS: dict[str, Callable[[], Iterator[bytes]]] = {
    "PING": always(encode(frames.PING, 0, 0, b"12345678")),
    "PING acknowledgements": always(encode(frames.PING, frames.ACK, 0, b"12345678")),
    "SETTINGS": always(encode(frames.SETTINGS, 0, 0, setting(4, 1000))),
    "empty SETTINGS": always(encode(frames.SETTINGS, 0, 0)),
    "PRIORITY": always(encode(frames.PRIORITY, 0, 7, bytes(5))),
    "WINDOW_UPDATE of the connection": always(encode(frames.WINDOW_UPDATE, 0, 0, u32(1))),
    "WINDOW_UPDATE of a stream": opened_first(encode(frames.WINDOW_UPDATE, 0, 1, u32(1))),
    "empty DATA": opened_first(data(1, b"")),
    "DATA of nothing but padding": opened_first(data(1, b"\x03\0\0\0", frames.PADDED)),
    "unknown frames": always(encode(0xFA, 0, 0, b"")),
    "GOAWAY": always(encode(frames.GOAWAY, 0, 0, bytes(8))),
    "RST_STREAM of what has ended": lambda: itertools.chain(
        [call(1, b"x", ECHO)], itertools.repeat(encode(frames.RST_STREAM, 0, 1, u32(8)) * 50)
    ),
    "CONTINUATION": endless_head(b"\x00\x01a\x01b" * 100),
    "empty CONTINUATION": endless_head(b""),
    "a head of one endless field": endless_head(b"\x00\x01a\x7f\xff\xff\xff\x07" + b"x" * 10_000),
    "rapid reset": rapid_reset,
    "streams beyond the bound": too_many_streams,
    "requests that are none": no_requests,
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
async def test_a_flood_ends_with_its_connection(door: Running, flood: Callable[[], Iterator[bytes]]) -> None:
    async with connected(door.port) as client:
        listening = asyncio.ensure_future(client.until_closed())
        sent = 0
        for part in flood():
            if client.is_closed or listening.done():
                break
            await client.say(part)
            sent += len(part)
            assert sent < 4 << 20, "it goes on for ever"
            await asyncio.sleep(0)
            assert door.methods.running <= SMALL.streams_max
        assert await is_served(door.port)
        goaway = await listening
        assert goaway is None or goaway[1] == CALM, "a reset may overtake the words"
    await eventually(lambda: not door.door._clients and door.methods.running == 0)
    assert door.door.desk.held_bytes == 0


async def test_pings_that_come_too_fast_are_told_so(door: Running) -> None:
    async with connected(door.port) as client:
        for _ in range(door.door.limits.ping_strikes_max + 2):
            await client.say(encode(frames.PING, 0, 0, b"12345678"))
        goaway = await client.until_closed()
    assert goaway is not None
    assert goaway[1:] == (CALM, b"too_many_pings")


async def test_pings_between_calls_are_welcome(door: Running) -> None:
    async with connected(door.port) as client:
        for number in range(1, 100, 2):
            await client.say(encode(frames.PING, 0, 0, b"12345678"), call(number, b"x", DIRECT))
            await client.until(number)
        assert client.answers.goaway is None


async def test_a_stream_above_the_bound_is_refused_alone(door: Running) -> None:
    last = 2 * SMALL.streams_max + 1
    async with connected(door.port) as client:
        await client.say(*(call(number, b"", HANG) for number in range(1, last + 1, 2)))
        await client.until(last)
        assert client.answers.resets == {last: ErrorCode.REFUSED_STREAM}
        assert await is_served(door.port)
        await client.say(encode(frames.RST_STREAM, 0, 1, u32(8)))
        await eventually(lambda: door.methods.running == SMALL.streams_max - 1)
        await client.say(call(last + 2, b"x", ECHO))
        assert (await client.until(last + 2))["grpc-status"] == "0"


async def test_calls_that_were_given_up_count_until_their_handlers_end(door: Running) -> None:
    async with connected(door.port) as client:
        for number in range(1, 2 * SMALL.streams_max, 2):
            await client.say(call(number, b"later", DIRECT), encode(frames.RST_STREAM, 0, number, u32(8)))
        await client.say(call(999, b"x", ECHO))
        await client.until(999)
        assert client.answers.resets == {999: ErrorCode.REFUSED_STREAM}
        for reply in door.methods.replies:
            reply.send(b"late")
        await client.say(call(1001, b"x", ECHO))
        assert (await client.until(1001))["grpc-status"] == "0"


async def test_a_list_of_fields_that_is_too_large_is_refused_alone(door: Running) -> None:
    many = tuple((f"x-{number}", "v" * 400) for number in range(90))
    async with connected(door.port) as client:
        block = request_block(ECHO, *many)
        assert len(block) > SMALL.header_list_bytes_max
        parts = [block[start : start + 16_000] for start in range(0, len(block), 16_000)]
        await client.say(encode(frames.HEADERS, 0, 1, b"\x20"))
        for part in parts:
            await client.say(encode(frames.CONTINUATION, 0, 1, part))
        goaway = await client.until_closed()
        assert goaway is not None
        assert goaway[1] == CALM
    many = tuple(("x", "") for _ in range(1000))
    async with connected(door.port) as client:
        await client.say(headers(1, request_block(ECHO, *many)))
        assert (await client.until(1))[":status"] == "431"
        await client.say(call(3, b"x", ECHO))
        assert (await client.until(3))["grpc-status"] == "0"


async def test_who_has_large_windows_and_reads_nothing_gets_little() -> None:
    limits = replace(SMALL, stall_timeout_s=1.0)
    async with running(limits) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.transport.pause_reading()  # type: ignore[attr-defined] # stream transports have it
        writer.write(START + encode(frames.SETTINGS, 0, 0, setting(4, 2**31 - 1)))
        writer.write(encode(frames.WINDOW_UPDATE, 0, 0, u32(2**31 - 1 - 65_535)))
        for number in range(1, 21, 2):
            writer.write(headers(number, request_block(POUR)) + data(number, message(b""), 0))
        await eventually(lambda: served.methods.poured > 10)
        (one,) = served.door._clients
        assert one.connection is not None
        await eventually(lambda: one.connection is not None and one.connection.outgoing.is_paused)
        before = served.methods.poured
        assert await is_served(served.port)
        assert one._transport.get_write_buffer_size() < 2 << 20
        waiting = sum(
            len(chunk) for stream in one.connection.outgoing.waiting.values() for chunk in stream.pending or ()
        )
        assert waiting <= 10 * 50_010, "a message for each stream"
        assert served.methods.poured == before
        await eventually(lambda: one not in served.door._clients)
        writer.close()
        assert await is_served(served.port)


async def test_who_asks_and_never_reads_the_answers_is_cut_off() -> None:
    limits = replace(SMALL, control_frames_burst=10_000_000, ping_strikes_max=10_000_000)
    async with running(limits) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(START)

        async def ask() -> None:
            while True:
                writer.write(encode(frames.PING, 0, 0, b"12345678") * 1000)
                await writer.drain()

        with pytest.raises(ConnectionError):
            await asyncio.wait_for(ask(), 30)
        assert await is_served(served.port)
        writer.close()


async def test_who_does_not_take_the_last_words_is_cut_off_all_the_same() -> None:
    async with running(replace(SMALL, handshake_timeout_s=0.5)) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        writer.write(START + encode(frames.SETTINGS, 0, 0, setting(4, 2**31 - 1)))
        writer.write(encode(frames.WINDOW_UPDATE, 0, 0, u32(2**31 - 1 - 65_535)))
        writer.write(headers(1, request_block(POUR)) + data(1, message(b"")))
        await eventually(lambda: any(one._paused_at is not None for one in served.door._clients))
        writer.write(data(0, b"wrong"))
        await eventually(lambda: not served.door._clients)
        writer.close()


@pytest.mark.parametrize(
    "said",
    [b"", b"P", b"PRI * HT", frames.PREFACE, START[:-1], START + encode(frames.HEADERS, 0, 1, b"\x20")],
    ids=["nothing", "a letter", "half a preface", "no settings", "no acknowledgement", "half a head"],
)
async def test_who_begins_and_does_not_go_on_is_left(said: bytes) -> None:
    async with running(replace(SMALL, handshake_timeout_s=0.5)) as served, connected(served.port, said) as client:
        if said == START[:-1]:
            assert await is_served(served.port)
            assert served.door._clients, "a connection without calls may stay"
            return
        await client.until_closed()
        assert await is_served(served.port)


async def test_unfinished_requests_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as served:
        served.door.desk.held_bytes_max = 1 << 20
        async with connected(served.port) as client:
            for number in range(1, 41, 2):
                await client.say(headers(number, request_block(ECHO)))
                await client.say(*(data(number, b"\0" + u32(1_000_000) + bytes(16_000)) for _ in range(1)))
                for _ in range(3):
                    await client.say(data(number, bytes(16_000)))
            await client.until(39)
            assert served.door.desk.held_bytes <= 1 << 20
            assert client.answers.fields[39]["grpc-status"] == "8"
            assert await is_served(served.port)
            served.door.desk.tick(served.door.loop.time() + 1000, 60.0)
            assert (await client.until(1))["grpc-status"] == "4"
            assert served.door.desk.held_bytes == 0
            assert not served.door.desk.unfinished


async def test_connections_are_bounded() -> None:
    async with running() as served:
        served.door._connections_max = 3
        async with connected(served.port), connected(served.port), connected(served.port):
            await eventually(lambda: len(served.door._clients) == 3)
            async with connected(served.port) as fourth:
                await fourth.until_closed()
        await eventually(lambda: not served.door._clients)
        assert await is_served(served.port)


async def test_a_thousand_connections_at_once_are_served() -> None:
    async with running() as served:

        async def one() -> None:
            async with connected(served.port) as client:
                await client.say(call(1, b"x", DIRECT))
                assert (await client.until(1))["grpc-status"] == "0"
                await gate.wait()

        gate = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(1000):
                tasks.create_task(one())
            await eventually(lambda: len(served.door._clients) == 1000)
            gate.set()


async def test_trailing_data_of_a_refused_upload_is_taken_and_dropped(door: Running) -> None:
    async with connected(door.port) as client:
        await client.say(headers(1, request_block("/none/None")))
        for _ in range(20):
            await client.say(data(1, bytes(16_000)))
        await client.say(data(1, b"", END), call(3, b"x", ECHO))
        assert (await client.until(3))["grpc-status"] == "0"
        assert client.answers.fields[1]["grpc-status"] == "12"
        assert client.answers.resets == {1: ErrorCode.NO_ERROR}
