"""A progress notice promises that everything up to its revision has been told, whatever else goes on."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from store.machine import Machine
from store.mvcc.interval import Interval, interval
from store.mvcc.watch import INVALID_WATCH_ID, Delivery, WatchLimits, WatchOptions, WatchStream
from tests.store.mvcc.requests import call, compact, delete_range, put

ALL = interval(b"\0", b"\0")
KEYS = (b"a", b"b", b"c")
RANGES = (ALL, interval(b"a", b""), interval(b"b", b"d"))


@dataclass
class Watch:
    """What a watcher of the model still has to be told."""

    wanted: Interval
    first: int
    options: WatchOptions
    told: int = 0
    """Revision up to which everything has come."""


@dataclass
class Client:
    """One stream, and what it has been promised."""

    stream: WatchStream
    watches: dict[int, Watch] = field(default_factory=dict)
    notices: int = 0


class World:
    """A machine, two streams, and every change ever made."""

    def __init__(self) -> None:
        self.machine = Machine(WatchLimits(changes_max=3, bytes_max=400, delivery_bytes=60))
        self.clients = [Client(self.machine.watchers.open()) for _ in range(2)]
        self.changes: list[tuple[int, bytes, bool]] = []

    @property
    def revision(self) -> int:
        return self.machine.store.current_revision

    def write(self, key: bytes, *, is_delete: bool) -> None:
        before = self.revision
        call(self.machine, delete_range(key) if is_delete else put(key, b"x" * 20))
        if self.revision > before:
            self.changes.append((self.revision, key, is_delete))

    def watch(self, client: Client, wanted: Interval, start: int, options: WatchOptions) -> None:
        first = start if start > 0 else self.revision + 1
        watch_id = client.stream.create(0, wanted, start, options)
        assert watch_id is not None
        client.watches[watch_id] = Watch(wanted, first, options)

    def take(self, client: Client) -> bool:
        """Take one delivery and check it; return whether there may be more."""
        delivery = client.stream.take()
        if delivery is None:
            return client.stream.is_busy
        if delivery.watch_id == INVALID_WATCH_ID:
            client.notices += 1
            for watch in client.watches.values():
                self.check_all_told(watch, delivery.revision)
        elif delivery.compact_revision:
            del client.watches[delivery.watch_id]
        elif not delivery.changes:
            self.check_all_told(client.watches[delivery.watch_id], delivery.revision)
        else:
            self.note(client.watches[delivery.watch_id], delivery)
        return True

    def note(self, watch: Watch, delivery: Delivery) -> None:
        first, last = delivery.changes[0].main, delivery.changes[-1].main
        missed = [change for change in self.due(watch, first - 1) if change[0] > watch.told]
        assert not missed, "no change is passed over"
        watch.told = last

    def due(self, watch: Watch, revision: int) -> list[tuple[int, bytes, bool]]:
        return [
            change
            for change in self.changes
            if watch.first <= change[0] <= revision
            and change[1] in watch.wanted
            and not (watch.options.no_delete if change[2] else watch.options.no_put)
        ]

    def check_all_told(self, watch: Watch, revision: int) -> None:
        assert revision <= self.revision
        assert watch.first <= revision + 1, "a watcher of the future has made no progress"
        late = [change for change in self.due(watch, revision) if change[0] > watch.told]
        assert not late, f"promised {revision}, but {late} comes after it"


CLIENTS = st.integers(0, 1)
STEPS = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(KEYS), st.booleans()),
    st.tuples(st.just("write"), st.sampled_from(KEYS), st.just(value=False)),
    st.tuples(st.just("watch"), CLIENTS, st.sampled_from(RANGES), st.integers(-8, 3), st.booleans()),
    st.tuples(st.just("ask"), CLIENTS),
    st.tuples(st.just("tick"), CLIENTS),
    st.tuples(st.just("take"), CLIENTS),
    st.tuples(st.just("compact"), st.integers(0, 6)),
    st.tuples(st.just("cancel"), CLIENTS),
)


@settings(max_examples=200)
@given(st.lists(STEPS, min_size=10, max_size=60))
def test_a_notice_never_comes_before_what_it_speaks_of(steps: list[tuple[object, ...]]) -> None:
    world = World()
    for step in steps:
        match step:
            case ("write", bytes(key), bool(is_delete)):
                world.write(key, is_delete=is_delete)
            case ("watch", int(number), Interval() as wanted, int(offset), bool(notify)):
                start = max(0, world.revision + offset) if offset else 0
                world.watch(world.clients[number], wanted, start, WatchOptions(progress_notify=notify))
            case ("ask", int(number)):
                world.clients[number].stream.request_progress()
            case ("tick", int(number)):
                world.clients[number].stream.tick()
            case ("take", int(number)):
                world.take(world.clients[number])
            case ("compact", int(back)) if world.revision - back > max(world.machine.store.compact_revision, 0):
                call(world.machine, compact(world.revision - back))
            case ("cancel", int(number)) if world.clients[number].watches:
                client = world.clients[number]
                watch_id = next(iter(client.watches))
                assert client.stream.cancel(watch_id)
                del client.watches[watch_id]
    for client in world.clients:
        before = client.notices
        client.stream.request_progress()
        while world.take(client):
            pass
        waits_for_the_future = any(watch.first > world.revision + 1 for watch in client.watches.values())
        has_come = client.notices > before
        assert has_come == (bool(client.watches) and not waits_for_the_future), "asked for, it comes in the end"


@pytest.mark.parametrize("behind", [False, True], ids=["changes wait", "history is read"])
def test_a_slow_stream_is_told_its_progress_last_and_holds_up_no_other(behind: bool) -> None:
    machine = Machine(WatchLimits(changes_max=2 if behind else 100))
    slow, quick = machine.watchers.open(), machine.watchers.open()
    for stream in (slow, quick):
        stream.create(0, interval(b"a" if stream is slow else b"z", b""), 0)
    for _ in range(5):
        call(machine, put(b"a"))
    for stream in (slow, quick):
        stream.request_progress()
    assert quick.take() == Delivery(INVALID_WATCH_ID, 6)
    told: list[int] = []
    while (delivery := slow.take()) is not None or slow.is_busy:
        if delivery is not None:
            told += [change.main for change in delivery.changes] or [delivery.watch_id]
    assert told == [2, 3, 4, 5, 6, INVALID_WATCH_ID]


def test_a_stream_without_watchers_has_no_progress() -> None:
    machine = Machine()
    stream = machine.watchers.open()
    stream.request_progress()
    assert stream.take() is None
    stream.create(0, ALL, 0)
    assert stream.take() is None, "the request before is not kept"
