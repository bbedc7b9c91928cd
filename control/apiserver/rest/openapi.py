"""OpenAPI v3: the index with a hash per group version, and the documents; and what clients ask of v2."""

from __future__ import annotations

import asyncio

import orjson

from control.api import openapi, openapi_v2
from control.api.custom.openapi import document
from control.api.custom.version import CustomVersion
from control.apiserver.kinds import Kinds
from control.apiserver.rest.exchange import JSON_TYPE, Exchange
from control.apiserver.service import unknown_path


class OpenAPI:
    """Documents of all group versions, made on first request."""

    def __init__(self, kinds: Kinds) -> None:
        self._kinds = kinds
        self._generation = 0
        self._built_in = {openapi.relative_path(*pair): pair for pair in openapi.group_versions()}
        self._custom: dict[str, bytes] = {}
        """The documents of groups of custom resources, by path."""

    def _renew(self) -> None:
        if self._generation == self._kinds.generation:
            return
        self._generation = self._kinds.generation
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
        etag = (b"etag", f'"{mark}"'.encode())
        if exchange.header("if-none-match").encode() == etag[1]:
            await exchange.answer(304, b"", JSON_TYPE, (etag,))
            return
        await exchange.answer(200, body, JSON_TYPE, (etag,))

    async def _index(self, exchange: Exchange) -> None:
        for group, version in self._built_in.values():
            # Each document takes milliseconds to make, and others wait for answers meanwhile.
            openapi.document_hash(group, version)
            await asyncio.sleep(0)
        made = openapi.index(list(self._built_in.values()))
        for path, body in self._custom.items():
            made["paths"][path] = openapi.address(path, openapi.hash_of(body))
        await exchange.answer(200, orjson.dumps(made))

    async def serve_v2(self, exchange: Exchange) -> None:
        """Answer /openapi/v2."""
        await exchange.answer(200, openapi_v2.document_bytes(), openapi_v2.CONTENT_TYPE.encode())
