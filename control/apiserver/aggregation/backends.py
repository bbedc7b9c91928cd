"""The servers that APIServices name: where they are, how they and we believe each other, short questions to them."""

from __future__ import annotations

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, SERVICES
from control.apiserver.aggregation.services import Route
from control.apiserver.request import Lookup
from control.apiserver.streams.proxies import service_endpoints, slices_of
from control.apiserver.streams.target import Address
from control.client.http import ConnectionFailedError, Pool
from control.client.kubeconfig import Kubeconfig, KubeconfigError, Material

ANSWER_BYTES_MAX = 16 << 20
CONTEXTS_MAX = 64
USER_AGENT = "kube-aggregator"
SELF = {"x-remote-user": "system:kube-aggregator", "x-remote-group": "system:masters"}
"""Whom the aggregator's own questions are asked as: nobody's rights may decide what discovery shows."""


class BackendError(Exception):
    """A backend cannot be asked; the text says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a backend answered."""

    status: int
    body: bytes


class Backends:
    """Reaches backends by their Services' endpoints, with the front proxy's certificate."""

    def __init__(self, lookup: Lookup, random: Random, certificate: Path | None, key: Path | None) -> None:
        self._lookup = lookup
        self._random = random
        self._certificate = Material(path=certificate)
        self._key = Material(path=key)
        self._contexts: OrderedDict[tuple[object, ...], ssl.SSLContext] = OrderedDict()

    async def warm(self) -> None:
        """Know Services and their endpoints."""
        await self._lookup.warm(SERVICES)
        await self._lookup.warm(ENDPOINT_SLICES)

    def service(self, route: Route) -> tuple[Object | None, list[Object]]:
        """Return a route's Service and its EndpointSlices."""
        found = self._lookup.get(SERVICES, route.service, route.namespace)
        return found, slices_of(self._lookup, route.service, route.namespace)

    def resolve(self, route: Route) -> Address:
        """Return one address of a route's server; raises BackendError."""
        service, slices = self.service(route)
        if service is None:
            raise BackendError(f'service "{route.service}" not found')
        spec = service.get("spec") or {}
        if spec.get("type") == "ExternalName":
            return Address(str(spec.get("externalName") or ""), route.port)
        endpoints = service_endpoints(service, slices, str(route.port))
        if not endpoints:
            raise BackendError(f'no endpoints available for service "{route.service}"')
        return self._random.choice(endpoints)

    def _config(self, route: Route, address: Address) -> Kubeconfig:
        return Kubeconfig(
            f"https://{address.authority}",
            certificate_authority=Material(data=route.bundle) if route.bundle else Material(),
            client_certificate=self._certificate,
            client_key=self._key,
            insecure_skip_tls_verify=route.insecure,
            tls_server_name=route.server_name,
        )

    def tls(self, route: Route, address: Address) -> ssl.SSLContext:
        """Return the context of connections to a route's server; raises BackendError."""
        config = self._config(route, address)
        key = (route.bundle, route.insecure, config.stamp())
        context = self._contexts.get(key)
        if context is None:
            try:
                made = config.ssl_context()
            except (ssl.SSLError, OSError, ValueError, KubeconfigError) as error:
                raise BackendError(f"caBundle or client certificate is not usable: {error}") from None
            assert made is not None
            context = self._contexts[key] = made
            if len(self._contexts) > CONTEXTS_MAX:
                self._contexts.popitem(last=False)
        self._contexts.move_to_end(key)
        return context

    async def ask(self, route: Route, path: str, timeout_s: float) -> Answer:
        """Get a path of a route's server as the aggregator itself; raises BackendError."""
        headers = {"accept": "application/json", **SELF}
        async with self.opened(route) as pool:
            url = pool.address + path
            try:
                return await _bounded(pool, path, headers, timeout_s)
            except ConnectionFailedError as error:
                raise BackendError(f'failing or missing response from {url}: Get "{url}": {error}') from None
            except TimeoutError:
                raise BackendError(f"timed out waiting for {url}") from None

    @asynccontextmanager
    async def opened(self, route: Route) -> AsyncIterator[Pool]:
        """Give connections to a route's server for the time of one exchange; raises BackendError."""
        address = self.resolve(route)
        try:
            pool = Pool(self._config(route, address), USER_AGENT)
        except (ssl.SSLError, OSError, ValueError, KubeconfigError) as error:
            text = f"caBundle or client certificate is not usable: {error}"
            raise BackendError(f"failing or missing response from https://{address.authority}: {text}") from None
        try:
            yield pool
        finally:
            await pool.close()


async def _bounded(pool: Pool, path: str, headers: dict[str, str], timeout_s: float) -> Answer:
    async with asyncio.timeout(timeout_s), pool.stream("GET", path, headers) as response:
        parts, size = [], 0
        async for part in response.chunks():
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                raise ConnectionFailedError(f"the answer is larger than {ANSWER_BYTES_MAX} bytes")
        return Answer(response.status, b"".join(parts))
