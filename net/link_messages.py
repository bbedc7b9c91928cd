"""Encode what a link can be told beyond `messages`: bridges and their ports, per-link sysctls, addresses: pure.

The kernel takes a link's IPv4 sysctls (net/ipv4/conf/NAME/…) by netlink too, so they ride in the batch that
makes the link instead of costing an open, a write and a close each.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from net.messages import (
    AF_INET,
    AF_INET6,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    NEW,
    RTM_NEWLINK,
    VETH_INFO_PEER,
    Message,
    attribute,
)

IFLA_MASTER, IFLA_AF_SPEC = 10, 26
IFLA_INET_CONF = 1
IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE = 8, 1
IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA, IFLA_BRPORT_MODE = 4, 5, 4

FORWARDING, PROXY_ARP, SEND_REDIRECTS, RP_FILTER = 1, 3, 6, 8
"""Numbers of net/ipv4/conf/NAME/… as linux/ip.h has them."""
WITHOUT_IPV6 = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)


def _header(index: int = 0) -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, 0, 0)


def _u32(number: int) -> bytes:
    return struct.pack("=I", number)


def _name(name: str) -> bytes:
    return name.encode() + b"\0"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def create_veth_at(
    index: int, host: str, host_mac: str, peer: str, peer_mac: str, peer_namespace: int, mtu: int
) -> Message:
    """Make a veth pair with numbers of our choice, `index` here and `index + 1` for the peer in its namespace.

    They must differ: the kernel takes a link that is its own peer's number for one without a peer, and
    reports its carrier up to a second late.
    """
    inside = _header(index + 1) + attribute(IFLA_IFNAME, _name(peer)) + attribute(IFLA_ADDRESS, _mac(peer_mac))
    inside += attribute(IFLA_NET_NS_FD, _u32(peer_namespace)) + attribute(IFLA_MTU, _u32(mtu))
    data = attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, inside))
    body = _header(index) + attribute(IFLA_IFNAME, _name(host)) + attribute(IFLA_ADDRESS, _mac(host_mac))
    body += attribute(IFLA_MTU, _u32(mtu)) + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"veth\0") + data)
    return Message(RTM_NEWLINK, NEW, body, f"create veth {host} with peer {peer}")


def create_bridge(name: str, mac: str, mtu: int) -> Message:
    """Make a bridge; one that stands already stays as it is."""
    body = _header() + attribute(IFLA_IFNAME, _name(name)) + attribute(IFLA_ADDRESS, _mac(mac))
    body += attribute(IFLA_MTU, _u32(mtu)) + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, b"bridge\0"))
    return Message(RTM_NEWLINK, NEW, body, f"create bridge {name}", (errno.EEXIST,))


def join_bridge(index: int, bridge_index: int, hairpin: bool) -> tuple[Message, Message]:
    """Make a link a bridge's port; with hairpin, what comes in may go out there again."""
    port = attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0")
    port += attribute(IFLA_INFO_SLAVE_DATA, attribute(IFLA_BRPORT_MODE, bytes([hairpin])))
    return (
        Message(
            RTM_NEWLINK, 0, _header(index) + attribute(IFLA_MASTER, _u32(bridge_index)), f"put link {index} on a bridge"
        ),
        Message(RTM_NEWLINK, 0, _header(index) + attribute(IFLA_LINKINFO, port), f"set hairpin mode of link {index}"),
    )


def set_ipv4(index: int, values: Mapping[int, int]) -> Message:
    """Set sysctls net/ipv4/conf/NAME/… of a link by their numbers."""
    listed = b"".join(attribute(number, _u32(value)) for number, value in values.items())
    body = _header(index) + attribute(IFLA_AF_SPEC, attribute(AF_INET, attribute(IFLA_INET_CONF, listed)))
    return Message(RTM_NEWLINK, 0, body, f"set sysctls of link {index}")


def without_own_ipv6_address(index: int) -> Message:
    """Keep the kernel from giving a link a link-local address when it goes up; a kernel without IPv6 never does."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([ADDR_GEN_MODE_NONE]))
    body = _header(index) + attribute(IFLA_AF_SPEC, attribute(AF_INET6, mode))
    return Message(RTM_NEWLINK, 0, body, f"set address generation of link {index}", WITHOUT_IPV6)
