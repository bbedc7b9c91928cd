"""Heads of requests (RFC 9113, section 8) out of HPACK blocks, and blocks of our own.

Theory of operation. We announce a header table of size 0. Once the peer has acknowledged that and its encoder has
shrunk its table, what a block says depends on its bytes alone, so that the heads of finished blocks may be kept:
a client that calls the same method again sends the same block again. What gRPC clients do change from call to call is
the deadline's field: it is cut out and put back (decoding a whole block takes more than the rest of a call). Until
then, and for blocks that are new, the ``hpack`` library decodes. Our own blocks use no table either, and are constants
where possible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.huffman_table import decode_huffman

from store.frontdoor.frames import ConnectionFault, ErrorCode

Field = tuple[bytes, bytes]

TABLE_BYTES_BEFORE_SETTINGS = 4096
NO_TABLE = b"\x20"
"""A block's beginning that sets the table's size to 0; goes with the first block that we send."""
TIMEOUT = b"grpc-timeout"
_KEPT_BLOCK_BYTES_MAX = 1024
_KEPT_HEADS_MAX = 4096
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_OF_THE_CONNECTION = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}


@dataclass(slots=True, eq=False)
class Head:
    """The head of a request."""

    method: bytes = b""
    path: bytes = b""
    fields: dict[bytes, bytes] = field(default_factory=dict)
    """All but pseudo fields; of a repeated one the first value."""
    content_length: int | None = None
    fault: str = ""
    """Why this is no request; empty where it is one."""
    is_oversized: bool = False
    timeout: bytes | None = None
    """The field of the deadline."""
    prepared: object = None
    """What a server has found out about it; kept where the head is kept."""
    origin: Head | None = None
    """The kept head that this one differs from by its deadline alone."""

    def with_timeout(self, value: bytes) -> Head:
        """The same head with another deadline."""
        fault = self.fault or field_fault(TIMEOUT, value)
        return Head(
            self.method, self.path, self.fields, self.content_length, fault, self.is_oversized, value, None, self
        )


class HeadCache:
    """Heads by their blocks, for all connections of a server; bounded."""

    def __init__(self) -> None:
        self.heads: dict[bytes, Head] = {}
        """Of connections without a table."""
        self.first: dict[bytes, Head] = {}
        """Of a connection's first block, when the table that it may fill is still empty."""


def _keep(heads: dict[bytes, Head], block: bytes, head: Head) -> None:
    """Keep a head for the next block of the same bytes."""
    if len(block) <= _KEPT_BLOCK_BYTES_MAX:
        if len(heads) >= _KEPT_HEADS_MAX:
            heads.clear()
        heads[block] = head


class HeaderDecoder:
    """Decodes the header blocks of one connection."""

    def __init__(self, cache: HeadCache, list_bytes_max: int) -> None:
        self._cache = cache
        self._heads = cache.heads
        self._list_bytes_max = list_bytes_max
        # What is merely too large costs its stream; what is far too large, the connection.
        self._decoder = hpack.Decoder(max_header_list_size=2 * list_bytes_max)
        self._is_stateless = False
        self._is_first = True
        self._skipped = b""
        """A first block whose head was known, so that what it does to the table has not been done yet."""

    def acknowledged(self) -> None:
        """Take note that the peer knows that it may use no table."""
        self._decoder.max_allowed_table_size = 0

    def head(self, block: bytes) -> Head:
        """The head of a request."""
        if not self._is_stateless:
            return self._head_with_table(block)
        head = self._heads.get(block)
        if head is not None:
            return head
        place = timeout_in(block)
        if place is None:
            return self._kept_head(block)
        start, value_start, end = place
        head = self._kept_head(block[:start] + _SOME_TIMEOUT + block[end:])
        value = block[value_start + 1 : end]
        if block[value_start] & 0x80:
            try:
                value = decode_huffman(value)
            except HPACKError as error:
                raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        return head.with_timeout(value)

    def _kept_head(self, block: bytes) -> Head:
        head = self._heads.get(block)
        if head is None:
            head = make_head(self.fields(block), self._list_bytes_max)
            _keep(self._heads, block, head)
        return head

    def _head_with_table(self, block: bytes) -> Head:
        """The head of a request whose block may use the table, or give it up."""
        decoder = self._decoder
        if not decoder.max_allowed_table_size and block[:1] == NO_TABLE and block[1:2] and block[1] & 0xE0 != 0x20:
            # Whatever is in the table is of no use any more.
            self._skipped = b""
            self._is_first = False
            decoder.header_table_size = 0
            self._is_stateless = True
            return self.head(block[1:])
        is_first, self._is_first = self._is_first, False
        if not is_first or not decoder.max_allowed_table_size:
            return make_head(self.fields(block), self._list_bytes_max)
        head = self._cache.first.get(block)
        if head is None:
            head = make_head(self.fields(block), self._list_bytes_max)
            _keep(self._cache.first, block, head)
        else:
            self._skipped = block
        return head

    def fields(self, block: bytes) -> list[Field]:
        """The fields of a block, such as trailers; every block must come by, also one of no interest."""
        decoder = self._decoder
        try:
            if self._skipped:
                skipped, self._skipped = self._skipped, b""
                decoder.decode(skipped, raw=True)
            found = [(name, value) for name, value in decoder.decode(block, raw=True)]
        except OversizedHeaderListError as error:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        if not self._is_stateless:
            self._is_stateless = not decoder.max_allowed_table_size and not decoder.header_table_size
        return found


