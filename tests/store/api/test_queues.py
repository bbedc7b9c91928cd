"""Locks and elections of the server's side: one at a time, in order, and nobody left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from proto.etcd import election_pb2, election_pb2_grpc, lock_pb2, lock_pb2_grpc
from proto.etcd import rpc_pb2 as pb
from tests.store.api.conftest import Member

if TYPE_CHECKING:
    from proto.etcd.election_pb2_grpc import ElectionAsyncStub
    from proto.etcd.lock_pb2_grpc import LockAsyncStub


@pytest.fixture
async def channel(member: Member) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(member.endpoint) as channel:
        for lease_id in range(1, 6):
            await member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=lease_id, TTL=600))
        yield channel


@pytest.fixture
def lock(channel: grpc.aio.Channel) -> LockAsyncStub:
    return lock_pb2_grpc.LockStub(channel)


@pytest.fixture
def election(channel: grpc.aio.Channel) -> ElectionAsyncStub:
    return election_pb2_grpc.ElectionStub(channel)


async def count(member: Member, prefix: bytes) -> int:
    return (await member.kv.Range(pb.RangeRequest(key=prefix, range_end=prefix + b"\xff"))).count


async def until(member: Member, prefix: bytes, wanted: int) -> None:
    async with asyncio.timeout(10):
        while await count(member, prefix) != wanted:
            await asyncio.sleep(0.01)


async def test_a_lock_goes_from_hand_to_hand_in_order(member: Member, lock: LockAsyncStub) -> None:
    owners: list[int] = []

    async def take(lease_id: int) -> bytes:
        held = await lock.Lock(lock_pb2.LockRequest(name=b"m", lease=lease_id))
        owners.append(lease_id)
        return held.key

    waiting = []
    for lease_id in (3, 1, 5, 2):
        waiting.append(asyncio.ensure_future(take(lease_id)))
        await until(member, b"m/", len(waiting))
    for place, holding in enumerate(waiting):
        async with asyncio.timeout(10):
            key = await holding
        assert owners == [3, 1, 5, 2][: place + 1]
        assert key == b"m/%x" % owners[-1]
        await lock.Unlock(lock_pb2.UnlockRequest(key=key))
    assert await count(member, b"m/") == 0


async def test_who_holds_a_lock_gets_it_again(lock: LockAsyncStub) -> None:
    first = await lock.Lock(lock_pb2.LockRequest(name=b"m", lease=1))
    assert await lock.Lock(lock_pb2.LockRequest(name=b"m", lease=1)) == first


async def test_a_lock_without_a_lease_gets_one_of_a_minute(member: Member, lock: LockAsyncStub) -> None:
    held = await lock.Lock(lock_pb2.LockRequest(name=b"m"))
    lease_id = int(held.key.removeprefix(b"m/"), 16)
    assert (await member.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=lease_id))).grantedTTL == 60


async def test_who_stops_waiting_leaves_the_queue(member: Member, lock: LockAsyncStub) -> None:
    await lock.Lock(lock_pb2.LockRequest(name=b"m", lease=1))
    call: Any = lock.Lock(lock_pb2.LockRequest(name=b"m", lease=2))
    await until(member, b"m/", 2)
    call.cancel()
    await until(member, b"m/", 1)
    assert not member.serving.backend.machine.watchers.streams, "the watch is ended, too"


async def test_who_lost_its_lease_while_waiting_is_told(member: Member, lock: LockAsyncStub) -> None:
    held = await lock.Lock(lock_pb2.LockRequest(name=b"m", lease=1))
    waiting = asyncio.ensure_future(lock.Lock(lock_pb2.LockRequest(name=b"m", lease=2)))
    await until(member, b"m/", 2)
    await member.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=2))
    await lock.Unlock(lock_pb2.UnlockRequest(key=held.key))
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await waiting
    assert (refusal.value.code(), refusal.value.details()) == (
        grpc.StatusCode.UNKNOWN,
        "mutex: session is expired",
    )


async def test_a_compaction_past_the_wait_loses_nobody(member: Member, lock: LockAsyncStub) -> None:
    held = await lock.Lock(lock_pb2.LockRequest(name=b"m", lease=1))
    waiting = asyncio.ensure_future(lock.Lock(lock_pb2.LockRequest(name=b"m", lease=2)))
    await until(member, b"m/", 2)
    put = await member.kv.Put(pb.PutRequest(key=b"other"))
    await member.kv.Compact(pb.CompactionRequest(revision=put.header.revision, physical=True))
    await lock.Unlock(lock_pb2.UnlockRequest(key=held.key))
    async with asyncio.timeout(10):
        assert (await waiting).key == b"m/2"


async def test_leaders_follow_each_other_and_are_observed(member: Member, election: ElectionAsyncStub) -> None:
    observing = election.Observe(election_pb2.LeaderRequest(name=b"e"))
    seen: list[tuple[bytes, bytes]] = []

    async def observe() -> None:
        async for said in observing:
            assert said.header.revision >= said.kv.mod_revision
            seen.append((said.kv.key, said.kv.value))

    async def until_seen(key: bytes, value: bytes) -> None:
        async with asyncio.timeout(10):
            while (key, value) not in seen:
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(observe())
        async with asyncio.timeout(10):
            while not member.serving.backend.machine.watchers.streams:
                await asyncio.sleep(0.01)
        one = await election.Campaign(election_pb2.CampaignRequest(name=b"e", lease=1, value=b"one"))
        await until_seen(b"e/1", b"one")
        two = tasks.create_task(campaign(election, 2, b"two"))
        await until(member, b"e/", 2)
        await election.Proclaim(election_pb2.ProclaimRequest(leader=one.leader, value=b"uno"))
        await until_seen(b"e/1", b"uno")
        assert (await election.Leader(election_pb2.LeaderRequest(name=b"e"))).kv.value == b"uno"
        await election.Resign(election_pb2.ResignRequest(leader=one.leader))
        second = await two
        await until_seen(b"e/2", b"two")
        watching.cancel()
    assert seen == [(b"e/1", b"one"), (b"e/1", b"uno"), (b"e/2", b"two")]
    assert second.leader.lease == 2
    with pytest.raises(grpc.aio.AioRpcError, match="election: not leader"):
        await election.Proclaim(election_pb2.ProclaimRequest(leader=one.leader, value=b"late"))


async def campaign(election: ElectionAsyncStub, lease_id: int, value: bytes) -> election_pb2.CampaignResponse:
    return await election.Campaign(election_pb2.CampaignRequest(name=b"e", lease=lease_id, value=value))
