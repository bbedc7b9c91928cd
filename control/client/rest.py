"""The Client over Kubernetes' REST API: any API server's, ours or the original."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from control.api import meta, status
from control.api.meta import Object
from control.api.resources import Resource
from control.client.client import (
    DELETE_DEFAULT,
    EVERYTHING,
    MERGE_PATCH,
    DeleteOptions,
    ListOptions,
    ObjectList,
    WatchEvent,
)
from control.client.http import ConnectionFailedError, Pool, Response
from control.client.kubeconfig import Kubeconfig

log = logging.getLogger(__name__)

JSON = "application/json"
ATTEMPTS_MAX = 5
RETRY_AFTER_MAX_S = 30.0
WATCH_LINE_MAX_BYTES = 64 * 1024 * 1024


def object_path(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    """Return the REST path of a collection, an object or its subresource."""
    parts = [resource.path]
    if namespace and resource.namespaced:
        parts.append(f"/namespaces/{quote(namespace, safe='')}")
    parts.append(f"/{resource.plural}")
    if name:
        parts.append(f"/{quote(name, safe='')}")
    if subresource:
        parts.append(f"/{subresource}")
    return "".join(parts)


def list_query(options: ListOptions, watch: bool) -> str:
    """Return the query of a list or a watch, with its question mark."""
    query = {
        "labelSelector": options.label_selector,
        "fieldSelector": options.field_selector,
        "limit": "" if watch or not options.limit else str(options.limit),
        "continue": "" if watch else options.continue_token,
        "resourceVersion": options.resource_version,
        "resourceVersionMatch": options.resource_version_match,
        "timeoutSeconds": str(options.timeout_s) if options.timeout_s else "",
        **options.extra,
    }
    if watch:
        query["watch"] = "true"
        query["allowWatchBookmarks"] = "true" if options.allow_watch_bookmarks else ""
        if options.send_initial_events:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    text = urlencode({name: value for name, value in query.items() if value})
    return f"?{text}" if text else ""


def error_of(code: int, body: bytes, what: str) -> status.ApiError:
    """Return the ApiError of an unsuccessful response, whatever its body."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict) and document.get("kind") == "Status":
        return status.ApiError({"code": code, **document})
    reason = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 409: "Conflict", 410: "Gone",
              429: "TooManyRequests", 503: "ServiceUnavailable", 504: "Timeout"}.get(code, "InternalError")  # fmt: skip
    text = body[:200].decode(errors="replace").strip()
    return status.failure(code, reason, f"{what}: the server answered {code}{': ' + text if text else ''}")


def retry_delay(response: Response, attempt: int) -> float | None:
    """Return how long to wait before asking again, or None when the answer is final."""
    asked = response.header("retry-after")
    if attempt >= ATTEMPTS_MAX or not (response.status == 429 or response.status >= 500) or not asked.isdigit():
        return None
    return min(float(asked), RETRY_AFTER_MAX_S)


def busy_delay(error: status.ApiError, attempt: int) -> float | None:
    """Return how long a busy server asks to be left alone, None where its answer is final."""
    asked = (error.status.get("details") or {}).get("retryAfterSeconds")
    if attempt >= ATTEMPTS_MAX or error.code != 429 or not isinstance(asked, int) or asked <= 0:
        return None
    return min(float(asked), RETRY_AFTER_MAX_S)


class RestClient:
    """A Client that speaks HTTP/1.1 and JSON."""

    def __init__(self, config: Kubeconfig, user_agent: str = "raftsman") -> None:
        self._pool = Pool(config, user_agent)

    async def _call(
        self, method: str, path: str, body: bytes = b"", content_type: str = JSON, accept: str = JSON
    ) -> bytes:
        headers = {"accept": accept}
        if body:
            headers["content-type"] = content_type
        attempt = 1
        while True:
            try:
                response = await self._pool.request(method, path, headers, body)
            except ConnectionFailedError as error:
                raise status.service_unavailable(f"{method} {path}: {error}") from None
            if response.status < 300:
                return response.body
            delay = retry_delay(response, attempt)
            if delay is None:
                raise error_of(response.status, response.body, f"{method} {path}")
            attempt += 1
            await asyncio.sleep(delay)

    async def _object(self, method: str, path: str, value: Any = None, content_type: str = JSON) -> Object:
        body = b"" if value is None else orjson.dumps(value)
        found = orjson.loads(await self._call(method, path, body, content_type))
        if not isinstance(found, dict):
            raise status.internal_error(f"{method} {path}: the answer is not an object")
        return found

    async def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "") -> Object:
        """Return one object."""
        return await self._object("GET", object_path(resource, namespace, name, subresource))

    async def list(self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING) -> ObjectList:
        """Return one page of objects, each with its apiVersion and kind."""
        answer = await self._object("GET", object_path(resource, namespace) + list_query(options, watch=False))
        items = answer.get("items") or []
        for item in items:  # items of a typed list come without them
            item.setdefault("apiVersion", resource.api_version)
            item.setdefault("kind", resource.kind)
        head = answer.get("metadata") or {}
        return ObjectList(
            items, str(head.get("resourceVersion", "")), head.get("continue") or "", head.get("remainingItemCount")
        )

    async def watch(
        self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING
    ) -> AsyncIterator[WatchEvent]:
        """Yield changes until the server ends the stream."""
        path = object_path(resource, namespace) + list_query(options, watch=True)
        try:
            async with self._pool.stream("GET", path, {"accept": JSON}) as response:
                if response.status >= 300:
                    raise error_of(response.status, await response.body(), f"GET {path}")
                rest = b""
                async for chunk in response.chunks():
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > WATCH_LINE_MAX_BYTES:
                        raise status.internal_error(f"GET {path}: an event larger than {WATCH_LINE_MAX_BYTES} bytes")
                    for line in lines:
                        if line.strip():
                            yield watch_event(orjson.loads(line))
        except ConnectionFailedError as error:
            raise status.service_unavailable(f"GET {path}: {error}") from None
        except orjson.JSONDecodeError as error:
            raise status.internal_error(f"GET {path}: an event is not JSON: {error}") from None

    async def create(
        self, resource: Resource, obj: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        """Create an object, or post to a subresource of ``name``."""
        space = namespace or meta.namespace(obj)
        return await self._object("POST", object_path(resource, space, name if subresource else "", subresource), obj)

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace an object, or its subresource."""
        return await self._object("PUT", object_path(resource, meta.namespace(obj), meta.name(obj), subresource), obj)

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
        query = {
            name: value
            for name, value in (("fieldManager", field_manager), ("force", "true" if force else ""))
            if value
        }
        path = object_path(resource, namespace, name, subresource)
        return await self._object("PATCH", f"{path}?{urlencode(query)}" if query else path, patch, patch_type)

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", options: DeleteOptions = DELETE_DEFAULT
    ) -> Object:
        """Delete an object; return it, or the Status that says so."""
        return await self._object("DELETE", object_path(resource, namespace, name), options.to_object())

    async def request(self, method: str, path: str, body: bytes | None = None, content_type: str = JSON) -> bytes:
        """Send a raw REST request."""
        return await self._call(method, path, body or b"", content_type, accept="application/json, */*")

    async def close(self) -> None:
        """Close all idle connections."""
        await self._pool.close()


def watch_event(document: Any) -> WatchEvent:
    """Return the event of a decoded line; an ERROR event is raised as its ApiError."""
    kind, obj = document["type"], document["object"]
    if kind == "ERROR":
        raise status.ApiError(obj)
    return WatchEvent(kind, obj)
