"""Watches the runtime: lists sandboxes and containers, and tells each pod's worker when its own have changed.

The runtime's event stream (containerd from 1.7 on) only says *when* to list, so that a lost event costs a moment and
never the truth.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from node.cri import Cri, CriError, CriNotFoundError, CriUnimplementedError
from node.pod_words import Observed
from node.runtime import ContainerInfo, SandboxInfo

log = logging.getLogger(__name__)

WITH_EVENTS_PERIOD_S = 5.0
EVENTS_RETRY_S = 2.0

Fingerprint = tuple[tuple[str, object], ...]
Describe = Callable[[ContainerInfo], Awaitable[ContainerInfo]]
"""Adds to an ended container what only files tell: its last words."""


class Pleg:
    """The pod life cycle event generator of a node."""

    def __init__(self, cri: Cri, period_s: float, tell: Callable[[str, Observed], None], describe: Describe) -> None:
        self._cri = cri
        self._period_s = period_s
        self._tell = tell
        self._describe = describe
        self._seen: dict[str, Fingerprint] = {}
        self._waiting: set[str] = set()
        self._details: dict[tuple[str, str], ContainerInfo] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._poke = asyncio.Event()
        self._with_events = False
        self.healthy_at = 0.0
        self.pods: set[str] = set()
        """UIDs of all pods that the runtime holds anything of."""
        self.sandboxes: list[SandboxInfo] = []
        self.containers: list[ContainerInfo] = []

    def request(self, uid: str) -> None:
        """Have this pod observed soon, changed or not."""
        self._waiting.add(uid)
        self._poke.set()

    def poke(self) -> None:
        """List now."""
        self._poke.set()

    async def run(self) -> None:
        """List until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._events())
            while True:
                try:
                    await self.relist()
                except CriError as error:
                    log.warning("cannot list the runtime error=%s", error)
                period_s = max(self._period_s, WITH_EVENTS_PERIOD_S) if self._with_events else self._period_s
                try:
                    async with asyncio.timeout(period_s):
                        await self._poke.wait()
                except TimeoutError:
                    continue

    async def _events(self) -> None:
        while True:
            try:
                async for _uid in self._cri.changed_pods():
                    self._with_events = True
                    self.poke()
            except CriUnimplementedError:
                return
            except CriError as error:
                log.debug("runtime events ended error=%s", error)
            self._with_events = False
            await asyncio.sleep(EVENTS_RETRY_S)

    async def relist(self) -> None:
        """List once and tell the workers of changed pods."""
        self._poke.clear()
        taken_at = time.time()
        waiting, self._waiting = self._waiting, set()
        try:
            self.sandboxes = await self._cri.list_sandboxes()
            self.containers = await self._cri.list_containers()
        except CriError:
            self._waiting |= waiting
            raise
        self.healthy_at = time.monotonic()
        sandboxes: dict[str, list[SandboxInfo]] = {}
        containers: dict[str, list[ContainerInfo]] = {}
        owner = {info.id: info.pod_uid for info in self.sandboxes}
        for sandbox in self.sandboxes:
            sandboxes.setdefault(sandbox.pod_uid, []).append(sandbox)
        for container in self.containers:
            uid = container.pod_uid or owner.get(container.sandbox_id, "")
            containers.setdefault(uid, []).append(container)
        self.pods = {*sandboxes, *containers} - {""}
        for uid in self.pods | waiting | set(self._seen):
            await self._compare(uid, taken_at, sandboxes.get(uid, []), containers.get(uid, []), uid in waiting)
        self._forget()

    async def _compare(
        self, uid: str, taken_at: float, sandboxes: list[SandboxInfo], containers: list[ContainerInfo], asked: bool
    ) -> None:
        fingerprint: Fingerprint = (
            *((info.id, info.ready) for info in sandboxes),
            *((info.id, info.state) for info in containers),
        )
        fingerprint = tuple(sorted(fingerprint, key=lambda pair: pair[0]))
        if not asked and self._seen.get(uid) == fingerprint:
            return
        try:
            observed = Observed(
                taken_at,
                tuple([await self._with_addresses(info) for info in sandboxes]),
                tuple([await self._with_details(info) for info in containers]),
            )
        except CriError as error:
            log.info("cannot look at a pod in the runtime uid=%s error=%s", uid, error)
            self._waiting.add(uid)
            return
        if fingerprint:
            self._seen[uid] = fingerprint
        else:
            self._seen.pop(uid, None)
        self._tell(uid, observed)

    async def _with_addresses(self, info: SandboxInfo) -> SandboxInfo:
        if not info.ready:
            return info
        if info.id not in self._addresses:
            self._addresses[info.id] = (await self._cri.sandbox_status(info.id)).ips
        return replace(info, ips=self._addresses[info.id])

    async def _with_details(self, info: ContainerInfo) -> ContainerInfo:
        if info.state not in ("running", "exited"):
            return info
        key = (info.id, info.state)
        if key not in self._details:
            try:
                full = replace(await self._cri.container_status(info.id), sandbox_id=info.sandbox_id)
            except CriNotFoundError:
                return info
            if full.state != info.state:
                return full
            self._details[key] = await self._describe(full) if full.state == "exited" else full
        return self._details[key]

    def _forget(self) -> None:
        alive = {info.id for info in self.containers}
        self._details = {key: info for key, info in self._details.items() if key[0] in alive}
        ready = {info.id for info in self.sandboxes}
        self._addresses = {key: ips for key, ips in self._addresses.items() if key in ready}
