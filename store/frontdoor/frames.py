"""HTTP/2 framing (RFC 9113, sections 4 and 6): bytes to frames and back, without I/O.

What is wrong with a frame is raised as a ``ConnectionFault`` or a ``StreamFault``, the two kinds of error that the
protocol knows, with its code. Everything is parsed from and built as ``bytes``.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client says first."""

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

ACK: Final = 0x1
END_STREAM: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEAD_BYTES: Final = 9
FRAME_BYTES_MAX: Final = 16_384
"""The largest payload that we take, and the smallest bound that a peer may set."""
WINDOW_MAX: Final = 2**31 - 1
STREAM_ID_MAX: Final = 2**31 - 1
INITIAL_WINDOW: Final = 65_535
"""What flow control begins with until something else is said."""

_HEAD = struct.Struct(">HBBBI")
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream and payload."""


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(enum.IntEnum):
    """What an endpoint may say of itself."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


class ConnectionFault(Exception):  # noqa: N818 - the peer's fault
    """The peer broke the protocol so that the connection must end."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class StreamFault(Exception):  # noqa: N818 - the peer's fault
    """The peer broke the protocol on one stream, which must end."""

    def __init__(self, stream_id: int, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.stream_id = stream_id
        self.code = code
        self.text = text


class FrameReader:
    """Cuts what arrives into frames; keeps at most one unfinished frame."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._needed = HEAD_BYTES

    @property
    def kept_bytes(self) -> int:
        """How much of an unfinished frame is kept."""
        return len(self._kept)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that end in ``data``; each must be taken before the next is looked at."""
        kept = self._kept
        if kept:
            kept += data
            if len(kept) < self._needed:
                return
            data = bytes(kept)
            kept.clear()
        unpack, position, end = _HEAD.unpack_from, 0, len(data)
        self._needed = HEAD_BYTES
        while end - position >= HEAD_BYTES:
            high, low, kind, flags, stream_id = unpack(data, position)
            length = high << 8 | low
            if length > FRAME_BYTES_MAX:
                raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            start = position + HEAD_BYTES
            if start + length > end:
                self._needed = HEAD_BYTES + length
                break
            position = start + length
            yield kind, flags, stream_id & STREAM_ID_MAX, data[start:position]
        if position < end:
            kept += data[position:]


def unpadded(payload: bytes) -> bytes:
    """The payload of a padded frame without its padding."""
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
    end = len(payload) - payload[0]
    if end < 1:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "padding is longer than its frame")
    return payload[1:end]


def fragment(flags: int, payload: bytes) -> bytes:
    """The part of a header block that a HEADERS frame carries."""
    if flags & PADDED:
        payload = unpadded(payload)
    if flags & WITH_PRIORITY:
        if len(payload) < 5:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "HEADERS without the priority that its flag promises")
        payload = payload[5:]
    return payload


def parse_settings(flags: int, stream_id: int, payload: bytes) -> list[tuple[int, int]]:
    """The settings of a frame in their order; an acknowledgement has none."""
    if stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
    if len(payload) % 6 or (flags & ACK and payload):
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    settings = list(_SETTING.iter_unpack(payload))
    for setting, value in settings:
        if setting == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")
        if setting == Setting.INITIAL_WINDOW_SIZE and value > WINDOW_MAX:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE of {value}")
        if setting == Setting.MAX_FRAME_SIZE and not FRAME_BYTES_MAX <= value < 2**24:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {value}")
    return settings


def parse_window_update(stream_id: int, payload: bytes) -> int:
    """By how much a window grows."""
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes")
    increment: int = _U32.unpack(payload)[0] & WINDOW_MAX
    if not increment:
        if stream_id:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
    return increment


def parse_rst_stream(stream_id: int, payload: bytes) -> int:
    """Why the peer gives up a stream."""
    if len(payload) != 4:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes")
    if not stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on no stream")
    code: int = _U32.unpack(payload)[0]
    return code


def check_priority(stream_id: int, payload: bytes) -> None:
    """Refuse a PRIORITY frame that is none; its content is not used."""
    if not stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
    if len(payload) != 5:
        raise StreamFault(stream_id, ErrorCode.FRAME_SIZE_ERROR, f"PRIORITY of {len(payload)} bytes")


def check_ping(stream_id: int, payload: bytes) -> None:
    """Refuse a PING frame that is none."""
    if stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
    if len(payload) != 8:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes")


def check_goaway(stream_id: int, payload: bytes) -> None:
    """Refuse a GOAWAY frame that is none."""
    if stream_id:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
    if len(payload) < 8:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")


def encode(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame."""
    length = len(payload)
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id) + payload


def encode_settings(settings: dict[Setting, int]) -> bytes:
    """What we say of ourselves."""
    return encode(SETTINGS, 0, 0, b"".join(_SETTING.pack(setting, value) for setting, value in settings.items()))


def encode_headers(stream_id: int, block: bytes, frame_bytes_max: int, *, ends_stream: bool) -> bytes:
    """A header block, in as many frames as it takes."""
    flags = END_STREAM if ends_stream else 0
    if len(block) <= frame_bytes_max:
        return encode(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[start : start + frame_bytes_max] for start in range(0, len(block), frame_bytes_max)]
    frames = [encode(HEADERS, flags, stream_id, parts[0])]
    frames += [encode(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    frames.append(encode(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(frames)


def encode_window_update(stream_id: int, increment: int) -> bytes:
    """Room for so many more bytes."""
    return encode(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


def encode_rst_stream(stream_id: int, code: int) -> bytes:
    """The end of a stream."""
    return encode(RST_STREAM, 0, stream_id, _U32.pack(code))


def encode_goaway(last_stream_id: int, code: int, text: str = "") -> bytes:
    """The end of a connection: streams above the last one are not served."""
    return encode(GOAWAY, 0, 0, _U32.pack(last_stream_id) + _U32.pack(code) + text.encode()[:256])
