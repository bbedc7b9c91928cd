"""The forms of names, labels, keys and ports; each function returns what is wrong, in Kubernetes' words."""

from __future__ import annotations

import re
from functools import lru_cache

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_QUALIFIED})?"
_LABEL_UNDERSCORE = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_UNDERSCORE = rf"{_LABEL_UNDERSCORE}(\.{_LABEL_UNDERSCORE})*"
_WILDCARD = rf"\*\.{_SUBDOMAIN}"
_HEADER = "[-A-Za-z0-9]+"
_C_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]*"
_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_ENVIRONMENT = "[ -<>-~]*"
_PERCENT = "[0-9]+%"
_QUALIFIED_TEXT = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
NON_EMPTY = "must be non-empty"
PORT_RANGE = "must be between 1 and 65535, inclusive"


_remembered = lru_cache(maxsize=4096)
"""The same few names come with every object; what is returned is not to be changed."""


def _with_form(text: str, form: str, *examples: str) -> str:
    if not examples:
        return f"{text} (regex used for validation is '{form}')"
    listed = " or ".join(f"'{example}', " for example in examples)
    return f"{text} (e.g. {listed}regex used for validation is '{form}')"


def _matches(form: str, text: str) -> bool:
    return re.fullmatch(form, text) is not None


def too_long(maximum: int, unit: str = "characters") -> str:
    """Return the text for a name that is too long; Kubernetes counts bytes, whatever it calls them."""
    return f"must be no more than {maximum} {unit}"


def _is_longer(text: str, maximum: int) -> bool:
    return len(text) > maximum or (not text.isascii() and len(text.encode()) > maximum)


@_remembered
def dns_label(text: str) -> list[str]:
    """Check an RFC 1123 label: a namespace's, a container's, a volume's name."""
    faults = [too_long(63)] if _is_longer(text, 63) else []
    if not _matches(_LABEL, text):
        if _matches(_SUBDOMAIN, text):
            return [*faults, "must not contain dots"]
        words = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            "end with an alphanumeric character"
        )
        faults.append(_with_form(words, _LABEL, "my-name", "123-abc"))
    return faults


@_remembered
def dns_subdomain(text: str) -> list[str]:
    """Check an RFC 1123 subdomain: most objects' names."""
    faults = [too_long(253)] if _is_longer(text, 253) else []
    if not _matches(_SUBDOMAIN, text):
        words = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character"
        )
        faults.append(_with_form(words, _SUBDOMAIN, "example.com"))
    return faults


def dns_subdomain_with_underscore(text: str) -> list[str]:
    """Check a subdomain in which underscores may stand: a resolver's search path."""
    faults = [too_long(253)] if _is_longer(text, 253) else []
    if not _matches(_SUBDOMAIN_UNDERSCORE, text):
        words = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and "
            "must start and end with an alphanumeric character"
        )
        faults.append(_with_form(words, _SUBDOMAIN_UNDERSCORE, "example.com"))
    return faults


def wildcard_subdomain(text: str) -> list[str]:
    """Check a subdomain whose first label is an asterisk: an ingress's host."""
    faults = [too_long(253)] if _is_longer(text, 253) else []
    if not _matches(_WILDCARD, text):
        words = (
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist "
            "of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character"
        )
        faults.append(_with_form(words, _WILDCARD, "*.example.com"))
    return faults


def dns_1035_label(text: str) -> list[str]:
    """Check an RFC 1035 label: a service's name."""
    faults = [too_long(63)] if _is_longer(text, 63) else []
    if not _matches(_LABEL_1035, text):
        words = (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic "
            "character, and end with an alphanumeric character"
        )
        faults.append(_with_form(words, _LABEL_1035, "my-name", "abc-123"))
    return faults


