"""Ask other servers: several in turn, each question from a port and with an id of its own, by TCP where need be.

The servers that answered last come first. A further one is asked while the first may still answer, so that one dead
server costs a second and no more, and whoever answers first wins. The same question of several askers is asked once,
which also keeps a loop from growing: a question that comes back to us joins itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from dataclasses import dataclass

from net.dns import channel, wire
from net.dns.cache import Cache, CacheKey, Kept, cache_key
from net.dns.wire import MalformedError, Query

log = logging.getLogger(__name__)

TRIES_MAX = 4
RECEIVE_BYTES = 65535
SICK_S = 10.0
GOOD_CODES = (wire.NOERROR, wire.NXDOMAIN)


class UpstreamError(Exception):
    """No server answered."""


@dataclass(frozen=True, slots=True)
class Server:
    """Another DNS server."""

    address: str
    port: int = 53

    def __str__(self) -> str:
        """Return address:port."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        """The socket family that reaches it."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET


def parse_server(text: str) -> Server:
    """Read ADDRESS, ADDRESS:PORT, [ADDRESS]:PORT; raises ValueError."""
    address, port = text, "53"
    if text.startswith("["):
        address, _, port = text[1:].partition("]:") if "]:" in text else (text[1:-1], "", "53")
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.inet_pton(family, address.partition("%")[0])
        return Server(address, int(port))
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is no server: use ADDRESS or ADDRESS:PORT") from None


def parse_resolv_conf(text: str) -> list[str]:
    """Return the servers of a resolv.conf."""
    words = [line.split() for line in text.splitlines()]
    return [parts[1] for parts in words if len(parts) > 1 and parts[0] == "nameserver"]


def servers_of(texts: list[str], own: frozenset[tuple[str, int]]) -> list[Server]:
    """Return the servers to ask; ours are left out: that would be asking ourselves for ever."""
    found = []
    for text in texts:
        try:
            server = parse_server(text)
        except ValueError as error:
            log.warning("a server is left out error=%s", error)
            continue
        if (server.address, server.port) in own:
            log.error("a server is left out because it is this one, and would ask itself server=%s", server)
            continue
        found.append(server)
    return list(dict.fromkeys(found))


