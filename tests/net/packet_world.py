"""Two nodes, three pods and a stranger with both IP families, and a proxy's rules on the nodes: where packets are tried.

The rules are written by an applier a node and family, without an API: a test puts Services and slices, calls
`sync`, and sends packets.
"""

from __future__ import annotations

import ipaddress
import itertools
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from control.api import meta
from control.api.meta import Object
from net.proxy import conntrack
from net.proxy.applier import Applier
from net.proxy.apply import IptablesApplier
from net.proxy.apply_nftables import NftablesApplier
from net.proxy.conntrack import Reconciler
from net.proxy.rules import NodeFacts, RuleBook, RuleSettings
from net.proxy.services import ChangeTracker
from net.xtables import IptablesDoor
from tests.net import sctp
from tests.net.packet_cases import NUMBERS, Case, Port
from tests.net.topology import CLUSTER_CIDR, FABRIC, Fabric, Namespace, Node, closing_all, run

Mode = Literal["iptables-legacy", "iptables-nft", "nftables"]
MODES: tuple[Mode, ...] = ("iptables-legacy", "iptables-nft", "nftables")
FABRIC6 = "fd77::"
CLUSTER_CIDRS = {4: CLUSTER_CIDR, 6: "fd00:244::/32"}
SERVICE_ROUTES = ("10.96.0.0/16", "198.51.100.0/24", "203.0.113.0/24", "fd00:96::/64", "2001:db8:98::/47")
POD_CIDRS = {4: "10.244.{}.0/24", 6: "fd00:244:{}::/48"}
MANY = {4: "10.245.0.0/21", 6: "fd00:245::/64"}
"""Addresses that pod c has besides its own: as many endpoints as a test wants."""


def applier_for(mode: Mode, settings: RuleSettings) -> Applier:
    """Return the writer of one mode's rules in the current namespace."""
    match mode:
        case "iptables-legacy":
            return IptablesApplier(IptablesDoor("legacy", settings.ip_version), settings)
        case "iptables-nft":
            return IptablesApplier(IptablesDoor("nft", settings.ip_version), settings)
        case "nftables":
            return NftablesApplier(settings)


@dataclass
class Rules:
    """One node's rules of one family, and what they are made of."""

    node: Node
    settings: RuleSettings
    tracker: ChangeTracker
    book: RuleBook
    applier: Applier
    flows: Reconciler

    def put(self, obj: Object) -> None:
        """Note a Service or a slice."""
        note = self.tracker.slice_changed if "addressType" in obj else self.tracker.service_changed
        note(meta.key(obj), obj)

    def forget(self, obj: Object) -> None:
        """Note that a Service or a slice is gone."""
        note = self.tracker.slice_changed if "addressType" in obj else self.tracker.service_changed
        note(meta.key(obj), None)

    async def sync(self) -> int:
        """Write what differs, and return how much that was."""
        changed = self.book.update(self.tracker, self.tracker.take_changes())
        result = await self.applier.sync(self.book.services(), changed)
        assert not result.refused
        local = frozenset({"127.0.0.1", "::1", *self.book.node.addresses})
        self.flows.reconcile(conntrack.fronts(self.tracker), local)
        return result.written_bytes


