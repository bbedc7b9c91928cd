"""Make and remove a pod's interface: a veth pair, one address, a route each way, no bridge.

    pod:  eth0 10.244.1.7/32   default via 169.254.1.1 dev eth0   169.254.1.1 is ee:ee:ee:ee:ee:ee
    node: raft1a2b3c4d5e6      10.244.1.7/32 dev raft1a2b3c4d5e6  10.244.1.7 is <the pod's MAC>

The gateway's address stands on no interface: the neighbour entries are pinned on both ends, and
proxy_arp answers whoever asks nevertheless. Names and MAC addresses follow from the container id,
so that a repeated call finds what an earlier one left, whole or in pieces.

All functions block and may stand in another namespace for a moment: call them in a worker thread.
"""

from __future__ import annotations

import errno
import hashlib
import os
from base64 import b32encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from net import messages
from net.ipam.allocator import Attachment
from net.netlink import NetlinkError, RouteSocket, inside, write_sysctl
from net.routes import mtu

GATEWAY = "169.254.1.1"
HOST_MAC = "ee:ee:ee:ee:ee:ee"
HOST_PREFIX = "raft"
NAME_LENGTH_MAX = 15
ALREADY_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH)


@dataclass(frozen=True, slots=True)
class Plan:
    """Hold what one interface shall be."""

    attachment: Attachment
    namespace_path: str
    address: str
    mtu: int

    @property
    def host_interface(self) -> str:
        """The name of the node's end."""
        return host_interface(self.attachment)

    @property
    def mac(self) -> str:
        """The MAC address of the pod's end, locally administered."""
        digest = hashlib.sha256(_identity(self.attachment) + b"/mac").digest()
        return ":".join(f"{byte:02x}" for byte in bytes([digest[0] & 0xFC | 0x02]) + digest[1:6])


def _identity(attachment: Attachment) -> bytes:
    return f"{attachment.container_id}/{attachment.interface}".encode()


def host_interface(attachment: Attachment) -> str:
    """Return the name of the node's end of an attachment."""
    digest = b32encode(hashlib.sha256(_identity(attachment)).digest()).decode().lower()
    return (HOST_PREFIX + digest)[:NAME_LENGTH_MAX]


