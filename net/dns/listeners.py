"""Serve questions on sockets that were given: datagrams in bursts, streams one question after another."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, Protocol

from net.dns import wire

log = logging.getLogger(__name__)

BURST_MAX = 64
"""How many datagrams are answered before others get their turn."""
STREAMS_MAX = 500
STREAM_IDLE_S = 10.0
RECEIVE_BYTES = 4096
"""A question is shorter than that."""


class Answerer(Protocol):
    """Answers messages."""

    def at_once(self, data: bytes, by_stream: bool, reply: Callable[[bytes], None]) -> None:
        """Answer now, or later; no answer is one too."""
        ...

    async def later(self, data: bytes) -> bytes | None:
        """Answer a message that came by a stream."""
        ...


class Datagrams:
    """Answers what comes to one datagram socket."""

    def __init__(self, listening: socket.socket, answerer: Answerer) -> None:
        self._socket, self._answerer = listening, answerer
        listening.setblocking(False)
        asyncio.get_running_loop().add_reader(listening, self._burst)

    def close(self) -> None:
        """Take no more; whoever else holds the socket goes on."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._burst()
        self._socket.close()

    def _burst(self) -> None:
        for _ in range(BURST_MAX):
            try:
                data, sender = self._socket.recvfrom(RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                log.debug("a datagram was not received error=%s", error)
                return
            self._answerer.at_once(data, False, lambda answer, to=sender: self._send(answer, to))  # type: ignore[misc]

    def _send(self, answer: bytes, to: Any) -> None:
        try:
            self._socket.sendto(answer, to)
        except OSError as error:
            # The asker is gone, or its buffer is full: it will ask again.
            log.debug("an answer was not sent to=%s error=%s", to, error)


class Streams:
    """Answers what comes by connections to one listening socket."""

    def __init__(self, listening: socket.socket, answerer: Answerer, group: asyncio.TaskGroup) -> None:
        self._socket, self._answerer, self._group = listening, answerer, group
        self._open: set[asyncio.StreamWriter] = set()
        listening.setblocking(False)
        asyncio.get_running_loop().add_reader(listening, self._accept)

    def close(self) -> None:
        """Accept no more; connections that stand go on until they are idle."""
        asyncio.get_running_loop().remove_reader(self._socket)
        self._accept()
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(BURST_MAX):
            try:
                connection, _ = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("a connection was not accepted error=%s", error)
                return
            if len(self._open) >= STREAMS_MAX:
                connection.close()
                continue
            connection.setblocking(False)
            self._group.create_task(self._serve(connection))

    async def _serve(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection, limit=wire.MESSAGE_MAX + 2)
        self._open.add(writer)
        try:
            while True:
                async with asyncio.timeout(STREAM_IDLE_S):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    data = await reader.readexactly(size)
                answer = await self._answerer.later(data)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                async with asyncio.timeout(STREAM_IDLE_S):
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            log.debug("a connection ended error=%r", error)
        finally:
            self._open.discard(writer)
            writer.close()
