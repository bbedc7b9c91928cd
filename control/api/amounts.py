"""Amounts of several resources by their names, Kubernetes' ResourceList: sums, differences and comparison."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from decimal import Decimal
from typing import TypeAlias

from control.api import quantity

Amounts: TypeAlias = Mapping[str, str]
"""Quantities by the names of resources."""


def total(many: Iterable[Amounts]) -> dict[str, str]:
    """Return the sum of each resource, in the form of the first amount of it that is not zero."""
    values: dict[str, Decimal] = {}
    forms: dict[str, str] = {}
    for amounts in many:
        for name, text in amounts.items():
            value = quantity.parse(text)
            if not values.get(name):
                forms[name] = text
                values[name] = value
            else:
                values[name] += value
    return {name: quantity.like(forms[name], value) for name, value in values.items()}


def less(left: Amounts, right: Amounts) -> dict[str, str]:
    """Return how much more the left one has of each resource of either, zero where it has less."""
    result: dict[str, str] = {}
    for name in {**left, **right}:
        mine, other = left.get(name, "0"), right.get(name, "0")
        value = quantity.parse(mine) - quantity.parse(other)
        result[name] = quantity.like(mine, value) if value > 0 else "0"
    return result


def highest(left: Amounts, right: Amounts) -> dict[str, str]:
    """Return the larger amount of each resource."""
    result = dict(left)
    for name, text in right.items():
        if name not in result or quantity.parse(text) > quantity.parse(result[name]):
            result[name] = text
    return result


def only(amounts: Amounts, names: Collection[str]) -> dict[str, str]:
    """Return the amounts of the named resources."""
    return {name: text for name, text in amounts.items() if name in names}


def without_zeroes(amounts: Amounts) -> dict[str, str]:
    """Return the amounts that are not zero."""
    return {name: text for name, text in amounts.items() if quantity.parse(text)}


def exceeding(amounts: Amounts, bounds: Amounts) -> list[str]:
    """Return the names of which there is more than their bound, sorted."""
    return sorted(
        name
        for name, bound in bounds.items()
        if name in amounts and quantity.parse(amounts[name]) > quantity.parse(bound)
    )


def are_equal(left: Amounts, right: Amounts) -> bool:
    """Tell whether both have the same amounts of the same resources, however they are written."""
    return left.keys() == right.keys() and all(
        quantity.parse(text) == quantity.parse(right[name]) for name, text in left.items()
    )


def shown(amounts: Amounts) -> str:
    """Return the amounts as messages show them: ``cpu=2,pods=3``."""
    return ",".join(f"{name}={quantity.canonical(str(amounts[name]))}" for name in sorted(amounts))
