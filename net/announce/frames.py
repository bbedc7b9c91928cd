"""PURE: ARP (RFC 826) and neighbour discovery (RFC 4861) as bytes on an Ethernet link."""

from __future__ import annotations

import ipaddress
import struct
from typing import NamedTuple

ETHERTYPE_ARP, ETHERTYPE_IPV6 = 0x0806, 0x86DD
ARP_REQUEST, ARP_REPLY = 1, 2
ARP = struct.Struct("!HHBBH6s4s6s4s")
ETHERNET = struct.Struct("!6s6sH")
IPV6 = struct.Struct("!IHBB16s16s")
ICMPV6, NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 58, 135, 136
OPTION_SOURCE, OPTION_TARGET = 1, 2
FLAG_SOLICITED, FLAG_OVERRIDE = 0x40000000, 0x20000000
HOPS = 255
"""What was not sent by a neighbour cannot have it any more."""
BROADCAST = b"\xff" * 6
NO_MAC = bytes(6)
ALL_NODES = ipaddress.IPv6Address("ff02::1").packed
FRAME_MIN = 60


class Asked(NamedTuple):
    """Somebody asks who has an address."""

    address: str
    mac: bytes
    """The asker's."""
    source: bytes
    """The asker's packed address; of zeros where it looks whether the address is in use."""


def parse(frame: bytes) -> Asked | None:
    """Read a question of either family; None for any other frame."""
    if len(frame) < ETHERNET.size:
        return None
    _, _, kind = ETHERNET.unpack_from(frame)
    if kind == ETHERTYPE_ARP:
        return _parse_arp(frame[ETHERNET.size :])
    if kind == ETHERTYPE_IPV6:
        return _parse_solicitation(frame)
    return None


def _parse_arp(body: bytes) -> Asked | None:
    if len(body) < ARP.size:
        return None
    hardware, protocol, mac_size, size, operation, mac, source, _, target = ARP.unpack_from(body)
    if (hardware, protocol, mac_size, size, operation) != (1, 0x0800, 6, 4, ARP_REQUEST):
        return None
    if source == target:
        return None  # an announcement of another node's, not a question
    return Asked(str(ipaddress.IPv4Address(target)), mac, source)


def _parse_solicitation(frame: bytes) -> Asked | None:
    start = ETHERNET.size
    if len(frame) < start + IPV6.size + 24:
        return None
    _, length, following, hops, source, _ = IPV6.unpack_from(frame, start)
    body = frame[start + IPV6.size : start + IPV6.size + length]
    if following != ICMPV6 or hops != HOPS or len(body) < 24 or body[:2] != bytes((NEIGHBOUR_SOLICITATION, 0)):
        return None
    mac, offset = frame[6:12], 24
    while offset + 8 <= len(body) and body[offset + 1]:
        if body[offset] == OPTION_SOURCE:
            mac = body[offset + 2 : offset + 8]
        offset += body[offset + 1] * 8
    return Asked(str(ipaddress.IPv6Address(body[8:24])), mac, source)


def _ethernet(target: bytes, own: bytes, kind: int, body: bytes) -> bytes:
    frame = ETHERNET.pack(target, own, kind) + body
    return frame + bytes(max(0, FRAME_MIN - len(frame)))


def _checksum(source: bytes, target: bytes, body: bytes) -> bytes:
    data = source + target + struct.pack("!II", len(body), ICMPV6) + body
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def _advertisement(address: bytes, own: bytes, target: bytes, target_mac: bytes, flags: int) -> bytes:
    body = struct.pack("!BBHI", NEIGHBOUR_ADVERTISEMENT, 0, 0, flags) + address + bytes((OPTION_TARGET, 1)) + own
    body = body[:2] + _checksum(address, target, body) + body[4:]
    packet = IPV6.pack(0x60000000, len(body), ICMPV6, HOPS, address, target) + body
    return _ethernet(target_mac, own, ETHERTYPE_IPV6, packet)


def answer(asked: Asked, own: bytes) -> bytes:
    """Say that an address is ours, to who asked."""
    address = ipaddress.ip_address(asked.address)
    if address.version == 4:
        body = ARP.pack(1, 0x0800, 6, 4, ARP_REPLY, own, address.packed, asked.mac, asked.source)
        return _ethernet(asked.mac, own, ETHERTYPE_ARP, body)
    if any(asked.source):
        return _advertisement(address.packed, own, asked.source, asked.mac, FLAG_SOLICITED | FLAG_OVERRIDE)
    return _advertisement(address.packed, own, ALL_NODES, multicast_mac(ALL_NODES), FLAG_OVERRIDE)


def announcements(address: str, own: bytes) -> list[bytes]:
    """Say that an address is ours now, to everybody: as a request and as a reply, since some heed only one of them."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 6:
        return [_advertisement(parsed.packed, own, ALL_NODES, multicast_mac(ALL_NODES), FLAG_OVERRIDE)]
    return [
        _ethernet(BROADCAST, own, ETHERTYPE_ARP, ARP.pack(1, 0x0800, 6, 4, kind, own, parsed.packed, to, parsed.packed))
        for kind, to in ((ARP_REQUEST, NO_MAC), (ARP_REPLY, BROADCAST))
    ]


def multicast_mac(address: bytes) -> bytes:
    """Return the Ethernet address of an IPv6 multicast group."""
    return b"\x33\x33" + address[12:]


def solicited_node(address: str) -> bytes:
    """Return the packed group at which an IPv6 address is asked for."""
    return ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13] + ipaddress.IPv6Address(address).packed[13:]
