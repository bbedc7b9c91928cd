"""One resource as the API server holds it: objects as serialized bytes, and the recent changes that watches read.

Pure state, no input or output. Watches do not get queues of their own: each is a cursor into the one list of recent
events, so that a thousand watches cost a thousand integers, a slow one holds nothing back, and one that falls behind
the list's end is told so (410) as etcd's own readers are.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import orjson
from sortedcontainers import SortedDict

from control.api.meta import Object
from control.api.protobuf_encoding import body_of, encode_event
from control.api.selectors import EVERYTHING as ALL_LABELS
from control.api.selectors import Selector
from control.apiserver.etcd import Change, KeyValue, UnreadableValue
from control.apiserver.fields import EVERYTHING as ALL_FIELDS
from control.apiserver.fields import FieldSelector
from control.apiserver.kinds import Kind
from proto.control import resources_pb2

EVENTS_MAX = 2048
EVENT_BYTES_MAX = 8 << 20
BATCHES_MAX = 256
READY_MAX = 1024
SELECT_KEYS = 4096
CROWD = 100
CROWD_PAUSE_S = 0.01
"""What a write to a thousand clients costs hardly grows with the events in it: so many wait for more of them."""

DeliveryType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR"]
_NOTHING: dict[str, str] = {}


def read_stored(kind: Kind, value: bytes) -> Object:
    """Return a stored object; a custom one may have been stored before its definition's last change."""
    obj: Object = orjson.loads(value)
    if kind.custom is not None and obj["apiVersion"] == kind.resource.api_version:
        kind.custom.shape(obj)
    return obj


class Entry:
    """One object at one revision."""

    __slots__ = ("data", "fields", "key", "labels", "name", "namespace", "revision")

    def __init__(self, kind: Kind, key: str, obj: Object, revision: int) -> None:
        metadata = obj["metadata"]
        metadata["resourceVersion"] = str(revision)
        self.key = key
        self.name: str = metadata.get("name", "")
        self.namespace: str = metadata.get("namespace", "")
        self.revision = revision
        self.labels: dict[str, str] = metadata.get("labels") or _NOTHING
        self.fields = {path: read(obj) for path, read in kind.fields.items()} if kind.fields else _NOTHING
        self.data = orjson.dumps(obj)
        """The object's JSON with its resourceVersion."""

    def object(self) -> Object:
        """Return a copy of the object."""
        obj: Object = orjson.loads(self.data)
        return obj


class Delivery:
    """One event as watches send it, serialized once for all of them."""

    __slots__ = ("_encoded", "_line", "_message", "data", "type")

    def __init__(self, delivery_type: DeliveryType, data: bytes) -> None:
        self.type = delivery_type
        self.data = data
        self._line: bytes | None = None
        self._message: bytes | None = None
        self._encoded: bytes | None = None

    @property
    def line(self) -> bytes:
        """The event as a line of REST's watch stream."""
        if self._line is None:
            self._line = b'{"type":"%s","object":%s}\n' % (self.type.encode(), self.data)
        return self._line

    @property
    def encoded(self) -> bytes:
        """The event as a message of REST's watch stream in protobuf."""
        if self._encoded is None:
            self._encoded = encode_event(self.type, body_of(self.data))
        return self._encoded

    @property
    def message(self) -> bytes:
        """The event as a serialized WatchResponse of one; concatenated ones are a WatchResponse of many."""
        if self._message is None:
            event = resources_pb2.Event(type=resources_pb2.Event.Type.Value(self.type), object=self.data)
            self._message = resources_pb2.WatchResponse(events=[event]).SerializeToString()
        return self._message


@dataclass(frozen=True, slots=True)
class Filter:
    """Which objects a list or a watch means."""

    namespace: str = ""
    labels: Selector = ALL_LABELS
    fields: FieldSelector = ALL_FIELDS

    @property
    def selects(self) -> bool:
        """Whether there is a selector beside the namespace."""
        return bool(self.labels.requirements or self.fields.requirements)

    def matches(self, entry: Entry | None) -> bool:
        """Tell whether the object is meant."""
        return (
            entry is not None
            and (not self.namespace or entry.namespace == self.namespace)
            and (not self.labels.requirements or self.labels.matches(entry.labels))
            and (not self.fields.requirements or self.fields.matches(entry.name, entry.namespace, entry.fields))
        )


