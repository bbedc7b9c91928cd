"""A GET for probes and hooks: one request and the status of its answer; TLS without verification."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import lru_cache

BODY_MAX_BYTES = 10 * 1024
HEAD_MAX_BYTES = 64 * 1024


class HttpGetError(Exception):
    """There was no answer that HTTP knows."""


@lru_cache(maxsize=1)
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def http_get(
    host: str, port: int, path: str, *, scheme: str = "HTTP", headers: Mapping[str, str] | None = None
) -> int:
    """Return the answer's status code; the caller sets the time."""
    tls = _unverified() if scheme.upper() == "HTTPS" else None
    try:
        reader, writer = await asyncio.open_connection(host, port, ssl=tls, limit=HEAD_MAX_BYTES)
    except OSError as error:
        raise HttpGetError(f"dial tcp {host}:{port}: {error.strerror or error}") from error
    try:
        writer.write(_request(host, port, path, headers or {}))
        await writer.drain()
        head = await _head(reader)
        status = _status(head)
        await _drain(reader, head)
    except (OSError, ValueError) as error:
        raise HttpGetError(f"Get http://{host}:{port}{path}: {error}") from error
    finally:
        writer.close()
    return status


def _request(host: str, port: int, path: str, headers: Mapping[str, str]) -> bytes:
    name = f"[{host}]" if ":" in host else host
    wanted = {"Host": f"{name}:{port}", "User-Agent": "kube-probe/1.36", "Accept": "*/*", "Connection": "close"}
    names = {key.lower(): key for key in wanted}
    for key, value in headers.items():
        wanted[names.get(key.lower(), key)] = value
    lines = [f"GET {path or '/'} HTTP/1.1", *(f"{key}: {value}" for key, value in wanted.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise HttpGetError("line break in a header")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _head(reader: asyncio.StreamReader) -> bytes:
    r"""Read up to the empty line; lines may end without \r, as those of CGI programs do (Go's client takes them)."""
    head = b""
    while len(head) <= HEAD_MAX_BYTES:
        line = await reader.readline()
        if line in (b"\r\n", b"\n"):
            return head
        if not line.endswith(b"\n"):
            raise HttpGetError("malformed HTTP response: it ends inside its head")
        head += line
    raise HttpGetError(f"malformed HTTP response: its head is longer than {HEAD_MAX_BYTES} bytes")


def _status(head: bytes) -> int:
    words = head.split(b"\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise HttpGetError("malformed HTTP response")
    return int(words[1])


async def _drain(reader: asyncio.StreamReader, head: bytes) -> None:
    """Take a body whose length is told, so that the server is not cut off in the middle of a short one."""
    for line in head.split(b"\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            await reader.read(min(BODY_MAX_BYTES, int(value)))
