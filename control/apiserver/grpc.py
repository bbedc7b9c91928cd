"""The hub: the Kubernetes API over gRPC, the same service behind another front door.

Watch is served with raw bytes: events are serialized once for all watchers, and what waits together is sent as one
message, since concatenated WatchResponses are a WatchResponse.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from ssl import PEM_cert_to_DER_cert
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio
import orjson

from control.api import status
from control.api.meta import Object
from control.api.resources import NAMESPACES
from control.apiserver import objects
from control.apiserver.aggregation.forwarding import Forwarding
from control.apiserver.aggregation.services import Route
from control.apiserver.cache import Entry
from control.apiserver.config import ApiServerConfig
from control.apiserver.convert import convert
from control.apiserver.elsewhere import Elsewhere
from control.apiserver.etcd import StoreError
from control.apiserver.fields import only_name
from control.apiserver.hubexchange import Exchanges
from control.apiserver.kinds import Kind
from control.apiserver.measures import RequestMetrics
from control.apiserver.metrics import Metrics
from control.apiserver.options import check_write
from control.apiserver.paging import ListQuery
from control.apiserver.registry import Context
from control.apiserver.request import Credentials, Passage, RequestInfo, RequestOptions, UserInfo
from control.apiserver.rest.app import translate
from control.apiserver.service import Service
from control.apiserver.watch import WatchOptions
from control.client.client import APPLY_PATCH
from proto.control import resources_pb2

if TYPE_CHECKING:
    # Imported for real where audit is configured.
    from control.apiserver.audit.auditor import Auditor

log = logging.getLogger(__name__)

SERVICE = "raftsman.control.v1.Resources"
STATUS_KEY = "status-bin"
MESSAGE_BYTES_MAX = 64 << 20
STREAMS_MAX = 10_000

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    409: grpc.StatusCode.ABORTED,
    410: grpc.StatusCode.OUT_OF_RANGE,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}

ServicerContext = grpc.aio.ServicerContext[Any, Any]
Query = Mapping[str, tuple[str, ...]]
NO_QUERY: Query = {}


async def _fail(call: ServicerContext, error: status.ApiError) -> NoReturn:
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    if error.reason == "AlreadyExists":
        code = grpc.StatusCode.ALREADY_EXISTS
    told = (*(call.trailing_metadata() or ()), (STATUS_KEY, orjson.dumps(error.status)))
    await call.abort(code, error.message[:1000], told)
    raise AssertionError("abort raises")


def _credentials(call: ServicerContext) -> Credentials:
    pem = next(iter(call.auth_context().get("x509_pem_cert") or ()), b"")
    certificate = PEM_cert_to_DER_cert(pem.decode()) if pem else None
    headers: dict[str, tuple[str, ...]] = {}
    for name, value in call.invocation_metadata() or ():
        if isinstance(value, str):
            headers[name] = (*headers.get(name, ()), value)
    return Credentials(certificate, headers.get("authorization", ("",))[0], headers, call.peer())


def _info(verb: str, target: resources_pb2.Target, field_selector: str = "") -> RequestInfo:
    """Return what is asked for as REST's paths would say it: authorizers must not see another place or name."""
    name, namespace = target.name, target.namespace
    if verb in ("list", "watch"):
        name = name or only_name(field_selector)
    elif verb == "create" and not target.subresource:
        name = ""
    if not target.group and target.resource == NAMESPACES.plural:
        namespace = "" if verb in ("list", "watch") else name
    return RequestInfo(
        verb,
        "",
        True,
        target.group,
        target.version,
        target.resource,
        target.subresource,
        namespace,
        name,
        field_selector=field_selector,
    )


def _list_query(request: resources_pb2.ListRequest) -> Query:
    """Return what tells how much work a list is, as REST would say it."""
    return {
        "limit": (str(request.limit),),
        "continue": (getattr(request, "continue"),),
        "resourceVersion": (request.resource_version,),
        "resourceVersionMatch": (request.resource_version_match,),
        "labelSelector": (request.label_selector,),
        "fieldSelector": (request.field_selector,),
    }


def _watch_query(request: resources_pb2.WatchRequest) -> Query:
    initial = ("true",) if request.send_initial_events else ()
    return {"sendInitialEvents": initial, "resourceVersion": (request.resource_version,)}


