"""The fake API behind real sockets: REST over HTTP/1.1, and the hub over gRPC, for tests of the transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc
import grpc.aio
import orjson

from control.api import resources
from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError, not_found
from control.client.client import DeleteOptions, ListOptions, WatchEvent
from proto.control import resources_pb2 as pb
from proto.control import resources_pb2_grpc as pb_grpc
from tests.fakes.fake_client import FakeClient

KNOWN = {(found.group, found.plural): found for found in vars(resources).values() if isinstance(found, Resource)}
CODES = {404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.ABORTED, 410: grpc.StatusCode.OUT_OF_RANGE}


@dataclass
class Target:
    """What a REST path names."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def read_path(path: str) -> Target:
    """Return what a path names; raises ApiError for one that is none of the API's."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    group = ""
    if parts[0] == "apis":
        group = parts.pop(1)
    elif parts[0] != "api":
        raise not_found("paths", path)
    version, rest = parts[1], parts[2:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    rest += ["", ""]
    known = KNOWN.get((group, rest[0]), Resource(group, version, rest[0], rest[0].capitalize()))
    return Target(known, namespace, rest[1], rest[2])


def delete_options(body: bytes) -> DeleteOptions:
    """Return the DeleteOptions of a request's body."""
    given = orjson.loads(body) if body else {}
    preconditions = given.get("preconditions") or {}
    return DeleteOptions(
        given.get("gracePeriodSeconds"),
        given.get("propagationPolicy"),
        preconditions.get("uid"),
        preconditions.get("resourceVersion"),
    )


@dataclass
class RestServer:
    """Serves the fake over HTTP/1.1."""

    client: FakeClient
    connections: int = 0
    authorizations: list[str] = field(default_factory=list)
    respond_raw: list[bytes] = field(default_factory=list)
    """Bytes to answer the next requests with, instead of the fake's answer."""
    drop_next: int = 0
    """How many requests to hang up on without an answer."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.authorizations.append(headers.get("authorization", ""))
        if self.drop_next:
            self.drop_next -= 1
            return False
        if self.respond_raw:
            writer.write(self.respond_raw.pop(0))
            await writer.drain()
            return True
        parts = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        try:
            if query.get("watch") == "true":
                await self._watch(parts.path, query, writer)
            else:
                answer = await self._answer(method, parts.path, query, headers, body)
                _respond(writer, 200, orjson.dumps(answer))
        except ApiError as error:
            _respond(writer, error.code, orjson.dumps(error.status))
        await writer.drain()
        return True

    async def _answer(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Any:
        to = read_path(path)
        where = (to.resource, to.name, to.namespace)
        match method:
            case "GET" if to.name:
                return await self.client.get(*where, subresource=to.subresource)
            case "GET":
                page = await self.client.list(to.resource, to.namespace, _options(query))
                items = [{k: v for k, v in item.items() if k not in ("kind", "apiVersion")} for item in page.items]
                head = {"resourceVersion": page.resource_version, "continue": page.continue_token}
                return {"kind": "List", "metadata": head, "items": items}
            case "POST":
                return await self.client.create(
                    to.resource, orjson.loads(body), to.namespace, name=to.name, subresource=to.subresource
                )
            case "PUT":
                return await self.client.update(to.resource, orjson.loads(body), subresource=to.subresource)
            case "PATCH":
                return await self.client.patch(
                    to.resource, to.name, orjson.loads(body), to.namespace,
                    patch_type=headers["content-type"], subresource=to.subresource,
                )  # fmt: skip
            case "DELETE":
                return await self.client.delete(*where, delete_options(body))
        raise AssertionError(method)

    async def _watch(self, path: str, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        to = read_path(path)
        stream: Any = self.client.watch(to.resource, to.namespace, _options(query))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        async with aclosing(stream) as events:
            try:
                async for event in events:
                    _chunk(writer, {"type": event.type, "object": event.object})
                    await writer.drain()
            except ApiError as error:
                _chunk(writer, {"type": "ERROR", "object": error.status})
        writer.write(b"0\r\n\r\n")


def _options(query: dict[str, str]) -> ListOptions:
    return ListOptions(
        label_selector=query.get("labelSelector", ""),
        field_selector=query.get("fieldSelector", ""),
        limit=int(query.get("limit", "0")),
        continue_token=query.get("continue", ""),
        resource_version=query.get("resourceVersion", ""),
    )


def _respond(writer: asyncio.StreamWriter, code: int, body: bytes) -> None:
    head = f"HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


def _chunk(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    data = orjson.dumps(event) + b"\n"
    half = len(data) // 2  # an event in two chunks: lines and chunks have nothing to do with each other
    for part in (data[:half], data[half:]):
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))


@asynccontextmanager
async def rest_server(client: FakeClient) -> AsyncIterator[tuple[RestServer, str]]:
    """Serve the fake's REST on a free port; gives the server and its address."""
    served = RestServer(client)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    try:
        yield served, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


