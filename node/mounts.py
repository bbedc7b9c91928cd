"""The door to mount(2), umount(2) and the table of mounts."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

MS_BIND = 4096
MS_NOSUID, MS_NODEV = 2, 4
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount_points() -> set[str]:
    """Return every mount point that this process sees."""
    points: set[str] = set()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        points.add(line.split()[4].encode().decode("unicode_escape"))
    return points


def is_mount_point(path: Path) -> bool:
    """Tell whether something is mounted here."""
    return str(path) in mount_points()


def mount_tmpfs(path: Path, options: str) -> None:
    """Mount a tmpfs unless one is there."""
    if is_mount_point(path):
        return
    result = _libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode())
    _check(result, f"mount tmpfs on {path}")


def bind(source: str, target: Path) -> None:
    """Mount a file or folder at a second place."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None), f"bind {source} on {target}")


def unmount_below(root: Path) -> None:
    """Unmount everything at or below a folder, the deepest first."""
    prefix = f"{root}/"
    below = [point for point in mount_points() if point == str(root) or point.startswith(prefix)]
    for point in sorted(below, key=len, reverse=True):
        _check(_libc.umount2(os.fsencode(point), MNT_DETACH), f"unmount {point}")


def remove_tree(root: Path) -> None:
    """Unmount everything below a folder, then remove it; never reaches into what is mounted there."""
    if not root.exists():
        return
    unmount_below(root)
    prefix = f"{root}/"
    left = [point for point in mount_points() if point == str(root) or point.startswith(prefix)]
    if left:
        raise OSError(f"still mounted: {left[0]}")
    shutil.rmtree(root)
