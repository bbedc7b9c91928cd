"""The Client over the hub's gRPC API (raftsman.control.v1)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import orjson

from control.api import meta, status
from control.api.meta import Object
from control.api.resources import Resource
from control.client.client import (
    DELETE_DEFAULT,
    EVERYTHING,
    MERGE_PATCH,
    DeleteOptions,
    EventType,
    ListOptions,
    ObjectList,
    WatchEvent,
)
from control.client.kubeconfig import Kubeconfig
from control.client.rest import RestClient, busy_delay
from proto.control import resources_pb2 as pb
from proto.control import resources_pb2_grpc as pb_grpc

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

CALL_TIMEOUT_S = 60.0
MESSAGE_MAX_BYTES = 256 * 1024 * 1024
SEVERAL_SERVERS_NAME = "kubernetes.default.svc"
"""The name that every API server's certificate carries; asked for where the hub has several addresses."""

EVENT_TYPES: dict[int, EventType] = {
    pb.Event.ADDED: "ADDED",
    pb.Event.MODIFIED: "MODIFIED",
    pb.Event.DELETED: "DELETED",
    pb.Event.BOOKMARK: "BOOKMARK",
}
HTTP_CODES = {
    grpc.StatusCode.CANCELLED: (503, "ServiceUnavailable"),
    grpc.StatusCode.UNAVAILABLE: (503, "ServiceUnavailable"),
    grpc.StatusCode.DEADLINE_EXCEEDED: (504, "Timeout"),
    grpc.StatusCode.UNAUTHENTICATED: (401, "Unauthorized"),
    grpc.StatusCode.PERMISSION_DENIED: (403, "Forbidden"),
    grpc.StatusCode.NOT_FOUND: (404, "NotFound"),
    grpc.StatusCode.ALREADY_EXISTS: (409, "AlreadyExists"),
    grpc.StatusCode.ABORTED: (409, "Conflict"),
    grpc.StatusCode.INVALID_ARGUMENT: (400, "BadRequest"),
    grpc.StatusCode.OUT_OF_RANGE: (410, "Expired"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (429, "TooManyRequests"),
    grpc.StatusCode.UNIMPLEMENTED: (501, "NotImplemented"),
}


def error_of(error: grpc.aio.AioRpcError) -> status.ApiError:
    """Return the ApiError of a failed call: the Status it carries, else one made from its code."""
    for key, value in error.trailing_metadata() or ():
        if key == "status-bin":
            document = orjson.loads(value)
            if isinstance(document, dict):
                return status.ApiError(document)
    code, reason = HTTP_CODES.get(error.code(), (500, "InternalError"))
    return status.failure(code, reason, f"hub: {error.code().name}: {error.details()}")


def target(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> pb.Target:
    """Return the wire's name of a collection, an object or its subresource."""
    return pb.Target(
        group=resource.group,
        version=resource.version,
        resource=resource.plural,
        namespace=namespace if resource.namespaced else "",
        name=name,
        subresource=subresource,
    )


class GrpcClient:
    """A Client that speaks to the hub; raw REST requests go to the REST address beside it."""

    def __init__(self, config: Kubeconfig, user_agent: str = "raftsman") -> None:
        assert config.hub, "the kubeconfig names no hub"
        self._config = config
        self._user_agent = user_agent
        self._rest: RestClient | None = None
        self._channels: list[grpc.aio.Channel] = []
        self._stamp: object = None
        self._current: pb_grpc.ResourcesAsyncStub | None = None

    def _stub(self) -> pb_grpc.ResourcesAsyncStub:
        """Return a stub on a channel with the credentials as they are now.

        A channel with replaced credentials stays open for the watches that it carries until the client closes.
        """
        stamp = self._config.stamp()
        if self._current is None or stamp != self._stamp:
            channel = self._channel()
            self._channels.append(channel)
            self._current, self._stamp = pb_grpc.ResourcesStub(channel), stamp
        assert self._current is not None
        return self._current

    def _channel(self) -> grpc.aio.Channel:
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
            ("grpc.max_send_message_length", MESSAGE_MAX_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 1000),
            ("grpc.max_reconnect_backoff_ms", 5000),
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.primary_user_agent", self._user_agent),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        address = self._config.hub[0]
        if len(self._config.hub) > 1:
            family = "ipv6" if address.startswith("[") else "ipv4"
            address = f"{family}:{','.join(self._config.hub)}"
        if not self._config.server.startswith("https://"):
            return grpc.aio.insecure_channel(address, options=options)
        name = self._config.tls_server_name or (SEVERAL_SERVERS_NAME if len(self._config.hub) > 1 else "")
        if name:
            options.append(("grpc.ssl_target_name_override", name))
        credentials = grpc.ssl_channel_credentials(
            self._config.certificate_authority.read(),
            self._config.client_key.read(),
            self._config.client_certificate.read(),
        )
        return grpc.aio.secure_channel(address, credentials, options=options)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        token = self._config.bearer_token()
        return (("authorization", f"Bearer {token}"),) if token else ()

    async def _call(self, call: Callable[..., Awaitable[Answer]], request: Any) -> Answer:
        """Call a method, again later where the server is busy and says so."""
        attempt = 1
        while True:
            try:
                return await call(request, timeout=CALL_TIMEOUT_S, metadata=self._metadata())
            except grpc.aio.AioRpcError as error:
                refused = error_of(error)
            delay = busy_delay(refused, attempt)
            if delay is None:
                raise refused
            attempt += 1
            await asyncio.sleep(delay)

    async def _object(self, call: Callable[..., Awaitable[pb.ObjectResponse]], request: Any) -> Object:
        response = await self._call(call, request)
        for warning in response.warnings:
            log.warning("the API server warns warning=%s", warning)
        found = orjson.loads(response.object)
        assert isinstance(found, dict)
        return found

    async def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "") -> Object:
        """Return one object."""
        return await self._object(
            self._stub().Get, pb.GetRequest(target=target(resource, namespace, name, subresource))
        )

    async def list(self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING) -> ObjectList:
        """Return one page of objects."""
        request = pb.ListRequest(
            target=target(resource, namespace),
            label_selector=options.label_selector,
            field_selector=options.field_selector,
            limit=options.limit,
            resource_version=options.resource_version,
            resource_version_match=options.resource_version_match,
        )
        setattr(request, "continue", options.continue_token)
        answer = await self._call(self._stub().List, request)
        return ObjectList(
            [orjson.loads(item) for item in answer.items],
            answer.resource_version,
            getattr(answer, "continue"),
            answer.remaining_item_count or None,
        )

    async def watch(
        self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING
    ) -> AsyncIterator[WatchEvent]:
        """Yield changes until the server ends the stream."""
        request = pb.WatchRequest(
            target=target(resource, namespace),
            label_selector=options.label_selector,
            field_selector=options.field_selector,
            resource_version=options.resource_version,
            allow_watch_bookmarks=options.allow_watch_bookmarks,
            send_initial_events=options.send_initial_events,
            timeout_s=options.timeout_s,
        )
        call = self._stub().Watch(request, metadata=self._metadata())
        try:
            async for response in call:
                for event in response.events:
                    if event.type == pb.Event.ERROR:
                        raise status.ApiError(orjson.loads(event.object))
                    yield WatchEvent(EVENT_TYPES[event.type], orjson.loads(event.object))
        except grpc.aio.AioRpcError as error:
            raise error_of(error) from None
        finally:
            call.cancel()

    async def create(
        self, resource: Resource, obj: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        """Create an object, or post to a subresource of ``name``."""
        where = target(resource, namespace or meta.namespace(obj), name if subresource else meta.name(obj), subresource)
        return await self._object(self._stub().Create, pb.CreateRequest(target=where, object=orjson.dumps(obj)))

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace an object, or its subresource."""
        where = target(resource, meta.namespace(obj), meta.name(obj), subresource)
        return await self._object(self._stub().Update, pb.UpdateRequest(target=where, object=orjson.dumps(obj)))

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
        request = pb.PatchRequest(
            target=target(resource, namespace, name, subresource),
            patch_type=patch_type,
            patch=orjson.dumps(patch),
            field_manager=field_manager,
            force=force,
        )
        return await self._object(self._stub().Patch, request)

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", options: DeleteOptions = DELETE_DEFAULT
    ) -> Object:
        """Delete an object; return it, or the Status that says so."""
        request = pb.DeleteRequest(target=target(resource, namespace, name), options=orjson.dumps(options.to_object()))
        return await self._object(self._stub().Delete, request)

    async def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        """Send a raw REST request to the REST address of the same kubeconfig."""
        if self._rest is None:
            self._rest = RestClient(self._config, self._user_agent)
        return await self._rest.request(method, path, body, content_type)

    async def close(self) -> None:
        """Close all connections."""
        if self._rest is not None:
            await self._rest.close()
        for channel in self._channels:
            await channel.close()
        self._channels.clear()
        self._current = None
