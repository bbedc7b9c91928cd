"""The kubelet: hands each pod of this node to a worker, and keeps the node clean of everything else."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import PODS, SERVICES
from control.client.client import Client
from control.client.events import EventRecorder
from control.client.informer import Informer
from node import bootstrap, dns, mounts, node_facts
from node import pod_words as w
from node.cgroups import Cgroups
from node.config import KubeletConfig
from node.cri import Cri, CriError
from node.handlers import Handlers
from node.image_gc import ImageCollector
from node.images import Images
from node.log_rotation import LogRotation
from node.node_status import NodeStatus
from node.pleg import Pleg
from node.pod_runtime import NodeServices
from node.pod_worker import PodWorker
from node.runtime import ContainerInfo
from node.server.app import KubeletServer
from node.sources import ApiSources
from node.status_manager import StatusManager

log = logging.getLogger(__name__)

WORKER_RESTART_S = 2.0
RUNTIME_STALE_S = 180.0
ORPHAN_GRACE_S = 2.0


@dataclass
class _Running:
    """A worker and the task that runs it."""

    worker: PodWorker
    task: asyncio.Task[None]


class Kubelet:
    """All parts of one node's kubelet, wired together."""

    def __init__(self, config: KubeletConfig, client: Client, cri: Cri) -> None:
        self.config = config
        self.client = client
        self.cri = cri
        facts = node_facts.read(config)
        self.pods = Informer(client, PODS, field_selector=f"spec.nodeName={config.node_name}")
        self.services = Informer(client, SERVICES)
        self.recorder = EventRecorder(client, "kubelet", config.node_name)
        self.status = StatusManager(client, self._latest)
        self.pleg = Pleg(cri, config.relist_period_s, self._observed, self._describe)
        self.node = NodeStatus(config, client, cri, facts, self._runtime_alive)
        self.workers: dict[str, _Running] = {}
        self.started_at = time.monotonic()
        resolv_conf = config.resolv_conf
        text = resolv_conf.read_text() if resolv_conf.exists() else ""
        self.shared = NodeServices(
            config=config,
            cri=cri,
            images=Images(cri, config.image_pulls_max),
            handlers=Handlers(cri),
            sources=ApiSources(client),
            recorder=self.recorder,
            cgroups=Cgroups(),
            services=self.services.objects,
            host_ips=lambda: self.node.host_ips,
            allocatable=self.node.allocatable,
            memory_bytes=facts.memory_bytes,
            node_dns=dns.parse_resolv_conf(text),
        )
        self._group: asyncio.TaskGroup | None = None
        self.server = KubeletServer(self)

    async def run(self) -> None:
        """Run until cancelled; containers go on without us."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._start(group, self.status.run())
            self._start(group, self.recorder.run())
            self._start(group, self.node.run())
            self._start(group, self.services.run())
            self._start(group, self.pleg.run())
            self._start(group, self.server.run())
            self._start(group, LogRotation(self.config, self.cri, self.pleg).run())
            self._start(group, ImageCollector(self.config, self.cri, self.pleg).run())
            self.pods.add_handler(self._pod_changed)
            await self.services.wait_synced()  # a container's variables must not depend on a race
            self._start(group, self.pods.run())
            await self.pods.wait_synced()
            log.info("ready node=%s pods=%d", self.config.node_name, len(self.workers))
            await self._housekeeping()

    def _start(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        group.create_task(work)

    # --- pods -----------------------------------------------------------------------------------------

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            assert old is not None
            running = self.workers.get(meta.uid(old))
            if running is not None:
                running.worker.tell(w.PodUpdated(old))
                running.worker.tell(w.PodRemoved())
            return
        running = self.workers.get(meta.uid(new))
        if running is not None:
            running.worker.tell(w.PodUpdated(new))
        else:
            self._begin(new)

    def _begin(self, pod: Object) -> None:
        assert self._group is not None
        worker = PodWorker(self.shared, pod, self.status, self.pleg.request)
        self.workers[meta.uid(pod)] = _Running(worker, self._group.create_task(self._run_worker(worker)))

    async def _run_worker(self, worker: PodWorker) -> None:
        """Run a pod; a fault in one pod's handling is told and begun anew, the others never feel it."""
        pod = worker.runtime.pod
        try:
            await worker.run()
        except* Exception:
            log.exception("pod worker failed pod=%s story=%s", meta.key(pod), worker.machine.story()[-20:])
            await asyncio.sleep(WORKER_RESTART_S)
        self.workers.pop(worker.uid, None)
        latest = self._latest(pod)
        if latest is not None:
            self._begin(latest)
        else:
            self.status.forget(worker.uid)

    def _latest(self, pod: Object) -> Object | None:
        found = self.pods.get(meta.key(pod))
        return found if found is not None and meta.uid(found) == meta.uid(pod) else None

    def _observed(self, uid: str, observed: w.Observed) -> None:
        running = self.workers.get(uid)
        if running is not None:
            running.worker.tell(observed)

    async def _describe(self, info: ContainerInfo) -> ContainerInfo:
        running = self.workers.get(info.pod_uid)
        return await running.worker.runtime.describe(info) if running is not None else info

    def _runtime_alive(self) -> bool:
        return time.monotonic() - max(self.pleg.healthy_at, self.started_at) < RUNTIME_STALE_S

    # --- housekeeping ---------------------------------------------------------------------------------

    async def _housekeeping(self) -> None:
        """Remove what no pod of the API server owns: sandboxes, containers, folders, cgroups."""
        while True:
            if self.pods.has_synced and self.pleg.healthy_at:
                try:
                    await self._remove_orphans()
                except (CriError, OSError) as error:
                    log.warning("housekeeping failed error=%s", error)
            await asyncio.sleep(self.config.housekeeping_period_s)

    async def _remove_orphans(self) -> None:
        for uid in self.pleg.pods - set(self.workers):
            await self._remove_orphan(uid)
        known = set(self.workers) | self.pleg.pods
        folder = self.config.root_dir / "pods"
        for entry in await asyncio.to_thread(_entries, folder):
            if entry.name not in known:
                await asyncio.to_thread(mounts.remove_tree, entry)
        for entry in await asyncio.to_thread(_entries, self.config.pod_logs_dir):
            if entry.name.rpartition("_")[2] not in known and entry.name.count("_") == 2:
                await asyncio.to_thread(shutil.rmtree, entry, True)
        if self.config.enforce_pod_cgroups and self.config.cgroup_driver == "cgroupfs":
            kubepods = f"{self.config.cgroup_root.rstrip('/')}/kubepods"
            for uid in self.shared.cgroups.pods(kubepods) - known:
                for tier in ("", "burstable/", "besteffort/"):
                    self.shared.cgroups.remove(f"{kubepods}/{tier}pod{uid}")

    async def _remove_orphan(self, uid: str) -> None:
        sandboxes = [info for info in self.pleg.sandboxes if info.pod_uid == uid]
        ids = {info.id for info in sandboxes}
        log.info("removing an orphaned pod uid=%s sandboxes=%d", uid, len(sandboxes))
        for container in [info for info in self.pleg.containers if info.pod_uid == uid or info.sandbox_id in ids]:
            if container.live:
                await self.cri.stop_container(container.id, ORPHAN_GRACE_S)
            await self.cri.remove_container(container.id)
        for sandbox in sandboxes:
            await self.cri.stop_sandbox(sandbox.id)
            await self.cri.remove_sandbox(sandbox.id)
        self.pleg.poke()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


async def run(config: KubeletConfig) -> None:
    """Join the cluster if this node has not yet, then run the kubelet until cancelled."""
    await asyncio.to_thread(config.root_dir.mkdir, parents=True, exist_ok=True)
    await asyncio.to_thread(config.pod_logs_dir.mkdir, parents=True, exist_ok=True)
    kubeconfig = await bootstrap.join(config)
    client = kubeconfig.client("kubelet")
    cri = Cri(config.container_runtime_endpoint)
    try:
        kubelet = Kubelet(config, client, cri)
        async with asyncio.TaskGroup() as group:
            group.create_task(kubelet.run())
            group.create_task(bootstrap.rotate_forever(config, client))
    finally:
        await cri.close()
        await client.close()
