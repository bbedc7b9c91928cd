"""Encode the rtnetlink messages of hot paths with struct: pure bytes, no library, microseconds each.

A pod costs a dozen of them; built by a general library they would cost more than the kernel's work.
Names and numbers are linux/rtnetlink.h's. Reading (dumps) is `netlink`'s business.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH = 28
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NEW = NLM_F_CREATE | NLM_F_EXCL
PUT = NLM_F_CREATE | NLM_F_REPLACE

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_TABLE = 1, 4, 5, 6, 7, 15
NDA_DST, NDA_LLADDR = 1, 2
IFF_UP = 1
NUD_PERMANENT = 0x80
RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RTN_UNICAST = 1
RTNH_F_ONLINK = 4

ROUTE_PROTOCOL_NODE = 82
"""Marks routes to other nodes' pods as ours ("R"), so that foreign routes are never touched."""
ROUTE_PROTOCOL_POD = 83
"""Marks routes to this node's own pods."""


@dataclass(frozen=True, slots=True)
class Message:
    """Hold one request: its kind, flags and body, and words for an error's text."""

    kind: int
    flags: int
    body: bytes
    about: str
    ignore: tuple[int, ...] = ()
    """Error numbers that mean the wish is fulfilled already."""


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def packed(address: str) -> tuple[int, bytes]:
    """Return an address's family and bytes."""
    parsed = ipaddress.ip_address(address)
    return (AF_INET if parsed.version == 4 else AF_INET6), parsed.packed


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def _name(name: str) -> bytes:
    return name.encode() + b"\0"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _link_header(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", AF_UNSPEC, 0, index, flags, change)


def create_veth(host: str, host_mac: str, peer: str, peer_mac: str, peer_namespace: int, mtu: int) -> Message:
    """Make a veth pair with its peer straight in another network namespace."""
    inside = _link_header() + attribute(IFLA_IFNAME, _name(peer)) + attribute(IFLA_ADDRESS, _mac(peer_mac))
    inside += attribute(IFLA_NET_NS_FD, _u32(peer_namespace)) + attribute(IFLA_MTU, _u32(mtu))
    data = attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, inside))
    body = _link_header() + attribute(IFLA_IFNAME, _name(host)) + attribute(IFLA_ADDRESS, _mac(host_mac))
    body += attribute(IFLA_MTU, _u32(mtu)) + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth\0") + data)
    return Message(RTM_NEWLINK, NEW, body, f"create veth {host} with peer {peer}")


def set_up(index: int) -> Message:
    """Set a link up."""
    return Message(RTM_NEWLINK, 0, _link_header(index, IFF_UP, IFF_UP), f"set link {index} up")


def delete_link(name: str, ignore: tuple[int, ...] = ()) -> Message:
    """Delete a link by name."""
    body = _link_header() + attribute(IFLA_IFNAME, _name(name))
    return Message(RTM_DELLINK, 0, body, f"delete link {name}", ignore)


def get_link(name: str) -> Message:
    """Ask for one link by name."""
    return Message(RTM_GETLINK, 0, _link_header() + attribute(IFLA_IFNAME, _name(name)), f"find link {name}")


def put_address(index: int, address: str, prefix_length: int, scope: int = RT_SCOPE_UNIVERSE) -> Message:
    """Give a link an address; one that it has already stays."""
    family, raw = packed(address)
    body = struct.pack("=BBBBI", family, prefix_length, 0, scope, index)
    body += attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)
    return Message(RTM_NEWADDR, PUT, body, f"add address {address}/{prefix_length}")


def _route_body(network: str, index: int, gateway: str, protocol: int, source: str, metric: int, onlink: bool) -> bytes:
    target = ipaddress.ip_network(network)
    family = AF_INET if target.version == 4 else AF_INET6
    scope = RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK
    flags = RTNH_F_ONLINK if onlink else 0
    body = struct.pack("=BBBBBBBBI", family, target.prefixlen, 0, 0, RT_TABLE_MAIN, protocol, scope, RTN_UNICAST, flags)
    if target.prefixlen:
        body += attribute(RTA_DST, target.network_address.packed)
    if gateway:
        body += attribute(RTA_GATEWAY, packed(gateway)[1])
    if index:
        body += attribute(RTA_OIF, _u32(index))
    if source:
        body += attribute(RTA_PREFSRC, packed(source)[1])
    if metric:
        body += attribute(RTA_PRIORITY, _u32(metric))
    return body


def put_route(
    network: str,
    index: int,
    gateway: str = "",
    *,
    protocol: int = ROUTE_PROTOCOL_POD,
    source: str = "",
    metric: int = 0,
    onlink: bool = False,
) -> Message:
    """Make or replace a route."""
    body = _route_body(network, index, gateway, protocol, source, metric, onlink)
    return Message(RTM_NEWROUTE, PUT, body, f"put route {network}" + (f" via {gateway}" if gateway else ""))


def delete_route(
    network: str,
    index: int,
    gateway: str = "",
    *,
    protocol: int,
    metric: int = 0,
    ignore: tuple[int, ...] = (),
) -> Message:
    """Delete a route."""
    body = _route_body(network, index, gateway, protocol, "", metric, False)
    return Message(RTM_DELROUTE, 0, body, f"delete route {network}", ignore)


def put_neighbour(index: int, address: str, mac: str) -> Message:
    """Pin an address to a MAC address for ever, so that nobody asks for it."""
    family, raw = packed(address)
    body = struct.pack("=BxxxiHBB", family, index, NUD_PERMANENT, 0, RTN_UNICAST)
    body += attribute(NDA_DST, raw) + attribute(NDA_LLADDR, _mac(mac))
    return Message(RTM_NEWNEIGH, PUT, body, f"pin neighbour {address} to {mac}")
