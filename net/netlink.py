"""The only door to netlink and to pyroute2: sockets in any namespace, batches, typed dumps, events.

pyroute2 knows how the kernel's answers are built, and `links` decodes with its classes; what comes in
thousands goes by `dumps`. Its sockets are not used: opening one in another namespace forks the process. Nor is
its package's front, which would import 370 modules (14 MB) where the classes need 180 (4 MB); both
stay out until the first dump. Writing goes by `messages`, many to a send.

A thread may stand in another network namespace for the time of a `with inside(…)`; the sockets
opened and the sysctls written there belong to that namespace for good.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import importlib
import importlib.util
import logging
import os
import socket
import struct
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from net import dumps, messages
from net.dumps import HEADER as HEADER
from net.links import Address, Event, ForwardingEntry, Link, Neighbour, Route, RoutingRule, Vxlan
from net.messages import Message

log = logging.getLogger(__name__)

CLONE_NEWNET = 0x40000000
NETLINK_ROUTE = 0
NLMSG_ERROR, NLMSG_DONE = 2, 3
RECEIVE_BYTES = 1 << 18
NLM_F_DUMP_INTR = 0x10
DUMP_ATTEMPTS_MAX = 20
EVENT_BUFFER_BYTES = 4 << 20
SO_RCVBUFFORCE = 33
BATCH_MESSAGES_MAX = 100
"""Each answer takes a kilobyte of the socket's buffer, which must hold those of a whole batch."""
RTMGRP_LINK, RTMGRP_NEIGH = 0x1, 0x4
RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV4_RULE = 0x10, 0x40, 0x80
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE, RTMGRP_IPV6_RULE = 0x100, 0x400, 0x40000
EVENT_GROUPS = (
    RTMGRP_LINK | RTMGRP_NEIGH
    | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV4_RULE
    | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE | RTMGRP_IPV6_RULE
)  # fmt: skip
SIOCETHTOOL, ETHTOOL_GTXCSUM, ETHTOOL_STXCSUM = 0x8946, 0x16, 0x17
T = TypeVar("T")


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
        data = self._ask_link(messages.get_link(name))
        return int(struct.unpack_from("=i", data, HEADER.size + 4)[0]) if data is not None else None

    def _ask_link(self, request: Message) -> bytes | None:
        self._sequence += 1
        length = HEADER.size + len(request.body)
        head = HEADER.pack(length, request.kind, messages.NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(head + request.body)
        for kind, _, data in _split(self._socket.recv(RECEIVE_BYTES)):
            if kind == messages.RTM_NEWLINK:
                return data
            (negative,) = struct.unpack_from("=i", data, HEADER.size)
            if -negative not in (errno.ENODEV, errno.ENOENT):
                raise NetlinkError(-negative, f"{request.about}: {os.strerror(-negative)}")
        return None

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return the messages of a dump that no change disturbed: a disturbed one may leave out what stands."""
        for _ in range(DUMP_ATTEMPTS_MAX):
            found: list[bytes] = []
            if self._dump_once(kind, body, found):
                return found
        raise NetlinkError(errno.EAGAIN, f"dump {kind}: changes while it is read")

    def _dump_once(self, kind: int, body: bytes, found: list[bytes]) -> bool:
        self._sequence += 1
        flags = messages.NLM_F_REQUEST | messages.NLM_F_DUMP
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        whole = True
        while True:
            for answered, sequence, data in _split(self._socket.recv(RECEIVE_BYTES)):
                if sequence != self._sequence:
                    continue
                if HEADER.unpack_from(data)[2] & NLM_F_DUMP_INTR:
                    whole = False
                if answered == NLMSG_DONE:
                    return whole
                if answered == NLMSG_ERROR:
                    (negative,) = struct.unpack_from("=i", data, HEADER.size)
                    raise NetlinkError(-negative, f"dump {kind}: {os.strerror(-negative)}")
                found.append(data)

    def links(self) -> list[Link]:
        """Return all interfaces."""
        body = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, 0, 0, 0)
        return [_link(data) for data in self._dump(messages.RTM_GETLINK, body)]

    def link(self, name: str = "", index: int = 0) -> Link | None:
        """Return one interface by name or index, None where no such link is."""
        data = self._ask_link(messages.get_link(name, index))
        return _link(data) if data is not None else None

    def addresses(self, family: int = socket.AF_INET) -> list[Address]:
        """Return all addresses of one family."""
        body = struct.pack("=BBBBI", family, 0, 0, 0, 0)
        return _known(dumps.address(data) for data in self._dump(messages.RTM_GETADDR, body))

    def routes(
        self, family: int = socket.AF_INET, tables: frozenset[int] = frozenset({messages.RT_TABLE_MAIN})
    ) -> list[Route]:
        """Return the unicast routes with one way each, of the main table where no others are asked for."""
        body = struct.pack("=8BI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        found = _known(dumps.route(data) for data in self._dump(messages.RTM_GETROUTE, body))
        return [route for route in found if route.table in tables]

    def neighbours(self, family: int, index: int) -> list[Neighbour]:
        """Return the neighbours of one family on one link."""
        body = struct.pack("=BxxxiHBB", family, 0, 0, 0, 0)
        body += messages.attribute(messages.NDA_IFINDEX, struct.pack("=I", index))
        found = _known(dumps.neighbour(data) for data in self._dump(messages.RTM_GETNEIGH, body))
        return [entry for entry in found if entry.index == index]

    def forwarding(self, index: int) -> list[ForwardingEntry]:
        """Return where a VXLAN interface sends frames."""
        body = struct.pack("=BxHiII", messages.AF_BRIDGE, 0, index, 0, 0)
        found = _known(dumps.forwarding_entry(data) for data in self._dump(messages.RTM_GETNEIGH, body))
        return [entry for entry in found if entry.index == index]

    def rules(self, family: int) -> list[RoutingRule]:
        """Return the rules that lead from a network to a table."""
        body = struct.pack("=8BI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        return _known(dumps.rule(data) for data in self._dump(messages.RTM_GETRULE, body))


def _known(found: Iterable[T | None]) -> list[T]:
    return [entry for entry in found if entry is not None]


def _link(data: bytes) -> Link:
    message = _decoder("ifinfmsg")(data)
    message.decode()
    information = message.get_attr("IFLA_LINKINFO")
    kind = (information.get_attr("IFLA_INFO_KIND") or "") if information is not None else ""
    details = information.get_attr("IFLA_INFO_DATA") if kind == "vxlan" else None
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        kind=kind,
        mtu=message.get_attr("IFLA_MTU") or 0,
        mac=message.get_attr("IFLA_ADDRESS") or "",
        is_up=bool(message["flags"] & messages.IFF_UP),
        master=message.get_attr("IFLA_MASTER") or 0,
        vxlan=None
        if details is None
        else Vxlan(
            identifier=details.get_attr("IFLA_VXLAN_ID") or 0,
            local=details.get_attr("IFLA_VXLAN_LOCAL") or details.get_attr("IFLA_VXLAN_LOCAL6") or "",
            port=details.get_attr("IFLA_VXLAN_PORT") or 0,
            is_learning=bool(details.get_attr("IFLA_VXLAN_LEARNING")),
            underlay_index=details.get_attr("IFLA_VXLAN_LINK") or 0,
        ),
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
    """Receive changes of links, addresses, routes, neighbours and rules in the namespace in which this was made."""

    def __init__(self, buffer_bytes: int = EVENT_BUFFER_BYTES) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        except OSError as error:
            log.debug("event buffer stays small, overruns will be more frequent error=%s", error)
        self._socket.bind((0, EVENT_GROUPS))

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
        return [event for kind, _, message in _split(data) if (event := dumps.event(kind, message)) is not None]


def _settle(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


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


def set_checksum_offload(name: str, enabled: bool) -> bool:
    """Let a link's hardware make checksums or not; False where it stands so already."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        if bool(_ethtool(door, name, ETHTOOL_GTXCSUM, 0)) == enabled:
            return False
        _ethtool(door, name, ETHTOOL_STXCSUM, int(enabled))
        return True


def _ethtool(door: socket.socket, name: str, command: int, value: int) -> int:
    told = ctypes.create_string_buffer(struct.pack("=II", command, value))
    request = struct.pack("@16sP16x", name.encode(), ctypes.addressof(told))
    try:
        fcntl.ioctl(door, SIOCETHTOOL, request)
    except OSError as error:
        raise NetlinkError(error.errno, f"checksums of {name}: {error.strerror}") from error
    return int(struct.unpack_from("=II", told.raw)[1])
