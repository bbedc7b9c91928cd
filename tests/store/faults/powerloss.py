"""A mounted VolatileDisk as a process of its own, and the handle by which a test takes its power away.

``python -m tests.store.faults.powerloss FOLDER`` mounts, prints ``ready`` and takes one JSON command a line. It unmounts
and ends when its input does, so that it does not outlive the test that started it.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from tests.store.faults import fuse
from tests.store.faults.volatile import Keep, VolatileDisk

ROOT = Path(__file__).parents[3]
ANSWER_TIMEOUT_S = 10.0


class PowerLossDisk:
    """The disks of all members: one mount, a folder for each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Mount."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.store.faults.powerloss", str(self.path)),
            cwd=ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await self._answer()

    async def stop(self) -> None:
        """Unmount, whatever state all is in."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                async with asyncio.timeout(ANSWER_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        fuse.unmount(self.path)

    async def cut(self, keep: Keep, seed: int) -> int:
        """Take the power away now: each system call fails until ``restore``; return how many changes were unsynced."""
        return int((await self._command("cut", keep=keep.value, seed=seed))["unsynced"])

    async def restore(self) -> None:
        """Give power again."""
        await self._command("restore")

    async def lie(self, *folders: str) -> None:
        """From now on say of these members' syncs that they are done, and do nothing."""
        await self._command("lie", folders=folders)

    async def fail(self, *folders: str) -> None:
        """From now on let these members' syncs fail with EIO."""
        await self._command("fail", folders=folders)

    async def _command(self, name: str, **values: Any) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"name": name, **values}).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            line = await self._process.stdout.readline()
        if not line:
            raise AssertionError("the disk's process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def obey(disk: VolatileDisk, command: dict[str, Any]) -> dict[str, Any]:
    """Carry out one command of the test."""
    match command["name"]:
        case "cut":
            unsynced = disk.unsynced()
            disk.cut(Keep(command["keep"]), command["seed"])
            return {"unsynced": unsynced}
        case "restore":
            disk.restore_power()
        case "lie":
            disk.lying = set(command["folders"])
        case "fail":
            disk.failing = set(command["folders"])
    return {}


def main() -> None:
    """Mount on the folder named, and obey until the input ends."""
    path = Path(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))
    disk = VolatileDisk()
    server = fuse.Server(fuse.mount(path), disk)
    serving = threading.Thread(target=server.serve, daemon=True)
    try:
        serving.start()
        print("{}", flush=True)
        for line in sys.stdin:
            with server.lock:
                answer = obey(disk, json.loads(line))
            print(json.dumps(answer), flush=True)
    finally:
        fuse.unmount(path)


if __name__ == "__main__":
    main()
