"""Clients that others have written: grpcio in both styles, TLS with and without certificates, curl, h2load."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lab import pki
from store.frontdoor.abuse import Limits
from store.frontdoor.tls import ServerTLS
from tests.store.frontdoor.conftest import (
    DIRECT,
    ECHO,
    FAIL,
    HANG,
    POUR,
    POURED_BYTES,
    REFUSE,
    REQUEST_BYTES_MAX,
    TALK,
    Running,
    eventually,
    running,
)

LARGE = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Certificates of a server and of a client named ann."""
    authority = pki.make_authority(tmp_path, "ca", "store")
    pki.issue(authority, tmp_path, "server", "server", usages=[pki.SERVER], addresses=["127.0.0.1"])
    pki.issue(authority, tmp_path, "ann", "ann", usages=[pki.CLIENT])
    return tmp_path


def tls_of(files: Path, *, client_cert_auth: bool = False) -> ServerTLS:
    return ServerTLS(files / "server.crt", files / "server.key", files / "ca.crt", client_cert_auth)


def credentials(files: Path, *, with_certificate: bool) -> grpc.ChannelCredentials:
    authority, certificate, key = ((files / name).read_bytes() for name in ("ca.crt", "ann.crt", "ann.key"))
    if with_certificate:
        return grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.ssl_channel_credentials(authority)


def unary(channel: grpc.aio.Channel, path: str) -> Any:
    return channel.unary_unary(path)


