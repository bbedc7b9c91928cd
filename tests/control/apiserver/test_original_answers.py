"""What an original of Kubernetes answered is what we answer: its custom resources, request by request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from control.apiserver.custom.keeper import DefinitionKeeper
from control.apiserver.loopback import LoopbackClient
from tests.control.apiserver.harness import Api, running
from tests.control.apiserver.originals.conversations import Conversation, Reply, conversations

WATCH_DEADLINE_S = 10.0


class InProcess:
    """Carries requests to an application by calling it."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def ask(self, method: str, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send a request and return the answer."""
        return await self._call(method, url, headers, body, None)

    async def watch(self, url: str, headers: Mapping[str, str], count: int | None) -> Reply:
        """Read a watch to its ``count``-th event."""
        async with asyncio.timeout(WATCH_DEADLINE_S):
            return await self._call("GET", url, headers, b"", count)

    async def _call(self, method: str, url: str, headers: Mapping[str, str], body: bytes, count: int | None) -> Reply:
        code, found, parts = 0, dict[str, list[str]](), list[bytes]()
        heard = asyncio.Event()
        bodies = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if bodies:
                return bodies.pop()
            await heard.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                for name, value in message["headers"]:
                    found.setdefault(name.decode(), []).append(value.decode())
            else:
                parts.append(message.get("body", b""))
            if count and b"".join(parts).count(b"\n") >= count:
                heard.set()

        sent = {"authorization": "somebody", "content-length": str(len(body)), **headers}
        await self._api.app(self._api.scope(method, url, sent), receive, send)
        return Reply(code, found, b"".join(parts))


@asynccontextmanager
async def serving() -> AsyncIterator[InProcess]:
    """Run an API server that serves what definitions define."""
    async with running() as api:
        client = LoopbackClient()
        client.service = api.service
        keeper = DefinitionKeeper(api.feed, client)
        await keeper.start()
        keeping = asyncio.ensure_future(keeper.run())
        try:
            yield InProcess(api)
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


@pytest.mark.parametrize("conversation", conversations(), ids=lambda each: each.path.stem)
def test_we_answer_as_the_original_does(conversation: Conversation) -> None:
    async def scenario() -> list[str]:
        wrong = []
        async with serving() as speaker:
            for number, request in enumerate(conversation.requests, 1):
                given = await conversation.say(speaker, request)
                if given != request["gives"] and "differs" not in request:
                    wrong.append(f"{number}. {request['ask']}\n  theirs: {request['gives']}\n  ours:   {given}")
        return wrong

    wrong = asyncio.run(scenario())
    assert not wrong, "\n".join(wrong)
