"""Macros: calls that stand for loops and bindings, ``self.items.all(item, item.size() < 5)``."""

from __future__ import annotations

from collections.abc import Callable

from control.api.cel.errors import Issue
from control.api.cel.syntax import (
    RESULT,
    UNUSED,
    Call,
    Comprehension,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
)

LEGACY_RESULT = "__result__"
TARGET = "#target"
SORTED = "@__sortBy_input__"
Expand = Callable[[int, "Node | None", list[Node]], Node]
"""(place, target, arguments) → what the macro stands for; raises MacroError."""


class MacroError(ValueError):
    """A macro's arguments are not what it takes."""

    def __init__(self, node: Node, text: str) -> None:
        super().__init__(text)
        self.issue = Issue(node.at, text)


def _call(at: int, function: str, *arguments: Node) -> Call:
    return Call(at, function, None, list(arguments))


def _result(at: int) -> Ident:
    return Ident(at, RESULT)


def _variable(node: Node, text: str) -> str:
    if not isinstance(node, Ident):
        raise MacroError(node, text)
    if node.name in (RESULT, LEGACY_RESULT):
        raise MacroError(node, "iteration variable overwrites accumulator variable")
    return node.name


def _variables(arguments: list[Node], count: int) -> tuple[str, str]:
    """Return the one or two variables that a loop's first arguments name."""
    if count == 1:
        return _variable(arguments[0], "argument must be a simple name"), ""
    text = "argument must be a simple name"
    first, second = _variable(arguments[0], text), _variable(arguments[1], text)
    if first == second:
        raise MacroError(arguments[1], f"duplicate variable name: {first}")
    return first, second


def _quantifier(kind: str, count: int) -> Expand:
    def expand(at: int, target: Node | None, arguments: list[Node]) -> Node:
        assert target is not None
        first, second = _variables(arguments, count)
        predicate = arguments[count]
        start: Node = Literal(at, kind == "all")
        result: Node = _result(at)
        condition: Node
        step: Node
        if kind == "all":
            condition = _call(at, "@not_strictly_false", _result(at))
            step = _call(at, "_&&_", _result(at), predicate)
        elif kind == "exists":
            condition = _call(at, "@not_strictly_false", _call(at, "!_", _result(at)))
            step = _call(at, "_||_", _result(at), predicate)
        else:
            start, condition = Literal(at, 0), Literal(at, True)
            step = _call(at, "_?_:_", predicate, _call(at, "_+_", _result(at), Literal(at, 1)), _result(at))
            result = _call(at, "_==_", _result(at), Literal(at, 1))
        return Comprehension(
            at, target, first, second, RESULT, start, condition, step, result, macro=kind, predicate=predicate
        )

    return expand


def _transform_list(count: int) -> Expand:
    """Return ``map`` (one variable) or ``transformList`` (two)."""

    def expand(at: int, target: Node | None, arguments: list[Node]) -> Node:
        assert target is not None
        if count == 1:
            first, second = _variable(arguments[0], "argument is not an identifier"), ""
        else:
            first, second = _variables(arguments, count)
        predicate = arguments[count] if len(arguments) == count + 2 else None
        transform = arguments[-1]
        step: Node = _call(at, "_+_", _result(at), ListNode(at, [transform]))
        if predicate is not None:
            step = _call(at, "_?_:_", predicate, step, _result(at))
        return Comprehension(
            at, target, first, second, RESULT, ListNode(at, []), Literal(at, True), step, _result(at),
            macro="list", predicate=predicate, transform=transform,
        )  # fmt: skip

    return expand


def _filter(at: int, target: Node | None, arguments: list[Node]) -> Node:
    assert target is not None
    variable = _variable(arguments[0], "argument is not an identifier")
    step = _call(at, "_+_", _result(at), ListNode(at, [arguments[0]]))
    step = _call(at, "_?_:_", arguments[1], step, _result(at))
    return Comprehension(
        at, target, variable, "", RESULT, ListNode(at, []), Literal(at, True), step, _result(at),
        macro="list", predicate=arguments[1], transform=arguments[0],
    )  # fmt: skip


