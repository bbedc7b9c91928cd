"""The initializers of mutations, ``Object.spec{replicas: 3}`` and ``JSONPatch{op: "add", …}``, in terms of maps.

The CEL library builds messages of declared types alone, and these types are those of whatever object is at hand. So
an initializer is rewritten before it is compiled: ``Object.spec{replicas: 3}`` becomes
``dyn({"~": "Object.spec", "replicas": 3})``, a map that says what it is, and `built` checks, when the expression has
been run, that each stands where its name says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from control.api.cel.environment import CelError
from control.api.cel.function import WHAT

ROOTS = ("Object", "JSONPatch")
PATCH_FIELDS = ("op", "path", "from", "value")
_TOKEN = re.compile(
    r"""
    (?P<space>\s+|//[^\n]*)
  | (?P<text>(?:[bB]?[rR]|[rR][bB])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
            |[bB]?(?:\"{3}(?:\\.|.)*?\"{3}|'{3}(?:\\.|.)*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*|`[^`\n]*`)
  | (?P<number>[0-9][A-Za-z0-9_.]*)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_UNESCAPES = {"__underscores__": "__", "__dot__": ".", "__dash__": "-", "__slash__": "/"}
_RESERVED = re.compile(r"__([a-z]+)__")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an expression: space, text, name, number or mark."""

    kind: str
    text: str


def tokens(expression: str) -> Iterator[Token]:
    """Yield an expression's pieces, which together are the expression."""
    for found in _TOKEN.finditer(expression):
        yield Token(str(found.lastgroup), found.group())


@dataclass(slots=True)
class _Open:
    """An open bracket; of an initializer, its type and whether a field comes next."""

    type: str = ""
    awaits_field: bool = False
    has_fields: bool = False


class _Rewriter:
    """One pass over the tokens of an expression."""

    def __init__(self, expression: str) -> None:
        self._tokens = list(tokens(expression))
        self._at = 0
        self._before = ""
        """The last token that is no space."""
        self._open: list[_Open] = []
        self._made: list[str] = []

    def run(self) -> str:
        """Return the rewritten expression; raises CelError."""
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            if token.kind == "space":
                self._made.append(" ")
                self._at += 1
                continue
            if self._open and self._open[-1].type and self._open[-1].awaits_field and token.text != "}":
                self._field(self._open[-1])
                continue
            type_name, behind = self._initializer()
            if type_name:
                self._begin(type_name, behind)
                continue
            self._plain(token)
        return "".join(self._made)

    def _significant(self, at: int) -> int:
        while at < len(self._tokens) and self._tokens[at].kind == "space":
            at += 1
        return at

    def _text(self, at: int) -> str:
        return self._tokens[at].text if at < len(self._tokens) else ""

    def _initializer(self) -> tuple[str, int]:
        """Return the type whose initializer begins here and where its brace stands, nothing where none does."""
        if self._text(self._at) not in ROOTS or self._before == ".":
            return "", 0
        parts, at = [self._text(self._at)], self._significant(self._at + 1)
        while self._text(at) == ".":
            name = self._significant(at + 1)
            if name >= len(self._tokens) or self._tokens[name].kind != "name":
                return "", 0
            parts.append(_unescaped(self._text(name)))
            at = self._significant(name + 1)
        if self._text(at) != "{":
            return "", 0
        if parts[0] == "JSONPatch" and len(parts) > 1:
            raise CelError(f"undefined type '{'.'.join(parts)}'")
        return ".".join(parts), at

    def _begin(self, type_name: str, brace: int) -> None:
        tagged = type_name != "JSONPatch"
        self._made.append(f'dyn({{"{WHAT}": "{type_name}"' if tagged else "dyn({")
        self._open.append(_Open(type_name, awaits_field=True, has_fields=tagged))
        self._at, self._before = brace + 1, "{"

    def _field(self, opened: _Open) -> None:
        """Rewrite ``name:`` to ``"name":``."""
        optional = self._text(self._at) == "?"
        at = self._significant(self._at + 1) if optional else self._at
        colon = self._significant(at + 1)
        if at >= len(self._tokens) or self._tokens[at].kind != "name" or self._text(colon) != ":":
            raise CelError(f"ERROR: a field of {opened.type} is expected where {self._text(at)!r} stands")
        name = _unescaped(self._text(at))
        if opened.type == "JSONPatch" and name not in PATCH_FIELDS:
            raise CelError(f"ERROR: undefined field '{name}'")
        comma = ", " if opened.has_fields else ""
        self._made.append(f'{comma}{"?" if optional else ""}"{name}":')
        opened.awaits_field, opened.has_fields = False, True
        self._at, self._before = colon + 1, ":"

    def _plain(self, token: Token) -> None:
        made = token.text
        if token.text in ("(", "[", "{"):
            self._open.append(_Open())
        elif token.text in (")", "]", "}") and self._open:
            closed = self._open.pop()
            made = "})" if closed.type else token.text
        elif token.text == "," and self._open and self._open[-1].type:
            # The comma is written with the next field, if there is one.
            self._open[-1].awaits_field = True
            made = ""
        self._made.append(made)
        self._at, self._before = self._at + 1, token.text


def _unescaped(name: str) -> str:
    """Return the field that an escaped name means."""
    if name.startswith("`"):
        return name[1:-1]
    if (found := _RESERVED.fullmatch(name)) is not None and name not in _UNESCAPES:
        return found[1]
    return re.sub("|".join(_UNESCAPES), lambda each: _UNESCAPES[each.group()], name)


def rewritten(expression: str) -> str:
    """Return an expression with its initializers as maps; raises CelError."""
    return _Rewriter(expression).run()


def built(value: Any, path: str = "") -> Any:
    """Return the JSON value that an expression built; raises CelError where an initializer stands at a wrong place."""
    if isinstance(value, dict):
        named = value.get(WHAT)
        if named is None:
            return {str(key): built(item, f"{path}.{key}" if path else "") for key, item in value.items()}
        if path and named != path:
            text = f'unexpected type name "{named}", expected "{path}", which matches field name path'
            raise CelError(f"type mismatch: {text} from root Object type")
        return {key: built(item, f"{named}.{key}") for key, item in value.items() if key != WHAT}
    if isinstance(value, list):
        return [built(item, path) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise CelError(f"a value of type {type(value).__name__} cannot be part of an object")
