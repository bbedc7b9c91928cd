"""Whatever etcd answers, ours answers: each call of the conversation, and watches, on both at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from tests.store.api.conftest import Member
from tests.store.api.conversation import (
    ALARM_CALLS,
    AUTH_CALLS,
    CALLS,
    MAINTENANCE_CALLS,
    QUEUE_CALLS,
    RANGE_OF_ALL,
    say,
)
from tests.store.mvcc.requests import op_delete, op_put
from tests.store.programs import etcd_server

pytestmark = pytest.mark.root


@pytest.fixture
async def etcd(etcds: dict[str, Path], tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    """Debian's newest etcd, one member."""
    async with (
        etcd_server(etcds["newest"], tmp_path / "etcd") as endpoint,
        grpc.aio.insecure_channel(endpoint) as channel,
    ):
        yield channel


@pytest.mark.parametrize(
    "calls",
    [CALLS, QUEUE_CALLS, ALARM_CALLS, MAINTENANCE_CALLS],
    ids=["keys", "locks and elections", "alarms", "maintenance"],
)
async def test_every_call_is_answered_alike(member: Member, etcd: grpc.aio.Channel, calls: list[Message]) -> None:
    async with grpc.aio.insecure_channel(member.endpoint) as ours:
        differences = []
        for place, request in enumerate(calls):
            expected = await say(etcd, request)
            answer = await say(ours, request)
            if answer != expected:
                differences.append(f"call {place}: {type(request).__name__} {str(request)[:300]} {answer} {expected}")
    assert not differences


async def test_users_and_roles_are_kept_alike(member: Member, etcd: grpc.aio.Channel) -> None:
    differences: list[str] = []
    tokens: list[dict[str, str]] = [{"forged": "forged.1"}, {"forged": "forged.1"}]
    async with grpc.aio.insecure_channel(member.endpoint) as ours:
        for place, (who, request) in enumerate(AUTH_CALLS):
            answers = []
            for channel, known in ((etcd, tokens[0]), (ours, tokens[1])):
                code, text, response = await say(channel, request, known.get(who, ""))
                if isinstance(request, pb.AuthenticateRequest) and isinstance(response, pb.AuthenticateResponse):
                    known[request.name] = response.token
                    response.ClearField("token")
                answers.append((code, text, response))
            if answers[1] != answers[0]:
                differences.append(f"call {place}: {who} {type(request).__name__} {request} {answers}")
    assert not differences


WATCHES = [
    pb.WatchCreateRequest(key=b"a"),
    pb.WatchCreateRequest(**RANGE_OF_ALL, start_revision=1, prev_kv=True),
    pb.WatchCreateRequest(**RANGE_OF_ALL, start_revision=3, filters=[pb.WatchCreateRequest.NOPUT]),
    pb.WatchCreateRequest(key=b"a", range_end=b"c", filters=[pb.WatchCreateRequest.NODELETE], prev_kv=True),
    pb.WatchCreateRequest(key=b"c", range_end=b"a"),
    pb.WatchCreateRequest(**RANGE_OF_ALL, watch_id=1),
    pb.WatchCreateRequest(**RANGE_OF_ALL, start_revision=7),
]


async def watch_all(channel: grpc.aio.Channel) -> tuple[list[object], dict[int, list[bytes]]]:
    """Write, watch from the past and the present, write again; return the creations, and the events by watcher."""
    kv, watches = rpc_pb2_grpc.KVStub(channel), rpc_pb2_grpc.WatchStub(channel)
    for number in range(2):
        await kv.Put(pb.PutRequest(key=b"a", value=b"%d" % number))
    stream = watches.Watch()
    created: list[object] = []
    sent: dict[int, list[bytes]] = {}
    unfinished: set[int] = set()

    async def receive() -> pb.WatchResponse:
        async with asyncio.timeout(10):
            response = await stream.read()
        assert isinstance(response, pb.WatchResponse)
        for event in response.events:
            sent.setdefault(response.watch_id, []).append(event.SerializeToString(deterministic=True))
            if event.kv.value == b"end" or (event.type == event.DELETE and event.kv.key == b"d"):
                last_is_deletion = response.watch_id == 2
                if last_is_deletion == (event.type == event.DELETE):
                    unfinished.discard(response.watch_id)
        return response

    for request in WATCHES:
        await stream.write(pb.WatchRequest(create_request=request))
        while not (response := await receive()).created:
            pass
        created.append((response.watch_id, response.canceled, response.cancel_reason, response.header.revision))
        if not response.canceled:
            unfinished.add(response.watch_id)
    await kv.Put(pb.PutRequest(key=b"b", value=b"x"))
    await kv.Txn(pb.TxnRequest(success=[op_put(b"c"), op_delete(b"a"), op_put(b"d")]))
    await kv.DeleteRange(pb.DeleteRangeRequest(key=b"b", range_end=b"z"))
    await kv.Put(pb.PutRequest(key=b"end"))
    await kv.Put(pb.PutRequest(key=b"a", value=b"end"))
    while unfinished:
        await receive()
    stream.cancel()
    return created, sent


async def test_watchers_are_told_alike(member: Member, etcd: grpc.aio.Channel) -> None:
    async with grpc.aio.insecure_channel(member.endpoint) as ours:
        expected = await watch_all(etcd)
        assert await watch_all(ours) == expected
