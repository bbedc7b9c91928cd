"""Connections to other servers that wait for the next request: few for each server, and not for long."""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from control.apiserver.streams.target import Address
from control.apiserver.streams.upgrade import Connection

SERVER_MAX = 16
ALL_MAX = 128
IDLE_S = 30.0
UNREPEATABLE_IDLE_S = 2.0
"""A request that must not be sent twice takes a connection that was used a moment ago, or a new one."""
Server = tuple[Address, ssl.SSLContext | None, str | None]


@dataclass(frozen=True, slots=True)
class _Idle:
    server: Server
    connection: Connection
    since: float


class KeepAlive:
    """Idle connections, those that were given last taken first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._idle: OrderedDict[int, _Idle] = OrderedDict()
        """The oldest first."""
        self._number = 0

    def take(self, server: Server, *, repeatable: bool) -> Connection | None:
        """Return a connection that is still open, None where there is none."""
        self._drop_old()
        limit = IDLE_S if repeatable else UNREPEATABLE_IDLE_S
        now = self._clock()
        for number in [each for each in reversed(self._idle) if self._idle[each].server == server]:
            found = self._idle[number]
            if now - found.since > limit:
                return None
            del self._idle[number]
            if _is_open(found.connection):
                return found.connection
            found.connection.writer.close()
        return None

    def give(self, server: Server, connection: Connection) -> None:
        """Keep a connection for the next request, or close it."""
        self._drop_old()
        held = sum(each.server == server for each in self._idle.values())
        if held >= SERVER_MAX or len(self._idle) >= ALL_MAX or not _is_open(connection):
            connection.writer.close()
            return
        self._number += 1
        self._idle[self._number] = _Idle(server, connection, self._clock())

    def _drop_old(self) -> None:
        now = self._clock()
        while self._idle:
            number, oldest = next(iter(self._idle.items()))
            if now - oldest.since <= IDLE_S:
                return
            del self._idle[number]
            oldest.connection.writer.close()

    def close(self) -> None:
        """Close all."""
        for each in self._idle.values():
            each.connection.writer.close()
        self._idle.clear()


def _is_open(connection: Connection) -> bool:
    return not (connection.reader.at_eof() or connection.reader.exception() or connection.writer.is_closing())
