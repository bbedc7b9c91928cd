"""Tells whether a history of clients' operations could have come from one copy of the data (linearizability).

Theory of operation. Each key is a register of its own, so each is checked by itself (a history is linearizable when
all its keys are). The search is that of Wing and Gong with Lowe's memory: take any operation that had been called
before the first one still open had returned, let it take effect on the model, go on with the rest; never visit the
same set of operations with the same state of the register twice. An operation whose outcome its client does not know
may take effect at any time after its call, or never.

etcd numbers its changes, and answers carry such revisions; where a history gives them they are checked too: a key's
revision grows with each change of it, and over all keys the revisions agree with the order of time.

A counterexample is made small by steps that keep it one: cut what came after, leave reads out, forget answers, leave
out writes that were certainly overwritten before anybody looked. Every step asks the search again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["put", "get", "delete", "compare-and-swap"]

STEPS_MAX = 2_000_000
"""Steps of one search, before a history counts as too hard."""


class HistoryTooHardError(Exception):
    """The search would take too long: fewer clients a key, or fewer unknown outcomes, are needed."""


@dataclass(frozen=True)
class Swap:
    """Input of a compare-and-swap: put ``new`` where the key holds what is expected; None is "no such key"."""

    new: bytes
    expected: bytes | None = None
    expected_revision: int | None = None
    """Compare the revision of the key's last change instead; 0 is "no such key"."""


@dataclass(frozen=True)
class Answer:
    """Output of an operation."""

    value: bytes | None = None
    """What a get saw, None where there was no such key."""
    succeeded: bool = True
    """Whether a compare-and-swap put its value, or a delete found its key."""
    revision: int = 0
    """The key's mod_revision as a get saw it or a write made it; 0 where it is not told."""
    header_revision: int = 0
    """The store's revision in the answer's header; 0 where it is not told."""


@dataclass(frozen=True)
class Operation:
    """What one client did; times are of one clock.

    An operation that certainly did not take effect belongs into no history; leave it out.
    """

    client: int | str
    kind: Kind
    key: bytes
    input: bytes | Swap | None
    output: Answer | None
    """None: the client does not know the outcome."""
    called_at: float
    returned_at: float | None = None

    @property
    def known(self) -> bool:
        """Whether the client knows the outcome."""
        return self.output is not None and self.returned_at is not None

    def __str__(self) -> str:
        end = f"{self.returned_at:.6f}" if self.known else "?"
        return f"[{self.called_at:.6f}, {end}] {self.client}: {self.kind} {_text(self.key)}{_said(self)}"


@dataclass(frozen=True)
class Verdict:
    """What a check found."""

    linearizable: bool
    reason: str = ""
    counterexample: tuple[Operation, ...] = ()
    """A small part of the history that is impossible already."""

    def __bool__(self) -> bool:
        return self.linearizable

    def __str__(self) -> str:
        if self.linearizable:
            return "linearizable"
        return "\n".join((f"not linearizable: {self.reason}", *render(self.counterexample)))


@dataclass(frozen=True)
class _Register:
    """One key: its value, and what is known of the revision that made it."""

    value: bytes | None = None
    revision: int = 0
    """0 where it is not known."""
    above: int = 0
    """The revision is higher than this one."""


