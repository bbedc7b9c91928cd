"""Requests of the hub for group versions that other servers answer for, as HTTP and in the user's name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode

import orjson

from control.api import status
from control.api.meta import Object
from control.apiserver.aggregation.backends import ANSWER_BYTES_MAX, BackendError, Backends
from control.apiserver.aggregation.proxy import UNAVAILABLE_TEXT, identity
from control.apiserver.aggregation.services import Route
from control.apiserver.request import RequestInfo, UserInfo
from control.client.http import ConnectionFailedError, StreamedResponse

LINE_BYTES_MAX = 16 << 20
METHODS = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH",
    "delete": "DELETE", "deletecollection": "DELETE",
}  # fmt: skip


def path_of(route: Route, info: RequestInfo) -> str:
    """Return where a server has what is asked for."""
    parts = [*(("namespaces", info.namespace) if info.namespace else ()), info.resource]
    parts += [part for part in (info.name if info.verb != "list" else "", info.subresource) if part]
    return "/".join((route.path, *(quote(part, safe="") for part in parts)))


class Forwarding:
    """Asks other servers what the hub is asked."""

    def __init__(self, backends: Backends, timeout_s: float) -> None:
        self._backends = backends
        self._timeout_s = timeout_s

    async def ask(
        self,
        route: Route,
        user: UserInfo,
        info: RequestInfo,
        query: Mapping[str, str],
        body: bytes = b"",
        content_type: str = "application/json",
    ) -> bytes:
        """Return the body of a server's answer; raises ApiError."""
        async with asyncio.timeout(self._timeout_s), self._asked(route, user, info, query, body, content_type) as found:
            return await _whole(found)

    async def watch(
        self, route: Route, user: UserInfo, info: RequestInfo, query: Mapping[str, str]
    ) -> AsyncIterator[list[Object]]:
        """Yield a watch's events in the order in which they come; raises ApiError."""
        async with self._asked(route, user, info, {**query, "watch": "true"}) as found:
            rest = b""
            async for part in found.chunks():
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > LINE_BYTES_MAX:
                    raise status.service_unavailable("an event of the other server is too large")
                events = [_event(line) for line in lines if line.strip()]
                if events:
                    yield events

    @asynccontextmanager
    async def _asked(
        self,
        route: Route,
        user: UserInfo,
        info: RequestInfo,
        query: Mapping[str, str],
        body: bytes = b"",
        content_type: str = "application/json",
    ) -> AsyncIterator[StreamedResponse]:
        if not route.available:
            raise status.service_unavailable(UNAVAILABLE_TEXT)
        told = urlencode({key: value for key, value in query.items() if value})
        path = path_of(route, info)
        headers = [("accept", "application/json"), ("content-type", content_type), *identity(user)]
        try:
            async with self._backends.opened(route) as pool:
                target = f"{path}?{told}" if told else path
                async with pool.stream(METHODS[info.verb], target, headers, body) as found:
                    if not 200 <= found.status < 300:
                        raise _refusal(found.status, await _whole(found))
                    yield found
        except (BackendError, ConnectionFailedError) as error:
            raise status.service_unavailable(f"{UNAVAILABLE_TEXT}: {error}") from None


async def _whole(found: StreamedResponse) -> bytes:
    parts, size = [], 0
    async for part in found.chunks():
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise status.service_unavailable("the other server's answer is too large")
    return b"".join(parts)


def _event(line: bytes) -> Object:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise status.service_unavailable(f"the other server's watch is not JSON: {error}") from None
    if not isinstance(event, dict) or not isinstance(event.get("object"), dict):
        raise status.service_unavailable("the other server's watch has no events")
    return event


def _refusal(code: int, body: bytes) -> status.ApiError:
    """Return another server's refusal as it worded it, if it did."""
    try:
        told = orjson.loads(body)
    except orjson.JSONDecodeError:
        told = None
    if isinstance(told, dict) and told.get("kind") == "Status":
        return status.ApiError({**told, "code": code})
    return status.failure(code, "", f"the other server answered {code}")
