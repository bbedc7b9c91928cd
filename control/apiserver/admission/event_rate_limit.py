"""EventRateLimit: so many events a second from one server, namespace, user or source are enough."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from control.api import status
from control.api.meta import Object
from control.api.resources import EVENTS
from control.apiserver.admission.plugin import Plugin
from control.apiserver.request import AdmissionRequest

LIMIT_TYPES = ("Server", "Namespace", "User", "SourceAndObject")
REMEMBERED = 4096
_SOURCE = ("component", "host")
_ABOUT = ("kind", "namespace", "name", "uid", "apiVersion")


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit."""

    type: str
    events_per_s: float
    burst: int
    remembered: int = 0
    """As many namespaces, users or sources are told apart; 0 means 4096."""


class Bucket:
    """Tokens of one key, which come back with time."""

    def __init__(self, limit: Limit, now: float) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._counted_at = now

    def take(self, now: float) -> bool:
        """Take a token, if there is one."""
        grown = (now - self._counted_at) * self._limit.events_per_s
        self._tokens, self._counted_at = min(self._limit.burst, self._tokens + grown), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class EventRateLimit(Plugin):
    """Refuses events above the limits."""

    about = (EVENTS,)

    def __init__(self, limits: Sequence[Limit], clock: Callable[[], float] = time.monotonic) -> None:
        self._limits: list[tuple[Limit, OrderedDict[str, Bucket]]] = [(limit, OrderedDict()) for limit in limits]
        self._clock = clock

    async def validate(self, request: AdmissionRequest) -> None:
        """Count an event; every limit counts it, even where another one refuses it."""
        is_event = (request.resource.group, request.resource.plural) == ("", EVENTS.plural)
        if not is_event or request.operation not in ("CREATE", "UPDATE") or request.dry_run:
            return
        now, refused = self._clock(), []
        for limit, buckets in self._limits:
            key = _key(limit.type, request)
            bucket = buckets.get(key)
            if bucket is None:
                bucket = buckets[key] = Bucket(limit, now)
                if len(buckets) > (limit.remembered or REMEMBERED):
                    buckets.popitem(last=False)
            buckets.move_to_end(key)
            if not bucket.take(now):
                refused.append(f"limit reached on type {limit.type} for key {key}")
        if refused:
            raise status.too_many_requests(refused[0] if len(refused) == 1 else f"[{', '.join(refused)}]")


def _key(kind: str, request: AdmissionRequest) -> str:
    if kind == "Server":
        return ""
    if kind == "Namespace":
        return request.namespace
    if kind == "User":
        return request.user.name
    event: Object = request.object or {}
    source, about = event.get("source") or {}, event.get("involvedObject") or {}
    return "".join([*(source.get(each) or "" for each in _SOURCE), *(about.get(each) or "" for each in _ABOUT)])
