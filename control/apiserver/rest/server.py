"""HTTP/1.1 over TLS on one socket: client certificates are asked for, not demanded."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from control.apiserver.rest.connection import HEAD_BYTES_MAX as HEAD_BYTES_MAX
from control.apiserver.rest.connection import Connection
from control.apiserver.rest.door import Application, Door, Prompt

BACKLOG = 2048
KEEP_ALIVE_S = 120
STREAMS_END_S = 5.0
"""How long streams may go on when the server ends; requests end in their own time."""
HEAD_TIMEOUT_S = 30.0
"""A connection that has not sent a whole request line and headers by then is closed."""


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
    app: Application,
    bound: socket.socket,
    context: ssl.SSLContext | None,
    busy: Callable[[], bool] = never,
    prompt: Prompt | None = None,
) -> None:
    """Serve an ASGI application until cancelled, then for as long as it is ``busy`` with requests."""
    door = Door(app, HEAD_TIMEOUT_S, KEEP_ALIVE_S, prompt)
    listening = await door.loop.create_server(lambda: Connection(door), sock=bound, ssl=context, backlog=BACKLOG)
    try:
        await door.watch_over()
    finally:
        listening.close()
        await door.end(STREAMS_END_S, busy)
