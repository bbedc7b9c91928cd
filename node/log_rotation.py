"""Rotates container logs: moves a file that grew too large away, has the runtime open a new one, drops the oldest."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from pathlib import Path

from node.config import KubeletConfig
from node.cri import Cri, CriError
from node.pleg import Pleg
from node.runtime import ContainerInfo

log = logging.getLogger(__name__)

PERIOD_S = 10.0


def rotated(path: Path) -> list[Path]:
    """Return the earlier parts of a log, oldest first."""
    return sorted(path.parent.glob(f"{path.name}.*"))


class LogRotation:
    """Keeps every container's log within bounds."""

    def __init__(self, config: KubeletConfig, cri: Cri, pleg: Pleg) -> None:
        self._config = config
        self._cri = cri
        self._pleg = pleg

    async def run(self) -> None:
        """Rotate until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.rotate_all()

    async def rotate_all(self) -> None:
        """Rotate every log that is too large now."""
        sandboxes = {info.id: info for info in self._pleg.sandboxes}
        for container in self._pleg.containers:
            sandbox = sandboxes.get(container.sandbox_id)
            if container.state != "running" or sandbox is None:
                continue
            folder = f"{sandbox.namespace}_{sandbox.name}_{sandbox.pod_uid}"
            path = self._config.pod_logs_dir / folder / container.name / f"{container.attempt}.log"
            try:
                await self._rotate(path, container)
            except (OSError, CriError) as error:
                log.warning("cannot rotate a log path=%s error=%s", path, error)

    async def _rotate(self, path: Path, container: ContainerInfo) -> None:
        if not await asyncio.to_thread(_too_large, path, self._config.container_log_max_bytes):
            return
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        moved = path.with_name(f"{path.name}.{stamp}")
        await asyncio.to_thread(path.rename, moved)
        try:
            await self._cri.reopen_log(container.id)
        except CriError:
            await asyncio.to_thread(moved.rename, path)
            raise
        await asyncio.to_thread(_drop_oldest, path, self._config.container_log_files_max - 1)


def _too_large(path: Path, size_max: int) -> bool:
    try:
        return path.stat().st_size > size_max
    except FileNotFoundError:
        return False


def _drop_oldest(path: Path, keep: int) -> None:
    for old in rotated(path)[:-keep] if keep > 0 else rotated(path):
        old.unlink(missing_ok=True)
