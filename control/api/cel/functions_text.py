"""The string extension and Kubernetes' regular expressions."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable
from typing import Any

from control.api.cel.errors import CelError, LimitError
from control.api.cel.functions_standard import double_text
from control.api.cel.parser import Uint
from control.api.cel.types import Type
from control.api.cel.values import Duration, Timestamp, type_name
from control.api.custom import patterns

TEXT_MAX = 16 << 20
"""A text that a function makes may not be longer."""
PRECISION_MAX = 1000
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)


def _char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise CelError(f"index out of range: {index}")
    return text[index : index + 1]


def _index_of(text: str, part: str, offset: int = 0) -> int:
    if offset < 0:
        raise CelError(f"index out of range: {offset}")
    if not part:
        return min(offset, len(text))
    return text.find(part, offset) if offset < len(text) else -1


def _last_index_of(text: str, part: str, offset: int | None = None) -> int:
    if offset is None:
        return text.rfind(part)
    if offset < 0:
        raise CelError(f"index out of range: {offset}")
    if not part:
        return min(offset, len(text))
    return text.rfind(part, 0, offset + len(part)) if offset < len(text) else -1


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    times = text.count(old) if count < 0 else min(text.count(old), count)
    if len(text) + times * (len(new) - len(old)) > TEXT_MAX:
        raise LimitError("operation cancelled: actual cost limit exceeded")
    return text.replace(old, new, times)


def _split(text: str, separator: str, count: int = -1) -> list[str]:
    if count == 0:
        return []
    if separator:
        return text.split(separator, count - 1 if count > 0 else -1)
    if count < 0 or count >= len(text):
        return list(text)
    return [*text[: count - 1], text[count - 1 :]]


def _substring(text: str, start: int, end: int | None = None) -> str:
    last = len(text) if end is None else end
    if end is not None and start > end:
        raise CelError(f"invalid substring range. start: {start}, end: {end}")
    for index in (start, last):
        if not 0 <= index <= len(text):
            raise CelError(f"index out of range: {index}")
    return text[start:last]


def _join(items: list[Any], separator: str = "") -> str:
    for item in items:
        if not isinstance(item, str):
            raise CelError(f"join: invalid input: {_shown(item)}")
    return separator.join(items)


_QUOTED = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\",
           '"': '\\"'}  # fmt: skip


def _quote(text: str) -> str:
    return f'"{"".join(_QUOTED.get(character, character) for character in text)}"'


def _find(text: str, pattern: str) -> str:
    return next(iter(_find_all(text, pattern, 1)), "")


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    if why := patterns.go_fault(pattern):
        raise CelError(f"Illegal regex: error parsing regexp: {why}")
    return patterns.find_all(pattern, text, limit)


# format

_CLAUSE = re.compile(r"%(?:\.(\d*))?(.?)", re.DOTALL)


def _format(text: str, arguments: list[Any]) -> str:
    made: list[str] = []
    at = used = 0
    for match in _CLAUSE.finditer(text):
        made.append(text[at : match.start()])
        at = match.end()
        if match.group() == "%%":
            made.append("%")
            continue
        if used >= len(arguments):
            raise CelError(f"index {used} out of range")
        precision = int(match[1]) if match[1] else None
        if precision is not None and (len(match[1]) > 9 or precision > PRECISION_MAX):
            raise CelError(f"precision {match[1]} exceeds maximum allowed precision {PRECISION_MAX}")
        made.append(_formatted(match[2], arguments[used], precision))
        used += 1
    made.append(text[at:])
    return "".join(made)


def _formatted(verb: str, value: Any, precision: int | None) -> str:
    formatter = _VERBS.get(verb)
    if formatter is None:
        raise CelError(f'unrecognized formatting clause "{verb}"')
    try:
        return formatter(value, precision)
    except CelError as error:
        raise CelError(f"error during formatting: {error}") from None


def _shown(value: Any) -> str:
    """Return a value as ``%s`` writes it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "null"
    if isinstance(value, float):
        return double_text(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | Duration | Timestamp):
        return str(int(value)) if isinstance(value, Uint) else str(value)
    if isinstance(value, Type):
        return value.name
    if isinstance(value, list):
        return f"[{', '.join(_inner(item) for item in value)}]"
    if isinstance(value, dict):
        entries = sorted((_inner(key), _inner(item)) for key, item in value.items())
        return f"{{{', '.join(f'{key}:{item}' for key, item in entries)}}}"
    raise CelError(f"no formatting function for {type_name(value)}")


