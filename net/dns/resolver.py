"""The resolver: a small process that holds the DNS sockets and answers, whoever comes and goes beside it.

    python -m net.dns.resolver CONTROL_SOCKET DESCRIPTOR…

It knows what it was told over its control socket and goes on with that when nobody tells it anything. It imports
neither the API's client nor any library but the standard one, so it takes a tenth of a second to start and 15 MB.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from net.dns import answers, cache, channel, upstream, wire
from net.dns.answers import Book, Entry, Reply
from net.dns.listeners import Datagrams, Streams
from net.dns.upstream import Upstream, UpstreamError
from net.dns.wire import MalformedError, Query

log = logging.getLogger(__name__)

DEFERRED_MAX = 2000
CHECK_S = 1.0
SUPERSEDED_S = 16.0
"""How long we go on when another has our place and nobody feeds us: whoever was to end us has died."""
LATENCY_BUCKETS_S = (0.00025, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 4.0)
KINDS = {1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 15: "MX", 16: "TXT", 28: "AAAA", 33: "SRV", 255: "ANY"}
CODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


class Resolver:
    """Answers questions from the book, else from upstream."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self.book = Book()
        self.upstream = Upstream(cache.Cache())
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """By transport, type and zone."""
        self.responses: Counter[tuple[str, str]] = Counter()
        """By code and zone."""
        self.latencies: Counter[tuple[str, int]] = Counter()
        self.latency_sums: Counter[str] = Counter()
        self.deferred = 0
        self._group = group

    def at_once(self, data: bytes, by_stream: bool, reply: Callable[[bytes], None]) -> None:
        """Answer a datagram, now where that is possible."""
        began = time.perf_counter()
        found = self._read(data)
        if found is None or isinstance(found, bytes):
            if found:
                reply(found)
            return
        done = self._known(found, by_stream)
        if isinstance(done, bytes):
            self._count(found, done, by_stream, began)
            reply(done)
        elif self.deferred >= DEFERRED_MAX:
            reply(wire.render(found, wire.SERVFAIL))
        else:
            self._group.create_task(self._answer_later(found, done, by_stream, began, reply))

    async def later(self, data: bytes) -> bytes | None:
        """Answer a message that came by a stream; None ends the stream."""
        began = time.perf_counter()
        found = self._read(data)
        if found is None or isinstance(found, bytes):
            return found
        done = self._known(found, True)
        if not isinstance(done, bytes):
            done = await self._resolve(found, done, True)
        self._count(found, done, True, began)
        return done

    @staticmethod
    def _read(data: bytes) -> Query | bytes | None:
        if len(data) < wire.HEADER.size or data[2] & 0x80:
            return None  # too short to be answered, or an answer itself
        if data[2] & 0x78:
            return wire.refusal(data, wire.NOTIMP)
        try:
            return wire.parse_query(data)
        except MalformedError:
            return wire.refusal(data, wire.FORMERR)

    def _known(self, query: Query, by_stream: bool) -> bytes | Reply | None:
        """Answer from what is known here; else return what is needed to go on."""
        size_max = wire.limit(query, by_stream)
        found = answers.answer(self.book, query, size_max)
        if found is None:
            if query.kind == wire.HINFO and self.upstream.is_own_probe(query.key):
                return wire.render(query, wire.REFUSED)
            kept = self.upstream.kept(query)
            if kept is not None:
                return cache.present(kept, query, time.monotonic(), size_max)
        return found

    async def _answer_later(
        self, query: Query, reply: Reply | None, by_stream: bool, began: float, send: Callable[[bytes], None]
    ) -> None:
        self.deferred += 1
        try:
            done = await self._resolve(query, reply, by_stream)
        finally:
            self.deferred -= 1
        self._count(query, done, by_stream, began)
        send(done)

    async def _resolve(self, query: Query, reply: Reply | None, by_stream: bool) -> bytes:
        """Answer with the help of others: a name of theirs, or an alias of ours that leads to one."""
        size_max = wire.limit(query, by_stream)
        asked = query
        if reply is not None:
            asked = query._replace(name=reply.target, key=reply.target.lower())
        try:
            kept = self.upstream.kept(asked) if reply is not None else None
            if kept is None:
                kept = await self.upstream.ask(asked)
        except (UpstreamError, MalformedError, OSError) as error:
            log.debug("not answered error=%s", error)
            # An alias is told all the same: the asker may know better where it leads.
            return wire.render(query, wire.SERVFAIL, reply.answers if reply else ())
        now = time.monotonic()
        if reply is None:
            return cache.present(kept, query, now, size_max)
        from net.dns import chain  # takes 6 MB, and most clusters never need it

        whole = cache.present(kept, asked, now, wire.MESSAGE_MAX)
        return chain.joined(query, reply.aliases, whole, self.book.ttl_s, size_max)

    def _count(self, query: Query, answer: bytes, by_stream: bool, began: float) -> None:
        zone = "own" if answer[2] & 0x04 else "."
        self.requests["tcp" if by_stream else "udp", KINDS.get(query.kind, "other"), zone] += 1
        self.responses[CODES.get(answer[3] & 0xF, "other"), zone] += 1
        took_s = time.perf_counter() - began
        bucket = next((i for i, limit in enumerate(LATENCY_BUCKETS_S) if took_s <= limit), len(LATENCY_BUCKETS_S))
        self.latencies[zone, bucket] += 1
        self.latency_sums[zone] += took_s  # type: ignore[assignment]


