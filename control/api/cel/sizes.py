"""Ranges of sizes and costs, and types with how large their values may become."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from control.api.cel.types import Type

ENDLESS = 2**64 - 1
TEXT_FACTOR = 0.1
"""What it costs to walk along one character."""
PATTERN_FACTOR = 0.25
LIST_COST, MAP_COST, STRUCTURE_COST = 10, 30, 40


def add(one: int, two: int) -> int:
    """Add where a sum has a limit."""
    return min(one + two, ENDLESS)


def multiply(one: int, two: int) -> int:
    """Multiply where a product has a limit."""
    return min(one * two, ENDLESS)


def scale(size: int, factor: float) -> int:
    """Return what a size costs, rounded up."""
    if size == ENDLESS and factor >= 1:
        return ENDLESS
    found = math.ceil(size * factor)
    return min(found, ENDLESS)


@dataclass(frozen=True, slots=True)
class Span:
    """A size or a cost, from the least to the most that it may be."""

    low: int
    high: int

    def plus(self, other: Span) -> Span:
        """Return the sum."""
        return Span(add(self.low, other.low), add(self.high, other.high))

    def times(self, other: Span) -> Span:
        """Return the product."""
        return Span(multiply(self.low, other.low), multiply(self.high, other.high))

    def scaled(self, factor: float) -> Span:
        """Return what a size costs, rounded up."""
        return Span(scale(self.low, factor), scale(self.high, factor))

    def union(self, other: Span) -> Span:
        """Return what holds both."""
        return Span(min(self.low, other.low), max(self.high, other.high))


def fixed(value: int) -> Span:
    """Return a size that is known."""
    return Span(value, value)


UNKNOWN = Span(0, ENDLESS)
NOTHING, ONE = fixed(0), fixed(1)


@dataclass(frozen=True, slots=True)
class Declared:
    """A type with how large its values may become, as a schema tells."""

    type: Type
    elements_max: int = 0
    """The most items, entries or characters that a value may have."""
    serialized_min: int = 1
    """The fewest bytes that a value takes in JSON."""
    fields: Mapping[str, Declared] = field(default_factory=dict)
    key: Declared | None = None
    element: Declared | None = None

    def at(self, path: tuple[str, ...]) -> Declared | None:
        """Return what is declared at a path below; ``@items``, ``@values`` and ``@keys`` are what is within."""
        found: Declared | None = self
        for name in path:
            if found is None:
                return None
            if name in ("@items", "@values"):
                found = found.element
            elif name == "@keys":
                found = found.key
            else:
                found = found.fields.get(name)
        return found
