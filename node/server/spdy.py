"""PURE: SPDY/3.1 as the runtime's streaming server speaks it, from the client's side; bytes in, frames out.

Only what remote commands need: streams that we open, data both ways, half-closing, pings. The streaming server keeps
no windows, so that none are kept here either.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9
FLAG_FIN = 1
FRAME_MAX_BYTES = 1 << 24
DATA_MAX_BYTES = 32 * 1024

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow "
    "authorization cache-control connection content-base content-encoding content-language content-length "
    "content-location content-md5 content-range content-type date etag expect expires from host if-match "
    "if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma "
    "proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade "
    "user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie "
    "keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,"
    "publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
_LISTED = [word.replace("_", " ").encode() for word in _WORDS.split(" ")]
DICTIONARY = b"".join(struct.pack(">I", len(word)) + word for word in _LISTED) + _TAIL.encode()
"""What both ends' header compression begins with; fixed by the protocol."""


class SpdyError(Exception):
    """The other side does not speak SPDY as it should."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The server has accepted a stream."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes on a stream; `end` says that no more come on it."""

    stream_id: int
    data: bytes
    end: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The server has given a stream up."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class Going:
    """The server takes no more streams."""


Event = Opened | Data | Reset | Going


class SpdyClient:
    """One connection's framing; what is to be sent collects in `outgoing`."""

    def __init__(self) -> None:
        self.outgoing = bytearray()
        self._incoming = bytearray()
        self._compress = zlib.compressobj(zdict=DICTIONARY)
        self._decompress = zlib.decompressobj(zdict=DICTIONARY)
        self._next_id = 1

    def open(self, headers: Mapping[str, str]) -> int:
        """Open a stream with these headers and return its id."""
        stream_id = self._next_id
        self._next_id += 2
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            key, text = name.lower().encode(), value.encode()
            block += struct.pack(">I", len(key)) + key + struct.pack(">I", len(text)) + text
        packed = self._compress.compress(block) + self._compress.flush(zlib.Z_SYNC_FLUSH)
        self._control(SYN_STREAM, 0, struct.pack(">IIH", stream_id, 0, 0) + packed)
        return stream_id

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes on a stream; `end` says that no more come."""
        pieces = [data[at : at + DATA_MAX_BYTES] for at in range(0, len(data), DATA_MAX_BYTES)] or [b""]
        for piece in pieces:
            flags = FLAG_FIN if end and piece is pieces[-1] else 0
            self.outgoing += struct.pack(">II", stream_id, flags << 24 | len(piece)) + piece

    def receive(self, data: bytes) -> Iterator[Event]:
        """Take bytes from the server and yield what they say."""
        self._incoming += data
        while len(self._incoming) >= 8:
            first, second = struct.unpack_from(">II", self._incoming)
            length = second & 0xFFFFFF
            if len(self._incoming) < 8 + length:
                return
            body = bytes(self._incoming[8 : 8 + length])
            del self._incoming[: 8 + length]
            flags = second >> 24
            if first & 0x80000000:
                yield from self._control_frame(first, flags, body)
            else:
                yield Data(first, body, bool(flags & FLAG_FIN))

    def _control_frame(self, first: int, flags: int, body: bytes) -> Iterator[Event]:
        kind = first & 0xFFFF
        if (first >> 16) & 0x7FFF != 3:
            raise SpdyError(f"SPDY version {(first >> 16) & 0x7FFF} is not spoken here")
        if kind in (SYN_REPLY, RST_STREAM, HEADERS, PING) and len(body) < 4:
            raise SpdyError("a control frame is cut short")
        if kind in (SYN_REPLY, HEADERS):
            stream_id = struct.unpack_from(">I", body)[0] & 0x7FFFFFFF
            self._inflate(body[4:])
            if kind == SYN_REPLY:
                yield Opened(stream_id)
            if flags & FLAG_FIN:
                yield Data(stream_id, b"", True)
        elif kind == RST_STREAM:
            stream_id, status = struct.unpack(">II", body.ljust(8, b"\0")[:8])
            yield Reset(stream_id & 0x7FFFFFFF, status)
        elif kind == PING:
            number = struct.unpack(">I", body[:4])[0]
            if number % 2 == 0:  # the server's own; ours would be odd, and we send none
                self._control(PING, 0, body[:4])
        elif kind == GOAWAY:
            yield Going()

    def _inflate(self, block: bytes) -> None:
        """Run a header block through the decompressor: nothing in it matters, but its state does."""
        try:
            self._decompress.decompress(block, FRAME_MAX_BYTES)
        except zlib.error as error:
            raise SpdyError(f"headers cannot be read: {error}") from error

    def _control(self, kind: int, flags: int, body: bytes) -> None:
        self.outgoing += struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body
