"""What differs between kinds when an object is created or changed, as tables over one generic registry."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

from control.api import schema
from control.api.custom.definition import CLEANUP_FINALIZER, stored_versions, with_storage_version
from control.api.meta import Object
from control.api.pod_resources import quality_of_service
from control.apiserver.aggregation.registration import local_status
from control.apiserver.kinds import Kind
from control.apiserver.request import UserInfo
from control.apiserver.status_updates import (
    stamp_conditions,
    take,
    this_second,
    with_custom_status,
    with_status,
)

Name = tuple[str, str]
"""(group, plural)."""
Prepare = Callable[[Object, UserInfo], None]
_ENDPOINTS: Name = ("discovery.k8s.io", "endpointslices")
_DEVICES: Name = ("resource.k8s.io", "resourceslices")
_DEFINITIONS: Name = ("apiextensions.k8s.io", "customresourcedefinitions")

COUNTS_GENERATIONS: frozenset[Name] = frozenset({
    ("", "pods"), ("", "replicationcontrollers"),
    ("apps", "deployments"), ("apps", "replicasets"), ("apps", "statefulsets"), ("apps", "daemonsets"),
    ("batch", "jobs"), ("batch", "cronjobs"), ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "ingresses"), ("networking.k8s.io", "ingressclasses"),
    ("networking.k8s.io", "networkpolicies"), ("discovery.k8s.io", "endpointslices"), ("", "podtemplates"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"), ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("resource.k8s.io", "deviceclasses"), ("resource.k8s.io", "resourceslices"), ("storage.k8s.io", "csidrivers"),
})  # fmt: skip
"""Kinds whose metadata.generation counts the changes of what is wished for."""

FIRST_GENERATION_ONLY: frozenset[Name] = frozenset({("scheduling.k8s.io", "priorityclasses")})
"""Kinds that have a generation, which does not grow."""

LABELS_COUNT: frozenset[Name] = frozenset({_ENDPOINTS})
"""Kinds whose labels are part of what is wished for."""

STATUS_COMES_WITH_CREATION: frozenset[Name] = frozenset({("", "nodes")})
"""Kinds whose creator reports their status at once."""

ANSWERS_WITH_DELETED_OBJECT: frozenset[Name] = frozenset({
    ("", "pods"), ("", "services"), ("", "serviceaccounts"), ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"), ("", "podtemplates"), ("", "resourcequotas"),
})  # fmt: skip

CREATED_BY_UPDATE: frozenset[Name] = frozenset({
    ("", "endpoints"), ("", "events"), ("events.k8s.io", "events"), ("", "limitranges"), ("", "services"),
    ("coordination.k8s.io", "leases"), ("node.k8s.io", "runtimeclasses"), ("resource.k8s.io", "resourceslices"),
    *(("rbac.authorization.k8s.io", plural) for plural in ("roles", "rolebindings", "clusterroles",
                                                           "clusterrolebindings")),
})  # fmt: skip
"""Kinds of which an update creates what is not there."""

NEEDS_REVISION: frozenset[Name] = frozenset({
    *(("admissionregistration.k8s.io", plural) for plural in (
        "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "validatingadmissionpolicies",
        "validatingadmissionpolicybindings", "mutatingadmissionpolicies", "mutatingadmissionpolicybindings")),
    ("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices"),
    ("coordination.k8s.io", "leases"), ("node.k8s.io", "runtimeclasses"), ("policy", "poddisruptionbudgets"),
    ("certificates.k8s.io", "clustertrustbundles"), ("storage.k8s.io", "csidrivers"), ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"), ("storage.k8s.io", "volumeattachments"),
})  # fmt: skip
"""Kinds whose updates must name the revision that they start from; so must those of custom objects."""

ORPHANS_BY_DEFAULT: frozenset[Name] = frozenset({("batch", "jobs"), ("", "replicationcontrollers")})
"""Kinds whose dependents stay where a deletion does not say what becomes of them."""

NOT_COLLECTED: frozenset[Name] = frozenset({("", "events"), ("events.k8s.io", "events")})
"""Kinds that nothing depends on."""

FINALIZER_OF_DELETION: dict[Name, str] = {
    ("apiextensions.k8s.io", "customresourcedefinitions"): CLEANUP_FINALIZER,
}
"""What holds back an object from the moment in which its deletion is asked for."""

NOT_WISHED = ("apiVersion", "kind", "metadata", "status")


def name_of(kind: Kind) -> Name:
    """Return the kind's name in these tables."""
    return kind.resource.group, kind.resource.plural


