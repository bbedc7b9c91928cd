"""One request as it will be told of: filled in on its way, told at each stage that the policy wants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import orjson

from control.api import status
from control.api.meta import Object
from control.api.protobuf import ProtobufError, decode_body
from control.api.protobuf_encoding import MAGIC
from control.api.times import format_time
from control.apiserver import objects
from control.apiserver.audit.policy import NAMES, NOTHING, Level, Wish
from control.apiserver.request import RequestInfo, UserInfo, is_long_running

USER_AGENT_MAX = 1024
RESPONSE_BYTES_MAX = 32 << 20
"""A longer answer is not told."""
_BODY_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})
TRUNCATED = "audit.k8s.io/truncated"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came from and how."""

    audit_id: str
    uri: str
    headers: Mapping[str, tuple[str, ...]]
    remote_address: str
    certificate: bool
    received: datetime


class Record:
    """What is known of one request so far."""

    def __init__(
        self, origin: Origin, info: RequestInfo, judge: Callable[[UserInfo | None], Wish],
        tell: Callable[[Record, str, datetime], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self.origin = origin
        self.info = info
        self.wish = NOTHING
        self.user: UserInfo | None = None
        self.impersonated: UserInfo | None = None
        self.annotations: dict[str, str] = {}
        self.code = 0
        self.long_running = is_long_running(info)
        self._judge = judge
        self._tell = tell
        self._judged = False
        self._panic = ""
        self._taken_at: datetime | None = None
        """When another protocol took the connection over."""
        self._waiting: tuple[bytes, str] | None = None
        self._answered: Object | None = None
        """What stands for an answer where none was sent."""
        self._request: Any = None
        self._target: Object = {}
        self._response: list[bytes] = []
        self._response_size = 0

    # What the request's way tells.

    async def identified(self, user: UserInfo) -> None:
        """Note who asks, before any impersonation; raises ApiError where events must be kept and cannot."""
        if self._judged:
            return
        self._judged = True
        self.user = user
        self.wish = self._judge(user)
        if self._waiting is not None:
            self.asked(*self._waiting)
        if not await self._at("RequestReceived"):
            raise status.internal_error("failed to store audit event")

    def impersonates(self, user: UserInfo) -> None:
        """Note as whom the request goes on."""
        self.impersonated = user

    def annotate(self, key: str, value: str, *, with_bodies: bool = False) -> None:
        """Add an annotation; the first of a key stays, as in Kubernetes."""
        if not with_bodies or self.wish.level >= Level.REQUEST:
            self.annotations.setdefault(key, value)

    @property
    def tells_responses(self) -> bool:
        """Whether answers are told in full."""
        return self.wish.level >= Level.REQUEST_RESPONSE

    def will_ask(self, body: bytes, content_type: str) -> None:
        """Note a request's body before it is known who asks."""
        self._waiting = body, content_type

    def asked(self, body: bytes, content_type: str) -> None:
        """Note a request's body."""
        if not body or self.wish.level < Level.METADATA or not self.info.is_resource_request:
            return
        if self.info.verb not in _BODY_VERBS:
            return
        try:
            if self.info.verb == "patch":
                self._request = objects.parse_patch(body, content_type)[1]
                return
            self._request, _ = objects.parse_body(body, content_type, "Ignore")
        except status.ApiError:
            # The request is refused for this; what it asks for cannot be shown as an object.
            return
        metadata = self._request.get("metadata") if isinstance(self._request, dict) else None
        if isinstance(metadata, dict):
            self._target = metadata

    @property
    def header(self) -> bytes:
        """The value of the answer's Audit-ID header."""
        return self.origin.audit_id.encode("latin-1", "replace")

    def taking_over(self, hijack: Callable[[], Any]) -> Callable[[], Any]:
        """Return ``hijack`` so that taking the connection over is known as the answer's beginning."""

        def take() -> Any:
            if not self.code:
                self.code = 101
                self._taken_at = datetime.now(UTC)
            return hijack()

        return take

    async def starts(self, code: int) -> None:
        """Note that an answer begins."""
        if self.code:
            return
        self.code = code
        if self.long_running and self._judged:
            await self._at("ResponseStarted")

    def answers(self, part: bytes) -> None:
        """Note a part of an answer's body."""
        # A failure's text is told on every level, other answers on the highest alone.
        told = not self.long_running and self.info.is_resource_request and self.wish.level >= Level.REQUEST_RESPONSE
        if not part or not (told or self.code >= 400):
            return
        self._response_size += len(part)
        if self._response_size <= RESPONSE_BYTES_MAX:
            self._response.append(part)

    def panics(self, error: BaseException) -> None:
        """Note that we failed in a way that nobody foresaw."""
        self._panic = f"APIServer panic'd: {type(error).__name__}"

    async def ends(self) -> None:
        """Note that the request is over."""
        if not self._judged:
            self._judged = True
            self.wish = self._judge(None)
            if self.code == 401:
                await self._at("ResponseStarted")
            return
        if self._panic:
            await self._at("Panic")
            return
        if not self.code:
            self.code = 200
            self._answered = {"status": "Success", "message": "Connection closed early"}
            if self.long_running:
                await self._at("ResponseStarted")
        if self._taken_at is not None:
            await self._at("ResponseStarted", self._taken_at)
        await self._at("ResponseComplete")

    async def _at(self, stage: str, when: datetime | None = None) -> bool:
        if self.wish.level is Level.NONE or stage in self.wish.omitted:
            return True
        return await self._tell(self, stage, when or datetime.now(UTC))

    # The event.

    def event(self, stage: str, now: datetime) -> Object:
        """Return the event of one stage, its kind and apiVersion apart."""
        made: Object = {
            "level": NAMES[self.wish.level],
            "auditID": self.origin.audit_id,
            "stage": stage,
            "requestURI": self.origin.uri,
            "verb": self.info.verb,
            "user": _user(self.user) if self.user is not None else {},
        }
        if self.impersonated is not None:
            made["impersonatedUser"] = _user(self.impersonated)
        if addresses := source_addresses(self.origin.headers, self.origin.remote_address):
            made["sourceIPs"] = addresses
        if agent := self.origin.headers.get("user-agent", ("",))[0]:
            made["userAgent"] = agent if len(agent) <= USER_AGENT_MAX else agent[:USER_AGENT_MAX] + "...TRUNCATED"
        if self.info.is_resource_request:
            made["objectRef"] = self._reference()
        if stage != "RequestReceived":
            response = self._response_value()
            made["responseStatus"] = self._status(response)
            if self.wish.level >= Level.REQUEST and self._request is not None:
                made["requestObject"] = self._shown(self._request)
            if self.wish.level >= Level.REQUEST_RESPONSE and response is not None and self.info.is_resource_request:
                made["responseObject"] = self._shown(response)
        received = format_time(self.origin.received, micro=True)
        made["requestReceivedTimestamp"] = received
        made["stageTimestamp"] = received if stage == "RequestReceived" else format_time(now, micro=True)
        if self.annotations:
            made["annotations"] = dict(self.annotations)
        return made

    def _reference(self) -> Object:
        info, target = self.info, self._target
        found = {
            "resource": info.resource,
            "namespace": info.namespace or target.get("namespace"),
            "name": info.name or target.get("name"),
            "uid": target.get("uid"),
            "apiGroup": info.group,
            "apiVersion": info.version,
            "resourceVersion": target.get("resourceVersion"),
            "subresource": info.subresource,
        }
        return {name: value for name, value in found.items() if value}

    def _response_value(self) -> Any:
        if not self._response or self._response_size > RESPONSE_BYTES_MAX:
            return None
        body = b"".join(self._response)
        try:
            return decode_body(body) if body.startswith(MAGIC) else orjson.loads(body)
        except (orjson.JSONDecodeError, ProtobufError):
            return None

    def _status(self, response: Any) -> Object:
        made: Object = {"metadata": {}}
        if self._panic:
            return {
                **made, "status": "Failure", "message": self._panic, "reason": "InternalError", "code": 500,
            }  # fmt: skip
        if self.user is None:
            return {**made, "message": self._attempted(), "code": self.code}
        known = response if isinstance(response, dict) and response.get("kind") == "Status" else self._answered
        for name in ("status", "message", "reason", "details"):
            if known is not None and known.get(name):
                made[name] = known[name]
        made["code"] = self.code
        return made

    def _attempted(self) -> str:
        """Say by what a request tried to prove who sent it, as Kubernetes says it."""
        scheme, _, rest = self.origin.headers.get("authorization", ("",))[0].strip().partition(" ")
        found = [scheme.lower()] if scheme.lower() in ("basic", "bearer") and rest else []
        if self.origin.certificate:
            found.append("x509")
        return (
            f"Authentication failed, attempted: {', '.join(found)}"
            if found
            else ("Authentication failed, no credentials provided")
        )

    def _shown(self, value: Any) -> Any:
        return _without_managed_fields(value) if self.wish.omit_managed_fields else value


def _user(user: UserInfo) -> Object:
    made: Object = {"username": user.name}
    if user.uid:
        made["uid"] = user.uid
    if user.groups:
        made["groups"] = list(user.groups)
    if user.extra:
        made["extra"] = {name: list(values) for name, values in user.extra.items()}
    return made


def _without_managed_fields(value: Any) -> Any:
    """Return an object, a list or a Table without the managed fields of what is in it."""
    if not isinstance(value, dict):
        return value
    made = dict(value)
    if isinstance(metadata := made.get("metadata"), dict) and "managedFields" in metadata:
        made["metadata"] = {name: kept for name, kept in metadata.items() if name != "managedFields"}
    if isinstance(items := made.get("items"), list):
        made["items"] = [_without_managed_fields(item) for item in items]
    if made.get("kind") == "Table" and isinstance(rows := made.get("rows"), list):
        made["rows"] = [
            {**row, "object": _without_managed_fields(row.get("object"))} if isinstance(row, dict) else row
            for row in rows
        ]
    return made


def source_addresses(headers: Mapping[str, tuple[str, ...]], remote: str) -> list[str]:
    """Return who says to have sent a request, the one who certainly did last."""
    found: list[str] = []
    for header in headers.get("x-forwarded-for", ()):
        found += [part.strip() for part in header.split(",")]
    found = [part for part in found if _is_address(part)]
    real = headers.get("x-real-ip", ("",))[0].strip()
    if _is_address(real) and real not in found:
        found.append(real)
    if _is_address(remote) and (not found or found[-1] != remote):
        found.append(remote)
    return found


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
