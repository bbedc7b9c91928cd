"""The versioned key space: writes make revisions, reads see any of them until compaction.

Writes go through a ``WriteTransaction``: all its changes carry one main revision, and readers of the store see them
when it ends. Compaction takes effect at once for readers; what it frees is given back by ``scrub`` in small steps,
which touch nothing that a reader can see and need not happen at the same time on all members.
"""

from __future__ import annotations

import weakref
import zlib
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Protocol

from proto.etcd.kv_pb2 import KeyValue
from proto.etcd.rpc_pb2 import RangeRequest
from store.mvcc.encoding import block, key_of, tag, varint
from store.mvcc.history import History
from store.mvcc.index import Index
from store.mvcc.interval import Interval, interval
from store.mvcc.revision import MAIN_SHIFT, first_of, is_tombstone, main_of, pack
from store.refusal import Reason, Refused

_HASHED_KEYS = 500

_EVENT_DELETE = b"\x08\x01"
_EVENT_KV = tag(2, 2)
_EVENT_PREV_KV = tag(3, 2)

# The fields of a KeyValue after its key, in their order.
_CREATED = tag(2, 0)
_MODIFIED = tag(3, 0)
_VERSION = tag(4, 0)
_VALUE = tag(5, 2)
_FIRST_VERSION = _VERSION + varint(1) + _VALUE

_SORT_KEYS: dict[int, Callable[[KeyValue], int | bytes]] = {
    RangeRequest.KEY: lambda kv: kv.key,
    RangeRequest.VERSION: lambda kv: kv.version,
    RangeRequest.CREATE: lambda kv: kv.create_revision,
    RangeRequest.MOD: lambda kv: kv.mod_revision,
    RangeRequest.VALUE: lambda kv: kv.value,
}


class LeaseHolder(Protocol):
    """Who remembers which keys belong to which lease."""

    def has(self, lease_id: int) -> bool:
        """Whether a lease lives."""
        ...

    def attach(self, lease_id: int, key: bytes) -> None:
        """Bind a key to a lease, freeing it from any other."""
        ...

    def detach(self, key: bytes) -> None:
        """Free a key from its lease, if it has one."""
        ...


class Change:
    """What one write did to one key; its wire form is made once, however many watchers want it."""

    __slots__ = ("_event", "_event_with_previous", "key", "previous", "record", "revision")

    def __init__(self, key: bytes, revision: int, record: bytes, previous: bytes | None) -> None:
        self.key = key
        self.revision = revision
        self.record = record
        self.previous = previous
        self._event: bytes | None = None
        self._event_with_previous: bytes | None = None

    @property
    def main(self) -> int:
        """The main revision of the change."""
        return main_of(self.revision)

    @property
    def is_delete(self) -> bool:
        """Whether the key was deleted."""
        return is_tombstone(self.revision)

    def event(self, *, with_previous: bool) -> bytes:
        """The encoded ``mvccpb.Event``."""
        if self._event is None:
            self._event = (_EVENT_DELETE if self.is_delete else b"") + block(_EVENT_KV, self.record)
        if not with_previous or self.previous is None:
            return self._event
        if self._event_with_previous is None:
            self._event_with_previous = self._event + block(_EVENT_PREV_KV, self.previous)
        return self._event_with_previous


class RangeResult:
    """The answer to a range: encoded records in order, the total in the range, and whether a limit cut it."""

    __slots__ = ("count", "more", "records", "revision")

    def __init__(self, records: list[bytes], count: int, revision: int, *, more: bool) -> None:
        self.records = records
        self.count = count
        self.revision = revision
        self.more = more