def allows_blind_update(kind: Kind) -> bool:
    """Tell whether an update may go without naming the revision that it starts from."""
    return kind.custom is None and name_of(kind) not in NEEDS_REVISION


def _pod(obj: Object, user: UserInfo) -> None:
    obj["status"] = {"phase": "Pending", "qosClass": quality_of_service(obj)}
    if obj.get("spec", {}).get("schedulingGates"):
        obj["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": None,
                "lastTransitionTime": None,
            }
        ]


def _namespace(obj: Object, user: UserInfo) -> None:
    spec = obj.setdefault("spec", {})
    if "kubernetes" not in spec.get("finalizers", ()):
        spec["finalizers"] = [*spec.get("finalizers", ()), "kubernetes"]
    obj["status"] = {"phase": "Active"}
    name = obj["metadata"].get("name")
    if name:
        labels = obj["metadata"].get("labels") or {}
        obj["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": name}


def _volume(obj: Object, user: UserInfo) -> None:
    obj["status"] = {"phase": "Pending"}


def _service(obj: Object, user: UserInfo) -> None:
    obj["status"] = {"loadBalancer": {}}


def _signing_request(obj: Object, user: UserInfo) -> None:
    spec = obj.setdefault("spec", {})
    spec["username"] = user.name
    for field, value in (
        ("uid", user.uid),
        ("groups", list(user.groups)),
        ("extra", {key: list(values) for key, values in user.extra.items()}),
    ):
        if value:
            spec[field] = value
        else:
            spec.pop(field, None)


def _job(obj: Object, user: UserInfo) -> None:
    spec = obj.setdefault("spec", {})
    if spec.get("manualSelector"):
        return
    uid, name = obj["metadata"]["uid"], obj["metadata"].get("name", "")
    labels = spec.setdefault("template", {}).setdefault("metadata", {}).setdefault("labels", {})
    for prefix in ("", "batch.kubernetes.io/"):
        labels.setdefault(f"{prefix}controller-uid", uid)
        labels.setdefault(f"{prefix}job-name", name)
    spec.setdefault("selector", {}).setdefault("matchLabels", {})["batch.kubernetes.io/controller-uid"] = uid


def _api_service(obj: Object, user: UserInfo) -> None:
    # What this server answers itself is available from the first moment.
    local = not (obj.get("spec") or {}).get("service")
    obj["status"] = local_status(obj["metadata"]["creationTimestamp"]) if local else {}


def _secret(obj: Object, user: UserInfo) -> None:
    obj.setdefault("type", "Opaque")


def _slice(obj: Object, user: UserInfo | None = None) -> None:
    for endpoint in obj.get("endpoints") or ():
        endpoint.pop("deprecatedTopology", None)  # another version's, that this one cannot write


def _devices(obj: Object, user: UserInfo | None = None) -> None:
    for device in (obj.get("spec") or {}).get("devices") or ():
        for taint in device.get("taints") or ():
            if not taint.get("timeAdded"):
                taint["timeAdded"] = this_second()


def _definition(obj: Object, user: UserInfo) -> None:
    status = {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}}
    obj["status"] = {**status, "storedVersions": stored_versions({**obj, "status": status})}


PREPARE_CREATE: dict[Name, Prepare] = {
    ("", "pods"): _pod,
    ("", "namespaces"): _namespace,
    ("", "persistentvolumes"): _volume,
    ("", "persistentvolumeclaims"): _volume,
    ("", "services"): _service,
    ("", "secrets"): _secret,
    _DEFINITIONS: _definition,
    ("apiregistration.k8s.io", "apiservices"): _api_service,
    ("batch", "jobs"): _job,
    _ENDPOINTS: _slice,
    _DEVICES: _devices,
    ("certificates.k8s.io", "certificatesigningrequests"): _signing_request,
}


@cache
def _blank_status(definition: str) -> Object:
    """What stands in a status of which nothing is known yet."""
    field = schema.definition(definition).fields.get("status")
    return schema.always_written(field.type) if field is not None else {}


def prepare_create(kind: Kind, obj: Object, user: UserInfo) -> None:
    """Set what the server decides about a new object; metadata stands already."""
    name = name_of(kind)
    if kind.has_status and name not in STATUS_COMES_WITH_CREATION:
        obj.pop("status", None)
    if name in COUNTS_GENERATIONS or kind.custom is not None or name in FIRST_GENERATION_ONLY:
        obj["metadata"]["generation"] = 1
    if (prepare := PREPARE_CREATE.get(name)) is not None:
        prepare(obj, user)
    if kind.has_status and kind.custom is None and "status" not in obj:
        obj["status"] = copy.deepcopy(_blank_status(kind.served.definition))


