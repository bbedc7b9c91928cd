"""Keeps APIServices: which requests go to other servers, whether those are available, and what they serve.

Every API server follows the APIServices by its own feed, asks their servers itself, and writes what it found into
their status; whoever is second finds it written. A check asks for the group version's own discovery document, which
says both that the server answers and what it serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from control.api import status
from control.api.meta import Object
from control.api.resources import API_SERVICES, CUSTOM_RESOURCE_DEFINITIONS, ENDPOINT_SLICES, SERVICES
from control.apiserver.aggregation import registration
from control.apiserver.aggregation.backends import BackendError, Backends
from control.apiserver.aggregation.documents import (
    DocumentError,
    Foreign,
    Published,
    read_index,
    read_resources,
)
from control.apiserver.aggregation.proxy import Proxy
from control.apiserver.aggregation.registration import Priority
from control.apiserver.aggregation.services import LOCAL, PASSED, Route, Verdict, judge_service, route_of, with_verdict
from control.apiserver.etcd import StoreError
from control.apiserver.kinds import Kinds
from control.apiserver.registry import now_text
from control.apiserver.request import Lookup, StreamRequest
from control.client.client import Client
from control.client.workqueue import RetryPolicy, WorkQueue

log = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 5.0
CHECK_INTERVAL_S = 30.0
"""How often a server that was found available is asked again."""
WORKERS = 4
RETRY = RetryPolicy(base_delay_s=0.2, delay_max_s=30.0)
REGISTRATION_RETRY_S = 1.0

Publish = Callable[[Mapping[tuple[str, str], Published]], None]
"""Takes what discovery tells of other servers' group versions, by (group, version)."""


