"""What clients were told, against what the store says has happened: pure.

Every value is written by one call alone, and every answer carries a revision. So a history can be checked without a
search: the store's own list of changes, asked for at the end, is the one order in which things must have happened,
and each answer either fits its place in it or is a finding.
"""

from __future__ import annotations

import bisect
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What a client asked for."""

    PUT = "put"
    GET = "get"
    DELETE = "delete"
    SWAP = "swap"
    """Put a value if the key has a certain value now."""


class Outcome(StrEnum):
    """What the client knows afterwards."""

    DONE = "done"
    REFUSED = "refused"
    """It certainly had and will have no effect."""
    UNKNOWN = "unknown"


@dataclass
class Call:
    """One call of one client; times are of one clock."""

    client: int
    kind: Kind
    key: bytes
    called_at: float
    value: bytes | None = None
    """What it writes."""
    expected: bytes | None = None
    """What a swap wants to find; None for no key."""
    outcome: Outcome = Outcome.UNKNOWN
    returned_at: float = float("inf")
    revision: int = 0
    """The revision in the answer's header."""
    seen: bytes | None = None
    """What a get or a swap that did not match found."""
    changed: bool = False
    """Whether the answer says that the call changed the key."""


@dataclass(frozen=True)
class Change:
    """One change as the store tells it in the end."""

    key: bytes
    value: bytes | None
    """None where the key was deleted."""
    revision: int


def findings(calls: list[Call], changes: list[Change]) -> list[str]:
    """Return all that contradicts strict serializability, in words; nothing where all is well."""
    return [
        *_order(changes),
        *_writes(calls, changes),
        *_deletes(calls, changes),
        *_reads(calls, changes),
        *_real_time(calls),
    ]


def _order(changes: list[Change]) -> Iterator[str]:
    for one, next_one in itertools.pairwise(changes):
        if next_one.revision <= one.revision:
            yield f"revision {next_one.revision} of {next_one.key!r} follows revision {one.revision}"
    for value, times in Counter(change.value for change in changes if change.value is not None).items():
        if times > 1:
            yield f"{value!r} was applied {times} times"


def _writes(calls: list[Call], changes: list[Change]) -> Iterator[str]:
    found = {change.value: change for change in changes if change.value is not None}
    known = {call.value: call for call in calls if call.value is not None}
    for change in changes:
        if change.value is not None and change.value not in known:
            yield f"{change.value!r} at revision {change.revision} was written by nobody"
    for value, call in known.items():
        there = found.get(value)
        if call.outcome is Outcome.DONE and call.changed:
            if there is None:
                yield f"lost: {value!r} was acknowledged at revision {call.revision}"
            elif (there.key, there.revision) != (call.key, call.revision):
                yield f"{value!r} was acknowledged at revision {call.revision} and is at {there.revision}"
        elif call.outcome is not Outcome.UNKNOWN and there is not None:
            yield f"{value!r} was refused ({call.kind}) and is at revision {there.revision}"


def _deletes(calls: list[Call], changes: list[Change]) -> Iterator[str]:
    done = {(change.key, change.revision) for change in changes if change.value is None}
    acknowledged = set()
    unknown: Counter[bytes] = Counter()
    for call in calls:
        if call.kind is Kind.DELETE and call.outcome is Outcome.DONE and call.changed:
            acknowledged.add((call.key, call.revision))
        elif call.kind is Kind.DELETE and call.outcome is Outcome.UNKNOWN:
            unknown[call.key] += 1
    for key, revision in acknowledged - done:
        yield f"lost: the deletion of {key!r} was acknowledged at revision {revision}"
    for key, times in Counter(key for key, _ in done - acknowledged).items():
        if times > unknown[key]:
            yield f"{key!r} was deleted {times} times by nobody who was told, {unknown[key]} such calls were made"


def _reads(calls: list[Call], changes: list[Change]) -> Iterator[str]:
    lives: dict[bytes, list[Change]] = defaultdict(list)
    for change in changes:
        lives[change.key].append(change)

    def value_at(key: bytes, revision: int) -> bytes | None:
        life = lives[key]
        place = bisect.bisect_right([change.revision for change in life], revision)
        return life[place - 1].value if place else None

    for call in calls:
        if call.outcome is not Outcome.DONE:
            continue
        if call.kind is Kind.SWAP and call.changed:
            before = value_at(call.key, call.revision - 1)
            if before != call.expected:
                yield f"{call.value!r} replaced {before!r} where {call.expected!r} was asked for"
        elif call.kind is Kind.GET or call.kind is Kind.SWAP:
            there = value_at(call.key, call.revision)
            if there != call.seen:
                yield f"{call.key!r} was read as {call.seen!r} at revision {call.revision}, where it was {there!r}"
            if call.kind is Kind.SWAP and there == call.expected:
                yield f"a swap of {call.key!r} was refused at revision {call.revision} though it matched"


def _real_time(calls: list[Call]) -> Iterator[str]:
    """What returned before another call was made must not be newer than that call's answer."""
    done = [call for call in calls if call.outcome is Outcome.DONE]
    returns = sorted(done, key=lambda call: call.returned_at)
    newest = 0
    place = 0
    for call in sorted(done, key=lambda call: call.called_at):
        while place < len(returns) and returns[place].returned_at < call.called_at:
            newest = max(newest, returns[place].revision)
            place += 1
        if call.revision < newest or (call.changed and call.revision == newest):
            yield (
                f"stale: {call.kind} of {call.key!r} by client {call.client} answered at revision {call.revision}, "
                f"after {newest} had been answered to another"
            )
