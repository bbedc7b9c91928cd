"""What the NetworkPolicy API says of one packet, straight from the objects: slow, plain, and all there is to trust."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from control.api.meta import Object
from tests.fakes.fake_policy_table import Packet


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for one in selector.get("matchExpressions") or ():
        key, operator, values = one["key"], one["operator"], one.get("values") or ()
        holds = {
            "In": key in labels and labels[key] in values,
            "NotIn": key not in labels or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not holds:
            return False
    return True


class World:
    """Pods, namespaces and policies as the hub has them, and the addresses that the node gave."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.pods: dict[str, Object] = {}
        self.namespaces: dict[str, Mapping[str, str]] = {}
        self.policies: dict[str, Object] = {}
        self.given: dict[str, tuple[str, ...]] = {}
        """By uid."""

    def addresses(self, pod: Object) -> set[str]:
        listed = {entry["ip"] for entry in pod["status"].get("podIPs", ())}
        return listed | set(self.given.get(pod["metadata"]["uid"], ()))

    def networked(self) -> Iterable[Object]:
        for pod in self.pods.values():
            if not pod["spec"].get("hostNetwork") and pod["status"].get("phase") not in ("Succeeded", "Failed"):
                yield pod

    def pods_at(self, address: str) -> list[Object]:
        return [pod for pod in self.networked() if address in self.addresses(pod)]

    def allows(self, packet: Packet) -> bool:
        """Tell whether a flow may begin between two others than the node itself."""
        if packet.is_reply or packet.source == packet.destination:
            return True
        return self._direction(packet, "Egress", packet.source, packet.destination) and self._direction(
            packet, "Ingress", packet.destination, packet.source
        )

    def _direction(self, packet: Packet, kind: str, judged: str, peer: str) -> bool:
        for pod in self.pods_at(judged):
            if pod["spec"].get("nodeName") != self.node:
                continue
            applying = [one for one in self.policies.values() if self._applies(one, pod, kind)]
            if applying and not any(self._permits(one, kind, packet, peer) for one in applying):
                return False
        return True

    def _applies(self, policy: Object, pod: Object, kind: str) -> bool:
        if policy["metadata"]["namespace"] != pod["metadata"]["namespace"]:
            return False
        types = policy["spec"].get("policyTypes") or (
            ["Ingress", "Egress"] if policy["spec"].get("egress") else ["Ingress"]
        )
        return kind in types and matches(policy["spec"]["podSelector"], pod["metadata"]["labels"])

    def _permits(self, policy: Object, kind: str, packet: Packet, peer: str) -> bool:
        field = "from" if kind == "Ingress" else "to"
        for rule in policy["spec"].get(kind.lower()) or ():
            peers, ports = rule.get(field) or (), rule.get("ports") or ()
            if peers and not any(self._is_peer(one, policy, peer) for one in peers):
                continue
            if ports and not any(self._is_port(one, packet) for one in ports):
                continue
            return True
        return False

    def _is_peer(self, entry: Object, policy: Object, address: str) -> bool:
        if block := entry.get("ipBlock"):
            found = ipaddress.ip_address(address)
            if found not in ipaddress.ip_network(block["cidr"]):
                return False
            return not any(found in ipaddress.ip_network(hole) for hole in block.get("except") or ())
        for pod in self.pods_at(address):
            namespace = pod["metadata"]["namespace"]
            if "namespaceSelector" in entry:
                if not matches(entry["namespaceSelector"], self.namespaces.get(namespace, {})):
                    continue
            elif namespace != policy["metadata"]["namespace"]:
                continue
            if "podSelector" not in entry or matches(entry["podSelector"], pod["metadata"]["labels"]):
                return True
        return False

    def _is_port(self, entry: Object, packet: Packet) -> bool:
        if entry.get("protocol", "TCP").lower() != packet.protocol:
            return False
        port = entry.get("port")
        if port is None:
            return True
        if isinstance(port, int):
            return bool(port <= packet.port <= entry.get("endPort", port))
        return any(
            (found["name"], found.get("protocol", "TCP").lower(), found["containerPort"])
            == (port, packet.protocol, packet.port)
            for pod in self.pods_at(packet.destination)
            for container in pod["spec"].get("containers", ())
            for found in container.get("ports", ())
        )
