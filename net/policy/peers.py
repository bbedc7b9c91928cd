"""Keep the sets of those whom policies mean: pods by scope, and pods' named ports. Pure.

Scopes and ports are counted: one that no policy in use names has no set. A pod is compared only with
the scopes that ask for its namespace and for one of its labels, or for none in particular.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from net.policy import render
from net.policy.elements import Elements, Place, packed, port_key, version_of
from net.policy.model import DIRECTIONS, Pod, PodScope, Policy
from net.policy.render import IP_VERSIONS

Bucket = tuple[str, str, str]
"""Namespace, label and value that a pod must have to be meant; empty where any will do."""
PortName = tuple[str, str]
"""A port's name and its protocol."""


def scopes_of(policy: Policy) -> set[PodScope]:
    """Return the scopes that a policy's rules name."""
    rules = [rule for direction in DIRECTIONS for rule in policy.rules(direction) or ()]
    return {scope for rule in rules if rule.peers is not None for scope in rule.peers.scopes}


def port_names_of(policy: Policy) -> set[PortName]:
    """Return the named ports in a policy's rules."""
    rules = [rule for direction in DIRECTIONS for rule in policy.rules(direction) or ()]
    return {(name, match.protocol) for rule in rules for match in rule.ports or () for name in match.names}


def bucket_of(scope: PodScope) -> Bucket:
    """Return where a scope is looked for."""
    namespace = scope.namespaces if isinstance(scope.namespaces, str) else ""
    for requirement in scope.pods.requirements:
        if requirement.operator == "In" and len(requirement.values) == 1:
            return namespace, requirement.key, next(iter(requirement.values))
    return namespace, "", ""


def buckets_of(pod: Pod) -> Iterable[Bucket]:
    """Return where the scopes that may mean a pod are found."""
    for namespace in (pod.namespace, ""):
        yield namespace, "", ""
        for label, value in pod.labels.items():
            yield namespace, label, value


