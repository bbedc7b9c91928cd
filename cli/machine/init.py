"""``raftsman init``: makes a machine the first of a new cluster."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import click
from rich.console import Console

from cli.machine import controlplane, objects, prepare, settings, sharing, supervisor
from cli.machine.options import address_option, join_line, node_name_option, supervisor_option, timers_option
from cli.machine.settings import PLACES, ClusterSettings, Machine
from control.api import bootstraptokens
from control.client.flags import DURATION
from control.cloud.command import take_pool
from lab import cluster_api, cluster_pki
from lab.probe import Machine as Facts
from lab.progress import Progress
from lab.state import LabError

DEFAULTS = ClusterSettings()


@click.command(context_settings={"max_content_width": 110})
@node_name_option
@address_option
@click.option("--cluster-name", default=DEFAULTS.name, show_default=True, help="The cluster's name in kubeconfigs.")
@click.option("--pod-network-cidr", default=DEFAULTS.pod_range, show_default=True, help="All pods' addresses.")
@click.option("--service-cidr", default=DEFAULTS.service_range, show_default=True, help="All Services' addresses.")
@click.option(
    "--load-balancer-pool", default="", callback=take_pool,
    help="CIDR or FIRST-LAST,…: addresses of the machines' network that Services of type LoadBalancer get.",
)  # fmt: skip
@click.option("--token", default="", help="The first bootstrap token; made where it is not given.")
@click.option("--token-ttl", type=DURATION, default="24h", show_default=True, help="How long it lasts; 0 for ever.")
@click.option("--upload-certs", is_flag=True, help="Let further control planes join, with --certificate-key.")
@click.option("--certificate-key", default="", help="What encrypts the certificates; made where it is not given.")
@click.option("--apiserver-cert-extra-sans", multiple=True, help="Further names or addresses of the API server.")
@timers_option
@supervisor_option
def init(
    node_name: str,
    address: str,
    cluster_name: str,
    pod_network_cidr: str,
    service_cidr: str,
    load_balancer_pool: str,
    token: str,
    token_ttl: float,
    upload_certs: bool,
    certificate_key: str,
    apiserver_cert_extra_sans: tuple[str, ...],
    timers: str,
    supervisor: str,
) -> None:
    """Make this machine the first control plane of a new cluster, and print how others join.

    \b
    Examples:
      raftsman init
      raftsman init --advertise-address 192.168.56.11 --upload-certs
    """
    token = _checked_token(token)
    key = certificate_key or (sharing.generate_key() if upload_certs else "")
    key_bytes = sharing.read_key(key) if key else b""
    prepare.check_root()
    chosen = prepare.choose_address(address)
    cluster = ClusterSettings(cluster_name, pod_network_cidr, service_cidr, timers, (chosen,), load_balancer_pool)
    machine = _machine(prepare.choose_node_name(node_name), chosen, cluster, supervisor)
    settings.check_ranges(cluster, chosen)
    with Progress() as progress:
        with progress.step("look at the machine"):
            facts = prepare.check(chosen, control_plane=True)
        _write(machine, facts, apiserver_cert_extra_sans, progress)
        asyncio.run(_bring_up(machine, token, token_ttl, key_bytes, progress))
    _show_end(machine, token, key)


def _checked_token(token: str) -> str:
    try:
        bootstraptokens.parse(token or (token := bootstraptokens.generate()))
    except ValueError as error:
        raise LabError(f"--token: {error}") from error
    return token


def _machine(node_name: str, address: str, cluster: ClusterSettings, wanted_supervisor: str) -> Machine:
    kind = supervisor.choose(wanted_supervisor)
    return Machine(node_name, address, True, cluster, kind, {node_name: address})


def _write(machine: Machine, facts: Facts, names: tuple[str, ...], progress: Progress) -> None:
    settings.save(machine)
    with progress.step("make keys and certificates"):
        cluster_pki.make_authorities(PLACES.pki)
        controlplane.issue_certificates(machine, names)
        controlplane.write_kubeconfigs(machine)
    with progress.step("start containerd and the store"):
        prepare.write_files(machine, facts)
        prepare.start(machine, "containerd")
        prepare.start(machine, "store")


async def _bring_up(machine: Machine, token: str, token_ttl_s: float, key: bytes, progress: Progress) -> None:
    endpoint = controlplane.server_of(machine.address)
    authority = controlplane.shared_authority()
    controlplane.write_bootstrap(machine.cluster, endpoint, authority, token)
    with progress.step("hand the images to containerd"):
        prepare.import_images()
    client = await controlplane.start(machine, progress)
    try:
        with progress.step("let machines join"):
            await objects.ensure_joining(client, machine.cluster, f"https://{endpoint}", authority)
            expiration = sharing.now() + timedelta(seconds=token_ttl_s) if token_ttl_s else None
            timeout_s = controlplane.patience_s(machine.cluster, controlplane.API_TIMEOUT_S)
            await cluster_api.name_dns(client, machine.cluster.service_range, timeout_s)
            await objects.store_token(client, token, expiration, "The first token of `raftsman init`.")
            if key:
                await sharing.upload(client, PLACES.pki, key, sharing.now())
        await controlplane.start_node(machine, client, progress)
    finally:
        await client.close()


def _show_end(machine: Machine, token: str, key: str) -> None:
    console, endpoint = Console(soft_wrap=True, highlight=False), controlplane.server_of(machine.address)
    console.print(f"\n{machine.node_name} is a control plane of cluster {machine.cluster.name}.")
    console.print(f"\n  export KUBECONFIG={PLACES.administrator}")
    console.print("\nA worker joins by running there, as root:\n")
    console.print(f"  {join_line(endpoint, token)}")
    if key:
        console.print("\nA further control plane (within two hours; keep the key to yourself):\n")
        console.print(f"  {join_line(endpoint, token, key)}")