def path_segment(text: str) -> list[str]:
    """Check a name that must only fit into a path: roles' and bindings' names."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{letter}'" for letter in ("/", "%") if letter in text]


def _in_bytes(faults: list[str]) -> list[str]:
    return [
        fault.replace(" characters", " bytes") if fault.startswith("must be no more") else fault for fault in faults
    ]


@_remembered
def qualified_name(text: str) -> list[str]:
    """Check a label's key, a finalizer's or a resource's name."""
    *prefix, name = text.split("/")
    form = _with_form(_QUALIFIED_TEXT, _QUALIFIED, "MyName", "my.name", "123-abc")
    if len(prefix) > 1:
        return [f"a valid label key {form} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    faults = []
    if prefix:
        if not prefix[0]:
            faults.append(f"prefix part {NON_EMPTY}")
        else:
            faults.extend(f"prefix part {fault}" for fault in _in_bytes(dns_subdomain(prefix[0])))
    if not name:
        faults.append(f"name part {NON_EMPTY}")
    elif _is_longer(name, 63):
        faults.append(f"name part {too_long(63, 'bytes')}")
    if not _matches(_QUALIFIED, name):
        faults.append(f"name part {form}")
    return faults


@_remembered
def label_value(text: str) -> list[str]:
    """Check a label's value."""
    faults = [too_long(63, "bytes")] if _is_longer(text, 63) else []
    if not _matches(_LABEL_VALUE, text):
        words = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
            "start and end with an alphanumeric character"
        )
        faults.append(_with_form(words, _LABEL_VALUE, "MyValue", "my_value", "12345"))
    return faults


def port_name(text: str) -> list[str]:
    """Check an IANA service name: a port's name."""
    faults = [too_long(15)] if _is_longer(text, 15) else []
    if not _matches("[-a-z0-9]+", text):
        faults.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        faults.append("must contain at least one letter (a-z)")
    if "--" in text:
        faults.append("must not contain consecutive hyphens")
    if text[:1] == "-" or text[-1:] == "-":
        faults.append("must not begin or end with a hyphen")
    return faults


def port_number(number: int) -> list[str]:
    """Check a port's number."""
    return [] if 1 <= number <= 65535 else [PORT_RANGE]


def environment_name(text: str) -> list[str]:
    """Check the name of an environment variable."""
    if not text:
        return [f"environment variable name {NON_EMPTY}"]
    if _matches(_ENVIRONMENT, text):
        return []
    return ["a valid environment variable name must consist only of printable ASCII characters other than '='"]


def header_name(text: str) -> list[str]:
    """Check the name of an HTTP header."""
    if _matches(_HEADER, text):
        return []
    return [_with_form("a valid HTTP header must consist of alphanumeric characters or '-'", _HEADER, "X-Header-Name")]


def c_identifier(text: str) -> list[str]:
    """Check an identifier of the C language: a device's attribute."""
    if _matches(_C_IDENTIFIER, text):
        return []
    words = (
        "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric "
        "characters or '_'"
    )
    return [_with_form(words, _C_IDENTIFIER, "my_name", "MY_NAME", "MyName")]


def path_form(text: str) -> list[str]:
    """Check the letters of a path behind a domain."""
    return [] if _matches(_PATH, text) else [_with_form("Invalid path", _PATH)]


def config_key(text: str) -> list[str]:
    """Check a key of a ConfigMap or Secret."""
    faults = [too_long(253)] if _is_longer(text, 253) else []
    if not _matches(_CONFIG_KEY, text):
        words = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        faults.append(_with_form(words, _CONFIG_KEY, "key.name", "KEY_NAME", "key-name"))
    if text in (".", ".."):
        faults.append(f"must not be '{text}'")
    elif text.startswith(".."):
        faults.append("must not start with '..'")
    return faults


def percent(text: str) -> list[str]:
    """Check a percentage."""
    if _matches(_PERCENT, text):
        return []
    words = "a valid percent string must be a numeric string followed by an ending '%'"
    return [_with_form(words, _PERCENT, "1%", "93%")]
