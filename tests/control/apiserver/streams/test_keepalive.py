"""Connections to other servers that serve several requests, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from control.api.resources import PODS
from control.api.status import ApiError
from control.apiserver.request import StreamRequest, UserInfo, parse
from control.apiserver.streams import keepalive
from control.apiserver.streams.keepalive import KeepAlive
from control.apiserver.streams.relay import Backend, relay_http
from control.apiserver.streams.target import Address


class Backends:
    """A server that tells on which of its connections a request came, and ends them as it was told to."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.heads: list[bytes] = []
        self.answers_each = 100
        self.silent_after = 100
        """Requests of a connection after which it is closed without an answer."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            for count in range(self.answers_each):
                head = await reader.readuntil(b"\r\n\r\n")
                if count >= self.silent_after:
                    return
                self.heads.append(head)
                body = b"%d" % number
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def backends() -> AsyncIterator[Backends]:
    made = Backends()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def ask(here: Backends, kept: KeepAlive, method: str = "GET") -> str:
    """Relay one request and return its answer."""
    told: list[bytes] = []
    asked = asyncio.Event()

    async def receive() -> Any:
        if asked.is_set():
            await asyncio.Event().wait()
        asked.set()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        told.append(message.get("body", b""))

    scope = {"type": "http", "method": method, "path": "/x", "query_string": b""}
    request = StreamRequest(parse(method, "/x", {}), PODS, UserInfo("ann"), {}, {}, scope, receive, send)
    async with asyncio.timeout(10):
        await relay_http(request, Backend(Address("127.0.0.1", here.port), "/x"), kept)
    return b"".join(told).decode()


async def test_one_connection_serves_many_requests_until_it_is_old() -> None:
    clock = Clock()
    kept = KeepAlive(clock)
    async with backends() as here:
        assert [await ask(here, kept) for _ in range(3)] == ["1", "1", "1"]
        assert b"connection: close" not in b"".join(here.heads).lower()
        clock.now = keepalive.UNREPEATABLE_IDLE_S + 1
        assert await ask(here, kept, "POST") == "2"
        clock.now += 1
        assert await ask(here, kept, "POST") == "2"
        clock.now += keepalive.IDLE_S + 1
        assert await ask(here, kept) == "3"
        kept.close()
        assert await ask(here, kept) == "4"
        kept.close()


async def test_a_connection_that_dies_under_a_request_costs_readers_nothing() -> None:
    kept = KeepAlive(Clock())
    async with backends() as here:
        here.silent_after = 1
        assert [await ask(here, kept) for _ in range(3)] == ["1", "2", "3"]
        with pytest.raises(ApiError, match="error reading from backend"):
            await ask(here, kept, "POST")
        kept.close()


async def test_closed_connections_are_not_taken_and_the_rest_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepalive, "SERVER_MAX", 2)
    kept = KeepAlive(Clock())
    async with backends() as here:
        assert sorted(await asyncio.gather(*(ask(here, kept) for _ in range(4)))) == ["1", "2", "3", "4"]
        assert max(await asyncio.gather(*(ask(here, kept) for _ in range(3)))) == "5"
        kept.close()
        here.answers_each = 1
        assert await ask(here, kept) != await ask(here, kept)
        kept.close()
