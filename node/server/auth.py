"""Who may ask a kubelet what: names from client certificates or tokens, rights from the API server."""

from __future__ import annotations

import hashlib
import ssl
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import Client
from node.server.connection import Request, RequestError

SUBJECT_ACCESS_REVIEWS = Resource(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False
)
TOKEN_REVIEWS = Resource("authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False)
TRUSTED_GROUPS = frozenset({"system:masters", "raftsman:kubelet-api-admin"})
TRUSTED_USERS = frozenset({"kube-apiserver-kubelet-client"})
OPEN_PATHS = frozenset({"/healthz"})
ALLOWED_FOR_S, DENIED_FOR_S = 300.0, 30.0
TOKEN_KNOWN_FOR_S = 120.0
REMEMBERED_MAX = 1000
TOKEN_MAX_BYTES = 16 * 1024
FINE_GRAINED = {"pods": "pods", "runningpods": "pods", "healthz": "healthz", "configz": "configz"}
COARSE = {"stats": "stats", "metrics": "metrics", "logs": "log"}
Key = TypeVar("Key")
Value = TypeVar("Value")


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


def attributes(request: Request) -> tuple[str, tuple[str, ...]]:
    """Return the verb and the subresources of nodes, one of which a request needs, as the API server names them."""
    verb = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get")
    first = request.parts[0] if request.parts else ""
    if first in FINE_GRAINED:
        return verb, (FINE_GRAINED[first], "proxy")
    return verb, (COARSE.get(first, "proxy"),)


class _Remembered(Generic[Key, Value]):
    """What was answered, each for its time; the oldest goes when there are too many."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, tuple[float, Value]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        known = self._known.get(key)
        return known[1] if known is not None and time.monotonic() < known[0] else None

    def put(self, key: Key, value: Value, for_s: float) -> None:
        self._known[key] = (time.monotonic() + for_s, value)
        while len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)


class Authorizer:
    """Asks the API server about callers that it does not know by heart, and remembers the answers for a while."""

    def __init__(self, client: Client, node_name: str, mode: str, *, token_webhook: bool = True) -> None:
        self._client = client
        self._node_name = node_name
        self._mode = mode
        self._token_webhook = token_webhook
        self._allowances: _Remembered[tuple[str, tuple[str, ...], str, str], bool] = _Remembered()
        self._callers: _Remembered[bytes, tuple[str, tuple[str, ...]]] = _Remembered()

    async def check(self, request: Request) -> None:
        """Return where the caller may; raises RequestError."""
        if request.path in OPEN_PATHS or self._mode == "AlwaysAllow":
            return
        if not request.user and self._token_webhook:
            user, groups = await self._bearer(request.headers.get("authorization", ""))
            request = replace(request, user=user, groups=groups)
        if not request.user:
            raise RequestError(401, "Unauthorized")
        if request.user in TRUSTED_USERS or TRUSTED_GROUPS.intersection(request.groups):
            return
        verb, subresources = attributes(request)
        for subresource in subresources:
            if await self._allowed(request, verb, subresource):
                return
        needed = " ".join(subresources)
        raise RequestError(
            403, f"Forbidden (user={request.user}, verb={verb}, resource=nodes, subresource(s)=[{needed}])"
        )

    async def _bearer(self, authorization: str) -> tuple[str, tuple[str, ...]]:
        """Return whom a bearer token names; nobody where the API server does not know it."""
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > TOKEN_MAX_BYTES:
            return "", ()
        # The token itself is not kept: a dump of this process must not hold others' credentials.
        key = hashlib.sha256(token.encode("latin-1")).digest()
        known = self._callers.get(key)
        if known is not None:
            return known
        answer = await self._ask(TOKEN_REVIEWS, {"token": token})
        if not answer.get("authenticated"):
            return "", ()
        user = answer.get("user") or {}
        caller = str(user.get("username") or ""), tuple(user.get("groups") or ())
        self._callers.put(key, caller, TOKEN_KNOWN_FOR_S)
        return caller

    async def _allowed(self, request: Request, verb: str, subresource: str) -> bool:
        key = (request.user, request.groups, verb, subresource)
        known = self._allowances.get(key)
        if known is not None:
            return known
        wanted = {
            "verb": verb,
            "version": "v1",
            "resource": "nodes",
            "subresource": subresource,
            "name": self._node_name,
        }
        question = {"user": request.user, "groups": list(request.groups), "resourceAttributes": wanted}
        allowed = bool((await self._ask(SUBJECT_ACCESS_REVIEWS, question)).get("allowed"))
        self._allowances.put(key, allowed, ALLOWED_FOR_S if allowed else DENIED_FOR_S)
        return allowed

    async def _ask(self, reviews: Resource, question: dict[str, Any]) -> dict[str, Any]:
        review = {"apiVersion": reviews.api_version, "kind": reviews.kind, "spec": question}
        try:
            answer = await self._client.create(reviews, review)
        except ApiError as error:
            raise RequestError(500, f"cannot ask who may: {error}") from error
        status: dict[str, Any] = answer.get("status") or {}
        return status
