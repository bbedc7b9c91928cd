"""Node lifecycle: notice nodes that fell silent, say so in their status, taint them, mark their pods not ready."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import LEASES, NODES, PODS
from control.api.status import ApiError
from control.client.actions import Patch, Tell
from control.client.client import STRATEGIC_MERGE_PATCH
from control.client.runner import Context
from control.client.workqueue import TokenBucket, WorkQueue
from control.controllers import nodehealth as health
from control.controllers import pods as facts

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
BY_NODE = "node"


@dataclass(frozen=True)
class NodeLifecycleConfig:
    """The timers and rates; the defaults are upstream's."""

    monitor_period_s: float = 5.0
    """How often nodes are looked at."""
    grace_period_s: float = 50.0
    """How long a node may be silent."""
    startup_grace_period_s: float = 60.0
    """How long a new node may be silent before its first status."""
    eviction_rate: float = 0.1
    """How many nodes a second are tainted so that their pods leave, in a zone that is well."""
    secondary_eviction_rate: float = 0.01
    """The same in a large zone of which much fails."""
    large_cluster_size: int = 50
    """From how many nodes on a zone is large."""
    unhealthy_zone_threshold: float = 0.55
    """Which part of a zone must fail for the secondary rate."""


def by_node(pod: Object) -> tuple[str, ...]:
    """Index pods by their node."""
    name = facts.node_name(pod)
    return (name,) if name else ()


class NodeLifecycleController:
    """Watches over the nodes; keys are nodes whose status may have changed."""

    name = "nodelifecycle"
    workers = 2

    def __init__(self, context: Context, config: NodeLifecycleConfig) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._config = config
        self._nodes = context.informer(NODES)
        self._pods = context.informer(PODS)
        self._leases = context.informers.of(LEASES, LEASE_NAMESPACE)
        self._pods.add_indexer(BY_NODE, by_node)
        self._signs: dict[str, health.Sign] = {}
        self._buckets: dict[str, tuple[float, TokenBucket]] = {}
        self._nodes.add_handler(self._changed)
        self._leases.add_handler(self._renewed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        for node in (old, new):
            if node is not None:
                self._see(meta.name(node))
                self.queue.add(meta.name(node))

    def _renewed(self, old: Object | None, new: Object | None) -> None:
        if new is not None:
            self._see(meta.name(new))

    def _see(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is None:
            self._signs.pop(name, None)
            return
        lease = self._leases.get(f"{LEASE_NAMESPACE}/{name}")
        self._signs[name] = health.observe(self._signs.get(name), node, lease, self._context.now())

    async def background(self) -> None:
        """Queue all nodes each period: silence makes no event."""
        while True:
            for node in self._nodes.objects():
                self.queue.add(meta.name(node))
            await asyncio.sleep(self._config.monitor_period_s)

    async def sync(self, key: str) -> float | None:
        """Look at one node."""
        node = self._nodes.get(key)
        if node is None:
            return None
        self._see(key)
        now, config = self._context.now(), self._config
        status = health.judge(
            node, self._signs[key], now,
            timedelta(seconds=config.grace_period_s), timedelta(seconds=config.startup_grace_period_s),
        )  # fmt: skip
        if status is not None:
            log.warning("node is silent node=%s since=%s", key, self._signs[key].seen)
            node = await self._context.client.update(NODES, {**node, "status": status}, subresource="status")
        wait = await self._taint(node)
        if meta.condition(node, "Ready") is not None and health.ready_status(node) != "True":
            await self._mark_pods(node)
        return wait

    async def _taint(self, node: Object) -> float | None:
        """Put the taints that the conditions ask for; return when to try again if the rate forbids it now."""
        now = self._context.now()
        stored = (node.get("spec") or {}).get("taints") or []
        wished = health.wished_taints(node, now, may_evict=False)
        wanted = health.wished_taints(node, now, may_evict=True)
        wait: float | None = None
        if not health.same_taints(wished, wanted):
            allowed, wait = self._may_evict(node)
            wished = wanted if allowed else wished
        if health.same_taints(stored, wished):
            return wait
        change: dict[str, Any] = {
            "metadata": {"resourceVersion": meta.resource_version(node)}, "spec": {"taints": wished or None},
        }  # fmt: skip
        await self._context.write(Patch(NODES, "", meta.name(node), change))
        log.info("node tainted node=%s taints=%s", meta.name(node), ",".join(taint["key"] for taint in wished))
        return wait

    def _may_evict(self, node: Object) -> tuple[bool, float | None]:
        """Tell whether the node's zone has a token left, and when it may have one."""
        config, now = self._config, self._context.now().timestamp()
        every, name = health.zones(self._nodes.objects()), health.zone_name(node)
        rate = health.eviction_rate(
            every.get(name, health.Zone(0, 1)), every, config.eviction_rate, config.secondary_eviction_rate,
            config.large_cluster_size, config.unhealthy_zone_threshold,
        )  # fmt: skip
        if rate <= 0.0:
            return False, config.monitor_period_s
        known = self._buckets.get(name)
        if known is None or known[0] != rate:
            known = (rate, TokenBucket(rate, 1))
            self._buckets[name] = known
        wait = known[1].reserve(now)
        if wait > 0.0:
            known[1].give_back()
            return False, min(wait, config.monitor_period_s)
        return True, None

    async def _mark_pods(self, node: Object) -> None:
        """Say of the node's pods that they are not ready, since nobody else can any more."""
        for pod in self._pods.by_index(BY_NODE, meta.name(node)):
            if not facts.is_ready(pod):
                continue
            entry = meta.condition(pod, "Ready") or {}
            stamp = facts.format_time(self._context.now())
            change = {"type": "Ready", "status": "False", "lastTransitionTime": stamp,
                      "reason": entry.get("reason"), "message": entry.get("message")}  # fmt: skip
            change = {key: value for key, value in change.items() if value is not None}
            patch = {"metadata": {"uid": meta.uid(pod)}, "status": {"conditions": [change]}}
            try:
                await self._context.write(
                    Patch(PODS, meta.namespace(pod), meta.name(pod), patch, "status", STRATEGIC_MERGE_PATCH)
                )
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
                continue
            await self._context.write(Tell(pod, "Warning", "NodeNotReady", "Node is not ready"))
