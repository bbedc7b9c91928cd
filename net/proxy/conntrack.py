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
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from net.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR, NetlinkError
from net.proxy.rules import FrontKind, fronts_of
from net.proxy.services import ChangeTracker

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY = 1, 2
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
NESTED = 0x8000
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
RECEIVE_BYTES = 1 << 18
DELETE_BATCH = 100

Place = tuple[str, int]
"""An address and a port; the address is empty for node ports."""


@dataclass(frozen=True, slots=True)
class Flow:
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
            serving = frozenset((e.ip, e.port) for e in tracker.endpoints_of(port.name) if e.serving)
            for front in fronts_of(port):
                address = "" if front.kind is FrontKind.NODE_PORT else front.address
                found[(address, front.port)] = serving
    return found


def stale(
    flows: Iterable[Flow], leads_to: Mapping[Place, frozenset[Place]], local_addresses: frozenset[str]
) -> list[Flow]:
    """Return the flows that must be tracked anew."""
    found = []
    for flow in flows:
        endpoints = leads_to.get(flow.target)
        if endpoints is None and flow.target[0] in local_addresses:
            endpoints = leads_to.get(("", flow.target[1]))
        if endpoints is None or flow.answerer in endpoints:
            continue
        # Without endpoints only a flow that was translated is wrong: it must meet the refusal now.
        if endpoints or flow.answerer != flow.target:
            found.append(flow)
    return found


class ConntrackSocket:
    """Read and delete UDP entries in the namespace in which this was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))

    def __enter__(self) -> ConntrackSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def udp_flows(self) -> Iterator[Flow]:
        """Yield the IPv4 UDP entries."""
        kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET
        body = struct.pack("=BBH", socket.AF_INET, 0, 0)
        self._socket.send(HEADER.pack(HEADER.size + len(body), kind, REQUEST | DUMP, 1, 0) + body)
        while True:
            data = self._socket.recv(RECEIVE_BYTES)
            offset = 0
            while offset + HEADER.size <= len(data):
                length, answered, _, _, _ = HEADER.unpack_from(data, offset)
                if answered == NLMSG_DONE:
                    return
                if answered == NLMSG_ERROR:
                    (negative,) = struct.unpack_from("=i", data, offset + HEADER.size)
                    raise NetlinkError(-negative, f"conntrack dump: {os.strerror(-negative)}")
                flow = _flow(data, offset + HEADER.size + 4, offset + length)
                if flow is not None:
                    yield flow
                offset += (length + 3) & ~3

    def delete(self, flows: list[Flow]) -> int:
        """Delete entries; return how many were there still."""
        deleted = 0
        for start in range(0, len(flows), DELETE_BATCH):
            batch = flows[start : start + DELETE_BATCH]
            self._socket.send(b"".join(_deletion(flow, number) for number, flow in enumerate(batch)))
            answered = 0
            while answered < len(batch):
                data = self._socket.recv(RECEIVE_BYTES)
                offset = 0
                while offset + HEADER.size <= len(data):
                    (length,) = struct.unpack_from("=I", data, offset)
                    (negative,) = struct.unpack_from("=i", data, offset + HEADER.size)
                    if negative and -negative != errno.ENOENT:
                        raise NetlinkError(-negative, f"conntrack delete: {os.strerror(-negative)}")
                    deleted += not negative
                    answered += 1
                    offset += (length + 3) & ~3
        return deleted


def _attributes(data: bytes, offset: int, end: int) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    while offset + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = (offset + 4, offset + length)
        offset += (length + 3) & ~3
    return found


def _flow(data: bytes, offset: int, end: int) -> Flow | None:
    tuples = _attributes(data, offset, end)
    original = _ends(data, *tuples[CTA_TUPLE_ORIG])
    reply = _ends(data, *tuples[CTA_TUPLE_REPLY])
    if original is None or reply is None:
        return None
    return Flow(source=original[0], target=original[1], answerer=reply[0])


def _ends(data: bytes, offset: int, end: int) -> tuple[Place, Place] | None:
    parts = _attributes(data, offset, end)
    addresses = _attributes(data, *parts[CTA_TUPLE_IP])
    protocol = _attributes(data, *parts[CTA_TUPLE_PROTO])
    if data[protocol[1][0]] != socket.IPPROTO_UDP:
        return None
    (source_port,) = struct.unpack_from(">H", data, protocol[2][0])
    (target_port,) = struct.unpack_from(">H", data, protocol[3][0])
    source = socket.inet_ntoa(data[addresses[1][0] : addresses[1][1]])
    target = socket.inet_ntoa(data[addresses[2][0] : addresses[2][1]])
    return (source, source_port), (target, target_port)


def _attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def _deletion(flow: Flow, sequence: int) -> bytes:
    addresses = _attribute(1, socket.inet_aton(flow.source[0])) + _attribute(2, socket.inet_aton(flow.target[0]))
    protocol = _attribute(1, bytes([socket.IPPROTO_UDP]))
    protocol += _attribute(2, struct.pack(">H", flow.source[1])) + _attribute(3, struct.pack(">H", flow.target[1]))
    ends = _attribute(NESTED | CTA_TUPLE_IP, addresses) + _attribute(NESTED | CTA_TUPLE_PROTO, protocol)
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + _attribute(NESTED | CTA_TUPLE_ORIG, ends)
    kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE
    return HEADER.pack(HEADER.size + len(body), kind, REQUEST | ACK, sequence, 0) + body