@contextmanager
def opened_namespace(path: str) -> Iterator[int]:
    """Open a network namespace by its path."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def attach(plan: Plan) -> None:
    """Wire an interface; one that stands is left alone, the pieces of a torn attempt are replaced."""
    with opened_namespace(plan.namespace_path) as namespace, RouteSocket() as node:
        if not verify_in(plan, namespace, node):
            return
        node.batch([messages.delete_link(plan.host_interface, ignore=ALREADY_GONE)])
        node.batch(
            [
                messages.create_veth(
                    plan.host_interface, HOST_MAC, plan.attachment.interface, plan.mac, namespace, plan.mtu
                )
            ]
        )
        try:
            _configure_node_end(plan, node)
            _configure_pod_end(plan, namespace)
        except BaseException:
            node.batch([messages.delete_link(plan.host_interface, ignore=ALREADY_GONE)])
            raise


def _configure_node_end(plan: Plan, node: RouteSocket) -> None:
    name = plan.host_interface
    # Before the link is up: no router advertisement, no address of its own, only the pod's source.
    write_sysctl(f"net/ipv4/conf/{name}/proxy_arp", "1")
    write_sysctl(f"net/ipv4/neigh/{name}/proxy_delay", "0")
    write_sysctl(f"net/ipv4/conf/{name}/rp_filter", "1")
    write_sysctl(f"net/ipv4/conf/{name}/send_redirects", "0")
    write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
    write_sysctl(f"net/ipv6/conf/{name}/accept_dad", "0")
    index = _index(node, name)
    node.batch(
        [
            messages.set_up(index),
            messages.put_route(f"{plan.address}/32", index, protocol=messages.ROUTE_PROTOCOL_POD),
            messages.put_neighbour(index, plan.address, plan.mac),
        ]
    )


def _configure_pod_end(plan: Plan, namespace: int) -> None:
    name = plan.attachment.interface
    with inside(namespace), RouteSocket() as pod:
        write_sysctl(f"net/ipv6/conf/{name}/accept_dad", "0")
        write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
        index = _index(pod, name)
        pod.batch(
            [
                messages.set_up(1),
                messages.put_address(index, plan.address, 32),
                messages.set_up(index),
                messages.put_route(f"{GATEWAY}/32", index),
                messages.put_route("0.0.0.0/0", index, GATEWAY),
                messages.put_neighbour(index, GATEWAY, HOST_MAC),
            ]
        )


def _index(where: RouteSocket, name: str) -> int:
    index = where.link_index(name)
    if index is None:
        raise NetlinkError(errno.ENODEV, f"{name} vanished while it was wired")
    return index


def detach(attachment: Attachment) -> None:
    """Remove an interface, its peer and its routes; one that is gone is fine."""
    with RouteSocket() as node:
        node.batch([messages.delete_link(host_interface(attachment), ignore=ALREADY_GONE)])


def verify(plan: Plan) -> list[str]:
    """Return what is wrong with an interface, in words; nothing where it is whole."""
    try:
        with opened_namespace(plan.namespace_path) as namespace, RouteSocket() as node:
            return verify_in(plan, namespace, node)
    except FileNotFoundError:
        return [f"{plan.namespace_path} does not exist"]


def verify_in(plan: Plan, namespace: int, node: RouteSocket) -> list[str]:
    """Return what is wrong with an interface, by open descriptors."""
    outside = node.link_index(plan.host_interface)
    if outside is None:
        return [f"{plan.host_interface} does not exist"]
    name = plan.attachment.interface
    with inside(namespace), RouteSocket() as pod:
        index = pod.link_index(name)
        if index is None:
            return [f"{name} does not exist in the pod"]
        addresses = {found.address for found in pod.addresses() if found.index == index}
        defaults = {found.gateway for found in pod.routes() if found.network == "0.0.0.0/0"}
    wrong = []
    if plan.address not in addresses:
        wrong.append(f"{name} lacks the address {plan.address}")
    if GATEWAY not in defaults:
        wrong.append(f"the pod has no default route via {GATEWAY}")
    routes = {found.network: found.index for found in node.routes()}
    if routes.get(f"{plan.address}/32") != outside:
        wrong.append(f"the node has no route to {plan.address} by {plan.host_interface}")
    return wrong


def set_loopback_up(namespace_path: str) -> None:
    """Set lo up in a namespace."""
    with opened_namespace(namespace_path) as namespace, inside(namespace), RouteSocket() as pod:
        pod.batch([messages.set_up(1)])


def pod_links() -> set[str]:
    """Return the names of all node ends that bear our prefix."""
    with RouteSocket() as node:
        return {link.name for link in node.links() if link.kind == "veth" and link.name.startswith(HOST_PREFIX)}


def delete_link(name: str) -> None:
    """Delete a node end by name."""
    with RouteSocket() as node:
        node.batch([messages.delete_link(name, ignore=ALREADY_GONE)])


def uplink_mtu(node_address: str) -> int:
    """Return the pods' MTU: that of the link with this address, else of the default route's; or a tunnel's."""
    with RouteSocket() as node:
        links = node.links()
        return mtu.of_links(links, _underlay_mtu(node, {link.index: link.mtu for link in links}, node_address))


def _underlay_mtu(node: RouteSocket, mtus: dict[int, int], node_address: str) -> int:
    for found in node.addresses():
        if found.address == node_address:
            return mtus.get(found.index, 1500)
    for route in node.routes():
        if route.network == "0.0.0.0/0":
            return mtus.get(route.index, 1500)
    return 1500


def enable_forwarding() -> None:
    """Let the node forward pods' packets, and keep it from sending redirects for them."""
    write_sysctl("net/ipv4/ip_forward", "1")
    write_sysctl("net/ipv4/conf/all/send_redirects", "0")
