"""Makes a machine ready for the components: looks at it, sets the kernel, and gives it a containerd of its own."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from cli.machine import supervisor
from cli.machine.settings import PLACES, Machine, Places
from lab import components, containerd, images, probe
from lab.state import LabError, check_node_name

CONTAINERD_TIMEOUT_S = 300.0
SYSCTL_FILE = Path("/etc/sysctl.d/90-raftsman.conf")
SETTINGS = {
    "net.ipv4.ip_forward": "1",
    "net.ipv4.conf.all.rp_filter": "0",
    "net.ipv4.conf.default.rp_filter": "0",
    "net.ipv4.conf.all.send_redirects": "0",
}
"""Nodes route for their pods, whose packets may come and go by different links."""
NODE_PORTS = {"kubelet": 10250}
CONTROL_PLANE_PORTS = {"API server": 6443, "API server's hub": 6444, "store": 2379, "store's peers": 2380}


def own_addresses() -> list[str]:
    """Return this machine's addresses that others may reach."""
    done = subprocess.run(["ip", "-json", "address"], capture_output=True, check=True, timeout=10)
    found = [entry["local"] for link in json.loads(done.stdout) for entry in link["addr_info"] if entry.get("local")]
    return [text for text in found if not ipaddress.ip_address(text).is_loopback]


def choose_address(wanted: str) -> str:
    """Return the address that the other machines know this one by; raises LabError."""
    addresses = own_addresses()
    if wanted:
        if wanted not in addresses:
            raise LabError(f"{wanted} is no address of this machine; it has {', '.join(addresses) or 'none'}")
        return wanted
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe_socket:
        try:
            # Nothing is sent: connecting a datagram socket asks the kernel for a route.
            probe_socket.connect(("192.0.2.1", 9))
        except OSError as error:
            raise LabError("no default route tells this machine's address; give it with an option") from error
        return str(probe_socket.getsockname()[0])


def choose_node_name(wanted: str) -> str:
    """Return the Node's name: what is wanted, else the host's; raises LabError."""
    name = wanted or socket.gethostname().partition(".")[0].lower()
    check_node_name(name)
    return name


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError:
            return False
    return True


def check_root() -> None:
    """Raise LabError for anybody but root."""
    if os.geteuid() != 0:
        raise LabError("this needs root, because a node is a whole machine; run it again with sudo")


def check(address: str, *, control_plane: bool, places: Places = PLACES) -> probe.Machine:
    """Look at a machine before anything is changed; raises LabError naming the remedy."""
    if places.record.exists():
        raise LabError("this machine belongs to a cluster already; take it out with: raftsman reset")
    ports = NODE_PORTS | (CONTROL_PLANE_PORTS if control_plane else {})
    taken = [f"{port} ({what})" for what, port in ports.items() if not _is_free(address, port)]
    if taken:
        raise LabError(f"other programs listen on {', '.join(taken)}; find them with: ss -ltnp")
    return probe.probe(places.state)


def write_files(machine: Machine, facts: probe.Machine, places: Places = PLACES) -> None:
    """Make the folders, containerd's configuration and the kernel's settings."""
    for folder in ("cni/net.d", "cni/bin", "cni/state", "pki", "kubelet"):
        (places.node / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
    places.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    text = containerd.render(
        places.node, places.containerd,
        restrict_oom_score_adj=not facts.can_lower_oom_score, snapshotter=facts.snapshotter,
    )  # fmt: skip
    (places.configuration / "containerd.toml").write_text(text)
    loopback = Path("/usr/lib/cni/loopback")
    if loopback.exists():
        shutil.copy(loopback, places.node / "cni" / "bin" / "loopback")
    apply_settings()


def apply_settings() -> None:
    """Set the kernel now, and at every boot where it reads the file."""
    if SYSCTL_FILE.parent.is_dir():
        SYSCTL_FILE.write_text("".join(f"{name} = {value}\n" for name, value in SETTINGS.items()))
    for name, value in SETTINGS.items():
        Path("/proc/sys", *name.split(".")).write_text(value)


def start(machine: Machine, component: str, places: Places = PLACES) -> None:
    """Start one component of a machine."""
    site = machine.site(places)
    commands = {
        "containerd": lambda: ["containerd", "--config", str(places.configuration / "containerd.toml")],
        "store": lambda: components.store_command(site),
        "controlplane": lambda: components.controlplane_command(site),
        "node": lambda: components.node_command(site),
    }
    supervisor.make(machine.supervisor, places).start(component, commands[component]())


def import_images(places: Places = PLACES, archives: Sequence[Path] = ()) -> None:
    """Hand the packed images to this machine's containerd once it answers."""
    packed = images.ensure_packed(places.state / "cache")
    for archive in (packed, *archives):
        _import(places, archive)


def _import(places: Places, archive: Path) -> None:
    command = ["ctr", "-a", str(places.containerd), "-n", "k8s.io", "images", "import", str(archive)]
    deadline = time.monotonic() + CONTAINERD_TIMEOUT_S
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONTAINERD_TIMEOUT_S, check=False)
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise LabError(f"containerd took no images: {done.stderr.strip()}; see what it wrote: raftsman-containerd")
        time.sleep(0.2)
