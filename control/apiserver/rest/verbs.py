"""The verbs of resources over HTTP: read the request, ask the service, write the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import orjson

from control.api import status
from control.api.meta import Object
from control.apiserver import objects
from control.apiserver.cache import Batch, Entry, Filter
from control.apiserver.convert import convert
from control.apiserver.kinds import Kind
from control.apiserver.options import check_write, number
from control.apiserver.paging import ListQuery
from control.apiserver.registry import Context
from control.apiserver.request import RequestInfo, RequestOptions, UserInfo, flag
from control.apiserver.rest import table
from control.apiserver.rest.answers import (
    answer_entries,
    answer_entry,
    answer_list,
    answer_object,
    list_bytes,
    list_metadata,
    write,
)
from control.apiserver.rest.events import Events
from control.apiserver.rest.exchange import Exchange, success_status
from control.apiserver.rest.messages import Messages
from control.apiserver.rest.negotiate import PLAIN, PROTOBUF, MediaType, choose, choose_stream
from control.apiserver.service import Service, not_allowed
from control.apiserver.streams.web_socket import accept, wants_web_socket
from control.apiserver.watch import Watch, WatchOptions
from control.client.client import APPLY_PATCH


class Verbs:
    """Answers requests of resources."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._messages = Messages()

    async def serve(self, exchange: Exchange, user: UserInfo, info: RequestInfo, kind: Kind) -> None:
        """Answer one request; raises ApiError before an answer has begun."""
        match info.verb:
            case "get" if self._service.handlers.object_handler(info) is None:
                await self._get(exchange, info, kind)
            case "list":
                await self._list(exchange, info, kind)
            case "watch":
                await self._watch(exchange, info, kind)
            case "create" | "get":
                await self._create(exchange, user, info, kind)
            case "update":
                await self._update(exchange, user, info, kind)
            case "patch":
                await self._patch(exchange, user, info, kind)
            case "delete":
                await self._delete(exchange, user, info, kind)
            case "deletecollection":
                await self._delete_collection(exchange, user, info, kind)
            case _:
                raise not_allowed()

    # Reading.

    async def _get(self, exchange: Exchange, info: RequestInfo, kind: Kind) -> None:
        media = _media(exchange, kind)
        found = await self._service.get(kind, info, exchange.parameter("resourceVersion"))
        if isinstance(found, Entry):
            if media is PLAIN and not self._converts(kind):
                await exchange.answer(200, found.data)
                return
            if self._is_message(media, kind):
                await answer_entry(exchange, 200, found, kind, self._messages)
                return
            found = await self._service.shown(kind, found)
        await answer_object(exchange, 200, found, media, kind)

    def _converts(self, kind: Kind) -> bool:
        return self._service.registry.kinds.converts(kind)

    def _is_message(self, media: MediaType, kind: Kind) -> bool:
        """Tell whether what is stored is what is answered, in protobuf."""
        return media.type == PROTOBUF and not media.transform and not self._converts(kind)

    def _filter(self, exchange: Exchange, info: RequestInfo, kind: Kind) -> Filter:
        labels, fields = exchange.parameter("labelSelector"), exchange.parameter("fieldSelector")
        return self._service.filter(kind, info, labels, fields)

    async def _list(self, exchange: Exchange, info: RequestInfo, kind: Kind) -> None:
        media = _media(exchange, kind)
        if "timeoutSeconds" in exchange.query:
            number(exchange.parameter("timeoutSeconds"))
        query = _list_query(exchange)
        result = await self._service.page(kind, self._filter(exchange, info, kind), query)
        metadata = list_metadata(result)
        if self._is_message(media, kind):
            await answer_entries(exchange, result.entries, metadata, kind, self._messages)
            return
        if media is not PLAIN:
            shown = await self._service.all_shown(kind, result.entries)
            await answer_list(exchange, shown, metadata, media, kind)
            return
        data: Iterable[bytes] = (entry.data for entry in result.entries)
        if self._converts(kind):
            data = [orjson.dumps(obj) for obj in await self._service.all_shown(kind, result.entries)]
        await exchange.answer(200, list_bytes(kind, metadata, data))

    # Watching.

    async def _watch(self, exchange: Exchange, info: RequestInfo, kind: Kind) -> None:
        media = choose_stream(exchange.header("accept"), kind.custom is not None)
        include = table.read_include(exchange.parameter("includeObject"))
        options = WatchOptions(
            exchange.parameter("resourceVersion"),
            exchange.parameter("resourceVersionMatch"),
            flag(exchange.query.get("allowWatchBookmarks", ())),
            _choice(exchange, "sendInitialEvents"),
            self._service.watch_timeout_s(number(exchange.parameter("timeoutSeconds"))),
        )
        watch = await self._service.watch(kind, self._filter(exchange, info, kind), options)
        if exchange.passage is not None:
            watch.initialized = exchange.passage.initialized
        events = Events(kind, media, include, self._converts(kind))
        if wants_web_socket(exchange.headers):
            await self._watch_by_messages(exchange, watch, events, kind)
            return
        await exchange.start(200, events.content_type, None)
        await exchange.part(b"")

        async def send(batch: Batch) -> None:
            await exchange.part(events.stream(batch))

        if await _until_gone(self._pump(send, watch, kind), _gone(exchange)):
            await exchange.part(b"", last=True)

    async def _watch_by_messages(self, exchange: Exchange, watch: Watch, events: Events, kind: Kind) -> None:
        """Tell a watch's events over WebSocket, each as a message."""
        socket = accept(exchange.scope, exchange.headers, exchange.audit_id)
        exchange.started, exchange.code = True, 101

        async def send(batch: Batch) -> None:
            await socket.send(events.messages(batch), binary=events.binary)

        try:
            await _until_gone(self._pump(send, watch, kind), socket.gone())
        except OSError as error:
            raise ConnectionResetError from error
        finally:
            socket.close()

    async def _pump(self, send: Callable[[Batch], Awaitable[None]], watch: Watch, kind: Kind) -> None:
        changes = self._service.registry.conversions.changes(kind)
        async for batch in watch.batches():
            if changes:
                batch = await self._service.deliveries(kind, batch)
            await send(batch)
            if changes and batch and batch[-1].type == "ERROR":
                return

    # Writing.

    async def _body(
        self, exchange: Exchange, validation: str, kind: Kind, is_scale: bool = False
    ) -> tuple[Any, list[str]]:
        body = await exchange.body(self._service.config.body_bytes_max)
        try:
            found = objects.parse_body(body, exchange.header("content-type"), validation)
        except status.ApiError as error:
            raise objects.unrecognized(kind, error, body) from None
        if type(found[0]) is not dict or (kind.custom is not None and not is_scale):
            objects.check_recognized(kind, found[0], body)
        return found

    async def _create(self, exchange: Exchange, user: UserInfo, info: RequestInfo, kind: Kind) -> None:
        media = _media(exchange, kind)
        context = _context(exchange, user, "create")
        value: Any = None
        duplicates: list[str] = []
        if info.verb == "create":
            value, duplicates = await self._body(exchange, context.options.field_validation or "Warn", kind)
        made = await self._service.handle(kind, info, value, context, exchange.query)
        if made is not None:
            default = 201 if info.verb == "create" else 200
            code = success_status(made) if made.get("kind") == "Status" else default
            await write(exchange, code, made, media)
            return
        if info.name:
            raise not_allowed()
        obj = convert(await self._service.create(kind, info, value, duplicates, context), kind.resource)
        await self._answer_written(exchange, 201, obj, media, kind, context)

    async def _update(self, exchange: Exchange, user: UserInfo, info: RequestInfo, kind: Kind) -> None:
        media = _media(exchange, kind)
        context = _context(exchange, user, "update")
        value, duplicates = await self._body(
            exchange, context.options.field_validation or "Warn", kind, info.subresource == "scale"
        )
        made = await self._service.handle(kind, info, value, context, exchange.query)
        if made is None:
            made = await self._service.update(kind, info, value, duplicates, context)
        await self._answer_written(exchange, 201 if context.created else 200, made, media, kind, context)

    async def _patch(self, exchange: Exchange, user: UserInfo, info: RequestInfo, kind: Kind) -> None:
        media = _media(exchange, kind)
        objects.check_patch_type(exchange.header("content-type"))
        context = _context(exchange, user, "patch")
        body = await exchange.body(self._service.config.body_bytes_max)
        patch_type, patch = objects.parse_patch(body, exchange.header("content-type"))
        if context.options.field_validation != "Ignore":
            context.options.duplicates = objects.patch_duplicates(body, patch_type)
        obj, created = await self._service.patch(kind, info, patch_type, patch, context)
        await self._answer_written(exchange, 201 if created else 200, obj, media, kind, context)

    async def _answer_written(
        self, exchange: Exchange, code: int, obj: Object, media: MediaType, kind: Kind, context: Context
    ) -> None:
        """Answer with an object that was stored, in the bytes that reads of it are answered with, where these serve."""
        entry = context.written
        if entry is None or media is not PLAIN or obj.get("kind") != kind.resource.kind:
            await answer_object(exchange, code, obj, media, kind)
        else:
            await exchange.answer(code, entry.data if not self._converts(kind) else orjson.dumps(obj))

    async def _options_body(self, exchange: Exchange) -> Object:
        """Return the DeleteOptions of the body; the query counts where there is none, as in Kubernetes."""
        options: Object = {}
        body = await exchange.body(self._service.config.body_bytes_max)
        if body:
            value, _ = objects.parse_body(body, exchange.header("content-type"), "Ignore")
            if not isinstance(value, dict):
                raise status.bad_request("the body is no DeleteOptions object")
            return value
        if exchange.parameter("gracePeriodSeconds"):
            options.setdefault("gracePeriodSeconds", number(exchange.parameter("gracePeriodSeconds")))
        if propagation := exchange.parameter("propagationPolicy"):
            options.setdefault("propagationPolicy", propagation)
        if orphan := exchange.query.get("orphanDependents"):
            options.setdefault("orphanDependents", flag(orphan))
        if dry_run := exchange.query.get("dryRun"):
            options.setdefault("dryRun", list(dry_run))
        return options

    async def _delete(self, exchange: Exchange, user: UserInfo, info: RequestInfo, kind: Kind) -> None:
        media = _media(exchange, kind)
        options = await self._options_body(exchange)
        obj, gone = await self._service.delete(kind, info, options, _context(exchange, user, "delete"))
        if obj.get("kind") != "Status":
            obj = await self._service.registry.conversions.one(obj, kind)
        accepted = not gone and options.get("orphanDependents") is False
        await answer_object(exchange, 202 if accepted else 200, obj, media, kind)

    async def _delete_collection(self, exchange: Exchange, user: UserInfo, info: RequestInfo, kind: Kind) -> None:
        media = _media(exchange, kind)
        options = await self._options_body(exchange)
        chosen = self._filter(exchange, info, kind)
        context, query = _context(exchange, user, "deletecollection"), _list_query(exchange)
        found, listed = await self._service.delete_collection(kind, chosen, query, options, context)
        shown = await self._service.registry.conversions.many(found, kind)
        await answer_list(exchange, shown, list_metadata(listed), media, kind)


