"""Run NetworkPolicy: watch, plan, bring the kernel to the plan, hold new pods until they are isolated.

    NetworkPolicy, Namespace or Pod → model (parsed) → book (planned) → due → applier (written)

Nothing is written before all first lists are complete: who knows half of the policies would take the
other half's rules away. While the API server is gone, everything stays as it stands.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import time
from wsgiref.simple_server import WSGIServer

from control.api import meta
from control.api.meta import Object
from control.api.resources import NAMESPACES, NETWORK_POLICIES, PODS
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net.cni.gate import NotYet, PodReference
from net.nftables.errors import NftablesError
from net.policy.apply import PolicyApplier, SyncResult
from net.policy.config import PolicyConfig
from net.policy.kernel import AbsentTable, PolicyTable, open_table
from net.policy.metrics import PolicyMetrics
from net.policy.model import MIRROR_ANNOTATIONS, Pod, canonical, parse_pod, parse_policy
from net.policy.plan import PolicyBook

log = logging.getLogger(__name__)
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 10.0


def keep_pod_facts(pod: Object) -> Object:
    """Keep of a pod what decides: there are as many as the cluster has."""
    metadata, spec, status = (pod.get(part) or {} for part in ("metadata", "spec", "status"))
    notes = metadata.get("annotations") or {}
    kept = {
        name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion", "labels") if name in metadata
    }
    mirrored = {name: notes[name] for name in MIRROR_ANNOTATIONS if name in notes}
    if mirrored:
        kept["annotations"] = mirrored
    slim_spec: Object = {name: spec[name] for name in ("nodeName", "hostNetwork") if name in spec}
    for part in ("initContainers", "containers"):
        named = [
            {"ports": ports}
            for container in spec.get(part) or ()
            if (ports := [port for port in container.get("ports") or () if port.get("name")])
        ]
        if named:
            slim_spec[part] = named
    slim_status = {name: status[name] for name in ("phase", "podIP", "podIPs") if name in status}
    return {"metadata": kept, "spec": slim_spec, "status": slim_status}


def keep_labels(namespace: Object) -> Object:
    """Keep a namespace's labels."""
    metadata = namespace.get("metadata") or {}
    return {
        "metadata": {name: metadata[name] for name in ("name", "uid", "resourceVersion", "labels") if name in metadata}
    }


def keep_spec(policy: Object) -> Object:
    """Keep what a policy means."""
    metadata = policy.get("metadata") or {}
    kept = {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in metadata}
    return {"metadata": kept, "spec": policy.get("spec") or {}}