class Resources:
    """The service's methods."""

    def __init__(self, service: Service, exchanges: Exchanges) -> None:
        self._service = service
        self._exchanges = exchanges

    async def _enter(
        self, call: ServicerContext, info: RequestInfo, request: Any, query: Query
    ) -> tuple[UserInfo, Passage | None]:
        """Find out who asks and wait until the request may be served."""
        credentials = _credentials(call)
        self._exchanges.begin(info, credentials, request)
        user = await self._service.authenticate(credentials)
        gate = self._service.gate
        if gate is None:
            return user, None
        passage = gate.enter(user, info, query)
        call.add_done_callback(lambda _: passage.leave())  # type: ignore[arg-type]
        call.set_trailing_metadata(tuple((name.decode(), value.decode()) for name, value in passage.headers))
        if not passage.admitted:
            await passage.admission()
        return user, passage

    async def _allow(self, user: UserInfo, info: RequestInfo) -> Kind:
        await self._service.authorize(user, info)
        kind = await self._service.kind(info)
        self._service.check_verb(kind, info)
        return kind

    async def judge(
        self, call: ServicerContext, verb: str, request: Any, fields: str = ""
    ) -> tuple[UserInfo, RequestInfo]:
        """Return who asks another server for what; raises ApiError where they may not."""
        info = _info(verb, request.target, fields)
        user, passage = await self._enter(call, info, request, NO_QUERY)
        await self._service.authorize(user, info)
        if passage is not None:
            # What another server does for it costs nothing here.
            passage.initialized()
        return user, info

    async def _admit(
        self, call: ServicerContext, verb: str, request: Any, fields: str = "", query: Query = NO_QUERY
    ) -> tuple[UserInfo, RequestInfo, Kind]:
        info = _info(verb, request.target, fields)
        user, _ = await self._enter(call, info, request, query)
        return user, info, await self._allow(user, info)

    async def get(self, request: resources_pb2.GetRequest, call: ServicerContext) -> resources_pb2.ObjectResponse:
        """Return one object."""
        _, info, kind = await self._admit(call, "get", request)
        found = await self._service.get(kind, info, request.resource_version)
        if not isinstance(found, Entry):
            return resources_pb2.ObjectResponse(object=orjson.dumps(found))
        return resources_pb2.ObjectResponse(object=(await self._data(kind, [found]))[0])

    async def _data(self, kind: Kind, entries: Sequence[Entry]) -> list[bytes]:
        if not self._service.registry.kinds.converts(kind):
            return [entry.data for entry in entries]
        return [orjson.dumps(obj) for obj in await self._service.all_shown(kind, entries)]

    async def list(self, request: resources_pb2.ListRequest, call: ServicerContext) -> resources_pb2.ListResponse:
        """Return one page of objects."""
        asked = _list_query(request)
        _, info, kind = await self._admit(call, "list", request, request.field_selector, asked)
        chosen = self._service.filter(kind, info, request.label_selector, request.field_selector)
        query = ListQuery(
            request.limit, getattr(request, "continue"), request.resource_version, request.resource_version_match
        )
        result = await self._service.page(kind, chosen, query)
        answer = resources_pb2.ListResponse(
            items=await self._data(kind, result.entries),
            resource_version=str(result.revision),
            remaining_item_count=result.remaining or 0,
        )
        setattr(answer, "continue", result.continue_token)
        return answer

    async def create(self, request: resources_pb2.CreateRequest, call: ServicerContext) -> resources_pb2.ObjectResponse:
        """Create an object, or post to a subresource."""
        user, info, kind = await self._admit(call, "create", request)
        context = _context(user, "create", request, call)
        value, duplicates = objects.parse_body(request.object, objects.JSON, request.field_validation or "Warn")
        made = await self._service.handle(kind, info, value, context, {})
        if made is None:
            made = await self._service.create(kind, info, value, duplicates, context)
        return resources_pb2.ObjectResponse(object=orjson.dumps(made), warnings=context.warnings)

    async def update(self, request: resources_pb2.UpdateRequest, call: ServicerContext) -> resources_pb2.ObjectResponse:
        """Replace an object, or a part of it by a subresource."""
        user, info, kind = await self._admit(call, "update", request)
        context = _context(user, "update", request, call)
        value, duplicates = objects.parse_body(request.object, objects.JSON, request.field_validation or "Warn")
        made = await self._service.handle(kind, info, value, context, {})
        if made is None:
            made = await self._service.update(kind, info, value, duplicates, context)
        return resources_pb2.ObjectResponse(object=orjson.dumps(made), warnings=context.warnings)

    async def patch(self, request: resources_pb2.PatchRequest, call: ServicerContext) -> resources_pb2.ObjectResponse:
        """Change an object by a patch."""
        user, info, kind = await self._admit(call, "patch", request)
        context = _context(user, "patch", request, call)
        patch_type, patch = objects.parse_patch(request.patch, request.patch_type)
        if context.options.field_validation != "Ignore":
            context.options.duplicates = objects.patch_duplicates(request.patch, patch_type)
        made, _ = await self._service.patch(kind, info, patch_type, patch, context)
        return resources_pb2.ObjectResponse(object=orjson.dumps(made), warnings=context.warnings)

    async def delete(self, request: resources_pb2.DeleteRequest, call: ServicerContext) -> resources_pb2.ObjectResponse:
        """Delete an object, or all that are meant."""
        verb = "delete" if request.target.name else "deletecollection"
        user, info, kind = await self._admit(call, verb, request, request.field_selector)
        context = Context(user)
        options = _delete_options(request.options)
        if request.target.name:
            made, _ = await self._service.delete(kind, info, options, context)
        else:
            chosen = self._service.filter(kind, info, request.label_selector, request.field_selector)
            await self._service.delete_collection(kind, chosen, ListQuery(), options, context)
            made = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return resources_pb2.ObjectResponse(object=orjson.dumps(made), warnings=context.warnings)

    async def watch(self, request: resources_pb2.WatchRequest, call: ServicerContext) -> AsyncIterator[bytes]:
        """Yield serialized WatchResponses."""
        info = _info("watch", request.target, request.field_selector)
        user, passage = await self._enter(call, info, request, _watch_query(request))
        kind = await self._allow(user, info)
        chosen = self._service.filter(kind, info, request.label_selector, request.field_selector)
        options = WatchOptions(
            request.resource_version,
            "NotOlderThan" if request.send_initial_events else "",
            request.allow_watch_bookmarks,
            True if request.send_initial_events else None,
            self._service.watch_timeout_s(request.timeout_s),
        )
        watch = await self._service.watch(kind, chosen, options)
        if passage is not None:
            watch.initialized = passage.initialized
        converts = self._service.registry.kinds.converts(kind)
        await self._exchanges.started()
        await call.send_initial_metadata(())
        async for batch in watch.batches():
            if converts:
                yield _converted(kind, await self._service.deliveries(kind, batch))
            else:
                yield batch.message


