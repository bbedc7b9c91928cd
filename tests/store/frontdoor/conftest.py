"""A native door over a table of small methods, and a client that speaks by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvloop

from store.api.errors import Code, EtcdError
from store.api.table import Call, Reply, ServiceTable, Stream, Streaming, Unary
from store.frontdoor.abuse import Limits
from store.frontdoor.native import NativeDoor
from store.frontdoor.tls import ServerTLS
from tests.store.frontdoor import wire

REQUEST_BYTES_MAX = 1_572_864
ECHO, DIRECT, HANG, FAIL, REFUSE, TALK, POUR = (
    f"/t.T/{name}" for name in ("Echo", "Direct", "Hang", "Fail", "Refuse", "Talk", "Pour")
)
POURED_BYTES = 50_000


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Test on the loop that members run on."""
    return {"uvloop": uvloop.new_event_loop}


class Pages:
    """One page."""

    async def answer(self, path: str) -> tuple[int, str, bytes]:
        return (200, "text/plain", b"fine\n") if path.startswith("/health") else (404, "text/plain", b"none\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while await reader.readline() not in (b"\r\n", b""):
            pass
        status, _, body = await self.answer(line.split()[1].decode())
        writer.write(b"HTTP/1.1 %d .\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body))
        await writer.drain()
        writer.close()


@dataclass
class Methods:
    """What the table does, and what is seen of it."""

    calls: list[Call] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    running: int = 0
    poured: int = 0
    replies: list[Reply] = field(default_factory=list)

    def table(self) -> ServiceTable:
        return {
            ECHO: Unary(self.echo),
            DIRECT: Unary(self.echo, self.direct),
            HANG: Unary(self.hang),
            FAIL: Unary(self.fail),
            REFUSE: Unary(self.refuse),
            TALK: Streaming(self.talk),
            POUR: Streaming(self.pour),
        }

    async def echo(self, body: bytes, call: Call) -> bytes:
        self.calls.append(call)
        return body

    def direct(self, body: bytes, call: Call, reply: Reply) -> None:
        match body:
            case b"wait":
                reply.wait()
            case b"refuse":
                reply.refuse(EtcdError(Code.NOT_FOUND, "not ö here"))
            case b"raise":
                raise ValueError("a defect")
            case b"later":
                self.replies.append(reply)
            case _:
                reply.send(body)

    async def hang(self, body: bytes, call: Call) -> bytes:
        self.running += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.append("hang")
            raise
        finally:
            self.running -= 1
        return b""

    async def fail(self, body: bytes, call: Call) -> bytes:
        raise ValueError("a defect")

    async def refuse(self, body: bytes, call: Call) -> bytes:
        raise EtcdError(Code.INVALID_ARGUMENT, "100% wrong:\nzwölf")

    async def talk(self, stream: Stream, call: Call) -> None:
        self.running += 1
        try:
            while (message := await stream.read()) is not None:
                await stream.write(message)
        except asyncio.CancelledError:
            self.cancelled.append("talk")
            raise
        finally:
            self.running -= 1

    async def pour(self, stream: Stream, call: Call) -> None:
        await stream.read()
        while True:
            await stream.write(bytes(POURED_BYTES))
            self.poured += 1


@dataclass
class Running:
    """A door that serves."""

    door: NativeDoor
    port: int
    methods: Methods


@asynccontextmanager
async def running(limits: Limits | None = None, tls: ServerTLS | None = None) -> AsyncIterator[Running]:
    methods = Methods()
    door = NativeDoor(methods.table(), REQUEST_BYTES_MAX, Pages(), limits)
    port = door.listen("127.0.0.1", 0, tls)
    await door.start()
    try:
        yield Running(door, port, methods)
    finally:
        await door.stop()


@pytest.fixture
async def door() -> AsyncIterator[Running]:
    async with running() as served:
        yield served


class Client:
    """A connection that says what it is told to, byte for byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.answers = wire.Answers()
        self.is_closed = False

    async def say(self, *parts: bytes) -> None:
        try:
            for part in parts:
                self._writer.write(part)
                await self._writer.drain()
        except ConnectionError:
            self.is_closed = True

    async def listen(self) -> None:
        """Take what comes next."""
        try:
            received = await self._reader.read(65_536)
        except ConnectionError:
            received = b""
        if not received:
            self.is_closed = True
        self.answers.feed(received)

    async def until(self, stream_id: int) -> dict[str, str]:
        """Wait for the end of an answer and return its fields, trailers among them."""
        async with asyncio.timeout(20):
            while stream_id not in self.answers.ended and stream_id not in self.answers.resets:
                assert not self.is_closed, "closed before the answer came"
                await self.listen()
        return self.answers.fields.get(stream_id, {})

    async def until_closed(self) -> tuple[int, int, bytes] | None:
        """Wait until the server has closed and return what its GOAWAY said."""
        async with asyncio.timeout(20):
            while not self.is_closed:
                await self.listen()
        return self.answers.goaway

    def close(self) -> None:
        self._writer.transport.abort()


@asynccontextmanager
async def connected(port: int, first: bytes = wire.START) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(reader, writer)
    try:
        await client.say(first)
        yield client
    finally:
        client.close()


async def is_served(port: int) -> bool:
    """Whether another client gets its answer."""
    async with connected(port) as client:
        await client.say(wire.call(1, b"hello", ECHO))
        fields = await client.until(1)
        return fields["grpc-status"] == "0" and client.answers.bodies[1] == wire.message(b"hello")


async def eventually(condition: object) -> None:
    """Wait until a condition holds."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
