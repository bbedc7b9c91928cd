"""The only door to netlink and to pyroute2: sockets in any namespace, batches, typed dumps, events.

pyroute2 knows how the kernel's answers are built, and `links` and `addresses` decode with its
classes. Its sockets are not used: opening one in another namespace forks the process. Nor is
its package's front, which would import 370 modules (14 MB) where the classes need 180 (4 MB); both
stay out until the first dump. Writing goes by `messages`, many to a send.

A thread may stand in another network namespace for the time of a `with inside(…)`; the sockets
opened and the sysctls written there belong to that namespace for good.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import importlib
import importlib.util
import logging
import os
import socket
import struct
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from net import messages
from net.links import Address, Event, Link, Route
from net.messages import Message

log = logging.getLogger(__name__)

CLONE_NEWNET = 0x40000000
NETLINK_ROUTE = 0
NLMSG_ERROR, NLMSG_DONE = 2, 3
RECEIVE_BYTES = 1 << 18
EVENT_BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33
BATCH_MESSAGES_MAX = 100
"""Each answer takes a kilobyte of the socket's buffer, which must hold those of a whole batch."""
RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x1, 0x10, 0x40
HEADER = struct.Struct("=IHHII")


class NetlinkError(OSError):
    """The kernel refused a request; the text says which."""


