"""Sets up all volumes of a pod, keeps those fresh whose source changes, and takes everything down again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from node import mounts
from node.pod_spec import ContainerSpec
from node.runtime import MountConfig, Propagation
from node.volumes import config_map, downward_api, empty_dir, host_path, projected, secret, sub_path
from node.volumes.context import VolumeContext, VolumeError

SetUp = Callable[[VolumeContext, str, dict[str, Any]], Awaitable[Path]]

KINDS: dict[str, SetUp] = {
    "emptyDir": empty_dir.set_up,
    "hostPath": host_path.set_up,
    "configMap": config_map.set_up,
    "secret": secret.set_up,
    "downwardAPI": downward_api.set_up,
    "projected": projected.set_up,
}
REFRESHED = ("configMap", "secret", "downwardAPI", "projected")


def kind_of(volume: dict[str, Any]) -> str:
    """Return the volume's kind; the only key beside its name."""
    return next((key for key in volume if key != "name"), "emptyDir")


async def set_up(context: VolumeContext) -> dict[str, Path]:
    """Set up all volumes of the pod and return their folders by name."""
    context.paths.root.mkdir(parents=True, exist_ok=True, mode=0o750)
    found: dict[str, Path] = {}
    for volume in context.pod["spec"].get("volumes") or ():
        found[volume["name"]] = await _set_up_one(context, volume)
    return found


async def _set_up_one(context: VolumeContext, volume: dict[str, Any]) -> Path:
    name, kind = volume["name"], kind_of(volume)
    if kind not in KINDS:
        raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : volumes of kind {kind} are not supported')
    try:
        return await KINDS[kind](context, name, volume.get(kind) or {})
    except (VolumeError, OSError) as error:
        raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error


async def refresh(context: VolumeContext) -> None:
    """Write anew the volumes whose source may have changed."""
    for volume in context.pod["spec"].get("volumes") or ():
        if kind_of(volume) in REFRESHED:
            await _set_up_one(context, volume)


def needs_refresh(pod: dict[str, Any]) -> bool:
    """Tell whether the pod has a volume whose source may change."""
    return any(kind_of(volume) in REFRESHED for volume in pod["spec"].get("volumes") or ())


def mounts_of(
    context: VolumeContext, wanted: ContainerSpec, folders: dict[str, Path], expand: Callable[[str], str]
) -> list[MountConfig]:
    """Return the mounts of a container; `expand` resolves subPathExpr."""
    kinds = {volume["name"]: kind_of(volume) for volume in context.pod["spec"].get("volumes") or ()}
    found: list[MountConfig] = []
    for index, entry in enumerate(wanted.spec.get("volumeMounts") or ()):
        folder = folders.get(entry["name"])
        if folder is None:
            raise VolumeError(f'cannot find volume "{entry["name"]}" to mount into container "{wanted.name}"')
        readonly = bool(entry.get("readOnly")) or kinds[entry["name"]] in REFRESHED
        inner = expand(entry["subPathExpr"]) if entry.get("subPathExpr") else entry.get("subPath")
        if inner:
            point = context.paths.sub_path(entry["name"], wanted.name, index)
            folder = sub_path.resolve(folder, inner, point, readonly_volume=kinds[entry["name"]] in REFRESHED)
        path = entry["mountPath"] if entry["mountPath"].startswith("/") else f"/{entry['mountPath']}"
        propagation: Propagation = entry.get("mountPropagation") or "None"
        found.append(MountConfig(path, str(folder), readonly, propagation))
    return found


async def tear_down(root: Path) -> None:
    """Unmount and remove everything of a pod."""
    await asyncio.to_thread(mounts.remove_tree, root)
