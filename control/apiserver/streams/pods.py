"""pods/log, exec, attach and portforward: each goes on to the kubelet of the pod's node."""

from __future__ import annotations

from dataclasses import replace

from control.api.meta import Object
from control.api.resources import PODS
from control.api.status import bad_request, method_not_supported
from control.apiserver.authz.attributes import forbidden_error
from control.apiserver.authz.authorizer import ModeAuthorizer, attributes_of
from control.apiserver.request import Handlers, StreamRequest
from control.apiserver.streams import target
from control.apiserver.streams.kubelets import Kubelets
from control.apiserver.streams.relay import is_upgrade, relay_http, relay_upgrade
from control.apiserver.streams.web_socket import carried, wants_web_socket
from control.client.client import Client

UPGRADE_REQUIRED = "unable to upgrade: missing upgrade headers in request"


class PodStreams:
    """Serves the streams of pods."""

    def __init__(self, client: Client, kubelets: Kubelets, authorizer: ModeAuthorizer) -> None:
        self._client = client
        self._kubelets = kubelets
        self._authorizer = authorizer

    def register(self, handlers: Handlers) -> None:
        """Plug into the API server."""
        handlers.add_stream(PODS, "log", self.log)
        handlers.add_stream(PODS, "exec", self.exec)
        handlers.add_stream(PODS, "attach", self.attach)
        handlers.add_stream(PODS, "portforward", self.port_forward)

    async def log(self, request: StreamRequest) -> None:
        """Stream a container's log."""
        if request.scope["method"] != "GET":
            raise method_not_supported("pods/log", request.info.verb)
        pod = await self._pod(request)
        path = target.log_path(pod, request.query)
        node = target.host_of(pod)
        if wants_web_socket(request.headers):
            request = carried(request)
        if not node:
            await _send_nothing(request)
            return
        await relay_http(request, await self._kubelets.backend(node, path))

    async def exec(self, request: StreamRequest) -> None:
        """Run a command in a container."""
        await self._enter(request, "exec")

    async def attach(self, request: StreamRequest) -> None:
        """Join a container's main process."""
        await self._enter(request, "attach")

    async def port_forward(self, request: StreamRequest) -> None:
        """Reach ports of a pod."""
        self._require_create(request)
        pod = await self._pod(request)
        await self._upgraded(request, pod, target.port_forward_path(pod, request.query))

    async def _enter(self, request: StreamRequest, what: str) -> None:
        self._require_create(request)
        pod = await self._pod(request)
        target.refuse_completed(pod, "exec into" if what == "exec" else "attach to")
        await self._upgraded(request, pod, target.exec_path(pod, request.query, what))

    async def _upgraded(self, request: StreamRequest, pod: Object, path: str) -> None:
        node = target.host_of(pod)
        if not node:
            raise target.no_host(pod)
        if not is_upgrade(request):
            raise bad_request(UPGRADE_REQUIRED)
        await relay_upgrade(request, await self._kubelets.backend(node, path))

    def _require_create(self, request: StreamRequest) -> None:
        """A WebSocket arrives as GET, yet whoever may only read must not enter: ask for create too."""
        if request.info.verb == "create":
            return
        question = attributes_of(request.user, replace(request.info, verb="create"))
        verdict = self._authorizer.judge(question)
        if not verdict.allowed:
            raise forbidden_error(question, verdict.reason)

    async def _pod(self, request: StreamRequest) -> Object:
        return await self._client.get(PODS, request.info.name, request.info.namespace)


async def _send_nothing(request: StreamRequest) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"0")]
    await request.send({"type": "http.response.start", "status": 200, "headers": headers})
    await request.send({"type": "http.response.body", "body": b""})