class Hub(pb_grpc.ResourcesServicer):
    """Serves the fake over gRPC."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.authorizations: list[str] = []

    async def _object(self, context: Any, call: Any) -> pb.ObjectResponse:
        self._note(context)
        try:
            found: Object = await call
        except ApiError as error:
            await self._fail(context, error)
        return pb.ObjectResponse(object=orjson.dumps(found))

    def _note(self, context: Any) -> None:
        self.authorizations += [value for key, value in context.invocation_metadata() if key == "authorization"]

    @staticmethod
    async def _fail(context: Any, error: ApiError) -> None:
        code = CODES.get(error.code, grpc.StatusCode.UNKNOWN)
        await context.abort(code, error.message, (("status-bin", orjson.dumps(error.status)),))

    async def Get(self, request: pb.GetRequest, context: Any) -> pb.ObjectResponse:
        to = request.target
        call = self.client.get(_resource(to), to.name, to.namespace, subresource=to.subresource)
        return await self._object(context, call)

    async def List(self, request: pb.ListRequest, context: Any) -> pb.ListResponse:
        options = ListOptions(
            label_selector=request.label_selector, field_selector=request.field_selector, limit=request.limit,
            continue_token=getattr(request, "continue"), resource_version=request.resource_version,
        )  # fmt: skip
        page = await self.client.list(_resource(request.target), request.target.namespace, options)
        answer = pb.ListResponse(
            items=[orjson.dumps(item) for item in page.items],
            resource_version=page.resource_version,
            remaining_item_count=page.remaining_item_count or 0,
        )
        setattr(answer, "continue", page.continue_token)
        return answer

    async def Create(self, request: pb.CreateRequest, context: Any) -> pb.ObjectResponse:
        to = request.target
        call = self.client.create(
            _resource(to), orjson.loads(request.object), to.namespace, name=to.name, subresource=to.subresource
        )
        return await self._object(context, call)

    async def Update(self, request: pb.UpdateRequest, context: Any) -> pb.ObjectResponse:
        to = request.target
        call = self.client.update(_resource(to), orjson.loads(request.object), subresource=to.subresource)
        return await self._object(context, call)

    async def Patch(self, request: pb.PatchRequest, context: Any) -> pb.ObjectResponse:
        to = request.target
        call = self.client.patch(
            _resource(to), to.name, orjson.loads(request.patch), to.namespace,
            patch_type=request.patch_type, subresource=to.subresource,
        )  # fmt: skip
        return await self._object(context, call)

    async def Delete(self, request: pb.DeleteRequest, context: Any) -> pb.ObjectResponse:
        to = request.target
        call = self.client.delete(_resource(to), to.name, to.namespace, delete_options(request.options))
        return await self._object(context, call)

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchResponse]:
        options = ListOptions(
            label_selector=request.label_selector,
            field_selector=request.field_selector,
            resource_version=request.resource_version,
        )
        stream: Any = self.client.watch(_resource(request.target), request.target.namespace, options)
        async with aclosing(stream) as events:
            try:
                async for event in events:
                    yield _message(event)
            except ApiError as error:
                body = orjson.dumps(error.status)
                yield pb.WatchResponse(events=[pb.Event(type=pb.Event.ERROR, object=body)])


def _message(event: WatchEvent) -> pb.WatchResponse:
    kind = pb.Event.Type.Value(event.type)
    return pb.WatchResponse(events=[pb.Event(type=kind, object=orjson.dumps(event.object))])


def _resource(to: pb.Target) -> Resource:
    return KNOWN.get((to.group, to.resource), Resource(to.group, to.version, to.resource, to.resource.capitalize()))


@asynccontextmanager
async def hub_server(client: FakeClient, port: int = 0) -> AsyncIterator[tuple[Hub, str]]:
    """Serve the fake's hub on a free port; gives the servicer and its address."""
    hub = Hub(client)
    server = grpc.aio.server()
    pb_grpc.add_ResourcesServicer_to_server(hub, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield hub, f"127.0.0.1:{bound}"
    finally:
        await server.stop(None)
