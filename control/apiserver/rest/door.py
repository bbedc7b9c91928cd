"""What all HTTP connections of a server share: the application, the clock's text, and who is still there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, Protocol

from control.apiserver.request import ASGIScope, Receive, Send
from control.apiserver.rest.recall import Head, Target

log = logging.getLogger(__name__)

SWEEP_S = 1.0
CLOSE_GRACE_S = 1.0
"""How long the last bytes may take to leave."""
Application = Callable[[ASGIScope, Receive, Send], Awaitable[None]]


class Visitor(Protocol):
    """One connection as the door sees it."""

    deadline: float
    transport: asyncio.Transport

    def end(self) -> None:
        """Close unless an answer is under way."""
        ...


class Errand(Protocol):
    """One request as its connection sees it."""

    def lose(self) -> None:
        """Note that the client is gone."""
        ...


class Task(Protocol):
    """One request as the door sees it."""

    async def run(self) -> None:
        """Answer it."""
        ...


class Host(Protocol):
    """One connection as those see it who answer without a task."""

    door: Door

    @property
    def certificate(self) -> bytes | None:
        """The client's certificate in DER."""
        ...

    @property
    def remote_address(self) -> str:
        """Where the connection comes from."""
        ...

    def hold(self, errand: Errand) -> None:
        """Let later requests wait until ``answered``."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes, if anybody is there to take them."""
        ...

    def answered(self, keep_alive: bool) -> None:
        """Go on after an answer."""
        ...

    def begin_slowly(self, head: Head, target: Target, body: bytes = b"") -> None:
        """Let the application answer after all."""
        ...


class Prompt(Protocol):
    """Answers requests without a task where that can be."""

    in_flight: int

    def take(self, host: Host, head: Head, target: Target) -> bool:
        """Answer a request without a body, now or soon; tell whether that will be done."""
        ...


class Door:
    """Keeps connections and the tasks that answer."""

    def __init__(
        self, app: Application, head_timeout_s: float, keep_alive_s: float, prompt: Prompt | None = None
    ) -> None:
        self.app = app
        self.prompt = prompt
        self.loop = asyncio.get_running_loop()
        self.head_timeout_s = head_timeout_s
        self.keep_alive_s = keep_alive_s
        self.connections: set[Visitor] = set()
        self.ending = False
        self.date = b""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._empty = asyncio.Event()
        self._note_date()

    def run(self, request: Task) -> None:
        """Answer a request in a task of its own."""
        task = self.loop.create_task(request.run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def leave(self, connection: Visitor) -> None:
        """Forget a connection that is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def _note_date(self) -> None:
        self.date = f"date: {formatdate(usegmt=True)}\r\n".encode()

    async def watch_over(self) -> None:
        """Keep the date, and close connections whose client does not go on, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._note_date()
            now = self.loop.time()
            for connection in [each for each in self.connections if 0.0 < each.deadline < now]:
                connection.transport.close()

    async def end(self, streams_end_s: float, busy: Callable[[], bool]) -> None:
        """Close what is idle at once, the rest as it is answered, and streams that go on without end."""
        self.ending = True
        for connection in list(self.connections):
            connection.end()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=streams_end_s)
        while (self._tasks and busy()) or (self.prompt is not None and self.prompt.in_flight):
            await (asyncio.wait(self._tasks, timeout=0.1) if self._tasks else asyncio.sleep(0.02))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for connection in list(self.connections):
            connection.transport.close()
        self._empty.clear()
        if self.connections:
            try:
                async with asyncio.timeout(CLOSE_GRACE_S):
                    await self._empty.wait()
            except TimeoutError:
                log.debug("connections are cut off count=%s", len(self.connections))
        for connection in list(self.connections):
            connection.transport.abort()
