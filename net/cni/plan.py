"""Say how a pod's interface shall be: names, addresses, and the netlink requests that make it so: pure.

Point to point, the default: a veth pair, one address of each family, a route each way, no bridge.

    pod:  eth0 10.244.1.7/32   default via 169.254.1.1 dev eth0   169.254.1.1 is ee:ee:ee:ee:ee:ee
               fd00:1::7/128   default via fe80::ecee:eeff:feee:eeee
    node: raft1a2b3c4d5e6      10.244.1.7/32 dev raft1a2b3c4d5e6  10.244.1.7 is <the pod's MAC>

The IPv4 gateway's address stands on no interface: the neighbour entries are pinned on both ends, and
proxy_arp answers whoever asks nevertheless. The IPv6 one is the link-local address of every node end.

With a bridge: the node's ends are its ports, the pod's addresses carry the range's length, and the
gateways, each range's first host, stand on the bridge. A port sends back what it received (hairpin),
for a pod that reaches itself by a Service.

Names and MAC addresses follow from the container id, so that a repeated call finds what an earlier
one left, whole or in pieces.
"""

from __future__ import annotations

import hashlib
import ipaddress
from base64 import b32encode
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from net import link_messages, messages
from net.cni.bandwidth import UNLIMITED, Bandwidth
from net.ipam.allocator import Attachment
from net.link_messages import FORWARDING, PROXY_ARP, RP_FILTER, SEND_REDIRECTS
from net.messages import Message

GATEWAYS = {4: "169.254.1.1", 6: "fe80::ecee:eeff:feee:eeee"}
HOST_MAC = "ee:ee:ee:ee:ee:ee"
HOST_PREFIX = "raft"
NAME_LENGTH_MAX = 15
NAMES_CACHED_MAX = 1024
DEFAULTS = {4: "0.0.0.0/0", 6: "::/0"}
BRIDGE_NAME = "cni0"
BRIDGE_MAC = "ee:ee:ee:ee:ee:e0"


def version_of(address: str) -> int:
    """Return an address's IP version."""
    return 6 if ":" in address else 4


@dataclass(frozen=True, slots=True)
class Bridge:
    """Hold the node's bridge: its name, and its addresses with their ranges' length ("10.244.1.1/24")."""

    name: str
    gateways: tuple[str, ...]


def bridge_of(ranges: Iterable[str]) -> Bridge:
    """Return the bridge for a node's pod CIDRs; each one's first host is the gateway."""
    networks = [ipaddress.ip_network(cidr) for cidr in ranges]
    return Bridge(
        BRIDGE_NAME, tuple(f"{network[min(1, network.num_addresses - 1)]}/{network.prefixlen}" for network in networks)
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Hold one address of an interface as the pod has it."""

    address: str
    prefix_length: int
    gateway: str

    @property
    def version(self) -> int:
        """The IP version."""
        return version_of(self.address)


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold what one interface shall be."""

    attachment: Attachment
    namespace_path: str
    addresses: tuple[str, ...]
    mtu: int
    bridge: Bridge | None = None
    bandwidth: Bandwidth = UNLIMITED

    @property
    def host_interface(self) -> str:
        """The name of the node's end."""
        return host_interface(self.attachment)

    @property
    def mac(self) -> str:
        """The MAC address of the pod's end, locally administered."""
        return _mac_of(self.attachment)

    @property
    def places(self) -> tuple[Place, ...]:
        """The addresses with their length and gateway."""
        return tuple(self._place(address) for address in self.addresses)

    def _place(self, address: str) -> Place:
        version = version_of(address)
        for gateway, _, length in (text.partition("/") for text in (self.bridge.gateways if self.bridge else ())):
            if version_of(gateway) == version:
                return Place(address, int(length), gateway)
        return Place(address, 32 if version == 4 else 128, GATEWAYS[version])

    @property
    def has_ipv6(self) -> bool:
        """Whether one of the addresses is IPv6."""
        return any(":" in address for address in self.addresses)


def _identity(attachment: Attachment) -> bytes:
    return f"{attachment.container_id}/{attachment.interface}".encode()


@lru_cache(maxsize=NAMES_CACHED_MAX)
def _mac_of(attachment: Attachment) -> str:
    digest = hashlib.sha256(_identity(attachment) + b"/mac").digest()
    return ":".join(f"{byte:02x}" for byte in bytes([digest[0] & 0xFC | 0x02]) + digest[1:6])


@lru_cache(maxsize=NAMES_CACHED_MAX)
def host_interface(attachment: Attachment) -> str:
    """Return the name of the node's end of an attachment."""
    digest = b32encode(hashlib.sha256(_identity(attachment)).digest()).decode().lower()
    return (HOST_PREFIX + digest)[:NAME_LENGTH_MAX]


def link_local(mac: str) -> str:
    """Return the IPv6 link-local address that belongs to a MAC address."""
    raw = bytes.fromhex(mac.replace(":", ""))
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:]))


def creation(plan: Plan, index: int, namespace: int) -> Message:
    """Return the request that makes the pair, `index` here and `index + 1` in the pod's namespace."""
    return link_messages.create_veth_at(
        index, plan.host_interface, HOST_MAC, plan.attachment.interface, plan.mac, namespace, plan.mtu
    )


def node_end(plan: Plan, index: int, bridge_index: int = 0) -> list[Message]:
    """Return what makes the node's end work, once the pair is made."""
    wanted = [link_messages.without_own_ipv6_address(index)]
    if plan.bridge is not None:
        wanted += link_messages.join_bridge(index, bridge_index, hairpin=True)
        return [*wanted, messages.set_up(index)]
    # Strict reverse path: no packet of a pod under an address that is not its own.
    sysctls = {FORWARDING: 1, PROXY_ARP: 1, RP_FILTER: 1, SEND_REDIRECTS: 0}
    wanted += [link_messages.set_ipv4(index, sysctls), messages.set_up(index)]
    if plan.has_ipv6:
        wanted.append(messages.put_address(index, GATEWAYS[6], 64))
        wanted.append(messages.put_neighbour(index, link_local(plan.mac), plan.mac))
    for place in plan.places:
        target = f"{place.address}/{place.prefix_length}"
        wanted.append(messages.put_route(target, index, protocol=messages.ROUTE_PROTOCOL_POD))
        wanted.append(messages.put_neighbour(index, place.address, plan.mac))
    return wanted


def pod_end(plan: Plan, index: int) -> list[Message]:
    """Return what makes the pod's end work, to be sent inside the pod's namespace."""
    wanted = [
        messages.set_up(1),
        link_messages.without_own_ipv6_address(index),
    ]
    if plan.has_ipv6:
        wanted.append(messages.put_address(index, link_local(plan.mac), 64))
    wanted += [messages.put_address(index, place.address, place.prefix_length) for place in plan.places]
    wanted.append(messages.set_up(index))
    for place in plan.places:
        if plan.bridge is None:
            if place.version == 4:
                wanted.append(messages.put_route(f"{place.gateway}/32", index))
            wanted.append(messages.put_neighbour(index, place.gateway, HOST_MAC))
        wanted.append(messages.put_route(DEFAULTS[place.version], index, place.gateway))
    return wanted
