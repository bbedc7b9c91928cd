"""A local copy of a collection of objects, kept up to date by list and watch.

Theory of operation. The informer lists once, then watches from the list's revision. When the watch ends it goes
on from the last revision seen; when the server no longer knows that revision (410) it lists again and the
difference becomes ordinary changes, so that handlers never learn of it. Handlers run inside the informer's task,
must not block, and usually only put a key into a work queue. Objects in the cache are shared: whoever wants to
change one takes `copy_object` of it first.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson

from control.api import meta
from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import Client, ListOptions, WatchEvent

log = logging.getLogger(__name__)

PAGE_SIZE = 500
WATCH_TIMEOUT_S = 300
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 10.0
SHORT_WATCH_S = 1.0

Handler = Callable[[Object | None, Object | None], None]
"""Called with (old, new): old is None for a new object, new is None for one that is gone."""
Indexer = Callable[[Object], Iterable[str]]
"""Returns the values under which an object is found in an index."""
Transform = Callable[[Object], Object]

BY_NAMESPACE = "namespace"
BY_OWNER = "owner"


def by_namespace(obj: Object) -> Iterable[str]:
    """Index objects by their namespace."""
    return (meta.namespace(obj),)


def by_owner(obj: Object) -> Iterable[str]:
    """Index objects by the uid of their managing controller."""
    reference = meta.controller_of(obj)
    return (reference["uid"],) if reference else ()


def copy_object(obj: Object) -> Object:
    """Return a copy that may be changed."""
    copied: Object = orjson.loads(orjson.dumps(obj))
    return copied


def drop_managed_fields(obj: Object) -> Object:
    """Forget metadata.managedFields: no component reads it, and it is often a third of an object."""
    metadata = obj.get("metadata")
    if metadata:
        metadata.pop("managedFields", None)
    return obj


class Cache:
    """Objects by key and by any number of indexes."""

    def __init__(self, indexers: Mapping[str, Indexer] | None = None) -> None:
        self._objects: dict[str, Object] = {}
        self._indexers = dict(indexers or {})
        self._indexes: dict[str, dict[str, dict[str, Object]]] = {name: {} for name in self._indexers}

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[Object]:
        return iter(self._objects.values())

    def add_indexer(self, name: str, indexer: Indexer) -> None:
        """Add an index over the objects there are and will be."""
        if name in self._indexers:
            return
        self._indexers[name] = indexer
        self._indexes[name] = {}
        for key, obj in self._objects.items():
            self._enter(name, key, obj)

    def get(self, key: str) -> Object | None:
        """Return the object of a key ("namespace/name", or "name")."""
        return self._objects.get(key)

    def keys(self) -> list[str]:
        """Return all keys."""
        return list(self._objects)

    def by_index(self, name: str, value: str) -> list[Object]:
        """Return the objects that an index files under a value."""
        return list(self._indexes[name].get(value, {}).values())

    def put(self, obj: Object) -> Object | None:
        """Store an object and return the one it replaces."""
        key = meta.key(obj)
        old = self._objects.get(key)
        if old is not None:
            self._leave(key, old)
        self._objects[key] = obj
        for name in self._indexers:
            self._enter(name, key, obj)
        return old

    def remove(self, key: str) -> Object | None:
        """Remove an object and return it."""
        old = self._objects.pop(key, None)
        if old is not None:
            self._leave(key, old)
        return old

    def _enter(self, name: str, key: str, obj: Object) -> None:
        for value in self._indexers[name](obj):
            self._indexes[name].setdefault(value, {})[key] = obj

    def _leave(self, key: str, obj: Object) -> None:
        for name, indexer in self._indexers.items():
            for value in indexer(obj):
                found = self._indexes[name].get(value)
                if found is not None:
                    found.pop(key, None)
                    if not found:
                        del self._indexes[name][value]


class Informer:
    """Keeps a `Cache` of one collection up to date and calls handlers for each change."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        indexers: Mapping[str, Indexer] | None = None,
        transform: Transform = drop_managed_fields,
        watch_timeout_s: int = WATCH_TIMEOUT_S,
        jitter: random.Random | None = None,
    ) -> None:
        self.resource = resource
        self.cache = Cache(indexers)
        self._client = client
        self._namespace = namespace
        self._options = ListOptions(label_selector=label_selector, field_selector=field_selector)
        self._transform = transform
        self._watch_timeout_s = watch_timeout_s
        self._random = jitter or random.Random()
        self._handlers: list[Handler] = []
        self._revision = ""
        self._synced = asyncio.Event()
        self._backoff_s = BACKOFF_FIRST_S
        self._healthy = True

    def get(self, key: str) -> Object | None:
        """Return the cached object of a key ("namespace/name", or "name")."""
        return self.cache.get(key)

    def objects(self) -> list[Object]:
        """Return all cached objects."""
        return list(self.cache)

    def by_index(self, name: str, value: str) -> list[Object]:
        """Return the cached objects that an index files under a value."""
        return self.cache.by_index(name, value)

    def add_indexer(self, name: str, indexer: Indexer) -> None:
        """Add an index."""
        self.cache.add_indexer(name, indexer)

    def add_handler(self, handler: Handler) -> None:
        """Call `handler(old, new)` for each change from now on, and once (None, object) for each object there is."""
        self._handlers.append(handler)
        for obj in self.objects():
            handler(None, obj)

    @property
    def has_synced(self) -> bool:
        """True once the first list is in the cache and its handlers have run."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Wait until the first list is in the cache."""
        await self._synced.wait()

    async def run(self) -> None:
        """List and watch until cancelled; failures are logged and retried with growing delays."""
        while True:
            try:
                if not self._revision:
                    await self._list()
                began = asyncio.get_running_loop().time()
                await self._watch()
                if asyncio.get_running_loop().time() - began < SHORT_WATCH_S:
                    await asyncio.sleep(BACKOFF_FIRST_S)  # a server that ends watches at once is not asked in a loop
            except ApiError as error:
                if error.code == 410:
                    self._revision = ""
                    if self._healthy:
                        self._healthy = False  # a second 410 in a row waits
                        continue
                await self._wait_after(error)

    async def _wait_after(self, error: ApiError) -> None:
        delay = self._backoff_s * (1.0 + self._random.random())
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
        log.warning(
            "watching failed, retrying resource=%s code=%d error=%s delay_s=%.1f",
            self.resource.plural, error.code, error.message, delay,
        )  # fmt: skip
        await asyncio.sleep(delay)

    async def _list(self) -> None:
        """Replace the cache's content by a consistent list and pass the differences on."""
        seen: set[str] = set()
        token, revision = "", ""
        while True:
            options = self._with(limit=PAGE_SIZE, continue_token=token)
            page = await self._client.list(self.resource, self._namespace, options)
            revision = page.resource_version
            for obj in page.items:
                obj = self._transform(obj)
                seen.add(meta.key(obj))
                self._store(obj)
            token = page.continue_token
            if not token:
                break
        for key in self.cache.keys():  # noqa: SIM118  (a list: the cache changes below)
            if key not in seen:
                self._forget(key)
        self._revision = revision
        self._synced.set()

    async def _watch(self) -> None:
        timeout = int(self._watch_timeout_s * (1.0 + self._random.random()))
        options = self._with(resource_version=self._revision, timeout_s=max(1, timeout))
        stream: Any = self._client.watch(self.resource, self._namespace, options)
        async with aclosing(stream) as events:
            async for event in events:
                self._take(event)

    def _with(self, **changes: Any) -> ListOptions:
        return replace(self._options, **changes)

    def _take(self, event: WatchEvent) -> None:
        revision = meta.resource_version(event.object)
        if event.type in ("ADDED", "MODIFIED"):
            self._store(self._transform(event.object))
        elif event.type == "DELETED":
            self._forget_in_state(event.object)
        if revision:
            self._revision = revision
        self._healthy = True
        self._backoff_s = BACKOFF_FIRST_S

    def _forget_in_state(self, obj: Object) -> None:
        """Remove an object and tell the state in which it was deleted."""
        old = self.cache.remove(meta.key(obj))
        if old is not None:
            self._tell(self._transform(obj), None)

    def _store(self, obj: Object) -> None:
        old = self.cache.put(obj)
        if old is None:
            self._tell(None, obj)
        elif meta.uid(old) != meta.uid(obj):
            # Deleted and made anew while nobody looked: two changes, since they are two objects.
            self._tell(old, None)
            self._tell(None, obj)
        elif meta.resource_version(old) != meta.resource_version(obj):
            self._tell(old, obj)

    def _forget(self, key: str) -> None:
        old = self.cache.remove(key)
        if old is not None:
            self._tell(old, None)

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            handler(old, new)


class Informers:
    """The informers of one process, one for each collection however many ask for it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._informers: dict[tuple[Resource, str, str, str], Informer] = {}

    def of(
        self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> Informer:
        """Return the informer of a collection, made at the first call; call before `run`."""
        key = (resource, namespace, label_selector, field_selector)
        if key not in self._informers:
            self._informers[key] = Informer(
                self._client, resource, namespace, label_selector=label_selector, field_selector=field_selector
            )
        return self._informers[key]

    def existing(self, resource: Resource) -> Informer | None:
        """Return the informer of a whole collection if someone asked for it."""
        return self._informers.get((resource, "", "", ""))

    async def run(self) -> None:
        """Run all informers until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self._informers.values():
                group.create_task(informer.run())

    async def wait_synced(self) -> None:
        """Wait until every informer has its first list."""
        for informer in list(self._informers.values()):
            await informer.wait_synced()