class Store:
    """The key space of one member."""

    counted_changes_max = 5000
    """Up to so many changes since a revision, counting them is cheaper than walking the range."""

    def __init__(self, leases: LeaseHolder) -> None:
        self._leases = leases
        self._index = Index()
        self._history = History()
        self.current_revision = 1
        """Main revision of the newest transaction; an empty store is at 1."""
        self.compact_revision = -1
        """Reads below this are refused; -1 before the first compaction."""
        self._scrub_after: bytes | None = None
        self._scrub_pending = False
        self.deletes = 0
        """Deletions since the start, those of a restored state included."""
        self.dropped = 0
        """Changes that compaction has freed since the start."""
        self._exports: weakref.WeakSet[Iterator[tuple[int, bytes]]] = weakref.WeakSet()

    def __len__(self) -> int:
        """Keys that live now or whose end is still remembered."""
        return len(self._index)

    @property
    def changes(self) -> int:
        """How many changes are kept."""
        return len(self._history)

    @property
    def puts(self) -> int:
        """Puts since the start, those of a restored state included."""
        return len(self._history) + self.dropped - self.deletes

    @property
    def size_bytes(self) -> int:
        """Bytes of all kept records."""
        return self._history.size_bytes

    # Reading

    def check_revision(self, revision: int) -> None:
        """Refuse a revision that no reader can be given."""
        if revision > self.current_revision:
            raise Refused(Reason.FUTURE_REVISION)
        if revision < self.compact_revision:
            raise Refused(Reason.COMPACTED)

    def get(self, key: bytes, at_main: int | None = None) -> bytes | None:
        """The record of one key, now or as of a revision."""
        revision = self._index.get(key, self.current_revision if at_main is None else at_main)
        return None if revision is None else self._history.get(revision)

    def revisions(self, key: bytes) -> tuple[int, int, int]:
        """The (create revision, mod revision, version) of a living key, all zero where there is none."""
        return self._index.revisions(key)

    def keys(self, wanted: Interval, at_main: int) -> Iterator[tuple[bytes, int]]:
        """The keys of a range that live at a revision, each with its packed revision."""
        if wanted.is_single:
            revision = self._index.get(wanted.start, at_main)
            return iter(()) if revision is None else iter(((wanted.start, revision),))
        return self._index.range(wanted, at_main)

    def record(self, revision: int) -> bytes:
        """The record of a packed revision."""
        return self._history.get(revision)

    def range(self, request: RangeRequest) -> RangeResult:
        """Answer a range request, with every option that etcd knows."""
        if request.revision > 0:
            self.check_revision(request.revision)
        return self.range_at(request, self.current_revision)

    def range_at(self, request: RangeRequest, newest: int) -> RangeResult:
        """Answer a checked range request where ``newest`` is the revision that "now" means."""
        at_main = request.revision if request.revision > 0 else newest
        wanted = interval(request.key, request.range_end)
        filtered = bool(
            request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
            or request.max_create_revision
        )
        fetch_all = filtered or request.sort_order != RangeRequest.NONE
        fetch = None if fetch_all or request.limit <= 0 else request.limit + 1
        count = None if wanted.is_single else self._count(wanted, at_main)
        records: list[bytes] = []
        seen = 0
        if not (request.count_only and count is not None):
            for _, revision in self.keys(wanted, at_main):
                seen += 1
                if request.count_only or (fetch is not None and len(records) >= fetch):
                    if count is not None:
                        break
                    continue
                records.append(self._history.get(revision))
        total = seen if count is None else count
        if filtered or request.keys_only or request.sort_order or request.sort_target:
            records = _rearrange(records, request, filtered=filtered)
        more = 0 < request.limit < len(records)
        if more:
            del records[request.limit :]
        return RangeResult(records, total, newest, more=more)

    def _count(self, wanted: Interval, at_main: int) -> int | None:
        """How many keys of a range live at a revision, from those of now and a few changes since; None for many."""
        changes = list(islice(self._history.since(first_of(at_main + 1)), self.counted_changes_max + 1))
        if len(changes) > self.counted_changes_max:
            return None
        count = self._index.count(wanted)
        for key in {key_of(record) for _, record in changes}:
            if key in wanted:
                found = self._index.lookup(key)
                lives_now = found is not None and found.is_alive
                count += (self._index.get(key, at_main) is not None) - lives_now
        return count

    def previous(self, key: bytes, main: int) -> bytes | None:
        """The record that a change at ``main`` replaced, or None where there was none or it is compacted."""
        if main - 1 < self.compact_revision:
            return None
        return self.get(key, main - 1)

    def since(self, main: int) -> Iterator[tuple[int, bytes]]:
        """Every kept change from a main revision on, as (packed revision, record)."""
        return self._history.since(first_of(main))

    # Writing

    def write(self) -> WriteTransaction:
        """Begin a transaction; nothing else may touch the store until it ends."""
        return WriteTransaction(self, self._index, self._history, self._leases)

    def put_plain(self, key: bytes, key_field: bytes, value_field: bytes) -> tuple[bytes, int | None]:
        """Set a key in a transaction of its own, from a request's encoded fields (see ``encoding.plain_put``).

        Does what ``WriteTransaction.put`` does, at a fraction of its cost: a request and a record encode key and value
        alike. Returns the record and the revision that it replaced.
        """
        main = self.current_revision + 1
        revision = main << MAIN_SHIFT
        encoded = varint(main)
        created, version, replaced = self._index.put(key, revision)
        if version == 1:
            record = b"".join((key_field, _CREATED, encoded, _MODIFIED, encoded, _FIRST_VERSION, value_field))
        else:
            head = (key_field, _CREATED, varint(created), _MODIFIED, encoded, _VERSION, varint(version))
            record = b"".join((*head, _VALUE, value_field))
            self._leases.detach(key)
        self._history.append(revision, record)
        self.current_revision = main
        return record, replaced

    def compact(self, revision: int) -> None:
        """Give up all that no reader at ``revision`` or later can see."""
        if revision <= self.compact_revision:
            raise Refused(Reason.COMPACTED)
        if revision > self.current_revision:
            raise Refused(Reason.FUTURE_REVISION)
        self.compact_revision = revision
        self._scrub_after = None
        self._scrub_pending = True

    def scrub(self, keys_max: int) -> bool:
        """Free what compaction gave up for the next keys; return whether more is to do."""
        if not self._scrub_pending or self._exports:
            return False
        dropped, self._scrub_after = self._index.compact_some(self.compact_revision, self._scrub_after, keys_max)
        for revision in dropped:
            self._history.drop(revision)
        self.dropped += len(dropped)
        self._scrub_pending = self._scrub_after is not None
        return self._scrub_pending

    # State as a whole

    def hash(self, revision: int) -> int:
        """A checksum over what the last compaction leaves of the changes up to ``revision``."""
        checksum = 0
        for checksum in self.hashing(revision):  # noqa: B007 - the last one counts
            pass
        return checksum

    def hashing(self, revision: int) -> Iterator[int]:
        """Compute the checksum in steps: the last value counts, writes may go on between; a compaction refuses it."""
        limit, compact_revision = first_of(revision + 1), self.compact_revision
        checksum, start = 0, b""
        while True:
            step = list(islice(self._index.walk(Interval(start, None)), _HASHED_KEYS))
            for key, found in step:
                for packed in found.revisions[found.dropped_by(compact_revision) :]:
                    if packed < limit:
                        checksum = zlib.crc32(b"%b%d" % (key, packed), checksum)
                        checksum = zlib.crc32(self._history.get(packed), checksum)
            yield checksum
            if len(step) < _HASHED_KEYS:
                return
            if compact_revision != self.compact_revision:
                raise Refused(Reason.COMPACTED)
            start = step[-1][0] + b"\0"

    def export(self) -> Iterator[tuple[int, bytes]]:
        """Every kept change up to now, in order; scrubbing waits until the iterator is let go."""
        limit = first_of(self.current_revision + 1)
        # A generator expression, because takewhile objects take no weak references.
        exported = (item for item in takewhile(lambda item: item[0] < limit, self._history.since(0)))
        self._exports.add(exported)
        return exported

    def load(self, revision: int, record: bytes) -> None:
        """Take one change out of a snapshot."""
        kv = KeyValue.FromString(record)
        self._index.load(kv.key, revision, kv.create_revision, kv.version)
        # An old record may name a lease that has ended since; then its key has changed since, too.
        if kv.lease and self._leases.has(kv.lease):
            self._leases.attach(kv.lease, kv.key)
        else:
            self._leases.detach(kv.key)
        self._history.append(revision, record)
        self.deletes += is_tombstone(revision)

    def loaded(self, current_revision: int, compact_revision: int) -> None:
        """End taking a snapshot in."""
        self.current_revision = current_revision
        self.compact_revision = compact_revision
        self._scrub_after = None
        self._scrub_pending = compact_revision > 0

    def replace(self, other: Store) -> None:
        """Take over the whole state of another store."""
        self._index = other._index
        self._history = other._history
        self.deletes, self.dropped = other.deletes, other.dropped
        self.loaded(other.current_revision, other.compact_revision)


