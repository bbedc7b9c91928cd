"""KV and maintenance through the gRPC door: headers, consistency, failures of consensus."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from store.api.errors import Failure
from store.api.quota import is_relieved
from tests.store.api.conftest import Member, start
from tests.store.mvcc.requests import op_put, op_range


async def refusal(call: object) -> tuple[int, str]:
    """The code and text that a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call  # type: ignore[misc]
    return refused.value.code().value[0], refused.value.details() or ""


async def test_answers_name_cluster_member_revision_and_term(member: Member) -> None:
    put = await member.kv.Put(pb.PutRequest(key=b"a", value=b"1"))
    got = await member.kv.Range(pb.RangeRequest(key=b"a"))
    txn = await member.kv.Txn(pb.TxnRequest(success=[op_put(b"b"), op_range(b"a")]))
    for response, revision in ((put, 2), (got, 2), (txn, 3)):
        header = response.header
        assert (header.cluster_id, header.member_id) == (0xCDF818194E3A8C32, 0x8E9E05C52164694D)
        assert (header.revision, header.raft_term) == (revision, 2)


async def test_reads_are_linearizable_unless_they_say_otherwise(tmp_path: Path) -> None:
    async with start(tmp_path, election_timeout_ms=50, heartbeat_interval_ms=10) as member:
        await member.kv.Put(pb.PutRequest(key=b"a", value=b"1"))
        member.consensus.has_leader = False
        backend = member.serving.backend
        backend.limits = replace(backend.limits, request_timeout_s=0.2)
        reads = pb.TxnRequest(success=[op_range(b"a", serializable=True)])
        assert (await member.kv.Range(pb.RangeRequest(key=b"a", serializable=True))).kvs[0].value == b"1"
        assert (await member.kv.Txn(reads)).responses[0].response_range.count == 1
        no_leader = Failure.NO_LEADER.value
        assert await refusal(member.kv.Range(pb.RangeRequest(key=b"a"))) == no_leader
        assert await refusal(member.kv.Txn(pb.TxnRequest(success=[op_range(b"a")]))) == no_leader
        assert await refusal(member.kv.Put(pb.PutRequest(key=b"a"))) == no_leader
        metadata = (("hasleader", "true"),)
        serializable = pb.RangeRequest(key=b"a", serializable=True)
        assert await refusal(member.kv.Range(serializable, metadata=metadata)) == no_leader
        status = await member.maintenance.Status(pb.StatusRequest())
        assert (status.leader, list(status.errors)) == (0, ["etcdserver: no leader"])


async def test_what_was_certainly_not_done_is_done_again(member: Member) -> None:
    member.consensus.next_outcomes = ["dropped", "dropped"]
    assert (await member.kv.Put(pb.PutRequest(key=b"a"))).header.revision == 2


@pytest.mark.parametrize("outcome", ["unknown", "lost"])
async def test_what_may_have_been_done_is_never_repeated(member: Member, outcome: str) -> None:
    member.consensus.next_outcomes = [outcome]
    assert await refusal(member.kv.Put(pb.PutRequest(key=b"a"))) == Failure.TIMEOUT.value
    response = await member.kv.Range(pb.RangeRequest(key=b"a"))
    assert (response.count, response.header.revision) == ((1, 2) if outcome == "unknown" else (0, 1))


async def test_a_store_that_is_full_takes_no_more_until_space_is_made(tmp_path: Path) -> None:
    async with start(tmp_path, quota_backend_bytes=2000) as member:
        await member.kv.Put(pb.PutRequest(key=b"a", value=b"x" * 1500))
        for request in (pb.PutRequest(key=b"b", value=b"x" * 1500), pb.PutRequest(key=b"c")):
            assert await refusal(member.kv.Put(request)) == Failure.NO_SPACE.value
        alarms = await member.maintenance.Alarm(pb.AlarmRequest())
        assert [alarm.alarm for alarm in alarms.alarms] == [pb.NOSPACE]
        await member.kv.DeleteRange(pb.DeleteRangeRequest(key=b"a"))
        await member.kv.Compact(pb.CompactionRequest(revision=3, physical=True))
        await member.maintenance.Alarm(
            pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, alarm=pb.NOSPACE, memberID=alarms.alarms[0].memberID)
        )
        await member.kv.Put(pb.PutRequest(key=b"b"))


async def test_a_full_store_serves_again_by_itself_once_a_tenth_is_free(tmp_path: Path) -> None:
    async with start(tmp_path, quota_backend_bytes=10_000) as member:
        for number in range(6):
            await member.kv.Put(pb.PutRequest(key=b"%d" % number, value=b"x" * 1500))
        assert await refusal(member.kv.Put(pb.PutRequest(key=b"b", value=b"x" * 1500))) == Failure.NO_SPACE.value
        store = member.serving.backend.machine.store
        assert 9_000 < store.size_bytes <= 10_000

        # Deletion alone frees nothing, and a little is not enough.
        deleted = await member.kv.DeleteRange(pb.DeleteRangeRequest(key=b"0"))
        await asyncio.sleep(1.5)
        assert await refusal(member.kv.Put(pb.PutRequest(key=b"b"))) == Failure.NO_SPACE.value
        assert not is_relieved(9_001, 10_000)

        await member.kv.Compact(pb.CompactionRequest(revision=deleted.header.revision))
        async with asyncio.timeout(20):
            while (await member.maintenance.Alarm(pb.AlarmRequest())).alarms:
                await asyncio.sleep(0.05)
        assert is_relieved(store.size_bytes, 10_000)
        await member.kv.Put(pb.PutRequest(key=b"b"))


async def test_methods_that_do_not_exist_are_said_not_to(member: Member) -> None:
    async with grpc.aio.insecure_channel(member.endpoint) as channel:
        nothing: Any = channel.unary_unary("/etcdserverpb.KV/Nothing")
        code, _ = await refusal(nothing(b""))
        assert code == grpc.StatusCode.UNIMPLEMENTED.value[0]
        misused: Any = channel.unary_unary("/etcdserverpb.KV/Range")
        code, text = await refusal(misused(b"\xff\xff"))
        assert (code, text[:34]) == (grpc.StatusCode.INTERNAL.value[0], "grpc: error unmarshalling request:")


async def test_a_snapshot_can_be_saved(member: Member) -> None:
    await member.kv.Put(pb.PutRequest(key=b"a", value=b"x" * 100_000))
    saved = b"".join([part.blob async for part in member.maintenance.Snapshot(pb.SnapshotRequest())])
    assert len(saved) % 512 == 32


async def test_checksums_are_of_a_revision(member: Member) -> None:
    for number in range(5):
        await member.kv.Put(pb.PutRequest(key=b"a", value=b"%d" % number))
    early = await member.maintenance.HashKV(pb.HashKVRequest(revision=3))
    late = await member.maintenance.HashKV(pb.HashKVRequest())
    assert early.hash != late.hash
    assert (await member.maintenance.HashKV(pb.HashKVRequest(revision=3))).hash == early.hash
    assert await refusal(member.maintenance.HashKV(pb.HashKVRequest(revision=9))) == Failure.FUTURE_REVISION.value


async def test_members_tell_where_they_serve(member: Member) -> None:
    members = (await member.cluster.MemberList(pb.MemberListRequest(linearizable=True))).members
    assert [(one.name, list(one.peerURLs), list(one.clientURLs)) for one in members] == [
        ("default", ["http://localhost:2380"], ["http://localhost:2379"])
    ]
