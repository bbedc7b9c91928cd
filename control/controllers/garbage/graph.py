"""Who owns whom: a graph of objects by uid, and what is to become of one of them. Pure.

An object may be known only through the references of its dependents (its owner's kind is not watched, or its own
event is still to come); then the shell asks the server about it before anything is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from control.api import meta
from control.api.meta import Object
from control.api.resources import Resource

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(frozen=True)
class Owner:
    """One owner reference."""

    uid: str
    api_version: str
    kind: str
    name: str
    blocks: bool


@dataclass(frozen=True)
class Item:
    """What the graph keeps of an object."""

    resource: Resource
    namespace: str
    name: str
    uid: str
    owners: tuple[Owner, ...]
    finalizers: frozenset[str]
    deleting: bool

    @property
    def waits_for_dependents(self) -> bool:
        """True while a foreground deletion goes on."""
        return self.deleting and FOREGROUND in self.finalizers


def owners_of(obj: Object) -> tuple[Owner, ...]:
    """Return an object's owner references."""
    return tuple(
        Owner(
            uid=str(entry.get("uid")),
            api_version=str(entry.get("apiVersion")),
            kind=str(entry.get("kind")),
            name=str(entry.get("name")),
            blocks=bool(entry.get("blockOwnerDeletion")),
        )
        for entry in meta.owner_references(obj)
    )


def item_of(resource: Resource, obj: Object) -> Item:
    """Return what the graph keeps of an object."""
    return Item(
        resource=resource,
        namespace=meta.namespace(obj),
        name=meta.name(obj),
        uid=meta.uid(obj),
        owners=owners_of(obj),
        finalizers=frozenset(obj.get("metadata", {}).get("finalizers") or ()),
        deleting=meta.is_being_deleted(obj),
    )


class Graph:
    """Items by uid and dependents by owner."""

    def __init__(self) -> None:
        self._items: dict[str, Item] = {}
        self._dependents: dict[str, set[str]] = {}

    def __len__(self) -> int:
        return len(self._items)

    def get(self, uid: str) -> Item | None:
        """Return an item."""
        return self._items.get(uid)

    def dependents(self, uid: str) -> list[Item]:
        """Return the items that name an owner."""
        return [self._items[found] for found in sorted(self._dependents.get(uid, ()))]

    def put(self, item: Item) -> set[str]:
        """Store an item and return the uids that this gives reason to look at."""
        old = self._items.get(item.uid)
        self._items[item.uid] = item
        before = {owner.uid for owner in old.owners} if old is not None else set()
        after = {owner.uid for owner in item.owners}
        for uid in before - after:
            self._drop_dependent(uid, item.uid)
        for uid in after - before:
            self._dependents.setdefault(uid, set()).add(item.uid)
        look: set[str] = set()
        if item.owners and (old is None or old.owners != item.owners):
            look.add(item.uid)
        if item.deleting and item.finalizers & {FOREGROUND, ORPHAN}:
            look.add(item.uid)
        for uid in before | after:
            owner = self._items.get(uid)
            if owner is not None and owner.waits_for_dependents:
                look.add(uid)
                look.add(item.uid)
        return look

    def remove(self, uid: str) -> set[str]:
        """Forget an item and return the uids that this gives reason to look at."""
        item = self._items.pop(uid, None)
        if item is None:
            return set()
        look = set(self._dependents.get(uid, ()))
        for owner in item.owners:
            self._drop_dependent(owner.uid, uid)
            if owner.uid in self._items and self._items[owner.uid].waits_for_dependents:
                look.add(owner.uid)
        return look

    def _drop_dependent(self, owner: str, uid: str) -> None:
        found = self._dependents.get(owner)
        if found is not None:
            found.discard(uid)
            if not found:
                del self._dependents[owner]


class Standing(Enum):
    """How an owner stands."""

    SOLID = "solid"
    ABSENT = "absent"
    WAITING = "waiting"


@dataclass(frozen=True)
class Keep:
    """Leave the object; these owners' references are stale."""

    stale: tuple[str, ...] = ()


@dataclass(frozen=True)
class Discard:
    """Delete the object in this way."""

    policy: Literal["Background", "Foreground", "Orphan"]


def decide(item: Item, standing: Mapping[str, Standing], dependents: Iterable[Item]) -> Keep | Discard:
    """Return what becomes of an object with owners that stand so."""
    if item.deleting or not item.owners:
        return Keep()
    solid = [owner for owner in item.owners if standing[owner.uid] is Standing.SOLID]
    if solid:
        return Keep(tuple(owner.uid for owner in item.owners if standing[owner.uid] is not Standing.SOLID))
    waiting = any(standing[owner.uid] is Standing.WAITING for owner in item.owners)
    if waiting and any(True for _ in dependents):
        # The owner waits for its dependents: so must this one for its own.
        return Discard("Foreground")
    if ORPHAN in item.finalizers:
        return Discard("Orphan")
    if FOREGROUND in item.finalizers:
        return Discard("Foreground")
    return Discard("Background")


def blocking(owner: Item, dependents: Iterable[Item]) -> list[Item]:
    """Return the dependents that hold up a foreground deletion."""
    return [item for item in dependents if any(entry.uid == owner.uid and entry.blocks for entry in item.owners)]
