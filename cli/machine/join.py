"""``raftsman join``: makes a machine a node, or a further control plane, of a cluster that exists."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import click
from rich.console import Console

from cli.machine import controlplane, discovery, objects, prepare, settings, sharing, supervisor
from cli.machine.membership import Membership
from cli.machine.options import address_option, node_name_option, supervisor_option
from cli.machine.settings import PLACES, ClusterSettings, Machine
from control.api import bootstraptokens
from control.api.status import ApiError
from control.client import kubeconfig
from control.client.connect import connect
from control.client.flags import DURATION
from control.client.kubeconfig import Kubeconfig, KubeconfigError, Material
from lab import cluster_api, pki
from lab.probe import Machine as Facts
from lab.progress import Progress
from lab.state import LabError

STORE_TIMEOUT_S = 600.0


@click.command(context_settings={"max_content_width": 110})
@click.argument("endpoint", metavar="HOST:PORT")
@click.option("--token", required=True, help="A bootstrap token of the cluster.")
@click.option(
    "--ca-cert-hash", "--discovery-token-ca-cert-hash", "hashes", multiple=True,
    help="sha256:… of the cluster's authority, as `raftsman init` prints it.",
)  # fmt: skip
@click.option("--unsafe-skip-ca-verification", is_flag=True, help="Trust whoever knows the token.")
@click.option("--control-plane", "wants_control_plane", is_flag=True, help="Run a control plane and a store member.")
@click.option("--certificate-key", default="", help="With --control-plane: what decrypts the certificates.")
@click.option("--apiserver-cert-extra-sans", multiple=True, help="Further names or addresses of the API server.")
@click.option(
    "--discovery-timeout", type=DURATION, default="5m", show_default=True, help="How long to wait for the cluster."
)
@node_name_option
@address_option
@supervisor_option
def join(
    endpoint: str,
    token: str,
    hashes: tuple[str, ...],
    unsafe_skip_ca_verification: bool,
    wants_control_plane: bool,
    certificate_key: str,
    apiserver_cert_extra_sans: tuple[str, ...],
    discovery_timeout: float,
    node_name: str,
    address: str,
    supervisor: str,
) -> None:
    """Make this machine a node of the cluster whose API server answers at HOST:PORT.

    \b
    Examples:
      raftsman join 192.168.56.11:6443 --token abcdef.0123456789abcdef --ca-cert-hash sha256:…
      raftsman join 192.168.56.11:6443 --token … --ca-cert-hash sha256:… --control-plane --certificate-key …
    """
    pins = tuple(discovery.check_hash(text) for text in hashes)
    if not pins and not unsafe_skip_ca_verification:
        raise LabError("--ca-cert-hash is missing: without it, whoever stole the token could pose as the cluster")
    if wants_control_plane != bool(certificate_key):
        raise LabError("--control-plane and --certificate-key belong together")
    key = sharing.read_key(certificate_key) if certificate_key else b""
    try:
        bootstraptokens.parse(token)
    except ValueError as error:
        raise LabError(f"--token: {error}") from error
    prepare.check_root()
    chosen, name = prepare.choose_address(address), prepare.choose_node_name(node_name)
    with Progress() as progress:
        with progress.step("look at the machine"):
            facts = prepare.check(chosen, control_plane=wants_control_plane)
        machine = Machine(name, chosen, wants_control_plane, ClusterSettings(), "", {})
        joining = _Joining(machine, facts, endpoint, token, discovery_timeout, progress)
        asyncio.run(joining.run(pins, key, apiserver_cert_extra_sans, supervisor))
    Console(soft_wrap=True, highlight=False).print(f"\n{name} is part of the cluster at {endpoint}.")


class _Joining:
    """One run of the command."""

    def __init__(
        self, machine: Machine, facts: Facts, endpoint: str, token: str, discovery_timeout_s: float, progress: Progress
    ) -> None:
        self._machine = machine
        self._facts = facts
        self._endpoint = endpoint
        self._token = token
        self._discovery_timeout_s = discovery_timeout_s
        self._progress = progress

    async def run(self, pins: tuple[str, ...], key: bytes, names: tuple[str, ...], wanted_supervisor: str) -> None:
        """Join, from the first question to a Ready node."""
        with self._progress.step(f"learn about the cluster at {self._endpoint}"):
            trusted = await discovery.discover(self._endpoint, self._token, pins, self._discovery_timeout_s)
            cluster, shared = await self._ask(trusted, key)
            settings.check_ranges(cluster, self._machine.address)
        kind = supervisor.choose(wanted_supervisor)
        self._machine = replace(self._machine, cluster=cluster, supervisor=kind)
        authority = trusted.certificate_authority.data or b""
        if self._machine.control_plane:
            await self._as_control_plane(shared, names, authority)
        else:
            await self._as_worker(authority)

    async def _ask(self, trusted: Kubeconfig, key: bytes) -> tuple[ClusterSettings, Mapping[str, bytes]]:
        """Return the cluster's settings, and for a control plane what all of them share."""
        client = connect(replace(trusted, token=Material(data=self._token.encode())), "raftsman-join")
        try:
            cluster = await objects.read_settings(client)
            return cluster, await sharing.download(client, key) if key else {}
        except ApiError as error:
            raise LabError(f"the cluster's settings cannot be read: {error.message}") from error
        finally:
            await client.close()

    def _start_runtime(self) -> None:
        with self._progress.step("start containerd and hand it the images"):
            prepare.write_files(self._machine, self._facts)
            prepare.start(self._machine, "containerd")
            prepare.import_images()

    async def _as_worker(self, authority: bytes) -> None:
        settings.save(self._machine)
        pki.write_private(PLACES.pki / "ca.crt", authority)
        controlplane.write_bootstrap(self._machine.cluster, self._endpoint, authority, self._token)
        self._start_runtime()
        with self._progress.step("start the node"):
            prepare.start(self._machine, "node")
        with self._progress.step(f"wait until {self._machine.node_name} is Ready"):
            await _wait_own_node(self._machine)

    async def _as_control_plane(self, shared: Mapping[str, bytes], names: tuple[str, ...], authority: bytes) -> None:
        machine = self._machine
        machine = replace(machine, cluster=machine.cluster.with_control_plane(machine.address), store_is_new=False)
        settings.save(machine)
        with self._progress.step("make certificates"):
            sharing.write(shared, PLACES.pki)
            controlplane.issue_certificates(machine, names)
            controlplane.write_kubeconfigs(machine)
        others = [address for address in machine.cluster.control_planes if address != machine.address]
        membership = Membership(PLACES.pki, others)
        try:
            with self._progress.step("join the store as a learner"):
                members = await membership.add_learner(machine.node_name, machine.address, STORE_TIMEOUT_S)
                machine = replace(machine, store_members=members)
                settings.save(machine)
                prepare.start(machine, "store")
            self._machine = machine
            self._start_runtime()
            with self._progress.step("vote in the store"):
                await membership.promote(machine.address, STORE_TIMEOUT_S)
        finally:
            await membership.close()
        own = controlplane.server_of(machine.address)
        controlplane.write_bootstrap(machine.cluster, own, authority, self._token)
        client = await controlplane.start(machine, self._progress)
        try:
            await objects.change_control_planes(client, machine.address, add=True)
            await controlplane.start_node(machine, client, self._progress)
        finally:
            await client.close()


async def _wait_own_node(machine: Machine) -> None:
    """Wait with the node's own identity, which may read its own Node."""
    path = machine.site().node_kubeconfig

    async def attempt() -> bool | None:
        try:
            config = kubeconfig.load(path)
        except KubeconfigError:
            return None  # its certificate is not signed yet
        client = connect(config, transport="rest")
        try:
            return await cluster_api.is_ready(client, machine.node_name) or None
        finally:
            await client.close()

    timeout_s = controlplane.patience_s(machine.cluster, controlplane.NODE_TIMEOUT_S)
    await cluster_api.wait_for(f"readiness of {machine.node_name}", timeout_s, attempt)
