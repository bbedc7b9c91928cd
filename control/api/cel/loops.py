"""The loops of expressions: ``all``, ``exists``, ``map`` and the others, each as one step.

They cost what the loops that they stand for would: a step more than what is asked of each item.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api.cel.errors import CelError, LimitError
from control.api.cel.frame import Frame, Step
from control.api.cel.functions_lists import inserted
from control.api.cel.sizes import LIST_COST
from control.api.cel.values import MapList, NoOverload, SetList, type_name

_LISTS = (list, SetList, MapList)
_GO_TYPES = {
    "int": "types.Int", "uint": "types.Uint", "double": "types.Double", "bool": "types.Bool", "string": "types.String",
    "bytes": "types.Bytes", "null_type": "types.Null", "google.protobuf.Timestamp": "types.Timestamp",
    "google.protobuf.Duration": "types.Duration",
}  # fmt: skip
Places = tuple[str, str]


def loop(macro: str, items: Step, places: Places, predicate: Step | None, transform: Step | None) -> Step:
    """Return the step of a loop by the name of its macro."""
    match macro:
        case "all" | "exists":
            assert predicate is not None
            return _quantified(items, places, predicate, decides=macro == "exists")
        case "exists_one":
            assert predicate is not None
            return _exists_one(items, places, predicate)
        case "list":
            assert transform is not None
            return _list(items, places, predicate, transform)
    assert transform is not None
    return _map(items, places, predicate, transform, by_entry=macro == "entry")


def _pairs(held: Any, places: Places) -> Iterable[Any]:
    """Return what the loop's variables take, one after the other: alone, or in pairs where there are two."""
    if type(held) is dict:
        return held.items() if places[1] else held
    if type(held) in _LISTS:
        return enumerate(held) if places[1] else held
    raise CelError(f"got '{_GO_TYPES.get(type_name(held), type_name(held))}', expected iterable type")


def _set(frame: Frame, places: Places, pair: Any) -> None:
    if places[1]:
        frame.values[places[0]], frame.values[places[1]] = pair
    else:
        frame.values[places[0]] = pair


def _holds(value: Any) -> bool:
    if type(value) is not bool:
        raise NoOverload("no such overload")
    return value


def _quantified(items: Step, places: Places, predicate: Step, *, decides: bool) -> Step:
    each = 4 if decides else 3

    def run(frame: Frame) -> Any:
        failure: CelError | None = None
        decided = False
        for pair in _pairs(items(frame), places):
            if decided:
                frame.spend(each - 1)
                break
            frame.spend(each)
            _set(frame, places, pair)
            try:
                decided = _holds(predicate(frame)) is decides
            except LimitError:
                raise
            except CelError as error:
                failure = failure or error
        frame.spend(1)
        if not decided and failure is not None:
            raise failure
        return decides if decided else not decides

    return run


def _exists_one(items: Step, places: Places, predicate: Step) -> Step:
    def run(frame: Frame) -> Any:
        count = 0
        for pair in _pairs(items(frame), places):
            _set(frame, places, pair)
            held = _holds(predicate(frame))
            if held:
                count += 1
                frame.spend(2)
        frame.spend(2)
        return count == 1

    return run


def _list(items: Step, places: Places, predicate: Step | None, transform: Step) -> Step:
    def run(frame: Frame) -> Any:
        made: list[Any] = []
        for pair in _pairs(items(frame), places):
            _set(frame, places, pair)
            if predicate is not None and not _holds(predicate(frame)):
                continue
            frame.spend(LIST_COST + 2)
            made.append(transform(frame))
        frame.spend(1)
        return made

    return run


def _map(items: Step, places: Places, predicate: Step | None, transform: Step, *, by_entry: bool) -> Step:
    def run(frame: Frame) -> Any:
        made: dict[Any, Any] = {}
        for pair in _pairs(items(frame), places):
            _set(frame, places, pair)
            if predicate is not None and not _holds(predicate(frame)):
                continue
            frame.spend(2 if by_entry else 3)
            value = transform(frame)
            if not by_entry:
                inserted(made, pair[0], value)
                continue
            if type(value) is not dict:
                raise NoOverload("no such overload")
            for key, item in value.items():
                inserted(made, key, item)
        frame.spend(1)
        return made

    return run
