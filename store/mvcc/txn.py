"""Requests on the key space: what makes them valid, and what they do.

A transaction is carried out in three steps, as etcd does it: all comparisons, those of nested transactions too, are
made against the state before it (``_decide``); the operations that will run are checked (``_check_plan``); then they
run and cannot fail.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from proto.etcd.kv_pb2 import KeyValue
from proto.etcd.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    ResponseHeader,
    ResponseOp,
    TxnRequest,
    TxnResponse,
)
from store.lease import Lessor
from store.mvcc.interval import Interval, interval
from store.mvcc.store import RangeResult, Store, WriteTransaction
from store.refusal import Reason, Refused

_T = TypeVar("_T", int, bytes)

OPERATIONS_MAX = 128
"""etcd's default for the operations of one transaction."""


# What a request must look like


def check_range(request: RangeRequest) -> None:
    """Refuse a range without a key."""
    if not request.key:
        raise Refused(Reason.EMPTY_KEY)


def check_put(request: PutRequest) -> None:
    """Refuse a put without a key, or with what it says to ignore."""
    if not request.key:
        raise Refused(Reason.EMPTY_KEY)
    if request.ignore_value and request.value:
        raise Refused(Reason.VALUE_PROVIDED)
    if request.ignore_lease and request.lease:
        raise Refused(Reason.LEASE_PROVIDED)


def check_delete_range(request: DeleteRangeRequest) -> None:
    """Refuse a deletion without a key."""
    if not request.key:
        raise Refused(Reason.EMPTY_KEY)


def check_txn(request: TxnRequest, operations_max: int = OPERATIONS_MAX) -> None:
    """Refuse a transaction that is too large, malformed, or changes one key twice."""
    _check_operations(request, operations_max)
    _check_overlaps(request.success)
    _check_overlaps(request.failure)


def _check_operations(request: TxnRequest, operations_max: int) -> None:
    operations = max(len(request.compare), len(request.success), len(request.failure))
    if operations > operations_max:
        raise Refused(Reason.TOO_MANY_OPERATIONS)
    for compare in request.compare:
        if not compare.key:
            raise Refused(Reason.EMPTY_KEY)
    for branch in (request.success, request.failure):
        for operation in branch:
            match operation.WhichOneof("request"):
                case "request_range":
                    check_range(operation.request_range)
                case "request_put":
                    check_put(operation.request_put)
                case "request_delete_range":
                    check_delete_range(operation.request_delete_range)
                case "request_txn":
                    _check_operations(operation.request_txn, operations_max - operations)
                case _:
                    raise Refused(Reason.KEY_NOT_FOUND)


def _check_overlaps(branch: Iterable[RequestOp]) -> tuple[set[bytes], list[Interval]]:
    """Refuse a branch that puts a key twice or puts and deletes it; return its puts and deletions."""
    operations = list(branch)
    deletes = [
        interval(operation.request_delete_range.key, operation.request_delete_range.range_end)
        for operation in operations
        if operation.WhichOneof("request") == "request_delete_range"
    ]
    puts: set[bytes] = set()

    def refuse_deleted(key: bytes) -> None:
        if any(key in deleted for deleted in deletes):
            raise Refused(Reason.DUPLICATE_KEY)

    for operation in operations:
        if operation.WhichOneof("request") != "request_txn":
            continue
        puts_then, deletes_then = _check_overlaps(operation.request_txn.success)
        puts_else, deletes_else = _check_overlaps(operation.request_txn.failure)
        # Only one branch runs, so that both may put the same key.
        if puts & (puts_then | puts_else):
            raise Refused(Reason.DUPLICATE_KEY)
        for key in puts_then | puts_else:
            refuse_deleted(key)
        puts |= puts_then | puts_else
        deletes += deletes_then + deletes_else
    for operation in operations:
        if operation.WhichOneof("request") == "request_put":
            key = operation.request_put.key
            if key in puts:
                raise Refused(Reason.DUPLICATE_KEY)
            refuse_deleted(key)
            puts.add(key)
    return puts, deletes


def is_read_only(request: TxnRequest) -> bool:
    """Whether no branch of a transaction can change anything."""
    return all(
        operation.WhichOneof("request") == "request_range"
        or (operation.WhichOneof("request") == "request_txn" and is_read_only(operation.request_txn))
        for branch in (request.success, request.failure)
        for operation in branch
    )


def is_serializable(request: TxnRequest) -> bool:
    """Whether every range of a read-only transaction may be answered from what this member has."""
    return all(
        operation.request_range.serializable
        if operation.WhichOneof("request") == "request_range"
        else is_serializable(operation.request_txn)
        for branch in (request.success, request.failure)
        for operation in branch
    )


def grows(request: TxnRequest) -> bool:
    """Whether a transaction may add to the store; one without puts may be what makes space."""
    return any(
        operation.WhichOneof("request") == "request_put"
        or (operation.WhichOneof("request") == "request_txn" and grows(operation.request_txn))
        for branch in (request.success, request.failure)
        for operation in branch
    )


# What a request does


def put(transaction: WriteTransaction, request: PutRequest, lessor: Lessor) -> PutResponse:
    """Carry out a put."""
    _check_put_state(transaction.store, request, lessor)
    return _put(transaction, request)


