"""The pieces of an expression's text."""

from __future__ import annotations

import re
from dataclasses import dataclass

from control.api.cel.errors import Issue

END = "<EOF>"
KEYWORDS = frozenset({"true", "false", "null", "in"})
_ESCAPED_PART = r"\\(?:[abfnrtv\\'\"`?]|[xX][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-3][0-7]{2})"
_RAW = r"""[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\r\n]*"|'[^'\r\n]*')"""
_QUOTED = (
    rf"(?:\"{{3}}(?:{_ESCAPED_PART}|[^\\])*?\"{{3}}|'{{3}}(?:{_ESCAPED_PART}|[^\\])*?'{{3}}"
    rf"|\"(?:{_ESCAPED_PART}|[^\"\\\r\n])*\"|'(?:{_ESCAPED_PART}|[^'\\\r\n])*')"
)
_TOKEN = re.compile(
    rf"""
    (?P<SPACE>[\t \r\n\f]+|//[^\n]*)
  | (?P<BYTES>[bB](?:{_RAW}|{_QUOTED}))
  | (?P<STRING>{_RAW}|{_QUOTED})
  | (?P<NUM_FLOAT>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+|\.[0-9]+(?:[eE][+-]?[0-9]+)?)
  | (?P<NUM_UINT>(?:0x[0-9a-fA-F]+|[0-9]+)[uU])
  | (?P<NUM_INT>0x[0-9a-fA-F]+|[0-9]+)
  | (?P<IDENTIFIER>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<ESCAPED>`[A-Za-z0-9_.\-/\ ]+`)
  | (?P<MARK>==|!=|<=|>=|&&|\|\||[<>\[\]{{}}().,\-!?:+*/%])
  | (?P<WRONG>'(?:{_ESCAPED_PART}|[^'\\\r\n])*(?:\\.|.)?|"(?:{_ESCAPED_PART}|[^"\\\r\n])*(?:\\.|.)?|[|&=].?|.)
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece: its kind (of marks and keywords, the text itself), its text, and where it begins."""

    kind: str
    text: str
    at: int


def tokens(source: str) -> tuple[list[Token], list[Issue]]:
    """Return the pieces of an expression, the end last, and what is no piece of any."""
    found: list[Token] = []
    issues: list[Issue] = []
    for match in _TOKEN.finditer(source):
        kind, text = str(match.lastgroup), match.group()
        if kind == "SPACE":
            continue
        if kind == "WRONG":
            shown = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
            issues.append(Issue(match.start(), f"Syntax error: token recognition error at: '{shown}'"))
            continue
        if kind == "MARK" or text in KEYWORDS:
            kind = text
        found.append(Token(kind, text, match.start()))
    found.append(Token(END, END, len(source)))
    return found, issues


_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"',
           "`": "`", "?": "?"}  # fmt: skip
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\'\"`?])|[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}))"
)
_UNABLE = "unable to unescape string"


def unquoted(text: str) -> str:
    """Return what a string literal means; raises ValueError with what is wrong about its escapes."""
    body, is_raw = _body(text)
    if is_raw or "\\" not in body:
        return body
    return _unescaped(body, is_bytes=False)


def unquoted_bytes(text: str) -> bytes:
    """Return what a bytes literal (behind its b) means; raises ValueError."""
    body, is_raw = _body(text)
    if is_raw or "\\" not in body:
        return body.encode()
    # Characters beyond a byte stand for themselves and come as they are encoded.
    pieces = _pieces(body, is_bytes=True)
    return b"".join(each.encode("latin-1" if is_byte else "utf-8") for each, is_byte in pieces)


def _body(text: str) -> tuple[str, bool]:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    is_raw = text[0] in "rR"
    text = text[1:] if is_raw else text
    quotes = 3 if len(text) >= 6 and text[:3] in ("'''", '"""') else 1
    return text[quotes:-quotes], is_raw


def _unescaped(body: str, *, is_bytes: bool) -> str:
    return "".join(each for each, _ in _pieces(body, is_bytes=is_bytes))


def _pieces(body: str, *, is_bytes: bool) -> list[tuple[str, bool]]:
    made: list[tuple[str, bool]] = []
    at = 0
    while at < len(body):
        if body[at] != "\\":
            made.append((body[at], False))
            at += 1
            continue
        match = _ESCAPE.match(body, at)
        if match is None:
            octal = body[at + 1 : at + 2] in ("0", "1", "2", "3")
            raise ValueError("unable to unescape octal sequence in string" if octal else _UNABLE)
        simple, two, four, eight, octal_text = match.groups()
        if simple is not None:
            made.append((_SIMPLE[simple], False))
        elif is_bytes and (four or eight):
            raise ValueError(_UNABLE)
        else:
            made.append((_character(int(octal_text, 8) if octal_text else int(two or four or eight, 16)), is_bytes))
        at = match.end()
    return made


def _character(code: int) -> str:
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise ValueError("invalid unicode code point")
    return chr(code)
