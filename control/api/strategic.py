"""The strategic merge patch: a merge patch that knows which lists are merged, and by which key.

Directives in the patch steer it: ``$patch: delete|replace`` on a map or a list's element, ``$retainKeys`` on a map,
``$deleteFromPrimitiveList/field`` and ``$setElementOrder/field`` beside a list's field.
"""

from __future__ import annotations

from typing import Any

from control.api import schema, status
from control.api.patch import copy_json

_PATCH = "$patch"
_RETAIN = "$retainKeys"
_DELETE_FROM = "$deleteFromPrimitiveList/"
_SET_ORDER = "$setElementOrder/"


def strategic_merge_patch(original: dict[str, Any], patch: Any, definition_name: str) -> dict[str, Any]:
    """Return ``original`` changed by a patch, by the facts of its type; raises ApiError (400)."""
    if not isinstance(patch, dict):
        raise status.bad_request("invalid JSON document")
    return _merge_map(copy_json(original), copy_json(patch), definition_name)


def _fields(definition_name: str) -> dict[str, schema.Field]:
    return schema.definition(definition_name).fields if definition_name else {}


def _structure(kind: str) -> str:
    """Return the definition that a type leads to, empty for scalars."""
    inner = schema.element(kind) if kind[:1] in ("[", "{") else kind
    return inner if inner and schema.resolve(inner) is not None else ""


def _merge_map(original: dict[str, Any], patch: dict[str, Any], definition_name: str) -> dict[str, Any]:
    directive = patch.pop(_PATCH, None)
    if directive == "replace":
        replaced: dict[str, Any] = _without_directives(patch)
        return replaced
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise status.bad_request(f"unknown patch type found in {patch}: {directive}")
    _retain_keys(original, patch)
    fields = _fields(definition_name)
    _merge_ordered_lists(original, patch, fields)
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            name = key.removeprefix(_DELETE_FROM)
            if isinstance(original.get(name), list):
                original[name] = [item for item in original[name] if item not in value]
            continue
        if value is None:
            original.pop(key, None)
        elif original.get(key) is None or type(original[key]) is not type(value):
            original[key] = _without_directives(value)
        elif isinstance(value, dict):
            original[key] = _merge_field(original[key], value, fields.get(key))
        elif isinstance(value, list):
            original[key] = _merge_list_field(original[key], value, fields.get(key))
        else:
            original[key] = value
    return original


def _retain_keys(original: dict[str, Any], patch: dict[str, Any]) -> None:
    if _RETAIN not in patch:
        return
    kept = patch.pop(_RETAIN)
    named = {key for key, value in patch.items() if value is not None and not key.startswith("$")}
    if not isinstance(kept, list) or not named <= set(kept):
        raise status.bad_request(f"the {_RETAIN} list doesn't contain all fields that are in the patch")
    for key in set(original) - set(kept):
        del original[key]


def _merge_field(original: dict[str, Any], patch: dict[str, Any], field: schema.Field | None) -> dict[str, Any]:
    if field is None:
        return _merge_map(original, patch, "")
    if "replace" in field.patch_strategies:
        replaced: dict[str, Any] = _without_directives(patch)
        return replaced
    return _merge_map(original, patch, _structure(field.type) if not field.type.startswith("{}") else "")


def _merge_list_field(original: list[Any], patch: list[Any], field: schema.Field | None) -> list[Any]:
    if field is None or "merge" not in field.patch_strategies:
        replaced: list[Any] = _without_directives(patch)
        return replaced
    return _merge_list(original, patch, field)


def _merge_list(original: list[Any], patch: list[Any], field: schema.Field) -> list[Any]:
    if not any(isinstance(item, dict) for item in original + patch):
        merged = list(original)
        merged.extend(item for item in patch if item not in merged)
        return merged
    key = field.merge_key
    if not key:
        raise status.bad_request(f"cannot merge lists without merge key for type {field.type}")
    original, patch = _apply_element_directives(original, patch, key)
    structure = _structure(field.type)
    merged = list(original)
    for item in patch:
        position = _find(merged, key, _key_of(item, key))
        if position is None:
            merged.append(_without_directives(item))
        else:
            merged[position] = _merge_map(merged[position], item, structure)
    return merged


def _apply_element_directives(original: list[Any], patch: list[Any], key: str) -> tuple[list[Any], list[Any]]:
    plain: list[Any] = []
    replace = False
    for item in patch:
        directive = item.get(_PATCH) if isinstance(item, dict) else None
        if directive is None or directive == "merge":
            plain.append(item)
        elif directive == "delete":
            wanted = _key_of(item, key)
            original = [entry for entry in original if entry.get(key) != wanted]
        elif directive == "replace":
            replace = True
        else:
            raise status.bad_request(f"unknown patch type found in {item}: {directive}")
    if replace:
        # As it stands, also where two elements have one key: a node's InternalIPs of both families.
        return [_without_directives(item) for item in plain if isinstance(item, dict)], []
    return original, plain


def _key_of(item: Any, key: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise status.bad_request(f"map: {item} does not contain declared merge key: {key}")
    return item[key]


def _find(items: list[Any], key: str, wanted: Any) -> int | None:
    return next((index for index, item in enumerate(items) if item.get(key) == wanted), None)


def _merge_ordered_lists(original: dict[str, Any], patch: dict[str, Any], fields: dict[str, schema.Field]) -> None:
    """Merge each list whose order the patch sets, and take it out of the patch."""
    for directive in [key for key in patch if key.startswith(_SET_ORDER)]:
        name = directive.removeprefix(_SET_ORDER)
        order = patch.pop(directive)
        field = fields.get(name)
        if field is None or not isinstance(order, list):
            continue
        live = original.get(name) or []
        patched = patch.pop(name, None)
        removed = patch.pop(_DELETE_FROM + name, None) or []
        kept = [item for item in live if item not in removed]
        merged = _merge_list(kept, patched, field) if patched else kept
        merged = _in_order(merged, order, live, field.merge_key)
        if merged or name in original:
            original[name] = merged


def _identity(item: Any, key: str) -> Any:
    return item.get(key) if isinstance(item, dict) else item


def _in_order(merged: list[Any], order: list[Any], live: list[Any], key: str) -> list[Any]:
    """Sort what the patch names as it says, and keep the rest where the live list has it."""
    wanted = [_identity(item, key) for item in order]
    server = [_identity(item, key) for item in live]
    named = sorted(
        (item for item in merged if _identity(item, key) in wanted), key=lambda item: wanted.index(_identity(item, key))
    )
    others = [item for item in merged if _identity(item, key) not in wanted]
    result: list[Any] = []
    while named and others:
        left, right = _identity(others[0], key), _identity(named[0], key)
        before = left in server and right in server and server.index(left) < server.index(right)
        result.append((others if before else named).pop(0))
    return result + named + others


def _without_directives(value: Any) -> Any:
    """Return a patch's value as content: without directives, nulls and elements to delete."""
    if isinstance(value, dict):
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if item is not None and key not in (_PATCH, _RETAIN) and not key.startswith((_DELETE_FROM, _SET_ORDER))
        }
    if isinstance(value, list):
        kept = [item for item in value if not (isinstance(item, dict) and item.get(_PATCH) in ("delete", "replace"))]
        return [_without_directives(item) for item in kept]
    return value
