"""The protobuf wire below messages: tags, numbers, and Kubernetes' types that have a message of their own."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson

from control.api.times import format_time, parse_time

WIRE_VARINT, WIRE_FIXED64, WIRE_BYTES, WIRE_FIXED32 = 0, 1, 2, 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _read_varint(data: bytes, index: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = data[index]
        index += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFF_FFFF_FFFF_FFFF, index
        shift += 7
        if shift > 63:
            raise IndexError("integer overflow")


def write_varint(value: int) -> bytes:
    """Return a number as a varint; negative ones take ten bytes."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def tag(number: int, wire: int) -> bytes:
    """Return the tag that stands before a field."""
    return write_varint(number << 3 | wire)


def read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield each field's number and its varint or bytes; raises IndexError where the data ends early."""
    index, end = 0, len(data)
    while index < end:
        key, index = _read_varint(data, index)
        wire = key & 7
        if wire == WIRE_VARINT:
            number, index = _read_varint(data, index)
            yield key >> 3, number
            continue
        if wire == WIRE_BYTES:
            size, index = _read_varint(data, index)
        elif wire in (WIRE_FIXED64, WIRE_FIXED32):
            size = 8 if wire == WIRE_FIXED64 else 4
        else:
            raise IndexError(f"illegal wireType {wire}")
        if index + size > end:
            raise IndexError("unexpected EOF")
        yield key >> 3, data[index : index + size]
        index += size


@dataclass(frozen=True)
class Leaf:
    """How a type without a definition stands on the wire."""

    decode: Callable[[Any], Any]
    encode: Callable[[Any], bytes]
    wire: int = WIRE_BYTES


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _decode_time(value: bytes) -> str | None:
    return _time_text(value, micro=False)


def _decode_micro_time(value: bytes) -> str | None:
    return _time_text(value, micro=True)


def _time_text(value: bytes, *, micro: bool) -> str | None:
    parts = dict(read_fields(value))
    if not parts:
        # The zero time is written as an empty message.
        return None
    seconds, nanos = (_signed(int(parts.get(number, 0))) for number in (1, 2))
    return format_time(_EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000), micro=micro)


@lru_cache(maxsize=4096)
def _encode_time(value: str) -> bytes:
    instant = parse_time(value)
    seconds = int((instant.replace(microsecond=0) - _EPOCH).total_seconds())
    nanos = instant.microsecond * 1000
    return tag(1, WIRE_VARINT) + write_varint(seconds) + (tag(2, WIRE_VARINT) + write_varint(nanos))


def _decode_int_or_string(value: bytes) -> int | str:
    parts = dict(read_fields(value))
    if parts.get(1):
        text = parts.get(3, b"")
        return text.decode() if isinstance(text, bytes) else ""
    return _signed(int(parts.get(2, 0)))


def _encode_int_or_string(value: int | str) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return tag(1, WIRE_VARINT) + b"\1" + tag(3, WIRE_BYTES) + write_varint(len(text)) + text
    return tag(1, WIRE_VARINT) + b"\0" + tag(2, WIRE_VARINT) + write_varint(value)


def first_bytes(value: bytes) -> bytes:
    """Return what a message holds as its field 1, the way Kubernetes wraps a single value."""
    found = next((part for number, part in read_fields(value) if number == 1), b"")
    return found if isinstance(found, bytes) else b""


def _wrapped(data: bytes) -> bytes:
    return tag(1, WIRE_BYTES) + write_varint(len(data)) + data


def _decode_json(value: bytes) -> Any:
    raw = first_bytes(value)
    return orjson.loads(raw) if raw else None


def _encode_json(value: Any) -> bytes:
    return _wrapped(orjson.dumps(value))


def _decode_strings(value: bytes) -> list[str]:
    return [part.decode() for number, part in read_fields(value) if number == 1 and isinstance(part, bytes)]


def _encode_strings(value: list[str]) -> bytes:
    return b"".join(_wrapped(item.encode()) for item in value)


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(h|m(?!s)|s|ms|us|µs|ns)")
_UNITS_NS = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 10**3, "µs": 10**3, "ns": 1}


def _decode_duration(value: bytes) -> str:
    parts = dict(read_fields(value))
    total_ns = _signed(int(parts.get(1, 0)))
    sign, total_ns = ("-", -total_ns) if total_ns < 0 else ("", total_ns)
    seconds, rest_ns = divmod(total_ns, 10**9)
    fraction = f".{rest_ns:09d}".rstrip("0") if rest_ns else ""
    hours, minutes = seconds // 3600, seconds // 60 % 60
    text = f"{hours}h{minutes}m" if hours else (f"{minutes}m" if minutes else "")
    return f"{sign}{text}{seconds % 60}{fraction}s"


def _encode_duration(value: str) -> bytes:
    total_ns = sum(int(float(number) * _UNITS_NS[unit]) for number, unit in _DURATION.findall(value))
    return tag(1, WIRE_VARINT) + write_varint(-total_ns if value.startswith("-") else total_ns)


_NUMBER = Leaf(_signed, write_varint, WIRE_VARINT)
_DOUBLE = Leaf(lambda value: struct.unpack("<d", value)[0], lambda value: struct.pack("<d", value), WIRE_FIXED64)
_JSON = Leaf(_decode_json, _encode_json)
LEAVES: dict[str, Leaf] = {
    "string": Leaf(lambda value: value.decode(), lambda value: value.encode()),
    "bool": Leaf(bool, lambda value: b"\1" if value else b"\0", WIRE_VARINT),
    "int32": _NUMBER,
    "int64": _NUMBER,
    "float64": _DOUBLE,
    "double": _DOUBLE,
    "bytes": Leaf(lambda value: base64.b64encode(value).decode(), base64.b64decode),
    "Time": Leaf(_decode_time, _encode_time),
    "MicroTime": Leaf(_decode_micro_time, _encode_time),
    "Duration": Leaf(_decode_duration, _encode_duration),
    "Quantity": Leaf(lambda value: first_bytes(value).decode() or "0", lambda value: _wrapped(str(value).encode())),
    "IntOrString": Leaf(_decode_int_or_string, _encode_int_or_string),
    "StringList": Leaf(_decode_strings, _encode_strings),
    "RawExtension": _JSON,
    "FieldsV1": _JSON,
    "JSON": _JSON,
}
