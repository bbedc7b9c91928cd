"""The thin part that talks to the kernel: `load` runs nft, `NftablesSocket` sends batches and reads dumps.

A batch is one transaction: all of it happens or nothing. The kernel answers before `send` returns, so
a batch needs no event loop; one of many thousands of elements takes 0.1 s and belongs into a thread.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
import socket
import struct
from collections.abc import Iterator, Sequence

from net.netlink import HEADER, NLMSG_DONE, NLMSG_ERROR
from net.nftables import operations as ops
from net.nftables.elements import Found, attribute, attributes, decode, pairs
from net.nftables.errors import NftablesError
from net.nftables.operations import FAMILY_NAMES, NFNL_SUBSYS_NFTABLES, Operation, Table, about, generic, text

log = logging.getLogger(__name__)

NETLINK_NETFILTER = 12
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 16, 17
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS = 1, 2
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK = 270, 10, 11
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
SEND_BUFFER_BYTES, RECEIVE_BUFFER_BYTES = 128 << 20, 4 << 20
RECEIVE_BYTES = 1 << 18
DUMP_ATTEMPTS_MAX = 20
RUN_TIMEOUT_S = 120.0
SEARCH_PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
WORDS_MAX = 2000


async def load(ruleset: str, *, check_only: bool = False) -> None:
    """Run `nft -f -` in this thread's network namespace: one transaction, or NftablesError with nft's words."""
    program = shutil.which("nft", path=SEARCH_PATH)
    if program is None:
        raise NftablesError("nft is not installed: install the package nftables")
    command = [program, *(["-c"] if check_only else []), "-f", "-"]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": SEARCH_PATH, "LC_ALL": "C"},
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            _, told = await process.communicate(ruleset.encode())
    except TimeoutError as error:
        raise NftablesError(f"nft did not end in {RUN_TIMEOUT_S:.0f} s", errno.ETIMEDOUT) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise NftablesError(f"nft: {told.decode(errors='replace').strip()[:WORDS_MAX]}")


def is_supported() -> bool:
    """Tell whether the kernel has nf_tables, this process may use it, and nft is installed."""
    if shutil.which("nft", path=SEARCH_PATH) is None:
        return False
    try:
        with NftablesSocket() as door:
            door.generation()
    except (OSError, NftablesError):
        return False
    return True


class NftablesSocket:
    """Speak nfnetlink in the namespace in which this was made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        self._socket.bind((0, 0))
        self.port_id: int = self._socket.getsockname()[0]
        """Marks our own changes in events."""
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        for option, size in ((SO_SNDBUFFORCE, SEND_BUFFER_BYTES), (SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)):
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, option, size)
            except OSError as error:
                log.debug("socket buffer stays small option=%d error=%s", option, error)
        self._sequence = 0

    def __enter__(self) -> NftablesSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _pack(self, kind: int, flags: int, body: bytes, subsystem: int = NFNL_SUBSYS_NFTABLES) -> bytes:
        self._sequence = self._sequence + 1 & 0x7FFFFFFF
        number = subsystem << 8 | kind
        return HEADER.pack(HEADER.size + len(body), number, NLM_F_REQUEST | flags, self._sequence, 0) + body

    def batch(self, operations: Sequence[Operation]) -> int:
        """Do all operations in one transaction, or none; return the bytes sent. Raises NftablesError."""
        edge = struct.pack(">BBH", socket.AF_UNSPEC, 0, NFNL_SUBSYS_NFTABLES)
        parts = [self._pack(NFNL_MSG_BATCH_BEGIN, 0, edge, 0)]
        first = self._sequence
        owners: list[tuple[Operation, bytes]] = []
        for operation in operations:
            for kind, flags, body in ops.messages(operation):
                parts.append(self._pack(kind, flags, body))
                owners.append((operation, body))
        if not owners:
            return 0
        last = parts[-1]
        # One answer is enough where all is well; errors come without being asked for.
        parts[-1] = last[:6] + struct.pack("=H", struct.unpack_from("=H", last, 6)[0] | NLM_F_ACK) + last[8:]
        acknowledged = self._sequence
        parts.append(self._pack(NFNL_MSG_BATCH_END, 0, edge, 0))
        data = b"".join(parts)
        try:
            self._socket.send(data)
        except OSError as error:
            raise NftablesError(f"batch of {len(data)} bytes: {error.strerror}", error.errno or 0) from error
        self._settle(first, acknowledged, owners)
        return len(data)

    def _settle(self, first: int, acknowledged: int, owners: list[tuple[Operation, bytes]]) -> None:
        """Read the answers, all of which are there by now; raise for the first error."""
        failure: NftablesError | None = None
        done = False
        while True:
            try:
                data = self._socket.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            for kind, _, sequence, payload in _split(data):
                if kind != NLMSG_ERROR or sequence < first:
                    continue
                (negative,) = struct.unpack_from("=i", payload, 0)
                if not negative:
                    done = done or sequence == acknowledged
                elif failure is None:
                    place = sequence - first - 1
                    failure = _failure(-negative, payload, owners[place] if 0 <= place < len(owners) else None)
        if failure is not None:
            raise failure
        if not done:
            raise NftablesError("the kernel did not confirm the batch", errno.EAGAIN)

    def generation(self) -> int:
        """Return the number that grows with every transaction of this namespace, whoever makes it."""
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, 0)
        self._socket.send(self._pack(ops.GETGEN, 0, body))
        for kind, _, _, payload in _split(self._socket.recv(RECEIVE_BYTES)):
            if kind == NLMSG_ERROR:
                (negative,) = struct.unpack_from("=i", payload, 0)
                raise NftablesError(f"read generation: {os.strerror(-negative)}", -negative)
            return int.from_bytes(attributes(payload, 4)[1], "big")
        raise NftablesError("read generation: no answer", errno.EAGAIN)

    def _dump(self, kind: int, body: bytes, what: str) -> list[bytes]:
        """Return the payloads of a dump that no transaction disturbed; nothing where the thing asked for is not."""
        for _ in range(DUMP_ATTEMPTS_MAX):
            found: list[bytes] = []
            if self._dump_once(kind, body, what, found):
                return found
        raise NftablesError(f"{what}: changes while it is read", errno.EAGAIN)

    def _dump_once(self, kind: int, body: bytes, what: str, found: list[bytes]) -> bool:
        self._socket.send(self._pack(kind, NLM_F_DUMP, body))
        asked, whole = self._sequence, True
        while True:
            for answered, flags, sequence, payload in _split(self._socket.recv(RECEIVE_BYTES)):
                if sequence != asked:
                    continue
                if flags & NLM_F_DUMP_INTR:
                    whole = False
                if answered == NLMSG_ERROR or (answered == NLMSG_DONE and len(payload) >= 4):
                    (negative,) = struct.unpack_from("=i", payload, 0)
                    if -negative == errno.EINTR:
                        return False
                    if negative and -negative != errno.ENOENT:
                        raise NftablesError(f"{what}: {os.strerror(-negative)}", -negative)
                if answered in (NLMSG_DONE, NLMSG_ERROR):
                    return whole
                found.append(payload)

    def elements(self, table: Table, set_name: str) -> list[Found]:
        """Return all elements of a set or map; none where there is no such set."""
        return [decode(raw) for listed in self._element_lists(table, set_name) for raw in _listed(listed)]

    def element_map(self, table: Table, set_name: str) -> dict[bytes, bytes]:
        """Return the data of all elements by key, five times faster than `elements`; of a range, by both its ends."""
        return dict(pair for listed in self._element_lists(table, set_name) for pair in pairs(listed))

    def _element_lists(self, table: Table, set_name: str) -> list[bytes]:
        body = generic(table.family) + attribute(1, text(table.name)) + attribute(2, text(set_name))
        dumped = self._dump(ops.GETSETELEM, body, f"read set {table} {set_name}")
        return [attributes(payload, 4).get(3, b"") for payload in dumped]

    def tables(self) -> list[Table]:
        """Return all tables."""
        found = []
        for payload in self._dump(ops.GETTABLE, struct.pack(">BBH", 0, 0, 0), "read tables"):
            family = FAMILY_NAMES.get(payload[0])
            if family is not None:
                found.append(Table(family, _word(attributes(payload, 4)[1])))
        return found

    def parts(self, table: Table, kind: int) -> list[dict[int, bytes]]:
        """Return the attributes of a table's chains, rules or sets (GETCHAIN, GETRULE, GETSET)."""
        body = generic(table.family) + attribute(1, text(table.name))
        dumped = (attributes(payload, 4) for payload in self._dump(kind, body, f"read table {table}"))
        # Some kernels dump the whole family's.
        return [found for found in dumped if _word(found.get(1, b"")) == table.name]


