"""What a cluster of the lab is: its name, its address ranges, its nodes, and where its files stand."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

STATE_VERSION = 1
DEFAULT_ROOT = Path("/var/lib/raftsman")
CLUSTERS_MAX = 90
NODES_MAX = 200
NODE_NAME_LENGTH_MAX = 15
"""A node's name is also its link's name in the fabric."""
_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?$")


class LabError(Exception):
    """Something that a person has to know or do; the text says what."""


@dataclass(frozen=True)
class NodeSpec:
    """One node and what runs on it."""

    name: str
    index: int
    """Counts from 1 and is never used twice in a cluster; the address follows from it."""
    store: bool = False
    control_plane: bool = False


@dataclass(frozen=True)
class Cluster:
    """A cluster as it is recorded; all else about it is derived."""

    name: str
    slot: int
    """A number that no other cluster of this machine has; the address ranges follow from it."""
    directory: Path
    nodes: tuple[NodeSpec, ...]
    api_port: int = 0
    demo_port: int = 0
    bootstrap_token: str = ""
    init_pids: dict[str, int] = field(default_factory=dict)
    """PID 1 of each running node, as this machine counts."""
    forwarder_pid: int = 0
    dual_stack: bool = False
    """Whether nodes and pods have IPv6 addresses beside IPv4."""
    phase: str = "starting"
    """starting, or running once all was seen to answer."""

    @property
    def fabric(self) -> ipaddress.IPv4Network:
        """The network that joins the nodes."""
        return ipaddress.IPv4Network(f"10.77.{self.slot}.0/24")

    @property
    def gateway(self) -> str:
        """The fabric's own address."""
        return str(self.fabric[1])

    @property
    def load_balancer_range(self) -> str:
        """The fabric's addresses that Services of type LoadBalancer get; nodes have lower ones."""
        return f"{self.fabric[220]}-{self.fabric[250]}"

    @property
    def pod_range(self) -> str:
        """All nodes' pod addresses."""
        return f"10.{100 + self.slot}.0.0/16"

    @property
    def site_range(self) -> ipaddress.IPv6Network:
        """All IPv6 addresses of the cluster, unique local ones ("Raft" in hexadecimal and the slot)."""
        return ipaddress.IPv6Network(f"fd52:6166:74{self.slot:02x}::/48")

    @property
    def second_fabric(self) -> ipaddress.IPv6Network:
        """The nodes' network in IPv6."""
        return ipaddress.IPv6Network((int(self.site_range[0]) + (0x77 << 64), 64))

    @property
    def second_pod_range(self) -> str:
        """All nodes' pod addresses in IPv6."""
        return f"{self.site_range[0x100 << 64]}/56"

    @property
    def pod_ranges(self) -> tuple[str, ...]:
        """All nodes' pod addresses, one range a family."""
        return (self.pod_range, self.second_pod_range) if self.dual_stack else (self.pod_range,)

    @property
    def service_range(self) -> str:
        """Cluster addresses of Services."""
        return f"10.{8 + self.slot % 60}.{240 if self.slot >= 60 else 0}.0/20"

    @property
    def service_ranges(self) -> tuple[str, ...]:
        """Cluster addresses of Services, one range a family; IPv4 is what a Service gets that does not ask."""
        second = f"{self.site_range[0x96 << 64]}/112"
        return (self.service_range, second) if self.dual_stack else (self.service_range,)

    @property
    def first_service_address(self) -> str:
        """The address of default/kubernetes."""
        return str(ipaddress.IPv4Network(self.service_range)[1])

    @property
    def tag(self) -> str:
        """A name that no other cluster of this machine has, also where two state folders are in use."""
        if self.directory == DEFAULT_ROOT / "clusters" / self.name:
            return self.name
        return f"{self.name}-{hashlib.sha256(str(self.directory).encode()).hexdigest()[:6]}"

    @property
    def namespace(self) -> str:
        """The network namespace that holds the fabric."""
        return f"raftsman-{self.tag}"

    @property
    def cgroup(self) -> str:
        """The control group above all pods of the cluster, as a path below each hierarchy."""
        return f"raftsman/{self.tag}"

    @property
    def pki(self) -> Path:
        """Keys and certificates."""
        return self.directory / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig for use on this machine."""
        return self.directory / "kubeconfig"

    def node(self, name: str) -> NodeSpec:
        """Return a node by name; raises LabError."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise LabError(f"cluster {self.name} has no node {name!r}; it has {known}")

    def address(self, node: NodeSpec) -> str:
        """Return a node's address on the fabric."""
        return str(self.fabric[10 + node.index])

    def second_address(self, node: NodeSpec) -> str:
        """Return a node's IPv6 address on the fabric; empty where it has none."""
        return str(self.second_fabric[10 + node.index]) if self.dual_stack else ""

    def node_directory(self, node: NodeSpec) -> Path:
        """Return where a node's files stand."""
        return self.directory / "nodes" / node.name

    def store_nodes(self) -> list[NodeSpec]:
        """Return the nodes that hold a store member."""
        return [node for node in self.nodes if node.store]

    def control_plane_nodes(self) -> list[NodeSpec]:
        """Return the nodes that run an API server."""
        return [node for node in self.nodes if node.control_plane]

    def with_changes(self, **changes: Any) -> Cluster:
        """Return a changed copy."""
        return replace(self, **changes)


