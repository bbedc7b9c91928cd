"""Certificates between members may be renewed while they run: the next connection uses the new ones."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from store.raft.contract import TLSFiles
from store.raft.tls import client_context, server_context
from tests.store.raft.certificates import make_authority


@asynccontextmanager
async def listening(files: TLSFiles) -> AsyncIterator[int]:
    """A server that greets whom it lets in."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=server_context(files))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def is_let_in(port: int, files: TLSFiles) -> bool:
    """Whether both sides accept each other."""
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client_context(files))
            answer = await reader.read()
            writer.close()
            return answer == b"hello"
    except (ssl.SSLError, ConnectionError):
        return False


def put_in_place(new: TLSFiles, place: TLSFiles) -> None:
    """Renew files as tools do: the certificate, then its key, then the authority."""
    for source, target in (
        (new.cert_file, place.cert_file),
        (new.key_file, place.key_file),
        (new.trusted_ca_file, place.trusted_ca_file),
    ):
        partial = target.with_suffix(".partial")
        partial.write_bytes(source.read_bytes())
        os.replace(partial, target)


async def test_a_renewed_certificate_is_used_from_the_next_connection_on(tmp_path: Path) -> None:
    old, new = (make_authority(tmp_path / name) for name in ("old", "new"))
    server, before, after = old.issue("a"), old.issue("b"), new.issue("b")
    async with listening(server) as port:
        assert await is_let_in(port, before)
        assert not await is_let_in(port, after)
        put_in_place(new.issue("a"), server)
        assert await is_let_in(port, after)
        assert not await is_let_in(port, before)


async def test_files_that_do_not_fit_together_leave_the_old_ones_in_use(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "one")
    server, peer, other = authority.issue("a"), authority.issue("b"), authority.issue("c")
    async with listening(server) as port:
        server.key_file.write_bytes(other.key_file.read_bytes())
        assert await is_let_in(port, peer)
        server.cert_file.write_bytes(other.cert_file.read_bytes())
        assert await is_let_in(port, peer)
