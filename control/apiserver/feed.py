"""All caches of one API server, fed by one watch over the whole store.

Because the watch covers every key, the feed is at a revision as a whole: a consistent read asks the store for its
revision (one question shared by all who wait) and is answered from memory once the feed has got there (KEP-2340).
A kind is loaded on first use. It is registered before it is listed, so that every change after the list's revision is
either still to come or was kept aside meanwhile.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterator

from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver.cache import CacheEvent, ResourceCache
from control.apiserver.etcd import Change, CompactedError, Etcd, StoreError, StoreUnavailableError
from control.apiserver.kinds import Kind, Kinds

log = logging.getLogger(__name__)

REACH_TIMEOUT_S = 3.0
"""How long a read may wait for the feed before it goes to the store itself."""
RESTART_DELAY_S = 0.2
WAITERS_SWEPT = 1000

Listener = Callable[[Object | None, Object | None], None]
Told = Callable[[int, Exception | None], None]
"""Is told that the caches hold everything up to a revision, or why they do not."""


class _Pending(list[Change]):
    """Changes that arrived while their kind was being listed."""


class Feed:
    """The watch caches and how far they are."""

    def __init__(self, store: Etcd, kinds: Kinds) -> None:
        self.kinds = kinds
        self.revision = 0
        """Every change up to here is in the caches."""
        self.following = False
        """Whether the store's watch runs."""
        self.ended = False
        """Whether this server is going away: watches end."""
        self._store = store
        self._caches: dict[str, ResourceCache] = {}
        """By key prefix: versions of one kind share a cache."""
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._pending: dict[str, _Pending] = {}
        self._listeners: dict[str, list[Listener]] = {}
        self._reached: list[tuple[int, int, asyncio.Future[None]]] = []
        self._tickets = 0
        self._losses = 0
        self._asked: list[Told] = []
        self._question = asyncio.Event()
        self._started = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follow the store until cancelled."""
        async with asyncio.TaskGroup() as self._tasks:
            self._tasks.create_task(self._answer_questions())
            self._tasks.create_task(self._follow())

    async def ready(self) -> None:
        """Wait until the feed follows the store."""
        await self._started.wait()

    def end_watches(self) -> None:
        """Let all watches end: clients come back to another server."""
        self.ended = True
        for cache in self._caches.values():
            cache.wake()

    # Following the store.

    async def _follow(self) -> None:
        while True:
            try:
                self._advance(await self._store.revision())
                await self._reload_listened()
                self._started.set()
                self.following = True
                async for batch in self._store.watch(self.revision + 1):
                    self._take(batch.changes)
                    self._advance(batch.revision)
            except CompactedError:
                log.warning("store compacted changes that were not seen yet revision=%s", self.revision)
            except StoreError as error:
                log.warning("store watch failed error=%s", error)
            self.following = False
            self._losses += 1
            for cache in self._caches.values():
                cache.lose()
            await asyncio.sleep(RESTART_DELAY_S)

    def _take(self, changes: list[Change]) -> None:
        touched: set[str] = set()
        for change in changes:
            prefix = self._prefix_of(change.key)
            if prefix is None:
                continue
            if (pending := self._pending.get(prefix)) is not None:
                pending.append(change)
                continue
            cache = self._caches.get(prefix)
            if cache is None or not cache.loaded:
                continue
            event = cache.apply(change)
            if event is not None:
                touched.add(prefix)
                self._tell(prefix, event)
            elif cache.unreadable:
                self._complain(cache)
                if cache.sealed:
                    # What is held is no longer what is stored, and nobody can tell what is.
                    self._reload(prefix, cache)
        for prefix in touched:
            # Whoever was told of a change may have dropped the cache: the definition of a kind went with its objects.
            if (cache := self._caches.get(prefix)) is not None:
                cache.wake_soon()

    @staticmethod
    def _complain(cache: ResourceCache) -> None:
        for key, error in cache.unreadable.items():
            log.error("stored object is unreadable and left out key=%s%s error=%s", cache.key_prefix, key, error)
        cache.unreadable.clear()

    def _prefix_of(self, key: str) -> str | None:
        """Return the known key prefix of a key: /registry/pods/, or one segment deeper."""
        first = key.find("/", len(self.kinds.prefix) + 1)
        if first < 0:
            return None
        for cut in (first, key.find("/", first + 1)):
            prefix = key[: cut + 1]
            if cut > 0 and (prefix in self._caches or prefix in self._pending):
                return prefix
        return None

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        while self._reached and self._reached[0][0] <= self.revision:
            _, _, waiter = heapq.heappop(self._reached)
            if not waiter.done():
                waiter.set_result(None)

    # Loading.

    async def cache(self, kind: Kind) -> ResourceCache:
        """Return the kind's cache, loaded; raises StoreUnavailableError."""
        prefix = self.kinds.key_prefix(kind)
        cache = self._caches.get(prefix)
        if cache is not None and cache.loaded:
            return cache
        task = self._loading.get(prefix)
        if task is None:
            assert self._tasks is not None, "the feed does not run"
            task = self._loading[prefix] = self._tasks.create_task(self._load(self.kinds.storage(kind), prefix))
        await asyncio.shield(task)
        cache = self._caches.get(prefix)
        if cache is None or not cache.loaded:
            raise StoreUnavailableError(f"cannot load {prefix}")
        return cache

    async def _load(self, kind: Kind, prefix: str) -> None:
        pending = self._pending[prefix] = _Pending()
        try:
            losses = -1
            while losses != self._losses:
                # Where the watch lost changes meanwhile, the list may be from before them.
                losses = self._losses
                pending.clear()
                items, revision = await self._store.everything(prefix)
            # A custom kind may have changed meanwhile.
            cache = self._caches.setdefault(prefix, ResourceCache(self.kinds.storage(kind), prefix))
            events = cache.load(items, revision)
            events.extend(event for change in pending if (event := cache.apply(change)) is not None)
            self._complain(cache)
            for event in events:
                self._tell(prefix, event)
        except StoreError as error:
            log.warning("cannot load a cache prefix=%s error=%s", prefix, error)
        finally:
            del self._pending[prefix]
            del self._loading[prefix]

    def _reload(self, prefix: str, cache: ResourceCache) -> None:
        """Drop what a cache holds, end its watches, and load it again where others in this server depend on it."""
        cache.lose()
        if prefix in self._listeners and prefix not in self._loading and self._tasks is not None:
            self._loading[prefix] = self._tasks.create_task(self._load(cache.kind, prefix))

    def reload_sealed(self) -> None:
        """Load again what could not be decrypted: it may be readable now."""
        for prefix, cache in self._caches.items():
            if cache.sealed:
                self._reload(prefix, cache)

    def caches(self) -> Iterator[ResourceCache]:
        """Yield the caches that are in use."""
        return (cache for cache in self._caches.values() if cache.loaded)

    def forget(self, prefix: str) -> None:
        """Drop a kind's cache and end its watches: its definition changed, or is gone."""
        cache = self._caches.pop(prefix, None)
        if cache is not None:
            cache.lose()

    async def _reload_listened(self) -> None:
        for prefix in self._listeners:
            cache = self._caches.get(prefix)
            if cache is not None and not cache.loaded:
                await self.cache(cache.kind)

    # Being up to date.

    async def fresh(self) -> int:
        """Wait until the caches hold everything that was acknowledged before this call; return a revision for it."""
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def told(revision: int, error: Exception | None) -> None:
            if waiter.done():
                return
            if error is None:
                waiter.set_result(revision)
            else:
                waiter.set_exception(error)

        self.when_fresh(told)
        return await waiter

    def when_fresh(self, told: Told) -> None:
        """Call once the caches hold everything that was acknowledged before this call, or fail to: not from here."""
        self._asked.append(told)
        self._question.set()

    async def reach(self, revision: int, timeout_s: float = REACH_TIMEOUT_S) -> None:
        """Wait until the feed is at ``revision``; raises TimeoutError."""
        if self.revision >= revision:
            return
        waiter = self._enlist(revision)
        async with asyncio.timeout(timeout_s):
            await waiter

    def _enlist(self, revision: int) -> asyncio.Future[None]:
        """Return what is done once the feed is at ``revision``."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tickets += 1
        if len(self._reached) >= WAITERS_SWEPT:
            # Those that gave up stay in the heap until it is swept.
            self._reached = [entry for entry in self._reached if not entry[2].done()]
            heapq.heapify(self._reached)
        heapq.heappush(self._reached, (revision, self._tickets, waiter))
        return waiter

    async def _answer_questions(self) -> None:
        while True:
            await self._question.wait()
            self._question.clear()
            asked, self._asked = self._asked, []
            try:
                revision = await self._store.revision()
            except StoreError as error:
                _tell_all(asked, 0, error)
                continue
            if revision <= self.revision:
                _tell_all(asked, revision, None)
            else:
                self._tell_later(asked, revision)

    def _tell_later(self, asked: list[Told], revision: int) -> None:
        """Tell all who share a question once the feed is there, by one timer for all of them."""
        waiter = self._enlist(revision)
        timer = asyncio.get_running_loop().call_later(REACH_TIMEOUT_S, waiter.cancel)

        def done(_: asyncio.Future[None]) -> None:
            timer.cancel()
            _tell_all(asked, revision, TimeoutError() if waiter.cancelled() else None)

        waiter.add_done_callback(done)

    # Reading without waiting: request.Lookup.

    def loaded(self, kind: Kind) -> ResourceCache | None:
        """Return the kind's cache where it is loaded."""
        return self.loaded_below(self.kinds.key_prefix(kind))

    def loaded_below(self, prefix: str) -> ResourceCache | None:
        """Return the cache of the kind with this key prefix where it is loaded."""
        cache = self._caches.get(prefix)
        return cache if cache is not None and cache.loaded else None

    def _loaded(self, resource: Resource) -> ResourceCache | None:
        return self.loaded(self.kinds.of(resource))

    def count(self, kind: Kind, namespace: str = "") -> int:
        """Return how many objects of a kind are in memory."""
        cache = self._caches.get(self.kinds.key_prefix(kind))
        if cache is None:
            return 0
        return cache.count(namespace) if kind.resource.namespaced else len(cache.entries)

    async def warm(self, resource: Resource) -> None:
        """Load the resource's cache."""
        await self.cache(self.kinds.of(resource))

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """Return a copy of one object."""
        cache = self._loaded(resource)
        entry = cache.entries.get(f"{namespace}/{name}" if resource.namespaced else name) if cache else None
        return entry.object() if entry is not None else None

    def list(self, resource: Resource, namespace: str = "") -> Iterator[Object]:
        """Yield a copy of each object, of all namespaces where none is named."""
        cache = self._loaded(resource)
        if cache is None:
            return
        low = f"{namespace}/" if namespace else None
        for key in list(cache.entries.irange(low, f"{namespace}0" if namespace else None)):
            if (entry := cache.entries.get(key)) is not None:
                yield entry.object()

    def revision_of(self, resource: Resource, name: str, namespace: str = "") -> int:
        """Return the revision at which an object stands in memory, 0 where it does not."""
        cache = self._loaded(resource)
        entry = cache.entries.get(f"{namespace}/{name}" if resource.namespaced else name) if cache else None
        return entry.revision if entry is not None else 0

    def subscribe(self, resource: Resource, listener: Listener) -> None:
        """Call ``listener(old, new)`` for every change, and with (None, object) for each that is there already."""
        prefix = self.kinds.key_prefix(self.kinds.of(resource))
        self._listeners.setdefault(prefix, []).append(listener)
        cache = self._caches.get(prefix)
        if cache is not None and cache.loaded:
            for entry in list(cache.entries.values()):
                listener(None, entry.object())

    def _tell(self, prefix: str, event: CacheEvent) -> None:
        for listener in self._listeners.get(prefix, ()):
            listener(event.old.object() if event.old else None, event.new.object() if event.new else None)


def _tell_all(asked: list[Told], revision: int, error: Exception | None) -> None:
    for told in asked:
        try:
            told(revision, error)
        except Exception:
            # The others wait for the same.
            log.exception("a read failed")
