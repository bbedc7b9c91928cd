"""The values of expressions, beside Python's own: instants, lengths of time, optionals, types, and Kubernetes' kinds.

An int is a signed number, a Uint one without a sign; lists and dicts are lists and maps.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Protocol

from control.api.cel.errors import BudgetError, CelError, LimitError
from control.api.cel.parser import INT_MAX, INT_MIN, Uint
from control.api.cel.types import Type

_SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S, _LAST_S = -62135596800, 253402300799


class NoOverload(CelError):  # noqa: N818 - named as what it tells
    """A function was called on values of types that it does not take."""


@dataclass(frozen=True, slots=True, order=True)
class Timestamp:
    """An instant."""

    ns: int

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Read RFC 3339; raises CelError."""
        match = _INSTANT.fullmatch(text)
        if match is None:
            raise CelError(f"invalid timestamp {text!r}")
        day, clock, fraction, zone = match.groups()
        try:
            moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in 'zZ' else zone}")
        except ValueError:
            raise CelError(f"invalid timestamp {text!r}") from None
        seconds = (moment - _EPOCH) // timedelta(seconds=1)
        return cls.of(seconds * _SECOND_NS + int((fraction or "").ljust(9, "0")[:9]))

    @classmethod
    def of(cls, ns: int) -> Timestamp:
        """Return an instant; raises CelError where no year holds it."""
        if not _FIRST_S <= ns // _SECOND_NS <= _LAST_S:
            raise CelError("timestamp overflow")
        return cls(ns)

    def moment(self) -> datetime:
        """Return the instant to the second, in UTC."""
        return _EPOCH + timedelta(seconds=self.ns // _SECOND_NS)

    def __str__(self) -> str:
        fraction = f"{self.ns % _SECOND_NS:09d}".rstrip("0")
        shown = self.moment()
        head = shown.replace(tzinfo=None).isoformat()
        return f"{head}.{fraction}Z" if fraction else f"{head}Z"


_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:\d\d)(?:\.(\d+))?([zZ]|[+-]\d\d:\d\d)", re.ASCII)
_UNITS_NS = {"ns": 1, "us": 1000, "µs": 1000, "μs": 1000, "ms": 10**6, "s": _SECOND_NS, "m": 60 * _SECOND_NS,
             "h": 3600 * _SECOND_NS}  # fmt: skip
