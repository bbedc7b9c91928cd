"""Ask a webhook over HTTPS: by its URL, or by its Service, whose endpoints are asked without any proxy's help."""

from __future__ import annotations

import base64
import binascii
import ssl
from collections import OrderedDict
from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import urlsplit

from control.api.resources import ENDPOINT_SLICES, SERVICES
from control.apiserver.request import Lookup
from control.apiserver.streams.proxies import service_endpoints, slices_of
from control.client.http import ConnectionFailedError, Pool
from control.client.kubeconfig import Kubeconfig, KubeconfigError, Material

POOLS_MAX = 64
ANSWER_BYTES_MAX = 8 << 20


class CallError(Exception):
    """A webhook did not answer; the text says why."""


class Caller:
    """Keeps connections to the webhooks that were asked last."""

    def __init__(self, lookup: Lookup, random: Random) -> None:
        self._lookup = lookup
        self._random = random
        self._pools: OrderedDict[tuple[str, str, str], Pool] = OrderedDict()

    async def ask(self, client: Mapping[str, Any], body: bytes, timeout_s: float) -> bytes:
        """Post a body to the webhook of a clientConfig and return the answer's; raises CallError."""
        if client.get("service"):
            await self._lookup.warm(SERVICES)
            await self._lookup.warm(ENDPOINT_SLICES)
        server, name, path = self._where(client)
        pool = await self._pool(server, name, str(client.get("caBundle") or ""))
        headers = {"content-type": "application/json", "accept": "application/json"}
        mark = "&" if "?" in path else "?"
        try:
            answer = await pool.request("POST", f"{path}{mark}timeout={timeout_s:g}s", headers, body, timeout_s)
        except ConnectionFailedError as error:
            raise CallError(f'Post "{server}{path}{mark}timeout={timeout_s:g}s": {error}') from None
        if answer.status != 200:
            raise CallError(f"the server answered {answer.status}")
        if len(answer.body) > ANSWER_BYTES_MAX:
            raise CallError("the answer is too large")
        return answer.body

    def _where(self, client: Mapping[str, Any]) -> tuple[str, str, str]:
        """Return the server's address, the name that its certificate must have, and the path."""
        if url := client.get("url"):
            parts = urlsplit(url)
            path = parts.path or "/"
            return f"{parts.scheme}://{parts.netloc}", parts.hostname or "", f"{path}?{parts.query}".rstrip("?")
        service = client.get("service") or {}
        name, namespace = service.get("name") or "", service.get("namespace") or ""
        found = self._lookup.get(SERVICES, name, namespace)
        if found is None:
            raise CallError(f'service "{name}" not found')
        port = str(service.get("port") or 443)
        endpoints = service_endpoints(found, slices_of(self._lookup, name, namespace), port)
        if not endpoints:
            raise CallError(f'no endpoints available for service "{name}"')
        chosen = self._random.choice(endpoints)
        host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
        return f"https://{host}:{chosen.port}", f"{name}.{namespace}.svc", service.get("path") or "/"

    async def _pool(self, server: str, name: str, bundle: str) -> Pool:
        key = (server, name, bundle)
        pool = self._pools.get(key)
        if pool is None:
            try:
                authority = Material(data=base64.b64decode(bundle, validate=True)) if bundle else Material()
                pool = Pool(
                    Kubeconfig(server, certificate_authority=authority, tls_server_name=name),
                    "kube-apiserver-admission",
                )
            except (binascii.Error, ssl.SSLError, ValueError, KubeconfigError) as error:
                raise CallError(f"caBundle is not usable: {error}") from None
            self._pools[key] = pool
            if len(self._pools) > POOLS_MAX:
                _, oldest = self._pools.popitem(last=False)
                await oldest.close()
        self._pools.move_to_end(key)
        return pool
