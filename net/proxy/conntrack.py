"""Drop connection-tracking entries of UDP flows that lead where their Service no longer does.

The kernel translates a flow's first packet and remembers: a UDP client that keeps its port would
talk to a dead pod for ever, or to nobody where its first packet came before the first endpoint.
TCP ends by itself and is never touched. `stale` decides (pure); `ConntrackSocket` reads and deletes
over raw nfnetlink, a hundred times faster than one library call an entry.

    entry    10.244.1.5:4711 → 10.96.0.10:53, answered by 10.244.2.3:53
    fronts   10.96.0.10:53 leads to {10.244.2.9:53}      → stale: 10.244.2.3 is no endpoint any more
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from net.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR, NetlinkError
from net.proxy.rules import FrontKind, fronts_of
from net.proxy.services import ChangeTracker

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_FILTER = 1, 2, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS, FILTER_BY_PROTOCOL = 1, 2, 1 << 3
NESTED = 0x8000
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
RECEIVE_BYTES = 1 << 18
BATCH = 100
PLACES_CACHED_MAX = 1 << 15

Place = bytes
"""An address and a port as packets hold them; a port alone for node ports."""


@lru_cache(PLACES_CACHED_MAX)
def place(address: str, port: int) -> Place:
    """Return an address, which is empty for node ports, and a port as packets hold them."""
    return (ipaddress.ip_address(address).packed if address else b"") + port.to_bytes(2, "big")


class Flow(NamedTuple):
    """Hold one UDP entry: who asked whom, and who answers."""

    source: Place
    target: Place
    answerer: Place


def fronts(tracker: ChangeTracker) -> dict[Place, frozenset[Place]]:
    """Return where each UDP front may lead: to every endpoint that still serves."""
    found: dict[Place, frozenset[Place]] = {}
    for ports in tracker.ports.values():
        for port in ports:
            if port.name.protocol != "UDP":
                continue
            serving = frozenset(place(e.ip, e.port) for e in tracker.endpoints_of(port.name) if e.serving)
            for front in fronts_of(port):
                found[place("" if front.kind is FrontKind.NODE_PORT else front.address, front.port)] = serving
    return found


def stale(
    flows: Iterable[Flow], leads_to: Mapping[Place, frozenset[Place]], local_addresses: frozenset[str]
) -> list[Flow]:
    """Return the flows that must be tracked anew."""
    local = {ipaddress.ip_address(address).packed for address in local_addresses}
    found = []
    for flow in flows:
        _, target, answerer = flow
        endpoints = leads_to.get(target)
        if endpoints is None and target[:-2] in local:
            endpoints = leads_to.get(target[-2:])
        if endpoints is None or answerer in endpoints:
            continue
        # Without endpoints only a flow that was translated is wrong: it must meet the refusal now.
        if endpoints or answerer != target:
            found.append(flow)
    return found


@dataclass(slots=True)
class Reconciler:
    """Bring the flows of one address family in line with its Services; remembers which fronts there were."""

    ip_version: int = 4
    _known: dict[Place, frozenset[Place]] | None = field(default=None)

    @property
    def is_new(self) -> bool:
        """Whether no flows were looked at yet."""
        return self._known is None

    def differs(self, wanted: Mapping[Place, frozenset[Place]]) -> bool:
        """Tell whether flows may have to go since the last time."""
        return wanted != self._known

    def reconcile(self, wanted: dict[Place, frozenset[Place]], local_addresses: frozenset[str]) -> int:
        """Drop the flows that lead elsewhere than `fronts` says; return how many. Blocks for some tens of ms.

        It raises OSError or NetlinkError where the kernel does not answer, and looks again at the next call.
        """
        gone = {place: frozenset[Place]() for place in self._known or () if place not in wanted}
        dropped = 0
        if wanted or gone:
            with ConntrackSocket(self.ip_version) as opened:
                dropped = opened.delete(stale(opened.udp_flows(), wanted | gone, local_addresses))
        self._known = wanted
        return dropped


class ConntrackSocket:
    """Read and delete UDP entries of one family in the namespace in which this was made."""

    def __init__(self, ip_version: int = 4) -> None:
        self._family = socket.AF_INET6 if ip_version == 6 else socket.AF_INET
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))

    def __enter__(self) -> ConntrackSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def udp_flows(self) -> Iterator[Flow]:
        """Yield the UDP entries; the kernel picks them out, so that TCP's cost nothing."""
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
        self._socket.send(message(kind, REQUEST | DUMP, 1, self._family, _only_udp()))
        layout = LAYOUTS[self._family]
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            offset, end = 0, len(data)
            while offset + HEADER.size <= end:
                length, answered, _, _, _ = HEADER.unpack_from(data, offset)
                if answered == NLMSG_DONE:
                    return
                if answered == NLMSG_ERROR:
                    (negative,) = struct.unpack_from("=i", data, offset + HEADER.size)
                    raise NetlinkError(-negative, f"conntrack dump: {os.strerror(-negative)}")
                flow = layout.read(data, offset + HEADER.size + 4)
                if flow is not None:
                    yield flow
                offset += (length + 3) & ~3

    def delete(self, flows: list[Flow]) -> int:
        """Delete entries; return how many were there still."""
        return self.execute(
            IPCTNL_MSG_CT_DELETE, REQUEST | ACK, [tuple_of(CTA_TUPLE_ORIG, flow.source, flow.target) for flow in flows]
        )

    def execute(self, operation: int, flags: int, bodies: list[bytes]) -> int:
        """Send one message for each body; return how many found their entry."""
        done = 0
        kind = NFNL_SUBSYS_CTNETLINK << 8 | operation
        for start in range(0, len(bodies), BATCH):
            batch = bodies[start : start + BATCH]
            self._socket.send(
                b"".join(message(kind, flags, number, self._family, body) for number, body in enumerate(batch))
            )
            answered = 0
            while answered < len(batch):
                data = self._socket.recv(RECEIVE_BYTES)
                offset = 0
                while offset + HEADER.size <= len(data):
                    (length,) = struct.unpack_from("=I", data, offset)
                    (negative,) = struct.unpack_from("=i", data, offset + HEADER.size)
                    if negative and -negative != errno.ENOENT:
                        raise NetlinkError(-negative, f"conntrack: {os.strerror(-negative)}")
                    done += not negative
                    answered += 1
                    offset += (length + 3) & ~3
        return done


