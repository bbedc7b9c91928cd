"""What policies, pods and namespaces mean for packets, parsed once on arrival: pure.

Theory of operation
-------------------
A pod is *isolated* in a direction as soon as one policy selects it for that direction; what it may
then do is the union of what those policies allow. A rule allows what meets one of its peers and one
of its ports; peers or ports that are absent or empty mean anybody, and everything. A peer is either
pods (a *scope*: which namespaces, which labels in them) or a block of addresses less its exceptions.

    from: [{podSelector: {matchLabels: {app: web}}}]   → Peers((default: app=web,))
    ports: [{port: 80}, {port: 8000, endPort: 8080}]   → (PortMatch("TCP", ((80, 80), (8000, 8080))),)

What cannot be understood, which the API server's validation should have refused, allows nothing and
is told in `faults`; the rest of the policy holds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from control.api import meta, selectors
from control.api.meta import Object
from control.api.selectors import Selector
from net.policy import ranges
from net.policy.ranges import PORTS_ALL, Range, Ranges

Direction = Literal["ingress", "egress"]
DIRECTIONS: tuple[Direction, Direction] = ("ingress", "egress")
PEERS_FIELD: Mapping[Direction, str] = {"ingress": "from", "egress": "to"}
PROTOCOLS = ("TCP", "UDP", "SCTP")
PORT_NAME = re.compile("[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
FINISHED = ("Succeeded", "Failed")
MIRROR_ANNOTATIONS = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")


@dataclass(frozen=True, slots=True, order=True)
class NamedPort:
    """Hold a container port that has a name."""

    name: str
    protocol: str
    number: int


@dataclass(frozen=True, slots=True)
class Pod:
    """Hold what rules are made of in a pod with a network of its own."""

    key: str
    uids: tuple[str, ...]
    """Every uid by which a runtime may know the pod: a static pod's own differs from its mirror's."""
    labels: Mapping[str, str]
    node: str = ""
    addresses: tuple[str, ...] = ()
    ports: tuple[NamedPort, ...] = ()

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return self.key.partition("/")[0]


def parse_pod(pod: Object) -> Pod | None:
    """Return a pod's facts; None where it has no network of its own, or none any more."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    if spec.get("hostNetwork") or status.get("phase") in FINISHED:
        return None
    notes = meta.annotations(pod)
    listed = [entry.get("ip") or "" for entry in status.get("podIPs") or ()] or [status.get("podIP") or ""]
    containers = [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]
    named = {
        NamedPort(port["name"], port.get("protocol") or "TCP", int(port["containerPort"]))
        for container in containers
        for port in container.get("ports") or ()
        if port.get("name")
    }
    return Pod(
        key=meta.key(pod),
        uids=(meta.uid(pod), *(notes[name] for name in MIRROR_ANNOTATIONS if name in notes)),
        labels=meta.labels(pod),
        node=spec.get("nodeName") or "",
        addresses=canonical(listed),
        ports=tuple(sorted(named)),
    )


def canonical(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return addresses in the one form that each has; what is none is dropped."""
    kept = []
    for text in addresses:
        try:
            kept.append(str(ipaddress.ip_address(text)))
        except ValueError:
            continue  # no address yet
    return tuple(dict.fromkeys(kept))


@dataclass(frozen=True)
class PodScope:
    """Say which pods: those of one namespace or of selected ones, by their labels."""

    namespaces: str | Selector
    pods: Selector

    @cached_property
    def _hash(self) -> int:
        return hash((self.namespaces, self.pods))

    def __hash__(self) -> int:
        return self._hash  # asked for with every change of a pod

    def __str__(self) -> str:
        """Return a text for people, the same for the same scope."""
        where = self.namespaces if isinstance(self.namespaces, str) else f"[{selectors.to_text(self.namespaces)}]"
        return f"{where}: {selectors.to_text(self.pods) or 'all'}"

    def has(self, namespace: str, namespace_labels: Mapping[str, str], labels: Mapping[str, str]) -> bool:
        """Tell whether a pod belongs to the scope."""
        if isinstance(self.namespaces, str):
            return self.namespaces == namespace and self.pods.matches(labels)
        return self.namespaces.matches(namespace_labels) and self.pods.matches(labels)


@dataclass(frozen=True, slots=True)
class Peers:
    """Say who is at the other end: pods, or addresses of either version."""

    scopes: tuple[PodScope, ...] = ()
    addresses_4: Ranges = ()
    addresses_6: Ranges = ()


@dataclass(frozen=True, slots=True)
class PortMatch:
    """Say which ports of one protocol at the destination; names are resolved by each pod."""

    protocol: str
    numbers: Ranges = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Allow what meets one peer and one port."""

    peers: Peers | None = None
    """None is anybody."""
    ports: tuple[PortMatch, ...] | None = None
    """None is every port of every protocol."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Hold one NetworkPolicy."""

    key: str
    pods: Selector
    ingress: tuple[Rule, ...] | None = None
    """What may come in; None where the policy says nothing of this direction."""
    egress: tuple[Rule, ...] | None = None
    faults: tuple[str, ...] = field(default=(), compare=False)

    @property
    def namespace(self) -> str:
        """The namespace of the policy and of the pods that it selects."""
        return self.key.partition("/")[0]

    def rules(self, direction: Direction) -> tuple[Rule, ...] | None:
        """Return the rules of one direction, None where the policy does not isolate in it."""
        return self.ingress if direction == "ingress" else self.egress

    def without_rules(self) -> Policy:
        """Return the policy that isolates the same pods and allows nothing."""
        return Policy(
            self.key,
            self.pods,
            None if self.ingress is None else (),
            None if self.egress is None else (),
            self.faults,
        )


def parse_policy(policy: Object) -> Policy:
    """Return a policy's meaning."""
    spec = policy.get("spec") or {}
    # The API server writes policyTypes; one that has not applies the rule by which it does.
    kinds = spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])
    faults: list[str] = []
    namespace = meta.namespace(policy)
    found: dict[Direction, tuple[Rule, ...] | None] = {}
    for direction in DIRECTIONS:
        if direction.capitalize() not in kinds:
            found[direction] = None
            continue
        entries = spec.get(direction) or ()
        found[direction] = tuple(
            _parse_rule(entry, PEERS_FIELD[direction], namespace, f"{direction}[{index}]", faults)
            for index, entry in enumerate(entries)
        )
    return Policy(
        meta.key(policy), _selector(spec.get("podSelector")), found["ingress"], found["egress"], tuple(faults)
    )


