"""Hold the Leases of load balancers' addresses, and answer for those that this node holds.

    Service, Node, Lease, slices → plan (whose turn it is) → Lease written → responder (ARP, neighbour discovery)

A node that cannot renew a Lease falls silent before another may take it. A process that ends in order gives its Leases
back, so that others answer at once.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, LEASES, NODES, SERVICES
from control.api.status import ApiError
from control.client import kubeconfig
from control.client.client import Client, DeleteOptions
from control.client.election import microtime
from control.client.events import EventRecorder
from control.client.informer import Informer
from net.announce import plan
from net.announce.config import AnnounceConfig
from net.announce.plan import LEASE_LABEL, Announced, LeaseState, NodeState, Timers
from net.announce.responder import Responder
from net.netlink import NetlinkError, RouteEvents

log = logging.getLogger(__name__)

BY_SERVICE = "service"
SERVICE_ANNOTATION = "raftsman.dev/service"
RETRY_S = 0.5
ORPHAN_S = 60.0
"""How long a Lease without Service stands before any node removes it."""


def keep_node(node: Object) -> Object:
    """Keep of a Node what announcing depends on."""
    metadata, spec = node.get("metadata") or {}, node.get("spec") or {}
    kept = ("name", "uid", "resourceVersion", "labels", "deletionTimestamp")
    conditions = [entry for entry in (node.get("status") or {}).get("conditions") or () if entry.get("type") == "Ready"]
    return {
        "metadata": {name: metadata[name] for name in kept if name in metadata},
        "spec": {"unschedulable": bool(spec.get("unschedulable"))},
        "status": {"conditions": [{name: entry.get(name) for name in ("type", "status")} for entry in conditions]},
    }


def keep_places(slice_object: Object) -> Object:
    """Keep of a slice where its ready endpoints are."""
    metadata = slice_object.get("metadata") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels")
    entries = [
        {"nodeName": entry.get("nodeName"), "conditions": entry.get("conditions")}
        for entry in slice_object.get("endpoints") or ()
    ]
    return {"metadata": {name: metadata[name] for name in kept if name in metadata}, "endpoints": entries}


def by_service(slice_object: Object) -> list[str]:
    """Index slices by the Service that they are of."""
    name = meta.labels(slice_object).get(plan.SERVICE_NAME_LABEL)
    return [f"{meta.namespace(slice_object)}/{name}"] if name else []


class Announcer:
    """Compose the loop."""

    def __init__(self, config: AnnounceConfig, client: Client, responder: Responder) -> None:
        self._config, self._client, self._responder = config, client, responder
        self._name = config.hostname_override or sockets.gethostname().lower()
        self._timers = Timers(config.lease_duration_s)
        self._services = Informer(client, SERVICES, field_selector="spec.type=LoadBalancer")
        self._nodes = Informer(client, NODES, transform=keep_node)
        self._leases = Informer(client, LEASES, config.namespace, label_selector=LEASE_LABEL)
        self._slices = Informer(client, ENDPOINT_SLICES, transform=keep_places, indexers={BY_SERVICE: by_service})
        self._recorder = EventRecorder(client, "raftsman-announce", self._name)
        self._seen: dict[str, LeaseState] = {}
        """By Lease's name."""
        self._renewed: dict[str, float] = {}
        """When we last renewed each Lease that we hold, by its name: from before it was asked."""
        self._wakes = asyncio.Event()
        for informer in (self._services, self._nodes, self._slices):
            informer.add_handler(lambda _old, _new: self._wakes.set())
        self._leases.add_handler(self._lease_changed)
        self._wants_slices = asyncio.Event()
        self._silence: asyncio.TimerHandle | None = None

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _lease_changed(self, _old: Object | None, new: Object | None) -> None:
        name = meta.name(new or _old or {})
        if new is None:
            self._seen[name] = LeaseState(since=self._now())
        else:
            self._note(new)
        self._wakes.set()

    def _note(self, lease: Object) -> None:
        spec = lease.get("spec") or {}
        holder, duration_s = str(spec.get("holderIdentity") or ""), float(spec.get("leaseDurationSeconds") or 0)
        self._seen[meta.name(lease)] = LeaseState(holder, duration_s, self._now())
        if holder != self._name:
            self._renewed.pop(meta.name(lease), None)

    async def serve(self) -> None:
        """Announce until cancelled, then give everything back."""
        events = RouteEvents()
        try:
            async with asyncio.TaskGroup() as group:
                for informer in (self._services, self._nodes, self._leases):
                    group.create_task(informer.run())
                group.create_task(self._recorder.run())
                group.create_task(self._watch_slices())
                group.create_task(self._watch_links(events))
                for informer in (self._services, self._nodes, self._leases):
                    await informer.wait_synced()
                log.info("ready node=%s", self._name)
                await self._work()
        finally:
            if self._silence is not None:
                self._silence.cancel()
            self._responder.close()
            events.close()
            await self._give_all_back()

    async def _watch_slices(self) -> None:
        """Watch slices once a Service asks for nodes with endpoints; most clusters have none that does."""
        await self._wants_slices.wait()
        await self._slices.run()

    async def _watch_links(self, events: RouteEvents) -> None:
        while True:
            found = await events.next()
            if self._responder.addresses and any(event.kind in ("address", "link", "overrun") for event in found):
                try:
                    self._responder.place()
                except (OSError, NetlinkError) as error:
                    log.warning("links cannot be answered on error=%s", error)

    def _announced(self) -> list[Announced]:
        found = [plan.service_of(service) for service in self._services.objects()]
        return [service for service in found if service is not None]

    async def _work(self) -> None:
        while True:
            self._wakes.clear()
            delay_s = await self._round()
            try:
                async with asyncio.timeout(delay_s):
                    await self._wakes.wait()
            except TimeoutError:
                continue

    async def _round(self) -> float:
        """Look at every Service once; return when to look again at the latest."""
        services, delay_s = self._announced(), 60.0
        nodes = {state.name: state for state in map(plan.node_of, self._nodes.objects())}
        if any(service.local for service in services):
            self._wants_slices.set()
        work: list[Any] = []
        letting_go = {name for name in self._renewed if name not in {plan.lease_name(each) for each in services}}
        for service in services:
            name = plan.lease_name(service)
            if name not in self._seen:
                self._seen[name] = LeaseState(since=self._now())
            step = plan.step(
                self._name, self._order(service, nodes), self._seen[name], self._renewed.get(name), self._now(),
                self._timers,
            )  # fmt: skip
            delay_s = min(delay_s, step.look_again_s)
            if step.wish == "release":
                letting_go.add(name)
            elif step.wish != "none":
                work.append(self._hold(service, name))
        for name in letting_go:
            self._renewed.pop(name, None)
        self._answer(services)  # silence first, then the word that another may begin
        done = await asyncio.gather(*work, *(self._give_back(name, services) for name in letting_go))
        self._answer(services)
        await self._remove_orphans(services)
        return max(0.01, delay_s if all(done) else min(delay_s, RETRY_S))

    def _order(self, service: Announced, nodes: dict[str, NodeState]) -> list[str]:
        if service.local and not self._slices.has_synced:
            return [self._name] if plan.lease_name(service) in self._renewed else []
        places = plan.nodes_with_endpoints(self._slices.by_index(BY_SERVICE, service.key)) if service.local else ()
        return plan.candidates(service, nodes, frozenset(places))

    def _answer(self, services: Iterable[Announced] | None = None) -> None:
        """Answer for what we hold; what we could not renew falls silent in time, whatever else is waited for."""
        services = self._announced() if services is None else services
        now = self._now()
        if self._silence is not None:
            self._silence.cancel()
        ends = [end for since in self._renewed.values() if (end := since + self._timers.give_up_s) > now]
        self._silence = asyncio.get_running_loop().call_at(min(ends), self._answer) if ends else None
        wanted = {
            address
            for service in services
            if plan.still_holds(self._renewed.get(plan.lease_name(service)), now, self._timers)
            for address in service.addresses
        }
        try:
            self._responder.use(wanted)
        except (OSError, NetlinkError) as error:
            log.error("addresses cannot be answered for error=%s", error)

    async def _hold(self, service: Announced, name: str) -> bool:
        """Take or renew a Lease; tell whether that is done or another was faster."""
        began, first = self._now(), name not in self._renewed
        existing = self._leases.get(f"{self._config.namespace}/{name}")
        try:
            async with asyncio.timeout(self._timers.give_up_s):
                written = await self._write(service, name, existing)
        except TimeoutError:
            return False
        except ApiError as error:
            if error.code == 409:
                return False
            log.warning("lease is not written lease=%s error=%s", name, error)
            return False
        self._note(written)
        self._leases.cache.put(written)
        self._renewed[name] = began
        if first:
            log.info("announcing service=%s addresses=%s", service.key, ",".join(service.addresses))
            found = self._services.get(service.key)
            if found is not None:
                self._recorder.event(found, "Normal", "nodeAssigned", f'announcing from node "{self._name}"')
        return True

    async def _write(self, service: Announced, name: str, existing: Object | None) -> Object:
        now = microtime(datetime.now(UTC))
        old = (existing or {}).get("spec") or {}
        ours = old.get("holderIdentity") == self._name
        spec = {
            "holderIdentity": self._name,
            "leaseDurationSeconds": max(1, round(self._timers.lease_duration_s)),
            "acquireTime": old.get("acquireTime") if ours else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if ours or existing is None else 1),
        }
        if existing is not None:
            return await self._client.update(LEASES, {**existing, "spec": spec})
        metadata = {
            "name": name,
            "namespace": self._config.namespace,
            "labels": {LEASE_LABEL: "true"},
            "annotations": {SERVICE_ANNOTATION: service.key},
        }
        body = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}
        return await self._client.create(LEASES, body, self._config.namespace)

    async def _give_back(self, name: str, services: Iterable[Announced]) -> bool:
        """Let another node answer at once; the Lease of a Service that is gone goes with it."""
        existing = self._leases.get(f"{self._config.namespace}/{name}")
        if existing is None or (existing.get("spec") or {}).get("holderIdentity") != self._name:
            return True
        log.info("no longer announcing lease=%s", name)
        try:
            if name not in {plan.lease_name(service) for service in services}:
                options = DeleteOptions(uid=meta.uid(existing))
                await self._client.delete(LEASES, name, self._config.namespace, options)
                return True
            spec = {**existing["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}
            written = await self._client.update(LEASES, {**existing, "spec": spec})
        except ApiError as error:
            log.warning("lease is not given back lease=%s error=%s", name, error)
            return error.code == 404
        self._note(written)
        self._leases.cache.put(written)
        return True

    async def _remove_orphans(self, services: list[Announced]) -> None:
        """Remove Leases whose Service went while their holder was dead."""
        known = {plan.lease_name(service) for service in services}
        for lease in self._leases.objects():
            name = meta.name(lease)
            seen = self._seen.get(name)
            if name in known or seen is None or seen.since + seen.duration_s + ORPHAN_S > self._now():
                continue
            try:
                await self._client.delete(LEASES, name, self._config.namespace, DeleteOptions(uid=meta.uid(lease)))
            except ApiError as error:
                log.debug("lease is not removed lease=%s error=%s", name, error)

    async def _give_all_back(self) -> None:
        services, held = self._announced(), list(self._renewed)
        self._renewed.clear()
        try:
            async with asyncio.timeout(1.0):
                await asyncio.gather(*(self._give_back(name, services) for name in held))
        except TimeoutError:
            log.warning("leases are not given back, and run out count=%d", len(held))


async def run(config: AnnounceConfig, client: Client | None = None) -> None:
    """Announce this node's part of the load balancers' addresses until cancelled."""
    if client is None:
        assert config.kubeconfig is not None, "a kubeconfig or a client is needed"
        client = kubeconfig.load(config.kubeconfig).client("raftsman-announce")
    await Announcer(config, client, Responder(config.interface)).serve()
