"""The initializers of mutations, ``Object.spec{replicas: 3}`` and ``JSONPatch{op: "add", …}``.

The types of an object's parts are named by the way that leads to them. What an expression builds says of which type it
is, and `built` checks, when the expression has been run, that each stands where its name says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from control.api.cel.errors import CelError
from control.api.cel.planner import WHAT
from control.api.cel.types import DYN, STRING, Type, object_of

PATCH = "JSONPatch"
_UNESCAPES = {"__underscores__": "__", "__dot__": ".", "__dash__": "-", "__slash__": "/"}
_RESERVED = re.compile(r"__([a-z]+)__")


class _AnyField(Mapping[str, Type]):
    """The fields of a part of an object: there may be any."""

    def __getitem__(self, name: str) -> Type:
        return DYN

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class Structures(Mapping[str, Type]):
    """The types that mutations may build: those of parts of an object, and patches."""

    def __getitem__(self, name: str) -> Type:
        if name == PATCH:
            return object_of(PATCH, {"op": STRING, "path": STRING, "from": STRING, "value": DYN})
        if name == "Object" or name.startswith("Object."):
            return Type("object", name, (), _AnyField())
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(("Object", PATCH))

    def __len__(self) -> int:
        return 2


def _unescaped(name: str) -> str:
    """Return the field that an escaped name means."""
    if (found := _RESERVED.fullmatch(name)) is not None and name not in _UNESCAPES:
        return found[1]
    return re.sub("|".join(_UNESCAPES), lambda each: _UNESCAPES[each.group()], name)


def built(value: Any, path: str = "") -> Any:
    """Return the JSON value that an expression built; raises CelError where an initializer stands at a wrong place."""
    if isinstance(value, dict):
        named = value.get(WHAT)
        if named is None:
            return {str(key): built(item, f"{path}.{key}" if path else "") for key, item in value.items()}
        if named == PATCH:
            return {key: built(item) for key, item in value.items() if key != WHAT}
        if path and named != path:
            text = f'unexpected type name "{named}", expected "{path}", which matches field name path'
            raise CelError(f"type mismatch: {text} from root Object type")
        return {_unescaped(key): built(item, f"{named}.{key}") for key, item in value.items() if key != WHAT}
    if isinstance(value, list):
        return [built(item, path) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise CelError(f"a value of type {type(value).__name__} cannot be part of an object")
