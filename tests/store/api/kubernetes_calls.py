"""What kube-apiserver says to its store, in the shapes that were seen on the wire, as one session that can be replayed.

Only six methods are used: Range, Txn, Compact, Watch, LeaseGrant and Status. Values are JSON of our own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from proto.etcd.kv_pb2 import KeyValue

if TYPE_CHECKING:
    from proto.etcd.rpc_pb2_grpc import WatchAsyncStub

CLIENT = (("client-api-version", "3.6"),)
WITH_LEADER = (*CLIENT, ("hasleader", "true"))
COMPACT_KEY = b"compact_rev_key"
PODS, END_OF_PODS = b"/registry/pods/", b"/registry/pods0"
PAGE_MAX = 10_000
CHANNEL = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_permit_without_calls", 1))


def mod_is(key: bytes, revision: int) -> pb.Compare:
    return pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=revision)


def get(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def create(key: bytes, value: bytes, lease: int = 0, *, reads_back: bool = False) -> pb.TxnRequest:
    return pb.TxnRequest(
        compare=[mod_is(key, 0)], success=[put(key, value, lease)], failure=[get(key)] if reads_back else []
    )


def update(key: bytes, revision: int, value: bytes, lease: int = 0) -> pb.TxnRequest:
    return pb.TxnRequest(compare=[mod_is(key, revision)], success=[put(key, value, lease)], failure=[get(key)])


def delete(key: bytes, revision: int) -> pb.TxnRequest:
    deletion = pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))
    return pb.TxnRequest(compare=[mod_is(key, revision)], success=[deletion], failure=[get(key)])


def note_compaction(version: int, revision: int) -> pb.TxnRequest:
    compare = pb.Compare(key=COMPACT_KEY, target=pb.Compare.VERSION, result=pb.Compare.EQUAL, version=version)
    return pb.TxnRequest(compare=[compare], success=[put(COMPACT_KEY, b"%d" % revision)], failure=[get(COMPACT_KEY)])


def pages(**options: Any) -> pb.RangeRequest:
    return pb.RangeRequest(key=PODS, range_end=END_OF_PODS, **options)


class Session:
    """One replay; ``said`` is what the store answered, without what differs from cluster to cluster."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.kv = rpc_pb2_grpc.KVStub(channel)
        self.watches: WatchAsyncStub = rpc_pb2_grpc.WatchStub(channel)
        self.lease = rpc_pb2_grpc.LeaseStub(channel)
        self.maintenance = rpc_pb2_grpc.MaintenanceStub(channel)
        self.said: list[object] = []
        self._leases: dict[int, int] = {}

    def note(self, response: Any) -> Any:
        """Keep an answer, with ids replaced by the order in which they came."""
        kept = type(response)()
        kept.CopyFrom(response)
        for field in ("cluster_id", "member_id", "raft_term"):
            kept.header.ClearField(field)
        if isinstance(kept, pb.LeaseGrantResponse):
            self._leases[kept.ID] = kept.ID = len(self._leases) + 1
        for kv in self._kvs(kept):
            if kv.lease:
                kv.lease = self._leases[kv.lease]
        self.said.append(kept)
        return response

    def _kvs(self, response: Any) -> list[KeyValue]:
        if isinstance(response, pb.RangeResponse):
            return list(response.kvs)
        if isinstance(response, pb.TxnResponse):
            found = (one.response_range for one in response.responses if one.HasField("response_range"))
            return [kv for one in found for kv in one.kvs]
        if isinstance(response, pb.WatchResponse):
            return [kv for event in response.events for kv in (event.kv, event.prev_kv)]
        return []

    async def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        response: pb.TxnResponse = self.note(await self.kv.Txn(request, metadata=CLIENT))
        return response

    async def range(self, request: pb.RangeRequest, *, for_cache: bool = False) -> pb.RangeResponse:
        metadata = WITH_LEADER if for_cache else CLIENT
        response: pb.RangeResponse = self.note(await self.kv.Range(request, metadata=metadata))
        return response

    async def refused(self, call: Any) -> None:
        """Keep the code and text of a refusal."""
        try:
            self.said.append(await call)
        except grpc.aio.AioRpcError as error:
            self.said.append((error.code(), error.details()))


class Watching:
    """One watch stream of a cache, ended by a reset."""

    def __init__(self, session: Session, **options: Any) -> None:
        self._session = session
        self._stream = session.watches.Watch(metadata=WITH_LEADER)
        self._options = options

    async def begin(self) -> None:
        await self._stream.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(**self._options)))
        created: Any = await self._read()
        assert created.created
        self._session.said.append(("created", created.watch_id, created.canceled, created.header.revision))

    async def until(self, count: int) -> None:
        """Keep the next so many events, however they were put together."""
        seen = 0
        while seen < count:
            response: Any = await self._read()
            for event in response.events:
                kept = pb.WatchResponse(watch_id=response.watch_id, events=[event])
                self._session.note(kept)
                seen += 1

    async def end(self) -> None:
        """Keep why the store ended it."""
        response: Any = await self._read()
        self._session.said.append((response.canceled, response.compact_revision, response.cancel_reason))

    async def progress(self) -> tuple[int, int, int]:
        """Ask how far the stream has come; the answer, and the events that came before it."""
        await self._stream.write(pb.WatchRequest(progress_request=pb.WatchProgressRequest()))
        events = 0
        while (response := await self._read()).watch_id != -1:
            events += len(response.events)
        assert not response.events
        return response.watch_id, response.header.revision, events

    async def _read(self) -> Any:
        async with asyncio.timeout(20):
            return await self._stream.read()

    def reset(self) -> None:
        self._stream.cancel()


