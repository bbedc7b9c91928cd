"""OpenAPI v3: the index with a hash per group version, and the documents."""

from __future__ import annotations

from hashlib import sha256

import orjson

from control.apiserver.kinds import Kinds
from control.apiserver.rest.exchange import Exchange
from control.apiserver.service import unknown_path


class OpenAPI:
    """Documents of all group versions, made on first request."""

    def __init__(self, kinds: Kinds) -> None:
        self._paths = {_path(group, version): (group, version) for group, version in kinds.group_versions()}
        self._index = b""

    async def serve(self, exchange: Exchange, rest: str) -> None:
        """Answer /openapi/v3 and what is below."""
        if not rest:
            await exchange.answer(200, self._made_index())
            return
        found = self._paths.get(rest)
        if found is None:
            raise unknown_path()
        await exchange.answer(200, self._document(*found))

    def _made_index(self) -> bytes:
        if not self._index:
            paths = {}
            for path, (group, version) in self._paths.items():
                digest = sha256(self._document(group, version)).hexdigest().upper()
                paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
            self._index = orjson.dumps({"paths": paths})
        return self._index

    @staticmethod
    def _document(group: str, version: str) -> bytes:
        return orjson.dumps({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": version}, "paths": {}})


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"
