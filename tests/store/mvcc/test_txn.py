"""Transactions: comparisons, nesting, refusals."""

from __future__ import annotations

import pytest

from proto.etcd.rpc_pb2 import Compare, RequestOp, TxnRequest
from store.machine import Machine
from store.mvcc import txn as txns
from store.refusal import Reason, Refused
from tests.store.mvcc.requests import (
    call,
    delete_range,
    grant,
    op_delete,
    op_put,
    op_range,
    op_txn,
    put,
    txn,
)


@pytest.fixture
def machine() -> Machine:
    """b put twice (revisions 3, 4), a once (2) with value 1, lease 7 on c (6)."""
    machine = Machine()
    for request in (put(b"a", b"1"), put(b"b", b"1"), put(b"b", b"2"), put(b"d"), grant(7), put(b"c", b"3", lease=7)):
        call(machine, request)
    return machine


EQUAL, GREATER, LESS, NOT_EQUAL = Compare.EQUAL, Compare.GREATER, Compare.LESS, Compare.NOT_EQUAL
VERSION, CREATE, MOD, VALUE, LEASE = Compare.VERSION, Compare.CREATE, Compare.MOD, Compare.VALUE, Compare.LEASE


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare(key=b"a", target=MOD, result=EQUAL, mod_revision=2), True),
        (Compare(key=b"b", target=MOD, result=EQUAL, mod_revision=3), False),
        (Compare(key=b"b", target=CREATE, result=EQUAL, create_revision=3), True),
        (Compare(key=b"b", target=VERSION, result=GREATER, version=1), True),
        (Compare(key=b"b", target=VERSION, result=LESS, version=2), False),
        (Compare(key=b"b", target=VERSION, result=NOT_EQUAL, version=1), True),
        (Compare(key=b"b", target=VALUE, result=EQUAL, value=b"2"), True),
        (Compare(key=b"b", target=VALUE, result=LESS, value=b"3"), True),
        (Compare(key=b"c", target=LEASE, result=EQUAL, lease=7), True),
        (Compare(key=b"a", target=LEASE, result=EQUAL, lease=0), True),
        (Compare(key=b"none", target=MOD, result=EQUAL, mod_revision=0), True),
        (Compare(key=b"none", target=VERSION, result=GREATER, version=0), False),
        (Compare(key=b"none", target=VALUE, result=EQUAL, value=b""), False),
        (Compare(key=b"none", target=VALUE, result=NOT_EQUAL, value=b"x"), False),
        (Compare(key=b"d", target=VALUE, result=EQUAL, value=b""), True),
        (Compare(key=b"a", range_end=b"c", target=MOD, result=GREATER, mod_revision=1), True),
        (Compare(key=b"a", range_end=b"c", target=MOD, result=GREATER, mod_revision=2), False),
        (Compare(key=b"b", range_end=b"\0", target=VERSION, result=GREATER, version=0), True),
        (Compare(key=b"x", range_end=b"\0", target=CREATE, result=EQUAL, create_revision=0), True),
        (Compare(key=b"x", range_end=b"\0", target=VALUE, result=EQUAL, value=b""), False),
        (Compare(key=b"a", target=MOD, result=EQUAL, version=2), False),
    ],
    ids=lambda value: str(value).replace("\n", " ").strip() if isinstance(value, Compare) else str(value),
)
def test_comparisons(machine: Machine, compare: Compare, holds: bool) -> None:
    assert call(machine, txn(compare)).succeeded is holds


def test_all_changes_of_a_transaction_share_one_revision(machine: Machine) -> None:
    response = call(machine, txn(then=(op_put(b"x"), op_range(b"x"), op_delete(b"a", b"c"), op_range(b"", b"\0"))))
    assert [answer.WhichOneof("response") for answer in response.responses] == [
        "response_put",
        "response_range",
        "response_delete_range",
        "response_range",
    ]
    assert response.header.revision == 7
    assert response.responses[1].response_range.kvs[0].mod_revision == 7
    assert response.responses[2].response_delete_range.deleted == 2
    assert response.responses[3].response_range.count == 3
    assert machine.store.current_revision == 7


def test_a_transaction_without_changes_makes_no_revision(machine: Machine) -> None:
    response = call(machine, txn(then=(op_delete(b"nothing"), op_range(b"a"))))
    assert (response.header.revision, machine.store.current_revision) == (6, 6)


def test_nested_comparisons_see_the_state_before_the_transaction(machine: Machine) -> None:
    absent = Compare(key=b"new", target=VERSION, result=EQUAL, version=0)
    nested = op_txn(absent, then=(op_put(b"x"),), otherwise=(op_put(b"y"),))
    response = call(machine, txn(then=(op_put(b"new"), nested)))
    inner = response.responses[1].response_txn
    assert inner.succeeded
    assert machine.store.get(b"x") is not None
    assert machine.store.get(b"y") is None


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (op_put(b"z", lease=9), Reason.LEASE_NOT_FOUND),
        (op_put(b"z", ignore_value=True), Reason.KEY_NOT_FOUND),
        (op_put(b"z", ignore_lease=True), Reason.KEY_NOT_FOUND),
        (op_range(b"z", revision=99), Reason.FUTURE_REVISION),
        (op_range(b"z", revision=1), Reason.COMPACTED),
        (op_txn(then=(op_put(b"z", lease=9),)), Reason.LEASE_NOT_FOUND),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_a_refused_transaction_changes_nothing(machine: Machine, operation: RequestOp, reason: Reason) -> None:
    machine.store.compact(3)
    before = machine.store.hash(6)
    with pytest.raises(Refused) as refused:
        call(machine, txn(then=(op_put(b"first"), operation)))
    assert refused.value.reason == reason
    assert (machine.store.current_revision, machine.store.hash(6)) == (6, before)


