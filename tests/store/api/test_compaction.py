"""Compaction by itself, on a member that serves, as its clients see it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from store.api import compactor
from store.api.compactor import Retention
from tests.store.api.conftest import Member, start

WRITES = 20


async def put_often(member: Member) -> int:
    """Write one key again and again and return the newest revision."""
    answers = [await member.kv.Put(pb.PutRequest(key=b"a", value=b"%d" % number)) for number in range(WRITES)]
    return answers[-1].header.revision


async def until_compacted(member: Member, revision: int) -> None:
    """Wait until history before a revision is gone, and told as etcd tells it."""
    store = member.serving.backend.machine.store
    async with asyncio.timeout(20):
        while store.compact_revision < revision:
            await asyncio.sleep(0.02)
    with pytest.raises(grpc.aio.AioRpcError, match="required revision has been compacted"):
        await member.kv.Range(pb.RangeRequest(key=b"a", revision=revision - 1))


async def test_a_number_of_revisions_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compactor, "_REVISION_INTERVAL_S", 0.02)
    async with start(tmp_path, auto_compaction=Retention("revision", 5)) as member:
        newest = await put_often(member)
        await until_compacted(member, newest - 5)
        kept = await member.kv.Range(pb.RangeRequest(key=b"a", revision=newest - 5))
        assert [record.value for record in kept.kvs] == [b"%d" % (WRITES - 6)]


async def test_a_period_is_kept(tmp_path: Path) -> None:
    async with start(tmp_path, auto_compaction=Retention("periodic", 0.2)) as member:
        newest = await put_often(member)
        await until_compacted(member, newest - 1)
        assert (await member.kv.Range(pb.RangeRequest(key=b"a"))).kvs[0].value == b"%d" % (WRITES - 1)
