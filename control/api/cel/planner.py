"""Makes functions of an expression's checked tree: each node becomes one that yields its value in a frame.

What each step costs is taken from the frame as Kubernetes counts it, and an expression that spends more than it may
is ended; comparisons are counted beside, by what they really do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from control.api.cel import authorizer, functions_kubernetes, functions_lists, functions_standard, functions_text
from control.api.cel.declarations import Overload, functions
from control.api.cel.errors import CelError, LimitError
from control.api.cel.frame import LIMIT_TEXT, Frame, Step
from control.api.cel.loops import loop
from control.api.cel.operators import SPECIAL, added_lists, has, in_constants, no_overload, selected
from control.api.cel.runtimecosts import COSTS
from control.api.cel.sizes import LIST_COST, MAP_COST, STRUCTURE_COST
from control.api.cel.syntax import (
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
from control.api.cel.types import Type, unwrapped
from control.api.cel.values import CLASSES, type_name
from control.api.custom import patterns

WHAT = "~"
"""The key under which a structure says of which type it is."""
FOLD_COST_MAX = 10_000
_PATTERNS = frozenset({"matches", "find", "findAll"})
_CONVERSIONS = frozenset({"bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "type", "uint"})


def plan(node: Node) -> tuple[Step, bool]:
    """Return what yields an expression's value, and whether it writes to the values of its frame."""
    planner = _Planner()
    step = planner.step(node)
    return step, planner.writes