def _rearrange(records: list[bytes], request: RangeRequest, *, filtered: bool) -> list[bytes]:
    """Filter by revisions, sort and strip values; only requests that ask for it pay for decoding."""
    kvs = [KeyValue.FromString(record) for record in records]
    if filtered:
        kvs = [kv for kv in kvs if _passes(kv, request)]
    order = request.sort_order
    if request.sort_target != RangeRequest.KEY and order == RangeRequest.NONE:
        order = RangeRequest.ASCEND
    if order == RangeRequest.DESCEND or (order == RangeRequest.ASCEND and request.sort_target != RangeRequest.KEY):
        sort_key = _SORT_KEYS.get(request.sort_target, _SORT_KEYS[RangeRequest.KEY])
        kvs.sort(key=sort_key, reverse=order == RangeRequest.DESCEND)
    if request.keys_only:
        for kv in kvs:
            kv.ClearField("value")
    return [kv.SerializeToString() for kv in kvs]


def _passes(kv: KeyValue, request: RangeRequest) -> bool:
    return not (
        (request.max_mod_revision and kv.mod_revision > request.max_mod_revision)
        or (request.min_mod_revision and kv.mod_revision < request.min_mod_revision)
        or (request.max_create_revision and kv.create_revision > request.max_create_revision)
        or (request.min_create_revision and kv.create_revision < request.min_create_revision)
    )


