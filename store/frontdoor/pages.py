"""Requests that are no calls: what probes and monitoring ask on the port of the calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from store.frontdoor.calls import StartTask
from store.frontdoor.headers import Head, literal, status
from store.frontdoor.outgoing import Outgoing, Stream

log = logging.getLogger(__name__)

Answer = Callable[[str], Awaitable[tuple[int, str, bytes]]]
"""Path → status, content type and body."""


class Pages(Protocol):
    """A server of pages."""

    async def answer(self, path: str) -> tuple[int, str, bytes]:
        """The status, content type and body for a path and its query."""
        ...

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection that speaks HTTP/1.1."""
        ...


class Page(Stream):
    """One request for a page."""

    __slots__ = ("_answer", "_start_task", "_task")

    def __init__(self, outgoing: Outgoing, stream_id: int, head: Head, answer: Answer, start_task: StartTask) -> None:
        super().__init__(outgoing, stream_id, head)
        self._answer = answer
        self._start_task = start_task
        self._task: asyncio.Task[None] | None = None

    def opened(self, has_ended: bool) -> None:
        """Have the page made; whoever wanted a call and did not say so is told."""
        if self.head.method in (b"GET", b"HEAD"):
            self._task = self._start_task(self._serve())
        else:
            code = 415 if self.head.method == b"POST" else 405
            self.outgoing.begin(self, status(code), ends_stream=True)

    def closed(self, code: int | None) -> None:
        """Stop to make it."""
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        path = self.head.path.decode("latin-1")
        try:
            code, content_type, body = await self._answer(path)
        except Exception:
            log.exception("page failed path=%s", path)
            code, content_type, body = 500, "text/plain; charset=utf-8", b"internal error\n"
        length = literal(b"content-length", b"%d" % len(body))
        self._task = None
        self.outgoing.begin(self, status(code) + literal(b"content-type", content_type.encode()) + length)
        if self.head.method == b"GET":
            self.outgoing.send(self, body)
        self.outgoing.end(self, b"")
