"""The table of packet-flow cases: which client reaches whom through which front, in every mode and family.

Addresses have no family here: a client, a front and an endpoint are names, which the runner turns into IPv4
and IPv6. Pods `a` and `b` are on node_1 (zone-a), `c` is on node_2 (zone-b); `stranger` is outside the cluster
and sends everything for services through node_1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

REFUSED, DROPPED, UNSERVED = "refused", "dropped", "unserved"
UNKNOWN = "unknown"
"""Refused in nftables mode; left to the network in iptables mode, as with kube-proxy."""
KEPT, MASKED = "kept", "masked"


@dataclass(frozen=True)
class Port:
    """One port of a Service, and the pods' port behind it."""

    name: str = "main"
    port: int = 80
    protocol: str = "TCP"
    target: int = 8080


@dataclass(frozen=True)
class At:
    """One endpoint: a pod and what its slice says of it."""

    pod: str
    conditions: dict[str, bool] = field(default_factory=dict)
    zones: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    targets: dict[str, int] = field(default_factory=dict)
    """Ports that this pod has elsewhere, by name: a named targetPort."""


@dataclass(frozen=True)
class Flow:
    """One client's way through one front, and where it must end."""

    client: str
    to: str
    """cluster, external, balancer, node_1, node_2 (node ports), loopback."""
    reach: str
    """The pods that answer, all of them and no others; or refused, dropped, unserved."""
    source: str = ""
    """Whether the pod sees the client's own address."""
    protocol: str = "TCP"
    port: int = 80


@dataclass(frozen=True)
class Case:
    """A Service, its endpoints, and the flows through it."""

    name: str
    endpoints: tuple[At, ...]
    flows: tuple[Flow, ...]
    spec: dict[str, Any] = field(default_factory=dict)
    ports: tuple[Port, ...] = (Port(),)
    labels: dict[str, str] = field(default_factory=dict)
    balanced: str = ""
    """The ipMode of the load balancer's address, where there is one."""
    slices: int = 1
    """Over how many slices the endpoints are spread; each also stands in the next one."""


ABC = (At("a"), At("b"), At("c"))
AC = (At("a"), At("c"))
GOING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}
NODE_PORT = {"type": "NodePort"}
BALANCER = {"type": "LoadBalancer"}
LOCAL = {"externalTrafficPolicy": "Local"}
PROTOCOLS = tuple(Port(f"over-{name.lower()}", 80, name) for name in ("TCP", "UDP", "SCTP"))


def each(clients: str, to: str, reach: str, source: str = "", **more: Any) -> tuple[Flow, ...]:
    """Return the same flow for several clients."""
    return tuple(Flow(client, to, reach, source, **more) for client in clients.split())


