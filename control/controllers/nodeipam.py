"""Node IPAM: give each node its part of the cluster's pod addresses."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES
from control.client.actions import Patch, Tell
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue

log = logging.getLogger(__name__)

Network: TypeAlias = IPv4Network | IPv6Network


MASK_SIZES = {4: 24, 6: 64}
NODES_BITS_MAX = 16
"""A range has room for 2^16 nodes at most, as in Kubernetes."""


class RangeFullError(Exception):
    """The cluster's range has no part left."""


class RangeAllocator:
    """Parts of one network by node; pure, and rebuilt from the nodes' specs at every start."""

    def __init__(self, cluster: str, prefix_length: int) -> None:
        self.cluster: Network = ip_network(cluster)
        if not self.cluster.prefixlen <= prefix_length <= self.cluster.max_prefixlen:
            raise ValueError(f"node CIDR mask size {prefix_length} does not fit into {cluster}")
        self.prefix_length = prefix_length
        self._count = 1 << (prefix_length - self.cluster.prefixlen)
        self._step = 1 << (self.cluster.max_prefixlen - prefix_length)
        self._used: dict[int, str] = {}
        self._next = 0

    def _index(self, part: Network) -> int | None:
        if part.version != self.cluster.version or not self.cluster.supernet_of(part):  # type: ignore[arg-type]
            return None
        return (int(part.network_address) - int(self.cluster.network_address)) // self._step

    def occupy(self, part: str, node: str) -> bool:
        """Note that a node has a part; False when another node has it or it lies outside."""
        index = self._index(ip_network(part))
        if index is None or self._used.get(index, node) != node:
            return False
        self._used[index] = node
        return True

    def release(self, node: str) -> None:
        """Free the parts of a node that is gone."""
        for index in [index for index, owner in self._used.items() if owner == node]:
            del self._used[index]

    def allocate(self, node: str) -> str:
        """Return the part that a node holds, else the next free one; a freed one comes last."""
        held = next((index for index, owner in self._used.items() if owner == node), None)
        if held is not None:
            return self._text(held)
        for offset in range(self._count):
            index = (self._next + offset) % self._count
            if index not in self._used:
                self._used[index] = node
                self._next = index + 1
                return self._text(index)
        raise RangeFullError(f"no part of {self.cluster} is left")

    def _text(self, index: int) -> str:
        return f"{self.cluster.network_address + index * self._step}/{self.prefix_length}"


def node_mask_sizes(
    clusters: Sequence[str], general: int | None = None, ipv4: int | None = None, ipv6: int | None = None
) -> dict[int, int]:
    """Return the prefix length of a node's part by IP version, from --node-cidr-mask-size and its two siblings.

    Raises ValueError where the flags and the ranges do not go together.
    """
    versions = [ip_network(cluster).version for cluster in clusters]
    if len(set(versions)) != len(versions):
        raise ValueError(f"--cluster-cidr {','.join(clusters)} has two ranges of one IP family")
    if len(versions) > 1 and general is not None:
        raise ValueError("usage of --node-cidr-mask-size is not allowed with dual-stack clusters")
    given = {4: ipv4, 6: ipv6}
    for version in (4, 6):
        if len(versions) == 1 and given[version] is not None and version not in versions:
            flag = f"--node-cidr-mask-size-ipv{version}"
            raise ValueError(f"usage of {flag} is not allowed with single-stack IPv{10 - version} clusters")
    sizes = {version: given[version] or general or MASK_SIZES[version] for version in (4, 6)}
    for cluster in clusters:
        network = ip_network(cluster)
        size = sizes[network.version]
        if not network.prefixlen <= size <= network.max_prefixlen - 1:
            raise ValueError(f"node CIDR mask size {size} does not fit into --cluster-cidr {cluster}")
        if size - network.prefixlen > NODES_BITS_MAX:
            told = f"--cluster-cidr {cluster} has room for 2^{size - network.prefixlen} nodes; choose a range with a"
            remedy = f"or a smaller --node-cidr-mask-size-ipv{network.version}"
            raise ValueError(f"{told} prefix length of {size - NODES_BITS_MAX} or more, {remedy}")
    return sizes


def mask_sizes(clusters: Iterable[str], sizes: Mapping[int, int]) -> list[RangeAllocator]:
    """Return an allocator for each cluster range; `sizes` is the prefix length by IP version."""
    return [RangeAllocator(cluster, sizes[ip_network(cluster).version]) for cluster in clusters]


class NodeIpamController:
    """Writes spec.podCIDRs of nodes that have none."""

    name = "nodeipam"
    workers = 1  # one at a time: a part is taken in memory before the node carries it

    def __init__(self, context: Context, allocators: list[RangeAllocator]) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._allocators = allocators
        self._nodes = context.informer(NODES)
        self._rebuilt = False
        self._nodes.add_handler(enqueue(self.queue))

    async def background(self) -> None:
        """Nothing goes by time alone."""

    def _rebuild(self) -> None:
        """Note all parts in use before the first one is given out."""
        for node in self._nodes.objects():
            self._occupy(node)
        self._rebuilt = True

    def _occupy(self, node: Object) -> None:
        for part in (node.get("spec") or {}).get("podCIDRs") or []:
            if not any(allocator.occupy(part, meta.name(node)) for allocator in self._allocators):
                log.error("podCIDR not ours or taken twice node=%s cidr=%s", meta.name(node), part)

    async def sync(self, key: str) -> float | None:
        """Give one node its parts, or free those of a node that is gone."""
        if not self._rebuilt:
            self._rebuild()
        node = self._nodes.get(key)
        if node is None:
            for allocator in self._allocators:
                allocator.release(key)
            return None
        if (node.get("spec") or {}).get("podCIDRs") or meta.is_being_deleted(node):
            self._occupy(node)
            return None
        try:
            parts = [allocator.allocate(key) for allocator in self._allocators]
        except RangeFullError as error:
            await self._context.write(
                Tell(node, "Normal", "CIDRNotAvailable", f"Node {key} status is now: CIDRNotAvailable")
            )
            log.error("no pod addresses for a node node=%s error=%s", key, error)
            return 60.0
        # Unconditional: nobody else writes these fields, and kubelet and taints write the node all the time.
        change = {"metadata": {"uid": meta.uid(node)}, "spec": {"podCIDR": parts[0], "podCIDRs": parts}}
        # A failed write keeps its part: it may have arrived, and the next try then says the same.
        await self._context.write(Patch(NODES, "", key, change))
        log.info("podCIDR given node=%s cidr=%s", key, ",".join(parts))
        return None
