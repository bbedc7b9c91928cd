"""projected: several sources in one folder, ServiceAccount tokens among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from node.volumes import atomic_writer, config_map, downward_api, secret
from node.volumes.context import VolumeContext, VolumeError, VolumeFile

MODE_DEFAULT = 0o644
TOKEN_EXPIRATION_DEFAULT_S = 3600


async def files(context: VolumeContext, sources: list[dict[str, Any]], mode: int) -> dict[str, VolumeFile]:
    """Return the files of all sources; later ones win."""
    found: dict[str, VolumeFile] = {}
    for source in sources:
        if source.get("configMap"):
            found.update(await config_map.files(context, source["configMap"], mode))
        elif source.get("secret"):
            found.update(await secret.files(context, source["secret"], mode))
        elif source.get("downwardAPI") is not None:
            found.update(downward_api.files(context, source["downwardAPI"], mode))
        elif source.get("serviceAccountToken"):
            wish = source["serviceAccountToken"]
            seconds = int(wish.get("expirationSeconds") or TOKEN_EXPIRATION_DEFAULT_S)
            token = await context.source.token(context.pod, wish.get("audience") or "", seconds)
            found[wish["path"]] = VolumeFile(token.encode(), mode)
        else:
            raise VolumeError(f"unsupported projected source: {', '.join(source) or 'none'}")
    return found


async def set_up(context: VolumeContext, name: str, source: dict[str, Any]) -> Path:
    """Write the files of all sources on a tmpfs, or replace them where one has changed."""
    path = context.paths.volume("projected", name)
    content = await files(context, source.get("sources") or [], source.get("defaultMode", MODE_DEFAULT))
    path.mkdir(parents=True, exist_ok=True)
    context.mount_tmpfs(path, "mode=0755")
    atomic_writer.write(path, content, context.fs_group)
    return path
