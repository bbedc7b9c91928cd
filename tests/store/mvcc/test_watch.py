"""Watchers: filters, progress, bounds, cancellation."""

from __future__ import annotations

import pytest

from proto.etcd.kv_pb2 import Event
from store.machine import Machine
from store.mvcc.interval import Interval, interval
from store.mvcc.store import Change
from store.mvcc.watch import INVALID_WATCH_ID, Watchers, WatchLimits, WatchOptions, WatchStream
from tests.store.mvcc.requests import call, compact, delete_range, op_delete, op_put, put, txn

ALL = interval(b"\0", b"\0")


@pytest.fixture
def machine() -> Machine:
    return Machine(WatchLimits(changes_max=4))


def taken(stream: WatchStream) -> list[tuple[int, list[str]]]:
    """Everything due, as (watch id, changes)."""
    found = []
    while True:
        delivery = stream.take()
        if delivery is not None:
            found.append((delivery.watch_id, [show(change) for change in delivery.changes]))
        elif not stream.is_busy:
            return found


def show(change: Change) -> str:
    return f"{'-' if change.is_delete else '+'}{change.key.decode()}@{change.main}"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (WatchOptions(), ["+a@2", "-a@3"]),
        (WatchOptions(no_put=True), ["-a@3"]),
        (WatchOptions(no_delete=True), ["+a@2"]),
        (WatchOptions(no_put=True, no_delete=True), []),
    ],
    ids=["all", "no puts", "no deletions", "none"],
)
@pytest.mark.parametrize("start", [0, 1], ids=["as it happens", "from the past"])
def test_filters(machine: Machine, options: WatchOptions, expected: list[str], start: int) -> None:
    stream = machine.watchers.open()
    if start == 0:
        stream.create(0, ALL, 0, options)
    call(machine, put(b"a"))
    call(machine, delete_range(b"a"))
    if start:
        stream.create(0, ALL, start, options)
    assert [change for _, changes in taken(stream) for change in changes] == expected


def test_events_carry_what_they_replaced(machine: Machine) -> None:
    live, late = machine.watchers.open(), machine.watchers.open()
    live.create(0, ALL, 0, WatchOptions(prev_kv=True))
    for request in (put(b"a", b"1"), put(b"a", b"2"), delete_range(b"a")):
        call(machine, request)
    late.create(0, ALL, 2, WatchOptions(prev_kv=True))
    for stream in (live, late):
        delivery = stream.take()
        assert delivery is not None
        events = [Event.FromString(change.event(with_previous=True)) for change in delivery.changes]
        assert [event.HasField("prev_kv") for event in events] == [False, True, True]
        assert [event.prev_kv.value for event in events] == [b"", b"1", b"2"]
        assert [event.type for event in events] == [Event.PUT, Event.PUT, Event.DELETE]
        assert (events[2].kv.key, events[2].kv.mod_revision, events[2].kv.create_revision) == (b"a", 4, 0)


def test_a_transaction_is_delivered_whole_and_in_order(machine: Machine) -> None:
    call(machine, put(b"b"))
    stream = machine.watchers.open()
    stream.create(0, ALL, 0)
    call(machine, txn(then=(*(op_put(b"n%d" % number) for number in range(9)), op_delete(b"b"))))
    assert taken(stream) == [(0, [f"+n{number}@3" for number in range(9)] + ["-b@3"])]


def test_a_slow_stream_keeps_no_more_than_its_bound_and_misses_nothing(machine: Machine) -> None:
    stream = machine.watchers.open()
    stream.create(0, ALL, 0)
    for number in range(50):
        call(machine, put(b"%d" % number))
    assert stream.is_busy
    changes = [change for _, changes in taken(stream) for change in changes]
    assert changes == [f"+{number}@{number + 2}" for number in range(50)]
    call(machine, put(b"x"))
    assert taken(stream) == [(0, ["+x@52"])]


def test_a_slow_stream_keeps_no_more_bytes_than_its_bound() -> None:
    machine = Machine(WatchLimits(bytes_max=1000, delivery_bytes=900))
    stream = machine.watchers.open()
    stream.create(0, ALL, 0)
    for number in range(50):
        call(machine, put(b"%d" % number, b"x" * 300))
    assert stream.is_busy
    deliveries = taken(stream)
    assert [change for _, changes in deliveries for change in changes] == [f"+{n}@{n + 2}" for n in range(50)]
    assert max(len(changes) for _, changes in deliveries) <= 4


