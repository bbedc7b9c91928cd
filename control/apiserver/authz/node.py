"""The node authorizer: a kubelet reads what its own pods use, writes its own objects, and nothing else.

The graph answers one question: does some pod on this node refer to that object? It is fed pod by pod; a pod's
references are counted for its node, so that two pods may share a secret and one of them go away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from control.apiserver.authz.attributes import NO_OPINION, Attributes, Opinion, Verdict
from control.apiserver.authz.bootstrap import parse_rules
from control.apiserver.authz.roles import NODE_RULES
from control.apiserver.request import UserInfo

NODE_USER_PREFIX = "system:node:"
NODES_GROUP = "system:nodes"
LEASE_NAMESPACE = "kube-node-lease"
_MIRROR = "kubernetes.io/config.mirror"
_ALLOWED = Verdict(Opinion.ALLOW)
_OWN_VERBS = frozenset({"get", "create", "update", "patch", "delete"})

ObjectReference = tuple[str, str, str]
"""(resource, namespace, name)"""


def node_name_of(user: UserInfo) -> str | None:
    """The node that this user is, "" for a member of system:nodes without a name, None for anybody else."""
    if NODES_GROUP not in user.groups:
        return None
    return user.name.removeprefix(NODE_USER_PREFIX) if user.name.startswith(NODE_USER_PREFIX) else ""


@dataclass(frozen=True, slots=True)
class _PodEdges:
    node: str
    references: frozenset[ObjectReference]


class NodeGraph:
    """Which objects the pods of each node refer to."""

    def __init__(self) -> None:
        self._pods: dict[tuple[str, str], _PodEdges] = {}
        self._held: dict[str, Counter[ObjectReference]] = {}
        self._claims: dict[str, ObjectReference] = {}

    def set_pod(self, namespace: str, name: str, pod: Mapping[str, Any] | None) -> None:
        """Store a pod's edges; None forgets it. Pods without a node have none."""
        key = (namespace, name)
        node = "" if pod is None else str(pod.get("spec", {}).get("nodeName") or "")
        edges = _PodEdges(node, frozenset(pod_references(pod))) if pod is not None and node else None
        known = self._pods.get(key)
        if known == edges:
            return
        if known is not None:
            self._forget(known)
            del self._pods[key]
        if edges is not None:
            self._pods[key] = edges
            self._held.setdefault(edges.node, Counter()).update(edges.references)

    def set_volume(self, name: str, volume: Mapping[str, Any] | None) -> None:
        """Store which claim a PersistentVolume is bound to; None forgets it."""
        claim = (volume or {}).get("spec", {}).get("claimRef")
        if claim:
            self._claims[name] = ("persistentvolumeclaims", claim.get("namespace", ""), claim.get("name", ""))
        else:
            self._claims.pop(name, None)

    def refers(self, node: str, resource: str, namespace: str, name: str) -> bool:
        """Whether some pod of this node uses the object."""
        held = self._held.get(node)
        if held is None:
            return False
        if resource == "persistentvolumes":
            claim = self._claims.get(name)
            return claim is not None and claim in held
        return (resource, namespace, name) in held

    def runs(self, node: str, namespace: str, name: str) -> bool:
        """Whether this pod is bound to the node."""
        edges = self._pods.get((namespace, name))
        return edges is not None and edges.node == node

    def _forget(self, edges: _PodEdges) -> None:
        held = self._held.get(edges.node)
        if held is None:
            return
        held.subtract(edges.references)
        for reference in edges.references:
            if held[reference] <= 0:
                del held[reference]
        if not held:
            del self._held[edges.node]


def pod_references(pod: Mapping[str, Any]) -> Iterator[ObjectReference]:
    """Every namespaced object that a pod's kubelet needs; mirror pods refer to nothing."""
    metadata, spec = pod.get("metadata", {}), pod.get("spec", {})
    if _MIRROR in (metadata.get("annotations") or {}):
        return
    namespace = metadata.get("namespace", "")
    if account := spec.get("serviceAccountName"):
        yield ("serviceaccounts", namespace, account)
    for secret in spec.get("imagePullSecrets") or ():
        yield ("secrets", namespace, secret.get("name", ""))
    for volume in spec.get("volumes") or ():
        yield from _volume_references(namespace, metadata.get("name", ""), volume)
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(field) or ():
            yield from _container_references(namespace, container)


def _volume_references(namespace: str, pod_name: str, volume: Mapping[str, Any]) -> Iterator[ObjectReference]:
    if secret := volume.get("secret"):
        yield ("secrets", namespace, secret.get("secretName", ""))
    if config_map := volume.get("configMap"):
        yield ("configmaps", namespace, config_map.get("name", ""))
    if claim := volume.get("persistentVolumeClaim"):
        yield ("persistentvolumeclaims", namespace, claim.get("claimName", ""))
    if volume.get("ephemeral") is not None:
        yield ("persistentvolumeclaims", namespace, f"{pod_name}-{volume.get('name', '')}")
    if publish := (volume.get("csi") or {}).get("nodePublishSecretRef"):
        yield ("secrets", namespace, publish.get("name", ""))
    for source in (volume.get("projected") or {}).get("sources") or ():
        if secret := source.get("secret"):
            yield ("secrets", namespace, secret.get("name", ""))
        if config_map := source.get("configMap"):
            yield ("configmaps", namespace, config_map.get("name", ""))


