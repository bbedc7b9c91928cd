"""Probes containers on their schedules and tells when a threshold is crossed."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from node import pod_spec
from node import pod_words as w
from node.handlers import HandlerError, Handlers
from node.pod_spec import ContainerSpec

log = logging.getLogger(__name__)

KINDS: tuple[w.ProbeKind, ...] = ("startup", "readiness", "liveness")


@dataclass(slots=True)
class Threshold:
    """PURE: counts results in a row and tells when the probe's opinion changes."""

    success_threshold: int
    failure_threshold: int
    opinion: bool | None = None
    last: bool | None = None
    run: int = 0

    def count(self, success: bool) -> bool | None:
        """Note one result; return the new opinion where it changes, else None."""
        self.run = self.run + 1 if success == self.last else 1
        self.last = success
        if self.run < (self.success_threshold if success else self.failure_threshold):
            return None
        if self.opinion == success:
            return None
        self.opinion = success
        return success


def threshold_of(probe: Mapping[str, Any], kind: w.ProbeKind) -> Threshold:
    """Return the counter of a probe; what it thinks at first is what costs nothing to hear again."""
    opinion = {"startup": None, "readiness": None, "liveness": True}[kind]
    return Threshold(int(probe.get("successThreshold") or 1), int(probe.get("failureThreshold") or 3), opinion)


class ContainerProbes:
    """The probes of one instance, run as one task: startup first, then the others beside each other."""

    def __init__(
        self,
        handlers: Handlers,
        wanted: ContainerSpec,
        container_id: str,
        pod_ip: Callable[[], str],
        tell: Callable[[w.ProbeChanged], None],
        unhealthy: Callable[[str, str], None],
    ) -> None:
        self._handlers = handlers
        self._wanted = wanted
        self._id = container_id
        self._pod_ip = pod_ip
        self._tell = tell
        self._unhealthy = unhealthy

    async def run(self, *, startup_done: bool, ready: bool) -> None:
        """Probe until cancelled, or until no probe is left."""
        startup = pod_spec.probe(self._wanted, "startup")
        if startup is not None and not startup_done and not await self._until_started(startup):
            return
        async with asyncio.TaskGroup() as group:
            for kind in ("readiness", "liveness"):
                probe = pod_spec.probe(self._wanted, kind)
                if probe is not None:
                    threshold = threshold_of(probe, "readiness" if kind == "readiness" else "liveness")
                    if kind == "readiness" and ready:
                        threshold.opinion = True
                    group.create_task(self._repeat(kind, probe, threshold))

    async def _until_started(self, probe: Mapping[str, Any]) -> bool:
        threshold = threshold_of(probe, "startup")
        await self._delay(probe)
        while True:
            changed = await self._once("startup", probe, threshold)
            if changed is not None:
                return changed
            await asyncio.sleep(_period(probe))

    async def _repeat(self, kind: w.ProbeKind, probe: Mapping[str, Any], threshold: Threshold) -> None:
        await self._delay(probe)
        while True:
            await self._once(kind, probe, threshold)
            await asyncio.sleep(_period(probe))

    async def _once(self, kind: w.ProbeKind, probe: Mapping[str, Any], threshold: Threshold) -> bool | None:
        message = ""
        try:
            timeout_s = float(probe.get("timeoutSeconds") or 1)
            await self._handlers.run(probe, self._wanted, self._id, self._pod_ip(), timeout_s)
            success = True
        except HandlerError as error:
            success, message = False, str(error)
            self._unhealthy(kind, message)
        changed = threshold.count(success)
        if changed is not None:
            self._tell(w.ProbeChanged(self._wanted.name, self._id, kind, changed, message))
        return changed

    async def _delay(self, probe: Mapping[str, Any]) -> None:
        initial = float(probe.get("initialDelaySeconds") or 0)
        # Spread, so that a node's restart does not probe all containers in the same instant.
        await asyncio.sleep(initial + random.random() * min(0.3, _period(probe) / 4))


def _period(probe: Mapping[str, Any]) -> float:
    return float(probe.get("periodSeconds") or 10)
