"""Joins a WebSocket of the API (v5 and v4.channel.k8s.io) to the runtime's SPDY streams.

The runtime's own WebSocket cannot say that the input has ended; SPDY can. So remote commands that come by WebSocket
are carried on as SPDY: one stream a channel. Port-forwards that come as SPDY *inside* a WebSocket lose only their
wrapping.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from node.server import spdy
from node.server.connection import Connection, Request, RequestError
from node.server.web_socket import WebSocket, offered

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
COMMAND_PROTOCOLS = ["v5.channel.k8s.io", "v4.channel.k8s.io"]
TUNNEL_PROTOCOL = "SPDY/3.1+portforward.k8s.io"
READ_BYTES = 64 * 1024
DIAL_TIMEOUT_S = 10.0
HEAD_MAX_BYTES = 64 * 1024

__all__ = ["COMMAND_PROTOCOLS", "TUNNEL_PROTOCOL", "Wanted", "command", "offered", "tunnel"]


async def _dial(url: str, stream_protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection on which the runtime speaks SPDY."""
    split = urlsplit(url)
    path = split.path + (f"?{split.query}" if split.query else "")
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(split.hostname, split.port, limit=HEAD_MAX_BYTES)
            writer.write(
                f"POST {path} HTTP/1.1\r\nHost: {split.netloc}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
                f"X-Stream-Protocol-Version: {stream_protocol}\r\nContent-Length: 0\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise RequestError(502, f"cannot reach the runtime's streaming server: {error!r}") from error
    if head.split(b" ", 2)[1] != b"101":
        writer.close()
        raise RequestError(502, f"the runtime refused to stream: {head.splitlines()[0].decode(errors='replace')}")
    return reader, writer


@dataclass
class Wanted:
    """Which channels a remote command has."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


@dataclass
class _Command:
    """One remote command under way."""

    socket: WebSocket
    writer: asyncio.StreamWriter
    protocol: spdy.SpdyClient = field(default_factory=spdy.SpdyClient)
    streams: dict[int, int] = field(default_factory=dict)
    """SPDY streams by channel."""
    unopened: set[int] = field(default_factory=set)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the runtime has agreed to all streams: it drops what comes on one before that."""

    def open(self, wanted: Wanted) -> None:
        """Open the streams in the order in which the runtime expects them."""
        kinds = [(ERROR, "error", True), (STDIN, "stdin", wanted.stdin), (STDOUT, "stdout", wanted.stdout)]
        kinds += [(STDERR, "stderr", wanted.stderr), (RESIZE, "resize", wanted.tty)]
        for channel, name, there in kinds:
            if there:
                self.streams[channel] = self.protocol.open({"streamType": name})
        self.unopened = set(self.streams.values())

    async def flush(self) -> None:
        """Send what the protocol has to say."""
        data = bytes(self.protocol.outgoing)
        self.protocol.outgoing.clear()
        if data:
            self.writer.write(data)
            await self.writer.drain()

    async def upward(self) -> None:
        """Carry the client's input to the runtime, until the client goes."""
        await self.opened.wait()
        while (message := await self.socket.receive()) is not None:
            if not message:
                continue
            channel, data = message[0], message[1:]
            if channel == CLOSE and data and data[0] in self.streams:
                self.protocol.send(self.streams[data[0]], b"", end=True)
            elif channel in (STDIN, RESIZE) and channel in self.streams and data:
                self.protocol.send(self.streams[channel], data)
            await self.flush()

    async def downward(self, reader: asyncio.StreamReader) -> None:
        """Carry the runtime's output to the client, until the command has ended."""
        channels = {stream: channel for channel, stream in self.streams.items()}
        open_streams = {self.streams[channel] for channel in (ERROR, STDOUT, STDERR) if channel in self.streams}
        while open_streams:
            data = await reader.read(READ_BYTES)
            if not data:
                return
            for event in self.protocol.receive(data):
                if isinstance(event, spdy.Opened):
                    self.unopened.discard(event.stream_id)
                    if not self.unopened:
                        self.opened.set()
                if isinstance(event, spdy.Data) and event.data and event.stream_id in channels:
                    await self.socket.send(bytes([channels[event.stream_id]]) + event.data)
                if isinstance(event, spdy.Reset) or (isinstance(event, spdy.Data) and event.end):
                    open_streams.discard(event.stream_id)
            await self.flush()


async def command(connection: Connection, request: Request, url: str, wanted: Wanted) -> None:
    """Carry one remote command between the client's WebSocket and the runtime."""
    reader, writer = await _dial(url, "v4.channel.k8s.io")
    try:
        socket = await WebSocket.accept(connection, request, COMMAND_PROTOCOLS)
        running = _Command(socket, writer)
        running.open(wanted)
        await running.flush()
        # The client learns by an empty message that its channels stand.
        first = next((channel for channel in (STDOUT, STDERR, ERROR) if channel in running.streams), ERROR)
        await socket.send(bytes([first]))
        async with asyncio.TaskGroup() as group:
            upward = group.create_task(running.upward())
            downward = group.create_task(running.downward(reader))
            await asyncio.wait([upward, downward], return_when=asyncio.FIRST_COMPLETED)
            upward.cancel()
            if not downward.done():
                downward.cancel()  # the client went: closing the stream ends the command's input
        await socket.close()
    except spdy.SpdyError as error:
        raise RequestError(502, str(error)) from error
    finally:
        writer.close()


async def tunnel(connection: Connection, request: Request, url: str) -> None:
    """Carry SPDY between the client's WebSocket, whose messages are its pieces, and the runtime."""
    reader, writer = await _dial(url, "portforward.k8s.io")
    try:
        socket = await WebSocket.accept(connection, request, [TUNNEL_PROTOCOL])

        async def upward() -> None:
            while (message := await socket.receive()) is not None:
                writer.write(message)
                await writer.drain()

        async def downward() -> None:
            while data := await reader.read(READ_BYTES):
                await socket.send(data)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(upward()), group.create_task(downward())]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
        await socket.close()
    finally:
        writer.close()
