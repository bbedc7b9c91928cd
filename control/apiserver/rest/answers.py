"""Objects and lists on their way out, in the representation that a client accepts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import orjson

from control.api.meta import Object
from control.api.protobuf_encoding import CONTENT_TYPE as PROTOBUF
from control.api.protobuf_encoding import definition_of, encode_list, encode_message, message
from control.apiserver.cache import Entry
from control.apiserver.kinds import Kind
from control.apiserver.reads import ListResult
from control.apiserver.rest import table
from control.apiserver.rest.encodings import encoded
from control.apiserver.rest.exchange import Exchange
from control.apiserver.rest.messages import Messages
from control.apiserver.rest.negotiate import JSON, MediaType, refuse_transform

ENCODED_AT_ONCE = 50
"""Objects of a list that are encoded between two turns of others."""


async def answer_object(exchange: Exchange, code: int, obj: Object, media: MediaType, kind: Kind) -> None:
    """Answer with one object; a Status is never transformed."""
    if obj.get("kind") != "Status" or obj.get("apiVersion") != "v1":
        if media.transform == "Table":
            include = table.read_include(exchange.parameter("includeObject"))
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            scaled = "scale" if obj.get("kind") == "Scale" else ""
            obj = table.table(kind, [obj], metadata, include, media.version, subresource=scaled)
        elif media.transform:
            if media.transform == "PartialObjectMetadataList":
                raise refuse_transform(media.transform, "not a list", _go_type(kind))
            obj = table.partial(obj, media.version)
    await write(exchange, code, obj, media)


async def answer_list(exchange: Exchange, shown: list[Object], metadata: Object, media: MediaType, kind: Kind) -> None:
    """Answer with a list of objects."""
    if media.transform == "Table":
        include = table.read_include(exchange.parameter("includeObject"))
        body: Object = table.table(kind, shown, metadata, include, media.version)
    elif media.transform:
        if media.transform == "PartialObjectMetadata":
            raise refuse_transform(media.transform, "a list", f"{_go_type(kind)}List")
        body = {
            "kind": "PartialObjectMetadataList",
            "apiVersion": f"meta.k8s.io/{media.version}",
            "metadata": metadata,
            "items": [table.partial(obj, media.version) for obj in shown],
        }
    elif media.type == PROTOBUF:
        await _answer_messages(exchange, shown, metadata, kind)
        return
    else:
        body = {**list_head(kind), "metadata": _continued(kind, metadata), "items": shown}
    await write(exchange, 200, body, media)


async def answer_entries(
    exchange: Exchange, entries: Sequence[Entry], metadata: Object, kind: Kind, messages: Messages
) -> None:
    """Answer with a list of stored objects in protobuf."""
    head = list_head(kind)
    items: list[bytes] = []
    made = 0
    for entry in entries:
        if not messages.has(entry):
            made += 1
            if made % ENCODED_AT_ONCE == 0:
                await asyncio.sleep(0)
        items.append(messages.of(kind, entry))
    await exchange.answer(200, encode_list(head["apiVersion"], head["kind"], metadata, items), PROTOBUF.encode())


async def answer_entry(exchange: Exchange, code: int, entry: Entry, kind: Kind, messages: Messages) -> None:
    """Answer with one stored object in protobuf."""
    resource = kind.resource
    body = encode_message(resource.api_version, resource.kind, messages.of(kind, entry))
    await exchange.answer(code, body, PROTOBUF.encode())


async def _answer_messages(exchange: Exchange, shown: list[Object], metadata: Object, kind: Kind) -> None:
    head = list_head(kind)
    name = definition_of(kind.resource.api_version, kind.resource.kind)
    items: list[bytes] = []
    for start in range(0, len(shown), ENCODED_AT_ONCE):
        items += [message(obj, name) for obj in shown[start : start + ENCODED_AT_ONCE]]
        await asyncio.sleep(0)
    await exchange.answer(200, encode_list(head["apiVersion"], head["kind"], metadata, items), PROTOBUF.encode())


async def write(exchange: Exchange, code: int, body: Object, media: MediaType) -> None:
    """Answer with what is shown already."""
    if media.type == JSON:
        await exchange.answer(code, orjson.dumps(body))
        return
    await exchange.answer(code, encoded(body, media.type), media.type.encode())


def _go_type(kind: Kind) -> str:
    """Return the name that kube-apiserver's sources have for a kind, which its refusals show."""
    if kind.custom is not None:
        return "*unstructured.Unstructured"
    return f"*{kind.served.definition.split('.', 1)[0]}.{kind.resource.kind}"


def list_metadata(result: ListResult) -> Object:
    """Return a list's metadata."""
    metadata: Object = {"resourceVersion": str(result.revision)}
    if result.continue_token:
        metadata["continue"] = result.continue_token
    if result.remaining is not None:
        metadata["remainingItemCount"] = result.remaining
    return metadata


def _continued(kind: Kind, metadata: Object) -> Object:
    """Return a list's metadata as the original writes it: lists of custom resources always tell how they go on."""
    return metadata if kind.custom is None else {"continue": "", **metadata}


def list_head(kind: Kind) -> Object:
    """Return kind and apiVersion of a list."""
    return {"kind": f"{kind.resource.kind}List", "apiVersion": kind.resource.api_version}


def list_bytes(kind: Kind, metadata: Object, items: Iterable[bytes]) -> bytes:
    """Return a list's JSON around its items' own."""
    head = orjson.dumps({**list_head(kind), "metadata": _continued(kind, metadata)})
    return head[:-1] + b',"items":[' + b",".join(items) + b"]}"
