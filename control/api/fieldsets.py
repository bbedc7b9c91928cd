"""Objects merged and cut field by field, as their types say: what server-side apply does to them.

A path is a tuple of elements in the notation of FieldsV1: ``f:name`` for a field or a map's key, ``k:{"name":"a"}`` for
an element of a list with keys, ``v:"x"`` for an element of a set.  What the facts call atomic is one leaf: it has one
owner.  Example: ``("f:spec", "f:containers", 'k:{"name":"c"}', "f:image")``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from control.api import schema, status
from control.api.comparing import MISSING, element_json, zero_of
from control.api.fieldtrees import Path

FieldSet: TypeAlias = "frozenset[Path]"


@dataclass(frozen=True, slots=True)
class Shape:
    """How values of a type are taken apart."""

    kind: str
    """structure, map, keyed, set or leaf."""
    type: str = ""
    """A structure's definition, or what a map or list holds; empty where no facts exist."""
    keys: tuple[schema.Field, ...] = ()


_LEAF = Shape("leaf")
_UNTYPED = Shape("map", "")


def root(definition_name: str) -> Shape:
    """Return the shape of an object; without a definition maps are taken apart and lists are leaves."""
    return Shape("structure", definition_name) if definition_name else _UNTYPED


def _shape(kind: str, field: schema.Field | None = None) -> Shape:
    if kind == "":
        return _UNTYPED
    if kind.startswith("{}"):
        return _LEAF if field and field.map_type == "atomic" else Shape("map", schema.element(kind))
    if kind.startswith("[]"):
        return _list_shape(kind, field)
    found = schema.resolve(kind)
    if found is None or found.atomic or (field and field.map_type == "atomic"):
        return _LEAF
    return Shape("structure", kind)


def _list_shape(kind: str, field: schema.Field | None) -> Shape:
    inner = schema.element(kind)
    if field is None or field.list_type in ("", "atomic"):
        return _LEAF
    if field.list_type == "set":
        return Shape("set", inner)
    fields = schema.definition(inner).fields
    return Shape("keyed", inner, tuple(fields[key] for key in field.list_keys))


def _child(shape: Shape, name: str) -> Shape:
    if shape.kind == "map":
        return _shape(shape.type)
    field = schema.definition(shape.type).fields.get(name)
    return _shape(field.type, field) if field else _LEAF


def key_of(shape: Shape, item: Any) -> str:
    """Return the element of a path that names a list's item; raises BadRequest where its keys are missing."""
    if shape.kind == "set":
        return f"v:{element_json(item)}"
    keys = {}
    for field in shape.keys:
        value = item.get(field.name) if isinstance(item, dict) else None
        if value is None:
            value = field.default or zero_of(field)
        if value is None or value is MISSING:
            names = ", ".join(f'"{key.name}"' for key in shape.keys)
            fault = f'associative list with keys [{names}] has an element that omits key field "{field.name}"'
            raise status.bad_request(f"{fault} (and doesn't have default value)")
        keys[field.name] = value
    return f"k:{element_json(keys)}"


def _is_whole(shape: Shape, value: Any) -> bool:
    """Tell whether a value is one leaf, either by its type or because it is no container."""
    if shape.kind in ("structure", "map"):
        return not isinstance(value, dict)
    return shape.kind == "leaf" or not isinstance(value, list)


def _items(shape: Shape, value: Any) -> list[tuple[str, Any, Shape]]:
    """Return (path element, value, shape) of each part of a container."""
    if isinstance(value, dict):
        return [(f"f:{name}", item, _child(shape, name)) for name, item in value.items()]
    inner = _shape(shape.type) if shape.kind == "keyed" else _LEAF
    return [(key_of(shape, item), item, inner) for item in value]


def is_element(path: Path, shape: Shape) -> bool:
    """Tell whether a path leads to an element of a list or a map, which is somebody's, or to a structure's field."""
    inside = shape
    for element in path:
        shape = inside
        if element[0] != "f":
            inside = _shape(shape.type) if shape.kind == "keyed" else _LEAF
        elif shape.kind in ("structure", "map"):
            inside = _child(shape, element[2:])
        else:
            inside = _LEAF
    return path[-1][0] != "f" or shape.kind == "map"


def merge(live: Any, wanted: Any, shape: Shape) -> Any:
    """Return ``live`` with what ``wanted`` states; lists with keys are merged by them, new elements go last."""
    if _is_whole(shape, wanted) or _is_whole(shape, live) or live is None:
        return wanted
    if isinstance(wanted, dict):
        result = dict(live)
        for name, item in wanted.items():
            result[name] = merge(live[name], item, _child(shape, name)) if name in live else item
        return result
    return _merge_lists(live, wanted, shape)


def _merge_lists(live: list[Any], wanted: list[Any], shape: Shape) -> list[Any]:
    """Merge two lists: in the order of ``wanted``, the others where the live list has them, walked as upstream does."""
    inner = _shape(shape.type) if shape.kind == "keyed" else _LEAF
    new = {key_of(shape, item): item for item in wanted}
    old = [(key_of(shape, item), item) for item in live]
    held = dict(old)
    waiting = list(new)
    # What both have, in the order of the wish: the next one of it is what the walk through the live list looks for.
    shared = [element for element in waiting if element in held]
    result: list[Any] = []

    def take(element: str) -> None:
        result.append(merge(held[element], new[element], inner) if element in held else new[element])
        if shared and shared[0] == element:
            del shared[0]

    position = 0
    while position < len(old) or waiting:
        element, item = old[position] if position < len(old) else ("", None)
        if element and element not in new:
            result.append(item)
            position += 1
        elif element and waiting and element == waiting[0]:
            take(waiting.pop(0))
            position += 1
        elif element and (not waiting or (shared and shared[0] != element) or element not in waiting):
            # It comes where the wish has it, or came there already.
            position += 1
        else:
            take(waiting.pop(0))
    return result


def remove(value: Any, shape: Shape, gone: FieldSet, kept: FieldSet) -> Any:
    """Return the value without the fields in ``gone``; what gets empty goes too, unless ``kept`` lies at or below."""
    below = {path[:size] for path in kept for size in range(1, len(path) + 1)}
    return _remove(value, shape, (), gone, below)


def _remove(value: Any, shape: Shape, path: Path, gone: FieldSet, kept: set[Path]) -> Any:
    if _is_whole(shape, value):
        return value
    touched = {named[len(path)] for named in gone if named[: len(path)] == path and len(named) > len(path)}
    if not touched:
        return value
    parts: list[tuple[str, Any]] = []
    for element, item, inner in _items(shape, value):
        here = (*path, element)
        if element not in touched:
            parts.append((element, item))
            continue
        if here in gone:
            continue
        left = _remove(item, inner, here, gone, kept)
        if left or not item or here in kept:
            parts.append((element, left))
    if isinstance(value, dict):
        return {element[2:]: item for element, item in parts}
    return [item for _, item in parts]


class UntypedError(ValueError):
    """A configuration does not fit its type; the text says where."""


def check_unique(value: Any, shape: Shape, path: Path = ()) -> None:
    """Raise UntypedError where elements of a list have the same key, so that nobody could tell which one is meant."""
    if _is_whole(shape, value):
        return
    if shape.kind == "keyed":
        _check_keys(value, shape, path)
    seen: set[str] = set()
    for element, item, inner in _items(shape, value):
        if element in seen:
            where, what = path_text(path), path_text((element,))
            raise UntypedError(f"{where}: duplicate entries for key {what}")
        seen.add(element)
        check_unique(item, inner, (*path, element))


def _check_keys(items: list[Any], shape: Shape, path: Path) -> None:
    """Raise UntypedError where an element has nothing by which it could be known."""
    if not shape.keys or any(field.default or zero_of(field) not in (None, MISSING) for field in shape.keys):
        return
    for index, item in enumerate(items):
        if isinstance(item, dict) and all(item.get(field.name) is None for field in shape.keys):
            keys = " ".join(f'"{field.name}"' for field in shape.keys)
            raise UntypedError(
                f"{path_text(path)}: element {index}: associative list with keys has an element that omits all key "
                f"fields [{keys}] (and doesn't have default values for any key fields)"
            )


def undeclared(value: Any, shape: Shape, path: Path = ()) -> list[str]:
    """Return the places of fields that a type lacks."""
    if _is_whole(shape, value):
        return []
    known = schema.definition(shape.type).fields if shape.kind == "structure" else None
    found = []
    for element, item, inner in _items(shape, value):
        here = (*path, element)
        if known is not None and element[2:] not in known:
            found.append(path_text(here))
        else:
            found += undeclared(item, inner, here)
    return found


def path_text(path: Path) -> str:
    """Return a path as conflicts name it: ``.spec.containers[name="c"].image``."""
    parts = []
    for element in path:
        kind, rest = element[0], element[2:]
        if kind == "f":
            parts.append(f".{rest}")
        elif kind == "k":
            keys = ",".join(f"{name}={element_json(value)}" for name, value in orjson.loads(rest).items())
            parts.append(f"[{keys}]")
        else:
            parts.append(f"[={rest}]")
    return "".join(parts)