def make_head(fields: list[Field], list_bytes_max: int) -> Head:
    """The request that fields describe; what is wrong with them becomes its ``fault``."""
    head = Head()
    pseudo: dict[bytes, bytes] = {}
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + 32
        if name[:1] == b":":
            if name not in _PSEUDO or name in pseudo or head.fields:
                head.fault = f"pseudo field {name!r} unknown, repeated or late"
                return head
            pseudo[name] = value
        else:
            head.fault = head.fault or field_fault(name, value)
            head.fields.setdefault(name, value)
    head.is_oversized = size > list_bytes_max
    head.method, head.path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if head.method == b"CONNECT":
        head.fault = head.fault or ("" if b":authority" in pseudo else "CONNECT without :authority")
    elif not head.method or not head.path or b":scheme" not in pseudo:
        head.fault = head.fault or "no :method, :scheme or :path"
    head.timeout = head.fields.get(TIMEOUT)
    length = head.fields.get(b"content-length")
    if length is not None:
        if length.isdigit() and len(length) < 20:
            head.content_length = int(length)
        else:
            head.fault = head.fault or "content-length is no number"
    return head


def field_fault(name: bytes, value: bytes) -> str:
    """Why a field may stand in no message; empty where it may."""
    if not _NAME.fullmatch(name):
        return f"field name {name!r}"
    if not _VALUE.fullmatch(value) or value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
        return f"value of field {name!r}"
    if name in _OF_THE_CONNECTION or (name == b"te" and value != b"trailers"):
        return f"field {name!r} belongs to HTTP/1.1"
    return ""


def trailers_fault(fields: list[Field]) -> str:
    """Why these are no trailers; empty where they are."""
    for name, value in fields:
        fault = field_fault(name, value)
        if fault:
            return fault
    return ""


def timeout_in(block: bytes) -> tuple[int, int, int] | None:
    """Where the deadline's field begins, its value begins and it ends in a block without a table; None without one."""
    position, end = 0, len(block)
    try:
        while position < end:
            start, first = position, block[position]
            if first & 0x80:
                position = _after_integer(block, position, 0x7F)
                continue
            if first & 0xE0 == 0x20:
                return None
            mask = 0x3F if first & 0x40 else 0x0F
            is_indexed = first & mask
            position = _after_integer(block, position, mask) if is_indexed else _after_string(block, position + 1)
            is_timeout = block[start + 1 : position] in _TIMEOUT_NAMES
            value_start, position = position, _after_string(block, position)
            if is_timeout:
                # Such values are short, so that their length is one byte.
                return (start, value_start, position) if position - value_start < 0x7F and position <= end else None
    except IndexError:
        return None
    return None


def _after_integer(block: bytes, position: int, mask: int) -> int:
    if block[position] & mask == mask:
        position += 1
        while block[position] & 0x80:
            position += 1
    return position + 1


def _after_string(block: bytes, position: int) -> int:
    length = block[position] & 0x7F
    if length == 0x7F:
        shift = 0
        while True:
            position += 1
            length += (block[position] & 0x7F) << shift
            shift += 7
            if not block[position] & 0x80:
                break
    return position + 1 + length


def literal(name: bytes, value: bytes) -> bytes:
    """One field of a block, in full and in nobody's table."""
    return b"".join((b"\0", _length(len(name)), name, _length(len(value)), value))


def status(code: int) -> bytes:
    """The field that begins an answer."""
    return b"\x88" if code == 200 else literal(b":status", b"%d" % code)


def _length(number: int) -> bytes:
    """HPACK's integer with a prefix of 7 bits."""
    if number < 127:
        return bytes((number,))
    encoded = bytearray((127,))
    number -= 127
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_TIMEOUT_NAMES = {literal(TIMEOUT, b"")[1:-1], bytes(hpack.Encoder().encode([(TIMEOUT, b"")]))[1:-1]}
"""The name as it may stand in a literal field: plain or in Huffman's code."""
_SOME_TIMEOUT = literal(TIMEOUT, b"1S")
