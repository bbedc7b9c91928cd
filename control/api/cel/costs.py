"""The estimate of what an expression costs at most, from its checked tree and how large its values may become.

Kubernetes refuses rules by it, so it follows Kubernetes' own estimate step by step.
"""

from __future__ import annotations

from dataclasses import dataclass

from control.api.cel.callcosts import Argument, Estimate, call_cost
from control.api.cel.parser import Uint
from control.api.cel.sizes import (
    LIST_COST,
    MAP_COST,
    NOTHING,
    ONE,
    STRUCTURE_COST,
    UNKNOWN,
    Declared,
    Span,
    fixed,
)
from control.api.cel.syntax import (
    RESULT,
    Call,
    Comprehension,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
    StructNode,
)
from control.api.cel.types import OPTIONAL_NAME, Type

_SCALARS = frozenset({"bool", "double", "duration", "int", "timestamp", "uint"})
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Entries:
    """How large the keys and the values of a list or map are."""

    kind: str
    key: Span
    value: Span

    def union(self, other: Entries | None) -> Entries | None:
        """Return what holds both."""
        return other and Entries(self.kind, self.key.union(other.key), self.value.union(other.value))


@dataclass(frozen=True, slots=True)
class _Local:
    path: Path
    size: Span | None
    entries: Entries | None = None


def estimate(node: Node, root: Declared) -> Span:
    """Return what a checked expression costs, at least and at most; its variables are of the declared type."""
    return _Estimator(root).cost(node)