def _inner(value: Any) -> str:
    """Return a value as it stands in a list or a map."""
    if isinstance(value, str):
        return _quote(value)
    if isinstance(value, bytes):
        return f'b"{value.decode("utf-8", "replace")}"'
    if isinstance(value, Duration):
        return f'duration("{value}")'
    if isinstance(value, Timestamp):
        return f'timestamp("{value}")'
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6f}"
    return _shown(value)


def _wrong(verb: str, value: Any, allowed: str) -> CelError:
    return CelError(f"{verb} clause can only be used on {allowed}, was given {type_name(value)}")


def _decimal(value: Any, _: int | None) -> str:
    if type(value) not in (int, Uint):
        raise _wrong("decimal", value, "integers")
    return str(int(value))


def _fixed(value: Any, precision: int | None) -> str:
    if isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
        return {"NaN": "NaN", "Infinity": "∞", "-Infinity": "-∞"}[value]
    if type(value) not in (int, Uint, float):
        raise _wrong("fixed-point", value, "doubles")
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    return f"{float(value):.{6 if precision is None else precision}f}"


def _scientific(value: Any, precision: int | None) -> str:
    if type(value) not in (int, Uint, float):
        raise _wrong("scientific", value, "doubles")
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    mantissa, _, power = f"{float(value):.{6 if precision is None else precision}e}".partition("e")
    return f"{mantissa}×10{power.lstrip('+').translate(_SUPERSCRIPT)}"


_SUPERSCRIPT = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def _binary(value: Any, _: int | None) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    if type(value) not in (int, Uint):
        raise _wrong("binary", value, "integers and bools")
    return f"{int(value):b}"


def _octal(value: Any, _: int | None) -> str:
    if type(value) not in (int, Uint):
        raise _wrong("octal", value, "integers")
    return f"{int(value):o}"


def _hexadecimal(value: Any, _: int | None) -> str:
    if type(value) in (int, Uint):
        return f"{int(value):x}"
    if isinstance(value, str | bytes):
        return (value.encode() if isinstance(value, str) else value).hex()
    raise _wrong("hex", value, "integers, byte buffers, and strings")


_VERBS: dict[str, Callable[[Any, int | None], str]] = {
    "s": lambda value, _: _shown(value),
    "d": _decimal,
    "f": _fixed,
    "e": _scientific,
    "b": _binary,
    "o": _octal,
    "x": _hexadecimal,
    "X": lambda value, _: _hexadecimal(value, None).upper(),
}
IMPLEMENTATIONS: dict[str, Callable[..., Any]] = {
    "string_char_at_int": _char_at,
    "string_index_of_string": _index_of,
    "string_index_of_string_int": _index_of,
    "string_last_index_of_string": _last_index_of,
    "string_last_index_of_string_int": _last_index_of,
    "string_lower_ascii": lambda text: text.translate(_LOWER),
    "string_upper_ascii": lambda text: text.translate(_UPPER),
    "string_replace_string_string": _replace,
    "string_replace_string_string_int": _replace,
    "string_split_string": _split,
    "string_split_string_int": _split,
    "string_substring_int": _substring,
    "string_substring_int_int": _substring,
    "string_trim": str.strip,
    "string_format": _format,
    "strings_quote": _quote,
    "list_join": _join,
    "list_join_string": _join,
    "string_find_string": _find,
    "string_find_all_string": _find_all,
    "string_find_all_string_int": _find_all,
    "string_jsonpatch_escapeKey_string": lambda key: key.replace("~", "~0").replace("/", "~1"),
}
