"""Kubernetes' own functions: URLs, addresses, quantities, versions and formats."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any
from urllib.parse import parse_qs, urlsplit

from control.api import quantity
from control.api.cel import authorizer
from control.api.cel.declarations import FORMAT_NAMES
from control.api.cel.errors import CelError
from control.api.cel.parser import INT_MAX, INT_MIN
from control.api.cel.values import NONE, Cidr, Format, NoOverload, Optional, Quantity, Semver, Url
from control.api.custom.formats import FORMATS
from control.api.validation import names
from control.api.validation.faults import quoted

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _holds(parse: Callable[..., object]) -> Callable[..., bool]:
    def check(*arguments: Any) -> bool:
        try:
            parse(*arguments)
        except ValueError:
            return False
        return True

    return check


# Quantities


def _quantity(text: str) -> Quantity:
    return Quantity(quantity.canonical(text), Fraction(quantity.parse(text)))


def _made(amount: Fraction) -> Quantity:
    text = str(int(amount)) if amount.denominator == 1 else f"{int(amount * 1000)}m"
    return Quantity(quantity.canonical(text), amount)


def _as_integer(value: Quantity) -> int:
    if not _is_integer(value):
        raise CelError("cannot convert value to integer")
    return int(value.amount)


def _is_integer(value: Quantity) -> bool:
    return value.amount.denominator == 1 and INT_MIN <= value.amount <= INT_MAX


def _sign(value: Quantity) -> int:
    return (value.amount > 0) - (value.amount < 0)


_QUANTITIES: dict[str, Callable[..., Any]] = {
    "string_to_quantity": _quantity,
    "is_quantity_string": _holds(_quantity),
    "quantity_sign": _sign,
    "quantity_is_greater_than": lambda one, two: one.amount > two.amount,
    "quantity_is_less_than": lambda one, two: one.amount < two.amount,
    "quantity_compare_to": lambda one, two: (one.amount > two.amount) - (one.amount < two.amount),
    "quantity_get_float": lambda value: float(value.amount),
    "quantity_get_int": _as_integer,
    "quantity_is_integer": _is_integer,
    "quantity_add": lambda one, two: _made(one.amount + two.amount),
    "quantity_add_int": lambda one, two: _made(one.amount + two),
    "quantity_sub": lambda one, two: _made(one.amount - two.amount),
    "quantity_sub_int": lambda one, two: _made(one.amount - two),
}

# Addresses and networks


def _address(text: str) -> Address:
    if "%" in text:
        raise CelError(f"IP address {quoted(text)} with zone value is not allowed")
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        why = f"ParseAddr({quoted(text)}): unable to parse IP"
        raise CelError(f"IP Address {quoted(text)} parse error during conversion from string: {why}") from None
    if found.version == 6 and found.ipv4_mapped is not None:
        raise CelError(f"IPv4-mapped IPv6 address {quoted(text)} is not allowed")
    return found


def _network(text: str) -> Cidr:
    _, slash, length = text.rpartition("/")
    about = "network address parse error during conversion from string"
    parsed = f"{about}: {about}: netip.ParsePrefix({quoted(text)})"
    if not slash:
        raise CelError(f"{parsed}: no '/'")
    if not length.isdigit() or "%" in text:
        raise CelError(f"{parsed}: bad bits after slash: {quoted(length)}")
    try:
        found = ipaddress.ip_interface(text)
    except ValueError as error:
        raise CelError(f"{parsed}: {error}") from None
    if found.version == 6 and found.ip.ipv4_mapped is not None:
        raise CelError(f"{about}: IPv4-mapped IPv6 address {quoted(text)} is not allowed")
    return Cidr(found)


def _taken(parse: Callable[[str], Any], text: str) -> Any:
    """Return what a text means that is no argument where it cannot be read."""
    try:
        return parse(text)
    except CelError:
        raise NoOverload("no such overload") from None


def _contains_ip(network: Cidr, address: Address) -> bool:
    held = network.interface.network
    return bool(address.version == held.version and address in held)


def _contains_cidr(network: Cidr, other: Cidr) -> bool:
    inner, outer = other.interface.network, network.interface.network
    return bool(inner.version == outer.version and inner.subnet_of(outer))  # type: ignore[arg-type]


def _is_local_multicast(address: Address) -> bool:
    packed = address.packed
    return packed[:3] == b"\xe0\x00\x00" if address.version == 4 else packed[0] == 0xFF and packed[1] & 0x0F == 2


def _is_global_unicast(address: Address) -> bool:
    special = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    return not special and str(address) != "255.255.255.255"


_ADDRESSES: dict[str, Callable[..., Any]] = {
    "string_to_ip": _address,
    "is_ip": _holds(_address),
    "ip_is_canonical": lambda text: str(_address(text)) == text,
    "ip_family": lambda address: address.version,
    "ip_is_unspecified": lambda address: address.is_unspecified,
    "ip_is_loopback": lambda address: address.is_loopback,
    "ip_is_link_local_multicast": _is_local_multicast,
    "ip_is_link_local_unicast": lambda address: address.is_link_local,
    "ip_is_global_unicast": _is_global_unicast,
    "ip_to_string": str,
    "string_to_cidr": _network,
    "is_cidr": _holds(_network),
    "cidr_ip": lambda network: network.interface.ip,
    "cidr_contains_ip_string": lambda network, text: _contains_ip(network, _taken(_address, text)),
    "cidr_contains_ip_ip": _contains_ip,
    "cidr_contains_cidr_string": lambda network, text: _contains_cidr(network, _taken(_network, text)),
    "cidr_contains_cidr": _contains_cidr,
    "cidr_prefix_length": lambda network: network.interface.network.prefixlen,
    "cidr_masked": lambda network: Cidr(ipaddress.ip_interface(str(network.interface.network))),
    "cidr_to_string": lambda network: str(network.interface),
}

# URLs


def _url(text: str) -> Url:
    why = _url_fault(text)
    if why:
        raise CelError(f'URL parse error during conversion from string: parse "{text}": {why}')
    found = urlsplit(text)
    host = found.netloc.rsplit("@", 1)[-1]
    bare, _, port = host.rpartition(":") if ":" in host.rsplit("]", 1)[-1] else (host, "", "")
    query = parse_qs(found.query, keep_blank_values=True)
    path = re.sub(r"[^!-~]", lambda each: "".join(f"%{byte:02X}" for byte in each[0].encode()), found.path)
    return Url(text, found.scheme, host, bare.strip("[]"), port, path, query)


def _url_fault(text: str) -> str:
    if not text:
        return "empty url"
    if any(ord(character) < 0x20 or ord(character) == 0x7F for character in text):
        return "net/url: invalid control character in URL"
    try:
        found = urlsplit(text)
        found.port  # noqa: B018 - it is read, and wrong ones are found, where it is asked for
    except ValueError as error:
        host = text.partition("//")[2].partition("/")[0].rpartition("@")[2]
        port = host[host.rfind(":") :] if "]" not in host or host.rfind(":") > host.rfind("]") else ""
        return f"invalid port {quoted(port)} after host" if port[1:] and not port[1:].isdigit() else str(error)
    if not found.scheme and not text.startswith("/"):
        return "invalid URI for request"
    if found.scheme and not found.netloc and not found.path.startswith("/"):
        return "invalid URI for request"
    if re.search(r"%(?![0-9A-Fa-f]{2})", text.split("?")[0]):
        return "invalid URL escape"
    return "invalid character in host name" if re.search(r"[\s<>\"{}]", found.netloc) else ""


_URLS: dict[str, Callable[..., Any]] = {
    "string_to_url": _url,
    "is_url_string": _holds(_url),
    "url_get_scheme": lambda url: url.scheme,
    "url_get_host": lambda url: url.host,
    "url_get_hostname": lambda url: url.hostname,
    "url_get_port": lambda url: url.port,
    "url_get_escaped_path": lambda url: url.path,
    "url_get_query": lambda url: dict(url.query),
}

# Semantic versions (semver.org 2.0.0)

_PARTS = r"(?:0|[1-9]\d*|\d*[A-Za-z-][0-9A-Za-z-]*)"
_SEMVER = re.compile(
    rf"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-({_PARTS}(?:\.{_PARTS})*))?(?:\+([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?",
    re.ASCII,
)
_SEMVER_CHARACTERS_MAX = 1024


def _semver(text: str, normalizes: bool = False) -> Semver:
    match = _SEMVER.fullmatch(_normalized(text) if normalizes else text) if len(text) < _SEMVER_CHARACTERS_MAX else None
    if match is None:
        told = (
            "No Major.Minor.Patch elements found" if text.count(".") < 2 else f"{quoted(text)} is no semantic version"
        )
        raise CelError(told)
    before = tuple(match[4].split(".")) if match[4] else ()
    return Semver((int(match[1]), int(match[2]), int(match[3])), before, match[5] or "")


def _normalized(text: str) -> str:
    """Return a version without a leading v and zeros, its minor and patch numbers completed."""
    parts = [re.sub(r"^0+(?=\d)", "", part) for part in text.removeprefix("v").split(".", 2)]
    if len(parts) < 3 and re.search(r"[+-]", parts[-1]):
        raise CelError("short version cannot contain PreRelease/Build meta data")
    return ".".join([*parts, *["0"] * (3 - len(parts))])


def _precedence(version: Semver) -> tuple[Any, ...]:
    before = tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in version.before)
    return (*version.numbers, not before, before)


def _ordered(test: Callable[[Any, Any], Any]) -> Callable[[Semver, Semver], Any]:
    return lambda one, two: test(_precedence(one), _precedence(two))


_SEMVERS: dict[str, Callable[..., Any]] = {
    "string_to_semver": _semver,
    "string_bool_to_semver": _semver,
    "is_semver_string": _holds(_semver),
    "is_semver_string_bool": _holds(_semver),
    "semver_is_greater_than": _ordered(lambda one, two: one > two),
    "semver_is_less_than": _ordered(lambda one, two: one < two),
    "semver_compare_to": _ordered(lambda one, two: (one > two) - (one < two)),
    "semver_major": lambda version: version.numbers[0],
    "semver_minor": lambda version: version.numbers[1],
    "semver_patch": lambda version: version.numbers[2],
}

# Named formats


def _prefix(check: Callable[[str], list[str]]) -> Callable[[str], list[str]]:
    """Return the check of a name's beginning, to which something is yet to be added."""
    return lambda text: check(f"{text[:-1]}a" if len(text) > 1 and text.endswith("-") else text)


