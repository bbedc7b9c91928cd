"""Run controllers: informers fill queues, workers take keys, failures come again later.

A controller registers handlers that only put keys into its queue, and gives a `sync` that looks at the caches,
lets a pure function decide and applies what it decided. A key is never worked on by two workers at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from control.api import meta
from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError
from control.client.actions import Action, Plan, apply, apply_one
from control.client.client import Client
from control.client.events import EventRecorder
from control.client.informer import Handler, Informer, Informers
from control.client.workqueue import WorkQueue

log = logging.getLogger(__name__)

RACES = frozenset({"Conflict", "AlreadyExists", "NotFound"})
"""Refusals that only say that the cache was behind."""


def utc_now() -> datetime:
    """Return the wall clock's time."""
    return datetime.now(UTC)


@dataclass
class Context:
    """What every controller is given."""

    client: Client
    informers: Informers
    recorder: EventRecorder
    now: Callable[[], datetime] = utc_now

    def informer(self, resource: Resource) -> Informer:
        """Return the informer of all objects of a resource."""
        return self.informers.of(resource)

    async def apply(self, plan: Plan) -> None:
        """Do what a reconciler decided."""
        await apply(self.client, self.recorder, plan.actions)

    async def write(self, action: Action) -> Object | None:
        """Do one action and return what it wrote, if anything."""
        return await apply_one(self.client, self.recorder, action)


class Controller(Protocol):
    """One controller: a name, a queue, and how one key is brought to what is wished."""

    name: str
    queue: WorkQueue[str]
    workers: int

    async def sync(self, key: str) -> float | None:
        """Bring one object to what is wished; return when to look again, in seconds."""
        ...

    async def background(self) -> None:
        """Run what goes by time and not by change; ends at once where there is nothing."""
        ...


def is_namespace_terminating(error: ApiError) -> bool:
    """Tell whether a creation was refused because its namespace is going away."""
    causes = (error.status.get("details") or {}).get("causes") or []
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def enqueue(queue: WorkQueue[str], key_of: Callable[[Object], str | None] = meta.key) -> Handler:
    """Return a handler that queues a key for each change of an object."""

    def handler(old: Object | None, new: Object | None) -> None:
        for obj in (old, new):
            key = key_of(obj) if obj is not None else None
            if key:
                queue.add(key)

    return handler


async def work(controller: Controller) -> None:
    """Take keys one after another until cancelled."""
    queue = controller.queue
    while True:
        key = await queue.get()
        try:
            again = await controller.sync(key)
        except ApiError as error:
            delay = queue.add_rate_limited(key)
            # Losing a race against another writer is ordinary: the next look sees what it wrote.
            level = logging.DEBUG if error.reason in RACES else logging.WARNING
            log.log(level, "sync failed controller=%s key=%s delay_s=%.3f error=%s", controller.name, key, delay, error)
        except Exception:
            delay = queue.add_rate_limited(key)
            log.exception("sync broke controller=%s key=%s delay_s=%.3f", controller.name, key, delay)
        else:
            queue.forget(key)
            if again is not None:
                queue.add_after(key, again)
        finally:
            queue.done(key)


async def run_controllers(context: Context, controllers: Sequence[Controller]) -> None:
    """Run controllers, their informers and the event recorder until cancelled."""
    async with asyncio.TaskGroup() as group:
        group.create_task(context.recorder.run())
        group.create_task(context.informers.run())
        await context.informers.wait_synced()
        for controller in controllers:
            group.create_task(controller.background())
            for _ in range(controller.workers):
                group.create_task(work(controller))
        log.info("controllers run count=%d", len(controllers))
