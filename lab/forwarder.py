"""Carries connections from loopback ports of this machine into a cluster's fabric.

A socket belongs to the network namespace in which it was made: the listening sockets are made here, then the process
enters the fabric's namespace, and every connection it opens from then on starts there.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
import sys
from collections.abc import Sequence

from lab.fabric import NAMESPACES

CLONE_NEWNET = 0x40000000
BUFFER_BYTES = 64 * 1024
CONNECTIONS_MAX = 1000
CONNECT_TIMEOUT_S = 1.0
log = logging.getLogger(__name__)


def enter_network_namespace(name: str) -> None:
    """Move this thread into a named network namespace; raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.setns(descriptor, CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot enter network namespace {name}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def parse_forward(text: str) -> tuple[int, list[tuple[str, int]]]:
    """Return (port, targets) of ``PORT=HOST:PORT,HOST:PORT``."""
    port, _, targets = text.partition("=")
    pairs = [target.rpartition(":") for target in targets.split(",")]
    return int(port), [(host, int(number)) for host, _, number in pairs]


class Forwarder:
    """One listening port and the targets that it tries in turn."""

    def __init__(self, targets: Sequence[tuple[str, int]]) -> None:
        self._targets = list(targets)
        self._connections = 0

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for target in list(self._targets):
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    return await asyncio.open_connection(*target, limit=BUFFER_BYTES)
            except (OSError, TimeoutError) as error:
                log.debug("no answer target=%s error=%s", target, error)
                self._targets.append(self._targets.pop(0))  # the next connection starts with one that lives
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until both sides have ended."""
        if self._connections >= CONNECTIONS_MAX:
            writer.close()
            return
        self._connections += 1
        far = None
        try:
            far = await self._connect()
            if far is None:
                writer.transport.abort()
                return
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_copy(reader, far[1]))
                tasks.create_task(_copy(far[0], writer))
        finally:
            self._connections -= 1
            for end in (writer, far[1] if far else None):
                if end is not None:
                    end.close()
                    await _ended(end)


async def _ended(writer: asyncio.StreamWriter) -> None:
    """Wait until a closed connection's descriptor is free."""
    try:
        await writer.wait_closed()
    except OSError as error:
        log.debug("connection ended badly error=%s", error)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction, and pass its end on."""
    try:
        while data := await reader.read(BUFFER_BYTES):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()


async def run(namespace: str, forwards: Sequence[str]) -> None:
    """Listen on each port and carry connections for ever."""
    listening = []
    for text in forwards:
        port, targets = parse_forward(text)
        listener = socket.create_server(("127.0.0.1", port), backlog=256, reuse_port=False)
        listening.append((listener, Forwarder(targets)))
    enter_network_namespace(namespace)
    async with asyncio.TaskGroup() as tasks:
        for listener, forwarder in listening:
            server = await asyncio.start_server(forwarder.serve, sock=listener, limit=BUFFER_BYTES)
            tasks.create_task(server.serve_forever())


def main() -> None:
    """Run as ``python -m lab.forwarder NAMESPACE PORT=HOST:PORT,… …``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(run(sys.argv[1], sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
