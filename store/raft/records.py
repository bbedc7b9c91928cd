"""How one record of the write-ahead log looks, and how damage at its end is told from damage in its middle.

Theory of operation. A segment is a header and then records, each aligned to eight bytes::

    header crc (4) | length (4) | durable (4) | crc (4) | kind (1) | mark (3) | payload | trailer (1-8 bytes)

``crc`` covers kind and payload and starts from the crc of the record before it, so that records form a chain and none
can be lost or exchanged unseen. ``durable`` is how many bytes of this segment were on disk when the record was
written. Mark and trailer are never zero.

A crash during a write leaves the end of a file short, or with zeros where sectors were not written: only bytes written
since the last sync are concerned. So a record that does not check is a *torn tail*, to be cut, when it looks partly
unwritten and no later record says that it had been on disk. All else is corruption, and the log is refused.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum

HEADER = struct.Struct("<IIIIB3s")
MARK = b"\xa5\xa5\xa5"
TRAILER = b"\xa5"
ALIGNMENT = 8
SECTOR_BYTES = 512
PAYLOAD_BYTES_MAX = 64 << 20

_COVERED = struct.Struct("<IIIB3s")


class Kind(IntEnum):
    """What a record says."""

    ENTRY = 1
    """One log entry: index, term, command."""
    TRUNCATE = 2
    """Entries from this index on are void."""
    HARD_STATE = 3
    """Term and vote."""
    COMMIT = 4
    """A commit index that was known at this time; a hint."""
    BASE = 5
    """The log starts after this index and term: a snapshot stands for what is before."""
    METADATA = 6
    """Number of this start of the member; in version 1 of the format, the members' names too."""
    MEMBERS = 7
    """The membership that the log starts from."""


@dataclass(frozen=True)
class Record:
    """A record that has been checked."""

    kind: int
    payload: bytes
    end: int
    """Offset of the next record."""
    crc: int
    """The chain's value after this record."""


@dataclass(frozen=True)
class Damage:
    """The record at ``offset`` does not check."""

    offset: int
    torn: bool
    """It was being written when the machine stopped, so it may be cut."""


def encode(kind: int, payload: bytes, crc: int, durable: int) -> tuple[bytes, int]:
    """Return the record's bytes and the chain's next value."""
    crc = checksum(kind, payload, crc)
    covered = _COVERED.pack(len(payload), durable, crc, kind, MARK)
    trailer = TRAILER * (ALIGNMENT - (HEADER.size + len(payload)) % ALIGNMENT)
    return b"".join((struct.pack("<I", zlib.crc32(covered)), covered, payload, trailer)), crc


def checksum(kind: int, payload: bytes, crc: int) -> int:
    """Continue the chain over one record."""
    return zlib.crc32(payload, zlib.crc32(bytes((kind,)), crc))


def read(data: bytes, offset: int, crc: int) -> Record | Damage | None:
    """Read the record at an offset; None where the segment ends."""
    if offset >= len(data) or not any(data[offset : offset + SECTOR_BYTES]):
        return _end_or_damage(data, offset)
    header = _read_header(data, offset)
    if header is None:
        return Damage(offset, torn=_torn_header(data, offset) and not _written_later(data, offset))
    length, _, recorded, kind = header
    start = offset + HEADER.size
    end = end_of(offset, length)
    payload = data[start : start + length]
    if end <= len(data) and checksum(kind, payload, crc) == recorded:
        return Record(kind, payload, end, recorded)
    return Damage(offset, torn=_unwritten(data, start, end) and not _written_later(data, offset))


def end_of(offset: int, length: int) -> int:
    """Offset after the record that starts at ``offset`` and has a payload of ``length`` bytes."""
    size = HEADER.size + length
    return offset + size + ALIGNMENT - size % ALIGNMENT


def _end_or_damage(data: bytes, offset: int) -> Damage | None:
    if not data[offset:].strip(b"\0"):
        return None
    return Damage(offset, torn=not _written_later(data, offset))


def _read_header(data: bytes, offset: int) -> tuple[int, int, int, int] | None:
    raw = data[offset : offset + HEADER.size]
    if len(raw) < HEADER.size:
        return None
    header_crc, length, durable, crc, kind, mark = HEADER.unpack(raw)
    if mark != MARK or length > PAYLOAD_BYTES_MAX or zlib.crc32(raw[4:]) != header_crc:
        return None
    return length, durable, crc, kind


def _torn_header(data: bytes, offset: int) -> bool:
    return _unwritten(data, offset, offset + HEADER.size)


def _unwritten(data: bytes, start: int, end: int) -> bool:
    """Tell whether some of the bytes of a range look as if they had never been written."""
    if end > len(data) or data[end - 1] == 0:
        return True
    while start < end:
        sector_end = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        if not any(data[start:sector_end]):
            return True
        start = sector_end
    return False


def _written_later(data: bytes, offset: int) -> bool:
    """Tell whether a sound record after the damage says that the damaged place had been on disk."""
    at = data.find(MARK, offset + 1)
    while at >= 0:
        start = at - (HEADER.size - len(MARK))
        if start > offset and start % ALIGNMENT == 0:
            header = _read_header(data, start)
            if header is not None and header[1] > offset:
                return True
        at = data.find(MARK, at + 1)
    return False
