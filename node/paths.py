"""PURE: where the kubelet keeps what; the layout is upstream's, so that its tools find their way."""

from __future__ import annotations

from pathlib import Path

from control.api import meta
from control.api.meta import Object


class PodPaths:
    """The folders and files of one pod."""

    def __init__(self, root_dir: Path, pod_logs_dir: Path, pod: Object) -> None:
        self.root = root_dir / "pods" / meta.uid(pod)
        self.volumes = self.root / "volumes"
        self.etc_hosts = self.root / "etc-hosts"
        self.logs = pod_logs_dir / f"{meta.namespace(pod)}_{meta.name(pod)}_{meta.uid(pod)}"

    def volume(self, plugin: str, name: str) -> Path:
        """Return a volume's folder; plugin is as "empty-dir"."""
        return self.volumes / f"kubernetes.io~{plugin}" / name

    def termination_log(self, container: str, attempt: int) -> Path:
        """Return the file that a container writes its last words to."""
        return self.root / "containers" / container / str(attempt)

    def sub_path(self, volume: str, container: str, index: int) -> Path:
        """Return the mount point of one subPath."""
        return self.root / "volume-subpaths" / volume / container / str(index)

    def log(self, container: str, attempt: int) -> Path:
        """Return the log file of one instance."""
        return self.logs / log_path(container, attempt)


def log_path(container: str, attempt: int) -> str:
    """Return an instance's log file relative to the pod's log folder."""
    return f"{container}/{attempt}.log"
