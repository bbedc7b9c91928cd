"""Snapshots on disk, in files ``<index>-<term>.snapshot``.

A file is a header and then chunks, each with its length and a crc that continues the one before; an empty chunk ends
it. It is written beside its place, synced and renamed, so that a file that stands in its place is whole. The newest
two are kept: the log is cut at the older one, so that a damaged newest file costs nothing.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from store.raft.disk import Disk, DiskFullError, File

logger = logging.getLogger(__name__)

MAGIC = b"RAFTSNPF"
VERSION = 2
MEMBERS_SINCE = 2
"""From this version on the first chunk is the membership; before, members were those of the first hour for good."""
SUFFIX = ".snapshot"
TEMPORARY = ".tmp"
KEPT = 2
CHUNK_BYTES_MAX = 16 << 20

_HEADER = struct.Struct("<8sIQQQI")
_CHUNK = struct.Struct("<II")


class SnapshotError(Exception):
    """A snapshot file cannot be used."""


class NewerSnapshotError(SnapshotError):
    """A later version of Raftsman wrote this snapshot."""


@dataclass(frozen=True, order=True)
class Snapshot:
    """Name of the state after one log entry."""

    index: int
    term: int

    @property
    def name(self) -> str:
        """The file's name; names sort as indexes do."""
        return f"{self.index:016x}-{self.term:016x}{SUFFIX}"


class SnapshotWriter:
    """Writes one snapshot; nothing is in place before ``finish``."""

    def __init__(self, disk: Disk, cluster_id: int, snapshot: Snapshot) -> None:
        self._disk = disk
        self.snapshot = snapshot
        self._temporary = snapshot.name + TEMPORARY
        self._file: File = disk.create(self._temporary)
        self._is_open = True
        header = _HEADER.pack(MAGIC, VERSION, cluster_id, snapshot.index, snapshot.term, 0)[:-4]
        self._crc = zlib.crc32(header)
        try:
            self._file.write(header + struct.pack("<I", self._crc))
        except DiskFullError:
            self.abandon()
            raise

    def write(self, chunk: bytes) -> None:
        """Append one chunk; an empty one is left out."""
        for start in range(0, len(chunk), CHUNK_BYTES_MAX):
            self._write(chunk[start : start + CHUNK_BYTES_MAX])

    def sync(self) -> None:
        """Have what was written on disk, so that the last sync is short."""
        self._file.sync()

    def finish(self) -> None:
        """End the file and put it in its place."""
        self._write(b"")
        self._file.sync()
        self._close()
        self._disk.rename(self._temporary, self.snapshot.name)

    def abandon(self) -> None:
        """Give the snapshot up."""
        self._close()
        self._disk.remove(self._temporary)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._file.close()

    def _write(self, chunk: bytes) -> None:
        self._crc = zlib.crc32(chunk, self._crc)
        self._file.write(_CHUNK.pack(len(chunk), self._crc) + chunk)


class SnapshotReceiver:
    """Takes the file of another member's snapshot piece by piece."""

    def __init__(self, disk: Disk, snapshot: Snapshot, size: int) -> None:
        self._disk = disk
        self.snapshot = snapshot
        self.size = size
        self.received = 0
        self._temporary = snapshot.name + TEMPORARY
        self._file: File = disk.create(self._temporary)

    def take(self, offset: int, data: bytes) -> None:
        """Append a piece that follows what has arrived; others are ignored, as is one for which there is no room."""
        if offset == self.received and offset + len(data) <= self.size:
            try:
                self._file.write(data)
            except DiskFullError as error:
                logger.warning("no room for a snapshot that arrives: %s", error)
                return
            self._file.sync()
            self.received += len(data)

    @property
    def complete(self) -> bool:
        """Whether all bytes are here."""
        return self.received == self.size

    def finish(self, snapshots: Snapshots) -> None:
        """Check the file and put it in its place; remove it where it is damaged (SnapshotError) or finds no room."""
        self._file.close()
        try:
            for _ in snapshots.chunks(self.snapshot, self._temporary):
                pass
        except SnapshotError:
            self._disk.remove(self._temporary)
            raise
        try:
            self._disk.rename(self._temporary, self.snapshot.name)
        except DiskFullError:
            self._disk.remove(self._temporary)
            raise

    def abandon(self) -> None:
        """Give up what has arrived."""
        self._file.close()
        self._disk.remove(self._temporary)


