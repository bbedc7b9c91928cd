"""The files under a data directory: the one door through which log and snapshots reach the disk."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from store.raft.statistics import Histogram, Statistics

logger = logging.getLogger(__name__)

LOCK = "lock"
"""The file that the process holds which works in the directory."""


class DiskFullError(OSError):
    """There is no room; nothing of what was asked for was done, and it may be asked again."""


class File(Protocol):
    """A file open for appending."""

    def write(self, data: bytes) -> None:
        """Append all or, with DiskFullError, nothing; nothing is promised until ``sync``."""
        ...

    def reserve(self, length: int) -> None:
        """Have zeros stand behind the end, where that helps: then a write changes no metadata, and a sync is short.

        They are no part of the file and go when it is closed, but after a crash they may stand there.
        """
        ...

    def sync(self) -> None:
        """Return when all that was written would survive a power loss."""
        ...

    def close(self) -> None:
        """Close without syncing."""
        ...


class Disk(Protocol):
    """One flat directory of files; a simulator puts its own here."""

    def list(self) -> list[str]:
        """Return the names of all files, sorted."""
        ...

    def size(self, name: str) -> int:
        """Return a file's length in bytes."""
        ...

    def read(self, name: str, offset: int = 0, length: int = -1) -> bytes:
        """Return a part of a file; all that follows the offset where length is negative."""
        ...

    def create(self, name: str) -> File:
        """Open an empty file for appending, emptying one that exists; raises DiskFullError where there is no room."""
        ...

    def append(self, name: str) -> File:
        """Open an existing file for appending."""
        ...

    def truncate(self, name: str, length: int) -> None:
        """Cut a file to a length, durably."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Put a synced file into its place, durably."""
        ...

    def sync_names(self) -> None:
        """Have the names of all files on disk."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file."""
        ...


class DirectoryFile:
    """An append-only file of a real directory."""

    def __init__(self, path: Path, flags: int, syncs: Histogram | None = None) -> None:
        self._syncs = syncs
        with _full_told_apart(path):
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o600)
        self._path = path
        self._end = os.fstat(self._descriptor).st_size
        self._is_reserved = False

    def write(self, data: bytes) -> None:
        """Append all of the data; where it does not fit, take back what was written of it."""
        self._write_at(self._end, data)
        self._end += len(data)

    def reserve(self, length: int) -> None:
        """Write zeros behind the end; a disk that has no room for them has perhaps room for data."""
        self._is_reserved = True
        try:
            self._write_at(self._end, bytes(length))
        except DiskFullError:
            logger.debug("no room for a reserve: file=%s", self._path)

    def _write_at(self, offset: int, data: bytes) -> None:
        try:
            with _full_told_apart(self._path):
                written = os.pwrite(self._descriptor, data, offset)
                while written < len(data):
                    written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)
        except DiskFullError:
            os.ftruncate(self._descriptor, self._end)
            raise

    def sync(self) -> None:
        """Have the kernel and the device write data and length; a failure names the file."""
        started_s = time.perf_counter()
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if self._syncs is not None:
            self._syncs.observe(time.perf_counter() - started_s)

    def close(self) -> None:
        """Close the descriptor; what was reserved goes."""
        try:
            if self._is_reserved:
                os.ftruncate(self._descriptor, self._end)
        finally:
            os.close(self._descriptor)


class UnsyncedFile(DirectoryFile):
    """One that leaves it to the kernel when to write: for trials, where nothing has to last."""

    def sync(self) -> None:
        """Promise nothing."""


class DirectoryInUseError(Exception):
    """Another process works in the directory."""


class Directory:
    """A real directory, made where it is missing, that belongs to one process at a time."""

    def __init__(self, path: Path, statistics: Statistics | None = None, *, syncs: bool = True) -> None:
        self.path = path
        self._statistics = statistics or Statistics()
        self._file = DirectoryFile if syncs else UnsyncedFile
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync_way_to(path)
        self._lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DirectoryInUseError(
                f"{path} is in use by another process: stop that one, or give this one a --data-dir of its own"
            ) from error

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._lock)

    def __str__(self) -> str:
        return str(self.path)

    def list(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(entry.name for entry in self.path.iterdir() if entry.is_file() and entry.name != LOCK)

    def size(self, name: str) -> int:
        """Return a file's length in bytes."""
        return (self.path / name).stat().st_size

    def read(self, name: str, offset: int = 0, length: int = -1) -> bytes:
        """Return a part of a file."""
        with (self.path / name).open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def create(self, name: str) -> DirectoryFile:
        """Open an empty file for appending."""
        return self._file(self.path / name, os.O_CREAT | os.O_TRUNC, self._syncs(name))

    def append(self, name: str) -> DirectoryFile:
        """Open an existing file for appending."""
        return self._file(self.path / name, 0, self._syncs(name))

    def _syncs(self, name: str) -> Histogram:
        return self._statistics.snapshot_syncs if ".snapshot" in name else self._statistics.log_syncs

    def truncate(self, name: str, length: int) -> None:
        """Cut a file and sync it."""
        descriptor = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, length)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: str, target: str) -> None:
        """Rename and sync the directory."""
        with _full_told_apart(self.path / target):
            (self.path / source).replace(self.path / target)
        self.sync_names()

    def sync_names(self) -> None:
        """Sync the directory."""
        _sync_directory(self.path)

    def remove(self, name: str) -> None:
        """Remove a file; after a crash it may be back, which its readers bear."""
        (self.path / name).unlink(missing_ok=True)


@contextmanager
def _full_told_apart(path: Path) -> Iterator[None]:
    """Raise DiskFullError where there is no room.

    Used where the kernel says so before it has taken anything on. What a sync says is never told apart: after it
    failed, for whatever reason, nobody knows what is on the disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _sync_way_to(path: Path) -> None:
    """Have a directory's name on disk, and those of all that it lies in, up to the file system's root.

    At every start, since one that was killed may have made them and not synced them. Those of others are left alone.
    """
    path = path.absolute()
    for parent in path.parents:
        if path.is_mount():
            return
        try:
            _sync_directory(parent)
        except PermissionError:
            return
        path = parent


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
