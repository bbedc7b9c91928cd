"""Server-side apply: who owns which field, and what follows when someone states a wish for some of them.

An object without managedFields is not tracked.  The first apply on it gives all that stands to ``before-first-apply``,
as Kubernetes does, but for what `kubectl apply` noted as its own; from then on `track_update` keeps the owners right
when the object is changed in other ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from control.api import lastapplied, status
from control.api.fieldsets import (
    EMPTY,
    FieldSet,
    FieldSetError,
    Path,
    changes,
    check_unique,
    field_set,
    from_fields_v1,
    merge,
    path_text,
    remove,
    root,
    to_fields_v1,
)
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.validation.faults import Faults

BEFORE_FIRST_APPLY = "before-first-apply"
CLIENT_SIDE_APPLY = "kubectl-client-side-apply"
"""Owns what `kubectl apply` noted on the object: kubectl takes over all that stands beside its note."""
MANAGER_BYTES_MAX = 128
UPDATE_MANAGERS_MAX = 10
"""More managers of updates are folded into one, so that an object does not grow for ever."""
_NOT_OWNED: tuple[Path, ...] = (
    ("f:apiVersion",),
    ("f:kind",),
    ("f:metadata",),
    *(
        ("f:metadata", f"f:{name}")
        for name in (
            "name",
            "namespace",
            "creationTimestamp",
            "selfLink",
            "uid",
            "generation",
            "managedFields",
            "resourceVersion",
        )
    ),
)


@dataclass(frozen=True)
class Manager:
    """Who writes, in which way, in which version and through which subresource."""

    name: str
    operation: str
    """Apply or Update."""
    api_version: str
    subresource: str = ""


@dataclass(frozen=True)
class _Owned:
    fields: FieldSet
    time: str


_Owners: TypeAlias = "dict[Manager, _Owned]"


def _owners_of(obj: Object | None) -> _Owners:
    owners: _Owners = {}
    for entry in ((obj or {}).get("metadata") or {}).get("managedFields") or []:
        manager = Manager(
            entry.get("manager") or "",
            entry.get("operation") or "Update",
            entry.get("apiVersion") or "",
            entry.get("subresource") or "",
        )
        fields = from_fields_v1(entry.get("fieldsV1") or {})
        held = owners.get(manager, _Owned(EMPTY, ""))
        owners[manager] = _Owned(held.fields | fields, entry.get("time") or held.time)
    return owners


def are_managed_fields(entries: Any) -> bool:
    """Tell whether a list says who owns which fields, so that it may be stored as it was sent."""
    if not isinstance(entries, list) or not entries:
        return False
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("operation") not in ("Apply", "Update"):
            return False
        if not entry.get("apiVersion") or entry.get("fieldsType") != "FieldsV1":
            return False
        if check_field_manager(entry.get("manager") or ""):
            return False
        try:
            from_fields_v1(entry.get("fieldsV1") or {})
        except FieldSetError:
            return False
    return True


def _entries(owners: Mapping[Manager, _Owned]) -> list[dict[str, Any]]:
    ordered = sorted(owners.items(), key=lambda item: (item[0].operation, item[1].time, item[0].name))
    entries = []
    for manager, owned in ordered:
        if not owned.fields:
            continue
        entry: dict[str, Any] = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": owned.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(owned.fields),
        }
        if not owned.time:
            del entry["time"]
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    return entries


def _with_owners(obj: Object, owners: Mapping[Manager, _Owned]) -> Object:
    result = dict(obj)
    metadata = dict(result.get("metadata") or {})
    metadata.pop("managedFields", None)
    if entries := _entries(owners):
        metadata["managedFields"] = entries
    result["metadata"] = metadata
    return result


def _comparable(obj: Object | None, subresource: str, *, apart: bool = True) -> Object:
    """Return the part of an object that its managers can own through a subresource.

    ``apart`` tells that status is written by its subresource, and by that alone.
    """
    result = {key: value for key, value in (obj or {}).items() if key not in ("apiVersion", "kind")}
    if apart and not subresource:
        result.pop("status", None)
    elif apart and subresource == "status":
        result = {key: value for key, value in result.items() if key in ("metadata", "status")}
    metadata = {key: value for key, value in (result.get("metadata") or {}).items() if key != "managedFields"}
    result["metadata"] = metadata
    return result


def _ownable(fields: FieldSet) -> FieldSet:
    return fields.difference(_NOT_OWNED)


def apply(
    live: Object | None,
    wanted: Object,
    manager: Manager,
    definition_name: str,
    now: str,
    *,
    force: bool = False,
    forgiven: FieldSet = EMPTY,
    apart: bool = True,
) -> Object:
    """Return the object after ``manager`` applied ``wanted``, with its managedFields; raises Conflict (409).

    ``wanted`` has no defaults filled in; ``now`` is a timestamp's text. Fields in ``forgiven`` are taken from their
    owners as if by force. ``apart`` tells that status is written by its subresource.
    """
    shape = root(definition_name)
    wanted = copy_json(wanted)
    check_unique(wanted, shape)
    (wanted.get("metadata") or {}).pop("managedFields", None)
    owners = _owners_of(live)
    if live is not None and not owners:
        standing = _ownable(field_set(_comparable(live, "", apart=apart), shape))
        noted = standing & lastapplied.noted_fields(live, manager.api_version, definition_name)
        for name, fields in ((CLIENT_SIDE_APPLY, noted), (BEFORE_FIRST_APPLY, standing - noted)):
            owners[Manager(name, "Update", manager.api_version)] = _Owned(fields, now)
    before = owners.get(manager, _Owned(EMPTY, "")).fields
    stated = _ownable(field_set(_comparable(wanted, manager.subresource, apart=apart), shape))
    others = {other: owned for other, owned in owners.items() if other != manager}
    result: Object = merge(live, wanted, shape) if live is not None else wanted
    kept = stated.union(*(owned.fields for owned in others.values()))
    if dropped := _dropped(before, kept):
        result = remove(result, shape, dropped, kept)
    old = _comparable(live, manager.subresource, apart=apart)
    written, removed = changes(old, _comparable(result, manager.subresource, apart=apart), shape)
    _check_conflicts(others, written if not forgiven else written - forgiven, force=force)
    after = {other: replace(owned, fields=owned.fields - written - removed) for other, owned in others.items()}
    unchanged = manager in owners and stated == before and not written and not removed
    after[manager] = _Owned(stated, owners[manager].time if unchanged else now)
    return _with_owners(result, after)


def _dropped(before: FieldSet, kept: FieldSet) -> FieldSet:
    """Return what goes with a manager's fields that nobody states any more.

    A structure in which nobody owns anything now goes as a whole, with the defaults that were filled in beside: half a
    probe is worth less than none. An element of a list goes when nobody owns the element itself, whatever others
    changed in it: without what its owner stated it would not even have its key.
    """
    held = {path[:size] for path in kept for size in range(1, len(path) + 1)}
    named = {path[:size] for path in before for size in range(1, len(path)) if path[size - 1].startswith("f:")}
    return frozenset(
        path
        for path in before | named
        if path not in (held if path[-1].startswith("f:") else kept) and path != ("f:metadata",)
    )


def _check_conflicts(others: Mapping[Manager, _Owned], written: FieldSet, *, force: bool) -> None:
    if force:
        return
    found = [
        (_manager_text(other, owned.time), path)
        for other, owned in others.items()
        for path in sorted(owned.fields & written)
    ]
    if found:
        raise _conflict(found)


def _manager_text(manager: Manager, time: str) -> str:
    text = f'"{manager.name}"'
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    if manager.operation == "Update":
        text += f" using {manager.api_version}" + (f" at {time}" if time else "")
    return text


def _conflict(found: list[tuple[str, Path]]) -> status.ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path_text(path)}
        for manager, path in found
    ]
    if len(found) == 1:
        text = f"Apply failed with 1 conflict: conflict with {found[0][0]}: {path_text(found[0][1])}"
    else:
        lines = []
        for manager in sorted({manager for manager, _ in found}):
            lines.append(f"conflicts with {manager}:")
            lines.extend(f"- {path_text(path)}" for owner, path in found if owner == manager)
        text = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return status.failure(409, "Conflict", text, {"causes": causes})


def is_tracked(obj: Object | None) -> bool:
    """Tell whether an object's owners are known, so that its updates must be tracked."""
    return bool(((obj or {}).get("metadata") or {}).get("managedFields"))


