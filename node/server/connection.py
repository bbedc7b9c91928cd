"""One HTTP/1.1 request on one connection: its head, its answer, or the bare connection after an upgrade."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

import h11

HEAD_MAX_BYTES = 64 * 1024
BODY_MAX_BYTES = 1024 * 1024
HEAD_TIMEOUT_S = 10.0
CHUNK_BYTES = 64 * 1024


class RequestError(Exception):
    """The request is refused with this status."""

    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True)
class Request:
    """What was asked, by whom."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    target: str
    user: str = ""
    groups: tuple[str, ...] = ()
    upgrade: str = ""
    raw_headers: tuple[tuple[str, str], ...] = field(default=())

    @property
    def parts(self) -> list[str]:
        """The path's parts, decoded."""
        return [unquote(part) for part in self.path.strip("/").split("/")]

    def first(self, name: str) -> str | None:
        """Return a query parameter's first value."""
        values = self.query.get(name)
        return values[0] if values else None

    def flag(self, name: str) -> bool:
        """Return a query parameter as yes or no."""
        return (self.first(name) or "").lower() in ("1", "true")


class Connection:
    """Speaks for one accepted connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)
        self.answered = False

    async def request(self, user: str, groups: tuple[str, ...]) -> Request:
        """Read the request's head; raises RequestError, or EOFError where nobody asks."""
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S):
                event = await self._next()
        except h11.RemoteProtocolError as error:
            raise RequestError(error.error_status_hint, str(error)) from error
        if not isinstance(event, h11.Request):
            raise EOFError
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
        known = {name.lower(): value for name, value in headers}
        target = event.target.decode("latin-1")
        split = urlsplit(target)
        wants_upgrade = "upgrade" in known.get("connection", "").lower()
        return Request(
            method=event.method.decode(),
            path=split.path,
            query=parse_qs(split.query, keep_blank_values=True),
            headers=known,
            target=target,
            user=user,
            groups=groups,
            upgrade=known.get("upgrade", "").lower() if wants_upgrade else "",
            raw_headers=tuple(headers),
        )

    async def _next(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self.reader.read(CHUNK_BYTES))

    def take(self) -> bytes:
        """Return what was read beyond the head: from now on the connection is the caller's."""
        self.answered = True
        return bytes(self._http.trailing_data[0])

    async def answer(self, status: int, body: bytes | str, content_type: str = "text/plain; charset=utf-8") -> None:
        """Send a whole answer."""
        data = body.encode() if isinstance(body, str) else body
        headers = [("content-type", content_type), ("content-length", str(len(data))), ("connection", "close")]
        self.answered = True
        self._send(h11.Response(status_code=status, headers=headers))
        self._send(h11.Data(data=data))
        self._send(h11.EndOfMessage())
        await self.writer.drain()

    async def answer_json(self, value: object) -> None:
        """Send a JSON answer."""
        await self.answer(200, json.dumps(value), "application/json")

    async def stream(self, pieces: AsyncIterator[bytes], content_type: str = "text/plain") -> None:
        """Send an answer piece by piece, until the pieces or the asker's patience end."""
        self.answered = True
        self._send(h11.Response(status_code=200, headers=[("content-type", content_type), ("connection", "close")]))
        await self.writer.drain()
        gone = asyncio.ensure_future(self._gone())
        try:
            async for piece in pieces:
                if gone.done():
                    return
                self._send(h11.Data(data=piece))
                await self.writer.drain()
            self._send(h11.EndOfMessage())
            await self.writer.drain()
        finally:
            gone.cancel()

    async def _gone(self) -> None:
        while await self.reader.read(CHUNK_BYTES):
            continue

    def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self.writer.write(data)
