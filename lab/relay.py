"""Holds packets back between nodes where the kernel has no netem: a process in the fabric's namespace.

The port of a node leads the packets of some senders to a TAP. This reads them there, lets each wait for its time and
sends it by the port, past its queues. Packets of one sender keep their order, also with jitter.
What it can carry is bounded by Python: some 20,000 packets a second in all; one that comes too many is dropped.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import heapq
import itertools
import json
import logging
import os
import random
import socket
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

from lab.forwarder import enter_network_namespace
from lab.shaping import BACKLOG_S, QUEUE_PACKETS_MAX

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
FRAME_BYTES_MAX = 1 << 16
READS_MAX = 64
"""How many packets are read in a go, before those that are due get their turn."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Pace:
    """How one sender's packets are held back on their way to one port; `due` decides for each: pure."""

    delay_s: float
    jitter_s: float
    rate_bits: int
    waiting: int = 0
    _free_at_s: float = 0.0
    """When the last packet has been sent out at the rate."""
    _last_due_s: float = 0.0

    def due(self, now_s: float, length: int, chance: float) -> float | None:
        """Return when a packet may go on, None where too many wait already; chance is from -1 to 1."""
        if self.waiting >= QUEUE_PACKETS_MAX:
            return None
        sent_s = now_s
        if self.rate_bits:
            sent_s = max(now_s, self._free_at_s) + length * 8 / self.rate_bits
            if sent_s - now_s > max(BACKLOG_S, length * 8 / self.rate_bits):
                return None
            self._free_at_s = sent_s
        wanted_s = sent_s + max(0.0, self.delay_s + self.jitter_s * chance)
        self._last_due_s = max(self._last_due_s, wanted_s)
        self.waiting += 1
        return self._last_due_s


@dataclass(slots=True)
class Branch:
    """One TAP, the port that its packets go to, and the paces by the sender's MAC address."""

    tap: int
    port: socket.socket
    paces: dict[bytes, Pace] = field(default_factory=dict)


class Relay:
    """Carry packets until stopped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, Pace, socket.socket, bytes]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self.dropped = 0

    def add(self, path: Branch) -> None:
        """Serve one TAP."""
        self._loop.add_reader(path.tap, self._read, path)

    def _read(self, path: Branch) -> None:
        now_s = self._loop.time()
        for _ in range(READS_MAX):
            try:
                frame = os.read(path.tap, FRAME_BYTES_MAX)
            except BlockingIOError:
                break
            pace = path.paces.get(frame[6:12])
            due_s = pace.due(now_s, len(frame), random.uniform(-1, 1)) if pace is not None else None
            if pace is None or due_s is None:
                self.dropped += 1
                continue
            heapq.heappush(self._heap, (due_s, next(self._numbers), pace, path.port, frame))
        self._send_due()

    def _send_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = self._loop.time()
        while self._heap and self._heap[0][0] <= now_s:
            _, _, pace, port, frame = heapq.heappop(self._heap)
            pace.waiting -= 1
            try:
                port.send(frame)
            except OSError as error:
                # The node's end is down, or its queue is full: as on a real cable, the packet is lost.
                if error.errno not in (errno.ENETDOWN, errno.ENOBUFS, errno.EAGAIN, errno.ENXIO, errno.EMSGSIZE):
                    raise
                self.dropped += 1
        if self._heap:
            self._timer = self._loop.call_at(self._heap[0][0], self._send_due)


def open_tap(name: str) -> int:
    """Attach to a TAP that stands."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def open_port(name: str) -> socket.socket:
    """Return a socket that sends frames by a port, past its queues and filters."""
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
    port.setblocking(False)
    port.bind((name, 0))
    return port


def parse(text: str) -> list[tuple[str, str, dict[bytes, Pace]]]:
    """Read the plan that `shaping.relay_plan` made."""
    return [
        (entry["tap"], entry["port"], {bytes.fromhex(m.replace(":", "")): Pace(**p) for m, p in entry["paces"].items()})
        for entry in json.loads(text)
    ]


async def serve(namespace: str, plan: str) -> None:
    """Carry packets until this process is ended."""
    enter_network_namespace(namespace)
    relay = Relay(asyncio.get_running_loop())
    for tap, port, paces in parse(plan):
        relay.add(Branch(open_tap(tap), open_port(port), paces))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Run as ``python -m lab.relay NAMESPACE PLAN``."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    namespace, plan = sys.argv[1:]
    asyncio.run(serve(namespace, Path(plan).read_text()))


if __name__ == "__main__":
    main()