class _Planner:
    """One walk over a tree; names of loops become places that no other loop uses."""

    def __init__(self) -> None:
        self._scopes: list[tuple[str, str]] = []
        self._places = 0

    @property
    def writes(self) -> bool:
        """Whether loops keep variables in the frame."""
        return self._places > 0

    def step(self, node: Node) -> Step:
        """Return what yields a node's value."""
        match node:
            case Literal():
                value = node.value
                return lambda frame: value
            case Ident():
                return self._name(node)
            case Select():
                return self._select(node)
            case Call():
                return self._call(node)
            case ListNode():
                return self._list(node)
            case MapNode():
                return self._map(node)
            case StructNode():
                return self._structure(node)
            case Comprehension():
                return self._comprehension(node)
        raise AssertionError(f"no step for {type(node).__name__}")

    # Names

    def enter(self, name: str) -> str:
        """Return the place where a loop keeps a variable from now on."""
        self._places += 1
        place = f"{name}#{self._places}"
        self._scopes.append((name, place))
        return place

    def leave(self, count: int) -> None:
        """Forget the variables that were entered last."""
        del self._scopes[len(self._scopes) - count :]

    def _name(self, node: Ident) -> Step:
        name = node.name
        if isinstance(node.constant, Type):
            named = Type("named", node.constant.name)
            return lambda frame: named
        place = next((place for known, place in reversed(self._scopes) if known == name), name)

        def run(frame: Frame) -> Any:
            frame.left -= 1
            try:
                return frame.values[place]
            except KeyError:
                raise CelError(f"no such attribute(s): {name}") from None

        return run

    def _select(self, node: Select) -> Step:
        if not node.field:
            return self._name(_ident(node.operand))
        if node.test_only:
            operand, field = self.step(node.operand), node.field
            of_object = unwrapped(node.operand.type)[0].kind == "object"
            return lambda frame: has(operand(frame), field, of_object=of_object)
        fields: list[str] = []
        held: Node = node
        while isinstance(held, Select) and held.field and not held.test_only:
            fields.append(held.field)
            held = held.operand
        return _way(self.step(held), tuple(reversed(fields)))

    # Calls

    def _call(self, node: Call) -> Step:
        nodes = ([node.target] if node.target is not None else []) + node.arguments
        if (folded := self._folded(node)) is not None:
            return _constant(folded[0])
        steps = [self.step(argument) for argument in nodes]
        if node.function in ("_?_:_", "_[_]", "_[?_]"):
            # What is only looked up there is not counted: the choice, or the index, is one look-up with it.
            steps = [steps[0], *map(_uncounted, steps[1:], nodes[1:])]
        if node.function == "@in" and (folded := self._folded(nodes[1])) is not None and isinstance(folded[0], list):
            return in_constants(steps[0], folded[0])
        pattern = nodes[1] if node.function in _PATTERNS else None
        if isinstance(pattern, Literal) and (why := patterns.go_fault(str(pattern.value))):
            raise CelError(f"error parsing regexp: {why}")
        special = SPECIAL.get(node.function)
        if special is not None:
            return special(*steps)
        if node.function == "_+_" and node.overloads == ("add_list",):
            return added_lists(*steps)
        candidates = [_candidate(overload) for overload in functions()[node.function] if overload.id in node.overloads]
        if len(candidates) == 1 and len(steps) == 1:
            return _unary(steps[0], candidates[0], node.function)
        if len(candidates) == 1 and len(steps) == 2:
            return _binary(steps[0], steps[1], candidates[0], node.function)
        return _dispatching(steps, candidates, node.function)

    # What is built

    def _list(self, node: ListNode) -> Step:
        if (folded := self._folded(node)) is not None:
            return _constant(folded[0])
        steps = [(self.step(item), index in node.optional) for index, item in enumerate(node.items)]

        def run(frame: Frame) -> Any:
            made: list[Any] = []
            for step, optional in steps:
                value = step(frame)
                if optional:
                    if value.has:
                        made.append(value.value)
                else:
                    made.append(value)
            frame.left -= LIST_COST
            return made

        return run

    def _folded(self, node: Node) -> tuple[Any] | None:
        """Return the value of a node that is made of constants, which costs nothing when the expression runs."""
        match node:
            case Literal():
                return (node.value,)
            case ListNode(optional=frozenset() as optional) if not optional:
                items = [self._folded(item) for item in node.items]
                return None if None in items else ([item[0] for item in items if item is not None],)
            case Call(target=None, arguments=[argument]) if node.function in _CONVERSIONS:
                if (found := self._folded(argument)) is not None:
                    steps = [_constant(found[0])]
                    overloads = functions()[node.function]
                    candidates = [_candidate(overload) for overload in overloads if overload.id in node.overloads]
                    return (_dispatching(steps, candidates, node.function)(Frame({}, FOLD_COST_MAX)),)
        return None

    def _map(self, node: MapNode) -> Step:
        keys = [self._folded(entry.key) for entry in node.entries if isinstance(entry.key, Node)]
        items = [self._folded(entry.value) for entry in node.entries]
        cost = 0 if None not in keys and None not in items else MAP_COST
        steps = [
            (self.step(entry.key), self.step(entry.value), entry.optional)
            for entry in node.entries
            if isinstance(entry.key, Node)
        ]

        def run(frame: Frame) -> Any:
            made: dict[Any, Any] = {}
            for key_step, value_step, optional in steps:
                key, value = key_step(frame), value_step(frame)
                if not isinstance(key, bool | int | str) and not (isinstance(key, float) and key.is_integer()):
                    raise CelError(f"unsupported key type: {type_name(key)}")
                if optional:
                    if not value.has:
                        continue
                    value = value.value
                if key in made:
                    raise CelError(f"Failed with repeated key: {key}")
                made[key] = value
            frame.left -= cost
            return made

        return run

    def _structure(self, node: StructNode) -> Step:
        name = node.name
        steps = [(str(entry.key), self.step(entry.value), entry.optional) for entry in node.entries]

        def run(frame: Frame) -> Any:
            made: dict[str, Any] = {WHAT: name}
            for field, step, optional in steps:
                value = step(frame)
                if optional:
                    if not value.has:
                        continue
                    value = value.value
                made[field] = value
            frame.left -= STRUCTURE_COST
            return made

        return run

    def _comprehension(self, node: Comprehension) -> Step:
        if node.macro == "bind":
            value = self.step(node.start)
            place = self.enter(node.accumulator)
            result = self.step(node.result)
            self.leave(1)

            def run(frame: Frame) -> Any:
                frame.values[place] = value(frame)
                return result(frame)

            return run
        items = self.step(node.range)
        first = self.enter(node.variable)
        second = self.enter(node.second) if node.second else ""
        predicate = self.step(node.predicate) if node.predicate is not None else None
        transform = self.step(node.transform) if node.transform is not None else None
        self.leave(2 if second else 1)
        return loop(node.macro, items, (first, second), predicate, transform)


