"""A member's disk is full: it promises nothing, says so as etcd says it, and goes on by itself when there is room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from tests.store.faults.power import powered
from tests.store.faults.small_disks import SmallDisksCluster, on_small_disks
from tests.store.faults.workload import NO_SPACE, Workload, verdict
from tests.store.processes import NAMES

pytestmark = pytest.mark.root


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[SmallDisksCluster]:
    async with on_small_disks(tmp_path, "--snapshot-count", "30") as cluster:
        yield cluster


async def refusal(cluster: SmallDisksCluster, name: str) -> str:
    """Write at a member until it refuses, and return its words."""
    async with cluster.channel(name) as channel, asyncio.timeout(40):
        while True:
            try:
                await rpc_pb2_grpc.KVStub(channel).Put(pb.PutRequest(key=b"x", value=b"x" * 400), timeout=10)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                    return error.details() or ""
                # What was under way when the disk became full has no certain outcome.
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise


async def refused_by_most(cluster: SmallDisksCluster) -> list[str]:
    """Wait until two members refuse; the third has nothing more to write then, and may have room for that."""

    async def refusing(name: str) -> str:
        assert await refusal(cluster, name) == NO_SPACE
        return name

    tasks = [asyncio.ensure_future(refusing(name)) for name in NAMES]
    try:
        first = asyncio.as_completed(tasks)
        return [await next(first), await next(first)]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def reads_on(cluster: SmallDisksCluster, name: str) -> None:
    """A full member answers those who do not ask for the newest, and no others."""
    async with cluster.channel(name) as channel, asyncio.timeout(40):
        stub = rpc_pb2_grpc.KVStub(channel)
        answer = await stub.Range(pb.RangeRequest(key=b"w/", range_end=b"w0", serializable=True), timeout=5)
        assert answer.kvs
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Range(pb.RangeRequest(key=b"w/"), timeout=5)
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "etcdserver: no leader",
        )


async def test_a_full_follower_and_a_full_leader(cluster: SmallDisksCluster) -> None:
    workload = Workload(cluster, seed=21)
    async with workload.running():
        await workload.more(40)
        leader = await cluster.leader()
        follower = next(name for name in NAMES if name != leader)
        cluster.fill(follower)
        assert await refusal(cluster, follower) == NO_SPACE
        await reads_on(cluster, follower)
        await workload.more(40)
        cluster.free(follower)
        async with asyncio.timeout(40):
            leader = await cluster.leader()
        await workload.more(20)
        cluster.fill(leader)
        assert await refusal(cluster, leader) == NO_SPACE
        await workload.more(40)
        cluster.free(leader)
        async with asyncio.timeout(40):
            assert await cluster.leader() != leader, "the leadership was handed on"
        await workload.more(20)
    assert await verdict(cluster, workload) == []
    assert all(process.returncode is None for process in cluster.processes.values()), "nobody had to be restarted"


async def test_all_disks_full(cluster: SmallDisksCluster) -> None:
    workload = Workload(cluster, seed=22)
    async with workload.running():
        await workload.more(40)
        for name in NAMES:
            cluster.fill(name)
        for name in await refused_by_most(cluster):
            await reads_on(cluster, name)
        done = workload.done
        await asyncio.sleep(0.5)
        assert workload.done == done, "nothing is acknowledged"
        for name in NAMES:
            cluster.free(name)
        await workload.more(40)
        for name in NAMES:
            cluster.fill(name)
        await refused_by_most(cluster)
        await cluster.kill_all()
        for name in NAMES:
            cluster.free(name)
        await cluster.start_all()
        await workload.more(20)
    assert await verdict(cluster, workload) == []


async def test_a_sync_that_fails_ends_the_member_with_a_sentence(tmp_path: Path) -> None:
    async with powered(tmp_path) as cluster:
        workload = Workload(cluster, seed=24)
        async with workload.running():
            await workload.more(20)
            leader = await cluster.leader()
            await cluster.disk.fail(leader)
            async with asyncio.timeout(20):
                assert await cluster.processes[leader].wait() == 1
            del cluster.processes[leader]
            log = (tmp_path / f"{leader}.log").read_text()
            assert "the disk failed while the log was written (Input/output error)" in log.splitlines()[-1]
            assert "Traceback" not in log
            await workload.more(20)
            await cluster.disk.fail()
            await cluster.start(leader)
            await workload.more(20)
        assert await verdict(cluster, workload) == []