class Aggregator:
    """Owns the routes to other servers of one API server."""

    def __init__(
        self, lookup: Lookup, client: Client, kinds: Kinds, backends: Backends, proxy: Proxy, publish: Publish
    ) -> None:
        self._lookup = lookup
        self._client = client
        self._kinds = kinds
        self._backends = backends
        self._proxy = proxy
        self._publish = publish
        self.routes: dict[tuple[str, str], Route] = {}
        """Which server answers for a group version; empty in most clusters."""
        self.openapi: dict[str, Object] = {}
        """The entries of OpenAPI v3's index for other servers' group versions, by path."""
        self._resources: dict[tuple[str, str], tuple[Object, ...]] = {}
        self._entries: dict[tuple[str, str], dict[str, Object]] = {}
        self._queue: WorkQueue[str] = WorkQueue(RETRY)
        self._unregistered = asyncio.Event()
        self._follows_services = False

    async def start(self) -> None:
        """Know the APIServices from now on; raises StoreError."""
        self._lookup.subscribe(API_SERVICES, self._changed)
        await self._lookup.warm(API_SERVICES)
        self._lookup.subscribe(CUSTOM_RESOURCE_DEFINITIONS, lambda old, new: self._unregistered.set())
        self._unregistered.set()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        before = route_of(old) if old is not None else None
        route = route_of(new) if new is not None else None
        if before is not None and (route is None or route.name != before.name):
            self._forget(before)
        if route is not None:
            self.routes[route.group, route.version] = route
        if before is not None or route is not None:
            self._publish_all()
        if new is not None:
            self._queue.add(new["metadata"]["name"])
        elif old is not None:
            # A group version of ours may have lost its entry.
            self._unregistered.set()

    def _forget(self, route: Route) -> None:
        key = (route.group, route.version)
        self.routes.pop(key, None)
        self._resources.pop(key, None)
        self._entries.pop(key, None)

    def _publish_all(self) -> None:
        self.openapi = {path: entry for entries in self._entries.values() for path, entry in entries.items()}
        found: dict[tuple[str, str], Published] = {}
        for key, route in self.routes.items():
            priority = Priority(route.group_priority, route.version_priority)
            found[key] = Published(priority, self._resources.get(key, ()), route.available and key in self._resources)
        self._publish(found)

    # Requests.

    async def relay(self, route: Route, request: StreamRequest) -> None:
        """Pass a request on to the server that answers for its group version; raises ApiError."""
        try:
            await self._proxy.relay(route, request)
        except status.ApiError as error:
            if error.code == 503 and route.available:
                # What has just failed need not be believed until the next check.
                self._queue.add(route.name)
            raise

    def document_route(self, path: str) -> Route | None:
        """Return who serves an OpenAPI v3 document, None where it is this server."""
        if path not in self.openapi:
            return None
        return next((route for route in self.routes.values() if route.path.lstrip("/") == path), None)

    @property
    def served(self) -> frozenset[str]:
        """The APIServices whose servers are there."""
        return frozenset(route.name for route in self.routes.values() if route.available)

    async def swagger(self) -> list[Foreign]:
        """Ask each server that is there for its OpenAPI v2 document."""
        servers: dict[object, list[Route]] = {}
        for route in sorted(self.routes.values(), key=lambda each: each.name):
            if route.available:
                servers.setdefault(route.backend, []).append(route)
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(self._swagger(routes)) for routes in servers.values()]
        return [found for task in asked if (found := task.result()) is not None]

    async def _swagger(self, routes: list[Route]) -> Foreign | None:
        try:
            answer = await self._backends.ask(routes[0], "/openapi/v2", CHECK_TIMEOUT_S)
        except BackendError as error:
            log.info("no OpenAPI v2 of an APIService name=%s error=%s", routes[0].name, error)
            return None
        return Foreign(answer.body, tuple(route.path for route in routes)) if answer.status == 200 else None

    # Upkeep.

    async def run(self) -> None:
        """Keep APIServices and their status until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._register())
                for _ in range(WORKERS):
                    tasks.create_task(self._work())
        finally:
            self._proxy.close()

    async def _register(self) -> None:
        """Keep an APIService for each group version that this server serves itself."""
        while True:
            await self._unregistered.wait()
            self._unregistered.clear()
            standing = {obj["metadata"]["name"]: obj for obj in self._lookup.list(API_SERVICES)}
            plan = registration.plan(registration.wanted(self._kinds.all), standing)
            done = True
            for obj in plan.create:
                done &= await self._write(self._client.create(API_SERVICES, obj))
            for obj in plan.update:
                done &= await self._write(self._client.update(API_SERVICES, obj))
            for name in plan.delete:
                done &= await self._write(self._client.delete(API_SERVICES, name))
            if not done:
                await asyncio.sleep(REGISTRATION_RETRY_S)
                self._unregistered.set()

    @staticmethod
    async def _write(writing: Awaitable[Object]) -> bool:
        try:
            await writing
        except status.ApiError as error:
            # Another API server was faster.
            return error.reason in ("AlreadyExists", "NotFound")
        except (StoreError, TimeoutError) as error:
            log.warning("APIServices wait for the store error=%s", error)
            return False
        return True

    async def _work(self) -> None:
        while True:
            name = await self._queue.get()
            try:
                again_s = await self._tend(name)
            except (status.ApiError, StoreError, TimeoutError) as error:
                log.info("status of an APIService is not kept yet name=%s error=%s", name, error)
                self._queue.add_rate_limited(name)
            else:
                if again_s > 0:
                    self._queue.forget(name)
                    self._queue.add_after(name, again_s)
            finally:
                self._queue.done(name)

    async def _tend(self, name: str) -> float:
        """Check one APIService and write what was found; return after how many seconds to check again."""
        obj = self._lookup.get(API_SERVICES, name)
        if obj is None:
            return 0.0
        route = route_of(obj)
        if route is None:
            await self._tell(obj, LOCAL)
            return 0.0
        if not self._follows_services:
            self._follows_services = True
            await self._backends.warm()
            for resource in (SERVICES, ENDPOINT_SLICES):
                self._lookup.subscribe(resource, self._service_changed)
        verdict = await self._judge(route)
        if self.routes.get((route.group, route.version)) is not None:
            self._publish_all()
        await self._tell(obj, verdict)
        if verdict.status == "True":
            return CHECK_INTERVAL_S
        self._queue.add_rate_limited(name)
        return 0.0

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        metadata = (new or old or {})["metadata"]
        labels = metadata.get("labels") or {}
        name = labels.get("kubernetes.io/service-name") or metadata.get("name")
        for route in self.routes.values():
            if (route.namespace, route.service) == (metadata.get("namespace"), name):
                self._queue.add(route.name)

    async def _judge(self, route: Route) -> Verdict:
        service, slices = self._backends.service(route)
        fault = judge_service(route, service, slices)
        if fault is not None:
            return fault
        try:
            answer = await self._backends.ask(route, route.path, CHECK_TIMEOUT_S)
            if not 200 <= answer.status < 300:
                raise BackendError(f"bad status from {route.path}: {answer.status}")
            resources = read_resources(answer.body, route.group, route.version)
        except (BackendError, DocumentError) as error:
            return Verdict("False", "FailedDiscoveryCheck", str(error))
        key = (route.group, route.version)
        if self.routes.get(key, route).backend != route.backend:
            return PASSED
        self._resources[key] = resources
        self._entries[key] = await self._index(route)
        return PASSED

    async def _index(self, route: Route) -> dict[str, Object]:
        """Return what a server's OpenAPI v3 index has of a route's group version; many servers have none."""
        try:
            answer = await self._backends.ask(route, "/openapi/v3", CHECK_TIMEOUT_S)
        except BackendError as error:
            log.info("no OpenAPI of an APIService name=%s error=%s", route.name, error)
            return {}
        return read_index(answer.body, (route.path,)) if answer.status == 200 else {}

    async def _tell(self, obj: Object, verdict: Verdict) -> None:
        changed = with_verdict(obj, verdict, now_text())
        if changed is None:
            return
        name = obj["metadata"]["name"]
        log.info("availability of an APIService name=%s status=%s reason=%s", name, verdict.status, verdict.reason)
        await self._client.update(API_SERVICES, changed, subresource="status")
