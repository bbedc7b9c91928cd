"""Requests whose head is known: whatever arrives in whatever pieces, it is read as by the parser alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.apiserver.rest import connection as http
from control.apiserver.rest.connection import Connection, Request
from control.apiserver.rest.recall import Head, read_line, remember

GET = b"GET %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer y\r\n\r\n"
POST = b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n%b"
WHOLE = [
    GET % b"/a",
    GET % b"/b?c=d",
    GET % b"/%41#f",
    GET % b"/\xc3\xa4",
    GET % b"/a b",
    GET % b"/a HTTP/1.1\r\nx: y\r\nz: GET /b",
    POST % (b"/a", b"abc"),
    POST % (b"/b", b"\r\n\r"),
    POST % (b"/c", b"ab"),
    POST % (b"/d", b"abcd"),
    b"PUT /a HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"GET /a HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc",
    b"GET /a HTTP/1.0\r\nhost: x\r\nauthorization: Bearer y\r\n\r\n",
    b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    b"POST /a HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    b"GET /a HTTP/1.1\nhost: x\nauthorization: Bearer y\r\n\r\n",
    b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n\r\n",
    b"GET /\r\n\r\n",
    b"\r\n",
]


class Transport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: Any = None, low: Any = None) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Desk:
    """Answers each request when it is whole, with what it was."""

    ending = False
    date = b""
    head_timeout_s = keep_alive_s = 1.0
    prompt = None

    def __init__(self) -> None:
        self.loop = self
        self.connections: set[Any] = set()
        self.seen: list[Any] = []
        self.begun: list[Request] = []

    def time(self) -> float:
        return 0.0

    def leave(self, connection: Any) -> None:
        pass

    def run(self, request: Request) -> None:
        self.begun.append(request)

    def answer(self) -> None:
        while self.begun and self.begun[0]._ended:
            request = self.begun.pop(0)
            scope = {key: value for key, value in request.scope.items() if not callable(value)}
            self.seen.append((scope, b"".join(request._parts)))
            request.answer(200, [], b"")


def read(pieces: Sequence[bytes]) -> tuple[list[Any], bytes, bool]:
    desk, transport = Desk(), Transport()
    connection = Connection(desk)  # type: ignore[arg-type]
    connection.connection_made(transport)
    for piece in pieces:
        if transport.closed:
            break
        connection.data_received(piece)
        desk.answer()
    return desk.seen, transport.written, transport.closed


requests = st.sampled_from(WHOLE)
pieces = st.one_of(
    st.lists(requests, min_size=1, max_size=8),
    st.tuples(st.lists(requests, min_size=1, max_size=6), st.integers(0, 200), st.integers(0, 200)).map(
        lambda made: _cut(b"".join(made[0]), made[1], made[2])
    ),
    st.lists(st.one_of(requests, st.tuples(requests, st.integers(0, 90), st.binary(max_size=3)).map(
        lambda made: made[0][: made[1]] + made[2] + made[0][made[1] + len(made[2]) :])), min_size=1, max_size=6),
)  # fmt: skip


def _cut(data: bytes, first: int, second: int) -> list[bytes]:
    low, high = sorted((first, second))
    return [piece for piece in (data[:low], data[low:high], data[high:]) if piece]


@given(pieces)
def test_everything_is_read_as_by_the_parser(sent: list[bytes]) -> None:
    known = read(sent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http, "remember", lambda data, headers: None)
        assert read(sent) == known


def test_repeated_heads_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    original = Head.target

    def noted(head: Head, data: bytes) -> Any:
        target = original(head, data)
        found.append(target is not None)
        return target

    monkeypatch.setattr(Head, "target", noted)
    read([GET % b"/a", GET % b"/b", GET % b"/a?c", POST % (b"/a", b"abc"), POST % (b"/b", b"def"), GET % b"/d"])
    assert found == [True, True, True, True]


@pytest.mark.parametrize(
    "line",
    [b"GET / HTTP/1.0", b"GET  / HTTP/1.1", b"GET /a b HTTP/1.1", b"HEAD / HTTP/1.1", b"GET /\x7f HTTP/1.1",
     b"GET /# HTTP/1.1", b"GET http://x/ HTTP/1.1", b"GET / HTTP/1.1 ", b""],
)  # fmt: skip
def test_lines_that_are_left_to_the_parser(line: bytes) -> None:
    assert read_line(line) is None


def test_a_body_of_another_length_is_left_to_the_parser() -> None:
    head = remember(POST % (b"/a", b"abc"), [(b"host", b"x"), (b"content-length", b"3")])
    assert head is not None
    assert head.target(POST % (b"/b", b"def")) is not None
    assert head.target(POST % (b"/b", b"de")) is None
    assert head.target(POST % (b"/b", b"defg")) is None
    assert head.target(GET % b"/b") is None
