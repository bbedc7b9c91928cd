"""Make, check and remove a pod's interface as its plan says, in three sends of netlink.

The pair is made with numbers of our choice and its peer straight in the pod's namespace, so that
nothing has to be asked in between: one send makes it, one completes each end.

All functions block and may stand in another namespace for a moment: call them in a worker thread.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock

from net import link_messages, messages
from net.announce.frames import announcements
from net.cni import plan as plans
from net.cni.bandwidth import Limit, limit_link
from net.cni.plan import BRIDGE_MAC, DEFAULTS, HOST_PREFIX, Bridge, Plan
from net.ipam.allocator import Attachment
from net.netlink import NetlinkError, RouteSocket, inside, read_sysctl, write_sysctl
from net.routes import mtu

log = logging.getLogger(__name__)

ALREADY_GONE = (errno.ENODEV, errno.ENOENT, errno.ESRCH)
TAKEN = (errno.EEXIST, errno.EBUSY)
WITHOUT_TBF = (errno.ENOENT, errno.EOPNOTSUPP)
WITH_IPV6_OFF = (errno.EACCES, errno.EOPNOTSUPP)
"""What the kernel says to an IPv6 address where the namespace has IPv6 switched off."""
INDEX_FIRST = 1 << 17
"""Far above what the kernel gives out by itself, which counts up from 1 in each namespace."""
FAMILIES = {4: 2, 6: 10}
ATTEMPTS_MAX = 4
MTU_WITHOUT_UPLINK = 1500


class _Indexes:
    """Give out link numbers that no link of ours has."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._next = itertools.count(INDEX_FIRST)

    def next(self) -> int:
        """Return the next number."""
        with self._lock:
            return next(self._next)

    def skip(self, highest: int) -> None:
        """Go on above the highest number in use."""
        with self._lock:
            self._next = itertools.count(max(next(self._next), highest + 1))


_indexes = _Indexes()


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
        index = _create(plan, node, namespace)
        if index is None:
            return
        try:
            _finish_pod_end(plan, index + 1, namespace)
            _announce(plan)
        except BaseException:
            node.batch([messages.delete_link(plan.host_interface, ignore=ALREADY_GONE)])
            raise


def _create(plan: Plan, node: RouteSocket, namespace: int) -> int | None:
    """Make the pair and the node's end of it, and return its number; None where all stands already."""
    bridge_index = _bridge_index(plan, node)
    for _ in range(ATTEMPTS_MAX):
        index = _indexes.next()
        try:
            # Sent alone: where the number is another link's, nothing more may be said to that number.
            node.batch([plans.creation(plan, index, namespace)])
        except NetlinkError as error:
            if error.errno not in TAKEN:
                raise
        else:
            _finish_node_end(plan, index, bridge_index, node)
            return index
        # Either the number is taken, or the name: by an interface that stands, or by what is left of one.
        if node.link_index(plan.host_interface) is None:
            _indexes.skip(max((link.index for link in node.links()), default=0))
        elif not verify_in(plan, namespace, node):
            return None
        else:
            node.batch([messages.delete_link(plan.host_interface, ignore=ALREADY_GONE)])
    raise NetlinkError(errno.EEXIST, f"create {plan.attachment.interface}: the pod has a link of this name already")


def _finish_node_end(plan: Plan, index: int, bridge_index: int, node: RouteSocket) -> None:
    try:
        node.batch(plans.node_end(plan, index, bridge_index))
    except BaseException:
        node.batch([messages.delete_link(plan.host_interface, ignore=ALREADY_GONE)])
        raise
    _limit(node, index, plan.bandwidth.ingress)
    # Nothing runs in the pod before the call is answered, so nothing can have been advertised until now.
    write_sysctl(f"net/ipv6/conf/{plan.host_interface}/accept_ra", "0")


