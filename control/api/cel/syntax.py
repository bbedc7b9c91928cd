"""The tree of an expression, as the parser makes it and the checker completes it with types."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from control.api.cel.types import ERROR, Type

RESULT = "@result"
"""The variable in which a comprehension gathers what it yields."""
UNUSED = "#unused"


@dataclass(slots=True, eq=False)
class Node:
    """A part of an expression: where it stands in the text, and, when it has been checked, its type."""

    at: int
    type: Type = field(default=ERROR, kw_only=True)


@dataclass(slots=True, eq=False)
class Literal(Node):
    """A constant."""

    value: Any


@dataclass(slots=True, eq=False)
class Ident(Node):
    """A name; ``constant`` is its value where it names a type."""

    name: str
    constant: Any = None


@dataclass(slots=True, eq=False)
class Select(Node):
    """A field of something; with ``test_only``, whether it is there."""

    operand: Node
    field: str
    test_only: bool = False


@dataclass(slots=True, eq=False)
class Call(Node):
    """A call of a function or an operator; ``overloads`` are those that may be meant, by their ids."""

    function: str
    target: Node | None
    arguments: list[Node]
    overloads: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class ListNode(Node):
    """A list; ``optional`` are the places whose items are left out where they hold no value."""

    items: list[Node]
    optional: frozenset[int] = frozenset()


@dataclass(slots=True, eq=False)
class Entry:
    """A key and a value of a map, or a field and a value of a structure."""

    at: int
    key: Node | str
    value: Node
    optional: bool = False


@dataclass(slots=True, eq=False)
class MapNode(Node):
    """A map."""

    entries: list[Entry]


@dataclass(slots=True, eq=False)
class StructNode(Node):
    """A structure of a named type."""

    name: str
    entries: list[Entry]


@dataclass(slots=True, eq=False)
class Comprehension(Node):
    """A loop, in the terms that are checked and priced, and (``macro`` and its two parts) as it was written."""

    range: Node
    variable: str
    second: str
    accumulator: str
    start: Node
    condition: Node
    step: Node
    result: Node
    macro: str
    predicate: Node | None = None
    transform: Node | None = None
