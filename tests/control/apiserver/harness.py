"""An API server without wires: the REST application over a store in memory, asked by calling it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from control.apiserver import kinds
from control.apiserver.config import ApiServerConfig, EtcdConfig
from control.apiserver.feed import Feed
from control.apiserver.pods import PodSubresources
from control.apiserver.registry import Registry, Settings
from control.apiserver.request import (
    AdmissionRequest,
    Credentials,
    Decision,
    Handlers,
    RequestInfo,
    UserInfo,
)
from control.apiserver.rest.app import App
from control.apiserver.rest.discovery import Discovery
from control.apiserver.rest.health import Health, fine
from control.apiserver.rest.openapi import OpenAPI
from control.apiserver.service import Service
from tests.fakes.fake_store import FakeStore

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


class OpenDoor:
    """Lets everybody in, as the user that the authorization header names, and admits everything."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.seen: list[AdmissionRequest] = []

    async def authenticate(self, credentials: Credentials) -> UserInfo | None:
        return UserInfo(credentials.authorization) if credentials.authorization else None

    async def authorize(self, user: UserInfo, info: RequestInfo) -> Decision:
        return self.decide(user)

    def decide(self, user: UserInfo) -> Decision:
        return Decision(user.name not in self.denied, "")

    async def mutate(self, request: AdmissionRequest) -> None:
        self.seen.append(request)

    async def validate(self, request: AdmissionRequest) -> None:
        pass


@dataclass
class Answer:
    """What came back."""

    code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Api:
    """The application and everything below it."""

    def __init__(self, store: FakeStore, config: ApiServerConfig) -> None:
        self.store = store
        self.door = OpenDoor()
        self.feed = Feed(store, kinds.load())  # type: ignore[arg-type]
        self.registry = Registry(store, self.feed, Settings())  # type: ignore[arg-type]
        self.registry.admission = self.door
        self.handlers = Handlers()
        self.service = Service(config, self.registry, self.handlers, self.door, self.door)
        PodSubresources(self.registry).install(self.handlers)
        health = Health({"ping": fine}, {})
        self.app = App(self.service, Discovery(self.feed.kinds), health, OpenAPI(self.feed.kinds))

    def scope(self, method: str, url: str, headers: dict[str, str]) -> dict[str, Any]:
        path, _, query = url.partition("?")
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}

    async def ask(
        self, method: str, url: str, body: Any = None, *, content_type: str = "application/json", **headers: str
    ) -> Answer:
        """Send one request and return its whole answer."""
        data = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        sent = {"content-type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        answer = Answer()

        async def receive() -> Any:
            return {"type": "http.request", "body": data, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.code = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.body += message.get("body", b"")

        await self.app(self.scope(method, url, sent), receive, send)
        return answer

    @asynccontextmanager
    async def watch(self, url: str, **headers: str) -> AsyncIterator[asyncio.Queue[Any]]:
        """Open a watch; its events arrive in the queue, and None at its end."""
        events: asyncio.Queue[Any] = asyncio.Queue()
        hung_up = asyncio.Event()
        begun = asyncio.Event()

        async def receive() -> Any:
            await hung_up.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start" and message["status"] != 200:
                events.put_nowait(message["status"])
            begun.set()
            for line in message.get("body", b"").splitlines():
                events.put_nowait(orjson.loads(line))

        async def run() -> None:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            await self.app(self.scope("GET", url, sent), receive, send)
            events.put_nowait(None)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run())
            await asyncio.wait_for(begun.wait(), 5)
            yield events
            hung_up.set()


async def next_event(events: asyncio.Queue[Any]) -> Any:
    """Return the next event."""
    return await asyncio.wait_for(events.get(), 5)


@asynccontextmanager
async def running(store: FakeStore | None = None, **settings: Any) -> AsyncIterator[Api]:
    """Run an API server's parts around a store in memory."""
    config = ApiServerConfig(EtcdConfig(("fake",)), **settings)
    api = Api(store or FakeStore(), config)
    following = asyncio.ensure_future(api.feed.run())
    await api.feed.ready()
    try:
        yield api
    finally:
        following.cancel()
        await asyncio.wait([following])


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "busybox"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def deployment(name: str, replicas: int = 1) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }
