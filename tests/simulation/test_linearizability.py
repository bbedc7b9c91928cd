"""The checker of histories, against brute force and against histories that are known to be bad."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation import linearizability
from tests.simulation.linearizability import Answer, HistoryTooHardError, Kind, Operation, Swap, check

KEY = b"k"


def put(value: str, start: float, end: float | None, revision: int = 0, client: int = 1, key: bytes = KEY) -> Operation:
    output = None if end is None else Answer(revision=revision)
    return Operation(client, "put", key, value.encode(), output, start, end)


def get(value: str | None, start: float, end: float, revision: int = 0, header: int = 0, client: int = 2) -> Operation:
    output = Answer(value.encode() if value else None, revision=revision, header_revision=header)
    return Operation(client, "get", KEY, None, output, start, end)


def delete(found: bool | None, start: float, end: float | None = None, client: int = 3) -> Operation:
    return Operation(client, "delete", KEY, None, None if found is None else Answer(succeeded=found), start, end)


def swap(old: str | int | None, new: str, done: bool | None, start: float, end: float | None = None) -> Operation:
    given = Swap(new.encode(), expected=old.encode() if isinstance(old, str) else None)
    if isinstance(old, int):
        given = Swap(new.encode(), expected_revision=old)
    output = None if done is None else Answer(succeeded=done)
    return Operation(4, "compare-and-swap", KEY, given, output, start, end)


GOOD = {
    "nothing at all": [],
    "a put is seen": [put("a", 0, 1), get("a", 2, 3)],
    "a put under way may be seen or not": [put("a", 0, 9), get(None, 1, 2), get("a", 3, 4)],
    "an unknown put may be seen late": [put("a", 0, None), get(None, 5, 6), get("a", 7, 8)],
    "an unknown put may never be seen": [put("a", 0, None), get(None, 5, 6), get(None, 7, 8)],
    "concurrent puts in either order": [put("a", 0, 3), put("b", 1, 2), get("a", 4, 5)],
    "a delete that finds nothing": [delete(False, 0, 1), get(None, 2, 3)],
    "a swap from nothing": [swap(None, "a", True, 0, 1), get("a", 2, 3)],
    "an unknown swap between two others": [
        put("a", 0, 1),
        swap("a", "b", None, 1),
        swap("b", "c", True, 2, 3),
        get("c", 4, 5),
    ],
    "a swap by revision": [put("a", 0, 1, revision=7), swap(7, "b", True, 2, 3), get("b", 4, 5, revision=8)],
    "a swap by a revision that nobody was told": [put("a", 0, None), swap(7, "b", True, 2, 3), get("b", 4, 5)],
    "an unknown delete": [put("a", 0, 1), delete(None, 2), get("a", 3, 4), get(None, 5, 6)],
    "the edges of two spans meet": [put("a", 0, 1), put("b", 1, 2), get("a", 3, 4)],
}
BAD = {
    "a lost put": [put("a", 0, 1), get(None, 2, 3)],
    "a stale read": [put("a", 0, 1), put("b", 2, 3), get("a", 4, 5)],
    "reads that go back": [put("a", 0, 9), get("a", 1, 2), get(None, 3, 4)],
    "a value from nowhere": [put("a", 0, 1), get("b", 2, 3)],
    "a value from the future": [get("a", 0, 1), put("a", 2, 3)],
    "a put that took effect twice": [put("a", 0, 1), put("b", 2, 3), get("b", 4, 5), get("a", 6, 7)],
    "a delete that finds what is gone": [put("a", 0, 1), delete(True, 2, 3), delete(True, 4, 5)],
    "two swaps from one value": [put("a", 0, 1), swap("a", "b", True, 2, 5), swap("a", "c", True, 3, 4)],
    "a swap that failed for no reason": [put("a", 0, 1), swap("a", "b", False, 2, 3)],
    "an unknown put seen twice with another between": [
        put("a", 0, None),
        put("b", 1, 2),
        get("a", 3, 4),
        get("b", 5, 6),
        get("a", 7, 8),
    ],
    "a key whose revision goes back": [put("a", 0, 1, revision=7), put("a", 2, 3, revision=6)],
    "a revision that no put had": [put("a", 0, 1, revision=7), get("a", 2, 3, revision=8)],
    "the same value again, changed without a write": [
        put("a", 0, None),
        get("a", 2, 3, revision=7),
        get("a", 4, 5, revision=8),
    ],
    "a swap by a revision that was over": [
        put("a", 0, 1, revision=7),
        put("b", 2, 3, revision=8),
        swap(7, "c", True, 4, 5),
    ],
    "two keys whose revisions disagree with time": [
        put("a", 0, 1, revision=7),
        put("a", 2, 3, revision=6, key=b"other"),
    ],
    "a read of an older store": [put("a", 0, 1, revision=7, key=b"other"), get(None, 2, 3, header=6)],
    "one revision for two changes": [put("a", 0, 3, revision=7), put("b", 1, 2, revision=7, key=b"other")],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD.keys())
def test_histories_that_are_linearizable(history: list[Operation]) -> None:
    assert check(history), str(check(history))


@pytest.mark.parametrize("history", BAD.values(), ids=BAD.keys())
def test_histories_that_are_not(history: list[Operation]) -> None:
    verdict = check(history)
    assert not verdict
    assert verdict.counterexample
    assert "not linearizable: " in str(verdict)


# Brute force: every order of every choice of the unknown ones, on a model of its own.


def explained(order: Sequence[Operation]) -> bool:
    value: bytes | None = None
    for one in order:
        answer = one.output
        if one.kind == "put":
            assert isinstance(one.input, bytes)
            value = one.input
        elif one.kind == "get":
            if answer is not None and answer.value != value:
                return False
        elif one.kind == "delete":
            if answer is not None and answer.succeeded != (value is not None):
                return False
            value = None
        else:
            assert isinstance(one.input, Swap)
            matches = one.input.expected == value
            if answer is not None and answer.succeeded != matches:
                return False
            value = one.input.new if matches else value
    return True


def in_order_of_time(order: Sequence[Operation]) -> bool:
    return not any(
        later.returned_at is not None and later.output is not None and later.returned_at < earlier.called_at
        for earlier, later in itertools.combinations(order, 2)
    )


def brute_force(history: Sequence[Operation]) -> bool:
    known = [one for one in history if one.known]
    unknown = [one for one in history if not one.known]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            orders = itertools.permutations([*known, *chosen])
            if any(in_order_of_time(order) and explained(order) for order in orders):
                return True
    return False


VALUES = st.sampled_from(["a", "b"])
KINDS: list[Kind] = ["put", "get", "delete", "compare-and-swap"]


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    kind = draw(st.sampled_from(KINDS))
    start = draw(st.integers(0, 8))
    end = start + draw(st.integers(1, 5))
    known = draw(st.booleans()) or kind == "get"
    value = draw(VALUES)
    done = draw(st.booleans())
    if kind == "put":
        return put(value, start, end if known else None)
    if kind == "get":
        return get(draw(st.sampled_from(["a", "b", None])), start, end)
    if kind == "delete":
        return delete(done if known else None, start, end if known else None)
    return swap(draw(st.sampled_from(["a", "b", None])), value, done if known else None, start, end if known else None)


@given(st.lists(operations(), max_size=5))
def test_the_search_agrees_with_brute_force(history: list[Operation]) -> None:
    assert bool(check(history)) == brute_force(history)


@given(st.lists(operations(), min_size=4, max_size=5))
def test_counterexamples_are_small_and_bad_themselves(history: list[Operation]) -> None:
    verdict = check(history)
    if verdict:
        return
    assert not brute_force(verdict.counterexample)
    whole = {(one.called_at, one.kind, one.input) for one in history}
    assert {(one.called_at, one.kind, one.input) for one in verdict.counterexample} <= whole
    reads = [one for one in verdict.counterexample if one.kind == "get"]
    for read in reads:
        assert brute_force([one for one in verdict.counterexample if one is not read])


def made_history(seed: int, length: int) -> list[Operation]:
    """What four clients would see of a real register that numbers its changes."""
    chance = random.Random(seed)
    value: bytes | None = None
    revision = mod_revision = 1
    history: list[Operation] = []
    free_at = [0.0] * 4
    now = 0.0
    for at in range(length):
        client = chance.randrange(4)
        now = max(now + 1.0, free_at[client])
        start = max(free_at[client], now - chance.random() * 3)
        end = now + chance.random() * 3
        free_at[client] = end
        fresh = b"v%d" % at
        kind = chance.choice(["put", "get", "get", "delete", "compare-and-swap"])
        lost = chance.random() < 0.05
        if kind == "get":
            output = Answer(value, revision=mod_revision if value else 0, header_revision=revision)
            operation = Operation(client, "get", KEY, None, output, start, end)
        else:
            given: bytes | Swap | None = fresh if kind == "put" else None
            succeeded = kind == "put" or value is not None
            if kind == "compare-and-swap":
                given = Swap(fresh, expected_revision=mod_revision if value and chance.random() < 0.7 else 0)
                succeeded = given.expected_revision == (mod_revision if value else 0)
            effect = succeeded and not (lost and chance.random() < 0.5)
            if effect:
                revision += 1
                mod_revision = revision
                value = None if kind == "delete" else fresh
            told = revision if kind != "delete" and succeeded else 0
            output = Answer(succeeded=succeeded, revision=told, header_revision=revision)
            operation = Operation(client, kind, KEY, given, output, start, end)  # type: ignore[arg-type]
            if lost:
                operation = replace(operation, output=None)
        history.append(operation)
    return history


@pytest.mark.parametrize("seed", range(20))
def test_long_histories_of_a_real_register_pass(seed: int) -> None:
    assert check(made_history(seed, 300))


def test_a_single_wrong_read_in_a_long_history_is_found_and_shown_alone() -> None:
    history = [put(f"v{at}", at * 2, at * 2 + 1) for at in range(200)]
    history += [get(f"v{at}", at * 2 + 1.2, at * 2 + 1.8) for at in range(200)]
    history.append(get("v149", 301.3, 301.5))
    verdict = check(history)
    assert [one.input or one.output.value for one in verdict.counterexample if one.output] == [
        b"v149",
        b"v150",
        b"v149",
    ]
    text = str(verdict)
    assert "get k: v149" in text
    assert len(text.splitlines()) == 4


def test_a_history_that_is_too_hard_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizability, "STEPS_MAX", 100)
    hard = [put(f"v{at}", 0, None) for at in range(12)] + [get("other", 1, 2)]
    with pytest.raises(HistoryTooHardError):
        check(hard)
