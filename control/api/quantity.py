"""Kubernetes quantities: "100m", "64Mi", "1e3"."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal
from functools import lru_cache
from math import ceil


class QuantityError(ValueError):
    """The text is not a quantity."""


WRONG = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
_WRONG_SUFFIX = "unable to parse quantity's suffix"
_WRONG_NUMBER = "unable to parse numeric part of quantity"
_LOOSE = re.compile(r"^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$")
_NUMBER = re.compile(r"^[+-]?(?:\d+\.?\d*|\.\d+)$")
_EXPONENT = re.compile(r"^[eE][+-]?\d+$")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_EXACT = Context(prec=80)
_NANO = Decimal("1e-9")


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Decimal, str]:
    """Return the value and the suffix's family: "decimal", "binary" or "exponent"."""
    found = _LOOSE.match(text)
    if found is None:
        raise QuantityError(WRONG)
    number, suffix = found[1], found[2]
    if not _NUMBER.match(number):
        raise QuantityError(_WRONG_NUMBER)
    value = Decimal(number)
    if suffix in _DECIMAL:
        return _EXACT.scaleb(value, _DECIMAL[suffix]), "decimal"
    if suffix in _BINARY:
        return _EXACT.multiply(value, Decimal(1024) ** _BINARY[suffix]), "binary"
    if _EXPONENT.match(suffix) and abs(int(suffix[1:])) < 1000:
        return _EXACT.scaleb(value, int(suffix[1:])), "exponent"
    raise QuantityError(_WRONG_SUFFIX)


def parse(text: str | float) -> Decimal:
    """Return the value in base units (cores, bytes); raises QuantityError with Kubernetes' text."""
    return _parse(str(text))[0]


def milli(text: str | float) -> int:
    """Return the value in thousandths, rounded up as Kubernetes rounds."""
    return ceil(parse(text) * 1000)


def whole(text: str | float) -> int:
    """Return the value in whole units, rounded up as Kubernetes rounds."""
    return ceil(parse(text))


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """Return the quantity as Kubernetes writes it back: "0.5" is "500m", "1024Mi" is "1Gi"."""
    value, family = _parse(text)
    value = value.quantize(_NANO, rounding=ROUND_CEILING, context=_EXACT) if value.as_tuple().exponent != 0 else value
    if not value:
        return "0"
    if family == "binary" and abs(value) >= 1024 and value == value.to_integral_value():
        return _binary(int(value))
    return _decimal(value, exponent=family == "exponent")


def _binary(value: int) -> str:
    power = 0
    while power < 6 and value % 1024 == 0:
        value //= 1024
        power += 1
    return f"{value}{next((suffix for suffix, found in _BINARY.items() if found == power), '')}"


def _decimal(value: Decimal, *, exponent: bool) -> str:
    for suffix, power in reversed(_DECIMAL.items()):
        scaled = _EXACT.scaleb(value, -power)
        if scaled == scaled.to_integral_value():
            written = f"e{power}" if exponent and power else ("" if exponent else suffix)
            return f"{int(scaled)}{written}"
    raise AssertionError("a quantity is a whole number of billionths")


def from_milli(thousandths: int) -> str:
    """Return the canonical text of a number of thousandths."""
    return canonical(f"{thousandths}m")


def add(left: str | float, right: str | float) -> str:
    """Return the canonical sum, in the form of the left one."""
    return like(left, parse(left) + parse(right))


def subtract(left: str | float, right: str | float) -> str:
    """Return the canonical difference, in the form of the left one."""
    return like(left, parse(left) - parse(right))


def like(text: str | float, value: Decimal) -> str:
    """Return the canonical text of a value, in the form (decimal, binary, exponent) of another quantity."""
    family = _parse(str(text))[1]
    if family == "binary" and abs(value) >= 1024 and value == value.to_integral_value():
        return _binary(int(value))
    return _decimal(value, exponent=family == "exponent") if value else "0"