def _of_format(name: str, told: str) -> Callable[[str], list[str]]:
    return lambda text: [] if FORMATS[name](text) else [told]


_CHECKS: dict[str, tuple[Callable[[str], list[str]], int]] = {
    "dns1123Label": (names.dns_label, 30),
    "dns1123Subdomain": (names.dns_subdomain, 60),
    "dns1035Label": (names.dns_1035_label, 30),
    "qualifiedName": (names.qualified_name, 60),
    "dns1123LabelPrefix": (_prefix(names.dns_label), 30),
    "dns1123SubdomainPrefix": (_prefix(names.dns_subdomain), 60),
    "dns1035LabelPrefix": (_prefix(names.dns_1035_label), 30),
    "labelValue": (names.label_value, 40),
    "uri": (lambda text: [f'parse "{text}": {why}'] if (why := _url_fault(text)) else [], 1000),
    "uuid": (_of_format("uuid", "does not match the UUID format"), 80),
    "byte": (_of_format("byte", "invalid base64"), 84),
    "date": (_of_format("date", "invalid date"), 160),
    "datetime": (_of_format("datetime", "invalid datetime"), 160),
}
"""What each checks with, and about how long a pattern that would be."""
_NAMED = {name: Format(name, _CHECKS[name][1]) for name in FORMAT_NAMES}


def _named(name: str) -> Optional:
    return Optional(has=True, value=_NAMED[name]) if name in _NAMED else NONE


def _validated(form: Format, text: str) -> Optional:
    faults = _CHECKS[form.name][0](text)
    return Optional(has=True, value=faults) if faults else NONE


IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    **_QUANTITIES,
    **_ADDRESSES,
    **_URLS,
    **_SEMVERS,
    **authorizer.IMPLEMENTATIONS,
    "format-named": _named,
    "format-validate": _validated,
    **{f"format-{name}": lambda name=name: _NAMED[name] for name in FORMAT_NAMES},
}