def check(operations: Sequence[Operation]) -> Verdict:
    """Check a history; raises HistoryTooHardError where the search takes too long."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in operations:
        by_key[operation.key].append(operation)
    for key in sorted(by_key):
        history = by_key[key]
        if not _possible(history):
            return Verdict(False, f"no order of these explains {_text(key)}", tuple(_smaller(history)))
    return _check_revisions(operations)


def render(operations: Sequence[Operation], width: int = 48) -> Iterator[str]:
    """Draw operations below each other as spans of time."""
    if not operations:
        return
    times = sorted({time for one in operations for time in (one.called_at, one.returned_at) if time is not None})
    # Places stand for the order of events, not for lengths of time: that is what the check goes by.
    place = {time: at * (width - 1) // max(len(times) - 1, 1) for at, time in enumerate(times)}
    clients = max(len(str(one.client)) for one in operations)
    for one in sorted(operations, key=lambda one: one.called_at):
        start = place[one.called_at]
        end = place[one.returned_at] if one.known and one.returned_at is not None else width - 1
        last = "]" if one.known else "?"
        bar = " " * start + "[" + "-" * max(end - start - 1, 0) + (last if end > start else "")
        times_said = f"{one.called_at:.6f} .. {one.returned_at:.6f}" if one.returned_at else f"{one.called_at:.6f} ..?"
        yield f"{one.client!s:>{clients}} {bar:<{width}} {one.kind} {_text(one.key)}{_said(one)}  ({times_said})"


# The model.


def _after(register: _Register, operation: Operation) -> list[_Register]:
    """Return the states in which an operation can leave the register; none where its answer is impossible."""
    output = operation.output if operation.known else None
    match operation.kind:
        case "put":
            assert isinstance(operation.input, bytes)
            return _written(register, operation.input, output)
        case "get":
            return _seen(register, output)
        case "delete":
            if output is not None and output.succeeded != (register.value is not None):
                return []
            if register.value is None:
                return [register]
            return [_Register(None, 0, max(register.revision, register.above))]
        case "compare-and-swap":
            assert isinstance(operation.input, Swap)
            return _swapped(register, operation.input, output)


def _written(register: _Register, value: bytes, output: Answer | None) -> list[_Register]:
    before = max(register.revision, register.above)
    revision = output.revision if output is not None else 0
    if revision and revision <= before:
        return []
    return [_Register(value, revision, 0 if revision else before)]


def _seen(register: _Register, output: Answer | None) -> list[_Register]:
    if output is None:
        return [register]
    if output.value != register.value:
        return []
    if not output.revision or register.value is None:
        return [register]
    if register.revision:
        return [register] if register.revision == output.revision else []
    return [_Register(register.value, output.revision)] if output.revision > register.above else []


def _swapped(register: _Register, swap: Swap, output: Answer | None) -> list[_Register]:
    states = []
    for state, matches in _compared(register, swap):
        if output is not None and output.succeeded != matches:
            continue
        states.extend(_written(state, swap.new, output) if matches else [state])
    return states


def _compared(register: _Register, swap: Swap) -> Iterator[tuple[_Register, bool]]:
    """Yield what the comparison can have said, with what would then be known of the register."""
    expected = swap.expected_revision
    if expected is None:
        yield register, register.value == swap.expected
    elif register.value is None:
        yield register, expected == 0
    elif register.revision:
        yield register, register.revision == expected
    else:
        if expected > register.above:
            yield _Register(register.value, expected), True
        yield register, False


# The search.


def _possible(history: Sequence[Operation]) -> bool:
    """Search for an order of one key's operations that explains all answers."""
    known = sorted((one for one in history if one.known), key=lambda one: one.called_at)
    unknown = sorted((one for one in history if not one.known and one.kind != "get"), key=lambda one: one.called_at)
    start = (0, 0, 0, _Register())
    seen = {start}
    stack = [start]
    steps = 0
    while stack:
        first, done, used, register = stack.pop()
        if first == len(known):
            return True
        steps += 1
        if steps > STEPS_MAX:
            raise HistoryTooHardError(f"{len(history)} operations of {_text(history[0].key)}")
        for node in _successors(known, unknown, first, done, used, register):
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return False


def _successors(
    known: Sequence[Operation], unknown: Sequence[Operation], first: int, done: int, used: int, register: _Register
) -> Iterator[tuple[int, int, int, _Register]]:
    """Yield where one more operation leads.

    ``done`` has a bit for each known operation from ``first`` on, ``used`` one for each unknown one.
    """
    first_return = float("inf")
    candidates = []
    for place in range(first, len(known)):
        operation = known[place]
        if operation.called_at > first_return:
            break
        if not done >> (place - first) & 1:
            assert operation.returned_at is not None
            first_return = min(first_return, operation.returned_at)
            candidates.append(place)
    for place, operation in enumerate(unknown):
        if operation.called_at > first_return:
            break
        if not used >> place & 1:
            for state in _after(register, operation):
                # Without an effect now it may as well come later.
                if state != register:
                    yield first, done, used | 1 << place, state
    # The last that is yielded is tried first: operations mostly take effect in the order of their calls.
    for place in reversed(candidates):
        for state in _after(register, known[place]):
            now_first, now_done = first, done | 1 << (place - first)
            while now_done & 1:
                now_first, now_done = now_first + 1, now_done >> 1
            yield now_first, now_done, used, state


# Counterexamples.


