"""The door to uvicorn: HTTP/1.1 over TLS, certificates in the scope, connections that can be taken over."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from control.apiserver.streams.upgrade import UpgradableProtocol

BACKLOG = 2048
KEEP_ALIVE_S = 120
GRACEFUL_SHUTDOWN_S = 5


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


async def serve(app: Any, bound: socket.socket, context: ssl.SSLContext | None) -> None:
    """Serve an ASGI application until cancelled, then let running requests end."""
    config = uvicorn.Config(
        app,
        http=UpgradableProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )
    config.load()
    config.ssl = context
    server = _Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await serving
        raise
