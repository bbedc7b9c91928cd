"""A gRPC client that costs little: the same load for both sides, with a key of its own in each request.

It speaks just enough HTTP/2 for calls that end well: one request and one response a stream, or a stream that only
brings messages. Request headers use the dynamic table as other clients do, unless the server's SETTINGS forbid it; the
server is asked to use none, so that equal header blocks have equal bytes and each is decoded once.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import Callable
from typing import cast

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK = 1, 4, 1
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
WINDOW_BYTES = 1 << 30
WINDOW_REFILL_BYTES = 1 << 28
DEFAULT_WINDOW_BYTES = 65_535

_SETTINGS = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, WINDOW_BYTES)


def frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    """Return one frame."""
    return struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream_id) + payload


def message(body: bytes) -> bytes:
    """Return a body as gRPC frames it."""
    return b"\0" + len(body).to_bytes(4, "big") + body


class Connection(asyncio.Protocol):
    """One connection to a server; ``on_done(stream_id, body, ok)`` is called at the end of each call."""

    def __init__(self, path: bytes, authority: bytes, secure: bool) -> None:
        self._fields = (
            (b":method", b"POST"), (b":scheme", b"https" if secure else b"http"), (b":path", path),
            (b":authority", authority), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
        )  # fmt: skip
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_done: Callable[[int, bytes, bool], None] = lambda _stream, _body, _ok: None
        self.on_data: Callable[[int, bytes], None] | None = None
        """Takes the bytes of all streams as they come, instead of their being kept."""
        self.on_lost: Callable[[], None] = lambda: None
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._next_stream = 1
        self._first_block = b""
        self._block = b""
        self._decoder = hpack.Decoder(max_header_list_size=1 << 16)
        self._status_of: dict[bytes, bool] = {}
        self._bodies: dict[int, bytes] = {}
        self._to_return = 0
        self._send_window = DEFAULT_WINDOW_BYTES
        self._waiting: list[bytes] = []
        self._out: list[bytes] = []
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(1 << 24)
        update = frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_BYTES))
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, _SETTINGS) + update)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.ready.done():
            self.ready.set_exception(exc or ConnectionError("the server closed the connection"))
        self.on_lost()

    def start(self, body: bytes, *, last: bool = True) -> int:
        """Begin a call; it leaves with the next ``flush``. Streams that stay open take ``last=False``."""
        stream_id = self._next_stream
        self._next_stream += 2
        block, self._first_block = self._first_block or self._block, b""
        payload = message(body)
        head = frame(HEADERS, END_HEADERS, stream_id, block)
        call = head + frame(DATA, END_STREAM if last else 0, stream_id, payload)
        # The connection's window is shared; one call's body is far below a stream's.
        if self._send_window < len(payload):
            self._waiting.append(call)
        else:
            self._send_window -= len(payload)
            self._out.append(call)
        return stream_id

    def flush(self) -> None:
        """Send what was begun."""
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        at, end = 0, len(buffer)
        while end - at >= 9:
            length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            stop = at + 9 + length
            if stop > end:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            payload = buffer[at + 9 : stop]
            stream_id = int.from_bytes(buffer[at + 5 : at + 9], "big")
            if kind == DATA:
                self._to_return += length
                if self.on_data is not None:
                    self.on_data(stream_id, payload)
                elif stream_id in self._bodies:
                    self._bodies[stream_id] += payload
                else:
                    self._bodies[stream_id] = payload
            elif kind == HEADERS:
                self._take_headers(stream_id, flags, payload)
            else:
                self._take_other(kind, flags, stream_id, payload)
            at = stop
        self._buffer = buffer[at:]
        if self._to_return >= WINDOW_REFILL_BYTES:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", self._to_return)))
            self._to_return = 0
        self.flush()

    def _take_headers(self, stream_id: int, flags: int, block: bytes) -> None:
        assert flags & END_HEADERS, "the headers of these servers fit into one frame"
        ok = self._status_of.get(block)
        if ok is None:
            if flags & 0x20:
                block = block[5:]
            fields = self._decoder.decode(block, raw=True)
            ok = self._status_of[block] = (b"grpc-status", b"0") in [(name, value) for name, value in fields]
        if flags & END_STREAM:
            self.on_done(stream_id, self._bodies.pop(stream_id, b"")[5:], ok)

    def _take_other(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags & ACK:
            self._take_settings(payload)
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream_id == 0:
            self._send_window += int.from_bytes(payload, "big")
            while self._waiting and self._send_window >= (size := len(self._waiting[0])):
                self._send_window -= size
                self._out.append(self._waiting.pop(0))
        elif kind == RST_STREAM:
            self._bodies.pop(stream_id, None)
            self.on_done(stream_id, b"", False)
        elif kind == GOAWAY:
            self.close()

    def _take_settings(self, payload: bytes) -> None:
        settings = {
            int.from_bytes(payload[at : at + 2], "big"): int.from_bytes(payload[at + 2 : at + 6], "big")
            for at in range(0, len(payload), 6)
        }
        self._out.append(frame(SETTINGS, ACK, 0, b""))
        if self._block:
            return
        if settings.get(HEADER_TABLE_SIZE) == 0:
            self._first_block = b"\x20" + _literals(self._fields)
            self._block = self._first_block[1:]
        else:
            encoder = hpack.Encoder()
            self._first_block = encoder.encode(self._fields)
            self._block = encoder.encode(self._fields)
        self.ready.set_result(None)


def _literals(fields: tuple[tuple[bytes, bytes], ...]) -> bytes:
    """Encode fields so that no table is touched."""
    return b"".join(b"\0" + bytes((len(name),)) + name + bytes((len(value),)) + value for name, value in fields)


async def connect(path: str, port: int, tls: ssl.SSLContext | None = None) -> Connection:
    """Return a connection for calls of one method."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: Connection(path.encode(), b"127.0.0.1:%d" % port, tls is not None),
        "127.0.0.1", port, ssl=tls, server_hostname="127.0.0.1" if tls else None,
    )  # fmt: skip
    await connection.ready
    return connection


