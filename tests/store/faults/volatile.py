"""A file system that exists in memory and can lose its power: pure, no system call is made in here.

Each file and folder is held twice: as programs see it, and as the medium has it. Between the two stands the list of
changes that nobody has synced. A sync of a file puts its bytes and length on the medium; a sync of a folder puts its
entries there (names of new files, renames, removals). Neither does the other's work: that is what POSIX promises, and
no more. ``cut`` takes the power away: programs see what the medium has, and by chance a part of what it lacks.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

SECTOR_BYTES = 512


class Keep(StrEnum):
    """What of the unsynced a power cut leaves behind."""

    NOTHING = "nothing"
    PREFIX = "prefix"
    """Of each file and folder some of the first changes, the last write torn at a sector's edge."""
    SECTORS = "sectors"
    """Of each file any of the sectors written, the others as zeros; of folders some of the first changes."""


@dataclass(frozen=True)
class Write:
    """Bytes put at an offset."""

    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        _lengthen(content, self.offset)
        content[self.offset : self.offset + len(self.data)] = self.data


@dataclass(frozen=True)
class Resize:
    """A length that was set."""

    length: int

    def apply(self, content: bytearray) -> None:
        del content[self.length :]
        _lengthen(content, self.length)


@dataclass
class File:
    """A file, as programs see it and as the medium has it."""

    node_id: int
    mode: int
    content: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Resize] = field(default_factory=list)

    def change(self, change: Write | Resize) -> None:
        change.apply(self.content)
        self.unsynced.append(change)

    def sync(self) -> None:
        for change in self.unsynced:
            change.apply(self.durable)
        self.unsynced.clear()


@dataclass
class Folder:
    """A folder, as programs see it and as the medium has it."""

    node_id: int
    mode: int
    entries: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)
    unsynced: list[dict[str, File | Folder | None]] = field(default_factory=list)
    """Changes that happen as a whole: name → what it names from now on."""

    def change(self, change: dict[str, File | Folder | None]) -> None:
        _rename_all(self.entries, change)
        self.unsynced.append(change)

    def sync(self) -> None:
        for change in self.unsynced:
            _rename_all(self.durable, change)
        self.unsynced.clear()


Node = File | Folder


class VolatileDisk:
    """The tree of files; what cannot be done raises OSError with the number that Linux has for it."""

    def __init__(self) -> None:
        self._next_id = 2
        self.root = Folder(1, 0o755)
        self.powered = True
        self.lying: set[str] = set()
        """Folders at the top whose syncs are said to be done and are not."""
        self.failing: set[str] = set()
        """Folders at the top whose syncs fail, as those of a broken medium do."""
        self._owners: dict[int, str] = {}
        self.cuts = 0

    def lookup(self, folder: Folder, name: str) -> Node:
        if name not in folder.entries:
            raise OSError(errno.ENOENT, name)
        return folder.entries[name]

    def create(self, folder: Folder, name: str, mode: int) -> File:
        self._absent(folder, name)
        file = File(self._new_id(folder, name), mode)
        folder.change({name: file})
        return file

    def make_folder(self, folder: Folder, name: str, mode: int) -> Folder:
        self._absent(folder, name)
        made = Folder(self._new_id(folder, name), mode)
        folder.change({name: made})
        return made

    def write(self, file: File, offset: int, data: bytes) -> None:
        file.change(Write(offset, bytes(data)))

    def resize(self, file: File, length: int) -> None:
        file.change(Resize(length))

    def remove(self, folder: Folder, name: str) -> None:
        node = self.lookup(folder, name)
        if isinstance(node, Folder) and node.entries:
            raise OSError(errno.ENOTEMPTY, name)
        folder.change({name: None})

    def rename(self, folder: Folder, source: str, to: Folder, target: str) -> None:
        if folder is not to:
            # One change in two folders would be two changes on the medium; nobody here needs it.
            raise OSError(errno.EXDEV, source)
        folder.change({source: None, target: self.lookup(folder, source)})

    def sync(self, node: Node) -> None:
        """Put a file's bytes, or a folder's entries, on the medium."""
        owner = self._owners.get(node.node_id, "")
        if owner in self.failing:
            raise OSError(errno.EIO, "the medium fails")
        if owner not in self.lying:
            node.sync()

    def cut(self, keep: Keep, seed: int) -> None:
        """Take the power away: what is not on the medium is gone, but for what ``keep`` lets survive."""
        self.powered = False
        self.cuts += 1
        dice = random.Random(seed)
        for node in _all(self.root):
            _settle(node, keep, dice)

    def restore_power(self) -> None:
        self.powered = True

    def unsynced(self) -> int:
        """How many changes a cut would concern now."""
        return sum(len(node.unsynced) for node in _all(self.root))

    def _absent(self, folder: Folder, name: str) -> None:
        if name in folder.entries:
            raise OSError(errno.EEXIST, name)

    def _new_id(self, folder: Folder, name: str) -> int:
        self._next_id += 1
        self._owners[self._next_id] = name if folder is self.root else self._owners[folder.node_id]
        return self._next_id


def _settle(node: Node, keep: Keep, dice: random.Random) -> None:
    changes = node.unsynced
    kept = 0 if keep is Keep.NOTHING else dice.randint(0, len(changes))
    if isinstance(node, Folder):
        for entry_change in node.unsynced[:kept]:
            _rename_all(node.durable, entry_change)
        node.entries = dict(node.durable)
    else:
        if keep is Keep.PREFIX:
            _keep_prefix(node, kept, dice)
        elif keep is Keep.SECTORS:
            _keep_sectors(node, dice)
        node.content = bytearray(node.durable)
    node.unsynced = []


def _keep_prefix(file: File, kept: int, dice: random.Random) -> None:
    for change in file.unsynced[:kept]:
        change.apply(file.durable)
    torn = file.unsynced[kept] if kept < len(file.unsynced) else None
    if isinstance(torn, Write):
        edges = _edges(torn)
        Write(torn.offset, torn.data[: dice.choice(edges) - torn.offset]).apply(file.durable)


def _keep_sectors(file: File, dice: random.Random) -> None:
    for change in file.unsynced:
        if isinstance(change, Resize):
            # Lengths change in order, with the journal of the file system.
            change.apply(file.durable)
            continue
        edges = [*_edges(change), change.offset + len(change.data)]
        for start, end in itertools.pairwise(edges):
            if dice.random() < 0.5:
                Write(start, change.data[start - change.offset : end - change.offset]).apply(file.durable)
    if dice.random() < 0.5:
        # The length came through, the last sectors did not.
        _lengthen(file.durable, len(file.content))


def _edges(write: Write) -> list[int]:
    """The beginning of a write, and each sector's edge within it."""
    first = (write.offset // SECTOR_BYTES + 1) * SECTOR_BYTES
    return [write.offset, *range(first, write.offset + len(write.data), SECTOR_BYTES)]


def _rename_all(entries: dict[str, Node], change: dict[str, Node | None]) -> None:
    for name, node in change.items():
        if node is None:
            entries.pop(name, None)
        else:
            entries[name] = node


def _all(folder: Folder) -> Iterator[Node]:
    """All that programs or the medium know of, a folder before what is in it (as it is when its turn comes)."""
    yield folder
    for node in {id(node): node for node in (*folder.durable.values(), *folder.entries.values())}.values():
        if isinstance(node, Folder):
            yield from _all(node)
        else:
            yield node


def _lengthen(content: bytearray, length: int) -> None:
    if length > len(content):
        content.extend(bytes(length - len(content)))
