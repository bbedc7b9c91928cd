"""Leases through the gRPC door, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proto.etcd import rpc_pb2 as pb
from proto.raft.command_pb2 import InternalRequest
from store.refusal import Refused
from tests.store.api.conftest import Member, start


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def member(tmp_path: Path, clock: Clock) -> AsyncIterator[Member]:
    async with start(tmp_path) as member:
        member.serving.backend.clock = clock
        member.consensus.change_leader()
        yield member


async def until_gone(member: Member, key: bytes) -> None:
    async with asyncio.timeout(10):
        while (await member.kv.Range(pb.RangeRequest(key=key))).count:
            await asyncio.sleep(0.02)


async def test_a_lease_that_ends_takes_its_keys_along(member: Member, clock: Clock) -> None:
    granted = await member.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=10))
    assert granted.ID > 0
    await member.kv.Put(pb.PutRequest(key=b"a", value=b"1", lease=granted.ID))
    watch = member.watch.Watch()
    await watch.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a", prev_kv=True)))
    await watch.read()
    lease = member.serving.backend.machine.lessor.require(granted.ID)
    async with asyncio.timeout(10):
        while lease.deadline_s is None:
            await asyncio.sleep(0.02)
    clock.now_s += 10
    async with asyncio.timeout(10):
        told: Any = await watch.read()
    event = told.events[0]
    assert (event.type, event.kv.key, event.prev_kv.value) == (event.DELETE, b"a", b"1")
    await until_gone(member, b"a")


async def test_keep_alive_gives_the_full_time_again(member: Member, clock: Clock) -> None:
    await member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=10))
    stream = member.lease.LeaseKeepAlive()
    for lease_id, ttl_s in ((5, 10), (404, 0)):
        await stream.write(pb.LeaseKeepAliveRequest(ID=lease_id))
        response: Any = await stream.read()
        assert (lease_id, ttl_s) == (response.ID, response.TTL)
    clock.now_s += 4
    left = await member.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=5))
    assert (left.TTL, left.grantedTTL) == (6, 10)
    await stream.write(pb.LeaseKeepAliveRequest(ID=5))
    await stream.read()
    assert (await member.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=5))).TTL == 10
    await stream.done_writing()


async def test_a_new_leader_lets_no_lease_end_early(member: Member, clock: Clock) -> None:
    await member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=10))
    stream = member.lease.LeaseKeepAlive()
    await stream.write(pb.LeaseKeepAliveRequest(ID=5))
    await stream.read()
    clock.now_s += 9
    member.consensus.change_leader()
    clock.now_s += 9
    assert (await member.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=5))).TTL == 1


async def test_a_deposed_leaders_revocation_ends_nothing(member: Member, clock: Clock) -> None:
    await member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=10))
    before, lessor = member.consensus.term, member.serving.backend.machine.lessor
    member.consensus.change_leader()
    stream = member.lease.LeaseKeepAlive()
    await stream.write(pb.LeaseKeepAliveRequest(ID=5))
    answer: Any = await stream.read()
    assert answer.TTL == 10
    late = InternalRequest(lease_revoke=pb.LeaseRevokeRequest(ID=5), lease_term=before)
    assert isinstance(await member.consensus.propose(late.SerializeToString()), Refused)
    assert lessor.has(5)
    # Its own leader's, and a client's, do end it.
    own = InternalRequest(lease_revoke=pb.LeaseRevokeRequest(ID=5), lease_term=before + 1)
    assert not isinstance(await member.consensus.propose(own.SerializeToString()), Refused)
    assert not lessor.has(5)


async def test_no_time_is_promised_before_all_know_who_keeps_it(member: Member) -> None:
    await member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=10))
    member.consensus.next_outcomes = ["lost"]  # the announcement, which is made again
    member.consensus.change_leader()
    stream = member.lease.LeaseKeepAlive()
    await stream.write(pb.LeaseKeepAliveRequest(ID=5))
    await stream.read()
    assert member.serving.backend.machine.lessor.term == member.consensus.term


async def test_leases_tell_their_keys(member: Member) -> None:
    await member.lease.LeaseGrant(pb.LeaseGrantRequest(ID=5, TTL=10))
    for key in (b"b", b"a"):
        await member.kv.Put(pb.PutRequest(key=key, lease=5))
    left = await member.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=5, keys=True))
    assert list(left.keys) == [b"a", b"b"]
    gone = await member.lease.LeaseTimeToLive(pb.LeaseTimeToLiveRequest(ID=404))
    assert (gone.ID, gone.TTL, gone.grantedTTL) == (404, -1, 0)
    assert [one.ID for one in (await member.lease.LeaseLeases(pb.LeaseLeasesRequest())).leases] == [5]
    await member.lease.LeaseRevoke(pb.LeaseRevokeRequest(ID=5))
    assert (await member.kv.Range(pb.RangeRequest(key=b"a"))).count == 0
