"""SCTP's first two packets by hand, on raw sockets: the kernels of small machines have no SCTP sockets.

A client sends INIT; whoever has the address answers INIT ACK, which proves that the rules led the packet there
and its answer back. The checksum is right, as connection tracking looks at it.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Callable

from tests.net.topology import Answer, Namespace, family_of, plain

PROTOCOL = 132
INIT, INIT_ACK = 1, 2
_POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _table()


def checksum(data: bytes) -> int:
    """Return CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def packet(kind: int, source_port: int, target_port: int, tag: int, note: bytes = b"") -> bytes:
    """Return INIT or INIT ACK; a note travels in a parameter that receivers skip."""
    note += b"\0" * (-len(note) % 4)
    parameter = struct.pack(">HH", 0x8100, 4 + len(note)) + note if note else b""
    chunk = struct.pack(">BBHIIHHI", kind, 0, 20 + len(parameter), 1, 65536, 1, 1, 1) + parameter
    bare = struct.pack(">HHII", source_port, target_port, tag, 0) + chunk
    return bare[:8] + struct.pack("<I", checksum(bare)) + bare[12:]


def _payload(data: bytes, family: int) -> bytes:
    """Return what follows the IP header, which raw sockets of IPv4 hand out as well."""
    return data if family == socket.AF_INET6 else data[(data[0] & 0x0F) * 4 :]


def serve(namespace: Namespace, name: str, port: int) -> None:
    """Answer each INIT for a port with an INIT ACK that tells name and client, in both families."""
    for family in (socket.AF_INET, socket.AF_INET6):
        server = namespace.open_socket(socket.SOCK_RAW, family, PROTOCOL)
        server.settimeout(0.2)
        namespace.answer_by(server, _answerer(namespace, server, name, port))


def _answerer(namespace: Namespace, server: socket.socket, name: str, port: int) -> Callable[[], None]:
    def answer() -> None:
        while not namespace.is_closing:
            try:
                data, client = server.recvfrom(2000)
                source, target, _, _, kind = struct.unpack_from(">HHIIB", _payload(data, server.family))
                if (kind, target) == (INIT, port):
                    note = f"{name} {plain(client[0])}".encode()
                    server.sendto(packet(INIT_ACK, port, source, 1, note), (client[0], 0))
            except OSError:  # nothing came for a while, or the client has gone
                continue

    return answer


def ask(client: Namespace, address: str, port: int, timeout_s: float = 1.0) -> Answer:
    """Send INIT and return what the INIT ACK tells; raises TimeoutError where none comes."""
    family = family_of(address)
    source_port = 20000 + int.from_bytes(os.urandom(2), "big") % 40000
    with client.open_socket(socket.SOCK_RAW, family, PROTOCOL) as raw:
        deadline = time.monotonic() + timeout_s
        raw.sendto(packet(INIT, source_port, port, 0), (address, 0))
        while (left := deadline - time.monotonic()) > 0:
            raw.settimeout(left)
            data, sender = raw.recvfrom(2000)
            payload = _payload(data, family)
            answering, asked, _, crc, kind = struct.unpack_from(">HHIIB", payload)
            same = ipaddress.ip_address(sender[0]) == ipaddress.ip_address(address)
            if (answering, asked, kind) == (port, source_port, INIT_ACK) and same:
                assert struct.pack(">I", crc) == struct.pack("<I", checksum(payload[:8] + bytes(4) + payload[12:]))
                name, _, seen = payload[36:].rstrip(b"\0").decode().partition(" ")
                return name, seen
    raise TimeoutError("no INIT ACK")
