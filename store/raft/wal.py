"""The write-ahead log: what a member promised, on disk before the promise leaves.

Records (see ``records``) stand in segments ``<sequence>.wal``. Appending only buffers; ``sync`` writes everything that
waits in one write and one fdatasync. A segment above its size is followed by a new one, which begins with the state
that would be lost with older ones, so that whole segments can be dropped once a snapshot stands for their entries.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn

from store.raft.disk import Disk, DiskFullError, File
from store.raft.records import Damage, Kind, encode, read

logger = logging.getLogger(__name__)

Entry = tuple[bytes, int, int]
"""A log entry as PySyncObj keeps it: command, index, term."""

MAGIC = b"RAFTSWAL"
VERSION = 2
"""Version 1 had no membership: its members were those of the first hour for good."""
SUFFIX = ".wal"
TEMPORARY = ".tmp"
SEGMENT_BYTES = 64 << 20
RESERVE_BYTES = 1 << 20
LARGE_WRITE_BYTES = 32 << 10

_HEADER = struct.Struct("<8sIIQQQI4x")
_TWO = struct.Struct("<QQ")
_ONE = struct.Struct("<Q")

_REMEDY = (
    "This member's log cannot be trusted. Move its data directory away, remove the member from the cluster and add it "
    "anew, or restore the directory from a backup; the other members are not concerned."
)


class WalError(Exception):
    """The log on disk cannot be used as it is."""


class CorruptWalError(WalError):
    """A record that had been on disk no longer checks."""

    def __init__(self, disk: Disk, name: str, offset: int, what: str) -> None:
        super().__init__(f"{disk}/{name}: {what} at byte {offset}. {_REMEDY}")
        self.name = name
        self.offset = offset


class NewerWalError(WalError):
    """A later version of Raftsman wrote this log."""


class FailedWalError(WalError, OSError):
    """The disk failed under the log."""


class ForeignWalError(WalError):
    """The log belongs to another member or another cluster."""


@dataclass
class Recovered:
    """What the log said when it was opened."""

    entries: list[Entry] = field(default_factory=list)
    term: int = 0
    vote: int = 0
    commit: int = 0
    base_index: int = 0
    base_term: int = 0
    start: int = 0
    """Number of this start of the member; each is higher than the one before."""
    members: bytes = b""
    """The membership that the log starts from."""
    first_members: bytes = b""
    """Ids and names as version 1 of the format kept them."""
    version: int = VERSION
    """Format of the newest segment."""
    cut_bytes: int = 0
    """Length of a torn tail that was cut."""

    def replay(self, kind: int, payload: bytes) -> str | None:
        """Take one record; return what is wrong with it, if anything."""
        if kind == Kind.ENTRY:
            index, term = _TWO.unpack_from(payload)
            if self.entries and index != self.entries[-1][1] + 1:
                return f"entry {index} follows entry {self.entries[-1][1]}"
            self.entries.append((payload[_TWO.size :], index, term))
        elif kind == Kind.TRUNCATE:
            (index,) = _ONE.unpack(payload)
            keep = index - self.entries[0][1] if self.entries else 0
            del self.entries[max(keep, 0) :]
        elif kind == Kind.HARD_STATE:
            self.term, self.vote = _TWO.unpack(payload)
        elif kind == Kind.COMMIT:
            (self.commit,) = _ONE.unpack(payload)
        elif kind == Kind.BASE:
            self._move_base(*_TWO.unpack(payload))
        elif kind == Kind.METADATA:
            (self.start,) = _ONE.unpack_from(payload)
            self.first_members = payload[_ONE.size :]
        elif kind == Kind.MEMBERS:
            self.members = payload
        else:
            return f"record of unknown kind {kind}"
        return None

    def _move_base(self, index: int, term: int) -> None:
        if index <= self.base_index:
            # A segment repeats at its head what is known; it says nothing new.
            return
        self.base_index, self.base_term = index, term
        if self.entries and index >= self.entries[0][1]:
            # Otherwise the entries up to this base went with a dropped segment, and those that follow are good.
            self.entries = suffix_after(self.entries, index, term)


def suffix_after(entries: list[Entry], index: int, term: int) -> list[Entry]:
    """Return the entries that follow a snapshot's last one, none where the log had another entry in its place."""
    if not entries or index > entries[-1][1]:
        return []
    first = entries[0][1]
    if index < first:
        return entries if index == first - 1 else []
    return entries[index - first + 1 :] if entries[index - first][2] == term else []


@dataclass
class _Segment:
    name: str
    sequence: int
    last_index: int = 0
    """Highest index of an entry written here."""


