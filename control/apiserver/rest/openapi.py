"""OpenAPI v3: the index with a hash per group version, and the documents; and what clients ask of v2."""

from __future__ import annotations

import asyncio

import orjson

from control.api import openapi, openapi_v2
from control.apiserver.kinds import Kinds
from control.apiserver.rest.exchange import JSON_TYPE, Exchange
from control.apiserver.service import unknown_path


class OpenAPI:
    """Documents of all group versions, made on first request."""

    def __init__(self, kinds: Kinds) -> None:
        self._versions = kinds.group_versions()
        self._paths = {openapi.relative_path(group, version): (group, version) for group, version in self._versions}

    async def serve(self, exchange: Exchange, rest: str) -> None:
        """Answer /openapi/v3 and what is below."""
        if not rest:
            await self._index(exchange)
            return
        found = self._paths.get(rest)
        if found is None:
            raise unknown_path()
        etag = (b"etag", f'"{openapi.document_hash(*found)}"'.encode())
        if exchange.header("if-none-match").encode() == etag[1]:
            await exchange.answer(304, b"", JSON_TYPE, (etag,))
            return
        await exchange.answer(200, openapi.document_bytes(*found), JSON_TYPE, (etag,))

    async def _index(self, exchange: Exchange) -> None:
        for group, version in self._versions:
            # Each document takes milliseconds to make, and others wait for answers meanwhile.
            openapi.document_hash(group, version)
            await asyncio.sleep(0)
        await exchange.answer(200, orjson.dumps(openapi.index(self._versions)))

    async def serve_v2(self, exchange: Exchange) -> None:
        """Answer /openapi/v2."""
        await exchange.answer(200, openapi_v2.document_bytes(), openapi_v2.CONTENT_TYPE.encode())
