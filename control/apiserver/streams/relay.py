"""Carries a request to another server and its answer back: as HTTP, or byte by byte after an upgrade."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field

import h11

from control.api.status import ApiError, bad_request, failure, internal_error
from control.apiserver.request import StreamRequest
from control.apiserver.streams.keepalive import KeepAlive, Server
from control.apiserver.streams.target import Address
from control.apiserver.streams.upgrade import Connection, Hijack

logger = logging.getLogger(__name__)

DIAL_TIMEOUT_S = 10.0
HEAD_BYTES_MAX = 64 << 10
ERROR_BYTES_MAX = 64 << 10
CHUNK_BYTES = 64 << 10
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER = "base64url.bearer.authorization.k8s.io."
_UPGRADE_HEADERS = (
    "upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions",
    "sec-websocket-protocol", "x-stream-protocol-version", "origin", "audit-id",
)  # fmt: skip
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
        "upgrade", "host", "content-length", "authorization",
    }
)  # fmt: skip
_IDENTITY = ("impersonate-", "x-remote-")
"""Who asks is between client and API server: a backend must not take another's word for it."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a request goes on, and how it is asked there."""

    address: Address
    path: str
    """Path with query."""
    tls: ssl.SSLContext | None = None
    server_name: str | None = None
    headers: Sequence[tuple[str, str]] = field(default_factory=tuple)
    """Headers that are added; each letter is a byte of Latin-1."""
    redirects: bool = True
    """Whether a redirect is passed on to the client."""

    @property
    def server(self) -> Server:
        """What connections to it have in common."""
        return (self.address, self.tls, self.server_name)


def is_upgrade(request: StreamRequest) -> bool:
    """Whether the client asks to speak another protocol."""
    tokens = [token.strip().lower() for value in request.headers.get("connection", ()) for token in value.split(",")]
    return "upgrade" in tokens and bool(request.headers.get("upgrade"))


async def dial(backend: Backend) -> Connection:
    """Open a connection; whatever goes wrong is an ApiError that says so."""
    address = backend.address
    name = (backend.server_name or address.host) if backend.tls is not None else None
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=backend.tls, server_hostname=name, limit=HEAD_BYTES_MAX
            )
    except TimeoutError as error:
        raise internal_error(f"error dialing backend: dial tcp {address.authority}: i/o timeout") from error
    except ssl.SSLCertVerificationError as error:
        text = f"tls: failed to verify certificate: {error.verify_message}"
        raise internal_error(f"error dialing backend: {text}") from error
    except OSError as error:
        text = f"dial tcp {address.authority}: {error.strerror or error}"
        raise internal_error(f"error dialing backend: {text}") from error
    return Connection(reader, writer)


async def relay_upgrade(request: StreamRequest, backend: Backend) -> None:
    """Pass an upgrade on; after the backend agreed, pass all bytes on, both ways, until one side ends."""
    server = await dial(backend)
    try:
        server.writer.write(_upgrade_head(request, backend))
        await server.writer.drain()
        head = await _response_head(server.reader)
        status = _status_code(head)
        if status != 101:
            await _relay_refusal(request, status, head, server.reader)
            return
        hijack: Hijack = request.scope["hijack"]
        client = hijack()
        client.writer.write(head)
        try:
            await splice(client, server)
        finally:
            client.writer.close()
    except OSError as error:
        logger.info("stream ended path=%s: %s", request.info.path, error)
    finally:
        server.writer.close()


