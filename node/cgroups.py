"""The door to the cgroup file system: makes, sizes and removes the cgroups of pods, in version 1, hybrid and 2."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from node.resources import PERIOD_US, PodCgroup, weight_of_shares

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
CONTROLLERS_V2 = ("cpu", "memory", "pids", "cpuset", "io")


class Cgroups:
    """The cgroups of one node."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self.unified = (root / "cgroup.controllers").exists()
        self._hierarchies = [root] if self.unified else self._version_1()

    def _version_1(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [entry for entry in sorted(self._root.iterdir()) if (entry / "cgroup.procs").exists()]

    def ensure(self, wanted: PodCgroup) -> None:
        """Make the pod's cgroup in every hierarchy and size it."""
        if self.unified:
            self._ensure_v2(wanted)
            return
        for hierarchy in self._hierarchies:
            if hierarchy.name in ("unified", "systemd", "cpuset"):
                continue  # a cpuset must be filled before use, which the runtime does
            path = hierarchy / wanted.path.lstrip("/")
            path.mkdir(parents=True, exist_ok=True)
            self._write(path / "cpu.shares", wanted.cpu_shares)
            if (path / "cpu.cfs_quota_us").exists():
                self._write(path / "cpu.cfs_period_us", PERIOD_US)
                self._write(path / "cpu.cfs_quota_us", wanted.cpu_quota_us or -1)
            self._write(path / "memory.limit_in_bytes", wanted.memory_limit_bytes or -1)

    def _ensure_v2(self, wanted: PodCgroup) -> None:
        path = self._root
        offered = set((self._root / "cgroup.controllers").read_text().split())
        enable = " ".join(f"+{name}" for name in CONTROLLERS_V2 if name in offered)
        for part in Path(wanted.path.lstrip("/")).parts:
            self._write(path / "cgroup.subtree_control", enable)
            path = path / part
            path.mkdir(exist_ok=True)
        self._write(path / "cgroup.subtree_control", enable)
        self._write(path / "cpu.weight", weight_of_shares(wanted.cpu_shares))
        quota = wanted.cpu_quota_us or "max"
        self._write(path / "cpu.max", f"{quota} {PERIOD_US}")
        self._write(path / "memory.max", wanted.memory_limit_bytes or "max")

    def remove(self, path: str) -> None:
        """Remove the pod's cgroup from every hierarchy; what is still in use is left to the next time."""
        for hierarchy in self._hierarchies:
            top = hierarchy / path.lstrip("/")
            if not top.is_dir():
                continue
            folders = [Path(found) for found, _, _ in os.walk(top)]
            for folder in sorted(folders, key=lambda entry: len(entry.parts), reverse=True):
                try:
                    folder.rmdir()
                except OSError as error:
                    log.debug("cgroup is still in use path=%s error=%s", folder, error)

    def pods(self, kubepods: str) -> set[str]:
        """Return the UIDs of pods that have a cgroup."""
        found: set[str] = set()
        for hierarchy in self._hierarchies:
            top = hierarchy / kubepods.lstrip("/")
            for pattern in ("pod*", "*/pod*"):
                found.update(entry.name.removeprefix("pod") for entry in top.glob(pattern) if entry.is_dir())
        return found

    def _write(self, path: Path, value: int | str) -> None:
        if not path.exists():
            return
        try:
            path.write_text(str(value))
        except OSError as error:
            log.warning("cannot size a cgroup path=%s value=%s error=%s", path, value, error)
