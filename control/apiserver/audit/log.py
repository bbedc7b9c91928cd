"""Events as lines of a file, which is put aside when it is large; old ones are removed by number and age."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

MEGABYTE = 1 << 20
MEGABYTES_DEFAULT = 100
DAY_S = 86_400
_HEAD = b'{"kind":"Event","apiVersion":"audit.k8s.io/v1",'
_STAMP = "%Y-%m-%dT%H-%M-%S"


def line(event: bytes) -> bytes:
    """Return an event as a line says it: with kind and apiVersion."""
    return _HEAD + event[1:] + b"\n"


class LogFile:
    """Writes events to a file, or to standard output where the path is "-"."""

    name = "log"

    def __init__(
        self,
        path: str,
        *,
        megabytes_max: int = 0,
        backups_max: int = 0,
        age_days_max: int = 0,
        form: Callable[[bytes], bytes] = line,
    ) -> None:
        self._form = form
        self._path = None if path == "-" else Path(path)
        self._bytes_max = (megabytes_max or MEGABYTES_DEFAULT) * MEGABYTE
        self._backups_max = backups_max
        self._age_s_max = age_days_max * DAY_S
        self._file = -1
        self._size = 0

    async def write(self, events: list[bytes]) -> str:
        """Write events with one system call; return why that failed."""
        data = b"".join([self._form(event) for event in events])
        try:
            if self._path is None:
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
            else:
                self._append(self._path, data)
        except OSError as error:
            self._close()
            return f"{self._path or 'standard output'}: {error.strerror}"
        return ""

    async def close(self) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _append(self, path: Path, data: bytes) -> None:
        if self._file < 0:
            self._open(path)
        if self._size and self._size + len(data) > self._bytes_max:
            self._close()
            path.rename(self._aside(path))
            self._open(path)
            self._remove_old(path)
        written = 0
        while written < len(data):
            written += os.write(self._file, data[written:])
        self._size += len(data)

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size

    @staticmethod
    def _aside(path: Path) -> Path:
        """Return a name that no file has: the log's with the time in it."""
        while True:
            now = datetime.now(UTC)
            stamp = f"{now.strftime(_STAMP)}.{now.microsecond // 1000:03d}"
            found = path.with_name(f"{path.stem}-{stamp}{path.suffix}")
            if not found.exists():
                return found
            time.sleep(0.001)

    def _remove_old(self, path: Path) -> None:
        found = sorted(self._backups(path), key=lambda each: each[1], reverse=True)
        oldest = time.time() - self._age_s_max
        for index, (backup, made_at) in enumerate(found):
            if (self._backups_max and index >= self._backups_max) or (self._age_s_max and made_at < oldest):
                backup.unlink(missing_ok=True)

    @staticmethod
    def _backups(path: Path) -> list[tuple[Path, float]]:
        """Return the files that were put aside and when: their names say so."""
        found = []
        for each in path.parent.iterdir():
            if not (each.name.startswith(f"{path.stem}-") and each.suffix == path.suffix):
                continue
            stamp = each.name[len(path.stem) + 1 : len(each.name) - len(path.suffix)]
            try:
                made = datetime.strptime(stamp.partition(".")[0], _STAMP).replace(tzinfo=UTC)
            except ValueError:
                continue
            milliseconds = stamp.partition(".")[2]
            found.append((each, made.timestamp() + (int(milliseconds) / 1000 if milliseconds.isdecimal() else 0.0)))
        return found