async def splice(one: Connection, other: Connection) -> None:
    """Copy both ways until one side ends; what it sent last still arrives."""
    async with asyncio.TaskGroup() as group:
        pumps = [
            group.create_task(_pump(one.reader, other.writer)),
            group.create_task(_pump(other.reader, one.writer)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(CHUNK_BYTES):
            sink.write(data)
            await sink.drain()
    except OSError as error:
        logger.debug("stream broken: %s", error)


async def relay_http(request: StreamRequest, backend: Backend, kept: KeepAlive | None = None) -> None:
    """Pass a plain request on and stream the answer back; the client's going ends the backend's work too.

    Where there are ``kept`` connections, one of them is used, and given back after a whole answer.
    """
    repeatable = request.scope["method"] in _REPEATABLE
    old = kept.take(backend.server, repeatable=repeatable) if kept is not None else None
    if old is not None and await _relay(request, backend, old, kept, repeatable=repeatable):
        return
    await _relay(request, backend, await dial(backend), kept)


async def _relay(
    request: StreamRequest, backend: Backend, server: Connection, kept: KeepAlive | None, *, repeatable: bool = False
) -> bool:
    """Relay one exchange; False where nothing was answered and it may be tried on another connection."""
    exchange = _Exchange(request, server, backend, keeps=kept is not None)
    fault: Exception | None = None
    async with asyncio.TaskGroup() as group:
        upload = group.create_task(exchange.send_body())
        try:
            await exchange.relay_answer()
        except (OSError, h11.RemoteProtocolError, ApiError) as error:
            fault = error
        finally:
            upload.cancel()
            if kept is None or not exchange.reusable:
                server.writer.close()
    if fault is None or exchange.client_left:
        if kept is not None and exchange.reusable:
            kept.give(backend.server, server)
        return True
    if exchange.started:
        logger.info("answer broke off path=%s: %s", request.info.path, fault)
        return True
    if repeatable:
        # The server has closed the connection meanwhile.
        return False
    if isinstance(fault, ApiError):
        raise fault
    raise internal_error(f"error reading from backend: {fault}") from fault


class _Exchange:
    """One HTTP/1.1 request to a backend, and its answer on the way to the client."""

    def __init__(self, request: StreamRequest, server: Connection, backend: Backend, *, keeps: bool) -> None:
        self._request = request
        self._server = server
        self._backend = backend
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._keeps = keeps
        self.started = False
        self.client_left = False

    @property
    def reusable(self) -> bool:
        """Whether both sides are through, and mean to go on."""
        http = self._http
        through = http.our_state is h11.DONE and http.their_state is h11.DONE
        return through and not self.client_left and http.trailing_data == (b"", False)

    async def send_body(self) -> None:
        """Send the request; then wait until the client is gone, and hang up on the backend."""
        try:
            await self._send(_request_head(self._request, self._backend, keeps=self._keeps))
            while True:
                message = await self._request.receive()
                if message["type"] == "http.disconnect":
                    self.client_left = True
                    break
                if self._http.our_state is h11.SEND_BODY:
                    if message.get("body"):
                        await self._send(h11.Data(data=message["body"]))
                    if not message.get("more_body", False):
                        await self._send(h11.EndOfMessage())
        except OSError as error:
            logger.debug("request broke off path=%s: %s", self._request.info.path, error)
        self._server.writer.close()

    async def relay_answer(self) -> None:
        """Stream the backend's answer to the client."""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._server.reader.read(CHUNK_BYTES))
            elif isinstance(event, h11.Response):
                await self._start(event)
            elif isinstance(event, h11.Data):
                await self._request.send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
            elif isinstance(event, h11.EndOfMessage):
                await self._request.send({"type": "http.response.body", "body": b""})
                return
            elif isinstance(event, h11.ConnectionClosed):
                raise internal_error("the backend closed the connection")

    async def _start(self, response: h11.Response) -> None:
        headers = [(key, value) for key, value in response.headers if key.decode() not in _HOP_BY_HOP]
        if not self._backend.redirects and 300 <= response.status_code < 400 and b"location" in dict(headers):
            raise failure(502, "", "the backend attempted to redirect this request, which is not permitted")
        self.started = True
        await self._request.send({"type": "http.response.start", "status": response.status_code, "headers": headers})

    async def _send(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            self._server.writer.write(data)
            await self._server.writer.drain()


def _request_head(request: StreamRequest, backend: Backend, *, keeps: bool) -> h11.Request:
    headers = [("host", backend.address.authority), *backend.headers]
    if not keeps:
        headers.append(("connection", "close"))
    for key, values in request.headers.items():
        if key not in _HOP_BY_HOP and not key.startswith(_IDENTITY):
            headers.extend((key, value) for value in values)
    if length := request.headers.get("content-length"):
        headers.append(("content-length", length[0]))
    elif request.headers.get("transfer-encoding"):
        headers.append(("transfer-encoding", "chunked"))
    encoded = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers]
    return h11.Request(method=request.scope["method"], target=backend.path, headers=encoded)


def _upgrade_head(request: StreamRequest, backend: Backend) -> bytes:
    """The head of the upgrade request; the client's credentials stay here."""
    lines = [f"{request.scope['method']} {backend.path} HTTP/1.1", f"Host: {backend.address.authority}"]
    for key in _UPGRADE_HEADERS:
        for value in request.headers.get(key, ()):
            told = _without_bearer(value) if key == "sec-websocket-protocol" else value
            if told:
                lines.append(f"{key}: {told}")
    if request.scope["method"] != "GET":
        lines.append("Content-Length: 0")
    lines.extend(f"{key}: {value}" for key, value in backend.headers)
    if any("\r" in line or "\n" in line for line in lines):
        raise bad_request("a header or the path holds a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _without_bearer(protocols: str) -> str:
    kept = [part.strip() for part in protocols.split(",") if not part.strip().startswith(_BEARER)]
    return ", ".join(kept)


async def _response_head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise internal_error("error sending request: the backend gave no answer") from error


def _status_code(head: bytes) -> int:
    parts = head.split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        raise internal_error("error sending request: the backend's answer is not HTTP")
    return int(parts[1])


async def _relay_refusal(request: StreamRequest, status: int, head: bytes, reader: asyncio.StreamReader) -> None:
    """Answer the client with what the backend said instead of agreeing to the upgrade."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "backend")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(head)
    body = b""
    kind = b"text/plain"
    try:
        while not isinstance(event := parser.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                parser.receive_data(await reader.read(CHUNK_BYTES))
            elif isinstance(event, h11.Response):
                kind = dict(event.headers).get(b"content-type", kind)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            if len(body) > ERROR_BYTES_MAX or isinstance(event, h11.ConnectionClosed):
                break
    except h11.RemoteProtocolError as error:
        raise internal_error(f"error sending request: {error}") from error
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await request.send({"type": "http.response.start", "status": status, "headers": headers})
    await request.send({"type": "http.response.body", "body": body})