@contextmanager
def inside(namespace: int) -> Iterator[None]:
    """Put this thread into a network namespace (a descriptor) and back; nothing may be awaited within."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace)
        try:
            yield
        finally:
            try:
                _setns(before)
            except OSError:
                # A thread left in a stranger's namespace would do damage there: better no process at all.
                log.critical("cannot return to the own network namespace, aborting")
                os.abort()
    finally:
        os.close(before)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc().setns(descriptor, CLONE_NEWNET):
        number = ctypes.get_errno()
        raise NetlinkError(number, f"setns: {os.strerror(number)}")


def is_namespace(path: str) -> bool:
    """Tell whether a path is a namespace still: an unmounted one leaves a plain file or nothing."""
    try:
        return os.stat(path).st_dev == os.stat("/proc/self/ns/net").st_dev
    except OSError:
        return False


class RouteSocket:
    """Speak rtnetlink in the namespace in which this was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def batch(self, wanted: Sequence[Message]) -> None:
        """Send requests in as few datagrams as may be; the first refusal raises once its batch is answered."""
        for start in range(0, len(wanted), BATCH_MESSAGES_MAX):
            pending: list[bytes] = []
            about: dict[int, Message] = {}
            for message in wanted[start : start + BATCH_MESSAGES_MAX]:
                self._sequence += 1
                about[self._sequence] = message
                flags = messages.NLM_F_REQUEST | messages.NLM_F_ACK | message.flags
                length = HEADER.size + len(message.body)
                pending.append(HEADER.pack(length, message.kind, flags, self._sequence, 0) + message.body)
            self._exchange(pending, about)

    def _exchange(self, pending: list[bytes], about: dict[int, Message]) -> None:
        self._socket.send(b"".join(pending))
        first: NetlinkError | None = None
        waiting = set(about)
        while waiting:
            for kind, sequence, data in _split(self._socket.recv(RECEIVE_BYTES)):
                if kind != NLMSG_ERROR or sequence not in waiting:
                    continue
                waiting.discard(sequence)
                (negative,) = struct.unpack_from("=i", data, HEADER.size)
                if negative and -negative not in about[sequence].ignore and first is None:
                    text = f"{about[sequence].about}: {os.strerror(-negative)}"
                    first = NetlinkError(-negative, text)
        if first is not None:
            raise first

    def link_index(self, name: str) -> int | None:
        """Return a link's index, None where no such link is."""
        request = messages.get_link(name)
        self._sequence += 1
        length = HEADER.size + len(request.body)
        head = HEADER.pack(length, request.kind, messages.NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(head + request.body)
        for kind, _, data in _split(self._socket.recv(RECEIVE_BYTES)):
            if kind == messages.RTM_NEWLINK:
                index: int = struct.unpack_from("=i", data, HEADER.size + 4)[0]
                return index
            (negative,) = struct.unpack_from("=i", data, HEADER.size)
            if -negative not in (errno.ENODEV, errno.ENOENT):
                raise NetlinkError(-negative, f"{request.about}: {os.strerror(-negative)}")
        return None

    def _dump(self, kind: int, family: int) -> Iterator[bytes]:
        self._sequence += 1
        body = struct.pack("=BxHiII", family, 0, 0, 0, 0)
        flags = messages.NLM_F_REQUEST | messages.NLM_F_DUMP
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        while True:
            for answered, sequence, data in _split(self._socket.recv(RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if answered == NLMSG_DONE:
                    return
                if answered == NLMSG_ERROR:
                    (negative,) = struct.unpack_from("=i", data, HEADER.size)
                    raise NetlinkError(-negative, f"dump {kind}: {os.strerror(-negative)}")
                yield data

    def _decoded(self, kind: int, family: int, decoder: str) -> Iterator[Any]:
        make = _decoder(decoder)
        for data in self._dump(kind, family):
            message = make(data)
            message.decode()
            yield message

    def links(self) -> list[Link]:
        """Return all interfaces."""
        found = []
        for message in self._decoded(messages.RTM_GETLINK, socket.AF_UNSPEC, "ifinfmsg"):
            info = message.get_attr("IFLA_LINKINFO")
            found.append(
                Link(
                    index=message["index"],
                    name=message.get_attr("IFLA_IFNAME") or "",
                    kind=(info.get_attr("IFLA_INFO_KIND") or "") if info is not None else "",
                    mtu=message.get_attr("IFLA_MTU") or 0,
                    mac=message.get_attr("IFLA_ADDRESS") or "",
                    is_up=bool(message["flags"] & messages.IFF_UP),
                    master=message.get_attr("IFLA_MASTER") or 0,
                )
            )
        return found

    def addresses(self, family: int = socket.AF_INET) -> list[Address]:
        """Return all addresses of one family."""
        found = []
        for message in self._decoded(messages.RTM_GETADDR, family, "ifaddrmsg"):
            address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            found.append(Address(message["index"], str(address), message["prefixlen"]))
        return found

    def routes(self, family: int = socket.AF_INET) -> list[Route]:
        """Return the unicast routes of the main table with one way each.

        They are decoded by hand: a node may have thousands of other people's, and each change asks again.
        """
        found = (_route(data, family) for data in self._dump(messages.RTM_GETROUTE, family))
        return [route for route in found if route is not None]


def _route(data: bytes, family: int) -> Route | None:
    start = HEADER.size
    _, length, _, _, table, protocol, _, kind = struct.unpack_from("=8B", data, start)
    if kind != messages.RTN_UNICAST:
        return None
    index = metric = 0
    target = gateway = source = b""
    offset = start + 12
    while offset + 4 <= len(data):
        size, name = struct.unpack_from("=HH", data, offset)
        payload = data[offset + 4 : offset + size]
        match name:
            case messages.RTA_DST:
                target = payload
            case messages.RTA_GATEWAY:
                gateway = payload
            case messages.RTA_PREFSRC:
                source = payload
            case messages.RTA_OIF:
                (index,) = struct.unpack("=I", payload)
            case messages.RTA_PRIORITY:
                (metric,) = struct.unpack("=I", payload)
            case messages.RTA_TABLE:
                (table,) = struct.unpack("=I", payload)
        offset += max(4, size + 3 & ~3)
    if table != messages.RT_TABLE_MAIN:
        return None
    network = socket.inet_ntop(family, target or bytes(4 if family == socket.AF_INET else 16))
    return Route(
        network=f"{network}/{length}",
        index=index,
        gateway=socket.inet_ntop(family, gateway) if gateway else "",
        protocol=protocol,
        metric=metric,
        source=socket.inet_ntop(family, source) if source else "",
    )


def _split(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, sequence, data[offset : offset + length]
        offset += (length + 3) & ~3


@cache
def _decoder(name: str) -> Callable[[bytes], Any]:
    """Import one of pyroute2's message classes, past the package's own front."""
    front = sys.modules.get("pyroute2")
    if front is None:
        specification = importlib.util.find_spec("pyroute2")
        assert specification is not None
        front = types.ModuleType("pyroute2")
        front.__path__ = list(specification.submodule_search_locations or ())
        sys.modules["pyroute2"] = front
        try:
            module = importlib.import_module(f"pyroute2.netlink.rtnl.{name}")
        finally:
            # Whoever imports pyroute2 itself, now or later, gets the real one.
            del sys.modules["pyroute2"]
    else:
        module = importlib.import_module(f"pyroute2.netlink.rtnl.{name}")
    made: Callable[[bytes], Any] = getattr(module, name)
    return made


class RouteEvents:
    """Receive changes of links, IPv4 addresses and routes in the namespace in which this was made."""

    def __init__(self, buffer_bytes: int = EVENT_BUFFER_BYTES) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        except OSError as error:
            log.debug("event buffer stays small, overruns will be more frequent error=%s", error)
        self._socket.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE))

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def next(self) -> list[Event]:
        """Wait for changes; an overrun is an event like any other and means: read everything anew."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, _settle, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._socket)
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return [Event("overrun")]
        return [event for kind, _, message in _split(data) if (event := _event(kind, message)) is not None]


def _settle(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _event(kind: int, data: bytes) -> Event | None:
    if kind in (messages.RTM_NEWLINK, messages.RTM_DELLINK) or kind in (messages.RTM_NEWADDR, messages.RTM_DELADDR):
        (index,) = struct.unpack_from("=i", data, HEADER.size + 4)
        return Event("link" if kind <= messages.RTM_DELLINK else "address", index=index)
    if kind in (messages.RTM_NEWROUTE, messages.RTM_DELROUTE):
        return Event("route", protocol=data[HEADER.size + 5])
    return None


def write_sysctl(name: str, value: str) -> bool:
    """Set a sysctl of the thread's network namespace; False where the kernel has none or refuses."""
    try:
        Path("/proc/sys", name).write_text(value)
    except OSError as error:
        log.debug("sysctl is not set name=%s value=%s error=%s", name, value, error)
        return False
    return True


def read_sysctl(name: str) -> str:
    """Return a sysctl of the thread's network namespace; empty where the kernel has none."""
    try:
        return Path("/proc/sys", name).read_text().strip()
    except OSError:
        return ""
