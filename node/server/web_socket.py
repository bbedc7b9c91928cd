"""The server's side of one WebSocket: messages in and out, over a connection whose request head was already read."""

from __future__ import annotations

import asyncio
from collections import deque

from websockets.exceptions import InvalidState
from websockets.frames import Opcode
from websockets.http11 import Request as HandshakeRequest
from websockets.server import ServerProtocol

from node.server.connection import Connection, Request, RequestError

MESSAGE_MAX_BYTES = 1 << 20
READ_BYTES = 64 * 1024
CLOSE_TIMEOUT_S = 2.0
SUBPROTOCOL_HEADER = "sec-websocket-protocol"


def offered(request: Request) -> set[str]:
    """Return the subprotocols that the client offers."""
    return {part.strip() for part in request.headers.get(SUBPROTOCOL_HEADER, "").split(",")} - {""}


class WebSocket:
    """A WebSocket that was agreed upon."""

    def __init__(self, connection: Connection, protocol: ServerProtocol) -> None:
        self._reader, self._writer = connection.reader, connection.writer
        self._protocol = protocol
        self._parts = bytearray()
        self._frames: deque[object] = deque()

    @classmethod
    async def accept(cls, connection: Connection, request: Request, subprotocols: list[str]) -> WebSocket:
        """Agree to the upgrade and to the first of these subprotocols that is offered; raises RequestError."""
        known = offered(request)
        chosen = next((name for name in subprotocols if name in known), None)
        if chosen is None:
            raise RequestError(400, f"none of the offered subprotocols is spoken here: {', '.join(sorted(known))}")
        protocol = ServerProtocol(max_size=MESSAGE_MAX_BYTES)
        lines = [f"{request.method} {request.target} HTTP/1.1"]
        # The library takes tokens alone for subprotocols, and Kubernetes has one with a slash in its name.
        lines += [f"{name}: {value}" for name, value in request.raw_headers if name.lower() != SUBPROTOCOL_HEADER]
        rest = connection.take()
        protocol.receive_data(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        events = protocol.events_received()
        if protocol.handshake_exc is not None or not events or not isinstance(events[0], HandshakeRequest):
            connection.answered = False
            raise RequestError(400, f"not a WebSocket handshake: {protocol.handshake_exc}")
        response = protocol.accept(events[0])
        if response.status_code == 101:
            response.headers["Sec-WebSocket-Protocol"] = chosen
        protocol.send_response(response)
        socket = cls(connection, protocol)
        await socket._flush()
        if protocol.handshake_exc is not None:
            raise EOFError(str(protocol.handshake_exc))
        if rest:
            protocol.receive_data(rest)
        return socket

    async def receive(self) -> bytes | None:
        """Return the next message; None when the client is done."""
        while True:
            self._frames.extend(self._protocol.events_received())
            while self._frames:
                message = self._message(self._frames.popleft())
                if message is not None:
                    return message
            if self._protocol.close_expected():
                return None
            data = await self._reader.read(READ_BYTES)
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            await self._flush()
            if not data:
                return None

    def _message(self, frame: object) -> bytes | None:
        opcode = getattr(frame, "opcode", None)
        if opcode not in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            return None
        self._parts += getattr(frame, "data", b"")
        if len(self._parts) > MESSAGE_MAX_BYTES:
            raise EOFError("the message is too large")
        if not getattr(frame, "fin", True):
            return None
        message = bytes(self._parts)
        self._parts.clear()
        return message

    async def send(self, message: bytes) -> None:
        """Send one message; after the client has gone it goes nowhere."""
        try:
            self._protocol.send_binary(message)
        except InvalidState:
            return
        await self._flush()

    async def close(self) -> None:
        """Say goodbye."""
        try:
            self._protocol.send_close(1000)
        except InvalidState:
            return
        await self._flush()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while await self.receive() is not None:
                    continue
        except (TimeoutError, EOFError):
            return

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._writer.write(data)
        await self._writer.drain()
