"""Another telling of patches: an object as a flat map from paths to values, where changes are sums and differences.

It shares no code with ``control.api``: lists with keys are told apart by a table of the few that stand in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str, ...]
Flat = dict[Path, Any]
KEYED: dict[Path, tuple[str, ...]] = {
    ("spec", "template", "spec", "containers"): ("name",),
    ("spec", "template", "spec", "containers", "*", "env"): ("name",),
    ("spec", "template", "spec", "containers", "*", "ports"): ("containerPort", "protocol"),
}
SETS = {("metadata", "finalizers")}
WHOLE = {
    ("spec", "template", "spec", "nodeSelector"),
    ("spec", "template", "spec", "tolerations"),
    ("spec", "template", "spec", "containers", "*", "args"),
    ("spec", "selector"),
}
"""Maps, structures and lists that have one owner."""
CONTAINERS = {
    ("metadata", "labels"),
    ("metadata", "finalizers"),
    ("spec", "template", "metadata", "labels"),
    ("spec", "template", "spec", "containers", "*", "env"),
    ("spec", "template", "spec", "containers", "*", "ports"),
}
"""Maps and lists that belong to whoever made them by an update, beside what is in them."""
NEVER_ABSENT: set[Path] = {("spec", "selector")}
"""Pointers that are null where they are left out: taking them away is a change."""
FILLED: dict[Path, str] = {("spec", "template", "spec", "containers", "*"): "resources"}
"""What comes with an element of a list though nobody says so: structures that are no pointers."""
ELEMENT = "element"
"""Stands as value where a list has an element with this key."""
DEFAULT_PROTOCOL = "TCP"


def _kind(path: Path) -> Path:
    return tuple("*" if part.startswith("[") else part for part in path)


def key_of(item: dict[str, Any], keys: tuple[str, ...]) -> str:
    held = [str(item.get(key, DEFAULT_PROTOCOL if key == "protocol" else None)) for key in keys]
    return "[" + ",".join(held) + "]"


def flatten(value: Any, path: Path = ()) -> Flat:
    """Return what an object states, by path."""
    kind = _kind(path)
    if kind in WHOLE or not isinstance(value, dict | list):
        return {path: value}
    flat: Flat = {}
    if isinstance(value, dict):
        for name, item in value.items():
            flat.update(flatten(item, (*path, name)))
    elif kind in SETS:
        flat.update({(*path, f"[{item}]"): item for item in value})
    else:
        for item in value:
            here = (*path, key_of(item, KEYED[kind]))
            flat[here] = ELEMENT
            flat.update(flatten(item, here))
    return flat


def implied(flat: Flat) -> set[Path]:
    """Return what is there beside what an object states, for whoever brings it by an update."""
    found = {path[:size] for path in flat for size in range(1, len(path)) if _kind(path[:size]) in CONTAINERS}
    for path, value in flat.items():
        if value == ELEMENT and (name := FILLED.get(_kind(path))):
            found.add((*path, name))
    return found


@dataclass
class ConflictError(Exception):
    """Somebody else owns what an apply would change."""

    found: set[tuple[str, Path]]


@dataclass
class Model:
    """The object and its owners."""

    live: Flat = field(default_factory=dict)
    owners: dict[str, set[Path]] = field(default_factory=dict)

    def apply(self, manager: str, wish: Flat, *, force: bool) -> None:
        """State all of a manager's wishes; what it no longer wishes and nobody else does goes."""
        others = {name: owned for name, owned in self.owners.items() if name != manager}
        changed = {path for path, value in wish.items() if path not in self.live or self.live[path] != value}
        conflicts = {(name, path) for name, owned in others.items() for path in owned & changed}
        if conflicts and not force:
            raise ConflictError(conflicts)
        for name, path in conflicts:
            self.owners[name].discard(path)
        self.live.update(wish)
        before = self.owners.get(manager, set())
        for path in before - set(wish).union(*others.values()):
            self._remove(path)
        self.owners[manager] = set(wish)

    def create(self, manager: str, new: Flat) -> None:
        """Make the object: all of it belongs to its creator."""
        self.update(manager, new)

    def update(self, manager: str, new: Flat) -> None:
        """Replace the object: its changes belong to who made them."""
        written = {path for path, value in new.items() if path not in self.live or self.live[path] != value}
        written |= implied(new) - implied(self.live)
        gone = (set(self.live) - set(new)) | (implied(self.live) - implied(new))
        written |= gone & NEVER_ABSENT
        gone -= NEVER_ABSENT
        for name, owned in self.owners.items():
            owned -= gone
            if name != manager:
                owned -= written
        if written:
            self.owners.setdefault(manager, set()).update(written)
        self.live = dict(new)

    def _remove(self, path: Path) -> None:
        gone = {each for each in self.live if each[: len(path)] == path}
        for each in gone:
            del self.live[each]
        for owned in self.owners.values():
            owned -= gone


def three_way(last: Flat, wanted: Flat, live: Flat) -> Flat:
    """Return what `kubectl apply` makes of an object that others changed meanwhile."""
    gone = _heads(last) - _heads(wanted)
    return {path: value for path, value in {**live, **wanted}.items() if not _heads({path: value}) & gone}


def _heads(flat: Flat) -> set[Path]:
    """Return all paths and what they lead through: who wishes for nothing in a map any more drops the map."""
    return {path[:size] for path in flat for size in range(1, len(path) + 1)}


def owned_paths(fields: dict[str, Any], path: Path = ()) -> set[Path]:
    """Read FieldsV1 into the model's paths."""
    found: set[Path] = set()
    for element, inner in fields.items():
        if element == ".":
            found.add(path)
            continue
        here = (*path, _part(element))
        if not inner:
            found.add(here)
        else:
            found |= owned_paths(inner, here)
    return found


def _part(element: str) -> str:
    if element.startswith("f:"):
        return element[2:]
    value = json.loads(element[2:])
    if isinstance(value, dict):
        order = ("name",) if "name" in value else ("containerPort", "protocol")
        return "[" + ",".join(str(value[key]) for key in order) + "]"
    return f"[{value}]"
