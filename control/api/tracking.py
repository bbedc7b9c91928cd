"""managedFields: who owns which fields of an object, from its creation through everything that changes it.

Entries stay as the object holds them, and what an update does not touch is not taken apart.  The rules are Kubernetes':
who changes a field owns it, alone; who removes it leaves it to nobody; times change only with what is owned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias

from control.api import comparing, status
from control.api.comparing import KeysMissingError
from control.api.fieldtrees import FieldSetError, Path, Tree, check, difference, union
from control.api.meta import Object
from control.api.validation.faults import Faults

UNNAMED = "unknown"
ANCIENT = "ancient-changes"
MANAGER_BYTES_MAX = 128
UPDATE_MANAGERS_MAX = 10
"""More managers of updates are folded into one a version, so that an object does not grow for ever."""

INVALID_AFTER_ADMISSION = (
    ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating "
    "admission controller; please fix your requests: "
)

Entry: TypeAlias = "dict[str, Any]"
Filter: TypeAlias = "Callable[[Tree], Tree]"
VersionOf: TypeAlias = "Callable[[Object, str], tuple[Object, str] | None]"
"""Gives an object in another version, with that version's definition; None where it is not served."""


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes, in which way, in which version and through which subresource."""

    name: str
    operation: str
    """Apply or Update."""
    api_version: str
    subresource: str = ""

    @property
    def key(self) -> Manager:
        """What tells managers apart: who applies is the same in every version."""
        return Manager(self.name, self.operation, "", self.subresource) if self.operation == "Apply" else self


@dataclass(frozen=True, slots=True)
class Scope:
    """How objects of a kind are compared when they are changed as a whole, or through one of its subresources."""

    definition: str
    ignored: frozenset[Path] = frozenset()
    """What such a change cannot reach."""
    only: Filter | None = None
    """Leaves of a set what such a change can reach."""

    sparse: bool = False
    """The new object is what an applied configuration made."""

    def changes(self, old: Object, new: Object) -> tuple[Tree, Tree]:
        """Return what was written and what is gone; raises KeysMissingError."""
        if old == new:
            return {}, {}
        written, removed = comparing.of(self.definition, self.ignored, sparse=self.sparse).compare(old, new)
        if self.only is not None:
            return self.only(written or {}), self.only(removed or {})
        return written or {}, removed or {}

    def stated(self, wish: Object) -> Tree:
        """Return the fields that a configuration states; raises KeysMissingError."""
        stated = comparing.of(self.definition, self.ignored).stated(wish) or {}
        return stated if self.only is None else self.only(stated)

    def changes_in(
        self, api_version: str, old: Object, new: Object, version_of: VersionOf | None
    ) -> tuple[Tree, Tree] | None:
        """Return what another version sees of a change, None where that is not served any more."""
        before = version_of(old, api_version) if version_of is not None else None
        after = version_of(new, api_version) if version_of is not None else None
        if before is None or after is None:
            return None
        return replace(self, definition=before[1]).changes(before[0], after[0])


def manager_of(entry: Entry) -> Manager:
    """Return whose entry this is."""
    return Manager(
        entry.get("manager") or "",
        entry.get("operation") or "",
        entry.get("apiVersion") or "",
        entry.get("subresource") or "",
    )


def entries_of(obj: Object | None) -> list[Entry]:
    """Return an object's entries."""
    return ((obj or {}).get("metadata") or {}).get("managedFields") or []


def is_reset(entries: Any) -> bool:
    """Tell whether a client says that nobody shall own anything: an empty list, or one empty entry."""
    return entries in ([], [{}])


def decoded(entries: Any) -> list[Entry]:
    """Return entries that can be read, each manager once; raises FieldSetError."""
    found: dict[Manager, Entry] = {}
    for index, entry in enumerate(entries):
        if type(entry) is not dict or entry.get("operation") not in ("Apply", "Update"):
            raise FieldSetError("operation must be `Apply` or `Update`")
        if not entry.get("apiVersion"):
            raise FieldSetError("apiVersion must not be empty")
        if not entry.get("fieldsType"):
            raise FieldSetError(f"missing fieldsType in managed fields entry {index}")
        if entry["fieldsType"] != "FieldsV1":
            raise FieldSetError(f'invalid fieldsType "{entry["fieldsType"]}" in managed fields entry {index}')
        if not (fields := entry.get("fieldsV1", {})) and fields == {}:
            continue
        checked = check(fields)
        found[manager_of(entry).key] = entry if checked is fields else {**entry, "fieldsV1": checked}
    return list(found.values())


