"""Watches through the gRPC door: one stream, many watchers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from tests.store.api.conftest import Member, start
from tests.store.mvcc.requests import op_put

ALL: dict[str, Any] = {"key": b"\0", "range_end": b"\0"}


class Watching:
    """A client's watch stream, read with a deadline."""

    def __init__(self, member: Member, **options: Any) -> None:
        self.stream = member.watch.Watch(**options)

    async def create(self, **options: Any) -> pb.WatchResponse:
        await self.stream.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(**options)))
        return await self.read()

    async def read(self) -> pb.WatchResponse:
        async with asyncio.timeout(10):
            response = await self.stream.read()
        assert isinstance(response, pb.WatchResponse)
        return response


async def test_a_watcher_is_announced_before_its_first_change(member: Member) -> None:
    await member.kv.Put(pb.PutRequest(key=b"a", value=b"1"))
    watching = Watching(member)
    created = await watching.create(**ALL, start_revision=2)
    assert (created.created, created.watch_id, created.header.revision) == (True, 0, 2)
    event = (await watching.read()).events[0]
    assert (event.kv.key, event.kv.value) == (b"a", b"1")
    await member.kv.Put(pb.PutRequest(key=b"b"))
    assert (await watching.read()).events[0].kv.key == b"b"


async def test_a_cancelled_watcher_is_told_so_and_hears_no_more(member: Member) -> None:
    watching = Watching(member)
    await watching.create(key=b"a")
    await watching.create(key=b"b")
    await watching.stream.write(pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=0)))
    cancelled = await watching.read()
    assert (cancelled.canceled, cancelled.watch_id, cancelled.compact_revision) == (True, 0, 0)
    await member.kv.Put(pb.PutRequest(key=b"a"))
    await member.kv.Put(pb.PutRequest(key=b"b"))
    assert (await watching.read()).watch_id == 1


async def test_what_is_compacted_cannot_be_watched(member: Member) -> None:
    for _ in range(5):
        await member.kv.Put(pb.PutRequest(key=b"a"))
    await member.kv.Compact(pb.CompactionRequest(revision=4))
    watching = Watching(member)
    assert not (await watching.create(**ALL, start_revision=2)).canceled
    cancelled = await watching.read()
    assert (cancelled.canceled, cancelled.compact_revision, cancelled.watch_id) == (True, 4, 0)
    await watching.create(**ALL, start_revision=4)
    assert len((await watching.read()).events) == 3


async def test_progress_on_request(member: Member) -> None:
    watching = Watching(member)
    await watching.create(**ALL)
    await member.kv.Put(pb.PutRequest(key=b"a"))
    assert (await watching.read()).events
    await watching.stream.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
    progress = await watching.read()
    assert (progress.watch_id, progress.header.revision, len(progress.events)) == (-1, 2, 0)


async def test_periodic_progress(tmp_path: Path) -> None:
    async with start(tmp_path, watch_progress_notify_interval_s=0.05) as member:
        watching = Watching(member)
        await watching.create(**ALL, progress_notify=True)
        progress = await watching.read()
        assert (progress.watch_id, progress.header.revision, len(progress.events)) == (0, 1, 0)


async def test_large_answers_come_in_fragments_to_who_asks(member: Member) -> None:
    backend = member.serving.backend
    values = [bytes([number]) * 250_000 for number in range(5)]
    puts = [op_put(b"%d" % number, value) for number, value in enumerate(values)]
    await member.kv.Txn(pb.TxnRequest(success=puts))
    backend.limits = replace(backend.limits, request_bytes_max=10_000)
    watching = Watching(member)
    await watching.create(**ALL, start_revision=2, fragment=True)
    parts = [await watching.read() for _ in range(3)]
    assert [part.fragment for part in parts] == [True, True, False]
    assert [event.kv.value for part in parts for event in part.events] == values


