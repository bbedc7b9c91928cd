"""Starts and removes whole clusters, and single nodes of them."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab import cluster_api, cluster_pki, fabric, images, links, nodes, probe, processes, state
from lab.cluster_pki import API_PORT
from lab.progress import Progress
from lab.site import Timers
from lab.state import Cluster, LabError, NodeSpec

DEMO_NODE_PORT = 30080
DEMO_MANIFEST = Path(__file__).resolve().parent.parent / "examples" / "guestbook.yaml"
DEMO_DEPLOYMENTS = {"web", "entries"}
READY_TIMEOUT_S = 120.0
NODES_TIMEOUT_S = 180.0
DEMO_TIMEOUT_S = 180.0
END_TIMEOUT_S = 20.0


def _free_port() -> int:
    with socket.socket() as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        return int(probe_socket.getsockname()[1])


def is_whole(cluster: Cluster) -> bool:
    """Tell whether a recorded cluster runs with all its nodes."""
    if cluster.phase != "running" or not fabric.exists(cluster) or not processes.is_alive(cluster.forwarder_pid):
        return False
    return all(nodes.is_running(cluster, node) for node in cluster.nodes)


def create(
    name: str, node_count: int, control_planes: int, progress: Progress, *, single_stack: bool = False
) -> Cluster:
    """Probe the machine, plan a cluster and start its processes; nothing is changed where something is missing."""
    with progress.step("look at the machine"):
        machine = probe.probe(state.state_root())
    directory = state.state_root() / "clusters" / name
    cluster = state.plan(name, state.free_slot(), directory, node_count, control_planes)
    cluster = cluster.with_changes(
        api_port=_free_port(), demo_port=_free_port(), dual_stack=machine.has_ipv6 and not single_stack
    )
    state.save(cluster)
    with progress.step("pack the images"):
        packed = images.ensure_packed(state.state_root() / "cache")
    with progress.step("make keys and certificates"):
        cluster_pki.make(cluster)
        cluster_pki.write_kubeconfigs(cluster)
    return boot(cluster, list(cluster.nodes), machine, packed, progress)


def boot(
    cluster: Cluster, starting: list[NodeSpec], machine: probe.Machine, packed: Path, progress: Progress
) -> Cluster:
    """Start nodes and the forwarder, and record their processes."""
    timers = Timers()
    with progress.step(f"start {', '.join(node.name for node in starting)}"):
        if not fabric.exists(cluster):
            fabric.make(cluster)
        for node in starting:
            nodes.prepare(cluster, node, machine, timers)
            pids = cluster.init_pids | {node.name: nodes.start(cluster, node)}
            cluster = cluster.with_changes(init_pids=pids)
            state.save(cluster)
        links.restore(cluster)
        if not processes.is_alive(cluster.forwarder_pid):
            cluster = cluster.with_changes(forwarder_pid=start_forwarder(cluster))
            state.save(cluster)
    with progress.step("hand the images to containerd"), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda node: nodes.import_images(cluster, node, packed), starting))
    return cluster


def start_forwarder(cluster: Cluster) -> int:
    """Start the process that leads loopback ports into the cluster; return its pid."""
    api = ",".join(cluster_pki.api_endpoints(cluster, API_PORT))
    demo = ",".join(f"{cluster.address(node)}:{DEMO_NODE_PORT}" for node in cluster.nodes)
    forwards = [f"{cluster.api_port}={api}", f"{cluster.demo_port}={demo}"]
    command = [sys.executable, "-m", "lab.forwarder", cluster.namespace, *forwards]
    with (cluster.directory / "forwarder.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            env=processes.environment(cluster, "forwarder"),
        )  # fmt: skip
    return process.pid


async def bring_up(cluster: Cluster, progress: Progress) -> Cluster:
    """Wait until the control plane answers and all nodes are Ready."""
    api = cluster_api.client(cluster)
    try:
        with progress.step("wait for the API server"):
            await cluster_api.wait_ready(api, READY_TIMEOUT_S)
        with progress.step("let the nodes join"):
            await cluster_api.name_dns(api, cluster.service_range, READY_TIMEOUT_S)
            await cluster_api.allow_joining(api, cluster.bootstrap_token, READY_TIMEOUT_S)
            await cluster_api.wait_nodes(api, {node.name for node in cluster.nodes}, NODES_TIMEOUT_S)
            await cluster_api.label_control_planes(api, {node.name for node in cluster.control_plane_nodes()})
    finally:
        await api.close()
    cluster = cluster.with_changes(phase="running")
    state.save(cluster)
    return cluster


async def deploy_demo(cluster: Cluster, progress: Progress) -> str:
    """Deploy the guestbook and return its first answer."""
    api = cluster_api.client(cluster)
    try:
        with progress.step("deploy the guestbook"):
            await cluster_api.deploy(api, DEMO_MANIFEST, READY_TIMEOUT_S)
        with progress.step("wait for its answer"):
            answer = await cluster_api.first_answer(cluster.demo_port, DEMO_TIMEOUT_S)
        with progress.step("wait for all its replicas"):
            await cluster_api.wait_available(api, DEMO_DEPLOYMENTS, DEMO_TIMEOUT_S)
    finally:
        await api.close()
    return answer


def remove(name: str, progress: Progress) -> bool:
    """Remove a cluster and everything of it, whatever state it is in; tell whether there was anything."""
    directory = state.state_root() / "clusters" / name
    try:
        cluster = state.load(name)
    except LabError:
        cluster = None
    if cluster is None:
        cluster = Cluster(name, 0, directory, ())
    if not directory.exists() and not fabric.exists(cluster) and not processes.find(cluster):
        return False
    with progress.step("end the processes"):
        _end_processes(cluster)
    with progress.step("remove links, groups and files"):
        fabric.remove(cluster)
        nodes.remove_cgroups(cluster)
        shutil.rmtree(directory, ignore_errors=False)
        _remove_empty_parents(directory.parent)
    return True


def _end_processes(cluster: Cluster) -> None:
    """End every process that carries the cluster's mark, and with each PID 1 whatever runs in its namespaces."""
    pids: set[int] = set()
    for _ in range(5):  # one that was just starting a child may need a second look
        found = {process.pid for process in processes.find(cluster)}
        if not found:
            break
        for pid in found:
            processes.send(pid, signal.SIGKILL)
        pids |= found
        processes.wait_gone(found, END_TIMEOUT_S)


