"""Connections between members: each member dials every other one and sends on that connection alone.

Both sides begin with Hello. With TLS, who a peer is follows from its certificate: a URI name
``raftsman://member/<name>`` that must belong to the member that Hello names. Frames are sent or dropped, never queued
without bound: Raft repeats what is lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, cast

from proto.raft import message_pb2 as pb
from store.raft.contract import ConsensusConfig, Peer, TLSFiles
from store.raft.framing import FrameReader, FramingError, encode
from store.raft.members import MEMBER_URI

logger = logging.getLogger(__name__)

PROTOCOL_VERSION = 1
SEND_BUFFER_BYTES_MAX = 64 << 20
HELLO_SECONDS_MAX = 5.0
STRANGERS_MAX = 64
"""Connections that have not said yet whose they are."""
_RETRY_FIRST_S, _RETRY_MAX_S = 0.05, 1.0


class HandshakeError(Exception):
    """The other side is not the member that it should be."""


def server_context(files: TLSFiles) -> ssl.SSLContext:
    """Return the TLS settings for peers that dial this member."""
    return _context(ssl.PROTOCOL_TLS_SERVER, files)


def client_context(files: TLSFiles) -> ssl.SSLContext:
    """Return the TLS settings for dialling a peer; it is known by its member name, not by a host name."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def _context(protocol: int, files: TLSFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(files.trusted_ca_file)
    context.load_cert_chain(files.cert_file, files.key_file)
    return context


def check_hello(hello: pb.Hello, config: ConsensusConfig, certificate: dict[str, Any] | None) -> Peer:
    """Return the peer that greets; raise HandshakeError where its certificate or the member list says otherwise."""
    if hello.version != PROTOCOL_VERSION:
        raise HandshakeError(f"it speaks version {hello.version} of the peer protocol, this one {PROTOCOL_VERSION}")
    if hello.cluster_id != config.cluster_id:
        raise HandshakeError(f"it belongs to cluster {hello.cluster_id:x}, this one to {config.cluster_id:x}")
    for peer in config.peers:
        if peer.member_id == hello.member_id:
            break
    else:
        raise HandshakeError(f"member {hello.member_id:x} is not in the cluster")
    if config.tls is not None:
        names = certificate.get("subjectAltName", ()) if certificate else ()
        wanted = MEMBER_URI + peer.name
        if ("URI", wanted) not in names:
            raise HandshakeError(f"its certificate does not name {wanted} (URI subject alternative name): {names}")
    return peer


class _Connection(asyncio.Protocol):
    """One connection, in either direction."""

    def __init__(self, network: PeerNetwork, expected: Peer | None) -> None:
        self._network = network
        self._expected = expected
        """Whom we dialled; None where we were."""
        self._reader = FrameReader()
        self._peer: Peer | None = None
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
        if frame.WhichOneof("body") != "hello":
            raise HandshakeError("it does not begin with Hello")
        peer = check_hello(frame.hello, self._network.config, self._transport.get_extra_info("peercert"))
        if self._expected is not None and peer != self._expected:
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
            return peer.name
        return str(self._transport.get_extra_info("peername")) if self._transport is not None else "?"


class PeerNetwork:
    """All connections of one member."""

    def __init__(
        self,
        config: ConsensusConfig,
        on_frame: Callable[[int, pb.Frame], None],
        on_connected: Callable[[int], None],
        on_disconnected: Callable[[int], None],
    ) -> None:
        self.config = config
        self.on_frame = on_frame
        self.dead_after_s = max(2 * config.election_timeout_s, 2.0)
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._outgoing: dict[int, _Connection] = {}
        self._incoming: dict[int, _Connection] = {}
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._dialling: list[asyncio.Task[None]] = []
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
        self._dialling = [
            tasks.create_task(self._keep_connected(peer), name=f"dial {peer.name}") for peer in self.config.peers
        ]

    def stop(self) -> None:
        """Close everything."""
        self._stopping = True
        for task in self._dialling:
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
            version=PROTOCOL_VERSION, cluster_id=self.config.cluster_id, member_id=self.config.member.member_id
        )
        return pb.Frame(hello=greeting)

    def admit(self, connection: _Connection) -> bool:
        """Take a new connection, unless there are too many of which nobody knows whose they are."""
        if self._stopping or sum(not one.greeted for one in self._connections) >= STRANGERS_MAX:
            return False
        self._connections.add(connection)
        return True

    def replaced(self, peer: Peer, connection: _Connection) -> None:
        """Take note that a peer has dialled; what it had before is dead, even where no one has told us."""
        before = self._incoming.get(peer.member_id)
        self._incoming[peer.member_id] = connection
        if before is not None:
            before.abort()

    def reached(self, peer: Peer, connection: _Connection) -> None:
        """Take note that a dialled peer has answered."""
        self._outgoing[peer.member_id] = connection
        logger.info("connected to a peer: peer=%s", peer.name)
        self._on_connected(peer.member_id)

    def lost(self, connection: _Connection, dialled: Peer | None) -> None:
        """Take note that a connection is gone."""
        self._connections.discard(connection)
        self._incoming = {one: kept for one, kept in self._incoming.items() if kept is not connection}
        if dialled is not None and self._outgoing.get(dialled.member_id) is connection:
            del self._outgoing[dialled.member_id]
            if not self._stopping:
                logger.info("lost the connection to a peer: peer=%s", dialled.name)
                self._on_disconnected(dialled.member_id)

    async def _keep_connected(self, peer: Peer) -> None:
        loop = asyncio.get_running_loop()
        tls = client_context(self.config.tls) if self.config.tls is not None else None
        delay_s = _RETRY_FIRST_S
        complaint = ""
        while not self._stopping:
            try:
                async with asyncio.timeout(HELLO_SECONDS_MAX):
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self, peer), peer.host, peer.port, ssl=tls
                    )
                await connection.closed
                delay_s = _RETRY_FIRST_S if connection.greeted else delay_s
                complaint = ""
            except (OSError, TimeoutError) as error:
                # Said once, not with every attempt.
                if str(error) != complaint:
                    complaint = str(error)
                    logger.info("cannot reach a peer: peer=%s reason=%s", peer.name, complaint or "timeout")
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
