"""One HTTP/1.1 connection: httptools parses, requests are answered in their order, and a handler may take it over.

It speaks ASGI to the application, and two things more: ``scope["answer"](code, headers, body)`` answers in one write
without a turn of the loop, and ``scope["hijack"]()`` hands the connection over. Per request there is no timer, no
reference cycle and no copy of a body; what watches over slow clients looks at all connections once a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from http import HTTPStatus
from typing import Any, Literal, cast

import httptools

from control.apiserver.request import ASGIScope
from control.apiserver.rest.door import Door, Errand
from control.apiserver.rest.recall import Head, Target, read_target, remember
from control.apiserver.streams import upgrade

log = logging.getLogger(__name__)

HEAD_BYTES_MAX = 128 << 10
BODY_BUFFER_BYTES = 256 << 10
"""How much of a body is held before its reader asks for it."""
WRITE_BUFFER_BYTES = 512 << 10
PIPELINE_MAX = 16
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_NO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 11\r\n"
    b"connection: close\r\n\r\nBad Request"
)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_LINES = {code.value: f"HTTP/1.1 {code.value} {code.phrase}\r\n".encode() for code in HTTPStatus}
_BODILESS = frozenset({204, 304})
Headers = list[tuple[bytes, bytes]]


class Connection(asyncio.Protocol):
    """The protocol of one client's connection."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.loop = door.loop
        self.transport: asyncio.Transport
        self.peer: tuple[str, int] | None = None
        self._state: dict[str, Any] = {}
        """What requests of this connection share: its certificate."""
        self.deadline = 0.0
        """When the client must have gone on, by the loop's clock; 0 for never."""
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: Headers = []
        self._expects_continue = False
        self._in_head = False
        self._heads: dict[bytes, Head] = {}
        """The head of the last request of each method, by that one's first letters."""
        self._begun = 0
        """How many requests the parser has seen."""
        self._is_repeatable = False
        """Whether the last of them left the connection to others like it."""
        self._head_bytes = 0
        """What arrived of a head that is not complete yet."""
        self._parsed_bytes = 0
        """What the head at hand holds."""
        self._reading: Request | None = None
        """The request whose body arrives."""
        self._answering: Errand | None = None
        self._pipeline: deque[Request] = deque()
        self._writable: asyncio.Future[None] | None = None
        self._reads_paused = False
        self.is_taken = False
        """Whether a handler speaks for the connection now."""
        self._beyond: list[bytes] | None = None
        """What came behind a request to upgrade."""

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER."""
        found: bytes | None = self._state["certificate"]
        return found

    @property
    def remote_address(self) -> str:
        """Where the connection comes from."""
        return self.peer[0] if self.peer else ""

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who is at the other end."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(WRITE_BUFFER_BYTES)
        tls = transport.get_extra_info("ssl_object")
        self._state["certificate"] = tls.getpeercert(True) if tls is not None else None
        peer = transport.get_extra_info("peername")
        self.peer = (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) and len(peer) >= 2 else None
        self.door.connections.add(self)
        self.deadline = self.loop.time() + self.door.head_timeout_s

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who still reads or writes."""
        self.door.leave(self)
        for request in (self._answering, *self._pipeline):
            if request is not None:
                request.lose()
        self._pipeline.clear()
        self.resume_writing()
        self._parser = None

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless it is known already, or a head without end."""
        if self._answering is None and self._reading is None and not self._in_head and self._beyond is None:
            head = self._heads.get(data[:3])
            if head is not None and (target := head.target(data)) is not None:
                self._begin_known(head, target, data)
                return
            begun = self._begun
            self._parse(data)
            if self._begun == begun + 1 and not self._in_head and self._reading is None:
                self._remember(data)
            return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._refuse(_HEAD_TOO_LARGE)
                return
        if self._beyond is not None:
            self._beyond.append(data)
            self._pause_reading()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            # The application answers upgrades; what follows is for whoever takes the connection.
            self._beyond = [data[upgraded.args[0] :]]
        except httptools.HttpParserError:
            self._refuse(_NO_HTTP)

    def _remember(self, data: bytes) -> None:
        """Remember the head of a request that came as one piece, for those to come."""
        if self._is_repeatable and self._beyond is None and (head := remember(data, self._headers)) is not None:
            self._heads[data[:3]] = head

    def _begin_known(self, head: Head, target: Target, data: bytes) -> None:
        """Begin a request whose head needs no parsing."""
        prompt = self.door.prompt
        if prompt is not None and prompt.take(self, head, target):
            return
        self.begin_slowly(head, target, head.body(data))

    def begin_slowly(self, head: Head, target: Target, body: bytes = b"") -> None:
        """Let the application answer a request whose head needs no parsing."""
        request = Request(self, self._scope_of(target, "1.1", head.headers), keep_alive=True, expects_continue=False)
        if body:
            request.take(body)
        request.end_body()
        self._begin(request)

    def hold(self, errand: Errand) -> None:
        """Let requests wait until somebody's answer is sent, who tells by ``answered``."""
        self._answering = errand
        self.deadline = 0.0

    def _refuse(self, answer: bytes) -> None:
        if self._answering is None and not self.transport.is_closing():
            self.transport.write(answer)
        self.transport.close()

    def eof_received(self) -> bool:
        """Close with the client."""
        return False

    def pause_writing(self) -> None:
        """Let writers wait for a slow client."""
        if self._writable is None:
            self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        """Let writers go on."""
        waiter, self._writable = self._writable, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def writable(self) -> None:
        """Wait until the client has read most of what was sent."""
        while (waiter := self._writable) is not None:
            await asyncio.shield(waiter)

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._url, self._headers, self._expects_continue = b"", [], False
        self._in_head, self._head_bytes, self._parsed_bytes = True, 0, 0
        self._begun += 1
        if self._answering is None:
            self.deadline = self.loop.time() + self.door.head_timeout_s

    def on_url(self, url: bytes) -> None:
        """Take the target, or a part of it."""
        self._url += url
        self._parsed_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        name = name.lower()
        self._parsed_bytes += len(name) + len(value)
        if name == b"expect" and value.lower() == b"100-continue":
            self._expects_continue = True
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Hand the request on, or let it wait for those before it."""
        self._in_head = False
        if self._parsed_bytes > HEAD_BYTES_MAX:  # it came in one piece
            self._refuse(_HEAD_TOO_LARGE)
        if self.transport.is_closing():
            return
        parser = self._parser
        version = parser.get_http_version()
        scope = self._scope(parser.get_method().decode("latin-1"), version)
        # After an upgrade the parser has ended: a refused one cannot be followed by another request.
        keep_alive = parser.should_keep_alive() and not parser.should_upgrade()
        self._is_repeatable = keep_alive and version == "1.1"
        request = self._reading = Request(self, scope, keep_alive, self._expects_continue)
        if self._answering is None:
            self._begin(request)
            return
        self._pipeline.append(request)
        self._pause_reading()
        if len(self._pipeline) > PIPELINE_MAX:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._reading is not None and self._reading.take(body):
            self._pause_reading()

    def on_message_complete(self) -> None:
        """End a request's body."""
        request, self._reading = self._reading, None
        if request is not None:
            request.end_body()

    def _scope(self, method: str, version: str) -> ASGIScope:
        url = self._url
        if not url.startswith(b"/"):
            try:
                parsed = httptools.parse_url(url)
                url = (parsed.path or b"/") + (b"?" + parsed.query if parsed.query else b"")
            except httptools.HttpParserError:
                url = b"/" if url == b"*" else url
        return self._scope_of(read_target(method, url), version, self._headers)

    def _scope_of(self, target: Target, version: str, headers: Headers) -> ASGIScope:
        return {
            "type": "http",
            "http_version": version,
            "method": target.method,
            "path": target.path,
            "raw_path": target.raw_path,
            "query_string": target.query,
            "headers": headers,
            "client": self.peer,
            "state": self._state,
        }

    # Answering.

    def _begin(self, request: Request) -> None:
        self._answering = request
        self.deadline = 0.0
        self.door.run(request)

    def answered(self, keep_alive: bool) -> None:
        """Go on after an answer: with the next request that waits, or with waiting for one."""
        self._answering = None
        if self.is_taken or self.transport.is_closing():
            return
        if not keep_alive or self.door.ending:
            self.transport.close()
            return
        self.deadline = self.loop.time() + self.door.keep_alive_s
        if self._pipeline:
            self._begin(self._pipeline.popleft())
        if not self._pipeline:
            self.resume_reading()

    def _pause_reading(self) -> None:
        if not self._reads_paused and not self.transport.is_closing():
            self._reads_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Let the client send more, if somebody wants it."""
        if self._reads_paused and not self._pipeline and self._beyond is None and not self.transport.is_closing():
            self._reads_paused = False
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send bytes, if anybody is there to take them."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def is_gone(self) -> bool:
        """Tell whether the client has closed the connection."""
        return self.transport.is_closing()

    def hijack(self) -> upgrade.Connection:
        """Take the connection out of HTTP's hands; nothing may be sent through ASGI after that."""
        if self.transport.is_closing():
            raise ConnectionResetError
        self.is_taken = True
        self.deadline = 0.0
        taken = upgrade.take(self.transport, self.loop, lambda: self.door.leave(self))
        for data in self._beyond or ():
            taken.reader.feed_data(data)
        return taken

    def end(self) -> None:
        """Close at the server's end, unless an answer is under way."""
        if self.is_taken or self._answering is None:
            self.transport.close()


