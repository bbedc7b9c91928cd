"""secret: the keys of a Secret as files, in memory only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.environment import secret_data
from node.volumes import atomic_writer
from node.volumes.context import VolumeContext, VolumeError, VolumeFile, chosen

MODE_DEFAULT = 0o644


async def files(context: VolumeContext, source: dict[str, Any], default_mode: int) -> dict[str, VolumeFile]:
    """Return the files that the source asks for; the name stands in `secretName` or, when projected, in `name`."""
    name, optional = source.get("secretName") or source.get("name", ""), bool(source.get("optional"))
    found = await context.source.secret(context.namespace, name, context.age_max_s)
    if found is None:
        if optional:
            return {}
        raise VolumeError(f'secret "{name}" not found')
    return chosen(secret_data(found), source.get("items"), default_mode, optional=optional, what="secret")


async def set_up(context: VolumeContext, name: str, source: dict[str, Any]) -> Path:
    """Write the Secret's files on a tmpfs, or replace them where it has changed."""
    path = context.paths.volume("secret", name)
    content = await files(context, source, source.get("defaultMode", MODE_DEFAULT))
    path.mkdir(parents=True, exist_ok=True)
    context.mount_tmpfs(path, "mode=0755")
    atomic_writer.write(path, content, context.fs_group)
    return path