async def start_up(session: Session) -> None:
    """The gate, the probes and the first objects."""
    status = await session.maintenance.Status(pb.StatusRequest(), metadata=CLIENT)
    version = tuple(int(part) for part in status.version.split("."))
    session.said.append(("takes progress requests", version >= (3, 5, 13)))
    await session.range(pb.RangeRequest(key=b"/registry/health"))
    await session.range(pb.RangeRequest(key=COMPACT_KEY))
    await session.range(pb.RangeRequest(key=b"/registry/pods", limit=1), for_cache=True)
    await session.range(pages(limit=PAGE_MAX), for_cache=True)
    await session.txn(note_compaction(0, 0))
    await session.txn(note_compaction(0, 0))


async def objects(session: Session) -> None:
    """Objects are made, changed and deleted, each on a condition that sometimes fails."""
    events = session.note(await session.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=3660), metadata=CLIENT)).ID
    for number in range(7):
        await session.txn(create(PODS + b"default/p%d" % number, b'{"n":%d}' % number))
    await session.txn(create(PODS + b"default/p0", b"{}"))
    await session.txn(create(PODS + b"default/p0", b"{}", reads_back=True))
    await session.txn(create(b"/registry/events/default/e", b'{"e":1}', events))
    found = await session.range(pb.RangeRequest(key=PODS + b"default/p1", limit=1))
    revision = found.kvs[0].mod_revision
    await session.txn(update(PODS + b"default/p1", revision, b'{"n":11}'))
    await session.txn(update(PODS + b"default/p1", revision, b'{"n":12}'))
    await session.txn(delete(PODS + b"default/p2", revision))
    found = await session.range(pb.RangeRequest(key=PODS + b"default/p2", limit=1))
    await session.txn(delete(PODS + b"default/p2", found.kvs[0].mod_revision))
    await session.txn(delete(PODS + b"default/p2", found.kvs[0].mod_revision))
    await session.txn(update(b"/registry/none", 5, b"{}"))


async def lists(session: Session) -> None:
    """Lists in pages, exact ones, counts, and what cannot be had."""
    first = await session.range(pages(limit=3))
    revision = first.header.revision
    await session.txn(create(PODS + b"default/p3x", b"{}"))
    next_key = first.kvs[-1].key + b"\0"
    second = pb.RangeRequest(key=next_key, range_end=END_OF_PODS, limit=3, revision=revision)
    await session.range(second)
    await session.range(pages())
    await session.range(pages(revision=revision))
    await session.range(pages(count_only=True))
    await session.range(pages(keys_only=True), for_cache=True)
    await session.refused(session.kv.Range(pages(revision=revision + 1000), metadata=CLIENT))


async def watches(session: Session) -> None:
    """Caches follow their prefixes, ask how far they have come, and go."""
    revision = (await session.range(pages(limit=1))).header.revision
    pods = Watching(
        session, key=PODS, range_end=END_OF_PODS, start_revision=revision + 1, progress_notify=True, prev_kv=True
    )
    everything = Watching(
        session, key=b"/registry/", range_end=b"/registry0", start_revision=2, prev_kv=True, progress_notify=True
    )
    single = Watching(session, key=COMPACT_KEY, start_revision=revision + 1)
    for watching in (pods, everything, single):
        await watching.begin()
    await everything.until(11)
    await session.txn(create(PODS + b"default/w", b'{"w":1}'))
    found = await session.range(pb.RangeRequest(key=PODS + b"default/w", limit=1))
    await session.txn(update(PODS + b"default/w", found.kvs[0].mod_revision, b'{"w":2}'))
    made = await session.txn(delete(PODS + b"default/w", found.kvs[0].mod_revision + 1))
    await pods.until(3)
    newest = made.header.revision
    for watching in (pods, single):
        session.said.append(await watching.progress())
    # This one has the events of the three changes before its progress.
    session.said.append(await everything.progress())
    assert session.said[-1] == (-1, newest, 3)
    for watching in (pods, everything, single):
        watching.reset()


async def leases(session: Session) -> None:
    """The lease of an API server's own address ends, and its watchers are told with what was there."""
    lease = session.note(await session.lease.LeaseGrant(pb.LeaseGrantRequest(TTL=2), metadata=CLIENT)).ID
    prefix = b"/registry/masterleases/"
    # Not in their order: what expires at once is told sorted.
    first, key = prefix + b"192.0.2.9", prefix + b"192.0.2.1"
    await session.txn(create(first, b'{"ip":"192.0.2.9"}', lease))
    revision = (await session.txn(create(key, b'{"ip":"192.0.2.1"}', lease))).header.revision
    watching = Watching(session, key=prefix, range_end=prefix[:-1] + b"0", start_revision=revision + 1, prev_kv=True)
    await watching.begin()
    await watching.until(2)
    watching.reset()
    await session.range(pb.RangeRequest(key=key))


async def compaction(session: Session) -> None:
    """The compactor of all API servers: one wins by a version, and gives up history."""
    newest = await session.txn(note_compaction(1, 10))
    await session.txn(note_compaction(1, 10))
    request = pb.CompactionRequest(revision=newest.header.revision - 1)
    session.note(await session.kv.Compact(request, metadata=CLIENT))
    await session.refused(session.kv.Compact(request, metadata=CLIENT))
    await session.refused(session.kv.Range(pages(revision=5), metadata=CLIENT))
    late = Watching(session, key=PODS, range_end=END_OF_PODS, start_revision=5, progress_notify=True, prev_kv=True)
    await late.begin()
    await late.end()
    late.reset()
    await session.range(pages(limit=PAGE_MAX), for_cache=True)


async def replay(channel: grpc.aio.Channel) -> list[object]:
    """The whole session; everything that was answered."""
    session = Session(channel)
    for part in (start_up, objects, lists, watches, leases, compaction):
        await part(session)
    return session.said
