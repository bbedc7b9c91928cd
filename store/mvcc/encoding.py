"""Protobuf fields put together by hand, where finished bytes are joined instead of messages being built."""

from __future__ import annotations

from functools import lru_cache

_SMALL = [bytes((value,)) for value in range(0x80)]
_CONTINUED = [bytes((value | 0x80,)) for value in range(0x80)]

_KEY, _VALUE = 0x0A, 0x12
"""Tags of the first two fields of a PutRequest; an InternalRequest's put has the first one, too."""
_PUT_HEAD = b"\x0a"


def varint(value: int) -> bytes:
    """Encode an unsigned (or, as protobuf does, a negative 64-bit) integer."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    value &= (1 << 64) - 1
    # Revisions that follow each other share all but their last seven bits.
    return _CONTINUED[value & 0x7F] + _upper(value >> 7)


@lru_cache(maxsize=1024)
def _upper(value: int) -> bytes:
    return varint(value)


def tag(number: int, wire_type: int) -> bytes:
    """Encode what stands before a field's content; type 0 is a varint, 2 a length and bytes."""
    return varint(number << 3 | wire_type)


def scalar(prefix: bytes, value: int) -> bytes:
    """Encode an integer field; zero is left out, as proto3 wants it."""
    return prefix + varint(value) if value else b""


def block(prefix: bytes, content: bytes) -> bytes:
    """Encode a field of bytes or a message."""
    return prefix + varint(len(content)) + content


def key_of(record: bytes) -> bytes:
    """The key of an encoded ``mvccpb.KeyValue``, which stands first in it."""
    length, position = record[1], 2
    if length >= 0x80:
        length, shift = length & 0x7F, 7
        while True:
            byte = record[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
    return record[position : position + length]


def plain_put(data: bytes, start: int) -> tuple[bytes, bytes, bytes] | None:
    """Cut a ``PutRequest`` of just a key and a value, which ends with ``data``, without decoding it.

    Returns the key, the key as a field, and the value with its length before it. None where it holds anything else, or
    is not encoded in the one way in which encoders do it: then it is to be decoded.
    """
    end = len(data)
    if end < start + 6 or data[start] != _KEY:
        return None
    key_end = start + 2 + data[start + 1]
    if data[start + 1] >= 0x80 or key_end + 2 >= end or data[key_end] != _VALUE:
        return None
    length, value_start = data[key_end + 1], key_end + 2
    if length >= 0x80:
        upper = data[value_start]
        length, value_start = length & 0x7F | (upper & 0x7F) << 7, value_start + 1
        if upper >= 0x80:
            if value_start >= end or not 0 < data[value_start] < 0x80:
                return None
            length, value_start = length | data[value_start] << 14, value_start + 1
        elif not upper:
            return None
    if value_start + length != end or not length or key_end == start + 2:
        return None
    return data[start + 2 : key_end], data[start:key_end], data[key_end + 1 :]


_PLAIN_RANGES = {b"": False, b"\x18\x01": False, b"\x38\x01": True, b"\x18\x01\x38\x01": True}
"""What may follow the key in a plain RangeRequest (a limit of one, serializable), and whether it is serializable."""


def plain_range(body: bytes) -> tuple[bytes, bool] | None:
    """Cut a ``RangeRequest`` for one key as of now without decoding it.

    Returns the key, and whether a serializable read will do. None where it asks for anything else, as ``plain_put``.
    """
    if len(body) < 3 or body[0] != _KEY or not 0 < body[1] < 0x80:
        return None
    key_end = 2 + body[1]
    is_serializable = _PLAIN_RANGES.get(body[key_end:])
    if is_serializable is None or key_end > len(body):
        return None
    return body[2:key_end], is_serializable


def plain_put_request(body: bytes) -> bytes:
    """Wrap an encoded ``PutRequest`` as an ``InternalRequest``, as it is."""
    return _PUT_HEAD + varint(len(body)) + body


def plain_put_of(payload: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Cut an ``InternalRequest`` that holds a plain put and nothing else; None for any other."""
    end = len(payload)
    if end < 8 or payload[0] != _KEY:
        return None
    length = payload[1]
    if length < 0x80:
        start = 2
    elif payload[2] < 0x80:
        length, start = length & 0x7F | payload[2] << 7, 3
    elif payload[3] < 0x80:
        length, start = length & 0x7F | (payload[2] & 0x7F) << 7 | payload[3] << 14, 4
    else:
        return None
    return plain_put(payload, start) if start + length == end else None
