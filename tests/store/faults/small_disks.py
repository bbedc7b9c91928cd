"""Members whose data directories lie on small disks of their own (tmpfs), which a test fills and frees."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.store.processes import NAMES, StoreCluster

COMMAND_TIMEOUT_S = 20
READY_TIMEOUT_S = 40.0
DISK_MEBIBYTES = 8


class SmallDisksCluster(StoreCluster):
    """Three members with 8 MiB each; their logs have small segments."""

    def disk(self, name: str) -> Path:
        return self.directory / "disks" / name

    def data_dir(self, name: str) -> Path:
        return self.disk(name) / "data"

    def program(self, name: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "tests.store.faults.small_segments")

    def mount(self) -> None:
        for name in NAMES:
            self.disk(name).mkdir(parents=True)
            _run("mount", "-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m", "tmpfs", str(self.disk(name)))

    def unmount(self) -> None:
        for name in NAMES:
            if self.disk(name).is_mount():
                _run("umount", "-l", str(self.disk(name)))

    def fill(self, name: str) -> None:
        """Take all the room that there is."""
        with (self.disk(name) / "filler").open("ab", buffering=0) as filler:
            for size in (64 << 10, 4 << 10, 64):
                try:
                    while True:
                        filler.write(bytes(size))
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017 - it is what was aimed at

    def free(self, name: str) -> None:
        """Give the room back."""
        os.unlink(self.disk(name) / "filler")

    async def start_all(self) -> None:
        """Start all members and wait until one leads."""
        for name in NAMES:
            await self.start(name)
        async with asyncio.timeout(READY_TIMEOUT_S):
            await self.leader()


@asynccontextmanager
async def on_small_disks(directory: Path, *flags: str) -> AsyncIterator[SmallDisksCluster]:
    """Have such a cluster while the context lasts."""
    cluster = SmallDisksCluster(directory, *flags)
    try:
        cluster.mount()
        await cluster.start_all()
        yield cluster
    finally:
        await cluster.kill_all()
        cluster.unmount()


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=True)
