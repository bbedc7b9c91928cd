"""Namespaces that go away: delete everything in them, then let them go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import EVENTS, NAMESPACES, PODS, Resource
from control.api.status import ApiError
from control.client.actions import Update
from control.client.client import DeleteOptions, ListOptions
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers.discovery import discover
from control.controllers.pods import format_time

log = logging.getLogger(__name__)

FINALIZER = "kubernetes"
PAGE_SIZE = 500
PARALLEL_MAX = 8
DISCOVERY_KEPT_S = 30.0
LOOK_AGAIN_S = 1.0


def terminating_status(namespace: Object, left: Sequence[tuple[Resource, int]], failure: str, stamp: str) -> Object:
    """Return the namespace with the conditions that say what holds it."""
    content = ", ".join(f"{_name(resource)} has {count} resource instances" for resource, count in left)
    conditions = [
        _condition("NamespaceDeletionContentFailure", bool(failure), "ContentDeletionFailed", failure, stamp),
        _condition("NamespaceContentRemaining", bool(left), "SomeResourcesRemain",
                   f"Some resources are remaining: {content}", stamp),
    ]  # fmt: skip
    for entry in conditions:
        old = meta.condition(namespace, entry["type"])
        if old is not None and old.get("status") == entry["status"]:
            entry["lastTransitionTime"] = old.get("lastTransitionTime", stamp)
    return {**namespace, "status": {**(namespace.get("status") or {}), "conditions": conditions}}


def _name(resource: Resource) -> str:
    return f"{resource.plural}.{resource.group}" if resource.group else f"{resource.plural}."


def _condition(kind: str, holds: bool, reason: str, message: str, stamp: str) -> dict[str, Any]:
    if not holds:
        reason = {"NamespaceContentRemaining": "ContentRemoved"}.get(kind, "ContentDeleted")
        message = (
            "All content successfully removed"
            if reason == "ContentRemoved"
            else ("All content successfully deleted, may be waiting on finalization")
        )
    status = "True" if holds else "False"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": stamp}


class NamespaceController:
    """Empties namespaces that are being deleted."""

    name = "namespace"
    workers = 4

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._namespaces = context.informer(NAMESPACES)
        self._namespaces.add_handler(enqueue(self.queue))
        self._resources: list[Resource] = []
        self._discovered = 0.0

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Empty a namespace that is being deleted, and finalize it once it is empty."""
        namespace = self._namespaces.get(key)
        if namespace is None or not meta.is_being_deleted(namespace):
            return None
        if FINALIZER not in ((namespace.get("spec") or {}).get("finalizers") or []):
            return None
        resources, complete = await self._namespaced()
        left, failure = await self._empty(key, resources)
        if not left and not failure and complete:
            await self._finalize(key)
            return None
        stamp = format_time(self._context.now())
        wished = terminating_status(namespace, left, failure, stamp)
        if wished["status"] != namespace.get("status"):
            await self._context.write(Update(NAMESPACES, wished, "status"))
        return LOOK_AGAIN_S

    async def _namespaced(self) -> tuple[list[Resource], bool]:
        """Return all namespaced resources that can be listed and deleted, Events last."""
        now = self._context.now().timestamp()
        if self._resources and now - self._discovered < DISCOVERY_KEPT_S:
            return self._resources, True
        served, complete = await discover(self._context.client)
        found = [entry.resource for entry in served if entry.resource.namespaced and {"list", "delete"} <= entry.verbs]
        found.sort(key=lambda resource: (resource.plural == EVENTS.plural, resource.group, resource.plural))
        if complete:
            self._resources, self._discovered = found, now
        return found, complete

    async def _empty(self, name: str, resources: Sequence[Resource]) -> tuple[list[tuple[Resource, int]], str]:
        """Delete all objects; return what is left and the first failure."""
        left: list[tuple[Resource, int]] = []
        failures: list[str] = []
        limit = asyncio.Semaphore(PARALLEL_MAX)

        async def one(resource: Resource) -> None:
            async with limit:
                try:
                    count = await self._delete_all(resource, name)
                except ApiError as error:
                    failures.append(f"{_name(resource)}: {error.message}")
                    return
            if count:
                left.append((resource, count))

        async with asyncio.TaskGroup() as group:
            for resource in resources:
                group.create_task(one(resource))
        left.sort(key=lambda entry: _name(entry[0]))
        return left, "; ".join(sorted(failures))

    async def _delete_all(self, resource: Resource, name: str) -> int:
        """Delete a resource's objects and return how many stay for now, for a grace period or a finalizer."""
        client, count, token = self._context.client, 0, ""
        while True:
            try:
                page = await client.list(resource, name, ListOptions(limit=PAGE_SIZE, continue_token=token))
            except ApiError as error:
                if error.code in (404, 405):
                    return 0  # no longer served
                raise
            for obj in page.items:
                count += await self._delete_one(resource, name, obj)
            token = page.continue_token
            if not token:
                return count

    async def _delete_one(self, resource: Resource, name: str, obj: Object) -> int:
        if meta.is_being_deleted(obj):
            return 1
        options = DeleteOptions(uid=meta.uid(obj), propagation_policy="Background")
        try:
            gone = await self._context.client.delete(resource, meta.name(obj), name, options)
        except ApiError as error:
            if error.code in (404, 409):
                return 0 if error.code == 404 else 1
            raise
        waits = bool(meta.metadata(gone).get("finalizers")) or (resource == PODS and meta.is_being_deleted(gone))
        return int(waits)

    async def _finalize(self, name: str) -> None:
        """Remove our finalizer; with the last one the namespace is gone."""
        fresh = await self._context.client.get(NAMESPACES, name)
        spec = dict(fresh.get("spec") or {})
        spec["finalizers"] = [entry for entry in spec.get("finalizers") or [] if entry != FINALIZER]
        try:
            await self._context.client.update(NAMESPACES, {**fresh, "spec": spec}, subresource="finalize")
        except ApiError as error:
            if error.code != 404:
                raise
        log.info("namespace emptied name=%s", name)
