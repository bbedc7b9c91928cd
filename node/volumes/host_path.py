"""hostPath: a file or folder of the node, checked or made by its type."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.volumes.context import VolumeContext, VolumeError

CHECKS: dict[str, tuple[Callable[[int], bool], str]] = {
    "Directory": (stat.S_ISDIR, "a directory"),
    "DirectoryOrCreate": (stat.S_ISDIR, "a directory"),
    "File": (stat.S_ISREG, "a file"),
    "FileOrCreate": (stat.S_ISREG, "a file"),
    "Socket": (stat.S_ISSOCK, "a socket"),
    "CharDevice": (stat.S_ISCHR, "a character device"),
    "BlockDevice": (stat.S_ISBLK, "a block device"),
}


async def set_up(_context: VolumeContext, _name: str, source: dict[str, Any]) -> Path:
    """Check the path by its type, making it where the type says so."""
    return await asyncio.to_thread(_prepare, Path(source["path"]), source.get("type") or "")


def _prepare(path: Path, kind: str) -> Path:
    if not kind:
        if not path.exists():  # the runtime would refuse it; an untyped path is made a folder, as ever
            path.mkdir(parents=True, exist_ok=True, mode=0o755)
        return path
    if kind not in CHECKS:
        raise VolumeError(f"hostPath type check failed: unknown type {kind}")
    if kind == "DirectoryOrCreate":
        path.mkdir(parents=True, exist_ok=True, mode=0o755)
    elif kind == "FileOrCreate" and not path.exists():
        path.touch(mode=0o644)
    check, what = CHECKS[kind]
    try:
        good = check(path.stat().st_mode)
    except FileNotFoundError:
        good = False
    if not good:
        raise VolumeError(f"hostPath type check failed: {path} is not {what}")
    return path
