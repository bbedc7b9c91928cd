"""What pods draw from the API server: ConfigMaps, Secrets and ServiceAccount tokens, each kept for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from control.api import meta
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS, Resource
from control.api.status import ApiError
from control.client.client import Client

ENTRIES_MAX = 2000
TOKEN_USED_UP = 0.8
"""A token is replaced when this part of its life is over, or after a day."""
TOKEN_AGE_MAX_S = 24 * 3600


@dataclass(frozen=True, slots=True)
class _Held:
    read_at: float
    obj: Object | None


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    replace_at: float


class ApiSources:
    """Reads through the API server and remembers, within bounds; one for all pods of a node."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._clock = clock
        self._held: OrderedDict[tuple[str, str, str], _Held] = OrderedDict()
        self._tokens: OrderedDict[tuple[str, str, str, int], _Token] = OrderedDict()

    async def config_map(self, namespace: str, name: str, age_max_s: float) -> Object | None:
        """Return a ConfigMap no older than this, None where there is none."""
        return await self._read(CONFIG_MAPS, namespace, name, age_max_s)

    async def secret(self, namespace: str, name: str, age_max_s: float) -> Object | None:
        """Return a Secret no older than this, None where there is none."""
        return await self._read(SECRETS, namespace, name, age_max_s)

    async def token(self, pod: Object, audience: str, expiration_s: int) -> str:
        """Return a token of the pod's ServiceAccount, bound to the pod and with most of its life before it."""
        key = (meta.uid(pod), pod["spec"].get("serviceAccountName") or "default", audience, expiration_s)
        held = self._tokens.get(key)
        now = self._clock()
        if held is not None and now < held.replace_at:
            return held.text
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": expiration_s,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": meta.name(pod), "uid": meta.uid(pod)},
            },
        }
        answer = await self._client.create(
            SERVICE_ACCOUNTS, request, meta.namespace(pod), name=key[1], subresource="token"
        )
        status = answer["status"]
        expires = datetime.fromisoformat(status["expirationTimestamp"]).timestamp()
        fresh = _Token(status["token"], now + min((expires - now) * TOKEN_USED_UP, TOKEN_AGE_MAX_S))
        self._tokens[key] = fresh
        _bound(self._tokens)
        return fresh.text

    def forget(self, pod_uid: str) -> None:
        """Forget the tokens of a pod that is gone."""
        for key in [key for key in self._tokens if key[0] == pod_uid]:
            del self._tokens[key]

    async def _read(self, resource: Resource, namespace: str, name: str, age_max_s: float) -> Object | None:
        key = (resource.plural, namespace, name)
        held = self._held.get(key)
        if held is not None and self._clock() - held.read_at <= age_max_s:
            self._held.move_to_end(key)
            return held.obj
        try:
            found: Object | None = await self._client.get(resource, name, namespace)
        except ApiError as error:
            if error.code != 404:
                raise
            found = None
        self._held[key] = _Held(self._clock(), found)
        self._held.move_to_end(key)
        _bound(self._held)
        return found


def _bound(entries: OrderedDict[tuple[str, str, str], _Held] | OrderedDict[tuple[str, str, str, int], _Token]) -> None:
    while len(entries) > ENTRIES_MAX:
        entries.popitem(last=False)
