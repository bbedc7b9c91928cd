"""A simulated world: clocks that move when told, and disks that fail by seed."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from store.raft.disk import DiskFullError

SECTOR_BYTES = 512
RESERVED_BYTES_MAX = 3000
"""How much of what is reserved is imitated."""
EPOCH_NS = 1_700_000_000_000_000_000


class PowerLossError(Exception):
    """The machine stopped in the middle of a call to its disk."""


class KilledError(Exception):
    """The process was killed in the middle of a call to its disk; the kernel keeps what it was given."""


@dataclass
class VirtualClock:
    """Time of the whole world."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return EPOCH_NS + int(self.now * 1e9)


@dataclass
class MemberClock:
    """What one member takes for the time: slower or faster than the world's, off by a little, and moved by its disk."""

    world: VirtualClock
    rate: float = 1.0
    wall_offset_s: float = 0.0
    spent_s: float = 0.0
    """Time that calls to the disk have taken since the member was given something to do."""

    def monotonic(self) -> float:
        return (self.world.now + self.spent_s) * self.rate

    def time_ns(self) -> int:
        return EPOCH_NS + int((self.monotonic() + self.wall_offset_s) * 1e9)

    def world_time(self, local: float) -> float:
        """When it will be that this clock shows a time."""
        return local / self.rate


@dataclass
class Content:
    """A file's bytes, and how many of them would survive."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0
    reserved_to: int = 0
    """Zeros follow the data up to here, for as long as the file is open."""
    reserved_durably_to: int = 0
    """As far as zeros or data reach on disk whatever happens."""

    def left_open(self) -> None:
        """Have the zeros stand in the file, as after a process that did not close it."""
        self.data += bytes(max(self.reserved_to - len(self.data), 0))
        self.reserved_to = 0


@dataclass
class SimulatedFile:
    disk: SimulatedDisk
    content: Content
    open: bool = True

    def write(self, data: bytes) -> None:
        self._check_open()
        self.disk.tick()
        if self.disk.full:
            # What still fits is written, as much as chance has it, and taken back, unless the end comes in between.
            length = len(self.content.data)
            self.content.data += data[: self.disk.chance.randint(0, len(data))]
            self.disk.tick()
            del self.content.data[length:]
            self.content.reserved_to = 0
            self.disk.refuse()
        self.content.data += data

    def reserve(self, length: int) -> None:
        self._check_open()
        self.disk.tick()
        if not self.disk.full:
            self.content.reserved_to = len(self.content.data) + min(length, RESERVED_BYTES_MAX)

    def sync(self) -> None:
        self._check_open()
        self.disk.tick()
        self.disk.sync_calls += 1
        self.disk.spend()
        self.content.synced = len(self.content.data)
        self.content.reserved_durably_to = self.content.reserved_to
        self.disk.tick()

    def close(self) -> None:
        self._check_open()
        self.open = False
        self.content.reserved_to = 0

    def _check_open(self) -> None:
        if not self.open:
            raise OSError(errno.EBADF, "the file is closed already")


def _nothing() -> None:
    """Take no time."""


@dataclass
class SimulatedDisk:
    """One directory; what was not synced is lost, or torn, with the power.

    Names are synced apart from what they stand for: a file that was made or renamed may be gone, or be back under its
    old name, until the directory is synced. Changes of the directory reach the disk in their order.
    """

    files: dict[str, Content] = field(default_factory=dict)
    calls_until_power_loss: int = -1
    calls_until_kill: int = -1
    kill_at_rename: bool = False
    """The process is killed after a rename, before the directory is synced."""
    full: bool = False
    calls_until_full: int = -1
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    spend: Callable[[], None] = _nothing
    """Called for each sync, which may take its time."""
    sync_calls: int = 0
    _named: dict[str, Content] = field(default_factory=dict)
    """The names that are on disk."""
    _unsynced: list[dict[str, Content | None]] = field(default_factory=list)
    """Changes of names since, in their order; None takes a name away."""

    def __str__(self) -> str:
        return "simulated"

    def tick(self) -> None:
        if self.calls_until_power_loss == 0:
            raise PowerLossError
        if self.calls_until_kill == 0:
            raise KilledError
        if self.calls_until_full == 0:
            self.full, self.calls_until_full = True, -1
        if self.calls_until_full > 0:
            self.calls_until_full -= 1
        if self.calls_until_power_loss > 0:
            self.calls_until_power_loss -= 1
        if self.calls_until_kill > 0:
            self.calls_until_kill -= 1

    def refuse(self) -> NoReturn:
        raise DiskFullError(errno.ENOSPC, "no space left on the simulated device")

    def list(self) -> list[str]:
        return sorted(self.files)

    def size(self, name: str) -> int:
        return len(self._content(name).data)

    def read(self, name: str, offset: int = 0, length: int = -1) -> bytes:
        data = self._content(name).data
        return bytes(data[offset : len(data) if length < 0 else offset + length])

    def create(self, name: str) -> SimulatedFile:
        self.tick()
        if self.full:
            self.refuse()
        content = self.files.setdefault(name, Content())
        content.data.clear()
        content.synced = 0
        self._unsynced.append({name: content})
        return SimulatedFile(self, content)

    def append(self, name: str) -> SimulatedFile:
        return SimulatedFile(self, self._content(name))

    def truncate(self, name: str, length: int) -> None:
        self.tick()
        content = self._content(name)
        del content.data[length:]
        content.synced = length
        content.reserved_durably_to = 0

    def rename(self, source: str, target: str) -> None:
        self.tick()
        if self.full:
            self.refuse()
        content = self._content(source)
        assert content.synced == len(content.data), "a file must be synced before it is put in its place"
        self.files[target] = self.files.pop(source)
        self._unsynced.append({source: None, target: content})
        self.tick()
        if self.kill_at_rename:
            raise KilledError
        self.sync_names()

    def sync_names(self) -> None:
        """Have all names on disk."""
        self.tick()
        self._named = dict(self.files)
        self._unsynced.clear()
        self.tick()

    def remove(self, name: str) -> None:
        self.tick()
        if self.files.pop(name, None) is not None:
            self._unsynced.append({name: None})

    def lose_power(self, chance: random.Random) -> None:
        """Forget what was not synced: all, a part, single sectors of it, or nothing."""
        self.revive()
        self._lose_names(chance)
        for content in self.files.values():
            data, synced, length = content.data, content.synced, content.reserved_durably_to
            if len(data) > synced:
                kind = chance.randrange(4)
                if kind == 0:
                    del data[synced:]
                elif kind == 1:
                    del data[chance.randint(synced, len(data)) :]
                elif kind == 2:
                    _lose_sectors(data, synced, chance)
            if content.reserved_to or chance.random() < 0.5:
                # The file is as long as it was on disk; where it was closed, that may have reached the disk, too.
                data += bytes(max(length - len(data), 0))
            content.reserved_to = content.reserved_durably_to = 0
            content.synced = len(data)

    def end_process(self) -> None:
        """Leave the files as a process leaves them that did not close them."""
        for content in self.files.values():
            content.left_open()

    def revive(self) -> None:
        """Take back what was to stop the member: it has stopped."""
        self.calls_until_power_loss = self.calls_until_kill = -1
        self.kill_at_rename = False

    def empty(self) -> None:
        """Make space again."""
        self.full, self.calls_until_full = False, -1

    def _lose_names(self, chance: random.Random) -> None:
        if not self._unsynced:
            return
        # Tests put files there by hand: these count as named.
        changed = {name for change in self._unsynced for name in change}
        names = {name: content for name, content in self.files.items() if name not in changed}
        names |= {name: content for name, content in self._named.items() if name in changed}
        for change in self._unsynced[: chance.randint(0, len(self._unsynced))]:
            for name, content in change.items():
                if content is None:
                    names.pop(name, None)
                else:
                    names[name] = content
        self.files = names
        self._named = dict(names)
        self._unsynced.clear()

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
