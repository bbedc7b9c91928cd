"""How many seats a request takes: lists by what they look through, writes by how many watch what they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

from control.apiserver.flow.fairness import ONE_SEAT, Work
from control.apiserver.request import RequestInfo

OBJECTS_PER_SEAT = 100
WATCHES_PER_SEAT = 10
EVENT_S = 0.005
"""What a write costs for each seat of watches, after its answer."""

Query = Mapping[str, tuple[str, ...]]
WRITES = frozenset({"create", "update", "patch", "delete"})
ESTIMATED = WRITES | {"list", "watch"}
"""Verbs that may take more than one seat."""


class Watches:
    """How many watches are open for what."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, str, str, str], int] = {}

    @staticmethod
    def _key(info: RequestInfo) -> tuple[str, str, str, str]:
        return info.group, info.resource, info.namespace, info.name

    def add(self, info: RequestInfo) -> None:
        """Count a watch."""
        key = self._key(info)
        self._counts[key] = self._counts.get(key, 0) + 1

    def remove(self, info: RequestInfo) -> None:
        """Count a watch no more."""
        key = self._key(info)
        left = self._counts[key] - 1
        if left:
            self._counts[key] = left
        else:
            del self._counts[key]

    def interested(self, info: RequestInfo) -> int:
        """Return how many watches a write of this object wakes, as far as its name tells."""
        group, resource, namespace, name = self._key(info)
        count = self._counts.get
        found = count((group, resource, "", ""), 0)
        if namespace:
            found += count((group, resource, namespace, ""), 0)
        if name:
            found += count((group, resource, "", name), 0)
            if namespace:
                found += count((group, resource, namespace, name), 0)
        return found


def _first(query: Query, name: str) -> str:
    return (query.get(name) or ("",))[0]


class Estimator:
    """Estimates requests' work."""

    def __init__(self, count: Callable[[RequestInfo], int], watches: Watches) -> None:
        self._count = count
        self._watches = watches

    def estimate(self, info: RequestInfo, query: Query, seats_max: int) -> Work:
        """Return the work of a request that may take more than one seat."""
        if info.verb in WRITES:
            return self._write(info, seats_max)
        if info.name or (info.verb == "watch" and not _initial_events(query)):
            return ONE_SEAT
        objects = self._objects(info, query)
        return Work(min(max(ceil(objects / OBJECTS_PER_SEAT), 1), seats_max))

    def _objects(self, info: RequestInfo, query: Query) -> int:
        stored = self._count(info)
        if info.verb == "watch" or not _from_store(query):
            return stored
        text = _first(query, "limit")
        limit = min(int(text), stored) if text.isdecimal() and int(text) else stored
        if _first(query, "fieldSelector") or _first(query, "labelSelector"):
            return stored + limit
        return 2 * limit

    def _write(self, info: RequestInfo, seats_max: int) -> Work:
        watches = self._watches.interested(info)
        if watches < WATCHES_PER_SEAT or info.subresource == "token":
            return ONE_SEAT
        wanted = ceil(watches / WATCHES_PER_SEAT)
        seats = min(wanted, seats_max)
        # Fewer seats are kept longer: what the write costs stays the same.
        return Work(1, seats, EVENT_S * wanted / seats)


def _initial_events(query: Query) -> bool:
    asked = _first(query, "sendInitialEvents")
    if asked:
        return asked.lower() in ("true", "1")
    # Without a revision to start from, a watch begins with what is there.
    return _first(query, "resourceVersion") in ("", "0")


def _from_store(query: Query) -> bool:
    """Tell whether a list is of an exact revision, which memory may no longer have."""
    match = _first(query, "resourceVersionMatch")
    if match == "Exact" or _first(query, "continue"):
        return True
    return not match and bool(_first(query, "limit")) and _first(query, "resourceVersion") not in ("", "0")