class Control:
    """Does what the feeder says."""

    def __init__(self, resolver: Resolver, listening: list[socket.socket]) -> None:
        self._resolver, self._listening = resolver, listening
        self._staged: dict[bytes, Entry | None] = {}
        self._resolv_conf = ""
        self._resolv_stamp: tuple[int, int] | None = None
        self._own: frozenset[tuple[str, int]] = frozenset()
        self._feeders: set[asyncio.StreamWriter] = set()
        self._explicit: list[str] = []
        self._open: list[Datagrams | Streams] = []
        self._path: Path | None = None
        self._identity = 0
        self._is_probed = False
        self.retired = asyncio.Event()
        self.serving = asyncio.Event()

    async def listen(self, path: Path) -> asyncio.Server:
        """Take feeders at a path: by renaming into place they find the old resolver or the new one, never none."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(self.serve, temporary, limit=channel.FRAME_BYTES_MAX)
        finally:
            os.umask(before)
        self._path, self._identity = path, temporary.stat().st_ino
        temporary.rename(path)
        return server

    async def serve_questions(self, group: asyncio.TaskGroup) -> None:
        """Answer once the feeder says so: until then an older resolver answers at the same sockets."""
        await self.serving.wait()
        self._open = [
            Datagrams(each, self._resolver) if each.type == socket.SOCK_DGRAM else Streams(each, self._resolver, group)
            for each in self._listening
        ]

    def stop_serving(self) -> None:
        """Leave what comes from now on to the next resolver."""
        for each in self._open:
            each.close()
        self._open = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry out one feeder's wishes until it goes; the resolver stays."""
        self._feeders.add(writer)
        try:
            while True:
                frame = await channel.read(reader)
                if frame.get("do") == "sockets":
                    self._hand_over(writer)
                else:
                    writer.write(channel.pack(self.do(frame)))
                    await writer.drain()
        except (EOFError, ConnectionError):
            log.info("the feeder is gone; going on with what is known names=%d", len(self._resolver.book.names))
        except (ValueError, KeyError) as error:
            log.error("the feeder says what cannot be understood error=%r", error)
        finally:
            self._feeders.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        """Let the feeders go."""
        for writer in self._feeders:
            writer.close()

    def _hand_over(self, writer: asyncio.StreamWriter) -> None:
        """Give the feeder the sockets, so that none is lost whichever process ends first."""
        answer = channel.pack({"version": channel.version(), "count": len(self._listening), "pid": os.getpid()})
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as own:
            socket.send_fds(own, [answer], [each.fileno() for each in self._listening])

    def do(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Carry out one wish and return the answer."""
        match frame["do"]:
            case "settings":
                self._settings(frame)
            case "names":
                self._names(frame)
            case "counts":
                return self._counts()
            case "serve":
                self.serving.set()
            case "retire":
                self.retired.set()
            case other:
                raise ValueError(f"unknown wish {other!r}")
        return {}

    def _settings(self, frame: dict[str, Any]) -> None:
        resolver, old = self._resolver, self._resolver.book
        zone = bytes.fromhex(frame["zone"])
        names = old.names if old.zone == zone else {}
        networks = tuple((int(size), int(net), int(mask)) for size, net, mask in frame["reverse_networks"])
        resolver.book = Book(zone, int(frame["ttl_s"]), names, old.is_complete and bool(names), networks)
        self._own = frozenset((str(address), int(port)) for address, port in frame["own"])
        self._explicit = list(frame["upstream"])
        self._resolv_conf, self._resolv_stamp = str(frame["resolv_conf"]), None
        resolver.upstream.cache = cache.Cache(int(frame["cache_entries_max"]), ttl_max_s=int(frame["cache_ttl_s"]))
        self.look_for_servers()

    def look_for_servers(self) -> None:
        """Read the node's resolv.conf where it has changed, unless servers are given."""
        if self._explicit:
            self._use_servers(self._explicit)
            return
        try:
            status = os.stat(self._resolv_conf)
            stamp = (status.st_mtime_ns, status.st_ino)
            if stamp == self._resolv_stamp:
                return
            found = upstream.parse_resolv_conf(Path(self._resolv_conf).read_text(errors="replace"))
        except OSError as error:
            if self._resolv_stamp is None:
                log.warning("no servers to ask file=%s error=%s", self._resolv_conf, error)
            self._resolv_stamp = (0, 0)
            return
        self._resolv_stamp = stamp
        self._use_servers(found)

    def _use_servers(self, texts: list[str]) -> None:
        self._resolver.upstream.servers = upstream.servers_of(texts, self._own)
        self._is_probed = False

    async def look_around(self) -> None:
        """Look now and then whether the node's resolv.conf has changed, and whether another has taken our place."""
        superseded_s = 0.0
        while True:
            await asyncio.sleep(CHECK_S)
            if self._resolv_conf and not self._explicit:
                self.look_for_servers()
            if not self._is_probed and self.serving.is_set():
                self._is_probed = True
                await self._resolver.upstream.look_for_loops()
            superseded_s = 0.0 if self._feeders or self._has_place() else superseded_s + CHECK_S
            if superseded_s >= SUPERSEDED_S:
                log.warning("nobody can find this resolver any more, and nobody ended it")
                self.retired.set()

    def leave(self) -> None:
        """Remove our place, unless a successor has it by now."""
        if self._path is not None and self._has_place():
            self._path.unlink()

    def _has_place(self) -> bool:
        try:
            return self._path is None or self._path.stat().st_ino == self._identity
        except OSError:
            return False

    def _names(self, frame: dict[str, Any]) -> None:
        book = self._resolver.book
        self._staged.update(channel.unpack_names(frame["names"]))
        if frame["more"]:
            return
        staged, self._staged = self._staged, {}
        if frame["replace"]:
            book.names = {name: entry for name, entry in staged.items() if entry is not None}
        else:
            for name, entry in staged.items():
                if entry is None:
                    book.names.pop(name, None)
                else:
                    book.names[name] = entry
        book.is_complete = book.is_complete or bool(frame["complete"])

    def _counts(self) -> dict[str, Any]:
        resolver = self._resolver
        return {
            "requests": [[*key, count] for key, count in resolver.requests.items()],
            "responses": [[*key, count] for key, count in resolver.responses.items()],
            "latencies": [[*key, count] for key, count in resolver.latencies.items()],
            "latency_sums": dict(resolver.latency_sums),
            "upstream": resolver.upstream.counts,
            "cached": len(resolver.upstream.cache),
            "names": len(resolver.book.names),
            "complete": resolver.book.is_complete,
            "servers": [str(server) for server in resolver.upstream.servers],
        }


async def run(control_path: Path, listening: list[socket.socket]) -> None:
    """Serve until told to retire, or ended by a signal."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        resolver = Resolver(group)
        control = Control(resolver, listening)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, control.retired.set)
        server = await control.listen(control_path)
        beside = [group.create_task(control.look_around()), group.create_task(control.serve_questions(group))]
        log.info("ready sockets=%d pid=%d", len(listening), os.getpid())
        await control.retired.wait()
        for task in beside:
            task.cancel()
        control.stop_serving()
        server.close()
        control.leave()
        control.hang_up()
        log.info("retired; what was asked is still answered waiting=%d", resolver.deferred)


def main() -> None:
    """Run as a process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    listening = [socket.socket(fileno=int(number)) for number in sys.argv[2:]]
    asyncio.run(run(Path(sys.argv[1]), listening))


if __name__ == "__main__":
    main()
