"""The one door to RE2: Go's regular expressions, whose running time is bounded whatever the pattern.

The library is imported with the first pattern: most API servers never meet one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

REMEMBERED = 1024


@lru_cache(maxsize=REMEMBERED)
def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options)


def found(pattern: str, text: str) -> bool:
    """Tell whether a pattern is found somewhere in a text; a pattern that is none is found nowhere."""
    return not fault(pattern) and _compiled(pattern).search(text) is not None


@lru_cache(maxsize=REMEMBERED)
def fault(pattern: str) -> str:
    """Return why a pattern is none; empty where it is one."""
    import re2

    try:
        _compiled(pattern)
    except re2.error as error:
        told = error.args[0] if error.args else ""
        return told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
    return ""


_GO_WORDS = {
    "invalid character class": "invalid character class", "bad character class": "invalid character class",
    "invalid character class range": "invalid character class range",
    "bad character range": "invalid character class range", "invalid escape sequence": "invalid escape sequence",
    "invalid named capture group": "invalid named capture",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "bad repetition operator": "invalid nested repetition operator", "invalid repetition size": "invalid repeat count",
    "missing ]": "missing closing ]", "missing )": "missing closing )", "unexpected )": "unexpected )",
    "no argument for repetition operator": "missing argument to repetition operator",
    "trailing \\": "trailing backslash at end of expression", "invalid UTF-8": "invalid UTF-8",
}  # fmt: skip
"""What RE2 says → what Go says of the same."""


def go_fault(pattern: str) -> str:
    """Return why a pattern is none in the words of Go; empty where it is one."""
    if not (told := fault(pattern)):
        return ""
    words, _, part = told.partition(": ")
    if words == "unexpected )":
        part = pattern
    shown = f": `{part}`" if part or words == "trailing \\" else ""
    return f"{_GO_WORDS.get(words, words)}{shown}"


def find_all(pattern: str, text: str, limit: int = -1) -> list[str]:
    """Return the parts of a text that match, at most ``limit`` of them; raises ValueError for what is no pattern."""
    if why := fault(pattern):
        raise ValueError(f"error parsing regexp: {why}")
    matches: list[str] = []
    for match in _compiled(pattern).finditer(text):
        if 0 <= limit <= len(matches):
            break
        matches.append(match.group(0))
    return matches
