"""The types of expressions: primitives, lists, maps, objects with fields, and those of Kubernetes' functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

PRIMITIVES = ("bool", "bytes", "double", "int", "string", "uint")
OPTIONAL_NAME = "optional_type"


@dataclass(frozen=True, slots=True)
class Type:
    """A type: its kind, its name, and the types it is made of.

    ``fields`` are those of an object; two objects are of one type where their names are the same.
    """

    kind: str
    name: str
    parameters: tuple[Type, ...] = ()
    fields: Mapping[str, Type] | None = field(default=None, compare=False, hash=False, repr=False)

    def __str__(self) -> str:
        if self.kind == "null":
            return "null"
        if self.kind in ("timestamp", "duration", "error"):
            return "!error!" if self.kind == "error" else self.kind
        if not self.parameters:
            return self.name
        return f"{self.name}({', '.join(str(each) for each in self.parameters)})"


BOOL, BYTES, DOUBLE, INT, STRING, UINT = (Type(name, name) for name in PRIMITIVES)
DYN, ERROR, NULL = Type("dyn", "dyn"), Type("error", "*error*"), Type("null", "null_type")
TIMESTAMP = Type("timestamp", "google.protobuf.Timestamp")
DURATION = Type("duration", "google.protobuf.Duration")
TYPE = Type("type", "type")


def list_of(item: Type) -> Type:
    """Return the type of lists of something."""
    return Type("list", "list", (item,))


def map_of(key: Type, value: Type) -> Type:
    """Return the type of maps."""
    return Type("map", "map", (key, value))


def optional_of(value: Type) -> Type:
    """Return the type of what may hold a value."""
    return Type("opaque", OPTIONAL_NAME, (value,))


def type_of(held: Type) -> Type:
    """Return the type of a type."""
    return Type("type", "type", (held,))


def parameter(name: str) -> Type:
    """Return a type that is yet to be found."""
    return Type("parameter", name)


def object_of(name: str, fields: Mapping[str, Type] | None = None) -> Type:
    """Return an object's type; one without fields has none that expressions may read."""
    return Type("object", name, (), fields or {})


def is_dyn(found: Type) -> bool:
    """Tell whether nothing is known of a type before the expression runs."""
    return found.kind in ("dyn", "error")


def is_optional(found: Type) -> bool:
    """Tell whether a type is that of what may hold a value."""
    return found.kind == "opaque" and found.name == OPTIONAL_NAME


def unwrapped(found: Type) -> tuple[Type, bool]:
    """Return the type that an optional holds, and whether it was one."""
    return (found.parameters[0], True) if is_optional(found) else (found, False)


IP, CIDR = Type("opaque", "net.IP"), Type("opaque", "net.CIDR")
QUANTITY, SEMVER = object_of("kubernetes.Quantity"), object_of("kubernetes.Semver")
FORMAT, URL = object_of("kubernetes.NamedFormat"), object_of("kubernetes.URL")
_AUTHORIZATION = "kubernetes.authorization."
AUTHORIZER, PATH_CHECK = object_of(_AUTHORIZATION + "Authorizer"), object_of(_AUTHORIZATION + "PathCheck")
GROUP_CHECK, RESOURCE_CHECK = object_of(_AUTHORIZATION + "GroupCheck"), object_of(_AUTHORIZATION + "ResourceCheck")
DECISION = object_of(_AUTHORIZATION + "Decision")
NAMED: dict[str, Type] = {
    **{found.name: found for found in (BOOL, BYTES, DOUBLE, INT, STRING, UINT, DYN)},
    "timestamp": TIMESTAMP, "duration": DURATION, "null": NULL, "type": TYPE,
    "ip": IP, "cidr": CIDR, "quantity": QUANTITY, "semver": SEMVER, "format": FORMAT, "url": URL,
    "authorizer": AUTHORIZER, "pathcheck": PATH_CHECK, "groupcheck": GROUP_CHECK, "resourcecheck": RESOURCE_CHECK,
    "decision": DECISION,
}  # fmt: skip
"""The types as the tables of functions name them."""
IDENTIFIERS: dict[str, Type] = {
    **{found.name: found for found in (BOOL, BYTES, DOUBLE, INT, STRING, UINT, NULL, TYPE, TIMESTAMP, DURATION)},
    **{found.name: found for found in (IP, CIDR, QUANTITY, SEMVER, FORMAT, URL)},
    **{found.name: found for found in (AUTHORIZER, PATH_CHECK, GROUP_CHECK, RESOURCE_CHECK, DECISION)},
    "list": list_of(DYN), "map": map_of(DYN, DYN), OPTIONAL_NAME: optional_of(DYN),
}  # fmt: skip
"""The types that expressions may name."""
_PART = re.compile(r"\s*([A-Za-z]+|[(),])")


@lru_cache(maxsize=512)
def read_type(text: str) -> Type:
    """Return the type that a text of the tables means: ``map(string, list(A))``; a capital is a parameter."""
    found, rest = _read(_PART.findall(text))
    assert not rest, text
    return found


def _read(parts: list[str]) -> tuple[Type, list[str]]:
    name, rest = parts[0], parts[1:]
    inner: list[Type] = []
    if rest[:1] == ["("]:
        while rest[0] != ")":
            found, rest = _read(rest[1:])
            inner.append(found)
        rest = rest[1:]
    if name == "list":
        return list_of(inner[0]), rest
    if name == "map":
        return map_of(inner[0], inner[1]), rest
    if name == "optional":
        return optional_of(inner[0]), rest
    if name == "type" and inner:
        return type_of(inner[0]), rest
    return (NAMED[name] if name in NAMED else parameter(name)), rest
