"""Serves port 10250: who asks, what for, and which part answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING

from control.api import meta
from control.api.status import ApiError
from control.client.certificates import CertificateError, CertificateFiles
from node import bootstrap, pod_spec
from node.container_slot import Slot
from node.cri import CriError
from node.pod_worker import PodWorker
from node.server import auth, figures
from node.server.connection import Connection, Request, RequestError
from node.server.container_log import LogOptions, LogReader
from node.server.relay import relay

if TYPE_CHECKING:
    from node.kubelet import Kubelet

log = logging.getLogger(__name__)

CERTIFICATE_RETRY_S = 1.0
CERTIFICATE_CHECK_S = 600.0
CONNECTIONS_MAX = 1000

Handler = Callable[[Connection, Request], Awaitable[None]]


class KubeletServer:
    """The kubelet's own API."""

    def __init__(self, kubelet: Kubelet) -> None:
        self._kubelet = kubelet
        config = kubelet.config
        self._authorizer = auth.Authorizer(
            kubelet.client,
            config.node_name,
            config.authorization_mode,
            token_webhook=config.authentication_token_webhook,
        )
        self._open = 0
        self.port = config.port
        """The port that is listened on, once `serving` is set."""
        self.serving = asyncio.Event()
        self._routes: dict[str, Handler] = {
            "healthz": self._healthz,
            "pods": self._pods,
            "containerLogs": self._container_logs,
            "exec": self._exec,
            "attach": self._attach,
            "portForward": self._port_forward,
            "stats": self._stats,
            "metrics": self._metrics,
            "story": self._story,
        }

    async def run(self) -> None:
        """Listen until cancelled, with a certificate that is renewed in time."""
        config = self._kubelet.config
        files = await self._certificate()
        context = auth.server_context(files.certificate, files.key, config.client_ca_file)
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                group.create_task(self._accept(reader, writer))

            server = await asyncio.start_server(accept, config.address, config.port, ssl=context, backlog=128)
            self.port = int(server.sockets[0].getsockname()[1])
            self.serving.set()
            log.info("serving address=%s port=%d", config.address, self.port)
            async with server:
                while True:
                    await asyncio.sleep(CERTIFICATE_CHECK_S)
                    files = await self._certificate()
                    context.load_cert_chain(files.certificate, files.key)  # new connections see the new one

    async def _certificate(self) -> CertificateFiles:
        while True:
            try:
                addresses = self._kubelet.node.host_ips
                return await bootstrap.serving_certificate(self._kubelet.config, self._kubelet.client, addresses)
            except (ApiError, CertificateError) as error:
                log.warning("cannot get the serving certificate, retrying error=%s", error)
                await asyncio.sleep(CERTIFICATE_RETRY_S)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self._open += 1
        try:
            await self._serve(connection, writer)
        except* (EOFError, OSError) as errors:
            log.debug("connection ended errors=%r", errors.exceptions)
        except* Exception:
            log.exception("connection failed")  # one caller's fault must not end the others
        finally:
            self._open -= 1
            writer.close()

    async def _serve(self, connection: Connection, writer: asyncio.StreamWriter) -> None:
        try:
            user, groups = auth.identity(writer.get_extra_info("peercert"))
            request = await connection.request(user, groups)
            if self._open > CONNECTIONS_MAX:
                raise RequestError(503, "too many connections")
            await self._authorizer.check(request)
            handler = self._routes.get(request.parts[0])
            if handler is None:
                raise RequestError(404, "404 page not found")
            await handler(connection, request)
        except (RequestError, CriError) as error:
            status = error.status if isinstance(error, RequestError) else 500
            if not connection.answered:
                await connection.answer(status, f"{error}\n")
        except (EOFError, OSError):
            raise
        except Exception:
            if not connection.answered:
                await connection.answer(500, "internal error\n")
            raise

    # --- answers ----------------------------------------------------------------------------------------

    async def _healthz(self, connection: Connection, _request: Request) -> None:
        await connection.answer(200, "ok")

    async def _pods(self, connection: Connection, _request: Request) -> None:
        items = [running.worker.runtime.pod for running in self._kubelet.workers.values()]
        await connection.answer_json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

    async def _story(self, connection: Connection, request: Request) -> None:
        """Tell how a pod came to be where it is; ours alone."""
        worker = self._worker(request)
        await connection.answer(200, "\n".join(worker.machine.story()) + "\n")

    async def _stats(self, connection: Connection, _request: Request) -> None:
        usages = await self._kubelet.cri.stats()
        await connection.answer_json(figures.summary(self._kubelet.config.node_name, usages, time.time()))

    async def _metrics(self, connection: Connection, _request: Request) -> None:
        text = figures.metrics(
            pods=len(self._kubelet.workers),
            containers=sum(info.state == "running" for info in self._kubelet.pleg.containers),
            usages=await self._kubelet.cri.stats(),
        )
        await connection.answer(200, text, "text/plain; version=0.0.4; charset=utf-8")

    # --- logs -------------------------------------------------------------------------------------------

    async def _container_logs(self, connection: Connection, request: Request) -> None:
        worker = self._worker(request)
        slot = self._slot(worker, request)
        previous = request.flag("previous")
        attempt = self._attempt(worker, slot, previous=previous)
        path = worker.runtime.paths.log(slot.name, attempt)
        options = log_options(request, time.time())

        def running() -> bool:
            current = slot.current
            return current is not None and current.attempt == attempt and current.state != "exited"

        await connection.stream(LogReader(path, options, running).read())

    def _attempt(self, worker: PodWorker, slot: Slot, *, previous: bool) -> int:
        pod = meta.name(worker.runtime.pod)
        if previous:
            # Between two instances the one that has ended last is the previous one.
            ended = slot.current if slot.current is not None and not slot.current.live else slot.previous
            if slot.current is not None and slot.current.live:
                ended = slot.previous
            if ended is None:
                raise RequestError(400, f'previous terminated container "{slot.name}" in pod "{pod}" not found')
            return ended.attempt
        if slot.current is None:
            state = "ContainerCreating" if slot.state != "image-backoff" else "trying and failing to pull image"
            if slot.state == "image-backoff":
                raise RequestError(400, f'container "{slot.name}" in pod "{pod}" is waiting to start: {state}')
            raise RequestError(400, f'container "{slot.name}" in pod "{pod}" is waiting to start: {state}')
        return slot.current.attempt

    # --- streams ----------------------------------------------------------------------------------------

    async def _exec(self, connection: Connection, request: Request) -> None:
        container_id = self._running_container(request)
        command = list(request.query.get("command", ()))
        if not command:
            raise RequestError(400, "you must specify at least 1 command")
        stdin, stdout, stderr, tty = _streams(request)
        url = await self._kubelet.cri.exec_url(
            container_id, command, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty
        )
        await self._carry(connection, request, url)

    async def _attach(self, connection: Connection, request: Request) -> None:
        container_id = self._running_container(request)
        stdin, stdout, stderr, tty = _streams(request)
        url = await self._kubelet.cri.attach_url(container_id, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
        await self._carry(connection, request, url)

    async def _carry(self, connection: Connection, request: Request, url: str) -> None:
        """Carry a remote command by what the client speaks: WebSocket is translated, SPDY passes through."""
        if request.upgrade == "websocket":
            from node.server import bridge  # loaded at the first use: most kubelets run for days without one

            if bridge.offered(request).intersection(bridge.COMMAND_PROTOCOLS):
                await bridge.command(connection, request, url, bridge.Wanted(*_streams(request)))
                return
        await relay(connection, request, url)

    async def _port_forward(self, connection: Connection, request: Request) -> None:
        worker = self._worker(request)
        sandbox = worker.machine.sandbox
        if sandbox is None:
            raise RequestError(400, f"pod {meta.name(worker.runtime.pod)} is not running")
        ports = [int(port) for port in request.query.get("port", ()) if port.isdigit()]
        url = await self._kubelet.cri.port_forward_url(sandbox.id, ports)
        if request.upgrade == "websocket":
            from node.server import bridge

            if bridge.TUNNEL_PROTOCOL in bridge.offered(request):
                await bridge.tunnel(connection, request, url)
                return
        await relay(connection, request, url)

    # --- finding ----------------------------------------------------------------------------------------

    def _worker(self, request: Request) -> PodWorker:
        if len(request.parts) < 3:
            raise RequestError(404, "404 page not found")
        namespace, name = request.parts[1:3]
        for running in reversed(self._kubelet.workers.values()):  # of two pods of a name the newer one is meant
            pod = running.worker.runtime.pod
            if meta.name(pod) == name and meta.namespace(pod) == namespace:
                return running.worker
        raise RequestError(404, f"pod {namespace}/{name} not found")

    def _slot(self, worker: PodWorker, request: Request) -> Slot:
        name = request.parts[-1]
        slot = worker.machine.slots.get(name)
        if slot is None or pod_spec.container(worker.runtime.pod, name) is None:
            raise RequestError(404, f"container {name} not found in pod {meta.name(worker.runtime.pod)}")
        return slot

    def _running_container(self, request: Request) -> str:
        slot = self._slot(self._worker(request), request)
        if slot.current is None or slot.current.state != "running":
            raise RequestError(500, f'container not found ("{slot.name}")')
        return slot.current.id


def _streams(request: Request) -> tuple[bool, bool, bool, bool]:
    """Return stdin, stdout, stderr and tty; a terminal has no stderr of its own."""
    tty = request.flag("tty")
    stdin, stdout, stderr = request.flag("input"), request.flag("output"), request.flag("error") and not tty
    if not (stdin or stdout or stderr):
        raise RequestError(400, "you must specify at least 1 of stdin, stdout, stderr")
    return stdin, stdout, stderr, tty


def log_options(request: Request, now: float) -> LogOptions:
    """PURE: return what part of a log a request wants."""
    try:
        since: float | None = None
        if request.first("sinceTime"):
            since = datetime.fromisoformat(str(request.first("sinceTime"))).timestamp()
        elif request.first("sinceSeconds"):
            since = now - int(str(request.first("sinceSeconds")))
        tail, limit = request.first("tailLines"), request.first("limitBytes")
        return LogOptions(
            follow=request.flag("follow"),
            timestamps=request.flag("timestamps"),
            tail_lines=int(tail) if tail else None,
            limit_bytes=int(limit) if limit else None,
            since=since,
            stream=request.first("stream") or "All",
        )
    except ValueError as error:
        raise RequestError(400, f"Unable to decode query: {error}") from error