def _parse_rule(entry: Mapping[str, Any], peers_field: str, namespace: str, where: str, faults: list[str]) -> Rule:
    peers = entry.get(peers_field)
    ports = entry.get("ports")
    return Rule(
        _parse_peers(peers, namespace, f"{where}.{peers_field}", faults) if peers else None,
        _parse_ports(ports, f"{where}.ports", faults) if ports else None,
    )


def _parse_peers(entries: Iterable[Mapping[str, Any]], namespace: str, where: str, faults: list[str]) -> Peers:
    scopes: dict[PodScope, None] = {}
    addresses: dict[int, list[Range]] = {4: [], 6: []}
    for index, entry in enumerate(entries):
        block, pods, namespaces = (entry.get(name) for name in ("ipBlock", "podSelector", "namespaceSelector"))
        here = f"{where}[{index}]"
        if block is not None and pods is None and namespaces is None:
            try:
                version, found = ranges.of_block(block.get("cidr") or "", block.get("except") or ())
            except ValueError as error:
                faults.append(f"{here}.ipBlock: {error}")
                continue
            addresses[version] += found
        elif block is None and (pods is not None or namespaces is not None):
            within = namespace if namespaces is None else _selector(namespaces)
            scopes[PodScope(within, _selector(pods))] = None
        else:
            faults.append(f"{here}: must be either an ipBlock or selectors")
    return Peers(tuple(scopes), ranges.merged(addresses[4]), ranges.merged(addresses[6]))


def _parse_ports(entries: Iterable[Mapping[str, Any]], where: str, faults: list[str]) -> tuple[PortMatch, ...]:
    numbers: dict[str, list[Range]] = {}
    names: dict[str, dict[str, None]] = {}
    for index, entry in enumerate(entries):
        protocol, port, end = entry.get("protocol") or "TCP", entry.get("port"), entry.get("endPort")
        if protocol not in PROTOCOLS:
            faults.append(f"{where}[{index}].protocol: {protocol!r} is not supported")
        elif port is None and end is None:
            numbers.setdefault(protocol, []).extend(PORTS_ALL)
        elif isinstance(port, str) and end is None and PORT_NAME.fullmatch(port):
            names.setdefault(protocol, {})[port] = None
        elif isinstance(port, int) and 0 < port <= (port if end is None else end) <= 65535:
            numbers.setdefault(protocol, []).append((port, port if end is None else end))
        else:
            faults.append(f"{where}[{index}]: port {port!r} and endPort {end!r} mean no port")
    return tuple(
        PortMatch(protocol, ranges.merged(numbers.get(protocol, ())), tuple(sorted(names.get(protocol, ()))))
        for protocol in PROTOCOLS
        if protocol in numbers or protocol in names
    )


def _selector(selector: Mapping[str, Any] | None) -> Selector:
    """Return a selector in one order, so that the same one is equal wherever it stands."""
    found = selectors.from_label_selector(selector)
    ordered = sorted(set(found.requirements), key=lambda one: (one.key, one.operator, sorted(one.values)))
    return Selector(tuple(ordered))