def _way(start: Step, fields: tuple[str, ...]) -> Step:
    """Return the step that goes from a value to what is within it."""
    cost = len(fields)

    def run(frame: Frame) -> Any:
        held = start(frame)
        frame.left -= cost
        for at, field in enumerate(fields, 1):
            if type(held) is dict:
                try:
                    held = held[field]
                except KeyError:
                    frame.left += cost - at
                    raise CelError(f"no such key: {field}") from None
            else:
                held = selected(held, field)
        return held

    return run


def _constant(value: Any) -> Step:
    return lambda frame: value


def _uncounted(step: Step, node: Node) -> Step:
    """Return a look-up that costs nothing; other steps stay as they are."""
    looked_up = node
    while isinstance(looked_up, Select) and not looked_up.test_only:
        looked_up = looked_up.operand
    if not isinstance(looked_up, Ident):
        return step

    def run(frame: Frame) -> Any:
        left = frame.left
        value = step(frame)
        frame.left = left
        return value

    return run


def _ident(node: Node) -> Ident:
    assert isinstance(node, Ident)
    return node


# Calls of functions of the tables

_ANY: tuple[type, ...] | None = None
Candidate = tuple[tuple["tuple[type, ...] | None", ...], Callable[..., Any], "Callable[..., int] | None", bool]


def _classes(found: Type) -> tuple[type, ...] | None:
    if found.kind in ("dyn", "parameter"):
        return _ANY
    if found.kind in CLASSES:
        return CLASSES[found.kind]
    return CLASSES.get(found.name) or authorizer.CLASSES[found.name]


@cache
def _implementations() -> Mapping[str, Callable[..., Any]]:
    parts = (functions_standard, functions_text, functions_lists, functions_kubernetes)
    return {name: apply for part in parts for name, apply in part.IMPLEMENTATIONS.items()}


@cache
def _candidate(overload: Overload) -> Candidate:
    """Return what an overload takes, what it does, what it costs, and whether it compares values."""
    classes = tuple(_classes(parameter) for parameter in overload.parameters)
    comparing = functions_lists.COMPARING.get(overload.id)
    apply = comparing if comparing is not None else _implementations()[overload.id]
    return classes, apply, COSTS.get(overload.id), comparing is not None


def _fits(values: list[Any], classes: tuple[tuple[type, ...] | None, ...]) -> bool:
    return len(values) == len(classes) and all(
        allowed is None or type(value) in allowed for value, allowed in zip(values, classes, strict=True)
    )


def _dispatching(steps: list[Step], candidates: list[Candidate], function: str) -> Step:
    def run(frame: Frame) -> Any:
        values = [step(frame) for step in steps]
        for classes, apply, cost, compares in candidates:
            if _fits(values, classes):
                frame.spend(1 if cost is None else cost(*values))
                return apply(frame, *values) if compares else apply(*values)
        raise no_overload(function)

    return run


def _unary(step: Step, candidate: Candidate, function: str) -> Step:
    (allowed,), apply, cost, compares = candidate
    if compares:
        return _dispatching([step], [candidate], function)

    def run(frame: Frame) -> Any:
        value = step(frame)
        if allowed is not None and type(value) not in allowed:
            raise no_overload(function)
        frame.spend(1 if cost is None else cost(value))
        return apply(value)

    return run


def _binary(one: Step, two: Step, candidate: Candidate, function: str) -> Step:
    (first, second), apply, cost, compares = candidate
    if compares:
        return _dispatching([one, two], [candidate], function)

    def run(frame: Frame) -> Any:
        left, right = one(frame), two(frame)
        if (first is not None and type(left) not in first) or (second is not None and type(right) not in second):
            raise no_overload(function)
        if cost is None:
            frame.left -= 1
            if frame.left < 0:
                raise LimitError(LIMIT_TEXT)
        else:
            frame.spend(cost(left, right))
        return apply(left, right)

    return run
