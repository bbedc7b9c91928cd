"""Answer health checks: the proxy's own on /healthz and /livez, and one port for each Local service.

A load balancer in front of the cluster asks `healthCheckNodePort` on each node whether the node has
endpoints of that Service; a node without answers 503 and gets no traffic.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

log = logging.getLogger(__name__)

REQUEST_TIMEOUT_S = 5.0
REQUEST_BYTES_MAX = 16 << 10
REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}

Answer = tuple[int, str, dict[str, str]]
"""Status code, body and further headers."""
Responder = Callable[[str], Awaitable[Answer]]
"""Answers a path."""


@dataclass(slots=True)
class Health:
    """Hold what the proxy knows of its own health; times are wall-clock seconds."""

    patience_s: float
    """How long a wanted sync may stay undone, in seconds."""
    last_synced_s: float = 0.0
    wanted_since_s: float | None = None
    node_eligible: bool = True
    """False while the Node is about to go: new traffic should not come here."""

    def want(self, now_s: float) -> None:
        """Note that a sync is due."""
        if self.wanted_since_s is None:
            self.wanted_since_s = now_s

    def synced(self, now_s: float) -> None:
        """Note that the kernel is as wanted."""
        self.last_synced_s, self.wanted_since_s = now_s, None

    def is_healthy(self, now_s: float) -> bool:
        """Tell whether the rules are up to date, or not late by much."""
        if self.wanted_since_s is None:
            return self.last_synced_s > 0
        return now_s - self.wanted_since_s < self.patience_s


def proxy_answer(health: Health, path: str, now_s: float) -> Answer:
    """Answer for the proxy: /livez is its own life, /healthz also whether the node takes traffic."""
    if path not in ("/healthz", "/livez"):
        return 404, "404 page not found\n", {}
    healthy = health.is_healthy(now_s) and (health.node_eligible or path == "/livez")
    body = {
        "lastUpdated": _time(health.last_synced_s),
        "currentTime": _time(now_s),
        "nodeEligible": health.node_eligible,
    }
    return (200 if healthy else 503), json.dumps(body), {}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def service_answer(service: str, endpoints: int, proxy_healthy: bool) -> Answer:
    """Answer for one Service: 200 where this node has endpoints of it."""
    namespace, _, name = service.partition("/")
    body = {
        "service": {"namespace": namespace, "name": name},
        "localEndpoints": endpoints,
        "serviceProxyHealthy": proxy_healthy,
    }
    code = 200 if endpoints and proxy_healthy else 503
    return code, json.dumps(body), {"X-Load-Balancing-Endpoint-Weight": str(endpoints)}


class HealthServer:
    """Listen on any number of ports, each with its own answers."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, int], asyncio.Server] = {}

    async def listen(self, address: str, port: int, respond: Responder) -> int:
        """Answer on a port; return the port, which the kernel chooses where it is 0."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _serve_one(reader, writer, respond)

        server = await asyncio.start_server(serve, address, port, limit=REQUEST_BYTES_MAX)
        self._servers[(address, port)] = server
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    def close(self, address: str, port: int) -> None:
        """Stop answering on a port."""
        server = self._servers.pop((address, port), None)
        if server is not None:
            server.close()

    def close_all(self) -> None:
        """Stop answering."""
        for address, port in list(self._servers):
            self.close(address, port)


async def _serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, respond: Responder) -> None:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            head = await reader.readuntil(b"\r\n\r\n")
            words = head.split(b"\r\n", 1)[0].split(b" ")
            path = words[1].decode("latin-1").partition("?")[0] if len(words) == 3 else "/"
            code, body, headers = await respond(path)
            payload = body.encode()
            lines = [
                f"HTTP/1.1 {code} {REASONS[code]}",
                "X-Content-Type-Options: nosniff",
                f"Content-Length: {len(payload)}",
                *(f"{name}: {value}" for name, value in {"Content-Type": "application/json", **headers}.items()),
                "Connection: close",
            ]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if words[0] == b"HEAD" else payload))
            await writer.drain()
    except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        log.debug("health check is cut short error=%s", error)
    finally:
        writer.close()