def _smaller(history: Sequence[Operation]) -> list[Operation]:
    """Return a small part of an impossible history that is impossible too, for a reason of the whole."""
    left = _shortest_prefix(sorted(history, key=lambda one: one.called_at))
    size = max(len(left) // 2, 1)
    while size:
        start = 0
        while start < len(left):
            kept = [one for at, one in enumerate(left) if not (start <= at < start + size and _only_looks(one))]
            if len(kept) < len(left) and not _possible(kept):
                left = kept
            else:
                start += size
        size //= 2
    left = _without_overwritten(left)
    for at, one in enumerate(left):
        forgotten = [*left[:at], replace(one, output=None, returned_at=None), *left[at + 1 :]]
        if one.known and not _only_looks(one) and not _possible(forgotten):
            left = forgotten
    # What is left of unknown writes, and nobody saw, explains nothing.
    seen = _values_seen(left)
    shown = [one for one in left if one.known or _value(one) in seen]
    return left if _possible(shown) else shown


def _shortest_prefix(history: list[Operation]) -> list[Operation]:
    """Cut an impossible history at the first return that makes it impossible."""
    returns = sorted(one.returned_at for one in history if one.known and one.returned_at is not None)
    low, high = 0, len(returns) - 1
    while low < high:
        middle = (low + high) // 2
        if _possible(_until(history, returns[middle])):
            low = middle + 1
        else:
            high = middle
    return _until(history, returns[low])


def _until(history: list[Operation], end: float) -> list[Operation]:
    """Return what was known at a time."""
    return [
        one if one.returned_at is not None and one.returned_at <= end else replace(one, output=None, returned_at=None)
        for one in history
        if one.called_at <= end
    ]


def _only_looks(operation: Operation) -> bool:
    """Tell whether an operation certainly changed nothing, so that a history without it allows no less."""
    if operation.kind == "get":
        return True
    return operation.kind != "put" and operation.output is not None and not operation.output.succeeded


def _without_overwritten(history: list[Operation]) -> list[Operation]:
    """Leave out writes after which another put ended before anybody looked; values that somebody saw stay."""
    lookers = [one.called_at for one in history if one.known and one.kind != "put"]
    first_look = min(lookers, default=float("inf"))
    last_start = max(
        (one.called_at for one in history if one.known and one.kind == "put" and (one.returned_at or 0.0) < first_look),
        default=float("-inf"),
    )
    seen = _values_seen(history)
    kept = [
        one
        for one in history
        if not one.known or one.kind != "put" or (one.returned_at or 0.0) >= last_start or one.input in seen
    ]
    return history if _possible(kept) else kept


def _values_seen(history: Sequence[Operation]) -> set[bytes | None]:
    seen = {one.output.value for one in history if one.output is not None and one.kind == "get"}
    return seen | {one.input.expected for one in history if isinstance(one.input, Swap)}


def _value(operation: Operation) -> bytes | None:
    return operation.input.new if isinstance(operation.input, Swap) else operation.input


# Revisions over all keys.


def _check_revisions(operations: Sequence[Operation]) -> Verdict:
    """Check that revisions agree with time: later answers never show an earlier store, and each change is new."""
    told = [(one, _header_revision(one)) for one in operations if one.known]
    by_call = sorted(((one, revision) for one, revision in told if revision), key=lambda pair: pair[0].called_at)
    by_return = sorted(by_call, key=lambda pair: pair[0].returned_at or 0.0)
    latest: tuple[Operation, int] | None = None
    returned = 0
    for one, revision in by_call:
        while (by_return[returned][0].returned_at or 0.0) < one.called_at:
            if latest is None or by_return[returned][1] > latest[1]:
                latest = by_return[returned]
            returned += 1
        if latest is not None and revision < latest[1] + _changes(one):
            return Verdict(False, "revisions go back in time", (latest[0], one))
    made: dict[int, Operation] = {}
    for one, revision in by_call:
        if _changes(one) and made.setdefault(revision, one) is not one:
            return Verdict(False, f"two changes made revision {revision}", (made[revision], one))
    return Verdict(True)


def _header_revision(operation: Operation) -> int:
    output = operation.output
    assert output is not None
    return output.header_revision or (output.revision if _changes(operation) else 0)


def _changes(operation: Operation) -> bool:
    assert operation.output is not None
    return operation.kind != "get" and operation.output.succeeded


# Words.


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _said(operation: Operation) -> str:
    given = operation.input
    if isinstance(given, Swap):
        wanted = (
            f"revision {given.expected_revision}" if given.expected_revision is not None else _shown(given.expected)
        )
        said = f" {wanted} -> {_shown(given.new)}"
    else:
        said = f" {_shown(given)}" if given is not None else ""
    output = operation.output
    if output is None or not operation.known:
        return f"{said}: outcome unknown"
    if operation.kind == "get":
        said += f": {_shown(output.value)}"
    elif not output.succeeded:
        said += ": refused"
    return said + (f" at revision {output.revision}" if output.revision else "")


def _shown(value: bytes | None) -> str:
    return "nothing" if value is None else _text(value)
