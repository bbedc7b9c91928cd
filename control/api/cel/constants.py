"""What is wrong with an expression though its types fit: constants that functions will not take, items of many types.

Durations, instants and patterns that are none are told before the expression runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from control.api.cel.errors import CelError, Issue
from control.api.cel.formatting import format_issues
from control.api.cel.syntax import Call, Comprehension, Ident, ListNode, Literal, MapNode, Node, Select, StructNode
from control.api.cel.types import Type, unwrapped
from control.api.cel.values import Duration, Timestamp
from control.api.custom import patterns

_CHECKS: dict[str, tuple[int, Callable[[str], object]]] = {
    "duration": (0, Duration.parse),
    "timestamp": (0, Timestamp.parse),
}


def constant_issues(node: Node) -> list[Issue]:
    """Return what is wrong with the constants of a checked expression."""
    found = mixed_issues(node)
    for call in _calls(node):
        arguments = call.arguments
        if call.function == "matches":
            pattern = arguments[-1]
            if isinstance(pattern, Literal) and isinstance(pattern.value, str) and patterns.fault(pattern.value):
                found.append(Issue(pattern.at, "invalid matches argument"))
        elif call.function == "format" and "string_format" in call.overloads:
            found += format_issues(call)
        elif call.function in _CHECKS and len(arguments) == 1 and isinstance(text := arguments[0], Literal):
            try:
                if isinstance(text.value, str):
                    _CHECKS[call.function][1](text.value)
            except CelError:
                found.append(Issue(text.at, f"invalid {call.function} argument"))
    return found


def mixed_issues(node: Node) -> list[Issue]:
    """Return the lists and maps whose items are of different types; those that are formatted may be."""
    found: list[Issue] = []
    if isinstance(node, ListNode):
        types = [
            unwrapped(item.type)[0] if index in node.optional else item.type for index, item in enumerate(node.items)
        ]
        other = next((index for index, each in enumerate(types) if each != types[0]), None)
        if other is not None:
            found.append(_mismatch(node.items[other], types[0], types[other]))
    elif isinstance(node, MapNode):
        for parts in (
            [(entry.key, entry.key.type) for entry in node.entries if isinstance(entry.key, Node)],
            [
                (entry.value, unwrapped(entry.value.type)[0] if entry.optional else entry.value.type)
                for entry in node.entries
            ],
        ):
            found += [_mismatch(part, parts[0][1], each) for part, each in parts if each != parts[0][1]]
    if not (isinstance(node, Call) and node.function == "format"):
        for child in children(node):
            found += mixed_issues(child)
    return found


def _held(node: Node, optional: bool) -> Type:
    return unwrapped(node.type)[0] if optional else node.type


def _mismatch(node: Node, wanted: Type, found: Type) -> Issue:
    return Issue(node.at, f"expected type '{wanted}' but found '{found}'")


def _calls(node: Node) -> Iterator[Call]:
    if isinstance(node, Call):
        yield node
    for child in children(node):
        yield from _calls(child)


def children(node: Node) -> Iterator[Node]:
    """Yield the parts of a node."""
    match node:
        case Select():
            yield node.operand
        case Call():
            if node.target is not None:
                yield node.target
            yield from node.arguments
        case ListNode():
            yield from node.items
        case MapNode() | StructNode():
            for entry in node.entries:
                if isinstance(entry.key, Node):
                    yield entry.key
                yield entry.value
        case Comprehension():
            yield from (node.range, node.start, node.condition, node.step, node.result)


def names_of(node: Node) -> set[str]:
    """Return the names that an expression uses, those of its loops with them."""
    found = {node.name} if isinstance(node, Ident) else set()
    for child in children(node):
        found |= names_of(child)
    return found


def functions_of(node: Node) -> set[str]:
    """Return the functions that an expression calls."""
    return {call.function for call in _calls(node)}
