"""Keep a resolver alive and fed: find the one that runs, start one where none does, replace one of another version.

The sockets are made here, and held here and in the resolver: whichever process dies, the other keeps them open, and
what comes meanwhile waits in them. A resolver that runs already is asked for its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from net.dns import channel
from net.dns.answers import Entry
from net.dns.channel import Frame

log = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 30.0
REACH_TIMEOUT_S = 5.0
POLL_S = 0.01
BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33
IP_FREEBIND, IPV6_FREEBIND = 15, 78
BACKLOG = 512
PORT_TRIES = 20

Place = tuple[str, int]


class ResolverGoneError(Exception):
    """The resolver went away; another one is needed."""


def open_sockets(place: Place) -> list[socket.socket]:
    """Bind a datagram socket and a listening one at a place; raises OSError."""
    address, port = place
    tries = 1 if port else PORT_TRIES
    while True:
        tries -= 1
        datagrams = _bound(address, port, socket.SOCK_DGRAM)
        try:
            # Port 0 is any port, but one for both; somebody may have the second of a pair.
            return [datagrams, _bound(address, datagrams.getsockname()[1], socket.SOCK_STREAM)]
        except OSError:
            datagrams.close()
            if not tries:
                raise


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    made = socket.socket(family, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Another instance, of whatever origin, may take over beside this one.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        if kind == socket.SOCK_DGRAM:
            try:
                made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
            except PermissionError:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        made.bind((address, port))
        if kind == socket.SOCK_STREAM:
            made.listen(BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def places_of(sockets: Sequence[socket.socket]) -> set[tuple[str, int, int]]:
    """Return where sockets are bound: address, port, kind."""
    return {(*each.getsockname()[:2], int(each.type)) for each in sockets}


class Resolver:
    """A resolver that runs, as its feeder sees it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, found: Frame) -> None:
        self._reader, self._writer = reader, writer
        self._turn = asyncio.Lock()
        self.version, self.pid = str(found["version"]), int(found["pid"])

    async def say(self, frame: Frame) -> Frame:
        """Tell the resolver something and return its answer; raises ResolverGoneError."""
        async with self._turn:
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    self._writer.write(channel.pack(frame))
                    await self._writer.drain()
                    return await channel.read(self._reader)
            except (EOFError, OSError, TimeoutError, ValueError) as error:
                raise ResolverGoneError(str(error) or "no answer in time") from error

    async def tell(self, names: Mapping[bytes, Entry | None], *, replace: bool, complete: bool) -> None:
        """Tell names and their records; raises ResolverGoneError."""
        for frame in channel.names_frames(names, replace=replace, complete=complete):
            await self.say(frame)

    async def ended(self) -> None:
        """Return when the resolver's process has ended."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            await channel.readable(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Hang up; the resolver stays."""
        self._writer.close()


