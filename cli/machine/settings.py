"""What a cluster of machines is, what one machine is in it, and where its files stand."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from control.client.kubeconfig import write_private
from lab.site import PROFILES, Site
from lab.state import LabError

VERSION = 1
CONFIG_MAP, CONFIG_KEY = "raftsman-config", "ClusterConfiguration"


@dataclass(frozen=True)
class Places:
    """The folders of a machine."""

    configuration: Path = Path("/etc/raftsman")
    state: Path = Path("/var/lib/raftsman")
    run: Path = Path("/run/raftsman")
    log: Path = Path("/var/log/raftsman")

    @property
    def record(self) -> Path:
        """What this machine is."""
        return self.configuration / "machine.json"

    @property
    def pki(self) -> Path:
        """The cluster's certificates; on a worker, its authority's alone."""
        return self.configuration / "pki"

    @property
    def administrator(self) -> Path:
        """The administrator's kubeconfig, on a control plane."""
        return self.configuration / "admin.kubeconfig"

    @property
    def node(self) -> Path:
        """All that kubelet, pod network and containerd keep."""
        return self.state / "node"

    @property
    def store(self) -> Path:
        """The store member's log and snapshots."""
        return self.state / "store"

    @property
    def containerd(self) -> Path:
        """The socket of the containerd that serves this node alone."""
        return self.run / "containerd.sock"


PLACES = Places()


@dataclass(frozen=True)
class ClusterSettings:
    """What all machines of a cluster agree on; it stands in the ConfigMap kube-system/raftsman-config."""

    name: str = "raftsman"
    pod_range: str = "10.244.0.0/16"
    service_range: str = "10.96.0.0/16"
    timers: str = "kubernetes"
    control_planes: tuple[str, ...] = ()
    """Addresses of the API servers."""
    load_balancer_pool: str = ""
    """Addresses of Services of type LoadBalancer, on the machines' own network; empty for none."""

    def with_control_plane(self, address: str) -> ClusterSettings:
        """Return the settings with one API server more."""
        known = self.control_planes
        return self if address in known else replace(self, control_planes=(*known, address))

    def without_control_plane(self, address: str) -> ClusterSettings:
        """Return the settings with one API server less."""
        return replace(self, control_planes=tuple(known for known in self.control_planes if known != address))

    def to_text(self) -> str:
        """Return what stands in the ConfigMap."""
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_text(cls, text: str) -> ClusterSettings:
        """Read what stands in the ConfigMap; raises LabError."""
        try:
            return cls._from_fields(json.loads(text))
        except (ValueError, TypeError, AttributeError) as error:
            raise LabError(f"the ConfigMap kube-system/{CONFIG_MAP} cannot be read: {error}") from error

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> ClusterSettings:
        rest = dict(fields)
        check_version(rest.pop("version", 0), f"the ConfigMap kube-system/{CONFIG_MAP}")
        rest["control_planes"] = tuple(rest.get("control_planes") or ())
        return cls(**rest)


def check_version(version: object, where: str) -> None:
    """Refuse what another version wrote; raises LabError."""
    if version != VERSION:
        raise LabError(f"{where} has version {version}, this raftsman reads {VERSION}; use the one that made it")


def check_ranges(settings: ClusterSettings, address: str) -> None:
    """Raise LabError where address ranges are none, overlap, or hold the node's own address."""
    named = [("--pod-network-cidr", part) for part in settings.pod_range.split(",")]
    named += [("--service-cidr", part) for part in settings.service_range.split(",")]
    ranges = []
    for flag, text in named:
        try:
            ranges.append((flag, ipaddress.ip_network(text)))
        except ValueError as error:
            raise LabError(f"{flag} {text}: {error}") from error
    own = ipaddress.ip_address(address)
    for index, (flag, network) in enumerate(ranges):
        if own in network:
            raise LabError(f"{flag} {network} holds this machine's own address {address}; choose another range")
        for other_flag, other in ranges[index + 1 :]:
            if network.overlaps(other):
                raise LabError(f"{flag} {network} overlaps {other_flag} {other}; choose ranges apart")


@dataclass(frozen=True)
class Machine:
    """One machine, as it is recorded on itself."""

    node_name: str
    address: str
    control_plane: bool
    cluster: ClusterSettings
    supervisor: str
    """systemd or plain."""
    store_members: Mapping[str, str]
    """On a control plane: address by name, of the store's members as this one started."""
    store_is_new: bool = True

    def site(self, places: Places = PLACES) -> Site:
        """Return what the components' command lines need."""
        node = places.node
        return Site(
            cluster_name=self.cluster.name,
            node_name=self.node_name,
            address=self.address,
            pod_range=self.cluster.pod_range,
            service_range=self.cluster.service_range,
            pki=places.pki,
            store_pki=places.pki / "etcd" / self.node_name,
            kubeconfigs=places.configuration,
            store_data=places.store,
            store_members=self.store_members,
            store_clients=(self.address,),
            socket=places.containerd,
            node_kubeconfig=node / "kubelet.kubeconfig",
            node_pki=node / "pki",
            kubelet_data=node / "kubelet",
            cni_conf=node / "cni" / "net.d",
            cni_bin=node / "cni" / "bin",
            cni_state=node / "cni" / "state",
            pod_logs=Path("/var/log/pods"),
            cgroup=f"/raftsman-{self.node_name}",
            timers=PROFILES[self.cluster.timers],
            load_balancer_range=self.cluster.load_balancer_pool,
            store_is_new=self.store_is_new,
        )


def save(machine: Machine, places: Places = PLACES) -> None:
    """Record what this machine is."""
    record = {"version": VERSION, **asdict(machine)}
    places.configuration.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(places.record, json.dumps(record, indent=2).encode() + b"\n")


def load(places: Places = PLACES) -> Machine | None:
    """Return what this machine is; None where it belongs to no cluster."""
    try:
        record = json.loads(places.record.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise LabError(f"{places.record} is damaged ({error}); begin anew with: raftsman reset --force") from error
    check_version(record.pop("version", 0), str(places.record))
    cluster = dict(record.pop("cluster"))
    cluster["control_planes"] = tuple(cluster["control_planes"])
    return Machine(cluster=ClusterSettings(**cluster), **record)
