"""Receive what the kernel tells of packets that bear the trace mark (`meta nftrace set 1`): rules, verdicts, policies.

A socket of our own instead of `nft monitor trace`: it listens from the moment on that it is made, and it tells headers
as bytes. Rules come by their handle; `nft -a list` knows their texts.
"""

from __future__ import annotations

import ipaddress
import logging
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from net.netlink import HEADER
from net.nftables.door import NETLINK_NETFILTER, RECEIVE_BYTES, SO_RCVBUFFORCE
from net.nftables.elements import attributes
from net.nftables.operations import FAMILY_NAMES, NFNL_SUBSYS_NFTABLES

log = logging.getLogger(__name__)

NEWTRACE = 17
NFNLGRP_NFTRACE = 9
EVENT_BUFFER_BYTES = 4 << 20
_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _NETWORK, _TRANSPORT, _POLICY = 1, 2, 3, 4, 5, 6, 8, 9, 16
_TYPES = {1: "policy", 2: "return", 3: "rule"}
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_VERDICTS = {
    0: "drop",
    1: "accept",
    2: "stolen",
    3: "queue",
    -1: "continue",
    -2: "break",
    -3: "jump",
    -4: "goto",
    -5: "return",
}
IPPROTO = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


@dataclass(frozen=True, slots=True)
class Packet:
    """Hold a packet's addresses and ports as a trace shows them."""

    protocol: str
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0


@dataclass(frozen=True, slots=True)
class Traced:
    """Tell one thing that happened to a marked packet."""

    identifier: int
    """The same for all that happens to one packet on one node."""
    family: str
    table: str
    chain: str
    kind: str
    """rule (one that decided something), return (the end of a chain) or policy."""
    handle: int
    verdict: str
    """accept, drop, continue, jump CHAIN, goto CHAIN, return …"""
    packet: Packet | None = None
    """The packet as it is, told at the first rule of each base chain."""


class NftablesTraces:
    """Receive traces in the namespace in which this was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, EVENT_BUFFER_BYTES)
        except OSError as error:
            log.debug("trace buffer stays small error=%s", error)
        self._socket.bind((0, 1 << NFNLGRP_NFTRACE - 1))

    def __enter__(self) -> NftablesTraces:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self, quiet_s: float, timeout_s: float) -> list[Traced]:
        """Return what comes until nothing came for a while, or the time is over; blocks."""
        found: list[Traced] = []
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            wait = min(quiet_s, left) if found else left
            ready, _, _ = select.select([self._socket], [], [], max(0.0, wait))
            if not ready:
                return found
            found += parse(self._socket.recv(RECEIVE_BYTES))


def parse(data: bytes) -> Iterator[Traced]:
    """Read the messages of one datagram."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, number, _, _, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        start = offset + HEADER.size
        if number == NFNL_SUBSYS_NFTABLES << 8 | NEWTRACE:
            yield _traced(data[start], attributes(data, start + 4, offset + length))
        offset += (length + 3) & ~3


def _traced(family: int, found: dict[int, bytes]) -> Traced:
    kind = _TYPES.get(int.from_bytes(found.get(_TYPE, b""), "big"), "other")
    verdict = _verdict(found[_VERDICT]) if _VERDICT in found else ""
    if kind == "policy" and _POLICY in found:
        verdict = _VERDICTS.get(_signed(found[_POLICY]), "")
    network = found.get(_NETWORK, b"")
    return Traced(
        identifier=int.from_bytes(found.get(_ID, b""), "big"),
        family=FAMILY_NAMES.get(family, str(family)),
        table=_word(found.get(_TABLE, b"")),
        chain=_word(found.get(_CHAIN, b"")),
        kind=kind,
        handle=int.from_bytes(found.get(_HANDLE, b""), "big"),
        verdict=verdict,
        packet=_packet(network, found.get(_TRANSPORT, b"")) if network else None,
    )


def _signed(raw: bytes) -> int:
    (number,) = struct.unpack(">i", raw)
    return int(number)


def _verdict(raw: bytes) -> str:
    found = attributes(raw)
    code = _VERDICTS.get(_signed(found[_VERDICT_CODE]), "other") if _VERDICT_CODE in found else "other"
    chain = _word(found.get(_VERDICT_CHAIN, b""))
    return f"{code} {chain}".strip()


def _word(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _packet(network: bytes, transport: bytes) -> Packet | None:
    version = network[0] >> 4
    if version == 4 and len(network) >= 20:
        number, source, destination = network[9], network[12:16], network[16:20]
    elif version == 6 and len(network) >= 40:
        number, source, destination = network[6], network[8:24], network[24:40]
    else:
        return None
    protocol = IPPROTO.get(number, str(number))
    ports = (
        struct.unpack(">HH", transport[:4]) if protocol in ("TCP", "UDP", "SCTP") and len(transport) >= 4 else (0, 0)
    )
    return Packet(protocol, str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination)), *ports)
