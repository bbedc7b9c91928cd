"""The service table: method path → handler, the one thing that every front door serves.

Handlers take and give encoded messages, so that a door may hand payloads on without looking into them. A refusal is an
``EtcdError``; anything else that a handler raises is a defect, which the door logs and answers with UNKNOWN.

A hot method may also be served without a task for each call: its direct way is called with the request and returns at
once; the reply comes by a callback. A door need not use it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from store.api.errors import EtcdError


@dataclass(frozen=True)
class Call:
    """What comes with a request besides its body."""

    metadata: Mapping[str, str]
    """Lower-case names; of a repeated one the first value."""
    common_name: str = ""
    """Subject of the client's certificate, empty without one."""


class Stream(Protocol):
    """A stream of encoded messages in both directions."""

    async def read(self) -> bytes | None:
        """The next message of the client, None when it will send no more."""
        ...

    async def write(self, message: bytes) -> None:
        """Send a message; returns when the client can be sent another."""
        ...

    def try_write(self, message: bytes) -> bool:
        """Send a message if the client can be sent one now; return whether it was. A door need not be able to."""
        ...


class Reply(Protocol):
    """Where a direct way leaves its reply, once; a reply that comes after the client has gone is dropped."""

    def send(self, message: bytes) -> None:
        """Answer with a message."""
        ...

    def refuse(self, error: EtcdError) -> None:
        """Answer with a refusal."""
        ...

    def wait(self) -> None:
        """Have the handler answer: the request needs to wait for something, and has had no effect."""
        ...


UnaryHandler = Callable[[bytes, Call], Awaitable[bytes]]
DirectHandler = Callable[[bytes, Call, Reply], None]
StreamHandler = Callable[[Stream, Call], Awaitable[None]]


@dataclass(frozen=True)
class Unary:
    """One request, one response."""

    handler: UnaryHandler
    direct: DirectHandler | None = None
    """The same without a task, where there is such a way."""


@dataclass(frozen=True)
class Streaming:
    """A stream in at least one direction; without client streaming the client sends exactly one message."""

    handler: StreamHandler
    client_streaming: bool = True


ServiceTable = Mapping[str, Unary | Streaming]
"""``/package.Service/Method`` → handler."""
