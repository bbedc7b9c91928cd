"""One-way streams over WebSocket: a watch's events or a log's bytes as messages; what the client sends is passed over.

exec, attach and port-forward do not come here: their bytes go on to the kubelet as they are.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from control.api.status import bad_request
from control.apiserver.request import ASGIScope, StreamRequest
from control.apiserver.streams.upgrade import Connection, Hijack

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BASE64_PROTOCOL = "base64.binary.k8s.io"
NORMAL_CLOSURE = 1000
PROTOCOL_ERROR = 1002
CONTROL_BYTES_MAX = 125
DISCARD_BYTES = 64 << 10
_BEARER = "base64url.bearer.authorization.k8s.io."
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL, _MASKED = 0x80, 0x80
Headers = Mapping[str, tuple[str, ...]]


def wants_web_socket(headers: Headers) -> bool:
    """Tell whether a request asks for WebSocket."""
    if headers.get("upgrade", ("",))[0].lower() != "websocket":
        return False
    return any("upgrade" in value.lower() for value in headers.get("connection", ()))


def protocol_of(headers: Headers) -> str:
    """Return the sub-protocol to agree to: the first that a client names, the one that carries a token apart."""
    named = (part.strip() for value in headers.get("sec-websocket-protocol", ()) for part in value.split(","))
    return next((part for part in named if part and not part.startswith(_BEARER)), "")


def frame(opcode: int, payload: bytes) -> bytes:
    """Return one whole message as a server sends it."""
    size = len(payload)
    if size < 126:
        head = bytes((_FINAL | opcode, size))
    elif size < 1 << 16:
        head = bytes((_FINAL | opcode, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((_FINAL | opcode, 127)) + size.to_bytes(8, "big")
    return head + payload


class WebSocket:
    """The server's end of one connection."""

    def __init__(self, connection: Connection) -> None:
        self._reader, self._writer = connection.reader, connection.writer
        self._why = NORMAL_CLOSURE

    async def send(self, messages: Iterable[bytes], *, binary: bool) -> None:
        """Send messages and wait until the client has read most of them; raises OSError where it is gone."""
        opcode = _BINARY if binary else _TEXT
        self._writer.write(b"".join([frame(opcode, message) for message in messages]))
        await self._writer.drain()

    async def gone(self) -> None:
        """Answer pings until the client closes or speaks no WebSocket."""
        try:
            while await self._take():
                pass
        except (OSError, asyncio.IncompleteReadError):
            return

    async def _take(self) -> bool:
        first, second = await self._reader.readexactly(2)
        opcode, size = first & 0x0F, second & 0x7F
        if size >= 126:
            size = int.from_bytes(await self._reader.readexactly(2 if size == 126 else 8), "big")
        control = opcode >= _CLOSE
        if not second & _MASKED or (control and size > CONTROL_BYTES_MAX):
            self._why = PROTOCOL_ERROR
            return False
        mask = await self._reader.readexactly(4)
        if control:
            payload = await self._reader.readexactly(size)
            if opcode == _PING:
                plain = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
                self._writer.write(frame(_PONG, plain))
                await self._writer.drain()
            return opcode != _CLOSE
        while size:
            size -= len(await self._reader.readexactly(min(size, DISCARD_BYTES)))
        return True

    def close(self) -> None:
        """Say goodbye and hang up."""
        if not self._writer.is_closing():
            self._writer.write(frame(_CLOSE, self._why.to_bytes(2, "big")))
        self._writer.close()


def accept(scope: ASGIScope, headers: Headers, audit_id: bytes = b"") -> WebSocket:
    """Agree to a WebSocket on a request's connection; raises BadRequest."""
    key = headers.get("sec-websocket-key", ("",))[0]
    if headers.get("sec-websocket-version", ("",))[0] != "13":
        raise bad_request("missing or bad WebSocket Version")
    if not key:
        raise bad_request("mismatch challenge/response")
    hijack: Hijack | None = scope.get("hijack")
    if hijack is None:
        raise bad_request("this connection cannot be upgraded")
    taken = hijack()
    accepted = base64.b64encode(hashlib.sha1(key.encode("latin-1") + GUID, usedforsecurity=False).digest())
    lines = [b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade"]
    lines.append(b"Sec-WebSocket-Accept: " + accepted)
    if protocol := protocol_of(headers):
        lines.append(b"Sec-WebSocket-Protocol: " + protocol.encode("latin-1"))
    if audit_id:
        lines.append(b"Audit-ID: " + audit_id)
    taken.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
    return WebSocket(taken)


def carried(request: StreamRequest) -> StreamRequest:
    """Return a request whose answer, where it succeeds, is told by messages: an empty one first, then its parts."""
    return _Carrier(request).request


class _Carrier:
    """Stands between a handler that answers by HTTP and a client that speaks WebSocket."""

    def __init__(self, request: StreamRequest) -> None:
        self._asked = request
        self._socket: WebSocket | None = None
        self._begun = asyncio.Event()
        self._ended = asyncio.Event()
        self._text = protocol_of(request.headers) == BASE64_PROTOCOL
        headers = {name: value for name, value in request.headers.items() if not name.startswith("sec-websocket-")}
        self.request = replace(request, headers=headers, receive=self._receive, send=self._send)

    async def _receive(self) -> dict[str, Any]:
        if not self._begun.is_set():
            self._begun.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._socket is None:
            await self._ended.wait()
        if self._socket is not None:
            await self._socket.gone()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            self._socket = accept(self._asked.scope, self._asked.headers)
            self._ended.set()
            await self._socket.send([b""], binary=not self._text)
        elif self._socket is None:
            await self._asked.send(message)
            return
        if body := message.get("body"):
            await self._socket.send([base64.b64encode(body) if self._text else body], binary=not self._text)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._socket.close()