def readable(stored: list[Entry]) -> list[Entry]:
    """Return the entries of a stored object, none where somebody wrote into the store what is none."""
    for entry in stored:
        if entry.get("operation") not in ("Apply", "Update") or not entry.get("apiVersion"):
            return []
        if type(entry.get("fieldsV1")) is not dict:
            return []
    return stored


def _chosen(old: Object, sent: Any, *, only_old: bool) -> list[Entry]:
    """Return the entries that a change starts from: those that it brought, where they can be read, or the old ones."""
    stored = readable(entries_of(old))
    if only_old or sent is None or sent == stored:
        return stored
    if is_reset(sent):
        return []
    try:
        return decoded(sent) or stored
    except FieldSetError:
        return stored


def set_entries(obj: Object, entries: Iterable[Entry]) -> None:
    """Give an object its entries, in Kubernetes' order; none where there are none."""
    metadata = obj["metadata"]
    metadata.pop("managedFields", None)
    if ordered := sorted(entries, key=_order):
        metadata["managedFields"] = ordered


def _order(entry: Entry) -> tuple[str, str, str, str, str]:
    return (
        entry["operation"],
        entry.get("time") or "",
        entry.get("manager") or "",
        entry["apiVersion"],
        entry.get("subresource") or "",
    )


def entry_for(manager: Manager, fields: Tree, time: str) -> Entry:
    """Return the entry of a manager that owns these fields since then; without a time where none is known."""
    entry: Entry = {"manager": manager.name, "operation": manager.operation, "apiVersion": manager.api_version}
    if time:
        entry["time"] = time
    entry["fieldsType"] = "FieldsV1"
    entry["fieldsV1"] = fields
    if manager.subresource:
        entry["subresource"] = manager.subresource
    return entry


def track_creation(obj: Object, manager: Manager, scope: Scope, now: str) -> None:
    """Give a new object its owners: whoever creates it owns all that it states, defaults included."""
    sent = obj["metadata"].pop("managedFields", None)
    if sent:
        # They own what the object does not hold: all else is the creator's now.
        obj["metadata"]["managedFields"] = sent
        track_update({"metadata": {}}, obj, manager, scope, now, is_new=True)
        return
    try:
        written, _ = scope.changes({}, obj)
    except KeysMissingError:
        return
    if written:
        obj["metadata"]["managedFields"] = [entry_for(manager, written, now)]


def track_update(
    old: Object,
    new: Object,
    manager: Manager,
    scope: Scope,
    now: str,
    *,
    is_new: bool = False,
    version_of: VersionOf | None = None,
) -> Object:
    """Set the managedFields of ``new`` that follow from ``manager`` having changed ``old`` into it, and return it.

    An object that nobody owns stays so until somebody applies to it.
    """
    sent = new["metadata"].pop("managedFields", None)
    entries = _chosen(old, sent, only_old=bool(manager.subresource))
    if not entries and not is_new:
        return new
    try:
        before, after = bare(old), bare(new)
        written, removed = scope.changes(before, after)
        kept = surviving(entries, (written, removed), manager, scope, before, after, version_of)
        if written:
            kept = with_owner(kept, manager, written, now)
        set_entries(new, _capped(kept))
    except KeysMissingError:
        # What cannot be taken apart has no owners.
        new["metadata"].pop("managedFields", None)
    return new


def with_owner(entries: list[Entry], manager: Manager, fields: Tree, now: str) -> list[Entry]:
    """Return entries of which a manager owns these fields too, since now."""
    return joined([*entries, entry_for(manager, fields, now)])


def joined(entries: list[Entry]) -> list[Entry]:
    """Return entries of which the last takes in what its manager had before."""
    last = entries[-1] if entries else None
    if last is None:
        return entries
    mine = manager_of(last).key
    kept = [entry for entry in entries if entry is last or manager_of(entry).key != mine]
    if len(kept) == len(entries):
        return entries
    fields: Tree = last["fieldsV1"]
    for entry in entries[:-1]:
        if manager_of(entry).key == mine:
            fields = union(entry.get("fieldsV1") or {}, fields)
    kept[-1] = {**last, "fieldsV1": fields}
    return kept


