"""Requests that repeat the headers of one before on their connection: known again byte by byte, not parsed. No I/O.

Clients send the same headers again and again; only the first line differs, and the body. What an HTTP parser made of a
block of headers holds for every request whose block is the same bytes, so that nothing is read here but the first line.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote

Headers = list[tuple[bytes, bytes]]

_LINE = re.compile(rb'(GET|POST|PUT|PATCH|DELETE) (/[!"$-~]*) HTTP/1\.1')
_PARSED_EACH_TIME = frozenset({b"transfer-encoding", b"upgrade", b"expect"})
BLOCK_BYTES_MAX = 8 << 10


class Target(NamedTuple):
    """What a request's first line says."""

    method: str
    path: str
    raw_path: bytes
    query: bytes


@lru_cache(maxsize=4096)
def read_line(line: bytes) -> Target | None:
    """Read a request's first line; None for what a parser has to judge."""
    found = _LINE.fullmatch(line)
    return read_target(found[1].decode(), found[2]) if found is not None else None


def read_target(method: str, url: bytes) -> Target:
    """Take a URL that begins with a slash apart."""
    raw_path, _, query = url.partition(b"?")
    path = raw_path.decode("latin-1")
    return Target(method, unquote(path) if "%" in path else path, raw_path, query)


class Head:
    """All of a head behind its first line, and what a parser made of it."""

    __slots__ = ("_bytes_behind_line", "_method", "block", "headers", "note")

    def __init__(self, method: str, block: bytes, body_bytes: int, headers: Headers) -> None:
        self.block = block
        self.headers = headers
        self.note: Any = None
        """For whoever answers: what it knows of requests with this head."""
        self._method = method
        self._bytes_behind_line = len(block) + body_bytes

    def target(self, data: bytes) -> Target | None:
        """Return what is asked for by bytes that are one whole request with this head; None for all others."""
        end = data.find(b"\r\n")
        if not data.startswith(self.block, end) or len(data) != end + self._bytes_behind_line:
            return None
        found = read_line(data[:end])
        return found if found is not None and found.method == self._method else None

    def body(self, data: bytes) -> bytes:
        """Return the body of a request with this head."""
        return data[data.find(b"\r\n") + len(self.block) :]


def remember(data: bytes, headers: Headers) -> Head | None:
    """Return the head of a request of HTTP/1.1 that a parser found to be all of ``data``.

    None where those with the same headers need the parser too.
    """
    end, stop = data.find(b"\r\n"), data.find(b"\r\n\r\n")
    line = read_line(data[:end]) if end > 0 else None
    if line is None or not end <= stop < end + BLOCK_BYTES_MAX:
        return None
    body_bytes = len(data) - stop - 4
    told = [value for name, value in headers if name == b"content-length"]
    if told != ([b"%d" % body_bytes] if told or body_bytes else []):
        return None
    if any(name in _PARSED_EACH_TIME for name, _ in headers):
        return None
    return Head(line.method, data[end : stop + 4], body_bytes, headers)
