"""Server-side apply on its way to the registry, and the owners of fields that other changes leave behind."""

from __future__ import annotations

from typing import Any, Literal, cast

from control.api import lastapplied, status
from control.api.apply import Manager, apply, are_managed_fields, check_field_manager, is_tracked, track_update
from control.api.decode import decode
from control.api.fieldsets import EMPTY
from control.api.meta import Object
from control.api.patch import copy_json
from control.apiserver.kinds import Kind
from control.apiserver.registry import Context, now_text
from control.apiserver.request import RequestInfo

UNNAMED = "unknown"


def _manager(kind: Kind, info: RequestInfo, context: Context, operation: str) -> Manager:
    options = context.options
    name = options.field_manager or options.user_agent.partition("/")[0] or UNNAMED
    return Manager(name, operation, kind.resource.api_version, info.subresource)


def track(kind: Kind, info: RequestInfo, context: Context, old: Object, new: Object) -> Object:
    """Return ``new`` with the owners that follow from its change; objects that nobody applied have none."""
    sent = new.get("metadata", {}).pop("managedFields", None)
    if info.subresource or sent == (old.get("metadata") or {}).get("managedFields"):
        sent = None
    elif sent == [{}]:
        # So clients say that nobody shall own anything from now on.
        return new
    taken = sent if are_managed_fields(sent) else None
    if taken is None and not is_tracked(old):
        return new
    manager = _manager(kind, info, context, "Update")
    return track_update(old, new, manager, kind.served.definition, now_text(), sent=taken, apart=kind.has_status)


def accept(obj: Object) -> None:
    """Leave a new object the owners that it came with, where they can be read."""
    metadata = obj["metadata"]
    if "managedFields" in metadata and not are_managed_fields(metadata["managedFields"]):
        del metadata["managedFields"]


def read_wish(kind: Kind, info: RequestInfo, value: Any, context: Context) -> Object:
    """Return the applied configuration, checked but without defaults; raises ApiError."""
    causes = check_field_manager(context.options.field_manager)
    if not context.options.field_manager:
        causes = [status.Cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")]
    if causes:
        raise status.invalid("PatchOptions", "", causes, "meta.k8s.io")
    if not isinstance(value, dict):
        raise status.bad_request("error decoding YAML: the configuration is not an object")
    resource = kind.resource
    mode = cast(Literal["Strict", "Warn", "Ignore"], context.options.field_validation or "Warn")
    if kind.custom is not None:
        wish, warnings = kind.custom.read(copy_json(value), mode)
    else:
        wish, warnings = decode(value, resource.group, resource.version, resource.kind, mode)
    context.warnings.extend(warnings)
    if context.options.duplicates:
        fault = "yaml: unmarshal errors:\n  " + "\n  ".join(context.options.duplicates)
        if mode == "Strict":
            raise status.bad_request(f"error strict decoding YAML: {fault}")
        context.warnings.extend(context.options.duplicates)
    metadata = wish.setdefault("metadata", {})
    if metadata.get("managedFields"):
        raise status.bad_request("metadata.managedFields must be nil")
    if metadata.setdefault("name", info.name) != info.name:
        raise status.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({info.name})"
        )
    return wish


def applied(kind: Kind, info: RequestInfo, context: Context, live: Object | None, wish: Object) -> Object:
    """Return what the stored object becomes by the configuration; raises Conflict."""
    manager = _manager(kind, info, context, "Apply")
    definition, by_kubectl = kind.served.definition, manager.name == lastapplied.MANAGER
    forgiven = lastapplied.own_fields(live, kind.resource.api_version, definition) if by_kubectl else EMPTY
    made = apply(
        live, wish, manager, definition, now_text(), force=context.options.force, forgiven=forgiven,
        apart=kind.has_status,
    )  # fmt: skip
    return lastapplied.noted(made, wish) if by_kubectl else made
