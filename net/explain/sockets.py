"""Read /proc/net's tables of sockets: which ports somebody waits at. Pure."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import NamedTuple

TCP_LISTEN, UDP_UNCONNECTED = "0A", "07"
FILES = {"tcp": "TCP", "tcp6": "TCP", "udp": "UDP", "udp6": "UDP"}
"""The files below /proc/net, and the protocol of each."""


class Waiting(NamedTuple):
    """Hold one socket that waits for clients."""

    protocol: str
    address: str
    port: int

    def takes(self, protocol: str, address: str, port: int) -> bool:
        """Tell whether a packet to this address and port is for it."""
        if (protocol, port) != (self.protocol, self.port):
            return False
        own = ipaddress.ip_address(self.address)
        mapped = own.ipv4_mapped if isinstance(own, ipaddress.IPv6Address) else None
        if own.is_unspecified:
            # [::] takes IPv4 too, unless the program asked for IPv6 alone, which /proc does not tell.
            return own.version == 6 or ":" not in address
        return str(mapped or own) == str(ipaddress.ip_address(address))


def parse(protocol: str, lines: Iterable[str]) -> list[Waiting]:
    """Read one of the tables."""
    wanted = TCP_LISTEN if protocol == "TCP" else UDP_UNCONNECTED
    found = []
    for line in lines:
        words = line.split()
        if len(words) < 4 or words[3] != wanted or ":" not in words[1]:
            continue
        host, _, port = words[1].partition(":")
        found.append(Waiting(protocol, _address(host), int(port, 16)))
    return found


def _address(digits: str) -> str:
    """Read an address, whose 32-bit words the kernel prints in the machine's own order."""
    raw = bytes.fromhex(digits)
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))
