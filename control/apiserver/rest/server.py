"""The door to uvicorn: HTTP/1.1 over TLS, certificates in the scope, connections that can be taken over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from control.apiserver.streams.upgrade import UpgradableProtocol

BACKLOG = 2048
KEEP_ALIVE_S = 120
STREAMS_END_S = 5.0
"""How long streams may go on when the server ends; requests end in their own time."""
HEAD_BYTES_MAX = 128 << 10
HEAD_TIMEOUT_S = 30.0
"""A connection that has not sent a whole request line and headers by then is closed."""
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class CertificateProtocol(UpgradableProtocol):
    """Puts ``certificate`` (DER, None without one) into scope["state"].

    It bounds what uvicorn does not: the bytes of a request's head, and the time that one may take to arrive.
    """

    _head_bytes = 0
    _in_head = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Remember who is at the other end."""
        tls = transport.get_extra_info("ssl_object")
        certificate = tls.getpeercert(True) if tls is not None else None
        self.app_state = {**self.app_state, "certificate": certificate}
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._head_arrived()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_arrived()
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._in_head, self._head_bytes = True, 0
        self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand the request on."""
        self._in_head = False
        self._head_arrived()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless it is a head without end."""
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.write(_HEAD_TOO_LARGE)
                self.transport.close()
                return
        super().data_received(data)


class _Server(uvicorn.Server):
    """A server whose life is its task's: no signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def tls_context(certificate: Path, key: Path, client_ca_files: tuple[Path, ...]) -> ssl.SSLContext:
    """Return a server's context that asks for client certificates and takes requests without one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    context.set_alpn_protocols(["http/1.1"])
    for path in client_ca_files:
        context.load_verify_locations(path)
    context.verify_mode = ssl.CERT_OPTIONAL if client_ca_files else ssl.CERT_NONE
    return context


def bind(address: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((address, port))
    bound.listen(BACKLOG)
    bound.setblocking(False)
    return bound


def never() -> bool:
    """Say no."""
    return False


async def serve(
    app: Any, bound: socket.socket, context: ssl.SSLContext | None, busy: Callable[[], bool] = never
) -> None:
    """Serve an ASGI application until cancelled, then for as long as it is ``busy`` with requests."""
    config = uvicorn.Config(
        app,
        http=CertificateProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()
    config.ssl = context
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        await _drain(server, serving, busy)
        raise


async def _drain(server: _Server, serving: asyncio.Future[None], busy: Callable[[], bool]) -> None:
    """Take no more connections, wait for requests, and cut off what goes on without end."""
    server.should_exit = True
    await asyncio.wait([serving], timeout=STREAMS_END_S)
    while busy() and not serving.done():
        await asyncio.wait([serving], timeout=0.1)
    server.force_exit = True
    for task in server.server_state.tasks:
        task.cancel()
    await asyncio.wait([serving], timeout=STREAMS_END_S)
