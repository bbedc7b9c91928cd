"""Reads container logs as the runtime writes them: `TIME STREAM F|P TEXT`, over rotations, and follows them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

READ_BYTES = 64 * 1024
LINE_MAX_BYTES = 1024 * 1024
POLL_S = 0.25


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What part of a log is wanted."""

    follow: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since: float | None = None
    stream: str = "All"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One entry of a log."""

    time: str
    stream: str
    partial: bool
    text: bytes

    def render(self, *, timestamps: bool, continued: bool) -> bytes:
        """Return the entry as it is shown; a continued one carries on a line that was begun."""
        prefix = f"{self.time} ".encode() if timestamps and not continued else b""
        return prefix + self.text + (b"" if self.partial else b"\n")


def parse(line: bytes) -> LogLine | None:
    """PURE: read one line; None where it is not of the runtime's form."""
    parts = line.split(b" ", 3)
    if len(parts) < 4 or parts[1] not in (b"stdout", b"stderr"):
        return None
    return LogLine(parts[0].decode(errors="replace"), parts[1].decode(), parts[2].startswith(b"P"), parts[3])


def wanted(line: LogLine, options: LogOptions) -> bool:
    """PURE: tell whether a line is within time and stream."""
    if options.stream != "All" and line.stream != options.stream.lower():
        return False
    if options.since is None:
        return True
    try:
        return _seconds(line.time) >= options.since
    except ValueError:
        return True


def _seconds(text: str) -> float:
    """Return a time of nanosecond precision as seconds."""
    head, dot, tail = text.partition(".")
    if not dot:
        return datetime.fromisoformat(text).timestamp()
    digits = tail.rstrip("Z")
    zone = "Z"
    for sign in ("+", "-"):
        if sign in digits:
            digits, _, rest = digits.partition(sign)
            zone = sign + rest
    return datetime.fromisoformat(f"{head}.{digits[:6].ljust(6, '0')}{zone}").timestamp()


def files_of(path: Path) -> list[Path]:
    """Return a log's files, oldest first: its rotated parts, then itself."""
    found = sorted(path.parent.glob(f"{path.name}.*")) if path.parent.is_dir() else []
    return [*found, path] if path.exists() else found


def tail_offset(path: Path, lines: int) -> tuple[int, int]:
    """Return where the last `lines` lines of a file begin, and how many there are; read from its end."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        found = 0
        while position > 0:
            step = min(READ_BYTES, position)
            position -= step
            file.seek(position)
            block = file.read(step)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                if position + at == file.seek(0, os.SEEK_END) - 1:
                    continue  # the end of the last line
                found += 1
                if found == lines:
                    return position + at + 1, lines
        return 0, found + 1 if path.stat().st_size else 0


def _starts(paths: list[Path], tail_lines: int | None) -> list[tuple[Path, int]]:
    """Return the files to read with the offsets to begin at."""
    if tail_lines is None:
        return [(path, 0) for path in paths]
    chosen: list[tuple[Path, int]] = []
    left = tail_lines
    for path in reversed(paths):
        if left <= 0:
            if not chosen:
                chosen.append((path, path.stat().st_size))
            break
        offset, lines = tail_offset(path, left)
        chosen.append((path, offset))
        left -= lines
    return list(reversed(chosen))


class LogReader:
    """Reads one instance's log."""

    def __init__(self, path: Path, options: LogOptions, running: Callable[[], bool]) -> None:
        self._path = path
        self._options = options
        self._running = running
        """Says whether more may still be written."""
        self._left = options.limit_bytes
        self._continued: dict[str, bool] = {}

    async def read(self) -> AsyncIterator[bytes]:
        """Yield the log, and what is added to it while it is followed."""
        starts = await asyncio.to_thread(lambda: _starts(files_of(self._path), self._options.tail_lines))
        last: BinaryIO | None = None
        try:
            for path, offset in starts:
                if last is not None:
                    last.close()
                last = path.open("rb")
                last.seek(offset)
                async for piece in self._drain(last):
                    yield piece
                    if self._left == 0:
                        return
            if self._options.follow:
                async for piece in self._follow(last):
                    yield piece
                    if self._left == 0:
                        return
        finally:
            if last is not None:
                last.close()

    async def _follow(self, file: BinaryIO | None) -> AsyncIterator[bytes]:
        current = file
        try:
            while True:
                more = self._running()
                if current is not None:
                    async for piece in self._drain(current):
                        yield piece
                if current is None or self._rotated(current):
                    fresh = self._open()
                    if fresh is not None:
                        if current is not None and current is not file:
                            current.close()
                        current = fresh
                        continue
                if not more:
                    return
                await asyncio.sleep(POLL_S)
        finally:
            if current is not None and current is not file:
                current.close()

    def _open(self) -> BinaryIO | None:
        try:
            return self._path.open("rb")
        except FileNotFoundError:
            return None

    def _rotated(self, file: BinaryIO) -> bool:
        try:
            return os.fstat(file.fileno()).st_ino != self._path.stat().st_ino
        except FileNotFoundError:
            return False

    async def _drain(self, file: BinaryIO) -> AsyncIterator[bytes]:
        """Yield what the file holds from here on, in pieces; an unfinished line is left for later."""
        while True:
            position = file.tell()
            block = file.read(READ_BYTES)
            end = block.rfind(b"\n") + 1
            if not end and len(block) == READ_BYTES:
                block += file.readline(LINE_MAX_BYTES)
                end = len(block)
            if not end:
                file.seek(position)
                return
            file.seek(position + end)
            piece = b"".join(self._render(block[:end]))
            if self._left is not None:
                piece = piece[: self._left]
                self._left -= len(piece)
            if piece:
                yield piece
            if self._left == 0:
                return
            await asyncio.sleep(0)

    def _render(self, block: bytes) -> Iterator[bytes]:
        for raw in block.splitlines():
            line = parse(raw)
            if line is not None and wanted(line, self._options):
                continued = self._continued.get(line.stream, False)
                self._continued[line.stream] = line.partial
                yield line.render(timestamps=self._options.timestamps, continued=continued)