def _bridge_index(plan: Plan, node: RouteSocket) -> int:
    if plan.bridge is None:
        return 0
    found = node.link_index(plan.bridge.name)
    if found is None:
        put_bridge(plan.bridge, plan.mtu)
        found = node.link_index(plan.bridge.name)
    if found is None:
        raise NetlinkError(errno.ENODEV, f"bridge {plan.bridge.name} vanished")
    return found


def _finish_pod_end(plan: Plan, index: int, namespace: int) -> None:
    name = plan.attachment.interface
    with inside(namespace), RouteSocket() as pod:
        if plan.bridge is not None:
            write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")  # another pod of the bridge might send one
        try:
            pod.batch(plans.pod_end(plan, index))
        except NetlinkError as error:
            if error.errno not in WITH_IPV6_OFF or not plan.has_ipv6:
                raise
            write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", "0")
            pod.batch(plans.pod_end(plan, index))
        _limit(pod, index, plan.bandwidth.egress)


def _announce(plan: Plan) -> None:
    """Tell the bridge's other pods at once whose the addresses are now, from the bridge itself.

    The pod's own word (arp_notify) would be lost: its port begins to forward some time after it went up.
    """
    if plan.bridge is None:
        return
    mouth = _mouth(os.stat("/proc/thread-self/ns/net").st_ino)
    own = bytes.fromhex(plan.mac.replace(":", ""))
    for frame in (frame for address in plan.addresses for frame in announcements(address, own)):
        mouth.sendto(frame, (plan.bridge.name, 0))


@lru_cache(maxsize=4)
def _mouth(_namespace: int) -> socket.socket:
    """Return a socket for frames in this thread's namespace, kept: the kernel takes milliseconds to close one."""
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC)


def _limit(where: RouteSocket, index: int, limit: Limit | None) -> None:
    if limit is None:
        return
    try:
        where.batch([limit_link(index, limit)])
    except NetlinkError as error:
        if error.errno not in WITHOUT_TBF:
            raise
        log.warning("bandwidth is not limited: this kernel has no token bucket (sch_tbf) error=%s", error)


def detach(attachment: Attachment) -> None:
    """Remove an interface, its peer and its routes; one that is gone is fine."""
    delete_link(plans.host_interface(attachment))


def delete_link(name: str) -> None:
    """Delete a node end by name."""
    with RouteSocket() as node:
        node.batch([messages.delete_link(name, ignore=ALREADY_GONE)])


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
    wrong = _wrong_in_pod(plan, namespace)
    if plan.bridge is not None:
        port = node.link(plan.host_interface)
        if port is None or port.master != node.link_index(plan.bridge.name):
            wrong.append(f"{plan.host_interface} is no port of {plan.bridge.name}")
        return wrong
    for place in plan.places:
        target = f"{place.address}/{place.prefix_length}"
        routes = {found.network: found.index for found in node.routes(FAMILIES[place.version])}
        if routes.get(target) != outside:
            wrong.append(f"the node has no route to {place.address} by {plan.host_interface}")
    return wrong


def _wrong_in_pod(plan: Plan, namespace: int) -> list[str]:
    name = plan.attachment.interface
    wrong = []
    with inside(namespace), RouteSocket() as pod:
        index = pod.link_index(name)
        if index is None:
            return [f"{name} does not exist in the pod"]
        for place in plan.places:
            family = FAMILIES[place.version]
            if place.address not in {found.address for found in pod.addresses(family) if found.index == index}:
                wrong.append(f"{name} lacks the address {place.address}")
            defaults = {found.gateway for found in pod.routes(family) if found.network == DEFAULTS[place.version]}
            if place.gateway not in defaults:
                wrong.append(f"the pod has no default route via {place.gateway}")
    return wrong


def set_loopback_up(namespace_path: str) -> None:
    """Set lo up in a namespace."""
    with opened_namespace(namespace_path) as namespace, inside(namespace), RouteSocket() as pod:
        pod.batch([messages.set_up(1)])


