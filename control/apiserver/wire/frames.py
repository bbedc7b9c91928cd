"""HTTP/2 frames as bytes, as far as a gRPC client needs them. No input or output."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from control.apiserver.wire.headers import ProtocolError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, STREAMS_MAX, INITIAL_WINDOW, FRAME_MAX = 1, 2, 3, 4, 5
REFUSED_STREAM, CANCEL = 7, 8
HEAD_BYTES = 9
DEFAULT_WINDOW_BYTES = 65_535
DEFAULT_FRAME_BYTES = 16_384
BLOCK_BYTES_MAX = 64 << 10
_pack_head = struct.Struct(">BHBBI").pack


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    size = len(payload)
    return _pack_head(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in pairs))


def window_update(stream: int, size: int) -> bytes:
    """Return a frame that lets the other side send ``size`` bytes more."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int, code: int = CANCEL) -> bytes:
    """Return a frame that ends a stream at once."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def read_settings(payload: bytes) -> dict[int, int]:
    """Return what a SETTINGS frame says."""
    if len(payload) % 6:
        raise ProtocolError("a SETTINGS frame of a wrong size")
    return dict(struct.iter_unpack(">HI", payload))


NO_TABLE = b"\x20"
"""HPACK's change of the table's size to zero, which may stand before a block of headers."""


def _length(size: int) -> bytes:
    """Return a literal's length as HPACK writes it, without Huffman coding."""
    if size < 127:
        return bytes((size,))
    rest, made = size - 127, bytearray((127,))
    while rest >= 128:
        made.append(rest & 0x7F | 0x80)
        rest >>= 7
    made.append(rest)
    return bytes(made)


def literals(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a header block that needs no table, so that it can be sent again and again."""
    return b"".join(b"\0" + _length(len(name)) + name + _length(len(value)) + value for name, value in fields)


def bare(payload: bytes, flags: int) -> bytes:
    """Return a payload without its padding and priority."""
    padding = 0
    if flags & PADDED:
        if not payload or payload[0] >= len(payload):
            raise ProtocolError("more padding than frame")
        padding, payload = payload[0], payload[1:]
    if flags & PRIORITY:
        payload = payload[5:]
    return payload[: len(payload) - padding] if padding else payload
