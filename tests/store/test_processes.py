"""Three real members with mutual TLS: whichever is killed, what was acknowledged stays and work goes on."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from proto.etcd.kv_pb2 import Event
from tests.store.processes import NAMES, StoreCluster

pytestmark = pytest.mark.root


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[StoreCluster]:
    cluster = StoreCluster(tmp_path)
    try:
        for name in NAMES:
            await cluster.start(name)
        async with asyncio.timeout(30):
            await cluster.leader()
        yield cluster
    finally:
        await cluster.stop()


class Writer:
    """A client that writes numbered keys through all members in turn, and knows what was promised to it."""

    def __init__(self, cluster: StoreCluster) -> None:
        self._channels = [cluster.channel(name) for name in NAMES]
        self._stubs = [rpc_pb2_grpc.KVStub(channel) for channel in self._channels]
        self.promised: dict[bytes, tuple[bytes, int]] = {}
        """Key → (value, revision) of every acknowledged write."""
        self.tried: set[bytes] = set()
        self._stop = False

    async def run(self) -> None:
        for number in itertools.count():
            if self._stop:
                break
            key, value = b"k%06d" % number, b"v%d" % number
            self.tried.add(key)
            try:
                stub = self._stubs[number % len(self._stubs)]
                response = await stub.Put(pb.PutRequest(key=key, value=value), timeout=8)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)
                continue
            self.promised[key] = (value, response.header.revision)
        for channel in self._channels:
            await channel.close()

    async def more(self, count: int) -> None:
        """Wait until so many more writes are acknowledged."""
        wanted = len(self.promised) + count
        async with asyncio.timeout(40):
            while len(self.promised) < wanted:
                await asyncio.sleep(0.02)

    def stop(self) -> None:
        self._stop = True


async def hash_of(cluster: StoreCluster, name: str, revision: int) -> int:
    async with cluster.channel(name) as channel, asyncio.timeout(30):
        while True:
            try:
                request = pb.HashKVRequest(revision=revision)
                return (await rpc_pb2_grpc.MaintenanceStub(channel).HashKV(request)).hash
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)  # it starts, or has not caught up


async def test_nothing_acknowledged_is_lost_whoever_is_killed(cluster: StoreCluster) -> None:
    writer = Writer(cluster)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        await writer.more(30)
        for role in ("leader", "follower", "leader"):
            leader = await cluster.leader()
            victim = leader if role == "leader" else next(name for name in NAMES if name != leader)
            await cluster.kill(victim)
            await writer.more(30)
            await cluster.start(victim)
            await writer.more(30)
            async with asyncio.timeout(30):
                await cluster.leader()
        writer.stop()
    async with cluster.channel("a") as channel, asyncio.timeout(30):
        found = await rpc_pb2_grpc.KVStub(channel).Range(pb.RangeRequest(key=b"k", range_end=b"l"))
    kept = {kv.key: kv for kv in found.kvs}
    lost = [key for key in writer.promised if key not in kept]
    assert not lost
    assert set(kept) <= writer.tried
    for key, (value, revision) in writer.promised.items():
        kv = kept[key]
        assert (kv.value, kv.mod_revision, kv.version) == (value, revision, 1), "applied once, where it was said to be"
    hashes = {await hash_of(cluster, name, found.header.revision) for name in NAMES}
    assert len(hashes) == 1


async def test_all_members_killed_at_once_come_back_with_everything(cluster: StoreCluster) -> None:
    writer = Writer(cluster)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        await writer.more(50)
        for name in NAMES:
            await cluster.kill(name)
        for name in NAMES:
            await cluster.start(name)
        await writer.more(20)
        writer.stop()
    async with cluster.channel("b") as channel, asyncio.timeout(30):
        found = await rpc_pb2_grpc.KVStub(channel).Range(pb.RangeRequest(key=b"k", range_end=b"l", keys_only=True))
    assert writer.promised.keys() <= {kv.key for kv in found.kvs}


async def test_a_watch_and_a_lease_outlive_the_leader(cluster: StoreCluster) -> None:
    leader = await cluster.leader()
    other = next(name for name in NAMES if name != leader)
    async with cluster.channel(other) as channel, asyncio.timeout(60):
        kv, lease = rpc_pb2_grpc.KVStub(channel), rpc_pb2_grpc.LeaseStub(channel)
        watch = rpc_pb2_grpc.WatchStub(channel).Watch()
        await watch.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"x", range_end=b"y", prev_kv=True)))
        told: Any = await watch.read()
        assert told.created
        await lease.LeaseGrant(pb.LeaseGrantRequest(ID=9, TTL=2))
        await kv.Put(pb.PutRequest(key=b"x1", value=b"1", lease=9))
        await cluster.kill(leader)
        await kv.Put(pb.PutRequest(key=b"x2", value=b"2"), timeout=20)
        events: list[Event] = []
        while len(events) < 3:
            told = await watch.read()
            events += told.events
    assert [(event.type, event.kv.key) for event in events] == [(0, b"x1"), (0, b"x2"), (1, b"x1")]
    assert events[2].prev_kv.value == b"1"


async def test_a_stranger_is_not_served(cluster: StoreCluster) -> None:
    authority = (cluster.directory / "ca.crt").read_bytes()
    credentials = grpc.ssl_channel_credentials(authority)
    async with grpc.aio.secure_channel(f"127.0.0.1:{cluster.client_ports['a']}", credentials) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await rpc_pb2_grpc.KVStub(channel).Range(pb.RangeRequest(key=b"a"), timeout=3)


async def test_a_leader_that_slept_gives_no_old_answers(cluster: StoreCluster) -> None:
    leader = await cluster.leader()
    other = next(name for name in NAMES if name != leader)
    async with cluster.channel(leader) as to_leader, cluster.channel(other) as to_other, asyncio.timeout(90):
        await rpc_pb2_grpc.KVStub(to_leader).Put(pb.PutRequest(key=b"x", value=b"old"))
        for round_number in range(3):
            cluster.pause(leader)
            # Sent while it sleeps: these are the first things that it does when it wakes, before it hears of any other.
            reads = [
                asyncio.ensure_future(rpc_pb2_grpc.KVStub(to_leader).Range(pb.RangeRequest(key=b"x"), timeout=30))
                for _ in range(5)
            ]
            value = b"new%d" % round_number
            await rpc_pb2_grpc.KVStub(to_other).Put(pb.PutRequest(key=b"x", value=value), timeout=30)
            cluster.go_on(leader)
            for read in reads:
                try:
                    assert (await read).kvs[0].value == value
                except grpc.aio.AioRpcError as error:
                    assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - either is right
            if await cluster.leader() != leader:
                break  # the reads go to the member that slept, which must be the leader


async def test_a_member_starts_from_its_snapshot_and_catches_up(tmp_path: Path) -> None:
    cluster = StoreCluster(tmp_path, "--snapshot-count", "40")
    try:
        for name in NAMES:
            await cluster.start(name)
        async with asyncio.timeout(60):
            leader = await cluster.leader()
        away, there = (name for name in NAMES if name != leader)
        writer = Writer(cluster)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(writer.run())
            await writer.more(100)
            await cluster.kill(away)
            await writer.more(300)
            await cluster.start(away)
            await writer.more(50)
            writer.stop()
        async with cluster.channel(there) as channel:
            newest = (await rpc_pb2_grpc.KVStub(channel).Range(pb.RangeRequest(key=b"x"))).header.revision
        assert len({await hash_of(cluster, name, newest) for name in NAMES}) == 1
        assert "wrote a snapshot" in (tmp_path / f"{away}.log").read_text()
    finally:
        await cluster.stop()


async def test_a_member_that_lost_its_log_does_not_begin_anew(cluster: StoreCluster) -> None:
    """It may have promised what it has forgotten; remove it and add it again."""
    async with cluster.channel("a") as channel, asyncio.timeout(30):
        while not all(one.name for one in (await members_of(channel)).members):
            await asyncio.sleep(0.1)
    await cluster.kill("b")
    shutil.rmtree(cluster.data_dir("b"))
    await cluster.start("b")
    async with asyncio.timeout(30):
        assert await cluster.processes.pop("b").wait() != 0
    assert "has already been bootstrapped" in (cluster.directory / "b.log").read_text()


async def members_of(channel: grpc.aio.Channel) -> pb.MemberListResponse:
    response = await rpc_pb2_grpc.ClusterStub(channel).MemberList(pb.MemberListRequest())
    assert isinstance(response, pb.MemberListResponse)
    return response
