"""Users, roles and rights as plain data."""

from __future__ import annotations

import pytest

from proto.etcd import rpc_pb2 as pb
from proto.etcd.auth_pb2 import Permission
from proto.raft.command_pb2 import AuthEnable, InternalRequest
from store.machine import Machine
from store.refusal import Reason, Refused
from tests.store.mvcc.requests import call, grant, op_put, op_range, op_txn, put, revoke, txn


def user_add(name: str) -> InternalRequest:
    return InternalRequest(auth_user_add=pb.AuthUserAddRequest(name=name, hashedPassword="h"))


def give(user: str, role: str) -> InternalRequest:
    return InternalRequest(auth_user_grant_role=pb.AuthUserGrantRoleRequest(user=user, role=role))


def allow(role: str, kind: Permission.Type.ValueType, key: bytes, range_end: bytes = b"") -> InternalRequest:
    permission = Permission(permType=kind, key=key, range_end=range_end)
    return InternalRequest(auth_role_grant_permission=pb.AuthRoleGrantPermissionRequest(name=role, perm=permission))


@pytest.fixture
def machine() -> Machine:
    """ann reads a..c and c..e and from x on, and writes w; lease 7 holds b, which is not hers."""
    machine = Machine()
    for request in (
        user_add("root"),
        give("root", "root"),
        user_add("ann"),
        InternalRequest(auth_role_add=pb.AuthRoleAddRequest(name="some")),
        allow("some", Permission.READ, b"a", b"c"),
        allow("some", Permission.READ, b"c", b"e"),
        allow("some", Permission.READ, b"x", b"\0"),
        allow("some", Permission.WRITE, b"w"),
        give("ann", "some"),
        grant(7),
        put(b"b", lease=7),
        InternalRequest(auth_enable=AuthEnable(secret=b"s")),
    ):
        call(machine, request)
    return machine


@pytest.mark.parametrize(
    ("key", "range_end", "allowed"),
    [
        (b"a", b"", True),
        (b"d", b"", True),
        (b"e", b"", False),
        (b"a", b"e", True),
        (b"a", b"f", False),
        (b"A", b"b", False),
        (b"x", b"\0", True),
        (b"y", b"z", True),
        (b"w", b"\0", False),
        (b"w", b"", False),
        (b"\0", b"\0", False),
    ],
    ids=str,
)
def test_a_request_may_span_what_several_permissions_give(
    machine: Machine, key: bytes, range_end: bytes, allowed: bool
) -> None:
    machine.auth.check_read("root", key, range_end)
    if allowed:
        machine.auth.check_read("ann", key, range_end)
        return
    with pytest.raises(Refused) as refused:
        machine.auth.check_read("ann", key, range_end)
    assert refused.value.reason == Reason.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (put(b"w"), None),
        (put(b"b"), Reason.PERMISSION_DENIED),
        (put(b"w", prev_kv=True), Reason.PERMISSION_DENIED),
        (put(b"w", lease=7), Reason.PERMISSION_DENIED),
        (txn(then=(op_put(b"w"), op_range(b"a"))), None),
        (txn(otherwise=(op_put(b"b"),)), Reason.PERMISSION_DENIED),
        (txn(then=(op_txn(then=(op_put(b"b"),)),)), Reason.PERMISSION_DENIED),
        (revoke(7), Reason.PERMISSION_DENIED),
        (user_add("eve"), Reason.PERMISSION_DENIED),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_rights_are_looked_at_again_when_a_request_is_applied(
    machine: Machine, request_: InternalRequest, reason: Reason | None
) -> None:
    asked = InternalRequest()
    asked.CopyFrom(request_)
    asked.username, asked.auth_revision = "ann", machine.auth.revision
    result = machine.apply(1, 0, asked.SerializeToString())
    assert (result.reason if isinstance(result, Refused) else None) == reason


def test_what_was_checked_before_the_last_change_is_refused(machine: Machine) -> None:
    asked = put(b"w")
    asked.username, asked.auth_revision = "ann", machine.auth.revision
    call(machine, user_add("eve"))
    with pytest.raises(Refused) as refused:
        call(machine, asked)
    assert refused.value.reason == Reason.AUTH_OLD_REVISION


def test_the_store_itself_needs_no_rights(machine: Machine) -> None:
    call(machine, revoke(7))
    assert machine.store.get(b"b") is None


def test_rights_outlive_a_snapshot(machine: Machine) -> None:
    restored = Machine()
    restored.restore(machine.snapshot())
    assert restored.auth.state() == machine.auth.state()
    restored.auth.check_read("ann", b"a", b"e")
    with pytest.raises(Refused):
        restored.auth.check_read("ann", b"e", b"")
