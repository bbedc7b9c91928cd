"""configMap: the keys of a ConfigMap as files."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from control.api.meta import Object
from node.volumes import atomic_writer
from node.volumes.context import VolumeContext, VolumeError, VolumeFile, chosen

MODE_DEFAULT = 0o644


def data_of(config_map: Object) -> dict[str, bytes]:
    """Return all keys of a ConfigMap as bytes."""
    text = {key: str(value).encode() for key, value in (config_map.get("data") or {}).items()}
    binary = {key: base64.b64decode(value) for key, value in (config_map.get("binaryData") or {}).items()}
    return {**text, **binary}


async def files(context: VolumeContext, source: dict[str, Any], default_mode: int) -> dict[str, VolumeFile]:
    """Return the files that the source asks for."""
    name, optional = source.get("name", ""), bool(source.get("optional"))
    found = await context.source.config_map(context.namespace, name, context.age_max_s)
    if found is None:
        if optional:
            return {}
        raise VolumeError(f'configmap "{name}" not found')
    return chosen(data_of(found), source.get("items"), default_mode, optional=optional, what="config")


async def set_up(context: VolumeContext, name: str, source: dict[str, Any]) -> Path:
    """Write the ConfigMap's files, or replace them where it has changed."""
    path = context.paths.volume("configmap", name)
    mode = source.get("defaultMode", MODE_DEFAULT)
    atomic_writer.write(path, await files(context, source, mode), context.fs_group)
    return path
