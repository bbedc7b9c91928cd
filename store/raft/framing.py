"""Frames on a byte stream: four bytes of length, big-endian, and an encoded Frame."""

from __future__ import annotations

from collections.abc import Iterator

from google.protobuf.message import DecodeError

from proto.raft import message_pb2 as pb

FRAME_BYTES_MAX = 16 << 20
_LENGTH_BYTES = 4


class FramingError(Exception):
    """The stream holds something else than frames; whose fault it is, the other side knows."""


def encode(frame: pb.Frame) -> bytes:
    """Return a frame with its length."""
    body = frame.SerializeToString()
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


class FrameReader:
    """Cuts a stream into frames; holds no more than one unfinished frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[pb.Frame]:
        """Take bytes and yield the frames that are now whole."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= _LENGTH_BYTES:
                length = int.from_bytes(buffer[at : at + _LENGTH_BYTES], "big")
                if length > FRAME_BYTES_MAX:
                    raise FramingError(f"a frame of {length} bytes is announced, the limit is {FRAME_BYTES_MAX}")
                end = at + _LENGTH_BYTES + length
                if end > len(buffer):
                    break
                body = bytes(buffer[at + _LENGTH_BYTES : end])
                at = end
                try:
                    yield pb.Frame.FromString(body)
                except DecodeError as error:
                    raise FramingError("a frame does not decode") from error
        finally:
            del buffer[:at]