_LENGTH = re.compile(r"(\d*\.?\d*)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Duration:
    """A length of time."""

    ns: int

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read Go's form, ``1h30m``; raises CelError."""
        body = text[1:] if text[:1] in ("-", "+") else text
        total, at = Fraction(0), 0
        for match in _LENGTH.finditer(body):
            if match.start() != at or not match[1].strip("."):
                break
            total += Fraction(match[1] if match[1] != "." else "0") * _UNITS_NS[match[2]]
            at = match.end()
        if body != "0" and (at != len(body) or not body):
            raise CelError(f"invalid duration {text!r}")
        return cls.of(-int(total) if text[0] == "-" else int(total))

    @classmethod
    def of(cls, ns: int) -> Duration:
        """Return a length of time; raises CelError where it is too long."""
        if not INT_MIN <= ns <= INT_MAX:
            raise CelError("duration overflow")
        return cls(ns)

    def __str__(self) -> str:
        sign = "-" if self.ns < 0 else ""
        seconds, rest = divmod(abs(self.ns), _SECOND_NS)
        fraction = f"{rest:09d}".rstrip("0")
        return f"{sign}{seconds}.{fraction}s" if fraction else f"{sign}{seconds}s"


@dataclass(frozen=True, slots=True)
class Optional:
    """What may hold a value."""

    has: bool
    value: Any = None


NONE = Optional(has=False)


@dataclass(frozen=True, slots=True)
class Url:
    """A URL in its parts."""

    text: str
    scheme: str
    host: str
    hostname: str
    port: str
    path: str
    query: Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class Cidr:
    """A network with the address that it was written with."""

    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Quantity:
    """An amount, as Kubernetes writes it."""

    text: str = field(compare=False)
    amount: Fraction


@dataclass(frozen=True, slots=True)
class Semver:
    """A version: major, minor, patch, what comes before a release, and the build."""

    numbers: tuple[int, int, int]
    before: tuple[str, ...]
    build: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Format:
    """A named format of texts."""

    name: str
    pattern_size: int


class SetList(list[Any]):
    """A list whose order means nothing (x-kubernetes-list-type: set)."""

    __slots__ = ()


class MapList(list[Any]):
    """A list whose items have keys (x-kubernetes-list-type: map)."""

    __slots__ = ("keys",)
    keys: tuple[str, ...]


class Late:
    """The variables of a policy: each is found when it is first asked for."""

    def __init__(self, finders: Mapping[str, Callable[[], Any]]) -> None:
        self._finders = finders
        self._found: dict[str, Any] = {}

    def find(self, name: str) -> Any:
        """Return the value of a variable; raises CelError where it has none."""
        if name not in self._found:
            if name not in self._finders:
                raise CelError(f"no such key: {name}")
            try:
                self._found[name] = self._finders[name]()
            except (LimitError, BudgetError):
                raise
            except CelError as error:
                raise CelError(f'composited variable "{name}" fails to evaluate: {error}') from None
        return self._found[name]


class Work(Protocol):
    """Counts the steps that comparisons take."""

    def walk(self, steps: int) -> None:
        """Count steps; raises LimitError where there were too many."""


_NUMBERS = (int, Uint, float)


def equal(one: Any, two: Any, work: Work) -> bool:
    """Tell whether values are the same; numbers of different types may be, a bool is no number."""
    kind, other = type(one), type(two)
    if kind in _NUMBERS and other in _NUMBERS:
        return bool(one == two)
    if isinstance(one, list) and isinstance(two, list):
        return one is two or _lists_equal(one, two, work)
    if kind is dict and other is dict:
        if one is two:
            return True
        work.walk(len(one) + 1)
        if len(one) != len(two):
            return False
        return all(key in two and equal(item, two[key], work) for key, item in one.items())
    if kind is not other:
        return False
    if kind is str:
        work.walk(1 + len(one) // 64)
    if kind is Optional:
        return bool(one.has == two.has) and (not one.has or equal(one.value, two.value, work))
    return bool(one == two)


def _lists_equal(one: list[Any], two: list[Any], work: Work) -> bool:
    if len(one) != len(two):
        return False
    work.walk(len(one) + 1)
    if isinstance(one, SetList | MapList):
        return all(contains(two, item, work) for item in one) and all(contains(one, item, work) for item in two)
    return all(equal(first, second, work) for first, second in zip(one, two, strict=True))


def contains(items: list[Any], wanted: Any, work: Work) -> bool:
    """Tell whether a list holds a value."""
    work.walk(len(items))
    return any(equal(item, wanted, work) for item in items)


def type_name(value: Any) -> str:
    """Return the name of a value's type."""
    return _TYPE_NAMES.get(type(value)) or ("list" if isinstance(value, list) else "unknown")


_TYPE_NAMES: dict[type, str] = {
    bool: "bool", int: "int", Uint: "uint", float: "double", str: "string", bytes: "bytes", list: "list", dict: "map",
    SetList: "list", MapList: "list", type(None): "null_type", Timestamp: "google.protobuf.Timestamp",
    Duration: "google.protobuf.Duration", Optional: "optional_type", Url: "kubernetes.URL", Cidr: "net.CIDR",
    ipaddress.IPv4Address: "net.IP", ipaddress.IPv6Address: "net.IP", Quantity: "kubernetes.Quantity",
    Semver: "kubernetes.Semver", Format: "kubernetes.NamedFormat", Type: "type",
}  # fmt: skip
CLASSES: dict[str, tuple[type, ...]] = {
    "bool": (bool,), "int": (int,), "uint": (Uint,), "double": (float,), "string": (str,), "bytes": (bytes,),
    "list": (list, SetList, MapList), "map": (dict,), "null": (type(None),), "timestamp": (Timestamp,),
    "duration": (Duration,), "type": (Type,), "optional_type": (Optional,), "net.CIDR": (Cidr,),
    "net.IP": (ipaddress.IPv4Address, ipaddress.IPv6Address), "kubernetes.URL": (Url,),
    "kubernetes.Quantity": (Quantity,), "kubernetes.Semver": (Semver,), "kubernetes.NamedFormat": (Format,),
}  # fmt: skip
"""The Python types of the values of a type."""
