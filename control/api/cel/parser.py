"""CEL's grammar: an expression's text in, its tree out, macros in place of what they stand for.

What is no expression is told in the words of the parser that Kubernetes uses, the first fault alone.
"""

from __future__ import annotations

from control.api.cel.errors import NOWHERE, CompileError, Issue
from control.api.cel.lexer import END, Token, tokens, unquoted, unquoted_bytes
from control.api.cel.macros import BIND, MACROS, MacroError
from control.api.cel.syntax import Call, Entry, Ident, ListNode, Literal, MapNode, Node, Select, StructNode

DEPTH_MAX = 250
INT_MIN, INT_MAX, UINT_MAX = -(2**63), 2**63 - 1, 2**64 - 1
RESERVED = frozenset({
    "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop", "package",
    "namespace", "return", "var", "void", "while",
})  # fmt: skip
_STARTS = ("[", "{", "(", ".", "-", "!", "true", "false", "null", "NUM_FLOAT", "NUM_INT", "NUM_UINT", "STRING",
           "BYTES", "IDENTIFIER")  # fmt: skip
_RELATIONS = {
    "<": "_<_", "<=": "_<=_", ">": "_>_", ">=": "_>=_", "==": "_==_", "!=": "_!=_", "in": "@in",
}  # fmt: skip
_SUMS, _PRODUCTS = {"+": "_+_", "-": "_-_"}, {"*": "_*_", "/": "_/_", "%": "_%_"}


class Uint(int):
    """A number without a sign."""

    __slots__ = ()


class _Stop(Exception):  # noqa: N818 - how the parser leaves what cannot be read, not an error of anybody's
    pass


def parse(source: str, *, binds: bool = False) -> Node:
    """Return the tree of an expression, with ``cel.bind`` where wanted; raises CompileError."""
    parser = _Parser(source, binds=binds)
    node = parser.run()
    if parser.issues or node is None:
        raise CompileError(source, parser.issues)
    return node


def _quoted(kind: str) -> str:
    return kind if kind.isupper() or kind == END else f"'{kind}'"