class Wal:
    """The log of one member; not safe for use by several threads."""

    def __init__(self, disk: Disk, cluster_id: int, member_id: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._disk = disk
        self._identity = (cluster_id, member_id)
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._file: File | None = None
        self._offset = 0
        self._durable = 0
        self._reserved_to = 0
        self._crc = 0
        self._buffer: list[bytes] = []
        self._carried: dict[int, bytes] = {}
        self._failed: FailedWalError | None = None
        self.syncs = 0

    @property
    def dirty(self) -> bool:
        """Whether something waits for ``sync``."""
        return bool(self._buffer)

    def open(
        self, members: bytes = b"", now_s: int = 0, check_first: Callable[[bytes], None] = lambda _members: None
    ) -> Recovered:
        """Read all segments, cut a torn tail, note this start and return what the log says.

        A log without a membership begins with ``members``; ``check_first`` may refuse that to one of version 1.

        The names that are read may be those of a process that was killed before it had them on disk: they are now.
        The start's number follows the clock where it can, so that a member that lost its disk uses none twice.
        """
        self._disk.sync_names()
        names = [name for name in self._disk.list() if name.endswith(SUFFIX)]
        for name in self._disk.list():
            if name.endswith(SUFFIX + TEMPORARY):
                self._disk.remove(name)
        recovered = Recovered()
        for name in names:
            self._read_segment(name, recovered, last=name == names[-1])
        if recovered.entries and recovered.entries[0][1] != max(recovered.base_index, 1) + 1:
            raise CorruptWalError(self._disk, names[0], 0, f"entries before {recovered.entries[0][1]} are missing")
        recovered.start = max(recovered.start + 1, now_s)
        if not recovered.members:
            check_first(recovered.first_members)
            recovered.members = members
        self._carry(recovered)
        if self._segments and recovered.version == VERSION:
            self._file = self._disk.append(self._segments[-1].name)
            self.append(Kind.METADATA, _ONE.pack(recovered.start))
            self.append(Kind.MEMBERS, recovered.members)
            self.sync()
        else:
            # A segment of an older format gets nothing new: its readers would not understand it.
            self._begin_segment(self._segments[-1].sequence + 1 if self._segments else 1)
        return recovered

    def append_entry(self, entry: Entry) -> None:
        """Buffer a log entry."""
        command, index, term = entry
        self.append(Kind.ENTRY, _TWO.pack(index, term) + command)
        self._segments[-1].last_index = max(self._segments[-1].last_index, index)

    def truncate(self, index: int) -> None:
        """Buffer that the entries from an index on are void."""
        self.append(Kind.TRUNCATE, _ONE.pack(index))

    def set_hard_state(self, term: int, vote: int) -> None:
        """Buffer a new term or vote."""
        self.append(Kind.HARD_STATE, _TWO.pack(term, vote))

    def set_commit(self, index: int) -> None:
        """Buffer a commit index as a hint for the next start."""
        self.append(Kind.COMMIT, _ONE.pack(index))

    def set_base(self, index: int, term: int, members: bytes = b"") -> None:
        """Buffer that a snapshot stands for everything up to an index, and who the members were then."""
        if members:
            self.append(Kind.MEMBERS, members)
        self.append(Kind.BASE, _TWO.pack(index, term))

    def append(self, kind: Kind, payload: bytes) -> None:
        """Buffer one record."""
        record, self._crc = encode(kind, payload, self._crc, self._durable)
        self._buffer.append(record)
        if kind not in (Kind.ENTRY, Kind.TRUNCATE):
            self._carried[kind] = payload

    def sync(self) -> None:
        """Have everything that was appended on disk; start a new segment where this one is full.

        Where there is no room, DiskFullError says so, everything still waits, and ``sync`` may be tried again. After
        any other failure nobody knows what the disk holds (the kernel may drop the pages), so the log refuses to go on.
        """
        if self._failed is not None:
            raise self._failed
        if not self._buffer or self._file is None:
            return
        data = b"".join(self._buffer)
        try:
            self._file.write(data)
            self._buffer.clear()
            self._reserve(self._offset + len(data), len(data))
            self._file.sync()
        except DiskFullError:
            raise
        except OSError as error:
            self._fail(error)
        self.syncs += 1
        self._offset += len(data)
        self._durable = self._offset
        if self._offset >= self._segment_bytes:
            try:
                self._begin_segment(self._segments[-1].sequence + 1)
            except DiskFullError:
                # Everything is on disk already; this segment grows until there is room for the next.
                logger.warning("no room for the log's next segment")

    def _fail(self, error: OSError) -> NoReturn:
        name = self._segments[-1].name
        self._failed = FailedWalError(
            f"{self._disk}/{name}: the disk failed while the log was written ({error.strerror}). What it holds now is "
            "not known, so this member stops and promises nothing more. Check the disk before it is started again; "
            "the other members are not concerned."
        )
        raise self._failed from error

    def _reserve(self, end: int, written: int) -> None:
        """Keep room behind the end, so that most syncs need not write the file system's journal.

        There they would wait for those of everybody else on the disk.
        """
        if end > self._reserved_to and self._file is not None:
            length = RESERVE_BYTES if written < LARGE_WRITE_BYTES else 4 * RESERVE_BYTES
            self._file.reserve(length)
            self._reserved_to = end + length

    def drop_through(self, index: int) -> int:
        """Remove the oldest segments that hold only entries up to an index; return how many."""
        dropped = 0
        while len(self._segments) > 1 and self._segments[0].last_index <= index:
            self._disk.remove(self._segments.pop(0).name)
            dropped += 1
        return dropped

    def close(self) -> None:
        """Write what waits and close."""
        if self._file is not None:
            try:
                if self._failed is None:
                    self.sync()
            except DiskFullError:
                logger.warning("closing the log without what found no room; nobody was promised anything of it")
            self._file.close()
            self._file = None

    def _begin_segment(self, sequence: int) -> None:
        name = f"{sequence:016x}{SUFFIX}"
        crc = self._crc
        head = [_encode_header(*self._identity, sequence, crc)]
        for kind, payload in sorted(self._carried.items()):
            record, crc = encode(kind, payload, crc, 0)
            head.append(record)
        data = b"".join(head)
        file = self._create(name, data)
        if self._file is not None:
            self._file.close()
        self._segments.append(_Segment(name, sequence))
        self._crc = crc
        self._file, self._offset, self._durable, self._reserved_to = file, len(data), len(data), 0

    def _create(self, name: str, data: bytes) -> File:
        """Put a segment with its first bytes in its place; where there is no room, nothing has changed."""
        file: File | None = None
        try:
            file = self._disk.create(name + TEMPORARY)
            file.write(data)
            file.sync()
            self._disk.rename(name + TEMPORARY, name)
        except OSError as error:
            if file is not None:
                file.close()
            if isinstance(error, DiskFullError):
                self._disk.remove(name + TEMPORARY)
                raise
            if not self._segments:
                raise
            self._fail(error)
        return file

    def _carry(self, recovered: Recovered) -> None:
        self._carried = {
            Kind.HARD_STATE: _TWO.pack(recovered.term, recovered.vote),
            Kind.COMMIT: _ONE.pack(recovered.commit),
            Kind.BASE: _TWO.pack(recovered.base_index, recovered.base_term),
            Kind.METADATA: _ONE.pack(recovered.start),
            Kind.MEMBERS: recovered.members,
        }

    def _read_segment(self, name: str, recovered: Recovered, last: bool) -> None:
        data = self._disk.read(name)
        recovered.version, sequence, seed = self._check_header(name, data)
        if self._segments and sequence != self._segments[-1].sequence + 1:
            missing = f"{self._segments[-1].sequence + 1:016x}{SUFFIX}"
            raise CorruptWalError(self._disk, name, 0, f"the segment before it, {missing}, is missing")
        if self._segments and seed != self._crc:
            raise CorruptWalError(self._disk, name, 0, "the segment does not continue the one before it")
        segment = _Segment(name, sequence)
        self._segments.append(segment)
        offset, self._crc = _HEADER.size, seed
        while (record := read(data, offset, self._crc)) is not None:
            if isinstance(record, Damage):
                if not (last and record.torn):
                    raise CorruptWalError(self._disk, name, record.offset, "the record does not check")
                recovered.cut_bytes = len(data) - offset
                break
            wrong = recovered.replay(record.kind, record.payload)
            if wrong is not None:
                raise CorruptWalError(self._disk, name, offset, wrong)
            if record.kind == Kind.ENTRY and recovered.entries:
                segment.last_index = max(segment.last_index, recovered.entries[-1][1])
            offset, self._crc = record.end, record.crc
        if offset < len(data):
            # Zeros, or a torn record. Zeros may end an older segment, too; that no record is missing there, the next
            # segment says, which continues the chain.
            self._disk.truncate(name, offset)
        self._offset = self._durable = offset

    def _check_header(self, name: str, data: bytes) -> tuple[int, int, int]:
        if data[:8] != MAGIC or len(data) < _HEADER.size:
            raise CorruptWalError(self._disk, name, 0, "no log segment begins")
        _, version, seed, cluster_id, member_id, sequence, crc = _HEADER.unpack_from(data)
        if version > VERSION:
            raise NewerWalError(
                f"{self._disk}/{name} was written in format version {version} by a newer Raftsman; this one reads "
                f"versions up to {VERSION}. Start the newer version again: nothing was changed."
            )
        if zlib.crc32(data[: _HEADER.size - 8]) != crc:
            raise CorruptWalError(self._disk, name, 0, "the segment's header does not check")
        if (cluster_id, member_id) != self._identity:
            raise ForeignWalError(
                f"{self._disk}/{name} belongs to member {member_id:x} of cluster {cluster_id:x}, not to member "
                f"{self._identity[1]:x} of cluster {self._identity[0]:x}. Check --data-dir, --name, "
                "--initial-cluster and --initial-cluster-token."
            )
        return version, sequence, seed


def identity_on(disk: Disk) -> tuple[int, int] | None:
    """Return the cluster and the member that a log belongs to, None where there is no log."""
    for name in disk.list():
        if name.endswith(SUFFIX):
            head = disk.read(name, 0, _HEADER.size)
            if len(head) == _HEADER.size and head[:8] == MAGIC:
                _, _, _, cluster_id, member_id, _, _ = _HEADER.unpack(head)
                return int(cluster_id), int(member_id)
    return None


def _encode_header(cluster_id: int, member_id: int, sequence: int, seed: int) -> bytes:
    head = _HEADER.pack(MAGIC, VERSION, seed, cluster_id, member_id, sequence, 0)[: _HEADER.size - 8]
    return head + struct.pack("<I4x", zlib.crc32(head))
