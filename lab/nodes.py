"""A node: namespaces of its own, with containerd and Raftsman's components inside.

PID 1 is a script that a person can read (``boot.sh`` in the node's folder). It prepares the namespaces, waits for the
cable, starts each component in a loop that starts it again when it ends, and becomes catatonit, which reaps. Killing
PID 1 pulls the plug: the kernel ends every process of the node.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

from lab import components, containerd, fabric, processes
from lab.probe import Machine
from lab.site import Timers
from lab.state import Cluster, LabError, NodeSpec

BOOT_TIMEOUT_S = 20.0
IMPORT_TIMEOUT_S = 60
CONTAINERD_TIMEOUT_S = 120.0
"""Slow machines take long to start three at once."""
STOP_TIMEOUT_S = 15.0
CGROUPS = Path("/sys/fs/cgroup")

_BOOT = """\
#!/bin/sh
# Boots node {name} of cluster {cluster}: this is PID 1 of the node's namespaces.
set -eu
hostname {name}
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock /run/containerd {directory}/log
ip link set lo up

read -r cable   # the lab says when eth0 is there
ip address add {address}/{prefix} dev eth0
ip link set eth0 up
ip route add default via {gateway}
{second_family}for setting in net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0 \\
    net.ipv4.conf.all.send_redirects=0; do
  sysctl -qw "$setting"
done

keep() {{   # keep NAME COMMAND...: runs a component and starts it again when it ends
  name=$1; shift
  export {mark}={name}/$name
  while [ ! -e {directory}/stopping ]; do
    "$@" </dev/null >>{directory}/log/$name.log 2>&1 || echo "$name ended with status $?" >>{directory}/log/$name.log
    sleep 0.5
  done
}}

{starts}
exec catatonit -P
"""


_SECOND_FAMILY = """\
for setting in accept_ra=0 accept_dad=0; do
  sysctl -qw "net.ipv6.conf.all.$setting" "net.ipv6.conf.eth0.$setting"
done
ip address add {address}/64 dev eth0 nodad
ip -6 route add default via {gateway}
sysctl -qw net.ipv6.conf.all.forwarding=1
"""


def socket(cluster: Cluster, node: NodeSpec) -> Path:
    """Return containerd's socket, which is reachable from every namespace by its path."""
    return cluster.node_directory(node) / "containerd.sock"


def boot_script(cluster: Cluster, node: NodeSpec, commands: dict[str, list[str]]) -> str:
    """Return the text of the node's PID 1."""
    starts = "\n".join(f"keep {name} {shlex.join(command)} &" for name, command in commands.items())
    second = ""
    if cluster.dual_stack:
        second = _SECOND_FAMILY.format(address=cluster.second_address(node), gateway=cluster.second_fabric[1])
    return _BOOT.format(
        name=node.name, cluster=cluster.name, directory=shlex.quote(str(cluster.node_directory(node))),
        address=cluster.address(node), prefix=cluster.fabric.prefixlen, gateway=cluster.gateway,
        mark=processes.COMPONENT_MARK, starts=starts, second_family=second,
    )  # fmt: skip


def prepare(cluster: Cluster, node: NodeSpec, machine: Machine, timers: Timers) -> None:
    """Write a node's files."""
    directory = cluster.node_directory(node)
    for folder in ("log", "cni/net.d", "cni/bin", "cni/state", "pki", "kubelet", "store"):
        (directory / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    text = containerd.render(
        directory, socket(cluster, node),
        restrict_oom_score_adj=not machine.can_lower_oom_score, snapshotter=machine.snapshotter,
    )  # fmt: skip
    (directory / "containerd.toml").write_text(text)
    loopback = Path("/usr/lib/cni/loopback")
    if loopback.exists():
        shutil.copy(loopback, directory / "cni" / "bin" / "loopback")
    commands = components.commands(cluster, node, socket(cluster, node), timers)
    (directory / "boot.sh").write_text(boot_script(cluster, node, commands))
    _prepare_cgroup(cluster, node, machine)


def _prepare_cgroup(cluster: Cluster, node: NodeSpec, machine: Machine) -> None:
    """On the unified hierarchy, hand the controllers down to the node's group."""
    if machine.cgroup_version != 2:
        return
    group = CGROUPS
    for part in (*cluster.cgroup.split("/"), node.name):
        wanted = " ".join(f"+{name}" for name in ("cpu", "memory", "pids", "io", "cpuset"))
        for controller in wanted.split():
            try:
                (group / "cgroup.subtree_control").write_text(controller)
            except OSError:
                continue  # not offered here; the probe has seen to those that are needed
        group = group / part
        group.mkdir(exist_ok=True)


def start(cluster: Cluster, node: NodeSpec) -> int:
    """Boot a node and lay its cable; return its PID 1."""
    directory = cluster.node_directory(node)
    (directory / "stopping").unlink(missing_ok=True)
    socket(cluster, node).unlink(missing_ok=True)
    command = [
        "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
        "--propagation", "private", "/bin/sh", str(directory / "boot.sh"),
    ]  # fmt: skip
    with (directory / "log" / "init.log").open("ab") as log:
        outer = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            env=processes.environment(cluster, f"{node.name}/init"), cwd="/",
        )  # fmt: skip
    try:
        init_pid = _wait_for_init(outer, directory)
        fabric.cable(cluster, node, init_pid)
        assert outer.stdin is not None
        outer.stdin.write(b"cable\n")
        outer.stdin.close()
    except BaseException:
        outer.kill()
        outer.wait()
        raise
    return init_pid