PARTS: dict[tuple[str, str, str], tuple[tuple[str, ...], ...]] = {
    ("", "pods", "ephemeralcontainers"): (("spec", "ephemeralContainers"),),
    ("", "namespaces", "finalize"): (("spec", "finalizers"),),
    ("certificates.k8s.io", "certificatesigningrequests", "approval"): (("status", "conditions"),),
}
"""The parts of an object that a subresource may change, besides status."""

KEEPS_SPEC: frozenset[Name] = frozenset({("certificates.k8s.io", "certificatesigningrequests")})
"""Kinds whose spec is what their creator asked for, for good."""


def prepare_update(kind: Kind, obj: Object, old: Object, subresource: str) -> Object:
    """Return the object as the request may change it: what it may not touch is taken from the old one."""
    name = name_of(kind)
    if subresource == "binding":
        return obj
    if subresource == "status":
        obj = with_custom_status(obj, old) if kind.custom is not None else with_status(name, obj, old)
        if name == _DEFINITIONS:
            obj["status"] = {**(obj.get("status") or {}), "storedVersions": stored_versions(obj)}
    elif subresource == "resize":
        obj = _resized(obj, old)
    elif parts := PARTS.get((*name, subresource)):
        obj = _partial_update(obj, old, parts)
        if name in KEEPS_SPEC:
            stamp_conditions(obj, old)
    else:
        if kind.has_status:
            take(obj, old, "status")
        if name in KEEPS_SPEC:
            take(obj, old, "spec")
        if name == _ENDPOINTS and obj.get("endpoints") != old.get("endpoints"):
            _slice(obj)
        elif name == _DEVICES:
            _devices(obj)
        elif name == _DEFINITIONS:
            obj["status"] = {**(obj.get("status") or {}), "storedVersions": with_storage_version(obj)}
        elif name == ("", "namespaces"):
            finalizers = old.get("spec", {}).get("finalizers")
            if finalizers:
                obj.setdefault("spec", {})["finalizers"] = finalizers
    if name in COUNTS_GENERATIONS or kind.custom is not None:
        generation = int(old["metadata"].get("generation") or 1)
        grown = _wishes(kind, obj) != _wishes(kind, old)
        if name in LABELS_COUNT:
            grown = grown or (obj["metadata"].get("labels") or {}) != (old["metadata"].get("labels") or {})
        obj["metadata"]["generation"] = generation + grown
    return obj


def _partial_update(obj: Object, old: Object, parts: tuple[tuple[str, ...], ...]) -> Object:
    made: Object = {**old, "metadata": {**old["metadata"]}}
    for field in ("resourceVersion", "finalizers", "managedFields"):
        take(made["metadata"], obj["metadata"], field)
    for outer, inner in parts:
        section: dict[str, Any] = {**(made.get(outer) or {})}
        take(section, obj.get(outer) or {}, inner)
        made[outer] = section
    return made


def _resized(obj: Object, old: Object) -> Object:
    """Take resources from the request; containers that are not the stored ones are left for validation to refuse."""
    made: Object = {**old, "metadata": {**old["metadata"]}, "spec": {**(old.get("spec") or {})}}
    for field in ("resourceVersion", "finalizers", "managedFields"):
        take(made["metadata"], obj["metadata"], field)
    wanted = obj.get("spec") or {}
    take(made["spec"], wanted, "resources")
    for field in ("containers", "initContainers"):
        new, held = wanted.get(field) or [], made["spec"].get(field) or []
        if [each.get("name") for each in new] != [each.get("name") for each in held]:
            take(made["spec"], wanted, field)
            continue
        if held:
            made["spec"][field] = [_with_resources(before, after) for before, after in zip(held, new, strict=True)]
    return made


def _with_resources(before: Object, after: Object) -> Object:
    made = dict(before)
    for field in ("resources", "resizePolicy"):
        take(made, after, field)
    return made


def _wishes(kind: Kind, obj: Object) -> dict[str, Any]:
    """Return what is wished for; custom objects whose status is no part of its own are wished for as a whole."""
    apart = NOT_WISHED if kind.custom is None or kind.has_status else ("apiVersion", "kind", "metadata")
    return {field: value for field, value in obj.items() if field not in apart}