async def test_grpcio_speaks_to_every_kind_of_method(door: Running) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}", LARGE) as channel:
        for body in (b"", b"a", bytes(REQUEST_BYTES_MAX)):
            assert await unary(channel, ECHO)(body) == body
            assert await unary(channel, DIRECT)(body) == body
            assert await unary(channel, ECHO)(body, compression=grpc.Compression.Gzip) == body
        for path, code, text in (
            (REFUSE, grpc.StatusCode.INVALID_ARGUMENT, "100% wrong:\nzwölf"),
            (FAIL, grpc.StatusCode.UNKNOWN, "ValueError: a defect"),
            ("/t.T/None", grpc.StatusCode.UNIMPLEMENTED, "unknown method None for service t.T"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await unary(channel, path)(b"")
            assert (refused.value.code(), refused.value.details()) == (code, text)
        too_large = bytes(REQUEST_BYTES_MAX + 600_000)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await unary(channel, ECHO)(too_large)
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await unary(channel, ECHO)(b"still here") == b"still here"


async def test_grpcio_streams(door: Running) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}", LARGE) as channel:
        talk: Any = channel.stream_stream(TALK)()
        for size in (0, 1, 100_000, REQUEST_BYTES_MAX):
            await talk.write(bytes(size))
            assert await talk.read() == bytes(size)
        await talk.done_writing()
        assert await talk.read() is grpc.aio.EOF
        assert await talk.code() == grpc.StatusCode.OK
        pour: Any = channel.stream_stream(POUR)()
        await pour.write(b"")
        for _ in range(200):
            assert len(await pour.read()) == POURED_BYTES
        pour.cancel()
        await eventually(lambda: not door.methods.running)


async def test_grpcio_gives_up_by_deadline_and_by_cancelling(door: Running) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await unary(channel, HANG)(b"", timeout=0.1)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        call = unary(channel, HANG)(b"")
        await eventually(lambda: door.methods.running == 1)
        call.cancel()
        await eventually(lambda: door.methods.running == 0)


async def test_many_calls_at_once_each_get_their_own_answer(door: Running) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        method = {path: unary(channel, path) for path in (ECHO, DIRECT)}
        bodies = [b"%d" % number for number in range(1000)]
        answers = await asyncio.gather(
            *(method[(ECHO, DIRECT)[number % 2]](body, timeout=30) for number, body in enumerate(bodies))
        )
    assert answers == bodies


async def test_grpcio_in_threads(door: Running) -> None:
    def converse() -> list[bytes]:
        with grpc.insecure_channel(f"127.0.0.1:{door.port}") as channel:
            method: Any = channel.unary_unary(ECHO)
            talk: Any = channel.stream_stream(TALK)

            def words() -> Iterator[bytes]:
                yield from (b"a", b"b")

            return [method(b"x", timeout=10, metadata=(("k", "v"), ("k-bin", b"\0\1"))), *talk(words(), timeout=10)]

    assert await asyncio.to_thread(converse) == [b"x", b"a", b"b"]
    assert door.methods.calls[0].metadata["k"] == "v"


@pytest.mark.parametrize("client_cert_auth", [False, True], ids=["TLS", "mutual TLS"])
async def test_grpcio_over_tls(files: Path, client_cert_auth: bool) -> None:
    async with running(tls=tls_of(files, client_cert_auth=client_cert_auth)) as served:
        target = f"127.0.0.1:{served.port}"
        async with grpc.aio.secure_channel(target, credentials(files, with_certificate=True), LARGE) as channel:
            assert await unary(channel, ECHO)(bytes(REQUEST_BYTES_MAX), timeout=20) == bytes(REQUEST_BYTES_MAX)
        assert served.methods.calls[0].common_name == ("ann" if client_cert_auth else "")
        async with grpc.aio.secure_channel(target, credentials(files, with_certificate=False)) as channel:
            call = unary(channel, ECHO)(b"", timeout=10)
            if client_cert_auth:
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
            else:
                assert await call == b""


async def test_a_renewed_authority_counts_from_the_next_connection_on(files: Path) -> None:
    async with running(tls=tls_of(files, client_cert_auth=True)) as served:
        target = f"127.0.0.1:{served.port}"
        old = credentials(files, with_certificate=True)
        async with grpc.aio.secure_channel(target, old) as channel:
            assert await unary(channel, ECHO)(b"", timeout=10) == b""
            renewed = pki.make_authority(files, "ca", "another")
            pki.issue(renewed, files, "server", "server", usages=[pki.SERVER], addresses=["127.0.0.1"])
            pki.issue(renewed, files, "ann", "ann", usages=[pki.CLIENT])
            assert await unary(channel, ECHO)(b"", timeout=10) == b"", "what is open stays open"
        for creds, is_served in ((credentials(files, with_certificate=True), True), (old, False)):
            async with grpc.aio.secure_channel(target, creds) as channel:
                call = unary(channel, ECHO)(b"", timeout=10)
                if is_served:
                    assert await call == b""
                else:
                    with pytest.raises(grpc.aio.AioRpcError):
                        await call


@pytest.mark.parametrize("broken", ["server.crt", "server.key", "ca.crt"])
async def test_files_that_are_broken_leave_those_that_were_in_use(files: Path, broken: str) -> None:
    async with running(tls=tls_of(files)) as served:
        creds = credentials(files, with_certificate=False)
        (files / broken).write_text("nonsense")
        async with grpc.aio.secure_channel(f"127.0.0.1:{served.port}", creds) as channel:
            assert await unary(channel, ECHO)(b"", timeout=10) == b""


async def test_http_1_is_served_over_tls_by_alpn(files: Path) -> None:
    async with running(tls=tls_of(files)) as served:

        def get(protocols: list[str]) -> tuple[int, bytes]:
            context = ssl.create_default_context(cafile=files / "ca.crt")
            if protocols:
                context.set_alpn_protocols(protocols)
            connection = http.client.HTTPSConnection("127.0.0.1", served.port, context=context, timeout=10)
            connection.request("GET", "/health")
            response = connection.getresponse()
            return response.status, response.read()

        for protocols in ([], ["http/1.1"]):
            assert await asyncio.to_thread(get, protocols) == (200, b"fine\n")


async def test_a_handshake_that_does_not_go_on_is_left(files: Path) -> None:
    async with running(Limits(handshake_timeout_s=0.3), tls_of(files)) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        writer.close()


async def output_of(*command: str) -> str:
    program = shutil.which(command[0])
    assert program, f"{command[0]} is not installed"
    process = await asyncio.create_subprocess_exec(
        program, *command[1:], stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    assert process.returncode == 0, output
    return output.decode()


@pytest.mark.root
async def test_curl_gets_pages_in_every_way(door: Running, files: Path) -> None:
    plain = f"http://127.0.0.1:{door.port}/health"
    assert await output_of("curl", "-sS", "--http2-prior-knowledge", plain) == "fine\n"
    assert await output_of("curl", "-sS", "--http1.1", plain) == "fine\n"
    async with running(tls=tls_of(files)) as served:
        secured = f"https://127.0.0.1:{served.port}/health"
        for way in ("--http2", "--http1.1"):
            assert await output_of("curl", "-sS", way, "--cacert", str(files / "ca.crt"), secured) == "fine\n"


@pytest.mark.root
async def test_h2load_gets_all_its_answers(door: Running, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"\0\0\0\0\5hello")
    for clients, streams in ((1, 1), (8, 8), (1000, 1)):
        said = await output_of(
            *("h2load", "-n", "5000", "-c", str(clients), "-m", str(streams), "-d", str(body)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"http://127.0.0.1:{door.port}{DIRECT}",
        )
        assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in said
