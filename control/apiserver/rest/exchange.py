"""One HTTP request and its answer, over ASGI."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson

from control.api import status
from control.api.meta import Object
from control.apiserver.auditid import audit_id_of
from control.apiserver.request import ASGIScope, Credentials, Passage, Receive, Send
from control.apiserver.rest.encodings import encoded
from control.apiserver.rest.negotiate import JSON, choose_error

if TYPE_CHECKING:
    # Imported for real where audit is configured.
    from control.apiserver.audit.record import Record

_WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
JSON_TYPE = b"application/json"
GZIP_BYTES_MIN = 128 << 10
"""Shorter answers are sent as they are: on their way they cost less than compressing does."""
GZIP_LEVEL = 1
PRETTY_BYTES_MAX = 4 << 20
"""Longer answers stay on one line: nobody reads them, and laying them out would hold up everybody else."""
NOT_CACHED = b"no-cache, private"
_TRUE = frozenset({"1", "t", "T", "true", "True", "TRUE"})
PERSONS = ("curl", "Wget", "Mozilla/5.0")
"""Programs that a person looks through, by the beginnings of their names."""
WARNING_CHARACTERS_MAX = 256
WARNINGS_CHARACTERS_MAX = 4096
"""More than this breaks clients; kube-apiserver cuts there too."""
LARGE_BYTES = 64 << 10
TAKEN_S = 10.0
"""A large answer is not over before its client has taken most of it, or this has passed: so that few lie in memory."""
_NO_QUERY: Mapping[str, tuple[str, ...]] = {}


def read_query(raw: bytes) -> Mapping[str, tuple[str, ...]]:
    """Return the query's values by name."""
    return _by_name(parse_qsl(raw.decode("latin-1"), keep_blank_values=True)) if raw else {}


