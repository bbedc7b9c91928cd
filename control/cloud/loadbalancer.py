"""The service loop: give Services of type LoadBalancer addresses of a pool, each to one Service alone.

Who has which address stands in the Services' status and nowhere else, so that any number of restarts finds it there.
Two that have the same one all the same, because two instances gave it away at once, are told apart: the older keeps it.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from control.api import meta
from control.api.meta import Object
from control.api.resources import SERVICES
from control.client.actions import Action, Patch, Tell
from control.client.runner import Context
from control.client.workqueue import WorkQueue
from control.cloud.pool import Pool, PoolError

log = logging.getLogger(__name__)

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
CLASS = "raftsman.dev/pool"
ANNOTATION = "raftsman.dev/load-balancer-ips"
"""Which addresses a Service asks for, separated by commas: as spec.loadBalancerIP, but of both families."""
AGAIN_S = 30.0

Ingress = list[dict[str, str]]


@dataclass(frozen=True)
class Decision:
    """What becomes of one Service."""

    actions: tuple[Action, ...] = ()
    holds: tuple[str, ...] = ()
    """The addresses that it has from now on."""
    waits: bool = False
    """Whether it waits for an address to be free."""


def is_ours(service: Object) -> bool:
    """Tell whether a Service's class, if it has one, is this loop's."""
    return (service.get("spec") or {}).get("loadBalancerClass") in (None, "", CLASS)


def wants(service: Object) -> bool:
    """Tell whether a Service is to have a load balancer."""
    return (service.get("spec") or {}).get("type") == "LoadBalancer" and not meta.is_being_deleted(service)


def ingress_of(service: Object) -> Ingress:
    """Return status.loadBalancer.ingress."""
    return ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []


def addresses_of(service: Object) -> tuple[str, ...]:
    """Return the addresses that a Service's status names."""
    return tuple(str(entry["ip"]) for entry in ingress_of(service) if entry.get("ip"))


def age(service: Object) -> tuple[str, str]:
    """Return what orders Services by their age."""
    return str((service.get("metadata") or {}).get("creationTimestamp") or ""), meta.key(service)


def family_of(address: str) -> str:
    """Return IPv4 or IPv6; raises PoolError."""
    try:
        return f"IPv{ipaddress.ip_address(address).version}"
    except ValueError:
        raise PoolError(f"{address!r} is no address") from None


def wished(service: Object) -> dict[str, str]:
    """Return the address that a Service asks for, by family; raises PoolError."""
    spec = service.get("spec") or {}
    told = meta.annotations(service).get(ANNOTATION) or spec.get("loadBalancerIP") or ""
    found: dict[str, str] = {}
    for text in filter(None, (part.strip() for part in str(told).split(","))):
        family = family_of(text)
        if family in found:
            raise PoolError(f"{found[family]} and {text} are asked for: a Service has one address of a family")
        found[family] = str(ipaddress.ip_address(text))
    return found


def allot(service: Object, pool: Pool, taken: Mapping[str, str]) -> tuple[str, ...]:
    """Return the addresses of a Service: what it has and may keep, else what it asks for, else free ones.

    `taken` says who has which address, others' alone. Raises PoolError where there is none.
    """
    spec = service.get("spec") or {}
    families = list(spec.get("ipFamilies") or ["IPv4"])
    wishes, has = wished(service), {family_of(address): address for address in addresses_of(service)}
    if unserved := [family for family in wishes if family not in families]:
        raise PoolError(f"{wishes[unserved[0]]} is asked for, but the Service has no {unserved[0]}")
    if spec.get("ipFamilyPolicy") != "RequireDualStack":
        families = [family for family in families if pool.serves(family)] or families[:1]
    found = []
    for family in families:
        wish = wishes.get(family)
        if wish is None:
            kept = has.get(family)
            found.append(kept if kept is not None and kept in pool and kept not in taken else pool.free(family, taken))
        elif wish not in pool:
            raise PoolError(f"{wish} is asked for, and is not of the pool")
        elif wish in taken:
            raise PoolError(f"{wish} is asked for, and {taken[wish]} has it")
        else:
            found.append(wish)
    return tuple(found)