class WriteTransaction:
    """Changes that share one main revision."""

    def __init__(self, store: Store, index: Index, history: History, leases: LeaseHolder) -> None:
        self._store = store
        self._index = index
        self._history = history
        self._leases = leases
        self._main = store.current_revision + 1
        self.changes: list[Change] = []

    @property
    def revision(self) -> int:
        """The revision that a read inside this transaction sees as now."""
        return self._main if self.changes else self._main - 1

    @property
    def store(self) -> Store:
        """The store that is written to."""
        return self._store

    def range(self, request: RangeRequest) -> RangeResult:
        """Answer a checked range request; the changes so far are seen."""
        return self._store.range_at(request, self.revision)

    def get(self, key: bytes) -> bytes | None:
        """The record of one key; the changes so far are seen."""
        return self._store.get(key, self._main)

    def put(self, key: bytes, value: bytes, lease_id: int) -> int:
        """Set a key and return the revision of the change."""
        revision = pack(self._main, len(self.changes))
        created, version, replaced = self._index.put(key, revision)
        previous = None if replaced is None else self._history.get(replaced)
        record = KeyValue(
            key=key,
            create_revision=created,
            mod_revision=self._main,
            version=version,
            value=value,
            lease=lease_id,
        ).SerializeToString()
        self._history.append(revision, record)
        if lease_id:
            self._leases.attach(lease_id, key)
        else:
            self._leases.detach(key)
        self.changes.append(Change(key, revision, record, previous))
        return self._main

    def delete_range(self, wanted: Interval) -> list[bytes]:
        """Delete every living key of a range and return their last records."""
        doomed = list(self._store.keys(wanted, self._main))
        return [self._delete(key, revision) for key, revision in doomed]

    def _delete(self, key: bytes, previous_revision: int) -> bytes:
        previous = self._history.get(previous_revision)
        revision = pack(self._main, len(self.changes), tombstone=True)
        self._index.delete(key, revision)
        record = KeyValue(key=key, mod_revision=self._main).SerializeToString()
        self._history.append(revision, record)
        self._leases.detach(key)
        self._store.deletes += 1
        self.changes.append(Change(key, revision, record, previous))
        return previous

    def end(self) -> list[Change]:
        """Make the changes visible and return them."""
        if self.changes:
            self._store.current_revision = self._main
        return self.changes