def read_headers(raw: list[tuple[bytes, bytes]]) -> Mapping[str, tuple[str, ...]]:
    """Return the headers by lower-case name."""
    return _by_name((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)


def _by_name(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    more: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in found:
            # Apart, so that a thousand of one name do not cost a million steps.
            more.setdefault(name, []).append(value)
        else:
            found[name] = (value,)
    for name, values in more.items():
        found[name] = (*found[name], *values)
    return found


def _remembered_headers(scope: ASGIScope) -> Mapping[str, tuple[str, ...]]:
    """Return the request's headers; most clients send the same ones again and again on their connection."""
    raw, state = scope["headers"], scope.get("state")
    if state is None:
        return read_headers(raw)
    known = state.get("headers")
    if known is None or known[0] != raw:
        known = state["headers"] = raw, read_headers(raw)
    headers: Mapping[str, tuple[str, ...]] = known[1]
    return headers


class Exchange:
    """A request that can be read once and answered once."""

    cache_control = NOT_CACHED

    def __init__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.method: str = scope.get("method", "GET")
        self.path: str = scope["path"]
        self.query = read_query(scope["query_string"]) if scope["query_string"] else _NO_QUERY
        self.headers = _remembered_headers(scope)
        self.warnings: list[str] = []
        self.deprecation = ""
        """What is told before any other warning."""
        self.passage: Passage | None = None
        self.started = False
        self._audit_id = b""
        self.timeout_s = 0.0
        """How long the request may take by its own wish; 0 for what the server gives every request."""
        self.wants_layout = False
        """Whether JSON is to be laid out although nothing but the Accept header says so."""
        self.code = 0
        """The answer's code, once it has begun."""
        self.sent_bytes = 0
        self.record: Record | None = None
        """What audit knows of the request; None where nothing is audited."""

    def header(self, name: str) -> str:
        """Return a header's first value."""
        return self.headers.get(name, ("",))[0]

    def parameter(self, name: str) -> str:
        """Return a query parameter's first value."""
        return self.query.get(name, ("",))[0]

    @property
    def audit_id(self) -> bytes:
        """The request's name in audit events, which its answer tells."""
        if not self._audit_id:
            self._audit_id = self.record.header if self.record is not None else audit_id_of(self.headers)
        return self._audit_id

    @property
    def remote_address(self) -> str:
        """Where the connection comes from."""
        client = self.scope.get("client")
        return str(client[0]) if client else ""

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER."""
        found: bytes | None = self.scope.get("state", {}).get("certificate")
        return found

    @property
    def credentials(self) -> Credentials:
        """Everything that may prove who asks."""
        return Credentials(self.certificate, self.header("authorization"), self.headers, self.remote_address)

    @property
    def gone(self) -> bool:
        """Whether the client has hung up, as far as the server has noticed."""
        is_gone = self.scope.get("is_gone")
        return is_gone is not None and bool(is_gone())

    async def body(self, bytes_max: int) -> bytes:
        """Read the body; raises RequestEntityTooLarge."""
        length = self.header("content-length")
        if length.isdecimal() and int(length) > bytes_max:
            raise too_large(bytes_max)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            if part := message.get("body"):
                parts.append(part)
                size += len(part)
                if size > bytes_max:
                    raise too_large(bytes_max)
            if not message.get("more_body"):
                body = b"".join(parts)
                if self.record is not None:
                    self.record.asked(body, self.header("content-type"))
                return body

    async def send(self, message: Any) -> None:
        """Send an ASGI message, noting that the answer has begun."""
        self.started = True
        if message["type"] == "http.response.start":
            self.code = message["status"]
            if self.record is not None:
                await self.record.starts(self.code)
            # Another server that answers through us names the request, too: once is enough.
            headers = [header for header in message["headers"] if header[0] != b"audit-id"]
            message = {**message, "headers": [*headers, (b"audit-id", self.audit_id)]}
        elif body := message.get("body"):
            self.sent_bytes += len(body)
            if self.record is not None:
                self.record.answers(body)
        await self._send(message)

    def _head(self, content_type: bytes, extra: tuple[tuple[bytes, bytes], ...]) -> list[tuple[bytes, bytes]]:
        headers = [(b"content-type", content_type), (b"cache-control", self.cache_control), *extra]
        if self.passage is not None:
            headers += self.passage.headers
        if self.deprecation:
            self.warnings.insert(0, self.deprecation)
        for text in bounded_warnings(self.warnings) if self.warnings else ():
            headers.append((b"warning", f'299 - "{_quoted(text)}"'.encode("utf-8", "replace")))
        return headers

    async def start(
        self, code: int, content_type: bytes, length: int | None, extra: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Send status line and headers."""
        headers = self._head(content_type, extra)
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        await self.send({"type": "http.response.start", "status": code, "headers": headers})

    async def answer(
        self, code: int, body: bytes, content_type: bytes = JSON_TYPE, extra: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        """Send a whole answer: laid out where a person reads it, compressed where it is long."""
        if content_type is JSON_TYPE and body and self._pretty():
            body = laid_out(body)
        plain = body
        if len(body) > GZIP_BYTES_MIN and accepts_gzip(self.header("accept-encoding")):
            # In a thread, because zlib lets others run meanwhile.
            body = await asyncio.to_thread(gzip.compress, body, GZIP_LEVEL, mtime=0)
            extra = (*extra, (b"content-encoding", b"gzip"), (b"vary", b"Accept-Encoding"))
        if (at_once := self.scope.get("answer")) is not None:
            self.started = True
            self.code, self.sent_bytes = code, len(body)
            headers = self._head(content_type, extra)
            if self.record is not None:
                await self.record.starts(code)
                self.record.answers(plain)
            headers.append((b"audit-id", self.audit_id))
            at_once(code, headers, body)
            if len(body) > LARGE_BYTES:
                await self._taken()
            return
        await self.start(code, content_type, len(body), extra)
        self.sent_bytes += len(body)
        if self.record is not None:
            self.record.answers(plain)
        await self._send({"type": "http.response.body", "body": body})

    def _pretty(self) -> bool:
        if "pretty" in self.query:
            return self.parameter("pretty") in _TRUE
        return self.wants_layout or self.header("user-agent").startswith(PERSONS)

    async def _taken(self) -> None:
        if (writable := self.scope.get("writable")) is None:
            return
        try:
            async with asyncio.timeout(TAKEN_S):
                await writable()
        except TimeoutError:
            # Nobody else shall wait for a client that does not read.
            return

    async def part(self, body: bytes, last: bool = False) -> None:
        """Send a part of a streamed answer."""
        await self.send({"type": "http.response.body", "body": body, "more_body": not last})

    async def fail(self, error: status.ApiError) -> None:
        """Answer with a Status, unless an answer has begun."""
        if self.started:
            return
        extra: tuple[tuple[bytes, bytes], ...] = ()
        if error.code == 413 or (error.code == 504 and self.method in _WITH_BODY):
            # The rest of the body is not worth reading.
            extra = ((b"connection", b"close"),)
        retry_after = error.status.get("details", {}).get("retryAfterSeconds")
        if retry_after:
            extra = (*extra, (b"retry-after", str(retry_after).encode()))
        media = choose_error(self.header("accept"))
        media_type = media.type
        if media_type == JSON:
            told = orjson.dumps(error.status, option=orjson.OPT_INDENT_2 if media.pretty else 0)
            await self.answer(error.code, told, JSON_TYPE, extra)
            return
        told = encoded({"apiVersion": "v1", "kind": "Status", **error.status}, media_type)
        await self.answer(error.code, told, media_type.encode(), extra)


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether gzip is among the encodings that a client takes."""
    return any(token.strip() == "gzip" for token in accept_encoding.split(","))


def laid_out(body: bytes) -> bytes:
    """Return JSON as a person reads it."""
    if len(body) > PRETTY_BYTES_MAX:
        return body
    return orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def too_large(bytes_max: int) -> status.ApiError:
    """413 for a body above the limit."""
    return status.failure(413, "RequestEntityTooLarge", f"Request entity too large: limit is {bytes_max}")


def bounded_warnings(texts: Sequence[str]) -> list[str]:
    """Return each text once, cut where all together get too long for a response's head."""
    found: list[str] = []
    left = WARNINGS_CHARACTERS_MAX
    whole = sum(map(len, texts)) <= left
    for text in dict.fromkeys(texts):
        shown = text if whole else text[:WARNING_CHARACTERS_MAX]
        if len(shown) > left:
            break
        left -= len(shown)
        found.append(shown)
    return found


def _quoted(text: str) -> str:
    plain = text if text.isprintable() else "".join(each if each.isprintable() else " " for each in text)
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def success_status(obj: Object) -> int:
    """Return the HTTP code that a Status object answers with."""
    return int(obj.get("code") or 200) if obj.get("kind") == "Status" else 200