class Request:
    """One request on its way, as ASGI's three callables see it."""

    __slots__ = (
        "_bodiless", "_chunked", "_connection", "_ended", "_expects_continue", "_keep_alive", "_lost", "_parts",
        "_size", "_started", "_told", "_waiter", "scope",
    )  # fmt: skip

    def __init__(self, connection: Connection, scope: ASGIScope, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self._connection = connection
        self._keep_alive = keep_alive
        self._expects_continue = expects_continue
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._told = False
        """Whether the application knows that the body has ended."""
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None
        self._started: Literal["", "head", "whole"] = ""
        self._chunked = False
        self._bodiless = scope["method"] == "HEAD"
        scope["hijack"], scope["is_gone"] = connection.hijack, connection.is_gone
        scope["answer"], scope["writable"] = self.answer, connection.writable

    # From the connection.

    def take(self, body: bytes) -> bool:
        """Keep a part of the body; tell whether that is enough for now."""
        if self._started == "whole":
            return False
        self._parts.append(body)
        self._size += len(body)
        self._wake()
        return self._size > BODY_BUFFER_BYTES

    def end_body(self) -> None:
        """Note that the body is complete."""
        self._ended = True
        self._wake()

    def lose(self) -> None:
        """Note that the client is gone."""
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # From the application.

    async def run(self) -> None:
        """Let the application answer, and end what it leaves unfinished."""
        connection = self._connection
        try:
            await connection.door.app(self.scope, self.receive, self.send)
        except Exception:
            log.exception("a request failed path=%s", self.scope["path"])
        if self._started != "whole" and not connection.is_taken:
            if not self._started and not self._lost:
                self._keep_alive = False
                self.answer(500, [(b"content-type", b"text/plain")], b"Internal Server Error")
            else:
                connection.transport.close()
        # The scope knows this request: a cycle would keep both until the collector comes.
        self.scope = {}

    async def receive(self) -> dict[str, Any]:
        """Return a part of the body, or that the client is gone."""
        if self._expects_continue and not self._parts and not self._ended and not self._started:
            self._connection.write(_CONTINUE)
        self._expects_continue = False
        while not self._lost and self._started != "whole":
            if self._parts or (self._ended and not self._told):
                body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
                self._parts, self._size, self._told = [], 0, self._ended
                return {"type": "http.request", "body": body, "more_body": not self._ended}
            self._connection.resume_reading()
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """Take ASGI's messages of an answer."""
        connection = self._connection
        if self._lost or self._started == "whole":
            return
        if message["type"] == "http.response.start":
            self._started = "head"
            connection.write(self._head(message["status"], message.get("headers", ()), None))
            return
        body, last = message.get("body", b""), not message.get("more_body", False)
        if not self._bodiless:
            if not self._chunked:
                connection.write(body)
            elif body:
                end = b"\r\n0\r\n\r\n" if last else b"\r\n"
                connection.write(b"%x\r\n%b%b" % (len(body), body, end))
            elif last:
                connection.write(b"0\r\n\r\n")
        if last:
            self._started = "whole"
            connection.answered(self._keep_alive)
        else:
            await connection.writable()

    def answer(self, code: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        if self._lost:
            return
        head = self._head(code, headers, len(body))
        self._started = "whole"
        self._connection.write(head if self._bodiless else head + body)
        self._connection.answered(self._keep_alive)

    def _head(self, code: int, headers: Headers, length: int | None) -> bytes:
        parts = [_LINES.get(code) or b"HTTP/1.1 %d Status\r\n" % code, self._connection.door.date]
        for name, value in headers:
            if name == b"content-length":
                length = length if length is not None else int(value)
                continue
            parts.append(b"%b: %b\r\n" % (name, value))
            if name == b"connection" and value.lower() == b"close":
                self._keep_alive = False
        if code in _BODILESS:
            self._bodiless = True
        elif length is not None:
            parts.append(b"content-length: %d\r\n" % length)
        elif not self._bodiless:
            if self.scope["http_version"] == "1.0":
                self._keep_alive = False
            else:
                self._chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
        if not self._keep_alive or self._connection.door.ending:
            self._keep_alive = False
            parts.append(b"connection: close\r\n")
        elif self.scope["http_version"] == "1.0":
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)
