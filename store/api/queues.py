"""Who came first: the queue of keys that etcd's locks and elections are.

Everyone who wants a turn puts a key of its own, named after its lease, under the queue's prefix. Whose key was created
first has the turn, until the key goes: by hand, or because the lease ended. Everybody waits for the one before alone,
so that an end wakes one and not all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from proto.etcd import rpc_pb2 as pb
from proto.etcd.kv_pb2 import KeyValue
from store.api.errors import Code, EtcdError
from store.api.kv import KVService
from store.api.lease import LeaseService
from store.api.table import Call
from store.api.watch import WatchService
from store.mvcc.interval import Interval

log = logging.getLogger(__name__)

_LEASE_TTL_S = 60
"""What etcd's sessions ask for where the caller brings no lease."""


@dataclass(frozen=True)
class Place:
    """A key in a queue."""

    key: bytes
    rev: int
    """Creation revision of the key."""
    value: bytes
    """What the key held when the place was taken, or found."""
    has_turn: bool
    """Whether it was the first at once."""
    header: pb.ResponseHeader
    """Of the answer that made the place."""


class Queues:
    """The queues of all locks and elections, worked through the same services as a client's calls."""

    def __init__(self, kv: KVService, lease: LeaseService, watch: WatchService) -> None:
        self._kv = kv
        self._lease = lease
        self._watch = watch
        self._leavings: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Carry the giving up of places whose callers went away; runs as long as the member serves."""
        async with asyncio.TaskGroup() as self._leavings:
            await asyncio.Event().wait()

    async def lease(self, lease_id: int, call: Call) -> int:
        """The caller's lease, or one made for it."""
        if lease_id:
            return lease_id
        body = await self._lease.grant(pb.LeaseGrantRequest(TTL=_LEASE_TTL_S).SerializeToString(), call)
        return pb.LeaseGrantResponse.FromString(body).ID

    async def enter(self, prefix: bytes, lease_id: int, value: bytes, call: Call) -> Place:
        """Take a place in a queue; who has one already keeps it."""
        key = b"%b%x" % (prefix, lease_id)
        look = pb.RequestOp(request_range=_first(prefix))
        response = await self.txn(
            pb.TxnRequest(
                compare=[created_at(key, 0)],
                success=[pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease_id)), look],
                failure=[pb.RequestOp(request_range=pb.RangeRequest(key=key)), look],
            ),
            call,
        )
        rev = response.header.revision
        if not response.succeeded:
            found = response.responses[0].response_range.kvs[0]
            rev, value = found.create_revision, found.value
        first = response.responses[1].response_range.kvs[0]
        return Place(key, rev, value, first.create_revision == rev, response.header)

    async def wait_for_turn(self, prefix: bytes, place: Place, call: Call) -> None:
        """Return when every place taken before is given up; give this one up where the caller goes before that."""
        try:
            while True:
                earlier = await self.range(
                    pb.RangeRequest(
                        key=prefix,
                        range_end=end_of_prefix(prefix),
                        limit=1,
                        sort_target=pb.RangeRequest.CREATE,
                        sort_order=pb.RangeRequest.DESCEND,
                        max_create_revision=place.rev - 1,
                    ),
                    call,
                )
                if not earlier.kvs:
                    return
                await self._until_gone(earlier.kvs[0].key, earlier.header.revision)
        except (asyncio.CancelledError, EtcdError):
            if self._leavings is not None:
                self._leavings.create_task(self._leave(place.key, call))
            raise

    async def first(self, prefix: bytes, call: Call) -> tuple[pb.ResponseHeader, KeyValue | None]:
        """Whose turn it is, None for nobody's."""
        found = await self.range(_first(prefix), call)
        return found.header, found.kvs[0] if found.kvs else None

    async def txn(self, request: pb.TxnRequest, call: Call) -> pb.TxnResponse:
        """A transaction in the caller's name."""
        return pb.TxnResponse.FromString(await self._kv.txn(request.SerializeToString(), call))

    async def range(self, request: pb.RangeRequest, call: Call) -> pb.RangeResponse:
        """A read in the caller's name."""
        return pb.RangeResponse.FromString(await self._kv.range(request.SerializeToString(), call))

    async def delete(self, key: bytes, call: Call) -> pb.DeleteRangeResponse:
        """A deletion in the caller's name."""
        body = pb.DeleteRangeRequest(key=key).SerializeToString()
        return pb.DeleteRangeResponse.FromString(await self._kv.delete_range(body, call))

    async def _until_gone(self, key: bytes, revision: int) -> None:
        """Wait until a key that lived at a revision is deleted, or its history is."""
        async with aclosing(self._watch.follow(Interval(key, key + b"\0"), revision + 1)) as deliveries:
            async for delivery in deliveries:
                if delivery.compact_revision or any(change.is_delete for change in delivery.changes):
                    return

    async def _leave(self, key: bytes, call: Call) -> None:
        try:
            await self.delete(key, call)
        except EtcdError as error:
            log.info("place not given up, its lease will end it key=%r reason=%s", key, error.text)


def _first(prefix: bytes) -> pb.RangeRequest:
    return pb.RangeRequest(
        key=prefix,
        range_end=end_of_prefix(prefix),
        limit=1,
        sort_target=pb.RangeRequest.CREATE,
        sort_order=pb.RangeRequest.ASCEND,
    )


@contextmanager
def codeless() -> Iterator[None]:
    """Let refusals keep their text alone: etcd's locks and elections answer each with the code UNKNOWN."""
    try:
        yield
    except EtcdError as error:
        raise EtcdError(Code.UNKNOWN, error.text) from error


def created_at(key: bytes, revision: int) -> pb.Compare:
    """The condition that a key was created at a revision; 0 for a key that does not exist."""
    return pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=revision)


def end_of_prefix(prefix: bytes) -> bytes:
    """The end of the range of all keys with a prefix that ends in a slash."""
    return prefix[:-1] + bytes((prefix[-1] + 1,))
