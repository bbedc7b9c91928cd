"""The one door to the store: etcd's v3 API, spoken with the transactions that kube-apiserver uses.

Every write is one transaction guarded by the key's mod revision. That makes retries safe: when a member fails while a
write is under way, the write is sent again to another, and a guard that fails because our own first attempt took effect
is recognised by the value, which holds a uid or a resourceVersion that nobody else could have written.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeVar

from control.apiserver.config import EtcdConfig
from control.apiserver.wire import transaction
from control.apiserver.wire.channel import Channel
from control.apiserver.wire.connection import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    WireError,
)
from proto.etcd import kv_pb2, rpc_pb2

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.05
BACKOFF_MAX_S = 0.5
COMPLAINT_INTERVAL_S = 5.0
LEASE_REUSE_S = 60
LEASE_OBJECTS_MAX = 1000
LIST_PAGE_KEYS = 1000
SIZE_TIMEOUT_S = 1.0
COMPACT_KEY = b"compact_rev_key"
_RETRIED = frozenset({UNAVAILABLE, DEADLINE_EXCEEDED, CANCELLED})
_KV, _WATCH, _LEASE = "/etcdserverpb.KV/", "/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/"
_MAINTENANCE = "/etcdserverpb.Maintenance/"
_RANGE, _TXN = _KV + "Range", _KV + "Txn"
_REVISION = rpc_pb2.RangeRequest(key=COMPACT_KEY, limit=1, count_only=True).SerializeToString()
_NEEDS_LEADER = (("hasleader", "true"),)

Answer = TypeVar("Answer")


class StoreError(Exception):
    """The store did not do what was asked."""


class StoreUnavailableError(StoreError):
    """No member answered in time; a write may or may not have taken effect."""


class StoreBusyError(StoreError):
    """The store refuses load; nothing was done."""


class KeyExistsError(StoreError):
    """A create found the key."""


class TooLargeError(StoreError):
    """A write is larger than the store takes."""


class CompactedError(StoreError):
    """The revision asked for is no longer kept."""


class FutureRevisionError(StoreError):
    """The revision asked for has not been written yet."""


class TransformationError(StoreError):
    """A value cannot be encrypted or decrypted as it is configured."""


class UnreadableValue(bytes):
    """Stands in lists and watches for a value that cannot be decrypted: empty, and it says why."""

    reason: str

    def __new__(cls, reason: str) -> UnreadableValue:
        """Make an empty value with a reason."""
        made = super().__new__(cls, b"")
        made.reason = reason
        return made


class Notes(Protocol):
    """Where the door notes how long the store took."""

    def note(self, operation: str, key: bytes, seconds: float, failed: bool) -> None:
        """Note one request."""
        ...


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One stored value and the revision of its last change."""

    key: str
    value: bytes
    revision: int


class RevisionMismatchError(StoreError):
    """A guarded write found another revision; ``current`` is what stands there, None for nothing."""

    def __init__(self, current: KeyValue | None) -> None:
        super().__init__("the key was changed")
        self.current = current


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a key range, as of ``revision``."""

    items: list[KeyValue]
    revision: int
    more: bool
    count: int
    """Keys in the whole range, whatever the page's limit."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of one key; ``value`` is None for a deletion."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes up to and including ``revision``, complete: what is not in here did not happen."""

    changes: list[Change]
    revision: int


