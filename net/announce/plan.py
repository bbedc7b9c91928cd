"""PURE: which node answers for which Service's addresses, and what to do about its Lease now.

One Lease a Service says who answers. Nobody trusts another machine's clock: a Lease has run out when it was not seen to
change for as long as it says, by our own clock. Who may answer is ordered by a hash of Service and node, so that the
addresses spread and each node knows its turn: the first tries at once, the next a little later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from control.api import meta
from control.api.meta import Object

EXCLUDED_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"
LEASE_LABEL = "raftsman.dev/announces"
CLASS = "raftsman.dev/pool"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
TURN_S = 0.5
"""How much later each next node tries."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A Service as far as announcing goes."""

    key: str
    uid: str
    addresses: tuple[str, ...]
    local: bool = False
    """Whether only nodes with ready endpoints may answer."""


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as far as announcing goes."""

    name: str
    is_ready: bool = True
    is_cordoned: bool = False


@dataclass(slots=True)
class LeaseState:
    """A Lease as we see it; one that is not there yet is free."""

    holder: str = ""
    duration_s: float = 0.0
    since: float = 0.0
    """When it was last seen to change, by our clock."""


Wish = Literal["take", "renew", "release", "none"]


@dataclass(frozen=True, slots=True)
class Step:
    """What to do about one Service's Lease, and when to look again at the latest."""

    wish: Wish
    look_again_s: float = 60.0


@dataclass
class Timers:
    """When silence means death."""

    lease_duration_s: float = 15.0
    renew_s: float = 0.0
    """How often the holder says that it lives; a third of the duration."""
    give_up_s: float = 0.0
    """After how long without success it falls silent itself; two thirds of the duration."""

    def __post_init__(self) -> None:
        """Keep upstream's proportions where nothing is said."""
        self.renew_s = self.renew_s or self.lease_duration_s / 3
        self.give_up_s = self.give_up_s or self.lease_duration_s * 2 / 3


def service_of(service: Object) -> Announced | None:
    """Return what there is to announce of a Service; None for nothing."""
    spec = service.get("spec") or {}
    if spec.get("type") != "LoadBalancer" or spec.get("loadBalancerClass") not in (None, "", CLASS):
        return None
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    addresses = tuple(str(entry["ip"]) for entry in ingress if entry.get("ip") and entry.get("ipMode", "VIP") == "VIP")
    if not addresses or meta.is_being_deleted(service):
        return None
    return Announced(meta.key(service), meta.uid(service), addresses, spec.get("externalTrafficPolicy") == "Local")


def node_of(node: Object) -> NodeState:
    """Return a node's state; one that is going, or is kept from load balancers, counts as not ready."""
    out = meta.is_being_deleted(node) or EXCLUDED_LABEL in meta.labels(node)
    cordoned = bool((node.get("spec") or {}).get("unschedulable"))
    return NodeState(meta.name(node), meta.condition_is_true(node, "Ready") and not out, cordoned)


def nodes_with_endpoints(slices: Iterable[Object]) -> frozenset[str]:
    """Return the nodes with ready endpoints."""
    return frozenset(
        entry["nodeName"]
        for found in slices
        for entry in found.get("endpoints") or ()
        if entry.get("nodeName") and (entry.get("conditions") or {}).get("ready") is not False
    )


def lease_name(service: Announced) -> str:
    """Return the name of a Service's Lease: the Service's, as far as it fits, and a hash that is its alone."""
    readable = service.key.replace("/", "-").replace(".", "-")[:200]
    return f"loadbalancer-{readable}-{hashlib.sha256(service.key.encode()).hexdigest()[:8]}"


def candidates(service: Announced, nodes: Mapping[str, NodeState], with_endpoints: frozenset[str]) -> list[str]:
    """Return who may answer for a Service, whose turn is first at first."""
    fit = [node for node in nodes.values() if node.is_ready and (not service.local or node.name in with_endpoints)]
    # A cordoned node is about to go: it answers only where nobody else can.
    fit = [node for node in fit if not node.is_cordoned] or fit

    def turn(node: NodeState) -> bytes:
        return hashlib.sha256(f"{service.key} {node.name}".encode()).digest()

    return [node.name for node in sorted(fit, key=turn)]


def step(own: str, order: list[str], lease: LeaseState, renewed: float | None, now: float, timers: Timers) -> Step:
    """Decide about one Service's Lease; `renewed` is when we last renewed it, None where we have not yet."""
    fit = own in order
    if lease.holder == own:
        if not fit:
            return Step("release")
        due = now if renewed is None else renewed + timers.renew_s
        return Step("renew", timers.renew_s) if now >= due else Step("none", due - now)
    if not fit:
        return Step("none")
    turns = [name for name in order if name != lease.holder]
    free = lease.since + (lease.duration_s if lease.holder else 0.0)
    mine = free + turns.index(own) * TURN_S
    return Step("take", timers.renew_s) if now > mine else Step("none", mine - now + 0.01)


def still_holds(renewed: float | None, now: float, timers: Timers) -> bool:
    """Tell whether we may answer: another may begin a third of the duration after we must have ended."""
    return renewed is not None and now < renewed + timers.give_up_s
