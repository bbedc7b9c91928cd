"""Plain HTTP beside the gRPC door: /health, /readyz, /version and /metrics, as etcd answers them."""

from __future__ import annotations

import asyncio
import json
import logging

import h11

from store.api.backend import VERSION, Backend
from store.api.errors import EtcdError
from store.config import Address

log = logging.getLogger(__name__)

_READ_BYTES = 16 * 1024
_IDLE_TIMEOUT_S = 30.0
_CONNECTIONS_MAX = 64


class PlainDoor:
    """A small HTTP/1.1 server for probes and monitoring; it only reads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._servers: list[asyncio.Server] = []
        self._connections = 0

    async def listen(self, address: Address) -> int:
        """Begin to serve on an address and return its port."""
        server = await asyncio.start_server(self.serve, address.host, address.port)
        self._servers.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def stop(self) -> None:
        """Stop listening; open connections end with their idle time."""
        for server in self._servers:
            server.close()

    async def answer(self, path: str) -> tuple[int, str, bytes]:
        """The status, content type and body for a path."""
        match path:
            case "/health" | "/readyz" | "/livez":
                return await self._health(path)
            case "/version":
                body = {"etcdserver": VERSION, "etcdcluster": VERSION.rpartition(".")[0] + ".0"}
                return 200, "application/json", json.dumps(body, separators=(",", ":")).encode()
            case "/metrics":
                return 200, "text/plain; version=0.0.4; charset=utf-8", self._metrics()
            case _:
                return 404, "text/plain; charset=utf-8", b"404 page not found\n"

    async def _health(self, path: str) -> tuple[int, str, bytes]:
        reason = ""
        if self._backend.machine.alarms:
            reason = "ALARM NOSPACE" if self._backend.machine.has_no_space else "ALARM CORRUPT"
        elif path != "/livez":
            try:
                await self._backend.read_barrier()
            except EtcdError as error:
                reason = f"QGET ERROR:{error.text}"
        if path != "/health":
            return (503, "text/plain", reason.encode()) if reason else (200, "text/plain", b"ok\n")
        body = json.dumps({"health": "false" if reason else "true", "reason": reason}, separators=(",", ":"))
        return 503 if reason else 200, "application/json", body.encode()

    def _metrics(self) -> bytes:
        backend = self._backend
        store, consensus = backend.machine.store, backend.consensus
        facts: tuple[tuple[str, str, str, int], ...] = (
            ("etcd_server_has_leader", "gauge", "Whether or not a leader exists.", bool(consensus.leader_id)),
            ("etcd_server_is_leader", "gauge", "Whether or not this member is a leader.", consensus.is_leader),
            ("etcd_server_proposals_committed_total", "gauge", "Index of the last commit.", consensus.commit_index),
            ("etcd_server_proposals_applied_total", "gauge", "Index last applied.", consensus.applied_index),
            ("etcd_server_quota_backend_bytes", "gauge", "Size quota.", backend.limits.quota_backend_bytes),
            ("etcd_debugging_mvcc_keys_total", "gauge", "Keys.", len(store)),
            ("etcd_debugging_mvcc_current_revision", "gauge", "Newest revision.", store.current_revision),
            ("etcd_debugging_mvcc_compact_revision", "gauge", "Last compaction.", store.compact_revision),
            ("etcd_debugging_mvcc_watcher_total", "gauge", "Watchers.", len(backend.machine.watchers)),
            ("etcd_debugging_mvcc_watch_stream_total", "gauge", "Streams.", backend.machine.watchers.streams),
            ("etcd_debugging_lease_total", "gauge", "Leases.", len(backend.machine.lessor)),
            ("etcd_mvcc_db_total_size_in_bytes", "gauge", "Bytes of all kept records.", store.size_bytes),
            ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", "The same.", store.size_bytes),
        )
        lines = []
        for name, kind, help_text, value in facts:
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name} {int(value)}"]
        return ("\n".join(lines) + "\n").encode()

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
                path, method = event.target.decode("ascii", "replace").partition("?")[0], event.method
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
