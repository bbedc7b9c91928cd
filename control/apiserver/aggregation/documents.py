"""What discovery and OpenAPI tell of group versions that other servers answer for: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from control.api.meta import Object
from control.apiserver.aggregation.registration import Priority

RESOURCES_MAX = 10_000


class DocumentError(ValueError):
    """A server's document is none; the text says why."""


@dataclass(frozen=True, slots=True)
class Published:
    """One group version in discovery."""

    priority: Priority
    resources: tuple[Object, ...]
    """In the form of aggregated discovery."""
    fresh: bool


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another server's OpenAPI v2 document, and what of it is served through us."""

    body: bytes
    prefixes: tuple[str, ...]


def read_resources(body: bytes, group: str, version: str) -> tuple[Object, ...]:
    """Return an APIResourceList's resources in the form of aggregated discovery; raises DocumentError."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"the document is not JSON: {error}") from None
    rows = found.get("resources") if isinstance(found, dict) else None
    if not isinstance(rows, list) or found.get("kind") != "APIResourceList":
        raise DocumentError("the document is no APIResourceList")
    if len(rows) > RESOURCES_MAX or not all(_is_row(row) for row in rows):
        raise DocumentError("the APIResourceList is not well formed")
    resources: dict[str, Object] = {}
    subresources: dict[str, list[Object]] = {}
    for row in rows:
        name, slash, part = row["name"].partition("/")
        kind = {
            "group": row.get("group") or group,
            "version": row.get("version") or version,
            "kind": row.get("kind") or "",
        }
        if slash:
            told = {"subresource": part, "responseKind": kind, "verbs": row.get("verbs") or []}
            subresources.setdefault(name, []).append(told)
        else:
            resources[name] = _resource(row, kind)
    for name, told_of in subresources.items():
        # A subresource whose resource is not served itself stands under an empty one, as upstream tells it.
        resources.setdefault(name, {"resource": name, "verbs": []})["subresources"] = told_of
    return tuple(resources.values())


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        return False
    lists = ("verbs", "shortNames", "categories")
    return all(isinstance(row.get(field) or [], list) for field in lists)


def _resource(row: Mapping[str, Any], kind: Object) -> Object:
    made: Object = {
        "resource": row["name"],
        "responseKind": kind,
        "scope": "Namespaced" if row.get("namespaced") else "Cluster",
        "singularResource": row.get("singularName") or "",
        "verbs": row.get("verbs") or [],
    }
    for field in ("shortNames", "categories"):
        if row.get(field):
            made[field] = row[field]
    return made


def read_index(body: bytes, paths: Iterable[str]) -> dict[str, Object]:
    """Return an OpenAPI v3 index's entries for the paths that its server is registered for."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    entries = found.get("paths") if isinstance(found, dict) else None
    if not isinstance(entries, dict):
        return {}
    wanted = {path.lstrip("/") for path in paths}
    return {
        path: {"serverRelativeURL": entry["serverRelativeURL"]}
        for path, entry in entries.items()
        if path in wanted and isinstance(entry, dict) and isinstance(entry.get("serverRelativeURL"), str)
    }
