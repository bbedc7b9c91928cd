"""Rules of the metadata that all objects share, and of label selectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from control.api.meta import Object
from control.api.resources import Resource, by_plural
from control.api.validation import ip_forms, names
from control.api.validation.faults import Faults, quoted

ANNOTATIONS_BYTES_MAX = 256 * 1024
_NameCheck = Callable[[str], list[str]]
_RBAC = "rbac.authorization.k8s.io"
_ANY_FINALIZER = frozenset({
    "admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "coordination.k8s.io",
    "node.k8s.io",
})  # fmt: skip
"""Groups in whose objects a finalizer's name may do without a domain, as in custom ones."""
_STANDARD_FINALIZERS = ("kubernetes", "orphan", "foregroundDeletion")
_NAME_CHECKS: dict[tuple[str, str], _NameCheck] = {
    ("", "namespaces"): names.dns_label,
    ("", "services"): names.dns_label,
    **dict.fromkeys(
        [(_RBAC, plural) for plural in ("roles", "rolebindings", "clusterroles", "clusterrolebindings")],
        names.path_segment,
    ),
    ("networking.k8s.io", "ipaddresses"): ip_forms.canonical_address,
    ("apiregistration.k8s.io", "apiservices"): names.path_segment,
    ("certificates.k8s.io", "certificatesigningrequests"): names.path_segment,
    ("", "events"): names.path_segment,
}


def check_labels(labels: dict[str, str] | None, path: str, faults: Faults) -> None:
    """Check a map of labels."""
    if not labels:
        return
    for key, value in labels.items():
        if found := names.qualified_name(key):
            faults.invalid_all(path, key, found)
        if found := names.label_value(value):
            faults.invalid_all(path, value, found)


def check_annotations(annotations: dict[str, str] | None, path: str, faults: Faults) -> None:
    """Check a map of annotations: keys, and the size of all together."""
    if not annotations:
        return
    total = 0
    for key, value in annotations.items():
        if found := names.qualified_name(key.lower()):
            faults.invalid_all(path, key, found)
        total += len(key.encode()) + len(value.encode())
    if total > ANNOTATIONS_BYTES_MAX:
        faults.too_long(path, ANNOTATIONS_BYTES_MAX)


def check_template_metadata(metadata: dict[str, Any], path: str, faults: Faults) -> None:
    """Check the metadata that a template gives to what is made of it: labels and annotations, nothing else."""
    check_annotations(metadata.get("annotations"), f"{path}.annotations", faults)
    check_labels(metadata.get("labels"), f"{path}.labels", faults)
    for field, value in metadata.items():
        if value and field not in ("annotations", "labels"):
            faults.forbidden(f"{path}.{field}", "cannot be set")


def check_name(resource: Resource, metadata: dict[str, Any], faults: Faults) -> None:
    """Check metadata.name, or generateName where the name is still to be made."""
    check = _NAME_CHECKS.get((resource.group, resource.plural), names.dns_subdomain)
    generate = metadata.get("generateName")
    if generate:
        # What follows is appended later, so a hyphen at the end stands for a name's middle.
        masked = generate[:-2] + "a" if len(generate) > 1 and generate[-1] == "-" else generate
        faults.invalid_all("metadata.generateName", generate, check(masked))
    name = metadata.get("name")
    if not name:
        if not generate:
            faults.required("metadata.name", "name or generateName is required")
        return
    faults.invalid_all("metadata.name", name, check(name))


def check_metadata(resource: Resource, obj: Object, faults: Faults) -> None:
    """Check the metadata of an object."""
    metadata = obj.get("metadata") or {}
    check_name(resource, metadata, faults)
    namespace = metadata.get("namespace")
    if resource.namespaced:
        if not namespace:
            faults.required("metadata.namespace")
        else:
            faults.invalid_all("metadata.namespace", namespace, names.dns_label(namespace))
    elif namespace:
        faults.forbidden("metadata.namespace", "not allowed on this type")
    faults.not_negative("metadata.generation", metadata.get("generation"))
    check_labels(metadata.get("labels"), "metadata.labels", faults)
    check_annotations(metadata.get("annotations"), "metadata.annotations", faults)
    _check_owners(metadata.get("ownerReferences") or [], faults)
    if finalizers := metadata.get("finalizers"):
        _check_finalizers(resource, finalizers, faults)


