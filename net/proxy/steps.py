"""Turn a difference of elements into transactions: one, unless a table has to be filled that is nearly empty.

The kernel's hash tables grow in the background. Ten thousand elements in one transaction find a small
table, and each walks a long chain: fifty maps of 5,000 take 4 s of the kernel's time. In steps that at most
double a table they take 0.7 s. So a large difference goes in steps, in an order in which no packet is led to a
slot that is empty: slots first, then what leads to them. What replaces or deletes comes last, and at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from net.nftables.elements import element, encode
from net.nftables.operations import AddElements, DeleteElements, Operation, Table
from net.proxy import nftables_schema as schema
from net.proxy.claims import Difference, Elements

FIRST_STEP = 256
"""So many elements are added to an empty set at once."""
_LEADING = frozenset({*schema.LEADING, schema.CLUSTER_IPS, schema.NO_ENDPOINT_SERVICES, schema.NO_ENDPOINT_NODEPORTS})
Pairs = list[tuple[bytes, bytes]]


def transactions(table: Table, todo: Difference, standing: Elements) -> Iterator[tuple[list[Operation], int]]:
    """Yield batches, each with the number of its elements."""
    if all(len(pairs) <= _step(len(standing.get(name, ()))) for name, pairs in todo.added.items()):
        if todo:
            yield _operations(table, todo), todo.size
        return
    last = Difference(deleted=todo.deleted)
    fresh: list[dict[str, Pairs]] = [{}, {}]
    for name, pairs in todo.added.items():
        replaced = set(todo.deleted.get(name, ()))
        group = fresh[name in _LEADING]
        group[name] = [pair for pair in pairs if pair[0] not in replaced] if replaced else pairs
        if replaced:
            last.added[name] = [pair for pair in pairs if pair[0] in replaced]
    for group in fresh:
        present = {name: len(standing.get(name, ())) for name in group}
        done = dict.fromkeys(group, 0)
        while any(done[name] < len(pairs) for name, pairs in group.items()):
            part = Difference()
            for name, pairs in group.items():
                taken = pairs[done[name] : done[name] + _step(present[name])]
                if taken:
                    part.added[name] = taken
                    done[name] += len(taken)
                    present[name] += len(taken)
            yield _operations(table, part), part.size
    if last:
        yield _operations(table, last), last.size


def _step(present: int) -> int:
    return max(FIRST_STEP, present)


def _operations(table: Table, todo: Difference) -> list[Operation]:
    found: list[Operation] = [
        DeleteElements(table, name, [_encoded(name, key) for key in keys]) for name, keys in todo.deleted.items()
    ]
    for name, pairs in todo.added.items():
        if pairs:
            encoded = [_encoded(name, *pair) for pair in pairs] if name == schema.FIREWALL_SOURCES else encode(pairs)
            found.append(AddElements(table, name, encoded))
    return found


def _encoded(name: str, key: bytes, data: bytes = b"") -> bytes:
    if name == schema.FIREWALL_SOURCES:
        half = len(key) // 2
        return element(key[:half], data, key_end=key[half:])
    return element(key, data)
