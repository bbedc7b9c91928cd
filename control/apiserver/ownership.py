"""Owners of fields: who a request's writer is, and what its change leaves behind in managedFields."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from control.api import lastapplied, status
from control.api.apply import apply, not_typed, restore_zeroes, type_text
from control.api.decode import decode
from control.api.fieldsets import root, undeclared
from control.api.fieldtrees import DOT, Path, Tree
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.tracking import (
    Manager,
    Scope,
    check_field_manager,
    manager_name,
    set_entries,
    track_creation,
    track_update,
)
from control.apiserver import scale
from control.apiserver.convert import convert
from control.apiserver.kinds import Kind, Kinds
from control.apiserver.registry import Context, now_text
from control.apiserver.request import RequestInfo

_NOT_BY_STATUS: dict[tuple[str, str], frozenset[Path]] = {
    ("", "pods"): frozenset({("spec",), ("metadata", "deletionTimestamp"), ("metadata", "ownerReferences")}),
    ("apps", "deployments"): frozenset({("spec",), ("metadata", "labels")}),
    ("storage.k8s.io", "volumeattachments"): frozenset({("spec",), ("metadata",)}),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"): frozenset({("spec",), ("metadata",)}),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"): frozenset({("spec",), ("metadata",)}),
}
"""What writers of status cannot reach, where that is more than spec."""


def _only_ephemeral(fields: Tree) -> Tree:
    return _at(fields, "f:spec", lambda spec: {name: spec[name] for name in ("f:ephemeralContainers",) if name in spec})


def _only_resources(fields: Tree) -> Tree:
    return _at(fields, "f:spec", _resources)


def _resources(spec: Tree) -> Tree:
    made = {"f:resources": spec["f:resources"]} if "f:resources" in spec else {}
    for name in ("f:containers", "f:initContainers"):
        containers: Tree = {}
        for element, container in (spec.get(name) or {}).items():
            kept = {key: container[key] for key in ("f:resources", "f:resizePolicy") if key in container}
            if kept and element != DOT:
                containers[element] = kept
        if containers:
            made[name] = containers
    return made


def _at(fields: Tree, element: str, keep: Callable[[Tree], Tree]) -> Tree:
    kept = keep(fields[element]) if element in fields else {}
    return {element: kept} if kept else {}


_ONLY = {"ephemeralcontainers": _only_ephemeral, "resize": _only_resources}


@lru_cache(maxsize=4096)
def _scope(name: tuple[str, str], definition: str, subresource: str, *, has_status: bool, custom: bool) -> Scope:
    if subresource in _ONLY:
        return Scope(definition, frozenset({("status",)}), _ONLY[subresource])
    if subresource == "status":
        plain = {("spec",), ("metadata",)} if custom else {("spec",)}
        return Scope(definition, _NOT_BY_STATUS.get(name, frozenset(plain)))
    if subresource == "approval":
        return Scope(definition, frozenset({("spec",)}))
    return Scope(definition, frozenset({("status",)} if has_status else ()))


def scope_of(kind: Kind, subresource: str) -> Scope:
    """Return how objects of a kind are compared when they are changed through a subresource, or as a whole."""
    resource = kind.resource
    return _scope(
        (resource.group, resource.plural), kind.served.definition, subresource,
        has_status=kind.has_status, custom=kind.custom is not None,
    )  # fmt: skip


def writer(kind: Kind, context: Context, operation: str, subresource: str = "") -> Manager:
    """Return who writes, as managedFields names them."""
    options = context.options
    name = manager_name(options.field_manager, options.user_agent)
    return Manager(name, operation, kind.resource.api_version, subresource)


def _in_version(kinds: Kinds, kind: Kind, obj: Object, api_version: str) -> tuple[Object, str] | None:
    """Return an object as another version sees it, with that version's definition; None where there is none."""
    group, _, version = api_version.rpartition("/")
    found = kinds.find(group, version, kind.resource.plural)
    if found is None or kinds.storage(found) is not kinds.storage(kind):
        return None
    return convert(obj, found.resource), found.served.definition


