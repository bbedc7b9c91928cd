"""NodeRestriction: what a kubelet may write of the objects that the node authorizer lets it touch."""

from __future__ import annotations

from collections.abc import Mapping

from control.api.meta import Object, labels
from control.api.resources import LEASES, NODES, PODS
from control.apiserver.admission.plugin import Plugin, denied, spec_of
from control.apiserver.admission.service_account import MIRROR_ANNOTATION
from control.apiserver.authz.node import LEASE_NAMESPACE, node_name_of
from control.apiserver.request import AdmissionRequest, Lookup

_OWN_LABELS = frozenset(
    {
        "kubernetes.io/hostname",
        "kubernetes.io/arch",
        "kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    }
)
_OWN_LABEL_DOMAINS = ("kubelet.kubernetes.io", "node.kubernetes.io")


def restricted_labels(changed: set[str]) -> list[str]:
    """Those of the changed labels that a node may not set about itself, in order."""
    return sorted(label for label in changed if _is_restricted(label))


def _is_restricted(label: str) -> bool:
    domain, slash, _ = label.partition("/")
    if not slash or not any(domain == root or domain.endswith(f".{root}") for root in ("kubernetes.io", "k8s.io")):
        return False
    if label in _OWN_LABELS:
        return False
    return not any(domain == own or domain.endswith(f".{own}") for own in _OWN_LABEL_DOMAINS)


def changed_labels(old: Mapping[str, str], new: Mapping[str, str]) -> set[str]:
    """Labels that were added, removed or given another value."""
    return {label for label in old.keys() | new.keys() if old.get(label) != new.get(label)}


def node_fault(node: str, request: AdmissionRequest) -> str | None:
    """Why a node may not write this Node object."""
    name = request.name or (request.object or {}).get("metadata", {}).get("name", "")
    if name != node:
        return f'node "{node}" is not allowed to modify node "{name}"'
    if request.object is None:
        return None
    new, old = request.object, request.old_object
    if spec_of(new).get("configSource") and spec_of(new).get("configSource") != spec_of(old).get("configSource"):
        return f'node "{node}" is not allowed to update configSource to a new non-nil configSource'
    if old is None:
        if forbidden_labels := restricted_labels(set(labels(new))):
            return f'node "{node}" is not allowed to set the following labels: {", ".join(forbidden_labels)}'
        return None
    if (spec_of(new).get("taints") or []) != (spec_of(old).get("taints") or []):
        return f'node "{node}" is not allowed to modify taints'
    if forbidden_labels := restricted_labels(changed_labels(labels(old), labels(new))):
        return f'node "{node}" is not allowed to modify labels: {", ".join(forbidden_labels)}'
    return None


def new_pod_fault(node: str, pod: Object) -> str | None:
    """Why a node may not create this pod: mirror pods of its own files are all that it may create."""
    annotations = (pod.get("metadata") or {}).get("annotations") or {}
    spec = spec_of(pod)
    if MIRROR_ANNOTATION not in annotations:
        return f'pod does not have "{MIRROR_ANNOTATION}" annotation, node "{node}" can only create mirror pods'
    if spec.get("nodeName") != node:
        return f'node "{node}" can only create pods with spec.nodeName set to itself'
    if spec.get("serviceAccountName"):
        return f'node "{node}" can not create pods that reference a service account'
    for volume in spec.get("volumes") or ():
        for kind, plural in (("secret", "secrets"), ("configMap", "configmaps")):
            if volume.get(kind):
                return f'node "{node}" can not create pods that reference {plural}'
        if volume.get("persistentVolumeClaim"):
            return f'node "{node}" can not create pods that reference persistentvolumeclaims'
    owners = (pod.get("metadata") or {}).get("ownerReferences") or []
    if len(owners) > 1:
        return f'node "{node}" can only create pods with a single owner reference set to itself'
    if owners and (owners[0].get("kind") != "Node" or owners[0].get("name") != node):
        return f'node "{node}" can only create pods with an owner reference set to itself'
    return None


def pod_status_fault(node: str, old: Object, new: Object) -> str | None:
    """Why a node may not write this pod's status."""
    if spec_of(old).get("nodeName") != node:
        return f'node "{node}" can only update pod status for pods with spec.nodeName set to itself'
    if labels(old) != labels(new):
        return f'node "{node}" cannot update labels through pod status'
    return None


class NodeRestriction(Plugin):
    """Applies the rules above to users of system:nodes."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse what a node may not write."""
        node = node_name_of(request.user)
        if node is None:
            return
        if not node:
            raise denied(request, f'could not determine node from user "{request.user.name}"')
        if fault := self._fault(node, request):
            raise denied(request, fault)

    def _fault(self, node: str, request: AdmissionRequest) -> str | None:
        match (request.resource.group, request.resource.plural, request.subresource):
            case (NODES.group, NODES.plural, _):
                return node_fault(node, request)
            case (PODS.group, PODS.plural, ""):
                return self._pod_fault(node, request)
            case (PODS.group, PODS.plural, "status") if request.operation == "UPDATE":
                return pod_status_fault(node, request.old_object or {}, request.object or {})
            case (PODS.group, PODS.plural, "eviction"):
                pod = self._lookup.get(PODS, request.name, request.namespace)
                if pod is not None and spec_of(pod).get("nodeName") != node:
                    return f"node {node} can only evict pods with spec.nodeName set to itself"
            case (PODS.group, PODS.plural, _):
                return f"unexpected pod subresource {request.subresource!r}, only 'status' and 'eviction' are allowed"
            case (LEASES.group, LEASES.plural, _):
                return _lease_fault(node, request)
        return None

    def _pod_fault(self, node: str, request: AdmissionRequest) -> str | None:
        if request.operation == "CREATE":
            return new_pod_fault(node, request.object or {})
        if request.operation == "DELETE":
            pod = request.old_object or self._lookup.get(PODS, request.name, request.namespace)
            if pod is not None and spec_of(pod).get("nodeName") != node:
                return f'node "{node}" can only delete pods with spec.nodeName set to itself'
            return None
        return f'unexpected operation "{request.operation}", node "{node}" can only create and delete mirror pods'


def _lease_fault(node: str, request: AdmissionRequest) -> str | None:
    if request.namespace != LEASE_NAMESPACE:
        return f'can only access leases in the "{LEASE_NAMESPACE}" system namespace'
    name = request.name or (request.object or {}).get("metadata", {}).get("name", "")
    if name != node:
        return "can only access node lease with the same name as the requesting node"
    return None
