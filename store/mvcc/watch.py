"""Watchers: who is told of which change, from any revision that is still kept.

Theory of operation
-------------------
A ``WatchStream`` is one client's stream and holds any number of watchers. A watcher is *synced* while each change is
offered to it as it happens; the offers wait in the stream until its sender takes them. A watcher that begins in the
past, or whose stream has too much waiting, is *behind*: nothing is kept for it, and it reads on from the history when
the stream has room. So a slow reader costs no memory beyond the stream's bound, and a reader slower than compaction is
cancelled with the compact revision. Nobody is skipped: what a watcher gets is every change of its range from its start
on, in order, each revision whole.

The stream is a machine to be pulled: ``take`` gives the next thing to send or None. ``Watchers.woken`` names the
streams that have become worth pulling, so that the shell can wake their senders.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from store.mvcc.encoding import key_of
from store.mvcc.interval import Interval
from store.mvcc.revision import is_tombstone, main_of
from store.mvcc.store import Change, Store

INVALID_WATCH_ID = -1
"""Names no watcher: a refused creation, or progress of the whole stream."""

_SCAN_CHANGES_MAX = 4096
"""Changes of the history that one ``take`` looks at."""


@dataclass(frozen=True)
class WatchLimits:
    """What may wait in one stream for its client to read."""

    changes_max: int = 10_000
    bytes_max: int = 8 * 1024**2
    delivery_bytes: int = 1024**2
    """From this size on a delivery ends with its revision; clients of default settings take messages of 4 MiB."""


DEFAULT_LIMITS = WatchLimits()


@dataclass(frozen=True)
class WatchOptions:
    """What a watcher wants besides its range."""

    prev_kv: bool = False
    """Each change comes with what it replaced."""
    fragment: bool = False
    """A large answer may come in parts."""
    progress_notify: bool = False
    """A quiet watcher is told of the revision from time to time."""
    no_put: bool = False
    no_delete: bool = False


class Delivery(NamedTuple):
    """Something to send: changes, progress (no changes), or the end of a watcher (``compact_revision``)."""

    watch_id: int
    revision: int
    changes: tuple[Change, ...] = ()
    options: WatchOptions = WatchOptions()
    compact_revision: int = 0


class Watcher:
    """One watch of one stream."""

    __slots__ = (
        "is_synced",
        "next_revision",
        "options",
        "pending",
        "progress_due",
        "progress_quiet",
        "stream",
        "wanted",
        "watch_id",
    )

    def __init__(
        self, stream: WatchStream, watch_id: int, wanted: Interval, next_revision: int, options: WatchOptions
    ) -> None:
        self.stream = stream
        self.watch_id = watch_id
        self.wanted = wanted
        self.next_revision = next_revision
        self.options = options
        self.is_synced = True
        self.pending: list[Change] = []
        self.progress_quiet = True
        self.progress_due = False

    def wants(self, revision: int) -> bool:
        """Whether a change passes the filters; ``revision`` is its packed one."""
        return not (self.options.no_delete if is_tombstone(revision) else self.options.no_put)


class WatchStream:
    """The watchers of one client stream and what waits to be sent to it."""

    def __init__(self, watchers: Watchers, store: Store, limits: WatchLimits) -> None:
        self._watchers = watchers
        self._store = store
        self._limits = limits
        self._by_id: dict[int, Watcher] = {}
        self._next_id = 0
        self._pending: dict[Watcher, None] = {}
        self._pending_changes = 0
        self._pending_bytes = 0
        self._behind: deque[Watcher] = deque()
        self._progress_requested = False
        self._progress_is_due = False

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def behind(self) -> int:
        """Watchers that read the history."""
        return len(self._behind)

    @property
    def pending_changes(self) -> int:
        """Changes that wait to be taken."""
        return self._pending_changes

    @property
    def is_busy(self) -> bool:
        """Whether ``take`` is worth calling again although it returned None: it looks at the history in steps."""
        return bool(self._behind)

    def create(
        self, watch_id: int, wanted: Interval, start_revision: int, options: WatchOptions = WatchOptions()
    ) -> int | None:
        """Add a watcher and return its id, chosen here for 0; None where the id is taken."""
        if watch_id and watch_id in self._by_id:
            return None
        if not watch_id:
            while self._next_id in self._by_id:
                self._next_id += 1
            watch_id, self._next_id = self._next_id, self._next_id + 1
        now = self._store.current_revision
        first = start_revision if start_revision > 0 else now + 1
        watcher = Watcher(self, watch_id, wanted, first, options)
        self._by_id[watch_id] = watcher
        self._watchers.add(watcher)
        if watcher.next_revision <= now:
            self._fall_behind(watcher)
        return watch_id

    def cancel(self, watch_id: int) -> bool:
        """Remove a watcher; return whether there was one."""
        watcher = self._by_id.pop(watch_id, None)
        if watcher is None:
            return False
        self._watchers.remove(watcher)
        self._drop_pending(watcher)
        if not watcher.is_synced:
            self._behind.remove(watcher)
        return True

    def close(self) -> None:
        """Remove all watchers."""
        for watch_id in list(self._by_id):
            self.cancel(watch_id)

    def request_progress(self) -> None:
        """Ask for one progress notice for the whole stream, due when every watcher has caught up.

        While one waits for a revision of the future there is none, as with etcd: the client asks again.
        """
        self._progress_requested = True

    def tick(self) -> None:
        """Let progress fall due for the watchers that asked for it and were sent nothing since the last tick."""
        self._progress_is_due = True
        for watcher in self._by_id.values():
            if watcher.options.progress_notify:
                watcher.progress_due = watcher.progress_quiet
                watcher.progress_quiet = True

    def offer(self, watcher: Watcher, changes: list[Change]) -> None:
        """Keep the changes of the newest revision for a synced watcher, or let it fall behind where too much waits."""
        added_bytes = len(changes[0].record) if len(changes) == 1 else sum(len(change.record) for change in changes)
        if self._pending and not self._has_room(len(changes), added_bytes):
            watcher.next_revision = changes[0].main
            if watcher.pending:
                watcher.next_revision = watcher.pending[0].main
                self._drop_pending(watcher)
            self._fall_behind(watcher)
            return
        watcher.next_revision = changes[-1].main + 1
        watcher.pending += changes
        self._pending[watcher] = None
        self._pending_changes += len(changes)
        self._pending_bytes += added_bytes

    def restored(self, revision: int) -> None:
        """Go on after the whole state was replaced: everything after ``revision``, the last one seen, is read again."""
        for watcher in self._by_id.values():
            if not watcher.is_synced:
                continue
            if watcher.pending:
                watcher.next_revision = watcher.pending[0].main
                self._drop_pending(watcher)
            else:
                watcher.next_revision = max(watcher.next_revision, revision + 1)
            if watcher.next_revision <= self._store.current_revision:
                self._fall_behind(watcher)

    def take(self) -> Delivery | None:
        """The next thing to send, or None where there is nothing now."""
        if self._pending:
            watcher = next(iter(self._pending))
            if len(self._pending) == 1 and self._pending_bytes < self._limits.delivery_bytes:
                changes = tuple(watcher.pending)
                watcher.pending = []
                self._pending.clear()
                self._pending_changes = self._pending_bytes = 0
            else:
                changes = self._take_pending(watcher)
            return self._deliver(watcher, changes, changes[-1].main)
        if self._behind:
            delivery = self._catch_up()
            if delivery is not None or self._behind:
                return delivery
        return self._progress()

    def _progress(self) -> Delivery | None:
        """A notice that is due, now that all changes are taken; watchers of the future have none to make."""
        revision = self._store.current_revision
        if self._progress_requested:
            self._progress_requested = False
            if self._by_id and all(watcher.next_revision <= revision + 1 for watcher in self._by_id.values()):
                return Delivery(INVALID_WATCH_ID, revision)
        if not self._progress_is_due:
            return None
        for watcher in self._by_id.values():
            if watcher.progress_due:
                watcher.progress_due = False
                if watcher.next_revision <= revision + 1:
                    return Delivery(watcher.watch_id, revision)
        self._progress_is_due = False
        return None

    def _catch_up(self) -> Delivery | None:
        """Let the next watcher that is behind read on in the history, one bounded step."""
        watcher = self._behind.popleft()
        if watcher.next_revision < self._store.compact_revision:
            watcher.is_synced = True
            self.cancel(watcher.watch_id)
            return Delivery(
                watcher.watch_id, self._store.current_revision, compact_revision=self._store.compact_revision
            )
        found, last, at_end = self._scan(watcher)
        if at_end:
            watcher.is_synced = True
            watcher.next_revision = last = self._store.current_revision
            watcher.next_revision += 1
        else:
            watcher.next_revision = last + 1
            self._behind.append(watcher)
        return self._deliver(watcher, tuple(found), last) if found else None

    def _scan(self, watcher: Watcher) -> tuple[list[Change], int, bool]:
        """Changes for a watcher from its next revision on, the last revision looked at, whether it is the newest."""
        found: list[Change] = []
        last, found_bytes = watcher.next_revision - 1, 0
        for seen, (revision, record) in enumerate(self._store.since(watcher.next_revision)):
            main = main_of(revision)
            if main != last:
                if (
                    seen >= _SCAN_CHANGES_MAX
                    or len(found) >= self._limits.changes_max
                    or found_bytes >= self._limits.delivery_bytes
                ):
                    return found, last, False
                last = main
            key = key_of(record)
            if key in watcher.wanted and watcher.wants(revision):
                previous = self._store.previous(key, main) if watcher.options.prev_kv else None
                found.append(Change(key, revision, record, previous))
                found_bytes += len(record)
        return found, last, True

    def _deliver(self, watcher: Watcher, changes: tuple[Change, ...], revision: int) -> Delivery:
        watcher.progress_quiet = False
        self._watchers.changes_sent += len(changes)
        return Delivery(watcher.watch_id, revision, changes, watcher.options)

    def _fall_behind(self, watcher: Watcher) -> None:
        watcher.is_synced = False
        self._behind.append(watcher)
        self._watchers.wake(self)

    def _has_room(self, changes: int, size_bytes: int) -> bool:
        limits = self._limits
        return (
            self._pending_changes + changes <= limits.changes_max
            and self._pending_bytes + size_bytes <= limits.bytes_max
        )

    def _take_pending(self, watcher: Watcher) -> tuple[Change, ...]:
        """What waits for a watcher, up to the end of the revision with which a delivery is large enough."""
        pending, size_bytes, count = watcher.pending, 0, 0
        for count, change in enumerate(pending, 1):
            size_bytes += len(change.record)
            is_last = count == len(pending) or pending[count].main != change.main
            if is_last and size_bytes >= self._limits.delivery_bytes:
                break
        self._drop_pending(watcher)
        if count < len(pending):
            watcher.pending = pending[count:]
            self._pending[watcher] = None
            self._pending_changes += len(watcher.pending)
            self._pending_bytes += sum(len(change.record) for change in watcher.pending)
        return tuple(pending[:count])

    def _drop_pending(self, watcher: Watcher) -> None:
        self._pending_changes -= len(watcher.pending)
        self._pending_bytes -= sum(len(change.record) for change in watcher.pending)
        self._pending.pop(watcher, None)
        watcher.pending = []


class Watchers:
    """Every watcher of the store, found by key."""

    def __init__(self, store: Store, limits: WatchLimits = DEFAULT_LIMITS) -> None:
        self._store = store
        self._limits = limits
        self._of_key: dict[bytes, list[Watcher]] = {}
        self._of_range: dict[Interval, list[Watcher]] = {}
        self._bounds: list[bytes] = []
        self._between: list[tuple[list[Watcher], ...]] = []
        self._bounds_are_stale = False
        self._streams: dict[WatchStream, None] = {}
        self._woken: dict[WatchStream, None] = {}
        self.changes_sent = 0
        """Changes taken to be sent, by all streams."""

    def __len__(self) -> int:
        """Watchers of all streams."""
        return sum(len(stream) for stream in self._streams)

    @property
    def streams(self) -> int:
        """Open streams."""
        return len(self._streams)

    @property
    def behind(self) -> int:
        """Watchers that read the history."""
        return sum(stream.behind for stream in self._streams)

    @property
    def pending_changes(self) -> int:
        """Changes that wait to be sent."""
        return sum(stream.pending_changes for stream in self._streams)

    def open(self) -> WatchStream:
        """Begin a stream."""
        stream = WatchStream(self, self._store, self._limits)
        self._streams[stream] = None
        return stream

    def close(self, stream: WatchStream) -> None:
        """End a stream and all its watchers."""
        stream.close()
        self._streams.pop(stream, None)
        self._woken.pop(stream, None)

    def wake(self, stream: WatchStream) -> None:
        """Note that a stream has something to send."""
        self._woken[stream] = None

    def woken(self) -> Iterable[WatchStream]:
        """The streams that have something to send since the last call."""
        woken, self._woken = self._woken, {}
        return woken

    def wants(self, key: bytes) -> bool:
        """Whether anybody watches a key."""
        return bool(self._of_key or self._of_range) and bool(self._groups(key))

    def notify(self, changes: list[Change]) -> None:
        """Offer the changes of one revision to all synced watchers of their keys."""
        if len(changes) == 1:
            self._notify_of_one(changes)
            return
        touched: dict[Watcher, list[Change]] = {}
        for change in changes:
            for watchers in self._groups(change.key):
                for watcher in watchers:
                    if watcher.is_synced and change.main >= watcher.next_revision and watcher.wants(change.revision):
                        touched.setdefault(watcher, []).append(change)
        for watcher, wanted in touched.items():
            watcher.stream.offer(watcher, wanted)
            self._woken[watcher.stream] = None

    def _notify_of_one(self, changes: list[Change]) -> None:
        """Do the same for the usual revision, which has one change: each watcher is met once."""
        change = changes[0]
        main, revision = change.main, change.revision
        for watchers in self._groups(change.key):
            for watcher in watchers:
                if watcher.is_synced and main >= watcher.next_revision and watcher.wants(revision):
                    watcher.stream.offer(watcher, changes)
                    self._woken[watcher.stream] = None

    def restored(self, revision: int) -> None:
        """Go on after the whole state was replaced; ``revision`` was the newest before."""
        for stream in self._streams:
            stream.restored(revision)

    def add(self, watcher: Watcher) -> None:
        """Have a watcher offered what happens in its range."""
        if watcher.wanted.is_single:
            self._of_key.setdefault(watcher.wanted.start, []).append(watcher)
            return
        group = self._of_range.setdefault(watcher.wanted, [])
        if not group:
            self._bounds_are_stale = True
        group.append(watcher)

    def remove(self, watcher: Watcher) -> None:
        """Offer a watcher nothing more."""
        if watcher.wanted.is_single:
            group = self._of_key[watcher.wanted.start]
            group.remove(watcher)
            if not group:
                del self._of_key[watcher.wanted.start]
            return
        group = self._of_range[watcher.wanted]
        group.remove(watcher)
        if not group:
            del self._of_range[watcher.wanted]
            self._bounds_are_stale = True

    def _groups(self, key: bytes) -> list[list[Watcher]]:
        """The groups of watchers whose range holds a key.

        The ends of all ranges cut the key space into pieces, and each piece knows its ranges: a search, however many
        ranges there are. The pieces are made anew when a range comes or goes and a change happens after it.
        """
        if self._bounds_are_stale:
            self._cut()
        found: list[list[Watcher]] = []
        if self._bounds:
            place = bisect_right(self._bounds, key) - 1
            if place >= 0:
                found.extend(self._between[place])
        exact = self._of_key.get(key)
        if exact is not None:
            found.append(exact)
        return found

    def _cut(self) -> None:
        ends = {wanted.start for wanted in self._of_range}
        ends |= {wanted.end for wanted in self._of_range if wanted.end is not None}
        self._bounds = sorted(ends)
        pieces: list[list[list[Watcher]]] = [[] for _ in self._bounds]
        place_of = {bound: place for place, bound in enumerate(self._bounds)}
        for wanted, group in self._of_range.items():
            stop = len(self._bounds) if wanted.end is None else place_of[wanted.end]
            for place in range(place_of[wanted.start], stop):
                pieces[place].append(group)
        self._between = [tuple(piece) for piece in pieces]
        self._bounds_are_stale = False