def _converted(kind: Kind, batch: Sequence[Any]) -> bytes:
    events = []
    for delivery in batch:
        obj = orjson.loads(delivery.data)
        if delivery.type not in ("BOOKMARK", "ERROR"):
            obj = convert(obj, kind.resource)
        event_type = resources_pb2.Event.Type.Value(delivery.type)
        events.append(resources_pb2.Event(type=event_type, object=orjson.dumps(obj)))
    return resources_pb2.WatchResponse(events=events).SerializeToString()


def _context(user: UserInfo, verb: str, request: Any, call: ServicerContext) -> Context:
    force = bool(getattr(request, "force", False))
    options = RequestOptions(request.dry_run, request.field_manager, request.field_validation, force, _user_agent(call))
    check_write(verb, options, force=force and objects.media_type(request.patch_type) != APPLY_PATCH)
    return Context(user, options)


def _user_agent(call: ServicerContext) -> str:
    """Return what a client calls itself, to which gRPC adds its own name after a space."""
    agents = (value for name, value in call.invocation_metadata() or () if name == "user-agent")
    return str(next(agents, "")).partition(" ")[0]


def _delete_options(body: bytes) -> Object | None:
    if not body:
        return None
    options, _ = objects.parse_body(body, objects.JSON, "Ignore")
    if not isinstance(options, dict):
        raise status.bad_request("the body is no DeleteOptions object")
    return options


Routes = Mapping[tuple[str, str], Route]


def _routed(method: Any, other: Any, routes: Routes) -> Any:
    """Return a method that leaves to ``other`` what another server answers for."""

    def answer(request: Any, call: ServicerContext) -> Any:
        if routes and (route := routes.get((request.target.group, request.target.version))) is not None:
            return other(route, request, call)
        return method(request, call)

    return answer


