"""The state machine's state as chunks of bytes, and back.

A snapshot is a sequence of bytes; how it is cut into pieces on the way means nothing::

    magic "RAFTSNAP" + version (u16)
    block*                       kind (u8), length (u32), CRC-32 of kind and body (u32), body
      'H'  StateHeader           first, once
      'R'  records               (packed revision: u8 length + bytes, record: u32 length + bytes)*
      'E'  count of records      without it the snapshot is cut short
      'P'  zeros                 perhaps, to fill a file

All integers are big-endian.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator

from proto.raft.state_pb2 import StateHeader

MAGIC = b"RAFTSNAP"
VERSION = 1

_HEAD = struct.Struct(">8sH")
_BLOCK = struct.Struct(">BII")
_COUNT = struct.Struct(">Q")
_LENGTH = struct.Struct(">I")

_BLOCK_RECORDS_MAX = 512
_BLOCK_BYTES_SOFT = 128 * 1024
_BLOCK_BYTES_MAX = 1 << 30
_SECTOR_BYTES = 512


class SnapshotError(ValueError):
    """The bytes are no snapshot, a damaged one, or one of a newer version."""


def encode(header: StateHeader, records: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    """Yield a snapshot, the records read as it goes."""
    yield _HEAD.pack(MAGIC, VERSION) + _block(b"H", header.SerializeToString())
    count = 0
    body = bytearray()
    in_body = 0
    for revision, record in records:
        packed = revision.to_bytes((revision.bit_length() + 7) // 8, "big")
        body.append(len(packed))
        body += packed
        body += _LENGTH.pack(len(record))
        body += record
        in_body += 1
        if in_body >= _BLOCK_RECORDS_MAX or len(body) >= _BLOCK_BYTES_SOFT:
            yield _block(b"R", body)
            count, in_body, body = count + in_body, 0, bytearray()
    if in_body:
        yield _block(b"R", body)
        count += in_body
    yield _block(b"E", _COUNT.pack(count))


def decode(chunks: Iterable[bytes]) -> Iterator[StateHeader | tuple[int, bytes]]:
    """Yield the header, then each (packed revision, record); raise SnapshotError where the bytes are damaged."""
    source = _Source(chunks)
    magic, version = _HEAD.unpack(source.take(_HEAD.size))
    if magic != MAGIC:
        raise SnapshotError("not a snapshot of the store")
    if version != VERSION:
        raise SnapshotError(f"snapshot version {version} is not known here, only {VERSION}")
    kind, body = source.block()
    if kind != b"H":
        raise SnapshotError("the snapshot does not begin with its header")
    yield StateHeader.FromString(body)
    count = 0
    while True:
        kind, body = source.block()
        if kind == b"E":
            break
        if kind != b"R":
            raise SnapshotError(f"unknown block {kind!r} in the snapshot")
        for item in _records(body):
            count += 1
            yield item
    if _COUNT.unpack(body) != (count,):
        raise SnapshotError("the snapshot lacks records")
    if source.has_more():
        kind, body = source.block()
        if kind != b"P" or source.has_more():
            raise SnapshotError("bytes follow the end of the snapshot")


def sealed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Fill a snapshot up to whole sectors and add its SHA-256, as the clients of etcd check it in a saved file."""
    digest = hashlib.sha256()
    size_bytes = 0
    for chunk in chunks:
        digest.update(chunk)
        size_bytes += len(chunk)
        yield chunk
    padding = _block(b"P", bytes(-(size_bytes + _BLOCK.size) % _SECTOR_BYTES))
    digest.update(padding)
    yield padding + digest.digest()


def _block(kind: bytes, body: bytes | bytearray) -> bytes:
    return _BLOCK.pack(kind[0], len(body), zlib.crc32(body, zlib.crc32(kind))) + body


def _records(body: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(body):
        start = position + 1
        position = start + body[position]
        revision = int.from_bytes(body[start:position], "big")
        (length,) = _LENGTH.unpack_from(body, position)
        position += _LENGTH.size
        yield revision, body[position : position + length]
        position += length


class _Source:
    """Bytes by count out of chunks of any size."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise SnapshotError("the snapshot is cut short")
            self._buffer += chunk
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        return taken

    def block(self) -> tuple[bytes, bytes]:
        kind_number, length, checksum = _BLOCK.unpack(self.take(_BLOCK.size))
        if length > _BLOCK_BYTES_MAX:
            raise SnapshotError("a block of the snapshot is damaged")
        kind, body = bytes((kind_number,)), self.take(length)
        if zlib.crc32(body, zlib.crc32(kind)) != checksum:
            raise SnapshotError("a block of the snapshot is damaged")
        return kind, body

    def has_more(self) -> bool:
        while not self._buffer:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._buffer += chunk
        return True
