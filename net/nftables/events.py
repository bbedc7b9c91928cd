"""Hear of changes that others make to nftables, by hand or by program."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from net.netlink import HEADER
from net.nftables import operations as ops
from net.nftables.door import NETLINK_NETFILTER, RECEIVE_BYTES, SO_RCVBUFFORCE
from net.nftables.elements import attributes
from net.nftables.operations import FAMILY_NAMES, NFNL_SUBSYS_NFTABLES, Table

log = logging.getLogger(__name__)

NFNLGRP_NFTABLES = 7
EVENT_BUFFER_BYTES = 4 << 20
SO_ATTACH_FILTER = 26
_KINDS = {
    ops.NEWTABLE: "table", ops.DELTABLE: "table",
    ops.NEWCHAIN: "chain", ops.DELCHAIN: "chain",
    ops.NEWRULE: "rule", ops.DELRULE: "rule",
    ops.NEWSET: "set", ops.DELSET: "set",
    ops.NEWSETELEM: "element", ops.DELSETELEM: "element",
}  # fmt: skip
_DELETIONS = frozenset({ops.DELTABLE, ops.DELCHAIN, ops.DELRULE, ops.DELSET, ops.DELSETELEM})


@dataclass(frozen=True, slots=True)
class NftablesEvent:
    """Tell that something changed in a table, or ("overrun") that events were lost: read everything anew."""

    kind: str
    """table, chain, rule, set, element or overrun."""
    table: Table | None = None
    name: str = ""
    """The chain's or set's."""
    deleted: bool = False


OVERRUN = NftablesEvent("overrun")


class NftablesEvents:
    """Receive changes in the namespace in which this was made; those of the given sockets stay out of it."""

    def __init__(self, own_ports: Sequence[int] = (), buffer_bytes: int = EVENT_BUFFER_BYTES) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, buffer_bytes)
        except OSError as error:
            log.debug("event buffer stays small, overruns will be more frequent error=%s", error)
        self._own_ports: frozenset[int] = frozenset()
        if own_ports:
            self.leave_out(own_ports)
        self._socket.bind((0, 1 << NFNLGRP_NFTABLES - 1))

    def leave_out(self, ports: Sequence[int]) -> None:
        """Have the kernel drop changes by these sockets: a full sync of our own would be ten thousands of events."""
        self._own_ports = frozenset(ports)
        load_port = (0x20, 0, 0, 12)  # BPF_LD | BPF_W | BPF_ABS: nlmsg_pid of the first message, read as big-endian
        tests = [
            (0x15, len(ports) - number, 0, int.from_bytes(struct.pack("=I", port), "big"))  # BPF_JMP | BPF_JEQ
            for number, port in enumerate(ports)
        ]
        program = [load_port, *tests, (0x06, 0, 0, 0xFFFFFFFF), (0x06, 0, 0, 0)]  # BPF_RET: pass, drop
        code = b"".join(struct.pack("=HBBI", *step) for step in program)
        buffer = ctypes.create_string_buffer(code)
        filtered = struct.pack("@HP", len(program), ctypes.addressof(buffer))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filtered)
        except OSError as error:
            log.debug("own changes are not filtered by the kernel error=%s", error)

    def fileno(self) -> int:
        """Return the socket's descriptor, for those who wait without an event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    async def next(self) -> list[NftablesEvent]:
        """Wait for changes; may be empty. An overrun is an event like any other."""
        loop = asyncio.get_running_loop()
        readable: asyncio.Future[None] = loop.create_future()
        loop.add_reader(self._socket, _settle, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._socket)
        return self._read() or []

    def drain(self) -> list[NftablesEvent]:
        """Return at once what has come so far."""
        found: list[NftablesEvent] = []
        while (events := self._read()) is not None:
            found += events
        return found

    def _read(self) -> list[NftablesEvent] | None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return [OVERRUN]
        return _parse(data, self._own_ports)


def _settle(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)


def _parse(data: bytes, own_ports: frozenset[int]) -> list[NftablesEvent]:
    found = []
    offset = 0
    while offset + HEADER.size <= len(data):
        length, number, _, _, port = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            break
        kind = _KINDS.get(number & 0xFF) if number >> 8 == NFNL_SUBSYS_NFTABLES else None
        start = offset + HEADER.size
        family = FAMILY_NAMES.get(data[start]) if kind is not None else None
        if kind is not None and family is not None and port not in own_ports:
            named = attributes(data, start + 4, offset + length)
            name = named.get(3 if kind == "chain" else 2, b"") if kind != "table" else b""
            found.append(
                NftablesEvent(
                    kind=kind,
                    table=Table(family, _word(named.get(1, b""))),
                    name=_word(name),
                    deleted=(number & 0xFF) in _DELETIONS,
                )
            )
        offset += (length + 3) & ~3
    return found


def _word(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