class Snapshots:
    """The snapshot files of one member."""

    def __init__(self, disk: Disk, cluster_id: int) -> None:
        self._disk = disk
        self._cluster_id = cluster_id
        for name in disk.list():
            if name.endswith(SUFFIX + TEMPORARY):
                disk.remove(name)

    def list(self) -> list[Snapshot]:
        """Return all snapshots, oldest first."""
        return sorted(_parse(name) for name in self._disk.list() if name.endswith(SUFFIX))

    def newest(self) -> Snapshot | None:
        """Return the newest snapshot that is whole; a damaged one is passed over with a warning."""
        for snapshot in reversed(self.list()):
            try:
                for _ in self.chunks(snapshot):
                    pass
            except NewerSnapshotError:
                raise
            except SnapshotError as error:
                logger.warning("passing over a damaged snapshot: %s", error)
            else:
                return snapshot
        return None

    def begin(self, snapshot: Snapshot) -> SnapshotWriter:
        """Start to write a snapshot of our own state."""
        return SnapshotWriter(self._disk, self._cluster_id, snapshot)

    def receive(self, snapshot: Snapshot, size: int) -> SnapshotReceiver:
        """Start to take another member's snapshot."""
        return SnapshotReceiver(self._disk, snapshot, size)

    def prune(self) -> Snapshot | None:
        """Remove all but the newest; return the oldest kept where as many are kept as shall be."""
        snapshots = self.list()
        for snapshot in snapshots[:-KEPT]:
            self._disk.remove(snapshot.name)
        return snapshots[-KEPT] if len(snapshots) >= KEPT else None

    def version_of(self, snapshot: Snapshot) -> int:
        """Return the format that a snapshot is written in."""
        header = self._disk.read(snapshot.name, 0, _HEADER.size)
        return int(_HEADER.unpack(header)[1])

    def size(self, snapshot: Snapshot) -> int:
        """Return the length of the snapshot's file."""
        return self._disk.size(snapshot.name)

    def piece(self, snapshot: Snapshot, offset: int, length: int) -> bytes:
        """Return a part of the snapshot's file, as it is sent to another member."""
        return self._disk.read(snapshot.name, offset, length)

    def chunks(self, snapshot: Snapshot, name: str | None = None) -> Iterator[bytes]:
        """Yield the chunks as they were written; raise SnapshotError where they do not check."""
        name = name or snapshot.name
        header = self._disk.read(name, 0, _HEADER.size)
        crc = self._check_header(name, header, snapshot)
        offset = _HEADER.size
        while True:
            head = self._disk.read(name, offset, _CHUNK.size)
            if len(head) < _CHUNK.size:
                raise SnapshotError(f"{self._disk}/{name} ends early, at byte {offset}")
            length, recorded = _CHUNK.unpack(head)
            chunk = self._disk.read(name, offset + _CHUNK.size, length) if 0 < length <= CHUNK_BYTES_MAX else b""
            crc = zlib.crc32(chunk, crc)
            if crc != recorded or len(chunk) != length:
                raise SnapshotError(f"{self._disk}/{name} is damaged at byte {offset}")
            if not length:
                return
            yield chunk
            offset += _CHUNK.size + length

    def _check_header(self, name: str, header: bytes, snapshot: Snapshot) -> int:
        if len(header) < _HEADER.size or header[:8] != MAGIC:
            raise SnapshotError(f"{self._disk}/{name} is no snapshot")
        _, version, cluster_id, index, term, crc = _HEADER.unpack(header)
        if version > VERSION:
            raise NewerSnapshotError(
                f"{self._disk}/{name} was written in format version {version} by a newer Raftsman; this one reads "
                f"versions up to {VERSION}. Start the newer version again: nothing was changed."
            )
        if zlib.crc32(header[:-4]) != crc or (cluster_id, index, term) != (
            self._cluster_id,
            snapshot.index,
            snapshot.term,
        ):
            raise SnapshotError(f"{self._disk}/{name} has a header that does not check")
        return int(crc)


def _parse(name: str) -> Snapshot:
    index, _, term = name.removesuffix(SUFFIX).partition("-")
    return Snapshot(int(index, 16), int(term, 16))
