"""Users through the gRPC door: tokens, watches, passwords that are nowhere kept."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from proto.etcd.auth_pb2 import Permission
from store.api.access import Access
from store.api.errors import EtcdError, Failure
from store.api.table import Call
from tests.store.api.conftest import Member


@pytest.fixture
async def tokens(member: Member) -> dict[str, str]:
    """Users are enabled; ann may read keys from a to c."""
    async with grpc.aio.insecure_channel(member.endpoint) as channel:
        auth = rpc_pb2_grpc.AuthStub(channel)
        for name in ("root", "ann"):
            await auth.UserAdd(pb.AuthUserAddRequest(name=name, password=f"{name}-password"))
        await auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user="root", role="root"))
        await auth.RoleAdd(pb.AuthRoleAddRequest(name="reader"))
        permission = Permission(permType=Permission.READ, key=b"a", range_end=b"c")
        await auth.RoleGrantPermission(pb.AuthRoleGrantPermissionRequest(name="reader", perm=permission))
        await auth.UserGrantRole(pb.AuthUserGrantRoleRequest(user="ann", role="reader"))
        await auth.AuthEnable(pb.AuthEnableRequest())
        return {
            name: (await auth.Authenticate(pb.AuthenticateRequest(name=name, password=f"{name}-password"))).token
            for name in ("root", "ann")
        }


async def test_a_watch_is_refused_to_who_may_not_read(member: Member, tokens: dict[str, str]) -> None:
    stream = member.watch.Watch(metadata=(("token", tokens["ann"]),))
    answers: list[Any] = []
    for key, range_end in ((b"a", b"c"), (b"a", b"d")):
        await stream.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=key, range_end=range_end)))
        answers.append(await stream.read())
    assert [answer.canceled for answer in answers] == [False, True]
    assert answers[1].cancel_reason == "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
    stream.cancel()
    stranger = member.watch.Watch()
    await stranger.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"a")))
    told: Any = await stranger.read()
    assert told.cancel_reason == "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"


async def test_tokens_grow_old_and_cannot_be_made_up(member: Member, tokens: dict[str, str]) -> None:
    now_s = [0.0]
    access = Access(member.serving.backend, lambda: now_s[0])
    token = access.token_for("ann")
    assert access.caller(Call({"token": token})).name == "ann"
    assert access.caller(Call({"authorization": f"Bearer {token}"})).name == "ann"
    content, _, signature = token.partition(".")
    forged = base64.urlsafe_b64encode(base64.urlsafe_b64decode(content).replace(b"ann", b"root")).decode()
    for worthless in (f"{forged}.{signature}", f"{content}.", content, "x", ".", f"{content}.{signature}0", "é.é"):
        with pytest.raises(EtcdError) as refused:
            access.caller(Call({"token": worthless}))
        assert refused.value.text == Failure.INVALID_AUTH_TOKEN.value[1]
    now_s[0] += 301
    with pytest.raises(EtcdError):
        access.caller(Call({"token": token}))


async def test_a_client_certificate_names_its_user(member: Member, tokens: dict[str, str]) -> None:
    access = Access(member.serving.backend)
    assert access.caller(Call({}, common_name="ann")).name == "ann"
    assert access.caller(Call({"token": tokens["root"]}, common_name="ann")).name == "root"


async def test_no_password_is_kept(member: Member, tokens: dict[str, str]) -> None:
    assert b"-password" not in b"".join(member.serving.backend.machine.snapshot())


@pytest.mark.parametrize("method", ["Defragment", "HashKV", "Hash"])
async def test_upkeep_is_for_root(member: Member, tokens: dict[str, str], method: str) -> None:
    call: Any = getattr(member.maintenance, method)
    request = getattr(pb, f"{method}Request")()
    await call(request, metadata=(("token", tokens["root"]),))
    for metadata, failure in (((("token", tokens["ann"]),), Failure.PERMISSION_DENIED), ((), Failure.USER_EMPTY)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(request, metadata=metadata)
        assert refused.value.details() == failure.value[1]
