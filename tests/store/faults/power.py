"""Members whose data directories lie on a disk that can lose its power, all at one moment."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.store.faults.powerloss import PowerLossDisk
from tests.store.faults.volatile import Keep
from tests.store.processes import NAMES, StoreCluster

READY_TIMEOUT_S = 40.0


class OneDiskCluster(StoreCluster):
    """Three members on one PowerLossDisk."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.disk = PowerLossDisk(directory / "disk")
        super().__init__(directory, *flags)

    def data_dir(self, name: str) -> Path:
        return self.disk.path / name / "data"


class PoweredCluster(OneDiskCluster):
    """Three members on one PowerLossDisk; their logs have small segments."""

    def program(self, name: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "tests.store.faults.small_segments")

    async def start_all(self) -> None:
        """Start all members and wait until one leads."""
        for name in NAMES:
            await self.start(name)
        async with asyncio.timeout(READY_TIMEOUT_S):
            await self.leader()

    async def cut_power(self, keep: Keep, seed: int) -> int:
        """Take the power of all machines away, and give it again; return how many changes were unsynced."""
        unsynced = await self.disk.cut(keep, seed)
        await self.kill_all()
        await self.disk.restore()
        await self.start_all()
        return unsynced

    async def something_temporary(self, timeout_s: float = 5.0) -> bool:
        """Wait until a member is in the middle of writing a snapshot or of beginning a segment."""
        try:
            async with asyncio.timeout(timeout_s):
                while not any(self.disk.path.rglob("*.tmp")):
                    await asyncio.sleep(0.002)
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def mounted(disk: PowerLossDisk) -> AsyncIterator[None]:
    """Have the disk while the context lasts."""
    try:
        await disk.start()
        yield
    finally:
        await disk.stop()


@asynccontextmanager
async def powered(directory: Path, *flags: str) -> AsyncIterator[PoweredCluster]:
    """Have such a cluster while the context lasts."""
    cluster = PoweredCluster(directory, *flags)
    async with mounted(cluster.disk):
        try:
            await cluster.start_all()
            yield cluster
        finally:
            await cluster.kill_all()
