"""Run the CNI daemon: its socket, its informers, the runtime's configuration, garbage collection.

The socket answers first, so that DEL works even while the API server is away; ADD is told to try
again until the Node's pod CIDR is known, which the state file remembers over restarts.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket as sockets
import time
from collections.abc import Iterable
from functools import lru_cache

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES, PODS
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net.cni import conflist, wiring
from net.cni.config import CniConfig
from net.cni.daemon import CniDaemon
from net.cni.gate import OPEN, Gate, PodReference
from net.cni.hostports import HostPorts
from net.cni.keeper import STATE_FILE, StateKeeper
from net.cni.plan import bridge_of, version_of
from net.cni.spec import CONFIGURATION_BYTES_MAX, CniError, Request
from net.ipam import files
from net.ipam.allocator import Allocator
from net.nftables.errors import NftablesError

log = logging.getLogger(__name__)

MIRROR_ANNOTATIONS = ("kubernetes.io/config.mirror", "kubernetes.io/config.hash")
BY_UID = "uid"
READ_TIMEOUT_S = 30.0
MTU_AGE_S = 5.0
"""How long the uplink's MTU is taken for known: tunnels come and go."""


def node_name(override: str) -> str:
    """Return the Node's name."""
    return override or sockets.gethostname().lower()


def uids(pod: Object) -> tuple[str, ...]:
    """Return every uid by which a runtime may know a pod: a static pod's own differs from its mirror's."""
    notes = meta.annotations(pod)
    return (meta.uid(pod), *(notes[name] for name in MIRROR_ANNOTATIONS if name in notes))


def reference(pod: Object) -> PodReference:
    """Return the pod's names and its uid in the hub."""
    return PodReference(meta.namespace(pod), meta.name(pod), meta.uid(pod))


def keep_identity(pod: Object) -> Object:
    """Keep of a pod what the daemon asks for, and nothing else."""
    metadata = pod.get("metadata") or {}
    notes = metadata.get("annotations") or {}
    kept = {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in metadata}
    kept["annotations"] = {name: notes[name] for name in MIRROR_ANNOTATIONS if name in notes}
    return {"metadata": kept}


class PodDirectory:
    """Find the pods of this node's informer, and wait a while for one that it does not know."""

    def __init__(self, informer: Informer, patience_s: float) -> None:
        self._informer = informer
        self._patience_s = patience_s
        self._changed = asyncio.Event()
        informer.add_handler(lambda _old, _new: self._changed.set())

    def find(self, request: Request) -> PodReference | None:
        """Return the request's pod by its uid, or by its name where no uid was given."""
        if request.pod_uid:
            return next((reference(pod) for pod in self._informer.by_index(BY_UID, request.pod_uid)), None)
        if not request.pod:
            return PodReference("", "", "")
        named = self._informer.get(request.pod)
        return reference(named) if named is not None else None

    def is_gone(self, uid: str) -> bool:
        """Tell whether the hub holds no such pod on this node; False as long as that is not known."""
        return bool(uid) and self._informer.has_synced and not self._informer.by_index(BY_UID, uid)

    async def __call__(self, request: Request) -> PodReference | None:
        """Wait until the pod is known; None when patience ends."""
        try:
            async with asyncio.timeout(self._patience_s):
                while (found := self.find(request)) is None:
                    # Nothing is awaited between look and wait: no change is missed.
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return None
        return found


def one_a_family(cidrs: Iterable[str]) -> tuple[str, ...]:
    """Return the first range of each family, in their order."""
    found: dict[int, str] = {}
    for cidr in filter(None, cidrs):
        found.setdefault(version_of(cidr), cidr)
    return tuple(found.values())


def pod_cidrs_of(node: Object) -> tuple[str, ...]:
    """Return the Node's pod CIDRs, one a family; none where it has none yet."""
    spec = node.get("spec") or {}
    return one_a_family(spec.get("podCIDRs") or [spec.get("podCIDR") or ""])


def internal_address_of(node: Object) -> str:
    """Return the Node's first InternalIP; empty where it has none."""
    addresses = (node.get("status") or {}).get("addresses") or ()
    found = (entry.get("address") or "" for entry in addresses if entry.get("type") == "InternalIP")
    return next(filter(None, found), "")


