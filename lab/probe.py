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
    return [name for name in CONTROLLERS if not (root / name).is_dir()]


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


def _check_cgroups() -> str | None:
    missing = missing_controllers()
    if missing:
        names = ", ".join(missing)
        return (
            f"the cgroup controllers {names} are missing; boot with cgroup_enable={missing[0]}, "
            "or on a machine without systemd mount the hierarchy at /sys/fs/cgroup"
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


CHECKS: tuple[Callable[[], str | None], ...] = (
    _check_root,
    _check_programs,
    _check_cgroups,
    _check_namespaces,
    _check_rules,
)


def probe(state_root: Path) -> Machine:
    """Return what the machine is; raises MissingCapabilityError for the first thing that it lacks."""
    for check in CHECKS:
        problem = check()
        if problem:
            raise MissingCapabilityError(problem)
    capabilities = effective_capabilities(Path("/proc/self/status").read_text())
    existing = next(path for path in (state_root, *state_root.parents) if path.is_dir())
    return Machine(
        cgroup_version=cgroup_version(),
        can_lower_oom_score=bool(capabilities >> CAP_SYS_RESOURCE & 1),
        snapshotter="overlayfs" if _overlay_works(existing) else "native",
    )