DISPATCH = (
    Case(
        "behaviour_01_03_cluster_ip_of_all_protocols_on_one_port",
        ABC,
        (
            *each("pod_b node_1 node_2 pod_c", "cluster", "abc"),
            *each("pod_b node_1 node_2", "cluster", "abc", protocol="UDP"),
            *each("pod_b node_1 node_2", "cluster", "abc", protocol="SCTP"),
            *each("stranger", "node_1", "abc", MASKED, protocol="UDP"),
            *each("stranger", "node_1", "abc", MASKED, protocol="SCTP"),
        ),
        NODE_PORT,
        ports=PROTOCOLS,
    ),
    Case(
        "behaviour_03_several_ports_and_named_targets",
        (At("a"), At("b", targets={"main": 8081})),
        (Flow("pod_c", "cluster", "ab"), Flow("pod_c", "cluster", "xy", port=443), Flow("node_1", "cluster", "ab")),
        ports=(Port(), Port("admin", 443, "TCP", 9090)),
    ),
    Case(
        "behaviour_04_12_node_ports_on_every_node_bear_its_address",
        ABC,
        (
            *each("stranger", "node_1", "abc", MASKED),
            *each("stranger", "node_2", "abc", MASKED),
            *each("pod_b node_1", "node_2", "abc"),
            *each("node_1", "node_1", "abc"),
            *each("node_1", "loopback", REFUSED),
        ),
        NODE_PORT,
    ),
    Case(
        "behaviour_05_balancer_of_mode_vip_and_external_ip",
        ABC,
        (
            *each("stranger", "balancer", "abc", MASKED),
            *each("stranger", "external", "abc", MASKED),
            *each("pod_b node_2", "balancer", "abc"),
            *each("pod_b node_2", "external", "abc"),
        ),
        {**BALANCER, "externalIPs": ["external"]},
        balanced="VIP",
    ),
    Case(
        "behaviour_05_balancer_of_mode_proxy_is_left_alone",
        ABC,
        (*each("pod_b stranger", "balancer", UNSERVED), Flow("stranger", "node_1", "abc")),
        BALANCER,
        balanced="Proxy",
    ),
    Case(
        "behaviour_06_source_ranges_let_their_own_in",
        ABC,
        (Flow("stranger", "balancer", "abc"), Flow("node_1", "balancer", DROPPED), Flow("pod_b", "cluster", "abc")),
        {**BALANCER, "loadBalancerSourceRanges": ["stranger"]},
        balanced="VIP",
    ),
    Case(
        "behaviour_06_source_ranges_keep_others_out_of_the_balancer_alone",
        ABC,
        (Flow("stranger", "balancer", DROPPED), Flow("stranger", "node_1", "abc"), Flow("pod_b", "cluster", "abc")),
        {**BALANCER, "loadBalancerSourceRanges": ["nobody"]},
        balanced="VIP",
    ),
    Case(
        "behaviour_06_a_node_reaches_its_own_balancer",
        ABC,
        (Flow("node_1", "balancer", "abc"), Flow("stranger", "balancer", DROPPED)),
        {**BALANCER, "loadBalancerSourceRanges": ["nodes"]},
        balanced="own VIP",
    ),
    Case("behaviour_08_an_unknown_port", ABC, (Flow("pod_b", "cluster", UNKNOWN, port=81),)),
    Case(
        "behaviour_09_another_proxys_service",
        ABC,
        (Flow("pod_b", "cluster", UNSERVED), Flow("stranger", "node_1", REFUSED)),
        NODE_PORT,
        labels={"service.kubernetes.io/service-proxy-name": "other"},
    ),
    Case("behaviour_09_headless", ABC, (Flow("pod_b", "cluster", UNSERVED),), {"clusterIP": "None"}),
    Case("behaviour_09_external_name", (), (Flow("pod_b", "cluster", UNSERVED),), {"type": "ExternalName"}),
)

POLICIES = (
    Case(
        "behaviour_10_internal_local",
        AC,
        (*each("pod_b node_1", "cluster", "a"), *each("pod_c node_2", "cluster", "c")),
        {"internalTrafficPolicy": "Local"},
    ),
    Case(
        "behaviour_10_internal_local_and_none_here",
        (At("c"),),
        (*each("pod_b node_1", "cluster", DROPPED), Flow("pod_c", "cluster", "c")),
        {"internalTrafficPolicy": "Local"},
    ),
    Case(
        "behaviour_11_external_local_keeps_the_source",
        AC,
        (
            *each("stranger", "node_1", "a", KEPT),
            *each("stranger", "node_2", "c", KEPT),
            *each("stranger", "balancer", "a", KEPT),
            *each("stranger", "external", "a", KEPT),
            *each("pod_b", "balancer", "ac", KEPT),
            *each("node_1", "balancer", "ac"),
            *each("pod_b", "node_1", "ac", KEPT),
            *each("node_1 pod_b", "node_2", "c", KEPT),
        ),
        {**BALANCER, **LOCAL, "externalIPs": ["external"]},
        balanced="VIP",
    ),
    Case(
        "behaviour_11_external_local_and_none_here",
        (At("c"),),
        (
            Flow("stranger", "node_1", DROPPED),
            Flow("stranger", "balancer", DROPPED),
            Flow("pod_b", "balancer", "c", KEPT),
            Flow("node_1", "balancer", "c"),
            Flow("stranger", "node_2", "c", KEPT),
        ),
        {**BALANCER, **LOCAL},
        balanced="VIP",
    ),
    Case(
        "behaviour_11_both_policies_local",
        AC,
        (Flow("pod_b", "cluster", "a"), Flow("pod_b", "balancer", "ac"), Flow("stranger", "balancer", "a", KEPT)),
        {**BALANCER, **LOCAL, "internalTrafficPolicy": "Local"},
        balanced="VIP",
    ),
    Case(
        "behaviour_12_pods_keep_their_source",
        (At("a"), At("c")),
        (Flow("pod_b", "cluster", "ac", KEPT), Flow("pod_b", "node_1", "ac", MASKED)),
        NODE_PORT,
    ),
    Case(
        "behaviour_13_zone_hints",
        (At("a", zones=("zone-a",)), At("b", zones=("zone-b",)), At("c", zones=("zone-b",))),
        (*each("pod_b node_1", "cluster", "a"), Flow("pod_c", "cluster", "bc"), Flow("stranger", "node_1", "a")),
        NODE_PORT,
    ),
    Case(
        "behaviour_13_node_hints_before_zones",
        (
            At("a", zones=("zone-a",), nodes=("n1",)),
            At("b", zones=("zone-a",), nodes=("n9",)),
            At("c", zones=("zone-a",), nodes=("n9",)),
        ),
        (Flow("pod_b", "cluster", "a"), Flow("pod_c", "cluster", "abc")),
    ),
    Case(
        "behaviour_13_one_hint_is_missing",
        (At("a", zones=("zone-a",)), At("c")),
        (Flow("pod_b", "cluster", "ac"),),
    ),
    Case(
        "behaviour_13_no_hint_is_for_here",
        (At("a", zones=("zone-x",)), At("c", zones=("zone-x",))),
        (Flow("pod_b", "cluster", "ac"),),
    ),
)

