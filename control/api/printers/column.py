"""A column of a Table, and the small texts that many cells share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control.api import selectors, times
from control.api.meta import Object

NONE, UNSET, UNKNOWN = "<none>", "<unset>", "<unknown>"
MODE_SHORT = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column; those with a priority above zero are shown by ``-o wide`` alone."""

    name: str
    type: str = "string"
    priority: int = 0
    format: str = ""
    description: str = ""


Cells = Callable[[Object, datetime], list[Any]]


@dataclass(frozen=True, slots=True)
class Printer:
    """How objects of a kind become rows."""

    columns: tuple[Column, ...]
    cells: Cells


NAME = Column(
    "Name",
    format="name",
    description="Name must be unique within a namespace. Is required when creating resources, although some resources "
    "may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for "
    "creation idempotence and configuration definition. Cannot be updated. More info: "
    "https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names",
)
AGE = Column("Age")
CREATED_AT = Column("Created At", "date")
TEMPLATE = (Column("Containers", priority=1), Column("Images", priority=1))
SELECTOR = Column("Selector", priority=1)


def columns(*names: str | Column) -> tuple[Column, ...]:
    """Return the Name column and others: ``wide:`` marks those of ``-o wide``, ``integer:`` another type."""
    return (NAME, *(_column(name) for name in names))


def _column(name: str | Column) -> Column:
    if isinstance(name, Column):
        return name
    if name.startswith("wide:"):
        return Column(name.removeprefix("wide:"), priority=1)
    kind, colon, rest = name.partition(":")
    return Column(rest, kind) if colon else Column(name)


def field(obj: Any, *path: str) -> Any:
    """Return what stands under a path, None where it ends early."""
    for step in path:
        if not isinstance(obj, dict):
            return None
        obj = obj.get(step)
    return obj


def name(obj: Object) -> str:
    """Return the name cell."""
    return str(field(obj, "metadata", "name") or "")


def age(obj: Object, now: datetime) -> str:
    """Return the age cell."""
    return times.age(field(obj, "metadata", "creationTimestamp"), now)


def number(obj: Any, *path: str) -> int:
    """Return a count, zero where none stands."""
    return int(field(obj, *path) or 0)


def labels_text(labels: dict[str, str] | None) -> str:
    """Return a plain map as ``a=b,c=d``."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def selector_text(selector: dict[str, Any] | None) -> str:
    """Return a LabelSelector as kubectl writes it."""
    if selector is None:
        return NONE
    found = selectors.from_label_selector(selector)
    ordered = selectors.Selector(tuple(sorted(found.requirements, key=lambda requirement: requirement.key)))
    return selectors.to_text(ordered) or NONE


def container_cells(pod_spec: dict[str, Any] | None) -> list[str]:
    """Return the names and the images of a template's containers."""
    containers = (pod_spec or {}).get("containers") or []
    return [",".join(str(c.get("name", "")) for c in containers), ",".join(str(c.get("image", "")) for c in containers)]


def limited(items: Sequence[str], maximum: int, empty: str = UNSET) -> str:
    """Return the first items and how many more there are."""
    if not items:
        return empty
    text = ",".join(items[:maximum])
    return f"{text} + {len(items) - maximum} more..." if len(items) > maximum else text


def access_modes(modes: Iterable[str] | None) -> str:
    """Return access modes in their short form, each once."""
    given = set(modes or ())
    return ",".join(short for mode, short in MODE_SHORT.items() if mode in given)


def has_condition(obj: Object, kind: str) -> bool:
    """Tell whether status.conditions holds a true condition of a type."""
    conditions = field(obj, "status", "conditions") or []
    return any(entry.get("type") == kind and entry.get("status") == "True" for entry in conditions)
