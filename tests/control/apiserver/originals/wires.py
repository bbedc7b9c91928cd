"""Carries requests to a server over TLS, with an administrator's certificate."""

from __future__ import annotations

import asyncio
import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path

from tests.control.apiserver.originals.conversations import Reply

WATCH_TIMEOUT_S = 8.0


class Wire:
    """A connection to one server."""

    def __init__(self, port: int, pki: Path, authority: Path) -> None:
        self._port = port
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    async def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send a request and return the answer."""
        return await asyncio.to_thread(self._ask, method, url, headers, body, None)

    async def watch(self, url: str, headers: Mapping[str, str], count: int | None) -> Reply:
        """Read a watch to its end or to its ``count``-th event."""
        return await asyncio.to_thread(self._ask, "GET", url, headers, b"", count)

    def _ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes, lines: int | None) -> Reply:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, context=self._context, timeout=WATCH_TIMEOUT_S
        )
        try:
            connection.request(method, url, body or None, dict(headers))
            answer = connection.getresponse()
            found: dict[str, list[str]] = {}
            for name, value in answer.getheaders():
                found.setdefault(name.lower(), []).append(value)
            if lines is None or answer.status != 200:
                return Reply(answer.status, found, answer.read())
            return Reply(answer.status, found, b"".join(answer.readline() for _ in range(lines)))
        except (http.client.RemoteDisconnected, TimeoutError):
            return Reply(0, {}, b"")
        finally:
            connection.close()
