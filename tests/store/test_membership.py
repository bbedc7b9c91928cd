"""Real members are added, promoted, moved, replaced and removed by etcdctl while a client writes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from tests.store.growing import GrowingCluster
from tests.store.processes import free_ports

pytestmark = pytest.mark.root


class Writer:
    """Writes numbered keys through whichever members run, and knows what was promised to it."""

    def __init__(self, cluster: GrowingCluster) -> None:
        self._cluster = cluster
        self.promised: dict[bytes, bytes] = {}
        self.stopping = False

    async def run(self) -> None:
        for number in itertools.count():
            if self.stopping:
                return
            names = list(self._cluster.processes)
            key, value = b"k%06d" % number, b"v%d" % number
            async with self._cluster.channel(names[number % len(names)]) as channel:
                try:
                    await rpc_pb2_grpc.KVStub(channel).Put(pb.PutRequest(key=key, value=value), timeout=8)
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.02)
                else:
                    self.promised[key] = value

    async def more(self, count: int = 10) -> None:
        wanted = len(self.promised) + count
        async with asyncio.timeout(40):
            while len(self.promised) < wanted:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def writing_from_the_first(cluster: GrowingCluster) -> AsyncIterator[Writer]:
    """Begin with one member and write all the time; in the end everything that was acknowledged is there."""
    await cluster.begin("a")
    writer = Writer(cluster)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(writer.run())
        try:
            await writer.more()
            yield writer
            await writer.more()
        finally:
            writer.stopping = True
    for name in cluster.processes:
        async with cluster.channel(name) as channel:
            request = pb.RangeRequest(key=b"k", range_end=b"l")
            found = await rpc_pb2_grpc.KVStub(channel).Range(request, timeout=20)
        kept = {kv.key: kv.value for kv in found.kvs}
        lost = [key for key, value in writer.promised.items() if kept.get(key) != value]
        assert not lost, f"member {name} lacks what was acknowledged"


@asynccontextmanager
async def running(etcdctls: dict[str, Path], directory: Path, *, tls: bool) -> AsyncIterator[GrowingCluster]:
    cluster = GrowingCluster(directory, etcdctls["newest" if tls else "installed"], tls=tls)
    try:
        yield cluster
    finally:
        await cluster.stop()


async def leader_of(cluster: GrowingCluster) -> str:
    async with asyncio.timeout(30):
        return await cluster.leader()


async def move_leader(cluster: GrowingCluster) -> str:
    """Send the leadership elsewhere by etcdctl, once more where an election came between; return who has it."""
    async with asyncio.timeout(60):
        while True:
            leader = await leader_of(cluster)
            heir = next(name for name in cluster.processes if name != leader)
            at_leader = f"{cluster.scheme}://127.0.0.1:{cluster.client_ports[leader]}"
            code, output, errors = await cluster.etcdctl.run(
                "move-leader", f"{cluster.ids[heir]:x}", endpoints=at_leader
            )
            if code == 0:
                assert "Leadership transferred" in output
                if await leader_of(cluster) == heir:
                    return heir
            else:
                assert "not leader" in errors or "leader transfer took too long" in errors, errors


@pytest.mark.parametrize("tls", [True, False], ids=["tls", "plain"])
async def test_a_cluster_grows_changes_and_shrinks_while_it_is_written_to(
    etcdctls: dict[str, Path], tmp_path: Path, tls: bool
) -> None:
    async with running(etcdctls, tmp_path, tls=tls) as cluster, writing_from_the_first(cluster) as writer:
        for name in ("b", "c"):
            await cluster.add(name)
            await writer.more()

        # A learner gets everything and decides nothing; it serves almost nothing either, until it is promoted.
        await cluster.add("d", "--learner")
        assert (await cluster.members())["d"]["isLearner"]
        async with cluster.channel("d") as channel:
            kv = rpc_pb2_grpc.KVStub(channel)
            await kv.Range(pb.RangeRequest(key=b"k", serializable=True), timeout=10)
            with pytest.raises(grpc.aio.AioRpcError, match="rpc not supported for learner"):
                await kv.Range(pb.RangeRequest(key=b"k"), timeout=10)
            status = await rpc_pb2_grpc.MaintenanceStub(channel).Status(pb.StatusRequest(), timeout=10)
            assert status.isLearner
        await cluster.promote("d")
        await writer.more()
        assert not (await cluster.members())["d"].get("isLearner")

        if not tls:
            await cluster.add("e")
            assert len(await cluster.members()) == 5
            await cluster.remove("e")
            assert await cluster.left("e") == 0

        # Leadership goes where it is sent.
        heir = await move_leader(cluster)
        await writer.more()

        # The leader is removed; it says so and ends.
        await cluster.remove(heir)
        assert await cluster.left(heir) == 0
        assert "the member has been permanently removed from the cluster" in cluster.log(heir)
        await writer.more()

        # Whoever was removed cannot come back with its old log.
        await cluster.run(heir, state="existing", cluster="a=http://127.0.0.1:1," + f"{heir}={cluster.peer_url(heir)}")
        assert await cluster.left(heir) == 0
        await writer.more()


async def test_a_dead_member_is_replaced_and_another_moves(etcdctls: dict[str, Path], tmp_path: Path) -> None:
    async with running(etcdctls, tmp_path, tls=True) as cluster, writing_from_the_first(cluster) as writer:
        for name in ("b", "c"):
            await cluster.add(name)
        await writer.more(30)

        # One dies and loses its disk: it is removed, and added anew under the same name.
        leader = await leader_of(cluster)
        dead = next(name for name in cluster.processes if name != leader)
        await cluster.kill(dead)
        cluster.lose_disk(dead)
        await cluster.remove(dead)
        await writer.more()
        await cluster.add(dead)
        await writer.more()

        # One moves to another port; the others dial it there without a restart.
        leader = await leader_of(cluster)
        mover = next(name for name in cluster.processes if name != leader)
        await cluster.kill(mover)
        [cluster.peer_ports[mover]] = free_ports(1)
        await cluster.patiently("member", "update", f"{cluster.ids[mover]:x}", f"--peer-urls={cluster.peer_url(mover)}")
        await cluster.run(mover, state="existing", cluster=f"{mover}={cluster.peer_url(mover)}")
        await writer.more()
        # It is needed now: without it there is no quorum.
        leader = await leader_of(cluster)
        other = next(name for name in cluster.processes if name not in (mover, leader))
        await cluster.kill(other)
        await writer.more()


REFUSALS = {
    "member count": ("a={a},b={b},x=http://127.0.0.1:9", "b", "member count is unequal"),
    "no match": ("a={a},b=http://127.0.0.1:9", "b", "no match found for existing member"),
    "no answer": ("b={b},x=http://127.0.0.1:9", "b", "cannot fetch cluster info from peer urls"),
}


async def test_who_does_not_fit_is_not_let_in(etcdctls: dict[str, Path], tmp_path: Path) -> None:
    async with running(etcdctls, tmp_path, tls=False) as cluster:
        await cluster.begin("a")
        cluster.settle("b")
        await cluster.patiently("member", "add", "b", f"--peer-urls={cluster.peer_url('b')}")
        for flagged, name, complaint in REFUSALS.values():
            urls = {one: cluster.peer_url(one) for one in "ab"}
            await cluster.run(name, state="existing", cluster=flagged.format(**urls))
            assert await cluster.left(name) != 0
            assert complaint in cluster.log(name), cluster.log(name)
