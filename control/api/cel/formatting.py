"""Checks of ``format`` whose text and arguments are written in the expression: each clause must take its argument."""

from __future__ import annotations

import re

from control.api.cel.errors import Issue
from control.api.cel.functions_text import PRECISION_MAX
from control.api.cel.syntax import Call, ListNode, Literal, MapNode, Node

_CLAUSE = re.compile(r"%(?:(\.)([0-9]*))?(.?)", re.DOTALL)
_NUMBERS, _DOUBLES = ("int", "uint"), ("double", "string")
_SHOWN = ("list", "map", "int", "uint", "double", "bool", "string", "timestamp", "bytes", "duration", "type", "null")
_VERBS: dict[str, tuple[tuple[str, ...], str]] = {
    "s": (_SHOWN, "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, "
                  "durations, and timestamps"),
    "d": (_NUMBERS, "decimal clause can only be used on integers"),
    "f": (_DOUBLES, "fixed-point clause can only be used on doubles"),
    "e": (_DOUBLES, "scientific clause can only be used on doubles"),
    "b": ((*_NUMBERS, "bool"), "only integers and bools can be formatted as binary"),
    "x": ((*_NUMBERS, "string", "bytes"), "only integers, byte buffers, and strings can be formatted as hex"),
    "X": ((*_NUMBERS, "string", "bytes"), "only integers, byte buffers, and strings can be formatted as hex"),
    "o": (_NUMBERS, "octal clause can only be used on integers"),
}  # fmt: skip
"""By letter: the types that it takes, and what is told of others."""


def format_issues(call: Call) -> list[Issue]:
    """Return what is wrong with a call of ``format``, the first fault alone."""
    text = call.target
    if not (isinstance(text, Literal) and isinstance(text.value, str) and len(call.arguments) == 1):
        return []
    arguments = call.arguments[0]
    if not isinstance(arguments, ListNode):
        return []
    used = 0
    for match in _CLAUSE.finditer(text.value):
        if match.group() == "%%":
            continue
        issue = _clause_issue(match, used, arguments.items, call.at)
        if issue is not None:
            return [issue]
        used += 1
    if len(arguments.items) > used:
        told = f"too many arguments supplied to string.format (expected {used}, got {len(arguments.items)})"
        return [Issue(call.at, told)]
    return []


def _clause_issue(match: re.Match[str], index: int, arguments: list[Node], at: int) -> Issue | None:
    dot, digits, letter = match.groups()
    about = "could not parse formatting clause"
    if match.group() == "%":
        return Issue(at, "unexpected end of string")
    if index >= len(arguments):
        return Issue(at, f"index {index} out of range")
    if dot and not digits:
        return Issue(at, f'{about}: error while parsing precision: error while converting precision to integer: '
                         'strconv.Atoi: parsing "": invalid syntax')  # fmt: skip
    if digits and (len(digits) > 9 or int(digits) > PRECISION_MAX):
        return Issue(at, f"{about}: error while parsing precision: precision {digits} exceeds maximum {PRECISION_MAX}")
    if not letter:
        return Issue(at, f"{about}: error while parsing precision: could not find end of precision specifier")
    if letter not in _VERBS:
        return Issue(at, f'{about}: unrecognized formatting clause "{letter}"')
    allowed, told = _VERBS[letter]
    wrong = _unfit(arguments[index], allowed, deep=letter == "s")
    if wrong is None:
        return None
    return Issue(wrong.at, f"error during formatting: {told}, was given {wrong.type.name}")


def _unfit(node: Node, allowed: tuple[str, ...], *, deep: bool) -> Node | None:
    """Return the part of an argument that a clause does not take."""
    if node.type.kind != "dyn" and node.type.kind not in allowed:
        return node
    parts: list[Node] = []
    if deep and isinstance(node, ListNode):
        parts = node.items
    elif deep and isinstance(node, MapNode):
        parts = [part for entry in node.entries for part in (entry.key, entry.value) if isinstance(part, Node)]
    return next((found for part in parts if (found := _unfit(part, allowed, deep=True)) is not None), None)
