"""The one ASGI callable: who asks, whether they may, and who answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING

import orjson

from control.api import status
from control.api.patch import too_deep
from control.api.resources import Resource
from control.apiserver.aggregation.aggregator import Aggregator
from control.apiserver.aggregation.services import Route
from control.apiserver.etcd import StoreBusyError, StoreError, TransformationError
from control.apiserver.kinds import Kind
from control.apiserver.measures import RequestMetrics
from control.apiserver.metrics import CONTENT_TYPE as METRICS_TYPE
from control.apiserver.metrics import Metrics
from control.apiserver.request import (
    LONG_RUNNING,
    RECORD,
    ASGIScope,
    Judge,
    Receive,
    RequestInfo,
    Send,
    StreamRequest,
    UserInfo,
    is_long_running,
    parse,
)
from control.apiserver.rest.bounds import Bounds
from control.apiserver.rest.discovery import Discovery, version_info
from control.apiserver.rest.exchange import JSON_TYPE, Exchange
from control.apiserver.rest.health import Health
from control.apiserver.rest.negotiate import choose_discovery
from control.apiserver.rest.openapi import OpenAPI
from control.apiserver.rest.verbs import Verbs
from control.apiserver.service import Service, not_allowed, unknown_path
from control.client.flags import parse_duration

if TYPE_CHECKING:
    # Imported for real where audit is configured.
    from control.apiserver.audit.auditor import Auditor

log = logging.getLogger(__name__)

_READS = frozenset({"get", "list"})

PathHandler = Callable[[Exchange], Awaitable[None]]


def translate(error: Exception) -> status.ApiError:
    """Return what a client is told about a failure; what is unexpected is told in one word."""
    if isinstance(error, status.ApiError):
        return error
    if isinstance(error, StoreBusyError):
        return status.too_many_requests("the store is busy, please try again later")
    if isinstance(error, TransformationError):
        return status.internal_error(str(error))
    if isinstance(error, StoreError):
        unavailable = status.service_unavailable("the store does not answer at this time, please try again")
        unavailable.status["details"] = {"retryAfterSeconds": 1}
        return unavailable
    if isinstance(error, RecursionError):
        return too_deep()
    if isinstance(error, TimeoutError):
        return status.failure(504, "Timeout", "Timeout: request did not complete within the allotted timeout")
    return status.internal_error("an error that is described in the server's log")


def asked_timeout_s(text: str) -> float:
    """Return how long a request may take by its own wish, 0 where it has none; raises BadRequest."""
    try:
        return max(parse_duration(text.removeprefix("+")), 0.0) if text and not text.startswith("-") else 0.0
    except ValueError:
        fault = "missing unit in" if text.replace(".", "", 1).isdecimal() else "invalid"
        told = f'invalid timeout specified in the request URL - time: {fault} duration "{text}"'
        raise status.bad_request(told) from None


class App:
    """Serves HTTP scopes; upgrades to WebSocket and SPDY are among them."""

    def __init__(
        self,
        service: Service,
        discovery: Discovery,
        health: Health,
        openapi: OpenAPI,
        metrics: Metrics | None = None,
        auditor: Auditor | None = None,
        aggregator: Aggregator | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._service = service
        self._verbs = Verbs(service)
        self._discovery = discovery
        self._health = health
        self._openapi = openapi
        self._routes: Mapping[tuple[str, str], Route] = aggregator.routes if aggregator is not None else {}
        self._aggregator = aggregator
        self.in_flight = 0
        """Requests that are being served and will end soon: watches and streams apart."""
        self._metrics = metrics or Metrics()
        self.requests = RequestMetrics(self._metrics, service.registry.kinds)
        self._auditor = auditor
        self._judge = judge if auditor is None else None
        self._bounds = Bounds(service.config.request_timeout_s)

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing but an answer leaves."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        info = parse(exchange.method, exchange.path, exchange.query)
        since = perf_counter()
        content_type = exchange.header("content-type") if info.verb == "patch" else ""
        dry_run = ",".join(exchange.query.get("dryRun", ())) if exchange.query else ""
        series = self.requests.begin(info, content_type, dry_run)
        try:
            if self._auditor is None:
                await self._answer(exchange, info)
            else:
                await self._audited(self._auditor, exchange, info)
        finally:
            self.requests.end(series, exchange.code, perf_counter() - since, exchange.sent_bytes)

    async def _audited(self, auditor: Auditor, exchange: Exchange, info: RequestInfo) -> None:
        """Answer one request and tell of it."""
        query = exchange.scope["query_string"].decode("latin-1")
        path = (exchange.scope.get("raw_path") or exchange.path.encode()).decode("latin-1")
        uri = f"{path}?{query}" if query else path
        certificate = exchange.certificate is not None
        record = exchange.record = auditor.begin(uri, exchange.headers, exchange.remote_address, certificate, info)
        if (hijack := exchange.scope.get("hijack")) is not None:
            exchange.scope["hijack"] = record.taking_over(hijack)
        token = RECORD.set(record)
        try:
            await self._answer(exchange, info)
        finally:
            RECORD.reset(token)
            await record.ends()

    async def _answer(self, exchange: Exchange, info: RequestInfo) -> None:
        """Answer one request, by a Status where it fails."""
        try:
            await self._serve(exchange, info)
        except ConnectionResetError:
            return
        except (status.ApiError, StoreError, TimeoutError, RecursionError) as error:
            await exchange.fail(translate(error))
        except Exception as error:
            log.exception("request failed method=%s path=%s", exchange.method, exchange.path)
            if exchange.record is not None:
                exchange.record.panics(error)
            await exchange.fail(translate(error))

    async def _serve(self, exchange: Exchange, info: RequestInfo) -> None:
        if exchange.query and "timeout" in exchange.query and not is_long_running(info):
            exchange.timeout_s = asked_timeout_s(exchange.parameter("timeout"))
        user = self._recalled(exchange) or await self._service.authenticate(exchange.credentials)
        gate = self._service.gate
        if gate is None or info.subresource in LONG_RUNNING:
            await self._decide(exchange, user, info)
            return
        passage = exchange.passage = gate.enter(user, info, exchange.query)
        try:
            if not passage.admitted:
                await passage.admission()
                if exchange.gone:
                    raise ConnectionResetError
            await self._decide(exchange, user, info)
        finally:
            passage.leave()

    def _recalled(self, exchange: Exchange) -> UserInfo | None:
        """Return whom the headers prove that this connection sent last, where nothing has to be waited for."""
        state = exchange.scope.get("state")
        if self._judge is None or state is None:
            return None
        since = perf_counter()
        known = state.get("proof")
        if known is None or known[0] is not exchange.headers:
            known = state["proof"] = exchange.headers, self._judge.proof(exchange.credentials)
        user: UserInfo | None = known[1]() if known[1] is not None else None
        if user is not None:
            self._service.access.authenticated(user.name, since)
        return user

    async def _decide(self, exchange: Exchange, user: UserInfo, info: RequestInfo) -> None:
        await self._service.authorize(user, info)
        if self._routes and (route := self._route(info)) is not None:
            await self._relay(route, exchange, user, info)
            return
        if not info.is_resource_request:
            await self._path(exchange)
            return
        kind = await self._service.kind(info)
        if kind.deprecation:
            exchange.deprecation = kind.deprecation
            self.requests.deprecated(info)
        handler = self._service.handlers.stream_handler(info)
        if handler is not None:
            request = StreamRequest(
                info,
                kind.resource,
                user,
                exchange.query,
                exchange.headers,
                exchange.scope,
                exchange.receive,
                exchange.send,
            )
            await handler(request)
            return
        self._service.check_verb(kind, info)
        if info.verb == "watch":
            await self._verbs.serve(exchange, user, info, kind)
            return
        await self._bounded(exchange, user, info, kind)

    # Other servers.

    def _route(self, info: RequestInfo) -> Route | None:
        """Return who answers for a group version, its discovery and its OpenAPI, None where it is this server."""
        if info.is_resource_request:
            return self._routes.get((info.group, info.version))
        match info.path.strip("/").split("/"):
            case ["apis", group, version]:
                return self._routes.get((group, version))
            case ["openapi", "v3", *rest] if self._aggregator is not None:
                return self._aggregator.document_route("/".join(rest))
        return None

    async def _relay(self, route: Route, exchange: Exchange, user: UserInfo, info: RequestInfo) -> None:
        assert self._aggregator is not None
        resource = Resource(info.group, info.version, info.resource, "")
        headers = {**exchange.headers, "audit-id": (exchange.audit_id.decode("latin-1"),)}
        request = StreamRequest(
            info, resource, user, exchange.query, headers, exchange.scope, exchange.receive, exchange.send
        )
        if exchange.passage is not None:
            # What another server does for it costs nothing here.
            exchange.passage.initialized()
        await self._aggregator.relay(route, request)

    async def _bounded(self, exchange: Exchange, user: UserInfo, info: RequestInfo, kind: Kind) -> None:
        self.in_flight += 1
        try:
            if 0.0 < exchange.timeout_s < self._service.config.request_timeout_s:
                async with asyncio.timeout(exchange.timeout_s):
                    await self._verbs.serve(exchange, user, info, kind)
                return
            if info.verb in _READS:
                # What a read may wait for, the store and the feed, has bounds of its own.
                await self._verbs.serve(exchange, user, info, kind)
                return
            await self._bounds.within(self._verbs.serve(exchange, user, info, kind))
        finally:
            self.in_flight -= 1

    # Paths that name no resource.

    async def _path(self, exchange: Exchange) -> None:
        parts = [part for part in exchange.path.split("/") if part]
        if exchange.method not in ("GET", "HEAD"):
            raise not_allowed()
        match parts:
            case []:
                await exchange.answer(200, orjson.dumps({"paths": self._paths()}, option=orjson.OPT_INDENT_2))
            case ["version"]:
                await exchange.answer(200, orjson.dumps(version_info(), option=orjson.OPT_INDENT_2))
            case ["api"] | ["apis"]:
                await self._groups(exchange, parts[0] == "api")
            case ["api", version]:
                await _answer_found(exchange, self._discovery.resources("", version))
            case ["apis", group]:
                await _answer_found(exchange, self._discovery.group(group))
            case ["apis", group, version]:
                await _answer_found(exchange, self._discovery.resources(group, version))
            case ["openapi", "v2"]:
                await self._openapi.serve_v2(exchange)
            case ["openapi", "v3", *rest]:
                await self._openapi.serve(exchange, "/".join(rest))
            case ["metrics", "slis"]:
                await exchange.answer(200, await self._health.slis.text(process=False), METRICS_TYPE.encode())
            case ["metrics"]:
                await exchange.answer(200, await self._metrics.text(), METRICS_TYPE.encode())
            case ["healthz" | "livez" | "readyz", *_]:
                await self._health.serve(exchange, parts)
            case ["debug", "api_priority_and_fairness", what]:
                await self._dump(exchange, what)
            case _:
                if (handler := self._service.handlers.path_handler(exchange.path)) is None:
                    raise unknown_path()
                found = await handler()
                exchange.cache_control = found.cache_control
                await exchange.answer(200, found.body, found.content_type)

    async def _dump(self, exchange: Exchange, what: str) -> None:
        gate = self._service.gate
        details = bool(exchange.parameter("includeRequestDetails"))
        body = gate.dump(what, details) if gate is not None else None
        if body is None:
            raise unknown_path()
        await exchange.answer(200, body, b"text/plain; charset=utf-8")

    def _paths(self) -> list[str]:
        found = [
            "/api",
            "/api/v1",
            "/apis",
            "/healthz",
            "/livez",
            "/metrics",
            "/metrics/slis",
            "/openapi/v2",
            "/openapi/v3",
            "/readyz",
            "/version",
        ]
        found += [*self._service.handlers.paths, *self._health.paths]
        versions = self._discovery.group_versions
        groups = {f"/apis/{group}" for group, _ in versions if group}
        return sorted({*found, *groups, *(f"/apis/{group}/{version}" for group, version in versions if group)})

    async def _groups(self, exchange: Exchange, core: bool) -> None:
        media = choose_discovery(exchange.header("accept"))
        vary = ((b"vary", b"Accept"),)
        if not media.transform:
            body = self._discovery.core_versions if core else self._discovery.groups
            await exchange.answer(200, body, JSON_TYPE, vary)
            return
        body = self._discovery.aggregated(core, media.version)
        etag = sha256(body).hexdigest().upper()
        extra = (*vary, (b"etag", f'"{etag}"'.encode()))
        content_type = f"application/json;g=apidiscovery.k8s.io;v={media.version};as=APIGroupDiscoveryList".encode()
        if exchange.header("if-none-match").strip('"') == etag:
            await exchange.answer(304, b"", content_type, extra)
            return
        await exchange.answer(200, body, content_type, extra)


async def _answer_found(exchange: Exchange, body: bytes | None) -> None:
    if body is None:
        raise unknown_path()
    await exchange.answer(200, body)
