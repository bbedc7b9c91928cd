"""The patch types, as far as components use them, for the fake API."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

MERGE_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "volumeMounts": ("mountPath",),
    "env": ("name",),
    "conditions": ("type",),
    "addresses": ("type",),
    "podIPs": ("ip",),
    "hostIPs": ("ip",),
    "ownerReferences": ("uid",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "taints": ("key", "effect"),
    "ports": ("port", "containerPort", "protocol"),
    "images": (),
}
SETS = frozenset({"finalizers", "podCIDRs"})


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply an RFC 7386 merge patch."""
    if not isinstance(patch, dict):
        return deepcopy(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge_patch(target: Any, patch: Any, field: str = "") -> Any:
    """Apply a strategic merge patch, with the lists above merged by their keys and all others replaced."""
    if isinstance(patch, list):
        if field in SETS:
            old = list(target or [])
            return old + [item for item in patch if item not in old]
        keys = MERGE_KEYS.get(field)
        return _merge_list(list(target or []), patch, keys) if keys else deepcopy(patch)
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            result[name] = [item for item in result.get(name) or [] if item not in value]
        elif key == "$retainKeys":
            for gone in set(result) - set(value):
                result.pop(gone)
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = strategic_merge_patch(result.get(key), value, key)
    return result


def _merge_list(old: list[Any], patch: list[Any], keys: tuple[str, ...]) -> list[Any]:
    result = list(old)
    if any(item.get("$patch") == "replace" for item in patch):
        return [item for item in patch if "$patch" not in item]
    for item in patch:
        identity = tuple(item.get(key) for key in keys)
        index = next((i for i, x in enumerate(result) if tuple(x.get(key) for key in keys) == identity), None)
        if item.get("$patch") == "delete":
            if index is not None:
                del result[index]
        elif index is None:
            result.append(strategic_merge_patch({}, item))
        else:
            result[index] = strategic_merge_patch(result[index], item)
    return result


def json_patch(target: Any, operations: list[dict[str, Any]]) -> Any:
    """Apply an RFC 6902 patch; a failed test raises ValueError."""
    result = deepcopy(target)
    for operation in operations:
        *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        holder = result
        for part in path:
            holder = holder[int(part)] if isinstance(holder, list) else holder[part]
        match operation["op"]:
            case "add" if isinstance(holder, list):
                holder.insert(len(holder) if last == "-" else int(last), operation["value"])
            case "add" | "replace":
                holder[int(last) if isinstance(holder, list) else last] = operation["value"]
            case "remove":
                del holder[int(last) if isinstance(holder, list) else last]
            case "test":
                found = holder[int(last)] if isinstance(holder, list) else holder.get(last)
                if found != operation["value"]:
                    raise ValueError(f"test failed at {operation['path']}")
            case other:
                raise ValueError(f"unknown operation {other!r}")
    return result