@dataclass
class World:
    """The machines, and the rules on the nodes."""

    mode: Mode
    fabric: Fabric
    nodes: list[Node]
    machines: dict[str, Namespace]
    """By the names that cases use: node_1, node_2, pod_a, pod_b, pod_c, stranger."""
    addresses: dict[tuple[str, int], str]
    """Of each machine, by IP version."""
    rules: list[Rules] = field(default_factory=list)

    def new_applier(self, rules: Rules) -> Applier:
        """Return what a proxy that starts anew would write by."""

        async def make() -> Applier:
            return applier_for(self.mode, rules.settings)

        return rules.node.call(make())

    def add(self, *objects: Object) -> None:
        """Put objects into the trackers of all nodes; `sync` brings them into the kernel."""
        for rules, obj in itertools.product(self.rules, objects):
            rules.put(obj)

    def remove(self, *objects: Object) -> None:
        """Take objects away from the trackers of all nodes."""
        for rules, obj in itertools.product(self.rules, objects):
            rules.forget(obj)

    def sync(self) -> int:
        """Bring all nodes up to date, and return how much was written."""
        return sum(rules.node.call(rules.sync()) for rules in self.rules)

    @contextmanager
    def holding(self, *objects: Object) -> Iterator[None]:
        """Have objects for the time of a test."""
        try:
            self.add(*objects)
            self.sync()
            yield
        finally:
            self.remove(*objects)
            self.sync()

    @contextmanager
    def using(self, changed: Callable[[Rules], dict[str, Any]]) -> Iterator[None]:
        """Have other settings for the time of a test."""
        try:
            self._use(changed)
            yield
        finally:
            self._use(lambda _: {})

    def _use(self, changed: Callable[[Rules], dict[str, Any]]) -> None:
        for rules in self.rules:
            rules.applier.use(replace(rules.settings, **changed(rules)))
        self.sync()

    def open_connected(self, client: str, address: str, port: int) -> socket.socket:
        """Return a datagram socket that learns of refusals."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = self.machines[client].open_socket(socket.SOCK_DGRAM, family)
        made.connect((address, port))
        return made

    def ask(
        self, client: str, address: str, port: int, protocol: str = "TCP", timeout_s: float = 0.9
    ) -> tuple[str, str]:
        """Ask who serves there and whom it sees; raises what a client's socket would."""
        match protocol:
            case "TCP":
                return self.machines[client].ask(address, port, timeout_s=timeout_s)
            case "SCTP":
                return sctp.ask(self.machines[client], address, port, timeout_s)
            case _:
                with self.open_connected(client, address, port) as flow:
                    flow.settimeout(timeout_s)
                    flow.send(b"who?")
                    name, _, seen = flow.recv(200).decode().partition(" ")
                    return name, seen


def machine_addresses() -> dict[tuple[str, int], str]:
    """Return every machine's address of each family."""
    found = {("stranger", 4): f"{FABRIC}.100", ("stranger", 6): f"{FABRIC6}100"}
    for number in (1, 2):
        found[(f"node_{number}", 4)], found[(f"node_{number}", 6)] = f"{FABRIC}.1{number}", f"{FABRIC6}1{number}"
    for pod, node, last in (("pod_a", 1, 2), ("pod_b", 1, 3), ("pod_c", 2, 2)):
        found[(pod, 4)], found[(pod, 6)] = f"10.244.{node}.{last}", f"fd00:244:{node}::{last}"
    return found


def batch(namespace: Namespace, commands: Iterable[str]) -> None:
    """Run many ip(8) commands at once."""
    run(f"ip -n {namespace.name} -batch -", input="\n".join(commands) + "\n")


@contextmanager
def built(mode: Mode) -> Iterator[World]:
    """Make the machines and the empty rules of one mode."""
    addresses = machine_addresses()
    with closing_all() as made:
        fabric = Fabric()
        made.append(fabric)
        fabric.run("sysctl -qw net.ipv6.conf.all.forwarding=1")
        batch(fabric, [f"addr add {FABRIC6}1/64 dev br0 nodad"])
        nodes = [Node(number, fabric) for number in (1, 2)]
        made.extend(nodes)
        stranger = Namespace("stranger")
        made.append(stranger)
        fabric.join(stranger, addresses["stranger", 4])
        machines: dict[str, Namespace] = {"node_1": nodes[0], "node_2": nodes[1], "stranger": stranger}
        for name, namespace in machines.items():
            batch(namespace, [f"addr add {addresses[name, 6]}/64 dev eth0 nodad", f"route add default via {FABRIC6}1"])
        vias = {4: addresses["node_1", 4], 6: addresses["node_1", 6]}
        routes = (*SERVICE_ROUTES, CLUSTER_CIDRS[4], CLUSTER_CIDRS[6])
        batch(stranger, [f"route add {to} via {vias[6 if ':' in to else 4]}" for to in routes])
        for node, other in ((nodes[0], 2), (nodes[1], 1)):
            node.run("sysctl -qw net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.send_redirects=0")
            via = addresses[f"node_{other}", 4], addresses[f"node_{other}", 6]
            batch(
                node, [f"route add 10.244.{other}.0/24 via {via[0]}", f"route add fd00:244:{other}::/48 via {via[1]}"]
            )
        via = addresses["node_2", 4], addresses["node_2", 6]
        batch(nodes[0], [f"route add {MANY[4]} via {via[0]}", f"route add {MANY[6]} via {via[1]}"])
        for name, node in (("pod_a", nodes[0]), ("pod_b", nodes[0]), ("pod_c", nodes[1])):
            pod = Namespace(name)
            made.append(pod)
            machines[name] = pod
            wire(node, pod, name, addresses)
        serve_all(machines)
        world = World(mode, fabric, nodes, machines, addresses)
        for node, zone, ip_version in ((n, z, v) for n, z in zip(nodes, "ab", strict=True) for v in (4, 6)):
            world.rules.append(rules_of(world, node, f"zone-{zone}", ip_version))
        try:
            yield world
        finally:
            for rules in world.rules:
                rules.applier.close()


