"""Tell a network that an address has a new owner: gratuitous ARP and unsolicited neighbour advertisements, pure.

Whoever still has the address under a dead pod's MAC address takes the new one from them.
"""

from __future__ import annotations

import ipaddress
import struct

ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ARP_REQUEST = 1
ICMPV6, NEIGHBOUR_ADVERTISEMENT, TARGET_LINK_ADDRESS = 58, 136, 2
OVERRIDE = 0x20000000
BROADCAST, ALL_NODES_MAC = b"\xff" * 6, bytes.fromhex("333300000001")
ALL_NODES = ipaddress.IPv6Address("ff02::1").packed


def announcement(mac: str, address: str) -> bytes:
    """Return the Ethernet frame that announces an address of either family."""
    own = bytes.fromhex(mac.replace(":", ""))
    raw = ipaddress.ip_address(address).packed
    if len(raw) == 4:
        head = BROADCAST + own + struct.pack(">H", ETHERTYPE_ARP)
        return head + struct.pack(">HHBBH", 1, 0x0800, 6, 4, ARP_REQUEST) + own + raw + bytes(6) + raw
    body = struct.pack(">I", OVERRIDE) + raw + bytes((TARGET_LINK_ADDRESS, 1)) + own
    checksum = _checksum(raw + ALL_NODES + struct.pack(">II", 4 + len(body), ICMPV6) + b"\x88\0\0\0" + body)
    message = struct.pack(">BBH", NEIGHBOUR_ADVERTISEMENT, 0, checksum) + body
    packet = struct.pack(">IHBB", 6 << 28, len(message), ICMPV6, 255) + raw + ALL_NODES + message
    return ALL_NODES_MAC + own + struct.pack(">H", ETHERTYPE_IPV6) + packet


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
