"""The checker of types: which function each call means, which fields there are, and what an expression yields.

It works on the tree of an expression and completes it, in the order and with the words of Kubernetes' own.
"""

from __future__ import annotations

from collections.abc import Mapping as MappingOf

from control.api.cel.declarations import Overload
from control.api.cel.errors import Issue
from control.api.cel.parser import RESERVED, Uint
from control.api.cel.syntax import (
    Call,
    Comprehension,
    Entry,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
    StructNode,
)
from control.api.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DYN,
    ERROR,
    IDENTIFIERS,
    INT,
    NULL,
    STRING,
    UINT,
    Type,
    is_dyn,
    list_of,
    map_of,
    optional_of,
    parameter,
    type_of,
    unwrapped,
)
from control.api.cel.unification import Mapping, less_specific

_LITERALS: dict[type, Type] = {
    bool: BOOL, int: INT, Uint: UINT, float: DOUBLE, str: STRING, bytes: BYTES, type(None): NULL,
}  # fmt: skip
KEYWORDS = RESERVED | {"true", "false", "null", "in"}
Variables = MappingOf[str, Type]
FunctionTable = MappingOf[str, tuple[Overload, ...]]


class Checker:
    """One check of one expression; what is wrong stands in ``issues``."""

    def __init__(self, variables: Variables, functions: FunctionTable, structures: Variables) -> None:
        self.issues: list[Issue] = []
        self._functions = functions
        self._structures = structures
        self._scopes: list[dict[str, Type]] = [dict(variables)]
        self._mapping = Mapping()
        self._unknowns = 0
        self._checked: list[Node] = []

    def run(self, node: Node) -> Type:
        """Return the type of what an expression yields, once all types are known."""
        self._check(node)
        for each in self._checked:
            each.type = self._mapping.substituted(each.type, unknown_is_dyn=True)
        return node.type

    # Helpers

    def _issue(self, at: int, text: str) -> None:
        self.issues.append(Issue(at, text))

    def _set(self, node: Node, found: Type) -> None:
        node.type = found
        self._checked.append(node)

    def _unknown(self) -> Type:
        self._unknowns += 1
        return parameter(f"_var{self._unknowns - 1}")

    def _shown(self, found: Type) -> str:
        return str(found)

    def _known(self, found: Type) -> Type:
        return self._mapping.substituted(found)

    def _lookup(self, name: str) -> tuple[Type, object] | None:
        """Return the type of a variable, or of the type that a name means, with its value."""
        bare = name.removeprefix(".")
        for scope in reversed(self._scopes if bare == name else self._scopes[:1]):
            if bare in scope:
                return scope[bare], None
        found = IDENTIFIERS.get(bare) or self._structures.get(bare)
        return (type_of(found), found) if found is not None else None

    # Kinds of nodes

    def _check(self, node: Node) -> None:
        match node:
            case Literal():
                self._set(node, _LITERALS[type(node.value)])
            case Ident():
                self._check_name(node)
            case Select():
                self._check_select(node)
            case Call():
                self._check_call(node)
            case ListNode():
                self._check_list(node)
            case MapNode():
                self._check_map(node)
            case StructNode():
                self._check_structure(node)
            case Comprehension():
                self._check_comprehension(node)

    def _check_name(self, node: Ident) -> None:
        found = self._lookup(node.name)
        if found is None:
            self._issue(node.at, f"undeclared reference to '{node.name}' (in container '')")
            self._set(node, ERROR)
            return
        node.name = node.name.removeprefix(".")
        node.constant = found[1]
        self._set(node, found[0])

    def _check_select(self, node: Select) -> None:
        name = "" if node.test_only else qualified(node)
        if name and self._is_whole(name):
            # A name with dots is that of a type, or of a variable: the whole is one name.
            node.operand, node.field = Ident(node.at, name), ""
            self._check(node.operand)
            self._set(node, node.operand.type)
            return
        found = self._field_of(node, node.operand, node.field)
        self._set(node, BOOL if node.test_only else self._known(found))

    def _is_whole(self, name: str) -> bool:
        first = name.split(".")[0].removeprefix(".")
        is_local = any(first in scope for scope in self._scopes[1:])
        known = name in self._scopes[0] or (name in IDENTIFIERS and first not in self._scopes[0])
        return known and not is_local

    def _field_of(self, node: Node, operand: Node, field: str, *, optional: bool = False) -> Type:
        self._check(operand)
        held, was_optional = unwrapped(self._known(operand.type))
        result = ERROR
        if held.kind == "map":
            result = held.parameters[1]
        elif held.kind == "object":
            assert held.fields is not None
            keyword = f"__{field}__"
            if field in held.fields:
                result = held.fields[field]
            elif field in KEYWORDS and keyword in held.fields:
                # Fields that are called like keywords have escaped names, but may be written as they are.
                result = held.fields[keyword]
                _rename(node, keyword)
            else:
                self._issue(node.at, f"undefined field '{field}'")
        elif held.kind == "parameter":
            self._mapping.assignable(DYN, held)
            result = DYN
        else:
            if not is_dyn(held):
                self._issue(node.at, f"type '{self._shown(held)}' does not support field selection")
            result = DYN
        return optional_of(result) if was_optional or optional else result

    def _check_call(self, node: Call) -> None:
        if node.function == "_?._":
            field = node.arguments[1]
            assert isinstance(field, Literal)
            self._set(field, STRING)
            self._set(node, self._known(self._field_of(node, node.arguments[0], str(field.value), optional=True)))
            node.overloads = ("select_optional_field",)
            return
        for argument in node.arguments:
            self._check(argument)
        if node.target is None:
            node.function = node.function.removeprefix(".")
            self._resolve_named(node, node.function)
            return
        prefix = qualified(node.target)
        if prefix and f"{prefix}.{node.function}" in self._functions:
            node.function, node.target = f"{prefix}.{node.function}", None
            self._resolve_named(node, node.function)
            return
        self._check(node.target)
        self._resolve_named(node, node.function)

    def _resolve_named(self, node: Call, name: str) -> None:
        overloads = self._functions.get(name)
        if overloads is None:
            self._issue(node.at, f"undeclared reference to '{name}' (in container '')")
            self._set(node, ERROR)
            return
        self._set(node, self._resolve(node, overloads))

    def _resolve(self, node: Call, overloads: tuple[Overload, ...]) -> Type:
        """Find the overloads that a call may mean and return what it yields."""
        given = [node.target.type] if node.target is not None else []
        given += [argument.type for argument in node.arguments]
        if node.function in ("_&&_", "_||_"):
            return self._logical(node, overloads[0])
        result: Type | None = None
        fitting: list[str] = []
        for overload in overloads:
            if overload.is_member != (node.target is not None):
                continue
            fresh = {name: self._unknown() for name in overload.unknowns}
            wanted = [_renamed(each, fresh) for each in overload.parameters]
            if not self._mapping.all_assignable(given, wanted):
                continue
            fitting.append(overload.id)
            yielded = self._known(_renamed(overload.result, fresh))
            if result is None:
                result = yielded
            elif result.kind != "dyn" and yielded != result:
                result = DYN
        node.overloads = tuple(fitting)
        if result is not None:
            return result
        shown = [self._shown(self._mapping.substituted(each, unknown_is_dyn=True)) for each in given]
        target = f"{shown.pop(0)}." if node.target is not None else ""
        self._issue(
            node.at, f"found no matching overload for '{node.function}' applied to '{target}({', '.join(shown)})'"
        )
        return ERROR

    def _logical(self, node: Call, overload: Overload) -> Type:
        node.overloads = (overload.id,)
        result = BOOL
        for argument in node.arguments:
            if not self._mapping.assignable(argument.type, BOOL):
                self._issue(argument.at, f"expected type 'bool' but found '{self._shown(argument.type)}'")
                result = ERROR
        return result

    def _check_list(self, node: ListNode) -> None:
        item_type: Type | None = None
        for index, item in enumerate(node.items):
            self._check(item)
            found = item.type
            if index in node.optional:
                found = self._held(item)
            item_type = self._joined(item_type, found)
        self._set(node, list_of(item_type or self._unknown()))

    def _held(self, node: Node) -> Type:
        """Return the type of what an optional item holds."""
        held, was_optional = unwrapped(node.type)
        if not was_optional and held.kind != "dyn":
            self._mismatch(node.at, optional_of(held), held)
        return held

    def _check_map(self, node: MapNode) -> None:
        key_type: Type | None = None
        value_type: Type | None = None
        for entry in node.entries:
            assert isinstance(entry.key, Node)
            self._check(entry.key)
            key_type = self._joined(key_type, entry.key.type)
            self._check(entry.value)
            found = self._held(entry.value) if entry.optional else entry.value.type
            value_type = self._joined(value_type, found)
        self._set(node, map_of(key_type or self._unknown(), value_type or self._unknown()))

    def _check_structure(self, node: StructNode) -> None:
        found = self._structures.get(node.name) or IDENTIFIERS.get(node.name)
        if found is None:
            self._issue(node.at, f"undeclared reference to '{node.name}' (in container '')")
            self._set(node, ERROR)
            return
        if found.kind not in ("object", "dyn"):
            self._issue(node.at, f"'{found.name}' is not a message type")
            found = ERROR
        self._set(node, found)
        for entry in node.entries:
            self._check_entry(entry, found)

    def _check_entry(self, entry: Entry, structure: Type) -> None:
        self._check(entry.value)
        name, wanted = str(entry.key), ERROR
        if structure.fields is not None and structure.kind == "object":
            if name in structure.fields:
                wanted = structure.fields[name]
            else:
                self._issue(entry.at, f"undefined field '{name}'")
        given = self._held(entry.value) if entry.optional else entry.value.type
        if not self._mapping.assignable(wanted, given):
            text = f"expected type of field '{name}' is '{self._shown(wanted)}' but provided type is"
            self._issue(entry.at, f"{text} '{self._shown(given)}'")

    def _check_comprehension(self, node: Comprehension) -> None:
        self._check(node.range)
        self._check(node.start)
        range_type = self._known(node.range.type)
        gathered = node.start.type
        self._scopes.append({node.accumulator: gathered})
        first, second = self._loop_types(node, range_type)
        self._scopes.append({node.variable: first, **({node.second: second} if node.second else {})})
        self._check(node.condition)
        self._assert(node.condition, BOOL)
        self._check(node.step)
        self._assert(node.step, gathered)
        self._scopes.pop()
        self._check(node.result)
        self._scopes.pop()
        self._set(node, self._known(node.result.type))

    def _loop_types(self, node: Comprehension, found: Type) -> tuple[Type, Type]:
        if found.kind == "list":
            return (INT, found.parameters[0]) if node.second else (found.parameters[0], ERROR)
        if found.kind == "map":
            return found.parameters[0], found.parameters[1]
        if found.kind in ("dyn", "error", "parameter"):
            self._mapping.assignable(DYN, found)
            return DYN, DYN
        text = "cannot be range of a comprehension (must be list, map, or dynamic)"
        self._issue(node.range.at, f"expression of type '{self._shown(found)}' {text}")
        return ERROR, ERROR

    def _joined(self, before: Type | None, found: Type) -> Type:
        """Return the type of items together; whether they may be of different ones is not asked here."""
        if before is None:
            return found
        if self._mapping.assignable(before, found):
            return before if less_specific(before, found) else found
        return DYN

    def _assert(self, node: Node, wanted: Type) -> None:
        if not self._mapping.assignable(wanted, node.type):
            self._mismatch(node.at, wanted, node.type)

    def _mismatch(self, at: int, wanted: Type, found: Type) -> None:
        self._issue(at, f"expected type '{self._shown(wanted)}' but found '{self._shown(found)}'")


def _rename(node: Node, field: str) -> None:
    if isinstance(node, Select):
        node.field = field
    elif isinstance(node, Call) and isinstance(name := node.arguments[1], Literal):
        name.value = field


def _renamed(found: Type, fresh: dict[str, Type]) -> Type:
    if found.kind == "parameter":
        return fresh[found.name]
    if not found.parameters or not fresh:
        return found
    inner = tuple(_renamed(each, fresh) for each in found.parameters)
    return Type(found.kind, found.name, inner)


def qualified(node: Node) -> str:
    """Return the name that a chain of names makes, nothing where something else is in it."""
    parts: list[str] = []
    while isinstance(node, Select) and not node.test_only:
        parts.append(node.field)
        node = node.operand
    return ".".join([node.name, *reversed(parts)]) if isinstance(node, Ident) else ""