def rules_of(world: World, node: Node, zone: str, ip_version: int) -> Rules:
    """Return a node's empty rules of one family."""
    own = (world.addresses[f"node_{node.number}", 4], world.addresses[f"node_{node.number}", 6])
    facts = NodeFacts(node.node_name, zone, own)
    settings = RuleSettings(
        ip_version,
        (CLUSTER_CIDRS[ip_version],),
        node_name=node.node_name,
        own_pod_cidrs=(POD_CIDRS[ip_version].format(node.number),),
    )

    async def make() -> Applier:
        return applier_for(world.mode, settings)

    return Rules(node, settings, ChangeTracker(ip_version), RuleBook(facts), node.call(make()), Reconciler(ip_version))


def wire(node: Node, pod: Namespace, name: str, addresses: dict[tuple[str, int], str]) -> None:
    """Join a pod to its node as the CNI daemon does, in both families."""
    four, six = addresses[name, 4], addresses[name, 6]
    batch(node, [f"link add {name} type veth peer name eth0 netns {pod.name}", f"link set {name} up"])
    gateways = ["addr add 169.254.1.1/32 dev", "addr add fe80::1/64 nodad dev"]
    batch(node, [f"{gateway} {name}" for gateway in gateways])
    batch(node, [f"route add {four}/32 dev {name}", f"route add {six}/128 dev {name}"])
    batch(
        pod,
        [
            "link set eth0 up",
            f"addr add {four}/32 dev eth0",
            f"addr add {six}/128 dev eth0 nodad",
            "route add 169.254.1.1 dev eth0",
            "route add default via 169.254.1.1",
            "route add default via fe80::1 dev eth0",
        ],
    )
    if name == "pod_c":
        batch(
            node,
            [f"route add {MANY[4]} via {four} dev {name} onlink", f"route add {MANY[6]} via {six} dev {name} onlink"],
        )
        batch(pod, [f"route add local {MANY[4]} dev lo", f"route add local {MANY[6]} dev lo"])


def serve_all(machines: dict[str, Namespace]) -> None:
    """Have each pod answer with its letter, and with the one from the end of the alphabet on its second port."""
    for letter, other in zip("abc", "xyz", strict=True):
        pod = machines[f"pod_{letter}"]
        pod.serve(letter, 8080)
        pod.serve(letter, 8080, socket.SOCK_DGRAM)
        pod.serve(other, 9090)
        sctp.serve(pod, letter, 8080)
    machines["pod_b"].serve("b", 8081)
    machines["stranger"].serve("stranger", 8080)


def front_address(case: str, front: str, ip_version: int) -> str:
    """Return the address of a case's front."""
    number = NUMBERS[case]
    prefixes = {
        4: {"cluster": "10.96.1.", "external": "198.51.100.", "balancer": "203.0.113."},
        6: {"cluster": "fd00:96::1:", "external": "2001:db8:98::", "balancer": "2001:db8:99::"},
    }
    return f"{prefixes[ip_version][front]}{number}"


def node_port(case: Case, port: Port) -> int:
    """Return the node port of one port of a case; protocols share it as they share ports."""
    return 30000 + 10 * NUMBERS[case.name] + port.port % 10


