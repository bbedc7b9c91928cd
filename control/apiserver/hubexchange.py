"""What the hub notes of each call, as REST's exchange does: metrics, and audit's record where there is audit."""

from __future__ import annotations

from contextvars import ContextVar, Token
from time import perf_counter
from typing import TYPE_CHECKING, Any

import orjson

from control.api import status
from control.apiserver.measures import RequestMetrics, RequestSeries
from control.apiserver.request import RECORD, AuditRecord, Credentials, RequestInfo
from proto.control import resources_pb2

if TYPE_CHECKING:
    # Imported for real where audit is configured.
    from control.apiserver.audit.auditor import Auditor
    from control.apiserver.audit.record import Record

_BODIES = {"create": "object", "update": "object", "patch": "patch", "delete": "options"}


class HubExchange:
    """One call."""

    __slots__ = ("code", "record", "series", "since", "token")

    def __init__(self) -> None:
        self.since = perf_counter()
        self.series: RequestSeries | None = None
        self.record: Record | None = None
        self.token: Token[AuditRecord | None] | None = None
        self.code = 0


_CURRENT: ContextVar[HubExchange | None] = ContextVar("hub_exchange", default=None)


class Exchanges:
    """Makes and ends them."""

    def __init__(self, requests: RequestMetrics, auditor: Auditor | None) -> None:
        self._requests = requests
        self._auditor = auditor

    def open(self) -> HubExchange:
        """Note that a call has arrived."""
        made = HubExchange()
        _CURRENT.set(made)
        return made

    def begin(self, info: RequestInfo, credentials: Credentials, request: Any) -> None:
        """Note what the call asks for."""
        exchange = _CURRENT.get()
        if exchange is None:
            return
        content_type = request.patch_type if info.verb == "patch" else ""
        exchange.series = self._requests.begin(info, content_type, "All" if getattr(request, "dry_run", False) else "")
        if self._auditor is None:
            return
        address = _address(credentials.remote_address)
        exchange.record = self._auditor.begin(
            path_of(info), credentials.headers, address, credentials.certificate is not None, info
        )
        exchange.token = RECORD.set(exchange.record)
        body = getattr(request, _BODIES.get(info.verb, ""), b"")
        if body:
            exchange.record.will_ask(body, content_type or "application/json")

    async def started(self) -> None:
        """Note that a watch's answer begins."""
        exchange = _CURRENT.get()
        if exchange is not None:
            exchange.code = 200
            if exchange.record is not None:
                await exchange.record.starts(200)

    async def answered(self, exchange: HubExchange, answer: Any) -> None:
        """Note a call's answer."""
        exchange.code = 200
        if exchange.record is not None:
            await exchange.record.starts(200)
            if exchange.record.tells_responses:
                exchange.record.answers(_response(answer))

    async def failed(self, exchange: HubExchange, error: status.ApiError, unforeseen: Exception | None = None) -> None:
        """Note that a call fails."""
        exchange.code = error.code
        if exchange.record is not None:
            if unforeseen is not None:
                exchange.record.panics(unforeseen)
            await exchange.record.starts(error.code)
            exchange.record.answers(orjson.dumps(error.status))

    async def close(self, exchange: HubExchange) -> None:
        """Note that a call is over."""
        if exchange.series is not None:
            self._requests.end(exchange.series, exchange.code, perf_counter() - exchange.since)
        if exchange.record is not None:
            await exchange.record.ends()


def _response(answer: Any) -> bytes:
    """Return an answer's JSON."""
    if isinstance(answer, resources_pb2.ObjectResponse):
        return answer.object
    items = [orjson.Fragment(item) for item in answer.items]
    return orjson.dumps({"metadata": {"resourceVersion": answer.resource_version}, "items": items})


def path_of(info: RequestInfo) -> str:
    """Return the REST path of what a call asks for: audit knows requests by it."""
    start = f"/apis/{info.group}/{info.version}" if info.group else f"/api/{info.version}"
    space = f"/namespaces/{info.namespace}" if info.namespace and info.resource != "namespaces" else ""
    name = info.name if info.verb != "create" or info.subresource else ""
    rest = "".join(f"/{part}" for part in (info.resource, name, info.subresource) if part)
    return start + space + rest


def _address(peer: str) -> str:
    """Return the address of gRPC's name of a peer: ipv4:10.0.0.1:42, ipv6:[::1]:42."""
    kind, _, rest = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return ""
    return rest.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0].strip("[]")
