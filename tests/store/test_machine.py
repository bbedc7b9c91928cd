"""The state machine: total, deterministic, and whole after a snapshot."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.etcd.rpc_pb2 import AlarmRequest, AlarmType
from proto.raft.command_pb2 import InternalRequest
from store.machine import Machine
from store.refusal import Reason, Refused
from store.snapshot import SnapshotError, decode, sealed
from tests.store.mvcc.requests import call, compact, delete_range, grant, op_delete, op_put, put, revoke, txn

keys = st.sampled_from([b"", b"a", b"b", b"c"])
requests = st.one_of(
    st.builds(put, keys, st.binary(max_size=4), lease=st.integers(0, 2), ignore_value=st.booleans()),
    st.builds(delete_range, keys, keys),
    st.builds(grant, st.integers(0, 2), st.integers(1, 9)),
    st.builds(revoke, st.integers(0, 2)),
    st.builds(compact, st.integers(-1, 12)),
    st.just(txn(then=(op_put(b"a", b"x", lease=1), op_delete(b"b", b"\0")))),
    st.just(InternalRequest()),
)


def encoded(result: object) -> object:
    """A result in a form that can be compared."""
    if isinstance(result, Refused):
        return result.reason
    assert isinstance(result, Message)
    return type(result), result.SerializeToString(deterministic=True)


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(payload: bytes) -> None:
    machine = Machine()
    result = machine.apply(1, 0, payload)
    assert isinstance(result, Refused | Message)


@given(st.lists(requests, max_size=30), st.integers(0, 30))
@settings(deadline=None)
def test_members_agree_also_after_a_snapshot(history: list[InternalRequest], cut: int) -> None:
    first, second = Machine(), Machine()
    for index, request in enumerate(history):
        if index == cut:
            restored = Machine()
            restored.restore(second.snapshot())
            second = restored
        payload = request.SerializeToString()
        assert encoded(first.apply(index, 0, payload)) == encoded(second.apply(index, 0, payload))
        if index % 3 == 0:
            first.store.scrub(1)
    now = first.store.current_revision
    assert first.store.hash(now) == second.store.hash(now)
    assert [(lease.lease_id, lease.ttl_s, lease.keys) for lease in first.lessor.leases()] == [
        (lease.lease_id, lease.ttl_s, lease.keys) for lease in second.lessor.leases()
    ]


def test_a_snapshot_is_of_the_moment_it_was_asked_for() -> None:
    machine = Machine()
    for number in range(2000):
        call(machine, put(b"%d" % (number % 50), b"v"))
    expected = machine.store.hash(2001)
    chunks = machine.snapshot()
    first = next(chunks)
    for number in range(500):
        call(machine, put(b"later%d" % number))
    call(machine, compact(2400))
    assert not machine.store.scrub(10_000), "what the snapshot still reads is not freed"
    restored = Machine()
    restored.restore([first, *chunks])
    assert (restored.store.current_revision, restored.store.hash(2001)) == (2001, expected)
    del chunks
    machine.store.scrub(10_000)
    assert machine.store.changes < 600


def test_a_snapshot_may_hold_records_of_leases_that_have_ended() -> None:
    machine = Machine()
    for request in (grant(5), grant(6), put(b"a", lease=5), put(b"b", lease=5), put(b"b", lease=6), revoke(5)):
        call(machine, request)
    call(machine, grant(5))
    call(machine, put(b"c", lease=5))
    for request in (grant(7), put(b"d", lease=7), revoke(7)):
        call(machine, request)
    restored = Machine()
    restored.restore(machine.snapshot())
    assert [(lease.lease_id, lease.keys) for lease in restored.lessor.leases()] == [(5, {b"c"}), (6, {b"b"})]


def test_however_a_snapshot_is_cut_it_is_the_same() -> None:
    machine = Machine()
    for number in range(100):
        call(machine, put(b"%d" % number))
    whole = b"".join(machine.snapshot())
    for size in (1, 7, 1000, len(whole)):
        restored = Machine()
        restored.restore(whole[start : start + size] for start in range(0, len(whole), size))
        assert restored.store.hash(101) == machine.store.hash(101)


@pytest.mark.parametrize("place", [0, 9, 12, 20, 60, -1], ids=str)
def test_a_damaged_snapshot_is_refused_and_the_state_kept(place: int) -> None:
    machine = Machine()
    call(machine, put(b"a", b"1"))
    damaged = bytearray(b"".join(machine.snapshot()))
    damaged[place] ^= 1
    with pytest.raises(SnapshotError):
        machine.restore([bytes(damaged)])
    assert machine.store.get(b"a") is not None


def test_every_cut_of_a_snapshot_is_noticed() -> None:
    machine = Machine()
    call(machine, put(b"a", b"1"))
    whole = b"".join(machine.snapshot())
    for length in range(len(whole)):
        with pytest.raises(SnapshotError):
            list(decode([whole[:length]]))
    with pytest.raises(SnapshotError):
        list(decode([whole + b"x"]))


def test_a_sealed_snapshot_is_whole_sectors_and_a_checksum() -> None:
    machine = Machine()
    call(machine, put(b"a", b"1"))
    saved = b"".join(sealed(machine.snapshot()))
    assert len(saved) % 512 == 32
    restored = Machine()
    restored.restore([saved[:-32]])
    assert restored.store.get(b"a") == machine.store.get(b"a")


def test_without_space_only_what_frees_is_done() -> None:
    machine = Machine()
    call(machine, put(b"a"))
    call(machine, grant(1))
    raise_alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=7, alarm=AlarmType.NOSPACE)
    call(machine, InternalRequest(alarm=raise_alarm))
    for request in (put(b"b"), grant(2), txn(then=(op_put(b"b"),))):
        with pytest.raises(Refused) as refused:
            call(machine, request)
        assert refused.value.reason == Reason.NO_SPACE
    restored = Machine()
    restored.restore(machine.snapshot())
    assert restored.has_no_space
    for request in (txn(then=(op_delete(b"z"),)), delete_range(b"a"), compact(3), revoke(1)):
        call(machine, request)
    clear = AlarmRequest(action=AlarmRequest.DEACTIVATE, memberID=7, alarm=AlarmType.NOSPACE)
    assert len(call(machine, InternalRequest(alarm=clear)).alarms) == 1
    call(machine, put(b"b"))
