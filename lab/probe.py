"""Looks at what this machine can do, before anything is changed, and says in one sentence what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CAP_SYS_RESOURCE = 24
PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "busybox": "busybox-static",
    "catatonit": "catatonit",
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "nft": "nftables",
    "conntrack": "conntrack",
    "unshare": "util-linux",
    "nsenter": "util-linux",
}
CONTROLLERS = ("cpu", "memory", "pids")


@dataclass(frozen=True)
class Machine:
    """What the lab has to know of the machine."""

    cgroup_version: int
    """1 (also hybrid), or 2."""
    can_lower_oom_score: bool
    snapshotter: str
    has_ipv6: bool = True
    """False where the kernel was started or built without it."""


class MissingCapabilityError(Exception):
    """The machine lacks something; the text names it and the remedy."""


def cgroup_version(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return 2 where the unified hierarchy stands alone, else 1."""
    return 2 if (root / "cgroup.controllers").exists() else 1


def missing_controllers(root: Path = Path("/sys/fs/cgroup")) -> list[str]:
    """Return the controllers that pods need and that are not there."""
    if cgroup_version(root) == 2:
        present = (root / "cgroup.controllers").read_text().split()
        return [name for name in CONTROLLERS if name not in present]
    return [name for name in CONTROLLERS if not (root / name / "cgroup.procs").exists()]


def effective_capabilities(status: str) -> int:
    """Return the capability mask in the text of /proc/PID/status."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _check_root() -> str | None:
    if os.geteuid() != 0:
        return "this needs root, because nodes are kernel namespaces; run it again with sudo"
    return None


def _check_programs() -> str | None:
    missing = sorted({package for name, package in PROGRAMS.items() if shutil.which(name) is None})
    if missing:
        return f"programs are missing; install them with: apt-get install {' '.join(missing)}"
    return None


def read_only_controllers(root: Path = Path("/sys/fs/cgroup")) -> list[str]:
    """Return the controllers whose hierarchy does not let root make groups."""
    if cgroup_version(root) == 2:
        return [] if os.access(root, os.W_OK) else list(CONTROLLERS)
    return [name for name in CONTROLLERS if not os.access(root / name, os.W_OK)]


def stuck_controllers(root: Path = Path("/sys/fs/cgroup")) -> list[str]:
    """Return the controllers of the unified hierarchy that cannot be handed down to groups of our own.

    A group that holds processes hands nothing down. The hierarchy's real root may, and has no ``cgroup.type``; what a
    container sees as root is a group like any other.
    """
    if cgroup_version(root) != 2 or not (root / "cgroup.type").exists():
        return []
    handed_down = (root / "cgroup.subtree_control").read_text().split()
    waiting = [name for name in CONTROLLERS if name not in handed_down]
    return waiting if waiting and (root / "cgroup.procs").read_text().strip() else []


def _check_cgroups() -> str | None:
    if missing := missing_controllers():
        return (
            f"the cgroup controllers {', '.join(missing)} are missing; boot with cgroup_enable={missing[0]}, "
            "or on a machine without systemd mount the hierarchy at /sys/fs/cgroup"
        )
    if closed := read_only_controllers():
        return (
            f"the cgroup controllers {', '.join(closed)} are read-only; in a container run it with --privileged, "
            "elsewhere see: mount -o remount,rw /sys/fs/cgroup"
        )
    if stuck := stuck_controllers():
        return (
            f"the cgroup controllers {', '.join(stuck)} cannot be handed down, because processes stand in the root of "
            "this container's groups; run the container with --cgroupns=host, or with systemd inside"
        )
    return None


def _runs(command: Sequence[str]) -> bool:
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def _check_namespaces() -> str | None:
    if not _runs(["unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc", "true"]):
        return (
            "this machine refuses new namespaces; in a container run it with --privileged, "
            "elsewhere see sysctl user.max_net_namespaces"
        )
    return None


def _check_settings() -> str | None:
    if not os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK):
        return (
            "/proc/sys is read-only, so nodes cannot forward packets; in a container run it with --privileged, "
            "elsewhere see: mount -o remount,rw /proc/sys"
        )
    return None


def _check_links() -> str | None:
    for kind, more in (("bridge", ""), ("veth", "peer name there")):
        if not _runs(["unshare", "--net", "sh", "-c", f"ip link add here type {kind} {more}"]):
            return f"this kernel makes no {kind} links, which join the nodes; load the module with: modprobe {kind}"
    return None


def _check_rules() -> str | None:
    for backend in ("iptables-nft", "iptables-legacy"):
        if shutil.which(backend) and _runs(
            ["unshare", "--net", "--mount", "sh", "-c", f"mount -t tmpfs t /run && {backend} -t nat -S"]
        ):
            return None
    return "neither iptables-nft nor iptables-legacy works in a new network namespace; load nf_tables or ip_tables"


def _overlay_works(directory: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=directory) as name:
        for folder in ("lower", "upper", "work", "merged"):
            (Path(name) / folder).mkdir()
        options = f"lowerdir={name}/lower,upperdir={name}/upper,workdir={name}/work"
        return _runs(["unshare", "--mount", "mount", "-t", "overlay", "-o", options, "overlay", f"{name}/merged"])


def check_folder(folder: Path) -> str | None:
    """Return what keeps the state folder, or the one to make it in, from being written; None where nothing does."""
    if os.access(folder, os.W_OK):
        return None
    return f"{folder} cannot be written, where clusters are kept; choose another folder with RAFTSMAN_STATE_DIR"


CHECKS: tuple[Callable[[], str | None], ...] = (
    _check_root,
    _check_programs,
    _check_cgroups,
    _check_namespaces,
    _check_settings,
    _check_links,
    _check_rules,
)


def probe(state_root: Path) -> Machine:
    """Return what the machine is; raises MissingCapabilityError for the first thing that it lacks."""
    for check in CHECKS:
        if problem := check():
            raise MissingCapabilityError(problem)
    existing = next(path for path in (state_root, *state_root.parents) if path.is_dir())
    if problem := check_folder(existing):
        raise MissingCapabilityError(problem)
    capabilities = effective_capabilities(Path("/proc/self/status").read_text())
    return Machine(
        cgroup_version=cgroup_version(),
        can_lower_oom_score=bool(capabilities >> CAP_SYS_RESOURCE & 1),
        snapshotter="overlayfs" if _overlay_works(existing) else "native",
        has_ipv6=Path("/proc/net/if_inet6").exists(),
    )