def track_update(
    old: Object | None,
    new: Object,
    manager: Manager,
    definition_name: str,
    now: str,
    *,
    sent: list[Any] | None = None,
    apart: bool = True,
) -> Object:
    """Return ``new`` with the managedFields that follow from ``manager`` having changed ``old`` into it.

    ``sent`` are managedFields that the change brought along; they stand in the place of the old ones.
    """
    shape = root(definition_name)
    owners = _owners_of(old if sent is None else {"metadata": {"managedFields": sent}})
    written, removed = changes(
        _comparable(old, manager.subresource, apart=apart), _comparable(new, manager.subresource, apart=apart), shape
    )
    written = _ownable(written)
    after: _Owners = {}
    for other, owned in owners.items():
        fields = owned.fields - removed - (written if other != manager else EMPTY)
        after[other] = replace(owned, fields=fields)
    if written:
        mine = after.get(manager, _Owned(EMPTY, "")).fields | written
        after[manager] = _Owned(mine, now)
    return _with_owners(new, _folded(after, manager.api_version))


def _folded(owners: _Owners, api_version: str) -> _Owners:
    updates = [manager for manager, owned in owners.items() if manager.operation == "Update" and owned.fields]
    if len(updates) <= UPDATE_MANAGERS_MAX:
        return owners
    oldest = sorted(updates, key=lambda manager: owners[manager].time)[: len(updates) - UPDATE_MANAGERS_MAX + 1]
    ancient = Manager("ancient-changes", "Update", api_version)
    fields = EMPTY.union(*(owners[manager].fields for manager in oldest))
    time = max(owners[manager].time for manager in oldest)
    kept = {manager: owned for manager, owned in owners.items() if manager not in oldest}
    kept[ancient] = _Owned(fields | kept.get(ancient, _Owned(EMPTY, "")).fields, time)
    return kept


def check_field_manager(name: str) -> list[status.Cause]:
    """Return what is wrong with the name of a field manager."""
    if len(name.encode()) > MANAGER_BYTES_MAX:
        text = f"Too long: may not be more than {MANAGER_BYTES_MAX} bytes"
        return [status.Cause("FieldValueTooLong", text, "fieldManager")]
    faults = Faults()
    for index, letter in enumerate(name):
        if not letter.isprintable():
            faults.invalid("fieldManager", name, f"invalid character U+{ord(letter):04X} (at position {index})")
    return faults.causes
