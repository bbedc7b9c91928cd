"""What a request is once HTTP or gRPC is peeled off, and the seams that judge it.

The road of a request: transport → Authenticator → RequestInfo → Authorizer → (Admission → registry | handler).
Authentication, authorization, admission, allocation and subresources plug in here and know no transport.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol

from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver import fields
from control.apiserver.admission.reinvocation import Reinvocation
from control.apiserver.config import ApiServerConfig
from control.apiserver.metrics import Metrics
from control.client.client import Client

Operation = Literal["CREATE", "UPDATE", "DELETE", "CONNECT"]


@dataclass(frozen=True, slots=True)
class UserInfo:
    """Who asks."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


ANONYMOUS = UserInfo("system:anonymous", groups=("system:unauthenticated",))
API_SERVER = UserInfo("system:apiserver", groups=("system:masters", "system:authenticated"))
"""The API server itself, in requests that it makes of its own registry."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Everything in a request that may prove who asks."""

    certificate: bytes | None = None
    """The client's certificate in DER, already verified against the client CA by TLS."""
    authorization: str = ""
    """The Authorization header, or gRPC's authorization metadata."""
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Request headers by lower-case name: X-Remote-*, Impersonate-*; WebSocket protocols carry bearer tokens too."""
    remote_address: str = ""


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What is asked for, in Kubernetes' terms."""

    verb: str
    """get, list, watch, create, update, patch, delete, deletecollection; the lower-case method for other paths."""
    path: str
    is_resource_request: bool = False
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    rest: tuple[str, ...] = ()
    """Path segments behind the subresource, as of pods/x/proxy/…"""
    field_selector: str = ""
    """The field selector of a list or watch, as it was sent: authorizers may know it."""


class AuditRecord(Protocol):
    """What audit knows of the request that is being served."""

    async def identified(self, user: UserInfo) -> None:
        """Note who asks, before any impersonation; may raise ApiError. Only the first call counts."""
        ...

    def impersonates(self, user: UserInfo) -> None:
        """Note as whom the request goes on."""
        ...

    def annotate(self, key: str, value: str, *, with_bodies: bool = False) -> None:
        """Add an annotation to the request's events; ``with_bodies``, only to those that hold requests' bodies."""
        ...


RECORD: ContextVar[AuditRecord | None] = ContextVar("audit_record", default=None)
"""The record of the request that this task serves; None where nothing is audited."""


def annotate(key: str, value: str, *, with_bodies: bool = False) -> None:
    """Add an annotation to the audit events of the request that is being served."""
    record = RECORD.get()
    if record is not None:
        record.annotate(key, value, with_bodies=with_bodies)


@dataclass(frozen=True, slots=True)
class Decision:
    """An authorizer's answer."""

    allowed: bool
    reason: str = ""
    """Why not; stands in the 403's message."""


class Authenticator(Protocol):
    """Tells who asks."""

    async def authenticate(self, credentials: Credentials) -> UserInfo | None:
        """Return the user, None where nothing was presented; raise Unauthorized where what was presented is wrong."""
        ...


class Authorizer(Protocol):
    """Tells who may do what."""

    async def authorize(self, user: UserInfo, info: RequestInfo) -> Decision:
        """Judge one request, of a resource or of another path."""
        ...


Proof = Callable[[], UserInfo | None]
"""Tells whom a connection's credentials prove now; None where that cannot be told without waiting, or is refused."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Who asks and whether they may, told without waiting."""

    proof: Callable[[Credentials], Proof | None]
    """Returns what tells of these credentials again and again; None where each request with them is to be heard."""
    decide: Callable[[UserInfo, RequestInfo], Decision]
    """Judges one request."""


class Passage(Protocol):
    """One request on its way through the gate."""

    @property
    def admitted(self) -> bool:
        """Whether it may be served now."""
        ...

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """What the answer tells of the way it went."""
        ...

    @property
    def header_lines(self) -> bytes:
        """The same as lines of the answer's head."""
        ...

    async def admission(self) -> None:
        """Wait until it may be served; raises TooManyRequests where that will not be soon."""
        ...

    def initialized(self) -> None:
        """Note that a watch has begun: what it still costs is not counted."""
        ...

    def leave(self) -> None:
        """End, however; to be called once for each request that entered."""
        ...


class Gate(Protocol):
    """Decides which requests are served at once, which wait and which come back later."""

    def enter(self, user: UserInfo, info: RequestInfo, query: Mapping[str, tuple[str, ...]]) -> Passage:
        """Take a request in, once it is known who asks."""
        ...

    def enter_at_once(self, user: UserInfo, info: RequestInfo) -> Passage | None:
        """Take in a request of one object that need not wait; None, and no trace of it, where it would have to."""
        ...

    def dump(self, what: str, details: bool) -> bytes | None:
        """Return a table of its state for people, None where there is none of this name."""
        ...


LONG_RUNNING = frozenset({"attach", "exec", "log", "portforward", "proxy"})
"""Subresources whose requests no gate counts: they last as long as their users want."""


