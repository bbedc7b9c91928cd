"""Packets between members are dropped, both ways and one way: no stale answer, no lost one, and peace afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from tests.store.faults.history import Outcome
from tests.store.faults.network import Cut, NetworkCluster, both_ways, isolated, networked
from tests.store.faults.workload import Workload, verdict
from tests.store.processes import NAMES

pytestmark = pytest.mark.root


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[NetworkCluster]:
    async with networked(tmp_path) as cluster:
        yield cluster


async def value_of(stub: rpc_pb2_grpc.KVAsyncStub, *, serializable: bool = False) -> bytes | grpc.StatusCode:
    try:
        answer = await stub.Range(pb.RangeRequest(key=b"x", serializable=serializable), timeout=3)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return answer.kvs[0].value


async def write(stub: rpc_pb2_grpc.KVAsyncStub, value: bytes, timeout_s: float) -> grpc.StatusCode:
    try:
        await stub.Put(pb.PutRequest(key=b"x", value=value), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


NO_ANSWER = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_an_isolated_leader_promises_nothing_and_tells_nothing_old(cluster: NetworkCluster) -> None:
    leader = await cluster.one_leader()
    other = next(name for name in NAMES if name != leader)
    async with cluster.channel(leader) as to_leader, cluster.channel(other) as to_other, asyncio.timeout(60):
        alone, together = rpc_pb2_grpc.KVStub(to_leader), rpc_pb2_grpc.KVStub(to_other)
        assert await write(together, b"old", 5) == grpc.StatusCode.OK
        cluster.network.cut(isolated(leader))
        # From here on the leader is alone, first without knowing it.
        early = asyncio.gather(*(write(alone, b"never", 9) for _ in range(3)))
        while await write(together, b"new", 3) != grpc.StatusCode.OK:
            await asyncio.sleep(0.05)
        reads = await asyncio.gather(*(value_of(alone) for _ in range(5)))
        assert set(reads) <= NO_ANSWER, "a read that nobody can confirm is not answered"
        assert await value_of(alone, serializable=True) == b"old", "who asks for it gets what there is"
        assert set(await early) <= NO_ANSWER
        assert await value_of(together) == b"new"
        cluster.network.heal()
        await cluster.one_leader()
        last = await value_of(together)
        assert last in (b"new", b"never"), "a write without an answer may still happen, an old value may not"
        assert await value_of(alone) == last


def schedule(leader: str) -> list[tuple[str, set[Cut], bool]]:
    """What is cut in turn, and whether a majority can go on meanwhile."""
    first, second = (name for name in NAMES if name != leader)
    return [
        ("nobody hears the leader", {(leader, first), (leader, second)}, True),
        ("the leader hears nobody", {(first, leader), (second, leader)}, True),
        ("leader and one follower do not see each other", both_ways([leader], [first]), True),
        ("each hears one other only", {(leader, first), (first, second), (second, leader)}, False),
    ]


async def test_histories_hold_through_partitions(cluster: NetworkCluster) -> None:
    workload = Workload(cluster, seed=11)
    async with workload.running():
        await workload.more(20)
        for number in range(len(schedule("a"))):
            _, cuts, goes_on = schedule(await cluster.one_leader())[number]
            cluster.network.cut(cuts)
            if goes_on:
                await workload.more(15)
            else:
                await asyncio.sleep(1.5)
            cluster.network.heal()
            await workload.more(15)
    assert await verdict(cluster, workload) == []
    await cluster.one_leader()


async def test_a_flapping_leader_and_a_pulled_cable(cluster: NetworkCluster) -> None:
    workload = Workload(cluster, seed=12)
    async with workload.running():
        await workload.more(20)
        leader = await cluster.one_leader()
        for length_s in (0.1, 0.3, 0.5, 0.8):
            cluster.network.cut(isolated(leader))
            await asyncio.sleep(length_s)
            cluster.network.heal()
            await asyncio.sleep(0.2)
        await workload.more(15)
        leader = await cluster.one_leader()
        cluster.network.plug(leader, plugged=False)
        await workload.more(15)
        cluster.network.plug(leader, plugged=True)
        await workload.more(15)
    assert await verdict(cluster, workload) == []


async def test_nothing_is_acknowledged_while_everybody_is_alone(cluster: NetworkCluster) -> None:
    workload = Workload(cluster, seed=13)
    async with workload.running():
        await workload.more(20)
        cluster.network.cut(isolated("a") | isolated("b"))
        await asyncio.sleep(1.0)
        since = time.monotonic()
        await asyncio.sleep(2.5)
        answered = [call for call in workload.calls if since < call.returned_at < float("inf")]
        assert not answered
        assert any(call.outcome is Outcome.UNKNOWN for call in workload.calls)
        cluster.network.heal()
        await workload.more(15)
    assert await verdict(cluster, workload) == []
