"""Reads header blocks (HPACK, RFC 7541) of servers that were told to use no dynamic table.

What a call's head says fits into a few dozen different blocks, so each is read once, bit by bit, and remembered.
Huffman codes are canonical: their lengths say all; symbols stand here by length, as ranges.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

_SYMBOLS = {
    5: "48-50 97 99 101 105 111 115-116",
    6: "32 37 45-47 51-57 61 65 95 98 100 102-104 108-110 112 114 117",
    7: "58 66-87 89 106-107 113 118-122",
    8: "38 42 44 59 88 90",
    10: "33-34 40-41 63",
    11: "39 43 124",
    12: "35 62",
    13: "0 36 64 91 93 126",
    14: "94 125",
    15: "60 96 123",
    19: "92 195 208",
    20: "128 130-131 162 184 194 224 226",
    21: "153 161 167 172 176-177 179 209 216-217 227 229-230",
    22: "129 132-134 136 146 154 156 160 163-164 169-170 173 178 181 185-187 189-190 196 198 228 232-233",
    23: "1 135 137-141 143 147 149-152 155 157-158 165-166 168 174-175 180 182-183 188 191 197 231 239",
    24: "9 142 144-145 148 159 171 206 215 225 236-237",
    25: "199 207 234-235",
    26: "192-193 200-202 205 210 213 218-219 238 240 242-243 255",
    27: "203-204 211-212 214 221-223 241 244-248 250-254",
    28: "2-8 11-12 14-21 23-31 127 220 249",
    30: "10 13 22 256",
}
_END_OF_STRING = 256
_STATUS_CODES = {8: b"200", 9: b"204", 10: b"206", 11: b"304", 12: b"400", 13: b"404", 14: b"500"}
"""Static table entries that are whole fields which matter: place → value of :status."""
_STATIC_ENTRIES = 61
_HEADS_KEPT = 256


class ProtocolError(Exception):
    """The other side does not speak HTTP/2, or not as it was told to."""


class Head(NamedTuple):
    """What matters of a block of headers or trailers; -1 for what it does not say."""

    http_status: int
    grpc_status: int
    message: str


def _codes() -> dict[tuple[int, int], int]:
    """Return the symbol of each (length, code)."""
    made: dict[tuple[int, int], int] = {}
    code = before = 0
    for length, text in _SYMBOLS.items():
        code <<= length - before
        before = length
        for part in text.split():
            first, _, last = part.partition("-")
            for symbol in range(int(first), int(last or first) + 1):
                made[length, code] = symbol
                code += 1
    return made


_CODES = _codes()


def huffman(data: bytes) -> bytes:
    """Return the text that was coded; raises ProtocolError."""
    made = bytearray()
    code = length = 0
    for byte in data:
        for shift in range(7, -1, -1):
            code, length = code << 1 | (byte >> shift & 1), length + 1
            symbol = _CODES.get((length, code))
            if symbol is not None:
                if symbol == _END_OF_STRING:
                    raise ProtocolError("a text ends before its end")
                made.append(symbol)
                code = length = 0
            elif length > 30:
                raise ProtocolError("no such Huffman code")
    if length > 7 or code != (1 << length) - 1:
        raise ProtocolError("a text is padded with something else than ones")
    return bytes(made)


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """Return a number that begins in the last bits of a byte, and where it ends."""
    mask = (1 << bits) - 1
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 28:
            raise ProtocolError("a number is too large")


def _text(block: bytes, at: int) -> tuple[bytes, int]:
    is_coded = block[at] & 0x80
    size, at = _integer(block, at, 7)
    raw = block[at : at + size]
    if len(raw) < size:
        raise ProtocolError("a text is cut off")
    return huffman(raw) if is_coded else raw, at + size


def fields(block: bytes) -> dict[bytes, bytes]:
    """Return a block's fields; of those named by the static table, only :status. Raises ProtocolError."""
    found: dict[bytes, bytes] = {}
    at = 0
    try:
        while at < len(block):
            first = block[at]
            if first & 0x80:
                place, at = _integer(block, at, 7)
                if place in _STATUS_CODES:
                    found[b":status"] = _STATUS_CODES[place]
            elif first & 0xE0 == 0x20:
                # A change of the table's size: whatever it is, nothing may stand there.
                _, at = _integer(block, at, 5)
                continue
            else:
                place, at = _integer(block, at, 6 if first & 0x40 else 4)
                name = b":status" if place in _STATUS_CODES else b""
                if not place:
                    name, at = _text(block, at)
                value, at = _text(block, at)
                if name:
                    found[name] = value
            if place > _STATIC_ENTRIES:
                raise ProtocolError("a dynamic table was forbidden")
    except IndexError:
        raise ProtocolError("headers are cut off") from None
    return found


class HeadReader:
    """Reads the header blocks of one connection."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Return a block's head; raises ProtocolError."""
        known = self._known.get(block)
        if known is None:
            found = fields(block)
            try:
                known = Head(
                    int(found.get(b":status", b"-1")),
                    int(found.get(b"grpc-status", b"-1")),
                    unquote(found.get(b"grpc-message", b"").decode("latin-1")),
                )
            except ValueError as error:
                raise ProtocolError(f"unreadable headers: {error}") from None
            if len(self._known) < _HEADS_KEPT:
                self._known[block] = known
        return known
