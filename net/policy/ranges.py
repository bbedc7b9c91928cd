"""Sets of numbers as sorted, disjoint ranges: addresses of IP blocks, and ports. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Range = tuple[int, int]
"""First and last, both within."""
Ranges = tuple[Range, ...]
PORTS_ALL: Ranges = ((0, 65535),)
ADDRESSES_ALL: dict[int, Ranges] = {4: ((0, 2**32 - 1),), 6: ((0, 2**128 - 1),)}


def merged(ranges: Iterable[Range]) -> Ranges:
    """Return the union: sorted, and neighbours joined."""
    joined: list[Range] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def without(whole: Range, holes: Iterable[Range]) -> Ranges:
    """Return what is left of a range."""
    left: list[Range] = []
    first, last = whole
    for hole_first, hole_last in merged(holes):
        if hole_last < first or hole_first > last:
            continue
        if first < hole_first:
            left.append((first, hole_first - 1))
        first = hole_last + 1
    if first <= last:
        left.append((first, last))
    return tuple(left)


def of_block(cidr: str, excepted: Iterable[str]) -> tuple[int, Ranges]:
    """Return the IP version of a block and the addresses that it means; raises ValueError."""
    network = ipaddress.ip_network(cidr, strict=False)
    holes = [ipaddress.ip_network(text, strict=False) for text in excepted]
    strangers = [str(hole) for hole in holes if hole.version != network.version]
    if strangers:
        raise ValueError(f"{strangers[0]} is of another IP version than {cidr}")
    ends = [(int(hole.network_address), int(hole.broadcast_address)) for hole in holes]
    return network.version, without((int(network.network_address), int(network.broadcast_address)), ends)


def address_text(ip_version: int, found: Range) -> str:
    """Return a range of addresses as nft writes it: one address, a network, or from-to."""
    kind = ipaddress.IPv4Address if ip_version == 4 else ipaddress.IPv6Address
    first, last = kind(found[0]), kind(found[1])
    if first == last:
        return str(first)
    size = found[1] - found[0] + 1
    if size & (size - 1) == 0 and found[0] % size == 0:
        return f"{first}/{kind(0).max_prefixlen - size.bit_length() + 1}"
    return f"{first}-{last}"


def port_text(found: Range) -> str:
    """Return a range of ports as nft writes it."""
    return str(found[0]) if found[0] == found[1] else f"{found[0]}-{found[1]}"