ENDPOINTS = (
    Case("behaviour_15_ready_before_terminating", (At("a"), At("c", GOING)), (Flow("pod_b", "cluster", "a"),)),
    Case(
        "behaviour_15_terminating_as_a_last_resort",
        (At("a", GOING), At("c", GONE)),
        (Flow("pod_b", "cluster", "a"), Flow("stranger", "node_1", "a")),
        NODE_PORT,
    ),
    Case(
        "behaviour_15_last_resorts_are_chosen_for_each_policy",
        (At("a", GOING), At("c")),
        (Flow("pod_b", "cluster", "c"), Flow("stranger", "node_1", "a", KEPT), Flow("stranger", "node_2", "c", KEPT)),
        {**NODE_PORT, **LOCAL},
    ),
    Case(
        "behaviour_15_what_does_not_serve_is_no_resort",
        (At("a", GONE), At("c", {"ready": False, "serving": False})),
        (Flow("pod_b", "cluster", REFUSED),),
    ),
    Case(
        "behaviour_16_published_though_not_ready",
        (At("a", {"ready": True, "serving": False, "terminating": False}),),
        (Flow("pod_b", "cluster", "a"),),
        {"publishNotReadyAddresses": True},
    ),
    Case(
        "behaviour_17_no_endpoints",
        (),
        (
            *each("pod_b node_1 stranger", "cluster", REFUSED),
            *each("stranger pod_b", "node_1", REFUSED),
            *each("stranger node_1", "balancer", REFUSED),
            *each("stranger", "external", REFUSED),
            *each("pod_b node_1", "cluster", REFUSED, protocol="UDP"),
        ),
        {**BALANCER, "externalIPs": ["external"]},
        ports=PROTOCOLS[:2],
        balanced="VIP",
    ),
    Case("behaviour_18_several_slices_with_duplicates", ABC, (Flow("pod_b", "cluster", "abc"),), slices=3),
    Case(
        "behaviour_22_hairpin",
        (At("a"),),
        (
            Flow("pod_a", "cluster", "a", MASKED),
            Flow("pod_a", "balancer", "a", MASKED),
            Flow("pod_a", "node_1", "a", MASKED),
            Flow("pod_b", "cluster", "a", KEPT),
            Flow("pod_a", "cluster", "a", MASKED, "UDP"),
        ),
        BALANCER,
        ports=PROTOCOLS[:2],
        balanced="VIP",
    ),
    Case(
        "behaviour_22_hairpin_of_a_local_policy",
        (At("a"),),
        (Flow("pod_a", "balancer", "a", MASKED),),
        {**BALANCER, **LOCAL},
        balanced="VIP",
    ),
    Case("behaviour_23_strangers_to_a_cluster_ip", ABC, (Flow("stranger", "cluster", "abc", MASKED),)),
)

CASES = (*DISPATCH, *POLICIES, *ENDPOINTS)

WEB = Case("web", ABC, (), NODE_PORT)
STICKY = Case("sticky", ABC, (), {"sessionAffinity": "ClientIP"}, ports=(Port(), Port("admin", 443, "TCP", 9090)))
NAMES = Case("names", (At("a"),), (), BALANCER, ports=(Port("dns", 53, "UDP"),), balanced="VIP")
BRIEF = Case("brief", AC, (), NODE_PORT)
CHANGING = (WEB, STICKY, NAMES, BRIEF)
"""Services of tests that change them while packets flow."""
NUMBERS = {case.name: number for number, case in enumerate((*CASES, *CHANGING), 1)}
"""The number of each case, from which its addresses and node ports follow."""
