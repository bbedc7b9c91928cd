"""Load the types of the API from the tables of facts.

A type is written as text: a word (``string``, ``int32``, ``Quantity``, ``Time`` …), a definition's name
(``core.v1.PodSpec``), ``[]T`` for a list and ``{}T`` for a map from strings.  Tables are read a package at a time, on
first use, so that a process pays for what it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import orjson

_FOLDER = Path(__file__).parent / "facts" / "types"


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a definition."""

    name: str
    type: str
    flags: str
    """p: absent and zero differ; o: left out when zero; z: left out when a zero structure; r: required."""
    number: int
    """Its number in protobuf, 0 where it has none."""
    list_type: str = ""
    list_keys: tuple[str, ...] = ()
    map_type: str = ""
    patch_strategies: tuple[str, ...] = ()
    merge_key: str = ""
    default: str = ""

    @property
    def required(self) -> bool:
        """Tell whether the field must be given."""
        return "r" in self.flags

    @property
    def pointer(self) -> bool:
        """Tell whether a zero value says something else than absence."""
        return "p" in self.flags


@dataclass(frozen=True, slots=True)
class Definition:
    """A structure, or a named scalar with the values that it may have."""

    name: str
    fields: dict[str, Field]
    """By JSON name, those of inlined structures included."""
    numbers: dict[int, Field]
    """By protobuf number, without those of inlined structures."""
    inlined: dict[int, str]
    """Protobuf number → definition of a structure whose fields stand in this one's JSON."""
    is_object: bool = False
    """It has apiVersion and kind."""
    atomic: bool = False
    scalar: str = ""
    enum: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The name without its package."""
        return self.name.rsplit(".", 1)[1]


TYPE_META = {name: Field(name, "string", "o", 0) for name in ("apiVersion", "kind")}
PACKAGES = {
    "": "core",
    "rbac.authorization.k8s.io": "rbac",
    "flowcontrol.apiserver.k8s.io": "flowcontrol",
    "meta.k8s.io": "meta",
}
"""API groups whose package is not their name's first label."""


@cache
def _table(package: str) -> dict[str, Any]:
    path = _FOLDER / f"{package}.json"
    if not path.is_file():
        return {}
    table: dict[str, Any] = orjson.loads(path.read_bytes())
    return table


_added: dict[str, Definition] = {}


def add(definitions: Mapping[str, Definition]) -> None:
    """Make definitions known that come from no table: those of custom resources, under names of their own."""
    _added.update(definitions)


def drop(names: Iterable[str]) -> None:
    """Forget definitions that were added."""
    for name in names:
        _added.pop(name, None)


def definition(name: str) -> Definition:
    """Return a definition by name (``apps.v1.Deployment``); raises KeyError."""
    return _added.get(name) or _from_table(name)


@cache
def _from_table(name: str) -> Definition:
    package, _, local = name.rpartition(".")
    raw = _table(package)[local]
    if scalar := raw.get("scalar"):
        return Definition(name, {}, {}, {}, scalar=scalar, enum=tuple(raw.get("enum", ())))
    own = {json_name: _field(json_name, row) for json_name, row in raw["fields"].items()}
    inlined: dict[str, int] = raw.get("inline", {})
    fields = dict(TYPE_META) if raw.get("object") else {}
    fields.update(own)
    for base in inlined:
        fields.update(definition(base).fields)
    return Definition(
        name,
        fields,
        {field.number: field for field in own.values() if field.number},
        {number: base for base, number in inlined.items()},
        is_object=bool(raw.get("object")),
        atomic=bool(raw.get("atomic")),
    )


def _field(name: str, row: list[Any]) -> Field:
    kind, flags, number, *rest = row
    if not rest:
        return Field(name, kind, flags, number)
    extra: dict[str, Any] = rest[0]
    return Field(
        name,
        kind,
        flags,
        number,
        list_type=extra.get("list", ""),
        list_keys=tuple(extra.get("keys", ())),
        map_type=extra.get("map", ""),
        patch_strategies=tuple(part for part in extra.get("patch", "").split(",") if part),
        merge_key=extra.get("key", ""),
        default=extra.get("default", ""),
    )


def package_of(group: str, version: str) -> str:
    """Return the package that holds a group version's definitions."""
    return f"{PACKAGES.get(group) or group.split('.', maxsplit=1)[0]}.{version}"


def find(group: str, version: str, kind: str) -> Definition | None:
    """Return the definition of a kind, None where it is not built in."""
    for package in (package_of(group, version), "meta.v1"):
        if kind in _table(package):
            return definition(f"{package}.{kind}")
    return None


def names(package: str) -> list[str]:
    """Return the names of a package's definitions."""
    return [f"{package}.{local}" for local in _table(package)]


def is_reference(kind: str) -> bool:
    """Tell whether a type is a definition's name."""
    return "." in kind and kind[0] not in "[{"


def drops_zero(field: Field) -> bool:
    """Tell whether an encoder of Kubernetes leaves the zero value out; of structures it never does by omitempty."""
    structure = resolve(field.type) is not None
    return "p" not in field.flags and ("z" in field.flags or ("o" in field.flags and not structure))


def element(kind: str) -> str:
    """Return what a list or a map holds."""
    return kind[2:]


def resolve(kind: str) -> Definition | None:
    """Return the structure that a type names, None for scalars, lists and maps."""
    if not is_reference(kind):
        return None
    found = definition(kind)
    return None if found.scalar else found


_ZEROES: dict[str, Any] = {"string": "", "bool": False, "int32": 0, "int64": 0}


def always_written(name: str) -> dict[str, Any]:
    """Return what an encoder of Kubernetes writes of an empty structure: zeroes that clients rely on finding.

    Lists and times, which it writes as null, are left out.
    """
    found: dict[str, Any] = {}
    for field in definition(name).fields.values():
        if field.pointer or "z" in field.flags:
            continue
        inner = resolve(field.type)
        if inner is not None:  # omitempty leaves no structure out
            found[field.name] = always_written(inner.name)
        elif "o" not in field.flags and field.type in _ZEROES:
            found[field.name] = _ZEROES[field.type]
    return found
