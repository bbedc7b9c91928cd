"""OpenAPI v3: the index with a hash per group version, and the documents; and what clients ask of v2."""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, NamedTuple

import orjson

from control.api import openapi, openapi_v2, swagger, swagger_others
from control.api.custom.openapi import document
from control.api.custom.version import CustomVersion
from control.apiserver.aggregation.documents import Foreign
from control.apiserver.kinds import Kinds
from control.apiserver.rest.exchange import JSON_TYPE, Exchange
from control.apiserver.service import unknown_path

log = logging.getLogger(__name__)

OTHERS_KEPT_S = 60.0
"""Other servers' v2 documents are asked for anew after this, by the first who wants to read them."""
_NO_DOCUMENT = (ValueError, TypeError, AttributeError, KeyError, struct.error, RecursionError)


class _Made(NamedTuple):
    body: bytes
    mark: str
    served: frozenset[str]
    source: str
    """The hash of what other servers told."""
    until: float


async def _none() -> Sequence[Foreign]:
    return ()


class OpenAPI:
    """Documents of all group versions, made on first request."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self.others: Callable[[], Mapping[str, Any]] = dict
        """The index's entries for documents of other servers."""
        self._generation = 0
        self._built_in = {openapi.relative_path(*pair): pair for pair in openapi.group_versions()}
        self._custom: dict[str, bytes] = {}
        """The documents of groups of custom resources, by path."""
        self.others_served: Callable[[], frozenset[str]] = frozenset
        """What of other servers belongs into the v2 document, by name."""
        self.others_v2: Callable[[], Awaitable[Sequence[Foreign]]] = _none
        """Asks other servers for their v2 documents."""
        self._v2: dict[bool, _Made] = {}
        """The v2 document in protobuf and in JSON."""

    def _renew(self) -> None:
        if self._generation == self._kinds.generation:
            return
        self._generation = self._kinds.generation
        self._v2 = {}
        versions: dict[str, list[CustomVersion]] = {}
        for kind in self._kinds.all:
            if kind.custom is not None:
                path = openapi.relative_path(kind.resource.group, kind.resource.version)
                versions.setdefault(path, []).append(kind.custom)
        self._custom = {path: orjson.dumps(document(found)) for path, found in versions.items()}

    async def serve(self, exchange: Exchange, rest: str) -> None:
        """Answer /openapi/v3 and what is below."""
        self._renew()
        if not rest:
            await self._index(exchange)
            return
        if (custom := self._custom.get(rest)) is not None:
            body, mark = custom, openapi.hash_of(custom)
        elif (found := self._built_in.get(rest)) is not None:
            body, mark = openapi.document_bytes(*found), openapi.document_hash(*found)
        else:
            raise unknown_path()
        extra: tuple[tuple[bytes, bytes], ...] = ((b"etag", f'"{mark}"'.encode()), (b"vary", b"Accept"))
        if asked := exchange.parameter("hash"):
            if asked != mark:
                # The document has changed since the client read the index.
                location = openapi.address(rest, mark)["serverRelativeURL"].encode()
                await exchange.answer(301, b"", JSON_TYPE, ((b"location", location),))
                return
            # What stands under its own hash never changes.
            expires = format_datetime(datetime.now(UTC) + timedelta(days=365), usegmt=True)
            extra = (*extra, (b"expires", expires.encode()))
            exchange.cache_control = b"public, immutable"
        if exchange.header("if-none-match").strip('"') == mark:
            await exchange.answer(304, b"", JSON_TYPE, extra)
            return
        await exchange.answer(200, body, JSON_TYPE, extra)

    async def _index(self, exchange: Exchange) -> None:
        for group, version in self._built_in.values():
            # Each document takes milliseconds to make, and others wait for answers meanwhile.
            openapi.document_hash(group, version)
            await asyncio.sleep(0)
        made = openapi.index(list(self._built_in.values()))
        for path, body in self._custom.items():
            made["paths"][path] = openapi.address(path, openapi.hash_of(body))
        made["paths"].update(self.others())
        await exchange.answer(200, orjson.dumps(made))

    async def serve_v2(self, exchange: Exchange) -> None:
        """Answer /openapi/v2: JSON, or protobuf where a client asks for that before anything else."""
        self._renew()
        protobuf = "protobuf" in exchange.header("accept").partition(",")[0]
        body, mark = await self._whole_v2(protobuf)
        content_type = openapi_v2.PROTOBUF_TYPE.encode() if protobuf else JSON_TYPE
        extra = ((b"etag", f'"{mark}"'.encode()), (b"vary", b"Accept"))
        if exchange.header("if-none-match").strip('"') == mark:
            await exchange.answer(304, b"", content_type, extra)
            return
        await exchange.answer(200, body, content_type, extra)

    async def _whole_v2(self, protobuf: bool) -> tuple[bytes, str]:
        """Return the v2 document and its hash, made anew where it may have changed."""
        served, kept, now = self.others_served(), self._v2.get(protobuf), time.monotonic()
        if kept is not None and kept.served == served and (not served or now < kept.until):
            return kept.body, kept.mark
        foreign = await self.others_v2() if served else ()
        source = openapi.hash_of(b"".join(each.body for each in foreign))
        if kept is not None and kept.source == source and kept.served == served:
            self._v2[protobuf] = kept._replace(until=now + OTHERS_KEPT_S)
            return kept.body, kept.mark
        generation = self._generation
        body = await self._make_v2(protobuf, foreign)
        made = _Made(body, openapi.hash_of(body), served, source, now + OTHERS_KEPT_S)
        if generation == self._generation:
            self._v2[protobuf] = made
        return made.body, made.mark

    async def _make_v2(self, protobuf: bool, foreign: Sequence[Foreign]) -> bytes:
        encode, join = openapi_v2.PROTOBUF if protobuf else openapi_v2.JSON
        parts, known = [], {}
        for part in swagger.parts(self._documents()):
            # Each takes milliseconds, and others wait for answers meanwhile.
            parts.append(encode(part))
            if foreign:
                known.update(part[1])
            await asyncio.sleep(0)
        for each in foreign:
            try:
                part = swagger_others.part_of(orjson.loads(each.body), each.prefixes, known)
                parts.append(encode(part))
            except _NO_DOCUMENT as error:
                log.warning("another server's OpenAPI v2 is left out paths=%s error=%r", each.prefixes, error)
                continue
            known.update(part[1])
            await asyncio.sleep(0)
        return join(parts)

    def _documents(self) -> Iterator[dict[str, Any]]:
        """Return the v3 documents of all group versions, each made when it is its turn."""
        for group, version in self._built_in.values():
            yield openapi.document(group, version)
        for body in list(self._custom.values()):
            yield orjson.loads(body)