def _remove_empty_parents(folder: Path) -> None:
    for path in (folder, folder.parent):
        try:
            path.rmdir()
        except OSError:
            return  # another cluster or the image cache is there


def on_node(name: str, node_name: str, action: Callable[[Cluster, NodeSpec], None]) -> None:
    """Carry out an action on one node and forget its PID 1."""
    cluster = state.require(name)
    node = cluster.node(node_name)
    action(cluster, node)
    pids = {key: pid for key, pid in cluster.init_pids.items() if key != node_name}
    state.save(cluster.with_changes(init_pids=pids))


def start_nodes(name: str, names: list[str], progress: Progress) -> Cluster:
    """Start nodes that are down."""
    cluster = state.require(name)
    starting = [cluster.node(node) for node in names]
    running = [node.name for node in starting if nodes.is_running(cluster, node)]
    if running:
        raise LabError(f"{', '.join(running)} runs already; see: raftsman status --name {name}")
    machine = probe.probe(state.state_root())
    return boot(cluster, starting, machine, images.ensure_packed(state.state_root() / "cache"), progress)


def add_node(name: str, node_name: str, progress: Progress) -> Cluster:
    """Add a worker to a running cluster."""
    cluster = state.require(name)
    if any(node.name == node_name for node in cluster.nodes):
        raise LabError(
            f"cluster {name} has a node {node_name!r} already; start it with: raftsman node start {node_name}"
        )
    state.check_node_name(node_name)
    index = max(node.index for node in cluster.nodes) + 1
    if index > state.NODES_MAX:
        raise LabError(f"the address range of cluster {name} holds {state.NODES_MAX} nodes")
    node = NodeSpec(node_name, index)
    cluster = cluster.with_changes(nodes=(*cluster.nodes, node))
    state.save(cluster)
    cluster_pki.write_kubeconfigs(cluster)
    machine = probe.probe(state.state_root())
    return boot(cluster, [node], machine, images.ensure_packed(state.state_root() / "cache"), progress)
