"""A member of the store as callers see it: calls and streams, over a connection that is made when it is needed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterable
from urllib.parse import urlsplit

from control.apiserver.wire import frames
from control.apiserver.wire.connection import DEADLINE_EXCEEDED, UNAVAILABLE, Call, Connection, WireError

CONNECT_TIMEOUT_S = 4.0
FOREVER = float("inf")
Metadata = tuple[tuple[str, str], ...]


class Channel:
    """Calls methods of one server, each in a stream of one shared connection."""

    def __init__(self, url: str, tls: ssl.SSLContext | None, message_bytes_max: int) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        self._tls = tls if parts.scheme == "https" else None
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 2379
        self._authority = parts.netloc.encode()
        self._message_bytes_max = message_bytes_max
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._heads: dict[tuple[str, Metadata], bytes] = {}
        self._draining: set[Connection] = set()

    async def close(self) -> None:
        """Close the connection; what is under way fails."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        for connection in (*self._draining, self._connection):
            if connection is not None:
                connection.close()
        self._connection = None

    async def unary(self, path: str, message: bytes, timeout_s: float) -> bytes:
        """Send one message and return the answer; raises WireError."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connected(timeout_s)
        call = Call(loop.create_future(), deadline)
        call.request = (self._head(path), message, True)
        connection.begin(call)
        assert call.answer is not None
        try:
            return await call.answer
        except asyncio.CancelledError:
            connection.cancel(call)
            raise

    async def stream(self, path: str, message: bytes, metadata: Metadata = ()) -> AsyncGenerator[bytes, None]:
        """Send one message and yield the server's as they come, until it or the reader ends; raises WireError."""
        connection = self._connection
        if connection is None or not connection.usable:
            connection = await self._connected(CONNECT_TIMEOUT_S)
        call = Call(None, FOREVER)
        call.request = (self._head(path, metadata), message, False)
        connection.begin(call)
        try:
            while True:
                while call.messages:
                    found = call.messages.popleft()
                    if not call.messages:
                        connection.caught_up(call)
                    yield found
                if call.failure is not None:
                    raise call.failure
                if call.ended:
                    return
                call.waiter = asyncio.get_running_loop().create_future()
                await call.waiter
        finally:
            connection.cancel(call)

    def _head(self, path: str, metadata: Metadata = ()) -> bytes:
        known = self._heads.get((path, metadata))
        if known is None:
            fields: Iterable[tuple[bytes, bytes]] = (
                (b":method", b"POST"), (b":scheme", b"https" if self._tls else b"http"), (b":path", path.encode()),
                (b":authority", self._authority), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
                (b"user-agent", b"raftsman"), *((name.encode(), value.encode()) for name, value in metadata),
            )  # fmt: skip
            known = self._heads[path, metadata] = frames.literals(fields)
        return known

    async def _connected(self, timeout_s: float) -> Connection:
        """Return a usable connection, made once for all who wait for it; raises WireError."""
        if self._connecting is None or self._connecting.done():
            self._connecting = asyncio.ensure_future(self._connect())
            # Whoever asked may have given up: then nobody else hears of a failure.
            self._connecting.add_done_callback(lambda task: task.cancelled() or task.exception())
        task = self._connecting
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise WireError(DEADLINE_EXCEEDED, "Deadline Exceeded") from None

    async def _connect(self) -> Connection:
        self._draining = {each for each in self._draining if each.busy}
        if self._connection is not None and self._connection.busy:
            self._draining.add(self._connection)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, self._connection = await loop.create_connection(
                    lambda: Connection(self._message_bytes_max),
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls else None,
                )
        except TimeoutError:
            raise WireError(UNAVAILABLE, f"no connection in {CONNECT_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise WireError(UNAVAILABLE, f"failed to connect: {error.strerror or error}") from None
        return self._connection
