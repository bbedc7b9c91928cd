"""What a resolver and whoever feeds it say to each other over a unix socket: frames of JSON, and once the sockets.

    feeder → resolver    {"do": "sockets"}                     ← {"version", "count"} with the descriptors beside it
                      {"do": "settings", …}                 ← {}
                      {"do": "names", "names", "replace", "more", "complete"}   ← {}
                      {"do": "serve"}                       ← {}, and the resolver reads its sockets
                      {"do": "counts"}                      ← {…}
                      {"do": "retire"}                      ← {}, and the resolver ends after its last answer

Names and records are bytes, written as hexadecimal digits.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from net.dns.answers import Entry

LENGTH = struct.Struct("!I")
FRAME_BYTES_MAX = 16 << 20
NAMES_A_FRAME = 2000
SOCKETS_MAX = 64
RESOLVER_MODULES = ("wire", "answers", "cache", "upstream", "chain", "channel", "resolver", "listeners")

Frame = dict[str, Any]


def version() -> str:
    """Return what tells one resolver's program from another's: its text and its Python."""
    text = hashlib.sha256(sys.version.encode())
    for name in RESOLVER_MODULES:
        text.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return text.hexdigest()[:16]


def pack(frame: Frame) -> bytes:
    """Return a frame as bytes."""
    body = json.dumps(frame, separators=(",", ":")).encode()
    return LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> Frame:
    """Read a frame; raises EOFError at the end and ValueError for what is none."""
    try:
        (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
        if size > FRAME_BYTES_MAX:
            raise ValueError(f"a frame of {size} bytes")
        body = await reader.readexactly(size)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError("the other side is gone") from error
    frame = json.loads(body)
    if not isinstance(frame, dict):
        raise ValueError("a frame that is no object")
    return frame


def pack_names(names: Mapping[bytes, Entry | None]) -> dict[str, Any]:
    """Return names and their records in the form of a frame."""
    return {name.hex(): None if entry is None else _pack_entry(entry) for name, entry in names.items()}


def _pack_entry(entry: Entry) -> dict[str, list[str]]:
    return {str(kind): [data.hex() for data in found] for kind, found in entry.items()}


def unpack_names(frame: Mapping[str, Any]) -> Iterator[tuple[bytes, Entry | None]]:
    """Read names and their records."""
    for name, entry in frame.items():
        if entry is None:
            yield bytes.fromhex(name), None
        else:
            records = {int(kind): tuple(bytes.fromhex(data) for data in found) for kind, found in entry.items()}
            yield bytes.fromhex(name), records


def names_frames(names: Mapping[bytes, Entry | None], *, replace: bool, complete: bool) -> Iterator[Frame]:
    """Return the frames that carry names, the last of which puts all of them in force."""
    every = list(names)
    starts = range(0, max(1, len(every)), NAMES_A_FRAME)
    for start in starts:
        part = {name: names[name] for name in every[start : start + NAMES_A_FRAME]}
        yield {
            "do": "names",
            "names": pack_names(part),
            "replace": replace,
            "more": start != starts[-1],
            "complete": complete,
        }


async def readable(channel: socket.socket | int) -> None:
    """Wait until a socket or another descriptor has something to be read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(channel, _settle, ready)
    try:
        await ready
    finally:
        loop.remove_reader(channel)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def take_sockets(channel: socket.socket) -> tuple[Frame, list[socket.socket]]:
    """Ask a resolver for its sockets, before anything else is said; raises OSError or ValueError."""
    channel.sendall(pack({"do": "sockets"}))
    await readable(channel)
    data, descriptors, _, _ = socket.recv_fds(channel, FRAME_BYTES_MAX, SOCKETS_MAX)
    taken = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    try:
        while len(data) < LENGTH.size or len(data) < LENGTH.size + LENGTH.unpack_from(data)[0]:
            await readable(channel)
            more = channel.recv(FRAME_BYTES_MAX)
            if not more:
                raise OSError("the resolver went away")
            data += more
        frame: Frame = json.loads(data[LENGTH.size :])
    except BaseException:
        close_all(taken)
        raise
    return frame, taken


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close sockets."""
    for each in sockets:
        each.close()
