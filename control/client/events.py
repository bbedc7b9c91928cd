"""Tell what happened to an object, as Events that `kubectl describe` and `get events` show.

Like upstream's recorder: an event equal to an earlier one raises that one's count; from the tenth of similar ones
(that differ in their message alone) within ten minutes on, they become one "(combined from similar events)"; and one
object may not be the subject of more than 25 events at once and one every five minutes after.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from control.api import meta
from control.api.meta import Object
from control.api.resources import EVENTS
from control.api.status import ApiError
from control.client.client import Client
from control.client.workqueue import TokenBucket

log = logging.getLogger(__name__)

QUEUE_MAX = 1000
REMEMBERED_MAX = 4096
MESSAGE_MAX_CHARACTERS = 1024
SIMILAR_MAX = 10
SIMILAR_WINDOW_S = 600.0
SPAM_BURST = 25
SPAM_PER_S = 1.0 / 300.0
COMBINED = "(combined from similar events): "

EventKind = Literal["Normal", "Warning"]


@dataclass(frozen=True)
class Occurrence:
    """One thing that happened."""

    reference: tuple[tuple[str, str], ...]
    """The involved object, as the items of its ObjectReference."""
    kind: EventKind
    reason: str
    message: str


@dataclass
class Remembered:
    """An Event that was written and may be counted up."""

    name: str
    count: int
    first: float


def reference_of(obj: Object, field_path: str = "") -> tuple[tuple[str, str], ...]:
    """Return the ObjectReference of an object."""
    reference = {
        "kind": str(obj.get("kind", "")),
        "namespace": meta.namespace(obj),
        "name": meta.name(obj),
        "uid": meta.uid(obj),
        "apiVersion": str(obj.get("apiVersion", "")),
        "resourceVersion": meta.resource_version(obj),
        "fieldPath": field_path,
    }
    return tuple((key, value) for key, value in reference.items() if value)


class Correlator:
    """Decides what becomes of an occurrence; pure but for its memory, which is bounded."""

    def __init__(self) -> None:
        self._written: OrderedDict[Occurrence, Remembered] = OrderedDict()
        self._similar: OrderedDict[Occurrence, tuple[float, set[str]]] = OrderedDict()
        self._spam: OrderedDict[object, TokenBucket] = OrderedDict()

    def correlate(self, occurrence: Occurrence, now: float) -> tuple[Occurrence, Remembered | None] | None:
        """Return the occurrence to write and the Event that it counts up, if any; None to drop it."""
        identity = tuple(item for item in occurrence.reference if item[0] != "resourceVersion")
        bucket = self._spam.setdefault(identity, TokenBucket(SPAM_PER_S, SPAM_BURST))
        self._spam.move_to_end(identity)
        if bucket.reserve(now) > 0.0:
            bucket.give_back()
            return None
        told = self._combined(Occurrence(identity, occurrence.kind, occurrence.reason, occurrence.message), now)
        for memory in (self._spam, self._similar, self._written):
            while len(memory) > REMEMBERED_MAX:
                memory.popitem(last=False)
        return told, self._written.get(told)

    def _combined(self, occurrence: Occurrence, now: float) -> Occurrence:
        group = Occurrence(occurrence.reference, occurrence.kind, occurrence.reason, "")
        since, messages = self._similar.get(group, (now, set()))
        if now - since > SIMILAR_WINDOW_S:
            since, messages = now, set()
        messages.add(occurrence.message)
        if len(messages) > SIMILAR_MAX:
            messages.pop()
        self._similar[group] = (since, messages)
        self._similar.move_to_end(group)
        if len(messages) < SIMILAR_MAX:
            return occurrence
        return Occurrence(occurrence.reference, occurrence.kind, occurrence.reason, COMBINED)

    def written(self, told: Occurrence, name: str, count: int, first: float) -> None:
        """Remember the Event that an occurrence was written to."""
        self._written[told] = Remembered(name, count, first)
        self._written.move_to_end(told)

    def lost(self, told: Occurrence) -> None:
        """Forget an Event that the server no longer has."""
        self._written.pop(told, None)


class EventRecorder:
    """Writes Events in the background; what does not fit the queue is dropped, since Events are best effort."""

    def __init__(self, client: Client, component: str, host: str = "", clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._component = component
        self._host = host
        self._clock = clock
        self._correlator = Correlator()
        self._name_ns = 0
        self._queue: asyncio.Queue[tuple[Occurrence, float]] = asyncio.Queue(QUEUE_MAX)

    def event(self, obj: Object, kind: EventKind, reason: str, message: str, field_path: str = "") -> None:
        """Note that something happened to an object; returns at once."""
        occurrence = Occurrence(reference_of(obj, field_path), kind, reason, message[:MESSAGE_MAX_CHARACTERS])
        try:
            self._queue.put_nowait((occurrence, self._clock()))
        except asyncio.QueueFull:
            log.warning("event dropped, too many wait reason=%s object=%s", reason, meta.key(obj))

    async def run(self) -> None:
        """Write events until cancelled."""
        while True:
            occurrence, now = await self._queue.get()
            try:
                await self.write(occurrence, now)
            except ApiError as error:
                log.warning("event not written reason=%s error=%s", occurrence.reason, error.message)
            finally:
                self._queue.task_done()

    async def drain(self) -> None:
        """Wait until everything noted so far is written."""
        await self._queue.join()

    async def write(self, occurrence: Occurrence, now: float) -> None:
        """Write one occurrence: count up the Event it repeats, or create one."""
        decided = self._correlator.correlate(occurrence, now)
        if decided is None:
            return
        told, earlier = decided
        message = COMBINED + occurrence.message if told.message == COMBINED else occurrence.message
        namespace = dict(occurrence.reference).get("namespace", "default")
        stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if earlier is not None:
            change = {"count": earlier.count + 1, "lastTimestamp": stamp, "message": message}
            try:
                await self._client.patch(EVENTS, earlier.name, change, namespace)
            except ApiError as error:
                if error.code != 404:
                    raise
                self._correlator.lost(told)
            else:
                self._correlator.written(told, earlier.name, earlier.count + 1, earlier.first)
                return
        body = self._body(occurrence, message, namespace, stamp, now)
        await self._client.create(EVENTS, body, namespace)
        self._correlator.written(told, meta.name(body), 1, now)

    def _body(self, occurrence: Occurrence, message: str, namespace: str, stamp: str, now: float) -> Object:
        reference = dict(occurrence.reference)
        self._name_ns = max(int(now * 1e9), self._name_ns + 1)  # names are unique however coarse the clock
        source: dict[str, Any] = {"component": self._component}
        if self._host:
            source["host"] = self._host
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": f"{reference['name']}.{self._name_ns:x}", "namespace": namespace},
            "involvedObject": reference,
            "reason": occurrence.reason,
            "message": message,
            "type": occurrence.kind,
            "source": source,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
            "eventTime": None,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }
