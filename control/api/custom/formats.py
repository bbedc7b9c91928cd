"""The formats of texts that Kubernetes' validator checks; others are taken as they come."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from datetime import date, datetime
from urllib.parse import urlsplit

from control.api.custom import patterns


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def parsed(text: str) -> bool:
        try:
            parse(text)
        except (ValueError, binascii.Error):
            return False
        return True

    return parsed


def _date_time(text: str) -> object:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", text):
        raise ValueError(text)
    return datetime.fromisoformat(text.upper())


def _address(version: int) -> Callable[[str], object]:
    def parse(text: str) -> object:
        found = ipaddress.ip_address(text)
        if found.version != version:
            raise ValueError(text)
        return found

    return parse


def _uri(text: str) -> object:
    if not (text.startswith("/") or urlsplit(text).scheme):
        raise ValueError(text)
    return text


def _ipv4(text: str) -> object:
    # Zeros in front are taken here, as they always were.
    return _address(4)(".".join(part.lstrip("0") or "0" for part in text.split(".") if part.isdigit() or int("")))


def _is_hostname(text: str) -> bool:
    return len(text) <= 255 and all(len(part) <= 63 for part in text.split(".")) and patterns.found(_HOSTNAME, text)


_UNITS = frozenset("ns nano us µs micro ms milli s sec m min h hr d w wk".split())  # noqa: SIM905
_SPELT = ("nano", "micro", "milli", "sec", "min", "hr", "hour", "day", "wk", "week")
_PARTS = re.compile(r"\d+\s*([A-Za-zµ]+)")


def _is_duration(text: str) -> bool:
    if _GO_DURATION.fullmatch(text):
        return True
    units = [unit.lower() for unit in _PARTS.findall(text)]
    return any(unit in _UNITS or unit.startswith(_SPELT) for unit in units)


def _digits(text: str) -> list[int]:
    return [int(each) for each in text if each.isdigit()]


def _is_isbn10(text: str) -> bool:
    plain = re.sub(r"[\s-]+", "", text)
    if not re.fullmatch("[0-9]{9}X|[0-9]{10}", plain):
        return False
    total = sum((index + 1) * int(plain[index]) for index in range(9))
    return (total + 10 * (10 if plain[9] == "X" else int(plain[9]))) % 11 == 0


def _is_isbn13(text: str) -> bool:
    plain = re.sub(r"[\s-]+", "", text)
    if not re.fullmatch("[0-9]{13}", plain):
        return False
    return sum(digit * (3 if index % 2 else 1) for index, digit in enumerate(_digits(plain))) % 10 == 0


def _is_credit_card(text: str) -> bool:
    plain = re.sub("[^0-9]+", "", text)
    if not re.fullmatch(_CARD, plain):
        return False
    doubled = [
        digit * 2 - 9 * (digit > 4) if index % 2 else digit for index, digit in enumerate(reversed(_digits(plain)))
    ]
    return sum(doubled) % 10 == 0


_CARD = (
    r"4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}"
    r"|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11}"
)
_WORD = r"[a-zA-Z0-9\p{S}\p{L}]"
_HOSTNAME = (
    rf"^({_WORD}((-?{_WORD}{{0,62}})?)|({_WORD}(([a-zA-Z0-9-\p{{S}}\p{{L}}]{{0,61}}{_WORD})?)(\.)){{1,}}"
    r"([a-zA-Z\p{L}]){2,63})$"
)
_GO_DURATION = re.compile(r"[+-]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+|[+-]?0")


def _form(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


_UUID = "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?%s-?%s-?[0-9a-fA-F]{12}"
_ANY, _VARIANT = "[0-9a-fA-F]{4}", "[89abAB][0-9a-fA-F]{3}"
_LONG_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
FORMATS: dict[str, Callable[[str], bool]] = {
    "byte": _parses(lambda text: base64.b64decode(text, validate=True)),
    "date": _parses(date.fromisoformat),
    "datetime": _parses(_date_time),
    "duration": _is_duration,
    "email": _form(r"[^@\s<>]+@[^@\s<>]+"),
    "hostname": _is_hostname,
    "ipv4": _parses(_ipv4),
    "ipv6": _parses(_address(6)),
    "cidr": _parses(lambda text: ipaddress.ip_interface(text) if "/" in text else int("")),
    "mac": _form("([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}"),
    "uri": _parses(_uri),
    "uuid": _form(_UUID % (_ANY, _ANY)),
    "uuid3": _form(_UUID % ("3[0-9a-fA-F]{3}", _ANY)),
    "uuid4": _form(_UUID % ("4[0-9a-fA-F]{3}", _VARIANT)),
    "uuid5": _form(_UUID % ("5[0-9a-fA-F]{3}", _VARIANT)),
    "hexcolor": _form("#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "rgbcolor": _form(r"rgb\(\s*\d{1,3}\s*,\s*\d{1,3}\s*,\s*\d{1,3}\s*\)"),
    "isbn": lambda text: _is_isbn10(text) or _is_isbn13(text),
    "isbn10": _is_isbn10,
    "isbn13": _is_isbn13,
    "bsonobjectid": _form("[0-9a-fA-F]{24}"),
    "creditcard": _is_credit_card,
    "k8sshortname": _form("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"),
    "k8slongname": lambda text: len(text) <= 253 and _LONG_NAME.fullmatch(text) is not None,
    "ssn": _form(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
}
"""By name without hyphens, as Kubernetes compares them."""
