"""Connections between members: each member dials every other one and sends on that connection alone.

Both sides begin with Hello; ``handshake`` decides whom to believe. Members come and go while this runs: a new one
is dialled at once, so is a new address, and who is gone is cut off a little later, so that it hears why.
Frames are sent or dropped, never queued without bound: Raft repeats what is lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import socket
from collections.abc import Callable, Iterable
from typing import cast

from proto.raft import message_pb2 as pb
from store.raft.contract import ConsensusConfig, MemberRecord
from store.raft.framing import FrameReader, FramingError, encode
from store.raft.handshake import PROTOCOL_VERSION, AddressBook, HandshakeError, RemovedPeerError
from store.raft.members import address_of
from store.raft.tls import client_context, server_context

logger = logging.getLogger(__name__)

SEND_BUFFER_BYTES_MAX = 64 << 20
HELLO_SECONDS_MAX = 5.0
STRANGERS_MAX = 64
"""Connections that have not said yet whose they are."""
_RETRY_FIRST_S, _RETRY_MAX_S = 0.05, 1.0


class _Connection(asyncio.Protocol):
    """One connection, in either direction."""

    def __init__(self, network: PeerNetwork, expected: MemberRecord | None) -> None:
        self._network = network
        self._expected = expected
        """Whom we dialled; None where we were."""
        self._reader = FrameReader()
        self._peer: MemberRecord | None = None
        self._transport: asyncio.Transport | None = None
        self._hello_timer: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.greeted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._network.admit(self):
            self._transport.abort()
            return
        self._hello_timer = asyncio.get_running_loop().call_later(HELLO_SECONDS_MAX, self.abort)
        _set_options(self._transport, self._network.dead_after_s)
        if self._expected is not None:
            self._transport.write(encode(self._network.hello()))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._reader.feed(data):
                if self._peer is None:
                    self._greet(frame)
                elif self._expected is None:
                    self._network.on_frame(self._peer.member_id, frame)
        except (FramingError, HandshakeError) as error:
            logger.warning("closing a peer's connection: peer=%s reason=%s", self._name(), error)
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        if not self.closed.done():
            self.closed.set_result(None)
        self._network.lost(self, self._peer if self._expected is not None else None)

    def send(self, frame: bytes) -> bool:
        """Send, or close the connection where the peer does not read."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() > SEND_BUFFER_BYTES_MAX:
            logger.warning("closing a peer's connection: peer=%s reason=it does not read", self._name())
            transport.abort()
            return False
        transport.write(frame)
        return True

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _greet(self, frame: pb.Frame) -> None:
        assert self._transport is not None
        kind = frame.WhichOneof("body")
        book, certificate = self._network.book, self._transport.get_extra_info("peercert")
        if kind == "members_request" and self._expected is None:
            self._transport.write(encode(self._network.members()))
            self._transport.close()
            return
        if kind == "farewell" and self._expected is not None:
            book.check_certificate(self._expected.name, certificate)
            if frame.farewell.member_id == book.own_id:
                self._network.on_farewell()
            raise HandshakeError("it says that this member was removed")
        if kind != "hello":
            raise HandshakeError("it does not begin with Hello")
        try:
            peer = book.identify(frame.hello, certificate)
        except RemovedPeerError:
            self._transport.write(encode(pb.Frame(farewell=pb.Farewell(member_id=frame.hello.member_id))))
            self._transport.close()
            return
        if self._expected is not None and peer.member_id != self._expected.member_id:
            raise HandshakeError(f"member {peer.name} answers where {self._expected.name} should")
        if self._hello_timer is not None:
            self._hello_timer.cancel()
        self._peer = peer
        self.greeted = True
        if self._expected is None:
            self._network.replaced(peer, self)
            self._transport.write(encode(self._network.hello()))
        else:
            self._network.reached(peer, self)

    def _name(self) -> str:
        peer = self._peer or self._expected
        if peer is not None:
            return peer.name or f"{peer.member_id:x}"
        return str(self._transport.get_extra_info("peername")) if self._transport is not None else "?"