class CacheEvent:
    """One change: what was there, what is there."""

    __slots__ = ("_deliveries", "new", "old", "revision")

    def __init__(self, old: Entry | None, new: Entry | None, revision: int) -> None:
        self.old = old
        self.new = new
        self.revision = revision
        self._deliveries: dict[DeliveryType, Delivery] = {}

    @property
    def size(self) -> int:
        """Bytes that this event may keep alive."""
        return (len(self.old.data) if self.old else 0) + (len(self.new.data) if self.new else 0)

    def delivery(self, chosen: Filter) -> Delivery | None:
        """Return what a watch with this filter is told: for it, a change may be an appearance or a disappearance."""
        was = chosen.matches(self.old)
        if chosen.matches(self.new):
            return self._deliver("MODIFIED" if was else "ADDED")
        return self._deliver("DELETED") if was else None

    def _deliver(self, delivery_type: DeliveryType) -> Delivery:
        made = self._deliveries.get(delivery_type)
        if made is None:
            if delivery_type == "DELETED":
                assert self.old is not None
                gone = self.old.object()
                gone["metadata"]["resourceVersion"] = str(self.revision)
                data = orjson.dumps(gone)
            else:
                assert self.new is not None
                data = self.new.data
            made = self._deliveries[delivery_type] = Delivery(delivery_type, data)
        return made


class Batch(list[Delivery]):
    """Events that one watch, and all others with its filter and position, are told at once."""

    __slots__ = ("_lines", "_message")

    def __init__(self, deliveries: Iterable[Delivery] = ()) -> None:
        super().__init__(deliveries)
        self._lines: bytes | None = None
        self._message: bytes | None = None

    @property
    def lines(self) -> bytes:
        """All events as lines of REST's watch stream, joined once for all who are told of them."""
        if self._lines is None:
            self._lines = b"".join([delivery.line for delivery in self])
        return self._lines

    @property
    def message(self) -> bytes:
        """All events as one serialized WatchResponse."""
        if self._message is None:
            self._message = b"".join([delivery.message for delivery in self])
        return self._message