@dataclass(slots=True)
class PeerSets:
    """Own the elements of scopes and named ports."""

    elements: Elements
    declarations: dict[str, str] = field(default_factory=dict)
    """The sets that stand for scopes and ports, by name."""
    _pods: dict[str, tuple[Pod, tuple[str, ...]]] = field(default_factory=dict)
    _in_namespace: dict[str, dict[str, None]] = field(default_factory=dict)
    _namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict)
    _scopes: dict[PodScope, int] = field(default_factory=dict)
    _buckets: dict[Bucket, dict[PodScope, Mapping[int, str]]] = field(default_factory=dict)
    """Scopes with the names of their sets, by IP version."""
    _ports: dict[PortName, int] = field(default_factory=dict)
    _labelled: dict[str, dict[str, dict[str, None]]] = field(default_factory=dict)
    """The pods by the value of each label that some scope has asked for."""
    _meant: dict[str, set[Place]] = field(default_factory=dict)
    """The elements that each pod is an owner of."""

    def place(self, pod: Pod, addresses: tuple[str, ...]) -> None:
        """Note a pod with the addresses that it has now."""
        before = self._pods.get(pod.key)
        if before is None or before[0].labels != pod.labels:
            self._index(before[0] if before is not None else None, pod)
        self._pods[pod.key] = (pod, addresses)
        self._in_namespace.setdefault(pod.namespace, {})[pod.key] = None
        wanted: set[Place] = set()
        for bucket in buckets_of(pod):
            for scope, names in self._buckets.get(bucket, {}).items():
                wanted.update(self._in_scope(pod, addresses, scope, names))
        for name, protocol in {(port.name, port.protocol) for port in pod.ports} & self._ports.keys():
            wanted.update(_at_port(pod, addresses, name, protocol))
        self._become(pod.key, wanted)

    def forget(self, key: str) -> None:
        """Note that a pod is gone."""
        self._become(key, set())
        pod, _ = self._pods.pop(key)
        self._index(pod, None)
        self._in_namespace[pod.namespace].pop(key)
        if not self._in_namespace[pod.namespace]:
            del self._in_namespace[pod.namespace]

    def _become(self, key: str, wanted: set[Place]) -> None:
        before = self._meant.get(key, set())
        for name, element in before - wanted:
            self.elements.remove(name, element, key)
        for name, element in wanted - before:
            self.elements.put(name, element, key)
        if wanted:
            self._meant[key] = wanted
        else:
            self._meant.pop(key, None)

    def _in_scope(
        self, pod: Pod, addresses: tuple[str, ...], scope: PodScope, names: Mapping[int, str]
    ) -> Iterable[Place]:
        if not addresses or not scope.has(pod.namespace, self._namespaces.get(pod.namespace, {}), pod.labels):
            return ()
        return [(names[version_of(address)], packed(address)) for address in addresses]

    def namespace_changed(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Note a namespace's labels; None when it is gone."""
        if self._namespaces.get(name) == labels:
            return
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        for key in self._in_namespace.get(name, ()):
            self.place(*self._pods[key])

    def take_up(self, policy: Policy) -> None:
        """Make the sets that a policy's rules look into."""
        for scope in scopes_of(policy):
            self._scopes[scope] = self._scopes.get(scope, 0) + 1
            if self._scopes[scope] == 1:
                self._begin_scope(scope)
        for port in port_names_of(policy):
            self._ports[port] = self._ports.get(port, 0) + 1
            if self._ports[port] == 1:
                self._begin_port(*port)

    def _begin_scope(self, scope: PodScope) -> None:
        names = {version: render.scope_set(scope, version) for version in IP_VERSIONS}
        for version, name in names.items():
            self._declare(name, render.scope_declaration(scope, version))
        self._buckets.setdefault(bucket_of(scope), {})[scope] = names
        for key in self._candidates(scope):
            self._add(key, self._in_scope(*self._pods[key], scope, names))

    def _candidates(self, scope: PodScope) -> list[str]:
        """Return the pods that a scope may mean: by one of its labels, else by its namespace."""
        _, label, value = bucket_of(scope)
        if label:
            if label not in self._labelled:
                self._labelled[label] = {}
                for pod, _ in self._pods.values():
                    self._enter(label, pod)
            return list(self._labelled[label].get(value, ()))
        if isinstance(scope.namespaces, str):
            return list(self._in_namespace.get(scope.namespaces, ()))
        return list(self._pods)

    def _enter(self, label: str, pod: Pod) -> None:
        if label in pod.labels:
            self._labelled[label].setdefault(pod.labels[label], {})[pod.key] = None

    def _index(self, before: Pod | None, now: Pod | None) -> None:
        for label, by_value in self._labelled.items():
            if before is not None and label in before.labels:
                held = by_value[before.labels[label]]
                del held[before.key]
                if not held:
                    del by_value[before.labels[label]]
            if now is not None:
                self._enter(label, now)

    def _begin_port(self, name: str, protocol: str) -> None:
        for version in IP_VERSIONS:
            self._declare(render.port_set(name, protocol, version), render.port_declaration(version))
        for key, (pod, addresses) in self._pods.items():
            self._add(key, _at_port(pod, addresses, name, protocol))

    def _declare(self, name: str, declaration: str) -> None:
        self.declarations[name] = declaration
        self.elements.declare(name)

    def _add(self, key: str, places: Iterable[Place]) -> None:
        for name, element in places:
            self.elements.put(name, element, key)
            self._meant.setdefault(key, set()).add((name, element))

    def let_go(self, policy: Policy) -> None:
        """End the sets that no other policy's rules look into."""
        gone: set[str] = set()
        for scope in scopes_of(policy):
            self._scopes[scope] -= 1
            if not self._scopes[scope]:
                del self._scopes[scope]
                bucket = self._buckets[bucket_of(scope)]
                gone.update(bucket.pop(scope).values())
                if not bucket:
                    del self._buckets[bucket_of(scope)]
        for port in port_names_of(policy):
            self._ports[port] -= 1
            if not self._ports[port]:
                del self._ports[port]
                gone.update(render.port_set(*port, version) for version in IP_VERSIONS)
        for name in gone:
            del self.declarations[name]
            for place, owners in self.elements.drop(name):
                for key in owners:
                    self._meant[key].discard(place)
                    if not self._meant[key]:
                        del self._meant[key]


def _at_port(pod: Pod, addresses: tuple[str, ...], name: str, protocol: str) -> list[Place]:
    return [
        (render.port_set(name, protocol, version_of(address)), port_key(address, port.number))
        for port in pod.ports
        if (port.name, port.protocol) == (name, protocol)
        for address in addresses
    ]