def _unary(
    method: Callable[[Any, ServicerContext], Awaitable[Any]], exchanges: Exchanges
) -> Callable[[Any, ServicerContext], Awaitable[Any]]:
    async def answer(request: Any, call: ServicerContext) -> Any:
        exchange = exchanges.open()
        try:
            made = await method(request, call)
            await exchanges.answered(exchange, made)
            return made
        except (status.ApiError, StoreError, TimeoutError, RecursionError) as error:
            told = translate(error)
            await exchanges.failed(exchange, told)
            await _fail(call, told)
        except Exception as error:
            log.exception("hub request failed")
            told = translate(error)
            await exchanges.failed(exchange, told, error)
            await _fail(call, told)
        finally:
            await exchanges.close(exchange)

    return answer


def _stream(
    method: Callable[[Any, ServicerContext], AsyncIterator[bytes]], exchanges: Exchanges
) -> Callable[[Any, ServicerContext], AsyncIterator[bytes]]:
    async def answer(request: Any, call: ServicerContext) -> AsyncIterator[bytes]:
        exchange = exchanges.open()
        try:
            async for message in method(request, call):
                yield message
        except (status.ApiError, StoreError, TimeoutError, RecursionError) as error:
            told = translate(error)
            await exchanges.failed(exchange, told)
            await _fail(call, told)
        except Exception as error:
            log.exception("hub watch failed")
            told = translate(error)
            await exchanges.failed(exchange, told, error)
            await _fail(call, told)
        finally:
            await exchanges.close(exchange)

    return answer


class HubServer:
    """The gRPC server of one API server."""

    def __init__(
        self,
        config: ApiServerConfig,
        service: Service,
        requests: RequestMetrics | None = None,
        auditor: Auditor | None = None,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._config = config
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", config.body_bytes_max + 65536),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_concurrent_streams", STREAMS_MAX),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.so_reuseport", 0),
            ]
        )
        self.port = 0
        exchanges = Exchanges(requests or RequestMetrics(Metrics(), service.registry.kinds), auditor)
        resources = Resources(service, exchanges)
        elsewhere = Elsewhere(forwarding, resources.judge, exchanges) if forwarding is not None else None
        self._server.add_generic_rpc_handlers((_handlers(resources, elsewhere, service.routes, exchanges),))

    async def start(self) -> None:
        """Listen."""
        config = self._config
        host = f"[{config.bind_address}]" if ":" in config.bind_address else config.bind_address
        address = f"{host}:{config.grpc_port}"
        if config.tls_cert_file is None or config.tls_private_key_file is None:
            self.port = self._server.add_insecure_port(address)
        else:
            pair = (config.tls_private_key_file.read_bytes(), config.tls_cert_file.read_bytes())
            authority = config.client_ca_file.read_bytes() if config.client_ca_file else None
            # grpcio knows "required" and "not asked for", and nothing between: bearer tokens alone go to REST.
            credentials = grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)
            self.port = self._server.add_secure_port(address, credentials)
        await self._server.start()

    async def run(self) -> None:
        """Serve until cancelled, then let running calls end."""
        try:
            await self._server.wait_for_termination()
        finally:
            await self._server.stop(self._config.request_timeout_s)


def _handlers(
    resources: Resources, elsewhere: Elsewhere | None, routes: Routes, exchanges: Exchanges
) -> grpc.GenericRpcHandler:
    pb = resources_pb2

    def either(name: str) -> Any:
        own = getattr(resources, name)
        return own if elsewhere is None else _routed(own, getattr(elsewhere, name), routes)

    unary: dict[str, tuple[Any, Any, Any]] = {
        "Get": (either("get"), pb.GetRequest, pb.ObjectResponse),
        "List": (either("list"), pb.ListRequest, pb.ListResponse),
        "Create": (either("create"), pb.CreateRequest, pb.ObjectResponse),
        "Update": (either("update"), pb.UpdateRequest, pb.ObjectResponse),
        "Patch": (either("patch"), pb.PatchRequest, pb.ObjectResponse),
        "Delete": (either("delete"), pb.DeleteRequest, pb.ObjectResponse),
    }
    methods: dict[str, Any] = {
        name: grpc.unary_unary_rpc_method_handler(
            _unary(method, exchanges),
            request_deserializer=asked.FromString,
            response_serializer=answered.SerializeToString,
        )
        for name, (method, asked, answered) in unary.items()
    }
    methods["Watch"] = grpc.unary_stream_rpc_method_handler(
        _stream(either("watch"), exchanges),
        request_deserializer=pb.WatchRequest.FromString,
        response_serializer=None,
    )
    return grpc.method_handlers_generic_handler(SERVICE, methods)
