"""Reads and writes the metadata that all objects share."""

from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object: JSON-shaped, camelCase."""


def metadata(obj: Object) -> dict[str, Any]:
    """Return the object's metadata, made where it is missing."""
    found: dict[str, Any] = obj.setdefault("metadata", {})
    return found


def name(obj: Object) -> str:
    """Return metadata.name, empty where there is none."""
    return str(obj.get("metadata", {}).get("name") or "")


def namespace(obj: Object) -> str:
    """Return metadata.namespace, empty for cluster-scoped objects."""
    return str(obj.get("metadata", {}).get("namespace") or "")


def uid(obj: Object) -> str:
    """Return metadata.uid."""
    return str(obj.get("metadata", {}).get("uid") or "")


def resource_version(obj: Object) -> str:
    """Return metadata.resourceVersion."""
    return str(obj.get("metadata", {}).get("resourceVersion") or "")


def key(obj: Object) -> str:
    """Return "namespace/name", or "name" for cluster-scoped objects."""
    space = namespace(obj)
    return f"{space}/{name(obj)}" if space else name(obj)


def split_key(text: str) -> tuple[str, str]:
    """Return (namespace, name) of a key."""
    space, slash, rest = text.rpartition("/")
    return (space, rest) if slash else ("", text)


def labels(obj: Object) -> dict[str, str]:
    """Return metadata.labels; never None, not to be changed."""
    return obj.get("metadata", {}).get("labels") or {}


def annotations(obj: Object) -> dict[str, str]:
    """Return metadata.annotations; never None, not to be changed."""
    return obj.get("metadata", {}).get("annotations") or {}


def is_being_deleted(obj: Object) -> bool:
    """Tell whether deletion has begun."""
    return bool(obj.get("metadata", {}).get("deletionTimestamp"))


def owner_references(obj: Object) -> list[dict[str, Any]]:
    """Return metadata.ownerReferences; never None."""
    return obj.get("metadata", {}).get("ownerReferences") or []


def controller_of(obj: Object) -> dict[str, Any] | None:
    """Return the owner reference of the managing controller."""
    return next((reference for reference in owner_references(obj) if reference.get("controller")), None)


def controller_reference(owner: Object) -> dict[str, Any]:
    """Return an owner reference that makes ``owner`` the managing controller."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def condition(obj: Object, condition_type: str) -> dict[str, Any] | None:
    """Return the entry of status.conditions with this type."""
    conditions = obj.get("status", {}).get("conditions") or []
    return next((entry for entry in conditions if entry.get("type") == condition_type), None)


def condition_is_true(obj: Object, condition_type: str) -> bool:
    """Tell whether a condition of this type stands at "True"."""
    found = condition(obj, condition_type)
    return found is not None and found.get("status") == "True"
