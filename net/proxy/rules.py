"""Decide where each service port's traffic goes on this node: pure, and the same for every renderer.

A `PortRules` says it in words that neither iptables nor nftables owns: which pools of endpoints
exist, which *verdict* internal and external traffic gets, and which *fronts* (addresses and ports)
lead here. Renderers translate it and decide nothing.

The choice of endpoints is upstream's: ready ones; those that terminate but still serve only where
none is ready; hints of topology only where every ready endpoint has one; `Local` policies see this
node's endpoints alone.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from enum import Enum

from net.proxy.services import ChangeTracker, Endpoint, ServicePort, of_version

PRIMARY = "primary"


class Verdict(Enum):
    """Say what happens to new connections that reach a front."""

    CLUSTER = "cluster"
    """Spread over the endpoints of all nodes."""
    LOCAL = "local"
    """Spread over this node's endpoints, source address kept."""
    REJECT = "reject"
    """Refuse at once: the service has no endpoints anywhere."""
    DROP = "drop"
    """Drop: the policy is Local and this node has none."""


class FrontKind(Enum):
    """Say what kind of address leads to a service port."""

    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER = "loadbalancer IP"
    NODE_PORT = "node port"


@dataclass(frozen=True, slots=True)
class Front:
    """Hold one way in: an address (none for node ports) and a port."""

    kind: FrontKind
    address: str
    port: int


@dataclass(frozen=True, slots=True)
class PortRules:
    """Hold all that a renderer must know of one service port."""

    port: ServicePort
    fronts: tuple[Front, ...]
    cluster: tuple[Endpoint, ...]
    """The pool for traffic without a Local policy."""
    local: tuple[Endpoint, ...]
    """The pool for traffic with a Local policy."""
    internal: Verdict
    external: Verdict
    allowed_sources: tuple[str, ...] = ()
    """Who alone may use the load balancer's addresses; everyone where empty."""
    ready_here: tuple[str, ...] = ()
    """Addresses of this node's ready endpoints, where load balancers ask for their number."""

    @property
    def has_endpoints(self) -> bool:
        """Whether any endpoint in the cluster could answer."""
        return self.internal is not Verdict.REJECT

    @property
    def reachable(self) -> tuple[Endpoint, ...]:
        """Every endpoint that some rule of this node leads to, each once."""
        return tuple(sorted({*self.cluster, *self.local}))

    @property
    def firewalled(self) -> bool:
        """Whether only some sources may use the load balancer's addresses."""
        return self.has_endpoints and bool(self.allowed_sources)

    @property
    def short_circuited(self) -> bool:
        """Whether pods and this node itself reach all endpoints by external addresses, though the policy is Local."""
        return self.port.external_local and self.port.externally_accessible and bool(self.cluster)

    def verdict_of(self, front: Front) -> Verdict:
        """Return what happens to traffic for a front, short circuits and firewall aside."""
        return self.internal if front.kind is FrontKind.CLUSTER_IP else self.external


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """Hold what the rules need to know of the node they stand on."""

    name: str
    zone: str = ""
    addresses: tuple[str, ...] = ()
    """Its InternalIPs, of either family, the primary one first."""


@dataclass(frozen=True, slots=True)
class RuleSettings:
    """Hold the settings that shape all rules."""

    ip_version: int = 4
    cluster_cidrs: tuple[str, ...] = ()
    """Where pods' addresses come from; traffic from elsewhere to a cluster IP is masqueraded."""
    masquerade_all: bool = False
    masquerade_bit: int = 14
    node_port_cidrs: tuple[str, ...] = ()
    """What chose the addresses that serve node ports; all local ones but loopback serve where empty."""
    conntrack_be_liberal: bool = False
    """Whether packets that conntrack calls invalid pass; else they are dropped."""
    node_addresses: tuple[str, ...] = ()
    """This node's own addresses, chosen by node_port_cidrs."""
    node_name: str = ""
    """The node that the rules stand on."""
    own_pod_cidrs: tuple[str, ...] = ()
    """Where this node's own pods' addresses come from; where that is unknown, all pods count as its own."""

    @property
    def short_circuit_cidrs(self) -> tuple[str, ...]:
        """Whose traffic to external addresses passes by a Local policy.

        Not pods of other nodes: the endpoint's answer to one would go straight to it, past the translation here.
        """
        return self.own_pod_cidrs or self.cluster_cidrs


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Hold the rules of the whole node."""

    settings: RuleSettings
    ports: tuple[PortRules, ...]


def decide(port: ServicePort, endpoints: tuple[Endpoint, ...], node: NodeFacts) -> PortRules:
    """Choose pools and verdicts of one service port."""
    cluster = cluster_pool(endpoints, node) if port.uses_cluster_endpoints else ()
    local = local_pool(endpoints, node) if port.uses_local_endpoints else ()
    anywhere = bool(cluster) or any(usable(endpoint) for endpoint in endpoints)
    return PortRules(
        port=port,
        fronts=fronts_of(port),
        cluster=cluster,
        local=local,
        internal=_verdict(port.internal_local, anywhere, bool(local)),
        external=_verdict(port.external_local, anywhere, bool(local)),
        allowed_sources=allowed_sources(port, node),
        ready_here=ready_here(endpoints, node) if port.health_check_node_port else (),
    )


def _verdict(policy_is_local: bool, anywhere: bool, here: bool) -> Verdict:
    if not anywhere:
        return Verdict.REJECT
    if not policy_is_local:
        return Verdict.CLUSTER
    return Verdict.LOCAL if here else Verdict.DROP


def usable(endpoint: Endpoint) -> bool:
    """Tell whether an endpoint may get traffic at all, be it as a last resort."""
    return endpoint.ready or (endpoint.serving and endpoint.terminating)


def _ready_else_terminating(endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
    ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    return ready or tuple(endpoint for endpoint in endpoints if usable(endpoint))


def cluster_pool(endpoints: tuple[Endpoint, ...], node: NodeFacts) -> tuple[Endpoint, ...]:
    """Return the endpoints for traffic without a Local policy, by the topology's hints where all have them."""
    ready = tuple(endpoint for endpoint in endpoints if endpoint.ready)
    if ready and all(endpoint.node_hints for endpoint in ready):
        near = tuple(endpoint for endpoint in ready if node.name in endpoint.node_hints)
        if near:
            return near
    if ready and node.zone and all(endpoint.zone_hints for endpoint in ready):
        near = tuple(endpoint for endpoint in ready if node.zone in endpoint.zone_hints)
        if near:
            return near
    return ready or _ready_else_terminating(endpoints)


