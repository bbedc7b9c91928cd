"""Runs the actions that probes and hooks share: exec, httpGet, tcpSocket, grpc and sleep."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from node import http_get
from node.cri import Cri, CriError, CriTimeoutError
from node.pod_spec import ContainerSpec

MESSAGE_MAX = 10 * 1024


class HandlerError(Exception):
    """The action failed; the text says how."""


def port_number(wanted: ContainerSpec, port: int | str) -> int:
    """Return a port by number or by the name that the container gave it."""
    if isinstance(port, int):
        return port
    for entry in wanted.spec.get("ports") or ():
        if entry.get("name") == port:
            return int(entry["containerPort"])
    if port.isdigit():
        return int(port)
    raise HandlerError(f"couldn't find port: {port!r}")


class Handlers:
    """Runs actions in containers and against pods."""

    def __init__(self, cri: Cri) -> None:
        self._cri = cri

    async def run(
        self, action: Mapping[str, Any], wanted: ContainerSpec, container_id: str, pod_ip: str, timeout_s: float
    ) -> None:
        """Run one action to its end; raises HandlerError where it fails or takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._run(action, wanted, container_id, pod_ip, timeout_s)
        except TimeoutError:
            raise HandlerError(f"timed out after {timeout_s:g}s") from None
        except http_get.HttpGetError as error:
            raise HandlerError(str(error)) from error

    async def _run(
        self, action: Mapping[str, Any], wanted: ContainerSpec, container_id: str, pod_ip: str, timeout_s: float
    ) -> None:
        if action.get("exec"):
            await self._exec(action["exec"].get("command") or [], container_id, timeout_s)
        elif action.get("httpGet"):
            await self._http(action["httpGet"], wanted, pod_ip)
        elif action.get("tcpSocket"):
            socket = action["tcpSocket"]
            await self._tcp(socket.get("host") or pod_ip, port_number(wanted, socket["port"]))
        elif action.get("grpc"):
            wish = action["grpc"]
            await self._grpc(pod_ip, int(wish["port"]), wish.get("service") or "", timeout_s)
        elif action.get("sleep"):
            await asyncio.sleep(float(action["sleep"].get("seconds") or 0))
        else:
            raise HandlerError("no action given")

    async def _exec(self, command: list[str], container_id: str, timeout_s: float) -> None:
        try:
            done = await self._cri.exec_sync(container_id, command, timeout_s)
        except CriTimeoutError as error:
            raise HandlerError(f"command timed out: {' '.join(command)}") from error
        except CriError as error:
            raise HandlerError(error.message) from error
        if done.exit_code:
            text = (done.stdout + done.stderr)[:MESSAGE_MAX].decode(errors="replace").strip()
            raise HandlerError(text or f"command exited with {done.exit_code}")

    async def _http(self, wish: Mapping[str, Any], wanted: ContainerSpec, pod_ip: str) -> None:
        headers = {entry["name"]: entry["value"] for entry in wish.get("httpHeaders") or ()}
        port = port_number(wanted, wish["port"])
        host = wish.get("host") or pod_ip
        path = wish.get("path") or "/"
        path = path if path.startswith("/") else f"/{path}"
        status = await http_get.http_get(host, port, path, scheme=wish.get("scheme") or "HTTP", headers=headers)
        if not 200 <= status < 400:
            raise HandlerError(f"HTTP probe failed with statuscode: {status}")

    async def _tcp(self, host: str, port: int) -> None:
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            raise HandlerError(f"dial tcp {host}:{port}: {error.strerror or error}") from error
        writer.close()

    async def _grpc(self, host: str, port: int, service: str, timeout_s: float) -> None:
        import grpc.aio

        # grpc.health.v1.HealthCheckRequest{service = 1} and Response{status = 1}: too small for stubs of their own.
        name = service.encode()
        request = b"\x0a" + bytes([len(name)]) + name if name else b""
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            try:
                answer = await check(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise HandlerError(f"service unhealthy: {error.details()}") from error
        if bytes(answer) != b"\x08\x01":
            raise HandlerError("service unhealthy (responded with something other than SERVING)")
