"""Keep which Service wants which element, and tell what a change of some Services means: pure.

Several Services may want one element: two of them lead to the same pod, or (a mistake of their
authors') bear the same external address. An element goes with the last that wants it; where they
want different data, the smallest wins, so that the result does not hang on the order of events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from net.proxy.nftables import Entry

Place = tuple[str, bytes]
Elements = dict[str, dict[bytes, bytes]]
"""The elements of each set: data by key."""


@dataclass(slots=True)
class Staged:
    """Hold what would be different if a change were adopted."""

    changes: Mapping[str, tuple[Entry, ...]]
    wanted: dict[str, dict[bytes, bytes | None]] = field(default_factory=dict)
    """The data of each element that is touched; None where it goes."""
    contested: dict[Place, list[bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class Claims:
    """Own the wishes of all Services."""

    wanted: Elements = field(default_factory=dict)
    """What should stand."""
    entries: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    """What each Service wants."""
    _contested: dict[Place, list[bytes]] = field(default_factory=dict)
    """The data of all claims where there are several."""

    def stage(self, changes: Mapping[str, tuple[Entry, ...]]) -> Staged:
        """Tell what it means that these Services want this now; nothing is changed yet."""
        staged = Staged(changes)
        for service, entries in changes.items():
            before = self.entries.get(service)
            if before is None:
                self._add_all(staged, entries)
                continue
            old = {(name, key): data for name, key, data in before}
            for name, key, data in entries:
                known = old.pop((name, key), None)
                if known != data:
                    if known is not None:
                        self._remove(staged, name, key, known)
                    self._add(staged, name, key, data)
            for (name, key), data in old.items():
                self._remove(staged, name, key, data)
        return staged

    def _add_all(self, staged: Staged, entries: tuple[Entry, ...]) -> None:
        for name, key, data in entries:
            touched = staged.wanted.get(name)
            held = self.wanted.get(name)
            if touched is not None and key not in touched and not (held and key in held):
                touched[key] = data  # nearly always: nobody else wants it
            else:
                self._add(staged, name, key, data)

    def _add(self, staged: Staged, name: str, key: bytes, data: bytes) -> None:
        touched = staged.wanted.setdefault(name, {})
        current = touched[key] if key in touched else self.wanted.get(name, {}).get(key)
        known = staged.contested.get((name, key)) if staged.contested else None
        if known is None and self._contested:
            known = self._contested.get((name, key))
        if current is None and known is None:
            touched[key] = data
            return
        before = known if known is not None else [current] if current is not None else []
        claims = [*before, data]
        staged.contested[(name, key)] = claims
        touched[key] = min(claims)

    def _remove(self, staged: Staged, name: str, key: bytes, data: bytes) -> None:
        known = staged.contested.get((name, key))
        claims = list(known if known is not None else self._contested.get((name, key), ()))
        if data in claims:
            claims.remove(data)
        if known is not None or (name, key) in self._contested:
            staged.contested[(name, key)] = claims
        staged.wanted.setdefault(name, {})[key] = min(claims) if claims else None

    def adopt(self, staged: Staged) -> None:
        """Take a change over."""
        for name, touched in staged.wanted.items():
            held = self.wanted.setdefault(name, {})
            for key, data in touched.items():
                if data is None:
                    held.pop(key, None)
                else:
                    held[key] = data
        for place, claims in staged.contested.items():
            if len(claims) > 1:
                self._contested[place] = claims
            else:
                self._contested.pop(place, None)
        for service, entries in staged.changes.items():
            if entries:
                self.entries[service] = entries
            else:
                self.entries.pop(service, None)


@dataclass(slots=True)
class Difference:
    """Hold the elements to delete and to add, by set; what gets other data is in both."""

    deleted: dict[str, list[bytes]] = field(default_factory=dict)
    added: dict[str, list[tuple[bytes, bytes]]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.deleted or self.added)

    @property
    def size(self) -> int:
        """How many elements it is about."""
        return sum(map(len, self.deleted.values())) + sum(map(len, self.added.values()))

    def note_all(self, name: str, have: Mapping[bytes, bytes], want: Mapping[bytes, bytes | None]) -> None:
        """Take the touched elements of a set into account."""
        if have:
            for key, data in want.items():
                if have.get(key) != data:
                    self.note(name, key, have.get(key), data)
        else:
            fresh = [(key, data) for key, data in want.items() if data is not None]
            if fresh:
                self.added.setdefault(name, []).extend(fresh)

    def note(self, name: str, key: bytes, have: bytes | None, want: bytes | None) -> None:
        """Take one element into account."""
        if have == want:
            return
        if have is not None:
            self.deleted.setdefault(name, []).append(key)
        if want is not None:
            self.added.setdefault(name, []).append((key, want))


def difference(staged: Staged, standing: Elements) -> Difference:
    """Return what brings the touched elements to what is wanted."""
    found = Difference()
    for name, touched in staged.wanted.items():
        found.note_all(name, standing.get(name, {}), touched)
    return found


def whole_difference(staged: Staged, wanted: Elements, standing: Elements) -> Difference:
    """Return what brings all that stands to all that is wanted, with the staged change taken into account."""
    found = Difference()
    for name in {*standing, *wanted, *staged.wanted}:
        have, want, touched = standing.get(name, {}), wanted.get(name, {}), staged.wanted.get(name, {})
        found.note_all(name, have, touched)
        if have is want or have == want:
            continue
        for key, data in want.items():
            if key not in touched:
                found.note(name, key, have.get(key), data)
        for key in have:
            if key not in touched and key not in want:
                found.note(name, key, b"", None)
    return found
