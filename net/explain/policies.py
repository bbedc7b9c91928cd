"""Judge a packet by the NetworkPolicies, and name the chains and elements that do it in the kernel: pure.

The judgement is made here from the policies' meaning (`net.policy.model`), not from the rules that were rendered of
it; so where both disagree, a trace shows it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from control.api import meta
from net.explain import reasons
from net.explain.judge import Direction, Judgement
from net.explain.objects import Objects
from net.explain.things import Element, NftChain, NoElement, Thing
from net.nftables.elements import goto
from net.policy import render
from net.policy.elements import packed, version_of
from net.policy.model import Peers, Pod, Policy, PortMatch, Rule, parse_pod, parse_policy
from net.policy.plan import PolicyBook
from net.policy.ranges import Ranges


@dataclass(frozen=True, slots=True)
class Packet:
    """Hold what policies look at."""

    peer: str
    """The address of the other end."""
    peer_pod: Pod | None
    target: Pod | None
    """The pod at the destination, whose port names count."""
    port: int
    protocol: str


class PolicyJudge:
    """Know all policies, pods and namespaces as of one moment."""

    def __init__(self, hub: Objects) -> None:
        self._hub = hub
        parsed = {key: parse_pod(obj) for key, obj in hub.pods.items()}
        self._pods = {key: pod for key, pod in parsed.items() if pod is not None}
        self._policies = {key: parse_policy(obj) for key, obj in hub.policies.items()}
        self._labels = {name: meta.labels(obj) for name, obj in hub.namespaces.items()}
        self._books: dict[str, PolicyBook] = {}

    def book(self, node: str) -> PolicyBook:
        """Return what must stand on a node."""
        if node not in self._books:
            book = PolicyBook(node)
            for name, labels in self._labels.items():
                book.namespace_changed(name, labels)
            for key, pod in self._pods.items():
                book.pod_changed(key, pod)
            for key, policy in self._policies.items():
                book.policy_changed(key, policy)
            self._books[node] = book
        return self._books[node]

    def judge(self, direction: Direction, pod: str, peer: str, port: int, protocol: str) -> Judgement | None:
        """Judge a packet at a pod (namespace/name) from or to an address; None where it has no network of its own."""
        judged = self._pods.get(pod)
        isolating = self._isolating(judged, direction) if judged is not None else []
        if judged is None:
            return None
        if not isolating:
            words = f"no NetworkPolicy isolates pod {pod} for {direction}: it passes"
            return Judgement(True, words, things=_unjudged(judged, direction, version_of(peer)))
        peer_pod = self._pods.get(self._hub.pod_with(peer))
        packet = Packet(peer, peer_pod, judged if direction == "ingress" else peer_pod, port, protocol)
        where, things = self._rules(judged, direction, isolating, packet)
        who = f"pod {peer_pod.key} ({peer})" if peer_pod is not None else peer
        owner = f"NetworkPolicy {reasons.listed(policy.key for policy in isolating)}"
        if peer in judged.addresses:
            return Judgement(True, f"pod {pod} may always reach itself", owner, where, things)
        for policy in isolating:
            for index, rule in enumerate(policy.rules(direction) or ()):
                if self._meets_peers(rule, packet) and _meets_ports(rule, packet):
                    words = f"{policy.key} allows {direction} {_to(direction)} {who}, rule {index + 1}"
                    owner = f"NetworkPolicy {policy.key}"
                    return Judgement(True, words, owner, where, (*things, *_membership(rule, packet)))
        names = reasons.listed(policy.key for policy in isolating)
        several = len(isolating) > 1
        words = (
            f"NetworkPolicy {names} {'isolate' if several else 'isolates'} pod {pod} for {direction}, and "
            f"{'none of them' if several else 'it'} {'allows' if several else 'does not allow'} {protocol} port {port} "
            f"{_to(direction)} {who}{self._nearest(isolating, direction, packet)}."
        )
        return Judgement(False, words, owner, where, things)

    def _isolating(self, pod: Pod, direction: Direction) -> list[Policy]:
        return [
            policy
            for _, policy in sorted(self._policies.items())
            if policy.namespace == pod.namespace
            and policy.rules(direction) is not None
            and policy.pods.matches(pod.labels)
        ]

    def _meets_peers(self, rule: Rule, packet: Packet) -> bool:
        if rule.peers is None:
            return True
        pod = packet.peer_pod
        if pod is not None:
            labels = self._labels.get(pod.namespace, {})
            if any(scope.has(pod.namespace, labels, pod.labels) for scope in rule.peers.scopes):
                return True
        return _within(rule.peers, packet.peer)

    def _nearest(self, isolating: Iterable[Policy], direction: Direction, packet: Packet) -> str:
        """Say which half of a rule is met, where one is."""
        for policy in isolating:
            for rule in policy.rules(direction) or ():
                if self._meets_peers(rule, packet):
                    return f" ({policy.key} allows that peer, but only at {_ports_words(rule.ports or ())})"
        for policy in isolating:
            if any(_meets_ports(rule, packet) for rule in policy.rules(direction) or ()):
                return f" ({policy.key} allows that port, but only {_to(direction)} other peers)"
        return ""

    def _rules(
        self, pod: Pod, direction: Direction, isolating: Iterable[Policy], packet: Packet
    ) -> tuple[str, tuple[Thing, ...]]:
        """Name the profile that judges the pod, and the policies' chains that it asks."""
        version = version_of(packet.peer)
        address = next((text for text in pod.addresses if version_of(text) == version), "")
        profile = self.book(pod.node).profile_of(pod.uids[0], direction)
        if profile is None or not address:
            return "", ()
        name, _ = profile
        map_name = render.profiles_map(direction, version)
        words = f"{address} : goto {name}"
        things: list[Thing] = [
            Element("inet", render.TABLE, map_name, packed(address), goto(name), words),
            NftChain("inet", render.TABLE, name),
        ]
        things += [NftChain("inet", render.TABLE, render.policy_chain(policy, direction)[0]) for policy in isolating]
        return f"inet {render.TABLE} forward → @{map_name} → {name}", tuple(things)