def begin(kind: Kind, context: Context, obj: Object) -> None:
    """Give a new object its owners."""
    metadata = obj["metadata"]
    for name in ("deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(name, None)
    track_creation(obj, writer(kind, context, "Update"), scope_of(kind, ""), now_text())


def track(kinds: Kinds, kind: Kind, subresource: str, context: Context, old: Object, new: Object, sent: Any) -> Object:
    """Set the owners that follow from a change, and return the new object; ``sent`` is what it was decoded from."""
    if not subresource and (sent.get("metadata") or {}).get("managedFields") == []:
        # Decoding drops what says here that nobody shall own anything.
        new["metadata"]["managedFields"] = []
    return track_update(
        old, new, writer(kind, context, "Update", subresource), scope_of(kind, subresource), now_text(),
        version_of=partial(_in_version, kinds, kind),
    )  # fmt: skip


_WORDS = {list: "array", str: "string", bool: "bool"}
"""What JSON calls values that are no configuration."""


def read_wish(kind: Kind, info: RequestInfo, value: Any, context: Context) -> Object:
    """Return the applied configuration, checked but without defaults; raises ApiError."""
    resource, definition = kind.resource, kind.served.definition
    _check_wish(value, resource.api_version, resource.kind, context)
    if kind.custom is not None:
        wish, faults = kind.custom.read(copy_json(value), "Warn")
    else:
        wish, faults = decode(value, resource.group, resource.version, resource.kind, "Warn")
        restore_zeroes(wish, value, definition)
    return _checked_wish(wish, value, faults, definition, info, context)


def _check_wish(value: Any, api_version: str, kind: str, context: Context) -> None:
    causes = check_field_manager(context.options.field_manager)
    if not context.options.field_manager:
        causes = [status.Cause("FieldValueRequired", "Required value: is required for apply patch", "fieldManager")]
    if causes:
        raise status.invalid("PatchOptions", "", causes, "meta.k8s.io")
    if value is not None and not isinstance(value, dict):
        raise status.bad_request(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal "
            f"{_WORDS.get(type(value), 'number')} into Go value of type map[string]interface {{}}"
        )
    value = value or {}
    if (value.get("apiVersion"), value.get("kind")) != (api_version, kind):
        raise status.bad_request(f"invalid object type: {type_text(value)}")
    metadata = value.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("managedFields"), list):
        raise status.bad_request("metadata.managedFields must be nil")


def _checked_wish(
    wish: Object, value: Any, faults: list[str], definition: str, info: RequestInfo, context: Context
) -> Object:
    if faults:
        places = undeclared(value, root(definition)) or [
            "." + fault.removeprefix('unknown field "').removesuffix('"') for fault in faults
        ]
        told = [f"{place}: field not declared in schema" for place in places]
        raise not_typed(value, told[0] if len(told) == 1 else "errors:\n" + "".join(f"  {each}\n" for each in told))
    if context.options.duplicates:
        if context.options.field_validation == "Strict":
            fault = "yaml: unmarshal errors:\n  " + "\n  ".join(context.options.duplicates)
            raise status.bad_request(f"error strict decoding YAML: error converting YAML to JSON: {fault}")
        context.warnings.extend(context.options.duplicates)
    metadata = wish.setdefault("metadata", {})
    if metadata.setdefault("name", info.name) != info.name:
        raise status.bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL ({info.name})"
        )
    return wish


def applied(kinds: Kinds, kind: Kind, subresource: str, context: Context, live: Object | None, wish: Object) -> Object:
    """Return what the stored object becomes by the configuration; raises Conflict."""
    manager, scope = writer(kind, context, "Apply", subresource), scope_of(kind, subresource)
    by_kubectl = manager.name == lastapplied.MANAGER
    forgiven = lastapplied.own_fields(live, kind.resource.api_version, scope) if by_kubectl else None
    made = apply(
        live, wish, manager, scope, now_text(), force=context.options.force, forgiven=forgiven,
        version_of=partial(_in_version, kinds, kind),
    )  # fmt: skip
    return lastapplied.noted(made, wish) if by_kubectl else made


# Scale: its owners are those of the replicas of what is scaled.

ScaleChange = Callable[[Object], Object]
"""Makes the wished Scale of the one that stands, with the owners that follow; may raise ApiError."""


def scale_change(context: Context, make: Callable[[Object], Any]) -> ScaleChange:
    """Return a change of a Scale by an update or a patch."""

    def change(old: Object) -> Object:
        wanted = make(old)
        if not isinstance(wanted, dict):
            raise status.bad_request("the body is not a Scale")
        new = {**wanted, "metadata": dict(wanted.get("metadata") or {})}
        track_update(old, new, _scaler(context, "Update"), scale.SCOPE, now_text())
        return new

    return change


def scale_wish(info: RequestInfo, value: Any, context: Context) -> ScaleChange:
    """Return a change of a Scale by server-side apply; raises ApiError."""
    _check_wish(value, scale.API_VERSION, scale.KIND, context)
    group, _, version = scale.API_VERSION.partition("/")
    decoded, faults = decode(value, group, version, scale.KIND, "Warn")
    wish = _checked_wish(decoded, value, faults, scale.SCOPE.definition, info, context)
    manager = _scaler(context, "Apply")
    return lambda old: apply(old, wish, manager, scale.SCOPE, now_text(), force=context.options.force)


def _scaler(context: Context, operation: str) -> Manager:
    name = manager_name(context.options.field_manager, context.options.user_agent)
    return Manager(name, operation, scale.API_VERSION, "scale")


def rescaled(kinds: Kinds, kind: Kind, old: Object, make: ScaleChange) -> Object:
    """Return an object with the replicas, and with the owners of them, that a change of its Scale leads to."""

    def path_in(api_version: str) -> Path | None:
        group, _, version = api_version.rpartition("/")
        found = kinds.find(group, version, kind.resource.plural)
        return scale.path_of(found.scale_paths) if found is not None else None

    was = scale.scale_of(old, kind.scale_paths)
    if entries := scale.owners_of_scale(old, path_in):
        was["metadata"]["managedFields"] = entries
    wanted = make(was)
    new = scale.with_scale(copy_json(old), wanted, kind.scale_paths)
    set_entries(new, scale.owners_of_scaled(old, wanted, kind.resource.api_version, path_in))
    return new
