"""Protobuf fields put together by hand, where finished bytes are joined instead of messages being built."""

from __future__ import annotations

_SMALL = [bytes((value,)) for value in range(0x80)]


def varint(value: int) -> bytes:
    """Encode an unsigned (or, as protobuf does, a negative 64-bit) integer."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    value &= (1 << 64) - 1
    parts = bytearray()
    while value >= 0x80:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


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