def check_finalizer(name: str, path: str, faults: Faults) -> None:
    """Check the name of a finalizer: a qualified one, or one of those that Kubernetes knows."""
    faults.invalid_all(path, name, names.qualified_name(name))
    if "/" not in name and name not in _STANDARD_FINALIZERS:
        faults.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified")


def _check_finalizers(resource: Resource, finalizers: list[str], faults: Faults) -> None:
    path = "metadata.finalizers"
    for name in finalizers:
        faults.invalid_all(path, name, names.qualified_name(name))
    if "orphan" in finalizers and "foregroundDeletion" in finalizers:
        faults.invalid(path, finalizers, "finalizer orphan and foregroundDeletion cannot be both set")
    built_in = by_plural(resource.group, resource.version, resource.plural) is not None
    if not built_in or resource.group in _ANY_FINALIZER:
        return
    for index, name in enumerate(finalizers):
        if "/" not in name and name not in _STANDARD_FINALIZERS:
            text = "name is neither a standard finalizer name nor is it fully qualified"
            faults.invalid(f"{path}[{index}]", name, text)


def _check_owners(owners: list[dict[str, Any]], faults: Faults) -> None:
    path = "metadata.ownerReferences"
    first = ""
    for owner in owners:
        # Kubernetes names the list alone, not the entry.
        version = owner.get("apiVersion") or ""
        if version.count("/") > 1 or not version.rpartition("/")[2]:
            faults.invalid(f"{path}.apiVersion", version, "version must not be empty")
        for key in ("kind", "name", "uid"):
            if not owner.get(key):
                faults.invalid(f"{path}.{key}", "", "must not be empty")
        if owner.get("apiVersion") == "v1" and owner.get("kind") == "Event":
            faults.invalid(path, owner, "/v1, Kind=Event is disallowed from being an owner")
        if not owner.get("controller"):
            continue
        named = f"{owner.get('kind')}/{owner.get('name')}"
        if first:
            text = f'Only one reference can have Controller set to true. Found "true" in references for {first} and '
            faults.invalid(path, owners, text + named)
        first = first or named


def check_metadata_update(new: Object, old: Object, faults: Faults) -> None:
    """Check what may not change in the metadata."""
    was, now = old.get("metadata") or {}, new.get("metadata") or {}
    if was.get("deletionTimestamp"):
        _check_finalizers_of_deleted(now, was, faults)
    if (now.get("generation") or 0) < (was.get("generation") or 0):
        faults.invalid("metadata.generation", now.get("generation") or 0, "must not be decremented")
    for field in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
        if now.get(field) != was.get(field):
            faults.invalid(f"metadata.{field}", now.get(field), "field is immutable")


def _check_finalizers_of_deleted(now: dict[str, Any], was: dict[str, Any], faults: Faults) -> None:
    added = sorted(set(now.get("finalizers") or ()) - set(was.get("finalizers") or ()))
    if added:
        shown = "[]string{" + ", ".join(quoted(name) for name in added) + "}"
        faults.forbidden(
            "metadata.finalizers",
            f"no new finalizers can be added if the object is being deleted, found new finalizers {shown}",
        )


def check_selector(selector: dict[str, Any] | None, path: str, faults: Faults) -> None:
    """Check a LabelSelector."""
    if selector is None:
        return
    check_labels(selector.get("matchLabels"), f"{path}.matchLabels", faults)
    for index, entry in enumerate(selector.get("matchExpressions") or []):
        here = f"{path}.matchExpressions[{index}]"
        operator, values = entry.get("operator"), entry.get("values") or []
        if operator in ("In", "NotIn"):
            if not values:
                faults.required(f"{here}.values", "must be specified when `operator` is 'In' or 'NotIn'")
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                faults.forbidden(f"{here}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
        else:
            faults.invalid(f"{here}.operator", operator or "", "not a valid selector operator")
        faults.invalid_all(f"{here}.key", entry.get("key") or "", names.qualified_name(entry.get("key") or ""))
        for position, value in enumerate(values):
            faults.invalid_all(f"{here}.values[{position}]", value, names.label_value(value))
