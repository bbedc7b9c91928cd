"""Write the elements of our sets and maps as people do: pure."""

from __future__ import annotations

import ipaddress
import struct

from net.nftables.elements import DROP, PROTOCOLS, chain_of

_NUMBERS = {number: name for name, number in PROTOCOLS.items()}
_VERSIONS = (4, 16)
"""The bytes of an address of either version."""


def words(set_name: str, key: bytes, data: bytes = b"") -> str:
    """Return "10.96.0.1 . tcp . 80 : goto cluster-3"."""
    return " . ".join(_key(set_name, key)) + _data(data)


def _data(data: bytes) -> str:
    if not data:
        return ""
    if data == DROP:
        return " : drop"
    if chain := chain_of(data):
        return f" : goto {chain}"
    raw = data[4:]  # behind the attribute's head
    return f" : {_address(raw[:-4])} . {_port(raw[-4:])}" if len(raw) - 4 in _VERSIONS else f" : {raw.hex(' ', 4)}"


def _key(set_name: str, key: bytes) -> list[str]:
    size = len(key)
    if "nodeport" in set_name and size == 8:
        return [_protocol(key[:4]), _port(key[4:])]
    if size in _VERSIONS and not set_name.startswith("firewall"):
        return [_address(key)]
    half = size // 2
    if size in (8, 32) and set_name.startswith(("hairpin", "itself")):
        return [_address(key[:half]), _address(key[half:])]
    for length in _VERSIONS:
        if size == length + 4:
            return [_address(key[:length]), _port(key[length:])]
        if size == length + 8:
            return [_address(key[:length]), _protocol(key[length : length + 4]), _port(key[length + 4 :])]
        if size == 2 * length + 8:
            place = _key("", key[: length + 8])
            return [*place, _address(key[length + 8 :])]
    return [key.hex(" ", 4)]


def _address(raw: bytes) -> str:
    return str(ipaddress.ip_address(raw)) if len(raw) in _VERSIONS else raw.hex()


def _protocol(raw: bytes) -> str:
    return _NUMBERS.get(raw[0], str(raw[0]))


def _port(raw: bytes) -> str:
    return str(struct.unpack(">H", raw[:2])[0])