async def reach(path: Path) -> tuple[Resolver, list[socket.socket]]:
    """Connect to the resolver that runs, and take its sockets; raises OSError where none does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        connection.connect(str(path))
        async with asyncio.timeout(REACH_TIMEOUT_S):
            found, sockets = await channel.take_sockets(connection)
    except ValueError as error:
        connection.close()
        raise OSError(f"what listens at {path} is no resolver: {error}") from error
    except BaseException:
        connection.close()
        raise
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=channel.FRAME_BYTES_MAX)
    return Resolver(reader, writer, found), sockets


def identity_of(path: Path) -> int:
    """Return what tells one socket at a path from the next; 0 where none is."""
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def spawn(path: Path, sockets: Sequence[socket.socket], environment: Mapping[str, str]) -> int:
    """Start a resolver in a session of its own, so that it outlives us; return its pid."""
    path.parent.mkdir(parents=True, exist_ok=True)
    actions: list[Any] = []
    # Above every number in use, so that none is overwritten before it is copied.
    first = max((each.fileno() for each in sockets), default=2) + 1
    for number, each in enumerate(sockets):
        actions.append((os.POSIX_SPAWN_DUP2, each.fileno(), first + number))
    numbers = [str(first + number) for number in range(len(sockets))]
    root = str(Path(__file__).resolve().parent.parent.parent)
    command = [sys.executable, "-m", "net.dns.resolver", str(path), *numbers]
    return os.posix_spawn(
        sys.executable, command, {**os.environ, "PYTHONPATH": root, **environment}, file_actions=actions, setsid=True
    )


class Keeper:
    """Finds, starts and replaces resolvers."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        self._path, self._environment = path, dict(environment)
        self._sockets: list[socket.socket] = []
        self._children: set[int] = set()
        self.resolver: Resolver | None = None

    async def find(self) -> bool:
        """Reach the resolver that runs, if one does; tell whether."""
        self._hang_up()
        try:
            self.resolver, taken = await reach(self._path)
        except OSError as error:
            log.debug("no resolver runs error=%s", error)
            return False
        channel.close_all(self._sockets)
        self._sockets = taken
        log.info("a resolver runs pid=%d sockets=%d", self.resolver.pid, len(taken))
        return True

    def suits(self, places: Sequence[Place]) -> bool:
        """Tell whether the resolver is of our version and listens at the places that are wanted, and there alone."""
        wanted = {(address, port, int(kind)) for address, port in places for kind in _KINDS}
        bound = places_of(self._sockets)
        if any(port == 0 for _, port in places):
            wanted = {(address, 0, kind) for address, _, kind in wanted}
            bound = {(address, 0, kind) for address, _, kind in bound}
        return self.resolver is not None and self.resolver.version == channel.version() and bound == wanted

    async def start(self, places: Sequence[Place]) -> None:
        """Start a resolver, which does not read yet; the one before it is for whoever called to retire.

        The sockets of places that stay are handed on: nothing that waits in them is lost.
        """
        self.resolver = None
        kept = {(*each.getsockname()[:2], int(each.type)): each for each in self._sockets}
        wanted: list[socket.socket] = []
        for address, port in places:
            chosen = port or next((known for other, known, _ in kept if other == address), 0)
            found = [kept.pop((address, chosen, int(kind)), None) for kind in _KINDS]
            if all(found):
                wanted += [each for each in found if each is not None]
            else:
                channel.close_all(each for each in found if each is not None)
                wanted += open_sockets((address, port))
        channel.close_all(kept.values())
        self._sockets = wanted
        self._reap()
        older = identity_of(self._path)
        pid = spawn(self._path, wanted, self._environment)
        self._children.add(pid)
        deadline = time.monotonic() + START_TIMEOUT_S
        while identity_of(self._path) in (older, 0):
            await asyncio.sleep(POLL_S)
            self._reap()
            if pid not in self._children or time.monotonic() > deadline:
                raise ResolverGoneError("a resolver was started and did not come up")
        try:
            self.resolver, spare = await reach(self._path)
        except OSError as error:
            raise ResolverGoneError(f"a resolver was started and does not answer: {error}") from error
        channel.close_all(spare)
        log.info("a resolver is started pid=%d sockets=%d", self.resolver.pid, len(wanted))

    @property
    def bound(self) -> list[Place]:
        """Where the resolver listens."""
        return sorted({(address, port) for address, port, _ in places_of(self._sockets)})

    def _hang_up(self) -> None:
        if self.resolver is not None:
            self.resolver.close()
            self.resolver = None

    def _reap(self) -> None:
        """Let the kernel forget children that have ended."""
        for pid in list(self._children):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._children.discard(pid)

    def close(self) -> None:
        """Let go of the sockets and hang up; the resolver stays."""
        self._hang_up()
        channel.close_all(self._sockets)
        self._sockets = []


_KINDS = (socket.SOCK_DGRAM, socket.SOCK_STREAM)
