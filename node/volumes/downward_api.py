"""downwardAPI: fields of the pod itself as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node import environment, pod_spec
from node.environment import ConfigError
from node.volumes import atomic_writer
from node.volumes.context import VolumeContext, VolumeError, VolumeFile

MODE_DEFAULT = 0o644


def files(context: VolumeContext, source: dict[str, Any], default_mode: int) -> dict[str, VolumeFile]:
    """Return the files that the source asks for."""
    found: dict[str, VolumeFile] = {}
    for item in source.get("items") or ():
        mode = item.get("mode")
        text = _value(context, item)
        found[item["path"]] = VolumeFile(text.encode(), default_mode if mode is None else mode)
    return found


def _value(context: VolumeContext, item: dict[str, Any]) -> str:
    try:
        if item.get("fieldRef"):
            return environment.field_value(context.pod, item["fieldRef"]["fieldPath"], context.runtime_fields)
        reference = item["resourceFieldRef"]
        named = pod_spec.container(context.pod, reference["containerName"])
        if named is None:
            raise VolumeError(f"container {reference['containerName']} not found")
        return environment.resource_value(context.pod, named, reference, context.node_allocatable)
    except ConfigError as error:
        raise VolumeError(str(error)) from error


async def set_up(context: VolumeContext, name: str, source: dict[str, Any]) -> Path:
    """Write the pod's fields, or replace them where they have changed."""
    path = context.paths.volume("downward-api", name)
    atomic_writer.write(path, files(context, source, source.get("defaultMode", MODE_DEFAULT)), context.fs_group)
    return path