def _unjudged(pod: Pod, direction: Direction, version: int) -> tuple[Thing, ...]:
    """Return what must not stand for a pod that nobody isolates."""
    which = render.profiles_map(direction, version)
    addresses = [address for address in pod.addresses if version_of(address) == version]
    return tuple(NoElement("inet", render.TABLE, which, packed(address), address) for address in addresses)


def _to(direction: Direction) -> str:
    return "from" if direction == "ingress" else "to"


def _within(peers: Peers, address: str) -> bool:
    ranges: Ranges = peers.addresses_6 if ":" in address else peers.addresses_4
    number = int(ipaddress.ip_address(address))
    return any(first <= number <= last for first, last in ranges)


def _meets_ports(rule: Rule, packet: Packet) -> bool:
    return rule.ports is None or any(_meets_port(match, packet) for match in rule.ports)


def _meets_port(match: PortMatch, packet: Packet) -> bool:
    if match.protocol != packet.protocol:
        return False
    if any(first <= packet.port <= last for first, last in match.numbers):
        return True
    named = packet.target.ports if packet.target is not None else ()
    return any(
        entry.name in match.names and (entry.protocol, entry.number) == (packet.protocol, packet.port)
        for entry in named
    )


def _ports_words(ports: Iterable[PortMatch]) -> str:
    told = []
    for match in ports:
        numbers = [str(first) if first == last else f"{first}-{last}" for first, last in match.numbers]
        told += [f"{match.protocol} {text}" for text in (*numbers, *match.names)]
    return reasons.listed(told, 5) or "no port"


def _membership(rule: Rule, packet: Packet) -> list[Thing]:
    """Name the peer's element in the set of the first scope that means it."""
    if rule.peers is None or packet.peer_pod is None or _within(rule.peers, packet.peer) or not rule.peers.scopes:
        return []
    version = version_of(packet.peer)
    if len(rule.peers.scopes) > 1:
        return []
    name = render.scope_set(rule.peers.scopes[0], version)
    return [Element("inet", render.TABLE, name, packed(packet.peer), b"", packet.peer)]
