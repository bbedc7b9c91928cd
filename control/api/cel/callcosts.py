"""What calls of functions cost at most, and how large what they yield may become."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from control.api.cel.sizes import (
    ENDLESS,
    LIST_COST,
    ONE,
    PATTERN_FACTOR,
    TEXT_FACTOR,
    UNKNOWN,
    Span,
    add,
    fixed,
    multiply,
)
from control.api.cel.syntax import Literal, Node
from control.api.cel.types import Type

CHECK_COST = 350_000
"""An expression may ask the authorizer twice."""
FORMAT_MAX, FORMAT_PATTERN_MAX = 64, 128
_REQUIREMENTS = 50.0
"""A requirement of a selector is a structure and a list; there may be one for each two characters."""


class Sizes(Protocol):
    """Knows how large values become."""

    def declared_size(self, path: tuple[str, ...]) -> Span | None:
        """Return how large a value at a path may become."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument of a call: what it is, where its value comes from, and how large it is, where that is known."""

    node: Node
    path: tuple[str, ...]
    known: Span | None
    sizes: Sizes

    @property
    def size(self) -> Span:
        """How large the value may become."""
        return self.known or self.sizes.declared_size(self.path) or UNKNOWN

    @property
    def type(self) -> Type:
        """The type of the value."""
        return self.node.type

    def item_size(self) -> Span:
        """Return how large an item of a list may become."""
        found = self.sizes.declared_size((*self.path, "@items")) if self.path else None
        return found or UNKNOWN


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call costs, and how large what it yields may become."""

    cost: Span
    size: Span | None = None


def call_cost(function: str, overload: str, target: Argument | None, arguments: list[Argument]) -> Estimate:
    """Return what a call costs, without its arguments."""
    by_overload = _BY_OVERLOAD.get(overload)
    if by_overload is not None:
        return by_overload([target, *arguments] if target is not None else arguments)
    found = _of_kubernetes(function, overload, target, arguments)
    return found if found is not None else _standard(overload, target, arguments)


def _walk(size: Span, factor: float = TEXT_FACTOR) -> Span:
    return size.scaled(factor)


# Functions of Kubernetes and the extensions that it prices

_CHEAP = frozenset({
    "serviceAccount", "path", "group", "resource", "subresource", "namespace", "name", "allowed", "reason", "error",
    "errored", "masked", "prefixLength", "family", "isUnspecified", "isLoopback", "isLinkLocalMulticast",
    "isLinkLocalUnicast", "isGlobalUnicast", "format.named", "sign", "asInteger", "isInteger", "asApproximateFloat",
    "isGreaterThan", "isLessThan", "compareTo", "add", "sub", "major", "minor", "patch", "getScheme", "getHostname",
    "getHost", "getPort", "getEscapedPath", "getQuery",
})  # fmt: skip
_OVER_LISTS = frozenset({"isSorted", "sum", "max", "min", "indexOf", "lastIndexOf"})
_PARSES = frozenset({"cidr", "isIP", "isCIDR", "quantity", "isQuantity", "semver", "isSemver", "ip"})
_KEEPS_SIZE = frozenset({"lowerAscii", "upperAscii", "substring", "trim"})
_ADDRESS = Span(4, 16)


def _of_kubernetes(function: str, overload: str, target: Argument | None, arguments: list[Argument]) -> Estimate | None:
    if function in _CHEAP or overload == "cidr_ip":
        return Estimate(ONE)
    if function == "check":
        return Estimate(fixed(CHECK_COST))
    if function in ("fieldSelector", "labelSelector"):
        length = arguments[0].size
        return Estimate(fixed(LIST_COST).plus(_walk(length)).plus(length.scaled(0.5).scaled(_REQUIREMENTS)))
    if function in _PARSES:
        return Estimate(_walk(arguments[0].size))
    if function == "ip.isCanonical":
        return Estimate(_walk(arguments[0].size, 2 * TEXT_FACTOR))
    if function in ("url", "jsonpatch.escapeKey"):
        return Estimate(_walk(arguments[0].size), arguments[0].size)
    if function == "_==_":
        return _equality(arguments)
    if target is None:
        return None
    if function in _OVER_LISTS:
        return _over_list(target)
    if function in _KEEPS_SIZE:
        return Estimate(_walk(target.size), target.size)
    special = _TEXTS.get(function)
    return special(overload, target, arguments) if special is not None else None


def _over_list(target: Argument) -> Estimate:
    if not target.type.parameters:
        return Estimate(_walk(target.size))
    each = ONE
    if target.type.parameters[0].kind in ("string", "bytes"):
        each = each.plus(_walk(target.item_size()))
    return Estimate(target.size.times(each))


def _replace(overload: str, target: Argument, arguments: list[Argument]) -> Estimate:
    size, old, new = target.size, arguments[0].size, arguments[1].size
    low_count = high_count = low_kept = high_kept = 0
    if old.low == 0:
        high_count, high_kept = add(size.high, 1), size.high
    elif new.high <= old.low:
        high_kept = size.high
    else:
        high_count = math.ceil(size.high / old.low)
    if old.high == 0:
        low_count, low_kept = add(size.low, 1), size.low
    elif old.high <= new.low:
        low_kept = size.low
    else:
        low_count = math.ceil(size.low / old.high)
    made = Span(low_count, min(high_count, ENDLESS)).times(new).plus(Span(low_kept, high_kept))
    return Estimate(_walk(size, 2 * TEXT_FACTOR), made)


def _split(overload: str, target: Argument, arguments: list[Argument]) -> Estimate:
    most = target.size.high
    if len(arguments) > 1 and isinstance(limit := arguments[1].node, Literal) and type(limit.value) is int:
        most = limit.value % (ENDLESS + 1)
    return Estimate(_walk(target.size, 2 * TEXT_FACTOR), Span(0, most))


def _join(overload: str, target: Argument, arguments: list[Argument]) -> Estimate:
    count = target.size
    made = count.times(target.item_size())
    if arguments:
        made = made.plus(arguments[0].size.times(Span(max(count.low - 1, 0), max(count.high - 1, 0))))
    return Estimate(_walk(made), made)


def _find(overload: str, target: Argument, arguments: list[Argument]) -> Estimate:
    return Estimate(_pattern(target.size, arguments[0].size), Span(0, target.size.high))


def _pattern(text: Span, pattern: Span) -> Span:
    return _walk(text.plus(ONE)).times(pattern.scaled(PATTERN_FACTOR))


def _contains_ip(overload: str, target: Argument, arguments: list[Argument]) -> Estimate:
    cost = _walk(_ADDRESS.plus(_ADDRESS))
    return Estimate(cost.plus(_walk(arguments[0].size)) if overload == "cidr_contains_ip_string" else cost)


def _contains_cidr(overload: str, target: Argument, arguments: list[Argument]) -> Estimate:
    cost = _walk(_ADDRESS.plus(_ADDRESS)).plus(_walk(_ADDRESS)).plus(ONE)
    return Estimate(cost.plus(_walk(arguments[0].size)) if overload == "cidr_contains_cidr_string" else cost)


def _validate(overload: str, target: Argument, arguments: list[Argument]) -> Estimate:
    return Estimate(_walk(arguments[0].size).scaled(FORMAT_PATTERN_MAX * PATTERN_FACTOR))


_TEXTS: dict[str, Callable[[str, Argument, list[Argument]], Estimate]] = {
    "replace": _replace, "split": _split, "join": _join, "find": _find, "findAll": _find,
    "containsIP": _contains_ip, "containsCIDR": _contains_cidr, "validate": _validate,
}  # fmt: skip


def _equality(arguments: list[Argument]) -> Estimate | None:
    kind = arguments[0].type
    if kind != arguments[1].type or not kind.name.startswith(("kubernetes.", "net.")):
        return None
    if kind.name == "kubernetes.NamedFormat":
        return Estimate(_walk(Span(1, FORMAT_MAX)))
    if kind.name == "kubernetes.URL":
        known = arguments[1].known
        return Estimate(_walk(Span(1, known.high if known and arguments[0].known else 1)))
    return Estimate(ONE)


# CEL's own functions

_ORDERS = frozenset(
    f"{order}_{kind}" for order in ("less", "greater", "less_equals", "greater_equals") for kind in ("string", "bytes")
) | {"equals", "not_equals"}


def _standard(overload: str, target: Argument | None, arguments: list[Argument]) -> Estimate:
    if overload in _ORDERS:
        most = min(arguments[0].size.high, arguments[1].size.high)
        return Estimate(Span(1 if most > 0 else 0, most).scaled(TEXT_FACTOR))
    match overload:
        case "string_format" if target is not None:
            return Estimate(_walk(target.size))
        case "string_to_bytes":
            size = arguments[0].size
            return Estimate(_walk(size), Span(size.low, multiply(size.high, 4)))
        case "bytes_to_string":
            size = arguments[0].size
            return Estimate(_walk(size), Span(size.low // 4, size.high))
        case "strings_quote":
            size = arguments[0].size
            return Estimate(_walk(size), Span(add(size.low, 2), add(multiply(size.high, 2), 2)))
        case "starts_with_string" | "ends_with_string":
            return Estimate(_walk(arguments[0].size))
        case "in_list":
            return Estimate(arguments[1].size.scaled(1))
        case "matches_string" if target is not None:
            return Estimate(_pattern(target.size, arguments[0].size))
        case "matches":
            return Estimate(_pattern(arguments[0].size, arguments[1].size))
        case "contains_string" if target is not None:
            return Estimate(_walk(target.size).times(_walk(arguments[0].size)))
        case "add_list":
            return Estimate(ONE, arguments[0].size.plus(arguments[1].size))
        case "add_string" | "add_bytes":
            made = arguments[0].size.plus(arguments[1].size)
            return Estimate(_walk(made), made)
    return Estimate(ONE)


# The list and set extensions, by overload


def _sets(factor: float) -> Callable[[list[Argument]], Estimate]:
    return lambda found: Estimate(found[0].size.times(found[1].size).scaled(factor).plus(ONE))


def _allocated(size: Span, factor: float, result: Span) -> Estimate:
    return Estimate(size.scaled(factor).plus(fixed(LIST_COST)).plus(ONE), result)


def _written(argument: Argument, otherwise: int) -> int:
    node = argument.node
    if not isinstance(node, Literal) or type(node.value) is not int:
        return otherwise
    return max(node.value, 0)


def _slice(found: list[Argument]) -> Estimate:
    start, end = _written(found[1], 0), _written(found[2], found[0].size.high)
    size = fixed((end - start) % (ENDLESS + 1))
    return _allocated(size, 1, size)


def _range(found: list[Argument]) -> Estimate:
    size = fixed(_written(found[0], ENDLESS))
    return _allocated(size, 1, size)


def _reverse(found: list[Argument]) -> Estimate:
    return _allocated(found[0].size, 1, found[0].size)


def _flatten(found: list[Argument]) -> Estimate:
    depth = _written(found[1], ENDLESS) if len(found) > 1 else 1
    return _allocated(found[0].size, float(depth), found[0].size)


def _squared(size: Span, kind: str) -> Estimate:
    squared = size.times(size)
    return _allocated(squared, 2.0 + (TEXT_FACTOR if kind in ("string", "bytes") else 0), squared)


def _distinct(found: list[Argument]) -> Estimate:
    inner = found[0].type.parameters
    return _squared(found[0].size, inner[0].kind if inner else "")


_BY_OVERLOAD: dict[str, Callable[[list[Argument]], Estimate]] = {
    "list_sets_contains_list": _sets(1),
    "list_sets_intersects_list": _sets(1),
    "list_sets_equivalent_list": _sets(2),
    "list_slice": _slice,
    "lists_range": _range,
    "list_reverse": _reverse,
    "list_flatten": _flatten,
    "list_flatten_int": _flatten,
    "list_distinct": _distinct,
}
for _kind in ("int", "uint", "double", "bool", "duration", "timestamp", "string", "bytes"):
    _BY_OVERLOAD[f"list_{_kind}_sort"] = lambda found, kind=_kind: _squared(found[0].size, kind)  # type: ignore[misc]
    _BY_OVERLOAD[f"list_{_kind}_sortByAssociatedKeys"] = (
        lambda found, kind=_kind: _squared(found[1].size, kind)  # type: ignore[misc]
    )