def local_pool(endpoints: tuple[Endpoint, ...], node: NodeFacts) -> tuple[Endpoint, ...]:
    """Return the endpoints for traffic with a Local policy."""
    return _ready_else_terminating(tuple(endpoint for endpoint in endpoints if endpoint.node == node.name))


def ready_here(endpoints: tuple[Endpoint, ...], node: NodeFacts) -> tuple[str, ...]:
    """Return this node's ready endpoints' addresses: those that terminate should see no new clients."""
    return tuple(sorted({endpoint.ip for endpoint in endpoints if endpoint.ready and endpoint.node == node.name}))


def allowed_sources(port: ServicePort, node: NodeFacts) -> tuple[str, ...]:
    """Return the networks that may use the load balancer's addresses; none where everyone may.

    A node that may use a load balancer whose address it holds itself talks from that address.
    """
    if not (port.load_balancer_ips and port.source_ranges):
        return ()
    networks = [ipaddress.ip_network(text) for text in port.source_ranges]
    own = [ipaddress.ip_address(text) for text in node.addresses]
    own_balancers = port.load_balancer_ips if any(address in network for address in own for network in networks) else ()
    return tuple(dict.fromkeys((*port.source_ranges, *own_balancers)))


def node_port_addresses(
    wanted: Iterable[str], local_addresses: Iterable[str], node: NodeFacts, ip_version: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return RuleSettings' node_port_cidrs and node_addresses for the flag --nodeport-addresses.

    `primary` is the Node's first InternalIP, or the first address that is not loopback while the Node tells none.
    Networks of the other family alone choose nothing here: all addresses serve, as with kube-proxy.
    Loopback never serves: that needs route_localnet, which opens it to the neighbours (CVE-2020-8558).
    """
    texts = list(wanted)
    networks = of_version([text for text in texts if "/" in text], ip_version)
    if PRIMARY not in texts and (not networks or any(network.endswith("/0") for network in networks)):
        return (), ()
    kept = [text for text in of_version(local_addresses, ip_version) if not ipaddress.ip_address(text).is_loopback]
    within = [ipaddress.ip_network(network) for network in networks]
    serving = [text for text in kept if any(ipaddress.ip_address(text) in network for network in within)]
    if PRIMARY in texts:
        serving = [*(of_version(node.addresses, ip_version) or kept)[:1], *serving]
        networks = (PRIMARY, *networks)
    return networks, tuple(dict.fromkeys(serving))


def fronts_of(port: ServicePort) -> tuple[Front, ...]:
    """List every way that leads to a service port."""
    fronts = [Front(FrontKind.CLUSTER_IP, port.cluster_ip, port.port)]
    fronts += [Front(FrontKind.EXTERNAL_IP, address, port.port) for address in port.external_ips]
    fronts += [Front(FrontKind.LOAD_BALANCER, address, port.port) for address in port.load_balancer_ips]
    if port.node_port:
        fronts.append(Front(FrontKind.NODE_PORT, "", port.node_port))
    return tuple(fronts)


class RuleBook:
    """Keep the decided rules of every service port; decide anew only what changed."""

    def __init__(self, node: NodeFacts) -> None:
        self.node = node
        self._decided: dict[str, tuple[PortRules, ...]] = {}
        self._health_checks: dict[str, int] = {}

    def set_node(self, node: NodeFacts, tracker: ChangeTracker) -> bool:
        """Take new facts of the node; all ports are decided anew when they differ."""
        if node == self.node:
            return False
        self.node = node
        self.update(tracker, set(tracker.ports) | set(self._decided))
        return True

    def update(self, tracker: ChangeTracker, changed: Set[str]) -> set[str]:
        """Decide the ports of the changed Services; return those whose rules differ now."""
        differing = set()
        for service in changed:
            ports = tracker.ports.get(service, ())
            decided = tuple(decide(port, tracker.endpoints_of(port.name), self.node) for port in ports)
            if decided == self._decided.get(service, ()):
                continue
            differing.add(service)
            self._health_checks.pop(service, None)
            if not decided:
                del self._decided[service]
                continue
            self._decided[service] = decided
            if decided[0].port.health_check_node_port:
                self._health_checks[service] = decided[0].port.health_check_node_port
        return differing

    @property
    def decided(self) -> Mapping[str, tuple[PortRules, ...]]:
        """The rules by Service, alive: they change with the next update."""
        return self._decided

    def services(self) -> Mapping[str, tuple[PortRules, ...]]:
        """Return the rules by Service, as they are now."""
        return dict(self._decided)

    def health_checks(self) -> dict[int, str]:
        """Return the Service that answers on each health-check port."""
        return {port: service for service, port in sorted(self._health_checks.items())}

    def ready_here(self, service: str) -> int:
        """Count this node's ready endpoints of a Service, for its health check."""
        return len({address for rules in self._decided.get(service, ()) for address in rules.ready_here})