class _Estimator:
    """One walk over a tree; what is learnt of a node is kept by the node."""

    def __init__(self, root: Declared) -> None:
        self._root = root
        self._paths: dict[Node, Path] = {}
        self._sizes: dict[Node, Span] = {}
        self._entries: dict[Node, Entries] = {}
        self._locals: dict[str, list[_Local]] = {}

    def cost(self, node: Node) -> Span:
        """Return what a node costs with all that is below it."""
        match node:
            case Ident():
                local = self._local(node.name)
                self._paths[node] = local.path if local else (node.name,)
                return ONE
            case Select():
                return self._select(node)
            case Call():
                return self._call(node)
            case ListNode():
                return self._list(node)
            case MapNode():
                return self._map(node)
            case StructNode():
                return _total([self.cost(entry.value) for entry in node.entries]).plus(fixed(STRUCTURE_COST))
            case Comprehension():
                return self._binding(node) if node.macro == "bind" else self._loop(node)
        return NOTHING

    # What is known of nodes

    def _local(self, name: str) -> _Local | None:
        found = self._locals.get(name)
        return found[-1] if found else None

    def _push(self, name: str, local: _Local) -> None:
        self._locals.setdefault(name, []).append(local)

    def _pop(self, name: str) -> None:
        self._locals[name].pop()

    def _path(self, node: Node) -> Path:
        if isinstance(node, Ident) and (local := self._local(node.name)):
            return local.path
        return self._paths.get(node, ())

    def declared_size(self, path: Path) -> Span | None:
        """Return how large the schema lets a value at a path become."""
        if not path or path[0] == RESULT:
            return None
        found = self._root.at(path[1:])
        return Span(0, found.elements_max) if found is not None else None

    def _size(self, node: Node) -> Span | None:
        if node in self._sizes:
            return self._sizes[node]
        if (found := _written_size(node)) is not None:
            return found
        if (found := self.declared_size(self._path(node))) is not None:
            self._sizes[node] = found
            return found
        if _is_scalar(node.type):
            return ONE
        if isinstance(node, Ident) and (local := self._local(node.name)) and local.size is not None:
            return local.size
        return None

    def _size_or_unknown(self, node: Node) -> Span:
        return self._size(node) or UNKNOWN

    def _entries_of(self, node: Node) -> Entries | None:
        if node in self._entries:
            return self._entries[node]
        if isinstance(node, Ident) and (local := self._local(node.name)):
            return local.entries
        return None

    def _argument(self, node: Node) -> Argument:
        path = self._path(node)
        return Argument(node, () if path[:1] == (RESULT,) else path, self._size(node), self)

    # Kinds of nodes

    def _select(self, node: Select) -> Span:
        if not node.field:
            total = self.cost(node.operand)
            self._paths[node] = self._path(node.operand)
            return total
        if node.test_only:
            return self.cost(node.operand)
        total = self.cost(node.operand)
        if node.operand.type.kind in ("map", "object", "parameter"):
            total = total.plus(ONE)
        self._paths[node] = (*self._path(node.operand), node.field)
        return total

    def _call(self, node: Call) -> Span:
        if node.function == "dyn":
            held = node.arguments[0]
            total = ONE.plus(self.cost(held))
            self._copy(node, held)
            return total
        costs = [self.cost(argument) for argument in node.arguments]
        arguments = [self._argument(argument) for argument in node.arguments]
        if not node.overloads:
            return NOTHING
        total, target = NOTHING, None
        if node.target is not None:
            total = self.cost(node.target)
            target = self._argument(node.target)
        spans: list[Span] = []
        size: Span | None = None
        for overload in node.overloads:
            found = self._overload(node, overload, target, arguments, costs)
            spans.append(found.cost)
            if found.size is not None:
                size = found.size if size is None else size.union(found.size)
            if overload in ("index_list", "index_map"):
                entries = self._entries_of(node.arguments[0])
                size = entries.value if entries else None
                within = "@items" if overload == "index_list" else "@values"
                self._paths[node] = (*self._path(node.arguments[0]), within)
            if size is None:
                size = self._size(node)
        if size is not None:
            self._sizes[node] = size
        most = spans[0]
        for span in spans[1:]:
            most = most.union(span)
        return total.plus(most)

    def _overload(
        self, node: Call, overload: str, target: Argument | None, arguments: list[Argument], costs: list[Span]
    ) -> Estimate:
        if overload in ("logical_and", "logical_or"):
            return Estimate(Span(costs[0].low, costs[0].plus(costs[1]).high))
        if overload == "conditional":
            held = self._entries_of(node.arguments[1])
            joined = held.union(self._entries_of(node.arguments[2])) if held else None
            if joined is not None:
                self._entries[node] = joined
            size = self._size_or_unknown(node.arguments[1]).union(self._size_or_unknown(node.arguments[2]))
            return Estimate(costs[0].plus(costs[1].union(costs[2])), size)
        if overload in ("add_string", "add_bytes", "add_list"):
            held = self._entries_of(node.arguments[0])
            joined = held.union(self._entries_of(node.arguments[1])) if held else None
            if joined is not None:
                self._entries[node] = joined
        found = call_cost(node.function, overload, target, arguments)
        return Estimate(found.cost.plus(_total(costs)), found.size)

    def _copy(self, node: Node, source: Node) -> None:
        if (size := self._size(source)) is not None:
            self._sizes[node] = size
        if (entries := self._entries_of(source)) is not None:
            self._entries[node] = entries

    def _list(self, node: ListNode) -> Span:
        total = _total([self.cost(item) for item in node.items])
        self._entries[node] = Entries("list", ONE, self._range(node.items))
        return total.plus(fixed(LIST_COST))

    def _map(self, node: MapNode) -> Span:
        total, keys, values = NOTHING, [], []
        for entry in node.entries:
            assert isinstance(entry.key, Node)
            total = total.plus(self.cost(entry.key)).plus(self.cost(entry.value))
            keys.append(entry.key)
            values.append(entry.value)
        self._entries[node] = Entries("map", self._range(keys), self._range(values))
        return total.plus(fixed(MAP_COST))

    def _range(self, nodes: list[Node]) -> Span:
        if not nodes:
            return NOTHING
        found = self._size_or_unknown(nodes[0])
        for node in nodes[1:]:
            found = found.union(self._size_or_unknown(node))
        return found

    def _loop(self, node: Comprehension) -> Span:
        total = self.cost(node.range).plus(self.cost(node.start))
        self._push(
            node.accumulator, _Local(self._path(node.start), self._size(node.start), self._entries_of(node.start))
        )
        self._push_variables(node)
        condition, step = self.cost(node.condition), self.cost(node.step)
        self._pop(node.variable)
        if node.second:
            self._pop(node.second)
        total = total.plus(self.cost(node.result))
        self._pop(node.accumulator)
        count = self._size_or_unknown(node.range)
        total = total.plus(count.times(step.plus(condition)))
        if isinstance(node.start, Literal):
            if (size := self._size(node.start)) is not None:
                self._sizes[node] = size
        elif isinstance(node.start, ListNode | MapNode):
            self._sizes[node] = count
            if (entries := self._entries_of(node.step)) is not None:
                self._entries[node] = entries
        return total

    def _push_variables(self, node: Comprehension) -> None:
        entries, path = self._entries_of(node.range), self._path(node.range)
        kind = entries.kind if entries else node.range.type.kind
        key, value = (entries.key, entries.value) if entries else (None, None)
        keys = (*path, "@indices" if kind == "list" else "@keys")
        values = (*path, "@items" if kind == "list" else "@values")
        if node.second:
            self._push(node.variable, _Local(keys, key))
            self._push(node.second, _Local(values, value))
        elif kind == "list":
            self._push(node.variable, _Local(values, value))
        else:
            self._push(node.variable, _Local((*path, "@keys"), key))

    def _binding(self, node: Comprehension) -> Span:
        total = self.cost(node.range).plus(self.cost(node.start))
        local = _Local(self._path(node.start), self._size(node.start), self._entries_of(node.start))
        self._push(node.accumulator, local)
        total = total.plus(self.cost(node.result))
        self._copy(node, node.result)
        self._pop(node.accumulator)
        return total


def _total(spans: list[Span]) -> Span:
    total = NOTHING
    for span in spans:
        total = total.plus(span)
    return total


def _written_size(node: Node) -> Span | None:
    match node:
        case Literal(value=str() | bytes()):
            return fixed(len(node.value))
        case Literal(value=bool() | float() | int() | Uint() | None):
            return ONE
        case ListNode():
            return fixed(len(node.items))
        case MapNode():
            return fixed(len(node.entries))
    return None


def _is_scalar(found: Type) -> bool:
    return found.kind in _SCALARS or (found.name == OPTIONAL_NAME and _is_scalar(found.parameters[0]))
