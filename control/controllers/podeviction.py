"""Take pods off nodes that do not want them (NoExecute taints), and remove pods whose node is gone."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES, PODS
from control.api.status import ApiError
from control.client.actions import Delete, Patch, Tell
from control.client.client import STRATEGIC_MERGE_PATCH, DeleteOptions
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers import nodehealth as health
from control.controllers import pods as facts
from control.controllers.nodelifecycle import BY_NODE, by_node

log = logging.getLogger(__name__)

QUARANTINE_S = 40.0
"""How long a node must be missing before its pods are removed: a cache may be behind."""
COLLECT_EVERY_S = 20.0
TERMINATED_MAX = 12500
DELETION_REASON = "DeletionByTaintManager"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


class TaintEvictionController:
    """Evicts pods by the NoExecute taints of their nodes; keys are pods."""

    name = "taint-eviction-controller"
    workers = 4

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._nodes = context.informer(NODES)
        self._pods = context.informer(PODS)
        self._pods.add_indexer(BY_NODE, by_node)
        self._pods.add_handler(self._pod_changed)
        self._nodes.add_handler(self._node_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        """Only a pod that came to a node, or whose tolerations changed, has a new time to leave."""
        if new is None:
            return
        node = self._nodes.get(facts.node_name(new))
        if node is not None and self._evicts(node):
            self.queue.add(meta.key(new))

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            return
        if self._evicts(new) or (old is not None and self._evicts(old)):
            for pod in self._pods.by_index(BY_NODE, meta.name(new)):
                self.queue.add(meta.key(pod))

    @staticmethod
    def _evicts(node: Object) -> bool:
        return any(taint.get("effect") == "NoExecute" for taint in (node.get("spec") or {}).get("taints") or [])

    async def background(self) -> None:
        """The queue's delays are the clock."""

    async def sync(self, key: str) -> float | None:
        """Delete one pod when its time has come; return the seconds until then."""
        pod = self._pods.get(key)
        if pod is None or meta.is_being_deleted(pod) or facts.is_finished(pod):
            return None
        node = self._nodes.get(facts.node_name(pod))
        if node is None:
            return None
        now = self._context.now()
        leave = health.eviction_time(pod, node, now)
        if leave is None:
            return None
        if leave > now:
            return (leave - now).total_seconds()
        if (meta.condition(pod, "DisruptionTarget") or {}).get("reason") != DELETION_REASON:
            await self._announce(pod, now)
        namespace, name = meta.namespace(pod), meta.name(pod)
        await self._context.write(Delete(PODS, namespace, name, DeleteOptions(uid=meta.uid(pod))))
        log.info("pod evicted by taint pod=%s node=%s", key, meta.name(node))
        return None

    async def _announce(self, pod: Object, now: datetime) -> None:
        """Say in an event and in a condition why the pod goes."""
        namespace, name = meta.namespace(pod), meta.name(pod)
        text = f"Marking for deletion Pod {namespace}/{name}"
        await self._context.write(Tell(pod, "Normal", "TaintManagerEviction", text))
        entry = {
            "type": "DisruptionTarget", "status": "True", "reason": DELETION_REASON,
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": facts.format_time(now),
        }  # fmt: skip
        patch: dict[str, Any] = {"metadata": {"uid": meta.uid(pod)}, "status": {"conditions": [entry]}}
        try:
            await self._context.write(Patch(PODS, namespace, name, patch, "status", STRATEGIC_MERGE_PATCH))
        except ApiError as error:
            if error.code not in (404, 409):
                raise


def orphaned(
    pods: Iterable[Object], nodes: set[str], missing_since: dict[str, datetime], now: datetime
) -> list[Object]:
    """Return pods whose node has been missing for the quarantine; `missing_since` is brought up to date."""
    bound = [pod for pod in pods if facts.node_name(pod) and facts.node_name(pod) not in nodes]
    missing = {facts.node_name(pod) for pod in bound}
    for name in set(missing_since) - missing:
        del missing_since[name]
    for name in missing:
        missing_since.setdefault(name, now)
    limit = timedelta(seconds=QUARANTINE_S)
    return [pod for pod in bound if now - missing_since[facts.node_name(pod)] >= limit]


def surplus_finished(pods: Iterable[Object], most: int) -> list[Object]:
    """Return the oldest finished pods beyond a number."""
    finished = sorted(
        (pod for pod in pods if facts.is_finished(pod) and not meta.is_being_deleted(pod)), key=facts.created
    )
    return finished[: max(0, len(finished) - most)] if most > 0 else []


def abandoned(pods: Iterable[Object], nodes: Iterable[Object]) -> list[Object]:
    """Return deleted pods that nobody will end: never scheduled, or on a node declared out of service."""
    out = {
        meta.name(node)
        for node in nodes
        if health.ready_status(node) != "True"
        and any(taint.get("key") == OUT_OF_SERVICE for taint in (node.get("spec") or {}).get("taints") or [])
    }
    return [
        pod for pod in pods
        if meta.is_being_deleted(pod) and (not facts.node_name(pod) or facts.node_name(pod) in out)
    ]  # fmt: skip


class PodCollector:
    """Removes pods that no kubelet will remove; its one key stands for the whole round."""

    name = "pod-garbage-collector"
    workers = 1

    def __init__(self, context: Context, terminated_max: int = TERMINATED_MAX) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._terminated_max = terminated_max
        self._nodes = context.informer(NODES)
        self._pods = context.informer(PODS)
        self._missing_since: dict[str, datetime] = {}
        self._nodes.add_handler(enqueue(self.queue, lambda _: "round"))

    async def background(self) -> None:
        """Begin the first round."""
        self.queue.add("round")

    async def sync(self, key: str) -> float | None:
        """Make one round."""
        nodes, pods = self._nodes.objects(), self._pods.objects()
        now = self._context.now()
        names = {meta.name(node) for node in nodes}
        for pod in orphaned(pods, names, self._missing_since, now):
            if await self._is_missing(facts.node_name(pod)):
                await self._remove(pod, "its node is gone")
        for pod in abandoned(pods, nodes):
            await self._remove(pod, "nobody will end it")
        for pod in surplus_finished(pods, self._terminated_max):
            await self._remove(pod, "too many finished pods")
        return COLLECT_EVERY_S

    async def _is_missing(self, node: str) -> bool:
        try:
            await self._context.client.get(NODES, node)
        except ApiError as error:
            if error.code == 404:
                return True
            raise
        return False

    async def _remove(self, pod: Object, why: str) -> None:
        options = DeleteOptions(grace_period_seconds=0, uid=meta.uid(pod))
        await self._context.write(Delete(PODS, meta.namespace(pod), meta.name(pod), options))
        log.info("pod removed pod=%s node=%s why=%s", meta.key(pod), facts.node_name(pod), why)