def _container_references(namespace: str, container: Mapping[str, Any]) -> Iterator[ObjectReference]:
    for variable in container.get("env") or ():
        source = variable.get("valueFrom") or {}
        if secret := source.get("secretKeyRef"):
            yield ("secrets", namespace, secret.get("name", ""))
        if config_map := source.get("configMapKeyRef"):
            yield ("configmaps", namespace, config_map.get("name", ""))
    for source in container.get("envFrom") or ():
        if secret := source.get("secretRef"):
            yield ("secrets", namespace, secret.get("name", ""))
        if config_map := source.get("configMapRef"):
            yield ("configmaps", namespace, config_map.get("name", ""))


class NodeAuthorizer:
    """Judges requests of nodes; it has no opinion about anybody else's."""

    def __init__(self, graph: NodeGraph) -> None:
        self._graph = graph
        self._rules = parse_rules(NODE_RULES)

    def authorize(self, attributes: Attributes) -> Verdict:
        """Allow what a node needs; otherwise say why not and let the next authorizer speak."""
        node = node_name_of(attributes.user)
        if node is None:
            return NO_OPINION
        if not node:
            return Verdict(Opinion.NO_OPINION, f'unknown node for user "{attributes.user.name}"')
        if attributes.is_resource_request:
            why_not = self._special(node, attributes)
            if why_not is not None:
                return Verdict(Opinion.NO_OPINION, why_not) if why_not else _ALLOWED
        return _ALLOWED if any(rule.allows(attributes) for rule in self._rules) else NO_OPINION

    def _special(self, node: str, attributes: Attributes) -> str | None:
        """Why the node may not, "" if it may, None where the plain rules decide."""
        match (attributes.group, attributes.resource):
            case ("", "secrets" | "configmaps"):
                return self._read_referred(node, attributes)
            case ("", "persistentvolumeclaims") if attributes.subresource == "status":
                return self._related(node, attributes)
            case ("", "persistentvolumeclaims" | "persistentvolumes") | ("resource.k8s.io", "resourceclaims"):
                return self._get_referred(node, attributes)
            case ("", "serviceaccounts"):
                return self._service_account(node, attributes)
            case ("", "nodes"):
                return _own_node(node, attributes)
            case ("", "pods"):
                return self._own_pods(node, attributes)
            case ("coordination.k8s.io", "leases"):
                return _own_lease(node, attributes)
            case ("storage.k8s.io", "csinodes"):
                return _own_csi_node(node, attributes)
        return None

    def _read_referred(self, node: str, attributes: Attributes) -> str:
        if attributes.verb not in ("get", "list", "watch"):
            return "can only read resources of this type"
        if attributes.subresource:
            return "cannot read subresource"
        if not attributes.namespace:
            return "can only read namespaced object of this type"
        return self._related(node, attributes)

    def _get_referred(self, node: str, attributes: Attributes) -> str:
        if attributes.verb != "get" or not attributes.name:
            return "can only get individual resources of this type"
        if attributes.subresource:
            return "cannot get subresource"
        return self._related(node, attributes)

    def _service_account(self, node: str, attributes: Attributes) -> str:
        if attributes.verb == "get" and not attributes.subresource and attributes.name:
            return self._related(node, attributes)
        if attributes.verb != "create" or not attributes.name:
            return "can only create tokens for individual service accounts"
        if attributes.subresource != "token":
            return "can only create token subresource of service account"
        return self._related(node, attributes)

    def _own_pods(self, node: str, attributes: Attributes) -> str | None:
        if attributes.verb == "get":
            return "" if self._graph.runs(node, attributes.namespace, attributes.name) else _no_relationship(node)
        if attributes.verb in ("list", "watch"):
            named = f"spec.nodeName={node}" in attributes.field_selector.replace("==", "=").split(",")
            related = bool(attributes.name) and self._graph.runs(node, attributes.namespace, attributes.name)
            return "" if named or related else "can only list/watch pods with spec.nodeName field selector"
        return None

    def _related(self, node: str, attributes: Attributes) -> str:
        if self._graph.refers(node, attributes.resource, attributes.namespace, attributes.name):
            return ""
        return _no_relationship(node)


def _no_relationship(node: str) -> str:
    return f"no relationship found between node '{node}' and this object"


def _own_node(node: str, attributes: Attributes) -> str | None:
    if attributes.verb not in ("get", "list", "watch"):
        return None
    if attributes.name == node or f"metadata.name={node}" in attributes.field_selector.replace("==", "=").split(","):
        return ""
    return f"node '{node}' cannot read '{attributes.name}', only its own Node object"


def _own_lease(node: str, attributes: Attributes) -> str:
    if attributes.verb not in _OWN_VERBS:
        return "can only get, create, update, patch, or delete a node lease"
    if attributes.namespace != LEASE_NAMESPACE:
        return f'can only access leases in the "{LEASE_NAMESPACE}" system namespace'
    # A create names its object in the body, where NodeRestriction looks.
    if attributes.verb != "create" and attributes.name != node:
        return "can only access node lease with the same name as the requesting node"
    return ""


def _own_csi_node(node: str, attributes: Attributes) -> str:
    if attributes.verb not in _OWN_VERBS:
        return "can only get, create, update, patch, or delete a CSINode"
    if attributes.subresource:
        return "cannot authorize CSINode subresources"
    if attributes.verb != "create" and attributes.name != node:
        return "can only access CSINode with the same name as the requesting node"
    return ""
