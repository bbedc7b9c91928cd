"""A process that forks CNI daemons, each of which ends itself by SIGKILL at a chosen step of a call.

    python -m tests.net.cni_zygote FOLDER POD_CIDR      stdin: one number a line      stdout: the child's pid

A step is each side of everything that the world can see: a netlink or nftables transaction, a sysctl, a sync, a rename.
Steps count from the first ADD or DEL on; 0 lets the daemon live. Forked, a daemon starts in some 50 ms.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from net.cni import wiring
from net.cni.config import CniConfig
from net.cni.daemon import CniDaemon
from net.cni.server import run
from net.netlink import RouteSocket
from net.nftables.door import NftablesSocket


class Steps:
    """Count steps, and die at one of them."""

    def __init__(self, deadly: int) -> None:
        self._deadly, self._count, self._lock = deadly, 0, threading.Lock()
        self.is_armed = False

    def take(self) -> None:
        """Count one."""
        with self._lock:
            self._count += self.is_armed
            if self.is_armed and self._count == self._deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, owner: Any, name: str) -> None:
        """Count a step before and one after each call of a function."""
        real: Callable[..., Any] = getattr(owner, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            self.take()
            result = real(*arguments, **options)
            self.take()
            return result

        setattr(owner, name, counted)


def live(folder: Path, pod_cidr: str, deadly: int) -> None:
    """Be a daemon."""
    steps = Steps(deadly)
    for owner, name in ((RouteSocket, "batch"), (NftablesSocket, "batch"), (wiring, "write_sysctl"), (os, "fsync")):
        steps.watch(owner, name)
    steps.watch(Path, "replace")
    handle = CniDaemon.handle

    async def armed(daemon: CniDaemon, data: bytes) -> bytes:
        steps.is_armed = steps.is_armed or b"CNI_COMMAND=ADD" in data or b"CNI_COMMAND=DEL" in data
        return await handle(daemon, data)

    setattr(CniDaemon, "handle", armed)  # noqa: B010 -- mypy forbids the plain assignment
    config = CniConfig(
        cni_conf_dir=folder / "conf",
        cni_bin_dir=folder / "bin",
        socket=folder / "cni.sock",
        state_dir=folder / "state",
        pod_cidr=pod_cidr,
    )
    asyncio.run(run(config))


def main() -> None:
    """Fork a daemon for each line."""
    folder, pod_cidr = Path(sys.argv[1]), sys.argv[2]
    for line in sys.stdin:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child = os.fork()
        if not child:
            try:
                live(folder, pod_cidr, int(line))
            finally:
                os._exit(1)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
