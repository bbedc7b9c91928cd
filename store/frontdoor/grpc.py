"""gRPC over HTTP/2, as values: messages with their prefix, timeouts, statuses, what a request's head asks for.

Answers are sent uncompressed; requests may be compressed with gzip.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from store.api.errors import Code, EtcdError
from store.api.table import Call, ServiceTable, Streaming, Unary
from store.frontdoor.headers import Head, literal, status
from store.frontdoor.outgoing import constant_headers

PREFIX_BYTES = 5
_PREFIX = struct.Struct(">BI")
_STATUS_TEXT_CHARACTERS_MAX = 2048
_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NO_METADATA = {b"te", b"content-type", b"content-length"}
_CONTENT_TYPE = literal(b"content-type", b"application/grpc")

ANSWER_BLOCK = status(200) + _CONTENT_TYPE
OK_TRAILERS = literal(b"grpc-status", b"0")
ANSWER_HEADERS = constant_headers(ANSWER_BLOCK, ends_stream=False)
OK_TRAILERS_FRAME = constant_headers(OK_TRAILERS, ends_stream=True)
ACCEPTED_ENCODINGS = literal(b"grpc-accept-encoding", b"identity,gzip")


@dataclass(slots=True, eq=False)
class Request:
    """What the head of a gRPC request asks for."""

    path: str
    method: Unary | Streaming | None
    refusal: EtcdError | None
    """Why it cannot be served."""
    metadata: Mapping[str, str]
    is_gzip: bool
    anonymous: Call
    """The call of a client without a certificate; the same object for each call of the same head."""


def is_grpc(head: Head) -> bool:
    """Whether a request is one of gRPC, by its content type."""
    kind = head.fields.get(b"content-type", b"")
    return kind == b"application/grpc" or kind[:17] in (b"application/grpc+", b"application/grpc;")


def request_of(head: Head, table: ServiceTable) -> Request:
    """What a head asks for."""
    path = head.path.decode("latin-1")
    method = table.get(path)
    metadata = {
        name.decode("latin-1"): value.decode("utf-8", "replace")
        for name, value in head.fields.items()
        if name not in _NO_METADATA and name[:5] != b"grpc-" and name[-4:] != b"-bin"
    }
    refusal: EtcdError | None = None
    encoding = head.fields.get(b"grpc-encoding", b"identity")
    if head.method != b"POST":
        refusal = EtcdError(Code.INTERNAL, f"http2: method {head.method.decode('latin-1')} is not POST")
    elif method is None:
        refusal = EtcdError(Code.UNIMPLEMENTED, _unknown(path, table))
    elif encoding not in (b"identity", b"gzip"):
        name = encoding.decode("latin-1")
        refusal = EtcdError(Code.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{name}"')
    return Request(path, method, refusal, metadata, encoding == b"gzip", Call(metadata))


def _unknown(path: str, table: ServiceTable) -> str:
    """Say, as grpc-go does, what of a method's path is not known."""
    service, separator, method = path.removeprefix("/").rpartition("/")
    if not separator or not path.startswith("/"):
        return f"malformed method name: {path!r}"
    if any(known.startswith(f"/{service}/") for known in table):
        return f"unknown method {method} for service {service}"
    return f"unknown service {service}"


def parse_timeout(value: bytes) -> float | None:
    """The seconds that a client gives a call; None where it says nothing sensible."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNITS_S[match[2]] if match else None


def frame_message(message: bytes) -> bytes:
    """A message with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def sole_message(payload: bytes) -> bytes | None:
    """The message that a payload is, where it is exactly one and uncompressed."""
    if len(payload) >= PREFIX_BYTES and not payload[0] and int.from_bytes(payload[1:5], "big") == len(payload) - 5:
        return payload[5:]
    return None


class MessageReader:
    """Cuts a request's body into messages; keeps at most one unfinished message."""

    def __init__(self, bytes_max: int, *, is_gzip: bool) -> None:
        self._bytes_max = bytes_max
        self._is_gzip = is_gzip
        self._kept = bytearray()
        self._needed = PREFIX_BYTES

    @property
    def kept_bytes(self) -> int:
        """How much of an unfinished message is kept."""
        return len(self._kept)

    def feed(self, payload: bytes) -> list[bytes]:
        """The messages that end in a payload; refuses what is too large before it is here."""
        self._kept += payload
        messages: list[bytes] = []
        kept, position = self._kept, 0
        while len(kept) - position >= PREFIX_BYTES:
            is_compressed, length = _PREFIX.unpack_from(kept, position)
            if length > self._bytes_max:
                raise _too_large(length, self._bytes_max)
            end = position + PREFIX_BYTES + length
            if end > len(kept):
                break
            messages.append(self._plain(is_compressed, bytes(kept[position + PREFIX_BYTES : end])))
            position = end
        del kept[:position]
        return messages

    def _plain(self, is_compressed: int, message: bytes) -> bytes:
        if not is_compressed:
            return message
        if is_compressed > 1:
            raise EtcdError(Code.INTERNAL, f"grpc: received unexpected payload format {is_compressed}")
        if not self._is_gzip:
            raise EtcdError(Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding")
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            plain = inflater.decompress(message, self._bytes_max + 1)
        except zlib.error as error:
            raise EtcdError(Code.INTERNAL, f"grpc: failed to decompress the received message: {error}") from error
        if len(plain) > self._bytes_max:
            raise _too_large(len(plain), self._bytes_max)
        if not inflater.eof:
            raise EtcdError(Code.INTERNAL, "grpc: failed to decompress the received message: unexpected EOF")
        return plain


def _too_large(length: int, bytes_max: int) -> EtcdError:
    return EtcdError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({length} vs. {bytes_max})")


def trailers(error: EtcdError) -> bytes:
    """The block that ends a call with a refusal."""
    block = literal(b"grpc-status", b"%d" % error.code)
    if error.text:
        block += literal(b"grpc-message", percent_encode(error.text[:_STATUS_TEXT_CHARACTERS_MAX]))
    if error.code == Code.UNIMPLEMENTED:
        block += ACCEPTED_ENCODINGS
    return block


def percent_encode(text: str) -> bytes:
    """A status text as it may stand in a header."""
    raw = text.encode("utf-8", "replace")
    return b"".join(bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw)
