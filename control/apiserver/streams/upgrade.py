"""Uvicorn's HTTP protocol with one addition: a request's handler may take the connection over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

BUFFER_BYTES = 256 << 10
"""How much one direction of a taken connection may hold before its source waits."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


Hijack = Callable[[], Connection]


class UpgradableProtocol(HttpToolsProtocol):
    """Serves HTTP/1.1; ``scope["hijack"]()`` hands the connection to the caller, who speaks for it from then on.

    Use it with ``ws="none"``: WebSocket upgrades then arrive as plain requests.
    """

    _hijacked = False

    def on_headers_complete(self) -> None:
        """Complete the scope before the application sees it."""
        scope = cast("dict[str, Any]", self.scope)
        scope["hijack"], scope["is_gone"] = self.hijack, self.is_gone
        is_upgrade = self.parser.should_upgrade()
        super().on_headers_complete()
        if is_upgrade:
            # The parser has ended with the upgrade: a refused one cannot be followed by another request.
            self.cycle.keep_alive = False

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: upgrades are answered by the application."""

    def is_gone(self) -> bool:
        """Tell whether the client has closed the connection."""
        return self.transport.is_closing()

    def hijack(self) -> Connection:
        """Take the connection out of HTTP's hands; nothing may be sent through ASGI after that."""
        self._hijacked = True
        self._unset_keepalive_if_required()
        self.cycle.disconnected = True
        reader = asyncio.StreamReader(limit=BUFFER_BYTES, loop=self.loop)
        protocol = _Taken(reader, self._released)
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        self.transport.resume_reading()
        return Connection(reader, asyncio.StreamWriter(self.transport, protocol, reader, self.loop))

    def shutdown(self) -> None:
        """Close at the server's end, taken connections too."""
        if self._hijacked:
            self.transport.close()
        else:
            super().shutdown()

    def _released(self) -> None:
        self.connections.discard(self)
        self.parser = None  # type: ignore[assignment]


class _Taken(asyncio.StreamReaderProtocol):
    """Reads a taken connection, and tells its former owner when it is gone."""

    def __init__(self, reader: asyncio.StreamReader, released: Callable[[], None]) -> None:
        super().__init__(reader)
        self._tell = released

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tell()