def reconcile(service: Object, pool: Pool, taken: Mapping[str, str]) -> Decision:
    """Decide what becomes of one Service."""
    finalizers = list((service.get("metadata") or {}).get("finalizers") or ())
    if not wants(service):
        return Decision(tuple(_release(service, finalizers)))
    if not is_ours(service):
        return Decision()
    try:
        found = allot(service, pool, taken)
    except PoolError as error:
        text = f"Error syncing load balancer: {error}"
        lost = [_status(service, [])] if set(addresses_of(service)) & set(taken) else []
        return Decision((*lost, Tell(service, "Warning", "SyncLoadBalancerFailed", text)), waits=True)
    actions: list[Action] = []
    if FINALIZER not in finalizers:
        # It goes first, as upstream's: an address that is given must be taken back before the Service is gone.
        actions.append(_metadata(service, [*finalizers, FINALIZER]))
    ingress = [{"ip": address, "ipMode": "VIP"} for address in found]
    if ingress_of(service) != ingress:
        actions.append(_status(service, ingress))
        actions.append(Tell(service, "Normal", "EnsuredLoadBalancer", f"Ensured load balancer: {', '.join(found)}"))
    return Decision(tuple(actions), found)


def _release(service: Object, finalizers: list[str]) -> list[Action]:
    if FINALIZER not in finalizers:
        return []
    actions: list[Action] = []
    if ingress_of(service) and not meta.is_being_deleted(service):
        actions.append(_status(service, []))
    actions.append(_metadata(service, [name for name in finalizers if name != FINALIZER]))
    actions.append(Tell(service, "Normal", "DeletedLoadBalancer", "Deleted load balancer"))
    return actions


def _metadata(service: Object, finalizers: list[str]) -> Patch:
    head = {"resourceVersion": meta.resource_version(service), "finalizers": finalizers or None}
    return Patch(SERVICES, meta.namespace(service), meta.name(service), {"metadata": head})


def _status(service: Object, ingress: Ingress) -> Patch:
    change = {"status": {"loadBalancer": {"ingress": ingress or None}}}
    return Patch(SERVICES, meta.namespace(service), meta.name(service), change, "status")


class LoadBalancerController:
    """Gives addresses to Services and takes them back."""

    name = "service-lb-controller"
    workers = 1
    """What was decided is noted before anything is awaited, so that more would do no harm; they are not needed."""

    def __init__(self, context: Context, pool: Pool) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._pool = pool
        self._services = context.informer(SERVICES)
        self._services.add_handler(self._changed)
        self._given: dict[str, tuple[str, tuple[str, ...]]] = {}
        """What was given, by Service: its uid and addresses; the cache may not show it yet."""
        self._waiting: set[str] = set()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        for obj in (old, new):
            if obj is not None:
                self.queue.add(meta.key(obj))
        if new is None and old is not None:
            self._given.pop(meta.key(old), None)
        if addresses_of(old or {}) != addresses_of(new or {}):
            # What one gives back, another may wait for.
            for key in self._waiting:
                self.queue.add(key)

    async def background(self) -> None:
        """The queue's delays are the clock."""

    def _taken(self, service: Object) -> dict[str, str]:
        """Return who has which address, of all others whose right is older or who have it alone."""
        own, taken = meta.key(service), {}
        for other in self._services.objects():
            key = meta.key(other)
            if key == own or not (wants(other) or FINALIZER in (other["metadata"].get("finalizers") or ())):
                continue
            for address in addresses_of(other):
                if address not in addresses_of(service) or age(other) < age(service):
                    taken[address] = key
        for key, (_, addresses) in self._given.items():
            if key != own:
                taken |= dict.fromkeys(addresses, key)
        return taken

    async def sync(self, key: str) -> float | None:
        """Bring one Service to what it is to have."""
        service = self._services.get(key)
        if service is None:
            self._given.pop(key, None)
            self._waiting.discard(key)
            return None
        given = self._given.get(key)
        if given is not None and given[0] == meta.uid(service) and not addresses_of(service) and wants(service):
            # The cache is behind what was written; the next change of the Service shows it.
            entries = [{"ip": address, "ipMode": "VIP"} for address in given[1]]
            service = {**service, "status": {"loadBalancer": {"ingress": entries}}}
        decision = reconcile(service, self._pool, self._taken(service))
        (self._waiting.add if decision.waits else self._waiting.discard)(key)
        if decision.holds:
            self._given[key] = (meta.uid(service), decision.holds)
        for action in decision.actions:
            await self._context.write(action)
        if not decision.holds:
            self._given.pop(key, None)
        if decision.actions:
            log.info("load balancer key=%s addresses=%s waits=%s", key, ",".join(decision.holds), decision.waits)
        return AGAIN_S if decision.waits else None