async def test_a_watcher_that_leaves_leaves_nothing_behind(member: Member) -> None:
    watchers = member.serving.backend.machine.watchers
    watching = Watching(member)
    await watching.create(**ALL)
    assert (len(watchers), watchers.streams) == (1, 1)
    watching.stream.cancel()
    async with asyncio.timeout(5):
        while watchers.streams:
            await asyncio.sleep(0.01)
    assert len(watchers) == 0


async def test_many_creations_without_reading_are_answered_in_order(member: Member) -> None:
    watching = Watching(member)
    for _ in range(300):
        await watching.stream.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(**ALL, start_revision=1)))
    created = [await watching.read() for _ in range(300)]
    assert [response.watch_id for response in created] == list(range(300))
    await member.kv.Put(pb.PutRequest(key=b"a"))
    assert sorted([(await watching.read()).watch_id for _ in range(300)]) == list(range(300))


async def test_a_stream_that_wants_a_leader_ends_without_one(tmp_path: Path) -> None:
    async with start(tmp_path, election_timeout_ms=50, heartbeat_interval_ms=10) as member:
        watching = Watching(member, metadata=(("hasleader", "true"),))
        patient = Watching(member)
        await watching.create(**ALL)
        await patient.create(**ALL)
        member.consensus.has_leader = False
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await watching.read()
        assert (refused.value.code(), refused.value.details()) == (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        member.consensus.has_leader = True
        await member.kv.Put(pb.PutRequest(key=b"a"))
        assert (await patient.read()).events


async def test_a_client_that_does_not_read_costs_little_and_misses_nothing(member: Member) -> None:
    watching = Watching(member)
    await watching.create(**ALL)
    stream = next(iter(member.serving.backend.machine.watchers._streams))
    for number in range(300):
        await member.kv.Put(pb.PutRequest(key=b"%d" % number, value=bytes(100_000)))
        assert stream._pending_bytes < 9_000_000
    assert stream.is_busy, "it reads from the history when there is room again"
    keys: list[bytes] = []
    while len(keys) < 300:
        keys += [event.kv.key for event in (await watching.read()).events]
    assert keys == [b"%d" % number for number in range(300)]


async def test_requested_progress_comes_after_all_fragments_and_holds_up_no_other_stream(tmp_path: Path) -> None:
    """A client that does not read, with more waiting than the windows hold, in fragments."""
    async with start(tmp_path, max_request_bytes=100_000) as member:
        slow, quick = Watching(member), Watching(member)
        await slow.create(**ALL, fragment=True)
        await quick.create(key=b"other")
        big = pb.TxnRequest(success=[op_put(b"k%d" % number, b"x" * 9000) for number in range(10)])
        for _ in range(120):
            newest = await member.kv.Txn(big)
        for watching in (slow, quick):
            await watching.stream.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
        notice = await quick.read()
        assert (notice.watch_id, notice.header.revision) == (-1, newest.header.revision)
        events, fragments = 0, 0
        while (response := await slow.read()).watch_id != -1:
            events += len(response.events)
            fragments += response.fragment
        assert response.header.revision == newest.header.revision
        assert events == 1200, "every change up to the notice came before it"
        assert fragments
        assert not response.events


async def test_many_streams_are_each_told_their_progress(member: Member) -> None:
    streams = [Watching(member) for _ in range(20)]
    for number, watching in enumerate(streams):
        for watcher in range(number % 3 + 1):
            await watching.create(key=b"k%d" % watcher, start_revision=1)
    for _ in range(10):
        newest = await member.kv.Txn(pb.TxnRequest(success=[op_put(b"k0"), op_put(b"k1"), op_put(b"k2")]))
        for watching in streams:
            await watching.stream.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
    for number, watching in enumerate(streams):
        told = 0
        while True:
            response = await watching.read()
            told += len(response.events)
            if response.watch_id == -1:
                changed = response.header.revision - 1
                assert told == changed * (number % 3 + 1)
                if response.header.revision == newest.header.revision:
                    break
