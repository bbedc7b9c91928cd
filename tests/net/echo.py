"""Ask by ICMP echo from inside a namespace, with a size and with or without leave to cut the packet. Needs root."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import time
from dataclasses import dataclass

from net.netlink import inside
from tests.net.topology import Namespace

IP_MTU_DISCOVER, IP_RECVERR = 10, 11
IPV6_MTU_DISCOVER, IPV6_RECVERR = 23, 25
PMTUDISC_DONT, PMTUDISC_WANT, PMTUDISC_DO = 0, 1, 2
ORIGINS = {1: "own kernel", 2: "packet", 3: "packet"}
HEADER_BYTES = {4: 28, 6: 48}
"""IP and ICMP headers together, by IP version."""
_sequences = itertools.count(1)


@dataclass(frozen=True)
class Echo:
    """What came of one question."""

    answered: bool
    seconds: float = 0.0
    told_mtu: int = 0
    """The MTU that somebody on the way said is the largest, 0 where nobody complained."""
    told_by: str = ""
    """"own kernel" or "packet"."""


def echo(source: Namespace, target: str, length: int = 84, may_fragment: bool = False, timeout_s: float = 1.0) -> Echo:
    """Send one packet of that many bytes, headers included, and wait for the answer."""
    version = 6 if ":" in target else 4
    with inside(source.descriptor):
        if version == 4:
            door = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        else:
            door = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with door:
        _prepare(door, version, may_fragment)
        identifier, sequence = os.getpid() & 0xFFFF, next(_sequences) & 0xFFFF
        kind = {4: 8, 6: 128}[version]
        packet = struct.pack(">BBHHH", kind, 0, 0, identifier, sequence) + bytes(length - HEADER_BYTES[version])
        if version == 4:
            packet = packet[:2] + struct.pack(">H", _checksum(packet)) + packet[4:]
        started = time.monotonic()
        try:
            door.connect((target, 0))
            door.send(packet)
            while (left := started + timeout_s - time.monotonic()) > 0:
                door.settimeout(left)
                answer = door.recv(1 << 16)
                if _is_answer(answer, version, identifier, sequence):
                    return Echo(True, time.monotonic() - started)
        except TimeoutError:
            return Echo(False)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                return Echo(False, 0.0, *_told(door))
            if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EACCES, errno.EINVAL):
                raise
        return Echo(False)


def _prepare(door: socket.socket, version: int, may_fragment: bool) -> None:
    # Only the sender cuts IPv6 packets, and so it has to heed what it was told.
    cutting = PMTUDISC_DONT if version == 4 else PMTUDISC_WANT
    discover = cutting if may_fragment else PMTUDISC_DO
    if version == 4:
        door.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, discover)
        door.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
    else:
        door.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, discover)
        door.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)


def _told(door: socket.socket) -> tuple[int, str]:
    """Return the MTU in the error that came, and who sent it."""
    _, ancillary, _, _ = door.recvmsg(1 << 16, 512, socket.MSG_ERRQUEUE)
    for _, kind, data in ancillary:
        if kind in (IP_RECVERR, IPV6_RECVERR):
            _, origin, _, _, _, mtu = struct.unpack_from("=IBBBBI", data)
            return mtu, ORIGINS.get(origin, "")
    return 0, ""


def _is_answer(data: bytes, version: int, identifier: int, sequence: int) -> bool:
    start = (data[0] & 0xF) * 4 if version == 4 else 0
    kind, _, _, theirs, number = struct.unpack_from(">BBHHH", data, start)
    return bool(kind == {4: 0, 6: 129}[version] and (theirs, number) == (identifier, sequence))


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