def _transform_map(kind: str) -> Expand:
    def expand(at: int, target: Node | None, arguments: list[Node]) -> Node:
        assert target is not None
        first, second = _variables(arguments, 2)
        predicate = arguments[2] if len(arguments) == 4 else None
        transform = arguments[-1]
        inserted = [_result(at), Ident(at, first), transform] if kind == "map" else [_result(at), transform]
        step: Node = _call(at, "cel.@mapInsert", *inserted)
        if predicate is not None:
            step = _call(at, "_?_:_", predicate, step, _result(at))
        return Comprehension(
            at, target, first, second, RESULT, MapNode(at, []), Literal(at, True), step, _result(at),
            macro=kind, predicate=predicate, transform=transform,
        )  # fmt: skip

    return expand


def _has(at: int, _: Node | None, arguments: list[Node]) -> Node:
    tested = arguments[0]
    if not isinstance(tested, Select):
        raise MacroError(tested, "invalid argument to has() macro")
    return Select(at, tested.operand, tested.field, test_only=True)


def _bound(at: int, variable: str, value: Node, result: Node) -> Comprehension:
    """Return a result that sees a value under a name."""
    return Comprehension(
        at, ListNode(at, []), UNUSED, "", variable, value, Literal(at, False), Ident(at, variable), result, macro="bind"
    )


def _bind(at: int, target: Node | None, arguments: list[Node]) -> Node:
    name = arguments[0]
    if not isinstance(name, Ident):
        raise MacroError(name, "cel.bind() variable names must be simple identifiers")
    return _bound(at, name.name, arguments[1], arguments[2])


def _optional_map(*, is_flat: bool) -> Expand:
    def expand(at: int, target: Node | None, arguments: list[Node]) -> Node:
        assert target is not None
        variable = arguments[0]
        if not isinstance(variable, Ident):
            name = "optFlatMap" if is_flat else "optMap"
            raise MacroError(variable, f"{name}() variable name must be a simple identifier")
        asked = target.name if isinstance(target, Ident) else TARGET
        value = Call(at, "value", Ident(at, asked), [])
        mapped: Node = _bound(at, variable.name, value, arguments[1])
        if not is_flat:
            mapped = _call(at, "optional.of", mapped)
        chosen = _call(at, "_?_:_", Call(at, "hasValue", Ident(at, asked), []), mapped, _call(at, "optional.none"))
        return chosen if asked != TARGET else _bound(at, TARGET, target, chosen)

    return expand


def _sort_by(at: int, target: Node | None, arguments: list[Node]) -> Node:
    assert target is not None
    if not isinstance(target, ListNode | Select | Ident | Comprehension | Call):
        text = "sortBy can only be applied to a list, identifier, comprehension, call or select expression"
        raise MacroError(target, text)
    keys = _transform_list(1)(at, Ident(at, SORTED), arguments)
    return _bound(at, SORTED, target, Call(at, "@sortByAssociatedKeys", Ident(at, SORTED), [keys]))


MACROS: dict[tuple[str, int, bool], Expand] = {
    ("has", 1, False): _has,
    ("all", 2, True): _quantifier("all", 1),
    ("exists", 2, True): _quantifier("exists", 1),
    ("exists_one", 2, True): _quantifier("exists_one", 1),
    ("map", 2, True): _transform_list(1),
    ("map", 3, True): _transform_list(1),
    ("filter", 2, True): _filter,
    ("all", 3, True): _quantifier("all", 2),
    ("exists", 3, True): _quantifier("exists", 2),
    ("exists_one", 3, True): _quantifier("exists_one", 2),
    ("existsOne", 3, True): _quantifier("exists_one", 2),
    ("transformList", 3, True): _transform_list(2),
    ("transformList", 4, True): _transform_list(2),
    ("transformMap", 3, True): _transform_map("map"),
    ("transformMap", 4, True): _transform_map("map"),
    ("transformMapEntry", 3, True): _transform_map("entry"),
    ("transformMapEntry", 4, True): _transform_map("entry"),
    ("optMap", 2, True): _optional_map(is_flat=False),
    ("optFlatMap", 2, True): _optional_map(is_flat=True),
    ("sortBy", 2, True): _sort_by,
}
"""By name, number of arguments, and whether there is a target."""
BIND = _bind
"""``cel.bind``, where an environment has it."""
