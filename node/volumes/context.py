"""What every kind of volume is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from control.api.meta import Object
from node.paths import PodPaths


class VolumeError(Exception):
    """A volume cannot be set up now; the text is for the pod's FailedMount event."""


class ObjectSource(Protocol):
    """Reads ConfigMaps and Secrets, and asks for tokens."""

    async def config_map(self, namespace: str, name: str, age_max_s: float) -> Object | None:
        """Return a ConfigMap no older than this, None where there is none."""
        ...

    async def secret(self, namespace: str, name: str, age_max_s: float) -> Object | None:
        """Return a Secret no older than this, None where there is none."""
        ...

    async def token(self, pod: Object, audience: str, expiration_s: int) -> str:
        """Return a ServiceAccount token of the pod, fresh enough to be used."""
        ...


@dataclass(frozen=True)
class VolumeContext:
    """The pod, its folders and its sources."""

    pod: Object
    paths: PodPaths
    source: ObjectSource
    age_max_s: float
    runtime_fields: Mapping[str, str]
    node_allocatable: Mapping[str, str]
    mount_tmpfs: Callable[[Path, str], None]
    """Mounts a tmpfs with these options unless the folder is one already."""

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return str(self.pod["metadata"]["namespace"])

    @property
    def fs_group(self) -> int | None:
        """The group that is to own the pod's volumes."""
        found: int | None = (self.pod["spec"].get("securityContext") or {}).get("fsGroup")
        return found


@dataclass(frozen=True, slots=True)
class VolumeFile:
    """One file of a volume."""

    data: bytes
    mode: int


def chosen(
    data: Mapping[str, bytes], items: list[dict[str, Any]] | None, default_mode: int, *, optional: bool, what: str
) -> dict[str, VolumeFile]:
    """Return the files that `items` choose from keys, all keys where there are no items."""
    if not items:
        return {key: VolumeFile(value, default_mode) for key, value in data.items()}
    files: dict[str, VolumeFile] = {}
    for item in items:
        if item["key"] not in data:
            if optional:
                continue
            raise VolumeError(f"references non-existent {what} key: {item['key']}")
        mode = item.get("mode")
        files[item["path"]] = VolumeFile(data[item["key"]], default_mode if mode is None else mode)
    return files
