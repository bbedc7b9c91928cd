"""emptyDir: a folder that lives as long as its pod, on disk or in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from control.api import quantity
from node.volumes.context import VolumeContext

MODE = 0o777


async def set_up(context: VolumeContext, name: str, source: dict[str, Any]) -> Path:
    """Make the folder; medium Memory is a tmpfs of the given size."""
    path = context.paths.volume("empty-dir", name)
    fresh = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    if source.get("medium") == "Memory":
        limit = source.get("sizeLimit")
        context.mount_tmpfs(path, f"size={quantity.whole(limit)},mode=0777" if limit else "mode=0777")
    if fresh:
        path.chmod(MODE)
        if context.fs_group is not None:
            os.chown(path, -1, context.fs_group)
            path.chmod(MODE | 0o2000)
    return path
