"""A conversation with a store, call by call: the same must be said by ours and by etcd."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import Message

from proto.etcd import election_pb2, lock_pb2
from proto.etcd import rpc_pb2 as pb
from proto.etcd.auth_pb2 import Permission
from tests.store.mvcc.requests import op_delete, op_put, op_range, op_txn

RESPONSES: dict[type[Message], tuple[str, type[Message]]] = {
    pb.RangeRequest: ("/etcdserverpb.KV/Range", pb.RangeResponse),
    pb.PutRequest: ("/etcdserverpb.KV/Put", pb.PutResponse),
    pb.DeleteRangeRequest: ("/etcdserverpb.KV/DeleteRange", pb.DeleteRangeResponse),
    pb.TxnRequest: ("/etcdserverpb.KV/Txn", pb.TxnResponse),
    pb.CompactionRequest: ("/etcdserverpb.KV/Compact", pb.CompactionResponse),
    pb.LeaseGrantRequest: ("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantResponse),
    pb.LeaseRevokeRequest: ("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeResponse),
    pb.LeaseTimeToLiveRequest: ("/etcdserverpb.Lease/LeaseTimeToLive", pb.LeaseTimeToLiveResponse),
    pb.LeaseLeasesRequest: ("/etcdserverpb.Lease/LeaseLeases", pb.LeaseLeasesResponse),
    pb.AlarmRequest: ("/etcdserverpb.Maintenance/Alarm", pb.AlarmResponse),
    pb.DefragmentRequest: ("/etcdserverpb.Maintenance/Defragment", pb.DefragmentResponse),
    pb.HashKVRequest: ("/etcdserverpb.Maintenance/HashKV", pb.HashKVResponse),
    pb.MoveLeaderRequest: ("/etcdserverpb.Maintenance/MoveLeader", pb.MoveLeaderResponse),
    pb.DowngradeRequest: ("/etcdserverpb.Maintenance/Downgrade", pb.DowngradeResponse),
}
AUTH_METHODS = (
    *("AuthEnable", "AuthDisable", "AuthStatus", "Authenticate"),
    *("UserAdd", "UserGet", "UserList", "UserDelete", "UserChangePassword", "UserGrantRole", "UserRevokeRole"),
    *("RoleAdd", "RoleGet", "RoleList", "RoleDelete", "RoleGrantPermission", "RoleRevokePermission"),
)
for method in ("Lock", "Unlock"):
    kinds = getattr(lock_pb2, f"{method}Request"), getattr(lock_pb2, f"{method}Response")
    RESPONSES[kinds[0]] = (f"/v3lockpb.Lock/{method}", kinds[1])
for method in ("Campaign", "Proclaim", "Leader", "Resign"):
    kinds = getattr(election_pb2, f"{method}Request"), getattr(election_pb2, f"{method}Response")
    RESPONSES[kinds[0]] = (f"/v3electionpb.Election/{method}", kinds[1])
for method in AUTH_METHODS:
    name = method if method.startswith("Auth") else f"Auth{method}"
    RESPONSES[getattr(pb, f"{name}Request")] = (f"/etcdserverpb.Auth/{method}", getattr(pb, f"{name}Response"))

RANGE_OF_ALL: dict[str, Any] = {"key": b"\0", "range_end": b"\0"}
COMPARE_A = pb.Compare(key=b"a", target=pb.Compare.VERSION, result=pb.Compare.GREATER, version=0)
SORTS = [
    pb.RangeRequest(**RANGE_OF_ALL, sort_order=order, sort_target=target, limit=limit)
    for order in (pb.RangeRequest.NONE, pb.RangeRequest.ASCEND, pb.RangeRequest.DESCEND)
    for target in (
        pb.RangeRequest.KEY,
        pb.RangeRequest.CREATE,
        pb.RangeRequest.MOD,
        pb.RangeRequest.VALUE,
    )
    for limit in (0, 2)
]

CALLS: list[Message] = [
    pb.RangeRequest(key=b"a"),
    pb.RangeRequest(),
    pb.PutRequest(),
    pb.PutRequest(key=b"a", value=b"3"),
    pb.PutRequest(key=b"b", value=b"2", prev_kv=True),
    pb.PutRequest(key=b"b", value=b"1", prev_kv=True),
    pb.PutRequest(key=b"c", value=b"4"),
    pb.PutRequest(key=b"none", ignore_value=True),
    pb.PutRequest(key=b"none", ignore_lease=True),
    pb.PutRequest(key=b"a", value=b"x", ignore_value=True),
    pb.PutRequest(key=b"a", lease=5, ignore_lease=True),
    pb.PutRequest(key=b"a", lease=404),
    pb.PutRequest(key=b"a", ignore_value=True, prev_kv=True),
    pb.LeaseGrantRequest(ID=77, TTL=3600),
    pb.LeaseGrantRequest(ID=77, TTL=3600),
    pb.LeaseGrantRequest(ID=78, TTL=9_000_000_001),
    pb.LeaseGrantRequest(ID=79, TTL=0),
    pb.LeaseRevokeRequest(ID=404),
    pb.PutRequest(key=b"leased/1", value=b"l", lease=77),
    pb.PutRequest(key=b"leased/2", value=b"l", lease=77),
    pb.PutRequest(key=b"leased/2", value=b"m", ignore_lease=True),
    pb.LeaseLeasesRequest(),
    pb.LeaseTimeToLiveRequest(ID=404),
    pb.RangeRequest(**RANGE_OF_ALL),
    *SORTS,
    pb.RangeRequest(**RANGE_OF_ALL, keys_only=True),
    pb.RangeRequest(**RANGE_OF_ALL, count_only=True),
    pb.RangeRequest(**RANGE_OF_ALL, count_only=True, limit=1),
    pb.RangeRequest(**RANGE_OF_ALL, limit=3),
    pb.RangeRequest(**RANGE_OF_ALL, limit=-1),
    pb.RangeRequest(**RANGE_OF_ALL, revision=3),
    pb.RangeRequest(**RANGE_OF_ALL, revision=3, limit=1),
    pb.RangeRequest(**RANGE_OF_ALL, revision=-3),
    pb.RangeRequest(**RANGE_OF_ALL, revision=99),
    pb.RangeRequest(**RANGE_OF_ALL, min_mod_revision=4, limit=1),
    pb.RangeRequest(**RANGE_OF_ALL, max_create_revision=3),
    pb.RangeRequest(key=b"c", range_end=b"a"),
    pb.RangeRequest(key=b"b", range_end=b"\0", serializable=True),
    pb.RangeRequest(key=b"b", serializable=True),
    pb.RangeRequest(key=b"b", limit=1),
    pb.RangeRequest(key=b"b", limit=1, serializable=True),
    pb.RangeRequest(key=b"absent"),
    pb.RangeRequest(key=b"absent", serializable=True),
    pb.TxnRequest(),
    pb.TxnRequest(compare=[COMPARE_A], success=[op_range(b"a")], failure=[op_put(b"a")]),
    pb.TxnRequest(compare=[COMPARE_A], success=[op_put(b"t", b"1", prev_kv=True), op_range(b"t")]),
    pb.TxnRequest(success=[op_put(b"t", b"2", prev_kv=True), op_delete(b"b", prev_kv=True), op_range(b"a", b"z")]),
    pb.TxnRequest(success=[op_txn(COMPARE_A, then=(op_put(b"n"), op_txn(then=(op_range(b"n"),))))]),
    pb.TxnRequest(success=[op_delete(b"absent"), op_range(b"a")]),
    pb.TxnRequest(success=[op_put(b"z", lease=404)]),
    pb.TxnRequest(success=[op_put(b"z", ignore_value=True)]),
    pb.TxnRequest(success=[op_range(b"a", revision=99)]),
    pb.TxnRequest(success=[op_put(b"q"), op_range(b"a", revision=99)]),
    pb.TxnRequest(success=[op_put(b"z"), op_put(b"z")]),
    pb.TxnRequest(success=[op_put(b"z"), op_delete(b"a", b"zz")]),
    pb.TxnRequest(success=[op_put(b"%d" % number) for number in range(129)]),
    pb.TxnRequest(success=[pb.RequestOp()]),
    pb.TxnRequest(compare=[pb.Compare()]),
    pb.TxnRequest(compare=[pb.Compare(key=b"none", target=pb.Compare.VALUE)]),
    pb.TxnRequest(compare=[pb.Compare(key=b"none", target=pb.Compare.LEASE)]),
    pb.TxnRequest(
        compare=[pb.Compare(key=b"a", range_end=b"z", target=pb.Compare.MOD, result=pb.Compare.GREATER, mod_revision=1)]
    ),
    pb.DeleteRangeRequest(),
    pb.DeleteRangeRequest(key=b"absent"),
    pb.DeleteRangeRequest(key=b"n", prev_kv=True),
    pb.DeleteRangeRequest(key=b"c", range_end=b"a"),
    pb.LeaseRevokeRequest(ID=77),
    pb.RangeRequest(**RANGE_OF_ALL),
    pb.CompactionRequest(revision=99),
    pb.CompactionRequest(revision=5),
    pb.CompactionRequest(revision=5),
    pb.CompactionRequest(revision=4),
    pb.RangeRequest(**RANGE_OF_ALL, revision=4),
    pb.RangeRequest(**RANGE_OF_ALL, revision=5),
    pb.TxnRequest(success=[op_range(b"a", revision=4)]),
    pb.CompactionRequest(revision=9, physical=True),
    pb.RangeRequest(**RANGE_OF_ALL, revision=9),
    pb.PutRequest(key=b"big", value=b"x" * 1_600_000),
    pb.AlarmRequest(),
    pb.DeleteRangeRequest(key=b"\0", range_end=b"\0"),
    pb.RangeRequest(**RANGE_OF_ALL),
]


ACTIVATE, DEACTIVATE = pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE
# The alarms of a member that is not one: ours clears its own alarm where there is space, etcd none.
FULL = pb.AlarmRequest(action=ACTIVATE, memberID=7, alarm=pb.NOSPACE)
CORRUPT = pb.AlarmRequest(action=ACTIVATE, memberID=7, alarm=pb.CORRUPT)
CHANGES: list[Message] = [
    pb.PutRequest(key=b"b"),
    pb.PutRequest(key=b"b", lease=404),
    pb.TxnRequest(compare=[COMPARE_A], success=[op_put(b"b")]),
    pb.TxnRequest(compare=[COMPARE_A], success=[op_delete(b"b")], failure=[op_put(b"b")]),
    pb.TxnRequest(success=[op_delete(b"b")]),
    pb.TxnRequest(success=[op_range(b"b")]),
    pb.DeleteRangeRequest(key=b"a"),
    pb.LeaseGrantRequest(ID=6, TTL=60),
    pb.LeaseRevokeRequest(ID=5),
    pb.LeaseTimeToLiveRequest(ID=404),
    pb.RangeRequest(**RANGE_OF_ALL),
    pb.RangeRequest(**RANGE_OF_ALL, serializable=True),
    pb.CompactionRequest(revision=2),
    pb.AuthRoleAddRequest(name="role"),
    pb.AlarmRequest(),
    pb.AlarmRequest(memberID=7),
    pb.AlarmRequest(memberID=8),
]

ALARM_CALLS: list[Message] = [
    pb.PutRequest(key=b"a"),
    pb.LeaseGrantRequest(ID=5, TTL=60),
    FULL,
    FULL,
    *CHANGES,
    pb.AlarmRequest(action=DEACTIVATE, memberID=8, alarm=pb.NOSPACE),
    pb.AlarmRequest(action=DEACTIVATE, memberID=7),
    pb.AlarmRequest(action=DEACTIVATE, alarm=pb.NOSPACE),
    pb.AlarmRequest(action=ACTIVATE, memberID=7),
    pb.AlarmRequest(alarm=pb.CORRUPT),
    pb.AlarmRequest(alarm=pb.NOSPACE),
    pb.AlarmRequest(action=DEACTIVATE, memberID=7, alarm=pb.CORRUPT),
    pb.PutRequest(key=b"b"),
    pb.AlarmRequest(action=DEACTIVATE, memberID=7, alarm=pb.NOSPACE),
    pb.PutRequest(key=b"b"),
    pb.LeaseGrantRequest(ID=5, TTL=60),
    CORRUPT,
    *CHANGES,
    FULL,
    pb.AlarmRequest(),
    pb.PutRequest(key=b"b"),
    pb.AlarmRequest(action=DEACTIVATE, memberID=7, alarm=pb.CORRUPT),
    pb.AlarmRequest(action=DEACTIVATE, memberID=7, alarm=pb.NOSPACE),
    *CHANGES,
]

# Only what is refused: checksums and versions differ.
MAINTENANCE_CALLS: list[Message] = [
    pb.PutRequest(key=b"a"),
    pb.PutRequest(key=b"a"),
    pb.PutRequest(key=b"a"),
    pb.HashKVRequest(revision=99),
    pb.CompactionRequest(revision=3, physical=True),
    pb.HashKVRequest(revision=2),
    pb.DowngradeRequest(action=pb.DowngradeRequest.CANCEL),
    pb.DowngradeRequest(action=pb.DowngradeRequest.VALIDATE),
    pb.DowngradeRequest(action=pb.DowngradeRequest.VALIDATE, version="nonsense"),
    pb.DowngradeRequest(action=pb.DowngradeRequest.VALIDATE, version="3.3.0"),
    pb.DowngradeRequest(action=pb.DowngradeRequest.ENABLE, version="3.3.0"),
    pb.DowngradeRequest(action=7),  # type: ignore[arg-type]
    pb.MoveLeaderRequest(targetID=404),
    pb.MoveLeaderRequest(),
]

OFFICE = election_pb2.LeaderKey(name=b"office", key=b"office/5", rev=4, lease=5)

QUEUE_CALLS: list[Message] = [
    lock_pb2.LockRequest(name=b"m", lease=404),
    lock_pb2.LockRequest(lease=404),
    pb.LeaseGrantRequest(ID=5, TTL=3600),
    lock_pb2.LockRequest(name=b"m", lease=5),
    lock_pb2.LockRequest(name=b"m", lease=5),
    lock_pb2.UnlockRequest(),
    lock_pb2.UnlockRequest(key=b"m/5"),
    lock_pb2.UnlockRequest(key=b"m/5"),
    election_pb2.LeaderRequest(name=b"office"),
    election_pb2.LeaderRequest(),
    election_pb2.ProclaimRequest(),
    election_pb2.ProclaimRequest(leader=election_pb2.LeaderKey()),
    election_pb2.ResignRequest(),
    election_pb2.ResignRequest(leader=election_pb2.LeaderKey()),
    election_pb2.CampaignRequest(name=b"office", lease=404),
    election_pb2.CampaignRequest(name=b"office", lease=5, value=b"one"),
    election_pb2.CampaignRequest(name=b"office", lease=5, value=b"two"),
    election_pb2.LeaderRequest(name=b"office"),
    election_pb2.ProclaimRequest(leader=OFFICE, value=b"three"),
    election_pb2.LeaderRequest(name=b"office"),
    election_pb2.ResignRequest(leader=election_pb2.LeaderKey(name=b"office", key=b"office/5", rev=1, lease=5)),
    election_pb2.ProclaimRequest(leader=election_pb2.LeaderKey(name=b"office", key=b"office/5", rev=1, lease=5)),
    election_pb2.ResignRequest(leader=OFFICE),
    election_pb2.ResignRequest(leader=OFFICE),
    election_pb2.ProclaimRequest(leader=OFFICE),
    pb.RangeRequest(**RANGE_OF_ALL),
]


READ, WRITE, READWRITE = Permission.READ, Permission.WRITE, Permission.READWRITE


def may(role: str, kind: Permission.Type.ValueType, key: bytes, range_end: bytes = b"") -> Message:
    return pb.AuthRoleGrantPermissionRequest(name=role, perm=Permission(permType=kind, key=key, range_end=range_end))


def prove(name: str, password: str) -> Message:
    return pb.AuthenticateRequest(name=name, password=password)


AUTH_CALLS: list[tuple[str, Message]] = [
    ("", pb.AuthEnableRequest()),
    ("", prove("root", "secret")),
    ("", pb.AuthUserAddRequest(password="x")),
    ("", pb.AuthUserAddRequest(name="root", password="secret")),
    ("", pb.AuthUserAddRequest(name="root", password="secret")),
    ("", pb.AuthEnableRequest()),
    ("", pb.AuthUserGrantRoleRequest(user="root", role="none")),
    ("", pb.AuthUserGrantRoleRequest(user="none", role="root")),
    ("", pb.AuthRoleAddRequest(name="root")),
    ("", pb.AuthUserGrantRoleRequest(user="root", role="root")),
    ("", pb.AuthUserGrantRoleRequest(user="root", role="root")),
    ("", pb.AuthRoleAddRequest()),
    ("", pb.AuthRoleAddRequest(name="reader")),
    ("", pb.AuthRoleAddRequest(name="reader")),
    ("", may("none", READ, b"a")),
    ("", may("reader", READ, b"a", b"c")),
    ("", may("reader", READ, b"c", b"e")),
    ("", may("reader", WRITE, b"w")),
    ("", pb.AuthRoleGetRequest(role="reader")),
    ("", pb.AuthRoleGetRequest(role="root")),
    ("", pb.AuthRoleGetRequest(role="none")),
    ("", pb.AuthUserAddRequest(name="ann", password="pw")),
    ("", pb.AuthUserAddRequest(name="bob", password="pw")),
    ("", pb.AuthUserGrantRoleRequest(user="ann", role="reader")),
    ("", pb.AuthUserGetRequest(name="ann")),
    ("", pb.AuthUserGetRequest(name="none")),
    ("", pb.PutRequest(key=b"b", value=b"1")),
    ("", pb.AuthEnableRequest()),
    ("", pb.AuthEnableRequest()),
    ("", pb.RangeRequest(key=b"b")),
    ("", pb.PutRequest(key=b"b")),
    ("", prove("root", "wrong")),
    ("", prove("none", "wrong")),
    ("", prove("root", "secret")),
    ("", prove("ann", "pw")),
    ("", prove("bob", "pw")),
    ("forged", pb.RangeRequest(key=b"b")),
    ("root", pb.AuthUserListRequest()),
    ("root", pb.AuthRoleListRequest()),
    ("root", pb.PutRequest(key=b"w", value=b"2")),
    ("ann", pb.RangeRequest(key=b"b")),
    ("ann", pb.RangeRequest(key=b"a", range_end=b"e")),
    ("ann", pb.RangeRequest(key=b"a", range_end=b"f")),
    ("ann", pb.RangeRequest(key=b"a", range_end=b"\0")),
    ("ann", pb.RangeRequest(key=b"w")),
    ("ann", pb.PutRequest(key=b"w", value=b"3")),
    ("ann", pb.PutRequest(key=b"w", value=b"3", prev_kv=True)),
    ("ann", pb.PutRequest(key=b"b")),
    ("ann", pb.DeleteRangeRequest(key=b"b")),
    ("ann", pb.TxnRequest(success=[op_range(b"b"), op_put(b"w")])),
    ("ann", pb.TxnRequest(success=[op_range(b"b")], failure=[op_put(b"x")])),
    ("ann", pb.TxnRequest(compare=[pb.Compare(key=b"x")], success=[op_range(b"b")])),
    ("ann", pb.AuthUserListRequest()),
    ("ann", pb.AuthUserGetRequest(name="ann")),
    ("ann", pb.AuthUserGetRequest(name="bob")),
    ("ann", pb.AuthRoleGetRequest(role="reader")),
    ("ann", pb.AuthRoleGetRequest(role="root")),
    ("ann", pb.AuthDisableRequest()),
    ("bob", pb.RangeRequest(key=b"b")),
    ("root", pb.AuthUserChangePasswordRequest(name="bob", password="new")),
    ("bob", pb.RangeRequest(key=b"b")),
    ("", prove("bob", "pw")),
    ("", prove("bob", "new")),
    ("root", pb.AuthRoleRevokePermissionRequest(role="reader", key=b"c", range_end=b"e")),
    ("root", pb.AuthRoleRevokePermissionRequest(role="reader", key=b"c", range_end=b"e")),
    ("ann", pb.RangeRequest(key=b"a", range_end=b"e")),
    ("root", pb.AuthUserRevokeRoleRequest(name="ann", role="reader")),
    ("root", pb.AuthUserRevokeRoleRequest(name="ann", role="reader")),
    ("ann", pb.RangeRequest(key=b"b")),
    ("root", pb.AuthUserRevokeRoleRequest(name="root", role="root")),
    ("root", pb.AuthUserDeleteRequest(name="root")),
    ("root", pb.AuthRoleDeleteRequest(role="root")),
    ("root", pb.AuthUserDeleteRequest(name="none")),
    ("root", pb.AuthUserDeleteRequest(name="ann")),
    ("root", pb.AuthRoleDeleteRequest(role="reader")),
    ("root", pb.AuthRoleDeleteRequest(role="reader")),
    ("root", pb.AuthDisableRequest()),
    ("", pb.RangeRequest(key=b"b")),
    ("", prove("root", "secret")),
]


async def say(
    channel: grpc.aio.Channel, request: Message, token: str = ""
) -> tuple[grpc.StatusCode, str, Message | None]:
    """Make a call and return its status and its response, without what differs from cluster to cluster."""
    path, kind = RESPONSES[type(request)]
    method: Any = channel.unary_unary(path, lambda message: message.SerializeToString(), kind.FromString)
    try:
        response: Any = await method(request, metadata=(("token", token),) if token else ())
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or "", None
    response.header.ClearField("cluster_id")
    response.header.ClearField("member_id")
    response.header.ClearField("raft_term")
    if isinstance(response, pb.AlarmResponse):
        response.header.ClearField("revision")  # etcd leaves it out of this one
        response.alarms.sort(key=lambda member: member.alarm)  # and has them in no order
    return grpc.StatusCode.OK, "", response