def check_node_name(name: str) -> None:
    """Raise LabError where a text cannot name a node."""
    if not _NAME.match(name) or len(name) > NODE_NAME_LENGTH_MAX:
        raise LabError(f"{name!r} is no node name: use up to {NODE_NAME_LENGTH_MAX} of a-z, 0-9 and '-'")


def plan(name: str, slot: int, directory: Path, nodes: int, control_planes: int) -> Cluster:
    """Return a new cluster: store members on the first three nodes, control planes on the first ``control_planes``."""
    if not _NAME.match(name):
        raise LabError(f"{name!r} is no cluster name: use up to 20 of a-z, 0-9 and '-'")
    if not 1 <= nodes <= NODES_MAX:
        raise LabError(f"--nodes must be from 1 to {NODES_MAX}, not {nodes}")
    if control_planes not in (1, 3) or control_planes > nodes:
        raise LabError(f"--control-planes must be 1 or 3 and at most --nodes ({nodes}), not {control_planes}")
    members = 3 if nodes >= 3 else 1
    specs = [NodeSpec(f"n{i}", i, store=i <= members, control_plane=i <= control_planes) for i in range(1, nodes + 1)]
    token = f"{secrets.token_hex(3)}.{secrets.token_hex(8)}"
    return Cluster(name, slot, directory, tuple(specs), bootstrap_token=token)


def state_root() -> Path:
    """Return the folder of all clusters of this machine: $RAFTSMAN_STATE_DIR, else /var/lib/raftsman."""
    return Path(os.environ.get("RAFTSMAN_STATE_DIR") or DEFAULT_ROOT)


def save(cluster: Cluster) -> None:
    """Record a cluster, readable by its owner alone, by rename into place."""
    record = asdict(cluster) | {"version": STATE_VERSION, "directory": str(cluster.directory)}
    cluster.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = cluster.directory / "cluster.json.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(record, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(cluster.directory / "cluster.json")


def load(name: str) -> Cluster | None:
    """Return the recorded cluster of this name; None where there is none."""
    path = state_root() / "clusters" / name / "cluster.json"
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LabError(f"{path} is damaged ({error}); remove the cluster with: raftsman down --name {name}") from error
    version = record.pop("version", 0)
    if version != STATE_VERSION:
        raise LabError(f"{path} has version {version}, this raftsman reads {STATE_VERSION}; use the one that made it")
    record["directory"] = Path(record["directory"])
    record["nodes"] = tuple(NodeSpec(**node) for node in record["nodes"])
    return Cluster(**record)


def require(name: str) -> Cluster:
    """Return the recorded cluster of this name; raises LabError with what to do."""
    cluster = load(name)
    if cluster is None:
        raise LabError(f"there is no cluster {name!r} here; start one with: raftsman up --name {name}")
    return cluster


def free_slot() -> int:
    """Return the lowest number that no recorded cluster has."""
    taken = set()
    for path in (state_root() / "clusters").glob("*/cluster.json"):
        try:
            taken.add(int(json.loads(path.read_text())["slot"]))
        except (ValueError, KeyError):
            continue  # a damaged record holds no range; `down` removes it
    for slot in range(CLUSTERS_MAX):
        if slot not in taken:
            return slot
    raise LabError(f"{CLUSTERS_MAX} clusters live here already; remove one with: raftsman down --name NAME")
