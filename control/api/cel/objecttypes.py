"""The types of objects of built-in kinds, from the facts about them, and of custom ones, from their schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from control.api import schema
from control.api.cel.types import BOOL, BYTES, DOUBLE, DYN, INT, STRING, TIMESTAMP, Type, list_of, map_of, object_of

_WORDS: dict[str, Type] = {
    "string": STRING, "bool": BOOL, "int32": INT, "int64": INT, "uint32": INT, "uint64": INT, "uint8": INT,
    "double": DOUBLE, "float": DOUBLE, "bytes": BYTES, "Time": TIMESTAMP, "MicroTime": TIMESTAMP, "Duration": STRING,
}  # fmt: skip
"""What is not named here (quantities, numbers or texts, free JSON) is known when an expression runs."""


class _Fields(Mapping[str, Type]):
    """The fields of a definition, each looked up when it is asked for: definitions hold each other."""

    def __init__(self, definition: schema.Definition) -> None:
        self._definition = definition

    def __getitem__(self, name: str) -> Type:
        return type_of(self._definition.fields[name].type)

    def __contains__(self, name: object) -> bool:
        return name in self._definition.fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._definition.fields)

    def __len__(self) -> int:
        return len(self._definition.fields)


@cache
def type_of(kind: str) -> Type:
    """Return the type that a word of the facts means: ``core.v1.Pod``, ``[]string``, ``{}int32``."""
    if kind.startswith("[]"):
        return list_of(type_of(kind[2:]))
    if kind.startswith("{}"):
        return map_of(STRING, type_of(kind[2:]))
    if kind in _WORDS:
        return _WORDS[kind]
    if not schema.is_reference(kind):
        return DYN
    found = schema.definition(kind)
    if found.scalar:
        return _WORDS.get(found.scalar, DYN)
    return Type("object", found.kind, (), _Fields(found))


def custom_type(whole: dict[str, Any]) -> Type | None:
    """Return the type of custom objects by the schema of their version, None where nothing is known of them."""
    from control.api.custom.declared import declared

    known = declared(whole, is_root=True)
    if known is None:
        return None
    fields = {name: found.type for name, found in known.fields.items()}
    return object_of("object", {**fields, "metadata": type_of("meta.v1.ObjectMeta")})
