"""The store door against a store that fails in the worst moments."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from control.apiserver.config import EtcdConfig
from control.apiserver.etcd import (
    CompactedError,
    Etcd,
    KeyExistsError,
    RevisionMismatchError,
    StoreUnavailableError,
    range_end,
)
from proto.etcd import kv_pb2, rpc_pb2, rpc_pb2_grpc


class Member(rpc_pb2_grpc.KVServicer):
    """Single keys, guarded transactions, and answers that get lost."""

    def __init__(self) -> None:
        self.revision = 1
        self.keys: dict[bytes, tuple[bytes, int]] = {}
        self.lost_answers = 0
        self.calls = 0

    async def Range(self, request: rpc_pb2.RangeRequest, context: Any) -> rpc_pb2.RangeResponse:
        self.calls += 1
        if request.revision and request.revision < 5:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
        return self.read(request.key)

    def read(self, key: bytes) -> rpc_pb2.RangeResponse:
        header = rpc_pb2.ResponseHeader(revision=self.revision)
        if key not in self.keys:
            return rpc_pb2.RangeResponse(header=header)
        value, revision = self.keys[key]
        return rpc_pb2.RangeResponse(
            header=header, count=1, kvs=[kv_pb2.KeyValue(key=key, value=value, mod_revision=revision)]
        )

    async def Put(self, request: rpc_pb2.PutRequest, context: Any) -> rpc_pb2.PutResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Put")
        return rpc_pb2.PutResponse()

    async def DeleteRange(self, request: rpc_pb2.DeleteRangeRequest, context: Any) -> rpc_pb2.DeleteRangeResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "DeleteRange")
        return rpc_pb2.DeleteRangeResponse()

    async def Compact(self, request: rpc_pb2.CompactionRequest, context: Any) -> rpc_pb2.CompactionResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Compact")
        return rpc_pb2.CompactionResponse()

    async def Txn(self, request: rpc_pb2.TxnRequest, context: Any) -> rpc_pb2.TxnResponse:
        self.calls += 1
        guard = request.compare[0]
        stands = self.keys.get(guard.key, (b"", 0))[1]
        answer = rpc_pb2.TxnResponse(succeeded=stands == guard.mod_revision)
        if answer.succeeded:
            self.revision += 1
            operation = request.success[0]
            if operation.HasField("request_put"):
                self.keys[guard.key] = (operation.request_put.value, self.revision)
            else:
                del self.keys[guard.key]
        else:
            answer.responses.append(rpc_pb2.ResponseOp(response_range=self.read(guard.key)))
        answer.header.revision = self.revision
        if self.lost_answers:
            self.lost_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
        return answer


@asynccontextmanager
async def cluster(**settings: Any) -> AsyncIterator[tuple[Etcd, Member]]:
    """Run a member; the client knows a dead one before it."""
    member = Member()
    server = grpc.aio.server()
    rpc_pb2_grpc.add_KVServicer_to_server(member, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    store = Etcd(EtcdConfig(("http://127.0.0.1:1", f"http://127.0.0.1:{port}"), **settings))
    try:
        yield store, member
    finally:
        await store.close()
        await server.stop(None)


async def test_a_dead_member_is_passed_over() -> None:
    async with cluster() as (store, member):
        assert await store.create("/k", b"1") == 2
        assert (await store.get("/k"))[0] is not None
        assert member.calls == 2


async def test_a_write_whose_answer_was_lost_is_done_once_and_is_no_conflict() -> None:
    async with cluster() as (store, member):
        member.lost_answers = 1
        created = await store.create("/k", b"1")
        assert (created, member.revision) == (2, 2)
        member.lost_answers = 2
        updated = await store.update("/k", b"2", created)
        assert (updated, member.revision) == (3, 3)
        member.lost_answers = 1
        await store.delete("/k", updated)
        assert member.keys == {}


async def test_what_others_wrote_meanwhile_is_a_conflict_all_the_same() -> None:
    async with cluster() as (store, _):
        await store.create("/k", b"theirs")
        with pytest.raises(KeyExistsError):
            await store.create("/k", b"ours")
        with pytest.raises(RevisionMismatchError) as caught:
            await store.update("/k", b"ours", 7)
        assert caught.value.current is not None
        assert caught.value.current.value == b"theirs"
        with pytest.raises(RevisionMismatchError):
            await store.delete("/other", 3)


async def test_the_wait_for_a_store_has_an_end() -> None:
    store = Etcd(EtcdConfig(("http://127.0.0.1:1",), request_timeout_s=0.3))
    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(store.get("/k"), 5)
    await store.close()


async def test_compaction_has_a_name() -> None:
    async with cluster() as (store, _):
        with pytest.raises(CompactedError):
            await store.page("/registry/", revision=2)


@pytest.mark.parametrize(("prefix", "end"), [(b"/a/", b"/a0"), (b"a\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")])
def test_range_ends(prefix: bytes, end: bytes) -> None:
    assert range_end(prefix) == end