class PolicyServer:
    """Compose the loop, and be the gate that new pods wait at."""

    def __init__(self, config: PolicyConfig, client: Client, table: PolicyTable | None = None) -> None:
        self._config = config
        self._table = table
        self._name = config.hostname_override or sockets.gethostname().lower()
        self.book = PolicyBook(self._name)
        self.metrics = PolicyMetrics()
        self._applier: PolicyApplier | None = None
        self._due = asyncio.Event()
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()
        self._lock = asyncio.Lock()
        self._asked = self._done = 0
        self._due_since_s: float | None = None
        policies = Informer(client, NETWORK_POLICIES, transform=keep_spec)
        namespaces = Informer(client, NAMESPACES, transform=keep_labels)
        pods = Informer(client, PODS, transform=keep_pod_facts)
        policies.add_handler(self._policy_changed)
        namespaces.add_handler(self._namespace_changed)
        pods.add_handler(self._pod_changed)
        self._informers = [policies, namespaces, pods]

    # What the hub tells

    def _policy_changed(self, old: Object | None, new: Object | None) -> None:
        policy = parse_policy(new) if new is not None else None
        if policy is not None and policy.faults:
            log.warning("policy is not understood in part policy=%s faults=%s", policy.key, "; ".join(policy.faults))
        self.book.policy_changed(meta.key(new or old or {}), policy)
        self._note()

    def _namespace_changed(self, old: Object | None, new: Object | None) -> None:
        self.book.namespace_changed(meta.name(new or old or {}), meta.labels(new) if new is not None else None)
        self._note()

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        self.book.pod_changed(meta.key(new or old or {}), parse_pod(new) if new is not None else None)
        self._changed.set()
        self._note()

    def _note(self) -> None:
        if self._due_since_s is None:
            self._due_since_s = time.monotonic()
        self._due.set()

    # The loop

    async def serve(self) -> None:
        """Keep the table until cancelled."""
        table = self._table or open_table()
        if isinstance(table, AbsentTable):
            log.error("the kernel has no nf_tables: pods that a NetworkPolicy selects cannot start here")
        self._applier = PolicyApplier(self.book, table)
        metrics_server = self._serve_metrics()
        try:
            async with asyncio.TaskGroup() as group:
                for informer in self._informers:
                    group.create_task(informer.run())
                group.create_task(self._watch_table(table))
                for informer in self._informers:
                    await informer.wait_synced()
                self._synced.set()
                log.info("ready node=%s policies=%d", self._name, len(self.book.policies))
                group.create_task(self._settle())
                group.create_task(self._compare_now_and_then())
                await self._work()
        finally:
            if metrics_server is not None:
                metrics_server.shutdown()
                metrics_server.server_close()
            table.close()

    def _serve_metrics(self) -> WSGIServer | None:
        if not self._config.metrics_bind_address:
            return None
        try:
            return self.metrics.serve(self._config.metrics_bind_address)
        except OSError as error:
            log.warning("metrics are not served address=%s error=%s", self._config.metrics_bind_address, error)
            return None

    async def _work(self) -> None:
        delay_s = RETRY_FIRST_S
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.commit()
            except (NftablesError, OSError) as error:
                log.warning("rules are not as wanted, trying again error=%s delay_s=%.1f", error, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
                self._due.set()
                continue
            delay_s = RETRY_FIRST_S
            # Changes that come while this waits are gathered into the next sync.
            await asyncio.sleep(self._config.min_sync_period_s)

    async def commit(self) -> None:
        """Return once the plan as it is now is in force; those who wait at once share one sync."""
        assert self._applier is not None, "commit needs a running server"
        self._asked += 1
        wanted = self._asked
        async with self._lock:
            if self._done >= wanted:
                return
            covered = self._asked
            since_s, self._due_since_s = self._due_since_s, None
            began_s = time.monotonic()
            try:
                result = await self._sync(self._applier)
            except (NftablesError, OSError):
                self.metrics.failed()
                self._due_since_s = since_s if since_s is not None else self._due_since_s
                raise
            self._done = covered
            now_s = time.monotonic()
            waited_s = now_s - since_s if since_s is not None and result.wrote else None
            self.metrics.synced(now_s - began_s, waited_s, result, self._applier)
            self._tell(result, now_s - began_s)

    async def _sync(self, applier: PolicyApplier) -> SyncResult:
        try:
            return await applier.sync()
        except NftablesError as error:
            # Most likely the kernel does not hold what it was thought to: once more, from what it holds.
            log.info("sync failed, it is tried again from what stands error=%s", error)
            return await applier.sync()

    def _tell(self, result: SyncResult, took_s: float) -> None:
        if result.made or result.removed:
            log.info(
                "rules are written made=%d removed=%d elements_bytes=%d refused=%d ms=%.1f",
                result.made, result.removed, result.written_bytes, len(result.refused), took_s * 1000,
            )  # fmt: skip
        if not result.is_certain:
            self._due.set()

    async def _watch_table(self, table: PolicyTable) -> None:
        while True:
            events = await table.next_events()
            assert self._applier is not None
            if self._applier.note_events(events):
                self.metrics.tampered()
                log.warning("somebody changed our table, it is compared count=%d", len(events))
                self._note()

    async def _settle(self) -> None:
        assert self._applier is not None
        await asyncio.sleep(self._config.settle_s)
        if not self._applier.is_settled:
            self._applier.settle()
            self._due.set()

    async def _compare_now_and_then(self) -> None:
        assert self._applier is not None
        while True:
            await asyncio.sleep(self._config.sync_period_s)
            self._applier.forget()
            self._due.set()

    # The gate

    async def admit(self, pod: PodReference, addresses: tuple[str, ...]) -> None:
        """Return once the pod's isolation is in force at these addresses; raises NotYet."""
        if not pod.uid and not pod.name:
            return  # no pod of the hub's: a person tries the plugin
        began_s = time.monotonic()
        found = await self._find(pod)
        self.book.admit(found, canonical(addresses))
        try:
            await self.commit()
        except (NftablesError, OSError) as error:
            raise NotYet(f"the rules of pod {found.key} are not in force: {error}") from error
        self.metrics.admitted(time.monotonic() - began_s)

    async def _find(self, pod: PodReference) -> Pod:
        key = f"{pod.namespace}/{pod.name}"
        try:
            async with asyncio.timeout(self._config.pod_wait_s):
                await self._synced.wait()
                while True:
                    # Cleared before the look: a change between look and wait is not missed.
                    self._changed.clear()
                    found = self.book.find(pod.uid, key)
                    if found is not None:
                        return found
                    await self._changed.wait()
        except TimeoutError:
            what = (
                f"pod {key} uid {pod.uid} is not known yet" if self._synced.is_set() else "the first lists are not read"
            )
            raise NotYet(f"{what} to NetworkPolicy") from None

    def release(self, uid: str) -> None:
        """Forget the addresses of a pod that has no interface any more."""
        self.book.release(uid)
        self._note()


def make(config: PolicyConfig, client: Client | None = None) -> PolicyServer:
    """Make what `serve` runs and what the CNI daemon takes as its gate."""
    if client is None:
        assert config.kubeconfig is not None, "a kubeconfig or a client is needed"
        client = kubeconfig.load(config.kubeconfig).client("raftsman-policy")
    return PolicyServer(config, client)


async def run(config: PolicyConfig, client: Client | None = None) -> None:
    """Enforce NetworkPolicy on this node until cancelled."""
    await make(config, client).serve()
