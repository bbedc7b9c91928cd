"""The GET of probes against servers that speak as they do in the field."""

import asyncio

import pytest

from node.http_get import HttpGetError, http_get


async def answer_of(raw: bytes) -> int:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        host, port = server.sockets[0].getsockname()
        return await http_get(host, port, "/")


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, id="plain"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\n\nok\n", 200, id="CGI's bare line feeds"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", 204, id="no content"),
        pytest.param(b"HTTP/1.1 503 Busy\n\n", 503, id="no headers"),
    ],
)
async def test_answers(raw: bytes, status: int) -> None:
    assert await answer_of(raw) == status


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-x\r\n\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: b", id="cut off"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000 + b"\r\n", id="endless head"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000, id="endless line"),
    ],
)
async def test_no_answer(raw: bytes) -> None:
    with pytest.raises(HttpGetError):
        await answer_of(raw)
