"""Encode set elements' keys and values as the kernel keeps them: pure bytes, and back.

    key       10.96.0.1 . tcp . 80    →  0a600001 06000000 00500000      each part padded to four bytes
    value     10.244.1.2 . 8080       →  the same way
    verdict   goto endpoints-3        →  a verdict attribute
    interval  10.0.0.0/8              →  an element at 10.0.0.0, and one at 11.0.0.0 that ends it

Attributes are written without the flag for nesting, as the kernel itself writes them: what was sent
and what a dump brings can be compared byte for byte.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFTA_ELEM_KEY, NFTA_ELEM_DATA, NFTA_ELEM_FLAGS, NFTA_ELEM_TIMEOUT, NFTA_ELEM_EXPIRATION = 1, 2, 3, 4, 5
NFTA_ELEM_USERDATA, NFTA_ELEM_EXPR, NFTA_ELEM_KEY_END = 6, 7, 10
NFTA_LIST_ELEM = 1
NFTA_COUNTER_BYTES, NFTA_COUNTER_PACKETS = 1, 2
ELEM_INTERVAL_END = 1
KIND_MASK = 0x3FFF
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_PAIR = struct.Struct("=HH")


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one netlink attribute, padded."""
    return _PAIR.pack(4 + len(payload), kind) + payload + b"\0" * (-len(payload) % 4)


