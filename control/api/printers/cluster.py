"""Rows of what a cluster's administrators set up: access, certificates, storage, webhooks, priorities."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from control.api import times
from control.api.meta import Object
from control.api.printers.column import NONE, UNSET, Column, Printer, age, columns, field, name
from control.api.printers.core import plain

_DEFAULT_CLASS = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")


def _binding(obj: Object, now: datetime) -> list[Any]:
    role = obj.get("roleRef") or {}
    subjects = obj.get("subjects") or []

    def named(kind: str) -> str:
        found = [subject for subject in subjects if subject.get("kind") == kind]
        if kind == "ServiceAccount":
            return ", ".join(f"{subject.get('namespace', '')}/{subject.get('name', '')}" for subject in found)
        return ", ".join(str(subject.get("name", "")) for subject in found)

    people = [named(kind) for kind in ("User", "Group", "ServiceAccount")]
    return [name(obj), f"{role.get('kind')}/{role.get('name')}", age(obj, now), *people]


def _signing_request(obj: Object, now: datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    kinds = {condition.get("type") for condition in status.get("conditions") or []}
    state = next((kind for kind in ("Denied", "Approved") if kind in kinds), "Pending")
    if "Failed" in kinds:
        state += ",Failed"
    if status.get("certificate"):
        state += ",Issued"
    wanted_s = spec.get("expirationSeconds")
    duration = NONE if wanted_s is None else times.human_duration(wanted_s)
    return [name(obj), age(obj, now), spec.get("signerName") or NONE, spec.get("username") or "", duration, state]


def _storage_class(obj: Object, now: datetime) -> list[Any]:
    annotations = field(obj, "metadata", "annotations") or {}
    default = any(annotations.get(key) == "true" for key in _DEFAULT_CLASS)
    return [
        name(obj) + (" (default)" if default else ""),
        obj.get("provisioner") or "",
        obj.get("reclaimPolicy") or "Delete",
        obj.get("volumeBindingMode") or "Immediate",
        bool(obj.get("allowVolumeExpansion")),
        age(obj, now),
    ]


def _driver(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    flags = [bool(spec.get(flag)) for flag in ("attachRequired", "podInfoOnMount", "storageCapacity")]
    audiences = [request.get("audience") or "" for request in spec.get("tokenRequests") or []]
    tokens = ",".join(audiences) if audiences else UNSET
    modes = ",".join(spec.get("volumeLifecycleModes") or []) or NONE
    return [name(obj), *flags, tokens, bool(spec.get("requiresRepublish")), modes, age(obj, now)]


def _attachment(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    volume = field(spec, "source", "persistentVolumeName") or ""
    attached = bool(field(obj, "status", "attached"))
    return [name(obj), spec.get("attacher") or "", volume, spec.get("nodeName") or "", attached, age(obj, now)]


def _capacity(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), obj.get("storageClassName") or "", obj.get("capacity") or UNSET]


def _priority_class(obj: Object, now: datetime) -> list[Any]:
    policy = obj.get("preemptionPolicy") or ""
    return [name(obj), obj.get("value") or 0, bool(obj.get("globalDefault")), age(obj, now), policy]


def _count(key: str) -> Any:
    def cells(obj: Object, now: datetime) -> list[Any]:
        holder = obj if key in obj else obj.get("spec") or {}
        return [name(obj), len(holder.get(key) or []), age(obj, now)]

    return cells


def _policy(key: str) -> Any:
    def cells(obj: Object, now: datetime) -> list[Any]:
        kind = field(obj, "spec", "paramKind")
        text = f"{kind.get('apiVersion')}/{kind.get('kind')}" if kind else UNSET
        return [name(obj), len(field(obj, "spec", key) or []), text, age(obj, now)]

    return cells


def _selector_struct(selector: dict[str, Any]) -> str:
    """Return a selector as Go prints the structure; kubectl shows just that."""
    labels = "".join(f"{key}: {value}," for key, value in sorted((selector.get("matchLabels") or {}).items()))
    wanted = "".join(
        f"LabelSelectorRequirement{{Key:{term.get('key', '')},Operator:{term.get('operator', '')},"
        f"Values:[{' '.join(term.get('values') or [])}],}},"
        for term in selector.get("matchExpressions") or []
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{wanted}}},}}"
    )


def _policy_binding(obj: Object, now: datetime) -> list[Any]:
    reference = field(obj, "spec", "paramRef") or {}
    text = UNSET
    if reference.get("name"):
        text = f"{reference.get('namespace') or '*'}/{reference['name']}"
    elif (selector := reference.get("selector")) is not None:
        text = _selector_struct(selector)
    return [name(obj), field(obj, "spec", "policyName") or "", text, age(obj, now)]


def _flow_schema(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    missing = "?"
    for condition in field(obj, "status", "conditions") or []:
        if condition.get("type") == "Dangling":
            missing = str(condition.get("status"))
    level, method = field(spec, "priorityLevelConfiguration", "name"), field(spec, "distinguisherMethod", "type")
    return [name(obj), level or "", spec.get("matchingPrecedence") or 0, method or NONE, age(obj, now), missing]


def _priority_level(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    limited = spec.get("limited")
    shares = NONE if limited is None else limited.get("nominalConcurrencyShares") or 0
    queuing = field(limited, "limitResponse", "queuing")
    keys = ("queues", "handSize", "queueLengthLimit")
    queues = [NONE if queuing is None else queuing.get(key) or 0 for key in keys]
    return [name(obj), spec.get("type") or "", shares, *queues, age(obj, now)]


def _service_of(obj: Object, now: datetime) -> list[Any]:
    service = field(obj, "spec", "service")
    where = f"{service.get('namespace')}/{service.get('name')}" if service else "Local"
    available = "Unknown"
    for condition in field(obj, "status", "conditions") or []:
        if condition.get("type") == "Available":
            available = str(condition.get("status"))
            if available != "True":
                available += f" ({condition.get('reason')})"
    return [name(obj), where, available, age(obj, now)]


def _claim(obj: Object, now: datetime) -> list[Any]:
    status = obj.get("status") or {}
    states = ["deleted"] if field(obj, "metadata", "deletionTimestamp") else []
    if status.get("allocation") is not None:
        states += ["allocated", "reserved"] if status.get("reservedFor") else ["allocated"]
    elif not states:
        states = ["pending"]
    return [name(obj), ",".join(states), age(obj, now)]


_ROLE_BINDING = Printer(columns("Role", "Age", "wide:Users", "wide:Groups", "wide:ServiceAccounts"), _binding)
_WEBHOOKS = Printer(columns("integer:Webhooks", "Age"), _count("webhooks"))
_POLICY_BINDING = Printer(columns("PolicyName", "ParamRef", "Age"), _policy_binding)
_ADMISSION, _STORAGE, _RBAC = "admissionregistration.k8s.io", "storage.k8s.io", "rbac.authorization.k8s.io"
_FLOW, _RESOURCE = "flowcontrol.apiserver.k8s.io", "resource.k8s.io"
PRINTERS: dict[tuple[str, str], Printer] = {
    (_RBAC, "rolebindings"): _ROLE_BINDING,
    (_RBAC, "clusterrolebindings"): _ROLE_BINDING,
    ("certificates.k8s.io", "certificatesigningrequests"): Printer(
        columns("Age", "SignerName", "Requestor", "RequestedDuration", "Condition"), _signing_request
    ),
    (_STORAGE, "storageclasses"): Printer(
        columns("Provisioner", "ReclaimPolicy", "VolumeBindingMode", "AllowVolumeExpansion", "Age"), _storage_class
    ),
    (_STORAGE, "csidrivers"): Printer(
        columns(
            "boolean:AttachRequired",
            "boolean:PodInfoOnMount",
            "boolean:StorageCapacity",
            "TokenRequests",
            "boolean:RequiresRepublish",
            "Modes",
            "Age",
        ),
        _driver,
    ),
    (_STORAGE, "csinodes"): Printer(columns("integer:Drivers", "Age"), _count("drivers")),
    (_STORAGE, "csistoragecapacities"): Printer(columns("StorageClassName", "Capacity"), _capacity),
    (_STORAGE, "volumeattachments"): Printer(
        columns(Column("Attacher", format="name"), "PV", "Node", "boolean:Attached", "Age"), _attachment
    ),
    (_STORAGE, "volumeattributesclasses"): Printer(columns("DriverName", "Age"), plain("driverName")),
    ("scheduling.k8s.io", "priorityclasses"): Printer(
        columns("integer:Value", "boolean:Global-Default", "Age", "PreemptionPolicy"), _priority_class
    ),
    ("node.k8s.io", "runtimeclasses"): Printer(columns("Handler", "Age"), plain("handler")),
    (_ADMISSION, "mutatingwebhookconfigurations"): _WEBHOOKS,
    (_ADMISSION, "validatingwebhookconfigurations"): _WEBHOOKS,
    (_ADMISSION, "validatingadmissionpolicies"): Printer(
        columns("integer:Validations", "ParamKind", "Age"), _policy("validations")
    ),
    (_ADMISSION, "mutatingadmissionpolicies"): Printer(
        columns("integer:Mutations", "ParamKind", "Age"), _policy("mutations")
    ),
    (_ADMISSION, "validatingadmissionpolicybindings"): _POLICY_BINDING,
    (_ADMISSION, "mutatingadmissionpolicybindings"): _POLICY_BINDING,
    (_FLOW, "flowschemas"): Printer(
        columns("PriorityLevel", "MatchingPrecedence", "DistinguisherMethod", "Age", "MissingPL"), _flow_schema
    ),
    (_FLOW, "prioritylevelconfigurations"): Printer(
        columns("Type", "NominalConcurrencyShares", "Queues", "HandSize", "QueueLengthLimit", "Age"), _priority_level
    ),
    ("apiregistration.k8s.io", "apiservices"): Printer(columns("Service", "Available", "Age"), _service_of),
    (_RESOURCE, "deviceclasses"): Printer(columns("Age"), plain()),
    (_RESOURCE, "resourceclaimtemplates"): Printer(columns("Age"), plain()),
    (_RESOURCE, "resourceclaims"): Printer(columns("State", "Age"), _claim),
    (_RESOURCE, "resourceslices"): Printer(
        columns("Node", "Driver", "Pool", "Age"), plain("spec.nodeName", "spec.driver", "spec.pool.name")
    ),
}
