"""The client's side of HTTP/2 by hand: frames to send, and what a server has sent."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import hpack

from store.frontdoor import frames
from store.frontdoor.abuse import Limits
from store.frontdoor.connection import Connection
from store.frontdoor.frames import PREFACE, FrameReader, encode
from store.frontdoor.headers import Head, HeadCache, literal
from store.frontdoor.outgoing import Outgoing, Stream

SETTINGS = encode(frames.SETTINGS, 0, 0)
SETTINGS_ACK = encode(frames.SETTINGS, frames.ACK, 0)
START = PREFACE + SETTINGS + SETTINGS_ACK
PUT = "/etcdserverpb.KV/Put"
END = frames.END_STREAM
END_BOTH = frames.END_STREAM | frames.END_HEADERS
NO_TABLE = b"\x20"


def setting(number: int, value: int) -> bytes:
    return struct.pack(">HI", number, value)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def block(*fields: tuple[str, str]) -> bytes:
    return b"".join(literal(name.encode(), value.encode("latin-1")) for name, value in fields)


def request_block(path: str = PUT, *more: tuple[str, str], method: str = "POST") -> bytes:
    head = ((":method", method), (":scheme", "http"), (":path", path), (":authority", "x"))
    return block(*head, ("content-type", "application/grpc"), ("te", "trailers"), *more)


def headers(stream_id: int, content: bytes, flags: int = frames.END_HEADERS) -> bytes:
    """A HEADERS frame whose encoder has given up its table, as it must after our SETTINGS."""
    return encode(frames.HEADERS, flags, stream_id, NO_TABLE + content)


def data(stream_id: int, content: bytes, flags: int = 0) -> bytes:
    return encode(frames.DATA, flags, stream_id, content)


def message(content: bytes, flag: int = 0) -> bytes:
    return struct.pack(">BI", flag, len(content)) + content


def call(stream_id: int, content: bytes = b"", path: str = PUT) -> bytes:
    """A whole unary request."""
    return headers(stream_id, request_block(path)) + data(stream_id, message(content), END)


class Recorder(Stream):
    """A stream that writes down what it is told; it answers requests for /echo."""

    __slots__ = ("events",)

    def __init__(self, outgoing: Outgoing, stream_id: int, head: Head, events: list[tuple[object, ...]]) -> None:
        super().__init__(outgoing, stream_id, head)
        self.events = events

    def opened(self, has_ended: bool) -> None:
        self.events.append(("opened", self.stream_id, self.head.path, has_ended))
        if has_ended:
            self._answer()

    def received(self, payload: bytes, has_ended: bool) -> None:
        self.events.append(("received", self.stream_id, payload, has_ended))
        if has_ended:
            self._answer()

    def closed(self, code: int | None) -> None:
        self.events.append(("closed", self.stream_id, code))

    def window_target(self) -> int:
        return 1 << 20

    def _answer(self) -> None:
        if self.head.path == b"/echo":
            self.outgoing.begin(self, b"\x88")
            self.outgoing.send(self, b"echo")
            self.outgoing.end(self, literal(b"grpc-status", b"0"))


@dataclass
class Side:
    """A server's connection without a world, and what it has sent."""

    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        self.events: list[tuple[object, ...]] = []
        self.now = 0.0
        self.connection = Connection(
            lambda outgoing, stream_id, head: Recorder(outgoing, stream_id, head, self.events),
            lambda: None,
            HeadCache(),
            self.limits,
            self.now,
        )
        self._reader = FrameReader()
        self.sent: list[frames.Frame] = []

    def say(self, *parts: bytes) -> list[frames.Frame]:
        """Give it bytes and return the frames that it sends."""
        for part in parts:
            self.connection.receive(part, self.now)
        return self.take()

    def take(self) -> list[frames.Frame]:
        new = list(self._reader.feed(self.connection.outgoing.take()))
        self.sent += new
        return new

    @property
    def goaway(self) -> tuple[int, int, bytes] | None:
        """Last stream, code and text of the last GOAWAY."""
        for kind, _, _, payload in reversed(self.sent):
            if kind == frames.GOAWAY:
                last, code = struct.unpack(">II", payload[:8])
                return last, code, payload[8:]
        return None

    @property
    def resets(self) -> dict[int, int]:
        """Stream → code of what it reset."""
        return {
            stream_id: int.from_bytes(payload, "big")
            for kind, _, stream_id, payload in self.sent
            if kind == frames.RST_STREAM
        }


class Answers:
    """Reads a server's output on a real connection: header fields, messages and resets by stream."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self._decoder = hpack.Decoder()
        self.fields: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaway: tuple[int, int, bytes] | None = None
        self.frames: list[frames.Frame] = []

    def feed(self, received: bytes) -> None:
        for kind, flags, stream_id, payload in self._reader.feed(received):
            self.frames.append((kind, flags, stream_id, payload))
            if kind == frames.HEADERS:
                found = self._decoder.decode(payload, raw=True)
                fields = {bytes(name).decode(): bytes(value).decode() for name, value in found}
                self.fields.setdefault(stream_id, {}).update(fields)
            elif kind == frames.DATA:
                self.bodies[stream_id] = self.bodies.get(stream_id, b"") + payload
            elif kind == frames.RST_STREAM:
                self.resets[stream_id] = int.from_bytes(payload, "big")
            elif kind == frames.GOAWAY:
                last, code = struct.unpack(">II", payload[:8])
                self.goaway = last, code, payload[8:]
            if kind in (frames.HEADERS, frames.DATA) and flags & frames.END_STREAM:
                self.ended.add(stream_id)
