"""The replicated state machine: apply(command) → result.

``apply`` is a pure function of the log: times, ids and lifetimes stand in the requests. It is total: what cannot be
done is answered with ``Refused`` as a value, so that every member stays at the same point, whatever the log holds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from google.protobuf.message import DecodeError

from proto.etcd.rpc_pb2 import (
    AlarmMember,
    AlarmRequest,
    AlarmResponse,
    AlarmType,
    CompactionRequest,
    CompactionResponse,
    Compare,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    TxnRequest,
    TxnResponse,
)
from proto.raft.command_pb2 import InternalRequest, LeaseClock
from proto.raft.state_pb2 import AlarmState, LeaseState, StateHeader
from store import snapshot
from store.auth import Auth
from store.lease import Lessor
from store.mvcc import txn
from store.mvcc.encoding import plain_put_of
from store.mvcc.interval import Interval
from store.mvcc.plain import GuardHeld, guarded_put_of
from store.mvcc.revision import first_of
from store.mvcc.store import Change, Store, WriteTransaction
from store.mvcc.watch import DEFAULT_LIMITS, Watchers, WatchLimits
from store.refusal import Reason, Refused

log = logging.getLogger(__name__)

_PLACES: dict[int, int] = {Compare.CREATE: 0, Compare.MOD: 1, Compare.VERSION: 2}
"""Where ``Store.revisions`` has what a comparison looks at."""
_CREATES = {"put", "lease_grant"}
_OF_KEYS = {"put", "delete_range", "txn", "compaction", "lease_grant", "lease_revoke"}


class Machine:
    """Keys, leases and alarms of one member, and the watchers that follow them."""

    def __init__(self, watch_limits: WatchLimits = DEFAULT_LIMITS) -> None:
        self.lessor = Lessor()
        self.store = Store(self.lessor)
        self.watchers = Watchers(self.store, watch_limits)
        self.alarms: set[tuple[int, int]] = set()
        """(member id, AlarmType) of what is raised."""
        self.auth = Auth()
        self.transactions = 0
        """Transactions carried out, those that only read apart."""
        self._handlers: dict[str, Callable[[InternalRequest], object]] = {
            **dict.fromkeys(self.auth.kinds, self._administer),
            "put": lambda request: self._write(lambda writing: txn.put(writing, request.put, self.lessor)),
            "delete_range": lambda request: self._write(
                lambda writing: txn.delete_range(writing, request.delete_range)
            ),
            "txn": lambda request: self._txn(request.txn),
            "compaction": lambda request: self._compact(request.compaction),
            "lease_grant": lambda request: self._grant(request.lease_grant),
            "lease_revoke": lambda request: self._revoke(request.lease_revoke, request.lease_term),
            "alarm": lambda request: self._alarm(request.alarm),
            "lease_clock": lambda request: self._begin_lease_clock(request.lease_clock),
            # Logs of the first versions hold these; members stand in the log's own entries now.
            "member_attributes": lambda request: request.member_attributes,
        }

    # The log

    def apply(self, index: int, now_ns: int, payload: bytes) -> object:
        """Carry out one request and return its response message, or a Refused."""
        try:
            request = InternalRequest.FromString(payload)
        except DecodeError:
            log.error("entry is no request index=%d bytes=%d", index, len(payload))
            return Refused(Reason.CORRUPT)
        kind = request.WhichOneof("request")
        handler = self._handlers.get(kind or "")
        if handler is None:
            log.error("entry holds an unknown request index=%d kind=%s", index, kind)
            return Refused(Reason.CORRUPT)
        if self.alarms and self.has_no_space and (kind in _CREATES or (kind == "txn" and txn.grows(request.txn))):
            return Refused(Reason.NO_SPACE)
        if self.alarms and self.is_corrupt and kind in _OF_KEYS:
            return Refused(Reason.CORRUPT)
        try:
            if self.auth.enabled and request.username:
                self._check_rights(request)
            return handler(request)
        except Refused as refused:
            return refused
        except Exception:
            # A defect of ours, the same on every member: saying so and going on keeps them together.
            log.exception("request failed index=%d kind=%s", index, kind)
            return Refused(Reason.CORRUPT)

    def apply_run(self, index: int, now_ns: int, payloads: Sequence[bytes]) -> list[object]:
        """Carry out requests one after the other; most of them without a message being decoded or built.

        A plain put's result is just its revision, that of a guarded put whose comparison holds is ``GuardHeld``.
        """
        store, watchers = self.store, self.watchers
        results: list[object] = []
        for payload in payloads:
            fields = guarded = None
            if not self.alarms:
                fields = plain_put_of(payload)
                if fields is None:
                    guarded = guarded_put_of(payload)
                    if guarded is not None and store.revisions(guarded.key)[_PLACES[guarded.target]] == guarded.wanted:
                        fields = guarded.put
            if fields is None:
                results.append(self.apply(index, now_ns, payload))
                continue
            record, replaced = store.put_plain(*fields)
            main = store.current_revision
            results.append(main if guarded is None else GuardHeld(main))
            if watchers.wants(fields[0]):
                previous = None if replaced is None else store.record(replaced)
                watchers.notify([Change(fields[0], first_of(main), record, previous)])
        return results

    def snapshot(self) -> Iterator[bytes]:
        """Yield the state as of this call; later applies do not change what is yielded."""
        header = StateHeader(
            current_revision=self.store.current_revision,
            compact_revision=self.store.compact_revision,
            leases=[LeaseState(id=lease.lease_id, ttl_s=lease.ttl_s) for lease in self.lessor.leases()],
            alarms=[AlarmState(member_id=member_id, type=kind) for member_id, kind in sorted(self.alarms)],
            auth=self.auth.state(),
            lease_term=self.lessor.term,
        )
        return snapshot.encode(header, self.store.export())

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state; raise ValueError and keep the old one where the chunks are damaged."""
        lessor = Lessor()
        store = Store(lessor)
        items = snapshot.decode(chunks)
        header = next(items)
        assert isinstance(header, StateHeader), "decode yields the header first"
        for lease in header.leases:
            lessor.grant(lease.id, lease.ttl_s)
        lessor.term = header.lease_term
        try:
            for item in items:
                assert isinstance(item, tuple), "decode yields one header"
                store.load(*item)
        except (DecodeError, KeyError, AssertionError) as damage:
            raise snapshot.SnapshotError(f"a record of the snapshot does not fit: {damage!r}") from damage
        store.loaded(header.current_revision, header.compact_revision)
        seen = self.store.current_revision
        self.lessor.replace(lessor)
        self.store.replace(store)
        self.alarms = {(alarm.member_id, alarm.type) for alarm in header.alarms}
        self.auth.load(header.auth)
        self.watchers.restored(seen)

    # What a member may ask without the log

    @property
    def has_no_space(self) -> bool:
        """Whether requests that add to the store are refused until space is made."""
        return any(kind == AlarmType.NOSPACE for _, kind in self.alarms)

    @property
    def is_corrupt(self) -> bool:
        """Whether somebody has said that members differ, so that nothing may be changed until that is put right."""
        return any(kind == AlarmType.CORRUPT for _, kind in self.alarms)

    def read_txn(self, request: TxnRequest) -> TxnResponse:
        """Answer a transaction that changes nothing, as of now."""
        return txn.txn(self.store.write(), request, self.lessor)

    def keys_of_lease(self, lease_id: int) -> set[bytes]:
        """The keys that hang on a lease, none where it is gone."""
        lease = self.lessor.get(lease_id)
        return lease.keys if lease is not None else set()

    # Handlers

    def _check_rights(self, request: InternalRequest) -> None:
        """Refuse what its user may no longer do: rights may have changed since the member looked that took it."""
        name = request.username
        match request.WhichOneof("request"):
            case "put":
                self.auth.check_put(name, request.put, self.keys_of_lease(request.put.lease))
            case "delete_range":
                self.auth.check_delete_range(name, request.delete_range)
            case "txn":
                self.auth.check_txn(name, request.txn, self.keys_of_lease)
            case "lease_revoke":
                for key in self.keys_of_lease(request.lease_revoke.ID):
                    self.auth.check_write(name, key)
            case kind if kind in self.auth.kinds:
                self.auth.check_admin(name)
        self.auth.check_revision(request.auth_revision)

    def _administer(self, request: InternalRequest) -> object:
        return self.auth.apply(request)

    def _write(self, work: Callable[[WriteTransaction], object]) -> object:
        writing = self.store.write()
        try:
            return work(writing)
        finally:
            # Refusals come before the first change, so that there is nothing to take back.
            changes = writing.end()
            if changes:
                self.watchers.notify(changes)

    def _txn(self, request: TxnRequest) -> object:
        self.transactions += 1
        return self._write(lambda writing: txn.txn(writing, request, self.lessor))

    def _compact(self, request: CompactionRequest) -> CompactionResponse:
        self.store.compact(request.revision)
        response = CompactionResponse()
        response.header.revision = self.store.current_revision
        return response

    def _grant(self, request: LeaseGrantRequest) -> LeaseGrantResponse:
        lease = self.lessor.grant(request.ID, request.TTL)
        response = LeaseGrantResponse(ID=lease.lease_id, TTL=lease.ttl_s)
        response.header.revision = self.store.current_revision
        return response

    def _begin_lease_clock(self, clock: LeaseClock) -> LeaseClock:
        self.lessor.term = max(self.lessor.term, clock.term)
        return LeaseClock(term=self.lessor.term)

    def _revoke(self, request: LeaseRevokeRequest, term: int) -> LeaseRevokeResponse:
        if term and term < self.lessor.term:
            # A deposed leader saw it end, but its successor gives every lease its full time again.
            raise Refused(Reason.NOT_LEADER)
        keys = sorted(self.lessor.require(request.ID).keys)

        def delete_keys(writing: WriteTransaction) -> LeaseRevokeResponse:
            for key in keys:
                writing.delete_range(Interval(key, key + b"\0"))
            self.lessor.forget(request.ID)
            response = LeaseRevokeResponse()
            response.header.revision = writing.revision
            return response

        response = self._write(delete_keys)
        assert isinstance(response, LeaseRevokeResponse), "the response made above"
        return response

    def _alarm(self, request: AlarmRequest) -> AlarmResponse:
        alarm = (request.memberID, int(request.alarm))
        wanted: list[tuple[int, int]] = []
        if request.action == AlarmRequest.GET:
            wanted = [one for one in sorted(self.alarms) if request.alarm in (AlarmType.NONE, one[1])]
        elif request.alarm == AlarmType.NONE:
            pass
        elif request.action == AlarmRequest.ACTIVATE:
            self.alarms.add(alarm)
            wanted = [alarm]
        elif alarm in self.alarms:
            self.alarms.remove(alarm)
            wanted = [alarm]
        response = AlarmResponse(
            alarms=[AlarmMember(memberID=member_id, alarm=AlarmType.ValueType(kind)) for member_id, kind in wanted]
        )
        response.header.revision = self.store.current_revision
        return response
