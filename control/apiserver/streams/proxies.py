"""nodes/proxy, pods/proxy and services/proxy: plain HTTP through the API server."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from functools import cached_property
from random import Random
from typing import Any
from urllib.parse import quote

from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NODES, PODS, SERVICES
from control.api.status import bad_request, not_found, service_unavailable
from control.apiserver.request import Handlers, Lookup, StreamRequest
from control.apiserver.streams.kubelets import Kubelets
from control.apiserver.streams.relay import Backend, is_upgrade, relay_http, relay_upgrade
from control.apiserver.streams.target import Address
from control.client.client import Client


def split_scheme_name_port(text: str) -> tuple[str, str, str]:
    """(scheme, name, port) of upstream's form: name, name:port or scheme:name:port."""
    parts = text.split(":")
    if len(parts) == 1:
        return "", parts[0], ""
    if len(parts) == 2:
        return "", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("", "http", "https"):
        return parts[0], parts[1], parts[2]
    raise bad_request(f'invalid proxy request "{text}"')


def proxied_path(request: StreamRequest) -> str:
    """What is asked of the backend: the path behind `proxy`, with the query."""
    path = "/" + "/".join(quote(part, safe="") for part in request.info.rest)
    if request.info.rest and request.info.path.endswith("/"):
        path += "/"
    query = request.scope.get("query_string", b"").decode("latin-1")
    return f"{path}?{query}" if query else path


def pod_port(pod: Object, wanted: str) -> int:
    """The port that a pod proxy means: the named one, or the pod's first."""
    if wanted:
        return _number(wanted, "pod")
    for container in (pod.get("spec") or {}).get("containers") or ():
        for port in container.get("ports") or ():
            return int(port["containerPort"])
    return 80


def slices_of(lookup: Lookup, name: str, namespace: str) -> list[Object]:
    """The EndpointSlices of a Service, as the cache has them."""
    return [
        entry
        for entry in lookup.list(ENDPOINT_SLICES, namespace)
        if (entry["metadata"].get("labels") or {}).get("kubernetes.io/service-name") == name
    ]


def service_endpoints(service: Object, slices: Iterable[Mapping[str, Any]], wanted: str) -> list[Address]:
    """The ready endpoints of a Service's port, which is named by name or number; one port needs no naming."""
    ports = (service.get("spec") or {}).get("ports") or []
    if not wanted and len(ports) == 1:
        chosen = ports[0]
    else:
        chosen = next((p for p in ports if wanted and wanted in (p.get("name"), str(p.get("port")))), None)
    if chosen is None:
        return []
    found: list[Address] = []
    for entry in slices:
        numbers = [p["port"] for p in entry.get("ports") or () if (p.get("name") or "") == (chosen.get("name") or "")]
        for endpoint in entry.get("endpoints") or ():
            if (endpoint.get("conditions") or {}).get("ready") is not False:
                found.extend(Address(ip, number) for number in numbers for ip in endpoint.get("addresses") or ())
    return found


class Proxies:
    """Serves the proxy subresources."""

    def __init__(self, client: Client, lookup: Lookup, kubelets: Kubelets, random: Random) -> None:
        self._client = client
        self._lookup = lookup
        self._kubelets = kubelets
        self._random = random

    def register(self, handlers: Handlers) -> None:
        """Plug into the API server."""
        handlers.add_stream(NODES, "proxy", self.node)
        handlers.add_stream(PODS, "proxy", self.pod)
        handlers.add_stream(SERVICES, "proxy", self.service)

    @cached_property
    def _unverified(self) -> ssl.SSLContext:
        """Pods and services have no certificates that the cluster could verify; upstream does not either."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context

    async def node(self, request: StreamRequest) -> None:
        """Ask a node's kubelet."""
        scheme, name, port = split_scheme_name_port(request.info.name)
        backend = await self._kubelets.backend(name, proxied_path(request))
        if port and port != str(backend.address.port):
            tls = self._unverified if scheme == "https" else None
            backend = Backend(Address(backend.address.host, _number(port, "node")), backend.path, tls)
        await _relay(request, backend)

    async def pod(self, request: StreamRequest) -> None:
        """Ask a pod."""
        scheme, name, port = split_scheme_name_port(request.info.name)
        pod = await self._client.get(PODS, name, request.info.namespace)
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise bad_request("address not allowed")
        tls = self._unverified if scheme == "https" else None
        await _relay(request, Backend(Address(address, pod_port(pod, port)), proxied_path(request), tls))

    async def service(self, request: StreamRequest) -> None:
        """Ask one endpoint of a service."""
        scheme, name, port = split_scheme_name_port(request.info.name)
        namespace = request.info.namespace
        service = await self._client.get(SERVICES, name, namespace)
        await self._lookup.warm(ENDPOINT_SLICES)
        slices = slices_of(self._lookup, name, namespace)
        if not slices:
            raise not_found("endpoints", name)
        endpoints = service_endpoints(service, slices, port)
        if not endpoints:
            raise service_unavailable(f'no endpoints available for service "{request.info.name}"')
        tls = self._unverified if scheme == "https" else None
        await _relay(request, Backend(self._random.choice(endpoints), proxied_path(request), tls))


async def _relay(request: StreamRequest, backend: Backend) -> None:
    if is_upgrade(request):
        await relay_upgrade(request, backend)
    else:
        await relay_http(request, backend)


def _number(text: str, kind: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise bad_request(f"invalid {kind} port: {text}")
    return int(text)
