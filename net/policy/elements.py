"""The elements that every set and map must contain, with their owners, and which of them changed: pure."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

Key = bytes
"""An element as the kernel has it: fields in network order, each padded to four bytes."""
Place = tuple[str, Key]
"""A set and an element of it."""


@lru_cache(maxsize=65536)
def packed(address: str) -> Key:
    """Return an address as bytes."""
    return ipaddress.ip_address(address).packed


def version_of(address: str) -> int:
    """Return 4 or 6."""
    return 6 if ":" in address else 4


def port_key(address: str, number: int) -> Key:
    """Return the element of an address with a port."""
    return packed(address) + struct.pack(">HH", number, 0)


@dataclass(slots=True)
class Elements:
    """Hold what is wanted; an element stays as long as one of its owners wants it."""

    wanted: dict[str, dict[Key, str]] = field(default_factory=dict)
    """The chain that each key of a map leads to; empty for keys of sets."""
    _owners: dict[Place, set[str]] = field(default_factory=dict)
    _dirty: set[Place] = field(default_factory=set)

    def declare(self, name: str) -> None:
        """Begin a set."""
        self.wanted.setdefault(name, {})

    def drop(self, name: str) -> list[tuple[Place, set[str]]]:
        """End a set with all that is in it; return that, with its owners."""
        held = [((name, key), self._owners.pop((name, key), set())) for key in self.wanted.pop(name, {})]
        # Should the set come back before anybody looked, what it held is compared all the same.
        self._dirty.update(place for place, _ in held)
        return held

    def put(self, name: str, key: Key, owner: str, value: str = "") -> None:
        """Want an element."""
        held = self.wanted[name]
        self._owners.setdefault((name, key), set()).add(owner)
        if held.get(key) != value:
            held[key] = value
            self._dirty.add((name, key))

    def remove(self, name: str, key: Key, owner: str) -> None:
        """Want an element no more."""
        owners = self._owners.get((name, key))
        if owners is None:
            return
        owners.discard(owner)
        if not owners:
            del self._owners[name, key]
            del self.wanted[name][key]
            self._dirty.add((name, key))

    def take_dirty(self) -> set[Place]:
        """Return the places that changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty

    def give_back(self, dirty: Iterable[Place]) -> None:
        """Note places that could not be written."""
        self._dirty.update(dirty)

    def places(self) -> set[Place]:
        """Return every place that is wanted."""
        return {(name, key) for name, held in self.wanted.items() for key in held}
