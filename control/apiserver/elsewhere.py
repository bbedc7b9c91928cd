"""The hub's methods for group versions that other servers answer for: its messages as HTTP, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson

from control.api import status
from control.apiserver.aggregation.forwarding import Forwarding
from control.apiserver.aggregation.services import Route
from control.apiserver.hubexchange import Exchanges
from control.apiserver.request import RequestInfo, UserInfo
from proto.control import resources_pb2

Judge = Callable[[Any, str, Any, str], Awaitable[tuple[UserInfo, RequestInfo]]]
"""(call, verb, request, field selector) → who asks for what; raises ApiError where they may not."""


class Elsewhere:
    """Answers what the hub's own service does not."""

    def __init__(self, forwarding: Forwarding, judge: Judge, exchanges: Exchanges) -> None:
        self._forwarding = forwarding
        self._judge = judge
        self._exchanges = exchanges

    async def get(self, route: Route, request: Any, call: Any) -> resources_pb2.ObjectResponse:
        """Return one object."""
        user, info = await self._judge(call, "get", request, "")
        query = {"resourceVersion": request.resource_version}
        return resources_pb2.ObjectResponse(object=await self._forwarding.ask(route, user, info, query))

    async def list(self, route: Route, request: Any, call: Any) -> resources_pb2.ListResponse:
        """Return one page of objects."""
        user, info = await self._judge(call, "list", request, request.field_selector)
        query = {
            "labelSelector": request.label_selector,
            "fieldSelector": request.field_selector,
            "limit": str(request.limit or ""),
            "continue": getattr(request, "continue"),
            "resourceVersion": request.resource_version,
            "resourceVersionMatch": request.resource_version_match,
        }
        found = _object(await self._forwarding.ask(route, user, info, query))
        head = {"apiVersion": found.get("apiVersion"), "kind": str(found.get("kind") or "").removesuffix("List")}
        metadata = found.get("metadata") or {}
        answer = resources_pb2.ListResponse(
            items=[orjson.dumps({**head, **item}) for item in found.get("items") or ()],
            resource_version=str(metadata.get("resourceVersion") or ""),
            remaining_item_count=int(metadata.get("remainingItemCount") or 0),
        )
        setattr(answer, "continue", str(metadata.get("continue") or ""))
        return answer

    async def create(self, route: Route, request: Any, call: Any) -> resources_pb2.ObjectResponse:
        """Create an object, or post to a subresource."""
        return await self._write(route, request, call, "create", request.object)

    async def update(self, route: Route, request: Any, call: Any) -> resources_pb2.ObjectResponse:
        """Replace an object, or a part of it by a subresource."""
        return await self._write(route, request, call, "update", request.object)

    async def patch(self, route: Route, request: Any, call: Any) -> resources_pb2.ObjectResponse:
        """Change an object by a patch."""
        return await self._write(route, request, call, "patch", request.patch, request.patch_type)

    async def _write(
        self, route: Route, request: Any, call: Any, verb: str, body: bytes, content_type: str = "application/json"
    ) -> resources_pb2.ObjectResponse:
        user, info = await self._judge(call, verb, request, "")
        query = {
            "dryRun": "All" if request.dry_run else "",
            "fieldManager": request.field_manager,
            "fieldValidation": request.field_validation,
            "force": "true" if getattr(request, "force", False) else "",
        }
        made = await self._forwarding.ask(route, user, info, query, body, content_type)
        return resources_pb2.ObjectResponse(object=made)

    async def delete(self, route: Route, request: Any, call: Any) -> resources_pb2.ObjectResponse:
        """Delete an object, or all that are meant."""
        verb = "delete" if request.target.name else "deletecollection"
        user, info = await self._judge(call, verb, request, request.field_selector)
        query = {"labelSelector": request.label_selector, "fieldSelector": request.field_selector}
        made = await self._forwarding.ask(route, user, info, query, request.options)
        return resources_pb2.ObjectResponse(object=made)

    async def watch(self, route: Route, request: Any, call: Any) -> AsyncIterator[bytes]:
        """Yield serialized WatchResponses."""
        user, info = await self._judge(call, "watch", request, request.field_selector)
        query = {
            "labelSelector": request.label_selector,
            "fieldSelector": request.field_selector,
            "resourceVersion": request.resource_version,
            "allowWatchBookmarks": "true" if request.allow_watch_bookmarks else "",
            "sendInitialEvents": "true" if request.send_initial_events else "",
            "resourceVersionMatch": "NotOlderThan" if request.send_initial_events else "",
            "timeoutSeconds": str(request.timeout_s or ""),
        }
        await self._exchanges.started()
        await call.send_initial_metadata(())
        async for events in self._forwarding.watch(route, user, info, query):
            made = [resources_pb2.Event(type=_type(event), object=orjson.dumps(event["object"])) for event in events]
            yield resources_pb2.WatchResponse(events=made).SerializeToString()


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise status.service_unavailable(f"the other server's answer is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise status.service_unavailable("the other server's answer is no object")
    return found


def _type(event: dict[str, Any]) -> resources_pb2.Event.Type.ValueType:
    try:
        return resources_pb2.Event.Type.Value(str(event.get("type")))
    except ValueError:
        return resources_pb2.Event.UNSPECIFIED