async def _until_gone(pumping: Coroutine[Any, Any, None], going: Coroutine[Any, Any, None]) -> bool:
    """Send until there is no more to say, or the client has gone; tell whether it was still there."""
    pump, gone = asyncio.ensure_future(pumping), asyncio.ensure_future(going)
    try:
        await asyncio.wait([pump, gone], return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not pump.done():
            pump.cancel()
    if not pump.done():
        return False
    pump.result()
    return True


async def _gone(exchange: Exchange) -> None:
    """Return once the client has hung up."""
    while (await exchange.receive())["type"] != "http.disconnect":
        pass


def _media(exchange: Exchange, kind: Kind) -> MediaType:
    """Return the representation to answer with; raises NotAcceptable."""
    media = choose(exchange.header("accept"), kind.custom is not None)
    if media.pretty:
        exchange.wants_layout = True
    return media


def _choice(exchange: Exchange, name: str) -> bool | None:
    values = exchange.query.get(name)
    return None if values is None else flag(values)


def _list_query(exchange: Exchange) -> ListQuery:
    return ListQuery(
        number(exchange.parameter("limit")),
        exchange.parameter("continue"),
        exchange.parameter("resourceVersion"),
        exchange.parameter("resourceVersionMatch"),
        _choice(exchange, "sendInitialEvents"),
    )


def _context(exchange: Exchange, user: UserInfo, verb: str) -> Context:
    if not exchange.query:
        return Context(user, RequestOptions(user_agent=exchange.header("user-agent")), exchange.warnings)
    dry_run, force = exchange.query.get("dryRun", ()), exchange.query.get("force")
    options = RequestOptions(
        "All" in dry_run,
        exchange.parameter("fieldManager"),
        exchange.parameter("fieldValidation"),
        force is not None and flag(force),
        exchange.header("user-agent"),
    )
    is_apply = objects.media_type(exchange.header("content-type")) == APPLY_PATCH
    check_write(verb, options, dry_run, force=verb == "patch" and force is not None and not is_apply)
    return Context(user, options, exchange.warnings)
