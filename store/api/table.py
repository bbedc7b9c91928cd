"""The service table: method path → handler, the one thing that every front door serves.

Handlers take and give encoded messages, so that a door may hand payloads on without looking into them. A refusal is an
``EtcdError``; anything else that a handler raises is a defect, which the door logs and answers with UNKNOWN.
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


UnaryHandler = Callable[[bytes, Call], Awaitable[bytes]]
Reply = Callable[[bytes | EtcdError], None]
"""Takes the answer of one call, once."""
DirectHandler = Callable[[bytes, Call, Reply], bool]
"""A way without a task of its own: answers by ``Reply``, now or later. Where it returns False it has done nothing, and
the handler is to be called."""
StreamHandler = Callable[[Stream, Call], Awaitable[None]]


@dataclass(frozen=True)
class Unary:
    """One request, one response."""

    handler: UnaryHandler
    direct: DirectHandler | None = None
    """What a door tries first; it may leave it out."""


@dataclass(frozen=True)
class Streaming:
    """A stream in at least one direction; without client streaming the client sends exactly one message."""

    handler: StreamHandler
    client_streaming: bool = True


ServiceTable = Mapping[str, Unary | Streaming]
"""``/package.Service/Method`` → handler."""