class Layout:
    """Know where an entry of one family has its addresses and ports: the kernel writes all in one order.

    Walking the attributes of 20,000 entries takes half a second; four slices of each take a tenth of that.
    """

    def __init__(self, address_bytes: int) -> None:
        address = 4 + address_bytes
        self._size = 4 + (4 + 2 * address) + 28
        self._tuple_head = struct.pack("=HH", self._size, NESTED | CTA_TUPLE_ORIG)
        self._reply_head = struct.pack("=HH", self._size, NESTED | CTA_TUPLE_REPLY)
        self._first, self._second, self._bytes = 12, 12 + address, address_bytes
        self._protocol = 4 + (4 + 2 * address) + 8

    def read(self, data: bytes, offset: int) -> Flow | None:
        """Return the entry whose attributes begin here; None where it is not UDP's."""
        reply = offset + self._size
        if data[offset : offset + 4] != self._tuple_head or data[reply : reply + 4] != self._reply_head:
            return None  # ICMP has other attributes in place of ports
        ports = offset + self._protocol
        if data[ports] != socket.IPPROTO_UDP:
            return None
        first, second, size = offset + self._first, offset + self._second, self._bytes
        answerer, reply_ports = reply + self._first, reply + self._protocol
        return Flow(
            data[first : first + size] + data[ports + 8 : ports + 10],
            data[second : second + size] + data[ports + 16 : ports + 18],
            data[answerer : answerer + size] + data[reply_ports + 8 : reply_ports + 10],
        )


LAYOUTS = {socket.AF_INET: Layout(4), socket.AF_INET6: Layout(16)}


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def message(kind: int, flags: int, sequence: int, family: int, attributes: bytes) -> bytes:
    """Return one message to the connection tracker."""
    body = struct.pack("=BBH", family, 0, 0) + attributes
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body


def tuple_of(kind: int, source: Place, target: Place, protocol_number: int = socket.IPPROTO_UDP) -> bytes:
    """Return one direction of a flow."""
    first = 3 if len(target) > 6 else 1  # CTA_IP_V6_SRC or CTA_IP_V4_SRC; the target's follows
    addresses = attribute(first, source[:-2]) + attribute(first + 1, target[:-2])
    protocol = attribute(1, bytes([protocol_number])) + attribute(2, source[-2:]) + attribute(3, target[-2:])
    ends = attribute(NESTED | CTA_TUPLE_IP, addresses) + attribute(NESTED | CTA_TUPLE_PROTO, protocol)
    return attribute(NESTED | kind, ends)


def _only_udp() -> bytes:
    """Return what has a dump hold UDP entries alone; older kernels ignore it."""
    protocol = attribute(NESTED | CTA_TUPLE_PROTO, attribute(1, bytes([socket.IPPROTO_UDP])))
    flags = attribute(CTA_FILTER_ORIG_FLAGS, struct.pack("=I", FILTER_BY_PROTOCOL))
    flags += attribute(CTA_FILTER_REPLY_FLAGS, struct.pack("=I", 0))
    return attribute(NESTED | CTA_TUPLE_ORIG, protocol) + attribute(NESTED | CTA_FILTER, flags)
