"""Keep remembered clients with their endpoints while endpoints come and go.

A client stands in the set of a slot. When a slot gets another endpoint, its clients must be forgotten;
when an endpoint moves to another slot (the last one fills a gap), its clients move along:

    slots before   a b c        clients of b are forgotten: b is gone
    slots after    a c          clients of c move from slot 2 to slot 1
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from net.nftables.elements import Found, element
from net.nftables.errors import NftablesError
from net.nftables.operations import AddElements, DeleteElements, Operation, Table
from net.proxy.nftables_schema import affinity_set, slot_map

log = logging.getLogger(__name__)
ATTEMPTS_MAX = 3


class Door(Protocol):
    """What is needed of the kernel."""

    def elements(self, table: Table, set_name: str) -> list[Found]:
        """Return all elements of a set."""
        ...

    def batch(self, operations: Sequence[Operation]) -> int:
        """Do all in one transaction."""
        ...


@dataclass(frozen=True, slots=True)
class Move:
    """Say what happens to the clients of one front."""

    space: str
    key: bytes
    slots: tuple[tuple[int, int | None], ...]
    """Each slot that changed, and the slot that its endpoint has now."""


Look = Callable[[str, bytes], bytes | None]
"""Returns the data that a map has for a key."""


def moves(fronts: Iterable[tuple[str, bytes]], before: Look, after: Look) -> list[Move]:
    """Compare the slots of the fronts that remember clients."""
    found = []
    for space, key in fronts:
        had = list(_slots(before, space, key))
        if not had:
            continue
        have = list(_slots(after, space, key))
        places = {data: slot for slot, data in enumerate(have)}
        changed = [(slot, places.get(data)) for slot, data in enumerate(had) if slot >= len(have) or have[slot] != data]
        if changed:
            found.append(Move(space, key, tuple(changed)))
    return found


def _slots(look: Look, space: str, key: bytes) -> Iterator[bytes]:
    slot = 0
    while (data := look(slot_map(space, slot), key)) is not None:
        yield data
        slot += 1


def carry_out(door: Door, table: Table, wanted: Sequence[Move]) -> None:
    """Move and forget clients; they may come and go meanwhile, so it is tried again."""
    for _ in range(ATTEMPTS_MAX):
        try:
            door.batch(list(_operations(door, table, wanted)))
            return
        except NftablesError as error:
            if error.number not in (errno.ENOENT, errno.EEXIST):
                log.warning("remembered clients are not moved table=%s error=%s", table, error)
                return
    log.info("remembered clients change too fast to be moved table=%s", table)


def _operations(door: Door, table: Table, wanted: Sequence[Move]) -> Iterable[Operation]:
    dumped: dict[str, list[Found]] = {}
    arriving: list[Operation] = []
    for move in wanted:
        for slot, to in move.slots:
            name = affinity_set(move.space, slot)
            if name not in dumped:
                dumped[name] = door.elements(table, name)
            clients = [found for found in dumped[name] if found.key.endswith(move.key)]
            if not clients:
                continue
            yield DeleteElements(table, name, [element(found.key) for found in clients])
            if to is not None:
                moved = [
                    element(found.key, timeout_ms=found.timeout_ms, expires_ms=found.expires_ms) for found in clients
                ]
                arriving.append(AddElements(table, affinity_set(move.space, to), moved))
    yield from arriving