class PeerNetwork:
    """All connections of one member."""

    def __init__(
        self,
        config: ConsensusConfig,
        on_frame: Callable[[int, pb.Frame], None],
        on_connected: Callable[[int], None],
        on_disconnected: Callable[[int], None],
        members: Callable[[], pb.MembersReply] = pb.MembersReply,
        on_farewell: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.book = AddressBook(config.cluster_id, config.member.member_id, config.tls is not None)
        self.on_frame = on_frame
        self.on_farewell = on_farewell
        self.dead_after_s = max(2 * config.election_timeout_s, 2.0)
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._members = members
        self._own_urls = config.member.peer_urls
        self._outgoing: dict[int, _Connection] = {}
        self._incoming: dict[int, _Connection] = {}
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._dialling: dict[int, tuple[tuple[str, ...], asyncio.Task[None]]] = {}
        """Addresses and the task that dials them, by member."""
        self._stopping = False

    async def start(self, tasks: asyncio.TaskGroup, listener: socket.socket | None = None) -> None:
        """Listen, and dial the peers until ``stop``."""
        loop = asyncio.get_running_loop()
        tls = server_context(self.config.tls) if self.config.tls is not None else None
        if listener is not None:
            self._server = await loop.create_server(lambda: _Connection(self, None), sock=listener, ssl=tls)
        else:
            member = self.config.member
            self._server = await loop.create_server(
                lambda: _Connection(self, None), member.host, member.port, ssl=tls, reuse_address=True
            )
        self._tasks = tasks
        self._dial()

    def follow(self, contacts: Iterable[MemberRecord], removed: frozenset[int]) -> None:
        """Have connections to these members, and to no others for long."""
        records = {one.member_id: one for one in contacts}
        own = records.pop(self.book.own_id, None)
        self._own_urls = own.peer_urls if own is not None else self._own_urls
        gone = self.book.records.keys() - records.keys()
        self.book.replace(records, removed)
        self._dial()
        if gone and self._tasks is not None:
            asyncio.get_running_loop().call_later(self.config.election_timeout_s, self._cut_off, gone)

    def _dial(self) -> None:
        """Dial every peer at the addresses that it has now."""
        if self._tasks is None or self._stopping:
            return
        for record in (*self.book.records.values(), *self.book.guests.values()):
            urls, task = self._dialling.get(record.member_id, ((), None))
            if urls == record.peer_urls:
                continue
            if task is not None:
                task.cancel()
                self._abort(record.member_id)
            name = f"dial {record.name or format(record.member_id, 'x')}"
            task = self._tasks.create_task(self._keep_connected(record), name=name)
            self._dialling[record.member_id] = (record.peer_urls, task)

    def _cut_off(self, members: Iterable[int]) -> None:
        for member_id in members:
            if self.book.get(member_id) is None:
                _, task = self._dialling.pop(member_id, ((), None))
                if task is not None:
                    task.cancel()
                self._abort(member_id)

    def _abort(self, member_id: int) -> None:
        """Close what connects this member with another, so that both begin anew."""
        for connections in (self._outgoing, self._incoming):
            connection = connections.get(member_id)
            if connection is not None:
                connection.abort()

    def stop(self) -> None:
        """Close everything."""
        self._stopping = True
        for _, task in self._dialling.values():
            task.cancel()
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    def send(self, peer_id: int, frame: pb.Frame) -> bool:
        """Send a frame, or drop it where the peer is not connected."""
        connection = self._outgoing.get(peer_id)
        return connection is not None and connection.send(encode(frame))

    def hello(self) -> pb.Frame:
        """Return this member's first frame."""
        greeting = pb.Hello(
            version=PROTOCOL_VERSION,
            cluster_id=self.config.cluster_id,
            member_id=self.config.member.member_id,
            name=self.config.member.name,
            peer_urls=self._own_urls,
        )
        return pb.Frame(hello=greeting)

    def members(self) -> pb.Frame:
        """Return what one is told that wants to join."""
        return pb.Frame(members_reply=self._members())

    def admit(self, connection: _Connection) -> bool:
        """Take a new connection, unless there are too many of which nobody knows whose they are."""
        if self._stopping or sum(not one.greeted for one in self._connections) >= STRANGERS_MAX:
            return False
        self._connections.add(connection)
        return True

    def replaced(self, peer: MemberRecord, connection: _Connection) -> None:
        """Take note that a peer has dialled; what it had before is dead, even where no one has told us."""
        self._dial()  # a guest is dialled back
        before = self._incoming.get(peer.member_id)
        self._incoming[peer.member_id] = connection
        if before is not None:
            before.abort()

    def reached(self, peer: MemberRecord, connection: _Connection) -> None:
        """Take note that a dialled peer has answered."""
        self._outgoing[peer.member_id] = connection
        logger.info("connected to a peer: peer=%s member=%x", peer.name, peer.member_id)
        self._on_connected(peer.member_id)

    def lost(self, connection: _Connection, dialled: MemberRecord | None) -> None:
        """Take note that a connection is gone."""
        self._connections.discard(connection)
        self._incoming = {one: kept for one, kept in self._incoming.items() if kept is not connection}
        if dialled is not None and self._outgoing.get(dialled.member_id) is connection:
            del self._outgoing[dialled.member_id]
            if not self._stopping:
                logger.info("lost the connection to a peer: peer=%s member=%x", dialled.name, dialled.member_id)
                self._on_disconnected(dialled.member_id)

    async def _keep_connected(self, peer: MemberRecord) -> None:
        loop = asyncio.get_running_loop()
        delay_s = _RETRY_FIRST_S
        complaint = ""
        for url in itertools.cycle(peer.peer_urls):
            # A name may have been published since the task began.
            record = self.book.get(peer.member_id) or peer
            try:
                host, port = address_of(url)
                async with asyncio.timeout(HELLO_SECONDS_MAX):
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self, record),  # noqa: B023 - called before the next turn
                        host,
                        port,
                        # Made anew each time: the files may have been renewed.
                        ssl=client_context(self.config.tls) if self.config.tls is not None else None,
                    )
                await connection.closed
                delay_s = _RETRY_FIRST_S if connection.greeted else delay_s
                complaint = ""
            except (OSError, TimeoutError, ValueError) as error:
                # Said once, not with every attempt.
                if str(error) != complaint:
                    complaint = str(error)
                    logger.info("cannot reach a peer: peer=%s url=%s reason=%s", record.name, url, complaint)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _RETRY_MAX_S)


def _set_options(transport: asyncio.Transport, dead_after_s: float) -> None:
    """Have the kernel give a silent peer up soon."""
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(1, int(dead_after_s)))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(dead_after_s * 1000))