class _Member:
    """One member and the way to it."""

    def __init__(self, server: str, tls: ssl.SSLContext | None, message_bytes_max: int) -> None:
        self.server = server
        self.quiet_until = 0.0
        self.channel = Channel(server, tls, message_bytes_max)

    async def range(self, request: rpc_pb2.RangeRequest, timeout_s: float) -> rpc_pb2.RangeResponse:
        """KV.Range."""
        body = await self.channel.unary(_RANGE, request.SerializeToString(), timeout_s)
        return rpc_pb2.RangeResponse.FromString(body)

    async def txn(self, request: rpc_pb2.TxnRequest, timeout_s: float) -> rpc_pb2.TxnResponse:
        """KV.Txn."""
        body = await self.channel.unary(_TXN, request.SerializeToString(), timeout_s)
        return rpc_pb2.TxnResponse.FromString(body)

    async def put(self, request: rpc_pb2.PutRequest, timeout_s: float) -> rpc_pb2.PutResponse:
        """KV.Put."""
        body = await self.channel.unary(_KV + "Put", request.SerializeToString(), timeout_s)
        return rpc_pb2.PutResponse.FromString(body)

    async def compact(self, request: rpc_pb2.CompactionRequest, timeout_s: float) -> rpc_pb2.CompactionResponse:
        """KV.Compact."""
        body = await self.channel.unary(_KV + "Compact", request.SerializeToString(), timeout_s)
        return rpc_pb2.CompactionResponse.FromString(body)

    async def status(self, request: rpc_pb2.StatusRequest, timeout_s: float) -> rpc_pb2.StatusResponse:
        """Maintenance.Status."""
        body = await self.channel.unary(_MAINTENANCE + "Status", request.SerializeToString(), timeout_s)
        return rpc_pb2.StatusResponse.FromString(body)

    async def grant(self, request: rpc_pb2.LeaseGrantRequest, timeout_s: float) -> rpc_pb2.LeaseGrantResponse:
        """Lease.LeaseGrant."""
        body = await self.channel.unary(_LEASE + "LeaseGrant", request.SerializeToString(), timeout_s)
        return rpc_pb2.LeaseGrantResponse.FromString(body)


def _tls(config: EtcdConfig) -> ssl.SSLContext | None:
    if not any(server.startswith("https://") for server in config.servers):
        return None
    context = ssl.create_default_context(cafile=str(config.ca_file) if config.ca_file else None)
    context.set_alpn_protocols(["h2"])
    if config.cert_file is not None:
        context.load_cert_chain(config.cert_file, config.key_file)
    return context


