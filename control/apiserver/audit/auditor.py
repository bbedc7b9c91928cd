"""Makes a record of each request and gives its events to all places where events go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import orjson

from control.api.meta import Object
from control.apiserver.audit import policy
from control.apiserver.audit.policy import NAMES, Policy, Wish
from control.apiserver.audit.record import TRUNCATED, Origin, Record
from control.apiserver.auditid import audit_id_of
from control.apiserver.config import ConfigurationError, TruncateConfig
from control.apiserver.metrics import Metrics
from control.apiserver.request import RequestInfo, UserInfo

log = logging.getLogger(__name__)

COMPLAINT_INTERVAL_S = 10.0


class AuditMetrics:
    """What audit counts, under kube-apiserver's names."""

    def __init__(self, metrics: Metrics) -> None:
        self.events = metrics.counter("apiserver_audit_event_total", "Audit events that were made.")
        self.errors = metrics.counter(
            "apiserver_audit_error_total", "Audit events that did not get where they belong.", ("plugin",)
        )
        self.levels = metrics.counter("apiserver_audit_level_total", "Requests by their audit level.", ("level",))
        self.rejected = metrics.counter(
            "apiserver_audit_requests_rejected_total", "Requests refused because their event could not be kept."
        )
        self._quiet_until: dict[str, float] = {}

    def lost(self, plugin: str, count: int, why: str) -> None:
        """Count events that are lost, and say so, but not each of the many that one failure brings."""
        self.errors.add(plugin, by=count)
        now = time.monotonic()
        if now >= self._quiet_until.get(plugin, 0.0):
            self._quiet_until[plugin] = now + COMPLAINT_INTERVAL_S
            log.error("audit events are lost plugin=%s events=%s error=%s", plugin, count, why)


class Sink(Protocol):
    """A place where events go."""

    async def put(self, event: bytes) -> bool:
        """Take one event; False where it is lost and requests are to fail for that."""
        ...

    async def run(self) -> None:
        """Do what goes on beside requests, until cancelled; then write what waits."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """A sink, and how large its events may be."""

    sink: Sink
    truncate: TruncateConfig | None = None


def read_policy(path: Path) -> Policy:
    """Return the policy of a file; raises ConfigurationError."""
    import yaml  # here, since most servers read no policy

    try:
        document = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        found, unknown = policy.parse(document)
    except (OSError, yaml.YAMLError, ConfigurationError) as error:
        raise ConfigurationError(f"loading audit policy file {path}: {error}") from None
    if unknown:
        log.warning("audit policy has fields that mean nothing path=%s fields=%s", path, ", ".join(unknown))
    return found


class Auditor:
    """Audit of one server."""

    def __init__(self, wishes: Policy, places: Sequence[Place], metrics: AuditMetrics) -> None:
        self._policy = wishes
        self.places = tuple(places)
        self._metrics = metrics

    def begin(
        self,
        uri: str,
        headers: Mapping[str, tuple[str, ...]],
        remote_address: str,
        certificate: bool,
        info: RequestInfo,
    ) -> Record:
        """Make the record of a request that has arrived."""
        audit_id = audit_id_of(headers).decode("latin-1")
        origin = Origin(audit_id, uri, headers, remote_address, certificate, datetime.now(UTC))

        def judge(user: UserInfo | None) -> Wish:
            wish = self._policy.judge(user, info)
            self._metrics.levels.add(NAMES[wish.level])
            return wish

        return Record(origin, info, judge, self._tell)

    async def run(self) -> None:
        """Let events go where they belong until cancelled, then write what waits."""
        async with asyncio.TaskGroup() as tasks:
            for place in self.places:
                tasks.create_task(place.sink.run())

    async def _tell(self, record: Record, stage: str, when: datetime) -> bool:
        """Give one event to all places; False where the request is to fail for it."""
        event = record.event(stage, when)
        self._metrics.events.add()
        try:
            whole = orjson.dumps(event)
        except orjson.JSONEncodeError:
            # Somebody sent an object that is deeper than JSON is written; what was done is told all the same.
            event = _without_objects(event)
            whole = orjson.dumps(event)
        kept = True
        for place in self.places:
            data = whole if place.truncate is None else self._cut(event, whole, place.truncate)
            if data and not await place.sink.put(data):
                kept = False
        if kept:
            return True
        if stage == "RequestReceived":
            self._metrics.rejected.add()
            return False
        return True

    def _cut(self, event: Object, whole: bytes, truncate: TruncateConfig) -> bytes:
        """Return an event without its bodies where it is too large, nothing where it still is."""
        if len(whole) <= truncate.event_bytes_max:
            return whole
        data = orjson.dumps(_without_objects(event))
        if len(data) <= truncate.event_bytes_max:
            return data
        self._metrics.lost("truncate", 1, "the event is too large even without its objects")
        return b""


def _without_objects(event: Object) -> Object:
    """Return an event without what was asked and answered, which says so."""
    small = {name: value for name, value in event.items() if name not in ("requestObject", "responseObject")}
    small["annotations"] = {**event.get("annotations", {}), TRUNCATED: "true"}
    return small
