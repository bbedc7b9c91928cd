"""Functions over lists, sets, maps and optionals."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from control.api.cel.errors import CelError
from control.api.cel.parser import INT_MAX, INT_MIN, UINT_MAX, Uint
from control.api.cel.values import NONE, Duration, MapList, NoOverload, Optional, SetList, Work, contains, equal

_COMPARABLE = ("int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes")
_ZEROS: dict[str, Any] = {"int": 0, "uint": Uint(0), "double": 0.0, "duration": Duration(0)}


def _is_sorted(items: list[Any]) -> bool:
    try:
        return all(not later < earlier for earlier, later in itertools.pairwise(items))
    except TypeError:
        raise NoOverload("no such overload") from None


def _sum(zero: Any) -> Callable[[list[Any]], Any]:
    kind = type(zero)

    def find(items: list[Any]) -> Any:
        if any(type(item) is not kind for item in items):
            raise NoOverload("no such overload")
        if kind is Duration:
            return Duration.of(sum(item.ns for item in items))
        total = sum(items, 0.0 if kind is float else 0)
        if kind is int and not INT_MIN <= total <= INT_MAX:
            raise CelError("integer overflow")
        if kind is Uint:
            if total > UINT_MAX:
                raise CelError("unsigned integer overflow")
            return Uint(total)
        return total

    return find


def _extreme(name: str, choose: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def find(items: list[Any]) -> Any:
        if not items:
            raise CelError(f"{name} called on empty list")
        try:
            return choose(items)
        except TypeError:
            raise NoOverload("no such overload") from None

    return find


def _index_of(work: Work, items: list[Any], wanted: Any) -> int:
    return next((index for index, item in enumerate(items) if equal(item, wanted, work)), -1)


def _last_index_of(work: Work, items: list[Any], wanted: Any) -> int:
    return next((index for index in range(len(items) - 1, -1, -1) if equal(items[index], wanted, work)), -1)


def _slice(items: list[Any], start: int, end: int) -> list[Any]:
    if start < 0 or end < 0:
        raise CelError(f"cannot slice({start}, {end}), negative indexes not supported")
    if start > end:
        raise CelError(f"cannot slice({start}, {end}), start index must be less than or equal to end index")
    if len(items) < end:
        raise CelError(f"cannot slice({start}, {end}), list is length {len(items)}")
    return list(items[start:end])


def _flatten(items: list[Any], depth: int = 1) -> list[Any]:
    if depth < 0:
        raise CelError("level must be non-negative")
    made = list(items)
    for _ in range(depth):
        if not any(isinstance(item, list) for item in made):
            break
        made = [inner for item in made for inner in (item if isinstance(item, list) else (item,))]
    return made


def _sorted_by(items: list[Any], keys: list[Any]) -> list[Any]:
    if len(items) != len(keys):
        text = "expected a list of the same size as the associated keys list, but got"
        raise CelError(f"@sortByAssociatedKeys() {text} {len(items)} and {len(keys)} elements respectively")
    if any(type(key) is not type(keys[0]) for key in keys):
        raise CelError("list elements must have the same type")
    try:
        return [items[index] for index in sorted(range(len(items)), key=keys.__getitem__)]
    except TypeError:
        raise CelError("list elements must be comparable") from None


def _range(count: int) -> list[int]:
    if count < 0:
        raise CelError(f"lists.range: size must be non-negative, got {count}")
    return list(range(count))


def _distinct(work: Work, items: list[Any]) -> list[Any]:
    made: list[Any] = []
    for item in items:
        if not contains(made, item, work):
            made.append(item)
    return made


def _sets_contain(work: Work, items: list[Any], wanted: list[Any]) -> bool:
    return all(contains(items, item, work) for item in wanted)


def _sets_equal(work: Work, items: list[Any], others: list[Any]) -> bool:
    return _sets_contain(work, items, others) and _sets_contain(work, others, items)


def _sets_meet(work: Work, items: list[Any], others: list[Any]) -> bool:
    return any(contains(others, item, work) for item in items)


def joined(work: Work, one: list[Any], two: list[Any]) -> list[Any]:
    """Return lists together: a set has each item once, and of a list with keys the later item of a key stays."""
    if isinstance(one, SetList):
        return SetList([*one, *(item for item in two if not contains(one, item, work))])
    if isinstance(one, MapList):
        by_key = {_keys(item, one.keys): item for item in (*one, *two)}
        made = MapList(by_key.values())
        made.keys = one.keys
        return made
    return [*one, *two]


def _keys(item: Any, keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(repr(item.get(key)) for key in keys) if isinstance(item, dict) else (repr(item),)


def _value(held: Optional) -> Any:
    if not held.has:
        raise CelError("optional.none() dereference")
    return held.value


def _is_zero(value: Any) -> bool:
    if isinstance(value, Duration):
        return value.ns == 0
    return value is None or (isinstance(value, bool | int | float | str | bytes | list | dict) and not value)


def _unwrapped(items: list[Any]) -> list[Any]:
    if not all(isinstance(item, Optional) for item in items):
        raise NoOverload("no such overload")
    return [item.value for item in items if item.has]


def inserted(made: dict[Any, Any], key: Any, value: Any) -> None:
    """Add an entry to a map that has none of that key."""
    if key in made:
        raise CelError(f"insert failed: key {key} already exists")
    made[key] = value


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    **{f"list_{kind}_is_sorted_bool": _is_sorted for kind in _COMPARABLE},
    **{f"list_{kind}_sum_{kind}": _sum(zero) for kind, zero in _ZEROS.items()},
    **{f"list_{kind}_max_{kind}": _extreme("max", max) for kind in _COMPARABLE},
    **{f"list_{kind}_min_{kind}": _extreme("min", min) for kind in _COMPARABLE},
    **{f"list_{kind}_sort": lambda items: _sorted_by(items, items) for kind in _COMPARABLE},
    **{f"list_{kind}_sortByAssociatedKeys": _sorted_by for kind in _COMPARABLE},
    "list_slice": _slice,
    "list_flatten": _flatten,
    "list_flatten_int": _flatten,
    "lists_range": _range,
    "list_reverse": lambda items: items[::-1],
    "optional_of": lambda value: Optional(has=True, value=value),
    "optional_ofNonZeroValue": lambda value: NONE if _is_zero(value) else Optional(has=True, value=value),
    "optional_none": lambda: NONE,
    "optional_value": _value,
    "optional_hasValue": lambda held: held.has,
    "optional_unwrap": _unwrapped,
    "optional_unwrapOpt": _unwrapped,
    "list_first": lambda items: Optional(has=True, value=items[0]) if items else NONE,
    "list_last": lambda items: Optional(has=True, value=items[-1]) if items else NONE,
}
COMPARING: dict[str, Callable[..., Any]] = {
    "list_a_index_of_int": _index_of,
    "list_a_last_index_of_int": _last_index_of,
    "list_distinct": _distinct,
    "list_sets_contains_list": _sets_contain,
    "list_sets_equivalent_list": _sets_equal,
    "list_sets_intersects_list": _sets_meet,
    "add_list": joined,
}
"""Those that compare values, and count how often: they are given a Work first."""
