"""Registers the node and keeps its status and its Lease."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import LEASES, NODES
from control.api.status import ApiError
from control.client.client import STRATEGIC_MERGE_PATCH, Client
from node import node_facts
from node.config import KubeletConfig
from node.cri import Cri, CriError
from node.node_facts import MachineFacts
from node.runtime import ImageInfo, RuntimeVersion
from node.status import timestamp

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
RETRY_FIRST_S, RETRY_MAX_S = 0.2, 5.0
RUNTIME_CHECK_FIRST_S, RUNTIME_CHECK_MAX_S = 0.1, 2.0
"""How often a node that is not ready looks whether it has become so: often at first, when it is just booting."""


class NodeStatus:
    """One node's voice to the API server."""

    def __init__(
        self, config: KubeletConfig, client: Client, cri: Cri, machine: MachineFacts, runtime_alive: Callable[[], bool]
    ) -> None:
        self._config = config
        self._client = client
        self._cri = cri
        self._machine = machine
        self._runtime_alive = runtime_alive
        self._reported: dict[str, Any] = {}
        self._reported_at = 0.0
        self._version: RuntimeVersion | None = None
        self._images: list[ImageInfo] = []
        self.node: Object = {}
        self.ready = False

    @property
    def host_ips(self) -> list[str]:
        """The node's addresses, the main one first."""
        return list(self._config.node_ips) or [self._machine.address]

    def allocatable(self) -> dict[str, str]:
        """Return what pods may ask for."""
        return node_facts.allocatable(self._machine, self._config)

    async def run(self) -> None:
        """Register, then report until cancelled."""
        await self._register()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease())
            group.create_task(self._keep_status())

    # --- the Node object --------------------------------------------------------------------------------

    async def _register(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            try:
                await self._register_once()
            except ApiError as error:
                log.warning("cannot register the node, retrying error=%s", error)
                await asyncio.sleep(delay_s)
                delay_s = min(RETRY_MAX_S, delay_s * 2)
            else:
                log.info("node is registered node=%s", self._config.node_name)
                return

    async def _register_once(self) -> None:
        status = await self._status({})
        wanted = node_facts.node_object(self._config, self._machine, status)
        try:
            self.node = await self._client.create(NODES, wanted)
            self._reported, self._reported_at = status, time.monotonic()
            return
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
        self.node = await self._client.get(NODES, self._config.node_name)
        patch: dict[str, Any] = {"metadata": {"labels": wanted["metadata"]["labels"]}}
        await self._client.patch(NODES, self._config.node_name, patch, patch_type=STRATEGIC_MERGE_PATCH)

    async def _status(self, node: Object) -> dict[str, Any]:
        """Return the status as it is now; `node` is the stored object, which says since when a condition stands."""
        runtime = await self._runtime_conditions()
        conditions = node_facts.conditions(self._machine, self._config, runtime)
        self.ready = next(entry for entry in conditions if entry["type"] == "Ready")["status"] == "True"
        now = timestamp(time.time())
        for entry in conditions:
            known = meta.condition(node, entry["type"]) or {}
            same = known.get("status") == entry["status"]
            entry["lastTransitionTime"] = (known.get("lastTransitionTime") if same else None) or now
            entry["lastHeartbeatTime"] = now
        return node_facts.node_status(
            self._machine, self._config, self.host_ips, conditions, self._version, self._images
        )

    async def _runtime_conditions(self) -> dict[str, str]:
        """Return what keeps the runtime from being ready, by condition; empty when it is ready."""
        try:
            conditions = {entry.type: entry for entry in await self._cri.conditions()}
            if self._version is None:
                self._version = await self._cri.version()
            self._images = await self._cri.list_images()
        except CriError as error:
            self._version = None
            return {"RuntimeReady": f"container runtime is down: {error}"}
        found: dict[str, str] = {}
        for kind in ("RuntimeReady", "NetworkReady"):
            entry = conditions.get(kind)
            if entry is None or not entry.status:
                reason = entry.reason if entry else ""
                what = "network" if kind == "NetworkReady" else "runtime"
                text = entry.message if entry else "not reported"
                found[kind] = f"container runtime {what} not ready: {kind}=false reason:{reason} message:{text}"
        if not self._runtime_alive():
            found["RuntimeReady"] = "PLEG is not healthy: the runtime has not been listed for too long"
        return found

    async def _keep_status(self) -> None:
        check_s = RUNTIME_CHECK_FIRST_S
        while True:
            try:
                # The node controller marks a node Unknown that was silent for long: only the stored object tells.
                self.node = await self._client.get(NODES, self._config.node_name)
                status = await self._status(self.node)
                if self._worth_telling(status):
                    await self._tell(status)
                period_s = self._config.node_status_update_frequency_s
            except ApiError as error:
                log.warning("cannot report the node's status error=%s", error)
                if error.code == 404:
                    await self._register()
                period_s = RETRY_MAX_S
            check_s = RUNTIME_CHECK_FIRST_S if self.ready else min(RUNTIME_CHECK_MAX_S, check_s * 1.1)
            await asyncio.sleep(period_s if self.ready else min(period_s, check_s))

    def _worth_telling(self, status: dict[str, Any]) -> bool:
        if time.monotonic() - self._reported_at >= self._config.node_status_report_frequency_s:
            return True
        stored = {entry["type"]: entry["status"] for entry in (self.node.get("status") or {}).get("conditions") or ()}
        if any(stored.get(entry["type"]) != entry["status"] for entry in status["conditions"]):
            return True
        return node_facts.without_times(status) != node_facts.without_times(self._reported)

    async def _tell(self, status: dict[str, Any]) -> None:
        """Send the status; conditions merge by type, so that what others wrote stays.

        Addresses would merge by type, too, and a node has one InternalIP of each family: they are replaced as a whole.
        """
        addresses = [{"$patch": "replace"}, *status["addresses"]]
        patch = {"metadata": {"name": self._config.node_name}, "status": {**status, "addresses": addresses}}
        self.node = await self._client.patch(
            NODES, self._config.node_name, patch, patch_type=STRATEGIC_MERGE_PATCH, subresource="status"
        )
        self._reported, self._reported_at = status, time.monotonic()

    # --- the Lease ----------------------------------------------------------------------------------------

    async def _keep_lease(self) -> None:
        lease: Object | None = None
        while True:
            try:
                lease = await self._renew(lease)
                delay_s = self._config.lease_period_s
            except ApiError as error:
                log.warning("cannot renew the node's lease error=%s", error)
                lease, delay_s = None, min(1.0, self._config.lease_period_s)
            await asyncio.sleep(delay_s)

    async def _renew(self, lease: Object | None) -> Object:
        name = self._config.node_name
        if lease is None:
            try:
                lease = await self._client.get(LEASES, name, LEASE_NAMESPACE)
            except ApiError as error:
                if error.code != 404:
                    raise
                return await self._client.create(LEASES, self._lease(), LEASE_NAMESPACE)
        fresh = {**lease, "spec": {**(lease.get("spec") or {}), **self._lease()["spec"]}}
        return await self._client.update(LEASES, fresh)

    def _lease(self) -> Object:
        name = self._config.node_name
        owner = {
            "apiVersion": "v1",
            "kind": "Node",
            "name": name,
            "uid": (self.node.get("metadata") or {}).get("uid", ""),
        }
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
            "spec": {
                "holderIdentity": name,
                "leaseDurationSeconds": self._config.node_lease_duration_s,
                "renewTime": node_facts.micro_time(time.time()),
            },
        }