def is_long_running(info: RequestInfo) -> bool:
    """Tell whether an answer may take as long as its client wants."""
    return info.verb in ("watch", "proxy") or info.subresource in LONG_RUNNING


@dataclass(slots=True)
class AdmissionRequest:
    """One write on its way into the store; mutating admission changes ``object`` in place."""

    operation: Operation
    resource: Resource
    user: UserInfo
    namespace: str = ""
    name: str = ""
    """Empty while generateName has not been resolved."""
    subresource: str = ""
    object: Object | None = None
    """The new object; None for DELETE."""
    old_object: Object | None = None
    """The stored object; None for CREATE. Not to be changed."""
    options: Object = field(default_factory=dict)
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)
    """Texts for Warning headers; append to it."""
    reversals: list[Callable[[], Awaitable[None]]] | None = None
    """What undoes admission's own writes (charged quota); called where the write certainly was not stored."""
    reinvocation: Reinvocation | None = None
    """Why mutating admission may run twice; None as long as no webhook and no policy has had a say."""


class Admission(Protocol):
    """Completes and refuses writes, after authorization and before storage."""

    async def mutate(self, request: AdmissionRequest) -> None:
        """Change request.object; raise ApiError to refuse. Defaults have been set, validation follows."""
        ...

    async def validate(self, request: AdmissionRequest) -> None:
        """Raise ApiError to refuse the object as it will be stored; change nothing."""
        ...


class Allocation(Protocol):
    """What was taken for one write, until it is known whether the write stands."""

    async def commit(self, stored: Object) -> None:
        """Keep it, and free what the old object held and the stored one no longer does."""
        ...

    async def rollback(self) -> None:
        """Free it: the write failed, or was a dry run."""
        ...


class Allocator(Protocol):
    """Takes unique values (cluster IPs, node ports) for objects of one resource; one that frees itself is no use."""

    async def allocate(self, request: AdmissionRequest) -> Allocation | None:
        """Take what request.object needs and write it into request.object; called between mutate and validation."""
        ...

    async def release(self, deleted: Object) -> None:
        """Free what a deleted object held."""
        ...


@dataclass(slots=True)
class RequestOptions:
    """The query of a write."""

    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = ""
    """Strict, Warn or Ignore; empty means Warn for REST."""
    force: bool = False
    user_agent: str = ""
    """Its first word names the manager of a change whose request names none."""
    duplicates: list[str] = field(default_factory=list)
    """A fault for each field that stands twice in a patch."""


@dataclass(slots=True)
class ResourceRequest:
    """A request for a subresource or a virtual resource that takes an object and answers one."""

    info: RequestInfo
    resource: Resource
    user: UserInfo
    object: Object | None = None
    """The decoded body."""
    options: RequestOptions = field(default_factory=RequestOptions)
    query: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


ASGIScope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


@dataclass(slots=True)
class StreamRequest:
    """A request that wants the connection itself: log, exec, attach, portforward, proxy.

    ``scope`` is ASGI's, of type "http" for upgrades too, WebSocket's included: scope["hijack"]() hands the raw
    connection over (``streams.upgrade``). What the handler raises as ApiError before it sent anything becomes a Status.
    """

    info: RequestInfo
    resource: Resource
    user: UserInfo
    query: Mapping[str, tuple[str, ...]]
    headers: Mapping[str, tuple[str, ...]]
    scope: ASGIScope
    receive: Receive
    send: Send


ObjectHandler = Callable[[ResourceRequest], Awaitable[Object]]
StreamHandler = Callable[[StreamRequest], Awaitable[None]]


class PathAnswer(NamedTuple):
    """What a path that names no resource answers."""

    body: bytes
    content_type: bytes = b"application/json"
    cache_control: bytes = b"no-cache, private"


PathHandler = Callable[[], Awaitable[PathAnswer]]


