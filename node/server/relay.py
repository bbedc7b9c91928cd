"""Hands an upgraded connection through to the runtime's streaming server, byte by byte."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from node.server.connection import Connection, Request, RequestError

CHUNK_BYTES = 64 * 1024
DIAL_TIMEOUT_S = 10.0
KEPT_HEADERS = (
    "connection",
    "upgrade",
    "x-stream-protocol-version",
    "sec-websocket-key",
    "sec-websocket-version",
    "sec-websocket-protocol",
    "sec-websocket-extensions",
    "origin",
    "content-length",
)


async def relay(connection: Connection, request: Request, url: str) -> None:
    """Ask the streaming server at this address for the same upgrade, then carry bytes until either side ends."""
    split = urlsplit(url)
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(split.hostname, split.port)
    except (OSError, TimeoutError) as error:
        raise RequestError(502, f"cannot reach the runtime's streaming server: {error}") from error
    try:
        path = split.path + (f"?{split.query}" if split.query else "")
        lines = [f"{request.method} {path} HTTP/1.1", f"Host: {split.netloc}"]
        lines += [f"{name}: {value}" for name, value in request.raw_headers if name.lower() in KEPT_HEADERS]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + connection.take())
        await writer.drain()
        await join((connection.reader, connection.writer), (reader, writer))
    finally:
        writer.close()


Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def join(one: Side, other: Side) -> None:
    """Carry bytes both ways until one side has ended and the other has had what was on its way."""
    async with asyncio.TaskGroup() as group:
        upward = group.create_task(_carry(one[0], other[1]))
        await _carry(other[0], one[1])
        upward.cancel()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        elif not writer.is_closing():
            await writer.drain()
    except (ConnectionError, OSError):
        return  # the other direction notices too, and ends the exchange
