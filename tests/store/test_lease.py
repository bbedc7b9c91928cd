"""Leases: what is replicated, and the leader's clock."""

from __future__ import annotations

import pytest

from proto.etcd.kv_pb2 import KeyValue
from store.lease import TTL_MAX_S, Lessor
from store.machine import Machine
from store.mvcc.interval import interval
from store.refusal import Reason, Refused
from tests.store.mvcc.requests import call, delete_range, grant, put, revoke


@pytest.mark.parametrize(
    ("lease_id", "ttl_s", "reason"),
    [(0, 5, Reason.LEASE_NOT_FOUND), (1, 5, Reason.LEASE_EXISTS), (2, TTL_MAX_S + 1, Reason.LEASE_TTL_TOO_LARGE)],
    ids=["no id", "taken", "too long"],
)
def test_refused_grants(lease_id: int, ttl_s: int, reason: Reason) -> None:
    lessor = Lessor()
    lessor.grant(1, 5)
    with pytest.raises(Refused) as refused:
        lessor.grant(lease_id, ttl_s)
    assert refused.value.reason == reason


def test_the_end_of_a_lease_deletes_its_keys_in_order_at_one_revision() -> None:
    machine = Machine()
    for request in (grant(5), put(b"b", b"2", lease=5), put(b"a", b"1", lease=5), put(b"c"), grant(6)):
        call(machine, request)
    stream = machine.watchers.open()
    stream.create(0, interval(b"\0", b"\0"), 0)
    assert call(machine, revoke(5)).header.revision == 5
    delivery = stream.take()
    assert delivery is not None
    assert [(change.key, change.is_delete, change.main) for change in delivery.changes] == [
        (b"a", True, 5),
        (b"b", True, 5),
    ]
    assert [KeyValue.FromString(change.previous or b"").value for change in delivery.changes] == [b"1", b"2"]
    with pytest.raises(Refused):
        call(machine, revoke(5))
    assert call(machine, revoke(6)).header.revision == 5, "a lease without keys changes no key"


def test_keys_belong_to_the_last_lease_they_were_put_with() -> None:
    machine = Machine()
    for request in (grant(1), grant(2), put(b"a", lease=1), put(b"b", lease=1), put(b"c", lease=1)):
        call(machine, request)
    call(machine, put(b"a", lease=2))
    call(machine, put(b"b"))
    call(machine, delete_range(b"c"))
    assert [sorted(lease.keys) for lease in machine.lessor.leases()] == [[], [b"a"]]
    call(machine, revoke(1))
    assert machine.store.get(b"a") is not None


def test_leases_end_when_their_time_is_over() -> None:
    lessor = Lessor()
    lessor.grant(1, 10)
    assert lessor.expired(1e9, 10) == [], "only the leader looks at the clock"
    lessor.promote(100.0)
    lessor.grant(2, 5)
    assert lessor.expired(101.0, 10) == []
    assert lessor.expired(106.0, 10) == [2], "its time began when the leader first saw it"
    assert lessor.expired(106.5, 10) == [], "the revocation is under way"
    assert lessor.expired(110.0, 10) == [2, 1] or lessor.expired(110.0, 10) == [1, 2]


def test_a_renewed_lease_lives_on() -> None:
    lessor = Lessor()
    lessor.grant(1, 10)
    lessor.promote(0.0)
    for now in range(1, 100):
        assert lessor.renew(1, float(now)) == 10
    assert lessor.expired(108.0, 10) == []
    assert lessor.remaining_s(1, 100.0) == 9.0
    assert lessor.expired(109.0, 10) == [1]
    with pytest.raises(Refused):
        lessor.renew(1, 109.0)


def test_a_new_leader_gives_every_lease_its_full_time() -> None:
    lessor = Lessor()
    lessor.grant(1, 10)
    lessor.promote(0.0)
    lessor.demote()
    assert lessor.remaining_s(1, 9.0) == 10
    lessor.promote(9.0)
    assert lessor.expired(18.0, 10) == []
    assert lessor.expired(19.0, 10) == [1]


def test_renewals_do_not_pile_up() -> None:
    lessor = Lessor()
    lessor.grant(1, 10)
    lessor.promote(0.0)
    for now in range(10_000):
        lessor.renew(1, now / 1000)
    assert len(lessor._deadlines) < 100
    assert lessor.expired(19.9, 10) == []
    assert lessor.expired(20.0, 10) == [1]


def test_at_most_so_many_end_at_once() -> None:
    lessor = Lessor()
    for lease_id in range(1, 11):
        lessor.grant(lease_id, 1)
    lessor.promote(0.0)
    assert len(lessor.expired(5.0, 4)) == 4
    assert len(lessor.expired(5.0, 100)) == 6
