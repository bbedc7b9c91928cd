"""Ranges: every option that etcd knows."""

from __future__ import annotations

from typing import Any

import pytest

from proto.etcd.kv_pb2 import KeyValue
from proto.etcd.rpc_pb2 import RangeRequest
from store.machine import Machine
from tests.store.mvcc.requests import call, delete_range, put

ASCEND, DESCEND = RangeRequest.ASCEND, RangeRequest.DESCEND


@pytest.fixture(scope="module")
def machine() -> Machine:
    """a=3 (mod 2), b=1 (mod 5, version 2, created 3), c=2 (mod 4), x deleted at 7."""
    machine = Machine()
    for key, value in ((b"a", b"3"), (b"b", b"9"), (b"c", b"2"), (b"b", b"1"), (b"x", b"0")):
        call(machine, put(key, value))
    call(machine, delete_range(b"x"))
    return machine


@pytest.mark.parametrize(
    ("options", "keys", "count", "more"),
    [
        ({"key": b"a"}, "a", 1, False),
        ({"key": b"x"}, "", 0, False),
        ({"key": b"x", "revision": 6}, "x", 1, False),
        ({"key": b"a", "range_end": b"c"}, "ab", 2, False),
        ({"key": b"b", "range_end": b"\0"}, "bc", 2, False),
        ({"key": b"\0", "range_end": b"\0"}, "abc", 3, False),
        ({"key": b"\0", "range_end": b"\0", "revision": 6}, "abcx", 4, False),
        ({"key": b"c", "range_end": b"a"}, "", 0, False),
        ({"key": b"a", "range_end": b"z", "limit": 2}, "ab", 3, True),
        ({"key": b"a", "range_end": b"z", "limit": 3}, "abc", 3, False),
        ({"key": b"a", "range_end": b"z", "limit": 2, "revision": 6}, "ab", 4, True),
        ({"key": b"a", "range_end": b"z", "limit": -1}, "abc", 3, False),
        ({"key": b"a", "range_end": b"z", "count_only": True}, "", 3, False),
        ({"key": b"a", "range_end": b"z", "count_only": True, "revision": 6, "limit": 1}, "", 4, False),
        ({"key": b"a", "range_end": b"z", "sort_order": DESCEND}, "cba", 3, False),
        ({"key": b"a", "range_end": b"z", "sort_order": DESCEND, "limit": 1}, "c", 3, True),
        ({"key": b"a", "range_end": b"z", "sort_order": ASCEND, "sort_target": RangeRequest.MOD}, "acb", 3, False),
        ({"key": b"a", "range_end": b"z", "sort_order": ASCEND, "sort_target": RangeRequest.VALUE}, "bca", 3, False),
        ({"key": b"a", "range_end": b"z", "sort_order": DESCEND, "sort_target": RangeRequest.VERSION}, "bac", 3, False),
        ({"key": b"a", "range_end": b"z", "sort_target": RangeRequest.VALUE}, "bca", 3, False),
        ({"key": b"a", "range_end": b"z", "sort_target": RangeRequest.CREATE}, "abc", 3, False),
        ({"key": b"a", "range_end": b"z", "min_mod_revision": 4}, "bc", 3, False),
        ({"key": b"a", "range_end": b"z", "max_mod_revision": 4}, "ac", 3, False),
        ({"key": b"a", "range_end": b"z", "min_create_revision": 3, "limit": 1}, "b", 3, True),
        ({"key": b"a", "range_end": b"z", "max_create_revision": 2}, "a", 3, False),
    ],
    ids=lambda value: str(value),
)
def test_options(machine: Machine, options: dict[str, Any], keys: str, count: int, more: bool) -> None:
    result = machine.store.range(RangeRequest(**options))
    assert "".join(KeyValue.FromString(record).key.decode() for record in result.records) == keys
    assert (result.count, result.more, result.revision) == (count, more, 7)


def test_keys_only_strips_values_alone(machine: Machine) -> None:
    result = machine.store.range(RangeRequest(key=b"b", keys_only=True))
    assert KeyValue.FromString(result.records[0]) == KeyValue(key=b"b", create_revision=3, mod_revision=5, version=2)
