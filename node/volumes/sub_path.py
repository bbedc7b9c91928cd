"""subPath: a place inside a volume, taken so that a symbolic link in it cannot lead out."""

from __future__ import annotations

import os
from pathlib import Path

from node import mounts
from node.volumes.context import VolumeError


def resolve(volume: Path, sub_path: str, mount_point: Path, *, readonly_volume: bool) -> Path:
    """Bind the place to a mount point of the kubelet's own and return that; a missing place is made a folder."""
    if Path(sub_path).is_absolute() or ".." in Path(sub_path).parts:
        raise VolumeError(f"subPath {sub_path!r} must be relative, without '..'")
    root = Path(os.path.realpath(volume))
    wanted = volume / sub_path
    if not wanted.exists() and not wanted.is_symlink():
        if readonly_volume:
            raise VolumeError(f"subPath {sub_path!r} does not exist in the volume")
        _inside(root, wanted.parent)
        wanted.mkdir(parents=True, exist_ok=True, mode=0o750)
        wanted.chmod(volume.stat().st_mode & 0o7777)
    descriptor = os.open(wanted, os.O_PATH | os.O_CLOEXEC)
    try:
        # The check is of the thing opened, and the mount is of it too: no link can be swapped in between.
        found = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if found != root and root not in found.parents:
            raise VolumeError(f"subPath {sub_path!r} leads out of its volume")
        _bind(descriptor, found, mount_point)
    finally:
        os.close(descriptor)
    return mount_point


def _inside(root: Path, path: Path) -> None:
    found = Path(os.path.realpath(path))
    if found != root and root not in found.parents:
        raise VolumeError(f"subPath leads out of its volume at {path}")


def _bind(descriptor: int, found: Path, mount_point: Path) -> None:
    mount_point.parent.mkdir(parents=True, exist_ok=True)
    if mounts.is_mount_point(mount_point):
        mounts.unmount_below(mount_point)
    if found.is_dir():
        mount_point.mkdir(exist_ok=True)
    else:
        mount_point.touch(exist_ok=True)
    mounts.bind(f"/proc/self/fd/{descriptor}", mount_point)