def service_object(case: Case, addresses: dict[tuple[str, int], str]) -> Object:
    """Return a case's Service, of both families."""
    spec = dict(case.spec)
    has_node_ports = spec.get("type") in ("NodePort", "LoadBalancer")
    cluster_ips = [front_address(case.name, "cluster", version) for version in (4, 6)]
    if spec.get("clusterIP") == "None":
        cluster_ips = ["None"]
    if "externalIPs" in spec:
        spec["externalIPs"] = [front_address(case.name, "external", version) for version in (4, 6)]
    if ranges := spec.get("loadBalancerSourceRanges"):
        who = {"stranger": ["stranger"], "nodes": ["node_1", "node_2"], "nobody": []}[ranges[0]]
        spec["loadBalancerSourceRanges"] = ["192.0.2.0/24", "2001:db8:ffff::/48"]
        spec["loadBalancerSourceRanges"] += [
            f"{addresses[name, version]}/{32 if version == 4 else 128}" for name in who for version in (4, 6)
        ]
    ports = [
        {"name": port.name, "port": port.port, "protocol": port.protocol}
        | ({"nodePort": node_port(case, port)} if has_node_ports else {})
        for port in case.ports
    ]
    mode = case.balanced.removeprefix("own ")
    ingress = [{"ip": front_address(case.name, "balancer", version), "ipMode": mode} for version in (4, 6)]
    return {
        "metadata": {"name": case.name, "namespace": "default", "labels": case.labels},
        "spec": {"clusterIPs": cluster_ips, "clusterIP": cluster_ips[0], "ports": ports, **spec},
        "status": {"loadBalancer": {"ingress": ingress if case.balanced else []}},
    }


def slice_objects(case: Case, addresses: dict[tuple[str, int], str]) -> list[Object]:
    """Return a case's slices: by family, by the pods' ports, and as many as the case says."""
    found = []
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, at in enumerate(case.endpoints):
        groups.setdefault(tuple(at.targets.get(port.name, port.target) for port in case.ports), []).append(index)
    for version, (group, (targets, members)) in itertools.product((4, 6), enumerate(groups.items())):
        for part in range(case.slices):
            chosen = [index for index in members if case.slices == 1 or index % case.slices in (part, (part + 1) % 3)]
            ports = [
                {"name": port.name, "port": target, "protocol": port.protocol}
                for port, target in zip(case.ports, targets, strict=True)
            ]
            endpoints = [endpoint_entry(case, index, addresses, version) for index in chosen]
            found.append(slice_object(case.name, f"{version}-{group}-{part}", version, ports, endpoints))
    return found


def slice_object(service: str, suffix: str, version: int, ports: list[Any], endpoints: list[Any]) -> Object:
    """Return an EndpointSlice."""
    labels = {"kubernetes.io/service-name": service}
    return {
        "metadata": {"name": f"{service}-{suffix}", "namespace": "default", "labels": labels},
        "addressType": f"IPv{version}",
        "ports": ports,
        "endpoints": endpoints,
    }


def endpoint_entry(case: Case, index: int, addresses: dict[tuple[str, int], str], version: int) -> dict[str, Any]:
    """Return one endpoint of a slice."""
    at = case.endpoints[index]
    entry: dict[str, Any] = {
        "addresses": [addresses[f"pod_{at.pod}", version]],
        "nodeName": "n2" if at.pod == "c" else "n1",
        "conditions": {"ready": True, **at.conditions},
    }
    hints = {"forZones": at.zones, "forNodes": at.nodes}
    if kept := {key: [{"name": name} for name in names] for key, names in hints.items() if names}:
        entry["hints"] = kept
    return entry


def many_endpoints(version: int, count: int) -> list[dict[str, Any]]:
    """Return as many endpoints as wanted, all of them pod c."""
    first = ipaddress.ip_network(MANY[version])[1]
    return [{"addresses": [str(first + number)], "nodeName": "n2", "conditions": {}} for number in range(count)]


def odd_tcp_segment(source_port: int, target_port: int) -> bytes:
    """Return a TCP segment whose flags no connection has, without a valid checksum."""
    return struct.pack(">HHIIBBHHH", source_port, target_port, 1, 0, 5 << 4, 0x03, 1024, 0, 0)
