"""What every front door is, and how one is chosen."""

from __future__ import annotations

from typing import Literal, Protocol

from store.api.table import ServiceTable
from store.frontdoor.abuse import Limits
from store.frontdoor.native import NativeDoor
from store.frontdoor.pages import Pages
from store.frontdoor.tls import ServerTLS

DoorKind = Literal["native", "reference"]


class Door(Protocol):
    """A gRPC server over any number of addresses."""

    def listen(self, host: str, port: int, tls: ServerTLS | None) -> int:
        """Add an address before the start and return its port; raise OSError where it cannot be had."""
        ...

    async def start(self) -> None:
        """Begin to serve."""
        ...

    async def stop(self) -> None:
        """End all calls after a moment's grace."""
        ...


def make_door(kind: DoorKind, table: ServiceTable, request_bytes_max: int, pages: Pages, limits: Limits) -> Door:
    """The door of a kind."""
    if kind == "native":
        return NativeDoor(table, request_bytes_max, pages, limits)
    # grpcio is large; who does not use it need not load it.
    from store.frontdoor.reference import ReferenceDoor

    return ReferenceDoor(table, request_bytes_max, limits)
