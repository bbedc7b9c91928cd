"""The scheduler's shell: informers fill the columns and the queue; one loop decides, bindings run beside it."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES, PODS
from control.api.status import ApiError
from control.client import kubeconfig
from control.client.client import Client
from control.client.connect import connect
from control.client.election import Elector
from control.client.events import EventRecorder
from control.client.informer import Informer
from control.scheduler import binder
from control.scheduler.config import SchedulerConfig
from control.scheduler.cycle import decide
from control.scheduler.framework import Candidate, Decision
from control.scheduler.plugins.registry import default_filters, default_scorers
from control.scheduler.queue import SchedulingQueue
from control.scheduler.snapshot import Snapshot, pod_info

log = logging.getLogger(__name__)
USER_AGENT = "kube-scheduler/raftsman"
DECISIONS_KEPT = 1000
DECISIONS_AT_ONCE = 64
"""Decisions before other tasks get a turn."""


def is_over(pod: Object) -> bool:
    """Tell whether a pod holds nothing any more."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def waits_for_us(pod: Object, scheduler_name: str) -> bool:
    """Tell whether a pod is ours to place, now."""
    spec = pod["spec"]
    ours = (spec.get("schedulerName") or "default-scheduler") == scheduler_name
    return ours and not spec.get("nodeName") and not spec.get("schedulingGates") and not meta.is_being_deleted(pod)


class Scheduler:
    """Places pods until cancelled."""

    def __init__(self, client: Client, config: SchedulerConfig) -> None:
        self._client, self._config = client, config
        self._snapshot, self._queue = Snapshot(), SchedulingQueue()
        self._filters, self._scorers = default_filters(), default_scorers()
        self._nodes = Informer(client, NODES)
        self._pods = Informer(client, PODS, field_selector="status.phase!=Succeeded,status.phase!=Failed")
        self._nodes.add_handler(self._on_node)
        self._pods.add_handler(self._on_pod)
        self._events = EventRecorder(client, config.scheduler_name)
        self._wake = asyncio.Event()
        self._binds = asyncio.Semaphore(config.binds_max)
        self._turn = 0
        self.decisions: dict[str, Decision] = {}
        """The latest decision of each recent pod: the answer to "why here" and "why pending"."""

    def _on_node(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            self._snapshot.remove_node(meta.name(old))
            return
        self._snapshot.put_node(new)
        if old is None or _matters(old) != _matters(new):
            self._changed()

    def _on_pod(self, old: Object | None, new: Object | None) -> None:
        if new is None or is_over(new):
            gone = new if new is not None else old
            assert gone is not None
            self._queue.remove(meta.key(gone))
            self._snapshot.remove_pod(meta.key(gone))
            if gone["spec"].get("nodeName"):
                self._changed()
            return
        node_name = new["spec"].get("nodeName")
        if node_name:
            self._queue.remove(meta.key(new))
            self._snapshot.put_pod(pod_info(new), node_name)
        elif waits_for_us(new, self._config.scheduler_name):
            self._queue.put(new, time.monotonic())
            self._wake.set()
        else:
            self._queue.remove(meta.key(new))

    def _changed(self) -> None:
        self._queue.cluster_changed(time.monotonic())
        self._wake.set()

    async def run(self) -> None:
        """Watch, decide and bind until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._nodes.run())
            tasks.create_task(self._pods.run())
            tasks.create_task(self._events.run())
            await self._nodes.wait_synced()
            await self._pods.wait_synced()
            log.info("scheduling nodes=%d waiting=%d", len(self._snapshot), len(self._queue))
            await self._place_all(tasks)

    async def _place_all(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            for _ in range(DECISIONS_AT_ONCE):
                await self._binds.acquire()
                if not self._place_one(tasks):
                    self._binds.release()
                    break
            else:
                await asyncio.sleep(0)
                continue
            await self._wait()

    async def _wait(self) -> None:
        """Wait for an event, or for the moment at which a pod becomes due."""
        now = time.monotonic()
        due = self._queue.next_due(now)
        try:
            async with asyncio.timeout(None if due is None else max(0.01, due - now)):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _place_one(self, tasks: asyncio.TaskGroup) -> bool:
        """Decide about one pod and start telling the API; False where none is active."""
        waiting = self._queue.take(time.monotonic())
        if waiting is None:
            return False
        pod, moves = waiting.pod, self._queue.moves
        info = pod_info(pod)
        self._turn += 1
        decision = decide(Candidate(pod, info), self._snapshot, self._filters, self._scorers, self._turn)
        self._remember(info.key, decision)
        if decision.node_name is None:
            tasks.create_task(self._refuse(pod, decision, moves))
        else:
            self._snapshot.put_pod(info, decision.node_name)
            tasks.create_task(self._bind(pod, decision.node_name, moves))
        return True

    def _remember(self, key: str, decision: Decision) -> None:
        self.decisions.pop(key, None)
        self.decisions[key] = decision
        if len(self.decisions) > DECISIONS_KEPT:
            del self.decisions[next(iter(self.decisions))]

    async def _bind(self, pod: Object, node_name: str, moves: int) -> None:
        key = meta.key(pod)
        try:
            await binder.bind(self._client, pod, node_name)
        except ApiError as error:
            log.warning("binding failed pod=%s node=%s error=%s", key, node_name, error.message)
            self._snapshot.remove_pod(key)
            if error.reason == "NotFound":
                self._queue.remove(key)
            else:
                self._queue.fail(key, time.monotonic(), moves_before=moves, unschedulable=False)
                self._wake.set()
        else:
            self._queue.remove(key)
            self._events.event(pod, "Normal", "Scheduled", f"Successfully assigned {key} to {node_name}")
        finally:
            self._binds.release()

    async def _refuse(self, pod: Object, decision: Decision, moves: int) -> None:
        key, message = meta.key(pod), decision.message()
        try:
            self._queue.fail(key, time.monotonic(), moves_before=moves, unschedulable=True)
            self._events.event(pod, "Warning", "FailedScheduling", message)
            await binder.report_unschedulable(self._client, pod, message, datetime.now(UTC))
        except ApiError as error:
            log.warning("status not written pod=%s error=%s", key, error.message)
        finally:
            self._binds.release()
            self._wake.set()


def _matters(node: Object) -> tuple[object, ...]:
    """Return what of a node can make a waiting pod fit."""
    spec, status = node.get("spec") or {}, node.get("status") or {}
    return (status.get("allocatable"), spec.get("taints"), spec.get("unschedulable"), meta.labels(node))


async def run(config: SchedulerConfig) -> None:
    """Run the scheduler until cancelled, only while it leads where that is asked for."""
    client = connect(kubeconfig.load(config.kubeconfig), USER_AGENT)
    try:
        if config.election is None:
            await Scheduler(client, config).run()
        else:
            await Elector(client, config.election).run(lambda: Scheduler(client, config).run())
    finally:
        await client.close()
