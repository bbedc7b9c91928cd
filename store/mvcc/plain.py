"""Requests of the shapes that nearly all have, recognized so that they need not be carried out step by step.

What is not recognized is carried out as any request is; what is has the same effect.
"""

from __future__ import annotations

from typing import NamedTuple

from google.protobuf.message import DecodeError

from proto.etcd.rpc_pb2 import Compare, TxnRequest
from store.mvcc.encoding import plain_put

_TXN = b"\x1a"
"""Tag of a transaction in an InternalRequest."""


class GuardedPut(NamedTuple):
    """One comparison of a key's revisions or version, and one plain put if it holds: how API servers write."""

    key: bytes
    """What is compared."""
    target: int
    wanted: int
    put: tuple[bytes, bytes, bytes]
    """See ``encoding.plain_put``."""


class GuardHeld(NamedTuple):
    """The result of a guarded put whose comparison holds: the revision of its one change."""

    revision: int


def guarded_put_of(payload: bytes) -> GuardedPut | None:
    """Recognize an ``InternalRequest`` that holds such a transaction and nothing else."""
    if payload[:1] != _TXN:
        return None
    length = shift = 0
    for start in range(1, min(len(payload), 5)):
        length |= (payload[start] & 0x7F) << shift
        shift += 7
        if payload[start] < 0x80:
            body = payload[start + 1 :]
            return guarded_put(body) if len(body) == length else None
    return None


def guarded_put(body: bytes) -> GuardedPut | None:
    """Recognize an encoded ``TxnRequest``; what is to be done where the comparison fails is at most one range."""
    try:
        request = TxnRequest.FromString(body)
    except DecodeError:
        return None
    if len(request.compare) != 1 or len(request.success) != 1 or len(request.failure) > 1:
        return None
    compare, operation = request.compare[0], request.success[0]
    if compare.result != Compare.EQUAL or compare.range_end or not compare.key:
        return None
    if not operation.HasField("request_put"):
        return None
    if request.failure and not request.failure[0].request_range.key:
        return None
    target = compare.target
    if target == Compare.MOD:
        wanted = compare.mod_revision
    elif target == Compare.VERSION:
        wanted = compare.version
    elif target == Compare.CREATE:
        wanted = compare.create_revision
    else:
        return None
    put = plain_put(operation.request_put.SerializeToString(), 0)
    return None if put is None else GuardedPut(compare.key, target, wanted, put)