def delete_range(transaction: WriteTransaction, request: DeleteRangeRequest) -> DeleteRangeResponse:
    """Carry out a deletion."""
    deleted = transaction.delete_range(interval(request.key, request.range_end))
    response = DeleteRangeResponse(header=ResponseHeader(revision=transaction.revision), deleted=len(deleted))
    if request.prev_kv:
        response.prev_kvs.extend(KeyValue.FromString(record) for record in deleted)
    return response


def txn(transaction: WriteTransaction, request: TxnRequest, lessor: Lessor) -> TxnResponse:
    """Carry out a transaction."""
    plan = _decide(transaction.store, request)
    _check_plan(transaction.store, plan, lessor)
    response = _run(transaction, plan)
    response.header.revision = transaction.revision
    return response


def range_response(result: RangeResult) -> RangeResponse:
    """A range's answer as a message."""
    response = RangeResponse(header=ResponseHeader(revision=result.revision), more=result.more, count=result.count)
    response.kvs.extend(KeyValue.FromString(record) for record in result.records)
    return response


@dataclass(frozen=True)
class _Plan:
    """A transaction whose comparisons are made: the branch to run, nested transactions decided too."""

    succeeded: bool
    steps: tuple[RequestOp | _Plan, ...]


def _decide(store: Store, request: TxnRequest) -> _Plan:
    succeeded = all(_holds(store, compare) for compare in request.compare)
    return _Plan(
        succeeded,
        tuple(
            _decide(store, operation.request_txn) if operation.WhichOneof("request") == "request_txn" else operation
            for operation in (request.success if succeeded else request.failure)
        ),
    )


def _check_plan(store: Store, plan: _Plan, lessor: Lessor) -> None:
    for step in plan.steps:
        if isinstance(step, _Plan):
            _check_plan(store, step, lessor)
        elif step.WhichOneof("request") == "request_range":
            if step.request_range.revision:
                store.check_revision(step.request_range.revision)
        elif step.WhichOneof("request") == "request_put":
            _check_put_state(store, step.request_put, lessor)


def _check_put_state(store: Store, request: PutRequest, lessor: Lessor) -> None:
    if request.lease:
        lessor.require(request.lease)
    if (request.ignore_value or request.ignore_lease) and store.get(request.key) is None:
        raise Refused(Reason.KEY_NOT_FOUND)


def _run(transaction: WriteTransaction, plan: _Plan) -> TxnResponse:
    response = TxnResponse(header=ResponseHeader(), succeeded=plan.succeeded)
    for step in plan.steps:
        result = response.responses.add()
        if isinstance(step, _Plan):
            result.response_txn.CopyFrom(_run(transaction, step))
        else:
            _run_operation(transaction, step, result)
    return response


def _run_operation(transaction: WriteTransaction, operation: RequestOp, result: ResponseOp) -> None:
    match operation.WhichOneof("request"):
        case "request_range":
            result.response_range.CopyFrom(range_response(transaction.range(operation.request_range)))
        case "request_put":
            result.response_put.CopyFrom(_put(transaction, operation.request_put))
        case "request_delete_range":
            result.response_delete_range.CopyFrom(delete_range(transaction, operation.request_delete_range))


def _put(transaction: WriteTransaction, request: PutRequest) -> PutResponse:
    value, lease_id = request.value, request.lease
    response = PutResponse()
    if request.ignore_value or request.ignore_lease or request.prev_kv:
        record = transaction.get(request.key)
        previous = KeyValue() if record is None else KeyValue.FromString(record)
        if request.ignore_value:
            value = previous.value
        if request.ignore_lease:
            lease_id = previous.lease
        if request.prev_kv and record is not None:
            response.prev_kv.CopyFrom(previous)
    response.header.revision = transaction.put(request.key, value, lease_id)
    return response


# Comparisons


def _holds(store: Store, compare: Compare) -> bool:
    """Whether a comparison is true of every key of its range; a range without keys compares as one key of zeros."""
    wanted = interval(compare.key, compare.range_end)
    if wanted.is_single and compare.target in (Compare.VERSION, Compare.CREATE, Compare.MOD):
        create_revision, mod_revision, version = store.revisions(compare.key)
        match compare.target:
            case Compare.VERSION:
                return _matches(compare.result, version, compare.version)
            case Compare.CREATE:
                return _matches(compare.result, create_revision, compare.create_revision)
            case _:
                return _matches(compare.result, mod_revision, compare.mod_revision)
    empty = True
    for _, revision in store.keys(wanted, store.current_revision):
        empty = False
        if not _holds_for(compare, KeyValue.FromString(store.record(revision))):
            return False
    if not empty:
        return True
    # An absent value equals nothing, not even the empty one.
    return compare.target != Compare.VALUE and _holds_for(compare, KeyValue())


def _holds_for(compare: Compare, kv: KeyValue) -> bool:
    match compare.target:
        case Compare.VALUE:
            return _matches(compare.result, kv.value, compare.value)
        case Compare.CREATE:
            return _matches(compare.result, kv.create_revision, compare.create_revision)
        case Compare.MOD:
            return _matches(compare.result, kv.mod_revision, compare.mod_revision)
        case Compare.VERSION:
            return _matches(compare.result, kv.version, compare.version)
        case Compare.LEASE:
            return _matches(compare.result, kv.lease, compare.lease)
        case _:
            return True


def _matches(result: int, actual: _T, wanted: _T) -> bool:
    match result:
        case Compare.EQUAL:
            return actual == wanted
        case Compare.NOT_EQUAL:
            return actual != wanted
        case Compare.GREATER:
            return actual > wanted
        case Compare.LESS:
            return actual < wanted
        case _:
            return True