def nest(operation: RequestOp, levels: int) -> RequestOp:
    for _ in range(levels):
        operation = op_txn(then=(operation,))
    return operation


@pytest.mark.parametrize(
    ("request_txn", "reason"),
    [
        (TxnRequest(success=[op_put(b"%d" % number) for number in range(128)]), None),
        (TxnRequest(success=[op_put(b"%d" % number) for number in range(129)]), Reason.TOO_MANY_OPERATIONS),
        (TxnRequest(compare=[Compare(key=b"a")] * 129), Reason.TOO_MANY_OPERATIONS),
        (TxnRequest(failure=[op_range(b"a")] * 129), Reason.TOO_MANY_OPERATIONS),
        (TxnRequest(success=[op_range(b"a")] * 127 + [op_txn(then=(op_range(b"a"),))]), Reason.TOO_MANY_OPERATIONS),
        (TxnRequest(success=[nest(op_range(b"a"), 20)]), None),
        (TxnRequest(compare=[Compare()]), Reason.EMPTY_KEY),
        (TxnRequest(success=[op_range(b"")]), Reason.EMPTY_KEY),
        (TxnRequest(success=[op_put(b"")]), Reason.EMPTY_KEY),
        (TxnRequest(failure=[op_delete(b"")]), Reason.EMPTY_KEY),
        (TxnRequest(success=[RequestOp()]), Reason.KEY_NOT_FOUND),
        (TxnRequest(success=[op_put(b"a", b"v", ignore_value=True)]), Reason.VALUE_PROVIDED),
        (TxnRequest(success=[op_put(b"a", lease=1, ignore_lease=True)]), Reason.LEASE_PROVIDED),
        (TxnRequest(success=[op_put(b"a"), op_put(b"a")]), Reason.DUPLICATE_KEY),
        (TxnRequest(success=[op_put(b"a")], failure=[op_put(b"a")]), None),
        (TxnRequest(success=[op_delete(b"a"), op_put(b"a")]), Reason.DUPLICATE_KEY),
        (TxnRequest(success=[op_put(b"b"), op_delete(b"a", b"c")]), Reason.DUPLICATE_KEY),
        (TxnRequest(success=[op_put(b"c"), op_delete(b"a", b"c")]), None),
        (TxnRequest(success=[op_put(b"z"), op_delete(b"a", b"\0")]), Reason.DUPLICATE_KEY),
        (TxnRequest(success=[op_delete(b"a"), op_delete(b"a", b"c")]), None),
        (TxnRequest(success=[op_put(b"a"), op_txn(then=(op_put(b"a"),))]), Reason.DUPLICATE_KEY),
        (TxnRequest(success=[op_txn(then=(op_put(b"a"),), otherwise=(op_put(b"a"),))]), None),
        (
            TxnRequest(success=[op_txn(then=(op_put(b"a"),)), op_txn(otherwise=(op_put(b"a"),))]),
            Reason.DUPLICATE_KEY,
        ),
        (TxnRequest(success=[op_txn(then=(op_delete(b"a"),)), op_put(b"a")]), Reason.DUPLICATE_KEY),
        (TxnRequest(success=[op_delete(b"a"), op_txn(then=(op_put(b"a"),))]), Reason.DUPLICATE_KEY),
    ],
)
def test_what_a_transaction_must_look_like(request_txn: TxnRequest, reason: Reason | None) -> None:
    if reason is None:
        txns.check_txn(request_txn)
        return
    with pytest.raises(Refused) as refused:
        txns.check_txn(request_txn)
    assert refused.value.reason == reason


def test_a_key_may_be_put_and_deleted_by_sibling_transactions(machine: Machine) -> None:
    request = txn(then=(op_txn(then=(op_put(b"n"),)), op_txn(then=(op_delete(b"n"),))))
    txns.check_txn(request.txn)
    response = call(machine, request)
    assert response.responses[1].response_txn.responses[0].response_delete_range.deleted == 1
    assert machine.store.get(b"n") is None
    assert machine.store.get(b"n", 7) is None


def test_puts_keep_what_they_ignore(machine: Machine) -> None:
    response = call(machine, put(b"c", ignore_value=True, ignore_lease=True, prev_kv=True))
    assert (response.prev_kv.value, response.prev_kv.lease) == (b"3", 7)
    assert call(machine, txn(then=(op_range(b"c"),))).responses[0].response_range.kvs[0].lease == 7
    call(machine, put(b"c", b"new", ignore_lease=True))
    kv = call(machine, txn(then=(op_range(b"c"),))).responses[0].response_range.kvs[0]
    assert (kv.value, kv.lease, kv.version) == (b"new", 7, 3)


def test_deletions_give_back_what_they_deleted(machine: Machine) -> None:
    response = call(machine, delete_range(b"a", b"c", prev_kv=True))
    assert [(kv.key, kv.value) for kv in response.prev_kvs] == [(b"a", b"1"), (b"b", b"2")]
    assert call(machine, delete_range(b"c", b"a")).deleted == 0
