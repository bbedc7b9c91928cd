"""Server-side apply: who owns which field, and what follows when someone states a wish for some of them.

An object whose owners are not known was there before its first apply: all that stands belongs to
``before-first-apply``, as Kubernetes does it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from control.api import schema, status
from control.api.comparing import KeysMissingError
from control.api.fieldsets import Shape, UntypedError, check_unique, is_element, merge, path_text, remove, root
from control.api.fieldtrees import Path, Tree, difference, intersection, paths, union
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.tracking import (
    Entry,
    Manager,
    Scope,
    VersionOf,
    bare,
    entries_of,
    entry_for,
    manager_of,
    readable,
    set_entries,
    surviving,
    track_update,
)

BEFORE_FIRST_APPLY = "before-first-apply"


def apply(
    live: Object | None,
    wanted: Object,
    manager: Manager,
    scope: Scope,
    now: str,
    *,
    force: bool = False,
    forgiven: Tree | None = None,
    version_of: VersionOf | None = None,
) -> Object:
    """Return the object after ``manager`` applied ``wanted``, with its managedFields; raises Conflict (409).

    ``wanted`` has no defaults filled in; ``now`` is a timestamp's text. Fields in ``forgiven`` are taken from their
    owners as if by force.
    """
    shape = root(scope.definition)
    wanted = copy_json(wanted)
    (wanted.get("metadata") or {}).pop("managedFields", None)
    try:
        check_unique(wanted, shape)
    except UntypedError as error:
        raise not_typed(wanted, str(error)) from None
    entries = _entries(live, manager, scope, now, version_of)
    scope = replace(scope, sparse=True)
    mine = next((entry for entry in entries if manager_of(entry).key == manager.key), None)
    others = [entry for entry in entries if entry is not mine]
    before = bare(live) if live is not None else {"metadata": {}}
    try:
        stated = scope.stated(wanted)
        result: Object = merge(before, wanted, shape)
        kept = frozenset(paths(_together(others, stated)))
        if dropped := _dropped(frozenset(paths((mine or {}).get("fieldsV1") or {})), kept, shape):
            result = remove(result, shape, dropped, kept)
        changes = scope.changes(before, result)
    except KeysMissingError as error:
        raise not_typed(wanted, str(error)) from None
    if not force:
        _check_conflicts(others, changes[0], manager, scope, (before, result), version_of, forgiven)
    left = surviving(others, changes, manager, scope, before, result, version_of)
    if stated:
        # Who states what stands already changes nothing, so that no time is told of.
        time = now if live is None or result != before else (mine or {}).get("time") or ""
        left.append(entry_for(manager, stated, time))
    made = {**result, "metadata": dict(result.get("metadata") or {})}
    set_entries(made, left)
    return made


def not_typed(wish: Any, fault: str) -> status.ApiError:
    """500, as Kubernetes answers where a configuration does not fit its type."""
    metadata = wish.get("metadata") or {}
    about = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}; {type_text(wish)}"
    error = status.failure(500, "", f"failed to create typed patch object ({about}): {fault}")
    del error.status["reason"]
    return error


def type_text(obj: Any) -> str:
    """Return an object's type as Kubernetes' texts name it: ``apps/v1, Kind=Deployment``."""
    version = obj.get("apiVersion") or ""
    return f"{version if '/' in version else '/' + version}, Kind={obj.get('kind') or ''}"


def restore_zeroes(wish: Any, sent: Any, kind: str) -> None:
    """Put back into a decoded configuration the zero values that it states, which decoding has dropped."""
    if isinstance(wish, list) and isinstance(sent, list):
        for kept, item in zip(wish, sent, strict=True):
            restore_zeroes(kept, item, schema.element(kind))
    elif isinstance(wish, dict) and isinstance(sent, dict):
        found = schema.resolve(kind)
        for name, item in sent.items():
            field = found.fields.get(name) if found else None
            if name in wish:
                inner = field.type if field else schema.element(kind) if kind.startswith("{}") else ""
                restore_zeroes(wish[name], item, inner)
            elif field is not None and not item and item is not None and name != "managedFields":
                wish[name] = item


def _entries(
    live: Object | None, manager: Manager, scope: Scope, now: str, version_of: VersionOf | None
) -> list[Entry]:
    """Return the entries of what an apply finds."""
    if live is None:
        return []
    found = readable(entries_of(live))
    if found:
        return found
    standing = {**live, "metadata": dict(live.get("metadata") or {})}
    before = Manager(BEFORE_FIRST_APPLY, "Update", manager.api_version, manager.subresource)
    track_update({}, standing, before, scope, now, is_new=True, version_of=version_of)
    return entries_of(standing)


def _together(entries: list[Entry], fields: Tree) -> Tree:
    for entry in entries:
        fields = union(entry.get("fieldsV1") or {}, fields)
    return fields


def _dropped(before: frozenset[Path], kept: frozenset[Path], shape: Shape) -> frozenset[Path]:
    """Return what goes with a manager's fields that nobody states any more.

    A structure in which nobody owns anything now goes as a whole, with the defaults that were filled in beside: half a
    probe is worth less than none. An element of a list or a map goes when nobody owns the element itself, whatever
    others changed in it: without what its owner stated it would not even have its key.
    """
    held = {path[:size] for path in kept for size in range(1, len(path) + 1)}
    named = {path[:size] for path in before for size in range(1, len(path)) if path[size - 1].startswith("f:")}
    gone = {path for path in before | named if path not in kept and path != ("f:metadata",)}
    return frozenset(path for path in gone if path not in held or (path in before and is_element(path, shape)))


def _check_conflicts(
    others: list[Entry],
    written: Tree,
    manager: Manager,
    scope: Scope,
    states: tuple[Object, Object],
    version_of: VersionOf | None,
    forgiven: Tree | None,
) -> None:
    found: list[tuple[str, Path]] = []
    for entry in sorted(others, key=_order):
        seen: Tree | None = written
        if entry["apiVersion"] != manager.api_version:
            changes = scope.changes_in(entry["apiVersion"], *states, version_of)
            seen = changes[0] if changes is not None else None
        taken = intersection(entry.get("fieldsV1") or {}, seen) if seen else {}
        if forgiven:
            taken = difference(taken, forgiven)
        found.extend((_manager_text(manager_of(entry)), path) for path in paths(taken))
    if found:
        raise _conflict(found)


def _order(entry: Entry) -> tuple[str, str, str, bool, str]:
    manager = manager_of(entry)
    return manager.name, manager.operation, manager.api_version, not manager.subresource, manager.subresource


def _manager_text(manager: Manager) -> str:
    text = f'"{manager.name}"'
    if manager.subresource:
        text += f' with subresource "{manager.subresource}"'
    return f"{text} using {manager.api_version}" if manager.operation == "Update" else text


def _conflict(found: list[tuple[str, Path]]) -> status.ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {manager}", "field": path_text(path)}
        for manager, path in found
    ]
    if len(found) == 1:
        text = f"Apply failed with 1 conflict: conflict with {found[0][0]}: {path_text(found[0][1])}"
    else:
        lines = []
        for manager in dict.fromkeys(manager for manager, _ in found):
            lines.append(f"conflicts with {manager}:")
            lines.extend(f"- {path_text(path)}" for owner, path in found if owner == manager)
        text = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return status.failure(409, "Conflict", text, {"causes": causes})
