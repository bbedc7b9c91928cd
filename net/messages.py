"""Encode rtnetlink messages with struct: pure bytes, no library, microseconds each.

A pod costs a dozen of them, a node's join three on each peer; built by a general library they would cost more than
the kernel's work.
Names and numbers are linux/rtnetlink.h's. Reading (dumps) is `netlink`'s business.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400
NEW = NLM_F_CREATE | NLM_F_EXCL
PUT = NLM_F_CREATE | NLM_F_REPLACE

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_NET_NS_FD = 1, 3, 4, 18, 28
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_VXLAN_ID, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT, IFLA_VXLAN_LOCAL6 = 1, 4, 7, 15, 17
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_TABLE = 1, 4, 5, 6, 7, 8, 15
RTAX_MTU = 2
NDA_DST, NDA_LLADDR, NDA_IFINDEX = 1, 2, 8
NTF_SELF = 0x02
FRA_SRC, FRA_PRIORITY, FRA_TABLE, FRA_PROTOCOL = 2, 6, 15, 21
FR_ACT_TO_TABLE = 1
IFF_UP = 1
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254
RTN_UNICAST = 1
RTM_F_CLONED = 0x200
RTNH_F_ONLINK = 4

ROUTE_PROTOCOL_NODE = 82
"""Marks routes to other nodes' pods as ours ("R"), so that foreign routes are never touched."""
ROUTE_PROTOCOL_POD = 83
"""Marks routes to this node's own pods."""
ROUTE_TABLE_NODE = 82
"""Holds the ways by which pods, and they alone, reach nodes behind a router."""


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


def set_link(index: int, *, mtu: int = 0, mac: str = "") -> Message:
    """Change a link's MTU or MAC address."""
    body = _link_header(index)
    if mtu:
        body += attribute(IFLA_MTU, _u32(mtu))
    if mac:
        body += attribute(IFLA_ADDRESS, _mac(mac))
    return Message(
        RTM_NEWLINK, 0, body, f"set link {index}" + f" mtu {mtu}" * bool(mtu) + f" address {mac}" * bool(mac)
    )


def create_vxlan(name: str, mac: str, mtu: int, identifier: int, port: int, local: str) -> Message:
    """Make a VXLAN interface that learns nothing by itself and is bound to no link."""
    family, raw = packed(local)
    data = attribute(IFLA_VXLAN_ID, _u32(identifier)) + attribute(IFLA_VXLAN_LEARNING, b"\0")
    data += attribute(IFLA_VXLAN_PORT, struct.pack(">H", port))
    data += attribute(IFLA_VXLAN_LOCAL if family == AF_INET else IFLA_VXLAN_LOCAL6, raw)
    information = attribute(IFLA_INFO_KIND, b"vxlan\0") + attribute(IFLA_INFO_DATA, data)
    body = _link_header() + attribute(IFLA_IFNAME, _name(name)) + attribute(IFLA_ADDRESS, _mac(mac))
    body += attribute(IFLA_MTU, _u32(mtu)) + attribute(IFLA_LINKINFO, information)
    return Message(RTM_NEWLINK, NEW, body, f"create {name} (VXLAN {identifier} on port {port}, local {local})")


def delete_link(name: str, ignore: tuple[int, ...] = ()) -> Message:
    """Delete a link by name."""
    body = _link_header() + attribute(IFLA_IFNAME, _name(name))
    return Message(RTM_DELLINK, 0, body, f"delete link {name}", ignore)


def get_link(name: str = "", index: int = 0) -> Message:
    """Ask for one link by name or by index."""
    body = _link_header(index) + (attribute(IFLA_IFNAME, _name(name)) if name else b"")
    return Message(RTM_GETLINK, 0, body, f"find link {name or index}")


def _address_body(index: int, address: str, prefix_length: int, flags: int, scope: int) -> bytes:
    family, raw = packed(address)
    body = struct.pack("=BBBBI", family, prefix_length, flags, scope, index)
    return body + attribute(IFA_LOCAL, raw) + attribute(IFA_ADDRESS, raw)


def put_address(index: int, address: str, prefix_length: int, scope: int = RT_SCOPE_UNIVERSE) -> Message:
    """Give a link an address, usable at once; one that it has already stays."""
    body = _address_body(index, address, prefix_length, IFA_F_NODAD if ":" in address else 0, scope)
    return Message(RTM_NEWADDR, PUT, body, f"add address {address}/{prefix_length}")


def delete_address(index: int, address: str, prefix_length: int, ignore: tuple[int, ...] = ()) -> Message:
    """Take an address from a link."""
    body = _address_body(index, address, prefix_length, 0, RT_SCOPE_UNIVERSE)
    return Message(RTM_DELADDR, 0, body, f"delete address {address}/{prefix_length}", ignore)