class CniServer:
    """Compose the daemon with its surroundings."""

    def __init__(self, config: CniConfig, client: Client | None, gate: Gate = OPEN) -> None:
        self._config = config
        state = files.load(config.state_dir / STATE_FILE)
        now_s = time.monotonic()
        self.allocator = (
            Allocator.from_state(state, now_s, config.reuse_delay_s)
            if state is not None
            else Allocator(reuse_delay_s=config.reuse_delay_s)
        )
        self._keeper = StateKeeper(config.state_dir / STATE_FILE, self.allocator)
        self._node_address = ""
        self._informers: list[Informer] = []
        self._cidrs_changed = asyncio.Event()
        directory = self._watch(client) if client is not None else None
        self._host_ports = HostPorts()
        self.daemon = CniDaemon(
            self.allocator,
            self._keeper,
            self._mtu,
            find_pod=directory,
            pod_is_gone=directory.is_gone if directory is not None else None,
            gate=gate,
            gate_wait_s=config.pod_wait_s,
            mode=config.cni_mode,
            threads=config.wiring_threads,
            calls_max=config.calls_max,
            host_ports=self._host_ports,
        )

    def _watch(self, client: Client) -> PodDirectory:
        name = node_name(self._config.hostname_override)
        nodes = Informer(client, NODES, field_selector=f"metadata.name={name}")
        nodes.add_handler(self._node_changed)
        pods = Informer(
            client,
            PODS,
            field_selector=f"spec.nodeName={name}",
            indexers={BY_UID: uids},
            transform=keep_identity,
        )
        self._informers = [nodes, pods]
        return PodDirectory(pods, self._config.pod_wait_s)

    def _node_changed(self, _old: Object | None, node: Object | None) -> None:
        if node is None:
            return  # pods live on with the last known CIDR until the Node is back
        self._node_address = internal_address_of(node)
        self._use_cidrs(pod_cidrs_of(node))

    def _use_cidrs(self, cidrs: tuple[str, ...]) -> None:
        if cidrs and self.allocator.set_cidrs(cidrs):
            log.info("pod CIDRs are set cidrs=%s", ",".join(cidrs))
            self._cidrs_changed.set()

    def _mtu(self) -> int:
        return self._config.mtu or _uplink_mtu(self._node_address, int(time.monotonic() / MTU_AGE_S))

    async def serve(self) -> None:
        """Answer shims until cancelled."""
        self._config.state_dir.mkdir(parents=True, exist_ok=True)
        # Before anybody is answered: what a crash left unanswered must not hold an address that is free on disk.
        await self.daemon.remove_orphans()
        server = await self._listen()
        conflist.install_shim(self._config.cni_bin_dir, self._config.socket)
        self._use_cidrs(one_a_family(self._config.pod_cidr.split(",")))
        if self.allocator.ranges:
            self._cidrs_changed.set()
        try:
            async with asyncio.TaskGroup() as group:
                for informer in self._informers:
                    group.create_task(informer.run())
                group.create_task(self._configure_runtime())
                group.create_task(self._collect())
                group.create_task(self._keep_host_ports())
                group.create_task(self.daemon.admit_standing())
                log.info("ready socket=%s", self._config.socket)
                await asyncio.Event().wait()
        finally:
            server.close()
            self.daemon.close()
            self._host_ports.close()

    async def _listen(self) -> asyncio.Server:
        path = self._config.socket
        path.parent.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(
                self._answer, path, limit=CONFIGURATION_BYTES_MAX, backlog=self._config.calls_max
            )
        finally:
            os.umask(before)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                data = await reader.read(CONFIGURATION_BYTES_MAX)
                while piece := await reader.read(CONFIGURATION_BYTES_MAX):
                    data += piece
                    if len(data) > CONFIGURATION_BYTES_MAX:
                        return
            # The work goes on when the shim dies: its runtime calls DEL, which waits for this to end.
            writer.write(await asyncio.shield(self.daemon.handle(data)))
            await writer.drain()
        except (OSError, TimeoutError) as error:
            log.warning("shim went away error=%s", error)
        finally:
            writer.close()

    async def _configure_runtime(self) -> None:
        """Write the runtime's configuration once pod CIDRs stand, and save each change of them."""
        while True:
            await self._cidrs_changed.wait()
            self._cidrs_changed.clear()
            await self._keeper.persist()
            wiring.enable_forwarding(self.daemon.versions())
            if self._config.cni_mode == "bridge":
                self._put_bridge()
            conflist.write_configuration(self._config.cni_conf_dir)

    def _put_bridge(self) -> None:
        try:
            wiring.put_bridge(bridge_of(self.allocator.cidrs), self._mtu())
        except OSError as error:
            # Every ADD tries it again and tells the runtime what is wrong.
            log.warning("the bridge cannot be made error=%s", error)
        if not wiring.is_bridge_filtered():
            log.warning("pods of this node reach no Service through each other: load br_netfilter (modprobe)")

    async def _collect(self) -> None:
        while True:
            try:
                await self.daemon.collect_garbage()
                await self.daemon.repair_host_ports()
            except (OSError, CniError, NftablesError) as error:
                log.warning("garbage collection failed, it is tried again error=%s", error)
            await asyncio.sleep(self._config.collect_interval_s)

    async def _keep_host_ports(self) -> None:
        """Notice within a second that somebody has taken the table away, and make it anew."""
        while True:
            await asyncio.sleep(self._config.host_ports_interval_s)
            try:
                if not self._host_ports.stands():
                    log.info("host ports are gone and made anew")
                    await self.daemon.repair_host_ports()
            except (OSError, NftablesError) as error:
                log.warning("host ports cannot be made, it is tried again error=%s", error)


@lru_cache(maxsize=1)
def _uplink_mtu(node_address: str, _age: int) -> int:
    return wiring.uplink_mtu(node_address)


async def run(config: CniConfig, client: Client | None = None, gate: Gate = OPEN) -> None:
    """Run the CNI daemon until cancelled; pods are wired when the gate admits them."""
    if client is None and config.kubeconfig is not None:
        client = kubeconfig.load(config.kubeconfig).client("raftsman-cni")
    await CniServer(config, client, gate).serve()
