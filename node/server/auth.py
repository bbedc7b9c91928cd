"""Who may ask a kubelet what: names from client certificates, rights from the API server."""

from __future__ import annotations

import ssl
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import Client
from node.server.connection import Request, RequestError

SUBJECT_ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
TRUSTED_GROUPS = frozenset({"system:masters", "raftsman:kubelet-api-admin"})
TRUSTED_USERS = frozenset({"kube-apiserver-kubelet-client"})
OPEN_PATHS = frozenset({"/healthz"})
ALLOWED_FOR_S, DENIED_FOR_S = 300.0, 30.0
REMEMBERED_MAX = 1000


def server_context(certificate: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Return the TLS of port 10250; a client's certificate is asked for and must be the cluster's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    if client_ca is not None:
        context.load_verify_locations(cafile=str(client_ca))
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def identity(peer: dict[str, Any] | None) -> tuple[str, tuple[str, ...]]:
    """Return user and groups of a verified certificate; empty for none."""
    user, groups = "", []
    for attributes in (peer or {}).get("subject", ()):
        for name, value in attributes:
            if name == "commonName":
                user = str(value)
            elif name == "organizationName":
                groups.append(str(value))
    return user, tuple(groups)


def attributes(request: Request, node_name: str) -> tuple[str, str]:
    """Return verb and subresource of nodes that a request needs, as the API server names them."""
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get")
    del node_name
    first = request.parts[0] if request.parts else ""
    subresource = {"stats": "stats", "metrics": "metrics", "logs": "log", "spec": "spec", "healthz": "healthz"}
    return verb, subresource.get(first, "pods" if first in ("pods", "runningpods") else "proxy")


class Authorizer:
    """Asks the API server about callers that it does not know by heart, and remembers the answers for a while."""

    def __init__(self, client: Client, node_name: str, mode: str) -> None:
        self._client = client
        self._node_name = node_name
        self._mode = mode
        self._known: OrderedDict[tuple[str, tuple[str, ...], str, str], tuple[float, bool]] = OrderedDict()

    async def check(self, request: Request) -> None:
        """Return where the caller may; raises RequestError."""
        if request.path in OPEN_PATHS or self._mode == "AlwaysAllow":
            return
        if not request.user:
            raise RequestError(401, "Unauthorized")
        if request.user in TRUSTED_USERS or TRUSTED_GROUPS.intersection(request.groups):
            return
        verb, subresource = attributes(request, self._node_name)
        if not await self._allowed(request, verb, subresource):
            text = f"Forbidden (user={request.user}, verb={verb}, resource=nodes, subresource={subresource})"
            raise RequestError(403, text)

    async def _allowed(self, request: Request, verb: str, subresource: str) -> bool:
        key = (request.user, request.groups, verb, subresource)
        known = self._known.get(key)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        review = {
            "apiVersion": SUBJECT_ACCESS_REVIEWS.api_version,
            "kind": SUBJECT_ACCESS_REVIEWS.kind,
            "spec": {
                "user": request.user,
                "groups": list(request.groups),
                "resourceAttributes": {
                    "verb": verb,
                    "version": "v1",
                    "resource": "nodes",
                    "subresource": subresource,
                    "name": self._node_name,
                },
            },
        }
        try:
            answer = await self._client.create(SUBJECT_ACCESS_REVIEWS, review)
        except ApiError as error:
            raise RequestError(500, f"cannot ask who may: {error}") from error
        allowed = bool((answer.get("status") or {}).get("allowed"))
        self._known[key] = (time.monotonic() + (ALLOWED_FOR_S if allowed else DENIED_FOR_S), allowed)
        while len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
        return allowed
