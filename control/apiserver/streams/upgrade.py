"""A connection that has left HTTP: its handler reads and writes bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

BUFFER_BYTES = 256 << 10
"""How much one direction of a taken connection may hold before its source waits."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Hijack = Callable[[], Connection]


def take(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, released: Callable[[], None]) -> Connection:
    """Give a transport a new owner, who reads and writes streams; ``released`` is called when it is gone."""
    reader = asyncio.StreamReader(limit=BUFFER_BYTES, loop=loop)
    protocol = _Taken(reader, released)
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    transport.resume_reading()
    return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


class _Taken(asyncio.StreamReaderProtocol):
    """Reads a taken connection, and tells its former owner when it is gone."""

    def __init__(self, reader: asyncio.StreamReader, released: Callable[[], None]) -> None:
        super().__init__(reader)
        self._tell = released

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tell()