def attributes(data: bytes, offset: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Split attributes; of several of one kind the last."""
    found: dict[int, bytes] = {}
    end = len(data) if end is None else end
    while offset + 4 <= end:
        length, kind = _PAIR.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & KIND_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def address(text: str) -> bytes:
    """Encode an IP address."""
    return ipaddress.ip_address(text).packed


@cache
def protocol(name: str) -> bytes:
    """Encode a transport protocol, padded for a concatenation."""
    return bytes((PROTOCOLS[name.lower()], 0, 0, 0))


def port(number: int) -> bytes:
    """Encode a port, padded for a concatenation."""
    return struct.pack(">H2x", number)


def interface(name: str) -> bytes:
    """Encode an interface's name (the type ifname)."""
    return name.encode().ljust(16, b"\0")


def mark(number: int) -> bytes:
    """Encode a packet mark, or any other number that the kernel keeps in the machine's own order."""
    return struct.pack("=I", number)


def concatenation(*parts: bytes) -> bytes:
    """Join the parts of a key or value, each padded to four bytes."""
    return b"".join(part + b"\0" * (-len(part) % 4) for part in parts)


def value(data: bytes) -> bytes:
    """Return a map element's data: plain bytes, such as an address and a port."""
    return attribute(NFTA_DATA_VALUE, data)


def _verdict(code: int, chain: str = "") -> bytes:
    payload = attribute(NFTA_VERDICT_CODE, struct.pack(">i", code))
    if chain:
        payload += attribute(NFTA_VERDICT_CHAIN, chain.encode() + b"\0")
    return attribute(NFTA_DATA_VERDICT, payload)


DROP, ACCEPT, RETURN = _verdict(0), _verdict(1), _verdict(-5)


@cache
def goto(chain: str) -> bytes:
    """Return a map element's data: go to a chain and do not come back."""
    return _verdict(-4, chain)


@cache
def jump(chain: str) -> bytes:
    """Return a map element's data: visit a chain and come back."""
    return _verdict(-3, chain)


@cache
def _frame(key_bytes: int, data_bytes: int) -> tuple[bytes, bytes]:
    """Return what stands before the key, and between key and data, of an element of these sizes."""
    middle = _PAIR.pack(4 + data_bytes, NFTA_ELEM_DATA) if data_bytes else b""
    key_head = _PAIR.pack(8 + key_bytes, NFTA_ELEM_KEY) + _PAIR.pack(4 + key_bytes, NFTA_DATA_VALUE)
    whole = 4 + len(key_head) + key_bytes + len(middle) + data_bytes
    return _PAIR.pack(whole, NFTA_LIST_ELEM) + key_head, middle


def element(
    key: bytes,
    data: bytes = b"",
    *,
    key_end: bytes = b"",
    flags: int = 0,
    timeout_ms: int = 0,
    expires_ms: int = 0,
    comment: str = "",
) -> bytes:
    """Encode one element; `data` comes from `value`, `goto` or `jump`, `key_end` closes a range in a concatenation."""
    if not (key_end or flags or timeout_ms or comment or len(key) & 3 or len(data) & 3):
        head, middle = _frame(len(key), len(data))  # nearly all of them, and five times faster
        return head + key + middle + data
    payload = attribute(NFTA_ELEM_KEY, attribute(NFTA_DATA_VALUE, key))
    if data:
        payload += attribute(NFTA_ELEM_DATA, data)
    if flags:
        payload += attribute(NFTA_ELEM_FLAGS, struct.pack(">I", flags))
    if timeout_ms:
        payload += attribute(NFTA_ELEM_TIMEOUT, struct.pack(">Q", timeout_ms))
    if timeout_ms and expires_ms:
        payload += attribute(NFTA_ELEM_EXPIRATION, struct.pack(">Q", expires_ms))
    if comment:
        text = comment.encode()[:127] + b"\0"
        payload += attribute(NFTA_ELEM_USERDATA, bytes((0, len(text))) + text)
    if key_end:
        payload += attribute(NFTA_ELEM_KEY_END, attribute(NFTA_DATA_VALUE, key_end))
    return attribute(NFTA_LIST_ELEM, payload)


def interval(first: bytes, last: bytes, data: bytes = b"") -> list[bytes]:
    """Encode a range, both ends within it, for a set with one part and `flags interval`."""
    found = [element(first, data)]
    number = int.from_bytes(last, "big") + 1
    if number < 1 << 8 * len(last):
        found.append(element(number.to_bytes(len(last), "big"), flags=ELEM_INTERVAL_END))
    return found


def prefix(network: str) -> tuple[bytes, bytes]:
    """Return the first and the last address of a network."""
    parsed = ipaddress.ip_network(network, strict=False)
    return parsed.network_address.packed, parsed.broadcast_address.packed


@dataclass(frozen=True, slots=True)
class Found:
    """Hold one element as a dump brings it."""

    key: bytes
    data: bytes = b""
    """As `value`, `goto` or `jump` make it."""
    key_end: bytes = b""
    flags: int = 0
    timeout_ms: int = 0
    expires_ms: int = 0
    packets: int = 0
    octets: int = 0
    comment: str = ""

    @property
    def ends_interval(self) -> bool:
        """Whether this is the first address after a range."""
        return bool(self.flags & ELEM_INTERVAL_END)


def encode(pairs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """Encode plain elements, most of them of one size: twice as fast as one by one."""
    key_bytes, data_bytes = len(pairs[0][0]), len(pairs[0][1])
    if key_bytes & 3 or data_bytes & 3:
        return [element(key, data) for key, data in pairs]
    head, middle = _frame(key_bytes, data_bytes)
    return [
        head + key + middle + data if len(key) == key_bytes and len(data) == data_bytes else element(key, data)
        for key, data in pairs
    ]


def _value_of(data: bytes) -> bytes:
    return data[4 : int.from_bytes(data[:2], sys.byteorder)]


def decode(payload: bytes) -> Found:
    """Decode one element's attributes."""
    parts = attributes(payload)
    packets = octets = 0
    if expression := parts.get(NFTA_ELEM_EXPR):
        inner = attributes(expression)
        if inner.get(1) == b"counter\0":
            counters = attributes(inner.get(2, b""))
            octets = int.from_bytes(counters.get(NFTA_COUNTER_BYTES, b""), "big")
            packets = int.from_bytes(counters.get(NFTA_COUNTER_PACKETS, b""), "big")
    userdata = parts.get(NFTA_ELEM_USERDATA, b"")
    return Found(
        key=_value_of(parts.get(NFTA_ELEM_KEY, b"")),
        data=parts.get(NFTA_ELEM_DATA, b""),
        key_end=_value_of(parts.get(NFTA_ELEM_KEY_END, b"")),
        flags=int.from_bytes(parts.get(NFTA_ELEM_FLAGS, b""), "big"),
        timeout_ms=int.from_bytes(parts.get(NFTA_ELEM_TIMEOUT, b""), "big"),
        expires_ms=int.from_bytes(parts.get(NFTA_ELEM_EXPIRATION, b""), "big"),
        packets=packets,
        octets=octets,
        comment=userdata[2 : 1 + userdata[1]].decode(errors="replace") if len(userdata) > 2 else "",
    )


def pairs(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and data of each element in a list of them; the end of a range is part of its key."""
    offset, end = 0, len(data)
    unpack = _PAIR.unpack_from
    while offset + 12 <= end:
        length, _ = unpack(data, offset)
        inner, stop = offset + 4, offset + length
        key = key_end = found = b""
        while inner + 4 <= stop:
            size, kind = unpack(data, inner)
            if kind == NFTA_ELEM_KEY:
                key = data[inner + 8 : inner + unpack(data, inner + 4)[0] + 4]
            elif kind == NFTA_ELEM_DATA:
                found = data[inner + 4 : inner + size]
            elif kind == NFTA_ELEM_KEY_END:
                key_end = data[inner + 8 : inner + unpack(data, inner + 4)[0] + 4]
            inner += max(4, size + 3 & ~3)
        yield key + key_end, found
        offset += max(4, length + 3 & ~3)


def chain_of(data: bytes) -> str:
    """Return the chain that a verdict leads to; empty for other data."""
    verdict = attributes(data).get(NFTA_DATA_VERDICT)
    if verdict is None:
        return ""
    return attributes(verdict).get(NFTA_VERDICT_CHAIN, b"\0").rstrip(b"\0").decode()
