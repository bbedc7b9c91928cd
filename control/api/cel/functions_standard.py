"""CEL's own operators and functions: arithmetic, order, conversions, and the parts of instants."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

from control.api.cel.errors import CelError
from control.api.cel.parser import INT_MAX, INT_MIN, UINT_MAX, Uint
from control.api.cel.types import Type
from control.api.cel.values import Duration, Timestamp, type_name
from control.api.custom import patterns

Implementation = Callable[..., Any]
_SECOND_NS = 10**9


def _int(value: int) -> int:
    if not INT_MIN <= value <= INT_MAX:
        raise CelError("integer overflow")
    return value


def _uint(value: int) -> Uint:
    if not 0 <= value <= UINT_MAX:
        raise CelError("unsigned integer overflow")
    return Uint(value)


def _divided(one: int, two: int) -> int:
    if two == 0:
        raise CelError("division by zero")
    found = abs(one) // abs(two)
    return found if (one < 0) == (two < 0) else -found


def _rest(one: int, two: int) -> int:
    if two == 0:
        raise CelError("modulus by zero")
    return one - two * _divided(one, two)


def _divided_double(one: float, two: float) -> float:
    if two != 0:
        return one / two
    if one == 0 or math.isnan(one):
        return math.nan
    return math.copysign(math.inf, one) * math.copysign(1.0, two)


_ARITHMETIC: dict[str, Implementation] = {
    "add_int64": lambda one, two: _int(one + two),
    "add_uint64": lambda one, two: _uint(one + two),
    "add_double": lambda one, two: one + two,
    "add_string": lambda one, two: one + two,
    "add_bytes": lambda one, two: one + two,
    "add_duration_duration": lambda one, two: Duration.of(one.ns + two.ns),
    "add_duration_timestamp": lambda one, two: Timestamp.of(one.ns + two.ns),
    "add_timestamp_duration": lambda one, two: Timestamp.of(one.ns + two.ns),
    "subtract_int64": lambda one, two: _int(one - two),
    "subtract_uint64": lambda one, two: _uint(one - two),
    "subtract_double": lambda one, two: one - two,
    "subtract_duration_duration": lambda one, two: Duration.of(one.ns - two.ns),
    "subtract_timestamp_duration": lambda one, two: Timestamp.of(one.ns - two.ns),
    "subtract_timestamp_timestamp": lambda one, two: Duration.of(one.ns - two.ns),
    "multiply_int64": lambda one, two: _int(one * two),
    "multiply_uint64": lambda one, two: _uint(one * two),
    "multiply_double": lambda one, two: one * two,
    "divide_int64": lambda one, two: _int(_divided(one, two)),
    "divide_uint64": lambda one, two: _uint(_divided(one, two)),
    "divide_double": _divided_double,
    "modulo_int64": _rest,
    "modulo_uint64": lambda one, two: Uint(_rest(one, two)),
    "negate_int64": lambda one: _int(-one),
    "negate_double": lambda one: -one,
}
_PAIRS = (
    "bool", "int64", "int64_double", "int64_uint64", "uint64", "uint64_double", "uint64_int64", "double",
    "double_int64", "double_uint64", "string", "bytes", "timestamp", "duration",
)  # fmt: skip
_ORDERS: dict[str, Implementation] = {
    "less": lambda one, two: one < two,
    "less_equals": lambda one, two: one <= two,
    "greater": lambda one, two: one > two,
    "greater_equals": lambda one, two: one >= two,
}

# Conversions

_WHOLE = re.compile(r"[+-]?[0-9]+", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:inf|infinity|nan|(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)", re.ASCII | re.IGNORECASE)
_BOOLS = {
    **dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True),
    **dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False),
}


def _type_error(source: str, target: str) -> CelError:
    return CelError(f"type conversion error from '{source}' to '{target}'")


def _string_to_bool(text: str) -> bool:
    if text not in _BOOLS:
        raise _type_error("string", "bool")
    return _BOOLS[text]


def _string_to_int(text: str) -> int:
    if _WHOLE.fullmatch(text) is None or len(text) > 40:
        raise _type_error("string", "int")
    value = int(text)
    if not INT_MIN <= value <= INT_MAX:
        raise _type_error("string", "int")
    return value


def _string_to_uint(text: str) -> Uint:
    if not text.isascii() or not text.isdigit() or len(text) > 40 or int(text) > UINT_MAX:
        raise _type_error("string", "uint")
    return Uint(int(text))


def _string_to_double(text: str) -> float:
    if _DECIMAL.fullmatch(text) is None:
        raise _type_error("string", "double")
    return float(text)


def _double_to_int(value: float) -> int:
    if not math.isfinite(value) or not -(2.0**63) < value < 2.0**63:
        raise CelError("integer overflow")
    return int(value)


def _double_to_uint(value: float) -> Uint:
    if not math.isfinite(value) or not 0 <= value < 2.0**64:
        raise CelError("unsigned integer overflow")
    return Uint(int(value))


def double_text(value: float) -> str:
    """Return a number as Go's %g writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    power = int(exponent) if exponent else (math.floor(math.log10(abs(value))) if value else 0)
    if -5 < power < 6:
        return format(value, "f").rstrip("0").rstrip(".") if exponent else mantissa.removesuffix(".0")
    if not exponent:
        # The shortest digits that mean the number, of which Go writes all but the first behind the point.
        digits = mantissa.lstrip("-").replace(".", "").strip("0")
        sign = "-" if value < 0 else ""
        mantissa = f"{sign}{digits[0]}.{digits[1:]}" if digits[1:] else f"{sign}{digits[0]}"
    return f"{mantissa.removesuffix('.0')}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _bytes_to_string(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CelError("invalid UTF-8 in bytes, cannot convert to string") from None