class ResourceCache:
    """All objects of one kind at the feed's revision, and their recent changes."""

    def __init__(self, kind: Kind, key_prefix: str) -> None:
        self.kind = kind
        self.key_prefix = key_prefix
        self.entries: SortedDict[str, Entry] = SortedDict()
        """By "namespace/name", in the store's order."""
        self.loaded = False
        self.epoch = 0
        """Grows when events were lost; watches of an older epoch must end."""
        self.changed = 0
        """Revision of the last change that is in here."""
        self.loaded_at = 0
        """Revision of the list that the state began with."""
        self.floor = 0
        """Every event after this revision is in ``events``."""
        self.events: list[CacheEvent] = []
        self.first = 0
        """Sequence number of events[0]."""
        self.unreadable: dict[str, str] = {}
        """Stored values that are no objects, and why; they are left out."""
        self.sealed: dict[str, str] = {}
        """Stored values that cannot be decrypted, and why; while there are any, the whole is not known."""
        self.sent = 0
        """Events that watches were sent."""
        self.received = 0
        """Changes that the store's watch brought."""
        self._bytes = 0
        self._batches: dict[tuple[int, Filter], Batch] = {}
        """What was told since the last event: watches that stand alike are told alike."""
        self._waiters: set[asyncio.Future[None]] = set()
        self._alarm: asyncio.TimerHandle | None = None
        self._ready: dict[str, Entry] = {}
        """Objects just written here, by key, so that their events need not be parsed."""

    def load(self, items: list[KeyValue], revision: int) -> list[CacheEvent]:
        """Take the whole state as of ``revision``; return how it differs from what was held."""
        before = dict(self.entries)
        self.entries.clear()
        self.sealed.clear()
        changes = []
        for item in items:
            key = item.key[len(self.key_prefix) :]
            old = before.pop(key, None)
            if old is not None and old.revision == item.revision:
                self.entries[key] = old
                continue
            new = self._entry(key, item.value, item.revision)
            if new is None:
                continue
            self.entries[key] = new
            changes.append(CacheEvent(old, new, item.revision))
        changes.extend(CacheEvent(old, None, revision) for old in before.values())
        self.first += len(self.events)
        self.events.clear()
        self._batches.clear()
        self._bytes = 0
        self.floor = self.changed = self.loaded_at = revision
        self.loaded = True
        return changes

    def _entry(self, key: str, value: bytes, revision: int) -> Entry | None:
        try:
            entry = Entry(self.kind, key, read_stored(self.kind, value), revision)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(value, UnreadableValue):
                self.sealed[key] = value.reason
                self.unreadable[key] = value.reason
            else:
                self.unreadable[key] = repr(error)
            return None
        self.unreadable.pop(key, None)
        return entry

    def lose(self) -> None:
        """Note that events were lost: the state must be loaded again and all watches must end."""
        self.loaded = False
        self._ready.clear()
        self.epoch += 1
        self.wake()

    def apply(self, change: Change) -> CacheEvent | None:
        """Take one change; return it as an event, None where it changes nothing that is known."""
        key = change.key[len(self.key_prefix) :]
        if change.revision <= self.loaded_at:
            return None
        self.received += 1
        old = self.entries.get(key)
        if self.sealed:
            self.sealed.pop(key, None)
        if change.value is None:
            if old is None:
                return None
            del self.entries[key]
            new = None
        else:
            new = self._ready.pop(key, None) if self._ready else None
            if new is None or new.revision != change.revision:
                new = self._entry(key, change.value, change.revision)
            if new is None:
                return None
            self.entries[key] = new
        event = CacheEvent(old, new, change.revision)
        self.changed = change.revision
        self.events.append(event)
        if self._batches:
            self._batches.clear()
        self._bytes += event.size
        if len(self.events) > EVENTS_MAX or self._bytes > EVENT_BYTES_MAX:
            self._trim()
        return event

    def _trim(self) -> None:
        """Forget the older half, so that the cost of shifting is spread over many events."""
        keep_from = len(self.events) - len(self.events) // 2
        self.floor = self.events[keep_from - 1].revision
        self.first += keep_from
        del self.events[:keep_from]
        self._batches.clear()
        self._bytes = sum(event.size for event in self.events)

    def position(self, revision: int) -> int:
        """Return the sequence number of the first event after ``revision``."""
        return self.first + bisect_right(self.events, revision, key=lambda event: event.revision)

    def since(self, position: int) -> list[CacheEvent] | None:
        """Return the events from a sequence number on, None where they are forgotten."""
        return self.events[position - self.first :] if position >= self.first else None

    def told(self, position: int, chosen: Filter) -> Batch | None:
        """Return what a filter is told of the events from a sequence number on, None where they are forgotten."""
        asked = position, chosen
        made = self._batches.get(asked)
        if made is None:
            events = self.since(position)
            if events is None:
                return None
            made = Batch(found for event in events if (found := event.delivery(chosen)) is not None)
            if len(self._batches) < BATCHES_MAX:
                self._batches[asked] = made
        return made

    @property
    def next_position(self) -> int:
        """The sequence number of the next event to come."""
        return self.first + len(self.events)

    def written(self, obj: Object, revision: int) -> Entry:
        """Return the entry of an object that was just written here; its event, once it comes, takes it as it is."""
        metadata = obj["metadata"]
        name = metadata["name"]
        key = f"{metadata['namespace']}/{name}" if self.kind.resource.namespaced else name
        known: Entry | None = self.entries.get(key)
        if known is not None and known.revision == revision:
            return known
        made = Entry(self.kind, key, obj, revision)
        made.labels = dict(made.labels)
        if self.loaded and self.changed < revision and len(self._ready) < READY_MAX:
            self._ready[key] = made
        return made

    def _span(self, namespace: str, after: str) -> tuple[int, int]:
        """Return between which places in order the objects of a namespace, or all, behind a key stand."""
        if namespace and self.kind.resource.namespaced:
            low = self.entries.bisect_right(after) if after > namespace else self.entries.bisect_left(f"{namespace}/")
            return low, max(low, self.entries.bisect_left(f"{namespace}0"))  # "0" follows "/"
        return self.entries.bisect_right(after) if after else 0, len(self.entries)

    def count(self, namespace: str = "", after: str = "") -> int:
        """Return how many objects there are behind a key, of all namespaces where none is named."""
        low, high = self._span(namespace, after)
        return high - low

    def select(self, chosen: Filter, after: str = "", limit: int = 0) -> Iterator[Entry]:
        """Yield the objects that are meant, in the store's order, behind the key ``after``; at most ``limit`` (0: all).

        The keys are copied first, so that what is written meanwhile disturbs nobody.
        """
        low, high = self._span(chosen.namespace, after)
        entries, get = self.entries, self.entries.get
        if not chosen.selects:
            stop = min(low + limit, high) if limit else high
            # A namespaced kind's span is its namespace's; others have none.
            yield from [entries[key] for key in entries.keys()[low:stop]]
            return
        found = 0
        for start in range(low, high, SELECT_KEYS):
            for key in entries.keys()[start : min(start + SELECT_KEYS, high)]:
                entry = get(key)
                if entry is not None and chosen.matches(entry):
                    yield entry
                    found += 1
                    if limit and found == limit:
                        return

    def wake_soon(self) -> None:
        """Let all waiting watches look at what is new; a crowd a moment later, so that it is told more at once."""
        if self._alarm is None:
            if len(self._waiters) < CROWD:
                self.wake()
            else:
                self._alarm = asyncio.get_running_loop().call_later(CROWD_PAUSE_S, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self.wake()

    def wake(self) -> None:
        """Let all waiting watches look at what is new."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self, timeout_s: float) -> None:
        """Return at the next event, or after the timeout."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.add(waiter)
        timer = loop.call_later(timeout_s, _expire, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


def _expire(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
