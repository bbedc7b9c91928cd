"""What calls of functions cost when they run, by the sizes of their real arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from control.api.cel.callcosts import CHECK_COST
from control.api.cel.sizes import LIST_COST, PATTERN_FACTOR, TEXT_FACTOR
from control.api.cel.values import Format, Optional

Cost = Callable[..., int]
"""Called with the arguments of a call."""


def size_of(value: Any) -> int:
    """Return the size of a value; of what has none, 1."""
    if isinstance(value, str | bytes | list | dict):
        return len(value)
    return size_of(value.value) if isinstance(value, Optional) and value.has else 1


def walk(size: int, factor: float = TEXT_FACTOR) -> int:
    """Return what it costs to walk along a text."""
    return math.ceil(size * factor)


def traversal(value: Any) -> int:
    """Return what it costs to walk through all that a value holds."""
    if isinstance(value, str | bytes):
        return int(len(value) * TEXT_FACTOR)
    if isinstance(value, list):
        return sum(map(traversal, value))
    if isinstance(value, dict):
        return sum(traversal(key) + traversal(item) for key, item in value.items())
    return 1


def pattern(text: int, size: int) -> int:
    """Return what it costs to look for a pattern in a text, by their sizes."""
    return walk(1 + text) * math.ceil(size * PATTERN_FACTOR)


def _first(factor: float = TEXT_FACTOR) -> Cost:
    return lambda value, *_: walk(size_of(value), factor)


def smaller(one: Any, two: Any) -> int:
    """Return what it costs to compare values."""
    return walk(min(size_of(one), size_of(two)))


def _selector(_: Any, text: str) -> int:
    return LIST_COST + walk(len(text)) + math.ceil(math.ceil(len(text) * 0.5) * 50.0)


def _join(items: list[Any], separator: str = "") -> int:
    made = sum(len(item) for item in items if isinstance(item, str)) + len(separator) * max(len(items) - 1, 0)
    return walk(made, 2 * TEXT_FACTOR)


def _contains_ip(network: Any, other: Any) -> int:
    return 1 + (walk(size_of(other)) if isinstance(other, str) else 0)


def _contains_cidr(network: Any, other: Any) -> int:
    return 3 + (walk(size_of(other)) if isinstance(other, str) else 0)


def _validate(form: Format, text: str) -> int:
    return pattern(len(text), form.pattern_size)


def _allocated(size: int, factor: float = 1.0) -> int:
    return int(size * factor) + 1 + LIST_COST


def _compares_itself(items: list[Any]) -> int:
    factor = 2.0 + (TEXT_FACTOR if items and isinstance(items[0], str | bytes) else 0.0)
    return _allocated(len(items) ** 2, factor)


def _sets(factor: int) -> Cost:
    return lambda one, two: 1 + len(one) * len(two) * factor


_ORDERED = [f"{name}_{kind}" for name in ("less", "less_equals", "greater", "greater_equals")
            for kind in ("string", "bytes")]  # fmt: skip
_KINDS = ("int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes")
COSTS: dict[str, Cost] = {
    "pathcheck_check": lambda *_: CHECK_COST, "resourcecheck_check": lambda *_: CHECK_COST,
    "authorizer_fieldselector": _selector, "authorizer_labelselector": _selector,
    **{
        name: lambda items, *_: traversal(items)
        for kind in _KINDS
        for name in (f"list_{kind}_is_sorted_bool", f"list_{kind}_sum_{kind}", f"list_{kind}_max_{kind}",
                     f"list_{kind}_min_{kind}")
    },
    **dict.fromkeys(
        ("list_a_index_of_int", "list_a_last_index_of_int", "string_index_of_string", "string_index_of_string_int",
         "string_last_index_of_string", "string_last_index_of_string_int"),
        lambda items, *_: traversal(items),
    ),
    **dict.fromkeys(
        ("string_to_url", "string_lower_ascii", "string_upper_ascii", "string_substring_int",
         "string_substring_int_int", "string_trim", "string_jsonpatch_escapeKey_string", "string_to_cidr", "is_ip",
         "is_cidr", "string_to_ip", "string_to_quantity", "is_quantity_string", "string_to_semver",
         "string_bool_to_semver", "is_semver_string", "is_semver_string_bool", "string_to_bytes", "bytes_to_string",
         "strings_quote", "string_format"),
        _first(),
    ),
    **dict.fromkeys(
        ("string_replace_string_string", "string_replace_string_string_int", "string_split_string",
         "string_split_string_int", "ip_is_canonical"),
        _first(2 * TEXT_FACTOR),
    ),
    "list_join": _join, "list_join_string": _join,
    **dict.fromkeys(
        ("string_find_string", "string_find_all_string", "string_find_all_string_int", "matches", "matches_string"),
        lambda text, sought, *_: pattern(len(text), len(sought)),
    ),
    "cidr_contains_ip_string": _contains_ip, "cidr_contains_ip_ip": _contains_ip,
    "cidr_contains_cidr_string": _contains_cidr, "cidr_contains_cidr": _contains_cidr,
    "format-validate": _validate,
    "starts_with_string": lambda text, part: walk(len(part)), "ends_with_string": lambda text, part: walk(len(part)),
    **dict.fromkeys(_ORDERED, smaller),
    "add_string": lambda one, two: walk(len(one) + len(two)), "add_bytes": lambda one, two: walk(len(one) + len(two)),
    "contains_string": lambda text, part: walk(len(text)) * walk(len(part)),
    "list_sets_contains_list": _sets(1), "list_sets_intersects_list": _sets(1), "list_sets_equivalent_list": _sets(2),
    "list_slice": lambda items, start, end: _allocated(max(end - start, 0)),
    "lists_range": lambda count: _allocated(max(count, 0)),
    "list_reverse": lambda items: _allocated(len(items)),
    "list_flatten": lambda items: _allocated(len(items)),
    "list_flatten_int": lambda items, depth: _allocated(len(items), float(max(depth, 1))),
    "list_distinct": _compares_itself,
    **{f"list_{kind}_sort": _compares_itself for kind in _KINDS},
    **{f"list_{kind}_sortByAssociatedKeys": lambda items, keys: _compares_itself(keys) for kind in _KINDS},
}  # fmt: skip
"""By overload; a call of another costs 1."""