class Upstream:
    """Answers questions by asking, and keeps what it is told."""

    def __init__(self, cache: Cache, *, try_timeout_s: float = 1.0, timeout_s: float = 4.0, waiting_max: int = 1000):
        self.servers: list[Server] = []
        self.cache = cache
        self.counts = {"asked": 0, "hits": 0, "misses": 0, "failed": 0, "refused": 0}
        self._try_timeout_s, self._timeout_s, self._waiting_max = try_timeout_s, timeout_s, waiting_max
        self._sick: dict[Server, float] = {}
        self._asking: dict[CacheKey, asyncio.Future[Kept]] = {}
        self._probes: dict[bytes, Server] = {}

    async def look_for_loops(self) -> None:
        """Ask each server for a name that was thrown just now: whoever sends it back to us leads in a circle."""
        for server in list(self.servers):
            name = b"".join(bytes((12,)) + secrets.token_hex(6).encode() for _ in range(2)) + b"\0"
            self._probes[name] = server
            query = Query(0, wire.RD, name, name, wire.HINFO, wire.IN, False, wire.UDP_PLAIN_MAX, 0, False)
            try:
                async with asyncio.timeout(self._try_timeout_s):
                    await self._by_datagram(server, query, edns=False)
            except (OSError, TimeoutError) as error:
                log.debug("no answer to a probe server=%s error=%r", server, error)
            finally:
                del self._probes[name]

    def is_own_probe(self, key: bytes) -> bool:
        """Tell whether a question is one that we sent ourselves; whoever sent it back is asked no more."""
        server = self._probes.get(key)
        if server is None:
            return False
        if server in self.servers:
            log.error("a server is left out because it asks us in turn, for ever server=%s", server)
            self.servers = [other for other in self.servers if other != server]
        return True

    def kept(self, query: Query) -> Kept | None:
        """Return an answer that is known already."""
        found = self.cache.get(cache_key(query), time.monotonic())
        self.counts["hits" if found else "misses"] += 1
        return found

    async def ask(self, query: Query) -> Kept:
        """Return an answer; raises UpstreamError."""
        key = cache_key(query)
        asking = self._asking.get(key)
        if asking is not None:
            return await asyncio.shield(asking)
        if not self.servers or len(self._asking) >= self._waiting_max:
            self.counts["refused"] += 1
            raise UpstreamError("no server is known" if not self.servers else "too many questions wait")
        asking = asyncio.get_running_loop().create_future()
        self._asking[key] = asking
        try:
            data = await self._race(query)
            kept = self.cache.put(key, data, wire.parse_response(data), time.monotonic())
        except BaseException as error:
            self.counts["failed"] += 1
            asking.set_exception(error if isinstance(error, UpstreamError) else UpstreamError(str(error)))
            asking.exception()  # it is read here, since nobody else may wait for it
            raise
        else:
            asking.set_result(kept)
            return kept
        finally:
            del self._asking[key]

    def _order(self) -> list[Server]:
        now = time.monotonic()
        well = [server for server in self.servers if self._sick.get(server, 0.0) <= now]
        every = well + [server for server in self.servers if server not in well]
        return (every * TRIES_MAX)[: max(TRIES_MAX, len(every))]

    async def _race(self, query: Query) -> bytes:
        """Ask one server after another until one gives an answer; keep listening to those asked before."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout_s
        waiting = self._order()
        running: set[asyncio.Task[bytes]] = set()
        poor: bytes | None = None
        try:
            while (waiting or running) and loop.time() < deadline:
                if waiting:
                    running.add(asyncio.ensure_future(self._ask_server(waiting.pop(0), query)))
                left_s = deadline - loop.time()
                patience_s = min(left_s, self._try_timeout_s) if waiting else left_s
                done, running = await asyncio.wait(
                    running, timeout=max(0.0, patience_s), return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    if task.exception() is not None:
                        continue
                    data = task.result()
                    if data[3] & 0xF in GOOD_CODES:
                        return data
                    poor = data
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        if poor is not None:
            return poor
        raise UpstreamError(f"none of {', '.join(map(str, self.servers))} answered within {self._timeout_s:.0f} s")

    async def _ask_server(self, server: Server, query: Query) -> bytes:
        self.counts["asked"] += 1
        try:
            data = await self._by_datagram(server, query, edns=True)
            if data[3] & 0xF in (wire.FORMERR, wire.NOTIMP):
                data = await self._by_datagram(server, query, edns=False)
            if data[2] & 0x02:
                data = await self._by_stream(server, query)
        except (OSError, TimeoutError, MalformedError) as error:
            self._sick[server] = time.monotonic() + SICK_S
            log.debug("no answer server=%s error=%r", server, error)
            raise
        except asyncio.CancelledError:
            # Another was faster although this one was asked before.
            self._sick[server] = time.monotonic() + SICK_S
            raise
        self._sick.pop(server, None)
        return data

    async def _by_datagram(self, server: Server, query: Query, *, edns: bool) -> bytes:
        """Ask from a port that the kernel takes at random; only that server's answer to that question counts."""
        number = secrets.randbits(16)
        with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as connection:
            connection.connect((server.address, server.port))
            connection.send(wire.question(query, number, edns=edns))
            while True:
                data = await receive(connection)
                if _fits(data, query, number):
                    return data

    async def _by_stream(self, server: Server, query: Query) -> bytes:
        number = secrets.randbits(16)
        asked = wire.question(query, number)
        async with asyncio.timeout(self._try_timeout_s):
            reader, writer = await asyncio.open_connection(server.address, server.port)
        try:
            writer.write(len(asked).to_bytes(2, "big") + asked)
            size = int.from_bytes(await reader.readexactly(2), "big")
            data = await reader.readexactly(size)
        except asyncio.IncompleteReadError:
            raise OSError("the connection ended") from None
        finally:
            writer.close()
        if not _fits(data, query, number):
            raise MalformedError("not the answer to what was asked")
        return data


def _fits(data: bytes, query: Query, number: int) -> bool:
    try:
        found = wire.parse_response(data)
    except MalformedError:
        return False
    return found.id == number and found.name.lower() == query.key and found.kind == query.kind


async def receive(connection: socket.socket) -> bytes:
    """Wait for a datagram."""
    while True:
        await channel.readable(connection)
        try:
            return connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            continue
