"""Bring a cluster's recorded link faults about on its fabric, and take them away again.

All is built anew with each change: a fault is rare, and what stands then follows from the record alone.
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from functools import cache

from lab import fabric, faults, nodes, processes, shaping
from lab.faults import Fault, Faults
from lab.shaping import Port
from lab.state import Cluster, LabError

RELAY = "relay"
PLAN_FILE, LOG_FILE = "relay.json", "relay.log"
RELAY_PACKETS_PER_S = 20_000
"""What the relay carries in all, in round figures (bench.links)."""
START_TIMEOUT_S = 20.0
END_TIMEOUT_S = 10.0
SEGMENTS_MAX = 65535


@cache
def has_netem() -> bool:
    """Tell whether the kernel has netem."""
    attempt = "ip link add here type veth peer name there && tc qdisc add dev here root netem delay 1ms"
    command = ["unshare", "--net", "sh", "-c", attempt]
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def set_faults(cluster: Cluster, wanted: Faults) -> None:
    """Record faults and bring them about; a record that cannot be brought about is taken back."""
    before = faults.load(cluster)
    faults.save(cluster, wanted)
    try:
        apply(cluster)
    except LabError:
        faults.save(cluster, before)
        apply(cluster)
        raise


def restore(cluster: Cluster) -> None:
    """Bring the recorded faults about anew, after a cable was laid; nothing is done where there are none."""
    if faults.load(cluster):
        apply(cluster)


def apply(cluster: Cluster) -> None:
    """Make the fabric what the record says."""
    if not fabric.exists(cluster):
        return  # all nodes are down; whoever starts them comes back here
    running = {node.name: node for node in cluster.nodes if nodes.is_running(cluster, node)}
    ports = {name: Port(name, node.index, _mac(cluster, name)) for name, node in running.items()}
    # Rules go by names and so hold for nodes that are down as well; queues need the port itself.
    everywhere = faults.between(faults.load(cluster), (node.name for node in cluster.nodes))
    here = {pair: fault for pair, fault in everywhere.items() if set(pair) <= running.keys()}
    _end_relay(cluster)
    _clear(cluster, ports)
    _nft(cluster, shaping.drops(everywhere))
    _cut_segments(cluster, ports, here)
    relayed = shaping.relay_plan(ports, here) if shaping.needs_relay(here, has_netem()) else []
    for tap in (entry["tap"] for entry in relayed):
        up = f"link set {tap} up txqueuelen {shaping.QUEUE_PACKETS_MAX}"
        fabric.run_ip([f"tuntap add dev {tap} mode tap", up], cluster.namespace)
    if relayed:
        _start_relay(cluster, json.dumps(relayed))
    if lines := shaping.queues(ports, here, has_netem()):
        _tc(cluster, lines)


def _run(command: list[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise LabError(f"{command[0]} failed: {done.stderr.strip()} (input: {text.strip()[:500]})")
    return done.stdout


def _mac(cluster: Cluster, name: str) -> str:
    text = _run([*_inside(cluster, name), "ip", "-j", "link", "show", "eth0"])
    return str(json.loads(text)[0]["address"])


def _inside(cluster: Cluster, name: str) -> list[str]:
    return ["nsenter", "-t", str(cluster.init_pids[name]), "-n"]


def _clear(cluster: Cluster, ports: dict[str, Port]) -> None:
    """Remove our queues and TAPs, whatever stands of them."""
    shown = json.loads(_run(["ip", "-n", cluster.namespace, "-j", "link"]))
    taps = [link["ifname"] for link in shown if link["ifname"].startswith(shaping.TAP_PREFIX)]
    queued = json.loads(_run(["tc", "-n", cluster.namespace, "-j", "qdisc", "show"]) or "[]")
    lines = []
    for port in sorted(ports):
        kinds = {entry["kind"] for entry in queued if entry.get("dev") == port}
        lines += [f"qdisc del dev {port} clsact"] if "clsact" in kinds else []
        lines += [f"qdisc del dev {port} root"] if "htb" in kinds else []
    if lines:
        _tc(cluster, lines)
    if taps:
        fabric.run_ip([f"link delete {tap}" for tap in taps], cluster.namespace)


def _tc(cluster: Cluster, lines: list[str]) -> None:
    _run(["tc", "-n", cluster.namespace, "-batch", "-"], "\n".join(lines) + "\n")


def _nft(cluster: Cluster, text: str) -> None:
    _run(["nsenter", f"--net={fabric.NAMESPACES / cluster.namespace}", "nft", "-f", "-"], text)


def _cut_segments(cluster: Cluster, ports: dict[str, Port], here: Faults) -> None:
    """Have senders put single packets on a cable that loses some of them; the kernel would hand over 64 KB at once."""
    single = {source for (source, _), fault in here.items() if fault.loss_percent or fault.mtu}
    for name in ports:
        count = 1 if name in single else SEGMENTS_MAX
        _run([*_inside(cluster, name), "ip", "link", "set", "eth0", "gso_max_segs", str(count)])


def _start_relay(cluster: Cluster, plan: str) -> None:
    path = cluster.directory / PLAN_FILE
    path.write_text(plan)
    command = [sys.executable, "-m", "lab.relay", cluster.namespace, str(path)]
    with (cluster.directory / LOG_FILE).open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True, cwd="/",
            env=processes.environment(cluster, RELAY),
        )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        ready, _, _ = select.select([process.stdout], [], [], START_TIMEOUT_S)
        if not ready or process.stdout.readline() != b"ready\n":
            process.kill()
            process.wait()
            raise LabError(f"the relay did not start; its last words are in {cluster.directory / LOG_FILE}")
    process.returncode = 0  # it outlives us, and nobody here will ask how it ended


def relay_pid(cluster: Cluster) -> int:
    """Return the relay's pid, 0 where none runs."""
    found = processes.main_process(cluster, RELAY)
    return found.pid if found is not None else 0


def _end_relay(cluster: Cluster) -> None:
    pid = relay_pid(cluster)
    if pid:
        processes.send(pid, signal.SIGKILL)
        processes.wait_gone([pid], END_TIMEOUT_S)


def describe(fault: Fault) -> str:
    """Say what brings a fault about, and what that can carry at most."""
    found = shaping.means(fault, has_netem())
    if found.endswith("relay"):
        return f"{found} (the kernel has no netem; up to {RELAY_PACKETS_PER_S:,} packets/s in all)"
    return f"{found} (in the kernel)"