class Handlers:
    """Subresources and virtual resources that the generic registry does not serve itself."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str, str], ObjectHandler] = {}
        self._streams: dict[tuple[str, str, str], StreamHandler] = {}
        self._paths: dict[str, PathHandler] = {}

    def add_object(self, resource: Resource, subresource: str, verb: str, handler: ObjectHandler) -> None:
        """Serve ``verb`` of a subresource, or of a whole resource where ``subresource`` is empty (reviews)."""
        self._objects[resource.group, resource.plural, subresource, verb] = handler

    def add_stream(self, resource: Resource, subresource: str, handler: StreamHandler) -> None:
        """Serve every method of a subresource with the raw connection."""
        self._streams[resource.group, resource.plural, subresource] = handler

    def add_path(self, path: str, handler: PathHandler) -> None:
        """Serve a path that names no resource, by GET."""
        self._paths[path] = handler

    @property
    def paths(self) -> Iterable[str]:
        """All such paths."""
        return self._paths.keys()

    def path_handler(self, path: str) -> PathHandler | None:
        """Return who answers this path."""
        return self._paths.get(path)

    def object_handler(self, info: RequestInfo) -> ObjectHandler | None:
        """Return who answers this request with an object."""
        return self._objects.get((info.group, info.resource, info.subresource, info.verb))

    def stream_handler(self, info: RequestInfo) -> StreamHandler | None:
        """Return who answers this request on the raw connection."""
        return self._streams.get((info.group, info.resource, info.subresource))


class Lookup(Protocol):
    """Objects as the watch cache holds them: no request to the store, a moment behind it at worst."""

    async def warm(self, resource: Resource) -> None:
        """Load the resource's cache; before that ``get`` and ``list`` find nothing."""
        ...

    def get(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """Return a copy of one object."""
        ...

    def list(self, resource: Resource, namespace: str = "") -> Iterator[Object]:
        """Yield a copy of each object, of all namespaces where none is named."""
        ...

    def subscribe(self, resource: Resource, listener: Callable[[Object | None, Object | None], None]) -> None:
        """Call ``listener(old, new)`` for every change, and with (None, object) for each that is there by ``warm``."""
        ...


class Complete(Protocol):
    """Makes of an object what its kind keeps: pruned, with defaults."""

    def __call__(self, resource: Resource, obj: Object, validation: str = "Ignore") -> Object:
        """Return the object; raises ApiError, under Strict for an unknown field too."""
        ...


class RangeStore(Protocol):
    """Single keys of the store below ``ranges/``, changed by compare-and-swap."""

    async def read(self, name: str) -> tuple[bytes | None, int]:
        """Return the value, None where there is none, and its revision (0 for none)."""
        ...

    async def swap(self, name: str, value: bytes, revision: int) -> bool:
        """Store the value where the key is still at ``revision``; tell whether it was."""
        ...


@dataclass(frozen=True, slots=True)
class Hub:
    """What the API server lends to those who plug in."""

    config: ApiServerConfig
    lookup: Lookup
    client: Client
    """The registry in this process, asked as system:apiserver without authorization; admission still runs."""
    handlers: Handlers
    ranges: RangeStore
    """Where node ports are allocated; ``control.apiserver.ranges`` has the one over etcd."""
    find: Callable[[str, str], Resource | None]
    """Returns the resource that is served under an apiVersion and a kind."""
    complete: Complete
    definition: Callable[[Resource], str]
    """Returns the name under which the facts of a resource's objects stand."""
    metrics: Metrics = field(default_factory=Metrics)
    revision_of: Callable[[Resource, str, str], int] | None = None
    """Returns the revision at which an object stands in memory, 0 where it does not."""


async def nothing_to_do() -> None:
    """Return at once: the task of parts that need none."""


@dataclass(frozen=True, slots=True)
class Security:
    """What ``control.apiserver.security.secure(hub)`` gives back: everything that judges requests."""

    authenticator: Authenticator
    authorizer: Authorizer
    admission: Admission
    judge: Judge | None = None
    """Who tells without waiting what authenticator and authorizer tell."""
    allocators: Mapping[Resource, Allocator] = field(default_factory=dict)
    bootstrap: Callable[[], Coroutine[Any, Any, None]] = nothing_to_do
    """Called once the registry serves and before ports open: RBAC's first objects. Idempotent."""
    run: Callable[[], Coroutine[Any, Any, None]] = nothing_to_do
    """Repair loops and reloading of files; runs until cancelled."""


_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete", "GET": "get", "HEAD": "get"}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})


def parse(method: str, path: str, query: Mapping[str, tuple[str, ...]]) -> RequestInfo:
    """Read method, path and query as Kubernetes does."""
    return _read(method, path, query) if query else _remembered(method, path)


@lru_cache(maxsize=2048)
def _remembered(method: str, path: str) -> RequestInfo:
    return _read(method, path, {})


def _read(method: str, path: str, query: Mapping[str, tuple[str, ...]]) -> RequestInfo:
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return RequestInfo(method.lower(), path)
    verb = _VERBS.get(method, method.lower())
    if rest[0] == "watch" and len(rest) > 1:
        verb, rest = "watch", rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource = rest[0]
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if verb in ("get", "watch") and not name:
        verb, name = _collection_verb(verb, query)
    elif verb == "delete" and not name:
        verb = "deletecollection"
    behind, selector = tuple(rest[3:]), (query.get("fieldSelector") or ("",))[0]
    return RequestInfo(verb, path, True, group, version, resource, subresource, namespace, name, behind, selector)


def _collection_verb(verb: str, query: Mapping[str, tuple[str, ...]]) -> tuple[str, str]:
    """Return list or watch, and the one name that a field selector asks for: authorizers may know it."""
    wanted = "watch" if verb == "watch" or flag(query.get("watch", ())) else "list"
    return wanted, fields.only_name((query.get("fieldSelector") or ("",))[0])


def flag(values: tuple[str, ...]) -> bool:
    """Read a boolean parameter as Kubernetes does: only its absence, "0" and "false" mean no."""
    return bool(values) and values[0] != "0" and values[0].lower() != "false"
