"""Plain HTTP beside the gRPC door: /health, /readyz, /version and /metrics, as etcd answers them."""

from __future__ import annotations

import asyncio
import json
import logging
from urllib.parse import parse_qs

import h11

from store.api import metrics
from store.api.backend import VERSION, Backend
from store.api.health import TEXT, Answer, Health
from store.config import Address
from store.frontdoor.tls import Certificates, ServerTLS

log = logging.getLogger(__name__)

_QUERY_FIELDS_MAX = 32
_READ_BYTES = 16 * 1024
_IDLE_TIMEOUT_S = 30.0
_CONNECTIONS_MAX = 64


class PlainDoor:
    """A small HTTP/1.1 server for probes and monitoring; it only reads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._health = Health(backend)
        self._servers: list[asyncio.Server] = []
        self._connections = 0

    async def listen(self, address: Address, tls: ServerTLS | None = None) -> int:
        """Begin to serve on an address and return its port."""
        context = Certificates(tls, ("http/1.1",)).context if address.is_tls and tls is not None else None
        server = await asyncio.start_server(self.serve, address.host, address.port, ssl=context)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening; open connections end with their idle time."""
        for server in self._servers:
            server.close()

    async def answer(self, path: str) -> Answer:
        """The status, content type and body for a path and its query."""
        path, _, query_text = path.partition("?")
        try:
            query = parse_qs(query_text, keep_blank_values=True, max_num_fields=_QUERY_FIELDS_MAX)
        except ValueError:
            return 400, TEXT, b"too many fields in the query\n"
        match path:
            case "/health":
                return await self._health.health(query)
            case "/version":
                body = {"etcdserver": VERSION, "etcdcluster": VERSION.rpartition(".")[0] + ".0"}
                return 200, "application/json", json.dumps(body, separators=(",", ":")).encode()
            case "/metrics":
                return 200, "text/plain; version=0.0.4; charset=utf-8", metrics.text(self._backend)
        return await self._health.probe(path, query) or (404, TEXT, b"404 page not found\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self._connections += 1
        try:
            if self._connections <= _CONNECTIONS_MAX:
                async with asyncio.timeout(_IDLE_TIMEOUT_S):
                    await self._converse(reader, writer)
        except (OSError, TimeoutError, h11.RemoteProtocolError) as error:
            log.debug("probe connection ended reason=%r", error)
        finally:
            self._connections -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ_BYTES)
        path, method = "", b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(_READ_BYTES))
            elif isinstance(event, h11.Request):
                path, method = event.target.decode("ascii", "replace"), event.method
            elif isinstance(event, h11.EndOfMessage):
                status, content_type, body = (
                    await self.answer(path) if method in (b"GET", b"HEAD") else (405, "text/plain", b"")
                )
                headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
                writer.write(connection.send(h11.Response(status_code=status, headers=headers)) or b"")
                if method != b"HEAD":
                    writer.write(connection.send(h11.Data(data=body)) or b"")
                writer.write(connection.send(h11.EndOfMessage()) or b"")
                await writer.drain()
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return
