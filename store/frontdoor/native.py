"""The native front door: HTTP/2 and gRPC by hand over asyncio, beside plain HTTP on the same port.

Each connection's input is parsed where it arrives; what the calls of all connections answer in one pass of the loop is
written once per connection at the pass's end. Where the other side does not read, its data waits at its streams.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, cast

from store.api.table import ServiceTable
from store.frontdoor import grpc
from store.frontdoor.abuse import Limits
from store.frontdoor.calls import Desk, Rpc
from store.frontdoor.connection import Connection
from store.frontdoor.frames import ErrorCode
from store.frontdoor.headers import Head, HeadCache
from store.frontdoor.outgoing import Outgoing, Stream
from store.frontdoor.pages import Page, Pages
from store.frontdoor.tls import Certificates, ServerTLS, common_name

log = logging.getLogger(__name__)

_BACKLOG = 4096
_CONNECTIONS_MAX = 10_000
_FILES_FOR_OTHERS = 256
_HELD_BYTES_MAX = 256 << 20
_OVERHEAD_BYTES = 512 * 1024
_WRITE_BUFFER_BYTES = 256 * 1024
_WRITE_BUFFER_BYTES_MAX = 2 << 20
"""A client that makes us answer so much beyond the bound and reads nothing is cut off."""
_UNFINISHED_TIMEOUT_S = 60.0
_TICK_S = 1.0
_STOP_GRACE_S = 0.5
_CLOSE_GRACE_S = 0.2


class _Client(asyncio.Protocol):
    """One connection: finds out what it speaks, then carries bytes."""

    def __init__(self, door: NativeDoor) -> None:
        self._door = door
        self._loop = door.loop
        self._transport: asyncio.Transport
        self._first = b""
        self._common_name = ""
        self._made_at = door.loop.time()
        self._paused_at: float | None = None
        self._closing_at: float | None = None
        self._is_plain = False
        self.connection: Connection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._door.admit(self):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        secured = transport.get_extra_info("ssl_object")
        if secured is not None:
            self._common_name = common_name(transport.get_extra_info("peercert"))
            if secured.selected_alpn_protocol() == "h2":
                self._begin()

    def data_received(self, data: bytes) -> None:
        connection = self.connection
        if connection is None:
            self._first += data
            if len(self._first) < 3:
                return
            if not self._first.startswith(b"PRI"):
                self._become_plain()
                return
            connection, data = self._begin(), self._first
        connection.receive(data, self._loop.time())
        if connection.is_over:
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.connection is not None:
            self.connection.abort()
        self._door.leave(self)

    def pause_writing(self) -> None:
        self._paused_at = self._loop.time()
        if self.connection is not None:
            self.connection.outgoing.is_paused = True

    def resume_writing(self) -> None:
        self._paused_at = None
        if self.connection is not None:
            self.connection.outgoing.is_paused = False
            self.connection.outgoing.pump()

    def flush(self) -> None:
        """Write what has been produced, and close what is over."""
        connection = self.connection
        if connection is None:
            return
        outgoing = connection.outgoing
        if outgoing.out:
            self._transport.write(outgoing.take())
        if connection.is_over:
            if self._closing_at is None:
                self._closing_at = self._loop.time()
                self._transport.close()
        elif outgoing.is_paused:
            if self._transport.get_write_buffer_size() > _WRITE_BUFFER_BYTES_MAX:
                self.cut_off()
        elif outgoing.has_work:
            outgoing.pump()

    def tick(self, now: float, limits: Limits) -> None:
        """Do what time asks for."""
        if self._is_plain:
            return
        if self.connection is None:
            if now - self._made_at > limits.handshake_timeout_s:
                self.cut_off()
            return
        self.connection.tick(now)
        closing_s = now - self._closing_at if self._closing_at is not None else 0.0
        paused_s = now - self._paused_at if self._paused_at is not None else 0.0
        if closing_s > limits.handshake_timeout_s or paused_s > limits.stall_timeout_s:
            self.cut_off()
        elif self.connection.is_over:
            self.flush()

    def drain(self) -> None:
        """Let the calls that run end, and no more begin."""
        if self.connection is not None:
            self.connection.drain(self._loop.time())
        else:
            self.cut_off()

    def finish(self) -> None:
        """End the calls that still run, and the connection."""
        if self.connection is not None:
            for stream in list(self.connection.streams.values()):
                if isinstance(stream, Rpc):
                    stream.stop()
            self.connection.fail(ErrorCode.NO_ERROR, "the server stops")
            self.flush()

    def cut_off(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _begin(self) -> Connection:
        door = self._door
        self.connection = connection = Connection(
            self._make_stream, self._wake, door.heads, door.limits, self._loop.time()
        )
        return connection

    def _wake(self) -> None:
        self._door.wake(self)

    def _make_stream(self, outgoing: Outgoing, stream_id: int, head: Head) -> Stream:
        connection = self.connection
        assert connection is not None, "streams come from it"
        if (head.origin or head).prepared is not None or grpc.is_grpc(head):
            return Rpc(outgoing, stream_id, head, connection, self._door.desk, self._common_name)
        return Page(outgoing, stream_id, head, self._door.pages.answer, self._door.start_task)

    def _become_plain(self) -> None:
        """Hand the connection over to the server of plain HTTP."""
        self._is_plain = True
        reader = asyncio.StreamReader(loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, self._serve_plain, loop=self._loop)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(self._first)

    async def _serve_plain(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._door.pages.serve(reader, writer)
        finally:
            self._door.leave(self)


class NativeDoor:
    """One gRPC server over any number of addresses."""

    def __init__(self, table: ServiceTable, request_bytes_max: int, pages: Pages, limits: Limits | None = None) -> None:
        self.limits = limits = limits or Limits()
        self.pages = pages
        self.heads = HeadCache()
        self.desk = Desk(table, request_bytes_max + _OVERHEAD_BYTES, _HELD_BYTES_MAX, limits.window_bytes)
        self.loop: asyncio.AbstractEventLoop
        self._sockets: list[tuple[socket.socket, Certificates | None]] = []
        self._servers: list[asyncio.Server] = []
        self._clients: set[_Client] = set()
        self._has_no_clients = asyncio.Event()
        self._dirty: list[_Client] = []
        self._group: asyncio.TaskGroup
        self._stack = AsyncExitStack()
        self._timer: asyncio.TimerHandle | None = None
        self._connections_max = connections_max()

    def listen(self, host: str, port: int, tls: ServerTLS | None) -> int:
        """Add an address before the start and return its port; raise OSError where it cannot be had."""
        certificates = Certificates(tls) if tls is not None else None
        try:
            found = bind(host, port)
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error}") from error
        self._sockets += [(one, certificates) for one in found]
        bound: int = found[0].getsockname()[1]
        return bound

    async def start(self) -> None:
        """Begin to serve."""
        self.loop = self.desk.loop = asyncio.get_running_loop()
        self.desk.start_task = self.start_task
        self._group = await self._stack.enter_async_context(asyncio.TaskGroup())
        for one, certificates in self._sockets:
            secured: dict[str, Any] = {}
            if certificates is not None:
                timeout_s = self.limits.handshake_timeout_s
                secured = {
                    "ssl": certificates.context,
                    "ssl_handshake_timeout": timeout_s,
                    "ssl_shutdown_timeout": timeout_s,
                }
            server = await self.loop.create_server(lambda: _Client(self), sock=one, backlog=_BACKLOG, **secured)
            self._servers.append(server)
        self._timer = self.loop.call_later(_TICK_S, self._tick)

    async def stop(self) -> None:
        """End all calls after a moment's grace."""
        for server in self._servers:
            server.close()
        if not self._servers:
            for one, _ in self._sockets:
                one.close()
            return
        for client in list(self._clients):
            client.drain()
        await self._wait_for_no_clients(_STOP_GRACE_S)
        for client in list(self._clients):
            client.finish()
        await self._wait_for_no_clients(_CLOSE_GRACE_S)
        for client in list(self._clients):
            client.cut_off()
        if self._timer is not None:
            self._timer.cancel()
        await self._stack.aclose()

    async def _wait_for_no_clients(self, timeout_s: float) -> None:
        self._has_no_clients.clear()
        if not self._clients:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._has_no_clients.wait()
        except TimeoutError:
            log.debug("connections remain connections=%d", len(self._clients))

    # What clients ask of it

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a handler."""
        return self._group.create_task(work)

    def admit(self, client: _Client) -> bool:
        """Take a new connection, unless there are too many."""
        if len(self._clients) >= self._connections_max:
            log.warning("connection refused connections=%d", len(self._clients))
            return False
        self._clients.add(client)
        return True

    def leave(self, client: _Client) -> None:
        """Take note that a connection is gone."""
        self._clients.discard(client)
        if not self._clients:
            self._has_no_clients.set()

    def wake(self, client: _Client) -> None:
        """Have a connection's output written at the end of this pass of the loop."""
        if not self._dirty:
            self.loop.call_soon(self._flush)
        self._dirty.append(client)

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for client in dirty:
            client.flush()

    def _tick(self) -> None:
        now = self.loop.time()
        self._timer = self.loop.call_later(_TICK_S, self._tick)
        self.desk.tick(now, _UNFINISHED_TIMEOUT_S)
        for client in list(self._clients):
            client.tick(now, self.limits)


def connections_max() -> int:
    """How many connections this process can have and leave files for everything else."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _CONNECTIONS_MAX
    return max(min(_CONNECTIONS_MAX, files - _FILES_FOR_OTHERS), files // 2)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for all addresses of a host, the same port on each."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    sockets: list[socket.socket] = []
    try:
        for family, address in addresses:
            one = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(one)
            one.setblocking(False)
            for level, option, value in _OPTIONS:
                one.setsockopt(level, option, value)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
            try:
                one.bind((address[0], port, *address[2:]))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL or len(addresses) == 1:
                    raise
                sockets.remove(one)
                one.close()
                continue
            port = one.getsockname()[1]
            one.listen(_BACKLOG)
        if not sockets:
            raise OSError(errno.EADDRNOTAVAIL, "none of its addresses is one of this machine")
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return sockets


_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    # Connections inherit these: a machine that vanished is noticed.
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
