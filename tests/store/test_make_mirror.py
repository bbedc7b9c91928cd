"""Keys move from etcd to ours and from ours to etcd by an unmodified etcdctl make-mirror, and what changes follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from tests.store.api.conftest import start
from tests.store.mvcc.requests import op_put
from tests.store.programs import Etcdctl, end, etcd_server

pytestmark = pytest.mark.root

ALL = pb.RangeRequest(key=b"\0", range_end=b"\0")


@asynccontextmanager
async def both(etcds: dict[str, Path], tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """An etcd and a member of ours: where each serves."""
    async with etcd_server(etcds["newest"], tmp_path / "etcd") as theirs, start(tmp_path / "ours") as member:
        yield {"etcd": theirs, "ours": member.endpoint}


async def keys(channel: grpc.aio.Channel) -> dict[bytes, bytes]:
    found = await rpc_pb2_grpc.KVStub(channel).Range(ALL)
    return {kv.key: kv.value for kv in found.kvs}


@pytest.mark.parametrize("program", ["installed", "newest"])
@pytest.mark.parametrize(("source", "target"), [("etcd", "ours"), ("ours", "etcd")])
async def test_a_mirror_follows(
    etcds: dict[str, Path], etcdctls: dict[str, Path], tmp_path: Path, program: str, source: str, target: str
) -> None:
    async with (
        both(etcds, tmp_path) as endpoints,
        grpc.aio.insecure_channel(endpoints[source]) as source_channel,
        grpc.aio.insecure_channel(endpoints[target]) as target_channel,
    ):
        kv = rpc_pb2_grpc.KVStub(source_channel)
        for start_at in range(0, 1500, 100):
            operations = [op_put(b"key/%04d" % number, b"%d" % number) for number in range(start_at, start_at + 100)]
            await kv.Txn(pb.TxnRequest(success=operations))
        etcdctl = Etcdctl(etcdctls[program], endpoints[source])
        mirroring = await etcdctl.start("make-mirror", endpoints[target])
        try:
            await until_equal(source_channel, target_channel, 1500)
            await kv.Put(pb.PutRequest(key=b"key/0000", value=b"changed"))
            await kv.DeleteRange(pb.DeleteRangeRequest(key=b"key/01", range_end=b"key/02"))
            await kv.Txn(pb.TxnRequest(success=[op_put(b"both/1"), op_put(b"both/2")]))
            await until_equal(source_channel, target_channel, 1402)
        finally:
            await end(mirroring)


async def until_equal(source: grpc.aio.Channel, target: grpc.aio.Channel, count: int) -> None:
    wanted = await keys(source)
    assert len(wanted) == count
    async with asyncio.timeout(60):
        while await keys(target) != wanted:
            await asyncio.sleep(0.05)