def _route_body(
    network: str,
    index: int,
    gateway: str,
    protocol: int,
    source: str = "",
    metric: int = 0,
    onlink: bool = False,
    mtu: int = 0,
    table: int = RT_TABLE_MAIN,
) -> bytes:
    target = ipaddress.ip_network(network)
    family = AF_INET if target.version == 4 else AF_INET6
    scope = RT_SCOPE_UNIVERSE if gateway else RT_SCOPE_LINK
    flags = RTNH_F_ONLINK if onlink else 0
    body = struct.pack("=BBBBBBBBI", family, target.prefixlen, 0, 0, table, protocol, scope, RTN_UNICAST, flags)
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
    if mtu:
        body += attribute(RTA_METRICS, attribute(RTAX_MTU, _u32(mtu)))
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
    mtu: int = 0,
    table: int = RT_TABLE_MAIN,
) -> Message:
    """Make or replace a route."""
    body = _route_body(network, index, gateway, protocol, source, metric, onlink, mtu, table)
    return Message(RTM_NEWROUTE, PUT, body, f"put route {network}" + (f" via {gateway}" if gateway else ""))


def delete_route(
    network: str,
    index: int,
    gateway: str = "",
    *,
    protocol: int,
    metric: int = 0,
    table: int = RT_TABLE_MAIN,
    ignore: tuple[int, ...] = (),
) -> Message:
    """Delete a route."""
    body = _route_body(network, index, gateway, protocol, metric=metric, table=table)
    return Message(RTM_DELROUTE, 0, body, f"delete route {network}", ignore)


def _neighbour_body(family: int, index: int, state: int, flags: int, address: str, mac: str) -> bytes:
    body = struct.pack("=BxxxiHBB", family, index, state, flags, RTN_UNICAST) + attribute(NDA_DST, packed(address)[1])
    return body + (attribute(NDA_LLADDR, _mac(mac)) if mac else b"")


def put_neighbour(index: int, address: str, mac: str) -> Message:
    """Pin an address to a MAC address for ever, so that nobody asks for it."""
    body = _neighbour_body(packed(address)[0], index, NUD_PERMANENT, 0, address, mac)
    return Message(RTM_NEWNEIGH, PUT, body, f"pin neighbour {address} to {mac}")


def delete_neighbour(index: int, address: str, ignore: tuple[int, ...] = ()) -> Message:
    """Forget a neighbour."""
    body = _neighbour_body(packed(address)[0], index, 0, 0, address, "")
    return Message(RTM_DELNEIGH, 0, body, f"delete neighbour {address}", ignore)


def put_forwarding_entry(index: int, mac: str, destination: str) -> Message:
    """Send frames to a MAC address to one node from a VXLAN interface, and to no other."""
    body = _neighbour_body(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, destination, mac)
    return Message(RTM_NEWNEIGH, PUT, body, f"forward {mac} to {destination}")


def delete_forwarding_entry(index: int, mac: str, destination: str, ignore: tuple[int, ...] = ()) -> Message:
    """Forget where frames to a MAC address were sent."""
    body = _neighbour_body(AF_BRIDGE, index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, destination, mac)
    return Message(RTM_DELNEIGH, 0, body, f"no longer forward {mac} to {destination}", ignore)


def _rule_body(source: str, table: int, priority: int, protocol: int) -> bytes:
    network = ipaddress.ip_network(source)
    family = AF_INET if network.version == 4 else AF_INET6
    body = struct.pack("=BBBBBBBBI", family, 0, network.prefixlen, 0, table, 0, 0, FR_ACT_TO_TABLE, 0)
    body += attribute(FRA_SRC, network.network_address.packed) + attribute(FRA_PRIORITY, _u32(priority))
    return body + attribute(FRA_PROTOCOL, bytes([protocol]))


def put_rule(source: str, table: int, priority: int, protocol: int, ignore: tuple[int, ...] = ()) -> Message:
    """Lead packets from a network to a table before the tables of lower priority are asked."""
    body = _rule_body(source, table, priority, protocol)
    return Message(RTM_NEWRULE, NEW, body, f"lead packets from {source} to table {table}", ignore)


def delete_rule(source: str, table: int, priority: int, protocol: int, ignore: tuple[int, ...] = ()) -> Message:
    """Remove such a rule."""
    body = _rule_body(source, table, priority, protocol)
    return Message(RTM_DELRULE, 0, body, f"no longer lead packets from {source} to table {table}", ignore)
