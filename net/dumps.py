"""Decode what rtnetlink tells of addresses, routes, neighbours and rules: pure, by hand.

A node may have thousands of other people's routes, and each change asks again; a general decoder takes a
hundred times as long. Each function takes a whole message and returns None for what is none of our business.
"""

from __future__ import annotations

import socket
import struct

from net import messages
from net.links import Address, Event, ForwardingEntry, Neighbour, Route, RoutingRule

HEADER = struct.Struct("=IHHII")
IPV6_METRIC = 1024
"""What the kernel gives to an IPv6 route that was made without a metric."""
DELETIONS = frozenset(
    {messages.RTM_DELLINK, messages.RTM_DELADDR, messages.RTM_DELROUTE, messages.RTM_DELNEIGH, messages.RTM_DELRULE}
)
ADDRESS_BYTES: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}


def attributes(data: bytes, offset: int) -> dict[int, bytes]:
    """Return the attributes from an offset on, by kind without flags."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, offset)
        found[kind & 0x3FFF] = data[offset + 4 : offset + size]
        offset += max(4, size + 3 & ~3)
    return found


def _u32(found: dict[int, bytes], kind: int, default: int = 0) -> int:
    raw = found.get(kind)
    return int(struct.unpack("=I", raw)[0]) if raw is not None else default


def _text(family: int, raw: bytes | None) -> str:
    return socket.inet_ntop(family, raw) if raw and len(raw) == ADDRESS_BYTES.get(family, 0) else ""


def _mac(raw: bytes | None) -> str:
    return raw.hex(":") if raw and len(raw) == 6 else ""


def address(data: bytes) -> Address | None:
    """Decode an address."""
    family, length, _, _, index = struct.unpack_from("=BBBBI", data, HEADER.size)
    found = attributes(data, HEADER.size + 8)
    text = _text(family, found.get(messages.IFA_LOCAL) or found.get(messages.IFA_ADDRESS))
    return Address(index, text, length) if text else None


def route(data: bytes) -> Route | None:
    """Decode a unicast route with one way."""
    start = HEADER.size
    family, length, _, _, table, protocol, _, kind, flags = struct.unpack_from("=8BI", data, start)
    if kind != messages.RTN_UNICAST or family not in ADDRESS_BYTES or flags & messages.RTM_F_CLONED:
        return None
    found = attributes(data, start + 12)
    metric = _u32(found, messages.RTA_PRIORITY)
    metrics = found.get(messages.RTA_METRICS)
    target = found.get(messages.RTA_DST) or bytes(ADDRESS_BYTES[family])
    return Route(
        network=f"{_text(family, target)}/{length}",
        index=_u32(found, messages.RTA_OIF),
        gateway=_text(family, found.get(messages.RTA_GATEWAY)),
        protocol=protocol,
        metric=0 if family == socket.AF_INET6 and metric == IPV6_METRIC else metric,
        source=_text(family, found.get(messages.RTA_PREFSRC)),
        mtu=_u32(attributes(metrics, 0), messages.RTAX_MTU) if metrics else 0,
        table=_u32(found, messages.RTA_TABLE, table),
        is_onlink=bool(flags & messages.RTNH_F_ONLINK),
    )


def neighbour(data: bytes) -> Neighbour | None:
    """Decode a neighbour; multicast groups and the like, which need no question, are none."""
    family, index, state, _, _ = struct.unpack_from("=BxxxiHBB", data, HEADER.size)
    if state & messages.NUD_NOARP:
        return None
    found = attributes(data, HEADER.size + 12)
    text = _text(family, found.get(messages.NDA_DST))
    mac = _mac(found.get(messages.NDA_LLADDR))
    return Neighbour(index, text, mac, bool(state & messages.NUD_PERMANENT)) if text else None


def forwarding_entry(data: bytes) -> ForwardingEntry | None:
    """Decode where a VXLAN interface sends frames to a MAC address."""
    _, index, _, _, _ = struct.unpack_from("=BxxxiHBB", data, HEADER.size)
    found = attributes(data, HEADER.size + 12)
    raw = found.get(messages.NDA_DST)
    mac = _mac(found.get(messages.NDA_LLADDR))
    if not raw or not mac:
        return None
    return ForwardingEntry(index, mac, _text(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw))


def rule(data: bytes) -> RoutingRule | None:
    """Decode a rule that leads from a network to a table."""
    family, _, length, _, table, _, _, action, _ = struct.unpack_from("=8BI", data, HEADER.size)
    found = attributes(data, HEADER.size + 12)
    source = _text(family, found.get(messages.FRA_SRC))
    if action != messages.FR_ACT_TO_TABLE or not source:
        return None
    protocol = found.get(messages.FRA_PROTOCOL) or b"\0"
    table = _u32(found, messages.FRA_TABLE, table)
    return RoutingRule(f"{source}/{length}", table, _u32(found, messages.FRA_PRIORITY), protocol[0])


def event(kind: int, data: bytes) -> Event | None:
    """Decode a notification; those of link-local IPv6, which come with each pod's interface, are none."""
    start = HEADER.size
    is_gone = kind in DELETIONS
    match kind:
        case messages.RTM_NEWLINK | messages.RTM_DELLINK:
            return Event("link", index=struct.unpack_from("=i", data, start + 4)[0], is_gone=is_gone)
        case messages.RTM_NEWADDR | messages.RTM_DELADDR:
            found = address(data)
            if found is None or found.address.startswith("fe80:"):
                return None
            return Event("address", index=found.index, what=found, is_gone=is_gone)
        case messages.RTM_NEWROUTE | messages.RTM_DELROUTE:
            return _route_event(data, start, is_gone)
        case messages.RTM_NEWNEIGH | messages.RTM_DELNEIGH:
            what = forwarding_entry(data) if data[start] == messages.AF_BRIDGE else neighbour(data)
            index = struct.unpack_from("=i", data, start + 4)[0]
            return Event("neighbour", index=index, what=what, is_gone=is_gone)
        case messages.RTM_NEWRULE | messages.RTM_DELRULE:
            return Event("rule", protocol=(attributes(data, start + 12).get(messages.FRA_PROTOCOL) or b"\0")[0])
    return None


def _route_event(data: bytes, start: int, is_gone: bool) -> Event | None:
    table, protocol = data[start + 4], data[start + 5]
    (flags,) = struct.unpack_from("=I", data, start + 8)
    if table not in (messages.RT_TABLE_MAIN, messages.ROUTE_TABLE_NODE) or flags & messages.RTM_F_CLONED:
        return None
    if protocol == messages.ROUTE_PROTOCOL_POD:
        return Event("route", protocol=protocol, is_gone=is_gone)
    found = route(data)
    if found is not None and found.network.startswith(("fe80:", "ff00:")):
        return None
    return Event("route", protocol=protocol, what=found, is_gone=is_gone)
