"""Writes Kubernetes Events: in the background, repeated ones counted, floods dropped."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import EVENTS
from control.api.status import ApiError
from control.client.client import Client
from node.status import timestamp

log = logging.getLogger(__name__)

QUEUE_MAX = 500
REMEMBERED_MAX = 1000
SAME_FOR_S = 600.0
MESSAGE_MAX = 1024


@dataclass(frozen=True, slots=True)
class _Wish:
    involved: dict[str, Any]
    namespace: str
    type: str
    reason: str
    message: str
    at: float

    @property
    def key(self) -> tuple[str, ...]:
        return (self.involved.get("uid", ""), self.involved.get("fieldPath", ""), self.type, self.reason, self.message)


@dataclass(slots=True)
class _Known:
    name: str
    count: int
    first_at: float
    last_at: float


class Recorder:
    """One node's writer of Events."""

    def __init__(self, client: Client, node_name: str, qps_max: float) -> None:
        self._client = client
        self._node_name = node_name
        self._pause_s = 1.0 / qps_max
        self._queue: asyncio.Queue[_Wish] = asyncio.Queue(QUEUE_MAX)
        self._known: OrderedDict[tuple[str, ...], _Known] = OrderedDict()
        self._dropped = 0

    def record(self, obj: Object, kind: str, type_: str, reason: str, message: str, field_path: str = "") -> None:
        """Ask for an Event about an object; never waits, and drops it where too many are waiting."""
        involved = {
            "kind": kind,
            "apiVersion": "v1",
            "name": meta.name(obj),
            "uid": meta.uid(obj),
            "resourceVersion": meta.resource_version(obj),
        }
        if meta.namespace(obj):
            involved["namespace"] = meta.namespace(obj)
        if field_path:
            involved["fieldPath"] = field_path
        namespace = meta.namespace(obj) or "default"
        wish = _Wish(involved, namespace, type_, reason, message[:MESSAGE_MAX], time.time())
        try:
            self._queue.put_nowait(wish)
        except asyncio.QueueFull:
            self._dropped += 1
            if self._dropped % 100 == 1:
                log.warning("dropping events dropped=%d", self._dropped)

    async def run(self) -> None:
        """Write Events until cancelled."""
        while True:
            wish = await self._queue.get()
            try:
                await self._write(wish)
            except ApiError as error:
                log.info("cannot write an event reason=%s error=%s", wish.reason, error)
            await asyncio.sleep(self._pause_s)

    async def _write(self, wish: _Wish) -> None:
        known = self._known.get(wish.key)
        if known is not None and wish.at - known.last_at < SAME_FOR_S:
            known.count += 1
            known.last_at = wish.at
            patch = {"count": known.count, "lastTimestamp": timestamp(wish.at)}
            try:
                await self._client.patch(EVENTS, known.name, patch, wish.namespace)
                return
            except ApiError as error:
                if error.code != 404:
                    raise
        await self._create(wish)

    async def _create(self, wish: _Wish) -> None:
        name = f"{wish.involved['name']}.{time.time_ns():x}{secrets.token_hex(1)}"
        source = {"component": "kubelet", "host": self._node_name}
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": wish.namespace},
            "involvedObject": wish.involved,
            "reason": wish.reason,
            "message": wish.message,
            "source": source,
            "firstTimestamp": timestamp(wish.at),
            "lastTimestamp": timestamp(wish.at),
            "eventTime": None,
            "count": 1,
            "type": wish.type,
            "reportingComponent": "kubelet",
            "reportingInstance": self._node_name,
        }
        await self._client.create(EVENTS, event, wish.namespace)
        self._known[wish.key] = _Known(name, 1, wish.at, wish.at)
        while len(self._known) > REMEMBERED_MAX:
            self._known.popitem(last=False)
