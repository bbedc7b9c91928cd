"""Passes requests on to the servers that answer for them, in the name of the user who asks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import quote

from control.api import status
from control.apiserver.aggregation.backends import BackendError, Backends
from control.apiserver.aggregation.services import Route
from control.apiserver.authn.front_proxy import FrontProxyHeaders
from control.apiserver.request import StreamRequest, UserInfo, is_long_running
from control.apiserver.streams.keepalive import KeepAlive
from control.apiserver.streams.relay import Backend, is_upgrade, relay_http, relay_upgrade

_KEY_SAFE = "!#$&'*+-.^_`|~"
"""Letters of a header's name, the percent sign apart, by which all others are written."""
_OWN_HEADERS = ("x-remote-", "impersonate-", "x-forwarded-for")
UNAVAILABLE_TEXT = "the server is currently unable to handle the request"


def identity(user: UserInfo) -> Iterator[tuple[str, str]]:
    """Yield the headers that say for whom a request is passed on; raises BadRequest for a name no header can hold."""
    yield "X-Remote-User", _value(user.name)
    if user.uid:
        yield "X-Remote-Uid", _value(user.uid)
    for group in user.groups:
        yield "X-Remote-Group", _value(group)
    for key, values in user.extra.items():
        for value in values:
            yield f"X-Remote-Extra-{quote(key, safe=_KEY_SAFE)}", _value(value)


def _value(text: str) -> str:
    if any(letter in text for letter in "\r\n\0"):
        raise status.bad_request("the user's name, groups or extra hold a line break")
    return text


class Proxy:
    """The way of requests to other servers."""

    def __init__(self, backends: Backends, names: FrontProxyHeaders, timeout_s: float, *, redirects: bool) -> None:
        self._backends = backends
        self._timeout_s = timeout_s
        self._redirects = redirects
        self._kept = KeepAlive(time.monotonic)
        theirs = (*names.username, *names.uid, *names.group, *names.extra_prefixes)
        self._dropped = (*_OWN_HEADERS, *(name.lower() for name in theirs))

    async def relay(self, route: Route, request: StreamRequest) -> None:
        """Pass a request on and its answer back; raises ApiError before an answer has begun."""
        if not route.available:
            raise status.service_unavailable(UNAVAILABLE_TEXT)
        try:
            address = self._backends.resolve(route)
            tls = self._backends.tls(route, address)
        except BackendError as error:
            raise status.service_unavailable(f"{UNAVAILABLE_TEXT}: {error}") from None
        # What says who asks comes from us alone.
        headers = {name: values for name, values in request.headers.items() if not name.startswith(self._dropped)}
        # Headers are bytes, told as letters of Latin-1: names travel in UTF-8.
        told = [(name, value.encode().decode("latin-1")) for name, value in identity(request.user)]
        backend = Backend(address, _target(request), tls, route.server_name, (*told, *_way(request)), self._redirects)
        await self._pass(replace(request, headers=headers), backend)

    def close(self) -> None:
        """Let go of what waits for the next request."""
        self._kept.close()

    async def _pass(self, request: StreamRequest, backend: Backend) -> None:
        try:
            if is_upgrade(request):
                await relay_upgrade(request, backend)
            elif is_long_running(request.info):
                await relay_http(request, backend, self._kept)
            else:
                async with asyncio.timeout(self._timeout_s):
                    await relay_http(request, backend, self._kept)
        except status.ApiError as error:
            if error.code == 500:
                raise status.service_unavailable(error.message.removeprefix("Internal error occurred: ")) from None
            raise


def _target(request: StreamRequest) -> str:
    """Return path and query as they came."""
    raw = request.scope.get("raw_path") or quote(request.scope["path"], safe="/:@!$&'()*+,;=~").encode()
    path = raw.split(b"?", 1)[0].decode("latin-1")
    query = request.scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def _way(request: StreamRequest) -> Iterator[tuple[str, str]]:
    client = request.scope.get("client")
    if client:
        known = ", ".join(request.headers.get("x-forwarded-for", ()))
        yield "X-Forwarded-For", f"{known}, {client[0]}" if known else str(client[0])