def range_end(prefix: bytes) -> bytes:
    """Return the first key behind all keys with this prefix."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1]) if cut else b"\0"


def _key_value(found: kv_pb2.KeyValue) -> KeyValue:
    return KeyValue(found.key.decode(), found.value, found.mod_revision)


class Etcd:
    """A client of an etcd cluster that stays with one member until that one fails."""

    def __init__(self, config: EtcdConfig, notes: Notes | None = None) -> None:
        tls = _tls(config)
        self._config = config
        self._notes = notes
        self._members = [_Member(server, tls, config.message_bytes_max) for server in config.servers]
        self._current = 0
        self._leases: dict[int, _SharedLease] = {}

    async def close(self) -> None:
        """Close all connections."""
        for member in self._members:
            await member.channel.close()

    async def _noted(
        self, operation: str, key: bytes, send: Callable[[_Member, float], Awaitable[Answer]]
    ) -> tuple[Answer, bool]:
        """Ask as ``_call`` does, and note how long that took."""
        if self._notes is None:
            return await self._call(send)
        since = time.perf_counter()
        failed = True
        try:
            answer = await self._call(send)
            failed = False
            return answer
        finally:
            self._notes.note(operation, key, time.perf_counter() - since, failed)

    async def _call(self, send: Callable[[_Member, float], Awaitable[Answer]]) -> tuple[Answer, bool]:
        """Ask members in turn until one answers; tell too whether an earlier attempt's outcome is open."""
        deadline = time.monotonic() + self._config.request_timeout_s
        backoff_s = BACKOFF_FIRST_S
        uncertain = False
        while True:
            index = self._current
            member = self._members[index]
            left_s = deadline - time.monotonic()
            try:
                return await send(member, min(self._config.attempt_timeout_s, left_s)), uncertain
            except WireError as error:
                if error.code not in _RETRIED:
                    raise _translate(error) from None
                self._complain(member, error)
                uncertain = True
                if self._current == index:
                    self._current = (index + 1) % len(self._members)
                if deadline - time.monotonic() <= backoff_s:
                    raise StoreUnavailableError(f"no store member answered: {error.details}") from None
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.0))
            backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def _complain(self, member: _Member, error: WireError) -> None:
        """Log a member's failure, but not each of the many that one outage brings."""
        now = time.monotonic()
        if now >= member.quiet_until:
            member.quiet_until = now + COMPLAINT_INTERVAL_S
            log.warning("store member fails server=%s error=%s", member.server, error.details)

    async def _range(self, operation: str, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        answer: rpc_pb2.RangeResponse
        answer, _ = await self._noted(
            operation, request.key, lambda member, timeout_s: member.range(request, timeout_s)
        )
        return answer

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        """Return the key's value and the store's revision, as of now."""
        answer = await self._range("get", rpc_pb2.RangeRequest(key=key.encode(), limit=1))
        return (_key_value(answer.kvs[0]) if answer.kvs else None), answer.header.revision

    async def revision(self) -> int:
        """Return the store's revision: everything that was acknowledged before the call is in it."""
        body, _ = await self._noted(
            "getCurrentResourceRV",
            COMPACT_KEY,
            lambda member, timeout_s: member.channel.unary(_RANGE, _REVISION, timeout_s),
        )
        return rpc_pb2.RangeResponse.FromString(body).header.revision

    async def page(self, prefix: str, *, limit: int = 0, revision: int = 0, after: str = "") -> Page:
        """Return keys with a prefix in order, at an exact revision where one is named, behind ``after``."""
        start = after.encode() + b"\0" if after else prefix.encode()
        request = rpc_pb2.RangeRequest(
            key=start, range_end=range_end(prefix.encode()), limit=limit, revision=max(revision, 0)
        )
        answer = await self._range("list", request)
        return Page([_key_value(kv) for kv in answer.kvs], answer.header.revision, answer.more, answer.count)

    async def everything(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Return all keys with a prefix as of one revision, read in pages."""
        page = await self.page(prefix, limit=LIST_PAGE_KEYS)
        items, revision = page.items, page.revision
        while page.more:
            page = await self.page(prefix, limit=LIST_PAGE_KEYS, revision=revision, after=items[-1].key)
            items.extend(page.items)
        return items, revision

    async def _write(
        self, key: str, value: bytes | None, revision: int, lease: int
    ) -> tuple[int | None, KeyValue | None]:
        """Put or delete where the key is at ``revision``; return the new revision, or what stands there instead."""
        raw = key.encode()
        if value is None:
            operation, request = "delete", transaction.guarded_delete(raw, revision)
        else:
            operation = "update" if revision else "create"
            request = transaction.guarded_put(raw, revision, value, lease)
        body, uncertain = await self._noted(
            operation, raw, lambda member, timeout_s: member.channel.unary(_TXN, request, timeout_s)
        )
        answer = rpc_pb2.TxnResponse.FromString(body)
        if answer.succeeded:
            return answer.header.revision, None
        found = answer.responses[0].response_range.kvs
        current = _key_value(found[0]) if found else None
        if uncertain and value is not None and current is not None and current.value == value:
            return current.revision, None
        if uncertain and value is None and current is None:
            return answer.header.revision, None
        return None, current

    async def create(self, key: str, value: bytes, ttl_s: int = 0) -> int:
        """Store a new key and return its revision; raise KeyExistsError where there is one."""
        lease = await self._shared_lease(ttl_s) if ttl_s else 0
        written, _ = await self._write(key, value, 0, lease)
        if written is None:
            raise KeyExistsError(key)
        return written

    async def update(self, key: str, value: bytes, revision: int, ttl_s: int = 0) -> int:
        """Replace the value where the key is still at ``revision``; else raise RevisionMismatchError."""
        lease = await self._shared_lease(ttl_s) if ttl_s else 0
        written, current = await self._write(key, value, revision, lease)
        if written is None:
            raise RevisionMismatchError(current)
        return written

    async def delete(self, key: str, revision: int) -> int:
        """Delete the key where it is still at ``revision``; else raise RevisionMismatchError."""
        written, current = await self._write(key, None, revision, 0)
        if written is None:
            raise RevisionMismatchError(current)
        return written

    async def stale(self, key: str) -> bool:
        """Tell whether the key's value would be written differently now, though nothing of it changes."""
        return False

    async def size(self) -> int:
        """Return how many bytes the store's file has on the member that we stay with; raises StoreError."""
        try:
            answer = await self._members[self._current].status(rpc_pb2.StatusRequest(), SIZE_TIMEOUT_S)
        except WireError as error:
            raise _translate(error) from None
        return answer.dbSize

    async def grant(self, ttl_s: int) -> int:
        """Return a new lease: keys put with it vanish ``ttl_s`` seconds later."""
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        answer: rpc_pb2.LeaseGrantResponse
        answer, _ = await self._call(lambda member, timeout_s: member.grant(request, timeout_s))
        return answer.ID

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Store a value whatever stands there."""
        request = rpc_pb2.PutRequest(key=key.encode(), value=value, lease=lease)
        answer: rpc_pb2.PutResponse
        answer, _ = await self._call(lambda member, timeout_s: member.put(request, timeout_s))
        return answer.header.revision

    async def _shared_lease(self, ttl_s: int) -> int:
        """Return a lease that lives at least ``ttl_s`` more and is shared by what is written within a minute."""
        now = time.monotonic()
        shared = self._leases.get(ttl_s)
        if shared is None or shared.fresh_until < now or shared.objects >= LEASE_OBJECTS_MAX:
            reuse_s = max(1, min(LEASE_REUSE_S, ttl_s))
            shared = _SharedLease(await self.grant(ttl_s + reuse_s), now + reuse_s)
            self._leases[ttl_s] = shared
        shared.objects += 1
        return shared.lease

    async def compact(self, seen_version: int, seen_revision: int) -> tuple[int, int]:
        """Compact to what stood there at the last call; of several API servers one a round wins.

        Returns the version of the shared key and the current revision, to be passed to the next call, as
        kube-apiserver does, so that both may share one store.
        """
        guard = rpc_pb2.Compare(
            result=rpc_pb2.Compare.EQUAL, target=rpc_pb2.Compare.VERSION, key=COMPACT_KEY, version=seen_version
        )
        put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=COMPACT_KEY, value=str(seen_revision).encode()))
        read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=COMPACT_KEY))
        request = rpc_pb2.TxnRequest(compare=[guard], success=[put], failure=[read])
        answer: rpc_pb2.TxnResponse
        answer, _ = await self._call(lambda member, timeout_s: member.txn(request, timeout_s))
        if not answer.succeeded:
            found = answer.responses[0].response_range.kvs
            return (found[0].version if found else 0), answer.header.revision
        if seen_revision:
            done = rpc_pb2.CompactionRequest(revision=seen_revision)
            await self._call(lambda member, timeout_s: member.compact(done, timeout_s))
        return seen_version + 1, answer.header.revision

    async def watch(self, start_revision: int) -> AsyncIterator[Batch]:
        """Yield every change of every key from ``start_revision`` on, across member failures.

        All keys are watched, not ours alone: then each of the store's revisions arrives as an event and whoever reads
        this stream knows how far the store is. Raises CompactedError where changes were lost.
        """
        failures = 0
        while True:
            member = self._members[self._current]
            try:
                async for batch in self._watch_member(member, start_revision):
                    failures = 0
                    yield batch
                    start_revision = batch.revision + 1
            except WireError as error:
                self._complain(member, error)
            if self._members[self._current] is member:
                self._current = (self._current + 1) % len(self._members)
            failures += 1
            await asyncio.sleep(min(BACKOFF_FIRST_S * 2 ** min(failures, 8), BACKOFF_MAX_S) * random.uniform(0.5, 1.0))

    async def _watch_member(self, member: _Member, start_revision: int) -> AsyncIterator[Batch]:
        create = rpc_pb2.WatchCreateRequest(
            key=b"\0", range_end=b"\0", start_revision=start_revision, progress_notify=True
        )
        first = rpc_pb2.WatchRequest(create_request=create).SerializeToString()
        async with aclosing(member.channel.stream(_WATCH, first, _NEEDS_LEADER)) as messages:
            async for message in messages:
                response = rpc_pb2.WatchResponse.FromString(message)
                if response.canceled:
                    if response.compact_revision:
                        raise CompactedError(f"compacted at {response.compact_revision}")
                    log.warning("store cancelled the watch server=%s reason=%s", member.server, response.cancel_reason)
                    return
                if batch := _batch(response):
                    yield batch


@dataclass(slots=True)
class _SharedLease:
    lease: int
    fresh_until: float
    objects: int = 0


def _batch(response: rpc_pb2.WatchResponse) -> Batch | None:
    if not response.events:
        # A progress notification says that nothing is missing; the answer to a creation does not.
        return None if response.created else Batch([], response.header.revision)
    changes = [
        Change(
            event.kv.key.decode("utf-8", "replace"),
            None if event.type == kv_pb2.Event.DELETE else event.kv.value,
            event.kv.mod_revision,
        )
        for event in response.events
    ]
    return Batch(changes, changes[-1].revision)


def _translate(error: WireError) -> StoreError:
    details = error.details
    if "required revision has been compacted" in details:
        return CompactedError(details)
    if "required revision is a future revision" in details:
        return FutureRevisionError(details)
    if "request is too large" in details:
        return TooLargeError(details)
    if error.code == RESOURCE_EXHAUSTED:
        return StoreBusyError(details)
    return StoreError(f"code {error.code}: {details}")