def test_a_reader_slower_than_compaction_is_cancelled(machine: Machine) -> None:
    stream = machine.watchers.open()
    stream.create(0, ALL, 0)
    stream.create(0, interval(b"other", b""), 0)
    for number in range(50):
        call(machine, put(b"%d" % number))
    call(machine, compact(40))
    delivery = stream.take()
    assert delivery is not None
    assert (delivery.watch_id, delivery.compact_revision, delivery.changes) == (0, 40, ())
    assert len(stream) == 1
    assert taken(stream) == []


def test_progress_waits_until_all_have_caught_up(machine: Machine) -> None:
    call(machine, put(b"a"))
    stream = machine.watchers.open()
    stream.request_progress()
    assert taken(stream) == [], "a stream without watchers has no progress"
    stream.create(0, ALL, 1)
    stream.create(0, interval(b"b", b""), 0)
    stream.request_progress()
    call(machine, put(b"b"))
    deliveries = taken(stream)
    assert deliveries[-1] == (INVALID_WATCH_ID, [])
    assert sorted(change for _, changes in deliveries for change in changes) == ["+a@2", "+b@3", "+b@3"]


def test_periodic_progress_is_for_the_quiet(machine: Machine) -> None:
    stream = machine.watchers.open()
    stream.create(1, interval(b"a", b""), 0, WatchOptions(progress_notify=True))
    stream.create(2, interval(b"b", b""), 0, WatchOptions(progress_notify=True))
    stream.create(3, interval(b"c", b""), 0)
    call(machine, put(b"a"))
    assert taken(stream) == [(1, ["+a@2"])]
    stream.tick()
    assert taken(stream) == [(2, [])]
    stream.tick()
    assert taken(stream) == [(1, []), (2, [])]


def test_ids_are_the_clients_choice_or_ours(machine: Machine) -> None:
    stream = machine.watchers.open()
    assert stream.create(1, ALL, 0) == 1
    assert stream.create(1, ALL, 0) is None
    assert [stream.create(0, ALL, 0) for _ in range(3)] == [0, 2, 3]
    assert stream.cancel(2)
    assert not stream.cancel(2)
    call(machine, put(b"a"))
    assert sorted(watch_id for watch_id, _ in taken(stream)) == [0, 1, 3]


def test_a_watch_of_the_future_begins_there(machine: Machine) -> None:
    stream = machine.watchers.open()
    stream.create(0, ALL, 4)
    for key in (b"a", b"b", b"c", b"d"):
        call(machine, put(key))
    assert [change for _, changes in taken(stream) for change in changes] == ["+c@4", "+d@5"]


@pytest.mark.parametrize(
    "key", [b"a", b"b", b"bb", b"c", b"d", b"zz"], ids=lambda key: key.decode() if isinstance(key, bytes) else ""
)
def test_ranges_that_overlap_are_all_found(machine: Machine, key: bytes) -> None:
    ranges = [ALL, Interval(b"a", b"c"), Interval(b"b", b"bb"), Interval(b"bb", None), Interval(b"c", b"c\0")]
    streams = []
    for wanted in ranges:
        stream = machine.watchers.open()
        stream.create(0, wanted, 0)
        streams.append(stream)
    call(machine, put(key))
    assert [bool(taken(stream)) for stream in streams] == [key in wanted for wanted in ranges]
    machine.watchers.close(streams[1])
    call(machine, put(key))
    left = [stream for stream in streams if stream is not streams[1]]
    assert [bool(taken(stream)) for stream in left] == [key in wanted for wanted in ranges if wanted != ranges[1]]


def test_watchers_go_on_after_a_snapshot_from_the_leader(machine: Machine) -> None:
    leader = Machine()
    for number in range(5):
        call(leader, put(b"%d" % number))
    for number in range(2):
        call(machine, put(b"%d" % number))
    stream = machine.watchers.open()
    stream.create(0, ALL, 0)
    machine.restore(leader.snapshot())
    assert [change for _, changes in taken(stream) for change in changes] == ["+2@4", "+3@5", "+4@6"]
    assert isinstance(machine.watchers, Watchers)
