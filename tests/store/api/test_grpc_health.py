"""gRPC's health service, through both doors."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from proto.health import health_pb2, health_pb2_grpc
from tests.store.api.conftest import Member

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


async def test_a_member_that_answers_serves(member: Member) -> None:
    async with grpc.aio.insecure_channel(member.endpoint) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest(service="etcdserverpb.KV"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        assert refused.value.details() == "unknown service"


@pytest.mark.parametrize(("service", "status"), [("", SERVING), ("none", SERVICE_UNKNOWN)], ids=["all", "unknown"])
async def test_a_watch_is_told_at_once_and_stays_open(member: Member, service: str, status: int) -> None:
    async with grpc.aio.insecure_channel(member.endpoint) as channel:
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
        first = await asyncio.wait_for(call.read(), 30)
        assert isinstance(first, health_pb2.HealthCheckResponse)
        assert first.status == status
        assert not call.done()
        call.cancel()
