"""The node loops: tell nodes what their provider knows of them, and let go of those whose machine is gone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES
from control.api.times import format_time
from control.client.actions import Action, Delete, Patch, Tell
from control.client.client import DeleteOptions
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.cloud.machine import Machine, ProviderError
from control.cloud.provider import Provider

log = logging.getLogger(__name__)

UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"
SHUT_DOWN = "node.cloudprovider.kubernetes.io/shutdown"
INSTANCE_TYPE = ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type")
ZONE = ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
REGION = ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region")
STATUS_UPDATE_PERIOD_S = 300.0
MONITOR_PERIOD_S = 5.0
PROVIDER_AGAIN_S = 10.0


def taints(node: Object) -> list[dict[str, Any]]:
    """Return spec.taints."""
    return (node.get("spec") or {}).get("taints") or []


def wished_labels(machine: Machine) -> dict[str, str]:
    """Return the labels that a machine gives its node."""
    labels: dict[str, str] = {}
    for names, value in ((INSTANCE_TYPE, machine.instance_type), (ZONE, machine.zone), (REGION, machine.region)):
        labels |= {name: value for name in names if value}
    return labels


def initialize(node: Object, machine: Machine) -> list[Action]:
    """Return what a node learns from its machine: provider ID, labels, and that it may be used."""
    spec: dict[str, Any] = {}
    if not (node.get("spec") or {}).get("providerID"):
        spec["providerID"] = machine.provider_id
    kept = [taint for taint in taints(node) if taint.get("key") != UNINITIALIZED]
    first = len(kept) != len(taints(node))
    if first:
        spec["taints"] = kept or None
    labels = {key: value for key, value in wished_labels(machine).items() if meta.labels(node).get(key) != value}
    actions: list[Action] = addresses(node, machine)
    if spec or labels:
        head: dict[str, Any] = {
            "resourceVersion": meta.resource_version(node),
            **({"labels": labels} if labels else {}),
        }
        change = {"metadata": head, **({"spec": spec} if spec else {})}
        # The spec goes first: writing the status changes the revision that guards it.
        actions.insert(0, Patch(NODES, "", meta.name(node), change))
    if first:
        actions.append(Tell(node, "Normal", "Synced", "Node synced successfully"))
    return actions


def addresses(node: Object, machine: Machine) -> list[Action]:
    """Return the update of status.addresses, if the machine knows better than the kubelet."""
    if not machine.addresses:
        return []
    known = dict(machine.addresses)
    wished = [{"type": kind, "address": address} for kind, address in machine.addresses]
    stored = (node.get("status") or {}).get("addresses") or []
    wished += [entry for entry in stored if entry.get("type") == "Hostname" and "Hostname" not in known]
    if wished == stored:
        return []
    return [Patch(NODES, "", meta.name(node), {"status": {"addresses": wished}}, "status")]


def is_ready(node: Object) -> bool:
    """Tell whether the node says that it is well."""
    return meta.condition_is_true(node, "Ready")


def follow_machine(node: Object, machine: Machine | None, stamp: str) -> list[Action]:
    """Return what becomes of a node that is not ready: gone with its machine, or marked as shut down."""
    marked = any(taint.get("key") == SHUT_DOWN for taint in taints(node))
    if is_ready(node) or (machine is not None and not machine.is_shut_down):
        if not marked:
            return []
        kept = [taint for taint in taints(node) if taint.get("key") != SHUT_DOWN]
        return [_taint(node, kept)]
    if machine is None:
        text = f"Deleting node {meta.name(node)} because it does not exist in the cloud provider"
        options = DeleteOptions(uid=meta.uid(node))
        return [Tell(node, "Normal", "DeletingNode", text), Delete(NODES, "", meta.name(node), options)]
    if marked:
        return []
    return [_taint(node, [*taints(node), {"key": SHUT_DOWN, "effect": "NoSchedule", "timeAdded": stamp}])]


def _taint(node: Object, wished: list[dict[str, Any]]) -> Patch:
    head = {"resourceVersion": meta.resource_version(node)}
    return Patch(NODES, "", meta.name(node), {"metadata": head, "spec": {"taints": wished or None}})


class CloudNodeController:
    """Initializes nodes and keeps their addresses and labels."""

    name = "cloud-node-controller"
    workers = 2

    def __init__(self, context: Context, provider: Provider, period_s: float = STATUS_UPDATE_PERIOD_S) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._provider = provider
        self._period_s = period_s
        self._nodes = context.informer(NODES)
        self._nodes.add_handler(self._changed)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if new is not None and (old is None or any(taint.get("key") == UNINITIALIZED for taint in taints(new))):
            self.queue.add(meta.key(new))

    async def background(self) -> None:
        """The queue's delays are the clock."""

    async def sync(self, key: str) -> float | None:
        """Bring one node to what its machine is."""
        node = self._nodes.get(key)
        if node is None:
            return None
        try:
            machine = await self._provider.machine(node)
        except ProviderError as error:
            log.warning("the provider does not answer node=%s error=%s", key, error)
            return PROVIDER_AGAIN_S
        if machine is not None:
            for action in initialize(node, machine):
                await self._context.write(action)
        return self._period_s


class CloudNodeLifecycleController:
    """Deletes or marks nodes whose machine is gone or shut down."""

    name = "cloud-node-lifecycle-controller"
    workers = 1

    def __init__(self, context: Context, provider: Provider, period_s: float = MONITOR_PERIOD_S) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._provider = provider
        self._period_s = period_s
        self._nodes = context.informer(NODES)
        self._nodes.add_handler(enqueue(self.queue))

    async def background(self) -> None:
        """Queue all nodes each period: a machine that goes makes no event here."""
        while True:
            for node in self._nodes.objects():
                self.queue.add(meta.name(node))
            await asyncio.sleep(self._period_s)

    async def sync(self, key: str) -> float | None:
        """Look at one node."""
        node = self._nodes.get(key)
        if node is None or meta.is_being_deleted(node):
            return None
        marked = any(taint.get("key") == SHUT_DOWN for taint in taints(node))
        if is_ready(node) and not marked:
            return None  # the provider is asked about nodes in trouble only
        try:
            machine = await self._provider.machine(node)
        except ProviderError as error:
            log.warning("the provider does not answer node=%s error=%s", key, error)
            return None
        for action in follow_machine(node, machine, format_time(self._context.now())):
            await self._context.write(action)
            log.info("node follows its machine node=%s action=%s", key, type(action).__name__)
        return None
