"""The kernel's FUSE protocol over ``/dev/fuse``, as much of it as a member's data directory needs.

The kernel asks, one request a read of the device, and gets one answer a write. Nothing is cached on its side (direct
I/O, no validity of names and attributes), so that each system call of a program is seen here when it is made.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from tests.store.faults.volatile import File, Folder, Node, VolatileDisk

MAJOR, MINOR = 7, 31
REQUEST_BYTES_MAX = 1 << 20
BUFFER_BYTES = REQUEST_BYTES_MAX + (64 << 10)
DIRECT_IO = 1
BIG_WRITES, MAX_PAGES = 1 << 5, 1 << 22
SET_SIZE = 1 << 3
LAZY = 2
BLOCK_BYTES = 4096

IN = struct.Struct("<IIQQIIIHH")
OUT = struct.Struct("<IiQ")
INIT_OUT = struct.Struct("<IIIIHHIIHH32x")
ATTRIBUTES = struct.Struct("<6Q10I")
ENTRY_HEAD = struct.Struct("<4Q2I")
ATTRIBUTES_HEAD = struct.Struct("<Q2I")
OPEN_OUT = struct.Struct("<QIi")
STATFS_OUT = struct.Struct("<5Q4I24x")
DIRENT = struct.Struct("<2Q2I")

_LIBC = ctypes.CDLL(None, use_errno=True)


def mount(path: Path) -> int:
    """Mount an empty FUSE file system and return the device's descriptor."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()},allow_other"
    if _LIBC.mount(b"volatile", os.fsencode(path), b"fuse.volatile", 0, options.encode()) != 0:
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, f"cannot mount on {path}: {os.strerror(number)}")
    return device


def unmount(path: Path) -> None:
    """Take a mount away, also where it is in use or its process is gone."""
    _LIBC.umount2(os.fsencode(path), LAZY)


