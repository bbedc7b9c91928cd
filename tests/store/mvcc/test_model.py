"""The key space against a model that keeps every world: revision → {key: record}."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proto.etcd.kv_pb2 import KeyValue
from proto.etcd.rpc_pb2 import RangeRequest
from store.machine import Machine
from store.mvcc.interval import interval
from store.mvcc.watch import Delivery, WatchLimits, WatchOptions, WatchStream
from store.refusal import Reason, Refused
from tests.store.mvcc.requests import call, delete_range, put

KEYS = st.sampled_from([b"a", b"b", b"b/1", b"b/2", b"c", b"d"])
ENDS = st.sampled_from([b"", b"\0", b"b0", b"c", b"zz"])
VALUES = st.binary(max_size=3)


@dataclass(frozen=True)
class Item:
    """One key of one world."""

    value: bytes
    create: int
    mod: int
    version: int


World = dict[bytes, Item]


@dataclass
class Follower:
    """A watcher and what it has been sent."""

    stream: WatchStream
    key: bytes
    end: bytes
    start: int
    events: list[tuple[int, bytes, bytes | None]]
    is_cancelled: bool = False


class KeySpace(RuleBasedStateMachine):
    """Random writes, compactions, restarts from snapshots and readers of any time."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(WatchLimits(changes_max=3))
        self.machine.store.counted_changes_max = 4
        self.worlds: dict[int, World] = {1: {}}
        self.now = 1
        self.compacted = -1
        self.followers: list[Follower] = []

    def _write(self, world: World) -> None:
        self.now += 1
        self.worlds[self.now] = world

    @rule(key=KEYS, value=VALUES)
    def put(self, key: bytes, value: bytes) -> None:
        response = call(self.machine, put(key, value))
        old = self.worlds[self.now].get(key)
        main = self.now + 1
        item = Item(value, old.create if old else main, main, old.version + 1 if old else 1)
        self._write(self.worlds[self.now] | {key: item})
        assert response.header.revision == self.now

    @rule(key=KEYS, end=ENDS)
    def delete(self, key: bytes, end: bytes) -> None:
        response = call(self.machine, delete_range(key, end))
        world = self.worlds[self.now]
        doomed = {name for name in world if name in interval(key, end)}
        if doomed:
            self._write({name: item for name, item in world.items() if name not in doomed})
        assert (response.deleted, response.header.revision) == (len(doomed), self.now)

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        revision = data.draw(st.integers(max(1, self.compacted), self.now + 1))
        if self.compacted < revision <= self.now:
            self.machine.store.compact(revision)
            self.compacted = revision
            return
        with pytest.raises(Refused) as refused:
            self.machine.store.compact(revision)
        assert refused.value.reason == (Reason.FUTURE_REVISION if revision > self.now else Reason.COMPACTED)

    @rule(limit=st.integers(1, 4))
    def scrub(self, limit: int) -> None:
        self.machine.store.scrub(limit)

    @rule()
    def restore_from_own_snapshot(self) -> None:
        before = self.machine.store.hash(self.now)
        self.machine.restore(list(self.machine.snapshot()))
        assert self.machine.store.hash(self.now) == before

    @rule(data=st.data(), key=KEYS, end=ENDS, limit=st.integers(0, 4), count_only=st.booleans())
    def read(self, data: st.DataObject, key: bytes, end: bytes, limit: int, count_only: bool) -> None:
        revision = data.draw(st.integers(0, self.now + 1))
        request = RangeRequest(key=key, range_end=end, revision=revision, limit=limit, count_only=count_only)
        if revision and not self.compacted <= revision <= self.now:
            with pytest.raises(Refused) as refused:
                self.machine.store.range(request)
            assert refused.value.reason == (Reason.FUTURE_REVISION if revision > self.now else Reason.COMPACTED)
            return
        result = self.machine.store.range(request)
        world = self.worlds[revision or self.now]
        wanted = [(name, world[name]) for name in sorted(world) if name in interval(key, end)]
        shown = [] if count_only else wanted[: limit or None]
        assert result.count == len(wanted)
        assert result.more == (not count_only and 0 < limit < len(wanted))
        assert [_item(KeyValue.FromString(record)) for record in result.records] == shown

    @rule(data=st.data(), key=KEYS, end=ENDS)
    @precondition(lambda self: len(self.followers) < 4)
    def watch(self, data: st.DataObject, key: bytes, end: bytes) -> None:
        start = data.draw(st.integers(0, self.now + 2))
        if interval(key, end).is_empty:
            return
        stream = self.machine.watchers.open()
        assert stream.create(0, interval(key, end), start, WatchOptions(prev_kv=True)) == 0
        self.followers.append(Follower(stream, key, end, start or self.now + 1, []))

    @rule(data=st.data(), steps=st.integers(1, 5))
    @precondition(lambda self: self.followers)
    def pull(self, data: st.DataObject, steps: int) -> None:
        follower = data.draw(st.sampled_from(self.followers))
        for _ in range(steps):
            delivery = follower.stream.take()
            if delivery is not None:
                self._received(follower, delivery)

    def _received(self, follower: Follower, delivery: Delivery) -> None:
        if delivery.compact_revision:
            follower.is_cancelled = True
            next_missed = (follower.events[-1][0] + 1) if follower.events else follower.start
            assert next_missed <= delivery.compact_revision == self.compacted
            return
        assert delivery.changes or delivery.watch_id == -1
        for change in delivery.changes:
            follower.events.append((change.main, change.key, None if change.is_delete else change.record))

    @invariant()
    def sizes_agree(self) -> None:
        assert self.machine.store.current_revision == self.now

    def teardown(self) -> None:
        for follower in self.followers:
            while not follower.is_cancelled:
                delivery = follower.stream.take()
                if delivery is None and not follower.stream.is_busy:
                    break
                if delivery is not None:
                    self._received(follower, delivery)
            expected = list(self._changes(follower))
            got = [(main, name) for main, name, _ in follower.events]
            assert got == (expected[: len(got)] if follower.is_cancelled else expected)

    def _changes(self, follower: Follower) -> list[tuple[int, bytes]]:
        found = []
        for main in range(max(follower.start, 2), self.now + 1):
            old, new = self.worlds[main - 1], self.worlds[main]
            found += [
                (main, name)
                for name in sorted(old.keys() | new.keys())
                if old.get(name) != new.get(name) and name in interval(follower.key, follower.end)
            ]
        return found


def _item(kv: KeyValue) -> tuple[bytes, Item]:
    return kv.key, Item(kv.value, kv.create_revision, kv.mod_revision, kv.version)


TestKeySpace = KeySpace.TestCase
TestKeySpace.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
