"""A simulated world: a clock that moves when told, a network and disks that fail by seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

SECTOR_BYTES = 512


class PowerLossError(Exception):
    """The machine stopped in the middle of a call to its disk."""


@dataclass
class VirtualClock:
    """Time of the whole world, with a skew of the wall clock of one machine."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000 + int(self.now * 1e9)


@dataclass
class Content:
    """A file's bytes, and how many of them would survive."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0


@dataclass
class SimulatedFile:
    disk: SimulatedDisk
    content: Content

    def write(self, data: bytes) -> None:
        self.disk.tick()
        self.content.data += data

    def reserve(self, length: int) -> None:
        """Nothing: zeros behind the end come with crashes alone."""

    def sync(self) -> None:
        self.disk.tick()
        self.content.synced = len(self.content.data)
        self.disk.tick()

    def close(self) -> None:
        pass


@dataclass
class SimulatedDisk:
    """One directory; what was not synced is lost, or torn, with the power."""

    files: dict[str, Content] = field(default_factory=dict)
    calls_until_power_loss: int = -1

    def __str__(self) -> str:
        return "simulated"

    def tick(self) -> None:
        if self.calls_until_power_loss == 0:
            raise PowerLossError
        if self.calls_until_power_loss > 0:
            self.calls_until_power_loss -= 1

    def list(self) -> list[str]:
        return sorted(self.files)

    def size(self, name: str) -> int:
        return len(self._content(name).data)

    def read(self, name: str, offset: int = 0, length: int = -1) -> bytes:
        data = self._content(name).data
        return bytes(data[offset : len(data) if length < 0 else offset + length])

    def create(self, name: str) -> SimulatedFile:
        self.tick()
        self.files[name] = Content()
        return SimulatedFile(self, self.files[name])

    def append(self, name: str) -> SimulatedFile:
        return SimulatedFile(self, self._content(name))

    def truncate(self, name: str, length: int) -> None:
        self.tick()
        content = self._content(name)
        del content.data[length:]
        content.synced = length

    def rename(self, source: str, target: str) -> None:
        self.tick()
        content = self._content(source)
        assert content.synced == len(content.data), "a file must be synced before it is put in its place"
        self.files[target] = self.files.pop(source)
        self.tick()

    def remove(self, name: str) -> None:
        self.tick()
        self.files.pop(name, None)

    def lose_power(self, chance: random.Random) -> None:
        """Forget what was not synced: all, a part, single sectors of it, or nothing."""
        self.calls_until_power_loss = -1
        for content in self.files.values():
            data, synced = content.data, content.synced
            if len(data) == synced:
                continue
            kind = chance.randrange(4)
            if kind == 0:
                del data[synced:]
            elif kind == 1:
                del data[chance.randint(synced, len(data)) :]
            elif kind == 2:
                _lose_sectors(data, synced, chance)
            content.synced = len(data)

    def _content(self, name: str) -> Content:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]


def _lose_sectors(data: bytearray, synced: int, chance: random.Random) -> None:
    start = synced
    while start < len(data):
        end = min(len(data), (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if chance.random() < 0.5:
            data[start:end] = bytes(end - start)
        start = end


@dataclass(frozen=True)
class Weather:
    """How the network behaves."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s: float = 0.001
    delay_tail_s: float = 0.0
    """Some frames take up to this long: they are overtaken."""


@dataclass
class SimulatedNetwork:
    clock: VirtualClock
    chance: random.Random
    deliver: Callable[[int, int, bytes], None]
    weather: Weather = field(default_factory=Weather)
    cut: set[frozenset[int]] = field(default_factory=set)
    queue: list[tuple[float, int, int, int, bytes]] = field(default_factory=list)
    sent: int = 0

    def send(self, source: int, target: int, data: bytes) -> None:
        weather = self.weather
        copies = 2 if self.chance.random() < weather.duplication else 1
        for _ in range(copies):
            if self.chance.random() < weather.loss:
                continue
            delay = weather.delay_s * (0.5 + self.chance.random())
            if self.chance.random() < 0.05:
                delay += weather.delay_tail_s * self.chance.random()
            self.sent += 1
            heapq.heappush(self.queue, (self.clock.now + delay, self.sent, source, target, data))

    def next_at(self) -> float:
        return self.queue[0][0] if self.queue else float("inf")

    def deliver_due(self) -> None:
        while self.queue and self.queue[0][0] <= self.clock.now:
            _, _, source, target, data = heapq.heappop(self.queue)
            if frozenset((source, target)) not in self.cut:
                self.deliver(source, target, data)
