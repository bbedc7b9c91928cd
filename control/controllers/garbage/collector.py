"""The garbage collector: delete what lost its owners, end foreground deletions, orphan what shall stay."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import DeleteOptions
from control.client.informer import Informer
from control.client.runner import Context
from control.client.workqueue import WorkQueue
from control.controllers.discovery import discover
from control.controllers.garbage.graph import (
    FOREGROUND,
    ORPHAN,
    Discard,
    Graph,
    Item,
    Owner,
    Standing,
    blocking,
    decide,
    item_of,
)

log = logging.getLogger(__name__)

DISCOVER_EVERY_S = 30.0
DISCOVER_FIRST_S = 1.0
ABSENT_MAX = 500
UNKNOWN_KIND_AGAIN_S = 30.0
IGNORED = frozenset({("", "events"), ("events.k8s.io", "events")})


def stub(obj: Object) -> Object:
    """Return what the graph needs of an object, so that watching everything costs little memory."""
    head = obj.get("metadata") or {}
    names = ("name", "namespace", "uid", "resourceVersion", "ownerReferences", "finalizers", "deletionTimestamp")
    return {"metadata": {name: head[name] for name in names if name in head}}


class GarbageCollector:
    """Follows owner references over all kinds that the API server serves; keys are uids."""

    name = "garbagecollector"
    workers = 5

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._graph = Graph()
        self._informers: dict[Resource, Informer] = {}
        self._kinds: dict[tuple[str, str], Resource] = {}
        self._absent: OrderedDict[str, None] = OrderedDict()

    async def background(self) -> None:
        """Discover what is served and watch it, again and again: kinds come and go."""
        async with asyncio.TaskGroup() as group:
            while True:
                wait = DISCOVER_EVERY_S
                try:
                    served, _ = await discover(self._context.client)
                except ApiError as error:
                    log.warning("discovery failed error=%s", error.message)
                    served, wait = [], DISCOVER_FIRST_S
                for entry in served:
                    resource = entry.resource
                    # Group and kind decide, whatever the version: references may name an older one.
                    self._kinds[resource.group, resource.kind] = resource
                    ignored = (resource.group, resource.plural) in IGNORED
                    if not ignored and resource not in self._informers and {"list", "watch", "delete"} <= entry.verbs:
                        self._watch(group, resource)
                await asyncio.sleep(wait)

    def _watch(self, group: asyncio.TaskGroup, resource: Resource) -> None:
        shared = self._context.informers.existing(resource)
        informer = shared or Informer(self._context.client, resource, transform=stub)
        self._informers[resource] = informer

        def changed(old: Object | None, new: Object | None) -> None:
            if new is not None:
                look = self._graph.put(item_of(resource, new))
            else:
                look = self._graph.remove(meta.uid(old or {}))
            for uid in look:
                self.queue.add(uid)

        informer.add_handler(changed)
        if shared is None:
            group.create_task(informer.run())

    async def sync(self, key: str) -> float | None:
        """Look at one object."""
        item = self._graph.get(key)
        if item is None:
            return None
        if item.deleting:
            if ORPHAN in item.finalizers:
                await self._orphan(item)
            elif FOREGROUND in item.finalizers:
                await self._end_foreground(item)
            return None
        if not item.owners:
            return None
        return await self._judge(item)

    async def _judge(self, item: Item) -> float | None:
        standing: dict[str, Standing] = {}
        for owner in item.owners:
            found = await self._standing(owner, item.namespace)
            if found is None:
                log.warning("owner's kind is not served object=%s/%s kind=%s", item.namespace, item.name, owner.kind)
                return UNKNOWN_KIND_AGAIN_S
            standing[owner.uid] = found
        decided = decide(item, standing, self._graph.dependents(item.uid))
        if isinstance(decided, Discard):
            options = DeleteOptions(uid=item.uid, propagation_policy=decided.policy)
            if await self._live(item) is None:
                return None
            await self._ignoring_gone(self._context.client.delete(item.resource, item.name, item.namespace, options))
            log.info("deleted kind=%s object=%s/%s policy=%s", item.resource.kind, item.namespace, item.name,
                     decided.policy)  # fmt: skip
        elif decided.stale:
            await self._drop_owners(item, set(decided.stale))
        return None

    async def _standing(self, owner: Owner, namespace: str) -> Standing | None:
        """Return how an owner stands; what the graph does not know is asked of the server."""
        known = self._graph.get(owner.uid)
        if known is not None:
            return Standing.WAITING if known.waits_for_dependents else Standing.SOLID
        if owner.uid in self._absent:
            return Standing.ABSENT
        group = owner.api_version.rpartition("/")[0]
        resource = self._kinds.get((group, owner.kind))
        if resource is None:
            return None
        try:
            found = await self._context.client.get(resource, owner.name, namespace if resource.namespaced else "")
        except ApiError as error:
            if error.code != 404:
                raise
            found = {}
        if meta.uid(found) != owner.uid:
            self._absent[owner.uid] = None
            while len(self._absent) > ABSENT_MAX:
                self._absent.popitem(last=False)
            return Standing.ABSENT
        return Standing.WAITING if item_of(resource, found).waits_for_dependents else Standing.SOLID

    async def _live(self, item: Item) -> Object | None:
        """Return the object as it is now, None when it is another one by now."""
        try:
            found = await self._context.client.get(item.resource, item.name, item.namespace)
        except ApiError as error:
            if error.code == 404:
                return None
            raise
        return found if meta.uid(found) == item.uid else None

    async def _end_foreground(self, item: Item) -> None:
        """Have dependents deleted, and let the owner go when none that blocks is left."""
        dependents = self._graph.dependents(item.uid)
        if blocking(item, dependents):
            for dependent in dependents:
                if not dependent.deleting:
                    self.queue.add(dependent.uid)
            return
        await self._drop_finalizer(item, FOREGROUND)

    async def _orphan(self, item: Item) -> None:
        """Make the dependents forget their owner, then let it go."""
        for dependent in self._graph.dependents(item.uid):
            await self._drop_owners(dependent, {item.uid})
        await self._drop_finalizer(item, ORPHAN)

    async def _drop_owners(self, item: Item, uids: set[str]) -> None:
        found = await self._live(item)
        if found is None:
            return
        kept = [entry for entry in meta.owner_references(found) if entry.get("uid") not in uids]
        await self._patch_metadata(item, found, {"ownerReferences": kept or None})

    async def _drop_finalizer(self, item: Item, finalizer: str) -> None:
        found = await self._live(item)
        if found is None:
            return
        finalizers = found["metadata"].get("finalizers") or []
        if finalizer in finalizers:
            kept = [entry for entry in finalizers if entry != finalizer]
            await self._patch_metadata(item, found, {"finalizers": kept or None})

    async def _patch_metadata(self, item: Item, found: Object, change: dict[str, Any]) -> None:
        """Change metadata as read: a merge patch that a change in between makes fail, to be tried again."""
        patch = {"metadata": {"resourceVersion": meta.resource_version(found), **change}}
        await self._ignoring_gone(self._context.client.patch(item.resource, item.name, patch, item.namespace))

    @staticmethod
    async def _ignoring_gone(call: Any) -> None:
        try:
            await call
        except ApiError as error:
            if error.code != 404:
                raise
