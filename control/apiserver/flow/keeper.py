"""Follows the objects that configure the gate, keeps those that every cluster has, and has seats lent."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from control.api import flowcontrol, meta
from control.api.meta import Object
from control.api.resources import FLOW_SCHEMAS, PRIORITY_LEVELS, Resource
from control.api.status import ApiError
from control.apiserver.etcd import StoreError
from control.apiserver.flow import bootstrap
from control.apiserver.flow.gate import FlowGate
from control.apiserver.request import Lookup
from control.client.client import APPLY_PATCH, Client

log = logging.getLogger(__name__)

BORROW_INTERVAL_S = 10.0
KEEP_INTERVAL_S = 60.0
RETRY_S = 1.0
SETTLE_S = 0.05
"""What changes within this time is followed at once."""
STATUS_MANAGER = "api-priority-and-fairness-config-consumer-v1"
_EXPECTED = ("AlreadyExists", "Conflict", "NotFound")


class FlowKeeper:
    """Keeps one gate and its objects."""

    def __init__(self, gate: FlowGate, lookup: Lookup, client: Client) -> None:
        self._gate = gate
        self._lookup = lookup
        self._client = client
        self._changed = asyncio.Event()
        self._subscribed = False
        self.following = False
        """Whether the gate knows the stored objects."""
        self.complete = False
        """Whether all objects that a cluster starts with have been made."""

    async def run(self) -> None:
        """Work until cancelled."""
        await self._until_done("follow", self._start)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._keep())
            tasks.create_task(self._borrow())

    async def _until_done(self, what: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            try:
                await work()
            except (ApiError, StoreError, TimeoutError) as error:
                log.warning("priority and fairness waits for the store task=%s error=%s", what, error)
                await asyncio.sleep(RETRY_S)
            else:
                return

    async def _start(self) -> None:
        for resource in (PRIORITY_LEVELS, FLOW_SCHEMAS):
            await self._lookup.warm(resource)
        if not self._subscribed:
            self._subscribed = True
            for resource in (PRIORITY_LEVELS, FLOW_SCHEMAS):
                self._lookup.subscribe(resource, self._note)
        self._changed.set()

    def _note(self, old: Object | None, new: Object | None) -> None:
        self._changed.set()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            schemas = list(self._lookup.list(FLOW_SCHEMAS))
            dangling = self._gate.configure(self._lookup.list(PRIORITY_LEVELS), schemas)
            self.following = True
            for schema in schemas:
                await self._tell(schema, dangling.get(meta.name(schema)))

    async def _tell(self, schema: Object, missing_level: str | None) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition = bootstrap.condition(schema, missing_level, now)
        if condition is None:
            return
        name = meta.name(schema)
        patch = {
            "apiVersion": flowcontrol.API_VERSION,
            "kind": "FlowSchema",
            "metadata": {"name": name},
            "status": {"conditions": [condition]},
        }
        try:
            await self._client.patch(
                FLOW_SCHEMAS,
                name,
                patch,
                patch_type=APPLY_PATCH,
                subresource="status",
                field_manager=STATUS_MANAGER,
                force=True,
            )
        except (ApiError, TimeoutError) as error:
            # The next round of keeping looks at all of them again.
            log.info("status of a flow schema is not up to date name=%s error=%s", name, error)

    async def _keep(self) -> None:
        while True:
            await self._until_done("keep", self._keep_objects)
            self.complete = True
            await asyncio.sleep(KEEP_INTERVAL_S * random.uniform(0.8, 1.2))
            self._changed.set()

    async def _keep_objects(self) -> None:
        for resource, wanted in (
            (PRIORITY_LEVELS, flowcontrol.priority_levels()),
            (FLOW_SCHEMAS, flowcontrol.flow_schemas()),
        ):
            # All at once: a server is not ready before they stand.
            await asyncio.gather(*(self._ensure(resource, obj) for obj in wanted))
            names = frozenset(meta.name(obj) for obj in wanted)
            for existing in list(self._lookup.list(resource)):
                if bootstrap.left_over(existing, names):
                    await self._expecting(self._client.delete(resource, meta.name(existing)))

    async def _ensure(self, resource: Resource, wanted: Object) -> None:
        existing = self._lookup.get(resource, meta.name(wanted))
        made = bootstrap.kept(existing, wanted)
        if made is None:
            return
        if existing is None:
            await self._expecting(self._client.create(resource, made))
        else:
            await self._expecting(self._client.update(resource, made))

    @staticmethod
    async def _expecting(doing: Coroutine[Any, Any, Object]) -> None:
        """Do something that another server may have done a moment before."""
        try:
            await doing
        except ApiError as error:
            if error.reason not in _EXPECTED:
                raise

    async def _borrow(self) -> None:
        while True:
            await asyncio.sleep(BORROW_INTERVAL_S)
            self._gate.borrow()
