"""The client of this process's own registry: no wire, no authentication, no authorization; admission still runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson

from control.api import status
from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver.cache import Entry
from control.apiserver.convert import convert
from control.apiserver.etcd import StoreError
from control.apiserver.kinds import Kind
from control.apiserver.paging import ListQuery
from control.apiserver.registry import Context
from control.apiserver.request import API_SERVER, RequestInfo, RequestOptions
from control.apiserver.service import Service
from control.apiserver.watch import WatchOptions
from control.client.client import (
    DELETE_DEFAULT,
    EVERYTHING,
    MERGE_PATCH,
    DeleteOptions,
    ListOptions,
    ObjectList,
    WatchEvent,
)

MANAGER = "kube-apiserver"
"""Owns what the API server itself writes."""


class LoopbackClient:
    """control.client's Client over a Service, as system:apiserver."""

    def __init__(self) -> None:
        self.service: Service
        """Set once the service stands: it needs what is built with this client."""

    def _kind(self, resource: Resource) -> Kind:
        return self.service.registry.kinds.of(resource)

    @staticmethod
    def _info(verb: str, resource: Resource, namespace: str, name: str = "", subresource: str = "") -> RequestInfo:
        return RequestInfo(
            verb, "", True, resource.group, resource.version, resource.plural, subresource, namespace, name
        )

    @staticmethod
    def _context() -> Context:
        return Context(API_SERVER, RequestOptions(field_manager=MANAGER))

    async def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "") -> Object:
        """Return one object."""
        info = self._info("get", resource, namespace, name, subresource)
        try:
            found = await self.service.get(self._kind(resource), info)
        except StoreError as error:
            raise status.service_unavailable(str(error)) from error
        return await self.service.shown(self._kind(resource), found) if isinstance(found, Entry) else found

    async def list(self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING) -> ObjectList:
        """Return one page of objects."""
        kind = self._kind(resource)
        info = self._info("list", resource, namespace)
        chosen = self.service.filter(kind, info, options.label_selector, options.field_selector)
        query = ListQuery(
            options.limit, options.continue_token, options.resource_version, options.resource_version_match
        )
        try:
            result = await self.service.page(kind, chosen, query)
        except StoreError as error:
            raise status.service_unavailable(str(error)) from error
        items = await self.service.all_shown(kind, result.entries)
        return ObjectList(items, str(result.revision), result.continue_token, result.remaining)

    async def watch(
        self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING
    ) -> AsyncIterator[WatchEvent]:
        """Yield changes after options.resource_version until the watch's time is over."""
        kind = self._kind(resource)
        info = self._info("watch", resource, namespace)
        chosen = self.service.filter(kind, info, options.label_selector, options.field_selector)
        wanted = WatchOptions(
            options.resource_version,
            "NotOlderThan" if options.send_initial_events else "",
            options.allow_watch_bookmarks,
            options.send_initial_events or None,
            self.service.watch_timeout_s(options.timeout_s),
        )
        watch = await self.service.watch(kind, chosen, wanted)
        async for batch in watch.batches():
            for delivery in batch:
                obj = orjson.loads(delivery.data)
                if delivery.type == "ERROR":
                    raise status.ApiError(obj)
                yield WatchEvent(delivery.type, convert(obj, resource))

    async def create(
        self, resource: Resource, obj: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        """Create an object, or post to a subresource of ``name``; return what is stored."""
        kind = self._kind(resource)
        info = self._info("create", resource, namespace, name, subresource)
        context = self._context()
        value = orjson.loads(orjson.dumps(obj))
        try:
            made = await self.service.handle(kind, info, value, context, {})
            return made if made is not None else await self.service.create(kind, info, value, [], context)
        except StoreError as error:
            raise status.service_unavailable(str(error)) from error

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace an object, or its subresource; a stale resourceVersion raises Conflict."""
        metadata = obj["metadata"]
        info = self._info("update", resource, metadata.get("namespace", ""), metadata["name"], subresource)
        value = orjson.loads(orjson.dumps(obj))
        try:
            return await self.service.update(self._kind(resource), info, value, [], self._context())
        except StoreError as error:
            raise status.service_unavailable(str(error)) from error

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        patch_type: str = MERGE_PATCH,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Object:
        """Change an object by a patch."""
        info = self._info("patch", resource, namespace, name, subresource)
        context = Context(API_SERVER, RequestOptions(field_manager=field_manager or MANAGER, force=force))
        try:
            obj, _ = await self.service.patch(self._kind(resource), info, patch_type, patch, context)
        except StoreError as error:
            raise status.service_unavailable(str(error)) from error
        return obj

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", options: DeleteOptions = DELETE_DEFAULT
    ) -> Object:
        """Delete an object; return it, or the Status that says so."""
        info = self._info("delete", resource, namespace, name)
        try:
            obj, _ = await self.service.delete(self._kind(resource), info, options.to_object(), self._context())
        except StoreError as error:
            raise status.service_unavailable(str(error)) from error
        return obj

    async def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        """Raise: there is no wire here."""
        raise status.failure(501, "NotImplemented", "this client has no REST")

    async def close(self) -> None:
        """Do nothing: there is no connection."""
