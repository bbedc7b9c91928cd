"""Keep the rules of one address family: changes come in, one sync after another brings the kernel along.

Both families do the same beside each other and share nothing: what one of them cannot write, or waits
for, does not touch the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from control.api import meta
from control.api.meta import Object
from net.netlink import NetlinkError
from net.proxy import conntrack
from net.proxy.applier import APPLY_ERRORS, Applier
from net.proxy.config import ProxyConfig
from net.proxy.conntrack import Reconciler
from net.proxy.metrics import ProxyMetrics, trigger_time
from net.proxy.rules import NodeFacts, RuleBook, RuleSettings
from net.proxy.services import ChangeTracker

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_MAX_S = 0.5, 30.0
READING_SHARE_MAX = 0.01
"""The most of the time that comparing the kernel's rules may take."""
DISTURBED_PAUSE_S = 0.2
"""The least time between two repairs, should somebody else and we disagree for ever."""


@dataclass(slots=True)
class Waiting:
    """Hold what came since the last sync that succeeded."""

    services: set[str] = field(default_factory=set)
    triggered: dict[str, float] = field(default_factory=dict)
    """When the oldest unwritten change of each Service was made, in wall-clock seconds."""


class FamilyLoop:
    """Own tracker, rule book and applier of one family."""

    def __init__(
        self, config: ProxyConfig, node: NodeFacts, applier: Applier, metrics: ProxyMetrics, told: Callable[[int], None]
    ) -> None:
        self.ip_version = applier.settings.ip_version
        self.applier = applier
        self.tracker = ChangeTracker(self.ip_version)
        self.book = RuleBook(node)
        self.local_addresses: frozenset[str] = frozenset()
        self.is_behind = True
        """Whether something is wanted that the kernel does not hold yet."""
        self._config, self._metrics, self._told = config, metrics, told
        self._due = asyncio.Event()
        self._waiting = Waiting()
        self._udp_services: frozenset[str] = frozenset()
        self._flows = Reconciler(self.ip_version)
        self._flows_due = asyncio.Event()
        self._began_s = time.time()

    def service_changed(self, service: Object | None, key: str) -> None:
        """Take a Service as it is now."""
        if self.tracker.service_changed(key, service):
            self._metrics.changed("service", self.ip_version)
            self.wake()

    def slice_changed(self, slice_object: Object | None, key: str) -> None:
        """Take an EndpointSlice as it is now."""
        if not self.tracker.slice_changed(key, slice_object):
            return
        self._metrics.changed("endpoint", self.ip_version)
        made_s = trigger_time(slice_object)
        # What was changed before this process began says nothing about its pace.
        if slice_object is not None and made_s > self._began_s:
            labels = meta.labels(slice_object)
            owner = f"{meta.namespace(slice_object)}/{labels.get('kubernetes.io/service-name', '')}"
            self._waiting.triggered.setdefault(owner, made_s)
        self.wake()

    def node_changed(self, facts: NodeFacts) -> None:
        """Take new facts of the node."""
        before = self.book.node
        if self.book.set_node(facts, self.tracker):
            self._waiting.services |= self.book.decided.keys()
            log.info("node's facts have changed family=%d before=%s now=%s", self.ip_version, before, facts)
            self.wake()

    def use(self, settings: RuleSettings) -> None:
        """Take new settings."""
        if settings != self.applier.settings:
            self.applier.use(settings)
            self.wake()

    def wake(self) -> None:
        """Ask for a sync."""
        if self.is_behind and self._due.is_set():
            return
        self.is_behind = True
        self._told(self.ip_version)
        self._due.set()

    async def run(self, group: asyncio.TaskGroup, ready: Callable[[], None]) -> None:
        """Keep the rules until cancelled; `ready` is called once they stand for the first time."""
        pause_s = self._config.min_sync_period_of(self.applier.mode)
        delay_s, is_ready = RETRY_FIRST_S, False
        self.wake()
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.sync()
            except APPLY_ERRORS as error:
                self._metrics.failed(self.ip_version)
                log.warning(
                    "rules are not as wanted, trying again family=%d delay_s=%.1f error=%s",
                    self.ip_version, delay_s, error,
                )  # fmt: skip
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
                self.applier.forget()
                self._due.set()
                continue
            delay_s = RETRY_FIRST_S
            if not is_ready:
                is_ready = True
                log.info(
                    "ready family=%d mode=%s services=%d", self.ip_version, self.applier.mode, len(self.book.decided)
                )
                group.create_task(self._repair())
                group.create_task(self._compare_now_and_then())
                group.create_task(self._keep_flows())
                ready()
            # Changes that come while this waits are gathered; after a quiet time nothing waits.
            await asyncio.sleep(pause_s)

    async def sync(self) -> None:
        """Bring the kernel to what the tracker knows."""
        began, cpu_began = time.perf_counter(), time.process_time()
        fresh = self.tracker.take_changes()
        self.book.update(self.tracker, fresh)
        waiting, self._waiting = self._waiting, Waiting()
        waiting.services |= fresh
        try:
            result = await self.applier.sync(self.book.decided, waiting.services)
        except BaseException:
            self._waiting.services |= waiting.services
            self._waiting.triggered = {**self._waiting.triggered, **waiting.triggered}
            raise
        now_s = time.time()
        took_s = time.perf_counter() - began
        self._metrics.synced(self.ip_version, took_s, [now_s - made_s for made_s in waiting.triggered.values()], now_s)
        if not self._due.is_set():
            self.is_behind = False
        self._told(self.ip_version)
        if result.written_bytes:
            log.log(
                logging.INFO if took_s > 0.05 or result.refused else logging.DEBUG,
                "rules are written family=%d services=%d changed=%d bytes=%d refused=%d ms=%.1f cpu_ms=%.1f",
                self.ip_version, len(self.book.decided), len(waiting.services), result.written_bytes,
                len(result.refused), took_s * 1000, (time.process_time() - cpu_began) * 1000,
            )  # fmt: skip
        self._note_flows(waiting.services)

    def _note_flows(self, changed: set[str]) -> None:
        """Have flows looked at where a Service with a UDP port has changed."""
        ports = self.tracker.ports
        speaking = {name for name in changed if any(port.name.protocol == "UDP" for port in ports.get(name, ()))}
        if speaking or self._udp_services & changed or self._flows.is_new:
            self._udp_services = (self._udp_services - changed) | speaking
            self._flows_due.set()

    async def _keep_flows(self) -> None:
        while True:
            await self._flows_due.wait()
            self._flows_due.clear()
            await self._drop_stale_flows()
            await asyncio.sleep(self._config.min_sync_period_of(self.applier.mode))

    async def _drop_stale_flows(self) -> None:
        wanted = conntrack.fronts(self.tracker)
        if not self._flows.differs(wanted):
            return
        began = time.perf_counter()
        try:
            dropped = await asyncio.to_thread(self._flows.reconcile, wanted, self.local_addresses)
        except (OSError, NetlinkError) as error:
            log.warning("stale UDP flows cannot be looked for, trying again error=%s", error)
            await asyncio.sleep(RETRY_FIRST_S)
            self._flows_due.set()
            return
        self._metrics.reconciled(self.ip_version, dropped, time.perf_counter() - began)
        if dropped:
            log.info("stale UDP flows are dropped count=%d", dropped)

    async def _repair(self) -> None:
        while True:
            told = await self.applier.disturbed(self._config.canary_interval_s)
            log.warning("rules were changed by somebody, comparing family=%d what=%s", self.ip_version, told)
            self.applier.forget()
            self.wake()
            await asyncio.sleep(DISTURBED_PAUSE_S)

    async def _compare_now_and_then(self) -> None:
        while True:
            took_s = self.applier.last_read_s
            period_s = self._config.sync_period_of(self.applier.mode)
            await asyncio.sleep(max(period_s, took_s / READING_SHARE_MAX))
            self.applier.forget()
            self._due.set()


Families = Mapping[int, FamilyLoop]
