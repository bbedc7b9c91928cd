"""Objects as rows of a Table, as kubectl get shows them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from control.api.meta import Object
from control.api.resources import Resource
from control.api.times import age

COLUMNS = (
    {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0},
    {"name": "Age", "type": "string", "format": "", "description": "", "priority": 0},
)


def table(
    resource: Resource, objects: Iterable[Object], metadata: Object, include: str, version: str, columns: bool = True
) -> Object:
    """Return a Table of objects; ``include`` is Metadata, Object or None."""
    now = datetime.now(UTC)
    rows = [{"cells": cells(obj, now), "object": included(obj, include, version)} for obj in objects]
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": metadata,
        "columnDefinitions": list(COLUMNS) if columns else None,
        "rows": rows,
    }


def cells(obj: Object, now: datetime) -> list[Any]:
    """Return one row's cells."""
    return [obj["metadata"].get("name", ""), age(obj["metadata"].get("creationTimestamp"), now)]


def included(obj: Object, include: str, version: str) -> Object | None:
    """Return what stands beside a row's cells."""
    if include == "Object":
        return obj
    return None if include == "None" else partial(obj, version)


def partial(obj: Object, version: str) -> Object:
    """Return an object's metadata alone."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": obj["metadata"],
    }
