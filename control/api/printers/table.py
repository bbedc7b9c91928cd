"""The Table object: what the API server answers when a client asks for rows instead of objects."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Literal

from control.api.meta import Object
from control.api.printers import cluster, core, workloads
from control.api.printers.column import CREATED_AT, NAME, Column, Printer, field, name
from control.api.printers.pods import POD, row_conditions

IncludeObject = Literal["None", "Metadata", "Object"]


def _default_cells(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), field(obj, "metadata", "creationTimestamp")]


DEFAULT = Printer((NAME, CREATED_AT), _default_cells)
"""For kinds without columns of their own, as Roles and LimitRanges."""
_STATUS = Printer(
    (Column("Status"), Column("Reason"), Column("Message")),
    lambda obj, now: [obj.get("status") or "", obj.get("reason") or "", obj.get("message") or ""],
)
_PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "pods"): POD,
    **core.PRINTERS,
    **workloads.PRINTERS,
    **cluster.PRINTERS,
}


def printer(group: str, version: str, plural: str, subresource: str = "") -> Printer:
    """Return how objects of a resource are shown."""
    if subresource == "scale":
        return workloads.SCALE
    if (group, version, plural) == ("autoscaling", "v1", "horizontalpodautoscalers"):
        return workloads.AUTOSCALER_V1
    return _PRINTERS.get((group, plural), DEFAULT)


def printer_of(obj: Object, otherwise: Printer) -> Printer:
    """Return how an answer is shown: a Status has columns of its own."""
    return _STATUS if obj.get("kind") == "Status" and obj.get("apiVersion") == "v1" else otherwise


def column_definitions(shown: Printer) -> list[dict[str, Any]]:
    """Return the Table's columnDefinitions."""
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in shown.columns
    ]


def row(shown: Printer, obj: Object, now: datetime, include: IncludeObject = "Metadata") -> dict[str, Any]:
    """Return one object's row."""
    made: dict[str, Any] = {"cells": shown.cells(obj, now)}
    if shown is POD and (conditions := row_conditions(obj)):
        made["conditions"] = conditions
    if include == "Object":
        made["object"] = obj
    elif include == "Metadata":
        made["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": obj.get("metadata") or {},
        }
    else:
        made["object"] = None
    return made


def table(
    shown: Printer,
    objects: Iterable[Object],
    now: datetime,
    *,
    include: IncludeObject = "Metadata",
    list_metadata: dict[str, Any] | None = None,
    with_columns: bool = True,
    version: str = "v1",
) -> Object:
    """Return a Table of objects; watches leave the columns out after their first event."""
    return {
        "kind": "Table",
        "apiVersion": f"meta.k8s.io/{version}",
        "metadata": list_metadata or {},
        "columnDefinitions": column_definitions(shown) if with_columns else [],
        "rows": [row(shown, obj, now, include) for obj in objects],
    }