class _Parser:
    """One pass over an expression's tokens."""

    def __init__(self, source: str, *, binds: bool) -> None:
        self._tokens, self.issues = tokens(source)
        self._at = 0
        self._depth = 0
        self._binds = binds

    def run(self) -> Node | None:
        """Return the tree, None where nothing can be made of the text; faults stand in ``issues``."""
        try:
            node = self._expression()
            self._expect(END)
        except _Stop:
            return None
        except RecursionError:
            self.issues.append(Issue(NOWHERE, f"expression recursion limit exceeded: {DEPTH_MAX}"))
            return None
        return node

    # Tokens

    @property
    def _token(self) -> Token:
        return self._tokens[self._at]

    def _next(self, ahead: int = 1) -> str:
        at = self._at + ahead
        return self._tokens[at].kind if at < len(self._tokens) else END

    def _take(self) -> Token:
        token = self._token
        self._at += 1
        return token

    def _syntax(self, text: str) -> _Stop:
        self.issues.append(Issue(self._token.at, f"Syntax error: {text}"))
        return _Stop()

    def _unexpected(self, expected: tuple[str, ...]) -> _Stop:
        """Say that a token does not fit: it is too much where what is behind it fits."""
        shown = _quoted(expected[0]) if len(expected) == 1 else "{" + ", ".join(map(_quoted, expected)) + "}"
        shown_token = self._token.text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
        kind = "extraneous" if self._token.kind != END and self._next() in expected else "mismatched"
        return self._syntax(f"{kind} input '{shown_token}' expecting {shown}")

    def _expect(self, *kinds: str) -> Token:
        if self._token.kind in kinds:
            return self._take()
        if len(kinds) == 1 and kinds[0] in (")", "]", "}") and self._token.kind == END:
            raise self._syntax(f"missing '{kinds[0]}' at '<EOF>'")
        raise self._unexpected(kinds)

    def _close(self, kind: str) -> None:
        """Take the end of a list or map, where another item might have come."""
        if self._token.kind != kind:
            raise self._unexpected((kind, ","))
        self._take()

    # Expressions, from what binds least to what binds most

    def _expression(self) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            self.issues.append(Issue(NOWHERE, f"expression recursion limit exceeded: {DEPTH_MAX}"))
            raise _Stop
        node = self._logic("||", "_||_")
        if self._token.kind == "?":
            mark = self._take()
            then = self._logic("||", "_||_")
            self._expect(":")
            node = Call(mark.at, "_?_:_", None, [node, then, self._expression()])
        self._depth -= 1
        return node

    def _logic(self, mark: str, function: str) -> Node:
        """Read operands between marks; many become a balanced tree."""
        operands, places = [self._operand(mark)], []
        while self._token.kind == mark:
            places.append(self._take().at)
            operands.append(self._operand(mark))

        def balanced(low: int, high: int) -> Node:
            middle = (low + high + 1) // 2
            left = operands[middle] if middle == low else balanced(low, middle - 1)
            right = operands[middle + 1] if middle == high else balanced(middle + 1, high)
            return Call(places[middle], function, None, [left, right])

        return operands[0] if not places else balanced(0, len(places) - 1)

    def _operand(self, mark: str) -> Node:
        return self._logic("&&", "_&&_") if mark == "||" else self._binary(0)

    def _binary(self, level: int) -> Node:
        operators = (_RELATIONS, _SUMS, _PRODUCTS)[level]
        node = self._binary(level + 1) if level < 2 else self._unary()
        count = 0
        while self._token.kind in operators:
            mark = self._take()
            count += 1
            if count > DEPTH_MAX:
                self.issues.append(Issue(NOWHERE, "max recursion depth exceeded"))
                raise _Stop
            other = self._binary(level + 1) if level < 2 else self._unary()
            node = Call(mark.at, operators[mark.kind], None, [node, other])
        return node

    def _unary(self) -> Node:
        kind = self._token.kind
        if kind not in ("!", "-"):
            return self._member(self._primary())
        if kind == "-" and self._next() in ("NUM_INT", "NUM_FLOAT"):
            return self._member(self._primary())
        first = self._token
        count = 0
        while self._token.kind == kind:
            self._take()
            count += 1
        if self._token.kind in ("!", "-"):
            raise self._unexpected(tuple(each for each in _STARTS if each not in ("!", "-")))
        node = self._member(self._primary())
        return node if count % 2 == 0 else Call(first.at, "!_" if kind == "!" else "-_", None, [node])

    def _member(self, node: Node) -> Node:
        """Read what follows a value: fields, calls, indexes."""
        count = 0
        while True:
            count += 1
            if count > DEPTH_MAX:
                self.issues.append(Issue(NOWHERE, "max recursion depth exceeded"))
                raise _Stop
            kind = self._token.kind
            if kind == ".":
                node = self._field(node)
            elif kind == "[":
                mark = self._take()
                optional = self._token.kind == "?"
                if optional:
                    self._take()
                elif self._token.kind == "]":
                    raise self._unexpected((*_STARTS[:6], "?", *_STARTS[6:]))
                index = self._expression()
                self._expect("]")
                node = Call(mark.at, "_[?_]" if optional else "_[_]", None, [node, index])
            elif kind == "{" and (name := _qualified(node)):
                node = self._structure(name)
            else:
                return node

    def _field(self, node: Node) -> Node:
        dot = self._take()
        optional = self._token.kind == "?"
        if optional:
            self._take()
        name = self._token
        if name.kind in ("true", "false", "null"):
            raise self._syntax(f"mismatched input '{name.text}' expecting IDENTIFIER")
        if name.kind not in ("IDENTIFIER", "ESCAPED"):
            told = "" if name.kind == END else name.text
            raise self._syntax(f"no viable alternative at input '.{told}'")
        self._take()
        text = name.text.strip("`")
        if optional:
            return Call(dot.at, "_?._", None, [node, Literal(name.at, text)])
        if self._token.kind != "(" or name.kind == "ESCAPED":
            return Select(dot.at, node, text)
        place = self._take().at
        return self._called(place, name.text, node, self._arguments())

    def _called(self, at: int, name: str, target: Node | None, arguments: list[Node]) -> Node:
        expand = MACROS.get((name, len(arguments), target is not None))
        if (
            self._binds
            and name == "bind"
            and len(arguments) == 3
            and target is not None
            and _qualified(target) == "cel"
        ):
            expand = BIND
        if expand is None:
            return Call(at, name, target, arguments)
        try:
            return expand(at, target, arguments)
        except MacroError as error:
            self.issues.append(error.issue)
            return Call(at, name, target, arguments)

    def _arguments(self) -> list[Node]:
        found: list[Node] = []
        if self._token.kind != ")":
            found.append(self._expression())
            while self._token.kind == ",":
                self._take()
                found.append(self._expression())
        self._expect(")")
        return found

    # Values

    def _primary(self) -> Node:
        token = self._token
        match token.kind:
            case "IDENTIFIER" | ".":
                return self._name()
            case "(":
                self._take()
                node = self._expression()
                self._expect(")")
                return node
            case "[":
                return self._list()
            case "{":
                return MapNode(self._take().at, self._entries())
            case "true" | "false" | "null":
                self._take()
                return Literal(token.at, {"true": True, "false": False, "null": None}[token.kind])
            case "STRING" | "BYTES":
                return self._text()
            case "-" | "NUM_INT" | "NUM_UINT" | "NUM_FLOAT":
                return self._number()
        raise self._unexpected(_STARTS)

    def _name(self) -> Node:
        first = self._token
        dotted = first.kind == "."
        if dotted:
            self._take()
        name = self._expect("IDENTIFIER")
        if name.text in RESERVED:
            self.issues.append(Issue(first.at, f"reserved identifier: {name.text}"))
        text = f".{name.text}" if dotted else name.text
        if self._token.kind == "(":
            return self._called(self._take().at, text, None, self._arguments())
        return Ident(name.at, text)

    def _list(self) -> Node:
        place = self._take().at
        items: list[Node] = []
        optional: set[int] = set()
        while self._token.kind != "]":
            if self._token.kind == "?":
                self._take()
                optional.add(len(items))
            items.append(self._expression())
            if self._token.kind != ",":
                break
            self._take()
        self._close("]")
        return ListNode(place, items, frozenset(optional))

    def _entries(self) -> list[Entry]:
        entries: list[Entry] = []
        while self._token.kind != "}":
            optional = self._token.kind == "?"
            if optional:
                self._take()
            key = self._expression()
            colon = self._expect(":")
            entries.append(Entry(colon.at, key, self._expression(), optional))
            if self._token.kind != ",":
                break
            self._take()
        self._close("}")
        return entries

    def _structure(self, name: str) -> Node:
        place = self._take().at
        entries: list[Entry] = []
        while self._token.kind != "}":
            optional = self._token.kind == "?"
            if optional:
                self._take()
            field = self._expect("IDENTIFIER", "ESCAPED")
            colon = self._expect(":")
            entries.append(Entry(colon.at, field.text.strip("`"), self._expression(), optional))
            if self._token.kind != ",":
                break
            self._take()
        self._close("}")
        return StructNode(place, name, entries)

    def _text(self) -> Node:
        token = self._take()
        try:
            value: str | bytes = unquoted(token.text) if token.kind == "STRING" else unquoted_bytes(token.text[1:])
        except ValueError as error:
            self.issues.append(Issue(token.at, str(error)))
            value = token.text
        return Literal(token.at, value)

    def _number(self) -> Node:
        first = self._token
        negative = first.kind == "-"
        if negative:
            self._take()
        token = self._take()
        if token.kind == "NUM_FLOAT":
            value = float(token.text)
            if value == float("inf"):
                self.issues.append(Issue(first.at, "invalid double literal"))
            return Literal(first.at, -value if negative else value)
        is_uint = token.kind == "NUM_UINT"
        digits = token.text[:-1] if is_uint else token.text
        # A text of digits that long is out of range, and Python would not read it.
        number = int(digits, 16 if digits.startswith("0x") else 10) if len(digits) < 64 else UINT_MAX + 1
        if is_uint:
            if number > UINT_MAX:
                self.issues.append(Issue(first.at, "invalid uint literal"))
            return Literal(first.at, Uint(number))
        number = -number if negative else number
        if not INT_MIN <= number <= INT_MAX:
            self.issues.append(Issue(first.at, "invalid int literal"))
        return Literal(first.at, number)


def _qualified(node: Node) -> str:
    """Return the name that a chain of names makes, nothing where something else is in it."""
    parts: list[str] = []
    while isinstance(node, Select) and not node.test_only:
        parts.append(node.field)
        node = node.operand
    return ".".join([node.name, *reversed(parts)]) if isinstance(node, Ident) else ""
