"""ResourceQuotas: what is used of each, counted anew whenever something comes, changes or goes.

Admission charges every write before it is stored; this controller sets the bounds that are in force, gives back what
went away and finds what was charged and never stored. It watches the kinds that some quota counts, and of each object
keeps its measure alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from control.api import amounts, meta
from control.api.meta import Object
from control.api.quota.charges import hard_of, used_of
from control.api.quota.recount import count, counted_kinds, differs, recount
from control.api.quota.usage import Measure, Name, measure
from control.api.resources import RESOURCE_QUOTAS, Resource
from control.api.status import ApiError
from control.client.actions import Update
from control.client.informer import BY_NAMESPACE, Informer, by_namespace
from control.client.runner import Context
from control.client.workqueue import WorkQueue
from control.controllers.discovery import discover

log = logging.getLogger(__name__)

RECOUNT_AFTER_ADDING_S = 1.0
"""What comes has been charged already, so that its count may wait for more."""
RESYNC_S = 300.0
SYNC_POLL_S = 0.1
DISCOVER_AGAIN_S = 30.0
_MEASURE = "measure"


@dataclass
class _Counter:
    """The objects of one kind, measured."""

    informer: Informer
    measures: dict[str, dict[str, Measure]] = field(default_factory=lambda: defaultdict(dict))
    """By namespace and key."""


@dataclass
class _Memory:
    """What is remembered of one quota between two looks."""

    charged_at: float
    surplus_since: float | None = None
    freed: list[amounts.Amounts] = field(default_factory=list)


class ResourceQuotaController:
    """Keeps the status of ResourceQuotas."""

    name = "resourcequota"
    workers = 2

    def __init__(self, context: Context, resync_s: float = RESYNC_S) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._resync_s = resync_s
        self._quotas = context.informer(RESOURCE_QUOTAS)
        self._quotas.add_indexer(BY_NAMESPACE, by_namespace)
        self._counters: dict[Name, _Counter] = {}
        self._resources: dict[Name, Resource] = {}
        self._absent: dict[Name, float] = {}
        """When kinds that some quota names were found not to be served."""
        self._memory: dict[str, _Memory] = {}
        self._to_watch: asyncio.Queue[Name] = asyncio.Queue()
        self._asked: set[Name] = set()
        self._quotas.add_handler(self._quota_changed)

    def _now_s(self) -> float:
        return self._context.now().timestamp()

    def _quota_changed(self, old: Object | None, new: Object | None) -> None:
        """Queue a quota that is new or asks for something else, and see what was charged to it."""
        if new is None:
            self._memory.pop(meta.key(old or {}), None)
            return
        key = meta.key(new)
        memory = self._memory.setdefault(key, _Memory(self._now_s()))
        if old is not None and amounts.exceeding(used_of(new), used_of(old)):
            memory.charged_at = self._now_s()
        if old is None or old.get("spec") != new.get("spec") or hard_of(new) != (new.get("spec") or {}).get("hard"):
            self.queue.add(key)
        elif used_of(old) != used_of(new):
            self.queue.add_after(key, RECOUNT_AFTER_ADDING_S)

    # Watching what is counted.

    async def background(self) -> None:
        """Watch kinds as they are asked for, and look at every quota again now and then."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._resync())
            while True:
                kind = await self._to_watch.get()
                resource = await self._resource(kind)
                if resource is None:
                    self._absent[kind] = self._now_s()
                    self._asked.discard(kind)
                else:
                    self._watch(group, kind, resource)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._resync_s)
            for quota in self._quotas.objects():
                self.queue.add(meta.key(quota))

    async def _resource(self, kind: Name) -> Resource | None:
        """Return how a kind is served; None where it is not, as far as is known."""
        if kind not in self._resources:
            try:
                served, _ = await discover(self._context.client)
            except ApiError as error:
                log.warning("discovery failed error=%s", error.message)
                return None
            self._resources = {
                (each.resource.group, each.resource.plural): each.resource
                for each in served
                if each.resource.namespaced and {"list", "watch"} <= each.verbs
            }
        return self._resources.get(kind)

    def _watch(self, group: asyncio.TaskGroup, kind: Name, resource: Resource) -> None:
        shared = self._context.informers.existing(resource)
        informer = shared or Informer(self._context.client, resource, transform=partial(_measured, kind))
        counter = self._counters[kind] = _Counter(informer)
        informer.add_handler(partial(self._object_changed, kind, counter))
        if shared is None:
            group.create_task(informer.run())
        for quota in self._quotas.objects():
            if kind in counted_kinds(quota):
                self.queue.add(meta.key(quota))

    def _object_changed(self, kind: Name, counter: _Counter, old: Object | None, new: Object | None) -> None:
        space, key = meta.namespace(new or old or {}), meta.key(new or old or {})
        known = counter.measures[space]
        before = known.pop(key, None)
        after = None
        if new is not None:
            after = known[key] = new[_MEASURE] if _MEASURE in new else measure(kind, new)
        if before == after:
            return
        now = self._context.now()
        gone = {}
        if before is not None:
            left = after.usage(now) if after is not None else {}
            gone = amounts.without_zeroes(amounts.less(before.usage(now), left))
        for quota in self._quotas.by_index(BY_NAMESPACE, space):
            if kind in counted_kinds(quota):
                if gone and counter.informer.has_synced:
                    self._memory[meta.key(quota)].freed.append(gone)
                    self.queue.add(meta.key(quota))
                else:
                    self.queue.add_after(meta.key(quota), RECOUNT_AFTER_ADDING_S)

    # Counting.

    async def sync(self, key: str) -> float | None:
        """Bring one quota's status up to date."""
        quota, memory = self._quotas.get(key), self._memory.get(key)
        if quota is None or memory is None or meta.is_being_deleted(quota):
            return None
        now, now_s = self._context.now(), self._now_s()
        counted: dict[str, str] = {}
        waits: list[float] = []
        for kind in sorted(counted_kinds(quota)):
            counter = self._counters.get(kind)
            if counter is None and (wait_s := self._ask_for(kind)) is not None:
                waits.append(wait_s)
            elif counter is None or not counter.informer.has_synced:
                return SYNC_POLL_S
            else:
                measures = list(counter.measures[meta.namespace(quota)].values())
                counted.update(count(quota, kind, measures, now))
                waits.extend(_ends_of_life(measures, now))
        seen = len(memory.freed)
        if amounts.are_equal(counted, used_of(quota)):
            memory.surplus_since = None
        elif memory.surplus_since is None:
            memory.surplus_since = now_s
        since_surplus_s = now_s - (now_s if memory.surplus_since is None else memory.surplus_since)
        found = recount(quota, counted, amounts.total(memory.freed), now_s - memory.charged_at, since_surplus_s)
        if differs(quota, found.status):
            await self._context.write(Update(RESOURCE_QUOTAS, {**quota, "status": found.status}, "status"))
        del memory.freed[:seen]
        if found.again_after_s is not None:
            waits.append(found.again_after_s)
        return min(waits, default=None)

    def _ask_for(self, kind: Name) -> float | None:
        """Have a kind watched; return when to ask again for one that is not served, None while it is looked for."""
        if self._now_s() - self._absent.get(kind, float("-inf")) < DISCOVER_AGAIN_S:
            return DISCOVER_AGAIN_S
        if kind not in self._asked:
            self._asked.add(kind)
            self._to_watch.put_nowait(kind)
        return None


def _measured(kind: Name, obj: Object) -> Object:
    """Return what is kept of an object: its names and its measure."""
    head = meta.metadata(obj)
    kept = {name: head[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in head}
    return {"metadata": kept, _MEASURE: measure(kind, obj)}


def _ends_of_life(measures: Iterable[Measure], now: datetime) -> Iterator[float]:
    """Yield after how many seconds objects stop to count by time alone."""
    for each in measures:
        if each.lives_until is not None and each.lives_until > now:
            yield (each.lives_until - now).total_seconds() + 1.0