def _wait_for_init(outer: subprocess.Popen[bytes], directory: Path) -> int:
    """Return the child of unshare once it runs in its own network namespace."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    ours = os.readlink("/proc/self/ns/net")
    while time.monotonic() < deadline:
        init_pid = processes.child(outer.pid)
        if init_pid and os.readlink(f"/proc/{init_pid}/ns/net") != ours:
            return init_pid
        if outer.poll() is not None:
            break
        time.sleep(0.005)
    raise LabError(f"a node did not boot; its last words: {(directory / 'log' / 'init.log').read_text()[-500:]}")


def is_running(cluster: Cluster, node: NodeSpec) -> bool:
    """Tell whether the recorded PID 1 is alive and ours."""
    pid = cluster.init_pids.get(node.name, 0)
    if not pid or not processes.is_alive(pid):
        return False
    mark = f"{processes.CLUSTER_MARK}={cluster.directory}".encode()
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # it ends: it only waits for the rest of its namespace


def kill(cluster: Cluster, node: NodeSpec) -> None:
    """Pull the plug."""
    own = [p.pid for p in processes.find(cluster) if p.component.split("/")[0] == node.name]
    if is_running(cluster, node):
        processes.send(cluster.init_pids[node.name], signal.SIGKILL)
    for pid in own:
        processes.send(pid, signal.SIGKILL)
    processes.wait_gone(own, STOP_TIMEOUT_S)


def stop(cluster: Cluster, node: NodeSpec) -> None:
    """Shut a node down: its components end by SIGTERM, then its containers with it."""
    (cluster.node_directory(node) / "stopping").touch()
    for component in ("node", "controlplane", "store"):
        process = processes.main_process(cluster, f"{node.name}/{component}")
        if process is None:
            continue
        processes.send(process.pid, signal.SIGTERM)
        try:
            processes.wait_gone([process.pid], STOP_TIMEOUT_S)
        except LabError:
            processes.send(process.pid, signal.SIGKILL)
    kill(cluster, node)


def import_images(cluster: Cluster, node: NodeSpec, images: Path) -> None:
    """Hand the packed images to a node's containerd once it answers."""
    pid, address = cluster.init_pids[node.name], str(socket(cluster, node))
    # Time runs out inside: were nsenter killed, its child might never be waited for, and the node never end.
    inside = ["nsenter", "-t", str(pid), "-m", "-n", "-i", "-u", "-p", "timeout", str(IMPORT_TIMEOUT_S)]
    command = [*inside, "ctr", "-a", address, "-n", "k8s.io", "images", "import", str(images)]
    deadline = time.monotonic() + CONTAINERD_TIMEOUT_S
    while True:
        if socket(cluster, node).exists():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return
            said = done.stderr.strip() or f"not within {IMPORT_TIMEOUT_S} s"
        else:
            said = "containerd does not listen"
        if time.monotonic() > deadline:
            raise LabError(f"{node.name} took no images: {said}; see: raftsman logs {node.name}/containerd")
        time.sleep(0.05)


def remove_cgroups(cluster: Cluster) -> None:
    """Remove the cluster's control groups in every hierarchy."""
    for root in remove_cgroup_trees(cluster.cgroup):
        try:
            root.parent.rmdir()
        except OSError:
            continue  # another cluster lives


def remove_cgroup_trees(path: str) -> list[Path]:
    """Remove a control group with all below it in every hierarchy, innermost first; return where there was one."""
    roots = [CGROUPS / path]
    roots += [hierarchy / path for hierarchy in CGROUPS.iterdir() if hierarchy.is_dir()]
    found = [root for root in roots if root.is_dir()]
    for root in found:
        groups = sorted((path for path in root.rglob("*") if path.is_dir()), key=lambda path: -len(path.parts))
        for group in [*groups, root]:
            _remove_cgroup(group)
    return found


def _remove_cgroup(group: Path) -> None:
    """Remove one group; the kernel may need a moment after its last process ended."""
    deadline = time.monotonic() + 5
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return