def bare(obj: Object) -> Object:
    """Return an object without its entries, which own nothing themselves."""
    metadata = obj.get("metadata") or {}
    if "managedFields" not in metadata:
        return obj
    return {**obj, "metadata": {name: value for name, value in metadata.items() if name != "managedFields"}}


def surviving(
    entries: Iterable[Entry],
    changes: tuple[Tree, Tree],
    manager: Manager,
    scope: Scope,
    old: Object,
    new: Object,
    version_of: VersionOf | None,
) -> list[Entry]:
    """Return what is left of entries after a manager wrote and removed fields, without those that are empty."""
    versions: dict[str, tuple[Tree, Tree] | None] = {manager.api_version: changes}
    kept = []
    for entry in entries:
        version = entry["apiVersion"]
        if version not in versions:
            versions[version] = scope.changes_in(version, old, new, version_of)
        seen = versions[version]
        if seen is None:
            continue
        fields = entry["fieldsV1"]
        left = difference(difference(fields, seen[0]), seen[1])
        if left:
            kept.append(entry if left is fields else {**entry, "fieldsV1": left})
    return kept


def _capped(entries: list[Entry]) -> list[Entry]:
    """Fold the oldest updates of a version into one, until there are no more than may be."""
    count = sum(entry["operation"] == "Update" for entry in entries)
    if count <= UPDATE_MANAGERS_MAX:
        return entries
    oldest = sorted(
        (entry for entry in entries if entry["operation"] == "Update"),
        key=lambda entry: (entry.get("time") or "", entry.get("manager") or "", entry.get("subresource") or ""),
    )
    kept = list(entries)
    first: dict[str, Entry] = {}
    buckets: dict[str, Entry] = {}
    for entry in oldest:
        if count <= UPDATE_MANAGERS_MAX:
            break
        version = entry["apiVersion"]
        if version not in first:
            first[version] = entry
            continue
        bucket = buckets.get(version) or first[version]
        fields = union(bucket["fieldsV1"], entry["fieldsV1"])
        # The later time says since when they are the owners of all of it.
        made = entry_for(Manager(ANCIENT, "Update", version), fields, entry.get("time") or "")
        kept = [each for each in kept if each is not entry and each is not bucket] + [made]
        buckets[version] = made
        count -= 1
    return kept


def keep_readable(obj: Object, before: Any, warnings: list[str]) -> None:
    """Give an object its entries back where admission left some that nobody can read, and warn of it."""
    metadata = obj["metadata"]
    after = metadata.get("managedFields")
    if after is before or not after:
        return
    try:
        decoded(after)
    except FieldSetError as error:
        warnings.append(f"{INVALID_AFTER_ADMISSION}{error}")
        metadata["managedFields"] = before
        if before is None:
            del metadata["managedFields"]


def same_but_times(one: Object, other: Object) -> bool:
    """Tell whether two objects differ in the times of their owners, and in nothing else."""
    first, second = entries_of(one), entries_of(other)
    if len(first) != len(second):
        return False
    # Most changes are told apart here: no time is new, or somebody owns something else.
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not b and a != b]
    if not pairs or any(_timeless(a) != _timeless(b) for a, b in pairs):
        return False
    return bare(one) == bare(other)


def _timeless(entry: Mapping[str, Any]) -> Entry:
    return {name: value for name, value in entry.items() if name != "time"}


@lru_cache(maxsize=1024)
def manager_name(field_manager: str, user_agent: str) -> str:
    """Return the name of who writes: the one that a request gives, else what its program calls itself up to a slash."""
    if field_manager:
        return field_manager
    name = "".join(letter for letter in user_agent.partition("/")[0] if letter.isprintable())
    while len(name.encode()) > MANAGER_BYTES_MAX:
        name = name[: MANAGER_BYTES_MAX if len(name) > MANAGER_BYTES_MAX else -1]
    return name or UNNAMED


def check_field_manager(name: str) -> list[status.Cause]:
    """Return what is wrong with the name of a field manager."""
    if len(name.encode()) > MANAGER_BYTES_MAX:
        text = f"Too long: may not be more than {MANAGER_BYTES_MAX} bytes"
        return [status.Cause("FieldValueTooLong", text, "fieldManager")]
    faults = Faults()
    for index, letter in enumerate(name):
        if not letter.isprintable():
            faults.invalid("fieldManager", name, f"invalid character U+{ord(letter):04X} (at position {index})")
    return faults.causes
