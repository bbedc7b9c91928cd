"""Collects the faults of an object and words them as Kubernetes does."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from control.api.status import Cause

IMMUTABLE = "field is immutable"
NOT_NEGATIVE = "must be greater than or equal to 0"


_PLAIN = re.compile(r"[ !#-\[\]-~]*")
_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"})
_ESCAPES = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quoted(text: str) -> str:
    """Return a text in Go's double quotes."""
    if _PLAIN.fullmatch(text):
        return f'"{text}"'
    return '"' + "".join(_escaped(letter) for letter in text) + '"'


def _escaped(letter: str) -> str:
    if (found := _ESCAPES.get(letter)) is not None:
        return found
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def shown(value: Any) -> str:
    """Return a value as an error text shows it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return orjson.dumps(value).decode().translate(_HTML)


class Faults:
    """The faults found so far, in order."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []

    def __bool__(self) -> bool:
        return bool(self.causes)

    def has(self, path: str) -> bool:
        """Tell whether something was found at this very path."""
        return any(cause.field == path for cause in self.causes)

    def _add(self, reason: str, path: str, text: str, detail: str) -> None:
        message = f"{text}: {detail}" if detail else text
        self.causes.append(Cause(reason, message, path))

    def required(self, path: str, detail: str = "") -> None:
        """A value is missing."""
        self._add("FieldValueRequired", path, "Required value", detail)

    def invalid(self, path: str, value: Any, detail: str) -> None:
        """A value breaks a rule."""
        self._add("FieldValueInvalid", path, f"Invalid value: {shown(value)}", detail)

    def type_invalid(self, path: str, value: Any, detail: str) -> None:
        """A value has a type that its schema does not know."""
        self._add("FieldValueTypeInvalid", path, f"Invalid value: {shown(value)}", detail)

    def invalid_all(self, path: str, value: Any, details: Iterable[str]) -> None:
        """A value breaks several rules, each told on its own."""
        for detail in details:
            self.invalid(path, value, detail)

    def wrong(self, path: str, detail: str) -> None:
        """A structure breaks a rule, told without showing it."""
        self._add("FieldValueInvalid", path, "Invalid value", detail)

    def not_supported(self, path: str, value: Any, supported: Iterable[str]) -> None:
        """A value is none of those that there are."""
        known = ", ".join(quoted(item) for item in supported)
        detail = f"supported values: {known}" if known else ""
        self._add("FieldValueNotSupported", path, f"Unsupported value: {shown(value)}", detail)

    def forbidden(self, path: str, detail: str) -> None:
        """A value may not stand here."""
        self._add("FieldValueForbidden", path, "Forbidden", detail)

    def duplicate(self, path: str, value: Any, detail: str = "") -> None:
        """A value stands twice where it may stand once."""
        self._add("FieldValueDuplicate", path, f"Duplicate value: {shown(value)}", detail)

    def not_found(self, path: str, value: Any, detail: str = "") -> None:
        """A value names something that is not there."""
        self._add("FieldValueNotFound", path, f"Not found: {shown(value)}", detail)

    def too_long(self, path: str, maximum: int) -> None:
        """A text has too many bytes."""
        unit = "byte" if maximum == 1 else "bytes"
        self._add("FieldValueTooLong", path, "Too long", f"may not be more than {maximum} {unit}")

    def too_many(self, path: str, count: int, maximum: int) -> None:
        """A list has too many items."""
        unit = "item" if maximum == 1 else "items"
        self._add("FieldValueTooMany", path, f"Too many: {count}", f"must have at most {maximum} {unit}")

    def duplicate_of(self, path: str) -> None:
        """A structure is there already, told without showing it."""
        self._add("FieldValueDuplicate", path, "Duplicate value", "")

    # Rules that many fields share.

    def not_negative(self, path: str, value: Any) -> None:
        """A number must not be below zero."""
        if value is not None and value < 0:
            self.invalid(path, value, NOT_NEGATIVE)

    def within(self, path: str, value: int | None, least: int, most: int) -> None:
        """A number must lie in a range."""
        if value is not None and not least <= value <= most:
            self.invalid(path, value, f"must be between {least} and {most}, inclusive")

    def unchanged(self, path: str, new: Any, old: Any, detail: str = IMMUTABLE) -> None:
        """A value must be what it was."""
        if new != old:
            self.invalid(path, new, detail)

    def one_of(self, path: str, value: Any, supported: Sequence[str], *, required: bool = True) -> None:
        """A text must be one of those that there are."""
        if not value:
            if required:
                self.required(path)
        elif value not in supported:
            self.not_supported(path, value, supported)