def _word(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _listed(data: bytes) -> Iterator[bytes]:
    offset = 0
    while offset + 4 <= len(data):
        (length,) = struct.unpack_from("=H", data, offset)
        yield data[offset + 4 : offset + length]
        offset += max(4, length + 3 & ~3)


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield kind, flags, sequence and payload of each message."""
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, flags, sequence, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _failure(number: int, payload: bytes, owner: tuple[Operation, bytes] | None) -> NftablesError:
    """Make an error of the kernel's answer, which may tell the place in the message that it did not like."""
    extra = attributes(payload, 4 + HEADER.size)
    words = os.strerror(number)
    if NLMSGERR_ATTR_MSG in extra:
        words += f" ({_word(extra[NLMSGERR_ATTR_MSG])})"
    if owner is None:
        return NftablesError(f"transaction: {words}", number)
    operation, body = owner
    element = b""
    if NLMSGERR_ATTR_OFFS in extra:
        element = ops.element_at(body, int.from_bytes(extra[NLMSGERR_ATTR_OFFS], "little"))
    if element:
        words += f" at element {decode(element[4:]).key.hex(' ', 4)}"
    set_name = operation.set_name if isinstance(operation, ops.AddElements | ops.DeleteElements | ops.FlushSet) else ""
    return NftablesError(f"{about(operation)}: {words}", number, set_name, element)