def _identity(value: Any) -> Any:
    return value


_CONVERSIONS: dict[str, Implementation] = {
    "bool_to_bool": _identity, "bytes_to_bytes": _identity, "double_to_double": _identity, "to_dyn": _identity,
    "duration_to_duration": _identity, "int64_to_int64": _identity, "string_to_string": _identity,
    "timestamp_to_timestamp": _identity, "uint64_to_uint64": _identity,
    "string_to_bool": _string_to_bool,
    "string_to_bytes": str.encode,
    "int64_to_double": float, "uint64_to_double": float, "string_to_double": _string_to_double,
    "string_to_duration": Duration.parse, "string_to_timestamp": Timestamp.parse,
    "double_to_int64": _double_to_int, "string_to_int64": _string_to_int,
    "duration_to_int64": lambda value: value.ns, "timestamp_to_int64": lambda value: value.ns // _SECOND_NS,
    "uint64_to_int64": lambda value: _int(int(value)),
    "bool_to_string": lambda value: "true" if value else "false",
    "bytes_to_string": _bytes_to_string, "double_to_string": double_text, "duration_to_string": str,
    "int64_to_string": str, "timestamp_to_string": str, "uint64_to_string": lambda value: str(int(value)),
    "int64_to_timestamp": lambda value: Timestamp.of(value * _SECOND_NS),
    "double_to_uint64": _double_to_uint, "int64_to_uint64": _uint, "string_to_uint64": _string_to_uint,
    "type": lambda value: type_of_value(value),
}  # fmt: skip


def type_of_value(value: Any) -> Type:
    """Return the type of a value, as ``type()`` gives it."""
    return Type("named", type_name(value))


# Texts


def matches(text: str, pattern: str) -> bool:
    """Tell whether a pattern is found in a text; raises CelError where it is none."""
    if why := patterns.go_fault(pattern):
        raise CelError(f"error parsing regexp: {why}")
    return patterns.found(pattern, text)


_TEXTS: dict[str, Implementation] = {
    "contains_string": lambda text, part: part in text,
    "starts_with_string": str.startswith,
    "ends_with_string": str.endswith,
    "matches": matches,
    "matches_string": matches,
    **{f"size_{kind}": len for kind in ("bytes", "list", "map", "string")},
    **{f"{kind}_size": len for kind in ("bytes", "list", "map", "string")},
}

# Parts of instants


def _zone(text: str) -> Any:
    if ":" not in text:
        if text in ("", "UTC"):
            return timezone.utc  # noqa: UP017 - beside the other zones of its module
        try:
            return ZoneInfo(text)
        except (ValueError, OSError, KeyError):
            raise CelError(f"unknown time zone {text}") from None
    hours, _, minutes = text.partition(":")
    if not (hours.lstrip("+-").isdigit() and minutes.isdigit()):
        raise CelError(f'strconv.Atoi: parsing "{text}": invalid syntax')
    if not -23 <= int(hours) <= 23:
        raise CelError(f"timezone offset hours out of range [-23, 23]: {text}")
    if int(minutes) > 59:
        raise CelError(f"timezone offset minutes out of range [0, 59]: {text}")
    sign = -1 if text.startswith("-") else 1
    return timezone(timedelta(minutes=int(hours) * 60 + sign * int(minutes)))


_PARTS: dict[str, Callable[[datetime], int]] = {
    "year": lambda moment: moment.year,
    "month": lambda moment: moment.month - 1,
    "day_of_year": lambda moment: moment.timetuple().tm_yday - 1,
    "day_of_month": lambda moment: moment.day - 1,
    "day_of_month_1_based": lambda moment: moment.day,
    "day_of_week": lambda moment: moment.isoweekday() % 7,
    "hours": lambda moment: moment.hour,
    "minutes": lambda moment: moment.minute,
    "seconds": lambda moment: moment.second,
}


def _of_zone(part: Callable[[datetime], int]) -> Implementation:
    def find(instant: Timestamp, zone: str) -> int:
        try:
            return part(instant.moment().astimezone(_zone(zone)))
        except OverflowError:
            raise CelError("timestamp overflow") from None

    return find


def _truncated(unit_ns: int) -> Implementation:
    return lambda length: _divided(length.ns, unit_ns)


_TIMES: dict[str, Implementation] = {
    **{f"timestamp_to_{name}": lambda at, part=part: part(at.moment()) for name, part in _PARTS.items()},
    **{f"timestamp_to_{name}_with_tz": _of_zone(part) for name, part in _PARTS.items()},
    "timestamp_to_milliseconds": lambda at: at.ns % _SECOND_NS // 10**6,
    "timestamp_to_milliseconds_with_tz": lambda at, _: at.ns % _SECOND_NS // 10**6,
    "duration_to_hours": _truncated(3600 * _SECOND_NS),
    "duration_to_minutes": _truncated(60 * _SECOND_NS),
    "duration_to_seconds": _truncated(_SECOND_NS),
    "duration_to_milliseconds": _truncated(10**6),
}  # fmt: skip
IMPLEMENTATIONS: dict[str, Implementation] = {
    **_ARITHMETIC,
    **{f"{name}_{pair}": compare for name, compare in _ORDERS.items() for pair in _PAIRS},
    **_CONVERSIONS,
    **_TEXTS,
    **_TIMES,
}
