"""Operators as steps: those that do not need the values of both sides, and those that take values of any type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from control.api.cel import functions_lists
from control.api.cel.errors import CelError, LimitError
from control.api.cel.frame import Frame, Step
from control.api.cel.runtimecosts import smaller
from control.api.cel.values import NONE, Late, MapList, NoOverload, Optional, SetList, contains, equal

LISTS = (list, SetList, MapList)


def has(held: Any, field: str, *, of_object: bool = False) -> bool:
    """Tell whether a field is there; one of an object that is null is not."""
    if type(held) is dict:
        return field in held and not (of_object and held[field] is None)
    if type(held) is Optional:
        return held.has and has(held.value, field, of_object=of_object)
    return isinstance(held, Late)


def selected(held: Any, field: str) -> Any:
    """Return a field of an optional; raises CelError for what has no fields."""
    if type(held) is Optional:
        found = held.value
        return Optional(has=True, value=found[field]) if held.has and has(found, field) else NONE
    if isinstance(held, Late):
        return held.find(field)
    if held is None:
        raise CelError(f"no such key: {field}")
    raise NoOverload("no such overload")


def no_overload(function: str) -> NoOverload:
    """Return the fault of a call of a function that does not take such values."""
    # Operators are told without their names.
    return NoOverload(f"no such overload: {function}" if function[:1].isalpha() else "no such overload")


def in_constants(step: Step, constants: list[Any]) -> Step:
    """Return the step that looks for a value among constants, which costs nothing."""
    return lambda frame: contains(constants, step(frame), frame)


def _and(one: Step, two: Step) -> Step:
    return _logical(one, two, decides=False)


def _or(one: Step, two: Step) -> Step:
    return _logical(one, two, decides=True)


def _logical(one: Step, two: Step, *, decides: bool) -> Step:
    """Return an operator for which one side may decide, even where the other fails."""

    def run(frame: Frame) -> Any:
        failure: CelError | None = None
        left: Any = None
        try:
            left = one(frame)
            if left is decides:
                return decides
            if type(left) is not bool:
                failure = NoOverload("no such overload")
        except LimitError:
            raise
        except CelError as error:
            failure = error
        right = two(frame)
        if right is decides:
            return decides
        if failure is not None:
            raise failure
        if type(right) is not bool:
            raise NoOverload("no such overload")
        return not decides

    return run


def _not(step: Step) -> Step:
    def run(frame: Frame) -> Any:
        value = step(frame)
        if type(value) is not bool:
            raise NoOverload("no such overload")
        frame.left -= 1
        return not value

    return run


def _conditional(test: Step, then: Step, otherwise: Step) -> Step:
    def run(frame: Frame) -> Any:
        value = test(frame)
        if type(value) is not bool:
            raise NoOverload("no such overload")
        return then(frame) if value else otherwise(frame)

    return run


def _equality(*, wanted: bool) -> Callable[[Step, Step], Step]:
    def make(one: Step, two: Step) -> Step:
        def run(frame: Frame) -> Any:
            left, right = one(frame), two(frame)
            frame.spend(smaller(left, right))
            return equal(left, right, frame) is wanted

        return run

    return make


def _in(one: Step, two: Step) -> Step:
    def run(frame: Frame) -> Any:
        sought, held = one(frame), two(frame)
        if type(held) is dict:
            frame.spend(1)
            return _is_key(held, sought)
        if type(held) in LISTS:
            frame.spend(len(held))
            return contains(held, sought, frame)
        raise no_overload("@in")

    return run


def _is_key(held: dict[Any, Any], key: Any) -> bool:
    try:
        return key in held
    except TypeError:
        return False


def _indexed(held: Any, index: Any) -> Any:
    """Return what stands at an index; raises CelError where nothing does."""
    if type(held) is dict:
        try:
            return held[index]
        except (KeyError, TypeError):
            raise CelError(f"no such key: {index}") from None
    if type(held) in LISTS:
        if isinstance(index, float) and index.is_integer():
            index = int(index)
        if isinstance(index, bool) or not isinstance(index, int):
            raise NoOverload("no such overload")
        if not 0 <= index < len(held):
            raise CelError(f"index out of bounds: {index}")
        return held[index]
    raise no_overload("_[_]")


def _index(one: Step, two: Step) -> Step:
    def run(frame: Frame) -> Any:
        held, index = one(frame), two(frame)
        frame.left -= 1
        if type(held) is Optional:
            return _optionally_indexed(held, index)
        return _indexed(held, index)

    return run


def _optional_index(one: Step, two: Step) -> Step:
    def run(frame: Frame) -> Any:
        held, index = one(frame), two(frame)
        frame.left -= 1
        return _optionally_indexed(held if type(held) is Optional else Optional(has=True, value=held), index)

    return run


def _optionally_indexed(held: Optional, index: Any) -> Any:
    if not held.has:
        return NONE
    try:
        return Optional(has=True, value=_indexed(held.value, index))
    except NoOverload:
        raise
    except CelError:
        return NONE


def _optional_select(one: Step, field: Step) -> Step:
    def run(frame: Frame) -> Any:
        held = one(frame)
        frame.left -= 1
        return selected(held if type(held) is Optional else Optional(has=True, value=held), field(frame))

    return run


def _optional_or(one: Step, two: Step) -> Step:
    def run(frame: Frame) -> Any:
        held = one(frame)
        if type(held) is not Optional:
            raise NoOverload("no such overload")
        return held if held.has else two(frame)

    return run


def _optional_or_value(one: Step, two: Step) -> Step:
    def run(frame: Frame) -> Any:
        held = one(frame)
        if type(held) is not Optional:
            raise NoOverload("no such overload")
        return held.value if held.has else two(frame)

    return run


def added_lists(one: Step, two: Step) -> Step:
    """Return the step that puts two lists together."""

    def run(frame: Frame) -> Any:
        left, right = one(frame), two(frame)
        if type(left) not in LISTS or type(right) not in LISTS:
            raise no_overload("_+_")
        frame.spend(1)
        frame.walk(len(left) + len(right))
        return functions_lists.joined(frame, left, right)

    return run


SPECIAL: dict[str, Callable[..., Step]] = {
    "_&&_": _and, "_||_": _or, "!_": _not, "_?_:_": _conditional, "_==_": _equality(wanted=True),
    "_!=_": _equality(wanted=False), "@in": _in, "_[_]": _index, "_[?_]": _optional_index, "_?._": _optional_select,
    "or": _optional_or, "orValue": _optional_or_value,
}  # fmt: skip
"""By function; each is given the steps of its arguments."""