class Load:
    """Keeps a number of calls in flight on each connection and notes how long each took."""

    def __init__(self, next_body: Callable[[], bytes]) -> None:
        self._next_body = next_body
        self._connections: list[Connection] = []
        self._running = True
        self._under_way = 0
        self._idle: asyncio.Event = asyncio.Event()
        self.latencies_s: list[float] = []
        self.failed = 0

    def add(self, connection: Connection, in_flight: int) -> None:
        """Begin calls on a connection."""
        begun: dict[int, float] = {}
        clock = time.perf_counter
        next_body = self._next_body

        def begin() -> None:
            self._under_way += 1
            begun[connection.start(next_body())] = clock()

        def done(stream_id: int, _body: bytes, ok: bool) -> None:
            self._under_way -= 1
            self.latencies_s.append(clock() - begun.pop(stream_id))
            if not ok:
                self.failed += 1
            if self._running:
                begin()
            elif not self._under_way:
                self._idle.set()

        def lost() -> None:
            self.failed += len(begun)
            self._under_way -= len(begun)
            begun.clear()
            if not self._under_way:
                self._idle.set()

        connection.on_done = done
        connection.on_lost = lost
        self._connections.append(connection)
        for _ in range(in_flight):
            begin()
        connection.flush()

    def restart(self) -> None:
        """Forget what was measured so far: the warm-up is over."""
        self.latencies_s.clear()

    async def stop(self, timeout_s: float = 20.0) -> None:
        """Begin no more calls, wait for those under way and close."""
        self._running = False
        if self._under_way:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        for connection in self._connections:
            connection.on_lost = lambda: None
            connection.close()


async def call(
    path: str, port: int, body: bytes, tls: ssl.SSLContext | None = None, timeout_s: float = 5.0
) -> bytes | None:
    """Make one call on a connection of its own; None where it was refused."""
    async with asyncio.timeout(timeout_s):
        connection = await connect(path, port, tls)
        answer: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        connection.on_done = lambda _stream, body, ok: answer.set_result(body if ok else None)
        connection.on_lost = lambda: None if answer.done() else answer.set_exception(ConnectionError("it was lost"))
        connection.start(body)
        connection.flush()
        try:
            return await answer
        finally:
            connection.on_lost = lambda: None
            connection.close()