def put_bridge(bridge: Bridge, mtu_bytes: int) -> None:
    """Make the node's bridge with its gateways, or complete it; its packets pass the node's rules."""
    with RouteSocket() as node:
        node.batch([link_messages.create_bridge(bridge.name, BRIDGE_MAC, mtu_bytes)])
        index = node.link_index(bridge.name)
        if index is None:
            raise NetlinkError(errno.ENODEV, f"bridge {bridge.name} vanished")
        wanted = [link_messages.without_own_ipv6_address(index)]
        wanted.append(link_messages.set_ipv4(index, {link_messages.FORWARDING: 1, link_messages.SEND_REDIRECTS: 0}))
        # The kernel asks for a neighbour on behalf of a stranger's packet under its link-local address, or not at all.
        own = (f"{plans.link_local(BRIDGE_MAC)}/64",) if any(":" in gateway for gateway in bridge.gateways) else ()
        for gateway in (*own, *bridge.gateways):
            address, _, length = gateway.partition("/")
            wanted.append(messages.put_address(index, address, int(length)))
        node.batch([*wanted, messages.set_up(index)])
    write_sysctl(f"net/ipv6/conf/{bridge.name}/accept_ra", "0")
    # Without it, a Service's answers between two pods of the bridge pass by the rules that undo its translation.
    for name in ("iptables", "ip6tables"):
        write_sysctl(f"net/bridge/bridge-nf-call-{name}", "1")


def is_bridge_filtered() -> bool:
    """Tell whether bridged packets pass the node's rules; False where br_netfilter is not loaded."""
    return read_sysctl("net/bridge/bridge-nf-call-iptables") == "1"


def pod_links() -> set[str]:
    """Return the names of all node ends that bear our prefix."""
    with RouteSocket() as node:
        links = node.links()
    _indexes.skip(max((link.index for link in links), default=0))
    return {link.name for link in links if link.kind == "veth" and link.name.startswith(HOST_PREFIX)}


def uplink_mtu(node_address: str) -> int:
    """Return the pods' MTU: that of the link with this address, else of the default route's; or a tunnel's."""
    with RouteSocket() as node:
        # Asked for one by one: a dump would bring every pod's link.
        tunnels = [link for name in mtu.TUNNEL_NAMES.values() if (link := node.link(name)) is not None]
        index = _uplink_index(node, node_address)
        uplink = node.link(index=index) if index else None
        return mtu.of_links(tunnels, uplink.mtu if uplink is not None else MTU_WITHOUT_UPLINK)


def _uplink_index(node: RouteSocket, node_address: str) -> int:
    """Return the link with this address, else the default route's; 0, which no link has, where there is neither."""
    version = plans.version_of(node_address)
    for found in node.addresses(FAMILIES[version]):
        if found.address == node_address:
            return found.index
    for route in node.routes(FAMILIES[version]):
        if route.network == DEFAULTS[version]:
            return route.index
    return 0


def is_forwarding(version: int) -> bool:
    """Tell whether the node forwards packets of an IP version."""
    return read_sysctl(f"net/ipv{version}/conf/all/forwarding") == "1"


def enable_forwarding(versions: Iterable[int]) -> None:
    """Let the node forward pods' packets, and keep it from sending redirects for them."""
    if 4 in versions:
        write_sysctl("net/ipv4/ip_forward", "1")
        write_sysctl("net/ipv4/conf/all/send_redirects", "0")
    if 6 in versions and read_sysctl("net/ipv6/conf/all/forwarding") == "0":
        # A node that forwards ignores router advertisements, and would lose a default route that it learned from one.
        for conf in Path("/proc/sys/net/ipv6/conf").iterdir():
            if conf.name not in ("all", "default") and read_sysctl(f"net/ipv6/conf/{conf.name}/accept_ra") == "1":
                write_sysctl(f"net/ipv6/conf/{conf.name}/accept_ra", "2")
        write_sysctl("net/ipv6/conf/all/forwarding", "1")
