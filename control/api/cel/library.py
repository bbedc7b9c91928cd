"""Kubernetes' own CEL functions: lists, regular expressions, URLs, addresses, quantities, versions and formats.

Values of types that CEL lacks (a quantity, an address, a URL, a version) are maps that hold their parts and, under
a key of ours, what they are; so equality and optional access work on them as on everything else.
"""

from __future__ import annotations

import ipaddress
import itertools
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qs, urlsplit

from control.api import quantity
from control.api.cel import authorizer
from control.api.cel.function import WHAT, Function, plain
from control.api.custom import patterns
from control.api.custom.checking import FORMATS
from control.api.validation import names


def _is_sorted(items: list[Any]) -> bool:
    return all(not later < earlier for earlier, later in itertools.pairwise(items))


def _index_of(items: list[Any], wanted: Any) -> int:
    return items.index(wanted) if wanted in items else -1


def _last_index_of(items: list[Any], wanted: Any) -> int:
    return len(items) - 1 - items[::-1].index(wanted) if wanted in items else -1


def _equivalent(items: list[Any], others: list[Any]) -> bool:
    return all(item in others for item in items) and all(item in items for item in others)


def _extreme(choose: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def find(items: list[Any]) -> Any:
        if not items:
            raise ValueError("min/max called on empty list")
        return choose(items)

    return find


def _find(text: str, pattern: str) -> str:
    return next(iter(patterns.find_all(pattern, text, 1)), "")


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    return patterns.find_all(pattern, text, limit)


# Quantities


def _quantity(text: str) -> dict[str, Any]:
    return {WHAT: "quantity", "text": quantity.canonical(text)}


def _amount(value: dict[str, Any]) -> Fraction:
    return Fraction(quantity.parse(value["text"]))


def _is_quantity(text: str) -> bool:
    try:
        quantity.canonical(text)
    except quantity.QuantityError:
        return False
    return True


def _compare(first: dict[str, Any], second: dict[str, Any]) -> int:
    if first[WHAT] != second[WHAT]:
        raise ValueError("no such overload")
    one, other = (
        (_precedence(first), _precedence(second)) if first[WHAT] == "semver" else (_amount(first), _amount(second))
    )
    return (one > other) - (one < other)  # type: ignore[operator]


def _as_integer(value: dict[str, Any]) -> int:
    found = _amount(value)
    if found.denominator != 1:
        raise ValueError("cannot convert value to integer")
    return int(found)


def _sum_of(sign: int) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    def combine(value: dict[str, Any], other: Any) -> dict[str, Any]:
        amount = Fraction(other) if isinstance(other, int) else _amount(other)
        total = _amount(value) + sign * amount
        text = str(int(total)) if total.denominator == 1 else f"{int(total * 1000)}m"
        return _quantity(text)

    return combine


def _sign(value: dict[str, Any]) -> int:
    found = _amount(value)
    return (found > 0) - (found < 0)


# Addresses and networks


def _address(text: str) -> dict[str, Any]:
    found = ipaddress.ip_address(text)
    if "%" in text or (found.version == 6 and found.ipv4_mapped is not None):
        raise ValueError(f"IP Address {text!r} parse error during conversion from string")
    return {WHAT: "ip", "text": str(found)}


def _network(text: str) -> dict[str, Any]:
    found = ipaddress.ip_interface(text)
    if "/" not in text or not text.rsplit("/", 1)[1].isdigit():
        raise ValueError(f"CIDR {text!r} parse error during conversion from string: no prefix length")
    return {WHAT: "cidr", "text": f"{found.ip}/{found.network.prefixlen}"}


def _holds(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return check


def _ip(value: Any) -> Any:
    return ipaddress.ip_address(value["text"] if isinstance(value, dict) else value)


def _cidr(value: Any) -> Any:
    return ipaddress.ip_interface(value["text"] if isinstance(value, dict) else value).network


def _contains_ip(network: dict[str, Any], address: Any) -> bool:
    found, held = _ip(address), _cidr(network)
    return bool(found.version == held.version and found in held)


def _contains_cidr(network: dict[str, Any], other: Any) -> bool:
    inner, outer = _cidr(other), _cidr(network)
    return bool(inner.version == outer.version and inner.subnet_of(outer))


# URLs


def _url(text: str) -> dict[str, Any]:
    found = urlsplit(text)
    if not (found.scheme and (found.netloc or found.path.startswith("/"))) and not text.startswith("/"):
        raise ValueError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
    host = found.netloc.rsplit("@", 1)[-1]
    return {
        WHAT: "url", "text": text, "scheme": found.scheme, "host": host, "hostname": found.hostname or "",
        "port": str(found.port or "") if ":" in host.rsplit("]", 1)[-1] else "", "path": found.path,
        "query": parse_qs(found.query, keep_blank_values=True),
    }  # fmt: skip


def _part(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda value: value[name]


# Semantic versions (semver.org 2.0.0)

_SEMVER = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-([0-9A-Za-z.-]+))?(?:\+([0-9A-Za-z.-]+))?", re.ASCII)


def _semver(text: str) -> dict[str, Any]:
    if _SEMVER.fullmatch(text) is None:
        raise ValueError(f"version string {text!r} could not be parsed as a Semver")
    return {WHAT: "semver", "text": text}


def _version_parts(value: dict[str, Any]) -> re.Match[str]:
    found = _SEMVER.fullmatch(value["text"])
    assert found is not None
    return found


def _precedence(value: dict[str, Any]) -> tuple[Any, ...]:
    parts = _version_parts(value)
    before = tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in (parts[4] or "").split(".") if part
    )
    return (int(parts[1]), int(parts[2]), int(parts[3]), not before, before)


# Named formats

_NAMED: dict[str, Callable[[str], list[str]]] = {
    "dns1123Label": names.dns_label,
    "dns1123Subdomain": names.dns_subdomain,
    "dns1035Label": names.dns_1035_label,
    "qualifiedName": names.qualified_name,
    "labelValue": names.label_value,
    "uri": lambda text: [] if FORMATS["uri"](text) else ["invalid URI"],
    "uuid": lambda text: [] if FORMATS["uuid"](text) else ["does not match the UUID format"],
    "byte": lambda text: [] if FORMATS["byte"](text) else ["invalid base64"],
    "date": lambda text: [] if FORMATS["date"](text) else ["invalid date"],
    "datetime": lambda text: [] if FORMATS["datetime"](text) else ["invalid datetime"],
}


def _format(name: str) -> dict[str, Any]:
    if name not in _NAMED:
        raise ValueError(f"no such format: {name}")
    return {WHAT: "format", "text": name}


def _format_faults(value: dict[str, Any], text: str) -> list[str]:
    return _NAMED[value["text"]](text)


_DYN, _LIST, _STRING, _BOOL, _INT = "dyn", "list", "string", "bool", "int"
FUNCTIONS: tuple[Function, ...] = (
    Function("isSorted", (_LIST,), _BOOL, _is_sorted),
    Function("sum", (_LIST,), _DYN, lambda items: sum(items) if items else 0),
    Function("min", (_LIST,), _DYN, _extreme(min)),
    Function("max", (_LIST,), _DYN, _extreme(max)),
    Function("indexOf", (_LIST, _DYN), _INT, _index_of),
    Function("lastIndexOf", (_LIST, _DYN), _INT, _last_index_of),
    Function("find", (_STRING, _STRING), _STRING, _find),
    Function("findAll", (_STRING, _STRING), _LIST, _find_all),
    Function("findAll", (_STRING, _STRING, _INT), _LIST, _find_all),
    Function("quantity", (_STRING,), _DYN, _quantity, is_member=False),
    Function("isQuantity", (_STRING,), _BOOL, _is_quantity, is_member=False),
    Function("semver", (_STRING,), _DYN, _semver, is_member=False),
    Function("isSemver", (_STRING,), _BOOL, _holds(_semver), is_member=False),
    Function("isGreaterThan", (_DYN, _DYN), _BOOL, lambda one, other: _compare(one, other) > 0),
    Function("isLessThan", (_DYN, _DYN), _BOOL, lambda one, other: _compare(one, other) < 0),
    Function("compareTo", (_DYN, _DYN), _INT, _compare),
    Function("sign", (_DYN,), _INT, _sign),
    Function("add", (_DYN, _DYN), _DYN, _sum_of(1)),
    Function("sub", (_DYN, _DYN), _DYN, _sum_of(-1)),
    Function("asInteger", (_DYN,), _INT, _as_integer),
    Function("isInteger", (_DYN,), _BOOL, lambda value: _amount(value).denominator == 1),
    Function("asApproximateFloat", (_DYN,), "double", lambda value: float(_amount(value))),
    Function("major", (_DYN,), _INT, lambda value: int(_version_parts(value)[1])),
    Function("minor", (_DYN,), _INT, lambda value: int(_version_parts(value)[2])),
    Function("patch", (_DYN,), _INT, lambda value: int(_version_parts(value)[3])),
    Function("ip", (_STRING,), _DYN, _address, is_member=False),
    Function("isIP", (_STRING,), _BOOL, _holds(_address), is_member=False),
    Function("ip.isCanonical", (_STRING,), _BOOL, lambda text: str(_ip(_address(text))) == text, is_member=False),
    Function("cidr", (_STRING,), _DYN, _network, is_member=False),
    Function("isCIDR", (_STRING,), _BOOL, _holds(_network), is_member=False),
    Function("ip", (_DYN,), _DYN, lambda value: _address(value["text"].split("/")[0])),
    Function("family", (_DYN,), _INT, lambda value: _ip(value).version),
    Function("isUnspecified", (_DYN,), _BOOL, lambda value: _ip(value).is_unspecified),
    Function("isLoopback", (_DYN,), _BOOL, lambda value: _ip(value).is_loopback),
    Function("isLinkLocalMulticast", (_DYN,), _BOOL,
             lambda value: str(_ip(value)).startswith(("224.0.0.", "ff02:", "ff12:"))),
    Function("isLinkLocalUnicast", (_DYN,), _BOOL, lambda value: _ip(value).is_link_local),
    Function("isGlobalUnicast", (_DYN,), _BOOL,
             lambda value: not (_ip(value).is_unspecified or _ip(value).is_loopback or _ip(value).is_multicast
                                or _ip(value).is_link_local or str(_ip(value)) == "255.255.255.255")),
    Function("containsIP", (_DYN, _DYN), _BOOL, _contains_ip),
    Function("containsCIDR", (_DYN, _DYN), _BOOL, _contains_cidr),
    Function("prefixLength", (_DYN,), _INT, lambda value: _cidr(value).prefixlen),
    Function("masked", (_DYN,), _DYN, lambda value: _network(str(_cidr(value)))),
    Function("url", (_STRING,), _DYN, _url, is_member=False),
    Function("isURL", (_STRING,), _BOOL, _holds(_url), is_member=False),
    Function("getScheme", (_DYN,), _STRING, _part("scheme")),
    Function("getHost", (_DYN,), _STRING, _part("host")),
    Function("getHostname", (_DYN,), _STRING, _part("hostname")),
    Function("getPort", (_DYN,), _STRING, _part("port")),
    Function("getEscapedPath", (_DYN,), _STRING, _part("path")),
    Function("getQuery", (_DYN,), "map", _part("query")),
    Function("format.named", (_STRING,), _DYN, _format, is_member=False),
    *(
        Function(f"format.{name}", (), _DYN, lambda name=name: _format(name), is_member=False)
        for name in _NAMED
    ),
    # Kubernetes' formats give an optional list; here an empty list is the optional without a value.
    Function("validate", (_DYN, _STRING), _LIST, _format_faults),
    Function("hasValue", (_LIST,), _BOOL, bool),
    Function("value", (_LIST,), _LIST, lambda faults: faults),
    Function("orValue", (_LIST, _LIST), _LIST, lambda faults, other: faults or other),
    Function("sets.contains", (_LIST, _LIST), _BOOL, lambda items, wanted: all(item in items for item in wanted),
             is_member=False),
    Function("sets.intersects", (_LIST, _LIST), _BOOL, lambda items, other: any(item in other for item in items),
             is_member=False),
    Function("sets.equivalent", (_LIST, _LIST), _BOOL, _equivalent, is_member=False),
    Function("flatten", (_LIST,), _LIST, lambda items: [inner for item in items for inner in
                                                        (item if isinstance(item, list) else [item])]),
    Function("jsonpatch.escapeKey", (_STRING,), _STRING,
             lambda key: key.replace("~", "~0").replace("/", "~1"), is_member=False),
    *authorizer.FUNCTIONS,
)  # fmt: skip


def extension(cel: Any) -> Any:
    """Return the functions as an extension of the library, whose module is given."""
    types = {
        _DYN: cel.Type.DYN, _LIST: cel.Type.List(cel.Type.DYN), _STRING: cel.Type.STRING, _BOOL: cel.Type.BOOL,
        _INT: cel.Type.INT, "double": cel.Type.DOUBLE, "map": cel.Type.Map(cel.Type.STRING, cel.Type.DYN),
    }  # fmt: skip
    overloads: dict[str, list[Any]] = {}
    for number, function in enumerate(FUNCTIONS):
        made = cel.Overload(
            f"k8s_{function.name.replace('.', '_')}_{number}",
            return_type=types[function.result],
            parameters=[types[kind] for kind in function.parameters],
            is_member=function.is_member,
            impl=_unwrapped(function.apply),
        )
        overloads.setdefault(function.name, []).append(made)
    declared = [cel.FunctionDecl(name, made) for name, made in overloads.items()]
    return cel.CelExtension("kubernetes", declared)


def _unwrapped(apply: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: apply(*(plain(argument) for argument in arguments))
