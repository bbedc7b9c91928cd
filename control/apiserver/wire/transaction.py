"""etcd's TxnRequest in the one shape that every write has, as bytes. No input or output.

The key must be at a revision; then it is put or deleted, else read. Making the messages field by field costs more than
the call's way through the wire, and they differ in three values.
"""

from __future__ import annotations

_MOD_IS = b"\x10\x02\x1a"
"""Compare.target is MOD, and the tag of Compare.key."""


def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    if number < 0x80:
        return bytes((number,))
    made = bytearray()
    while number >= 0x80:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _field(tag: bytes, payload: bytes) -> bytes:
    return tag + varint(len(payload)) + payload


def guarded_put(key: bytes, revision: int, value: bytes, lease: int) -> bytes:
    """Return a transaction that puts a value where the key is at ``revision`` (0: is not there), and else reads it."""
    put = _field(b"\x0a", key) + _field(b"\x12", value)
    if lease:
        put += b"\x18" + varint(lease)
    return _guarded(key, revision, _field(b"\x12", put))


def guarded_delete(key: bytes, revision: int) -> bytes:
    """Return a transaction that deletes the key where it is at ``revision``, and else reads it."""
    return _guarded(key, revision, _field(b"\x1a", _field(b"\x0a", key)))


def _guarded(key: bytes, revision: int, then: bytes) -> bytes:
    compare = b"%b%b%b\x30%b" % (_MOD_IS, varint(len(key)), key, varint(revision))
    read = _field(b"\x0a", _field(b"\x0a", key))
    return _field(b"\x0a", compare) + _field(b"\x12", then) + _field(b"\x1a", read)
