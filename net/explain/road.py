"""Take a packet from its node to an address: policies, routes, masquerading, the far node, the pod: pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from net.cni.plan import HOST_PREFIX
from net.dns.config import NODE_LOCAL_ADDRESSES
from net.explain import objects, paths
from net.explain.judge import Direction, Judge
from net.explain.parties import Source
from net.explain.steps import Scene, Step, Wording
from net.explain.things import Listener, NftChain, Place, WantedAddress, WantedRoute
from net.routes import masquerade as pods

Masquerade = tuple[str, Wording] | None
"""Why a packet gets its node's address, and where that stands."""


class Road:
    """Walk from one node's routing decision to the end."""

    def __init__(self, scene: Scene, source: Source, node: str, protocol: str, judge: Judge | None) -> None:
        self._scene, self._source, self._node, self._protocol, self._judge = scene, source, node, protocol, judge
        self._hub = scene.hub
        self.notes: list[str] = []

    def to(self, address: str, port: int, masquerade: Masquerade) -> list[Step]:
        """Return the steps to an address; the last one may say why the packet goes no further."""
        return list(_until_stopped(self._walk(address, port, masquerade)))

    def cross(self, far: str, address: str, port: int) -> list[Step]:
        """Return the steps to another node, whose own rules are asked there."""
        return list(_until_stopped(self._to_node(Place(self._node), far, address, port, None)))

    def _walk(self, address: str, port: int, masquerade: Masquerade) -> Iterator[Step]:
        here, pod = Place(self._node), self._hub.pod_with(address)
        far = objects.node_of(self._hub.pods[pod]) if pod else self._hub.node_with(address)
        if address in NODE_LOCAL_ADDRESSES:
            far = self._node  # each node answers names on an address of its own
        if far == self._node:
            yield from self._deliver(here, pod, address, port, masquerade)
        elif far:
            yield from self._to_node(here, far, address, port, masquerade)
            yield from self._deliver(Place(far), pod, address, port, masquerade)
        else:
            yield from self._to_outside(here, address, port, masquerade)

    def _leaves(self, here: Place, address: str, port: int) -> Iterator[Step]:
        """Judge the egress of the source; what a node itself sends, and pods to their node, is never judged."""
        if self._source.kind == "pod" and here.node == self._source.node:
            yield from self._judged("egress", here, self._source.name, address, port)

    def _judged(self, direction: Direction, place: Place, pod: str, peer: str, port: int) -> Iterator[Step]:
        if self._judge is None:
            return
        found = self._judge.judge(direction, pod, peer, port, self._protocol)
        if found is None:
            return
        stops = "" if found.allowed else found.words
        words = found.words if found.allowed else f"{direction} of pod {pod} is denied: dropped"
        yield Step(place, "forward", words, found.where, found.owner, found.things, stops)

    def _masquerade(self, place: Place, masquerade: Masquerade) -> Iterator[Step]:
        if masquerade is None:
            yield Step(place, "postrouting", f"keeps its source address {self._source.address}")
            return
        why, wording = masquerade
        yield Step(
            place, "postrouting", f"source becomes {self._node_address(place.node)}: {why}", wording.where,
            f"Node {place.node}", wording.things,
        )  # fmt: skip

    def _node_address(self, node: str) -> str:
        version = objects.version_of(self._source.address)
        every = objects.node_addresses(self._hub.nodes.get(node, {}))
        return next((address for address in every if objects.version_of(address) == version), f"node {node}'s address")

    def _to_node(self, here: Place, far: str, address: str, port: int, masquerade: Masquerade) -> Iterator[Step]:
        is_node = address in objects.node_addresses(self._hub.nodes.get(far) or {})
        path = paths.to_node(self._scene, here.node, far, address, is_node)
        yield Step(here, "route", path.words, "", f"Node {far}", path.things, path.stops)
        self._compare_sizes(far, path.mtu)
        yield from self._leaves(here, address, port)
        yield from self._masquerade(here, masquerade)

    def _compare_sizes(self, far: str, mtu: int) -> None:
        """Note that a pod may send larger packets than the way takes."""
        standing = self._scene.standings.get(Place(self._node, self._source.name))
        own = next((link.mtu for link in standing.links if link.name == "eth0"), 0) if standing is not None else 0
        if mtu and own > mtu:
            told = f"Pod {self._source.name} may send {own} bytes, and the way to node {far} takes {mtu}"
            self.notes.append(f"{told}: node {self._node} answers larger packets with 'fragmentation needed'.")

    def _to_outside(self, here: Place, address: str, port: int, masquerade: Masquerade) -> Iterator[Step]:
        yield Step(
            here,
            "route",
            f"{address} is outside the cluster: leaves by the node's own routes",
            things=(WantedRoute(address, None),),
        )
        yield from self._leaves(here, address, port)
        if self._source.kind == "pod" and self._scene.settings_of(self._node).routes.masquerade and masquerade is None:
            masquerade = ("pods' addresses mean nothing outside the cluster", self._pod_masquerade())
        yield from self._masquerade(here, masquerade)

    def _pod_masquerade(self) -> Wording:
        """Name the rule by which pods reach the outside."""
        chain = NftChain("inet", pods.TABLE, "postrouting")
        return Wording(f"inet {pods.TABLE} postrouting", (chain,))

    def _deliver(self, place: Place, pod: str, address: str, port: int, masquerade: Masquerade) -> Iterator[Step]:
        """Take the packet from a node to the pod on it, or to the node itself."""
        if not pod:
            who = "the cluster's DNS on " if address in NODE_LOCAL_ADDRESSES else ""
            yield Step(
                place, "input", f"is for {who}node {place.node} itself, at {self._protocol} port {port}", "",
                f"Node {place.node}", (WantedAddress(address), Listener(self._protocol, address, port)),
            )  # fmt: skip
            return
        interface = WantedRoute(address, "", HOST_PREFIX)
        yield Step(place, "route", f"{address} is behind the link to pod {pod}", "", f"Pod {pod}", (interface,))
        if place.node == self._node:
            yield from self._leaves(place, address, port)
        if place.node != self._source.node or self._source.kind != "node":
            changed = masquerade is not None and place.node != self._node
            peer = self._node_address(self._node) if changed else self._source.address
            yield from self._judged("ingress", place, pod, peer, port)
        if place.node == self._node:
            yield from self._masquerade(place, masquerade)
        inside = Place(place.node, pod)
        things = (WantedAddress(address), Listener(self._protocol, address, port))
        yield Step(inside, "socket", f"arrives in pod {pod} at {self._protocol} port {port}", "", f"Pod {pod}", things)


def _until_stopped(steps: Iterable[Step]) -> Iterator[Step]:
    """Yield steps up to the one that says why the packet goes no further."""
    for step in steps:
        yield step
        if step.stops:
            return
