"""Makes a machine a control plane: its certificates and kubeconfigs, and the steps from its first process to Ready."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cli.machine import prepare
from cli.machine.settings import PLACES, ClusterSettings, Machine, Places
from control.client import kubeconfig
from control.client.client import Client
from control.client.connect import connect
from control.client.kubeconfig import Kubeconfig, Material
from lab import cluster_api, cluster_pki
from lab.cluster_pki import API_PORT, CONTROL_PLANE_USERS, HUB_PORT
from lab.progress import Progress

API_TIMEOUT_S = 300.0
NODE_TIMEOUT_S = 300.0
EMULATION_FACTOR = 12
"""So much more patience have machines whose timers are those of emulation."""


def patience_s(cluster: ClusterSettings, timeout_s: float) -> float:
    """Return how long to wait on machines of this speed."""
    return timeout_s * EMULATION_FACTOR if cluster.timers == "emulation" else timeout_s


def issue_certificates(machine: Machine, extra_names: Sequence[str], places: Places = PLACES) -> None:
    """Issue this machine's control plane certificates from the authorities that lie in its folder."""
    cluster_pki.issue_store_member(places.pki / "etcd", machine.node_name, machine.address)
    addresses, names = split_names(extra_names)
    services = [str(ipaddress.ip_network(part)[1]) for part in machine.cluster.service_range.split(",")]
    addresses = list(dict.fromkeys([*services, machine.address, *addresses]))
    cluster_pki.issue_control_plane(places.pki, addresses, [machine.node_name, *names])


def split_names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return addresses and host names apart."""
    addresses, hosts = [], []
    for name in names:
        try:
            addresses.append(str(ipaddress.ip_address(name)))
        except ValueError:
            hosts.append(name)
    return addresses, hosts


def _material(places: Places, basename: str) -> tuple[Material, Material]:
    certificate, key = places.pki / f"{basename}.crt", places.pki / f"{basename}.key"
    return Material(data=certificate.read_bytes()), Material(data=key.read_bytes())


def server_of(address: str, port: int = API_PORT) -> str:
    """Return HOST:PORT, an IPv6 address in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def write_kubeconfigs(machine: Machine, places: Places = PLACES) -> None:
    """Write the kubeconfigs of this machine's control plane and of the administrator."""
    authority = Material(data=(places.pki / "ca.crt").read_bytes())
    for name, user in CONTROL_PLANE_USERS.items():
        certificate, key = _material(places, name)
        local = Kubeconfig(
            f"https://127.0.0.1:{API_PORT}", (f"127.0.0.1:{HUB_PORT}",), certificate_authority=authority,
            client_certificate=certificate, client_key=key,
        )  # fmt: skip
        kubeconfig.write(places.configuration / f"{name}.kubeconfig", local, user_name=user)
    certificate, key = _material(places, "admin")
    administrator = Kubeconfig(
        f"https://{server_of(machine.address)}", certificate_authority=authority,
        client_certificate=certificate, client_key=key,
    )  # fmt: skip
    kubeconfig.write(
        places.administrator, administrator, cluster_name=machine.cluster.name, user_name="kubernetes-admin"
    )


def write_bootstrap(cluster: ClusterSettings, own: str, authority: bytes, token: str, places: Places = PLACES) -> None:
    """Write the kubeconfig that the node joins with: ``own`` is the API server's HOST:PORT that is asked first."""
    first = own.rpartition(":")[0].strip("[]")
    known = cluster.control_planes
    hubs = dict.fromkeys([first, *known] if first in known else known)
    joining = Kubeconfig(
        f"https://{own}", tuple(server_of(address, HUB_PORT) for address in hubs),
        certificate_authority=Material(data=authority), token=Material(data=token.encode()),
    )  # fmt: skip
    kubeconfig.write(places.configuration / "bootstrap.kubeconfig", joining, user_name="bootstrap")


def administrator(places: Places = PLACES) -> Client:
    """Return a client with the administrator's rights."""
    return connect(kubeconfig.load(places.administrator), transport="rest")


async def start(machine: Machine, progress: Progress, places: Places = PLACES) -> Client:
    """Start the control plane, and return the administrator's client once it answers."""
    with progress.step("start the control plane"):
        prepare.start(machine, "controlplane", places)
    client = administrator(places)
    with progress.step("wait for the API server"):
        await cluster_api.wait_ready(client, patience_s(machine.cluster, API_TIMEOUT_S))
    return client


async def start_node(machine: Machine, client: Client, progress: Progress, places: Places = PLACES) -> None:
    """Start the node agent of a control plane, and wait until its Node is Ready."""
    with progress.step("start the node"):
        prepare.start(machine, "node", places)
    with progress.step(f"wait until {machine.node_name} is Ready"):
        await cluster_api.wait_nodes(client, {machine.node_name}, patience_s(machine.cluster, NODE_TIMEOUT_S))
        await cluster_api.label_control_planes(client, {machine.node_name})


def shared_authority(places: Places = PLACES) -> bytes:
    """Return the cluster's certificate authority."""
    return Path(places.pki / "ca.crt").read_bytes()