class Server:
    """Answers the kernel out of a VolatileDisk."""

    def __init__(self, device: int, disk: VolatileDisk) -> None:
        self._device = device
        self._disk = disk
        self.lock = threading.Lock()
        """Held while a request is carried out; whoever changes the disk holds it too."""
        self._nodes: dict[int, Node] = {1: disk.root}
        self._lookups: dict[int, int] = {}
        self._handlers: dict[int, Callable[[Node, bytes], bytes]] = {
            1: self._lookup,
            3: self._get_attributes,
            4: self._set_attributes,
            9: self._make_folder,
            10: self._remove,
            11: self._remove,
            12: lambda node, body: self._rename(node, body, 8),
            14: self._open,
            15: self._read,
            16: self._write,
            17: self._statfs,
            18: self._nothing,
            20: self._sync,
            25: self._nothing,
            27: self._open,
            28: self._read_folder,
            29: self._nothing,
            30: self._sync,
            35: self._create,
            45: lambda node, body: self._rename(node, body, 16),
        }

    def serve(self) -> None:
        """Answer until the file system is unmounted."""
        while True:
            try:
                request = os.read(self._device, BUFFER_BYTES)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                if error.errno == errno.ENODEV:
                    return
                raise
            if not request:
                return
            _, opcode, unique, node_id, *_ = IN.unpack_from(request)
            answer = self._answer(opcode, node_id, request[IN.size :])
            if answer is not None:
                number, body = answer
                self._reply(unique, number, body)

    def _reply(self, unique: int, number: int, body: bytes) -> None:
        try:
            os.write(self._device, OUT.pack(OUT.size + len(body), -number, unique) + body)
        except OSError as error:
            # The program that asked was killed meanwhile, or the mount is gone.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise

    def _answer(self, opcode: int, node_id: int, body: bytes) -> tuple[int, bytes] | None:
        if opcode == 26:
            _, _, readahead, flags = struct.unpack_from("<4I", body)
            pages = REQUEST_BYTES_MAX // BLOCK_BYTES
            wanted = flags & (BIG_WRITES | MAX_PAGES)
            return 0, INIT_OUT.pack(MAJOR, MINOR, readahead, wanted, 16, 12, REQUEST_BYTES_MAX, 1, pages, 0)
        if opcode in (2, 36, 42):
            self._forget(opcode, node_id, body)
            return None
        handler = self._handlers.get(opcode)
        if handler is None:
            return errno.ENOSYS, b""
        with self.lock:
            if not self._disk.powered and handler != self._nothing:
                return errno.EIO, b""
            try:
                return 0, handler(self._nodes[node_id], body)
            except KeyError:
                return errno.ESTALE, b""
            except OSError as error:
                return error.errno or errno.EIO, b""

    # What the kernel remembers.

    def _remember(self, node: Node) -> bytes:
        self._nodes[node.node_id] = node
        self._lookups[node.node_id] = self._lookups.get(node.node_id, 0) + 1
        return ENTRY_HEAD.pack(node.node_id, 0, 0, 0, 0, 0) + _attributes(node)

    def _forget(self, opcode: int, node_id: int, body: bytes) -> None:
        if opcode == 36:
            return
        if opcode == 2:
            pairs = [(node_id, struct.unpack_from("<Q", body)[0])]
        else:
            (count,) = struct.unpack_from("<I", body)
            pairs = [struct.unpack_from("<QQ", body, 8 + 16 * place) for place in range(count)]
        with self.lock:
            for one, times in pairs:
                self._lookups[one] = self._lookups.get(one, 0) - times
                if self._lookups[one] <= 0 and one != 1:
                    self._nodes.pop(one, None)
                    self._lookups.pop(one, None)

    # Requests.

    def _nothing(self, node: Node, body: bytes) -> bytes:
        return b""

    def _lookup(self, node: Node, body: bytes) -> bytes:
        return self._remember(self._disk.lookup(_folder(node), _name(body)))

    def _get_attributes(self, node: Node, body: bytes) -> bytes:
        return ATTRIBUTES_HEAD.pack(0, 0, 0) + _attributes(node)

    def _set_attributes(self, node: Node, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        if valid & SET_SIZE:
            self._disk.resize(_file(node), size)
        return ATTRIBUTES_HEAD.pack(0, 0, 0) + _attributes(node)

    def _make_folder(self, node: Node, body: bytes) -> bytes:
        mode, umask = struct.unpack_from("<II", body)
        return self._remember(self._disk.make_folder(_folder(node), _name(body[8:]), mode & ~umask & 0o777))

    def _create(self, node: Node, body: bytes) -> bytes:
        _, mode, umask, _ = struct.unpack_from("<IIII", body)
        file = self._disk.create(_folder(node), _name(body[16:]), mode & ~umask & 0o777)
        return self._remember(file) + OPEN_OUT.pack(0, DIRECT_IO, 0)

    def _remove(self, node: Node, body: bytes) -> bytes:
        self._disk.remove(_folder(node), _name(body))
        return b""

    def _rename(self, node: Node, body: bytes, head: int) -> bytes:
        (target_id,) = struct.unpack_from("<Q", body)
        source, target, *_ = body[head:].split(b"\0")
        self._disk.rename(_folder(node), os.fsdecode(source), _folder(self._nodes[target_id]), os.fsdecode(target))
        return b""

    def _open(self, node: Node, body: bytes) -> bytes:
        return OPEN_OUT.pack(0, DIRECT_IO if isinstance(node, File) else 0, 0)

    def _read(self, node: Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return bytes(_file(node).content[offset : offset + size])

    def _write(self, node: Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        self._disk.write(_file(node), offset, body[40 : 40 + size])
        return struct.pack("<II", size, 0)

    def _sync(self, node: Node, body: bytes) -> bytes:
        self._disk.sync(node)
        return b""

    def _read_folder(self, node: Node, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        found = b""
        for place, (name, child) in enumerate(sorted(_folder(node).entries.items()), 1):
            if place <= offset:
                continue
            raw = os.fsencode(name)
            kind = stat.S_IFDIR if isinstance(child, Folder) else stat.S_IFREG
            entry = DIRENT.pack(child.node_id, place, len(raw), kind >> 12) + raw
            entry += bytes(-len(entry) % 8)
            if len(found) + len(entry) > size:
                break
            found += entry
        return found

    def _statfs(self, node: Node, body: bytes) -> bytes:
        blocks = 1 << 20
        return STATFS_OUT.pack(blocks, blocks, blocks, blocks, blocks, BLOCK_BYTES, 255, BLOCK_BYTES, 0)


def _attributes(node: Node) -> bytes:
    is_folder = isinstance(node, Folder)
    size = 0 if isinstance(node, Folder) else len(node.content)
    mode = node.mode | (stat.S_IFDIR if is_folder else stat.S_IFREG)
    blocks = -(-size // SECTOR)
    return ATTRIBUTES.pack(
        *(node.node_id, size, blocks, 0, 0, 0),
        *(0, 0, 0, mode, 2 if is_folder else 1, os.getuid(), os.getgid(), 0, BLOCK_BYTES, 0),
    )


SECTOR = 512


def _name(body: bytes) -> str:
    return os.fsdecode(body.split(b"\0", 1)[0])


def _file(node: Node) -> File:
    if isinstance(node, Folder):
        raise IsADirectoryError(errno.EISDIR, "a folder")
    return node


def _folder(node: Node) -> Folder:
    if isinstance(node, File):
        raise NotADirectoryError(errno.ENOTDIR, "a file")
    return node
